//! Ending and freezing everything in a cgroup, whatever its processes do against it.
//!
//! The unified tree does it in one write each (cgroup.kill, Linux 5.14; cgroup.freeze, 5.2), for what lies below as
//! well. Elsewhere the members are frozen, so that nobody forks while they are counted, killed one by one, and thawed.

#![forbid(unsafe_code)]

use super::layout::Controller;
use super::live::Cgroup;
use super::live::Open;
use super::plan::Dialect;
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::clone::{pidfd_open, pidfd_send_signal, poll_one};
use nix::errno::Errno;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::Pid;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Of a container without any.
pub const NO_CGROUP: &str = "it has none, since none was delegated to the user who made it";

impl Cgroup {
    /// SIGKILL to all members, and to what is below, until none is left: of a pod's own directory, that is pause and
    /// monitor too. Blocks no longer than `within`; with zero it only sends, and a later [`Cgroup::is_empty`] tells.
    pub fn kill_all(&self, within: Duration) -> Result<()> {
        let (mut wait, mut first) = (Wait::until(within), true);
        let dying = if within.is_zero() { Vec::new() } else { self.unified().map_or(Vec::new(), Open::handles) };
        loop {
            self.kill_once(first);
            if first {
                wait.for_each(&dying);
            }
            if self.is_empty() || (first && within.is_zero()) {
                return Ok(());
            }
            first = false;
            if !wait.again() {
                return Err(Error::new(
                    Kind::NotNow,
                    format!("kill the cgroup {}", self.place),
                    still_there(&self.procs()),
                )
                .hint("a process that waits for a disk or a network file system dies when that answers"));
            }
        }
    }

    /// After the first round, members of v1 trees that are not in the unified one are looked for too: a process may
    /// have got no further than half of its trees.
    fn kill_once(&self, first: bool) {
        let swept = self.unified().is_some_and(|open| open.write("cgroup.kill", "1").is_ok());
        if !swept {
            self.kill_each();
        } else if !first {
            self.kill_members();
        }
    }

