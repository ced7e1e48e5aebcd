//! What `podrun oci` does as runc does it, where neither the specification nor a first guess says so: found by runc's own
//! integration tests, run on podrun.

use podrun_tests::lone::{
    asking_controller, create, forever, script, start, state, until, with_script, with_writable_cgroup, without_pid,
};
use podrun_tests::{Host, Value, eventually, json};
use std::fs;
use std::time::Duration;

// runc: a start would wait for ever, and a resume finds nothing to resume.
#[test]
fn a_container_that_was_not_started_is_paused_and_resumed() {
    let host = Host::new();
    create(&host, "one", &forever(&host));
    host.podrun("oci pause one").ok();
    assert_eq!(state(&host, "one")["status"], "paused");
    host.podrun("oci start one").fails(1).says("paused").within(Duration::from_secs(2));
    host.podrun("oci exec one true").fails(255).says("paused").within(Duration::from_secs(2));
    host.podrun("oci resume one").ok();
    assert_eq!(state(&host, "one")["status"], "created");
    host.podrun("oci start one").ok();
    until(&host, "one", "running");
    host.podrun("oci delete --force one").ok();
}

// config-linux.md, "Namespaces", and decision 24: runc and crun leave such a container's mounts on the host.
#[test]
fn a_container_is_never_among_the_hosts_mounts() {
    let host = Host::new();
    let mounts = || host.program("cat /proc/mounts").run().text().lines().count();
    let before = mounts();
    let with = |path: Option<&str>| {
        with_script(&host, "true", |config| {
            let spaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            spaces.retain(|one| one["type"] != "mount");
            spaces.extend(path.map(|path| json!({"type": "mount", "path": path})));
        })
    };
    let run = |bundle| host.podrun(format!("oci run --bundle {bundle} one"));
    run(with(None)).fails(1).says("there is none of type mount").says("hint: add {\"type\": \"mount\"}");
    run(with(Some("/proc/self/ns/mnt"))).fails(1).says("joins no mount namespace").says("leave `path` out");
    assert_eq!(mounts(), before);
    host.podrun("oci list -q").ok().prints("");
}

