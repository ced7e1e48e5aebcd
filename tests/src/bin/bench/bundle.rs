//! The bundle that all runtimes are given: what `runc spec` writes, without device rules and limits, which crun cannot
//! honour on a cgroup2 without controllers.

#![forbid(unsafe_code)]

use serde_json::{Value, json};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where a container's network, UTS and IPC namespaces come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From {
    New,
    /// Those of this process.
    Process(i32),
}

/// Writes a bundle around an existing rootfs.
pub(crate) fn write(dir: &Path, rootfs: &Path, args: &[&str], from: From, cgroup: Option<&str>) -> io::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let mut config = config(rootfs, args, from);
    if let Some(cgroup) = cgroup {
        config["linux"]["cgroupsPath"] = json!(cgroup);
    }
    fs::write(dir.join("config.json"), config.to_string())?;
    Ok(dir.to_owned())
}

fn namespaces(from: From) -> Value {
    let own = ["pid", "mount", "cgroup"].map(|kind| json!({"type": kind}));
    let shared = [("network", "net"), ("uts", "uts"), ("ipc", "ipc")].map(|(kind, file)| match from {
        From::New => json!({"type": kind}),
        From::Process(pid) => json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}),
    });
    own.into_iter().chain(shared).collect()
}

fn mount(destination: &str, kind: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": kind, "options": options})
}

fn config(rootfs: &Path, args: &[&str], from: From) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": rootfs, "readonly": true},
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "namespaces": namespaces(from),
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
