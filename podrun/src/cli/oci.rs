//! `podrun oci`, and podrun under the names `runc`, `crun` and `podrun-oci`: runc's command line, its exit codes, and its log,
//! which shims and podman read.

#![forbid(unsafe_code)]

mod change;
mod document;
mod freeze;
mod make;
mod show;

use crate::error::{Doing, Error, Kind, Result};
use crate::privilege::Privilege;
use crate::record::Stamp;
use crate::roots::Roots;
use clap::{Args, Command};
use serde_json::json;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Names under which podrun is an OCI runtime and nothing else.
pub const NAMES: [&str; 3] = ["runc", "crun", "podrun-oci"];

/// What stands before the verb.
#[derive(Debug, Args)]
struct Global {
    /// Where containers' states are kept; /run/podrun/oci by default, for users $XDG_RUNTIME_DIR/podrun/oci
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Errors and warnings go there, too
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// text or json
    #[arg(long, default_value = "text", value_name = "FORMAT", value_parser = ["text", "json"])]
    log_format: String,
    /// Taken for compatibility: podrun has one level
    #[arg(long, value_name = "LEVEL", hide = true)]
    log_level: Option<String>,
    /// Taken for compatibility: podrun has one level
    #[arg(long, hide = true)]
    debug: bool,
    /// Put containers into scopes of systemd; linux.cgroupsPath is SLICE:PREFIX:NAME then
    #[arg(long)]
    systemd_cgroup: bool,
    /// true, false or auto
    #[arg(long, default_value = "auto", value_name = "WHETHER", value_parser = ["true", "false", "auto"], num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    rootless: String,
    /// Taken for compatibility: criu is found by PATH
    #[arg(long, value_name = "FILE", hide = true)]
    criu: Option<String>,
}

/// Everything that a verb is called with.
struct Call {
    global: Global,
    verb: &'static Verb,
    rest: Vec<String>,
}

struct Verb {
    name: &'static str,
    about: &'static str,
    run: fn(&Call) -> Result<i32>,
}

const fn verb(name: &'static str, about: &'static str, run: fn(&Call) -> Result<i32>) -> Verb {
    Verb { name, about, run }
}

const VERBS: &[Verb] = &[
    verb("create", "Make a container, not started", make::create),
    verb("start", "Start a container that was made", change::start),
    verb("run", "Make and start a container", make::run),
    verb("exec", "Run a program in a container", make::exec),
    verb("state", "A container's state, as the specification has it", show::state),
    verb("list", "List containers", show::list),
    verb("ps", "List the processes of a container", show::ps),
    verb("kill", "Send a signal to a container", change::kill),
    verb("delete", "Remove a container that has stopped", change::delete),
    verb("pause", "Freeze a container", change::pause),
    verb("resume", "Thaw a container", change::resume),
    verb("update", "Change a container's limits", change::update),
    verb("events", "Show what a container uses, again and again", show::show_events),
    verb("spec", "Write a config.json to begin with", document::spec),
    verb("features", "What this runtime can do, as JSON", document::features),
    verb("checkpoint", "Write a container's processes to files, by criu", freeze::checkpoint),
    verb("restore", "Make a container of such files, by criu", freeze::restore),
];

/// runc's exit code for a verb that it does not have.
const NO_SUCH_VERB: i32 = 3;

/// Runs what was asked for; the answer is the exit code. `words` begin after `oci`, or after the program's name.
pub fn main(words: Vec<String>) -> i32 {
    let (before, rest) = split(words);
    let global = match parse::<Global>("podrun oci", "An OCI runtime with runc's command line.", &before) {
        Ok(global) => global,
        Err(err) => return complain(None, &err, 1),
    };
    // `help VERB` is `VERB --help`.
    let rest = match rest.as_slice() {
        [help, verb, ..] if help == "help" => vec![verb.clone(), "--help".to_owned()],
        _ => rest,
    };
    let (first, rest) = rest.split_first().map_or(("help", &[][..]), |(first, rest)| (first.as_str(), rest));
    match first {
        "help" | "--help" | "-h" => {
            super::table::print(&overview());
            return 0;
        }
        "--version" | "-v" | "version" => {
            super::table::print(&version());
            return 0;
        }
        _ => {}
    }
    let Some(verb) = VERBS.iter().find(|verb| verb.name == first) else {
        let err = Error::new(Kind::Usage, format!("read the command {first:?}"), "there is none of this name");
        return complain(Some(&global), &err.hint("`podrun oci help` lists them"), NO_SUCH_VERB);
    };
    let call = Call { global, verb, rest: rest.to_vec() };
    match (verb.run)(&call) {
        Ok(code) => code,
        // runc's: an exec that did not become its program is told from one that ended with 1.
        Err(err) => complain(Some(&call.global), &err, if verb.name == "exec" { 255 } else { 1 }),
    }
}

