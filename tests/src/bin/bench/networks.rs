//! Networks: what it takes to wire a pod and to publish a port, and how fast what is wired is.

#![forbid(unsafe_code)]

use crate::measure::{Contender, Pace, Series, float, interleave, millis, output, time_in};
use crate::report::{Better, Row, Want};
use crate::rows::{Place, Size};
use crate::runtime::Podman;
use crate::world::View;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The words under which the bench answers and asks.
pub(crate) const SERVE: &str = "--serve";
pub(crate) const ASK: &str = "--ask";

const PORT: u16 = 80;
/// What one caller wants, in its first byte.
const POUR: u8 = b'p';
const ECHO: u8 = b'e';
const CHUNK: usize = 128 * 1024;
const ROUND_TRIPS: usize = 2000;

/// Swallows what is poured, and gives single bytes back, for ever.
pub(crate) fn serve() -> io::Result<i32> {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    for caller in listener.incoming() {
        let mut caller = caller?;
        std::thread::spawn(move || answer(&mut caller));
    }
    Ok(0)
}

fn answer(caller: &mut TcpStream) -> io::Result<()> {
    caller.set_nodelay(true)?;
    let mut first = [0];
    caller.read_exact(&mut first)?;
    let mut bytes = vec![0; CHUNK];
    loop {
        let read = caller.read(&mut bytes)?;
        match (read, first[0]) {
            (0, POUR) => return caller.write_all(b"."),
            (0, _) => return Ok(()),
            (read, ECHO) => caller.write_all(&bytes[..read])?,
            _ => {}
        }
    }
}

/// `--ask ADDRESS MEGABYTES`: MB a second, and the microseconds of a round trip.
pub(crate) fn ask(words: &[String]) -> io::Result<i32> {
    let [address, megabytes] = words else { return Err(io::Error::other("an address and megabytes must follow")) };
    let megabytes: usize = megabytes.parse().map_err(io::Error::other)?;
    println!("{} {}", pour(address, megabytes)?, round_trip(address)?);
    Ok(0)
}

