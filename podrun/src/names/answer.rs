//! Questions and answers on the wire (RFC 1035, RFC 6891). Pure: who is called how is asked elsewhere.

#![forbid(unsafe_code)]

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A datagram's content as every resolver takes it (RFC 1035, 4.2.1), and as it passes every link unfragmented (the
/// recommendation of DNS Flag Day 2020).
const LEAST: usize = 512;
const MOST: usize = 1232;
/// What a stream takes.
pub const STREAM: usize = 65_535;
/// A name is asked for again each time: what it leads to may be another pod's in the next moment.
const TTL: u32 = 0;
const HEADER: usize = 12;

/// What came.
#[derive(Debug)]
pub enum Heard {
    Question(Box<Question>),
    /// None that is answered from anywhere: this says why.
    Refused(Vec<u8>),
    /// Not even a question.
    Noise,
}

/// One question of a client.
#[derive(Debug, Clone)]
pub struct Question {
    metadata: Metadata,
    query: Query,
    edns: Option<u16>,
    pub about: About,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// Whatever there is of a name, in small letters and without the last dot.
    Name(String),
    /// Whose an address is.
    Address(IpAddr),
    /// A name that no pod and no network can have.
    Foreign { labels: u8 },
}

/// What there is to be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The name is there, with these addresses of either family.
    Addresses(Vec<IpAddr>),
    /// The address is that of this name.
    Pointer(String),
    /// There is no such name.
    Nobody,
    /// It cannot be found out.
    Failed,
}

/// Takes a packet apart.
pub fn read(packet: &[u8]) -> Heard {
    let Some(header) = packet.get(..HEADER) else { return Heard::Noise };
    // An answer to an answer would go round and round.
    if header[2] & 0x80 != 0 {
        return Heard::Noise;
    }
    let id = u16::from_be_bytes([header[0], header[1]]);
    let Ok(message) = Message::from_vec(packet) else {
        return Heard::Refused(bare(id, OpCode::Query, ResponseCode::FormErr));
    };
    if message.metadata.op_code != OpCode::Query {
        return Heard::Refused(bare(id, message.metadata.op_code, ResponseCode::NotImp));
    }
    let [query] = &message.queries[..] else {
        return Heard::Refused(bare(id, OpCode::Query, ResponseCode::FormErr));
    };
    let question = Question {
        metadata: message.metadata,
        query: query.clone(),
        edns: message.edns.as_ref().map(Edns::max_payload),
        about: about(query.name()),
    };
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Heard::Refused(question.refused(ResponseCode::BADVERS));
    }
    let transfers = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    match query.query_class() != DNSClass::IN || transfers {
        true => Heard::Refused(question.refused(ResponseCode::Refused)),
        false => Heard::Question(Box::new(question)),
    }
}

fn bare(id: u16, op_code: OpCode, code: ResponseCode) -> Vec<u8> {
    Message::error_msg(id, op_code, code).to_vec().unwrap_or_default()
}

fn about(name: &Name) -> About {
    let labels: Option<Vec<String>> = name.iter().map(word).collect();
    let foreign = About::Foreign { labels: name.num_labels() };
    let Some(labels) = labels else { return foreign };
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    match &labels[..] {
        [] => foreign,
        [number @ .., "in-addr", "arpa"] => four(number).map_or(foreign, |ip| About::Address(ip.into())),
        [number @ .., "ip6", "arpa"] => six(number).map_or(foreign, |ip| About::Address(ip.into())),
        labels => About::Name(labels.join(".")),
    }
}

/// In small letters, and only of what a name of podrun's can have: it becomes part of a path.
fn word(label: &[u8]) -> Option<String> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let text = String::from_utf8(label.to_vec()).ok()?;
    (!label.is_empty() && label.iter().all(plain)).then(|| text.to_ascii_lowercase())
}

/// RFC 1035, 3.5: last octet first.
fn four(labels: &[&str]) -> Option<Ipv4Addr> {
    let octet = |label: &&str| label.parse().ok().filter(|octet: &u8| octet.to_string() == **label);
    let octets: Option<Vec<u8>> = labels.iter().rev().map(octet).collect();
    <[u8; 4]>::try_from(octets?).ok().map(Ipv4Addr::from)
}

/// RFC 3596, 2.5: last nibble first.
fn six(labels: &[&str]) -> Option<Ipv6Addr> {
    let digits: Option<Vec<u8>> = labels
        .iter()
        .rev()
        .map(|label| (label.len() == 1).then(|| u8::from_str_radix(label, 16).ok()).flatten())
        .collect();
    let digits = <[u8; 32]>::try_from(digits?).ok()?;
    let mut octets = [0; 16];
    for (octet, pair) in octets.iter_mut().zip(digits.as_chunks::<2>().0) {
        *octet = pair[0] << 4 | pair[1];
    }
    Some(Ipv6Addr::from(octets))
}

impl Question {
    /// The answer in at most as many bytes as whoever asked takes in a datagram.
    pub fn datagram(&self, told: &Told) -> Vec<u8> {
        self.answer(told, usize::from(self.edns.unwrap_or(0)).clamp(LEAST, MOST))
    }

