//! `podrun oci` for who is not root of the machine: a user, and root of a user namespace, as podman's is.

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, chown, mkfifo};
use podrun_tests::{Bundle, Command, Host, Outcome, Value, eventually, json, note_skip};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const UID: u32 = 1000;
const OTHERS: &str = "1000:100000:65536\n";

/// Somebody without any right, on a host that lets him map 65536 ids besides his own.
struct User<'h> {
    host: &'h Host,
    /// XDG_RUNTIME_DIR.
    runtime: PathBuf,
    podrun: PathBuf,
    delegation: Option<PathBuf>,
}

impl<'h> User<'h> {
    fn new(host: &'h Host) -> Self {
        let own = |name: &str, more: &str| {
            let known = fs::read_to_string(format!("/etc/{name}")).unwrap_or_default();
            let others = known.lines().filter(|line| line.split(':').nth(2) != Some("1000"));
            others.map(|line| format!("{line}\n")).collect::<String>() + more
        };
        host.replace_file("/etc/passwd", &own("passwd", "somebody:x:1000:1000::/:/bin/sh\n"));
        host.replace_file("/etc/group", &own("group", "somebody:x:1000:\n"));
        host.replace_file("/etc/subuid", OTHERS);
        host.replace_file("/etc/subgid", OTHERS);
        let (runtime, podrun) = (host.fresh("runtime"), host.fresh("podrun"));
        fs::create_dir(&runtime).unwrap();
        give(&runtime);
        host.bind(&host.podrun_path(), &podrun);
        Self { host, runtime, podrun, delegation: None }
    }

    /// The same in a cgroup that was delegated to him, as cgroups(7) has it.
    fn with_a_cgroup(host: &'h Host) -> Self {
        let mut user = Self::new(host);
        let top = unified(host);
        let name = format!("podrun-rootless-{}", host.dir().file_name().unwrap().to_string_lossy());
        let dir = top.join(name);
        // What the machine has: memory and pids where v2 has them.
        for controller in fs::read_to_string(host.outside(top.join("cgroup.controllers"))).unwrap().split_whitespace() {
            let _ = fs::write(host.outside(top.join("cgroup.subtree_control")), format!("+{controller}"));
        }
        fs::create_dir(host.outside(&dir)).unwrap();
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            give(&host.outside(dir.join(file)));
        }
        user.delegation = Some(dir);
        user
    }

    /// Any program, as him.
    fn program(&self, words: &[&str]) -> Command<'h> {
        let become_him = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"];
        let all = become_him.iter().chain(words);
        let command = match &self.delegation {
            None => self.host.program("env").args(all),
            Some(dir) => {
                // Once it hands controllers down it takes no process itself.
                let dir = dir.display();
                let enter = format!(
                    "{{ echo $$ > {dir}/podrun-aside/cgroup.procs; }} 2>/dev/null || echo $$ > {dir}/cgroup.procs; exec \"$@\""
                );
                self.host.program("sh").args(["-c", &enter, "sh"]).args(all)
            }
        };
        // An empty one is none: he has the directories that users have.
        command.env("XDG_RUNTIME_DIR", &self.runtime).env("PODRUN_RUN_ROOT", "").env("PODRUN_ROOT", "")
    }

    fn command(&self, line: &str) -> Command<'h> {
        let words: Vec<&str> = [self.podrun.to_str().unwrap(), "oci"].into_iter().chain(line.split(' ')).collect();
        self.program(&words)
    }

    #[track_caller]
    fn oci(&self, line: &str) -> Outcome {
        self.command(line).run()
    }

    fn bundle(&self, change: impl FnOnce(&mut Value)) -> Bundle {
        let bundle = self.host.bundle(|config| {
            podrun_tests::make_rootless(config, UID);
            change(config);
        });
        podrun_tests::give(bundle.rootfs.path(), UID);
        bundle
    }

    fn script(&self, script: &str, change: impl FnOnce(&mut Value)) -> Bundle {
        self.bundle(|config| {
            config["process"]["args"] = json!(["sh", "-c", script]);
            change(config);
        })
    }

    /// Runs a script in a container.
    #[track_caller]
    fn run(&self, script: &str, change: impl FnOnce(&mut Value)) -> Outcome {
        self.oci(&format!("run --bundle {} one", self.script(script, change)))
    }

    /// Makes a container with no stdio of its own.
    #[track_caller]
    fn create(&self, id: &str, bundle: &Bundle) {
        self.command(&format!("create --bundle {bundle} {id}")).without_stdio().run().ok();
    }

    #[track_caller]
    fn start(&self, id: &str, bundle: &Bundle) {
        self.create(id, bundle);
        self.oci(&format!("start {id}")).ok();
    }

    #[track_caller]
    fn state(&self, id: &str) -> Value {
        self.oci(&format!("state {id}")).json()
    }

    #[track_caller]
    fn until(&self, id: &str, status: &str) {
        eventually(&format!("{id} is {status}"), Duration::from_secs(10), || {
            (self.state(id)["status"] == status).then_some(())
        });
    }

    /// A file of his cgroup's directory, or of one below.
    #[track_caller]
    fn cgroup_file(&self, name: &str) -> String {
        self.host.read(self.delegation.as_ref().unwrap().join(name)).trim().to_owned()
    }

    fn controllers(&self) -> String {
        self.cgroup_file("cgroup.controllers")
    }
}

