//! Mounts of config.json: from options as mount(8) writes them to what the mount API takes.

#![forbid(unsafe_code)]

use super::idmap::{self, Reach};
use super::{Follow, Looks, Mount, Place, PointKind, Source};
use crate::cgroup::{Controller, Layout};
use crate::error::{Error, Kind, Result};
use crate::spec::Owner;
use crate::text::Text;
use oci_spec::runtime as oci;
use std::path::{Path, PathBuf};

/// One word of a mount's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// Set these `MOUNT_ATTR_*`, having cleared those.
    Attribute {
        set: u64,
        clear: u64,
    },
    /// The same on everything below, too.
    AttributeBelow {
        set: u64,
        clear: u64,
    },
    Propagation(u64),
    Remount,
    CopyUp,
    Idmap(Reach),
    Bind {
        recursive: bool,
    },
    /// A flag of the filesystem itself, not of the mount, and what takes it back.
    Filesystem(&'static str),
    NotFilesystem(&'static str),
    /// The default said aloud.
    Nothing,
}

const ATIME: u64 = libc::MOUNT_ATTR__ATIME;

const fn on(set: u64) -> Word {
    Word::Attribute { set, clear: 0 }
}

const fn off(clear: u64) -> Word {
    Word::Attribute { set: 0, clear }
}

const fn atime(set: u64) -> Word {
    Word::Attribute { set, clear: ATIME }
}

const fn below(set: u64) -> Word {
    Word::AttributeBelow { set, clear: 0 }
}

const fn not_below(clear: u64) -> Word {
    Word::AttributeBelow { set: 0, clear }
}

/// The table of config.md, "Linux mount options", and mount(8)'s words.
const WORDS: [(&str, Word); 62] = [
    ("defaults", Word::Nothing),
    ("ro", on(libc::MOUNT_ATTR_RDONLY)),
    ("rw", off(libc::MOUNT_ATTR_RDONLY)),
    ("nosuid", on(libc::MOUNT_ATTR_NOSUID)),
    ("suid", off(libc::MOUNT_ATTR_NOSUID)),
    ("nodev", on(libc::MOUNT_ATTR_NODEV)),
    ("dev", off(libc::MOUNT_ATTR_NODEV)),
    ("noexec", on(libc::MOUNT_ATTR_NOEXEC)),
    ("exec", off(libc::MOUNT_ATTR_NOEXEC)),
    ("nodiratime", on(libc::MOUNT_ATTR_NODIRATIME)),
    ("diratime", off(libc::MOUNT_ATTR_NODIRATIME)),
    ("nosymfollow", on(libc::MOUNT_ATTR_NOSYMFOLLOW)),
    ("symfollow", off(libc::MOUNT_ATTR_NOSYMFOLLOW)),
    ("noatime", atime(libc::MOUNT_ATTR_NOATIME)),
    ("strictatime", atime(libc::MOUNT_ATTR_STRICTATIME)),
    ("relatime", atime(libc::MOUNT_ATTR_RELATIME)),
    // mount(8): both mean what the kernel does by itself, which is relatime since Linux 2.6.30.
    ("atime", atime(libc::MOUNT_ATTR_RELATIME)),
    ("nostrictatime", atime(libc::MOUNT_ATTR_RELATIME)),
    ("norelatime", Word::Nothing),
    ("rro", below(libc::MOUNT_ATTR_RDONLY)),
    ("rrw", not_below(libc::MOUNT_ATTR_RDONLY)),
    ("rnosuid", below(libc::MOUNT_ATTR_NOSUID)),
    ("rsuid", not_below(libc::MOUNT_ATTR_NOSUID)),
    ("rnodev", below(libc::MOUNT_ATTR_NODEV)),
    ("rdev", not_below(libc::MOUNT_ATTR_NODEV)),
    ("rnoexec", below(libc::MOUNT_ATTR_NOEXEC)),
    ("rexec", not_below(libc::MOUNT_ATTR_NOEXEC)),
    ("rnodiratime", below(libc::MOUNT_ATTR_NODIRATIME)),
    ("rdiratime", not_below(libc::MOUNT_ATTR_NODIRATIME)),
    ("rnosymfollow", below(libc::MOUNT_ATTR_NOSYMFOLLOW)),
    ("rsymfollow", not_below(libc::MOUNT_ATTR_NOSYMFOLLOW)),
    ("rnoatime", Word::AttributeBelow { set: libc::MOUNT_ATTR_NOATIME, clear: ATIME }),
    ("rstrictatime", Word::AttributeBelow { set: libc::MOUNT_ATTR_STRICTATIME, clear: ATIME }),
    ("rrelatime", Word::AttributeBelow { set: libc::MOUNT_ATTR_RELATIME, clear: ATIME }),
    ("ratime", Word::AttributeBelow { set: libc::MOUNT_ATTR_RELATIME, clear: ATIME }),
    ("rnostrictatime", Word::AttributeBelow { set: libc::MOUNT_ATTR_RELATIME, clear: ATIME }),
    ("rnorelatime", Word::Nothing),
    ("private", Word::Propagation(libc::MS_PRIVATE)),
    ("rprivate", Word::Propagation(libc::MS_PRIVATE | libc::MS_REC)),
    ("slave", Word::Propagation(libc::MS_SLAVE)),
    ("rslave", Word::Propagation(libc::MS_SLAVE | libc::MS_REC)),
    ("shared", Word::Propagation(libc::MS_SHARED)),
    ("rshared", Word::Propagation(libc::MS_SHARED | libc::MS_REC)),
    ("unbindable", Word::Propagation(libc::MS_UNBINDABLE)),
    ("runbindable", Word::Propagation(libc::MS_UNBINDABLE | libc::MS_REC)),
    ("bind", Word::Bind { recursive: false }),
    ("rbind", Word::Bind { recursive: true }),
    ("sync", Word::Filesystem("sync")),
    ("async", Word::NotFilesystem("sync")),
    ("dirsync", Word::Filesystem("dirsync")),
    ("mand", Word::Filesystem("mand")),
    ("nomand", Word::NotFilesystem("mand")),
    ("lazytime", Word::Filesystem("lazytime")),
    ("nolazytime", Word::NotFilesystem("lazytime")),
    ("iversion", Word::Nothing),
    ("noiversion", Word::Nothing),
    ("silent", Word::Nothing),
    ("loud", Word::Nothing),
    ("remount", Word::Remount),
    ("tmpcopyup", Word::CopyUp),
    ("idmap", Word::Idmap(Reach::Mount)),
    ("ridmap", Word::Idmap(Reach::Below)),
];

/// The words that are no filesystem's own.
pub fn known_options() -> impl Iterator<Item = &'static str> {
    WORDS.iter().map(|(word, _)| *word)
}

