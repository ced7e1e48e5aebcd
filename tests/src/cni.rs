//! Hosts with CNI configurations and plugins of their own, and what plugins were asked.

use crate::command::{Command, Outcome};
use crate::host::Host;
use crate::wait::eventually;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where Debian has its plugins.
pub const DEBIAN: &str = "/usr/lib/cni";

/// A host with configurations and plugins of its own; what plugins leave on it by design goes at the end.
#[derive(Debug)]
pub struct Cni {
    pub host: Host,
    pub dir: PathBuf,
    pub path: String,
}

impl Cni {
    #[expect(clippy::new_without_default, reason = "a host is made, not assumed")]
    pub fn new() -> Self {
        let host = Host::new();
        let dir = host.fresh("cni");
        for one in ["net.d", "bin", "log", "leases"] {
            fs::create_dir_all(dir.join(one)).unwrap();
        }
        let path = format!("{}:{DEBIAN}", dir.join("bin").display());
        Self { host, dir, path }
    }

    /// `podrun LINE` that finds these configurations and plugins.
    pub fn command(&self, line: impl AsRef<str>) -> Command<'_> {
        let command = self.host.command(line).env("PODRUN_CNI_CONF_DIR", self.dir.join("net.d"));
        command.env("PODRUN_CNI_PATH", &self.path).env("PODRUN_CNI_TIMEOUT", "20")
    }

    #[track_caller]
    pub fn podrun(&self, line: impl AsRef<str>) -> Outcome {
        self.command(line).run()
    }

    pub fn file(&self, name: &str, text: impl AsRef<str>) -> PathBuf {
        let path = self.dir.join("net.d").join(name);
        fs::write(&path, text.as_ref()).unwrap();
        path
    }

    /// A configuration of these plugins, of version 1.0.0.
    pub fn chain(&self, name: &str, plugins: &[Value]) -> PathBuf {
        self.chain_of("1.0.0", name, plugins)
    }

    pub fn chain_of(&self, version: &str, name: &str, plugins: &[Value]) -> PathBuf {
        let text = json!({"cniVersion": version, "name": name, "plugins": plugins});
        self.file(&format!("{name}.conflist"), serde_json::to_string_pretty(&text).unwrap())
    }

    /// host-local for one range, with leases that no other test sees.
    pub fn range(&self, subnet: &str) -> Value {
        let all = json!([[{"subnet": subnet}]]);
        json!({"type": "host-local", "dataDir": self.dir.join("leases"), "ranges": all, "routes": [{"dst": "0.0.0.0/0"}]})
    }

    pub fn bridge(&self, subnet: &str) -> Value {
        json!({"type": "bridge", "bridge": "cnitest0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
            "ipam": self.range(subnet)})
    }

    /// Addresses that host-local has given out on a network.
    pub fn leases(&self, network: &str) -> Vec<String> {
        let files = fs::read_dir(self.dir.join("leases").join(network)).into_iter().flatten().flatten();
        let names = files.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(|it: char| it.is_ascii_digit())).collect();
        names.sort();
        names
    }

    /// A plugin of the test's own: notes what it was asked, then does what the script says. `$in` is what it read.
    pub fn plugin(&self, name: &str, script: &str) -> PathBuf {
        let log = self.dir.join("log").display().to_string();
        let text = format!(
            "#!/bin/sh\nin=$(cat)\nn=$(ls {log} | wc -l)\n{{ env | grep -v -e ^PWD= -e ^SHLVL= -e ^_=; readlink -f \"$CNI_NETNS\"; \
             echo; printf '%s' \"$in\"; }} > {log}/$(printf %03d $n)-$CNI_COMMAND-{name}\n\
             if [ $CNI_COMMAND = VERSION ]; then\n\
             echo '{{\"cniVersion\": \"1.1.0\", \"supportedVersions\": [\"0.3.1\", \"0.4.0\", \"1.0.0\", \"1.1.0\"]}}'; exit; fi\n{script}\n"
        );
        let path = self.dir.join("bin").join(name);
        // Another thread's child may hold it open for writing at the moment: a new file each time.
        let _ = fs::remove_file(&path);
        self.host.program("sh -c").args([format!("cat > {0} && chmod 755 {0}", path.display())]).stdin(text).run().ok();
        path
    }

    /// One that gives an address, and makes nothing.
    pub fn giving(&self, name: &str, address: &str) -> PathBuf {
        self.plugin(name, &format!("if [ $CNI_COMMAND = ADD ]; then {}; fi", result(address)))
    }

    /// What plugins were asked, in order: `ADD-first`.
    pub fn asked(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.dir.join("log"))
            .unwrap()
            .map(|one| one.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names.iter().map(|name| name.split_once('-').unwrap().1.to_owned()).collect()
    }

    /// What a plugin was given the last time that it was asked this: its environment, and what it read.
    pub fn given(&self, what: &str) -> (String, Value) {
        let mut files: Vec<PathBuf> =
            fs::read_dir(self.dir.join("log")).unwrap().map(|one| one.unwrap().path()).collect();
        files.sort();
        let last = files.iter().rfind(|path| path.to_str().unwrap().ends_with(&format!("-{what}")));
        let text = fs::read_to_string(last.unwrap_or_else(|| panic!("no {what} in {files:?}"))).unwrap();
        let (environment, input) = text.split_once("\n\n").unwrap();
        (environment.to_owned(), serde_json::from_str(input).unwrap())
    }

    pub fn forget_asked(&self) {
        fs::read_dir(self.dir.join("log")).unwrap().for_each(|one| fs::remove_file(one.unwrap().path()).unwrap());
    }

    pub fn pod(&self, name: &str, flags: &str) {
        self.podrun(format!("create pod {name} {flags}")).ok();
    }

    /// A pod that listens on port 80 and says its own name.
    pub fn server(&self, name: &str, flags: &str) {
        self.pod(name, flags);
        self.host.start(&format!("{name}/server"), "", &format!("/probe listen [::]:80 {name}"));
        let log = format!("logs {name}/server");
        eventually("it listens", Duration::from_secs(10), || {
            self.host.podrun(&log).text().contains("listening").then_some(())
        });
    }

    pub fn address(&self, pod: &str) -> String {
        self.host.inspect(pod)["network"]["ip"][0].as_str().unwrap().to_owned()
    }

    pub fn inside(&self, pod: &str, script: &str) -> Outcome {
        self.host.command(format!("netns {pod} --")).args(["sh", "-ec", script]).run()
    }

    #[track_caller]
    pub fn hears(&self, from: Option<&str>, to: &str, answer: &str) {
        let ask = format!("exec timeout 5 {} ask {to}", self.host.probe().display());
        let said = match from {
            Some(pod) => self.inside(pod, &ask),
            None => self.host.program("sh -ec").args([ask]).run(),
        };
        assert_eq!(said.ok().text().trim().replace("::ffff:", ""), answer, "{from:?} asks {to}");
    }

    pub fn kill(&self, pod: &str, keeper: &str) {
        self.host.kill(&self.host.inspect(pod)[keeper]["pid"], 9);
    }

    /// What a reboot does: processes and run-root are gone, the disk is as it was.
    pub fn reboot(&self) {
        for name in fs::read_dir(self.host.run_root().join("names")).into_iter().flatten().flatten() {
            let pod = name.file_name().into_string().unwrap().split_once('_').unwrap().1.to_owned();
            let found = self.host.inspect(&pod);
            for keeper in ["pause", "monitor"] {
                let _ = self.host.program(format!("kill -STOP {}", found[keeper]["pid"])).run();
            }
            for keeper in ["pause", "monitor", "pump"].into_iter().filter(|one| found[one]["pid"].is_number()) {
                self.host.kill(&found[keeper]["pid"], 9);
            }
        }
        let cgroups =
            format!("find /sys/fs/cgroup -depth -type d -path '*/{}*' -exec rmdir {{}} +", self.host.cgroup_name());
        eventually("its cgroups are empty", Duration::from_secs(5), || {
            (self.host.program("sh -c").args([&cgroups]).run().code() == 0).then_some(())
        });
        fs::remove_dir_all(self.host.run_root()).unwrap();
        self.host.replace_file("/proc/sys/kernel/random/boot_id", "11111111-2222-3333-4444-555555555555\n");
    }
}

impl Drop for Cni {
    fn drop(&mut self) {
        // With plugins that do as they should.
        self.command("delete pod --all --force").run();
        self.command("prune --force").run();
        let clean = "nft flush ruleset; for link in cnitest0 uplink; do ip link del $link 2>/dev/null; done; \
                     sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0; true";
        self.host.program("sh -c").args([clean]).run();
    }
}

/// The words of a shell that print a result with one address.
pub fn result(address: &str) -> String {
    format!(
        r#"echo '{{"cniVersion": "1.0.0", "interfaces": [{{"name": "'$CNI_IFNAME'", "mac": "02:00:00:00:00:01", "sandbox": "'$CNI_NETNS'"}}], "ips": [{{"address": "{address}", "interface": 0}}]}}'"#
    )
}

/// Whether Debian's plugins, and what they call, are installed.
pub fn has_debians() -> bool {
    Path::new(DEBIAN).join("bridge").exists() && Path::new("/usr/sbin/iptables").exists()
}

pub const NO_DEBIANS: &str = "Debian's containernetworking-plugins and iptables are not installed";
