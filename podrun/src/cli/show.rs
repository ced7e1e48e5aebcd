//! Verbs that only look: ps, get, inspect, top.

#![forbid(unsafe_code)]

use super::args::{Global, Words};
use super::table::{self, age};
use crate::error::{Error, Kind, Result};
use crate::id::NamespaceName;
use crate::pod::find::Pod;
use crate::pod::view;
use crate::record::Stamp;
use crate::spec::Network;
use crate::store::{self, ContainerRecord, State};
use clap::Args;
use serde_json::{Value, json};

/// Whether those of other namespaces are shown, too, and which is whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    OneNamespace,
    AllNamespaces,
}

/// All pods of a namespace that can be read; those that cannot be are said, and do not stop the others.
fn pods(global: &Global, of: Of) -> Result<Vec<Pod>> {
    let roots = global.readable()?;
    let namespace: NamespaceName = global.namespace()?;
    let mut pods = Vec::new();
    for (id, dir, record) in store::pods(&roots) {
        match record {
            Ok(record) if of == Of::AllNamespaces || record.namespace == namespace => {
                pods.push(Pod { roots: roots.clone(), dir, record })
            }
            Ok(_) => {}
            // Being made or deleted at this moment.
            Err(err) if err.kind == Kind::NotFound => {}
            Err(err) => super::warn(&format!("pod {}: {err}", id.short())),
        }
    }
    Ok(pods)
}

fn since(text: &str) -> String {
    Stamp::parse(text.as_bytes()).map_or_else(|| "?".to_owned(), |stamp| age(stamp.elapsed()))
}

#[derive(Debug, Args)]
struct Ps {
    #[command(flatten)]
    global: Global,
    /// Only of this POD, or POD/NAME
    target: Option<String>,
    /// Those that have ended, too
    #[arg(short = 'a', long)]
    all: bool,
    /// wide, json or name
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
}

pub(super) fn ps(words: &Words) -> Result<i32> {
    let asked: Ps = words.parse("  podrun ps\n  podrun ps web/nginx\n  podrun ps -a -o json")?;
    let (pods, names) = match &asked.target {
        Some(target) => {
            let (pod, names) = asked.global.split(target, &[])?;
            let pod = asked.global.pod(&pod)?;
            names.iter().try_for_each(|name| pod.container(name).map(drop))?;
            (vec![pod], names)
        }
        None => (pods(&asked.global, Of::OneNamespace)?, Vec::new()),
    };
    let mut found: Vec<(String, ContainerRecord)> = Vec::new();
    for pod in &pods {
        // Whoever names one wants to see it.
        let shown = |record: &ContainerRecord| match names.is_empty() {
            true => asked.all || record.state != State::Exited,
            false => names.contains(&record.name),
        };
        found.extend(
            view::containers(pod).into_iter().filter(shown).map(|record| (pod.record.name.to_string(), record)),
        );
    }
    match asked.output.as_deref() {
        Some("json") => table::json(&Value::Array(found.iter().map(|(pod, record)| with_pod(pod, record)).collect())),
        Some("name") => found.iter().for_each(|(pod, record)| table::line(&format!("{pod}/{}", record.name))),
        None => table::table(&["CONTAINER", "STATE", "RESTARTS", "AGE", "COMMAND"], &rows(&found, false)),
        Some("wide") => {
            table::table(
                &["CONTAINER", "STATE", "RESTARTS", "AGE", "COMMAND", "PID", "ID", "LOG"],
                &rows(&found, true),
            );
        }
        Some(other) => return Err(no_format(other, "wide, json or name")),
    }
    Ok(0)
}

fn no_format(text: &str, known: &str) -> Error {
    Error::new(Kind::Usage, format!("read the output format {text:?}"), "there is none of this name").hint(known)
}

fn with_pod(pod: &str, record: &ContainerRecord) -> Value {
    let mut value = view::container(record);
    value["pod"] = json!(pod);
    value
}

