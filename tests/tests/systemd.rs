//! `podrun oci --systemd-cgroup`: a container's cgroup is a scope that systemd makes (pitfalls.md 38), the machine's for root and
//! a user's own for him. Here against a systemd of the test's own, which does what it is told to do wrong; in the VM against a
//! real one.

use podrun::dbus::wire::{self, HEAD, Message, Type, Value as Bus};
use podrun_tests::{
    Bundle, Command, Host, Outcome, User, Value, bus, eventually, give, json, make_rootless, note_skip,
};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The tree of cgroup v2 is one for all fake hosts, so that each has a slice of its own name.
fn slice(host: &Host) -> String {
    format!("{}.slice", host.cgroup_name())
}

/// What the systemd of a test does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    Well,
    /// After a while.
    Late,
    /// Says that it is done, and has not moved the process.
    Lies,
    Fails,
    /// A failed scope of the name is in the way once.
    Exists,
    HangsUp,
    /// Its own cgroup is none that there is.
    Astray,
}

/// What it is the manager of.
struct Place {
    /// Its own cgroup, for the test program.
    cgroup: PathBuf,
    /// The same, as it calls it.
    control_group: String,
    /// What is in the environment of its fake host's commands alone.
    mark: String,
    /// Whose it is, if not root's.
    owner: Option<u32>,
}

struct Systemd {
    served: JoinHandle<Vec<String>>,
    is_over: Arc<AtomicBool>,
    socket: PathBuf,
    /// Its cgroups, which are not podrun's.
    top: PathBuf,
}

impl Systemd {
    /// That of the fake host, which sees cgroup v2 alone.
    fn start(host: &Host, habit: Habit) -> Self {
        host.small_disk(Path::new("/run"), "size=1m");
        let cgroup = host.outside("/sys/fs/cgroup");
        let top = cgroup.join("podrun.slice").join(slice(host));
        let place = Place { cgroup, control_group: "/".into(), mark: mark(host), owner: None };
        Self::listen(&host.outside("/run"), habit, place, top)
    }

    /// A user's own, whose cgroup nobody has given a controller; named as what the fake host takes away where a test fails.
    fn of(user: &User<'_>, runtime: &Path, habit: Habit) -> Self {
        let name = user.host.cgroup_name();
        let top = user.host.outside("/sys/fs/cgroup").join(&name);
        let place = Place {
            cgroup: top.join("user@.service"),
            control_group: format!("/{name}/user@.service"),
            mark: mark(user.host),
            owner: Some(user.uid),
        };
        fs::create_dir_all(&place.cgroup).unwrap();
        hand_over(&place.cgroup, user.uid);
        Self::listen(runtime, habit, place, top)
    }

    fn listen(runtime: &Path, habit: Habit, place: Place, top: PathBuf) -> Self {
        let dir = runtime.join("systemd");
        fs::create_dir_all(&dir).unwrap();
        let socket = dir.join("private");
        let listener = UnixListener::bind(&socket).unwrap();
        if let Some(uid) = place.owner {
            chown(&socket, Some(uid), Some(uid)).unwrap();
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = is_over.clone();
        let served = std::thread::spawn(move || {
            let mut asked = Vec::new();
            let mut refused = false;
            for stream in listener.incoming().take_while(|_| !stop.load(Ordering::SeqCst)) {
                serve(stream.unwrap(), habit, &place, &mut asked, &mut refused);
            }
            asked
        });
        Self { served, is_over, socket, top }
    }

    /// Ends it, with its cgroups; the names of the calls that it heard.
    fn heard(self) -> Vec<String> {
        self.is_over.store(true, Ordering::SeqCst);
        UnixStream::connect(&self.socket).unwrap();
        let heard = self.served.join().unwrap();
        remove(&self.top);
        // Other tests have theirs in it, too.
        let _ = self.top.parent().filter(|parent| parent.ends_with("podrun.slice")).map(fs::remove_dir);
        fs::remove_dir_all(self.socket.parent().unwrap()).unwrap();
        heard
    }
}

/// All directories of a cgroup, from the deepest on.
fn remove(dir: &Path) {
    let below = fs::read_dir(dir).into_iter().flatten().flatten();
    below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).for_each(|entry| remove(&entry.path()));
    let gone = || (fs::remove_dir(dir).is_ok() || !dir.exists()).then_some(());
    eventually(&format!("{} is empty", dir.display()), Duration::from_secs(5), gone);
}

