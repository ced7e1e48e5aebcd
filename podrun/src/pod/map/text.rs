//! The picture for a terminal: a tree from the host's links to the pods, each of which is a box.
//!
//! Pure: a map and how wide it may be, to lines none of which is wider.

#![forbid(unsafe_code)]

use super::model::{Device, Interface, Link, Map, Network, Pod, Sandbox, State, plain};
use crate::net::definition::Driver;

/// How it is to be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Columns; less than [`LEAST`] counts as that.
    pub width: usize,
    pub letters: Letters,
    pub detail: Detail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Letters {
    Ascii,
    /// Box-drawing.
    Utf8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// The first pods of each network, and how many more there are.
    Overview,
    /// Every pod and container.
    Everything,
    /// The same, with hardware addresses, MTU and ways out.
    Whole,
}

/// Narrower than this nothing would be left of a name.
pub const LEAST: usize = 40;

/// What an overview shows of one network, of one pod.
const PODS: usize = 8;
const CONTAINERS: usize = 8;

/// What lines are made of.
struct Glyphs {
    branch: &'static str,
    last: &'static str,
    trunk: &'static str,
    across: char,
    upright: char,
    top: [char; 2],
    middle: [char; 2],
    bottom: [char; 2],
    pair: &'static str,
    tunnel: &'static str,
    more: char,
}

const UTF8: Glyphs = Glyphs {
    branch: "├─ ",
    last: "└─ ",
    trunk: "│  ",
    across: '─',
    upright: '│',
    top: ['┌', '┐'],
    middle: ['├', '┤'],
    bottom: ['└', '┘'],
    pair: "──",
    tunnel: "══",
    more: '…',
};

const ASCII: Glyphs = Glyphs {
    branch: "|- ",
    last: "`- ",
    trunk: "|  ",
    across: '-',
    upright: '|',
    top: ['+', '+'],
    middle: ['+', '+'],
    bottom: ['+', '+'],
    pair: "--",
    tunnel: "==",
    more: '~',
};

/// Columns of a branch before what stands on it.
const STEP: usize = 3;

/// Something with what hangs on it.
struct Branch {
    lines: Vec<String>,
    below: Vec<Branch>,
}

pub fn draw(map: &Map, look: Look) -> String {
    let glyphs = match look.letters {
        Letters::Ascii => &ASCII,
        Letters::Utf8 => &UTF8,
    };
    let pen = Pen { map, glyphs, detail: look.detail };
    let room = look.width.max(LEAST);
    let mut lines = vec![pen.cut(&format!("host {}", plain(&map.host)), room)];
    pen.grow(&mut lines, "", pen.branches(room - STEP));
    if map.sandboxes.is_empty() {
        lines.push(pen.cut("no pods; `podrun create pod NAME` makes one", room));
    }
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

struct Pen<'a> {
    map: &'a Map,
    glyphs: &'static Glyphs,
    detail: Detail,
}

