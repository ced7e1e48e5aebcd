//! Containers from OCI bundles: each property of config.json, as the probe finds it inside.

use podrun_tests::{Bundle, Host, Outcome, Value, json};

/// Runs the bundle in a pod of its own.
fn run_on(host: &Host, bundle: &Bundle) -> Outcome {
    if host.podrun("inspect web").code() != 0 {
        host.pod("web");
    }
    host.podrun(format!("run web/{} --bundle {bundle}", bundle.path().file_name().unwrap().display()))
}

fn facts(change: impl FnOnce(&mut Value)) -> Value {
    let host = Host::new();
    let bundle = host.bundle(change);
    run_on(&host, &bundle).facts()
}

fn mount<'a>(facts: &'a Value, at: &str) -> &'a Value {
    let all = facts["mounts"].as_array().unwrap();
    all.iter().rev().find(|one| one["at"] == at).unwrap_or_else(|| panic!("nothing is mounted at {at}: {all:#?}"))
}

fn has(options: &Value, word: &str) -> bool {
    options.as_array().unwrap().iter().any(|option| option == word)
}

// config.md, process: "args", "env", "cwd".
#[test]
fn the_program_gets_its_arguments_environment_and_directory() {
    let facts = facts(|config| {
        config["process"]["args"] = json!(["/probe", "facts"]);
        config["process"]["env"] = json!(["PATH=/bin", "B=2", "A=1", "EMPTY=", "EQ=a=b"]);
        config["process"]["cwd"] = json!("/tmp");
    });
    assert_eq!(facts["argv"], json!(["/probe", "facts"]));
    assert_eq!(facts["cwd"], "/tmp");
    let env = &facts["env"];
    assert_eq!(json!([env["B"], env["A"], env["EMPTY"], env["EQ"]]), json!(["2", "1", "", "a=b"]));
    assert!(env["PODRUN_ROOT"].is_null(), "nothing of the caller's environment comes in: {env}");
}

// config.md, process: "args" is looked up in the PATH of process.env, as execvp(3) does.
#[test]
fn a_program_without_a_slash_is_found_on_the_path_of_the_container() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["echo", "found"]);
        config["process"]["env"] = json!(["PATH=/nonexistent:/bin"]);
    });
    run_on(&host, &bundle).ok().prints("found");
}

// config.md, POSIX process user: "uid", "gid", "umask", "additionalGids".
#[test]
fn the_program_has_its_user_groups_and_umask() {
    let facts = facts(|config| {
        config["process"]["user"] = json!({ "uid": 1000, "gid": 1001, "umask": 0o027, "additionalGids": [5, 29] });
    });
    assert_eq!(facts["uids"], json!([1000, 1000, 1000, 1000]));
    assert_eq!(facts["gids"], json!([1001, 1001, 1001, 1001]));
    assert_eq!(facts["groups"], json!([5, 29]));
    assert_eq!(facts["umask"], "0027");
}

// config.md: without additionalGids a process has none, whatever podrun's caller had.
#[test]
fn the_callers_groups_and_umask_do_not_come_in() {
    let host = Host::new();
    host.command("create pod web").with("umask 077").run().ok();
    let bundle = host.bundle(|_| ());
    let facts = host.command(format!("run web/a --bundle {bundle}")).with("umask 077").run().facts();
    assert_eq!(facts["groups"], json!([]));
    assert_eq!(facts["umask"], "0022");
}

// config.md, process.capabilities: five sets, each as written.
#[test]
fn each_of_the_five_capability_sets_is_as_written() {
    let facts = facts(|config| {
        config["process"]["capabilities"] = json!({
            "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_NET_RAW"],
            "permitted": ["CAP_KILL", "CAP_CHOWN"],
            "effective": ["CAP_KILL"],
            "inheritable": ["CAP_KILL"],
            "ambient": ["CAP_KILL"],
        });
    });
    let caps = &facts["caps"];
    // capabilities(7): execve by root gives inheritable | bounding, and ambient is lost only for set-user-ID programs.
    assert_eq!(caps["bounding"], json!(["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"]));
    assert_eq!(caps["inheritable"], json!(["CAP_KILL"]));
    assert_eq!(caps["ambient"], json!(["CAP_KILL"]));
}