impl Drop for User<'_> {
    /// Whoever was moved aside is gone, and what podrun made is for podrun to remove.
    fn drop(&mut self) {
        let Some(dir) = &self.delegation else { return };
        let dir = self.host.outside(dir);
        let _ = fs::remove_dir(dir.join("podrun-aside"));
        let mut removed = fs::remove_dir(&dir);
        for _ in 0..100 {
            if removed.is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
            removed = fs::remove_dir(&dir);
        }
        let left: Vec<_> = fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        if !std::thread::panicking() {
            panic!(
                "left in a user's cgroup: {removed:?} {:?}",
                left.iter().filter(|path| path.is_dir()).collect::<Vec<_>>()
            );
        }
    }
}

fn give(path: &Path) {
    chown(path, Some(Uid::from_raw(UID)), Some(Gid::from_raw(UID)))
        .unwrap_or_else(|err| panic!("{}: {err}", path.display()));
}

/// Where the fake host has cgroup v2.
fn unified(host: &Host) -> PathBuf {
    let at = |path: &str| host.outside(format!("{path}/cgroup.controllers")).exists();
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].into_iter().find(|path| at(path)).expect("cgroup v2 is mounted").into()
}

fn one_id(inside: u32, outside: u32) -> Value {
    json!([{"containerID": inside, "hostID": outside, "size": 1}])
}

/// His own id is root's there, and 1000 more are by newuidmap.
fn more_ids(config: &mut Value) {
    let mapped =
        json!([{"containerID": 0, "hostID": UID, "size": 1}, {"containerID": 1, "hostID": 100_000, "size": 1000}]);
    config["linux"]["uidMappings"] = mapped.clone();
    config["linux"]["gidMappings"] = mapped;
}

#[test]
fn a_user_makes_enters_and_removes_containers() {
    let host = Host::new();
    let user = User::new(&host);
    let bundle = user.script("trap 'exit 7' TERM; touch /tmp/mine; while :; do sleep 0.02; done", |_| {});
    user.create("one", &bundle);
    let state = user.state("one");
    assert_eq!((&state["status"], &state["owner"]), (&json!("created"), &json!("somebody")));
    assert!(user.runtime.join("podrun/oci/one/state.json").exists(), "not in the directory of the session");
    user.oci("start one").ok();
    user.until("one", "running");
    assert_eq!(user.oci("list -q").text(), "one\n");
    let words = user.oci("exec one cat /proc/self/uid_map").text();
    assert_eq!(words.split_whitespace().collect::<Vec<_>>(), ["0", "1000", "1"]);
    user.oci("exec one id -u").ok().prints("0");
    user.oci("exec one false").fails(1);
    user.oci("exec one nothing-of-this-name").fails(255).says("execute nothing-of-this-name");
    let mine = fs::metadata(bundle.rootfs.path().join("tmp/mine")).unwrap();
    assert_eq!((mine.uid(), mine.gid()), (UID, UID), "root of the container is its maker outside");
    // A parent of a user's cannot see the process of somebody else either: no other state is there.
    host.podrun("oci list -q").ok().says_nothing();
    user.oci("delete one").fails(1).says("cannot delete container that is not stopped");
    user.oci("kill one TERM").ok();
    user.until("one", "stopped");
    user.oci("delete one").ok();
    user.oci("list -q").ok().says_nothing();
    let done = user.command(&format!("run --bundle {} two", user.script("read a; echo got $a; exit 42", |_| {})));
    done.stdin("it\n").run().fails(42).prints("got it");
    host.expect_nothing_left("a whole life");
}

#[test]
fn a_user_without_a_user_namespace_is_told() {
    let host = Host::new();
    let user = User::new(&host);
    let bundle = host.bundle(|_| {});
    user.oci(&format!("run --bundle {bundle} one")).fails(1).says("linux.namespaces: there is none of type user");
    user.oci(&format!("spec --rootless --bundle {}", user.runtime.display())).ok();
    let written = fs::read_to_string(user.runtime.join("config.json")).unwrap();
    let written: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(written["linux"]["uidMappings"], one_id(0, UID));
    user.oci("list -q").ok().says_nothing();
}

