//! Whatever config.json says, podrun answers: with a plan that keeps within the container, or with one line.

#![forbid(unsafe_code)]

use podrun::cgroup;
use podrun::cgroup::Layout;
use podrun::container::alone;
use podrun::container::plan::Plan;
use podrun::container::planning;
use podrun::container::planning::Facts;
use podrun::container::planning::Home;
use podrun::container::planning::Host;
use podrun::error::Error;
use podrun::error::Result;
use podrun::id::ContainerName;
use podrun::id::PodId;
use podrun::oci;
use podrun::oci::Whose;
use podrun::rootfs::Place;
use podrun::rootfs::PointKind;
use podrun::spec::ContainerSpec;
use podrun::spec::Owners;
use podrun::spec::Policy;
use podrun::spec::SharePid;
use podrun::user::Files;
use serde_json::Value;
use serde_json::json;
use std::path::Path;

/// What the host of the plans has to give: all capabilities but SYS_RESOURCE.
const CAPABILITIES: u64 = ((1 << 41) - 1) & !(1 << 24);

/// Bytes that are no JSON object are read as changes to a good document.
pub fn try_it(input: &[u8]) {
    let text = match serde_json::from_slice::<Value>(input) {
        Ok(Value::Object(_)) => String::from_utf8_lossy(input).into_owned(),
        _ if input.first() == Some(&b'{') => String::from_utf8_lossy(input).into_owned(),
        _ => changed(&mut input.iter().copied()).to_string(),
    };
    for whose in [Whose::Pods, Whose::Makers] {
        try_document(&text, whose);
    }
}

fn try_document(text: &str, whose: Whose) {
    let (spec, warnings) = match oci::parse_for(text, whose) {
        Ok(parsed) => parsed,
        Err(complaint) => return one_line(&Error::new(complaint.kind, complaint.place, complaint.cause)),
    };
    warnings.iter().for_each(|warning| assert!(!warning.contains(['\n', '\x1b']), "{warning:?}"));
    let spec = ContainerSpec {
        name: ContainerName::parse("a").unwrap(),
        oci: spec,
        bundle: "/bundle".into(),
        rootfs: "/bundle/rootfs".into(),
        policy: Policy::default(),
        user: None,
    };
    if let Err(err) = alone::plan(&spec.oci) {
        one_line(&err);
    }
    match plan(&spec, whose) {
        Ok(plan) => check(&spec, &plan),
        Err(err) => one_line(&err),
    }
}

fn one_line(err: &Error) {
    let shown = err.to_string();
    let lines = 1 + usize::from(err.cure().is_some());
    assert_eq!(shown.lines().count(), lines, "{shown:?}");
    assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
}

fn layout() -> Layout {
    let mountinfo = "30 1 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                     31 1 0:2 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
                     32 1 0:3 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    Layout::parse(mountinfo, "5:devices:/\n4:memory:/\n0::/\n")
}

fn plan(spec: &ContainerSpec, whose: Whose) -> Result<Plan> {
    let layout = layout();
    let place = cgroup::Place::pod("podrun", &PodId::random([7; 16])).container(&spec.name);
    let resources = spec.oci.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let host = Host { cgroups: layout.clone(), capabilities: CAPABILITIES, open_files: (1024, 4096), oom_score_adj: 0 };
    planning::plan(
        spec,
        &Facts {
            host: &host,
            id: "x-a",
            home: match whose {
                Whose::Pods => Home::Pod {
                    share_pid: SharePid::No,
                    owners: Owners::default(),
                    files: Path::new("/run/podrun/pods/x"),
                },
                Whose::Makers => Home::Alone,
            },
            cgroup: cgroup::plan::container(&layout, &place, resources, None)?,
            users: &Files::default(),
            kind_of: &|path| match path.as_os_str().len() % 3 {
                0 => Err(std::io::ErrorKind::NotFound.into()),
                1 => Ok(PointKind::File),
                _ => Ok(PointKind::Directory),
            },
            has_module: &|_| false,
        },
    )
}

/// What no plan may say, whoever wrote the document.
fn check(spec: &ContainerSpec, plan: &Plan) {
    let process = &plan.process;
    let Some(asked) = spec.oci.process() else {
        // Nobody can start it.
        return assert!(process.argv.is_empty() && process.programs.is_empty());
    };
    assert!(!process.argv.is_empty() && !process.programs.is_empty());
    let sets = &process.capabilities;
    for set in [sets.bounding, sets.effective, sets.permitted, sets.inheritable, sets.ambient] {
        assert_eq!(set & !CAPABILITIES, 0, "more than the host has");
    }
    assert_eq!(process.uid, asked.user().uid());
    assert!(process.umask <= 0o7777);
    stays_inside(&process.cwd);
    plan.devices.iter().for_each(|device| stays_inside(&device.at));
    for mount in &plan.mounts {
        stays_inside(&mount.at);
        assert!(mount.at.last().is_some(), "a mount over the root");
    }
    for (file, value) in &plan.sysctl {
        let (file, value) = (file.lossy(), value.lossy());
        let known = ["net/", "kernel/", "fs/mqueue/"].iter().any(|top| file.starts_with(&format!("/proc/sys/{top}")));
        assert!(known && !file.contains("..") && !value.contains(['\n', '+']), "{file} {value:?}");
    }
    for path in plan.masked.iter().chain(&plan.read_only) {
        assert!(path.lossy().starts_with('/'));
    }
    // A plan is kept as JSON, and read again for the next run.
    let kept = serde_json::to_string(plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&kept).unwrap(), *plan);
}

