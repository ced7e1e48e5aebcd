//! `update pod`: what may be changed of a pod that lives.

#![forbid(unsafe_code)]

use super::client;
use super::create;
use super::find::Pod;
use crate::cgroup::{self, Cgroup};
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::monitor::socket::Request;
use crate::net::Attachment;
use crate::net::definition::{self, Driver};
use crate::net::pasta;
use crate::net::ports::{self, Port};
use crate::spec::port::{HostPort, Wish};
use crate::store;
use std::net::IpAddr;
use std::os::fd::AsFd;

/// Ends the ports of `unpublish` and makes those of `publish`: all, or none. Connections by other ports notice nothing.
pub fn ports(pod: &Pod, publish: &[Wish], unpublish: &[Port]) -> Result<Vec<Port>> {
    let _lock = store::lock(&pod.dir)?;
    let id = &pod.record.id;
    let doing = || format!("publish ports of {}", pod.record.title());
    if !pod.dir.record().exists() {
        return Err(Error::new(Kind::NotFound, doing(), "it has just been deleted"));
    }
    let attachments = pod.attachments();
    if attachments.iter().any(|one| one.driver == Driver::Cni) && !attachments.iter().any(is_ours) {
        let cause = "its network is of CNI plugins, which make ports when the pod is made";
        return Err(Error::new(Kind::Invalid, doing(), cause).hint(format!(
            "`podrun network connect bridge {}` gives it a network where they can be changed",
            pod.record.name
        )));
    }
    if pasta::is_of(&pod.roots, id) {
        return by_pasta(pod, publish, unpublish);
    }
    let publish = &ports::at_binding(publish, host_binding(pod, &attachments)?);
    ports::close(&pod.roots, id, unpublish)?;
    fault::point("update.closed");
    if !unpublish.is_empty() && !publish.is_empty() {
        // What is given up may be what is wished for.
        tell(pod);
    }
    let made = ports::claim(&pod.roots, id, &wanting(pod, publish)).and_then(|made| {
        let claimed = fault::step("update.claimed").doing(doing);
        // Those that are there, too: one that was killed here may have left them closed.
        match claimed.and_then(|()| ports::open(&pod.roots, id, &attachments)) {
            Ok(()) => Ok(made),
            Err(err) => ports::close(&pod.roots, id, &made).and(Err(err)),
        }
    });
    if made.is_err() {
        // What was given up for it comes back.
        let former: Vec<Wish> = unpublish.iter().map(wish).collect();
        ports::claim(&pod.roots, id, &former)?;
        ports::open(&pod.roots, id, &attachments)?;
    }
    fault::point("update.opened");
    tell(pod);
    made
}

/// pasta learns of ports when it starts: it is another one from now on, and all connections through the former are over.
fn by_pasta(pod: &Pod, publish: &[Wish], unpublish: &[Port]) -> Result<Vec<Port>> {
    let (roots, id) = (&pod.roots, &pod.record.id);
    let netns = create::network_namespace(pod)?;
    let own = cgroup::Place::pod(&roots.cgroup(), id).own();
    let own = Cgroup::find(&pod.record.host.cgroups, &own)?;
    let tasks = own.tasks()?;
    let home = pasta::Home { unified: own.unified_fd(), tasks: Some(&tasks) };
    pasta::change(roots, id, netns.as_fd(), home, || {
        ports::close(roots, id, unpublish)?;
        fault::point("update.closed");
        let made = ports::claim(roots, id, &wanting(pod, publish)).and_then(|made| {
            let claimed = fault::step("update.claimed").doing(|| "publish the ports".into());
            match claimed.and_then(|()| pasta::refuse(&ports::of(roots, id))) {
                Ok(()) => Ok(made),
                Err(err) => ports::close(roots, id, &made).and(Err(err)),
            }
        });
        if made.is_err() {
            // What was given up for it comes back.
            ports::claim(roots, id, &unpublish.iter().map(wish).collect::<Vec<_>>())?;
        }
        made
    })
}

/// Those that the pod does not have yet, so that what was killed half-way can be asked for again.
fn wanting(pod: &Pod, wishes: &[Wish]) -> Vec<Wish> {
    let all = ports::of(&pod.roots, &pod.record.id);
    wishes.iter().filter(|one| !all.iter().any(|port| wish(port) == **one)).cloned().collect()
}

/// Where the network that ports are published on has those that name no address of the host's.
fn host_binding(pod: &Pod, attachments: &[Attachment]) -> Result<Option<IpAddr>> {
    for one in attachments.iter().filter(|one| is_ours(one)) {
        // Broken by now, it must not open to all what it kept to one address.
        let definition = definition::find(&pod.roots, &one.network)?;
        if definition.has_a_way_in() {
            return Ok(definition.host_binding);
        }
    }
    Ok(None)
}

/// Whether podrun itself leads ports there.
fn is_ours(attachment: &Attachment) -> bool {
    attachment.host_interface.is_some() && attachment.driver != Driver::Cni
}

/// For `::1`. A monitor of an earlier build knows no such request: with it that waits for `podrun upgrade`.
fn tell(pod: &Pod) {
    let _ = client::command(pod, &Request::Ports);
}

fn wish(port: &Port) -> Wish {
    let host = HostPort::OneOf(port.host..=port.host);
    Wish { address: port.address, host, port: port.port, protocol: port.protocol }
}

/// Those of the pod's ports that `text` names: `8080`, `8080/udp`, or as they were asked for, `127.0.0.1:8080:80`.
pub fn named(pod: &Pod, text: &str) -> Result<Vec<Port>> {
    // A port alone is the host's here, which is what one sees.
    let whole = text.contains(':');
    let wishes = match (whole, text.split_once('/')) {
        (true, _) => Wish::parse(text)?,
        (false, None) => Wish::parse(&format!("{text}:{text}"))?,
        (false, Some((port, protocol))) => Wish::parse(&format!("{port}:{port}/{protocol}"))?,
    };
    let all = ports::of(&pod.roots, &pod.record.id);
    let mut found = Vec::new();
    for wish in wishes {
        let meant = |port: &&Port| {
            let rest = !whole || (port.address == wish.address && port.port == wish.port);
            wish.may_be(port.protocol, port.host) && rest
        };
        let before = found.len();
        found.extend(all.iter().filter(meant));
        if found.len() == before {
            let doing = format!("find the published port {text}");
            let err = Error::new(Kind::NotFound, doing, format!("{} has no such port", pod.record.title()));
            return Err(err.hint(format!("`podrun port {}` lists them", pod.record.name)));
        }
    }
    Ok(found)
}
