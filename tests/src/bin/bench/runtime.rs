//! How each runtime is called: podrun, crun and runc, podman; and the floor.

#![forbid(unsafe_code)]

use crate::bundle::{self, From};
use crate::logs::between;
use crate::measure::{Argv, Floor, output, time_all, time_in};
use crate::program::{self, Act};
use crate::world::View;
use serde_json::Value;
use std::cell::Cell;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The directory beside the bench that `go install` puts a runc into.
pub(crate) const NEWEST_RUNC: &str = "newest-runc";

/// What all runtimes are given.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    pub(crate) dir: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) podrun: String,
    pub(crate) floor: String,
    /// Built of the Go module proxy's, where there is a Go.
    pub(crate) newest_runc: Option<String>,
}

impl Ground {
    /// A rootfs with an empty program, one that sleeps, and this one, which can talk.
    pub(crate) fn prepare(dir: &Path, podrun: &str) -> io::Result<Self> {
        let rootfs = dir.join("rootfs");
        for below in ["dev", "proc", "sys", "etc", "tmp"] {
            std::fs::create_dir_all(rootfs.join(below))?;
        }
        program::write(&rootfs.join("empty"), Act::Exit)?;
        program::write(&rootfs.join("sleep"), Act::Sleep)?;
        let own = std::env::current_exe()?;
        std::fs::copy(&own, rootfs.join("say"))?;
        let floor = own.with_file_name("floor").to_string_lossy().into_owned();
        if !Path::new(&floor).exists() {
            return Err(io::Error::other(format!("{floor} is not there: build it beside the bench")));
        }
        // What is measured lies on the tmpfs, whatever disk it was built on.
        let (floor_here, podrun_here) = (dir.join("floor"), dir.join("podrun"));
        std::fs::copy(floor, &floor_here)?;
        std::fs::copy(podrun, &podrun_here)?;
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let newest = own.with_file_name(NEWEST_RUNC).join("runc");
        let newest_runc = newest.exists().then(|| text(newest));
        Ok(Self { dir: dir.to_owned(), rootfs, podrun: text(podrun_here), floor: text(floor_here), newest_runc })
    }

    pub(crate) fn empty(&self) -> String {
        self.in_rootfs("empty")
    }

    pub(crate) fn in_rootfs(&self, name: &str) -> String {
        self.rootfs.join(name).to_string_lossy().into_owned()
    }

    /// Said once for each: who cleans up finds cgroups by name.
    pub(crate) fn note_cgroup(&self, name: &str) -> io::Result<()> {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("cgroups"))?;
        writeln!(file, "{name}")
    }

    pub(crate) fn floor(&self, view: &View, words: &[&str]) -> io::Result<Floor> {
        let argv = std::iter::once(self.floor.as_str()).chain(words.iter().copied()).map(str::to_owned).collect();
        Floor::start(view, argv)
    }
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split_whitespace().map(str::to_owned)
}

/// podrun with a run-root of its own.
#[derive(Debug)]
pub(crate) struct Podrun<'a> {
    pub(crate) view: &'a View,
    ground: &'a Ground,
    root: PathBuf,
    bundle: String,
    born: Cell<u32>,
}

impl<'a> Podrun<'a> {
    pub(crate) fn new(view: &'a View, ground: &'a Ground, name: &str) -> io::Result<Self> {
        let root = ground.dir.join(name);
        let bundle = bundle::write(&root.join("bundle"), &ground.rootfs, &["/empty"], From::New, None)?;
        let bundle = bundle.to_string_lossy().into_owned();
        let podrun = Self { view, ground, root, bundle, born: Cell::new(0) };
        podrun.ok("create pod first --network none")?;
        let inspected = podrun.inspect("first")?;
        let cgroup = inspected["cgroup"].as_str().unwrap_or_default().trim_start_matches('/').to_owned();
        ground.note_cgroup(cgroup.split('/').next().unwrap_or_default())?;
        podrun.ok("delete pod first --force")?;
        Ok(podrun)
    }

    pub(crate) fn run_root(&self) -> PathBuf {
        self.root.join("run")
    }

