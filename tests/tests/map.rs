//! `podrun map`: the picture of what there is, for a terminal, a browser, Graphviz and programs.

use podrun_tests::{Host, Value, eventually, json, skip};
use std::time::{Duration, Instant};

/// A pod of two networks with a published port and a container, one that shares its network, and one without any.
fn host() -> Host {
    let host = Host::new();
    host.podrun("network create back --internal --subnet 10.77.0.0/24").ok();
    host.podrun("create pod web --network bridge --network back --publish 8080:80").ok();
    host.start("web/server", "", "/probe sleep 600");
    host.podrun("create pod side --network pod:web").ok();
    host.podrun("create pod lone --network none").ok();
    host
}

fn drawn(host: &Host, line: &str) -> String {
    host.command(line).env("LANG", "C.UTF-8").run().ok().text()
}

// Issue 4, 8: "NIC, bridge, veth pairs, pause, containers, addresses, published ports … right at 80 columns".
#[test]
fn everything_that_is_there_is_in_the_picture() {
    let host = host();
    let picture = drawn(&host, "map");
    let found = host.inspect("web");
    let link = found["networks"][0]["hostInterface"].as_str().unwrap();
    let pause = found["pause"]["pid"].to_string();
    for part in [
        "10.88.0.1/16",
        "10.88.0.2/16",
        "10.77.0.2/24",
        "no way out",
        "8080->80/tcp",
        "web",
        "side",
        "lone",
        "server",
        "Running",
        "no network",
        link,
        &pause,
        "┌",
        "├─",
    ] {
        assert!(picture.contains(part), "{part} in\n{picture}");
    }
    assert!(picture.lines().all(|line| line.chars().count() <= 80), "{picture}");
    // Without a locale for it nothing but ASCII; and narrower where the terminal is.
    let plain = host.podrun("map").ok().text();
    assert!(plain.is_ascii() && plain.contains("|- ") && plain.contains("8080->80/tcp"), "{plain}");
    let narrow = host.command("map").env("COLUMNS", "48").run().ok().text();
    assert!(narrow.lines().all(|line| line.chars().count() <= 48), "{narrow}");
}

#[test]
fn one_pod_is_shown_with_what_leads_to_it() {
    let host = host();
    host.podrun("create pod other").ok();
    let picture = drawn(&host, "map web");
    assert!(picture.contains("side") && picture.contains("1 more pod on it"), "{picture}");
    assert!(picture.contains("02:70:0a:58:00:02") && picture.contains("way out by 10.88.0.1"), "{picture}");
    assert!(!picture.contains("lone") && !picture.contains("other"), "{picture}");
    host.podrun("map nosuch").fails(1).with_one_line().says("nosuch");
    host.podrun("map -o png").fails(2).with_one_line().says("text, svg, dot or json");
}

#[test]
fn a_host_without_pods_has_a_picture_too() {
    let host = Host::new();
    host.podrun("map").ok().prints_something_like("no pods; `podrun create pod NAME` makes one");
    assert_eq!(host.podrun("map -o json").json()["sandboxes"], json!([]));
}

#[test]
fn the_same_for_programs() {
    let host = host();
    let map = host.podrun("map -o json").json();
    let networks = map["networks"].as_array().unwrap();
    let back = networks.iter().find(|one| one["name"] == "back").unwrap();
    assert_eq!((&back["internal"], &back["addresses"]), (&json!(true), &json!(["10.77.0.1/24"])));
    let names =
        |sandbox: &Value| sandbox["pods"].as_array().unwrap().iter().map(|pod| pod["name"].clone()).collect::<Vec<_>>();
    let all: Vec<_> = map["sandboxes"].as_array().unwrap().iter().map(names).collect();
    assert!(all.contains(&vec![json!("web"), json!("side")]) && all.contains(&vec![json!("lone")]), "{all:?}");
}

