//! Mount options of the runtime specification 1.3, and what becomes of whole trees of mounts.

#![forbid(unsafe_code)]

use podrun_tests::{Bundle, Host, Outcome, Value, json, note_skip};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

fn run_on(host: &Host, bundle: &Bundle) -> Outcome {
    if host.podrun("inspect web").code() != 0 {
        host.pod("web");
    }
    host.podrun(format!("run web/{} --bundle {bundle}", bundle.path().file_name().unwrap().display()))
}

/// Runs `script` with these mounts in a root that can be written.
fn shell(host: &Host, mounts: &[Value], script: &str) -> Outcome {
    let bundle = host.bundle(|config| {
        config["mounts"].as_array_mut().unwrap().extend_from_slice(mounts);
        config["root"]["readonly"] = json!(false);
        config["process"]["args"] = json!(["/bin/sh", "-c", script]);
    });
    run_on(host, &bundle)
}

/// The options of what is mounted there, as the container's own mount table has them.
fn options(host: &Host, mounts: &[Value], places: &[&str]) -> Vec<Vec<String>> {
    let facts = shell(host, mounts, "/probe facts").facts();
    let of = |at: &&str| {
        let all = facts["mounts"].as_array().unwrap();
        let one = all.iter().rev().find(|one| one["at"] == *at).unwrap_or_else(|| panic!("nothing at {at}: {all:#?}"));
        one["options"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    places.iter().map(of).collect()
}

/// A directory of the host with another filesystem mounted in it.
fn tree(host: &Host, below: &'static str) -> PathBuf {
    let top = host.fresh("tree");
    std::fs::create_dir_all(top.join("below")).unwrap();
    host.small_disk(&top.join("below"), below);
    top
}

// config.md, "Mounts": "it MAY be a relative path, in which case it MUST be interpreted as relative to "/"".
#[test]
fn a_destination_without_a_slash_is_below_the_root() {
    let host = Host::new();
    let mounts = [json!({"destination": "somewhere/else", "type": "tmpfs", "source": "tmpfs"})];
    shell(&host, &mounts, "grep -c ' /somewhere/else tmpfs' /proc/mounts").ok().prints("1");
}

// config.md, "Mounts": "The runtime MUST mount entries in the listed order". runc, mounts.bats: "mount order".
#[test]
fn a_source_that_an_earlier_mount_has_made_is_that() {
    let host = Host::new();
    let outside = host.fresh("outside");
    std::fs::create_dir_all(outside.join("sub")).unwrap();
    std::fs::write(outside.join("sub/file"), "volume\n").unwrap();
    // A volume's owner leads nobody out of the container.
    std::fs::write(host.fresh("secret"), "the host's\n").unwrap();
    symlink(host.dir(), outside.join("away")).unwrap();
    let bind =
        |source: &str, to: &str| json!({"destination": to, "type": "bind", "source": source, "options": ["rbind"]});
    let volume = bind(outside.to_str().unwrap(), "/data");
    let mounts = [
        json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs"}),
        volume.clone(),
        bind("rootfs/data/sub", "/sub"),
        bind("rootfs/data/sub/file", "/made/one"),
        bind("rootfs/data", "/whole"),
        bind("rootfs/whole/sub", "/whole/sub"),
    ];
    let shown = "cat /sub/file /made/one /whole/sub/file; grep -c ' /whole/sub ' /proc/mounts";
    shell(&host, &mounts, shown).ok().prints("volume\nvolume\nvolume\n1");
    shell(&host, &[volume.clone(), bind("rootfs/data/none", "/x")], "true")
        .fails(125)
        .says("bind /data/none, as earlier mounts have it, to /x: No such file");
    shell(&host, &[volume, bind("rootfs/data/away", "/x")], "cat /x/secret").fails(125).says("No such file");
}

// A read-only /dev, as images without a writable layer ask for, has its mounts, devices and links all the same.
#[test]
fn a_tmpfs_is_read_only_when_all_in_it_is_made() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        for mount in config["mounts"].as_array_mut().unwrap() {
            if mount["destination"] == "/dev" {
                mount["options"].as_array_mut().unwrap().push(json!("ro"));
            }
        }
        let script = "echo x > /dev/null && touch /dev/shm/x && touch /dev/x";
        config["process"]["args"] = json!(["/bin/sh", "-c", script]);
    });
    for words in ["run web/a", "oci run a"] {
        if words.contains("web") {
            host.pod("web");
        }
        let ran = host.podrun(format!("{words} --bundle {bundle}"));
        ran.fails(1).says("/dev/x: Read-only file system");
    }
}

