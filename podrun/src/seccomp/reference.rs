//! The compiler's first judge: the meaning of a profile, straight from its words, and profiles made by dice.

#![forbid(unsafe_code)]

use super::abi::Abi;
use super::abi::X32_BIT;
use super::abi::call;
use super::abi::spoken_by;
use super::compile;
use super::machine::Call;
use super::machine::run;
use super::tables::CALLS;
use oci_spec::runtime::Arch;
use oci_spec::runtime::LinuxSeccomp;
use oci_spec::runtime::LinuxSeccompAction;
use oci_spec::runtime::LinuxSeccompAction::*;
use oci_spec::runtime::LinuxSeccompArg;
use oci_spec::runtime::LinuxSeccompArgBuilder;
use oci_spec::runtime::LinuxSeccompBuilder;
use oci_spec::runtime::LinuxSeccompOperator::*;
use oci_spec::runtime::LinuxSyscall;
use oci_spec::runtime::LinuxSyscallBuilder;

pub(super) const ENOSYS: u32 = 0x5_0026;
const KILL: u32 = 0;

/// The ABI of a call, or the answer to a call of none that counts.
fn abi_of(profile: &LinuxSeccomp, host: Arch, call: &Call) -> Result<Abi, u32> {
    let listed = profile.architectures().clone().unwrap_or_default();
    let spoken = spoken_by(host).unwrap();
    let counts = |arch: Arch| arch == host || listed.contains(&arch) && spoken.contains(&Abi::of(arch).unwrap());
    match (call.arch, call.number) {
        (0xc000_003e, number) if number < X32_BIT && counts(Arch::ScmpArchX86_64) => Ok(Abi::X86_64),
        (0xc000_003e, _) if counts(Arch::ScmpArchX32) => Ok(Abi::X32),
        (0xc000_003e, u32::MAX) if counts(Arch::ScmpArchX86_64) => {
            Err(answer_of(profile.default_action(), profile.default_errno_ret()))
        }
        (0x4000_0003, _) if counts(Arch::ScmpArchX86) => Ok(Abi::X86),
        (0xc000_00b7, _) if counts(Arch::ScmpArchAarch64) => Ok(Abi::Aarch64),
        (0x4000_0028, _) if counts(Arch::ScmpArchArm) => Ok(Abi::Arm),
        _ => Err(KILL),
    }
}

pub(super) fn number(abi: Abi, name: &str) -> Option<u32> {
    call(name).and_then(|call| abi.number(call))
}

pub(super) fn multiplexed(abi: Abi, name: &str) -> Option<(u32, u64)> {
    call(name).and_then(|call| abi.multiplexed(call))
}

pub(super) fn answer_of(action: LinuxSeccompAction, errno: Option<u32>) -> u32 {
    action.as_u32(errno)
}

/// runc's stub: is the call newer than all that the profile names?
pub(super) fn is_newer(profile: &LinuxSeccomp, host: Arch, call: &Call) -> bool {
    let Ok(abi) = abi_of(profile, host, call) else { return false };
    let own = |number: u32| abi == Abi::Arm && number >= 0xf_0000;
    let entries = profile.syscalls().iter().flatten();
    let named = entries.flat_map(|entry| entry.names()).filter_map(|name| number(abi, name));
    let newest = named.filter(|number| own(*number) == own(call.number)).max();
    let lenient = matches!(profile.default_action(), ScmpActAllow | ScmpActLog | ScmpActTrace);
    !lenient && newest.is_some_and(|newest| newest < call.number)
}

/// What the profile says about a call, read rule by rule.
pub(super) fn answer(profile: &LinuxSeccomp, host: Arch, call: &Call) -> u32 {
    let abi = match abi_of(profile, host, call) {
        Ok(abi) => abi,
        Err(answer) => return answer,
    };
    if is_newer(profile, host, call) {
        return ENOSYS;
    }
    let default = answer_of(profile.default_action(), profile.default_errno_ret());
    let mut matching = Vec::new();
    for entry in profile.syscalls().iter().flatten() {
        let answer = answer_of(entry.action(), entry.errno_ret());
        let args = entry.args().clone().unwrap_or_default();
        for name in entry.names().iter().filter(|_| answer != default) {
            for alternative in alternatives(&args) {
                let whole = multiplexed(abi, name).filter(|(whole, _)| *whole == call.number);
                if let Some((_, part)) = whole {
                    let rest: Vec<_> = alternative.iter().filter(|arg| arg.index() != 0).copied().collect();
                    if call.args[0] & abi.widest() == part && rest.iter().all(|arg| holds(arg, call, abi)) {
                        matching.push((false, answer));
                    }
                } else if number(abi, name) == Some(call.number) && alternative.iter().all(|arg| holds(arg, call, abi))
                {
                    matching.push((alternative.iter().all(|arg| always(arg, abi)), answer));
                }
            }
        }
    }
    let unconditional = matching.iter().find(|(unconditional, _)| *unconditional);
    unconditional.or(matching.first()).map_or(default, |(_, answer)| *answer)
}

