//! IPv4 forwarding: the least change that lets pods out, and its exact undoing.
//!
//! The kernel asks the interface that a packet came **in** by (`ip_route_input`): a pod's packet comes in by the
//! bridge, its answer by whichever interface the route out leads through, today's or, after a laptop's move from cable
//! to radio, tomorrow's. So the bridge alone is not enough, and `net.ipv4.conf.*.forwarding` is set on each interface
//! and in `default` for those to come. `net.ipv4.ip_forward` (the `all` of these) stays as it is, for three reasons:
//!
//! * writing it also flips `accept_redirects` and overwrites what an administrator set on single interfaces, so it
//!   cannot be undone exactly;
//! * who else wants forwarding still sees 0 and turns it on for himself, so podrun can tell that it is no longer its
//!   own to turn off;
//! * another 0 written over the 0 (`sysctl --system` after a package's installation) changes nothing.

#![forbid(unsafe_code)]

use crate::error::{Doing, Result};
use crate::net::lock::gone;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

const CONF: &str = "/proc/sys/net/ipv4/conf";

/// What forwarded before podrun changed anything: names of interfaces, and perhaps `default`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    pub forwarding: BTreeSet<String>,
}

/// What forwards now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Now {
    /// `net.ipv4.ip_forward` is 1: somebody wants it for the whole host.
    pub all: bool,
    pub on: BTreeSet<String>,
    pub off: BTreeSet<String>,
}

pub fn now() -> Result<Now> {
    let mut now = Now { all: false, on: BTreeSet::new(), off: BTreeSet::new() };
    for entry in fs::read_dir(CONF).doing(|| format!("read {CONF}"))?.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let on = fs::read(entry.path().join("forwarding")).is_ok_and(|text| text.starts_with(b"1"));
        match name.as_str() {
            "all" => now.all = on,
            "lo" => {} // nothing comes in by it that is to go elsewhere
            _ if on => drop(now.on.insert(name)),
            _ => drop(now.off.insert(name)),
        }
    }
    Ok(now)
}

/// What to remember before turning on; nothing when there is nothing to turn on.
pub fn to_remember(now: &Now) -> Option<Former> {
    (!now.off.is_empty()).then(|| Former { forwarding: now.on.clone() })
}

pub fn turn_on(now: &Now) -> Result<()> {
    now.off.iter().try_for_each(|name| set(name, "1"))
}

/// What to turn off again: all that did not forward formerly, save when somebody has turned on the whole host since.
pub fn to_turn_off<'a>(former: &'a Former, now: &'a Now) -> impl Iterator<Item = &'a String> {
    let ours = !now.all;
    now.on.iter().filter(move |name| ours && !former.forwarding.contains(*name))
}

pub fn restore(former: &Former) -> Result<()> {
    let now = now()?;
    to_turn_off(former, &now).try_for_each(|name| set(name, "0"))
}

fn set(interface: &str, value: &str) -> Result<()> {
    let file = path(interface);
    // An interface may go while we look at it.
    gone(write(&file, value)).doing(|| format!("write {value} to {}", file.display()))
}

/// Writes a sysctl. Not fs::write: its O_CREAT turns "no such file" into "permission denied" in /proc.
pub fn write(sysctl: &Path, value: &str) -> std::io::Result<()> {
    OpenOptions::new().write(true).open(sysctl)?.write_all(value.as_bytes())
}

fn path(interface: &str) -> PathBuf {
    Path::new(CONF).join(interface).join("forwarding")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> BTreeSet<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn only_what_podrun_turned_on_is_turned_off() {
        for (former, all, on, turned_off) in [
            ("", false, "default eth0 wlan0", "default eth0 wlan0"),
            ("eth1", false, "default eth0 eth1", "default eth0"),
            ("", false, "", ""),
            ("", true, "default eth0", ""), // docker came later
        ] {
            let former = Former { forwarding: names(former) };
            let now = Now { all, on: names(on), off: BTreeSet::new() };
            assert_eq!(to_turn_off(&former, &now).cloned().collect::<BTreeSet<_>>(), names(turned_off));
        }
    }

    #[test]
    fn where_everything_forwards_nothing_is_remembered() {
        let now = |off| Now { all: true, on: names("default eth0"), off: names(off) };
        assert_eq!(to_remember(&now("")), None);
        assert_eq!(to_remember(&now("wg0")), Some(Former { forwarding: names("default eth0") }));
    }
}
