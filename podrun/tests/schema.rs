//! The facts of the specification's JSON schema, one field wrong at a time: each wrong value is told with its JSON path and
//! with what was expected, by the reader or by the planner, and never passed over.

#![forbid(unsafe_code)]

use podrun::cgroup::{self, Layout};
use podrun::container::planning::{self, Facts, Home, Host};
use podrun::oci;
use podrun::rootfs::PointKind;
use podrun::spec::{ContainerSpec, Owners, Policy, SharePid};
use podrun::user::Files;
use serde_json::{Value, json};
use std::path::Path;

/// What the schema says of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Type {
    Text,
    Flag,
    /// Whole numbers from the first to the second.
    Whole(i128, i128),
    /// One of some words.
    Word,
    List,
    Object,
}

use Type::{Flag, List, Object, Text, Whole, Word};

const U16: Type = Whole(0, u16::MAX as i128);
const U32: Type = Whole(0, u32::MAX as i128);
const U64: Type = Whole(0, u64::MAX as i128);
const I32: Type = Whole(i32::MIN as i128, i32::MAX as i128);
const I64: Type = Whole(i64::MIN as i128, i64::MAX as i128);

/// config-schema.json, config-linux.json and defs-linux.json of runtime-spec 1.3: what concerns Linux.
#[rustfmt::skip]
const SCHEMA: &[(&str, Type)] = &[
    ("ociVersion", Text), ("hostname", Text), ("domainname", Text),
    ("annotations", Object), ("annotations.org", Text),
    ("root", Object), ("root.path", Text), ("root.readonly", Flag),
    ("mounts", List), ("mounts[0]", Object), ("mounts[0].destination", Text), ("mounts[0].type", Text),
    ("mounts[0].source", Text), ("mounts[0].options", List), ("mounts[0].options[0]", Text),
    ("mounts[0].uidMappings", List), ("mounts[0].uidMappings[0]", Object),
    ("mounts[0].uidMappings[0].containerID", U32), ("mounts[0].uidMappings[0].hostID", U32),
    ("mounts[0].uidMappings[0].size", U32), ("mounts[0].gidMappings", List), ("mounts[0].gidMappings[0]", Object),
    ("mounts[0].gidMappings[0].containerID", U32), ("mounts[0].gidMappings[0].hostID", U32),
    ("mounts[0].gidMappings[0].size", U32),
    ("process", Object), ("process.terminal", Flag), ("process.consoleSize", Object), ("process.consoleSize.height", U64),
    ("process.consoleSize.width", U64), ("process.cwd", Text), ("process.env", List), ("process.env[0]", Text),
    ("process.args", List), ("process.args[0]", Text), ("process.user", Object), ("process.user.uid", U32),
    ("process.user.gid", U32), ("process.user.umask", U32), ("process.user.additionalGids", List),
    ("process.user.additionalGids[0]", U32), ("process.rlimits", List), ("process.rlimits[0]", Object),
    ("process.rlimits[0].type", Word), ("process.rlimits[0].soft", U64), ("process.rlimits[0].hard", U64),
    ("process.capabilities", Object), ("process.capabilities.bounding", List), ("process.capabilities.effective", List),
    ("process.capabilities.inheritable", List), ("process.capabilities.permitted", List), ("process.capabilities.ambient", List),
    ("process.noNewPrivileges", Flag), ("process.oomScoreAdj", I32), ("process.apparmorProfile", Text),
    ("process.selinuxLabel", Text), ("process.scheduler", Object), ("process.scheduler.policy", Word),
    ("process.scheduler.nice", I32), ("process.scheduler.priority", I32), ("process.scheduler.flags", List),
    ("process.scheduler.flags[0]", Word), ("process.scheduler.runtime", U64), ("process.scheduler.deadline", U64),
    ("process.scheduler.period", U64), ("process.ioPriority", Object), ("process.ioPriority.class", Word),
    ("process.ioPriority.priority", I64), ("process.execCPUAffinity", Object), ("process.execCPUAffinity.initial", Text),
    ("process.execCPUAffinity.final", Text),
    ("linux", Object), ("linux.namespaces", List), ("linux.namespaces[0]", Object), ("linux.namespaces[0].type", Word),
    ("linux.devices", List), ("linux.devices[0]", Object), ("linux.devices[0].type", Word), ("linux.devices[0].path", Text),
    ("linux.devices[0].major", I64), ("linux.devices[0].minor", I64), ("linux.devices[0].fileMode", U32),
    ("linux.devices[0].uid", U32), ("linux.devices[0].gid", U32),
    ("linux.sysctl", Object), ("linux.rootfsPropagation", Word), ("linux.mountLabel", Text),
    ("linux.maskedPaths", List), ("linux.maskedPaths[0]", Text), ("linux.readonlyPaths", List), ("linux.readonlyPaths[0]", Text),
    ("linux.personality", Object), ("linux.personality.domain", Word), ("linux.personality.flags", List),
    ("linux.memoryPolicy", Object), ("linux.memoryPolicy.mode", Word), ("linux.memoryPolicy.nodes", Text),
    ("linux.memoryPolicy.flags", List), ("linux.memoryPolicy.flags[0]", Word),
    ("linux.seccomp", Object), ("linux.seccomp.defaultAction", Word), ("linux.seccomp.defaultErrnoRet", U32),
    ("linux.seccomp.architectures", List), ("linux.seccomp.architectures[0]", Word), ("linux.seccomp.flags", List),
    ("linux.seccomp.flags[0]", Word), ("linux.seccomp.listenerPath", Text), ("linux.seccomp.listenerMetadata", Text),
    ("linux.seccomp.syscalls", List), ("linux.seccomp.syscalls[0]", Object), ("linux.seccomp.syscalls[0].names", List),
    ("linux.seccomp.syscalls[0].names[0]", Text), ("linux.seccomp.syscalls[0].action", Word),
    ("linux.seccomp.syscalls[0].errnoRet", U32), ("linux.seccomp.syscalls[0].args", List),
    ("linux.seccomp.syscalls[0].args[0]", Object), ("linux.seccomp.syscalls[0].args[0].index", Whole(0, 5)),
    ("linux.seccomp.syscalls[0].args[0].value", U64), ("linux.seccomp.syscalls[0].args[0].valueTwo", U64),
    ("linux.seccomp.syscalls[0].args[0].op", Word),
    ("linux.resources", Object), ("linux.resources.devices", List), ("linux.resources.devices[0]", Object),
    ("linux.resources.devices[0].allow", Flag), ("linux.resources.devices[0].type", Word),
    ("linux.resources.devices[0].major", I64), ("linux.resources.devices[0].minor", I64),
    ("linux.resources.devices[0].access", Text), ("linux.resources.pids", Object), ("linux.resources.pids.limit", I64),
    ("linux.resources.memory", Object), ("linux.resources.memory.limit", I64), ("linux.resources.memory.reservation", I64),
    ("linux.resources.memory.swap", I64), ("linux.resources.memory.swappiness", U64),
    ("linux.resources.memory.disableOOMKiller", Flag), ("linux.resources.cpu", Object), ("linux.resources.cpu.shares", U64),
    ("linux.resources.cpu.quota", I64), ("linux.resources.cpu.burst", U64), ("linux.resources.cpu.period", U64),
    ("linux.resources.cpu.cpus", Text), ("linux.resources.cpu.mems", Text), ("linux.resources.cpu.idle", I64),
    ("linux.resources.blockIO", Object), ("linux.resources.blockIO.weight", U16),
    ("linux.resources.hugepageLimits", List), ("linux.resources.network", Object),
    ("linux.resources.network.classID", U32), ("linux.resources.rdma", Object), ("linux.resources.unified", Object),
];

