//! Whose systemd makes scopes: the machine's for its root, a user's own for everybody else (user@.service(5)).

#![forbid(unsafe_code)]

use crate::dbus::wire::Value;
use crate::dbus::{Call, Connection};
use crate::error::{Error, Kind, Result};
use crate::privilege::{Privilege, outer_uid};
use serde::{Deserialize, Serialize};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long systemd may take for one thing that it is asked for (cri-o#3808: it may be slow, and must not be waited for
/// without an end).
const PATIENCE: Duration = Duration::from_secs(30);

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const OBJECT: &str = "/org/freedesktop/systemd1";

/// Below the directory of a manager's runtime: a socket of its own, which needs no bus daemon.
const SOCKET: &str = "systemd/private";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Manager {
    #[default]
    System,
    /// By its socket, so that a container's is found again whatever the environment is then.
    User(PathBuf),
}

impl Manager {
    /// That of whoever this process belongs to.
    pub fn own() -> Result<Self> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        match Privilege::own() {
            Privilege::Host => Ok(Self::System),
            // A user namespace has no manager: its root is somebody outside.
            Privilege::Namespace | Privilege::User => Self::of_user(runtime, outer_uid(), Path::exists),
        }
    }

    /// `$XDG_RUNTIME_DIR` as it is set; an empty or a relative one is none (XDG Base Directory Specification). Pure but for the
    /// question whether a socket `is_there`.
    fn of_user(runtime: Option<PathBuf>, uid: u32, is_there: impl Fn(&Path) -> bool) -> Result<Self> {
        let set = runtime.filter(|runtime| runtime.is_absolute());
        let why = if set.is_some() { "where XDG_RUNTIME_DIR says" } else { "and XDG_RUNTIME_DIR names no directory" };
        let socket = set.unwrap_or_else(|| format!("/run/user/{uid}").into()).join(SOCKET);
        if is_there(&socket) {
            return Ok(Self::User(socket));
        }
        let cause = format!("no service manager of this user's runs: there is no {}, {why}", socket.display());
        Err(Error::new(Kind::Unsupported, "use --systemd-cgroup", cause)
            .hint("log in by pam_systemd, or as root: loginctl enable-linger USER; or leave the flag out"))
    }

    /// In this directory, where it listens.
    pub fn listening_in(runtime: &Path) -> Option<Self> {
        let socket = runtime.join(SOCKET);
        socket.exists().then_some(Self::User(socket))
    }

    fn socket(&self) -> &Path {
        match self {
            Self::System => Path::new("/run/systemd/private"),
            Self::User(socket) => socket,
        }
    }

    /// Where scopes go for which nobody names a slice, as with runc.
    pub(super) fn usual_slice(&self) -> &'static str {
        match self {
            Self::System => "system.slice",
            Self::User(_) => "user.slice",
        }
    }

    pub(super) fn connect(&self) -> Result<Asked> {
        Connection::open(self.socket(), PATIENCE).map(Asked)
    }

    /// One that has ended took its scopes along.
    pub(super) fn has_ended(&self) -> bool {
        UnixStream::connect(self.socket()).is_err()
    }

    /// The cgroup that it is the manager of, as /proc/PID/cgroup would name it.
    pub fn control_group(&self) -> Result<PathBuf> {
        let Asked(mut systemd) = self.connect()?;
        let body = [MANAGER, "ControlGroup"].map(|word| Value::Text(word.into()));
        let said = systemd.call(Call { path: OBJECT, interface: PROPERTIES, member: "Get" }, &body)?;
        Ok(PathBuf::from(said.first().and_then(Value::text).unwrap_or_default()))
    }
}

/// A conversation with one.
#[derive(Debug)]
pub(super) struct Asked(Connection);

impl Asked {
    pub(super) fn call(&mut self, member: &str, body: &[Value]) -> Result<Vec<Value>> {
        self.0.call(Call { path: OBJECT, interface: MANAGER, member }, body)
    }

    /// JobRemoved(id, job, unit, result).
    pub(super) fn wait(&mut self, job: &[Value], doing: &str) -> Result<()> {
        let job = job.first().and_then(Value::text).unwrap_or_default().to_owned();
        let ended = self.0.signal("JobRemoved", |body| body.get(1).and_then(Value::text) == Some(job.as_str()))?;
        match ended.get(3).and_then(Value::text) {
            Some("done") => Ok(()),
            result => Err(Error::new(Kind::Kernel, doing, format!("systemd says {:?}", result.unwrap_or("nothing")))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_manager_is_where_his_runtime_directory_is() {
        let look = |runtime: Option<&str>, there: &str| {
            Manager::of_user(runtime.map(PathBuf::from), 1000, |socket| socket == Path::new(there))
        };
        let found = |socket: &str| Ok(Manager::User(socket.into()));
        let said = |looked: Result<Manager>| looked.map_err(|err| err.to_string());
        let usual = "/run/user/1000/systemd/private";
        assert_eq!(said(look(Some("/x"), "/x/systemd/private")), found("/x/systemd/private"));
        for none in [None, Some(""), Some("x/y")] {
            assert_eq!(said(look(none, usual)), found(usual), "{none:?}");
        }
        let refused = |runtime, there| said(look(runtime, there)).unwrap_err();
        assert!(refused(Some("/x"), usual).contains("there is no /x/systemd/private, where XDG_RUNTIME_DIR says"));
        assert!(refused(None, "").contains(&format!("there is no {usual}, and XDG_RUNTIME_DIR names no directory")));
    }
}
