//! `create`: from a bundle to a process that waits at its door.

#![forbid(unsafe_code)]

use super::record::{Container, Dir, Id, Record, Status};
use super::{host, ids, program};
use crate::cgroup::{self, Cgroup, Existing, Layout, Manager, Place, Programs, Scope, Tasks, Version};
use crate::container::alone::{self, Alone, CLONE_NEWTIME, Joined};
use crate::container::attributes::Keyring;
use crate::container::birth::{self, Born, Cradle, Report};
use crate::container::hooks::{self, Failed, Hook, Hooks, Round};
use crate::container::init::{self, Failure, Ids, Loopback, Opener, Own, Trees, World};
use crate::container::labels::Module;
use crate::container::plan::{CgroupNamespace, Entry, Plan};
use crate::container::planning::{self, Facts, Home, Host};
use crate::container::resctrl::{self, Resctrl};
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::id::ContainerName;
use crate::net;
use crate::net::devices::Carried;
use crate::oci::{self, Bundle, Whose};
use crate::pod::{launch, terminal};
use crate::privilege::{Extent, Privilege};
use crate::record::Stamp;
use crate::rootfs::Source;
use crate::rootfs::idmap::{Namespaces, Reach};
use crate::spec::{ContainerSpec, Policy};
use crate::store::{self, ProcessRecord};
use crate::sys::clone::{self, Child, pidfd_send_signal, poll_one};
use crate::sys::fd;
use crate::sys::mount;
use crate::sys::proc::{Mount, unescape};
use crate::sys::socket::{self, Traffic};
use crate::sys::{cred, ns};
use crate::text::Text;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a caller of `create` or `run` says besides the bundle.
#[derive(Debug, Clone)]
pub struct Wish {
    pub bundle: PathBuf,
    /// A listening socket that takes the master of the container's terminal.
    pub console: Option<PathBuf>,
    /// One that takes the pidfd of its first process.
    pub pidfd: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub keyring: Keyring,
    pub entry: Entry,
    /// Whether the caller stays, and shows the terminal itself.
    pub attended: bool,
    pub preserved: i32,
    /// How many descriptors before those are a service manager's gifts (sd_listen_fds(3)).
    pub listening: i32,
    /// Whether systemd is to make the cgroup, a scope.
    pub systemd: bool,
    /// Where cgroups go that the document gives no path for.
    pub cgroup_top: String,
}

impl Wish {
    /// The numbers from 3 on that are the container's.
    fn given(&self) -> i32 {
        self.listening.saturating_add(self.preserved)
    }
}

/// A container that was made, and waits for its start.
#[derive(Debug)]
pub struct Made {
    pub container: Container,
    pub pidfd: OwnedFd,
    /// Where no console socket takes it.
    pub master: Option<OwnedFd>,
    pub warnings: Vec<String>,
}

/// All that is decided before anything is made.
struct Planned {
    bundle: Bundle,
    plan: Plan,
    alone: Alone,
    scope: Option<Scope>,
    resctrl: Option<Resctrl>,
}

pub fn create(root: &Path, id: &str, wish: &Wish) -> Result<Made> {
    program::be_unwritable()?;
    let _holes = program::hold_preserved(wish.given())?;
    create_by(root, id, wish, |container, plan, cgroup| give_birth(container, plan, cgroup, wish))
}

/// How a process comes to a container: its pidfd, and its terminal where nobody else takes that.
type Begotten = Result<(OwnedFd, Option<OwnedFd>)>;

/// All of a creation but how its process comes about: the cgroup is there, unless systemd is to make it.
pub fn create_by(
    root: &Path,
    id: &str,
    wish: &Wish,
    beget: impl FnOnce(&mut Container, &Plan, Option<Cgroup>) -> Begotten,
) -> Result<Made> {
    let id = Id::parse(id)?;
    let planned = plan(&id, wish)?;
    check_console(&planned.plan, wish)?;
    let dir = make_dir(root, &id)?;
    fault::point("oci.directory");
    let made = make(&id, &dir, planned, wish, beget);
    if made.is_err() {
        let _ = std::fs::remove_dir_all(&dir.0);
    }
    made
}

