//! `podrun run --rootfs DIR -- CMD`: no config.json; docker's defaults hold.

use podrun_tests::{Host, json};

/// What docker, containerd and podman give a container, by name.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
];

// moby, "Runtime privilege and Linux capabilities": the default list.
#[test]
fn a_container_has_dockers_capabilities_at_the_most() {
    let host = Host::new();
    host.pod("web");
    let caps = &host.run("web/a", "", "/probe").facts()["caps"];
    let sorted = |set: &str| {
        let mut names: Vec<_> = caps[set].as_array().unwrap().iter().map(|cap| cap.as_str().unwrap()).collect();
        names.sort_unstable();
        names.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut known = DEFAULT_CAPABILITIES.map(str::to_owned).to_vec();
    known.sort_unstable();
    // CVE-2020-10749: NET_RAW lets a pod forge packets, and ping works without it here; it may be missing.
    known.retain(|cap| cap != "CAP_NET_RAW" || sorted("bounding").contains(cap));
    assert_eq!(sorted("bounding"), known);
    assert_eq!(sorted("effective"), known);
}

// CVE-2022-29162 (exec --cap), CVE-2022-27650: inheritable and ambient are empty unless asked for.
#[test]
fn inheritable_and_ambient_are_empty_for_run_and_exec_and_every_user() {
    let host = Host::new();
    host.pod("web");
    host.start("web/sleeper", "", "/probe sleep 60");
    let all = [
        host.run("web/a", "", "/probe"),
        host.run("web/b", "-u 1000", "/probe"),
        host.podrun("exec web/sleeper -- /probe"),
        host.podrun("exec web/sleeper -u 1000 -- /probe"),
        host.podrun("exec web/sleeper --cap NET_ADMIN -- /probe"),
    ];
    for out in all {
        let facts = out.facts();
        assert_eq!(json!([facts["caps"]["inheritable"], facts["caps"]["ambient"]]), json!([[], []]));
    }
}

// Issue 3, 6: "docker's defaults (capabilities, masks, the built-in seccomp profile) hold".
#[test]
fn the_built_in_seccomp_profile_holds() {
    let host = Host::new();
    host.pod("web");
    let out = host.run(
        "web/a",
        "",
        &format!("/probe try-all mount,/tmp unshare-user syscall,{} syscall,{}", libc::SYS_kexec_load, libc::SYS_bpf),
    );
    out.ok().prints_something_like("mount,/tmp: EPERM").prints_something_like("unshare-user: EPERM");
    assert_eq!(out.text().matches("EPERM").count(), 4, "{}", out.text());
    assert_eq!(host.run("web/b", "", "/probe").facts()["seccomp"], 2);
}

// pitfalls.md 40 (moby#42680): a C library that does not know ENOSYS from EPERM cannot fall back.
#[test]
fn a_system_call_that_the_profile_does_not_know_is_enosys() {
    let host = Host::new();
    host.pod("web");
    host.run("web/a", "", "/probe try syscall 600").ok().prints("ENOSYS");
}

// clone3 has its flags behind a pointer, where a filter cannot look; moby#42681 answers ENOSYS so that clone is used.
#[test]
fn clone3_is_enosys_so_that_the_c_library_falls_back() {
    let host = Host::new();
    host.pod("web");
    host.run("web/a", "", &format!("/probe try syscall {}", libc::SYS_clone3)).ok().prints("ENOSYS");
    // And a program that starts threads and children works.
    host.run("web/b", "", "sh -c 'echo a | cat | cat'").ok().prints("a");
}

// moby and containerd: default masked and read-only paths; GHSA-7ww5-4wqc-m92c: powercap.
#[test]
fn default_paths_are_masked_or_read_only() {
    let host = Host::new();
    host.pod("web");
    let out = host.run(
        "web/a",
        "",
        "/probe try-all empty,/proc/kcore empty,/proc/keys empty,/proc/timer_list \
        create,/sys/firmware/x create,/sys/devices/virtual/powercap/x empty,/proc/interrupts \
        write,/proc/sys/kernel/domainname write,/proc/sysrq-trigger create,/sys/x",
    );
    let text = out.ok().text();
    for path in ["kcore", "keys", "timer_list", "interrupts"] {
        let line = text.lines().find(|line| line.contains(&format!("/{path}:"))).unwrap();
        assert!(line.ends_with(": 0"), "{line}");
    }
    assert!(!text.contains(": ok"), "{text}");
}

#[test]
fn the_root_is_writable_and_has_the_usual_mounts() {
    let host = Host::new();
    host.pod("web");
    let rootfs = host.rootfs();
    host.podrun(format!("run web/a --rootfs {rootfs} -- sh -c 'echo x > /new'")).ok();
    assert!(rootfs.has("new"));
    let facts = host.run("web/b", "", "/probe").facts();
    let mounts = facts["mounts"].as_array().unwrap();
    for (at, kind) in [
        ("/proc", "proc"),
        ("/dev", "tmpfs"),
        ("/dev/pts", "devpts"),
        ("/sys", "sysfs"),
        ("/dev/mqueue", "mqueue"),
        ("/dev/shm", "tmpfs"),
    ] {
        assert!(mounts.iter().any(|one| one["at"] == at && one["type"] == kind), "{at}: {mounts:#?}");
    }
}

// An image of nothing but one static program has no directories to mount on.
#[test]
fn an_empty_root_with_one_program_is_enough() {
    let host = Host::new();
    host.pod("web");
    let root = host.fresh("bare");
    std::fs::create_dir(&root).unwrap();
    std::fs::hard_link(host.probe(), root.join("probe")).unwrap();
    let facts = host.podrun(format!("run web/a --rootfs {} -- /probe", root.display())).facts();
    assert_eq!(facts["pid"], 1);
}

#[test]
fn run_sets_environment_directory_and_user() {
    let host = Host::new();
    host.pod("web");
    let facts = host.run("web/a", "-e A=1 -e B='x y' -w /tmp -u alice", "/probe").facts();
    assert_eq!(json!([facts["env"]["A"], facts["env"]["B"], facts["cwd"]]), json!(["1", "x y", "/tmp"]));
    assert_eq!(facts["uids"][0], 1000);
    assert_eq!(facts["env"]["HOME"], "/home/alice");
    assert!(facts["env"]["PATH"].as_str().unwrap().contains("/usr/bin"));
}

// `-e NAME` without a value takes the caller's, as docker has it.
#[test]
fn a_variable_without_a_value_is_the_callers() {
    let host = Host::new();
    host.pod("web");
    let out = host.running("web/a", "-e COLOR -e ABSENT", "/probe").env("COLOR", "blue").env("OTHER", "x").run();
    let env = &out.facts()["env"];
    assert_eq!(env["COLOR"], "blue");
    assert!(env["OTHER"].is_null() && env["ABSENT"].is_null(), "{env}");
}

// CVE-2023-25173: groups are exactly those of /etc/group, the primary one included once.
#[test]
fn a_named_user_has_the_groups_of_the_root() {
    let host = Host::new();
    host.pod("web");
    let facts = host.run("web/a", "-u alice", "/probe").facts();
    let mut groups: Vec<_> = facts["groups"].as_array().unwrap().iter().map(|gid| gid.as_u64().unwrap()).collect();
    groups.sort_unstable();
    groups.dedup();
    assert_eq!(groups.into_iter().filter(|&gid| gid != 1000).collect::<Vec<_>>(), [10, 29]);
    assert_eq!(facts["gids"][0], 1000);
}

// CVE-2026-30892 (`-u 1` was root), CVE-2024-40635 (a uid over 2^31 was root): exactly this user, or an error.
#[test]
fn a_user_is_exactly_the_one_asked_for_or_an_error() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 60");
    let right = [
        ("1", [1, 0]),
        ("0", [0, 0]),
        ("1:2", [1, 2]),
        ("1000", [1000, 1000]),
        ("alice", [1000, 1000]),
        ("alice:10", [1000, 10]),
        ("bob", [1001, 100]),
        ("alice:wheel", [1000, 10]),
        ("7:audio", [7, 29]),
        ("2147483648", [2_147_483_648_u32, 0]),
        ("4294967294", [4_294_967_294, 0]),
    ];
    for (user, ids) in right {
        let facts = host.podrun(format!("exec web/a -u {user} -- /probe")).facts();
        assert_eq!(json!([facts["uids"][0], facts["gids"][0]]), json!(ids), "{user}");
        assert_eq!(json!([facts["uids"][1], facts["uids"][2]]), json!([ids[0], ids[0]]), "{user}");
    }
    let wrong = [
        "1:",
        ":2",
        "+1",
        "-1",
        "' 1'",
        "'1 '",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "0x1",
        "1.0",
        "nobody-here",
        "alice:nogroup",
        "1:2:3",
        "''",
        "1e3",
        "root:4294967295",
    ];
    for user in wrong {
        let said = host.podrun(format!("exec web/a --user={user} -- /probe"));
        assert!([2, 125].contains(&said.code()), "{user}: {said:?}");
        said.with_one_line();
        let said = host.running("web/b", &format!("--user={user}"), "/probe").run();
        assert!([2, 125].contains(&said.code()), "{user}: {said:?}");
    }
}

