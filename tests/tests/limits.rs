//! cgroups(7): what a container may use, and what is said when it used too much.

use podrun_tests::{Bundle, Host, Value, json};
use std::path::{Path, PathBuf};

/// A container's directory in one hierarchy.
fn cgroup(host: &Host, hierarchy: &str, container: &str) -> PathBuf {
    let pod = host.inspect("web")["id"].as_str().unwrap().to_owned();
    Path::new("/sys/fs/cgroup").join(hierarchy).join(host.cgroup_name()).join(pod).join(container)
}

/// The same where this controller counts: on v1 it has a tree of its own, on v2 alone there is but one.
fn counted_by(host: &Host, controller: &str, container: &str) -> PathBuf {
    cgroup(host, if version1() { controller } else { "" }, container)
}

#[track_caller]
fn value(dir: &Path, file: &str) -> String {
    let path = dir.join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display())).trim().to_owned()
}

fn sleeper(host: &Host, resources: &Value) -> Bundle {
    let bundle = host.bundle(|config| {
        config["linux"]["resources"] = resources.clone();
        config["process"]["args"] = json!(["/probe", "sleep", "60"]);
    });
    host.pod("web");
    bundle
}

fn version1() -> bool {
    Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists()
        || Path::new("/sys/fs/cgroup/memory/tasks").exists()
}

// config-linux.md, "Control groups": memory, cpu, pids, cpuset.
#[test]
fn limits_of_the_config_are_those_of_the_kernel() {
    let host = Host::new();
    let bundle = sleeper(
        &host,
        &json!({
            "memory": { "limit": 33_554_432, "reservation": 16_777_216 },
            "cpu": { "shares": 512, "quota": 20000, "period": 100_000, "cpus": "0", "mems": "0" },
            "pids": { "limit": 17 },
        }),
    );
    host.podrun(format!("run web/a -d --bundle {bundle}")).ok();
    // Half of the usual shares is not half of the usual weight: each has its own middle and ends (cgroup/v2.rs).
    let (version1_files, version2_files) = (
        [
            ("memory", "memory.limit_in_bytes", "33554432"),
            ("memory", "memory.soft_limit_in_bytes", "16777216"),
            ("cpu", "cpu.shares", "512"),
            ("cpu", "cpu.cfs_quota_us", "20000"),
            ("cpuset", "cpuset.cpus", "0"),
            ("pids", "pids.max", "17"),
        ],
        [
            ("memory", "memory.max", "33554432"),
            ("memory", "memory.low", "16777216"),
            ("cpu", "cpu.weight", "59"),
            ("cpu", "cpu.max", "20000 100000"),
            ("cpuset", "cpuset.cpus", "0"),
            ("pids", "pids.max", "17"),
        ],
    );
    for (controller, file, expected) in if version1() { version1_files } else { version2_files } {
        assert_eq!(value(&counted_by(&host, controller, "a"), file), expected, "{file}");
    }
}

// Issue 3, 4: "The pod and each container have their own cgroup."
#[test]
fn every_process_of_a_container_is_in_its_cgroup_in_each_hierarchy() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 60");
    let pid = host.container("web", "a")["pid"].to_string();
    let pod = host.inspect("web")["id"].as_str().unwrap().to_owned();
    let expected = format!("/{}/{pod}/a", host.cgroup_name());
    let all = host.read(format!("/proc/{pid}/cgroup"));
    let version1_trees = if version1() { &[":memory:", ":pids:", ":cpu:", ":cpuacct:", ":devices:"][..] } else { &[] };
    for tree in version1_trees.iter().chain(&["0::"]) {
        let line = all.lines().find(|line| line.contains(tree)).unwrap_or_else(|| panic!("no {tree} in {all}"));
        assert!(line.ends_with(&expected), "{line}");
    }
}

#[test]
fn podruns_own_processes_are_in_a_cgroup_of_the_pod_and_in_no_containers() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 60");
    let pod = host.inspect("web");
    for part in ["pause", "monitor", "pump"] {
        let cgroups = host.read(format!("/proc/{}/cgroup", pod[part]["pid"]));
        assert!(
            cgroups.contains(&format!("{}/{}/_podrun", host.cgroup_name(), pod["id"].as_str().unwrap())),
            "{part}: {cgroups}"
        );
    }
}

// pitfalls.md 13: OOM is read from the kernel's own counter.
#[test]
fn a_container_that_ate_too_much_is_oom_killed() {
    let host = Host::new();
    host.pod("web");
    let bundle = host.bundle(|config| {
        config["linux"]["resources"] = json!({ "memory": { "limit": 16_777_216, "swap": 16_777_216 } });
        config["process"]["args"] = json!(["/probe", "eat", "200"]);
    });
    host.podrun(format!("run web/a --bundle {bundle}")).fails(137);
    let ended = host.container("web", "a");
    assert_eq!(json!([ended["reason"], ended["exitCode"]]), json!(["OOMKilled", 137]));
}