    /// Any other signal to all members: to those that are there at this moment.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.each_member(|process| pidfd_send_signal(process, signal));
        Ok(())
    }

    fn kill_each(&self) {
        // A member that does not freeze in time (a vfork'ed child's parent) is killed in this round or the next.
        let frozen = self.freeze(Duration::from_millis(20));
        self.kill_members();
        if frozen.is_ok() {
            drop(self.thaw());
        }
    }

    fn kill_members(&self) {
        self.each_member(|process| pidfd_send_signal(process, libc::SIGKILL));
    }

    /// A pid is only a number: it is made a handle first, and taken only if it still stands in the list after that.
    fn each_member(&self, act: impl Fn(BorrowedFd<'_>) -> std::io::Result<()>) {
        let handles: Vec<(Pid, OwnedFd)> =
            self.procs().into_iter().filter_map(|pid| pidfd_open(pid.as_raw()).ok().map(|fd| (pid, fd))).collect();
        let still = self.procs();
        for (pid, process) in handles {
            if still.contains(&pid) {
                // ESRCH: it went by itself.
                let _ = act(process.as_fd());
            }
        }
    }

    /// No process is in it or below it, in any tree. A zombie is no member.
    pub fn is_empty(&self) -> bool {
        let populated = |open: &Open| open.read("cgroup.events").is_ok_and(|text| text.contains("populated 1"));
        !self.unified().is_some_and(populated) && self.procs().is_empty()
    }

    /// The members, and those of what lies below, in all trees. A process of a PID namespace that we do not see is
    /// listed as 0 by the kernel and left out.
    pub fn procs(&self) -> Vec<Pid> {
        let mut pids: Vec<i32> = Vec::new();
        let mut add = |text: String| pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        for open in &self.leaves {
            open.procs(&mut add);
        }
        pids.sort_unstable();
        pids.dedup();
        pids.into_iter().filter(|&pid| pid > 0).map(Pid::from_raw).collect()
    }

    /// Stops all members where they are. Either all are frozen on return, or none is.
    pub fn freeze(&self, within: Duration) -> Result<()> {
        let freezer = self.freezer()?;
        let mut wait = Wait::until(within);
        freezer.write_state(State::Frozen)?;
        while !freezer.is_frozen() {
            if !wait.again() {
                freezer.write_state(State::Thawed)?;
                let doing = format!("freeze the cgroup {}", self.place);
                return Err(Error::new(Kind::NotNow, doing, "a member does not stop")
                    .hint("a process that waits for a disk or a network file system stops when that answers"));
            }
            // v1 looks at its members once: one that was about to fork is only seen at the next write.
            freezer.write_state(State::Frozen)?;
        }
        Ok(())
    }

    pub fn thaw(&self) -> Result<()> {
        self.freezer()?.write_state(State::Thawed)
    }

    /// Also when only a directory above was frozen.
    pub fn is_frozen(&self) -> bool {
        self.freezer().is_ok_and(|freezer| freezer.is_frozen())
    }

    /// A cgroup below this one for processes that are to be killed by themselves, made unless it is there. It is in the one tree
    /// that kills or freezes, so that the limits stay those of the whole; `None` where there is no such tree.
    pub fn nested(&self, name: &str) -> Result<Option<Self>> {
        let Some(above) = self.freezes() else { return Ok(None) };
        match mkdirat(&above.fd, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno).doing(|| format!("make {}", above.path.join(name).display())),
        }
        Ok(Some(Self { place: self.place.below(name)?, leaves: vec![above.below(name)?] }))
    }

    fn freezes(&self) -> Option<&Open> {
        self.unified().or_else(|| self.controller(Controller::Freezer))
    }

    fn freezer(&self) -> Result<Freezer<'_>> {
        self.freezes().map(Freezer).ok_or_else(|| {
            let cause = match self.is_nowhere() {
                true => NO_CGROUP,
                false => "it is in no tree that can freeze",
            };
            Error::new(Kind::Unsupported, format!("freeze the cgroup {}", self.place), cause)
        })
    }
}

impl Open {
    /// Gives the text of each `cgroup.procs`, its own and those below.
    fn procs(&self, mut give: impl FnMut(String)) {
        give(self.read("cgroup.procs").unwrap_or_default());
        for directory in below(&self.path) {
            give(std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default());
        }
    }

    /// To wait for, not to kill by: between the list and the handle a number may have become a stranger's.
    fn handles(&self) -> Vec<OwnedFd> {
        let mut handles = Vec::new();
        self.procs(|text| {
            let pids = text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0);
            handles.extend(pids.filter_map(|pid| pidfd_open(pid).ok()));
        });
        handles
    }
}

#[derive(Clone, Copy)]
enum State {
    Frozen,
    Thawed,
}

struct Freezer<'a>(&'a Open);

impl Freezer<'_> {
    fn write_state(&self, state: State) -> Result<()> {
        match (self.0.dialect, state) {
            (Dialect::V1, State::Frozen) => self.0.write("freezer.state", "FROZEN"),
            (Dialect::V1, State::Thawed) => self.0.write("freezer.state", "THAWED"),
            (Dialect::V2, State::Frozen) => self.0.write("cgroup.freeze", "1"),
            (Dialect::V2, State::Thawed) => self.0.write("cgroup.freeze", "0"),
        }
    }

    fn is_frozen(&self) -> bool {
        let (file, sign) = match self.0.dialect {
            Dialect::V1 => ("freezer.state", "FROZEN"),
            Dialect::V2 => ("cgroup.events", "frozen 1"),
        };
        self.0.read(file).is_ok_and(|text| text.contains(sign))
    }
}

/// Short sleeps that grow, and an end.
pub(super) struct Wait {
    end: Instant,
    pause: Duration,
}

impl Wait {
    pub(super) fn until(within: Duration) -> Self {
        Self { end: Instant::now() + within, pause: Duration::from_micros(50) }
    }

