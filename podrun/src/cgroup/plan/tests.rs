//! Plans as tables: what config.json asks on the left, what is written on the right.

#![forbid(unsafe_code)]

use super::*;
use crate::error::Result;

fn layout_v1() -> Layout {
    let controllers = [
        "memory",
        "pids",
        "cpu,cpuacct",
        "devices",
        "cpuset",
        "blkio",
        "hugetlb",
        "net_cls,net_prio",
        "rdma",
        "freezer",
        "name=systemd",
    ];
    let mut mountinfo = "20 1 0:1 / /sys/fs/cgroup rw - tmpfs t rw\n".to_owned();
    let mut cgroup = String::new();
    for (index, names) in controllers.iter().enumerate() {
        let directory = names.trim_start_matches("name=");
        mountinfo +=
            &format!("{} 20 0:{index} / /sys/fs/cgroup/{directory} rw - cgroup cgroup rw,{names}\n", 30 + index);
        cgroup += &format!("{}:{names}:/\n", index + 1);
    }
    Layout::parse(&mountinfo, &cgroup)
}

/// Memory, pids and cpu on v1, hugetlb in the unified tree, the rest nowhere.
fn layout_hybrid() -> Layout {
    let v1 = layout_v1();
    let kept = |tree: &&Tree| {
        matches!(tree.controllers[0], Controller::Memory | Controller::Pids | Controller::Cpu | Controller::Freezer)
    };
    let v2 = Tree { controllers: vec![Controller::Hugetlb], mount: "/sys/fs/cgroup/unified".into(), top: "/".into() };
    Layout {
        v1: v1.v1.iter().filter(kept).cloned().collect(),
        v2: Some(v2),
        unmounted: vec![Controller::Io],
        ..Layout::default()
    }
}

fn layout_v2() -> Layout {
    Layout::parse("20 1 0:1 / /sys/fs/cgroup rw - cgroup2 c rw\n", "0::/\n")
        .with_unified_controllers("cpuset cpu io memory hugetlb pids rdma misc")
}

fn place() -> Place {
    Place::parse("podrun/0123/web").unwrap()
}

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap_or_else(|err| panic!("{json}: {err}"))
}

/// The writes of a plan as `file=value`, device rules aside.
fn writes(plan: &CgroupPlan) -> Vec<String> {
    let all = plan.leaves.iter().flat_map(|leaf| &leaf.writes);
    all.filter(|it| !it.file.starts_with("devices.")).map(|it| format!("{}={}", it.file, it.value)).collect()
}

fn planned(layout: &Layout, json: &str) -> Result<Vec<String>> {
    container(layout, &place(), Some(&resources(json)), None).map(|plan| writes(&plan))
}

fn holds(layout: &Layout, table: &[(&str, &[&str])]) {
    for (json, wanted) in table {
        let found = planned(layout, json).unwrap_or_else(|err| panic!("{json}: {err}"));
        assert_eq!(&found, wanted, "{json}");
    }
}

fn fails(layout: &Layout, table: &[(&str, Kind, &str)]) {
    for (json, kind, message) in table {
        let err = planned(layout, json).err().unwrap_or_else(|| panic!("{json} was taken"));
        assert_eq!(err.kind, *kind, "{json}: {err}");
        assert!(err.to_string().contains(message), "{json}: {err}");
    }
}

