//! spec and features: what a config.json may look like, and what of the specification this runtime does (features.md).

#![forbid(unsafe_code)]

use super::Call;
use crate::caps;
use crate::cli::table;
use crate::container::alone;
use crate::error::{Doing, Result};
use crate::rootfs::mounts;
use crate::sys::cred;
use clap::Args;
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;

/// The newest specification that podrun reads.
pub(super) const VERSION: &str = "1.3.0";

#[derive(Debug, Args)]
struct Spec {
    /// Where to write it; here by default
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    bundle: PathBuf,
    /// For a user who is not root
    #[arg(long)]
    rootless: bool,
}

pub(super) fn spec(call: &Call) -> Result<i32> {
    let asked: Spec = call.parse()?;
    let path = asked.bundle.join("config.json");
    let text = format!("{:#}\n", example(asked.rootless.then(|| (cred::effective_uid(), cred::effective_gid()))));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path).map_err(|err| {
        let exists = err.kind() == std::io::ErrorKind::AlreadyExists;
        let err = Err::<(), _>(err).doing(|| format!("write {}", path.display())).unwrap_err();
        if exists { err.hint("remove it first, or name another directory by --bundle") } else { err }
    })?;
    file.write_all(text.as_bytes()).doing(|| format!("write {}", path.display()))?;
    Ok(0)
}

/// runc's example: a shell on a terminal with three capabilities, on a read-only root.
fn example(rootless: Option<(u32, u32)>) -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let namespaces = ["pid", "network", "ipc", "uts", "cgroup", "mount"].map(|kind| json!({"type": kind}));
    let mut document = json!({
        "ociVersion": VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [crate::oci::defaults::PATH, "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "podrun",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": namespaces,
            "maskedPaths": crate::oci::defaults::MASKED,
            "readonlyPaths": crate::oci::defaults::READ_ONLY,
        },
    });
    if let Some((uid, gid)) = rootless {
        make_rootless(&mut document, uid, gid);
    }
    document
}

/// A user namespace that maps root to whoever asks; its devpts knows no group 5, and the host's network and /sys stay.
fn make_rootless(document: &mut Value, uid: u32, gid: u32) {
    let map = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 1}]);
    document["linux"]["uidMappings"] = map(uid);
    document["linux"]["gidMappings"] = map(gid);
    document["linux"]["namespaces"] =
        json!(["pid", "ipc", "uts", "cgroup", "mount", "user"].map(|kind| json!({"type": kind})));
    if let Some(linux) = document["linux"].as_object_mut() {
        linux.remove("resources");
    }
    document["mounts"][2]["options"] = json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]);
    document["mounts"][5] = json!({"destination": "/sys", "type": "none", "source": "/sys",
        "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
}

const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
const OPERATORS: [&str; 7] =
    ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"];
const ARCHITECTURES: [&str; 5] =
    ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"];
const FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

const POLICIES: [&str; 7] = [
    "MPOL_BIND",
    "MPOL_DEFAULT",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];
const POLICY_FLAGS: [&str; 3] = ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"];

#[derive(Debug, Args)]
struct Nothing {}

pub(super) fn features(call: &Call) -> Result<i32> {
    let Nothing {} = call.parse()?;
    let names: Vec<String> = caps::names(u64::MAX).into_iter().map(|one| one.to_string()).collect();
    let document = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": alone::HOOKS,
        "mountOptions": mounts::known_options().collect::<Vec<_>>(),
        "linux": {
            "namespaces": alone::kinds().collect::<Vec<_>>(),
            "capabilities": names,
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": ACTIONS,
                "operators": OPERATORS,
                "archs": ARCHITECTURES,
                "knownFlags": FLAGS,
                "supportedFlags": FLAGS,
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "mountExtensions": {"idmap": {"enabled": true}},
            "memoryPolicy": {"modes": POLICIES, "flags": POLICY_FLAGS},
            "netDevices": {"enabled": true},
        },
        "annotations": {"io.podrun.version": env!("CARGO_PKG_VERSION")},
    });
    table::print(&format!("{document:#}\n"));
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_are_what_podrun_takes() {
        for rootless in [None, Some((1000, 1000))] {
            let text = example(rootless).to_string();
            let (document, warnings) = crate::oci::parse_for(&text, crate::oci::Whose::Makers).unwrap();
            assert!(warnings.is_empty());
            assert_eq!(alone::plan(&document).unwrap().ids.is_some(), rootless.is_some());
        }
    }
}
