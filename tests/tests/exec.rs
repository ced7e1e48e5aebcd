//! `podrun exec`: a program in a container that runs.

#![allow(clippy::print_stdout, reason = "what a long run measured is said on the test's own output")]

use podrun_tests::lone::{asking_controller, with_script, with_writable_cgroup};
use podrun_tests::{HOUR, Host, Value, eventually, json, many};
use std::fs::File;
use std::time::Duration;

fn pod_with_a() -> Host {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "-e FROM=container", "/probe sleep 600");
    host
}

#[test]
fn an_execed_program_is_in_all_namespaces_of_its_container() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "sh -c '/probe > /facts; exec /probe sleep 600'");
    let init: Value = eventually("the facts", Duration::from_secs(5), || {
        serde_json::from_slice(&host.podrun("exec web/a -- cat /facts").stdout).ok()
    });
    let exec = host.podrun("exec web/a -- /probe").facts();
    assert_eq!(exec["namespaces"], init["namespaces"]);
    assert_eq!(exec["cgroups"], init["cgroups"]);
    assert_eq!(exec["hostname"], "web");
}

// cgroups(7): no process beside cgroups with controllers; a service manager goes below its own to make some.
#[test]
fn a_program_follows_a_first_process_that_has_gone_to_a_cgroup_below() {
    let host = Host::on_cgroup2();
    host.pod("web");
    let Some((controller, limits)) = asking_controller(&host) else {
        podrun_tests::skip!("the unified tree has no controller that asks for it");
    };
    let bundle = with_script(&host, "exec sleep 600", |config| with_writable_cgroup(config, &limits));
    host.podrun(format!("run -d web/a --bundle {bundle}")).ok();
    let shell = |script: &str| host.podrun(format!("exec web/a -- sh -c '{script}'"));
    let below = "/sys/fs/cgroup/first";
    shell(&format!("mkdir {below} && echo 1 > {below}/cgroup.procs")).ok();
    shell(&format!("echo $$ > {below}/cgroup.procs; echo +{controller} > /sys/fs/cgroup/cgroup.subtree_control")).ok();
    assert_eq!(shell("grep ^0:: /proc/self/cgroup").ok().text().trim(), "0::/first");
}

// The container's own limits hold for what is executed in it, run and exec alike.
#[test]
fn an_execed_program_has_the_limits_of_its_container() {
    let host = Host::new();
    host.pod("web");
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["/probe", "sleep", "60"]);
        config["process"]["noNewPrivileges"] = json!(true);
        config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 88 }]);
        config["process"]["oomScoreAdj"] = json!(123);
        config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mount"], "action": "SCMP_ACT_ERRNO" }] });
    });
    host.podrun(format!("run web/a -d --bundle {bundle}")).ok();
    let facts = host.podrun("exec web/a -- /probe").facts();
    let found = json!([facts["seccomp"], facts["noNewPrivs"], facts["rlimits"]["nofile"], facts["oomScoreAdj"]]);
    assert_eq!(found, json!([2, 1, ["77", "88"], 123]));
    assert_eq!(facts["caps"]["bounding"], json!(["CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_AUDIT_WRITE"]));
}

#[test]
fn exec_sets_environment_directory_and_user() {
    let host = pod_with_a();
    let facts = host.podrun("exec web/a -e A=1 -w /tmp -u alice -- /probe").facts();
    assert_eq!(json!([facts["env"]["A"], facts["env"]["FROM"], facts["cwd"]]), json!(["1", "container", "/tmp"]));
    assert_eq!(json!([facts["uids"][0], facts["gids"][0]]), json!([1000, 1000]));
    assert_eq!(facts["caps"]["effective"], json!([]));
}

#[test]
fn a_variable_without_a_value_is_the_callers() {
    let host = pod_with_a();
    let out = host.command("exec -e COLOR -e ABSENT web/a -- /probe").env("COLOR", "blue").run();
    let env = &out.facts()["env"];
    assert_eq!((&env["COLOR"], &env["ABSENT"], &env["FROM"]), (&json!("blue"), &Value::Null, &json!("container")));
    for wrong in ["=x", "''"] {
        host.podrun(format!("exec -e {wrong} web/a -- true")).fails(2).says("not KEY=VALUE");
    }
}

