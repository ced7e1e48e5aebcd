//! Getting into a tree of cgroup v1 late: when a limit is changed that the container was made without, and so without a
//! directory in the tree that has it. On v2 there is one tree, and everybody is in it.

#![forbid(unsafe_code)]

use super::live::{Cgroup, Open, make_directory, open_tree, prepare_parents};
use super::plan::{CgroupPlan, Dialect, Existing, Leaf};
use crate::error::{Doing, Error, Kind, Result};
use std::path::PathBuf;

/// How often the members are looked at again: those who fork meanwhile have children in the old place.
const ROUNDS: usize = 20;

impl Cgroup {
    /// Moves all members into the trees of a plan in which they are not yet; the answer is what to remember of it.
    pub fn join_late(&self, plan: &CgroupPlan) -> Result<Vec<Leaf>> {
        let is_there = |leaf: &&Leaf| self.leaves().any(|open| open.path == plan.directory(leaf));
        let missing = plan.leaves.iter().filter(|leaf| leaf.dialect == Dialect::V1 && !is_there(leaf));
        // What is there already is the caller's: he may have prepared it.
        let plan = CgroupPlan { existing: Existing::Vacant, ..plan.clone() };
        missing.map(|leaf| self.join_one(&plan, leaf).map(|()| leaf.clone())).collect()
    }

    fn join_one(&self, plan: &CgroupPlan, leaf: &Leaf) -> Result<()> {
        let mount = open_tree(&leaf.tree, leaf.dialect)?;
        let mut made: Vec<PathBuf> = Vec::new();
        let joined = make_directory(&mount, plan, leaf, &mut made)
            .and_then(|()| prepare_parents(&mount, plan, leaf))
            .and_then(|()| Open::new(&mount, &plan.place, leaf.dialect, &leaf.tree))
            .and_then(|open| self.move_all(&open));
        if joined.is_err() {
            made.iter().rev().for_each(|path| drop(std::fs::remove_dir(path)));
        }
        joined
    }

    fn move_all(&self, into: &Open) -> Result<()> {
        let there = || -> Vec<i32> {
            into.read("cgroup.procs").unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
        };
        for _ in 0..ROUNDS {
            let moved = there();
            let mut others =
                self.procs().into_iter().map(nix::unistd::Pid::as_raw).filter(|pid| !moved.contains(pid)).peekable();
            if others.peek().is_none() {
                return Ok(());
            }
            for pid in others {
                match std::fs::write(into.path.join("cgroup.procs"), pid.to_string()) {
                    // It has ended.
                    Err(err) if err.raw_os_error() == Some(libc::ESRCH) => {}
                    other => other.doing(|| format!("move process {pid} to {}", into.path.display()))?,
                }
            }
        }
        let doing = format!("move the members to {}", into.path.display());
        Err(Error::new(Kind::NotNow, doing, "they fork faster than they can be moved")
            .hint("pause the container first"))
    }
}
