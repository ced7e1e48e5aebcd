//! stop, kill, restart, pause, resume, wait, attach, top, netns, ps, get, prune, doctor, info, version.

use podrun_tests::{Host, eventually, json};
use std::time::{Duration, Instant};

fn pod() -> Host {
    let host = Host::new();
    host.pod("web");
    host
}

/// A container that says `got SIGTERM` and exits with 7 at once.
fn polite(host: &Host) {
    host.start("web/a", "", &format!("/probe trap {} 7", libc::SIGTERM));
    eventually("it is ready", Duration::from_secs(5), || {
        host.podrun("logs web/a").text().contains("ready").then_some(())
    });
}

fn stubborn(host: &Host, name: &str) {
    host.start(&format!("web/{name}"), "", "/probe stubborn");
    let log = format!("logs web/{name}");
    eventually("it is ready", Duration::from_secs(5), || host.podrun(&log).text().contains("stubborn").then_some(()));
}

// design.md: "stop: grace 10 s, then KILL"; pitfalls.md 25: "return as soon as it exits".
#[test]
fn stop_sends_term_and_returns_as_soon_as_it_is_over() {
    let host = pod();
    polite(&host);
    host.podrun("stop web -c a").ok().within(Duration::from_secs(3));
    let ended = host.container("web", "a");
    assert_eq!(json!([ended["state"], ended["exitCode"]]), json!(["Exited", 7]));
    host.podrun("logs web/a").prints_something_like("got SIGTERM");
}

#[test]
fn stop_kills_after_the_grace_and_not_before() {
    let host = pod();
    stubborn(&host, "a");
    let out = host.podrun("stop web -c a --time 1");
    out.ok().within(Duration::from_secs(4));
    assert!(out.took >= Duration::from_secs(1), "{:?}", out.took);
    assert_eq!(host.container("web", "a")["exitCode"], 137);
}

// pitfalls.md 25: "pod of 10 such containers: one grace, not ten".
#[test]
fn a_pod_of_stubborn_containers_is_stopped_in_one_grace() {
    let host = pod();
    (0..6).for_each(|n| stubborn(&host, &format!("c{n}")));
    host.podrun("stop web --time 1").ok().within(Duration::from_secs(4));
    for n in 0..6 {
        assert_eq!(host.container("web", &format!("c{n}"))["exitCode"], 137);
    }
}

// The same of several pods and of several containers to be deleted; what is not there keeps nobody.
#[test]
fn several_are_stopped_and_deleted_in_one_grace() {
    let host = Host::new();
    for pod in ["web", "db", "mq"] {
        host.pod(pod);
        host.start(&format!("{pod}/a"), "", "/probe stubborn");
        host.start(&format!("{pod}/b"), "", "/probe stubborn");
    }
    let at_once = Duration::from_millis(3500);
    host.podrun("stop web nosuch db mq/a --time 2").fails(1).says("find the pod nosuch").within(at_once);
    for pod in ["web", "db", "mq"] {
        assert_eq!(host.container(pod, "a")["exitCode"], 137);
    }
    assert_eq!(host.container("mq", "b")["state"], "Running");
    host.podrun("start web nosuch db mq").fails(1);
    host.podrun("restart web db mq --time 2").ok().within(at_once);
    host.podrun("delete container web/a nosuch/a web/b --force --time 2")
        .ok()
        .prints("web/a deleted\nweb/b deleted")
        .says("find the pod nosuch")
        .within(at_once);
    host.podrun("delete pod web db nosuch mq --time 2")
        .ok()
        .prints("pod/web deleted\npod/db deleted\npod/mq deleted")
        .within(at_once);
    host.pod("web");
    host.podrun("delete pod web/a").fails(2).says("`podrun delete container web/a`");
}

