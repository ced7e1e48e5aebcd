//! pty(7): a person at a terminal, for `-t`.

use crate::command::{Command, Running};
use crate::sys;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

/// A command whose stdin, stdout, stderr and controlling terminal are one pty, and the person's end of it.
#[derive(Debug)]
pub struct Terminal<'h> {
    master: File,
    screen: Vec<u8>,
    pub running: Running<'h>,
}

impl<'h> Command<'h> {
    /// Starts the command at a terminal of this size.
    pub fn at_a_terminal(self, rows: u16, columns: u16) -> Terminal<'h> {
        let (master, slave) = pty().expect("open a pty");
        sys::set_window_size(master.as_fd(), rows, columns).expect("set its size");
        let again = || slave.try_clone().expect("duplicate the terminal");
        let running = self.with("terminal").stdio(again(), again(), again()).start();
        Terminal { master, screen: Vec::new(), running }
    }
}

/// By hand, since openpty(3) does not close on exec: the commands of other tests would keep this terminal open.
fn pty() -> std::io::Result<(File, File)> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(ptsname_r(&master)?)?;
    Ok((File::from(std::os::fd::OwnedFd::from(master)), slave))
}

impl Terminal<'_> {
    pub fn types(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("type at the terminal");
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        sys::set_window_size(self.master.as_fd(), rows, columns).expect("resize the terminal");
    }

    /// Everything shown so far, with the terminal's own line ends made plain.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen).replace("\r\n", "\n")
    }

    fn look(&mut self, patience: Duration) -> bool {
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, timeout).unwrap_or(0) == 0 {
            return false;
        }
        let mut buffer = [0; 4096];
        // EIO: nobody holds the other end any more.
        match self.master.read(&mut buffer) {
            Ok(n @ 1..) => self.screen.extend_from_slice(&buffer[..n]),
            _ => return false,
        }
        true
    }

    /// Waits until the screen has this text.
    #[track_caller]
    pub fn until_it_shows(&mut self, text: &str) {
        let deadline = Instant::now() + crate::patience(Duration::from_secs(20));
        while !self.screen().contains(text) {
            assert!(Instant::now() < deadline, "{text:?} never came; the screen:\n{}", self.screen());
            if !self.look(Duration::from_millis(100)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Waits for the end, and gives the exit code and all that was shown.
    #[track_caller]
    pub fn ends(mut self) -> (i32, String) {
        let deadline = Instant::now() + crate::patience(Duration::from_secs(20));
        while !self.running.has_ended() {
            assert!(Instant::now() < deadline, "no end; the screen:\n{}", self.screen());
            self.look(Duration::from_millis(20));
        }
        while self.look(Duration::from_millis(20)) {}
        let screen = self.screen();
        (self.running.wait().code(), screen)
    }
}
