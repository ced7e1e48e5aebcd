//! Published ports in podrun's nftables table: four maps from a port of the host to one of a pod, their text for a table
//! that is written whole, and their elements, one by one, by nfnetlink itself.
//!
//! `nft` takes milliseconds to be started, an element some tens of microseconds to be set, beside one or a thousand others
//! (docs/decisions/0015). All elements of one change are one transaction.

#![forbid(unsafe_code)]

use crate::error::{Doing, Result};
use crate::net::nfnetlink::{self, ACK, NESTED, REQUEST, attribute, error_of, messages, request, string};
use crate::net::nft::SUBSYSTEM;
use crate::spec::port::Protocol;
use crate::sys;
use nix::errno::Errno;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

/// What comes to this port of the host goes to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    pub protocol: Protocol,
    /// None: every address of the host in the family of `to`.
    pub address: Option<IpAddr>,
    pub host: u16,
    pub to: SocketAddr,
}

/// What is done to elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Add,
    Remove,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    Done,
    /// The table is gone, or another one than this podrun would write: it has to be written anew.
    Stranger,
}

/// (name, type, word of its family) of each map. Those of one address are asked first.
const MAPS: [(&str, &str, &str); 4] = [
    ("at4", "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service", "ip"),
    ("any4", "inet_proto . inet_service : ipv4_addr . inet_service", "ip"),
    ("at6", "ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service", "ip6"),
    ("any6", "inet_proto . inet_service : ipv6_addr . inet_service", "ip6"),
];

impl Mapping {
    fn map(&self) -> &'static str {
        match (self.to.is_ipv4(), self.address.is_some()) {
            (true, true) => "at4",
            (true, false) => "any4",
            (false, true) => "at6",
            (false, false) => "any6",
        }
    }

    /// As `nft` writes it.
    fn text(&self) -> String {
        let address = self.address.map_or_else(String::new, |address| format!("{address} . "));
        format!("{address}{} . {} : {} . {}", self.protocol, self.host, self.to.ip(), self.to.port())
    }

    /// The key as the kernel compares it: each part in a register of four bytes, or four of them.
    fn key(&self) -> Vec<u8> {
        let mut key = self.address.map(octets).unwrap_or_default();
        key.extend([self.protocol.number(), 0, 0, 0]);
        key.extend(port(self.host));
        key
    }

    fn value(&self) -> Vec<u8> {
        [octets(self.to.ip()), port(self.to.port()).to_vec()].concat()
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(four) => four.octets().to_vec(),
        IpAddr::V6(six) => six.octets().to_vec(),
    }
}

fn port(number: u16) -> [u8; 4] {
    let [high, low] = number.to_be_bytes();
    [high, low, 0, 0]
}

/// The maps and the chains that ask them, for the table's whole text.
///
/// Nobody beyond this host speaks to its loopback, not even by a published port: a neighbour could send packets to
/// 127.0.0.1 here, and translated before the routing they would come through. `::1` cannot be translated at all. `kept` is
/// rules on what stays the host's, whatever is published.
pub fn text(mappings: &[Mapping], kept: &str) -> String {
    let mut text = String::new();
    for (name, kind, _) in MAPS {
        let elements: Vec<_> = mappings.iter().filter(|one| one.map() == name).map(Mapping::text).collect();
        let _ = write!(text, "\tmap {name} {{\n\t\ttype {kind}\n");
        if !elements.is_empty() {
            let _ = writeln!(text, "\t\telements = {{ {} }}", elements.join(",\n\t\t\t"));
        }
        text.push_str("\t}\n");
    }
    text.push_str("\tchain published {\n");
    for (name, _, family) in MAPS {
        let address = if name.starts_with("at") { format!("{family} daddr . ") } else { String::new() };
        let _ = writeln!(text, "\t\tdnat {family} to {address}meta l4proto . th dport map @{name}");
    }
    text.push_str("\t}\n\tchain prerouting {\n\t\ttype nat hook prerouting priority -100; policy accept;\n");
    text.push_str(kept);
    text.push_str("\t\tip daddr != 127.0.0.0/8 fib daddr type local jump published\n");
    text.push_str("\t\tip6 daddr != ::1 fib daddr type local jump published\n");
    text.push_str("\t}\n\tchain output {\n\t\ttype nat hook output priority -100; policy accept;\n");
    text.push_str("\t\tmeta nfproto ipv4 fib daddr type local jump published\n");
    text.push_str("\t\tip6 daddr != ::1 fib daddr type local jump published\n\t}\n");
    text
}

