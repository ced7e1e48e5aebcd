//! SPECIFICATION.md and the tests name each other: no promise without a test or `pending`, no test without a promise.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn specification() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../SPECIFICATION.md");
    std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// A promise: its number, its words, and the tests that hold it; none when it is pending.
#[derive(Debug)]
struct Promise {
    number: String,
    words: String,
    tests: Vec<String>,
    pending: bool,
}

/// `- 3.14 Words. (source) → `file::test`, `file::test`` or `→ pending`.
fn promises(text: &str) -> Vec<Promise> {
    let promise = |line: &str| {
        let (number, rest) = line.split_once(' ')?;
        number.starts_with(|digit: char| digit.is_ascii_digit()).then_some(())?;
        let (words, held) = rest.rsplit_once(" → ").unwrap_or((rest, ""));
        let tests = held.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Some(Promise { number: number.into(), words: words.into(), tests, pending: held.starts_with("pending") })
    };
    text.lines().filter_map(|line| line.strip_prefix("- ")).filter_map(promise).collect()
}

/// Whether a test is there: `file::test` of tests/tests, or `dir/dir/file::test` of anywhere in the project.
fn exists(test: &str, tests: &BTreeSet<String>) -> bool {
    match test.rsplit_once("::") {
        Some((file, name)) if file.contains('/') => {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file).with_extension("rs");
            std::fs::read_to_string(path).is_ok_and(|text| test_names(&text).iter().any(|one| one == name))
        }
        _ => tests.contains(test),
    }
}

/// Every `file::test` of tests/tests.
fn tests() -> BTreeSet<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|ending| ending == "rs"))
        .flat_map(|path| tests_of(&path))
        .collect()
}

fn tests_of(path: &PathBuf) -> Vec<String> {
    let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
    test_names(&std::fs::read_to_string(path).unwrap()).into_iter().map(|name| format!("{stem}::{name}")).collect()
}

/// The functions below `#[test]`, whatever other attributes stand between.
fn test_names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        is_test |= line == "#[test]";
        if let Some(name) = line.strip_prefix("fn ").filter(|_| is_test) {
            names.push(name.split('(').next().unwrap_or(name).to_owned());
            is_test = false;
        }
    }
    names
}

#[test]
fn every_promise_names_tests_that_exist_or_is_pending() {
    let tests = tests();
    let broken: Vec<_> = promises(&specification())
        .into_iter()
        .filter(|promise| {
            promise.tests.is_empty() != promise.pending || !promise.tests.iter().all(|test| exists(test, &tests))
        })
        .map(|promise| format!("{} {} {:?}", promise.number, promise.words, promise.tests))
        .collect();
    assert!(broken.is_empty(), "promises without their test:\n  {}", broken.join("\n  "));
}

#[test]
fn every_test_is_named_by_a_promise() {
    let named: BTreeSet<_> = promises(&specification()).into_iter().flat_map(|promise| promise.tests).collect();
    let missing: Vec<_> = tests().difference(&named).cloned().collect();
    assert!(missing.is_empty(), "tests that no promise names:\n  {}", missing.join("\n  "));
}

