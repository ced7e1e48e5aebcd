//! Finding pods and containers by what people type: a name, a namespace and a name, an id or the beginning of one.

#![forbid(unsafe_code)]

use crate::error::{Error, Kind, Result};
use crate::id::{ContainerName, NamespaceName, PodId, PodName};
use crate::net::Attachment;
use crate::roots::Roots;
use crate::spec::Network;
use crate::store::{self, ContainerRecord, Keepers, PodDir, PodRecord};

/// kubectl's way to say that a pod is meant, and what `-o name` prints; no name of a pod has a slash.
pub const KUBECTL: &str = "pod/";

/// A pod that is there, whole.
#[derive(Debug, Clone)]
pub struct Pod {
    pub roots: Roots,
    pub dir: PodDir,
    pub record: PodRecord,
}

/// By name within a namespace; a full id is taken as well.
pub fn pod(roots: &Roots, namespace: &NamespaceName, text: &str) -> Result<Pod> {
    let (id, dir) = directory(roots, namespace, text)?;
    let record: PodRecord = store::read(&dir.record()).map_err(|err| match err.kind {
        Kind::NotFound if store::is_locked(&dir) => {
            Error::new(Kind::NotNow, format!("find the pod {text}"), "it is being made or deleted at this moment")
        }
        Kind::NotFound => Error::new(
            Kind::NotNow,
            format!("find the pod {text}"),
            format!("its making was cut short ({})", id.short()),
        )
        .hint(format!("`podrun delete pod {text}` removes what is there")),
        _ => err,
    })?;
    // The pod's own record stays as its first build wrote it; who serves it now may be of a later one.
    match store::read::<Keepers>(&dir.keepers()) {
        Err(err) if err.kind == Kind::Unsupported => Err(err),
        _ => Ok(Pod { roots: roots.clone(), dir, record }),
    }
}

/// The same for pods of which the record may be missing or damaged, as `delete` needs it.
pub fn directory(roots: &Roots, namespace: &NamespaceName, text: &str) -> Result<(PodId, PodDir)> {
    let text = text.strip_prefix(KUBECTL).unwrap_or(text);
    if let Ok(id) = PodId::parse(text) {
        let dir = roots.pod(&id);
        if dir.is_dir() {
            return Ok((id, PodDir(dir)));
        }
    }
    let name = PodName::parse(text)?;
    let link = roots.name(namespace, &name);
    let id = std::fs::read_link(&link)
        .ok()
        .and_then(|target| PodId::parse(target.file_name()?.to_str()?).ok())
        .ok_or_else(|| missing(roots, namespace, text))?;
    let dir = roots.pod(&id);
    Ok((id, PodDir(dir)))
}

fn missing(roots: &Roots, namespace: &NamespaceName, text: &str) -> Error {
    // `logs -n 5` is a namespace here, and tail's lines elsewhere.
    let cause = match namespace.as_str() {
        "default" => "there is none of this name".to_owned(),
        other => format!("there is none of this name in the namespace {other}"),
    };
    let err = Error::new(Kind::NotFound, format!("find the pod {text}"), cause);
    let known: Vec<String> = store::pods(roots)
        .into_iter()
        .filter_map(|(.., record)| record.ok())
        .filter(|record| record.namespace == *namespace)
        .map(|record| record.name.to_string())
        .collect();
    with_near_names(err, text, &known)
}

fn with_near_names(err: Error, text: &str, known: &[String]) -> Error {
    match near(text, known) {
        names if names.is_empty() => err,
        names => err.hint(format!("did you mean {}?", names.join(" or "))),
    }
}

/// Names that differ by little: at most two edits that leave something of it, or one that begins with the other.
pub fn near(text: &str, known: &[String]) -> Vec<String> {
    let few = |name: &str| distance(text, name) <= 2.min(text.len().max(name.len()).saturating_sub(1));
    let close = |name: &&String| few(name) || (text.len() > 2 && name.starts_with(text));
    known.iter().filter(close).take(3).cloned().collect()
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

impl Pod {
    /// By its own wish, or as another pod's whose network it has.
    pub fn has_the_hosts_network(&self) -> bool {
        let network = match &self.record.network_of {
            Some(owner) => {
                store::read::<PodRecord>(&PodDir(self.roots.pod(owner)).record()).map(|record| record.network)
            }
            None => Ok(self.record.network.clone()),
        };
        network.is_ok_and(|network| network == Network::Host)
    }

    /// Its interfaces, the first one first.
    pub fn attachments(&self) -> Vec<Attachment> {
        store::attachments(&self.dir, &self.record)
    }

    /// Its containers, oldest first.
    pub fn containers(&self) -> Vec<ContainerRecord> {
        store::containers(&self.dir)
    }

    pub fn container(&self, name: &ContainerName) -> Result<ContainerRecord> {
        store::read(&self.dir.container(name)).map_err(|err| match err.kind {
            Kind::NotFound => {
                let known: Vec<String> = self.containers().iter().map(|record| record.name.to_string()).collect();
                let cause = match known.is_empty() {
                    true => format!("the pod {} has no containers", self.record.title()),
                    false => format!("the pod {} has none of this name", self.record.title()),
                };
                let err = Error::new(Kind::NotFound, format!("find the container {name}"), cause);
                match near(name.as_str(), &known) {
                    names if names.is_empty() && !known.is_empty() => err.hint(format!("it has {}", known.join(", "))),
                    _ => with_near_names(err, name.as_str(), &known),
                }
            }
            _ => err,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_those_that_a_typo_makes() {
        let known = ["web".to_owned(), "worker".to_owned(), "database".to_owned()];
        assert_eq!(near("wbe", &known), ["web"]);
        assert_eq!(near("data", &known), ["database"]);
        assert!(near("completely", &known).is_empty());
    }
}
