//! Pods of users who are not root: their own user namespace, pasta as the way out, and nothing of the host's.

#![allow(clippy::print_stderr, reason = "a point at which a try failed is said on the test's own output")]

use podrun::dbus::wire::{self, Type, Value as Bus};
use podrun_tests::{Host, Outcome, User, Value, bus, eventually};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// A host with users and an address in a network, and a far host there, which is its way out.
struct Land {
    host: Host,
    far: Host,
}

impl Land {
    fn new() -> Self {
        let land = Self { host: Host::new(), far: Host::new() };
        land.far.wire("world", &land.host, "uplink");
        for (host, link, own) in [(&land.far, "world", 1), (&land.host, "uplink", 2)] {
            host.program("ip link set lo up").run().ok();
            host.program(format!("ip addr add 192.0.2.{own}/24 dev {link}")).run().ok();
            host.program(format!("ip -6 addr add 2001:db8::{own}/64 dev {link} nodad")).run().ok();
            host.program(format!("ip link set {link} up")).run().ok();
        }
        land.host.program("ip route add default via 192.0.2.1").run().ok();
        land.host.program("ip -6 route add default via 2001:db8::1").run().ok();
        land.host.replace_file("/etc/resolv.conf", "nameserver 192.0.2.1\n");
        land
    }

    /// What the far host hears from the server at `whom`.
    fn ask(&self, act: &str, whom: &str) -> Outcome {
        self.far.program(format!("timeout 5 {} {act} {whom}", self.far.probe().display())).run()
    }
}

impl Drop for Land {
    fn drop(&mut self) {
        self.far.program("ip link del world").run();
    }
}

/// A server in a container that says its name and whom it saw.
fn serve(user: &User<'_>, container: &str, act: &str, at: &str) {
    user.start(container, "", &format!("/probe {act} {at} {container}"));
    let log = format!("logs {container}");
    eventually("it listens", SOON, || user.podrun(&log).text().contains("listening").then_some(()));
}

/// The pasta of the user's only pod.
fn pasta(user: &User<'_>) -> Option<String> {
    user.processes().into_iter().find(|line| line.contains("pasta --quiet"))
}

fn pid(line: &str) -> Value {
    line.split(' ').next().and_then(|pid| pid.parse::<i64>().ok()).expect("a pid").into()
}

fn keeper(user: &User<'_>) -> Value {
    let record = fs::read_to_string(user.host.outside(user.run_root().join("keeper.json"))).expect("a keeper");
    serde_json::from_str::<Value>(&record).expect("JSON")["keeper"]["pid"].clone()
}

/// Pods, reserved names and ports, but for the lock of those.
fn left_of(user: &User<'_>) -> Vec<String> {
    let dirs = ["pods", "names", "ports"].map(|dir| user.host.outside(user.run_root().join(dir)));
    let all = dirs.into_iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
    let names = all.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !name.contains("lock")).collect()
}

#[track_caller]
fn expect_nobody(user: &User<'_>) {
    eventually("nobody is left", SOON, || user.processes().is_empty().then_some(()));
}

// Issue 5, 4: "everything that the kernel lets an unprivileged user do".
#[test]
fn a_user_runs_a_pod_whose_containers_share_loopback_and_nothing_is_left_of_it() {
    let land = Land::new();
    let [alice] = land.host.users(["alice"]);
    alice.podrun("create pod web").ok();
    serve(&alice, "web/server", "answer", "127.0.0.1:80");
    alice.run("web/client", "--rm", "/probe call 127.0.0.1:80").ok().prints("web/server to 127.0.0.1");
    alice.podrun("exec web/server id").ok().prints("uid=0(root) gid=0(root)");
    alice.podrun("exec -u 5:6 web/server -- sh -c 'id -u; id -g'").ok().prints("5\n6");
    alice.podrun("logs web/server").ok().prints("listening");
    alice.podrun("get pods").ok().prints_something_like("web");
    alice.podrun("top web").ok().prints_something_like("/probe answer");
    alice.podrun("stop -t 0 web/server").ok();
    alice.podrun("start web/server").ok();
    alice.podrun("delete pod web --force").ok();
    expect_nobody(&alice);
    assert_eq!(left_of(&alice), Vec::<String>::new());
    assert!(!alice.run_root().join("keeper.json").exists());
}

