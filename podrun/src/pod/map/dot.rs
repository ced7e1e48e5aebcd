//! The picture for Graphviz: `podrun map -o dot | dot -Tpng`. Pure.

#![forbid(unsafe_code)]

use super::model::{Interface, Map, Network, Sandbox, plain};
use super::text::{members, policy, shown};
use std::fmt::Write;

pub fn draw(map: &Map) -> String {
    let mut text = format!(
        "graph podrun {{\n  graph [rankdir=LR, compound=true, fontname=\"monospace\", label={}, labelloc=t]\n  \
         node [shape=box, fontname=\"monospace\"]\n  edge [fontname=\"monospace\"]\n",
        label([format!("host {}", map.host)])
    );
    let _ = links(map, &mut text)
        .and_then(|()| networks(map, &mut text))
        .and_then(|()| map.sandboxes.iter().enumerate().try_for_each(|(n, one)| sandbox(map, n, one, &mut text)));
    text.push_str("}\n");
    text
}

/// A quoted string of Graphviz's, lines in the place of `\n`: only `"` ends it, and a backslash begins an escape.
fn label(lines: impl IntoIterator<Item = String>) -> String {
    let line = |line: String| plain(&line).replace('\\', "\\\\").replace('"', "\\\"");
    let lines: Vec<String> = lines.into_iter().map(line).collect();
    format!("\"{}\"", lines.join("\\n"))
}

fn links(map: &Map, text: &mut String) -> std::fmt::Result {
    for (n, link) in map.links.iter().enumerate() {
        let lines = [format!("{} {}", link.name, link.state.words())].into_iter();
        let lines = lines.chain(link.addresses.iter().map(ToString::to_string));
        writeln!(text, "  link{n} [label={}]", label(lines.chain(link.leads_out.then(|| "the way out".to_owned()))))?;
    }
    Ok(())
}

fn networks(map: &Map, text: &mut String) -> std::fmt::Result {
    for (n, network) in map.networks.iter().enumerate() {
        let style = if network.made { "rounded" } else { "\"rounded,dashed\"" };
        writeln!(text, "  net{n} [label={}, style={style}]", label(lines(network)))?;
        for (link, one) in map.links.iter().enumerate() {
            let leads_there = match &network.parent {
                Some(parent) => *parent == one.name,
                None => one.leads_out && !network.internal && network.made,
            };
            if leads_there {
                writeln!(text, "  link{link} -- net{n}")?;
            }
        }
        for (peer, (host, part)) in network.overlay.iter().flat_map(|overlay| &overlay.peers).enumerate() {
            writeln!(text, "  net{n}peer{peer} [label={}]", label([format!("peer {host}"), part.to_string()]))?;
            let tunnel = network.tunnel.as_ref().map(shown);
            writeln!(text, "  net{n}peer{peer} -- net{n} [style=bold, label={}]", label(tunnel))?;
        }
    }
    Ok(())
}

fn lines(network: &Network) -> Vec<String> {
    let driver = [Some(network.driver.word().to_owned()), network.mode.clone()];
    let driver: Vec<String> = driver.into_iter().flatten().collect();
    let mut lines = vec![network.name.clone(), driver.join(" ")];
    lines.extend(network.overlay.as_ref().map(|overlay| format!("vni {}", overlay.vni)));
    lines.extend(network.bridge.as_ref().map(shown));
    lines.extend(network.addresses.iter().map(ToString::to_string));
    lines.extend(policy(network).map(str::to_owned));
    lines.extend((network.others > 0).then(|| format!("{} more pods", network.others)));
    lines
}

