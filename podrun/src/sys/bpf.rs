//! bpf(2): loading device programs and attaching them to cgroup2 directories.

use nix::errno::Errno;
use nix::libc;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

// linux/bpf.h, enum bpf_cmd.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
/// enum bpf_attach_type.
const BPF_CGROUP_DEVICE: u32 = 6;
/// Programs of parents and later programs run too; a device is allowed when all of them allow it.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The part of `union bpf_attr` that BPF_PROG_LOAD had from Linux 4.17 on; the kernel takes what is missing as zero.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct ProgAttach {
    target_fd: libc::c_int,
    attach_bpf_fd: libc::c_int,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: libc::c_int,
}

impl ProgAttach {
    fn new(cgroup: &impl AsFd, program: &impl AsFd, attach_flags: u32) -> Self {
        Self {
            target_fd: cgroup.as_fd().as_raw_fd(),
            attach_bpf_fd: program.as_fd().as_raw_fd(),
            attach_type: BPF_CGROUP_DEVICE,
            attach_flags,
            replace_bpf_fd: 0,
        }
    }
}

/// Whole, since newer kernels answer in the last fields without a look at the size that they were given.
#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    target_fd: libc::c_int,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

#[repr(C)]
struct GetFdById {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// BPF_PROG_LOAD of a BPF_PROG_TYPE_CGROUP_DEVICE, each instruction as its 64 bits; `name` has at most 15 letters.
/// What the verifier has to say goes into `log`, if that is not empty.
pub fn load_cgroup_device(instructions: &[u64], name: &str, log: &mut [u8]) -> nix::Result<OwnedFd> {
    let mut prog_name = [0; 16];
    prog_name.iter_mut().take(15).zip(name.bytes()).for_each(|(to, from)| *to = from);
    let mut attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(instructions.len()).map_err(|_| Errno::E2BIG)?,
        insns: address(instructions.as_ptr()),
        license: address(c"Apache-2.0".as_ptr()),
        log_level: u32::from(!log.is_empty()),
        log_size: u32::try_from(log.len()).map_err(|_| Errno::E2BIG)?,
        log_buf: if log.is_empty() { 0 } else { address(log.as_mut_ptr()) },
        kern_version: 0,
        prog_flags: 0,
        prog_name,
        prog_ifindex: 0,
        expected_attach_type: BPF_CGROUP_DEVICE,
    };
    // SAFETY: ProgLoad is laid out as the kernel's union for this command; `insns` points to `insn_cnt` instructions,
    // `license` to a C string and `log_buf` to `log_size` writable bytes, all borrowed until the call has returned.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attr) }?;
    owned(fd)
}

/// BPF_PROG_ATTACH with BPF_F_ALLOW_MULTI: the program stays as long as the cgroup does.
pub fn attach_cgroup_device(cgroup: impl AsFd, program: impl AsFd) -> nix::Result<()> {
    let mut attr = ProgAttach::new(&cgroup, &program, BPF_F_ALLOW_MULTI);
    // SAFETY: ProgAttach is laid out as the kernel's union for this command and holds no pointer; both descriptors
    // are borrowed for the whole call.
    unsafe { bpf(BPF_PROG_ATTACH, &mut attr) }.map(drop)
}

/// BPF_PROG_DETACH.
pub fn detach_cgroup_device(cgroup: impl AsFd, program: impl AsFd) -> nix::Result<()> {
    let mut attr = ProgAttach::new(&cgroup, &program, 0);
    // SAFETY: as for attach.
    unsafe { bpf(BPF_PROG_DETACH, &mut attr) }.map(drop)
}

/// BPF_PROG_QUERY: the ids of the device programs attached to this directory itself, at most 64 of them.
pub fn query_cgroup_device(cgroup: impl AsFd) -> nix::Result<Vec<u32>> {
    let mut ids = [0u32; 64];
    let mut attr = ProgQuery {
        target_fd: cgroup.as_fd().as_raw_fd(),
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: address(ids.as_mut_ptr()),
        prog_cnt: 64,
        ..ProgQuery::default()
    };
    // SAFETY: ProgQuery is laid out as the kernel's union for this command; `prog_ids` points to `prog_cnt` writable
    // numbers that live until the call has returned.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    Ok(ids.into_iter().zip(0..attr.prog_cnt).map(|(id, _)| id).collect())
}

/// BPF_PROG_GET_FD_BY_ID.
pub fn program_by_id(prog_id: u32) -> nix::Result<OwnedFd> {
    let mut attr = GetFdById { prog_id, next_id: 0, open_flags: 0 };
    // SAFETY: GetFdById is laid out as the kernel's union for this command and holds no pointer.
    let fd = unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attr) }?;
    owned(fd)
}

/// # Safety
/// `attr` is what `command` takes as its part of `union bpf_attr`, and every pointer in it is valid for the call.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> nix::Result<libc::c_long> {
    let size = libc::c_uint::try_from(size_of::<T>()).map_err(|_| Errno::E2BIG)?;
    // SAFETY: the kernel reads and writes `size` bytes at `attr`, which is exactly the value that we borrow; the rest
    // is the caller's promise.
    Errno::result(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size) })
}

fn owned(fd: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = libc::c_int::try_from(fd).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bpf_attr carries pointers as 64 bits on every machine.
fn address<T>(pointer: *const T) -> u64 {
    u64::try_from(pointer.expose_provenance()).unwrap_or(0)
}