fn plan(id: &Id, wish: &Wish) -> Result<Planned> {
    let bundle = oci::load(&wish.bundle, Whose::Makers)?;
    let mut alone = alone::plan(&bundle.spec)?;
    let mut host = host::probe()?;
    // What a document does not say is the caller's own.
    host.open_files = cred::getrlimit(0, libc::RLIMIT_NOFILE).doing(|| "read the limit of open files".into())?;
    if alone.has_own_users() {
        // Root of a user namespace has them all there, whatever its maker is let (user_namespaces(7)).
        host.capabilities = u64::MAX;
    } else if Privilege::own() == Privilege::User {
        return Err(Error::new(Kind::Unsupported, "read linux.namespaces", "there is none of type user")
            .hint("who is not root needs one: `podrun oci spec --rootless` shows it"));
    }
    let scope = plan_scope(id, &bundle, &mut host, wish)?;
    let mut plan = plan_container(id, &bundle, &host, scope.as_ref(), wish)?;
    if wish.listening > 0 {
        for (name, value) in [("LISTEN_FDS", wish.listening), ("LISTEN_PID", 1)] {
            plan.process.env.push(Text::new(name, format!("{name}={value}"))?);
        }
    }
    alone.hooks.inherit(bundle.spec.hooks().as_ref(), &plan.process.env);
    plan.cgroup.owner = cgroup_owner(&bundle, &alone, &plan, &host);
    if Privilege::own() == Privilege::User && !plan.net_devices.is_empty() {
        return Err(Error::new(Kind::Unsupported, "move interfaces for linux.netDevices", "they are root's"));
    }
    plan.process.attributes.keyring = wish.keyring;
    plan.entry = wish.entry;
    if wish.entry == Entry::Cover {
        plan.host_views = host_views(&bundle.rootfs)?;
    }
    let resctrl = resctrl::plan(bundle.spec.linux().as_ref(), id.as_str())?;
    Ok(Planned { bundle, plan, alone, scope, resctrl })
}

/// Where procfs and sysfs are, what was mounted last first.
fn host_views(rootfs: &Path) -> Result<Vec<Text>> {
    let doing = || "look for the host's procfs and sysfs".to_owned();
    let table = std::fs::read_to_string("/proc/self/mountinfo").doing(doing)?;
    let mounts = table.lines().rev().filter_map(Mount::parse);
    let views = mounts.filter(|mount| matches!(mount.kind, "proc" | "sysfs"));
    // What is mounted in the rootfs is the container's.
    let places = views.map(|mount| unescape(mount.point)).filter(|place| !place.starts_with(rootfs));
    places.map(|place| Text::new("a mount point", place.to_string_lossy())).collect()
}

/// config-linux.md, "Cgroup ownership": on v2 alone, in a cgroup namespace of its own, where /sys/fs/cgroup is writable, the
/// container's user owns its cgroup.
fn cgroup_owner(bundle: &Bundle, alone: &Alone, plan: &Plan, host: &Host) -> Option<u32> {
    let is_tree = |mount: &&oci_spec::runtime::Mount| {
        mount.destination() == Path::new("/sys/fs/cgroup")
            && mount.typ().as_deref().is_some_and(|it| it.starts_with("cgroup"))
    };
    let mount = bundle.spec.mounts().iter().flatten().find(is_tree)?;
    let is_writable = !mount.options().iter().flatten().any(|option| option == "ro");
    let is_own = plan.cgroup_namespace == CgroupNamespace::New
        && host.cgroups.version() == Version::V2
        && host.cgroups.reach == cgroup::Reach::Everything;
    let uid = plan.process.uid;
    match &alone.ids {
        _ if !is_own || !is_writable => None,
        Some(ids) => Extent::read(&ids.uids.lossy()).iter().find_map(|extent| extent.outside_of(uid)),
        None if alone.has_own_users() => None,
        None => (uid != 0).then_some(uid),
    }
}

