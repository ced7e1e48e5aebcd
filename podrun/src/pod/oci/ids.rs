//! user_namespaces(7), "User and group ID mappings": the maps of a newborn's user namespace, written by whoever may.
//!
//! Root writes them, of the machine any, of a user namespace those that it has itself. A user writes the one of his own id;
//! for more there are newuidmap(1) and newgidmap(1), which know what /etc/subuid and /etc/subgid let him have.

#![forbid(unsafe_code)]

use crate::container::alone::Mappings;
use crate::error::{Doing, Error, Kind, Result};
use crate::privilege::Privilege;
use crate::sys::cred;
use crate::text::Text;
use std::process::Command;

/// One of the two maps.
struct Map<'a> {
    file: &'static str,
    field: &'static str,
    program: &'static str,
    lines: &'a Text,
    own: u32,
}

pub(super) fn map(pid: i32, ids: &Mappings) -> Result<()> {
    let uids = Map {
        file: "uid_map",
        field: "linux.uidMappings",
        program: "newuidmap",
        lines: &ids.uids,
        own: cred::effective_uid(),
    };
    let gids = Map {
        file: "gid_map",
        field: "linux.gidMappings",
        program: "newgidmap",
        lines: &ids.gids,
        own: cred::effective_gid(),
    };
    match Privilege::own() {
        Privilege::Host | Privilege::Namespace => uids.write(pid).and_then(|()| gids.write(pid)),
        Privilege::User => {
            if uids.is_own() {
                uids.write(pid)?
            } else {
                uids.ask(pid)?
            }
            if !gids.is_own() {
                return gids.ask(pid);
            }
            // CVE-2014-8989: who could drop a group by himself would get at what is forbidden to that group.
            let path = format!("/proc/{pid}/setgroups");
            std::fs::write(&path, "deny").doing(|| format!("write {path}"))?;
            gids.write(pid)
        }
    }
}

impl Map<'_> {
    /// The one mapping that needs no privilege.
    fn is_own(&self) -> bool {
        let text = self.lines.lossy();
        let numbers: Vec<u32> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        matches!(numbers[..], [_, host, 1] if host == self.own)
    }

    /// Whole, in one write.
    fn write(&self, pid: i32) -> Result<()> {
        let path = format!("/proc/{pid}/{}", self.file);
        let written = std::fs::write(&path, self.lines.c().to_bytes());
        let refused = written.as_ref().is_err_and(|err| err.raw_os_error() == Some(libc::EPERM));
        let written = written.doing(|| format!("write {} to {path}", self.field));
        match refused && Privilege::own() == Privilege::Namespace {
            true => written.map_err(|err| err.hint("podrun's own user namespace has not all of these ids")),
            false => written,
        }
    }

    fn ask(&self, pid: i32) -> Result<()> {
        let doing = || format!("map {} by {}", self.field, self.program);
        let lines = self.lines.lossy();
        let output = Command::new(self.program).arg(pid.to_string()).args(lines.split_whitespace()).output();
        let output = match output {
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::new(Kind::Unsupported, doing(), "there is no such program on PATH")
                    .hint("Debian has it in the package uidmap, others in shadow-utils; a map of the user's own id needs none"));
            }
            other => other.doing(doing)?,
        };
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Error::new(Kind::Unsupported, doing(), said.trim())
            .hint("/etc/subuid and /etc/subgid say which ids a user may map"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_own_id_is_one_line_of_one_id() {
        let is_own = |lines: &str| {
            let lines = &Text::new("", lines).unwrap();
            Map { file: "", field: "", program: "", lines, own: 1000 }.is_own()
        };
        for own in ["0 1000 1\n", "1000 1000 1\n"] {
            assert!(is_own(own), "{own}");
        }
        for more in ["0 1001 1\n", "0 1000 2\n", "0 1000 1\n1 100000 10\n", ""] {
            assert!(!is_own(more), "{more}");
        }
    }
}
