//! `create container`, `run` and `attach`.

#![forbid(unsafe_code)]

use super::args::{Global, Words, bytes, duration, refuse_flag, variables};
use super::create::Format;
use super::table;
use crate::caps;
use crate::container::planning;
use crate::error::{Doing, Error, Kind, Result};
use crate::id::{ContainerName, VolumeName};
use crate::monitor::socket::{Request, Until};
use crate::oci::{self, Whose, defaults};
use crate::pod::find::Pod;
use crate::pod::foreground::{self, Foreground, Input, Outcome};
use crate::pod::{client, launch, terminal};
use crate::record::Stamp;
use crate::rootless;
use crate::signal;
use crate::spec::{ContainerSpec, Policy, Remove, Restart, Stdin};
use crate::store::Ended;
use clap::Args;
use oci_spec::runtime::{BoxBuilder as ConsoleSizeBuilder, Mount, Spec};
use std::path::{Path, PathBuf};

/// What `run` and `create container` have in common.
#[derive(Debug, Args)]
struct Container {
    #[command(flatten)]
    global: Global,
    /// POD/NAME
    target: String,
    /// The container, where POD stands alone
    #[arg(short = 'c', long, value_name = "NAME")]
    container: Option<String>,
    /// An OCI bundle: a directory with config.json and a rootfs
    #[arg(short = 'b', long, value_name = "DIR", conflicts_with = "rootfs")]
    bundle: Option<PathBuf>,
    /// A directory that becomes the container's /, with docker's defaults
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// Keep stdin open, and pass ours on
    #[arg(short = 'i', long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// A variable of its environment; KEY alone is as it is here
    #[arg(short = 'e', long, value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// A directory or file of the host, or a volume of the pod
    #[arg(short = 'v', long, value_name = "SRC:DST[:ro]")]
    volume: Vec<String>,
    /// Where it starts
    #[arg(short = 'w', long, value_name = "DIR")]
    workdir: Option<String>,
    /// USER or UID, with :GROUP or :GID
    #[arg(short = 'u', long)]
    user: Option<String>,
    /// The rootfs is not to be written to
    #[arg(long)]
    read_only: bool,
    /// Only with --rootfs: more capabilities than docker's
    #[arg(long, value_name = "CAP")]
    cap_add: Vec<String>,
    /// Only with --rootfs: fewer
    #[arg(long, value_name = "CAP")]
    cap_drop: Vec<String>,
    /// seccomp=default or seccomp=unconfined, no-new-privileges
    #[arg(long, value_name = "WORD")]
    security_opt: Vec<String>,
    /// The most memory, as in 64m
    #[arg(short = 'm', long, value_name = "SIZE")]
    memory: Option<String>,
    /// The most CPUs, as in 1.5
    #[arg(long, value_name = "N")]
    cpus: Option<f64>,
    /// The most processes
    #[arg(long, value_name = "N")]
    pids_limit: Option<i64>,
    /// never, on-failure or always
    #[arg(long, default_value = "never", value_name = "POLICY")]
    restart: String,
    /// The first wait before a restart; it doubles up to five minutes
    #[arg(long, default_value = "10s", value_name = "TIME")]
    restart_backoff: String,
    /// What `stop` sends first; TERM by default
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Rotate the log before it grows beyond this
    #[arg(long, value_name = "SIZE")]
    log_max_size: Option<String>,
    /// How many log files to keep, the live one included
    #[arg(long, default_value_t = 5, value_name = "N")]
    log_max_files: u32,
    /// Remove the container when it has ended
    #[arg(long)]
    rm: bool,
    /// Print the plan and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Say it as: name, json
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    container: Container,
    /// Do not wait: print what was started
    #[arg(short = 'd', long)]
    detach: bool,
}

const RUN_EXAMPLES: &str = "  podrun run web/hello --rootfs ./rootfs -- /bin/echo hello
  podrun run web/nginx --bundle ./nginx -d --restart always
  podrun run web/shell --rootfs ./rootfs --rm -it -- sh";

const CREATE_EXAMPLES: &str = "  podrun create container web/nginx --bundle ./nginx
  podrun start web/nginx";