impl Pen<'_> {
    /// What the host has, each within so many columns.
    fn branches(&self, room: usize) -> Vec<Branch> {
        let links = self.map.links.iter().map(|link| self.link(link, room));
        let networks = self.map.networks.iter().filter(|network| network.parent.is_none());
        let networks = networks.map(|network| self.network(network, room));
        let elsewhere = self.map.elsewhere();
        let elsewhere = elsewhere.iter().map(|(ground, group)| Branch {
            lines: self.list(&[plain(ground)], room),
            below: self.crowd(group.iter().map(|sandbox| self.stand(sandbox, room - STEP)).collect(), room - STEP),
        });
        links.chain(networks).chain(elsewhere).collect()
    }

    fn link(&self, link: &Link, room: usize) -> Branch {
        let mut words = vec![plain(&link.name), link.state.words().to_owned()];
        words.extend(link.addresses.iter().map(ToString::to_string));
        words.extend(self.wants_all().then(|| format!("mtu {}", link.mtu)));
        words.extend(link.leads_out.then(|| "the way out".to_owned()));
        let hanging = self.map.networks.iter().filter(|network| network.parent.as_deref() == Some(&link.name));
        let below = hanging.map(|network| self.network(network, room - STEP)).collect();
        Branch { lines: self.list(&words, room), below }
    }

    fn network(&self, network: &Network, room: usize) -> Branch {
        let inner = room - STEP;
        let pods = self.map.on(network).map(|(sandbox, interface, first)| self.plug(sandbox, interface, first, inner));
        let below = self.tunnel(network, inner).into_iter().chain(self.crowd(pods.collect(), inner));
        let mut below: Vec<Branch> = below.collect();
        if network.others > 0 {
            below.push(self.note(&format!("{} more {} on it", network.others, pods_are(network.others)), inner));
        }
        Branch { lines: self.list(&words(network), room), below }
    }

    /// The way of an overlay to its other hosts.
    fn tunnel(&self, network: &Network, room: usize) -> Option<Branch> {
        let overlay = network.overlay.as_ref()?;
        let tunnel = network.tunnel.as_ref().map(shown).unwrap_or_default();
        let words = [tunnel, format!("{} udp {}", self.glyphs.tunnel, overlay.port)];
        let peer = |(host, part): (&std::net::IpAddr, &crate::net::cidr::Cidr)| Branch {
            lines: self.list(&[format!("peer {host}"), part.to_string()], room - STEP),
            below: Vec::new(),
        };
        Some(Branch { lines: self.list(&words, room), below: overlay.peers.iter().map(peer).collect() })
    }

    /// An interface, and the pods that have it where it is their first.
    fn plug(&self, sandbox: &Sandbox, interface: &Interface, first: bool, room: usize) -> Branch {
        let mut words = match &interface.host_end {
            Some(end) => vec![format!("{} {} {}", shown(end), self.glyphs.pair, plain(&interface.name))],
            None => vec![plain(&interface.name)],
        };
        words.extend(interface.addresses.iter().map(ToString::to_string));
        if self.wants_all() {
            words.extend(interface.mac.clone());
            words.push(format!("mtu {}", interface.mtu));
            words.extend(interface.gateways.iter().map(|gateway| format!("way out by {gateway}")));
        }
        if first {
            return Branch { lines: [self.list(&words, room), self.frame(sandbox, room)].concat(), below: Vec::new() };
        }
        let names: Vec<String> = sandbox.pods.iter().map(|pod| plain(&pod.name)).collect();
        words.push(format!("of {}", names.join(", ")));
        Branch { lines: self.list(&words, room), below: Vec::new() }
    }

    fn stand(&self, sandbox: &Sandbox, room: usize) -> Branch {
        Branch { lines: self.frame(sandbox, room), below: Vec::new() }
    }

    /// As many as an overview has room for.
    fn crowd(&self, mut all: Vec<Branch>, room: usize) -> Vec<Branch> {
        let more = all.len().saturating_sub(PODS);
        if self.detail == Detail::Overview && more > 0 {
            all.truncate(PODS);
            let pods = pods_are(more);
            all.push(self.note(&format!("{more} more {pods}: `podrun map POD` shows one, --all every one"), room));
        }
        all
    }

    fn note(&self, text: &str, room: usize) -> Branch {
        Branch { lines: self.list(&[text.to_owned()], room), below: Vec::new() }
    }

    fn wants_all(&self) -> bool {
        self.detail == Detail::Whole
    }

    /// A box around the pods of one network namespace, as wide as what is in it.
    fn frame(&self, sandbox: &Sandbox, room: usize) -> Vec<String> {
        let inner = room - 4;
        let parts: Vec<(String, &str, Vec<String>)> =
            sandbox.pods.iter().map(|pod| (plain(&pod.name), pod.state, self.inside(pod, inner))).collect();
        let rows = parts.iter().flat_map(|(_, _, rows)| rows).map(|row| row.chars().count());
        let heads = parts.iter().map(|(name, state, _)| name.len() + state.len() + 5);
        let width = rows.chain(heads).max().unwrap_or(0).min(inner);
        let mut lines = Vec::new();
        for (n, (name, state, rows)) in parts.iter().enumerate() {
            lines.push(self.head(if n == 0 { self.glyphs.top } else { self.glyphs.middle }, name, state, width));
            let upright = self.glyphs.upright;
            lines.extend(rows.iter().map(|row| format!("{upright} {row:<width$} {upright}")));
        }
        let [left, right] = self.glyphs.bottom;
        lines.push(format!("{left}{}{right}", self.across(width + 2)));
        lines
    }

    /// `┌ web ─────── Ready ┐`
    fn head(&self, [left, right]: [char; 2], name: &str, state: &str, width: usize) -> String {
        let name = self.cut(name, width.saturating_sub(state.len() + 5));
        let line = self.across((width - 2).saturating_sub(name.chars().count() + state.len()));
        format!("{left} {name} {line} {state} {right}")
    }

    fn across(&self, columns: usize) -> String {
        std::iter::repeat_n(self.glyphs.across, columns).collect()
    }

    /// What stands in a pod's box: why it is not Ready, its ports, pause, and its containers.
    fn inside(&self, pod: &Pod, room: usize) -> Vec<String> {
        let mut rows = Vec::new();
        if let Some(why) = &pod.reason {
            rows.extend(self.words(&plain(why), room));
        }
        if !pod.ports.is_empty() {
            rows.extend(self.list(&pod.ports.iter().map(ToString::to_string).collect::<Vec<_>>(), room));
        }
        rows.extend(self.table(&members(pod), room));
        let hidden = if self.detail == Detail::Overview { pod.containers.len().saturating_sub(CONTAINERS) } else { 0 };
        if hidden > 0 {
            rows.truncate(rows.len() - hidden);
            rows.push(self.cut(&format!("{hidden} more: `podrun map POD` shows them"), room));
        }
        rows
    }

    /// Name, state, pid; a long name gives way to the others.
    fn table(&self, rows: &[[String; 3]], room: usize) -> Vec<String> {
        let widest = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let (state, pid) = (widest(1), widest(2));
        let name = widest(0).min(room.saturating_sub(state + pid + 4));
        let line = |[a, b, c]: &[String; 3]| format!("{:<name$}  {b:<state$}  {c}", self.cut(a, name));
        rows.iter().map(|row| self.cut(line(row).trim_end(), room)).collect()
    }

    /// Words with two spaces between them, on as many lines as they need.
    fn list(&self, words: &[String], room: usize) -> Vec<String> {
        self.flow(words.iter().map(String::as_str), "  ", room)
    }

    fn words(&self, text: &str, room: usize) -> Vec<String> {
        self.flow(text.split(' '), " ", room)
    }

    fn flow<'w>(&self, words: impl Iterator<Item = &'w str>, between: &str, room: usize) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for word in words {
            match lines.last_mut() {
                Some(line) if line.chars().count() + between.len() + word.chars().count() <= room => {
                    line.push_str(between);
                    line.push_str(word);
                }
                Some(_) => lines.push(self.cut(&format!("  {word}"), room)),
                None => lines.push(self.cut(word, room)),
            }
        }
        lines
    }

    fn cut(&self, text: &str, room: usize) -> String {
        match text.chars().count() > room {
            true => text.chars().take(room.saturating_sub(1)).chain([self.glyphs.more]).collect(),
            false => text.to_owned(),
        }
    }

    fn grow(&self, lines: &mut Vec<String>, before: &str, branches: Vec<Branch>) {
        let many = branches.len();
        for (n, branch) in branches.into_iter().enumerate() {
            let last = n + 1 == many;
            let first = format!("{before}{}", if last { self.glyphs.last } else { self.glyphs.branch });
            let trunk = format!("{before}{}", if last { "   " } else { self.glyphs.trunk });
            let starts = std::iter::once(&first).chain(std::iter::repeat(&trunk));
            lines.extend(branch.lines.iter().zip(starts).map(|(line, start)| format!("{start}{line}")));
            self.grow(lines, &trunk, branch.below);
        }
    }
}