// user_namespaces(7): what root of the namespace owns is the user's outside, and the rest is from /etc/subuid.
#[test]
fn files_of_a_containers_root_are_the_users_and_of_others_his_subordinate_ids() {
    let land = Land::new();
    let [alice] = land.host.users(["alice"]);
    alice.podrun("create pod web --network none").ok();
    let rootfs = alice.rootfs();
    let run =
        |flags: &str| alice.podrun(format!("run web/a --rm {flags} --rootfs {rootfs} -- touch /tmp/by{}", flags.len()));
    run("").ok();
    run("-u 1:1").ok();
    let owner = |name: &str| {
        let found = rootfs.path().join("tmp").join(name).metadata().expect("it is there");
        (found.uid(), found.gid())
    };
    assert_eq!(owner("by0"), (alice.uid, alice.uid));
    assert_eq!(owner("by6"), (alice.sub, alice.sub));
}

// CVE-2021-20199: remote callers appeared as 127.0.0.1, past what the program allows to whom.
#[test]
fn a_published_port_shows_the_far_callers_own_address() {
    let land = Land::new();
    let [alice] = land.host.users(["alice"]);
    alice
        .podrun("create pod web -p 8080:80 -p 8080:80/udp -p 9000-9001:90-91")
        .ok()
        .prints_something_like("8080->80/tcp");
    serve(&alice, "web/tcp", "answer", "[::]:80");
    serve(&alice, "web/udp", "udp-listen", "0.0.0.0:80");
    serve(&alice, "web/more", "answer", "0.0.0.0:91");
    for (act, whom, said) in [
        ("call", "192.0.2.2:8080", "web/tcp to ::ffff:192.0.2.1"),
        ("call", "[2001:db8::2]:8080", "web/tcp to 2001:db8::1"),
        ("udp-ask", "192.0.2.2:8080", "web/udp to 192.0.2.1"),
        ("call", "192.0.2.2:9001", "web/more to 192.0.2.1"),
    ] {
        land.ask(act, whom).ok().prints(said);
    }
    let pod = alice.inspect("web");
    assert_eq!(pod["network"]["ip"], serde_json::json!(["192.0.2.2", "2001:db8::2"]), "{pod}");
    alice.podrun("port web").ok().prints_something_like("0.0.0.0:8080");
}

#[test]
fn a_port_of_one_address_is_reached_there_alone_and_one_that_is_taken_is_told_before_anything_is_left() {
    let land = Land::new();
    let [alice, bob] = land.host.users(["alice", "bob"]);
    alice.podrun("create pod web -p 127.0.0.1:8080:80 -p 0:81").ok();
    serve(&alice, "web/tcp", "answer", "[::]:80");
    land.host
        .program(format!("{} call 127.0.0.1:8080", land.host.probe().display()))
        .run()
        .ok()
        .prints_something_like("web/tcp");
    assert_ne!(land.ask("call", "192.0.2.2:8080").code(), 0);
    let any = alice.inspect("web")["ports"][1]["hostPort"].as_u64().expect("a port");
    assert!(any >= 1024, "{any}");
    for user in [&alice, &bob] {
        user.podrun("create pod other -p 127.0.0.1:8080:80").fails(1).says("has it");
        user.podrun("create pod other -p 80:80").fails(1).says("CAP_NET_BIND_SERVICE");
        user.podrun("create pod other -p 8081:80/sctp").fails(1);
    }
    expect_nobody(&bob);
    alice.podrun("update pod web --publish 192.0.2.2:8081:80 --unpublish 8080").ok();
    eventually("the new port leads there", SOON, || (land.ask("call", "192.0.2.2:8081").code() == 0).then_some(()));
    land.ask("call", "192.0.2.2:8081").ok().prints("web/tcp to ::ffff:192.0.2.1");
    assert_ne!(land.host.program(format!("{} call 127.0.0.1:8080", land.host.probe().display())).run().code(), 0);
}

