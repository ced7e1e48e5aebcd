//! What the probe does when told: ends in every way, writes, eats, tries what should be refused.

#![forbid(unsafe_code)]

use crate::{Act, say};
use nix::sys::signal::{SigSet, Signal};
use podrun_tests::sys;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

pub(crate) fn act(words: &[&str]) -> Act {
    match words {
        ["exit", code] => return Ok(code.parse()?),
        ["die", signal] => die(signal.parse()?),
        ["fault"] => sys::fault(),
        ["say", text] => say(text)?,
        ["say", text, error] => {
            say(text)?;
            writeln!(io::stderr(), "{error}")?;
        }
        ["out", bytes] => pour(&mut io::stdout().lock(), bytes.parse()?)?,
        ["err", bytes] => pour(&mut io::stderr().lock(), bytes.parse()?)?,
        ["count", from, to] => count(from.parse()?, to.parse()?, 0)?,
        ["count", from, to, micros] => count(from.parse()?, to.parse()?, micros.parse()?)?,
        ["sleep", seconds] => sleep(Duration::from_secs_f64(seconds.parse()?)),
        ["stubborn"] => stubborn()?,
        ["trap", signal, code] => return trap(signal.parse()?, code.parse()?),
        ["orphan", seconds] => orphan(seconds)?,
        ["zombies", number] => zombies(number.parse()?)?,
        ["eat", megabytes] => eat(megabytes.parse()?)?,
        ["heartbeat", path] => heartbeat(path)?,
        ["kill", pid, signal] => sys::kill(pid.parse()?, signal.parse()?)?,
        ["write", path, text] => fs::write(path, text)?,
        ["swap", one, other] => swap(one, other)?,
        ["flicker", pairs @ ..] => return flicker(pairs),
        ["owner", path] => say(owner(path)?)?,
        ["size"] => size()?,
        ["sizes"] => sizes()?,
        ["digest"] => digest()?,
        ["try", what @ ..] => say(tried(what)?)?,
        ["try-all", many @ ..] => {
            for what in many {
                let words: Vec<_> = what.split(',').collect();
                say(format!("{what}: {}", tried(&words)?))?;
            }
        }
        _ => return Err("the probe has no such act".into()),
    }
    Ok(0)
}

/// PID 1 of the fake host: mounts its proc, brings the loopback up, leaves zombies to the kernel, and ends with its
/// stdin, so that a test program that dies leaves no process.
pub(crate) fn anchor() -> Act {
    use nix::mount::{MsFlags, mount};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    sys::ignore(libc::SIGCHLD);
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>)?;
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    sys::loopback_up(any.as_fd())?;
    say("ready")?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(0)
}

fn die(signal: i32) {
    sys::default(signal);
    sys::raise(signal);
    sleep(Duration::from_secs(1));
}

/// renameat2(2): two names change places, for ever, as fast as the kernel can.
fn swap(one: &str, other: &str) -> nix::Result<()> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    loop {
        renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE)?;
    }
}

/// Of many pairs one at a time changes places for a moment, so that most of what is looked up is what it should be. Each is
/// named in the directory that it was in at the beginning, wherever its path leads meanwhile.
fn flicker(pairs: &[&str]) -> Act {
    use nix::fcntl::{RenameFlags, renameat2};
    let held = |path: &&str| -> io::Result<_> {
        let (dir, name) = path.rsplit_once('/').ok_or(io::ErrorKind::InvalidInput)?;
        Ok((fs::File::open(dir)?, name.to_owned()))
    };
    let names = pairs.iter().map(held).collect::<io::Result<Vec<_>>>()?;
    let (pairs, _) = names.as_chunks();
    let swap = |[(dir, one), (other_dir, other)]: &[(fs::File, String); 2]| {
        renameat2(dir, one.as_str(), other_dir, other.as_str(), RenameFlags::RENAME_EXCHANGE)
    };
    let mut dice = u64::from(std::process::id());
    loop {
        // xorshift64: Marsaglia, "Xorshift RNGs", 2003.
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let pair = &pairs[usize::try_from(dice >> 33)? % pairs.len()];
        let spins = |shift: u32| (0..(dice >> shift) & 0x3fff).for_each(|_| std::hint::spin_loop());
        swap(pair)?;
        spins(8);
        swap(pair)?;
        spins(20);
    }
}

/// A pattern that shows where a byte went missing: numbered lines of ten bytes.
fn pour(out: &mut impl Write, bytes: usize) -> io::Result<()> {
    let mut block = Vec::with_capacity(1 << 16);
    let mut left = bytes;
    let mut line = 0_u64;
    while left > 0 {
        block.clear();
        while block.len() < 60_000 && block.len() < left {
            writeln!(block, "{line:09}")?;
            line += 1;
        }
        let n = block.len().min(left);
        out.write_all(&block[..n])?;
        left -= n;
    }
    out.flush()
}