// signal(7), and pid_namespaces(7), which keeps them from the first of a namespace: runc's init dies of them.
#[test]
fn what_ends_a_program_ends_a_container_that_was_not_started() {
    let host = Host::new();
    let bundle = script(&host, "exec sleep 60");
    let sharing = with_script(&host, "exec sleep 60", without_pid);
    for signal in ["TERM", "INT", "HUP", "QUIT", "USR1", "ALRM", "PIPE", "RTMIN+3"] {
        for bundle in [&bundle, &sharing] {
            create(&host, "one", bundle);
            host.podrun(format!("oci kill one {signal}")).ok();
            until(&host, "one", "stopped");
            host.podrun("oci start one").fails(1).says("stopped");
            host.podrun("oci delete one").ok();
        }
    }
    // Those that end nobody neither end it nor keep it from its start, and the program has them as ever.
    create(&host, "one", &script(&host, "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status > /signals; exec sleep 60"));
    for signal in ["WINCH", "CHLD", "CONT", "URG", "TSTP", "0"] {
        host.podrun(format!("oci kill one {signal}")).ok();
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(state(&host, "one")["status"], "created");
    host.podrun("oci start one").ok();
    let shown = eventually("the program's signals", Duration::from_secs(5), || {
        let text = host.podrun("oci exec one cat /signals").text();
        (text.lines().count() == 3).then_some(text)
    });
    assert!(shown.lines().all(|line| line.ends_with("\t0000000000000000")), "{shown}");
    host.podrun("oci kill one TERM").ok();
    assert_eq!(state(&host, "one")["status"], "running", "it is the first of its PID namespace, and handles none");
    host.podrun("oci delete --force one").ok();
}

// Without a PID namespace of its own nothing else ends with the first process, and may outlive it.
#[test]
fn kill_ends_all_of_a_container_that_shares_its_pids() {
    let host = Host::new();
    let bundle = with_script(&host, "sleep 60 & sleep 60 & exec sleep 60", without_pid);
    let pids = |id: &str| host.podrun(format!("oci ps --format json {id}")).json();
    let three = |id: &str| {
        start(&host, id, &bundle);
        eventually("three processes", Duration::from_secs(5), || (pids(id).as_array()?.len() == 3).then_some(()));
    };
    let gone =
        |id: &str| eventually("nobody is left", Duration::from_secs(5), || (pids(id) == json!([])).then_some(()));
    three("one");
    host.podrun("oci kill one KILL").ok();
    until(&host, "one", "stopped");
    gone("one");
    host.podrun("oci delete one").ok();
    three("two");
    host.kill(&state(&host, "two")["pid"], libc::SIGKILL);
    until(&host, "two", "stopped");
    host.podrun("oci kill two KILL").ok();
    gone("two");
    // Nobody is there any more: the one says so, to the other it is all the same.
    eventually("its cgroup is empty", Duration::from_secs(5), || {
        (host.podrun("oci kill two KILL").code() == 1).then_some(())
    });
    host.podrun("oci kill --all two KILL").ok();
    host.podrun("oci ps two").ok().prints_something_like("PID");
    host.podrun("oci delete two").ok();
}

// kill(2): signal 0 asks whether there is somebody.
#[test]
fn signal_0_asks_and_disturbs_nobody() {
    let host = Host::new();
    start(&host, "one", &script(&host, "exec sleep 60"));
    host.podrun("oci kill one 0").ok();
    assert_eq!(state(&host, "one")["status"], "running");
    host.podrun("oci kill one KILL").ok();
    until(&host, "one", "stopped");
    host.podrun("oci kill one 0").fails(1).says("container not running");
    host.podrun("oci delete one").ok();
}

// A `process` object is read as config.json's is, once, and what is no word of one is the container's.
#[test]
fn a_process_of_an_exec_is_read_as_config_json_has_it() {
    let host = Host::new();
    let bundle = with_script(&host, "exec sleep 60", |config| {
        config["linux"]["personality"] = json!({"domain": "LINUX32"});
        config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_PREFERRED", "nodes": "0"});
    });
    start(&host, "one", &bundle);
    let file = host.fresh("process.json");
    let object = json!({"args": ["/probe", "facts"], "cwd": "/",
        "capabilities": {"bounding": ["CAP_KILL", "CAP_MOON"]},
        "scheduler": {"policy": "SCHED_BATCH", "flags": ["SCHED_FLAG_RESET_ON_FORK"]}});
    fs::write(&file, object.to_string()).unwrap();
    let said = host.podrun(format!("oci exec --process {} one", file.display()));
    said.ok().says("CAP_MOON");
    let facts: Value = serde_json::from_str(&said.text()).unwrap();
    assert_eq!((&facts["uids"][0], &facts["scheduling"]["policy"]), (&json!(0), &json!(3)));
    assert_eq!((&facts["personality"], &facts["memoryPolicy"]), (&json!("00000008"), &json!("prefer:0")));
    // What a shell hands on can be read once.
    let podrun = host.podrun_path();
    let pipe = format!("cat {} | {} oci exec --process /dev/stdin one", file.display(), podrun.display());
    host.program("sh").args(["-c", &pipe]).run().ok();
    fs::write(&file, json!({"args": ["true"], "cwd": "/", "scheduler": {"policy": "SCHED_X"}}).to_string()).unwrap();
    let wrong = format!("oci exec --process {} one", file.display());
    host.podrun(wrong).fails(255).says("process.scheduler.policy");
    host.podrun("oci delete --force one").ok();
}

// runc exec --cap; CVE-2022-29162.
#[test]
fn what_exec_adds_leaves_the_other_capabilities() {
    let host = Host::new();
    let bundle = with_script(&host, "exec sleep 60", |config| {
        let own = ["CAP_CHOWN", "CAP_KILL"];
        config["process"]["capabilities"] = json!({"bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"], "permitted": own, "effective": own,
            "inheritable": ["CAP_CHOWN", "CAP_SETUID"], "ambient": ["CAP_CHOWN"]});
    });
    start(&host, "one", &bundle);
    let caps = |flags: &str| host.podrun(format!("oci exec {flags} one /probe facts")).facts()["caps"].clone();
    let before = caps("");
    let more = caps("--cap CAP_SETUID --cap CAP_SETGID");
    assert_eq!(more["inheritable"], before["inheritable"]);
    assert_eq!(before["ambient"].as_array().unwrap().len(), 1, "{before}");
    let has = |set: &str, name: &str| more[set].to_string().to_lowercase().contains(name);
    assert!(has("ambient", "chown") && has("ambient", "setuid") && !has("ambient", "setgid"), "{more}");
    assert!(has("bounding", "setgid") && has("permitted", "setgid"), "{more}");
    host.podrun("oci delete --force one").ok();
}

