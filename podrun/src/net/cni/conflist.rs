//! Network configurations of CNI: what an administrator says a network is (CNI specification 1.1, section 1).
//!
//! A file is read twice: once as typed words, so that a mistake is told with its line, and once as it is, since a plugin gets
//! every word of its own. [`find`] and [`files`] look into the directory; all else is pure.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// A configuration is a few hundred bytes; what is larger than this is something else.
const LARGEST: u64 = 1 << 20;

/// Versions of the protocol that podrun speaks. The older ones know neither chains nor results with interfaces.
pub const SPOKEN: [Version; 5] =
    [Version(0, 3, 0), Version(0, 3, 1), Version(0, 4, 0), Version(1, 0, 0), Version(1, 1, 0)];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    pub fn parse(text: &str) -> Option<Self> {
        let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten();
        let mut parts = text.splitn(3, '.').map(number);
        let mut next = || parts.next().unwrap_or(None);
        Some(Self(next()?, next()?, next()?))
    }

    pub fn is_spoken(self) -> bool {
        SPOKEN.contains(&self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is not a version, as in \"1.1.0\"")))
    }
}

/// A network: plugins that are run one after another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Chain {
    pub name: String,
    pub version: Version,
    pub disable_check: bool,
    pub disable_gc: bool,
    pub plugins: Vec<Plugin>,
}

/// One plugin and its words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plugin {
    /// The name of its program.
    pub kind: String,
    /// That of the program which hands out addresses for it.
    pub ipam: Option<String>,
    pub capabilities: Vec<String>,
    pub words: Map<String, Value>,
}

impl Chain {
    /// Whether some plugin takes this word of `runtimeConfig`.
    pub fn has(&self, capability: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.capabilities.iter().any(|one| one == capability))
    }

    /// Every program that is needed.
    pub fn programs(&self) -> Vec<&str> {
        let all = self.plugins.iter().flat_map(|plugin| [Some(plugin.kind.as_str()), plugin.ipam.as_deref()]);
        all.flatten().collect()
    }

    /// What a plugin reads: its own words, the network's name and version, what the runtime has to say and the plugin asked
    /// for, and the result so far. Keys of `cni.dev/` are the protocol's own, and no file's.
    pub fn request(&self, plugin: &Plugin, runtime: &Map<String, Value>, former: Option<&Value>) -> Map<String, Value> {
        let mut words = plugin.words.clone();
        words.retain(|key, _| key != "capabilities" && key != "prevResult" && !key.starts_with("cni.dev/"));
        words.insert("name".to_owned(), self.name.clone().into());
        words.insert("cniVersion".to_owned(), self.version.to_string().into());
        let asked = runtime.iter().filter(|(key, _)| plugin.capabilities.contains(key));
        let asked: Map<String, Value> = asked.map(|(key, value)| (key.clone(), value.clone())).collect();
        if !asked.is_empty() {
            words.insert("runtimeConfig".to_owned(), asked.into());
        }
        if let Some(former) = former {
            words.insert("prevResult".to_owned(), former.clone());
        }
        words
    }
}

/// What CNI takes for the name of a network, which becomes part of file names.
pub fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    text.len() <= 128 && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) && text.bytes().all(plain)
}

/// A program's name: never a way to another directory (CVE-2021-20206).
pub fn is_program(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=128).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('.')
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    #[serde(deserialize_with = "name")]
    name: String,
    cni_version: Option<Version>,
    #[serde(default)]
    cni_versions: Vec<Version>,
    #[serde(default, deserialize_with = "flag")]
    disable_check: bool,
    #[serde(default, rename = "disableGC", deserialize_with = "flag")]
    disable_gc: bool,
    #[serde(default, deserialize_with = "flag")]
    load_only_inlined_plugins: bool,
    plugins: Option<Vec<Typed>>,
}

/// A file with one plugin has the list's words and the plugin's.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Single {
    #[serde(deserialize_with = "name")]
    name: String,
    cni_version: Option<Version>,
}

/// What of a plugin's words is anybody's business but its own.
#[derive(Debug, Deserialize)]
struct Typed {
    #[serde(rename = "type", deserialize_with = "program")]
    kind: String,
    #[serde(default)]
    capabilities: BTreeMap<String, bool>,
    #[serde(default)]
    ipam: Option<Ipam>,
}

