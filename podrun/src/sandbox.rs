//! The sandbox: the namespaces that the containers of a pod share, and pause, which holds them.
//!
//! Made in one clone3; what belongs to the namespaces (hostname, sysctls, loopback) is set by the child itself before it
//! becomes pause, since only there they are its own.

#![forbid(unsafe_code)]

mod memory;

use crate::cgroup::Tasks;
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::pause;
use crate::roots::Roots;
use crate::sys::clone::{Child, Clone, clone3, exit, wait};
use crate::sys::cred::{self, Pointers};
use crate::sys::mount::{self, Attributes};
use crate::sys::{fd, ns, socket};
use crate::text::Text;
pub use memory::{Holder, SharedMemory};
use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// What pause is made with.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// `CLONE_NEW*` of the namespaces that are the pod's own.
    pub new: i32,
    /// Namespaces that are there already, each with its `CLONE_NEW*`: what a pod borrows, or had before.
    pub joined: Vec<(BorrowedFd<'a>, i32)>,
    pub hostname: Option<&'a Text>,
    pub sysctl: &'a [(Text, Text)],
    pub cgroup: Option<BorrowedFd<'a>>,
    pub tasks: Option<&'a Tasks>,
    /// What pause holds from number 3 on: the store, the status pipe, the monitor's program, and a user's pod's namespaces.
    pub held: &'a [BorrowedFd<'a>],
    /// After "pause": the monitor's argv, or nothing where it shall start none.
    pub argv: Vec<CString>,
    pub program: BorrowedFd<'a>,
}

/// A pause on its way. It waits at its gate until it is released.
#[derive(Debug)]
pub struct Waiting {
    pub child: Child,
    report: OwnedFd,
}

/// Where the making of a sandbox may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Cgroup = 1,
    Namespaces,
    Hostname,
    Loopback,
    Sysctl,
    Descriptors,
    Exec,
}

/// clone3 of pause. It stops at a gate, so that its maker can note what it must and dies with it until then.
pub fn start(wanted: &Wanted<'_>) -> Result<Waiting> {
    let argv = [vec![c"pause".to_owned()], wanted.argv.clone()].concat();
    let (argv, envp) = (Pointers::new(argv), Pointers::new(Vec::new()));
    let (ours, theirs) = socket::seqpacket_pair().doing(|| "make the report socket".into())?;
    let request = Clone { namespaces: wanted.new, cgroup: wanted.cgroup };
    let born = || {
        // With a copy of the maker's end in its own hands it would never hear that the maker died.
        fd::close_inherited(ours.as_fd());
        become_pause(wanted, theirs.as_fd(), &argv, &envp)
    };
    let child = clone3(&request, born).map_err(refused)?;
    Ok(Waiting { child, report: ours })
}

/// The pod's net, uts and ipc namespaces alone, for a user's pause, which holds them without being in them. Whoever makes
/// them ends at once.
pub fn namespaces(wanted: &Wanted<'_>) -> Result<[OwnedFd; 3]> {
    let doing = || "make the pod's namespaces".to_owned();
    let (ours, theirs) = socket::seqpacket_pair().doing(doing)?;
    let child = clone3(&Clone { namespaces: wanted.new, cgroup: None }, || {
        fd::close_inherited(ours.as_fd());
        hand_back(wanted, theirs.as_fd());
        exit(0)
    })
    .map_err(refused)?;
    drop(theirs);
    let mut buffer = [0; 8];
    let heard = socket::receive(ours.as_fd(), &mut buffer, 0);
    wait(child.pidfd.as_fd()).doing(doing)?;
    let (count, fds) = heard.doing(doing)?;
    match (&buffer[..count], <[OwnedFd; 3]>::try_from(fds)) {
        (b"N", Ok(namespaces)) => Ok(namespaces),
        (&[step, index, a, b, c, d], _) => Err(sentence(step, index, i32::from_ne_bytes([a, b, c, d]), wanted.sysctl)),
        _ => Err(Error::new(Kind::Kernel, doing(), "whoever made them was killed")),
    }
}

/// Between clone3 and exit: no allocation, no lock.
fn hand_back(wanted: &Wanted<'_>, report: BorrowedFd<'_>) {
    let open = |path| fd::open(path, libc::O_RDONLY);
    let handed = settle(wanted).and_then(|()| {
        (|| {
            let all = [open(c"/proc/self/ns/net")?, open(c"/proc/self/ns/uts")?, open(c"/proc/self/ns/ipc")?];
            socket::send(report, b"N", &[all[0].as_fd(), all[1].as_fd(), all[2].as_fd()], 0)
        })()
        .map_err(|err| (Step::Namespaces, 0, err))
    });
    if let Err(failed) = handed {
        tell(report, &failed);
    }
}

fn refused(err: io::Error) -> Error {
    let errno = err.raw_os_error();
    let failed = Err::<(), _>(err).doing(|| "make the pod's namespaces".into()).unwrap_err();
    match errno {
        Some(libc::EPERM) => failed.hint("podrun needs CAP_SYS_ADMIN, as root or in a user namespace"),
        Some(libc::ENOSPC | libc::EUSERS) => failed.hint("a limit below /proc/sys/user is reached"),
        Some(libc::EAGAIN) => failed.hint("a limit of processes is reached"),
        _ => failed,
    }
}

