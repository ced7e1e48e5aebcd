//! Volumes: a directory of the host, and those that belong to the pod.

use podrun_tests::Host;
use std::os::unix::fs::symlink;

fn pod(flags: &str) -> Host {
    let host = Host::new();
    host.podrun(format!("create pod web {flags}")).ok();
    host
}

// design.md: "-v SRC:DST[:ro]".
#[test]
fn a_directory_of_the_host_is_seen_and_written() {
    let host = pod("");
    let dir = host.fresh("data");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("in"), "from the host").unwrap();
    host.run("web/a", &format!("-v {}:/data", dir.display()), "sh -c 'cat /data/in; echo out > /data/out'")
        .ok()
        .prints("from the host");
    assert_eq!(std::fs::read_to_string(dir.join("out")).unwrap(), "out\n");
}

#[test]
fn a_read_only_volume_cannot_be_written() {
    let host = pod("");
    let dir = host.fresh("data");
    std::fs::create_dir(&dir).unwrap();
    host.run("web/a", &format!("-v {}:/data:ro", dir.display()), "/probe try create /data/x").ok().prints("EROFS");
}

#[test]
fn one_file_is_a_volume_too() {
    let host = pod("");
    let file = host.fresh("file");
    std::fs::write(&file, "just this").unwrap();
    host.run("web/a", &format!("-v {}:/etc/app.conf:ro", file.display()), "cat /etc/app.conf").ok().prints("just this");
}

// Issue 3, 6: "a pod's own (`create pod --volume NAME`, `-v NAME:DST` in several containers)".
#[test]
fn a_volume_of_the_pod_is_shared_by_its_containers() {
    let host = pod("--volume scratch");
    host.run("web/a", "-v scratch:/s", "sh -c 'echo shared > /s/x'").ok();
    host.run("web/b", "-v scratch:/deep/er:ro", "cat /deep/er/x").ok().prints("shared");
    host.run("web/c", "-v scratch:/s:ro", "/probe try create /s/y").ok().prints("EROFS");
}

#[test]
fn a_volume_of_the_pod_ends_with_it() {
    let host = pod("--volume scratch");
    host.run("web/a", "-v scratch:/s", "sh -c 'echo old > /s/x'").ok();
    host.podrun("delete pod web --force").ok();
    host.podrun("create pod web --volume scratch").ok();
    host.run("web/a", "-v scratch:/s", "ls /s").ok().prints("");
}

#[test]
fn a_volume_that_the_pod_does_not_have_is_told_with_those_it_has() {
    let host = pod("--volume scratch");
    host.run("web/a", "-v scrtch:/s", "/probe").fails(125).with_one_line().says("scratch");
}

#[test]
fn a_source_that_is_not_there_is_told() {
    let host = pod("");
    host.run("web/a", "-v /nosuch/dir:/data", "/probe").fails(125).with_one_line().says("/nosuch/dir");
}

#[test]
fn a_volume_written_wrongly_is_told() {
    let host = pod("");
    for wrong in ["/mnt", "/mnt:relative", "/mnt:/x:rx", ":/x", "/mnt:"] {
        let said = host.run("web/a", &format!("-v {wrong}"), "/probe");
        assert!([2, 125].contains(&said.code()), "{wrong}: {said:?}");
        said.with_one_line();
    }
}

// CVE-2021-30465, R9: the destination is resolved inside the root, whatever links the image has there.
#[test]
fn a_destination_behind_a_link_stays_inside_the_root() {
    let host = pod("");
    let (data, outside) = (host.fresh("data"), host.fresh("outside"));
    std::fs::create_dir(&data).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(data.join("x"), "volume").unwrap();
    let rootfs = host.rootfs().link("data", &outside);
    let out = host.podrun(format!("run web/a --rootfs {rootfs} -v {}:/data/deep -- cat /data/deep/x", data.display()));
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "the host's directory was written: {out:?}");
    if out.code() == 0 {
        out.prints("volume");
    }
}

// CVE-2025-9566 and CVE-2024-1753: a link that a container left in a volume never leads to the host.
#[test]
fn a_link_inside_a_volume_of_the_pod_leads_nowhere_on_the_host() {
    let host = pod("--volume scratch");
    let outside = host.fresh("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("kept"), "").unwrap();
    host.run("web/a", "-v scratch:/s", &format!("ln -s {} /s/link", outside.display())).ok();
    let out = host.run("web/b", "-v scratch:/s", "sh -c 'echo x > /s/link/x'");
    assert_ne!(out.code(), 0);
    host.podrun("delete pod web --force").ok();
    let there: Vec<_> = std::fs::read_dir(outside).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(there, ["kept"]);
}

// Deleting a pod's volume never follows a link out of it.
#[test]
fn deleting_a_volume_deletes_no_file_of_the_host() {
    let host = pod("--volume scratch");
    let precious = host.fresh("precious");
    std::fs::create_dir(&precious).unwrap();
    std::fs::write(precious.join("file"), "x").unwrap();
    host.run("web/a", "-v scratch:/s", "true").ok();
    let volume = host.root().join("volumes").join(host.inspect("web")["id"].as_str().unwrap()).join("scratch");
    symlink(&precious, volume.join("link")).unwrap();
    host.podrun("delete pod web --force").ok();
    assert!(precious.join("file").exists());
}

#[test]
fn a_volume_over_proc_is_refused() {
    let host = pod("");
    let dir = host.fresh("data");
    std::fs::create_dir(&dir).unwrap();
    for at in ["/proc", "/proc/self", "/proc/sys/kernel", "/"] {
        host.run("web/a", &format!("-v {}:{at}", dir.display()), "/probe").fails(125).with_one_line();
    }
    let said = host.run("web/a", &format!("-v {}:/proc", dir.display()), "/probe");
    said.fails(125).says("nothing but procfs itself is mounted in /proc").does_not_say("user namespace");
}
