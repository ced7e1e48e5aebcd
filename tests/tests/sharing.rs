//! What the containers of a pod share, and what they do not.

use podrun_tests::{Host, Value, json};

fn two(create: &str) -> (Host, Value, Value) {
    let host = Host::new();
    host.podrun(format!("create pod web {create}")).ok();
    // Side by side, since the kernel gives the number of a namespace that has ended to the next one.
    ["a", "b"].iter().for_each(|name| host.start(&format!("web/{name}"), "", "sh -c '/probe; exec /probe sleep 600'"));
    let told = |name: &str| {
        podrun_tests::eventually("the probe's facts", std::time::Duration::from_secs(10), || {
            serde_json::from_str(&host.podrun(format!("logs web/{name}")).text()).ok()
        })
    };
    let (a, b) = (told("a"), told("b"));
    (host, a, b)
}

// Kubernetes, "Pods": containers in a Pod share the network namespace, hostname and IPC.
#[test]
fn containers_of_a_pod_share_network_hostname_and_ipc() {
    let (_host, a, b) = two("");
    for kind in ["net", "uts", "ipc"] {
        assert_eq!(a["namespaces"][kind], b["namespaces"][kind], "{kind}");
    }
    assert_eq!(a["hostname"], "web");
    assert_eq!(b["hostname"], "web");
}

#[test]
fn the_pod_shares_neither_network_nor_hostname_nor_ipc_with_the_host() {
    let (host, a, _) = two("");
    let of_the_host = host.program(format!("{} facts", host.probe().display())).run().facts();
    for kind in ["net", "uts", "ipc", "mnt", "pid"] {
        assert_ne!(a["namespaces"][kind], of_the_host["namespaces"][kind], "{kind}");
    }
    assert_eq!(of_the_host["hostname"], "fakehost");
}

#[test]
fn each_container_has_its_own_files_and_processes() {
    let (_host, a, b) = two("");
    for kind in ["mnt", "pid"] {
        assert_ne!(a["namespaces"][kind], b["namespaces"][kind], "{kind}");
    }
    assert_eq!(a["processes"]["1"], "sh");
    assert_eq!(b["processes"].as_object().unwrap().len(), 2, "{}", b["processes"]);
}

#[test]
fn a_file_that_one_writes_is_not_seen_by_the_other() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "sh -c 'echo mine > /tmp/x; exec sleep 60'");
    host.start("web/b", "", "/probe sleep 60");
    host.podrun("exec web/a -- cat /tmp/x").ok().prints("mine");
    host.podrun("exec web/b -- cat /tmp/x").fails(1);
}

// design.md, processes 5: "the PID 1 of the shared namespace is a second pause".
#[test]
fn with_share_pid_all_see_each_other_and_pause_is_pid_1() {
    let host = Host::new();
    host.podrun("create pod web --share pid").ok();
    host.start("web/a", "", "/probe sleep 60");
    let b = host.run("web/b", "", "/probe").facts();
    assert_ne!(b["pid"], 1);
    assert_eq!(b["processes"]["1"], "pause");
    assert_eq!(b["processes"].as_object().unwrap().len(), 3, "{}", b["processes"]);
    assert!(host.inspect("web")["namespaces"]["pid"].is_string());
}

// pitfalls.md 16: "members of a shared-PID pod are killed by cgroup.kill …"; the sibling is not touched.
#[test]
fn stopping_one_member_of_a_shared_pid_pod_ends_its_children_and_nobody_else() {
    let host = Host::new();
    host.podrun("create pod web --share pid").ok();
    host.start("web/a", "", "sh -c 'sleep 600 & sleep 600 & exec /probe stubborn'");
    host.start("web/b", "", "/probe sleep 600");
    host.podrun("stop web -c a --time 0").ok();
    let seen = host.podrun("exec web/b -- ps -o args").ok().text();
    assert!(seen.lines().all(|line| line != "sleep 600"), "{seen}");
    assert!(!seen.contains("stubborn"), "{seen}");
    assert_eq!(host.container("web", "b")["state"], "Running");
}