/// The options of one mount, sorted. What is unknown goes to the filesystem, which will say.
#[derive(Debug, Default)]
struct Options {
    set: u64,
    clear: u64,
    set_below: u64,
    clear_below: u64,
    propagation: u64,
    bind: Option<bool>,
    remount: bool,
    copy_up: bool,
    idmap: Option<Reach>,
    settings: Vec<(String, Option<String>)>,
}

impl Options {
    fn read(options: &[String]) -> Self {
        let mut sorted = Self::default();
        for option in options {
            match WORDS.iter().find(|(word, _)| word == option) {
                Some((_, word)) => sorted.add(*word),
                None => sorted.settings.push(match option.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (option.clone(), None),
                }),
            }
        }
        sorted
    }

    /// The last word wins.
    fn add(&mut self, word: Word) {
        match word {
            Word::Attribute { set, clear } => {
                self.set = (self.set & !clear) | set;
                self.clear = (self.clear | clear) & !(set & !ATIME);
            }
            Word::AttributeBelow { set, clear } => {
                self.set_below = (self.set_below & !clear) | set;
                self.clear_below = (self.clear_below | clear) & !(set & !ATIME);
            }
            Word::Propagation(flags) => self.propagation = flags,
            Word::Bind { recursive } => self.bind = Some(recursive),
            Word::Remount => self.remount = true,
            Word::CopyUp => self.copy_up = true,
            Word::Idmap(reach) => self.idmap = Some(reach),
            Word::NotFilesystem(flag) => self.settings.retain(|(key, _)| key != flag),
            Word::Filesystem(flag) => self.settings.push((flag.to_owned(), None)),
            Word::Nothing => {}
        }
    }
}

