//! cgroups on the real kernel: this host's own trees (v1 or hybrid), the v1 trees without the unified one, and a
//! private view with cgroup2 alone. Every test works under a directory of its own that is gone at the end.

#![forbid(unsafe_code)]
#![allow(clippy::print_stderr)] // a test that skips says so

use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::LinuxResources;
use podrun::cgroup::Cgroup;
use podrun::cgroup::CgroupPlan;
use podrun::cgroup::Controller;
use podrun::cgroup::Home;
use podrun::cgroup::Layout;
use podrun::cgroup::Place;
use podrun::cgroup::Programs;
use podrun::cgroup::Version;
use podrun::cgroup::plan;
use podrun::cgroup::remove_tree;
use podrun::error::Kind;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(5);

/// A pod's directory in all trees of a layout; gone when dropped, with all that is in it.
struct Pod {
    layout: Layout,
    place: Place,
}

impl Pod {
    fn new(layout: Layout, test: &str) -> Self {
        let place = Place::parse(&format!("podrun-test-{}-{test}/pod", std::process::id())).unwrap();
        Self { layout, place }
    }

    fn at(&self, name: &str) -> Place {
        Place::parse(&format!("{}/{name}", self.place)).unwrap()
    }

    fn plan(&self, name: &str, json: &str) -> CgroupPlan {
        plan::container(&self.layout, &self.at(name), Some(&resources(json)), None).unwrap()
    }

    fn make(&self, name: &str, json: &str) -> (CgroupPlan, Cgroup) {
        let plan = self.plan(name, json);
        let cgroup = Cgroup::create(&plan).unwrap();
        cgroup.guard(&plan, &mut Programs::default()).unwrap();
        (plan, cgroup)
    }

    fn top(&self) -> Place {
        Place::parse(self.place.as_str().split('/').next().unwrap()).unwrap()
    }

    fn directories(&self) -> Vec<PathBuf> {
        let top = self.top();
        self.layout.trees().map(|tree| tree.mount.join(top.as_str())).filter(|path| path.exists()).collect()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Whatever the test left: thawed (v1 kills nothing that is frozen), killed, removed.
        let all = Cgroup::find(&self.layout, &self.top()).unwrap();
        for directory in self.directories() {
            drop(fs::write(directory.join("pod/cgroup.freeze"), "0"));
            for frozen in ["pod", "pod/a"] {
                drop(fs::write(directory.join(frozen).join("freezer.state"), "THAWED"));
            }
        }
        let killed = all.kill_all(SOON);
        let removed = remove_tree(&self.layout, &self.top(), SOON);
        if !std::thread::panicking() {
            killed.unwrap();
            removed.unwrap();
            assert_eq!(self.directories(), [""; 0].map(PathBuf::from));
        }
    }
}

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

/// A program in the cgroup: it joins as a container's child does, and only then runs `script`.
struct Program(Child);

