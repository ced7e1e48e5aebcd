//! Ports of a pod whose interfaces change while it lives.

#![forbid(unsafe_code)]

use super::{
    Loopback, Port, Published, addresses_of, claims, close, forget_udp, hold, let_loopback_out, open, read, way_in,
};
use crate::error::Result;
use crate::id::PodId;
use crate::net::Attachment;
use crate::net::elements::{self, Change};
use crate::roots::Roots;

/// Has the ports of a pod lead by the interfaces that it has from now on, and closes those that no longer can; says which.
/// Nothing where they lead by one of these already.
pub fn follow(roots: &Roots, pod: &PodId, attachments: &[Attachment]) -> Result<Vec<Port>> {
    let Some(published) = read(roots, pod).filter(|published| published.bridge.is_some()) else {
        return Ok(Vec::new());
    };
    let way = way_in(roots, attachments);
    let addresses = way.map(addresses_of).unwrap_or_default();
    if way.is_some() && addresses == published.addresses {
        return Ok(Vec::new());
    }
    let (stay, lost): (Vec<Port>, Vec<Port>) =
        published.ports.iter().partition(|port| way.is_some() && port.leads_to(&addresses));
    close(roots, pod, &lost)?;
    if !stay.is_empty() {
        mislead(roots, &stay, &published)?;
        open(roots, pod, attachments)?;
    }
    shut_loopback(roots, &published)?;
    Ok(lost)
}

/// Ports stay taken, and lead nowhere any more.
fn mislead(roots: &Roots, ports: &[Port], published: &Published) -> Result<()> {
    let mappings: Vec<_> = ports.iter().flat_map(|port| port.mappings(&published.addresses)).collect();
    {
        let _held = hold(roots)?;
        elements::change(&roots.table(), Change::Remove, &mappings)?;
    }
    forget_udp(ports, &published.addresses)
}

/// The link that the ports led by lets 127.0.0.1 out for others, or not at all.
fn shut_loopback(roots: &Roots, former: &Published) -> Result<()> {
    let _held = hold(roots)?;
    let Some(bridge) = &former.bridge else { return Ok(()) };
    let owners = claims::all(roots)?.into_iter().filter(|claim| claim.port.is_on_loopback());
    let mut owners = owners.filter_map(|claim| read(roots, &claim.owner()?));
    match owners.any(|published| published.bridge.as_ref() == Some(bridge)) {
        true => Ok(()),
        false => let_loopback_out(bridge, Loopback::In),
    }
}
