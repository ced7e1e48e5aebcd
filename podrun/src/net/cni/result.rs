//! What plugins answer: results and errors of CNI 0.3.0 to 1.1.0 (specification, sections 2 and 5). Pure.

#![forbid(unsafe_code)]

use super::conflist::Version;
use crate::error::Kind;
use crate::net::cidr::Cidr;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::IpAddr;

/// What a chain made, as far as podrun needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Answer {
    pub interfaces: Vec<Interface>,
    pub ips: Vec<Ip>,
    pub routes: Vec<Route>,
    pub dns: Dns,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Interface {
    pub name: String,
    pub mac: String,
    /// The namespace that it is in; empty: the host's.
    pub sandbox: String,
    pub mtu: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Ip {
    pub address: Cidr,
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// The number of its interface.
    #[serde(default)]
    pub interface: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Route {
    pub dst: Cidr,
    #[serde(default)]
    pub gw: Option<IpAddr>,
}

/// What a chain says of names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn searches(&self) -> Vec<String> {
        self.domain.iter().filter(|domain| !domain.is_empty()).chain(&self.search).cloned().collect()
    }
}

/// A result as the next plugin is to get it: of the chain's own version, whatever the plugin's was.
pub fn normal(text: &[u8], version: Version) -> Result<Value, String> {
    let mut result: Value = serde_json::from_slice(text).map_err(|err| format!("its result is not JSON: {err}"))?;
    let words = result.as_object_mut().ok_or("its result is no JSON object")?;
    match words.get("cniVersion") {
        None => {}
        Some(Value::String(text)) if Version::parse(text).is_some_and(Version::is_spoken) => {}
        Some(other) => return Err(format!("its result is of cniVersion {other}, and was asked for as {version}")),
    }
    words.insert("cniVersion".to_owned(), version.to_string().into());
    // Until 1.0 each address said its family.
    for ip in words.get_mut("ips").and_then(Value::as_array_mut).into_iter().flatten() {
        let four = ip["address"].as_str().is_some_and(|address| !address.contains(':'));
        if let Some(ip) = ip.as_object_mut() {
            match version < Version(1, 0, 0) {
                true => drop(ip.insert("version".to_owned(), if four { "4" } else { "6" }.into())),
                false => drop(ip.remove("version")),
            }
        }
    }
    read(&result)?;
    Ok(result)
}

pub fn read(result: &Value) -> Result<Answer, String> {
    let mut result = result.clone();
    drop_empty_addresses(&mut result);
    let answer: Answer = serde_json::from_value(result).map_err(|err| format!("its result is none of CNI's: {err}"))?;
    match answer.ips.iter().find(|ip| ip.interface.is_some_and(|at| at >= answer.interfaces.len())) {
        Some(ip) => Err(format!("its result has {} on an interface that it does not name", ip.address.address)),
        None => Ok(answer),
    }
}

/// Plugins in Go write "no address" as an empty text or as null.
fn drop_empty_addresses(result: &mut Value) {
    for list in ["interfaces", "ips", "routes"] {
        if result[list].is_null() {
            result.as_object_mut().map(|words| words.remove(list));
        }
        for one in result.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(words) = one.as_object_mut() {
                words.retain(|_, value| !value.is_null() && value != "");
            }
        }
    }
    if let Some(dns) = result.get_mut("dns").and_then(Value::as_object_mut) {
        dns.retain(|_, value| !value.is_null());
    }
}

impl Answer {
    /// The interface inside the pod.
    pub fn inside(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|one| one.name == name && !one.sandbox.is_empty())
    }

    /// Its other end, where it has one: the last of the host's that is named before it (bridge, host's end, pod's end).
    pub fn outside(&self, name: &str) -> Option<&str> {
        let at = self.interfaces.iter().position(|one| one.name == name && !one.sandbox.is_empty())?;
        let end = self.interfaces[..at].iter().rfind(|one| one.sandbox.is_empty());
        end.map(|one| one.name.as_str())
    }

    /// The addresses of the pod's interface.
    pub fn addresses(&self, name: &str) -> Vec<Cidr> {
        self.of(name).map(|ip| ip.address).collect()
    }

    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Ip> {
        let is_it = move |at: usize| self.interfaces.get(at).is_some_and(|one| one.name == name);
        self.ips.iter().filter(move |ip| ip.interface.is_none_or(is_it))
    }

    /// Where the default route of a family leads, if the chain has made one.
    pub fn gateway(&self, name: &str, six: bool) -> Option<IpAddr> {
        let is_default = |route: &&Route| route.dst.prefix == 0 && route.dst.address.is_ipv6() == six;
        let route = self.routes.iter().find(is_default)?;
        route.gw.or_else(|| self.of(name).filter(|ip| ip.address.address.is_ipv6() == six).find_map(|ip| ip.gateway))
    }

    /// Whether a default route of any family was made.
    pub fn leads_out(&self) -> bool {
        self.routes.iter().any(|route| route.dst.prefix == 0)
    }
}

