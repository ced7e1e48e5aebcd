//! /etc/hosts, /etc/resolv.conf and /etc/hostname of a pod's containers: made from data, never copied as they are.
//!
//! Whatever comes from a user or a record is checked byte by byte before it becomes part of a line: a newline in a
//! name is a line of the attacker's own (CVE-2022-4318, and CVE-2026-15809, where the check compared the two
//! characters `\n`). All sizes have an end.

#![forbid(unsafe_code)]

use crate::error::{Error, Kind, Result};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// Where systemd-resolved keeps the servers behind its 127.0.0.53.
pub const SYSTEMD: &str = "/run/systemd/resolve/resolv.conf";

/// HOST_NAME_MAX of Linux.
const HOSTNAME: usize = 64;
/// RFC 1035: a name has at most 253 characters as it is written.
const NAME: usize = 253;
/// Entries of /etc/hosts that somebody may ask for.
const EXTRA: usize = 4096;
/// glibc reads 3 servers (MAXNS) and since 2.26 any number of search domains; Kubernetes allows 32.
const SERVERS: usize = 3;
const SEARCHES: usize = 32;
const OPTIONS: usize = 32;
/// A resolv.conf of the host that is larger is none.
const RESOLV_CONF: usize = 64 << 10;

/// One line of /etc/hosts that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEntry {
    pub name: String,
    pub address: IpAddr,
}

impl HostEntry {
    /// `--add-host NAME:ADDRESS` as docker has it: IPv6 with or without brackets, and `host-gateway` for the host.
    pub fn parse(text: &str, gateway: Option<IpAddr>) -> Result<Self> {
        let doing = || format!("read the host entry {text:?}");
        let bad = |cause: &str| Error::new(Kind::Usage, doing(), cause).hint("write it as in db:10.0.0.7");
        let (name, address) = text.split_once(':').ok_or_else(|| bad("it has no address"))?;
        if !is_name(name, NAME) {
            return Err(bad("not a host name before the colon"));
        }
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        let address = match bare {
            "host-gateway" => gateway.ok_or_else(|| bad("this network has no gateway"))?,
            bare => bare.parse().map_err(|_| bad("not an address after the colon"))?,
        };
        Ok(Self { name: name.to_owned(), address })
    }
}

/// /etc/hostname, hostname(5).
pub fn hostname(name: &str) -> Result<String> {
    checked_hostname(name)?;
    Ok(format!("{name}\n"))
}

/// /etc/hosts, hosts(5): loopback, then what was asked for, then the pod itself. A pod without an address of its own
/// finds its name at 127.0.1.1, Debian's habit, so that a program that looks itself up works without a network, too.
pub fn hosts(addresses: &[IpAddr], name: &str, extra: &[HostEntry]) -> Result<String> {
    checked_hostname(name)?;
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    if extra.len() > EXTRA {
        return Err(Error::new(Kind::Invalid, "write /etc/hosts", format!("more than {EXTRA} host entries")));
    }
    for HostEntry { name, address } in extra {
        checked(name, NAME, "host name")?;
        let _ = writeln!(text, "{address}\t{name}");
    }
    text.push_str(&own_lines(addresses, name));
    Ok(text)
}

/// The pod's own lines.
fn own_lines(addresses: &[IpAddr], name: &str) -> String {
    let nowhere = [IpAddr::from([127, 0, 1, 1])];
    let own = if addresses.is_empty() { &nowhere[..] } else { addresses };
    let names = match name.split_once('.') {
        _ if name == "localhost" => return String::new(),
        Some((short, _)) => format!("{name} {short}"),
        None => name.to_owned(),
    };
    own.iter().map(|address| format!("{address}\t{names}\n")).collect()
}

/// The same file once the pod has other addresses: its own lines are replaced, all others stay as they are.
pub fn hosts_with(text: &str, before: &[IpAddr], after: &[IpAddr], name: &str) -> Result<String> {
    checked_hostname(name)?;
    let old = own_lines(before, name);
    let kept = text.lines().filter(|line| !old.lines().any(|own| own == *line));
    let kept: String = kept.map(|line| format!("{line}\n")).collect();
    Ok(kept + &own_lines(after, name))
}

