//! What pause promises, kept by the image that podrun carries. Each pause of these tests lives in a PID namespace of its
//! own, which the kernel empties when the test is over, however it ends; a test that is killed leaves only its
//! directory in /tmp.

#![forbid(unsafe_code)]

use nix::fcntl::OFlag;
use nix::fcntl::open;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::poll;
use nix::spawn::PosixSpawnAttr;
use nix::spawn::PosixSpawnFileActions;
use nix::spawn::posix_spawn;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockType;
use nix::sys::socket::socketpair;
use nix::sys::stat::Mode;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use nix::unistd::mkfifo;
use nix::unistd::pipe2;
use nix::unistd::read;
use podrun::pause;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

const BUSYBOX: &str = "/bin/busybox";
const PATIENCE: Duration = Duration::from_secs(60);

/// Where pause stands in its PID namespace.
#[derive(Clone, Copy, PartialEq)]
enum As {
    Pid1,
    /// A child of the namespace's first process, as the keeper is a child of the host's.
    Subreaper,
}

/// A pause, its namespace, its directory and our end of its status pipe.
struct Pause {
    unshare: Pid,
    pid: Pid,
    stands: As,
    dir: Scratch,
    status: OwnedFd,
    over: Option<WaitStatus>,
}

impl Pause {
    /// A pause that only holds.
    fn holding(stands: As) -> Self {
        Self::start(stands, "", None)
    }

    /// A pause with this shell script as its monitor; it runs in the scratch directory.
    fn keeping(stands: As, script: &str) -> Self {
        Self::start(stands, "", Some(script))
    }

