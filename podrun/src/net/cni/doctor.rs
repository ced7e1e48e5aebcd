//! What `podrun doctor` tells of CNI: configurations that are broken, plugins that are missing, too old or not ready.

#![forbid(unsafe_code)]

use super::conflist::{self, Chain, Version};
use super::exec::{self, Subject, Verb};
use super::{Places, kept};
use crate::error::Error;
use crate::net::doctor::{Finding, State};
use crate::roots::Roots;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// STATUS and VERSION are questions that are answered at once.
const SOON: Duration = Duration::from_secs(5);

/// Pods suffer from what is wrong with a network that one of them is on; of another it is worth knowing.
pub fn findings(roots: &Roots) -> Vec<Finding> {
    let places = Places::of_this_host();
    let used: BTreeSet<String> = kept::all(roots).0.into_iter().map(|held| held.kept.chain.name).collect();
    let mut found = Vec::new();
    let files = match conflist::files(&places.configurations) {
        Ok(files) => files,
        Err(err) => return vec![finding(State::Note, err.to_string(), None)],
    };
    for file in files {
        match conflist::read(&file) {
            Err(err) => found.push(broken(&err, &file)),
            Ok(chain) => {
                let bad = if used.contains(&chain.name) { State::Bad } else { State::Note };
                let wrong = look(&chain, &places.plugins, bad);
                match wrong.is_empty() {
                    true => found.push(finding(State::Good, format!("the CNI network {} is ready", chain.name), None)),
                    false => found.extend(wrong),
                }
            }
        }
    }
    found
}

fn finding(state: State, what: String, cure: Option<String>) -> Finding {
    Finding { what, state, cure }
}

fn broken(err: &Error, file: &Path) -> Finding {
    let what = format!("no CNI network by {}: {}", file.display(), err.cause());
    finding(State::Note, what, Some("mend the file, or remove it".to_owned()))
}

/// What is wrong with one network: plugins first, since without them there is nobody to ask.
fn look(chain: &Chain, path: &[PathBuf], bad: State) -> Vec<Finding> {
    let name = &chain.name;
    let missing: Vec<Finding> = chain
        .programs()
        .into_iter()
        .filter_map(|program| exec::find(program, path).err())
        .map(|err| {
            let what = format!("the CNI network {name}: {}: {}", err.what_was_being_done(), err.cause());
            finding(bad, what, err.cure().map(str::to_owned))
        })
        .collect();
    if !missing.is_empty() {
        return missing;
    }
    let mut found: Vec<Finding> = chain.plugins.iter().filter_map(|plugin| version(chain, plugin, path, bad)).collect();
    // STATUS came with 1.1.
    if found.is_empty() && chain.version >= Version(1, 1, 0) {
        let status = chain.plugins.iter().filter_map(|plugin| {
            let request = chain.request(plugin, &Map::new(), None);
            exec::ask(Verb::Status, chain, plugin, &request, &Subject::default(), path, Instant::now() + SOON).err()
        });
        let not_ready =
            |err: Error| format!("the CNI network {name} is not ready: {}: {}", err.what_was_being_done(), err.cause());
        found.extend(status.map(|err| finding(bad, not_ready(err), None)));
    }
    found
}

/// Whether a plugin speaks the chain's version.
fn version(chain: &Chain, plugin: &conflist::Plugin, path: &[PathBuf], bad: State) -> Option<Finding> {
    let mut request = Map::new();
    request.insert("cniVersion".to_owned(), chain.version.to_string().into());
    let asked = exec::ask(Verb::Version, chain, plugin, &request, &Subject::default(), path, Instant::now() + SOON);
    let said = match asked {
        Ok(said) => said,
        Err(err) => return Some(finding(bad, err.to_string(), None)),
    };
    let answer: Value = serde_json::from_slice(&said).unwrap_or_default();
    let known: Vec<&str> =
        answer["supportedVersions"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if known.contains(&chain.version.to_string().as_str()) {
        return None;
    }
    let known = if known.is_empty() { "no version that podrun can read".to_owned() } else { known.join(", ") };
    let what = format!(
        "the CNI network {} is of cniVersion {}, and its plugin {} speaks {known}",
        chain.name, chain.version, plugin.kind
    );
    Some(finding(bad, what, Some("install newer plugins, or lower cniVersion in its configuration".to_owned())))
}