#[test]
fn capabilities_of_another_user_are_those_of_the_ambient_set() {
    let facts = facts(|config| {
        config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
        let some = json!(["CAP_KILL", "CAP_NET_RAW"]);
        config["process"]["capabilities"] = json!({ "bounding": some, "permitted": some, "effective": some, "inheritable": some, "ambient": ["CAP_KILL"] });
    });
    let caps = &facts["caps"];
    assert_eq!(caps["effective"], json!(["CAP_KILL"]));
    assert_eq!(caps["permitted"], json!(["CAP_KILL"]));
    assert_eq!(caps["bounding"], json!(["CAP_KILL", "CAP_NET_RAW"]));
}

// capabilities(7): ambient is what is permitted and inheritable, and of buildah's documents nothing is inheritable.
#[test]
fn an_ambient_capability_that_is_not_inheritable_is_warned_of() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        let (both, kill) = (json!(["CAP_KILL", "CAP_CHOWN"]), json!(["CAP_KILL"]));
        config["process"]["capabilities"] =
            json!({ "bounding": both, "permitted": both, "effective": both, "inheritable": kill, "ambient": both });
    });
    let out = run_on(&host, &bundle);
    out.ok().says("process.capabilities.ambient").says("CAP_CHOWN").does_not_say("CAP_KILL");
    assert_eq!(out.facts()["caps"]["ambient"], json!(["CAP_KILL"]));
}

#[test]
fn without_capabilities_there_are_none() {
    let facts = facts(|config| {
        config["process"].as_object_mut().unwrap().remove("capabilities");
    });
    for set in ["inheritable", "permitted", "effective", "bounding", "ambient"] {
        assert_eq!(facts["caps"][set], json!([]), "{set}");
    }
}

// config.md: "Any value which cannot be mapped to a relevant kernel interface, or cannot be granted … MUST be logged as a
// warning"; pitfalls.md R10.
#[test]
fn an_unknown_capability_is_warned_of() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["process"]["capabilities"]["bounding"] = json!(["CAP_KILL", "CAP_FLY"]);
    });
    let out = run_on(&host, &bundle);
    out.ok().says("CAP_FLY");
    assert_eq!(out.facts()["caps"]["bounding"], json!(["CAP_KILL"]));
}

