//! The v2 dialect: what config.json asks, as files of the unified tree (cgroup-v2.rst of the kernel's documentation).
//!
//! Pure. config.json speaks v1; where v2 counts otherwise, the conversion stands here, and a word that v2 does not have
//! is an error, never silence.

#![forbid(unsafe_code)]

use super::layout::Controller;
use super::limit::Absent;
use super::limit::Amount;
use super::limit::Current;
use super::limit::Setting;
use super::limit::{asked, device, invalid, page_size, unsupported, weight};
use super::v1;
use crate::error::Result;
use oci_spec::runtime::LinuxBlockIo;
use oci_spec::runtime::LinuxCpu;
use oci_spec::runtime::LinuxHugepageLimit;
use oci_spec::runtime::LinuxMemory;
use oci_spec::runtime::LinuxResources;
use std::collections::BTreeMap;

/// What `resources` asks of one controller. `current` is None for a cgroup that is about to be made.
pub(super) fn settings(it: Controller, asked: &LinuxResources, current: Option<&Current>) -> Result<Vec<Setting>> {
    let settings = match it {
        Controller::Memory => asked.memory().as_ref().map(|memory| self::memory(memory, current)),
        Controller::Cpu => asked.cpu().as_ref().map(|cpu| self::cpu(cpu, current)),
        Controller::Cpuset => asked.cpu().as_ref().map(v1::cpuset),
        Controller::Pids => asked.pids().as_ref().map(v1::pids),
        Controller::Io => asked.block_io().as_ref().map(block_io),
        Controller::Hugetlb => asked.hugepage_limits().as_deref().map(hugepages),
        Controller::Rdma => asked.rdma().as_ref().map(|rdma| Ok(v1::rdma(rdma))),
        _ => None,
    };
    settings.unwrap_or_else(|| Ok(Vec::new()))
}

fn memory(memory: &LinuxMemory, current: Option<&Current>) -> Result<Vec<Setting>> {
    refuse_v1_words(memory)?;
    let limit = Amount::read(memory.limit(), &asked("memory.limit"))?;
    v1::check_usage(memory, limit, current)?;
    let mut settings = Vec::new();
    if let Some(limit) = limit {
        let setting = Setting::new("memory.max", limit.v2(), asked("memory.limit"));
        settings.push(setting.harmless_if(limit == Amount::Unlimited));
    }
    let known = limit.or(current.and_then(|current| current.memory_limit).map(Amount::Exactly));
    if let Some(swap) = swap_max(known, Amount::read(memory.swap(), &asked("memory.swap"))?)? {
        // A kernel that does not account swap has no such file; then no swap and no limit hold, a number does not.
        let setting = Setting::new("memory.swap.max", swap.v2(), asked("memory.swap"));
        settings.push(setting.harmless_if(matches!(swap, Amount::Unlimited | Amount::Exactly(0))));
    }
    if let Some(bytes) = Amount::read(memory.reservation(), &asked("memory.reservation"))? {
        settings.push(Setting::new("memory.low", bytes.v2(), asked("memory.reservation")));
    }
    Ok(settings)
}

fn refuse_v1_words(memory: &LinuxMemory) -> Result<()> {
    let number = |value: Option<i64>| value.is_some_and(|value| value > 0);
    let words = [
        ("memory.kernel", number(memory.kernel())),
        ("memory.kernelTCP", number(memory.kernel_tcp())),
        ("memory.swappiness", memory.swappiness().is_some()),
        ("memory.disableOOMKiller", memory.disable_oom_killer() == Some(true)),
        ("memory.useHierarchy", memory.use_hierarchy() == Some(false)),
    ];
    match words.into_iter().find(|(_, wanted)| *wanted) {
        Some((name, _)) => Err(unsupported(&asked(name), "cgroup v2 has no such setting")),
        None => Ok(()),
    }
}