// Issue 3, 3: "By default ping and low ports work without privilege inside".
#[test]
fn ping_and_low_ports_need_no_privilege() {
    let host = Host::new();
    host.pod("web");
    host.run("web/a", "-u 1000", "/probe ping 127.0.0.1").ok().prints("pong");
    host.run("web/b", "-u 1000", "/probe try bind 80").ok().prints("ok");
}

#[test]
fn a_program_is_found_on_the_path_or_by_its_own() {
    let host = Host::new();
    host.pod("web");
    host.run("web/a", "", "echo one").ok().prints("one");
    host.run("web/b", "", "/bin/echo two").ok().prints("two");
    host.run("web/c", "-w /bin", "./echo three").ok().prints("three");
    let script = host.rootfs().executable("hello", "#!/bin/sh\necho four $1\n");
    host.podrun(format!("run web/d --rootfs {script} -- /hello x")).ok().prints("four x");
}

// Issue 3, bad input: "an unknown command (127), one not executable (126)".
#[test]
fn a_program_that_is_not_there_is_127_and_one_that_cannot_run_is_126() {
    let host = Host::new();
    host.pod("web");
    let run = |name: &str, rootfs: &dyn std::fmt::Display, command: &str| {
        host.podrun(format!("run web/{name} --rm --rootfs {rootfs} -- {command}"))
    };
    run("a", &host.rootfs(), "nosuch").fails(127).with_one_line().says("nosuch");
    run("b", &host.rootfs(), "/bin/nosuch").fails(127).with_one_line().says("/bin/nosuch");
    run("c", &host.rootfs().file("plain", "x"), "/plain").fails(126).with_one_line().says("/plain");
    run("d", &host.rootfs(), "/etc").fails(126).with_one_line().says("/etc");
    // No interpreter: execve(2) says ENOENT of a file that is there.
    run("e", &host.rootfs().executable("script", "#!/no/such\n"), "/script").fails(127).with_one_line();
    run("f", &host.rootfs().executable("garbage", "\u{1}\u{2}"), "/garbage").fails(126).with_one_line();
    assert_eq!(host.inspect("web")["containers"], json!([]));
}