// user_namespaces(7); newuidmap(1).
#[test]
fn more_ids_are_mapped_by_newuidmap_whose_refusal_is_shown() {
    let host = Host::new();
    let user = User::new(&host);
    let shown = "cat /proc/self/uid_map /proc/self/gid_map; cat /proc/self/setgroups; id -u; id -g; id -G";
    let text = user.run(shown, |config| {
        more_ids(config);
        config["process"]["user"] = json!({"uid": 7, "gid": 8, "additionalGids": [9]});
    });
    let words: Vec<String> = text.text().split_whitespace().map(str::to_owned).collect();
    assert_eq!(words.join(" "), "0 1000 1 1 100000 1000 0 1000 1 1 100000 1000 allow 7 8 8 9");
    // Root of the container may be none of his own: he is still the one who looks after it.
    let elsewhere = user.script("trap 'exit 3' TERM; while :; do sleep 0.02; done", |config| {
        let mapped = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        config["linux"]["uidMappings"] = mapped.clone();
        config["linux"]["gidMappings"] = mapped;
    });
    user.start("other", &elsewhere);
    user.oci("exec other id -u").ok().prints("0");
    user.oci("kill other KILL").ok();
    user.until("other", "stopped");
    user.oci("delete other").ok();
    // A way that is open to him alone: opened before anybody else is root there.
    let hidden = user.runtime.join("hidden");
    fs::DirBuilder::new().mode(0o700).create(&hidden).unwrap();
    fs::DirBuilder::new().mode(0o755).create(hidden.join("open")).unwrap();
    fs::write(hidden.join("open/file"), "seen").unwrap();
    give(&hidden);
    let shown = user.run("cat /tmp/file", |config| {
        let mapped = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        config["linux"]["uidMappings"] = mapped.clone();
        config["linux"]["gidMappings"] = mapped;
        let file = json!({"destination": "/tmp", "type": "bind", "source": hidden.join("open"), "options": ["rbind"]});
        config["mounts"].as_array_mut().unwrap().push(file);
    });
    shown.ok().prints("seen");
    let not_his = |config: &mut Value| {
        config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 10}]);
    };
    let refused = user.run("true", not_his);
    refused
        .fails(1)
        .says("map linux.uidMappings: map ids by newuidmap: newuidmap: uid range [0-10) -> [0-10) not allowed");
    host.replace_by("/usr/bin/newuidmap", Path::new("/dev/null"));
    user.run("true", more_ids).fails(1).says("newuidmap: it is not installed").says("uidmap");
    host.expect_nothing_left("containers and refusals");
}

// user_namespaces(7): CVE-2014-8989.
#[test]
fn with_one_id_there_are_no_groups_to_set() {
    let host = Host::new();
    let user = User::new(&host);
    user.run("cat /proc/self/setgroups; id -u", |_| {}).ok().prints("deny\n0");
    let groups = user.run("true", |config| config["process"]["user"]["additionalGids"] = json!([5]));
    groups.fails(1).says("set the groups 0 [5]").says("denies setgroups(2)");
}

/// Whether limits can be set in the cgroup: (resources, file, value).
fn a_limit(user: &User<'_>) -> Option<(Value, &'static str, &'static str)> {
    let has = |name: &str| user.controllers().split(' ').any(|one| one == name);
    if has("memory") {
        return Some((json!({"memory": {"limit": 33_554_432}}), "memory.max", "33554432"));
    }
    let pages = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]});
    has("hugetlb").then_some((pages, "hugetlb.2MB.max", "4194304"))
}

