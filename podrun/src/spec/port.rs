//! Ports of a pod on the host, as they are asked for: `[IP:]HOST[-END]:PORT[-END][/tcp|udp|sctp]`, docker's words.

#![forbid(unsafe_code)]

use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            "sctp" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// IANA's number, as it stands in a packet.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// Which port of the host is wished for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPort {
    /// Whatever is free.
    Any,
    /// The first free one of these; mostly there is only one.
    OneOf(RangeInclusive<u16>),
}

/// One port of a pod, and where on the host it is wished to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// None: every address of the host.
    pub address: Option<IpAddr>,
    pub host: HostPort,
    pub port: u16,
    pub protocol: Protocol,
}

impl Wish {
    /// Whether it may come to have this port of the host.
    pub fn may_be(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol == protocol
            && match &self.host {
                HostPort::Any => true,
                HostPort::OneOf(range) => range.contains(&port),
            }
    }

    /// One for each port of the pod: two ranges go side by side; one port of the pod with a range of the host's has the
    /// first that is free.
    pub fn parse(text: &str) -> Result<Vec<Self>> {
        parse(text).map_err(|cause| {
            Error::new(Kind::Usage, format!("read the port {text:?}"), cause)
                .hint("write it as in 8080:80, 127.0.0.1:8080:80/tcp, [::1]:8080:80, 8000-8009:80-89/udp, or 80 for any free one")
        })
    }
}

fn parse(text: &str) -> Result<Vec<Wish>, String> {
    let (ports, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, word)) => {
            (ports, Protocol::parse(word).ok_or_else(|| format!("{word:?} is none of tcp, udp and sctp"))?)
        }
    };
    let (address, ports) = address(ports)?;
    let (host, pod) = match ports.split_once(':') {
        None if address.is_some() => return Err("after an address both ports must stand, host:pod".to_owned()),
        None => ("", ports),
        Some((host, pod)) => (host, pod),
    };
    let pod = range(pod)?;
    if *pod.start() == 0 {
        return Err("a pod has no port 0".to_owned());
    }
    let host = match host {
        "" | "0" => None,
        range_of_host => Some(range(range_of_host)?).filter(|range| *range != (0..=0)),
    };
    if host.as_ref().is_some_and(|host| *host.start() == 0) {
        return Err("0 means any free port, and begins no range".to_owned());
    }
    side_by_side(host.as_ref(), &pod)
        .map(|all| all.map(|(port, host)| Wish { address, host, port, protocol }).collect())
}

/// (the pod's port, the host's wish) of each.
fn side_by_side(
    host: Option<&RangeInclusive<u16>>,
    pod: &RangeInclusive<u16>,
) -> Result<impl Iterator<Item = (u16, HostPort)>, String> {
    let first = *pod.start();
    let (start, step) = match host {
        None => (HostPort::Any, 0),
        Some(host) if pod.len() == 1 => (HostPort::OneOf(host.clone()), 0),
        Some(host) if pod.len() == host.len() => (HostPort::OneOf(*host.start()..=*host.start()), 1),
        Some(host) => return Err(format!("{} ports of the host for {} of the pod", host.len(), pod.len())),
    };
    Ok(pod.clone().map(move |port| {
        let offset = (port - first) * step;
        let wish = match &start {
            HostPort::Any => HostPort::Any,
            HostPort::OneOf(one) => HostPort::OneOf(one.start() + offset..=one.end() + offset),
        };
        (port, wish)
    }))
}

/// An address in front, in brackets where it has colons of its own.
fn address(text: &str) -> Result<(Option<IpAddr>, &str), String> {
    let parse = |text: &str| match text.parse::<IpAddr>() {
        // bind(2) takes them, and nothing that is sent there reaches a pod.
        Ok(group) if group.is_multicast() || group == IpAddr::from(Ipv4Addr::BROADCAST) => {
            Err(format!("{group} is many hosts' address"))
        }
        other => other.map_err(|_| format!("{text:?} is not an address")),
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (address, ports) = rest.split_once("]:").ok_or("after `[` an address and `]:` must stand")?;
        return Ok((Some(parse(address)?), ports));
    }
    match text.split(':').count() {
        ..=2 => Ok((None, text)),
        3 => {
            let (address, ports) = text.split_once(':').unwrap_or_default();
            Ok((Some(parse(address)?), ports))
        }
        _ => Err("more than an address and two ports; an IPv6 address stands in brackets".to_owned()),
    }
}

