//! A profile, read: every word checked, every default decided, one rule per name.

#![forbid(unsafe_code)]

use super::abi;
use super::abi::Abi;
use super::abi::Row;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::sys::seccomp;
use oci_spec::runtime::Arch;
use oci_spec::runtime::LinuxSeccomp;
use oci_spec::runtime::LinuxSeccompAction;
use oci_spec::runtime::LinuxSeccompArg;
use oci_spec::runtime::LinuxSeccompFilterFlag;
use oci_spec::runtime::LinuxSeccompOperator;
use oci_spec::runtime::LinuxSyscall;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

#[derive(Debug)]
pub(super) struct Profile<'a> {
    /// SECCOMP_RET_ with its data.
    pub(super) default: u32,
    pub(super) abis: Vec<Abi>,
    pub(super) flags: u32,
    pub(super) notify: bool,
    pub(super) warnings: Vec<String>,
    rules: Vec<Rule<'a>>,
    /// Every call that the profile names, with or without effect: what its author knew.
    known: Vec<&'static Row>,
}

#[derive(Debug)]
struct Rule<'a> {
    call: &'static Row,
    action: u32,
    when: &'a [LinuxSeccompArg],
}

/// What one argument must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Condition {
    pub(super) arg: u32,
    pub(super) test: Test,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Test {
    /// From the first to the second, both included.
    Within(u64, u64),
    /// All values but this one.
    Not(u64),
    /// These bits of the argument, these of them set.
    Bits(u64, u64),
    Never,
}

/// What becomes of one call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Always(u32),
    /// The first alternative that holds; else the default.
    FirstOf(Vec<Alternative>),
}

/// All conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alternative {
    pub(super) when: Vec<Condition>,
    pub(super) action: u32,
}

const AT: &str = "linux.seccomp";

fn wrong(path: &str, cause: impl std::fmt::Display) -> Error {
    Error::new(Kind::Invalid, format!("read {AT}.{path}"), cause)
}

pub(super) fn read(profile: &LinuxSeccomp, host: Arch) -> Result<Profile<'_>> {
    let entries = profile.syscalls().as_deref().unwrap_or_default();
    let default = action("defaultErrnoRet", profile.default_action(), profile.default_errno_ret())?;
    if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
        // init's own calls, before execve, would wait for a supervisor that does not have the descriptor yet.
        return Err(wrong("defaultAction", "SCMP_ACT_NOTIFY cannot be the default"));
    }
    let mut warnings = Vec::new();
    let abis = abis(profile.architectures().as_deref().unwrap_or_default(), host, &mut warnings)?;
    let notify = entries.iter().any(|entry| entry.action() == LinuxSeccompAction::ScmpActNotify);
    if notify && profile.listener_path().is_none() {
        return Err(wrong("listenerPath", "missing, and a rule has SCMP_ACT_NOTIFY"));
    }
    // config-linux.md: "This field MUST NOT be set if listenerPath is not set."
    if profile.listener_metadata().is_some() && profile.listener_path().is_none() {
        return Err(wrong("listenerMetadata", "set, and there is no listenerPath"));
    }
    let flags = flags(profile.flags().as_deref(), notify, &mut warnings);
    let (mut rules, mut known, mut unknown) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (index, entry) in entries.iter().enumerate() {
        let terms = terms(&format!("syscalls[{index}]"), entry)?;
        for name in entry.names() {
            let Some(call) = abi::call(name) else {
                unknown.insert(name.as_str());
                continue;
            };
            known.push(call);
            // A rule that repeats the default changes nothing, so it does not outrank others either.
            if terms.action != default {
                rules.extend(terms.alternatives.iter().map(|when| Rule { call, action: terms.action, when }));
            }
        }
    }
    if !unknown.is_empty() {
        let names = unknown.into_iter().collect::<Vec<_>>().join(", ");
        warnings.push(format!("{AT}.syscalls: unknown here, so without effect: {names}"));
    }
    let profile = Profile { default, abis, flags, notify, warnings, rules, known };
    if notify {
        profile.check_hand_over()?;
    }
    Ok(profile)
}

/// The host's own ABI always counts; an ABI that its kernel does not speak has no effect.
fn abis(listed: &[Arch], host: Arch, warnings: &mut Vec<String>) -> Result<Vec<Abi>> {
    let spoken = abi::spoken_by(host)?;
    let mut wanted = vec![spoken[0]];
    for (index, arch) in listed.iter().enumerate() {
        match Abi::of(*arch) {
            _ if *arch == Arch::ScmpArchNative => {}
            Some(abi) if spoken.contains(&abi) => wanted.push(abi),
            _ => warnings.push(format!("{AT}.architectures[{index}]: {arch} does not run here, so without effect")),
        }
    }
    Ok(spoken.iter().copied().filter(|abi| wanted.contains(abi)).collect())
}

