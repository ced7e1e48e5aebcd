//! `upgrade`: a running monitor is replaced by this very podrun, and no container notices.

#![forbid(unsafe_code)]

use super::client::{self, Client, Heard};
use super::find::Pod;
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::monitor::socket::{Reply, Request};
use crate::net::names;
use crate::sandbox;
use crate::store::{self, Keepers, ProcessRecord};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long the successor may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The monitors before and after.
#[derive(Debug, Clone, Copy)]
pub struct Upgraded {
    pub from: ProcessRecord,
    pub to: ProcessRecord,
}

/// The monitor, and the name servers of the pod's networks where they are of another podrun.
pub fn upgrade(pod: &Pod) -> Result<Upgraded> {
    let upgraded = upgrade_monitor(pod)?;
    let mut named = pod.attachments().into_iter().filter(|one| one.names.is_some());
    named.try_for_each(|one| names::replace(&pod.roots, &one.network))?;
    Ok(upgraded)
}

fn upgrade_monitor(pod: &Pod) -> Result<Upgraded> {
    let doing = || format!("upgrade {}", pod.record.title());
    let mut client = Client::connect(pod)?;
    store::format::understands(&pod.dir)?;
    let before: Keepers = store::read(&pod.dir.keepers())?;
    let program = sandbox::own_program()?;
    client.ask(&Request::Upgrade, &[program.as_fd()])?;
    fault::point("upgrade.asked");
    match client.hear()? {
        Heard::Reply(Reply::Failed(failure), _) => return Err(failure.into()),
        Heard::Reply(..) | Heard::Gone => {}
    }
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Ok(keepers) = store::read::<Keepers>(&pod.dir.keepers())
            && keepers.monitor != before.monitor
            && keepers.monitor.open().is_some()
        {
            return Ok(Upgraded { from: before.monitor, to: keepers.monitor });
        }
        // A pause that the monitor made starts nobody: the successor takes the monitor's place, as the same process, and
        // its exec hangs up on us.
        if !before.pause_restarts && client.has_reply().unwrap_or(false) && matches!(client.hear()?, Heard::Gone) {
            client::command(pod, &Request::Ping).map_err(|err| err.within(doing()))?;
            let after: Keepers = store::read(&pod.dir.keepers())?;
            return Ok(Upgraded { from: before.monitor, to: after.monitor });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(client::no_monitor(pod).within(doing())).map_err(|err| err.kind(Kind::Kernel))
}

/// The network namespace of the pod, for a program of the host's.
pub fn enter_network(pod: &Pod) -> Result<()> {
    let net = super::create::network_namespace(pod)?;
    crate::sys::ns::setns(net.as_fd(), libc::CLONE_NEWNET)
        .doing(|| format!("enter the network of {}", pod.record.title()))
}

/// Becomes a program of the host.
pub fn become_program(command: &[String]) -> Error {
    use std::os::unix::process::CommandExt;
    let Some((program, arguments)) = command.split_first() else {
        return Error::new(Kind::Usage, "run a program", "none was given");
    };
    let err = std::process::Command::new(program).args(arguments).exec();
    let kind = match err.raw_os_error() {
        Some(libc::ENOENT) => Kind::ProgramNotFound,
        _ => Kind::ProgramNotExecutable,
    };
    Error::new(kind, format!("execute {program}"), crate::error::plain(&err))
}