pub(super) fn alternatives(args: &[LinuxSeccompArg]) -> Vec<Vec<LinuxSeccompArg>> {
    let twice = args.iter().any(|one| args.iter().filter(|other| other.index() == one.index()).count() > 1);
    if twice { args.iter().map(|arg| vec![*arg]).collect() } else { vec![args.to_vec()] }
}

fn holds(arg: &LinuxSeccompArg, call: &Call, abi: Abi) -> bool {
    let (is, value) = (call.args[arg.index()] & abi.widest(), arg.value() & abi.widest());
    match arg.op() {
        ScmpCmpEq => is == value,
        ScmpCmpNe => is != value,
        ScmpCmpLt => is < value,
        ScmpCmpLe => is <= value,
        ScmpCmpGt => is > value,
        ScmpCmpGe => is >= value,
        ScmpCmpMaskedEq => is & value == arg.value_two().unwrap_or(0) & value,
    }
}

fn always(arg: &LinuxSeccompArg, abi: Abi) -> bool {
    let value = arg.value() & abi.widest();
    match arg.op() {
        ScmpCmpLe => value == abi.widest(),
        ScmpCmpGe | ScmpCmpMaskedEq => value == 0,
        _ => false,
    }
}

/// xorshift64*: the same dice on every machine, so that a failure comes back.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn throw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, sides: usize) -> usize {
        let sides = u64::try_from(sides).unwrap();
        usize::try_from(self.throw() >> 16).unwrap() % usize::try_from(sides).unwrap()
    }

    pub(super) fn one_of<T: Copy>(&mut self, things: &[T]) -> T {
        things[self.below(things.len())]
    }

    /// Values that meet each other, and each other's neighbours, halves and truncations.
    pub(super) fn value(&mut self) -> u64 {
        const SEEDS: &[u64] = &[0, 1, 2, 5, 0xf0, 40, 0xffff_ffff, 0x1_0000_0000, 0x5_0000_0028, u64::MAX, 1 << 63];
        match self.below(4) {
            0 => self.one_of(SEEDS).wrapping_add(1),
            1 => self.one_of(SEEDS).wrapping_sub(1),
            2 => self.one_of(SEEDS) ^ self.one_of(SEEDS) << 32,
            _ => self.one_of(SEEDS),
        }
    }
}

pub(super) const HOSTS: &[Arch] = &[Arch::ScmpArchX86_64, Arch::ScmpArchAarch64, Arch::ScmpArchX86, Arch::ScmpArchArm];
const ARCHES: &[Arch] =
    &[Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32, Arch::ScmpArchAarch64, Arch::ScmpArchArm];
const ACTIONS: &[(LinuxSeccompAction, Option<u32>)] = &[
    (ScmpActAllow, None),
    (ScmpActErrno, None),
    (ScmpActErrno, Some(38)),
    (ScmpActErrno, Some(13)),
    (ScmpActKill, None),
    (ScmpActKillProcess, None),
    (ScmpActTrap, None),
    (ScmpActTrace, Some(7)),
    (ScmpActLog, None),
];

/// What the dice may choose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Mix {
    /// Any action anywhere, rules that overlap.
    Any,
    /// One action for all rules with conditions: whatever overlaps, the answer is the same.
    OneAction,
}

pub(super) fn arg(dice: &mut Dice) -> LinuxSeccompArg {
    let ops = [ScmpCmpEq, ScmpCmpNe, ScmpCmpLt, ScmpCmpLe, ScmpCmpGt, ScmpCmpGe, ScmpCmpMaskedEq];
    let arg = LinuxSeccompArgBuilder::default().index(dice.below(3)).op(dice.one_of(&ops));
    arg.value(dice.value()).value_two(dice.value()).build().unwrap()
}