/// What a network is, in words.
fn words(network: &Network) -> Vec<String> {
    let driver = network.driver.word();
    let mut words = vec![plain(&network.name)];
    words.extend((network.name != driver).then(|| driver.to_owned()));
    words.extend(network.mode.as_deref().map(plain));
    words.extend(network.overlay.as_ref().map(|overlay| format!("vni {}", overlay.vni)));
    words.extend(network.bridge.as_ref().map(shown));
    words.extend(network.addresses.iter().map(ToString::to_string));
    words.extend(policy(network).map(str::to_owned));
    words.extend((!network.made).then(|| "its first pod makes it".to_owned()));
    words
}

/// What is to be said of the way out.
pub(super) fn policy(network: &Network) -> Option<&'static str> {
    match (network.internal, network.masquerade) {
        (true, _) => Some("no way out"),
        (_, false) if matches!(network.driver, Driver::Bridge | Driver::Ptp | Driver::Vxlan) => Some("no masquerade"),
        _ if network.driver == Driver::Ptp => Some("routed"),
        _ => None,
    }
}

/// A device's name, and what is wrong with it. A bridge without a pod has no carrier, as it should.
pub(super) fn shown(device: &Device) -> String {
    match device.state {
        State::Up | State::NoCarrier => plain(&device.name),
        state => format!("{} ({})", plain(&device.name), state.words()),
    }
}

