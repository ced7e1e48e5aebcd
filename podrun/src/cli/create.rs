//! `create pod`.

#![forbid(unsafe_code)]

use super::args::{Global, Words, pair};
use super::table;
use crate::error::{Error, Kind, Result};
use crate::id::{PodName, VolumeName};
use crate::pod::create;
use crate::pod::view;
use crate::spec::network::{self, Attach};
use crate::spec::{Owner, PodSpec, SharePid};
use clap::Args;
use std::collections::BTreeMap;

#[derive(Debug, Args)]
struct CreatePod {
    #[command(flatten)]
    global: Global,
    /// The pod's name
    name: String,
    /// What an interface leads to, the first one out; as often as wanted. A network's name, or bridge, ptp, host, none,
    /// pod:NAME, netns:PATH, macvlan:parent=IF, ipvlan:parent=IF; keys: ip, mac, mtu, interface
    #[arg(long, default_value = "bridge", value_name = "NET[,KEY=VALUE]…")]
    network: Vec<String>,
    /// The hostname of all its containers; the pod's name by default
    #[arg(long)]
    hostname: Option<String>,
    /// Namespaces that the containers share besides network, hostname and IPC: pid
    #[arg(long, value_name = "NAMESPACE")]
    share: Vec<String>,
    /// Use the host's hostname
    #[arg(long)]
    host_uts: bool,
    /// Use the host's IPC namespace
    #[arg(long)]
    host_ipc: bool,
    /// A label, for people and their tools
    #[arg(short = 'l', long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// A sysctl of the pod's own namespaces
    #[arg(long, value_name = "KEY=VALUE")]
    sysctl: Vec<String>,
    /// A volume that lives as long as the pod; containers mount it with -v NAME:DST
    #[arg(long, value_name = "NAME")]
    volume: Vec<String>,
    /// A line of /etc/hosts
    #[arg(long, value_name = "NAME:IP")]
    add_host: Vec<String>,
    /// A DNS server, instead of the host's
    #[arg(long, value_name = "IP")]
    dns: Vec<String>,
    /// A domain to search names in
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// An option of resolv.conf(5)
    #[arg(long, value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Say it as: name, json
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
}

const EXAMPLES: &str = "  podrun create pod web
  podrun create pod db --network none --hostname db.local --label tier=back
  podrun create pod side --network pod:web --share pid --volume data
  podrun create pod two --network front,ip=10.89.0.7 --network back,interface=back0";

pub(super) fn pod(words: &Words) -> Result<i32> {
    let asked: CreatePod = words.parse(EXAMPLES)?;
    let format = Format::parse(asked.output.as_deref())?;
    let spec = spec(&asked)?;
    let roots = asked.global.roots()?;
    let created = create::create(&roots, &spec)?;
    for warning in &created.warnings {
        super::warn(warning);
    }
    let record = created.record;
    match format {
        Format::Name => table::line(&format!("pod/{}", record.name)),
        Format::Json => {
            let pod = crate::pod::find::pod(&roots, &record.namespace, record.id.as_str())?;
            table::json(&view::inspect(&pod));
        }
        Format::Plain => {
            let addresses = created.attachments.iter().flat_map(|attachment| &attachment.addresses);
            let addresses: Vec<String> = addresses.map(|cidr| cidr.address.to_string()).collect();
            match addresses.is_empty() {
                true => table::line(&format!("pod/{} created", record.name)),
                false => table::line(&format!("pod/{} created, {}", record.name, addresses.join(", "))),
            }
        }
    }
    Ok(0)
}

/// How a verb that makes something says what it made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Plain,
    Name,
    Json,
}

impl Format {
    pub(super) fn parse(text: Option<&str>) -> Result<Self> {
        match text {
            None => Ok(Self::Plain),
            Some("name") => Ok(Self::Name),
            Some("json") => Ok(Self::Json),
            Some(other) => {
                Err(Error::new(Kind::Usage, format!("read the output format {other:?}"), "there is none of this name")
                    .hint("name or json"))
            }
        }
    }
}

fn spec(asked: &CreatePod) -> Result<PodSpec> {
    let name = PodName::parse(&asked.name)?;
    let namespace = asked.global.namespace()?;
    let pid = match asked.share.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => SharePid::No,
        ["pid"] => SharePid::Pod,
        ref other => {
            return Err(Error::new(
                Kind::Usage,
                format!("read --share {}", other.join(",")),
                "only pid can be shared besides",
            )
            .hint("network, hostname and IPC are shared always"));
        }
    };
    let owner = |host: bool| if host { Owner::Host } else { Owner::Pod };
    let dns = asked.dns.iter().map(|text| {
        text.parse().map_err(|_| Error::new(Kind::Usage, format!("read the DNS server {text:?}"), "not an address"))
    });
    let hostname = match (&asked.hostname, asked.host_uts) {
        (Some(_), true) => {
            return Err(Error::new(
                Kind::Usage,
                "read --hostname",
                "a pod with the host's hostname has none of its own",
            ));
        }
        (Some(hostname), false) => hostname.clone(),
        (None, true) => nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        (None, false) => name.to_string(),
    };
    let networks = asked.network.iter().map(|text| Attach::parse(text)).collect::<Result<Vec<_>>>()?;
    network::check(&networks)?;
    // Checked here, before anything is made.
    crate::net::files::hostname(&hostname)?;
    Ok(PodSpec {
        hostname,
        networks,
        pid,
        uts: owner(asked.host_uts),
        ipc: owner(asked.host_ipc),
        labels: asked.label.iter().map(|text| pair("label", text)).collect::<Result<BTreeMap<_, _>>>()?,
        sysctl: asked.sysctl.iter().map(|text| pair("sysctl", text)).collect::<Result<_>>()?,
        volumes: asked.volume.iter().map(|text| VolumeName::parse(text)).collect::<Result<_>>()?,
        add_hosts: asked.add_host.clone(),
        dns: dns.collect::<Result<_>>()?,
        dns_search: asked.dns_search.clone(),
        dns_options: asked.dns_option.clone(),
        name,
        namespace,
    })
}
