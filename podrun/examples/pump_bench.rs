//! What the log pump costs, beside a bare pump (read, copy each line behind its prefix, write) and beside conmon.
//!
//! `pump_bench [MB] [ROUNDS]` prints MB of 100-byte lines per CPU second of the pump process, medians of paired rounds, and
//! what an idle pump of three containers weighs.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a bench prints its results")]

use nix::sys::resource::UsageWho;
use nix::sys::resource::getrusage;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockType;
use nix::sys::time::TimeValLike;
use podrun::pump;
use podrun::pump::Add;
use podrun::pump::Answer;
use podrun::pump::Command;
use podrun::pump::Pipes;
use podrun::record::Stamp;
use podrun::sys::map::memchr;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const LINE: usize = 100;

fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let stdin = || std::io::stdin().as_fd().try_clone_to_owned();
    match words.first().map(String::as_str) {
        Some("pump") => {
            pump::run(stdin()?);
            Ok(())
        }
        Some("bare") => bare(stdin()?.into(), &words[1]),
        Some("say") => {
            produce(std::io::stdout().as_fd().try_clone_to_owned()?.into(), words[1].parse()?, words[2].parse()?)?;
            thread::sleep(Duration::from_millis(300));
            Ok(())
        }
        _ => bench(words.first().map_or(Ok(200), |n| n.parse())?, words.get(1).map_or(Ok(5), |n| n.parse())?),
    }
}

fn bench(mb: usize, rounds: usize) -> Outcome<()> {
    println!("MB of 100-byte lines per CPU second of the pump, {mb} MB, median of {rounds} rounds");
    for (name, piece) in [("lines in blocks of 64 KiB", 64 * 1024), ("a write for each line", LINE)] {
        let mut rates = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..rounds {
            rates[0].push(rate(mb, bare_round(mb, piece)?));
            rates[1].push(rate(mb, podrun_round(mb, piece)?));
            if let Some(cpu) = conmon_round(mb, piece)? {
                rates[2].push(rate(mb, cpu));
            }
        }
        let [bare, podrun, conmon] = rates.map(median);
        println!("{name}: bare {bare:.0}, podrun {podrun:.0}, conmon {conmon:.0}");
        println!("  podrun / bare {:.2}, podrun / conmon {:.2}", podrun / bare, podrun / conmon);
    }
    weigh()
}

fn rate(mb: usize, cpu: Duration) -> f64 {
    f64::from(u32::try_from(mb).unwrap_or(u32::MAX)) / cpu.as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Writes lines of 100 bytes, `mb` megabytes, in pieces.
fn produce(mut to: File, mb: usize, piece: usize) -> std::io::Result<()> {
    let mut block: Vec<u8> = std::iter::repeat_n([b'x'; LINE], 700).flatten().collect();
    block.chunks_mut(LINE).for_each(|line| line[LINE - 1] = b'\n');
    let (mut left, mut at) = (mb * 1_000_000, 0);
    while left > 0 {
        let len = piece.min(left);
        to.write_all(&block[at..at + len])?;
        left -= len;
        at = (at + len) % LINE;
    }
    Ok(())
}

fn log_dir() -> PathBuf {
    std::env::temp_dir().join(format!("podrun-pump-bench-{}", std::process::id()))
}

fn spawn(word: &str, args: &[&str], stdin: OwnedFd) -> std::io::Result<Child> {
    std::process::Command::new(std::env::current_exe()?).arg(word).args(args).stdin(Stdio::from(stdin)).spawn()
}

fn children_cpu() -> Outcome<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?))
}

fn bare_round(mb: usize, piece: usize) -> Outcome<Duration> {
    let dir = log_dir();
    std::fs::create_dir_all(&dir)?;
    let before = children_cpu()?;
    let pipe = podrun::sys::pipe::pipe()?;
    let log = dir.join("bare.log");
    let mut child = spawn("bare", &[&log.to_string_lossy()], pipe.out)?;
    let producer = thread::spawn(move || produce(pipe.into.into(), mb, piece));
    producer.join().map_err(|_| "the producer died")??;
    child.wait()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(children_cpu()? - before)
}

/// The least that a pump can do.
fn bare(mut from: File, log: &str) -> Outcome<()> {
    let mut log = File::create(log)?;
    let (mut input, mut held, mut output) = (vec![0; 80 * 1024], 0, Vec::with_capacity(160 * 1024));
    loop {
        let len = from.read(&mut input[held..])?;
        if len == 0 {
            return Ok(());
        }
        let prefix = format!("{} stdout F ", Stamp::now().text());
        let (all, mut at) = (held + len, 0);
        output.clear();
        while let Some(end) = memchr(b'\n', &input[at..all]) {
            output.extend_from_slice(prefix.as_bytes());
            output.extend_from_slice(&input[at..=at + end]);
            at += end + 1;
        }
        log.write_all(&output)?;
        input.copy_within(at..all, 0);
        held = all - at;
    }
}

