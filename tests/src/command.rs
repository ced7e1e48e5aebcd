//! One command on the fake host, and what came of it. Every command has a limit; one that hangs is killed and described.

use crate::host::Host;
use crate::patience;
use crate::sys;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A builder in the manner of std's, whose child lives on the fake host.
#[derive(Debug)]
pub struct Command<'h> {
    host: &'h Host,
    program: OsString,
    args: Vec<OsString>,
    through: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cwd: PathBuf,
    input: Input,
    output: Option<[Stdio; 3]>,
    limit: Duration,
    held: HeldPipes,
}

#[derive(Debug)]
enum Input {
    Nothing,
    Bytes(Vec<u8>),
    Open,
}

/// Whether the pipes may stay open in somebody else's hands when the command has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeldPipes {
    Refused,
    Allowed,
}

impl<'h> Command<'h> {
    pub(crate) fn new(host: &'h Host, program: OsString) -> Self {
        Self {
            host,
            program,
            args: Vec::new(),
            through: Vec::new(),
            env: Vec::new(),
            cwd: "/".into(),
            input: Input::Nothing,
            output: None,
            limit: patience(Duration::from_secs(30)),
            held: HeldPipes::Refused,
        }
    }

    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn cwd(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cwd = dir.into();
        self
    }

    /// Feeds these bytes to stdin, then ends it.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Input::Bytes(bytes.into());
        self
    }

    /// A stdin that stays open until [`Running::write`] and [`Running::close_stdin`] are done with it.
    #[must_use]
    pub fn open_stdin(mut self) -> Self {
        self.input = Input::Open;
        self
    }

    /// stdin, stdout and stderr as they are given: a file, a terminal.
    #[must_use]
    pub fn stdio(mut self, stdin: impl Into<Stdio>, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Self {
        self.output = Some([stdin.into(), stdout.into(), stderr.into()]);
        self
    }

    /// stdin, stdout and stderr are /dev/null, so that nobody waits for those who inherit them.
    #[must_use]
    pub fn without_stdio(self) -> Self {
        let null = || std::fs::File::options().read(true).write(true).open("/dev/null").expect("open /dev/null");
        self.stdio(null(), null(), null())
    }

    /// Runs the command through `probe with …`: with 100 open fds, a umask, an ignored signal, a controlling terminal.
    #[must_use]
    pub fn with(mut self, changes: &str) -> Self {
        self.through = [self.host.probe().as_os_str().to_owned(), "with".into()].into();
        self.through.extend(crate::words(changes).into_iter().map(OsString::from));
        self.through.push("--".into());
        self
    }

    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = patience(limit);
        self
    }

    /// Somebody may go on holding stdout and stderr when the command has ended.
    #[must_use]
    pub fn pipes_may_stay_held(mut self) -> Self {
        self.held = HeldPipes::Allowed;
        self
    }

    /// As another command would start it: by env(1), which brings its variables along.
    pub fn into_words(self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["env".into()];
        words.extend(self.env.iter().map(|(key, value)| {
            let mut pair = key.clone();
            pair.push("=");
            pair.push(value);
            pair
        }));
        words.extend(self.words());
        words
    }

    fn words(&self) -> Vec<OsString> {
        let mut words = self.through.clone();
        words.push(self.program.clone());
        words.extend(self.args.iter().cloned());
        words
    }

    /// As a person would type it.
    fn line(&self) -> String {
        let mut line = String::new();
        for (key, value) in &self.env {
            let _ = write!(line, "{}={} ", key.display(), value.display());
        }
        for word in self.words() {
            let word = word.to_string_lossy();
            let plain = !word.is_empty() && !word.contains([' ', '\'', '"', '\n', ';', '&', '|', '$', '>', '<', '*']);
            let _ = match plain {
                true => write!(line, "{word} "),
                false => write!(line, "'{}' ", word.replace('\'', r"'\''")),
            };
        }
        line.trim_end().to_owned()
    }

    pub fn run(self) -> Outcome {
        self.start().wait()
    }

    pub fn start(self) -> Running<'h> {
        let line = self.line();
        let words = self.words();
        let mut command = std::process::Command::new(&words[0]);
        command.args(&words[1..]).env_clear().envs(self.host.environment()).envs(self.env).current_dir(&self.cwd);
        match self.output {
            Some([stdin, stdout, stderr]) => command.stdin(stdin).stdout(stdout).stderr(stderr),
            None => command.stdin(self.input.stdio()).stdout(Stdio::piped()).stderr(Stdio::piped()),
        };
        let started = Instant::now();
        let held = crate::binaries::no_fork();
        let mut child = self
            .host
            .inside(move || command.spawn())
            .unwrap_or_else(|err| panic!("cannot start {}: {err}", words[0].display()));
        drop(held);
        let stdout = child.stdout.take().map(Collector::start);
        let stderr = child.stderr.take().map(Collector::start);
        let stdin = child.stdin.take();
        let mut running = Running {
            host: self.host,
            child,
            stdin,
            stdout,
            stderr,
            line,
            started,
            limit: self.limit,
            held: self.held,
        };
        if let Input::Bytes(bytes) = self.input {
            running.feed(bytes);
        }
        running
    }
}

