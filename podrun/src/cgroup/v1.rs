//! The v1 dialect: what config.json asks, as files of the v1 controllers (cgroup-v1/ of the kernel's documentation).
//!
//! Pure. An order of writes is part of the result, since the kernel checks each write against the values of the moment.

#![forbid(unsafe_code)]

use super::layout::Controller;
use super::limit::Absent;
use super::limit::Amount;
use super::limit::Current;
use super::limit::Setting;
use super::limit::{asked, device, invalid, list, page_size, unsupported, weight};
use crate::error::Result;
use oci_spec::runtime::LinuxBlockIo;
use oci_spec::runtime::LinuxCpu;
use oci_spec::runtime::LinuxHugepageLimit;
use oci_spec::runtime::LinuxMemory;
use oci_spec::runtime::LinuxNetwork;
use oci_spec::runtime::LinuxPids;
use oci_spec::runtime::LinuxRdma;
use oci_spec::runtime::LinuxResources;
use oci_spec::runtime::LinuxThrottleDevice;
use std::collections::HashMap;

/// What `resources` asks of one controller. `current` is None for a cgroup that is about to be made.
pub(super) fn settings(it: Controller, asked: &LinuxResources, current: Option<&Current>) -> Result<Vec<Setting>> {
    let settings = match it {
        Controller::Memory => asked.memory().as_ref().map(|memory| self::memory(memory, current)),
        Controller::Cpu => asked.cpu().as_ref().map(|cpu| self::cpu(cpu, current)),
        Controller::Cpuset => asked.cpu().as_ref().map(cpuset),
        Controller::Pids => asked.pids().as_ref().map(pids),
        Controller::Io => asked.block_io().as_ref().map(block_io),
        Controller::Hugetlb => asked.hugepage_limits().as_deref().map(hugepages),
        Controller::NetCls => asked.network().as_ref().map(class_id),
        Controller::NetPrio => asked.network().as_ref().map(priorities),
        Controller::Rdma => asked.rdma().as_ref().map(|rdma| Ok(self::rdma(rdma))),
        Controller::Cpuacct | Controller::Devices | Controller::Misc | Controller::Freezer | Controller::Systemd => {
            None
        }
    };
    settings.unwrap_or_else(|| Ok(Vec::new()))
}

fn memory(memory: &LinuxMemory, current: Option<&Current>) -> Result<Vec<Setting>> {
    let limit = Amount::read(memory.limit(), &asked("memory.limit"))?;
    let swap = Amount::read(memory.swap(), &asked("memory.swap"))?;
    check_usage(memory, limit, current)?;
    if let (Some(limit), Some(Amount::Exactly(swap))) = (limit, swap)
        && limit.is_above(Some(swap))
    {
        return Err(invalid(&asked("memory.swap"), "memory and swap together are less than memory.limit"));
    }
    let mut settings = Vec::new();
    // The hierarchy flag first: it cannot change once there are children. 5.11 and newer know only 1.
    if let Some(hierarchy) = memory.use_hierarchy() {
        let one = Setting::new("memory.use_hierarchy", u8::from(hierarchy), asked("memory.useHierarchy"));
        settings.push(one.harmless_if(hierarchy));
    }
    settings.extend(limit_and_swap(limit, swap, current));
    if let Some(bytes) = Amount::read(memory.reservation(), &asked("memory.reservation"))? {
        settings.push(Setting::new("memory.soft_limit_in_bytes", bytes.v1(), asked("memory.reservation")));
    }
    settings.extend(kernel_memory(memory)?);
    if let Some(swappiness) = memory.swappiness() {
        settings.push(Setting::new("memory.swappiness", swappiness, asked("memory.swappiness")));
    }
    if memory.disable_oom_killer() == Some(true) {
        settings.push(Setting::new("memory.oom_control", 1, asked("memory.disableOOMKiller")));
    }
    Ok(settings)
}

/// `checkBeforeUpdate`: a limit below what is in use is refused, instead of killing.
pub(super) fn check_usage(memory: &LinuxMemory, limit: Option<Amount>, current: Option<&Current>) -> Result<()> {
    let used = current.and_then(|current| current.memory_usage);
    match (memory.check_before_update(), limit, used) {
        (Some(true), Some(Amount::Exactly(limit)), Some(used)) if used > limit => {
            Err(invalid(&asked("memory.limit"), format!("{limit} is below the {used} bytes in use")))
        }
        _ => Ok(()),
    }
}

/// The kernel holds `limit <= memsw` at every moment, so which goes first depends on where they stand.
fn limit_and_swap(limit: Option<Amount>, swap: Option<Amount>, current: Option<&Current>) -> Vec<Setting> {
    let above = limit.is_some_and(|limit| limit.is_above(current.and_then(|current| current.memory_and_swap)));
    let limit = limit.map(|it| Setting::new("memory.limit_in_bytes", it.v1(), asked("memory.limit")));
    let swap = swap.map(|it| {
        let setting = Setting::new("memory.memsw.limit_in_bytes", it.v1(), asked("memory.swap"));
        setting.harmless_if(it == Amount::Unlimited)
    });
    let in_order = if above { [swap, limit] } else { [limit, swap] };
    in_order.into_iter().flatten().collect()
}