/// What planning needs to know of the host.
#[allow(missing_debug_implementations, reason = "it holds a closure")]
pub struct Facts<'a> {
    pub cgroups: &'a Layout,
    /// A new cgroup namespace: the container sees its own cgroup as the root.
    pub own_cgroup_namespace: bool,
    /// Relative sources are the bundle's.
    pub bundle: &'a Path,
    pub rootfs: &'a Path,
    /// The kind of a bind mount's source, looked at on the host.
    pub kind_of: &'a dyn Fn(&Path) -> std::io::Result<PointKind>,
    /// Tree and directory of the container's own cgroups, for one that shares the host's cgroup namespace.
    pub own_cgroups: &'a [(PathBuf, PathBuf)],
    /// Whose shared memory the containers of a pod have on /dev/shm; `None` where each has its own.
    pub memory: Option<Owner>,
    /// The SELinux context of what is mounted new.
    pub label: Option<&'a str>,
    /// uidMappings and gidMappings of the container's own user namespace.
    pub id_mappings: Option<(&'a [oci::LinuxIdMapping], &'a [oci::LinuxIdMapping])>,
}

/// All mounts of a config.json, in its order.
pub fn plan(mounts: &[oci::Mount], facts: &Facts<'_>) -> Result<Vec<Mount>> {
    let mut planned = Vec::with_capacity(mounts.len());
    for (index, mount) in mounts.iter().enumerate() {
        let path = format!("mounts[{index}]");
        let options = Options::read(mount.options().as_deref().unwrap_or_default());
        let destination = mount.destination().to_string_lossy();
        if !destination.starts_with('/') {
            let doing = format!("read {path}.destination {destination:?}");
            return Err(Error::new(Kind::Invalid, doing, "not an absolute path"));
        }
        if destination.split('/').all(|part| matches!(part, "" | ".")) {
            let doing = format!("read {path}.destination {destination:?}");
            return Err(Error::new(Kind::Invalid, doing, "the root is the rootfs's own place"));
        }
        match mount.typ().as_deref() {
            _ if options.remount => planned.push(again(&planned, mount, &options, &path)?),
            Some("cgroup" | "cgroup2") => planned.extend(cgroup(&destination, &options, facts)?),
            kind => planned.push(one(mount, kind, &options, facts, &planned, &path)?),
        }
    }
    Ok(planned)
}

/// A tmpfs that shall be read-only is writable until the mount points, devices and links in it are made: /dev, mostly. Not one
/// that a later entry covers or mounts again.
pub fn seal_later(mounts: &mut [Mount]) -> Vec<Place> {
    let is_tmpfs = |one: &Mount| matches!(&one.source, Source::New { kind, .. } if kind.c() == c"tmpfs");
    let mut sealed = Vec::new();
    for index in 0..mounts.len() {
        let [one, later @ ..] = &mut mounts[index..] else { break };
        if is_tmpfs(one)
            && one.set & libc::MOUNT_ATTR_RDONLY != 0
            && later.iter().all(|other| other.at.path != one.at.path)
        {
            one.set &= !libc::MOUNT_ATTR_RDONLY;
            sealed.push(one.at.clone());
        }
    }
    sealed
}

