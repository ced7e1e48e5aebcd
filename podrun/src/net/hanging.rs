//! Interfaces that hang on a link of the host's: macvlan and ipvlan, without an end on the host.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::net::Attachment;
use crate::net::bridge;
use crate::net::cidr::{Cidr, Mac};
use crate::net::definition::{Definition, Driver};
use crate::net::ipam::{self, Ends, Lease, Pool, Range, Taken, Wanted};
use crate::net::link::{Family, Hanging, Ipv6, LEAST_OF_IPV6, Link, Mode, Netlink};
use crate::net::lock::{Hold, lock};
use crate::net::names::Names;
use crate::net::vlan;
use crate::net::wire::{GRACE, Plan, Pod, addresses, exhausted, families, lingers, no_address};
use crate::roots::Roots;
use std::time::{Duration, Instant};

/// An interface that hangs on a link of the host's.
pub(super) fn attach(
    roots: &Roots,
    pod: &Pod<'_>,
    name: &str,
    definition: &Definition,
    plan: &Plan<'_>,
) -> Result<(Attachment, Vec<String>)> {
    let host = Netlink::here()?;
    let parent = parent(&host, definition)?;
    if definition.driver == Driver::Ipvlan && plan.wish.mac.is_some() {
        let cause = format!("an ipvlan interface has that of {}", parent.name);
        return Err(Error::new(Kind::Invalid, "choose the hardware address", cause));
    }
    let own = host.addresses()?.into_iter().map(|(_, own)| own.address).collect();
    let pool = pool_on_a_link(roots, name, definition).beside(own);
    let asked = addresses(plan.wish, &pool)?;
    let (interface, names) = (plan.interface.as_str(), Names::default());
    let wanted = Wanted {
        pod: pod.id,
        title: pod.title,
        link: None,
        interface,
        names: &names,
        addresses: &asked,
        mac: plan.wish.mac.map(Mac),
    };
    let mut held = lock(&bridge::lock_file(roots), Hold::Shared)?;
    let mut taken = pool.take(&wanted)?;
    if matches!(taken, Taken::Full { .. }) {
        drop(held);
        held = lock(&bridge::lock_file(roots), Hold::Exclusive)?;
        pool.reclaim()?;
        taken = pool.take(&wanted)?;
    }
    let lease = match taken {
        Taken::Lease(lease) => lease,
        Taken::Full { range, leases } => return Err(exhausted(name, range, leases)),
        Taken::Lingers { address } => return Err(lingers(address)),
    };
    let until = Instant::now() + GRACE;
    let made = loop {
        let below = match definition.vlan {
            Some(id) => vlan::ensure(roots, &host, &parent, id),
            None => Ok(parent.clone()),
        };
        let made = below.and_then(|below| hang(&host, &below, definition, &pool, &lease, pod, plan));
        // The last pod's interface goes some milliseconds after the pod, and its hardware address with it.
        if !made.as_ref().is_err_and(is_in_use) || Instant::now() > until {
            break made;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    if made.is_err() {
        let _ = ipam::leave(roots, name, std::slice::from_ref(pod.id));
    }
    drop(held);
    let made = made.map_err(|err| say_whose(err, definition))?;
    Ok((Attachment { network: name.to_owned(), ..made }, Vec::new()))
}

/// What the kernel answers when the parent has another interface with this hardware address (`macvlan_open`).
fn is_in_use(err: &Error) -> bool {
    use nix::errno::Errno;
    [Errno::EADDRINUSE, Errno::EBUSY].iter().any(|errno| err.cause() == errno.desc())
}

fn pool_on_a_link(roots: &Roots, name: &str, definition: &Definition) -> Pool {
    let first = |subnet: Cidr| subnet.nth(*subnet.hosts().start());
    // A network that somebody described has a router at its first address, as with a bridge; one that is only an
    // address has what it was told.
    let guessed = !name.contains('.');
    let ranges = definition.wishes().map(|wish| Range {
        subnet: wish.subnet.network(),
        gateway: wish.gateway.or(guessed.then(|| first(wish.subnet))).filter(|_| !definition.internal),
        only: wish.range,
    });
    Pool::new(roots, name, ranges.collect(), Ends::InPod)
}

fn parent(host: &Netlink, definition: &Definition) -> Result<Link> {
    let name = definition.parent.as_deref().unwrap_or_default();
    let doing = format!("hang an interface on {name}");
    let found = host.links()?.into_iter().find(|link| link.name == name);
    let link = found.ok_or_else(|| {
        Error::new(Kind::NotFound, &*doing, "the host has no link of this name").hint("`ip link` lists them")
    })?;
    match link.up {
        true => Ok(link),
        false => Err(Error::new(Kind::NotNow, doing, "the link is down").hint(format!("ip link set {name} up"))),
    }
}

fn hang(
    host: &Netlink,
    parent: &Link,
    definition: &Definition,
    pool: &Pool,
    lease: &Lease,
    pod: &Pod<'_>,
    plan: &Plan<'_>,
) -> Result<Attachment> {
    fault::step("create-pod.leased").doing(|| "make the pod".into())?;
    let first = *lease.addresses.first().ok_or_else(no_address)?;
    let (mode, mac) = match definition.driver {
        Driver::Ipvlan => (Mode::Ipvlan(definition.ipvlan().mode), None),
        _ => {
            (Mode::Macvlan(definition.macvlan().mode), Some(plan.wish.mac.map_or_else(|| Mac::pod(first.address), Mac)))
        }
    };
    let inside = Netlink::inside(pod.netns, || families(Ipv6::of_this_kernel(), &lease.addresses))?;
    let mtu = plan.wish.mtu.or(definition.mtu);
    refuse_mtu(mtu, parent, &lease.addresses)?;
    host.add_hanging(&Hanging { name: &plan.interface, parent: parent.index, mode, mac, mtu, netns: pod.netns })
        .map_err(|err| explain(err, definition.driver, &parent.name))?;
    let gateways = pool.ranges.iter().filter_map(|range| range.gateway);
    let gateway = |one: &Cidr| gateways.clone().find(|gateway| gateway.is_ipv4() == one.address.is_ipv4());
    let families = lease.addresses.iter().map(|one| Family {
        address: *one,
        gateway: gateway(one).filter(|_| plan.leads_out),
        via: None,
    });
    let families: Vec<Family> = families.collect();
    let linked = fault::step("create-pod.linked").doing(|| "make the pod".into());
    linked.and_then(|()| inside.configure(&plan.interface, &families)).inspect_err(|_| {
        let _ = inside.delete_named(&plan.interface);
    })?;
    let way = |six: bool| lease.addresses.iter().find(|one| one.address.is_ipv6() == six).and_then(gateway);
    let (gateway, gateway6) = (way(false), way(true));
    Ok(Attachment {
        network: String::new(),
        driver: definition.driver,
        interface: plan.interface.clone(),
        host_interface: None,
        addresses: lease.addresses.clone(),
        gateway,
        gateway6,
        default_route: plan.leads_out && (gateway.is_some() || gateway6.is_some()),
        // ipvlan's is its parent's.
        mac: mac.or(parent.mac).map(|mac| mac.to_string()).unwrap_or_default(),
        mtu: mtu.unwrap_or(parent.mtu),
        bridge: None,
        dns: None,
        names: None,
    })
}

fn refuse_mtu(asked: Option<u32>, parent: &Link, addresses: &[Cidr]) -> Result<()> {
    let Some(asked) = asked else { return Ok(()) };
    let refuse = |cause: String| Err(Error::new(Kind::Invalid, format!("give it the MTU {asked}"), cause));
    if asked > parent.mtu {
        return refuse(format!("{}, which it hangs on, has {}", parent.name, parent.mtu));
    }
    if asked < LEAST_OF_IPV6 && addresses.iter().any(|one| one.address.is_ipv6()) {
        return refuse(format!("IPv6 needs {LEAST_OF_IPV6}"));
    }
    Ok(())
}

fn explain(err: Error, driver: Driver, parent: &str) -> Error {
    use nix::errno::Errno;
    let doing = err.what_was_being_done().to_owned();
    // What rtnl_newlink answers where no module knows the kind.
    if err.cause() == Errno::EOPNOTSUPP.desc() {
        return Error::new(Kind::Unsupported, doing, format!("this kernel has no {}", driver.word()))
            .hint(format!("modprobe {}, where it is a module", driver.word()));
    }
    // macvlan_common_newlink: one of the mode passthru beside any other.
    if err.cause() == Errno::EINVAL.desc() && driver == Driver::Macvlan {
        let cause = format!("{parent} has an interface already, and in the mode passthru a link has one alone");
        return Error::new(Kind::AlreadyExists, doing, cause);
    }
    err
}

/// Once nobody can be on his way out any more: an interface of another network's, or somebody else's, or the parent itself.
fn say_whose(err: Error, definition: &Definition) -> Error {
    match is_in_use(&err) && definition.driver == Driver::Macvlan {
        true => {
            let parent = definition.parent.as_deref().unwrap_or_default();
            Error::new(
                Kind::AlreadyExists,
                err.what_was_being_done(),
                format!("{parent}, or an interface on it, has the same hardware address"),
            )
        }
        false => err,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_refuses_is_told() {
        let told = |errno: i32, driver| {
            let err =
                Err::<(), _>(std::io::Error::from_raw_os_error(errno)).doing(|| "make the interface eth0".to_owned());
            let err = explain(err.unwrap_err(), driver, "eth0");
            (err.kind, err.cause().to_owned())
        };
        assert_eq!(told(libc::EOPNOTSUPP, Driver::Ipvlan), (Kind::Unsupported, "this kernel has no ipvlan".to_owned()));
        let (kind, cause) = told(libc::EINVAL, Driver::Macvlan);
        assert_eq!(kind, Kind::AlreadyExists);
        assert!(cause.starts_with("eth0 has an interface already"), "{cause}");
        assert_eq!(told(libc::EEXIST, Driver::Macvlan).1, "File exists");
        assert_eq!(told(libc::EINVAL, Driver::Ipvlan).1, "Invalid argument");
    }
}
