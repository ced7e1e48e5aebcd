//! Names on a network, seen from outside its server: what a lease says of them, and the server as a process.
//!
//! The server answers from what is on disk when it is asked: leases, the links of pod names, and the `index` of all other
//! names. So nothing has to be told to it, and what it says is never old.

#![forbid(unsafe_code)]

pub mod index;
mod server;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

pub use server::{
    ARGV0, LOCK, Look, REPORT, Record, Starting, claim, ensure, file, look, own_build, place, replace, start, stop,
    this_program_serves,
};

/// What a lease has for the name server.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Names {
    /// The pod's names beside its own, in small letters: its hostname, its aliases.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<String>,
    /// What this pod alone calls others: its word, and the pod's name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub links: BTreeMap<String, String>,
    /// Whom to ask for what podrun does not know, in the place of the host's servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<IpAddr>,
}

impl Names {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// A hostname is a name too, and so is its first part, as /etc/hosts has it.
    pub fn add_hostname(&mut self, hostname: &str, pod: &str) {
        let hostname = hostname.to_ascii_lowercase();
        let short = hostname.split('.').next().unwrap_or_default().to_owned();
        for name in [hostname, short] {
            self.add(&name, pod);
        }
    }

    pub fn add(&mut self, name: &str, pod: &str) {
        if name != pod && !self.more.iter().any(|known| known == name) {
            self.more.push(name.to_owned());
        }
    }
}

/// The namespace and the name of a pod's title.
pub fn parts(title: &str) -> (&str, &str) {
    title.split_once('/').unwrap_or(("default", title))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostname_is_a_name_and_so_is_its_first_part() {
        for (hostname, more) in [
            ("web", &[][..]),
            ("Db.Example.org", &["db.example.org", "db"]),
            ("web.local", &["web.local"]),
            ("other", &["other"]),
        ] {
            let mut names = Names::default();
            names.add_hostname(hostname, "web");
            names.add_hostname(hostname, "web");
            assert_eq!(names.more, more, "{hostname}");
        }
        assert_eq!((parts("web"), parts("team/web")), (("default", "web"), ("team", "web")));
    }
}