fn mark(host: &Host) -> String {
    format!("{}/", host.dir().display())
}

/// A directory of the cgroup tree, as whoever makes it owns it.
fn hand_over(dir: &Path, uid: u32) {
    let files = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_file());
    files.chain([dir.to_owned()]).for_each(|path| chown(path, Some(uid), Some(uid)).unwrap());
}

fn next(stream: &mut UnixStream) -> Option<Message> {
    let mut head = [0; HEAD];
    stream.read_exact(&mut head).ok()?;
    let mut rest = vec![0; wire::rest_of(&head).ok()?];
    stream.read_exact(&mut rest).ok()?;
    wire::read(&head, &rest).ok()
}

fn serve(mut stream: UnixStream, habit: Habit, place: &Place, asked: &mut Vec<String>, refused: &mut bool) {
    if !bus::admit(&mut stream).unwrap_or(false) {
        return;
    }
    while let Some(call) = next(&mut stream) {
        let member = call.member.clone().unwrap_or_default();
        let unit = call.body[0].text().unwrap_or_default().to_owned();
        asked.push(format!("{member} {unit}"));
        let reply = |kind, name, body: &[Bus]| wire::answer(kind, 7, call.serial, name, body);
        let job = Bus::Path("/org/freedesktop/systemd1/job/1".into());
        let removed = |result: &str| {
            let body = [Bus::U32(1), job.clone(), Bus::Text(unit.clone()), Bus::Text(result.into())];
            wire::answer(Type::Signal, 8, 0, Some("JobRemoved"), &body)
        };
        match (member.as_str(), habit) {
            ("Get", _) => {
                let own = if habit == Habit::Astray { "/../../etc" } else { &place.control_group };
                let said = Bus::Variant(Box::new(Bus::Text(own.into())));
                stream.write_all(&reply(Type::Return, None, &[said])).unwrap();
            }
            ("StartTransientUnit", Habit::HangsUp) => return,
            ("StartTransientUnit", Habit::Exists) if !*refused => {
                *refused = true;
                let said = [Bus::Text(format!("Unit {unit} already exists."))];
                stream.write_all(&reply(Type::Error, Some("org.freedesktop.systemd1.UnitExists"), &said)).unwrap();
            }
            ("StartTransientUnit", _) => {
                if habit == Habit::Late {
                    std::thread::sleep(Duration::from_millis(1500));
                }
                if habit != Habit::Lies && habit != Habit::Fails {
                    make_scope(place, &unit, &call.body[2]);
                }
                // The signal may come before the reply.
                stream.write_all(&removed(if habit == Habit::Fails { "failed" } else { "done" })).unwrap();
                stream.write_all(&reply(Type::Return, None, std::slice::from_ref(&job))).unwrap();
            }
            ("StopUnit", _) => {
                stream.write_all(&reply(Type::Return, None, std::slice::from_ref(&job))).unwrap();
                stream.write_all(&removed("done")).unwrap();
            }
            _ => stream.write_all(&reply(Type::Return, None, &[])).unwrap(),
        }
    }
}

/// What systemd does: the slice's and the scope's directories, and the process moved there.
fn make_scope(place: &Place, unit: &str, properties: &Bus) {
    let Bus::Array(_, properties) = properties else { panic!("{properties:?}") };
    let property = |name: &str| {
        let fits = |one: &&Bus| matches!(one, Bus::Struct(pair) if pair[0].text() == Some(name));
        let Some(Bus::Struct(pair)) = properties.iter().find(fits) else { panic!("no {name} in {properties:?}") };
        pair[1].clone()
    };
    let slice = property("Slice").text().unwrap().to_owned();
    let mut dir = place.cgroup.clone();
    let dashes = slice.match_indices('-').map(|(at, _)| format!("{}.slice", &slice[..at]));
    for name in dashes.chain([slice.clone(), unit.to_owned()]) {
        dir.push(name);
        if !dir.exists() {
            fs::create_dir(&dir).unwrap();
            place.owner.into_iter().for_each(|uid| hand_over(&dir, uid));
        }
    }
    let inside: String = format!("{:?}", property("PIDs")).chars().filter(char::is_ascii_digit).skip(2).collect();
    fs::write(dir.join("cgroup.procs"), outer(&inside, &place.mark)).unwrap();
}

