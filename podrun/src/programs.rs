//! Programs of the host's that podrun calls: where they are.

#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// In an absolute directory of PATH. A monitor has no environment: then where administrators' programs are.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin".into());
    first(name, std::env::split_paths(&path))
}

/// There, or where distributions have it, whatever a user's PATH says.
pub fn anywhere(name: &str) -> Option<PathBuf> {
    let usual = ["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from);
    on_path(name).or_else(|| first(name, usual))
}

fn first(name: &str, directories: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    let absolute = directories.into_iter().filter(|directory| directory.is_absolute());
    absolute.map(|directory| directory.join(name)).find(|path| may_run(path))
}

fn may_run(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
