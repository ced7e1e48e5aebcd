//! Traffic between pods: one that listens says its name and whom it saw, and another asks it.

use crate::{Host, Outcome, eventually};
use serde_json::Value;
use std::time::Duration;

/// Has the pod listen on port 80 and say its own name.
#[track_caller]
pub fn serve(host: &Host, pod: &str) {
    host.start(&format!("{pod}/server"), "", &format!("/probe listen [::]:80 {pod}"));
    let log = format!("logs {pod}/server");
    eventually("it listens", Duration::from_secs(10), || host.podrun(&log).text().contains("listening").then_some(()));
}

/// One interface of a pod, as `inspect` has it.
pub fn on(host: &Host, pod: &str, network: &str) -> Value {
    let all = host.inspect(pod)["networks"].clone();
    let mut all = all.as_array().into_iter().flatten();
    all.find(|one| one["network"] == network).cloned().unwrap_or_else(|| panic!("{pod} is not on {network}"))
}

/// Its addresses there, without their prefixes.
pub fn addresses(host: &Host, pod: &str, network: &str) -> Vec<String> {
    let all = on(host, pod, network)["addresses"].clone();
    let bare = |cidr: &Value| cidr.as_str().unwrap().split('/').next().unwrap().to_owned();
    all.as_array().unwrap().iter().map(bare).collect()
}

/// The first of them.
pub fn address(host: &Host, pod: &str, network: &str) -> String {
    addresses(host, pod, network).remove(0)
}

/// A program of the host's in a pod's network, with all that root may do there.
pub fn inside(host: &Host, pod: &str, script: &str) -> Outcome {
    host.command(format!("netns {pod} --")).args(["sh", "-ec", script]).run()
}

/// What `to`'s server says to a client in `from`: its name and the address that it saw.
pub fn asks(host: &Host, from: &str, to: &str, how: &str) -> Outcome {
    let to = if to.contains(':') { format!("[{to}]") } else { to.to_owned() };
    inside(host, from, &format!("exec {how} {} ask {to}:80", host.probe().display()))
}

/// `from` gets this answer from `to`.
#[track_caller]
pub fn hears(host: &Host, from: &str, to: &str, answer: &str) {
    let said = asks(host, from, to, "").ok().text();
    // A server on [::] sees IPv4 callers by their mapped addresses.
    assert_eq!(said.trim().replace("::ffff:", ""), answer, "{from} asks {to}");
}

/// `from` gets no answer from `to`.
#[track_caller]
pub fn hears_nothing(host: &Host, from: &str, to: &str) {
    // What answers answers within milliseconds; the code is timeout's, or the probe's where no route leads there.
    let asked = asks(host, from, to, "timeout 1");
    assert!([124, 99].contains(&asked.code()), "{from} asks {to}: {}", asked.text());
}
