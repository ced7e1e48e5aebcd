//! The name server of a network as a process: one a network, held by a lock.
//!
//! ```text
//!   <run-root>/networks/<network>.names    Record: who it is. The server holds its flock(2) from before it is bound to its end
//! ```
//! Whoever gets the lock starts the server, and gives it the lock with the file: so there is never a second one, and a lock
//! that nobody holds means that there is none, whatever the file says. The server is a program of its own, podrun under
//! another name, in a cgroup beside the pods' (none of them may end it), in nobody's session.

#![forbid(unsafe_code)]

use crate::cgroup::{self, Cgroup, Layout, Place, Tasks};
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::net::lock::{directory, gone};
use crate::roots::Roots;
use crate::sys::clone::{Child, Clone, clone3, exit, pidfd_open, pidfd_send_signal, poll_one};
use crate::sys::cred::{self, Pointers};
use crate::sys::{fd, mount};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The name under which main finds itself to be a name server.
pub const ARGV0: &str = "podrun-names";
/// Where the server finds what it was given: a pipe for its first word, and the file that is its lock.
pub const REPORT: i32 = 3;
pub const LOCK: i32 = 4;

/// Whether this program, called [`ARGV0`], is a name server. Any other program that was executed so would do its own work
/// again, and again.
static SERVES: AtomicBool = AtomicBool::new(false);

/// Said by a program's main that knows [`ARGV0`].
pub fn this_program_serves() {
    SERVES.store(true, Ordering::Relaxed);
}

/// How long a server may take to be there.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a server says of itself, once it listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    pub pid: i32,
    pub addresses: Vec<IpAddr>,
    /// Which podrun it is.
    pub build: String,
}

/// A server as it is found.
#[derive(Debug)]
pub enum Look {
    There {
        record: Record,
        pidfd: OwnedFd,
    },
    /// Somebody has the lock, and does not listen yet; or is on its way out.
    Soon,
    Gone,
}

pub fn file(roots: &Roots, network: &str) -> PathBuf {
    roots.run.join("networks").join(format!("{network}.names"))
}

/// The cgroup of all name servers; a pod's directory has no such name.
pub fn place(roots: &Roots) -> Result<Place> {
    Place::parse(&format!("{}/_names", roots.cgroup()))
}

/// Some microseconds: a file, its lock, a pidfd.
pub fn look(roots: &Roots, network: &str) -> Result<Look> {
    let path = file(roots, network);
    let doing = || format!("look at {}", path.display());
    let held = match File::open(&path) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Look::Gone),
        other => other.doing(doing)?,
    };
    if !is_held(&held).doing(doing)? {
        return Ok(Look::Gone);
    }
    let record: Option<Record> = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let Some(record) = record else { return Ok(Look::Soon) };
    let Ok(pidfd) = pidfd_open(record.pid) else { return Ok(Look::Soon) };
    // Held still: the number was the server's all the time, since it holds the lock to its end.
    let there = is_held(&held).doing(doing)? && held.metadata().doing(doing)?.nlink() > 0;
    Ok(if there { Look::There { record, pidfd } } else { Look::Soon })
}

/// Shared, so that those who look do not take each other for the server.
fn is_held(file: &File) -> io::Result<bool> {
    match fd::flock(file.as_fd(), libc::LOCK_SH | libc::LOCK_NB) {
        Ok(()) => Ok(false),
        Err(err) if err.kind() == ErrorKind::WouldBlock => Ok(true),
        Err(err) => Err(err),
    }
}

/// The lock, for whoever starts the server next; none where there is a server, or somebody starts one at this moment.
pub fn claim(roots: &Roots, network: &str) -> Result<Option<File>> {
    let path = file(roots, network);
    let doing = || format!("lock {}", path.display());
    directory(&roots.run.join("networks"))?;
    let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let lock = lock.doing(doing)?;
    match fd::flock(lock.as_fd(), libc::LOCK_EX | libc::LOCK_NB) {
        Err(err) if err.kind() == ErrorKind::WouldBlock => return Ok(None),
        other => other.doing(doing)?,
    }
    // Whoever stopped a server has taken its file away.
    if lock.metadata().doing(doing)?.nlink() == 0 {
        return Ok(None);
    }
    lock.set_len(0).doing(doing)?;
    Ok(Some(lock))
}