pub(super) fn profile(dice: &mut Dice, mix: Mix, names: &[&str]) -> LinuxSeccomp {
    let default = dice.one_of(ACTIONS);
    let action = dice.one_of(ACTIONS);
    let mut few: Vec<&str> = (0..1 + dice.below(6)).map(|_| dice.one_of(names)).collect();
    let special = ["socket", "socketcall", "shmget", "ipc", "set_tls", "read"];
    few.extend(special.iter().filter(|name| names.contains(name) && dice.below(4) == 0));
    let rules = (0..dice.below(12)).map(|_| entry(dice, &few, mix, action));
    let rules: Vec<LinuxSyscall> = rules.collect();
    let architectures: Vec<Arch> = ARCHES.iter().copied().filter(|_| dice.below(2) == 0).collect();
    let mut profile = LinuxSeccompBuilder::default().architectures(architectures).syscalls(rules);
    profile = profile.default_action(default.0);
    if let Some(errno) = default.1 {
        profile = profile.default_errno_ret(errno);
    }
    profile.build().unwrap()
}

fn entry(dice: &mut Dice, few: &[&str], mix: Mix, action: (LinuxSeccompAction, Option<u32>)) -> LinuxSyscall {
    let names = if mix == Mix::Any { 1 + dice.below(3) } else { 1 };
    let names: Vec<String> = (0..names).map(|_| dice.one_of(few).to_owned()).collect();
    let args: Vec<LinuxSeccompArg> = (0..dice.below(4)).map(|_| arg(dice)).collect();
    // Rules for parts of socketcall and ipc have a condition there.
    let free = args.is_empty() && names.iter().all(|name| multiplexed(Abi::X86, name).is_none());
    let (action, errno) = if mix == Mix::Any || free { dice.one_of(ACTIONS) } else { action };
    let mut entry = LinuxSyscallBuilder::default().names(names).action(action).args(args);
    if let Some(errno) = errno {
        entry = entry.errno_ret(errno);
    }
    entry.build().unwrap()
}

/// Calls that the profile speaks of, their neighbours, and others.
pub(super) fn calls(dice: &mut Dice, profile: &LinuxSeccomp) -> Vec<Call> {
    let entries = profile.syscalls().as_deref().unwrap_or_default();
    let mut numbers = vec![0, 1, 102, 117, 0x3fff_ffff, 0x4000_0000, 0x4000_0001, 0xf_0005, u32::MAX - 1, u32::MAX];
    for name in entries.iter().flat_map(|entry| entry.names()) {
        for arch in ARCHES {
            let number = number(Abi::of(*arch).unwrap(), name);
            numbers.extend(number.into_iter().flat_map(|number| [number.saturating_sub(1), number, number + 1]));
        }
    }
    let mut values = vec![0, 1];
    for arg in entries.iter().filter_map(|entry| entry.args().as_ref()).flatten() {
        let (one, two) = (arg.value(), arg.value_two().unwrap_or_default());
        values.extend([
            one,
            one.wrapping_sub(1),
            one.wrapping_add(1),
            two,
            one & two,
            one & 0xffff_ffff,
            one ^ 1 << 32,
        ]);
    }
    let audits = [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0x1234_5678];
    let call = |_| Call {
        arch: dice.one_of(&audits),
        number: dice.one_of(&numbers),
        args: std::array::from_fn(|_| if dice.below(8) == 0 { dice.value() } else { dice.one_of(&values) }),
    };
    (0..400).map(call).collect()
}

/// How many throws of the dice: as many as the test says, or as PODRUN_SEEDS says for a long run.
pub(super) fn seeds(usual: u64) -> u64 {
    std::env::var("PODRUN_SEEDS").map_or(usual, |seeds| seeds.parse().expect("PODRUN_SEEDS is a number"))
}

#[test]
fn a_program_answers_as_its_profile_reads() {
    let names: Vec<&str> = CALLS.iter().map(|(name, _)| *name).chain(["no_such_call"]).collect();
    let mut checked = 0;
    for seed in 0..seeds(1500) {
        let mut dice = Dice::new(seed);
        let profile = profile(&mut dice, Mix::Any, &names);
        let host = dice.one_of(HOSTS);
        let program = compile(&profile, host).unwrap();
        for call in calls(&mut dice, &profile) {
            let (is, _) = run(&program.filter, &call);
            let should = answer(&profile, host, &call);
            assert_eq!(is, should, "seed {seed}: {call:x?} on {host}\n{profile:#?}");
            checked += 1;
        }
    }
    assert_eq!(checked, 400 * seeds(1500));
}
