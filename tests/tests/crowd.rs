//! Many at once, and many after one another: short forms of the stress runs.

use podrun_tests::Host;
use std::time::Duration;

fn pod() -> Host {
    let host = Host::new();
    host.pod("web");
    host
}

// Issue 3: "5,000 runs of a program that exits at once, none hanging" (youki: 1 of 70 hung).
#[test]
fn a_program_that_exits_at_once_never_hangs_run() {
    let host = pod();
    let rootfs = host.rootfs();
    for n in 0..150 {
        let out = host.podrun(format!("run web/a --rm --rootfs {rootfs} -- /probe say {n}"));
        out.ok().prints(&n.to_string()).within(Duration::from_secs(3));
    }
}

#[test]
fn a_program_that_exits_at_once_never_hangs_exec() {
    let host = pod();
    host.start("web/a", "", "/probe sleep 600");
    for n in 0..150 {
        host.podrun(format!("exec web/a -- /probe say {n}")).ok().prints(&n.to_string()).within(Duration::from_secs(3));
    }
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