/// config.json limits memory and swap together, v2 swap alone. Unlimited memory alone takes the limit off swap too, as
/// it does on v1, where swap could not be limited otherwise.
fn swap_max(limit: Option<Amount>, swap: Option<Amount>) -> Result<Option<Amount>> {
    let path = asked("memory.swap");
    match (limit, swap) {
        (Some(Amount::Unlimited), None) | (_, Some(Amount::Unlimited)) => Ok(Some(Amount::Unlimited)),
        (_, None) => Ok(None),
        (None | Some(Amount::Unlimited), Some(Amount::Exactly(_))) => {
            Err(invalid(&path, "it is the sum of memory and swap, and memory.limit is not set"))
        }
        (Some(Amount::Exactly(limit)), Some(Amount::Exactly(swap))) => match swap.checked_sub(limit) {
            Some(rest) => Ok(Some(Amount::Exactly(rest))),
            None => Err(invalid(&path, "memory and swap together are less than memory.limit")),
        },
    }
}

fn cpu(cpu: &LinuxCpu, current: Option<&Current>) -> Result<Vec<Setting>> {
    if cpu.realtime_runtime().is_some_and(|runtime| runtime != 0) {
        return Err(unsupported(&asked("cpu.realtimeRuntime"), "cgroup v2 has no such setting"));
    }
    if cpu.realtime_period().is_some_and(|period| period != 0) {
        return Err(unsupported(&asked("cpu.realtimePeriod"), "cgroup v2 has no such setting"));
    }
    let mut settings = Vec::new();
    let mut set = |file: &str, value: String, name: &str| settings.push(Setting::new(file, value, asked(name)));
    let idle = v1::idle(cpu)?;
    if idle == Some(0) && current.is_some() {
        set("cpu.idle", "0".to_owned(), "cpu.idle");
    }
    if let Some(shares) = cpu.shares().filter(|&shares| shares != 0) {
        set("cpu.weight", weight_of_shares(shares).to_string(), "cpu.shares");
    }
    let max = cpu_max(cpu, current);
    // A new quota is checked with the old burst.
    if current.is_some() && cpu.burst().is_some() && max.is_some() {
        set("cpu.max.burst", "0".to_owned(), "cpu.burst");
    }
    if let Some((value, name)) = max {
        set("cpu.max", value, name);
    }
    if let Some(burst) = cpu.burst().filter(|&burst| burst != 0 || current.is_some()) {
        set("cpu.max.burst", burst.to_string(), "cpu.burst");
    }
    // Last: the weight of an idle cgroup cannot be changed.
    if idle == Some(1) {
        set("cpu.idle", "1".to_owned(), "cpu.idle");
    }
    Ok(settings)
}

/// `quota period` in one file. A quota alone leaves the period; a period alone has to repeat the quota.
fn cpu_max(cpu: &LinuxCpu, current: Option<&Current>) -> Option<(String, &'static str)> {
    let quota = cpu.quota().filter(|&quota| quota != 0);
    let period = cpu.period().filter(|&period| period != 0);
    let text = |quota: Option<u64>| quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
    match (quota.map(|quota| u64::try_from(quota).ok()), period) {
        (None, None) => None,
        (Some(quota), None) => Some((text(quota), "cpu.quota")),
        (Some(quota), Some(period)) => Some((format!("{} {period}", text(quota)), "cpu.quota")),
        (None, Some(period)) => {
            let quota = current.and_then(|current| current.cpu_quota);
            Some((format!("{} {period}", text(quota)), "cpu.period"))
        }
    }
}