impl Program {
    fn start(plan: &CgroupPlan, script: &str) -> Self {
        let join = r#"for file; do echo 0 > "$file" || exit 99; done; exec sh -c "$0""#;
        let unified = plan.unified_directory().map(|directory| directory.join("cgroup.procs"));
        let mut command = Command::new("sh");
        command.args(["-c", join, script]).args(plan.tasks()).args(unified);
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Waits until the shell is where it was sent.
    fn started(plan: &CgroupPlan, script: &str) -> Self {
        let program = Self::start(plan, script);
        let file = format!("/proc/{}/cgroup", program.0.id());
        within(SOON, || fs::read_to_string(&file).is_ok_and(|text| plan.confirm(&text).is_ok()));
        program
    }

    fn output(self) -> String {
        let output = self.0.wait_with_output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    fn signal(mut self) -> Option<i32> {
        self.0.wait().unwrap().signal()
    }
}

#[track_caller]
fn within(limit: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < end, "it never came");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The layouts of this host that can be tested: as it is, and v1 without its unified tree. None, loudly, without root.
fn layouts() -> Vec<(&'static str, Layout)> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: not root");
        return Vec::new();
    }
    let host = Layout::detect().unwrap();
    let mut layouts = vec![("host", host.clone())];
    if host.version() == Version::Hybrid {
        layouts.push(("v1", Layout { v2: None, ..host }));
    } else {
        eprintln!("skipped: v1 alone, this host is {:?}", host.version());
    }
    layouts
}

/// Whether the layout counts this; says so when not.
fn has(layout: &Layout, controller: Controller) -> bool {
    let there = layout.home(controller) != Home::Nowhere;
    if !there {
        eprintln!("skipped: no {controller} controller here");
    }
    there
}

#[test]
fn what_is_made_is_joined_and_removed_twice() {
    for (name, layout) in layouts() {
        let pod = Pod::new(layout, &format!("life-{name}"));
        let (plan, cgroup) = pod.make("a", "{}");
        let program = Program::started(&plan, "read x");
        assert_eq!(cgroup.procs().len(), 1, "{:?}", cgroup.procs());
        assert!(!cgroup.is_empty());
        cgroup.kill_all(SOON).unwrap();
        assert!(cgroup.is_empty(), "it returns when none is left, though nobody has reaped");
        assert_eq!(program.signal(), Some(9));
        cgroup.remove(SOON).unwrap();
        cgroup.remove(SOON).unwrap();
        remove_tree(&pod.layout, &pod.place, SOON).unwrap();
        remove_tree(&pod.layout, &pod.place, SOON).unwrap();
        assert!(Cgroup::find(&pod.layout, &pod.place).unwrap().is_nowhere());
    }
}

/// What the child of clone3 does, on a thread: `tasks` moves the thread that writes.
#[test]
fn a_thread_joins_by_itself() {
    for (name, layout) in layouts() {
        let pod = Pod::new(Layout { v2: None, ..layout }, &format!("thread-{name}"));
        if pod.layout.v1.is_empty() {
            eprintln!("skipped: no v1 tree here");
            continue;
        }
        let (plan, cgroup) = pod.make("a", "{}");
        let tasks = cgroup.tasks().unwrap();
        assert_eq!(tasks.fds().count(), plan.tasks().len());
        let text = std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                tasks.join().unwrap();
                fs::read_to_string("/proc/thread-self/cgroup").unwrap()
            });
            there.join().unwrap()
        });
        plan.confirm(&text).unwrap();
        let here = fs::read_to_string("/proc/self/cgroup").unwrap();
        assert!(plan.confirm(&here).is_err(), "only the thread moved");
    }
}

/// v1 has a file of that name in each directory.
#[test]
fn a_container_may_be_called_tasks() {
    for (name, layout) in layouts() {
        let pod = Pod::new(layout, &format!("name-{name}"));
        let tasks = podrun::id::ContainerName::parse("tasks").unwrap();
        let plan = plan::container(&pod.layout, &pod.place.container(&tasks), None, None).unwrap();
        Cgroup::create(&plan).unwrap();
    }
}

/// pitfalls: "tail /dev/zero in 15 MiB -> OOMKilled; kill -9 from outside -> Error": the counter tells them apart.
#[test]
fn the_kernels_counter_knows_an_oom_kill() {
    for (name, layout) in layouts() {
        if !has(&layout, Controller::Memory) {
            continue;
        }
        let pod = Pod::new(layout, &format!("oom-{name}"));
        let limits = r#"{"memory":{"limit":15728640,"swap":15728640}}"#;
        let (plan, cgroup) = pod.make("a", limits);
        let notifier = cgroup.oom_notifier().unwrap().expect("memory is counted here");
        assert_eq!(cgroup.oom_kills().unwrap(), Some(0));
        let ready = |milliseconds: u16| {
            let flags = PollFlags::from_bits_truncate(notifier.interest().bits().try_into().unwrap());
            poll(&mut [PollFd::new(notifier.as_fd(), flags)], PollTimeout::from(milliseconds)).unwrap() == 1
        };
        assert!(!ready(0));
        let killed = Program::started(&plan, "read x");
        cgroup.kill_all(SOON).unwrap();
        assert_eq!(killed.signal(), Some(9));
        assert_eq!(cgroup.oom_kills().unwrap(), Some(0), "killed from outside");
        assert_eq!(Program::start(&plan, "exec tail /dev/zero").signal(), Some(9));
        assert_eq!(cgroup.oom_kills().unwrap(), Some(1));
        assert!(ready(1000));
        notifier.acknowledge().unwrap();
        assert!(!ready(0));
        // A child dies of it, init survives: the count rises all the same, hence the new baseline at each notice.
        let survivor = Program::start(&plan, "tail /dev/zero; echo survived");
        assert!(survivor.output().contains("survived"));
        assert_eq!(cgroup.oom_kills().unwrap(), Some(2));
    }
}

