//! Older kernels, played by a filter that answers ENOSYS: podrun's floor is Linux 5.10.

use podrun_tests::{Command, Host, Outcome, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// What podrun does without a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    /// The same: the call is younger than Linux 5.10, or there is another way.
    Works,
    /// It says which call is missing, since which Linux others have it, and leaves nothing.
    Told(&'static str),
    /// Ordinary life needs it not; what does is told.
    Sometimes(&'static str),
}

/// Every call of podrun's that Linux 4.0 had not.
#[rustfmt::skip]
const CALLS: &[(&str, libc::c_long, Without)] = &[
    ("clone3", libc::SYS_clone3, Without::Told("5.3")),
    ("close_range", libc::SYS_close_range, Without::Told("5.9")),
    ("fsconfig", libc::SYS_fsconfig, Without::Told("5.2")),
    ("fsmount", libc::SYS_fsmount, Without::Told("5.2")),
    ("fsopen", libc::SYS_fsopen, Without::Told("5.2")),
    ("fspick", libc::SYS_fspick, Without::Sometimes("5.2")),
    ("mount_setattr", libc::SYS_mount_setattr, Without::Works),
    ("move_mount", libc::SYS_move_mount, Without::Told("5.2")),
    ("open_tree", libc::SYS_open_tree, Without::Told("5.2")),
    ("openat2", libc::SYS_openat2, Without::Told("5.6")),
    ("pidfd_getfd", libc::SYS_pidfd_getfd, Without::Sometimes("5.6")),
    ("pidfd_open", libc::SYS_pidfd_open, Without::Told("5.3")),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal, Without::Told("5.1")),
];

/// Every call that Linux 5.10 had not: since 5.0 all machines count them alike, and epoll_pwait2 was the first of 5.11.
const YOUNGER_THAN_5_10: std::ops::RangeInclusive<libc::c_long> = libc::SYS_epoll_pwait2..=500;

/// A podrun of a host whose kernel has not got these.
struct Old<'h> {
    host: &'h Host,
    without: String,
}

impl Old<'_> {
    fn command(&self, line: &str) -> Command<'_> {
        self.host.command(line).with(&format!("without {}", self.without)).limit(Duration::from_secs(40))
    }

    fn podrun(&self, line: &str) -> Outcome {
        self.command(line).run()
    }

    fn run(&self, name: &str, flags: &str, command: &str) -> Outcome {
        self.podrun(&format!("run {name} {flags} --rootfs {} -- {command}", self.host.rootfs()))
    }
}

