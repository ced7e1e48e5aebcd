//! `podrun oci`: containers that are in no pod, with runc's command line (runtime-spec, runtime.md; runc(8)).

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::statvfs::{FsFlags, statvfs};
use podrun_tests::lone::{create, forever, script, start, state, until, with_script, without_pid};
use podrun_tests::{Bundle, Host, Value, eventually, json};
use std::fs;
use std::io::{IoSliceMut, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

// runtime.md, "Lifecycle": nothing of the bundle runs before `start`.
#[test]
fn a_container_is_created_started_and_deleted() {
    let host = Host::new();
    let bundle = script(&host, "echo ran > /tmp/ran; sleep 60");
    create(&host, "one", &bundle);
    let made = state(&host, "one");
    assert_eq!(made["status"], "created");
    assert!(host.lives(&made["pid"]));
    assert!(!bundle.rootfs.has("tmp/ran"), "it ran before it was started");
    host.podrun("oci start one").ok();
    until(&host, "one", "running");
    eventually("the program runs", Duration::from_secs(5), || bundle.rootfs.has("tmp/ran").then_some(()));
    host.podrun("oci start one").fails(1).says("already running");
    host.podrun("oci delete one").fails(1).says("cannot delete container that is not stopped");
    host.podrun("oci kill one KILL").ok();
    until(&host, "one", "stopped");
    host.podrun("oci start one").fails(1).says("has stopped");
    host.podrun("oci delete one").ok();
    host.podrun("oci state one").fails(1).says("container does not exist");
    host.podrun("oci delete one").fails(1).says("container does not exist");
    host.podrun("oci delete --force one").ok();
    host.expect_nothing_left("a whole life");
}

// runtime.md, "State"; runc(8) adds rootfs, created, owner.
#[test]
fn its_state_is_as_the_specification_has_it_and_as_runc_shows_it() {
    let host = Host::new();
    let bundle = with_script(&host, "sleep 60", |config| config["annotations"] = json!({"org.example.a": "b"}));
    create(&host, "one", &bundle);
    let state = state(&host, "one");
    assert_eq!(state["ociVersion"], "1.0.2");
    assert_eq!(state["id"], "one");
    assert_eq!(state["bundle"], json!(bundle.path()));
    assert_eq!(state["rootfs"], json!(bundle.rootfs.path()));
    assert_eq!(state["annotations"], json!({"org.example.a": "b"}));
    assert_eq!(state["owner"], "root");
    assert!(state["created"].as_str().unwrap().ends_with('Z'), "{state}");
    let list = host.podrun("oci list --format json").json();
    assert_eq!(list[0]["status"], "created");
    host.podrun("oci list").ok().prints_something_like("created");
    assert_eq!(host.podrun("oci list -q").text(), "one\n");
    host.podrun("oci delete one").ok();
    assert_eq!(host.podrun("oci list -q").text(), "");
}

#[test]
fn run_shows_the_output_gives_the_exit_code_and_removes_the_container() {
    let host = Host::new();
    let bundle = script(&host, "read line; echo got $line; echo err >&2; exit 42");
    let done = host.command(format!("oci run --bundle {bundle} one")).stdin("a line\n").run();
    done.fails(42);
    assert_eq!((done.text().as_str(), done.errors().as_str()), ("got a line\n", "err\n"));
    host.podrun("oci list -q").ok().says_nothing();
    let killed = with_script(&host, "kill -9 $$", without_pid);
    host.podrun(format!("oci run --bundle {killed} killed")).fails(137);
    host.podrun(format!("oci run --keep --bundle {bundle} kept")).fails(42);
    assert_eq!(state(&host, "kept")["status"], "stopped");
    host.podrun("oci delete kept").ok();
}

// runc run passes on what a supervisor sends.
#[test]
fn a_signal_to_run_reaches_the_program() {
    let host = Host::new();
    let bundle = script(&host, "trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done");
    let mut running = host.command(format!("oci run --bundle {bundle} one")).start();
    running.until_it_prints("ready");
    running.signal(libc::SIGTERM);
    running.wait().fails(7);
}

#[test]
fn exec_joins_a_container_and_gives_its_exit_code() {
    let host = Host::new();
    start(&host, "one", &forever(&host));
    let facts = host.podrun("oci exec one /probe facts").facts();
    let inside = &facts["namespaces"];
    let first = state(&host, "one")["pid"].as_i64().unwrap();
    for kind in ["mnt", "net", "uts", "ipc", "pid"] {
        let of_first = host.outside(format!("/proc/{first}/ns/{kind}"));
        assert_eq!(inside[kind], json!(fs::read_link(of_first).unwrap()), "{kind}");
    }
    host.podrun("oci exec --env A=b --cwd /tmp one sh -c 'echo $A $PWD; exit 5'").fails(5).prints("b /tmp");
    let user = host.podrun("oci exec --user 1000:100 --additional-gids 29 --cap CAP_SYS_TIME one /probe facts").facts();
    assert_eq!((user["uids"][0].as_i64(), user["gids"][0].as_i64()), (Some(1000), Some(100)));
    assert_eq!(user["groups"], json!([29]));
    // Told apart from a program that ended with 1: runc's own code.
    host.podrun("oci exec one /nowhere").fails(255).says("No such file or directory");
    host.command("oci exec one cat").stdin("through").run().ok().prints("through");
    host.podrun("oci kill one KILL").ok();
    until(&host, "one", "stopped");
    host.podrun("oci exec one true").fails(255).says("cannot exec in a stopped container");
    host.podrun("oci delete one").ok();
}

// runc exec --process: a `process` object of the specification.
#[test]
fn exec_takes_a_process_of_the_specification() {
    let host = Host::new();
    start(&host, "one", &forever(&host));
    let process = host.fresh("process.json");
    let object = json!({"args": ["/probe", "facts"], "cwd": "/tmp", "env": ["X=y"], "user": {"uid": 7, "gid": 8},
        "noNewPrivileges": true, "oomScoreAdj": 300});
    fs::write(&process, object.to_string()).unwrap();
    let facts = host.podrun(format!("oci exec --process {} one", process.display())).facts();
    assert_eq!(json!([facts["cwd"], facts["uids"][0], facts["gids"][0]]), json!(["/tmp", 7, 8]));
    assert_eq!(json!([facts["noNewPrivs"], facts["oomScoreAdj"], facts["env"]["X"]]), json!([1, 300, "y"]));
    // conmon says --tty beside it.
    fs::write(&process, json!({"args": ["tty"], "cwd": "/", "user": {"uid": 0, "gid": 0}}).to_string()).unwrap();
    let with = format!("oci exec --tty --process {} one", process.display());
    assert_eq!(host.command(with).at_a_terminal(24, 80).ends(), (0, "/dev/pts/0\n".into()));
    fs::write(&process, r#"{"args": ["true"], "cwd": "/", "user": {"uid": "x", "gid": 0}}"#).unwrap();
    host.podrun(format!("oci exec --process {} one", process.display())).fails(255).says("user.uid");
    host.podrun("oci delete --force one").ok();
}

#[test]
fn a_detached_exec_writes_its_pid_and_lives_on() {
    let host = Host::new();
    let bundle = forever(&host);
    start(&host, "one", &bundle);
    let pid = host.fresh("pid");
    let exec = format!("oci exec --detach --pid-file {} one sleep 60", pid.display());
    host.command(exec).without_stdio().run().ok();
    let number: i64 = fs::read_to_string(&pid).unwrap().parse().unwrap();
    let pids = host.podrun("oci ps --format json one").json();
    assert!(pids.as_array().unwrap().contains(&json!(number)), "{pids} has no {number}");
    host.podrun("oci ps one").ok().prints_something_like("sleep 60");
    host.podrun("oci delete --force one").ok();
}

#[test]
fn signals_reach_the_first_process_or_all() {
    let host = Host::new();
    let bundle = forever(&host);
    start(&host, "one", &bundle);
    // Before that it would be lost on a first process (pid_namespaces(7)).
    eventually("it takes TERM", Duration::from_secs(10), || bundle.rootfs.has("tmp/trapped").then_some(()));
    host.podrun("oci kill one SIGTERM").ok();
    until(&host, "one", "stopped");
    // go-runc and podman look for this sentence.
    host.podrun("oci kill one TERM").fails(1).says("container not running");
    host.podrun("oci delete one").ok();
    // Without a PID namespace of its own its children outlive the first process.
    let bundle = with_script(&host, "sleep 60 & sleep 60 & exec sleep 60", |config| {
        without_pid(config);
    });
    start(&host, "two", &bundle);
    eventually("three processes", Duration::from_secs(5), || {
        (host.podrun("oci ps -f json two").json().as_array().unwrap().len() == 3).then_some(())
    });
    host.podrun("oci kill --all two KILL").ok();
    until(&host, "two", "stopped");
    host.podrun("oci delete two").ok();
    start(&host, "three", &bundle);
    host.podrun("oci delete --force three").ok();
    host.expect_nothing_left("delete --force");
}

#[test]
fn a_paused_container_stands_still_and_takes_no_exec() {
    let host = Host::new();
    start(&host, "one", &forever(&host));
    host.podrun("oci resume one").fails(1).says("container not paused");
    host.podrun("oci pause one").ok();
    assert_eq!(state(&host, "one")["status"], "paused");
    // crun hangs here.
    host.podrun("oci exec one true").fails(255).says("paused").within(Duration::from_secs(2));
    host.podrun("oci pause one").fails(1).says("it is paused");
    host.podrun("oci resume one").ok();
    host.podrun("oci exec one true").ok();
    host.podrun("oci pause one").ok();
    host.podrun("oci delete --force one").ok();
}

// runc(8), update and events.
#[test]
fn limits_are_changed_and_uses_are_shown() {
    let host = Host::new();
    start(&host, "one", &forever(&host));
    host.podrun("oci update --pids-limit 20 --memory 64m one").ok();
    host.command("oci update -r - one").stdin(r#"{"cpu": {"shares": 512}}"#).run().ok();
    host.command("oci update -r - one")
        .stdin(r#"{"cpu": {"shares": "x"}}"#)
        .run()
        .fails(1)
        .says("linux.resources.cpu.shares");
    host.podrun("oci update --memory x one").fails(1).says("--memory");
    let stats = host.podrun("oci events --stats one").json();
    assert_eq!((&stats["type"], &stats["id"]), (&json!("stats"), &json!("one")));
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 64 << 20);
    assert!(stats["data"]["pids"]["current"].as_u64().unwrap() > 0, "{stats}");
    host.podrun("oci delete --force one").ok();
}

#[test]
fn an_id_is_unique_and_a_plain_name() {
    let host = Host::new();
    let bundle = forever(&host);
    create(&host, "one", &bundle);
    host.podrun(format!("oci create --bundle {bundle} one")).fails(1).says("already exists");
    assert_eq!(state(&host, "one")["status"], "created");
    for bad in ["a/b", "..", "a b"] {
        host.command("oci create").args(["--bundle", &bundle.to_string(), bad]).run().fails(1).says("container id");
    }
    host.podrun("oci delete one").ok();
}

// go-runc and podman read the log's last line.
#[test]
fn an_error_is_a_line_of_the_log_that_shims_read() {
    let host = Host::new();
    let bundle = host.bundle(|config| config["process"]["args"] = json!(["/nowhere"]));
    let log = host.fresh("log.json");
    let words = format!("oci --log {} --log-format json create --bundle {bundle} one", log.display());
    host.podrun(words).fails(1).says("No such file or directory");
    let lines = fs::read_to_string(&log).unwrap();
    let line: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert_eq!(line["msg"], "execute /nowhere: No such file or directory");
    assert!(line["time"].is_string());
    host.podrun("oci list -q").ok().says_nothing();
    host.expect_nothing_left("a failed create");
}

// conmon's stderr is the container's log: a warning does not belong there.
#[test]
fn a_warning_goes_to_the_log_alone_where_there_is_one() {
    let host = Host::new();
    let bundle = with_script(&host, "exit 0", |config| {
        config["process"]["capabilities"]["bounding"] = json!(["CAP_CHOWN", "CAP_MOON"]);
    });
    let log = host.fresh("log.json");
    host.podrun(format!("oci --log {} run --bundle {bundle} one", log.display())).ok().says_nothing();
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("level=warning") && text.contains("CAP_MOON"), "{text}");
    host.podrun(format!("oci run --bundle {bundle} one")).ok().says("warning").says("CAP_MOON");
}

#[test]
fn under_the_name_of_runc_it_behaves_as_podrun_oci() {
    let host = Host::new();
    for name in ["runc", "crun", "podrun-oci"] {
        let link = host.dir().join(name);
        symlink(host.podrun_path(), &link).unwrap();
        let bundle = script(&host, "exit 3");
        host.program(format!("{} run --bundle {bundle} one", link.display())).run().fails(3);
        host.program(format!("{} --version", link.display())).run().ok().prints_something_like("spec: 1.3.0");
    }
}

#[test]
fn states_are_kept_below_the_root_that_was_named() {
    let host = Host::new();
    let root = host.fresh("states");
    let bundle = script(&host, "exit 0");
    host.podrun(format!("oci --root {} run --keep --bundle {bundle} one", root.display())).ok();
    assert!(root.join("one/state.json").exists());
    host.podrun("oci state one").fails(1);
    host.podrun(format!("oci --root {} delete one", root.display())).ok();
    assert!(!root.join("one").exists());
}

// config.md, "Process": REQUIRED only when start is called.
#[test]
fn a_config_without_process_can_be_created_and_never_started() {
    let host = Host::new();
    let bundle = host.bundle(|config| drop(config.as_object_mut().unwrap().remove("process")));
    create(&host, "one", &bundle);
    assert_eq!(state(&host, "one")["status"], "created");
    host.podrun("oci start one").fails(1).says("its config.json has no `process`");
    assert_eq!(state(&host, "one")["status"], "created");
    host.podrun("oci delete one").ok();
}

// config-linux.md, "Cgroups Path".
#[test]
fn its_cgroup_is_where_the_document_says_and_nobody_else_is_in_it() {
    let host = Host::on_cgroup2();
    let place = format!("{}-mine/a", host.cgroup_name());
    let bundle = with_script(&host, "cat /proc/self/cgroup; sleep 60", |config| {
        config["linux"]["cgroupsPath"] = json!(format!("/{place}"));
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "cgroup");
    });
    start(&host, "one", &bundle);
    let pid = state(&host, "one")["pid"].to_string();
    let procs = host.program(format!("cat /sys/fs/cgroup/{place}/cgroup.procs")).run().text();
    assert!(procs.lines().any(|line| line == pid), "{procs} has no {pid}");
    host.podrun(format!("oci run --bundle {bundle} two")).fails(1).says("processes already");
    host.podrun("oci list -q").ok().prints("one");
    host.podrun("oci delete --force one").ok();
    host.inside(move || fs::remove_dir(Path::new("/sys/fs/cgroup").join(place).parent().unwrap())).unwrap();
}

#[test]
fn a_network_namespace_is_joined_by_its_path() {
    let host = Host::new();
    host.pod("web");
    let netns = host.inspect("web")["namespaces"]["net"].as_str().unwrap().to_owned();
    let bundle = host.bundle(|config| {
        let spaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        spaces.retain(|one| one["type"] != "network");
        spaces.push(json!({"type": "network", "path": netns}));
    });
    let facts = host.podrun(format!("oci run --bundle {bundle} one")).facts();
    assert_eq!(facts["namespaces"]["net"], json!(fs::read_link(host.outside(&netns)).unwrap()));
    let wrong = host.bundle(|config| {
        let spaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        spaces.retain(|one| one["type"] != "uts");
        spaces.push(json!({"type": "uts", "path": netns}));
    });
    host.podrun(format!("oci run --bundle {wrong} two")).fails(1).says("a namespace of type network, not uts");
}

// runc(8): --no-pivot, for hosts whose root is a ramdisk, which nobody can pivot away (pivot_root(2), "NOTES").
#[test]
fn without_a_pivot_the_root_is_covered() {
    let host = Host::new();
    let bundle =
        script(&host, "ls / /..; cut -d ' ' -f 5 /proc/self/mountinfo; readlink /proc/1/root; cat /etc/passwd");
    let pivoted = host.podrun(format!("oci run --bundle {bundle} one")).ok().text();
    let covered = host.podrun(format!("oci run --no-pivot --bundle {bundle} two")).ok().text();
    assert_eq!(covered, pivoted);
    // The host's own /proc is below the cover: with that in full view the kernel would let anybody mount another without masks.
    let views = with_script(&host, "unshare -mrpf sh -c 'mount -t proc none /proc && echo mounted'", |config| {
        for set in ["bounding", "permitted", "effective"] {
            config["process"]["capabilities"][set] = json!(["CAP_SETFCAP", "CAP_SYS_ADMIN"]);
        }
    });
    for flag in ["", "--no-pivot"] {
        host.podrun(format!("oci run {flag} --bundle {views} views")).fails(1).prints("").says("denied");
    }
    let kept = forever(&host);
    host.command(format!("oci run --no-pivot -d --bundle {kept} three")).without_stdio().run().ok();
    host.podrun("oci exec three sh -c 'cat /proc/keys; echo x > /proc/sys/net/ipv4/ip_default_ttl'")
        .fails(1)
        .prints("");
    host.podrun("oci delete --force three").ok();
}

// config-linux.md, "IntelRdt": "If no mounted resctrl … the runtime MUST generate an error."
#[test]
fn a_class_of_service_without_a_resctrl_is_told() {
    let host = Host::new();
    if fs::read_to_string("/proc/self/mountinfo").unwrap().contains(" - resctrl ") {
        podrun_tests::skip!("this host has a resctrl, whose classes are its own");
    }
    let asked = |what: Value| host.bundle(|config| config["linux"]["intelRdt"] = what);
    let one = asked(json!({"closID": "gold", "schemata": ["L3:0=f"]}));
    host.podrun(format!("oci run --bundle {one} one")).fails(1).says("linux.intelRdt").says("not mounted");
    let wrong = asked(json!({"closID": "a/b"}));
    host.podrun(format!("oci run --bundle {wrong} one")).fails(1).says("read linux.intelRdt.closID");
    host.podrun("oci list -q").ok().says_nothing();
    host.expect_nothing_left("refusals");
}

/// With ids from 100000 on in the place of 0 and on; the rootfs is theirs.
fn mapped(host: &Host, args: &[&str], change: impl FnOnce(&mut Value)) -> Bundle {
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(args);
        config["root"]["readonly"] = json!(false);
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 200_000, "size": 65_536}]);
        change(config);
    });
    for dir in ["", "dev", "proc", "sys", "tmp", "etc"] {
        std::os::unix::fs::chown(bundle.rootfs.path().join(dir), Some(100_000), Some(200_000)).unwrap();
    }
    bundle
}

