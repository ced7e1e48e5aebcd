//! `podrun oci` beside crun and runc, on the same bundles: each of runc's verbs that somebody waits for.

#![forbid(unsafe_code)]

use crate::bundle::From;
use crate::measure::{Contender, Pace, Series, interleave, millis, resident_in, time_in};
use crate::report::{Better, Row, Want};
use crate::rows::{Place, Size};
use crate::runtime::{Oci, crowd};
use std::io;
use std::path::PathBuf;

/// What podrun wants to be at most, of crun's time.
const GOAL: f64 = 0.6;

impl<'a> Place<'a> {
    /// podrun, those that work here, and the newest runc where there is one.
    fn runtimes(&self) -> io::Result<Vec<Oci<'a>>> {
        let short = self.cgroups.split(' ').next().unwrap_or_default();
        let made = |name: &'static str, program: &[&str]| Oci::new(name, program, self.view, self.ground, short);
        let mut all = vec![made("podrun", &[&self.ground.podrun, "oci"])?];
        for other in &self.others {
            all.push(made(other.name, &[other.name])?);
        }
        if let Some(newest) = &self.ground.newest_runc {
            all.push(made("newest runc", &[newest])?);
        }
        all.retain(|one| one.name == "podrun" || one.try_it().is_ok());
        Ok(all)
    }

    fn contest(
        &self,
        what: &str,
        size: Size,
        program: &str,
        once: impl Fn(&Oci<'a>, &PathBuf) -> io::Result<std::time::Duration>,
    ) -> io::Result<Row> {
        let runtimes = self.runtimes()?;
        let once = &once;
        let mut contenders = Vec::new();
        for one in &runtimes {
            let bundle = one.bundle("verbs", program, From::New)?;
            contenders.push(Contender::new(one.name, move || once(one, &bundle)));
        }
        let series = interleave(&mut contenders, size.hot, Pace::Hot)?;
        let row = Row::times(format!("podrun oci: {what} ({})", self.cgroups), series);
        Ok(row.ratio("podrun", Want::AtMost, GOAL, "crun"))
    }

    pub(crate) fn oci_lives(&self, size: Size) -> io::Result<Row> {
        self.contest("create, start, delete", size, "/empty", |one, bundle| {
            let id = one.fresh();
            let create = one.argv(&format!("create --bundle {} {id}", bundle.display()));
            let (start, delete) = (one.argv(&format!("start {id}")), one.argv(&format!("delete --force {id}")));
            time_in(self.view, vec![create, start, delete], &self.ground.dir)
        })
    }

    pub(crate) fn oci_runs(&self, size: Size) -> io::Result<Row> {
        self.contest("run", size, "/empty", |one, bundle| one.run(bundle))
    }

    /// On one container that stays.
    pub(crate) fn oci_verbs(&self, size: Size, what: &str, verb: &str) -> io::Result<Row> {
        let runtimes = self.runtimes()?;
        let mut contenders = Vec::new();
        for one in &runtimes {
            one.start(&one.bundle("stays", "/sleep", From::New)?, "stays")?;
            let line = one.argv(verb);
            contenders.push(Contender::new(one.name, move || time_in(self.view, vec![line.clone()], &self.ground.dir)));
        }
        let series = interleave(&mut contenders, size.hot, Pace::Hot);
        drop(contenders);
        runtimes.iter().try_for_each(|one| one.delete("stays"))?;
        let row = Row::times(format!("podrun oci: {what} ({})", self.cgroups), series?);
        Ok(row.ratio("podrun", Want::AtMost, GOAL, "crun"))
    }

    pub(crate) fn oci_crowd(&self, size: Size) -> io::Result<Row> {
        let mut series = Vec::new();
        for one in self.runtimes()? {
            let lines = (0..size.at_once).map(|n| {
                let bundle = one.bundle(&format!("crowd-{n}"), "/empty", From::New)?;
                Ok(vec![one.run_line(&bundle)])
            });
            let (all, _) = crowd(self.view, lines.collect::<io::Result<_>>()?, &self.ground.dir)?;
            series.push(Series::of(one.name, vec![millis(all)]));
        }
        let row =
            Row::times(format!("podrun oci: {} runs at once, until the last ({})", size.at_once, self.cgroups), series);
        Ok(row.ratio("podrun", Want::AtMost, GOAL, "crun"))
    }

    /// The most memory that `create` itself has at once.
    pub(crate) fn oci_memory(&self) -> io::Result<Row> {
        let mut series = Vec::new();
        for one in self.runtimes()? {
            let bundle = one.bundle("resident", "/sleep", From::New)?;
            let create = one.argv(&format!("create --bundle {} resident", bundle.display()));
            let kibibytes = resident_in(self.view, create)?;
            one.delete("resident")?;
            series.push(Series::of(one.name, vec![kibibytes]));
        }
        let title = format!("podrun oci: memory of create ({})", self.cgroups);
        let row = Row { title, unit: "KiB", better: Better::Less, series, goals: Vec::new() };
        Ok(row.ratio("podrun", Want::AtMost, 1.0, "crun"))
    }
}
