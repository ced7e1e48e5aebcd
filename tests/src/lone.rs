//! Containers in no pod (`podrun oci`): their bundles, and the verbs that every test of them needs.

use crate::{Bundle, Host, Value, eventually, json};
use std::time::Duration;

/// A bundle whose program is a shell's script.
pub fn script(host: &Host, script: &str) -> Bundle {
    with_script(host, script, |_| {})
}

pub fn with_script(host: &Host, script: &str, change: impl FnOnce(&mut Value)) -> Bundle {
    host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["process"]["env"] = json!(["PATH=/bin"]);
        config["root"]["readonly"] = json!(false);
        change(config);
    })
}

/// Its processes are numbered as the host's, and a first one is like any other.
pub fn without_pid(config: &mut Value) {
    config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "pid");
}

/// Its root may make cgroups in the container's own, which has these limits.
pub fn with_writable_cgroup(config: &mut Value, limits: &Value) {
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "cgroup"}));
    for (key, value) in limits.as_object().unwrap() {
        config["linux"]["resources"][key] = value.clone();
    }
    for mount in config["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/sys/fs/cgroup" {
            mount["options"] = json!(["nosuid", "noexec", "nodev"]);
        }
    }
}

/// A controller of a host that sees cgroup v2 alone beside which no process may be (cgroups(7)), and a limit that has it handed
/// down to a container.
pub fn asking_controller(host: &Host) -> Option<(&'static str, Value)> {
    let here = host.inside(|| std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")).unwrap();
    let all = [
        ("memory", json!({"memory": {"limit": 100_000_000}})),
        ("hugetlb", json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 1 << 30}]})),
    ];
    all.into_iter().find(|(name, _)| here.split_whitespace().any(|one| one == *name))
}

/// `podrun oci create` with no stdio of its own, so that nobody waits for its end.
#[track_caller]
pub fn create(host: &Host, id: &str, bundle: &Bundle) {
    host.command(format!("oci create --bundle {bundle} {id}")).without_stdio().run().ok();
}

/// Makes it and starts it, in the background.
#[track_caller]
pub fn start(host: &Host, id: &str, bundle: &Bundle) {
    create(host, id, bundle);
    host.podrun(format!("oci start {id}")).ok();
}

#[track_caller]
pub fn state(host: &Host, id: &str) -> Value {
    host.podrun(format!("oci state {id}")).json()
}

#[track_caller]
pub fn until(host: &Host, id: &str, status: &str) {
    eventually(&format!("{id} is {status}"), Duration::from_secs(10), || {
        (state(host, id)["status"] == status).then_some(())
    });
}

pub fn forever(host: &Host) -> Bundle {
    script(host, "trap 'exit 7' TERM; : > /tmp/trapped; while :; do sleep 0.02; done")
}
