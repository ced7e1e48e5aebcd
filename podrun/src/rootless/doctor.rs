//! What `podrun doctor` tells a user who is not root: what this host does not let him have, and how to mend it.

#![forbid(unsafe_code)]

use super::ids::{self, Account, Range, Which};
use crate::cgroup::{Controller, Layout, Reach};
use crate::net::pasta;
use crate::programs;
use crate::roots::Login;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// One thing that was looked at; `state` is doctor's word for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub what: &'static str,
    pub state: &'static str,
    pub said: String,
    pub cure: Option<String>,
}

fn found(what: &'static str, state: &'static str, said: impl Into<String>, cure: Option<String>) -> Found {
    Found { what, state, said: said.into(), cure }
}

/// Before the user's namespace is entered, since it may be that which fails.
pub fn findings(login: &Login) -> Vec<Found> {
    let name = Account::of(login.uid).map(|account| account.name);
    let mut all = user_namespaces();
    all.extend(helpers());
    for which in Which::BOTH {
        let text = fs::read_to_string(which.file()).unwrap_or_default();
        all.extend(range(which, &ids::ranges(&text), name.as_deref(), login.uid));
    }
    all.extend(way_out());
    all.extend(runtime_directory(login));
    all.extend(cgroups());
    all.extend(service_manager(login, name.as_deref()));
    all.extend(lingering(name.as_deref()));
    if all.is_empty() { vec![found("rootless", "ok", "this user has all that pods need", None)] } else { all }
}

/// What the kernel, or somebody else's directory, said to the attempt.
pub fn not_entered(err: &crate::error::Error) -> Found {
    let said = format!("{}: {}", err.what_was_being_done(), err.cause());
    found("rootless", "wrong", said, err.cure().map(str::to_owned))
}

/// Settings by which a host keeps users from making a user namespace, each with the value that does.
const SETTINGS: [(&str, &str, &str); 3] = [
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or give podrun a profile with `userns,`",
    ),
];

fn user_namespaces() -> Vec<Found> {
    let is = |file: &str, value: &str| fs::read_to_string(file).is_ok_and(|text| text.trim() == value);
    let bad = SETTINGS.iter().filter(|(file, value, _)| is(file, value));
    bad.map(|(file, value, cure)| {
        found(
            "user namespaces",
            "wrong",
            format!("{file} is {value}: no user may make one"),
            Some(format!("as root: {cure}")),
        )
    })
    .collect()
}

fn helpers() -> Vec<Found> {
    let look = |which: Which| {
        let helper = which.helper();
        let cure = |what: &str| Some(format!("as root: {what}"));
        let Some(path) = programs::anywhere(helper) else {
            return Some(found(
                "ids",
                "wrong",
                format!("{helper} is not installed: containers have the one id 0"),
                cure("install the package uidmap, or shadow-utils"),
            ));
        };
        // By its mode, or by a capability of the file (capabilities(7)).
        let is_setuid = fs::metadata(&path).is_ok_and(|found| found.permissions().mode() & 0o4000 != 0);
        (!is_setuid && !has_file_capabilities(&path)).then(|| {
            found(
                "ids",
                "wrong",
                format!("{} has lost its setuid bit", path.display()),
                cure(&format!("chmod u+s {}", path.display())),
            )
        })
    };
    Which::BOTH.into_iter().filter_map(look).collect()
}

fn has_file_capabilities(path: &Path) -> bool {
    crate::sys::fd::has_attribute(path, c"security.capability")
}

/// As many as an image may have: those of all of Debian's and Alpine's users, and nobody's, 65534.
const ENOUGH: u64 = 65_536;

/// Pure: what is wrong with the user's part of one file.
fn range(which: Which, all: &[Range], name: Option<&str>, uid: u32) -> Vec<Found> {
    let who = name.map_or_else(|| uid.to_string(), str::to_owned);
    let is_own = |range: &&Range| range.is_of(name.unwrap_or_default(), uid);
    let own: Vec<&Range> = all.iter().filter(is_own).collect();
    let file = which.file();
    let flag = if which == Which::User { "--add-subuids" } else { "--add-subgids" };
    let add = || {
        let free = all.iter().map(Range::end).max().unwrap_or(0).max(100_000);
        Some(format!(
            "as root: usermod {flag} {free}-{} {who}; then `podrun delete` the user's pods once",
            free + ENOUGH - 1
        ))
    };
    if own.is_empty() {
        return vec![found(
            "ids",
            "wrong",
            format!("{file} has no range for {who}: containers have the one id 0"),
            add(),
        )];
    }
    let mut wrong = Vec::new();
    let count: u64 = own.iter().map(|range| u64::from(range.count)).sum();
    if count < ENOUGH {
        wrong.push(found(
            "ids",
            "info",
            format!("{file} has {count} ids for {who}, where images may use {ENOUGH}"),
            add(),
        ));
    }
    let others = all.iter().filter(|range| !is_own(range));
    let clash =
        others.flat_map(|other| own.iter().map(move |own| (*own, other))).find(|(own, other)| own.overlaps(other));
    if let Some((own, other)) = clash {
        let said = format!(
            "{file} gives ids of {who}'s range from {} to {}, too: they may reach each other's files",
            own.first, other.whose
        );
        wrong.push(found("ids", "wrong", said, Some(format!("as root: edit {file}, so that no two ranges overlap"))));
    }
    if let Some(low) = own.iter().find(|range| range.first <= u32::from(u16::MAX)) {
        let said = format!("{file} gives {who} ids from {} on, which are those of users of this host", low.first);
        wrong.push(found("ids", "wrong", said, add()));
    }
    wrong
}

