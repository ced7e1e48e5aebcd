//! All that a cgroup counts, in the words and units of `runc events --stats`, which are cgroup v1's. What this host does not
//! count is left out, as a zero is by runc.

#![forbid(unsafe_code)]

use super::layout::Controller;
use super::live::{Cgroup, Open};
use super::oom::field;
use super::plan::Dialect;
use serde_json::{Map, Value, json};

impl Cgroup {
    pub fn counted(&self) -> Value {
        json!({
            "cpu": self.cpu(),
            "cpuset": {},
            "memory": self.memory(),
            "pids": self.pids(),
            "blkio": self.block_io(),
            "hugetlb": self.huge_pages(),
            "intel_rdt": {},
            "network_interfaces": null,
        })
    }

    fn cpu(&self) -> Value {
        let mut usage = json!({"total": self.stats().cpu_nanoseconds.unwrap_or(0)});
        let mut throttling = json!({});
        if let Some(open) = self.controller(Controller::Cpuacct).filter(|open| open.dialect == Dialect::V1) {
            // cpuacct.txt: in units of USER_HZ, a hundredth of a second on every architecture that podrun knows.
            let ticks = open.text("cpuacct.stat");
            usage["user"] = json!(field(&ticks, "user").unwrap_or(0) * 10_000_000);
            usage["kernel"] = json!(field(&ticks, "system").unwrap_or(0) * 10_000_000);
            usage["percpu"] = json!(numbers(&open.text("cpuacct.usage_percpu")));
        } else if let Some(open) = self.unified() {
            let text = open.text("cpu.stat");
            usage["user"] = json!(field(&text, "user_usec").unwrap_or(0) * 1000);
            usage["kernel"] = json!(field(&text, "system_usec").unwrap_or(0) * 1000);
        }
        if let Some(open) = self.controller(Controller::Cpu) {
            let text = open.text("cpu.stat");
            let time = field(&text, "throttled_time").or_else(|| Some(field(&text, "throttled_usec")? * 1000));
            throttling["periods"] = json!(field(&text, "nr_periods"));
            throttling["throttledPeriods"] = json!(field(&text, "nr_throttled"));
            throttling["throttledTime"] = json!(time);
        }
        json!({"usage": usage, "throttling": throttling})
    }

    fn memory(&self) -> Value {
        let Some(open) = self.controller(Controller::Memory) else { return json!({}) };
        let raw: Map<String, Value> = pairs(&open.text("memory.stat")).collect();
        let is_v1 = open.dialect == Dialect::V1;
        let cache = raw.get(if is_v1 { "cache" } else { "file" }).cloned().unwrap_or_default();
        let mut memory = json!({"cache": cache});
        if is_v1 {
            for (key, prefix) in [
                ("usage", "memory"),
                ("swap", "memory.memsw"),
                ("kernel", "memory.kmem"),
                ("kernelTCP", "memory.kmem.tcp"),
            ] {
                memory[key] =
                    entry(open, prefix, ["limit_in_bytes", "usage_in_bytes", "max_usage_in_bytes", "failcnt"]);
            }
        } else {
            memory["usage"] = entry(open, "memory", ["max", "current", "peak", ""]);
            memory["usage"]["failcnt"] = json!(field(&open.text("memory.events"), "max").unwrap_or(0));
            // As on v1 both together.
            let sum = |file: &str, of_memory: &str| {
                let (swap, memory) = (open.text(&format!("memory.swap.{file}")), open.text(of_memory));
                limit(&swap).unwrap_or(0).saturating_add(limit(&memory).unwrap_or(0))
            };
            memory["swap"] =
                json!({"limit": sum("max", "memory.max"), "usage": sum("current", "memory.current"), "failcnt": 0});
        }
        memory["raw"] = Value::Object(raw);
        memory
    }

    fn pids(&self) -> Value {
        let Some(open) = self.controller(Controller::Pids) else { return json!({}) };
        let mut pids = json!({"current": limit(&open.text("pids.current"))});
        // None is none.
        if let Ok(most) = open.text("pids.max").trim().parse::<u64>() {
            pids["limit"] = json!(most);
        }
        pids
    }

