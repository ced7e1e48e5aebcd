//! Cgroups below a container's own, which somebody inside has made, and the one that its first process has gone to.

#![forbid(unsafe_code)]

use super::layout::Layout;
use super::live::{Cgroup, Open, open_tree};
use super::place::Place;
use super::plan::{CgroupPlan, Dialect, Leaf, cgroup_of};
use crate::error::{Doing, Error, Kind, Result};

/// Where a program goes that joins a container (runc-exec(8), `--cgroup`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Below {
    /// The container's own.
    #[default]
    Own,
    /// The same path in all trees; `/` is the container's own.
    Path(String),
    /// `CONTROLLER[,CONTROLLER]:PATH`, each controller once; its own in the trees of all others. For cgroup v1.
    Controllers(Vec<(String, String)>),
}

impl Below {
    pub fn parse(words: &[String]) -> Result<Self> {
        let mut all: Vec<(String, String)> = Vec::new();
        for word in words {
            let fail = |cause: &str| Err(Error::new(Kind::Usage, format!("read --cgroup {word:?}"), cause));
            let Some((controllers, path)) = word.split_once(':') else {
                return match words {
                    [path] => Ok(Self::Path(path.clone())),
                    _ => fail("of several each names its controllers: CONTROLLER[,CONTROLLER]:PATH"),
                };
            };
            for one in controllers.split(',') {
                if one.is_empty() {
                    return fail("a controller without a name");
                }
                if all.iter().any(|(known, _)| known == one) {
                    return fail(&format!("the controller {one} twice"));
                }
                all.push((one.to_owned(), path.to_owned()));
            }
        }
        Ok(if all.is_empty() { Self::Own } else { Self::Controllers(all) })
    }

    /// It in each tree where the container is.
    pub fn open(&self, plan: &CgroupPlan) -> Result<Cgroup> {
        let mut leaves = Vec::with_capacity(plan.leaves.len());
        for (leaf, place) in plan.leaves.iter().zip(self.places(plan)?) {
            let mount = open_tree(&leaf.tree, leaf.dialect)?;
            match Open::new(&mount, &place, leaf.dialect, &leaf.tree) {
                // The unified tree of a host with v1 is podrun's own affair: whoever makes cgroups there need not know of it.
                Err(err) if err.kind == Kind::NotFound && leaf.dialect == Dialect::V2 && has_v1(plan) => {
                    leaves.push(Open::new(&mount, &plan.place, leaf.dialect, &leaf.tree)?);
                }
                opened => leaves.push(opened.map_err(|err| err.within("use --cgroup"))?),
            }
        }
        Ok(Cgroup { place: plan.place.clone(), leaves })
    }

    /// One for each leaf of the plan.
    fn places(&self, plan: &CgroupPlan) -> Result<Vec<Place>> {
        let all = match self {
            Self::Own => &[][..],
            Self::Path(path) => return plan.leaves.iter().map(|_| plan.place.below(path)).collect(),
            Self::Controllers(all) => all,
        };
        let mut places = vec![None; plan.leaves.len()];
        for (controller, path) in all {
            let fail = |cause: &str| {
                Err(Error::new(Kind::Invalid, format!("use --cgroup for the controller {controller}"), cause))
            };
            let has_it = |leaf: &Leaf| leaf.tree.controllers.iter().any(|one| one.v1_name() == controller);
            let Some(at) = plan.leaves.iter().position(|leaf| leaf.dialect == Dialect::V1 && has_it(leaf)) else {
                return fail(match has_v1(plan) {
                    true => "the container is in no cgroup v1 tree of it",
                    false => "cgroup v2 has one tree for all of them: give a path alone",
                });
            };
            let place = plan.place.below(path)?;
            if places[at].replace(place.clone()).is_some_and(|other| other != place) {
                return fail("another controller of the same tree has another path");
            }
        }
        Ok(places.into_iter().map(|place| place.unwrap_or_else(|| plan.place.clone())).collect())
    }
}

fn has_v1(plan: &CgroupPlan) -> bool {
    plan.leaves.iter().any(|leaf| leaf.dialect == Dialect::V1)
}

impl Cgroup {
    /// What failed in the container's own cgroup, once more in the one that its first process is in by now: a service manager
    /// moves itself below, and then no process may be in the container's own any more (cgroups(7), "no internal processes").
    pub fn or_where_it_went<T>(err: Error, pid: i32, again: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        match Self::gone_to(pid) {
            Ok(Some(cgroup)) => again(&cgroup),
            _ => Err(err),
        }
    }

