//! Everything a process can see of itself, as one JSON object. What cannot be read (no /proc) is null.

#![forbid(unsafe_code)]

use crate::{Act, say};
use podrun_tests::{Value, json, sys};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

pub(crate) fn print() -> Act {
    say(all())?;
    Ok(0)
}

fn all() -> Value {
    let status = pairs("/proc/self/status");
    json!({
        "argv": std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>(),
        "env": std::env::vars_os().map(|(k, v)| (text(&k), text(&v))).collect::<BTreeMap<_, _>>(),
        "envOrder": std::env::vars_os().map(|(k, _)| text(&k)).collect::<Vec<_>>(),
        "cwd": std::env::current_dir().ok(),
        "pid": std::process::id(),
        "ppid": nix::unistd::getppid().as_raw(),
        "session": nix::unistd::getsid(None).ok().map(nix::unistd::Pid::as_raw),
        "group": nix::unistd::getpgrp().as_raw(),
        "uids": numbers(status.get("Uid")),
        "gids": numbers(status.get("Gid")),
        "groups": numbers(status.get("Groups")),
        "umask": status.get("Umask"),
        "caps": capabilities(&status),
        "noNewPrivs": status.get("NoNewPrivs").and_then(|n| n.parse::<u8>().ok()),
        "seccomp": status.get("Seccomp").and_then(|n| n.parse::<u8>().ok()),
        "signals": signals(&status),
        "cpus": status.get("Cpus_allowed_list"),
        "rlimits": rlimits(),
        "namespaces": namespaces(),
        "hostname": nix::unistd::gethostname().ok().map(|name| text(&name)),
        "domainname": line("/proc/sys/kernel/domainname"),
        "mounts": mounts(),
        "fds": fds(),
        "dev": devices(),
        "root": list("/"),
        "cgroups": lines("/proc/self/cgroup"),
        "oomScoreAdj": line("/proc/self/oom_score_adj").and_then(|n| n.parse::<i32>().ok()),
        "nice": stat_field(18),
        "exe": fs::read_link("/proc/self/exe").ok(),
        "terminals": terminals(),
        "processes": processes(),
        "links": lines("/proc/self/net/dev").map(|all| links(&all)),
        "personality": line("/proc/self/personality"),
        "scheduling": { "policy": stat_field(40), "priority": stat_field(39), "nice": stat_field(18) },
        // ioprio_get(IOPRIO_WHO_PROCESS, 0)
        "ioPriority": sys::raw(libc::SYS_ioprio_get, [1, 0, 0, 0, 0, 0]).ok(),
        "memoryPolicy": line("/proc/self/numa_maps").and_then(|map| Some(map.split(' ').nth(1)?.to_owned())),
        // keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0)
        "sessionKeyring": sys::raw(libc::SYS_keyctl, [0, -3, 0, 0, 0, 0]).ok(),
        "machine": nix::sys::utsname::uname().ok().map(|name| text(name.machine())),
    })
}

fn text(name: &std::ffi::OsStr) -> String {
    name.to_string_lossy().into_owned()
}

fn lines(path: &str) -> Option<Vec<String>> {
    let bytes = fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
}

fn line(path: &str) -> Option<String> {
    lines(path)?.into_iter().next()
}

fn pairs(path: &str) -> BTreeMap<String, String> {
    let pair = |line: &String| line.split_once(':').map(|(key, value)| (key.to_owned(), value.trim().to_owned()));
    lines(path).unwrap_or_default().iter().filter_map(pair).collect()
}

fn numbers(words: Option<&String>) -> Option<Vec<u32>> {
    Some(words?.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}

const CAPABILITIES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE \
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE \
    SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL \
    SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";

fn capabilities(status: &BTreeMap<String, String>) -> Value {
    let set = |key: &str| {
        let bits = u64::from_str_radix(status.get(key)?, 16).ok()?;
        let names = CAPABILITIES.split_whitespace().enumerate();
        Some(names.filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, name)| format!("CAP_{name}")).collect::<Vec<_>>())
    };
    json!({
        "inheritable": set("CapInh"), "permitted": set("CapPrm"), "effective": set("CapEff"),
        "bounding": set("CapBnd"), "ambient": set("CapAmb"),
    })
}

/// Signal numbers, from the masks of /proc/self/status. SIGPIPE is not among the ignored: Rust's own start ignores it.
fn signals(status: &BTreeMap<String, String>) -> Value {
    let set = |key: &str| {
        let bits = u64::from_str_radix(status.get(key)?, 16).ok()?;
        Some((0..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| bit + 1).collect::<Vec<_>>())
    };
    json!({ "blocked": set("SigBlk"), "ignored": set("SigIgn").map(|all| all.into_iter().filter(|&n| n != libc::SIGPIPE).collect::<Vec<_>>()), "pending": set("ShdPnd") })
}