// moby#9098: "docker exec process not killed on ^C".
#[test]
fn ctrl_c_and_its_kin_go_to_the_program() {
    let host = pod_with_a();
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143), (libc::SIGHUP, 129)] {
        let mut running = host.command("exec web/a -- sh -c 'echo here; exec sleep 303'").start();
        running.until_it_prints("here");
        running.signal(signal);
        running.wait().fails(code);
        host.podrun("top web").ok().does_not_print("sleep 303");
    }
    let mut running = host.command(format!("exec web/a -- /probe trap {} 7", libc::SIGINT)).start();
    running.until_it_prints("ready");
    running.signal(libc::SIGINT);
    running.wait().fails(7).prints_something_like("got SIGINT");
}

// design.md: "without -c: the first container, said on stderr".
#[test]
fn without_a_name_it_is_the_first_container_and_that_is_said() {
    let host = pod_with_a();
    host.start("web/b", "", "/probe sleep 600");
    let out = host.podrun("exec web -- /probe facts");
    out.ok().says("container a, the first of 2");
    assert_eq!(out.facts()["env"]["FROM"], "container");
    host.podrun("exec web -c a -- /probe say x").ok().says_nothing();
}

// pitfalls.md 23: "contract: 0-255 = process; 128+n = signal".
#[test]
fn exec_exits_with_the_code_of_its_program() {
    let host = pod_with_a();
    for code in [0, 1, 2, 3, 42, 100, 124, 125, 126, 127, 128, 129, 137, 200, 254, 255] {
        host.podrun(format!("exec web/a -- /probe exit {code}")).fails(code).says_nothing();
    }
    for signal in [1, 2, 3, 4, 6, 8, 9, 10, 11, 12, 13, 14, 15, 34, 64] {
        host.podrun(format!("exec web/a -- /probe die {signal}")).fails(128 + signal).says_nothing();
    }
}

// design.md: "125 when podrun failed before the workload ran, 126 not executable, 127 not found".
#[test]
fn what_never_ran_is_told_apart_from_what_failed() {
    let host = pod_with_a();
    host.podrun("exec web/a -- nosuch").fails(127).with_one_line().says("nosuch");
    host.podrun("exec web/a -- /etc/passwd").fails(126).with_one_line().says("/etc/passwd");
    host.podrun("exec web/a -- /tmp").fails(126).with_one_line();
    host.podrun("exec web/a -w /nosuch -- /probe").fails(125).with_one_line().says("/nosuch");
    host.podrun("exec web/a -u nobody-here -- /probe").fails(125).with_one_line().says("nobody-here");
    host.podrun("exec web/b -- /probe").fails(125).with_one_line().says("find the container b");
    host.podrun("exec other/b -- /probe").fails(125).with_one_line().says("other");
    host.podrun("exec web/a").fails(2);
    host.podrun("stop web -c a --time 0").ok();
    host.podrun("exec web/a -- /probe").fails(125).with_one_line();
}

// pitfalls.md 5: output is cut when the program ends fast (podman#9096: 20 % of 500 kB). Short form of 2,000.
#[test]
fn a_megabyte_of_output_is_whole_every_time() {
    let host = pod_with_a();
    for round in 0..40 {
        let out = host.podrun("exec web/a -- /probe out 1000000");
        assert_eq!(out.ok().stdout.len(), 1_000_000, "round {round}");
    }
    let expected = host.program(format!("{} out 1000000", host.probe().display())).run().stdout;
    assert_eq!(host.podrun("exec web/a -- /probe out 1000000").stdout, expected);
}

#[test]
fn stdout_and_stderr_stay_apart() {
    let host = pod_with_a();
    let out = host.podrun("exec web/a -- sh -c '/probe out 100000; /probe err 200000'");
    assert_eq!((out.ok().stdout.len(), out.stderr.len()), (100_000, 200_000));
}

// design.md, processes 2: ttys, files and directories are relayed; a file gets all of it too.
#[test]
fn output_to_a_file_is_whole_and_the_file_is_not_handed_in() {
    let host = pod_with_a();
    let (path, mut owned) = (host.fresh("output"), Vec::new());
    let file = File::create(&path).unwrap();
    let out = host.command("exec web/a -- /probe out 300000").stdio(
        File::open("/dev/null").unwrap(),
        file.try_clone().unwrap(),
        File::create("/dev/null").unwrap(),
    );
    out.run().ok();
    std::io::Read::read_to_end(&mut File::open(&path).unwrap(), &mut owned).unwrap();
    assert_eq!(owned.len(), 300_000);
    let facts = host.fresh("facts");
    host.command("exec web/a -- /probe")
        .stdio(File::open("/etc/hostname").unwrap(), File::create(&facts).unwrap(), File::create("/dev/null").unwrap())
        .run()
        .ok();
    let facts: Value = serde_json::from_slice(&std::fs::read(&facts).unwrap()).unwrap();
    for (number, target) in facts["fds"].as_object().unwrap() {
        let target = target.as_str().unwrap();
        assert!(
            target.starts_with("pipe:") || target.starts_with("socket:") || target == "/dev/null",
            "{number}: {target}"
        );
    }
}

