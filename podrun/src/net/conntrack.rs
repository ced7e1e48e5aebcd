//! Connection tracking, asked by ctnetlink: what the kernel remembers of UDP that came to a port of the host.
//!
//! An entry outlives the rule that made it: who keeps sending from one port would go on to where the port led before, for as
//! long as it sends. So when a port's meaning changes its entries go; those of the *host's* port, which is what the sender
//! knows. TCP needs none of this: whoever is led wrong is told by a reset.

#![forbid(unsafe_code)]

use crate::error::{Doing, Result};
use crate::net::nfnetlink::{
    self, ACK, DONE, DUMP, ERROR, NESTED, REQUEST, attribute, attributes, error_of, messages, request,
};
use nix::errno::Errno;
use std::fs;
use std::net::{IpAddr, UdpSocket};

// linux/netfilter/nfnetlink_conntrack.h.
const GET: u16 = 1 << 8 | 1; // IPCTNL_MSG_CT_GET
const DELETE: u16 = 1 << 8 | 2; // IPCTNL_MSG_CT_DELETE
const NEW: u16 = 1 << 8; // IPCTNL_MSG_CT_NEW, which is what a dump answers
const ORIGINAL: u16 = 1; // CTA_TUPLE_ORIG
const REPLY: u16 = 2; // CTA_TUPLE_REPLY
const ZONE: u16 = 18; // CTA_ZONE
const FILTER: u16 = 25; // CTA_FILTER (Linux 5.8); an older kernel passes it over and dumps everything
const FILTER_ORIGINAL: u16 = 1; // CTA_FILTER_ORIG_FLAGS
const FILTER_PROTOCOL: u32 = 1 << 3; // CTA_PROTO_NUM
const FILTER_PORT: u32 = 1 << 5; // CTA_PROTO_DST_PORT
const TUPLE_IP: u16 = 1; // CTA_TUPLE_IP
const TUPLE_PROTOCOL: u16 = 2; // CTA_TUPLE_PROTO
const PROTOCOL_NUMBER: u16 = 1; // CTA_PROTO_NUM
const PROTOCOL_PORT: u16 = 3; // CTA_PROTO_DST_PORT
const UDP: u8 = 17;
const IPV4: u8 = 2; // AF_INET
const IPV6: u8 = 10; // AF_INET6

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tuple {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    port: u16,
}

/// Forgets the UDP connections to `ports` of this host: those that lead to one of `pods`, and those that lead to the host
/// itself. What only passes through, to the same port of somebody else, stays.
///
/// The kernel walks its whole table for that, milliseconds on a large host; so nothing is asked where it has no entry.
pub fn forget_udp(ports: &[u16], pods: &[IpAddr]) -> Result<()> {
    if ports.is_empty() || fs::read(COUNT).is_ok_and(|count| count.trim_ascii() == b"0") {
        return Ok(());
    }
    let has = |four: bool| pods.iter().any(|pod| pod.is_ipv4() == four);
    for (family, _) in [(IPV4, true), (IPV6, false)].into_iter().filter(|(_, four)| has(*four)) {
        forget(family, ports, pods).doing(|| format!("forget the connections to UDP port {}", ports[0]))?;
    }
    Ok(())
}

/// How many entries this network namespace has.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

fn forget(family: u8, ports: &[u16], pods: &[IpAddr]) -> nix::Result<()> {
    let Some(socket) = nfnetlink::open()? else { return Ok(()) };
    nfnetlink::send(&socket, &request(GET, REQUEST | DUMP, family, &filter(ports)))?;
    let mut found = Vec::new();
    'dump: loop {
        let answer = nfnetlink::receive(&socket)?;
        for (kind, body) in messages(&answer) {
            match kind {
                NEW => found.extend(doomed(body, ports, pods, is_local)),
                DONE => break 'dump,
                // No connection tracking at all, or none of this family.
                ERROR => break 'dump,
                _ => {}
            }
        }
    }
    for tuple in found {
        nfnetlink::send(&socket, &request(DELETE, REQUEST | ACK, family, &tuple))?;
        for (_, body) in messages(&nfnetlink::receive(&socket)?).filter(|(kind, _)| *kind == ERROR) {
            match error_of(body) {
                Errno::ENOENT | Errno::UnknownErrno => {}
                errno => return Err(errno),
            }
        }
    }
    nfnetlink::close_later(socket);
    Ok(())
}