/// A scope, for which the host is then what the manager has of it.
fn plan_scope(id: &Id, bundle: &Bundle, host: &mut Host, wish: &Wish) -> Result<Option<Scope>> {
    const ASKED: &str = "use --systemd-cgroup";
    if !wish.systemd {
        return Ok(None);
    }
    let manager = Manager::own()?;
    if let Manager::User(_) = manager {
        host.cgroups =
            manager.control_group().and_then(|own| Layout::of_manager(&own)).map_err(|err| err.within(ASKED))?;
    }
    if host.cgroups.version() != Version::V2 {
        return Err(Error::new(Kind::Unsupported, ASKED, "this host has cgroup v1 hierarchies")
            .hint("there podrun makes cgroups by itself: leave the flag out"));
    }
    let path = bundle.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    Scope::parse(path.map(|path| path.to_string_lossy()).as_deref(), id.as_str(), manager).map(Some)
}

fn plan_container(id: &Id, bundle: &Bundle, host: &Host, scope: Option<&Scope>, wish: &Wish) -> Result<Plan> {
    let linux = bundle.spec.linux().as_ref();
    let place = match linux.and_then(|linux| linux.cgroups_path().as_ref()) {
        _ if let Some(scope) = scope => scope.place()?,
        Some(path) => {
            host.cgroups.place(&path.to_string_lossy()).map_err(|err| err.within("read linux.cgroupsPath"))?
        }
        None => Place::parse(&format!("{}/{id}", wish.cgroup_top))?,
    };
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let mut cgroup = cgroup::plan::container(&host.cgroups, &place, resources, None)?;
    cgroup.existing = if scope.is_some() { Existing::Scope } else { Existing::Vacant };
    let users = launch::read_users(&bundle.rootfs)?;
    let spec = ContainerSpec {
        name: ContainerName::parse("container")?,
        oci: bundle.spec.clone(),
        bundle: std::path::absolute(&wish.bundle).doing(|| format!("find {}", wish.bundle.display()))?,
        rootfs: bundle.rootfs.clone(),
        policy: Policy::default(),
        user: None,
    };
    let (kind_of, has_module) = (&launch::kind_of, &Module::is_here);
    let id = id.as_str();
    planning::plan(&spec, &Facts { host, id, home: Home::Alone, cgroup, users: &users, kind_of, has_module })
}

/// A terminal needs somebody who takes it, and who takes one needs a terminal.
fn check_console(plan: &Plan, wish: &Wish) -> Result<()> {
    let terminal = plan.process.stdio != crate::container::plan::Stdio::Pipes;
    match (terminal, &wish.console) {
        (true, None) if !wish.attended => {
            let cause = "process.terminal is true, and nobody is there to take the terminal";
            Err(Error::new(Kind::Invalid, "make a terminal", cause).hint("--console-socket PATH names somebody"))
        }
        (false, Some(path)) => {
            let doing = format!("use the console socket {}", path.display());
            Err(Error::new(Kind::Invalid, doing, "process.terminal is not true: there is no terminal to hand over"))
        }
        _ => Ok(()),
    }
}

fn make_dir(root: &Path, id: &Id) -> Result<Dir> {
    store::make_private_dir(root, 0o711)?;
    let dir = Dir::of(root, id);
    match std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o711).create(&dir.0) {
        Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(Error::new(Kind::AlreadyExists, format!("create {id}"), "container with given ID already exists"))
        }
        other => other.doing(|| format!("make {}", dir.0.display())).map(|()| dir),
    }
}

