//! What bad input gets: one line saying what, where and what to do; the right exit code; nothing left on the host.

use podrun_tests::{Host, json};

fn pod() -> Host {
    let host = Host::new();
    host.pod("web");
    host
}

#[test]
fn a_bundle_that_is_not_there_is_told() {
    let host = pod();
    host.podrun("run web/a --bundle /no/such/bundle").fails(125).with_one_line().says("/no/such/bundle");
}

// Issue 3, bad input: "a bundle without config.json".
#[test]
fn a_bundle_without_config_json_is_told() {
    let host = pod();
    let dir = host.fresh("empty");
    std::fs::create_dir(&dir).unwrap();
    host.podrun(format!("run web/a --bundle {}", dir.display())).fails(125).with_one_line().says("config.json");
    host.podrun(format!("create container web/a --bundle {}", dir.display()))
        .fails(1)
        .with_one_line()
        .says("config.json");
    assert_eq!(host.inspect("web")["containers"], json!([]));
}

// "broken JSON (line and column)".
#[test]
fn broken_json_is_told_with_line_and_column() {
    let host = pod();
    let bundle = host.bundle(|_| ());
    bundle.write("{\n  \"ociVersion\": \"1.0.2\",\n  \"process\": [}\n");
    host.podrun(format!("run web/a --bundle {bundle}")).fails(125).with_one_line().says("line 3").says("column");
    bundle.write("");
    host.podrun(format!("run web/a --bundle {bundle}")).fails(125).with_one_line();
    bundle.write([0xff, 0xfe, 0]);
    host.podrun(format!("run web/a --bundle {bundle}")).fails(125).with_one_line();
}

// "a wrong type (its JSON path)".
#[test]
fn a_wrong_type_is_told_with_its_path() {
    let host = pod();
    let cases = [
        ("/process/cwd", json!(7), "process.cwd"),
        ("/process/user/uid", json!("root"), "process.user.uid"),
        ("/process/args", json!("ls"), "process.args"),
        ("/process/rlimits/0/type", json!("RLIMIT_NOSUCH"), "process.rlimits"),
        ("/mounts/2/options", json!({}), "mounts"),
        ("/root/readonly", json!("yes"), "root.readonly"),
        ("/linux/maskedPaths", json!([1]), "linux.maskedPaths"),
        ("/process/user/uid", json!(-1), "process.user.uid"),
        ("/process/user/uid", json!(4_294_967_296_u64), "process.user.uid"),
        ("/ociVersion", json!(1), "ociVersion"),
        ("/linux", json!([]), "linux"),
    ];
    for (pointer, wrong, path) in cases {
        let bundle = host.bundle(|config| *config.pointer_mut(pointer).unwrap() = wrong.clone());
        host.podrun(format!("run web/a --bundle {bundle}")).fails(125).with_one_line().says(path);
    }
}

#[test]
fn a_value_that_cannot_be_is_told_with_its_path() {
    let host = pod();
    let cases = [
        ("/process/args", json!([]), "process.args"),
        ("/process/cwd", json!("relative"), "process.cwd"),
        ("/process/cwd", json!(""), "process.cwd"),
        ("/process/env", json!(["NOEQUALS", "A=1"]), "process.env"),
        ("/process/env", json!(["A=x\u{0}y"]), "process.env"),
        ("/root/path", json!(""), "root.path"),
        ("/mounts/2/type", json!("nosuchfs"), "nosuchfs"),
    ];
    for (n, (pointer, wrong, path)) in cases.into_iter().enumerate() {
        let bundle = host.bundle(|config| *config.pointer_mut(pointer).unwrap() = wrong.clone());
        let out = host.podrun(format!("run web/a{n} --bundle {bundle}"));
        // An environment entry without `=` is passed on by other runtimes; it may be, here too.
        if wrong == json!(["NOEQUALS", "A=1"]) && out.code() == 0 {
            continue;
        }
        out.fails(125).with_one_line().says(path);
    }
}