/// So that of a million connections only those of one port are told, or those of UDP where there are several.
fn filter(ports: &[u16]) -> Vec<u8> {
    let mut protocol = attribute(PROTOCOL_NUMBER, &[UDP]);
    let mut flags = FILTER_PROTOCOL;
    if let [port] = ports {
        protocol.extend(attribute(PROTOCOL_PORT, &port.to_be_bytes()));
        flags |= FILTER_PORT;
    }
    let tuple = attribute(TUPLE_PROTOCOL | NESTED, &protocol);
    let flags = attribute(FILTER_ORIGINAL, &flags.to_ne_bytes());
    [attribute(ORIGINAL | NESTED, &tuple), attribute(FILTER | NESTED, &flags)].concat()
}

/// An address that a socket can be bound to is the host's.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Pure: what names a connection in a request to delete it, when it is one that has to go.
fn doomed(body: &[u8], ports: &[u16], pods: &[IpAddr], is_local: impl Fn(IpAddr) -> bool) -> Option<Vec<u8>> {
    let all: Vec<(u16, &[u8])> = attributes(body.get(4..)?).collect();
    let find = |wanted: u16| all.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    let original = tuple(find(ORIGINAL)?)?;
    let answers = tuple(find(REPLY)?)?.from;
    let to_a_pod = pods.contains(&answers);
    let to_the_host = answers == original.to && is_local(original.to);
    (original.protocol == UDP && ports.contains(&original.port) && (to_a_pod || to_the_host)).then_some(())?;
    let mut named = attribute(ORIGINAL | NESTED, find(ORIGINAL)?);
    named.extend(find(ZONE).map(|zone| attribute(ZONE, zone)).unwrap_or_default());
    Some(named)
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let find = |bytes, wanted: u16| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let (ip, protocol) = (find(bytes, TUPLE_IP)?, find(bytes, TUPLE_PROTOCOL)?);
    // CTA_IP_V4_SRC and _DST are 1 and 2, those of IPv6 3 and 4.
    let address = |four: u16| match find(ip, four) {
        Some(octets) => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        None => <[u8; 16]>::try_from(find(ip, four + 2)?).ok().map(IpAddr::from),
    };
    Some(Tuple {
        from: address(1)?,
        to: address(2)?,
        protocol: *find(protocol, PROTOCOL_NUMBER)?.first()?,
        port: find(protocol, PROTOCOL_PORT).and_then(|port| port.try_into().ok()).map_or(0, u16::from_be_bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn side(kind: u16, from: &str, to: &str, protocol: u8, port: u16) -> Vec<u8> {
        let octets = |text: &str| match ip(text) {
            IpAddr::V4(four) => four.octets().to_vec(),
            IpAddr::V6(six) => six.octets().to_vec(),
        };
        let first = if ip(from).is_ipv4() { 1 } else { 3 };
        let addresses = [attribute(first, &octets(from)), attribute(first + 1, &octets(to))].concat();
        let ports = [attribute(PROTOCOL_NUMBER, &[protocol]), attribute(PROTOCOL_PORT, &port.to_be_bytes())].concat();
        let both = [attribute(TUPLE_IP | NESTED, &addresses), attribute(TUPLE_PROTOCOL | NESTED, &ports)].concat();
        attribute(kind | NESTED, &both)
    }

    #[test]
    fn only_what_came_to_the_hosts_port_is_forgotten() {
        let (client, host, pod, dns) = ("198.51.100.7", "192.0.2.1", "10.88.0.5", "8.8.8.8");
        for (to, answers, protocol, port, goes, what) in [
            (host, pod, UDP, 53, true, "led to the pod"),
            (host, host, UDP, 53, true, "led to the host before the port was published"),
            (host, pod, UDP, 5353, false, "another port"),
            (host, pod, 6, 53, false, "another protocol"),
            (host, "10.88.0.6", UDP, 53, false, "led to another pod"),
            (dns, dns, UDP, 53, false, "a pod's own question to a server elsewhere"),
        ] {
            let body = [
                vec![IPV4, 0, 0, 0],
                side(ORIGINAL, client, to, protocol, port),
                side(REPLY, answers, client, protocol, 40_000),
            ];
            let found = doomed(&body.concat(), &[53], &[ip(pod)], |address| address == ip(host));
            assert_eq!(found.is_some(), goes, "{what}");
        }
        let six = [
            vec![IPV6, 0, 0, 0],
            side(ORIGINAL, "fd01::7", "fd01::1", UDP, 53),
            side(REPLY, "fd00::5", "fd01::7", UDP, 9),
        ];
        assert!(doomed(&six.concat(), &[53, 54], &[ip("fd00::5")], |_| false).is_some());
        assert_eq!(doomed(&[], &[53], &[], |_| true), None);
    }
}