/// Each element that is opened is closed, in order, and nothing stands outside the first.
fn assert_well_formed(xml: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = xml.trim();
    while let Some(start) = rest.find('<') {
        assert!(!open.is_empty() || rest[..start].trim().is_empty(), "text outside: {}", &rest[..start]);
        let end = rest[start..].find('>').expect("a tag ends") + start;
        let tag = &rest[start + 1..end];
        let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap_or_default();
        match (tag.starts_with('/'), tag.ends_with('/')) {
            (true, _) => assert_eq!(open.pop(), Some(name), "closed in order"),
            (false, true) => {}
            (false, false) => open.push(name),
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes of {tag}");
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "left open: {open:?}");
}

#[test]
fn the_svg_is_whole_by_itself_and_for_light_and_dark() {
    let host = host();
    let svg = drawn(&host, "map -o svg");
    assert_well_formed(&svg);
    for part in ["<svg xmlns=", "prefers-color-scheme: dark", ">web<", "8080", "10.77.0.2/24", "server"] {
        assert!(svg.contains(part), "{part} in\n{svg}");
    }
    for foreign in ["http://www.w3.org/1999/xlink", "href", "<image", "<script", "url(", "@import"] {
        assert!(!svg.contains(foreign), "{foreign}: it is to need nothing but itself");
    }
}

#[test]
fn a_renderer_takes_the_svg() {
    let host = Host::new();
    if host.program("sh -c 'command -v rsvg-convert'").run().code() != 0 {
        skip!("rsvg-convert is not installed (librsvg2-bin)");
    }
    host.pod("web");
    let svg = drawn(&host, "map -o svg");
    let png = host.program("rsvg-convert").stdin(svg).run();
    assert!(png.ok().stdout.starts_with(b"\x89PNG"));
}

/// DOT's grammar as far as the picture uses it: statements of names, attributes in brackets, braces in pairs.
#[test]
fn the_dot_is_a_graph() {
    let host = host();
    let dot = drawn(&host, "map -o dot");
    assert!(dot.starts_with("graph podrun {\n") && dot.ends_with("}\n"), "{dot}");
    let mut depth = 0_i32;
    for line in dot.lines().map(str::trim) {
        assert_eq!(line.replace("\\\"", "").matches('"').count() % 2, 0, "quotes: {line}");
        assert_eq!(line.matches('[').count(), line.matches(']').count(), "brackets: {line}");
        depth += i32::from(line.ends_with('{')) - i32::from(line == "}");
        assert!(depth >= 0, "{dot}");
        if let Some((from, to)) = line.split_once(" -- ") {
            let name = |text: &str| text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
            assert!(name(from) && name(to.split(' ').next().unwrap()), "{line}");
        }
    }
    assert_eq!(depth, 0, "{dot}");
    assert!(dot.contains("web Ready") && dot.contains("10.88.0.2/16"), "{dot}");
}

// "`--watch` live": on a terminal, which is as it was afterwards.
#[test]
fn the_live_picture_follows_and_leaves_the_terminal_as_it_was() {
    let host = Host::new();
    let mut terminal = host.command("map --watch 60").env("LANG", "C.UTF-8").at_a_terminal(30, 90);
    terminal.until_it_shows("no pods");
    let made = Instant::now();
    host.podrun("create pod fresh").ok();
    terminal.until_it_shows("fresh");
    assert!(made.elapsed() < Duration::from_secs(3), "{:?}", made.elapsed());
    terminal.types("\x03");
    let (code, shown) = terminal.ends();
    assert_eq!(code, 0);
    assert!(shown.contains("\x1b[?1049h") && shown.trim_end().ends_with("\x1b[?25h\x1b[?1049l"), "{shown:?}");
}

#[test]
fn on_a_pipe_one_picture_follows_the_other() {
    let host = Host::new();
    let mut watching = host.command("map -w").start();
    watching.until_it_prints("no pods");
    host.podrun("create pod fresh").ok();
    watching.until_it_prints("fresh");
    host.podrun("delete pod fresh --force").ok();
    eventually("it is gone from the picture", Duration::from_secs(7), || {
        let all = watching.stdout();
        let last = all.trim_end_matches("\x0c\n").rsplit("\x0c\n").next().unwrap_or_default().to_owned();
        (all.matches('\x0c').count() >= 3 && !last.contains("fresh")).then_some(())
    });
    watching.signal(libc::SIGTERM);
    watching.wait().ok();
}
