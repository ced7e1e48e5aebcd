//! The picture for a page: one file that needs no other, readable in light and dark. Pure.
//!
//! Three columns: what leads out, networks, pods. Everything stands in the order of the map, beside what it is wired to as
//! far as there is room, so that few wires cross.

#![forbid(unsafe_code)]

use super::model::{Map, Network, Sandbox, State, plain};
use super::text::{members, policy, shown};
use std::fmt::{Display, Write};

/// Pixels. A letter of the monospaced font at 12 px is 7.2 wide; tenths, since there are no floats in it.
const LETTER: u32 = 72;
const LINE: u32 = 18;
const PADDING: u32 = 10;
const GAP: u32 = 18;
const TOP: u32 = 78;
const WIDTH: u32 = 1000;
const OUT: Column = Column { x: 20, width: 210 };
const NETWORKS: Column = Column { x: 300, width: 230 };
const PODS: Column = Column { x: 660, width: 320 };

const STYLE: &str = "\
  .page { fill: #ffffff } .title { fill: #1b1f24; font-weight: 600 } .text { fill: #3d444d } .quiet { fill: #5d6670 }
  .box { fill: #f6f8fa; stroke: #8d99a6 } .net { fill: #e3f3f6; stroke: #0b7285 } .wire { fill: none; stroke: #0b7285; stroke-width: 1.6 }
  .out { fill: none; stroke: #8d99a6; stroke-width: 1.6 } .tunnel { fill: none; stroke: #a35f00; stroke-width: 3; stroke-dasharray: 7 4 }
  .peer { fill: #fdf3e4; stroke: #a35f00 } .rule { stroke: #8d99a6; stroke-width: 0.7 }
  .plug { fill: #0b7285 } .port { fill: #0b6275; font-weight: 600 } .good { fill: #2b8a3e } .bad { fill: #c92a2a } .still { fill: #8d99a6 }
  .label { fill: #5d6670; font-size: 10.5px; stroke: #ffffff; stroke-width: 3px; paint-order: stroke } .later { stroke-dasharray: 4 3 }
  text { font: 12px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; white-space: pre }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .title { fill: #f0f3f6 } .text { fill: #c9d1d9 } .quiet { fill: #9ba4ae }
    .box { fill: #161b22; stroke: #6e7a87 } .net { fill: #0c2a31; stroke: #3bc9db } .wire { stroke: #3bc9db }
    .out { stroke: #6e7a87 } .tunnel { stroke: #e0a458 } .peer { fill: #2b2113; stroke: #e0a458 } .rule { stroke: #6e7a87 }
    .plug { fill: #3bc9db } .port { fill: #66d9e8 } .good { fill: #69db7c } .bad { fill: #ff8787 } .still { fill: #6e7a87 }
    .label { fill: #9ba4ae; stroke: #0d1117 }
  }
";

#[derive(Clone, Copy)]
struct Column {
    x: u32,
    width: u32,
}

impl Column {
    fn right(self) -> u32 {
        self.x + self.width
    }

    /// Letters that fit, at 12 px.
    fn letters(self) -> usize {
        usize::try_from((self.width - 2 * PADDING) * 10 / LETTER).unwrap_or(0)
    }
}

/// A line of text in a box.
struct Row {
    class: &'static str,
    text: String,
    /// Before it: how a container is.
    dot: Option<&'static str>,
    /// At the right end.
    note: String,
    /// Another pod begins above it.
    ruled: bool,
}

fn row(class: &'static str, text: impl Into<String>) -> Row {
    Row { class, text: text.into(), dot: None, note: String::new(), ruled: false }
}

/// A box where it stands.
struct Placed {
    y: u32,
    class: String,
    rows: Vec<Row>,
}

impl Placed {
    fn new(class: impl Into<String>, rows: Vec<Row>) -> Self {
        Self { y: 0, class: class.into(), rows }
    }

    fn height(&self) -> u32 {
        2 * PADDING + LINE * count(self.rows.len())
    }

    fn bottom(&self) -> u32 {
        self.y + self.height()
    }

    fn middle(&self) -> u32 {
        self.y + self.height() / 2
    }

    /// Where a wire meets its row.
    fn row_at(&self, row: usize) -> u32 {
        self.y + PADDING + LINE * count(row) + LINE / 2
    }
}

fn count(many: usize) -> u32 {
    u32::try_from(many).unwrap_or(0)
}

/// A wire from the right side of one column's box to the left side of another's.
struct Wire {
    class: &'static str,
    from: (u32, u32),
    to: (u32, u32),
    label: Option<String>,
}

pub fn draw(map: &Map) -> String {
    let pods = pods(map);
    let networks = networks(map, &pods);
    let out = out(map, &networks);
    let wires = wires(map, &out, &networks, &pods);
    let all = [(OUT, &out), (NETWORKS, &networks), (PODS, &pods)];
    let boxes = all.iter().flat_map(|(_, column)| column.iter());
    let height = boxes.map(Placed::bottom).max().unwrap_or(TOP) + GAP;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n<rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
         <text class=\"title\" x=\"{}\" y=\"32\" style=\"font-size:16px\">{title}</text>\n",
        OUT.x,
        title = escape(&clip(&format!("host {}", plain(&map.host)), 90)),
    );
    for (column, word) in [(OUT, "ways out"), (NETWORKS, "networks"), (PODS, "pods")] {
        let _ = writeln!(text, "<text class=\"quiet\" x=\"{}\" y=\"{}\">{word}</text>", column.x, TOP - GAP);
    }
    wires.iter().for_each(|wire| draw_wire(wire, &mut text));
    for (column, placed) in all {
        placed.iter().for_each(|one| draw_box(column, one, &mut text));
    }
    // A label lies on its wire, so it comes last.
    wires.iter().for_each(|wire| draw_label(wire, &mut text));
    text.push_str("</svg>\n");
    text
}

/// XML 1.0, 2.4 and 2.2: what would end the text, and what may not be in it at all.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

fn clip(text: &str, letters: usize) -> String {
    match text.chars().count() > letters {
        true => text.chars().take(letters.saturating_sub(1)).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// Those on the first network first, so that wires cross little; those on none last.
fn in_order(map: &Map) -> Vec<&Sandbox> {
    let rank = |sandbox: &&Sandbox| {
        let first = sandbox.interfaces.first();
        let network = first.and_then(|first| map.networks.iter().position(|one| one.name == first.network));
        (network.unwrap_or(usize::MAX), sandbox.network.clone())
    };
    let mut all: Vec<&Sandbox> = map.sandboxes.iter().collect();
    all.sort_by_key(rank);
    all
}

fn pods(map: &Map) -> Vec<Placed> {
    let mut column: Vec<Placed> =
        in_order(map).into_iter().map(|sandbox| Placed::new("box", inside(sandbox))).collect();
    stack(&mut column, |_| None);
    column
}

/// Below each other, each at the height that is wished for it where the one before leaves room.
fn stack(column: &mut [Placed], wish: impl Fn(usize) -> Option<u32>) {
    let mut free = TOP;
    for (n, placed) in column.iter_mut().enumerate() {
        let wished = wish(n).map_or(free, |middle| middle.saturating_sub(placed.height() / 2));
        placed.y = wished.max(free);
        free = placed.bottom() + GAP;
    }
}

/// The rows of a sandbox: its interfaces, each the end of a wire, and then its pods.
fn inside(sandbox: &Sandbox) -> Vec<Row> {
    let mut rows: Vec<Row> = sandbox
        .interfaces
        .iter()
        .map(|one| {
            let addresses: Vec<String> = one.addresses.iter().map(ToString::to_string).collect();
            row("text", format!("{}  {}", plain(&one.name), addresses.join("  ")))
        })
        .collect();
    if rows.is_empty() {
        rows.push(row("quiet", plain(&sandbox.ground())));
    }
    for pod in &sandbox.pods {
        let good = if pod.state == "Ready" { "good" } else { "bad" };
        let name = Row { note: pod.state.to_owned(), dot: Some(good), ruled: true, ..row("title", plain(&pod.name)) };
        rows.push(name);
        rows.extend(pod.reason.as_deref().map(|why| row("bad", plain(why))));
        rows.extend(pod.ports.iter().map(|port| row("port", port.to_string().replace("->", " → "))));
        for [name, status, pid] in members(pod) {
            let dot = match status.as_str() {
                "Running" => "good",
                _ => "still",
            };
            rows.push(Row { dot: Some(dot), note: format!("{status} {pid}").trim().to_owned(), ..row("text", name) });
        }
    }
    rows
}

fn networks(map: &Map, pods: &[Placed]) -> Vec<Placed> {
    let class = |network: &Network| if network.made { "net" } else { "net later" };
    let mut column: Vec<Placed> =
        map.networks.iter().map(|network| Placed::new(class(network), about(network))).collect();
    let ends: Vec<Option<u32>> = map
        .networks
        .iter()
        .map(|network| {
            let ends: Vec<u32> = plugs(map, network, pods).map(|(_, y)| y).collect();
            mean(&ends)
        })
        .collect();
    stack(&mut column, |n| ends[n]);
    column
}

fn mean(all: &[u32]) -> Option<u32> {
    Some(all.iter().sum::<u32>() / u32::try_from(all.len()).ok().filter(|many| *many > 0)?)
}

fn about(network: &Network) -> Vec<Row> {
    let mut rows = vec![row("title", plain(&network.name))];
    let words = [Some(network.driver.word().to_owned()), network.mode.as_deref().map(plain)];
    let words =
        words.into_iter().flatten().chain(network.overlay.as_ref().map(|overlay| format!("vni {}", overlay.vni)));
    rows.push(row("quiet", words.collect::<Vec<_>>().join(" ")));
    let missing = |state: State| if matches!(state, State::Missing | State::Down) { "bad" } else { "text" };
    rows.extend(network.bridge.as_ref().map(|bridge| row(missing(bridge.state), shown(bridge))));
    rows.extend(network.tunnel.as_ref().map(|tunnel| row(missing(tunnel.state), shown(tunnel))));
    rows.extend(network.addresses.iter().map(|address| row("text", address.to_string())));
    rows.extend(policy(network).map(|words| row("quiet", words)));
    rows.extend((!network.made).then(|| row("quiet", "its first pod makes it")));
    rows.extend((network.others > 0).then(|| row("quiet", format!("{} more pods", network.others))));
    rows
}

/// Where the wires of a network end: the name of the host's end, and how far down.
fn plugs<'a>(
    map: &'a Map,
    network: &'a Network,
    pods: &'a [Placed],
) -> impl Iterator<Item = (Option<String>, u32)> + 'a {
    in_order(map).into_iter().zip(pods).flat_map(move |(sandbox, placed)| {
        let own = sandbox.interfaces.iter().enumerate().filter(|(_, one)| one.network == network.name);
        own.map(|(at, one)| (one.host_end.as_ref().map(shown), placed.row_at(at)))
    })
}

/// Links, then the peers of overlays.
fn out(map: &Map, networks: &[Placed]) -> Vec<Placed> {
    let (mut column, mut wishes) = (Vec::new(), Vec::new());
    for (n, link) in map.links.iter().enumerate() {
        let class = if link.state == State::Up { "quiet" } else { "bad" };
        let mut rows = vec![row("title", plain(&link.name)), row(class, link.state.words())];
        rows.extend(link.addresses.iter().map(|address| row("text", address.to_string())));
        rows.extend(link.leads_out.then(|| row("quiet", "the way out")));
        column.push(Placed::new("box", rows));
        let below = map.networks.iter().zip(networks).filter(|(network, _)| leads(map, n, network));
        wishes.push(mean(&below.map(|(_, placed)| placed.middle()).collect::<Vec<_>>()));
    }
    for (network, placed) in map.networks.iter().zip(networks) {
        for (host, part) in network.overlay.iter().flat_map(|overlay| &overlay.peers) {
            column.push(Placed::new("peer", vec![row("title", format!("peer {host}")), row("text", part.to_string())]));
            wishes.push(Some(placed.middle()));
        }
    }
    stack(&mut column, |n| wishes[n]);
    column
}

/// Whether a network's packets leave by this link.
fn leads(map: &Map, link: usize, network: &Network) -> bool {
    let link = &map.links[link];
    match &network.parent {
        Some(parent) => *parent == link.name,
        None => link.leads_out && network.made && !network.internal,
    }
}

fn wires(map: &Map, out: &[Placed], networks: &[Placed], pods: &[Placed]) -> Vec<Wire> {
    let mut all = Vec::new();
    let mut peers = out[map.links.len()..].iter();
    for (network, placed) in map.networks.iter().zip(networks) {
        let to = (NETWORKS.x, placed.middle());
        for (n, link) in out[..map.links.len()].iter().enumerate().filter(|(n, _)| leads(map, *n, network)) {
            let _ = n;
            all.push(Wire { class: "out", from: (OUT.right(), link.middle()), to, label: None });
        }
        let many = network.overlay.as_ref().map_or(0, |overlay| overlay.peers.len());
        for peer in peers.by_ref().take(many) {
            all.push(Wire { class: "tunnel", from: (OUT.right(), peer.middle()), to, label: None });
        }
        let from = (NETWORKS.right(), placed.middle());
        all.extend(plugs(map, network, pods).map(|(label, y)| Wire { class: "wire", from, to: (PODS.x, y), label }));
    }
    all
}

fn draw_wire(wire: &Wire, text: &mut String) {
    let (Wire { class, from: (x, y), to: (to_x, to_y), .. }, bend) = (wire, u32::midpoint(wire.from.0, wire.to.0));
    let _ = writeln!(text, "<path class=\"{class}\" d=\"M{x} {y} C{bend} {y} {bend} {to_y} {to_x} {to_y}\"/>");
    if *class == "wire" {
        let _ = writeln!(text, "<circle class=\"plug\" cx=\"{to_x}\" cy=\"{to_y}\" r=\"3.5\"/>");
    }
}

fn draw_label(wire: &Wire, text: &mut String) {
    if let (Some(label), (x, y)) = (&wire.label, wire.to) {
        let label = escape(&clip(label, 26));
        let _ =
            writeln!(text, "<text class=\"label\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text>", x - 8, y - 5);
    }
}

fn draw_box(column: Column, placed: &Placed, text: &mut String) {
    let (x, width, class) = (column.x, column.width, &placed.class);
    let (y, height) = (placed.y, placed.height());
    let _ =
        writeln!(text, "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>");
    for (n, row) in placed.rows.iter().enumerate() {
        let middle = placed.row_at(n);
        if row.ruled {
            let y = middle - LINE / 2;
            let _ = writeln!(text, "<line class=\"rule\" x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\"/>", column.right());
        }
        draw_row(column, row, middle, text);
    }
}

fn draw_row(column: Column, row: &Row, middle: u32, text: &mut String) {
    let baseline = middle + 4;
    let mut x = column.x + PADDING;
    if let Some(class) = row.dot {
        let _ = writeln!(text, "<circle class=\"{class}\" cx=\"{}\" cy=\"{middle}\" r=\"3.5\"/>", x + 4);
        x += 16;
    }
    let dot = if row.dot.is_some() { 3 } else { 0 };
    let room = column.letters().saturating_sub(dot + row.note.chars().count() + usize::from(!row.note.is_empty()));
    write_text(row.class, x, baseline, "", &clip(&row.text, room), &row.text, text);
    if !row.note.is_empty() {
        let end = " text-anchor=\"end\"";
        write_text(
            "quiet",
            column.right() - PADDING,
            baseline,
            end,
            &clip(&row.note, column.letters()),
            &row.note,
            text,
        );
    }
}

/// What had to be cut is told whole to whoever points at it.
fn write_text(class: &str, x: u32, y: u32, anchor: impl Display, shown: &str, whole: &str, text: &mut String) {
    let title = if shown == whole { String::new() } else { format!("<title>{}</title>", escape(whole)) };
    let _ = writeln!(text, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\"{anchor}>{title}{}</text>", escape(shown));
}

#[cfg(test)]
mod tests {
    use super::super::model::samples::{crowd, every_kind, hostile, small};
    use super::*;

    /// Tags in pairs, attributes in quotes, no bare `&`: what XML 1.0 asks of a document without a DTD.
    fn check_xml(text: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find('<') {
            check_text(&rest[..start]);
            let end = start + rest[start..].find('>').expect("a tag ends");
            let tag = &rest[start + 1..end];
            let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
            assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase()), "{tag}");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            match (tag.starts_with('/'), tag.ends_with('/')) {
                (true, _) => assert_eq!(open.pop(), Some(name), "{tag}"),
                (_, true) => {}
                _ => open.push(name),
            }
            rest = &rest[end + 1..];
        }
        assert_eq!((rest, open.len()), ("\n", 0));
    }

    fn check_text(text: &str) {
        const KNOWN: [&str; 5] = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
        let mut ands = text.match_indices('&');
        assert!(ands.all(|(at, _)| KNOWN.iter().any(|known| text[at..].starts_with(known))), "{text}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }

    #[test]
    fn it_is_xml_whatever_things_are_called() {
        for map in [small(), every_kind(), crowd(200), hostile()] {
            let text = draw(&map);
            check_xml(&text);
            assert!(!text.contains("<script"));
        }
        let empty = Map { links: Vec::new(), networks: Vec::new(), sandboxes: Vec::new(), ..small() };
        check_xml(&draw(&empty));
    }

    #[test]
    fn it_needs_no_other_file_and_knows_the_dark() {
        let text = draw(&every_kind());
        assert!(text.contains("prefers-color-scheme: dark"));
        for elsewhere in ["href", "url(", "@import", "<image", "<script"] {
            assert!(!text.contains(elsewhere), "{elsewhere}");
        }
        assert_eq!(text.matches("http").count(), 1, "the name of SVG's own words");
    }

    #[test]
    fn everything_is_in_it() {
        let text = draw(&every_kind());
        for word in [
            "eth0",
            "192.0.2.7/24",
            "podrun-bridge",
            "veth-eth1",
            "10.88.0.2/16",
            "server",
            "8080 → 80/tcp",
            "peer 198.51.100.3",
            "wired",
            "guest",
        ] {
            assert!(text.contains(word), "{word}");
        }
    }

    #[test]
    fn no_box_lies_on_another() {
        for map in [every_kind(), crowd(200)] {
            let pods = pods(&map);
            let networks = networks(&map, &pods);
            let out = out(&map, &networks);
            for column in [pods, networks, out] {
                assert!(column.windows(2).all(|two| two[0].bottom() + GAP <= two[1].y));
            }
        }
    }
}
