//! Words that every verb understands: where podrun keeps things, the namespace, pods and containers by name.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use crate::id::{ContainerName, NamespaceName};
use crate::pod::find::{self, KUBECTL, Pod};
use crate::rootless;
use crate::roots::Roots;
use clap::{Args, Command};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use std::path::PathBuf;

/// The command line, with the flags that may stand before the verb taken out.
#[derive(Debug, Clone)]
pub(super) struct Words {
    pub(super) rest: Vec<String>,
    before: Vec<String>,
    verb: String,
    about: &'static str,
}

impl Words {
    /// Without the program's own name.
    pub(super) fn split(argv: Vec<String>) -> Result<Self> {
        let mut rest = argv.into_iter().skip(1).peekable();
        let mut before = Vec::new();
        while let Some(word) = rest.next_if(|word| is_global(word)) {
            let value = match word.contains('=') {
                true => None,
                false => Some(
                    rest.next()
                        .ok_or_else(|| Error::new(Kind::Usage, format!("read {word}"), "a value must follow it"))?,
                ),
            };
            before.push(word);
            before.extend(value);
        }
        Ok(Self { rest: rest.collect(), before, verb: String::new(), about: "" })
    }

    pub(super) fn after(&self, taken: usize, verb: &[&str], about: &'static str) -> Self {
        Self { rest: self.rest[taken..].to_vec(), before: self.before.clone(), verb: verb.join(" "), about }
    }

    /// The verb's own parser, made for this one call.
    pub(super) fn parse<T: Args>(&self, examples: &'static str) -> Result<T> {
        let name = format!("podrun {}", self.verb);
        let command = T::augment_args(Command::new("podrun").bin_name(name))
            .no_binary_name(true)
            .about(self.about)
            .after_help(format!("Examples:\n{examples}"));
        let matches = command.try_get_matches_from(self.before.iter().chain(&self.rest)).map_err(usage)?;
        T::from_arg_matches(&matches).map_err(usage)
    }
}

/// A word with a dash before the program is a flag that the verb does not know, unless `--` stood before it.
pub(super) fn refuse_flag(words: &Words, command: &[String]) -> Result<()> {
    let before = words.rest.len().checked_sub(command.len() + 1).and_then(|at| words.rest.get(at));
    match command.first() {
        Some(first) if first.starts_with('-') && before.is_none_or(|word| word != "--") => {
            Err(Error::new(Kind::Usage, "read the command line", format!("unexpected argument '{first}' found"))
                .hint(format!("podrun {} --help; a program of this name comes after `--`", words.verb)))
        }
        _ => Ok(()),
    }
}

fn is_global(word: &str) -> bool {
    let key = word.split('=').next().unwrap_or_default();
    matches!(key, "--root" | "--run-root" | "-n" | "--namespace" | "--log-level")
}

/// clap's page for a wrong call, as one line of ours; its help as it is.
pub(super) fn usage(err: clap::Error) -> Error {
    use clap::error::ErrorKind;
    if matches!(err.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        super::table::print(&err.render().to_string());
        return Error::new(Kind::Usage, "", "").help_was_shown();
    }
    const END: &[&str] = &["Usage:", "tip:", "For more information"];
    let text = err.render().to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().trim_start_matches("error: ").trim_end_matches(':').to_owned();
    // "the following required arguments were not provided:" is followed by their names.
    let more: Vec<&str> = lines.clone().take_while(|line| !END.iter().any(|end| line.starts_with(end))).collect();
    let cause = if more.is_empty() { first } else { format!("{first}: {}", more.join(", ")) };
    // "to pass '--x' as a value, use '-- --x'" is no help to whoever misspelt a flag.
    let hint = lines.find_map(|line| {
        let tip = line.strip_prefix("tip: ").filter(|tip| !tip.starts_with("to pass "));
        tip.or(line.strip_prefix("Usage: ")).map(str::to_owned)
    });
    let err = Error::new(Kind::Usage, "read the command line", cause);
    match hint {
        Some(hint) => err.hint(hint),
        None => err,
    }
}

