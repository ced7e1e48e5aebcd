//! Who has which port of the host: a link(7) in the run-root to the pod's directory, made in one call, never half, and stale
//! by itself once that directory is gone.
//!
//! ```text
//!   ports/tcp-8080             the port at every address of the host
//!   ports/udp-53/127.0.0.1     at one of them; a directory and a link cannot both have the name
//! ```

#![forbid(unsafe_code)]

use super::Port;
use crate::error::{Doing, Result};
use crate::id::PodId;
use crate::net::lock::gone;
use crate::roots::Roots;
use crate::spec::port::Protocol;
use nix::errno::Errno;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A port of the host that somebody has; where in the pod it leads, its record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub port: Port,
    path: PathBuf,
}

impl Claim {
    pub(super) fn of(roots: &Roots, port: &Port) -> Self {
        let name = roots.ports().join(format!("{}-{}", port.protocol, port.host));
        let path = port.address.map_or_else(|| name.clone(), |address| name.join(address.to_string()));
        Self { port: Port { port: 0, ..*port }, path }
    }

    pub(super) fn owner(&self) -> Option<PodId> {
        PodId::parse(fs::read_link(&self.path).ok()?.file_name()?.to_str()?).ok()
    }

    pub(super) fn take(&self, roots: &Roots, pod: &PodId) -> Result<()> {
        let doing = || format!("take the port {}/{} of the host", self.port.host, self.port.protocol);
        let directory = self.directory();
        if let Some(directory) = directory {
            there(directory).doing(doing)?;
        }
        let attempt = || symlink(roots.pod(pod), &self.path);
        match attempt() {
            // Nobody's any more, and not removed yet: a crash.
            Err(err) if err.kind() == ErrorKind::AlreadyExists && directory.is_none() => {
                fs::remove_dir(&self.path).and_then(|()| attempt()).doing(doing)
            }
            other => other.doing(doing),
        }
    }

    pub(super) fn remove(&self) -> Result<()> {
        gone(fs::remove_file(&self.path)).doing(|| format!("remove {}", self.path.display()))?;
        // That of the port goes with its last address.
        let _ = self.directory().map(fs::remove_dir);
        Ok(())
    }

    fn directory(&self) -> Option<&Path> {
        self.path.parent().filter(|_| self.port.address.is_some())
    }
}

/// Those on one port: one system call where there are none.
pub(super) fn at(roots: &Roots, protocol: Protocol, host: u16) -> Result<Vec<Claim>> {
    let every = Claim::of(roots, &Port { protocol, address: None, host, port: 0 });
    match fs::read_link(&every.path) {
        Ok(_) => Ok(vec![every]),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(err) if err.raw_os_error() == Some(Errno::EINVAL as i32) => addresses(&every),
        other => other.map(|_| Vec::new()).doing(|| format!("read {}", every.path.display())),
    }
}

/// All of the run-root's.
pub(super) fn all(roots: &Roots) -> Result<Vec<Claim>> {
    let mut found = Vec::new();
    for entry in entries(&roots.ports())? {
        let Some(port) = entry.file_name().to_str().and_then(parse) else { continue };
        let every = Claim { port, path: entry.path() };
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => found.extend(addresses(&every)?),
            false => found.push(every),
        }
    }
    Ok(found)
}

/// Takes away what a crash left of ports that nobody has.
pub(super) fn sweep(roots: &Roots) -> Result<()> {
    // Empty ones can be removed, and nothing else.
    entries(&roots.ports())?.iter().for_each(|entry| drop(fs::remove_dir(entry.path())));
    Ok(())
}

fn addresses(every: &Claim) -> Result<Vec<Claim>> {
    let claim = |entry: &fs::DirEntry| {
        let address: IpAddr = entry.file_name().to_str()?.parse().ok()?;
        Some(Claim { port: Port { address: Some(address), ..every.port }, path: entry.path() })
    };
    Ok(entries(&every.path)?.iter().filter_map(claim).collect())
}