// As runc has it: docker's --tmpfs without a mode relies on it.
#[test]
fn a_tmpfs_of_no_permissions_has_those_of_what_it_covers() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        for (at, options) in [("/covered", json!([])), ("/said", json!(["mode=1500"])), ("/new", json!([]))] {
            let mount = json!({"destination": at, "type": "tmpfs", "source": "tmpfs", "options": options});
            config["mounts"].as_array_mut().unwrap().push(mount);
        }
        config["root"]["readonly"] = json!(false);
        config["process"]["args"] = json!(["stat", "-c", "%a", "/covered", "/said", "/new"]);
        config["process"]["env"] = json!(["PATH=/bin"]);
    });
    bundle.rootfs.dir("covered").dir("said");
    std::fs::set_permissions(bundle.rootfs.path().join("covered"), PermissionsExt::from_mode(0o2710)).unwrap();
    run_on(&host, &bundle).ok().prints("2710\n1500\n1777");
}

// config.md, "Linux mount options": words that are no flags are the filesystem's own.
#[test]
fn a_filesystem_that_refuses_its_options_is_told_with_them() {
    let host = Host::new();
    for (kind, words, said) in [
        ("tmpfs", json!(["nosuid", "bogus", "size=1m"]), "tmpfs does not take one of its options: bogus,size=1m"),
        ("tmpfs", json!(["size=many"]), "tmpfs does not take one of its options: size=many"),
        ("proc", json!(["hidepid=9"]), "proc does not take one of its options: hidepid=9"),
    ] {
        let mounts = [json!({"destination": "/there", "type": kind, "source": kind, "options": words})];
        shell(&host, &mounts, "true").fails(125).says("mount").says(said);
    }
}

// config.md, "Linux mount options": the words with an r, by mount_setattr(2) AT_RECURSIVE.
#[test]
fn recursive_attributes_reach_what_is_mounted_below_and_the_others_do_not() {
    let host = Host::new();
    let source = tree(&host, "size=1m,mode=755");
    let bind = |at: &str, options: &[&str]| json!({"destination": at, "source": source, "options": options});
    for (word, seen) in [
        ("ro", "ro"),
        ("nosuid", "nosuid"),
        ("nodev", "nodev"),
        ("noexec", "noexec"),
        ("noatime", "noatime"),
        ("nodiratime", "nodiratime"),
        ("nosymfollow", "nosymfollow"),
    ] {
        let recursive = format!("r{word}");
        let mounts = [bind("/one", &["rbind", word]), bind("/all", &["rbind", &recursive])];
        let found = options(&host, &mounts, &["/one", "/one/below", "/all", "/all/below"]);
        let has: Vec<bool> = found.iter().map(|words| words.iter().any(|word| word == seen)).collect();
        assert_eq!(has, [true, false, true, true], "{word}: {found:?}");
    }
    // strictatime is the want of the others.
    let mounts = [bind("/one", &["rbind", "strictatime"]), bind("/all", &["rbind", "rstrictatime"])];
    let found = options(&host, &mounts, &["/one", "/one/below", "/all", "/all/below"]);
    let relative: Vec<bool> = found.iter().map(|words| words.iter().any(|word| word == "relatime")).collect();
    assert_eq!(relative, [false, true, false, false], "{found:?}");
}

// The same, taken back.
#[test]
fn recursive_attributes_are_taken_back_below() {
    let host = Host::new();
    let source = tree(&host, "size=1m,mode=755");
    let below = source.join("below");
    host.inside(move || {
        use nix::mount::{MsFlags, mount};
        const NOSYMFOLLOW: MsFlags = MsFlags::from_bits_retain(256);
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let flags = flags | MsFlags::MS_NOATIME | MsFlags::MS_NODIRATIME | NOSYMFOLLOW;
        let none = None::<&str>;
        mount(none, &below, none, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags, none).expect("remount");
    });
    let words = ["rrw", "rsuid", "rdev", "rexec", "ratime", "rdiratime", "rsymfollow"];
    let all: Vec<&str> = ["rbind"].into_iter().chain(words).collect();
    let mounts = [
        json!({"destination": "/kept", "source": source, "options": ["rbind"]}),
        json!({"destination": "/back", "source": source, "options": all}),
    ];
    let found = options(&host, &mounts, &["/kept/below", "/back/below"]);
    let kept = ["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow"];
    assert!(kept.iter().all(|word| found[0].iter().any(|one| one == word)), "{found:?}");
    assert_eq!(found[1], ["rw", "relatime"]);
}