#[derive(Debug, Args)]
pub(super) struct Global {
    /// Images, volumes, definitions and logs: what survives a reboot
    #[arg(long, value_name = "DIR", help_heading = "Global")]
    root: Option<PathBuf>,
    /// Pods, sockets and leases: what does not
    #[arg(long, value_name = "DIR", help_heading = "Global")]
    run_root: Option<PathBuf>,
    /// Kubernetes' kind of namespace
    #[arg(short = 'n', long, default_value = "default", help_heading = "Global")]
    namespace: String,
    /// Taken for compatibility: podrun has one level
    #[arg(long, value_name = "LEVEL", hide = true)]
    log_level: Option<String>,
}

impl Global {
    /// Where things lie; whoever is not root is in his own user namespace from here on.
    pub(super) fn roots(&self) -> Result<Roots> {
        let roots = self.roots_from_outside()?;
        rootless::enter(&roots)?.iter().for_each(|warning| super::warn(warning));
        Ok(roots)
    }

    pub(super) fn roots_from_outside(&self) -> Result<Roots> {
        let from_env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let absolute = |path: PathBuf| {
            std::path::absolute(&path).map_err(|err| Error::new(Kind::Usage, format!("find {}", path.display()), err))
        };
        let root = self.root.clone().or_else(|| from_env("PODRUN_ROOT"));
        let run = self.run_root.clone().or_else(|| from_env("PODRUN_RUN_ROOT"));
        let roots = match (root, run) {
            (Some(root), Some(run)) => Roots { root, run },
            (root, run) => {
                let defaults = rootless::default_roots()?;
                Roots { root: root.unwrap_or(defaults.root), run: run.unwrap_or(defaults.run) }
            }
        };
        Ok(Roots { root: absolute(roots.root)?, run: absolute(roots.run)? })
    }

    pub(super) fn namespace(&self) -> Result<NamespaceName> {
        NamespaceName::parse(&self.namespace)
    }

    pub(super) fn pod(&self, name: &str) -> Result<Pod> {
        find::pod(&self.readable()?, &self.namespace()?, name)
    }

    /// For verbs that look for pods: one that may not look must not say that there are none.
    pub(super) fn readable(&self) -> Result<Roots> {
        let roots = self.roots_from_outside()?;
        match access(&roots.pods(), AccessFlags::R_OK | AccessFlags::X_OK) {
            Err(Errno::EACCES) => Err(Errno::EACCES)
                .doing(|| format!("read {}", roots.pods().display()))
                .map_err(|err: Error| err.hint("pods belong to root: run podrun with sudo")),
            // Nobody to look for, and nobody to be joined for it.
            _ if rootless::is_idle(&roots) => Ok(roots),
            _ => self.roots(),
        }
    }
}

impl Global {
    /// `POD`, `POD/NAME`, kubectl's `pod/POD` and `pod/POD/NAME`, and `-c NAME` as often as wanted. `pod/NAME` is the container
    /// NAME where a pod is called `pod`.
    pub(super) fn split(&self, target: &str, containers: &[String]) -> Result<(String, Vec<ContainerName>)> {
        let kubectl = target.strip_prefix(KUBECTL);
        let is_name = |rest: &&str| rest.contains('/') || self.pod("pod").is_err();
        split(kubectl.filter(is_name).unwrap_or(target), containers)
    }

    /// Exactly one container, by either way of naming it.
    pub(super) fn one(&self, target: &str, container: Option<&String>) -> Result<(String, ContainerName)> {
        let (pod, names) = self.split(target, container.map(std::slice::from_ref).unwrap_or_default())?;
        only(target, pod, names)
    }
}

fn only(target: &str, pod: String, names: Vec<ContainerName>) -> Result<(String, ContainerName)> {
    match <[ContainerName; 1]>::try_from(names) {
        Ok([name]) => Ok((pod, name)),
        Err(names) if names.is_empty() => {
            Err(Error::new(Kind::Usage, format!("find the container of {pod}"), "which one?")
                .hint(format!("{pod}/NAME, or {pod} -c NAME")))
        }
        Err(_) => Err(Error::new(Kind::Usage, format!("read {target:?}"), "the container is named twice")),
    }
}

fn split(target: &str, containers: &[String]) -> Result<(String, Vec<ContainerName>)> {
    let (pod, own) = match target.split_once('/') {
        Some((pod, name)) => (pod, Some(name)),
        None => (target, None),
    };
    let names = own.into_iter().chain(containers.iter().map(String::as_str));
    Ok((pod.to_owned(), names.map(ContainerName::parse).collect::<Result<_>>()?))
}

