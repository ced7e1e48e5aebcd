//! The compiler's second judge: libseccomp, as runc uses it, asked through tests/oracles/libseccomp.c. And the default
//! profile's judge: containerd's, as tests/oracles/containerd-seccomp printed it.

#![forbid(unsafe_code)]

use super::abi::Abi;
use super::abi::X32_BIT;
use super::abi::spoken_by;
use super::compile;
use super::default::default_profile;
use super::machine::Call;
use super::machine::run;
use super::reference;
use super::reference::Dice;
use super::reference::ENOSYS;
use super::reference::HOSTS;
use super::reference::Mix;
use super::reference::multiplexed;
use super::reference::number;
use super::tables::CALLS;
use crate::sys::seccomp::Instruction;
use oci_spec::runtime::Arch;
use oci_spec::runtime::Capability;
use oci_spec::runtime::LinuxSeccomp;
use oci_spec::runtime::LinuxSeccompArg;
use oci_spec::runtime::LinuxSeccompOperator::*;
use oci_spec::runtime::LinuxSyscall;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::OnceLock;

const ORACLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/oracles");

/// Built once; none, and said so, where there is no compiler or no libseccomp.
fn libseccomp() -> Option<&'static PathBuf> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(|| super::machine::built("libseccomp", &["-lseccomp"]));
    if built.is_none() {
        super::machine::skipped("no cc, or no libseccomp-dev");
    }
    built.as_ref()
}