/// What is in a directory; nothing where it is not there.
fn entries(directory: &Path) -> Result<Vec<fs::DirEntry>> {
    match fs::read_dir(directory) {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        other => Ok(other.doing(|| format!("read {}", directory.display()))?.flatten().collect()),
    }
}

/// `<protocol>-<port>`.
fn parse(name: &str) -> Option<Port> {
    let (protocol, host) = name.split_once('-')?;
    Some(Port { protocol: Protocol::parse(protocol)?, address: None, host: host.parse().ok()?, port: 0 })
}

/// Makes the directory of a port. A link in its place is the port at every address, and leads into a pod's own directory.
fn there(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(err) if err.kind() == ErrorKind::AlreadyExists && !directory.is_symlink() => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(name: &str) -> Roots {
        let dir = std::env::temp_dir().join(format!("podrun-claims-{name}-{}", std::process::id()));
        let roots = Roots { root: dir.join("root"), run: dir };
        fs::create_dir_all(roots.ports()).unwrap();
        roots
    }

    fn port(address: Option<&str>, host: u16) -> Port {
        Port { protocol: Protocol::Tcp, address: address.map(|text| text.parse().unwrap()), host, port: 0 }
    }

    fn ports(claims: Result<Vec<Claim>>) -> Vec<Port> {
        let mut ports: Vec<Port> = claims.unwrap().into_iter().map(|claim| claim.port).collect();
        ports.sort();
        ports
    }

    #[test]
    fn a_claim_is_found_as_it_was_taken_and_leaves_nothing() {
        let roots = roots("found");
        let pod = PodId::random([7; 16]);
        let all = [port(None, 80), port(Some("127.0.0.1"), 81), port(Some("fd00::1"), 81), port(Some("::"), 82)];
        let taken = all.map(|port| Claim::of(&roots, &port));
        taken.iter().for_each(|claim| claim.take(&roots, &pod).unwrap());
        fs::write(roots.ports().join(".lock"), "").unwrap();
        let mut sorted = all;
        sorted.sort();
        assert_eq!(ports(super::all(&roots)), sorted);
        assert_eq!(ports(at(&roots, Protocol::Tcp, 80)), [port(None, 80)]);
        assert_eq!(ports(at(&roots, Protocol::Tcp, 81)).len(), 2);
        assert_eq!((ports(at(&roots, Protocol::Udp, 80)), ports(at(&roots, Protocol::Tcp, 83))), (vec![], vec![]));
        assert!(taken.iter().all(|claim| claim.owner().as_ref() == Some(&pod)));
        taken.iter().for_each(|claim| claim.remove().unwrap());
        taken[0].remove().unwrap();
        assert_eq!(entries(&roots.ports()).unwrap().len(), 1, "the lock");
        fs::create_dir(roots.ports().join("tcp-90")).unwrap();
        sweep(&roots).unwrap();
        assert_eq!(entries(&roots.ports()).unwrap().len(), 1, "the lock");
        fs::remove_dir_all(&roots.run).unwrap();
    }

    #[test]
    fn what_a_crash_left_of_a_port_is_in_nobodys_way() {
        let roots = roots("crash");
        fs::create_dir(roots.ports().join("tcp-80")).unwrap();
        assert_eq!(ports(at(&roots, Protocol::Tcp, 80)), []);
        let pod = PodId::random([7; 16]);
        let every = Claim::of(&roots, &port(None, 80));
        every.take(&roots, &pod).unwrap();
        assert_eq!(every.owner(), Some(pod.clone()));
        every.take(&roots, &pod).unwrap_err();
        fs::create_dir_all(roots.pod(&pod)).unwrap();
        Claim::of(&roots, &port(Some("127.0.0.1"), 80)).take(&roots, &pod).unwrap_err();
        assert!(entries(&roots.pod(&pod)).unwrap().is_empty(), "the link there leads into it");
        fs::remove_dir_all(&roots.run).unwrap();
    }

    #[test]
    fn a_name_is_a_port_or_nothing() {
        assert_eq!(parse("tcp-80"), Some(port(None, 80)));
        for bad in [".lock", "tcp", "tcp-", "tcp-x", "tcp--80", "icmp-80", "tcp-70000", "tcp-any-80"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