// "a missing rootfs".
#[test]
fn a_missing_root_is_told() {
    let host = pod();
    let bundle = host.bundle(|config| config["root"]["path"] = json!("nosuch"));
    host.podrun(format!("run web/a --bundle {bundle}")).fails(125).with_one_line().says("nosuch");
    host.podrun("run web/a --rootfs /no/such/root -- /probe").fails(125).with_one_line().says("/no/such/root");
    let file = host.fresh("file");
    std::fs::write(&file, "x").unwrap();
    host.podrun(format!("run web/a --rootfs {} -- /probe", file.display())).fails(125).with_one_line();
    let bundle = host.bundle(|config| {
        config.as_object_mut().unwrap().remove("root");
    });
    host.podrun(format!("run web/a --bundle {bundle}")).fails(125).with_one_line().says("root");
}

#[test]
fn a_device_of_another_kind_and_a_hook_that_is_relative_are_told() {
    let host = pod();
    let bundle = host.bundle(|config| {
        config["linux"]["devices"] = json!([{ "path": "/dev/x", "type": "z", "major": 1, "minor": 3 }]);
    });
    host.podrun(format!("run web/a --bundle {bundle}")).fails(125).with_one_line().says("linux.devices");
    let bundle = host.bundle(|config| config["hooks"] = json!({ "prestart": [{ "path": "relative" }] }));
    host.podrun(format!("run web/a --bundle {bundle}")).fails(125).with_one_line().says("hooks");
}

#[test]
fn a_seccomp_profile_that_cannot_be_is_told() {
    let host = pod();
    let cases = [
        json!({ "defaultAction": "SCMP_ACT_NOSUCH" }),
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_NOSUCH"] }),
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ERRNO",
            "args": [{ "index": 9, "value": 0, "op": "SCMP_CMP_EQ" }] }] }),
    ];
    for profile in cases {
        let bundle = host.bundle(|config| config["linux"]["seccomp"] = profile.clone());
        host.podrun(format!("run web/a --bundle {bundle}")).fails(125).with_one_line().says("seccomp");
    }
}

// "a pod or container that does not exist" is in pod.rs; here: names that never could.
#[test]
fn a_container_name_that_is_no_label_is_a_usage_error() {
    let host = pod();
    for name in ["A", "a_b", "-a", "..", "a/b"] {
        let rootfs = host.rootfs();
        host.podrun(format!("run --rootfs {rootfs} -d -- web/{name} /probe")).fails(2).with_one_line();
    }
}

#[test]
fn run_needs_a_root_or_a_bundle_and_not_both() {
    let host = pod();
    host.podrun("run web/a -- /probe").fails(2);
    let (bundle, rootfs) = (host.bundle(|_| ()), host.rootfs());
    host.podrun(format!("run web/a --bundle {bundle} --rootfs {rootfs} -- /probe")).fails(2);
    host.podrun(format!("run web/a --rootfs {rootfs}")).fails(2);
    host.podrun(format!("run web --rootfs {rootfs} -- /probe")).fails(2);
}

// What is another's, root's here, a user is refused; his own is in `rootless_pods`.
#[test]
fn a_user_is_told_whose_run_root_it_is() {
    let host = Host::new();
    host.pod("roots");
    let line = format!("setpriv --reuid 1000 --clear-groups {} create pod web", host.podrun_path().display());
    let out = host.program(line).run();
    if out.code() == 126 || out.errors().contains("Permission denied") && !out.errors().starts_with("podrun:") {
        podrun_tests::skip!("podrun's file is in a directory that only root may enter");
    }
    out.fails(1).with_one_line().says("belongs to uid 0, not to you");
}

// "a full disk … (tested with a small tmpfs)": of the run-root, where records, sockets and leases are.
#[test]
fn a_full_run_root_is_told_and_list_stop_and_delete_work() {
    let host = Host::new();
    host.small_disk(&host.run_root(), "size=3m");
    host.pod("web");
    host.start("web/a", "", "/probe sleep 60");
    let filler = host.outside(host.run_root().join("filler"));
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    host.podrun("create pod second").fails(1).with_one_line().says("No space left");
    host.podrun("get pods").ok().prints_something_like("web").does_not_print("second");
    host.podrun("ps").ok();
    host.podrun("logs web/a").ok();
    host.podrun("stop web --time 0").ok();
    host.podrun("delete pod web --force").ok();
    std::fs::remove_file(filler).unwrap();
    host.pod("second");
}