// linux/netfilter/nfnetlink.h and nf_tables.h.
const BATCH_BEGIN: u16 = 16; // NFNL_MSG_BATCH_BEGIN
const BATCH_END: u16 = 17; // NFNL_MSG_BATCH_END
pub(super) const NEW_ELEMENTS: u16 = SUBSYSTEM | 12; // NFT_MSG_NEWSETELEM
pub(super) const DELETE_ELEMENTS: u16 = SUBSYSTEM | 14; // NFT_MSG_DELSETELEM
const CREATE: u16 = 0x400; // NLM_F_CREATE
const LIST_TABLE: u16 = 1; // NFTA_SET_ELEM_LIST_TABLE
const LIST_SET: u16 = 2; // NFTA_SET_ELEM_LIST_SET
const LIST_ELEMENTS: u16 = 3; // NFTA_SET_ELEM_LIST_ELEMENTS
const LIST_ELEMENT: u16 = 1; // NFTA_LIST_ELEM
const KEY: u16 = 1; // NFTA_SET_ELEM_KEY
const DATA: u16 = 2; // NFTA_SET_ELEM_DATA
const VALUE: u16 = 1; // NFTA_DATA_VALUE

/// An attribute's length has 16 bits.
const A_MESSAGE: usize = 500;

/// Changes elements of `table`, in the calling thread's network namespace: all of them, or none.
pub fn change(table: &str, change: Change, mappings: &[Mapping]) -> Result<Changed> {
    let doing = || format!("change the published ports of the nftables table {table}");
    match transact(table, change, mappings) {
        Ok(()) => Ok(Changed::Done),
        Err(Errno::ENOENT) if change == Change::Remove && mappings.len() > 1 => {
            // Some are gone already: the others one after the other.
            mappings.iter().try_for_each(|one| self::change(table, change, &[*one]).map(drop))?;
            Ok(Changed::Done)
        }
        Err(Errno::ENOENT) if change == Change::Remove => Ok(Changed::Done),
        Err(Errno::ENOENT | Errno::EEXIST | Errno::EBUSY | Errno::EINVAL) => Ok(Changed::Stranger),
        Err(errno) => Err(errno).doing(doing),
    }
}

fn transact(table: &str, change: Change, mappings: &[Mapping]) -> nix::Result<()> {
    let Some(socket) = nfnetlink::open()? else { return Err(Errno::ENOENT) };
    let (bytes, mut unanswered) = batch(table, change, mappings);
    if bytes.len() > 1 << 16 {
        // A range of thousands is more than a socket takes by default.
        let room = i32::try_from(bytes.len() * 2).unwrap_or(i32::MAX);
        sys::socket::set_send_buffer(socket.as_fd(), room).map_err(|_| Errno::ENOBUFS)?;
    }
    nfnetlink::send(&socket, &bytes)?;
    while unanswered > 0 {
        let answer = nfnetlink::receive(&socket)?;
        for (kind, body) in messages(&answer) {
            match error_of(body) {
                _ if kind != nfnetlink::ERROR => {}
                Errno::UnknownErrno => unanswered -= 1, // 0: an acknowledgement
                errno => return Err(errno),
            }
        }
    }
    if change == Change::Remove {
        // What was added leaves nothing for the kernel to do, and whoever closes nothing to wait for.
        nfnetlink::close_later(socket);
    }
    Ok(())
}

