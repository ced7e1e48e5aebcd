//! `make bench`: podrun beside crun, runc, conmon and podman, and beside the bare system calls that the same takes.
//!
//! `bench [--short] [--out DIR] [--only WORD]…`; the podrun to measure is $PODRUN_BIN, or the one beside the bench.
//! A table on stdout; `bench.json` and `bench.svg` in DIR (bench-out). Root only: it makes namespaces.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a door")]

mod bundle;
mod docker;
mod logs;
mod measure;
mod memory;
mod networks;
mod oci;
mod plot;
mod program;
mod report;
mod rows;
mod runtime;
mod wired;
mod world;

use logs::Habit;
use measure::Pace;
use report::Row;
use rows::{Place, Size};
use runtime::Ground;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use world::{Cgroups, View};

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let first = words.first().cloned().unwrap_or_default();
    let done = match first.as_str() {
        world::INSIDE => world::inside(&words.split_off(1)),
        logs::SAY => logs::say(&words.split_off(1)),
        networks::SERVE => networks::serve(),
        networks::ASK => networks::ask(&words.split_off(1)),
        world::AT_WORK => at_work(&words.split_off(1)),
        _ => outside(&words),
    };
    match done {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(err) => {
            eprintln!("bench: {err}");
            ExitCode::FAILURE
        }
    }
}

fn outside(words: &[String]) -> io::Result<i32> {
    if !nix::unistd::geteuid().is_root() {
        return Err(io::Error::other("it makes namespaces: run it as root"));
    }
    let asked = Asked::read(words)?;
    install()?;
    if asked.wants("oci") {
        install_newest_runc();
    }
    if asked.wants("wired") {
        docker::unpack();
    }
    Ok(world::outside(words)?.code().unwrap_or(1))
}

/// The newest runc, from the Go module proxy; without Go the table goes without.
fn install_newest_runc() {
    let dir = std::env::current_exe().ok().map(|own| own.with_file_name(runtime::NEWEST_RUNC));
    let Some(dir) = dir.filter(|dir| !dir.join("runc").exists()) else { return };
    let mut go = Command::new("go");
    go.args(["install", "github.com/opencontainers/runc@latest"]).env("GOBIN", &dir);
    if !go.output().is_ok_and(|done| done.status.success()) {
        println!("the newest runc could not be built: the table goes without");
    }
}

/// From Debian's packages, where one is missing.
fn install() -> io::Result<()> {
    let there = |name: &str| ["/usr/bin", "/usr/sbin"].iter().any(|dir| Path::new(dir).join(name).exists());
    let missing: Vec<&str> = ["crun", "runc", "conmon", "podman"].into_iter().filter(|name| !there(name)).collect();
    let plugins = (!Path::new("/usr/lib/cni/bridge").exists()).then_some("containernetworking-plugins");
    let missing: Vec<&str> = missing.into_iter().chain(plugins).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(", "));
    let apt = |words: &[&str]| Command::new("apt-get").args(words).env("DEBIAN_FRONTEND", "noninteractive").status();
    let installed = apt(&[["install", "-y", "-q", "--no-install-recommends"].as_slice(), &missing].concat())?;
    if !installed.success() {
        println!("not all of them could be installed; the table goes without");
    }
    Ok(())
}

/// The command line.
#[derive(Debug)]
struct Asked {
    size: Size,
    out: PathBuf,
    only: Vec<String>,
}

impl Asked {
    fn read(words: &[String]) -> io::Result<Self> {
        let mut asked = Self { size: Size::FULL, out: "bench-out".into(), only: Vec::new() };
        let mut words = words.iter();
        let lacking = |word: &str| io::Error::other(format!("something must follow {word}"));
        while let Some(word) = words.next() {
            match word.as_str() {
                "--short" => asked.size = Size::SHORT,
                "--out" => asked.out = words.next().ok_or_else(|| lacking(word))?.into(),
                "--only" => asked.only.push(words.next().ok_or_else(|| lacking(word))?.clone()),
                _ => {
                    return Err(io::Error::other(format!(
                        "{word}: --short, --out DIR and --only WORD are all it knows"
                    )));
                }
            }
        }
        Ok(asked)
    }

    fn wants(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| word == row)
    }
}

fn podrun_binary() -> io::Result<String> {
    let named = std::env::var_os("PODRUN_BIN").map(PathBuf::from);
    let path = named.map_or_else(|| std::env::current_exe().map(|own| own.with_file_name("podrun")), Ok)?;
    if !path.exists() {
        return Err(io::Error::other(format!("{} is not there: make build", path.display())));
    }
    Ok(path.to_string_lossy().into_owned())
}

/// The rows that there are so far, each printed as soon as it is known.
#[derive(Debug, Default)]
struct Table {
    rows: Vec<Row>,
    left_out: Vec<String>,
}

impl Table {
    /// A row that fails is left out and said; the others go on.
    fn add(&mut self, what: &str, place: &Place<'_>, row: io::Result<Row>) {
        match row {
            Ok(row) => {
                println!("{}", row.table().trim_end());
                self.rows.push(row);
            }
            Err(err) => {
                println!("\n{what}: left out: {err}");
                self.left_out.push(format!("{what}: {err}"));
                // What it left must not stand in the way of the next one.
                let _ = place.podrun.ok("delete pod --all --force");
            }
        }
    }
}