/// The number here of a process that has this one on the fake host.
fn outer(inside: &str, mark: &str) -> String {
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let has = |pid: &String| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let numbers: Vec<&str> = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .map(|rest| rest.split_whitespace().collect())
            .unwrap_or_default();
        // Other tests' hosts number theirs alike; the environment tells whose it is.
        let ours =
            || fs::read(format!("/proc/{pid}/environ")).is_ok_and(|all| String::from_utf8_lossy(&all).contains(mark));
        numbers.len() > 1 && numbers[1] == inside && ours()
    };
    all.filter(|name| name.parse::<u32>().is_ok()).find(has).expect("the process that systemd was told of")
}

const START: &str = "StartTransientUnit podrun-one.scope";
const STOP: &str = "StopUnit podrun-one.scope";

fn bundle(host: &Host) -> Bundle {
    host.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "60"]);
        config["linux"]["cgroupsPath"] = json!(format!("{}:podrun:one", slice(host)));
    })
}

fn create(host: &Host, bundle: &Bundle) -> Outcome {
    let log = host.fresh("log");
    let words = format!("oci --log {} --systemd-cgroup create --bundle {bundle} one", log.display());
    host.command(words).without_stdio().run()
}

#[test]
fn a_container_is_in_the_scope_that_systemd_made() {
    for (habit, calls) in [
        (Habit::Well, vec![START]),
        (Habit::Late, vec![START]),
        (Habit::Exists, vec![START, "ResetFailedUnit podrun-one.scope", START]),
    ] {
        let host = Host::on_cgroup2();
        let systemd = Systemd::start(&host, habit);
        create(&host, &bundle(&host)).ok();
        host.podrun("oci start one").ok();
        let state = host.podrun("oci state one").json();
        let shown = host.program(format!("cat /proc/{}/cgroup", state["pid"])).run().text();
        assert!(shown.contains(&format!("/podrun.slice/{}/podrun-one.scope", slice(&host))), "{habit:?}: {shown}");
        host.podrun("oci exec one true").ok();
        host.podrun("oci pause one").ok();
        host.podrun("oci delete --force one").ok();
        let heard = systemd.heard();
        assert_eq!(heard, [calls, vec![STOP]].concat(), "{habit:?}");
    }
}

// runc#3780: a scope that failed, and a container that then ran outside of all limits.
#[test]
fn a_container_that_is_not_in_its_scope_never_runs() {
    for habit in [Habit::Lies, Habit::Fails, Habit::HangsUp] {
        let host = Host::on_cgroup2();
        let systemd = Systemd::start(&host, habit);
        let bundle = bundle(&host);
        create(&host, &bundle).fails(1);
        host.podrun("oci list -q").ok().says_nothing();
        let heard = systemd.heard();
        assert_eq!(heard.first().map(String::as_str), Some(START), "{habit:?}");
        host.expect_nothing_left(&format!("{habit:?}"));
    }
}

#[test]
fn without_a_systemd_a_scope_is_refused() {
    let host = Host::on_cgroup2();
    host.small_disk(Path::new("/run"), "size=1m");
    create(&host, &bundle(&host)).fails(1);
    host.podrun("oci list -q").ok().says_nothing();
}

/// `podrun oci --systemd-cgroup` of a user's.
fn asks<'u>(user: &'u User<'_>, line: &str) -> Command<'u> {
    user.command(format!("oci --systemd-cgroup {line}"))
}

fn sleeper(user: &User<'_>, change: impl FnOnce(&mut Value)) -> Bundle {
    user.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "60"]);
        change(config);
    })
}

/// The line of cgroup v2 in /proc/PID/cgroup of a container's first process.
fn place_of(user: &User<'_>, id: &str) -> String {
    let pid = asks(user, &format!("state {id}")).run().json()["pid"].clone();
    let shown = user.host.read(format!("/proc/{pid}/cgroup"));
    shown.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
}