// config.md, process.rlimits.
#[test]
fn resource_limits_are_as_written() {
    let facts = facts(|config| {
        config["process"]["rlimits"] = json!([
            { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
            { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
            { "type": "RLIMIT_STACK", "soft": 1_048_576, "hard": 2_097_152 },
        ]);
    });
    assert_eq!(facts["rlimits"]["nofile"], json!(["100", "200"]));
    assert_eq!(facts["rlimits"]["core"], json!(["0", "0"]));
    assert_eq!(facts["rlimits"]["stack"], json!(["1048576", "2097152"]));
}

// config.md: "If rlimits contains duplicated entries with same type, the runtime MUST generate an error."
#[test]
fn a_resource_limit_given_twice_is_refused() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        let limit = json!({ "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 });
        config["process"]["rlimits"] = json!([limit, limit]);
    });
    run_on(&host, &bundle).fails(125).with_one_line().says("rlimits");
}

// config.md, process.noNewPrivileges: true, false or absent, and absent means false.
#[test]
fn no_new_privileges_is_as_written() {
    for (written, expected) in [(json!(true), 1), (json!(false), 0), (Value::Null, 0)] {
        let facts = facts(|config| match written.is_null() {
            true => drop(config["process"].as_object_mut().unwrap().remove("noNewPrivileges")),
            false => config["process"]["noNewPrivileges"] = written.clone(),
        });
        assert_eq!(facts["noNewPrivs"], expected, "{written}");
    }
}

// config.md, process.oomScoreAdj; design.md, processes 8: "so that no container inherits the monitor's".
#[test]
fn the_oom_score_is_as_written_and_never_the_monitors() {
    let set = facts(|config| config["process"]["oomScoreAdj"] = json!(300));
    assert_eq!(set["oomScoreAdj"], 300);
    let unset = facts(|_| ());
    assert_eq!(unset["oomScoreAdj"], 0);
}

// config.md, root.readonly.
#[test]
fn the_root_is_read_only_or_not_as_written() {
    for (readonly, expected) in [(true, "EROFS"), (false, "ok")] {
        let host = Host::new();
        let bundle = host.bundle(|config| {
            config["root"]["readonly"] = json!(readonly);
            config["process"]["args"] = json!(["/probe", "try", "create", "/new"]);
        });
        run_on(&host, &bundle).ok().prints(expected);
        assert_eq!(bundle.rootfs.has("new"), !readonly);
    }
}

// config.md, root.path: relative to the bundle, or absolute.
#[test]
fn the_root_may_be_given_by_its_absolute_path() {
    let host = Host::new();
    let rootfs = host.rootfs().file("marker", "here");
    let bundle = host.bundle(|config| {
        config["root"]["path"] = json!(rootfs.path());
        config["process"]["args"] = json!(["/bin/cat", "/marker"]);
    });
    run_on(&host, &bundle).ok().prints("here");
}

// pivot_root(2): nothing of the host's tree is left, and nothing else is mounted.
#[test]
fn nothing_of_the_hosts_files_is_seen() {
    let facts = facts(|_| ());
    let root: Vec<_> = facts["root"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(!root.contains(&"boot") && !root.contains(&"home"), "{root:?}");
    let mounts = facts["mounts"].as_array().unwrap();
    let known = ["/", "/proc", "/dev", "/sys", "/etc/"];
    for mount in mounts {
        let at = mount["at"].as_str().unwrap();
        assert!(
            known
                .iter()
                .any(|start| at == *start
                    || at.starts_with(&format!("{}/", start.trim_end_matches('/'))) && *start != "/"),
            "{mount}"
        );
    }
}

// The runtime specification's example config, mounts.
#[test]
fn the_kinds_of_mounts_of_the_specification_are_made() {
    let facts = facts(|_| ());
    let kinds = [
        ("/proc", "proc"),
        ("/dev", "tmpfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"),
        ("/sys", "sysfs"),
    ];
    for (at, kind) in kinds {
        assert_eq!(mount(&facts, at)["type"], kind, "{at}");
    }
    let sys = &mount(&facts, "/sys")["options"];
    assert!(["ro", "nosuid", "nodev", "noexec"].iter().all(|word| has(sys, word)), "{sys}");
    let shm = mount(&facts, "/dev/shm");
    assert!(has(&shm["superOptions"], "size=65536k"), "{shm}");
    let pts = mount(&facts, "/dev/pts");
    assert!(has(&pts["superOptions"], "gid=5") && has(&pts["superOptions"], "ptmxmode=666"), "{pts}");
}

// The same, "cgroup": CVE-2023-25809: never writable without a cgroup namespace of its own.
#[test]
fn the_cgroup_mount_cannot_be_written() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!([
            "/probe",
            "try-all",
            "list,/sys/fs/cgroup",
            "mkdir,/sys/fs/cgroup/x",
            "mkdir,/sys/fs/cgroup/memory/x"
        ]);
    });
    let out = run_on(&host, &bundle);
    out.ok().prints_something_like("list,/sys/fs/cgroup: ok");
    assert!(!out.text().contains("x: ok"), "{}", out.text());
}

