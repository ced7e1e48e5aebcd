//! What a container sees, by `podrun oci` and by crun, of the same bundle: whatever differs is a difference that is meant, or a
//! fault of one of them.

#![forbid(unsafe_code)]

use podrun_tests::{Bundle, Host, Value, json};
use std::collections::BTreeMap;

/// What differs by intent: the bundle, or any; the place in the facts, where `*` is whatever; why.
const MEANT: [(&str, &str, &str); 12] = [
    ("", "dev.core.*", "runtime-linux.md lists the links of /dev, and /proc/kcore is nobody's to read"),
    ("", "signals.ignored", "glibc keeps 32 to itself, and crun hands that on as ignored"),
    (
        "",
        "mounts./proc/keys.*",
        "a file is masked by a bind of /dev/null, as with runc; crun 1.8 makes it read-only, too",
    ),
    ("", "mounts./proc/timer_list.*", "the same"),
    ("masks", "mounts./etc/group.*", "the same"),
    (
        "",
        "mounts./proc/acpi.super",
        "a directory is masked by a tmpfs of one block, crun's has none; both are read-only",
    ),
    ("", "mounts./sys/firmware.super", "the same"),
    ("masks", "mounts./var.super", "the same"),
    (
        "propagation",
        "mounts./*.propagation",
        "a new peer group is podrun's a slave of the host's besides, as in specification and runc",
    ),
    (
        "a user namespace",
        "mounts./dev/*.options",
        "crun binds the host's devices nosuid and noexec, which say nothing of a device",
    ),
    (
        "a user namespace",
        "dev.mqueue.uid",
        "the IPC namespace is made with the user namespace, when there is no root in it yet: 1777 of nobody",
    ),
    ("a user namespace", "dev.mqueue.gid", "the same"),
];

fn is_meant(bundle: &str, place: &str) -> bool {
    let fits = |pattern: &str| match pattern.split_once('*') {
        Some((begin, end)) => place.starts_with(begin) && place.ends_with(end),
        None => place == pattern,
    };
    MEANT.iter().any(|(one, pattern, _)| (one.is_empty() || *one == bundle) && fits(pattern))
}

/// Of the facts, those that are another's with each run.
const OF_ITS_OWN: [&str; 5] = ["namespaces", "sessionKeyring", "cgroups", "cpus", "exe"];

/// The probe's facts, flat: `caps.effective`, `mounts./dev.options`; and what the script adds, by its lines.
fn seen(host: &Host, runtime: &str, bundle: &Bundle) -> BTreeMap<String, String> {
    // crun gives the container's user whatever is its stdin, and were that the machine's /dev/null; podrun pipes and terminals
    // alone (31.62).
    let done = host.program(format!("{runtime} run --bundle {bundle} one")).stdin("").run();
    let text = done.ok().text();
    let (facts, more) = text.split_once('\n').unwrap_or((&text, ""));
    let mut facts: Value = serde_json::from_str(facts).unwrap_or_else(|err| panic!("{runtime}: {err}: {text}"));
    for name in OF_ITS_OWN {
        facts.as_object_mut().unwrap().remove(name);
    }
    for (_, target) in facts["fds"].as_object_mut().unwrap() {
        *target = json!(target.as_str().unwrap().split(':').next());
    }
    facts["mounts"] = mounts(&facts["mounts"]);
    let mut flat = BTreeMap::new();
    flatten("", &facts, &mut flat);
    flat.extend(more.lines().enumerate().map(|(number, line)| (format!("script.{number}"), line.to_owned())));
    flat
}

/// By where they are; numbers of peer groups and devices left out.
fn mounts(table: &Value) -> Value {
    let mut by_place = serde_json::Map::new();
    for one in table.as_array().unwrap() {
        let sorted = |field: &str| {
            let mut words: Vec<&str> = one[field].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            words.sort_unstable();
            words.join(",")
        };
        let propagation: Vec<String> = one["propagation"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .map(|word| word.split(':').next().unwrap_or_default().to_owned())
            .collect();
        let mut at = one["at"].as_str().unwrap().to_owned();
        while by_place.contains_key(&at) {
            at.push('+');
        }
        let shown = json!({"type": one["type"], "options": sorted("options"), "super": sorted("superOptions"), "propagation": propagation.join(" ")});
        by_place.insert(at, shown);
    }
    Value::Object(by_place)
}

fn flatten(path: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, value, into);
            }
        }
        other => drop(into.insert(path.to_owned(), other.to_string())),
    }
}

type Change = fn(&mut Value);

