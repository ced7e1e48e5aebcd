//! What other runtimes got wrong, as attacks on this one. Each test names its CVE.

use podrun_tests::{Host, Outcome, Rootfs, Value, json, many};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

fn pod() -> Host {
    let host = Host::new();
    host.pod("web");
    host
}

/// A directory of the host that nobody may write, with one file in it.
fn sentinel(host: &Host) -> PathBuf {
    let dir = host.fresh("sentinel");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("file"), "untouched").unwrap();
    dir
}

#[track_caller]
fn untouched(dir: &Path, after: &Outcome) {
    let names: Vec<_> = std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["file"], "{}: the host was written: {after:?}", dir.display());
    assert_eq!(std::fs::read_to_string(dir.join("file")).unwrap(), "untouched", "{after:?}");
    let meta = std::fs::metadata(dir).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (0, 0o755), "{after:?}");
}

fn open_fds(facts: &Value) -> Vec<String> {
    facts["fds"].as_object().unwrap().keys().cloned().collect()
}

// CVE-2024-21626 (runc): descriptors of the caller and of the runtime were open inside.
#[test]
fn a_program_has_no_descriptor_but_its_three() {
    let host = pod();
    let run = host.running("web/a", "", "/probe").with("fds 100").run().facts();
    assert_eq!(open_fds(&run), ["0", "1", "2"], "{}", run["fds"]);
    host.start("web/b", "", "/probe sleep 60");
    let exec = host.command("exec web/b -- /probe").with("fds 100").run().facts();
    assert_eq!(open_fds(&exec), ["0", "1", "2"], "{}", exec["fds"]);
    let bundle = host.bundle(|_| ());
    let bundled = host.command(format!("run web/c --bundle {bundle}")).with("fds 100").run().facts();
    assert_eq!(open_fds(&bundled), ["0", "1", "2"], "{}", bundled["fds"]);
}

// The same, with a pod that a caller with 100 open descriptors made: its monitor is the parent of what comes later.
#[test]
fn a_monitor_keeps_no_descriptor_of_its_maker() {
    let host = Host::new();
    host.command("create pod web").with("fds 100 nice 7 umask 077 ignore 10 block 12").run().ok();
    let facts = host.run("web/a", "", "/probe").facts();
    assert_eq!(open_fds(&facts), ["0", "1", "2"], "{}", facts["fds"]);
    // design.md, processes 2: "nice, affinity, rlimits, umask, seccomp, keyring are reset when the monitor starts".
    assert_eq!(json!([facts["nice"], facts["umask"]]), json!([0, "0022"]));
    assert_eq!(json!([facts["signals"]["ignored"], facts["signals"]["blocked"]]), json!([[], []]));
    for part in ["pause", "monitor", "pump"] {
        let pid = host.inspect("web")[part]["pid"].to_string();
        let dir = host.outside(format!("/proc/{pid}/fd"));
        let of_etc = std::fs::read_dir(dir)
            .unwrap()
            .flatten()
            .filter(|fd| fd.path().read_link().is_ok_and(|to| to == Path::new("/etc")));
        assert_eq!(of_etc.count(), 0, "{part}");
    }
}

#[test]
fn nothing_of_the_callers_habits_comes_in() {
    let host = pod();
    let untidy = "umask 077 nice 7 ignore 10 block 12 core 0 oom 500 cpu 0";
    let clean = host.run("web/clean", "", "/probe").facts();
    let run = host.running("web/a", "", "/probe").with(untidy).run().facts();
    host.start("web/b", "", "/probe sleep 60");
    let exec = host.command("exec web/b -- /probe").with(untidy).run().facts();
    for facts in [run, exec] {
        let found = json!([
            facts["umask"],
            facts["nice"],
            facts["signals"]["ignored"],
            facts["signals"]["blocked"],
            facts["oomScoreAdj"]
        ]);
        assert_eq!(found, json!(["0022", 0, [], [], 0]));
        assert_eq!(facts["rlimits"], clean["rlimits"]);
        let all = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
        assert_eq!(facts["cpus"], all.trim());
    }
}