// config.md, mounts: "bind", "rbind", "ro" and the per-mount flags.
#[test]
fn bind_mounts_have_their_options() {
    let host = Host::new();
    let source = host.fresh("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "from the host").unwrap();
    let bundle = host.bundle(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        let bind = |at: &str, options: &[&str]| json!({ "destination": at, "source": source, "type": "bind", "options": options });
        mounts.push(bind("/ro", &["bind", "ro"]));
        mounts.push(bind("/rw", &["rbind", "nosuid", "nodev", "noexec"]));
        mounts.push(json!({ "destination": "/one/file", "source": source.join("file"), "options": ["bind", "ro"] }));
        config["root"]["readonly"] = json!(false);
        config["process"]["args"] = json!(["/bin/sh", "-c", "cat /ro/file /one/file; /probe try-all create,/ro/x create,/rw/x; /probe facts"]);
    });
    let out = run_on(&host, &bundle);
    let text = out.ok().text();
    assert!(text.starts_with("from the hostfrom the hostcreate,/ro/x: EROFS\ncreate,/rw/x: ok\n"), "{text}");
    assert!(source.join("x").exists());
    let facts: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let options = &mount(&facts, "/rw")["options"];
    assert!(["rw", "nosuid", "nodev", "noexec"].iter().all(|word| has(options, word)), "{options}");
    assert!(has(&mount(&facts, "/one/file")["options"], "ro"));
}

// mount_namespaces(7), config-linux.md rootfsPropagation.
#[test]
fn mounts_do_not_propagate_unless_asked() {
    // As with runc: what the host mounts later is seen, unless `private` is asked.
    for (word, may_follow) in [(Value::Null, true), (json!("rslave"), true), (json!("rprivate"), false)] {
        let facts = facts(|config| config["linux"]["rootfsPropagation"] = word.clone());
        for one in facts["mounts"].as_array().unwrap() {
            let peers = one["propagation"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap());
            let follows = |tag: &str| may_follow && tag.starts_with("master:");
            assert!(peers.into_iter().all(follows), "{word}: {one}");
        }
    }
}

// pitfalls.md section 4: "rprivate and its kin accepted (youki: not)".
#[test]
fn propagation_options_of_a_mount_are_accepted() {
    let host = Host::new();
    let source = host.fresh("source");
    std::fs::create_dir(&source).unwrap();
    for option in ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"] {
        let bundle = host.bundle(|config| {
            let mount = json!({ "destination": "/m", "source": source, "type": "bind", "options": ["bind", option] });
            config["mounts"].as_array_mut().unwrap().push(mount);
            config["root"]["readonly"] = json!(false);
        });
        let facts = run_on(&host, &bundle).facts();
        let tags = mount(&facts, "/m")["propagation"].to_string();
        let expected = match option.trim_start_matches('r') {
            "shared" => "shared:",
            "unbindable" => "unbindable",
            _ => "",
        };
        assert!(tags.contains(expected), "{option}: {tags}");
    }
}

// config-linux.md, rootfsPropagation: only a root that is a slave gets the host's later mounts; the host never gets one.
#[test]
fn a_mount_of_the_container_never_reaches_the_host() {
    let host = Host::new();
    let before = host.read("/proc/1/mountinfo");
    let bundle = host.bundle(|config| {
        config["linux"]["rootfsPropagation"] = json!("rslave");
        let all = json!(["CAP_SYS_ADMIN"]);
        config["process"]["capabilities"] = json!({ "bounding": all, "permitted": all, "effective": all });
        config["process"]["args"] = json!(["/probe", "try", "mount", "/tmp"]);
    });
    run_on(&host, &bundle).ok().prints("ok");
    assert_eq!(host.read("/proc/1/mountinfo"), before);
}

