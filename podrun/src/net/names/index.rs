//! Names of pods beside their own, one network's: `leases/<network>/.names/<namespace>/<name>/<pod>`, an empty file each.
//!
//! Several pods may have one name. An entry means nothing without that pod's lease, so a name ends with the lease, whatever
//! a crash leaves here; a look costs as much as there are pods of that very name. For callers that hold the leases' lock.

#![forbid(unsafe_code)]

use crate::id::PodId;
use crate::net::lock::gone;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Beside the leases, so that it goes with them.
const DIRECTORY: &str = ".names";

fn place(leases: &Path, namespace: &str, name: &str) -> PathBuf {
    leases.join(DIRECTORY).join(namespace).join(name)
}

pub fn add(leases: &Path, namespace: &str, names: &[String], pod: &PodId) -> io::Result<()> {
    for name in names {
        let place = place(leases, namespace, name);
        fs::create_dir_all(&place)?;
        fs::File::create(place.join(pod.as_str()))?;
    }
    Ok(())
}

/// Gone is fine.
pub fn remove(leases: &Path, namespace: &str, names: &[String], pod: &PodId) -> io::Result<()> {
    for name in names {
        let place = place(leases, namespace, name);
        gone(fs::remove_file(place.join(pod.as_str())))?;
        // Only where it was the last: others of this name keep it.
        let _ = fs::remove_dir(place);
    }
    Ok(())
}

/// Those that have the name, or had it when they were killed.
pub fn pods(leases: &Path, namespace: &str, name: &str) -> Vec<PodId> {
    let listing = fs::read_dir(place(leases, namespace, name)).into_iter().flatten().flatten();
    listing.filter_map(|entry| PodId::parse(entry.file_name().to_str()?).ok()).collect()
}

/// All of it, with the last lease.
pub fn forget(leases: &Path) -> io::Result<()> {
    gone(fs::remove_dir_all(leases.join(DIRECTORY)))
}

/// Removes the entries of pods that hold no lease.
pub fn sweep(leases: &Path, holds: impl Fn(&PodId) -> bool) -> io::Result<()> {
    for namespace in fs::read_dir(leases.join(DIRECTORY)).into_iter().flatten().flatten() {
        for name in fs::read_dir(namespace.path())?.flatten() {
            for entry in fs::read_dir(name.path())?.flatten() {
                let pod = entry.file_name().to_str().and_then(|id| PodId::parse(id).ok());
                if !pod.is_some_and(|pod| holds(&pod)) {
                    gone(fs::remove_file(entry.path()))?;
                }
            }
            let _ = fs::remove_dir(name.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_of_all_that_have_it_and_ends_with_each() {
        let leases = std::env::temp_dir().join(format!("podrun-index-{}", std::process::id()));
        let (one, two) = (PodId::random([1; 16]), PodId::random([2; 16]));
        let names = ["db".to_owned(), "db.example.org".to_owned()];
        add(&leases, "default", &names, &one).unwrap();
        add(&leases, "default", &names[..1], &two).unwrap();
        let mut found = pods(&leases, "default", "db");
        found.sort();
        assert_eq!(found, [one.clone(), two.clone()]);
        assert_eq!(pods(&leases, "default", "db.example.org"), std::slice::from_ref(&one));
        assert!(pods(&leases, "other", "db").is_empty());
        remove(&leases, "default", &names, &one).unwrap();
        remove(&leases, "default", &names, &one).unwrap();
        assert_eq!(pods(&leases, "default", "db"), std::slice::from_ref(&two));
        sweep(&leases, |pod| *pod != two).unwrap();
        assert!(!place(&leases, "default", "db").exists());
        forget(&leases).unwrap();
        forget(&leases).unwrap();
        fs::remove_dir(&leases).unwrap();
    }
}