const BUNDLES: [(&str, &str, Change); 13] = [
    ("as `runc spec` writes it", ":", |_| {}),
    ("a user", "id; pwd; touch /tmp/made; stat -c %a:%u:%g /tmp/made", |config| {
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [10, 29], "umask": 0o027});
        config["process"]["cwd"] = json!("/tmp");
        config["process"]["env"] = json!(["PATH=/bin", "A=1", "B=two words", "EMPTY="]);
        config["root"]["readonly"] = json!(false);
    }),
    ("a user whose home is not said", "echo $HOME", |config| {
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        config["process"]["env"] = json!(["PATH=/bin"]);
    }),
    ("capabilities", ":", |config| {
        let few = json!(["CAP_CHOWN", "CAP_KILL"]);
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        config["process"]["capabilities"] = json!({"bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"], "permitted": few,
            "effective": ["CAP_KILL"], "inheritable": few, "ambient": ["CAP_KILL"]});
    }),
    ("rlimits", ":", |config| {
        config["process"]["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            {"type": "RLIMIT_NPROC", "soft": 500, "hard": 600}, {"type": "RLIMIT_FSIZE", "soft": 1 << 30, "hard": 1 << 30},
        ]);
    }),
    ("privileges and scores", ":", |config| {
        config["process"]["noNewPrivileges"] = json!(false);
        config["process"]["oomScoreAdj"] = json!(321);
    }),
    ("a seccomp profile", "mkdir /tmp/x 2>&1", |config| {
        config["root"]["readonly"] = json!(false);
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]});
    }),
    ("mounts", "stat -c '%n %F %a %u:%g' /a /b /c /d/e /f /g; cat /c; touch /b/x 2>&1", |config| {
        config["root"]["readonly"] = json!(false);
        config["mounts"].as_array_mut().unwrap().extend([
            json!({"destination": "/a", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "noexec", "noatime", "mode=1770", "uid=7", "size=1m"]}),
            json!({"destination": "/b", "type": "bind", "source": "rootfs/etc", "options": ["bind", "ro", "nodev", "nosuid"]}),
            json!({"destination": "/c", "type": "bind", "source": "rootfs/etc/group", "options": ["rbind", "noexec"]}),
            json!({"destination": "/d/e", "type": "bind", "source": "rootfs/tmp", "options": ["rbind", "rslave", "nodiratime"]}),
            json!({"destination": "/f", "type": "tmpfs", "source": "nothing", "options": ["ro", "nodev", "strictatime"]}),
            json!({"destination": "/g", "type": "bind", "source": "rootfs/tmp", "options": ["rbind", "rshared", "relatime"]}),
            json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}),
        ]);
    }),
    (
        "devices",
        "stat -c '%n %F %a %u:%g %t:%T' /dev/seven /dev/pipe /dev/null /dev/ptmx /dev/fd; readlink /dev/fd /dev/ptmx",
        |config| {
            config["linux"]["devices"] = json!([
                {"path": "/dev/seven", "type": "c", "major": 1, "minor": 7, "fileMode": 0o640, "uid": 3, "gid": 4},
                {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
            ]);
        },
    ),
    (
        "masks",
        "stat -c '%n %F %a' /etc/group /etc /bin /proc/kcore /tmp; cat /etc/group; ls /bin | wc -l; \
        (echo x > /proc/sys/kernel/hostname) 2>&1; touch /tmp/x 2>&1",
        |config| {
            config["root"]["readonly"] = json!(false);
            config["linux"]["maskedPaths"] = json!(["/etc/group", "/proc/kcore", "/var", "/not/there"]);
            config["linux"]["readonlyPaths"] = json!(["/proc/sys", "/tmp", "/not/there/either"]);
        },
    ),
    (
        "names and sysctls",
        "hostname; cat /proc/sys/kernel/domainname /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_forward",
        |config| {
            config["hostname"] = json!("someone");
            config["domainname"] = json!("somewhere.example");
            config["linux"]["sysctl"] = json!({"kernel.msgmax": "4096", "net.ipv4.ip_forward": "1"});
        },
    ),
    ("propagation", ":", |config| {
        config["linux"]["rootfsPropagation"] = json!("shared");
    }),
    (
        "a user namespace",
        "cat /proc/self/uid_map /proc/self/gid_map; stat -c '%n %u:%g' /proc/self /dev/null /dev/pts /tmp /dev/shm",
        |config| {
            config["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .extend([json!({"type": "user"}), json!({"type": "cgroup"})]);
            for which in ["uidMappings", "gidMappings"] {
                config["linux"][which] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            }
        },
    ),
];

#[test]
fn a_container_sees_what_crun_shows_it() {
    let host = Host::on_cgroup2();
    if !host.program("sh -c 'command -v crun'").run().text().contains("crun") {
        podrun_tests::skip!("there is no crun here");
    }
    let crun = format!("crun --root {}", host.fresh("crun").display());
    let podrun = format!("{} oci", host.podrun_path().display());
    let mut differ = Vec::new();
    for (name, script, change) in BUNDLES {
        let bundle = host.bundle(|config| {
            config["process"]["args"] = json!(["/bin/sh", "-c", format!("/probe facts; {{ {script}\n}} 2>&1; true")]);
            // crun attaches a program to the cgroup for them, for which it wants more than root of a container is let.
            config["linux"]["resources"] = json!({});
            config["linux"]["cgroupsPath"] = json!(format!("/{}-crun", host.cgroup_name()));
            // Said, since what it is by default is podrun's and runc's choice, and another one crun's.
            config["linux"]["rootfsPropagation"] = json!("private");
            change(config);
        });
        let (ours, theirs) = (seen(&host, &podrun, &bundle), seen(&host, &crun, &bundle));
        let places: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        for place in places {
            let (own, other) = (ours.get(place), theirs.get(place));
            if own != other && !is_meant(name, place) {
                differ.push(format!("{name}: {place}: podrun {own:?}, crun {other:?}"));
            }
        }
    }
    assert!(differ.is_empty(), "not what crun shows:\n  {}", differ.join("\n  "));
}
