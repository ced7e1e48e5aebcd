//! Verbs that change what runs: start, stop, restart, kill, pause, resume, wait, delete.

#![forbid(unsafe_code)]

use super::args::{Global, Words, duration};
use super::table;
use crate::error::{Error, Kind, Result};
use crate::id::ContainerName;
use crate::monitor::socket::{Reply, Request, Until};
use crate::pod::client;
use crate::pod::delete::{self, Manner};
use crate::pod::find::{self, KUBECTL, Pod};
use crate::pod::heal::{self, Served};
use crate::signal;
use crate::store::State;
use clap::Args;
use std::time::Duration;

#[derive(Debug, Args)]
struct Chosen {
    #[command(flatten)]
    global: Global,
    /// POD, or POD/NAME
    #[arg(required = true)]
    target: Vec<String>,
    /// Only these containers; all of the pod by default
    #[arg(short = 'c', long, value_name = "NAME")]
    container: Vec<String>,
}

/// A pod that is there, and which of its containers are meant.
type Found = Result<(Pod, Vec<ContainerName>)>;

impl Chosen {
    /// Each pod with its containers; none named means all.
    fn pods(&self) -> Result<Vec<Found>> {
        let named = self.target.iter().map(|target| self.global.split(target, &self.container));
        let named: Vec<_> = named.collect::<Result<_>>()?;
        Ok(named.into_iter().map(|(pod, names)| self.global.pod(&pod).map(|pod| (pod, names))).collect())
    }

    fn ask(&self, request: impl Fn(&Pod, Vec<ContainerName>) -> Request) -> Result<i32> {
        self.ask_and(request, |_, answer| answer)
    }

    /// Asks all pods before it waits for the first; `hear` is what becomes of an answer.
    fn ask_and(
        &self,
        request: impl Fn(&Pod, Vec<ContainerName>) -> Request,
        hear: impl Fn(&Pod, Result<()>) -> Result<()>,
    ) -> Result<i32> {
        let (mut asked, mut missing) = (Vec::new(), Vec::new());
        for found in self.pods()? {
            match found {
                Ok((pod, names)) => asked.push((pod.clone(), request(&pod, names))),
                Err(err) => missing.push(Err(err)),
            }
        }
        let answers = client::commands(&asked).into_iter().zip(&asked).map(|(answer, (pod, _))| hear(pod, answer));
        super::all(missing.into_iter().chain(answers))
    }
}

/// Says which of these, or of all, will not end by their stop signal: whoever waits wants to know what for.
fn warn_of_the_deaf(pod: &Pod, names: &[ContainerName], signal: Option<i32>, grace: Duration) {
    for record in pod.containers().iter().filter(|record| names.is_empty() || names.contains(&record.name)) {
        let signal = signal.unwrap_or(record.policy.stop_signal);
        let runs = record.state.lives() && record.state != State::Created;
        let first = record.process.filter(|first| runs && first.open().is_some());
        if !grace.is_zero() && first.is_some_and(|first| signal::is_lost_on(first.pid, signal)) {
            let (pod, name, signal) = (&pod.record.name, &record.name, signal::name(signal));
            super::warn(&format!("{pod}/{name} ignores {signal} (a PID 1 needs a handler): KILL in {grace:?}"));
        }
    }
}

/// All of them, in the order in which they were made.
fn or_all(pod: &Pod, names: Vec<ContainerName>) -> Vec<ContainerName> {
    match names.is_empty() {
        true => pod.containers().into_iter().map(|record| record.name).collect(),
        false => names,
    }
}

pub(super) fn start(words: &Words) -> Result<i32> {
    let asked: Chosen = words.parse("  podrun start web\n  podrun start web/nginx")?;
    super::all(asked.pods()?.into_iter().map(|found| {
        let (pod, names) = found?;
        let is_whole_pod = names.is_empty();
        for name in or_all(&pod, names) {
            let request = Request::Start { name: name.clone(), until: Until::Started };
            let started =
                client::converse(&pod, &request, &[], |reply, _| Ok(reply.is_last(Until::Started).then_some(())));
            match started {
                // "All" means those that do not run yet.
                Err(err) if is_whole_pod && err.kind == Kind::NotNow => continue,
                other => other?,
            }
            table::line(&format!("{}/{name} started", pod.record.name));
        }
        Ok(())
    }))
}