fn flags(listed: Option<&[LinuxSeccompFilterFlag]>, notify: bool, warnings: &mut Vec<String>) -> u32 {
    use LinuxSeccompFilterFlag as Flag;
    // No list at all is not an empty list: runc's default, as containers are made with it everywhere.
    let listed = listed.unwrap_or(&[Flag::SeccompFilterFlagSpecAllow]);
    let mut flags = if notify { seccomp::FILTER_FLAG_NEW_LISTENER } else { 0 };
    for (index, flag) in listed.iter().enumerate() {
        flags |= match flag {
            Flag::SeccompFilterFlagLog => seccomp::FILTER_FLAG_LOG,
            Flag::SeccompFilterFlagSpecAllow => seccomp::FILTER_FLAG_SPEC_ALLOW,
            // The filter is loaded in a process of one thread. With a listener the kernel refuses the flag.
            Flag::SeccompFilterFlagTsync => 0,
            Flag::SeccompFilterFlagWaitKillableRecv if notify => seccomp::FILTER_FLAG_WAIT_KILLABLE_RECV,
            Flag::SeccompFilterFlagWaitKillableRecv => {
                warnings.push(format!("{AT}.flags[{index}]: {flag} without SCMP_ACT_NOTIFY, so without effect"));
                0
            }
        };
    }
    flags
}

fn action(path: &str, action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32> {
    use LinuxSeccompAction as Action;
    let takes_data = matches!(action, Action::ScmpActErrno | Action::ScmpActTrace);
    match errno {
        // config-linux.md: "When the action doesn't support an errno, the runtime MUST print and error and fail."
        Some(_) if !takes_data => return Err(wrong(path, format!("{action} does not return an errno"))),
        // SECCOMP_RET_DATA has 16 bits; a value cut to fit would be another errno, or success.
        Some(errno) if errno > libc::SECCOMP_RET_DATA => {
            return Err(wrong(path, format!("{errno} is more than {}", libc::SECCOMP_RET_DATA)));
        }
        _ => {}
    }
    let data = errno.unwrap_or(libc::EPERM.unsigned_abs());
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        Action::ScmpActErrno => libc::SECCOMP_RET_ERRNO | data,
        Action::ScmpActNotify => libc::SECCOMP_RET_USER_NOTIF,
        Action::ScmpActTrace => libc::SECCOMP_RET_TRACE | data,
        Action::ScmpActLog => libc::SECCOMP_RET_LOG,
        Action::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
    })
}

/// What an entry says of each of its names.
struct Terms<'a> {
    action: u32,
    /// More than one where an argument has several conditions, which then are alternatives (runc, since 2016).
    alternatives: Vec<&'a [LinuxSeccompArg]>,
}

fn terms<'a>(path: &str, entry: &'a LinuxSyscall) -> Result<Terms<'a>> {
    let action = action(&format!("{path}.errnoRet"), entry.action(), entry.errno_ret())?;
    check_names(path, entry)?;
    let when = entry.args().as_deref().unwrap_or_default();
    if let Some(bad) = when.iter().position(|arg| index(arg).is_none()) {
        return Err(wrong(&format!("{path}.args[{bad}].index"), format!("{} is not 0 to 5", when[bad].index())));
    }
    let arguments: BTreeSet<usize> = when.iter().map(LinuxSeccompArg::index).collect();
    let alternatives = if arguments.len() < when.len() { when.chunks(1).collect() } else { vec![when] };
    Ok(Terms { action, alternatives })
}

fn check_names(path: &str, entry: &LinuxSyscall) -> Result<()> {
    if entry.names().is_empty() {
        return Err(wrong(&format!("{path}.names"), "empty"));
    }
    for (index, name) in entry.names().iter().enumerate() {
        let wrong = |cause| Err(wrong(&format!("{path}.names[{index}]"), cause));
        if name.is_empty() {
            return wrong("empty");
        }
    }
    Ok(())
}