fn life_in_a_delegated_cgroup(host: &Host) {
    let user = User::with_a_cgroup(host);
    let bundle = user.script("while :; do sleep 0.02; done", |_| {});
    user.start("one", &bundle);
    let pid = user.state("one")["pid"].clone();
    let place = host.read(format!("/proc/{pid}/cgroup"));
    let place = place.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned();
    let top = unified(host);
    let delegated = user.delegation.as_ref().unwrap().strip_prefix(&top).unwrap().to_owned();
    let below = Path::new(&place).strip_prefix("/").unwrap().strip_prefix(&delegated);
    let below = below.unwrap_or_else(|_| panic!("{place} is not below what was delegated")).to_owned();
    user.oci("pause one").ok();
    user.until("one", "paused");
    assert_eq!(user.cgroup_file(below.join("cgroup.freeze").to_str().unwrap()), "1");
    user.oci("exec one true").fails(255).says("paused");
    user.oci("resume one").ok();
    let members = user.oci("ps -f json one").json();
    assert!(members.as_array().unwrap().contains(&pid), "{members}");
    user.oci("exec one sh -c cat</proc/self/cgroup").ok();
    assert!(user.oci("events --stats one").json()["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
    user.oci("kill --all one KILL").ok();
    user.until("one", "stopped");
    user.oci("delete one").ok();
    if let Some((resources, file, value)) = a_limit(&user) {
        // He stands in that very directory, which has to hand controllers down: he is moved aside, inside of it.
        let limited =
            user.script(&format!("cat /sys/fs/cgroup/{file} /sys/fs/cgroup/*/{file} 2>/dev/null; true"), |config| {
                config["linux"]["resources"] = resources;
            });
        user.oci(&format!("run --bundle {limited} two")).ok().prints(value);
    }
    let scope = user.script("true", |config| config["linux"]["cgroupsPath"] = json!("user.slice:podrun:two"));
    let asked = user.oci(&format!("--systemd-cgroup run --bundle {scope} two"));
    let socket = user.runtime.join("systemd/private");
    asked.fails(1).says(&format!(
        "use --systemd-cgroup: no service manager of this user's runs: there is no {}, where XDG_RUNTIME_DIR says",
        socket.display()
    ));
    if !user.controllers().split(' ').any(|one| one == "memory") {
        let none = user.run("true", |config| config["linux"]["resources"] = json!({"memory": {"limit": 33_554_432}}));
        none.fails(1).says("linux.resources.memory.limit: the memory controller was not delegated to this user");
    }
    host.expect_nothing_left("containers in a delegated cgroup");
}

// cgroups(7), "Cgroups delegation"; cgroup-v2.rst, "Delegation", "No Internal Process Constraint".
#[test]
fn in_a_cgroup_that_was_delegated_there_are_limits_a_freezer_and_statistics() {
    life_in_a_delegated_cgroup(&Host::new());
}

#[test]
fn the_same_where_there_is_cgroup_v2_alone() {
    life_in_a_delegated_cgroup(&Host::on_cgroup2());
}

#[test]
fn memory_and_processes_of_a_user_are_limited_where_he_has_the_controllers() {
    let host = Host::new();
    let user = User::with_a_cgroup(&host);
    if !["memory", "pids"].iter().all(|name| user.controllers().split(' ').any(|one| one == *name)) {
        return note_skip("memory and pids are cgroup v1 controllers here");
    }
    let pids = user.run("for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo forked all", |config| {
        config["linux"]["resources"] = json!({"pids": {"limit": 4}, "memory": {"limit": 33_554_432}});
    });
    assert!(pids.errors().contains("fork") && !pids.text().contains("forked all"), "{} {}", pids.text(), pids.errors());
    let bundle = user.script("while :; do sleep 0.02; done", |_| {});
    user.start("one", &bundle);
    user.oci("update --memory 40m --pids-limit 9 one").ok();
    let dir = user.oci("exec one cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max").text();
    assert_eq!(dir, "41943040\n9\n");
    user.oci("delete --force one").ok();
}

#[test]
fn without_a_cgroup_a_limit_is_told_and_the_pid_namespace_says_who_belongs_to_it() {
    let host = Host::new();
    let user = User::new(&host);
    for (field, limits) in [
        ("memory.limit", json!({"memory": {"limit": 10_000_000}})),
        ("pids.limit", json!({"pids": {"limit": 10}})),
        ("cpu.shares", json!({"cpu": {"shares": 100}})),
    ] {
        let refused = user.run("true", |config| config["linux"]["resources"] = limits);
        refused.fails(1).says(&format!("linux.resources.{field}: no cgroup was delegated to this user"));
    }
    let bundle = user.script("trap : USR1; sleep 60 & while :; do wait; done", |_| {});
    user.start("one", &bundle);
    let listed = || user.oci("ps -f json one").json().as_array().unwrap().clone();
    eventually("both are listed", Duration::from_secs(5), || (listed().len() == 2).then_some(()));
    assert!(listed().contains(&user.state("one")["pid"]));
    user.oci("ps one").ok().prints_something_like("sleep 60");
    for verb in ["pause one", "events --stats one"] {
        user.oci(verb).fails(1).says("since none was delegated to the user who made it");
    }
    user.oci("update --memory 10m one").fails(1).says("linux.resources.memory.limit: no cgroup was delegated");
    user.oci("kill --all one USR1").ok();
    eventually("the child has ended by it, and its parent has not", Duration::from_secs(5), || {
        (listed() == [user.state("one")["pid"].clone()]).then_some(())
    });
    user.oci("kill --all one KILL").ok();
    user.until("one", "stopped");
    user.oci("delete one").ok();
    host.expect_nothing_left("containers without a cgroup");
}

// What no user may is an error that names it, before anything of the bundle has run.
#[test]
fn what_the_kernel_grants_no_user_is_told() {
    let host = Host::new();
    let user = User::new(&host);
    let refused = |words: &str, change: &dyn Fn(&mut Value)| {
        user.run("echo ran", |config| change(config)).fails(1).prints("").says(words);
    };
    refused("set oom_score_adj: Permission denied", &|config| config["process"]["oomScoreAdj"] = json!(-500));
    refused("set RLIMIT_NOFILE to", &|config| {
        config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 1_048_577, "hard": 1_048_577}]);
    });
    refused("it needs a network namespace of its own; or bind the host's", &|config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "network");
    });
    refused("it needs a PID namespace of its own", &|config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "pid");
    });
    // mount_namespaces(7), "Restrictions on mount namespaces": what the host has locked is not unlocked, nor uncovered.
    let locked = host.fresh("locked");
    host.small_disk(&locked, "mode=755");
    host.small_disk(&locked.join("below"), "mode=755");
    let disk = locked.clone();
    host.inside(move || {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID;
        mount(None::<&str>, &disk, None::<&str>, flags, None::<&str>).expect("make it read-only");
    });
    let bind = |options: &[&str]| json!({"destination": "/mnt", "type": "bind", "source": &locked, "options": options});
    let bound = |config: &mut Value, options: &[&str]| config["mounts"].as_array_mut().unwrap().push(bind(options));
    refused("what the host has mounted ro, nosuid, nodev or noexec stays so", &|config| {
        bound(config, &["rbind", "rw"])
    });
    refused("what the host has mounted below cannot be left out: bind it with rbind", &|config| {
        bound(config, &["bind"])
    });
    // Its own words are added, and the host's stay.
    let kept = user.run("mount | grep ' /mnt '", |config| bound(config, &["rbind", "nodev"]));
    kept.ok();
    assert!(["ro", "nosuid", "nodev"].iter().all(|flag| kept.text().contains(flag)), "{}", kept.text());
    host.expect_nothing_left("refusals");
}

