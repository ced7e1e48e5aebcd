#!/usr/bin/env python3
"""Writes podrun/src/seccomp/tables.rs: the numbers of the system calls on each ABI that podrun compiles filters for.

    python3 podrun/src/seccomp/tables.py            writes the file
    python3 podrun/src/seccomp/tables.py --check    says whether the file is what this machine would write

Sources: the kernel's uapi headers as installed (Debian: linux-libc-dev) for x86_64, x86, x32 and aarch64; the libc
crate that podrun is built with for arm, whose headers are not installed on other machines; and NEWER below for what
the installed headers do not know yet. `cargo test seccomp` holds the result against the libc crate's constants, against
libseccomp's tables and against the running kernel.
"""

import json
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
HEADERS = "/usr/include/x86_64-linux-gnu/asm/"
ABIS = ["x86_64", "x86", "x32", "aarch64", "arm"]

# Since Linux 5.1 a new call gets one number for all ABIs. The last column: the first kernel that has it.
NEWER = [
    (451, "cachestat", "6.5"),
    (452, "fchmodat2", "6.6"),
    (453, "map_shadow_stack", "6.6"),
    (454, "futex_wake", "6.7"),
    (455, "futex_wait", "6.7"),
    (456, "futex_requeue", "6.7"),
    (457, "statmount", "6.8"),
    (458, "listmount", "6.8"),
    (459, "lsm_get_self_attr", "6.8"),
    (460, "lsm_set_self_attr", "6.8"),
    (461, "lsm_list_modules", "6.8"),
    (462, "mseal", "6.10"),
    (463, "setxattrat", "6.13"),
    (464, "getxattrat", "6.13"),
    (465, "listxattrat", "6.13"),
    (466, "removexattrat", "6.13"),
    (467, "open_tree_attr", "6.15"),
    (468, "file_getattr", "6.17"),
    (469, "file_setattr", "6.17"),
    (470, "listns", "6.19"),
    (471, "rseq_slice_yield", "7.0"),
]

# Of these, what the kernel's table for x86 keeps from x32.
NOT_ON_X32 = ["map_shadow_stack"]

# Newer, and with a number on one ABI only. (x32 does not have them: they are "64" in the kernel's table.)
NEWER_ON = {
    "x86_64": [(335, "uretprobe", "6.11"), (336, "uprobe", "6.18")],
    # Arm's own calls, arch/arm/include/uapi/asm/unistd.h: __ARM_NR_BASE is 0x0f0000. And the names that
    # profiles use for two calls that the kernel's header names otherwise.
    "arm": [
        (0xF0001, "breakpoint", ""),
        (0xF0002, "cacheflush", ""),
        (0xF0003, "usr26", ""),
        (0xF0004, "usr32", ""),
        (0xF0005, "set_tls", ""),
        (0xF0006, "get_tls", ""),
        (341, "sync_file_range2", ""),
        (341, "arm_sync_file_range", ""),
        (270, "arm_fadvise64_64", ""),
        # The libc crate leaves these out of its list for arm; the kernel's table has them.
        (0, "restart_syscall", ""),
        (42, "pipe", ""),
        (399, "io_pgetevents", ""),
        (400, "migrate_pages", ""),
    ],
}

# What arm64 asks of asm-generic/unistd.h (arch/arm64/include/uapi/asm/unistd.h).
ARM64_WANTS = ["RENAMEAT", "NEW_STAT", "SET_GET_RLIMIT", "TIME32_SYSCALLS", "SYS_CLONE3", "MEMFD_SECRET"]

# The libc crate lists it for arm; the kernel keeps the number free there.
NOT_ON_ARM = ["memfd_secret"]
LIBC_ERRS = [("arm", "memfd_secret")]

X32_BIT = 0x40000000