    /// `through` is what executes pause, with arguments: `/usr/bin/env --ignore-signal=CHLD`.
    fn start(stands: As, through: &str, script: Option<&str>) -> Self {
        let dir = Scratch::new();
        let image = dir.0.join("pause");
        fs::write(&image, pause::IMAGE).unwrap();
        fs::set_permissions(&image, fs::Permissions::from_mode(0o755)).unwrap();
        mkfifo(&dir.0.join("orders"), Mode::S_IRWXU).unwrap();
        let monitor = if script.is_some() { "sh -c \"$0\"" } else { "" };
        // As PID 1 it takes the shell's place; else the shell waits, and hands its exit code on.
        let (before, after) = if stands == As::Pid1 { ("exec", "") } else { ("", "; exit $?") };
        let shell = format!("cd {} && PATH=$PATH:. && {before} {through} pause {monitor}{after}", dir.0.display());
        // prctl(2), PR_SET_PDEATHSIG: a test that is killed drops nothing, but takes this with it.
        let unshare =
            ["setpriv", "--pdeathsig=KILL", "--", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"];
        let (status, unshare) = spawn(&[&unshare[..], &[BUSYBOX, "sh", "-c", &shell, script.unwrap_or("")]].concat());
        let mut started = Self { unshare, pid: unshare, stands, dir, status, over: None };
        started.pid = within("pause is there", || find(unshare, "pause"));
        // Letting go of the capabilities is the last thing that it does to itself.
        within("pause is ready", || (field(started.pid, "CapPrm")? == NOTHING).then_some(()));
        started
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.0.join(name)
    }

    /// The lines that monitors wrote, once there are so many of them.
    fn lines(&self, name: &str, count: usize) -> Vec<String> {
        within(&format!("{count} lines in {name}"), || {
            let text = fs::read_to_string(self.file(name)).ok()?;
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            (text.ends_with('\n') && lines.len() >= count).then_some(lines)
        })
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// What pause's namespace left with.
    fn ends(&mut self) -> WaitStatus {
        let status = within("pause ends", || match waitpid(self.unshare, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => None,
            done => Some(done.unwrap()),
        });
        self.over = Some(status);
        status
    }

    fn exits_with_0(&mut self) {
        assert_eq!(self.ends(), WaitStatus::Exited(self.unshare, 0));
    }

    /// The next note in the status pipe.
    fn note(&self) -> (u32, i32) {
        let mut ready = [PollFd::new(self.status.as_fd(), PollFlags::POLLIN)];
        let patience = u16::try_from(PATIENCE.as_millis()).unwrap();
        assert_eq!(poll(&mut ready, patience).unwrap(), 1, "no note came");
        let mut note = [0; pause::NOTE];
        assert_eq!(read(&self.status, &mut note).unwrap(), pause::NOTE);
        pause::read_note(note)
    }

    fn has_no_note(&self) -> bool {
        let mut ready = [PollFd::new(self.status.as_fd(), PollFlags::POLLIN)];
        poll(&mut ready, 0_u16).unwrap() == 0
    }

    /// Runs a script that is an orphan from the start: its parent leaves at once.
    fn orphan(&self, script: &str) {
        match self.stands {
            // Whoever enters a PID namespace and loses its parent comes to the namespace's first process.
            As::Pid1 => {
                let enter = [&format!("--target={}", self.pid), "--pid", "--mount", "--", BUSYBOX, "sh", "-c"];
                let orphan = format!("cd {}; ({script}) &", self.dir.0.display());
                assert!(Command::new("nsenter").args(enter).arg(orphan).status().unwrap().success());
            }
            // Only a descendant of a subreaper comes to it, so the monitor OBEYING has to make one.
            As::Subreaper => fs::write(self.file("orders"), format!("{script}\n")).unwrap(),
        }
    }

    fn monitor(&self) -> Pid {
        within("there is a monitor", || children(self.pid).into_iter().find(|&child| field(child, "Name").is_some()))
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        if self.over.is_some() {
            return;
        }
        // The first process of a PID namespace takes all others with it; unshare --kill-child takes the first.
        for first in children(self.unshare) {
            kill(first, Signal::SIGKILL).ok();
        }
        kill(self.unshare, Signal::SIGKILL).ok();
        waitpid(self.unshare, None).ok();
    }
}

/// A directory that goes away.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("podrun-pause-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Starts a program with the descriptors of pause's contract, and keeps an end of the status pipe.
fn spawn(argv: &[&str]) -> (OwnedFd, Pid) {
    let path = |path: &str, flags| open(path, flags | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
    let null = path("/dev/null", OFlag::O_RDWR);
    let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let (status, noting) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
    let program = path(BUSYBOX, OFlag::O_PATH);
    let fds = [
        (&null, 0),
        (&null, 1),
        (&null, 2),
        (&a, pause::STORE_A),
        (&b, pause::STORE_B),
        (&status, pause::STATUS_READ),
        (&noting, pause::STATUS_WRITE),
        (&program, pause::MONITOR_PROGRAM),
    ];
    // Twice, since one descriptor's goal may be where another comes from.
    const APART: i32 = 500;
    let mut actions = PosixSpawnFileActions::init().unwrap();
    for (fd, goal) in &fds {
        actions.add_dup2(fd.as_raw_fd(), APART + goal).unwrap();
    }
    for (_, goal) in &fds {
        actions.add_dup2(APART + goal, *goal).unwrap();
        actions.add_close(APART + goal).unwrap();
    }
    let program = which(argv[0]);
    let argv: Vec<CString> = argv.iter().map(|&word| CString::new(word).unwrap()).collect();
    let environment = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin"];
    let pid = posix_spawn(&*program, &actions, &PosixSpawnAttr::init().unwrap(), &argv, &environment).unwrap();
    (status, pid)
}

fn which(program: &str) -> PathBuf {
    let places = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];
    let found = places.iter().map(|place| Path::new(place).join(program)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{program} is not installed"))
}

/// Asks until there is an answer.
fn within<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        sleep(Duration::from_millis(2));
    }
}

fn children(of: Pid) -> Vec<Pid> {
    let text = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

/// The first process of this name among a process's descendants.
fn find(under: Pid, name: &str) -> Option<Pid> {
    children(under).into_iter().find_map(|child| match field(child, "Name")? == name {
        true => Some(child),
        false => find(child, name),
    })
}

/// A line of /proc/PID/status.
fn field(pid: Pid, name: &str) -> Option<String> {
    field_of(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, name)
}

fn field_of(status: &str, name: &str) -> Option<String> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

fn zombies(of: Pid) -> usize {
    children(of).into_iter().filter(|&child| field(child, "State").is_some_and(|state| state.starts_with('Z'))).count()
}

/// An empty set of capabilities or signals, as /proc/PID/status shows it.
const NOTHING: &str = "0000000000000000";
/// A monitor that says who it is, and makes orphans as it is told.
const OBEYING: &str = "echo $$ >> started; exec 8<>orders; while read -r order; do (eval \"$order\" &); done <&8";

fn in_both_places(promise: impl Fn(As)) {
    promise(As::Pid1);
    promise(As::Subreaper);
}

#[test]
fn pause_is_at_most_1_kib_static_and_has_no_writable_segment() {
    assert!(pause::IMAGE.len() <= 1024, "{} bytes", pause::IMAGE.len());
    let word = |at: usize| u64::from_le_bytes(pause::IMAGE[at..at + 8].try_into().unwrap());
    let half = |at: usize| u16::from_le_bytes(pause::IMAGE[at..at + 2].try_into().unwrap());
    let (headers, count) = (usize::try_from(word(32)).unwrap(), half(56));
    let segments: Vec<(u64, u64)> = (0..usize::from(count))
        .map(|n| word(headers + n * 56)) // p_type in the low half, p_flags in the high one
        .map(|segment| (segment & 0xffff_ffff, segment >> 32))
        .collect();
    const PT_LOAD: u64 = 1;
    const PT_GNU_STACK: u64 = 0x6474_e551;
    assert_eq!(segments, [(PT_LOAD, 0b101), (PT_GNU_STACK, 0b110)], "(type, flags) of all program headers");
}

#[test]
fn pause_has_at_most_16_kib_of_memory_and_writes_only_to_its_stack() {
    for _ in 0..16 {
        let pause = Pause::keeping(As::Pid1, OBEYING);
        pause.lines("started", 1);
        let rss = field(pause.pid, "VmRSS").unwrap();
        let kib: u32 = rss.trim_end_matches(" kB").parse().unwrap();
        assert!(kib <= 16, "resident: {rss}");
        let maps = fs::read_to_string(format!("/proc/{}/maps", pause.pid)).unwrap();
        let writable: Vec<&str> = maps.lines().filter(|map| map.split(' ').nth(1).unwrap().contains('w')).collect();
        assert!(writable.len() == 1 && writable[0].ends_with("[stack]"), "{maps}");
    }
}

#[test]
fn pause_uses_no_capability_and_keeps_the_bounding_set() {
    in_both_places(|place| {
        let pause = Pause::keeping(place, OBEYING);
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(pause.pid, set).unwrap(), NOTHING, "{set}");
        }
        assert_eq!(field(pause.pid, "CapBnd"), field(Pid::this(), "CapBnd"));
        assert_eq!(field(pause.pid, "NoNewPrivs").unwrap(), "0");
    });
}

