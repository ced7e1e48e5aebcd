//! What is measured: one function for each row of the table, or for a few that need the same ground.

#![forbid(unsafe_code)]

use crate::bundle::From;
use crate::measure::{Contender, Pace, Series, float, interleave, millis, time_in};
use crate::report::{Better, Row, Want};
use crate::runtime::{Ground, Oci, Podman, Podrun, crowd};
use crate::world::View;
use std::io;
use std::time::{Duration, Instant};

/// How often each thing is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) hot: usize,
    pub(crate) rest: usize,
    pub(crate) podman: usize,
    pub(crate) sustained: Duration,
    pub(crate) many_pods: usize,
    pub(crate) at_once: usize,
    pub(crate) births: usize,
    pub(crate) megabytes: usize,
    pub(crate) pumps: usize,
    pub(crate) big_pod: usize,
    pub(crate) many_ports: u16,
    /// Megabytes of one connection.
    pub(crate) poured: usize,
}

impl Size {
    pub(crate) const FULL: Self = Self {
        hot: 60,
        rest: 25,
        podman: 7,
        sustained: Duration::from_secs(4),
        many_pods: 300,
        at_once: 50,
        births: 200,
        megabytes: 200,
        pumps: 5,
        big_pod: 30,
        many_ports: 1000,
        poured: 1000,
    };

    /// To see that the bench works; its numbers mean little.
    pub(crate) const SHORT: Self = Self {
        hot: 3,
        rest: 1,
        podman: 1,
        sustained: Duration::from_millis(200),
        many_pods: 5,
        at_once: 4,
        births: 3,
        megabytes: 5,
        pumps: 1,
        big_pod: 4,
        many_ports: 5,
        poured: 20,
    };

    fn rounds(&self, pace: Pace) -> usize {
        match pace {
            Pace::Hot => self.hot,
            Pace::FromRest => self.rest,
        }
    }
}

/// A view, podrun in it, and the runtimes that work there.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) cgroups: &'static str,
    pub(crate) view: &'a View,
    pub(crate) ground: &'a Ground,
    pub(crate) podrun: Podrun<'a>,
    pub(crate) others: Vec<Oci<'a>>,
}

impl<'a> Place<'a> {
    /// What does not work here is said in `left_out`.
    pub(crate) fn new(
        cgroups: &'static str,
        view: &'a View,
        ground: &'a Ground,
        left_out: &mut Vec<String>,
    ) -> io::Result<Self> {
        let short = cgroups.split(' ').next().unwrap_or_default();
        let podrun = Podrun::new(view, ground, short)?;
        let mut others = Vec::new();
        for name in ["crun", "runc"] {
            let other = Oci::new(name, &[name], view, ground, short)?;
            match other.try_it() {
                Ok(()) => others.push(other),
                Err(err) => left_out.push(format!("{name} on {cgroups}: {err}")),
            }
        }
        Ok(Self { cgroups, view, ground, podrun, others })
    }

    fn title(&self, what: &str, pace: Pace) -> String {
        format!("{what}, {} ({})", pace.word(), self.cgroups)
    }

    /// One container of the empty program in a pod that is there.
    pub(crate) fn run(&self, size: Size, pace: Pace) -> io::Result<Row> {
        self.podrun.ok("create pod warm")?;
        let pause = self.podrun.pid("warm", "pause")?;
        let mut floor =
            self.ground.floor(self.view, &["run", &self.ground.rootfs.to_string_lossy(), &pause.to_string()])?;
        let mut contenders = vec![Contender::new("podrun", || self.podrun.run("warm"))];
        for other in &self.others {
            let bundle = other.bundle("in-pod", "/empty", From::Process(pause))?;
            contenders.push(Contender::new(other.name, move || other.run(&bundle)));
        }
        contenders.push(Contender::new("floor", || floor.once()));
        let series = interleave(&mut contenders, size.rounds(pace), pace)?;
        drop(contenders);
        self.podrun.ok("delete pod warm --force")?;
        let row = Row::times(self.title("Run one container in a pod", pace), series);
        Ok(row.ratio("podrun", Want::AtMost, 0.5, "crun").ratio("podrun", Want::AtMost, 2.0, "floor"))
    }

    pub(crate) fn exec(&self, size: Size, pace: Pace) -> io::Result<Row> {
        self.podrun.ok("create pod warm")?;
        self.podrun.start("warm/a")?;
        let pause = self.podrun.pid("warm", "pause")?;
        let init = self.podrun.container_pid("warm", "a")?;
        let mut floor = self.ground.floor(self.view, &["exec", &init.to_string()])?;
        let mut contenders = vec![Contender::new("podrun", || self.podrun.exec("warm/a"))];
        for other in &self.others {
            let bundle = other.bundle("exec", "/sleep", From::Process(pause))?;
            other.start(&bundle, "stays")?;
            contenders.push(Contender::new(other.name, move || other.exec("stays")));
        }
        contenders.push(Contender::new("floor", || floor.once()));
        let series = interleave(&mut contenders, size.rounds(pace), pace)?;
        drop(contenders);
        self.others.iter().try_for_each(|other| other.delete("stays"))?;
        self.podrun.ok("delete pod warm --force")?;
        let row = Row::times(self.title("Exec in a container", pace), series);
        Ok(row.ratio("podrun", Want::AtMost, 0.5, "crun"))
    }