// environ(7); runc takes the last of a name, too, and a HOME that is empty for none.
#[test]
fn of_a_variable_that_is_there_twice_the_last_one_holds() {
    let host = Host::new();
    let with = |env: Value| {
        host.bundle(|config| {
            config["process"]["args"] = json!(["/probe", "facts"]);
            config["process"]["env"] = env;
        })
    };
    let bundle = with(json!(["A=1", "HOME=", "B=2", "A=3"]));
    let facts = host.podrun(format!("oci run --bundle {bundle} one")).facts();
    assert_eq!(facts["env"], json!({"A": "3", "B": "2", "HOME": "/root"}));
    assert_eq!(facts["envOrder"], json!(["A", "B", "HOME"]));
    for bad in ["A", "=x", ""] {
        let bundle = with(json!(["B=2", bad]));
        host.podrun(format!("oci run --bundle {bundle} one")).fails(1).says("process.env[1]").says("NAME=VALUE");
    }
}

// runc#3922: a service manager that keeps to a few CPUs does not keep its containers there.
#[test]
fn the_callers_cpus_are_not_the_containers() {
    let host = Host::new();
    let bundle = host.bundle(|config| config["process"]["args"] = json!(["/probe", "facts"]));
    let all = host.podrun(format!("oci run --bundle {bundle} one")).facts()["cpus"].clone();
    if all == "0" {
        podrun_tests::skip!("this machine has one CPU");
    }
    let podrun = host.podrun_path();
    let on_one = |words: &str| host.program(format!("taskset -c 0 {} {words}", podrun.display())).run().facts();
    assert_eq!(on_one(&format!("oci run --bundle {bundle} two"))["cpus"], all);
    start(&host, "three", &forever(&host));
    assert_eq!(on_one("oci exec three /probe facts")["cpus"], all);
    host.podrun("oci delete --force three").ok();
}

// runc(8), events.
#[test]
fn events_tell_what_is_used_and_that_memory_ran_out() {
    let host = Host::new();
    // It lives on where its child is killed.
    let bundle = with_script(&host, "echo ready; read go; tail /dev/zero; sleep 60", |config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 30_000_000, "swap": 30_000_000});
        config["linux"]["resources"]["pids"] = json!({"limit": 50});
    });
    let mut running = host.command(format!("oci run --bundle {bundle} one")).open_stdin().start();
    running.until_it_prints("ready");
    let text = host.podrun("oci events --stats one").text();
    assert!(text.starts_with(r#"{"type":"stats","id":"one","data":{"#), "{text}");
    let data = serde_json::from_str::<Value>(&text).unwrap()["data"].clone();
    assert_eq!(data["pids"]["limit"], 50, "{data}");
    for place in
        ["/cpu/usage/total", "/cpu/usage/user", "/cpu/usage/kernel", "/memory/usage/usage", "/memory/usage/limit"]
    {
        assert!(data.pointer(place).is_some_and(Value::is_u64), "{place}: {data}");
    }
    assert!(data["memory"]["raw"].as_object().is_some_and(|raw| raw.len() > 10), "{data}");
    let mut events = host.command("oci events --interval 200ms one").start();
    events.until_it_prints("stats");
    running.write("\n");
    events.until_it_prints(r#"{"type":"oom","id":"one"}"#);
    host.podrun("oci kill one KILL").ok();
    events.wait().ok();
    running.wait().fails(137);
}

// Go's flag package, which runc's command line is read by.
#[test]
fn flags_are_written_as_runcs_may_be() {
    let host = Host::new();
    start(&host, "one", &script(&host, "exec sleep 60"));
    host.podrun("oci --debug=false -rootless=true list -q=true").ok().prints("one");
    host.podrun("oci --rootless false list --quiet=t").ok().prints("one");
    host.podrun("oci exec --tty=false -detach=false -user=7 one id -u").ok().prints("7");
    let privileges =
        |flags: &str| host.podrun(format!("oci exec {flags} one /probe facts")).facts()["noNewPrivs"].clone();
    assert_eq!((privileges("--no-new-privs"), privileges("--no-new-privs=false")), (json!(1), json!(0)));
    host.podrun("oci exec --env A one true").fails(255).says("--env[0]").says("NAME=VALUE");
    host.podrun("oci exec --tty=maybe one true").fails(255).says("neither true nor false");
    host.podrun("oci update one --kernel-memory 5m --pids-limit -1").ok().says("without effect");
    host.podrun("oci help state").ok().prints_something_like("Usage: podrun oci state");
    host.podrun("oci nosuch").fails(3);
    host.podrun("oci --root / list").fails(1).says("--root");
    host.podrun("oci delete one -force").ok();
}

// runc: fixStdioPermissions; CVE-2026-88265 for what it may not be done to.
#[test]
fn a_users_terminal_and_pipes_are_his_own() {
    let host = Host::new();
    let user = |config: &mut Value| config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let bundle = with_script(&host, "stat -c %u:%g $(tty)", |config| {
        user(config);
        config["process"]["terminal"] = json!(true);
    });
    let (code, screen) = host.command(format!("oci run --bundle {bundle} one")).at_a_terminal(24, 80).ends();
    assert!(code == 0 && screen.contains("1000:5"), "{screen}");
    let bundle = with_script(&host, "echo out > /dev/stdout; echo err > /dev/stderr", user);
    let done = host.podrun(format!("oci run --bundle {bundle} two"));
    assert_eq!((done.ok().text().as_str(), done.errors().as_str()), ("out\n", "err\n"));
    // A file stays whose it is.
    let file = host.fresh("out");
    let podrun = host.podrun_path();
    let into = format!("exec {} oci run --bundle {bundle} three >{} 2>&1", podrun.display(), file.display());
    host.program("sh").args(["-c", &into]).run();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(&file).unwrap()), 0);
}

