//! The fields of the runtime specification 1.3 that concern a process, its mounts, devices and filters: what each one does in
//! a container, and the sentence where it cannot.

#![forbid(unsafe_code)]

use podrun_tests::{Bundle, Host, Outcome, Value, json, note_skip};

fn run_on(host: &Host, bundle: &Bundle) -> Outcome {
    if host.podrun("inspect web").code() != 0 {
        host.pod("web");
    }
    host.podrun(format!("run web/{} --bundle {bundle}", bundle.path().file_name().unwrap().display()))
}

fn run(host: &Host, change: impl FnOnce(&mut Value)) -> Outcome {
    run_on(host, &host.bundle(change))
}

/// A container is refused before anything is made, with one line that has these words.
fn refused(host: &Host, words: &str, change: impl FnOnce(&mut Value)) {
    run(host, change).fails(125).says(words).with_one_line();
}

// config.md, process.scheduler: every policy of Linux, with what belongs to it.
#[test]
fn the_program_is_scheduled_as_written() {
    let host = Host::new();
    host.pod("web");
    let real_time = real_time_of(&host);
    let scheduled = |scheduler: Value| {
        run(&host, |config| {
            config["process"]["scheduler"] = scheduler;
            config["linux"]["resources"]["cpu"] = real_time.clone();
        })
    };
    for (scheduler, policy, priority, nice) in [
        (json!({"policy": "SCHED_OTHER", "nice": -5}), 0, 0, -5),
        (json!({"policy": "SCHED_BATCH", "nice": 7}), 3, 0, 7),
        (json!({"policy": "SCHED_IDLE"}), 5, 0, 0),
        (json!({"policy": "SCHED_FIFO", "priority": 3}), 1, 3, 0),
        (json!({"policy": "SCHED_RR", "priority": 4, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}), 2, 4, 0),
    ] {
        let facts = scheduled(scheduler.clone()).facts();
        let wanted = json!({"policy": policy, "priority": priority, "nice": nice});
        assert_eq!(facts["scheduling"], wanted, "{scheduler}");
    }
    let deadline = json!({"policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 9_000_000, "period": 10_000_000,
        "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
    match scheduled(deadline) {
        done if done.code() == 0 => assert_eq!(done.facts()["scheduling"]["policy"], 6),
        // A cgroup whose CPUs are not all that there are may have no deadlines (sched(7)).
        refused => {
            refused.fails(125).says("process.scheduler").says("hint: ");
            note_skip("this host withholds SCHED_DEADLINE");
        }
    }
}

/// What a container must ask for to have real-time at all: below a cgroup v1 of a kernel with RT_GROUP_SCHED a share of it,
/// which the cgroups above have first.
fn real_time_of(host: &Host) -> Value {
    let pod = host.inspect("web")["cgroup"].as_str().unwrap().to_owned();
    let pod = std::path::Path::new("/sys/fs/cgroup/cpu").join(pod);
    if !pod.join("cpu.rt_runtime_us").exists() {
        return json!({});
    }
    for place in [pod.parent().unwrap(), &pod] {
        std::fs::write(place.join("cpu.rt_runtime_us"), "90000").unwrap();
    }
    json!({"realtimeRuntime": 10_000})
}

// An exec'd program is the container's: it is scheduled like it, and nobody else is.
#[test]
fn an_execd_program_is_scheduled_like_its_container_and_its_neighbour_is_not() {
    let host = Host::new();
    host.pod("web");
    let tuned = host.bundle(|config| {
        config["process"]["args"] = json!(["/probe", "sleep", "60"]);
        config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 9});
        config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
        config["linux"]["personality"] = json!({"domain": "LINUX32"});
    });
    host.podrun(format!("run -d web/tuned --bundle {tuned}")).ok();
    let exec = host.podrun("exec web/tuned -- /probe").facts();
    assert_eq!(exec["scheduling"], json!({"policy": 3, "priority": 0, "nice": 9}));
    assert_eq!((&exec["ioPriority"], &exec["personality"]), (&json!(3 << 13), &json!("00000008")));
    let plain = run(&host, |_| ()).facts();
    assert_eq!(plain["scheduling"], json!({"policy": 0, "priority": 0, "nice": 0}));
    assert_eq!((&plain["ioPriority"], &plain["personality"]), (&json!(0), &json!("00000000")));
}

