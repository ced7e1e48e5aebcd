//! The profile of containers that bring none: what docker and containerd allow, as a table of podrun's own.
//!
//! A call is denied when it reaches what namespaces do not divide (clocks, modules, keyrings, swap, raw hardware),
//! when it makes namespaces or mounts without CAP_SYS_ADMIN, or when its history is one of escapes (io_uring, bpf,
//! userfaultfd). `oracle.rs` compares it with containerd's, call by call, and holds the reason of each difference.

#![forbid(unsafe_code)]

use oci_spec::runtime::Arch;
use oci_spec::runtime::Capability;
use oci_spec::runtime::LinuxSeccomp;
use oci_spec::runtime::LinuxSeccompAction;
use oci_spec::runtime::LinuxSeccompArg;
use oci_spec::runtime::LinuxSeccompArgBuilder;
use oci_spec::runtime::LinuxSeccompBuilder;
use oci_spec::runtime::LinuxSeccompOperator;
use oci_spec::runtime::LinuxSyscall;
use oci_spec::runtime::LinuxSyscallBuilder;

/// For everybody, on every architecture; a name that an ABI lacks has no effect there.
const ALWAYS: &[&str] = &[
    // Processes and threads
    "execve execveat exit exit_group fork vfork wait4 waitid waitpid kill tkill tgkill pidfd_open pidfd_send_signal
     getpid getppid gettid getpgid getpgrp setpgid getsid setsid prctl seccomp restart_syscall
     set_tid_address set_robust_list get_robust_list set_thread_area get_thread_area getcpu membarrier rseq
     process_mrelease times getrusage uname sysinfo umask",
    "futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue",
    "process_vm_readv process_vm_writev ptrace",
    "sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam
     sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval
     sched_rr_get_interval_time64 getpriority setpriority ioprio_get ioprio_set",
    "getrlimit ugetrlimit setrlimit prlimit64",
    // Users and privileges, which can only be given up
    "getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 getresgid getresgid32
     getgroups getgroups32 setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32 setresuid
     setresuid32 setresgid setresgid32 setfsuid setfsuid32 setfsgid setfsgid32 setgroups setgroups32 capget capset
     landlock_create_ruleset landlock_add_rule landlock_restrict_self lsm_get_self_attr lsm_set_self_attr
     lsm_list_modules",
    // Signals
    "rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
     rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signalfd signalfd4 sigprocmask sigreturn pause",
    // Memory
    "brk mmap mmap2 munmap mremap mprotect madvise mincore msync mlock mlock2 mlockall munlock munlockall mseal
     memfd_create memfd_secret remap_file_pages map_shadow_stack pkey_alloc pkey_free pkey_mprotect cachestat",
    // Time; setting a clock is refused by the kernel without CAP_SYS_TIME
    "time gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64 clock_nanosleep
     clock_nanosleep_time64 nanosleep adjtimex clock_adjtime clock_adjtime64 alarm getitimer setitimer timer_create
     timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
     timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64",
    // Opening, reading, writing
    "open openat openat2 creat close close_range dup dup2 dup3 fcntl fcntl64 ioctl flock read readv pread64 preadv
     preadv2 write writev pwrite64 pwritev pwritev2 lseek _llseek readahead fadvise64 fadvise64_64 fallocate truncate
     truncate64 ftruncate ftruncate64 sync syncfs fsync fdatasync sync_file_range sendfile sendfile64 splice tee
     vmsplice copy_file_range",
    "io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64",
    // Names, owners, modes, attributes
    "access faccessat faccessat2 stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx statfs statfs64
     fstatfs fstatfs64 statmount listmount name_to_handle_at link linkat symlink symlinkat unlink unlinkat rename
     renameat renameat2 readlink readlinkat mkdir mkdirat rmdir mknod mknodat getdents getdents64 getcwd chdir fchdir
     chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32 fchownat lchown lchown32 utime utimes utimensat
     utimensat_time64 futimesat",
    "getxattr getxattrat lgetxattr fgetxattr setxattr setxattrat lsetxattr fsetxattr listxattr listxattrat llistxattr
     flistxattr removexattr removexattrat lremovexattr fremovexattr",
    // Waiting
    "poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 epoll_create epoll_create1 epoll_ctl
     epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2 eventfd eventfd2 inotify_init inotify_init1
     inotify_add_watch inotify_rm_watch fanotify_mark",
    // Pipes, sockets, System V and POSIX queues; socket has a rule of its own
    "pipe pipe2 socketpair socketcall bind listen accept accept4 connect shutdown getsockname getpeername getsockopt
     setsockopt send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64",
    "ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget mq_open
     mq_unlink mq_notify mq_getsetattr mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64",
    // Randomness, and what probes put into programs
    "getrandom uretprobe",
];