/// What resolv.conf(5) is to say. Empty lists mean: as the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<IpAddr>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// Whether the pod reaches servers at the host's 127.0.0.1: only when it lives in the host's own network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loopback {
    Host,
    Own,
}

/// /etc/resolv.conf and what the user should know. `host` is the host's file; `systemd` is that of [`SYSTEMD`], and is
/// asked for only when the host's servers are its own loopback, which means nothing inside a pod.
pub fn resolv_conf(
    host: &str,
    systemd: impl FnOnce() -> Option<String>,
    wish: &Dns,
    loopback: Loopback,
    names: Option<IpAddr>,
) -> Result<(String, Vec<String>)> {
    check_wish(wish)?;
    let mut warnings = Vec::new();
    let mut found = read(host);
    if loopback == Loopback::Own && wish.servers.is_empty() && names.is_none() {
        found = without_loopback(found, systemd, &mut warnings);
    }
    let or = |wish: &[String], found: Vec<String>| if wish.is_empty() { found } else { wish.to_vec() };
    let servers = match (names, wish.servers.is_empty()) {
        (Some(server), _) => vec![server.to_string()],
        (None, true) => found.servers,
        (None, false) => wish.servers.iter().map(IpAddr::to_string).collect(),
    };
    // docker's `--dns-search .` means: none at all.
    let searches: Vec<_> = or(&wish.searches, found.searches).into_iter().filter(|domain| domain != ".").collect();
    let mut options = or(&wish.options, found.options);
    if names.is_some() && !wish.options.iter().any(|option| option.starts_with(DOTS)) {
        options.retain(|option| !option.starts_with(DOTS));
        options.push(format!("{DOTS}0"));
    }
    Ok((write(&servers, &searches, &options), warnings))
}

/// A word without a dot is asked for as it is before any search domain is tried, so that nobody outside hears of pods.
const DOTS: &str = "ndots:";

/// The same file once the pod has another way to names: only its servers change, and how a word without a dot is asked for.
/// Without a server of podrun's they are those that were wished for, or the host's.
pub fn resolv_conf_with(
    text: &str,
    host: &str,
    systemd: impl FnOnce() -> Option<String>,
    wish: &[IpAddr],
    names: Option<IpAddr>,
) -> String {
    let found = read(text);
    let servers = match (names, wish) {
        (Some(server), _) => vec![server.to_string()],
        (None, []) => without_loopback(read(host), systemd, &mut Vec::new()).servers,
        (None, wish) => wish.iter().map(IpAddr::to_string).collect(),
    };
    let mut options = found.options;
    if names.is_some() && !options.iter().any(|option| option.starts_with(DOTS)) {
        options.push(format!("{DOTS}0"));
    }
    write(&servers, &found.searches, &options)
}

fn check_wish(wish: &Dns) -> Result<()> {
    let many = |what, count: usize, most| match count > most {
        true => {
            Err(Error::new(Kind::Usage, "write /etc/resolv.conf", format!("{count} {what}, where {most} is the most")))
        }
        false => Ok(()),
    };
    many("DNS servers", wish.servers.len(), SERVERS)?;
    many("search domains", wish.searches.len(), SEARCHES)?;
    many("resolver options", wish.options.len(), OPTIONS)?;
    for domain in wish.searches.iter().filter(|domain| *domain != ".") {
        checked(domain.strip_suffix('.').unwrap_or(domain), NAME, "search domain")?;
    }
    match wish.options.iter().find(|option| !is_word(option)) {
        Some(bad) => {
            Err(Error::new(Kind::Usage, format!("read the resolver option {bad:?}"), "not one printable word"))
        }
        None => Ok(()),
    }
}

