//! What `podrun doctor` finds: every finding that it can tell is provoked, and what mends one is done where a test may.

use podrun_tests::{Command, Host, Outcome, eventually, note_skip};
use std::path::Path;
use std::time::Duration;

/// One finding: what of it stands in the sources, what is seen of it, and how to come by it.
struct Row {
    source: &'static str,
    seen: &'static str,
    state: &'static str,
    provoke: fn(&Host) -> Provoked<'_>,
}

/// The doctor's visit after something was done; or why it cannot be done here.
enum Provoked<'h> {
    Asked(Command<'h>),
    Not(&'static str),
}

use Provoked::{Asked, Not};

fn row(source: &'static str, seen: &'static str, state: &'static str, provoke: fn(&Host) -> Provoked<'_>) -> Row {
    Row { source, seen, state, provoke }
}

fn doctor(host: &Host) -> Provoked<'_> {
    Asked(host.command("doctor"))
}

/// After a command of the host's.
fn after<'h>(host: &'h Host, line: &str) -> Provoked<'h> {
    host.program(line.replace("BRIDGE", &host.cgroup_name())).run().ok();
    doctor(host)
}

fn with_a_tunnel<'h>(host: &'h Host, line: &str) -> Provoked<'h> {
    host.podrun("network create flat --driver vxlan --vni 42 --cluster-cidr 10.90.0.0/16 --subnet 10.90.1.0/24").ok();
    host.podrun("create pod flat --network flat").ok();
    let device = host.podrun("network inspect flat").json()["overlay"]["device"].clone();
    host.program(line.replace("TUNNEL", device.as_str().expect("it has a name"))).run().ok();
    doctor(host)
}

fn through<'h>(host: &'h Host, wrapper: &str) -> Provoked<'h> {
    Asked(host.program(format!("{wrapper} {} doctor", host.podrun_path().display())))
}

fn pod_record(host: &Host, change: impl FnOnce(&str) -> String) {
    let path =
        std::fs::read_link(host.run_root().join("names/default_web")).expect("the pod has a name").join("pod.json");
    let text = std::fs::read_to_string(&path).expect("read the record");
    std::fs::write(path, change(&text)).expect("write the record");
}

fn kill(host: &Host, part: &str) {
    let before = host.inspect("web")[part]["pid"].clone();
    host.kill(&before, libc::SIGKILL);
    eventually(part, Duration::from_secs(5), || (!host.lives(&before)).then_some(()));
}

fn at_once(host: &Host, parts: &[&str]) {
    let pod = host.inspect("web");
    let pids: Vec<String> = parts.iter().map(|part| pod[*part]["pid"].to_string()).collect();
    host.program(format!("sh -c 'kill -STOP {0}; kill -KILL {0}'", pids.join(" "))).run().ok();
    let gone = || (!pids.iter().any(|pid| host.lives(&pid.parse::<i64>().expect("a pid").into()))).then_some(());
    eventually("all are dead", Duration::from_secs(5), gone);
}