def header(file, *flags):
    """Every __NR_ that a header defines, as name to number; the preprocessor resolves what refers to another."""
    names = re.findall(r"^#define __NR_(\w+)", subprocess.check_output(
        ["cc", "-E", "-dM", *flags, "-include", file, "-x", "c", "/dev/null"], text=True), re.M)
    text = "\n".join(f"@{name} __NR_{name}" for name in names)
    out = subprocess.check_output(["cc", "-E", "-P", *flags, "-include", file, "-x", "c", "-"], text=True, input=text)
    found = {}
    for name, number in re.findall(r"^@(\w+) (.+)$", out, re.M):
        if re.fullmatch(r"[\d()+x ]+", number) and name not in ("syscalls", "arch_specific_syscall"):
            found[name] = eval(number)
    return found


def libc_crate():
    """The libc crate's SYS_ constants, by ABI."""
    command = ["cargo", "metadata", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"]
    metadata = json.loads(subprocess.check_output(command, cwd=HERE))
    manifest = next(p["manifest_path"] for p in metadata["packages"] if p["name"] == "libc")
    gnu = pathlib.Path(manifest).parent / "src/unix/linux_like/linux/gnu"
    files = {"x86_64": "b64/x86_64/not_x32.rs", "x86": "b32/x86/mod.rs", "x32": "b64/x86_64/x32.rs",
             "aarch64": "b64/aarch64/mod.rs", "arm": "b32/arm/mod.rs"}
    constant = re.compile(r"pub const SYS_(\w+): c_long = (?:__X32_SYSCALL_BIT \+ )?(\d+);")
    bit = {"x32": X32_BIT}
    return {abi: {name: int(number) | bit.get(abi, 0) for name, number in constant.findall((gnu / file).read_text())}
            for abi, file in files.items()}


def tables():
    libc = libc_crate()
    wants = [f"-D__ARCH_WANT_{want}" for want in ARM64_WANTS]
    found = {
        "x86_64": header(HEADERS + "unistd_64.h"),
        "x86": header(HEADERS + "unistd_32.h"),
        "x32": header(HEADERS + "unistd_x32.h", f"-D__X32_SYSCALL_BIT={X32_BIT}"),
        "aarch64": header("/usr/include/asm-generic/unistd.h", "-D__BITS_PER_LONG=64", *wants),
        "arm": {name: number for name, number in libc["arm"].items() if name not in NOT_ON_ARM},
    }
    # The calls of the year 2038: one number for all 32-bit ABIs, so x86's header says arm's.
    found["arm"] |= {name: number for name, number in found["x86"].items() if 403 <= number <= 423}
    for abi, table in found.items():
        bit = X32_BIT if abi == "x32" else 0
        for number, name, _ in NEWER:
            if abi == "x32" and name in NOT_ON_X32:
                continue
            assert table.get(name, number | bit) == number | bit, (abi, name)
            table[name] = number | bit
        for number, name, _ in NEWER_ON.get(abi, []):
            assert table.get(name, number) == number, (abi, name)
            table[name] = number
        for name, number in libc[abi].items():
            assert (abi, name) in LIBC_ERRS or table.get(name) == number, (abi, name, number, table.get(name))
    return found


def rust(found):
    names = sorted({name for table in found.values() for name in table})
    lines = [
        "//! The numbers of the system calls, by name; made by tables.py beside this file, from the kernel's own headers.",
        "",
        "#![forbid(unsafe_code)]",
        "",
        "/// This ABI has no such call.",
        "pub(super) const NONE: u32 = u32::MAX;",
        "",
        "/// Name, then the number on " + ", ".join(ABIS) + "; sorted by name.",
        "#[rustfmt::skip]",
        f"pub(super) static CALLS: [(&str, [u32; {len(ABIS)}]); {len(names)}] = [",
    ]
    for name in names:
        numbers = [found[abi].get(name) for abi in ABIS]
        shown = ", ".join("NONE" if n is None else f"{n:#x}" if n > 0xFFFF else str(n) for n in numbers)
        lines.append(f'    ("{name}", [{shown}]),')
    return "\n".join(lines + ["];", ""])


def main():
    target = HERE / "tables.rs"
    text = rust(tables())
    if "--check" in sys.argv:
        sys.exit(0 if target.read_text() == text else f"{target} differs from what this machine's headers say")
    target.write_text(text)


if __name__ == "__main__":
    main()
