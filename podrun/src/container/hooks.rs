//! Hooks of config.json ("POSIX-platform Hooks"): programs that are told of a container's life, its state on their stdin.
//!
//! Those of the runtime's own namespaces are run by the parent, `createContainer` and `startContainer` by init, which may
//! not allocate: so all that a round of hooks needs is made beforehand, and running it is the same for both.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use crate::sys::clone::{Clone, Exit, clone3, exit, pidfd_send_signal, poll_one, wait};
use crate::sys::cred::{self, Pointers};
use crate::sys::{fd, mount};
use crate::text::Text;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Whence, lseek, pipe2};
use oci_spec::runtime;
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    pub path: Text,
    pub args: Vec<Text>,
    pub env: Vec<Text>,
    /// Seconds.
    pub timeout: Option<u32>,
}

/// All six kinds, in the order of a container's life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hooks {
    pub prestart: Vec<Hook>,
    pub create_runtime: Vec<Hook>,
    pub create_container: Vec<Hook>,
    pub start_container: Vec<Hook>,
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
}

impl Hooks {
    pub fn plan(asked: Option<&runtime::Hooks>) -> Result<Self> {
        let Some(asked) = asked else { return Ok(Self::default()) };
        #[allow(deprecated, reason = "prestart is deprecated by the specification, and still to be run")]
        Ok(Self {
            prestart: plan("prestart", asked.prestart().as_deref())?,
            create_runtime: plan("createRuntime", asked.create_runtime().as_deref())?,
            create_container: plan("createContainer", asked.create_container().as_deref())?,
            start_container: plan("startContainer", asked.start_container().as_deref())?,
            poststart: plan("poststart", asked.poststart().as_deref())?,
            poststop: plan("poststop", asked.poststop().as_deref())?,
        })
    }

    /// A startContainer hook that names no variables has the program's, as with runc.
    pub fn inherit(&mut self, asked: Option<&runtime::Hooks>, env: &[Text]) {
        let asked = asked.and_then(|asked| asked.start_container().as_deref()).unwrap_or_default();
        for (hook, asked) in self.start_container.iter_mut().zip(asked) {
            if asked.env().is_none() {
                hook.env = env.to_vec();
            }
        }
    }
}

fn plan(kind: &str, hooks: Option<&[runtime::Hook]>) -> Result<Vec<Hook>> {
    hooks
        .unwrap_or_default()
        .iter()
        .enumerate()
        .map(|(index, hook)| one(&format!("hooks.{kind}[{index}]"), hook))
        .collect()
}

fn one(place: &str, hook: &runtime::Hook) -> Result<Hook> {
    let fail = |field: &str, cause: &str| Error::new(Kind::Invalid, format!("read {place}.{field}"), cause);
    let path = hook.path().to_string_lossy();
    if !path.starts_with('/') {
        return Err(fail("path", "not an absolute path"));
    }
    // config.md: "timeout ... MUST be greater than zero".
    let timeout = match hook.timeout() {
        None => None,
        Some(seconds) => match u32::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Some(seconds),
            _ => return Err(fail("timeout", "not a number of seconds above zero")),
        },
    };
    let texts = |field: &str, list: &[String]| {
        let text = |(index, one): (usize, &String)| Text::new(&format!("{place}.{field}[{index}]"), one.as_str());
        list.iter().enumerate().map(text).collect::<Result<Vec<_>>>()
    };
    let args = match hook.args().as_deref() {
        // execve(2) wants a name for the program.
        None | Some([]) => vec![Text::new(place, path.as_ref())?],
        Some(args) => texts("args", args)?,
    };
    Ok(Hook {
        path: Text::new(place, path.as_ref())?,
        args,
        env: texts("env", hook.env().as_deref().unwrap_or_default())?,
        timeout,
    })
}

/// Hooks of one kind, ready to be run by a process that may not allocate, and the file with the state that each reads.
#[derive(Debug)]
pub struct Round {
    hooks: Vec<Ready>,
    /// None where there is no hook to read it.
    state: Option<File>,
    /// Where they start; where their maker is unless said.
    directory: Option<OwnedFd>,
}

