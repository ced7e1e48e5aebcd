//! Words of the specification that the crate which reads it spells otherwise.

#![forbid(unsafe_code)]

use super::Complaint;
use crate::error::Kind;
use serde_json::{Value, json};

/// config.md, `process.scheduler.flags`, and what oci-spec calls them.
const SCHEDULER_FLAGS: [(&str, &str); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_RECLAIM", "SCHED_FLAG_RECLAIM"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
    ("SCHED_FLAG_KEEP_POLICY", "SCHED_FLAG_KEEP_POLICY"),
    ("SCHED_FLAG_KEEP_PARAMS", "SCHED_FLAG_KEEP_PARAMS"),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", "SCHED_FLAG_UTIL_CLAMP_MIN"),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", "SCHED_FLAG_UTIL_CLAMP_MAX"),
];

/// The document in oci-spec's words.
pub(super) fn respell(document: &mut Value) -> Result<(), Complaint> {
    // No REQUIRED field (config-schema.json), and what is left out of it is root's: the crate wants it there.
    if let Some(process) = document.get_mut("process").and_then(Value::as_object_mut) {
        process.entry("user").or_insert_with(|| json!({}));
    }
    // "If omitted or empty" (config.md, execCPUAffinity): the crate knows of omitted only.
    if let Some(affinity) = document.pointer_mut("/process/execCPUAffinity").and_then(Value::as_object_mut) {
        affinity.retain(|_, list| *list != "");
    }
    // config.md, "Mounts": "it MAY be a relative path, in which case it MUST be interpreted as relative to \"/\"".
    let mounts = document.get_mut("mounts").and_then(Value::as_array_mut);
    for destination in mounts.into_iter().flatten().filter_map(|one| one.get_mut("destination")) {
        if let Some(path) = destination.as_str().filter(|path| !path.is_empty() && !path.starts_with('/')) {
            *destination = json!(format!("/{path}"));
        }
    }
    if let Some(limits) = document.pointer_mut("/linux/resources") {
        respell_limits(limits);
    }
    // runc's tools write what is not there as nothing: a namespace whose path is empty is a new one.
    let namespaces = document.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut);
    for one in namespaces.into_iter().flatten().filter_map(Value::as_object_mut) {
        one.retain(|key, value| key != "path" || *value != "");
    }
    let flags = document.pointer_mut("/process/scheduler/flags").and_then(Value::as_array_mut);
    for (index, flag) in flags.into_iter().flatten().enumerate() {
        let Some(word) = flag.as_str() else { continue };
        let Some((_, theirs)) = SCHEDULER_FLAGS.iter().find(|(ours, _)| *ours == word) else {
            let place = format!("process.scheduler.flags[{index}]");
            let known = SCHEDULER_FLAGS.map(|(ours, _)| format!("`{ours}`")).join(", ");
            let cause = format!("unknown variant `{word}`, expected one of {known}");
            return Err(Complaint::new(Kind::Invalid, place, cause));
        };
        *flag = Value::from(*theirs);
    }
    Ok(())
}

/// linux.resources in the crate's words: it has no pids.limit that is left out, which the specification has since 1.3.
pub fn respell_limits(limits: &mut Value) {
    let is_left_out = |pids: &Value| pids.is_object() && pids.get("limit").is_none_or(Value::is_null);
    if let Some(limits) = limits.as_object_mut() {
        limits.retain(|key, value| key != "pids" || !is_left_out(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxSchedulerFlag;

    #[test]
    fn an_empty_list_of_cpus_is_none() {
        let mut document = json!({"process": {"execCPUAffinity": {"initial": "", "final": "0-3"}}});
        respell(&mut document).unwrap();
        assert_eq!(document["process"]["execCPUAffinity"], json!({"final": "0-3"}));
        assert_eq!(document["process"]["user"], json!({}));
    }

    #[test]
    fn a_limit_of_processes_may_be_left_out() {
        let mut limits = json!({"pids": {}, "cpu": {}});
        respell_limits(&mut limits);
        assert_eq!(limits, json!({"cpu": {}}));
        let mut none = json!({"pids": {"limit": 0}});
        respell_limits(&mut none);
        assert_eq!(none, json!({"pids": {"limit": 0}}));
    }

    #[test]
    fn a_destination_is_below_the_root_in_any_case() {
        let mut document = json!({"mounts": [{"destination": "tmp/x"}, {"destination": "/y"}, {"destination": ""}]});
        respell(&mut document).unwrap();
        let places: Vec<_> = (0..3).map(|index| document["mounts"][index]["destination"].clone()).collect();
        assert_eq!(places, ["/tmp/x", "/y", ""]);
    }

    #[test]
    fn a_namespace_whose_path_is_empty_is_a_new_one() {
        let list = json!([{"type": "uts", "path": ""}, {"type": "ipc", "path": "/x"}]);
        let mut document = json!({"linux": {"namespaces": list}});
        respell(&mut document).unwrap();
        let kept = json!([{"type": "uts"}, {"type": "ipc", "path": "/x"}]);
        assert_eq!(document["linux"]["namespaces"], kept);
    }

    #[test]
    fn every_flag_of_the_scheduler_is_read() {
        for (flag, _) in SCHEDULER_FLAGS {
            let mut document = json!({"process": {"scheduler": {"flags": [flag]}}});
            respell(&mut document).unwrap();
            let word = document["process"]["scheduler"]["flags"][0].clone();
            assert!(serde_json::from_value::<LinuxSchedulerFlag>(word).is_ok(), "{flag}");
        }
        let mut document = json!({"process": {"scheduler": {"flags": [1, "SCHED_RESET_ON_FORK"]}}});
        assert_eq!(respell(&mut document).unwrap_err().place, "process.scheduler.flags[1]");
    }
}
