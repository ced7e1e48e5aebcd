//! passt's pasta(1): the way out, and in, of a pod whose user is not root.
//!
//! One process a pod. It is in the host's network namespace with the user's rights, holds the other end of the pod's `eth0`
//! (a tap), and turns packets into sockets: a connection that comes in to a published port reaches the pod from the address
//! that it has (podman's proxy of CVE-2021-20199 made it 127.0.0.1). The pod has the host's own addresses.
//!
//! `pasta.json` in the pod's directory says that a pod has one, before there is one. Which process it is tells `pasta.pid`,
//! written by itself, or else its command line, on which that file's name stands: so it is found by the pod's id after any
//! crash, and is no stranger that got its number.
//!
//! What is asked of it, and why: docs/decisions/0021.

#![forbid(unsafe_code)]

use crate::cgroup::Tasks;
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::id::PodId;
use crate::net::Attachment;
use crate::net::cidr::Cidr;
use crate::net::definition::Driver;
use crate::net::lock::{Hold, gone, lock, replace};
use crate::net::ports::{self, Port};
use crate::net::seen::{self, Seen};
use crate::programs;
use crate::roots::Roots;
use crate::spec::port::Protocol;
use crate::sys::clone::{Clone, Exit, clone3, exit, pidfd_open, pidfd_send_signal, pids, poll_one, wait};
use crate::sys::cred::{self, Pointers};
use crate::sys::{fd, ns};
use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The network's name in records, and the pod's interface.
pub const NAME: &str = "pasta";
const INTERFACE: &str = "eth0";

/// What it cannot do without.
pub const TUN: &str = "/dev/net/tun";

/// Where it is started: the cgroup of the pod's keepers, which a monitor's child is in already.
#[derive(Debug, Clone, Copy, Default)]
pub struct Home<'a> {
    pub unified: Option<BorrowedFd<'a>>,
    pub tasks: Option<&'a Tasks>,
}

fn mark(roots: &Roots, pod: &PodId) -> PathBuf {
    roots.pod(pod).join("pasta.json")
}

fn pid_file(roots: &Roots, pod: &PodId) -> PathBuf {
    roots.pod(pod).join("pasta.pid")
}

/// Whether the pod has one, or is to have one.
pub fn is_of(roots: &Roots, pod: &PodId) -> bool {
    mark(roots, pod).exists()
}

/// The pod's interface, once pasta has made it.
pub fn attach(roots: &Roots, pod: &PodId, netns: BorrowedFd<'_>, home: Home<'_>) -> Result<Attachment> {
    refuse_without()?;
    replace(&mark(roots, pod), b"{\"version\":1}\n")?;
    ensure(roots, pod, netns, home)?;
    fault::step("create-pod.linked").doing(|| "attach it to pasta".to_owned())?;
    attachment(netns)
}

/// What it cannot do without, told by name: its own words for it are of little help.
fn refuse_without() -> Result<()> {
    let doing = || "give the pod a way out by pasta".to_owned();
    if program().is_none() {
        return Err(Error::new(Kind::Unsupported, doing(), "pasta is not installed")
            .hint("install the package passt, or give the pod --network none or --network host"));
    }
    match fs::OpenOptions::new().read(true).write(true).open(TUN) {
        Ok(_) => Ok(()),
        Err(err) => {
            Err(Err::<(), _>(err).doing(|| format!("open {TUN}")).unwrap_err().within(doing()).kind(Kind::Unsupported))
                .map_err(|err: Error| err.hint(tun_cure()))
        }
    }
}

/// How /dev/net/tun is had.
pub fn tun_cure() -> String {
    match Path::new(TUN).exists() {
        true => format!("as root: chmod 0666 {TUN}, which every distribution's udev does"),
        false => "as root: modprobe tun".to_owned(),
    }
}

pub fn program() -> Option<PathBuf> {
    programs::anywhere("pasta")
}

/// Starts it unless it is there. Two who want the same make one.
pub fn ensure(roots: &Roots, pod: &PodId, netns: BorrowedFd<'_>, home: Home<'_>) -> Result<()> {
    let _starting = lock(&roots.pod(pod).join("pasta.lock"), Hold::Exclusive)?;
    // Gone, or on its way out.
    if !is_of(roots, pod) || find(roots, pod).is_some() {
        return Ok(());
    }
    start(roots, pod, netns, home)
}