/// `nofile` → [soft, hard], as words: a number or `unlimited`.
fn rlimits() -> BTreeMap<&'static str, [String; 2]> {
    const NAMES: [(&str, &str); 16] = [
        ("Max cpu time", "cpu"),
        ("Max file size", "fsize"),
        ("Max data size", "data"),
        ("Max stack size", "stack"),
        ("Max core file size", "core"),
        ("Max resident set", "rss"),
        ("Max processes", "nproc"),
        ("Max open files", "nofile"),
        ("Max locked memory", "memlock"),
        ("Max address space", "as"),
        ("Max file locks", "locks"),
        ("Max pending signals", "sigpending"),
        ("Max msgqueue size", "msgqueue"),
        ("Max nice priority", "nice"),
        ("Max realtime priority", "rtprio"),
        ("Max realtime timeout", "rttime"),
    ];
    let table = lines("/proc/self/limits").unwrap_or_default();
    let limit = |line: &String| {
        let (long, short) = NAMES.iter().find(|(long, _)| line.starts_with(long))?;
        let mut words = line[long.len()..].split_whitespace().map(str::to_owned);
        Some((*short, [words.next()?, words.next()?]))
    };
    table.iter().filter_map(limit).collect()
}

fn namespaces() -> BTreeMap<String, String> {
    let link =
        |entry: fs::DirEntry| Some((text(&entry.file_name()), text(fs::read_link(entry.path()).ok()?.as_os_str())));
    fs::read_dir("/proc/self/ns").into_iter().flatten().flatten().filter_map(link).collect()
}

/// proc_pid_mountinfo(5).
fn mounts() -> Option<Vec<Value>> {
    let mount = |line: &String| {
        let words: Vec<&str> = line.split(' ').collect();
        let dash = words.iter().position(|&word| word == "-")?;
        Some(json!({
            "root": words.get(3)?, "at": words.get(4)?, "options": words.get(5)?.split(',').collect::<Vec<_>>(),
            "propagation": words[6..dash].to_vec(), "type": words.get(dash + 1)?, "source": words.get(dash + 2)?,
            "superOptions": words.get(dash + 3)?.split(',').collect::<Vec<_>>(),
        }))
    };
    Some(lines("/proc/self/mountinfo")?.iter().filter_map(mount).collect())
}

fn list(dir: &str) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| text(&e.file_name())).collect();
    names.sort();
    names
}

/// Open descriptors, without the one that reads the list.
fn fds() -> BTreeMap<String, String> {
    let target = |name: String| {
        let target = fs::read_link(format!("/proc/self/fd/{name}")).ok()?;
        Some((name, text(target.as_os_str())))
    };
    list("/proc/self/fd").into_iter().filter_map(target).filter(|(_, to)| !to.ends_with("/fd")).collect()
}

fn devices() -> BTreeMap<String, Value> {
    let of = |name: String| {
        let path = Path::new("/dev").join(&name);
        let meta = path.symlink_metadata().ok()?;
        let kind = match meta.file_type() {
            kind if kind.is_symlink() => "link",
            kind if kind.is_char_device() => "char",
            kind if kind.is_block_device() => "block",
            kind if kind.is_dir() => "dir",
            kind if kind.is_fifo() => "fifo",
            _ => "file",
        };
        let number = [libc::major(meta.rdev()), libc::minor(meta.rdev())];
        let target = fs::read_link(&path).ok();
        let mode = format!("{:04o}", meta.mode() & 0o7777);
        Some((
            name,
            json!({ "kind": kind, "number": number, "mode": mode, "uid": meta.uid(), "gid": meta.gid(), "target": target }),
        ))
    };
    list("/dev").into_iter().filter_map(of).collect()
}

/// proc_pid_stat(5): fields after the command's name, the state being number 2 (counted from 0, as they stand there).
fn stat_field(number: usize) -> Option<i64> {
    let stat = line("/proc/self/stat")?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(number - 2)?.parse().ok()
}

/// For each of the three standard descriptors: [rows, columns], or null when it is no terminal.
fn terminals() -> Vec<Option<(u16, u16)>> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()].map(|fd| sys::window_size(fd).ok()).to_vec()
}

fn processes() -> BTreeMap<String, String> {
    let pids = list("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    pids.filter_map(|pid| Some((pid.clone(), line(&format!("/proc/{pid}/comm"))?))).collect()
}

fn links(table: &[String]) -> Vec<String> {
    table.iter().skip(2).filter_map(|line| line.split(':').next()).map(|name| name.trim().to_owned()).collect()
}