fn without(calls: &[libc::c_long], test: impl FnOnce(&Old<'_>)) {
    let host = Host::new();
    let numbers: Vec<String> = calls.iter().map(ToString::to_string).collect();
    test(&Old { host: &host, without: numbers.join(",") });
}

/// The whole of an ordinary life, with the guards.
fn lives_as_always(old: &Old<'_>, what: &str) {
    old.podrun("create pod web").ok();
    let facts = old.run("web/a", "", "/probe").facts();
    let fds: Vec<&str> = facts["fds"].as_object().expect("probe lists them").keys().map(String::as_str).collect();
    assert_eq!(fds, ["0", "1", "2"], "{what}");
    old.run("web/b", "-d", "/probe sleep 600").ok();
    for guarded in ["/proc/sys/kernel/hostname", "/sys/kernel/profiling"] {
        old.podrun(&format!("exec web/b -- sh -c 'echo x > {guarded}'")).fails(1).says("ead-only");
    }
    old.podrun("exec web/b -- cat /proc/timer_list").ok().prints("");
    old.run("web/c", "-t", "/probe say terminal").ok().prints("terminal");
    let volume = old.host.fresh("volume");
    std::fs::create_dir(&volume).expect("make a directory");
    old.run("web/d", &format!("-v {}:/v:ro", volume.display()), "touch /v/x").fails(1).says("Read-only");
    old.podrun("pause web -c b").ok();
    old.podrun("resume web -c b").ok();
    let monitor = old.host.inspect("web")["monitor"]["pid"].clone();
    old.host.kill(&monitor, libc::SIGKILL);
    old.podrun("exec web/b -- /probe say fine").ok().prints("fine");
    old.podrun("logs web/b").ok();
    old.podrun("stop web --time 0").ok();
    old.podrun("delete pod web").ok();
    old.podrun("prune --force").ok();
    old.host.expect_nothing_left(what);
}

/// The first thing that fails says so; and everything that was made can be removed, by the very same podrun.
fn is_told(old: &Old<'_>, name: &str, since: &str) {
    let created = old.podrun("create pod web");
    let failed = if created.code() == 0 { old.run("web/a", "", "/probe") } else { created };
    assert_ne!(failed.code(), 0, "{name}: it works, so the table is wrong");
    failed.says(&format!("this kernel has no {name} (Linux {since})")).with_one_line();
    old.podrun("delete pod web --force").ok();
    old.podrun("prune --force").ok();
    old.host.expect_nothing_left(name);
}

#[test]
fn without_a_newer_system_call_the_older_way_is_taken_or_the_error_names_it() {
    for (name, number, outcome) in CALLS {
        without(&[*number], |old| match outcome {
            Without::Works | Without::Sometimes(_) => lives_as_always(old, name),
            Without::Told(since) => is_told(old, name, since),
        });
    }
}

// All at once, as a real kernel would lack them.
#[test]
fn on_linux_5_10_everything_works() {
    without(&YOUNGER_THAN_5_10.collect::<Vec<_>>(), |old| lives_as_always(old, "a life on Linux 5.10"));
}

// What only the newer call can do is not done by halves.
#[test]
fn a_bind_that_is_read_only_all_the_way_down_needs_mount_setattr() {
    without(&[libc::SYS_mount_setattr], |old| {
        old.podrun("create pod web").ok();
        let bind = json!({"type": "bind", "source": "/sys", "destination": "/v", "options": ["rbind", "rro"]});
        let bundle = old.host.bundle(|config| config["mounts"].as_array_mut().expect("a list").push(bind));
        let told = old.podrun(&format!("run web/a --bundle {bundle}"));
        told.fails(125).says("this kernel has no mount_setattr (Linux 5.12)").with_one_line();
    });
}

#[test]
fn mapped_ids_need_mount_setattr() {
    without(&[libc::SYS_mount_setattr], |old| {
        old.podrun("create pod web").ok();
        let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        let bind = json!({"source": "/sys", "destination": "/v", "options": ["bind", "idmap"], "uidMappings": map, "gidMappings": map});
        let bundle = old.host.bundle(|config| config["mounts"].as_array_mut().expect("a list").push(bind));
        let told = old.podrun(&format!("run web/a --bundle {bundle}"));
        told.fails(125).says("map the IDs of the mount on /v: ").says("5.12");
    });
}

// Mending by a command copies what pause holds.
#[test]
fn a_pod_that_cannot_be_mended_without_pidfd_getfd_says_so() {
    let Some((_, number, Without::Sometimes(since))) = CALLS.iter().find(|(name, ..)| *name == "pidfd_getfd") else {
        panic!("the table has it");
    };
    without(&[*number], |old| {
        let host = old.host;
        old.podrun("create pod web").ok();
        old.run("web/a", "-d", "/probe sleep 600").ok();
        for part in ["pause", "monitor"] {
            let before = host.inspect("web")[part]["pid"].clone();
            host.kill(&before, libc::SIGKILL);
            let other = || (part == "monitor" || host.inspect("web")[part]["pid"] != before).then_some(());
            podrun_tests::eventually(part, Duration::from_secs(5), other);
        }
        let told = old.podrun("exec web/a -- /probe");
        told.fails(125).says(&format!("this kernel has no pidfd_getfd (Linux {since})")).with_one_line();
        old.podrun("delete pod web --force").ok();
    });
}

#[test]
fn the_table_of_newer_calls_is_that_of_the_sources() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../podrun/src/sys/calls.rs");
    let text = std::fs::read_to_string(source).expect("read calls.rs");
    let rows = text.split("\n    call(\"").skip(1).map(|row| row.split('"').next().expect("a name ends"));
    let listed: BTreeSet<&str> = rows.collect();
    assert_eq!(listed, CALLS.iter().map(|(name, ..)| *name).collect());
}
