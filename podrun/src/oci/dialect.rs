//! Words of the specification that the crate which reads it spells otherwise.

#![forbid(unsafe_code)]

use super::Complaint;
use crate::error::Kind;
use serde_json::Value;

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
    // "If omitted or empty" (config.md, execCPUAffinity): the crate knows of omitted only.
    if let Some(affinity) = document.pointer_mut("/process/execCPUAffinity").and_then(Value::as_object_mut) {
        affinity.retain(|_, list| *list != "");
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

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxSchedulerFlag;

    #[test]
    fn an_empty_list_of_cpus_is_none() {
        let mut document = serde_json::json!({"process": {"execCPUAffinity": {"initial": "", "final": "0-3"}}});
        respell(&mut document).unwrap();
        assert_eq!(document["process"]["execCPUAffinity"], serde_json::json!({"final": "0-3"}));
    }

    #[test]
    fn every_flag_of_the_scheduler_is_read() {
        for (flag, _) in SCHEDULER_FLAGS {
            let mut document = serde_json::json!({"process": {"scheduler": {"flags": [flag]}}});
            respell(&mut document).unwrap();
            let word = document["process"]["scheduler"]["flags"][0].clone();
            assert!(serde_json::from_value::<LinuxSchedulerFlag>(word).is_ok(), "{flag}");
        }
        let mut document = serde_json::json!({"process": {"scheduler": {"flags": [1, "SCHED_RESET_ON_FORK"]}}});
        assert_eq!(respell(&mut document).unwrap_err().place, "process.scheduler.flags[1]");
    }
}