fn range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    match first <= last {
        true => Ok(first..=last),
        false => Err(format!("the range {text} ends before it begins")),
    }
}

/// A leading zero is nobody's port: some would read it as octal.
fn number(text: &str) -> Result<u16, String> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    match text.parse() {
        Ok(port) if plain => Ok(port),
        _ => Err(format!("{text:?} is not a port, 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let one = |wish: &Wish| {
            let address = wish.address.map_or_else(|| "*".to_owned(), |address| address.to_string());
            let host = match &wish.host {
                HostPort::Any => "any".to_owned(),
                HostPort::OneOf(range) if range.len() == 1 => range.start().to_string(),
                HostPort::OneOf(range) => format!("{}..{}", range.start(), range.end()),
            };
            format!("{address} {host}>{}/{}", wish.port, wish.protocol)
        };
        Wish::parse(text).unwrap().iter().map(one).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn ports_are_read_as_docker_reads_them() {
        for (text, meaning) in [
            ("80", "* any>80/tcp"),
            ("0:80", "* any>80/tcp"),
            (":80", "* any>80/tcp"),
            ("80/udp", "* any>80/udp"),
            ("8080:80", "* 8080>80/tcp"),
            ("8080:80/sctp", "* 8080>80/sctp"),
            ("127.0.0.1:8080:80", "127.0.0.1 8080>80/tcp"),
            ("127.0.0.1::80", "127.0.0.1 any>80/tcp"),
            ("0.0.0.0:8080:80", "0.0.0.0 8080>80/tcp"),
            ("[::1]:8080:80/udp", "::1 8080>80/udp"),
            ("[::]:0:80", ":: any>80/tcp"),
            ("8000-8001:80-81", "* 8000>80/tcp, * 8001>81/tcp"),
            ("8000-8009:80", "* 8000..8009>80/tcp"),
            ("80-81", "* any>80/tcp, * any>81/tcp"),
            ("65535:65535", "* 65535>65535/tcp"),
            ("65534-65535:1-2", "* 65534>1/tcp, * 65535>2/tcp"),
        ] {
            assert_eq!(shown(text), meaning, "{text}");
        }
        assert_eq!(Wish::parse("1-65535:1-65535").unwrap().len(), 65_535);
    }

    #[test]
    fn what_is_no_port_is_told() {
        for (text, why) in [
            ("", "\"\" is not a port"),
            ("0", "no port 0"),
            ("8080:0", "no port 0"),
            ("8080:", "\"\" is not a port"),
            ("65536:80", "\"65536\" is not a port"),
            ("8080:080", "\"080\" is not a port"),
            ("+80:80", "\"+80\" is not a port"),
            ("-1:80", "\"\" is not a port"),
            ("web:80", "\"web\" is not a port"),
            ("8080:80/icmp", "\"icmp\" is none of tcp, udp and sctp"),
            ("8080:80/", "\"\" is none of"),
            ("8009-8000:80-89", "8009-8000 ends before it begins"),
            ("8000-8009:80-81", "10 ports of the host for 2 of the pod"),
            ("8000:80-81", "1 ports of the host for 2 of the pod"),
            ("0-10:80", "0 means any free port"),
            ("300.0.0.1:8080:80", "\"300.0.0.1\" is not an address"),
            ("example.org:8080:80", "is not an address"),
            ("224.0.0.1:8080:80", "224.0.0.1 is many hosts' address"),
            ("255.255.255.255:8080:80", "many hosts' address"),
            ("[ff02::1]:8080:80", "many hosts' address"),
            ("::1:8080:80", "stands in brackets"),
            ("[::1:8080:80", "`]:` must stand"),
            ("[::1]:80", "both ports must stand"),
            ("8080:80\n", "is not a port"),
            ("8080: 80", "is not a port"),
        ] {
            let err = Wish::parse(text).unwrap_err();
            assert_eq!(err.kind, Kind::Usage);
            assert!(err.cause().contains(why), "{text:?}: {}", err.cause());
        }
    }
}
