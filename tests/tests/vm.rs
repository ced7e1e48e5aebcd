//! The VM suite (tests/vm): what its machine is, and that nothing which went wrong there is taken for success.

#![forbid(unsafe_code)]

use podrun_tests::skip;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn suite() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vm")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

// Issue 5, 5: "cgroup v2 alone, all controllers, systemd, …, AppArmor on". Runs in the machine, by tests/vm/table.
#[test]
fn the_machine_is_what_the_suite_is_for() {
    if std::env::var_os("PODRUN_VM").is_none_or(|place| place != "here") {
        skip!("this is not the machine of tests/vm");
    }
    assert!(read("/proc/sys/kernel/osrelease").starts_with("6.1."));
    assert_eq!(read("/proc/1/comm"), "systemd\n");
    let controllers = read("/sys/fs/cgroup/cgroup.controllers");
    for controller in ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"] {
        assert!(controllers.split_whitespace().any(|one| one == controller), "{controller} is not in {controllers}");
    }
    let version1 = read("/proc/mounts").lines().filter(|line| line.contains(" cgroup ")).count();
    assert_eq!(version1, 0, "hierarchies of cgroup v1");
    assert_eq!(read("/sys/module/apparmor/parameters/enabled"), "Y\n");
    // Over D-Bus, as a cgroup driver would.
    let busctl = ["get-property", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"];
    let said = Command::new("busctl").args(busctl).args(["org.freedesktop.systemd1.Manager", "Version"]).output();
    let said = said.expect("run busctl");
    assert!(String::from_utf8_lossy(&said.stdout).starts_with("s \"252"), "{said:?}");
}

/// A transcript of tests/vm/guest, of one file `limits` with these lines, and the file's exit code.
fn transcript(lines: &str, code: u8) -> String {
    format!("vm: begin limits\r\n{lines}\nvm: end limits: exit code {code}\nvm: end of the suite\n")
}

/// Exit code and output of the judge, where `limits` is in the table and `limits::eats` must be shown.
fn judged(said: &str) -> (i32, String) {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("podrun-judge-{}-{next}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    for (file, text) in [("table", "# what runs\nlimits 9 2\n"), ("must", "# what for\nlimits::eats\n"), ("said", said)]
    {
        fs::write(dir.join(file), text).unwrap();
    }
    let flags = ["-v", "table=table", "-v", "must=must", "-f"];
    let out = Command::new("awk").args(flags).arg(suite().join("judge")).arg("said").current_dir(&dir).output();
    let out = out.expect("run awk");
    fs::remove_dir_all(&dir).unwrap();
    (out.status.code().unwrap(), String::from_utf8_lossy(&out.stdout).into_owned())
}

#[test]
fn what_went_wrong_in_the_machine_is_no_success() {
    let good = "test eats ... ok\ntest sleeps ... ok\n\
        skipped: sleeps: no bed\ntest result: ok. 2 passed; 0 failed; 0 ignored";
    let (code, said) = judged(&transcript(good, 0));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("vm: 1 passed, 0 failed, 1 skipped\n"), "{said}");
    assert!(said.contains("vm: skipped limits::sleeps: no bed\n"), "{said}");
    let failed = good.replace("sleeps ... ok", "sleeps ... FAILED").replace("2 passed; 0", "1 passed; 1");
    for (said, why) in [
        (transcript(&failed, 101), "failed: limits::sleeps"),
        (transcript(&failed, 101), "limits: exit code 101"),
        (transcript(good, 124), "limits took too long"),
        (transcript("test result: ok. 0 passed; 0 failed", 0), "limits ran no test"),
        (transcript(&good.replace("eats", "drinks"), 0), "must run here and did not: limits::eats"),
        (transcript(&good.replace("skipped: sleeps", "skipped: eats"), 0), "must not be skipped here: limits::eats"),
        (transcript(good, 0).replace("limits", "vlan"), "limits did not run"),
        (transcript(good, 0).replace("vm: end of the suite\n", ""), "the machine did not come to its end"),
        ("vm: begin limits\ntest eats ... ok\n".to_owned(), "the machine did not come to its end; it was in limits"),
        (String::new(), "the machine did not come to its end"),
    ] {
        let (code, verdict) = judged(&said);
        assert!(code == 1 && verdict.contains(&format!("vm: {why}")), "{why}: {code} {verdict}");
    }
}

/// The lines of a file of the suite that say something, as words.
fn lines(file: &str) -> Vec<Vec<String>> {
    let text = read(suite().join(file));
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn what_the_machine_must_show_is_what_it_runs() {
    let table = lines("table");
    for row in &table {
        assert!(row.len() >= 3 && row[1].parse::<u32>().is_ok(), "{row:?}");
        assert!(row[2].parse::<u32>().is_ok_and(|threads| threads > 1), "{row:?}");
        assert!(suite().join(format!("../tests/{}.rs", row[0])).exists(), "{row:?}");
    }
    let must = lines("must");
    assert!(must.len() > 10, "only {} are in the list", must.len());
    for name in must.iter().map(|line| &line[0]) {
        let (file, test) = name.split_once("::").unwrap_or_else(|| panic!("{name} is no file::test"));
        let source = read(suite().join(format!("../tests/{file}.rs")));
        assert!(source.contains(&format!("\nfn {test}() {{")), "there is no {name}");
        assert!(table.iter().any(|row| row[0] == file), "{name}: {file} is not in the table");
    }
}

#[test]
fn a_program_that_the_suite_needs_and_is_missing_is_told() {
    let dir = std::env::temp_dir().join(format!("podrun-vm-path-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    for program in ["dirname", "id", "uname"] {
        std::os::unix::fs::symlink(Path::new("/usr/bin").join(program), dir.join(program)).unwrap();
    }
    let run = |flags: &[&str], required: &str| {
        let mut run = Command::new(suite().join("run"));
        let out = run.args(flags).env("PATH", &dir).env("PODRUN_VM", required).output().expect("start tests/vm/run");
        (out.status.code(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    };
    let missing = "missing: qemu-system-x86 e2fsprogs kmod binutils\n";
    let answers = [run(&["--if-possible"], ""), run(&["--if-possible"], "required"), run(&[], "")];
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(answers[0], (Some(0), format!("vm: 1 skipped: the VM suite, {missing}")));
    assert_eq!(answers[1], (Some(1), format!("vm: the VM suite cannot run, {missing}")));
    assert_eq!(answers[2], answers[1]);
}