#[derive(Debug, Args)]
struct Stop {
    #[command(flatten)]
    chosen: Chosen,
    /// How long the containers have before KILL
    #[arg(short = 't', long, visible_alias = "timeout", default_value = "10", value_name = "SECONDS")]
    time: String,
    /// The signal to begin with; each container's own stop signal by default
    #[arg(short = 's', long, value_name = "SIGNAL")]
    signal: Option<String>,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn stop(words: &Words) -> Result<i32> {
    let asked: Stop = words.parse("  podrun stop web\n  podrun stop web -c nginx --time 3")?;
    let grace = duration(&asked.time)?;
    let signal = asked.signal.as_deref().map(signal::parse).transpose()?;
    let request = |pod: &Pod, names: Vec<ContainerName>| {
        warn_of_the_deaf(pod, &names, signal, grace);
        Request::Stop { names, grace_ms: millis(grace), signal }
    };
    asked.chosen.ask_and(request, |pod, answer| match answer {
        // Stopping what is dead is a success: the wish holds.
        Err(err) if matches!(heal::look(pod), Served::Lost) => {
            super::warn(&err.to_string());
            Ok(())
        }
        other => other,
    })
}

#[derive(Debug, Args)]
struct RestartVerb {
    #[command(flatten)]
    chosen: Chosen,
    /// How long the containers have before KILL
    #[arg(short = 't', long, visible_alias = "timeout", default_value = "10", value_name = "SECONDS")]
    time: String,
}

pub(super) fn restart(words: &Words) -> Result<i32> {
    let asked: RestartVerb = words.parse("  podrun restart web\n  podrun restart web/nginx --time 3")?;
    let grace = duration(&asked.time)?;
    asked.chosen.ask(|pod, names| {
        warn_of_the_deaf(pod, &names, None, grace);
        Request::Restart { names, grace_ms: millis(grace) }
    })
}

#[derive(Debug, Args)]
struct Kill {
    #[command(flatten)]
    chosen: Chosen,
    #[arg(short = 's', long, default_value = "KILL", value_name = "SIGNAL")]
    signal: String,
}

pub(super) fn kill(words: &Words) -> Result<i32> {
    let asked: Kill =
        dashed(words).parse("  podrun kill web/nginx\n  podrun kill web -c nginx -s HUP\n  podrun kill -9 web")?;
    let signal = signal::parse(&asked.signal)?;
    asked.chosen.ask(|_, names| Request::Kill { names, signal })
}

/// kill(1)'s `-9` and `-KILL`, as `--signal` has them: digits or capitals, which no flag of ours begins with.
fn dashed(words: &Words) -> Words {
    let mut words = words.clone();
    for word in words.rest.iter_mut().take_while(|word| *word != "--") {
        let rest = word
            .strip_prefix('-')
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit() || c.is_ascii_uppercase()));
        if let Some(signal) = rest {
            *word = format!("--signal={signal}");
        }
    }
    words
}

pub(super) fn pause(words: &Words) -> Result<i32> {
    let asked: Chosen = words.parse("  podrun pause web\n  podrun pause web/nginx")?;
    asked.ask(|_, names| Request::Pause { names })
}

pub(super) fn resume(words: &Words) -> Result<i32> {
    let asked: Chosen = words.parse("  podrun resume web\n  podrun resume web/nginx")?;
    asked.ask(|_, names| Request::Resume { names })
}

#[derive(Debug, Args)]
struct Wait {
    #[command(flatten)]
    global: Global,
    /// POD/NAME
    target: String,
    /// The container, where POD stands alone
    #[arg(short = 'c', long, value_name = "NAME")]
    container: Option<String>,
}

/// Prints the code and exits with it. Without a container: all of the pod, and the worst of their codes.
pub(super) fn wait(words: &Words) -> Result<i32> {
    let asked: Wait = words.parse("  podrun wait web/job")?;
    let named = asked.container.is_some() || asked.target.contains('/');
    let (pod, names) = match named {
        true => asked.global.one(&asked.target, asked.container.as_ref()).map(|(pod, name)| (pod, vec![name]))?,
        false => (asked.target.clone(), Vec::new()),
    };
    let pod = asked.global.pod(&pod)?;
    let names = or_all(&pod, names);
    if names.is_empty() {
        return Err(Error::new(Kind::NotFound, format!("wait for {}", pod.record.name), "the pod has no containers"));
    }
    let mut worst = 0;
    for name in names {
        let ended = client::converse(&pod, &Request::Wait { name }, &[], |reply, _| {
            Ok(match reply {
                Reply::Exited { ended, .. } => Some(ended),
                _ => None,
            })
        })?;
        table::line(&ended.exit_code.to_string());
        worst = worst.max(ended.exit_code);
    }
    Ok(worst)
}

