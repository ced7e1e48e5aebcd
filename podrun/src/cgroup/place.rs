//! Where a cgroup lies under the root of each tree: `podrun/<pod-id>/<container>`, the same in all of them.

#![forbid(unsafe_code)]

use crate::error::{Error, Kind, Result};
use crate::id::{ContainerName, PodId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A relative path without a `.` or `..`, so that joining it to a tree's root never leaves the tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Place(String);

impl Place {
    /// Reads a path as config.json's `linux.cgroupsPath` has it; a leading slash means the tree's root.
    pub fn parse(text: &str) -> Result<Self> {
        let path = text.strip_prefix('/').unwrap_or(text);
        let plain = |part: &str| {
            !matches!(part, "" | "." | "..") && part.len() <= 255 && !part.bytes().any(|b| b == 0 || b == b'\n')
        };
        match path.split('/').all(plain) {
            true => Ok(Self(path.to_owned())),
            false => Err(Error::new(Kind::Invalid, format!("read the cgroup path {text:?}"), "not a plain path")
                .hint("use names separated by single slashes, without '.' and '..'")),
        }
    }

    /// The pod's own directory; `top` is the run-root's name, `podrun` by default.
    pub fn pod(top: &str, id: &PodId) -> Self {
        Self(format!("{top}/{id}"))
    }

    /// A container's leaf. `tasks` is a fine container name, but v1 has a file of that name in each directory; an
    /// underscore cannot begin a container's name, so the other name is free.
    pub fn container(&self, name: &ContainerName) -> Self {
        match name.as_str() {
            "tasks" => self.join("_tasks"),
            name => self.join(name),
        }
    }

    /// The leaf of pause, monitor and pump: on v2 a directory that limits its children holds no process itself.
    pub fn own(&self) -> Self {
        self.join("_podrun")
    }

    /// A place that somebody names, as seen from this one.
    pub fn below(&self, text: &str) -> Result<Self> {
        match text.trim_matches('/') {
            "" => Ok(self.clone()),
            path => Self::parse(path).map(|path| self.join(path.as_str())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directories above this one, top first, without the tree's root.
    pub fn parents(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }

    fn join(&self, name: &str) -> Self {
        Self(format!("{}/{name}", self.0))
    }
}

impl TryFrom<String> for Place {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_never_leaves_its_tree() {
        for (text, kept) in [("a/b", "a/b"), ("/a/b", "a/b"), ("podrun", "podrun"), ("...", "...")] {
            assert_eq!(Place::parse(text).unwrap().as_str(), kept);
        }
        for bad in ["", "/", "..", "a/../b", "a//b", "a/", "./a", "a\nb", "a\0", &"x".repeat(256)] {
            assert_eq!(Place::parse(bad).unwrap_err().kind, Kind::Invalid, "{bad:?}");
        }
        assert!(serde_json::from_str::<Place>(r#""../../memory""#).is_err());
    }

    #[test]
    fn everything_follows_from_the_pods_id() {
        let pod = Place::pod("podrun", &PodId::random([0xab; 16]));
        let web = pod.container(&ContainerName::parse("web").unwrap());
        assert_eq!(web.as_str(), format!("podrun/{}/web", "ab".repeat(16)));
        assert_eq!(web.parents().collect::<Vec<_>>(), ["podrun", pod.as_str()]);
        assert_eq!(pod.own().as_str(), format!("{pod}/_podrun"));
    }

    #[test]
    fn a_container_called_tasks_does_not_meet_the_file() {
        let pod = Place::parse("p").unwrap();
        assert_eq!(pod.container(&ContainerName::parse("tasks").unwrap()).as_str(), "p/_tasks");
    }
}
