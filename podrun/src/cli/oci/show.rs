//! state, list, ps, events.

#![forbid(unsafe_code)]

use super::Call;
use super::change::One;
use crate::cli::args::duration;
use crate::cli::table;
use crate::error::{Doing, Error, Kind, Result};
use crate::pod::oci::events::{self, Event};
use crate::pod::oci::record::Container;
use crate::pod::oci::verbs;
use clap::Args;
use serde_json::{Value, json};

pub(super) fn state(call: &Call) -> Result<i32> {
    let container = Container::find(&call.root()?, &call.parse::<One>()?.id)?;
    table::print(&format!("{:#}\n", container.shown()));
    Ok(0)
}

#[derive(Debug, Args)]
struct List {
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// table or json
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
}

pub(super) fn list(call: &Call) -> Result<i32> {
    let asked: List = call.parse()?;
    let all = Container::all(&call.root()?)?;
    if asked.quiet {
        table::print(&all.iter().map(|one| format!("{}\n", one.record.id)).collect::<String>());
    } else if asked.format == "json" {
        let shown: Vec<Value> = all.iter().map(Container::shown).collect();
        table::print(&format!("{}\n", json!(shown)));
    } else {
        let rows: Vec<Vec<String>> = all.iter().map(row).collect();
        table::table(&["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"], &rows);
    }
    Ok(0)
}

fn row(one: &Container) -> Vec<String> {
    let status = one.status();
    vec![
        one.record.id.to_string(),
        one.record.pid(status).to_string(),
        status.word().to_owned(),
        one.record.bundle.display().to_string(),
        one.record.created.clone(),
        one.record.owner(),
    ]
}

#[derive(Debug, Args)]
struct Ps {
    /// table or json
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
    id: String,
    /// What ps(1) is called with; -ef by default
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

pub(super) fn ps(call: &Call) -> Result<i32> {
    let asked: Ps = call.parse()?;
    let pids = verbs::processes(&Container::find(&call.root()?, &asked.id)?)?;
    if asked.format == "json" {
        table::print(&format!("{}\n", json!(pids)));
        return Ok(0);
    }
    let options = if asked.options.is_empty() { vec!["-ef".to_owned()] } else { asked.options };
    let listed = std::process::Command::new("ps").args(&options).output().doing(|| "run ps".into())?;
    let text = String::from_utf8_lossy(&listed.stdout);
    let mut lines = text.lines();
    let heading = lines.next().unwrap_or_default();
    let Some(column) = heading.split_whitespace().position(|word| word == "PID") else {
        return Err(Error::new(Kind::Usage, format!("read what ps {} printed", options.join(" ")), "no PID column"));
    };
    let ours = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse::<i32>().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    table::print(&format!("{heading}\n{}", lines.filter(ours).map(|line| format!("{line}\n")).collect::<String>()));
    Ok(0)
}

#[derive(Debug, Args)]
struct Events {
    /// Once
    #[arg(long)]
    stats: bool,
    #[arg(long, default_value = "5s", value_name = "TIME")]
    interval: String,
    id: String,
}

pub(super) fn show_events(call: &Call) -> Result<i32> {
    let asked: Events = call.parse()?;
    let container = Container::find(&call.root()?, &asked.id)?;
    let interval = duration(&asked.interval)?;
    if interval.is_zero() {
        return Err(Error::new(Kind::Usage, "read --interval", "not a time above zero"));
    }
    let tell = |event: &Event| table::print(&format!("{}\n", serde_json::to_string(event).unwrap_or_default()));
    match asked.stats {
        true => tell(&events::stats(&container)?),
        false => events::watch(&container, interval, tell)?,
    }
    Ok(0)
}