// pitfalls.md 25: "warn when pid 1 has SIG_DFL/ignored for the signal".
#[test]
fn a_signal_that_does_nothing_is_told() {
    let host = pod();
    host.start("web/deaf", "", "sleep 600");
    host.run("web/hears", "-d", "sh -c \"trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done\"").ok();
    eventually("its handler", Duration::from_secs(5), || {
        host.podrun("logs web/hears").text().contains("ready").then_some(())
    });
    host.podrun("stop web --time 1").ok().says("web/deaf ignores SIGTERM").says("KILL in 1s").does_not_say("hears");
    host.podrun(format!("create container web/unborn --rootfs {} -- sleep 600", host.rootfs())).ok();
    host.podrun("stop web/unborn").ok().says_nothing();
    host.podrun("start web/deaf").ok();
    host.podrun("stop web --time 0").ok().says_nothing();
    let mut running = host.running("web/c", "", "sh -c 'echo here; exec sleep 600'").start();
    running.until_it_prints("here");
    eventually("the warning", Duration::from_secs(5), || {
        running.signal(libc::SIGINT);
        running.stderr().contains("`podrun kill web/c` ends it").then_some(())
    });
    host.podrun("kill web/c").ok();
    running.wait().fails(137).says("c ignores SIGINT").with_one_line();
}

// The kernel keeps them from the first of a PID namespace; one that has not started is no program yet that could ignore them.
#[test]
fn a_signal_ends_a_container_that_was_not_started() {
    let host = pod();
    for (name, signal, code) in [("a", "TERM", 143), ("b", "HUP", 129)] {
        host.podrun(format!("create container web/{name} --rootfs {} -- sleep 600", host.rootfs())).ok();
        host.podrun(format!("kill web/{name} --signal {signal}")).ok();
        assert_eq!(host.until("web", name, "Exited")["exitCode"], code);
    }
    host.podrun("start web/a").ok();
    host.until("web", "a", "Running");
}

// design.md: "the pod keeps its address".
#[test]
fn a_stopped_pod_keeps_its_address_and_starts_again() {
    let host = pod();
    host.start("web/a", "", "/probe sleep 60");
    let before = host.inspect("web");
    host.podrun("stop web --time 0").ok();
    host.podrun("stop web").ok();
    host.podrun("start web").ok();
    let after = host.inspect("web");
    assert_eq!(host.container("web", "a")["state"], "Running");
    assert_eq!(after["network"], before["network"]);
    assert_eq!(after["id"], before["id"]);
}

#[test]
fn restart_makes_a_new_process_in_the_same_pod() {
    let host = pod();
    host.start("web/a", "", "/probe sleep 60");
    host.start("web/b", "", "/probe sleep 60");
    let (a, b) = (host.container("web", "a"), host.container("web", "b"));
    host.podrun("restart web -c a --time 0").ok();
    let again = host.container("web", "a");
    assert_eq!(again["state"], "Running");
    assert_ne!(again["pid"], a["pid"]);
    assert_eq!(host.container("web", "b")["pid"], b["pid"]);
}

// design.md: "kill: KILL".
#[test]
fn kill_kills_or_sends_what_is_asked() {
    let host = pod();
    host.start("web/a", "", &format!("/probe trap {} 9", libc::SIGUSR1));
    eventually("it is ready", Duration::from_secs(5), || {
        host.podrun("logs web/a").text().contains("ready").then_some(())
    });
    host.podrun("kill web -c a -s USR1").ok();
    assert_eq!(host.until("web", "a", "Exited")["exitCode"], 9);
    stubborn(&host, "b");
    host.podrun("kill web -c b").ok();
    assert_eq!(host.until("web", "b", "Exited")["exitCode"], 137);
    host.podrun("kill web -c b").ok();
}

