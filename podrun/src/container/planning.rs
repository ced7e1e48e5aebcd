//! From what was asked (spec) and what the host is (facts) to the plan. Pure but for two looks that are handed in: the
//! kind of a bind mount's source and the image's user files.

#![forbid(unsafe_code)]

use super::attributes;
use super::labels::{self, Labels, Module};
use super::listener;
use super::plan::{Access, CgroupNamespace, Entry, NewPrivileges, PidNamespace, Plan, Process, Rlimit, Stdio};
use crate::caps;
use crate::cgroup::{CgroupPlan, Layout, Reach};
use crate::error::{Error, Kind, Result};
use crate::net;
use crate::oci::{self, SECCOMP_ANNOTATION};
use crate::rootfs::{Device, Place, PointKind, devices, mounts};
use crate::seccomp;
use crate::spec::{ContainerSpec, Owner, Owners, SharePid};
use crate::sys::tty::Size;
use crate::text::Text;
use crate::user::{Files, User};
use oci_spec::runtime::{self, LinuxNamespace, LinuxNamespaceType, Spec};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::collections::hash_map;
use std::path::Path;

/// What of the host a plan depends on; probed once, when the pod is made, and kept in its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    pub cgroups: Layout,
    /// The capabilities that podrun itself has, hence can give.
    pub capabilities: u64,
    /// The (soft, hard) number of open files of the host's own PID 1, as far as podrun may have it: the monitor raises
    /// its own, which no container shall inherit.
    pub open_files: (u64, u64),
    /// What podrun was started with: a container's is never lower unless asked for.
    pub oom_score_adj: i32,
}

/// What of the pod and the image it depends on.
#[allow(missing_debug_implementations, reason = "it holds a closure")]
pub struct Facts<'a> {
    pub host: &'a Host,
    pub home: Home<'a>,
    pub cgroup: CgroupPlan,
    /// What the container is called where pods are not known.
    pub id: &'a str,
    pub users: &'a Files,
    pub kind_of: &'a dyn Fn(&Path) -> std::io::Result<PointKind>,
    /// Whether the host's kernel runs a security module.
    pub has_module: &'a dyn Fn(Module) -> bool,
}

/// Whose a container is.
#[derive(Debug, Clone, Copy)]
pub enum Home<'a> {
    /// A pod's, which decides on most namespaces; `files` is its directory with `hosts`, `hostname` and `resolv.conf`.
    Pod { share_pid: SharePid, owners: Owners, files: &'a Path },
    /// Nobody's but its maker's: all is as its document says (`podrun oci`).
    Alone,
}

impl Home<'_> {
    /// Whose the namespaces are that sysctls belong to.
    fn owners(&self, document: &Spec) -> Owners {
        let owner = |kind| match listed(document, kind) {
            Some(_) => Owner::Pod,
            None => Owner::Host,
        };
        match self {
            Self::Pod { owners, .. } => *owners,
            Self::Alone => Owners {
                net: owner(LinuxNamespaceType::Network),
                uts: owner(LinuxNamespaceType::Uts),
                ipc: owner(LinuxNamespaceType::Ipc),
            },
        }
    }
}