/// A plugin's own word of why it failed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Refusal {
    pub code: u32,
    #[serde(default)]
    pub msg: String,
    #[serde(default)]
    pub details: String,
}

impl Refusal {
    pub fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// All of it: code, message, details.
    pub fn say(&self) -> String {
        let Self { code, msg, details } = self;
        match details.is_empty() || details == msg {
            true => format!("{msg} (code {code})"),
            false => format!("{msg} (code {code}): {details}"),
        }
    }

    /// The codes that the specification has a meaning for.
    pub fn kind(&self) -> Kind {
        match self.code {
            1 | 2 => Kind::Unsupported,
            4 | 6 | 7 => Kind::Invalid,
            11 | 50 | 51 => Kind::NotNow,
            _ => Kind::Kernel,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const BRIDGE: &str = r#"{"cniVersion": "0.4.0", "interfaces": [
        {"name": "cni0", "mac": "aa:bb:cc:dd:ee:01"}, {"name": "veth1", "mac": "aa:bb:cc:dd:ee:02"},
        {"name": "eth0", "mac": "aa:bb:cc:dd:ee:03", "sandbox": "/run/x"}],
        "ips": [{"version": "4", "interface": 2, "address": "10.1.0.5/16", "gateway": "10.1.0.1"},
                {"version": "6", "interface": 2, "address": "fd00::5/64", "gateway": ""}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "fd01::/64", "gw": "fd00::1"}],
        "dns": {"nameservers": ["10.1.0.1"], "domain": "local", "search": ["a.local"]}}"#;

    #[test]
    fn a_result_says_interface_addresses_and_way_out() {
        let answer = read(&normal(BRIDGE.as_bytes(), Version(1, 0, 0)).unwrap()).unwrap();
        assert_eq!(answer.inside("eth0").unwrap().mac, "aa:bb:cc:dd:ee:03");
        assert_eq!(answer.outside("eth0"), Some("veth1"));
        assert_eq!(answer.addresses("eth0").len(), 2);
        assert_eq!(answer.gateway("eth0", false), Some([10, 1, 0, 1].into()));
        assert_eq!(answer.gateway("eth0", true), None);
        assert!(answer.leads_out());
        assert_eq!(answer.dns.searches(), ["local", "a.local"]);
    }

    #[test]
    fn a_result_is_handed_on_in_the_chains_version() {
        let to = |version| normal(BRIDGE.as_bytes(), version).unwrap();
        assert_eq!(to(Version(0, 3, 1))["ips"][1]["version"], "6");
        assert_eq!(to(Version(0, 3, 1))["cniVersion"], "0.3.1");
        assert_eq!(to(Version(1, 1, 0))["ips"][0]["version"], Value::Null);
        let bare = normal(b"{\"ips\": [{\"address\": \"10.1.0.5/16\"}]}", Version(0, 4, 0)).unwrap();
        assert_eq!(bare, json!({"cniVersion": "0.4.0", "ips": [{"address": "10.1.0.5/16", "version": "4"}]}));
    }

    #[test]
    fn what_is_no_result_is_told() {
        for (text, why) in [
            ("", "not JSON"),
            ("hello", "not JSON"),
            ("[]", "no JSON object"),
            (r#"{"cniVersion": "9.9.9"}"#, "cniVersion \"9.9.9\""),
            (r#"{"cniVersion": 1}"#, "cniVersion 1"),
            (r#"{"ips": [{"address": "10.1.0.5"}]}"#, "no /prefix"),
            (r#"{"ips": [{"address": "10.1.0.5/16", "interface": 3}]}"#, "does not name"),
            (r#"{"ips": 7}"#, "none of CNI's"),
        ] {
            let told = normal(text.as_bytes(), Version(1, 0, 0)).unwrap_err();
            assert!(told.contains(why), "{text}: {told}");
        }
        assert_eq!(read(&json!({"interfaces": null, "dns": {"nameservers": null}})).unwrap(), Answer::default());
    }

    #[test]
    fn a_refusal_is_told_whole() {
        let read = |text: &str| Refusal::read(text.as_bytes());
        let refusal = read(r#"{"cniVersion": "1.0.0", "code": 11, "msg": "not yet", "details": "the daemon starts"}"#);
        let refusal = refusal.unwrap();
        assert_eq!((refusal.say().as_str(), refusal.kind()), ("not yet (code 11): the daemon starts", Kind::NotNow));
        assert_eq!(read(r#"{"code": 100, "msg": "no"}"#).unwrap().say(), "no (code 100)");
        assert_eq!(read("no JSON"), None);
        assert_eq!(read(r#"{"msg": "no"}"#), None);
    }
}
