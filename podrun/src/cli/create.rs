//! `create pod`.

#![forbid(unsafe_code)]

use super::args::{Global, Words, pair};
use super::table;
use crate::error::{Error, Kind, Result};
use crate::id::{Alias, PodName, VolumeName};
use crate::pod::create;
use crate::pod::view;
use crate::rootless;
use crate::spec::network::{self, Attach, Link, Network};
use crate::spec::port::Wish;
use crate::spec::{Owner, PodSpec, SharePid};
use clap::Args;
use std::collections::BTreeMap;

#[derive(Debug, Args)]
struct CreatePod {
    #[command(flatten)]
    global: Global,
    /// The pod's name
    name: String,
    /// What an interface leads to, the first one out; as often as wanted; bridge by default, pasta without root. A network's
    /// name, or bridge, ptp, host, none, pasta, pod:NAME, netns:PATH, macvlan:parent=IF, ipvlan:parent=IF, cni:CONFLIST (a
    /// name in /etc/cni/net.d, a path, or nothing for the first); keys: ip, mac, mtu, interface, alias, and for a CNI plugin
    /// ingress and egress
    #[arg(long, value_name = "NET[,KEY=VALUE]…")]
    network: Vec<String>,
    /// A port of the host that leads to one of the pod's: 8080:80, 127.0.0.1:53:53/udp, 80 for any free one
    #[arg(short = 'p', long, value_name = "[IP:]HOST:PORT[/PROTO]")]
    publish: Vec<String>,
    /// The hostname of all its containers; the pod's name by default
    #[arg(long)]
    hostname: Option<String>,
    /// One more name of the pod on its networks
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Another pod, and what it is called here: its name leads to it wherever it is
    #[arg(long, value_name = "POD[:NAME]")]
    link: Vec<String>,
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
  podrun create pod shop --publish 8080:80 --publish 127.0.0.1:5353:53/udp
  podrun create pod db --network none --hostname db.local --label tier=back
  podrun create pod side --network pod:web --share pid --volume data
  podrun create pod shop-2 --alias shop --link db:sql
  podrun create pod two --network front,ip=10.89.0.7 --network back,interface=back0";

pub(super) fn pod(words: &Words) -> Result<i32> {
    let asked: CreatePod = words.parse(EXAMPLES)?;
    let format = Format::parse(asked.output.as_deref())?;
    let spec = spec(&asked)?;
    rootless::seek_cgroup();
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
            let addresses = addresses.map(|cidr| cidr.address.to_string());
            let ports = crate::net::ports::of(&roots, &record.id).into_iter().map(|port| port.to_string());
            let facts: Vec<String> = addresses.chain(ports).collect();
            match facts.is_empty() {
                true => table::line(&format!("pod/{} created", record.name)),
                false => table::line(&format!("pod/{} created, {}", record.name, facts.join(", "))),
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
    let mut networks = asked.network.iter().map(|text| Attach::parse(text)).collect::<Result<Vec<_>>>()?;
    if networks.is_empty() {
        networks.push(if rootless::is_user() { Network::Pasta } else { Network::Bridge }.into());
    }
    network::check(&networks)?;
    let links = asked.link.iter().map(|text| Link::parse(text)).collect::<Result<Vec<_>>>()?;
    give_names(&mut networks, &asked.alias, &links)?;
    // Checked here, before anything is made.
    crate::net::files::hostname(&hostname)?;
    let publish = wishes(&asked.publish)?;
    if !publish.is_empty() {
        publishes(networks.iter().map(|one| &one.network))?;
    }
    Ok(PodSpec {
        hostname,
        networks,
        publish,
        links,
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

/// Aliases hold on every network that may resolve names.
fn give_names(networks: &mut [Attach], aliases: &[String], links: &[Link]) -> Result<()> {
    let aliases = aliases.iter().map(|text| Alias::parse(text)).collect::<Result<Vec<_>>>()?;
    let flag = if aliases.is_empty() { "--link" } else { "--alias" };
    if (!aliases.is_empty() || !links.is_empty()) && !networks.iter().any(Attach::may_have_names) {
        let all: Vec<String> = networks.iter().map(|one| one.network.to_string()).collect();
        let cause = format!("podrun resolves no names on {}", all.join(", "));
        return Err(Error::new(Kind::Usage, format!("read {flag}"), cause).hint("give it --network bridge"));
    }
    networks.iter_mut().filter(|one| one.may_have_names()).for_each(|one| one.aliases.extend_from_slice(&aliases));
    Ok(())
}

/// What `--publish` asks for.
pub(super) fn wishes(publish: &[String]) -> Result<Vec<Wish>> {
    let all: Result<Vec<Vec<Wish>>> = publish.iter().map(|text| Wish::parse(text)).collect();
    Ok(all?.concat())
}

/// Ports lead to an address of the pod's own, by a link of the host's own.
pub(super) fn publishes<'a>(networks: impl IntoIterator<Item = &'a Network>) -> Result<()> {
    let mut refused = None;
    for network in networks {
        let (cause, hint) = match network {
            Network::Bridge | Network::Ptp | Network::Named(_) | Network::Cni(_) | Network::Pasta => return Ok(()),
            Network::Host => (
                "a pod on the host's network has the host's ports as they are",
                "leave --publish out: what listens in the pod listens on the host".to_owned(),
            ),
            Network::None => ("a pod without network has no address", "give it --network bridge".to_owned()),
            Network::Netns(_) => ("the network is somebody else's", "publish the ports where it was made".to_owned()),
            Network::Macvlan(_) | Network::Ipvlan(_) => (
                "the pod has an address of its own beside the host's, and all its ports are reached there",
                "give it another interface, --network bridge, for a port of the host's".to_owned(),
            ),
            Network::Pod(other) => (
                "the network, and its ports, are another pod's",
                format!("`podrun update pod {other} --publish …` publishes them there"),
            ),
        };
        refused = refused.or(Some(Error::new(Kind::Usage, "read --publish", cause).hint(hint)));
    }
    refused.map_or(Ok(()), Err)
}