/// The plan of a container.
pub fn plan(spec: &ContainerSpec, facts: &Facts<'_>) -> Result<Plan> {
    let document = &spec.oci;
    let owners = facts.home.owners(document);
    let is_new = |kind| listed(document, kind).is_some_and(|one| one.path().is_none());
    let cgroup_namespace = match is_new(LinuxNamespaceType::Cgroup) {
        true => CgroupNamespace::New,
        false => CgroupNamespace::Host,
    };
    let own_users = listed(document, LinuxNamespaceType::User).is_some();
    let own_cgroups: Vec<_> =
        facts.cgroup.leaves.iter().map(|leaf| (leaf.tree.mount.clone(), facts.cgroup.directory(leaf))).collect();
    let linux = document.linux().as_ref();
    let label = linux.and_then(|linux| linux.mount_label().as_deref());
    let mount_label = Module::Selinux.label("linux.mountLabel", label, facts.has_module)?;
    let mount_facts = mounts::Facts {
        cgroups: &facts.host.cgroups,
        // In a user namespace the kernel mounts cgroup v2 alone.
        own_cgroup_namespace: cgroup_namespace == CgroupNamespace::New
            && (!own_users || facts.host.cgroups.v1.is_empty()),
        bundle: &spec.bundle,
        rootfs: &spec.rootfs,
        kind_of: facts.kind_of,
        own_cgroups: &own_cgroups,
        memory: match facts.home {
            Home::Pod { .. } => Some(owners.ipc),
            Home::Alone => None,
        },
        id_mappings: linux.and_then(|linux| Some((linux.uid_mappings().as_deref()?, linux.gid_mappings().as_deref()?))),
        label: mount_label.as_deref(),
    };
    let asked = document.mounts().as_deref().unwrap_or_default();
    let mut mounts = mounts::plan(asked, &mount_facts)?;
    if let Home::Pod { files, .. } = facts.home {
        mounts.extend(mounts::plan(&pod_files(asked, files)?, &mount_facts)?);
    }
    let propagation = propagation(linux.and_then(|linux| linux.rootfs_propagation().as_deref()))?;
    let has_devpts = asked.iter().any(|mount| mount.typ().as_deref() == Some("devpts"));
    let mut devices = devices::plan(linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default())?;
    if own_users || facts.host.cgroups.reach != Reach::Everything {
        // In a user namespace mknod(2) makes no device that could be opened; the host's own can be bound. A FIFO is none.
        let is_device = |device: &&mut Device| device.mode & libc::S_IFMT != libc::S_IFIFO;
        mounts.extend(
            devices.extract_if(.., |device| is_device(&device)).map(devices::bound).collect::<Result<Vec<_>>>()?,
        );
    }
    let sealed = mounts::seal_later(&mut mounts);
    Ok(Plan {
        rootfs: Text::new("the rootfs", spec.rootfs.to_string_lossy())?,
        entry: Entry::Pivot,
        host_views: Vec::new(),
        rootfs_access: match document.root().as_ref().and_then(|root| root.readonly()) {
            Some(true) => Access::ReadOnly,
            _ => Access::ReadWrite,
        },
        host_propagation: propagation.0,
        root_propagation: propagation.1,
        pid: match facts.home {
            // The pod's word first; then the document's, where no `pid` means the host's (config-linux.md, "Namespaces").
            Home::Pod { share_pid: SharePid::Pod, .. } => PidNamespace::Pod,
            _ if is_new(LinuxNamespaceType::Pid) => PidNamespace::Private,
            _ => PidNamespace::Host,
        },
        cgroup_namespace,
        cgroup: facts.cgroup.clone(),
        mounts,
        devices,
        links: devices::links(has_devpts)?,
        masked: paths("linux.maskedPaths", linux.and_then(|linux| linux.masked_paths().as_deref()))?,
        read_only: [
            paths("linux.readonlyPaths", linux.and_then(|linux| linux.readonly_paths().as_deref()))?,
            mounts::read_only_cgroups(asked, &mount_facts)?,
        ]
        .concat(),
        sealed,
        sysctl: linux.map_or(Ok(Vec::new()), |linux| sysctls(linux, owners))?,
        net_devices: net::devices::plan(linux.and_then(|linux| linux.net_devices().as_ref()), owners.net)?,
        domain_name: domain_name(document.domainname().as_deref(), owners)?,
        process: {
            let planned = plan_first(document, spec.user.as_deref(), facts)?;
            let listener = listener::plan(document, planned.seccomp.as_ref(), &spec.bundle, facts.id)?;
            Process { listener, ..planned }
        },
    })
}

/// A namespace that the document asks for, new or by its path.
pub fn listed(document: &Spec, kind: LinuxNamespaceType) -> Option<&LinuxNamespace> {
    let list = document.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    list.and_then(|list| list.iter().find(|namespace| namespace.typ() == kind))
}

/// Like the sysctl kernel.domainname: of the UTS namespace, which in a pod all containers share. The host's is not a container's.
fn domain_name(asked: Option<&str>, owners: Owners) -> Result<Option<Text>> {
    let Some(name) = asked.filter(|name| !name.is_empty()) else { return Ok(None) };
    let fail = |cause: &str| Error::new(Kind::Invalid, format!("read domainname {name:?}"), cause);
    // setdomainname(2): __NEW_UTS_LEN.
    if name.len() > 64 || name.chars().any(char::is_control) {
        return Err(fail("expected at most 64 bytes and no control character"));
    }
    match owners.uts {
        Owner::Pod => Text::new("domainname", name).map(Some),
        Owner::Host => Err(fail("the pod has no UTS namespace of its own").hint("it would change the host's")),
    }
}