/// Comes back when the server listens, which is at once where it does so already.
pub fn ensure(roots: &Roots, network: &str) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let found = look(roots, network)?;
        if matches!(found, Look::There { .. }) {
            return Ok(());
        }
        if matches!(found, Look::Gone)
            && let Some(lock) = claim(roots, network)?
        {
            return start(roots, network, lock)?.wait(network);
        }
        if Instant::now() > until {
            return Err(Error::new(Kind::NotNow, doing(network), "its name server does not come up"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn doing(network: &str) -> String {
    format!("resolve names on {network}")
}

/// A server that was started and has not yet said its first word.
#[derive(Debug)]
pub struct Starting {
    pub child: Child,
    report: OwnedFd,
}

impl Starting {
    /// A lone `+`: it listens. Else why it does not.
    fn wait(self, network: &str) -> Result<()> {
        let mut said = [0; 512];
        let heard = match poll_one(self.report.as_fd(), libc::POLLIN, 5000) {
            Ok(true) => fd::read(self.report.as_fd(), &mut said),
            Ok(false) => Err(ErrorKind::TimedOut.into()),
            Err(err) => Err(err),
        };
        let count = heard.doing(|| doing(network))?;
        match &said[..count] {
            b"+" => Ok(()),
            [] => Err(Error::new(Kind::Kernel, doing(network), "its name server died")),
            why => Err(Error::new(Kind::NotNow, doing(network), String::from_utf8_lossy(why).into_owned())),
        }
    }
}

/// Starts the server; whoever calls has the lock, and one thread.
pub fn start(roots: &Roots, network: &str, lock: File) -> Result<Starting> {
    let doing = || doing(network);
    if !SERVES.load(Ordering::Relaxed) {
        return Err(Error::new(Kind::Unsupported, doing(), "this program is no name server"));
    }
    let layout = Layout::detect()?;
    let home = Cgroup::create(&cgroup::plan::pod(&layout, &place(roots)?, None)?)?;
    let tasks = home.tasks()?;
    let (report, theirs) = io::pipe().doing(doing)?;
    let program = fd::open(c"/proc/self/exe", libc::O_PATH).doing(doing)?;
    let null = fd::open(c"/dev/null", libc::O_RDWR).doing(doing)?;
    let words = [ARGV0.as_bytes(), roots.run.as_os_str().as_encoded_bytes(), roots.root.as_os_str().as_encoded_bytes()];
    let words = words.into_iter().chain([network.as_bytes()]).map(CString::new).collect::<Result<Vec<_>, _>>();
    let argv = Pointers::new(words.map_err(|_| Error::new(Kind::Invalid, doing(), "the run-root holds a NUL byte"))?);
    let envp = Pointers::new(Vec::new());
    fault::step("names.claimed").doing(doing)?;
    let given = [program.as_fd(), null.as_fd(), theirs.as_fd(), lock.as_fd()];
    let child = clone3(&Clone { cgroup: home.unified_fd(), ..Clone::default() }, || {
        let Err(err) = become_server(&tasks, given, &argv, &envp);
        let _ = fd::write(theirs.as_fd(), crate::error::plain(&err).as_bytes());
        exit(1)
    });
    let child = child.doing(doing)?;
    fault::point("names.started");
    Ok(Starting { child, report: report.into() })
}

/// Between clone3 and execve. Copies first, far above, so that no number is overwritten before its turn.
fn become_server(
    tasks: &Tasks,
    given: [BorrowedFd<'_>; 4],
    argv: &Pointers,
    envp: &Pointers,
) -> io::Result<std::convert::Infallible> {
    const ABOVE: i32 = 64;
    cred::reset_signals();
    cred::setsid()?;
    tasks.join()?;
    let [program, null, report, lock] = given.map(|one| fd::dup_above(one, ABOVE));
    let (program, null, report, lock) = (program?, null?, report?, lock?);
    fd::close_all_but(&mut [program.as_fd(), null.as_fd(), report.as_fd(), lock.as_fd()])?;
    (0..3).try_for_each(|number| fd::dup_to(null.as_fd(), number))?;
    fd::dup_to(report.as_fd(), REPORT)?;
    fd::dup_to(lock.as_fd(), LOCK)?;
    mount::chdir(c"/")?;
    Err(cred::fexecve(program.as_fd(), argv, envp))
}

/// Ends the server, and forgets it. None is fine.
pub fn stop(roots: &Roots, network: &str) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match look(roots, network)? {
            Look::Gone => break,
            Look::There { pidfd, .. } => {
                let _ = pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
                let _ = poll_one(pidfd.as_fd(), libc::POLLIN, 1000);
            }
            Look::Soon if Instant::now() > until => break,
            Look::Soon => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    let file = file(roots, network);
    gone(fs::remove_file(&file)).doing(|| format!("remove {}", file.display()))
}

/// A server of another podrun gives way to one of this one. None stays none.
pub fn replace(roots: &Roots, network: &str) -> Result<()> {
    let build = own_build();
    // The monitors of the network's pods, which may be of the other podrun, are about to start one, too.
    for _ in 0..8 {
        match look(roots, network)? {
            Look::Gone => return Ok(()),
            Look::There { record, .. } if record.build == build => return Ok(()),
            Look::There { pidfd, .. } => {
                let _ = pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
                let _ = poll_one(pidfd.as_fd(), libc::POLLIN, 1000);
                ensure(roots, network)?;
            }
            Look::Soon => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    Ok(())
}

/// This very file: its size and time tell builds apart.
pub fn own_build() -> String {
    fs::metadata("/proc/self/exe")
        .map_or(String::new(), |facts| format!("{:x}-{:x}.{:x}", facts.size(), facts.mtime(), facts.mtime_nsec()))
}