#[test]
fn words_that_ask_for_nothing_ask_for_nothing() {
    let host = Host::new();
    let words =
        ["defaults", "silent", "loud", "async", "nomand", "nolazytime", "noiversion", "norelatime", "rnorelatime"];
    let mounts = [json!({"destination": "/t", "type": "tmpfs", "options": words})];
    assert_eq!(options(&host, &mounts, &["/t"]), [["rw", "relatime"]]);
}

// config.md: "tmpcopyup: copy up the contents to a tmpfs".
#[test]
fn a_tmpfs_may_begin_with_what_it_covers() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        let words = json!(["nosuid", "size=4m", "tmpcopyup"]);
        let words_of_its_own = json!(["tmpcopyup", "mode=700", "ro"]);
        config["mounts"].as_array_mut().unwrap().extend([
            json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": words}),
            json!({"destination": "/other", "type": "tmpfs", "options": words_of_its_own}),
        ]);
        config["process"]["args"] = json!([
            "/bin/sh",
            "-c",
            "stat -c '%n %F %a %u:%g %s %Y' /data /data/* /data/sub/deep /other; cat /data/file /data/sub/deep/file; \
             readlink /data/link; sha256sum < /data/big; echo new > /data/file; echo new > /other/x; ls /other"
        ]);
    });
    let outside = host.fresh("outside");
    std::fs::write(&outside, "of the host").unwrap();
    let data = bundle.rootfs.dir("data/sub/deep").dir("other").path().join("data");
    std::fs::write(data.join("file"), "seen\n").unwrap();
    std::fs::write(data.join("sub/deep/file"), "deep\n").unwrap();
    std::fs::write(data.join("big"), vec![7; 300_000]).unwrap();
    std::fs::write(data.join("../other/y"), "y").unwrap();
    symlink(&outside, data.join("link")).unwrap();
    nix::unistd::mkfifo(&data.join("queue"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    chown(data.join("file"), Some(1000), Some(100)).unwrap();
    chown(&data, Some(7), Some(8)).unwrap();
    let mode = |path: PathBuf, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(data.join("file"), 0o4755);
    mode(data.join("sub"), 0o2770);
    mode(data.clone(), 0o1775);
    let long_ago = nix::sys::time::TimeVal::new(1_000_000_000, 0);
    nix::sys::stat::utimes(&data.join("big"), &long_ago, &long_ago).unwrap();
    let out = run_on(&host, &bundle);
    out.says("can't create /other/x: Read-only file system");
    let text = out.text();
    for line in [
        "/data directory 1775 7:8 ",
        "/data/file regular file 4755 1000:100 5 ",
        "/data/big regular file 644 0:0 300000 1000000000\n",
        "/data/sub directory 2770 0:0 ",
        "/data/queue fifo 600 0:0 ",
        "/data/link symbolic link 777 0:0 ",
        "/other directory 700 0:0 ",
        "seen\ndeep\n",
    ] {
        assert!(text.contains(line), "{line:?} is missing: {text}");
    }
    assert!(text.contains(&format!("{}\n", outside.display())), "{text}");
    assert!(text.ends_with("y\n"), "{text}");
    // The image's own stays as it was.
    assert_eq!(std::fs::read_to_string(data.join("file")).unwrap(), "seen\n");
}

// CVE-2024-9341's lesson: what is copied out of an image is never what a link of it leads to.
#[test]
fn a_link_in_an_image_copies_nothing_of_the_host() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        let words = json!(["tmpcopyup"]);
        config["mounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({"destination": "/data", "type": "tmpfs", "options": words}));
        config["process"]["args"] = json!(["/bin/sh", "-c", "ls -R /data; cat /data/*"]);
    });
    let outside = host.fresh("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "of the host").unwrap();
    let data = bundle.rootfs.dir("data").path().join("data");
    symlink(outside.join("secret"), data.join("file")).unwrap();
    symlink(&outside, data.join("directory")).unwrap();
    let out = run_on(&host, &bundle);
    assert!(!out.text().contains("of the host") && !out.text().contains("secret"), "{}", out.text());
}

