//! Programs that cost nothing to start: an ELF header, one program header and a few instructions, made here.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What such a program does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// exit(0)
    Exit,
    /// ppoll(2) on nothing, for ever
    Sleep,
}

const BASE: u64 = 0x40_0000;
const HEADERS: u64 = 64 + 56;

pub(crate) fn write(path: &Path, act: Act) -> io::Result<()> {
    fs::write(path, image(act)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn image(act: Act) -> io::Result<Vec<u8>> {
    let (machine, code) = code(act).ok_or_else(|| io::Error::other("no instructions for this machine"))?;
    let size = HEADERS + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |elf: &mut Vec<u8>, value: u16| elf.extend(value.to_le_bytes());
    let word = |elf: &mut Vec<u8>, value: u32| elf.extend(value.to_le_bytes());
    let long = |elf: &mut Vec<u8>, value: u64| elf.extend(value.to_le_bytes());
    // elf(5): an executable, its entry behind the headers, one program header, no section.
    half(&mut elf, 2);
    half(&mut elf, machine);
    word(&mut elf, 1);
    long(&mut elf, BASE + HEADERS);
    long(&mut elf, 64);
    long(&mut elf, 0);
    word(&mut elf, 0);
    for value in [64, 56, 1, 0, 0, 0] {
        half(&mut elf, value);
    }
    // PT_LOAD, readable and executable, the whole file.
    word(&mut elf, 1);
    word(&mut elf, 5);
    for value in [0, BASE, BASE, size, size, 0x1000] {
        long(&mut elf, value);
    }
    elf.extend(code);
    Ok(elf)
}

#[rustfmt::skip]
fn code(act: Act) -> Option<(u16, Vec<u8>)> {
    match (std::env::consts::ARCH, act) {
        // mov eax, 60; xor edi, edi; syscall
        ("x86_64", Act::Exit) => Some((62, vec![0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05])),
        // xor edi, edi; xor esi, esi; xor edx, edx; xor r10d, r10d; mov eax, 271; syscall; jmp to the start
        ("x86_64", Act::Sleep) => Some((62, vec![
            0x31, 0xff, 0x31, 0xf6, 0x31, 0xd2, 0x45, 0x31, 0xd2, 0xb8, 0x0f, 1, 0, 0, 0x0f, 0x05, 0xeb, 0xee,
        ])),
        // mov x8, 93; mov x0, 0; svc 0
        ("aarch64", Act::Exit) => Some((183, words(&[0xd280_0ba8, 0xd280_0000, 0xd400_0001]))),
        // x0 to x3 = 0; mov x8, 73; svc 0; b to the start
        ("aarch64", Act::Sleep) => Some((183, words(&[
            0xd280_0000, 0xd280_0001, 0xd280_0002, 0xd280_0003, 0xd280_0928, 0xd400_0001, 0x17ff_fffa,
        ]))),
        _ => None,
    }
}

fn words(instructions: &[u32]) -> Vec<u8> {
    instructions.iter().flat_map(|word| word.to_le_bytes()).collect()
}
