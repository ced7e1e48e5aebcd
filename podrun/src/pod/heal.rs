//! Mending a pod whose keepers died: a monitor that nobody starts anew, or both at once.

#![forbid(unsafe_code)]

use super::find::Pod;
use super::without_cgroup;
use crate::cgroup::{self, Cgroup};
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::monitor;
use crate::pause;
use crate::sandbox;
use crate::store::{self, Keepers};
use crate::sys::clone::{Clone, clone3, exit, pidfd_getfd};
use crate::sys::cred::{self, Pointers};
use crate::sys::fd;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// How a pod is served.
#[derive(Debug)]
pub enum Served {
    /// By a monitor.
    Yes,
    /// By a pause that starts one.
    Soon,
    /// The monitor died, and pause, made anew, starts no other.
    NoMonitor { pause: OwnedFd },
    /// Both died: its namespaces are gone.
    Lost,
}

pub fn look(pod: &Pod) -> Served {
    // Not written yet: the first monitor is on its way up.
    let Ok(keepers) = store::read::<Keepers>(&pod.dir.keepers()) else { return Served::Soon };
    if keepers.monitor.open().is_some() {
        return Served::Yes;
    }
    match keepers.pause.open() {
        Some(_) if keepers.pause_restarts => Served::Soon,
        Some(pause) => Served::NoMonitor { pause },
        // The record is a moment old: read it again, should a new monitor have just come up.
        None => match store::read::<Keepers>(&pod.dir.keepers()) {
            Ok(again) if again.monitor.open().is_some() => Served::Yes,
            _ => Served::Lost,
        },
    }
}

/// Whether the next monitor, should this one die, has to be started by a command.
pub fn is_fragile(pod: &Pod) -> bool {
    store::read::<Keepers>(&pod.dir.keepers()).is_ok_and(|keepers| !keepers.pause_restarts)
}

/// Mends what can be mended, and says so where nothing can.
pub fn ensure_served(pod: &Pod) -> Result<()> {
    refuse_frozen(pod)?;
    match look(pod) {
        Served::Yes => Ok(()),
        // One that does not know a record's format leaves at once, and nobody would ever answer.
        Served::Soon => store::format::understands(&pod.dir),
        Served::NoMonitor { pause } => {
            store::format::understands(&pod.dir)?;
            let lock = store::lock_healing(&pod.dir)?;
            fault::point("heal.locked");
            // Somebody else may have been faster.
            let mended = match look(pod) {
                Served::NoMonitor { .. } => start_monitor(pod, &pause),
                _ => Ok(()),
            };
            drop(lock);
            mended
        }
        Served::Lost => {
            bury(pod);
            Err(Error::new(
                Kind::NotNow,
                format!("reach the pod {}", pod.record.title()),
                "it is lost: pause and monitor died together",
            )
            .hint(format!("`podrun delete pod {}` removes what is left", pod.record.name)))
        }
    }
}

/// Who froze the pod's own cgroup froze its monitor, too: it would never answer.
fn refuse_frozen(pod: &Pod) -> Result<()> {
    let Some(tree) = &pod.record.host.cgroups.v2 else { return Ok(()) };
    let place = cgroup::Place::pod(&pod.roots.cgroup(), &pod.record.id);
    let wish = tree.mount.join(place.as_str()).join("cgroup.freeze");
    let events = tree.mount.join(place.own().as_str()).join("cgroup.events");
    let says = |file: &Path, word: &str| std::fs::read_to_string(file).is_ok_and(|text| text.contains(word));
    // The wish comes first, and is true of each process in its own time; the events tell of wishes further up, too.
    if !says(&wish, "1") && !says(&events, "frozen 1") {
        return Ok(());
    }
    let doing = format!("reach the monitor of {}", pod.record.title());
    Err(Error::new(Kind::NotNow, doing, "the pod's cgroup is frozen").hint(format!("echo 0 > {}", wish.display())))
}

/// A new monitor on copies of what pause holds (pidfd_getfd(2)).
fn start_monitor(pod: &Pod, pause: &OwnedFd) -> Result<()> {
    let doing = || format!("start a new monitor for {}", pod.record.title());
    let mut held = Vec::new();
    for number in [pause::STORE_A, pause::STORE_B, pause::STATUS_READ, pause::STATUS_WRITE] {
        let copy = pidfd_getfd(pause.as_fd(), number).doing(doing)?;
        held.push(fd::dup_above(copy.as_fd(), 64).doing(doing)?);
    }
    // No number that is handed over: it would be replaced before it is executed.
    let program = fd::dup_above(sandbox::own_program()?.as_fd(), 64).doing(doing)?;
    held.push(fd::dup_above(program.as_fd(), 64).doing(doing)?);
    let words = [monitor::ARGV0.to_owned(), pod.dir.0.to_string_lossy().into_owned()];
    let argv = Pointers::new(words.into_iter().map(|word| CString::new(word).unwrap_or_default()).collect());
    let envp = Pointers::new(Vec::new());
    // With pause and pump, so that `delete` finds it there.
    let place = cgroup::Place::pod(&pod.roots.cgroup(), &pod.record.id).own();
    let home = Cgroup::find(&pod.record.host.cgroups, &place)?;
    let tasks = home.tasks()?;
    let before = std::fs::metadata(pod.dir.keepers()).and_then(|facts| facts.modified()).ok();
    let null = fd::open(c"/dev/null", libc::O_RDWR).doing(doing)?;
    let null = fd::dup_above(null.as_fd(), 64).doing(doing)?;
    clone3(&Clone { namespaces: 0, cgroup: home.unified_fd() }, || {
        fault::point("heal.child");
        cred::reset_signals();
        let _ = tasks.join();
        let _ = cred::setsid();
        let ready = (0..3).try_for_each(|number| fd::dup_to(null.as_fd(), number));
        let handed = (3..).zip(&held).try_for_each(|(number, one)| fd::dup_to(one.as_fd(), number));
        if ready.and(handed).is_ok() {
            let _ = cred::fexecve(program.as_fd(), &argv, &envp);
        }
        exit(127)
    })
    .doing(doing)?;
    fault::point("heal.cloned");
    // It has come up when it has written who it is.
    for _ in 0..500 {
        if std::fs::metadata(pod.dir.keepers()).and_then(|facts| facts.modified()).ok() != before {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(super::client::no_monitor(pod))
}

/// Of a lost pod nobody must live on: its containers belong to nobody, in a network that is nobody's.
pub fn bury(pod: &Pod) {
    let why = "pause and monitor died together; the containers were killed by their cgroup\n";
    let _ = std::fs::write(pod.dir.lost(), why);
    let (layout, place) = (&pod.record.host.cgroups, cgroup::Place::pod(&pod.roots.cgroup(), &pod.record.id));
    let _ = without_cgroup::kill_in(layout, &place, &pod.dir, Duration::from_secs(2));
    for record in pod.containers() {
        let place = place.container(&record.name);
        if let Ok(one) = Cgroup::find(&pod.record.host.cgroups, &place) {
            let _ = one.kill_all(Duration::from_secs(2));
        }
    }
}