// podrun's own descriptors, one a mount, are more than some programs may have.
#[test]
fn a_limit_of_few_open_files_is_the_programs_alone() {
    let host = Host::new();
    let source = host.rootfs();
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["/probe", "facts"]);
        config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 12, "hard": 12}]);
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        for which in ["uidMappings", "gidMappings"] {
            config["linux"][which] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        }
        let mounts = config["mounts"].as_array_mut().unwrap();
        for number in 0..20 {
            mounts.push(json!({"destination": format!("/many/{number}"), "type": "bind", "source": source.path(),
                "options": ["rbind", "ro"]}));
        }
    });
    for number in 0..20 {
        bundle.rootfs.dir(&format!("many/{number}"));
    }
    let facts = host.podrun(format!("oci run --bundle {bundle} one")).facts();
    assert_eq!(facts["rlimits"]["nofile"], json!(["12", "12"]), "{}", facts["rlimits"]);
}

// runc: the bundle, for createContainer the rootfs; and the program's variables for startContainer.
#[test]
fn hooks_start_where_runcs_do() {
    let host = Host::new();
    let hook = |to: &str| json!({"path": "/bin/sh", "args": ["sh", "-c", format!("pwd > {to}")]});
    let note = |name: &str| host.dir().join(name).display().to_string();
    let bundle = with_script(&host, "exit 0", |config| {
        config["process"]["env"] = json!(["PATH=/bin", "ONE=two"]);
        config["hooks"] = json!({
            "createRuntime": [hook(&note("runtime"))],
            "createContainer": [hook(&note("container"))],
            "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "echo $ONE $HOME > /start"]}],
            "poststop": [hook(&note("stop"))],
        });
    });
    host.podrun(format!("oci run --bundle {bundle} one")).ok();
    let read = |name: &str| fs::read_to_string(host.dir().join(name)).unwrap().trim().to_owned();
    assert_eq!(read("runtime"), bundle.path().display().to_string());
    assert_eq!(read("container"), bundle.rootfs.path().display().to_string());
    assert_eq!(read("stop"), bundle.path().display().to_string());
    assert_eq!(bundle.rootfs.read("start"), "two /root\n");
}

// `delete --force` sweeps what a creation that was cut short has left, and nothing else.
#[test]
fn a_directory_that_is_no_containers_stays() {
    let host = Host::new();
    let root = host.fresh("states");
    fs::create_dir_all(root.join("lib/precious")).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    for id in ["lib", "empty", "nothing"] {
        host.podrun(format!("oci --root {} delete --force {id}", root.display())).ok();
    }
    assert!(root.join("lib/precious").exists() && !root.join("empty").exists());
}

