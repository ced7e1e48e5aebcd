//! `podrun oci --systemd-cgroup`: a container's cgroup is a scope that systemd makes (pitfalls.md 38). Here against a systemd of
//! the test's own, which does what it is told to do wrong; in the VM against a real one.

use podrun::dbus::wire::{self, HEAD, Message, Type, Value as Bus};
use podrun_tests::{Bundle, Host, json, note_skip};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

/// The tree of cgroup v2 is one for all fake hosts, so that each has a slice of its own name.
fn slice(host: &Host) -> String {
    format!("{}.slice", host.cgroup_name())
}

/// What the systemd of a test does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    Well,
    /// After a while.
    Late,
    /// Says that it is done, and has not moved the process.
    Lies,
    Fails,
    /// A failed scope of the name is in the way once.
    Exists,
    HangsUp,
}

/// Where a fake host is, and what is in the environment of its commands alone.
struct Place {
    root: PathBuf,
    mark: String,
    slice: String,
}

struct Systemd {
    served: JoinHandle<Vec<String>>,
    root: PathBuf,
    slice: String,
}

impl Systemd {
    /// On the fake host, which sees cgroup v2 alone; serves one connection after the other until `connections` are over.
    fn start(host: &Host, habit: Habit, connections: usize) -> Self {
        host.small_disk(Path::new("/run"), "size=1m");
        let root = host.outside("/");
        fs::create_dir_all(root.join("run/systemd")).unwrap();
        let listener = UnixListener::bind(root.join("run/systemd/private")).unwrap();
        let mark = host.run_root().to_string_lossy().into_owned();
        let place = Place { root: root.clone(), mark, slice: slice(host) };
        let served = std::thread::spawn(move || {
            let mut asked = Vec::new();
            let mut refused = false;
            for stream in listener.incoming().take(connections) {
                serve(stream.unwrap(), habit, &place, &mut asked, &mut refused);
            }
            asked
        });
        Self { served, root, slice: slice(host) }
    }

    /// The names of the calls that it heard.
    fn heard(self) -> Vec<String> {
        let heard = self.served.join().unwrap();
        for dir in [format!("podrun.slice/{}", self.slice), "podrun.slice".into()] {
            let _ = fs::remove_dir(self.root.join("sys/fs/cgroup").join(dir));
        }
        fs::remove_dir_all(self.root.join("run/systemd")).unwrap();
        heard
    }
}

fn next(stream: &mut UnixStream) -> Option<Message> {
    let mut head = [0; HEAD];
    stream.read_exact(&mut head).ok()?;
    let mut rest = vec![0; wire::rest_of(&head).ok()?];
    stream.read_exact(&mut rest).ok()?;
    wire::read(&head, &rest).ok()
}

fn serve(mut stream: UnixStream, habit: Habit, place: &Place, asked: &mut Vec<String>, refused: &mut bool) {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") && stream.read_exact(&mut byte).is_ok() {
        line.push(byte[0]);
    }
    assert!(line.starts_with(b"\0AUTH EXTERNAL 30"), "{:?}", String::from_utf8_lossy(&line));
    stream.write_all(b"OK 0123456789abcdef\r\n").unwrap();
    let mut begin = [0; 7];
    stream.read_exact(&mut begin).unwrap();
    while let Some(call) = next(&mut stream) {
        let member = call.member.clone().unwrap_or_default();
        asked.push(member.clone());
        let unit = call.body[0].text().unwrap_or_default().to_owned();
        let reply = |kind, name, body: &[Bus]| wire::answer(kind, 7, call.serial, name, body);
        let job = Bus::Path("/org/freedesktop/systemd1/job/1".into());
        let removed = |result: &str| {
            let body = [Bus::U32(1), job.clone(), Bus::Text(unit.clone()), Bus::Text(result.into())];
            wire::answer(Type::Signal, 8, 0, Some("JobRemoved"), &body)
        };
        match (member.as_str(), habit) {
            ("StartTransientUnit", Habit::HangsUp) => return,
            ("StartTransientUnit", Habit::Exists) if !*refused => {
                *refused = true;
                let said = [Bus::Text(format!("Unit {unit} already exists."))];
                stream.write_all(&reply(Type::Error, Some("org.freedesktop.systemd1.UnitExists"), &said)).unwrap();
            }
            ("StartTransientUnit", _) => {
                if habit == Habit::Late {
                    std::thread::sleep(Duration::from_millis(1500));
                }
                if habit != Habit::Lies && habit != Habit::Fails {
                    make_scope(place, &unit, &call.body[2]);
                }
                // The signal may come before the reply.
                stream.write_all(&removed(if habit == Habit::Fails { "failed" } else { "done" })).unwrap();
                stream.write_all(&reply(Type::Return, None, std::slice::from_ref(&job))).unwrap();
            }
            ("StopUnit", _) => {
                stream.write_all(&reply(Type::Return, None, std::slice::from_ref(&job))).unwrap();
                stream.write_all(&removed("done")).unwrap();
            }
            _ => stream.write_all(&reply(Type::Return, None, &[])).unwrap(),
        }
    }
}