// Who stands outside of what is his manager's, as in a login's session, may put nobody into it (cgroups(7), "Containment rules").
#[test]
fn a_users_container_is_in_a_scope_of_his_own_manager() {
    for (path, slice) in
        [(None, "user.slice"), (Some(":podrun:one"), "user.slice"), (Some("a-b.slice:podrun:one"), "a.slice/a-b.slice")]
    {
        let host = Host::on_cgroup2();
        let [alice] = host.users(["alice"]);
        let systemd = Systemd::of(&alice, alice.runtime(), Habit::Well);
        let bundle = sleeper(&alice, |config| {
            if let Some(path) = path {
                config["linux"]["cgroupsPath"] = json!(path);
            }
        });
        asks(&alice, &format!("create --bundle {bundle} one")).without_stdio().run().ok();
        asks(&alice, "start one").run().ok();
        let place = place_of(&alice, "one");
        assert!(place.ends_with(&format!("/user@.service/{slice}/podrun-one.scope")), "{path:?}: {place}");
        // In its cgroup namespace that is the root.
        asks(&alice, "exec one cat /proc/self/cgroup").run().ok().prints_something_like("0::/\n");
        asks(&alice, "pause one").run().ok();
        assert_eq!(asks(&alice, "state one").run().json()["status"], "paused");
        asks(&alice, "resume one").run().ok();
        asks(&alice, "update --pids-limit 9 one")
            .run()
            .fails(1)
            .says("linux.resources.pids.limit: the pids controller was not delegated to this user");
        asks(&alice, "kill one KILL").run().ok();
        eventually("it has stopped", Duration::from_secs(5), || {
            (asks(&alice, "state one").run().json()["status"] == "stopped").then_some(())
        });
        // Whatever the environment is then.
        let states = alice.run_root().join("oci");
        alice.command(format!("oci --root {} delete one", states.display())).env("XDG_RUNTIME_DIR", "").run().ok();
        assert!(host.outside(format!("/sys/fs/cgroup{place}")).parent().unwrap().exists(), "the slice is systemd's");
        let mut heard = systemd.heard();
        let near = heard.remove(2);
        assert!(near.starts_with("StartTransientUnit podrun-") && near != START, "{near}");
        assert_eq!(heard, ["Get org.freedesktop.systemd1.Manager", START, STOP], "{path:?}");
        host.expect_nothing_left("a user's scope");
    }
}

// Rootless podman's runtime: the manager's user is 0 there, and the manager knows him by the number outside (systemd#11785).
#[test]
fn root_of_a_user_namespace_has_the_manager_of_the_user_that_he_is_outside() {
    let host = Host::on_cgroup2();
    let [alice] = host.users(["alice"]);
    host.small_disk(Path::new("/run"), "size=1m");
    let runtime = host.outside(format!("/run/user/{}", alice.uid));
    fs::create_dir_all(&runtime).unwrap();
    let systemd = Systemd::of(&alice, &runtime, Habit::Well);
    let bundle = host.bundle(|config| {
        make_rootless(config, alice.uid);
        config["process"]["args"] = json!(["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.02; done"]);
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "user");
        config["linux"].as_object_mut().unwrap().retain(|name, _| !name.ends_with("Mappings"));
    });
    give(bundle.rootfs.path(), alice.uid);
    let (podrun, script, states) = (host.podrun_path(), host.fresh("script"), alice.home().join("states"));
    fs::write(
        &script,
        format!(
            "set -e; R='{} oci --root {} --systemd-cgroup'; $R create --bundle {bundle} one >/dev/null </dev/null; $R start one\n\
             sed -n 's/^0:://p' /proc/$($R state one | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p')/cgroup\n\
             $R exec one cat /proc/self/cgroup | grep ^0\n\
             $R kill one TERM; while $R state one | grep -q running; do sleep 0.02; done; $R delete one; $R list -q",
            podrun.display(),
            states.display()
        ),
    )
    .unwrap();
    let line = format!("unshare --user --map-root-user --mount -- sh {}", script.display());
    // Without the one variable, the directory that logind would have made.
    let done = alice.program(line).env("XDG_RUNTIME_DIR", "").run();
    let text = done.ok().text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 2 && lines[0].ends_with("/user@.service/user.slice/podrun-one.scope"), "{text}");
    assert_eq!(lines[1], "0::/");
    let mut heard = systemd.heard();
    assert!(heard.remove(2).starts_with("StartTransientUnit podrun-"));
    assert_eq!(heard, ["Get org.freedesktop.systemd1.Manager", START, STOP]);
    fs::remove_dir_all(host.outside("/run/user")).unwrap();
    host.expect_nothing_left("a scope of a user namespace's root");
}