#[derive(Debug, Deserialize)]
struct Ipam {
    #[serde(default, rename = "type", deserialize_with = "some_program")]
    kind: Option<String>,
}

fn name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    match is_name(&text) {
        true => Ok(text),
        false => Err(D::Error::custom(format!(
            "{text:?} is not the name of a network: letters, digits, '.', '_' and '-', the first a letter or digit"
        ))),
    }
}

fn program<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    match is_program(&text) {
        true => Ok(text),
        false => Err(D::Error::custom(format!("the type {text:?} is not the name of a plugin, which has no slash"))),
    }
}

fn some_program<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    program(from).map(Some)
}

/// `true`, and the words that libcni takes for it.
fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    match Value::deserialize(from)? {
        Value::Bool(flag) => Ok(flag),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        other => Err(D::Error::custom(format!("{other} is neither true nor false"))),
    }
}

/// A file's chain, and whether plugins of its directory belong to it.
fn parse(text: &[u8], is_list: bool) -> Result<(Chain, bool), String> {
    let told = |err: serde_json::Error| err.to_string();
    let raw: Value = serde_json::from_slice(text).map_err(told)?;
    if !is_list {
        let single: Single = serde_json::from_slice(text).map_err(told)?;
        let version = version(single.cni_version, &[])?;
        let plugins = vec![plugin(serde_json::from_slice(text).map_err(told)?, &raw)];
        return Ok((Chain { name: single.name, version, disable_check: false, disable_gc: false, plugins }, false));
    }
    let list: List = serde_json::from_slice(text).map_err(told)?;
    let raw = raw["plugins"].as_array().cloned().unwrap_or_default();
    let version = version(list.cni_version, &list.cni_versions)?;
    let plugins = list.plugins.unwrap_or_default().into_iter().zip(&raw).map(|(typed, raw)| plugin(typed, raw));
    let chain = Chain {
        name: list.name,
        version,
        disable_check: list.disable_check,
        disable_gc: list.disable_gc,
        plugins: plugins.collect(),
    };
    Ok((chain, !list.load_only_inlined_plugins))
}

fn plugin(typed: Typed, raw: &Value) -> Plugin {
    let capabilities = typed.capabilities.into_iter().filter(|(_, on)| *on).map(|(name, _)| name);
    Plugin {
        kind: typed.kind,
        ipam: typed.ipam.and_then(|ipam| ipam.kind),
        capabilities: capabilities.collect(),
        words: raw.as_object().cloned().unwrap_or_default(),
    }
}

/// The highest that the file has and podrun speaks. A file that says none is of the first days.
fn version(one: Option<Version>, more: &[Version]) -> Result<Version, String> {
    let all: Vec<Version> = one.into_iter().chain(more.iter().copied()).collect();
    let spoken = all.iter().copied().filter(|version| version.is_spoken()).max();
    spoken.ok_or_else(|| {
        let said = match all.iter().max_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal)) {
            Some(version) => format!("cniVersion {version}"),
            None => "no cniVersion".to_owned(),
        };
        format!("{said}: podrun speaks {} to {}", SPOKEN[0], SPOKEN[SPOKEN.len() - 1])
    })
}

/// Reads one file, with the plugins that a directory of the network's name beside it adds (libcni 1.3).
pub fn read(path: &Path) -> Result<Chain> {
    let doing = || format!("read {}", path.display());
    let bad = |cause: String| Error::new(Kind::Invalid, doing(), cause);
    let text = contents(path)?;
    // A list by its ending, as everywhere; by its content where the path was given and has another one.
    let is_list = path.extension().is_some_and(|ending| ending == "conflist")
        || serde_json::from_slice::<Map<String, Value>>(&text).is_ok_and(|words| words.contains_key("plugins"));
    let (mut chain, takes_more) = parse(&text, is_list).map_err(bad)?;
    if let Some(directory) = path.parent().filter(|_| takes_more) {
        for file in listed(&directory.join(&chain.name), &["conf"])? {
            let bad = |err: serde_json::Error| Error::new(Kind::Invalid, format!("read {}", file.display()), err);
            let text = contents(&file)?;
            chain.plugins.push(plugin(
                serde_json::from_slice(&text).map_err(bad)?,
                &serde_json::from_slice(&text).map_err(bad)?,
            ));
        }
    }
    match chain.plugins.is_empty() {
        true => Err(bad("it has no plugins".to_owned())),
        false => Ok(chain),
    }
}