impl Input {
    fn stdio(&self) -> Stdio {
        match self {
            Self::Nothing => Stdio::null(),
            Self::Bytes(_) | Self::Open => Stdio::piped(),
        }
    }
}

/// Reads a pipe to its end, so that nobody waits for us.
#[derive(Debug)]
struct Collector {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: std::thread::JoinHandle<()>,
}

impl Collector {
    fn start(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = bytes.clone();
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                sink.lock().expect("no holder panics").extend_from_slice(&buffer[..n]);
            }
        });
        Self { bytes, reader }
    }

    fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().expect("no holder panics").clone()
    }

    fn ended_within(&self, limit: Duration) -> bool {
        let start = Instant::now();
        while !self.reader.is_finished() && start.elapsed() < limit {
            sleep(Duration::from_millis(1));
        }
        self.reader.is_finished()
    }
}

/// A command in the background. Dropping it kills it.
#[derive(Debug)]
pub struct Running<'h> {
    host: &'h Host,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<Collector>,
    stderr: Option<Collector>,
    line: String,
    started: Instant,
    limit: Duration,
    held: HeldPipes,
}

impl Running<'_> {
    fn feed(&mut self, bytes: Vec<u8>) {
        let mut pipe = self.stdin.take().expect("stdin is a pipe");
        // A thread, since the command may not read before we read what it says; a command that ends early is its own
        // affair, hence no unwrap.
        std::thread::spawn(move || pipe.write_all(&bytes));
    }

    #[track_caller]
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let pipe = self.stdin.as_mut().expect("stdin is open");
        pipe.write_all(bytes.as_ref()).unwrap_or_else(|err| panic!("{}: stdin: {err}", self.line));
    }

    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    pub fn stdout(&self) -> String {
        self.stdout.as_ref().map(|pipe| String::from_utf8_lossy(&pipe.so_far()).into_owned()).unwrap_or_default()
    }

    pub fn stderr(&self) -> String {
        self.stderr.as_ref().map(|pipe| String::from_utf8_lossy(&pipe.so_far()).into_owned()).unwrap_or_default()
    }

    /// Waits until stdout has this text.
    #[track_caller]
    pub fn until_it_prints(&mut self, text: &str) {
        let deadline = Instant::now() + self.limit;
        while !self.stdout().contains(text) {
            let ended = self.child.try_wait().expect("our own child").is_some();
            if (ended && !self.stdout().contains(text)) || Instant::now() > deadline {
                sleep(Duration::from_millis(20));
                assert!(self.stdout().contains(text), "{:?} never came from\n{}", text, self.describe());
            }
            sleep(Duration::from_millis(1));
        }
    }

    /// kill(2) of the command itself, by its number outside.
    pub fn signal(&self, signal: i32) {
        sys::kill(self.pid(), signal).unwrap_or_else(|err| panic!("signal {signal} to {}: {err}", self.line));
    }

    /// Its number as the test program sees it, not as the fake host does.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid is an i32")
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_some()
    }

    fn describe(&self) -> String {
        let (stdout, stderr) = (self.stdout(), self.stderr());
        format!("{}\n--- stdout so far\n{}\n--- stderr so far\n{}", self.line, shortened(&stdout), shortened(&stderr))
    }

    #[track_caller]
    pub fn wait(mut self) -> Outcome {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                break status;
            }
            if self.started.elapsed() > self.limit {
                let doing = self.host.processes();
                panic!("no end after {:?}: {}\n--- processes\n{doing}", self.limit, self.describe());
            }
            sleep(patience(Duration::from_micros(500)));
        };
        let took = self.started.elapsed();
        self.stdin = None;
        let mut held = false;
        for pipe in [&self.stdout, &self.stderr].into_iter().flatten() {
            held |= !pipe.ended_within(patience(Duration::from_secs(if held { 0 } else { 2 })));
        }
        if held && self.held == HeldPipes::Refused {
            panic!("it ended, but somebody holds its output: {}\n{}", self.describe(), self.host.processes());
        }
        let bytes = |pipe: &Option<Collector>| pipe.as_ref().map(Collector::so_far).unwrap_or_default();
        Outcome { status, stdout: bytes(&self.stdout), stderr: bytes(&self.stderr), took, line: self.line.clone() }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What a command did. Each assertion prints all of it when it fails.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub took: Duration,
    line: String,
}