#[test]
fn a_users_pod_reaches_the_far_host_and_not_the_hosts_own_loopback() {
    let land = Land::new();
    let [alice] = land.host.users(["alice"]);
    let listen = |host: &Host, at: &str| format!("{} listen {at} far", host.probe().display());
    let mut far = land.far.program(listen(&land.far, "[::]:7000")).start();
    far.until_it_prints("listening");
    let mut near = land.host.program(listen(&land.host, "127.0.0.1:7001")).start();
    near.until_it_prints("listening");
    alice.podrun("create pod web").ok();
    alice.run("web/a", "--rm", "/probe ask 192.0.2.1:7000").ok().prints("far to ::ffff:192.0.2.2");
    alice.run("web/a", "--rm", "/probe ask [2001:db8::1]:7000").ok().prints("far to 2001:db8::2");
    alice.run("web/a", "--rm", "cat /etc/resolv.conf").ok().prints("nameserver 192.0.2.1");
    // Neither by its own loopback nor by the gateway's address, which pasta would lead there.
    for whom in ["127.0.0.1:7001", "192.0.2.1:7001"] {
        assert_ne!(alice.run("web/a", "--rm", &format!("/probe ask {whom}")).code(), 0, "{whom}");
    }
}

#[test]
fn each_part_of_a_users_pod_may_be_killed_and_no_container_notices() {
    let land = Land::new();
    let [alice] = land.host.users(["alice"]);
    alice.podrun("create pod web -p 8080:80").ok();
    serve(&alice, "web/a", "answer", "[::]:80");
    let born = alice.inspect("web/a")["pid"].clone();
    let check = |what: &str| {
        alice.podrun("exec web/a echo here").ok().prints("here");
        eventually(&format!("it is reached, {what}"), SOON, || {
            (land.ask("call", "192.0.2.2:8080").code() == 0).then_some(())
        });
        assert_eq!(alice.inspect("web/a")["pid"], born, "{what}");
    };
    check("at first");
    for round in 0..2 {
        for part in ["monitor", "pump", "pause"] {
            let before = alice.inspect("web")[part]["pid"].clone();
            land.host.kill(&before, libc::SIGKILL);
            eventually("another one", SOON, || {
                let now = alice.inspect("web")[part]["pid"].clone();
                (now != before && land.host.lives(&now)).then_some(())
            });
            check(&format!("{part} was killed, round {round}"));
        }
        let before = pasta(&alice).expect("it has one");
        land.host.kill(&pid(&before), libc::SIGKILL);
        eventually("another pasta", SOON, || pasta(&alice).filter(|now| *now != before));
        check("pasta was killed");
        let before = keeper(&alice);
        land.host.kill(&before, libc::SIGKILL);
        check("the keeper was killed");
        assert_ne!(keeper(&alice), before);
    }
    alice.podrun("delete pod web --force").ok();
    expect_nobody(&alice);
}

// Without a cgroup nobody else would find them.
#[test]
fn of_a_users_pod_whose_keepers_were_all_killed_nothing_is_left() {
    let land = Land::new();
    let [alice] = land.host.users(["alice"]);
    for share in ["", "--share pid"] {
        alice.podrun(format!("create pod web {share}")).ok();
        alice.start("web/a", "", "/probe sleep 1000");
        let pod = alice.inspect("web");
        let pids: Vec<String> = ["pause", "monitor"].iter().map(|part| pod[*part]["pid"].to_string()).collect();
        land.host.program(format!("kill -STOP {}", pids.join(" "))).run().ok();
        land.host.program(format!("kill -KILL {} {}", pids.join(" "), keeper(&alice))).run().ok();
        alice.podrun("delete pod web --force").ok();
        expect_nobody(&alice);
    }
}