// A Rust program ignores SIGPIPE, and what is ignored stays so over execve(2): a pipeline inside would never end.
#[test]
fn no_signal_is_ignored_inside() {
    let host = pod();
    let mask = "grep SigIgn /proc/self/status";
    host.run("web/a", "", mask).ok().prints("SigIgn:\t0000000000000000");
    host.start("web/b", "", "/probe sleep 60");
    host.podrun(format!("exec web/b -- {mask}")).ok().prints("SigIgn:\t0000000000000000");
    host.podrun("exec web/b -- sh -c 'yes | head -n 1'").ok().prints("y").within(std::time::Duration::from_secs(3));
}

// CVE-2024-21626: the working directory was a descriptor of the host.
#[test]
fn a_working_directory_on_a_descriptor_does_not_lead_out() {
    let host = pod();
    host.start("web/sleeper", "", "/probe sleep 60");
    for n in 3..24 {
        let run = host.running("web/a", &format!("--rm -w /proc/self/fd/{n}"), "/probe list /").with("fds 30").run();
        run.fails(125).with_one_line();
        let exec = host.command(format!("exec web/sleeper -w /proc/self/fd/{n} -- /probe")).with("fds 30").run();
        exec.fails(125).with_one_line();
    }
    let bundle = host.bundle(|config| config["process"]["cwd"] = json!("/proc/self/fd/7"));
    host.command(format!("run web/b --bundle {bundle}")).with("fds 30").run().fails(125).with_one_line();
}

// A link in the image is the same attack with one step more.
#[test]
fn a_working_directory_behind_a_link_does_not_lead_out() {
    let host = pod();
    for n in [3, 5, 7, 8, 9, 10] {
        let rootfs = host.rootfs().link("work", format!("/proc/self/fd/{n}"));
        let line = format!("run web/a{n} --rootfs {rootfs} -w /work -- /bin/ls -a ..");
        let out = host.command(line).with("fds 30").run();
        assert!(!out.text().contains("shadow"), "{out:?}");
        assert_ne!(out.code(), 0, "{out:?}");
    }
}

// CVE-2019-5736: the container overwrote the runtime through /proc/self/exe.
#[test]
fn the_runtime_cannot_be_overwritten_from_inside() {
    let host = pod();
    let digest = |path: &Path| std::fs::read(path).unwrap();
    let before = digest(&host.podrun_path());
    let rootfs = host.rootfs().executable("entry", "#!/proc/self/exe\n");
    host.podrun(format!("run web/a --rootfs {rootfs} -- /entry"));
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do for p in /proc/[0-9]*; do /probe try write $p/exe; done; done";
    host.start("web/b", "", "/probe sleep 60");
    let racing = host.command(format!("exec web/b -- sh -c '{script}'")).start();
    for _ in 0..5 {
        host.podrun("exec web/b -- /probe exit 0").ok();
    }
    racing.wait();
    assert!(digest(&host.podrun_path()) == before, "podrun's own file changed");
    host.podrun("version").ok();
}

// design.md, processes 2: podrun's processes run from a read-only detached clone of its own file.
#[test]
fn the_monitor_and_the_pump_run_from_a_file_that_cannot_be_written() {
    let host = pod();
    host.start("web/a", "", "/probe sleep 60");
    for part in ["pause", "monitor", "pump"] {
        let pid = host.inspect("web")[part]["pid"].to_string();
        let tried = host.program(format!("{} try write /proc/{pid}/exe", host.probe().display())).run();
        assert!(["EROFS", "ETXTBSY"].contains(&tried.ok().text().trim()), "{part}: {tried:?}");
    }
}

// With --share pid a member of the pod sees podrun's init: its fds, memory and exe are out of reach.
#[test]
fn a_member_of_a_shared_pid_pod_cannot_reach_podruns_processes() {
    let host = Host::new();
    host.podrun("create pod web --share pid").ok();
    host.start("web/a", "", "/probe sleep 60");
    let out = host
        .podrun("exec web/a -- /probe try-all read,/proc/1/fd/0 read,/proc/1/mem write,/proc/1/exe list,/proc/1/root");
    assert!(!out.ok().text().contains(": ok"), "{}", out.text());
}

// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642: /proc or /sys of the image is a link.
#[test]
fn a_root_whose_proc_or_sys_is_a_link_is_refused() {
    let host = pod();
    let outside = sentinel(&host);
    let cases: [(&str, &dyn Fn(Rootfs) -> Rootfs); 4] = [
        ("proc-out", &|rootfs| rootfs.link("proc", &outside)),
        ("proc-in", &|rootfs| {
            rootfs.dir("evil");
            rootfs.link("proc", "/evil")
        }),
        ("sys-out", &|rootfs| rootfs.link("sys", &outside)),
        ("sys-up", &|rootfs| rootfs.link("sys", "../../../../../../tmp")),
    ];
    for (name, change) in cases {
        let rootfs = change(host.rootfs());
        let out = host.podrun(format!("run web/{name} --rootfs {rootfs} -- /probe say hi"));
        out.fails(125).with_one_line().says(if name.starts_with("proc") { "/proc" } else { "/sys" });
        untouched(&outside, &out);
    }
}