/// Pure: the transaction, and how many answers it will have.
fn batch(table: &str, change: Change, mappings: &[Mapping]) -> (Vec<u8>, usize) {
    let (kind, flags) = match change {
        Change::Add => (NEW_ELEMENTS, REQUEST | CREATE | ACK),
        Change::Remove => (DELETE_ELEMENTS, REQUEST | ACK),
    };
    let mut bytes = border(BATCH_BEGIN);
    let mut count = 0;
    for (name, ..) in MAPS {
        let of_map: Vec<_> = mappings.iter().filter(|one| one.map() == name).collect();
        for some in of_map.chunks(A_MESSAGE) {
            let elements: Vec<u8> = some.iter().flat_map(|one| element(one, change)).collect();
            let attributes = [
                attribute(LIST_TABLE, &string(table)),
                attribute(LIST_SET, &string(name)),
                attribute(LIST_ELEMENTS | NESTED, &elements),
            ];
            bytes.extend(request(kind, flags, nfnetlink::INET, &attributes.concat()));
            count += 1;
        }
    }
    bytes.extend(border(BATCH_END));
    (bytes, count)
}

fn element(mapping: &Mapping, change: Change) -> Vec<u8> {
    let nested = |kind: u16, value: &[u8]| attribute(kind | NESTED, &attribute(VALUE, value));
    let mut parts = nested(KEY, &mapping.key());
    if change == Change::Add {
        parts.extend(nested(DATA, &mapping.value()));
    }
    attribute(LIST_ELEMENT | NESTED, &parts)
}