/// Every host has the pod `web`, with a container, on the bridge.
#[rustfmt::skip]
fn rows() -> Vec<Row> {
    vec![
        row("withheld: {}; what needs them is refused", "withheld: CAP_SYS_BOOT", "info", |host| {
            through(host, "setpriv --bounding-set -sys_boot")
        }),
        row("\"privileges\", \"wrong\"", "podrun needs CAP_SYS_ADMIN", "wrong", |host| {
            through(host, "setpriv --bounding-set -sys_admin")
        }),
        row("{release} is older than 5.10", "is older than 5.10", "wrong", |host| through(host, "setarch --uname-2.6")),
        row("it has no {} (Linux {}): {price}", "it has no mount_setattr (Linux 5.12): the older way", "info", |host| {
            Asked(host.command("doctor").with(&format!("without {}", libc::SYS_mount_setattr)))
        }),
        row("\"leftovers\", \"wrong\"", "the name default_gone", "wrong", |host| {
            after(host, &format!("ln -s /nowhere {}", host.run_root().join("names/default_gone").display()))
        }),
        row("its monitor died after its pause", "its monitor died after its pause", "wrong", |host| {
            let before = host.inspect("web")["pause"]["pid"].clone();
            kill(host, "pause");
            let made = || (host.inspect("web")["pause"]["pid"] != before).then_some(());
            eventually("another pause", Duration::from_secs(5), made);
            kill(host, "monitor");
            doctor(host)
        }),
        row("pause and monitor died together", "pause and monitor died together", "wrong", |host| {
            at_once(host, &["pause", "monitor"]);
            doctor(host)
        }),
        row("\"wrong\", err.to_string()", "EOF while parsing", "wrong", |host| {
            pod_record(host, |_| "{\"half".to_owned());
            doctor(host)
        }),
        row("what, \"wrong\", format!(\"{}: {}\"", "it is of a later podrun: format 99", "wrong", |host| {
            pod_record(host, |text| {
                let mut record: serde_json::Value = serde_json::from_str(text).expect("a record is JSON");
                (record["version"], record["readableSince"]) = (99.into(), 99.into());
                record.to_string()
            });
            doctor(host)
        }),
        row("nft is not on PATH: pods on", "nft is not on PATH: pods on", "wrong", |host| {
            Asked(host.command("doctor").env("PATH", "/nowhere"))
        }),
        row("bridge {bridge} is down", "is down", "wrong", |host| after(host, "ip link set BRIDGE down")),
        row("bridge {bridge} is gone", "is gone", "wrong", |host| after(host, "ip link del BRIDGE")),
        row("bridge {bridge} has lost its address {own}", "has lost its address 10.88.0.1", "wrong", |host| {
            after(host, "ip addr flush dev BRIDGE")
        }),
        row("link {} is off, or off the bridge {}", ": its pod reaches nobody", "wrong", |host| {
            let link = host.inspect("web")["networks"][0]["hostInterface"].clone();
            after(host, &format!("ip link set {} nomaster", link.as_str().expect("a bridged pod has an end on the host")))
        }),
        row("tunnel {device} is down", "is down", "wrong", |host| with_a_tunnel(host, "ip link set TUNNEL down")),
        row("tunnel {device} is gone", "is gone", "wrong", |host| with_a_tunnel(host, "ip link del TUNNEL")),
        row("nftables table inet {table} is gone", "no pod reaches beyond this host", "wrong", |host| {
            // Its monitor would put them back at once.
            host.kill(&host.inspect("web")["monitor"]["pid"], libc::SIGSTOP);
            after(host, "nft flush ruleset")
        }),
        row("State::Bad, warning", "reach each other and this host, but nothing beyond it", "wrong", |host| {
            host.podrun("delete pod web").ok();
            host.podrun("prune --force").ok();
            host.command("create pod web").env("PATH", "/nowhere").run().ok();
            doctor(host)
        }),
        row("are not resolved: its server is not there", "names on bridge are not resolved", "wrong", |host| {
            // Its monitors would start another at once.
            let server = host.podrun("network inspect bridge").json()["nameServer"]["pid"].clone();
            let monitor = host.inspect("web")["monitor"]["pid"].clone();
            host.kill(&monitor, libc::SIGSTOP);
            host.kill(&server, libc::SIGKILL);
            eventually("it is dead", Duration::from_secs(5), || (!host.lives(&server)).then_some(()));
            doctor(host)
        }),
        row("no forwarding of what comes in by {}", "no forwarding of what comes in by eth9", "wrong", |host| {
            let off = "echo 0 > /proc/sys/net/ipv4/conf/eth9/forwarding";
            after(host, &format!("sh -c 'ip link add eth9 type veth peer name far0; {off}'"))
        }),
        row("podrun turned on {}.*.{key} of {}", "podrun turned on net.ipv4.conf", "info", doctor),
        row("iptables-legacy has a filter table", "iptables-legacy has a filter table", "info", |host| {
            match host.program("iptables-legacy -t filter -S").run().code() {
                0 => doctor(host),
                _ => Not("this kernel has no table of iptables-legacy"),
            }
        }),
        row("firewalld is active", "firewalld is active", "info", |host| {
            let chain = "add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy accept; }";
            after(host, &format!("sh -c 'nft add table inet firewalld; nft \"{chain}\"'"))
        }),
        row("drops what it does not know, {bridge} included", "chain FORWARD of the nftables table filter", "wrong", |host| {
            let chain = "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }";
            after(host, &format!("sh -c 'nft add table ip filter; nft \"{chain}\"'"))
        }),
        row("{what} belongs to no pod", "belongs to no pod", "info", |host| {
            let gone = std::fs::read_link(host.run_root().join("names/default_web")).expect("the pod has a name");
            at_once(host, &["pause", "monitor", "pump"]);
            after(host, &format!("rm -r {} {}", gone.display(), host.run_root().join("names/default_web").display()))
        }),
        row("State::Bad, err.to_string()", "Function not implemented", "wrong", |host| {
            Asked(host.command("doctor").with(&format!("without {}", libc::SYS_socket)))
        }),
    ]
}

fn has(told: &Outcome, row: &Row) -> bool {
    told.text().lines().any(|line| line.starts_with(row.state) && line.contains(row.seen))
}

#[test]
fn every_finding_of_doctor_is_provoked() {
    for row in rows() {
        let host = Host::new();
        host.pod("web");
        host.start("web/a", "", "/probe sleep 600");
        let told = match (row.provoke)(&host) {
            Asked(command) => command.run(),
            Not(why) => {
                note_skip(&format!("{}: {why}", row.seen));
                continue;
            }
        };
        assert!(has(&told, &row), "{} {} is not in\n{told:?}\n{}", row.state, row.seen, told.text());
        assert_eq!(told.code(), i32::from(told.text().lines().any(|line| line.starts_with("wrong"))), "{}", row.seen);
        host.leave_a_mess();
    }
}

/// The sources without their tests.
fn sources() -> String {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../podrun/src");
    let read = |file: &str| std::fs::read_to_string(src.join(file)).expect("read a source");
    ["pod/prune.rs", "net/doctor.rs"]
        .map(read)
        .map(|text| text.split("#[cfg(test)]").next().unwrap_or("").to_owned())
        .concat()
}

#[test]
fn the_table_of_findings_is_that_of_the_sources() {
    let text = sources();
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for row in rows() {
        assert!(words.contains(row.source), "no finding has {:?} any more", row.source);
    }
    // What is not "ok" is written `finding(…, "wrong" or "info" or a state, …)`, or with the state of a `match` before it.
    let calls = words.split("finding(").skip(1).map(|rest| rest.trim_start());
    let tells = |rest: &&str| {
        let head: String = rest.chars().take(60).collect();
        ["State::Bad", "State::Note", "\"wrong\"", "\"info\"", ", state,"].iter().any(|state| head.contains(state))
    };
    assert_eq!(calls.filter(tells).count(), rows().len(), "a finding has no row in this table, or two");
}
