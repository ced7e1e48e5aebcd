//! The command line: arguments as written, to one verb, to one result or one error. The only door that prints.
//!
//! The verb is found by hand and only its own parser is built: thirty of them would cost more than a container's start.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the door")]

mod args;
mod control;
mod create;
mod exec;
mod host;
mod logs;
mod map;
mod network;
pub mod oci;
mod ports;
mod run;
mod service;
mod show;
mod table;

use crate::error::{Error, Kind, Result};
use args::Words;

/// What a verb is: its words, what it is for, how it is called.
struct Verb {
    words: &'static [&'static str],
    about: &'static str,
    run: fn(&Words) -> Result<i32>,
    /// Whether it runs a workload, so that podrun's own failure is 125 and not 1.
    workload: bool,
}

const fn verb(words: &'static [&'static str], about: &'static str, run: fn(&Words) -> Result<i32>) -> Verb {
    Verb { words, about, run, workload: false }
}

const fn workload(words: &'static [&'static str], about: &'static str, run: fn(&Words) -> Result<i32>) -> Verb {
    Verb { words, about, run, workload: true }
}

const VERBS: &[Verb] = &[
    verb(&["create", "pod"], "Make a pod: its namespaces, network and keepers", create::pod),
    verb(&["create", "container"], "Make a container, not started", run::create),
    workload(&["run"], "Make and start a container; show its output, unless -d", run::run),
    verb(&["start"], "Start containers that were made or have ended", control::start),
    verb(&["stop"], "Stop containers: the stop signal, then KILL after a grace", control::stop),
    verb(&["restart"], "Stop containers and start them again", control::restart),
    verb(&["kill"], "Send a signal, KILL by default", control::kill),
    verb(&["pause"], "Freeze containers", control::pause),
    verb(&["resume"], "Thaw containers", control::resume),
    workload(&["exec"], "Run a program in a container", exec::exec),
    verb(&["logs"], "Show what containers wrote", logs::logs),
    workload(&["attach"], "Show a container's output and pass input to it", run::attach),
    workload(&["wait"], "Wait for a container's end, print its exit code and exit with it", control::wait),
    workload(&["netns"], "Run a program of the host inside the pod's network", host::netns),
    verb(&["port-forward"], "Lead ports of the host to a pod's loopback while this runs", ports::forward),
    verb(&["ps"], "List containers", show::ps),
    verb(&["get", "pods"], "List pods", show::get_pods),
    verb(&["get", "pod"], "Show a pod", show::get_pod),
    verb(&["inspect"], "Everything about a pod or a container, as JSON", show::inspect),
    verb(&["map"], "Draw how pods are wired, from the host's links to the containers", map::map),
    verb(&["port"], "List the ports of the host that lead to a pod", ports::port),
    verb(&["top"], "List the processes of a pod", show::top),
    verb(&["delete", "pod"], "Stop a pod's containers and remove it", control::delete_pod),
    verb(&["delete", "container"], "Remove a container", control::delete_container),
    verb(&["network", "create"], "Describe a network; its first pod makes it", network::create),
    verb(&["network", "ls"], "List networks", network::list),
    verb(&["network", "inspect"], "A network, its ranges and every pod on it, as JSON", network::inspect),
    verb(&["network", "rm"], "Remove networks that no pod is on", network::remove),
    verb(&["network", "connect"], "Put a running pod on one more network", network::connect),
    verb(&["network", "disconnect"], "Take a running pod off a network", network::disconnect),
    verb(&["service", "create"], "One address in front of the pods that have a label", service::create),
    verb(&["service", "ls"], "List services and who serves them", service::list),
    verb(&["service", "inspect"], "A service and who serves it, as JSON", service::inspect),
    verb(&["service", "rm"], "Remove services", service::remove),
    verb(&["network", "peer", "add"], "Tell an overlay of another of its hosts", network::peer_add),
    verb(&["network", "peer", "rm"], "Take a host out of an overlay", network::peer_remove),
    verb(&["network", "reload"], "Put bridges and rules back after somebody flushed them", network::reload),
    verb(&["prune"], "Remove what belongs to no pod", host::prune),
    verb(&["doctor"], "Look for what is wrong on this host, and say how to mend it", host::doctor),
    verb(&["info"], "What this host gives to podrun", host::info),
    verb(&["update", "pod"], "Change a pod that runs: its published ports", ports::update),
    verb(&["upgrade"], "Replace running monitors by this podrun", host::upgrade),
    verb(&["rotate"], "Open a container's log anew, after somebody renamed it", logs::rotate),
    verb(&["version"], "Print the version", host::version),
];