/// What systemd does: the slice's and the scope's directories, and the process moved there.
fn make_scope(place: &Place, unit: &str, properties: &Bus) {
    let dir = place.root.join("sys/fs/cgroup/podrun.slice").join(&place.slice).join(unit);
    fs::create_dir_all(&dir).unwrap();
    let Bus::Array(_, properties) = properties else { panic!("{properties:?}") };
    let found = properties.iter().find_map(|one| match one {
        Bus::Struct(pair) if pair[0].text() == Some("PIDs") => Some(format!("{:?}", pair[1])),
        _ => None,
    });
    let inside: String = found.unwrap().chars().filter(char::is_ascii_digit).skip(2).collect();
    fs::write(dir.join("cgroup.procs"), outer(&inside, &place.mark)).unwrap();
}

/// The number here of a process that has this one on the fake host.
fn outer(inside: &str, mark: &str) -> String {
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let has = |pid: &String| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let numbers: Vec<&str> = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .map(|rest| rest.split_whitespace().collect())
            .unwrap_or_default();
        // Other tests' hosts number theirs alike; the environment tells whose it is.
        let ours =
            || fs::read(format!("/proc/{pid}/environ")).is_ok_and(|all| String::from_utf8_lossy(&all).contains(mark));
        numbers.len() > 1 && numbers[1] == inside && ours()
    };
    all.filter(|name| name.parse::<u32>().is_ok()).find(has).expect("the process that systemd was told of")
}

fn bundle(host: &Host) -> Bundle {
    host.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "60"]);
        config["linux"]["cgroupsPath"] = json!(format!("{}:podrun:one", slice(host)));
    })
}

fn create(host: &Host, bundle: &Bundle) -> podrun_tests::Outcome {
    let log = host.fresh("log");
    let words = format!("oci --log {} --systemd-cgroup create --bundle {bundle} one", log.display());
    host.command(words).without_stdio().run()
}

#[test]
fn a_container_is_in_the_scope_that_systemd_made() {
    for (habit, calls) in [
        (Habit::Well, vec!["StartTransientUnit"]),
        (Habit::Late, vec!["StartTransientUnit"]),
        (Habit::Exists, vec!["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]),
    ] {
        let host = Host::on_cgroup2();
        // One to make it, one to stop it.
        let systemd = Systemd::start(&host, habit, 2);
        create(&host, &bundle(&host)).ok();
        host.podrun("oci start one").ok();
        let state = host.podrun("oci state one").json();
        let shown = host.program(format!("cat /proc/{}/cgroup", state["pid"])).run().text();
        assert!(shown.contains(&format!("/podrun.slice/{}/podrun-one.scope", slice(&host))), "{habit:?}: {shown}");
        host.podrun("oci exec one true").ok();
        host.podrun("oci pause one").ok();
        host.podrun("oci delete --force one").ok();
        let heard = systemd.heard();
        assert_eq!(heard, [calls, vec!["StopUnit"]].concat(), "{habit:?}");
    }
}

// runc#3780: a scope that failed, and a container that then ran outside of all limits.
#[test]
fn a_container_that_is_not_in_its_scope_never_runs() {
    for habit in [Habit::Lies, Habit::Fails, Habit::HangsUp] {
        let host = Host::on_cgroup2();
        let systemd = Systemd::start(&host, habit, 2);
        let bundle = bundle(&host);
        create(&host, &bundle).fails(1);
        host.podrun("oci list -q").ok().says_nothing();
        let heard = systemd.heard();
        assert_eq!(heard.first().map(String::as_str), Some("StartTransientUnit"), "{habit:?}");
        host.expect_nothing_left(&format!("{habit:?}"));
    }
}

#[test]
fn without_a_systemd_a_scope_is_refused() {
    let host = Host::on_cgroup2();
    host.small_disk(Path::new("/run"), "size=1m");
    create(&host, &bundle(&host)).fails(1);
    host.podrun("oci list -q").ok().says_nothing();
}

// A real manager, where there is one: in the VM. On the machine itself, since systemd knows processes by their numbers.
#[test]
fn a_real_systemd_makes_changes_and_removes_the_scope() {
    if !Path::new("/run/systemd/private").exists() {
        return note_skip("no systemd runs here");
    }
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "60"]);
        config["linux"]["cgroupsPath"] = json!("podruntest.slice:podrun:real");
        config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
        config["linux"]["resources"]["pids"] = json!({"limit": 40});
    });
    let root = host.fresh("states");
    let podrun = |words: &str| {
        let mut command = Command::new(host.podrun_path());
        command.args(["oci", "--root", root.to_str().unwrap(), "--systemd-cgroup"]).args(words.split(' '));
        command.stdin(std::process::Stdio::null());
        command
    };
    let ok = |words: &str| {
        let done = podrun(words).output().unwrap();
        assert!(done.status.success(), "{words}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    let null = std::process::Stdio::null;
    let made = podrun(&format!("create --bundle {bundle} real")).stdout(null()).stderr(null()).status().unwrap();
    assert!(made.success());
    ok("start real");
    let dir = Path::new("/sys/fs/cgroup/podruntest.slice/podrun-real.scope");
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap().trim().to_owned();
    assert_eq!((read("memory.max"), read("pids.max")), ((64 << 20).to_string(), "40".to_owned()));
    ok("update --memory 32m --pids-limit 30 real");
    // runc#1605: what systemd does not know it takes back.
    let reloaded = Command::new("systemctl").arg("daemon-reload").status().unwrap();
    assert!(reloaded.success());
    assert_eq!((read("memory.max"), read("pids.max")), ((32 << 20).to_string(), "30".to_owned()));
    ok("exec real true");
    ok("delete --force real");
    assert!(!dir.exists(), "the scope is still there");
    let _ = Command::new("systemctl").args(["stop", "podruntest.slice"]).status();
}
