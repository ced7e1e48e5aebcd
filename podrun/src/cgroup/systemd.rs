//! The systemd driver: a container's cgroup is a transient scope, which systemd makes, and whose limits it knows, so that
//! no `daemon-reload` resets them. Below the scope all is podrun's own (`Delegate=`, systemd.resource-control(5)). Who is not
//! root of the machine has his own manager make it, in what is delegated to that one ([`Manager`]).

#![forbid(unsafe_code)]

mod instance;

use super::limit::Setting;
use super::place::Place;
use super::plan::{CgroupPlan, Dialect, cgroup_of};
use crate::dbus::wire::Value;
use crate::error::{Doing, Error, Kind, Result};
use instance::Asked;
pub use instance::Manager;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A scope and the slice that it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Who makes it; records of before know the machine's alone.
    #[serde(default)]
    manager: Manager,
    slice: String,
    unit: String,
}

impl Scope {
    /// `SLICE:PREFIX:NAME` of linux.cgroupsPath, as runc and podman have it; without one a scope of podrun's own name.
    pub fn parse(path: Option<&str>, id: &str, manager: Manager) -> Result<Self> {
        let usual = manager.usual_slice();
        let Some(path) = path.filter(|path| !path.is_empty()) else {
            return Ok(Self { manager, slice: usual.into(), unit: format!("podrun-{}.scope", escaped(id)) });
        };
        let fail = |cause: &str| Error::new(Kind::Invalid, format!("read linux.cgroupsPath {path:?}"), cause);
        let parts: Vec<&str> = path.split(':').collect();
        let [slice, prefix, name] = parts[..] else {
            return Err(fail("with --systemd-cgroup it is SLICE:PREFIX:NAME"));
        };
        let slice = if slice.is_empty() { usual } else { slice };
        if !is_slice(slice) {
            return Err(fail("the first part is no name of a slice"));
        }
        if name.is_empty() {
            return Err(fail("the third part, the scope's name, is empty"));
        }
        let unit = match prefix {
            "" => format!("{}.scope", escaped(name)),
            prefix => format!("{}-{}.scope", escaped(prefix), escaped(name)),
        };
        Ok(Self { manager, slice: slice.to_owned(), unit })
    }

    /// Where systemd puts it, below the manager's own cgroup: a slice `a-b.slice` is in `a.slice` (systemd.slice(5)).
    pub fn place(&self) -> Result<Place> {
        let mut path = String::new();
        let stem = self.slice.strip_suffix(".slice").unwrap_or_default();
        for (at, _) in stem.match_indices('-').chain([(stem.len(), "")]).filter(|_| stem != "-") {
            path.push_str(&format!("{}.slice/", &stem[..at]));
        }
        Place::parse(&format!("{path}{}", self.unit))
    }

    /// Makes the scope around a process. Afterwards the process is in it, or this fails: a limit that does not hold its
    /// process is no limit (runc#3780), so the caller looks once more by itself.
    pub fn start(&self, pid: i32, plan: &CgroupPlan) -> Result<()> {
        self.make(u32::try_from(pid).unwrap_or_default(), &limits(plan)?)
    }

    /// A scope for this process, by which it comes into what is delegated to a user's manager: a login's session is a scope of
    /// root's. It goes with the process.
    pub fn around_this_process(manager: Manager) -> Result<()> {
        let pid = std::process::id();
        Self { manager, slice: "app.slice".into(), unit: format!("podrun-{pid}.scope") }.make(pid, &[])
    }

    /// Before a process is put into the scope. Of the directory above both where it was and where it goes whoever puts it there
    /// must be the owner (cgroups(7), "Cgroups delegation: Containment rules"); above what is below the manager that is root.
    pub fn approach(&self, plan: &CgroupPlan) -> Result<()> {
        let Some(leaf) = plan.leaves.iter().find(|leaf| leaf.dialect == Dialect::V2) else { return Ok(()) };
        let own = std::fs::read_to_string("/proc/self/cgroup").doing(|| "look for podrun's own cgroup".into())?;
        match &self.manager {
            Manager::User(_) if !cgroup_of(&own, "").is_some_and(|own| Path::new(own).starts_with(&leaf.tree.top)) => {
                Self::around_this_process(self.manager.clone())
                    .map_err(|err| err.within(format!("get near to the scope {}", self.unit)))
            }
            _ => Ok(()),
        }
    }

    fn make(&self, pid: u32, limits: &[Value]) -> Result<()> {
        let mut systemd = self.manager.connect()?;
        match self.ask(&mut systemd, pid, limits) {
            // A scope of this name that failed is in the way until somebody says so.
            Err(err) if err.kind == Kind::AlreadyExists => {
                let _ = systemd.call("ResetFailedUnit", &[Value::Text(self.unit.clone())]);
                self.ask(&mut systemd, pid, limits)
            }
            other => other,
        }
    }