// config-linux.md, "Default Devices" and "/dev symbolic links" of runtime-linux.md.
#[test]
fn the_default_devices_and_links_are_there() {
    let facts = facts(|_| ());
    let dev = &facts["dev"];
    for (name, number) in
        [("null", [1, 3]), ("zero", [1, 5]), ("full", [1, 7]), ("random", [1, 8]), ("urandom", [1, 9]), ("tty", [5, 0])]
    {
        assert_eq!(dev[name]["number"], json!(number), "{name}");
        assert_eq!(dev[name]["mode"], "0666", "{name}");
        assert_eq!(dev[name]["kind"], "char", "{name}");
    }
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ];
    for (name, target) in links {
        assert_eq!(dev[name]["target"], target, "{name}");
    }
}

// config-linux.md, devices.
#[test]
fn devices_of_the_config_are_made() {
    let facts = facts(|config| {
        config["linux"]["devices"] = json!([
            { "path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7, "gid": 8 },
            { "path": "/dev/pipe", "type": "p", "fileMode": 0o600 },
        ]);
    });
    let mine = &facts["dev"]["mine"];
    assert_eq!(json!([mine["number"], mine["mode"], mine["uid"], mine["gid"]]), json!([[1, 5], "0640", 7, 8]));
    assert_eq!(facts["dev"]["pipe"]["kind"], "fifo");
}

// config-linux.md, maskedPaths and readonlyPaths.
#[test]
fn masked_paths_are_empty_and_read_only_paths_cannot_be_written() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["linux"]["maskedPaths"] = json!(["/secret", "/secrets", "/proc/kcore", "/nothing/here"]);
        config["linux"]["readonlyPaths"] = json!(["/fixed", "/proc/sys", "/nothing/there"]);
        config["root"]["readonly"] = json!(false);
        config["process"]["args"] = json!([
            "/probe",
            "try-all",
            "empty,/secret",
            "empty,/proc/kcore",
            "create,/secrets/x",
            "list,/secrets",
            "read,/secrets/deep",
            "write,/fixed",
            "write,/proc/sys/kernel/domainname"
        ]);
    });
    bundle.rootfs.dir("secrets");
    std::fs::write(bundle.rootfs.path().join("secrets/deep"), "x").unwrap();
    std::fs::write(bundle.rootfs.path().join("secret"), "x").unwrap();
    std::fs::write(bundle.rootfs.path().join("fixed"), "x").unwrap();
    let expected = "empty,/secret: 0\nempty,/proc/kcore: 0\ncreate,/secrets/x: EROFS\nlist,/secrets: ok\n\
        read,/secrets/deep: ENOENT\nwrite,/fixed: EROFS\nwrite,/proc/sys/kernel/domainname: EROFS";
    run_on(&host, &bundle).ok().prints(expected);
}

// The UTS namespace is the pod's: one container cannot rename the others.
#[test]
fn the_hostname_is_the_pods_whatever_the_config_says() {
    assert_eq!(facts(|config| config["hostname"] = json!("mine"))["hostname"], "web");
}

// config-linux.md, seccomp: "errnoRet"; pitfalls.md 40 and youki#2022 (errnoRet ignored).
#[test]
fn a_seccomp_rule_gives_its_errno() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
            "syscalls": [
                { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSPC },
                { "names": ["mknod", "mknodat"], "action": "SCMP_ACT_ERRNO" },
            ],
        });
        config["process"]["args"] = json!(["/probe", "try-all", "mkdir,/tmp/x", "mknod,/tmp/y,1,3", "list,/tmp"]);
    });
    run_on(&host, &bundle).ok().prints("mkdir,/tmp/x: ENOSPC\nmknod,/tmp/y,1,3: EPERM\nlist,/tmp: ok");
}

// config-linux.md, seccomp args: masked and compared.
#[test]
fn a_seccomp_rule_looks_at_arguments() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        let rule = json!({ "index": 0, "value": libc::AF_NETLINK, "op": "SCMP_CMP_EQ" });
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EXDEV, "args": [rule] }],
        });
        config["process"]["args"] =
            json!(["/probe", "try-all", format!("socket,{}", libc::AF_NETLINK), format!("socket,{}", libc::AF_INET)]);
    });
    let expected = format!("socket,{}: EXDEV\nsocket,{}: ok", libc::AF_NETLINK, libc::AF_INET);
    run_on(&host, &bundle).ok().prints(&expected);
}