impl Outcome {
    /// As a shell counts: 128 + signal when killed.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    #[track_caller]
    fn hold(&self, right: bool, what: &str) {
        assert!(
            right,
            "{what}\n$ {}\n--- exit code {} after {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.line,
            self.code(),
            self.took,
            shortened(&self.text()),
            shortened(&self.errors()),
        );
    }

    #[track_caller]
    pub fn ok(&self) -> &Self {
        self.hold(self.code() == 0, "it should succeed");
        self
    }

    #[track_caller]
    pub fn fails(&self, code: i32) -> &Self {
        self.hold(self.code() == code, &format!("it should exit with {code}"));
        self
    }

    /// stderr has this.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Self {
        self.hold(self.errors().contains(text), &format!("stderr should have {text:?}"));
        self
    }

    #[track_caller]
    pub fn does_not_say(&self, text: &str) -> &Self {
        self.hold(!self.errors().contains(text), &format!("stderr should not have {text:?}"));
        self
    }

    #[track_caller]
    pub fn says_nothing(&self) -> &Self {
        self.hold(self.stderr.is_empty(), "stderr should be empty");
        self
    }

    /// stdout is this, a newline at the end aside.
    #[track_caller]
    pub fn prints(&self, text: &str) -> &Self {
        self.hold(self.text().trim_end_matches(['\n', '\r']) == text, &format!("stdout should be {text:?}"));
        self
    }

    #[track_caller]
    pub fn prints_something_like(&self, text: &str) -> &Self {
        self.hold(self.text().contains(text), &format!("stdout should have {text:?}"));
        self
    }

    #[track_caller]
    pub fn does_not_print(&self, text: &str) -> &Self {
        self.hold(!self.text().contains(text), &format!("stdout should not have {text:?}"));
        self
    }

    #[track_caller]
    pub fn within(&self, limit: Duration) -> &Self {
        let limit = patience(limit);
        self.hold(self.took < limit, &format!("it should take less than {limit:?}"));
        self
    }

    /// One line `podrun: <doing>: <cause>`, and at the most one more, `  hint: …`.
    #[track_caller]
    pub fn with_one_line(&self) -> &Self {
        let errors = self.errors();
        let lines: Vec<_> = errors.lines().collect();
        let right = match lines[..] {
            [line] => told(line),
            [line, hint] => told(line) && hint.starts_with("  hint: "),
            _ => false,
        };
        self.hold(right, "stderr should be one line `podrun: <what was being done>: <cause>`, and a hint perhaps");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        self.ok();
        serde_json::from_slice(&self.stdout).unwrap_or_else(|err| {
            self.hold(false, &format!("stdout should be JSON: {err}"));
            Value::Null
        })
    }

    /// What `probe facts` printed.
    #[track_caller]
    pub fn facts(&self) -> Value {
        self.json()
    }
}

fn told(line: &str) -> bool {
    line.strip_prefix("podrun: ").is_some_and(|rest| rest.contains(": "))
}

fn shortened(text: &str) -> String {
    const MOST: usize = 6000;
    match text.char_indices().nth(MOST) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}\n… {} bytes in all", &text[..at], text.len()),
    }
}