/// Changes the pod's ports while it is ended, so that what it gives up is free, and starts it again with those that there are
/// then. Who else wants one waits meanwhile.
pub fn change<T>(
    roots: &Roots,
    pod: &PodId,
    netns: BorrowedFd<'_>,
    home: Home<'_>,
    change: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let _starting = lock(&roots.pod(pod).join("pasta.lock"), Hold::Exclusive)?;
    end(roots, pod);
    let changed = change();
    let started = start(roots, pod, netns, home);
    changed.and_then(|changed| started.map(|()| changed))
}

/// Ends it for good. From the id alone, whatever a crash left; twice is fine.
pub fn detach(roots: &Roots, pod: &PodId) -> Result<()> {
    if !is_of(roots, pod) {
        return Ok(());
    }
    let _starting = lock(&roots.pod(pod).join("pasta.lock"), Hold::Exclusive)?;
    end(roots, pod);
    gone(fs::remove_file(mark(roots, pod))).doing(|| "forget pasta".to_owned())
}

/// Within the lock.
fn end(roots: &Roots, pod: &PodId) {
    if let Some(process) = find(roots, pod) {
        let _ = pidfd_send_signal(process.as_fd(), libc::SIGKILL);
        let _ = poll_one(process.as_fd(), libc::POLLIN, 2000);
    }
    let _ = fs::remove_file(pid_file(roots, pod));
}

/// The pod's pasta, while it lives.
pub fn find(roots: &Roots, pod: &PodId) -> Option<OwnedFd> {
    let file = pid_file(roots, pod);
    let written = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
    written.and_then(|pid| open(pid, &file)).or_else(|| pids().ok()?.find_map(|pid| open(pid, &file)))
}

/// The process, if the pod's pid file stands on its command line: opened first, looked at then.
fn open(pid: i32, file: &Path) -> Option<OwnedFd> {
    let is_its = || {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == file.as_os_str().as_encoded_bytes())
    };
    if !is_its() {
        return None;
    }
    let process = pidfd_open(pid).ok()?;
    is_its().then_some(process)
}

/// Pure: the arguments, and on descriptor 3 the pod's network namespace. pasta has given up its capabilities when it opens
/// that, and so could not open a path of somebody's /proc.
fn arguments(pid_file: &Path, ports: &[Port]) -> Vec<String> {
    let mut words: Vec<String> =
        ["pasta", "--quiet", "--config-net", "--ns-ifname", INTERFACE].map(str::to_owned).into();
    words.extend(["--netns", "/proc/self/fd/3", "--no-netns-quit"].map(str::to_owned));
    // Else the gateway's address would lead to what listens on the host's loopback.
    words.push("--no-map-gw".to_owned());
    words.extend(["--tcp-ns", "none", "--udp-ns", "none"].map(str::to_owned));
    for (protocol, flag) in [(Protocol::Tcp, "--tcp-ports"), (Protocol::Udp, "--udp-ports")] {
        let specs = specs(ports.iter().filter(|port| port.protocol == protocol));
        let specs = if specs.is_empty() { vec!["none".to_owned()] } else { specs };
        words.extend(specs.into_iter().flat_map(|spec| [flag.to_owned(), spec]));
    }
    words.extend(["--pid".to_owned(), pid_file.to_string_lossy().into_owned()]);
    words
}

/// `ADDRESS/FIRST-LAST:FIRST-LAST`, what lies side by side in one.
fn specs<'a>(ports: impl Iterator<Item = &'a Port>) -> Vec<String> {
    let mut all: Vec<&Port> = ports.collect();
    all.sort_by_key(|port| (port.address, port.host));
    let beside = |a: &&Port, b: &&Port| {
        a.address == b.address && a.host.checked_add(1) == Some(b.host) && a.port.checked_add(1) == Some(b.port)
    };
    let spec = |run: &[&Port]| {
        let (first, last) = (run[0], run[run.len() - 1]);
        let address = first.address.map(|address| format!("{address}/")).unwrap_or_default();
        match run.len() {
            1 => format!("{address}{}:{}", first.host, first.port),
            _ => format!("{address}{}-{}:{}-{}", first.host, last.host, first.port, last.port),
        }
    };
    all.chunk_by(beside).map(spec).collect()
}

