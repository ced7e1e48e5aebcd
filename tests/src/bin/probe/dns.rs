//! DNS on the wire, by hand: questions that are asked as a test wants them, and a server that answers all with one address.

#![forbid(unsafe_code)]

use crate::{Act, say};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(6);
const KINDS: [(&str, u16); 6] = [("A", 1), ("NS", 2), ("PTR", 12), ("MX", 15), ("AAAA", 28), ("ANY", 255)];
const CODES: [&str; 6] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
/// What the server's answers lead to, and how many of them a name that begins with "big" has.
const ANSWER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const MANY: u16 = 60;

pub(crate) fn act(words: &[&str]) -> Act {
    match words {
        ["dns", "udp", whom, questions @ ..] => by_datagrams(whom, questions)?,
        ["dns", "tcp", whom, questions @ ..] => by_a_stream(whom, questions)?,
        ["dns-noise", whom, count] => noise(whom, count.parse()?)?,
        ["dns-loop", whom, name, seconds] => again_and_again(whom, name, seconds.parse()?)?,
        ["dns-serve", at] => serve(at)?,
        _ => return Err("the probe has no such act".into()),
    }
    Ok(0)
}

/// `web/AAAA`, or a name alone for A.
fn question(id: u16, text: &str) -> Vec<u8> {
    let (name, kind) = text.rsplit_once('/').unwrap_or((text, "A"));
    let kind = KINDS.iter().find(|(word, _)| *word == kind).map_or(1, |(_, number)| *number);
    let mut bytes = [id, 0x0100, 1, 0, 0, 0].map(u16::to_be_bytes).concat();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap_or(63));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend([kind, 1].map(u16::to_be_bytes).concat());
    bytes
}