#[test]
fn memory_on_v1() {
    holds(
        &layout_v1(),
        &[
            (r#"{"memory":{}}"#, &[]),
            (r#"{"memory":{"limit":0,"swap":0,"reservation":0}}"#, &[]),
            (r#"{"memory":{"limit":1048576}}"#, &["memory.limit_in_bytes=1048576"]),
            (
                r#"{"memory":{"swap":2097152,"limit":1048576}}"#,
                &["memory.limit_in_bytes=1048576", "memory.memsw.limit_in_bytes=2097152"],
            ),
            (r#"{"memory":{"limit":-1,"swap":-1}}"#, &["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"]),
            (
                r#"{"memory":{"reservation":4096,"swappiness":10}}"#,
                &["memory.soft_limit_in_bytes=4096", "memory.swappiness=10"],
            ),
            (r#"{"memory":{"kernel":-1,"kernelTCP":8192}}"#, &["memory.kmem.tcp.limit_in_bytes=8192"]),
            (r#"{"memory":{"kernel":8192}}"#, &["memory.kmem.limit_in_bytes=8192"]),
            (
                r#"{"memory":{"disableOOMKiller":true,"useHierarchy":true}}"#,
                &["memory.use_hierarchy=1", "memory.oom_control=1"],
            ),
            (r#"{"memory":{"disableOOMKiller":false}}"#, &[]),
        ],
    );
    fails(
        &layout_v1(),
        &[
            (r#"{"memory":{"limit":-2}}"#, Kind::Invalid, "linux.resources.memory.limit"),
            (r#"{"memory":{"limit":2,"swap":1}}"#, Kind::Invalid, "linux.resources.memory.swap"),
            (r#"{"memory":{"limit":-1,"swap":1}}"#, Kind::Invalid, "linux.resources.memory.swap"),
        ],
    );
}

#[test]
fn memory_on_v2() {
    holds(
        &layout_v2(),
        &[
            (r#"{"memory":{"limit":1048576}}"#, &["memory.max=1048576"]),
            (r#"{"memory":{"limit":1048576,"swap":3145728}}"#, &["memory.max=1048576", "memory.swap.max=2097152"]),
            (r#"{"memory":{"limit":1048576,"swap":1048576}}"#, &["memory.max=1048576", "memory.swap.max=0"]),
            (r#"{"memory":{"limit":1048576,"swap":-1}}"#, &["memory.max=1048576", "memory.swap.max=max"]),
            (r#"{"memory":{"swap":-1}}"#, &["memory.swap.max=max"]),
            (r#"{"memory":{"limit":-1}}"#, &["memory.max=max", "memory.swap.max=max"]),
            (r#"{"memory":{"reservation":4096}}"#, &["memory.low=4096"]),
            (r#"{"memory":{"reservation":-1}}"#, &["memory.low=max"]),
            (r#"{"memory":{"kernel":-1,"disableOOMKiller":false,"useHierarchy":true}}"#, &[]),
        ],
    );
    fails(
        &layout_v2(),
        &[
            (r#"{"memory":{"swap":1048576}}"#, Kind::Invalid, "linux.resources.memory.swap"),
            (r#"{"memory":{"limit":-1,"swap":1048576}}"#, Kind::Invalid, "linux.resources.memory.swap"),
            (r#"{"memory":{"limit":2,"swap":1}}"#, Kind::Invalid, "linux.resources.memory.swap"),
            (r#"{"memory":{"kernel":4096}}"#, Kind::Unsupported, "linux.resources.memory.kernel"),
            (r#"{"memory":{"kernelTCP":4096}}"#, Kind::Unsupported, "linux.resources.memory.kernelTCP"),
            (r#"{"memory":{"swappiness":60}}"#, Kind::Unsupported, "linux.resources.memory.swappiness"),
            (r#"{"memory":{"disableOOMKiller":true}}"#, Kind::Unsupported, "linux.resources.memory.disableOOMKiller"),
            (r#"{"memory":{"useHierarchy":false}}"#, Kind::Unsupported, "linux.resources.memory.useHierarchy"),
        ],
    );
}

#[test]
fn cpu_on_v1() {
    holds(
        &layout_v1(),
        &[
            (r#"{"cpu":{"shares":0,"quota":0,"period":0,"realtimeRuntime":0,"cpus":"","mems":""}}"#, &[]),
            (
                r#"{"cpu":{"burst":10,"quota":20000,"period":50000,"shares":512}}"#,
                &["cpu.shares=512", "cpu.cfs_period_us=50000", "cpu.cfs_quota_us=20000", "cpu.cfs_burst_us=10"],
            ),
            (r#"{"cpu":{"quota":-5}}"#, &["cpu.cfs_quota_us=-1"]),
            (
                r#"{"cpu":{"realtimeRuntime":900,"realtimePeriod":1000}}"#,
                &["cpu.rt_period_us=1000", "cpu.rt_runtime_us=900"],
            ),
            (r#"{"cpu":{"idle":1,"shares":2}}"#, &["cpu.shares=2", "cpu.idle=1"]),
            (r#"{"cpu":{"mems":"0","cpus":"0-1,3"}}"#, &["cpuset.cpus=0-1,3", "cpuset.mems=0"]),
        ],
    );
    fails(
        &layout_v1(),
        &[
            (r#"{"cpu":{"idle":2}}"#, Kind::Invalid, "linux.resources.cpu.idle"),
            (r#"{"cpu":{"cpus":"all"}}"#, Kind::Invalid, "linux.resources.cpu.cpus"),
            (r#"{"cpu":{"mems":"0\n"}}"#, Kind::Invalid, "linux.resources.cpu.mems"),
        ],
    );
}

#[test]
fn cpu_on_v2() {
    holds(
        &layout_v2(),
        &[
            (r#"{"cpu":{"quota":20000}}"#, &["cpu.max=20000"]),
            (r#"{"cpu":{"quota":20000,"period":50000,"burst":5}}"#, &["cpu.max=20000 50000", "cpu.max.burst=5"]),
            (r#"{"cpu":{"quota":-1,"period":50000}}"#, &["cpu.max=max 50000"]),
            (r#"{"cpu":{"period":50000}}"#, &["cpu.max=max 50000"]),
            (r#"{"cpu":{"idle":1,"shares":1024}}"#, &["cpu.weight=100", "cpu.idle=1"]),
            (r#"{"cpu":{"cpus":"0","mems":"0"}}"#, &["cpuset.cpus=0", "cpuset.mems=0"]),
        ],
    );
    fails(
        &layout_v2(),
        &[
            (r#"{"cpu":{"realtimeRuntime":1}}"#, Kind::Unsupported, "linux.resources.cpu.realtimeRuntime"),
            (r#"{"cpu":{"realtimePeriod":1}}"#, Kind::Unsupported, "linux.resources.cpu.realtimePeriod"),
        ],
    );
}

/// The three points that the formula was fitted to (least, default, most), and some between.
#[test]
fn shares_become_a_weight() {
    for (shares, weight) in
        [(1, 1), (2, 1), (3, 2), (102, 17), (512, 59), (1024, 100), (2048, 174), (262_144, 10_000), (u64::MAX, 10_000)]
    {
        let json = format!(r#"{{"cpu":{{"shares":{shares}}}}}"#);
        holds(&layout_v2(), &[(&json, &[&format!("cpu.weight={weight}")])]);
    }
}

#[test]
fn the_other_controllers_on_v1() {
    holds(
        &layout_v1(),
        &[
            (r#"{"pids":{"limit":0}}"#, &["pids.max=1"]),
            (r#"{"pids":{"limit":-1}}"#, &["pids.max=max"]),
            (r#"{"pids":{"limit":64}}"#, &["pids.max=64"]),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#,
                &["hugetlb.2MB.limit_in_bytes=4194304", "hugetlb.2MB.rsvd.limit_in_bytes=4194304"],
            ),
            (
                r#"{"network":{"classID":1048577,"priorities":[{"name":"eth0","priority":5}]}}"#,
                &["net_cls.classid=1048577", "net_prio.ifpriomap=eth0 5"],
            ),
            (
                r#"{"rdma":{"mlx4":{"hcaHandles":2,"hcaObjects":9},"a":{"hcaObjects":1}}}"#,
                &["rdma.max=a hca_object=1", "rdma.max=mlx4 hca_handle=2 hca_object=9"],
            ),
            (
                r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":100}],"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1000}],
                "throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":0}]}}"#,
                &[
                    "blkio.bfq.weight=500",
                    "blkio.bfq.weight_device=8:0 100",
                    "blkio.throttle.read_bps_device=8:0 1000",
                    "blkio.throttle.write_iops_device=8:16 0",
                ],
            ),
        ],
    );
    fails(
        &layout_v1(),
        &[
            (
                r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":1}]}"#,
                Kind::Invalid,
                "linux.resources.hugepageLimits[0]",
            ),
            (
                r#"{"network":{"priorities":[{"name":"a b","priority":5}]}}"#,
                Kind::Invalid,
                "linux.resources.network.priorities[0]",
            ),
            (r#"{"blockIO":{"leafWeight":10}}"#, Kind::Unsupported, "linux.resources.blockIO.leafWeight"),
            (r#"{"blockIO":{"weight":5}}"#, Kind::Invalid, "linux.resources.blockIO.weight"),
            (
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"leafWeight":10}]}}"#,
                Kind::Unsupported,
                "blockIO.weightDevice[0].leafWeight",
            ),
            (
                r#"{"unified":{"memory.high":"1"}}"#,
                Kind::Unsupported,
                "linux.resources.unified[\"memory.high\"]: this host has cgroup v1 only",
            ),
        ],
    );
}

#[test]
fn the_other_controllers_on_v2() {
    holds(
        &layout_v2(),
        &[
            (
                r#"{"hugepageLimits":[{"pageSize":"1GB","limit":-1}]}"#,
                &["hugetlb.1GB.max=max", "hugetlb.1GB.rsvd.max=max"],
            ),
            (r#"{"blockIO":{"weight":10}}"#, &["io.bfq.weight=10"]),
            (
                r#"{"blockIO":{"throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":7}],"throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":0}]}}"#,
                &["io.max=8:0 wbps=max", "io.max=8:0 riops=7"],
            ),
            (
                r#"{"unified":{"memory.high":"4096","io.max":"8:0 rbps=1\n8:16 rbps=2","cgroup.max.depth":"3"},"memory":{"limit":8192}}"#,
                &[
                    "memory.max=8192",
                    "cgroup.max.depth=3",
                    "io.max=8:0 rbps=1",
                    "io.max=8:16 rbps=2",
                    "memory.high=4096",
                ],
            ),
        ],
    );
    fails(
        &layout_v2(),
        &[
            (r#"{"network":{"classID":1}}"#, Kind::Unsupported, "linux.resources.network.classID"),
            (r#"{"unified":{"cgroup.procs":"1"}}"#, Kind::Invalid, "linux.resources.unified[\"cgroup.procs\"]"),
            (r#"{"unified":{"cgroup.kill":"1"}}"#, Kind::Invalid, "cgroup.kill"),
            (r#"{"unified":{"../memory.max":"1"}}"#, Kind::Invalid, "no file name"),
            (r#"{"unified":{"nonsense":"1"}}"#, Kind::Invalid, "no file name"),
            (r#"{"unified":{"gpu.max":"1"}}"#, Kind::Unsupported, "gpu"),
        ],
    );
    let io = container(&layout_v2(), &place(), Some(&resources(r#"{"blockIO":{"weight":1000}}"#)), None).unwrap();
    let otherwise = crate::cgroup::Absent::Otherwise { file: "io.weight".into(), value: "default 10000".into() };
    assert_eq!(io.leaves[0].writes[0].absent, otherwise);
}

/// pitfalls: "missing controller + requested limit -> error, not silence", and it says which limit.
#[test]
fn a_limit_without_its_controller_is_refused_by_name() {
    let nothing = Layout { v2: layout_v2().with_unified_controllers("").v2, ..Layout::default() };
    for (json, path) in [
        (r#"{"memory":{"limit":4096}}"#, "linux.resources.memory.limit"),
        (r#"{"cpu":{"quota":4096}}"#, "linux.resources.cpu.quota"),
        (r#"{"cpu":{"cpus":"0"}}"#, "linux.resources.cpu.cpus"),
        (r#"{"pids":{"limit":4096}}"#, "linux.resources.pids.limit"),
        (r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#, "linux.resources.hugepageLimits[0]"),
        (r#"{"blockIO":{"weight":10}}"#, "linux.resources.blockIO.weight"),
        (r#"{"network":{"classID":3}}"#, "linux.resources.network.classID"),
        (r#"{"rdma":{"m":{"hcaHandles":3}}}"#, "linux.resources.rdma.m"),
        (r#"{"unified":{"memory.high":"3"}}"#, "linux.resources.unified[\"memory.high\"]"),
    ] {
        fails(&nothing, &[(json, Kind::Unsupported, path)]);
    }
    holds(&nothing, &[(r#"{"memory":{"limit":-1,"swap":-1},"pids":{"limit":-1},"cpu":{"quota":-1}}"#, &[])]);
    let err = planned(&layout_hybrid(), r#"{"blockIO":{"weight":10}}"#).unwrap_err();
    assert!(err.cure().is_some_and(|hint| hint.contains("mount -t cgroup -o blkio")), "{err}");
}

fn directories(plan: &CgroupPlan) -> Vec<String> {
    plan.leaves.iter().map(|leaf| plan.directory(leaf).display().to_string().replace("/sys/fs/cgroup/", "")).collect()
}

#[test]
fn v1_trees_are_joined_only_where_they_matter() {
    let plan = |json: &str| directories(&container(&layout_v1(), &place(), Some(&resources(json)), None).unwrap());
    let usual = ["memory", "pids", "cpu,cpuacct", "devices"];
    let with = |more: &[&str]| -> Vec<String> {
        usual.iter().chain(more).chain(&["freezer", "systemd"]).map(|tree| format!("{tree}/podrun/0123/web")).collect()
    };
    assert_eq!(plan("{}"), with(&[]));
    assert_eq!(plan(r#"{"cpu":{"cpus":"0"}}"#), with(&["cpuset"]));
    assert_eq!(plan(r#"{"blockIO":{"weight":10},"network":{"classID":1}}"#), with(&["blkio", "net_cls,net_prio"]));
}

#[test]
fn a_hybrid_host_gets_the_unified_leaf_and_each_limit_where_its_controller_is() {
    let json = r#"{"memory":{"limit":4096},"hugepageLimits":[{"pageSize":"2MB","limit":2097152}]}"#;
    let plan = container(&layout_hybrid(), &place(), Some(&resources(json)), None).unwrap();
    let suffix = |tree: &str| format!("{tree}/podrun/0123/web");
    assert_eq!(directories(&plan), ["memory", "pids", "cpu,cpuacct", "unified"].map(suffix));
    assert_eq!(
        writes(&plan),
        ["memory.limit_in_bytes=4096", "hugetlb.2MB.max=2097152", "hugetlb.2MB.rsvd.max=2097152"]
    );
    let unified = plan.leaves.last().unwrap();
    let asked = Some("linux.resources.hugepageLimits[0]".to_owned());
    assert_eq!(unified.enable, [Enable { controller: Controller::Hugetlb, asked }]);
    assert!(
        unified.devices.as_ref().is_some_and(|program| !program.is_empty()),
        "no devices controller on v1: a program"
    );
    assert_eq!(plan.unified_directory().unwrap().to_str(), Some("/sys/fs/cgroup/unified/podrun/0123/web"));
    assert_eq!(plan.tasks().len(), 3);
    assert_eq!(plan.oom_counter().unwrap().to_str(), Some("/sys/fs/cgroup/memory/podrun/0123/web/memory.oom_control"));
    assert!(
        planned(&layout_hybrid(), r#"{"unified":{"memory.high":"1"}}"#).is_err(),
        "memory is not in the unified tree"
    );
}

#[test]
fn v2_counts_memory_and_pids_and_enables_the_rest_on_demand() {
    let enabled = |json: &str| -> Vec<(Controller, bool)> {
        let plan = container(&layout_v2(), &place(), Some(&resources(json)), None).unwrap();
        assert_eq!(plan.leaves.len(), 1);
        plan.leaves[0].enable.iter().map(|it| (it.controller, it.asked.is_some())).collect()
    };
    use Controller::{Cpu, Cpuset, Io, Memory, Pids};
    assert_eq!(enabled("{}"), [(Memory, false), (Pids, false)]);
    assert_eq!(
        enabled(r#"{"memory":{"limit":4096},"cpu":{"cpus":"0"}}"#),
        [(Memory, true), (Cpuset, true), (Pids, false)]
    );
    assert_eq!(
        enabled(r#"{"unified":{"io.max":"x","cpu.weight":"1"}}"#),
        [(Cpu, true), (Io, true), (Memory, false), (Pids, false)]
    );
}

/// A container that is in a tree less than its pod would live outside the pod's limit.
#[test]
fn a_container_follows_its_pods_limits_into_their_trees() {
    let limits = resources(r#"{"cpu":{"cpus":"0"},"blockIO":{"weight":10},"memory":{"limit":4096}}"#);
    let above = Place::parse("podrun/0123").unwrap();
    let pod_plan = pod(&layout_v1(), &above, Some(&limits)).unwrap();
    assert_eq!(pod_plan.existing, Existing::Kept);
    assert_eq!(writes(&pod_plan)[..2], ["memory.use_hierarchy=1", "memory.limit_in_bytes=4096"]);
    let web = container(&layout_v1(), &place(), None, Some(&limits)).unwrap();
    let sandbox = own(&layout_v1(), &above.own(), Some(&limits)).unwrap();
    for plan in [web, sandbox] {
        assert_eq!(writes(&plan), [""; 0], "the pod's limits are the pod's");
        let trees = directories(&plan).join(" ");
        assert!(trees.contains("cpuset/podrun") && trees.contains("blkio/podrun"), "{trees}");
    }
}

#[test]
fn device_rules_are_the_containers_alone() {
    let rules = resources(r#"{"devices":[{"allow":true}]}"#);
    let err = pod(&layout_v2(), &place(), Some(&rules)).unwrap_err();
    assert!(err.to_string().contains("linux.resources.devices"), "{err}");
    let program = |json: Option<&str>| {
        let limits = json.map(resources);
        container(&layout_v2(), &place(), limits.as_ref(), None).unwrap().leaves[0].devices.clone()
    };
    assert!(program(None).is_some(), "without rules only the default devices");
    assert_eq!(program(Some(r#"{"devices":[{"allow":true}]}"#)), None, "everything allowed: no program");
    assert_eq!(own(&layout_v2(), &place().own(), None).unwrap().leaves[0].devices, None);
    assert!(!directories(&own(&layout_v1(), &place().own(), None).unwrap()).join(" ").contains("devices"));
    let nowhere = Layout {
        v1: layout_v1().v1.into_iter().filter(|tree| !tree.controllers.contains(&Controller::Devices)).collect(),
        ..Layout::default()
    };
    assert_eq!(
        container(&nowhere, &place(), None, None).unwrap_err().kind,
        Kind::Unsupported,
        "restricting is not possible: refused"
    );
    assert!(container(&nowhere, &place(), Some(&rules), None).is_ok());
}

#[test]
fn a_host_without_cgroups_is_told_so() {
    let rules = resources(r#"{"devices":[{"allow":true}]}"#);
    let err = container(&Layout::default(), &place(), Some(&rules), None).unwrap_err();
    assert!(err.to_string().contains("no cgroup tree is mounted"), "{err}");
}

fn updated(layout: &Layout, json: &str, current: Current) -> Result<Vec<String>> {
    update(layout, &place(), &resources(json), &current).map(|plan| writes(&plan))
}

/// memory.c refuses a limit above memsw and a memsw below the limit, at every moment.
#[test]
fn each_write_of_a_v1_memory_update_is_valid_when_it_comes() {
    let values = [None, Some(1), Some(2), Some(3), Some(4)];
    let number = |value: Option<u64>| value.unwrap_or(u64::MAX);
    let json = |value: Option<u64>| value.map_or_else(|| "-1".to_owned(), |value| value.to_string());
    let pairs = || {
        values
            .into_iter()
            .flat_map(|limit| values.into_iter().map(move |swap| (limit, swap)))
            .filter(|(limit, swap)| number(*limit) <= number(*swap))
    };
    for (old_limit, old_swap) in pairs() {
        for (limit, swap) in pairs() {
            let current = Current { memory_limit: old_limit, memory_and_swap: old_swap, ..Current::default() };
            let text = format!(r#"{{"memory":{{"limit":{},"swap":{}}}}}"#, json(limit), json(swap));
            let mut state = (number(old_limit), number(old_swap));
            for write in updated(&layout_v1(), &text, current).unwrap() {
                let (file, value) = write.split_once('=').unwrap();
                let value = value.parse().unwrap_or(u64::MAX);
                if file == "memory.limit_in_bytes" {
                    state.0 = value
                } else {
                    state.1 = value
                }
                assert!(state.0 <= state.1, "{text} from {old_limit:?} {old_swap:?}: {write}");
            }
            assert_eq!(state, (number(limit), number(swap)));
        }
    }
}

#[test]
fn an_update_lifts_what_stands_in_its_own_way() {
    let now = Current::default();
    let cpu = r#"{"cpu":{"quota":20000,"period":50000,"burst":7}}"#;
    assert_eq!(
        updated(&layout_v1(), cpu, now).unwrap(),
        [
            "cpu.cfs_burst_us=0",
            "cpu.cfs_quota_us=-1",
            "cpu.cfs_period_us=50000",
            "cpu.cfs_quota_us=20000",
            "cpu.cfs_burst_us=7"
        ]
    );
    assert_eq!(updated(&layout_v2(), cpu, now).unwrap(), ["cpu.max.burst=0", "cpu.max=20000 50000", "cpu.max.burst=7"]);
    assert_eq!(
        updated(&layout_v2(), r#"{"cpu":{"idle":0,"shares":1024}}"#, now).unwrap(),
        ["cpu.idle=0", "cpu.weight=100"]
    );
    let limited = Current { cpu_quota: Some(30_000), memory_limit: Some(4096), memory_usage: Some(4000), ..now };
    assert_eq!(updated(&layout_v2(), r#"{"cpu":{"period":50000}}"#, limited).unwrap(), ["cpu.max=30000 50000"]);
    assert_eq!(updated(&layout_v2(), r#"{"memory":{"swap":8192}}"#, limited).unwrap(), ["memory.swap.max=4096"]);
    let checked = r#"{"memory":{"limit":2000,"checkBeforeUpdate":true}}"#;
    for layout in [layout_v1(), layout_v2()] {
        let err = updated(&layout, checked, limited).unwrap_err();
        assert!(err.to_string().contains("2000 is below the 4000 bytes in use"), "{err}");
        assert!(updated(&layout, &checked.replace("true", "false"), limited).is_ok());
    }
}

#[test]
fn an_update_touches_nothing_that_was_not_asked() {
    let plan = update(&layout_v1(), &place(), &resources(r#"{"pids":{"limit":9}}"#), &Current::default()).unwrap();
    assert_eq!(directories(&plan), ["pids/podrun/0123/web"]);
    let plan = update(&layout_v2(), &place(), &resources("{}"), &Current::default()).unwrap();
    assert_eq!(plan.leaves, []);
    let rules = resources(r#"{"devices":[{"allow":false}]}"#);
    assert!(update(&layout_v2(), &place(), &rules, &Current::default()).unwrap().leaves[0].devices.is_some());
}

#[test]
fn a_process_elsewhere_is_noticed() {
    let plan = container(&layout_hybrid(), &place(), None, None).unwrap();
    let right =
        "4:memory:/podrun/0123/web\n3:pids:/podrun/0123/web\n2:cpu,cpuacct:/podrun/0123/web\n0::/podrun/0123/web\n";
    plan.confirm(right).unwrap();
    for (part, other) in
        [("pids:/podrun/0123/web", "pids:/"), ("0::/podrun/0123/web", "0::/podrun/0123/other"), ("2:cpu,", "2:x,")]
    {
        let err = plan.confirm(&right.replace(part, other)).unwrap_err();
        assert_eq!(err.kind, Kind::Kernel, "{err}");
    }
    assert!(plan.confirm("").is_err());
}

#[test]
fn a_plan_is_plain_data() {
    let json = r#"{"memory":{"limit":4096},"blockIO":{"weight":10}}"#;
    let plan = container(&layout_v2(), &place(), Some(&resources(json)), None).unwrap();
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<CgroupPlan>(&text).unwrap(), plan);
}

#[test]
fn where_no_cgroup_was_delegated_a_limit_is_told_by_its_name_and_nothing_else_is_missed() {
    let nothing = Layout { reach: Reach::Nothing, ..layout_v2() };
    let plan = |json: &str| container(&nothing, &place(), Some(&resources(json)), None);
    for harmless in [
        "{}",
        r#"{"devices": [{"allow": false, "access": "rwm"}]}"#,
        r#"{"memory": {"limit": -1}, "pids": {"limit": -1}}"#,
    ] {
        assert_eq!(plan(harmless).unwrap().leaves, [], "{harmless}");
    }
    for (json, field) in [
        (r#"{"memory": {"limit": 1000000}}"#, "linux.resources.memory.limit"),
        (r#"{"pids": {"limit": 5}}"#, "linux.resources.pids.limit"),
        (r#"{"cpu": {"shares": 100}}"#, "linux.resources.cpu.shares"),
        (r#"{"unified": {"memory.high": "1000000"}}"#, "linux.resources.unified"),
    ] {
        let err = plan(json).unwrap_err();
        assert_eq!(err.kind, Kind::Unsupported);
        let text = err.to_string();
        assert!(text.contains(field) && text.contains("no cgroup was delegated"), "{text}");
    }
    for plan in [pod(&nothing, &place(), None), own(&nothing, &place(), None)] {
        assert_eq!(plan.unwrap().leaves, []);
    }
}

#[test]
fn in_a_delegated_tree_there_are_limits_but_no_device_rules() {
    let delegated = Layout { reach: Reach::Delegated, ..layout_v2().with_unified_controllers("memory pids") };
    let asked = r#"{"memory": {"limit": 1000000}, "devices": [{"allow": false, "access": "rwm"}]}"#;
    let plan = container(&delegated, &place(), Some(&resources(asked)), None).unwrap();
    assert_eq!(writes(&plan), ["memory.max=1000000"]);
    assert_eq!((plan.leaves.len(), &plan.leaves[0].devices), (1, &None));
    let err = container(&delegated, &place(), Some(&resources(r#"{"cpu": {"shares": 100}}"#)), None).unwrap_err();
    let text = err.to_string();
    assert!(text.contains("linux.resources.cpu.shares") && text.contains("was not delegated"), "{text}");
}