// prctl(2), PR_SET_DUMPABLE: the files of such a process in /proc belong to root, so nobody else can open what it holds.
#[test]
fn pause_is_not_dumpable_so_that_its_owner_cannot_take_the_store() {
    let pause = Pause::start(As::Subreaper, "/usr/bin/setpriv --reuid=12345 --clear-groups --", None);
    assert_eq!(field(pause.pid, "Uid").unwrap(), "12345\t12345\t12345\t12345");
    let store = format!("/proc/{}/fd/{}", pause.pid, pause::STORE_A);
    within("its files are root's", || (fs::symlink_metadata(&store).ok()?.uid() == 0).then_some(()));
    let mut owner = Command::new("setpriv");
    owner.args(["--reuid=12345", "--clear-groups", "--", "readlink", &store]);
    assert!(!owner.output().unwrap().status.success(), "its own user could look at the store");
}

// proc(5), comm: execve(2) names a process after its file, which is a number when there is only a descriptor.
#[test]
fn pause_is_called_pause_whatever_it_is_executed_from() {
    let other = "/usr/bin/perl -e 'link q(pause), q(image); exec { q(./image) } @ARGV'";
    let pause = Pause::start(As::Pid1, other, None);
    let program = fs::read_link(format!("/proc/{}/exe", pause.pid)).unwrap();
    assert!(program.ends_with("image"), "{program:?}");
    assert_eq!(field(pause.pid, "Name").unwrap(), "pause");
}

