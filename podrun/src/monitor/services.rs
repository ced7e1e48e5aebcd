//! Services follow the pods: a container that starts or ends may be one of those who serve.
//!
//! Who serves is worked out from the records of all pods by a forked child, since that takes the networks' lock and `nft`, and
//! a monitor never waits. Changes while it works are seen to by another one after it.

#![forbid(unsafe_code)]

use super::{Alarm, Monitor, Token};
use crate::error::{Doing, Result};
use crate::net::link::Netlink;
use crate::net::service::{self, Service, Spread};
use crate::roots::Roots;
use crate::store::{self, PodDir, PodRecord, State};
use crate::sys::clone::{Clone, Exit, Reap, clone3, exit, waitid};
use crate::sys::fd;
use nix::sys::epoll::EpollFlags;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// What the monitor knows of services.
#[derive(Debug, Default)]
pub(super) struct Serving {
    /// Whether a container runs, as far as was told.
    runs: bool,
    child: Option<OwnedFd>,
    /// Something has changed since the child looked.
    again: bool,
}

/// How soon to try again what failed.
const AGAIN: Duration = Duration::from_secs(1);

impl Monitor {
    /// After each change of a container's record.
    pub(super) fn tell_services(&mut self) {
        let runs = self.containers.values().any(|container| container.record.state == State::Running);
        if std::mem::replace(&mut self.serving.runs, runs) != runs && service::is_in_use(&self.facts.roots()) {
            self.alarm(Duration::ZERO, Alarm::Services);
        }
    }

    pub(super) fn sync_services(&mut self) {
        if self.serving.child.is_some() {
            self.serving.again = true;
            return;
        }
        let roots = self.facts.roots();
        let child = clone3(&Clone::default(), || {
            let _ = fd::close_from(3);
            exit(i32::from(sync(&roots).is_err()))
        });
        let watched = child.doing(|| "follow the services".into()).and_then(|child| {
            self.watch(&child.pidfd, Token::Services, EpollFlags::EPOLLIN)?;
            self.serving.child = Some(child.pidfd);
            Ok(())
        });
        if watched.is_err() {
            self.alarm(AGAIN, Alarm::Services);
        }
    }

    pub(super) fn services_synced(&mut self) {
        let Some(child) = self.serving.child.take() else { return };
        self.unwatch(&child);
        let failed = !matches!(waitid(child.as_fd(), Reap::Now), Ok(Some(Exit::Code(0))));
        if failed {
            self.alarm(AGAIN, Alarm::Services);
        } else if std::mem::take(&mut self.serving.again) {
            self.sync_services();
        }
    }
}

/// Has the firewall spread each service to those who serve it now.
pub fn sync(roots: &Roots) -> Result<()> {
    service::sync(roots, |services| {
        let pods = candidates(roots);
        // Who serves may ask for the service, and be led to itself.
        let _ = turn_back(services, &pods);
        services.iter().flat_map(|service| spread(service, &pods)).collect()
    })
}

/// Where the firewall translates within the bridge (br_netfilter), such a packet leaves by the port that it came in by.
fn turn_back(services: &[Service], pods: &[Candidate]) -> Result<()> {
    let selected = pods.iter().filter(|pod| services.iter().any(|service| pod.is_of(service)));
    let links: Vec<&String> = selected.filter_map(|pod| pod.port.as_ref()).collect();
    if links.is_empty() {
        return Ok(());
    }
    let host = Netlink::here()?;
    links.into_iter().try_for_each(|link| host.set_hairpin(link))
}

/// A pod that could serve: it runs, has an address that this host reaches, and is not on its way out.
#[derive(Debug)]
pub struct Candidate {
    pub record: PodRecord,
    pub ip: Ipv4Addr,
    /// Its port of a bridge.
    port: Option<String>,
}

impl Candidate {
    pub fn is_of(&self, service: &Service) -> bool {
        service.selects(&self.record.namespace, &self.record.labels)
    }
}

pub fn candidates(roots: &Roots) -> Vec<Candidate> {
    let whole = |(_, dir, record): (_, PodDir, Result<PodRecord>)| Some((dir, record.ok()?));
    let all = store::pods(roots).into_iter().filter_map(whole);
    all.filter_map(|(dir, record)| candidate(&dir, record)).collect()
}

fn candidate(dir: &PodDir, record: PodRecord) -> Option<Candidate> {
    if record.labels.is_empty() || dir.leaving().exists() {
        return None;
    }
    let on = store::attachments(dir, &record).into_iter().find(|on| on.host_interface.is_some())?;
    let four = |address: IpAddr| if let IpAddr::V4(four) = address { Some(four) } else { None };
    let ip = on.addresses.iter().find_map(|one| four(one.address))?;
    let port = on.host_interface.filter(|_| on.bridge.is_some());
    // A record may outlive its process, when both that could have told of it died.
    let lives = |container: &store::ContainerRecord| {
        container.state == State::Running && container.process.is_some_and(|process| process.open().is_some())
    };
    store::containers(dir).iter().any(lives).then_some(Candidate { record, ip, port })
}

fn spread(service: &Service, pods: &[Candidate]) -> Vec<Spread> {
    let addresses: Vec<Ipv4Addr> = pods.iter().filter(|pod| pod.is_of(service)).map(|pod| pod.ip).collect();
    service.spread(&addresses)
}