fn sandbox(map: &Map, n: usize, sandbox: &Sandbox, text: &mut String) -> std::fmt::Result {
    let ground = if sandbox.interfaces.is_empty() { Some(sandbox.ground()) } else { None };
    writeln!(text, "  subgraph cluster_netns{n} {{\n    style=rounded\n    label={}", label(ground))?;
    for (at, interface) in sandbox.interfaces.iter().enumerate() {
        writeln!(text, "    netns{n}if{at} [label={}, shape=plaintext]", label(ends(interface)))?;
    }
    for (at, pod) in sandbox.pods.iter().enumerate() {
        let name = [format!("{} {}", pod.name, pod.state)].into_iter().chain(pod.reason.clone());
        let name = name.chain(pod.ports.iter().map(ToString::to_string));
        writeln!(text, "    subgraph cluster_netns{n}pod{at} {{\n      label={}", label(name))?;
        for (member, words) in members(pod).into_iter().enumerate() {
            let node = format!("netns{n}pod{at}member{member}");
            writeln!(text, "      {node} [label={}]", label(words.into_iter().filter(|word| !word.is_empty())))?;
            if member > 0 {
                writeln!(text, "      netns{n}pod{at}member0 -- {node}")?;
            }
        }
        writeln!(text, "    }}")?;
        for interface in 0..sandbox.interfaces.len() {
            writeln!(text, "    netns{n}if{interface} -- netns{n}pod{at}member0")?;
        }
    }
    writeln!(text, "  }}")?;
    wires(map, n, sandbox, text)
}

fn ends(interface: &Interface) -> Vec<String> {
    let addresses = interface.addresses.iter().map(ToString::to_string);
    std::iter::once(interface.name.clone()).chain(addresses).chain(interface.mac.clone()).collect()
}

/// From each interface to what it leads to, with the name of the pair's other end.
fn wires(map: &Map, n: usize, sandbox: &Sandbox, text: &mut String) -> std::fmt::Result {
    for (at, interface) in sandbox.interfaces.iter().enumerate() {
        let Some(network) = map.networks.iter().position(|one| one.name == interface.network) else { continue };
        writeln!(text, "  net{network} -- netns{n}if{at} [label={}]", label(interface.host_end.as_ref().map(shown)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::model::samples::{every_kind, hostile, id, small};
    use super::*;

    #[test]
    fn one_pod_as_graphviz_reads_it() {
        let map = small().around(&id(4));
        assert_eq!(draw(&map), include_str!("dot/lone.dot"));
    }

    /// Strings are taken out; what is left are podrun's own words.
    fn without_strings(text: &str) -> String {
        let (mut rest, mut inside, mut escaped) = (String::new(), false, false);
        for letter in text.chars() {
            match (inside, letter) {
                (true, _) if escaped => escaped = false,
                (true, '\\') => escaped = true,
                (_, '"') => inside = !inside,
                (true, _) => {}
                (false, _) => rest.push(letter),
            }
        }
        assert!(!inside, "a string without its end");
        rest
    }

    #[test]
    fn a_name_stays_within_its_string() {
        let (tame, wild) = (without_strings(&draw(&every_kind())), without_strings(&draw(&hostile())));
        assert_eq!(tame.lines().count(), wild.lines().count());
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || " \n{}[]=-,_;LR".contains(c);
        assert!(wild.chars().all(known), "{wild}");
        assert!(!wild.contains("script") && draw(&hostile()).is_ascii());
    }

    #[test]
    fn every_wire_has_two_ends_that_are_there() {
        for map in [small(), every_kind(), hostile()] {
            let text = without_strings(&draw(&map));
            let nodes: Vec<&str> = text
                .lines()
                .filter(|line| line.contains(" [label="))
                .filter(|line| !line.contains("--"))
                .filter_map(|line| line.split_whitespace().next())
                .collect();
            let wires: Vec<Vec<&str>> = text
                .lines()
                .filter(|line| line.contains(" -- "))
                .map(|line| line.split_whitespace().collect())
                .collect();
            assert!(!wires.is_empty());
            for wire in wires {
                assert!(nodes.contains(&wire[0]) && nodes.contains(&wire[2]), "{wire:?} in {nodes:?}");
            }
        }
    }
}