// CVE-2019-5736. That it is being executed (ETXTBSY) would hold only as long as it runs.
#[test]
fn podruns_own_program_cannot_be_written_through_a_users_container() {
    let host = Host::new();
    let user = User::new(&host);
    let program = |id: &str| {
        let path = format!("/proc/{}/exe", user.state(id)["pid"]);
        host.inside(move || {
            let program = fs::File::open(path).unwrap();
            let seals = SealFlag::from_bits_retain(fcntl(&program, FcntlArg::F_GET_SEALS).unwrap_or(0));
            (program.metadata().unwrap(), seals)
        })
    };
    // One that is root's, and nobody else's to write to, is safe where it is.
    user.create("roots", &user.script("true", |_| {}));
    let (file, _) = program("roots");
    assert_eq!((file.uid(), file.mode() & 0o022), (0, 0));
    let own = user.runtime.join("podrun-of-mine");
    fs::copy(host.podrun_path(), &own).unwrap();
    give(&own);
    let line = format!("{} oci create --bundle {} own", own.display(), user.script("true", |_| {}));
    user.program(&line.split(' ').collect::<Vec<_>>()).without_stdio().run().ok();
    let (_, seals) = program("own");
    assert!(seals.contains(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL), "{seals:?}");
    user.oci("delete roots").ok();
    user.oci("delete own").ok();
}

// CVE-2016-9962: whoever is root in the container could else take the host's root directory from a program on its way there.
#[test]
fn a_program_on_its_way_into_a_users_container_is_out_of_its_reach() {
    let host = Host::new();
    let user = User::new(&host);
    let bundle = user.script("while :; do sleep 0.02; done", |config| {
        let all = json!(["CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_KILL"]);
        config["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
        config["process"]["oomScoreAdj"] = json!(321);
    });
    user.start("one", &bundle);
    // The pid file is written before the gate opens, and this one is not written before it is read.
    let pid_file = user.runtime.join("pid");
    mkfifo(&user.runtime.join(".pid.new"), Mode::S_IRWXU).unwrap();
    give(&user.runtime.join(".pid.new"));
    let line = format!("exec --pid-file {} one cat /proc/self/oom_score_adj", pid_file.display());
    let stuck = user.command(&line).start();
    let look = "for p in /proc/[0-9]*; do grep -q podrun $p/comm 2>/dev/null || continue; echo there; \
        readlink $p/fd/0; ls $p/root/ | head -1; cat $p/environ | tr '\\0' ' '; done; true";
    let looked = |wanted: &str| {
        eventually(wanted, Duration::from_secs(10), || {
            let done = user.program(&[user.podrun.to_str().unwrap(), "oci", "exec", "one", "sh", "-c", look]).run();
            done.text().contains("there").then(|| (done.text(), done.errors()))
        })
    };
    let (found, refused) = looked("the program is at its gate");
    assert_eq!(found, "there\n", "it could be looked into");
    assert_eq!(refused.matches("Permission denied").count(), 2, "{refused}");
    let pipe = user.runtime.join(".pid.new");
    let read = std::thread::spawn(move || fs::read_to_string(pipe));
    stuck.wait().ok().prints("321");
    assert!(read.join().unwrap().unwrap().parse::<u32>().is_ok());
    user.oci("delete --force one").ok();
}

#[test]
fn a_user_has_a_terminal_hooks_clocks_and_a_network_of_his_own() {
    let host = Host::new();
    let user = User::new(&host);
    let bundle = user.script("tty; stty size; exit 4", |config| config["process"]["terminal"] = json!(true));
    let person = user.command(&format!("run --bundle {bundle} tty")).at_a_terminal(31, 97);
    let (code, screen) = person.ends();
    assert!(code == 4 && screen.contains("/dev/pts/0") && screen.contains("31 97"), "{screen}");
    let told = user.runtime.join("told");
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("id -u >> {}", told.display())]}]);
    let text = user.run("cat /proc/uptime; cat /proc/net/dev; cat /proc/sys/net/ipv4/ip_forward", |config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
        config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 864_000_000}});
        config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        config["hooks"] = json!({"createRuntime": hook, "poststop": hook});
    });
    let text = text.text();
    let uptime: f64 = text.split('.').next().unwrap().parse().unwrap();
    assert!(uptime > 864_000_000.0, "{text}");
    assert!(text.contains("lo:") && !text.contains("eth0") && text.ends_with("\n1\n"), "{text}");
    assert_eq!(fs::read_to_string(told).unwrap(), "1000\n1000\n", "hooks of the runtime run as the user");
}