impl Waiting {
    /// Lets pause go, and waits until it has become its program: for a maker that has nothing else to do.
    pub fn run(self) -> Result<Child> {
        self.release();
        self.confirm(&[])?;
        Ok(self.child)
    }

    /// Lets pause go on to become its program, while its maker does other things.
    pub fn release(&self) {
        // Should it be dead already, its last words say more than a broken pipe.
        let _ = socket::send(self.report.as_fd(), b"G", &[], 0);
    }

    /// Waits until pause, once released, has become its program.
    pub fn confirm(&self, sysctl: &[(Text, Text)]) -> Result<()> {
        let mut buffer = [0; 8];
        let receive = |buffer: &mut [u8]| socket::receive(self.report.as_fd(), buffer, 0);
        // Its last words lie behind the reset that it leaves when it ends with our "G" unread.
        let heard = receive(&mut buffer).or_else(|err| match err.raw_os_error() {
            Some(libc::ECONNRESET) => receive(&mut buffer),
            _ => Err(err),
        });
        let (count, _) = heard.doing(|| "hear of pause".into())?;
        match buffer[..count] {
            // Closed by execve, or by death, of which the memory goes first: then there is none.
            [] => match std::fs::read_to_string(format!("/proc/{}/statm", self.child.pid)) {
                Ok(pages) if !pages.starts_with("0 ") => Ok(()),
                _ => Err(Error::new(Kind::Kernel, "make the sandbox", "pause was killed before it ran")),
            },
            [step, index, a, b, c, d] => Err(sentence(step, index, i32::from_ne_bytes([a, b, c, d]), sysctl)),
            _ => Err(Error::new(Kind::Kernel, "hear of pause", "it said something unknown")),
        }
    }
}

fn sentence(step: u8, index: u8, errno: i32, sysctl: &[(Text, Text)]) -> Error {
    const STEPS: [(Step, &str); 7] = [
        (Step::Cgroup, "join the pod's cgroup"),
        (Step::Namespaces, "join the pod's namespaces"),
        (Step::Hostname, "set the hostname"),
        (Step::Loopback, "bring the loopback up"),
        (Step::Sysctl, "set a sysctl"),
        (Step::Descriptors, "hand pause its descriptors"),
        (Step::Exec, "execute pause"),
    ];
    let cause = io::Error::from_raw_os_error(errno);
    let words = STEPS.iter().find(|(known, _)| *known as u8 == step).map_or("make the sandbox", |(_, words)| words);
    let doing = match (step == Step::Sysctl as u8, sysctl.get(usize::from(index))) {
        (true, Some((file, value))) => format!("write {:?} to {}", value.lossy(), file.lossy()),
        _ => words.to_owned(),
    };
    Err::<(), _>(cause).doing(|| doing).unwrap_err()
}

fn become_pause(wanted: &Wanted<'_>, report: BorrowedFd<'_>, argv: &Pointers, envp: &Pointers) -> Infallible {
    let Err(failed) = live(wanted, report, argv, envp);
    tell(report, &failed);
    exit(1)
}

fn tell(report: BorrowedFd<'_>, (step, index, err): &Failed) {
    let [a, b, c, d] = err.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes();
    let _ = socket::send(report, &[*step as u8, *index, a, b, c, d], &[], 0);
}

type Failed = (Step, u8, io::Error);

/// Between clone3 and execve: no allocation, no lock.
fn live(wanted: &Wanted<'_>, report: BorrowedFd<'_>, argv: &Pointers, envp: &Pointers) -> Result<Infallible, Failed> {
    let at = |step: Step| move |err: io::Error| (step, 0, err);
    cred::reset_signals();
    // Out of the caller's session: a Ctrl-C or a closed terminal there is not meant for the pod.
    cred::setsid().map_err(at(Step::Descriptors))?;
    if let Some(tasks) = wanted.tasks {
        tasks.join().map_err(|errno| (Step::Cgroup, 0, errno.into()))?;
    }
    lower_oom_score();
    settle(wanted)?;
    fault::step("create-pod.pause-ready").map_err(at(Step::Descriptors))?;
    let mut byte = [0];
    match fd::read(report, &mut byte) {
        Ok(1) => {}
        // The maker died: nobody knows of us.
        _ => exit(1),
    }
    let program = hand_down(wanted, report).map_err(at(Step::Descriptors))?;
    Err((Step::Exec, 0, cred::fexecve(program.as_fd(), argv, envp)))
}

/// What belongs to the namespaces, by whoever is in them.
fn settle(wanted: &Wanted<'_>) -> Result<(), Failed> {
    let at = |step: Step| move |err: io::Error| (step, 0, err);
    for (namespace, kind) in &wanted.joined {
        ns::setns(*namespace, *kind).map_err(at(Step::Namespaces))?;
    }
    if let Some(hostname) = wanted.hostname {
        ns::sethostname(hostname.c()).map_err(at(Step::Hostname))?;
    }
    if wanted.new & libc::CLONE_NEWNET != 0 {
        ns::loopback_up().map_err(at(Step::Loopback))?;
    }
    for (index, (file, value)) in wanted.sysctl.iter().enumerate() {
        write(file.c(), value.c().to_bytes())
            .map_err(|err| (Step::Sysctl, u8::try_from(index).unwrap_or(u8::MAX), err))?;
    }
    Ok(())
}