#[test]
fn pause_inherits_its_descriptors_and_closes_none() {
    let pause = Pause::keeping(As::Pid1, OBEYING);
    let fds = |pid: Pid| {
        let all = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        all.map(|fd| fd.unwrap().file_name().into_string().unwrap()).collect::<BTreeSet<String>>()
    };
    // Whatever else the test itself was born with is there too.
    assert_eq!(fds(pause.pid), fds(pause.unshare));
    assert!(fds(pause.pid).is_superset(&(0..=7).map(|fd| fd.to_string()).collect()));
    pause.lines("started", 1);
    let monitor = pause.monitor();
    for fd in [pause::STORE_A, pause::STORE_B, pause::STATUS_READ, pause::STATUS_WRITE, pause::MONITOR_PROGRAM] {
        let link = |pid: Pid| fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
        assert_eq!(link(pause.pid), link(monitor), "fd {fd} of the monitor");
    }
}

#[test]
fn term_and_int_end_pause_with_exit_code_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        in_both_places(|place| {
            let mut pause = Pause::holding(place);
            pause.signal(signal);
            pause.exits_with_0();
        });
    }
}

#[test]
fn term_ends_a_keeper_at_once_even_while_it_backs_off() {
    let mut pause = Pause::keeping(As::Pid1, "echo >> died; exit 1");
    pause.lines("died", 8); // The next wait is 640 ms.
    let start = Instant::now();
    pause.signal(Signal::SIGTERM);
    pause.exits_with_0();
    assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
}

// signal(7): 1 to 31 and the real-time signals, 32 and 33 among them. KILL and STOP cannot be blocked, TERM and INT end.
#[test]
fn pause_survives_a_storm_of_all_other_signals_and_keeps_none_pending() {
    let storm = |pid: Pid| {
        format!(
            "n=0; while [ $n -lt 200 ]; do s=1; while [ $s -le 64 ]; do case $s in 2|9|15|19) ;; *) kill -$s {pid};; esac; \
             s=$((s+1)); done; n=$((n+1)); done"
        )
    };
    in_both_places(|place| {
        let pause = Pause::keeping(place, OBEYING);
        let monitor = pause.lines("started", 1);
        let outside = Command::new("/bin/dash").args(["-c", &storm(pause.pid)]).output().unwrap();
        assert!(outside.status.success() && outside.stderr.is_empty(), "{outside:?}");
        let inside = field(pause.pid, "NSpid").unwrap().split_whitespace().last().unwrap().parse().unwrap();
        pause.orphan(&format!("{} && echo >> stormed", storm(Pid::from_raw(inside))));
        pause.lines("stormed", 1);
        within("nothing is pending", || (field(pause.pid, "ShdPnd")? == NOTHING).then_some(()));
        pause.orphan("exit 9");
        within("the orphan is noted", || (pause.note().1 == 9 << 8).then_some(()));
        assert_eq!(pause.lines("started", 1), monitor, "the monitor is still the first");
    });
}

