//! Where podrun keeps things, and the names on the host that are derived from there.
//!
//! What another run-root made is never touched: names of cgroups, bridges and firewall tables carry a short hash of
//! any run-root that is not the default one.

#![forbid(unsafe_code)]

use crate::id::{ContainerName, NamespaceName, PodId, PodName};
use std::path::{Path, PathBuf};

pub const DEFAULT_ROOT: &str = "/var/lib/podrun";
pub const DEFAULT_RUN_ROOT: &str = "/run/podrun";

/// The two directories: `root` survives a reboot, `run` does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    pub root: PathBuf,
    pub run: PathBuf,
}

/// What of a user and of what he was logged in with decides where his pods lie.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Login {
    pub uid: u32,
    pub home: Option<PathBuf>,
    /// `$XDG_DATA_HOME`.
    pub data: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`.
    pub runtime: Option<PathBuf>,
    /// Whether `/run/user/UID` is there, as a login makes it.
    pub has_run_user: bool,
}

impl Roots {
    /// Those of a user who is not root (XDG Base Directory Specification): none where nobody says what is his. A relative path
    /// is passed over, as the specification has it.
    pub fn of_user(login: &Login) -> Option<Self> {
        let absolute = |path: &Option<PathBuf>| path.clone().filter(|path| path.is_absolute());
        let data = absolute(&login.data).or_else(|| Some(absolute(&login.home)?.join(".local/share")));
        let usual = || login.has_run_user.then(|| PathBuf::from(format!("/run/user/{}", login.uid)));
        let run = match absolute(&login.runtime).or_else(usual) {
            Some(runtime) => runtime.join("podrun"),
            None => format!("/tmp/podrun-{}", login.uid).into(),
        };
        data.map(|data| Self { root: data.join("podrun"), run })
    }
}

impl Default for Roots {
    fn default() -> Self {
        Self { root: DEFAULT_ROOT.into(), run: DEFAULT_RUN_ROOT.into() }
    }
}

impl Roots {
    pub fn pods(&self) -> PathBuf {
        self.run.join("pods")
    }

    pub fn pod(&self, id: &PodId) -> PathBuf {
        self.pods().join(id.as_str())
    }

    /// A link `<namespace>_<name>` to each pod's directory: the reservation of the name.
    pub fn names(&self) -> PathBuf {
        self.run.join("names")
    }

    pub fn name(&self, namespace: &NamespaceName, pod: &PodName) -> PathBuf {
        self.names().join(format!("{namespace}_{pod}"))
    }

    /// One file for each address in use.
    pub fn leases(&self) -> PathBuf {
        self.run.join("leases")
    }

    /// One link for each port of the host that a pod has, to that pod's directory.
    pub fn ports(&self) -> PathBuf {
        self.run.join("ports")
    }

    /// Network definitions and what podrun changed on the host for them.
    pub fn networks(&self) -> PathBuf {
        self.root.join("networks")
    }

    /// Service definitions.
    pub fn services(&self) -> PathBuf {
        self.root.join("services")
    }

    /// Kubelet's own layout, `<ns>_<pod>_<uid>/<container>/<n>.log`, so that its tools work.
    pub fn logs(&self) -> PathBuf {
        match self.root == Path::new(DEFAULT_ROOT) {
            true => "/var/log/pods".into(),
            false => self.root.join("log/pods"),
        }
    }

    pub fn pod_logs(&self, namespace: &NamespaceName, pod: &PodName, id: &PodId) -> PathBuf {
        self.logs().join(format!("{namespace}_{pod}_{id}"))
    }

    pub fn container_logs(
        &self,
        namespace: &NamespaceName,
        pod: &PodName,
        id: &PodId,
        container: &ContainerName,
    ) -> PathBuf {
        self.pod_logs(namespace, pod, id).join(container.as_str())
    }

    /// A pod's own volumes; they live and die with the pod.
    pub fn volumes(&self, id: &PodId) -> PathBuf {
        self.root.join("volumes").join(id.as_str())
    }

    /// The directory under each cgroup hierarchy: `podrun`, or `podrun-<hash>`.
    pub fn cgroup(&self) -> String {
        format!("podrun{}", self.suffix("-"))
    }

    /// The default bridge: `podrun0`, or `podrun-<hash>` (15 bytes at the most).
    pub fn bridge(&self) -> String {
        match self.suffix("-") {
            hash if hash.is_empty() => "podrun0".to_owned(),
            hash => format!("podrun{hash}"),
        }
    }

    /// The nftables table: `podrun`, or `podrun_<hash>`.
    pub fn table(&self) -> String {
        format!("podrun{}", self.suffix("_"))
    }

    /// The bridge of a network: that of the default one, or `podrun-<hash>` of run-root and network.
    pub fn bridge_of(&self, network: &str) -> String {
        match network {
            "bridge" => self.bridge(),
            name => format!("podrun-{:08x}", self.hash_of(name)),
        }
    }

    /// The device of an overlay network: `vxlan-<hash>`.
    pub fn vxlan_of(&self, network: &str) -> String {
        format!("vxlan-{:08x}", self.hash_of(network))
    }

    /// The group (netdevice(7), `ip link … group`) of the host's ends of a network that has no bridge. Large, since
    /// people choose small ones.
    pub fn link_group_of(&self, network: &str) -> u32 {
        0x4000_0000 | (self.hash_of(network) & 0x3fff_ffff)
    }

    fn hash_of(&self, network: &str) -> u32 {
        hash(self.run.as_os_str().as_encoded_bytes().iter().chain(b"\0").chain(network.as_bytes()))
    }

    fn suffix(&self, separator: &str) -> String {
        if self.run == Path::new(DEFAULT_RUN_ROOT) {
            return String::new();
        }
        format!("{separator}{:08x}", hash(self.run.as_os_str().as_encoded_bytes()))
    }
}

/// FNV-1a, folded: a name only has to differ between run-roots, and to be the same in every build.
fn hash<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u32 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let folded = (hash >> 32) ^ (hash & 0xffff_ffff);
    u32::try_from(folded).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_run_root_has_other_names_that_fit() {
        let plain = Roots::default();
        let other = Roots { run: "/tmp/x/run".into(), ..Roots::default() };
        assert_eq!((plain.bridge().as_str(), plain.table().as_str()), ("podrun0", "podrun"));
        assert_ne!(plain.cgroup(), other.cgroup());
        assert!(other.bridge().len() <= 15, "{}", other.bridge());
        for roots in [&plain, &other] {
            assert_eq!(roots.bridge_of("bridge"), roots.bridge());
            assert!(roots.bridge_of("front").len() <= 15 && roots.bridge_of("front") != roots.bridge_of("back"));
            assert_ne!(roots.link_group_of("ptp"), roots.link_group_of("other"));
            assert!((0x4000_0000..0x8000_0000).contains(&roots.link_group_of("ptp")), "iproute2 knows no larger one");
        }
        assert_ne!(plain.bridge_of("front"), other.bridge_of("front"));
        assert!(other.table().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
    }

    #[test]
    fn a_users_pods_lie_where_his_files_do() {
        let login = Login { uid: 7, home: Some("/home/a".into()), ..Login::default() };
        let of = |login: Login| Roots::of_user(&login).map(|roots| (roots.root, roots.run));
        let paths = |root: &str, run: &str| Some((PathBuf::from(root), PathBuf::from(run)));
        assert_eq!(of(login.clone()), paths("/home/a/.local/share/podrun", "/tmp/podrun-7"));
        let there = Login { has_run_user: true, ..login.clone() };
        assert_eq!(of(there.clone()), paths("/home/a/.local/share/podrun", "/run/user/7/podrun"));
        let said = Login { data: Some("/d".into()), runtime: Some("/r".into()), ..there.clone() };
        assert_eq!(of(said), paths("/d/podrun", "/r/podrun"));
        let relative = Login { data: Some("d".into()), runtime: Some("r".into()), ..there };
        assert_eq!(of(relative), paths("/home/a/.local/share/podrun", "/run/user/7/podrun"));
        assert_eq!(of(Login::default()), None);
    }

    /// What one build has put on the host another one has to find.
    #[test]
    fn everything_lies_where_it_always_lay() {
        let (namespace, pod) = (NamespaceName::default(), PodName::parse("web").unwrap());
        let (container, id) = (ContainerName::parse("a").unwrap(), PodId::random([0; 16]));
        let zeros = "0".repeat(32);
        let plain = Roots::default();
        let other = Roots { root: "/r".into(), run: "/tmp/x/run".into() };
        for (found, place) in [
            (plain.pod(&id), format!("/run/podrun/pods/{zeros}")),
            (plain.name(&namespace, &pod), "/run/podrun/names/default_web".into()),
            (plain.leases(), "/run/podrun/leases".into()),
            (plain.networks(), "/var/lib/podrun/networks".into()),
            (plain.volumes(&id), format!("/var/lib/podrun/volumes/{zeros}")),
            (plain.container_logs(&namespace, &pod, &id, &container), format!("/var/log/pods/default_web_{zeros}/a")),
            (other.container_logs(&namespace, &pod, &id, &container), format!("/r/log/pods/default_web_{zeros}/a")),
        ] {
            assert_eq!(found, PathBuf::from(place));
        }
        assert_eq!((plain.cgroup(), plain.table()), ("podrun".into(), "podrun".into()));
        let names = (other.cgroup(), other.bridge(), other.table());
        assert_eq!(names, ("podrun-a6004949".into(), "podrun-a6004949".into(), "podrun_a6004949".into()));
    }
}