// config-linux.md, "Cgroup ownership".
#[test]
fn a_writable_cgroup_is_its_users() {
    let host = Host::new();
    let unified = fs::read_to_string("/proc/self/mountinfo").unwrap();
    if unified.contains(" - cgroup ") {
        podrun_tests::skip!("cgroups of v1 are delegated to nobody");
    }
    let script = "stat -c %u /sys/fs/cgroup /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/pids.max; mkdir /sys/fs/cgroup/below && echo made";
    let with = |options: Value, uid: u32| {
        with_script(&host, script, |config| {
            config["process"]["user"] = json!({"uid": uid, "gid": 0});
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|one| one["type"] != "cgroup");
            namespaces.extend([json!({"type": "user"}), json!({"type": "cgroup"})]);
            for which in ["uidMappings", "gidMappings"] {
                config["linux"][which] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            }
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| mount["type"] != "cgroup" && mount["type"] != "cgroup2");
            mounts.push(
                json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}),
            );
        })
    };
    let shown = |options: Value, uid: u32| host.podrun(format!("oci run --bundle {} one", with(options, uid))).text();
    let writable = shown(json!(["nosuid", "noexec", "nodev"]), 0);
    assert_eq!(writable.split_whitespace().collect::<Vec<_>>(), ["0", "0", "65534", "made"]);
    let users = shown(json!(["nosuid", "noexec", "nodev"]), 7);
    assert_eq!(users.split_whitespace().collect::<Vec<_>>(), ["7", "7", "65534", "made"]);
    let read_only = shown(json!(["nosuid", "noexec", "nodev", "ro"]), 0);
    assert_eq!(read_only.split_whitespace().collect::<Vec<_>>(), ["65534", "65534", "65534"]);
}

// sd_listen_fds(3): a service that is started by its socket may be a container.
#[test]
fn sockets_of_a_service_manager_are_the_programs() {
    let host = Host::new();
    let bundle = host.bundle(|config| config["process"]["args"] = json!(["/probe", "facts"]));
    let podrun = host.podrun_path();
    let given = host.fresh("given");
    fs::write(&given, "a gift").unwrap();
    let words =
        format!("LISTEN_PID=$$ LISTEN_FDS=2 exec {} oci run --preserve-fds 1 --bundle {bundle} one", podrun.display());
    let open = format!("{words} 3<{0} 4<{0} 5<{0} 6<{0}", given.display());
    let facts = host.program("sh").args(["-c", &open]).run().facts();
    assert_eq!((&facts["env"]["LISTEN_FDS"], &facts["env"]["LISTEN_PID"]), (&json!("2"), &json!("1")));
    assert_eq!(facts["fds"].as_object().unwrap().keys().collect::<Vec<_>>(), ["0", "1", "2", "3", "4", "5"]);
}

// kubelet's CPU manager gives CPUs to containers that run: on cgroup v1 in a tree that they are not in yet.
#[test]
fn a_limit_that_was_not_given_at_creation_is_given_later() {
    let host = Host::new();
    start(&host, "one", &script(&host, "sleep 60 & exec sleep 60"));
    host.podrun("oci update --cpuset-cpus 0 one").ok();
    let cpus = |words: &str| host.podrun(format!("oci exec one {words}")).ok().text();
    assert!(cpus("grep Cpus_allowed_list /proc/1/status").trim().ends_with("\t0"));
    assert_eq!(host.podrun("oci exec one /probe facts").facts()["cpus"], "0");
    host.podrun("oci delete --force one").ok();
    host.expect_nothing_left("a tree joined late");
}

// runc, mounts.bats: "mount order". The sources of a user namespace are opened before there is any mount.
#[test]
fn in_a_user_namespace_too_a_source_is_what_an_earlier_mount_has_made() {
    let host = Host::new();
    let outside = host.fresh("outside");
    fs::create_dir_all(outside.join("sub")).unwrap();
    fs::write(outside.join("sub/file"), "volume\n").unwrap();
    let with = |mounts: Value| {
        let bundle = with_script(&host, "cat /sub/file /whole/sub/file", |config| {
            config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
            for which in ["uidMappings", "gidMappings"] {
                config["linux"][which] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            }
            config["mounts"].as_array_mut().unwrap().extend_from_slice(mounts.as_array().unwrap());
        });
        for place in ["data", "sub", "whole"] {
            bundle.rootfs.dir(place);
        }
        host.podrun(format!("oci run --bundle {bundle} one"))
    };
    let bind = |source: &str, to: &str, how: &str| json!({"destination": to, "type": "bind", "source": source, "options": [how]});
    let volume = bind(outside.to_str().unwrap(), "/data", "rbind");
    let sub = |how: &str| {
        let mut mount = bind("rootfs/data/sub", "/sub", "rbind");
        mount["options"].as_array_mut().unwrap().extend((!how.is_empty()).then(|| json!(how)));
        mount
    };
    with(json!([volume, sub(""), bind("rootfs/data", "/whole", "bind")])).ok().prints("volume\nvolume");
    // Those of the host's filesystem are the host's to map, and it has never seen this mount.
    with(json!([volume, sub("idmap")])).fails(1).says("map the IDs of the mount on /sub").says("map them there");
}