/// pitfalls: "pod-level limit hit by sibling -> attributed": the kill counts in the victim's leaf.
#[test]
fn a_kill_by_the_pods_limit_counts_for_the_victim() {
    for (name, layout) in layouts() {
        if !has(&layout, Controller::Memory) {
            continue;
        }
        let pod = Pod::new(layout, &format!("podoom-{name}"));
        let limits = resources(r#"{"memory":{"limit":20971520,"swap":20971520}}"#);
        Cgroup::create(&plan::pod(&pod.layout, &pod.place, Some(&limits)).unwrap()).unwrap();
        let make = |name| {
            let plan = plan::container(&pod.layout, &pod.at(name), None, Some(&limits)).unwrap();
            (Cgroup::create(&plan).unwrap(), plan)
        };
        let ((a, a_plan), (b, b_plan)) = (make("a"), make("b"));
        let bystander = Program::started(&b_plan, "read x");
        assert_eq!(Program::start(&a_plan, "exec tail /dev/zero").signal(), Some(9));
        assert_eq!((a.oom_kills().unwrap(), b.oom_kills().unwrap()), (Some(1), Some(0)));
        b.kill_all(SOON).unwrap();
        assert_eq!(bystander.signal(), Some(9));
    }
}

/// bash tries again when a fork fails, where dash gives up; its first process outlives the rest.
const FORK_BOMB: &str = "exec 2>/dev/null; exec bash -c 'bomb() { bomb | bomb & }; (bomb) & exec sleep 60'";

/// pitfalls 16: a fork bomb, bounded by pids.max, in both ways of killing; the neighbour lives.
#[test]
fn a_fork_bomb_dies_and_its_neighbour_does_not() {
    for (name, layout) in layouts() {
        let pod = Pod::new(layout, &format!("bomb-{name}"));
        let (neighbour_plan, neighbour) = pod.make("b", "{}");
        let living = Program::started(&neighbour_plan, "read x");
        let (plan, cgroup) = pod.make("a", r#"{"pids":{"limit":48}}"#);
        let bomb = Program::start(&plan, FORK_BOMB);
        within(SOON, || cgroup.procs().len() > 20);
        let began = Instant::now();
        cgroup.kill_all(SOON).unwrap();
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert!(cgroup.is_empty(), "{:?}", cgroup.procs());
        assert_eq!(bomb.signal(), Some(9));
        cgroup.remove(SOON).unwrap();
        assert_eq!(neighbour.procs().len(), 1);
        neighbour.kill_all(SOON).unwrap();
        assert_eq!(living.signal(), Some(9));
    }
}

/// A container with a cgroup mount of its own may have made directories below its leaf.
#[test]
fn what_was_made_below_is_killed_and_removed_too() {
    for (name, layout) in layouts() {
        let pod = Pod::new(layout, &format!("below-{name}"));
        let (plan, cgroup) = pod.make("a", "{}");
        for leaf in &plan.leaves {
            fs::create_dir_all(plan.directory(leaf).join("x/y")).unwrap();
        }
        let below = CgroupPlan { place: pod.at("a/x/y"), ..plan };
        let program = Program::started(&below, "read x");
        assert_eq!(cgroup.procs().len(), 1);
        cgroup.kill_all(SOON).unwrap();
        assert_eq!(program.signal(), Some(9));
        cgroup.remove(SOON).unwrap();
    }
}

#[test]
fn removal_of_a_cgroup_in_use_ends_in_time_and_says_who_is_in_it() {
    for (name, layout) in layouts() {
        let pod = Pod::new(layout, &format!("busy-{name}"));
        let (plan, cgroup) = pod.make("a", "{}");
        let program = Program::started(&plan, "read x");
        let began = Instant::now();
        let err = cgroup.remove(Duration::from_millis(50)).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(1));
        assert_eq!(err.kind, Kind::NotNow);
        assert!(err.to_string().contains(&program.0.id().to_string()), "{err}");
        cgroup.kill_all(SOON).unwrap();
        assert_eq!(program.signal(), Some(9));
    }
}

#[test]
fn freezing_stops_and_thawing_resumes() {
    for (name, layout) in layouts() {
        let pod = Pod::new(layout, &format!("freeze-{name}"));
        let (plan, cgroup) = pod.make("a", "{}");
        let mut program = Program::started(&plan, "read x; echo went on");
        assert!(!cgroup.is_frozen());
        cgroup.freeze(SOON).unwrap();
        assert!(cgroup.is_frozen());
        program.0.stdin.take().unwrap().write_all(b"\n").unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert!(program.0.try_wait().unwrap().is_none(), "it ran while frozen");
        cgroup.thaw().unwrap();
        assert!(!cgroup.is_frozen());
        assert_eq!(program.output(), "went on\n");
    }
}

#[test]
fn a_frozen_cgroup_can_be_killed() {
    for (name, layout) in layouts() {
        let pod = Pod::new(layout, &format!("frozenkill-{name}"));
        let (plan, cgroup) = pod.make("a", "{}");
        let program = Program::started(&plan, "read x");
        cgroup.freeze(SOON).unwrap();
        cgroup.kill_all(SOON).unwrap();
        assert_eq!(program.signal(), Some(9));
    }
}

/// pitfalls 17: "pre-frozen cgroup -> error in < 1 s". crun hangs there for ever.
#[test]
fn a_container_of_a_frozen_pod_is_refused_at_once() {
    for (name, layout) in layouts() {
        let pod = Pod::new(layout, &format!("frozenpod-{name}"));
        Cgroup::create(&plan::pod(&pod.layout, &pod.place, None).unwrap()).unwrap();
        let above = Cgroup::find(&pod.layout, &pod.place).unwrap();
        above.freeze(SOON).unwrap();
        let began = Instant::now();
        let err = Cgroup::create(&pod.plan("a", "{}")).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(1));
        assert_eq!(err.kind, Kind::NotNow, "{err}");
        assert!(Cgroup::find(&pod.layout, &pod.at("a")).unwrap().is_nowhere(), "nothing is left of it");
        above.thaw().unwrap();
        Cgroup::create(&pod.plan("a", "{}")).unwrap();
    }
}

