//! `exec`.

#![forbid(unsafe_code)]

use super::args::{Global, Words, duration, refuse_flag, variables};
use super::run::tell_end;
use crate::caps;
use crate::container::planning::ExecRequest;
use crate::error::{Error, Kind, Result};
use crate::id::ContainerName;
use crate::pod::exec::{self, Stdin, Wish};
use crate::pod::find::Pod;
use crate::pod::terminal;
use clap::Args;

#[derive(Debug, Args)]
struct Exec {
    #[command(flatten)]
    global: Global,
    /// POD or POD/NAME
    target: String,
    /// The container, where POD stands alone
    #[arg(short = 'c', long, value_name = "NAME")]
    container: Option<String>,
    /// Pass stdin on
    #[arg(short = 'i', long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// A variable of its environment; KEY alone is as it is here
    #[arg(short = 'e', long, value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// Where it starts
    #[arg(short = 'w', long, value_name = "DIR")]
    workdir: Option<String>,
    /// USER or UID, with :GROUP or :GID
    #[arg(short = 'u', long)]
    user: Option<String>,
    /// The terminal's size; that of ours by default
    #[arg(long, value_name = "ROWSxCOLUMNS")]
    size: Option<String>,
    /// More capabilities than the container has
    #[arg(long, value_name = "CAP")]
    cap: Vec<String>,
    /// How long to read on, after the program's end, what its children still hold open
    #[arg(long, default_value = "1s", value_name = "TIME")]
    drain: String,
    /// Kill it and all that it started after this time, and leave with 124; nor does then anybody outlive it. 0 is no limit
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

const EXEC_EXAMPLES: &str = "  podrun exec web/nginx -- nginx -t
  podrun exec web -c nginx -it -- sh
  tar c . | podrun exec -i web/nginx -- tar x -C /srv
  podrun exec --timeout 2s web/nginx -- /probe";

pub(super) fn exec(words: &Words) -> Result<i32> {
    let asked: Exec = words.parse(EXEC_EXAMPLES)?;
    refuse_flag(words, &asked.command)?;
    let (pod, names) = asked.global.split(&asked.target, asked.container.as_slice())?;
    let pod = asked.global.pod(&pod)?;
    let name = match &names[..] {
        [name] => name.clone(),
        [] => first_container(&pod)?,
        _ => return Err(Error::new(Kind::Usage, format!("read {:?}", asked.target), "the container is named twice")),
    };
    let size = match &asked.size {
        Some(text) => Some(size(text)?),
        None => terminal::own_size(),
    };
    let request = ExecRequest {
        args: asked.command,
        env: variables(&asked.env)?,
        cwd: asked.workdir,
        user: asked.user,
        terminal: asked.tty.then_some(size),
        capabilities: asked.cap.iter().try_fold(0, |mask, one| caps::parse(one).map(|bit| mask | bit))?,
    };
    let stdin = if asked.interactive { Stdin::Passed } else { Stdin::Null };
    // 0 is what it is to timeout(1).
    let limit = asked.timeout.as_deref().map(duration).transpose()?.filter(|limit| !limit.is_zero());
    let ended = exec::exec(&pod, &name, &Wish { request, stdin, drain: duration(&asked.drain)?, limit })?;
    Ok(tell_end(&name, &ended))
}

/// The first container, as kubectl has it, said on stderr where there is a choice.
fn first_container(pod: &Pod) -> Result<ContainerName> {
    let all = pod.containers();
    let Some(first) = all.first() else {
        return Err(Error::new(Kind::NotFound, format!("find a container of {}", pod.record.name), "the pod has none"));
    };
    if all.len() > 1 {
        eprintln!("podrun: container {}, the first of {}", first.name, all.len());
    }
    Ok(first.name.clone())
}

fn size(text: &str) -> Result<crate::sys::tty::Size> {
    let fail = || {
        Error::new(Kind::Usage, format!("read the size {text:?}"), "not ROWSxCOLUMNS")
            .hint("each from 1 to 65535: 24x80")
    };
    let (rows, columns) = text.split_once('x').ok_or_else(fail)?;
    let number = |text: &str| text.parse::<u16>().ok().filter(|number| *number > 0).ok_or_else(fail);
    Ok(crate::sys::tty::Size { rows: number(rows)?, columns: number(columns)? })
}