#[derive(Debug)]
struct Ready {
    path: CString,
    argv: Pointers,
    envp: Pointers,
    timeout: Option<u32>,
}

/// Which hook of a round failed, and how: an errno, or a wait status as [`spoil`] has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    pub index: usize,
    pub errno: i32,
}

impl Round {
    pub fn new(hooks: &[Hook]) -> Result<Self> {
        let doing = || "make a file for the hooks' state".to_owned();
        let pointers = |texts: &[Text]| Pointers::new(texts.iter().map(|text| CString::from(text.c())).collect());
        let ready = |hook: &Hook| Ready {
            path: CString::from(hook.path.c()),
            argv: pointers(&hook.args),
            envp: pointers(&hook.env),
            timeout: hook.timeout,
        };
        let state = match hooks.is_empty() {
            true => None,
            false => Some(memfd_create(c"podrun-hook-state", MFdFlags::MFD_CLOEXEC).doing(doing)?.into()),
        };
        Ok(Self { hooks: hooks.iter().map(ready).collect(), state, directory: None })
    }

    /// The same in a directory.
    pub fn starting_in(self, directory: Option<OwnedFd>) -> Self {
        Self { directory, ..self }
    }

    pub fn is_empty(&self) -> bool {
        self.hooks.is_empty()
    }

    /// For a child that keeps its descriptors by number.
    pub fn state(&self) -> Option<BorrowedFd<'_>> {
        self.state.as_ref().map(AsFd::as_fd)
    }

    /// What the hooks will read. Whoever has a copy of this round, a clone's child say, sees it, too.
    pub fn tell(&self, state: &[u8]) -> Result<()> {
        let Some(file) = &self.state else { return Ok(()) };
        file.set_len(0).and_then(|()| file.write_all_at(state, 0)).doing(|| "write the hooks' state".into())
    }

    /// Runs one after the other until one fails. No allocation, no lock.
    pub fn run(&self) -> Result<(), Failed> {
        let Some(state) = &self.state else { return Ok(()) };
        for (index, hook) in self.hooks.iter().enumerate() {
            self.run_one(hook, state)
                .map_err(|err| Failed { index, errno: err.raw_os_error().unwrap_or(libc::EIO) })?;
        }
        Ok(())
    }

    fn run_one(&self, hook: &Ready, state: &File) -> io::Result<()> {
        // Its errno, where execve fails; its end, where that succeeds.
        let (reader, writer) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        lseek(state, 0, Whence::SeekSet)?;
        let child = clone3(&Clone::default(), || {
            let err = match self.become_hook(hook, state, &writer) {
                Ok(never) => match never {},
                Err(err) => err.raw_os_error().unwrap_or(libc::EIO),
            };
            let _ = fd::write(writer.as_fd(), &err.to_ne_bytes());
            exit(127)
        })?;
        drop(writer);
        let mut errno = [0; 4];
        let refused = fd::read(reader.as_fd(), &mut errno)? == errno.len();
        let limit = hook.timeout.map_or(-1, |seconds| i32::try_from(seconds).unwrap_or(i32::MAX).saturating_mul(1000));
        let in_time = poll_one(child.pidfd.as_fd(), libc::POLLIN, limit)?;
        if !in_time {
            pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL)?;
        }
        match (wait(child.pidfd.as_fd())?, refused, in_time) {
            (_, _, false) => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
            (_, true, _) => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
            (Exit::Code(0), ..) => Ok(()),
            (ended, ..) => Err(io::Error::from_raw_os_error(spoil(ended))),
        }
    }

    fn become_hook(&self, hook: &Ready, state: &File, writer: &OwnedFd) -> io::Result<std::convert::Infallible> {
        cred::reset_signals();
        if let Some(directory) = &self.directory {
            mount::fchdir(directory.as_fd())?;
        }
        fd::dup_to(state.as_fd(), 0)?;
        fd::close_all_but(&mut [writer.as_fd()])?;
        Err(cred::execve(&hook.path, &hook.argv, &hook.envp))
    }
}

/// How a hook ended, where an errno travels: below zero.
fn spoil(ended: Exit) -> i32 {
    -ended.code()
}