// pitfalls.md 13: "never infer from 137".
#[test]
fn a_container_killed_from_outside_is_not_oom_killed() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 60");
    host.kill(&host.container("web", "a")["pid"], libc::SIGKILL);
    let ended = host.until("web", "a", "Exited");
    assert_eq!(ended["exitCode"], 137);
    assert_ne!(ended["reason"], "OOMKilled");
}

// kernel-costs.md: "a child's OOM kill that init survives must not colour a later SIGKILL".
#[test]
fn a_child_that_was_oom_killed_does_not_colour_a_later_kill() {
    let host = Host::new();
    host.pod("web");
    let bundle = host.bundle(|config| {
        config["linux"]["resources"] = json!({ "memory": { "limit": 16_777_216, "swap": 16_777_216 } });
        config["process"]["args"] = json!(["/bin/sh", "-c", "/probe eat 200; echo child $?; exec /probe sleep 60"]);
    });
    host.podrun(format!("run web/a -d --bundle {bundle}")).ok();
    podrun_tests::eventually("the child is killed", std::time::Duration::from_secs(10), || {
        host.podrun("logs web -c a").text().contains("child 137").then_some(())
    });
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(host.container("web", "a")["state"], "Running");
    host.podrun("kill web -c a").ok();
    let ended = host.until("web", "a", "Exited");
    assert_eq!(ended["exitCode"], 137);
    assert_ne!(ended["reason"], "OOMKilled");
}

// pitfalls.md 13: the kernel counts a kill where the victim was, whoever's limit it was.
#[test]
fn a_kill_by_the_limit_of_the_pod_is_told_of_the_container_that_was_killed() {
    let host = Host::new();
    host.pod("web");
    host.start("web/quiet", "", "/probe sleep 600");
    let pod = counted_by(&host, "memory", "quiet").parent().unwrap().to_owned();
    for (file, limit) in [
        ("memory.limit_in_bytes", "33554432"),
        ("memory.memsw.limit_in_bytes", "33554432"),
        ("memory.max", "33554432"),
        ("memory.swap.max", "0"),
    ] {
        let path = host.outside(pod.join(file));
        if path.exists() {
            std::fs::write(path, limit).unwrap();
        }
    }
    host.start("web/hungry", "", "/probe eat 200");
    let ended = host.until("web", "hungry", "Exited");
    assert_eq!(json!([ended["reason"], ended["exitCode"]]), json!(["OOMKilled", 137]));
    assert_eq!(host.container("web", "quiet")["state"], "Running");
    host.podrun("kill web -c quiet").ok();
    assert_ne!(host.until("web", "quiet", "Exited")["reason"], "OOMKilled");
}

// config-linux.md, "pids".
#[test]
fn a_container_cannot_have_more_processes_than_it_may() {
    let host = Host::new();
    host.pod("web");
    let bundle = host.bundle(|config| {
        config["linux"]["resources"] = json!({ "pids": { "limit": 5 } });
        config["process"]["args"] = json!(["/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; echo done"]);
    });
    let out = host.podrun(format!("run web/a --bundle {bundle}"));
    assert!(out.errors().contains("fork"), "{out:?}");
}

// config-linux.md, "Allowed Device list".
#[test]
fn a_device_that_is_not_allowed_cannot_be_opened() {
    let host = Host::new();
    host.pod("web");
    let bundle = host.bundle(|config| {
        config["linux"]["resources"] = json!({ "devices": [
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 1, "minor": 11, "access": "r" },
        ] });
        config["root"]["readonly"] = json!(false);
        config["process"]["args"] =
            json!(["/probe", "try-all", "read,/mem", "write,/kmsg", "read,/dev/zero", "write,/dev/null"]);
    });
    let node = |name: &str, minor: u64| {
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
        let kind = nix::sys::stat::SFlag::S_IFCHR;
        nix::sys::stat::mknod(&bundle.rootfs.path().join(name), kind, mode, nix::sys::stat::makedev(1, minor)).unwrap();
    };
    node("mem", 1);
    node("kmsg", 11);
    host.podrun(format!("run web/a --bundle {bundle}"))
        .ok()
        .prints("read,/mem: EPERM\nwrite,/kmsg: EPERM\nread,/dev/zero: ok\nwrite,/dev/null: ok");
}