// CVE-2026-41579, CVE-2026-47766: /dev, /dev/pts, /dev/shm, /dev/mqueue, /dev/fd of the image are links.
#[test]
fn a_root_whose_dev_is_a_link_writes_nothing_on_the_host() {
    let host = pod();
    let outside = sentinel(&host);
    let up = format!("../../../../../../../../../..{}", outside.display());
    for name in
        ["dev", "dev/pts", "dev/shm", "dev/mqueue", "dev/fd", "dev/null", "dev/console", "dev/ptmx", "dev/stdin"]
    {
        for (n, target) in
            [outside.display().to_string(), up.clone(), outside.join("new").display().to_string()].iter().enumerate()
        {
            let rootfs = host.rootfs().link(name, target);
            let container = format!("{}-{n}", name.replace('/', "-"));
            let out = host.podrun(format!("run web/{container} --rootfs {rootfs} -- /probe say hi"));
            untouched(&outside, &out);
            assert!([0, 125].contains(&out.code()), "{name} → {target}: {out:?}");
        }
    }
}

// CVE-2026-88264: a config without a mount on /dev, and links where the devices go.
#[test]
fn a_config_without_a_dev_mount_and_hostile_links_writes_nothing_on_the_host() {
    let host = pod();
    let outside = sentinel(&host);
    for name in ["null", "zero", "console", "ptmx", "pts", "shm", "fd", "stdout", "tty"] {
        let bundle = host.bundle(|config| {
            config["mounts"] = json!([{ "destination": "/proc", "type": "proc", "source": "proc" }]);
            config["root"]["readonly"] = json!(false);
            config["process"]["args"] = json!(["/probe", "say", "hi"]);
        });
        let _ = bundle.rootfs.clone().link(&format!("dev/{name}"), outside.join("file"));
        let out = host.podrun(format!("run web/c-{name} --bundle {bundle}"));
        untouched(&outside, &out);
    }
}

// CVE-2025-31133: /dev/null of the image is a link, and masking bind-mounts what it leads to.
#[test]
fn masked_paths_stay_masked_when_dev_null_is_a_link() {
    let host = pod();
    // Harmless where the guard is missing: domainname belongs to the pod's own UTS namespace.
    for target in ["/proc/sys/kernel/domainname", "/proc/self/comm", "/etc/passwd"] {
        let bundle = host.bundle(|config| {
            config["mounts"] = json!([{ "destination": "/proc", "type": "proc", "source": "proc" }]);
            config["root"]["readonly"] = json!(false);
            config["linux"]["maskedPaths"] = json!(["/proc/kcore", "/proc/keys", "/etc/group"]);
            config["process"]["args"] =
                json!(["/probe", "try-all", "empty,/proc/kcore", "empty,/proc/keys", "empty,/etc/group"]);
        });
        let _ = bundle.rootfs.clone().link("dev/null", target);
        let name = target.rsplit('/').next().unwrap();
        let out = host.podrun(format!("run web/{name} --bundle {bundle}"));
        if out.code() == 0 {
            out.prints("empty,/proc/kcore: 0\nempty,/proc/keys: 0\nempty,/etc/group: 0");
        } else {
            out.fails(125).with_one_line();
        }
    }
}

// CVE-2025-52565: the console of a terminal goes to a link's target.
#[test]
fn a_terminal_with_a_hostile_dev_writes_nothing_on_the_host() {
    let host = pod();
    let outside = sentinel(&host);
    let bundle = host.bundle(|config| {
        config["mounts"] = json!([
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"] },
        ]);
        config["root"]["readonly"] = json!(false);
        config["process"]["terminal"] = json!(true);
        config["process"]["args"] = json!(["/probe", "say", "hi"]);
    });
    let _ = bundle.rootfs.clone().link("dev/console", outside.join("file"));
    let (code, screen) = host.command(format!("run web/a -it --bundle {bundle}")).at_a_terminal(24, 80).ends();
    assert!([0, 125].contains(&code), "{screen}");
    assert_eq!(std::fs::read_to_string(outside.join("file")).unwrap(), "untouched");
    assert!(!host.read("/proc/1/mountinfo").contains(outside.to_str().unwrap()));
}

