//! What a pod's own processes weigh: pause, monitor and pump, in private pages and in shares of shared ones.

#![forbid(unsafe_code)]

use crate::measure::Series;
use crate::report::{Better, Row, Want};
use crate::rows::{Place, Size};
use std::io;
use std::time::Duration;

const KEEPERS: [&str; 3] = ["pause", "monitor", "pump"];

/// KiB.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Weight {
    private: f64,
    pss: f64,
}

/// proc_pid_smaps_rollup: sums of lines like `Private_Dirty:   12 kB`.
fn weigh(rollup: &str) -> Weight {
    let sum = |prefix: &str| -> f64 {
        let lines = rollup.lines().filter_map(|line| line.split_once(':')).filter(|(key, _)| key.starts_with(prefix));
        lines.filter_map(|(_, rest)| rest.split_whitespace().next()?.parse::<f64>().ok()).sum()
    };
    // "Pss:" has kin that break it down: Pss_Dirty, Pss_Anon and others.
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse().ok());
    Weight { private: sum("Private_Clean") + sum("Private_Dirty"), pss: pss.unwrap_or(f64::NAN) }
}

impl Place<'_> {
    fn weigh_pod(&self, containers: usize) -> io::Result<Vec<(&'static str, Weight)>> {
        self.podrun.ok("create pod heavy")?;
        for n in 0..containers {
            self.podrun.start(&format!("heavy/c{n}"))?;
        }
        // What a birth took is given back by then.
        std::thread::sleep(Duration::from_secs(1));
        let weights = KEEPERS.into_iter().map(|keeper| {
            let pid = self.podrun.pid("heavy", keeper)?;
            Ok((keeper, weigh(&std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?)))
        });
        let weights = weights.collect::<io::Result<Vec<_>>>()?;
        self.podrun.ok("delete pod heavy --force")?;
        Ok(weights)
    }

    pub(crate) fn memory(&self, size: Size) -> io::Result<Row> {
        let mut series = Vec::new();
        // The only pod of a host: whatever of podrun's program only its monitor uses counts as its own.
        let alone: f64 = self.weigh_pod(3)?.iter().map(|(_, weight)| weight.private).sum();
        // The others beside a neighbour, with whom they share the program: what one more pod costs.
        self.podrun.ok("create pod neighbour")?;
        self.podrun.start("neighbour/a")?;
        let mut reached = f64::NAN;
        for containers in [3, size.big_pod] {
            let mut all = Weight { private: 0.0, pss: 0.0 };
            for (keeper, weight) in self.weigh_pod(containers)? {
                series.push(Series::of(&format!("pod of {containers}: {keeper}, private"), vec![weight.private]));
                all = Weight { private: all.private + weight.private, pss: all.pss + weight.pss };
            }
            series.push(Series::of(&format!("pod of {containers}: all, private"), vec![all.private]));
            series.push(Series::of(&format!("pod of {containers}: all, PSS"), vec![all.pss]));
            if containers == 3 {
                reached = all.private;
            }
        }
        series.push(Series::of("the only pod, of 3: all, private", vec![alone]));
        self.podrun.ok("delete pod neighbour --force")?;
        let title = format!("Memory of a pod's own processes ({})", self.cgroups);
        let row = Row { title, unit: "KiB", better: Better::Less, series, goals: Vec::new() };
        Ok(row.goal("private beside another pod, pod of 3, KiB", Want::AtMost, 512.0, reached).goal(
            "the next goal for the same, KiB",
            Want::AtMost,
            256.0,
            reached,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_summed_and_the_kin_of_pss_are_not() {
        let text = "00400000-7ffc [rollup]\nRss: 100 kB\nPss: 40 kB\nPss_Dirty: 8 kB\nShared_Clean: 60 kB\n\
                    Private_Clean: 12 kB\nPrivate_Dirty: 28 kB\nPrivate_Hugetlb: 0 kB\n";
        assert_eq!(weigh(text), Weight { private: 40.0, pss: 40.0 });
    }
}