#[test]
fn a_leaf_with_processes_is_refused_and_left_alone() {
    for (name, layout) in layouts() {
        let pod = Pod::new(layout, &format!("taken-{name}"));
        let (plan, cgroup) = pod.make("a", "{}");
        let program = Program::started(&plan, "read x");
        let err = Cgroup::create(&plan).unwrap_err();
        assert_eq!(err.kind, Kind::NotNow, "{err}");
        assert_eq!(cgroup.procs().len(), 1);
        cgroup.kill_all(SOON).unwrap();
        assert_eq!(program.signal(), Some(9));
    }
}

#[test]
fn an_empty_leaf_of_an_earlier_life_keeps_no_limit() {
    for (name, layout) in layouts() {
        if !has(&layout, Controller::Pids) {
            continue;
        }
        let pod = Pod::new(layout, &format!("again-{name}"));
        pod.make("a", r#"{"pids":{"limit":7}}"#);
        let (plan, _) = pod.make("a", "{}");
        let leaf = plan.leaves.iter().find(|leaf| leaf.tree.controllers.contains(&Controller::Pids)).unwrap();
        assert_eq!(fs::read_to_string(plan.directory(leaf).join("pids.max")).unwrap(), "max\n");
    }
}

#[test]
fn a_refused_value_is_named_and_nothing_is_left() {
    for (name, layout) in layouts() {
        if !has(&layout, Controller::Cpu) {
            continue;
        }
        let pod = Pod::new(layout, &format!("refused-{name}"));
        let err = Cgroup::create(&pod.plan("a", r#"{"cpu":{"period":5}}"#)).unwrap_err();
        assert_eq!(err.kind, Kind::Invalid);
        let text = err.to_string();
        for part in
            ["write \"5\" to ", "/a/cpu.cfs_period_us for linux.resources.cpu.period", "Invalid argument", "hint: "]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(pod.directories(), [""; 0].map(PathBuf::from));
    }
}

#[test]
fn limits_are_what_was_asked_and_change_alive() {
    for (name, layout) in layouts() {
        if !has(&layout, Controller::Memory) || !has(&layout, Controller::Cpu) {
            continue;
        }
        let pod = Pod::new(layout, &format!("limits-{name}"));
        let (_, cgroup) = pod.make(
            "a",
            r#"{"memory":{"limit":33554432,"swap":67108864},"cpu":{"shares":512,"quota":20000,"period":50000}}"#,
        );
        assert_eq!(cgroup.stats().memory_limit_bytes, Some(33_554_432));
        assert_eq!(cgroup.current().cpu_quota, Some(20_000));
        // Up, down, off and on again: each order of limit and memory+swap comes once.
        for (limit, swap) in [(134_217_728, 134_217_728), (16_777_216, 16_777_216), (-1, -1), (8_388_608, 8_388_608)] {
            let json =
                format!(r#"{{"memory":{{"limit":{limit},"swap":{swap}}},"cpu":{{"quota":5000,"period":10000}}}}"#);
            let update = plan::update(&pod.layout, &pod.at("a"), &resources(&json), &cgroup.current()).unwrap();
            Cgroup::update(&update).unwrap();
            assert_eq!(cgroup.stats().memory_limit_bytes, u64::try_from(limit).ok(), "{json}");
        }
        assert_eq!(cgroup.current().cpu_quota, Some(5000));
    }
}

/// A container that is not in a tree cannot be limited there later, and is told so.
#[test]
fn a_limit_in_a_tree_that_the_container_is_not_in_is_refused() {
    for (name, layout) in layouts() {
        if !matches!(layout.home(Controller::Cpuset), Home::V1(_)) {
            eprintln!("skipped: cpuset is not on v1 here");
            continue;
        }
        let pod = Pod::new(layout, &format!("absent-{name}"));
        let (_, cgroup) = pod.make("a", "{}");
        let update = plan::update(&pod.layout, &pod.at("a"), &resources(r#"{"cpu":{"cpus":"0"}}"#), &cgroup.current());
        let err = Cgroup::update(&update.unwrap()).unwrap_err();
        assert!(err.to_string().starts_with("honour linux.resources.cpu.cpus for "), "{err}");
    }
}

#[test]
fn a_v1_cpuset_has_what_its_parents_have() {
    for (name, layout) in layouts() {
        let Home::V1(tree) = layout.home(Controller::Cpuset) else {
            eprintln!("skipped: cpuset is not on v1 here");
            continue;
        };
        let all = fs::read_to_string(tree.mount.join("cpuset.mems")).unwrap();
        let pod = Pod::new(layout.clone(), &format!("cpuset-{name}"));
        let (plan, cgroup) = pod.make("a", r#"{"cpu":{"cpus":"0"}}"#);
        let leaf = plan.leaves.iter().find(|leaf| leaf.tree.controllers.contains(&Controller::Cpuset)).unwrap();
        assert_eq!(fs::read_to_string(plan.directory(leaf).join("cpuset.cpus")).unwrap(), "0\n");
        assert_eq!(fs::read_to_string(plan.directory(leaf).join("cpuset.mems")).unwrap(), all);
        assert_eq!(
            Program::start(&plan, "grep Cpus_allowed_list /proc/self/status").output(),
            "Cpus_allowed_list:\t0\n"
        );
        cgroup.remove(SOON).unwrap();
    }
}

#[test]
fn what_is_used_is_counted() {
    for (name, layout) in layouts() {
        let pod = Pod::new(layout, &format!("stats-{name}"));
        let (plan, cgroup) = pod.make("a", "{}");
        let program = Program::started(&plan, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; read x");
        within(SOON, || cgroup.stats().cpu_nanoseconds.unwrap() > 1_000_000);
        let stats = cgroup.stats();
        if has(&pod.layout, Controller::Memory) {
            assert!(stats.memory_bytes.unwrap() > 4096 && stats.memory_peak_bytes >= stats.memory_bytes, "{stats:?}");
            assert!(stats.memory_working_set_bytes <= stats.memory_bytes);
            assert_eq!(stats.memory_limit_bytes, None);
        }
        if has(&pod.layout, Controller::Pids) {
            assert_eq!(stats.pids, Some(1));
        }
        cgroup.kill_all(SOON).unwrap();
        assert_eq!(program.signal(), Some(9));
    }
}

/// What a container may open, by name and by a node that it made itself (CAP_MKNOD): the verdicts of both dialects.
const DEVICES: &str = r#"
try() { if (: <"$1") 2>/dev/null; then echo "$1 yes"; else echo "$1 no"; fi; }
try /dev/null; try /dev/zero; try /dev/urandom; try /dev/kmsg
directory=$(mktemp -d); mknod $directory/null c 1 3; mknod $directory/kmsg c 1 11 && echo made
try() { if (: <"$1/$2") 2>/dev/null; then echo "own $2 yes"; else echo "own $2 no"; fi; }
try $directory null; try $directory kmsg; rm -r $directory"#;

fn devices(pod: &Pod) {
    let kmsg =
        r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#;
    let verdict = |name: &str, json: &str| {
        let (plan, cgroup) = pod.make(name, json);
        let said = Program::start(&plan, DEVICES).output();
        let writes = Program::start(&plan, "(: >/dev/kmsg) 2>/dev/null && echo written").output();
        cgroup.kill_all(SOON).unwrap();
        (said.lines().map(str::to_owned).collect::<Vec<_>>(), writes)
    };
    let always = ["/dev/null yes", "/dev/zero yes", "/dev/urandom yes"];
    let wanted = |kmsg: [&'static str; 2]| [&always[..], &[kmsg[0], "made", "own null yes", kmsg[1]]].concat();
    assert_eq!(
        verdict("default", "{}"),
        (wanted(["/dev/kmsg no", "own kmsg no"]).iter().map(|it| (*it).to_owned()).collect(), String::new())
    );
    let (said, writes) = verdict("read", kmsg);
    assert_eq!(
        (said, writes.as_str()),
        (wanted(["/dev/kmsg yes", "own kmsg yes"]).iter().map(|it| (*it).to_owned()).collect(), "")
    );
    let (said, writes) = verdict("all", r#"{"devices":[{"allow":true}]}"#);
    assert_eq!(
        (said, writes.as_str()),
        (wanted(["/dev/kmsg yes", "own kmsg yes"]).iter().map(|it| (*it).to_owned()).collect(), "written\n")
    );
}

fn devices_change_alive(pod: &Pod) {
    let (plan, cgroup) = pod.make("live", "{}");
    let opens = || Program::start(&plan, "(: </dev/kmsg) 2>/dev/null && echo opened").output() == "opened\n";
    let change = |json: &str| {
        let update = plan::update(&pod.layout, &pod.at("live"), &resources(json), &cgroup.current()).unwrap();
        Cgroup::update(&update).unwrap();
    };
    assert!(!opens());
    change(r#"{"devices":[{"allow":true,"type":"c","major":1,"minor":11}]}"#);
    assert!(opens());
    change(r#"{"devices":[{"allow":true,"type":"c","major":10}]}"#);
    assert!(!opens());
}

#[test]
fn only_allowed_devices_open() {
    for (name, layout) in layouts() {
        let pod = Pod::new(layout, &format!("devices-{name}"));
        devices(&pod);
        devices_change_alive(&pod);
    }
}

/// Pods come and go at once: a parent that another one has just removed is made again.
#[test]
fn many_at_once_do_not_disturb_each_other() {
    for (name, layout) in layouts() {
        let pod = Pod::new(layout, &format!("crowd-{name}"));
        std::thread::scope(|scope| {
            for worker in 0..8 {
                let pod = &pod;
                scope.spawn(move || {
                    for _ in 0..25 {
                        let (_, cgroup) = pod.make(&format!("w{worker}/a"), "{}");
                        cgroup.remove(SOON).unwrap();
                        // The parents too, whether others are in them or not.
                        drop(remove_tree(&pod.layout, &pod.at(&format!("w{worker}")), SOON));
                        for tree in pod.layout.trees() {
                            drop(fs::remove_dir(tree.mount.join(pod.place.as_str())));
                            drop(fs::remove_dir(tree.mount.join(pod.top().as_str())));
                        }
                    }
                });
            }
        });
    }
}

/// The tests that limit huge pages have the root hand the controller down. One at a time, so that each can put things
/// back as they were.
struct Hugetlb {
    control: PathBuf,
    before: bool,
    _turn: Flock<fs::File>,
}

impl Hugetlb {
    fn of(layout: &Layout) -> Option<Self> {
        let Home::V2(tree) = layout.home(Controller::Hugetlb) else {
            eprintln!("skipped: hugetlb is not in the unified tree here");
            return None;
        };
        // The tree itself is the lock: a file of our own would stay behind.
        let turn = Flock::lock(fs::File::open(&tree.mount).unwrap(), FlockArg::LockExclusive).unwrap();
        let control = tree.mount.join("cgroup.subtree_control");
        let before = fs::read_to_string(&control).unwrap().contains("hugetlb");
        Some(Self { control, before, _turn: turn })
    }
}

impl Drop for Hugetlb {
    fn drop(&mut self) {
        if !self.before {
            // A directory that was removed a moment ago may hold it a little longer.
            within(SOON, || fs::write(&self.control, "-hugetlb").is_ok());
        }
    }
}

/// hugetlb is often the one controller that a hybrid host has in its unified tree.
#[test]
fn a_limit_goes_to_the_tree_where_its_controller_is() {
    for (name, layout) in layouts() {
        let Some(_turn) = Hugetlb::of(&layout) else { continue };
        let pod = Pod::new(layout.clone(), &format!("huge-{name}"));
        let (plan, cgroup) = pod.make("a", "{}");
        let limit = r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#;
        let file = plan.unified_directory().unwrap().join("hugetlb.2MB.max");
        // Made without, given later: the directories above hand the controller down at that moment.
        Cgroup::update(&plan::update(&pod.layout, &pod.at("a"), &resources(limit), &cgroup.current()).unwrap())
            .unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "4194304\n");
        cgroup.remove(SOON).unwrap();
        let (_, cgroup) = pod.make("a", limit);
        assert_eq!(fs::read_to_string(&file).unwrap(), "4194304\n");
        cgroup.remove(SOON).unwrap();
        let no_such_size = r#"{"hugepageLimits":[{"pageSize":"3MB","limit":3145728}]}"#;
        let err = Cgroup::create(&pod.plan("a", no_such_size)).unwrap_err();
        assert!(err.to_string().contains("hugetlb.3MB.max for linux.resources.hugepageLimits[0]"), "{err}");
    }
}

/// A private mount namespace in which /sys/fs/cgroup is the unified tree and nothing else: what podrun sees on most
/// hosts of today. The test runs itself there; true means "we are inside".
fn inside_v2(test: &str) -> bool {
    if std::env::var_os("PODRUN_TEST_V2").is_some() {
        return true;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: not root");
        return false;
    }
    let view = r#"umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@""#;
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", view, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("PODRUN_TEST_V2", "1")
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "in the private view:\n{said}");
    assert!(said.contains("1 passed"), "{said}");
    said.lines().filter(|line| line.starts_with("skipped: ")).for_each(|line| eprintln!("{line}"));
    false
}

fn v2() -> Layout {
    let layout = Layout::detect().unwrap();
    assert_eq!(layout.version(), Version::V2, "{layout:?}");
    layout
}

#[test]
fn v2_devices_are_held_by_a_program() {
    if inside_v2("v2_devices_are_held_by_a_program") {
        let pod = Pod::new(v2(), "v2devices");
        devices(&pod);
        devices_change_alive(&pod);
    }
}

#[test]
fn v2_life_and_death() {
    if !inside_v2("v2_life_and_death") {
        return;
    }
    let pod = Pod::new(v2(), "v2life");
    let (plan, cgroup) = pod.make("a", "{}");
    assert_eq!(plan.tasks(), [""; 0].map(PathBuf::from));
    assert!(cgroup.unified_fd().is_some());
    let bomb = Program::start(&plan, "for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; wait");
    within(SOON, || cgroup.procs().len() == 9);
    cgroup.freeze(SOON).unwrap();
    assert!(cgroup.is_frozen());
    cgroup.kill_all(SOON).unwrap();
    assert_eq!(bomb.signal(), Some(9));
    assert!(cgroup.stats().cpu_nanoseconds.is_some());
    cgroup.remove(SOON).unwrap();
    cgroup.remove(SOON).unwrap();
}

/// Memory and pids are on v1 on a hybrid host, so its private view has none: a limit is refused by name.
#[test]
fn v2_without_a_controller_refuses_its_limits() {
    if !inside_v2("v2_without_a_controller_refuses_its_limits") {
        return;
    }
    let layout = v2();
    if layout.home(Controller::Memory) != Home::Nowhere {
        eprintln!("skipped: this host has memory in the unified tree");
        return;
    }
    let pod = Pod::new(layout, "v2refuse");
    let asked = resources(r#"{"memory":{"limit":33554432}}"#);
    let err = plan::container(&pod.layout, &pod.at("a"), Some(&asked), None).unwrap_err();
    assert_eq!(err.kind, Kind::Unsupported);
    assert!(err.to_string().contains("linux.resources.memory.limit"), "{err}");
    let (_, cgroup) = pod.make("a", "{}");
    assert_eq!(cgroup.oom_kills().unwrap(), None);
    assert!(cgroup.oom_notifier().unwrap().is_none());
}

#[test]
fn v2_limits_are_written_as_asked() {
    if !inside_v2("v2_limits_are_written_as_asked") {
        return;
    }
    let layout = v2();
    let _turn = Hugetlb::of(&layout);
    let asked = [
        (Controller::Memory, r#"{"memory":{"limit":33554432,"swap":33554432}}"#, "memory.max", "33554432"),
        (Controller::Pids, r#"{"pids":{"limit":9}}"#, "pids.max", "9"),
        (Controller::Cpu, r#"{"cpu":{"shares":1024,"quota":20000,"period":50000}}"#, "cpu.max", "20000 50000"),
        (Controller::Hugetlb, r#"{"hugepageLimits":[{"pageSize":"2MB","limit":-1}]}"#, "hugetlb.2MB.max", "max"),
        (Controller::Hugetlb, r#"{"unified":{"hugetlb.2MB.max":"2097152"}}"#, "hugetlb.2MB.max", "2097152"),
    ];
    for (controller, json, file, value) in asked {
        if has(&layout, controller) {
            let pod = Pod::new(layout.clone(), "v2limits");
            let (plan, _) = pod.make("a", json);
            let found = fs::read_to_string(plan.unified_directory().unwrap().join(file)).unwrap();
            assert_eq!(found.trim(), value, "{json}");
        }
    }
}

/// A v2 directory that holds processes cannot hand controllers down (cgroups(7), "no internal processes").
#[test]
fn v2_says_why_a_controller_cannot_be_enabled() {
    if !inside_v2("v2_says_why_a_controller_cannot_be_enabled") {
        return;
    }
    let layout = v2();
    let Some(_turn) = Hugetlb::of(&layout) else { return };
    let pod = Pod::new(layout, "v2busy");
    let parent = CgroupPlan { place: pod.place.clone(), ..pod.plan("x", r#"{"devices":[{"allow":true}]}"#) };
    let above = Cgroup::create(&parent).unwrap();
    let program = Program::started(&parent, "read x");
    let plan = pod.plan("a", r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#);
    let err = Cgroup::create(&plan).unwrap_err();
    assert!(err.to_string().contains("that cgroup holds processes itself"), "{err}");
    above.kill_all(SOON).unwrap();
    assert_eq!(program.signal(), Some(9));
}

/// What was unmounted, or never was a cgroup, is not written into as if it were one.
#[test]
fn a_plain_directory_is_no_tree() {
    let directory = std::env::temp_dir().join(format!("podrun-test-{}-plain", std::process::id()));
    fs::create_dir(&directory).unwrap();
    let mut layout = Layout::detect().unwrap();
    layout.v1.clear();
    if let Some(tree) = &mut layout.v2 {
        tree.mount.clone_from(&directory);
        let plan = plan::container(&layout, &Place::parse("x").unwrap(), None, None).unwrap();
        let err = Cgroup::create(&plan).unwrap_err();
        assert!(err.to_string().contains("it is no cgroup file system"), "{err}");
        assert!(!Path::new(&directory).join("x").exists());
    } else {
        eprintln!("skipped: no unified tree");
    }
    fs::remove_dir(&directory).unwrap();
}
