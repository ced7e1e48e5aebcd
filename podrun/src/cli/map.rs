//! `podrun map`: the picture, once or as long as somebody looks at it.

#![forbid(unsafe_code)]

use super::args::{Global, Words, duration};
use super::table;
use crate::error::{Doing, Error, Kind, Result};
use crate::pod::map::text::{Detail, Letters, Look};
use crate::pod::map::watch::Watch;
use crate::pod::map::{self, Seen, dot, svg, text};
use crate::pod::terminal::{is_terminal, own_size};
use crate::roots::Roots;
use crate::signal;
use crate::sys::tty;
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use nix::sys::signalfd::SignalFd;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

#[derive(Debug, Args)]
struct Map {
    #[command(flatten)]
    global: Global,
    /// Only this pod, whole, and what leads from it to the world; without it, everything in every namespace
    pod: Option<String>,
    /// text, svg, dot (Graphviz) or json
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
    /// Draw it anew whenever something changes, and at the latest after so many seconds (5)
    #[arg(short = 'w', long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "5")]
    watch: Option<String>,
    /// Every pod, however many there are
    #[arg(short = 'a', long)]
    all: bool,
    /// No box-drawing letters; so too where LC_ALL, LC_CTYPE or LANG name no UTF-8
    #[arg(long)]
    ascii: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Svg,
    Dot,
    Json,
}

impl Format {
    fn parse(text: Option<&str>) -> Result<Self> {
        match text {
            None | Some("text") => Ok(Self::Text),
            Some("svg") => Ok(Self::Svg),
            Some("dot") => Ok(Self::Dot),
            Some("json") => Ok(Self::Json),
            Some(other) => {
                let doing = format!("read the output format {other:?}");
                Err(Error::new(Kind::Usage, doing, "there is none of this name").hint("text, svg, dot or json"))
            }
        }
    }
}

pub(super) fn map(words: &Words) -> Result<i32> {
    let mut asked: Map =
        words.parse("  podrun map\n  podrun map web --watch\n  podrun map -o svg > map.svg\n  podrun map -o dot | dot -Tpng > map.png")?;
    let format = Format::parse(asked.output.as_deref())?;
    let Some(period) = period(&mut asked)? else {
        let picture = Picture::new(&asked, format)?;
        let (drawn, unread) = picture.draw(picture.width(), Layout::Pages)?;
        unread.iter().for_each(|err| super::warn(&err.to_string()));
        table::print(&drawn);
        return Ok(0);
    };
    match format {
        Format::Text | Format::Json => watch(&Picture::new(&asked, format)?, period),
        Format::Svg | Format::Dot => {
            Err(Error::new(Kind::Usage, "read the command line", "--watch is for text and json")
                .hint("podrun map -o svg > map.svg, as often as it is wanted"))
        }
    }
}

/// How long at the most from one drawing to the next. What follows `--watch` and is no time is the pod.
fn period(asked: &mut Map) -> Result<Option<Duration>> {
    let Some(text) = asked.watch.clone() else { return Ok(None) };
    match duration(&text) {
        Ok(period) if period >= SHORTEST => Ok(Some(period)),
        Ok(_) => Err(Error::new(Kind::Usage, format!("read --watch {text}"), "shorter than a tenth of a second")),
        Err(_) if asked.pod.is_none() => {
            asked.pod = Some(text);
            Ok(Some(PERIOD))
        }
        Err(err) => Err(err),
    }
}

const PERIOD: Duration = Duration::from_secs(5);
/// A storm of changes is drawn ten times a second.
const SHORTEST: Duration = Duration::from_millis(100);
/// Where nobody says how wide the terminal is.
const WIDTH: usize = 80;

/// What is to be drawn, and how.
struct Picture<'a> {
    asked: &'a Map,
    roots: Roots,
    format: Format,
    letters: Letters,
}

/// JSON by pages is for people, by lines for programs that read one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Pages,
    Lines,
}

impl<'a> Picture<'a> {
    fn new(asked: &'a Map, format: Format) -> Result<Self> {
        let env = |name: &str| std::env::var(name).ok();
        let letters = match asked.ascii {
            true => Letters::Ascii,
            false => letters(&["LC_ALL", "LC_CTYPE", "LANG"].map(env)),
        };
        Ok(Self { asked, roots: asked.global.readable()?, format, letters })
    }

