//! That `make bench` works: its short form, with a row of each kind that compares. Its numbers are not looked at.

#![forbid(unsafe_code)]

use serde_json::Value;
use std::process::{Command, Stdio};

#[test]
fn the_short_bench_measures_and_leaves_nothing() {
    let out = std::env::temp_dir().join(format!("podrun-bench-test-{}", std::process::id()));
    let bench = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["--short", "--only", "run", "--only", "exec", "--only", "start", "--out"])
        .arg(&out)
        .env("PODRUN_BIN", podrun_tests::podrun_binary())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let own = format!("podrun-bench-{}", bench.id());
    let bench = bench.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&bench.stdout);
    assert!(bench.status.success(), "{said}{}", String::from_utf8_lossy(&bench.stderr));
    let measured: Value = serde_json::from_slice(&std::fs::read(out.join("bench.json")).unwrap()).unwrap();
    let rows = measured["rows"].as_array().unwrap();
    assert!(rows.len() >= 6, "{said}");
    for row in rows {
        let names: Vec<&str> =
            row["series"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
        assert!(names.len() >= 2 && names[0].starts_with("podrun"), "{row}");
        assert!(row["series"][0]["median"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert!(std::fs::read_to_string(out.join("bench.svg")).unwrap().starts_with("<svg"));
    std::fs::remove_dir_all(&out).unwrap();
    // Its directory, and the cgroups of the runtimes beside podrun: both carry its pid.
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
    let places = hierarchies.filter(|path| path.is_dir()).chain(["/sys/fs/cgroup".into(), "/dev/shm".into()]);
    let left = places.flat_map(|place| std::fs::read_dir(place).unwrap()).map(|entry| entry.unwrap().path());
    let left: Vec<_> =
        left.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&own))).collect();
    assert!(left.is_empty(), "{left:?}");
}