/// What the mount table of the host and of the container do to each other: (of `/` before, of `/` after).
fn propagation(word: Option<&str>) -> Result<(u64, u64)> {
    let (slave, private) = (libc::MS_SLAVE | libc::MS_REC, libc::MS_PRIVATE | libc::MS_REC);
    match word {
        None | Some("" | "slave" | "rslave") => Ok((slave, 0)),
        // Not once more afterwards: a mount that asks for another keeps it.
        Some("private" | "rprivate") => Ok((private, 0)),
        Some("shared") => Ok((slave, libc::MS_SHARED)),
        Some("rshared") => Ok((slave, libc::MS_SHARED | libc::MS_REC)),
        Some("unbindable") => Ok((slave, libc::MS_UNBINDABLE)),
        Some("runbindable") => Ok((slave, libc::MS_UNBINDABLE | libc::MS_REC)),
        Some(other) => {
            Err(Error::new(Kind::Invalid, "read linux.rootfsPropagation", format!("{other:?} is no propagation")))
        }
    }
}

/// /etc/hosts, /etc/hostname and /etc/resolv.conf, made by podrun from data; what the bundle mounts there itself stays.
fn pod_files(asked: &[runtime::Mount], files: &Path) -> Result<Vec<runtime::Mount>> {
    let taken = |path: &str| asked.iter().any(|mount| *mount.destination() == *Path::new(path));
    ["hosts", "hostname", "resolv.conf"]
        .into_iter()
        .filter(|name| !taken(&format!("/etc/{name}")))
        .map(|name| {
            let mut mount = runtime::Mount::default();
            mount.set_destination(format!("/etc/{name}").into());
            mount.set_source(Some(files.join(name)));
            // Read-only: one member must not write into another's files, nor fill the host's memory (CVE-2020-8557).
            mount.set_options(Some(["bind", "ro", "nosuid", "nodev", "noexec"].map(str::to_owned).to_vec()));
            Ok(mount)
        })
        .collect()
}

fn paths(what: &str, list: Option<&[String]>) -> Result<Vec<Text>> {
    list.unwrap_or_default()
        .iter()
        .map(|path| match path.starts_with('/') {
            true => {
                let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
                Text::new(what, format!("/{}", parts.join("/")))
            }
            false => Err(Error::new(Kind::Invalid, format!("read {what} {path:?}"), "not an absolute path")),
        })
        .collect()
}

fn sysctls(linux: &runtime::Linux, owners: Owners) -> Result<Vec<(Text, Text)>> {
    linux.sysctl().iter().flatten().map(|(key, value)| sysctl("linux.sysctl", key, value, owners)).collect()
}

/// A sysctl that belongs to the pod's own namespaces (pitfalls: nothing else may be set from a pod). The name is exact and the
/// value one line, so that it sets nothing besides (CVE-2022-0811).
pub fn sysctl(what: &str, key: &str, value: &str, owners: Owners) -> Result<(Text, Text)> {
    const ALLOWED: [&str; 9] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.domainname",
    ];
    let fail = |cause: &str| Error::new(Kind::Invalid, format!("read {what} {key:?}"), cause);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    if key.is_empty()
        || !key.chars().all(plain)
        || key.contains("..")
        || key.contains("//")
        || key.starts_with(['.', '/'])
    {
        return Err(fail("not the name of a sysctl"));
    }
    if value.chars().any(char::is_control) || value.contains('+') {
        return Err(fail("the value holds a control character or '+'"));
    }
    // Both spellings of sysctl(8): the first separator tells which one is meant.
    let path = match key.find(['.', '/']).map(|at| &key[at..=at]) {
        Some("/") => key.to_owned(),
        _ => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
    };
    let dotted = path.replace('/', ".");
    if !ALLOWED.contains(&dotted.as_str()) && !path.starts_with("net/") && !path.starts_with("fs/mqueue/") {
        return Err(fail("it belongs to no namespace of a pod")
            .hint("net.*, fs.mqueue.*, kernel.shm*, kernel.msg* and kernel.sem do"));
    }
    let owner = match dotted.as_str() {
        "kernel.domainname" => owners.uts,
        _ if path.starts_with("net/") => owners.net,
        _ => owners.ipc,
    };
    if owner == Owner::Host {
        return Err(
            fail("the pod has no namespace of its own for it").hint("it would change the host's, or another pod's")
        );
    }
    Ok((Text::new(what, format!("/proc/sys/{path}"))?, Text::new(what, value)?))
}