    fn block_io(&self) -> Value {
        let Some(open) = self.controller(Controller::Io) else { return json!({}) };
        match open.dialect {
            Dialect::V1 => json!({
                "ioServiceBytesRecursive": by_operation(&open.text("blkio.throttle.io_service_bytes_recursive")),
                "ioServicedRecursive": by_operation(&open.text("blkio.throttle.io_serviced_recursive")),
            }),
            Dialect::V2 => {
                let text = open.text("io.stat");
                json!({
                    "ioServiceBytesRecursive": by_key(&text, [("rbytes", "Read"), ("wbytes", "Write")]),
                    "ioServicedRecursive": by_key(&text, [("rios", "Read"), ("wios", "Write")]),
                })
            }
        }
    }

    fn huge_pages(&self) -> Value {
        let mut sizes = Map::new();
        let Some(open) = self.controller(Controller::Hugetlb) else { return Value::Object(sizes) };
        let usage = if open.dialect == Dialect::V1 { ".usage_in_bytes" } else { ".current" };
        for name in open.names() {
            let size = name.strip_prefix("hugetlb.").and_then(|rest| rest.strip_suffix(usage));
            let Some(size) = size.filter(|size| !size.contains('.')) else { continue };
            let number = |file: &str| limit(&open.text(&format!("hugetlb.{size}.{file}"))).unwrap_or(0);
            let counted = match open.dialect {
                Dialect::V1 => {
                    json!({"usage": number("usage_in_bytes"), "max": number("max_usage_in_bytes"), "failcnt": number("failcnt")})
                }
                Dialect::V2 => {
                    let events = open.text(&format!("hugetlb.{size}.events"));
                    json!({"usage": number("current"), "failcnt": field(&events, "max").unwrap_or(0)})
                }
            };
            sizes.insert(size.to_owned(), counted);
        }
        Value::Object(sizes)
    }
}

impl Open {
    /// What is not there counts nothing.
    fn text(&self, file: &str) -> String {
        self.read(file).unwrap_or_default()
    }
}

fn entry(open: &Open, prefix: &str, files: [&str; 4]) -> Value {
    let number = |file: &str| limit(&open.text(&format!("{prefix}.{file}"))).unwrap_or(0);
    json!({"limit": number(files[0]), "usage": number(files[1]), "max": number(files[2]), "failcnt": number(files[3])})
}

/// A number, or `max`, which is the largest.
fn limit(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// `name value` on a line each.
fn pairs(text: &str) -> impl Iterator<Item = (String, Value)> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, value)| value.parse::<u64>().ok().map(|value| (name.to_owned(), json!(value))))
}

fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// v1: `8:0 Read 4096`.
fn by_operation(text: &str) -> Vec<Value> {
    let line = |line: &str| match line.split(' ').collect::<Vec<_>>()[..] {
        [of, operation, value] => {
            let ((major, minor), value) = (device(of)?, value.parse::<u64>().ok()?);
            Some(json!({"major": major, "minor": minor, "op": operation, "value": value}))
        }
        _ => None,
    };
    text.lines().filter_map(line).collect()
}

/// v2: `8:0 rbytes=4096 wbytes=0`.
fn by_key(text: &str, keys: [(&str, &str); 2]) -> Vec<Value> {
    let mut all = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(device) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let operation = keys.iter().find(|(known, _)| *known == key);
            if let (Some((_, operation)), Ok(value)) = (operation, value.parse::<u64>()) {
                all.push(json!({"major": major, "minor": minor, "op": operation, "value": value}));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_devices_did_reads_the_same_on_v1_and_v2() {
        let all = [
            json!({"major": 8, "minor": 16, "op": "Read", "value": 4096}),
            json!({"major": 8, "minor": 16, "op": "Write", "value": 7}),
        ];
        assert_eq!(by_operation("8:16 Read 4096\n8:16 Write 7\nTotal 4103\n"), all);
        let keys = [("rbytes", "Read"), ("wbytes", "Write")];
        assert_eq!(by_key("8:16 rbytes=4096 wbytes=7 rios=1 dios=0\n8:0 \n", keys), all);
    }

    #[test]
    fn no_limit_is_the_largest_number() {
        assert_eq!((limit("max\n"), limit("12\n"), limit("")), (Some(u64::MAX), Some(12), None));
        let raw: Vec<_> = pairs("anon 5\nfile x\n").collect();
        assert_eq!(raw, [("anon".to_owned(), json!(5))]);
    }
}
