//! The bare system calls of a whole bridged pod: a program that holds the namespaces, a veth with its peer born in the pod's
//! network namespace, address, route, containers one after the other, and the removal: the link taken off the bridge and
//! down, then left to the end of its namespace.

#![forbid(unsafe_code)]

use crate::container::{self, Pod};
use crate::link::Links;
use crate::sys;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};

const NEW: i32 = libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
const GATEWAY: [u8; 4] = [10, 99, 0, 1];

#[derive(Debug)]
pub(crate) struct Maker {
    links: Links,
    host: UdpSocket,
    bridge: i32,
    born: u32,
}

impl Maker {
    /// With a bridge of its own, in the network namespace that it is started in.
    pub(crate) fn new() -> io::Result<Self> {
        let mut links = Links::open()?;
        let host = UdpSocket::bind("0.0.0.0:0")?;
        match links.add_bridge(c"floor0") {
            // Another floor program's, in the same network.
            Err(err) if err.raw_os_error() == Some(libc::EEXIST) => {}
            other => other?,
        }
        sys::set_address(host.as_fd(), c"floor0", GATEWAY, [255, 255, 0, 0])?;
        sys::set_up(host.as_fd(), c"floor0", true)?;
        let bridge = sys::index(host.as_fd(), c"floor0")?;
        Ok(Self { links, host, bridge, born: 0 })
    }

    /// Up, `containers` runs, gone.
    pub(crate) fn once(
        &mut self,
        holder: &CStr,
        rootfs: &CStr,
        containers: u32,
        cgroup: Option<&OwnedFd>,
    ) -> io::Result<()> {
        self.born += 1;
        let [.., high, low] = (self.born % 60_000 + 2).to_be_bytes();
        let (gate, opener) = pipe()?;
        let pause = sys::clone3(NEW, cgroup.map(AsFd::as_fd), || hold(gate, holder, [10, 99, high, low]))?;
        let link = container::text(&format!("fl{}-{}", std::process::id() % 100_000, self.born))?;
        self.links.add_veth(&link, pause, self.bridge)?;
        sys::set_up(self.host.as_fd(), &link, true)?;
        File::from(opener).write_all(b"g")?;
        let pod = Pod::of(pause)?;
        for _ in 0..containers {
            container::run(&pod, rootfs, cgroup)?;
        }
        self.links.set_master(&link, 0)?;
        sys::set_up(self.host.as_fd(), &link, false)?;
        drop(pod);
        kill(Pid::from_raw(pause), Signal::SIGKILL)?;
        waitpid(Pid::from_raw(pause), None)?;
        Ok(())
    }
}

impl Maker {
    /// A pair, its peer born in the pod and configured there: address, up, a route.
    pub(crate) fn wire(&mut self, pod: i32, n: u32) -> io::Result<()> {
        let [.., high, low] = (n % 60_000 + 2).to_be_bytes();
        self.links.add_veth(&wire_name(n)?, pod, self.bridge)?;
        sys::set_up(self.host.as_fd(), &wire_name(n)?, true)?;
        let (home, there) = (File::open("/proc/self/ns/net")?, File::open(format!("/proc/{pod}/ns/net"))?);
        setns(there, CloneFlags::CLONE_NEWNET)?;
        let socket = UdpSocket::bind("0.0.0.0:0");
        setns(home, CloneFlags::CLONE_NEWNET)?;
        let socket = socket?;
        sys::set_address(socket.as_fd(), c"eth0", [10, 99, high, low], [255, 255, 0, 0])?;
        sys::set_up(socket.as_fd(), c"eth0", true)?;
        sys::default_route(socket.as_fd(), GATEWAY)
    }
}

fn wire_name(n: u32) -> io::Result<std::ffi::CString> {
    container::text(&format!("fw{}-{n}", std::process::id() % 100_000))
}

pub(crate) fn unwire(n: u32) -> io::Result<()> {
    let name = wire_name(n)?.into_string().map_err(io::Error::other)?;
    std::process::Command::new("ip").args(["link", "del", &name]).status().map(drop)
}

fn hold(gate: OwnedFd, holder: &CStr, address: [u8; 4]) -> io::Result<()> {
    nix::unistd::sethostname("floor")?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    sys::set_up(socket.as_fd(), c"lo", true)?;
    File::from(gate).read_exact(&mut [0])?;
    sys::set_address(socket.as_fd(), c"eth0", address, [255, 255, 0, 0])?;
    sys::set_up(socket.as_fd(), c"eth0", true)?;
    sys::default_route(socket.as_fd(), GATEWAY)?;
    Err(sys::execve(holder))
}
