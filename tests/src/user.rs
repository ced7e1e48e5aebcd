//! Users of a fake host who are not root: in /etc/passwd, with ids in /etc/subuid and /etc/subgid, a home and a runtime
//! directory, and nothing that root has.

use crate::bundle::{Bundle, Rootfs};
use crate::command::{Command, Outcome};
use crate::host::Host;
use crate::words;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

/// One of them.
#[derive(Debug)]
pub struct User<'h> {
    pub host: &'h Host,
    pub name: &'static str,
    pub uid: u32,
    /// His first id in /etc/subuid.
    pub sub: u32,
    home: PathBuf,
    runtime: PathBuf,
}

/// How many ids each has there.
pub(crate) const RANGE: u32 = 65_536;

impl Host {
    /// Makes these users, from uid 4001 on, and all that a desktop's host has for them: their ids, and /dev/net/tun for all.
    pub fn users<const N: usize>(&self, names: [&'static str; N]) -> [User<'_>; N] {
        let mut next = 4000;
        let all = names.map(|name| {
            next += 1;
            let [home, runtime] = ["home", "xdg"].map(|what| self.directory_of(&format!("{what}-{name}"), next));
            User { host: self, name, uid: next, sub: (next - 4000) * 100_000, home, runtime }
        });
        let lines = |line: fn(&User<'_>) -> String| all.iter().map(line).collect::<String>();
        let passwd = lines(|user| format!("{0}:x:{1}:{1}::{2}:/bin/sh\n", user.name, user.uid, user.home.display()));
        self.replace_file("/etc/passwd", &format!("root:x:0:0::/root:/bin/sh\n{passwd}"));
        for file in ["/etc/subuid", "/etc/subgid"] {
            self.replace_file(file, &lines(|user| format!("{}:{}:{RANGE}\n", user.name, user.sub)));
        }
        let tun = self.fresh("tun");
        self.program(format!("mknod -m 666 {} c 10 200", tun.display())).run().ok();
        self.program("mkdir -p /dev/net").run().ok();
        self.replace_by("/dev/net/tun", &tun);
        all
    }

    fn directory_of(&self, what: &str, uid: u32) -> PathBuf {
        let path = self.fresh(what);
        fs::create_dir(&path).expect("make a directory");
        chown(&path, Some(uid), Some(uid)).expect("give it away");
        path
    }
}

impl User<'_> {
    /// A program with this user's rights, and what a login gives him.
    pub fn program(&self, line: impl AsRef<str>) -> Command<'_> {
        let (uid, words) = (self.uid.to_string(), words(line.as_ref()));
        let command = self.host.program("setpriv").args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"]);
        let command = command.args(words).env("HOME", &self.home).env("XDG_RUNTIME_DIR", &self.runtime);
        // Those of the harness are root's.
        command.env("PODRUN_ROOT", "").env("PODRUN_RUN_ROOT", "")
    }

    pub fn command(&self, line: impl AsRef<str>) -> Command<'_> {
        self.program(format!("{} {}", self.host.podrun_path().display(), line.as_ref()))
    }

    #[track_caller]
    pub fn podrun(&self, line: impl AsRef<str>) -> Outcome {
        self.command(line).run()
    }

    /// A root filesystem whose directories are this user's.
    pub fn rootfs(&self) -> Rootfs {
        let rootfs = self.host.rootfs();
        give(rootfs.path(), self.uid);
        rootfs
    }

    /// A bundle for `podrun oci`, in a user namespace with this user's own id.
    pub fn bundle(&self, change: impl FnOnce(&mut Value)) -> Bundle {
        let bundle = self.host.bundle(|config| {
            make_rootless(config, self.uid);
            change(config);
        });
        give(bundle.rootfs.path(), self.uid);
        bundle
    }

    /// `podrun run NAME FLAGS --rootfs <a fresh one> -- COMMAND`.
    #[track_caller]
    pub fn run(&self, name: &str, flags: &str, command: &str) -> Outcome {
        self.podrun(format!("run {name} {flags} --rootfs {} -- {command}", self.rootfs()))
    }

    #[track_caller]
    pub fn start(&self, name: &str, flags: &str, command: &str) {
        self.run(name, &format!("-d {flags}"), command).ok();
    }

    #[track_caller]
    pub fn inspect(&self, what: &str) -> Value {
        self.podrun(format!("inspect {what}")).json()
    }

    pub fn run_root(&self) -> PathBuf {
        self.runtime.join("podrun")
    }

    /// His XDG_RUNTIME_DIR.
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    pub fn home(&self) -> &Path {
        &self.home
    }

    /// What runs with this user's ids, one a line.
    pub fn processes(&self) -> Vec<String> {
        let all = fs::read_dir(self.host.outside("/proc")).into_iter().flatten().flatten();
        let mut found: Vec<String> = all
            .filter_map(|entry| {
                let status = fs::read_to_string(entry.path().join("status")).ok()?;
                let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                let uid: u32 = field("Uid:")?.split_whitespace().next()?.parse().ok()?;
                let is_his = uid == self.uid || (self.sub..self.sub + RANGE).contains(&uid);
                (is_his && !field("State:")?.starts_with('Z')).then(|| {
                    let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " ");
                    format!("{} {} {line}", entry.file_name().to_string_lossy(), field("Name:").unwrap_or_default())
                })
            })
            .collect();
        found.sort();
        found
    }
}

impl Drop for User<'_> {
    /// His pods go by his own commands, and the last of them lets go of everything.
    fn drop(&mut self) {
        let names = fs::read_dir(self.host.outside(self.run_root().join("names"))).into_iter().flatten().flatten();
        let names: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        for pod in names.iter().filter_map(|name| Some(name.split_once('_')?.1)) {
            self.podrun(format!("delete pod {pod} --force"));
        }
        if std::thread::panicking() {
            return;
        }
        let gone = || self.processes().is_empty().then_some(());
        crate::eventually(&format!("nothing runs of {}", self.name), std::time::Duration::from_secs(5), gone);
    }
}

/// Directories only: the files are links to those of all tests.
pub fn give(dir: &Path, uid: u32) {
    chown(dir, Some(uid), Some(uid)).expect("give a directory away");
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            give(&entry.path(), uid);
        }
    }
}

/// A user namespace with the user's own id, and nothing that it cannot have: devpts knows no group 5.
pub fn make_rootless(config: &mut Value, uid: u32) {
    let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
    namespaces.extend([json!({"type": "user"}), json!({"type": "cgroup"})]);
    let own = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
    config["linux"]["uidMappings"] = own.clone();
    config["linux"]["gidMappings"] = own;
    config["root"]["readonly"] = json!(false);
    let mut mounts = config["mounts"].as_array_mut().expect("mounts").iter_mut();
    let devpts = mounts.find(|mount| mount["type"] == "devpts").expect("a devpts");
    devpts["options"].as_array_mut().expect("its options").retain(|option| option != "gid=5");
}
