//! What a rootfs is filled with: places, mounts, devices and links, as plain data for `init`.
//!
//! Planning is here and pure; the acting is in `container::init`, by descriptors only.

#![forbid(unsafe_code)]

pub mod devices;
pub mod idmap;
pub mod mounts;

use crate::error::{Error, Kind, Result};
use crate::text::Text;
use idmap::Idmap;
use serde::{Deserialize, Serialize};

/// What a mount point must be; made where it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PointKind {
    Directory,
    File,
}

/// One directory on the way to a mount point: `name` in `parent`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    pub parent: Text,
    pub name: Text,
}

/// A place below the rootfs, with the way there spelled out, so that it can be made component by component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub path: Text,
    pub way: Vec<Component>,
    pub kind: PointKind,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// A new filesystem: its type and its settings (a key alone is a flag).
    New { kind: Text, settings: Vec<(Text, Option<Text>)> },
    /// A new tmpfs that begins with what it covers (`tmpcopyup`).
    CopyUp { settings: Vec<(Text, Option<Text>)>, looks: Looks },
    /// What an earlier mount of the plan put there (`remount`), and new settings for its filesystem.
    Mounted { settings: Vec<(Text, Option<Text>)> },
    /// A path of the host.
    Bind { path: Text, recursive: bool },
    /// What earlier mounts of the plan made of a path of the rootfs, which is the container's by then.
    Inside { path: Text, recursive: bool },
    /// The tmpfs that all containers of the pod have on /dev/shm.
    PodMemory,
}

/// Owner and permissions of a tmpfs's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Looks {
    OfTheCovered,
    AsSet,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub source: Source,
    pub at: Place,
    /// `MOUNT_ATTR_*` to set and to clear on the mount itself.
    pub set: u64,
    pub clear: u64,
    /// The same for everything below it (`rro` and its kin).
    pub set_below: u64,
    pub clear_below: u64,
    /// `MS_PRIVATE` and its kin with or without `MS_REC`, 0 to leave it.
    pub propagation: u64,
    /// /proc and /sys must not lie behind a link of the image (CVE-2019-19921).
    pub follow: Follow,
    #[serde(default)]
    pub idmap: Option<Idmap>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Follow {
    LinksInside,
    NoLinks,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub at: Place,
    /// The directory and the name in it.
    pub name: Component,
    /// mknod(2)'s mode: the type and the permissions.
    pub mode: u32,
    pub device: u64,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub at: Component,
    pub target: Text,
}

impl Place {
    /// A path of the container, made absolute to its root. `..` is refused: nothing that podrun plans needs it.
    pub fn new(what: &str, path: &str, kind: PointKind) -> Result<Self> {
        let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.contains(&"..") {
            return Err(Error::new(Kind::Invalid, format!("read {what} {path:?}"), "it holds '..'"));
        }
        let mut way = Vec::with_capacity(parts.len());
        let mut parent = String::from("/");
        for part in &parts {
            way.push(Component { parent: Text::new(what, parent.clone())?, name: Text::new(what, *part)? });
            if parent.len() > 1 {
                parent.push('/');
            }
            parent.push_str(part);
        }
        Ok(Self { path: Text::new(what, parent)?, way, kind })
    }

    /// The last component: the name, and the directory that it is in. `/` itself has none.
    pub fn last(&self) -> Option<&Component> {
        self.way.last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_spells_out_the_way_there() {
        let place = Place::new("a mount", "/dev//./pts/", PointKind::Directory).unwrap();
        let way: Vec<_> = place.way.iter().map(|c| (c.parent.lossy(), c.name.lossy())).collect();
        assert_eq!(way, [("/".into(), "dev".into()), ("/dev".into(), "pts".into())]);
        assert_eq!(place.path.lossy(), "/dev/pts");
        assert_eq!(Place::new("a mount", "/", PointKind::Directory).unwrap().path.lossy(), "/");
        assert!(Place::new("a mount", "/a/../b", PointKind::Directory).is_err());
        assert!(Place::new("a mount", "/a\0b", PointKind::Directory).is_err());
    }
}