fn way_out() -> Vec<Found> {
    let mut wrong = Vec::new();
    if pasta::program().is_none() {
        let said = "pasta is not installed: pods have --network none or host";
        wrong.push(found("network", "wrong", said, Some("as root: install the package passt".into())));
    }
    if let Err(err) = fs::OpenOptions::new().read(true).write(true).open(pasta::TUN) {
        let said = format!("{} cannot be opened: {}", pasta::TUN, crate::error::plain(&err));
        wrong.push(found("network", "wrong", said, Some(pasta::tun_cure())));
    }
    wrong
}

fn runtime_directory(login: &Login) -> Option<Found> {
    if login.runtime.is_some() || login.has_run_user {
        return None;
    }
    let said = format!(
        "XDG_RUNTIME_DIR is not set, and there is no /run/user/{0}: pods are kept below /tmp/podrun-{0}",
        login.uid
    );
    Some(found(
        "login",
        "info",
        said,
        Some("log in by pam_systemd or elogind, or set XDG_RUNTIME_DIR to a directory of your own on a tmpfs".into()),
    ))
}

/// What limits need.
const WANTED: [Controller; 3] = [Controller::Memory, Controller::Pids, Controller::Cpu];

fn cgroups() -> Option<Found> {
    const DELEGATE: &str = "as root: a file /etc/systemd/system/user@.service.d/delegate.conf with the lines [Service] and \
                            Delegate=cpu cpuset io memory pids; then systemctl daemon-reload, and a new login";
    let layout = Layout::detect().ok()?;
    let missing = match (layout.reach, &layout.v2) {
        (Reach::Delegated, Some(tree)) => {
            let missing: Vec<String> =
                WANTED.iter().filter(|one| !tree.controllers.contains(one)).map(ToString::to_string).collect();
            if missing.is_empty() {
                return None;
            }
            format!("delegated to this user without {}: limits of those are refused", missing.join(", "))
        }
        (_, None) => "this host has cgroup v1 only, which nobody can delegate: limits are refused".to_owned(),
        _ => "none was delegated to this user: limits are refused, and so is pausing".to_owned(),
    };
    let cure = match Path::new("/run/systemd/system").exists() {
        true => DELEGATE.to_owned(),
        false => "as root: make a cgroup2 directory with cgroup.procs and cgroup.subtree_control that are this user's, and start his shell in it".to_owned(),
    };
    Some(found("cgroups", "info", missing, Some(cure)))
}

/// Where systemd runs, a user's own is what makes scopes for him.
fn service_manager(login: &Login, name: Option<&str>) -> Option<Found> {
    if !Path::new("/run/systemd/system").exists() || super::delegation::manager(login).is_some() {
        return None;
    }
    let said = "none of this user's runs: `podrun oci --systemd-cgroup`, as podman asks for it, is refused";
    let who = name.map_or_else(|| login.uid.to_string(), str::to_owned);
    let cure = format!("log in by pam_systemd, or as root: loginctl enable-linger {who}");
    Some(found("service manager", "info", said, Some(cure)))
}

/// logind ends a user's processes with his last session, unless he lingers (loginctl(1)).
fn lingering(name: Option<&str>) -> Option<Found> {
    let name = name.filter(|_| Path::new("/run/systemd/system").exists())?;
    let lingers = Path::new("/var/lib/systemd/linger").join(name).exists();
    let said = "pods end with this user's last session, as logind ends what does not linger";
    (!lingers).then(|| found("login", "info", said, Some(format!("loginctl enable-linger {name}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_looked_at_for_what_may_be_wrong_with_it() {
        let look = |text: &str| {
            let all = range(Which::User, &ids::ranges(text), Some("alice"), 1000);
            all.into_iter().map(|one| format!("{} {}", one.state, one.said)).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(look("alice:100000:65536\nbob:165536:65536\n"), "");
        assert_eq!(look("1000:100000:65536\n"), "");
        assert!(look("bob:100000:65536\n").contains("wrong /etc/subuid has no range for alice"));
        assert!(look("alice:100000:1000\n").contains("info /etc/subuid has 1000 ids for alice"));
        assert!(look("alice:100000:65536\nbob:165535:9\n").contains("too: they may reach each other's files"));
        assert!(look("alice:1000:65536\n").contains("from 1000 on, which are those of users of this host"));
        let cure = range(Which::Group, &ids::ranges("bob:100000:65536\n"), Some("alice"), 1000)[0].cure.clone();
        assert!(cure.unwrap().contains("usermod --add-subgids 165536-231071 alice"));
    }
}
