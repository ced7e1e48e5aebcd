//! Root filesystems and OCI bundles, made in a millisecond: the probe, busybox and little else.

use crate::binaries::{copies, no_fork};
use serde_json::{Value, json};
use std::fmt;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

const APPLETS: &str = "sh cat ls sleep echo true false id stty wc head tail tr hostname ps kill touch env test mkdir rm ln \
    dd yes sha256sum nc date grep seq mv chmod stat mount umount pwd printf readlink nproc ip sync tty wget httpd mknod";

/// A directory that becomes a container's `/`. Shows as its path.
#[derive(Debug, Clone)]
pub struct Rootfs {
    path: PathBuf,
}

impl fmt::Display for Rootfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

impl Rootfs {
    pub(crate) fn new(path: PathBuf, probe: &Path) -> Self {
        let rootfs = Self { path };
        for dir in ["bin", "etc", "tmp", "root", "var", "proc", "sys", "dev", "usr/bin"] {
            rootfs.dir(dir);
        }
        fs::set_permissions(rootfs.path.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("chmod tmp");
        fs::hard_link(probe, rootfs.path.join("probe")).expect("link the probe");
        let busybox = copies().join("busybox");
        if busybox.exists() {
            fs::hard_link(busybox, rootfs.path.join("bin/busybox")).expect("link busybox");
            for applet in APPLETS.split_whitespace() {
                symlink("busybox", rootfs.path.join("bin").join(applet)).expect("link an applet");
            }
        }
        rootfs.file("etc/passwd", PASSWD).file("etc/group", GROUP)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn dir(&self, name: &str) -> &Self {
        fs::create_dir_all(self.path.join(name)).unwrap_or_else(|err| panic!("{name}: {err}"));
        self
    }

    #[must_use]
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let _held = no_fork();
        fs::write(self.path.join(name), content).unwrap_or_else(|err| panic!("{name}: {err}"));
        self
    }

    #[must_use]
    pub fn executable(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let rootfs = self.file(name, content);
        fs::set_permissions(rootfs.path.join(name), fs::Permissions::from_mode(0o755)).expect("chmod");
        rootfs
    }

    /// Replaces whatever is there by a symbolic link.
    #[must_use]
    pub fn link(self, name: &str, to: impl AsRef<Path>) -> Self {
        let at = self.path.join(name);
        let _ = fs::remove_dir_all(&at);
        let _ = fs::remove_file(&at);
        symlink(to, &at).unwrap_or_else(|err| panic!("{name}: {err}"));
        self
    }

    #[must_use]
    pub fn without(self, name: &str) -> Self {
        let at = self.path.join(name);
        fs::remove_dir_all(&at).or_else(|_| fs::remove_file(&at)).unwrap_or_else(|err| panic!("{name}: {err}"));
        self
    }

    /// A file of the root, from the host's side.
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path.join(name)).unwrap_or_else(|err| panic!("{name}: {err}"))
    }

    pub fn has(&self, name: &str) -> bool {
        self.path.join(name).symlink_metadata().is_ok()
    }
}

const PASSWD: &str =
    "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nbob:x:1001:100::/:/bin/sh\n";
const GROUP: &str = "root:x:0:\nusers:x:100:\nalice:x:1000:\nwheel:x:10:alice,bob\naudio:x:29:alice\n";

/// A directory with config.json and a root filesystem. Shows as its path.
#[derive(Debug, Clone)]
pub struct Bundle {
    path: PathBuf,
    pub rootfs: Rootfs,
}

impl fmt::Display for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

impl Bundle {
    pub(crate) fn new(path: &Path, probe: &Path, change: impl FnOnce(&mut Value)) -> Self {
        let mut config = config();
        change(&mut config);
        let rootfs = Rootfs::new(path.join("rootfs"), probe);
        let bundle = Self { path: path.to_owned(), rootfs };
        bundle.write(serde_json::to_string_pretty(&config).expect("a Value is JSON"));
        bundle
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes config.json.
    pub fn change(&self, change: impl FnOnce(&mut Value)) {
        let text = fs::read(self.path.join("config.json")).expect("read config.json");
        let mut config = serde_json::from_slice(&text).expect("config.json is JSON");
        change(&mut config);
        self.write(serde_json::to_string_pretty(&config).expect("a Value is JSON"));
    }

    /// Replaces config.json by these bytes.
    pub fn write(&self, config: impl AsRef<[u8]>) {
        fs::write(self.path.join("config.json"), config).expect("write config.json");
    }
}

/// What `runc spec` writes, with the probe as the program and no terminal.
fn config() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": ["/probe", "facts"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "runc",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
              "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] }
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }
            ],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}
