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
//!
//! IPv6 knows no forwarding by interface but `force_forwarding` (Linux 6.17), which is used in the same way. Where there
//! is none, nothing is changed: `net.ipv6.conf.all.forwarding` makes the host a router, which no longer hears of its own
//! routes, and that is its administrator's to decide.

#![forbid(unsafe_code)]

use crate::error::{Doing, Result};
use crate::net::lock::gone;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Four,
    Six,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::Four, Self::Six];

    /// `net/ipv4/conf`, as sysctl(8) has it.
    pub fn tree(self) -> &'static str {
        match self {
            Self::Four => "net/ipv4/conf",
            Self::Six => "net/ipv6/conf",
        }
    }

    pub fn key(self) -> &'static str {
        match self {
            Self::Four => "forwarding",
            Self::Six => "force_forwarding",
        }
    }

    fn conf(self) -> PathBuf {
        Path::new("/proc/sys").join(self.tree())
    }
}

/// What forwarded before podrun changed anything: names of interfaces, and perhaps `default`; nothing of a family that was
/// left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    pub forwarding: Option<BTreeSet<String>>,
    #[serde(default)]
    pub forwarding6: Option<BTreeSet<String>>,
}

impl Former {
    fn of(&self, family: Family) -> Option<&BTreeSet<String>> {
        match family {
            Family::Four => self.forwarding.as_ref(),
            Family::Six => self.forwarding6.as_ref(),
        }
    }

    /// Remembers, once, what a family was like before it is changed.
    pub fn note(&mut self, family: Family, now: &Now) {
        let place = match family {
            Family::Four => &mut self.forwarding,
            Family::Six => &mut self.forwarding6,
        };
        if place.is_none() && !now.off.is_empty() {
            *place = Some(now.on.clone());
        }
    }

    /// What two networks remember: one may have been made before the other changed its second family.
    #[must_use]
    pub fn with(self, other: &Self) -> Self {
        Self {
            forwarding: self.forwarding.or_else(|| other.forwarding.clone()),
            forwarding6: self.forwarding6.or_else(|| other.forwarding6.clone()),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What forwards now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Now {
    /// `net.ipv4.ip_forward` is 1: somebody wants it for the whole host.
    pub all: bool,
    pub on: BTreeSet<String>,
    /// What can be turned on.
    pub off: BTreeSet<String>,
}

impl Now {
    /// Whether there is forwarding, or can be.
    pub fn is_possible(&self) -> bool {
        self.all || !self.on.is_empty() || !self.off.is_empty()
    }
}

pub fn now(family: Family) -> Result<Now> {
    let mut now = Now { all: false, on: BTreeSet::new(), off: BTreeSet::new() };
    let conf = family.conf();
    let is_one = |file: PathBuf| fs::read(file).ok().map(|text| text.starts_with(b"1"));
    for entry in fs::read_dir(&conf).doing(|| format!("read {}", conf.display()))?.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        match (name.as_str(), is_one(entry.path().join(family.key()))) {
            ("all", _) => now.all = is_one(entry.path().join("forwarding")).unwrap_or(false),
            ("lo", _) => {} // nothing comes in by it that is to go elsewhere
            (_, Some(true)) => drop(now.on.insert(name)),
            (_, Some(false)) => drop(now.off.insert(name)),
            (_, None) => {}
        }
    }
    if family == Family::Six && now.all {
        // It forwards already, whatever the interfaces say.
        now.off.clear();
    }
    Ok(now)
}

pub fn turn_on(family: Family, now: &Now) -> Result<()> {
    now.off.iter().try_for_each(|name| set(family, name, "1"))
}

/// What to turn off again: all that did not forward formerly, save when somebody has turned on the whole host since.
pub fn to_turn_off<'a>(former: &'a BTreeSet<String>, now: &'a Now) -> impl Iterator<Item = &'a String> {
    let ours = !now.all;
    now.on.iter().filter(move |name| ours && !former.contains(*name))
}

/// The same of a family, by what is remembered of it.
pub fn turned_on(former: &Former, family: Family) -> Result<Vec<String>> {
    let Some(former) = former.of(family) else { return Ok(Vec::new()) };
    let now = now(family)?;
    Ok(to_turn_off(former, &now).cloned().collect())
}

pub fn restore(former: &Former) -> Result<()> {
    for family in Family::BOTH {
        turned_on(former, family)?.iter().try_for_each(|name| set(family, name, "0"))?;
    }
    Ok(())
}

fn set(family: Family, interface: &str, value: &str) -> Result<()> {
    let file = family.conf().join(interface).join(family.key());
    // An interface may go while we look at it.
    gone(write(&file, value)).doing(|| format!("write {value} to {}", file.display()))
}

/// Writes a sysctl. Not fs::write: its O_CREAT turns "no such file" into "permission denied" in /proc.
pub fn write(sysctl: &Path, value: &str) -> std::io::Result<()> {
    OpenOptions::new().write(true).open(sysctl)?.write_all(value.as_bytes())
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
            let now = Now { all, on: names(on), off: BTreeSet::new() };
            assert_eq!(to_turn_off(&names(former), &now).cloned().collect::<BTreeSet<_>>(), names(turned_off));
        }
    }

    #[test]
    fn where_everything_forwards_nothing_is_remembered() {
        let now = |off| Now { all: true, on: names("default eth0"), off: names(off) };
        let noted = |off| {
            let mut former = Former::default();
            former.note(Family::Four, &now(off));
            former
        };
        assert!(noted("").is_empty());
        let mut former = noted("wg0");
        assert_eq!(former, Former { forwarding: Some(names("default eth0")), forwarding6: None });
        former.note(Family::Four, &Now { all: false, on: names("x"), off: names("y") });
        assert_eq!(former.forwarding, Some(names("default eth0")), "what was before the first change");
    }

    #[test]
    fn what_either_of_two_networks_remembers_is_remembered() {
        let four = Former { forwarding: Some(names("eth1")), forwarding6: None };
        let both = Former { forwarding: Some(names("eth1 wg0")), forwarding6: Some(names("eth2")) };
        assert_eq!(four.clone().with(&both), Former { forwarding6: both.forwarding6.clone(), ..four.clone() });
        assert_eq!(both.clone().with(&four), both);
    }

    #[test]
    fn what_an_earlier_build_remembered_is_read() {
        let former: Former = serde_json::from_str(r#"{"forwarding": ["eth1"]}"#).unwrap();
        assert_eq!(former, Former { forwarding: Some(names("eth1")), forwarding6: None });
    }
}
