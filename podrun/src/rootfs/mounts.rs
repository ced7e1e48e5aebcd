//! Mounts of config.json: from options as mount(8) writes them to what the mount API takes.

#![forbid(unsafe_code)]

use super::{Follow, Mount, Place, PointKind, Source};
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
    Bind {
        recursive: bool,
    },
    /// A flag of the filesystem itself, not of the mount.
    Filesystem(&'static str),
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
const WORDS: [(&str, Word); 53] = [
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
    ("norelatime", Word::Nothing),
    ("atime", Word::Nothing),
    ("nostrictatime", Word::Nothing),
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
    ("async", Word::Nothing),
    ("dirsync", Word::Filesystem("dirsync")),
    ("mand", Word::Filesystem("mand")),
    ("nomand", Word::Nothing),
    ("lazytime", Word::Filesystem("lazytime")),
    ("nolazytime", Word::Nothing),
    ("iversion", Word::Nothing),
    ("noiversion", Word::Nothing),
];

/// The words that are no filesystem's own.
pub fn known_options() -> impl Iterator<Item = &'static str> {
    WORDS.iter().map(|(word, _)| *word)
}

/// What is known and not done yet is refused; what is unknown goes to the filesystem, which will say.
const NOT_HONOURED: [&str; 4] = ["tmpcopyup", "idmap", "ridmap", "remount"];

/// The options of one mount, sorted.
#[derive(Debug, Default)]
struct Options {
    set: u64,
    clear: u64,
    set_below: u64,
    clear_below: u64,
    propagation: u64,
    bind: Option<bool>,
    settings: Vec<(String, Option<String>)>,
}

impl Options {
    fn read(options: &[String], path: &str) -> Result<Self> {
        let mut sorted = Self::default();
        for (index, option) in options.iter().enumerate() {
            if NOT_HONOURED.contains(&option.as_str()) {
                let doing = format!("read {path}.options[{index}]");
                return Err(Error::new(Kind::Unsupported, doing, format!("{option:?}: podrun does not do this yet")));
            }
            match WORDS.iter().find(|(word, _)| word == option) {
                Some((_, word)) => sorted.add(*word),
                None => sorted.settings.push(match option.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (option.clone(), None),
                }),
            }
        }
        Ok(sorted)
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
    /// The kind of a bind mount's source, looked at on the host.
    pub kind_of: &'a dyn Fn(&Path) -> std::io::Result<PointKind>,
    /// Tree and directory of the container's own cgroups, for one that shares the host's cgroup namespace.
    pub own_cgroups: &'a [(PathBuf, PathBuf)],
    /// Whose shared memory the containers of a pod have on /dev/shm; `None` where each has its own.
    pub memory: Option<Owner>,
}

/// All mounts of a config.json, in its order.
pub fn plan(mounts: &[oci::Mount], facts: &Facts<'_>) -> Result<Vec<Mount>> {
    let mut planned = Vec::with_capacity(mounts.len());
    for (index, mount) in mounts.iter().enumerate() {
        let path = format!("mounts[{index}]");
        let options = Options::read(mount.options().as_deref().unwrap_or_default(), &path)?;
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
            Some("cgroup" | "cgroup2") => planned.extend(cgroup(&destination, &options, facts)?),
            kind => planned.push(one(mount, kind, &options, facts, &path)?),
        }
    }
    Ok(planned)
}

fn one(mount: &oci::Mount, kind: Option<&str>, options: &Options, facts: &Facts<'_>, path: &str) -> Result<Mount> {
    let is_bind = options.bind.is_some() || kind == Some("bind");
    let destination = mount.destination().to_string_lossy();
    let (source, point) = if is_bind {
        bind(mount, options, facts, path)?
    } else if let Some(owner) = facts.memory.filter(|_| is_usual_memory(mount)) {
        (memory(owner)?, PointKind::Directory)
    } else {
        let Some(kind) = kind else {
            return Err(Error::new(
                Kind::Invalid,
                format!("read {path}.type"),
                "missing, and the options name no bind",
            ));
        };
        (new_filesystem(kind, mount, options)?, PointKind::Directory)
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
    })
}

