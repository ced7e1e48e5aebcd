//! Leases: which pod has which address. One file for each address, in `leases/<network>/` of the run-root.
//!
//! A lease is one file with several names (hard links): each of its addresses, `mac-<hardware address>` where one was asked for,
//! and `pod-<id>` for each pod that lives in the network namespace that has them. So `pod:NAME` adds a holder by one link(2),
//! a pod's lease is found from the pod's id alone, the lease ends with its last holder, and there is never a file to edit.
//!
//! An address is free when no lease names it **and** no link of that address is left in the kernel (`link_name`): a
//! link goes with its network namespace, some time after the pod. It is handed out again as late as possible (next
//! fit), so in a range with room nobody ever waits for that.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use crate::id::PodId;
use crate::net::cidr::{Cidr, Mac, link_name};
use crate::net::lock::{Hold, gone, lock};
use crate::net::names::{self, Names, index};
use crate::net::ports::name_of;
use crate::roots::Roots;
use crate::sys;
use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What a lease's file holds. It says nothing that a reboot could make wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub version: u32,
    /// The pod that it was made for; others may have joined, and this one may have left.
    pub pod: PodId,
    pub addresses: Vec<Cidr>,
    /// The host's end of the pod's interface, where it has one.
    pub link: Option<String>,
    /// The pod's name, for whoever asks for the same address.
    #[serde(default)]
    pub title: String,
    /// The pod's end.
    #[serde(default)]
    pub interface: String,
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub names: Names,
    /// The hardware address that was asked for; without, it follows from the first address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// The addresses of one network that pods may have.
#[derive(Debug, Clone)]
pub struct Pool {
    directory: PathBuf,
    roots: Roots,
    pub ranges: Vec<Range>,
    ends: Ends,
    /// The host's own, where the network is of the host's wire.
    own: Vec<IpAddr>,
}

/// One family's addresses of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub subnet: Cidr,
    pub gateway: Option<IpAddr>,
    /// Only these are handed out to whoever asks for none in particular.
    pub only: Option<Cidr>,
}

/// Where the links of a network's pods show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// Each has an end on the host, which goes with the pod's: what has none is free.
    OnHost,
    /// In the pods alone.
    InPod,
}

/// Who wants an address, and which.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub pod: &'a PodId,
    pub title: &'a str,
    /// The host's end of its interface.
    pub link: Option<&'a str>,
    pub interface: &'a str,
    pub names: &'a Names,
    /// None of a family: the next free one.
    pub addresses: &'a [IpAddr],
    /// None: the one that follows from the address.
    pub mac: Option<Mac>,
}

/// What a search for an address found.
#[derive(Debug)]
pub enum Taken {
    Lease(Lease),
    /// No address is free.
    Full {
        range: Cidr,
        leases: usize,
    },
    /// The address that was asked for is no pod's any more, and its link is still on its way out.
    Lingers {
        address: IpAddr,
    },
}

/// A lease's names on disk, as found by reading the directory.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Entry {
    pub addresses: Vec<String>,
    pub holders: Vec<PodId>,
    /// The name by its hardware address.
    pub mac: Option<String>,
}

/// The file that is the pool's lock and holds the address that was handed out last. A hint: any content is fine.
const LAST: &str = ".last";
const HOLDER: &str = "pod-";
const MAC: &str = "mac-";
/// What an address takes in it, one family after the other.
const SLOT: u64 = 41;

impl Range {
    fn usable(&self) -> (u128, u128) {
        let hosts = self.subnet.hosts();
        let Some(only) = self.only else { return (*hosts.start(), *hosts.end()) };
        let within = only.hosts();
        let end = |offset: u128| self.subnet.offset(only.nth(offset)).unwrap_or_default();
        // The first and the last address of a part are hosts as others are.
        let first = end(0).max(*hosts.start());
        let last = end(within.end() + u128::from(only.address.is_ipv4() && only.prefix < 31)).min(*hosts.end());
        (first, last)
    }
}

impl Pool {
    pub fn new(roots: &Roots, network: &str, ranges: Vec<Range>, ends: Ends) -> Self {
        Self { directory: roots.leases().join(network), roots: roots.clone(), ranges, ends, own: Vec::new() }
    }

    /// The same, without what the host has for itself.
    pub fn beside(self, own: Vec<IpAddr>) -> Self {
        Self { own, ..self }
    }

