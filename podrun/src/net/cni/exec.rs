//! One plugin, run once: environment and stdin in, stdout out (CNI specification 1.1, section 2).
//!
//! Promises: the plugin has the words of the protocol and `PATH`, and nothing else of whoever called podrun: no variable, no
//! descriptor, no terminal. It has an end: one that takes too long is killed with what it started, one that writes without
//! end too. It runs in the namespaces of the caller, which are the host's.

#![forbid(unsafe_code)]

use super::conflist::{Chain, Plugin};
use super::result::Refusal;
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::clone::pidfd_open;
use crate::sys::fd;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::{Map, Value};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The most that a plugin may say; a result is some hundred bytes.
const LONGEST: usize = 1 << 20;
/// What of its stderr is worth telling.
const LAST_WORDS: usize = 2048;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Verb {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

/// Whose interface a plugin is asked about.
#[derive(Debug, Clone, Default)]
pub(super) struct Subject {
    pub container: String,
    /// None, when it is gone.
    pub netns: Option<PathBuf>,
    pub interface: String,
    pub args: String,
}

/// A program by a plugin's name, in the first directory that has it.
pub(super) fn find(program: &str, path: &[PathBuf]) -> Result<PathBuf> {
    let mut lame = None;
    for candidate in path.iter().map(|directory| directory.join(program)) {
        match candidate.metadata() {
            Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => return Ok(candidate),
            Ok(_) => lame = lame.or(Some(candidate)),
            Err(_) => {}
        }
    }
    let doing = format!("find the CNI plugin {program}");
    if let Some(lame) = lame {
        let cause = format!("{} is not executable", lame.display());
        return Err(Error::new(Kind::Unsupported, doing, cause).hint(format!("chmod +x {}", lame.display())));
    }
    let looked: Vec<String> = path.iter().map(|directory| directory.display().to_string()).collect();
    Err(Error::new(Kind::NotFound, doing, format!("it is not in {}", looked.join(", ")))
        .hint("Debian's containernetworking-plugins has the usual ones; PODRUN_CNI_PATH names other directories"))
}

/// Asks a plugin of the chain, and gives its answer.
pub(super) fn ask(
    verb: Verb,
    chain: &Chain,
    plugin: &Plugin,
    request: &Map<String, Value>,
    subject: &Subject,
    path: &[PathBuf],
    until: Instant,
) -> Result<Vec<u8>> {
    let doing = || format!("{} {} by the CNI plugin {}", verb.word(), chain.name, plugin.kind);
    let program = find(&plugin.kind, path).map_err(|err| err.within(format!("{} {}", verb.word(), chain.name)))?;
    let input = serde_json::to_vec(request).map_err(io::Error::from).doing(doing)?;
    let environment = environment(verb, subject, path);
    let started = Instant::now();
    let ended =
        run(&program, &environment, &input, until).doing(|| format!("{}: run {}", doing(), program.display()))?;
    judge(ended, started.elapsed()).map_err(|(kind, cause)| Error::new(kind, doing(), cause))
}

fn environment(verb: Verb, subject: &Subject, path: &[PathBuf]) -> Vec<(&'static str, OsString)> {
    let netns = subject.netns.clone().unwrap_or_default();
    let mut all: Vec<(&str, OsString)> = vec![
        ("CNI_COMMAND", verb.word().into()),
        ("CNI_PATH", std::env::join_paths(path).unwrap_or_default()),
        ("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin".into())),
    ];
    if matches!(verb, Verb::Add | Verb::Del | Verb::Check) {
        all.extend([
            ("CNI_CONTAINERID", subject.container.as_str().into()),
            ("CNI_NETNS", netns.into()),
            ("CNI_IFNAME", subject.interface.as_str().into()),
            ("CNI_ARGS", subject.args.as_str().into()),
        ]);
    }
    all
}

/// How a plugin ended, and what it said.
#[derive(Debug)]
struct Ended {
    how: How,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Status(ExitStatus),
    TooLong,
    TooMuch,
}