/// The program of a document: for a container's first process.
fn plan_first(document: &Spec, user: Option<&str>, facts: &Facts<'_>) -> Result<Process> {
    let Some(process) = document.process() else {
        return match facts.home {
            Home::Pod { .. } => {
                Err(Error::new(Kind::Invalid, "read process", "missing: a container of a pod runs a program"))
            }
            Home::Alone => nothing_to_run(),
        };
    };
    let user = match user {
        Some(text) => facts.users.find(text)?,
        None => document_user(process.user()),
    };
    let capabilities = match asks_for_defaults(document) {
        // A document of podrun's own: the user decides, as execve(2) would.
        true => caps::sets(bounding(process) & facts.host.capabilities, user.uid),
        false => caps::from_oci(process.capabilities().as_ref(), facts.host.capabilities)?,
    };
    let seccomp = filter(document, capabilities.bounding)?;
    let score = match (process.oom_score_adj(), facts.home) {
        // config.md: "If oomScoreAdj is not set, the runtime MUST NOT change the value".
        (None, Home::Alone) => None,
        (asked, _) => Some(oom_score_adj(asked, facts.host)?),
    };
    let rights = Rights { capabilities, seccomp, oom_score_adj: score };
    Ok(Process {
        labels: labels::plan(process, facts.has_module)?,
        attributes: attributes::plan(process, document.linux().as_ref())?,
        ..plan_process(process, user, rights, facts.users, facts.host)?
    })
}

/// A document without `process` can be created, and never started (config.md, "Process").
fn nothing_to_run() -> Result<Process> {
    Ok(Process {
        argv: Vec::new(),
        env: Vec::new(),
        programs: Vec::new(),
        cwd: Place::new("the working directory", "/", PointKind::Directory)?,
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        umask: 0o022,
        capabilities: caps::CapabilitySets::default(),
        new_privileges: NewPrivileges::Never,
        rlimits: Vec::new(),
        oom_score_adj: None,
        seccomp: None,
        stdio: Stdio::Pipes,
        attributes: attributes::Attributes::default(),
        labels: Labels::default(),
        listener: None,
    })
}

/// What a process may do, decided.
struct Rights {
    capabilities: caps::CapabilitySets,
    seccomp: Option<seccomp::Program>,
    oom_score_adj: Option<Text>,
}

fn plan_process(process: &runtime::Process, user: User, rights: Rights, users: &Files, host: &Host) -> Result<Process> {
    let args = process.args().clone().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::new(Kind::Invalid, "read process.args", "missing: what shall run?"));
    }
    let asked = process.env().as_deref().unwrap_or_default();
    check_variables("process.env", asked)?;
    let env = environment(merge(std::iter::empty(), asked), &user, users, process.terminal().unwrap_or(false));
    Ok(Process {
        programs: candidates(&args[0], &env)?,
        argv: texts("process.args", &args)?,
        env: texts("process.env", &env)?,
        cwd: working_directory("process.cwd", &process.cwd().to_string_lossy())?,
        uid: user.uid,
        gid: user.gid,
        groups: user.groups,
        umask: process.user().umask().unwrap_or(0o022) & 0o7777,
        capabilities: rights.capabilities,
        new_privileges: match process.no_new_privileges() {
            Some(true) => NewPrivileges::Never,
            _ => NewPrivileges::Allowed,
        },
        rlimits: rlimits(process.rlimits().as_deref().unwrap_or_default(), host)?,
        oom_score_adj: rights.oom_score_adj,
        seccomp: rights.seccomp,
        stdio: stdio(process),
        attributes: attributes::Attributes::default(),
        labels: Labels::default(),
        listener: None,
    })
}