// config.md, "remount", and mount(8).
#[test]
fn a_remount_changes_what_an_earlier_entry_has_mounted() {
    let host = Host::new();
    let source = host.fresh("source");
    std::fs::create_dir(&source).unwrap();
    let mounts = [
        json!({"destination": "/t", "type": "tmpfs", "options": ["size=1m"]}),
        json!({"destination": "/t/in", "source": source, "options": ["bind"]}),
        json!({"destination": "/t", "type": "tmpfs", "options": ["remount", "ro", "size=2m"]}),
        json!({"destination": "/t/in", "options": ["remount", "bind", "noexec"]}),
    ];
    let facts = shell(&host, &mounts, "/probe facts").facts();
    let of = |at: &str| facts["mounts"].as_array().unwrap().iter().find(|one| one["at"] == at).unwrap().clone();
    assert_eq!(of("/t")["options"], json!(["ro", "relatime"]));
    assert!(of("/t")["superOptions"].to_string().contains("size=2048k"), "{}", of("/t"));
    assert_eq!(of("/t/in")["options"], json!(["rw", "noexec", "relatime"]));
    let nothing = [json!({"destination": "/nothing", "options": ["remount", "ro"]})];
    let words = "mounts[7].options: \"remount\": no earlier entry is mounted there";
    shell(&host, &nothing, "true").fails(125).with_one_line().says(words);
}

fn mapping(container: u32, host: u32, size: u32) -> Value {
    json!([{"containerID": container, "hostID": host, "size": size}])
}

/// Whether the filesystem under the tests can have IDs mapped: tmpfs since Linux 6.3.
fn cannot_map(outcome: &Outcome) -> bool {
    let cannot = outcome.code() != 0 && outcome.errors().contains("its filesystem cannot have IDs mapped");
    if cannot {
        note_skip("the filesystem of the tests cannot have IDs mapped");
    }
    cannot
}

// config.md, mounts: "idmap", "ridmap", uidMappings and gidMappings.
#[test]
fn a_mount_may_have_its_ids_mapped() {
    let host = Host::new();
    let source = tree(&host, "size=1m,mode=755");
    std::fs::write(source.join("file"), "x").unwrap();
    chown(source.join("file"), Some(1), Some(2)).unwrap();
    let bind = |at: &str, words: &[&str]| {
        json!({"destination": at, "source": source, "options": words,
            "uidMappings": mapping(0, 5000, 10), "gidMappings": mapping(0, 6000, 10)})
    };
    let mounts = [bind("/plain", &["rbind"]), bind("/one", &["rbind", "idmap"]), bind("/all", &["rbind", "ridmap"])];
    let script =
        "stat -c '%n %u:%g' /*/file /one /one/below /all/below; echo made > /one/made; stat -c '%u:%g' /one/made";
    let user = json!({"uid": 5003, "gid": 6004});
    let bundle = host.bundle(|config| {
        config["mounts"].as_array_mut().unwrap().extend_from_slice(&mounts);
        config["root"]["readonly"] = json!(false);
        config["process"]["user"] = user;
        config["process"]["args"] = json!(["/bin/sh", "-c", script]);
    });
    std::fs::set_permissions(&source, std::fs::Permissions::from_mode(0o777)).unwrap();
    let out = run_on(&host, &bundle);
    if cannot_map(&out) {
        return;
    }
    let text = out.ok().text();
    assert_eq!(
        text,
        "/all/file 5001:6002\n/one/file 5001:6002\n/plain/file 5001:6002\n/one 5000:6000\n/one/below 0:0\n\
         /all/below 5000:6000\n5003:6004\n"
    );
    let made = std::fs::metadata(source.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (3, 4), "what the container made, as the disk has it");
}

#[test]
fn a_new_filesystem_may_have_its_ids_mapped_and_one_that_cannot_is_told() {
    let host = Host::new();
    let mapped = |at: &str, kind: &str, source: &Path, words: &[&str]| {
        json!({"destination": at, "type": kind, "source": source, "options": words,
            "uidMappings": mapping(0, 5000, 1), "gidMappings": mapping(0, 6000, 1)})
    };
    let tmpfs = [mapped("/t", "tmpfs", Path::new("tmpfs"), &["idmap"])];
    let out = shell(&host, &tmpfs, "stat -c %u:%g /t");
    if !cannot_map(&out) {
        out.ok().prints("5000:6000");
    }
    let procfs = [mapped("/p", "none", Path::new("/proc"), &["bind", "idmap"])];
    let words = "map the IDs of the mount on /p: Invalid argument\n  hint: its filesystem cannot have IDs mapped";
    shell(&host, &procfs, "true").fails(125).says(words);
    let overlapping = json!([{"containerID": 0, "hostID": 0, "size": 2}, {"containerID": 1, "hostID": 9, "size": 2}]);
    let mut wrong = mapped("/t", "tmpfs", Path::new("tmpfs"), &["idmap"]);
    wrong["uidMappings"] = overlapping;
    let words = "map the IDs of the mount on /t: write uid_map: Invalid argument";
    shell(&host, &[wrong], "true").fails(125).says(words);
}