fn run(program: &Path, environment: &[(&str, OsString)], input: &[u8], until: Instant) -> io::Result<Ended> {
    // A file, not a pipe: a plugin that reads nothing makes nobody wait.
    let mut stdin = File::from(memfd_create(c"cni", MFdFlags::MFD_CLOEXEC)?);
    stdin.write_all(input)?;
    stdin.seek(SeekFrom::Start(0))?;
    // What podrun itself opens is closed on exec; this is for what its caller has left open.
    fd::close_on_exec_from(3);
    let mut child = Command::new(program)
        .env_clear()
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .current_dir("/")
        .process_group(0)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let heard = listen(&mut child, until);
    if !matches!(heard, Ok((Heard::Exit, ..))) {
        kill_all(&child);
    }
    let status = child.wait()?;
    let (how, stdout, stderr) = heard?;
    let how = match how {
        Heard::Exit => How::Status(status),
        Heard::Late => How::TooLong,
        Heard::Flood => How::TooMuch,
    };
    Ok(Ended { how, stdout, stderr })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Exit,
    Late,
    Flood,
}

/// Reads both pipes until the plugin itself has ended: what it left running may hold them for longer.
fn listen(child: &mut Child, until: Instant) -> io::Result<(Heard, Vec<u8>, Vec<u8>)> {
    let pidfd = pidfd_open(i32::try_from(child.id()).map_err(io::Error::other)?)?;
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(ErrorKind::BrokenPipe.into());
    };
    for pipe in [stdout.as_fd(), stderr.as_fd()] {
        fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let (mut said, mut words) = (Vec::new(), Vec::new());
    let (mut out_open, mut err_open) = (true, true);
    loop {
        let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        fds.extend(out_open.then(|| PollFd::new(stdout.as_fd(), PollFlags::POLLIN)));
        fds.extend(err_open.then(|| PollFd::new(stderr.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, left) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let ended = fds[0].any().unwrap_or(false);
        out_open = out_open && drain(&mut stdout, &mut said)?;
        err_open = err_open && drain(&mut stderr, &mut words)?;
        let heard = match () {
            () if said.len().max(words.len()) > LONGEST => Heard::Flood,
            () if ended => Heard::Exit,
            () if Instant::now() >= until => Heard::Late,
            () => continue,
        };
        return Ok((heard, said, words));
    }
}

/// What is there now, up to a little more than anybody may say. Whether there may come more.
fn drain(pipe: &mut impl Read, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 1 << 14];
    while into.len() <= LONGEST {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(read) => into.extend_from_slice(&buffer[..read]),
            Err(err) if err.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(err) if err.kind() == ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(true)
}

/// The plugin, its process group, and who descends from it in another one. Stopped first, so that nobody is born meanwhile.
fn kill_all(child: &Child) {
    let Ok(pid) = i32::try_from(child.id()) else { return };
    let group = Pid::from_raw(pid);
    let _ = killpg(group, Signal::SIGSTOP);
    let mut family = vec![pid];
    let mut at = 0;
    while let Some(one) = family.get(at).copied() {
        let more = children(one);
        for born in &more {
            let _ = kill(Pid::from_raw(*born), Signal::SIGSTOP);
        }
        family.extend(more);
        at += 1;
    }
    for one in family.iter().rev() {
        let _ = kill(Pid::from_raw(*one), Signal::SIGKILL);
    }
    let _ = killpg(group, Signal::SIGKILL);
}

fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let text = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    text.flat_map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<_>>()).collect()
}

/// The answer, or all that is to say of a failure.
fn judge(ended: Ended, took: Duration) -> Result<Vec<u8>, (Kind, String)> {
    let Ended { how, stdout, stderr } = ended;
    let words = last_words(&stdout, &stderr);
    match how {
        How::TooLong => {
            let took = took.as_secs_f32();
            Err((Kind::NotNow, format!("it did not end within {took:.1} s and was killed{words}")))
        }
        How::TooMuch => Err((Kind::Invalid, format!("it wrote more than {LONGEST} bytes and was killed"))),
        How::Status(status) if status.success() => Ok(stdout),
        How::Status(status) => Err(match (Refusal::read(&stdout), status.code(), status.signal()) {
            (Some(refusal), ..) => (refusal.kind(), refusal.say()),
            (None, Some(code), _) => (Kind::Kernel, format!("it ended with {code}{words}")),
            (None, None, signal) => (Kind::Kernel, format!("it was killed by signal {}{words}", signal.unwrap_or(0))),
        }),
    }
}