#[test]
fn two_users_do_not_see_each_other() {
    let land = Land::new();
    let [alice, bob] = land.host.users(["alice", "bob"]);
    for user in [&alice, &bob] {
        user.podrun("create pod web --network none").ok();
        user.start("web/a", "", "/probe sleep 1000");
        user.podrun("get pods").ok().does_not_print("alice");
    }
    alice.podrun("create pod second --network none").ok();
    bob.podrun("get pods").ok().does_not_print("second");
    let run_root = alice.run_root();
    bob.podrun(format!("--run-root {} get pods", run_root.display())).fails(1);
    bob.podrun(format!("--run-root {} create pod x", run_root.display())).fails(1).says("belongs to uid");
    land.host.podrun("get pods").ok().does_not_print("web");
    alice.podrun("delete pod second --force").ok();
    alice.podrun("delete pod web --force").ok();
    expect_nobody(&alice);
    bob.podrun("exec web/a echo still").ok().prints("still");
}

#[test]
fn two_first_commands_at_once_make_one_namespace() {
    let land = Land::new();
    let [alice] = land.host.users(["alice"]);
    for round in 0..5 {
        let names: Vec<String> = (0..4).map(|n| format!("pod{n}")).collect();
        let all: Vec<_> =
            names.iter().map(|name| alice.command(format!("create pod {name} --network none")).start()).collect();
        for one in all {
            one.wait().ok();
        }
        let user =
            |pid: &Value| fs::read_link(land.host.outside(format!("/proc/{pid}/ns/user"))).expect("a user namespace");
        let own = user(&keeper(&alice));
        for name in &names {
            assert_eq!(user(&alice.inspect(name)["pause"]["pid"]), own, "round {round}");
        }
        let all: Vec<_> = names.iter().map(|name| alice.command(format!("delete pod {name}")).start()).collect();
        for one in all {
            one.wait().ok();
        }
        expect_nobody(&alice);
    }
}

#[test]
fn without_a_range_of_ids_a_user_has_one_and_is_told_so() {
    let land = Land::new();
    let [alice] = land.host.users(["alice"]);
    land.host.replace_file("/etc/subgid", "bob:1:2\n");
    let made = alice.podrun("create pod web");
    made.ok().says("/etc/subgid has no range for alice");
    alice.run("web/a", "--rm", "cat /proc/self/uid_map").ok().prints_something_like(&alice.uid.to_string());
    alice.run("web/a", "--rm", "id -u").ok().prints("0");
    alice.run("web/a", "--rm -u 1", "id -u").fails(125);
    alice.podrun("delete pod web --force").ok();
    expect_nobody(&alice);
}

#[test]
fn other_networks_of_a_user_work_or_are_refused_with_what_there_is() {
    let land = Land::new();
    let [alice] = land.host.users(["alice"]);
    alice.podrun("create pod web -p 8080:80").ok();
    serve(&alice, "web/a", "answer", "[::]:80");
    alice.podrun("create pod side --network pod:web").ok();
    alice.run("side/b", "--rm", "/probe call 127.0.0.1:80").ok().prints_something_like("web/a to");
    alice.podrun("delete pod side").ok();
    land.ask("call", "192.0.2.2:8080").ok();
    alice.podrun("create pod alone --network none").ok();
    alice.run("alone/a", "--rm", "ip -o link").ok().does_not_print("eth0");
    alice.podrun("create pod open --network host").ok();
    alice.start("open/a", "", "/probe sleep 1000");
    alice.run("open/b", "--rm", "ip -o addr").ok().prints_something_like("192.0.2.2");
    alice.podrun("exec open/a ip -o addr").ok().prints_something_like("192.0.2.2");
    for network in ["bridge", "ptp", "macvlan:parent=uplink,ip=192.0.2.9/24", "cni:podman", "front"] {
        alice
            .podrun(format!("create pod no --network {network}"))
            .fails(1)
            .says("--network pasta, none, host and pod:NAME");
    }
    land.host.podrun("create pod no --network pasta").fails(1).says("users who are not root");
}

#[test]
fn what_pasta_lacks_is_told_by_its_name_and_its_own_words_are_shown() {
    let land = Land::new();
    let [alice] = land.host.users(["alice"]);
    let empty = land.host.fresh("empty");
    fs::write(&empty, "").expect("write a file");
    land.host.program("ip route del default").run().ok();
    land.host.program("ip -6 route del default").run().ok();
    alice.podrun("create pod web").fails(1).says("start pasta: ").says("interface");
    land.host.replace_by("/dev/net/tun", &empty);
    land.host.program("chmod 600 /dev/net/tun").run().ok();
    alice.podrun("create pod web").fails(1).says("/dev/net/tun");
    land.host.replace_by("/usr/bin/pasta", std::path::Path::new("/dev/null"));
    alice.podrun("create pod web").fails(1).says("the package passt");
    expect_nobody(&alice);
}