/// Where a transaction begins or ends; its resource id says whose it is.
fn border(kind: u16) -> Vec<u8> {
    let mut message = request(kind, REQUEST, nfnetlink::UNSPEC, &[]);
    message[18..20].copy_from_slice(&10u16.to_be_bytes()); // NFNL_SUBSYS_NFTABLES
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(protocol: Protocol, address: Option<&str>, host: u16, to: &str) -> Mapping {
        let address = address.map(|text| text.parse().unwrap());
        Mapping { protocol, address, host, to: to.parse().unwrap() }
    }

    /// What `nft add element inet t any4 { udp . 8081 : 10.88.0.5 . 81 }` sends, as strace(1) shows it.
    #[test]
    fn an_element_is_what_nft_would_send() {
        let one = mapping(Protocol::Udp, None, 8081, "10.88.0.5:81");
        let expected = b"\x2c\x00\x01\x80\x10\x00\x01\x80\x0c\x00\x01\x00\x11\x00\x00\x00\x1f\x91\x00\x00\
                         \x10\x00\x02\x80\x0c\x00\x01\x00\x0a\x58\x00\x05\x00\x51\x00\x00";
        let mut expected = expected.to_vec();
        expected[0] = 36; // without the comment
        assert_eq!(element(&one, Change::Add), expected);
    }

    #[test]
    fn each_mapping_is_in_the_map_of_its_family_and_address() {
        for (address, to, map, text) in [
            (None, "10.88.0.5:80", "any4", "tcp . 8080 : 10.88.0.5 . 80"),
            (Some("192.0.2.1"), "10.88.0.5:80", "at4", "192.0.2.1 . tcp . 8080 : 10.88.0.5 . 80"),
            (None, "[fd00::5]:80", "any6", "tcp . 8080 : fd00::5 . 80"),
            (Some("fd01::1"), "[fd00::5]:80", "at6", "fd01::1 . tcp . 8080 : fd00::5 . 80"),
        ] {
            let one = mapping(Protocol::Tcp, address, 8080, to);
            assert_eq!((one.map(), one.text().as_str()), (map, text));
            let address = if address.is_none() { 0 } else { octets(one.to.ip()).len() };
            assert_eq!(one.key().len(), address + 8);
        }
    }

    #[test]
    fn a_thousand_elements_are_one_transaction_of_few_messages() {
        let many: Vec<_> = (1..=1001).map(|host| mapping(Protocol::Tcp, None, host, "10.88.0.5:80")).collect();
        let (bytes, count) = batch("podrun", Change::Add, &many);
        let kinds: Vec<u16> = messages(&bytes).map(|(kind, _)| kind).collect();
        assert_eq!((count, kinds), (3, vec![BATCH_BEGIN, NEW_ELEMENTS, NEW_ELEMENTS, NEW_ELEMENTS, BATCH_END]));
    }

    #[test]
    fn the_text_has_every_mapping_and_no_empty_list() {
        let (web, names) = ("10.88.0.5:80", "10.88.0.6:53");
        let text = text(&[mapping(Protocol::Tcp, None, 8080, web), mapping(Protocol::Udp, None, 53, names)], "");
        assert!(
            text.contains("elements = { tcp . 8080 : 10.88.0.5 . 80,\n\t\t\tudp . 53 : 10.88.0.6 . 53 }\n"),
            "{text}"
        );
        assert_eq!(text.matches("elements").count(), 1, "{text}");
    }

    /// nf_tables_api.c: elements are made with NLM_F_CREATE, inside a batch of the nf_tables subsystem (nfgenmsg.res_id).
    #[test]
    fn a_transaction_is_what_nf_tables_asks_for() {
        let one = mapping(Protocol::Tcp, None, 8080, "10.88.0.5:80");
        let flags = |message: &[u8]| u16::from_ne_bytes(message[6..8].try_into().unwrap());
        for (change, kind, asked) in [(Change::Add, (10 << 8) | 12, 0x405), (Change::Remove, (10 << 8) | 14, 5)] {
            let (bytes, count) = batch("t", change, &[one]);
            let all: Vec<_> = messages(&bytes).collect();
            assert_eq!((all.len(), count, all[0].0, all[1].0, all[2].0), (3, 1, 16, kind, 17));
            assert_eq!((flags(&bytes), flags(&bytes[20..])), (1, asked), "{change:?}");
            assert_eq!((all[0].1, all[2].1), (&[0, 0, 0, 10][..], &[0, 0, 0, 10][..]));
            let parts: Vec<_> = nfnetlink::attributes(&all[1].1[4..]).collect();
            assert_eq!((parts[0], parts[1]), ((1, &b"t\0"[..]), (2, &b"any4\0"[..])));
            let element = nfnetlink::attributes(parts[2].1).next().unwrap().1;
            let kinds: Vec<u16> = nfnetlink::attributes(element).map(|(kind, _)| kind).collect();
            assert_eq!(kinds, if change == Change::Add { vec![KEY, DATA] } else { vec![KEY] });
        }
    }

    #[test]
    fn each_map_is_asked_in_its_own_family() {
        let text = text(&[], "");
        for line in [
            "dnat ip to ip daddr . meta l4proto . th dport map @at4\n",
            "dnat ip to meta l4proto . th dport map @any4\n",
            "dnat ip6 to ip6 daddr . meta l4proto . th dport map @at6\n",
            "dnat ip6 to meta l4proto . th dport map @any6\n",
        ] {
            assert!(text.contains(&format!("\t\t{line}")), "{text} has no {line}");
        }
        assert!(text.find("@at4") < text.find("@any4") && text.find("@at6") < text.find("@any6"));
    }

    /// In a network namespace of this thread's own, where there is no table: what is to go is gone, and what is to come has
    /// no place; a range of thousands, too.
    #[test]
    fn without_a_table_removing_is_done_and_adding_is_not() {
        let many: Vec<_> = (1..=5000).map(|host| mapping(Protocol::Tcp, None, host, "10.88.0.5:80")).collect();
        let elsewhere = std::thread::spawn(move || {
            sys::ns::unshare(libc::CLONE_NEWNET).unwrap();
            assert_eq!(transact("none", Change::Remove, &many[..1]), Err(Errno::ENOENT));
            let removed = [1, 2].map(|count| change("none", Change::Remove, &many[..count]).unwrap());
            let added = [1, 5000].map(|count| change("none", Change::Add, &many[..count]).unwrap());
            (removed, added)
        });
        assert_eq!(elsewhere.join().unwrap(), ([Changed::Done; 2], [Changed::Stranger; 2]));
    }
}
