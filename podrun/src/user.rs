//! Users as an image has them: `/etc/passwd` and `/etc/group`, read inside the rootfs, by one strict parser.
//!
//! A number never falls to 0 by accident (CVE-2026-30892, CVE-2024-40635), and no file of the image is read without a
//! bound (CVE-2025-4437). glibc's own look-ups would load NSS modules of the host.

#![forbid(unsafe_code)]

use crate::error::{Error, Kind, Result};
use crate::sys::fd::{self, Resolve};
use std::io::Read;
use std::os::fd::BorrowedFd;

/// What `-u` and a user of config.json come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: Option<String>,
}

/// Larger user files are cut off here.
const LARGEST_FILE: u64 = 1 << 20;

/// The two files of an image, as text. A missing one is empty.
#[derive(Debug, Default)]
pub struct Files {
    pub passwd: String,
    pub group: String,
}

impl Files {
    /// Reads both below `root`; links are followed inside it, and only regular files are read (a FIFO would hang us).
    pub fn read(root: BorrowedFd<'_>) -> Self {
        let read = |path| read_regular(root, path).unwrap_or_default();
        Self { passwd: read(c"/etc/passwd"), group: read(c"/etc/group") }
    }

    /// `NAME|UID[:GROUP|GID]`, docker's and the image specification's words. Supplementary groups come from
    /// /etc/group for a named user or a known uid, unless a group is given.
    pub fn find(&self, text: &str) -> Result<User> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let fail = |cause: &str| Error::new(Kind::Invalid, format!("find the user {text:?}"), cause);
        let entry = match number(user) {
            Some(Ok(uid)) => self.entries().find(|entry| entry.uid == uid).unwrap_or(Entry::unknown(uid)),
            Some(Err(cause)) => return Err(fail(cause)),
            None => self
                .entries()
                .find(|entry| entry.name == user)
                .ok_or_else(|| fail("no such name in the container's /etc/passwd"))?,
        };
        let (gid, groups) = match group {
            Some(group) => (self.group(group).map_err(fail)?, Vec::new()),
            None => (entry.gid, self.memberships(entry.name, entry.gid)),
        };
        Ok(User { uid: entry.uid, gid, groups, home: entry.home.map(str::to_owned) })
    }

    /// The home directory of a uid.
    pub fn home(&self, uid: u32) -> Option<&str> {
        self.entries().find(|entry| entry.uid == uid)?.home
    }

    /// The first name of a uid.
    pub fn name(&self, uid: u32) -> Option<&str> {
        self.entries().find(|entry| entry.uid == uid).map(|entry| entry.name)
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.passwd.lines().filter_map(Entry::parse)
    }

    fn group(&self, text: &str) -> Result<u32, &'static str> {
        match number(text) {
            Some(known) => known,
            None => self
                .group_lines()
                .find(|(name, ..)| *name == text)
                .map(|(_, gid, _)| gid)
                .ok_or("no such name in the container's /etc/group"),
        }
    }

    fn memberships(&self, user: &str, primary: u32) -> Vec<u32> {
        let mut groups: Vec<u32> = self
            .group_lines()
            .filter(|(_, gid, members)| {
                *gid != primary && !user.is_empty() && members.split(',').any(|one| one == user)
            })
            .map(|(_, gid, _)| gid)
            .collect();
        groups.dedup();
        groups
    }

    fn group_lines(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
            Some((name, number(gid)?.ok()?, fields.next().unwrap_or_default()))
        })
    }
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: Option<&'a str>,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let home = fields.nth(1).filter(|home| home.starts_with('/'));
        Some(Self { name, uid: number(uid)?.ok()?, gid: number(gid)?.ok()?, home })
    }

    fn unknown(uid: u32) -> Self {
        Self { name: "", uid, gid: 0, home: None }
    }
}