pub(super) fn create(words: &Words) -> Result<i32> {
    let asked: Container = words.parse(CREATE_EXAMPLES)?;
    refuse_flag(words, &asked.command)?;
    let format = Format::parse(asked.output.as_deref())?;
    let (pod, spec) = prepare(&asked)?;
    if asked.dry_run {
        return dry_run(&pod, &spec);
    }
    let planned = launch::launch(&pod, &spec, Until::Created)?;
    made(&pod, &spec, &planned, format, "created")
}

pub(super) fn run(words: &Words) -> Result<i32> {
    let asked: Run = words.parse(RUN_EXAMPLES)?;
    refuse_flag(words, &asked.container.command)?;
    let format = Format::parse(asked.container.output.as_deref())?;
    let (pod, spec) = prepare(&asked.container)?;
    if asked.container.dry_run {
        return dry_run(&pod, &spec);
    }
    if asked.detach {
        let planned = launch::launch(&pod, &spec, Until::Started)?;
        return made(&pod, &spec, &planned, format, "started");
    }
    let planned = launch::plan(&pod, &spec)?;
    warn_of(&spec, &planned);
    let request = launch::request(&pod, &spec, &planned, foreground::UNTIL)?;
    let input = if asked.container.interactive { Input::Stdin } else { Input::None };
    let code = launch::with_devices(&pod, &spec, &planned, || show(&pod, &spec.name, request, input, None))?;
    if asked.container.rm {
        let request = Request::Delete { name: spec.name.clone(), force: false, grace_ms: 0 };
        match client::command(&pod, &request) {
            // Somebody deleted it, or its pod, in the meantime; or the user has left it running, and it goes when it ends.
            Err(err) if matches!(err.kind, Kind::NotFound | Kind::NotNow) => {}
            other => other?,
        }
    }
    Ok(code)
}

fn dry_run(pod: &Pod, spec: &ContainerSpec) -> Result<i32> {
    let planned = launch::plan(pod, spec)?;
    let value = serde_json::to_value(&planned.plan).map_err(|err| Error::new(Kind::Invalid, "print the plan", err))?;
    table::json(&value);
    Ok(0)
}

fn warn_of(spec: &ContainerSpec, planned: &launch::Planned) {
    for warning in &planned.warnings {
        super::warn(&format!("{}: {warning}", spec.name));
    }
}

fn made(pod: &Pod, spec: &ContainerSpec, planned: &launch::Planned, format: Format, done: &str) -> Result<i32> {
    warn_of(spec, planned);
    let title = format!("{}/{}", pod.record.name, spec.name);
    match format {
        Format::Name => table::line(&title),
        Format::Json => table::json(&crate::pod::view::container(&pod.container(&spec.name)?)),
        Format::Plain => {
            let addresses = crate::pod::view::addresses(pod);
            match addresses.is_empty() {
                true => table::line(&format!("{title} {done}")),
                false => table::line(&format!("{title} {done}, {}", addresses.join(", "))),
            }
        }
    }
    Ok(0)
}

/// A container in the foreground, to its end or until the user detaches.
fn show(pod: &Pod, name: &ContainerName, request: Request, input: Input, since: Option<Stamp>) -> Result<i32> {
    let record = &pod.record;
    let dir = pod.roots.container_logs(&record.namespace, &record.name, &record.id, name);
    let outcome = {
        let mut session = Foreground::new(pod, name, &dir, request, input, since)?;
        session.run(&mut std::io::stdout().lock(), &mut std::io::stderr().lock())?
    };
    match outcome {
        Outcome::Ended(ended) => Ok(tell_end(name, &ended)),
        Outcome::Detached => {
            super::warn(&format!("detached; {name} runs on"));
            Ok(0)
        }
        // What a shell gives a program whose reader is gone.
        Outcome::Unread => {
            super::warn(&format!("nobody reads on; {name} runs on"));
            Ok(128 + libc::SIGPIPE)
        }
    }
}