    fn ask(&self, systemd: &mut Asked, pid: u32, limits: &[Value]) -> Result<()> {
        let mut properties = vec![
            property("Description", Value::Text(format!("podrun container {}", self.unit))),
            property("Slice", Value::Text(self.slice.clone())),
            property("Delegate", Value::Bool(true)),
            property("DefaultDependencies", Value::Bool(false)),
            // Gone when its last process is, also when that failed.
            property("CollectMode", Value::Text("inactive-or-failed".into())),
            property("PIDs", Value::Array("u".into(), vec![Value::U32(pid)])),
        ];
        // Each of them has systemd hand its controller down to the scope.
        properties.extend(
            ["MemoryAccounting", "CPUAccounting", "TasksAccounting", "IOAccounting"]
                .map(|name| property(name, Value::Bool(true))),
        );
        properties.extend_from_slice(limits);
        let body = [
            Value::Text(self.unit.clone()),
            Value::Text("replace".into()),
            Value::Array("(sv)".into(), properties),
            Value::Array("(sa(sv))".into(), Vec::new()),
        ];
        let job = systemd.call("StartTransientUnit", &body)?;
        systemd.wait(&job, &format!("start the scope {}", self.unit))
    }

    /// Ends it. One that is gone is fine: systemd takes a scope away with its last process, and with its own end, as that of a
    /// user's does with his last login.
    pub fn stop(&self) -> Result<()> {
        let mut systemd = match self.manager.connect() {
            Err(_) if self.manager.has_ended() => return Ok(()),
            other => other?,
        };
        let body = [Value::Text(self.unit.clone()), Value::Text("replace".into())];
        match systemd.call("StopUnit", &body) {
            Ok(job) => systemd.wait(&job, &format!("stop the scope {}", self.unit)),
            Err(err) if err.kind == Kind::NotFound => Ok(()),
            Err(err) => Err(err),
        }
    }

    /// New limits, so that systemd does not put the old ones back.
    pub fn update(&self, plan: &CgroupPlan) -> Result<()> {
        let properties = limits(plan)?;
        if properties.is_empty() {
            return Ok(());
        }
        let mut systemd = self.manager.connect()?;
        let body = [Value::Text(self.unit.clone()), Value::Bool(true), Value::Array("(sv)".into(), properties)];
        systemd.call("SetUnitProperties", &body).map(drop)
    }
}

fn property(name: &str, value: Value) -> Value {
    Value::Struct(vec![Value::Text(name.to_owned()), Value::Variant(Box::new(value))])
}

/// What is to be written into the scope, as far as systemd has a word for it: the same limit, said to whoever would take
/// back what it does not know. The rest is podrun's own.
fn limits(plan: &CgroupPlan) -> Result<Vec<Value>> {
    let writes = plan.leaves.iter().filter(|leaf| leaf.dialect == Dialect::V2).flat_map(|leaf| &leaf.writes);
    writes.map(of_setting).collect::<Result<Vec<_>>>().map(|found| found.concat())
}

fn of_setting(setting: &Setting) -> Result<Vec<Value>> {
    let number = |name| Ok(amount(&setting.value).map(|value| property(name, Value::U64(value))).into_iter().collect());
    let list = |name| Ok(vec![property(name, Value::Array("y".into(), bits(setting)?))]);
    match setting.file.as_str() {
        "memory.max" => number("MemoryMax"),
        "memory.swap.max" => number("MemorySwapMax"),
        "memory.low" => number("MemoryLow"),
        "cpu.weight" => number("CPUWeight"),
        "cpu.max" => Ok(quota(&setting.value).unwrap_or_default()),
        "cpuset.cpus" => list("AllowedCPUs"),
        "cpuset.mems" => list("AllowedMemoryNodes"),
        "pids.max" => number("TasksMax"),
        _ => Ok(Vec::new()),
    }
}

/// `max` is systemd's infinity. What linux.resources.unified says in another way is for the kernel alone.
fn amount(text: &str) -> Option<u64> {
    if text == "max" { Some(u64::MAX) } else { text.parse().ok() }
}

/// cpu.max has a quota of a period, which is 100 ms unless said; systemd wants what that is of a second.
fn quota(text: &str) -> Option<Vec<Value>> {
    let (quota, period) = text.split_once(' ').unwrap_or((text, "100000"));
    let period = amount(period).filter(|period| *period > 0)?;
    let a_second = match amount(quota)? {
        u64::MAX => u64::MAX,
        quota => quota.saturating_mul(1_000_000) / period,
    };
    Some(vec![property("CPUQuotaPeriodUSec", Value::U64(period)), property("CPUQuotaPerSecUSec", Value::U64(a_second))])
}

/// `0-2,5` as bytes of bits, the lowest first.
fn bits(setting: &Setting) -> Result<Vec<Value>> {
    const MOST: u32 = 8192;
    let fail = |cause| Error::new(Kind::Invalid, format!("read {}", setting.asked), cause);
    let words = crate::list::parse(&setting.value, MOST).map_err(fail)?;
    let mut bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes.into_iter().map(Value::Byte).collect())
}