    pub fn answer(&self, told: &Told, most: usize) -> Vec<u8> {
        let mut message = self.response(match told {
            Told::Addresses(_) | Told::Pointer(_) => ResponseCode::NoError,
            Told::Nobody => ResponseCode::NXDomain,
            Told::Failed => ResponseCode::ServFail,
        });
        message.metadata.authoritative = *told != Told::Failed;
        message.add_answers(self.records(told));
        match message.to_vec() {
            Ok(bytes) if bytes.len() <= most => bytes,
            // They ask again by a stream.
            Ok(_) => message.truncate().to_vec().unwrap_or_default(),
            Err(_) => self.refused(ResponseCode::ServFail),
        }
    }

    fn records(&self, told: &Told) -> Vec<Record> {
        let asked = self.query.query_type();
        let record = |data: RData| {
            let wanted = asked == data.record_type() || asked == RecordType::ANY;
            wanted.then(|| Record::from_rdata(self.query.name().clone(), TTL, data))
        };
        let all: Vec<RData> = match told {
            Told::Addresses(all) => all.iter().map(address).collect(),
            Told::Pointer(name) => {
                Name::from_ascii(format!("{name}.")).ok().map(|name| RData::PTR(PTR(name))).into_iter().collect()
            }
            Told::Nobody | Told::Failed => Vec::new(),
        };
        all.into_iter().filter_map(record).collect()
    }

    /// For whoever is not known here.
    pub fn stranger(&self) -> Vec<u8> {
        self.refused(ResponseCode::Refused)
    }

    fn refused(&self, code: ResponseCode) -> Vec<u8> {
        self.response(code).to_vec().unwrap_or_default()
    }

    fn response(&self, code: ResponseCode) -> Message {
        let id = self.metadata.id;
        let mut message = Message::new(id, MessageType::Response, OpCode::Query);
        message.metadata = Metadata::response_from_request(&self.metadata);
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_query(self.query.clone());
        if self.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(u16::try_from(MOST).unwrap_or(u16::MAX)).set_version(0);
            edns.set_rcode_high(code.high());
            message.set_edns(edns);
        }
        message
    }
}

fn address(address: &IpAddr) -> RData {
    match address {
        IpAddr::V4(four) => RData::A(A(*four)),
        IpAddr::V6(six) => RData::AAAA(AAAA(*six)),
    }
}

/// Whether `answer` is one to `query`, of which only the number may be another: the same single question. Names are
/// compared as letters, since a server may write them as it likes.
pub fn answers(query: &[u8], answer: &[u8]) -> bool {
    let is_response = answer.len() >= HEADER && answer[2] & 0x80 != 0 && answer[..2] == query[..2];
    let one = |packet: &[u8]| packet.get(4..6) == Some(&[0, 1]);
    if !is_response || !one(query) || !one(answer) {
        return false;
    }
    let Some(end) = question_end(query) else { return false };
    answer.get(HEADER..end).is_some_and(|question| question.eq_ignore_ascii_case(&query[HEADER..end]))
}

/// Where the one question ends: labels, then type and class. A question is first, so nothing can be abbreviated in it.
fn question_end(packet: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match *packet.get(at)? {
            0 => break,
            length @ 1..=63 => at += usize::from(length) + 1,
            _ => return None,
        }
    }
    (at + 5 <= packet.len()).then_some(at + 5)
}

/// What an answer says of itself: that another server may know better (SERVFAIL, REFUSED, NOTIMP).
pub fn is_evasive(answer: &[u8]) -> bool {
    matches!(answer.get(3).map(|byte| byte & 0xf), Some(2 | 4 | 5))
}