/// The flags before the verb, and the rest.
fn split(words: Vec<String>) -> (Vec<String>, Vec<String>) {
    let mut before = Vec::new();
    let mut rest = words.into_iter().peekable();
    while let Some(word) = rest.next_if(|word| word.starts_with('-') && !is_whole(word)) {
        let key = word.trim_start_matches('-').split('=').next().unwrap_or_default();
        let next = rest.peek().map(String::as_str);
        let has_a_value = match key {
            _ if word.contains('=') => false,
            "root" | "log" | "log-format" | "log-level" | "criu" => next.is_some(),
            // runc's wants one, podman's gives none.
            "rootless" => matches!(next, Some("true" | "false" | "auto")),
            _ => false,
        };
        let word = format!("--{}", word.trim_start_matches('-'));
        before.push(match rest.next_if(|_| has_a_value) {
            Some(value) => format!("{word}={value}"),
            None => word,
        });
    }
    (before, rest.collect())
}

fn is_whole(word: &str) -> bool {
    matches!(word, "--help" | "-h" | "--version" | "-v")
}

fn parse<T: Args>(name: &str, about: &'static str, words: &[String]) -> Result<T> {
    let command = T::augment_args(Command::new("podrun").bin_name(name)).no_binary_name(true).about(about);
    let words = respell(words, &command)?;
    let matches = command.try_get_matches_from(words).map_err(super::args::usage)?;
    T::from_arg_matches(&matches).map_err(super::args::usage)
}

/// The flags as clap reads them: to runc's parser, Go's, one dash and two are alike, and what is on or off may be told so
/// (`--tty=false`). Behind the id of an exec or a ps all is the program's.
fn respell(words: &[String], command: &Command) -> Result<Vec<String>> {
    let ends_with_words = command.get_positionals().any(clap::Arg::is_trailing_var_arg_set);
    let mut respelt = Vec::with_capacity(words.len());
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let body = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).unwrap_or_default();
        let (name, value) = body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value)));
        let is_named = |arg: &&clap::Arg| {
            arg.get_long() == Some(name) || arg.get_short().is_some_and(|short| name == short.to_string())
        };
        let flag = command.get_arguments().find(is_named);
        let long = flag.and_then(clap::Arg::get_long).unwrap_or_default();
        match (flag.map(clap::Arg::get_action), value) {
            (None, _) => {
                respelt.push(word.clone());
                if word == "--" || (ends_with_words && body.is_empty()) {
                    break;
                }
            }
            (Some(clap::ArgAction::SetTrue), None | Some("1" | "t" | "T" | "true" | "TRUE" | "True")) => {
                respelt.push(format!("--{long}"));
            }
            (Some(clap::ArgAction::SetTrue), Some("0" | "f" | "F" | "false" | "FALSE" | "False")) => {}
            (Some(clap::ArgAction::SetTrue), Some(value)) => {
                return Err(Error::new(Kind::Usage, format!("read --{long}={value}"), "neither true nor false"));
            }
            (Some(_), None) if may_be_alone(flag) => respelt.push(format!("--{long}")),
            (Some(_), value) => match value.or_else(|| rest.next().map(String::as_str)) {
                Some(value) => respelt.push(format!("--{long}={value}")),
                None => respelt.push(format!("--{long}")),
            },
        }
    }
    respelt.extend(rest.cloned());
    Ok(respelt)
}

/// Whether it has a value only behind `=`.
fn may_be_alone(flag: Option<&clap::Arg>) -> bool {
    flag.and_then(clap::Arg::get_num_args).is_some_and(|values| values.min_values() == 0)
}

impl Call {
    fn parse<T: Args>(&self) -> Result<T> {
        parse(&format!("podrun oci {}", self.verb.name), self.verb.about, &self.rest)
    }

    fn roots(&self) -> Roots {
        let from_env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let default = Roots::default();
        // As runc: whoever is not root of the machine has a directory of his own for what does not outlive the session.
        let session = || from_env("XDG_RUNTIME_DIR").filter(|_| Privilege::own() != Privilege::Host);
        let run = from_env("PODRUN_RUN_ROOT").or_else(|| session().map(|dir| dir.join("podrun")));
        Roots { root: default.root, run: run.unwrap_or(default.run) }
    }

