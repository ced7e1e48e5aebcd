//! Many at once, and many after one another.

#![allow(clippy::print_stdout, reason = "what a long run measured is said on the test's own output")]

use podrun_tests::{Host, Outcome, eventually, many};
use std::time::Duration;

fn pod() -> Host {
    let host = Host::new();
    host.pod("web");
    host
}

/// The full form has the machine for itself; the short one shares it with the tests beside it.
fn at_once() -> Duration {
    // The short form runs beside the other tests of this file, some of which take all the processors there are.
    many(Duration::from_secs(10), Duration::from_secs(1))
}

// Issue 3: "5,000 runs of a program that exits at once, none hanging" (youki: 1 of 70 hung).
#[test]
fn a_program_that_exits_at_once_never_hangs_run() {
    let host = pod();
    let rootfs = host.rootfs();
    let mut longest = Duration::ZERO;
    for n in 0..many(150, 5000) {
        let out = host.podrun(format!("run web/a --rm --rootfs {rootfs} -- /probe say {n}"));
        longest = longest.max(out.ok().prints(&n.to_string()).within(at_once()).took);
    }
    println!("the longest run took {longest:?}");
}

#[test]
fn a_program_that_exits_at_once_never_hangs_exec() {
    let host = pod();
    host.start("web/a", "", "/probe sleep 100000");
    let mut longest = Duration::ZERO;
    for n in 0..many(150, 10_000) {
        let out = host.podrun(format!("exec web/a -- /probe say {n}"));
        longest = longest.max(out.ok().prints(&n.to_string()).within(at_once()).took);
    }
    println!("the longest exec took {longest:?}");
}

// The same, four at a time on a busy machine: output whole, codes right.
#[test]
fn execs_beside_each_other_do_not_mix() {
    let host = pod();
    host.start("web/a", "", "/probe sleep 600");
    for round in 0..10 {
        let line = |n: i32| format!("exec web/a -- sh -c '/probe out {}; exit {n}'", 100_000 + n);
        let all: Vec<_> = (1..=8).map(|n| (n, host.command(line(n)).start())).collect();
        for (n, one) in all {
            let out = one.wait();
            assert_eq!(out.fails(n).stdout.len(), usize::try_from(100_000 + n).unwrap(), "round {round}");
        }
    }
}

#[test]
fn thirty_containers_in_one_pod_start_and_end() {
    let host = pod();
    let rootfs = host.rootfs();
    let all: Vec<_> =
        (0..30).map(|n| host.command(format!("run web/c{n} --rootfs {rootfs} -- /probe exit {n}")).start()).collect();
    for (n, one) in all.into_iter().enumerate() {
        one.wait().fails(i32::try_from(n).unwrap());
    }
    assert_eq!(host.inspect("web")["containers"].as_array().unwrap().len(), 30);
}

// Pods made, used and deleted by many at once: nobody waits for a lock that another one's user code holds.
#[test]
fn ten_pods_are_made_used_and_deleted_side_by_side() {
    let host = Host::new();
    let rootfs = host.rootfs();
    let podrun = host.podrun_path().display().to_string();
    let all: Vec<_> = (0..10).map(|n| {
        let line = format!("{podrun} create pod p{n} && {podrun} run p{n}/a --rootfs {rootfs} -- /probe exit 0 && {podrun} delete pod p{n}");
        host.program(format!("sh -c '{line}'")).start()
    }).collect();
    for one in all {
        one.wait().ok();
    }
}

/// Commands by number, so many beside each other; each outcome is looked at.
fn beside_each_other(host: &Host, count: usize, line: impl Fn(usize) -> String, look: impl Fn(usize, &Outcome)) {
    const WIDTH: usize = 8;
    for first in (0..count).step_by(WIDTH) {
        let numbers = first..count.min(first + WIDTH);
        let all: Vec<_> = numbers.map(|n| (n, host.command(line(n)).start())).collect();
        all.into_iter().for_each(|(n, one)| look(n, &one.wait()));
    }
}

