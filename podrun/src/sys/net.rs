//! The few network calls that need no netlink: ioctls of netdevice(7).

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// SIOCGIFFLAGS and SIOCSIFFLAGS: turns IFF_UP of the interface `name` off, in the calling thread's network namespace.
pub fn set_link_down(name: &str) -> io::Result<()> {
    let (socket, mut request) = about(name)?;
    // SAFETY: SIOCGIFFLAGS reads the name, which is NUL-terminated since `about` leaves the last byte zero, and writes
    // `ifr_flags`; the kernel copies exactly one `ifreq`, which `request` is.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request) })?;
    // SAFETY: the call above has just written `ifru_flags`, and every bit pattern is a valid short.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags & !UP;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, name and flags, both set.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) })?;
    Ok(())
}

/// SIOCETHTOOL with ETHTOOL_GLINK: whether the link `name` has a carrier. Since Linux 6.8 the kernel first finishes
/// what a change of carrier has left to its link watch (netdevice's queue and, for a bridge's port, its state).
pub fn has_carrier(name: &str) -> io::Result<bool> {
    let (socket, mut request) = about(name)?;
    let mut value = EthtoolValue { cmd: ETHTOOL_GLINK, data: 0 };
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL reads one `ifreq` and, through `ifr_data`, for this command reads and writes one
    // `ethtool_value`; both live on this stack beyond the call.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) })?;
    Ok(value.data != 0)
}

/// struct ethtool_value of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

const ETHTOOL_GLINK: u32 = 0x0a;

/// SIOCGIFINDEX: the index of the interface that has `name` as its name or as an alternative name.
pub fn link_index(name: &str) -> nix::Result<u32> {
    nix::net::if_::if_nametoindex(name)
}

const UP: i16 = 1; // IFF_UP, as wide as ifr_flags is

fn about(name: &str) -> io::Result<(OwnedFd, libc::ifreq)> {
    if name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        return Err(Errno::ENODEV.into());
    }
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: an `ifreq` is bytes, integers and pointers; all zero is a value of each.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok((socket, request))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_can_have_are_no_device() {
        for name in ["sixteen-bytes-xx", "a\0b", "nosuch0"] {
            let err = set_link_down(name).unwrap_err();
            assert_eq!(err.raw_os_error(), Some(libc::ENODEV), "{name:?}");
            assert!(has_carrier(name).is_err(), "{name:?}");
        }
        assert_eq!(link_index("nosuch0"), Err(Errno::ENODEV));
        assert_eq!(link_index("lo"), Ok(1));
        assert!(has_carrier("lo").is_ok());
    }
}
