//! create, run, exec.

#![forbid(unsafe_code)]

use super::Call;
use crate::caps;
use crate::cgroup::Below;
use crate::container::attributes::Keyring;
use crate::container::plan::{Entry, NewPrivileges};
use crate::container::planning::ExecRequest;
use crate::error::Result;
use crate::oci;
use crate::pod::oci::birth::{self, Made};
use crate::pod::oci::exec::{self, Program};
use crate::pod::oci::foreground::Stay;
use crate::pod::oci::program;
use crate::pod::oci::record::Container;
use crate::pod::oci::verbs::{self, Manner};
use crate::pod::terminal;
use crate::sys::clone::Exit;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct Create {
    pub(super) id: String,
    /// The directory with config.json
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    bundle: PathBuf,
    /// Who listens here gets the master of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Who listens here gets a pidfd of the container's first process
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Cover the root and chroot, where a ramdisk lets nobody pivot; CAP_SYS_CHROOT gets out of it
    #[arg(long)]
    no_pivot: bool,
    /// Stay in the caller's session keyring
    #[arg(long)]
    no_new_keyring: bool,
    /// This many descriptors from 3 on are the container's
    #[arg(long, default_value_t = 0, value_name = "N")]
    preserve_fds: i32,
}

pub(super) fn wish(call: &Call, asked: &Create, attended: bool) -> Result<birth::Wish> {
    Ok(birth::Wish {
        bundle: asked.bundle.clone(),
        console: asked.console_socket.clone(),
        pidfd: asked.pidfd_socket.clone(),
        pid_file: asked.pid_file.clone(),
        entry: if asked.no_pivot { Entry::Cover } else { Entry::Pivot },
        keyring: if asked.no_new_keyring { Keyring::Inherited } else { Keyring::New },
        attended,
        preserved: asked.preserve_fds,
        listening: listen_fds(),
        systemd: call.global.systemd_cgroup,
        cgroup_top: format!("{}-oci", call.roots().cgroup()),
    })
}

fn listen_fds() -> i32 {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    match variable("LISTEN_PID") {
        Some(pid) if u32::try_from(pid).ok() == Some(std::process::id()) => variable("LISTEN_FDS").unwrap_or(0).max(0),
        _ => 0,
    }
}

pub(super) fn create(call: &Call) -> Result<i32> {
    let asked: Create = call.parse()?;
    let made = birth::create(&call.root()?, &asked.id, &wish(call, &asked, false)?)?;
    call.warn(&made.warnings);
    Ok(0)
}

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) create: Create,
    /// Do not stay until it ends
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Do not delete it when it has ended
    #[arg(long)]
    keep: bool,
    /// Leave orphans to the host
    #[arg(long, hide = true)]
    no_subreaper: bool,
}

pub(super) fn run(call: &Call) -> Result<i32> {
    let asked: Run = call.parse()?;
    let made = birth::create(&call.root()?, &asked.create.id, &wish(call, &asked.create, !asked.detach)?)?;
    stay(call, &asked, &made, || verbs::start(&made.container))
}

/// Lets a container go, and stays with it until it ends and is removed, unless told otherwise.
pub(super) fn stay(call: &Call, asked: &Run, made: &Made, go: impl FnOnce() -> Result<()>) -> Result<i32> {
    let root = call.root()?;
    call.warn(&made.warnings);
    let remove = |call: &Call| match verbs::delete(&root, &asked.create.id, Manner::Force) {
        Ok(warnings) => call.warn(&warnings),
        Err(err) => call.warn(&[err.to_string()]),
    };
    let ended = match asked.detach {
        true => go().map(|()| None),
        false => Stay::begin().and_then(|stay| {
            go()?;
            stay.until_end(&made.pidfd, made.master.as_ref()).map(Some)
        }),
    };
    match ended {
        Ok(None) => Ok(0),
        Ok(Some(exit)) => {
            if !asked.keep {
                remove(call);
            }
            Ok(Exit::code(exit))
        }
        Err(err) => {
            remove(call);
            Err(err)
        }
    }
}

#[derive(Debug, Args)]
struct Exec {
    /// A `process` object of the specification
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["cwd", "env", "user", "cap"])]
    process: Option<PathBuf>,
    #[arg(short, long)]
    tty: bool,
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// UID[:GID]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    #[arg(short, long)]
    detach: bool,
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// One capability more
    #[arg(short, long, value_name = "NAME")]
    cap: Vec<String>,
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    no_new_privs: Option<bool>,
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    #[arg(long, default_value_t = 0, value_name = "N")]
    preserve_fds: i32,
    /// Join a paused container, and run when it is resumed
    #[arg(long)]
    ignore_paused: bool,
    /// A cgroup below the container's own, on v1 one for each controller: CONTROLLER[,CONTROLLER]:PATH
    #[arg(long, value_name = "PATH")]
    cgroup: Vec<String>,
    id: String,
    #[arg(trailing_var_arg = true)]
    command: Vec<String>,
}

pub(super) fn exec(call: &Call) -> Result<i32> {
    let asked: Exec = call.parse()?;
    // Before anything is read that can be read once only: this may start podrun again.
    program::be_unwritable()?;
    let container = Container::find(&call.root()?, &asked.id)?;
    exec::exec(&container, &exec_wish(call, asked)?)
}

fn exec_wish(call: &Call, asked: Exec) -> Result<exec::Wish> {
    let capabilities = asked.cap.iter().try_fold(0, |mask, name| caps::parse(name).map(|one| mask | one))?;
    let program = match asked.process {
        Some(path) => {
            let (process, warnings) = oci::load_process(&path)?;
            call.warn(&warnings);
            Program::Document(Box::new(process))
        }
        None => Program::Words(ExecRequest {
            args: asked.command,
            env: asked.env,
            cwd: asked.cwd,
            user: asked.user,
            terminal: asked.tty.then(terminal::own_size),
            capabilities,
        }),
    };
    Ok(exec::Wish {
        program,
        more_groups: asked.additional_gids,
        new_privileges: asked
            .no_new_privs
            .map(|never| if never { NewPrivileges::Never } else { NewPrivileges::Allowed }),
        apparmor: asked.apparmor,
        selinux: asked.process_label,
        // conmon says it beside a document that says it, too.
        terminal: asked.tty,
        console: asked.console_socket,
        pidfd: asked.pidfd_socket,
        pid_file: asked.pid_file,
        preserved: asked.preserve_fds,
        detached: asked.detach,
        even_paused: asked.ignore_paused,
        cgroup: Below::parse(&asked.cgroup)?,
    })
}