/// What a resolv.conf says, as text: a server may have a zone (`fe80::1%eth0`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// Pure. As glibc reads it: the last `search` or `domain` holds, `options` add up, the rest is ignored.
fn read(text: &str) -> Resolver {
    let mut found = Resolver::default();
    if text.len() > RESOLV_CONF {
        return found;
    }
    for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_ascii_whitespace();
        let key = words.next();
        let words = words.filter(|word| is_word(word)).map(str::to_owned);
        match key {
            Some("nameserver") => found.servers.extend(words.take(1).filter(|server| address_of(server).is_some())),
            Some("search") => found.searches = words.collect(),
            Some("domain") => found.searches = words.take(1).collect(),
            Some("options") => found.options.extend(words),
            _ => {}
        }
    }
    found.servers.truncate(SERVERS);
    found.searches.truncate(SEARCHES);
    found.options.truncate(OPTIONS);
    found
}

/// The servers of a resolv.conf as the host itself asks them: its own loopback and a link's own addresses, too.
pub fn host_servers(text: &str, port: u16) -> Vec<SocketAddr> {
    read(text).servers.iter().filter_map(|server| socket_address(server, port)).collect()
}

fn socket_address(server: &str, port: u16) -> Option<SocketAddr> {
    match server.split_once('%') {
        None => Some(SocketAddr::new(server.parse().ok()?, port)),
        Some((address, zone)) => {
            let link = zone.parse().ok().or_else(|| crate::sys::net::link_index(zone).ok())?;
            Some(SocketAddrV6::new(address.parse().ok()?, port, 0, link).into())
        }
    }
}

fn without_loopback(found: Resolver, systemd: impl FnOnce() -> Option<String>, warnings: &mut Vec<String>) -> Resolver {
    let usable =
        |found: &Resolver| -> Vec<String> { found.servers.iter().filter(|s| is_reachable(s)).cloned().collect() };
    let servers = usable(&found);
    if servers.len() == found.servers.len() && !servers.is_empty() {
        return found;
    }
    if let Some(behind) = systemd().map(|text| read(&text)) {
        let servers = usable(&behind);
        if !servers.is_empty() {
            return Resolver { servers, ..behind };
        }
    }
    if servers.is_empty() {
        warnings.push(format!(
            "no DNS server of the host's resolv.conf ({}) is reachable from inside a pod: names are not resolved there",
            if found.servers.is_empty() { "none named".to_owned() } else { found.servers.join(", ") }
        ));
    }
    Resolver { servers, ..found }
}

