//! The ids of a user namespace (user_namespaces(7)): the user's own as 0, and from 1 on those that /etc/subuid and
//! /etc/subgid give him (subuid(5)).
//!
//! The kernel lets a user map his own id; for more there are newuidmap(1) and newgidmap(1), which are setuid and know the
//! files. Reading is pure; what is missing is a sentence and no failure, since one id is enough for much.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use crate::privilege::Extent;
use crate::programs;
use crate::sys::cred;
use crate::user::Files;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Somebody of the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub home: Option<PathBuf>,
}

impl Account {
    /// By the host's /etc/passwd. Whom only a directory service knows, the environment names.
    pub fn of(uid: u32) -> Option<Self> {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let files = Files { passwd, group: String::new() };
        match files.name(uid) {
            Some(name) => Some(Self { name: name.to_owned(), home: files.home(uid).map(PathBuf::from) }),
            None => ["LOGNAME", "USER"]
                .iter()
                .find_map(|name| std::env::var(name).ok())
                .map(|name| Self { name, home: None }),
        }
    }
}

/// Users or groups: each has its file, its helper and its map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    User,
    Group,
}

impl Which {
    pub const BOTH: [Self; 2] = [Self::User, Self::Group];

    pub fn file(self) -> &'static str {
        match self {
            Self::User => "/etc/subuid",
            Self::Group => "/etc/subgid",
        }
    }

    pub fn helper(self) -> &'static str {
        match self {
            Self::User => "newuidmap",
            Self::Group => "newgidmap",
        }
    }

    pub fn map(self) -> &'static str {
        match self {
            Self::User => "uid_map",
            Self::Group => "gid_map",
        }
    }

    fn own(self) -> u32 {
        match self {
            Self::User => cred::effective_uid(),
            Self::Group => cred::effective_gid(),
        }
    }
}

/// `NAME:FIRST:COUNT`, a line of subuid(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    pub whose: String,
    pub first: u32,
    pub count: u32,
}

impl Range {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let (whose, first, count) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (!whose.is_empty() && fields.next().is_none() && count > 0).then(|| Self {
            whose: whose.to_owned(),
            first,
            count,
        })
    }

    /// Past its last.
    pub fn end(&self) -> u64 {
        u64::from(self.first) + u64::from(self.count)
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        u64::from(self.first) < other.end() && u64::from(other.first) < self.end()
    }

    /// Whether it is this user's, who may be written by name or by number.
    pub fn is_of(&self, name: &str, uid: u32) -> bool {
        self.whose == name || self.whose == uid.to_string()
    }
}

/// All lines of one of the two files.
pub fn ranges(text: &str) -> Vec<Range> {
    text.lines().filter_map(Range::parse).collect()
}

/// Of the user namespace that this process is in.
pub fn mapped_groups() -> Vec<Extent> {
    Extent::read(&std::fs::read_to_string("/proc/self/gid_map").unwrap_or_default())
}

/// The user himself as 0, and his ranges after it in the file's order.
pub fn extents<'a>(own: u32, ranges: impl IntoIterator<Item = &'a Range>) -> Vec<Extent> {
    /// Lines that the kernel takes (user_namespaces(7)).
    const MOST: usize = 340;
    let mut all = vec![Extent { inside: 0, outside: own, count: 1 }];
    let mut next = 1_u32;
    for range in ranges {
        let count = range.count.min(u32::MAX - next);
        all.push(Extent { inside: next, outside: range.first, count });
        next += count;
    }
    all.truncate(MOST);
    all
}

/// What a namespace is to have, of each kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maps {
    pub users: Vec<Extent>,
    pub groups: Vec<Extent>,
}

impl Maps {
    /// The user's own ids, and no other.
    pub fn single(uid: u32, gid: u32) -> Self {
        Self { users: extents(uid, []), groups: extents(gid, []) }
    }

    fn of(&self, which: Which) -> &[Extent] {
        match which {
            Which::User => &self.users,
            Which::Group => &self.groups,
        }
    }
}

