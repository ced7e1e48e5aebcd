//! start, kill, delete, pause, resume, update.

#![forbid(unsafe_code)]

use super::Call;
use crate::error::{Doing, Error, Kind, Result};
use crate::pod::oci::record::Container;
use crate::pod::oci::verbs::{self, Manner, Reach};
use crate::signal;
use clap::Args;
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};
use std::io::Read;

#[derive(Debug, Args)]
pub(super) struct One {
    pub(super) id: String,
}

impl Call {
    fn container(&self) -> Result<Container> {
        Container::find(&self.root()?, &self.parse::<One>()?.id)
    }
}

pub(super) fn start(call: &Call) -> Result<i32> {
    verbs::start(&call.container()?).map(|()| 0)
}

#[derive(Debug, Args)]
struct Kill {
    /// All processes of the container
    #[arg(short, long)]
    all: bool,
    id: String,
    /// TERM by default
    #[arg(default_value = "TERM", allow_hyphen_values = true)]
    signal: String,
}

pub(super) fn kill(call: &Call) -> Result<i32> {
    let asked: Kill = call.parse()?;
    // kill(2): 0 is no signal, and asks only whether there is somebody to send one to.
    let signal = match asked.signal.as_str() {
        "0" => 0,
        text => signal::parse(text.trim_start_matches('-'))?,
    };
    let reach = if asked.all { Reach::All } else { Reach::First };
    verbs::kill(&Container::find(&call.root()?, &asked.id)?, signal, reach)?;
    Ok(0)
}

#[derive(Debug, Args)]
struct Delete {
    /// Kill it first; one that is not there is fine
    #[arg(short, long)]
    force: bool,
    id: String,
}

pub(super) fn delete(call: &Call) -> Result<i32> {
    let asked: Delete = call.parse()?;
    let manner = if asked.force { Manner::Force } else { Manner::Stopped };
    call.warn(&verbs::delete(&call.root()?, &asked.id, manner)?);
    Ok(0)
}

pub(super) fn pause(call: &Call) -> Result<i32> {
    verbs::pause(&call.container()?).map(|()| 0)
}

pub(super) fn resume(call: &Call) -> Result<i32> {
    verbs::resume(&call.container()?).map(|()| 0)
}

#[derive(Debug, Args)]
struct Update {
    id: String,
    /// The limits as JSON, as linux.resources has them; `-` is stdin
    #[arg(short, long, value_name = "FILE")]
    resources: Option<String>,
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    blkio_weight: Option<String>,
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    cpu_period: Option<String>,
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    cpu_quota: Option<String>,
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    cpu_burst: Option<String>,
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    cpu_share: Option<String>,
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    cpu_rt_period: Option<String>,
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<String>,
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    cpu_idle: Option<String>,
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Bytes, or with k, m, g; -1 lifts the limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory: Option<String>,
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Memory and swap together
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<String>,
    /// Taken for compatibility: no kernel that podrun runs on limits it by itself
    #[arg(long, value_name = "SIZE", hide = true)]
    kernel_memory: Option<String>,
    #[arg(long, value_name = "SIZE", hide = true)]
    kernel_memory_tcp: Option<String>,
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
}

pub(super) fn update(call: &Call) -> Result<i32> {
    let asked: Update = call.parse()?;
    let container = Container::find(&call.root()?, &asked.id)?;
    if asked.kernel_memory.is_some() || asked.kernel_memory_tcp.is_some() {
        call.warn(&["--kernel-memory and --kernel-memory-tcp are without effect".to_owned()]);
    }
    verbs::update(&container, &limits(&asked)?)?;
    Ok(0)
}

fn limits(asked: &Update) -> Result<LinuxResources> {
    for (flag, value) in [("--l3-cache-schema", &asked.l3_cache_schema), ("--mem-bw-schema", &asked.mem_bw_schema)] {
        if value.is_some() {
            return Err(Error::new(
                Kind::Unsupported,
                format!("read {flag}"),
                "no resctrl group is kept of a container",
            ));
        }
    }
    let mut document = match asked.resources.as_deref() {
        Some("-") => read(std::io::stdin(), "stdin")?,
        Some(path) => read(std::fs::File::open(path).doing(|| format!("read {path}"))?, path)?,
        None => of_flags(asked)?,
    };
    crate::oci::respell_limits(&mut document);
    serde_path_to_error::deserialize(document)
        .map_err(|err| Error::new(Kind::Invalid, format!("read linux.resources.{}", err.path()), err.inner()))
}