fn pods_are(many: usize) -> &'static str {
    if many == 1 { "pod" } else { "pods" }
}

/// Name, state and pid of those who live in a pod, pause first.
pub(super) fn members(pod: &Pod) -> Vec<[String; 3]> {
    let pid = |pid: Option<i32>| pid.map(|pid| pid.to_string()).unwrap_or_default();
    let pause = ["pause".to_owned(), "keeps the pod".to_owned(), pid(pod.pause)];
    let containers = pod.containers.iter().map(|one| [plain(&one.name), one.status(), pid(one.pid)]);
    std::iter::once(pause).chain(containers).collect()
}

#[cfg(test)]
mod tests {
    use super::super::model::samples::{crowd, every_kind, hostile, id, network, small};
    use super::*;

    const WIDE: Look = Look { width: 80, letters: Letters::Utf8, detail: Detail::Overview };

    #[test]
    fn a_host_with_a_few_pods() {
        assert_eq!(draw(&small(), WIDE), include_str!("text/small.txt"));
    }

    #[test]
    fn each_kind_of_network_in_ascii() {
        assert_eq!(draw(&every_kind(), Look { letters: Letters::Ascii, ..WIDE }), include_str!("text/kinds.txt"));
    }

    #[test]
    fn of_somebody_elses_network_nothing_is_said_that_podrun_does_not_know() {
        let told = |driver| policy(&Network { masquerade: false, ..network("n", driver, "10.1.0.1/24") });
        assert_eq!((told(Driver::Bridge), told(Driver::Cni), told(Driver::Pasta)), (Some("no masquerade"), None, None));
    }

    #[test]
    fn one_pod_whole() {
        let map = small().around(&id(1));
        assert_eq!(draw(&map, Look { detail: Detail::Whole, ..WIDE }), include_str!("text/whole.txt"));
    }

    #[test]
    fn a_host_without_pods() {
        let empty = Map { networks: Vec::new(), sandboxes: Vec::new(), ..small() };
        assert_eq!(
            draw(&empty, WIDE),
            "host shelf\n└─ eth0  up  192.0.2.7/24  the way out\nno pods; `podrun create pod NAME` makes one\n"
        );
    }

    #[test]
    fn of_a_crowd_the_first_are_shown_and_the_rest_counted() {
        let overview = draw(&crowd(100), WIDE);
        assert!(overview.contains("└─ 92 more pods: `podrun map POD` shows one, --all every one\n"), "{overview}");
        assert!(overview.contains(" pod7 ") && !overview.contains(" pod8 "), "{overview}");
        let all = draw(&crowd(100), Look { detail: Detail::Everything, ..WIDE });
        assert!(all.contains(" pod99 ") && !all.contains("more pods"));
        assert!(!draw(&crowd(8), WIDE).contains("more"));
    }

    #[test]
    fn no_line_is_wider_than_it_may_be_and_none_writes_to_the_terminal() {
        for map in [small(), every_kind(), hostile()] {
            for width in [0, 40, 57, 80, 200] {
                for letters in [Letters::Ascii, Letters::Utf8] {
                    for detail in [Detail::Overview, Detail::Everything, Detail::Whole] {
                        let text = draw(&map, Look { width, letters, detail });
                        let room = width.max(LEAST);
                        for line in text.lines() {
                            assert!(line.chars().count() <= room, "{width}: {line}");
                        }
                        let harmless = |c: char| matches!(c, ' '..='~' | '\n' | '─'..='┼' | '═' | '…');
                        assert!(text.chars().all(harmless), "{text}");
                        assert!(letters == Letters::Utf8 || text.is_ascii());
                    }
                }
            }
        }
    }

    #[test]
    fn a_box_is_straight_whatever_is_in_it() {
        let ends = |line: &str| line.chars().next_back().is_some_and(|last| "┐│┤┘".contains(last));
        for width in [40, 80] {
            let text = draw(&hostile(), Look { width, ..WIDE });
            let mut right = None;
            for line in text.lines() {
                let columns = line.chars().count();
                match line.chars().next_back() {
                    Some('┐') => right = Some(columns),
                    _ if ends(line) => assert_eq!(Some(columns), right, "{text}"),
                    _ => {}
                }
            }
        }
    }
}