    /// A pod on the bridge: made, `containers` run one after the other, removed; beside as many bare containers.
    pub(crate) fn pod(&self, size: Size, pace: Pace, containers: usize) -> io::Result<Row> {
        let (holder, rootfs) = (self.ground.in_rootfs("sleep"), self.ground.rootfs.to_string_lossy().into_owned());
        let mut floor = self.ground.floor(self.view, &["pod", &holder, &rootfs, &containers.to_string()])?;
        let mut contenders = vec![Contender::new("podrun", || self.podrun.live(containers))];
        for other in &self.others {
            let bundle = other.bundle("bare", "/empty", From::New)?;
            contenders.push(Contender::new(other.name, move || other.runs(&bundle, containers)));
        }
        contenders.push(Contender::new("floor", || floor.once()));
        let series = interleave(&mut contenders, size.rounds(pace), pace)?;
        let row = Row::times(
            self.title(&format!("Pod of {containers}: up, run, gone; others bare containers"), pace),
            series,
        );
        let row = row.ratio("podrun", Want::AtMost, 2.0, "floor");
        Ok(if containers == 1 { row.ratio("podrun", Want::AtMost, 1.0, "crun") } else { row })
    }

    pub(crate) fn podman(&self, size: Size, containers: usize) -> io::Result<Row> {
        let podman = Podman::new(self.view, self.ground)?;
        let mut contenders = vec![
            Contender::new("podrun", || self.podrun.live(containers)),
            Contender::new("podman", || podman.live(containers)),
        ];
        let series = interleave(&mut contenders, size.podman, Pace::Hot)?;
        let row = Row::times(format!("Pod of {containers}: up, run, gone, beside podman's ({})", self.cgroups), series);
        Ok(if containers == 1 { row.ratio("podrun", Want::AtMost, 1.0 / 60.0, "podman") } else { row })
    }

    /// Pods of one, a while long, one after the other and four at a time: how many a second.
    pub(crate) fn sustained(&self, size: Size) -> io::Result<Row> {
        let (holder, rootfs) = (self.ground.in_rootfs("sleep"), self.ground.rootfs.to_string_lossy().into_owned());
        let mut floor = self.ground.floor(self.view, &["pod", &holder, &rootfs, "1"])?;
        let mut series = Vec::new();
        for (name, side_by_side) in [("podrun", 1), ("podrun, four at a time", 4)] {
            let (start, mut pods) = (Instant::now(), 0);
            while start.elapsed() < size.sustained {
                let lives = (0..side_by_side).map(|_| (0..8).flat_map(|_| self.podrun.life(1)).collect()).collect();
                self.podrun.crowd(lives)?;
                pods += 8 * side_by_side;
            }
            series.push(Series::of(name, vec![float(pods) / start.elapsed().as_secs_f64()]));
        }
        let (start, mut pods) = (Instant::now(), 0);
        while start.elapsed() < size.sustained {
            floor.once()?;
            pods += 1;
        }
        series.push(Series::of("floor", vec![float(pods) / start.elapsed().as_secs_f64()]));
        let reached = series[0].median();
        let title = format!("Pods of one, sustained ({})", self.cgroups);
        let row = Row { title, unit: "pods a second", better: Better::More, series, goals: Vec::new() };
        Ok(row.goal("podrun, one after the other", Want::AtLeast, 100.0, reached))
    }

    /// A pod's whole life where there is no other, and where there are very many.
    pub(crate) fn many(&self, size: Size) -> io::Result<Row> {
        let rounds = size.hot.min(20);
        let lives = || (0..rounds).map(|_| self.podrun.live(1).map(millis)).collect::<io::Result<Vec<f64>>>();
        self.podrun.live(1)?;
        let first = lives()?;
        for n in 1..size.many_pods {
            self.podrun.ok(&format!("create pod many-{n}"))?;
        }
        let last = lives()?;
        self.podrun.ok("delete pod --all --force")?;
        let series = vec![Series::of("1st", first), Series::of(&format!("{}th", size.many_pods), last)];
        let reached = series[1].median() / series[0].median();
        let row = Row::times(format!("A pod of 1 among others: up, run, gone ({})", self.cgroups), series);
        Ok(row.goal("the last / the first", Want::AtMost, 1.3, reached))
    }

    pub(crate) fn at_once(&self, size: Size) -> io::Result<Row> {
        let lives = (0..size.at_once).map(|_| self.podrun.life(1)).collect();
        let (all, each) = self.podrun.crowd(lives)?;
        let mut series = vec![
            Series::of("podrun, until the last is gone", vec![millis(all)]),
            Series::of("podrun, each", each.into_iter().map(millis).collect()),
        ];
        for other in &self.others {
            let lines = (0..size.at_once).map(|n| {
                let bundle = other.bundle(&format!("crowd-{n}"), "/empty", From::New)?;
                Ok(vec![other.run_line(&bundle)])
            });
            let (all, each) = crowd(self.view, lines.collect::<io::Result<_>>()?, &self.ground.dir)?;
            series.push(Series::of(&format!("{}, until the last", other.name), vec![millis(all)]));
            series.push(Series::of(&format!("{}, each", other.name), each.into_iter().map(millis).collect()));
        }
        let what =
            format!("{} pods of 1 at once: up, run, gone; others bare containers ({})", size.at_once, self.cgroups);
        Ok(Row::times(what, series))
    }

    /// The command line, before it does anything.
    pub(crate) fn start(&self, size: Size, pace: Pace) -> io::Result<Row> {
        let dir = &self.ground.dir;
        let mut contenders = vec![
            Contender::new("podrun version", || time_in(self.view, vec![self.podrun.argv("version")], dir)),
            Contender::new("an empty program", || time_in(self.view, vec![vec![self.ground.empty()]], dir)),
        ];
        let series = interleave(&mut contenders, size.rounds(pace), pace)?;
        let reached = series[0].median() - series[1].median();
        let row = Row::times(format!("podrun version, {}", pace.word()), series);
        Ok(row.goal("more than an empty program, ms", Want::AtMost, 1.0, reached))
    }
}