// design.md: "`run` and `exec` give the workload's code (128+signal when killed)". A PID 1 dies of no signal of the host but
// KILL, unless it has a handler; a fault of its own kills it too.
#[test]
fn run_exits_with_128_and_the_signal_that_killed_its_program() {
    let host = Host::new();
    host.pod("web");
    let mut running = host.running("web/a", "", "sh -c 'echo ready; exec sleep 60'").start();
    running.until_it_prints("ready");
    host.kill(&host.container("web", "a")["pid"], libc::SIGKILL);
    running.wait().fails(137);
    host.run("web/b", "", "/probe fault").fails(128 + libc::SIGILL);
}

// design.md, exit codes.
#[test]
fn run_exits_with_the_code_of_its_program() {
    let host = Host::new();
    host.pod("web");
    for (n, code) in [0, 1, 2, 42, 125, 126, 127, 128, 137, 254, 255].into_iter().enumerate() {
        host.run(&format!("web/exit-{n}"), "", &format!("/probe exit {code}")).fails(code).says_nothing();
    }
    assert_eq!(host.container("web", "exit-3")["exitCode"], 42);
}

// design.md: "`run` … waits, shows the output and logs it".
#[test]
fn run_shows_both_streams_and_logs_them() {
    let host = Host::new();
    host.pod("web");
    let out = host.run("web/a", "", "/probe say to-stdout to-stderr");
    out.ok().prints("to-stdout").says("to-stderr");
    let logs = host.podrun("logs web -c a");
    assert!(logs.ok().text().contains("to-stdout"), "{logs:?}");
    assert!((logs.text() + &logs.errors()).contains("to-stderr"), "{logs:?}");
}

