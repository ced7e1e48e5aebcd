//! `events`: what a container uses, again and again, and that the kernel killed for memory, in the words of runc's own.

#![forbid(unsafe_code)]

use super::record::Container;
use crate::cgroup::{Cgroup, NO_CGROUP};
use crate::error::{Doing, Error, Kind, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use serde_json::Value;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// One line; runc's callers look for its beginning.
#[derive(Debug, Serialize)]
pub struct Event {
    #[serde(rename = "type")]
    kind: &'static str,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

impl Event {
    fn new(kind: &'static str, container: &Container, data: Option<Value>) -> Self {
        Self { kind, id: container.record.id.to_string(), data }
    }
}

pub fn stats(container: &Container) -> Result<Event> {
    container.running("read the statistics of")?;
    Ok(Event::new("stats", container, Some(cgroup(container)?.counted())))
}

fn cgroup(container: &Container) -> Result<Cgroup> {
    let cgroup = container.cgroup()?;
    match cgroup.is_nowhere() {
        false => Ok(cgroup),
        true => {
            let doing = format!("read the statistics of {}", container.record.id);
            Err(Error::new(Kind::Unsupported, doing, format!("a cgroup would count, and {NO_CGROUP}")))
        }
    }
}

/// Statistics at once and at each interval, and `oom` at each kill, until the container has ended.
pub fn watch(container: &Container, interval: Duration, mut tell: impl FnMut(&Event)) -> Result<()> {
    let first = container.running("watch")?;
    let cgroup = cgroup(container)?;
    let notifier = cgroup.oom_notifier()?;
    let mut killed = cgroup.oom_kills()?;
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            tell(&stats(container)?);
            next += interval;
        }
        let mut fds = vec![PollFd::new(first.as_fd(), PollFlags::POLLIN)];
        fds.extend(notifier.iter().map(|one| PollFd::new(one.as_fd(), PollFlags::POLLIN | PollFlags::POLLPRI)));
        let left = next.saturating_duration_since(Instant::now());
        // Up, so that the last millisecond is not spent awake.
        let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, left) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(err) => return Err(err).doing(|| format!("watch {}", container.record.id)),
        }
        let has_ended = fds[0].any().unwrap_or(false);
        if let Some(notifier) = &notifier {
            notifier.acknowledge().doing(|| format!("watch {}", container.record.id))?;
        }
        // A notice is no kill, and one may have come with the end; whoever deletes it takes the counter away.
        let now = cgroup.oom_kills().unwrap_or(killed);
        if now > killed {
            tell(&Event::new("oom", container, None));
        }
        killed = now;
        if has_ended {
            return Ok(());
        }
    }
}