impl Profile<'_> {
    /// init sends the listener with the first of these calls, and hears with the second that it has arrived: neither may be
    /// denied, nor wait for a supervisor who does not have the descriptor yet.
    fn check_hand_over(&self) -> Result<()> {
        let pass = [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_LOG];
        let native = self.calls(self.abis[0]);
        for name in ["sendmsg", "read"] {
            let number = abi::call(name).and_then(|call| self.abis[0].number(call));
            let action = match native.iter().find(|(one, _)| Some(*one) == number) {
                Some((_, Outcome::Always(action))) => Some(*action),
                Some((_, Outcome::FirstOf(_))) => None,
                None => Some(self.default),
            };
            if !action.is_some_and(|action| pass.contains(&(action & libc::SECCOMP_RET_ACTION_FULL))) {
                let cause =
                    format!("SCMP_ACT_NOTIFY is used, and the listener is handed over by {name}, which must pass");
                return Err(wrong("syscalls", cause));
            }
        }
        Ok(())
    }

    /// The numbers of this ABI that are newer than all that the profile names: they answer ENOSYS, not the default's
    /// EPERM, for which C libraries do not fall back (runc's rule; moby#42680). None where the default lets calls
    /// pass, or the profile names no call at all.
    pub(super) fn newer(&self, abi: Abi) -> Vec<(u32, u32)> {
        let lenient = [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_LOG, libc::SECCOMP_RET_TRACE];
        if lenient.contains(&(self.default & libc::SECCOMP_RET_ACTION_FULL)) {
            return Vec::new();
        }
        // Arm has two stretches of numbers, each with its own newest call.
        let mut newest = BTreeMap::new();
        for number in self.known.iter().filter_map(|call| abi.number(call)) {
            let newest = newest.entry(abi.end_of_stretch(number)).or_insert(number);
            *newest = number.max(*newest);
        }
        newest.into_iter().filter(|(end, number)| number < end).map(|(end, number)| (number + 1, end)).collect()
    }

    /// The calls that this ABI has, by number.
    pub(super) fn calls(&self, abi: Abi) -> Vec<(u32, Outcome)> {
        let mut rules: Vec<(u32, Alternative)> = Vec::with_capacity(self.rules.len());
        for Rule { call, action, when } in &self.rules {
            let when: Vec<Condition> = when.iter().filter_map(|arg| condition(arg, abi)).collect();
            if let Some((whole, part)) = abi.multiplexed(call) {
                // The first argument says which call it is; the others stand where they stood (libseccomp's choice).
                let first = Condition { arg: 0, test: Test::Within(part, part) };
                let others = when.iter().copied().filter(|condition| condition.arg != 0);
                let when = std::iter::once(first).chain(others).collect();
                rules.push((whole, Alternative { when, action: *action }));
            }
            rules.extend(abi.number(call).map(|number| (number, Alternative { when, action: *action })));
        }
        // Stable: the rules of one call keep their order.
        rules.sort_by_key(|(number, _)| *number);
        rules.chunk_by(|(one, _), (other, _)| one == other).map(|rules| (rules[0].0, outcome(rules))).collect()
    }
}

/// The first rule without conditions outranks all others.
fn outcome(rules: &[(u32, Alternative)]) -> Outcome {
    match rules.iter().find(|(_, alternative)| alternative.when.is_empty()) {
        Some((_, always)) => Outcome::Always(always.action),
        None => Outcome::FirstOf(rules.iter().map(|(_, alternative)| alternative.clone()).collect()),
    }
}

/// One condition as this ABI compares it; none where every value passes. 32-bit ABIs have 32-bit arguments, and the
/// profile's values lose their high half (a -1 written with 64 bits is still -1).
fn condition(arg: &LinuxSeccompArg, abi: Abi) -> Option<Condition> {
    use LinuxSeccompOperator as Operator;
    let widest = abi.widest();
    let value = arg.value() & widest;
    let test = match arg.op() {
        Operator::ScmpCmpEq => Test::Within(value, value),
        Operator::ScmpCmpNe => Test::Not(value),
        Operator::ScmpCmpLe => Test::Within(0, value),
        Operator::ScmpCmpLt => value.checked_sub(1).map_or(Test::Never, |below| Test::Within(0, below)),
        Operator::ScmpCmpGe => Test::Within(value, widest),
        Operator::ScmpCmpGt if value == widest => Test::Never,
        Operator::ScmpCmpGt => Test::Within(value + 1, widest),
        Operator::ScmpCmpMaskedEq => Test::Bits(value, arg.value_two().unwrap_or_default() & value),
    };
    let passes_all = test == Test::Bits(0, 0) || test == Test::Within(0, widest);
    (!passes_all).then_some(Condition { arg: index(arg)?, test })
}

/// A call has six arguments.
fn index(arg: &LinuxSeccompArg) -> Option<u32> {
    u32::try_from(arg.index()).ok().filter(|index| *index < 6)
}
