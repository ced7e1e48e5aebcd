//! docker as Debian has it, unpacked beside the bench and never installed, so that nothing of it starts by itself; its daemon
//! in a network namespace of its own, since it closes the forwarding of the one that it is in.

#![forbid(unsafe_code)]

use crate::measure::{Argv, output, time_in};
use crate::runtime::Ground;
use crate::world::{View, command};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The directory beside the bench that Debian's packages are unpacked into.
const UNPACKED: &str = "debian-docker";

/// Of Debian's archive; without it the table goes without.
pub(crate) fn unpack() {
    let Ok(dir) = unpacked() else { return };
    if dir.join("usr/sbin/dockerd").exists() {
        return;
    }
    let script =
        "apt-get download -q docker.io containerd && for deb in *.deb; do dpkg -x \"$deb\" .; done; rm -f ./*.deb";
    let done = std::fs::create_dir_all(&dir)
        .and_then(|()| Command::new("sh").args(["-c", script]).current_dir(&dir).stdin(Stdio::null()).output());
    if !done.is_ok_and(|done| done.status.success()) {
        let _ = std::fs::remove_dir_all(&dir);
    }
}

fn unpacked() -> io::Result<PathBuf> {
    std::env::current_exe().map(|own| own.with_file_name(UNPACKED))
}

/// A daemon with all its state in the bench's directory.
#[derive(Debug)]
pub(crate) struct Docker<'a> {
    view: &'a View,
    ground: &'a Ground,
    programs: PathBuf,
    socket: String,
    daemon: Child,
}

impl<'a> Docker<'a> {
    /// The daemon, up, with an image that sleeps.
    pub(crate) fn start(view: &'a View, ground: &'a Ground) -> io::Result<Self> {
        let programs = unpacked()?.join("usr");
        if !programs.join("sbin/dockerd").exists() {
            return Err(io::Error::other("Debian's packages docker.io and containerd could not be had"));
        }
        let dir = ground.dir.join("docker");
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("daemon.json"), "{}\n")?;
        let cgroups = format!("{}-docker", ground.dir.file_name().unwrap_or_default().to_string_lossy());
        ground.note_cgroup(&cgroups)?;
        let at = |below: &str| dir.join(below).to_string_lossy().into_owned();
        let socket = format!("unix://{}", at("sock"));
        let line = format!(
            "unshare --net {}/sbin/dockerd --config-file {} --data-root {} --exec-root {} --pidfile {} --host {socket} \
             --storage-driver vfs --cgroup-parent /{cgroups}",
            programs.display(),
            at("daemon.json"),
            at("data"),
            at("exec"),
            at("pid")
        );
        let (argv, path, log): (Argv, _, _) = (
            line.split_whitespace().map(str::to_owned).collect(),
            format!("{0}/sbin:{0}/bin:/usr/sbin:/usr/bin:/sbin:/bin", programs.display()),
            std::fs::File::create(dir.join("log"))?,
        );
        let daemon = view.run(move || {
            let mut command = command(&argv);
            command.env("PATH", path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()
        })?;
        let docker = Self { view, ground, programs, socket, daemon };
        docker.wait_until_up(&dir.join("log"))?;
        docker.import()?;
        Ok(docker)
    }

    fn argv(&self, line: &str) -> Argv {
        let program = self.programs.join("bin/docker").to_string_lossy().into_owned();
        let words = line.split_whitespace().map(str::to_owned);
        [program, "--host".to_owned(), self.socket.clone()].into_iter().chain(words).collect()
    }

    fn wait_until_up(&self, log: &Path) -> io::Result<()> {
        let end = Instant::now() + Duration::from_secs(20);
        while output(self.view, self.argv("version")).is_err() {
            if Instant::now() > end {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                return Err(io::Error::other(format!("dockerd: {}", said.lines().last().unwrap_or("it says nothing"))));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn import(&self) -> io::Result<()> {
        let (rootfs, tar) = (self.ground.rootfs.display(), self.ground.dir.join("docker/image.tar"));
        let words = format!("tar -C {rootfs} -cf {} sleep dev proc sys etc tmp", tar.display());
        output(self.view, words.split_whitespace().map(str::to_owned).collect())?;
        output(self.view, self.argv(&format!("import {} bench", tar.display()))).map(drop)
    }

    /// A container that sleeps, on this network; its removal is not timed.
    pub(crate) fn run(&self, network: &str) -> io::Result<Duration> {
        let run = self.argv(&format!("run -d --name one --network {network} bench /sleep"));
        let took = time_in(self.view, vec![run], &self.ground.dir);
        output(self.view, self.argv("rm --force one"))?;
        took
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        let pid = i32::try_from(self.daemon.id()).unwrap_or(0);
        // It ends its containerd, too.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        let _ = self.daemon.wait();
    }
}
