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
mod kernel;
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
    check_length(filter.len())?;
    Ok(Program { filter, flags: profile.flags, notify: profile.notify, warnings: profile.warnings })
}

fn check_length(instructions: usize) -> Result<()> {
    if instructions <= MOST_INSTRUCTIONS {
        return Ok(());
    }
    let cause = format!("it takes {instructions} instructions, and the kernel takes {MOST_INSTRUCTIONS}");
    Err(Error::new(Kind::Invalid, "compile linux.seccomp", cause).hint("use fewer rules with args"))
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
    let mut stretch: Option<(u32, u32, Go)> = None;
    for (number, outcome) in profile.calls(abi) {
        let go = match outcome {
            Outcome::Always(action) => Go::Return(action),
            Outcome::FirstOf(alternatives) => program.first_of(&alternatives, abi, Go::Return(profile.default)),
        };
        // Most neighbours have the same fate: painting them at once is most of the speed.
        stretch = match stretch {
            Some((from, to, same)) if to + 1 == number && same == go => Some((from, number, go)),
            done => {
                done.into_iter().for_each(|(from, to, go)| numbers.paint(from.into(), to.into(), go));
                Some((number, number, go))
            }
        };
    }
    stretch.into_iter().for_each(|(from, to, go)| numbers.paint(from.into(), to.into(), go));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seccomp;
    use machine::Call;
    use machine::run;

    const HOST: Arch = Arch::ScmpArchX86_64;
    const EPERM: u32 = 0x5_0001;
    const ALLOW: u32 = 0x7fff_0000;

    fn read(json: &str) -> LinuxSeccomp {
        serde_json::from_str(json).unwrap()
    }

    fn compiled(json: &str) -> Program {
        compile(&read(json), HOST).unwrap()
    }

    fn refused(json: &str) -> String {
        let err = compile(&read(json), HOST).unwrap_err();
        assert_eq!(err.kind, Kind::Invalid);
        err.to_string()
    }

    /// What the program answers to a call of x86_64 with this first argument.
    fn answer(program: &Program, number: u32, first: u64) -> u32 {
        run(&program.filter, &Call { arch: Abi::X86_64.audit(), number, args: [first, 0, 0, 0, 0, 0] }).0
    }

    #[test]
    fn a_mistake_is_named_by_its_path() {
        let entry = |entry: &str| refused(&format!(r#"{{"defaultAction": "SCMP_ACT_KILL", "syscalls": [{entry}]}}"#));
        let at = "read linux.seccomp.";
        let wrong_index = r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 5, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}"#;
        assert_eq!(entry(wrong_index), format!("{at}syscalls[0].args[1].index: 6 is not 0 to 5"));
        let two =
            r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW"}, {"names": ["write", ""], "action": "SCMP_ACT_LOG"}"#;
        assert_eq!(entry(two), format!("{at}syscalls[1].names[1]: empty"));
        let none = r#"{"names": [], "action": "SCMP_ACT_ALLOW"}"#;
        assert_eq!(entry(none), format!("{at}syscalls[0].names: empty"));
        let errno = r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1}"#;
        assert_eq!(entry(errno), format!("{at}syscalls[0].errnoRet: SCMP_ACT_ALLOW does not return an errno"));
        let large = r#"{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 65536}"#;
        assert_eq!(entry(large), format!("{at}syscalls[0].errnoRet: 65536 is more than 65535"));
        let largest = large.replace("65536", "65535");
        let taken = compiled(&format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{largest}]}}"#));
        assert_eq!(answer(&taken, 0, 0), libc::SECCOMP_RET_ERRNO | 0xffff);
        assert_eq!(
            refused(r#"{"defaultAction": "SCMP_ACT_TRAP", "defaultErrnoRet": 1}"#),
            format!("{at}defaultErrnoRet: SCMP_ACT_TRAP does not return an errno")
        );
    }

    /// What init does after the filter is loaded and before its supervisor can have heard of it.
    #[test]
    fn a_supervisor_cannot_be_asked_by_init() {
        let notify = |names: &str, listener: &str| {
            format!(
                r#"{{"defaultAction": "SCMP_ACT_ALLOW", {listener}
                "syscalls": [{{"names": [{names}], "action": "SCMP_ACT_NOTIFY"}}]}}"#
            )
        };
        let listener = r#""listenerPath": "/run/agent","#;
        let at = "read linux.seccomp.";
        assert_eq!(
            refused(r#"{"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/run/agent"}"#),
            format!("{at}defaultAction: SCMP_ACT_NOTIFY cannot be the default")
        );
        assert_eq!(
            refused(&notify(r#""mount", "sendmsg""#, listener)),
            format!(
                "{at}syscalls: SCMP_ACT_NOTIFY is used, and the listener is handed over by sendmsg, which must pass"
            )
        );
        assert!(refused(&notify(r#""read""#, listener)).contains("handed over by read, which must pass"));
        let denied = notify(r#""mount""#, listener).replace("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO");
        assert!(refused(&denied).contains("handed over by sendmsg"));
        let allowed = denied.replacen('[', r#"[{"names": ["read", "sendmsg"], "action": "SCMP_ACT_ALLOW"}, "#, 1);
        assert!(compiled(&allowed).notify);
        let metadata = r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}"#;
        assert_eq!(refused(metadata), format!("{at}listenerMetadata: set, and there is no listenerPath"));
        assert_eq!(
            refused(&notify(r#""mount""#, "")),
            format!("{at}listenerPath: missing, and a rule has SCMP_ACT_NOTIFY")
        );
        let program = compiled(&notify(r#""mount", "write""#, listener));
        assert!(program.notify);
        assert_eq!(answer(&program, 165, 0), libc::SECCOMP_RET_USER_NOTIF);
    }

    #[test]
    fn flags_are_runcs() {
        let flags = |listed: &str| {
            let program = compiled(&format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW" {listed}}}"#));
            (program.flags, program.warnings)
        };
        let none = Vec::<String>::new();
        assert_eq!(flags(""), (seccomp::FILTER_FLAG_SPEC_ALLOW, none.clone()));
        assert_eq!(flags(r#", "flags": []"#), (0, none.clone()));
        assert_eq!(flags(r#", "flags": ["SECCOMP_FILTER_FLAG_TSYNC"]"#), (0, none.clone()));
        let both = r#", "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]"#;
        assert_eq!(flags(both), (seccomp::FILTER_FLAG_LOG | seccomp::FILTER_FLAG_SPEC_ALLOW, none.clone()));
        let wait = r#", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#;
        let why =
            "linux.seccomp.flags[0]: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV without SCMP_ACT_NOTIFY, so without effect";
        assert_eq!(flags(wait), (0, vec![why.to_owned()]));
        let notify = format!(
            r#"{wait}, "listenerPath": "/run/agent", "syscalls": [{{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}}]"#
        );
        let flag = seccomp::FILTER_FLAG_NEW_LISTENER | seccomp::FILTER_FLAG_WAIT_KILLABLE_RECV;
        assert_eq!(flags(&notify), (flag, none));
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let program = compiled(
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_MIPS", "SCMP_ARCH_ARM"],
            "syscalls": [{"names": ["read", "zzz", "swapcontext", "zzz"], "action": "SCMP_ACT_ALLOW"}]}"#,
        );
        assert_eq!(
            program.warnings,
            [
                "linux.seccomp.architectures[1]: SCMP_ARCH_MIPS does not run here, so without effect",
                "linux.seccomp.architectures[2]: SCMP_ARCH_ARM does not run here, so without effect",
                "linux.seccomp.syscalls: unknown here, so without effect: swapcontext, zzz",
            ]
        );
        assert_eq!(answer(&program, 0, 0), ALLOW);
    }

    #[test]
    fn a_host_without_a_table_is_unsupported() {
        let err = compile(&read(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#), Arch::ScmpArchRiscv64).unwrap_err();
        assert_eq!((err.kind, err.cause()), (Kind::Unsupported, "SCMP_ARCH_RISCV64 has no table"));
    }

    #[test]
    fn native_in_the_list_is_the_host() {
        let with = r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_NATIVE"],
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}"#;
        let without = with.replace(r#""architectures": ["SCMP_ARCH_NATIVE"],"#, "");
        assert_eq!(compiled(with), compiled(&without));
    }

    /// moby#42680: glibc falls back when a call does not exist, and fails when it is not permitted.
    #[test]
    fn calls_newer_than_the_profile_do_not_exist() {
        let profile = |default: &str| {
            compiled(&format!(
                r#"{{"defaultAction": "{default}", "syscalls": [{{"names": ["read", "close_range"], "action": "SCMP_ACT_LOG"}}]}}"#
            ))
        };
        for (default, own) in [("SCMP_ACT_ERRNO", EPERM), ("SCMP_ACT_KILL", 0), ("SCMP_ACT_TRAP", 0x3_0000)] {
            let program = profile(default);
            // close_range is 436: what is below keeps the default, even what is newer than it.
            let answers = [435, 437, 0x3fff_ffff].map(|number| answer(&program, number, 0));
            assert_eq!(answers, [own, reference::ENOSYS, reference::ENOSYS], "{default}");
        }
        for (default, own) in [("SCMP_ACT_ALLOW", ALLOW), ("SCMP_ACT_TRACE", 0x7ff0_0001)] {
            assert_eq!(answer(&profile(default), 437, 0), own, "{default}");
        }
        let nothing = compiled(r#"{"defaultAction": "SCMP_ACT_ERRNO"}"#);
        assert_eq!(answer(&nothing, 1000, 0), EPERM);
    }

    #[test]
    fn several_conditions_on_one_argument_are_alternatives() {
        let program = compiled(
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
        );
        let answers = [0, 1, 8, 1 << 32].map(|domain| answer(&program, 135, domain));
        assert_eq!(answers, [ALLOW, EPERM, ALLOW, EPERM]);
    }

    /// A profile may list every value that passes: each comparison costs every call, so they are searched, not tried in turn.
    #[test]
    fn many_values_of_one_argument_are_searched() {
        let rule = |value: u64| {
            format!(
                r#"{{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{{"index": 0, "value": {}, "op": "SCMP_CMP_EQ"}}]}}"#,
                value * 3
            )
        };
        let rules: Vec<String> = (0..200).map(rule).collect();
        let program = compiled(&format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{}]}}"#, rules.join(",")));
        for first in 0..=600 {
            let call = Call { arch: Abi::X86_64.audit(), number: 0, args: [first, 0, 0, 0, 0, 0] };
            let (found, steps) = run(&program.filter, &call);
            assert_eq!(found, if first % 3 == 0 && first < 600 { ALLOW } else { EPERM }, "{first}");
            assert!(steps < 30, "{first}: {steps}");
        }
    }

    /// bpf(4): a conditional jump counts in 8 bits. What two calls share is written once, so one of them is far from it.
    #[test]
    fn what_is_far_away_is_reached() {
        let rule = |name: &str, value: u64| {
            format!(
                r#"{{"names": ["{name}"], "action": "SCMP_ACT_ALLOW", "args": [
                {{"index": 0, "value": {value}, "op": "SCMP_CMP_EQ"}}, {{"index": 1, "value": 0, "op": "SCMP_CMP_EQ"}}]}}"#
            )
        };
        let mut names: Vec<(u32, &str)> = tables::CALLS
            .iter()
            .filter_map(|(name, _)| Some((reference::number(Abi::X86_64, name)?, *name)))
            .filter(|(number, _)| *number < 300)
            .collect();
        names.sort_unstable();
        // The first and the last call have the same rule, those between them each another.
        let last = names.len() - 1;
        let value = |at: usize| if at == last { 0 } else { u64::try_from(at).unwrap() };
        let rules: Vec<String> = names.iter().enumerate().map(|(at, (_, name))| rule(name, value(at))).collect();
        let program = compiled(&format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{}]}}"#, rules.join(",")));
        for (at, (number, name)) in names.iter().enumerate() {
            assert_eq!(answer(&program, *number, value(at)), ALLOW, "{name}");
            assert_eq!(answer(&program, *number, value(at) + 1), EPERM, "{name}");
        }
    }

    #[test]
    fn a_rule_without_conditions_outranks_those_with_and_the_first_of_them_holds() {
        let program = compiled(
            r#"{"defaultAction": "SCMP_ACT_KILL", "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 7, "op": "SCMP_CMP_EQ"}]},
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["read"], "action": "SCMP_ACT_LOG"}]}"#,
        );
        assert_eq!(answer(&program, 0, 7), ALLOW);
    }

    #[test]
    fn more_than_the_kernel_takes_is_an_error() {
        let rule = |n: u64| {
            format!(
                r#"{{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [
                {{"index": 0, "value": {n}, "op": "SCMP_CMP_EQ"}}, {{"index": 1, "value": {n}, "op": "SCMP_CMP_EQ"}}]}}"#
            )
        };
        let profile = |rules: u64| {
            let rules: Vec<String> = (0..rules).map(rule).collect();
            format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{}]}}"#, rules.join(","))
        };
        let taken = compiled(&profile(490)).filter.len();
        assert!((3900..=MOST_INSTRUCTIONS).contains(&taken), "{taken}");
        let why = refused(&profile(520));
        assert!(why.starts_with("compile linux.seccomp: it takes 4"), "{why}");
        assert!(why.contains("the kernel takes 4096"), "{why}");
        assert!(check_length(4096).is_ok() && check_length(4097).is_err());
    }

    #[test]
    fn a_program_survives_being_kept_in_a_plan() {
        let program = compile(&default_profile([], HOST), HOST).unwrap();
        let kept = serde_json::to_string(&program).unwrap();
        assert_eq!(serde_json::from_str::<Program>(&kept).unwrap(), program);
        assert!(kept.starts_with(r#"{"filter":[17179869216,"#), "{}", &kept[..40]);
    }

    /// A profile may say one thing of a hundred calls.
    #[test]
    fn what_several_calls_have_in_common_is_written_once() {
        let names = |count: usize| {
            let names: Vec<String> = tables::CALLS.iter().map(|(name, _)| format!("{name:?}")).take(count).collect();
            compiled(&format!(
                r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": [{}], "action": "SCMP_ACT_ALLOW", "args": [
                {{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}}, {{"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}}]}}]}}"#,
                names.join(", ")
            ))
        };
        let (few, many) = (names(2).filter.len(), names(200).filter.len());
        assert!(many < few + 400, "{few} and {many}");
    }

    #[test]
    fn the_default_profile_is_one_on_every_host() {
        for (host, abi) in [
            (Arch::ScmpArchX86_64, Abi::X86_64),
            (Arch::ScmpArchX86_64, Abi::X86),
            (Arch::ScmpArchX86_64, Abi::X32),
            (Arch::ScmpArchAarch64, Abi::Aarch64),
            (Arch::ScmpArchAarch64, Abi::Arm),
            (Arch::ScmpArchX86, Abi::X86),
            (Arch::ScmpArchArm, Abi::Arm),
        ] {
            let program = compile(&default_profile([], host), host).unwrap();
            let clone_newuts = [0x0400_0000, 0, 0, 0, 0, 0];
            for (name, args, should) in [
                ("getpid", [0; 6], ALLOW),
                ("personality", [0; 6], ALLOW),
                ("clone", [0; 6], ALLOW),
                ("clone", clone_newuts, EPERM),
                ("clone3", [0; 6], reference::ENOSYS),
                ("keyctl", [0; 6], EPERM),
                // x32's own numbers lie above those of newer calls, so that runc's rule does not see these.
                ("listns", [0; 6], if abi == Abi::X32 { EPERM } else { reference::ENOSYS }),
            ] {
                let number = reference::number(abi, name).unwrap();
                let call = Call { arch: abi.audit(), number, args };
                assert_eq!(run(&program.filter, &call).0, should, "{name} on {abi:?} of {host}");
            }
        }
    }

    #[test]
    fn the_default_profile_has_no_name_that_no_table_has() {
        for host in [Arch::ScmpArchX86_64, Arch::ScmpArchAarch64, Arch::ScmpArchX86, Arch::ScmpArchArm] {
            let all = oci_spec::runtime::Capability::SysAdmin;
            let program = compile(&default_profile([all], host), host).unwrap();
            assert_eq!((program.warnings, program.notify), (Vec::new(), false), "{host}");
        }
    }
}