/// The program of a `process` object that is to join a container, whose filter it gets (runc's `exec --process`).
pub fn plan_joining(container: &Process, process: &runtime::Process, users: &Files, host: &Host) -> Result<Process> {
    let rights = Rights {
        capabilities: caps::from_oci(process.capabilities().as_ref(), host.capabilities)?,
        seccomp: container.seccomp.clone(),
        oom_score_adj: process.oom_score_adj().map(|score| oom_score_adj(Some(score), host)).transpose()?,
    };
    let (kept, asked) = (&container.attributes, attributes::plan(process, None)?);
    Ok(Process {
        labels: labels::plan(process, &Module::is_here)?,
        // No words of a `process`: they are the container's, for all that runs in it.
        attributes: attributes::Attributes {
            keyring: kept.keyring,
            personality: kept.personality,
            memory: kept.memory.clone(),
            ..asked
        },
        listener: container.listener.clone(),
        ..plan_process(process, document_user(process.user()), rights, users, host)?
    })
}

fn document_user(user: &runtime::User) -> User {
    let groups = user.additional_gids().clone().unwrap_or_default();
    User { uid: user.uid(), gid: user.gid(), groups, home: None }
}

fn bounding(process: &runtime::Process) -> u64 {
    let sets = process.capabilities().as_ref();
    caps::from_oci(sets, u64::MAX).map_or(0, |sets| sets.bounding)
}

fn asks_for_defaults(document: &Spec) -> bool {
    annotation(document, SECCOMP_ANNOTATION).is_some()
}

fn annotation<'a>(document: &'a Spec, key: &str) -> Option<&'a str> {
    document.annotations().as_ref()?.get(key).map(String::as_str)
}

/// environ(7).
fn check_variables(what: &str, list: &[String]) -> Result<()> {
    let is_variable = |text: &str| text.find('=').is_some_and(|at| at > 0);
    match list.iter().enumerate().find(|(_, one)| !is_variable(one)) {
        Some((index, one)) => {
            Err(Error::new(Kind::Invalid, format!("read {what}[{index}] {one:?}"), "expected NAME=VALUE"))
        }
        None => Ok(()),
    }
}

/// HOME from the image's passwd, TERM for a terminal: as docker and runc add them where they are missing, or HOME is empty.
fn environment(mut env: Vec<String>, user: &User, users: &Files, terminal: bool) -> Vec<String> {
    env.retain(|one| one != "HOME=");
    let has = |env: &[String], key: &str| env.iter().any(|one| one.split('=').next() == Some(key));
    if !has(&env, "HOME") {
        let home = user.home.clone().or_else(|| users.home(user.uid).map(str::to_owned));
        env.push(format!("HOME={}", home.unwrap_or_else(|| "/".to_owned())));
    }
    if terminal && !has(&env, "TERM") {
        env.push("TERM=xterm".to_owned());
    }
    env
}

/// Where execvp(3) would look.
fn candidates(program: &str, env: &[String]) -> Result<Vec<Text>> {
    if program.contains('/') {
        return Ok(vec![Text::new("the program", program)?]);
    }
    let default = oci::defaults::PATH.trim_start_matches("PATH=");
    let path = env.iter().rev().find_map(|one| one.strip_prefix("PATH=")).unwrap_or(default);
    path.split(':')
        .map(|dir| match dir {
            "" => Text::new("the program", format!("./{program}")),
            dir => Text::new("the program", format!("{dir}/{program}")),
        })
        .collect()
}

fn texts(what: &str, list: &[String]) -> Result<Vec<Text>> {
    list.iter().enumerate().map(|(index, one)| Text::new(&format!("{what}[{index}]"), one.as_str())).collect()
}

fn working_directory(what: &str, path: &str) -> Result<Place> {
    if !path.starts_with('/') {
        return Err(Error::new(Kind::Invalid, format!("read {what} {path:?}"), "not an absolute path"));
    }
    Place::new(what, path, PointKind::Directory)
}

fn rlimits(asked: &[runtime::PosixRlimit], host: &Host) -> Result<Vec<Rlimit>> {
    let mut limits: Vec<Rlimit> = Vec::with_capacity(asked.len());
    for (index, one) in asked.iter().enumerate() {
        let fail = |cause: &str| Error::new(Kind::Invalid, format!("read process.rlimits[{index}]"), cause);
        let resource = oci::rlimit_number(one.typ()).ok_or_else(|| fail("no such resource"))?;
        // config.md: "If rlimits contains duplicated entries with same type, the runtime MUST generate an error."
        if limits.iter().any(|limit| limit.resource == resource) {
            return Err(fail("the same type twice"));
        }
        if one.soft() > one.hard() {
            return Err(fail("soft is above hard"));
        }
        limits.push(Rlimit { resource, soft: one.soft(), hard: one.hard() });
    }
    if !limits.iter().any(|limit| limit.resource == libc::RLIMIT_NOFILE) {
        let (soft, hard) = host.open_files;
        limits.push(Rlimit { resource: libc::RLIMIT_NOFILE, soft, hard });
    }
    Ok(limits)
}