fn by_datagrams(whom: &str, questions: &[&str]) -> std::io::Result<()> {
    for text in questions {
        let socket = UdpSocket::bind(if whom.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" })?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(whom)?;
        socket.send(&question(7, text))?;
        let mut answer = [0; 4096];
        let length = socket.recv(&mut answer)?;
        say(format!("{text} {}", told(&answer[..length])))?;
    }
    Ok(())
}

/// All questions at once, then all answers as they come.
fn by_a_stream(whom: &str, questions: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let mut stream = TcpStream::connect_timeout(&whom.parse::<SocketAddr>()?, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut asked = Vec::new();
    for (id, text) in (0..).zip(questions) {
        asked.extend(framed(&question(id, text)));
    }
    stream.write_all(&asked)?;
    let mut answers = Vec::new();
    for _ in questions {
        let answer = message(&mut stream)?;
        let id = usize::from(u16::from_be_bytes([answer[0], answer[1]]));
        answers.push((id, told(&answer)));
    }
    answers.sort();
    for (id, told) in answers {
        say(format!("{} {told}", questions[id]))?;
    }
    Ok(())
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes()[..], message].concat()
}

fn message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// The code, the addresses or names, and `cut` for an answer that is not whole.
fn told(answer: &[u8]) -> String {
    let number = |at: usize| u16::from_be_bytes([answer[at], answer[at + 1]]);
    let mut words = vec![(*CODES.get(usize::from(answer[3] & 0xf)).unwrap_or(&"?")).to_owned()];
    if answer[2] & 2 != 0 {
        words.push("cut".to_owned());
    }
    let (_, mut at) = name(answer, 12);
    at += 4;
    let mut records = Vec::new();
    for _ in 0..number(6) {
        (_, at) = name(answer, at);
        let (kind, length) = (number(at), usize::from(number(at + 8)));
        let data = &answer[at + 10..at + 10 + length];
        records.push(match (kind, <[u8; 4]>::try_from(data), <[u8; 16]>::try_from(data)) {
            (1, Ok(four), _) => IpAddr::from(four).to_string(),
            (28, _, Ok(six)) => Ipv6Addr::from(six).to_string(),
            (12, ..) => name(answer, at + 10).0,
            _ => format!("type {kind}"),
        });
        at += 10 + length;
    }
    records.sort();
    words.extend(records);
    words.join(" ")
}

/// A name, abbreviated or not, and where it ends.
fn name(packet: &[u8], mut at: usize) -> (String, usize) {
    let (mut labels, mut end) = (Vec::new(), None);
    loop {
        let length = usize::from(packet[at]);
        if length & 0xc0 == 0xc0 {
            end.get_or_insert(at + 2);
            at = (length & 0x3f) << 8 | usize::from(packet[at + 1]);
        } else if length == 0 {
            return (labels.join("."), end.unwrap_or(at + 1));
        } else {
            labels.push(String::from_utf8_lossy(&packet[at + 1..at + 1 + length]).into_owned());
            at += 1 + length;
        }
    }
}

/// Packets that are no questions, all different and the same in each run, by both ways.
fn noise(whom: &str, count: u32) -> std::io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut dice: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut stream = TcpStream::connect(whom)?;
    for n in 0..count {
        let mut packet = question(7, "web");
        for byte in &mut packet {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            if dice.is_multiple_of(3) {
                *byte = dice.to_le_bytes()[4];
            }
        }
        packet.truncate(usize::from(dice.to_le_bytes()[5]) % 40);
        let _ = socket.send_to(&packet, whom);
        // A stream that is not understood may be closed.
        if stream.write_all(&packet).is_err() {
            stream = TcpStream::connect(whom)?;
        }
        if n % 100 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Asks without pause, and says the longest time without an answer, in milliseconds.
fn again_and_again(whom: &str, name: &str, seconds: u64) -> std::io::Result<()> {
    use std::time::Instant;
    let (end, mut heard, mut longest) = (Instant::now() + Duration::from_secs(seconds), Instant::now(), Duration::ZERO);
    while Instant::now() < end {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        socket.connect(whom)?;
        let asked = socket.send(&question(7, name)).is_ok();
        let mut answer = [0; 512];
        if asked && socket.recv(&mut answer).is_ok_and(|length| length > 12) {
            longest = longest.max(heard.elapsed());
            heard = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    say(format!("longest silence {}", longest.max(heard.elapsed()).as_millis()))
}

/// Answers every question for A with one address, and says what was asked and how. Of a name that begins with "big" there
/// is more than a datagram takes; of one with "deaf" it says nothing; one with "liar" it answers as another first.
fn serve(at: &str) -> std::io::Result<()> {
    let (socket, listener) = (UdpSocket::bind(at)?, TcpListener::bind(at)?);
    say("listening")?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            while let Ok(asked) = message(&mut stream) {
                let _ = say(format!("asked for {} by tcp", name(&asked, 12).0));
                let _ = stream.write_all(&framed(&answer(&asked, MANY)));
            }
        }
    });
    let mut packet = [0; 4096];
    loop {
        let (length, from) = socket.recv_from(&mut packet)?;
        let (asked, about) = (&packet[..length], name(&packet[..length], 12).0);
        say(format!("asked for {about} by udp"))?;
        if about.starts_with("deaf") {
            continue;
        }
        if about.starts_with("liar") {
            let mut other = answer(asked, 1);
            other[1] ^= 1;
            socket.send_to(&other, from)?;
            socket.send_to(&answer(&question(u16::from_be_bytes([asked[0], asked[1]]), "other.example"), 1), from)?;
            UdpSocket::bind("0.0.0.0:0")?.send_to(&answer(asked, 3), from)?;
        }
        socket.send_to(&answer(asked, if about.starts_with("big") { 0 } else { 1 }), from)?;
    }
}

/// None: cut. Several only for names that begin so.
fn answer(asked: &[u8], count: u16) -> Vec<u8> {
    let (about, end) = name(asked, 12);
    let count = if about.starts_with("big") || count == 3 { count } else { 1 };
    let flags: u16 = if count == 0 { 0x8380 } else { 0x8180 };
    let mut bytes = asked[..2].to_vec();
    bytes.extend([flags, 1, count, 0, 0].map(u16::to_be_bytes).concat());
    bytes.extend_from_slice(&asked[12..end + 4]);
    for n in 0..count {
        let [a, b, c, d] = ANSWER.octets();
        let last = d.wrapping_add(u8::try_from(n).unwrap_or(0));
        bytes.extend([0xc00c_u16, 1, 1, 0, 5, 4].map(u16::to_be_bytes).concat());
        bytes.extend([a, b, c, last]);
    }
    bytes
}