fn make(
    id: &Id,
    dir: &Dir,
    planned: Planned,
    wish: &Wish,
    beget: impl FnOnce(&mut Container, &Plan, Option<Cgroup>) -> Begotten,
) -> Result<Made> {
    let Planned { bundle, plan, alone, scope, resctrl } = planned;
    let locked = dir.lock()?;
    let mut warnings = bundle.warnings;
    warnings.extend(plan.process.seccomp.iter().flat_map(|program| program.warnings.clone()));
    let record = Record {
        version: store::VERSION,
        readable_since: store::READABLE_SINCE,
        oci_version: bundle.spec.version().clone(),
        id: id.clone(),
        bundle: std::path::absolute(&wish.bundle).doing(|| format!("find {}", wish.bundle.display()))?,
        rootfs: bundle.rootfs,
        created: Stamp::now().text(),
        owner: cred::effective_uid().to_string(),
        annotations: bundle.spec.annotations().clone().unwrap_or_default().into_iter().collect(),
        process: None,
        cgroup: plan.cgroup.clone(),
        scope,
        chosen_place: bundle.spec.linux().as_ref().is_none_or(|linux| linux.cgroups_path().is_none()),
        startable: !plan.process.argv.is_empty(),
        alone,
        resctrl,
    };
    store::write(&dir.plan(), &plan)?;
    store::write(&dir.state(), &record)?;
    let mut container = Container { dir: dir.clone(), record };
    let cgroup = match container.record.scope {
        // systemd makes one around a process, so the process comes first.
        Some(_) => None,
        None => Some(Cgroup::create(&plan.cgroup)?),
    };
    fault::point("oci.cgroup");
    let made = beget(&mut container, &plan, cgroup);
    if made.is_err() {
        let _ = container.remove_cgroup(Duration::from_secs(2));
        // runtime.md, "Lifecycle": what fails before the start goes on with the deletion, poststop hooks included.
        let _ = after_the_end(&container);
    }
    drop(locked);
    made.map(|(pidfd, master)| Made { container, pidfd, master, warnings })
}

/// The clone, and all that the newborn needs until it waits at its door: its pidfd, and its terminal where nobody else
/// takes that.
fn give_birth(container: &mut Container, plan: &Plan, cgroup: Option<Cgroup>, wish: &Wish) -> Begotten {
    let dir = &container.dir;
    let door =
        socket::listen(&dir.new_door(), Traffic::Messages).doing(|| format!("make {}", dir.new_door().display()))?;
    let rounds = Rounds::new(&container.record.alone.hooks)?;
    let born = bear(plan, &container.record.alone, &rounds, cgroup.as_ref(), &door, wish)?;
    drop(door);
    fault::point("oci.cloned");
    container.record.process = Some(ProcessRecord::of(born.child.pid));
    let mut making = Making { container, plan, rounds, born, master: None };
    let attended = making.carry_devices().and_then(|devices| {
        making.attend(cgroup.as_ref(), wish).inspect_err(|_| {
            devices.iter().for_each(|(carried, netns)| carried.give_back(netns.as_fd()));
        })
    });
    if attended.is_err() {
        let _ = pidfd_send_signal(making.born.child.pidfd.as_fd(), libc::SIGKILL);
        let _ = clone::wait(making.born.child.pidfd.as_fd());
    }
    attended.map(|()| (making.born.child.pidfd, making.master))
}

/// The hooks that are run from inside, and the files that tell them of the container.
struct Rounds {
    create_container: Round,
    start_container: Round,
}

impl Rounds {
    fn new(hooks: &Hooks) -> Result<Self> {
        Ok(Self {
            create_container: Round::new(&hooks.create_container)?,
            start_container: Round::new(&hooks.start_container)?,
        })
    }
}

fn bear(
    plan: &Plan,
    alone: &Alone,
    rounds: &Rounds,
    cgroup: Option<&Cgroup>,
    door: &OwnedFd,
    wish: &Wish,
) -> Result<Born> {
    let stdio = program::stdio(wish.given())?;
    let tasks = cgroup.map_or(Ok(Tasks::nowhere()), Cgroup::tasks)?;
    let joined = open_namespaces(&alone.joined)?;
    let privilege = Privilege::own();
    let mut within: Vec<_> = joined
        .iter()
        .filter(|(_, kind)| *kind == libc::CLONE_NEWUSER || privilege != Privilege::Host)
        .map(|(namespace, kind)| (namespace.as_fd(), *kind))
        .collect();
    // A user may join the others as its root alone; root of another user namespace as that one alone.
    within.sort_by_key(|(_, kind)| (*kind == libc::CLONE_NEWUSER) != (privilege == Privilege::User));
    let own_users = alone.has_own_users();
    let trees = Trees::new(
        plan,
        match (own_users, privilege) {
            (false, _) => Opener::InitInPlace,
            (true, Privilege::User) => Opener::InitAsMaker,
            (true, _) => Opener::Parent,
        },
    );
    if trees.by == Opener::Parent {
        open_sources(plan, &trees)?;
    }
    let clocks = clocks(alone, privilege)?;
    let own = Own {
        hostname: alone.hostname.as_ref(),
        loopback: if alone.makes(libc::CLONE_NEWNET) { Loopback::Up } else { Loopback::Leave },
        ids: if own_users { Ids::Mapped } else { Ids::Host },
        clocks: clocks.as_ref(),
        trees: &trees,
        create_container: &rounds.create_container,
    };
    let world = World { within: &within, joined: &[], memory: None, own: Some(&own) };
    let cradle = Cradle {
        cgroup: cgroup.and_then(Cgroup::unified_fd),
        tasks: &tasks,
        stdio: [stdio[0].as_fd(), stdio[1].as_fd(), stdio[2].as_fd()],
        alone: init::Alone {
            door: Some(door.as_fd()),
            groups: host::groups(privilege)?,
            preserved: wish.given(),
            start_container: Some(&rounds.start_container),
        },
    };
    // A caller may ignore what the container shall not.
    cred::reset_signals();
    let numbering = None;
    among(&joined, alone, || birth::container(plan, alone.by_clone(), &world, numbering, &cradle))
}

