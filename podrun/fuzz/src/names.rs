//! Everything that is parsed from one word: what is taken is what was meant, and can be part of a path or a line.

#![forbid(unsafe_code)]

use podrun::caps;
use podrun::id::ContainerName;
use podrun::id::NamespaceName;
use podrun::id::PodId;
use podrun::id::PodName;
use podrun::logs::name::LogName;
use podrun::net::cidr::Cidr;
use podrun::net::files;
use podrun::net::files::HostEntry;
use podrun::record::Stamp;
use podrun::rootfs::Place;
use podrun::rootfs::PointKind;
use podrun::roots::Roots;
use podrun::spec::Network;
use podrun::spec::network;
use podrun::spec::network::Attach;
use podrun::text::Text;
use podrun::user::Files;
use std::path::Component;
use std::path::Path;

pub fn try_it(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    labels(&text);
    addresses(&text);
    log_name(&text);
    users(&text);
    places(&text);
    if let Some(stamp) = Stamp::parse(input) {
        assert_eq!(Stamp::parse(stamp.text().as_bytes()), Some(stamp), "{text:?}");
    }
    if let Ok(mask) = caps::parse(&text) {
        let again = caps::names(mask).into_iter().map(|one| caps::parse(&one.to_string()).unwrap());
        assert_eq!(again.fold(0, |all, one| all | one), mask, "{text:?}");
    }
}

/// RFC 1123, and the names that podrun makes of labels.
fn labels(text: &str) {
    let is_label = (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    assert_eq!(PodName::parse(text).is_ok(), is_label, "{text:?}");
    assert_eq!(ContainerName::parse(text).is_ok(), is_label, "{text:?}");
    assert_eq!(NamespaceName::parse(text).is_ok(), is_label, "{text:?}");
    if let Ok(Network::Pod(name)) = Network::parse(text) {
        assert_eq!(Network::Pod(name).to_string(), text);
    }
    if let Ok(attach) = Attach::parse(text) {
        assert!(network::check(std::slice::from_ref(&attach)).is_ok(), "{text:?}: alone it stands");
        assert!(attach.interface.is_none_or(|name| name.len() <= 15), "{text:?}: longer than IFNAMSIZ");
    }
    if let Ok(id) = PodId::parse(text) {
        assert_eq!(id.to_string(), text);
        assert!(id.veth(0).len() <= 15, "longer than IFNAMSIZ");
        let roots = Roots { root: "/r".into(), run: "/run".into() };
        assert_eq!(roots.pod(&id).parent(), Some(roots.pods().as_path()));
    }
}

fn addresses(text: &str) {
    if let Ok(range) = Cidr::parse(text) {
        assert_eq!(Cidr::parse(&range.to_string()).unwrap(), range, "{text:?}");
        let network = range.network();
        assert!(network.contains(range.address) && network.overlaps(range), "{text:?}");
        let hosts = range.hosts();
        for offset in [*hosts.start(), *hosts.end()] {
            let address = range.nth(offset);
            assert!(range.contains(address), "{text:?}: {address} is outside");
            assert_eq!(range.offset(address), Some(offset), "{text:?}");
        }
    }
    if let Ok(entry) = HostEntry::parse(text, None) {
        let lines = files::hosts(&[], "web", &[entry]).unwrap();
        assert_eq!(lines.lines().count(), 8, "{text:?} is more than one line: {lines:?}");
    }
    if let Ok(line) = files::hostname(text) {
        assert_eq!(line, format!("{text}\n"));
        assert!(!text.contains(|c: char| c.is_control() || c.is_whitespace() || c == ':' || c == '/'), "{text:?}");
    }
}

/// A log is found again under the name that it was given.
fn log_name(text: &str) {
    let Some(name) = LogName::parse(text) else { return };
    assert_eq!(LogName::parse(&name.to_string()), Some(name.clone()), "{text:?}");
    let live = LogName::live(name.run);
    let next = live.rotated(Stamp { secs: 1_700_000_000, nanos: 0 }, Some(&name));
    if name != live {
        assert!(name < next && next < live, "{text:?}: {next}");
    }
    assert_eq!(LogName::parse(&next.to_string()), Some(next), "{text:?}");
}

/// CVE-2024-40635 and its kin: a number that is no user id never becomes one.
fn users(text: &str) {
    let files = Files { passwd: "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/:\n".into(), group: "mail:x:8:web\n".into() };
    if let Ok(user) = files.find(text) {
        let (name, group) = text.split_once(':').map_or((text, None), |(name, group)| (name, Some(group)));
        let number = |word: &str| word.parse::<u32>().ok();
        assert_eq!(
            Some(user.uid),
            [("root", 0), ("web", 33)].iter().find(|(known, _)| *known == name).map(|(_, uid)| *uid).or(number(name)),
            "{text:?}"
        );
        if let Some(group) = group {
            assert_eq!(Some(user.gid), if group == "mail" { Some(8) } else { number(group) }, "{text:?}");
        }
    }
    // The files are an image's, and may hold anything.
    let hostile = Files { passwd: text.to_owned(), group: text.to_owned() };
    for wish in ["root", "0", "web:mail", "33:8"] {
        let found = hostile.find(wish);
        assert!(found.is_ok() || wish.contains(|c: char| c.is_alphabetic()), "{text:?}");
    }
}

/// A place of a container has no way out, and a C string no NUL.
fn places(text: &str) {
    assert_eq!(Text::new("x", text).is_ok(), !text.contains('\0'));
    if let Ok(place) = Place::new("x", text, PointKind::File) {
        let path = place.path.lossy().into_owned();
        let inside = Path::new(&path).components().all(|one| matches!(one, Component::RootDir | Component::Normal(_)));
        assert!(inside && path.starts_with('/'), "{text:?} leads to {path:?}");
        assert_eq!(Place::new("x", &path, PointKind::File).unwrap(), place);
    }
}

#[test]
fn words_of_all_kinds_pass() {
    for word in [
        "web",
        "10.88.0.1/16",
        "::/0",
        "0.log.20261121-143300.0001",
        "33:mail",
        "db:10.0.0.7",
        "/a/../b",
        "2026-11-21T14:33:00Z",
    ] {
        try_it(word.as_bytes());
    }
}