fn read(source: impl Read, name: &str) -> Result<Value> {
    let mut text = String::new();
    source.take(1 << 20).read_to_string(&mut text).doing(|| format!("read {name}"))?;
    serde_json::from_str(&text).map_err(|err| Error::new(Kind::Invalid, format!("read {name}"), err))
}

/// The flags in the words of linux.resources.
fn of_flags(asked: &Update) -> Result<Value> {
    let mut document = json!({});
    let numbers = [
        ("--blkio-weight", &asked.blkio_weight, "/blockIO/weight"),
        ("--cpu-period", &asked.cpu_period, "/cpu/period"),
        ("--cpu-quota", &asked.cpu_quota, "/cpu/quota"),
        ("--cpu-burst", &asked.cpu_burst, "/cpu/burst"),
        ("--cpu-share", &asked.cpu_share, "/cpu/shares"),
        ("--cpu-rt-period", &asked.cpu_rt_period, "/cpu/realtimePeriod"),
        ("--cpu-rt-runtime", &asked.cpu_rt_runtime, "/cpu/realtimeRuntime"),
        ("--cpu-idle", &asked.cpu_idle, "/cpu/idle"),
        ("--memory", &asked.memory, "/memory/limit"),
        ("--memory-reservation", &asked.memory_reservation, "/memory/reservation"),
        ("--memory-swap", &asked.memory_swap, "/memory/swap"),
        ("--pids-limit", &asked.pids_limit, "/pids/limit"),
    ];
    for (flag, value, place) in numbers {
        if let Some(text) = value {
            let sized = place.starts_with("/memory");
            put(&mut document, place, json!(number(flag, text, sized)?));
        }
    }
    for (value, place) in [(&asked.cpuset_cpus, "/cpu/cpus"), (&asked.cpuset_mems, "/cpu/mems")] {
        if let Some(text) = value {
            put(&mut document, place, json!(text));
        }
    }
    Ok(document)
}

fn put(document: &mut Value, place: &str, value: Value) {
    let mut parts = place.trim_start_matches('/').split('/');
    if let (Some(group), Some(key)) = (parts.next(), parts.next()) {
        document[group][key] = value;
    }
}

fn number(flag: &str, text: &str, sized: bool) -> Result<i64> {
    let fail = |cause| Error::new(Kind::Usage, format!("read {flag} {text:?}"), cause);
    let lower = text.to_ascii_lowercase();
    let (digits, unit) = match lower.trim_end_matches('b').char_indices().last() {
        Some((at, 'k')) if sized => (&lower[..at], 1 << 10),
        Some((at, 'm')) if sized => (&lower[..at], 1 << 20),
        Some((at, 'g')) if sized => (&lower[..at], 1 << 30),
        Some((at, 't')) if sized => (&lower[..at], 1 << 40),
        _ if sized => (lower.trim_end_matches('b'), 1),
        _ => (lower.as_str(), 1),
    };
    let number: i64 = digits.parse().map_err(|_| fail("not a number"))?;
    number.checked_mul(unit).ok_or_else(|| fail("too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_sizes_are_read_to_the_last_digit() {
        assert_eq!(number("--memory", "64m", true).unwrap(), 64 << 20);
        assert_eq!(number("--memory", "1GB", true).unwrap(), 1 << 30);
        assert_eq!(number("--memory", "-1", true).unwrap(), -1);
        assert_eq!(number("--memory", "4096", true).unwrap(), 4096);
        assert_eq!(number("--pids-limit", "10", false).unwrap(), 10);
        for (text, sized) in
            [("", true), ("m", true), ("1x", true), ("1m", false), ("9999999999999t", true), ("1.5g", true)]
        {
            assert!(number("--x", text, sized).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_flag_is_the_property_of_its_name() {
        let mut document = json!({});
        put(&mut document, "/cpu/quota", json!(5));
        put(&mut document, "/cpu/period", json!(6));
        put(&mut document, "/memory/limit", json!(7));
        assert_eq!(document, json!({"cpu": {"quota": 5, "period": 6}, "memory": {"limit": 7}}));
        let limits: LinuxResources = serde_json::from_value(document).unwrap();
        assert_eq!(limits.memory().as_ref().unwrap().limit(), Some(7));
    }
}