/// The same packet under another number.
pub fn renumber(packet: &mut [u8], id: [u8; 2]) {
    if let Some(place) = packet.get_mut(..2) {
        place.copy_from_slice(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn question(message: &Message) -> Box<Question> {
        match read(&message.to_vec().unwrap()) {
            Heard::Question(question) => question,
            other => panic!("{other:?}"),
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_is_read_in_small_letters_and_an_address_backwards() {
        for (name, about) in [
            ("Web.", About::Name("web".into())),
            ("a_b.Front.", About::Name("a_b.front".into())),
            ("2.0.88.10.in-addr.arpa.", About::Address(ip("10.88.0.2"))),
            ("0.88.10.in-addr.arpa.", About::Foreign { labels: 5 }),
            ("02.0.88.10.in-addr.arpa.", About::Foreign { labels: 6 }),
            (
                "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.F.ip6.arpa.",
                About::Address(ip("fd00::2")),
            ),
            (".", About::Foreign { labels: 0 }),
        ] {
            assert_eq!(question(&query(name, RecordType::A)).about, about, "{name}");
        }
        // What would be a path.
        for labels in [&[&b".."[..]][..], &[b"a/b", b"c"], &[b"a\0"], &[b"caf\xe9", b"fr"]] {
            let name = Name::from_labels(labels.iter().copied()).unwrap();
            let count = u8::try_from(labels.len()).unwrap();
            assert_eq!(about(&name), About::Foreign { labels: count }, "{name}");
        }
    }

    #[test]
    fn a_family_that_a_name_has_not_is_no_error() {
        let told = Told::Addresses(vec![ip("10.88.0.2"), ip("10.88.0.3"), ip("fd00::2")]);
        for (kind, count) in [
            (RecordType::A, 2),
            (RecordType::AAAA, 1),
            (RecordType::MX, 0),
            (RecordType::ANY, 3),
            (RecordType::HTTPS, 0),
        ] {
            let answer = Message::from_vec(&question(&query("web.", kind)).datagram(&told)).unwrap();
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{kind}");
            assert_eq!((answer.answers.len(), answer.metadata.id), (count, 7), "{kind}");
            assert!(answer.metadata.recursion_available && answer.metadata.recursion_desired);
            assert!(answer.answers.iter().all(|record| record.ttl == 0));
        }
    }

    #[test]
    fn nobody_and_trouble_are_told_apart_and_a_pointer_is_a_name() {
        let asked = question(&query("2.0.88.10.in-addr.arpa.", RecordType::PTR));
        let code = |told: &Told| Message::from_vec(&asked.datagram(told)).unwrap().metadata.response_code;
        assert_eq!((code(&Told::Nobody), code(&Told::Failed)), (ResponseCode::NXDomain, ResponseCode::ServFail));
        let answer = Message::from_vec(&asked.datagram(&Told::Pointer("web.front".into()))).unwrap();
        assert_eq!(answer.answers[0].data.to_string(), "web.front.");
    }

    #[test]
    fn what_does_not_fit_is_cut_and_whole_on_a_stream() {
        let many = Told::Addresses((0..100).map(|n| [10, 88, 0, n].into()).collect());
        let mut message = query("web.", RecordType::A);
        let read = |bytes: Vec<u8>| {
            let answer = Message::from_vec(&bytes).unwrap();
            (bytes.len(), answer.metadata.truncation, answer.answers.len())
        };
        let (size, cut, count) = read(question(&message).datagram(&many));
        assert!(size <= LEAST && cut && count == 0, "{size} {cut} {count}");
        let (_, cut, count) = read(question(&message).answer(&many, STREAM));
        assert_eq!((cut, count), (false, 100));
        // A client that takes more gets more, up to what passes everywhere.
        let some = Told::Addresses((0..60).map(|n| [10, 88, 0, n].into()).collect());
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        message.set_edns(edns);
        let bytes = question(&message).datagram(&some);
        let answer = Message::from_vec(&bytes).unwrap();
        assert!(bytes.len() > LEAST && !answer.metadata.truncation && answer.edns.is_some());
        let (size, cut, _) = read(question(&message).datagram(&many));
        assert!(cut && size <= LEAST, "{size}");
    }

    #[test]
    fn what_is_no_question_gets_a_word_or_silence() {
        let code = |bytes: &[u8]| match read(bytes) {
            Heard::Refused(answer) => Some(Message::from_vec(&answer).unwrap().metadata.response_code),
            _ => None,
        };
        let good = query("web.", RecordType::A).to_vec().unwrap();
        assert!(matches!(read(&good[..11]), Heard::Noise), "no header");
        let mut response = good.clone();
        response[2] |= 0x80;
        assert!(matches!(read(&response), Heard::Noise), "an answer");
        assert_eq!(code(&good[..20]), Some(ResponseCode::FormErr));
        let mut two = query("web.", RecordType::A);
        two.add_query(Query::query(Name::from_ascii("db.").unwrap(), RecordType::A));
        assert_eq!(code(&two.to_vec().unwrap()), Some(ResponseCode::FormErr));
        let mut update = good.clone();
        update[2] = 5 << 3;
        assert!(matches!(code(&update), Some(ResponseCode::NotImp | ResponseCode::FormErr)));
        assert_eq!(code(&query("web.", RecordType::AXFR).to_vec().unwrap()), Some(ResponseCode::Refused));
        let mut later = query("web.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_version(1);
        later.set_edns(edns);
        // 16 is BADVERS here, and BADSIG elsewhere.
        assert_eq!(code(&later.to_vec().unwrap()).map(u16::from), Some(16));
    }

    #[test]
    fn an_answer_is_one_to_the_very_question() {
        let asked = query("Web.example.org.", RecordType::A).to_vec().unwrap();
        let mut answer = asked.to_ascii_lowercase();
        answer[2] |= 0x80;
        assert!(answers(&asked, &answer));
        assert!(!answers(&asked, &asked), "a question");
        let mut other = answer.clone();
        other[1] ^= 1;
        assert!(!answers(&asked, &other), "another number");
        other = answer.clone();
        other[14] = b'x';
        assert!(!answers(&asked, &other), "another name");
        other = answer.clone();
        let kind = other.len() - 3;
        other[kind] = 28;
        assert!(!answers(&asked, &other), "another type");
        other = answer.clone();
        other[5] = 0;
        assert!(!answers(&asked, &other), "no question");
        for length in 0..answer.len() {
            assert!(!answers(&asked, &answer[..length]), "cut at {length}");
        }
    }
}