// pitfalls.md 40 (measured): runc and youki die on it, since they check the directory after loading the filter.
#[test]
fn a_profile_that_denies_getcwd_works() {
    let host = Host::new();
    for no_new_privileges in [true, false] {
        let bundle = host.bundle(|config| {
            config["process"]["noNewPrivileges"] = json!(no_new_privileges);
            config["process"]["args"] = json!(["/probe", "say", "hello"]);
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{ "names": ["getcwd"], "action": "SCMP_ACT_KILL_PROCESS" }],
            });
        });
        run_on(&host, &bundle).ok().prints("hello");
    }
}

// The order of the last steps: Seccomp, NoNewPrivs and capabilities hold together (pitfalls.md, "order of the last steps").
#[test]
fn seccomp_no_new_privileges_and_users_hold_in_every_combination() {
    let host = Host::new();
    for (filter, privileges, uid) in
        [(false, false, 0), (true, false, 0), (true, true, 0), (true, false, 1000), (true, true, 1000)]
    {
        let bundle = host.bundle(|config| {
            config["process"]["noNewPrivileges"] = json!(privileges);
            config["process"]["user"] = json!({ "uid": uid, "gid": uid });
            if filter {
                config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls":
                    [{ "names": ["mount"], "action": "SCMP_ACT_ERRNO" }] });
            }
        });
        let facts = run_on(&host, &bundle).facts();
        let found = json!([facts["seccomp"], facts["noNewPrivs"], facts["uids"][0], facts["groups"]]);
        assert_eq!(found, json!([if filter { 2 } else { 0 }, u8::from(privileges), uid, []]));
        assert_eq!(facts["caps"]["effective"].as_array().unwrap().is_empty(), uid == 1000);
    }
}

// The filter comes last: whatever init itself had to do is done by then, so that a profile may forbid it all, and each step
// that would slip behind the filter fails here. Only capset (a filter without no_new_privs needs CAP_SYS_ADMIN) and execve
// come after it; a profile that forbids these two cannot be born under.
#[test]
fn a_profile_may_forbid_whatever_init_does_before_the_program() {
    const INITS: &str = "setns unshare mount move_mount open_tree fsopen fsconfig fsmount mount_setattr pivot_root mkdirat \
        mknodat symlinkat fchownat chdir fchdir setsid dup2 dup3 prlimit64 setrlimit umask setgroups setgid setuid prctl \
        close_range sendmsg sendto recvmsg recvfrom openat2 fstatfs";
    let host = Host::new();
    let bundle = |privileges: bool, names: Vec<&str>| {
        host.bundle(|config| {
            config["process"]["noNewPrivileges"] = json!(privileges);
            config["process"]["user"] = json!({ "uid": 1000, "gid": 1001, "umask": 0o027, "additionalGids": [5] });
            config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 99, "hard": 100 }]);
            for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
                config["process"]["capabilities"][set] = json!(["CAP_CHOWN"]);
            }
            config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{ "names": names, "action": "SCMP_ACT_ERRNO" }] });
        })
    };
    for privileges in [false, true] {
        let facts = run_on(&host, &bundle(privileges, INITS.split_whitespace().collect())).facts();
        let found = json!([facts["seccomp"], facts["noNewPrivs"], facts["uids"][0], facts["groups"], facts["umask"]]);
        assert_eq!(found, json!([2, u8::from(privileges), 1000, [5], "0027"]));
        assert_eq!(facts["caps"]["effective"], json!(["CAP_CHOWN"]));
        run_on(&host, &bundle(privileges, vec!["capset"])).fails(125).says("capabilities");
        run_on(&host, &bundle(privileges, vec!["execve"])).fails(126).says("/probe");
    }
}