// pitfalls.md 10: "In shared-pid pod: all members end, exit records 137".
#[test]
fn when_the_pid_1_of_a_shared_namespace_dies_podrun_says_so() {
    let host = Host::new();
    host.podrun("create pod web --share pid").ok();
    host.start("web/a", "", "/probe sleep 60");
    // From the host every process of the pod has a pid too: the second pause is the parent of none of them.
    let path = host.inspect("web")["namespaces"]["pid"].as_str().unwrap().to_owned();
    let inode = std::fs::read_link(host.outside(&path)).unwrap();
    let member = std::fs::read_dir(host.outside("/proc")).unwrap().flatten().find_map(|entry| {
        let dir = entry.path();
        let comm = std::fs::read_to_string(dir.join("comm")).ok()?;
        let its = std::fs::read_link(dir.join("ns/pid")).ok()?;
        (comm.trim() == "pause" && its == inode).then(|| entry.file_name().to_string_lossy().parse::<i64>().unwrap())
    });
    host.kill(&json!(member.expect("a pause in the shared PID namespace")), libc::SIGKILL);
    let a = host.until("web", "a", "Exited");
    assert_eq!(a["exitCode"], 137);
    let pod = host.inspect("web");
    assert_ne!(pod["state"], "Ready", "{pod:#}");
    assert_eq!(a["reason"], "PodInitDied");
}

// pitfalls.md 15: the orphans of a private PID namespace are reaped by its PID 1; in a shared one by pause.
#[test]
fn orphans_of_a_shared_pid_pod_leave_no_zombie() {
    let host = Host::new();
    host.podrun("create pod web --share pid").ok();
    host.start("web/a", "", "/probe sleep 60");
    for _ in 0..20 {
        host.podrun("exec web/a -- sh -c '(/bin/true &) ; (/bin/true &) ; true'").ok();
    }
    podrun_tests::eventually("no zombie is left", std::time::Duration::from_secs(3), || {
        let seen = host.podrun("exec web/a -- ps -o stat,comm").ok().text();
        (!seen.lines().any(|line| line.trim_start().starts_with('Z'))).then_some(())
    });
}

// Issue 3, 3: "net + uts + ipc of its own (host's on request)".
#[test]
fn a_pod_on_the_hosts_network_is_on_the_hosts_network() {
    let host = Host::new();
    host.podrun("create pod web --network host").ok();
    let a = host.run("web/a", "", "/probe").facts();
    let of_the_host = host.program(format!("{} facts", host.probe().display())).run().facts();
    assert_eq!(a["namespaces"]["net"], of_the_host["namespaces"]["net"]);
    assert_ne!(a["namespaces"]["ipc"], of_the_host["namespaces"]["ipc"]);
}

// mq_overview(7): message queues belong to the IPC namespace, and so to the pod.
#[test]
fn a_message_queue_of_one_container_is_seen_by_the_others() {
    let host = Host::new();
    host.pod("web");
    host.run("web/a", "", "touch /dev/mqueue/jobs").ok();
    host.run("web/b", "", "ls /dev/mqueue").ok().prints("jobs");
}

#[test]
fn a_pod_has_the_hostname_it_was_asked_for() {
    let (_host, a, _) = two("--hostname box-7");
    assert_eq!(a["hostname"], "box-7");
}

// shm_overview(7): POSIX shared memory is files on /dev/shm, so whoever shares the IPC namespace must share that, too.
#[test]
fn dev_shm_is_one_for_the_containers_of_a_pod() {
    let host = Host::new();
    host.pod("web");
    host.pod("other");
    host.start("web/a", "", "sh -c 'echo mine > /dev/shm/x; exec /probe sleep 600'");
    host.run("web/b", "", "sh -c 'until [ -e /dev/shm/x ]; do :; done; cat /dev/shm/x; echo more >> /dev/shm/x'")
        .ok()
        .prints("mine");
    host.podrun("exec web/a -- cat /dev/shm/x").ok().prints("mine\nmore");
    host.run("other/a", "", "ls /dev/shm").ok().prints("");
    let mounts = host.run("web/c", "", "sh -c 'grep /dev/shm /proc/self/mounts; stat -c %a /dev/shm'").ok().text();
    for word in ["tmpfs", "nosuid", "nodev", "noexec", "size=65536k", "\n1777"] {
        assert!(mounts.contains(word), "{word}: {mounts}");
    }
}

