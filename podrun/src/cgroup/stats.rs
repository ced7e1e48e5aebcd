//! What a cgroup uses, in the same units on v1 and v2.

#![forbid(unsafe_code)]

use super::layout::Controller;
use super::live::Cgroup;
use super::oom::field;
use super::plan::Dialect;
use serde::{Deserialize, Serialize};

/// None where this host does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    pub memory_bytes: Option<u64>,
    /// Without the file pages that the kernel would give up first: what kubelet calls the working set.
    pub memory_working_set_bytes: Option<u64>,
    pub memory_peak_bytes: Option<u64>,
    pub memory_limit_bytes: Option<u64>,
    pub cpu_nanoseconds: Option<u64>,
    pub pids: Option<u64>,
}

impl Cgroup {
    pub fn stats(&self) -> Stats {
        let memory = |v1, v2| self.number(Controller::Memory, v1, v2);
        let used = memory("memory.usage_in_bytes", "memory.current");
        let inactive = self.text(Controller::Memory, "memory.stat", "memory.stat").and_then(|text| {
            // v1 has the sum over the directories below under another name.
            field(&text, "total_inactive_file").or_else(|| field(&text, "inactive_file"))
        });
        Stats {
            memory_bytes: used,
            memory_working_set_bytes: used.map(|used| used.saturating_sub(inactive.unwrap_or(0))),
            memory_peak_bytes: memory("memory.max_usage_in_bytes", "memory.peak"),
            memory_limit_bytes: self.current().memory_limit,
            cpu_nanoseconds: self.cpu_nanoseconds(),
            pids: self.number(Controller::Pids, "pids.current", "pids.current"),
        }
    }

    /// cpu.stat of the unified tree needs no controller, but on hybrid hosts counts only what runs there: v1 first.
    fn cpu_nanoseconds(&self) -> Option<u64> {
        let v1 = self.number(Controller::Cpuacct, "cpuacct.usage", "cpuacct.usage");
        v1.or_else(|| {
            let text = self.unified()?.read("cpu.stat").ok()?;
            field(&text, "usage_usec").map(|micros| micros.saturating_mul(1000))
        })
    }

    fn number(&self, controller: Controller, v1: &str, v2: &str) -> Option<u64> {
        self.text(controller, v1, v2)?.trim().parse().ok()
    }

    fn text(&self, controller: Controller, v1: &str, v2: &str) -> Option<String> {
        let open = self.controller(controller)?;
        open.read(if open.dialect == Dialect::V1 { v1 } else { v2 }).ok()
    }
}