/// The sentence for what [`Round::run`] said.
pub fn error(kind: &str, hooks: &[Hook], failed: Failed) -> Error {
    let path = hooks.get(failed.index).map_or_else(|| "a hook".into(), |hook| hook.path.lossy().into_owned());
    let doing = format!("run hooks.{kind}[{}] {path}", failed.index);
    match failed.errno {
        libc::ETIMEDOUT => {
            let limit = hooks.get(failed.index).and_then(|hook| hook.timeout).unwrap_or_default();
            Error::new(Kind::Kernel, doing, format!("it did not end within {limit} s, and was killed"))
        }
        status if status < 0 => match -status {
            signal if signal > 128 => Error::new(Kind::Kernel, doing, format!("killed by signal {}", signal - 128)),
            code => Error::new(Kind::Kernel, doing, format!("exit status {code}")),
        },
        errno => Err::<(), _>(io::Error::from_raw_os_error(errno)).doing(|| doing).unwrap_err(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(path: &str, args: &[&str], timeout: Option<u32>) -> Hook {
        let text = |text: &&str| Text::new("a hook", *text).unwrap();
        Hook { path: text(&path), args: args.iter().map(text).collect(), env: Vec::new(), timeout }
    }

    #[test]
    fn each_hook_reads_the_whole_state_and_the_first_failure_ends_the_round() {
        let sh = |script: &str| hook("/bin/sh", &["sh", "-c", script], None);
        let round = |hooks: &[Hook]| {
            let round = Round::new(hooks).unwrap();
            round.tell(b"{\"id\": \"an older and longer state\"}").unwrap();
            round.tell(b"{\"id\": \"x\"}").unwrap();
            round.run()
        };
        let reads = sh(r#"[ "$(cat)" = '{"id": "x"}' ]"#);
        assert_eq!(round(&[reads.clone(), reads.clone()]), Ok(()));
        assert_eq!(round(&[reads.clone(), sh("exit 7"), sh("exit 8")]), Err(Failed { index: 1, errno: -7 }));
        assert_eq!(round(&[sh("kill -9 $$")]), Err(Failed { index: 0, errno: -137 }));
        assert_eq!(round(&[hook("/nowhere", &["x"], None)]), Err(Failed { index: 0, errno: libc::ENOENT }));
        assert_eq!(
            round(&[hook("/bin/sleep", &["sleep", "9"], Some(1))]),
            Err(Failed { index: 0, errno: libc::ETIMEDOUT })
        );
    }

    #[test]
    fn a_failure_is_told_with_its_place_in_the_document() {
        let hooks = [hook("/bin/x", &["x"], Some(3))];
        let said = |errno| error("prestart", &hooks, Failed { index: 0, errno }).to_string();
        assert_eq!(said(-7), "run hooks.prestart[0] /bin/x: exit status 7");
        assert_eq!(said(-137), "run hooks.prestart[0] /bin/x: killed by signal 9");
        assert_eq!(said(libc::ETIMEDOUT), "run hooks.prestart[0] /bin/x: it did not end within 3 s, and was killed");
        assert_eq!(said(libc::ENOENT), "run hooks.prestart[0] /bin/x: No such file or directory");
    }

    #[test]
    fn a_hook_has_an_absolute_path_and_a_timeout_above_zero() {
        let planned = |json: &str| {
            let asked: runtime::Hooks = serde_json::from_str(json).unwrap();
            Hooks::plan(Some(&asked)).map(|hooks| hooks.poststop).map_err(|err| err.to_string())
        };
        let good = planned(r#"{"poststop": [{"path": "/a", "timeout": 2}]}"#).unwrap();
        assert_eq!(good, [hook("/a", &["/a"], Some(2))]);
        assert_eq!(
            planned(r#"{"poststop": [{"path": "a"}]}"#).unwrap_err(),
            "read hooks.poststop[0].path: not an absolute path"
        );
        assert!(
            planned(r#"{"poststop": [{"path": "/a", "timeout": 0}]}"#)
                .unwrap_err()
                .starts_with("read hooks.poststop[0].timeout")
        );
    }
}