/// The document's namespaces of these types are those of a process.
fn join(config: &mut Value, pid: &str, types: &[&str]) {
    for one in config["linux"]["namespaces"].as_array_mut().unwrap() {
        let kind = one["type"].as_str().unwrap().to_owned();
        if types.contains(&kind.as_str()) {
            let file = if kind == "network" { "net" } else { kind.as_str() };
            one["path"] = json!(format!("/proc/{pid}/ns/{file}"));
        }
    }
}

// config-linux.md, namespaces.path: what belongs to a user's own user namespace he may join.
#[test]
fn a_user_joins_namespaces_of_his_own() {
    let host = Host::new();
    let user = User::new(&host);
    user.start("one", &user.script("while :; do sleep 0.02; done", |_| {}));
    let pid = user.state("one")["pid"].to_string();
    let shown = "readlink /proc/self/ns/user; readlink /proc/self/ns/net; readlink /proc/self/ns/ipc";
    let joined = |config: &mut Value| {
        join(config, &pid, &["user", "network", "ipc"]);
        let linux = config["linux"].as_object_mut().unwrap();
        linux.remove("uidMappings");
        linux.remove("gidMappings");
    };
    let theirs = user.program(&[user.podrun.to_str().unwrap(), "oci", "exec", "one", "sh", "-c", shown]).run().text();
    let ours = user.oci(&format!("run --bundle {} two", user.script(shown, joined)));
    ours.ok().prints(theirs.trim_end());
    let roots = user.script("true", |config| join(config, "1", &["network"]));
    user.oci(&format!("run --bundle {roots} three")).fails(1).says("open linux.namespaces");
    user.oci("delete --force one").ok();
    host.expect_nothing_left("containers that share namespaces");
}

/// Runs what follows as root of a user namespace with more ids, as rootless podman does.
const AS_ROOT: [&str; 6] = ["unshare", "--user", "--map-root-user", "--map-auto", "--mount", "--"];

// What rootless podman is: its document has no user namespace, since podman made one.
#[test]
fn root_of_a_user_namespace_makes_containers_and_enters_them() {
    let host = Host::new();
    let user = User::new(&host);
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.02; done"]);
        config["root"]["readonly"] = json!(false);
        config["linux"]["devices"] = json!([{"path": "/dev/zero", "type": "c", "major": 1, "minor": 5}]);
    });
    podrun_tests::give(bundle.rootfs.path(), UID);
    let beside = host.bundle(|config| {
        config["process"]["args"] = json!(["readlink", "/proc/self/ns/net"]);
        join(config, "NETNS", &["network"]);
    });
    for path in [beside.path().to_owned(), beside.path().join("config.json")] {
        give(&path);
    }
    podrun_tests::give(beside.rootfs.path(), UID);
    // One shell, so that it is one user namespace: conmon's is podman's, too.
    let (podrun, script) = (user.podrun.display(), user.runtime.join("script"));
    fs::write(
        &script,
        format!(
            "set -e; R='{podrun} oci'; $R create --bundle {bundle} one >/dev/null </dev/null; $R start one\n\
             $R exec one sh -c 'id -u; echo x > /dev/null; head -c 1 /dev/zero | wc -c; stat -c %t,%T /dev/zero'\n\
             $R exec --user 5 one id -u; $R ps -f json one | wc -l; $R state one | grep -c running\n\
             sed -i \"s,NETNS,$($R state one | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p'),\" {beside}/config.json\n\
             [ \"$($R run --bundle {beside} two)\" = \"$($R exec one readlink /proc/self/ns/net)\" ] && echo together\n\
             $R kill one TERM; while $R state one | grep -q running; do sleep 0.02; done; $R delete one; $R list -q\n\
             cat /proc/self/uid_map | wc -l"
        ),
    )
    .unwrap();
    let words: Vec<&str> = AS_ROOT.into_iter().chain(["sh", script.to_str().unwrap()]).collect();
    let done = user.program(&words).run();
    if done.errors().contains("map-auto") {
        return note_skip("this unshare(1) knows no --map-auto");
    }
    done.ok().prints("0\n1\n1,5\n5\n1\n1\ntogether\n2");
    host.expect_nothing_left("containers of a user namespace's root");
}