    fn draw(&self, width: usize, layout: Layout) -> Result<(String, Vec<Error>)> {
        let Seen { map, unread } = match &self.asked.pod {
            // The pod first: who asks for one that is not there need not wait for all others.
            Some(name) => {
                let pod = self.asked.global.pod(name)?;
                let seen = map::look(&self.roots)?;
                Seen { map: seen.map.around(&pod.record.id), ..seen }
            }
            None => map::look(&self.roots)?,
        };
        let detail = match (&self.asked.pod, self.asked.all) {
            (Some(_), _) => Detail::Whole,
            (None, true) => Detail::Everything,
            (None, false) => Detail::Overview,
        };
        let drawn = match (self.format, layout) {
            (Format::Text, _) => text::draw(&map, Look { width, letters: self.letters, detail }),
            (Format::Svg, _) => svg::draw(&map),
            (Format::Dot, _) => dot::draw(&map),
            (Format::Json, Layout::Pages) => format!("{}\n", serde_json::to_string_pretty(&map).unwrap_or_default()),
            (Format::Json, Layout::Lines) => format!("{}\n", serde_json::to_string(&map).unwrap_or_default()),
        };
        Ok((drawn, unread))
    }

    fn width(&self) -> usize {
        let told = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let terminal = tty::size(std::io::stdout().as_fd()).ok().map(|size| usize::from(size.columns));
        terminal.filter(|columns| *columns > 0).or(told).unwrap_or(WIDTH)
    }
}

/// The first of these that is set and not empty says it (locale(7)).
fn letters(variables: &[Option<String>]) -> Letters {
    let named = variables.iter().flatten().find(|value| !value.is_empty());
    let lower = named.map(|value| value.to_ascii_lowercase()).unwrap_or_default();
    match lower.contains("utf-8") || lower.contains("utf8") {
        true => Letters::Utf8,
        false => Letters::Ascii,
    }
}

/// Until somebody has seen enough: Ctrl-C, or the reader of a pipe that leaves.
fn watch(picture: &Picture<'_>, period: Duration) -> Result<i32> {
    let doing = || "watch the records".to_owned();
    let signals = signal::catch(ENDING.into_iter().chain([Signal::SIGWINCH, Signal::SIGTSTP]))?;
    let watch = Watch::new(&picture.roots)?;
    let mut screen = Screen::new(picture.format);
    loop {
        watch.extend();
        let (frame, _) = picture.draw(picture.width(), Layout::Lines)?;
        if screen.show(&frame).is_err() {
            return Ok(UNREAD);
        }
        match wait(&signals, &watch, period).doing(doing)? {
            Woken::Changed => {
                // More of the same is on its way: a pod is made in several steps.
                std::thread::sleep(SHORTEST);
                watch.drain();
            }
            Woken::Late => {}
            Woken::Unread => return Ok(UNREAD),
            Woken::Signalled => {
                while let Some(signal) = signals.read_signal().doing(doing)? {
                    match Signal::try_from(signal.ssi_signo.cast_signed()) {
                        Ok(Signal::SIGTSTP) => screen.leave_while_stopped(),
                        Ok(Signal::SIGWINCH) => screen.forget(),
                        _ => return Ok(0),
                    }
                }
            }
        }
    }
}

const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
/// What a shell shows for SIGPIPE.
const UNREAD: i32 = 141;

enum Woken {
    Changed,
    Late,
    Signalled,
    /// Nobody reads what is shown.
    Unread,
}

fn wait(signals: &SignalFd, watch: &Watch, period: Duration) -> nix::Result<Woken> {
    let out = std::io::stdout();
    let mut fds = [
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        PollFd::new(out.as_fd(), PollFlags::empty()),
        PollFd::new(watch.as_fd(), PollFlags::POLLIN),
    ];
    let timeout = PollTimeout::try_from(period).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(Woken::Late),
        other => other?,
    };
    let [signalled, unread, _] = fds.map(|fd| fd.any().unwrap_or(false));
    Ok(match (signalled, unread) {
        (true, _) => Woken::Signalled,
        (_, true) => Woken::Unread,
        _ => Woken::Changed,
    })
}

