//! seccomp user notification: `listenerPath` and `listenerMetadata` of config-linux.md, seen by an agent.

#![forbid(unsafe_code)]

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use podrun_tests::{Host, Value, json, sys};
use std::io::{IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// One connection of podrun's: its message, whole, and the listener that came with it.
fn accept(agent: &UnixListener) -> (Value, OwnedFd) {
    let (mut stream, _) = agent.accept().unwrap();
    let (mut first, mut space) = ([0; 4096], nix::cmsg_space!([i32; 4]));
    let (count, fds) = {
        let mut parts = [IoSliceMut::new(&mut first)];
        let got = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
        let fds: Vec<i32> = got
            .cmsgs()
            .unwrap()
            .flat_map(|one| if let ControlMessageOwned::ScmRights(fds) = one { fds } else { Vec::new() })
            .collect();
        (got.bytes, fds)
    };
    assert_eq!(fds.len(), 1, "one descriptor, as the message says");
    let mut text = first[..count].to_vec();
    stream.read_to_end(&mut text).expect("the connection is closed after one message");
    (serde_json::from_slice(&text).unwrap(), sys::adopt(fds[0]))
}

/// An agent that answers this many processes' one question each with EXDEV; what it was told, and which call it was.
fn agent(path: &Path, processes: usize) -> JoinHandle<Vec<(Value, i32)>> {
    let agent = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        let one = |_| {
            let (state, listener) = accept(&agent);
            (state, sys::answer_with(listener.as_fd(), libc::EXDEV).unwrap())
        };
        (0..processes).map(one).collect()
    })
}

fn asks(path: &Path) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "for the agent",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }],
    })
}

fn socket(host: &Host) -> PathBuf {
    host.fresh("agent")
}

// config-linux.md, "The Container Process State", and seccomp_unotify(2).
#[test]
fn an_agent_is_told_of_each_process_and_answers_for_the_kernel() {
    let host = Host::new();
    host.pod("web");
    let path = socket(&host);
    let agent = agent(&path, 2);
    let bundle = host.bundle(|config| {
        config["linux"]["seccomp"] = asks(&path);
        config["annotations"] = json!({"org.example": "x"});
        config["process"]["args"] = json!(["/bin/sh", "-c", "/probe try mkdir /tmp/x; exec /probe sleep 60"]);
        // With or without it the order is another, and both must do.
        config["process"]["noNewPrivileges"] = json!(false);
    });
    let mut running = host.command(format!("run web/a --bundle {bundle}")).start();
    running.until_it_prints("EXDEV");
    let pid = host.container("web", "a")["pid"].clone();
    host.podrun("exec web/a -- /probe try mkdir /tmp/y").ok().prints("EXDEV");
    let told = agent.join().unwrap();
    let (first, call) = &told[0];
    assert!([libc::SYS_mkdir, libc::SYS_mkdirat].contains(&i64::from(*call)), "{call}");
    assert_eq!(first["fds"], json!(["seccompFd"]));
    assert_eq!((&first["ociVersion"], &first["metadata"]), (&json!("1.0.2"), &json!("for the agent")));
    assert_eq!((&first["pid"], &first["state"]["pid"]), (&pid, &pid));
    let state = &first["state"];
    assert_eq!((&state["status"], &state["annotations"]), (&json!("created"), &json!({"org.example": "x"})));
    assert_eq!(state["bundle"], json!(bundle.path()));
    let (execd, _) = &told[1];
    assert_eq!((&execd["state"]["status"], &execd["state"]["pid"]), (&json!("running"), &pid));
    assert_ne!(execd["pid"], pid);
    assert_eq!(execd["state"]["id"], state["id"]);
}

// config-linux.md: "If sending to this socket fails, the runtime MUST generate an error."
#[test]
fn without_an_agent_the_program_never_runs() {
    let host = Host::new();
    host.pod("web");
    let path = socket(&host);
    let bundle = |config: &mut Value| {
        config["linux"]["seccomp"] = asks(&path);
        config["process"]["args"] = json!(["/probe", "say", "it ran"]);
    };
    let words = format!("send the seccomp listener to linux.seccomp.listenerPath \"{}\": ", path.display());
    let run = |name: &str| {
        let bundle = host.bundle(bundle);
        host.podrun(format!("run web/{name} --bundle {bundle}"))
    };
    run("none").fails(125).says(&words).says("No such file").does_not_print("it ran");
    drop(UnixListener::bind(&path).unwrap());
    run("gone").fails(125).says(&words).says("Connection refused").does_not_print("it ran");
    // An agent that takes no connection holds nobody up.
    std::fs::remove_file(&path).unwrap();
    let busy = UnixListener::bind(&path).unwrap();
    sys::listen(busy.as_fd(), 0).unwrap();
    let _waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
    run("busy").fails(125).says(&words).does_not_print("it ran").within(std::time::Duration::from_secs(5));
    let asleep = host.bundle(|config| config["process"]["args"] = json!(["/probe", "sleep", "60"]));
    host.podrun(format!("run -d web/well --bundle {asleep}")).ok();
}