/// What pasta cannot carry.
pub fn refuse(ports: &[Port]) -> Result<()> {
    let doing = || "publish the pod's ports".to_owned();
    if let Some(port) = ports.iter().find(|port| port.protocol == Protocol::Sctp) {
        return Err(Error::new(Kind::Unsupported, doing(), format!("{port}: pasta carries tcp and udp")));
    }
    // It keeps one target for each port of the host, whatever the address.
    for (n, one) in ports.iter().enumerate() {
        let other = ports[..n]
            .iter()
            .find(|other| (other.protocol, other.host) == (one.protocol, one.host) && other.port != one.port);
        if let Some(other) = other {
            let cause = format!("pasta leads one port of the host to one of the pod, and not {other} beside {one}");
            return Err(Error::new(Kind::Unsupported, doing(), cause));
        }
    }
    Ok(())
}

/// Within the lock. It goes into the background once it is ready: its parent ends with 0 then, or with its message.
fn start(roots: &Roots, pod: &PodId, netns: BorrowedFd<'_>, home: Home<'_>) -> Result<()> {
    let doing = || "start pasta".to_owned();
    let program = program().ok_or_else(|| {
        Error::new(Kind::Unsupported, doing(), "it is not installed").hint("install the package passt")
    })?;
    let published = ports::of(roots, pod);
    refuse(&published)?;
    let _ = fs::remove_file(pid_file(roots, pod));
    let words = arguments(&pid_file(roots, pod), &published).into_iter();
    let strings: std::result::Result<Vec<CString>, _> = words.map(CString::new).collect();
    let strings = strings.map_err(|_| Error::new(Kind::Invalid, doing(), "the run-root holds a NUL byte"))?;
    let program =
        CString::new(program.into_os_string().into_encoded_bytes()).map_err(std::io::Error::from).doing(doing)?;
    let (argv, envp) = (Pointers::new(strings), Pointers::new(Vec::new()));
    let (reader, writer) = std::io::pipe().doing(doing)?;
    let (netns, said) = (fd::dup_above(netns, 64).doing(doing)?, fd::dup_above(writer.as_fd(), 64).doing(doing)?);
    drop(writer);
    let child = clone3(&Clone { namespaces: 0, cgroup: home.unified }, || {
        let _ = become_pasta(&program, &argv, &envp, netns.as_fd(), said.as_fd(), home.tasks);
        exit(127)
    })
    .doing(doing)?;
    drop(said);
    let ended = wait(child.pidfd.as_fd()).doing(doing)?;
    match ended {
        Exit::Code(0) => Ok(()),
        _ => Err(refused(&reader, ended)),
    }
}

/// Between clone3 and execve: no allocation, no lock.
fn become_pasta(
    program: &CString,
    argv: &Pointers,
    envp: &Pointers,
    netns: BorrowedFd<'_>,
    said: BorrowedFd<'_>,
    tasks: Option<&Tasks>,
) -> std::io::Result<()> {
    cred::reset_signals();
    // Out of the caller's session: a Ctrl-C or a closed terminal there is not meant for the pod.
    cred::setsid()?;
    if let Some(tasks) = tasks {
        tasks.join()?;
    }
    let null = fd::open(c"/dev/null", libc::O_RDWR)?;
    fd::dup_to(null.as_fd(), 0)?;
    fd::dup_to(null.as_fd(), 1)?;
    fd::dup_to(said, 2)?;
    fd::dup_to(netns, 3)?;
    fd::close_on_exec_from(4);
    Err(cred::execve(program, argv, envp))
}

/// Its own words, all of them.
fn refused(said: &std::io::PipeReader, ended: Exit) -> Error {
    use crate::sys::pipe::set_nonblocking;
    let mut text = Vec::new();
    // Who went into the background in spite of it may hold the other end.
    let _ = set_nonblocking(said.as_fd());
    let _ = (&mut { said }).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    // Without a syslog it says so of each line.
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("Failed to send"));
    let words = lines.collect::<Vec<_>>().join("; ");
    let cause = if words.is_empty() { format!("it ended with {}", ended.code()) } else { words };
    Error::new(Kind::Kernel, "start pasta", cause)
        .hint("it takes addresses and routes of the host's way out; without one, --network none or host is what works")
}