// CVE-2025-24965 and CVE-2024-5154: every file that podrun makes in a root, with a link in its place.
#[test]
fn dangling_links_at_every_name_that_podrun_may_create_lead_nowhere() {
    let host = pod();
    let outside = sentinel(&host);
    let names = ["etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", "run", "tmp", "etc", "root"];
    for name in names {
        let rootfs = host.rootfs().link(name, outside.join("created"));
        let out = host.podrun(format!("run web/{} --rootfs {rootfs} -- /probe say hi", name.replace(['/', '.'], "-")));
        untouched(&outside, &out);
        assert!([0, 125].contains(&out.code()), "{name}: {out:?}");
    }
    let rootfs = host.rootfs().link("etc", format!("../../../../../../../..{}", outside.display()));
    let out = host.podrun(format!("run web/up --rootfs {rootfs} -- /probe say hi"));
    untouched(&outside, &out);
}

// pitfalls.md, more: "a read-only or symlinked /etc/hosts, /etc/resolv.conf in the image breaks start, or escapes the root".
#[test]
fn a_root_whose_hosts_file_is_a_link_starts_and_has_podruns() {
    let host = pod();
    let rootfs = host.rootfs().link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf");
    host.podrun(format!("run web/a --rootfs {rootfs} -- /probe say hi")).ok().prints("hi");
    let rootfs = host.rootfs().link("etc/hosts", "/var/hosts");
    host.podrun(format!("run web/b --rootfs {rootfs} -- /probe say hi")).ok().prints("hi");
}

