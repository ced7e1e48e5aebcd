//! Reading an OCI bundle: `config.json` of the runtime specification, tolerant where the specification says warn,
//! strict everywhere else, and every complaint with its JSON path.

#![forbid(unsafe_code)]

pub mod defaults;
mod dialect;
mod schema;

pub use dialect::respell_limits;

use crate::error::{Doing, Error, Kind, Result};
use crate::signal;
use oci_spec::runtime::{PosixRlimitType, Process, Spec};
use serde_json::Value;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// More than this is no config.json (a bound per request: CVE-2022-1708's lesson).
const LARGEST_CONFIG: u64 = 8 << 20;

/// A bundle as read: the document, the host directory that becomes `/`, and what was passed over.
#[derive(Debug)]
pub struct Bundle {
    pub spec: Spec,
    pub rootfs: PathBuf,
    pub warnings: Vec<String>,
}

/// Whose the container of a document will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// A pod's: its namespaces and its place among the cgroups are the pod's to decide.
    Pods,
    /// Its maker's (`podrun oci`).
    Makers,
}

/// Reads `DIR/config.json` and finds the rootfs.
pub fn load(bundle: &Path, whose: Whose) -> Result<Bundle> {
    let file = bundle.join("config.json");
    let text = read_bounded(&file)?;
    let (spec, warnings) = parse_for(&text, whose).map_err(|err| err.within(&file))?;
    let rootfs = find_rootfs(bundle, &spec)?;
    Ok(Bundle { spec, rootfs, warnings })
}

fn read_bounded(file: &Path) -> Result<String> {
    let doing = || format!("read {}", file.display());
    // A FIFO without a writer would keep us waiting.
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(file);
    let opened = opened.doing(doing).map_err(|err| match err.kind {
        Kind::NotFound => {
            err.hint("a bundle is a directory with a config.json and a rootfs; `podrun run --rootfs DIR` needs neither")
        }
        _ => err,
    })?;
    let facts = opened.metadata().doing(doing)?;
    if !facts.is_file() {
        return Err(Error::new(Kind::Invalid, doing(), "not a regular file"));
    }
    // In one read, mostly; who names a larger size gets no more memory than is read.
    let mut text = String::with_capacity(usize::try_from(facts.len().min(1 << 20)).unwrap_or(0) + 1);
    opened.take(LARGEST_CONFIG + 1).read_to_string(&mut text).doing(doing)?;
    if text.len() as u64 > LARGEST_CONFIG {
        return Err(Error::new(Kind::Invalid, doing(), "larger than 8 MiB"));
    }
    Ok(text)
}

/// A complaint about the document, before the file's name is known.
#[derive(Debug, PartialEq, Eq)]
pub struct Complaint {
    /// `line 3 column 7`, or a JSON path.
    pub place: String,
    pub cause: String,
    pub kind: Kind,
}

impl Complaint {
    fn new(kind: Kind, place: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { place: place.into(), cause: cause.into(), kind }
    }

    fn within(self, file: &Path) -> Error {
        Error::new(self.kind, format!("read {}: {}", file.display(), self.place), self.cause)
    }
}

/// The meaning of a pod's container's config.json, and warnings.
pub fn parse(text: &str) -> Result<(Spec, Vec<String>), Complaint> {
    parse_for(text, Whose::Pods)
}

/// A `process` object by itself, as an exec has it, read as config.json's is; the places are the document's.
pub fn load_process(file: &Path) -> Result<(Process, Vec<String>)> {
    let doing = || format!("read {}", file.display());
    let mut text = String::new();
    // Not always a file: a shell hands on what a command writes.
    let opened = std::fs::File::open(file).doing(doing)?;
    opened.take(LARGEST_CONFIG).read_to_string(&mut text).doing(doing)?;
    let process: Value = serde_json::from_str(&text).map_err(|err| Error::new(Kind::Invalid, doing(), err))?;
    let document = serde_json::json!({"ociVersion": "1.0.0", "process": process}).to_string();
    let (spec, warnings) = parse_for(&document, Whose::Makers).map_err(|err| err.within(file))?;
    match spec.process() {
        Some(process) => Ok((process.clone(), warnings)),
        None => Err(Error::new(Kind::Invalid, doing(), "no `process` object")),
    }
}