// pitfalls.md 5: output is lost at the end of a program, and most easily on a busy machine.
#[test]
fn a_megabyte_of_output_is_whole_on_a_machine_that_has_no_time() {
    let host = pod();
    host.start("web/a", "", "/probe sleep 100000");
    let once = host.program(format!("{} out 1000000", host.probe().display())).run().stdout;
    let _load = host.load(many(1, 4));
    beside_each_other(
        &host,
        many(24, 2000),
        |_| "exec web/a -- /probe out 1000000".into(),
        |n, out| {
            assert!(out.ok().stdout == once, "exec {n}: {} bytes", out.stdout.len());
        },
    );
}

// pitfalls.md 35: "exec state is freed at report time".
#[test]
fn execs_without_number_leave_the_monitors_memory_as_it_was() {
    let host = pod();
    host.start("web/a", "", "/probe sleep 100000");
    let monitor = host.inspect("web")["monitor"]["pid"].clone();
    let execs = |count: usize| {
        beside_each_other(
            &host,
            count,
            |n| format!("exec web/a -- /probe exit {}", n % 3),
            |n, out| {
                out.fails(i32::try_from(n % 3).unwrap());
            },
        );
    };
    // What it keeps for good it has after the first.
    execs(50);
    let (before, kept) = (host.written_kib(&monitor), host.descriptors_and_threads(&monitor));
    execs(many(500, 100_000));
    let after = host.written_kib(&monitor);
    println!("the monitor had {before} KiB, and has {after}");
    assert!(after <= before + 200, "{before} KiB became {after}");
    host.expect_no_more_than(kept, &monitor);
}

// CVE-2022-23471, CVE-2025-64329: each attach whose client was gone left a goroutine, and in the end no memory.
#[test]
fn clients_that_attach_and_vanish_leave_nothing() {
    let host = pod();
    host.start("web/a", "-i", "/probe sleep 100000");
    host.start("web/b", "-t", "/probe sleep 100000");
    let monitor = host.inspect("web")["monitor"]["pid"].clone();
    let vanish = |count: usize| {
        for first in 0..count / 4 {
            let all: Vec<_> = (0..4)
                .map(|n| {
                    let name = if n % 2 == 0 { "a" } else { "b" };
                    host.command(format!("attach web -c {name}")).pipes_may_stay_held().start()
                })
                .collect();
            // Some before they have asked, some after.
            std::thread::sleep(Duration::from_micros(u64::try_from(first % 13).unwrap() * 500));
            all.iter().for_each(|one| one.signal(libc::SIGKILL));
            all.into_iter().for_each(|one| drop(one.wait()));
        }
    };
    vanish(20);
    let (before, kept) = (host.written_kib(&monitor), host.descriptors_and_threads(&monitor));
    vanish(many(200, 100_000));
    // The stdin of a it closes with the first client that came so far, hence there may be fewer.
    host.expect_no_more_than(kept, &monitor);
    let after = host.written_kib(&monitor);
    println!("the monitor had {before} KiB, and has {after}");
    assert!(after <= before + 200, "{before} KiB became {after}");
    host.podrun("exec web/a -- /probe say fine").ok().prints("fine");
}

// pitfalls.md 15: in a shared PID namespace pause is the parent of orphans, in a private one its first process.
#[test]
fn orphans_by_the_thousand_leave_no_zombie() {
    let host = Host::new();
    host.podrun("create pod shared --share pid").ok();
    host.pod("private");
    let waits = "sh -c 'while :; do sleep 0.1; done'";
    for pod in ["shared", "private"] {
        host.start(&format!("{pod}/a"), "", waits);
        let orphans = "exec NAME -- sh -c 'i=0; while [ $i -lt 100 ]; do (/bin/true &); i=$((i+1)); done'";
        let line = orphans.replace("NAME", &format!("{pod}/a"));
        beside_each_other(
            &host,
            many(6, 100),
            |_| line.clone(),
            |_, out| {
                out.ok();
            },
        );
        eventually("no zombie is left", Duration::from_secs(10), || {
            let seen = host.podrun(format!("exec {pod}/a -- ps -o stat,comm")).ok().text();
            (!seen.lines().any(|line| line.trim_start().starts_with('Z'))).then_some(())
        });
    }
}