/// Shares (2 to 262144, 1024 by default) to weight (1 to 10000, 100 by default) by the quadratic in log2(shares) that
/// meets all three points: `10^((l² + 125l) / 612 - 7/34)`. runc 1.3.2, crun 1.23 and newer convert so; the linear
/// formula before gave the default shares a weight of 39 and made every small request smaller still
/// (kubernetes#131216).
fn weight_of_shares(shares: u64) -> u32 {
    let Ok(shares) = u32::try_from(shares.clamp(2, 262_144)) else { return 10_000 };
    let l = f64::from(shares).log2();
    let exact = 10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0);
    // The smallest weight that is not below: rounding up without a cast.
    let (mut low, mut high) = (1, 10_000);
    while low < high {
        let middle = (low + high) / 2;
        match f64::from(middle) < exact {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    low
}

fn block_io(io: &LinuxBlockIo) -> Result<Vec<Setting>> {
    if io.leaf_weight().is_some_and(|weight| weight != 0) {
        return Err(unsupported(&asked("blockIO.leafWeight"), "cgroup v2 has no such setting"));
    }
    let mut settings = Vec::new();
    if let Some(weight) = weight(io.weight(), &asked("blockIO.weight"))? {
        let converted = 1 + (u32::from(weight) - 10) * 9_999 / 990;
        let otherwise = Absent::Otherwise { file: "io.weight".to_owned(), value: format!("default {converted}") };
        settings.push(Setting::new("io.bfq.weight", weight, asked("blockIO.weight")).absent(otherwise));
    }
    for (path, value) in v1::weights_by_device(io)? {
        settings.push(Setting::new("io.bfq.weight", value, path));
    }
    for (name, list) in v1::throttles(io) {
        let key = match name {
            "throttleReadBpsDevice" => "rbps",
            "throttleWriteBpsDevice" => "wbps",
            "throttleReadIOPSDevice" => "riops",
            _ => "wiops",
        };
        for (index, limit) in list.iter().enumerate() {
            let path = asked(&format!("blockIO.{name}[{index}]"));
            let device = device(limit.major(), limit.minor(), &path)?;
            // 0 takes a throttle off on v1; v2 calls that max.
            let rate = if limit.rate() == 0 { "max".to_owned() } else { limit.rate().to_string() };
            settings.push(Setting::new("io.max", format!("{device} {key}={rate}"), path));
        }
    }
    Ok(settings)
}

fn hugepages(limits: &[LinuxHugepageLimit]) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    for (index, limit) in limits.iter().enumerate() {
        let path = asked(&format!("hugepageLimits[{index}]"));
        let size = page_size(limit.page_size(), &path)?;
        let value = u64::try_from(limit.limit()).map_or_else(|_| "max".to_owned(), |bytes| bytes.to_string());
        settings.push(Setting::new(format!("hugetlb.{size}.max"), &value, path.clone()));
        let reserved = Setting::new(format!("hugetlb.{size}.rsvd.max"), value, path);
        settings.push(reserved.absent(Absent::Holds));
    }
    Ok(settings)
}

/// `linux.resources.unified`: files of the unified tree as they are, each with the controller that it needs.
///
/// The core's own files move and kill processes or reshape the tree; of these only the harmless ones are let through.
pub(super) fn unified(resources: &LinuxResources) -> Result<Vec<(Option<Controller>, Setting)>> {
    let sorted: BTreeMap<_, _> = resources.unified().iter().flatten().collect();
    let mut settings = Vec::new();
    for (file, value) in sorted {
        let path = asked(&format!("unified[{file:?}]"));
        let controller = controller_of(file, &path)?;
        for line in value.lines() {
            settings.push((controller, Setting::new(file, line, path.clone())));
        }
    }
    Ok(settings)
}

fn controller_of(file: &str, path: &str) -> Result<Option<Controller>> {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let Some((prefix, rest)) = file.split_once('.').filter(|_| file.bytes().all(word)) else {
        return Err(invalid(path, "it is no file name such as memory.high"));
    };
    if prefix == "cgroup" {
        return match rest {
            "max.depth" | "max.descendants" | "pressure" => Ok(None),
            _ => Err(invalid(path, "podrun itself looks after this file")),
        };
    }
    match Controller::ALL.into_iter().find(|it| it.v2_name() == Some(prefix)) {
        Some(controller) => Ok(Some(controller)),
        None => Err(unsupported(path, format!("podrun knows no cgroup v2 controller {prefix:?}"))),
    }
}