/// Pure: the text of a config.json to its meaning, and warnings.
pub fn parse_for(text: &str, whose: Whose) -> Result<(Spec, Vec<String>), Complaint> {
    let mut document: Value = serde_json::from_str(text).map_err(|err| {
        let sentence = err.to_string();
        let cause = sentence.split(" at line ").next().unwrap_or_default().to_owned();
        Complaint::new(Kind::Invalid, format!("line {} column {}", err.line(), err.column()), cause)
    })?;
    if !document.is_object() {
        return Err(Complaint::new(Kind::Invalid, "line 1 column 1", "expected an object"));
    }
    let mut warnings = lift_unknown_capabilities(&mut document);
    warnings.extend(without_effect(&document));
    schema::check(&document)?;
    refuse(&document, whose)?;
    dialect::respell(&mut document)?;
    let spec: Spec = serde_path_to_error::deserialize(document)
        .map_err(|err| Complaint::new(Kind::Invalid, err.path().to_string(), err.inner().to_string()))?;
    check_version(spec.version())?;
    Ok((spec, warnings))
}

fn check_version(version: &str) -> Result<(), Complaint> {
    let mut numbers = version.split(['.', '-', '+']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(1)), Some(Ok(0..=3)), Some(Ok(_))) => Ok(()),
        _ if version.is_empty() => Err(Complaint::new(Kind::Invalid, "ociVersion", "missing")),
        _ => Err(Complaint::new(
            Kind::Invalid,
            "ociVersion",
            format!("{version:?} is not a version that podrun knows (1.0 to 1.3)"),
        )),
    }
}

/// "Any value which cannot be mapped to a relevant kernel interface ... MUST be logged as a warning" (config.md,
/// process.capabilities): oci-spec would fail on them.
fn lift_unknown_capabilities(document: &mut Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let Some(sets) = document.pointer_mut("/process/capabilities").and_then(Value::as_object_mut) else {
        return warnings;
    };
    const SETS: [&str; 5] = ["bounding", "effective", "inheritable", "permitted", "ambient"];
    for (set, names) in sets.iter_mut().filter(|(set, _)| SETS.contains(&set.as_str())) {
        let Some(names) = names.as_array_mut() else { continue };
        names.retain(|name| match name.as_str() {
            Some(text) if !is_capability(text) => {
                warnings.push(format!("process.capabilities.{set}: unknown capability {text:?} is left out"));
                false
            }
            _ => true,
        });
    }
    warnings
}

/// A capability is ambient only while it is permitted and inheritable (capabilities(7)).
fn without_effect(document: &Value) -> Option<String> {
    let set = |name: &str| {
        let names = document.pointer(&format!("/process/capabilities/{name}")).and_then(Value::as_array);
        names.into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>()
    };
    let (permitted, inheritable, mut ambient) = (set("permitted"), set("inheritable"), set("ambient"));
    ambient.retain(|name| !permitted.contains(name) || !inheritable.contains(name));
    let list = ambient.join(", ");
    (!list.is_empty())
        .then(|| format!("process.capabilities.ambient: without effect, since not permitted and inheritable: {list}"))
}

fn is_capability(name: &str) -> bool {
    name.parse::<caps::Capability>().is_ok()
}

/// What a pod decides, or has not learnt yet, and `podrun oci` honours: honoured silently by nobody (pitfalls: fail closed).
const NOT_IN_PODS: [(&str, &str); 11] = [
    ("/linux/intelRdt", "Intel RDT"),
    ("/linux/uidMappings", "user namespaces"),
    ("/linux/gidMappings", "user namespaces"),
    ("/linux/timeOffsets", "time namespaces"),
    ("/linux/cgroupsPath", "cgroups elsewhere than podrun/<pod>/<container>"),
    ("/hooks/prestart", "hooks"),
    ("/hooks/createRuntime", "hooks"),
    ("/hooks/createContainer", "hooks"),
    ("/hooks/startContainer", "hooks"),
    ("/hooks/poststart", "hooks"),
    ("/hooks/poststop", "hooks"),
];

fn refuse(document: &Value, whose: Whose) -> Result<(), Complaint> {
    let asked = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    };
    let own = if whose == Whose::Pods { &NOT_IN_PODS[..] } else { &[] };
    for (pointer, what) in own {
        if document.pointer(pointer).is_some_and(asked) {
            return Err(Complaint::new(
                Kind::Unsupported,
                json_path(pointer),
                format!("{what}: podrun does not do this yet"),
            ));
        }
    }
    if whose == Whose::Pods {
        refuse_namespaces(document)?;
    }
    refuse_annotations(document)
}

/// `/linux/uidMappings` as people write it: `linux.uidMappings`.
fn json_path(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace('/', ".")
}