fn kernel_memory(memory: &LinuxMemory) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    if let Some(bytes) = Amount::read(memory.kernel(), &asked("memory.kernel"))? {
        // Linux 5.16 and newer answer ENOTSUPP; no limit is what they have anyway.
        if bytes != Amount::Unlimited {
            settings.push(Setting::new("memory.kmem.limit_in_bytes", bytes.v1(), asked("memory.kernel")));
        }
    }
    if let Some(bytes) = Amount::read(memory.kernel_tcp(), &asked("memory.kernelTCP"))? {
        let setting = Setting::new("memory.kmem.tcp.limit_in_bytes", bytes.v1(), asked("memory.kernelTCP"));
        settings.push(setting.harmless_if(bytes == Amount::Unlimited));
    }
    Ok(settings)
}

/// On a live cgroup a new period is checked with the old quota, and a new quota with the old burst; lifting the quota
/// and the burst first makes each order valid. A new cgroup has neither.
fn cpu(cpu: &LinuxCpu, current: Option<&Current>) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    let mut set = |file: &str, value: String, name: &str| settings.push(Setting::new(file, value, asked(name)));
    let idle = idle(cpu)?;
    if idle == Some(0) && current.is_some() {
        set("cpu.idle", "0".to_owned(), "cpu.idle");
    }
    if let Some(shares) = cpu.shares().filter(|&shares| shares != 0) {
        set("cpu.shares", shares.to_string(), "cpu.shares");
    }
    let period = cpu.period().filter(|&period| period != 0);
    let quota = cpu.quota().filter(|&quota| quota != 0);
    if current.is_some() && cpu.burst().is_some() && quota.is_some() {
        set("cpu.cfs_burst_us", "0".to_owned(), "cpu.burst");
    }
    if current.is_some() && period.is_some() && quota.is_some() {
        set("cpu.cfs_quota_us", "-1".to_owned(), "cpu.quota");
    }
    if let Some(period) = period {
        set("cpu.cfs_period_us", period.to_string(), "cpu.period");
    }
    if let Some(quota) = quota {
        set("cpu.cfs_quota_us", quota.max(-1).to_string(), "cpu.quota");
    }
    if let Some(burst) = cpu.burst().filter(|&burst| burst != 0 || current.is_some()) {
        set("cpu.cfs_burst_us", burst.to_string(), "cpu.burst");
    }
    if let Some(period) = cpu.realtime_period().filter(|&period| period != 0) {
        set("cpu.rt_period_us", period.to_string(), "cpu.realtimePeriod");
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|&runtime| runtime != 0) {
        set("cpu.rt_runtime_us", runtime.to_string(), "cpu.realtimeRuntime");
    }
    // Last: the shares of an idle cgroup cannot be changed.
    if idle == Some(1) {
        set("cpu.idle", "1".to_owned(), "cpu.idle");
    }
    Ok(settings)
}

pub(super) fn idle(cpu: &LinuxCpu) -> Result<Option<i64>> {
    match cpu.idle() {
        None | Some(0 | 1) => Ok(cpu.idle()),
        Some(other) => Err(invalid(&asked("cpu.idle"), format!("{other} is neither 0 nor 1"))),
    }
}

/// The same two files on v2.
pub(super) fn cpuset(cpu: &LinuxCpu) -> Result<Vec<Setting>> {
    let cpus = list(cpu.cpus().as_ref(), &asked("cpu.cpus"))?;
    let mems = list(cpu.mems().as_ref(), &asked("cpu.mems"))?;
    let cpus = cpus.map(|list| Setting::new("cpuset.cpus", list, asked("cpu.cpus")));
    let mems = mems.map(|list| Setting::new("cpuset.mems", list, asked("cpu.mems")));
    Ok(cpus.into_iter().chain(mems).collect())
}

/// The same file on v2. The specification's only negative number is -1; the tools that write config.json use others. 0 lets
/// nobody in beyond those who are there, which for a newborn is the first process: the same as 1 (runc 1.4, too).
pub(super) fn pids(pids: &LinuxPids) -> Result<Vec<Setting>> {
    let value = match pids.limit() {
        0 => "1".to_owned(),
        limit if limit < 0 => "max".to_owned(),
        limit => limit.to_string(),
    };
    let setting = Setting::new("pids.max", &value, asked("pids.limit"));
    Ok(vec![setting.harmless_if(value == "max")])
}