/// All that this user has; or his own alone, and why.
pub fn whole(uid: u32, gid: u32) -> (Maps, Option<String>) {
    let single = |why: String| (Maps::single(uid, gid), Some(why));
    if let Some(helper) = Which::BOTH.map(Which::helper).into_iter().find(|helper| programs::anywhere(helper).is_none())
    {
        return single(format!("{helper} is not installed (Debian: uidmap)"));
    }
    let name = Account::of(uid).map(|account| account.name).unwrap_or_default();
    let of = |which: Which| {
        let all = ranges(&std::fs::read_to_string(which.file()).unwrap_or_default());
        all.into_iter().filter(|range| range.is_of(&name, uid)).collect::<Vec<_>>()
    };
    let (users, groups) = (of(Which::User), of(Which::Group));
    for (which, found) in [(Which::User, &users), (Which::Group, &groups)] {
        if found.is_empty() {
            let who = if name.is_empty() { format!("uid {uid}") } else { name };
            return single(format!("{} has no range for {who}", which.file()));
        }
    }
    (Maps { users: extents(uid, &users), groups: extents(gid, &groups) }, None)
}

/// Gives the user namespace of the process, which has none yet, its ids.
pub fn apply(pid: i32, maps: &Maps) -> Result<()> {
    Which::BOTH.into_iter().try_for_each(|which| apply_one(pid, which, maps.of(which)))
}

/// A user's own id he may map by himself, his own group once he gives up setgroups(2); all else is the helper's to allow
/// (user_namespaces(7)).
pub fn apply_one(pid: i32, which: Which, extents: &[Extent]) -> Result<()> {
    if !matches!(extents, [Extent { outside, count: 1, .. }] if *outside == which.own()) {
        return ask(pid, which, extents);
    }
    let write = |file: &str, text: &str| {
        let path = format!("/proc/{pid}/{file}");
        std::fs::write(&path, text).doing(|| format!("write {path}"))
    };
    if which == Which::Group {
        // CVE-2014-8989: who could drop a group by himself would get at what is forbidden to that group.
        write("setgroups", "deny")?;
    }
    let lines = extents.iter().map(|one| format!("{} {} {}\n", one.inside, one.outside, one.count));
    write(which.map(), &lines.collect::<String>())
}

fn ask(pid: i32, which: Which, extents: &[Extent]) -> Result<()> {
    let doing = || format!("map ids by {}", which.helper());
    let Some(program) = programs::anywhere(which.helper()) else {
        return Err(Error::new(Kind::Unsupported, doing(), "it is not installed").hint(
            "Debian has it in the package uidmap, others in shadow-utils; a map of the user's own id needs none",
        ));
    };
    let numbers = extents.iter().flat_map(|one| [one.inside, one.outside, one.count]).map(|number| number.to_string());
    let done = Command::new(program).arg(pid.to_string()).args(numbers).stdin(Stdio::null()).output().doing(doing)?;
    match done.status.success() {
        true => Ok(()),
        false => Err(Error::new(Kind::Unsupported, doing(), String::from_utf8_lossy(&done.stderr).trim())
            .hint(format!("{} says which ids are whose; the program must be setuid root", which.file()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_three_fields_and_what_is_none_is_passed_over() {
        let found = ranges("root:1:2\nalice:100000:65536\n\n# x\nbob:1\nbob:x:1\nbob:1:0\nbob:1:2:3\n1000:7:8\n");
        let whose: Vec<_> = found.iter().map(|range| (range.whose.as_str(), range.first, range.count)).collect();
        assert_eq!(whose, [("root", 1, 2), ("alice", 100_000, 65536), ("1000", 7, 8)]);
        assert!(found[2].is_of("carol", 1000) && !found[1].is_of("carol", 1000));
        assert!(
            found[0].overlaps(&Range { whose: String::new(), first: 2, count: 9 }) && !found[0].overlaps(&found[1])
        );
    }

    #[test]
    fn the_user_is_zero_and_his_ranges_follow_without_a_gap() {
        let both = ranges("a:100000:65536\na:300000:10\n");
        let extent = |inside, outside, count| Extent { inside, outside, count };
        assert_eq!(extents(1000, &both), [extent(0, 1000, 1), extent(1, 100_000, 65536), extent(65537, 300_000, 10)]);
        assert_eq!(extents(1000, []), [extent(0, 1000, 1)]);
        let most = vec![Range { whose: "a".into(), first: 5, count: u32::MAX }; 2];
        assert_eq!(extents(1, &most)[2].count, 0, "no id past the last");
        assert_eq!(extents(1, &vec![both[1].clone(); 400]).len(), 340);
    }
}
