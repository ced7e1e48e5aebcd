//! How a process runs, whatever it may do: scheduler, I/O priority, CPUs, memory nodes, personality, session keyring.
//!
//! Planning is pure and says with a JSON path what cannot be; the acting is one call a field, between clone3 and execve.

#![forbid(unsafe_code)]

use super::init::{Failure, Step, at};
use crate::error::{Doing, Error, Kind, Result};
use crate::list;
use crate::sys::sched;
use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler,
};
use serde::{Deserialize, Serialize};

/// What a plan says of them; all that is not asked for is as the kernel has it for a process that nobody has tuned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Attributes {
    pub keyring: Keyring,
    pub scheduler: Option<sched::Attr>,
    /// As ioprio_set(2) takes it: the class above 13 bits of level.
    pub io_priority: Option<u16>,
    pub personality: Option<u32>,
    pub memory: Option<MemoryPolicy>,
    pub exec_affinity: Affinity,
}

/// Whose session keyring a process has: what lies there is not divided by namespaces (session-keyring(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Keyring {
    #[default]
    New,
    /// The one of whoever starts it.
    Inherited,
}

/// set_mempolicy(2)'s mode with its flags, and a bit a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPolicy {
    pub mode: i32,
    pub nodes: Vec<u64>,
}

/// The CPUs of a program that is exec'd, a bit each: on its way into the container's cgroup, and there. Empty: the kernel's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Affinity {
    pub on_the_way: Vec<u64>,
    pub there: Vec<u64>,
}

/// What a document asks for.
pub fn plan(process: &Process, linux: Option<&Linux>) -> Result<Attributes> {
    let affinity = process.exec_cpu_affinity().as_ref();
    let cpus = |field: &str, list: Option<&String>| {
        numbers(&format!("process.execCPUAffinity.{field}"), list.map_or("", String::as_str), MOST_CPUS)
    };
    Ok(Attributes {
        keyring: Keyring::New,
        scheduler: process.scheduler().as_ref().map(scheduling).transpose()?,
        io_priority: process.io_priority().as_ref().map(io_priority).transpose()?,
        personality: linux.and_then(|linux| linux.personality().as_ref()).map(personality).transpose()?,
        memory: linux.and_then(|linux| linux.memory_policy().as_ref()).map(memory_policy).transpose()?,
        exec_affinity: Affinity {
            on_the_way: cpus("initial", affinity.and_then(|affinity| affinity.initial().as_ref()))?,
            there: cpus("final", affinity.and_then(|affinity| affinity.cpu_affinity_final().as_ref()))?,
        },
    })
}

fn wrong(path: &str, cause: impl std::fmt::Display) -> Error {
    Error::new(Kind::Invalid, format!("read {path}"), cause)
}

/// Of kernels that can be built: CONFIG_NR_CPUS, CONFIG_NODES_SHIFT.
const MOST_CPUS: u32 = 8192;
const MOST_NODES: u32 = 1024;

fn numbers(path: &str, list: &str, most: u32) -> Result<Vec<u64>> {
    list::parse(list, most).map_err(|cause| wrong(path, cause))
}

/// A field that only some policies have.
fn only<T: Default + PartialEq>(field: &str, value: Option<T>, of: bool, policies: &str) -> Result<T> {
    let value = value.unwrap_or_default();
    match of || value == T::default() {
        true => Ok(value),
        false => Err(wrong(&format!("process.scheduler.{field}"), format!("only {policies} has it"))),
    }
}

fn scheduling(asked: &Scheduler) -> Result<sched::Attr> {
    use LinuxSchedulerPolicy as Policy;
    let (policy, real_time, deadline) = match asked.policy() {
        Policy::SchedOther => (0, false, false),
        Policy::SchedFifo => (1, true, false),
        Policy::SchedRr => (2, true, false),
        Policy::SchedBatch => (3, false, false),
        Policy::SchedIdle => (5, false, false),
        Policy::SchedDeadline => (6, false, true),
        Policy::SchedIso => {
            let doing = "read process.scheduler.policy";
            return Err(Error::new(
                Kind::Unsupported,
                doing,
                "SCHED_ISO: Linux keeps the number, and has no such scheduler",
            ));
        }
    };
    let nice = asked.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        return Err(wrong("process.scheduler.nice", format!("{nice} is not within -20 and 19")));
    }
    let priority = only("priority", *asked.priority(), real_time, "SCHED_FIFO or SCHED_RR")?;
    if real_time && !(1..=99).contains(&priority) {
        return Err(wrong("process.scheduler.priority", format!("{priority} is not within 1 and 99")));
    }
    let times = |field, value| only(field, value, deadline, "SCHED_DEADLINE");
    let scheduling = sched::Attr {
        policy,
        flags: asked.flags().iter().flatten().map(|flag| scheduler_flag(*flag)).fold(0, |all, one| all | one),
        nice,
        priority: priority.unsigned_abs(),
        runtime: times("runtime", *asked.runtime())?,
        deadline: times("deadline", *asked.deadline())?,
        period: times("period", *asked.period())?,
        ..sched::Attr::default()
    };
    if deadline {
        check_deadline(&scheduling)?;
    }
    Ok(scheduling)
}

