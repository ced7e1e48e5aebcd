//! Where the programs under test are.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Once, OnceLock};
use std::time::SystemTime;

/// Between fork and execve a child holds every descriptor of ours, one that is open for writing too, and while it does
/// the kernel refuses to execute that file (ETXTBSY). So files that will be executed are written, and commands are
/// started, under one lock.
pub(crate) fn no_fork() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// On tmpfs, and short: a unix socket's path has 108 bytes.
pub(crate) const BASE: &str = "/dev/shm";
pub(crate) const PREFIX: &str = "podrun-t-";

static COPIES: OnceLock<PathBuf> = OnceLock::new();

/// Copies of the probe and of busybox on tmpfs, made once in a test program, for hard links.
pub(crate) fn copies() -> &'static Path {
    static MADE: Once = Once::new();
    let dir = COPIES.get_or_init(|| Path::new(BASE).join(format!("{PREFIX}{}-copies", std::process::id())));
    MADE.call_once(|| {
        let _held = no_fork();
        fs::create_dir_all(dir).expect("make a directory on tmpfs");
        fs::copy(probe_binary(), dir.join("probe")).expect("copy the probe");
        if Path::new(BUSYBOX).exists() {
            fs::copy(BUSYBOX, dir.join("busybox")).expect("copy busybox");
        }
        crate::sys::at_exit(remove_copies);
    });
    dir
}

extern "C" fn remove_copies() {
    if let Some(dir) = COPIES.get() {
        let _ = fs::remove_dir_all(dir);
    }
}

const BUSYBOX: &str = "/bin/busybox";

/// The directory that cargo builds this profile's programs in: tests run from its `deps`.
fn profile_dir() -> PathBuf {
    let me = std::env::current_exe().expect("a test has a file");
    let dir = me.parent().expect("a file has a directory");
    match dir.ends_with("deps") {
        true => dir.parent().expect("deps has a parent").to_owned(),
        false => dir.to_owned(),
    }
}

fn built(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|file| file.modified()).ok()
}

/// `PODRUN_BIN`, or the newest that cargo has built, in whatever profile.
pub fn podrun_binary() -> PathBuf {
    if let Some(given) = std::env::var_os("PODRUN_BIN") {
        return given.into();
    }
    let target = profile_dir();
    let target = target.parent().expect("a profile has a target directory");
    ["release", "quick", "debug"]
        .map(|profile| target.join(profile).join("podrun"))
        .into_iter()
        .filter(|path| path.exists())
        .max_by_key(|path| built(path))
        .expect("no podrun to test: `cargo build -p podrun` first, or set PODRUN_BIN")
}

/// `PODRUN_FAULT_BIN`, or the build with debug assertions, which dies where it is told to (podrun/src/fault.rs).
pub fn faulty_binary() -> PathBuf {
    if let Some(given) = std::env::var_os("PODRUN_FAULT_BIN") {
        return given.into();
    }
    let debug = profile_dir().parent().expect("a profile has a target directory").join("debug/podrun");
    assert!(debug.exists(), "no podrun to crash: `cargo build -p podrun` first, or set PODRUN_FAULT_BIN");
    debug
}

/// `PODRUN_LATER_BIN`, or a build whose records are of a later format (podrun/Cargo.toml), which is made once, in a target
/// directory of its own. `None` where there is no cargo to make it.
pub fn later_binary() -> Option<PathBuf> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    if let Some(given) = std::env::var_os("PODRUN_LATER_BIN") {
        return Some(given.into());
    }
    BUILT.get_or_init(build_later).clone()
}

fn build_later() -> Option<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace");
    let target = top.join("target/later");
    let mut cargo = std::process::Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["build", "--quiet", "--package=podrun", "--bin=podrun", "--features=later-format"]);
    let done = cargo.current_dir(top).env("CARGO_TARGET_DIR", &target).env("CARGO_PROFILE_DEV_DEBUG", "0").status();
    let done = done.ok()?;
    assert!(done.success(), "{cargo:?}: {done}");
    // .cargo/config.toml names a target, whose directory lies between.
    let places = fs::read_dir(&target).into_iter().flatten().flatten().map(|entry| entry.path().join("debug/podrun"));
    places.filter(|path| path.exists()).max_by_key(|path| built(path))
}

/// The static program that tells its world and does as it is told.
pub fn probe_binary() -> PathBuf {
    let probe = profile_dir().join("probe");
    assert!(probe.exists(), "no probe at {}: cargo builds it with the tests", probe.display());
    probe
}
