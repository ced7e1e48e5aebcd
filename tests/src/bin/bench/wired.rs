//! What a pod pays for its network: one made with it and one made without, in pairs, and the difference.

#![forbid(unsafe_code)]

use crate::docker::Docker;
use crate::measure::{Series, millis, output, time_in};
use crate::report::{Row, Want};
use crate::rows::{Place, Size};
use crate::runtime::Podman;
use crate::world::View;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

/// How many leases stand beside the last address.
const LEASES: u32 = 999;

/// Makes a pod on the network of this name, and tells how long that took.
type Once<'a> = Box<dyn Fn(&str) -> io::Result<Duration> + 'a>;

/// Somebody who makes a pod on a network, or on none.
struct Pair<'a> {
    name: String,
    network: String,
    rounds: usize,
    once: Once<'a>,
}

impl Pair<'_> {
    /// Milliseconds of one pair; each round begins with the other one.
    fn difference(&self, round: usize) -> io::Result<f64> {
        let times = |network: &str| {
            let took = (self.once)(network).map_err(|err| io::Error::other(format!("{}: {err}", self.name)));
            took.map(millis)
        };
        if round.is_multiple_of(2) {
            let without = times("none")?;
            return Ok(times(&self.network)? - without);
        }
        Ok(times(&self.network)? - times("none")?)
    }
}

impl Place<'_> {
    /// podman and docker in the view where they work; what cannot be had here is said in `left_out`.
    pub(crate) fn wired(&self, size: Size, theirs: &View, left_out: &mut Vec<String>) -> io::Result<Row> {
        let podrun = &self.podrun;
        let podman = Podman::new(theirs, self.ground)?;
        let docker = Docker::start(theirs, self.ground);
        podrun.ok("create pod base")?;
        podrun.ok("create pod bare --network none")?;
        let mut floor = self.ground.floor(self.view, &["wire", &podrun.pid("bare", "pause")?.to_string()])?;
        podrun.ok("network create crowd --subnet 172.28.0.0/16")?;
        podrun.ok("create pod first --network crowd")?;
        let leases = podrun.fill("crowd", LEASES)?;
        self.make_wire()?;
        let pod = |network: &str| {
            let took =
                time_in(self.view, vec![podrun.argv(&format!("create pod one --network {network}"))], &self.ground.dir);
            podrun.ok("delete pod one --force")?;
            took
        };
        let rounds = size.hot;
        let own = |name: &str, network: &str| Pair {
            name: name.to_owned(),
            network: network.to_owned(),
            rounds,
            once: Box::new(pod),
        };
        let mut pairs = vec![
            own("bridge", "bridge"),
            own("bridge, the 1,000th address", "crowd"),
            own("ptp", "ptp"),
            own("macvlan", "macvlan:parent=wire0,ip=192.0.2.7/24"),
            own("CNI bridge", &format!("cni:{}", self.conflist()?)),
        ];
        match podman.network() {
            Ok(backend) => pairs.push(Pair {
                name: format!("podman, {backend}"),
                network: "bench".to_owned(),
                rounds: size.podman,
                once: Box::new(|network| podman.run(network)),
            }),
            Err(err) => left_out.push(format!("wired: podman: {err}")),
        }
        match &docker {
            Ok(docker) => pairs.push(Pair {
                name: "docker, its default bridge".to_owned(),
                network: "bridge".to_owned(),
                rounds: size.podman,
                once: Box::new(|network| docker.run(network)),
            }),
            Err(err) => left_out.push(format!("wired: docker: {err}")),
        }
        let mut series: Vec<Series> = pairs.iter().map(|pair| Series::of(&pair.name, Vec::new())).collect();
        series.push(Series::of("floor", Vec::new()));
        // The first round warms up.
        for round in 0..=rounds {
            for (pair, series) in pairs.iter().zip(&mut series).filter(|(pair, _)| round <= pair.rounds) {
                let took = pair.difference(round)?;
                series.values.extend((round > 0).then_some(took));
            }
            let bare = millis(floor.once()?);
            series.last_mut().expect("the floor is there").values.extend((round > 0).then_some(bare));
        }
        drop(pairs);
        let _ = podman.end();
        leases.iter().try_for_each(fs::remove_file)?;
        podrun.ok("delete pod --all --force")?;
        podrun.ok("network rm crowd")?;
        output(self.view, "ip link del wire0".split(' ').map(str::to_owned).collect())?;
        let median = |name: &str| series.iter().find(|one| one.name == name).map_or(f64::NAN, Series::median);
        let (bridge, chain, bare) = (median("bridge"), median("CNI bridge"), median("floor"));
        let title = format!("Wire a pod: one made on a network, less one made on none ({})", self.cgroups);
        let row = Row::times(title, series);
        let row = row.goal("bridge / CNI bridge", Want::AtMost, 0.1, bridge / chain);
        Ok(row.goal("bridge / floor", Want::AtMost, 1.5, bridge / bare))
    }

    /// A link of the host's that interfaces can hang on.
    pub(crate) fn make_wire(&self) -> io::Result<()> {
        let ip = |line: &str| output(self.view, line.split(' ').map(str::to_owned).collect());
        ip("ip link add wire0 type dummy").or_else(|_| ip("ip link add wire0 type veth peer name wire1"))?;
        ip("ip link set wire0 up").map(drop)
    }
}

impl crate::runtime::Podrun<'_> {
    /// As many leases more as if pods had them, right behind the one that is there; the files.
    fn fill(&self, network: &str, number: u32) -> io::Result<Vec<PathBuf>> {
        let dir = self.run_root().join("leases").join(network);
        let names = fs::read_dir(&dir)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let first = names.filter_map(|name| name.parse::<Ipv4Addr>().ok()).next();
        let first = first.ok_or_else(|| io::Error::other(format!("no lease in {}", dir.display())))?;
        let lease = fs::read(dir.join(first.to_string()))?;
        let files = (1..=number).map(|n| dir.join(Ipv4Addr::from(u32::from(first) + n).to_string()));
        files.map(|file| fs::write(&file, &lease).map(|()| file)).collect()
    }
}
