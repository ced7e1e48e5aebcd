//! Mounts with mapped IDs (mount_setattr(2) MOUNT_ATTR_IDMAP): whose files the container sees is not what the disk says.
//!
//! The kernel takes the mapping from a user namespace, which nobody lives in: a child makes it, is looked at, and ends.

#![forbid(unsafe_code)]

use super::Mount;
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::clone::{Clone, clone3, exit, wait};
use crate::sys::{fd, ns};
use crate::text::Text;
use oci_spec::runtime::{self as oci, LinuxIdMapping};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What user_namespaces(7) wants in uid_map and gid_map, and how far it reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Idmap {
    pub uids: Text,
    pub gids: Text,
    pub reach: Reach,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reach {
    Mount,
    /// `ridmap`: all that is mounted below, too.
    Below,
}

/// The mapping of one mount. `container` is that of the container's own user namespace.
pub(super) fn plan(
    mount: &oci::Mount,
    asked: Option<Reach>,
    container: Option<(&[LinuxIdMapping], &[LinuxIdMapping])>,
    path: &str,
) -> Result<Option<Idmap>> {
    let fail = |field: &str, cause: &str| Err(Error::new(Kind::Invalid, format!("read {path}.{field}"), cause));
    let own = |list: &Option<Vec<LinuxIdMapping>>| list.clone().filter(|list| !list.is_empty());
    let (uids, gids, from) = match (own(mount.uid_mappings()), own(mount.gid_mappings()), asked, container) {
        // config.md: "If specified, it MUST be specified along with" the other.
        (Some(_), None, _, _) => return fail("gidMappings", "missing, and there are uidMappings"),
        (None, Some(_), _, _) => return fail("uidMappings", "missing, and there are gidMappings"),
        (Some(uids), Some(gids), _, _) => (uids, gids, path),
        (None, None, None, _) => return Ok(None),
        (None, None, Some(_), Some((uids, gids))) => (uids.to_vec(), gids.to_vec(), "linux"),
        (None, None, Some(_), None) => {
            return fail(
                "uidMappings",
                "missing: the options ask for mapped IDs, and the container has no user namespace",
            );
        }
    };
    Ok(Some(Idmap {
        uids: lines(&uids, &format!("{from}.uidMappings"))?,
        gids: lines(&gids, &format!("{from}.gidMappings"))?,
        reach: asked.unwrap_or(Reach::Mount),
    }))
}

/// Container, host, size, a line each, as uid_map and gid_map take them.
pub fn lines(list: &[LinuxIdMapping], path: &str) -> Result<Text> {
    let mut text = String::new();
    for (index, one) in list.iter().enumerate() {
        let fail = |cause: &str| Err(Error::new(Kind::Invalid, format!("read {path}[{index}].size"), cause));
        if one.size() == 0 {
            return fail("0: it maps nothing");
        }
        if [one.container_id(), one.host_id()].iter().any(|first| first.checked_add(one.size() - 1).is_none()) {
            return fail("it goes beyond the last ID");
        }
        text.push_str(&format!("{} {} {}\n", one.container_id(), one.host_id(), one.size()));
    }
    Text::new(path, text)
}

/// The user namespaces of a plan's mounts, ready for a child that may not make them itself.
#[derive(Debug, Default)]
pub struct Namespaces {
    made: Vec<OwnedFd>,
    /// For each mount which one.
    of: Vec<Option<usize>>,
}

impl Namespaces {
    /// One for each mapping, however many mounts have it.
    pub fn new(mounts: &[Mount]) -> Result<Self> {
        let (mut all, mut known) = (Self::default(), Vec::<(&Text, &Text)>::new());
        for mount in mounts {
            let Some(map) = &mount.idmap else {
                all.of.push(None);
                continue;
            };
            let same = known.iter().position(|(uids, gids)| **uids == map.uids && **gids == map.gids);
            if same.is_none() {
                let doing = || format!("map the IDs of the mount on {}", mount.at.path.lossy());
                all.made.push(namespace(map).map_err(|err| err.within(doing()))?);
                known.push((&map.uids, &map.gids));
            }
            all.of.push(same.or(known.len().checked_sub(1)));
        }
        Ok(all)
    }

    pub fn of(&self, mount: usize) -> Option<BorrowedFd<'_>> {
        self.made.get((*self.of.get(mount)?)?).map(AsFd::as_fd)
    }
}

