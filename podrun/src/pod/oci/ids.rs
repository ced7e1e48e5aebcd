//! user_namespaces(7), "User and group ID mappings": the maps of a newborn's user namespace, written by whoever may: root
//! writes them, of the machine any, of a user namespace those that it has itself; for a user see [`crate::rootless::ids`].

#![forbid(unsafe_code)]

use crate::container::alone::Mappings;
use crate::error::{Doing, Result};
use crate::privilege::{Extent, Privilege};
use crate::rootless::ids::{Which, apply_one};
use crate::text::Text;

pub(super) fn map(pid: i32, ids: &Mappings) -> Result<()> {
    for (which, field, lines) in
        [(Which::User, "linux.uidMappings", &ids.uids), (Which::Group, "linux.gidMappings", &ids.gids)]
    {
        match Privilege::own() {
            Privilege::Host | Privilege::Namespace => write(pid, which, field, lines)?,
            Privilege::User => apply_one(pid, which, &Extent::read(&lines.lossy()))
                .map_err(|err| err.within(format!("map {field}")))?,
        }
    }
    Ok(())
}

/// Whole, in one write.
fn write(pid: i32, which: Which, field: &str, lines: &Text) -> Result<()> {
    let path = format!("/proc/{pid}/{}", which.map());
    let written = std::fs::write(&path, lines.c().to_bytes());
    let refused = written.as_ref().is_err_and(|err| err.raw_os_error() == Some(libc::EPERM));
    let written = written.doing(|| format!("write {field} to {path}"));
    match refused && Privilege::own() == Privilege::Namespace {
        true => written.map_err(|err| err.hint("podrun's own user namespace has not all of these ids")),
        false => written,
    }
}
