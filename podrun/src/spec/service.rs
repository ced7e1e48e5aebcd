//! A service as it is asked for: `--port PORT[:TARGET][/tcp|udp]`, `--endpoint IP[:PORT]`, `--session-affinity`.

#![forbid(unsafe_code)]

use crate::error::{Error, Kind, Result};
use crate::spec::port::Protocol;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A port of a service and where it leads in each pod (Kubernetes: `port`, `targetPort`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    pub port: u16,
    pub target: u16,
    pub protocol: Protocol,
}

impl ServicePort {
    pub fn parse(text: &str) -> Result<Self> {
        let fail = |cause: &str| {
            Error::new(Kind::Usage, format!("read the port {text:?}"), cause).hint("as in 80, 80:8080, 53/udp")
        };
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = Protocol::parse(protocol).filter(|known| *known != Protocol::Sctp);
        let protocol = protocol.ok_or_else(|| fail("the protocol is none of tcp and udp"))?;
        let (port, target) = ports.split_once(':').unwrap_or((ports, ports));
        match (number(port), number(target)) {
            (Some(port), Some(target)) => Ok(Self { port, target, protocol }),
            _ => Err(fail("a port is a number within 1 and 65535")),
        }
    }
}

/// A port's number; Rust would take a sign, too.
fn number(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok())?.filter(|number| *number != 0)
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port == self.target {
            true => write!(f, "{}/{}", self.port, self.protocol),
            false => write!(f, "{}:{}/{}", self.port, self.target, self.protocol),
        }
    }
}

/// Somebody elsewhere who serves as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    pub ip: Ipv4Addr,
    /// The service's target port by default.
    pub port: Option<u16>,
}

impl Endpoint {
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |cause: &str| {
            Error::new(Kind::Usage, format!("read the endpoint {text:?}"), cause)
                .hint("as in 192.0.2.7 or 192.0.2.7:8080")
        };
        let fail = || wrong("not an IPv4 address, nor one with a port");
        let six = |text: &str| text.trim_matches(['[', ']']).parse::<Ipv6Addr>().is_ok();
        if six(text) || text.rsplit_once(':').is_some_and(|(address, _)| six(address)) {
            return Err(wrong("services speak IPv4 alone"));
        }
        let (ip, port) = text.split_once(':').map_or((text, None), |(ip, port)| (ip, Some(port)));
        let ip: Ipv4Addr = ip.parse().map_err(|_| fail())?;
        if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() {
            return Err(fail());
        }
        if ip.is_loopback() {
            // Kubernetes refuses these endpoints, too: what the firewall leads there is lost.
            return Err(wrong("loopback is nobody's outside of a host"));
        }
        let port = port.map(|port| number(port).ok_or_else(fail)).transpose()?;
        Ok(Self { ip, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.ip),
            None => write!(f, "{}", self.ip),
        }
    }
}

/// Whether a client stays with whom it met first (Kubernetes: `sessionAffinity`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Affinity {
    #[default]
    None,
    #[serde(rename = "ClientIP")]
    ClientIp,
}

impl Affinity {
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "None" | "none" => Ok(Self::None),
            "ClientIP" | "client-ip" => Ok(Self::ClientIp),
            _ => Err(Error::new(
                Kind::Usage,
                format!("read the session affinity {text:?}"),
                "there is none of this name",
            )
            .hint("None or ClientIP")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_endpoints_are_read_as_they_are_written() {
        for text in ["80/tcp", "80:8080/tcp", "53/udp"] {
            assert_eq!(ServicePort::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(ServicePort::parse("80").unwrap().to_string(), "80/tcp");
        for bad in ["", "0", "80:", ":80", "80:0", "65536", "80/sctp", "80/", "a", "80:80:80", "-1", "+80", "80:+1"] {
            assert_eq!(ServicePort::parse(bad).unwrap_err().kind, Kind::Usage, "{bad}");
        }
        for text in ["192.0.2.7", "192.0.2.7:8080"] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), text);
        }
        for bad in [
            "",
            "host",
            "192.0.2.7:",
            "192.0.2.7:0",
            "192.0.2.7:x",
            "192.0.2.7:+80",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1:80",
            "127.0.0.1:80",
            "::1",
            "[::1]:80",
        ] {
            assert_eq!(Endpoint::parse(bad).unwrap_err().kind, Kind::Usage, "{bad}");
        }
        for six in ["fd00::7", "[fd00::7]", "[fd00::7]:80"] {
            assert_eq!(Endpoint::parse(six).unwrap_err().cause(), "services speak IPv4 alone", "{six}");
        }
    }

    #[test]
    fn affinity_has_kubernetes_words() {
        for (text, affinity) in
            [("None", Affinity::None), ("ClientIP", Affinity::ClientIp), ("client-ip", Affinity::ClientIp)]
        {
            assert_eq!(Affinity::parse(text).unwrap(), affinity);
        }
        assert_eq!(serde_json::to_string(&Affinity::ClientIp).unwrap(), "\"ClientIP\"");
        assert!(Affinity::parse("clientip").is_err());
    }
}