// config-linux.md, "User namespace mappings"; user_namespaces(7). CVE-2025-47291: the limits hold there, too.
#[test]
fn root_of_a_user_namespace_is_nobody_outside() {
    let host = Host::new();
    let bundle = mapped(&host, &["/probe", "facts"], |_| {});
    let facts = host.podrun(format!("oci run --bundle {bundle} one")).facts();
    assert_eq!(facts["uids"], json!([0, 0, 0, 0]));
    assert_ne!(facts["namespaces"]["user"], json!(fs::read_link("/proc/self/ns/user").unwrap()));
    let bundle = mapped(&host, &["sleep", "60"], |_| {});
    start(&host, "two", &bundle);
    let pid = state(&host, "two")["pid"].clone();
    let status = host.read(format!("/proc/{pid}/status"));
    assert!(status.contains("Uid:\t100000\t100000\t100000\t100000"), "{status}");
    assert!(status.contains("Gid:\t200000\t200000\t200000\t200000"), "{status}");
    assert_eq!(
        host.read(format!("/proc/{pid}/uid_map")).split_whitespace().collect::<Vec<_>>(),
        ["0", "100000", "65536"]
    );
    // An exec is root there, and nobody outside, as well.
    let joined = host.podrun("oci exec two /probe facts").facts();
    assert_eq!(joined["uids"], json!([0, 0, 0, 0]));
    host.podrun("oci exec two sh -c 'echo x > /dev/null && touch /tmp/made'").ok();
    let made = fs::metadata(bundle.rootfs.path().join("tmp/made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 100_000);
    host.podrun("oci delete --force two").ok();
}

// A second container in the user namespace of a first: its own mounts and devices belong to that one's root.
#[test]
fn a_user_namespace_is_joined_by_its_path() {
    let host = Host::new();
    start(&host, "one", &mapped(&host, &["sleep", "60"], |_| {}));
    let pid = state(&host, "one")["pid"].clone();
    let bundle = mapped(&host, &["/probe", "facts"], |config| {
        let linux = config["linux"].as_object_mut().unwrap();
        linux.remove("uidMappings");
        linux.remove("gidMappings");
        for space in config["linux"]["namespaces"].as_array_mut().unwrap() {
            if space["type"] == "user" {
                space["path"] = json!(format!("/proc/{pid}/ns/user"));
            }
        }
    });
    let facts = host.podrun(format!("oci run --bundle {bundle} two")).facts();
    assert_eq!(facts["uids"], json!([0, 0, 0, 0]));
    let first = fs::read_link(host.outside(format!("/proc/{pid}/ns/user"))).unwrap();
    assert_eq!(facts["namespaces"]["user"], json!(first));
    host.podrun("oci delete --force one").ok();
}

// config-linux.md, "Time offsets"; time_namespaces(7).
#[test]
fn the_clocks_of_a_time_namespace_are_set_before_anybody_is_in_it() {
    let host = Host::new();
    let bundle = with_script(&host, "cat /proc/uptime; cat /proc/self/timens_offsets", |config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
        config["linux"]["timeOffsets"] =
            json!({"boottime": {"secs": 864_000, "nanosecs": 5}, "monotonic": {"secs": 86_400}});
    });
    let text = host.podrun(format!("oci run --bundle {bundle} one")).text();
    let up: f64 = text.split_whitespace().next().unwrap().parse().unwrap();
    assert!(up > 864_000.0, "{text}");
    let words: Vec<&str> = text.lines().skip(1).flat_map(str::split_whitespace).collect();
    assert_eq!(words, ["monotonic", "86400", "0", "boottime", "864000", "5"]);
}

// config.md, "hostname" and "domainname".
#[test]
fn host_and_domain_name_are_its_own() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["hostname"] = json!("its-name");
        config["domainname"] = json!("its.domain");
    });
    let facts = host.podrun(format!("oci run --bundle {bundle} one")).facts();
    assert_eq!((&facts["hostname"], &facts["domainname"]), (&json!("its-name"), &json!("its.domain")));
    assert!(facts["links"]["lo"].is_object() || facts["links"].to_string().contains("lo"), "{}", facts["links"]);
}