#[test]
fn what_root_has_of_a_pod_a_user_has_too() {
    let land = Land::new();
    let [alice] = land.host.users(["alice"]);
    alice.podrun("create pod web --volume data --share pid --label tier=front --sysctl net.ipv4.tcp_syncookies=0").ok();
    let rootfs = alice.rootfs();
    let run = |name: &str, flags: &str, command: &str| {
        alice.podrun(format!("run web/{name} {flags} --rootfs {rootfs} -- {command}"))
    };
    run("a", "--rm -v data:/var", "sh -c 'echo kept > /var/note'").ok();
    run("b", "--rm -v data:/var", "cat /var/note").ok().prints("kept");
    run("c", "-d --restart always --restart-backoff 10ms", "/probe sleep 1000").ok();
    land.host.kill(&alice.inspect("web/c")["pid"], libc::SIGKILL);
    eventually("it runs again", SOON, || (alice.inspect("web/c")["restarts"].as_u64() > Some(0)).then_some(()));
    run("d", "-d", "cat /proc/sys/net/ipv4/tcp_syncookies").ok();
    eventually("it says so", SOON, || (alice.podrun("logs web/d").ok().text() == "0\n").then_some(()));
    run("e", "-d -i", "cat").ok();
    alice.command("attach web/e").stdin("hello\n").run().ok().prints("hello");
    alice.podrun("wait web/e").ok().prints("0");
    alice.podrun("netns web ip -o link show eth0").ok().prints_something_like("eth0");
    alice.podrun("upgrade web").ok().prints_something_like("pod/web upgraded");
    alice.podrun("exec web/c true").ok();
    alice.podrun("pause web/c").fails(1).says("none was delegated");
    run("f", "--rm --memory 10m", "true").fails(125).says("no cgroup was delegated to this user");
    alice.podrun("kill web/c").ok();
    alice.podrun("prune").ok();
    alice.podrun("delete pod web --force").ok();
    expect_nobody(&alice);
}

#[test]
fn a_port_of_the_host_is_forwarded_to_a_users_pod_while_the_command_runs() {
    let land = Land::new();
    let [alice] = land.host.users(["alice"]);
    alice.podrun("create pod web").ok();
    serve(&alice, "web/a", "answer", "127.0.0.1:80");
    let mut forward = alice.command("port-forward web 8080:80").start();
    forward.until_it_prints("leads to port 80");
    land.host
        .program(format!("{} call 127.0.0.1:8080", land.host.probe().display()))
        .run()
        .ok()
        .prints("web/a to 127.0.0.1");
    forward.signal(libc::SIGTERM);
    forward.wait();
}