/// Only on this architecture.
const ON: &[(Arch, &str)] = &[
    (Arch::ScmpArchX86_64, "arch_prctl modify_ldt"),
    (Arch::ScmpArchX86, "modify_ldt"),
    (Arch::ScmpArchAarch64, ARM),
    (Arch::ScmpArchArm, ARM),
];

const ARM: &str = "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls";

/// Only with this capability in the bounding set.
const WITH: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (Capability::SysAdmin, "clone clone3 unshare setns"),
    (Capability::SysAdmin, "mount umount umount2 mount_setattr move_mount open_tree open_tree_attr"),
    (Capability::SysAdmin, "fsopen fsconfig fsmount fspick"),
    (Capability::SysAdmin, "bpf perf_event_open fanotify_init quotactl quotactl_fd lookup_dcookie"),
    (Capability::SysAdmin, "sethostname setdomainname syslog"),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "init_module finit_module delete_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "iopl ioperm"),
    (Capability::SysTime, "settimeofday stime clock_settime clock_settime64"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy set_mempolicy set_mempolicy_home_node mbind"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// Execution domains of personality(2): Linux, and 32-bit Linux, each with or without UNAME26; and the question which
/// one it is. Others switch off what protects memory (ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC).
const PERSONALITIES: &[u64] = &[0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Socket families that cannot be had: AF_ALG, the kernel's cryptography, which programs have in their libraries and
/// attackers like; and AF_VSOCK, which reaches the hypervisor and other guests past every network namespace. The
/// families are below the first, between the two, and from there to AF_MCTP.
const FAMILIES: &[(LinuxSeccompOperator, u64)] = &[
    (LinuxSeccompOperator::ScmpCmpLt, 38),
    (LinuxSeccompOperator::ScmpCmpEq, 39),
    (LinuxSeccompOperator::ScmpCmpEq, 41),
    (LinuxSeccompOperator::ScmpCmpEq, 42),
    (LinuxSeccompOperator::ScmpCmpEq, 43),
    (LinuxSeccompOperator::ScmpCmpEq, 44),
    (LinuxSeccompOperator::ScmpCmpEq, 45),
];

/// Every CLONE_NEW flag that clone(2) has room for.
const CLONE_NEW: u64 = 0x7e02_0000;

/// `bounding` is the container's bounding set: what the kernel would refuse anyway for want of a capability is only
/// allowed with it.
pub fn default_profile(bounding: impl IntoIterator<Item = Capability>, host: Arch) -> LinuxSeccomp {
    let bounding: Vec<Capability> = bounding.into_iter().collect();
    let on = ON.iter().filter(|(arch, _)| *arch == host).map(|(_, names)| *names);
    let with = WITH.iter().filter(|(needed, _)| bounding.contains(needed)).map(|(_, names)| *names);
    let names = ALWAYS.iter().copied().chain(on).chain(with).flat_map(str::split_ascii_whitespace);
    let mut rules = vec![rule(names, None)];
    rules.extend(
        PERSONALITIES.iter().map(|domain| rule(["personality"], arg(LinuxSeccompOperator::ScmpCmpEq, *domain))),
    );
    rules.extend(FAMILIES.iter().map(|(op, family)| rule(["socket"], arg(*op, *family))));
    if !bounding.contains(&Capability::SysAdmin) {
        rules.push(rule(["clone"], arg(LinuxSeccompOperator::ScmpCmpMaskedEq, CLONE_NEW)));
        // A filter cannot see clone3's flags; told that it does not exist, C libraries use clone (moby#42680).
        let missing = LinuxSyscallBuilder::default().names(["clone3".to_owned()]);
        let missing = missing.action(LinuxSeccompAction::ScmpActErrno).errno_ret(libc::ENOSYS.unsigned_abs());
        rules.push(missing.build().expect("every field has a default"));
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .architectures(architectures(host))
        .syscalls(rules)
        .build()
        .expect("every field has a default")
}

fn rule<'a>(names: impl IntoIterator<Item = &'a str>, arg: Option<LinuxSeccompArg>) -> LinuxSyscall {
    let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    let rule = LinuxSyscallBuilder::default().names(names).action(LinuxSeccompAction::ScmpActAllow);
    let rule = match arg {
        Some(arg) => rule.args([arg]),
        None => rule,
    };
    rule.build().expect("every field has a default")
}

/// On the first argument; a masked comparison asks for none of the bits.
fn arg(op: LinuxSeccompOperator, value: u64) -> Option<LinuxSeccompArg> {
    LinuxSeccompArgBuilder::default().index(0_usize).value(value).value_two(0_u64).op(op).build().ok()
}

fn architectures(host: Arch) -> Vec<Arch> {
    match host {
        Arch::ScmpArchX86_64 => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        Arch::ScmpArchAarch64 => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        other => vec![other],
    }
}