#[test]
fn run_passes_stdin_and_its_end() {
    let host = Host::new();
    host.pod("web");
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let told = host.program(format!("{} digest", host.probe().display())).stdin(bytes.clone()).run().ok().text();
    host.running("web/a", "-i", "/probe digest").stdin(bytes).run().ok().prints(told.trim());
    host.run("web/b", "", "/probe digest").ok().prints("0 cbf29ce484222325");
}

#[test]
fn run_with_rm_leaves_no_container() {
    let host = Host::new();
    host.pod("web");
    host.run("web/a", "--rm", "/probe exit 5").fails(5);
    assert_eq!(host.inspect("web")["containers"], json!([]));
    host.run("web/a", "--rm", "/probe exit 6").fails(6);
}

#[test]
fn run_detached_returns_at_once_and_says_what_runs() {
    let host = Host::new();
    host.pod("web");
    let out = host.run("web/a", "-d", "/probe sleep 60");
    out.ok().prints_something_like("web").within(std::time::Duration::from_secs(3));
    assert_eq!(host.container("web", "a")["state"], "Running");
}

// design.md: "Ctrl-C goes to the workload".
#[test]
fn ctrl_c_goes_to_the_workload() {
    let host = Host::new();
    host.pod("web");
    let mut running = host.running("web/a", "", &format!("/probe trap {} 7", libc::SIGINT)).start();
    running.until_it_prints("ready");
    running.signal(libc::SIGINT);
    running.wait().fails(7).prints_something_like("got SIGINT");
}

// A PID 1 without a handler gets no SIGINT, here as everywhere; the probe waits for it.
#[test]
fn run_at_a_terminal_has_its_size_and_ctrl_c() {
    let host = Host::new();
    host.pod("web");
    let command = format!("sh -c '/probe size; read line; echo got $line; exec /probe trap {} 7'", libc::SIGINT);
    let mut terminal = host.running("web/a", "-it", &command).at_a_terminal(41, 62);
    terminal.until_it_shows("41 62");
    terminal.types("hello\n");
    terminal.until_it_shows("hello\ngot hello\nready");
    terminal.types("\u{3}");
    let (code, screen) = terminal.ends();
    assert_eq!(code, 7, "{screen}");
    assert!(screen.contains("got SIGINT"), "{screen}");
}

// A name twice: 125, since nothing ran; the first is not touched.
#[test]
fn a_container_name_in_use_is_refused() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 60");
    let pid = host.container("web", "a")["pid"].clone();
    host.run("web/a", "", "/probe").fails(125).with_one_line().says("create a: a container of this name is there");
    assert_eq!(host.container("web", "a")["pid"], pid);
}