/// To what the host grants: -1000 where it does, else as it is. The OOM killer shall take workloads first.
fn lower_oom_score() {
    for score in [b"-1000".as_slice(), b"-998", b"0"] {
        if write(c"/proc/self/oom_score_adj", score).is_ok() {
            return;
        }
    }
}

fn write(path: &std::ffi::CStr, value: &[u8]) -> io::Result<()> {
    let file = fd::open(path, libc::O_WRONLY)?;
    fd::write(file.as_fd(), value).map(drop)
}

/// Null on 0 to 2, what is held from 3 on; all else closes at execve. Copies first, far above, so that no number is
/// overwritten before its turn. `/` is the current directory, so that no mount is pinned.
fn hand_down(wanted: &Wanted<'_>, report: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const ABOVE: i32 = 64;
    const MOST: usize = 8; // the store, the status pipe, the monitor's program, three namespaces
    let program = fd::dup_above(wanted.program, ABOVE)?;
    let null = fd::dup_above(fd::open(c"/dev/null", libc::O_RDWR)?.as_fd(), ABOVE)?;
    let mut copies: [Option<OwnedFd>; MOST] = [const { None }; MOST];
    for (copy, held) in copies.iter_mut().zip(wanted.held) {
        *copy = Some(fd::dup_above(*held, ABOVE)?);
    }
    let mut kept = [report; MOST + 3];
    (kept[0], kept[1]) = (program.as_fd(), null.as_fd());
    for (place, copy) in kept[2..].iter_mut().zip(copies.iter().flatten()) {
        *place = copy.as_fd();
    }
    fd::close_all_but(&mut kept)?;
    for number in 0..3 {
        fd::dup_to(null.as_fd(), number)?;
    }
    for (number, copy) in (3..).zip(copies.iter().flatten()) {
        fd::dup_to(copy.as_fd(), number)?;
    }
    mount::chdir(c"/")?;
    Ok(program)
}

/// The pause program: one file in the run-root, written from the copy in this binary when it is not there.
pub fn pause_program(roots: &Roots) -> Result<OwnedFd> {
    let path = roots.run.join("pause");
    let doing = || format!("write {}", path.display());
    let right = |file: &std::fs::File| file.metadata().is_ok_and(|facts| facts.len() == pause::IMAGE.len() as u64);
    if let Ok(file) = std::fs::File::open(&path)
        && right(&file)
        && std::fs::read(&path).is_ok_and(|bytes| bytes == pause::IMAGE)
    {
        return Ok(file.into());
    }
    let staged = roots.run.join(format!("pause.{}", std::process::id()));
    if let Err(err) = place_pause(&staged, &path) {
        let _ = std::fs::remove_file(&staged);
        return Err(err).doing(doing);
    }
    std::fs::File::open(&path).map(OwnedFd::from).doing(doing)
}

fn place_pause(staged: &Path, path: &Path) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o500).open(staged)?;
    file.write_all(pause::IMAGE)?;
    // An open writer would make execve fail with ETXTBSY.
    drop(file);
    fault::step("create-pod.pause-staged")?;
    std::fs::rename(staged, path)
}

/// podrun's own file, as something that cannot be written through /proc/PID/exe (CVE-2019-5736): a read-only detached
/// mount of it, or, on kernels without mount_setattr(2), a sealed copy in memory.
pub fn own_program() -> Result<OwnedFd> {
    let doing = || "open podrun's own program".to_owned();
    let read_only = Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
    let detached = mount::open_tree(mount::here(), c"/proc/self/exe", false)
        .or_else(|_| own_program_by_name())
        .and_then(|tree| mount::mount_setattr(tree.as_fd(), read_only, false).map(|()| tree));
    match detached {
        Ok(tree) => Ok(tree),
        Err(_) => sealed_copy().doing(doing),
    }
}

/// Where this process has come into another mount namespace since it was executed: the same file, by the mount that it has
/// there.
fn own_program_by_name() -> io::Result<OwnedFd> {
    use std::os::unix::fs::MetadataExt;
    let path = std::fs::read_link("/proc/self/exe")?;
    let executed = std::fs::metadata("/proc/self/exe")?;
    let path = CString::new(path.into_os_string().into_encoded_bytes())?;
    let tree = mount::open_tree(mount::here(), &path, false)?;
    let found = fd::fstat(tree.as_fd())?;
    match (found.st_dev, found.st_ino) == (executed.dev(), executed.ino()) {
        true => Ok(tree),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}

fn sealed_copy() -> io::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let copy = memfd_create(c"podrun", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = std::fs::File::from(copy);
    io::copy(&mut std::fs::File::open("/proc/self/exe")?, &mut file)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}
