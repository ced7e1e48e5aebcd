//! The systemd driver: a container's cgroup is a transient scope, which systemd makes, and whose limits it knows, so that
//! no `daemon-reload` resets them. Below the scope all is podrun's own (`Delegate=`, systemd.resource-control(5)).

#![forbid(unsafe_code)]

use super::place::Place;
use super::v2;
use crate::dbus::wire::Value;
use crate::dbus::{Call, Connection};
use crate::error::{Error, Kind, Result};
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// How long systemd may take for one thing that it is asked for (cri-o#3808: it may be slow, and must not be waited for
/// without an end).
const PATIENCE: Duration = Duration::from_secs(30);

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const OBJECT: &str = "/org/freedesktop/systemd1";

/// A scope and the slice that it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    pub slice: String,
    pub unit: String,
}

impl Scope {
    /// `SLICE:PREFIX:NAME` of linux.cgroupsPath, as runc and podman have it; without one a scope of podrun's own name.
    pub fn parse(path: Option<&str>, id: &str) -> Result<Self> {
        let Some(path) = path.filter(|path| !path.is_empty()) else {
            return Ok(Self { slice: "system.slice".into(), unit: format!("podrun-{}.scope", escaped(id)) });
        };
        let fail = |cause: &str| Error::new(Kind::Invalid, format!("read linux.cgroupsPath {path:?}"), cause);
        let parts: Vec<&str> = path.split(':').collect();
        let [slice, prefix, name] = parts[..] else {
            return Err(fail("with --systemd-cgroup it is SLICE:PREFIX:NAME"));
        };
        let slice = if slice.is_empty() { "system.slice" } else { slice };
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
        Ok(Self { slice: slice.to_owned(), unit })
    }

    /// Where systemd puts it: a slice `a-b.slice` is in `a.slice` (systemd.slice(5)).
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
    pub fn start(&self, pid: i32, limits: Option<&LinuxResources>) -> Result<()> {
        let mut systemd = Connection::open(&socket(), PATIENCE)?;
        match self.ask(&mut systemd, pid, limits) {
            // A scope of this name that failed is in the way until somebody says so.
            Err(err) if err.kind == Kind::AlreadyExists => {
                let _ = manager(&mut systemd, "ResetFailedUnit", &[Value::Text(self.unit.clone())]);
                self.ask(&mut systemd, pid, limits)
            }
            other => other,
        }
    }

    fn ask(&self, systemd: &mut Connection, pid: i32, limits: Option<&LinuxResources>) -> Result<()> {
        let pid = u32::try_from(pid).unwrap_or_default();
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
        properties.extend(limits.map(of_limits).transpose()?.unwrap_or_default());
        let body = [
            Value::Text(self.unit.clone()),
            Value::Text("replace".into()),
            Value::Array("(sv)".into(), properties),
            Value::Array("(sa(sv))".into(), Vec::new()),
        ];
        let job = manager(systemd, "StartTransientUnit", &body)?;
        wait(systemd, &job, &format!("start the scope {}", self.unit))
    }

    /// Ends it. One that is gone is fine: systemd takes a scope away with its last process.
    pub fn stop(&self) -> Result<()> {
        let mut systemd = Connection::open(&socket(), PATIENCE)?;
        let body = [Value::Text(self.unit.clone()), Value::Text("replace".into())];
        match manager(&mut systemd, "StopUnit", &body) {
            Ok(job) => wait(&mut systemd, &job, &format!("stop the scope {}", self.unit)),
            Err(err) if err.kind == Kind::NotFound => Ok(()),
            Err(err) => Err(err),
        }
    }

    /// New limits, so that systemd does not put the old ones back.
    pub fn update(&self, limits: &LinuxResources) -> Result<()> {
        let properties = of_limits(limits)?;
        if properties.is_empty() {
            return Ok(());
        }
        let mut systemd = Connection::open(&socket(), PATIENCE)?;
        let body = [Value::Text(self.unit.clone()), Value::Bool(true), Value::Array("(sv)".into(), properties)];
        manager(&mut systemd, "SetUnitProperties", &body).map(drop)
    }
}

/// systemd's own socket, which needs no bus daemon: the host's for root, the user's own for others.
fn socket() -> PathBuf {
    match crate::sys::cred::effective_uid() {
        0 => "/run/systemd/private".into(),
        uid => {
            let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
            runtime.unwrap_or_else(|| format!("/run/user/{uid}").into()).join("systemd/private")
        }
    }
}