fn one(
    mount: &oci::Mount,
    kind: Option<&str>,
    options: &Options,
    facts: &Facts<'_>,
    earlier: &[Mount],
    path: &str,
) -> Result<Mount> {
    let is_bind = options.bind.is_some() || kind == Some("bind");
    let destination = mount.destination().to_string_lossy();
    let (source, point) = if is_bind {
        bind(mount, options, facts, earlier, path)?
    } else if let Some(owner) = facts.memory.filter(|_| is_usual_memory(mount)) {
        (memory(owner)?, PointKind::Directory)
    } else if options.copy_up {
        (copy_up(kind, mount, options, facts, path)?, PointKind::Directory)
    } else {
        let Some(kind) = kind else {
            return Err(Error::new(
                Kind::Invalid,
                format!("read {path}.type"),
                "missing, and the options name no bind",
            ));
        };
        let settings = settings(kind, mount, options, facts)?;
        (Source::New { kind: Text::new("a mount's type", kind)?, settings }, PointKind::Directory)
    };
    // Only the two that the kernel itself speaks through: an image must not move them elsewhere (CVE-2019-19921).
    let follow = if matches!(kind, Some("proc" | "sysfs")) { Follow::NoLinks } else { Follow::LinksInside };
    Ok(Mount {
        source,
        at: Place::new("a mount's destination", &destination, point)?,
        set: options.set,
        clear: options.clear,
        set_below: options.set_below,
        clear_below: options.clear_below,
        propagation: options.propagation,
        follow,
        idmap: idmap::plan(mount, options.idmap, facts.id_mappings, path)?,
    })
}

/// `remount` changes what an earlier entry has mounted; a filesystem that is the host's, or another's, keeps its settings.
fn again(planned: &[Mount], mount: &oci::Mount, options: &Options, path: &str) -> Result<Mount> {
    let at = Place::new("a mount's destination", &mount.destination().to_string_lossy(), PointKind::Directory)?;
    let Some(earlier) = planned.iter().rev().find(|one| one.at.path == at.path) else {
        let doing = format!("read {path}.options");
        return Err(Error::new(Kind::Invalid, doing, "\"remount\": no earlier entry is mounted there"));
    };
    let own = matches!(earlier.source, Source::New { .. } | Source::CopyUp { .. }) && options.bind.is_none();
    if let (false, Some((key, _))) = (own, options.settings.first()) {
        let doing = format!("read {path}.options");
        return Err(Error::new(Kind::Invalid, doing, format!("{key:?} is no option of a bind mount")));
    }
    let settings = options.settings.iter().map(|(key, value)| setting(key, value.as_deref())).collect::<Result<_>>()?;
    Ok(Mount {
        source: Source::Mounted { settings },
        at: earlier.at.clone(),
        set: options.set,
        clear: options.clear,
        set_below: options.set_below,
        clear_below: options.clear_below,
        propagation: options.propagation,
        // The way there may have become another since: what is another's must not become writable.
        follow: Follow::NoLinks,
        idmap: None,
    })
}

fn copy_up(kind: Option<&str>, mount: &oci::Mount, options: &Options, facts: &Facts<'_>, path: &str) -> Result<Source> {
    if kind != Some("tmpfs") {
        let doing = format!("read {path}.options");
        return Err(Error::new(Kind::Invalid, doing, "\"tmpcopyup\": only a tmpfs has it"));
    }
    let says = |(key, _): &(String, _)| matches!(key.as_str(), "mode" | "uid" | "gid");
    let looks = if options.settings.iter().any(says) { Looks::AsSet } else { Looks::OfTheCovered };
    Ok(Source::CopyUp { settings: settings("tmpfs", mount, options, facts)?, looks })
}