fn rows(found: &[(String, ContainerRecord)], wide: bool) -> Vec<Vec<String>> {
    found
        .iter()
        .map(|(pod, record)| {
            let mut row = vec![
                format!("{pod}/{}", record.name),
                status(record),
                record.restarts.to_string(),
                since(record.started_at.as_deref().unwrap_or(&record.created_at)),
                short(&record.command.join(" "), if wide { 200 } else { 40 }),
            ];
            if wide {
                row.push(record.process.map_or_else(|| "-".to_owned(), |process| process.pid.to_string()));
                row.push(record.id.chars().take(12).collect());
                row.push(record.log_path.display().to_string());
            }
            row
        })
        .collect()
}

/// `Running`, `Exited (1, Error)`.
fn status(record: &ContainerRecord) -> String {
    match (&record.state, &record.ended) {
        (State::Exited, Some(ended)) => format!("Exited ({}, {:?})", ended.exit_code, ended.reason),
        (State::Restarting { .. }, Some(ended)) => format!("Restarting ({}, {:?})", ended.exit_code, ended.reason),
        (state, _) => state.word().to_owned(),
    }
}

fn short(text: &str, most: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match clean.chars().count() > most {
        true => clean.chars().take(most - 1).chain(['…']).collect(),
        false => clean,
    }
}

#[derive(Debug, Args)]
struct GetPods {
    #[command(flatten)]
    global: Global,
    /// Of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// json, yaml, wide or name
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
}

pub(super) fn get_pods(words: &Words) -> Result<i32> {
    let asked: GetPods = words.parse("  podrun get pods\n  podrun get pods -o wide")?;
    let of = if asked.all_namespaces { Of::AllNamespaces } else { Of::OneNamespace };
    let pods = pods(&asked.global, of)?;
    let list = || json!({"apiVersion": "v1", "kind": "PodList", "items": pods.iter().map(view::kubernetes).collect::<Vec<_>>()});
    match asked.output.as_deref() {
        Some("json") => table::json(&list()),
        Some("yaml") => table::print(&view::yaml(&list())),
        other => show_pods(&pods, of, other)?,
    }
    Ok(0)
}

/// Where a pod without an address is: one that was disconnected is no longer where it was made.
fn place(pod: &Pod) -> String {
    match &pod.record.network {
        network if !pod.attachments().is_empty() => network.to_string(),
        alone @ (Network::Host | Network::None | Network::Netns(_)) => alone.to_string(),
        _ => "none".to_owned(),
    }
}

fn show_pods(pods: &[Pod], of: Of, format: Option<&str>) -> Result<()> {
    let row = |pod: &Pod| {
        let all = view::containers(pod);
        let running = all.iter().filter(|record| record.state == State::Running).count();
        let restarts: u32 = all.iter().map(|record| record.restarts).sum();
        let addresses = view::addresses(pod);
        let address = if addresses.is_empty() { place(pod) } else { addresses.join(",") };
        let state = view::state(pod);
        (
            vec![
                pod.record.name.to_string(),
                format!("{running}/{}", all.len()),
                state.word().to_owned(),
                restarts.to_string(),
                since(&pod.record.created_at),
                address,
            ],
            vec![
                pod.record.id.short().to_owned(),
                pod.record.hostname.clone(),
                ports(pod),
                state.why().unwrap_or("-").to_owned(),
            ],
        )
    };
    // kubectl's first column, where pods of several are shown.
    let namespace = |pod: &Pod| (of == Of::AllNamespaces).then(|| pod.record.namespace.to_string());
    let mut head: Vec<&str> = (of == Of::AllNamespaces).then_some("NAMESPACE").into_iter().collect();
    head.extend(["NAME", "RUNNING", "STATE", "RESTARTS", "AGE", "IP"]);
    match format {
        None => {
            let rows: Vec<_> = pods.iter().map(|pod| namespace(pod).into_iter().chain(row(pod).0).collect()).collect();
            table::table(&head, &rows);
        }
        Some("wide") => {
            let whole = |pod: &Pod| {
                let (a, b) = row(pod);
                namespace(pod).into_iter().chain(a).chain(b).collect()
            };
            head.extend(["ID", "HOSTNAME", "PORTS", "WHY"]);
            table::table(&head, &pods.iter().map(whole).collect::<Vec<_>>());
        }
        Some("name") => pods.iter().for_each(|pod| table::line(&format!("pod/{}", pod.record.name))),
        Some(other) => return Err(no_format(other, "json, yaml, wide or name")),
    }
    Ok(())
}

