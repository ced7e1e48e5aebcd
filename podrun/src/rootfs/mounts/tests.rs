//! What a mount table becomes, word by word.

#![forbid(unsafe_code)]

use super::*;

fn facts(layout: &Layout) -> Facts<'_> {
    Facts {
        cgroups: layout,
        own_cgroup_namespace: true,
        bundle: Path::new("/bundle"),
        rootfs: Path::new("/bundle/rootfs"),
        kind_of: &|path| match path.to_str() {
            Some("/none") => Err(std::io::Error::from_raw_os_error(libc::ENOENT)),
            Some("/file") => Ok(PointKind::File),
            _ => Ok(PointKind::Directory),
        },
        own_cgroups: &[],
        memory: Some(Owner::Pod),
        id_mappings: None,
        label: None,
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
    let words: Vec<_> = settings.iter().map(|(key, value)| (key.lossy(), value.as_ref().map(Text::lossy))).collect();
    assert_eq!(
        words,
        [("source".into(), Some("shm".into())), ("mode".into(), Some("1777".into())), ("huge".into(), None)]
    );
}

/// mount_setattr(2): what a word takes back must be among the bits to clear, and no bit be set and cleared at once; the
/// access time is one field of several bits, cleared whole before one of its values is set.
#[test]
fn each_word_sets_and_clears_what_mount_setattr_asks_for() {
    use libc::{MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, MOUNT_ATTR_STRICTATIME};
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
        ("noatime atime", 0, ATIME),
        ("strictatime nostrictatime", 0, ATIME),
        ("noatime norelatime", MOUNT_ATTR_NOATIME, ATIME),
        ("suid noatime", MOUNT_ATTR_NOATIME, ATIME | MOUNT_ATTR_NOSUID),
        (
            "dev diratime symfollow exec",
            0,
            MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NODIRATIME | libc::MOUNT_ATTR_NOSYMFOLLOW | libc::MOUNT_ATTR_NOEXEC,
        ),
        (
            "nodiratime nosymfollow noexec",
            libc::MOUNT_ATTR_NODIRATIME | libc::MOUNT_ATTR_NOSYMFOLLOW | libc::MOUNT_ATTR_NOEXEC,
            0,
        ),
        ("noatime ro", MOUNT_ATTR_NOATIME | MOUNT_ATTR_RDONLY, ATIME),
    ] {
        let here: Vec<String> = words.split(' ').map(str::to_owned).collect();
        let below: Vec<String> = words.split(' ').map(|word| format!("r{word}")).collect();
        let (here, below) = (Options::read(&here), Options::read(&below));
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
        let read = |word: String| Options::read(&[word]).propagation;
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
fn a_source_below_the_rootfs_is_opened_there_once_an_earlier_mount_has_touched_it() {
    let source = |text: &str, how: &str| {
        let first = r#"{"destination": "/data/sub", "source": "/x", "options": ["bind"]}"#;
        let json = format!(r#"[{first}, {{"destination": "/b", "source": "{text}", "options": ["{how}"]}}]"#);
        planned(&json).unwrap().remove(1).source
    };
    for (text, inside) in [
        ("rootfs/data/sub", "/data/sub"),
        ("./rootfs//data/sub/one", "/data/sub/one"),
        ("/bundle/rootfs/data", "/data"),
        ("rootfs", "/"),
    ] {
        let path = Text::new("", inside).unwrap();
        assert_eq!(source(text, "rbind"), Source::Inside { path, recursive: true }, "{text}");
    }
    // Nothing was mounted there, or what was is left out; or it is elsewhere.
    for (text, how) in [
        ("rootfs/data", "bind"),
        ("rootfs/data/sub2", "rbind"),
        ("rootfs/data/../data/sub", "rbind"),
        ("rootfs2/data/sub", "rbind"),
        ("/data/sub", "rbind"),
    ] {
        assert!(matches!(source(text, how), Source::Bind { .. }), "{text}");
    }
}

#[test]
fn a_wrong_mount_has_its_json_path() {
    for (json, words) in [
        (r#"[{"destination": "/a", "options": ["bind"]}]"#, "mounts[0].source: missing"),
        (r#"[{"destination": "/a", "source": "/none", "options": ["bind"]}]"#, "mounts[0].source /none: No such file"),
        (r#"[{"destination": "/a"}]"#, "mounts[0].type: missing"),
        (r#"[{"destination": "/a", "type": "tmpfs", "options": ["ro", "idmap"]}]"#, "mounts[0].uidMappings: missing"),
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
        serde_json::from_str(r#"[{"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]}]"#).unwrap();
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

/// config.md, "Linux mount options": each word that a runtime MUST or SHOULD know is none of the filesystem's own.
#[test]
fn every_word_of_the_specification_is_known() {
    const WORDS_OF_THE_SPECIFICATION: &str = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand \
        noatime nodev nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private \
        ratime rbind rdev rdiratime relatime remount rexec rnoatime rnodiratime rnoexec rnorelatime rnostrictatime rnosuid \
        rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared silent \
        slave strictatime suid symfollow sync tmpcopyup unbindable idmap ridmap";
    for word in WORDS_OF_THE_SPECIFICATION.split_whitespace() {
        assert!(WORDS.iter().any(|(known, _)| *known == word), "{word}");
    }
    let settings =
        |words: &[&str]| Options::read(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).settings;
    assert!(settings(&["sync", "mand", "lazytime", "async", "nomand", "nolazytime", "silent"]).is_empty());
    assert_eq!(
        settings(&["async", "sync", "x=1"]),
        [("sync".to_owned(), None), ("x".to_owned(), Some("1".to_owned()))]
    );
}

/// mount(8), remount: what is there stays, with other words.
#[test]
fn a_remount_is_of_what_an_earlier_entry_has_mounted() {
    let json = r#"[{"destination": "/t", "type": "tmpfs"}, {"destination": "/b", "source": "/x", "options": ["bind"]},
        {"destination": "/t/.//", "type": "tmpfs", "options": ["remount", "ro", "size=4k"]},
        {"destination": "/b", "options": ["remount", "bind", "noexec", "rw"]}]"#;
    let mounts = planned(json).unwrap();
    let settings = vec![(Text::new("", "size").unwrap(), Some(Text::new("", "4k").unwrap()))];
    assert_eq!((&mounts[2].source, mounts[2].at.path.lossy().as_ref()), (&Source::Mounted { settings }, "/t"));
    assert_eq!((mounts[2].set, mounts[2].follow), (libc::MOUNT_ATTR_RDONLY, Follow::NoLinks));
    assert_eq!(mounts[3].source, Source::Mounted { settings: vec![] });
    assert_eq!((mounts[3].set, mounts[3].clear), (libc::MOUNT_ATTR_NOEXEC, libc::MOUNT_ATTR_RDONLY));
    for (json, words) in [
        (r#"[{"destination": "/t", "options": ["remount"]}]"#, "mounts[0].options: \"remount\": no earlier entry"),
        // The settings of a filesystem of the host's are the host's.
        (
            r#"[{"destination": "/b", "source": "/x", "options": ["bind"]}, {"destination": "/b", "options": ["remount", "size=1"]}]"#,
            "mounts[1].options: \"size\" is no option of a bind mount",
        ),
        (
            r#"[{"destination": "/t", "type": "tmpfs"}, {"destination": "/t", "options": ["remount", "bind", "size=1"]}]"#,
            "mounts[1].options: \"size\" is no option",
        ),
    ] {
        let err = planned(json).unwrap_err().to_string();
        assert!(err.contains(words), "{err} has no {words}");
    }
}

#[test]
fn a_tmpfs_that_copies_up_looks_like_what_it_covers_unless_told_otherwise() {
    let looks = |options: &str| {
        let json = format!(r#"[{{"destination": "/t", "type": "tmpfs", "options": ["tmpcopyup", {options}]}}]"#);
        let Source::CopyUp { settings, looks } = planned(&json).unwrap().remove(0).source else { panic!("{json}") };
        (settings.len(), looks)
    };
    assert_eq!(looks(r#""size=1m""#), (1, Looks::OfTheCovered));
    for own in ["mode=700", "uid=1", "gid=1"] {
        assert_eq!(looks(&format!("{own:?}")), (1, Looks::AsSet));
    }
    let err = planned(r#"[{"destination": "/t", "type": "proc", "options": ["tmpcopyup"]}]"#).unwrap_err().to_string();
    assert!(err.contains("mounts[0].options: \"tmpcopyup\": only a tmpfs has it"), "{err}");
}

/// config-linux.md, mountLabel; the kernel labels procfs and sysfs itself, and a bind mount has the labels of its files.
#[test]
fn what_is_mounted_new_has_the_mount_label() {
    let json = r#"[{"destination": "/a", "type": "tmpfs"}, {"destination": "/b", "type": "tmpfs", "options": ["tmpcopyup"]},
        {"destination": "/c", "type": "devpts"}, {"destination": "/proc", "type": "proc"}, {"destination": "/sys", "type": "sysfs"},
        {"destination": "/d", "type": "mqueue"}, {"destination": "/e", "source": "/x", "options": ["bind"]}]"#;
    let layout = Layout::default();
    let facts = Facts { label: Some("u:r:t:s0:c1,c2"), ..facts(&layout) };
    let planned = plan(&serde_json::from_str::<Vec<oci::Mount>>(json).unwrap(), &facts).unwrap();
    let labelled = |mount: &Mount| match &mount.source {
        Source::New { settings, .. } | Source::CopyUp { settings, .. } => {
            settings.contains(&setting("context", Some("u:r:t:s0:c1,c2")).unwrap())
        }
        _ => false,
    };
    assert_eq!(planned.iter().map(labelled).collect::<Vec<_>>(), [true, true, true, false, false, false, false]);
}
