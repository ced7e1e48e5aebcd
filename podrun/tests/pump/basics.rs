//! What a container says, and what the monitor asks.

use crate::world::Dir;
use crate::world::Monitor;
use crate::world::all_logs;
use crate::world::eventually;
use crate::world::said;
use crate::world::say;
use crate::world::tags;
use nix::fcntl::OFlag;
use podrun::pump::Answer;
use podrun::pump::Command;
use podrun::pump::Pipes;
use podrun::record::LONGEST;
use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

fn read(log: &Path) -> Vec<u8> {
    std::fs::read(log).unwrap_or_default()
}

#[test]
fn what_a_container_says_is_in_its_log_at_once() {
    let dir = Dir::new("once");
    let mut monitor = Monitor::new();
    let ends = monitor.add(Monitor::plain(1, &dir.log("a")));
    eventually("the log", || dir.log("a").exists());
    say(&ends.stdout, b"hello\n");
    eventually("hello", || tags(&read(&dir.log("a"))) == ["out F hello"]);
    say(&ends.stderr, b"oh\nno\n");
    eventually("oh no", || tags(&read(&dir.log("a"))).len() == 3);
    drop(ends);
    let (lost, end) = monitor.finish(1, 10_000);
    assert_eq!((lost, end), (0, u64::try_from(read(&dir.log("a")).len()).unwrap()));
    // CVE-2024-25621: nothing of it is for everybody.
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&dir.log("a")), mode(&dir.0.join("a"))), (0o640, 0o750));
}

// containerd#4813: a last line that is P is not shown by those who wait for its F.
#[test]
fn the_last_line_is_whole_even_without_its_newline() {
    let dir = Dir::new("last");
    let mut monitor = Monitor::new();
    let ends = monitor.add(Monitor::plain(1, &dir.log("a")));
    say(&ends.stdout, b"one\nend");
    say(&ends.stderr, b"slow ");
    eventually("a P", || tags(&read(&dir.log("a"))).contains(&"err P slow ".to_owned()));
    drop(ends);
    monitor.finish(1, 10_000);
    let mut log = tags(&read(&dir.log("a")));
    assert!(!log.last().unwrap().contains(" P "), "{log:?}");
    log.retain(|line| line.starts_with("err"));
    assert_eq!(log, ["err P slow ", "err F- "]);
    assert_eq!(said(&read(&dir.log("a"))), [b"one\nend".to_vec(), b"slow ".to_vec()]);
}

#[test]
fn a_line_in_pieces_is_one_record_when_they_come_soon() {
    let dir = Dir::new("pieces");
    let mut monitor = Monitor::new();
    let ends = monitor.add(Monitor::plain(1, &dir.log("a")));
    eventually("the log", || dir.log("a").exists());
    say(&ends.stdout, b"ab");
    std::thread::sleep(Duration::from_millis(3));
    say(&ends.stdout, b"cd\n");
    eventually("abcd", || !read(&dir.log("a")).is_empty());
    say(&ends.stdout, b"prompt> ");
    eventually("the prompt", || tags(&read(&dir.log("a"))).len() == 2);
    say(&ends.stdout, b"yes\n");
    eventually("the rest", || tags(&read(&dir.log("a"))).len() == 3);
    let log = tags(&read(&dir.log("a")));
    // A machine under load may have cut the first line too; its bytes are the same.
    assert!(log.ends_with(&["out P prompt> ".into(), "out F yes".into()]), "{log:?}");
    assert_eq!(said(&read(&dir.log("a")))[0], b"abcd\nprompt> yes\n");
}

#[test]
fn long_lines_nul_and_broken_utf8_survive() {
    let dir = Dir::new("long");
    let mut monitor = Monitor::new();
    let ends = monitor.add(Monitor::plain(1, &dir.log("a")));
    let mut text = vec![0xff; 5 * LONGEST + 17];
    text.extend_from_slice(b"\n\0\0\n\r\n");
    say(&ends.stdout, &text);
    drop(ends);
    monitor.finish(1, 10_000);
    assert!(said(&read(&dir.log("a")))[0] == text);
}

/// A pty's master, and the name of its slave. openpty(3) would leave both to every child of this process.
fn terminal() -> (OwnedFd, String) {
    let master = nix::pty::posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    nix::pty::grantpt(&master).unwrap();
    nix::pty::unlockpt(&master).unwrap();
    let name = nix::pty::ptsname_r(&master).unwrap();
    (master.as_fd().try_clone_to_owned().unwrap(), name)
}