    /// Until all have ended, but no longer than a kill mostly takes: the sleeps are for those that do not die.
    fn for_each(&self, dying: &[OwnedFd]) {
        const MOSTLY: Duration = Duration::from_millis(100);
        let end = self.end.min(Instant::now() + MOSTLY);
        for process in dying {
            let left = end.saturating_duration_since(Instant::now()).as_millis();
            let _ = poll_one(process.as_fd(), libc::POLLIN, i32::try_from(left).unwrap_or(i32::MAX));
        }
    }

    /// Sleeps; false when the time is up.
    pub(super) fn again(&mut self) -> bool {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        std::thread::sleep(self.pause.min(left));
        self.pause = (self.pause * 2).min(Duration::from_millis(10));
        true
    }
}

/// The directories below, parents before children. A cgroup directory has two links and one for each child, so that
/// the usual one, without children, need not be read.
pub(super) fn below(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut next = vec![path.to_owned()];
    while let Some(directory) = next.pop() {
        if std::fs::metadata(&directory).map_or(2, |data| data.nlink()) > 2 {
            let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
            let children = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            next.extend(children.map(|entry| entry.path()));
        }
        if directory != path {
            found.push(directory);
        }
    }
    found
}

/// For an error message: `still in it: 12, 13`.
pub(super) fn still_there(pids: &[Pid]) -> String {
    let mut names: Vec<String> = pids.iter().take(5).map(ToString::to_string).collect();
    if pids.len() > names.len() {
        names.push("…".to_owned());
    }
    match names.is_empty() {
        true => "it is still in use".to_owned(),
        false => format!("still in it: {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::Layout;
    use super::super::place::Place;
    use super::super::plan;
    use super::*;
    use std::process::Command;

    /// Whatever the test did, nothing stays.
    struct Gone(Cgroup);

    impl Drop for Gone {
        fn drop(&mut self) {
            drop(self.0.thaw());
            drop(self.0.kill_all(Duration::from_secs(5)));
            drop(self.0.remove(Duration::from_secs(5)));
        }
    }

    /// Linux 5.10 to 5.13 can freeze by cgroup2 but has no cgroup.kill; newer kernels never come this way.
    #[test]
    #[expect(clippy::print_stderr, reason = "a test that skips says so")]
    fn without_cgroup_kill_the_members_are_killed_one_by_one() {
        let layout = Layout::detect().unwrap();
        if !nix::unistd::geteuid().is_root() || layout.v2.is_none() {
            eprintln!("skipped: not root, or no unified tree");
            return;
        }
        let place = Place::parse(&format!("podrun-test-{}-each", std::process::id())).unwrap();
        let plan = plan::own(&layout, &place, None).unwrap();
        let cgroup = Gone(Cgroup::create(&plan).unwrap());
        let Gone(cgroup) = &cgroup;
        let script = "echo 0 > $0/cgroup.procs; for i in 1 2 3 4 5; do sleep 60 & done; wait";
        let mut shell = Command::new("sh").args(["-c", script]).arg(plan.unified_directory().unwrap()).spawn().unwrap();
        let mut wait = Wait::until(Duration::from_secs(5));
        while cgroup.procs().len() < 6 && wait.again() {}
        assert_eq!(cgroup.procs().len(), 6);
        cgroup.kill_each();
        shell.wait().unwrap();
        let mut wait = Wait::until(Duration::from_secs(5));
        while !cgroup.is_empty() && wait.again() {}
        assert!(!cgroup.is_frozen(), "thawed again");
    }

    #[test]
    fn a_message_names_a_few() {
        let pids: Vec<Pid> = (1..9).map(Pid::from_raw).collect();
        assert_eq!(still_there(&pids[..2]), "still in it: 1, 2");
        assert_eq!(still_there(&pids), "still in it: 1, 2, 3, 4, 5, …");
        assert_eq!(still_there(&[]), "it is still in use");
    }
}