// An orphan that dies is a zombie for ever if nobody waits for it.
#[test]
fn ten_thousand_zombies_are_reaped_and_a_full_status_pipe_is_no_obstacle() {
    in_both_places(|place| {
        let pause = Pause::keeping(place, OBEYING);
        pause.lines("started", 1);
        let before = children(pause.pid);
        pause.signal(Signal::SIGSTOP);
        // perl waits for none of them; all become orphans when it leaves.
        pause.orphan("/usr/bin/perl -e 'for (1..10000) { fork or exit 3 }'; echo >> forked");
        pause.lines("forked", 1);
        within("they are orphans", || (zombies(pause.pid) >= 10_000).then_some(()));
        pause.signal(Signal::SIGCONT);
        within("all are reaped", || (children(pause.pid) == before).then_some(()));
        // The pipe held 8192 notes, and took no more.
        let notes: Vec<i32> = std::iter::from_fn(|| (!pause.has_no_note()).then(|| pause.note().1)).collect();
        assert_eq!(notes.len(), 8192);
        assert!(notes.iter().filter(|&&status| status == 3 << 8).count() > 8000);
    });
}

#[test]
fn an_orphan_comes_to_pause_and_its_status_arrives_in_the_pipe() {
    in_both_places(|place| {
        let pause = Pause::keeping(place, OBEYING);
        pause.lines("started", 1);
        pause.orphan("exec sh -c 'echo $$ > pid; exec sleep 1000'");
        pause.lines("pid", 1);
        let orphan = within("the orphan is ours", || find(pause.pid, "sleep"));
        assert!(children(pause.pid).contains(&orphan));
        assert!(pause.has_no_note());
        kill(orphan, Signal::SIGKILL).unwrap();
        let pid: u32 = pause.lines("pid", 1)[0].parse().unwrap();
        assert_eq!(pause.note(), (pid, 9), "(pid as pause sees it, killed by signal 9)");
        pause.orphan("exit 42");
        assert_eq!(pause.note().1, 42 << 8);
        assert_eq!(children(pause.pid).len(), 1, "the monitor");
    });
}

#[test]
fn pause_reaps_when_it_is_started_with_sigchld_ignored_or_blocked() {
    for through in ["/usr/bin/env --ignore-signal=CHLD", "/usr/bin/env --block-signal=CHLD"] {
        in_both_places(|place| {
            let pause = Pause::start(place, through, Some(OBEYING));
            pause.lines("started", 1);
            pause.orphan("exit 5");
            assert_eq!(pause.note().1, 5 << 8, "{through}");
        });
    }
}

// The trap of a parent that execs pause: SIGCHLD came, and was thrown away, before pause could block it.
#[test]
fn a_child_that_died_before_pause_began_is_reaped() {
    let dead = "/usr/bin/perl -e 'fork or exit 6; sleep 1; exec @ARGV'";
    let pause = Pause::start(As::Pid1, dead, None);
    assert_eq!(pause.note().1, 6 << 8);
}

#[test]
fn a_pause_without_a_monitor_starts_nothing() {
    let pause = Pause::holding(As::Pid1);
    sleep(Duration::from_millis(300));
    pause.orphan("exec sh -c 'echo $$ > pid'");
    // A PID namespace counts: 1 is pause, 2 the shell that makes the orphan, 3 the orphan, 4 what it may fork.
    let pid: u32 = pause.lines("pid", 1)[0].parse().unwrap();
    assert!(pid <= 4, "{pid} processes were made here");
}

#[test]
fn a_pause_without_a_status_pipe_still_reaps() {
    let pause = Pause::start(As::Pid1, "/usr/bin/env sh -c 'exec \"$@\" 3>&- 4>&- 5>&- 6>&- 7>&-' sh", None);
    pause.orphan("echo >> ran; exit 1");
    pause.lines("ran", 1);
    within("it is reaped", || children(pause.pid).is_empty().then_some(()));
    pause.orphan("exec sleep 1000");
    within("pause is alive", || (children(pause.pid).len() == 1).then_some(()));
}

