//! What the code promises about itself: imports go down, `unsafe` stays in its place, every file says what it is.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

/// Every file below a directory whose name ends so, without what is built or hidden.
fn files(dir: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let kind = entry.file_type().expect("a directory entry has a type");
        if kind.is_dir() && name != "target" && name != "build" && !name.starts_with('.') {
            found.extend(files(&path, endings));
        } else if kind.is_file() && endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(workspace()).unwrap_or(path).display().to_string()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The numbered lines of a file that are neither comments nor below its test module.
fn code(text: &str) -> Vec<(usize, &str)> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    let lines = lines.take_while(|(_, line)| !line.starts_with("#[cfg(test)]"));
    lines.filter(|(_, line)| !line.starts_with("//")).collect()
}

#[track_caller]
fn nothing_in(broken: &[String], what: &str) {
    assert!(broken.is_empty(), "{what}:\n  {}", broken.join("\n  "));
}

/// Module → floor, as lib.rs and main.rs have them: `// Floor N` above its `mod` lines, N rising.
fn floors() -> BTreeMap<String, u32> {
    let mut floors = BTreeMap::new();
    for file in ["lib.rs", "main.rs"] {
        let mut floor = None;
        for line in read(&workspace().join("podrun/src").join(file)).lines() {
            if let Some(number) = line.strip_prefix("// Floor ") {
                let number =
                    number.split_whitespace().next().and_then(|word| word.trim_end_matches([':', ',']).parse().ok());
                assert!(number >= floor, "podrun/src/{file}: the floors do not rise at: {line}");
                floor = number;
            }
            let module = line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod "));
            if let Some(module) = module.and_then(|rest| rest.strip_suffix(';')) {
                let floor = floor.unwrap_or_else(|| panic!("podrun/src/{file}: mod {module} stands on no floor"));
                floors.insert(module.to_owned(), floor);
            }
        }
    }
    floors
}

/// The module of the crate that a file belongs to; None for lib.rs and main.rs.
fn module(file: &Path) -> Option<String> {
    let inside = file.strip_prefix(workspace().join("podrun/src")).ok()?;
    let first = inside.components().next()?.as_os_str().to_string_lossy().into_owned();
    let name = first.strip_suffix(".rs").unwrap_or(&first).to_owned();
    (!["lib", "main"].contains(&name.as_str())).then_some(name)
}

/// Every `crate::x` of a line.
fn used(line: &str) -> Vec<String> {
    let word =
        |rest: &str| rest.chars().take_while(|&letter| letter.is_ascii_alphanumeric() || letter == '_').collect();
    line.split("crate::").skip(1).map(word).collect()
}

// Invariant 2: "Imports only go down."
#[test]
fn imports_only_go_down() {
    let floors = floors();
    let mut broken = Vec::new();
    for file in files(&workspace().join("podrun/src"), &[".rs"]) {
        let Some(own) = module(&file) else { continue };
        let Some(floor) = floors.get(&own) else {
            broken.push(format!("{}: {own} is on no floor of lib.rs", shown(&file)));
            continue;
        };
        for (n, line) in code(&read(&file)) {
            for other in used(line).into_iter().filter(|other| *other != own) {
                match floors.get(&other) {
                    Some(below) if below < floor => (),
                    Some(_) => broken.push(format!("{}:{n}: {own} may not use {other}", shown(&file))),
                    None => {
                        broken.push(format!("{}:{n}: crate::{other} is on no floor; one path a `use`", shown(&file)))
                    }
                }
            }
            if line.contains("super::super::") {
                broken.push(format!("{}:{n}: say crate::, so that this test can read it", shown(&file)));
            }
        }
    }
    nothing_in(&broken, "imports that do not go down");
}

#[test]
fn the_floors_test_sees_an_import_that_goes_up() {
    assert_eq!(used("use crate::pod::{Pod, verbs};"), ["pod"]);
    assert_eq!(used("let x: crate::net::Link = crate::id::PodId;"), ["net", "id"]);
    assert_eq!(used("use crate::{pod, net};"), [""], "an empty name is on no floor");
    let text = "use crate::a;\n// use crate::b;\n#[cfg(test)]\nmod tests {\n use crate::c;\n}\n";
    assert_eq!(code(text), [(1, "use crate::a;")]);
    assert!(floors()["sys"] < floors()["error"]);
}

/// `sys.rs` or `sys/`, in podrun and in the programs of the tests; and pause, which is nothing else.
fn may_be_unsafe(file: &Path) -> bool {
    let shown = shown(file);
    shown.starts_with("pause/") || shown.starts_with("podrun/src/sys") || file.ends_with("sys.rs")
}