#[test]
fn a_terminal_speaks_at_once_and_may_hang_up_and_come_back() {
    let dir = Dir::new("tty");
    let mut monitor = Monitor::new();
    let (master, name) = terminal();
    let open = || OwnedFd::from(OpenOptions::new().write(true).open(&name).unwrap());
    let slave = open();
    let add = podrun::pump::Add { tty: true, ..Monitor::plain(1, &dir.log("a")) };
    monitor.store(add, Pipes::terminal(master).unwrap());
    say(&slave, b"login: ");
    eventually("the prompt", || tags(&read(&dir.log("a"))) == ["out P login: "]);
    say(&slave, b"me\n");
    eventually("the answer", || said(&read(&dir.log("a")))[0] == b"login: me\r\n");
    drop(slave);
    std::thread::sleep(Duration::from_millis(50));
    let again = open();
    say(&again, b"back");
    eventually("back", || said(&read(&dir.log("a")))[0] == b"login: me\r\nback");
    monitor.finish(1, 10_000);
    assert_eq!(tags(&read(&dir.log("a"))).last().unwrap(), "out F- ");
}

// pitfalls 6: a background child keeps the pipe.
#[test]
fn finish_does_not_wait_for_a_child_that_keeps_the_pipe() {
    let dir = Dir::new("grace");
    let mut monitor = Monitor::new();
    let ends = monitor.add(Monitor::plain(1, &dir.log("a")));
    say(&ends.stdout, b"a\nb");
    let start = Instant::now();
    monitor.finish(1, 100);
    assert!(start.elapsed() >= Duration::from_millis(100) && start.elapsed() < Duration::from_secs(5));
    assert_eq!(said(&read(&dir.log("a")))[0], b"a\nb");
    say(&ends.stdout, b"c\n");
    eventually("what the child says later", || said(&read(&dir.log("a")))[0] == b"a\nbc\n");
    monitor.say(&Command::Forget { key: 1 });
    say(&ends.stdout, b"into the void\n");
    assert_eq!(monitor.reopen(1), libc::ENOENT, "it is forgotten");
}

#[test]
fn finish_ends_though_a_child_writes_without_end() {
    let dir = Dir::new("endless");
    let mut monitor = Monitor::new();
    let ends = monitor.add(Monitor::plain(1, &dir.log("a")));
    let end = ends.stdout.try_clone().unwrap();
    std::thread::spawn(move || while nix::unistd::write(&end, &[b'x'; 4096]).is_ok() {});
    let start = Instant::now();
    monitor.finish(1, 50);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_unknown_container_gets_an_answer_not_silence() {
    let monitor = Monitor::new();
    assert_eq!(monitor.finish(7, 0), (0, 0));
    assert_eq!(monitor.reopen(7), libc::ENOENT);
    let pipe = podrun::sys::pipe::pipe().unwrap();
    let add = Monitor::plain(8, Path::new("/nonexistent/0.log"));
    podrun::pump::send(monitor.control.as_fd(), &Command::Add(add), &[pipe.out.as_fd()]).unwrap();
    let answer = monitor.hear(Duration::from_secs(5));
    assert!(matches!(answer, Some(Answer::Refused { key: 8, errno: libc::EINVAL })), "{answer:?}");
}

#[test]
fn a_pump_leaves_when_nobody_is_left() {
    let dir = Dir::new("alone");
    let mut monitor = Monitor::new();
    let ends = monitor.add(Monitor::plain(1, &dir.log("a")));
    say(&ends.stdout, b"last words");
    let (other, _) = nix::unistd::pipe().unwrap();
    drop(std::mem::replace(&mut monitor.control, other));
    std::thread::sleep(Duration::from_millis(100));
    assert!(monitor.pump.try_wait().unwrap().is_none(), "the container still speaks");
    drop(ends);
    eventually("the end", || monitor.pump.try_wait().unwrap().is_some());
    assert_eq!(said(&read(&dir.log("a")))[0], b"last words");
}

#[test]
fn a_pump_that_knows_a_container_ignores_it_and_another_waits_for_it() {
    let dir = Dir::new("two");
    let mut first = Monitor::new();
    let ends = first.add(Monitor::plain(1, &dir.log("a")));
    first.add_all();
    say(&ends.stdout, b"one\n");
    eventually("one", || said(&all_logs(&dir.0.join("a")))[0] == b"one\n");
    let mut second = Monitor::new();
    second.store = std::mem::take(&mut first.store);
    second.add_all();
    say(&ends.stdout, b"two\n");
    eventually("two", || said(&read(&dir.log("a")))[0] == b"one\ntwo\n");
    drop(first);
    std::thread::sleep(Duration::from_millis(100));
    say(&ends.stdout, b"three\n");
    drop(ends);
    second.finish(1, 10_000);
    assert_eq!(said(&read(&dir.log("a")))[0], b"one\ntwo\nthree\n");
}