// config-linux.md, "Allowed Device list": the last rule that fits decides. On v2 the rules are a program, which the kernel
// refuses whole if one instruction of it cannot be reached (check_cfg in kernel/bpf/verifier.c).
#[test]
fn rules_for_devices_hold_in_whatever_order_they_come() {
    let host = Host::on_cgroup2();
    host.pod("web");
    let rule = |allow: bool, kind: &str, device: &[u64], access: &str| {
        let mut rule = json!({ "allow": allow, "type": kind, "access": access });
        device.iter().zip(["major", "minor"]).for_each(|(number, name)| rule[name] = json!(number));
        rule
    };
    let (nothing, everything) = (rule(false, "a", &[], "rwm"), rule(true, "a", &[], "rwm"));
    let (reads, whole) = (rule(true, "c", &[1, 11], "r"), rule(true, "c", &[1, 11], "rwm"));
    let (no_kmsg, chars) = (rule(false, "c", &[1, 11], "rw"), rule(true, "c", &[], "rwm"));
    let (blocks, of_memory) = (rule(true, "b", &[], "rwm"), rule(true, "c", &[1], "rw"));
    for (n, (rules, wanted)) in [
        (json!([nothing, reads]), "EPERM"),
        (json!([nothing, whole]), "ok"),
        (json!([nothing, whole, chars]), "ok"),
        (json!([nothing, chars, whole, no_kmsg]), "EPERM"),
        (json!([nothing, no_kmsg, everything]), "ok"),
        (json!([everything, no_kmsg]), "EPERM"),
        (json!([nothing, blocks, of_memory, blocks]), "ok"),
        (json!([everything, nothing, blocks]), "EPERM"),
    ]
    .into_iter()
    .enumerate()
    {
        let shown = rules.to_string();
        let bundle = host.bundle(|config| {
            config["linux"]["resources"] = json!({ "devices": rules });
            config["root"]["readonly"] = json!(false);
            config["process"]["args"] = json!(["/probe", "try-all", "write,/kmsg", "write,/dev/null"]);
        });
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
        let (kind, device) = (nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::makedev(1, 11));
        nix::sys::stat::mknod(&bundle.rootfs.path().join("kmsg"), kind, mode, device).unwrap();
        let out = host.podrun(format!("run web/a{n} --bundle {bundle}"));
        assert_eq!(out.ok().text(), format!("write,/kmsg: {wanted}\nwrite,/dev/null: ok\n"), "{shown}");
    }
}

// Issue 3: the system tests also run on the private cgroup2 view.
#[test]
fn a_pod_works_where_cgroup_v2_is_all_there_is() {
    let host = Host::on_cgroup2();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 60");
    host.podrun("exec web/a -- /probe exit 3").fails(3);
    let pid = host.container("web", "a")["pid"].to_string();
    let pod = host.inspect("web")["id"].as_str().unwrap().to_owned();
    let unified = host.read(format!("/proc/{pid}/cgroup"));
    let unified = unified.lines().find(|line| line.starts_with("0::")).unwrap();
    assert!(unified.ends_with(&format!("/{}/{pod}/a", host.cgroup_name())), "{unified}");
    host.podrun("stop web --time 0").ok();
    assert_eq!(host.container("web", "a")["exitCode"], 137);
}

// pitfalls.md 39: "missing controller + requested limit -> error, not silence".
#[test]
fn a_limit_whose_controller_is_missing_is_an_error() {
    if !version1() {
        podrun_tests::skip!("every controller is on cgroup v2 here");
    }
    let host = Host::on_cgroup2();
    let bundle = sleeper(&host, &json!({ "memory": { "limit": 33_554_432 } }));
    host.podrun(format!("run web/a --bundle {bundle}")).fails(125).with_one_line().says("memory");
}

// pitfalls.md 17 and issue 3, bad input: "a frozen cgroup"; crun 1.26 hangs for ever.
#[test]
fn a_frozen_pod_cgroup_is_told_at_once() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 60");
    // On a hybrid host the unified tree freezes, where there is one.
    let (file, frozen, thawed) = match Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists() {
        true => (cgroup(&host, "unified", "a"), "1", "0"),
        false if version1() => (cgroup(&host, "freezer", "a"), "FROZEN", "THAWED"),
        false => (cgroup(&host, "", "a"), "1", "0"),
    };
    let pod = file.parent().unwrap();
    let file = if frozen == "1" { pod.join("cgroup.freeze") } else { pod.join("freezer.state") };
    std::fs::write(&file, frozen).unwrap();
    let said = host.running("web/b", "", "/probe say hi").limit(std::time::Duration::from_secs(10)).run();
    std::fs::write(&file, thawed).unwrap();
    said.fails(125).with_one_line().within(std::time::Duration::from_secs(2));
}

// Issue 3, bad input: "a full pid cgroup".
#[test]
fn a_full_pid_cgroup_is_told() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 60");
    let pod = counted_by(&host, "pids", "a").parent().unwrap().to_owned();
    std::fs::write(pod.join("pids.max"), value(&pod, "pids.current")).unwrap();
    host.run("web/b", "", "/probe say hi").fails(125).with_one_line();
    host.podrun("exec web/a -- /probe").fails(125).with_one_line();
    std::fs::write(pod.join("pids.max"), "max").unwrap();
    host.run("web/c", "", "/probe say hi").ok().prints("hi");
}

