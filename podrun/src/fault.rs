//! Named points at which a test may have a process die, as by `kill -9`: how a crash at that very step is tried.
//!
//! Who shall die where is said by the environment, `PODRUN_FAULT=point`, to a command; to a monitor and its pump, which
//! have no environment, by the file `fault` in the run-root: one point a line, each in its turn, so that a successor may be
//! told to die as well. A command may also be told to stop there, as by SIGSTOP (`stop:point`), and, where it can say so, to
//! fail (`fail:point`). Only builds with debug assertions listen; in others a point is nothing at all.

#![forbid(unsafe_code)]

use std::path::Path;

/// All of them. The first word says what was going on.
#[rustfmt::skip]
pub const POINTS: &[&str] = &[
    // A command makes a pod.
    "create-pod.directory", "create-pod.locked", "create-pod.named", "create-pod.chosen", "create-pod.claimed", "create-pod.cgroup", "create-pod.own-cgroup",
    "create-pod.pause-staged", "create-pod.pause-ready", "create-pod.pause-waits", "create-pod.stored",
    "create-pod.pause-runs", "create-pod.bridged", "create-pod.opened-outside", "create-pod.leased", "create-pod.linked", "create-pod.published", "create-pod.attached", "create-pod.files",
    "create-pod.volumes", "create-pod.recorded",
    // A command removes one.
    "delete-pod.locked", "delete-pod.stopped", "delete-pod.ports", "delete-pod.network", "delete-pod.processes", "delete-pod.cgroups",
    "delete-pod.volumes", "delete-pod.logs", "delete-pod.name", "delete-pod.record", "delete-pod.directory",
    // A command asks CNI plugins.
    "cni.noted", "cni.added", "cni.kept", "cni.removed",
    // A command connects one to a network, or takes it off.
    "network.connected", "network.ports-moved", "network.disconnected", "network.recorded",
    // A command changes a pod's ports.
    "update.closed", "update.claimed", "update.opened",
    // Whoever has the firewall follow the services.
    "service.noted", "service.applied",
    // A command changes the peers of an overlay.
    "peers.written",
    // Somebody starts a network's name server.
    "names.claimed", "names.started",
    // A command asks the monitor for something.
    "command.asked", "command.log-made", "heal.locked", "heal.cloned", "heal.child", "upgrade.asked",
    // The monitor makes a container, or its next run.
    "birth.plan-kept", "birth.memory-kept", "birth.cgroup", "birth.cloned", "birth.guarded", "birth.kept", "birth.recorded",
    "birth.piped", "birth.opened", "birth.listener",
    "birth.terminal", "birth.failed", "birth.became", "birth.told", "record.staged", "record.replaced",
    "start.kept", "start.recorded", "start.opened",
    // A run ends.
    "end.seen", "end.killed", "end.asked", "end.drained", "end.recorded", "end.reaped", "end.discarded", "end.told",
    "restart.recorded", "restart.numbered", "erase.logs", "erase.plan", "erase.record",
    // A command makes, starts or removes a container that is in no pod.
    "oci.directory", "oci.cgroup", "oci.cloned", "oci.recorded", "oci.furnished", "oci.ready", "oci.opened", "oci.emptied",
    // Verbs on one that runs.
    "stop.recorded", "stop.signalled", "stop.killed", "freeze.frozen", "freeze.recorded", "thaw.thawed",
    "exec.cloned", "exec.kept", "exec.opened", "exec.became", "exec.over", "exec.told", "exec.reaped",
    // Those who keep the pod alive.
    "pump.forked", "pump.kept", "pump.told", "pump.born", "pump.taken", "pump.noted", "pump.written", "pump.moved",
    "pump.finished", "pause.gone", "pause.waits", "pause.recorded", "pause.runs", "init.waits", "init.kept",
    "upgrade.kept", "upgrade.told", "upgrade.newer",
    // A successor comes up.
    "recover.put-back", "recover.read", "recover.home", "recover.container", "recover.pump", "recover.execs",
    "recover.recorded",
];

/// Dies here, if that is what is wished.
#[inline(always)]
pub fn point(name: &str) {
    #[cfg(debug_assertions)]
    wishes::pass(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

/// A point at which a step may fail as well, as on a full disk.
#[inline(always)]
pub fn step(name: &str) -> std::io::Result<()> {
    point(name);
    #[cfg(debug_assertions)]
    if wishes::has("fail", name) {
        return Err(std::io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

/// From now on wishes for this process, and for what it forks, are heard in the run-root of this pod's directory.
pub fn listen(dir: &Path) {
    #[cfg(debug_assertions)]
    wishes::listen(dir);
    #[cfg(not(debug_assertions))]
    let _ = dir;
}

#[cfg(debug_assertions)]
mod wishes {
    use crate::sys::clone::exit;
    use nix::sys::signal::Signal;
    use nix::sys::signal::kill;
    use nix::unistd::Pid;
    use std::fs;
    use std::path::Path;
    use std::path::PathBuf;
    use std::sync::OnceLock;

    static FILE: OnceLock<PathBuf> = OnceLock::new();

    pub(super) fn listen(dir: &Path) {
        if let Some(run_root) = dir.ancestors().nth(2) {
            let _ = FILE.set(run_root.join("fault"));
        }
    }

    /// Whether a command is to do this at that point.
    pub(super) fn has(what: &str, name: &str) -> bool {
        let Some(wish) = std::env::var_os("PODRUN_FAULT") else { return false };
        wish.to_str().and_then(|wish| wish.split_once(':')) == Some((what, name))
    }

    pub(super) fn pass(name: &str) {
        if has("stop", name) {
            let _ = kill(Pid::this(), Signal::SIGSTOP);
        }
        if std::env::var_os("PODRUN_FAULT").is_some_and(|wish| wish == name) || is_next_in_file(name) {
            let _ = kill(Pid::this(), Signal::SIGKILL);
            // The first process of a PID namespace is spared by its own signals (pid_namespaces(7)).
            exit(128 + libc::SIGKILL);
        }
    }

    fn is_next_in_file(name: &str) -> bool {
        let Some(file) = FILE.get() else { return false };
        let Ok(text) = fs::read_to_string(file) else { return false };
        let Some(rest) = text.strip_prefix(name).and_then(|rest| rest.strip_prefix('\n')) else { return false };
        // Taken off the list first: a successor is not to die of the same wish.
        let taken = if rest.is_empty() { fs::remove_file(file) } else { fs::write(file, rest) };
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::PathBuf;

    fn sources(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn the_list_is_what_the_sources_have() {
        let files = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
        let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        let calls = |call: &str| -> Vec<String> {
            let rests = text.split(call).skip(1);
            rests.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
        };
        let listed: BTreeSet<&str> = POINTS.iter().copied().collect();
        assert_eq!(listed.len(), POINTS.len(), "one is listed twice");
        let found = [calls("fault::point(\""), calls("fault::step(\"")].concat();
        // This file's own words are the only other occurrences of the calls.
        let found: BTreeSet<&str> = found.iter().map(String::as_str).filter(|name| name.contains('.')).collect();
        assert_eq!(found, listed);
    }
}
