//! What a container that is in no pod has of its own, and a pod decides for those in it: namespaces of every kind, new or
//! joined by path, the ids of a user namespace, the clocks of a time namespace, host and domain name, hooks. Pure planning.

#![forbid(unsafe_code)]

use super::hooks::Hooks;
use super::planning::listed;
use crate::error::{Error, Kind, Result};
use crate::rootfs::idmap::lines;
use crate::text::Text;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde::{Deserialize, Serialize};

/// A container's own world.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alone {
    /// `CLONE_NEW*` of those that are new, but for mount and pid, which the plan has.
    pub new: i32,
    /// Those that are joined, each with its `CLONE_NEW*`.
    pub joined: Vec<Joined>,
    pub ids: Option<Mappings>,
    /// A line each, as /proc/PID/timens_offsets takes them (time_namespaces(7)).
    pub clocks: Vec<String>,
    pub hostname: Option<Text>,
    pub hooks: Hooks,
    /// Whether its document names devices: its cgroup has to let them be before they are made.
    #[serde(default)]
    pub own_devices: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    pub kind: i32,
    pub path: Text,
    /// Where the document says so.
    pub place: String,
}

/// What uid_map and gid_map take (user_namespaces(7)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mappings {
    pub uids: Text,
    pub gids: Text,
}

/// Since Linux 5.6; libc has it as an unsigned flag of clone3(2) only.
pub const CLONE_NEWTIME: i32 = 0x80;

const KINDS: [(LinuxNamespaceType, i32); 8] = [
    (LinuxNamespaceType::User, libc::CLONE_NEWUSER),
    (LinuxNamespaceType::Mount, libc::CLONE_NEWNS),
    (LinuxNamespaceType::Pid, libc::CLONE_NEWPID),
    (LinuxNamespaceType::Network, libc::CLONE_NEWNET),
    (LinuxNamespaceType::Uts, libc::CLONE_NEWUTS),
    (LinuxNamespaceType::Ipc, libc::CLONE_NEWIPC),
    (LinuxNamespaceType::Cgroup, libc::CLONE_NEWCGROUP),
    (LinuxNamespaceType::Time, CLONE_NEWTIME),
];

/// What clone3(2) is not asked for: the plan has mount and pid, init makes its cgroup namespace when it is in its cgroup,
/// and a time namespace needs its clocks before anybody is in it.
const NOT_BY_CLONE: i32 = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWCGROUP | CLONE_NEWTIME;

pub fn plan(document: &Spec) -> Result<Alone> {
    let mut alone = Alone { hooks: Hooks::plan(document.hooks().as_ref())?, ..Alone::default() };
    namespaces(document, &mut alone)?;
    alone.ids = mappings(document)?;
    alone.clocks = clocks(document)?;
    let linux = document.linux().as_ref();
    alone.own_devices = linux.and_then(|linux| linux.devices().as_ref()).is_some_and(|devices| !devices.is_empty());
    alone.hostname = name(document, "hostname", document.hostname().as_deref())?;
    Ok(alone)
}

impl Alone {
    /// Whether a new one of this kind is made by clone3(2) itself.
    pub fn makes(&self, kind: i32) -> bool {
        self.new & kind != 0
    }

    /// What clone3(2) makes besides what the plan asks it for.
    pub fn by_clone(&self) -> i32 {
        self.new & !NOT_BY_CLONE
    }

    /// Whether anybody may look at it, or be kept from something, before it is ready.
    pub fn is_seen_early(&self) -> bool {
        let hooks = [&self.hooks.prestart, &self.hooks.create_runtime, &self.hooks.create_container];
        self.own_devices || hooks.iter().any(|kind| !kind.is_empty())
    }

    /// Whether it has a user namespace, new or joined.
    pub fn has_own_users(&self) -> bool {
        self.beyond() & libc::CLONE_NEWUSER != 0
    }

    /// `CLONE_NEW*` of what an exec has to join besides what every container has.
    pub fn beyond(&self) -> i32 {
        let all = self.joined.iter().fold(self.new, |all, one| all | one.kind);
        all & (libc::CLONE_NEWUSER | CLONE_NEWTIME)
    }
}