// Images have /var/run -> /run without a /run; kubelet mounts below /var/run/secrets.
#[test]
fn a_volume_below_or_at_a_link_that_leads_nowhere_yet_is_where_it_leads_to() {
    let host = pod();
    let outside = sentinel(&host);
    let volume = host.fresh("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "hello\n").unwrap();
    let run = |name: &str, rootfs: &Rootfs, at: &str, command: &str| {
        let flags = format!("-v {}:{at} -v {}:{at}-file", volume.display(), volume.join("file").display());
        host.podrun(format!("run web/{name} {flags} --rootfs {rootfs} -- {command}"))
    };
    let rootfs = host.rootfs().link("var/run", "/run");
    run("below", &rootfs, "/var/run/a/b", "cat /run/a/b/file /run/a/b-file").ok().prints("hello\nhello");
    let rootfs = host.rootfs().link("data", "/new/place").link("data-file", "new/file");
    run("at", &rootfs, "/data", "cat /new/place/file /new/file").ok().prints("hello\nhello");
    let up = format!("../../../../../../..{}", outside.join("created").display());
    let rootfs = host.rootfs().link("data", &up);
    let out = run("up", &rootfs, "/data/below", "cat /data/below/file");
    untouched(&outside, &out);
    out.ok().prints("hello");
}

// CVE-2025-4437, CVE-2024-9676: /etc/passwd of the image is huge, a FIFO, or a device.
#[test]
fn a_hostile_passwd_neither_hangs_nor_fills_memory() {
    let host = pod();
    let huge = host.rootfs();
    std::fs::File::create(huge.path().join("etc/passwd")).unwrap().set_len(1 << 30).unwrap();
    let device = host.rootfs().link("etc/passwd", "/dev/zero");
    let pipe = host.rootfs().without("etc/passwd");
    nix::unistd::mkfifo(&pipe.path().join("etc/passwd"), nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    let outside = host.fresh("passwd");
    std::fs::write(&outside, "alice:x:0:0::/:/bin/sh\n").unwrap();
    let link = host.rootfs().link("etc/passwd", &outside);
    for (name, rootfs) in [("huge", huge), ("device", device), ("pipe", pipe), ("link", link)] {
        let out = host
            .command(format!("run web/{name} --rootfs {rootfs} -u alice -- /probe"))
            .limit(std::time::Duration::from_secs(10))
            .run();
        out.fails(125).with_one_line();
    }
}

// CVE-2022-4318, CVE-2026-15809: a line break in a value that goes into a file of the container. Real bytes.
#[test]
fn a_value_with_a_line_break_is_refused() {
    let host = Host::new();
    for wrong in ["a\nroot2:x:0:0::/:/bin/sh", "a\rb", "a:b", "a b", "-a", ""] {
        let said = host.command("create pod web").args(["--hostname", wrong]).run();
        assert!([1, 2].contains(&said.code()), "{wrong:?}: {said:?}");
        said.with_one_line();
    }
    assert!(host.podrun("inspect web").code() == 1);
}

// CVE-2022-0811 (cr8escape): a sysctl whose value smuggles another one in. The values are those that the host has already,
// so that a missing guard does no harm.
#[test]
fn a_sysctl_that_is_not_the_pods_own_is_refused_before_anything_is_made() {
    let host = Host::new();
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let pattern = pattern.trim();
    let wrong = [
        format!("kernel.core_pattern={pattern}"),
        format!("kernel.shm_rmid_forced=0+kernel.core_pattern={pattern}"),
        format!("kernel.shm_rmid_forced=0\nkernel.core_pattern={pattern}"),
        format!("net.ipv4/../../kernel/core_pattern={pattern}"),
        format!("net/../kernel/core_pattern={pattern}"),
        format!("../kernel/core_pattern={pattern}"),
        "vm.overcommit_ratio=50".to_owned(),
        "kernel.hostname=x".to_owned(),
        "net.ipv4.ip_default_ttl".to_owned(),
        "=1".to_owned(),
        "net..x=1".to_owned(),
        "net.ipv4.nosuch=1".to_owned(),
    ];
    for sysctl in wrong {
        let said = host.command("create pod web").args(["--sysctl", &sysctl]).run();
        assert!([1, 2].contains(&said.code()), "{sysctl:?}: {said:?}");
        said.with_one_line();
        host.podrun("inspect web").fails(1);
    }
    let said = host.podrun("create pod web --network host --sysctl net.core.somaxconn=4096");
    assert!([1, 2].contains(&said.code()), "{said:?}");
    said.says("net.core.somaxconn");
}

// CVE-2020-15257: an abstract socket is reachable by whoever shares the network namespace.
#[test]
fn podrun_has_no_abstract_socket() {
    let host = Host::new();
    host.podrun("create pod web --network host").ok();
    host.start("web/a", "", "/probe sleep 60");
    host.podrun("exec web/a -- /probe abstract-sockets").ok().prints("");
    let probe = host.probe().display().to_string();
    host.program(format!("{probe} abstract-sockets")).run().ok().prints("");
}

#[test]
fn the_monitors_socket_is_for_root_alone() {
    let host = pod();
    let id = host.inspect("web")["id"].as_str().unwrap().to_owned();
    let meta = std::fs::metadata(host.run_root().join("pods").join(id).join("monitor.sock")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o077, 0);
}

// CVE-2026-88265: stdio that is a regular file of another user keeps its owner.
#[test]
fn a_file_given_as_stdio_keeps_its_owner() {
    let host = pod();
    let path = host.fresh("output");
    let file = std::fs::File::create(&path).unwrap();
    std::os::unix::fs::chown(&path, Some(4242), Some(4242)).unwrap();
    let null = || std::fs::File::open("/dev/null").unwrap();
    let again = file.try_clone().unwrap();
    host.running("web/a", "-u 1000", "/probe say hi").stdio(null(), file, again).run().ok();
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (4242, 4242));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "hi\n");
}

