//! What the crate that reads a document lets pass, and the specification does not: lists where objects belong, and fields
//! that are left out and REQUIRED.

#![forbid(unsafe_code)]

use super::Complaint;
use crate::error::Kind;
use serde_json::Value;

/// What serde would also read from a list of its fields' values; `*` is each element.
#[rustfmt::skip]
const OBJECTS: [&str; 44] = [
    "process", "process.user", "process.capabilities", "process.consoleSize", "process.rlimits.*", "process.scheduler",
    "process.ioPriority", "process.execCPUAffinity", "root", "mounts.*", "mounts.*.uidMappings.*", "mounts.*.gidMappings.*",
    "hooks", "hooks.*.*", "linux", "linux.namespaces.*", "linux.devices.*", "linux.uidMappings.*", "linux.gidMappings.*",
    "linux.timeOffsets.*", "linux.intelRdt", "linux.netDevices.*", "linux.memoryPolicy", "linux.personality",
    "linux.seccomp", "linux.seccomp.syscalls.*", "linux.seccomp.syscalls.*.args.*",
    "linux.resources", "linux.resources.devices.*", "linux.resources.memory", "linux.resources.cpu", "linux.resources.pids",
    "linux.resources.blockIO", "linux.resources.blockIO.weightDevice.*", "linux.resources.blockIO.throttleReadBpsDevice.*",
    "linux.resources.blockIO.throttleWriteBpsDevice.*", "linux.resources.blockIO.throttleReadIOPSDevice.*",
    "linux.resources.blockIO.throttleWriteIOPSDevice.*", "linux.resources.hugepageLimits.*", "linux.resources.network",
    "linux.resources.network.priorities.*", "linux.resources.rdma.*", "annotations", "linux.sysctl",
];

/// REQUIRED fields that serde has a default for. Of a user none: those who write `process` for an exec leave it out.
const REQUIRED: [(&str, &[&str]); 6] = [
    ("process.ioPriority", &["class", "priority"]),
    ("mounts.*.uidMappings.*", &["containerID", "hostID", "size"]),
    ("mounts.*.gidMappings.*", &["containerID", "hostID", "size"]),
    ("linux.uidMappings.*", &["containerID", "hostID", "size"]),
    ("linux.gidMappings.*", &["containerID", "hostID", "size"]),
    ("linux.resources.hugepageLimits.*", &["pageSize", "limit"]),
];

pub(super) fn check(document: &Value) -> Result<(), Complaint> {
    for pattern in OBJECTS {
        each(document, String::new(), pattern, &mut |place, value| match value {
            Value::Array(_) => Err(invalid(place, "invalid type: sequence, expected an object")),
            _ => Ok(()),
        })?;
    }
    for (pattern, fields) in REQUIRED {
        each(document, String::new(), pattern, &mut |place, value| {
            let missing = |field: &&&str| value.is_object() && value.get(**field).is_none_or(Value::is_null);
            match fields.iter().find(missing) {
                Some(field) => Err(invalid(&format!("{place}.{field}"), "missing")),
                None => Ok(()),
            }
        })?;
    }
    // "REQUIRED unless type is p" (config-linux.md, devices).
    each(document, String::new(), "linux.devices.*", &mut |place, value| {
        let is = |kind: &str| value.get("type").and_then(Value::as_str) == Some(kind);
        let missing = |field: &&str| value.get(*field).is_none_or(Value::is_null);
        match ["major", "minor"].into_iter().find(missing) {
            Some(field) if is("c") || is("b") || is("u") => Err(invalid(&format!("{place}.{field}"), "missing")),
            _ => Ok(()),
        }
    })
}

fn invalid(place: &str, cause: &str) -> Complaint {
    Complaint::new(Kind::Invalid, place, cause)
}

/// Shows `look` all that a pattern names, with its place.
fn each(
    value: &Value,
    place: String,
    pattern: &str,
    look: &mut dyn FnMut(&str, &Value) -> Result<(), Complaint>,
) -> Result<(), Complaint> {
    let (key, rest) = pattern.split_once('.').unwrap_or((pattern, ""));
    let mut visit = |child: &Value, place: String| match rest {
        "" => look(&place, child),
        rest => each(child, place, rest, look),
    };
    let dot = if place.is_empty() { "" } else { "." };
    match (key, value) {
        ("*", Value::Array(list)) => {
            list.iter().enumerate().try_for_each(|(index, child)| visit(child, format!("{place}[{index}]")))
        }
        ("*", Value::Object(map)) => map.iter().try_for_each(|(key, child)| visit(child, format!("{place}{dot}{key}"))),
        (key, Value::Object(map)) => map.get(key).map_or(Ok(()), |child| visit(child, format!("{place}{dot}{key}"))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn place(document: Value) -> Option<String> {
        check(&document).err().map(|complaint| format!("{}: {}", complaint.place, complaint.cause))
    }

    #[test]
    fn a_list_is_no_object_however_deep() {
        for (document, at) in [
            (json!({"process": []}), "process"),
            (json!({"mounts": [{}, []]}), "mounts[1]"),
            (json!({"hooks": {"poststop": [{}, []]}}), "hooks.poststop[1]"),
            (json!({"linux": {"seccomp": {"syscalls": [{"args": [{}, []]}]}}}), "linux.seccomp.syscalls[0].args[1]"),
            (json!({"linux": {"netDevices": {"eth0": []}}}), "linux.netDevices.eth0"),
        ] {
            assert_eq!(place(document), Some(format!("{at}: invalid type: sequence, expected an object")));
        }
        assert_eq!(place(json!({"mounts": [], "hooks": {"poststop": []}, "linux": null, "root": {"path": []}})), None);
    }

    #[test]
    fn what_is_required_is_there() {
        let device = |device: Value| place(json!({"linux": {"devices": [device]}}));
        assert_eq!(device(json!({"type": "c", "major": 1})).unwrap(), "linux.devices[0].minor: missing");
        assert_eq!(device(json!({"type": "b", "major": null, "minor": 1})).unwrap(), "linux.devices[0].major: missing");
        assert_eq!(device(json!({"type": "p"})), None);
        let map = json!({"mounts": [{"uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}, {"hostID": 0, "size": 1}]}]});
        assert_eq!(place(map).unwrap(), "mounts[0].uidMappings[1].containerID: missing");
        assert_eq!(
            place(json!({"process": {"ioPriority": {"priority": 0}}})).unwrap(),
            "process.ioPriority.class: missing"
        );
    }
}