fn at_work(words: &[String]) -> io::Result<i32> {
    let [dir, words @ ..] = words else { return Err(io::Error::other("no directory was given")) };
    let asked = Asked::read(words)?;
    let ground = Ground::prepare(Path::new(dir), &podrun_binary()?)?;
    let mut table = Table::default();
    let two = View::open(Cgroups::Version2)?;
    let two = Place::new("cgroup2 alone", &two, &ground, &mut table.left_out)?;
    let host = View::open(Cgroups::Host)?;
    let hybrid = Path::new("/sys/fs/cgroup/memory").exists();
    let host = hybrid.then(|| Place::new("v1 hybrid", &host, &ground, &mut table.left_out)).transpose()?;
    measure_all(&asked, &two, host.as_ref(), &mut table);
    for place in [Some(&two), host.as_ref()].into_iter().flatten() {
        place.podrun.close()?;
    }
    println!("{}", report::summary(&table.rows));
    for line in &table.left_out {
        println!("left out: {line}");
    }
    keep(&asked, &table)?;
    Ok(0)
}

/// Files for programs and for README.
fn keep(asked: &Asked, table: &Table) -> io::Result<()> {
    let facts = facts();
    let caption = facts.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(", ");
    std::fs::create_dir_all(&asked.out)?;
    std::fs::write(
        asked.out.join("bench.json"),
        format!("{:#}\n", report::json(&table.rows, &facts, &table.left_out)),
    )?;
    std::fs::write(asked.out.join("bench.svg"), plot::svg(&table.rows, &caption))?;
    println!("\nin {}: bench.json, bench.svg", asked.out.display());
    Ok(())
}

/// What it was measured on, and against.
fn facts() -> Vec<(String, String)> {
    let said = |program: &str| {
        let output = Command::new(program).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned();
        Some(text.replace("version ", ""))
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let mut facts =
        vec![("kernel".to_owned(), format!("Linux {}", release.trim())), ("cpus".to_owned(), format!("{cpus} CPUs"))];
    let others = ["crun", "runc", "conmon", "podman"].into_iter();
    facts.extend(others.filter_map(|name| said(name).map(|version| (name.to_owned(), version))));
    facts
}

const OCI_VERBS: [(&str, &str); 2] = [("exec", "exec stays /empty"), ("state", "state stays")];

fn measure_all(asked: &Asked, two: &Place<'_>, host: Option<&Place<'_>>, table: &mut Table) {
    let size = asked.size;
    for place in [Some(two), host].into_iter().flatten() {
        for pace in [Pace::Hot, Pace::FromRest] {
            if asked.wants("run") {
                table.add("run", place, place.run(size, pace));
            }
            if asked.wants("exec") {
                table.add("exec", place, place.exec(size, pace));
            }
            for containers in [1, 3] {
                if asked.wants("pod") {
                    table.add("pod", place, place.pod(size, pace, containers));
                }
            }
        }
    }
    for place in [Some(two), host].into_iter().flatten().filter(|_| asked.wants("oci")) {
        table.add("oci lives", place, place.oci_lives(size));
        table.add("oci run", place, place.oci_runs(size));
        for (what, verb) in OCI_VERBS {
            table.add(what, place, place.oci_verbs(size, what, verb));
        }
        table.add("oci crowd", place, place.oci_crowd(size));
        table.add("oci memory", place, place.oci_memory());
    }
    if let Some(place) = host.filter(|_| asked.wants("oci")) {
        // The other view has no controller with a limit to change.
        table.add("update", place, place.oci_verbs(size, "update", "update --pids-limit 100 stays"));
    }
    for pace in [Pace::Hot, Pace::FromRest] {
        if asked.wants("start") {
            table.add("start", two, two.start(size, pace));
        }
    }
    let podmans = host.unwrap_or(two);
    for containers in [1, 3] {
        if asked.wants("podman") {
            table.add("podman", podmans, podmans.podman(size, containers));
        }
    }
    if asked.wants("sustained") {
        table.add("sustained", two, two.sustained(size));
    }
    if asked.wants("many") {
        table.add("many", two, two.many(size));
    }
    if asked.wants("at-once") {
        table.add("at once", two, two.at_once(size));
    }
    if asked.wants("memory") {
        table.add("memory", two, two.memory(size));
    }
    for habit in [Habit::Blocks, Habit::Lines] {
        if asked.wants("pump") {
            table.add("log pump", two, two.pump(size, habit));
        }
    }
    if asked.wants("wired") {
        let row = two.wired(size, podmans.view, &mut table.left_out);
        table.add("wired", two, row);
    }
    if asked.wants("wiring") {
        table.add("wiring", two, two.wiring(size));
    }
    if asked.wants("publishing") {
        table.add("publishing", two, two.publishing(size));
    }
    if asked.wants("traffic") {
        match podmans.traffic(size) {
            Ok(rows) => rows.into_iter().for_each(|row| table.add("traffic", podmans, Ok(row))),
            Err(err) => table.add("traffic", podmans, Err(err)),
        }
    }
    if asked.wants("births") {
        table.add("births", two, two.births(size));
    }
}