// cgroups(7), "Cgroups delegation": a directory that is the user's, with what he needs in it to move his processes.
#[test]
fn in_a_delegated_cgroup_a_users_containers_have_limits_and_can_be_frozen() {
    let land = Land::new();
    let [alice] = land.host.users(["alice"]);
    let Some(tree) = unified() else { podrun_tests::skip!("no cgroup2 is mounted") };
    let (own, delegated) = delegate(&land, tree, &alice);
    let inside = |line: &str| {
        let enter = format!("echo 0 > {own}/shell/cgroup.procs; exec \"$@\"");
        let command = alice.command(line);
        land.host.program("sh -ec").args([enter.as_str(), "sh"]).args(command.into_words()).run()
    };
    inside("create pod web").ok();
    inside(&format!("run web/a -d --rootfs {} -- /probe sleep 1000", alice.rootfs())).ok();
    let pid = alice.inspect("web/a")["pid"].clone();
    let place = land.host.read(format!("/proc/{pid}/cgroup"));
    assert!(place.contains(&format!("{}/podrun-", own.trim_start_matches(tree))), "{place}");
    inside("pause web/a").ok();
    assert_eq!(alice.inspect("web/a")["state"], "Paused");
    inside("resume web/a").ok();
    inside("top web").ok().prints_something_like("/probe sleep 1000");
    let controllers = fs::read_to_string(format!("{own}/cgroup.controllers")).expect("it is there");
    if controllers.contains("memory") && controllers.contains("pids") {
        inside(&format!("run web/b -d --memory 20m --pids-limit 9 --rootfs {} -- /probe sleep 1000", alice.rootfs()))
            .ok();
        let pid = alice.inspect("web/b")["pid"].clone();
        let place = land.host.read(format!("/proc/{pid}/cgroup"));
        let dir = format!("{tree}{}", place.lines().find_map(|line| line.strip_prefix("0::")).expect("it has one"));
        let limit = |file: &str| fs::read_to_string(format!("{dir}/{file}")).expect("it is there").trim().to_owned();
        assert_eq!((limit("memory.max"), limit("pids.max")), ("20971520".to_owned(), "9".to_owned()));
    } else {
        inside(&format!("run web/b --memory 20m --rootfs {} -- true", alice.rootfs()))
            .fails(125)
            .says("was not delegated");
        podrun_tests::note_skip("this host's cgroup2 has neither memory nor pids: only the refusal was seen");
    }
    inside("delete pod web --force").ok();
    expect_nobody(&alice);
    assert_eq!(delegated.left(), ["shell"], "what belongs to a pod is left");
}

/// The user's service manager, as far as one scope needs it: it puts the caller `into` a directory; the call.
fn take_in(user: &User<'_>, listener: &UnixListener, into: &str) -> String {
    let (mut stream, _) = listener.accept().expect("a caller");
    assert!(bus::admit(&mut stream).expect("a caller that says who he is"));
    let mut head = [0; wire::HEAD];
    stream.read_exact(&mut head).expect("a call");
    let mut rest = vec![0; wire::rest_of(&head).expect("its length")];
    stream.read_exact(&mut rest).expect("its rest");
    let call = wire::read(&head, &rest).expect("a message");
    let told = format!("{:?}", call.body[2]);
    let pids = told.split("\"PIDs\"").nth(1).and_then(|rest| rest.split("U32(").nth(1)).expect("whom");
    let pid: String = pids.chars().take_while(char::is_ascii_digit).collect();
    user.host.program(format!("sh -ec 'echo {pid} > {into}/cgroup.procs'")).run().ok();
    let job = Bus::Path("/org/freedesktop/systemd1/job/1".into());
    let unit = call.body[0].text().unwrap_or_default().to_owned();
    let removed = [Bus::U32(1), job.clone(), Bus::Text(unit.clone()), Bus::Text("done".into())];
    stream.write_all(&wire::answer(Type::Signal, 8, 0, Some("JobRemoved"), &removed)).expect("tell");
    stream.write_all(&wire::answer(Type::Return, 7, call.serial, None, &[job])).expect("answer");
    format!("{} {unit} {told}", call.member.unwrap_or_default())
}

// A login's session is a scope of root's; what is the user's is where his own manager is (systemd.resource-control(5)).
#[test]
fn a_users_service_manager_takes_his_pods_into_what_is_delegated_to_it() {
    let land = Land::new();
    let [alice] = land.host.users(["alice"]);
    let Some(tree) = unified() else { podrun_tests::skip!("no cgroup2 is mounted") };
    let (own, _delegated) = delegate(&land, tree, &alice);
    let dir = alice.runtime().join("systemd");
    fs::create_dir_all(&dir).expect("make a directory");
    let listener = UnixListener::bind(dir.join("private")).expect("listen");
    fs::set_permissions(dir.join("private"), fs::Permissions::from_mode(0o666)).expect("let all in");
    let making = alice.command("create pod web").start();
    let told = take_in(&alice, &listener, &format!("{own}/shell"));
    making.wait().ok();
    for word in ["StartTransientUnit podrun-", "\"Delegate\"", "app.slice"] {
        assert!(told.contains(word), "{told}");
    }
    alice.start("web/a", "", "/probe sleep 1000");
    let pid = alice.inspect("web/a")["pid"].clone();
    let place = land.host.read(format!("/proc/{pid}/cgroup"));
    assert!(place.contains("/podrun-test-of-users-") && !place.contains("/shell"), "{place}");
    alice.podrun("delete pod web --force").ok();
    expect_nobody(&alice);
}