#[test]
fn a_killed_monitor_is_started_anew_each_time_and_its_own_status_is_not_noted() {
    in_both_places(|place| {
        let pause = Pause::keeping(place, OBEYING);
        for lives in 1..=4 {
            let started = pause.lines("started", lives);
            assert_eq!(started.len(), lives, "one at a time: {started:?}");
            kill(pause.monitor(), Signal::SIGKILL).unwrap();
        }
        pause.lines("started", 5);
        assert!(pause.has_no_note());
    });
}

#[test]
fn what_a_killed_monitor_left_behind_is_reaped_and_noted() {
    let pause = Pause::keeping(As::Subreaper, "sh -c 'sleep 0.3; exit 11' & echo $$ >> started; exec sleep 1000");
    pause.lines("started", 1);
    kill(pause.monitor(), Signal::SIGKILL).unwrap();
    assert_eq!(pause.note().1, 11 << 8, "the container's status");
    pause.lines("started", 2);
}

#[test]
fn a_monitor_that_leaves_with_0_ends_the_pod() {
    in_both_places(|place| {
        let mut pause = Pause::keeping(place, "sleep 0.2; exit 0");
        pause.exits_with_0();
    });
}

#[test]
fn a_monitor_that_asks_for_its_successor_gets_it_at_once() {
    let script = "echo $$ >> started; [ $(wc -l < started) -gt 30 ] && exec sleep 1000; exit 75";
    let start = Instant::now();
    let pause = Pause::keeping(As::Pid1, script);
    pause.lines("started", 31);
    // With the back-off of a failure the fifth would come after 70 ms, the eleventh after 5 s.
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(pause.has_no_note());
}

/// Seconds between lines of /proc/uptime, which has two decimals.
fn gaps(uptimes: &[String]) -> Vec<f64> {
    let seconds: Vec<f64> = uptimes.iter().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    seconds.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// The processor time that a process has used, in clock ticks, which are hundredths of a second.
fn ticks(pid: Pid) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap()
}

fn about(gap: f64, wanted: f64) -> bool {
    (wanted - 0.021..wanted + 0.5).contains(&gap)
}

#[test]
fn a_dying_monitor_is_started_at_once_then_after_10_ms_and_so_on_up_to_10_s() {
    let pause = Pause::keeping(As::Pid1, "cat /proc/uptime >> died; exit 1");
    sleep(Duration::from_secs(30)); // Two waits of 10 s follow those that sum up to 10.23 s.
    let gaps = gaps(&pause.lines("died", 14));
    assert!(ticks(pause.pid) <= 20, "pause was busy for {} hundredths of a second", ticks(pause.pid));
    assert!(about(gaps[0], 0.0), "the first time at once: {gaps:?}");
    let doubling = (0..10).map(|n| 0.01 * f64::from(1 << n)).chain([10.0, 10.0]);
    for (gap, wanted) in gaps[1..].iter().zip(doubling) {
        assert!(about(*gap, wanted), "{wanted} s wanted in {gaps:?}");
    }
}

#[test]
fn a_monitor_that_lived_a_second_is_started_at_once_again() {
    let script = "cat /proc/uptime >> died; case $(wc -l < died) in 7|8) sleep 1.1;; esac; exit 1";
    let pause = Pause::keeping(As::Pid1, script);
    let gaps = gaps(&pause.lines("died", 12));
    let wanted = [0.0, 0.01, 0.02, 0.04, 0.08, 0.16, 1.1, 1.1, 0.01, 0.02, 0.04];
    for (gap, wanted) in gaps.iter().zip(wanted) {
        assert!(about(*gap, wanted), "{wanted} s wanted in {gaps:?}");
    }
}