#[test]
fn mapped_ids_that_cannot_be_are_told_with_their_path() {
    let host = Host::new();
    let one = |mount: Value, words: &str| {
        shell(&host, &[mount], "true").fails(125).with_one_line().says(words);
    };
    let missing = json!({"destination": "/t", "type": "tmpfs", "options": ["idmap"]});
    one(missing, "mounts[7].uidMappings: missing: the options ask for mapped IDs");
    let half = json!({"destination": "/t", "type": "tmpfs", "uidMappings": mapping(0, 0, 1)});
    one(half, "mounts[7].gidMappings: missing, and there are uidMappings");
    let none =
        json!({"destination": "/t", "type": "tmpfs", "uidMappings": mapping(0, 0, 1), "gidMappings": mapping(0, 0, 0)});
    one(none, "mounts[7].gidMappings[0].size: 0: it maps nothing");
    let copied = json!({"destination": "/t", "type": "proc", "options": ["tmpcopyup"]});
    one(copied, "mounts[7].options: \"tmpcopyup\": only a tmpfs has it");
}

// What was opened on the host for a container in a user namespace is no peer of the host's mounts: a root who may mount in there
// would mount on the host.
#[test]
fn what_root_of_a_user_namespace_mounts_never_reaches_the_host() {
    let host = Host::new();
    let source = host.fresh("source");
    std::fs::create_dir(&source).unwrap();
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["/probe", "try-all", "mount,/plain", "mount,/tmp"]);
        config["root"]["readonly"] = json!(false);
        let all = json!(["CAP_SYS_ADMIN"]);
        config["process"]["capabilities"] = json!({ "bounding": all, "permitted": all, "effective": all });
        config["linux"]["uidMappings"] = mapping(0, 100_000, 65_536);
        config["linux"]["gidMappings"] = mapping(0, 200_000, 65_536);
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|one| one["destination"] != "/sys/fs/cgroup" && one["destination"] != "/tmp");
        mounts.push(json!({"destination": "/plain", "source": source, "options": ["bind"]}));
    });
    for path in ["rootfs", "rootfs/dev", "rootfs/tmp"] {
        chown(bundle.path().join(path), Some(100_000), Some(200_000)).unwrap();
    }
    let before = host.read("/proc/1/mountinfo");
    host.podrun(format!("oci run --bundle {bundle} one")).ok().prints("mount,/plain: ok\nmount,/tmp: ok");
    assert_eq!(host.read("/proc/1/mountinfo"), before);
}

// config.md, "idmap": without mappings of its own a mount has those of the container's user namespace.
#[test]
fn a_mount_of_a_user_namespace_has_its_mappings() {
    let host = Host::new();
    let source = host.fresh("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "x").unwrap();
    let bundle = host.bundle(|config| {
        config["process"]["args"] =
            json!(["/bin/sh", "-c", "stat -c %u:%g /plain/file /mapped/file; echo > /mapped/made"]);
        config["root"]["readonly"] = json!(false);
        config["linux"]["uidMappings"] = mapping(0, 100_000, 65_536);
        config["linux"]["gidMappings"] = mapping(0, 200_000, 65_536);
        config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .extend([json!({"type": "user"}), json!({"type": "cgroup"})]);
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|one| one["destination"] != "/sys/fs/cgroup");
        for (at, words) in [("/plain", json!(["bind"])), ("/mapped", json!(["bind", "idmap"]))] {
            mounts.push(json!({"destination": at, "source": source, "options": words}));
        }
    });
    // Root of the container is the rootfs's owner.
    for path in ["rootfs", "rootfs/dev", "rootfs/tmp"] {
        chown(bundle.path().join(path), Some(100_000), Some(200_000)).unwrap();
    }
    let out = host.podrun(format!("oci run --bundle {bundle} one"));
    if cannot_map(&out) {
        return;
    }
    // What nobody maps is the overflow ID's (user_namespaces(7)).
    assert_eq!(out.ok().text(), "65534:65534\n0:0\n");
    let made = std::fs::metadata(source.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (0, 0));
}