    /// Takes an address of each family for a pod.
    pub fn take(&self, wanted: &Wanted<'_>) -> Result<Taken> {
        self.check(wanted.addresses)?;
        let last = self.lock()?;
        if self.directory.join(holder(wanted.pod)).exists() {
            let doing = format!("attach pod {}", wanted.pod.short());
            return Err(Error::new(Kind::AlreadyExists, doing, "it is attached already"));
        }
        let mut found = Vec::new();
        for (slot, range) in self.ranges.iter().enumerate() {
            let wish = wanted.addresses.iter().find(|ip| ip.is_ipv4() == range.subnet.address.is_ipv4());
            let address = match wish {
                Some(wish) => {
                    self.refuse_taken(*wish)?;
                    if self.lingers(*wish)? {
                        return Ok(Taken::Lingers { address: *wish });
                    }
                    Some(*wish)
                }
                None => self.search(range, slot, &last)?,
            };
            match address {
                Some(address) => found.push(Cidr { address, prefix: range.subnet.prefix }),
                None => {
                    return Ok(Taken::Full {
                        range: range.only.unwrap_or(range.subnet),
                        leases: survey(&self.directory)?.len(),
                    });
                }
            }
        }
        if let Some(mac) = wanted.mac {
            self.refuse_mac(mac, &found)?;
        }
        self.write(&last, found, wanted).map(Taken::Lease)
    }