fn manager(systemd: &mut Connection, member: &str, body: &[Value]) -> Result<Vec<Value>> {
    systemd.call(Call { path: OBJECT, interface: MANAGER, member }, body)
}

/// JobRemoved(id, job, unit, result).
fn wait(systemd: &mut Connection, job: &[Value], doing: &str) -> Result<()> {
    let job = job.first().and_then(Value::text).unwrap_or_default().to_owned();
    let ended = systemd.signal("JobRemoved", |body| body.get(1).and_then(Value::text) == Some(job.as_str()))?;
    match ended.get(3).and_then(Value::text) {
        Some("done") => Ok(()),
        result => Err(Error::new(Kind::Kernel, doing, format!("systemd says {:?}", result.unwrap_or("nothing")))),
    }
}

fn property(name: &str, value: Value) -> Value {
    Value::Struct(vec![Value::Text(name.to_owned()), Value::Variant(Box::new(value))])
}

/// The limits that systemd has words for; the others are podrun's own to write.
fn of_limits(limits: &LinuxResources) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    // systemd's "infinity".
    let bytes = |limit: i64| u64::try_from(limit).unwrap_or(u64::MAX);
    if let Some(memory) = limits.memory() {
        let swap = match (memory.limit(), memory.swap()) {
            // Memory and swap together, where cgroup v2 and systemd have swap alone.
            (Some(limit), Some(both)) if both > 0 && limit > 0 => Some(bytes(both - limit)),
            (_, Some(-1)) => Some(u64::MAX),
            _ => None,
        };
        found.extend(
            memory.limit().filter(|limit| *limit != 0).map(|limit| property("MemoryMax", Value::U64(bytes(limit)))),
        );
        found.extend(
            memory.reservation().filter(|low| *low != 0).map(|low| property("MemoryLow", Value::U64(bytes(low)))),
        );
        found.extend(swap.map(|swap| property("MemorySwapMax", Value::U64(swap))));
    }
    if let Some(cpu) = limits.cpu() {
        let weight = cpu.shares().filter(|shares| *shares != 0).map(v2::weight_of_shares);
        found.extend(weight.map(|weight| property("CPUWeight", Value::U64(weight.into()))));
        if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
            let period = cpu.period().filter(|period| *period != 0).unwrap_or(100_000);
            let a_second = match u64::try_from(quota) {
                Ok(quota) => quota.saturating_mul(1_000_000) / period,
                Err(_) => u64::MAX,
            };
            found.push(property("CPUQuotaPeriodUSec", Value::U64(period)));
            found.push(property("CPUQuotaPerSecUSec", Value::U64(a_second)));
        }
        for (list, field, name) in [(cpu.cpus(), "cpus", "AllowedCPUs"), (cpu.mems(), "mems", "AllowedMemoryNodes")] {
            if let Some(list) = list.as_deref().filter(|list| !list.is_empty()) {
                found.push(property(name, Value::Array("y".into(), bits(field, list)?)));
            }
        }
    }
    if let Some(pids) = limits.pids() {
        let limit = pids.limit();
        if limit != 0 {
            found.push(property("TasksMax", Value::U64(bytes(limit))));
        }
    }
    Ok(found)
}

/// `0-2,5` as bytes of bits, the lowest first.
fn bits(name: &str, list: &str) -> Result<Vec<Value>> {
    const MOST: u32 = 8192;
    let fail = |cause| Error::new(Kind::Invalid, format!("read linux.resources.cpu.{name}"), cause);
    let words = crate::list::parse(list, MOST).map_err(fail)?;
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
    use super::*;

    #[test]
    fn a_path_names_a_slice_and_a_scope() {
        let parsed =
            |path: &str| Scope::parse(Some(path), "id").map(|scope| (scope.place().unwrap().to_string(), scope.unit));
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
        assert_eq!(Scope::parse(None, "a+b").unwrap().unit, "podrun-a\\x2bb.scope");
    }

    #[test]
    fn limits_are_said_in_systemds_words() {
        let limits: LinuxResources = serde_json::from_str(
            r#"{"memory": {"limit": 1000, "swap": 3000, "reservation": 500}, "pids": {"limit": 7},
                "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-2,9"}}"#,
        )
        .unwrap();
        let found = of_limits(&limits).unwrap();
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
        let all = format!("{:?}", of_limits(&lifted).unwrap());
        assert_eq!(all.matches(&u64::MAX.to_string()).count(), 4, "{all}");
        assert!(bits("cpus", "0-99999").unwrap_err().to_string().contains("linux.resources.cpu.cpus"));
    }
}