fn stays_inside(place: &Place) {
    assert!(place.path.lossy().starts_with('/'));
    for component in &place.way {
        let name = component.name.lossy();
        assert!(!name.is_empty() && name != ".." && name != "." && !name.contains('/'), "{place:?}");
    }
}

/// What is put in the place of something else.
fn words() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(u64::MAX),
        json!(4_294_967_296_u64),
        json!(1.5),
        json!(""),
        json!("/"),
        json!("/../../etc"),
        json!("a\u{0}b"),
        json!("a\nb\u{1b}[31m"),
        json!("/proc/self/fd/7"),
        json!("net.ipv4.ip_forward"),
        json!("rslave"),
        json!("bind"),
        json!("tmpfs"),
        json!("cgroup"),
        json!("CAP_SYS_ADMIN"),
        json!("cap_chown"),
        json!("RLIMIT_NOFILE"),
        json!([]),
        json!({}),
        json!(["ro", "rbind", "mode=1777", "size=65536k", "x=y", "idmap"]),
        json!([{"type": "a", "path": "/dev/sda", "major": 8, "minor": 0, "fileMode": 511}]),
        json!([{"destination": "/proc", "type": "proc"}, {"destination": "/dev/../x", "source": "y"}]),
        json!({"kernel.core_pattern": "|/x", "net.core.somaxconn": "1+2", "kernel.msgmax": "7"}),
    ]
}

const KEYS: [&str; 22] = [
    "process",
    "linux",
    "mounts",
    "root",
    "hostname",
    "hooks",
    "annotations",
    "devices",
    "sysctl",
    "resources",
    "seccomp",
    "capabilities",
    "rlimits",
    "user",
    "cwd",
    "uidMappings",
    "namespaces",
    "rootfsPropagation",
    "maskedPaths",
    "terminal",
    "x\ny",
    "solaris",
];

/// A good document in which the bytes have changed some things: three bytes a change.
fn changed(bytes: &mut impl Iterator<Item = u8>) -> Value {
    let mut document = serde_json::to_value(oci::defaults::document(&["sh".into()]).unwrap()).unwrap();
    // One that asks for every kind of thing, so that there is something to be changed.
    document["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    document["linux"]["devices"] =
        json!([{"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "fileMode": 438}]);
    document["linux"]["sysctl"] = json!({"net.core.somaxconn": "256"});
    document["linux"]["resources"] =
        json!({"memory": {"limit": 1 << 20}, "devices": [{"allow": false, "access": "rwm"}]});
    let words = words();
    while let (Some(place), Some(how), Some(what)) = (bytes.next(), bytes.next(), bytes.next()) {
        let (place, what) = (usize::from(place) + 256 * usize::from(how >> 3), usize::from(what));
        let mut places = Vec::new();
        list(&document, String::new(), &mut places);
        let place = places[place % places.len()].clone();
        let Some(target) = document.pointer_mut(&place) else { continue };
        match (how & 7, target) {
            (0, Value::Object(map)) => {
                drop(map.insert(KEYS[what % KEYS.len()].into(), words[what / 8 % words.len()].clone()))
            }
            (0, Value::Array(list)) => list.push(words[what % words.len()].clone()),
            (1, Value::Object(map)) => {
                drop(map.keys().nth(what % map.len().max(1)).cloned().map(|key| map.remove(&key)))
            }
            (1, Value::Array(list)) if !list.is_empty() => drop(list.remove(what % list.len())),
            (2, Value::Array(list)) if !list.is_empty() && list.len() < 64 => {
                list.push(list[what % list.len()].clone())
            }
            (_, target) => *target = words[what % words.len()].clone(),
        }
        if !document.is_object() {
            break;
        }
    }
    document
}

/// The pointer (RFC 6901) of every value.
fn list(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, below) in map {
                list(below, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), places);
            }
        }
        Value::Array(all) => all.iter().enumerate().for_each(|(n, below)| list(below, format!("{at}/{n}"), places)),
        _ => {}
    }
    places.push(at);
}

#[test]
fn a_good_document_is_planned_and_bad_ones_are_told() {
    try_it(b"");
    try_it(br#"{"ociVersion": "1.0.2"}"#);
    try_it(br#"{"ociVersion": "1.0.2", "process": {"args": ["a"], "cwd": 7}}"#);
    try_it(b"{");
    assert_eq!(podrun::caps::names(CAPABILITIES).len(), 40);
}