pub(super) fn open_namespaces<'j>(joined: impl IntoIterator<Item = &'j Joined>) -> Result<Vec<(OwnedFd, i32)>> {
    joined
        .into_iter()
        .map(|one| {
            let doing = || format!("open {} {}", one.place, one.path.lossy());
            let namespace = fd::open(one.path.c(), libc::O_RDONLY).doing(doing)?;
            match ns::kind(namespace.as_fd()) {
                Ok(kind) if kind == one.kind => Ok((namespace, kind)),
                Ok(kind) => {
                    let cause = format!("a namespace of type {}, not {}", alone::word(kind), alone::word(one.kind));
                    Err(Error::new(Kind::Invalid, doing(), cause))
                }
                Err(_) => Err(Error::new(Kind::Invalid, doing(), "not a namespace")),
            }
        })
        .collect()
}

/// While the host's paths are in reach.
fn open_sources(plan: &Plan, trees: &Trees) -> Result<()> {
    let open = |path: &Text, recursive| {
        mount::open_tree(mount::here(), path.c(), recursive).doing(|| format!("open {}", path.lossy()))
    };
    let maps = Namespaces::new(&plan.mounts)?;
    for (index, (one, place)) in plan.mounts.iter().zip(&trees.sources).enumerate() {
        let Source::Bind { path, recursive } = &one.source else { continue };
        let tree = open(path, *recursive)?;
        // Root of the container's user namespace may not map the ids of a filesystem of the host's.
        if let (Some(map), Some(namespace)) = (&one.idmap, maps.of(index)) {
            mount::map_ids(tree.as_fd(), namespace, map.reach == Reach::Below)
                .map_err(|err| birth::idmap_error(one, &err))?;
        }
        let _ = place.set(tree);
    }
    let _ = trees.rootfs.set(open(&plan.rootfs, true)?);
    Ok(())
}

/// Clones from within the namespaces that are joined, and comes back. What is born in them need have no right to join them:
/// in a user namespace of its own it has none.
fn among<T>(joined: &[(OwnedFd, i32)], alone: &Alone, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut back = Vec::new();
    let own = |kind| ns::own(alone::file(kind)).doing(|| "open podrun's own namespaces".into());
    // To its own namespaces only root of the machine may come back: for others a process in between goes there.
    if Privilege::own() != Privilege::Host {
        return work();
    }
    for (namespace, kind) in joined.iter().filter(|(_, kind)| *kind != libc::CLONE_NEWUSER) {
        back.push((own(*kind)?, *kind));
        ns::setns(namespace.as_fd(), *kind).doing(|| format!("join the {} namespace", alone::word(*kind)))?;
    }
    if alone.makes(CLONE_NEWTIME) {
        back.push((own(CLONE_NEWTIME)?, CLONE_NEWTIME));
        new_clocks(&alone.clocks)?;
    }
    let done = work();
    for (namespace, kind) in back.iter().rev() {
        ns::setns(namespace.as_fd(), *kind).doing(|| "come back from the container's namespaces".into())?;
    }
    done
}