struct Pump {
    control: OwnedFd,
    child: Child,
}

impl Pump {
    fn start() -> Outcome<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (control, theirs) = nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok(Self { control, child: spawn("pump", &[], theirs)? })
    }

    fn add(&self, key: u64, log: &Path) -> Outcome<(Pipes, pump::Ends)> {
        let (pipes, ends) = Pipes::new()?;
        let add = Add { key, log: log.to_owned(), max_size: None, max_files: 1, tty: false };
        pump::send(self.control.as_fd(), &Command::Add(add), &pipes.fds())?;
        Ok((pipes, ends))
    }

    fn finish(&self, key: u64) -> Outcome<()> {
        pump::send(self.control.as_fd(), &Command::Finish { key, grace_ms: 60_000 }, &[])?;
        loop {
            match pump::receive(self.control.as_fd()) {
                Ok(Answer::Finished { .. }) => return Ok(()),
                Ok(other) => return Err(format!("{other:?}").into()),
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

fn podrun_round(mb: usize, piece: usize) -> Outcome<Duration> {
    let before = children_cpu()?;
    let mut pump = Pump::start()?;
    let (pipes, ends) = pump.add(1, &log_dir().join("0.log"))?;
    let producer = thread::spawn(move || produce(ends.stdout.into(), mb, piece));
    producer.join().map_err(|_| "the producer died")??;
    drop(ends.stderr);
    pump.finish(1)?;
    drop((pump.control, pipes));
    pump.child.wait()?;
    std::fs::remove_dir_all(log_dir())?;
    Ok(children_cpu()? - before)
}

/// conmon with a runtime that is a shell script and a container that is the producer. None where there is no conmon.
fn conmon_round(mb: usize, piece: usize) -> Outcome<Option<Duration>> {
    let dir = log_dir();
    std::fs::create_dir_all(&dir)?;
    let (runtime, pid_file, log) = (dir.join("runtime"), dir.join("pid"), dir.join("log"));
    let say = format!("{} say {mb} {piece}", std::env::current_exe()?.display());
    let script =
        format!("#!/bin/sh\ncase \"$*\" in *create*) ;; *) exit 0;; esac\n{say} &\necho $! >{}\n", pid_file.display());
    std::fs::write(&runtime, script)?;
    std::fs::set_permissions(&runtime, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let started = std::process::Command::new("conmon")
        .args(["--cid", "bench", "--cuuid", "bench", "--name", "bench", "--sync", "--full-attach"])
        .args(["--runtime", &path("runtime"), "--bundle", &path("."), "--container-pidfile", &path("pid")])
        .args([
            "--log-path",
            &format!("k8s-file:{}", log.display()),
            "--exit-dir",
            &path("."),
            "--socket-dir-path",
            &path("."),
        ])
        .stdin(Stdio::null())
        .spawn();
    let Ok(mut conmon) = started else { return Ok(None) };
    let want = u64::try_from(mb)? * 1_000_000;
    let end = Instant::now() + Duration::from_secs(60);
    let mut cpu = None;
    while conmon.try_wait()?.is_none() && Instant::now() < end {
        let written = std::fs::metadata(&log).map_or(0, |meta| meta.len());
        if written > want + want / 5 {
            cpu = cpu_of(conmon.id())?.or(cpu);
        }
        thread::sleep(Duration::from_millis(5));
    }
    let _ = conmon.kill();
    conmon.wait()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(cpu)
}

/// utime and stime of proc(5), in ticks of a hundredth of a second.
fn cpu_of(pid: u32) -> Outcome<Option<Duration>> {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return Ok(None);
    };
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Some(Duration::from_millis(ticks * 10)))
}

/// The private pages of a pump of three containers, when all have said a line a second ago and after 50 MB.
fn weigh() -> Outcome<()> {
    let mut pump = Pump::start()?;
    let pid = pump.child.id();
    let mut kept = Vec::new();
    for key in 0..3 {
        kept.push(pump.add(key, &log_dir().join(format!("{key}/0.log")))?);
    }
    for (_, ends) in &kept {
        File::from(ends.stdout.try_clone()?).write_all(b"hello\n")?;
    }
    thread::sleep(Duration::from_secs(1));
    println!("three idle containers: {} KiB private dirty", private_dirty(pid)?);
    for (_, ends) in &kept {
        produce(ends.stdout.try_clone()?.into(), 50, 65_536)?;
    }
    println!("under load: {} KiB", private_dirty(pid)?);
    thread::sleep(Duration::from_secs(1));
    println!("idle again: {} KiB", private_dirty(pid)?);
    drop((pump.control, kept));
    pump.child.wait()?;
    std::fs::remove_dir_all(log_dir())?;
    Ok(())
}

fn private_dirty(pid: u32) -> Outcome<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).unwrap_or("0");
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