fn namespaces(document: &Spec, alone: &mut Alone) -> Result<()> {
    let list = document.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    for (index, one) in list.iter().enumerate() {
        let fail = |field: &str, cause: &str| {
            Err(Error::new(Kind::Invalid, format!("read linux.namespaces[{index}].{field}"), cause))
        };
        if list[..index].iter().any(|other| other.typ() == one.typ()) {
            // config-linux.md: "If a namespaces field contains duplicated namespaces with same type, the runtime MUST
            // generate an error."
            return fail("type", "the same type twice");
        }
        let Some((_, kind)) = KINDS.iter().find(|(typ, _)| *typ == one.typ()) else { return fail("type", "unknown") };
        match one.path().as_ref().map(|path| path.to_string_lossy()) {
            None => alone.new |= kind,
            Some(_) if *kind == libc::CLONE_NEWNS => {
                return fail("path", "podrun joins no mount namespace: a new root would be that of everybody in it")
                    .map_err(|err| err.kind(Kind::Unsupported).hint("leave `path` out for one of its own"));
            }
            Some(path) if path.starts_with('/') => {
                let (path, place) = (Text::new("a namespace", path)?, format!("linux.namespaces[{index}].path"));
                alone.joined.push(Joined { kind: *kind, path, place });
            }
            Some(_) => return fail("path", "not an absolute path"),
        }
    }
    match alone.new & libc::CLONE_NEWNS != 0 {
        true => Ok(()),
        // The specification lets it have the host's (decision 24).
        false => Err(Error::new(
            Kind::Unsupported,
            "read linux.namespaces",
            "there is none of type mount, and podrun mounts nothing of a container among the host's own",
        )
        .hint("add {\"type\": \"mount\"}; what of the host it shall see is bound, with `rslave` whatever is mounted there later")),
    }
}

fn mappings(document: &Spec) -> Result<Option<Mappings>> {
    let linux = document.linux().as_ref();
    let uids = linux.and_then(|linux| linux.uid_mappings().as_deref()).unwrap_or_default();
    let gids = linux.and_then(|linux| linux.gid_mappings().as_deref()).unwrap_or_default();
    let mapped = Mappings { uids: lines(uids, "linux.uidMappings")?, gids: lines(gids, "linux.gidMappings")? };
    let fail = |field: &str, cause: &str| Err(Error::new(Kind::Invalid, format!("read linux.{field}"), cause));
    match listed(document, LinuxNamespaceType::User).map(|one| one.path().is_some()) {
        Some(false) if uids.is_empty() => fail("uidMappings", "missing: a new user namespace maps ids"),
        Some(false) if gids.is_empty() => fail("gidMappings", "missing: a new user namespace maps ids"),
        Some(false) => Ok(Some(mapped)),
        // Those of a namespace that is joined are as they are.
        Some(true) => Ok(None),
        None if !uids.is_empty() => fail("uidMappings", "linux.namespaces has no user namespace"),
        None if !gids.is_empty() => fail("gidMappings", "linux.namespaces has no user namespace"),
        None => Ok(None),
    }
}

fn clocks(document: &Spec) -> Result<Vec<String>> {
    let offsets = document.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    let Some(offsets) = offsets.filter(|offsets| !offsets.is_empty()) else { return Ok(Vec::new()) };
    let fail =
        |place: String, cause: &str| Err(Error::new(Kind::Invalid, format!("read linux.timeOffsets{place}"), cause));
    if listed(document, LinuxNamespaceType::Time).is_none_or(|one| one.path().is_some()) {
        return fail(String::new(), "linux.namespaces has no new time namespace");
    }
    let mut lines = Vec::new();
    for (clock, offset) in offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return fail(format!(".{clock}"), "expected \"monotonic\" or \"boottime\"");
        }
        let (secs, nanos) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        if nanos > 999_999_999 {
            return fail(format!(".{clock}.nanosecs"), "not within a second");
        }
        lines.push(format!("{clock} {secs} {nanos}"));
    }
    lines.sort();
    Ok(lines)
}