/// A field of the specification, as a user sees it; the column "rootless" of docs/oci.md is made from these lines, each by its
/// promise in SPECIFICATION.md.
struct Field {
    promise: &'static str,
    change: fn(&mut Value),
    script: &'static str,
    seen: Seen,
}

enum Seen {
    Prints(&'static str),
    Says(&'static str),
}

/// It is what it is for root: a script prints this.
fn held(promise: &'static str, change: fn(&mut Value), script: &'static str, prints: &'static str) -> Field {
    Field { promise, change, script, seen: Seen::Prints(prints) }
}

/// It is an error for everybody.
fn told(promise: &'static str, change: fn(&mut Value), says: &'static str) -> Field {
    Field { promise, change, script: "echo ran", seen: Seen::Says(says) }
}

/// The kernel grants it to no user.
fn refused(promise: &'static str, change: fn(&mut Value), says: &'static str) -> Field {
    told(promise, change, says)
}

fn mounted(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().unwrap().push(mount);
}

fn seccomp(config: &mut Value, rule: Value) {
    config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
}

const NAMES: &str = "for name in null zero full random urandom tty; do test -c /dev/$name || echo no $name; done; \
    readlink /dev/fd; readlink /dev/stdin; echo x > /dev/null && echo written";

fn process_fields() -> Vec<Field> {
    vec![
        held(
            "4.1",
            |config| {
                config["process"]["env"] = json!(["PATH=/bin", "A=b c"]);
                config["process"]["cwd"] = json!("/tmp");
            },
            "echo \"$A\"; pwd",
            "b c\n/tmp",
        ),
        held("4.2", |config| config["process"]["env"] = json!(["PATH=/nowhere:/bin"]), "echo found", "found"),
        held(
            "4.3",
            |config| {
                more_ids(config);
                config["process"]["user"] = json!({"uid": 7, "gid": 8, "additionalGids": [9, 10], "umask": 0o27});
            },
            "id -u; id -G; umask",
            "7\n8 9 10\n0027",
        ),
        held("4.4", more_ids, "id -G; umask", "0\n0022"),
        held(
            "4.5",
            |config| {
                config["process"]["capabilities"] = json!({"bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN"],
                    "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN", "CAP_KILL"], "inheritable": [], "ambient": []});
                config["process"]["user"] = json!({"uid": 0, "gid": 0});
                config["process"]["noNewPrivileges"] = json!(true);
            },
            "grep CapBnd /proc/self/status",
            "CapBnd:\t0000000000200021",
        ),
        held(
            "4.9",
            |config| config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]),
            "ulimit -n; ulimit -H -n",
            "100\n200",
        ),
        told(
            "4.10",
            |config| {
                let limit = json!({"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200});
                config["process"]["rlimits"] = json!([limit, limit]);
            },
            "process.rlimits[1]: the same type twice",
        ),
        held(
            "4.11",
            |config| config["process"]["noNewPrivileges"] = json!(false),
            "grep NoNewPrivs /proc/self/status",
            "NoNewPrivs:\t0",
        ),
        held("4.12", |config| config["process"]["oomScoreAdj"] = json!(500), "cat /proc/self/oom_score_adj", "500"),
        held(
            "4.26",
            |config| {
                let names = json!(["mkdir", "mkdirat"]);
                seccomp(config, json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": libc_enospc()}));
            },
            "mkdir /tmp/x 2>&1 | grep -o 'No space.*'",
            "No space left on device",
        ),
        held(
            "4.27",
            |config| {
                let args = json!([{"index": 1, "value": 0, "op": "SCMP_CMP_EQ"}]);
                seccomp(config, json!({"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": args}));
            },
            "kill -0 $$ 2>/dev/null || echo refused; kill -CHLD $$ && echo sent",
            "refused\nsent",
        ),
        held("4.30", |config| config["unheard"] = json!({"of": 1}), "echo ran", "ran"),
        held(
            "30.1",
            |config| config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7}),
            "busybox cut -d ' ' -f 19,41 /proc/self/stat",
            "7 3",
        ),
        held(
            "30.3",
            |config| {
                config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
                config["linux"]["personality"] = json!({"domain": "LINUX32"});
            },
            "cat /proc/self/personality; busybox ionice -p $$ | grep -o idle",
            "00000008\nidle",
        ),
    ]
}

/// ENOSPC of errno(3): an errno that nobody gives by chance.
fn libc_enospc() -> i32 {
    28
}

