//! Logs: how many bytes a pump passes on for a second of CPU, and what births cost while thirty containers shout.

#![forbid(unsafe_code)]

use crate::bundle::{self, From};
use crate::measure::{Contender, Pace, Series, cpu_time, float, interleave, output, time_in};
use crate::report::{Better, Row, Want};
use crate::rows::{Place, Size};
use std::cell::RefCell;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The word under which the bench talks.
pub(crate) const SAY: &str = "--say";

const LINE: usize = 100;
/// What a CRI prefix adds to a line: time, stream and tag.
const PREFIX: usize = 40;
const SHOUTERS: usize = 30;

/// How a program writes its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    /// 64 KiB at once, as through a buffer.
    Blocks,
    /// Each for itself, as to a terminal or from a logger.
    Lines,
}

impl Habit {
    fn bytes(self) -> usize {
        match self {
            Self::Blocks => 655 * LINE,
            Self::Lines => LINE,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Blocks => "in blocks of 64 KiB",
            Self::Lines => "a write for each line",
        }
    }
}

/// `--say MEGABYTES PIECE`: lines of 100 bytes; for ever if 0. Then it stays, so that whoever pumps can be looked at.
pub(crate) fn say(words: &[String]) -> io::Result<i32> {
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<usize>().ok());
    let (Some(megabytes), Some(piece)) = (number(0), number(1)) else { return Ok(2) };
    let mut block = [b'x'; LINE].repeat(piece.div_ceil(LINE));
    block.chunks_mut(LINE).for_each(|line| line[LINE - 1] = b'\n');
    let mut out = fs::File::from(nix::unistd::dup(io::stdout())?);
    let mut left = megabytes * 1_000_000;
    while megabytes == 0 || left > 0 {
        let len = if megabytes == 0 { block.len() } else { block.len().min(left) };
        out.write_all(&block[..len])?;
        left = left.saturating_sub(len);
    }
    loop {
        std::thread::park();
    }
}

/// Waits until all of it is in the log.
fn until_logged(log: &Path, megabytes: usize) -> io::Result<()> {
    let whole = u64::try_from(megabytes * 1_000_000 / LINE * (LINE + PREFIX)).map_err(io::Error::other)?;
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        if fs::metadata(log).is_ok_and(|facts| facts.len() >= whole) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(io::Error::other(format!(
        "{}: {:?} of {whole} bytes",
        log.display(),
        fs::metadata(log).map(|facts| facts.len())
    )))
}

