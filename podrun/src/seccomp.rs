//! seccomp(2) profiles of config.json, compiled to classic BPF.
//!
//! Promises: a profile means here what it means to runc with libseccomp (config-linux.md, "Seccomp", leaves much to
//! them): the native ABI always counts; a call of an ABI that is not listed kills; several rules of one call are
//! alternatives; a rule without conditions beats those with; several conditions on one argument are alternatives too;
//! 32-bit ABIs compare the low halves; unknown names are left out, with a warning; and calls that are newer than the
//! profile answer ENOSYS, so that a C library falls back instead of failing. Where rules of one call overlap and
//! differ in their action, the first one listed wins (libseccomp refuses some of these and lets its tree's order
//! decide others). One thing is stricter: an errno on an action that has none is an error, as the specification asks.
//!
//! Compiling is pure: profile and architecture in, program out. `sys::seccomp` loads it.

#![forbid(unsafe_code)]

mod abi;
mod assembler;
mod default;
mod partition;
mod rules;
mod tables;

#[cfg(test)]
mod machine;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod reference;

use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::sys::seccomp::Instruction;
use abi::Abi;
use assembler::Assembler;
use assembler::Go;
use oci_spec::runtime::Arch;
use oci_spec::runtime::LinuxSeccomp;
use partition::Partition;
use rules::Outcome;
use rules::Profile;
use serde::Deserialize;
use serde::Serialize;

pub use abi::native;
pub use default::default_profile;

/// What a plan keeps of a profile: ready for `sys::seccomp::set_mode_filter`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Program {
    pub filter: Vec<Instruction>,
    /// SECCOMP_FILTER_FLAG_ bits; NEW_LISTENER is among them when `notify` is true.
    pub flags: u32,
    /// Loading answers with a descriptor that belongs to the profile's `listenerPath`.
    pub notify: bool,
    /// What of the profile has no effect here.
    pub warnings: Vec<String>,
}

/// BPF_MAXINSNS of linux/bpf_common.h.
const MOST_INSTRUCTIONS: usize = 4096;

/// `host` is the architecture of the kernel, as [`native`] says it.
pub fn compile(profile: &LinuxSeccomp, host: Arch) -> Result<Program> {
    let profile = rules::read(profile, host)?;
    let filter = assemble(&profile);
    if filter.len() > MOST_INSTRUCTIONS {
        let cause = format!("it takes {} instructions, and the kernel takes {MOST_INSTRUCTIONS}", filter.len());
        return Err(Error::new(Kind::Invalid, "compile linux.seccomp", cause).hint("use fewer rules with args"));
    }
    Ok(Program { filter, flags: profile.flags, notify: profile.notify, warnings: profile.warnings })
}

const OFFSET_OF_NR: u32 = 0;
const OFFSET_OF_ARCH: u32 = 4;

/// The program is written from its end: one part per architecture, then the test that chooses among them.
fn assemble(profile: &Profile) -> Vec<Instruction> {
    let mut program = Assembler::default();
    // A call of an ABI that the profile does not list has numbers that it does not speak of.
    let mut start = Go::Return(libc::SECCOMP_RET_KILL_THREAD);
    for abi in profile.abis.iter().rev().filter(|abi| **abi != Abi::X32) {
        let numbers = numbers(&mut program, profile, *abi);
        let here = program.switch(OFFSET_OF_NR, &numbers);
        start = program.equal(abi.audit(), here, start);
    }
    program.finish(OFFSET_OF_ARCH, start)
}

/// What becomes of each number that the kernel can report for this architecture.
fn numbers(program: &mut Assembler, profile: &Profile, abi: Abi) -> Partition<Go> {
    let mut numbers = Partition::new(u64::from(u32::MAX), Go::Return(profile.default));
    add(&mut numbers, program, profile, abi);
    if abi != Abi::X86_64 {
        return numbers;
    }
    // x32 is the same architecture with a bit in the number. A tree of its own keeps the native one shallow.
    let mut beyond = Partition::new(u64::from(u32::MAX), Go::Return(profile.default));
    match profile.abis.contains(&Abi::X32) {
        true => add(&mut beyond, program, profile, Abi::X32),
        // All but -1, which is no x32 call but what a tracer writes to skip a call.
        false => beyond.paint(0, u64::from(u32::MAX - 1), Go::Return(libc::SECCOMP_RET_KILL_THREAD)),
    }
    let x32 = program.switch(OFFSET_OF_NR, &beyond);
    numbers.paint(u64::from(abi::X32_BIT), u64::from(u32::MAX), x32);
    numbers
}

fn add(numbers: &mut Partition<Go>, program: &mut Assembler, profile: &Profile, abi: Abi) {
    for (from, to) in profile.newer(abi) {
        numbers.paint(from.into(), to.into(), Go::Return(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()));
    }
    for (number, outcome) in profile.calls(abi) {
        let go = match outcome {
            Outcome::Always(action) => Go::Return(action),
            Outcome::FirstOf(alternatives) => program.first_of(&alternatives, abi, Go::Return(profile.default)),
        };
        numbers.paint(number.into(), number.into(), go);
    }
}