    pub(crate) fn argv(&self, line: &str) -> Argv {
        let root = |below: &str| self.root.join(below).to_string_lossy().into_owned();
        [self.ground.podrun.clone(), "--root".into(), root("root"), "--run-root".into(), root("run")]
            .into_iter()
            .chain(words(line))
            .collect()
    }

    pub(crate) fn ok(&self, line: &str) -> io::Result<String> {
        output(self.view, self.argv(line))
    }

    pub(crate) fn inspect(&self, pod: &str) -> io::Result<Value> {
        serde_json::from_str(&self.ok(&format!("inspect {pod}"))?).map_err(io::Error::other)
    }

    pub(crate) fn pid(&self, pod: &str, of: &str) -> io::Result<i32> {
        let end = Instant::now() + Duration::from_secs(2);
        loop {
            let inspected = self.inspect(pod)?;
            match inspected[of]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()) {
                Some(pid) => return Ok(pid),
                // The monitor of a pod just made may not have written down yet who serves it.
                None if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                None => return Err(io::Error::other(format!("{pod} has no {of}: {inspected}"))),
            }
        }
    }

    pub(crate) fn container_pid(&self, pod: &str, name: &str) -> io::Result<i32> {
        let inspected: Value = self.inspect(&format!("{pod}/{name}"))?;
        let pid = inspected["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.ok_or_else(|| io::Error::other(format!("{pod}/{name} has no process")))
    }

    fn fresh(&self) -> u32 {
        self.born.set(self.born.get() + 1);
        self.born.get()
    }

    pub(crate) fn run_line(&self, pod: &str) -> Argv {
        self.argv(&format!("run {pod}/r{} --bundle {} --rm", self.fresh(), self.bundle))
    }

    /// A container of the empty program, made, waited for and removed.
    pub(crate) fn run(&self, pod: &str) -> io::Result<Duration> {
        time_in(self.view, vec![self.run_line(pod)], &self.ground.dir)
    }

    /// A container started and not waited for: how long the command took, and, in milliseconds, the birth itself, from the
    /// monitor's record of it to execve.
    pub(crate) fn birth(&self, pod: &str) -> io::Result<(Duration, f64)> {
        let name = format!("{pod}/r{}", self.fresh());
        let line = self.argv(&format!("run {name} -d --bundle {}", self.bundle));
        let took = time_in(self.view, vec![line], &self.ground.dir)?;
        let record = self.inspect(&name)?;
        let time = |key: &str| record[key].as_str().unwrap_or_default();
        let birth = between(time("createdAt"), time("startedAt"));
        self.ok(&format!("delete container {name} --force"))?;
        birth.map(|birth| (took, birth)).ok_or_else(|| io::Error::other(format!("no times in {record}")))
    }

    pub(crate) fn exec(&self, container: &str) -> io::Result<Duration> {
        time_in(self.view, vec![self.argv(&format!("exec {container} -- /empty"))], &self.ground.dir)
    }

    /// A container that sleeps.
    pub(crate) fn start(&self, container: &str) -> io::Result<()> {
        self.ok(&format!("run {container} -d --rootfs {} -- /sleep", self.ground.rootfs.display())).map(drop)
    }

    /// The commands of a pod's whole life.
    pub(crate) fn life(&self, containers: usize) -> Vec<Argv> {
        let pod = format!("p{}", self.fresh());
        let runs = (0..containers).map(|n| self.argv(&format!("run {pod}/c{n} --bundle {}", self.bundle)));
        let mut all = vec![self.argv(&format!("create pod {pod}"))];
        all.extend(runs);
        all.push(self.argv(&format!("delete pod {pod} --force")));
        all
    }

    pub(crate) fn live(&self, containers: usize) -> io::Result<Duration> {
        time_in(self.view, self.life(containers), &self.ground.dir)
    }

    /// All lives at once; how long until the last is over, and each one's own time.
    pub(crate) fn crowd(&self, lives: Vec<Vec<Argv>>) -> io::Result<(Duration, Vec<Duration>)> {
        crowd(self.view, lives, &self.ground.dir)
    }

    pub(crate) fn close(&self) -> io::Result<()> {
        self.ok("delete pod --all --force")?;
        self.ok("prune --force").map(drop)
    }
}

