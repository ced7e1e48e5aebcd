//! A monitor for the tests of the pump, and pumps in processes of their own.

use nix::sys::socket::AddressFamily;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockType;
use podrun::logs;
use podrun::pump;
use podrun::pump::Add;
use podrun::pump::Answer;
use podrun::pump::Command;
use podrun::pump::Ends;
use podrun::pump::Pipes;
use podrun::record;
use podrun::record::End;
use podrun::record::Stream;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

/// The environment variable that makes a test binary a pump on its stdin.
pub(crate) const BE_A_PUMP: &str = "PODRUN_TEST_BE_A_PUMP";

/// What the ignored test `be_a_pump` of each file does.
pub(crate) fn be_a_pump() {
    if std::env::var_os(BE_A_PUMP).is_some() {
        pump::run(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    }
}

/// A directory that goes away with its test.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("podrun-pump-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn log(&self, container: &str) -> PathBuf {
        self.0.join(container).join("0.log")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // It may be a small disk that only this thread can see.
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) struct Monitor {
    pub(crate) control: OwnedFd,
    pub(crate) pump: Child,
    pub(crate) store: Vec<(Add, Pipes)>,
}

fn spawn() -> (OwnedFd, Child) {
    let (ours, theirs) =
        nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let pump = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "be_a_pump", "--ignored", "--nocapture", "--test-threads=1"])
        .env(BE_A_PUMP, "1")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    (ours, pump)
}

impl Monitor {
    pub(crate) fn new() -> Self {
        let (control, pump) = spawn();
        Self { control, pump, store: Vec::new() }
    }

    pub(crate) fn plain(key: u64, log: &Path) -> Add {
        Add { key, log: log.to_owned(), max_size: None, max_files: 1, tty: false }
    }

    pub(crate) fn add(&mut self, add: Add) -> Ends {
        let (pipes, ends) = Pipes::new().unwrap();
        self.store(add, pipes);
        ends
    }

    pub(crate) fn store(&mut self, add: Add, pipes: Pipes) {
        pump::send(self.control.as_fd(), &Command::Add(add.clone()), &pipes.fds()).unwrap();
        self.store.push((add, pipes));
    }

    pub(crate) fn say(&self, command: &Command) {
        pump::send(self.control.as_fd(), command, &[]).unwrap();
    }

    /// Adds all that is in the store, as a new monitor does.
    pub(crate) fn add_all(&self) {
        for (add, pipes) in &self.store {
            pump::send(self.control.as_fd(), &Command::Add(add.clone()), &pipes.fds()).unwrap();
        }
    }

    pub(crate) fn kill_the_pump(&mut self) {
        self.pump.kill().unwrap();
        self.pump.wait().unwrap();
        (self.control, self.pump) = spawn();
        self.add_all();
    }

    pub(crate) fn hear(&self, within: Duration) -> Option<Answer> {
        let end = Instant::now() + within;
        loop {
            match pump::receive(self.control.as_fd()) {
                Ok(answer) => return Some(answer),
                Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
                Err(_) => return None,
            }
        }
    }

    /// Waits for the `Finished` of a container: bytes lost, and where the log ends.
    pub(crate) fn finish(&self, key: u64, grace_ms: u64) -> (u64, u64) {
        self.say(&Command::Finish { key, grace_ms });
        let end = Instant::now() + Duration::from_secs(60);
        while Instant::now() < end {
            match self.hear(Duration::from_secs(60)) {
                Some(Answer::Finished { key: of, lost_bytes, end }) if of == key => return (lost_bytes, end),
                Some(Answer::Refused { key, errno }) => panic!("container {key} refused: {errno}"),
                _ => {}
            }
        }
        panic!("no answer to Finish");
    }

    pub(crate) fn reopen(&self, key: u64) -> i32 {
        self.say(&Command::Reopen { key });
        match self.hear(Duration::from_secs(10)) {
            Some(Answer::Reopened { key: of, errno }) if of == key => errno,
            other => panic!("{other:?} is no answer to Reopen"),
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.pump.kill();
        let _ = self.pump.wait();
    }
}

pub(crate) fn writer(end: &OwnedFd) -> File {
    File::from(end.try_clone().unwrap())
}

pub(crate) fn say(end: &OwnedFd, bytes: &[u8]) {
    writer(end).write_all(bytes).unwrap();
}

/// All log files of a directory, in order, as one.
pub(crate) fn all_logs(dir: &Path) -> Vec<u8> {
    logs::files(dir).unwrap_or_default().into_iter().flat_map(|(_, path)| std::fs::read(path).unwrap()).collect()
}

/// Of a log that is being written: its whole records. The last one may be on its way, or torn by a full disk and not mended yet.
pub(crate) fn whole(log: &[u8]) -> &[u8] {
    &log[..log.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1)]
}

/// What both streams said, put together from records; panics at what is no record.
pub(crate) fn said(log: &[u8]) -> [Vec<u8>; 2] {
    let mut said = [Vec::new(), Vec::new()];
    for line in log.split_inclusive(|b| *b == b'\n') {
        let record = line.strip_suffix(b"\n").and_then(record::parse);
        let record = record.unwrap_or_else(|| panic!("no record: {:?}", String::from_utf8_lossy(line)));
        let stream = &mut said[record.stream.index()];
        stream.extend_from_slice(record.text);
        stream.extend_from_slice(if record.end == End::Newline { b"\n" } else { b"" });
    }
    said
}

/// `stdout P text` for each record, without the times.
pub(crate) fn tags(log: &[u8]) -> Vec<String> {
    let line = |line: &[u8]| {
        let record = record::parse(line).unwrap_or_else(|| panic!("no record: {:?}", String::from_utf8_lossy(line)));
        let stream = if record.stream == Stream::Stdout { "out" } else { "err" };
        let end = match record.end {
            End::Partial => "P",
            End::Newline => "F",
            End::Nothing => "F-",
        };
        format!("{stream} {end} {}", String::from_utf8_lossy(record.text))
    };
    log.split(|b| *b == b'\n').filter(|text| !text.is_empty()).map(line).collect()
}

/// Reads the log until it is as wished, five seconds at the most.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < end, "never came: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// xorshift64*: the same numbers in every run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % limit
    }
}

/// `make stress` asks for more.
pub(crate) fn many<T>(plain: T, stress: T) -> T {
    if std::env::var_os("PODRUN_STRESS").is_some_and(|form| form == "full") { stress } else { plain }
}
