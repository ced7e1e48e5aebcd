//! Racing renames: whoever can write to a root changes directories for links and back while containers are born in it, join
//! it and end. Nothing outside of the root is read or written (CVE-2021-30465, CVE-2024-45310, CVE-2025-31133,
//! CVE-2025-52565, CVE-2026-41579).

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use podrun_tests::{Bundle, HOUR, Host, Outcome, Running, json, many, patience};
use std::fmt::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a container's birth looks up in its root: each is a link out, now and then.
const SWAPPED: [&str; 14] = [
    "proc",
    "sys",
    "dev",
    "dev/pts",
    "dev/shm",
    "dev/null",
    "dev/console",
    "data",
    "etc",
    "v",
    "v/deep",
    "desk",
    "masked",
    "etc/passwd",
];
const SECRET: &str = "seen from the inside";

/// A directory of the host's with all the names that a root has, so that whoever leads there by mistake finds what it wants.
fn outside(host: &Host) -> PathBuf {
    let dir = host.fresh("outside");
    for name in
        ["proc/self", "sys", "dev/pts", "dev/shm", "data", "etc", "v/deep/a", "deep/a", "a", "desk", "masked", "pts"]
    {
        std::fs::create_dir_all(dir.join(name)).unwrap();
    }
    let passwd = "root:x:0:0::/:/bin/sh\noutsider:x:4711:4711::/:/bin/sh\n";
    for (name, text) in [
        ("data/file", SECRET),
        ("file", SECRET),
        ("dev/null", SECRET),
        ("dev/console", SECRET),
        ("masked/file", SECRET),
        ("etc/passwd", passwd),
        ("passwd", passwd),
        ("proc/self/oom_score_adj", SECRET),
    ] {
        std::fs::write(dir.join(name), text).unwrap();
    }
    dir
}

/// Every name below it, with what a write or a mount would change.
fn look(dir: &Path) -> Vec<String> {
    let mut seen = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let facts = path.symlink_metadata().unwrap();
        let text = if facts.is_file() { std::fs::read_to_string(&path).unwrap() } else { String::new() };
        let (mode, owner) = (facts.permissions().mode(), (facts.uid(), facts.gid()));
        seen.push(format!("{} {mode:o} {owner:?} {}.{} {text:?}", path.display(), facts.mtime(), facts.mtime_nsec()));
        if facts.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    seen.sort();
    seen
}

/// The program says so if it sees anything that it must not.
const PROGRAM: &str = "cat /data/* /masked/* /v/deep/a/* /etc/passwd 2>&1; [ -s /proc/keys ] && echo the keys are seen; \
     echo 9 > /proc/sys/net/ipv4/ip_default_ttl && echo procfs was written; echo x > /desk/x; echo x > /v/deep/a/x; \
     sleep 0.01; echo alive";

#[derive(Clone, Copy, PartialEq)]
enum Dev {
    Mounted,
    OfTheImage,
}

fn bundle(host: &Host, dev: Dev) -> Bundle {
    let volume = host.fresh("volume");
    std::fs::create_dir(&volume).unwrap();
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", PROGRAM]);
        config["process"]["env"] = json!(["PATH=/bin"]);
        config["process"]["cwd"] = json!("/desk");
        config["root"]["readonly"] = json!(false);
        let mounts = config["mounts"].as_array_mut().unwrap();
        if dev == Dev::OfTheImage {
            mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
            mounts.extend([
                json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]}),
                json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm"}),
            ]);
        }
        mounts.extend([
            json!({"destination": "/v/deep/a", "type": "bind", "source": volume, "options": ["bind"]}),
            json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}),
            json!({"destination": "/etc/made/by/podrun", "type": "tmpfs", "source": "tmpfs"}),
        ]);
        config["linux"]["maskedPaths"].as_array_mut().unwrap().push(json!("/masked"));
        config["linux"]["readonlyPaths"].as_array_mut().unwrap().push(json!("/v"));
    });
    let root = bundle.rootfs.clone();
    for dir in ["data", "v/deep", "desk", "masked", "dev/pts", "dev/shm"] {
        root.dir(dir);
    }
    let _ = root.file("data/own", "own").file("masked/own", "own").file("dev/console", "");
    let null = bundle.rootfs.path().join("dev/null");
    mknod(&null, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).unwrap();
    bundle
}