    fn root(&self) -> Result<PathBuf> {
        let root = self.global.root.clone().unwrap_or_else(|| self.roots().run.join("oci"));
        let root = std::path::absolute(&root).doing(|| format!("find {}", root.display()))?;
        match root.components().any(|part| matches!(part, std::path::Component::Normal(_))) {
            true => Ok(root),
            // Below it an id would name a directory of the system's.
            false => Err(Error::new(Kind::Usage, "read --root", "it is the root directory itself")),
        }
    }

    /// Something that whoever reads the log should know, and that stops nothing. Our stderr may be the container's own log,
    /// as conmon has it, so that it is said there only where there is no other place.
    fn warn(&self, warnings: &[String]) {
        for warning in warnings {
            match self.global.log {
                Some(_) => self.global.write("warning", warning),
                None => eprintln!("podrun: warning: {warning}"),
            }
        }
    }
}

impl Global {
    /// One line in the log. Who cannot write it has said all on stderr.
    fn write(&self, level: &str, message: &str) {
        let Some(path) = &self.log else { return };
        let time = Stamp::now().text();
        let line = match self.log_format.as_str() {
            "json" => json!({"level": level, "msg": message, "time": time}).to_string(),
            _ => format!("time={time:?} level={level} msg={message:?}"),
        };
        let file = std::fs::OpenOptions::new().append(true).create(true).mode(0o644).open(path);
        let _ = file.and_then(|mut file| writeln!(file, "{line}"));
    }
}

fn complain(global: Option<&Global>, err: &Error, code: i32) -> i32 {
    if err.is_help() {
        return 0;
    }
    eprintln!("podrun: {err}");
    if let Some(global) = global {
        global.write("error", &format!("{}: {}", err.what_was_being_done(), err.cause()));
    }
    code
}

fn version() -> String {
    // conmon and podman show it; containerd looks for the second line.
    format!("podrun version {}\nspec: {}\n", env!("CARGO_PKG_VERSION"), document::VERSION)
}

fn overview() -> String {
    let mut text = String::from("podrun oci is an OCI runtime with runc's command line.\n\nVerbs:\n");
    for verb in VERBS {
        text.push_str(&format!("  {:<11} {}\n", verb.name, verb.about));
    }
    text.push_str(
        "\nBefore the verb: --root DIR, --log FILE, --log-format text|json, --systemd-cgroup, --rootless, --debug.\n\
         Each verb has --help.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_the_verb_is_told_from_the_verb() {
        let split = |text: &str| {
            let (before, rest) = split(text.split(' ').map(str::to_owned).collect());
            (before.join(" "), rest.join(" "))
        };
        assert_eq!(split("--root /x --debug create a"), ("--root=/x --debug".into(), "create a".into()));
        assert_eq!(split("-root=/x --log y state a"), ("--root=/x --log=y".into(), "state a".into()));
        assert_eq!(split("--rootless false --root"), ("--rootless=false --root".into(), String::new()));
        assert_eq!(split("--rootless list"), ("--rootless".into(), "list".into()));
        assert_eq!(
            split("--systemd-cgroup --rootless=true list -q"),
            ("--systemd-cgroup --rootless=true".into(), "list -q".into())
        );
        assert_eq!(split("--version"), (String::new(), "--version".into()));
    }

    #[derive(Debug, Args)]
    struct Sample {
        #[arg(short, long)]
        tty: bool,
        #[arg(short = 'g', long)]
        additional_gids: Vec<i64>,
        id: String,
        #[arg(trailing_var_arg = true)]
        command: Vec<String>,
    }

    #[test]
    fn flags_are_read_as_gos_parser_does() {
        let respelt = |text: &str| {
            let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
            let command = Sample::augment_args(Command::new("sample"));
            respell(&words, &command).map(|words| words.join(" ")).map_err(|err| err.to_string())
        };
        assert_eq!(respelt("-tty id").unwrap(), "--tty id");
        assert_eq!(respelt("--tty=false -t=1 id").unwrap(), "--tty id");
        assert_eq!(respelt("-g -1 --additional-gids=2 id").unwrap(), "--additional-gids=-1 --additional-gids=2 id");
        assert_eq!(respelt("id ls -t --tty=false").unwrap(), "id ls -t --tty=false");
        assert_eq!(respelt("-- id -t").unwrap(), "-- id -t");
        assert_eq!(respelt("--unknown id").unwrap(), "--unknown id");
        assert_eq!(respelt("--tty=perhaps id").unwrap_err(), "read --tty=perhaps: neither true nor false");
        assert_eq!(respelt("-g").unwrap(), "--additional-gids");
    }
}