fn unified() -> Option<&'static str> {
    let has = |dir: &&str| std::path::Path::new(dir).join("cgroup.controllers").exists();
    ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].into_iter().find(has)
}

/// A directory of the user's in the tree, with one in it for his shell.
fn delegate(land: &Land, tree: &str, user: &User<'_>) -> (String, Delegated) {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let own = format!("{tree}/podrun-test-of-users-{}-{number}", std::process::id());
    let made = land.host.program(format!(
        "sh -ec 'for one in $(cat {tree}/cgroup.controllers); do echo +$one > {tree}/cgroup.subtree_control || true; done; mkdir -p {own}/shell; \
         cd {own}; chown {0} . cgroup.procs cgroup.subtree_control shell shell/cgroup.procs shell/cgroup.subtree_control'",
        user.uid
    ));
    made.run().ok();
    (own.clone(), Delegated(own))
}

/// A directory of the cgroup2 tree, which goes with the test.
struct Delegated(String);

impl Delegated {
    /// What lies in it, but for podrun's own two, which stay for the next pod, as root's do.
    fn left(&self) -> Vec<String> {
        let all = fs::read_dir(&self.0).into_iter().flatten().flatten().filter(|one| one.path().is_dir());
        let names = all.filter_map(|one| one.file_name().into_string().ok());
        names.filter(|name| !name.starts_with("podrun-")).collect()
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let below = |dir: std::path::PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|one| one.path());
        for dir in below(self.0.clone().into()).flat_map(|one| below(one.clone()).chain([one])) {
            let _ = fs::remove_dir(dir);
        }
        let _ = fs::remove_dir(&self.0);
    }
}