// runc-exec(8), and exec.bats: "exec --cgroup sub-cgroups [v1]".
#[test]
fn exec_joins_cgroups_below_by_controller_where_there_is_v1() {
    let host = Host::new();
    if !fs::read_to_string("/proc/self/mountinfo").unwrap().contains(" - cgroup ") {
        podrun_tests::skip!("this host has cgroup v2 alone");
    }
    let limits = json!({"memory": {"limit": 100_000_000}, "cpu": {"shares": 100}});
    start(&host, "one", &with_script(&host, "exec sleep 60", |config| with_writable_cgroup(config, &limits)));
    let exec = |words: &str| host.podrun(format!("oci exec {words} /bin/sh -c 'cat /proc/self/cgroup'"));
    // The path in the line of a controller, as a cgroup namespace shows it.
    let paths = |words: &str| {
        let text = exec(words).ok().text();
        let of = |name: &str| {
            let line = text
                .lines()
                .find(|line| line.split(':').nth(1).is_some_and(|all| all.split(',').any(|one| one == name)));
            line.and_then(|line| line.splitn(3, ':').nth(2)).unwrap_or_else(|| panic!("{name}: {text}")).to_owned()
        };
        [of("memory"), of("cpu")]
    };
    host.podrun("oci exec one mkdir -p /sys/fs/cgroup/memory/mem /sys/fs/cgroup/cpu/both /sys/fs/cgroup/memory/both")
        .ok();
    for (words, expected) in [
        ("one", ["/", "/"]),
        ("--cgroup / one", ["/", "/"]),
        ("--cgroup memory:mem one", ["/mem", "/"]),
        ("--cgroup memory:/mem --cgroup cpu:both one", ["/mem", "/both"]),
        ("--cgroup memory,cpu:both one", ["/both", "/both"]),
    ] {
        assert_eq!(paths(words), expected, "{words}");
    }
    for (words, cause) in [
        ("--cgroup mem one", "use --cgroup: open"),
        ("--cgroup cpu:none one", "No such file"),
        ("--cgroup ..", "not a plain path"),
        ("--cgroup cpu:../x", "not a plain path"),
        ("--cgroup whaaat:/", "the container is in no cgroup v1 tree of it"),
        ("--cgroup cpu:a --cgroup b", "of several each names its controllers"),
        ("--cgroup cpu:a --cgroup memory,cpu:b", "the controller cpu twice"),
    ] {
        exec(&format!("{words} one")).fails(255).says(cause);
    }
    host.podrun("oci delete --force one").ok();
}

// runc-exec(8), and exec.bats: "exec --cgroup subcgroup [v2]". cgroups(7): no process beside cgroups with controllers.
#[test]
fn exec_follows_a_first_process_that_has_gone_below() {
    let host = Host::on_cgroup2();
    let Some((controller, limits)) = asking_controller(&host) else {
        podrun_tests::skip!("the unified tree has no controller that asks for it");
    };
    start(&host, "one", &with_script(&host, "exec sleep 60", |config| with_writable_cgroup(config, &limits)));
    let shell = |words: &str, script: &str| host.podrun(format!("oci exec {words} one sh -c '{script}'"));
    let place = |words: &str| shell(words, "grep ^0:: /proc/self/cgroup").ok().text().trim().to_owned();
    shell("", "mkdir /sys/fs/cgroup/first /sys/fs/cgroup/second && echo 1 > /sys/fs/cgroup/first/cgroup.procs").ok();
    assert_eq!([place(""), place("--cgroup /"), place("--cgroup second")], ["0::/", "0::/", "0::/second"]);
    let hand_down = format!(
        "echo $$ > /sys/fs/cgroup/first/cgroup.procs; echo +{controller} > /sys/fs/cgroup/cgroup.subtree_control"
    );
    shell("", &hand_down).ok();
    // Its own may hold no process any more.
    assert_eq!(
        [place(""), place("--cgroup first"), place("--cgroup /second")],
        ["0::/first", "0::/first", "0::/second"]
    );
    shell("--cgroup /", "true").fails(255).says("may hold no process");
    shell("--cgroup none", "true").fails(255).says("No such file");
    shell("--cgroup ../..", "true").fails(255).says("not a plain path");
    shell("--cgroup memory:second", "true").fails(255).says("cgroup v2 has one tree for all of them");
    host.podrun("oci delete --force one").ok();
}