fn block_io(io: &LinuxBlockIo) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    if io.leaf_weight().is_some_and(|weight| weight != 0) {
        return Err(no_leaf_weight("blockIO.leafWeight"));
    }
    if let Some(weight) = weight(io.weight(), &asked("blockIO.weight"))? {
        let otherwise = Absent::Otherwise { file: "blkio.weight".to_owned(), value: weight.to_string() };
        settings.push(Setting::new("blkio.bfq.weight", weight, asked("blockIO.weight")).absent(otherwise));
    }
    for (path, value) in weights_by_device(io)? {
        let otherwise = Absent::Otherwise { file: "blkio.weight_device".to_owned(), value: value.clone() };
        settings.push(Setting::new("blkio.bfq.weight_device", value, path).absent(otherwise));
    }
    for (name, list) in throttles(io) {
        let file = match name {
            "throttleReadBpsDevice" => "blkio.throttle.read_bps_device",
            "throttleWriteBpsDevice" => "blkio.throttle.write_bps_device",
            "throttleReadIOPSDevice" => "blkio.throttle.read_iops_device",
            _ => "blkio.throttle.write_iops_device",
        };
        for (index, limit) in list.iter().enumerate() {
            let path = asked(&format!("blockIO.{name}[{index}]"));
            let device = device(limit.major(), limit.minor(), &path)?;
            settings.push(Setting::new(file, format!("{device} {}", limit.rate()), path));
        }
    }
    Ok(settings)
}

/// Only the CFQ scheduler had leaf weights; it left Linux with 5.0.
fn no_leaf_weight(name: &str) -> crate::error::Error {
    unsupported(&asked(name), "the kernel has had no leaf weights since Linux 5.0")
}

/// `major:minor weight` with the JSON path of each.
pub(super) fn weights_by_device(io: &LinuxBlockIo) -> Result<Vec<(String, String)>> {
    let mut values = Vec::new();
    for (index, entry) in io.weight_device().iter().flatten().enumerate() {
        let name = format!("blockIO.weightDevice[{index}]");
        if entry.leaf_weight().is_some_and(|weight| weight != 0) {
            return Err(no_leaf_weight(&format!("{name}.leafWeight")));
        }
        let path = asked(&name);
        if let Some(weight) = weight(entry.weight(), &path)? {
            values.push((path.clone(), format!("{} {weight}", device(entry.major(), entry.minor(), &path)?)));
        }
    }
    Ok(values)
}

/// The four lists of throttled devices under their JSON names.
pub(super) fn throttles(io: &LinuxBlockIo) -> [(&'static str, &[LinuxThrottleDevice]); 4] {
    [
        ("throttleReadBpsDevice", io.throttle_read_bps_device().as_deref().unwrap_or_default()),
        ("throttleWriteBpsDevice", io.throttle_write_bps_device().as_deref().unwrap_or_default()),
        ("throttleReadIOPSDevice", io.throttle_read_iops_device().as_deref().unwrap_or_default()),
        ("throttleWriteIOPSDevice", io.throttle_write_iops_device().as_deref().unwrap_or_default()),
    ]
}

/// Both the pages in use and the pages reserved by mmap(2): with the first alone, a process over the limit is not
/// refused at mmap but killed by SIGBUS later (hugetlb.rst). Kernels before 5.7 have only the first.
fn hugepages(limits: &[LinuxHugepageLimit]) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    for (index, limit) in limits.iter().enumerate() {
        let path = asked(&format!("hugepageLimits[{index}]"));
        let size = page_size(limit.page_size(), &path)?;
        let value = limit.limit().max(-1);
        settings.push(Setting::new(format!("hugetlb.{size}.limit_in_bytes"), value, path.clone()));
        let reserved = Setting::new(format!("hugetlb.{size}.rsvd.limit_in_bytes"), value, path);
        settings.push(reserved.absent(Absent::Holds));
    }
    Ok(settings)
}

fn class_id(network: &LinuxNetwork) -> Result<Vec<Setting>> {
    let id = network.class_id().filter(|&id| id != 0);
    Ok(id.map(|id| Setting::new("net_cls.classid", id, asked("network.classID"))).into_iter().collect())
}

fn priorities(network: &LinuxNetwork) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    for (index, entry) in network.priorities().iter().flatten().enumerate() {
        let path = asked(&format!("network.priorities[{index}]"));
        if entry.name().is_empty() || entry.name().contains(char::is_whitespace) {
            return Err(invalid(&path, format!("{:?} is no interface name", entry.name())));
        }
        settings.push(Setting::new("net_prio.ifpriomap", format!("{} {}", entry.name(), entry.priority()), path));
    }
    Ok(settings)
}

/// The same file on v2.
pub(super) fn rdma(rdma: &HashMap<String, LinuxRdma>) -> Vec<Setting> {
    let mut settings = Vec::new();
    for (name, limit) in rdma {
        let handles = limit.hca_handles().map(|count| format!(" hca_handle={count}")).unwrap_or_default();
        let objects = limit.hca_objects().map(|count| format!(" hca_object={count}")).unwrap_or_default();
        if !(handles.is_empty() && objects.is_empty()) {
            let value = format!("{name}{handles}{objects}");
            settings.push(Setting::new("rdma.max", value, asked(&format!("rdma.{name}"))));
        }
    }
    settings.sort_by(|a, b| a.asked.cmp(&b.asked));
    settings
}