/// What the exit code does not say is said on stderr.
pub(super) fn tell_end(name: &ContainerName, ended: &Ended) -> i32 {
    use crate::store::Reason;
    match ended.reason {
        Reason::OOMKilled => super::warn(&format!("{name} was killed: out of memory")),
        Reason::ContainerStatusUnknown | Reason::PodInitDied | Reason::StartError => {
            super::warn(&format!(
                "{name}: {:?}: {}",
                ended.reason,
                ended.message.as_deref().unwrap_or("nobody knows how it ended")
            ));
        }
        _ => {}
    }
    if ended.lost_log_bytes > 0 {
        super::warn(&format!(
            "{name}: {} bytes of its output are lost, since the log could not be written",
            ended.lost_log_bytes
        ));
    }
    ended.exit_code
}

fn prepare(asked: &Container) -> Result<(Pod, ContainerSpec)> {
    let (pod, name) = asked.global.one(&asked.target, asked.container.as_ref())?;
    let (mut document, bundle, rootfs) = document(asked)?;
    let pod = asked.global.pod(&pod)?;
    // In the user's namespace from here on.
    if asked.bundle.is_none() && !rootless::has_group(defaults::TTY) {
        defaults::without_tty(&mut document);
    }
    if rootless::is_user() && pod.has_the_hosts_network() {
        oci::with_the_hosts_sys(&mut document);
    }
    let policy = policy(asked, &document)?;
    let mut spec = ContainerSpec { name, oci: document, bundle, rootfs, policy, user: asked.user.clone() };
    adjust(&mut spec.oci, asked, &pod)?;
    Ok((pod, spec))
}