/// Where frames go: a terminal's second screen, so that the first is as it was afterwards; or a pipe, one after the other.
struct Screen {
    on_terminal: bool,
    entered: bool,
    separator: &'static str,
    last: Option<String>,
}

/// xterm's and everybody's words (console_codes(4)): second screen without a cursor, and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

impl Screen {
    fn new(format: Format) -> Self {
        let on_terminal = format == Format::Text && is_terminal(std::io::stdout().as_fd());
        // A form feed on a line of its own ends a picture; a line of JSON is one by itself.
        let separator = if format == Format::Text { "\x0c\n" } else { "" };
        Self { on_terminal, entered: false, separator, last: None }
    }

    fn show(&mut self, frame: &str) -> std::io::Result<()> {
        if self.last.as_deref() == Some(frame) {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        if self.on_terminal {
            let enter = if self.entered { "" } else { ENTER };
            self.entered = true;
            let rows = own_size().map_or(24, |size| usize::from(size.rows));
            write!(out, "{enter}\x1b[H{}\x1b[J", fit(frame, rows))?;
        } else {
            write!(out, "{frame}{}", self.separator)?;
        }
        self.last = Some(frame.to_owned());
        out.flush()
    }

    /// The next frame is shown though it be the same.
    fn forget(&mut self) {
        self.last = None;
    }

    fn leave(&mut self) {
        if std::mem::take(&mut self.entered) {
            table::print(LEAVE);
            let _ = std::io::stdout().flush();
        }
    }

    /// Ctrl-Z: the shell has its screen until it says to go on.
    fn leave_while_stopped(&mut self) {
        self.leave();
        let _ = raise(Signal::SIGSTOP);
        self.forget();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

/// As many lines as there are rows, each cleared to its end; what is below is counted.
fn fit(frame: &str, rows: usize) -> String {
    let lines: Vec<&str> = frame.lines().collect();
    let fits = if lines.len() <= rows { lines.len() } else { rows.saturating_sub(1) };
    let mut shown: Vec<String> = lines[..fits].iter().map(|line| format!("{line}\x1b[K")).collect();
    if fits < lines.len() {
        shown.push(format!("({} more lines: a larger terminal, or `podrun map POD`)\x1b[K", lines.len() - fits));
    }
    shown.join("\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_those_that_the_locale_has() {
        let said = |words: [&str; 3]| letters(&words.map(|word| Some(word.to_owned())));
        assert_eq!(said(["", "", "en_US.UTF-8"]), Letters::Utf8);
        assert_eq!(said(["C", "", "en_US.UTF-8"]), Letters::Ascii);
        assert_eq!(said(["", "de_DE.utf8", "C"]), Letters::Utf8);
        assert_eq!(letters(&[None, None, None]), Letters::Ascii);
    }

    #[test]
    fn a_frame_fits_the_terminal() {
        assert_eq!(fit("a\nb\n", 2), "a\x1b[K\r\nb\x1b[K");
        let cut = fit("a\nb\nc\n", 2);
        assert!(cut.starts_with("a\x1b[K\r\n(2 more lines"), "{cut}");
    }

    #[test]
    fn what_follows_watch_is_a_time_or_the_pod() {
        let parsed = |line: &str| {
            let argv = format!("podrun {line}").split(' ').map(str::to_owned).collect();
            let words = Words::split(argv).unwrap().after(1, &["map"], "");
            let mut asked: Map = words.parse("").unwrap();
            period(&mut asked).map(|period| (period, asked.pod)).map_err(|err| err.cause().to_owned())
        };
        let web = || Some("web".to_owned());
        assert_eq!(parsed("map web"), Ok((None, web())));
        assert_eq!(parsed("map --watch"), Ok((Some(PERIOD), None)));
        assert_eq!(parsed("map --watch web"), Ok((Some(PERIOD), web())));
        assert_eq!(parsed("map web --watch"), Ok((Some(PERIOD), web())));
        assert_eq!(parsed("map web --watch 2"), Ok((Some(Duration::from_secs(2)), web())));
        assert!(parsed("map web --watch x").is_err() && parsed("map --watch 0").is_err());
    }
}