fn ask(questions: String) -> Option<Vec<String>> {
    let mut child = Command::new(libseccomp()?).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(questions.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

/// The profile in the oracle's words; several conditions on one argument are taken apart here, as runc does.
fn question(profile: &LinuxSeccomp, host: Arch) -> String {
    let default = reference::answer_of(profile.default_action(), profile.default_errno_ret());
    let mut text = format!("filter {} {default}\n", host as u32);
    // An architecture that the kernel does not speak is never reported, so a program may leave it out.
    let spoken = |arch: &&Arch| spoken_by(host).unwrap().contains(&Abi::of(**arch).unwrap());
    for arch in profile.architectures().iter().flatten().filter(spoken) {
        writeln!(text, "arch {}", *arch as u32).unwrap();
    }
    let entries = profile.syscalls().as_deref().unwrap_or_default();
    // runc asks for libseccomp's binary tree when there are more than 32 rules.
    if entries.iter().map(|entry| entry.names().len()).sum::<usize>() > 32 {
        text.push_str("optimize\n");
    }
    for entry in entries {
        let action = reference::answer_of(entry.action(), entry.errno_ret());
        for (name, args) in rules(entry).filter(|_| action != default) {
            write!(text, "rule {action} {name} {}", args.len()).unwrap();
            args.iter().for_each(|arg| text.push_str(&comparison(arg)));
            text.push('\n');
        }
    }
    text + "end\n"
}

/// Names, each with each alternative.
fn rules(entry: &LinuxSyscall) -> impl Iterator<Item = (&str, Vec<LinuxSeccompArg>)> {
    let alternatives = reference::alternatives(entry.args().as_deref().unwrap_or_default());
    entry.names().iter().flat_map(move |name| alternatives.clone().into_iter().map(move |args| (name.as_str(), args)))
}

fn comparison(arg: &LinuxSeccompArg) -> String {
    format!(" {} {} {} {}", arg.index(), arg.op() as u32, arg.value(), arg.value_two().unwrap_or_default())
}

fn program(answer: &str) -> Vec<Instruction> {
    let words = answer.strip_prefix("program").unwrap_or_else(|| panic!("libseccomp says: {answer}"));
    words.split_whitespace().map(|word| u64::from_str_radix(word, 16).unwrap().into()).collect()
}

/// What libseccomp says of each name in the table, on one architecture: none where it does not know the name at all.
fn numbers(arch: Arch) -> Option<Vec<(&'static str, Option<i32>)>> {
    let questions: String = CALLS.iter().map(|(name, _)| format!("number {} {name}\n", arch as u32)).collect();
    let known = |answer: &String| Some(answer.parse().unwrap()).filter(|number| *number != -1);
    Some(CALLS.iter().map(|(name, _)| *name).zip(ask(questions)?.iter().map(known)).collect())
}

#[test]
fn the_tables_are_libseccomps() {
    let arches = [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32, Arch::ScmpArchAarch64, Arch::ScmpArchArm];
    for arch in arches {
        let Some(numbers) = numbers(arch) else { return };
        let abi = Abi::of(arch).unwrap();
        let known: Vec<_> = numbers.iter().filter_map(|(name, number)| Some((*name, (*number)?))).collect();
        assert!(known.len() > 400, "{arch}: {}", known.len());
        for (name, theirs) in known {
            // Below zero are libseccomp's own numbers: for what an ABI lacks, and for the parts of socketcall and ipc.
            // The kernel's header has both names for arm's 341, libseccomp one.
            let ours = number(abi, name).filter(|_| multiplexed(abi, name).is_none());
            let ours = ours.filter(|_| (arch, name) != (Arch::ScmpArchArm, "sync_file_range2"));
            assert_eq!(ours, u32::try_from(theirs).ok(), "{name} on {arch}");
        }
    }
}

/// Whether libseccomp 2.5 can be a judge. Where two rules have the same conditions it now and then forgets to load the
/// number of the call; where several rules of one call compare for less or more, its tree loses or doubles some.
fn is_fair(profile: &LinuxSeccomp) -> bool {
    let ordered =
        |args: &[LinuxSeccompArg]| args.iter().any(|arg| !matches!(arg.op(), ScmpCmpEq | ScmpCmpNe | ScmpCmpMaskedEq));
    let rules: Vec<_> =
        profile.syscalls().iter().flatten().flat_map(rules).filter(|(_, args)| !args.is_empty()).collect();
    rules.iter().enumerate().all(|(at, (name, args))| {
        let unfair =
            |(other, theirs): &(_, Vec<_>)| theirs == args || other == name && (ordered(theirs) || ordered(args));
        !rules[..at].iter().any(unfair)
    })
}

/// libseccomp 2.5 reads "at most" as "more than" on 32-bit ABIs.
fn is_misread(profile: &LinuxSeccomp, call: &Call) -> bool {
    let is_32_bit = call.arch & 0x8000_0000 == 0 || call.number & X32_BIT != 0;
    let mut args = profile.syscalls().iter().flatten().flat_map(|entry| entry.args().iter().flatten());
    is_32_bit && args.any(|arg| arg.op() == ScmpCmpLe)
}

#[test]
fn a_program_answers_as_libseccomps_does() {
    let Some(known) = numbers(Arch::ScmpArchX86_64) else { return };
    let mut cases = Vec::new();
    for seed in 0..reference::seeds(4000) {
        let mut dice = Dice::new(seed + 1_000_000);
        let host = dice.one_of(HOSTS);
        // A name that an ABI lacks can cost libseccomp 2.5 the loading of the number, too.
        let everywhere = |name: &str| spoken_by(host).unwrap().iter().all(|abi| number(*abi, name).is_some());
        let names = known.iter().filter(|(name, number)| number.is_some() && everywhere(name));
        let names: Vec<&str> = names.map(|(name, _)| *name).collect();
        let profile = reference::profile(&mut dice, Mix::OneAction, &names);
        if is_fair(&profile) {
            cases.push((seed, host, reference::calls(&mut dice, &profile), profile));
        }
    }
    let answers = ask(cases.iter().map(|(_, host, _, profile)| question(profile, *host)).collect()).unwrap();
    assert_eq!(answers.len(), cases.len());
    let mut checked = 0;
    for ((seed, host, calls, profile), answer) in cases.iter().zip(&answers) {
        let (ours, theirs) = (compile(profile, *host).unwrap().filter, program(answer));
        for call in calls.iter().filter(|call| !is_misread(profile, call)) {
            // This part is not libseccomp's but runc's.
            let newer = reference::is_newer(profile, *host, call);
            let should = if newer { ENOSYS } else { run(&theirs, call).0 };
            assert_eq!(run(&ours, call).0, should, "seed {seed}: {call:x?} on {host}\n{profile:#?}");
            checked += 1;
        }
    }
    assert!(checked > 200_000, "{checked}");
}

/// podman's rules for socket(2): two actions for one call. The kernel's audit socket answers EINVAL, all else goes.
#[test]
fn several_actions_for_one_call_are_libseccomps_too() {
    let audit = r#"[{"index": 0, "value": 16, "op": "SCMP_CMP_EQ"}, {"index": 2, "value": 9, "op": "SCMP_CMP_EQ"}]"#;
    let others =
        [r#"{"index": 2, "value": 9, "op": "SCMP_CMP_NE"}"#, r#"{"index": 0, "value": 16, "op": "SCMP_CMP_NE"}"#];
    let entries = format!(
        r#"{{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22, "args": {audit}}},
           {{"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{}]}},
           {{"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{}]}}"#,
        others[0], others[1]
    );
    let profile = format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [{entries}]}}"#);
    let profile: LinuxSeccomp = serde_json::from_str(&profile).unwrap();
    let ours = compile(&profile, Arch::ScmpArchX86_64).unwrap().filter;
    let theirs = ask(question(&profile, Arch::ScmpArchX86_64)).map(|answers| program(&answers[0]));
    for (family, protocol, should) in [(16, 9, 0x5_0016), (16, 8, 0x7fff_0000), (2, 9, 0x7fff_0000)] {
        let call = Call { arch: 0xc000_003e, number: 41, args: [family, 0, protocol, 0, 0, 0] };
        assert_eq!(run(&ours, &call).0, should);
        assert_eq!(theirs.as_ref().map_or(should, |theirs| run(theirs, &call).0), should);
    }
}

#[derive(serde::Deserialize)]
struct Printed {
    base: LinuxSeccomp,
    with: BTreeMap<String, Change>,
}

#[derive(serde::Deserialize)]
struct Change {
    added: Vec<LinuxSyscall>,
    removed: Vec<LinuxSyscall>,
}

/// containerd's profile for a container without capabilities, and for one with each of them alone.
fn containerds() -> Vec<(Option<Capability>, LinuxSeccomp)> {
    let text = std::fs::read_to_string(format!("{ORACLES}/containerd-seccomp/profile.json")).unwrap();
    let Printed { base, with } = serde_json::from_str(&text).unwrap();
    let profile = |(name, change): (&String, &Change)| {
        let capability: Capability = serde_json::from_value(name.as_str().into()).unwrap();
        let mut profile = base.clone();
        let kept = base.syscalls().iter().flatten().filter(|entry| !change.removed.contains(entry));
        profile.set_syscalls(Some(kept.chain(&change.added).cloned().collect()));
        (Some(capability), profile)
    };
    let profiles = with.iter().map(profile).chain([(None, base.clone())]);
    profiles.collect()
}

/// Where podrun's profile is not containerd's: the call, the capability that it takes, and why.
const DIFFERENCES: &[(&str, Option<Capability>, &str)] = &[(
    "open_tree_attr",
    Some(Capability::SysAdmin),
    "open_tree and mount_setattr in one call, both of which it allows",
)];

#[test]
fn the_default_profile_is_containerds() {
    let host = Arch::ScmpArchX86_64;
    let mut used = 0;
    let profiles = containerds();
    assert_eq!(profiles.len(), 42);
    for (capability, theirs) in profiles {
        let entries = theirs.syscalls().as_deref().unwrap_or_default();
        let told_apart = entries.iter().filter(|entry| entry.args().as_ref().is_some_and(|args| !args.is_empty()));
        assert!(told_apart.flat_map(|entry| entry.names()).all(|name| TOLD_APART.contains(&name.as_str())));
        let ours = compile(&default_profile(capability, host), host).unwrap().filter;
        let theirs = compile(&theirs, host).unwrap();
        assert_eq!(theirs.warnings, [] as [&str; 0], "a name that no table has");
        for (name, call) in CALLS.iter().flat_map(|(name, _)| probes(name)) {
            let (is, should) = (run(&ours, &call).0, run(&theirs.filter, &call).0);
            let reason = DIFFERENCES.iter().find(|(other, with, _)| *other == name && *with == capability);
            assert_eq!(is != should, reason.is_some(), "{name} with {capability:?}: {is:x}, not {should:x}: {call:x?}");
            used += usize::from(reason.is_some());
        }
    }
    assert!(used >= DIFFERENCES.len(), "a difference that is none any more");
}

/// What containerd decides by arguments, all of them by the first; and what podrun might confuse with them.
const TOLD_APART: &[&str] = &["socket", "personality", "clone", "clone3", "socketcall"];

/// Calls of every ABI, with first arguments that could be told apart.
fn probes(name: &'static str) -> impl Iterator<Item = (&'static str, Call)> {
    let many = TOLD_APART.contains(&name);
    let (few, bits) = if many { (0..64, 0..64) } else { (0..2, 0..0) };
    let firsts: Vec<u64> = few.chain(bits.map(|bit| 1 << bit)).chain([0x2_0008, 0xffff_ffff, u64::MAX]).collect();
    let numbers = [Abi::X86_64, Abi::X86, Abi::X32].map(|abi| (abi.audit(), number(abi, name)));
    let calls = numbers.into_iter().filter_map(|(arch, number)| Some((arch, number?)));
    calls.flat_map(move |(arch, number)| {
        let with = move |first| (name, Call { arch, number, args: [first, 0, 0, 0, 0, 0] });
        firsts.clone().into_iter().map(with)
    })
}

/// The price of a call in instructions: podrun's programs are shorter, and shorter to run, than what runc loads.
#[test]
fn the_default_profile_costs_less_than_libseccomps() {
    let host = Arch::ScmpArchX86_64;
    let profile = default_profile([], host);
    let ours = compile(&profile, host).unwrap().filter;
    let Some(answers) = ask(question(&profile, host)) else { return };
    let theirs = program(&answers[0]);
    // runc's stub for newer calls runs first: two loads, and three comparisons on x86_64.
    const STUB: usize = 5;
    let (mut steps, mut worst, mut calls) = ([0, 0], [0, 0], 0);
    for number in CALLS.iter().filter_map(|(name, _)| number(Abi::X86_64, name)) {
        let call = Call { arch: 0xc000_003e, number, args: [0; 6] };
        let each = [run(&ours, &call).1, run(&theirs, &call).1 + STUB];
        calls += 1;
        for side in [0, 1] {
            steps[side] += each[side];
            worst[side] = worst[side].max(each[side]);
        }
    }
    super::machine::say(&format!(
        "default profile: {} instructions, {} for a call on average, {} at most; libseccomp: {}, {}, {}",
        ours.len(),
        steps[0] / calls,
        worst[0],
        theirs.len(),
        steps[1] / calls,
        worst[1],
    ));
    assert!(2 * steps[0] <= steps[1] && 2 * worst[0] <= worst[1] && 3 * ours.len() <= theirs.len());
}