/// A user namespace with these mappings and no process.
fn namespace(map: &Idmap) -> Result<OwnedFd> {
    let doing = || "make a user namespace".to_owned();
    let (leave, stay) = std::io::pipe().doing(doing)?;
    let born = || {
        // Whatever becomes of its maker: without one there is nobody to keep the pipe open, and it leaves.
        let _ = fd::close_all_but(&mut [leave.as_fd()]);
        let _ = fd::read(leave.as_fd(), &mut [0]);
        exit(0)
    };
    let child = clone3(&Clone { namespaces: libc::CLONE_NEWUSER, cgroup: None }, born)
        .doing(doing)
        .map_err(|err| err.hint("user.max_user_namespaces may be 0, or unprivileged"))?;
    let write = |file: &str, text: &Text| {
        std::fs::write(format!("/proc/{}/{file}", child.pid), text.c().to_bytes()).doing(|| format!("write {file}"))
    };
    let made = write("uid_map", &map.uids)
        .and_then(|()| write("gid_map", &map.gids))
        .map_err(|err| err.hint("ranges must not overlap, and there may be 340 of them"))
        .and_then(|()| ns::of(child.pid, "user").doing(doing));
    drop(stay);
    wait(child.pidfd.as_fd()).doing(doing)?;
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(mount: &str, asked: Option<Reach>) -> Result<Option<Idmap>> {
        let mount: oci::Mount = serde_json::from_str(mount).unwrap();
        plan(&mount, asked, None, "mounts[3]")
    }

    const MAPPED: &str = r#"{"destination": "/a",
        "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 1, "hostID": 5, "size": 2}],
        "gidMappings": [{"containerID": 0, "hostID": 2000, "size": 3}]}"#;

    #[test]
    fn a_mapping_is_what_the_kernel_reads() {
        let text = |text: &str| Text::new("", text).unwrap();
        let map = |reach| Idmap { uids: text("0 1000 1\n1 5 2\n"), gids: text("0 2000 3\n"), reach };
        assert_eq!(planned(MAPPED, Some(Reach::Below)).unwrap(), Some(map(Reach::Below)));
        // The option only says how far; older documents have the mappings alone.
        assert_eq!(planned(MAPPED, None).unwrap(), Some(map(Reach::Mount)));
        assert_eq!(planned(r#"{"destination": "/a"}"#, None).unwrap(), None);
        assert_eq!(planned(r#"{"destination": "/a", "uidMappings": []}"#, None).unwrap(), None);
    }

    #[test]
    fn the_containers_own_mapping_is_there_for_those_who_name_none() {
        let mount: oci::Mount = serde_json::from_str(r#"{"destination": "/a"}"#).unwrap();
        let list: Vec<LinuxIdMapping> =
            serde_json::from_str(r#"[{"containerID": 0, "hostID": 7, "size": 1}]"#).unwrap();
        let own = plan(&mount, Some(Reach::Mount), Some((&list, &list)), "mounts[0]").unwrap().unwrap();
        assert_eq!(own.uids.lossy(), "0 7 1\n");
        assert!(plan(&mount, None, Some((&list, &list)), "mounts[0]").unwrap().is_none());
    }

    #[test]
    fn a_mapping_that_cannot_be_has_its_json_path() {
        let mapping = |uids: &str, gids: &str| {
            format!(r#"{{"destination": "/a", "uidMappings": {uids}, "gidMappings": {gids}}}"#)
        };
        let one = r#"[{"containerID": 0, "hostID": 0, "size": 1}]"#;
        for (mount, words) in [
            (mapping(one, "[]"), "read mounts[3].gidMappings: missing"),
            (mapping("[]", one), "read mounts[3].uidMappings: missing"),
            (mapping(one, r#"[{"size": 1}, {"size": 0}]"#), "read mounts[3].gidMappings[1].size: 0"),
            (
                mapping(r#"[{"containerID": 4294967295, "size": 2}]"#, one),
                "read mounts[3].uidMappings[0].size: it goes",
            ),
            (mapping(r#"[{"hostID": 2, "size": 4294967295}]"#, one), "read mounts[3].uidMappings[0].size: it goes"),
        ] {
            let err = planned(&mount, None).unwrap_err().to_string();
            assert!(err.starts_with(words), "{err}");
        }
        let none = planned(r#"{"destination": "/a"}"#, Some(Reach::Mount)).unwrap_err().to_string();
        assert!(none.contains("mounts[3].uidMappings: missing"), "{none}");
    }
}
