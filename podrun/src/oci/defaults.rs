//! The document that `run --rootfs DIR` stands for: docker's defaults, in the words of config.json.

#![forbid(unsafe_code)]

use crate::caps;
use crate::error::{Error, Kind, Result};
use oci_spec::runtime::Spec;
use serde_json::json;

pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What no container should read: docker's list, and containerd's additions to it (GHSA-7ww5-4wqc-m92c: RAPL).
pub const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

pub const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A container of docker's defaults that runs `args`.
pub fn document(args: &[String]) -> Result<Spec> {
    let capabilities: Vec<String> = caps::DEFAULT.iter().map(ToString::to_string).collect();
    let document = json!({
        "ociVersion": "1.2.0",
        "process": {
            "args": args, "cwd": "/", "env": [PATH], "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]},
        ],
        "annotations": {super::SECCOMP_ANNOTATION: "default"},
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}],
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    });
    serde_json::from_value(document).map_err(|err| Error::new(Kind::Invalid, "make the default document", err))
}

/// The group of terminals, `tty`, everywhere.
pub const TTY: u32 = 5;

/// The same where that group is not mapped: terminals are of their user's own.
pub fn without_tty(document: &mut Spec) {
    let mut mounts = document.mounts().clone().unwrap_or_default();
    for mount in &mut mounts {
        let options =
            mount.options().clone().map(|all| all.into_iter().filter(|one| *one != format!("gid={TTY}")).collect());
        mount.set_options(options);
    }
    document.set_mounts(Some(mounts));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_document_is_a_config_json_that_podrun_takes() {
        let spec = document(&["sh".into()]).unwrap();
        let text = serde_json::to_string(&spec).unwrap();
        assert!(crate::oci::parse(&text).is_ok());
        assert_eq!(spec.mounts().as_ref().unwrap().len(), 7);
        let mut without = spec;
        assert!(serde_json::to_string(&without).unwrap().contains("gid=5"));
        without_tty(&mut without);
        let text = serde_json::to_string(&without).unwrap();
        assert!(!text.contains("gid=5") && text.contains("mode=0620"), "{text}");
    }
}
