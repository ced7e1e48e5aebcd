//! Services, as somebody makes and looks at them.

#![forbid(unsafe_code)]

use crate::error::{Error, Kind, Result};
use crate::id::{NamespaceName, ServiceName};
use crate::monitor::services;
use crate::net::cidr::Cidr;
use crate::net::service::{self, Service};
use crate::roots::Roots;
use crate::store;
use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// Makes a service, at once in force for pods that run.
pub fn create(roots: &Roots, service: Service, wished: Option<Ipv4Addr>, range: Cidr) -> Result<Service> {
    let doing = || format!("create the service {}", service.title());
    let refuse = |cause: &str| Err(Error::new(Kind::Usage, doing(), cause));
    if service.ports.is_empty() {
        return refuse("it needs a --port");
    }
    if let Some(what) = range.is_no_hosts() {
        return refuse(&format!("{range} has {what} addresses, which are no service's"));
    }
    if range.address.is_ipv6() {
        return refuse(&format!("services speak IPv4 alone, and {range} is of IPv6"));
    }
    if let Some(endpoint) = service.endpoints.iter().find(|endpoint| range.contains(endpoint.ip.into())) {
        return refuse(&format!("the endpoint {endpoint} is a service's address, {range}, and serves nobody"));
    }
    if service.selector.is_empty() && service.endpoints.is_empty() {
        return refuse("it leads to nobody: it needs a --selector or an --endpoint");
    }
    let mut ports: Vec<_> = service.ports.iter().map(|port| (port.port, port.protocol)).collect();
    ports.sort_unstable();
    if ports.windows(2).any(|pair| pair[0] == pair[1]) {
        return refuse("a port is given twice");
    }
    if service.ports.len() > 1 && service.endpoints.iter().any(|endpoint| endpoint.port.is_some()) {
        return refuse("with several ports an endpoint has no port of its own");
    }
    store::make_private_dir(&roots.root, 0o700)?;
    let made = service::create(roots, service, wished, range)?;
    match services::sync(roots) {
        Ok(()) => Ok(made),
        Err(err) => {
            service::remove(roots, &made.namespace, &made.name)?;
            Err(err.within(format!("create the service {}", made.title())))
        }
    }
}

pub fn remove(roots: &Roots, namespace: &NamespaceName, name: &ServiceName) -> Result<()> {
    service::remove(roots, namespace, name)?;
    services::sync(roots).map_err(|err| err.within(format!("remove the service {name}")))
}

/// A service with those who serve it now.
pub fn inspect(roots: &Roots, service: &Service) -> Value {
    let pods = services::candidates(roots);
    let serving = pods.iter().filter(|pod| pod.is_of(service));
    let serving: Vec<Value> = serving.map(|pod| json!({"pod": pod.record.title(), "ip": pod.ip})).collect();
    let mut said = json!(service);
    said["pods"] = Value::Array(serving);
    said
}