fn count(from: u64, to: u64, micros: u64) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for n in from..=to {
        writeln!(out, "line {n}")?;
        if micros > 0 {
            out.flush()?;
            sleep(Duration::from_micros(micros));
        }
    }
    out.flush()
}

/// Ignores every signal that can be ignored, and says when it does.
fn stubborn() -> io::Result<()> {
    (1..=64).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP, 32, 33].contains(signal)).for_each(sys::ignore);
    say("stubborn")?;
    loop {
        sleep(Duration::from_secs(3600));
    }
}

/// Waits for one signal, says that it came, and exits with the code.
fn trap(signal: i32, code: u8) -> Act {
    let mut set = SigSet::empty();
    set.add(Signal::try_from(signal)?);
    set.thread_block()?;
    say("ready")?;
    let got = set.wait()?;
    say(format!("got {got}"))?;
    Ok(code)
}

fn again(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::args_os().next().unwrap_or_else(|| "/probe".into()));
    command.args(args);
    command
}

/// A grandchild that outlives its parent and keeps stdout.
fn orphan(seconds: &str) -> io::Result<()> {
    let child = again(&["sleep", seconds]).stdin(Stdio::null()).spawn()?;
    say(format!("orphan {}", child.id()))
}

/// Children that have ended and are not waited for.
fn zombies(number: u32) -> io::Result<()> {
    for _ in 0..number {
        again(&["exit", "0"]).stdin(Stdio::null()).spawn()?;
    }
    say("zombies")
}

fn eat(megabytes: usize) -> io::Result<()> {
    let mut eaten = Vec::new();
    for n in 1..=megabytes {
        eaten.push(vec![1_u8; 1 << 20]);
        if n % 8 == 0 {
            say(n)?;
        }
    }
    say(format!("ate {}", eaten.len()))
}

/// Replaces a number in a file ten times a millisecond's worth, so that a stall is seen.
fn heartbeat(path: &str) -> io::Result<()> {
    for beat in 0_u64.. {
        let beside = format!("{path}.new");
        fs::write(&beside, beat.to_string())?;
        fs::rename(&beside, path)?;
        writeln!(io::stdout(), "beat {beat} {}", "x".repeat(200))?;
        sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn owner(path: &str) -> io::Result<String> {
    let meta = fs::symlink_metadata(path)?;
    Ok(format!("{} {} {:04o}", meta.uid(), meta.gid(), meta.mode() & 0o7777))
}

fn size() -> io::Result<()> {
    let (rows, columns) = sys::window_size(io::stdin().as_fd())?;
    say(format!("{rows} {columns}"))
}

/// The terminal's size now, and again at each SIGWINCH.
fn sizes() -> Result<(), Box<dyn std::error::Error>> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGWINCH);
    set.thread_block()?;
    loop {
        size()?;
        set.wait()?;
    }
}

/// Length and FNV-1a of stdin.
fn digest() -> io::Result<()> {
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes)?;
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    say(format!("{} {:016x}", bytes.len(), bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)))
}

/// `ok`, or the name of the errno: what the kernel says to a thing that should or should not be allowed.
fn tried(words: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
    use nix::mount::{MsFlags, mount};
    let none = None::<&str>;
    let result = match words {
        ["read", path] => {
            OpenOptions::new().read(true).open(path).and_then(|mut file| file.read(&mut [0; 64])).map(drop)
        }
        ["empty", path] => return Ok(format!("{:?}", fs::read(path).map_or(0, |bytes| bytes.len()))),
        ["write", path] => OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY).open(path).map(drop),
        ["create", path] => OpenOptions::new().create_new(true).write(true).open(path).map(drop),
        ["mkdir", path] => fs::create_dir(path),
        ["list", path] => fs::read_dir(path).map(drop),
        ["chdir", path] => std::env::set_current_dir(path),
        ["mount", path] => mount(Some("tmpfs"), *path, Some("tmpfs"), MsFlags::empty(), none).map_err(io::Error::from),
        ["mknod", path, major, minor] => {
            let device = nix::sys::stat::makedev(major.parse()?, minor.parse()?);
            let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
            nix::sys::stat::mknod(*path, nix::sys::stat::SFlag::S_IFCHR, mode, device).map_err(io::Error::from)
        }
        ["unshare-user"] => nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).map_err(io::Error::from),
        ["bind", port] => std::net::TcpListener::bind(("0.0.0.0", port.parse()?)).map(drop),
        ["syscall", number] => sys::raw(number.parse()?, [0; 6]).map(drop),
        ["socket", family] => sys::raw(libc::SYS_socket, [family.parse()?, 1, 0, 0, 0, 0]).map(drop),
        _ => return Err("the probe cannot try this".into()),
    };
    Ok(match result {
        Ok(()) => "ok".to_owned(),
        Err(err) => match err.raw_os_error() {
            Some(errno) => format!("{:?}", nix::errno::Errno::from_raw(errno)),
            None => err.to_string(),
        },
    })
}
