//! The compiler's last judge: the running kernel. A filter belongs to a thread and to what it starts, so a thread of
//! its own loads it, starts tests/oracles/calls.c under it, and ends.

#![forbid(unsafe_code)]

use super::compile;
use super::default::default_profile;
use super::machine;
use super::native;
use super::reference;
use super::reference::Dice;
use super::reference::Mix;
use super::tables::CALLS;
use crate::sys::seccomp::FILTER_FLAG_NEW_LISTENER;
use crate::sys::seccomp::Instruction;
use crate::sys::seccomp::set_mode_filter;
use oci_spec::runtime::Arch;
use oci_spec::runtime::LinuxSeccomp;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

fn calls() -> Option<&'static PathBuf> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let can = native().is_ok_and(|host| host == Arch::ScmpArchX86_64);
    let built = BUILT.get_or_init(|| can.then(|| machine::built("calls", &[])).flatten());
    if built.is_none() {
        machine::skipped("no cc, or not x86_64");
    }
    built.as_ref()
}

fn under<T: Send>(flags: u32, filter: &[Instruction], act: impl FnOnce(Option<OwnedFd>) -> T + Send) -> T {
    std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            nix::sys::prctl::set_no_new_privs().unwrap();
            act(set_mode_filter(flags, filter).unwrap())
        });
        there.join().unwrap()
    })
}

/// The errno of each call, and the signal that ended the program.
fn answers(profile: &LinuxSeccomp, asked: &[&str]) -> Option<(Vec<i32>, Option<i32>)> {
    let calls = calls()?;
    let program = compile(profile, Arch::ScmpArchX86_64).unwrap();
    let output = under(program.flags, &program.filter, |_| Command::new(calls).args(asked).output().unwrap());
    let errnos = String::from_utf8(output.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    Some((errnos, output.status.signal()))
}

#[test]
fn the_default_profile_does_in_the_kernel_what_it_promises() {
    const WITHOUT_CAPABILITIES: &[(&str, i32)] = &[
        ("64:39", 0),                       // getpid
        ("64:250:0:-3", libc::EPERM),       // keyctl: keyrings are not divided by namespaces
        ("64:425:1", libc::EPERM),          // io_uring_setup
        ("64:272:0x04000000", libc::EPERM), // unshare(CLONE_NEWUTS)
        ("64:56:0x04000000", libc::EPERM),  // clone(CLONE_NEWUTS)
        ("64:435", libc::ENOSYS),           // clone3, so that C libraries use clone
        ("64:467", libc::ENOSYS),           // newer than what the profile names without CAP_SYS_ADMIN
        ("64:1000", libc::ENOSYS),          // newer than anything
        ("64:41:1:1", 0),                   // socket(AF_UNIX)
        ("64:41:38:5", libc::EPERM),        // socket(AF_ALG)
        ("64:41:40:1", libc::EPERM),        // socket(AF_VSOCK)
        ("64:135:0xffffffff", 0),           // personality: which one is it?
        ("64:135:0x40000", libc::EPERM),    // personality(ADDR_NO_RANDOMIZE)
        ("32:20", 0),                       // getpid of 32-bit programs
        ("32:288:0:-3", libc::EPERM),       // their keyctl
        ("32:1000", libc::ENOSYS),          // and what is newer
    ];
    let asked: Vec<&str> = WITHOUT_CAPABILITIES.iter().map(|(call, _)| *call).collect();
    let Some((errnos, signal)) = answers(&default_profile([], Arch::ScmpArchX86_64), &asked) else { return };
    assert_eq!(signal, None);
    let should: Vec<(&str, i32)> = WITHOUT_CAPABILITIES.to_vec();
    assert_eq!(asked.into_iter().zip(errnos).collect::<Vec<_>>(), should);
}

/// pitfalls: programs start threads with clone3 first, and must survive its refusal.
#[test]
fn threads_start_under_the_default_profile() {
    let host = native().unwrap();
    let program = compile(&default_profile([], host), host).unwrap();
    let answer = under(program.flags, &program.filter, |_| std::thread::spawn(|| 42).join().unwrap());
    assert_eq!(answer, 42);
}

#[test]
fn a_call_of_an_abi_that_is_not_listed_kills() {
    let profile: LinuxSeccomp = serde_json::from_str(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).unwrap();
    let Some((errnos, signal)) = answers(&profile, &["64:39", "32:20"]) else { return };
    assert_eq!((errnos.as_slice(), signal), ([0].as_slice(), Some(libc::SIGSYS)));
}

#[test]
fn a_profile_that_notifies_has_a_listener() {
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent", "syscalls":
        [{"names": ["swapon"], "action": "SCMP_ACT_NOTIFY"}]}"#;
    let program = compile(&serde_json::from_str(profile).unwrap(), native().unwrap()).unwrap();
    assert!(program.notify && program.flags & FILTER_FLAG_NEW_LISTENER != 0);
    assert!(under(program.flags, &program.filter, |listener| listener.is_some()));
    assert!(under(0, &program.filter, |listener| listener.is_none()));
}

/// The kernel checks every instruction of a program, even those that an ALLOW in front keeps from being run.
#[test]
fn the_kernel_takes_every_program() {
    let names: Vec<&str> = CALLS.iter().map(|(name, _)| *name).collect();
    let allow = Instruction { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
    for seed in 0..300 {
        let profile = reference::profile(&mut Dice::new(seed), Mix::Any, &names);
        let mut filter = compile(&profile, Arch::ScmpArchX86_64).unwrap().filter;
        filter.insert(0, allow);
        under(0, &filter, |_| ());
    }
    let broken = [allow, Instruction { code: 0x15, jt: 9, jf: 9, k: 0 }, allow];
    nix::sys::prctl::set_no_new_privs().unwrap();
    assert_eq!(set_mode_filter(0, &broken).unwrap_err(), nix::errno::Errno::EINVAL);
}
