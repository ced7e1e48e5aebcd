//! The kernel's side for tests: runs a filter as seccomp(2) would, and counts the instructions.

#![forbid(unsafe_code)]

use crate::sys::seccomp::Instruction;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

/// What the kernel shows of a call: struct seccomp_data, without the instruction pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) arch: u32,
    pub(super) number: u32,
    pub(super) args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            8 | 12 => 0,
            // The kernel takes offsets of whole words within seccomp_data only.
            _ if offset.is_multiple_of(4) && offset < 64 => {
                let arg = self.args[usize::try_from((offset - 16) / 8).unwrap()];
                u32::try_from(if offset.is_multiple_of(8) { arg & 0xffff_ffff } else { arg >> 32 }).unwrap()
            }
            _ => panic!("no word at {offset}"),
        }
    }
}

/// The answer and how many instructions it took. Panics on what the kernel refuses.
pub(super) fn run(filter: &[Instruction], call: &Call) -> (u32, usize) {
    let (mut accumulator, mut at, mut steps) = (0, 0, 0);
    loop {
        let Instruction { code, jt, jf, k } = filter[at];
        let jump = |condition: bool| usize::from(if condition { jt } else { jf });
        at += 1;
        steps += 1;
        match code {
            0x06 => return (k, steps),
            0x20 => accumulator = call.word(k),
            0x54 => accumulator &= k,
            0x05 => at += usize::try_from(k).unwrap(),
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x45 => at += jump(accumulator & k != 0),
            other => panic!("no instruction {other:#x}"),
        }
    }
}

/// A C program of tests/oracles, compiled; none where that is not possible here.
pub(super) fn built(name: &str, libraries: &[&str]) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let program = root.join("target/oracles").join(name);
    std::fs::create_dir_all(root.join("target/oracles")).unwrap();
    // Others may be running the old one, or building one too.
    let fresh = program.with_extension(std::process::id().to_string());
    let source = root.join("tests/oracles").join(name).with_extension("c");
    let cc = Command::new("cc").arg("-o").arg(&fresh).arg(source).args(libraries).stderr(Stdio::null()).status();
    cc.is_ok_and(|status| status.success()).then(|| std::fs::rename(&fresh, &program).unwrap())?;
    Some(program)
}

/// Whoever runs the tests counts these lines.
pub(super) fn skipped(reason: &str) {
    say(&format!("skipped: {}: {reason}", std::thread::current().name().unwrap_or("?")));
}

#[allow(clippy::print_stderr)] // a test's own door
pub(super) fn say(what: &str) {
    eprintln!("{what}");
}