/// network, uts and ipc are the pod's, pid is private or the pod's; none is joined by path.
fn refuse_namespaces(document: &Value) -> Result<(), Complaint> {
    let list = document.pointer("/linux/namespaces").and_then(Value::as_array);
    for (index, namespace) in list.into_iter().flatten().enumerate() {
        let kind = namespace.get("type").and_then(Value::as_str).unwrap_or_default();
        if matches!(kind, "user" | "time") {
            let cause = format!("{kind} namespaces: podrun does not do this yet");
            return Err(Complaint::new(Kind::Unsupported, format!("linux.namespaces[{index}].type"), cause));
        }
        if namespace.get("path").and_then(Value::as_str).is_some_and(|path| !path.is_empty()) {
            let cause = "a container of a pod joins the pod's namespaces, none by path";
            return Err(Complaint::new(Kind::Unsupported, format!("linux.namespaces[{index}].path"), cause));
        }
    }
    Ok(())
}

/// What the image said under `StopSignal`, as a bundle that was made of it has it (image-spec, conversion.md).
const STOP_SIGNAL_ANNOTATION: &str = "org.opencontainers.image.stopSignal";

/// The signal by which the image wants to be stopped.
pub fn stop_signal(spec: &Spec) -> Result<Option<i32>> {
    let Some(text) = spec.annotations().as_ref().and_then(|all| all.get(STOP_SIGNAL_ANNOTATION)) else {
        return Ok(None);
    };
    signal::parse(text).map(Some).map_err(|err| {
        Error::new(Kind::Invalid, format!("read annotations[{STOP_SIGNAL_ANNOTATION:?}]: {text:?}"), err.cause())
    })
}

/// The annotation by which a bundle asks for podrun's built-in seccomp profile.
pub const SECCOMP_ANNOTATION: &str = "io.podrun.seccomp";

