//! linux.intelRdt: shares of the last-level cache and of memory bandwidth, as groups of the resctrl file system
//! (Documentation/filesystems/resctrl.rst; config-linux.md, "IntelRdt").

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use crate::sys::proc::{Mount, unescape};
use oci_spec::runtime::{Linux, LinuxIntelRdt};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A container's class of service, and whether it is watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resctrl {
    /// The group's directory; of the container's own name where the document gives none.
    pub group: String,
    /// Whether it ends with the container.
    pub own: bool,
    /// Lines of its schemata file.
    pub schemata: Vec<String>,
    /// The name of its monitoring group.
    pub watched_as: Option<String>,
}

pub fn plan(linux: Option<&Linux>, id: &str) -> Result<Option<Resctrl>> {
    let Some(asked) = linux.and_then(|linux| linux.intel_rdt().as_ref()) else { return Ok(None) };
    let named = asked.clos_id().as_deref().filter(|name| !name.is_empty());
    let group = named.unwrap_or(id);
    // What the kernel has there already is no group.
    if group.contains('/') || matches!(group, "." | ".." | "info" | "mon_groups" | "mon_data") {
        let doing = format!("read linux.intelRdt.closID {group:?}");
        return Err(Error::new(Kind::Invalid, doing, "no name of a directory of its own"));
    }
    let watched = asked.enable_monitoring().unwrap_or(false);
    Ok(Some(Resctrl {
        group: group.to_owned(),
        own: named.is_none(),
        schemata: schemata(asked)?,
        watched_as: watched.then(|| id.to_owned()),
    }))
}

/// `schemata` line by line; then l3CacheSchema, whose lines on bandwidth memBwSchema replaces.
fn schemata(asked: &LinuxIntelRdt) -> Result<Vec<String>> {
    let bandwidth = asked.mem_bw_schema().as_deref().unwrap_or_default();
    let replaced = |line: &&str| !bandwidth.is_empty() && line.trim_start().starts_with("MB:");
    let whole = asked.schemata().iter().flatten().map(String::as_str).map(|line| ("schemata", line));
    let cache = asked.l3_cache_schema().as_deref().unwrap_or_default().lines().filter(|line| !replaced(line));
    let all = whole
        .chain(cache.map(|line| ("l3CacheSchema", line)))
        .chain(bandwidth.lines().map(|line| ("memBwSchema", line)));
    all.filter(|(_, line)| !line.trim().is_empty())
        .map(|(field, line)| match line.contains(':') && !line.contains('\n') {
            true => Ok(line.trim().to_owned()),
            false => {
                let doing = format!("read linux.intelRdt.{field} {line:?}");
                Err(Error::new(Kind::Invalid, doing, "not a line like L3:0=ff;1=c0"))
            }
        })
        .collect()
}

impl Resctrl {
    /// Puts processes into its group, which is made where it is missing.
    pub fn take_in(&self, pids: &[i32]) -> Result<()> {
        self.take_in_below(&mounted()?, pids)
    }

    fn take_in_below(&self, resctrl: &Path, pids: &[i32]) -> Result<()> {
        let group = resctrl.join(&self.group);
        match std::fs::create_dir(&group) {
            Ok(()) => self.write_schemata(&group)?,
            Err(err) if err.kind() == ErrorKind::AlreadyExists => self.compare_schemata(&group)?,
            Err(err) => return Err(err).doing(|| format!("make {}", group.display())).map_err(hint_of_classes),
        }
        put_all(&group.join("tasks"), pids)?;
        let Some(name) = &self.watched_as else { return Ok(()) };
        let watched = group.join("mon_groups").join(name);
        std::fs::create_dir(&watched).doing(|| format!("make {}", watched.display())).map_err(hint_of_classes)?;
        put_all(&watched.join("tasks"), pids)
    }

    fn write_schemata(&self, group: &Path) -> Result<()> {
        if self.schemata.is_empty() {
            return Ok(());
        }
        let text = self.schemata.join("\n") + "\n";
        put(&group.join("schemata"), &text).inspect_err(|_| drop(std::fs::remove_dir(group)))
    }

    /// "If the closID directory exists … the runtime MUST compare … and generate an error if they do not match."
    fn compare_schemata(&self, group: &Path) -> Result<()> {
        let path = group.join("schemata");
        let doing = || format!("compare linux.intelRdt with {}", path.display());
        let there = std::fs::read_to_string(&path).doing(doing)?;
        match self.schemata.iter().find(|line| !there.lines().any(|other| other.trim() == *line)) {
            Some(line) => {
                Err(Error::new(Kind::Invalid, doing(), format!("the group is there, without the line {line:?}")))
            }
            None => Ok(()),
        }
    }

    /// Removes what is the container's own. Without a resctrl there is nothing.
    pub fn leave(&self) -> Result<()> {
        mounted().map_or(Ok(()), |resctrl| self.leave_below(&resctrl))
    }

    fn leave_below(&self, resctrl: &Path) -> Result<()> {
        let group = resctrl.join(&self.group);
        let watched = self.watched_as.iter().map(|name| group.join("mon_groups").join(name));
        let own = self.own.then(|| group.clone());
        for dir in watched.chain(own) {
            match std::fs::remove_dir(&dir) {
                Err(err) if err.kind() == ErrorKind::NotFound => {}
                other => other.doing(|| format!("remove {}", dir.display()))?,
            }
        }
        Ok(())
    }
}

/// Each class of service and each monitor is a number that the processor has a few of.
fn hint_of_classes(err: Error) -> Error {
    err.hint("with \"No space left on device\" the processor has no further class of service, or no further monitor")
}