/// sched(7): "sched_runtime <= sched_deadline <= sched_period", all of them at least 1024 and below 2^63; no period is the
/// deadline.
fn check_deadline(asked: &sched::Attr) -> Result<()> {
    const LEAST: u64 = 1024;
    let period = if asked.period == 0 { asked.deadline } else { asked.period };
    if asked.runtime < LEAST {
        return Err(wrong("process.scheduler.runtime", format!("{} is less than {LEAST} ns", asked.runtime)));
    }
    if asked.deadline < asked.runtime {
        let cause = format!("{} is less than the runtime {}", asked.deadline, asked.runtime);
        return Err(wrong("process.scheduler.deadline", cause));
    }
    if period < asked.deadline || period >= 1 << 63 {
        let cause = format!("{period} is not within the deadline {} and 2^63", asked.deadline);
        return Err(wrong("process.scheduler.period", cause));
    }
    Ok(())
}

/// SCHED_FLAG_ of linux/sched.h.
fn scheduler_flag(flag: LinuxSchedulerFlag) -> u64 {
    use LinuxSchedulerFlag as Flag;
    match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    }
}

fn io_priority(asked: &LinuxIOPriority) -> Result<u16> {
    let class = match asked.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u16::try_from(asked.priority()) {
        Ok(level @ 0..=7) => Ok(class << 13 | level),
        _ => Err(wrong("process.ioPriority.priority", format!("{} is not within 0 and 7", asked.priority()))),
    }
}

fn personality(asked: &LinuxPersonality) -> Result<u32> {
    if let Some(flag) = asked.flags().iter().flatten().next() {
        // config-linux.md: "Currently no flag values are supported."
        return Err(wrong("linux.personality.flags[0]", format!("{flag:?}: the specification knows no flag")));
    }
    Ok(match asked.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}

fn memory_policy(asked: &LinuxMemoryPolicy) -> Result<MemoryPolicy> {
    use MemoryPolicyModeType as Mode;
    // linux/mempolicy.h
    let (mode, wants) = match asked.mode() {
        Mode::MpolDefault => (0, Nodes::None),
        Mode::MpolPreferred => (1, Nodes::Perhaps),
        Mode::MpolBind => (2, Nodes::Some),
        Mode::MpolInterleave => (3, Nodes::Some),
        Mode::MpolLocal => (4, Nodes::None),
        Mode::MpolPreferredMany => (5, Nodes::Some),
        Mode::MpolWeightedInterleave => (6, Nodes::Some),
    };
    let path = "linux.memoryPolicy.nodes";
    let nodes = numbers(path, asked.nodes().as_deref().unwrap_or_default(), MOST_NODES)?;
    match (wants, nodes.is_empty()) {
        (Nodes::Some, true) => return Err(wrong(path, "missing: this mode is about nodes")),
        (Nodes::None, false) => return Err(wrong(path, "this mode is about no nodes")),
        _ => {}
    }
    let flags = asked.flags().iter().flatten().fold(0, |all, flag| all | memory_flag(*flag));
    const STATIC_AND_RELATIVE: i32 = 1 << 15 | 1 << 14;
    if flags & STATIC_AND_RELATIVE == STATIC_AND_RELATIVE {
        let cause = "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other";
        return Err(wrong("linux.memoryPolicy.flags", cause));
    }
    Ok(MemoryPolicy { mode: mode | flags, nodes })
}

/// What a mode does with nodes.
enum Nodes {
    None,
    Perhaps,
    Some,
}

/// MPOL_F_ of linux/mempolicy.h.
fn memory_flag(flag: MemoryPolicyFlagType) -> i32 {
    match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    }
}

impl Attributes {
    /// Between clone3 and execve, while the process still has all its rights: no allocation, no choice.
    pub(super) fn take_on(&self) -> Result<(), Failure> {
        if self.keyring == Keyring::New {
            leave_keyring().map_err(at(Step::Keyring))?;
        }
        if let Some(memory) = &self.memory {
            sched::set_mempolicy(memory.mode, &memory.nodes).map_err(at(Step::MemoryPolicy))?;
        }
        if let Some(persona) = self.personality {
            sched::personality(persona).map_err(at(Step::Personality))?;
        }
        if let Some(priority) = self.io_priority {
            sched::ioprio_set(priority).map_err(at(Step::IoPriority))?;
        }
        if let Some(scheduling) = &self.scheduler {
            sched::sched_setattr(scheduling).map_err(at(Step::Scheduler))?;
        }
        Ok(())
    }
}

/// A kernel without keyrings, and a host that withholds the call, withhold the caller's keys as well.
fn leave_keyring() -> std::io::Result<()> {
    match sched::new_session_keyring() {
        Err(err) if matches!(err.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        other => other,
    }
}

/// The cgroup says which CPUs a container has, and not on which its caller happened to be (runc#3922). Where the host
/// withholds the call, it stays as it is.
pub(super) fn leave_callers_cpus() {
    let _ = sched::every_cpu();
}

impl Affinity {
    /// Of whoever clones, for as long as that takes: the child begins with its parent's CPUs.
    pub(super) fn begin<T>(&self, clone: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.on_the_way.is_empty() {
            return clone();
        }
        let doing = || "set process.execCPUAffinity.initial".to_owned();
        sched::sched_setaffinity(&self.on_the_way)
            .doing(doing)
            .map_err(|err| err.hint("podrun itself may use none of these CPUs"))?;
        let cloned = clone();
        sched::every_cpu().doing(doing)?;
        cloned
    }

    pub(super) fn settle(&self) -> Result<(), Failure> {
        match self.there.as_slice() {
            [] => {
                if self.on_the_way.is_empty() {
                    leave_callers_cpus();
                }
                Ok(())
            }
            cpus => sched::sched_setaffinity(cpus).map_err(at(Step::Affinity)),
        }
    }
}

#[cfg(test)]
mod tests;