// config.md, process.ioPriority; config-linux.md, personality and memoryPolicy.
#[test]
fn io_priority_personality_and_memory_policy_are_as_written() {
    let host = Host::new();
    let io = |class: &str, level: u8| {
        let asked = json!({"class": format!("IOPRIO_CLASS_{class}"), "priority": level});
        run(&host, |config| config["process"]["ioPriority"] = asked).facts()["ioPriority"].clone()
    };
    assert_eq!([io("RT", 2), io("BE", 7), io("IDLE", 0)], [1 << 13 | 2, 2 << 13 | 7, 3 << 13].map(Value::from));
    let facts = run(&host, |config| config["linux"]["personality"] = json!({"domain": "LINUX32"})).facts();
    assert_eq!(facts["personality"], "00000008");
    if std::env::consts::ARCH == "x86_64" {
        assert_eq!(facts["machine"], "i686");
    }
    let policy = |asked: Value| run(&host, |config| config["linux"]["memoryPolicy"] = asked);
    if !std::path::Path::new("/proc/self/numa_maps").exists() {
        policy(json!({"mode": "MPOL_BIND", "nodes": "0"})).fails(125).says("linux.memoryPolicy");
        return note_skip("this kernel has no NUMA");
    }
    let found = |asked: Value| policy(asked).facts()["memoryPolicy"].clone();
    assert_eq!(found(json!({"mode": "MPOL_BIND", "nodes": "0"})), "bind:0");
    assert_eq!(
        found(json!({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]})),
        "interleave=static:0"
    );
    assert_eq!(found(json!({"mode": "MPOL_PREFERRED", "nodes": "0"})), "prefer:0");
    assert_eq!(found(json!({"mode": "MPOL_LOCAL"})), "local");
    assert_eq!(found(json!({"mode": "MPOL_DEFAULT"})), "default");
    // A node that this host lacks is the kernel's to refuse.
    policy(json!({"mode": "MPOL_BIND", "nodes": "1000"})).fails(125).says("set linux.memoryPolicy: Invalid argument");
}

// config.md, process.execCPUAffinity: "This setting is not applicable to the container's init process."
#[test]
fn the_cpus_of_an_exec_are_as_written_and_of_nobody_else() {
    let host = Host::new();
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    if online.trim() == "0" {
        return note_skip("one CPU cannot be told from another");
    }
    host.pod("web");
    let asleep = |affinity: Value| {
        host.bundle(|config| {
            config["process"]["args"] = json!(["/probe", "sleep", "60"]);
            config["process"]["execCPUAffinity"] = affinity;
        })
    };
    let bundle = asleep(json!({"initial": "0", "final": "1"}));
    host.podrun(format!("run -d web/a --bundle {bundle}")).ok();
    assert_eq!(host.podrun("exec web/a -- /probe").facts()["cpus"], "1");
    let cpus = |pid: &Value| {
        let status = host.read(format!("/proc/{pid}/status"));
        status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned()
    };
    assert_eq!(cpus(&host.container("web", "a")["pid"]), online.trim());
    assert_eq!(cpus(&host.inspect("web")["monitor"]["pid"]), online.trim());
    // Nothing said of the end of the way: it is the kernel's, and no error.
    let bundle = asleep(json!({"initial": "0", "final": ""}));
    host.podrun(format!("run -d web/b --bundle {bundle}")).ok();
    host.podrun("exec web/b -- /probe").ok();
    let bundle = asleep(json!({"final": "8000"}));
    host.podrun(format!("run -d web/c --bundle {bundle}")).ok();
    host.podrun("exec web/c -- /probe").fails(125).says("set process.execCPUAffinity.final: Invalid argument");
}

// session-keyring(7): keys are not divided by namespaces, so whoever shares the keyring shares the keys.
#[test]
fn each_container_and_each_exec_has_a_session_keyring_of_its_own() {
    let host = Host::new();
    host.pod("web");
    let asleep = host.bundle(|config| config["process"]["args"] = json!(["/probe", "sleep", "60"]));
    host.podrun(format!("run -d web/asleep --bundle {asleep}")).ok();
    let one = |outcome: Outcome| outcome.facts()["sessionKeyring"].as_i64();
    let mut keyrings =
        vec![one(run(&host, |_| ())), one(run(&host, |_| ())), one(host.podrun("exec web/asleep -- /probe"))];
    if keyrings.iter().all(Option::is_none) {
        return note_skip("this host withholds keyctl(2)");
    }
    keyrings.sort_unstable();
    keyrings.dedup();
    assert!(keyrings.len() == 3 && keyrings[0].is_some(), "{keyrings:?}");
}