// design.md, processes 7: "512 KiB for a pod of three containers at first".
#[test]
fn podruns_own_processes_have_less_than_512_kib_for_themselves() {
    let host = Host::new();
    if host.podrun_path().components().any(|part| part.as_os_str() == "debug") {
        podrun_tests::skip!("a debug build has no memory budget");
    }
    // A pod of the same kind beside it, since the pages of the program's file are shared between pods.
    for pod in ["other", "web"] {
        host.pod(pod);
        ["a", "b", "c"].iter().for_each(|name| host.start(&format!("{pod}/{name}"), "", "/probe sleep 60"));
    }
    let pod = host.inspect("web");
    let each = ["pause", "monitor", "pump"].map(|part| host.private_kib(&pod[part]["pid"]));
    assert!(each.iter().sum::<u64>() <= 512, "pause, monitor, pump: {each:?} KiB");
}

// config-linux.md, "Huge page limits", in whichever tree counts them.
#[test]
fn hugetlb_limits_are_those_of_the_kernel() {
    let on_version2 = |tree: &str| {
        let controllers = Path::new("/sys/fs/cgroup").join(tree).join("cgroup.controllers");
        let controllers = std::fs::read_to_string(controllers).unwrap_or_default();
        controllers.split_whitespace().any(|controller| controller == "hugetlb")
    };
    let (hierarchy, file) = if on_version2("") {
        ("", "max")
    } else if on_version2("unified") {
        ("unified", "max")
    } else if Path::new("/sys/fs/cgroup/hugetlb").exists() {
        ("hugetlb", "limit_in_bytes")
    } else {
        podrun_tests::skip!("this host counts no huge pages")
    };
    let host = Host::new();
    let bundle = sleeper(&host, &json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4_194_304 }] }));
    host.podrun(format!("run web/a -d --bundle {bundle}")).ok();
    let dir = cgroup(&host, hierarchy, "a");
    assert_eq!(value(&dir, &format!("hugetlb.2MB.{file}")), "4194304");
    assert_eq!(value(&dir, &format!("hugetlb.2MB.rsvd.{file}")), "4194304");
    let odd = host.bundle(|config| {
        config["linux"]["resources"] = json!({ "hugepageLimits": [{ "pageSize": "3MB", "limit": 4_194_304 }] });
    });
    host.podrun(format!("run web/b --bundle {odd}"))
        .fails(125)
        .says("linux.resources.hugepageLimits[0]")
        .with_one_line();
}

// pitfalls.md 16: "stop returns < grace + 5 s; afterwards … cgroup removed".
#[test]
fn a_fork_bomb_is_stopped_within_the_grace_and_five_seconds() {
    let host = Host::new();
    host.pod("web");
    let bundle = host.bundle(|config| {
        config["linux"]["resources"]["pids"] = json!({ "limit": 300 });
        // A shell that cannot fork leaves, so the first process is none.
        let bomb = "bomb() { while :; do bomb & done; }; bomb 2>/dev/null & exec /probe stubborn";
        config["process"]["args"] = json!(["sh", "-c", bomb]);
    });
    host.podrun(format!("run web/bomb -d --bundle {bundle}")).ok();
    let dirs: Vec<PathBuf> = ["unified", "pids", ""].map(|hierarchy| cgroup(&host, hierarchy, "bomb")).into();
    let dirs: Vec<PathBuf> = dirs.into_iter().filter(|dir| dir.exists()).collect();
    let pids = || {
        dirs.iter()
            .filter_map(|dir| std::fs::read_to_string(dir.join("cgroup.procs")).ok())
            .map(|text| text.lines().count())
            .max()
    };
    // A shell that cannot fork leaves, so that the bomb may be over before anybody looks: the kernel has counted.
    let refused = || {
        let events = dirs.iter().filter_map(|dir| std::fs::read_to_string(dir.join("pids.events")).ok());
        events.filter_map(|text| text.lines().find_map(|line| line.strip_prefix("max ")?.parse::<u64>().ok())).max()
    };
    podrun_tests::eventually("it has filled its limit", std::time::Duration::from_secs(20), || {
        (pids()? > 250 || refused().unwrap_or(0) > 0).then_some(())
    });
    assert_eq!(host.container("web", "bomb")["state"], "Running");
    host.podrun("stop web -c bomb --time 1").ok().within(std::time::Duration::from_secs(6));
    assert_eq!(host.container("web", "bomb")["state"], "Exited");
    podrun_tests::eventually("its cgroups are gone", std::time::Duration::from_secs(5), || {
        (!dirs.iter().any(|dir| dir.exists())).then_some(())
    });
    host.run("web/after", "", "/probe say fine").ok().prints("fine");
}
