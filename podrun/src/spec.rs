//! What podrun itself means by a pod and a container: the words between the command line (or a manifest) and the plan.

#![forbid(unsafe_code)]

pub mod port;

use crate::error::{Error, Kind, Result};
use crate::id::{ContainerName, NamespaceName, PodName, VolumeName};
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
    pub network: Network,
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
}

/// How a pod is wired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Network {
    /// podrun's own bridge.
    Bridge,
    /// The host's own stack.
    Host,
    /// Loopback and nothing else.
    None,
    /// Another pod's.
    Pod(PodName),
}

impl Network {
    /// `bridge`, `host`, `none` or `pod:NAME`.
    pub fn parse(text: &str) -> Result<Self> {
        match (text, text.split_once(':')) {
            ("bridge", _) => Ok(Self::Bridge),
            ("host", _) => Ok(Self::Host),
            ("none", _) => Ok(Self::None),
            (_, Some(("pod", name))) => Ok(Self::Pod(PodName::parse(name)?)),
            _ => Err(Error::new(Kind::Usage, format!("read the network {text:?}"), "podrun knows no such network")
                .hint("bridge, host, none or pod:NAME")),
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bridge => f.write_str("bridge"),
            Self::Host => f.write_str("host"),
            Self::None => f.write_str("none"),
            Self::Pod(name) => write!(f, "pod:{name}"),
        }
    }
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