/// `KEY=VALUE`.
pub(super) fn pair(what: &str, text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Error::new(Kind::Usage, format!("read the {what} {text:?}"), "not KEY=VALUE")),
    }
}

/// Variables as `-e` gives them: `KEY` alone means as it is here (docker), and one that is not set here is not set there either.
pub(super) fn variables(asked: &[String]) -> Result<Vec<String>> {
    let mut set = Vec::with_capacity(asked.len());
    for variable in asked {
        match variable.split_once('=') {
            None if !variable.is_empty() => {
                set.extend(std::env::var(variable).ok().map(|value| format!("{variable}={value}")));
            }
            _ => pair("variable", variable).map(|_| set.push(variable.clone()))?,
        }
    }
    Ok(set)
}

/// Seconds as people write them: `10`, `1.5`, `500ms`, `10s`, `5m`.
pub(super) fn duration(text: &str) -> Result<std::time::Duration> {
    let fail = || {
        Error::new(Kind::Usage, format!("read the time {text:?}"), "not a time").hint("10, 1.5, 500ms, 10s, 5m or 1h")
    };
    let digits = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(fail()),
    };
    let seconds: f64 = number.parse().map_err(|_| fail())?;
    std::time::Duration::try_from_secs_f64(seconds * factor).map_err(|_| fail())
}

/// `10k`, `16Mi`, `1g`: powers of 1024, as docker has them.
pub(super) fn bytes(text: &str) -> Result<u64> {
    let fail = || {
        Error::new(Kind::Usage, format!("read the size {text:?}"), "not a size").hint("a number with k, m or g: 10m")
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return Err(fail()),
    };
    let number: u64 = number.parse().map_err(|_| fail())?;
    number.checked_mul(1 << shift).ok_or_else(fail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_and_sizes_are_read_as_people_write_them() {
        for (text, millis) in [("10", 10_000), ("1.5", 1500), ("500ms", 500), ("2m", 120_000), ("0", 0)] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for (text, count) in [("10", 10), ("10k", 10240), ("16Mi", 16 << 20), ("1g", 1 << 30), ("2KB", 2048)] {
            assert_eq!(bytes(text).unwrap(), count, "{text}");
        }
        for bad in ["", "-1", "x", "1x", "1..2", "99999999999999999999"] {
            assert!(duration(bad).is_err() || bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_container_is_named_in_one_of_two_ways() {
        let name = |text: &str| ContainerName::parse(text).unwrap();
        let one = |target: &str, container: Option<&String>| {
            let (pod, names) = split(target, container.map(std::slice::from_ref).unwrap_or_default())?;
            only(target, pod, names)
        };
        assert_eq!(one("web/a", None).unwrap(), ("web".into(), name("a")));
        assert_eq!(one("web", Some(&"a".into())).unwrap(), ("web".into(), name("a")));
        assert!(one("web", None).is_err() && one("web/a", Some(&"b".into())).is_err());
    }

    #[test]
    fn an_unknown_flag_is_not_taken_for_the_program() {
        let words = |text: &str| {
            let argv = format!("podrun {text}").split(' ').map(str::to_owned).collect();
            Words::split(argv).unwrap().after(1, &["run"], "")
        };
        let command = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(refuse_flag(&words("run web/a --rmm -- ls"), &command("--rmm -- ls")).is_err());
        assert!(refuse_flag(&words("run web/a -- --odd x"), &command("--odd x")).is_ok());
        assert!(refuse_flag(&words("run web/a ls -l"), &command("ls -l")).is_ok());
        assert!(refuse_flag(&words("run web/a"), &[]).is_ok());
    }

    #[test]
    fn flags_before_the_verb_are_taken_with_their_values() {
        let argv = ["podrun", "--root", "/x", "--run-root=/y", "run", "--root"].map(str::to_owned).to_vec();
        let words = Words::split(argv).unwrap();
        assert_eq!(words.rest, ["run", "--root"]);
        assert!(Words::split(vec!["podrun".to_owned(), "--root".to_owned()]).is_err());
    }
}