/// Chains of commands, all started at once.
pub(crate) fn crowd(view: &View, lives: Vec<Vec<Argv>>, dir: &Path) -> io::Result<(Duration, Vec<Duration>)> {
    let dir = dir.to_owned();
    view.run(move || {
        let start = Instant::now();
        let threads: Vec<_> = lives
            .into_iter()
            .enumerate()
            .map(|(index, life)| {
                let stderr = dir.join(format!("stderr-{index}"));
                std::thread::spawn(move || time_all(&life, &stderr))
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("panic"))));
        let each = joined.collect::<io::Result<Vec<_>>>()?;
        Ok((start.elapsed(), each))
    })
}

/// crun or runc, or who behaves so.
#[derive(Debug)]
pub(crate) struct Oci<'a> {
    pub(crate) name: &'static str,
    program: Argv,
    view: &'a View,
    ground: &'a Ground,
    root: PathBuf,
    cgroups: String,
    born: Cell<u32>,
}

impl<'a> Oci<'a> {
    pub(crate) fn new(
        name: &'static str,
        program: &[&str],
        view: &'a View,
        ground: &'a Ground,
        where_at: &str,
    ) -> io::Result<Self> {
        let file = name.replace(' ', "-");
        let cgroups = format!("{}-{where_at}-{file}", ground.dir.file_name().unwrap_or_default().to_string_lossy());
        ground.note_cgroup(&cgroups)?;
        let root = ground.dir.join(format!("{where_at}-{file}"));
        let program = program.iter().map(|word| (*word).to_owned()).collect();
        Ok(Self { name, program, view, ground, root, cgroups, born: Cell::new(0) })
    }

    pub(crate) fn state(&self) -> String {
        self.root.join("state").to_string_lossy().into_owned()
    }

    /// A cgroupsPath under this one's own directory.
    pub(crate) fn cgroup(&self, name: &str) -> String {
        format!("/{}/{name}", self.cgroups)
    }

    pub(crate) fn argv(&self, line: &str) -> Argv {
        let before = ["--root".into(), self.state()];
        self.program.iter().cloned().chain(before).chain(words(line)).collect()
    }

    pub(crate) fn fresh(&self) -> String {
        self.born.set(self.born.get() + 1);
        format!("b{}", self.born.get())
    }

    /// A bundle with a cgroup of its own.
    pub(crate) fn bundle(&self, name: &str, program: &str, from: From) -> io::Result<PathBuf> {
        bundle::write(&self.root.join(name), &self.ground.rootfs, &[program], from, Some(&self.cgroup(name)))
    }

    pub(crate) fn run_line(&self, bundle: &Path) -> Argv {
        self.argv(&format!("run --bundle {} {}", bundle.display(), self.fresh()))
    }

    pub(crate) fn run(&self, bundle: &Path) -> io::Result<Duration> {
        time_in(self.view, vec![self.run_line(bundle)], &self.ground.dir)
    }

    pub(crate) fn runs(&self, bundle: &Path, number: usize) -> io::Result<Duration> {
        let lines = (0..number).map(|_| self.run_line(bundle)).collect();
        time_in(self.view, lines, &self.ground.dir)
    }

    /// Starts one that stays, its output thrown away.
    pub(crate) fn start(&self, bundle: &Path, name: &str) -> io::Result<()> {
        time_in(
            self.view,
            vec![self.argv(&format!("run --detach --bundle {} {name}", bundle.display()))],
            &self.ground.dir,
        )
        .map(drop)
    }

    pub(crate) fn exec(&self, name: &str) -> io::Result<Duration> {
        time_in(self.view, vec![self.argv(&format!("exec {name} /empty"))], &self.ground.dir)
    }

    pub(crate) fn delete(&self, name: &str) -> io::Result<()> {
        output(self.view, self.argv(&format!("delete --force {name}"))).map(drop)
    }

    /// Whether it can run a container here at all; why not, if not.
    pub(crate) fn try_it(&self) -> io::Result<()> {
        let bundle = self.bundle("try", "/empty", From::New)?;
        self.run(&bundle).map(drop)
    }
}