#[test]
fn orphans_are_reaped_while_the_monitor_backs_off() {
    let pause = Pause::keeping(As::Pid1, "echo >> died; exit 1");
    let died = pause.lines("died", 9).len(); // The next wait is 1.28 s.
    let start = Instant::now();
    for _ in 0..20 {
        pause.orphan("exit 13");
        while pause.note().1 != 13 << 8 {}
    }
    let waited = start.elapsed();
    within("the wait ends", || (pause.lines("died", died).len() > died).then_some(()));
    assert!(start.elapsed() > Duration::from_millis(800), "the wait was not cut short: {:?}", start.elapsed());
    assert!(waited < PATIENCE);
}

#[test]
fn a_monitor_that_cannot_be_executed_is_tried_again_and_pause_lives() {
    let pause = Pause::start(As::Pid1, "/usr/bin/env sh -c 'exec 7</dev/null \"$@\"' sh", Some("exit 0"));
    sleep(Duration::from_millis(300));
    pause.orphan("exit 3");
    assert_eq!(pause.note().1, 3 << 8);
}

// fork(2), EAGAIN: RLIMIT_NPROC, or a cgroup's pids.max.
#[test]
fn a_monitor_for_which_there_is_no_process_is_started_once_there_is_one() {
    let limited = "/bin/dash -c 'ulimit -S -p 1; exec setpriv --reuid=12346 --clear-groups -- \"$@\"' dash";
    let pause = Pause::start(As::Pid1, limited, Some("echo >> started; exec sleep 1000"));
    fs::set_permissions(&pause.dir.0, fs::Permissions::from_mode(0o777)).unwrap();
    sleep(Duration::from_millis(200));
    assert_eq!(children(pause.pid), []);
    // Its own user may, up to the hard limit; others need CAP_SYS_RESOURCE, which not every host has to give.
    let mut more = Command::new("setpriv");
    more.args(["--reuid=12346", "--clear-groups", "--", "prlimit", &format!("--pid={}", pause.pid), "--nproc=100:"]);
    assert!(more.status().unwrap().success());
    pause.lines("started", 1);
}

// execve(2) by uid 0: the new program's permitted set is the bounding set. pitfalls of the design: pause must not drop
// that set, nor set no_new_privs.
#[test]
fn each_monitor_has_all_capabilities_again_and_an_empty_signal_mask() {
    in_both_places(|place| {
        let script = "cat /proc/$$/status > status.new; mv status.new status.$(ls | grep -c ^status); exec sleep 1000";
        let pause = Pause::keeping(place, script);
        for life in ["status.1", "status.2"] {
            let status = within("the monitor's status", || fs::read_to_string(pause.file(life)).ok());
            let line = |name| field_of(&status, name).unwrap();
            assert_eq!(line("CapEff"), field(Pid::this(), "CapBnd").unwrap());
            assert_eq!(line("CapPrm"), line("CapEff"));
            assert_eq!(line("SigBlk"), NOTHING, "a signal is blocked");
            kill(pause.monitor(), Signal::SIGKILL).unwrap();
        }
    });
}

#[test]
fn the_monitor_is_executed_from_the_descriptor_with_pauses_arguments_and_environment() {
    let pause = Pause::keeping(
        As::Pid1,
        "tr '\\0' ' ' < /proc/$$/cmdline > line; echo >> line; env | sort >> line; exec sleep 99",
    );
    let lines = pause.lines("line", 2);
    assert!(lines[0].starts_with("sh -c tr "), "{lines:?}");
    assert!(lines.contains(&"PATH=/usr/sbin:/usr/bin:/sbin:/bin:.".to_owned()), "{lines:?}");
    let link = |what: &str| fs::read_link(format!("/proc/{what}")).unwrap();
    let program = link(&format!("{}/fd/{}", pause.pid, pause::MONITOR_PROGRAM));
    assert_eq!(link(&format!("{}/exe", pause.monitor())), program);
}