fn bind(
    mount: &oci::Mount,
    options: &Options,
    facts: &Facts<'_>,
    earlier: &[Mount],
    path: &str,
) -> Result<(Source, PointKind)> {
    let Some(source) = mount.source() else {
        return Err(Error::new(Kind::Invalid, format!("read {path}.source"), "missing"));
    };
    if let Some((key, _)) = options.settings.first() {
        let doing = format!("read {path}.options");
        return Err(Error::new(Kind::Invalid, doing, format!("{key:?} is no option of a bind mount")));
    }
    let source = facts.bundle.join(source);
    let recursive = options.bind.unwrap_or(true);
    if let Some(path) = inside(&source, recursive, facts.rootfs, earlier) {
        // Its kind is known when it is there.
        return Ok((Source::Inside { path, recursive }, PointKind::Directory));
    }
    let kind = (facts.kind_of)(&source).map_err(|err| {
        Error::new(Kind::NotFound, format!("read {path}.source {}", source.display()), crate::error::plain(&err))
    })?;
    let text = Text::new("a mount's source", source.to_string_lossy())?;
    Ok((Source::Bind { path: text, recursive }, kind))
}

/// config.md: "The runtime MUST mount entries in the listed order", and a bind's source is a path of the host; so one below the
/// rootfs is what the entries before have made of it, as with runc. The host knows nothing of those, and who is to open the
/// sources of a user namespace does so before: such a path is opened in the container, by the container's rules, since the way
/// there may lead over what a volume's owner has put there.
fn inside(source: &Path, recursive: bool, rootfs: &Path, earlier: &[Mount]) -> Option<Text> {
    let below = source.strip_prefix(rootfs).ok()?;
    let place = Place::new("a mount's source", &below.to_string_lossy(), PointKind::Directory).ok()?;
    let is_touched = |one: &Mount| {
        let is_above = || place.way.is_empty() || one.at.path.below(&place.path).is_some();
        place.path.below(&one.at.path).is_some() || (recursive && is_above())
    };
    earlier.iter().any(is_touched).then_some(place.path)
}

/// Whether a mount is the /dev/shm that `runc spec`, docker and the examples of the specification write: who has not looked
/// at it means the one that the pod has. Any other word, a size say, asks for one of its own, and is honoured.
fn is_usual_memory(mount: &oci::Mount) -> bool {
    const USUAL: [&str; 5] = ["mode=1777", "nodev", "noexec", "nosuid", "size=65536k"];
    let mut options: Vec<&str> = mount.options().iter().flatten().map(String::as_str).collect();
    options.sort_unstable();
    mount.typ().as_deref() == Some("tmpfs") && *mount.destination() == *Path::new("/dev/shm") && options == USUAL
}

/// Who shares the host's IPC namespace shares its /dev/shm.
fn memory(owner: Owner) -> Result<Source> {
    Ok(match owner {
        Owner::Pod => Source::PodMemory,
        Owner::Host => Source::Bind { path: Text::new("a mount's source", "/dev/shm")?, recursive: false },
    })
}

fn settings(kind: &str, mount: &oci::Mount, options: &Options, facts: &Facts<'_>) -> Result<Vec<(Text, Option<Text>)>> {
    /// What the kernel labels by itself.
    const OWN_LABELS: [&str; 3] = ["proc", "sysfs", "mqueue"];
    let mut settings = Vec::new();
    // What /proc/mounts shows in the first column.
    if let Some(source) = mount.source() {
        settings.push(setting("source", Some(&source.to_string_lossy()))?);
    }
    for (key, value) in &options.settings {
        settings.push(setting(key, value.as_deref())?);
    }
    if let Some(label) = facts.label.filter(|_| !OWN_LABELS.contains(&kind)) {
        settings.push(setting("context", Some(label))?);
    }
    Ok(settings)
}

fn setting(key: &str, value: Option<&str>) -> Result<(Text, Option<Text>)> {
    Ok((Text::new("a mount option", key)?, value.map(|value| Text::new("a mount option", value)).transpose()?))
}