/// systemd-escape(1) of what a unit's name cannot hold.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-' | b'_' | b'.');
    let word = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("\\x{byte:02x}") };
    name.bytes().map(word).collect()
}

/// A plain name, whose dashes divide what is not empty: `-.slice` is the root.
fn is_slice(slice: &str) -> bool {
    let Some(stem) = slice.strip_suffix(".slice") else { return false };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.' | '\\' | '@');
    stem == "-" || stem.split('-').all(|part| !part.is_empty() && part.chars().all(plain))
}

#[cfg(test)]
mod tests {
    use super::super::layout::Controller;
    use super::super::v2;
    use super::*;
    use oci_spec::runtime::LinuxResources;

    #[test]
    fn a_path_names_a_slice_and_a_scope() {
        let scope = |path: &str| Scope::parse(Some(path), "id", Manager::System);
        let parsed = |path: &str| scope(path).map(|scope| (scope.place().unwrap().to_string(), scope.unit));
        assert_eq!(
            parsed("machine.slice:libpod:abc").unwrap(),
            ("machine.slice/libpod-abc.scope".into(), "libpod-abc.scope".into())
        );
        assert_eq!(
            parsed("kubepods-besteffort-pod1.slice:cri:x").unwrap().0,
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-x.scope"
        );
        assert_eq!(parsed("-.slice::x").unwrap().0, "x.scope");
        assert_eq!(parsed("::x").unwrap().0, "system.slice/x.scope");
        assert_eq!(parsed("a.slice:p:b+c").unwrap().1, "p-b\\x2bc.scope");
        for bad in ["/a/b", "a:b", "a.slice:b:", "a--b.slice:p:x", "../x.slice:p:x", "a:p:x", "a.slice:p:x:y"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
        assert_eq!(Scope::parse(None, "a+b", Manager::System).unwrap().unit, "podrun-a\\x2bb.scope");
    }

    #[test]
    fn without_a_slice_it_is_the_systems_or_the_users() {
        let user = Manager::User("/run/user/1000/systemd/private".into());
        for (manager, slice) in [(Manager::System, "system.slice"), (user, "user.slice")] {
            for (path, unit) in [(None, "podrun-id.scope"), (Some(""), "podrun-id.scope"), (Some(":p:x"), "p-x.scope")]
            {
                let scope = Scope::parse(path, "id", manager.clone()).unwrap();
                assert_eq!(scope.place().unwrap().to_string(), format!("{slice}/{unit}"), "{path:?}");
            }
        }
    }

    // A record of before.
    #[test]
    fn a_scope_of_which_nobody_says_whose_is_the_systems() {
        let read: Scope = serde_json::from_str(r#"{"slice": "a.slice", "unit": "b.scope"}"#).unwrap();
        assert_eq!(read.manager, Manager::System);
    }

    #[test]
    fn limits_are_said_in_systemds_words() {
        let limits: LinuxResources = serde_json::from_str(
            r#"{"memory": {"limit": 1000, "swap": 3000, "reservation": 500}, "pids": {"limit": 7},
                "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-2,9"}}"#,
        )
        .unwrap();
        let said = |limits: &LinuxResources| {
            let writes = Controller::ALL.iter().flat_map(|it| v2::settings(*it, limits, None).unwrap());
            writes.map(|write| of_setting(&write)).collect::<Result<Vec<_>>>().map(|found| found.concat())
        };
        let found = said(&limits).unwrap();
        let value = |name: &str| {
            found.iter().find_map(|one| match one {
                Value::Struct(pair) if pair[0].text() == Some(name) => match &pair[1] {
                    Value::Variant(value) => Some((**value).clone()),
                    _ => None,
                },
                _ => None,
            })
        };
        assert_eq!(value("MemoryMax"), Some(Value::U64(1000)));
        assert_eq!(value("MemorySwapMax"), Some(Value::U64(2000)));
        assert_eq!(value("MemoryLow"), Some(Value::U64(500)));
        assert_eq!(value("TasksMax"), Some(Value::U64(7)));
        assert_eq!(value("CPUQuotaPerSecUSec"), Some(Value::U64(500_000)));
        assert_eq!(value("AllowedCPUs"), Some(Value::Array("y".into(), vec![Value::Byte(0b111), Value::Byte(0b10)])));
        let lifted: LinuxResources = serde_json::from_str(
            r#"{"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}}"#,
        )
        .unwrap();
        let all = format!("{:?}", said(&lifted).unwrap());
        assert_eq!(all.matches(&u64::MAX.to_string()).count(), 4, "{all}");
        let far: LinuxResources = serde_json::from_str(r#"{"cpu": {"cpus": "0-99999"}}"#).unwrap();
        assert!(said(&far).unwrap_err().to_string().contains("linux.resources.cpu.cpus"));
    }
}