/// Init makes it itself where its maker could not come back from it.
fn clocks(alone: &Alone, privilege: Privilege) -> Result<Option<Text>> {
    match alone.makes(CLONE_NEWTIME) && privilege != Privilege::Host {
        true => Text::new("linux.timeOffsets", alone.clocks.join("\n")).map(Some),
        false => Ok(None),
    }
}

/// A time namespace for children to come; its clocks can be set as long as nobody is in it (time_namespaces(7)).
fn new_clocks(clocks: &[String]) -> Result<()> {
    let doing = || "make a time namespace for linux.timeOffsets".to_owned();
    ns::unshare(CLONE_NEWTIME).doing(doing)?;
    match clocks.is_empty() {
        true => Ok(()),
        false => std::fs::write("/proc/self/timens_offsets", clocks.join("\n")).doing(doing),
    }
}

/// A birth on its way to the door.
struct Making<'c> {
    container: &'c Container,
    plan: &'c Plan,
    rounds: Rounds,
    born: Born,
    master: Option<OwnedFd>,
}

impl Making<'_> {
    /// Answers the newborn until it waits at its door.
    fn attend(&mut self, cgroup: Option<&Cgroup>, wish: &Wish) -> Result<()> {
        // Else that is done while it makes its mounts; should we die meanwhile, its cgroup says who it is.
        let early = self.container.record.alone.is_seen_early() || cgroup.is_none_or(Cgroup::is_nowhere);
        if early {
            self.settle(cgroup)?;
        }
        loop {
            poll_one(self.born.report.as_fd(), libc::POLLIN, -1).doing(|| "hear of the container's init".into())?;
            match birth::next_report(self.born.report.as_fd()).doing(|| "hear of the container's init".into())? {
                None => {}
                Some(Report::Namespaces) => {
                    self.furnish()?;
                    if !early {
                        self.settle(cgroup)?;
                    }
                }
                Some(Report::Terminal(master)) => match &wish.console {
                    Some(path) => hand_over(path, b"/dev/ptmx", master.as_fd())?,
                    None => self.show(master),
                },
                Some(Report::Ready) => return self.ready(wish),
                // Only after the door, where it goes to `start`.
                Some(Report::Listener(_)) => {
                    return Err(Error::new(
                        Kind::Kernel,
                        "hear of the container's init",
                        "it is too early for a listener",
                    ));
                }
                Some(Report::Failed(failure)) => return Err(self.explain(failure)),
                Some(Report::End) => {
                    let doing = format!("create {}", self.container.record.id);
                    return Err(Error::new(Kind::Kernel, doing, "its init was killed")
                        .hint("a memory limit that is too small for it, or somebody's KILL"));
                }
            }
        }
    }

    /// Its device rules, and its record.
    fn settle(&self, cgroup: Option<&Cgroup>) -> Result<()> {
        if let Some(cgroup) = cgroup {
            cgroup.guard(&self.plan.cgroup, &mut Programs::default())?;
        }
        store::write(&self.container.dir.state(), &self.container.record)?;
        fault::point("oci.recorded");
        Ok(())
    }

    /// linux.netDevices, into the network namespace that it was born in.
    fn carry_devices(&self) -> Result<Option<(Carried, OwnedFd)>> {
        if self.plan.net_devices.is_empty() {
            return Ok(None);
        }
        let netns = ns::of(self.born.child.pid, "net").doing(|| "open the container's network namespace".to_owned())?;
        Ok(Some((net::devices::carry(&self.plan.net_devices, netns.as_fd())?, netns)))
    }

    /// The user's own terminal will show it: it has that one's size before the program asks.
    fn show(&mut self, master: OwnedFd) {
        terminal::fit(master.as_fd());
        self.master = Some(master);
    }

    fn explain(&self, failure: Failure) -> Error {
        birth::lone_error(self.plan, &self.container.record.alone.hooks, failure)
    }

    /// What is done for the newborn once its namespaces are there: the ids, and the hooks of the runtime's own namespaces.
    fn furnish(&mut self) -> Result<()> {
        if let Some(scope) = &self.container.record.scope {
            self.move_into(scope)?;
        }
        if let Some(resctrl) = &self.container.record.resctrl {
            resctrl.take_in(&[self.born.child.pid])?;
        }
        let alone = &self.container.record.alone;
        if let Some(ids) = &alone.ids {
            ids::map(self.born.child.pid, ids)?;
        }
        let creating = self.container.record.state(Status::Creating).to_string();
        let bundle = &self.container.record.bundle;
        run_hooks(("prestart", &alone.hooks.prestart), bundle, &creating)?;
        run_hooks(("createRuntime", &alone.hooks.create_runtime), bundle, &creating)?;
        self.rounds.create_container.tell(creating.as_bytes())?;
        self.rounds.start_container.tell(self.container.record.state(Status::Created).to_string().as_bytes())?;
        fault::point("oci.furnished");
        birth::go_on(self.born.report.as_fd()).doing(|| "let the container's init go on".into())
    }

    /// Before anything of the bundle runs it is where its limits are, or nowhere.
    fn move_into(&self, scope: &Scope) -> Result<()> {
        let pid = self.born.child.pid;
        scope.start(pid, &self.plan.cgroup)?;
        let shown = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).doing(|| "look for its cgroup".into())?;
        self.plan.cgroup.confirm(&shown)?;
        Cgroup::create(&self.plan.cgroup)?.guard(&self.plan.cgroup, &mut Programs::default())
    }

    fn ready(&self, wish: &Wish) -> Result<()> {
        announce(wish, &self.born.child)?;
        fault::point("oci.ready");
        let dir = &self.container.dir;
        std::fs::rename(dir.new_door(), dir.door()).doing(|| format!("make {}", dir.door().display()))
    }
}