// pitfalls.md 6: stdin's end is passed on, and all before it (podman#5046: cut at 463 kB).
#[test]
fn stdin_and_its_end_are_passed_on() {
    let host = pod_with_a();
    let bytes: Vec<u8> = (0..2_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let told = host.program(format!("{} digest", host.probe().display())).stdin(bytes.clone()).run().ok().text();
    host.command("exec web/a -i -- /probe digest").stdin(bytes.clone()).run().ok().prints(told.trim());
    let path = host.fresh("input");
    std::fs::write(&path, bytes).unwrap();
    let from_file = host.command("exec web/a -i -- sh -c '/probe digest > /digest'").stdio(
        File::open(&path).unwrap(),
        File::create("/dev/null").unwrap(),
        File::create("/dev/null").unwrap(),
    );
    from_file.run().ok();
    host.podrun("exec web/a -- cat /digest").ok().prints(told.trim());
}

#[test]
fn without_i_stdin_is_empty() {
    let host = pod_with_a();
    host.command("exec web/a -- /probe digest").stdin("not for you").run().ok().prints("0 cbf29ce484222325");
}

#[test]
fn stdin_is_interactive() {
    let host = pod_with_a();
    let mut running = host.command("exec web/a -i -- cat").open_stdin().start();
    running.write("one\n");
    running.until_it_prints("one");
    running.write("two\n");
    running.until_it_prints("two");
    running.close_stdin();
    running.wait().ok();
}

// pitfalls.md 6: `exec sh -c 'sleep 300 & echo hi'` returns "hi", rc 0 in < 2 s.
#[test]
fn a_background_child_does_not_hold_exec() {
    let host = pod_with_a();
    let out = host.command("exec web/a -- sh -c 'sleep 300 & echo hi'").pipes_may_stay_held().run();
    out.ok().prints("hi").within(Duration::from_secs(3));
}

// pitfalls.md 24: TIOCSWINSZ on the pty before execve.
#[test]
fn a_terminal_has_its_size_from_the_first_instruction() {
    let host = pod_with_a();
    for _ in 0..10 {
        let (code, screen) = host.command("exec web/a -it -- /probe size").at_a_terminal(41, 62).ends();
        assert_eq!((code, screen.trim()), (0, "41 62"));
    }
}

// pitfalls.md 24: "0x0 and 65536 rejected (conmon 10-ctrl cases)".
#[test]
fn a_terminal_may_have_a_size_without_the_caller_having_one() {
    let host = pod_with_a();
    host.podrun("exec web/a -t --size 41x62 -- /probe size").ok().prints("41 62");
    for wrong in ["0x0", "0x80", "65536x1", "41", "x", "41x", "-1x5", "41x62x3", "''"] {
        host.podrun(format!("exec web/a -t --size={wrong} -- /probe size")).fails(2).with_one_line();
    }
}

#[test]
fn a_terminal_that_is_resized_is_resized_inside() {
    let host = pod_with_a();
    let mut terminal = host.command("exec web/a -it -- /probe sizes").at_a_terminal(41, 62);
    terminal.until_it_shows("41 62");
    terminal.resize(24, 80);
    terminal.until_it_shows("24 80");
    terminal.types("\u{3}");
    assert_eq!(terminal.ends().0, 130);
}

#[test]
fn a_terminal_echoes_edits_and_ends_at_ctrl_d() {
    let host = pod_with_a();
    let mut terminal = host.command("exec web/a -it -- sh").at_a_terminal(24, 80);
    terminal.types("echo $((40+2))\n");
    terminal.until_it_shows("\n42\n");
    terminal.types("exit 9\n");
    assert_eq!(terminal.ends().0, 9);
}

// The caller's terminal is in raw mode for the time of the exec, and as it was afterwards.
#[test]
fn the_callers_terminal_is_as_before() {
    let host = pod_with_a();
    let line =
        format!("stty -g; {} exec web/a -it -- /probe exit 3; echo code $?; stty -g", host.podrun_path().display());
    let (_, screen) = host.program(format!("sh -c '{line}'")).at_a_terminal(24, 80).ends();
    let lines: Vec<_> = screen.lines().filter(|line| !line.is_empty()).collect();
    assert!(screen.contains("code 3"), "{screen}");
    assert_eq!(lines.first(), lines.last(), "{screen}");
}

#[test]
fn a_terminal_session_is_its_own_and_has_no_descriptor_more() {
    let host = pod_with_a();
    let (_, screen) = host.command("exec web/a -it -- /probe").at_a_terminal(24, 80).ends();
    let facts: Value = serde_json::from_str(screen.trim()).unwrap_or_else(|err| panic!("{err}: {screen}"));
    assert_eq!(facts["session"], facts["pid"]);
    assert_eq!(facts["fds"].as_object().unwrap().len(), 3, "{}", facts["fds"]);
    assert!(facts["fds"]["0"].as_str().unwrap().starts_with("/dev/pts/"), "{}", facts["fds"]);
}

// pitfalls.md, more: "exec into a paused container hangs | frozen cgroup | refused, with a hint".
#[test]
fn exec_into_a_paused_container_is_refused() {
    let host = pod_with_a();
    host.podrun("pause web -c a").ok();
    host.podrun("exec web/a -- /probe").fails(125).with_one_line().says("resume").within(Duration::from_secs(3));
    host.podrun("resume web -c a").ok();
    host.podrun("exec web/a -- /probe say hi").ok().prints("hi");
}

// A container that ends takes what was executed in it with it, and exec says so by its code.
#[test]
fn exec_ends_with_its_container() {
    let host = pod_with_a();
    let mut running = host.command("exec web/a -- sh -c 'echo here; exec sleep 600'").start();
    running.until_it_prints("here");
    host.podrun("kill web -c a").ok();
    running.wait().fails(137);
}

// A client that is killed does not take the program's place in the container's books.
#[test]
fn an_exec_whose_client_is_gone_does_not_harm_the_next() {
    let host = pod_with_a();
    for _ in 0..5 {
        let mut running = host.command("exec web/a -- sh -c 'echo here; exec sleep 5'").pipes_may_stay_held().start();
        running.until_it_prints("here");
        running.signal(libc::SIGKILL);
        running.wait();
    }
    host.podrun("exec web/a -- /probe say fine").ok().prints("fine");
    assert_eq!(host.container("web", "a")["state"], "Running");
}

// pitfalls.md 35: exec state is freed at report time; failing ones too.
#[test]
fn a_hundred_execs_leave_the_monitor_as_it_was() {
    let host = pod_with_a();
    let monitor = host.inspect("web")["monitor"]["pid"].clone();
    host.podrun("exec web/a -- /probe exit 0").ok();
    let before = host.descriptors_and_threads(&monitor);
    for n in 0..100 {
        let (line, code) = match n % 3 {
            0 => ("exec web/a -- /probe exit 1", 1),
            1 => ("exec web/a -- nosuch", 127),
            _ => ("exec web/a -u nobody-here -- /probe", 125),
        };
        host.podrun(line).fails(code);
    }
    host.expect_no_more_than(before, &monitor);
    assert_eq!(host.inspect("web")["monitor"]["pid"], monitor);
}

// CVE-2022-31030: the output of an exec that nobody reads filled the runtime's memory.
#[test]
fn output_that_nobody_takes_is_bounded() {
    let host = pod_with_a();
    let pod = host.inspect("web");
    let endless = "sh -c 'echo ready; sleep 0.3; while :; do /probe out 10000000; done'";
    let rootfs = host.rootfs();
    let mut clients: Vec<_> = [
        format!("exec web/a -- {endless}"),
        format!("exec -t web/a -- {endless}"),
        format!("run web/b --rootfs {rootfs} --log-max-size 1m --log-max-files 2 -- {endless}"),
        "attach web -c b".to_owned(),
    ]
    .into_iter()
    .map(|line| {
        let mut client = host.command(&line).pipes_may_stay_held().limit(HOUR).start();
        match line.starts_with("attach") {
            true => std::thread::sleep(Duration::from_millis(50)),
            false => client.until_it_prints("ready"),
        }
        client.signal(libc::SIGSTOP);
        client
    })
    .collect();
    let weigh = || ["pause", "monitor", "pump"].map(|part| host.written_kib(&pod[part]["pid"]));
    // By now all are at it, and each has the buffers that it keeps.
    std::thread::sleep(Duration::from_secs(1));
    let before = weigh();
    std::thread::sleep(Duration::from_secs(many(2, 60)));
    let after = weigh();
    println!("pause, monitor, pump: {before:?} KiB, then {after:?}");
    for (before, after) in before.iter().zip(after) {
        assert!(after <= before + 200, "{before} KiB became {after}");
    }
    for client in clients.drain(..) {
        client.signal(libc::SIGKILL);
        client.wait();
    }
    host.podrun("kill web -c b").ok();
    host.podrun("exec web/a -- /probe say fine").ok().prints("fine");
}