// Names of signals as everybody writes them; pitfalls.md 25: "RTMIN+3 works" (systemd's way to stop).
#[test]
fn a_signal_is_a_name_or_a_number() {
    let host = pod();
    for (n, (name, number)) in
        [("USR2", libc::SIGUSR2), ("SIGUSR2", libc::SIGUSR2), ("12", 12), ("usr2", libc::SIGUSR2)]
            .into_iter()
            .enumerate()
    {
        let container = format!("c{n}");
        host.start(&format!("web/{container}"), "", &format!("/probe trap {number} 9"));
        let log = format!("logs web/{container}");
        eventually("it is ready", Duration::from_secs(5), || host.podrun(&log).text().contains("ready").then_some(()));
        host.podrun(format!("kill web -c {container} -s {name}")).ok();
        assert_eq!(host.until("web", &container, "Exited")["exitCode"], 9, "{name}");
    }
    host.start("web/a", "", "/probe stubborn");
    for wrong in ["NOSUCH", "65", "-1", "''"] {
        host.podrun(format!("kill web -c a --signal={wrong}")).fails(2).with_one_line();
    }
    host.podrun("kill web -c a -s RTMIN+3").ok();
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed() {
    let host = pod();
    let shared = host.fresh("shared");
    std::fs::create_dir(&shared).unwrap();
    host.start("web/a", &format!("-v {}:/beat", shared.display()), "/probe heartbeat /beat/now");
    let beat = || std::fs::read_to_string(shared.join("now")).ok().and_then(|text| text.parse::<u64>().ok());
    eventually("the first beat", Duration::from_secs(5), beat);
    host.podrun("pause web -c a").ok();
    assert_eq!(host.container("web", "a")["state"], "Paused");
    let then = beat();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(beat(), then);
    host.podrun("resume web -c a").ok();
    eventually("it goes on", Duration::from_secs(5), || (beat() > then).then_some(()));
    assert_eq!(host.container("web", "a")["state"], "Running");
}

// A frozen process cannot die: stop and delete thaw it first.
#[test]
fn a_paused_container_can_be_stopped_and_deleted() {
    let host = pod();
    host.start("web/a", "", "/probe sleep 60");
    host.start("web/b", "", "/probe sleep 60");
    host.podrun("pause web").ok();
    host.podrun("kill web -c a").ok();
    assert_eq!(host.until("web", "a", "Exited")["exitCode"], 137);
    host.podrun("delete pod web --time 1").ok().within(Duration::from_secs(6));
}

// design.md: "podrun wait POD [-c NAME] (prints the code and exits with it)".
#[test]
fn wait_prints_the_code_and_exits_with_it() {
    let host = pod();
    host.start("web/a", "", "sh -c 'sleep 0.5; exit 6'");
    host.podrun("wait web -c a").fails(6).prints("6");
    host.podrun("wait web -c a").fails(6).prints("6");
    host.run("web/b", "", "/probe exit 0").ok();
    host.podrun("wait web -c b").ok().prints("0");
}

#[test]
fn attach_shows_what_is_written_from_then_on() {
    let host = pod();
    host.start("web/a", "", "/probe count 1 1000000 5000");
    let mut attached = host.command("attach web -c a").start();
    attached.until_it_prints("line ");
    host.podrun("kill web -c a").ok();
    attached.wait().fails(137);
}

#[test]
fn attach_gives_stdin_to_a_container_that_was_started_with_i() {
    let host = pod();
    host.start("web/a", "-i", "cat");
    let mut attached = host.command("attach web -c a").open_stdin().start();
    attached.write("hello\n");
    attached.until_it_prints("hello");
    attached.close_stdin();
    attached.wait().ok();
}

// docker's keys: ctrl-p ctrl-q leave, and the container runs on.
#[test]
fn detach_keys_leave_a_container_running() {
    let host = pod();
    host.start("web/a", "-it", "cat");
    let mut terminal = host.command("attach web -c a").at_a_terminal(24, 80);
    terminal.types("hello\n");
    terminal.until_it_shows("hello\nhello");
    terminal.types("\u{10}\u{11}");
    terminal.ends();
    assert_eq!(host.container("web", "a")["state"], "Running");
}

#[test]
fn two_may_attach_and_one_may_vanish() {
    let host = pod();
    host.start("web/a", "", "/probe count 1 1000000 5000");
    let mut one = host.command("attach web -c a").start();
    let mut two = host.command("attach web -c a").start();
    one.until_it_prints("line ");
    one.signal(libc::SIGKILL);
    one.wait();
    two.until_it_prints("line ");
    host.podrun("kill web -c a").ok();
    two.wait().fails(137);
}

#[test]
fn top_lists_the_processes_of_the_pod() {
    let host = pod();
    host.start("web/a", "", "sh -c 'sleep 600 & exec /probe stubborn'");
    let text = host.podrun("top web").ok().text();
    assert!(text.contains("sleep 600") && text.contains("stubborn"), "{text}");
}

// design.md: "podrun netns POD -- CMD: a program of the host inside the pod's network".
#[test]
fn netns_runs_a_program_of_the_host_in_the_pods_network() {
    let host = pod();
    let address = host.inspect("web")["network"]["ip"][0].as_str().unwrap().to_owned();
    host.podrun("netns web -- ip -o addr").ok().prints_something_like(&address);
    host.podrun("netns web -- sh -c 'exit 5'").fails(5);
    host.podrun("netns web -- nosuch-program").fails(127).with_one_line();
    host.podrun("netns web -- test -e /etc/debian_version").ok();
}

// A script must not take half a list for the whole.
#[test]
fn what_cannot_be_written_to_stdout_is_told() {
    let host = pod();
    for line in ["ps", "get pods -o json", "inspect web"] {
        let full = host.program(format!("sh -c '{} {line} > /dev/full'", host.podrun_path().display())).run();
        full.fails(1).with_one_line().says("write to stdout: No space left on device");
    }
    host.program(format!("sh -c '{} ps | true'", host.podrun_path().display())).run().ok().says_nothing();
}

// design.md: "podrun ps [-a] [-o wide|json] (containers)".
#[test]
fn ps_lists_containers() {
    let host = pod();
    host.start("web/runs", "", "/probe sleep 60");
    host.run("web/ended", "", "/probe exit 3").fails(3);
    let running = host.podrun("ps").ok().text();
    assert!(running.contains("runs") && !running.contains("ended"), "{running}");
    let all = host.podrun("ps -a").ok().text();
    assert!(all.contains("runs") && all.contains("ended"), "{all}");
    let told = host.podrun("ps -a -o json").json();
    let list = told.as_array().expect("a list");
    assert_eq!(list.len(), 2);
    assert!(list.iter().any(|one| one["name"] == "ended" && one["exitCode"] == 3), "{told:#}");
    host.podrun("ps -o wide").ok();
    host.podrun("ps web/ended -o name").ok().prints("web/ended");
    host.podrun("ps web/nosuch").fails(1).says("it has runs, ended");
}

// design.md: "podrun get pods|pod NAME [-o json|yaml|wide|name]   json/yaml: a Kubernetes Pod(List) object".
#[test]
fn get_speaks_kubernetes() {
    let host = pod();
    host.start("web/a", "", "/probe sleep 60");
    host.run("web/b", "", "/probe exit 3").fails(3);
    let pod = host.podrun("get pod web -o json").json();
    assert_eq!(json!([pod["apiVersion"], pod["kind"], pod["metadata"]["name"]]), json!(["v1", "Pod", "web"]));
    assert_eq!(pod["metadata"]["namespace"], "default");
    assert_eq!(pod["status"]["podIP"], host.inspect("web")["network"]["ip"][0]);
    let statuses = pod["status"]["containerStatuses"].as_array().unwrap();
    let of = |name: &str| statuses.iter().find(|one| one["name"] == name).unwrap();
    assert!(of("a")["state"]["running"]["startedAt"].is_string(), "{pod:#}");
    assert_eq!(of("b")["state"]["terminated"]["exitCode"], 3);
    let list = host.podrun("get pods -o json").json();
    assert_eq!(json!([list["kind"], list["items"].as_array().unwrap().len()]), json!(["PodList", 1]));
    host.podrun("get pods -o name").ok().prints_something_like("web");
    host.podrun("get pods").ok().prints_something_like("web");
    host.podrun("get pods -o wide")
        .ok()
        .prints_something_like(host.inspect("web")["network"]["ip"][0].as_str().unwrap());
    host.podrun("get pod web -o yaml").ok().prints_something_like("kind: Pod");
}

#[test]
fn a_container_is_deleted_and_the_pod_stays() {
    let host = pod();
    host.run("web/a", "", "/probe exit 0").ok();
    host.start("web/b", "", "/probe sleep 60");
    host.podrun("delete container web/a").ok();
    host.podrun("delete container web/a").ok();
    host.podrun("delete container web/b").fails(1).with_one_line();
    host.podrun("delete container web/b --force").ok();
    assert_eq!(host.inspect("web")["containers"], json!([]));
    host.start("web/a", "", "/probe sleep 60");
}

// docker's habit (design.md): "`rm` for delete".
#[test]
fn rm_is_delete() {
    let host = pod();
    host.podrun("rm pod web").ok();
    host.podrun("inspect web").fails(1);
}

#[test]
fn version_info_and_doctor_answer_on_an_empty_host() {
    let host = Host::new();
    assert!(host.podrun("version").ok().text().starts_with("podrun "));
    host.podrun("version").ok().within(Duration::from_millis(500));
    host.podrun("info").ok();
    assert!(host.podrun("info -o json").json().is_object());
    let told = host.podrun("doctor");
    assert!([0, 1].contains(&told.code()), "{told:?}");
    assert!(!told.text().is_empty());
}

// Every verb: `--help` with an example; a verb that does not exist is a usage error that names a near one.
#[test]
fn every_verb_has_help_with_an_example() {
    let host = Host::new();
    let verbs = "create run start stop restart kill pause resume exec logs attach wait netns ps get inspect top upgrade \
        delete prune doctor info version";
    for verb in verbs.split_whitespace() {
        let help = host.podrun(format!("{verb} --help"));
        help.ok().says_nothing();
        assert!(help.text().contains(&format!("podrun {verb}")), "{}", help.text());
    }
    host.podrun("--help").ok().prints_something_like("create");
    host.podrun("stat web").fails(2).says("start");
    host.podrun("").fails(2);
    host.podrun("ps --nosuch").fails(2).says("--nosuch");
}

// prune is idempotent, and takes what no pod owns.
#[test]
fn prune_of_nothing_is_fine() {
    let host = Host::new();
    host.podrun("prune --force").ok();
    host.podrun("prune --force").ok();
}

#[test]
fn prune_leaves_pods_that_live() {
    let host = pod();
    host.start("web/a", "", "/probe sleep 60");
    host.podrun("prune --force").ok();
    assert_eq!(host.container("web", "a")["state"], "Running");
    host.podrun("exec web/a -- /probe say hi").ok().prints("hi");
}

// pitfalls.md 37: `ps` never waits for somebody else.
#[test]
fn ps_does_not_wait_for_a_stop() {
    let host = pod();
    stubborn(&host, "a");
    let stopping = host.command("stop web --time 3").start();
    std::thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    host.podrun("ps").ok();
    host.podrun("inspect web").ok();
    assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
    stopping.wait().ok();
}

// pitfalls.md 4: races of stop, kill, exec, delete leave no state that cannot be left. Short form of two minutes.
#[test]
fn everybody_at_once_leaves_nothing_that_cannot_be_deleted() {
    let host = pod();
    host.start("web/a", "", "/probe sleep 60");
    let lines = [
        "stop web --time 0",
        "start web",
        "kill web -c a",
        "exec web/a -- /probe",
        "restart web --time 0",
        "inspect web",
        "logs web/a",
        "stop web -c a --time 1",
        "start web -c a",
        "ps -a",
    ];
    let all: Vec<_> = (0..30).map(|n| host.command(lines[n * 7 % lines.len()]).start()).collect();
    for one in all {
        let out = one.wait();
        assert!(!out.errors().contains("panicked"), "{out:?}");
    }
    host.podrun("delete pod web --force").ok().within(Duration::from_secs(10));
}

// image-spec, conversion.md: `StopSignal` becomes this annotation; moby's habit for systemd and nginx images.
#[test]
fn the_stop_signal_of_the_image_is_honoured_and_shown() {
    let host = Host::new();
    host.pod("web");
    let bundle = |signal: &str| {
        host.bundle(|config| {
            config["annotations"] = json!({ "org.opencontainers.image.stopSignal": signal });
            config["process"]["args"] = json!(["/probe", "trap", libc::SIGQUIT.to_string(), "7"]);
        })
    };
    host.podrun(format!("run web/a -d --bundle {}", bundle("SIGQUIT"))).ok();
    assert_eq!(host.container("web", "a")["stopSignal"], "SIGQUIT");
    eventually("it is ready", Duration::from_secs(5), || {
        host.podrun("logs web/a").text().contains("ready").then_some(())
    });
    host.podrun("stop web -c a").ok();
    assert_eq!(host.until("web", "a", "Exited")["exitCode"], 7);
    host.podrun(format!("run web/b -d --stop-signal INT --bundle {}", bundle("SIGQUIT"))).ok();
    assert_eq!(host.container("web", "b")["stopSignal"], "SIGINT", "the command line wins");
    host.podrun(format!("run web/c --bundle {}", bundle("SIGNONE"))).fails(125).says("stopSignal").with_one_line();
}

// What hands type that know kill(1), docker and kubectl.
#[test]
fn the_habits_of_kill_docker_and_kubectl_are_understood() {
    let host = pod();
    let start = || host.start("web/a", "", "/probe sleep 600");
    let ends = |code: i64| {
        assert_eq!(host.until("web", "a", "Exited")["exitCode"], code);
        host.podrun("delete container web/a").ok();
    };
    for (line, code) in [
        ("kill -9 web", 137),
        ("kill -KILL web -c a", 137),
        ("kill web/a -SIGKILL", 137),
        ("stop -t 0 web", 137),
        ("stop pod/web -t 0", 137),
        ("kill pod/web/a", 137),
    ] {
        start();
        host.podrun(line).ok();
        ends(code);
    }
    host.podrun("kill -99 web").fails(2).with_one_line().says("read the signal");
    host.podrun("kill -x web").fails(2).with_one_line();
    // kubectl's words, and what `-o name` prints.
    host.start("web/b", "", "/probe say fine");
    host.until("web", "b", "Exited");
    host.podrun("logs pod/web").ok().prints_something_like("fine");
    host.podrun("logs pod/web/b").ok().prints("fine");
    host.podrun("logs pod/web -c b").ok().prints("fine");
    assert_eq!(host.inspect("pod/web")["name"], "web");
    host.podrun("netns pod/web -- true").ok();
    host.podrun("get pod pod/web").ok();
    host.podrun("logs pod/nosuch").fails(1).with_one_line().says("nosuch");
    // A pod that is called so is meant first, as before.
    host.pod("pod");
    host.start("pod/web", "", "/probe say other");
    host.until("pod", "web", "Exited");
    host.podrun("logs pod/web").ok().prints("other");
    host.podrun("logs pod/web/b").ok().prints("fine");
    host.podrun("-n back create pod db").ok();
    let shown = host.podrun("get pods -A").ok().text();
    assert!(shown.starts_with("NAMESPACE ") && shown.contains("\nback ") && shown.contains("\ndefault "), "{shown}");
    assert!(!host.podrun("get pods").ok().text().contains("db"));
    let all = host.podrun("get pods --all-namespaces -o json").json();
    assert_eq!(all["items"].as_array().unwrap().len(), 3);
    host.podrun("delete pod pod/web -t 0").ok().prints("pod/web deleted");
    host.podrun("-n back delete pod db").ok();
}

// docker: "-1 for unlimited"; a number that means nothing is not taken for one that does.
#[test]
fn a_limit_of_processes_below_minus_one_is_refused() {
    let host = pod();
    for (limit, code) in [("-1", 0), ("0", 0), ("64", 0), ("-2", 2), ("-5", 2)] {
        let run = host.run("web/a", &format!("--rm --pids-limit {limit}"), "/probe say fine");
        if code == 0 {
            run.ok().prints("fine");
        } else {
            assert_ne!(run.code(), 0, "{limit}");
            run.says(&format!("{limit} is no number of processes")).with_one_line();
        }
    }
}