// config-linux.md, rootfsPropagation: the rootfs mount's. Found beside crun.
#[test]
fn a_mount_keeps_the_propagation_that_it_asks_for_whatever_the_roots_is() {
    let host = Host::new();
    let outside = host.fresh("outside");
    fs::create_dir_all(&outside).unwrap();
    let seen = |root: &str, own_users: bool| {
        let bundle = host.bundle(|config| {
            config["process"]["args"] = json!(["/probe", "facts"]);
            config["linux"]["rootfsPropagation"] = json!(root);
            if own_users {
                config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
                for which in ["uidMappings", "gidMappings"] {
                    config["linux"][which] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
                }
            }
            for (at, options) in [("/plain", json!(["rbind"])), ("/shared", json!(["rbind", "rshared"]))] {
                let bind = json!({"destination": at, "type": "bind", "source": outside, "options": options});
                config["mounts"].as_array_mut().unwrap().push(bind);
            }
        });
        bundle.rootfs.dir("plain").dir("shared");
        let facts = host.podrun(format!("oci run --bundle {bundle} one")).facts();
        let of = |at: &str| {
            let mount = facts["mounts"].as_array().unwrap().iter().find(|one| one["at"] == at).unwrap().clone();
            let words = mount["propagation"].as_array().unwrap().iter().filter_map(Value::as_str);
            words.map(|word| word.split(':').next().unwrap_or_default().to_owned()).collect::<Vec<_>>().join(" ")
        };
        ["/", "/plain", "/shared"].map(of)
    };
    for own_users in [false, true] {
        assert_eq!(seen("private", own_users), ["", "", "shared"], "user namespace: {own_users}");
        assert_eq!(seen("rprivate", own_users), ["", "", "shared"], "user namespace: {own_users}");
        assert_eq!(seen("slave", own_users), ["master", "master", "shared master"], "user namespace: {own_users}");
    }
}

// Its number in the namespace that it joins is somebody else's on the host, whom a KILL would reach.
#[test]
fn a_container_that_joins_users_and_pids_is_known_by_its_own_number() {
    let host = Host::new();
    let mapped = |config: &mut Value| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        for which in ["uidMappings", "gidMappings"] {
            config["linux"][which] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        }
    };
    start(&host, "one", &with_script(&host, "exec sleep 60", mapped));
    let first = state(&host, "one")["pid"].clone();
    let joining = with_script(&host, "exec sleep 60", |config| {
        mapped(config);
        for one in config["linux"]["namespaces"].as_array_mut().unwrap() {
            let kind = one["type"].as_str().unwrap().to_owned();
            if kind == "user" || kind == "pid" {
                one["path"] = json!(format!("/proc/{first}/ns/{kind}"));
            }
        }
        for which in ["uidMappings", "gidMappings"] {
            config["linux"].as_object_mut().unwrap().remove(which);
        }
    });
    start(&host, "two", &joining);
    let second = state(&host, "two")["pid"].clone();
    for kind in ["user", "pid"] {
        let of = |pid: &Value| fs::read_link(host.outside(format!("/proc/{pid}/ns/{kind}"))).unwrap();
        assert_eq!(of(&second), of(&first), "{kind} of {second}");
    }
    host.podrun("oci exec two id -u").ok().prints("0");
    assert!(host.podrun("oci ps --format json two").json().as_array().unwrap().contains(&second));
    host.podrun("oci kill two KILL").ok();
    until(&host, "two", "stopped");
    host.podrun("oci delete two").ok();
    host.podrun("oci delete --force one").ok();
}
