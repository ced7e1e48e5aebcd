//! Verbs about the host and podrun itself: netns, prune, doctor, info, upgrade, version.

#![forbid(unsafe_code)]

use super::args::{Global, Words, refuse_flag};
use super::table;
use crate::caps;
use crate::error::{Error, Kind, Result};
use crate::net::Prune;
use crate::pod::{create, prune as pruning, upgrade as upgrading};
use crate::store;
use clap::Args;
use serde_json::json;

#[derive(Debug, Args)]
struct Netns {
    #[command(flatten)]
    global: Global,
    pod: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(super) fn netns(words: &Words) -> Result<i32> {
    let asked: Netns = words.parse("  podrun netns web -- ip address\n  podrun netns web -- tcpdump -ni eth0")?;
    refuse_flag(words, &asked.command)?;
    let pod = asked.global.pod(&asked.pod)?;
    upgrading::enter_network(&pod)?;
    Err(upgrading::become_program(&asked.command))
}

#[derive(Debug, Args)]
struct PruneVerb {
    #[command(flatten)]
    global: Global,
    /// Do it; without, only say what would go
    #[arg(short = 'f', long)]
    force: bool,
    /// Only say what would go
    #[arg(long, conflicts_with = "force")]
    dry_run: bool,
    /// json
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
}

pub(super) fn prune(words: &Words) -> Result<i32> {
    let asked: PruneVerb = words.parse("  podrun prune --dry-run\n  podrun prune --force")?;
    let how = if asked.force { Prune::Now } else { Prune::DryRun };
    let said = pruning::prune(&asked.global.readable()?, how, asked.force)?;
    match asked.output.as_deref() {
        Some("json") => table::json(&json!({"removed": asked.force, "items": said})),
        _ => {
            for one in &said {
                table::line(&format!("{} {one}", if asked.force { "removed" } else { "would remove" }));
            }
            if !asked.force && !said.is_empty() {
                table::line("nothing was removed; `podrun prune --force` does it");
            }
        }
    }
    Ok(0)
}

#[derive(Debug, Args)]
struct Doctor {
    #[command(flatten)]
    global: Global,
    /// json
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
}

/// 1 where something is wrong.
pub(super) fn doctor(words: &Words) -> Result<i32> {
    let asked: Doctor = words.parse("  podrun doctor\n  podrun doctor -o json")?;
    let findings = pruning::doctor(&asked.global.roots_from_outside()?);
    let wrong = findings.iter().any(|finding| finding.state == "wrong");
    match asked.output.as_deref() {
        Some("json") => table::json(&json!(findings)),
        _ => {
            for finding in &findings {
                table::line(&format!("{:<6} {}: {}", finding.state, finding.what, finding.said));
                if let Some(cure) = &finding.cure {
                    table::line(&format!("       mend it: {cure}"));
                }
            }
        }
    }
    Ok(i32::from(wrong))
}

#[derive(Debug, Args)]
struct Info {
    #[command(flatten)]
    global: Global,
    /// json
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
}

pub(super) fn info(words: &Words) -> Result<i32> {
    let asked: Info = words.parse("  podrun info\n  podrun info -o json")?;
    let roots = asked.global.roots()?;
    let host = create::probe()?;
    let pods = store::pods(&roots);
    let uname = nix::sys::utsname::uname().map_err(|err| Error::new(Kind::Kernel, "ask the kernel's version", err))?;
    let value = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "kernel": uname.release().to_string_lossy(),
        "architecture": std::env::consts::ARCH,
        "root": roots.root,
        "runRoot": roots.run,
        "pods": pods.len(),
        "cgroups": format!("{:?}", host.cgroups.version()).to_lowercase(),
        "bridge": roots.bridge(),
        "firewallTable": roots.table(),
        "capabilities": caps::names(host.capabilities).iter().map(ToString::to_string).collect::<Vec<_>>(),
        "logs": roots.logs(),
    });
    match asked.output.as_deref() {
        Some("json") => table::json(&value),
        _ => table::print(&crate::pod::view::yaml(&value)),
    }
    Ok(0)
}

#[derive(Debug, Args)]
struct Upgrade {
    #[command(flatten)]
    global: Global,
    pod: Vec<String>,
    /// Every pod, in every namespace
    #[arg(long)]
    all: bool,
}

pub(super) fn upgrade(words: &Words) -> Result<i32> {
    let asked: Upgrade = words.parse("  podrun upgrade web\n  podrun upgrade --all")?;
    let mut names = asked.pod.clone();
    if asked.all {
        names.extend(store::pods(&asked.global.roots()?).into_iter().map(|(id, ..)| id.to_string()));
    } else if names.is_empty() {
        return Err(Error::new(Kind::Usage, "read the command line", "which pod?").hint("podrun upgrade POD, or --all"));
    }
    for name in names {
        let pod = asked.global.pod(&name)?;
        let done = upgrading::upgrade(&pod)?;
        let how = match done.to.pid == done.from.pid {
            true => format!("monitor {} goes on as the new program", done.to.pid),
            false => format!("monitor {} follows {}", done.to.pid, done.from.pid),
        };
        table::line(&format!("pod/{} upgraded: {how}", pod.record.name));
    }
    Ok(0)
}

#[derive(Debug, Args)]
struct Version {
    /// json
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
}

pub(super) fn version(words: &Words) -> Result<i32> {
    // Asked often by scripts: no parser for the plain form.
    if words.rest.is_empty() {
        table::line(concat!("podrun ", env!("CARGO_PKG_VERSION")));
        return Ok(0);
    }
    let asked: Version = words.parse("  podrun version\n  podrun version -o json")?;
    match asked.output.as_deref() {
        Some("json") => table::json(
            &json!({"version": env!("CARGO_PKG_VERSION"), "records": store::VERSION, "ociVersion": "1.3.0"}),
        ),
        _ => table::line(concat!("podrun ", env!("CARGO_PKG_VERSION"))),
    }
    Ok(0)
}