#[test]
fn every_promise_has_a_number_of_its_own() {
    let mut count = BTreeMap::new();
    for promise in promises(&specification()) {
        assert_eq!(promise.number.split('.').count(), 2, "{}", promise.number);
        *count.entry(promise.number).or_insert(0) += 1;
    }
    assert!(count.len() > 100, "only {} promises were read", count.len());
    let twice: Vec<_> = count.into_iter().filter(|(_, n)| *n > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

/// docs/oci.md: what of the runtime specification is held by which test, and where that test runs.
fn conformance() -> String {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = std::fs::read_to_string(top.join("tests/vm/table")).unwrap();
    let rootless = rootless(&std::fs::read_to_string(top.join("tests/tests/rootless.rs")).unwrap());
    let in_the_machine: BTreeSet<&str> = table.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let mut text = String::from(
        "# The runtime specification, field by field\n\n\
         Made from SPECIFICATION.md and tests/vm/table by tests/tests/specification.rs, which fails when this is another text\n\
         (`PODRUN_WRITE=docs cargo test -p podrun-tests --test specification` writes it). All system tests run on whatever\n\
         cgroups the host has; those of a column's check mark run in the VM suite, too: cgroup v2 alone, Linux 6.1, systemd.\n\
         A promise without any is planned. Of the last column a check mark was seen by a user who is not root, in a user\n\
         namespace with his own id; `refused` is what the kernel grants no user, told by its name (both in\n\
         tests/tests/rootless.rs, fields_are_for_a_user_what_they_are_for_root). Without a mark it was not tried so.\n\n\
         | promise | source | tests | v2 alone | rootless |\n|---|---|---|---|---|\n",
    );
    for promise in promises(&specification()).iter().filter(|promise| promise.words.contains("OCI ")) {
        let (words, source) = promise.words.rsplit_once(" (").unwrap_or((&promise.words, ""));
        let tests: Vec<String> = promise.tests.iter().map(|test| format!("`{test}`")).collect();
        let runs = |test: &String| test.split_once("::").is_some_and(|(file, _)| in_the_machine.contains(file));
        let mark = match (promise.pending, promise.tests.iter().any(runs)) {
            (true, _) => "planned",
            (false, true) => "✓",
            (false, false) => "",
        };
        let source = source.trim_end_matches(')');
        let user = rootless.get(&promise.number).copied().unwrap_or_default();
        text.push_str(&format!(
            "| {} {words} | {source} | {} | {mark} | {user} |\n",
            promise.number,
            tests.join("<br>")
        ));
    }
    text
}

/// What tests/tests/rootless.rs tries as a user, by the promise: each field is a call of `held`, `told` or `refused`.
fn rootless(text: &str) -> BTreeMap<String, &'static str> {
    let calls = [("held(", "✓"), ("told(", "✓"), ("refused(", "refused")];
    let words = text.split('"').collect::<Vec<_>>();
    let found = words.windows(2).filter_map(|pair| {
        let before = pair[0].trim_end();
        let (_, mark) = calls.iter().find(|(call, _)| before.ends_with(call))?;
        Some((pair[1].to_owned(), *mark))
    });
    found.collect()
}

#[test]
fn the_conformance_table_is_of_these_promises_and_tests() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/oci.md");
    let wanted = conformance();
    if std::env::var_os("PODRUN_WRITE").is_some_and(|what| what == "docs") {
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "docs/oci.md is not of this SPECIFICATION.md: PODRUN_WRITE=docs writes it anew");
    assert!(wanted.lines().count() > 60, "{wanted}");
    let as_a_user = wanted.lines().filter(|line| line.ends_with("✓ |") || line.ends_with("refused |")).count();
    assert!(as_a_user > 25, "{as_a_user}");
}

#[test]
fn the_specification_is_read_as_it_is_written() {
    let text = "# x\n- 1.1 A pod. (CRI) → `a::b`, `a::c`\n- 1.2 More. → pending: 5.2\n- no number\n";
    let found = promises(text);
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].tests.clone(), found[0].pending), (vec!["a::b".into(), "a::c".into()], false));
    assert!(found[1].pending && found[1].tests.is_empty());
    assert_eq!(
        test_names("#[test]\n#[ignore]\nfn one() {\n}\nfn two() {}\n    #[test]\n    fn three() {\n"),
        ["one", "three"]
    );
    let rootless = rootless("x(\"0.0\", held(\n  \"1.1\", y), refused(\"1.2\", \"1.3\")");
    assert_eq!(rootless, BTreeMap::from([("1.1".into(), "✓"), ("1.2".into(), "refused")]));
    let here = "tests/tests/specification::the_specification_is_read_as_it_is_written";
    assert!(exists(here, &BTreeSet::new()) && !exists("tests/tests/specification::exists", &BTreeSet::new()));
}