/// What is done to a host, and what the doctor then says to a user of it.
type Row = (&'static str, &'static str, fn(&Land, &User<'_>));

const ROWS: [Row; 15] = [
    ("wrong", "/etc/subuid has no range for alice", |land, _| land.host.replace_file("/etc/subuid", "bob:9:9\n")),
    ("wrong", "/etc/subgid has no range for alice", |land, _| land.host.replace_file("/etc/subgid", "")),
    ("info", "/etc/subuid has 99 ids for alice", |land, _| land.host.replace_file("/etc/subuid", "alice:100000:99\n")),
    ("wrong", "they may reach each other's files", |land, _| {
        land.host.replace_file("/etc/subgid", "alice:100000:65536\nbob:165535:65536\n");
    }),
    ("wrong", "which are those of users of this host", |land, _| {
        land.host.replace_file("/etc/subuid", "alice:2000:65536\n");
    }),
    ("wrong", "newuidmap is not installed", |land, _| land.host.replace_file("/usr/bin/newuidmap", "")),
    ("wrong", "newgidmap has lost its setuid bit", |land, _| {
        let copy = land.host.fresh("newgidmap");
        land.host.program(format!("cp /usr/bin/newgidmap {}", copy.display())).run().ok();
        land.host.program(format!("chmod 755 {}", copy.display())).run().ok();
        land.host.replace_by("/usr/bin/newgidmap", &copy);
    }),
    ("wrong", "/proc/sys/user/max_user_namespaces is 0", |land, _| {
        land.host.replace_file("/proc/sys/user/max_user_namespaces", "0\n");
    }),
    ("wrong", "pasta is not installed", |land, _| {
        land.host.replace_by("/usr/bin/pasta", std::path::Path::new("/dev/null"));
    }),
    ("wrong", "/dev/net/tun cannot be opened: ", |land, _| {
        land.host.program("chmod 600 /dev/net/tun").run().ok();
    }),
    ("info", "XDG_RUNTIME_DIR is not set", |_, _| ()),
    ("info", "limits are refused", |_, _| ()),
    ("info", "pods end with this user's last session", |land, _| {
        land.host.program("mkdir -p /run/systemd/system").run().ok();
    }),
    ("info", "none of this user's runs: `podrun oci --systemd-cgroup`", |land, _| {
        land.host.program("mkdir -p /run/systemd/system").run().ok();
    }),
    ("wrong", "belongs to uid 0, not to you", |land, alice| {
        land.host.program(format!("mkdir -p {}", alice.run_root().display())).run().ok();
    }),
];

// "each finding with how to mend it".
#[test]
fn doctor_says_what_a_user_lacks_and_how_to_mend_it() {
    for (state, said, provoke) in ROWS {
        let land = Land::new();
        let [alice] = land.host.users(["alice"]);
        provoke(&land, &alice);
        let command = alice.command("doctor");
        let out = match said.starts_with("XDG") {
            true => command.env("XDG_RUNTIME_DIR", "").run(),
            false => command.run(),
        };
        let text = out.text();
        let lines: Vec<&str> = text.lines().collect();
        let at = lines.iter().position(|line| line.starts_with(state) && line.contains(said));
        let at = at.unwrap_or_else(|| panic!("{state} {said} is not in\n{text}"));
        assert!(lines.get(at + 1).is_some_and(|line| line.trim_start().starts_with("mend it: ")), "{said}:\n{text}");
        let wrong = lines.iter().any(|line| line.starts_with("wrong"));
        assert_eq!(out.code(), i32::from(wrong), "{text}");
        land.host.program("rm -rf /run/systemd /tmp/podrun-4001").run();
    }
}

#[test]
fn a_healthy_host_has_nothing_wrong_for_a_user() {
    let land = Land::new();
    let [alice] = land.host.users(["alice"]);
    alice.podrun("create pod web").ok();
    alice.podrun("doctor").ok().does_not_print("wrong");
    alice.podrun("info").ok().prints_something_like(&alice.run_root().display().to_string());
}

#[test]
fn commands_that_need_no_pod_make_no_namespace() {
    let land = Land::new();
    let [alice] = land.host.users(["alice"]);
    for line in ["version", "help", "create pod --help", "oci spec --help", "get pods", "ps"] {
        alice.podrun(line).ok();
        assert!(!alice.run_root().join("keeper.json").exists(), "{line}");
    }
    alice.podrun("create pod web --network none").ok();
    // Whoever is inside when the last pod goes is the one who lets go.
    let mut follow = alice.command("netns web -- sh -c 'echo inside; sleep 1'").start();
    follow.until_it_prints("inside");
    alice.podrun("delete pod web").ok();
    follow.wait();
    alice.podrun("get pods").ok();
    expect_nobody(&alice);
}

// As `crash` has it for root: whoever makes or removes a pod may be killed at every step.
#[test]
fn a_users_command_may_be_killed_at_every_step_of_making_and_removing_a_pod() {
    let land = Land::new();
    land.host.install(podrun_tests::faulty_binary());
    let [alice] = land.host.users(["alice"]);
    let points = |group: &'static str| podrun::fault::POINTS.iter().filter(move |point| point.starts_with(group));
    let mut died = 0;
    for point in points("create-pod.").chain(points("delete-pod.")) {
        let told = Told(point);
        let [make, remove] = ["create pod web -p 8080:80", "delete pod web"];
        let first = alice.command(make).env("PODRUN_FAULT", point).run();
        died += usize::from(first.code() != 0);
        // One that was whole already is there, and one that was not is taken over.
        if alice.podrun("get pods -o name").ok().text().is_empty() {
            alice.podrun(make).ok();
        }
        let last = alice.command(remove).env("PODRUN_FAULT", point).run();
        died += usize::from(last.code() != 0);
        alice.podrun(remove);
        alice.podrun("prune --force").ok();
        expect_nobody(&alice);
        assert_eq!(left_of(&alice), Vec::<String>::new());
        std::mem::forget(told);
    }
    assert!(died > 20, "only {died} died where they were told to");
}

/// Says where it was when a try panics.
struct Told<'a>(&'a str);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        eprintln!("--- at {}", self.0);
    }
}