// Invariant 2: "`unsafe` only in `sys` and in `pause`."
#[test]
fn unsafe_stays_in_sys_and_in_pause() {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let keyword = |line: &str| line.split(|letter| !is_name(letter)).any(|word| word == "unsafe");
    let mut broken = Vec::new();
    for file in files(&workspace(), &[".rs"]).into_iter().filter(|file| !may_be_unsafe(file)) {
        let text = read(&file);
        let lines = text.lines().enumerate().filter(|(_, line)| !line.contains('"') && !line.contains("//"));
        broken.extend(lines.filter(|(_, line)| keyword(line)).map(|(at, _)| format!("{}:{}", shown(&file), at + 1)));
    }
    nothing_in(&broken, "unsafe outside of sys and pause");
}

// style.md P5: the compiler holds it too, file by file.
#[test]
fn every_file_above_sys_forbids_unsafe() {
    let mut broken = Vec::new();
    for file in files(&workspace().join("podrun/src"), &[".rs"]) {
        let declares_sys = file.ends_with("podrun/src/lib.rs");
        if !may_be_unsafe(&file) && !declares_sys && !read(&file).contains("#![forbid(unsafe_code)]") {
            broken.push(shown(&file));
        }
    }
    nothing_in(&broken, "files without #![forbid(unsafe_code)]");
}

#[test]
fn every_file_starts_by_saying_what_it_is() {
    let sources = files(&workspace(), &[".rs"]);
    let broken: Vec<_> =
        sources.iter().filter(|file| !read(file).starts_with("//! ")).map(|file| shown(file)).collect();
    nothing_in(&broken, "files that do not start with //!");
}

// Invariant 9: "The core has no async runtime, and rtnetlink's messages are known in `net/link` and `net/netlink` alone."
#[test]
fn nothing_is_async_and_two_modules_know_rtnetlink() {
    let mut broken = Vec::new();
    for file in files(&workspace().join("podrun/src"), &[".rs"]) {
        let text = read(&file);
        let knows = file.ends_with("net/link.rs") || file.ends_with("net/netlink.rs");
        for (n, line) in code(&text) {
            let a_runtime = ["tokio::", "futures_util::", "async fn", ".await"].iter().any(|word| line.contains(word));
            if a_runtime || (!knows && line.contains("rtnetlink::")) {
                broken.push(format!("{}:{n}", shown(&file)));
            }
        }
    }
    nothing_in(&broken, "async, or rtnetlink elsewhere");
}

// style.md P1: no drawers.
#[test]
fn no_module_is_a_drawer() {
    let drawers = ["utils", "util", "common", "helpers", "helper", "misc", "manager", "core_utils", "mod"];
    let sources = files(&workspace(), &[".rs"]);
    let is_drawer = |file: &&PathBuf| file.file_stem().is_some_and(|stem| drawers.contains(&&*stem.to_string_lossy()));
    nothing_in(&sources.iter().filter(is_drawer).map(|file| shown(file)).collect::<Vec<_>>(), "drawers");
}

// What is not built is a pending promise in SPECIFICATION.md, not a note in the code; and no machine's paths are in it.
#[test]
fn no_file_has_notes_to_self_or_paths_of_one_machine() {
    // In halves, so that this file has none of them.
    let words = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["XX", "X:"],
        ["/tmp/", "wt"],
        ["/wor", "k/"],
        ["/mnt/sand", "boxing"],
        ["todo", "!("],
    ];
    let words = words.map(|halves| halves.concat());
    let mut broken = Vec::new();
    for file in files(&workspace(), &[".rs", ".md", ".toml", "Makefile", ".sh", ".json", "run"]) {
        for (at, line) in String::from_utf8_lossy(&std::fs::read(&file).unwrap()).lines().enumerate() {
            let bad = words.iter().filter(|word| line.contains(word.as_str()));
            broken.extend(bad.map(|word| format!("{}:{}: {word}", shown(&file), at + 1)));
        }
    }
    nothing_in(&broken, "words that do not belong there");
}

// style.md P5: a SAFETY sentence that says nothing is no reason.
#[test]
fn every_safety_comment_is_a_sentence() {
    let mut broken = Vec::new();
    for file in files(&workspace(), &[".rs"]).into_iter().filter(|file| may_be_unsafe(file)) {
        for (at, line) in read(&file).lines().enumerate() {
            if let Some((_, reason)) = line.split_once("// SAFETY:")
                && (reason.split_whitespace().count() < 3 || reason.contains("valid parameters"))
            {
                broken.push(format!("{}:{}:{reason}", shown(&file), at + 1));
            }
        }
    }
    nothing_in(&broken, "SAFETY comments that say nothing");
}
