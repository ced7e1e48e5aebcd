//! What podrun left behind: the difference between the host before and after, of everything that can be counted.

use crate::host::{Host, OWN, cgroups};
use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What was found, one line each.
#[derive(Debug)]
pub struct Leftovers(pub Vec<String>);

impl Leftovers {
    pub fn has(&self, text: &str) -> bool {
        self.0.iter().any(|line| line.contains(text))
    }
}

/// The host before podrun did anything.
#[derive(Debug)]
pub(crate) struct Snapshot {
    links: Vec<String>,
    mounts: RefCell<Vec<String>>,
    tables: Vec<String>,
    forwarding: Vec<String>,
    routes: Vec<String>,
    own: Vec<String>,
    devices: Vec<String>,
}

impl Snapshot {
    pub(crate) fn take(host: &Host) -> Self {
        Self {
            links: links(host),
            mounts: RefCell::new(mounts(host)),
            tables: tables(host),
            forwarding: forwarding(host),
            routes: routes(host),
            own: own(host),
            devices: devices(),
        }
    }

    /// The test itself has mounted something.
    pub(crate) fn expect_the_mounts_of(&self, host: &Host) {
        self.mounts.replace(mounts(host));
    }

    /// The kernel takes up to 50 ms to let a network namespace go, and its links with it; so ask until nothing is
    /// left, for two seconds.
    pub(crate) fn compare(&self, host: &Host) -> Leftovers {
        let start = Instant::now();
        loop {
            let left = self.differences(host);
            if left.is_empty() || start.elapsed() > crate::patience(Duration::from_secs(2)) {
                return Leftovers(left);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn differences(&self, host: &Host) -> Vec<String> {
        let mut left = added("process", &[], processes(&host.outside("/proc")));
        left.extend(added("link", &self.links, links(host)));
        left.extend(added("route", &self.routes, routes(host)));
        left.extend(added("firewall", &self.tables, tables(host)));
        left.extend(added("forwarding changed to", &self.forwarding, forwarding(host)));
        left.extend(added("file", &self.own, own(host)));
        left.extend(added("device changed to", &self.devices, devices()));
        left.extend(added("mount", &self.mounts.borrow(), mounts(host)));
        left.extend(cgroups(&host.run_root()).iter().map(|dir| format!("cgroup {}", dir.display())));
        for dir in records(host) {
            left.extend(entries(&dir).map(|name| format!("{}/{name}", dir.display())));
        }
        left.extend(leases(&host.outside(host.run_root().join("leases"))));
        left
    }
}

fn added(what: &str, before: &[String], now: Vec<String>) -> Vec<String> {
    now.into_iter().filter(|line| !before.contains(line)).map(|line| format!("{what} {line}")).collect()
}

/// Directories that have to be empty when no pod is left.
fn records(host: &Host) -> [PathBuf; 4] {
    let (run, root) = (host.run_root(), host.root());
    [run.join("pods"), run.join("names"), root.join("volumes"), root.join("log/pods")].map(|dir| host.outside(dir))
}

/// Files that say who has an address: named by it, or by the pod.
fn leases(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in entries(dir) {
        let path = dir.join(&name);
        if path.is_dir() {
            found.extend(leases(&path));
        } else if name.starts_with("pod-") || name.starts_with(|letter: char| letter.is_ascii_digit()) {
            found.push(format!("lease {}", path.display()));
        }
    }
    found
}

fn entries(dir: &Path) -> impl Iterator<Item = String> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Every process of a procfs but its PID 1, as far as it can be read: pid, state, where in the kernel, command.
pub(crate) fn processes(proc: &Path) -> Vec<String> {
    let mut pids: Vec<u32> = entries(proc).filter_map(|name| name.parse().ok()).filter(|&pid| pid != 1).collect();
    pids.sort_unstable();
    pids.into_iter().filter_map(|pid| process(&proc.join(pid.to_string()), pid)).collect()
}

fn process(dir: &Path, pid: u32) -> Option<String> {
    let read = |file: &str| fs::read(dir.join(file)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let stat = read("stat").ok()?;
    let (name, rest) = stat.rsplit_once(") ")?;
    let name = name.split_once('(').map_or("", |(_, name)| name);
    let state = rest.split(' ').next().unwrap_or("?");
    let parent = rest.split(' ').nth(1).unwrap_or("?");
    let command = read("cmdline").unwrap_or_default().replace('\0', " ");
    let place = read("wchan").unwrap_or_default();
    Some(format!("{pid} {name} {state} parent {parent} in {place}: {command}"))
}

fn links(host: &Host) -> Vec<String> {
    let dev = fs::read_to_string(format!("/proc/{}/net/dev", host.anchor_pid())).unwrap_or_default();
    dev.lines().skip(2).filter_map(|line| line.split(':').next()).map(|name| name.trim().to_owned()).collect()
}

fn routes(host: &Host) -> Vec<String> {
    let table = fs::read_to_string(format!("/proc/{}/net/route", host.anchor_pid())).unwrap_or_default();
    let words = |line: &str| line.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    table.lines().skip(1).map(words).collect()
}

/// Owners and permissions of those that containers are given: the fake host has the machine's own.
fn devices() -> Vec<String> {
    let device = |name: &&str| {
        let meta = fs::metadata(format!("/dev/{name}")).ok()?;
        Some(format!("{name} {}:{} {:o}", meta.uid(), meta.gid(), meta.mode()))
    };
    ["null", "zero", "full", "random", "urandom", "tty"].iter().filter_map(device).collect()
}

/// Mount points, in the fake host's own order.
fn mounts(host: &Host) -> Vec<String> {
    let table = fs::read_to_string(format!("/proc/{}/mountinfo", host.anchor_pid())).unwrap_or_default();
    let words = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        format!("{} of {} (mount {})", words[4], words.get(words.len() - 3).unwrap_or(&"?"), words[0])
    };
    table.lines().map(words).collect()
}

fn tables(host: &Host) -> Vec<String> {
    let nft = host.inside(|| std::process::Command::new("nft").args(["list", "tables"]).output());
    nft.map(|out| String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect()).unwrap_or_default()
}

/// /proc/sys/net is that of the reader's network namespace, so a thread of the fake host reads it.
fn forwarding(host: &Host) -> Vec<String> {
    const TOP: &str = "/proc/sys/net/ipv4";
    host.inside(|| {
        let links = entries(&Path::new(TOP).join("conf")).map(|link| format!("{TOP}/conf/{link}/forwarding"));
        let switches = links.chain([format!("{TOP}/ip_forward"), "/proc/sys/net/ipv6/conf/all/forwarding".to_owned()]);
        let read = |path: String| Some(format!("{} in {path}", fs::read_to_string(&path).ok()?.trim()));
        switches.filter_map(read).collect()
    })
}

/// What is in directories that podrun has no business in, since this host's are elsewhere.
fn own(host: &Host) -> Vec<String> {
    let list = |dir: &&str| entries(&host.outside(dir)).map(|name| format!("{dir}/{name}")).collect::<Vec<_>>();
    OWN.iter().flat_map(list).collect()
}

#[cfg(test)]
mod tests {
    use super::leases;

    #[test]
    fn a_lease_is_named_by_its_address_or_its_pod() {
        let dir = std::env::temp_dir().join(format!("podrun-leases-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("bridge")).unwrap();
        for name in ["10.88.0.2", "pod-0123", ".last", "lock"] {
            std::fs::write(dir.join("bridge").join(name), "").unwrap();
        }
        let mut found = leases(&dir);
        std::fs::remove_dir_all(&dir).unwrap();
        found.sort();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].ends_with("10.88.0.2") && found[1].ends_with("pod-0123"), "{found:?}");
    }
}
