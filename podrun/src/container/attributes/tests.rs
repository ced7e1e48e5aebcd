//! What documents ask for, field by field, and what each refusal says.

#![forbid(unsafe_code)]

use super::*;
use serde_json::{Value, json};

/// What a document with these properties of `process` and `linux` asks for, read as a config.json is.
fn planned(process: Value, linux: Value) -> Result<Attributes> {
    let mut document = json!({
        "ociVersion": "1.3.0", "root": {"path": "rootfs"},
        "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}}, "linux": linux,
    });
    document["process"].as_object_mut().unwrap().append(&mut process.as_object().unwrap().clone());
    let (spec, _) = crate::oci::parse(&document.to_string()).unwrap();
    plan(spec.process().as_ref().unwrap(), spec.linux().as_ref())
}

fn process(field: &str, value: Value) -> Result<Attributes> {
    planned(json!({ field: value }), json!({}))
}

fn refused(answer: Result<Attributes>, words: &str) {
    let err = answer.unwrap_err();
    assert!(err.to_string().contains(words), "{err} has no {words}");
}

#[test]
fn what_is_not_asked_for_is_left_and_the_keyring_is_new() {
    assert_eq!(planned(json!({}), json!({})).unwrap(), Attributes::default());
    assert_eq!(Attributes::default().keyring, Keyring::New);
    assert_eq!(serde_json::from_str::<Attributes>("{}").unwrap(), Attributes::default(), "a plan of an earlier build");
}

#[test]
fn each_policy_has_its_number_and_its_fields() {
    let scheduler = |value: Value| process("scheduler", value).unwrap().scheduler.unwrap();
    for (word, policy) in [("SCHED_OTHER", 0), ("SCHED_BATCH", 3), ("SCHED_IDLE", 5)] {
        let found = scheduler(json!({"policy": word, "nice": -20}));
        assert_eq!((found.policy, found.nice, found.priority), (policy, -20, 0), "{word}");
    }
    for (word, policy) in [("SCHED_FIFO", 1), ("SCHED_RR", 2)] {
        let found = scheduler(json!({"policy": word, "priority": 99, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}));
        assert_eq!((found.policy, found.priority, found.flags), (policy, 99, 1), "{word}");
    }
    let times = json!({"policy": "SCHED_DEADLINE", "runtime": 1024, "deadline": 2000, "period": 3000,
        "flags": ["SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_RECLAIM"]});
    let found = scheduler(times);
    assert_eq!((found.policy, found.runtime, found.deadline, found.period, found.flags), (6, 1024, 2000, 3000, 6));
    let rest =
        ["KEEP_POLICY", "KEEP_PARAMS", "UTIL_CLAMP_MIN", "UTIL_CLAMP_MAX"].map(|one| format!("SCHED_FLAG_{one}"));
    assert_eq!(scheduler(json!({"policy": "SCHED_OTHER", "flags": rest})).flags, 0x78);
}

#[test]
fn a_scheduler_that_cannot_be_is_named_by_its_field() {
    let scheduler = |value: Value, words: &str| refused(process("scheduler", value), words);
    let at = "read process.scheduler.";
    scheduler(json!({"policy": "SCHED_ISO"}), &format!("{at}policy: SCHED_ISO"));
    scheduler(json!({"policy": "SCHED_OTHER", "nice": 20}), &format!("{at}nice: 20 is not within -20 and 19"));
    scheduler(json!({"policy": "SCHED_OTHER", "priority": 1}), &format!("{at}priority: only SCHED_FIFO"));
    scheduler(json!({"policy": "SCHED_IDLE", "priority": -1}), &format!("{at}priority: only SCHED_FIFO"));
    for priority in [0, -1, 100] {
        let words = format!("{at}priority: {priority} is not within 1 and 99");
        scheduler(json!({"policy": "SCHED_RR", "priority": priority}), &words);
    }
    for field in ["runtime", "deadline", "period"] {
        scheduler(
            json!({"policy": "SCHED_FIFO", "priority": 1, field: 1}),
            &format!("{at}{field}: only SCHED_DEADLINE"),
        );
    }
    let deadline = |runtime: u64, deadline: u64, period: u64, words: &str| {
        let times = json!({"policy": "SCHED_DEADLINE", "runtime": runtime, "deadline": deadline, "period": period});
        scheduler(times, &format!("{at}{words}"));
    };
    deadline(1023, 2000, 2000, "runtime: 1023 is less than 1024 ns");
    deadline(2000, 1999, 0, "deadline: 1999 is less than the runtime 2000");
    deadline(2000, 3000, 2999, "period: 2999 is not within");
    deadline(2000, 3000, 1 << 63, "period: 9223372036854775808 is not within");
    deadline(2000, 1 << 63, 0, "period: 9223372036854775808 is not within");
}