/// One at a time, as the kernel wants them.
fn put_all(tasks: &Path, pids: &[i32]) -> Result<()> {
    pids.iter().try_for_each(|pid| put(tasks, &pid.to_string()))
}

fn put(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).doing(|| format!("write {text:?} to {}", path.display()))
}

fn mounted() -> Result<PathBuf> {
    let doing = || "find the resctrl file system for linux.intelRdt".to_owned();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").doing(doing)?;
    mount_point(&mounts).ok_or_else(|| {
        Error::new(Kind::Unsupported, doing(), "it is not mounted")
            .hint("a processor that has it and `mount -t resctrl resctrl /sys/fs/resctrl`")
    })
}

fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    let mut mounts = mountinfo.lines().filter_map(Mount::parse);
    mounts.find(|mount| mount.kind == "resctrl").map(|mount| unescape(mount.point))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn planned(intel_rdt: &Value) -> Result<Option<Resctrl>> {
        let linux: Linux = serde_json::from_value(json!({ "intelRdt": intel_rdt })).unwrap();
        plan(Some(&linux), "one")
    }

    #[test]
    fn a_class_is_named_by_the_document_or_after_the_container() {
        let lines = |asked: Value| planned(&asked).unwrap().unwrap().schemata;
        assert_eq!(plan(None, "one").unwrap(), None);
        let own = planned(&json!({})).unwrap().unwrap();
        assert_eq!((own.group.as_str(), own.own, own.watched_as), ("one", true, None));
        let named = planned(&json!({ "closID": "gold", "enableMonitoring": true })).unwrap().unwrap();
        assert_eq!((named.group.as_str(), named.own, named.watched_as.as_deref()), ("gold", false, Some("one")));
        assert_eq!(
            lines(json!({ "l3CacheSchema": "L3:0=ff;1=c0\nMB:0=10", "memBwSchema": "MB:0=20;1=70" })),
            ["L3:0=ff;1=c0", "MB:0=20;1=70"]
        );
        assert_eq!(lines(json!({ "l3CacheSchema": "L3:0=ff\nMB:0=10" })), ["L3:0=ff", "MB:0=10"]);
        assert_eq!(lines(json!({ "schemata": ["L3:0=f", "L2:0=1"] })), ["L3:0=f", "L2:0=1"]);
        for (wrong, place) in [
            (json!({ "closID": "../x" }), "linux.intelRdt.closID"),
            (json!({ "closID": "info" }), "linux.intelRdt.closID"),
            (json!({ "schemata": ["L3"] }), "linux.intelRdt.schemata"),
            (json!({ "schemata": ["L3:0=f\nMB:0=1"] }), "linux.intelRdt.schemata"),
            (json!({ "memBwSchema": "x" }), "linux.intelRdt.memBwSchema"),
        ] {
            let err = planned(&wrong).unwrap_err().to_string();
            assert!(err.contains(place), "{err}");
        }
    }

    /// No kernel here has one, so directories play it: the kernel would make the files by itself, and remove them.
    #[test]
    fn a_process_is_put_into_a_group_that_is_compared_or_made() {
        let fake = std::env::temp_dir().join(format!("podrun-resctrl-{}", std::process::id()));
        let text = |path: &str| std::fs::read_to_string(fake.join(path)).unwrap();
        std::fs::create_dir_all(fake.join("gold/mon_groups")).unwrap();
        std::fs::write(fake.join("gold/schemata"), "    L3:0=ff;1=ff\n    MB:0=100\n").unwrap();
        let own = planned(&json!({ "l3CacheSchema": "L3:0=f" })).unwrap().unwrap();
        own.take_in_below(&fake, &[6, 7]).unwrap();
        assert_eq!((text("one/tasks"), text("one/schemata")), ("7".into(), "L3:0=f\n".into()));
        let gold = |asked: &str| planned(&json!({ "closID": "gold", "schemata": [asked], "enableMonitoring": true }));
        let same = gold("L3:0=ff;1=ff").unwrap().unwrap();
        same.take_in_below(&fake, &[8]).unwrap();
        assert_eq!((text("gold/tasks"), text("gold/mon_groups/one/tasks")), ("8".into(), "8".into()));
        let other = gold("L3:0=0f").unwrap().unwrap().take_in_below(&fake, &[9]).unwrap_err().to_string();
        assert!(other.contains("L3:0=0f") && text("gold/tasks") == "8", "{other}");
        let nowhere = own.take_in_below(&fake.join("none"), &[1]).unwrap_err().to_string();
        assert!(nowhere.starts_with("make "), "{nowhere}");
        assert!(own.leave_below(&fake).is_err(), "here the files are in the way");
        for file in ["one/tasks", "one/schemata", "gold/mon_groups/one/tasks"] {
            std::fs::remove_file(fake.join(file)).unwrap();
        }
        // Twice: a deletion that was cut short is done again.
        for one in [&own, &same, &own, &same] {
            one.leave_below(&fake).unwrap();
        }
        assert!(!fake.join("one").exists() && !fake.join("gold/mon_groups/one").exists());
        assert!(fake.join("gold").exists(), "it is not the container's own");
        std::fs::remove_dir_all(&fake).unwrap();
    }

    #[test]
    fn it_is_found_by_its_type() {
        let line = |kind: &str| format!("30 24 0:27 / /sys/fs/resctrl rw,relatime - {kind} resctrl rw\n");
        assert_eq!(mount_point(&line("resctrl")), Some("/sys/fs/resctrl".into()));
        assert_eq!(mount_point(&line("tmpfs")), None);
    }
}