fn document(asked: &Container) -> Result<(Spec, PathBuf, PathBuf)> {
    match (&asked.bundle, &asked.rootfs) {
        (Some(bundle), _) => {
            let loaded = oci::load(bundle, Whose::Pods)?;
            for warning in &loaded.warnings {
                super::warn(&format!("{}: {warning}", bundle.join("config.json").display()));
            }
            let dir = absolute(bundle)?;
            Ok((loaded.spec, dir, loaded.rootfs))
        }
        (None, Some(rootfs)) => {
            if asked.command.is_empty() {
                return Err(Error::new(Kind::Usage, "read the command line", "what shall run in the rootfs?")
                    .hint("podrun run POD/NAME --rootfs DIR -- CMD…"));
            }
            oci::check_rootfs(rootfs)?;
            Ok((defaults::document(&asked.command)?, absolute(Path::new("."))?, absolute(rootfs)?))
        }
        (None, None) => {
            Err(Error::new(Kind::Usage, "read the command line", "neither --bundle nor --rootfs was given")
                .hint("--bundle DIR, or --rootfs DIR -- CMD…; images are not there yet"))
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|err| Error::new(Kind::Usage, format!("find {}", path.display()), err))
}

fn policy(asked: &Container, document: &Spec) -> Result<Policy> {
    let restart = match asked.restart.as_str() {
        "never" | "no" => Restart::Never,
        "on-failure" => Restart::OnFailure,
        "always" | "unless-stopped" => Restart::Always,
        other => {
            return Err(Error::new(
                Kind::Usage,
                format!("read the restart policy {other:?}"),
                "there is none of this name",
            )
            .hint("never, on-failure or always"));
        }
    };
    if asked.log_max_files == 0 {
        return Err(Error::new(Kind::Usage, "read --log-max-files", "at least 1"));
    }
    Ok(Policy {
        restart,
        restart_backoff: duration(&asked.restart_backoff)?,
        stop_signal: match asked.stop_signal.as_deref() {
            Some(text) => signal::parse(text)?,
            None => oci::stop_signal(document)?.unwrap_or(libc::SIGTERM),
        },
        stdin: if asked.interactive { Stdin::Open } else { Stdin::Closed },
        log_max_size: asked.log_max_size.as_deref().map(bytes).transpose()?.filter(|size| *size > 0),
        log_max_files: asked.log_max_files,
        remove: if asked.rm { Remove::AtExit } else { Remove::ByHand },
    })
}

/// What the command line says beside the document, in the document's own words.
fn adjust(document: &mut Spec, asked: &Container, pod: &Pod) -> Result<()> {
    adjust_process(document, asked)?;
    if asked.read_only {
        let mut root = document.root().clone().unwrap_or_default();
        root.set_readonly(Some(true));
        document.set_root(Some(root));
    }
    let mut mounts = document.mounts().clone().unwrap_or_default();
    for volume in &asked.volume {
        mounts.push(volume_mount(volume, pod)?);
    }
    document.set_mounts(Some(mounts));
    adjust_security(document, asked, pod.record.host.capabilities)?;
    adjust_resources(document, asked)
}

fn adjust_process(document: &mut Spec, asked: &Container) -> Result<()> {
    let Some(mut process) = document.process().clone() else { return Ok(()) };
    if asked.bundle.is_some() && !asked.command.is_empty() {
        process.set_args(Some(asked.command.clone()));
    }
    let added = variables(&asked.env)?;
    process.set_env(Some(planning::merge(process.env().clone().unwrap_or_default().into_iter(), &added)));
    if let Some(dir) = &asked.workdir {
        process.set_cwd(dir.into());
    }
    if asked.tty {
        process.set_terminal(Some(true));
    }
    if process.terminal().unwrap_or(false)
        && let Some(size) = terminal::own_size()
    {
        let console = ConsoleSizeBuilder::default().height(size.rows).width(size.columns).build();
        process.set_console_size(console.ok());
    }
    document.set_process(Some(process));
    Ok(())
}

/// `SRC:DST[:ro|rw]`; a source without a slash is a volume of the pod.
fn volume_mount(text: &str, pod: &Pod) -> Result<Mount> {
    let fail =
        |cause: &str| Error::new(Kind::Usage, format!("read the volume {text:?}"), cause).hint("SRC:DST or SRC:DST:ro");
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, access) = match parts[..] {
        [source, destination] => (source, destination, "rw"),
        [source, destination, access @ ("ro" | "rw")] => (source, destination, access),
        _ => return Err(fail("not SRC:DST[:ro]")),
    };
    if !destination.starts_with('/') {
        return Err(fail("the destination is not an absolute path"));
    }
    let source = match source.contains('/') {
        true => {
            let path = absolute(Path::new(source))?;
            path.metadata().doing(|| format!("mount {} on {destination}", path.display()))?;
            path
        }
        false => {
            let volume = VolumeName::parse(source)?;
            if !pod.record.volumes.iter().any(|known| known == volume.as_str()) {
                let err = Error::new(
                    Kind::NotFound,
                    format!("find the volume {source}"),
                    format!("the pod {} has none of this name", pod.record.name),
                );
                return Err(match pod.record.volumes.is_empty() {
                    true => {
                        err.hint("`create pod --volume NAME` makes one; a directory of the host has a slash: ./DIR")
                    }
                    false => err.hint(format!("it has {}", pod.record.volumes.join(", "))),
                });
            }
            pod.roots.volumes(&pod.record.id).join(volume.as_str())
        }
    };
    let mut mount = Mount::default();
    mount.set_destination(destination.into());
    mount.set_source(Some(source));
    mount.set_options(Some(vec![
        "rbind".into(),
        "rprivate".into(),
        if access == "ro" { "rro".into() } else { "rw".into() },
    ]));
    Ok(mount)
}