/// `None`: not a number at all, so perhaps a name. Digits only, no sign, no leading zero, at most 2^32 - 2: the last id means
/// "none" to the kernel (chown(2)).
fn number(text: &str) -> Option<Result<u32, &'static str>> {
    let starts_like_one =
        text.starts_with(|c: char| c.is_ascii_digit() || c == '+' || c == '-' || c == ' ') || text.is_empty();
    if !starts_like_one {
        return None;
    }
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    Some(match text.parse::<u32>() {
        Ok(id) if plain && id != u32::MAX => Ok(id),
        _ => Err("an id is a decimal number from 0 to 4294967294"),
    })
}

fn read_regular(root: BorrowedFd<'_>, path: &std::ffi::CStr) -> Option<String> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = std::fs::File::from(fd::openat2(root, path, flags, 0, Resolve::InRoot).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        Files {
            passwd: "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:33::/var/www:/bin/sh\n".into(),
            group: "root:x:0:\nweb:x:33:\nlog:x:4:web,other\nssl:x:5:other\n".into(),
        }
    }

    /// CVE-2026-30892 (crun: `-u 1` ran as uid 0) and CVE-2024-40635 (containerd: a large uid wrapped to 0).
    #[test]
    fn a_user_is_exactly_what_was_written_or_an_error() {
        let ids = |text: &str| files().find(text).map(|user| (user.uid, user.gid, user.groups)).ok();
        assert_eq!(ids("1"), Some((1, 0, vec![])));
        assert_eq!(ids("1:2"), Some((1, 2, vec![])));
        assert_eq!(ids("33"), Some((33, 33, vec![4])));
        assert_eq!(ids("web"), Some((33, 33, vec![4])));
        assert_eq!(ids("web:log"), Some((33, 4, vec![])));
        assert_eq!(ids("web:0"), Some((33, 0, vec![])));
        assert_eq!(ids("root"), Some((0, 0, vec![])));
        assert_eq!(ids("2147483648"), Some((2_147_483_648, 0, vec![])));
        assert_eq!(ids("4294967294"), Some((4_294_967_294, 0, vec![])));
        for bad in [
            "",
            "01",
            "1:",
            ":2",
            "+1",
            "-1",
            " 1",
            "1 ",
            "4294967295",
            "4294967296",
            "0x1",
            "1.0",
            "nobody",
            "web:nogroup",
            "1:2:3",
            "1\n",
            "99999999999999999999",
        ] {
            assert!(files().find(bad).is_err(), "{bad:?} was taken");
        }
    }

    /// An image may call a user whatever it likes; what looks like a number is one, or nothing.
    #[test]
    fn what_looks_like_a_number_is_no_name() {
        for name in ["-1", "+1", " 1", "1x", "007"] {
            let hostile = Files { passwd: format!("{name}:x:0:0::/:\n"), group: format!("{name}:x:0:\n") };
            assert!(hostile.find(name).is_err() && hostile.find(&format!("7:{name}")).is_err(), "{name:?}");
        }
    }

    /// CVE-2025-4437, CVE-2024-9676: the files are the image's, and may be of any size and kind, and lead anywhere.
    #[test]
    fn the_files_are_read_inside_the_root_as_far_as_a_bound() {
        let dir = std::env::temp_dir().join(format!("podrun-user-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("etc")).unwrap();
        let read = || {
            let root = std::fs::File::open(&dir).unwrap();
            let Files { passwd, group } = Files::read(std::os::fd::AsFd::as_fd(&root));
            (passwd.len(), group.len())
        };
        assert_eq!(read(), (0, 0));
        std::fs::write(dir.join("etc/passwd"), "root:x:0:0::/:\n").unwrap();
        // From inside, this link leads to the file above; from outside to the host's.
        std::os::unix::fs::symlink("/etc/passwd", dir.join("etc/group")).unwrap();
        assert_eq!(read(), (15, 15));
        std::fs::write(dir.join("etc/passwd"), vec![b'x'; (1 << 20) + 1]).unwrap();
        assert_eq!(read().0, 1 << 20);
        std::fs::remove_file(dir.join("etc/passwd")).unwrap();
        nix::unistd::mkfifo(&dir.join("etc/passwd"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(), (0, 0));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn home_comes_from_passwd() {
        assert_eq!(files().home(33), Some("/var/www"));
        assert_eq!(files().home(1), None);
    }
}
