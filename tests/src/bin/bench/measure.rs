//! Commands and their time; contenders in turns, so that what the machine does meanwhile hits all of them alike.

#![forbid(unsafe_code)]

use crate::world::{View, command};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

pub(crate) type Argv = Vec<String>;

/// What runs now, and when its time is up. A command that hangs must not hang the bench.
static WATCHED: Mutex<BTreeMap<u32, Instant>> = Mutex::new(BTreeMap::new());
const PATIENCE: Duration = Duration::from_secs(20);

/// A command that is killed when it takes far too long.
struct Watched(u32);

impl Watched {
    fn new(pid: u32) -> Self {
        static DOG: Once = Once::new();
        DOG.call_once(|| drop(std::thread::spawn(watch)));
        watched().insert(pid, Instant::now() + PATIENCE);
        Self(pid)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        watched().remove(&self.0);
    }
}

fn watched() -> MutexGuard<'static, BTreeMap<u32, Instant>> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch() {
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = Instant::now();
        for pid in watched().iter().filter(|(_, end)| **end < now).map(|(pid, _)| *pid) {
            if let Ok(pid) = i32::try_from(pid) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// Runs commands one after the other; each must succeed. How long they took together.
pub(crate) fn time_all(commands: &[Argv], stderr: &Path) -> io::Result<Duration> {
    let mut all = Duration::ZERO;
    for argv in commands {
        let mut command = command(argv);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(stderr)?);
        let start = Instant::now();
        let mut child = command.spawn()?;
        let watched = Watched::new(child.id());
        let status = child.wait()?;
        all += start.elapsed();
        drop(watched);
        if !status.success() {
            let said = std::fs::read_to_string(stderr).unwrap_or_default();
            return Err(io::Error::other(format!("{}: {status}: {}", argv.join(" "), said.trim())));
        }
    }
    Ok(all)
}

/// The same, where the view is.
pub(crate) fn time_in(view: &View, commands: Vec<Argv>, dir: &Path) -> io::Result<Duration> {
    let stderr = dir.join("stderr");
    view.run(move || time_all(&commands, &stderr))
}

/// The most memory that one command had at once, in KiB (getrusage(2), of its children too that it waited for).
pub(crate) fn resident_in(view: &View, argv: Argv) -> io::Result<f64> {
    view.run(move || {
        let null = || Stdio::null();
        let mut child = command(&argv).stdin(null()).stdout(null()).stderr(null()).spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let usage = podrun_tests::sys::wait_with_usage(pid)?;
        // Reaped already: this only tells the handle.
        let _ = child.wait();
        Ok(float(usize::try_from(usage.ru_maxrss).unwrap_or(0)))
    })
}

/// One command, not timed; what it printed.
pub(crate) fn output(view: &View, argv: Argv) -> io::Result<String> {
    view.run(move || {
        let output = command(&argv).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(io::Error::other(format!("{}: {}: {}", argv.join(" "), output.status, said.trim())));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    })
}

/// A floor program: a line in, the nanoseconds that it took out.
#[derive(Debug)]
pub(crate) struct Floor {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Floor {
    pub(crate) fn start(view: &View, argv: Argv) -> io::Result<Self> {
        let mut child = view.run(move || command(&argv).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn())?;
        let (to, from) = (child.stdin.take(), child.stdout.take());
        let (Some(to), Some(from)) = (to, from) else { return Err(io::Error::other("a floor without pipes")) };
        Ok(Self { child, to, from: BufReader::new(from) })
    }

    pub(crate) fn once(&mut self) -> io::Result<Duration> {
        self.to.write_all(b"go\n")?;
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        line.trim().parse().map(Duration::from_nanos).map_err(|_| io::Error::other("the floor gave way"))
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Somebody who does the same job as others.
pub(crate) struct Contender<'a> {
    pub(crate) name: &'static str,
    once: Box<dyn FnMut() -> io::Result<Duration> + 'a>,
}

impl std::fmt::Debug for Contender<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl<'a> Contender<'a> {
    pub(crate) fn new(name: &'static str, once: impl FnMut() -> io::Result<Duration> + 'a) -> Self {
        Self { name, once: Box::new(once) }
    }
}

/// What one contender took, in the order of the rounds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) values: Vec<f64>,
}

impl Series {
    pub(crate) fn of(name: &str, values: Vec<f64>) -> Self {
        Self { name: name.to_owned(), values }
    }

    pub(crate) fn quantile(&self, part: f64) -> f64 {
        quantile(&self.values, part)
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The median of the rounds' own ratios: what the machine did in a round hit both alike.
    pub(crate) fn ratio_to(&self, other: &Self) -> f64 {
        if self.values.len() != other.values.len() {
            return self.median() / other.median();
        }
        let ratios: Vec<f64> = self.values.iter().zip(&other.values).map(|(a, b)| a / b).collect();
        quantile(&ratios, 0.5)
    }
}

/// The value below which `part` of all values are; the nearest rank.
pub(crate) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = sorted.iter().enumerate().find(|(index, _)| share(index + 1, sorted.len()) >= part);
    rank.map_or(f64::NAN, |(_, value)| *value)
}

fn share(part: usize, whole: usize) -> f64 {
    float(part) / float(whole)
}

/// Counts here are far below what an f64 holds exactly.
pub(crate) fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Whether the machine has had a rest before each run. Hot loops hide waits for RCU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Hot,
    FromRest,
}

impl Pace {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::FromRest => "from rest",
        }
    }

    fn wait(self) {
        if self == Self::FromRest {
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

/// Each contender once a round, each round beginning with another one; milliseconds. One round before is not counted.
pub(crate) fn interleave(contenders: &mut [Contender<'_>], rounds: usize, pace: Pace) -> io::Result<Vec<Series>> {
    let mut all: Vec<Series> = contenders.iter().map(|each| Series::of(each.name, Vec::new())).collect();
    let number = contenders.len();
    for round in 0..=rounds {
        for turn in 0..number {
            let index = (round + turn) % number;
            pace.wait();
            let contender = &mut contenders[index];
            let took = (contender.once)().map_err(|err| io::Error::other(format!("{}: {err}", contender.name)))?;
            if round > 0 {
                all[index].values.push(millis(took));
            }
        }
    }
    Ok(all)
}

/// The nanoseconds that a process has had on a CPU: proc_pid_schedstat.
pub(crate) fn cpu_time(pid: i32) -> io::Result<Duration> {
    let text = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/schedstat")))?;
    let first = text.split(' ').next().and_then(|word| word.parse().ok());
    first.map(Duration::from_nanos).ok_or_else(|| io::Error::other("schedstat says nothing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((quantile(&values, 0.5), quantile(&values, 0.99), quantile(&values, 1.0)), (50.0, 99.0, 100.0));
        assert_eq!(quantile(&[3.0], 0.5), 3.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn a_ratio_is_that_of_the_rounds() {
        let (a, b) = (Series::of("a", vec![1.0, 10.0, 3.0]), Series::of("b", vec![2.0, 20.0, 3.0]));
        assert_eq!(a.ratio_to(&b), 0.5);
    }
}