fn adjust_security(document: &mut Spec, asked: &Container, available: u64) -> Result<()> {
    let Some(mut process) = document.process().clone() else { return Ok(()) };
    for word in &asked.security_opt {
        match word.as_str() {
            "no-new-privileges" | "no-new-privileges=true" | "no-new-privileges:true" => {
                process.set_no_new_privileges(Some(true));
            }
            "seccomp=default" | "seccomp=unconfined" => {
                let mut annotations = document.annotations().clone().unwrap_or_default();
                let value = word.trim_start_matches("seccomp=").to_owned();
                annotations.insert(oci::SECCOMP_ANNOTATION.into(), value);
                document.set_annotations(Some(annotations));
            }
            other => {
                return Err(Error::new(
                    Kind::Usage,
                    format!("read --security-opt {other:?}"),
                    "podrun knows no such word",
                )
                .hint("no-new-privileges, seccomp=default or seccomp=unconfined"));
            }
        }
    }
    if !asked.cap_add.is_empty() || !asked.cap_drop.is_empty() {
        let read = |list: &[String]| list.iter().try_fold(0, |mask, one| Ok(mask | caps::parse(one)?));
        let (add, drop): (Result<u64>, Result<u64>) = (read(&asked.cap_add), read(&asked.cap_drop));
        if let Some(withheld) = caps::names(add.clone()? & !available).first() {
            return Err(Error::new(
                Kind::Unsupported,
                format!("add {withheld}"),
                "it is withheld from podrun on this host",
            ));
        }
        let before = process.capabilities().as_ref().and_then(|sets| sets.bounding().clone()).unwrap_or_default();
        let mask = before.into_iter().fold(0, |mask, one| mask | caps::from_name(one)) & !drop? | add?;
        let list: oci_spec::runtime::Capabilities = caps::names(mask).into_iter().filter_map(caps::to_oci).collect();
        let mut sets = process.capabilities().clone().unwrap_or_default();
        sets.set_bounding(Some(list.clone()));
        sets.set_effective(Some(list.clone()));
        sets.set_permitted(Some(list));
        process.set_capabilities(Some(sets));
    }
    document.set_process(Some(process));
    Ok(())
}

fn adjust_resources(document: &mut Spec, asked: &Container) -> Result<()> {
    if asked.memory.is_none() && asked.cpus.is_none() && asked.pids_limit.is_none() {
        return Ok(());
    }
    let mut linux = document.linux().clone().unwrap_or_default();
    let mut resources = linux.resources().clone().unwrap_or_default();
    if let Some(text) = &asked.memory {
        let limit = i64::try_from(bytes(text)?).map_err(|_| Error::new(Kind::Usage, "read --memory", "too large"))?;
        let mut memory = resources.memory().unwrap_or_default();
        memory.set_limit(Some(limit));
        resources.set_memory(Some(memory));
    }
    if let Some(cpus) = asked.cpus {
        let quota = std::time::Duration::try_from_secs_f64(cpus * 0.1)
            .ok()
            .and_then(|time| i64::try_from(time.as_micros()).ok());
        let Some(quota) = quota.filter(|quota| *quota >= 1000) else {
            return Err(Error::new(Kind::Usage, "read --cpus", "not a number of CPUs").hint("0.01 and more"));
        };
        let mut cpu = resources.cpu().clone().unwrap_or_default();
        cpu.set_quota(Some(quota));
        cpu.set_period(Some(100_000));
        resources.set_cpu(Some(cpu));
    }
    if let Some(limit) = asked.pids_limit {
        // docker's words; what it takes no other negative for.
        if limit < -1 {
            return Err(Error::new(Kind::Usage, "read --pids-limit", format!("{limit} is no number of processes"))
                .hint("a number from 1, or -1 for as many as the pod may have"));
        }
        let mut pids = resources.pids().unwrap_or_default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    linux.set_resources(Some(resources));
    document.set_linux(Some(linux));
    Ok(())
}

#[derive(Debug, Args)]
struct Attach {
    #[command(flatten)]
    global: Global,
    /// POD/NAME
    target: String,
    /// The container, where POD stands alone
    #[arg(short = 'c', long, value_name = "NAME")]
    container: Option<String>,
    /// Show only
    #[arg(long)]
    no_stdin: bool,
}

const ATTACH_EXAMPLES: &str = "  podrun attach web/shell        Ctrl-P Ctrl-Q leaves it running";

pub(super) fn attach(words: &Words) -> Result<i32> {
    let asked: Attach = words.parse(ATTACH_EXAMPLES)?;
    let (pod, name) = asked.global.one(&asked.target, asked.container.as_ref())?;
    let pod = asked.global.pod(&pod)?;
    let record = pod.container(&name)?;
    if !record.state.lives() {
        return Err(foreground::not_running(&name, record.state.word()));
    }
    let input = if asked.no_stdin { Input::None } else { Input::Stdin };
    show(&pod, &name, foreground::wait_request(&name), input, Some(Stamp::now()))
}