/// Annotations of podrun's own are exact words (CVE-2023-6476): one that it does not know is a mistake, not a comment.
fn refuse_annotations(document: &Value) -> Result<(), Complaint> {
    let annotations = document.pointer("/annotations").and_then(Value::as_object);
    for (key, value) in annotations.into_iter().flatten() {
        let path = || format!("annotations[{key:?}]");
        match (key.as_str(), value.as_str()) {
            (SECCOMP_ANNOTATION, Some("default" | "unconfined")) => {}
            (SECCOMP_ANNOTATION, _) => {
                return Err(Complaint::new(Kind::Invalid, path(), "expected \"default\" or \"unconfined\""));
            }
            (key, _) if key.starts_with("io.podrun.") => {
                return Err(Complaint::new(Kind::Invalid, path(), "podrun knows no such annotation"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn find_rootfs(bundle: &Path, spec: &Spec) -> Result<PathBuf> {
    let Some(root) = spec.root() else {
        return Err(Error::new(
            Kind::Invalid,
            format!("read {}: root", bundle.join("config.json").display()),
            "missing",
        ));
    };
    if root.path().as_os_str().is_empty() {
        let doing = format!("read {}: root.path", bundle.join("config.json").display());
        return Err(Error::new(Kind::Invalid, doing, "empty"));
    }
    let rootfs = bundle.join(root.path());
    check_rootfs(&rootfs)?;
    std::path::absolute(&rootfs).doing(|| format!("find {}", rootfs.display()))
}

/// A rootfs is a directory that is there.
pub fn check_rootfs(rootfs: &Path) -> Result<()> {
    let facts = std::fs::metadata(rootfs).doing(|| format!("open the rootfs {}", rootfs.display()))?;
    match facts.is_dir() {
        true => Ok(()),
        false => Err(Error::new(Kind::Invalid, format!("open the rootfs {}", rootfs.display()), "not a directory")),
    }
}

/// getrlimit(2)'s resources by the names of config.json.
const RLIMITS: [(&str, u32); 16] = [
    ("RLIMIT_CPU", 0),
    ("RLIMIT_FSIZE", 1),
    ("RLIMIT_DATA", 2),
    ("RLIMIT_STACK", 3),
    ("RLIMIT_CORE", 4),
    ("RLIMIT_RSS", 5),
    ("RLIMIT_NPROC", 6),
    ("RLIMIT_NOFILE", 7),
    ("RLIMIT_MEMLOCK", 8),
    ("RLIMIT_AS", 9),
    ("RLIMIT_LOCKS", 10),
    ("RLIMIT_SIGPENDING", 11),
    ("RLIMIT_MSGQUEUE", 12),
    ("RLIMIT_NICE", 13),
    ("RLIMIT_RTPRIO", 14),
    ("RLIMIT_RTTIME", 15),
];

pub fn rlimit_name(resource: u32) -> &'static str {
    RLIMITS.iter().find(|(_, number)| *number == resource).map_or("an rlimit", |(name, _)| name)
}

pub fn rlimit_number(kind: PosixRlimitType) -> Option<u32> {
    let name = kind.to_string();
    RLIMITS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// sysfs shows a network namespace, and only who owns that may mount it (sysfs(5), user_namespaces(7)): a user's container on
/// the host's network has the host's own, bound, and as read-only as the document would have it below, too.
pub fn with_the_hosts_sys(document: &mut Spec) {
    let mut mounts = document.mounts().clone().unwrap_or_default();
    for mount in mounts.iter_mut().filter(|mount| mount.typ().as_deref() == Some("sysfs")) {
        let mut options = mount.options().clone().unwrap_or_default();
        options.push("rbind".into());
        if options.iter().any(|one| one == "ro") {
            options.push("rro".into());
        }
        mount.set_typ(Some("bind".into())).set_source(Some("/sys".into())).set_options(Some(options));
    }
    document.set_mounts(Some(mounts));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_honoured_and_asks_for_nothing_is_no_complaint() {
        let with = |value: &str| {
            LEAST.replacen('{', &format!("{{\"linux\": {{\"intelRdt\": {value}, \"timeOffsets\": {value}}}, "), 1)
        };
        let refused = |value: &str| parse(&with(value)).is_err_and(|err| err.kind == Kind::Unsupported);
        assert_eq!(["null", "\"\"", "{}"].map(refused), [false; 3]);
        assert_eq!(["\"x\"", "{\"a\": 1}", "0"].map(refused), [true; 3]);
        let version = |text: &str| parse(&LEAST.replace("1.0.2", text)).unwrap_err().cause;
        assert_eq!(version(""), "missing");
        assert!(version("7").contains("not a version"), "{}", version("7"));
    }

    /// CVE-2022-1708's lesson: what is read has a bound, and is a file.
    #[test]
    fn a_config_json_is_a_regular_file_of_at_most_8_mib() {
        let dir = std::env::temp_dir().join(format!("podrun-oci-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("rootfs")).unwrap();
        let file = dir.join("config.json");
        let refused = |words: &str| {
            let err = load(&dir, Whose::Pods).unwrap_err();
            assert!(err.to_string().contains(words), "{err} has no {words}");
            err
        };
        let err = refused("config.json");
        assert!(err.kind == Kind::NotFound && err.cure().is_some_and(|hint| hint.contains("--rootfs")), "{err}");
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(refused("not a regular file").cure().is_none());
        std::fs::remove_file(&file).unwrap();
        let padded = |length: usize| format!("{LEAST}{}", " ".repeat(length - LEAST.len()));
        std::fs::write(&file, padded(8 << 20)).unwrap();
        assert_eq!(load(&dir, Whose::Pods).unwrap().rootfs, dir.join("rootfs"));
        std::fs::write(&file, padded((8 << 20) + 1)).unwrap();
        refused("larger than 8 MiB");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    const LEAST: &str = r#"{"ociVersion": "1.0.2", "root": {"path": "rootfs"}}"#;

    fn complaint(text: &str) -> (String, String) {
        let found = parse(text).unwrap_err();
        (found.place, found.cause)
    }

    fn with(key: &str, value: &str) -> String {
        format!("{}, {key:?}: {value}}}", LEAST.trim_end_matches('}').to_owned() + "}")
    }

    #[test]
    fn broken_json_has_a_line_and_a_column() {
        let (place, cause) = complaint("{\n  \"ociVersion\": \"1.0.2\",\n  oops\n}");
        assert_eq!(place, "line 3 column 3");
        assert_eq!(cause, "key must be a string");
    }

    #[test]
    fn a_wrong_type_has_its_json_path() {
        let (place, cause) =
            complaint(&with("process", r#"{"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["a", 1]}"#));
        assert_eq!(place, "process.args[1]");
        assert!(cause.contains("expected a string"), "{cause}");
    }

    #[test]
    fn an_unknown_capability_is_a_warning() {
        let text = with(
            "process",
            r#"{"cwd": "/", "user": {"uid": 0, "gid": 0}, "capabilities": {"bounding": ["CAP_CHOWN", "CAP_MOON"]}}"#,
        );
        let (spec, warnings) = parse(&text).unwrap();
        assert_eq!(warnings, [r#"process.capabilities.bounding: unknown capability "CAP_MOON" is left out"#]);
        let kept = spec.process().clone().unwrap().capabilities().clone().unwrap().bounding().clone().unwrap();
        assert_eq!(kept.len(), 1);
    }

    #[test]
    fn what_is_known_and_not_honoured_is_refused_with_its_path() {
        for (pointer, what) in NOT_IN_PODS {
            let mut document: Value = serde_json::from_str(LEAST).unwrap();
            let mut at = &mut document;
            let keys: Vec<&str> = pointer.trim_start_matches('/').split('/').collect();
            for key in &keys[..keys.len() - 1] {
                at = at.as_object_mut().unwrap().entry(*key).or_insert_with(|| serde_json::json!({}));
            }
            at[keys[keys.len() - 1]] = serde_json::json!("x");
            let (place, cause) = complaint(&document.to_string());
            assert_eq!(place, json_path(pointer));
            assert!(cause.starts_with(what), "{cause}");
        }
        let (place, _) =
            complaint(&with("linux", r#"{"namespaces": [{"type": "pid"}, {"type": "network", "path": "/x"}]}"#));
        assert_eq!(place, "linux.namespaces[1].path");
        let (place, _) = complaint(&with("linux", r#"{"namespaces": [{"type": "user"}]}"#));
        assert_eq!(place, "linux.namespaces[0].type");
    }

    /// As people write a path, whatever the depth.
    #[test]
    fn a_refusal_names_its_place_with_dots() {
        let refused = |key: &str, value: &str| parse(&with(key, value)).unwrap_err().place;
        assert_eq!(refused("linux", r#"{"seccomp": []}"#), "linux.seccomp");
        assert_eq!(refused("process", "[]"), "process");
    }

    /// image-spec, conversion.md: `Config.StopSignal` becomes this annotation.
    #[test]
    fn the_image_says_by_which_signal_it_is_stopped() {
        let signal = |value: &str| stop_signal(&parse(&with("annotations", value)).unwrap().0);
        assert_eq!(signal(r#"{"org.opencontainers.image.stopSignal": "SIGQUIT"}"#).unwrap(), Some(libc::SIGQUIT));
        assert_eq!(signal(r#"{"org.opencontainers.image.author": "a"}"#).unwrap(), None);
        assert_eq!(stop_signal(&parse(LEAST).unwrap().0).unwrap(), None);
        let err = signal(r#"{"org.opencontainers.image.stopSignal": "SIGNONE"}"#).unwrap_err();
        assert_eq!(err.kind, Kind::Invalid);
        assert!(err.to_string().contains(r#"annotations["org.opencontainers.image.stopSignal"]: "SIGNONE""#), "{err}");
    }

    /// runtime-spec, config.md, root.path: "a directory MUST exist at the path".
    #[test]
    fn a_rootfs_is_a_directory_that_is_there() {
        assert!(check_rootfs(Path::new("/proc")).is_ok());
        assert_eq!(check_rootfs(Path::new("/proc/none")).unwrap_err().kind, Kind::NotFound);
        let err = check_rootfs(Path::new("/proc/self/stat")).unwrap_err();
        assert_eq!((err.kind, err.cause()), (Kind::Invalid, "not a directory"));
    }

    #[test]
    fn an_annotation_of_podruns_own_must_be_known() {
        assert!(parse(&with("annotations", r#"{"io.podrun.seccomp": "default", "a.b": "c"}"#)).is_ok());
        for bad in [r#"{"io.podrun.seccomp": "off"}"#, r#"{"io.podrun.seccompx": "default"}"#, r#"{"io.podrun.": ""}"#]
        {
            assert!(complaint(&with("annotations", bad)).0.starts_with("annotations["), "{bad}");
        }
        let cause = |annotation: &str| complaint(&with("annotations", annotation)).1;
        assert_eq!(cause(r#"{"io.podrun.seccomp": "off"}"#), "expected \"default\" or \"unconfined\"");
        assert_eq!(cause(r#"{"io.podrun.seccompx": "default"}"#), "podrun knows no such annotation");
    }

    #[test]
    fn the_version_must_be_one_that_is_known() {
        for bad in ["2.0.0", "1", "one", "", "1.99.0"] {
            assert_eq!(complaint(&format!(r#"{{"ociVersion": {bad:?}}}"#)).0, "ociVersion", "{bad}");
        }
        assert!(parse(r#"{"ociVersion": "1.3.0-rc.1"}"#).is_ok());
    }

    #[test]
    fn every_rlimit_of_the_specification_has_its_number() {
        assert_eq!(rlimit_number(PosixRlimitType::RlimitNofile), Some(libc::RLIMIT_NOFILE));
        assert_eq!(rlimit_number(PosixRlimitType::RlimitRttime), Some(libc::RLIMIT_RTTIME));
        assert_eq!(rlimit_name(libc::RLIMIT_AS), "RLIMIT_AS");
    }
}
