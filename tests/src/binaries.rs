//! Where the programs under test are.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

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

/// The static program that tells its world and does as it is told.
pub fn probe_binary() -> PathBuf {
    let probe = profile_dir().join("probe");
    assert!(probe.exists(), "no probe at {}: cargo builds it with the tests", probe.display());
    probe
}
