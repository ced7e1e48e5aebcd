//! Verbs about ports: port, update pod, port-forward.

#![forbid(unsafe_code)]

use super::args::{Global, Words};
use super::create::{publishes, wishes};
use super::table;
use crate::error::{Error, Kind, Result};
use crate::net::definition::Driver;
use crate::net::ports::{self, Port};
use crate::pod::forward::{self, Told};
use crate::pod::update;
use crate::spec::network::Network;
use crate::spec::port::Wish;
use clap::Args;
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

#[derive(Debug, Args)]
struct PortVerb {
    #[command(flatten)]
    global: Global,
    pod: String,
    /// Only where this port of the pod is: 80, 53/udp
    port: Option<String>,
    /// json
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
}

/// docker's words: `80/tcp -> 0.0.0.0:8080`.
pub(super) fn port(words: &Words) -> Result<i32> {
    let asked: PortVerb = words.parse("  podrun port web\n  podrun port web 53/udp")?;
    let pod = asked.global.pod(&asked.pod)?;
    let mut all = ports::of(&pod.roots, &pod.record.id);
    if let Some(text) = &asked.port {
        let wish = Wish::parse(text)?.remove(0);
        all.retain(|port| (port.port, port.protocol) == (wish.port, wish.protocol));
        if all.is_empty() {
            let cause = format!("its port {}/{} is not published", wish.port, wish.protocol);
            return Err(Error::new(Kind::NotFound, format!("look at the ports of {}", pod.record.title()), cause));
        }
    }
    match asked.output.as_deref() {
        Some("json") => table::json(&json!(all)),
        None if asked.port.is_some() => all.iter().for_each(|port| table::line(&place(port))),
        None => all.iter().for_each(|port| table::line(&format!("{}/{} -> {}", port.port, port.protocol, place(port)))),
        Some(other) => {
            return Err(Error::new(
                Kind::Usage,
                format!("read the output format {other:?}"),
                "there is none of this name",
            )
            .hint("json"));
        }
    }
    Ok(0)
}

fn place(port: &Port) -> String {
    SocketAddr::new(port.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port.host).to_string()
}

#[derive(Debug, Args)]
struct UpdatePod {
    #[command(flatten)]
    global: Global,
    pod: String,
    /// A port of the host that leads to one of the pod's from now on
    #[arg(short = 'p', long, value_name = "[IP:]HOST:PORT[/PROTO]")]
    publish: Vec<String>,
    /// A port of the host that does no longer
    #[arg(long, value_name = "HOST[/PROTO]")]
    unpublish: Vec<String>,
}

pub(super) fn update(words: &Words) -> Result<i32> {
    let asked: UpdatePod = words.parse(
        "  podrun update pod web --publish 8443:443\n  podrun update pod web --unpublish 8080 --publish 8080:81",
    )?;
    if asked.publish.is_empty() && asked.unpublish.is_empty() {
        return Err(Error::new(Kind::Usage, "read the command line", "nothing is to be changed")
            .hint("give it --publish or --unpublish"));
    }
    let wishes = wishes(&asked.publish)?;
    let pod = asked.global.pod(&asked.pod)?;
    // It may have been connected to a network since it was made.
    let connected = pod.attachments().iter().any(|one| one.host_interface.is_some() || one.driver == Driver::Cni);
    if !connected || matches!(pod.record.network, Network::Pod(_)) {
        publishes([&pod.record.network])?;
    }
    let unpublish: Result<Vec<Vec<Port>>> = asked.unpublish.iter().map(|text| update::named(&pod, text)).collect();
    update::ports(&pod, &wishes, &unpublish?.concat())?;
    let all: Vec<_> = ports::of(&pod.roots, &pod.record.id).iter().map(|port| format!(", {port}")).collect();
    table::line(&format!("pod/{} updated{}", pod.record.name, all.concat()));
    Ok(0)
}

#[derive(Debug, Args)]
struct PortForward {
    #[command(flatten)]
    global: Global,
    pod: String,
    /// The host's and the pod's, 8080:80; one that is the same on both sides, 80; any free one of the host's, :80
    #[arg(required = true, value_name = "[IP:]HOST:PORT[/PROTO]")]
    ports: Vec<String>,
}

pub(super) fn forward(words: &Words) -> Result<i32> {
    let asked: PortForward =
        words.parse("  podrun port-forward web 8080:80\n  podrun port-forward db 5432 0.0.0.0:9090:90 :53/udp")?;
    let wishes: Result<Vec<Vec<Wish>>> = asked.ports.iter().map(|text| Wish::parse(&both_sides(text))).collect();
    let pod = asked.global.pod(&asked.pod)?;
    let name = &pod.record.name;
    let never = forward::forward(&pod, &wishes?.concat(), |told| match told {
        Told::Open { at, port, protocol } => table::line(&format!("{at} leads to port {port}/{protocol} of {name}")),
        Told::Refused(why) => super::warn(&format!("in {name}, {why}")),
    })?;
    match never {}
}

/// kubectl's habit: a port alone is the same on both sides.
fn both_sides(text: &str) -> String {
    let (port, protocol) = text.split_at(text.find('/').unwrap_or(text.len()));
    if port.contains(':') { text.to_owned() } else { format!("{port}:{port}{protocol}") }
}