// A run-root that cannot be made.
#[test]
fn a_run_root_that_cannot_be_made_is_told() {
    let host = Host::new();
    let file = host.fresh("file");
    std::fs::write(&file, "x").unwrap();
    let there = file.join("run");
    let out = host.command("create pod web").env("PODRUN_RUN_ROOT", &there).run();
    out.fails(1).with_one_line().says(&there.display().to_string());
}

// design.md: "Errors go to stderr … Data goes to stdout."
#[test]
fn errors_go_to_stderr_and_nothing_to_stdout() {
    let host = Host::new();
    for line in ["inspect nosuch", "logs nosuch", "exec nosuch -- x", "top nosuch", "stop nosuch"] {
        let out = host.podrun(line);
        assert_ne!(out.code(), 0, "{line}");
        out.prints("").with_one_line();
    }
}

// pitfalls.md 23: a hostile name in a message cannot draw on the terminal.
#[test]
fn a_name_with_control_characters_is_shown_harmless() {
    let host = Host::new();
    let out = host.command("inspect").args(["\u{1b}[31mred\u{7}"]).run();
    assert_ne!(out.code(), 0);
    out.does_not_say("\u{1b}").does_not_say("\u{7}");
}

// Standard descriptors that are closed: nothing of podrun's may land in their place.
#[test]
fn podrun_works_with_its_standard_descriptors_closed() {
    let host = Host::new();
    host.command("create pod web").with("close 0").run().ok();
    host.command("create pod two").with("close 0 close 1 close 2").run();
    assert_eq!(host.inspect("two")["state"], "Ready");
}

// Issue 5, "Bad input": every wrong field has its JSON path and what was expected, and nothing is left; podrun/tests/schema.rs
// has them all, without the binary.
#[test]
fn a_field_that_is_wrong_is_told_in_one_line_and_leaves_nothing() {
    let host = Host::new();
    host.pod("web");
    for (pointer, value, words) in [
        ("/process", json!([]), "process: invalid type: sequence, expected an object"),
        ("/process/args", json!("sh"), "process.args: invalid type: string \"sh\", expected a sequence"),
        (
            "/process/user/uid",
            json!(4_294_967_296_u64),
            "process.user.uid: invalid value: integer `4294967296`, expected u32",
        ),
        ("/process/terminal", json!("true"), "process.terminal: invalid type: string \"true\", expected a boolean"),
        ("/process/rlimits/0/type", json!("RLIMIT_MOON"), "process.rlimits[0].type: unknown variant `RLIMIT_MOON`"),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE"}), "process.ioPriority.priority: missing"),
        ("/mounts/0/options", json!({"ro": true}), "mounts[0].options: invalid type: map, expected a sequence"),
        ("/mounts/0", json!(["/proc", "proc"]), "mounts[0]: invalid type: sequence, expected an object"),
        ("/linux/devices", json!([{"path": "/dev/x", "type": "c", "major": 1}]), "linux.devices[0].minor: missing"),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_MAYBE"}), "linux.seccomp.defaultAction: unknown variant"),
        ("/linux/personality", json!({"domain": 8}), "linux.personality.domain: "),
        ("/root/readonly", json!(1), "root.readonly: invalid type: integer `1`, expected a boolean"),
    ] {
        let bundle = host.bundle(|config| {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let parent = config.pointer_mut(parent).unwrap();
            match key.parse::<usize>() {
                Ok(index) if parent.is_array() => parent[index] = value,
                _ => parent[key] = value,
            }
        });
        for (verb, code) in [("run", 125), ("create container", 1)] {
            host.podrun(format!("{verb} web/a --bundle {bundle}")).fails(code).says(words).with_one_line();
        }
    }
    assert_eq!(host.inspect("web")["containers"], json!([]));
}