/// ioprio_set(2): the class in the upper three bits of sixteen.
#[test]
fn an_io_priority_is_a_class_and_a_level() {
    let priority = |class: &str, level: i64| process("ioPriority", json!({"class": class, "priority": level}));
    let packed = |class: &str, level: i64| priority(class, level).unwrap().io_priority.unwrap();
    assert_eq!(packed("IOPRIO_CLASS_RT", 0), 1 << 13);
    assert_eq!(packed("IOPRIO_CLASS_BE", 7), 2 << 13 | 7);
    assert_eq!(packed("IOPRIO_CLASS_IDLE", 7), 3 << 13 | 7);
    for level in [-1, 8, 65536] {
        refused(
            priority("IOPRIO_CLASS_BE", level),
            &format!("process.ioPriority.priority: {level} is not within 0 and 7"),
        );
    }
}

#[test]
fn a_personality_has_a_domain_and_no_flag() {
    let found = |domain: &str| planned(json!({}), json!({"personality": {"domain": domain}})).unwrap().personality;
    assert_eq!((found("LINUX"), found("LINUX32")), (Some(0), Some(8)));
    let flag = json!({"personality": {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}});
    refused(planned(json!({}), flag), "linux.personality.flags[0]: \"ADDR_NO_RANDOMIZE\"");
}

#[test]
fn a_memory_policy_is_about_nodes_or_about_none() {
    let policy = |value: Value| planned(json!({}), json!({ "memoryPolicy": value }));
    let found = |value: Value| policy(value).unwrap().memory.unwrap();
    for (word, mode) in [("BIND", 2), ("INTERLEAVE", 3), ("PREFERRED_MANY", 5), ("WEIGHTED_INTERLEAVE", 6)] {
        let value = json!({"mode": format!("MPOL_{word}"), "nodes": "0-1,64"});
        assert_eq!(found(value), MemoryPolicy { mode, nodes: vec![3, 1] }, "{word}");
        let missing = policy(json!({"mode": format!("MPOL_{word}")}));
        refused(missing, "linux.memoryPolicy.nodes: missing");
    }
    for (word, mode) in [("DEFAULT", 0), ("LOCAL", 4), ("PREFERRED", 1)] {
        assert_eq!(found(json!({"mode": format!("MPOL_{word}")})), MemoryPolicy { mode, nodes: vec![] }, "{word}");
    }
    for word in ["DEFAULT", "LOCAL"] {
        refused(policy(json!({"mode": format!("MPOL_{word}"), "nodes": "0"})), "nodes: this mode is about no nodes");
    }
    let flags = |flags: &[&str]| policy(json!({"mode": "MPOL_BIND", "nodes": "0", "flags": flags}));
    assert_eq!(flags(&["MPOL_F_NUMA_BALANCING", "MPOL_F_STATIC_NODES"]).unwrap().memory.unwrap().mode, 2 | 5 << 13);
    refused(flags(&["MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"]), "linux.memoryPolicy.flags: ");
}

#[test]
fn lists_of_numbers_are_the_kernels() {
    for (list, bits) in [("", vec![]), ("0", vec![1]), ("0-3,7", vec![0x8f]), (" 1 , 63,", vec![1 << 63 | 2])] {
        assert_eq!(numbers("x", list, 128).unwrap(), bits, "{list:?}");
    }
    assert_eq!(numbers("x", "64-65", 128).unwrap(), [0, 3]);
    for bad in ["a", "-1", "1-", "3-1", "+1", "0x1", "128", "1 2", ",", "4294967296"] {
        assert!(numbers("x", bad, 128).is_err(), "{bad:?}");
    }
}

#[test]
fn the_cpus_of_an_exec_are_on_the_way_and_there() {
    let found = process("execCPUAffinity", json!({"initial": "0-1", "final": "1"})).unwrap();
    assert_eq!(found.exec_affinity, Affinity { on_the_way: vec![3], there: vec![2] });
    let none = process("execCPUAffinity", json!({"initial": ""})).unwrap();
    assert_eq!(none.exec_affinity, Affinity::default());
}