    /// Where a process is, on cgroup v2 alone: elsewhere there is no such rule.
    fn gone_to(pid: i32) -> Result<Option<Self>> {
        let layout = Layout::detect()?;
        let Some(tree) = layout.v2.as_ref().filter(|_| layout.v1.is_empty()) else { return Ok(None) };
        let shown = std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
        let shown = shown.doing(|| "look for the container's cgroup".into())?;
        let path = cgroup_of(&shown, "").map(std::path::Path::new);
        let Some(path) = path.and_then(|path| path.strip_prefix(&tree.top).ok()) else { return Ok(None) };
        let place = Place::parse(&path.to_string_lossy())?;
        let open = Open::new(&open_tree(tree, Dialect::V2)?, &place, Dialect::V2, tree)?;
        Ok(Some(Self { place, leaves: vec![open] }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::plan;

    fn parsed(words: &[&str]) -> Result<Below, String> {
        Below::parse(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>()).map_err(|err| err.to_string())
    }

    #[test]
    fn a_path_is_for_all_controllers_or_for_those_that_it_names() {
        assert_eq!(parsed(&[]).unwrap(), Below::Own);
        assert_eq!(parsed(&["a/b"]).unwrap(), Below::Path("a/b".into()));
        let each = [("cpu", "x"), ("cpuacct", "x"), ("memory", "")].map(|(one, path)| (one.into(), path.into()));
        assert_eq!(parsed(&["cpu,cpuacct:x", "memory:"]).unwrap(), Below::Controllers(each.into()));
        for (words, cause) in [
            (&["a", "b"][..], "of several each names"),
            (&["cpu:a", "b"], "of several each names"),
            (&[":a"], "without a name"),
            (&["cpu,:a"], "without a name"),
            (&["cpu:a", "memory,cpu:b"], "the controller cpu twice"),
        ] {
            let err = parsed(words).unwrap_err();
            assert!(err.contains(cause), "{words:?}: {err}");
        }
    }

    #[test]
    fn each_tree_has_the_path_of_its_controllers() {
        let hybrid = "3:cpu,cpuacct:/\n2:memory:/\n0::/\n";
        let mounts = "1 0 0:1 / /c/cpu rw - cgroup cgroup rw,cpu,cpuacct\n2 0 0:2 / /c/memory rw - cgroup cgroup rw,memory\n\
                      3 0 0:3 / /c/unified rw - cgroup2 cgroup2 rw\n";
        let places = |layout: &Layout, words: &[&str]| {
            let limits = r#"{"memory": {"limit": 10000000}, "cpu": {"shares": 100}}"#;
            let limits = serde_json::from_str(limits).unwrap();
            let planned = plan::container(layout, &Place::parse("p/c").unwrap(), Some(&limits), None).unwrap();
            let places = parsed(words)?.places(&planned).map_err(|err| err.to_string())?;
            let named = planned.leaves.iter().zip(places);
            let named = named.map(|(leaf, place)| format!("{} {place}", leaf.tree.mount.display()));
            Ok::<_, String>(named.collect::<Vec<_>>().join(", "))
        };
        let v1 = Layout::parse(mounts, hybrid);
        let shown = |words: &[&str]| {
            let mut all: Vec<String> = places(&v1, words).unwrap().split(", ").map(str::to_owned).collect();
            all.sort();
            all.join(", ")
        };
        assert_eq!(shown(&[]), "/c/cpu p/c, /c/memory p/c, /c/unified p/c");
        assert_eq!(shown(&["/"]), "/c/cpu p/c, /c/memory p/c, /c/unified p/c");
        assert_eq!(shown(&["/x"]), "/c/cpu p/c/x, /c/memory p/c/x, /c/unified p/c/x");
        assert_eq!(shown(&["memory:x"]), "/c/cpu p/c, /c/memory p/c/x, /c/unified p/c");
        assert_eq!(shown(&["cpu,cpuacct:y", "memory:/"]), "/c/cpu p/c/y, /c/memory p/c, /c/unified p/c");
        let v2 =
            Layout::parse("1 0 0:3 / /c rw - cgroup2 cgroup2 rw\n", "0::/\n").with_unified_controllers("memory cpu");
        assert_eq!(places(&v2, &["x"]).unwrap(), "/c p/c/x");
        for (layout, words, cause) in [
            (&v1, &["whaaat:/"][..], "controller whaaat: the container is in no cgroup v1 tree of it"),
            (&v1, &["cpu:a", "cpuacct:b"], "another controller of the same tree has another path"),
            (&v1, &["cpu:../d"], "not a plain path"),
            (&v2, &["cpu:x"], "cgroup v2 has one tree for all of them"),
            (&v2, &["../d"], "not a plain path"),
        ] {
            let err = places(layout, words).unwrap_err();
            assert!(err.contains(cause), "{words:?}: {err}");
        }
    }
}
