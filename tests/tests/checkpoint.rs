//! `podrun oci checkpoint` and `restore`, where criu works (runc-checkpoint(8), runc-restore(8)).

use podrun_tests::{Bundle, Host, Value, eventually, json};
use std::path::Path;
use std::time::Duration;

/// Counts in memory, shows each number, and leaves it in its root.
const COUNTING: &str = "i=0; while :; do i=$((i+1)); echo $i; echo $i > /tmp/i; sleep 0.1; done";

fn counting(host: &Host) -> Bundle {
    host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", COUNTING]);
        config["process"]["env"] = json!(["PATH=/bin"]);
        config["root"]["readonly"] = json!(false);
    })
}

/// A host where criu works; else why it does not, counted as a skip.
fn with_criu() -> Option<Host> {
    let host = Host::new();
    let told = host.program("sh -c 'criu check; code=$?; rm -f /run/criu.kdat; exit $code'").run();
    if told.code() == 0 {
        return Some(host);
    }
    let why = told.errors().lines().last().unwrap_or("it says nothing").to_owned();
    podrun_tests::note_skip(&format!("criu cannot work here: {why}"));
    None
}

fn counted(bundle: &Bundle) -> u64 {
    // At this moment it may be written.
    let text = std::fs::read_to_string(bundle.rootfs.path().join("tmp/i")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

#[track_caller]
fn counts_beyond(bundle: &Bundle, number: u64) -> u64 {
    eventually(&format!("it counts beyond {number}"), Duration::from_secs(10), || {
        Some(counted(bundle)).filter(|now| *now > number)
    })
}

#[track_caller]
fn start(host: &Host, bundle: &Bundle) {
    host.command(format!("oci run --detach --bundle {bundle} one")).without_stdio().run().ok();
    counts_beyond(bundle, 3);
}

fn state(host: &Host) -> Value {
    host.podrun("oci state one").json()
}

fn clean(host: &Host) {
    host.program("rm -f /run/criu.kdat").run().ok();
}

#[track_caller]
fn restore(host: &Host, bundle: &Bundle, images: &Path) {
    let line = format!("oci restore --detach --image-path {} --bundle {bundle} one", images.display());
    host.command(line).without_stdio().run().ok();
}

#[test]
fn a_container_goes_on_where_it_was_when_it_was_written_to_files() {
    let Some(host) = with_criu() else { return };
    let bundle = counting(&host);
    start(&host, &bundle);
    let images = host.fresh("images");
    host.podrun(format!("oci checkpoint --image-path {} one", images.display())).ok();
    host.podrun("oci state one").fails(1).says("container does not exist");
    let then = counted(&bundle);
    std::fs::write(bundle.rootfs.path().join("tmp/i"), "0").unwrap();
    restore(&host, &bundle, &images);
    // From memory, not from the file.
    counts_beyond(&bundle, then + 2);
    let state = state(&host);
    assert_eq!(state["status"], "running");
    let cgroup = host.read(format!("/proc/{}/cgroup", state["pid"]));
    assert!(cgroup.lines().all(|line| line.ends_with("-oci/one") || !line.starts_with("0:")), "{cgroup}");
    let inside = "hostname; cat /proc/keys; echo 9 > /proc/sys/net/ipv4/ip_default_ttl; mknod /dev/x c 1 3; echo done";
    let told = host.command("oci exec one sh -c").args([inside]).run();
    assert_eq!(told.text(), "runc\ndone\n", "{told:?}");
    assert!(told.errors().contains("Read-only file system"), "{told:?}");
    host.podrun("oci pause one").ok();
    host.podrun("oci resume one").ok();
    host.podrun("oci delete --force one").ok();
    clean(&host);
    host.expect_nothing_left("a checkpoint and a restore");
}

#[test]
fn one_that_is_left_running_runs_on() {
    let Some(host) = with_criu() else { return };
    let bundle = counting(&host);
    start(&host, &bundle);
    let images = host.fresh("images");
    host.podrun(format!("oci checkpoint --leave-running --image-path {} one", images.display())).ok();
    counts_beyond(&bundle, counted(&bundle));
    assert_eq!(state(&host)["status"], "running");
    host.podrun("oci delete --force one").ok();
    clean(&host);
}

// As podman has it: the network is made by somebody else, and is there before and after.
#[test]
fn a_network_namespace_that_was_joined_stays_its_owners() {
    let Some(host) = with_criu() else { return };
    host.pod("web");
    let netns = host.inspect("web")["namespaces"]["net"].as_str().unwrap().to_owned();
    let bundle = counting(&host);
    bundle.change(|config| {
        let spaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        spaces.retain(|one| one["type"] != "network");
        spaces.push(json!({"type": "network", "path": netns}));
    });
    start(&host, &bundle);
    let images = host.fresh("images");
    host.podrun(format!("oci checkpoint --image-path {} one", images.display())).ok();
    restore(&host, &bundle, &images);
    counts_beyond(&bundle, counted(&bundle));
    let joined = std::fs::read_link(host.outside(format!("/proc/{}/ns/net", state(&host)["pid"]))).unwrap();
    assert_eq!(joined, std::fs::read_link(host.outside(&netns)).unwrap());
    host.podrun("oci delete --force one").ok();
    clean(&host);
}

// runc-restore(8): without --detach it stays, and its stdio is the container's.
#[test]
fn output_goes_to_whoever_restores_and_the_exit_code_is_told() {
    let Some(host) = with_criu() else { return };
    let bundle = host.bundle(|config| {
        config["process"]["args"] =
            json!(["sh", "-c", "trap 'exit 7' TERM; i=0; while :; do i=$((i+1)); echo number $i; sleep 0.1; done"]);
        config["process"]["env"] = json!(["PATH=/bin"]);
    });
    let images = host.fresh("images");
    let mut first = host.command(format!("oci run --bundle {bundle} one")).start();
    first.until_it_prints("number 5\n");
    host.podrun(format!("oci checkpoint --image-path {} one", images.display())).ok();
    first.wait();
    let line = format!("oci restore --image-path {} --bundle {bundle} one", images.display());
    let again = host.command(line).start();
    eventually("it goes on", Duration::from_secs(10), || (again.stdout().lines().count() > 3).then_some(()));
    assert!(!again.stdout().contains("number 1\n"), "it began anew: {}", again.stdout());
    again.signal(libc::SIGTERM);
    again.wait().fails(7);
    clean(&host);
    host.expect_nothing_left("a restored container that ended");
}

#[test]
fn what_cannot_be_written_to_files_is_told() {
    let host = Host::new();
    let images = host.fresh("images").display().to_string();
    host.podrun(format!("oci checkpoint --image-path {images} one")).fails(1).says("container does not exist");
    let bundle = counting(&host);
    host.command(format!("oci create --bundle {bundle} one")).without_stdio().run().ok();
    host.podrun(format!("oci checkpoint --image-path {images} one"))
        .fails(1)
        .says("container not running: it is created");
    host.podrun("oci start one").ok();
    host.command(format!("oci checkpoint --image-path {images} one"))
        .env("PATH", "/nowhere")
        .run()
        .fails(1)
        .says("criu");
    assert_eq!(state(&host)["status"], "running");
    host.podrun(format!("oci restore --image-path {images}/none --bundle {bundle} two"))
        .fails(1)
        .says("descriptors.json");
    host.command(format!("oci restore --image-path {images} --bundle {bundle} two"))
        .env("PATH", "/nowhere")
        .run()
        .fails(1)
        .says("no criu on PATH");
    host.podrun("oci delete --force one").ok();
    let terminal = host.bundle(|config| config["process"]["terminal"] = json!(true));
    host.podrun(format!("oci restore --image-path {images} --bundle {terminal} two")).fails(1).says("process.terminal");
    host.expect_nothing_left("refusals");
}