// design.md, processes 2: "a read-only file of the host was overwritten so in a trial".
#[test]
fn a_read_only_file_given_as_stdin_cannot_be_reopened_for_writing() {
    let host = pod();
    let path = host.fresh("input");
    std::fs::write(&path, "precious").unwrap();
    let null = || std::fs::File::create("/dev/null").unwrap();
    let file = || std::fs::File::open(&path).unwrap();
    let overwrite = "sh -c 'echo gone > /proc/self/fd/0; echo gone > /dev/stdin'";
    host.running("web/a", "-i", overwrite).stdio(file(), null(), null()).run();
    host.start("web/b", "", "/probe sleep 60");
    host.command(format!("exec web/b -i -- {overwrite}")).stdio(file(), null(), null()).run();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

// GHSA-7ww5-4wqc-m92c, CVE-2023-25809, and moby's list: what the default profile hides.
#[test]
fn no_write_reaches_the_kernel_by_default() {
    let host = pod();
    let out = host.run("web/a", "", "/probe try-all write,/proc/sys/kernel/core_pattern write,/proc/sysrq-trigger \
        write,/proc/self/attr/exec mkdir,/sys/fs/cgroup/x write,/sys/kernel/uevent_helper write,/proc/irq/default_smp_affinity \
        mount,/mnt mknod,/dev/sda,8,0 read,/dev/mem read,/proc/kcore");
    let text = out.ok().text();
    for line in
        text.lines().filter(|line| !line.starts_with("mknod") && !line.contains("attr/exec") && !line.contains("kcore"))
    {
        assert!(!line.ends_with(": ok"), "{line}");
    }
    host.run("web/b", "", "sh -c 'mknod /tmp/disk b 254 0; /probe try read /tmp/disk'").prints("EPERM");
}

// A set-user-ID program in a container gains nothing with no_new_privs, and podrun never leaves one on the host.
#[test]
fn no_file_on_the_host_is_set_user_id() {
    let host = pod();
    host.start("web/a", "", "/probe sleep 60");
    host.program(format!("find {}/run {}/root -perm /6000", host.dir().display(), host.dir().display()))
        .run()
        .ok()
        .prints("");
}

// pitfalls.md, more: "rlimits above the host's hard limit make start fail": told with the numbers.
#[test]
fn a_limit_above_the_hosts_is_told_with_the_numbers() {
    let host = pod();
    let bundle = host.bundle(|config| {
        config["process"]["rlimits"] =
            json!([{ "type": "RLIMIT_NOFILE", "soft": 99_999_999_999_u64, "hard": 99_999_999_999_u64 }]);
    });
    host.podrun(format!("run web/a --bundle {bundle}")).fails(125).with_one_line().says("99999999999");
}

// CVE-2021-30465, CVE-2024-45310: a sibling with the same volume swaps a directory for a link, between look and use.
#[test]
fn directories_swapped_for_links_while_a_container_starts_lead_nowhere() {
    let host = pod();
    let dir = sentinel(&host);
    let source = host.fresh("volume");
    std::fs::create_dir(&source).unwrap();
    let rootfs = host.rootfs();
    // Out by an absolute way and by a relative one; in the root, either leads to a directory of the root's own.
    for (name, to) in
        [("up", format!("../../../../../../../../..{}", dir.display())), ("down", dir.display().to_string())]
    {
        let parent = rootfs.path().join(name);
        std::fs::create_dir_all(parent.join("v")).unwrap();
        std::os::unix::fs::symlink(to, parent.join("link")).unwrap();
    }
    let path = |name: &str| rootfs.path().join(name).display().to_string();
    let swapper = |name: &str| {
        host.program(format!(
            "{} swap {} {}",
            host.probe().display(),
            path(&format!("{name}/v")),
            path(&format!("{name}/link"))
        ))
        .limit(std::time::Duration::from_secs(3600))
        .start()
    };
    let swappers = [swapper("up"), swapper("down")];
    let mut born = 0;
    for round in 0..many(24, 1000) {
        let name = ["up", "down"][round % 2];
        let volume = format!("-v {}:/{name}/v/deep/a", source.display());
        let script = format!("sh -c 'echo > here; echo > /{name}/v/deep/a/there'");
        let line = format!("run web/r{round} --rm {volume} -w /{name}/v/work --rootfs {rootfs} -- {script}");
        let told = host.podrun(line);
        // It starts, or its program or podrun says that the way was not there just then.
        assert!([0, 1, 2, 125].contains(&told.code()), "{told:?}");
        born += usize::from(told.code() == 0);
        untouched(&dir, &told);
    }
    assert!(born > 0, "none was ever born, so nothing was tried");
    for mut one in swappers {
        assert!(!one.has_ended(), "{}", one.stderr());
    }
}

// CVE-2025-52881: what is written to a file of procfs is written to one of procfs, whatever a sibling has mounted.
#[test]
fn a_file_of_procfs_that_was_mounted_over_is_not_written() {
    let host = pod();
    let files =
        "oom_score_adj attr/exec attr/apparmor/exec loginuid uid_map gid_map setgroups coredump_filter timerslack_ns";
    let lie = format!(
        "mount -t tmpfs lie /proc; mkdir -p /proc/self/attr/apparmor /proc/self/fd /proc/thread-self /proc/sys/net/ipv4; \
         for f in {files}; do echo untouched > /proc/self/$f; done; echo untouched > /proc/sys/net/ipv4/ip_forward; \
         cp -r /proc/self/. /proc/thread-self; cp -r /proc/self /proc/1; echo mounted; sleep 600"
    );
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", lie]);
        config["process"]["oomScoreAdj"] = json!(321);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
        }
        config["linux"]["readonlyPaths"] = json!([]);
        config["linux"]["maskedPaths"] = json!([]);
    });
    host.podrun(format!("run web/liar -d --bundle {bundle}")).ok();
    podrun_tests::eventually("the lie is mounted", std::time::Duration::from_secs(5), || {
        host.podrun("logs web/liar").text().contains("mounted").then_some(())
    });
    let mut exec = host.command("exec web/liar -- sh -c 'echo here; sleep 2'").start();
    exec.until_it_prints("here");
    let pid = exec_pid(&host, "sleep 2");
    assert_eq!(host.read(format!("/proc/{pid}/oom_score_adj")).trim(), "321", "the score went elsewhere");
    exec.wait().ok();
    let said = host.podrun("exec web/liar -- sh -c 'cat $(/bin/busybox find /proc -type f)'").ok().text();
    assert!(said.lines().count() > 20 && said.lines().all(|line| line == "untouched"), "{said}");
    // A neighbour is born and lives beside it.
    host.run("web/other", "", "cat /proc/self/oom_score_adj").ok();
    // An image cannot have it so from the beginning.
    let bundle =
        host.bundle(|config| config["mounts"][0] = json!({"destination": "/proc", "type": "tmpfs", "source": "lie"}));
    std::fs::create_dir_all(bundle.rootfs.path().join("proc/self")).unwrap();
    std::fs::write(bundle.rootfs.path().join("proc/self/oom_score_adj"), "untouched").unwrap();
    host.podrun(format!("run web/b --bundle {bundle}"));
    assert_eq!(bundle.rootfs.read("proc/self/oom_score_adj"), "untouched");
}