/// sethostname(2): up to 64 bytes, and only in a UTS namespace that is not the host's.
fn name(document: &Spec, field: &str, asked: Option<&str>) -> Result<Option<Text>> {
    let Some(asked) = asked.filter(|name| !name.is_empty()) else { return Ok(None) };
    let fail = |cause: &str| Err(Error::new(Kind::Invalid, format!("read {field} {asked:?}"), cause));
    match listed(document, LinuxNamespaceType::Uts) {
        None => fail("linux.namespaces has no uts namespace: it would be the host's"),
        Some(_) if asked.len() > 64 => fail("longer than 64 bytes"),
        Some(_) => Text::new(field, asked).map(Some),
    }
}

/// The kinds of hooks, in the order of a container's life.
pub const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// The word of config.json for a kind.
pub fn word(kind: i32) -> &'static str {
    match kind {
        libc::CLONE_NEWUSER => "user",
        libc::CLONE_NEWNS => "mount",
        libc::CLONE_NEWPID => "pid",
        libc::CLONE_NEWNET => "network",
        libc::CLONE_NEWUTS => "uts",
        libc::CLONE_NEWIPC => "ipc",
        libc::CLONE_NEWCGROUP => "cgroup",
        _ => "time",
    }
}

/// The same kind below /proc/PID/ns.
pub fn file(kind: i32) -> &'static str {
    match kind {
        libc::CLONE_NEWNS => "mnt",
        libc::CLONE_NEWNET => "net",
        kind => word(kind),
    }
}

/// One by one.
pub fn each(kinds: i32) -> impl Iterator<Item = i32> {
    KINDS.iter().map(|(_, kind)| *kind).filter(move |kind| kinds & kind != 0)
}