/// A document in which every field of the table has its place.
fn document() -> Value {
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    json!({
        "ociVersion": "1.3.0", "hostname": "h", "domainname": "d", "annotations": {"org": "x"},
        "root": {"path": "rootfs", "readonly": true},
        "mounts": [{"destination": "/a", "type": "tmpfs", "source": "tmpfs", "options": ["idmap"],
            "uidMappings": map, "gidMappings": map}],
        "process": {
            "terminal": true, "consoleSize": {"height": 25, "width": 80}, "cwd": "/", "env": ["A=1"], "args": ["sh"],
            "user": {"uid": 1, "gid": 1, "umask": 18, "additionalGids": [5]},
            "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}],
            "capabilities": {"bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": []},
            "noNewPrivileges": true, "oomScoreAdj": 1, "apparmorProfile": "p", "selinuxLabel": "l",
            "scheduler": {"policy": "SCHED_OTHER", "nice": 1, "priority": 0, "flags": ["SCHED_FLAG_RESET_ON_FORK"],
                "runtime": 0, "deadline": 0, "period": 0},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
            "execCPUAffinity": {"initial": "0", "final": "0"},
        },
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}],
            "devices": [{"type": "c", "path": "/dev/x", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}],
            "sysctl": {"net.x": "1"}, "rootfsPropagation": "slave", "mountLabel": "l", "maskedPaths": ["/m"],
            "readonlyPaths": ["/r"], "personality": {"domain": "LINUX", "flags": []},
            "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]},
            "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": ["SCMP_ARCH_X86"],
                "flags": ["SECCOMP_FILTER_FLAG_LOG"], "listenerPath": "/l", "listenerMetadata": "m",
                "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                    "args": [{"index": 0, "value": 1, "valueTwo": 1, "op": "SCMP_CMP_EQ"}]}]},
            "resources": {
                "devices": [{"allow": false, "type": "c", "major": 1, "minor": 3, "access": "rwm"}],
                "pids": {"limit": 5}, "memory": {"limit": -1, "reservation": -1, "swap": -1, "swappiness": 1,
                    "disableOOMKiller": false},
                "cpu": {"shares": 2, "quota": -1, "burst": 0, "period": 1000, "cpus": "0", "mems": "0", "idle": 0},
                "blockIO": {"weight": 10}, "hugepageLimits": [], "network": {"classID": 1}, "rdma": {}, "unified": {},
            },
        },
    })
}

