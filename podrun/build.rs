//! Builds pause into podrun, so that one file installs all: `src/pause.rs` includes what is made here.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// What a pod costs on disk and in the page cache begins with this.
const LONGEST_IMAGE: usize = 1024;

fn main() {
    let here = PathBuf::from(env("CARGO_MANIFEST_DIR"));
    let pause = here.parent().expect("podrun lies in the workspace").join("pause");
    println!("cargo::rerun-if-changed={}", pause.display());
    let linked = PathBuf::from(env("OUT_DIR")).join("pause.linked");
    compile(&pause, &linked);
    let image = without_section_headers(std::fs::read(&linked).expect("read the linked pause"));
    let length = image.len();
    assert!(length <= LONGEST_IMAGE, "pause has {length} bytes; a pod may cost {LONGEST_IMAGE}");
    std::fs::write(linked.with_extension("image"), image).expect("write the image of pause");
}

/// The same in every profile: small, and with nothing in it that could panic.
fn compile(pause: &Path, to: &Path) {
    let mut rustc = Command::new(env("RUSTC"));
    rustc.args(["--edition=2024", "--crate-name=pause", "--crate-type=bin", "--target", &env("TARGET")]);
    rustc.args(["-Copt-level=z", "-Cpanic=abort", "-Clto=fat", "-Ccodegen-units=1", "-Cstrip=symbols"]);
    rustc.args(["-Coverflow-checks=off", "-Crelocation-model=static", "-Cforce-unwind-tables=no"]);
    if let Ok(linker) = std::env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    for argument in include_str!("../pause/link-args").lines().filter(|line| !line.starts_with('#')) {
        rustc.arg(format!("-Clink-arg={}", argument.replace("{dir}", &pause.display().to_string())));
    }
    rustc.arg(pause.join("src/main.rs")).arg("-o").arg(to);
    let done = rustc.status().expect("run rustc");
    assert!(done.success(), "{rustc:?}: {done}");
}

/// elf(5): execve(2) reads program headers only. Linkers differ in how to leave the others out, and whether they can.
fn without_section_headers(mut elf: Vec<u8>) -> Vec<u8> {
    const E_PHOFF: usize = 32;
    const E_SHOFF: usize = 40;
    const E_SHENTSIZE_SHNUM_SHSTRNDX: usize = 58;
    const P_FILESZ: usize = 32;
    let number = |elf: &[u8], at: usize| {
        let bytes = elf[at..at + 8].try_into().expect("eight bytes");
        usize::try_from(u64::from_le_bytes(bytes)).expect("an offset in a small file")
    };
    // The first program header is the one segment, which starts at the file's first byte (pause.ld).
    let end = number(&elf, number(&elf, E_PHOFF) + P_FILESZ);
    elf.truncate(end);
    elf[E_SHOFF..E_SHOFF + 8].fill(0);
    elf[E_SHENTSIZE_SHNUM_SHSTRNDX..E_SHENTSIZE_SHNUM_SHSTRNDX + 6].fill(0);
    elf
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