// R1: teardown never needs what may be gone. A user's manager ends with his last login, and all of its cgroup with it.
#[test]
fn a_container_whose_manager_has_ended_is_deleted_all_the_same() {
    let host = Host::on_cgroup2();
    let [alice] = host.users(["alice"]);
    let systemd = Systemd::of(&alice, alice.runtime(), Habit::Well);
    let bundle = sleeper(&alice, |_| {});
    asks(&alice, &format!("create --bundle {bundle} one")).without_stdio().run().ok();
    let place = host.outside(format!("/sys/fs/cgroup{}", place_of(&alice, "one")));
    fs::rename(&systemd.socket, systemd.socket.with_file_name("elsewhere")).unwrap();
    asks(&alice, "delete --force one").run().ok();
    assert!(!place.exists(), "its scope is still there");
    asks(&alice, "list -q").run().ok().says_nothing();
    fs::rename(systemd.socket.with_file_name("elsewhere"), &systemd.socket).unwrap();
    assert_eq!(systemd.heard(), ["Get org.freedesktop.systemd1.Manager", START]);
    host.expect_nothing_left("a manager that has ended");
}

#[test]
fn a_users_container_that_is_not_in_its_scope_never_runs() {
    for (habit, why) in [
        (Habit::Lies, "join the cgroup user.slice/podrun-one.scope: the process is in"),
        (Habit::Fails, "start the scope podrun-one.scope: systemd says \"failed\""),
        (Habit::HangsUp, "ask systemd for StartTransientUnit"),
        (Habit::Astray, "use the cgroup \"/../../etc\" of the user's service manager: it is not in the tree"),
    ] {
        let host = Host::on_cgroup2();
        let [alice] = host.users(["alice"]);
        let systemd = Systemd::of(&alice, alice.runtime(), habit);
        let ran = alice.runtime().join("ran");
        let bundle = sleeper(&alice, |config| {
            config["hooks"] = json!({"createRuntime": [{"path": "/bin/touch", "args": ["touch", &ran]}]});
        });
        asks(&alice, &format!("run --bundle {bundle} one")).run().fails(1).says(why);
        assert!(!ran.exists(), "{habit:?}: a hook of the bundle has run");
        asks(&alice, "list -q").run().ok().says_nothing();
        systemd.heard();
        host.expect_nothing_left(&format!("{habit:?}"));
    }
}

#[test]
fn what_a_users_manager_cannot_do_is_told_before_anything_is_made() {
    let host = Host::on_cgroup2();
    let [alice] = host.users(["alice"]);
    let refused = |env: Option<&str>, change: &dyn Fn(&mut Value), words: &str| {
        let bundle = sleeper(&alice, |config| change(config));
        let command = asks(&alice, &format!("--root {} run --bundle {bundle} one", alice.run_root().display()));
        let done = match env {
            Some(runtime) => command.env("XDG_RUNTIME_DIR", runtime).run(),
            None => command.run(),
        };
        done.fails(1).with_one_line().says(&format!("podrun: {words}"));
    };
    let socket = alice.runtime().join("systemd/private");
    let none = "use --systemd-cgroup: no service manager of this user's runs: there is no ";
    refused(None, &|_| {}, &format!("{none}{}, where XDG_RUNTIME_DIR says", socket.display()));
    for unset in ["", "a/relative/one"] {
        refused(
            Some(unset),
            &|_| {},
            &format!("{none}/run/user/{}/systemd/private, and XDG_RUNTIME_DIR names no directory", alice.uid),
        );
    }
    // One that was killed leaves its socket behind.
    fs::create_dir(socket.parent().unwrap()).unwrap();
    drop(UnixListener::bind(&socket).unwrap());
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    refused(None, &|_| {}, &format!("use --systemd-cgroup: speak to {}: Connection refused", socket.display()));
    // Somebody else's.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).unwrap();
    refused(None, &|_| {}, &format!("use --systemd-cgroup: speak to {}: Permission denied", socket.display()));
    fs::remove_dir_all(socket.parent().unwrap()).unwrap();
    let systemd = Systemd::of(&alice, alice.runtime(), Habit::Well);
    for (field, limits) in [
        ("memory.limit", json!({"memory": {"limit": 10_000_000}})),
        ("pids.limit", json!({"pids": {"limit": 10}})),
        ("cpu.shares", json!({"cpu": {"shares": 100}})),
        ("cpu.cpus", json!({"cpu": {"cpus": "0"}})),
    ] {
        refused(
            None,
            &|config| config["linux"]["resources"] = limits.clone(),
            &format!(
                "honour linux.resources.{field}: the {} controller was not delegated to this user",
                match field {
                    "memory.limit" => "memory",
                    "pids.limit" => "pids",
                    "cpu.shares" => "cpu",
                    _ => "cpuset",
                }
            ),
        );
    }
    for path in ["/a/b", "a:b", "a.slice:b:", "../x.slice:p:x"] {
        refused(None, &|config| config["linux"]["cgroupsPath"] = json!(path), "read linux.cgroupsPath");
    }
    assert!(systemd.heard().iter().all(|call| call.starts_with("Get ")), "a scope was asked for");
    host.expect_nothing_left("refusals");
}