/// A hook that notes its name and its state in a file.
fn note(file: &Path, name: &str) -> Value {
    let script = format!("printf '%s ' {name} >> {0}; cat >> {0}; echo >> {0}", file.display());
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]})
}

// config.md, "POSIX-platform Hooks": order, namespaces, state on stdin.
#[test]
fn hooks_of_all_kinds_run_in_their_order_with_the_state_on_stdin() {
    let host = Host::new();
    let file = host.fresh("notes");
    let bundle = with_script(&host, "echo program >> /notes", |config| {
        config["hooks"] = json!({
            "prestart": [note(&file, "prestart")],
            "createRuntime": [note(&file, "createRuntime"), note(&file, "createRuntime2")],
            "createContainer": [note(&file, "createContainer")],
            // Its path is the container's.
            "startContainer": [note(Path::new("/notes"), "startContainer")],
            "poststart": [note(&file, "poststart")],
            "poststop": [note(&file, "poststop")],
        });
    });
    create(&host, "one", &bundle);
    let pid = state(&host, "one")["pid"].clone();
    host.podrun("oci start one").ok();
    until(&host, "one", "stopped");
    host.podrun("oci delete one").ok();
    let notes = fs::read_to_string(&file).unwrap();
    let read = |line: &str| -> (String, Value) {
        let (name, state) = line.split_once(' ').unwrap();
        (name.to_owned(), serde_json::from_str(state).unwrap())
    };
    let outside: Vec<(String, Value)> = notes.lines().map(read).collect();
    let names: Vec<&str> = outside.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["prestart", "createRuntime", "createRuntime2", "createContainer", "poststart", "poststop"]);
    let status: Vec<&str> = outside.iter().map(|(_, state)| state["status"].as_str().unwrap()).collect();
    assert_eq!(status, ["creating", "creating", "creating", "creating", "running", "stopped"]);
    for (name, state) in outside.iter().filter(|(name, _)| name != "poststop") {
        assert_eq!((&state["id"], &state["pid"]), (&json!("one"), &pid), "{name}");
        assert_eq!(state["bundle"], json!(bundle.path()), "{name}");
    }
    let inside = bundle.rootfs.read("notes");
    let (first, rest) = inside.split_once('\n').unwrap();
    assert_eq!((read(first).0.as_str(), read(first).1["status"].as_str()), ("startContainer", Some("created")));
    assert_eq!(rest, "program\n");
}

