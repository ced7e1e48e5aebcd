//! Verbs about services: create, ls, inspect, rm.

#![forbid(unsafe_code)]

use super::args::{Global, Words, pair};
use super::create::Format;
use super::table;
use crate::error::{Kind, Result};
use crate::id::ServiceName;
use crate::net::cidr::Cidr;
use crate::net::service::{self, Service};
use crate::pod::service as services;
use crate::record::Stamp;
use crate::spec::service::{Affinity, Endpoint, ServicePort};
use clap::Args;
use serde_json::Value;
use std::net::Ipv4Addr;

#[derive(Debug, Args)]
struct Create {
    #[command(flatten)]
    global: Global,
    name: String,
    /// Pods with this label serve, with all of them where there are several
    #[arg(short = 'l', long, value_name = "KEY=VALUE", value_delimiter = ',')]
    selector: Vec<String>,
    /// A port of the service, and the pods' where it differs
    #[arg(short = 'p', long, value_name = "PORT[:TARGET][/PROTO]", value_delimiter = ',')]
    port: Vec<String>,
    /// Somebody elsewhere who serves, too
    #[arg(long, value_name = "IP[:PORT]", value_delimiter = ',')]
    endpoint: Vec<String>,
    /// Its address; the next free one by default
    #[arg(long, value_name = "IP")]
    ip: Option<Ipv4Addr>,
    /// The range that its address is of
    #[arg(long, value_name = "RANGE", default_value = "10.96.0.0/16")]
    service_cidr: String,
    /// None, or ClientIP: a client stays with the pod that it met first
    #[arg(long, value_name = "KIND", default_value = "None")]
    session_affinity: String,
    /// Say it as: name, json
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
}

pub(super) fn create(words: &Words) -> Result<i32> {
    let asked: Create = words.parse(
        "  podrun service create web --selector app=web --port 80:8080\n  \
         podrun service create db --endpoint 192.0.2.7 --port 5432",
    )?;
    let format = Format::parse(asked.output.as_deref())?;
    let range = Cidr::parse(&asked.service_cidr).map_err(|err| err.kind(Kind::Usage))?.network();
    let service = Service {
        namespace: asked.global.namespace()?,
        name: ServiceName::parse(&asked.name)?,
        ip: Ipv4Addr::UNSPECIFIED,
        ports: asked.port.iter().map(|text| ServicePort::parse(text)).collect::<Result<_>>()?,
        selector: asked.selector.iter().map(|text| pair("selector", text)).collect::<Result<_>>()?,
        endpoints: asked.endpoint.iter().map(|text| Endpoint::parse(text)).collect::<Result<_>>()?,
        session_affinity: Affinity::parse(&asked.session_affinity)?,
        created_at: Stamp::now().text(),
    };
    let roots = asked.global.roots()?;
    let made = services::create(&roots, service, asked.ip, range)?;
    match format {
        Format::Name => table::line(&format!("service/{}", made.name)),
        Format::Json => table::json(&services::inspect(&roots, &made)),
        Format::Plain => table::line(&format!("service/{} created, {}", made.name, made.ip)),
    }
    Ok(0)
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    global: Global,
    /// Of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// json or name
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
}

pub(super) fn list(words: &Words) -> Result<i32> {
    let asked: List = words.parse("  podrun service ls\n  podrun service ls -A -o json")?;
    let (roots, namespace) = (asked.global.readable()?, asked.global.namespace()?);
    let (mut all, mut broken) = (Vec::new(), Vec::new());
    for one in service::list(&roots)? {
        one.map_or_else(|err| broken.push(err), |one| all.push(one));
    }
    broken.iter().for_each(|err| super::warn(&err.to_string()));
    all.retain(|one| asked.all_namespaces || one.namespace == namespace);
    let said = || all.iter().map(|one| services::inspect(&roots, one));
    match Format::parse(asked.output.as_deref())? {
        Format::Name => all.iter().for_each(|one| table::line(one.name.as_str())),
        Format::Json => table::json(&Value::Array(said().collect())),
        Format::Plain => {
            let rows: Vec<Vec<String>> = all.iter().zip(said()).map(|(one, said)| row(one, &said)).collect();
            table::table(&["SERVICE", "ADDRESS", "PORTS", "SELECTOR", "SERVED BY"], &rows);
        }
    }
    Ok(0)
}

fn row(service: &Service, said: &Value) -> Vec<String> {
    let or_none = |words: Vec<String>| if words.is_empty() { "-".to_owned() } else { words.join(",") };
    let ports = service.ports.iter().map(ToString::to_string).collect();
    let selector = service.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let pods = said["pods"].as_array().into_iter().flatten().filter_map(|pod| pod["pod"].as_str().map(str::to_owned));
    let by = pods.chain(service.endpoints.iter().map(ToString::to_string)).collect();
    vec![service.title(), service.ip.to_string(), or_none(ports), or_none(selector), or_none(by)]
}

#[derive(Debug, Args)]
struct Named {
    #[command(flatten)]
    global: Global,
    #[arg(required = true)]
    name: Vec<String>,
}

pub(super) fn inspect(words: &Words) -> Result<i32> {
    let asked: Named = words.parse("  podrun service inspect web")?;
    let (roots, namespace) = (asked.global.readable()?, asked.global.namespace()?);
    let found = asked.name.iter().map(|name| service::find(&roots, &namespace, &ServiceName::parse(name)?));
    let all = found.map(|one| Ok(services::inspect(&roots, &one?))).collect::<Result<Vec<_>>>()?;
    table::json_of_all(all);
    Ok(0)
}

pub(super) fn remove(words: &Words) -> Result<i32> {
    let asked: Named = words.parse("  podrun service rm web")?;
    let (roots, namespace) = (asked.global.readable()?, asked.global.namespace()?);
    super::all(asked.name.iter().map(|name| {
        services::remove(&roots, &namespace, &ServiceName::parse(name)?)?;
        table::line(&format!("service/{name} removed"));
        Ok(())
    }))
}