// As for root: systemd on v1 has trees of which podrun would know only one.
#[test]
fn a_user_of_a_host_with_cgroup_v1_is_told() {
    let host = Host::new();
    if host.outside("/sys/fs/cgroup/cgroup.controllers").exists() {
        return note_skip("this host has cgroup v2 alone");
    }
    let [alice] = host.users(["alice"]);
    let place =
        Place { cgroup: host.dir().to_owned(), control_group: "/".into(), mark: mark(&host), owner: Some(alice.uid) };
    let top = host.dir().join("no-cgroup");
    let systemd = Systemd::listen(alice.runtime(), Habit::Well, place, top);
    let bundle = sleeper(&alice, |_| {});
    let asked = asks(&alice, &format!("run --bundle {bundle} one")).run();
    asked.fails(1).says("of the user's service manager: this host has cgroup v1 hierarchies");
    assert_eq!(systemd.heard(), ["Get org.freedesktop.systemd1.Manager"]);
}

// A real manager, where there is one: in the VM. On the machine itself, since systemd knows processes by their numbers.
#[test]
fn a_real_systemd_makes_changes_and_removes_the_scope() {
    if !Path::new("/run/systemd/private").exists() {
        return note_skip("no systemd runs here");
    }
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "60"]);
        config["linux"]["cgroupsPath"] = json!("podruntest.slice:podrun:real");
        config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
        config["linux"]["resources"]["pids"] = json!({"limit": 40});
    });
    let root = host.fresh("states");
    let podrun = |words: &str| {
        let mut command = process::Command::new(host.podrun_path());
        command.args(["oci", "--root", root.to_str().unwrap(), "--systemd-cgroup"]).args(words.split(' '));
        command.stdin(process::Stdio::null());
        command
    };
    let ok = |words: &str| {
        let done = podrun(words).output().unwrap();
        assert!(done.status.success(), "{words}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    let null = process::Stdio::null;
    let made = podrun(&format!("create --bundle {bundle} real")).stdout(null()).stderr(null()).status().unwrap();
    assert!(made.success());
    ok("start real");
    let dir = Path::new("/sys/fs/cgroup/podruntest.slice/podrun-real.scope");
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap().trim().to_owned();
    assert_eq!((read("memory.max"), read("pids.max")), ((64 << 20).to_string(), "40".to_owned()));
    ok("update --memory 32m --pids-limit 30 real");
    // runc#1605: what systemd does not know it takes back.
    let reloaded = process::Command::new("systemctl").arg("daemon-reload").status().unwrap();
    assert!(reloaded.success());
    assert_eq!((read("memory.max"), read("pids.max")), ((32 << 20).to_string(), "30".to_owned()));
    ok("exec real true");
    ok("delete --force real");
    assert!(!dir.exists(), "the scope is still there");
    let _ = process::Command::new("systemctl").args(["stop", "podruntest.slice"]).status();
}

/// A user's own manager on the machine, as user@.service has it; it ends with the test.
struct Real {
    runtime: PathBuf,
}

impl Real {
    /// Of tests/vm/guest: systemd runs nobody whom it does not know.
    const USER: &str = "podruntest";
    const UID: u32 = 4242;
    const UNIT: &str = "podruntest-user.service";
    /// Its cgroup.
    const DIR: &str = "/sys/fs/cgroup/system.slice/podruntest-user.service";

    fn start(host: &Host) -> Self {
        let runtime = host.fresh("xdg");
        fs::create_dir(&runtime).unwrap();
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
        give(&runtime, Self::UID);
        let said = runtime.join("said");
        let started = process::Command::new("systemd-run")
            .args(["--collect", "--unit", Self::UNIT, "--service-type=notify", "--property=Delegate=yes"])
            .args([&format!("--uid={}", Self::USER)])
            .args(["XDG_RUNTIME_DIR", "HOME"].map(|name| format!("--setenv={name}={}", runtime.display())))
            .args([&format!("--property=StandardError=file:{}", said.display()), "--setenv=SYSTEMD_LOG_TARGET=console"])
            .args(["/lib/systemd/systemd", "--user"])
            .output()
            .unwrap();
        let words = || fs::read_to_string(said).unwrap_or_default();
        assert!(started.status.success(), "{}{}", String::from_utf8_lossy(&started.stderr), words());
        Self { runtime }
    }

    /// Any program, as the user, from where the test is: outside of what is the manager's.
    fn program(&self, words: &[&str]) -> process::Command {
        let mut command = process::Command::new("setpriv");
        let uid = Self::UID.to_string();
        command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"]).args(words);
        command.env("XDG_RUNTIME_DIR", &self.runtime).env("HOME", &self.runtime).stdin(process::Stdio::null());
        command
    }

    #[track_caller]
    fn says(&self, words: &[&str]) -> String {
        let done = self.program(words).output().unwrap();
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = process::Command::new("systemctl").args(["stop", Self::UNIT]).status();
    }
}

#[test]
fn a_users_real_manager_makes_changes_and_removes_his_scope() {
    if !Path::new("/run/systemd/private").exists() {
        return note_skip("no systemd runs here");
    }
    let known = fs::read_to_string("/etc/passwd").unwrap_or_default();
    if !known.lines().any(|line| line.starts_with(&format!("{}:x:{}:", Real::USER, Real::UID))) {
        return note_skip("this machine has no user podruntest, as the VM has one");
    }
    let host = Host::new();
    let real = Real::start(&host);
    let states = real.runtime.join("states");
    let program = host.podrun_path();
    let podrun = |words: &'static str| -> Vec<&str> {
        let own = [program.to_str().unwrap(), "oci", "--root", states.to_str().unwrap(), "--systemd-cgroup"];
        own.into_iter().chain(words.split(' ')).collect()
    };
    let limits = |config: &mut Value| {
        config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
        config["linux"]["resources"]["pids"] = json!({"limit": 40});
    };
    let bundle = host.bundle(|config| {
        make_rootless(config, Real::UID);
        limits(config);
        config["process"]["args"] = json!(["sleep", "60"]);
        config["linux"]["cgroupsPath"] = json!(":podrun:real");
    });
    give(bundle.rootfs.path(), Real::UID);
    let create = format!("create --bundle {bundle} real").leak();
    let null = process::Stdio::null;
    // His own to stand in for a login's session: the manager has the machine's move the process out of there.
    let made = real.program(&podrun(create)).stdout(null()).stderr(null()).status().unwrap();
    assert!(made.success(), "{}", String::from_utf8_lossy(&real.program(&podrun(create)).output().unwrap().stderr));
    real.says(&podrun("start real"));
    let dir = Path::new(Real::DIR).join("user.slice/podrun-real.scope");
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap().trim().to_owned();
    assert_eq!((read("memory.max"), read("pids.max")), ((64 << 20).to_string(), "40".to_owned()));
    assert_eq!(real.says(&podrun("exec real cat /proc/self/cgroup")), "0::/\n");
    real.says(&podrun("update --memory 32m --pids-limit 30 real"));
    real.says(&["systemctl", "--user", "daemon-reload"]);
    assert_eq!((read("memory.max"), read("pids.max")), ((32 << 20).to_string(), "30".to_owned()));
    real.says(&podrun("pause real"));
    assert_eq!(read("cgroup.freeze"), "1");
    real.says(&podrun("resume real"));
    real.says(&podrun("kill real KILL"));
    real.says(&podrun("delete --force real"));
    assert!(!dir.exists(), "the scope is still there");
    // Root of a user namespace, as rootless podman's runtime is.
    let inside = host.bundle(|config| {
        make_rootless(config, Real::UID);
        limits(config);
        config["process"]["args"] =
            json!(["cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max", "/proc/self/cgroup"]);
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "user");
        config["linux"].as_object_mut().unwrap().retain(|name, _| !name.ends_with("Mappings"));
    });
    give(inside.rootfs.path(), Real::UID);
    let run = podrun(format!("run --bundle {inside} inside").leak());
    let as_root: Vec<&str> = ["unshare", "--user", "--map-root-user", "--mount", "--"].into_iter().chain(run).collect();
    assert_eq!(real.says(&as_root), format!("{}\n40\n0::/\n", 64 << 20));
    assert!(!Path::new(Real::DIR).join("user.slice/podrun-inside.scope").exists(), "its scope is still there");
}