#[test]
fn a_hook_that_fails_ends_the_creation_or_what_was_started_and_after_the_end_is_only_warned_of() {
    let host = Host::new();
    let file = host.fresh("notes");
    let failing = json!({"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]});
    let slow = json!({"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1});
    let with = |kind: &str, hook: &Value| {
        with_script(&host, "exit 0", |config| {
            config["hooks"] = json!({"poststop": [note(&file, "poststop")]});
            config["hooks"][kind] = json!([hook]);
        })
    };
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let bundle = with(kind, &failing);
        let said = host.podrun(format!("oci create --bundle {bundle} one"));
        said.fails(1).says(&format!("hooks.{kind}[0] /bin/sh: exit status 3"));
        host.expect_nothing_left(kind);
    }
    let bundle = with("createRuntime", &slow);
    host.podrun(format!("oci create --bundle {bundle} one")).fails(1).says("did not end within 1 s");
    let bundle = with("startContainer", &failing);
    create(&host, "one", &bundle);
    host.podrun("oci start one").fails(1).says("hooks.startContainer[0] /bin/sh: exit status 3");
    host.podrun("oci delete --force one").ok();
    // runtime.md, "Lifecycle", 9: "the runtime MUST generate an error, stop the container".
    let bundle = with("poststart", &failing);
    bundle.change(|config| config["process"]["args"] = json!(["sleep", "60"]));
    host.podrun(format!("oci run --bundle {bundle} one")).fails(1).says("hooks.poststart[0] /bin/sh: exit status 3");
    create(&host, "one", &bundle);
    host.podrun("oci start one").fails(1).says("hooks.poststart[0]");
    assert_eq!(state(&host, "one")["status"], "stopped");
    host.podrun("oci delete one").ok();
    assert_eq!(fs::read_to_string(&file).unwrap().matches("poststop").count(), 7);
    host.podrun(format!("oci run --bundle {} one", with("poststop", &failing))).ok().says("hooks.poststop[0]");
    let missing = with("prestart", &json!({"path": "/nowhere"}));
    host.podrun(format!("oci run --bundle {missing} one")).fails(1).says("/nowhere: No such file or directory");
}

/// The descriptor of one message.
fn receive(connection: &UnixStream) -> OwnedFd {
    let mut bytes = [0; 64];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!(std::os::fd::RawFd);
    let message = recvmsg::<()>(connection.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
        .expect("receive");
    let number = message.cmsgs().expect("its control data").find_map(|one| match one {
        ControlMessageOwned::ScmRights(numbers) => numbers.first().copied(),
        _ => None,
    });
    podrun_tests::sys::adopt(number.expect("a descriptor came along"))
}

// runc(8): --console-socket.
#[test]
fn a_terminal_goes_to_whoever_listens_at_the_console_socket() {
    let host = Host::new();
    let bundle = with_script(&host, "tty; stty size; sleep 60", |config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["consoleSize"] = json!({"height": 30, "width": 90});
    });
    host.podrun(format!("oci create --bundle {bundle} one")).fails(1).says("--console-socket");
    let socket = host.dir().join("console");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let words = format!("oci create --console-socket {} --bundle {bundle} one", socket.display());
    host.command(words).without_stdio().run().ok();
    let (connection, _) = listener.accept().unwrap();
    let mut master = fs::File::from(receive(&connection));
    host.podrun("oci start one").ok();
    let mut shown = String::new();
    while !shown.contains("30 90") {
        let mut buffer = [0; 256];
        let count = master.read(&mut buffer).expect("read the terminal");
        shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    assert!(shown.contains("/dev/pts/0"), "{shown}");
    host.podrun("oci delete --force one").ok();
    let plain = script(&host, "exit 0");
    host.podrun(format!("oci create --console-socket {} --bundle {plain} two", socket.display()))
        .fails(1)
        .says("terminal");
}

#[test]
fn run_and_exec_show_the_terminal_on_the_users_own() {
    let host = Host::new();
    let bundle = with_script(&host, "stty size; read line; echo got $line", |config| {
        config["process"]["terminal"] = json!(true)
    });
    let mut person = host.command(format!("oci run --bundle {bundle} one")).at_a_terminal(33, 77);
    person.until_it_shows("33 77");
    person.types("words\n");
    let (code, screen) = person.ends();
    assert!(code == 0 && screen.contains("got words"), "{screen}");
    start(&host, "two", &forever(&host));
    let person = host.command("oci exec --tty two sh -c 'tty; stty size'").at_a_terminal(20, 60);
    let (code, screen) = person.ends();
    assert!(code == 0 && screen.contains("20 60"), "{screen}");
    host.podrun("oci delete --force two").ok();
}

// CVE-2024-21626: nothing of the host is left open; --preserve-fds is what the caller gives on purpose.
#[test]
fn only_preserved_descriptors_reach_the_program() {
    let host = Host::new();
    let bundle = host.bundle(|_| {});
    let given = host.fresh("given");
    fs::write(&given, "a gift").unwrap();
    let open = |words: &str| {
        let podrun = host.podrun_path();
        host.program("sh")
            .args(["-c", &format!("exec {} {words} 3<{1} 4<{1} 9</", podrun.display(), given.display())])
            .run()
    };
    let numbers = |facts: &Value| -> Vec<String> { facts["fds"].as_object().unwrap().keys().cloned().collect() };
    let facts = open(&format!("oci run --bundle {bundle} one")).facts();
    assert_eq!(numbers(&facts), ["0", "1", "2"], "{}", facts["fds"]);
    let facts = open(&format!("oci run --preserve-fds 2 --bundle {bundle} one")).facts();
    assert_eq!(numbers(&facts), ["0", "1", "2", "3", "4"], "{}", facts["fds"]);
    // Number 5 is not open: nothing of podrun's own may take its place.
    let facts = open(&format!("oci run --preserve-fds 3 --bundle {bundle} one")).facts();
    assert_eq!(numbers(&facts), ["0", "1", "2", "3", "4"], "{}", facts["fds"]);
    start(&host, "two", &forever(&host));
    let facts = open("oci exec --preserve-fds 1 two /probe facts").facts();
    assert_eq!(numbers(&facts), ["0", "1", "2", "3"], "{}", facts["fds"]);
    host.podrun("oci delete --force two").ok();
}

// CVE-2019-5736.
#[test]
fn podruns_own_program_cannot_be_written_through_a_container() {
    let host = Host::new();
    create(&host, "one", &forever(&host));
    let pid = state(&host, "one")["pid"].clone();
    let path = format!("/proc/{pid}/exe");
    let flags = host.inside(move || statvfs(path.as_str()).map(|facts| facts.flags())).unwrap();
    // That it is being executed (ETXTBSY) would hold only as long as it runs.
    assert!(flags.contains(FsFlags::ST_RDONLY), "{flags:?}");
    host.podrun("oci delete one").ok();
    // Where the kernel lets it, podrun has not to start a second time for that: here it could not (execveat(2)).
    let line = format!("oci run --bundle {} two", script(&host, "true"));
    host.command(line).with(&format!("without {}", libc::SYS_execveat)).run().ok();
}

#[test]
fn the_example_is_a_container_that_runs() {
    let host = Host::new();
    let bundle = host.bundle(|_| {});
    fs::remove_file(bundle.path().join("config.json")).unwrap();
    host.podrun(format!("oci spec --bundle {bundle}")).ok();
    host.podrun(format!("oci spec --bundle {bundle}")).fails(1).says("File exists");
    let mut person = host.command(format!("oci run --bundle {bundle} one")).at_a_terminal(24, 80);
    person.types("hostname; exit 4\n");
    let (code, screen) = person.ends();
    assert!(code == 4 && screen.contains("podrun\n"), "{screen}");
}

// features.md.
#[test]
fn features_say_what_a_document_may_hold() {
    let host = Host::new();
    let features = host.podrun("oci features").json();
    assert_eq!(features["ociVersionMax"], "1.3.0");
    let has = |place: &str, word: &str| features.pointer(place).unwrap().as_array().unwrap().contains(&json!(word));
    assert!(has("/hooks", "createContainer") && has("/mountOptions", "rro") && has("/linux/namespaces", "time"));
    assert!(has("/linux/capabilities", "CAP_CHOWN") && has("/linux/seccomp/actions", "SCMP_ACT_NOTIFY"));
}