/// Kinds of namespaces in the words of config.json, in the specification's order.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(_, kind)| word(*kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(linux: &str, more: &str) -> Result<Alone, String> {
        let text = format!(r#"{{"ociVersion": "1.2.0", "root": {{"path": "r"}}, {more} "linux": {{{linux}}}}}"#);
        let document: Spec = serde_json::from_str(&text).unwrap();
        plan(&document).map_err(|err| err.to_string())
    }

    fn with_namespaces(list: &str, more: &str) -> Result<Alone, String> {
        planned(&format!(r#""namespaces": [{{"type": "mount"}}{list}]{more}"#), "")
    }

    #[test]
    fn a_namespace_is_new_or_joined_by_its_path() {
        let alone = with_namespaces(
            r#", {"type": "uts"}, {"type": "network", "path": "/run/netns/x"}, {"type": "cgroup"}"#,
            "",
        )
        .unwrap();
        assert_eq!(alone.by_clone(), libc::CLONE_NEWUTS);
        assert!(alone.makes(libc::CLONE_NEWUTS) && alone.makes(libc::CLONE_NEWCGROUP));
        assert!(!alone.makes(libc::CLONE_NEWNET) && !alone.has_own_users());
        let joined: Vec<_> = alone.joined.iter().map(|one| (one.kind, one.path.lossy().into_owned())).collect();
        assert_eq!(joined, [(libc::CLONE_NEWNET, "/run/netns/x".to_owned())]);
        assert!(
            with_namespaces(r#", {"type": "uts"}, {"type": "uts"}"#, "")
                .unwrap_err()
                .contains("namespaces[2].type: the same type twice")
        );
        assert!(
            with_namespaces(r#", {"type": "uts", "path": "x"}"#, "")
                .unwrap_err()
                .contains("namespaces[1].path: not an absolute path")
        );
    }

    #[test]
    fn a_mount_namespace_is_new() {
        let refused = |list: &str| planned(&format!(r#""namespaces": [{list}]"#), "").unwrap_err();
        assert!(refused("").contains("there is none of type mount"));
        assert!(refused(r#"{"type": "uts"}"#).contains("add {\"type\": \"mount\"}"));
        let joined = refused(r#"{"type": "uts"}, {"type": "mount", "path": "/proc/1/ns/mnt"}"#);
        assert!(joined.contains("namespaces[1].path: podrun joins no mount namespace"), "{joined}");
    }

    #[test]
    fn ids_are_mapped_in_a_new_user_namespace_and_nowhere_else() {
        let ids = r#", "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}], "gidMappings": [{"containerID": 0, "hostID": 2000, "size": 1}]"#;
        let user = r#", {"type": "user"}"#;
        let mapped = with_namespaces(user, ids).unwrap().ids.unwrap();
        assert_eq!((mapped.uids.lossy(), mapped.gids.lossy()), ("0 1000 10\n".into(), "0 2000 1\n".into()));
        assert!(
            with_namespaces("", ids).unwrap_err().contains("linux.uidMappings: linux.namespaces has no user namespace")
        );
        assert!(with_namespaces(user, "").unwrap_err().contains("linux.uidMappings: missing"));
        let bad = |one: &str| with_namespaces(user, &format!(r#", "uidMappings": [{one}]"#)).unwrap_err();
        assert!(
            bad(r#"{"containerID": 0, "hostID": 4294967295, "size": 2}"#)
                .contains("uidMappings[0].size: it goes beyond the last ID")
        );
        assert!(bad(r#"{"containerID": 0, "hostID": 0, "size": 0}"#).contains("maps nothing"));
    }

    #[test]
    fn clocks_are_set_in_a_new_time_namespace_and_nowhere_else() {
        let offsets = |one: &str| format!(r#", "timeOffsets": {{{one}}}"#);
        let time = r#", {"type": "time"}"#;
        let good = offsets(r#""monotonic": {"secs": 86400, "nanosecs": 7}, "boottime": {"secs": -5}"#);
        assert_eq!(with_namespaces(time, &good).unwrap().clocks, ["boottime -5 0", "monotonic 86400 7"]);
        assert!(with_namespaces("", &good).unwrap_err().contains("no new time namespace"));
        assert!(with_namespaces(time, &offsets(r#""realtime": {}"#)).unwrap_err().contains("timeOffsets.realtime"));
        assert!(
            with_namespaces(time, &offsets(r#""boottime": {"nanosecs": 1000000000}"#))
                .unwrap_err()
                .contains("not within a second")
        );
    }

    #[test]
    fn a_name_needs_a_uts_namespace_that_is_not_the_hosts() {
        let named = |list: &str, name: &str| {
            planned(&format!(r#""namespaces": [{{"type": "mount"}}{list}]"#), &format!(r#""hostname": "{name}","#))
        };
        let good = named(r#", {"type": "uts"}"#, "web").unwrap();
        assert_eq!(good.hostname.unwrap().lossy(), "web");
        assert!(named("", "web").unwrap_err().contains("it would be the host's"));
        assert!(named(r#", {"type": "uts"}"#, &"x".repeat(65)).unwrap_err().contains("longer than 64 bytes"));
    }

    /// The order of its birth hangs on it: device rules come before devices that a document names, and before hooks.
    #[test]
    fn who_is_seen_early_has_hooks_or_devices_of_its_own() {
        let mount = r#""namespaces": [{"type": "mount"}]"#;
        let device = r#"{"type": "c", "path": "/dev/x", "major": 1, "minor": 5}"#;
        let early = |linux: &str, more: &str| planned(linux, more).unwrap().is_seen_early();
        let hook = |kind: &str| format!(r#""hooks": {{"{kind}": [{{"path": "/x"}}]}},"#);
        assert!(!early(mount, "") && !early(&format!(r#"{mount}, "devices": []"#), ""));
        assert!(early(&format!(r#"{mount}, "devices": [{device}]"#), ""));
        for kind in ["prestart", "createRuntime", "createContainer"] {
            assert!(early(mount, &hook(kind)), "{kind}");
        }
        for kind in ["startContainer", "poststart", "poststop"] {
            assert!(!early(mount, &hook(kind)), "{kind}");
        }
    }

    #[test]
    fn an_exec_joins_what_not_every_container_has() {
        let ids = r#", "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}], "gidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]"#;
        assert_eq!(
            with_namespaces(r#", {"type": "user"}, {"type": "uts"}"#, ids).unwrap().beyond(),
            libc::CLONE_NEWUSER
        );
        assert_eq!(with_namespaces(r#", {"type": "time", "path": "/x"}"#, "").unwrap().beyond(), CLONE_NEWTIME);
        assert_eq!(with_namespaces("", "").unwrap().beyond(), 0);
    }
}
