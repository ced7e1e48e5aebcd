//! Whatever the profile, the compiler answers: with a program that the kernel would load, or with an error.

#![forbid(unsafe_code)]

use oci_spec::runtime::Arch;
use oci_spec::runtime::LinuxSeccomp;
use podrun::seccomp::compile;
use podrun::sys::seccomp::Instruction;

const HOSTS: [Arch; 4] = [Arch::ScmpArchX86_64, Arch::ScmpArchAarch64, Arch::ScmpArchX86, Arch::ScmpArchArm];

/// Bytes that are no JSON are read as choices.
pub fn try_it(input: &[u8]) {
    let profile: Option<LinuxSeccomp> = serde_json::from_slice(input).ok().or_else(|| chosen(&mut input.iter()));
    for host in HOSTS {
        if let Some(Ok(program)) = profile.as_ref().map(|profile| compile(profile, host)) {
            check(&program.filter);
        }
    }
}

/// What the kernel checks: bpf_check_classic, seccomp_check_filter.
fn check(filter: &[Instruction]) {
    assert!((1..=4096).contains(&filter.len()), "{} instructions", filter.len());
    for (at, instruction) in filter.iter().enumerate() {
        let after = |jump: u32| at + 1 + usize::try_from(jump).unwrap();
        let next = match instruction.code {
            0x06 => vec![],
            0x20 => {
                assert!(instruction.k < 64 && instruction.k.is_multiple_of(4), "load of {}", instruction.k);
                vec![after(0)]
            }
            0x54 => vec![after(0)],
            0x05 => vec![after(instruction.k)],
            0x15 | 0x35 | 0x45 => vec![after(instruction.jt.into()), after(instruction.jf.into())],
            other => panic!("instruction {at} is {other:#x}"),
        };
        assert!(next.iter().all(|next| *next < filter.len()), "instruction {at} leads out of the program");
    }
}

const NAMES: [&str; 12] =
    ["read", "socket", "socketcall", "shmget", "ipc", "clone3", "set_tls", "personality", "mseal", "x", "", "write"];
const ACTIONS: [&str; 9] = ["KILL", "KILL_PROCESS", "TRAP", "ERRNO", "NOTIFY", "TRACE", "LOG", "ALLOW", "KILL_THREAD"];
const OPERATORS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
const ARCHES: [&str; 7] = ["X86_64", "X86", "X32", "AARCH64", "ARM", "MIPS", "NATIVE"];

fn chosen<'a>(bytes: &mut impl Iterator<Item = &'a u8>) -> Option<LinuxSeccomp> {
    let one = |bytes: &mut dyn Iterator<Item = &'a u8>| bytes.next().copied().map(usize::from);
    let default = ACTIONS[one(bytes)? % ACTIONS.len()];
    let listed = one(bytes)?;
    let arches = ARCHES.iter().enumerate().filter(|(bit, _)| listed >> bit & 1 == 1);
    let arches: Vec<String> = arches.map(|(_, arch)| format!("SCMP_ARCH_{arch}")).collect();
    let mut rules = Vec::new();
    while let Some(count) = one(bytes) {
        let (name, action) = (NAMES[one(bytes)? % NAMES.len()], ACTIONS[one(bytes)? % ACTIONS.len()]);
        let mut args = Vec::new();
        for _ in 0..count % 8 {
            let (index, op) = (one(bytes)? % 7, OPERATORS[one(bytes)? % OPERATORS.len()]);
            let (value, two) = (value(bytes)?, value(bytes)?);
            args.push(
                serde_json::json!({"index": index, "op": format!("SCMP_CMP_{op}"), "value": value, "valueTwo": two}),
            );
        }
        rules.push(serde_json::json!({"names": [name], "action": format!("SCMP_ACT_{action}"), "args": args}));
    }
    let profile = serde_json::json!({
        "defaultAction": format!("SCMP_ACT_{default}"), "architectures": arches, "listenerPath": "/", "syscalls": rules});
    serde_json::from_value(profile).ok()
}

/// A byte, moved to one of the places where a comparison of halves could go wrong.
fn value<'a>(bytes: &mut impl Iterator<Item = &'a u8>) -> Option<u64> {
    let (byte, place) = (u64::from(*bytes.next()?), *bytes.next()?);
    Some(
        [byte, byte << 32, byte << 56, !byte, byte | 0xffff_ffff << 32, u64::from(u32::MAX) - byte]
            [usize::from(place) % 6],
    )
}

#[test]
fn an_empty_profile_and_a_full_one_pass() {
    try_it(br#"{"defaultAction": "SCMP_ACT_ERRNO"}"#);
    try_it(&[3, 127, 2, 0, 7, 0, 3, 1, 2, 3, 4, 1, 6, 5, 1, 5, 2]);
    try_it(b"");
}