// config.md, extensibility: "Runtimes … MUST ignore unknown properties".
#[test]
fn unknown_properties_are_ignored() {
    let facts = facts(|config| {
        config["fromTheFuture"] = json!({ "a": [1] });
        config["linux"]["fromTheFuture"] = json!(true);
        config["annotations"] = json!({ "org.example": "x" });
    });
    assert_eq!(facts["pid"], 1);
}

// Issue 3, 4: "A property that podrun knows and does not honour yet is refused with its JSON path."
#[test]
fn what_podrun_knows_and_cannot_honour_is_refused_with_its_path() {
    let host = Host::new();
    let cases: [(&str, Value, &str); 5] = [
        ("/linux/intelRdt", json!({ "closID": "x" }), "linux.intelRdt"),
        ("/linux/mountLabel", json!("system_u:object_r:x:s0"), "linux.mountLabel"),
        ("/process/selinuxLabel", json!("system_u:system_r:x:s0"), "process.selinuxLabel"),
        ("/process/apparmorProfile", json!("strict"), "process.apparmorProfile"),
        ("/linux/timeOffsets", json!({ "monotonic": { "secs": 1 } }), "linux.timeOffsets"),
    ];
    for (pointer, value, path) in cases {
        let bundle = host.bundle(|config| {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[key] = value;
        });
        run_on(&host, &bundle).fails(125).with_one_line().says(path);
    }
}

// config.md, process: optional until start. A container of a pod has no later moment to get one, so it is refused at once.
#[test]
fn a_bundle_without_a_process_is_refused() {
    let host = Host::new();
    host.pod("web");
    let bundle = host.bundle(|config| {
        config.as_object_mut().unwrap().remove("process");
    });
    host.podrun(format!("create container web/a --bundle {bundle}")).fails(1).with_one_line().says("process");
}

// runtime.md, lifecycle: created, started, ended.
#[test]
fn a_container_is_created_then_started() {
    let host = Host::new();
    host.pod("web");
    let bundle = host.bundle(|config| config["process"]["args"] = json!(["/probe", "exit", "4"]));
    host.podrun(format!("create container web/a --bundle {bundle}")).ok();
    let created = host.container("web", "a");
    assert_eq!(created["state"], "Created");
    host.podrun("start web -c a").ok();
    assert_eq!(host.until("web", "a", "Exited")["exitCode"], 4);
}

// runtime.md: "any changes to config.json after create will not have an effect on the container".
#[test]
fn a_config_that_changes_after_create_has_no_effect() {
    let host = Host::new();
    host.pod("web");
    let bundle = host.bundle(|config| config["process"]["args"] = json!(["/probe", "exit", "4"]));
    host.podrun(format!("create container web/a --bundle {bundle}")).ok();
    bundle.write("{}");
    host.podrun("start web -c a").ok();
    assert_eq!(host.until("web", "a", "Exited")["exitCode"], 4);
}

// config.md, process.terminal.
#[test]
fn a_bundle_with_a_terminal_gets_one() {
    let host = Host::new();
    host.pod("web");
    let bundle = host.bundle(|config| config["process"]["terminal"] = json!(true));
    let (code, screen) = host.command(format!("run web/a -it --bundle {bundle}")).at_a_terminal(41, 62).ends();
    assert_eq!(code, 0, "{screen}");
    let facts: Value = serde_json::from_str(screen.trim()).unwrap_or_else(|err| panic!("{err}: {screen}"));
    assert_eq!(facts["terminals"], json!([[41, 62], [41, 62], [41, 62]]));
    assert_eq!(facts["dev"]["console"]["kind"], "char");
}

// config-linux.md, namespaces with a path that is not the pod's: it would leave the pod.
#[test]
fn a_namespace_path_of_the_config_is_refused() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "network", "path": "/proc/1/ns/net" }]);
    });
    run_on(&host, &bundle).fails(125).with_one_line().says("linux.namespaces");
}