/// To whoever asked who its first process is.
pub(super) fn announce(wish: &Wish, first: &Child) -> Result<()> {
    if let Some(path) = &wish.pidfd {
        hand_over(path, b"pidfd", first.pidfd.as_fd())?;
    }
    match &wish.pid_file {
        Some(path) => write_pid(path, first.pid),
        None => Ok(()),
    }
}

/// `poststop`: a failure is a warning (config.md), and stops no other.
pub fn after_the_end(container: &Container) -> Vec<String> {
    let state = container.record.state(Status::Stopped).to_string();
    let (hooks, bundle) = (&container.record.alone.hooks.poststop, &container.record.bundle);
    // Runs all of them, whatever becomes of one.
    let failed = |index| run_hook(("poststop", hooks), index, bundle, &state).err();
    (0..hooks.len()).filter_map(failed).map(|err| err.to_string()).collect()
}

/// Runs one after the other until one fails.
pub(super) fn run_hooks(hooks: (&str, &[Hook]), bundle: &Path, state: &str) -> Result<()> {
    (0..hooks.1.len()).try_for_each(|index| run_hook(hooks, index, bundle, state))
}

/// In the bundle, as with runc, as long as that is there.
fn run_hook((kind, hooks): (&str, &[Hook]), index: usize, bundle: &Path, state: &str) -> Result<()> {
    let directory = std::fs::File::open(bundle).ok().map(OwnedFd::from);
    let round = Round::new(&hooks[index..=index])?.starting_in(directory);
    round.tell(state.as_bytes())?;
    round.run().map_err(|failed| hooks::error(kind, hooks, Failed { index, ..failed }))
}

/// Sends a descriptor to whoever listens there, as runc does: its name, and the descriptor along with it.
pub(super) fn hand_over(path: &Path, name: &[u8], one: BorrowedFd<'_>) -> Result<()> {
    let doing = || format!("hand a descriptor to {}", path.display());
    let socket = socket::connect(path, Traffic::Stream).doing(doing)?;
    socket::send(socket.as_fd(), name, &[one], 0).map(drop).doing(doing)
}

/// Whole or not at all: its reader may look at any moment.
pub fn write_pid(path: &Path, pid: i32) -> Result<()> {
    let doing = || format!("write {}", path.display());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let staged = path.with_file_name(format!(".{}", name.to_string_lossy()));
    std::fs::write(&staged, pid.to_string()).doing(doing)?;
    std::fs::rename(&staged, path).doing(doing)
}