/// What is asked for, or what podrun itself was started with: never the monitor's own, which is lower.
fn oom_score_adj(asked: Option<i32>, host: &Host) -> Result<Text> {
    let score = asked.unwrap_or(host.oom_score_adj.max(0));
    match (-1000..=1000).contains(&score) {
        true => Text::new("process.oomScoreAdj", score.to_string()),
        false => {
            Err(Error::new(Kind::Invalid, "read process.oomScoreAdj", format!("{score} is not within -1000 and 1000")))
        }
    }
}

fn filter(document: &Spec, capabilities: u64) -> Result<Option<seccomp::Program>> {
    if let Some(profile) = document.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
        return seccomp::compile(profile, seccomp::native()?).map(Some);
    }
    match annotation(document, SECCOMP_ANNOTATION) {
        Some("default") => {
            let host = seccomp::native()?;
            let profile =
                seccomp::default_profile(caps::names(capabilities).into_iter().filter_map(caps::to_oci), host);
            seccomp::compile(&profile, host).map(Some)
        }
        _ => Ok(None),
    }
}

fn stdio(process: &runtime::Process) -> Stdio {
    if !process.terminal().unwrap_or(false) {
        return Stdio::Pipes;
    }
    let size = process.console_size().as_ref().and_then(|size| {
        let (rows, columns) = (u16::try_from(size.height()).ok()?, u16::try_from(size.width()).ok()?);
        (rows > 0 && columns > 0).then_some(Size { rows, columns })
    });
    Stdio::Terminal { size }
}

/// What an exec asks for; the rest is the container's own.
#[derive(Debug, Clone, Default)]
pub struct ExecRequest {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: Option<String>,
    pub user: Option<String>,
    pub terminal: Option<Option<Size>>,
    /// More capabilities than the container has.
    pub capabilities: u64,
}

/// The program of an exec: the container's process with other words, and its rights, or more.
pub fn plan_exec(container: &Process, request: &ExecRequest, users: &Files) -> Result<Process> {
    if request.args.first().is_none_or(String::is_empty) {
        return Err(Error::new(Kind::Usage, "exec", "no program was given"));
    }
    let user = match &request.user {
        Some(text) => users.find(text)?,
        None => User { uid: container.uid, gid: container.gid, groups: container.groups.clone(), home: None },
    };
    let inherited = container.env.iter().map(|one| one.lossy().into_owned()).filter(|one| {
        // Another user has another home.
        request.user.is_none() || !one.starts_with("HOME=")
    });
    check_variables("--env", &request.env)?;
    let env = merge(inherited, &request.env);
    let env = environment(env, &user, users, request.terminal.is_some());
    Ok(Process {
        programs: candidates(&request.args[0], &env)?,
        argv: texts("the argument", &request.args)?,
        env: texts("the variable", &env)?,
        cwd: match &request.cwd {
            Some(path) => working_directory("the working directory", path)?,
            None => container.cwd.clone(),
        },
        uid: user.uid,
        gid: user.gid,
        groups: user.groups,
        // Of these execve(2) leaves what its user may have.
        capabilities: container.capabilities.and(request.capabilities),
        stdio: request.terminal.map_or(Stdio::Pipes, |size| Stdio::Terminal { size }),
        ..container.clone()
    })
}