/// podman with a storage of its own; with runc, since crun does not work on hybrid cgroups, and neither of them gives podman's
/// containers their devices on the other view.
#[derive(Debug)]
pub(crate) struct Podman<'a> {
    view: &'a View,
    ground: &'a Ground,
    cgroups: String,
    born: Cell<u32>,
}

impl<'a> Podman<'a> {
    pub(crate) fn new(view: &'a View, ground: &'a Ground) -> io::Result<Self> {
        let cgroups = format!("{}-podman", ground.dir.file_name().unwrap_or_default().to_string_lossy());
        ground.note_cgroup(&cgroups)?;
        Ok(Self { view, ground, cgroups, born: Cell::new(0) })
    }

    fn argv(&self, line: &str) -> Argv {
        let dir = self.ground.dir.join("podman");
        let at = |below: &str| dir.join(below).to_string_lossy().into_owned();
        let flags = format!(
            "podman --root {} --runroot {} --tmpdir {} --network-config-dir {} --cgroup-manager cgroupfs --runtime runc \
             --storage-driver vfs --events-backend none",
            at("root"),
            at("run"),
            at("tmp"),
            at("net")
        );
        words(&flags).chain(words(line)).collect()
    }

    pub(crate) fn live(&self, containers: usize) -> io::Result<Duration> {
        self.born.set(self.born.get() + 1);
        let pod = format!("m{}", self.born.get());
        let run = format!("run --pod {pod} --log-driver k8s-file --security-opt seccomp=unconfined");
        let runs =
            (0..containers).map(|_| self.argv(&format!("{run} --rootfs {} /empty", self.ground.rootfs.display())));
        let mut all = vec![self.argv(&format!("pod create --cgroup-parent /{} --name {pod}", self.cgroups))];
        all.extend(runs);
        all.push(self.argv(&format!("pod rm --force --time 0 {pod}")));
        time_in(self.view, all, &self.ground.dir)
    }

    /// Makes its network `bench`; who wires containers for it.
    pub(crate) fn network(&self) -> io::Result<String> {
        // Its default range is podrun's, too.
        output(self.view, self.argv("network create --subnet 10.66.0.0/24 bench"))?;
        Ok(output(self.view, self.argv("info --format {{.Host.NetworkBackend}}"))?.trim().to_owned())
    }

    /// A container that sleeps, on this network; its removal is not timed.
    pub(crate) fn run(&self, network: &str) -> io::Result<Duration> {
        let flags = format!("--network {network} --cgroup-parent /{} --security-opt seccomp=unconfined", self.cgroups);
        let rootfs = self.ground.rootfs.display();
        let run = self.argv(&format!("run -d --name served --log-driver k8s-file {flags} --rootfs {rootfs} /sleep"));
        let took = time_in(self.view, vec![run], &self.ground.dir);
        output(self.view, self.argv("rm --force --time 0 --ignore served"))?;
        took
    }

    /// A container that listens, with a port of the host that leads to it.
    pub(crate) fn serve(&self, command: &str, host: u16, port: u16) -> io::Result<Served> {
        self.network()?;
        let flags = format!(
            "run -d --name served --network bench --cgroup-parent /{} --log-driver k8s-file --security-opt seccomp=unconfined -p {host}:{port}",
            self.cgroups
        );
        output(self.view, self.argv(&format!("{flags} --rootfs {} {command}", self.ground.rootfs.display())))?;
        let found: Value =
            serde_json::from_str(&output(self.view, self.argv("inspect served"))?).map_err(io::Error::other)?;
        let networks = found[0]["NetworkSettings"]["Networks"].as_object().and_then(|all| all.values().next().cloned());
        let text = |key: &str| networks.as_ref().and_then(|one| one[key].as_str()).map(str::to_owned);
        match (text("IPAddress"), text("Gateway")) {
            (Some(ip), Some(gateway)) => Ok(Served { ip, gateway }),
            _ => Err(io::Error::other("podman's container has no address")),
        }
    }

    pub(crate) fn end(&self) -> io::Result<()> {
        let ended = output(self.view, self.argv("rm --force --time 0 --ignore served"));
        ended.and(output(self.view, self.argv("network rm --force bench"))).map(drop)
    }
}

/// Where a container of podman's is reached.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) ip: String,
    pub(crate) gateway: String,
}