/// Swaps by way of links that lead out absolutely, and others that climb.
fn swapper<'h>(host: &'h Host, bundle: &Bundle, outside: &Path) -> Running<'h> {
    let root = bundle.rootfs.path();
    let climbing = format!("../../../../../../../../../..{}", outside.display());
    let mut line = format!("{} flicker", host.probe().display());
    for (kind, out) in [("absolute", outside.display().to_string()), ("climbing", climbing)] {
        for name in SWAPPED {
            let link = root.join(format!("{kind}-{}", name.replace('/', "-")));
            symlink(format!("{out}/{name}"), &link).unwrap();
            write!(line, " {} {}", root.join(name).display(), link.display()).unwrap();
        }
    }
    host.program(line).limit(HOUR).start()
}

/// Rounds until the time is over; each is one container or more. Some come to life and some do not, else nothing was tried.
fn race(host: &Host, dev: Dev, round: impl Fn(&str, &Bundle) -> Vec<String>) {
    let outside = outside(host);
    let bundle = bundle(host, dev);
    let before = look(&outside);
    let mut swapper = swapper(host, &bundle, &outside);
    let (begin, length) = (Instant::now(), Duration::from_secs(many(4, 120)));
    let (mut alive, mut refused, mut number) = (0, 0, 0);
    // A slow machine gets more time for a few of each.
    while begin.elapsed() < length || ((alive < 3 || refused < 3) && begin.elapsed() < patience(20 * length)) {
        number += 1;
        for said in round(&format!("r{number}"), &bundle) {
            for bad in [SECRET, "the keys are seen", "procfs was written", "outsider:", "panicked"] {
                assert!(!said.contains(bad), "{bad}: {said}");
            }
            *if said.contains("alive") { &mut alive } else { &mut refused } += 1;
        }
        assert_eq!(look(&outside), before, "the host was written");
        assert!(!swapper.has_ended(), "{}", swapper.stderr());
    }
    assert!(alive >= 3 && refused >= 3, "{alive} came to life and {refused} did not: nothing was tried");
}

fn all_of(told: &Outcome) -> String {
    format!("{}{}", told.text(), told.errors())
}

/// One after another, by podrun oci.
fn alone(host: &Host) -> impl Fn(&str, &Bundle) -> Vec<String> {
    |id, bundle| vec![all_of(&host.podrun(format!("oci run --bundle {bundle} {id}")))]
}

#[test]
fn a_birth_reads_and_writes_nothing_outside_of_its_root() {
    let host = Host::new();
    race(&host, Dev::Mounted, alone(&host));
}

#[test]
fn on_cgroup2_a_birth_reads_and_writes_nothing_outside_of_its_root() {
    let host = Host::on_cgroup2();
    race(&host, Dev::Mounted, alone(&host));
}

#[test]
fn a_birth_in_a_dev_of_the_image_reads_and_writes_nothing_outside_of_its_root() {
    let host = Host::new();
    race(&host, Dev::OfTheImage, alone(&host));
}

#[test]
fn a_terminal_is_made_within_the_root() {
    let host = Host::new();
    race(&host, Dev::OfTheImage, |id, bundle| {
        let line = format!("oci run --bundle {bundle} {id}");
        bundle.change(|config| config["process"]["terminal"] = json!(true));
        vec![host.command(line).at_a_terminal(24, 80).ends().1]
    });
}

#[test]
fn whoever_joins_reads_and_writes_nothing_outside_of_the_root() {
    let host = Host::new();
    host.pod("web");
    race(&host, Dev::Mounted, |id, bundle| {
        let born = host.podrun(format!("run web/{id} -d --bundle {bundle} -- sleep 60"));
        if born.code() != 0 {
            return vec![all_of(&born)];
        }
        let exec = || all_of(&host.command(format!("exec web/{id} -w /desk -- sh -c")).args([PROGRAM]).run());
        let by_name = host.podrun(format!("exec web/{id} -u outsider -- echo alive"));
        assert_ne!(by_name.code(), 0, "a user of another root: {by_name:?}");
        let seen = (0..5).map(|_| exec()).collect();
        host.podrun(format!("kill web/{id}")).ok();
        host.podrun(format!("wait web/{id}"));
        host.podrun(format!("delete web/{id}")).ok();
        seen
    });
}