/// Not the pod's own loopback, not "this host", and not an address that needs an interface of the host.
fn is_reachable(server: &str) -> bool {
    !server.contains('%') && address_of(server).is_some_and(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

fn address_of(server: &str) -> Option<IpAddr> {
    let address: IpAddr = server.split_once('%').map_or(server, |(address, _)| address).parse().ok()?;
    Some(address.to_canonical()) // ::ffff:127.0.0.1 is loopback, too
}

fn write(servers: &[String], searches: &[String], options: &[String]) -> String {
    let mut text = String::new();
    if !searches.is_empty() {
        let _ = writeln!(text, "search {}", searches.join(" "));
    }
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

fn checked_hostname(name: &str) -> Result<()> {
    checked(name, HOSTNAME, "hostname")
}

fn checked(name: &str, most: usize, what: &str) -> Result<()> {
    match is_name(name, most) {
        true => Ok(()),
        false => Err(Error::new(Kind::Usage, format!("read the {what} {name:?}"), "not a name of labels and dots")
            .hint(format!("use 1 to {most} of a-z, A-Z, 0-9, '-', '_' and '.', each label with at most 63"))),
    }
}

/// A name as files of lines can hold it: RFC 1123 labels, with the underscore that DNS allows. No other byte passes,
/// so no newline, carriage return, NUL, blank or '#' does.
fn is_name(name: &str, most: usize) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= most && name.split('.').all(label)
}

fn is_word(word: &str) -> bool {
    (1..=NAME).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    const LOOPBACK: &str = "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

    #[test]
    fn hosts_is_made_from_data() {
        let db = HostEntry { name: "db".into(), address: ip("10.0.0.7") };
        let six = HostEntry { name: "six.example.org".into(), address: ip("fd00::7") };
        for (addresses, name, extra, expected) in [
            (&["10.88.0.5"][..], "web", vec![], "10.88.0.5\tweb\n"),
            (&["10.88.0.5", "fd00::5"], "web", vec![], "10.88.0.5\tweb\nfd00::5\tweb\n"),
            (&["10.88.0.5"], "web.example.org", vec![], "10.88.0.5\tweb.example.org web\n"),
            (&["10.88.0.5"], "web", vec![db, six], "10.0.0.7\tdb\nfd00::7\tsix.example.org\n10.88.0.5\tweb\n"),
            (&[], "web", vec![], "127.0.1.1\tweb\n"),
            (&["10.88.0.5"], "localhost", vec![], ""),
        ] {
            let addresses: Vec<_> = addresses.iter().map(|text| ip(text)).collect();
            assert_eq!(hosts(&addresses, name, &extra).unwrap(), format!("{LOOPBACK}{expected}"));
        }
    }

    #[test]
    fn a_pod_that_gets_other_addresses_keeps_the_lines_of_others() {
        let db = HostEntry { name: "db".into(), address: ip("10.0.0.7") };
        let (one, two) = ([ip("10.88.0.5")], [ip("10.88.0.5"), ip("10.89.0.2")]);
        for name in ["web", "web.example.org", "localhost"] {
            let text = |addresses: &[IpAddr]| hosts(addresses, name, std::slice::from_ref(&db)).unwrap();
            for (before, after) in [(&one[..], &two[..]), (&two, &one), (&[], &one), (&one, &[])] {
                assert_eq!(hosts_with(&text(before), before, after, name).unwrap(), text(after), "{name}");
            }
        }
        assert!(hosts_with("", &[], &[], "a\nb").is_err());
    }

    /// CVE-2022-4318, CVE-2026-15809: real bytes, each in a place where nothing else is wrong.
    const EVIL: [&str; 12] = [
        "a\nb",
        "a\n10.0.0.1 bank",
        "a\rb",
        "a\0b",
        "a b",
        "a\tb",
        "a#b",
        "a\u{2028}b",
        "a\u{85}b",
        "\n",
        "a\n",
        "\na",
    ];

    #[test]
    fn no_name_becomes_a_line_of_its_own() {
        for evil in EVIL {
            assert!(hostname(evil).is_err(), "{evil:?}");
            assert!(hosts(&[], evil, &[]).is_err(), "{evil:?}");
            let entry = HostEntry { name: evil.into(), address: ip("10.0.0.1") };
            assert!(hosts(&[], "web", &[entry]).is_err(), "{evil:?}");
            assert!(HostEntry::parse(&format!("{evil}:10.0.0.1"), None).is_err(), "{evil:?}");
            assert!(HostEntry::parse(&format!("db:10.0.0.1{evil}"), None).is_err(), "{evil:?}");
            let search = Dns { searches: vec![evil.into()], ..Dns::default() };
            assert!(resolv_conf("", || None, &search, Loopback::Own, None).is_err(), "{evil:?}");
        }
        for evil in EVIL.iter().filter(|evil| !evil.contains('#')) {
            let option = Dns { options: vec![(*evil).into()], ..Dns::default() };
            assert!(resolv_conf("", || None, &option, Loopback::Own, None).is_err(), "{evil:?}");
        }
    }

    #[test]
    fn names_have_an_end() {
        let label = "x".repeat(63);
        assert_eq!(hostname(&label).unwrap(), format!("{label}\n"));
        for bad in ["", ".", "a.", ".a", "a..b", "-a", "a-", &"x".repeat(64), &format!("{label}.b")] {
            assert!(hostname(bad).is_err(), "{bad:?}");
        }
        let entry = |name: String| HostEntry { name, address: ip("10.0.0.1") };
        let longest = [&label[..], &label, &label, &label[..61]].join(".");
        assert!(hosts(&[], "web", &[entry(longest.clone())]).is_ok());
        assert!(hosts(&[], "web", &[entry(format!("{longest}x"))]).is_err());
        let many: Vec<_> = (0..=EXTRA).map(|n| entry(format!("h{n}"))).collect();
        assert!(hosts(&[], "web", &many).is_err());
        assert!(hosts(&[], "web", &many[1..]).unwrap().len() < 1 << 20);
    }

    #[test]
    fn host_entries_are_read_as_docker_writes_them() {
        let gateway = Some(ip("10.88.0.1"));
        for (text, name, address) in [
            ("db:10.0.0.7", "db", "10.0.0.7"),
            ("db:fd00::7", "db", "fd00::7"),
            ("db:[fd00::7]", "db", "fd00::7"),
            ("a_b.example.org:10.0.0.7", "a_b.example.org", "10.0.0.7"),
            ("host:host-gateway", "host", "10.88.0.1"),
        ] {
            let expected = HostEntry { name: name.into(), address: ip(address) };
            assert_eq!(HostEntry::parse(text, gateway).unwrap(), expected, "{text}");
        }
        for bad in ["", "db", "db:", ":10.0.0.1", "db:x", "db:10.0.0.1/8", "db:[fd00::7", "d b:10.0.0.1"] {
            assert_eq!(HostEntry::parse(bad, gateway).unwrap_err().kind, Kind::Usage, "{bad:?}");
        }
        assert!(HostEntry::parse("host:host-gateway", None).is_err());
    }

    const STUB: &str = "# made by hand\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n";

    #[test]
    fn resolv_conf_means_inside_what_it_means_outside() {
        let behind = Some("nameserver 192.168.1.1\nnameserver fe80::1%eth0\nsearch home.arpa\n");
        for (host, systemd, loopback, expected, warned) in [
            ("nameserver 10.0.0.2\n", None, Loopback::Own, "nameserver 10.0.0.2\n", false),
            (STUB, behind, Loopback::Own, "search home.arpa\nnameserver 192.168.1.1\n", false),
            (STUB, None, Loopback::Own, "search lan\noptions edns0 trust-ad\n", true),
            (STUB, Some("nameserver ::1\n"), Loopback::Own, "search lan\noptions edns0 trust-ad\n", true),
            (STUB, behind, Loopback::Host, "search lan\nnameserver 127.0.0.53\noptions edns0 trust-ad\n", false),
            ("nameserver ::1\nnameserver 10.0.0.2\n", None, Loopback::Own, "nameserver 10.0.0.2\n", false),
            ("nameserver 0.0.0.0\n", None, Loopback::Own, "", true),
            ("nameserver ::ffff:127.0.0.1\n", None, Loopback::Own, "", true),
            ("nameserver fe80::1%eth0\n", None, Loopback::Own, "", true),
            ("", None, Loopback::Own, "", true),
            (
                "search a b\ndomain c d\nnameserver 10.0.0.2 x\nsortlist y\n",
                None,
                Loopback::Own,
                "search c\nnameserver 10.0.0.2\n",
                false,
            ),
            ("nameserver nonsense\nnameserver 10.0.0.2\n;x\n", None, Loopback::Own, "nameserver 10.0.0.2\n", false),
        ] {
            let made = resolv_conf(host, || systemd.map(str::to_owned), &Dns::default(), loopback, None).unwrap();
            assert_eq!((made.0.as_str(), made.1.len()), (expected, usize::from(warned)), "{host:?}");
        }
    }

    #[test]
    fn what_is_wished_for_replaces_what_the_host_has() {
        let host = "nameserver 10.0.0.2\nsearch lan\noptions edns0\n";
        for (servers, searches, options, expected) in [
            ("1.1.1.1 fd00::53", "", "", "search lan\nnameserver 1.1.1.1\nnameserver fd00::53\noptions edns0\n"),
            ("", "example.org svc.local.", "", "search example.org svc.local.\nnameserver 10.0.0.2\noptions edns0\n"),
            ("", ".", "", "nameserver 10.0.0.2\noptions edns0\n"),
            ("", "", "ndots:5 rotate", "search lan\nnameserver 10.0.0.2\noptions ndots:5 rotate\n"),
        ] {
            let servers = servers.split_whitespace().map(ip).collect();
            let wish = Dns { servers, searches: words(searches), options: words(options) };
            let (text, warnings) = resolv_conf(host, || None, &wish, Loopback::Own, None).unwrap();
            assert_eq!((text.as_str(), warnings.len()), (expected, 0));
        }
        let wish = Dns { servers: vec![ip("127.0.0.1")], ..Dns::default() };
        let (text, warnings) = resolv_conf(STUB, || None, &wish, Loopback::Own, None).unwrap();
        assert!(text.contains("nameserver 127.0.0.1\n") && warnings.is_empty(), "a wish is a wish: {text}");
    }

    #[test]
    fn a_network_with_names_is_asked_itself_and_for_words_first() {
        let server = Some(ip("10.88.0.1"));
        let made = |options: &str| {
            let wish = Dns { options: words(options), servers: vec![ip("1.1.1.1")], ..Dns::default() };
            resolv_conf(
                "search lan\nnameserver 127.0.0.1\noptions ndots:5 edns0\n",
                || None,
                &wish,
                Loopback::Own,
                server,
            )
        };
        let text = "search lan\nnameserver 10.88.0.1\noptions edns0 ndots:0\n";
        assert_eq!(made("").unwrap(), (text.to_owned(), vec![]));
        assert!(made("ndots:3").unwrap().0.ends_with("options ndots:3\n"), "a wish is a wish");
        let with = |text: &str, wish: &[IpAddr], names| resolv_conf_with(text, STUB, || None, wish, names);
        assert_eq!(with("search lan\nnameserver 1.1.1.1\noptions edns0\n", &[], server), text);
        assert_eq!(with(text, &[ip("1.1.1.1")], None), text.replace("10.88.0.1", "1.1.1.1"));
        assert_eq!(with(text, &[], None), "search lan\noptions edns0 ndots:0\n");
        let plain = "nameserver 1.1.1.1\noptions edns0\n";
        assert_eq!(with(plain, &[ip("1.1.1.1")], None), plain, "nobody here asked for words first");
        assert_eq!(with("options ndots:3\n", &[], server), "nameserver 10.88.0.1\noptions ndots:3\n");
    }

    #[test]
    fn the_host_asks_its_own_loopback_and_links() {
        let found = host_servers("nameserver 127.0.0.53\nnameserver fe80::1%lo\nnameserver fe80::1%nosuch0\n", 53);
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.53:53", "[fe80::1%1]:53"]);
    }

    #[test]
    fn lists_have_an_end() {
        let many = |count: usize| Dns { searches: (0..count).map(|n| format!("d{n}")).collect(), ..Dns::default() };
        assert!(resolv_conf("", || None, &many(32), Loopback::Own, None).is_ok());
        assert!(resolv_conf("", || None, &many(33), Loopback::Own, None).is_err());
        let servers = |count: u8| Dns { servers: (0..count).map(|n| [10, 0, 0, n].into()).collect(), ..Dns::default() };
        assert!(resolv_conf("", || None, &servers(3), Loopback::Own, None).is_ok());
        assert!(resolv_conf("", || None, &servers(4), Loopback::Own, None).is_err());
        let huge = "nameserver 10.0.0.2\n".repeat(1 << 13);
        assert_eq!(read(&huge), Resolver::default());
        assert_eq!(read(&huge[..RESOLV_CONF]).servers.len(), SERVERS);
    }

    /// A host's file is trusted no further than its bytes: a record of it may have come from anywhere.
    #[test]
    fn odd_bytes_of_the_hosts_file_do_not_get_in() {
        let odd = "search a\0b good \u{2028}x\nnameserver 10.0.0.2\u{b}evil\noptions x\u{7f} ok\n";
        let found = read(odd);
        assert_eq!(found, Resolver { servers: vec![], searches: words("good"), options: words("ok") });
    }
}