fn last_words(stdout: &[u8], stderr: &[u8]) -> String {
    let text = |bytes: &[u8]| {
        let cut = bytes.len().saturating_sub(LAST_WORDS);
        String::from_utf8_lossy(&bytes[cut..]).trim().to_owned()
    };
    let all: Vec<String> = [stderr, stdout].into_iter().map(text).filter(|text| !text.is_empty()).collect();
    if all.is_empty() { String::new() } else { format!(": {}", all.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, within: Duration) -> Ended {
        let program = std::env::temp_dir().join(format!("podrun-cni-{}-{:p}", std::process::id(), script.as_ptr()));
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let path = [("PATH", OsString::from("/usr/bin:/bin")), ("CNI_COMMAND", "ADD".into())];
        // A test beside this one may just be forking, and hold the file for writing.
        let ended = loop {
            match run(&program, &path, b"the config", Instant::now() + within) {
                Err(err) if err.raw_os_error() == Some(libc::ETXTBSY) => {}
                other => break other.unwrap(),
            }
        };
        fs::remove_file(&program).unwrap();
        ended
    }

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_plugin_gets_its_words_and_nothing_else() {
        let ended = shell("cat; env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= | sort; ls /proc/self/fd | wc -l", SOON);
        let said = judge(ended, SOON).unwrap();
        assert_eq!(String::from_utf8(said).unwrap().trim(), "the configCNI_COMMAND=ADD\nPATH=/usr/bin:/bin\n4");
    }

    #[test]
    fn a_failure_is_told_with_all_that_was_said() {
        for (script, why) in [
            (r#"echo '{"code": 7, "msg": "no", "details": "at all"}'; exit 1"#, "no (code 7): at all"),
            ("echo on stdout; echo on stderr >&2; exit 3", "it ended with 3: on stderr; on stdout"),
            ("exit 3", "it ended with 3"),
            ("kill -9 $$", "it was killed by signal 9"),
            ("cat /dev/zero", "it wrote more than 1048576 bytes"),
            ("cat /dev/zero >&2", "it wrote more than 1048576 bytes"),
        ] {
            let (_, told) = judge(shell(script, SOON), SOON).unwrap_err();
            assert!(told.contains(why), "{script}: {told}");
        }
    }

    #[test]
    fn one_that_hangs_is_killed_with_all_that_it_started() {
        let mark = format!("{}", 7_000_000 + std::process::id());
        let script = format!("sleep {mark} & setsid sleep {mark} & exec sleep {mark}");
        let start = Instant::now();
        let ended = shell(&script, Duration::from_millis(300));
        assert!(matches!(ended.how, How::TooLong) && start.elapsed() < Duration::from_secs(5));
        let lives = |mark: &str| {
            let all = fs::read_dir("/proc").unwrap().flatten();
            all.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok())
                .any(|line| line.contains("sleep") && line.contains(mark))
        };
        for _ in 0..100 {
            if !lives(&mark) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("what it started lives on");
    }

    #[test]
    fn one_that_leaves_somebody_with_its_pipes_is_not_waited_for() {
        let start = Instant::now();
        let ended = shell("sleep 3 & echo done", SOON);
        assert_eq!(judge(ended, SOON).unwrap(), b"done\n");
        assert!(start.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn a_plugin_that_is_not_there_is_told_with_where() {
        let path = [PathBuf::from("/nonexistent"), PathBuf::from("/etc")];
        let err = find("bridge", &path).unwrap_err();
        assert_eq!((err.kind, err.cause()), (Kind::NotFound, "it is not in /nonexistent, /etc"));
        let err = find("passwd", &path).unwrap_err();
        assert_eq!((err.kind, err.cause()), (Kind::Unsupported, "/etc/passwd is not executable"));
    }
}