// design.md, "Any one may die": what the containers share is held by pause, whoever else dies.
#[test]
fn dev_shm_outlives_containers_and_monitors_and_ends_with_the_pod() {
    let host = Host::new();
    host.pod("web");
    host.run("web/a", "", "sh -c 'echo kept > /dev/shm/x'").ok();
    let before = host.inspect("web")["monitor"]["pid"].clone();
    host.kill(&before, libc::SIGKILL);
    podrun_tests::eventually("a new monitor", std::time::Duration::from_secs(10), || {
        let now = host.inspect("web")["monitor"]["pid"].clone();
        (now != before && host.lives(&now)).then_some(())
    });
    host.run("web/b", "", "cat /dev/shm/x").ok().prints("kept");
    host.podrun("delete pod web --force").ok();
    host.pod("web");
    host.run("web/a", "", "ls /dev/shm").ok().prints("");
}

// pitfalls: what a container writes to shared memory counts as its own.
#[test]
fn what_is_written_to_dev_shm_is_charged_to_the_pod() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "sh -c 'head -c 8388608 /dev/zero > /dev/shm/x; echo done; exec /probe sleep 600'");
    podrun_tests::eventually("8 MiB are written", std::time::Duration::from_secs(10), || {
        (host.podrun("logs web/a").text() == "done\n").then_some(())
    });
    let id = host.inspect("web")["id"].as_str().unwrap().to_owned();
    let version1 = std::path::Path::new("/sys/fs/cgroup/memory").exists();
    let (tree, word) = if version1 { ("memory", "total_shmem ") } else { ("", "shmem ") };
    let stat = format!("/sys/fs/cgroup/{tree}/{}/{id}/memory.stat", host.cgroup_name());
    let charged = || {
        let stat = host.read(&stat);
        let line = stat.lines().find_map(|line| line.strip_prefix(word)).unwrap_or("0");
        line.parse::<u64>().unwrap()
    };
    assert!(charged() >= 8 << 20, "{}", charged());
    host.run("web/b", "", "sh -c 'head -c 100000000 /dev/zero > /dev/shm/y'").fails(1);
}

// The size of a bundle's own is no accident: who wrote it has looked at it.
#[test]
fn a_bundle_whose_dev_shm_is_the_usual_one_has_the_pods_and_any_other_its_own() {
    let host = Host::new();
    host.pod("web");
    let reading = |options: Value| {
        host.bundle(|config| {
            config["process"]["args"] =
                json!(["sh", "-c", "ls /dev/shm; grep /dev/shm /proc/self/mounts | grep -o size=.*k"]);
            let mounts = config["mounts"].as_array_mut().unwrap();
            let shm = mounts.iter_mut().find(|mount| mount["destination"] == "/dev/shm").unwrap();
            if !options.is_null() {
                shm["options"] = options;
            }
        })
    };
    host.run("web/a", "", "touch /dev/shm/x").ok();
    host.podrun(format!("run web/b --bundle {}", reading(Value::Null).path().display()))
        .ok()
        .prints_something_like("x\n");
    let own = reading(json!(["nosuid", "noexec", "nodev", "mode=1777", "size=1m"]));
    host.podrun(format!("run web/c --bundle {}", own.path().display())).ok().prints("size=1024k");
}

// The harness keeps its own directory on the /dev/shm of the host.
#[test]
fn a_pod_on_the_hosts_ipc_has_the_hosts_dev_shm() {
    let host = Host::new();
    host.podrun("create pod web --host-ipc").ok();
    host.podrun("create pod own").ok();
    let name = host.dir().file_name().unwrap().to_str().unwrap().to_owned();
    host.run("web/a", "", "ls /dev/shm").ok().prints_something_like(&name);
    host.run("own/a", "", "ls /dev/shm").ok().prints("");
}
