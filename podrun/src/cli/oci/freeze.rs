//! checkpoint and restore.

#![forbid(unsafe_code)]

use super::{Call, make};
use crate::error::{Doing, Error, Kind, Result};
use crate::pod::oci::criu::{self, Afterwards, Wish};
use clap::Args;
use std::path::PathBuf;

/// What both take; each flag must be the same at both times.
#[derive(Debug, Args)]
struct Both {
    /// Where the images are; ./checkpoint unless said
    #[arg(long, value_name = "DIR")]
    image_path: Option<PathBuf>,
    /// Where criu writes its log; beside the images unless said
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    /// Take TCP connections along
    #[arg(long)]
    tcp_established: bool,
    /// Take Unix sockets along whose other end is outside
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow a session whose leader is outside
    #[arg(long)]
    shell_job: bool,
    /// Take file locks along
    #[arg(long)]
    file_locks: bool,
    /// `network`: leave what is in that namespace out, and make an empty one
    #[arg(long, value_name = "KIND")]
    empty_ns: Vec<String>,
    /// Taken for compatibility: podrun makes the cgroup by itself
    #[arg(long, value_name = "MODE", hide = true)]
    manage_cgroups_mode: Option<String>,
}

impl Both {
    fn wish(&self) -> Result<Wish> {
        let absolute = |path: &PathBuf| std::path::absolute(path).doing(|| format!("find {}", path.display()));
        let images = absolute(self.image_path.as_ref().unwrap_or(&PathBuf::from("checkpoint")))?;
        let work = self.work_path.as_ref().map_or(Ok(images.clone()), absolute)?;
        let words = [
            (self.tcp_established, "--tcp-established"),
            (self.ext_unix_sk, "--ext-unix-sk"),
            (self.shell_job, "--shell-job"),
            (self.file_locks, "--file-locks"),
            (!self.empty_ns.is_empty(), "--empty-ns=net"),
        ];
        if let Some(other) = self.empty_ns.iter().find(|kind| *kind != "network") {
            let doing = format!("read --empty-ns {other:?}");
            return Err(Error::new(Kind::Usage, doing, "criu can leave out a network namespace only"));
        }
        let flags = words.into_iter().filter(|(asked, _)| *asked).map(|(_, flag)| flag).collect();
        Ok(Wish { images, work, flags })
    }
}

#[derive(Debug, Args)]
struct Checkpoint {
    #[command(flatten)]
    both: Both,
    /// Let the container run on
    #[arg(long)]
    leave_running: bool,
    id: String,
}

pub(super) fn checkpoint(call: &Call) -> Result<i32> {
    let asked: Checkpoint = call.parse()?;
    let afterwards = if asked.leave_running { Afterwards::Running } else { Afterwards::Gone };
    let warnings = criu::checkpoint(&call.root()?, &asked.id, &asked.both.wish()?, afterwards)?;
    call.warn(&warnings);
    Ok(0)
}

#[derive(Debug, Args)]
struct Restore {
    #[command(flatten)]
    both: Both,
    #[command(flatten)]
    run: make::Run,
}

pub(super) fn restore(call: &Call) -> Result<i32> {
    let Restore { both, run } = call.parse()?;
    let of = make::wish(call, &run.create, !run.detach)?;
    let made = criu::restore(&call.root()?, &run.create.id, &of, &both.wish()?)?;
    make::stay(call, &run, &made, || Ok(()))
}