/// docker's and kubectl's other words for the same.
const ALIASES: &[(&[&str], &[&str])] = &[
    (&["rm"], &["delete"]),
    (&["delete", "pods"], &["delete", "pod"]),
    (&["delete", "ctr"], &["delete", "container"]),
    (&["unpause"], &["resume"]),
    (&["network", "list"], &["network", "ls"]),
    (&["service", "list"], &["service", "ls"]),
    (&["service", "remove"], &["service", "rm"]),
    (&["service", "delete"], &["service", "rm"]),
    (&["network", "remove"], &["network", "rm"]),
    (&["network", "delete"], &["network", "rm"]),
    (&["get", "po"], &["get", "pods"]),
    (&["ls"], &["ps"]),
    (&["--version"], &["version"]),
    (&["-V"], &["version"]),
];

/// docker's and kubectl's words for what podrun says in another way, or not yet.
const ELSEWHERE: &[(&[&str], &str)] = &[
    (
        &["image", "images", "pull", "push", "build", "rmi"],
        "images are not there yet: run --bundle DIR, or --rootfs DIR",
    ),
    (&["pod", "pods"], "`podrun create pod`, `podrun get pods` and `podrun delete pod` have the verb first"),
    (&["describe"], "`podrun inspect` and `podrun get pod NAME -o yaml` show everything"),
    (&["list"], "`podrun get pods` lists pods, `podrun ps` containers"),
    (&["cp"], "not there yet: `podrun exec -i POD/NAME -- tar x` takes files in, and a volume shares them"),
    (&["stats", "events"], "not there yet: `podrun top` and `podrun get pods` show the moment"),
    (&["completion"], "not there yet"),
    (&["apply"], "manifests are not there yet: `podrun create pod`, then `podrun run`"),
];

/// Runs what was asked for; the answer is the exit code.
pub fn main(argv: Vec<String>) -> i32 {
    let mut words = match Words::split(argv) {
        Ok(words) => words,
        Err(err) => return complain(&err, false),
    };
    // `help run` is `run --help`.
    if words.rest.len() > 1 && words.rest[0] == "help" {
        words.rest.remove(0);
        words.rest.push("--help".into());
    }
    let rest: Vec<&str> = words.rest.iter().map(String::as_str).collect();
    if rest.is_empty() || matches!(rest[0], "help" | "--help" | "-h") {
        if rest.is_empty() {
            eprint!("{}", overview());
            return 2;
        }
        table::print(&overview());
        return 0;
    }
    if rest[0] == "oci" {
        return oci::main(words.rest.split_off(1));
    }
    if let [first, "--help" | "-h"] = rest[..]
        && let Some(text) = help_of_group(first)
    {
        table::print(&text);
        return 0;
    }
    match find(&words.rest) {
        Ok((verb, taken)) => {
            let done = (verb.run)(&words.after(taken, verb.words, verb.about));
            crate::net::nfnetlink::let_go();
            crate::rootless::leave();
            done.and_then(table::shown).unwrap_or_else(|err| complain(&err, verb.workload))
        }
        Err(err) => complain(&err, false),
    }
}

/// The verb, and how many words it took.
fn find(rest: &[String]) -> Result<(&'static Verb, usize)> {
    let mut words: Vec<&str> = rest.iter().map(String::as_str).collect();
    let mut shift = 0isize;
    for (alias, meaning) in ALIASES {
        if words.starts_with(alias) {
            shift = isize::try_from(alias.len()).unwrap_or(0) - isize::try_from(meaning.len()).unwrap_or(0);
            words = [meaning, &words[alias.len()..]].concat();
        }
    }
    // `get pods NAME` is `get pod NAME`, and `get pod` alone lists, as kubectl has it.
    if words.starts_with(&["get", "pods"]) && words.get(2).is_some_and(|word| !word.starts_with('-')) {
        words[1] = "pod";
    }
    if words == ["get", "pod"] {
        words[1] = "pods";
    }
    if let Some(verb) = VERBS.iter().find(|verb| words.starts_with(verb.words)) {
        let taken = isize::try_from(verb.words.len()).unwrap_or(0) + shift;
        return Ok((verb, usize::try_from(taken).unwrap_or(0)));
    }
    // `delete NAME` and `rm NAME` mean a pod, or a container where there is a slash.
    if words.first() == Some(&"delete") && words.len() > 1 {
        let target = if words[1..].iter().any(|word| word.contains('/')) { "container" } else { "pod" };
        if let Some(verb) = VERBS.iter().find(|verb| verb.words == ["delete", target]) {
            return Ok((verb, 1));
        }
    }
    Err(unknown(&words))
}