#[derive(Debug, Args)]
struct DeletePod {
    #[command(flatten)]
    global: Global,
    /// The pods' names
    name: Vec<String>,
    /// All pods of the namespace
    #[arg(long)]
    all: bool,
    /// At once, without grace
    #[arg(short = 'f', long)]
    force: bool,
    /// How long the containers have before KILL
    #[arg(short = 't', long, visible_alias = "timeout", default_value = "10", value_name = "SECONDS")]
    time: String,
}

/// Deleting what is not there is a success: the wish holds. It is said, though, with the names that are near.
pub(super) fn delete_pod(words: &Words) -> Result<i32> {
    let asked: DeletePod = words.parse("  podrun delete pod web\n  podrun delete pod web db --force")?;
    let roots = asked.global.readable()?;
    let namespace = asked.global.namespace()?;
    let manner = if asked.force { Manner::ByForce } else { Manner::WithGrace(duration(&asked.time)?) };
    let mut names = asked.name.clone();
    if asked.all {
        let pods = crate::store::pods(&roots).into_iter();
        for (id, _, record) in pods {
            match record {
                Ok(record) if record.namespace == namespace => names.push(record.name.to_string()),
                Ok(_) => {}
                // Being made or deleted at this moment.
                Err(err) if err.kind == Kind::NotFound => {}
                Err(err) => super::warn(&format!("pod {}: {err}", id.short())),
            }
        }
    }
    if names.is_empty() && !asked.all {
        return Err(
            Error::new(Kind::Usage, "read the command line", "which pod?").hint("podrun delete pod NAME…, or --all")
        );
    }
    let names: Vec<&str> = names.iter().map(|name| name.strip_prefix(KUBECTL).unwrap_or(name)).collect();
    if let Manner::WithGrace(grace) = manner {
        let found: Vec<Pod> = names.iter().filter_map(|name| find::pod(&roots, &namespace, name).ok()).collect();
        found.iter().for_each(|pod| warn_of_the_deaf(pod, &[], None, grace));
        delete::stop_together(&found, grace);
    }
    super::all(names.into_iter().map(|name| match delete::delete(&roots, &namespace, name, manner) {
        Ok(warnings) => {
            warnings.iter().for_each(|warning| super::warn(warning));
            table::line(&format!("pod/{name} deleted"));
            Ok(())
        }
        Err(err) if err.kind == Kind::NotFound => {
            super::warn(&err.to_string());
            Ok(())
        }
        Err(err) if err.kind == Kind::Usage && name.contains('/') => {
            Err(err.hint(format!("a container is deleted by `podrun delete container {name}`")))
        }
        Err(err) => Err(err),
    }))
}

#[derive(Debug, Args)]
struct DeleteContainer {
    #[command(flatten)]
    global: Global,
    /// POD/NAME
    #[arg(required = true)]
    target: Vec<String>,
    /// The container, where POD stands alone
    #[arg(short = 'c', long, value_name = "NAME")]
    container: Option<String>,
    /// Though it runs
    #[arg(short = 'f', long)]
    force: bool,
    #[arg(short = 't', long, visible_alias = "timeout", default_value = "10", value_name = "SECONDS")]
    time: String,
}

pub(super) fn delete_container(words: &Words) -> Result<i32> {
    let asked: DeleteContainer = words.parse("  podrun delete container web/job\n  podrun rm web/job --force")?;
    let grace_ms = millis(duration(&asked.time)?);
    let named = asked.target.iter().map(|target| asked.global.one(target, asked.container.as_ref()));
    let (mut titles, mut requests, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for (pod, name) in named.collect::<Result<Vec<_>>>()? {
        match asked.global.pod(&pod) {
            Ok(found) => {
                titles.push(format!("{pod}/{name}"));
                requests.push((found, Request::Delete { name, force: asked.force, grace_ms }));
            }
            Err(err) => missing.push(Err(err)),
        }
    }
    let answers = client::commands(&requests).into_iter().zip(titles);
    let deleted = answers.map(|(answer, title)| answer.map(|()| table::line(&format!("{title} deleted"))));
    super::all(missing.into_iter().chain(deleted).map(|done| match done {
        Err(err) if err.kind == Kind::NotFound => {
            super::warn(&err.to_string());
            Ok(())
        }
        other => other,
    }))
}