fn bind(mount: &oci::Mount, options: &Options, facts: &Facts<'_>, path: &str) -> Result<(Source, PointKind)> {
    let Some(source) = mount.source() else {
        return Err(Error::new(Kind::Invalid, format!("read {path}.source"), "missing"));
    };
    if let Some((key, _)) = options.settings.first() {
        let doing = format!("read {path}.options");
        return Err(Error::new(Kind::Invalid, doing, format!("{key:?} is no option of a bind mount")));
    }
    let source = facts.bundle.join(source);
    let kind = (facts.kind_of)(&source).map_err(|err| {
        Error::new(Kind::NotFound, format!("read {path}.source {}", source.display()), crate::error::plain(&err))
    })?;
    let text = Text::new("a mount's source", source.to_string_lossy())?;
    Ok((Source::Bind { path: text, recursive: options.bind.unwrap_or(true) }, kind))
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

fn new_filesystem(kind: &str, mount: &oci::Mount, options: &Options) -> Result<Source> {
    let mut settings = Vec::new();
    // What /proc/mounts shows in the first column.
    if let Some(source) = mount.source() {
        settings.push(setting("source", Some(&source.to_string_lossy()))?);
    }
    for (key, value) in &options.settings {
        settings.push(setting(key, value.as_deref())?);
    }
    Ok(Source::New { kind: Text::new("a mount's type", kind)?, settings })
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
mod tests {
    use super::*;

    fn facts(layout: &Layout) -> Facts<'_> {
        Facts {
            cgroups: layout,
            own_cgroup_namespace: true,
            bundle: Path::new("/bundle"),
            kind_of: &|path| match path.to_str() {
                Some("/none") => Err(std::io::Error::from_raw_os_error(libc::ENOENT)),
                Some("/file") => Ok(PointKind::File),
                _ => Ok(PointKind::Directory),
            },
            own_cgroups: &[],
            memory: Some(Owner::Pod),
        }
    }

    fn planned(json: &str) -> Result<Vec<Mount>> {
        let layout = Layout::default();
        plan(&serde_json::from_str::<Vec<oci::Mount>>(json).unwrap(), &facts(&layout))
    }

    #[test]
    fn options_become_attributes_and_the_last_word_wins() {
        let json = r#"[{"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "exec", "ro", "rw", "noatime", "mode=1777", "huge", "rslave"]}]"#;
        let mount = &planned(json).unwrap()[0];
        assert_eq!(mount.set, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOATIME);
        assert_eq!(mount.clear & libc::MOUNT_ATTR_RDONLY, libc::MOUNT_ATTR_RDONLY);
        assert_eq!(mount.propagation, libc::MS_SLAVE | libc::MS_REC);
        let Source::New { settings, .. } = &mount.source else { panic!("{mount:?}") };
        let words: Vec<_> =
            settings.iter().map(|(key, value)| (key.lossy(), value.as_ref().map(Text::lossy))).collect();
        assert_eq!(
            words,
            [("source".into(), Some("shm".into())), ("mode".into(), Some("1777".into())), ("huge".into(), None)]
        );
    }

    /// mount_setattr(2): what a word takes back must be among the bits to clear, and no bit be set and cleared at once; the
    /// access time is one field of several bits, cleared whole before one of its values is set.
    #[test]
    fn each_word_sets_and_clears_what_mount_setattr_asks_for() {
        use libc::{
            MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, MOUNT_ATTR_STRICTATIME,
        };
        for (words, set, clear) in [
            ("ro", MOUNT_ATTR_RDONLY, 0),
            ("ro ro", MOUNT_ATTR_RDONLY, 0),
            ("rw", 0, MOUNT_ATTR_RDONLY),
            ("rw rw", 0, MOUNT_ATTR_RDONLY),
            ("ro rw", 0, MOUNT_ATTR_RDONLY),
            ("rw ro", MOUNT_ATTR_RDONLY, 0),
            ("nosuid nodev suid", MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID),
            ("suid dev nosuid", MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV),
            ("relatime", 0, ATIME),
            ("noatime", MOUNT_ATTR_NOATIME, ATIME),
            ("noatime noatime", MOUNT_ATTR_NOATIME, ATIME),
            ("noatime strictatime", MOUNT_ATTR_STRICTATIME, ATIME),
            ("strictatime relatime", 0, ATIME),
            ("suid noatime", MOUNT_ATTR_NOATIME, ATIME | MOUNT_ATTR_NOSUID),
            ("noatime ro", MOUNT_ATTR_NOATIME | MOUNT_ATTR_RDONLY, ATIME),
        ] {
            let here: Vec<String> = words.split(' ').map(str::to_owned).collect();
            let below: Vec<String> = words.split(' ').map(|word| format!("r{word}")).collect();
            let (here, below) = (Options::read(&here, "").unwrap(), Options::read(&below, "").unwrap());
            assert_eq!((here.set, here.clear, here.set_below, here.clear_below), (set, clear, 0, 0), "{words}");
            assert_eq!((below.set, below.clear, below.set_below, below.clear_below), (0, 0, set, clear), "{words}");
        }
    }

    /// mount(2): MS_REC with one of the four is for all that lies below.
    #[test]
    fn propagation_is_for_one_mount_or_for_all_below() {
        for (word, flag) in [
            ("private", libc::MS_PRIVATE),
            ("slave", libc::MS_SLAVE),
            ("shared", libc::MS_SHARED),
            ("unbindable", libc::MS_UNBINDABLE),
        ] {
            let read = |word: String| Options::read(&[word], "").unwrap().propagation;
            assert_eq!(read(word.to_owned()), flag);
            assert_eq!(read(format!("r{word}")), flag | libc::MS_REC);
        }
    }

    #[test]
    fn the_usual_dev_shm_is_the_pods_and_any_other_the_containers_own() {
        let source = |destination: &str, kind: &str, options: &str, owner: Owner| {
            let options: Vec<&str> = options.split(' ').collect();
            let mount = serde_json::json!([{"destination": destination, "type": kind, "options": options}]);
            let layout = Layout::default();
            let facts = Facts { memory: Some(owner), ..facts(&layout) };
            plan(&serde_json::from_value::<Vec<oci::Mount>>(mount).unwrap(), &facts).unwrap().remove(0).source
        };
        let usual = "nosuid noexec nodev mode=1777 size=65536k";
        assert_eq!(source("/dev/shm", "tmpfs", usual, Owner::Pod), Source::PodMemory);
        assert_eq!(
            source("/dev/shm/", "tmpfs", "nodev size=65536k noexec mode=1777 nosuid", Owner::Pod),
            Source::PodMemory
        );
        let hosts = Source::Bind { path: Text::new("", "/dev/shm").unwrap(), recursive: false };
        assert_eq!(source("/dev/shm", "tmpfs", usual, Owner::Host), hosts);
        for (destination, kind, options) in [
            ("/dev/shm", "tmpfs", "nosuid noexec nodev mode=1777 size=1g"),
            ("/dev/shm", "tmpfs", "nosuid noexec nodev mode=1777"),
            ("/dev/shm", "tmpfs", "nosuid noexec nodev mode=1777 size=65536k ro"),
            ("/dev/shm", "ramfs", usual),
            ("/shm", "tmpfs", usual),
        ] {
            let own = source(destination, kind, options, Owner::Pod);
            assert!(matches!(own, Source::New { .. }), "{destination} {kind} {options}: {own:?}");
        }
    }

    #[test]
    fn a_bind_is_of_its_sources_kind_and_relative_to_the_bundle() {
        let json = r#"[{"destination": "/a", "type": "none", "source": "data", "options": ["rbind", "rro"]},
                       {"destination": "/b", "source": "/file", "options": ["bind", "ro"]}]"#;
        let mounts = planned(json).unwrap();
        assert_eq!(mounts[0].source, Source::Bind { path: Text::new("", "/bundle/data").unwrap(), recursive: true });
        assert_eq!((mounts[0].set_below, mounts[0].at.kind), (libc::MOUNT_ATTR_RDONLY, PointKind::Directory));
        assert_eq!((mounts[1].set, mounts[1].at.kind), (libc::MOUNT_ATTR_RDONLY, PointKind::File));
    }

    #[test]
    fn a_wrong_mount_has_its_json_path() {
        for (json, words) in [
            (r#"[{"destination": "/a", "options": ["bind"]}]"#, "mounts[0].source: missing"),
            (
                r#"[{"destination": "/a", "source": "/none", "options": ["bind"]}]"#,
                "mounts[0].source /none: No such file",
            ),
            (r#"[{"destination": "/a"}]"#, "mounts[0].type: missing"),
            (
                r#"[{"destination": "/a", "type": "tmpfs", "options": ["ro", "idmap"]}]"#,
                "mounts[0].options[1]: \"idmap\"",
            ),
            (r#"[{"destination": "/a", "source": "/x", "options": ["bind", "size=1"]}]"#, "\"size\" is no option"),
            (r#"[{"destination": "/a/../b", "type": "tmpfs"}]"#, "'..'"),
        ] {
            let err = planned(json).unwrap_err().to_string();
            assert!(err.contains(words), "{err} has no {words}");
        }
    }

    /// CVE-2019-19921: an image whose /proc is a link must not move procfs elsewhere.
    #[test]
    fn proc_and_sysfs_follow_no_links() {
        let json = r#"[{"destination": "/proc", "type": "proc"}, {"destination": "/sys", "type": "sysfs"}, {"destination": "/x", "type": "tmpfs"}]"#;
        let follow: Vec<_> = planned(json).unwrap().iter().map(|mount| mount.follow).collect();
        assert_eq!(follow, [Follow::NoLinks, Follow::NoLinks, Follow::LinksInside]);
    }

    #[test]
    fn cgroups_look_as_the_host_has_them() {
        let mountinfo = "30 1 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                         31 1 0:2 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let layout = Layout::parse(mountinfo, "4:memory:/\n0::/\n");
        let mounts: Vec<oci::Mount> =
            serde_json::from_str(r#"[{"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]}]"#)
                .unwrap();
        let places = |facts: &Facts<'_>| -> Vec<String> {
            plan(&mounts, facts).unwrap().iter().map(|mount| mount.at.path.lossy().into_owned()).collect()
        };
        assert_eq!(places(&facts(&layout)), ["/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"]);
        let own = [(PathBuf::from("/sys/fs/cgroup/memory"), PathBuf::from("/sys/fs/cgroup/memory/podrun/x/a"))];
        let shared = Facts { own_cgroup_namespace: false, own_cgroups: &own, ..facts(&layout) };
        let bound = plan(&mounts, &shared).unwrap();
        assert_eq!(bound.len(), 2, "a tree without a directory of the container's was bound");
        assert!(
            matches!(&bound[1].source, Source::Bind { path, .. } if path.lossy() == "/sys/fs/cgroup/memory/podrun/x/a")
        );
        assert_eq!(bound[1].set & libc::MOUNT_ATTR_RDONLY, libc::MOUNT_ATTR_RDONLY, "CVE-2023-25809");
    }

    /// A new filesystem's type, with its settings as mount(8) would write them.
    fn filesystem(mount: &Mount) -> (String, String) {
        let Source::New { kind, settings } = &mount.source else { panic!("{mount:?}") };
        let words = settings.iter().map(|(key, value)| match value {
            Some(value) => format!("{}={}", key.lossy(), value.lossy()),
            None => key.lossy().into_owned(),
        });
        (kind.lossy().into_owned(), words.collect::<Vec<_>>().join(","))
    }

    fn cgroup_mounts(options: &str) -> Vec<oci::Mount> {
        let options: Vec<&str> = options.split_terminator(' ').collect();
        let mount = serde_json::json!([
            {"destination": "/cgroups", "type": "cgroup", "options": options},
            {"destination": "/tmp", "type": "tmpfs", "options": ["ro"]},
        ]);
        serde_json::from_value(mount).unwrap()
    }

    const FIXED: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    const READ_ONLY: u64 = FIXED | libc::MOUNT_ATTR_RDONLY;

    /// cgroups(7): a v1 hierarchy is named by its controllers, or by `none,name=`; nothing of it is a program or a device.
    #[test]
    fn each_cgroup_tree_is_mounted_by_its_own_name() {
        let mountinfo = "30 1 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                         31 1 0:2 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                         32 1 0:3 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let layout = Layout::parse(mountinfo, "4:memory:/\n1:name=systemd:/\n0::/\n");
        for (options, trees) in [("ro nosuid", READ_ONLY), ("nosuid", FIXED)] {
            let planned = plan(&cgroup_mounts(options), &facts(&layout)).unwrap();
            let shown: Vec<_> = planned[..4].iter().map(filesystem).collect();
            let wanted = [
                ("tmpfs", "mode=755,size=64k"),
                ("cgroup", "source=cgroup,memory"),
                ("cgroup", "source=cgroup,none,name=systemd"),
                ("cgroup2", "source=cgroup2"),
            ];
            assert_eq!(shown, wanted.map(|(kind, settings)| (kind.to_owned(), settings.to_owned())));
            let set: Vec<u64> = planned[..4].iter().map(|mount| mount.set).collect();
            assert_eq!(set, [FIXED, trees, trees, trees], "{options}");
        }
        let unified = Layout::parse("32 1 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/\n");
        let planned = plan(&cgroup_mounts("ro"), &facts(&unified)).unwrap();
        assert_eq!(filesystem(&planned[0]), ("cgroup2".to_owned(), "source=cgroup2".to_owned()));
        assert_eq!((planned[0].set, planned[0].at.path.lossy().as_ref()), (READ_ONLY, "/cgroups"));
    }

    /// CVE-2023-25809: with the host's cgroup namespace, of each tree the container's own directory, read-only, or nothing.
    #[test]
    fn without_a_cgroup_namespace_each_tree_is_the_containers_directory_in_it() {
        let own: Vec<_> = ["memory", "unified"]
            .map(|tree| (PathBuf::from("/sys/fs/cgroup").join(tree), PathBuf::from("/own").join(tree)))
            .into();
        let mountinfo = "30 1 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                         32 1 0:3 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let layout = Layout::parse(mountinfo, "4:memory:/\n0::/\n");
        let shared = Facts { own_cgroup_namespace: false, own_cgroups: &own, ..facts(&layout) };
        let planned = plan(&cgroup_mounts(""), &shared).unwrap();
        for (mount, path) in planned[1..3].iter().zip(["/own/memory", "/own/unified"]) {
            let own = Source::Bind { path: Text::new("", path).unwrap(), recursive: false };
            assert_eq!((&mount.source, mount.set), (&own, READ_ONLY));
        }
    }

    /// mount points are made in the tmpfs first, so that it cannot be born read-only.
    #[test]
    fn the_tmpfs_of_v1_trees_becomes_read_only_where_that_is_asked_for() {
        let v1 = Layout::parse("30 1 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", "4:memory:/\n");
        let v2 = Layout::parse("32 1 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/\n");
        let places = |options: &str, layout: &Layout, own_cgroup_namespace: bool| -> Vec<String> {
            let facts = Facts { own_cgroup_namespace, ..facts(layout) };
            let found = read_only_cgroups(&cgroup_mounts(options), &facts).unwrap();
            found.iter().map(|place| place.lossy().into_owned()).collect()
        };
        assert_eq!(places("nosuid ro", &v1, true), ["/cgroups"]);
        assert!(places("nosuid", &v1, true).is_empty());
        assert_eq!(places("nosuid", &v1, false), ["/cgroups"], "CVE-2023-25809");
        assert!(places("ro", &v2, true).is_empty());
    }
}