/// `8080->80/tcp,…`
fn ports(pod: &Pod) -> String {
    let all: Vec<_> = crate::net::ports::of(&pod.roots, &pod.record.id).iter().map(ToString::to_string).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(",") }
}

#[derive(Debug, Args)]
struct GetPod {
    #[command(flatten)]
    global: Global,
    name: String,
    /// json, yaml, wide or name
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
}

pub(super) fn get_pod(words: &Words) -> Result<i32> {
    let asked: GetPod = words.parse("  podrun get pod web\n  podrun get pod web -o yaml")?;
    let pod = asked.global.pod(&asked.name)?;
    match asked.output.as_deref() {
        Some("json") => table::json(&view::kubernetes(&pod)),
        Some("yaml") => table::print(&view::yaml(&view::kubernetes(&pod))),
        other => show_pods(&[pod], Of::OneNamespace, other)?,
    }
    Ok(0)
}

#[derive(Debug, Args)]
struct Inspect {
    #[command(flatten)]
    global: Global,
    /// POD, or POD/NAME
    target: String,
    /// The container, where POD stands alone
    #[arg(short = 'c', long, value_name = "NAME")]
    container: Option<String>,
    /// json is all there is
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "json")]
    output: String,
}

pub(super) fn inspect(words: &Words) -> Result<i32> {
    let asked: Inspect = words.parse("  podrun inspect web\n  podrun inspect web/nginx")?;
    if asked.output != "json" {
        return Err(no_format(&asked.output, "json"));
    }
    let (pod, names) = asked.global.split(&asked.target, asked.container.as_slice())?;
    let pod = asked.global.pod(&pod)?;
    match &names[..] {
        [] => table::json(&view::inspect(&pod)),
        [name] => {
            pod.container(name)?;
            let all = view::containers(&pod);
            if let Some(record) = all.iter().find(|record| record.name == *name) {
                table::json(&with_pod(pod.record.name.as_str(), record));
            }
        }
        _ => return Err(Error::new(Kind::Usage, format!("read {:?}", asked.target), "the container is named twice")),
    }
    Ok(0)
}

#[derive(Debug, Args)]
struct Top {
    #[command(flatten)]
    global: Global,
    /// POD, or POD/NAME
    target: String,
    /// The container, where POD stands alone
    #[arg(short = 'c', long, value_name = "NAME")]
    container: Option<String>,
    /// json
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
}

/// The processes of each container, by its cgroup, so that what was exec'd or has double-forked is there too.
pub(super) fn top(words: &Words) -> Result<i32> {
    let asked: Top = words.parse("  podrun top web\n  podrun top web/nginx")?;
    let (pod, names) = asked.global.split(&asked.target, asked.container.as_slice())?;
    let pod = asked.global.pod(&pod)?;
    for name in &names {
        pod.container(name)?;
    }
    let processes = crate::pod::processes::of(&pod, &names)?;
    match asked.output.as_deref() {
        Some("json") => table::json(&json!(processes)),
        None => {
            let rows: Vec<Vec<String>> = processes
                .iter()
                .map(|one| {
                    vec![
                        one.container.clone(),
                        one.pid.to_string(),
                        one.inner_pid.to_string(),
                        one.uid.to_string(),
                        format!("{} K", one.rss_kib),
                        format!("{:.1}s", one.cpu_seconds),
                        short(&one.command, 60),
                    ]
                })
                .collect();
            table::table(&["CONTAINER", "PID", "INSIDE", "UID", "RSS", "CPU", "COMMAND"], &rows);
        }
        Some(other) => return Err(no_format(other, "json")),
    }
    Ok(0)
}