fn contents(path: &Path) -> Result<Vec<u8>> {
    let doing = || format!("read {}", path.display());
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| {
        let regular = file.metadata()?.is_file();
        let all = if regular { file.take(LARGEST + 1).read_to_end(&mut text)? } else { 0 };
        Ok((regular, all))
    });
    match read.doing(doing)? {
        (false, _) => Err(Error::new(Kind::Invalid, doing(), "it is no regular file")),
        (true, all) if u64::try_from(all).is_ok_and(|all| all > LARGEST) => {
            Err(Error::new(Kind::Invalid, doing(), format!("it is larger than {LARGEST} bytes")))
        }
        _ => Ok(text),
    }
}

fn listed(directory: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let listing = match fs::read_dir(directory) {
        Err(err) if matches!(err.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        other => other.doing(|| format!("read {}", directory.display()))?,
    };
    let wanted = |path: &PathBuf| {
        path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| endings.contains(&ending))
    };
    let mut found: Vec<PathBuf> = listing.flatten().map(|entry| entry.path()).filter(wanted).collect();
    found.retain(|path| !path.is_dir());
    found.sort();
    Ok(found)
}

/// Every configuration of a directory, in the order that says which is the default.
pub fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    listed(directory, &["conf", "conflist", "json"])
}

/// What `cni:WHICH` means: a path, a network's name, or, without any word, the first file.
pub fn find(directory: &Path, which: &str) -> Result<Chain> {
    if which.contains('/') {
        return read(Path::new(which));
    }
    let doing = || match which {
        "" => "find the default CNI network".to_owned(),
        name => format!("find the CNI network {name}"),
    };
    let mut files = files(directory)?;
    if which.is_empty() {
        return match files.first() {
            Some(first) => read(first),
            None => Err(Error::new(
                Kind::NotFound,
                doing(),
                format!("there is no configuration in {}", directory.display()),
            )),
        };
    }
    // A list wins over a single plugin of the same name (libcni).
    files.sort_by_key(|path| path.extension().is_some_and(|ending| ending != "conflist"));
    let (mut names, mut broken) = (Vec::new(), Vec::new());
    for file in &files {
        match read(file) {
            Ok(chain) if chain.name == which => return Ok(chain),
            Ok(chain) => names.push(chain.name),
            Err(err) => broken.push(format!("{}: {}", err.what_was_being_done(), err.cause())),
        }
    }
    let mut told = Vec::new();
    told.extend((!names.is_empty()).then(|| format!("there are {}", names.join(", "))));
    told.extend(broken);
    let err = Error::new(Kind::NotFound, doing(), format!("no configuration in {} has this name", directory.display()));
    Err(match told.is_empty() {
        true => err,
        false => err.hint(told.join("; ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn list(text: &str) -> Result<Chain, String> {
        parse(text.as_bytes(), true).map(|(chain, _)| chain)
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        for (text, why) in [
            ("{\n\"cniVersion\": \"1.0.0\",\n\"plugins\": []\n}", "missing field `name` at line 4"),
            ("{\"name\": \"a\nb\"}", "at line 2"),
            ("{\n\"name\": \"a\\nb\", \"plugins\": []}", "is not the name of a network"),
            ("{\n\"name\": \"../a\", \"plugins\": []}", "is not the name of a network"),
            ("{\"name\": \"a\",\n\"plugins\": [\n{\"capabilities\": {}}]}", "missing field `type` at line 3"),
            ("{\"name\": \"a\",\n\"plugins\": [{\"type\":\n\"../../bin/sh\"}]}", "has no slash at line 3"),
            ("{\"name\": \"a\", \"plugins\": [{\"type\": \"..\"}]}", "has no slash"),
            (
                "{\"name\": \"a\", \"plugins\": [{\"type\": \"bridge\",\n \"ipam\": {\"type\": \"x/y\"}}]}",
                "has no slash at line 2",
            ),
            (
                "{\"name\": \"a\",\n \"cniVersion\": 1, \"plugins\": []}",
                "invalid type: integer `1`, expected a string at line 2",
            ),
            ("{\"name\": \"a\",\n \"cniVersion\": \"one\", \"plugins\": []}", "\"one\" is not a version"),
            ("{\"name\": \"a\", \"plugins\": {}}", "expected a sequence"),
            ("{\"name\": \"a\", \"disableGC\": 7, \"plugins\": []}", "7 is neither true nor false"),
            ("{\"name\": \"a\", \"cniVersion\": \"0.2.0\"}", "cniVersion 0.2.0: podrun speaks 0.3.0 to 1.1.0"),
            ("{\"name\": \"a\"}", "no cniVersion: podrun speaks"),
        ] {
            let told = list(text).unwrap_err();
            assert!(told.contains(why), "{text}: {told}");
        }
    }

    #[test]
    fn the_highest_version_that_podrun_speaks_is_taken() {
        for (words, taken) in [
            (r#""cniVersion": "0.4.0""#, "0.4.0"),
            (r#""cniVersion": "0.4.0", "cniVersions": ["1.1.0", "1.0.0"]"#, "1.1.0"),
            (r#""cniVersion": "9.0.0", "cniVersions": ["1.0.0", "2.0.0"]"#, "1.0.0"),
        ] {
            let text = format!(r#"{{"name": "a", {words}, "plugins": [{{"type": "x"}}]}}"#);
            assert_eq!(list(&text).unwrap().version.to_string(), taken);
        }
    }

    #[test]
    fn a_plugin_gets_its_own_words_and_what_it_asked_for() {
        let chain = list(
            r#"{"name": "a", "cniVersion": "1.0.0", "disableCheck": "true", "plugins": [
                {"type": "bridge", "ipam": {"type": "host-local", "x": [1]}, "cni.dev/x": 1, "capabilities": {"ips": true, "mac": false}},
                {"type": "portmap", "capabilities": {"portMappings": true}, "runtimeConfig": {"old": 1}}]}"#,
        )
        .unwrap();
        assert_eq!(chain.programs(), ["bridge", "host-local", "portmap"]);
        assert!(chain.has("ips") && chain.has("portMappings") && !chain.has("mac") && chain.disable_check);
        let runtime = json!({"ips": ["10.0.0.7/24"], "portMappings": [1]});
        let runtime = runtime.as_object().unwrap();
        let first = chain.request(&chain.plugins[0], runtime, None);
        assert_eq!(
            Value::from(first),
            json!({"type": "bridge", "ipam": {"type": "host-local", "x": [1]}, "name": "a", "cniVersion": "1.0.0",
                "runtimeConfig": {"ips": ["10.0.0.7/24"]}})
        );
        let second = chain.request(&chain.plugins[1], runtime, Some(&json!({"ips": []})));
        assert_eq!(
            Value::from(second),
            json!({"type": "portmap", "name": "a", "cniVersion": "1.0.0", "runtimeConfig": {"portMappings": [1]},
                "prevResult": {"ips": []}})
        );
    }

    #[test]
    fn a_file_with_one_plugin_is_a_chain_of_one() {
        let text = br#"{"name": "a", "cniVersion": "0.3.1", "type": "bridge", "bridge": "x"}"#;
        let (chain, _) = parse(text, false).unwrap();
        assert_eq!((chain.name.as_str(), chain.plugins.len(), chain.plugins[0].kind.as_str()), ("a", 1, "bridge"));
        assert_eq!(chain.request(&chain.plugins[0], &Map::new(), None)["bridge"], "x");
    }

    #[test]
    fn what_is_kept_is_read_again_as_it_was() {
        let chain = list(
            r#"{"name": "a", "cniVersion": "1.1.0", "plugins": [{"type": "x", "n": 1.5, "capabilities": {"dns": true}}]}"#,
        )
        .unwrap();
        let kept = serde_json::to_string(&chain).unwrap();
        assert_eq!(serde_json::from_str::<Chain>(&kept).unwrap(), chain);
    }
}