// An exec'd program is asked about like its container's own, or not at all.
#[test]
fn without_an_agent_an_execd_program_never_runs() {
    let host = Host::new();
    host.pod("web");
    let path = socket(&host);
    let agent = UnixListener::bind(&path).unwrap();
    let bundle = host.bundle(|config| {
        config["linux"]["seccomp"] = asks(&path);
        config["process"]["args"] = json!(["/probe", "sleep", "60"]);
    });
    host.podrun(format!("run -d web/a --bundle {bundle}")).ok();
    let (_, _listener) = accept(&agent);
    drop(agent);
    let words = "send the seccomp listener to linux.seccomp.listenerPath";
    host.podrun("exec web/a -- /probe say it-ran").fails(125).says(words).does_not_print("it-ran");
}

// podrun itself asks nobody: what hands the listener over may neither be denied nor wait for the agent.
#[test]
fn a_profile_under_which_the_listener_cannot_be_handed_over_is_refused() {
    let host = Host::new();
    host.pod("web");
    let path = socket(&host);
    let refused = |change: fn(&mut Value), words: &str| {
        let bundle = host.bundle(|config| {
            config["linux"]["seccomp"] = asks(&path);
            change(&mut config["linux"]["seccomp"]);
        });
        host.podrun(format!("run web/a --bundle {bundle}")).fails(125).with_one_line().says(words);
    };
    let words = "linux.seccomp.syscalls: SCMP_ACT_NOTIFY is used, and the listener is handed over by";
    refused(|seccomp| seccomp["defaultAction"] = json!("SCMP_ACT_ERRNO"), &format!("{words} sendmsg"));
    refused(|seccomp| seccomp["syscalls"][0]["names"] = json!(["read"]), &format!("{words} read"));
    refused(
        |seccomp| {
            seccomp["listenerPath"] = Value::Null;
            seccomp["syscalls"] = json!([]);
        },
        "linux.seccomp.listenerMetadata: set, and there is no",
    );
    refused(
        |seccomp| {
            seccomp.as_object_mut().unwrap().remove("listenerMetadata");
            seccomp["listenerPath"] = Value::Null;
        },
        "linux.seccomp.listenerPath: missing, and a rule has SCMP_ACT_NOTIFY",
    );
}

// pidfd, pipes, directories: the agent's own descriptors are not the container's, and its listener is not either.
#[test]
fn the_listener_does_not_stay_in_the_container() {
    let host = Host::new();
    host.pod("web");
    let path = socket(&host);
    let listening = UnixListener::bind(&path).unwrap();
    let agent = std::thread::spawn(move || accept(&listening));
    let bundle = host.bundle(|config| config["linux"]["seccomp"] = asks(&path));
    let facts = host.podrun(format!("run web/a --bundle {bundle}")).facts();
    let fds: Vec<&String> = facts["fds"].as_object().unwrap().keys().collect();
    assert_eq!(fds, ["0", "1", "2"]);
    drop(agent.join().unwrap());
}

// The same without a pod: the listener goes to whoever starts the container, and from there to the agent.
#[test]
fn a_container_in_no_pod_has_its_agent_too() {
    let host = Host::new();
    let path = socket(&host);
    let agent = agent(&path, 2);
    let bundle = host.bundle(|config| {
        config["linux"]["seccomp"] = asks(&path);
        config["process"]["args"] = json!(["/bin/sh", "-c", "/probe try mkdir /tmp/x; exec /probe sleep 60"]);
    });
    let mut running = host.command(format!("oci run --bundle {bundle} one")).start();
    running.until_it_prints("EXDEV");
    host.podrun("oci exec one /probe try mkdir /tmp/y").ok().prints("EXDEV");
    let told = agent.join().unwrap();
    let pid = host.podrun("oci state one").json()["pid"].clone();
    assert_eq!((&told[0].0["pid"], &told[0].0["state"]["id"]), (&pid, &json!("one")));
    assert_eq!((&told[1].0["state"]["pid"], &told[1].0["state"]["status"]), (&pid, &json!("running")));
    host.podrun("oci delete --force one").ok();
    std::fs::remove_file(&path).unwrap();
    let words = "send the seccomp listener to linux.seccomp.listenerPath";
    host.podrun(format!("oci run --bundle {bundle} two")).fails(1).says(words);
}
