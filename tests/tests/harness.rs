//! The harness itself: it sees what is left behind, and a hanging command, and removes both.

use podrun_tests::{Host, eventually, json};
use std::time::{Duration, Instant};

#[test]
fn an_untouched_host_has_nothing_left_behind() {
    let host = Host::new();
    assert_eq!(host.leftovers().0, Vec::<String>::new());
}

#[test]
fn each_kind_of_leftover_is_found() {
    let host = Host::new();
    host.program("ip link add name stray type veth peer name stray2").run().ok();
    host.program("nft add table inet stray").run().ok();
    host.program("sysctl -qw net.ipv4.ip_forward=1").run().ok();
    host.program("mount -t tmpfs stray /mnt").run().ok();
    let dir = host.dir().display();
    host.program(format!("mkdir -p {dir}/run/pods/x /run/stray")).run().ok();
    // Of cgroup v1, or the one of v2 where that is alone.
    let tree =
        ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].into_iter().find(|tree| std::path::Path::new(tree).exists()).unwrap();
    let cgroup = format!("{tree}/{}/inner", host.cgroup_name());
    std::fs::create_dir_all(&cgroup).unwrap();
    let sleeper = host.program(format!("{} sleep 60", host.probe().display())).start();
    let found = host.leftovers();
    let kinds =
        ["link stray", "firewall table inet stray", "1 in /proc/sys/net/ipv4/ip_forward", "mount /mnt", "pods/x"];
    for kind in kinds.into_iter().chain(["file /run/stray", "sleep 60", &format!("cgroup {tree}/podrun-")]) {
        assert!(found.has(kind), "{kind} is not among {found:?}");
    }
    drop(sleeper);
    drop(host);
    assert!(!std::path::Path::new(&cgroup).exists());
}

#[test]
fn processes_and_files_of_a_host_end_with_it() {
    let host = Host::new();
    let dir = host.dir().to_owned();
    let busy = host.program(format!("{} orphan 60", host.probe().display())).pipes_may_stay_held().run();
    busy.ok().prints_something_like("orphan ");
    let orphan = json!(busy.text().trim().trim_start_matches("orphan ").parse::<i64>().unwrap());
    assert!(host.lives(&orphan));
    let marker = dir.join("probe").display().to_string();
    assert!(running(&marker));
    host.leftovers();
    drop(host);
    assert!(!dir.exists());
    eventually("the orphan is gone", Duration::from_secs(5), || (!running(&marker)).then_some(()));
}

/// Whether a process of the real host has this in its command line.
fn running(text: &str) -> bool {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok()).any(|line| line.contains(text))
}

#[test]
fn a_host_has_its_own_network_and_hostname() {
    let host = Host::new();
    host.program("hostname").run().prints("fakehost");
    let links = host.program("ip -o link").run();
    assert_eq!(links.ok().text().lines().count(), 1, "{}", links.text());
    links.prints_something_like("LOOPBACK,UP");
}

#[test]
fn a_host_on_cgroup2_sees_no_other_hierarchy() {
    let host = Host::on_cgroup2();
    let mounts = host.program("cat /proc/self/mounts").run();
    let lines = mounts.ok().text();
    let cgroups: Vec<_> = lines.lines().filter(|line| line.contains("/sys/fs/cgroup")).collect();
    assert_eq!(cgroups.len(), 1, "{cgroups:?}");
    assert!(cgroups[0].contains(" cgroup2 "), "{cgroups:?}");
}

#[test]
#[should_panic(expected = "no end after")]
fn a_command_that_hangs_is_killed_and_described() {
    let host = Host::new();
    host.program("sleep 60").limit(Duration::from_millis(100)).run();
}

#[test]
#[should_panic(expected = "somebody holds its output")]
fn a_command_that_leaves_its_output_in_other_hands_is_told() {
    let host = Host::new();
    host.program(format!("{} orphan 60", host.probe().display())).run();
}

#[test]
#[should_panic(expected = "left on the host")]
fn leftovers_fail_a_test_that_passed() {
    let host = Host::new();
    host.program("ip link add name stray type veth peer name stray2").run().ok();
}

#[test]
fn what_is_typed_at_a_terminal_comes_back() {
    let host = Host::new();
    let mut terminal = host.program(format!("{} sizes", host.probe().display())).at_a_terminal(41, 62);
    terminal.until_it_shows("41 62");
    terminal.resize(10, 20);
    terminal.until_it_shows("10 20");
    let start = Instant::now();
    terminal.types("\u{3}");
    let (code, _) = terminal.ends();
    assert_eq!(code, 130);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_probe_tells_its_world() {
    let host = Host::new();
    let facts = host.program(format!("{} facts", host.probe().display())).with("umask 027 fds 3 nice 5").run().facts();
    assert_eq!(facts["umask"], "0027");
    assert_eq!(facts["nice"], 5);
    assert_eq!(facts["hostname"], "fakehost");
    let open = facts["fds"].as_object().unwrap().values().filter(|target| *target == "/etc");
    assert_eq!(open.count(), 3, "{}", facts["fds"]);
    assert_eq!(facts["uids"], json!([0, 0, 0, 0]));
    assert!(facts["caps"]["effective"].as_array().unwrap().contains(&json!("CAP_SYS_ADMIN")));
    assert_eq!(facts["dev"]["null"]["number"], json!([1, 3]));
}
