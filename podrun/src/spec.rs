//! What podrun itself means by a pod and a container: the words between the command line (or a manifest) and the plan.

#![forbid(unsafe_code)]

pub mod network;
pub mod port;
pub mod service;

use crate::id::{ContainerName, NamespaceName, PodName, VolumeName};
pub use network::{Attach, Network};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A pod as asked for.
#[derive(Debug, Clone)]
pub struct PodSpec {
    pub name: PodName,
    pub namespace: NamespaceName,
    pub hostname: String,
    /// Its interfaces, the first one first. What is all of a network (the host's, none, another pod's) stands alone.
    pub networks: Vec<Attach>,
    pub pid: SharePid,
    pub uts: Owner,
    pub ipc: Owner,
    pub labels: BTreeMap<String, String>,
    pub sysctl: Vec<(String, String)>,
    pub volumes: Vec<VolumeName>,
    pub add_hosts: Vec<String>,
    pub dns: Vec<std::net::IpAddr>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    pub publish: Vec<port::Wish>,
    /// Other pods, by what this one calls them.
    pub links: Vec<network::Link>,
}

/// Whether the containers of a pod see each other's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SharePid {
    #[default]
    No,
    Pod,
}

/// Whose namespace a pod uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Owner {
    #[default]
    Pod,
    Host,
}

/// Whose the namespaces are that sysctls belong to; the network of another pod is not this one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owners {
    pub net: Owner,
    pub uts: Owner,
    pub ipc: Owner,
}

impl PodSpec {
    /// What the pod's first interface leads to.
    pub fn network(&self) -> &Network {
        self.networks.first().map_or(&Network::None, |first| &first.network)
    }
}

/// A container as asked for: an OCI document and what podrun does with it.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    pub name: ContainerName,
    pub oci: Spec,
    /// Where relative paths of the document start.
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub policy: Policy,
    /// The user as written on the command line, to be found in the image; it replaces the document's.
    pub user: Option<String>,
}

/// What the monitor does with a container over its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    pub restart: Restart,
    /// The first wait before a restart; it doubles up to five minutes (kubelet's back-off).
    pub restart_backoff: Duration,
    pub stop_signal: i32,
    pub stdin: Stdin,
    pub log_max_size: Option<u64>,
    pub log_max_files: u32,
    pub remove: Remove,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            restart: Restart::Never,
            restart_backoff: Duration::from_secs(10),
            stop_signal: libc::SIGTERM,
            stdin: Stdin::Closed,
            log_max_size: None,
            log_max_files: 5,
            remove: Remove::ByHand,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    Never,
    OnFailure,
    Always,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stdin {
    /// /dev/null.
    Closed,
    /// A pipe, closed for good when the first client that wrote to it leaves (docker's StdinOnce).
    Open,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Remove {
    ByHand,
    AtExit,
}