fn unknown(words: &[&str]) -> Error {
    let known: Vec<String> = VERBS.iter().map(|verb| verb.words.join(" ")).collect();
    let mut below: Vec<&str> =
        VERBS.iter().filter(|verb| verb.words[0] == words[0]).map(|verb| verb.words[1]).collect();
    below.dedup();
    let err = |cause: &str| Error::new(Kind::Usage, format!("read the command {:?}", words[0]), cause);
    if !below.is_empty() {
        let cause = words.get(1).map(|word| format!("{word:?} cannot follow it"));
        return err(cause.as_deref().unwrap_or("something must follow it")).hint(format!(
            "{} {}",
            words[0],
            below.join(" or ")
        ));
    }
    if let Some((_, hint)) = ELSEWHERE.iter().find(|(others, _)| others.contains(&words[0])) {
        return err("podrun has no such verb").hint(*hint);
    }
    match crate::pod::find::near(words[0], &known) {
        near if near.is_empty() => err("podrun has no such verb").hint("`podrun help` lists them"),
        near => err("podrun has no such verb").hint(format!("did you mean {}?", near.join(" or "))),
    }
}

/// `create --help`: the verbs that begin so.
fn help_of_group(first: &str) -> Option<String> {
    let group: Vec<&Verb> = VERBS.iter().filter(|verb| verb.words.len() > 1 && verb.words[0] == first).collect();
    let lines = group.iter().map(|verb| format!("  podrun {:<18} {}\n", verb.words.join(" "), verb.about));
    (!group.is_empty()).then(|| format!("{}\nEach has --help with examples.\n", lines.collect::<String>()))
}

fn overview() -> String {
    let mut text = String::from("podrun runs pods: containers that share one network and one hostname.\n\nVerbs:\n");
    for verb in VERBS {
        text.push_str(&format!("  {:<18} {}\n", verb.words.join(" "), verb.about));
    }
    text.push_str("  oci                An OCI runtime with runc's command line: `podrun oci help`\n");
    text.push_str(
        "\nBefore or after the verb: --root DIR, --run-root DIR, -n NAMESPACE.\n\
         Each verb has --help with examples. A container is POD/NAME, or POD -c NAME.\n",
    );
    text
}

/// One line, and a hint where one is known.
fn complain(err: &Error, workload: bool) -> i32 {
    if err.is_help() {
        return 0;
    }
    eprintln!("podrun: {err}");
    match (err.kind, workload) {
        (Kind::Usage, _) => 2,
        (kind, true) => crate::error::exit_code(kind),
        _ => 1,
    }
}

/// Something that the user should know, and that stops nothing.
fn warn(text: &str) {
    eprintln!("podrun: warning: {text}");
}

/// Each is done whatever became of the others; the last failure is the answer, those before it are only said.
fn all(done: impl IntoIterator<Item = Result<()>>) -> Result<i32> {
    let failures = done.into_iter().filter_map(Result::err);
    let last = failures.reduce(|earlier, later| {
        warn(&earlier.to_string());
        later
    });
    last.map_or(Ok(0), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> std::result::Result<(Vec<&'static str>, usize), String> {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        find(&words).map(|(verb, taken)| (verb.words.to_vec(), taken)).map_err(|err| err.to_string())
    }

    #[test]
    fn a_verb_is_found_by_its_words_and_by_those_of_other_tools() {
        assert_eq!(found("create pod web"), Ok((vec!["create", "pod"], 2)));
        assert_eq!(found("rm web"), Ok((vec!["delete", "pod"], 1)));
        assert_eq!(found("rm web/a"), Ok((vec!["delete", "container"], 1)));
        assert_eq!(found("rm pod web"), Ok((vec!["delete", "pod"], 2)));
        assert_eq!(found("unpause web"), Ok((vec!["resume"], 1)));
        assert_eq!(found("get pods"), Ok((vec!["get", "pods"], 2)));
        assert_eq!(found("get pods web"), Ok((vec!["get", "pod"], 2)));
        assert_eq!(found("get po -o json"), Ok((vec!["get", "pods"], 2)));
        assert!(found("crate pod").unwrap_err().contains("podrun has no such verb"));
        assert!(found("stpo web").unwrap_err().contains("did you mean stop"));
        assert!(found("pods").unwrap_err().contains("`podrun get pods`"));
        assert!(found("get containers").unwrap_err().contains("\"containers\" cannot follow it"));
        assert!(found("network").unwrap_err().contains("disconnect or peer or reload"));
        assert!(found("cp a b").unwrap_err().contains("not there yet"));
        assert!(found("get").unwrap_err().contains("something must follow it"));
    }
}