    /// Whether the addresses that are asked for can be a pod's of this network at all.
    fn check(&self, addresses: &[IpAddr]) -> Result<()> {
        for address in addresses {
            let bad = |cause: String| Err(Error::new(Kind::Invalid, format!("take the address {address}"), cause));
            let same = |range: &&Range| range.subnet.address.is_ipv4() == address.is_ipv4();
            let Some(range) = self.ranges.iter().find(same) else {
                return bad(format!("the network has no IPv{} range", if address.is_ipv4() { 4 } else { 6 }));
            };
            let subnet = range.subnet.network();
            match subnet.offset(*address) {
                None => return bad(format!("it is not in the network's range, {subnet}")),
                Some(_) if range.gateway == Some(*address) => return bad("it is the network's gateway".to_owned()),
                Some(_) if self.own.contains(address) => return bad("this host has it".to_owned()),
                Some(offset) if !subnet.hosts().contains(&offset) => {
                    return bad(format!("it is no host's of {subnet}"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn refuse_taken(&self, address: IpAddr) -> Result<()> {
        let path = self.directory.join(address.to_string());
        match self.whose(&path)? {
            Some(who) => {
                Err(Error::new(Kind::AlreadyExists, format!("take the address {address}"), format!("{who} has it")))
            }
            None => Ok(()),
        }
    }

    /// Of two with one hardware address on a wire neither hears what is for it. One that is made from an address is that
    /// address's: the gateway's, a pod's, or one's that is still to come.
    fn refuse_mac(&self, mac: Mac, own: &[Cidr]) -> Result<()> {
        let refuse = |cause| Err(Error::new(Kind::AlreadyExists, format!("take the hardware address {mac}"), cause));
        if let Some(address) = mac.made_from()
            && self.ranges.iter().any(|range| range.subnet.contains(address))
            && !own.iter().any(|one| Mac::pod(one.address) == mac)
        {
            return refuse(format!("it goes with the address {address}"));
        }
        match self.whose(&self.directory.join(by_mac(&mac.to_string())))? {
            Some(who) => refuse(format!("{who} has it")),
            None => Ok(()),
        }
    }

    /// The pod whose lease has this name: whom it was made for, or, where that one is gone, who joined it. Nobody where there
    /// is none.
    fn whose(&self, name: &Path) -> Result<Option<String>> {
        let Ok(meta) = fs::metadata(name) else { return Ok(None) };
        let lease = read(name);
        if let Some(lease) = lease.filter(|lease| self.directory.join(holder(&lease.pod)).exists()) {
            let title = if lease.title.is_empty() { lease.pod.short().to_owned() } else { lease.title };
            return Ok(Some(format!("pod {title}")));
        }
        let holders = survey(&self.directory)?.remove(&meta.ino()).unwrap_or_default().holders;
        let named = holders.first().map(|pod| format!("pod {}", name_of(&self.roots, pod)));
        Ok(Some(named.unwrap_or_else(|| "another pod".to_owned())))
    }

    fn lingers(&self, address: IpAddr) -> Result<bool> {
        Ok(self.ends == Ends::OnHost && link_exists(&link_name(address))?)
    }

    /// The first address after the last one that has neither a lease nor a link.
    fn search(&self, range: &Range, slot: usize, last: &File) -> Result<Option<IpAddr>> {
        for offset in next_fit(range.usable(), self.last(range, slot, last)) {
            let address = range.subnet.nth(offset);
            let known = range.gateway == Some(address) || self.own.contains(&address);
            let leased = known || self.directory.join(address.to_string()).exists();
            if !leased && !self.lingers(address)? {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }

    /// Holder first, addresses last: a crash in between leaves what `release` finds.
    fn write(&self, last: &File, addresses: Vec<Cidr>, wanted: &Wanted<'_>) -> Result<Lease> {
        let lease = Lease {
            version: 1,
            pod: wanted.pod.clone(),
            addresses,
            link: wanted.link.map(str::to_owned),
            title: wanted.title.to_owned(),
            interface: wanted.interface.to_owned(),
            names: wanted.names.clone(),
            mac: wanted.mac.map(|mac| mac.to_string()),
        };
        let text = serde_json::to_vec(&lease).expect("a lease is plain data");
        let staged = self.directory.join(".new");
        let write = || -> std::io::Result<()> {
            // Never truncated: a crash may have left this name on a lease that is in use.
            gone(fs::remove_file(&staged))?;
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?.write_all(&text)?;
            fs::hard_link(&staged, self.directory.join(holder(wanted.pod)))?;
            if let Some(mac) = &lease.mac {
                fs::hard_link(&staged, self.directory.join(by_mac(mac)))?;
            }
            index::add(&self.directory, names::parts(wanted.title).0, &wanted.names.more, wanted.pod)?;
            let names = lease.addresses.iter().map(|one| self.directory.join(one.address.to_string()));
            let names: Vec<_> = names.collect();
            let (first, others) = names.split_first().expect("a network has a range");
            others.iter().try_for_each(|name| fs::hard_link(&staged, name))?;
            fs::rename(&staged, first)?;
            for (slot, one) in lease.addresses.iter().enumerate() {
                last.write_all_at(format!("{:<40}\n", one.address).as_bytes(), SLOT * slot as u64)?;
            }
            Ok(())
        };
        let said = lease.addresses.first().map(|one| one.address.to_string()).unwrap_or_default();
        write().doing(|| format!("lease {said} to pod {}", wanted.pod.short()))?;
        Ok(lease)
    }

    fn last(&self, range: &Range, slot: usize, file: &File) -> Option<u128> {
        let mut text = [0; 40];
        let read = file.read_at(&mut text, SLOT * slot as u64).ok()?;
        let address = std::str::from_utf8(&text[..read]).ok()?.trim().parse().ok()?;
        range.subnet.offset(address)
    }

    /// Whether a crash left it: no pod can still be on its way to use it.
    fn is_dead(&self, entry: &Entry) -> Result<bool> {
        if self.ends == Ends::InPod {
            return Ok(!entry.holders.iter().any(|pod| self.roots.pod(pod).exists()));
        }
        let mut links = entry.links(&self.directory).into_iter();
        Ok(!links.try_fold(false, |any, link| link_exists(&link).map(|exists| any || exists))?)
    }

    /// Drops the leases whose links are gone: what a crash left. Only when the range is full, since it reads
    /// everything, and only while no pod is being attached, since its lease comes before its link.
    pub fn reclaim(&self) -> Result<()> {
        let _held = self.lock()?;
        for entry in survey(&self.directory)?.values() {
            if self.is_dead(entry)? {
                entry.remove(&self.directory)?;
            }
        }
        sweep_names(&self.directory)
    }

    fn lock(&self) -> Result<Flock<File>> {
        lock(&self.directory.join(LAST), Hold::Exclusive)
    }
}

/// `member` holds what `pod` holds: it joined its network namespace. Twice is fine.
pub fn share(roots: &Roots, pod: &PodId, member: &PodId) -> Result<()> {
    networks(roots)?.iter().try_for_each(|network| share_in(network, pod, member))
}

fn share_in(network: &Path, pod: &PodId, member: &PodId) -> Result<()> {
    let _held = lock(&network.join(LAST), Hold::Exclusive)?;
    match fs::hard_link(network.join(holder(pod)), network.join(holder(member))) {
        Err(err) if matches!(err.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => Ok(()),
        other => other.doing(|| format!("share the lease of pod {} with {}", pod.short(), member.short())),
    }
}

/// Ends what `pod` holds, in every network. Where it was the last holder its link is silenced and the lease ends.
pub fn release(roots: &Roots, pod: &PodId) -> Result<()> {
    for network in networks(roots)? {
        if network.join(holder(pod)).exists() {
            let _held = lock(&network.join(LAST), Hold::Exclusive)?;
            release_in(&network, pod).doing(|| format!("release the lease of pod {}", pod.short()))?;
        }
    }
    Ok(())
}

/// Ends what `pods` hold in one network; what the link of the last of them was is the caller's.
pub fn leave(roots: &Roots, network: &str, pods: &[PodId]) -> Result<()> {
    let network = roots.leases().join(network);
    if !network.is_dir() {
        return Ok(());
    }
    let _held = lock(&network.join(LAST), Hold::Exclusive)?;
    pods.iter()
        .try_for_each(|pod| release_in(&network, pod).doing(|| format!("release the lease of pod {}", pod.short())))
}

/// `member` holds what `pod` holds in one network.
pub fn join(roots: &Roots, network: &str, pod: &PodId, member: &PodId) -> Result<()> {
    share_in(&roots.leases().join(network), pod, member)
}

fn release_in(network: &Path, pod: &PodId) -> std::io::Result<()> {
    let held = network.join(holder(pod));
    let (inode, names) = match fs::symlink_metadata(&held) {
        Ok(meta) => (meta.ino(), meta.nlink()),
        Err(err) => return gone(Err(err)),
    };
    let addresses: Vec<PathBuf> = match read(&held) {
        Some(lease) => {
            let addresses = lease.addresses.iter().map(|at| at.address.to_string());
            let paths: Vec<_> =
                addresses.chain(lease.mac.as_deref().map(by_mac)).map(|name| network.join(name)).collect();
            if names > paths.len() as u64 + 1 {
                return gone(fs::remove_file(&held)); // others live in its network namespace
            }
            lease.link.as_deref().map_or(Ok(()), silence)?;
            index::remove(network, names::parts(&lease.title).0, &lease.names.more, &lease.pod)?;
            paths
        }
        // Unreadable, which only a hand can make: then its own names say which addresses it had.
        None => names_of(network, inode)?,
    };
    for address in addresses {
        // After a crash while it was written, the address may be somebody else's.
        if fs::symlink_metadata(&address).is_ok_and(|meta| meta.ino() == inode) {
            gone(fs::remove_file(&address))?;
        }
    }
    gone(fs::remove_file(&held))
}

/// Takes the link down, which makes it and its bridge port silent at once. To delete it, or to take it off the bridge,
/// waits for RCU; left alone it goes with its network namespace.
fn silence(link: &str) -> std::io::Result<()> {
    match sys::net::set_link_down(link) {
        Err(err) if err.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

/// The lease that `pod` holds in `network`.
pub fn held(roots: &Roots, network: &str, pod: &PodId) -> Option<Lease> {
    read(&roots.leases().join(network).join(holder(pod)))
}

/// The lease of an address.
pub fn at(roots: &Roots, network: &str, address: IpAddr) -> Option<Lease> {
    read(&roots.leases().join(network).join(address.to_string()))
}

/// A pod that holds the lease now: whom it was made for, or who joined that one.
pub fn holder_of(roots: &Roots, network: &str, lease: &Lease) -> Option<PodId> {
    let network = roots.leases().join(network);
    if network.join(holder(&lease.pod)).exists() {
        return Some(lease.pod.clone());
    }
    let inode = fs::metadata(network.join(lease.addresses.first()?.address.to_string())).ok()?.ino();
    survey(&network).ok()?.remove(&inode)?.holders.into_iter().next()
}

/// Whether any pod holds a lease of the network whose directory this is.
pub fn is_used(network: &Path) -> bool {
    let mut names = fs::read_dir(network).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.any(|name| name.as_encoded_bytes().starts_with(HOLDER.as_bytes()))
}

/// The networks that `pod` holds a lease of.
pub fn held_by(roots: &Roots, pod: &PodId) -> Result<Vec<String>> {
    let mut held = networks(roots)?;
    held.retain(|network| network.join(holder(pod)).exists());
    Ok(held.iter().filter_map(|network| network.file_name()?.to_str().map(str::to_owned)).collect())
}

/// The directories with leases, one for each network.
pub fn networks(roots: &Roots) -> Result<Vec<PathBuf>> {
    let all = match fs::read_dir(roots.leases()) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.doing(|| format!("read {}", roots.leases().display()))?,
    };
    Ok(all.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}

/// Every lease of a network, by its inode.
pub fn survey(network: &Path) -> Result<BTreeMap<u64, Entry>> {
    let mut found: BTreeMap<u64, Entry> = BTreeMap::new();
    let listing = match fs::read_dir(network) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(found),
        other => other.doing(|| format!("read {}", network.display()))?,
    };
    for file in listing.flatten() {
        let (Ok(name), Ok(meta)) = (file.file_name().into_string(), file.metadata()) else { continue };
        if let Some(id) = name.strip_prefix(HOLDER) {
            found.entry(meta.ino()).or_default().holders.extend(PodId::parse(id));
        } else if name.parse::<IpAddr>().is_ok() {
            found.entry(meta.ino()).or_default().addresses.push(name);
        } else if name.starts_with(MAC) {
            found.entry(meta.ino()).or_default().mac = Some(name);
        }
    }
    Ok(found)
}

impl Entry {
    /// The links that this lease's addresses are on: the one it names, and whatever has its address as second name.
    pub fn links(&self, network: &Path) -> Vec<String> {
        let mut links: Vec<String> =
            self.addresses.iter().filter_map(|name| name.parse().ok()).map(link_name).collect();
        let any = self.addresses.first().cloned().or_else(|| self.holders.first().map(holder));
        links.extend(any.and_then(|name| read(&network.join(name))).and_then(|lease| lease.link));
        links
    }

    /// Removes all its names, the addresses last. For callers that hold the lock.
    pub fn remove(&self, network: &Path) -> Result<()> {
        let names = self.holders.iter().map(holder).chain(self.mac.clone());
        for name in names.chain(self.addresses.iter().cloned()) {
            gone(fs::remove_file(network.join(&name))).doing(|| format!("remove the lease {name}"))?;
        }
        Ok(())
    }
}

/// Removes the leases of `network` whose holders are all dead to `lives`; says which. The links are the caller's.
pub fn prune(network: &Path, lives: impl Fn(&PodId) -> bool) -> Result<Vec<String>> {
    let _held = lock(&network.join(LAST), Hold::Exclusive)?;
    let mut said = Vec::new();
    for entry in survey(network)?.values().filter(|entry| !entry.holders.iter().any(&lives)) {
        entry.remove(network)?;
        said.push(entry.say());
    }
    sweep_names(network)?;
    Ok(said)
}

fn sweep_names(network: &Path) -> Result<()> {
    index::sweep(network, |pod| network.join(holder(pod)).exists())
        .doing(|| format!("tidy the names of {}", network.display()))
}

impl Entry {
    pub fn say(&self) -> String {
        let addresses =
            if self.addresses.is_empty() { "without address".to_owned() } else { self.addresses.join(", ") };
        match self.holders.first() {
            Some(pod) => format!("lease {addresses} of pod {}", pod.short()),
            None => format!("lease {addresses}"),
        }
    }
}

/// Removes the directory of a network that has no lease any more.
pub fn forget(network: &Path) -> Result<()> {
    {
        let _held = lock(&network.join(LAST), Hold::Exclusive)?;
        if !survey(network)?.is_empty() {
            return Ok(());
        }
        index::forget(network).doing(|| format!("forget the names of {}", network.display()))?;
        for name in [".new", LAST] {
            gone(fs::remove_file(network.join(name))).doing(|| format!("remove {name} of {}", network.display()))?;
        }
    }
    match fs::remove_dir(network) {
        Err(err) if matches!(err.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound) => Ok(()),
        other => other.doing(|| format!("remove {}", network.display())),
    }
}

/// All offsets of the range once, beginning after the last one that was handed out.
fn next_fit((first, end): (u128, u128), last: Option<u128>) -> impl Iterator<Item = u128> {
    let start = last.filter(|last| (first..end).contains(last)).map_or(first, |last| last + 1);
    (start..=end).chain(first..start)
}

fn holder(pod: &PodId) -> String {
    format!("{HOLDER}{pod}")
}

fn by_mac(mac: &str) -> String {
    format!("{MAC}{mac}")
}

fn read(path: &Path) -> Option<Lease> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn names_of(network: &Path, inode: u64) -> std::io::Result<Vec<PathBuf>> {
    let entry = survey(network).map_err(std::io::Error::other)?.remove(&inode).unwrap_or_default();
    Ok(entry.addresses.iter().chain(&entry.mac).map(|name| network.join(name)).collect())
}

fn link_exists(name: &str) -> Result<bool> {
    match sys::net::link_index(name) {
        Ok(_) => Ok(true),
        Err(nix::errno::Errno::ENODEV) => Ok(false),
        Err(errno) => Err(errno).doing(|| format!("look for the link {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_fit_goes_once_around() {
        for (range, last, order) in [
            ((1, 4), None, &[1, 2, 3, 4][..]),
            ((1, 4), Some(2), &[3, 4, 1, 2]),
            ((1, 4), Some(3), &[4, 1, 2, 3]),
            ((1, 4), Some(4), &[1, 2, 3, 4]),
            ((1, 4), Some(0), &[1, 2, 3, 4]),
            ((1, 4), Some(9), &[1, 2, 3, 4]),
            ((0, 0), Some(0), &[0]),
        ] {
            assert_eq!(next_fit(range, last).collect::<Vec<_>>(), order, "{range:?} {last:?}");
        }
    }

    /// A pool in a directory of its own, in an address range that no link of this host can have.
    struct Trial {
        roots: Roots,
        pool: Pool,
    }

    impl Trial {
        fn new(name: &str, subnet: &str) -> Self {
            let root = Path::new("/dev/shm").join(format!("podrun-ipam-{}-{name}", std::process::id()));
            let roots = Roots { root: root.join("root"), run: root.join("run") };
            let subnet = Cidr::parse(subnet).unwrap();
            let range = Range { subnet, gateway: Some(subnet.nth(1)), only: None };
            let pool = Pool::new(&roots, "bridge", vec![range], Ends::OnHost);
            Self { roots, pool }
        }

        fn take(&self, pod: u8) -> Option<String> {
            match self.ask(pod, &[]).unwrap() {
                Taken::Lease(lease) => Some(lease.addresses[0].to_string()),
                Taken::Full { .. } | Taken::Lingers { .. } => None,
            }
        }

        fn ask(&self, pod: u8, addresses: &[IpAddr]) -> Result<Taken> {
            self.ask_with(pod, addresses, None)
        }

        fn ask_with(&self, pod: u8, addresses: &[IpAddr], mac: Option<Mac>) -> Result<Taken> {
            let (pod, link) = (id(pod), id(pod).veth(0));
            self.pool.take(&Wanted {
                pod: &pod,
                title: "web",
                link: Some(&link),
                interface: "eth0",
                names: &Names::default(),
                addresses,
                mac,
            })
        }

        fn names(&self) -> Vec<String> {
            let listing = fs::read_dir(&self.pool.directory).unwrap();
            let mut names: Vec<_> = listing.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Trial {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(self.roots.run.parent().unwrap());
        }
    }

    fn id(pod: u8) -> PodId {
        PodId::random([pod; 16])
    }

    #[test]
    fn a_lease_is_one_file_with_an_address_and_a_holder() {
        let trial = Trial::new("one", "192.0.2.0/29");
        assert_eq!(trial.take(1).as_deref(), Some("192.0.2.2/29"));
        assert_eq!(trial.names(), [".last".to_owned(), "192.0.2.2".to_owned(), holder(&id(1))]);
        let lease = held(&trial.roots, "bridge", &id(1)).unwrap();
        assert_eq!((lease.pod, lease.link), (id(1), Some(id(1).veth(0))));
        release(&trial.roots, &id(1)).unwrap();
        release(&trial.roots, &id(1)).unwrap();
        assert_eq!(trial.names(), [".last"]);
        forget(&trial.pool.directory).unwrap();
        assert!(!trial.pool.directory.exists());
    }

    #[test]
    fn addresses_come_back_as_late_as_possible_and_end() {
        let trial = Trial::new("end", "192.0.2.8/29");
        let all: Vec<_> = (0..6).map(|pod| trial.take(pod)).collect();
        assert_eq!(all.iter().flatten().count(), 5, "network, gateway and broadcast are nobody's: {all:?}");
        assert_eq!(all[5], None);
        release(&trial.roots, &id(3)).unwrap();
        release(&trial.roots, &id(0)).unwrap();
        assert_eq!(trial.take(7).as_deref(), Some("192.0.2.10/29"));
        assert_eq!(trial.take(8).as_deref(), Some("192.0.2.13/29"));
    }

    /// What a crash between any two steps of `write` and `release` leaves is found from the pod's id.
    #[test]
    fn half_a_lease_is_released_whole_and_never_another_ones() {
        let trial = Trial::new("half", "192.0.2.16/29");
        trial.take(1);
        let at = |name: &str| trial.pool.directory.join(name);
        fs::remove_file(at("192.0.2.18")).unwrap(); // crashed before the address was named
        fs::hard_link(at(&holder(&id(1))), at(".new")).unwrap();
        trial.pool.reclaim().unwrap();
        assert_eq!(trial.names(), [".last", ".new"]);
        fs::hard_link(at(".new"), at(&holder(&id(1)))).unwrap();
        // The address goes to another pod, and `.new`, which is still the first one's lease, is not written through.
        fs::write(at(LAST), "").unwrap();
        assert_eq!(trial.take(2).as_deref(), Some("192.0.2.18/29"));
        release(&trial.roots, &id(1)).unwrap();
        assert_eq!(held(&trial.roots, "bridge", &id(2)).unwrap().pod, id(2));
        assert_eq!(trial.names(), [".last".to_owned(), "192.0.2.18".to_owned(), holder(&id(2))]);
    }

    #[test]
    fn an_unreadable_lease_is_released_by_its_names() {
        let trial = Trial::new("unreadable", "192.0.2.24/29");
        trial.take(1);
        trial.take(2);
        fs::write(trial.pool.directory.join("192.0.2.26"), "{").unwrap();
        release(&trial.roots, &id(1)).unwrap();
        assert_eq!(trial.names(), [".last".to_owned(), "192.0.2.27".to_owned(), holder(&id(2))]);
        let entries = survey(&trial.pool.directory).unwrap();
        assert_eq!(entries.values().next().unwrap().say(), format!("lease 192.0.2.27 of pod {}", id(2).short()));
    }

    #[test]
    fn the_last_holder_ends_the_lease() {
        let trial = Trial::new("shared", "192.0.2.32/29");
        trial.take(1);
        share(&trial.roots, &id(1), &id(2)).unwrap();
        share(&trial.roots, &id(1), &id(2)).unwrap();
        share(&trial.roots, &id(9), &id(3)).unwrap(); // a pod without a network has nothing to share
        release(&trial.roots, &id(1)).unwrap();
        assert_eq!(trial.names(), [".last".to_owned(), "192.0.2.34".to_owned(), holder(&id(2))]);
        let lives = |pod: &PodId| *pod == id(2);
        assert_eq!(prune(&trial.pool.directory, lives).unwrap(), Vec::<String>::new());
        release(&trial.roots, &id(2)).unwrap();
        assert_eq!(trial.names(), [".last"]);
    }

    #[test]
    fn a_last_address_that_makes_no_sense_is_no_obstacle() {
        let trial = Trial::new("nonsense", "192.0.2.40/29");
        trial.take(1);
        for nonsense in ["", "\0\0\0", "::1", "10.0.0.1", "192.0.2.47", "x".repeat(4096).as_str()] {
            fs::write(trial.pool.directory.join(LAST), nonsense).unwrap();
            assert_eq!(trial.take(2).as_deref(), Some("192.0.2.43/29"), "{nonsense:?}");
            release(&trial.roots, &id(2)).unwrap();
        }
    }

    #[test]
    fn an_address_that_is_asked_for_is_had_or_it_is_said_why_not() {
        let trial = Trial::new("wished", "192.0.2.48/29");
        let ask = |pod: u8, ip: &str| match trial.ask(pod, &[ip.parse().unwrap()]) {
            Ok(Taken::Lease(lease)) => Ok(lease.addresses[0].to_string()),
            Ok(other) => panic!("{other:?}"),
            Err(err) => Err(err.cause().to_owned()),
        };
        assert_eq!(ask(1, "192.0.2.53"), Ok("192.0.2.53/29".to_owned()));
        for (ip, why) in [
            ("192.0.2.53", "pod web has it"),
            ("192.0.2.49", "it is the network's gateway"),
            ("192.0.2.48", "it is no host's of 192.0.2.48/29"),
            ("192.0.2.55", "it is no host's of 192.0.2.48/29"),
            ("192.0.2.56", "it is not in the network's range, 192.0.2.48/29"),
            ("2001:db8::1", "the network has no IPv6 range"),
        ] {
            assert_eq!(ask(2, ip), Err(why.to_owned()), "{ip}");
        }
        assert_eq!(trial.names(), [".last".to_owned(), "192.0.2.53".to_owned(), holder(&id(1))]);
        assert_eq!(trial.take(3).as_deref(), Some("192.0.2.54/29"), "the next fit goes on from there");
    }

    #[test]
    fn two_families_are_one_lease() {
        let mut trial = Trial::new("dual", "192.0.2.56/29");
        let subnet = Cidr::parse("2001:db8::/64").unwrap();
        trial.pool.ranges.push(Range { subnet, gateway: Some(subnet.nth(1)), only: None });
        for (pod, six) in [(1, "2001:db8::2"), (2, "2001:db8::3")] {
            let Ok(Taken::Lease(lease)) = trial.ask(pod, &[]) else { panic!("no lease") };
            assert_eq!(lease.addresses[1].address.to_string(), six);
        }
        assert_eq!(survey(&trial.pool.directory).unwrap().len(), 2);
        release(&trial.roots, &id(1)).unwrap();
        release(&trial.roots, &id(2)).unwrap();
        assert_eq!(trial.names(), [".last"]);
    }

    #[test]
    fn only_a_part_of_the_range_is_handed_out_where_that_is_wished() {
        for (subnet, only, usable) in [
            ("10.0.0.0/24", None, (1, 254)),
            ("10.0.0.0/24", Some("10.0.0.128/25"), (128, 254)),
            ("10.0.0.0/24", Some("10.0.0.0/25"), (1, 127)),
            ("10.0.0.0/24", Some("10.0.0.64/26"), (64, 127)),
            ("10.0.0.0/24", Some("10.0.0.7/32"), (7, 7)),
            ("fd00::/64", Some("fd00::100/120"), (0x100, 0x1ff)),
        ] {
            let range = |text: &str| Cidr::parse(text).unwrap();
            let range = Range { subnet: range(subnet), gateway: None, only: only.map(range) };
            assert_eq!(range.usable(), usable, "{subnet} {only:?}");
        }
    }

    #[test]
    fn a_hardware_address_is_one_pods() {
        let trial = Trial::new("mac", "198.18.9.0/24");
        let (mac, other) = (Mac([2, 0x42, 0, 0, 0, 7]), Mac([2, 0x42, 0, 0, 0, 8]));
        assert!(matches!(trial.ask_with(1, &[], Some(mac)).unwrap(), Taken::Lease(_)));
        assert!(trial.names().contains(&"mac-02:42:00:00:00:07".to_owned()));
        let err = trial.ask_with(2, &[], Some(mac)).unwrap_err();
        assert_eq!((err.kind, err.cause()), (Kind::AlreadyExists, "pod web has it"));
        assert!(matches!(trial.ask_with(2, &[], Some(other)).unwrap(), Taken::Lease(_)));
        // What is made from an address is that one's, whether or not somebody has it.
        for address in ["198.18.9.1", "198.18.9.3", "198.18.9.77"].map(|text| text.parse().unwrap()) {
            for made in [Mac::pod(address), Mac::host(address)] {
                let err = trial.ask_with(3, &[], Some(made)).unwrap_err();
                assert_eq!(err.cause(), format!("it goes with the address {address}"));
            }
        }
        let own = "198.18.9.77".parse().unwrap();
        assert!(matches!(trial.ask_with(3, &[own], Some(Mac::pod(own))).unwrap(), Taken::Lease(_)));
        // One who shares the lease keeps it, and with the last it goes.
        share(&trial.roots, &id(1), &id(9)).unwrap();
        release(&trial.roots, &id(1)).unwrap();
        assert!(trial.ask_with(4, &[], Some(mac)).is_err());
        release(&trial.roots, &id(9)).unwrap();
        assert!(matches!(trial.ask_with(4, &[], Some(mac)).unwrap(), Taken::Lease(_)));
        [2, 3, 4].map(id).iter().for_each(|pod| release(&trial.roots, pod).unwrap());
        assert_eq!(trial.names(), [LAST]);
        // And with what a crash left.
        assert!(matches!(trial.ask_with(5, &[], Some(mac)).unwrap(), Taken::Lease(_)));
        trial.pool.reclaim().unwrap();
        assert_eq!(trial.names(), [LAST]);
    }

    // Issue 4, 2: "65,000 leases in one range stay fast": each no more than four times one of an empty range, by the
    // medians, and one behind them all is found in a second.
    #[test]
    fn a_lease_of_a_range_with_65_000_costs_no_more_than_the_first() {
        let trial = Trial::new("crowd", "198.18.0.0/16");
        let number = |n: u32| PodId::random(std::array::from_fn(|at| if at < 4 { n.to_be_bytes()[at] } else { 0xcc }));
        let take = |n: u32| {
            let pod = number(n);
            let names = Names::default();
            let wanted = Wanted {
                pod: &pod,
                title: "web",
                link: None,
                interface: "eth0",
                names: &names,
                addresses: &[],
                mac: None,
            };
            let start = std::time::Instant::now();
            assert!(matches!(trial.pool.take(&wanted).unwrap(), Taken::Lease(_)), "{n}");
            start.elapsed()
        };
        let median = |mut all: Vec<std::time::Duration>| {
            all.sort();
            all[all.len() / 2]
        };
        let first = median((0..500).map(take).collect());
        // Those in between have no more than a name; the next one looks past all of them, once.
        let subnet = trial.pool.ranges[0].subnet;
        let leased = (502..65_000).map(|n| trial.pool.directory.join(subnet.nth(n).to_string()));
        leased.for_each(|name| fs::write(name, "").unwrap());
        let past_all = take(500);
        assert!(past_all < std::time::Duration::from_secs(1), "{past_all:?}");
        let crowded = median((65_000..65_500).map(take).collect());
        assert!(crowded <= first * 4, "{crowded:?}, where it was {first:?}");
        let giving_back = std::time::Instant::now();
        release(&trial.roots, &number(65_100)).unwrap();
        assert!(giving_back.elapsed() < std::time::Duration::from_millis(100), "{:?}", giving_back.elapsed());
    }
}