#[test]
fn what_a_process_cannot_have_is_told_with_its_path() {
    let host = Host::new();
    for (field, value, words) in [
        ("scheduler", json!({"policy": "SCHED_FIFO"}), "process.scheduler.priority: 0 is not within 1 and 99"),
        ("scheduler", json!({"policy": "SCHED_OTHER", "nice": 20}), "process.scheduler.nice: 20 is not"),
        ("scheduler", json!({"policy": "SCHED_ISO"}), "process.scheduler.policy: SCHED_ISO"),
        ("scheduler", json!({"policy": "SCHED_FAIR"}), "process.scheduler.policy: unknown variant `SCHED_FAIR`"),
        ("scheduler", json!({"policy": "SCHED_RR", "flags": ["X"]}), "process.scheduler.flags[0]: unknown variant `X`"),
        ("ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 8}), "process.ioPriority.priority: 8 is not"),
        ("execCPUAffinity", json!({"initial": "1-0"}), "process.execCPUAffinity.initial: \"1-0\" begins after its end"),
    ] {
        refused(&host, words, |config| config["process"][field] = value);
    }
    for (field, value, words) in [
        ("personality", json!({"domain": "LINUX", "flags": ["X"]}), "linux.personality.flags[0]: \"X\""),
        ("personality", json!({"domain": "BSD"}), "linux.personality.domain: unknown variant `BSD`"),
        ("memoryPolicy", json!({"mode": "MPOL_BIND"}), "linux.memoryPolicy.nodes: missing"),
        (
            "memoryPolicy",
            json!({"mode": "MPOL_BIND", "nodes": "x"}),
            "linux.memoryPolicy.nodes: \"x\": expected numbers",
        ),
    ] {
        refused(&host, words, |config| config["linux"][field] = value);
    }
}

// config.md, domainname; in a pod all containers share the UTS namespace, so it is the pod's, like the sysctl of that name.
#[test]
fn a_domain_name_is_the_pods_and_never_the_hosts() {
    let host = Host::new();
    host.pod("web");
    assert_eq!(run(&host, |config| config["domainname"] = json!("example.org")).facts()["domainname"], "example.org");
    assert_eq!(run(&host, |_| ()).facts()["domainname"], "example.org", "its neighbour has the same namespace");
    host.podrun("create pod on-host --host-uts").ok();
    let before = host.read("/proc/sys/kernel/domainname");
    let bundle = host.bundle(|config| config["domainname"] = json!("example.org"));
    let words = "domainname \"example.org\": the pod has no UTS namespace of its own";
    host.podrun(format!("run on-host/a --bundle {bundle}")).fails(125).says(words);
    assert_eq!(host.read("/proc/sys/kernel/domainname"), before);
    let long = "d".repeat(65);
    refused(&host, "domainname", |config| config["domainname"] = json!(long));
    refused(&host, "expected at most 64 bytes and no control character", |config| config["domainname"] = json!("a\0b"));
}

// config.md, process.apparmorProfile; where the host has none, a profile is not passed over in silence.
#[test]
fn an_apparmor_profile_is_taken_on_or_refused() {
    let host = Host::new();
    let with = |profile: &str| run(&host, |config| config["process"]["apparmorProfile"] = json!(profile));
    if !std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y")) {
        with("strict").fails(125).with_one_line().says("process.apparmorProfile \"strict\": this host has no AppArmor");
        with("").ok();
        return note_skip("this host has no AppArmor");
    }
    with("unconfined").ok();
    with("podrun-has-none").fails(125).says("set process.apparmorProfile to podrun-has-none: No such file");
}

// config.md, process.selinuxLabel; config-linux.md, mountLabel.
#[test]
fn selinux_labels_are_taken_on_or_refused() {
    let host = Host::new();
    let context = "system_u:system_r:container_t:s0:c1,c2";
    if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        let facts = run(&host, |config| config["process"]["selinuxLabel"] = json!(context));
        return assert!(
            facts.code() == 0 || facts.errors().contains("set process.selinuxLabel to"),
            "{}",
            facts.errors()
        );
    }
    let words = format!("process.selinuxLabel \"{context}\": this host has no SELinux");
    refused(&host, &words, |config| config["process"]["selinuxLabel"] = json!(context));
    let words = format!("linux.mountLabel \"{context}\": this host has no SELinux");
    refused(&host, &words, |config| config["linux"]["mountLabel"] = json!(context));
    run(&host, |config| config["process"]["selinuxLabel"] = json!("")).ok();
    note_skip("this host has no SELinux");
}

// config-linux.md, devices: fileMode, uid and gid; "If a file already exists at path that does not match the requested device,
// the runtime MUST generate an error."
#[test]
fn a_device_has_its_mode_and_owner_and_what_is_in_its_place_is_told() {
    let host = Host::new();
    let device =
        |path: &str| json!({"path": path, "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7, "gid": 8});
    let with = |devices: Value, script: &str| {
        run(&host, |config| {
            config["linux"]["devices"] = devices;
            config["root"]["readonly"] = json!(false);
            config["process"]["args"] = json!(["/bin/sh", "-c", script]);
        })
    };
    let pipe = json!({"path": "/dev/queue", "type": "p", "fileMode": 0o711, "gid": 9});
    let devices = json!([device("/dev/mine"), device("/elsewhere/mine"), pipe]);
    let out = with(devices, "stat -c '%n %F %a %u:%g %t,%T' /dev/mine /elsewhere/mine /dev/queue");
    out.ok().prints(
        "/dev/mine character special file 640 7:8 1,5\n/elsewhere/mine character special file 640 7:8 1,5\n\
         /dev/queue fifo 711 0:9 0,0",
    );
    with(json!([device("/bin/sh")]), "true").fails(125).says("make the device /bin/sh: File exists");
}