/// `cgroup`: what the host has. v2 alone is one filesystem; v1 and hybrid are a tmpfs with one directory a tree.
/// Without a cgroup namespace the container's own directories are bound, read-only (CVE-2023-25809).
fn cgroup(destination: &str, options: &Options, facts: &Facts<'_>) -> Result<Vec<Mount>> {
    let fixed = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    let read_only =
        if facts.own_cgroup_namespace { options.set & libc::MOUNT_ATTR_RDONLY } else { libc::MOUNT_ATTR_RDONLY };
    let mount = |at: String, source: Source, set: u64| -> Result<Mount> {
        Ok(Mount {
            source,
            at: Place::new("a mount's destination", &at, PointKind::Directory)?,
            set,
            clear: 0,
            set_below: 0,
            clear_below: 0,
            propagation: options.propagation,
            follow: Follow::LinksInside,
            idmap: None,
        })
    };
    // `None`: a tree that the container shares with the host and has no directory in.
    let tree = |controllers: &[Controller], top: &Path, kind: &str| -> Result<Option<Source>> {
        if !facts.own_cgroup_namespace {
            let own = facts.own_cgroups.iter().find(|(tree, _)| tree == top);
            let path = own.map(|(_, dir)| Text::new("a cgroup", dir.to_string_lossy())).transpose()?;
            return Ok(path.map(|path| Source::Bind { path, recursive: false }));
        }
        let settings = match kind {
            "cgroup2" => vec![setting("source", Some("cgroup2"))?],
            _ => controllers.iter().map(cgroup_v1_setting).collect::<Result<Vec<_>>>()?.concat(),
        };
        Ok(Some(Source::New { kind: Text::new("a mount's type", kind)?, settings }))
    };
    if let (true, Some(unified)) = (facts.cgroups.v1.is_empty(), &facts.cgroups.v2) {
        let source = tree(&[], &unified.mount, "cgroup2")?;
        return source.map(|source| mount(destination.to_owned(), source, fixed | read_only)).into_iter().collect();
    }
    let tmpfs = Source::New {
        kind: Text::new("a mount's type", "tmpfs")?,
        settings: vec![setting("mode", Some("755"))?, setting("size", Some("64k"))?],
    };
    let mut planned = vec![mount(destination.to_owned(), tmpfs, fixed)?];
    let named = |mount: &Path| mount.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let v1 = facts.cgroups.v1.iter().map(|one| (one, named(&one.mount), "cgroup"));
    let v2 = facts.cgroups.v2.iter().map(|one| (one, "unified".to_owned(), "cgroup2"));
    for (one, name, kind) in v1.chain(v2) {
        if let Some(source) = tree(&one.controllers, &one.mount, kind)? {
            planned.push(mount(format!("{destination}/{name}"), source, fixed | read_only)?);
        }
    }
    Ok(planned)
}

/// Where the tmpfs that holds the v1 trees must become read-only, once their mount points are made in it.
pub fn read_only_cgroups(mounts: &[oci::Mount], facts: &Facts<'_>) -> Result<Vec<Text>> {
    let asks = |mount: &&oci::Mount| mount.options().iter().flatten().any(|option| option == "ro");
    mounts
        .iter()
        .filter(|mount| mount.typ().as_deref() == Some("cgroup") && !facts.cgroups.v1.is_empty())
        .filter(|mount| asks(mount) || !facts.own_cgroup_namespace)
        .map(|mount| Text::new("a mount's destination", mount.destination().to_string_lossy()))
        .collect()
}

/// `memory` is a flag; `name=systemd` is a hierarchy without controllers.
fn cgroup_v1_setting(controller: &Controller) -> Result<Vec<(Text, Option<Text>)>> {
    let source = setting("source", Some("cgroup"))?;
    Ok(match controller.v1_name().split_once('=') {
        Some((key, name)) => vec![source, setting("none", None)?, setting(key, Some(name))?],
        None => vec![source, setting(controller.v1_name(), None)?],
    })
}

#[cfg(test)]
mod tests;