/// Later variables replace earlier ones of the same name: a program that finds one twice takes either.
pub fn merge(earlier: impl Iterator<Item = String>, later: &[String]) -> Vec<String> {
    let mut places = HashMap::new();
    let mut merged: Vec<String> = Vec::new();
    for one in earlier.chain(later.iter().cloned()) {
        let name = one.split('=').next().unwrap_or_default().to_owned();
        match places.entry(name) {
            hash_map::Entry::Occupied(place) => merged[*place.get()] = one,
            hash_map::Entry::Vacant(place) => {
                place.insert(merged.len());
                merged.push(one);
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    /// config.md, domainname: "as it is accessible to processes running inside".
    #[test]
    fn a_domain_name_is_the_pods_own() {
        let planned = |name: Option<&str>, uts| domain_name(name, Owners { uts, ..Owners::default() });
        let is = |name: &str| Some(Text::new("", name).unwrap());
        assert_eq!(planned(Some("a.example"), Owner::Pod).unwrap(), is("a.example"));
        assert_eq!(planned(Some(&"d".repeat(64)), Owner::Pod).unwrap(), is(&"d".repeat(64)));
        assert_eq!(planned(None, Owner::Host).unwrap(), None);
        assert_eq!(planned(Some(""), Owner::Host).unwrap(), None);
        for (name, owner) in [("a", Owner::Host), (&*"d".repeat(65), Owner::Pod), ("a\nb", Owner::Pod)] {
            assert!(planned(Some(name), owner).unwrap_err().to_string().starts_with("read domainname"), "{name}");
        }
    }

    /// CVE-2022-0811 (cr8escape): a value with '+' set other sysctls; and every other way to leave the namespaces.
    #[test]
    fn a_sysctl_of_a_namespace_that_is_not_the_pods_is_refused() {
        let keys = ["net.ipv4.ip_forward", "kernel.domainname", "kernel.shmmax", "fs.mqueue.msg_max"];
        let refused = |owners| keys.map(|key| sysctl("sysctl", key, "1", owners).is_err());
        let (host, pod) = (Owner::Host, Owner::Pod);
        assert_eq!(refused(Owners::default()), [false; 4]);
        assert_eq!(refused(Owners { net: host, uts: pod, ipc: pod }), [true, false, false, false]);
        assert_eq!(refused(Owners { net: pod, uts: host, ipc: pod }), [false, true, false, false]);
        assert_eq!(refused(Owners { net: pod, uts: pod, ipc: host }), [false, false, true, true]);
    }

    #[test]
    fn a_sysctl_is_of_the_pods_own_namespaces_and_sets_nothing_else() {
        let file =
            |key: &str| sysctl("sysctl", key, "1", Owners::default()).map(|(file, _)| file.lossy().into_owned()).ok();
        assert_eq!(file("net.ipv4.ip_forward").as_deref(), Some("/proc/sys/net/ipv4/ip_forward"));
        assert_eq!(
            file("net/ipv4/conf/eth0.1/forwarding").as_deref(),
            Some("/proc/sys/net/ipv4/conf/eth0.1/forwarding")
        );
        assert_eq!(file("kernel.shmmax").as_deref(), Some("/proc/sys/kernel/shmmax"));
        for bad in [
            "",
            "kernel.core_pattern",
            "net.ipv4/../../kernel/x",
            "net.ipv4.../kernel",
            "/net/ipv4",
            ".net.x",
            "net.a b",
            "net.a\n",
            "vm.swappiness",
            "kernel.shm",
            "kernel.shmmaxx",
            "network.x",
            "fs.file-max",
            "net//x",
        ] {
            assert_eq!(file(bad), None, "{bad:?}");
        }
        for bad in ["1+kernel.core_pattern=x", "1\nx", "1\0"] {
            assert!(sysctl("sysctl", "net.core.somaxconn", bad, Owners::default()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_program_is_looked_for_as_execvp_does() {
        let found = |program: &str, env: &[String]| -> Vec<String> {
            candidates(program, env).unwrap().iter().map(|text| text.lossy().into_owned()).collect()
        };
        assert_eq!(found("sh", &["PATH=/a:/b".into()]), ["/a/sh", "/b/sh"]);
        assert_eq!(found("./sh", &["PATH=/a".into()]), ["./sh"]);
        assert_eq!(found("sh", &[]).len(), 6);
    }

    #[test]
    fn later_variables_replace_earlier_ones() {
        let merged = merge(["A=1".to_owned(), "B=2".to_owned()].into_iter(), &["B=3".into(), "C=".into()]);
        assert_eq!(merged, ["A=1", "B=3", "C="]);
        assert_eq!(merge(std::iter::empty(), &["A=1".into(), "B=2".into(), "A=3".into()]), ["A=3", "B=2"]);
    }
}