fn mount_fields() -> Vec<Field> {
    vec![
        held(
            "4.13",
            |config| config["root"]["readonly"] = json!(true),
            "touch /x 2>&1 | grep -o 'Read-only.*'",
            "Read-only file system",
        ),
        held(
            "4.18",
            |config| {
                let options = json!(["rbind", "ro", "noexec"]);
                mounted(
                    config,
                    json!({"destination": "/new/place", "type": "bind", "source": "/dev", "options": options}),
                );
            },
            "test -c /new/place/null && touch /new/place/x 2>&1 | grep -o 'Read-only.*'",
            "Read-only file system",
        ),
        held(
            "4.21",
            |config| {
                let all = json!(["CAP_SYS_ADMIN"]);
                config["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
            },
            "mount -t tmpfs mine /tmp && touch /tmp/x && echo mounted",
            "mounted",
        ),
        held("4.22", |_| {}, NAMES, "/proc/self/fd\n/proc/self/fd/0\nwritten"),
        refused(
            "4.23",
            |config| config["linux"]["devices"] = json!([{"path": "/dev/mine", "type": "c", "major": 1, "minor": 5}]),
            "bind /dev/mine to /dev/mine: No such file",
        ),
        held(
            "4.24",
            |_| {},
            "cat /proc/keys /proc/timer_list | wc -c; \
             sh -c 'echo 1 > /proc/sys/vm/swappiness' 2>&1 | grep -o 'Read-only.*'",
            "0\nRead-only file system",
        ),
        held(
            "30.7",
            |config| {
                let options = json!(["rbind", "rro"]);
                mounted(config, json!({"destination": "/new", "type": "bind", "source": "/sys", "options": options}));
            },
            "mount | grep ' /new' | grep -v '(ro' | wc -l; test -d /new/kernel && echo there",
            "0\nthere",
        ),
        held(
            "30.10",
            |config| {
                mounted(
                    config,
                    json!({"destination": "/etc", "type": "tmpfs", "source": "x", "options": ["tmpcopyup"]}),
                )
            },
            "ls /etc; touch /etc/x && echo written",
            "group\npasswd\nwritten",
        ),
        held(
            "30.12",
            |config| {
                mounted(config, json!({"destination": "/tmp", "type": "tmpfs", "source": "x"}));
                mounted(
                    config,
                    json!({"destination": "/tmp", "type": "tmpfs", "source": "x", "options": ["remount", "ro"]}),
                );
            },
            "touch /tmp/x 2>&1 | grep -o 'Read-only.*'",
            "Read-only file system",
        ),
        refused(
            "30.13",
            |config| {
                let ids = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
                mounted(
                    config,
                    json!({"destination": "/new", "type": "bind", "source": "/dev/shm", "options": ["bind"],
                    "uidMappings": ids, "gidMappings": ids}),
                );
            },
            "map the IDs of the mount on /new",
        ),
        refused("30.26", |config| config["linux"]["netDevices"] = json!({"lo": {}}), "linux.netDevices"),
    ]
}

fn namespace_fields() -> Vec<Field> {
    vec![
        held(
            "30.16",
            |config| config["domainname"] = json!("example.org"),
            "cat /proc/sys/kernel/domainname",
            "example.org",
        ),
        held("31.19", |_| {}, "hostname; ip link show lo | grep -o '<.*>'", "runc\n<LOOPBACK,UP,LOWER_UP>"),
        held("31.20", |_| {}, "id -u; busybox tr -s ' ' < /proc/self/uid_map", "0\n 0 1000 1"),
        held(
            "31.22",
            |config| {
                config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
                config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 864_000_000}});
            },
            "read up rest < /proc/uptime; test ${up%.*} -gt 864000000 && echo later",
            "later",
        ),
        held(
            "31.24",
            |config| {
                let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", "cat > /tmp/state"]}]);
                config["hooks"] = json!({"startContainer": hook});
            },
            "grep -o '\"status\":\"[a-z]*\"' /tmp/state",
            "\"status\":\"created\"",
        ),
        told(
            "31.25",
            |config| config["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]}),
            "hooks.createRuntime[0]",
        ),
    ]
}

#[test]
fn fields_are_for_a_user_what_they_are_for_root() {
    let host = Host::new();
    let user = User::new(&host);
    let mut wrong = Vec::new();
    for field in [process_fields(), mount_fields(), namespace_fields()].into_iter().flatten() {
        let done = user.run(field.script, field.change);
        let right = match field.seen {
            Seen::Prints(wanted) => done.code() == 0 && done.text().trim_end() == wanted,
            Seen::Says(wanted) => done.code() == 1 && done.errors().contains(wanted) && done.text().is_empty(),
        };
        if !right {
            wrong.push(format!("{}: {} {:?} {:?}", field.promise, done.code(), done.text(), done.errors()));
        }
    }
    assert!(wrong.is_empty(), "not as for root:\n{}", wrong.join("\n"));
    host.expect_nothing_left("a container for each field");
}