fn connect(address: &str, wish: u8) -> io::Result<TcpStream> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        match TcpStream::connect(address) {
            Ok(mut stream) => {
                stream.set_nodelay(true)?;
                stream.write_all(&[wish])?;
                return Ok(stream);
            }
            Err(err) if Instant::now() > end => return Err(err),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn pour(address: &str, megabytes: usize) -> io::Result<f64> {
    let mut stream = connect(address, POUR)?;
    let (bytes, start) = (vec![7; CHUNK], Instant::now());
    for _ in 0..megabytes * (1 << 20) / CHUNK {
        stream.write_all(&bytes)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read_exact(&mut [0])?;
    Ok(float(megabytes) / start.elapsed().as_secs_f64())
}

fn round_trip(address: &str) -> io::Result<f64> {
    let mut stream = connect(address, ECHO)?;
    let mut all = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let start = Instant::now();
        stream.write_all(b".")?;
        stream.read_exact(&mut [0])?;
        all.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(crate::measure::quantile(&all, 0.5))
}

impl Place<'_> {
    /// One more interface for a pod that is there; the undoing is not timed.
    pub(crate) fn wiring(&self, size: Size) -> io::Result<Row> {
        let podrun = &self.podrun;
        podrun.ok("create pod base")?;
        podrun.ok("create pod wired --network none")?;
        let pause = podrun.pid("wired", "pause")?;
        let mut floor = self.ground.floor(self.view, &["wire", &pause.to_string()])?;
        let chain = self.conflist()?;
        self.make_wire()?;
        let connect = |network: &str, name: &str| {
            let took =
                time_in(self.view, vec![podrun.argv(&format!("network connect {network} wired"))], &self.ground.dir)?;
            podrun.ok(&format!("network disconnect {name} wired"))?;
            Ok(took)
        };
        let cni = format!("cni:{chain}");
        let mut contenders = vec![
            Contender::new("bridge", || connect("bridge", "bridge")),
            Contender::new("ptp", || connect("ptp", "ptp")),
            Contender::new("macvlan", || connect("macvlan:parent=wire0,ip=192.0.2.7/24", "macvlan.wire0")),
            Contender::new("CNI bridge", || connect(&cni, "cni:bench")),
            Contender::new("a podrun command", || {
                time_in(self.view, vec![podrun.argv("inspect wired")], &self.ground.dir)
            }),
            Contender::new("floor", || floor.once()),
        ];
        let series = interleave(&mut contenders, size.hot.min(30), Pace::Hot)?;
        drop(contenders);
        podrun.ok("delete pod --all --force")?;
        output(self.view, "ip link del wire0".split(' ').map(str::to_owned).collect())?;
        let own = (series[0].median() - series[4].median()) / series[5].median();
        let row = Row::times(format!("One more interface for a pod ({})", self.cgroups), series);
        let row = row.ratio("bridge", Want::AtMost, 0.1, "CNI bridge");
        Ok(row.goal("(bridge - a podrun command) / floor", Want::AtMost, 1.5, own))
    }

    /// Debian's own plugins, with their files in the bench's directory.
    pub(crate) fn conflist(&self) -> io::Result<String> {
        let file = self.ground.dir.join("bench.conflist");
        let data = self.ground.dir.join("cni-leases");
        let text = format!(
            r#"{{"cniVersion": "1.0.0", "name": "bench", "plugins": [{{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
                "ipam": {{"type": "host-local", "dataDir": "{}", "ranges": [[{{"subnet": "10.77.0.0/16"}}]]}}}}]}}"#,
            data.display()
        );
        fs::write(&file, text)?;
        Ok(file.to_string_lossy().into_owned())
    }

    /// One more port, where there is no other and where other pods have very many.
    pub(crate) fn publishing(&self, size: Size) -> io::Result<Row> {
        let podrun = &self.podrun;
        let many = size.many_ports;
        podrun.ok("create pod shop")?;
        let publish = |host: u16| {
            // The kernel finishes what was removed before it takes the next transaction.
            std::thread::sleep(Duration::from_millis(50));
            let took = time_in(
                self.view,
                vec![podrun.argv(&format!("update pod shop --publish {host}:80"))],
                &self.ground.dir,
            )?;
            podrun.ok(&format!("update pod shop --unpublish {host}"))?;
            Ok(took)
        };
        let rounds = size.hot.min(30);
        let times = |host: u16| (0..rounds).map(|_| publish(host).map(millis)).collect::<io::Result<Vec<f64>>>();
        let start = || time_in(self.view, vec![podrun.argv("inspect shop")], &self.ground.dir).map(millis);
        publish(20_000)?;
        let few = times(20_000)?;
        podrun.ok(&format!("create pod crowd --publish 30000-{0}:30000-{0}", 30_000 + many - 1))?;
        let last = times(20_000)?;
        let starts = (0..rounds).map(|_| start()).collect::<io::Result<Vec<f64>>>()?;
        podrun.ok("delete pod --all --force")?;
        let series = vec![
            Series::of("the first port", few),
            Series::of(&format!("one among {many}"), last),
            Series::of("a podrun command", starts),
        ];
        let own = series[1].median() - series[2].median();
        let row = Row::times(format!("Publish a port ({})", self.cgroups), series);
        Ok(row.goal("one among many - a podrun command, ms", Want::AtMost, 1.0, own))
    }

    /// MB a second and microseconds: from pod to pod, from the host to a pod, and by its published port; podman's beside.
    pub(crate) fn traffic(&self, size: Size) -> io::Result<[Row; 2]> {
        let podrun = &self.podrun;
        let rootfs = self.ground.rootfs.display();
        podrun.ok("create pod server --publish 8080:80")?;
        podrun.ok("create pod client")?;
        podrun.ok(&format!("run server/s -d --rootfs {rootfs} -- /say {SERVE}"))?;
        let found = podrun.inspect("server")?;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let (ip, gateway) = (text(&found["network"]["ip"][0]), text(&found["network"]["gateway"]));
        let own = std::env::current_exe()?.to_string_lossy().into_owned();
        let ask = |to: &str| vec![own.clone(), ASK.to_owned(), to.to_owned(), size.poured.to_string()];
        let inside = |to: &str| [podrun.argv("netns client --"), ask(to)].concat();
        let mut ways = vec![
            ("host to pod".to_owned(), ask(&format!("{ip}:{PORT}"))),
            ("host to published port".to_owned(), ask(&format!("{gateway}:8080"))),
            ("pod to pod".to_owned(), inside(&format!("{ip}:{PORT}"))),
            ("pod to published port".to_owned(), inside(&format!("{gateway}:8080"))),
        ];
        let podman = Podman::new(self.view, self.ground)?;
        let served = podman.serve(&format!("/say {SERVE}"), 8081, PORT);
        if let Ok(there) = &served {
            ways.push(("podman: host to container".to_owned(), ask(&format!("{}:{PORT}", there.ip))));
            ways.push(("podman: host to published port".to_owned(), ask(&format!("{}:8081", there.gateway))));
        }
        let measured = measure(self.view, &ways, size.pumps);
        let ended = podman.end();
        podrun.ok("delete pod --all --force")?;
        let (speeds, delays) = measured?;
        if served.is_ok() {
            ended?;
        }
        let ratio = speeds[1].ratio_to(&speeds[0]);
        let title = |what: &str| format!("{what} ({})", self.cgroups);
        let (unit, better, goals) = ("MB a second", Better::More, Vec::new());
        let speed = Row { title: title("Throughput of one TCP connection"), unit, better, series: speeds, goals };
        let delay = Row {
            title: title("A round trip of one byte"),
            unit: "µs",
            better: Better::Less,
            series: delays,
            goals: Vec::new(),
        };
        Ok([speed.goal("published port / direct", Want::AtLeast, 0.95, ratio), delay])
    }
}

/// In turns, so that what the machine does meanwhile hits all ways alike.
fn measure(view: &View, ways: &[(String, Vec<String>)], rounds: usize) -> io::Result<(Vec<Series>, Vec<Series>)> {
    let empty = || ways.iter().map(|(name, _)| Series::of(name, Vec::new())).collect::<Vec<_>>();
    let (mut speeds, mut delays) = (empty(), empty());
    for round in 0..=rounds {
        for (n, (name, argv)) in ways.iter().enumerate() {
            let said = output(view, argv.clone())?;
            let mut numbers = said.split_whitespace().filter_map(|word| word.parse::<f64>().ok());
            let (Some(speed), Some(delay)) = (numbers.next(), numbers.next()) else {
                return Err(io::Error::other(format!("{name} said {said:?}")));
            };
            // The first round warms up.
            if round > 0 {
                speeds[n].values.push(speed);
                delays[n].values.push(delay);
            }
        }
    }
    Ok((speeds, delays))
}