/// The number, as the fake host counts, of the process with this command line.
fn exec_pid(host: &Host, line: &str) -> String {
    let told = host.program(format!("pgrep -x -f '{line}'")).run().ok().text();
    told.split_whitespace().next().expect("pgrep found it").to_owned()
}

// core(5): a name without a slash is in the directory of the process, an absolute one below its root: both the container's.
#[test]
fn a_core_file_of_a_container_never_lands_on_the_host() {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap().trim().to_owned();
    if pattern.starts_with(['|', '@']) {
        podrun_tests::skip!("the host's core_pattern gives cores to a program of its own: {pattern}");
    }
    let host = pod();
    let places = ["/", "/tmp", "/root", "/dev/shm", "/var/crash", "/run"].map(PathBuf::from);
    let absolute = Path::new(&pattern).parent().filter(|parent| parent.is_absolute()).map(Path::to_owned);
    let places: Vec<PathBuf> =
        places.into_iter().chain([host.dir().to_owned(), host.run_root(), host.root()]).chain(absolute).collect();
    let cores = || -> Vec<PathBuf> {
        let files =
            places.iter().flat_map(|place| std::fs::read_dir(host.outside(place)).into_iter().flatten().flatten());
        let is_core = |name: &std::ffi::OsStr| name.to_string_lossy().contains("core");
        files.filter(|file| is_core(&file.file_name())).map(|file| file.path()).collect()
    };
    let before = cores();
    let rootfs = host.rootfs();
    std::fs::create_dir(rootfs.path().join("work")).unwrap();
    let bundle = host.bundle(|config| {
        config["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "hard": 1_000_000_000, "soft": 1_000_000_000}]);
        config["process"]["args"] = json!(["/probe", "fault"]);
        config["root"]["readonly"] = json!(false);
        config["process"]["cwd"] = json!("/work");
    });
    std::fs::create_dir_all(bundle.rootfs.path().join("work")).unwrap();
    host.podrun(format!("run web/a --bundle {bundle}")).fails(128 + libc::SIGILL);
    host.start("web/b", "-w /work", "/probe sleep 600");
    host.podrun("exec web/b -- sh -c 'ulimit -c unlimited 2>/dev/null; exec /probe fault'").fails(128 + libc::SIGILL);
    assert_eq!(cores(), before);
    if pattern == "core" {
        let left: Vec<_> = std::fs::read_dir(bundle.rootfs.path().join("work")).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "no core was made at all, so nothing was tried: {left:?}");
    }
}