/// What the interface got.
pub fn attachment(netns: BorrowedFd<'_>) -> Result<Attachment> {
    let (all, gateway) = look(netns)?;
    let missing = || Error::new(Kind::Kernel, "look at the pod's interface", format!("pasta made no {INTERFACE}"));
    let found = all.into_iter().find(|one| one.interface == INTERFACE).ok_or_else(missing)?;
    let is_own = |one: &Cidr| !matches!(one.address, IpAddr::V6(six) if six.is_unicast_link_local());
    Ok(Attachment {
        network: NAME.to_owned(),
        driver: Driver::Pasta,
        interface: found.interface,
        host_interface: None,
        addresses: found.addresses.into_iter().filter(is_own).collect(),
        gateway: gateway.map(IpAddr::V4),
        gateway6: None,
        default_route: true,
        mac: found.mac.unwrap_or_default(),
        mtu: found.mtu,
        bridge: None,
        dns: None,
        names: None,
    })
}

/// In a thread that stays there: whoever left the host's network namespace for a user's does not come back (setns(2)).
fn look(netns: BorrowedFd<'_>) -> Result<(Vec<Seen>, Option<Ipv4Addr>)> {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            ns::setns(netns, libc::CLONE_NEWNET).doing(|| "enter the pod's network namespace".to_owned())?;
            let routes = fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
            Ok((seen::here()?, gateway(&routes)))
        });
        inside.join().unwrap_or_else(|_| Err(Error::new(Kind::Kernel, "look at the pod's interface", "a thread died")))
    })
}

/// Pure: of the default route in /proc/net/route, whose addresses are as they lie in memory.
fn gateway(routes: &str) -> Option<Ipv4Addr> {
    routes.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let hex = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok();
        let is_default = words.first() == Some(&INTERFACE) && hex(1)? == 0 && hex(7)? == 0;
        is_default.then(|| hex(2)).flatten().map(|raw| Ipv4Addr::from(raw.to_ne_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(protocol: Protocol, address: Option<&str>, host: u16, port: u16) -> Port {
        Port { protocol, address: address.map(|text| text.parse().unwrap()), host, port }
    }

    #[test]
    fn ports_are_said_as_pasta_reads_them_and_neighbours_together() {
        use Protocol::{Tcp, Udp};
        let ports = [
            port(Tcp, None, 8081, 81),
            port(Tcp, None, 8080, 80),
            port(Tcp, Some("127.0.0.1"), 8080, 80),
            port(Udp, Some("::1"), 53, 53),
            port(Tcp, None, 9000, 9000),
        ];
        let words = arguments(Path::new("/run/p/pasta.pid"), &ports).join(" ");
        assert!(
            words.contains("--tcp-ports 8080-8081:80-81 --tcp-ports 9000:9000 --tcp-ports 127.0.0.1/8080:80 "),
            "{words}"
        );
        assert!(words.contains("--udp-ports ::1/53:53 --pid /run/p/pasta.pid"), "{words}");
        let none = arguments(Path::new("/p"), &[]).join(" ");
        assert!(none.contains("--tcp-ns none --udp-ns none --tcp-ports none --udp-ports none"), "{none}");
        let last = [port(Tcp, None, 65534, 1), port(Tcp, None, 65535, 2)];
        assert_eq!(specs(last.iter()), ["65534-65535:1-2"]);
    }

    #[test]
    fn what_pasta_cannot_carry_is_told() {
        use Protocol::{Sctp, Tcp};
        assert!(refuse(&[port(Sctp, None, 1, 1)]).unwrap_err().cause().contains("tcp and udp"));
        let two = [port(Tcp, Some("127.0.0.1"), 80, 1), port(Tcp, Some("127.0.0.2"), 80, 2)];
        assert!(refuse(&two).unwrap_err().cause().contains("one port of the host"));
        refuse(&[two[0], port(Tcp, Some("127.0.0.2"), 80, 1)]).unwrap();
    }

    #[test]
    fn the_gateway_is_read_as_the_kernel_shows_it() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
                      lo\t00000000\t01010101\t0003\t0\t0\t0\t00000000\n\
                      eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n\
                      eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\n";
        assert_eq!(gateway(routes), Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(gateway(""), None);
    }
}