/// Ends with whoever holds it.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Place<'_> {
    fn say(&self, megabytes: usize, habit: Habit) -> [String; 4] {
        ["/say".into(), SAY.into(), megabytes.to_string(), habit.bytes().to_string()]
    }

    /// The floor: a program in the middle of a pipe.
    fn bare_pump(&self, megabytes: usize, habit: Habit) -> io::Result<Duration> {
        let log = self.ground.dir.join("bare.log");
        let [_, words @ ..] = self.say(megabytes, habit);
        let mut talker = Command::new(std::env::current_exe()?);
        let mut talker = Ending(talker.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
        let Some(pipe) = talker.0.stdout.take() else { return Err(io::Error::other("no pipe")) };
        let pump = Ending(Command::new(&self.ground.floor).arg("pump").arg(&log).stdin(pipe).spawn()?);
        let pid = i32::try_from(pump.0.id()).map_err(io::Error::other)?;
        until_logged(&log, megabytes)?;
        let cpu = cpu_time(pid)?;
        drop((talker, pump));
        fs::remove_file(log)?;
        Ok(cpu)
    }

    fn podrun_pump(&self, megabytes: usize, habit: Habit) -> io::Result<Duration> {
        self.podrun.ok("create pod talk --network none")?;
        // One that is silent first: the pump lives.
        self.podrun.start("talk/silent")?;
        let pump = self.podrun.pid("talk", "pump")?;
        let before = cpu_time(pump)?;
        let words = self.say(megabytes, habit).join(" ");
        self.podrun.ok(&format!("run talk/a -d --rootfs {} -- {words}", self.ground.rootfs.display()))?;
        let log = self.podrun.inspect("talk/a")?["logPath"].as_str().unwrap_or_default().to_owned();
        until_logged(Path::new(&log), megabytes)?;
        let cpu = cpu_time(pump)?.saturating_sub(before);
        self.podrun.ok("delete pod talk --force")?;
        Ok(cpu)
    }

    /// conmon with crun, as podman has it.
    fn conmon_pump(&self, megabytes: usize, habit: Habit) -> io::Result<Duration> {
        let Some(crun) = self.others.iter().find(|other| other.name == "crun") else {
            return Err(io::Error::other("no crun works here"));
        };
        let dir = self.ground.dir.join("conmon");
        let _ = fs::remove_dir_all(&dir);
        let words = self.say(megabytes, habit);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let bundle =
            bundle::write(&dir.join("bundle"), &self.ground.rootfs, &words, From::New, Some(&crun.cgroup("talk")))?;
        let at = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let line = format!(
            "conmon --cid talk --cuuid talk --name talk --runtime /usr/bin/crun --runtime-arg --root --runtime-arg {} \
             --bundle {} --container-pidfile {} --conmon-pidfile {} --log-path k8s-file:{} --socket-dir-path {}",
            crun.state(),
            bundle.display(),
            at("pid"),
            at("conmon-pid"),
            at("log"),
            at("sockets"),
        );
        fs::create_dir_all(dir.join("sockets"))?;
        time_in(self.view, vec![line.split_whitespace().map(str::to_owned).collect()], &self.ground.dir)?;
        // It goes on by itself; the container is made a moment later.
        let pid = soon(&dir.join("conmon-pid"))?;
        soon(&dir.join("pid"))?;
        output(self.view, crun.argv("start talk"))?;
        let logged = until_logged(&dir.join("log"), megabytes);
        let cpu = cpu_time(pid);
        crun.delete("talk")?;
        logged.and(cpu)
    }

    /// MB of log for each second of the pump's CPU time.
    pub(crate) fn pump(&self, size: Size, habit: Habit) -> io::Result<Row> {
        let mut series = ["podrun", "conmon", "bare pump"].map(|name| Series::of(name, Vec::new()));
        for _ in 0..size.pumps {
            let spent = [
                self.podrun_pump(size.megabytes, habit)?,
                self.conmon_pump(size.megabytes, habit)?,
                self.bare_pump(size.megabytes, habit)?,
            ];
            for (series, cpu) in series.iter_mut().zip(spent) {
                series.values.push(float(size.megabytes) / cpu.as_secs_f64());
            }
        }
        let title = format!("Log pump, 100-byte lines, {}", habit.words());
        let row =
            Row { title, unit: "MB a CPU second", better: Better::More, series: series.into(), goals: Vec::new() };
        let row = row.ratio("podrun", Want::AtLeast, 0.8, "bare pump");
        Ok(row.ratio("podrun", Want::AtLeast, 2.5, "conmon"))
    }

    /// Births in a pod where thirty others log as fast as they can.
    pub(crate) fn births(&self, size: Size) -> io::Result<Row> {
        self.podrun.ok("create pod loud")?;
        let words = self.say(0, Habit::Blocks).join(" ");
        for n in 0..SHOUTERS {
            let line = format!("run loud/shout{n} -d --log-max-size 1m --log-max-files 2 --rootfs");
            self.podrun.ok(&format!("{line} {} -- {words}", self.ground.rootfs.display()))?;
        }
        let pause = self.podrun.pid("loud", "pause")?;
        let mut floor =
            self.ground.floor(self.view, &["run", &self.ground.rootfs.to_string_lossy(), &pause.to_string()])?;
        let births = RefCell::new(Vec::new());
        let mut contenders = vec![
            Contender::new("podrun run, the whole command", || self.podrun.run("loud")),
            Contender::new("podrun run -d", || {
                let (took, birth) = self.podrun.birth("loud")?;
                births.borrow_mut().push(birth);
                Ok(took)
            }),
            Contender::new("floor, under the same load", || floor.once()),
        ];
        let mut series = interleave(&mut contenders, size.births, Pace::Hot)?;
        drop(contenders);
        self.podrun.ok("delete pod loud --force")?;
        series.push(Series::of("birth in the monitor", births.into_inner().split_off(1)));
        let reached = series[3].quantile(0.99);
        let floor = series[2].quantile(0.99);
        let row =
            Row::times(format!("Births while {SHOUTERS} containers log at full speed ({})", self.cgroups), series);
        Ok(row.goal("p99 of a birth in the monitor, ms", Want::AtMost, 5.0, reached).goal(
            "the same as a multiple of the floor's p99",
            Want::AtMost,
            2.0,
            reached / floor,
        ))
    }
}

/// The number in a file that somebody is about to write.
fn soon(path: &PathBuf) -> io::Result<i32> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let number = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
        match number {
            Some(number) => return Ok(number),
            None if Instant::now() > end => {
                return Err(io::Error::other(format!("{} was never written", path.display())));
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// The milliseconds from one RFC 3339 time to a later one of the same day or the next.
pub(crate) fn between(from: &str, to: &str) -> Option<f64> {
    let seconds = |text: &str| -> Option<f64> {
        let time = text.split_once('T')?.1.trim_end_matches('Z');
        let mut parts = time.splitn(3, ':').map(|part| part.parse::<f64>().ok());
        Some(parts.next()?? * 3600.0 + parts.next()?? * 60.0 + parts.next()??)
    };
    Some((seconds(to)? - seconds(from)?).rem_euclid(86_400.0) * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_compared_over_midnight_too() {
        let apart = |from, to| between(from, to).map(|ms| (ms * 1e3).round() / 1e3);
        assert_eq!(apart("2026-11-21T16:09:13.873096137Z", "2026-11-21T16:09:13.874170071Z"), Some(1.074));
        assert_eq!(apart("2026-11-21T23:59:59.9Z", "2026-11-22T00:00:00.1Z"), Some(200.0));
        assert_eq!(apart("never", "2026-11-22T00:00:00.1Z"), None);
    }
}