/// `a.b[0].c` in a document.
fn field<'a>(document: &'a mut Value, path: &str) -> &'a mut Value {
    let pointer = format!("/{}", path.replace(['.', '['], "/").replace(']', ""));
    document.pointer_mut(&pointer).unwrap_or_else(|| panic!("the document has no {path}"))
}

/// Values that are not of this type, each with words of which the complaint has one.
fn wrong(kind: Type) -> Vec<Value> {
    let all =
        [json!("no such word"), json!(true), json!(1), json!(1.5), json!([]), json!({}), json!([7]), json!({"x": 7})];
    let (text, flag, whole, list, object) = (
        |value: &Value| value.is_string(),
        |value: &Value| value.is_boolean(),
        |value: &Value| value.is_i64(),
        |value: &Value| value.is_array(),
        |value: &Value| value.is_object(),
    );
    let others = |own: fn(&Value) -> bool| all.iter().filter(|value| !own(value)).cloned().collect::<Vec<_>>();
    match kind {
        Text => others(text),
        Flag => others(flag),
        List => others(list),
        Object => others(object),
        Word => all.to_vec(),
        Whole(least, most) => {
            let beyond = [least - 1, most + 1].map(|number| serde_json::from_str(&number.to_string()).unwrap());
            let mut values = others(whole);
            values.extend(beyond);
            values
        }
    }
}

/// What the reader or the planner says of a document: path and cause in one line.
fn complaint(document: &Value) -> Option<String> {
    let spec = match oci::parse(&document.to_string()) {
        Ok((spec, _)) => spec,
        Err(complaint) => return Some(format!("{}: {}", complaint.place, complaint.cause)),
    };
    let spec = ContainerSpec {
        name: "a".parse().unwrap(),
        oci: spec,
        bundle: "/b".into(),
        rootfs: "/b/rootfs".into(),
        policy: Policy::default(),
        user: None,
    };
    plan(&spec).err().map(|err| err.to_string())
}

fn plan(spec: &ContainerSpec) -> podrun::error::Result<()> {
    let v1 = ["memory", "devices", "pids", "cpu", "cpuset", "blkio", "net_cls", "hugetlb"];
    let mounts = v1.map(|name| format!("30 1 0:1 / /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}\n")).concat();
    let layout = Layout::parse(&mounts, &v1.map(|name| format!("1:{name}:/\n")).concat());
    let place = cgroup::Place::pod("podrun", &podrun::id::PodId::random([7; 16])).container(&spec.name);
    let resources = spec.oci.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let host = Host { cgroups: layout.clone(), capabilities: u64::MAX, open_files: (1024, 4096), oom_score_adj: 0 };
    let facts = Facts {
        host: &host,
        id: "x-a",
        home: Home::Pod { share_pid: SharePid::No, owners: Owners::default(), files: Path::new("/run/podrun/pods/x") },
        cgroup: cgroup::plan::container(&layout, &place, resources, None)?,
        users: &Files::default(),
        kind_of: &|_| Ok(PointKind::Directory),
        has_module: &|_| true,
    };
    planning::plan(spec, &facts).map(drop)
}

#[test]
fn each_field_that_is_wrong_is_told_with_its_path_and_what_was_expected() {
    const EXPECTED: [&str; 9] = [
        "expected",
        "invalid type",
        "unknown variant",
        "is not",
        "missing",
        "not a",
        "no such",
        "invalid value",
        "is no ",
    ];
    assert_eq!(complaint(&document()), None, "the document itself");
    let mut passed = Vec::new();
    for (path, kind) in SCHEMA {
        for value in wrong(*kind) {
            let mut document = document();
            *field(&mut document, path) = value.clone();
            match complaint(&document) {
                None => passed.push(format!("{path} = {value} is taken")),
                Some(line) if !line.contains(path) => passed.push(format!("{path} = {value} is told as {line}")),
                Some(line) if !EXPECTED.iter().any(|words| line.contains(words)) || line.contains('\n') => {
                    passed.push(format!("{path} = {value} says nothing of what was expected: {line}"));
                }
                Some(_) => {}
            }
        }
    }
    assert!(passed.is_empty(), "{} of them:\n{}", passed.len(), passed.join("\n"));
}
