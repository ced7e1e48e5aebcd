//! TCP, UDP, SCTP and ICMP, one question and one answer.

#![forbid(unsafe_code)]

use crate::{Act, say};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, SockaddrStorage, bind,
    connect, recv, sendto, socket,
};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) fn act(words: &[&str]) -> Act {
    match words {
        ["listen", at, text] => listen(&TcpListener::bind(at)?, text)?,
        ["answer", at, text] => answer(&TcpListener::bind(at)?, text)?,
        ["call", whom] => call(whom)?,
        ["echo", at] => echo(at)?,
        ["talk", whom] => talk(whom)?,
        ["ask", whom] => ask(whom)?,
        ["sctp-listen", at, text] => listen(&sctp_listener(at.parse()?)?, text)?,
        ["sctp-ask", whom] => hear(sctp_stream(whom.parse()?)?)?,
        ["udp-listen", at, text] => udp_listen(at, text)?,
        ["udp-ask", whom] => udp_ask(whom)?,
        ["udp-stream", whom, count, pause] => udp_stream(whom, count.parse()?, pause.parse()?)?,
        ["ping", whom] => say(ping(whom.parse()?)?)?,
        ["advertise", interface] => advertise(interface)?,
        ["abstract-sockets"] => abstract_sockets()?,
        _ => return Err("the probe has no such act".into()),
    }
    Ok(0)
}

/// Answers every connection with a text and the caller's address, for ever.
fn listen(listener: &TcpListener, text: &str) -> std::io::Result<()> {
    say("listening")?;
    for caller in listener.incoming() {
        let mut caller = caller?;
        let from = caller.peer_addr()?.ip();
        // A caller that is gone is no reason to stop.
        let _ = writeln!(caller, "{text} to {from}");
    }
    Ok(())
}

/// The same, to callers that say a line first.
fn answer(listener: &TcpListener, text: &str) -> std::io::Result<()> {
    say("listening")?;
    for caller in listener.incoming() {
        let mut caller = caller?;
        let from = caller.peer_addr()?.ip();
        caller.set_read_timeout(Some(PATIENCE))?;
        if matches!(caller.read(&mut [0; 512]), Ok(1..)) {
            let _ = writeln!(caller, "{text} to {from}");
        }
    }
    Ok(())
}

/// Says a line first.
fn call(whom: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut stream = TcpStream::connect_timeout(&whom.parse::<SocketAddr>()?, PATIENCE)?;
    writeln!(stream, "?")?;
    hear(stream)
}

/// Gives every caller back what it sends, for ever.
fn echo(at: &str) -> std::io::Result<()> {
    let listener = TcpListener::bind(at)?;
    say("listening")?;
    for caller in listener.incoming() {
        let mut caller = caller?;
        std::thread::spawn(move || {
            let mut back = caller.try_clone()?;
            std::io::copy(&mut caller, &mut back)?;
            back.shutdown(Shutdown::Write)
        });
    }
    Ok(())
}

/// stdin to the other side, what it answers to stdout, each to its end.
fn talk(whom: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut stream = TcpStream::connect_timeout(&whom.parse::<SocketAddr>()?, PATIENCE)?;
    let mut back = stream.try_clone()?;
    let asking = std::thread::spawn(move || {
        std::io::copy(&mut std::io::stdin().lock(), &mut stream)?;
        stream.shutdown(Shutdown::Write)
    });
    std::io::copy(&mut back, &mut std::io::stdout())?;
    asking.join().map_err(|_| "the asking thread panicked")??;
    Ok(())
}

fn ask(whom: &str) -> Result<(), Box<dyn std::error::Error>> {
    hear(TcpStream::connect_timeout(&whom.parse::<SocketAddr>()?, PATIENCE)?)
}

/// sctp(7), the one-to-one style: once it is there, std's TCP types call what it understands.
fn sctp(at: SocketAddr) -> nix::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Sctp)
}

fn sctp_listener(at: SocketAddr) -> nix::Result<TcpListener> {
    let socket = sctp(at)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
    nix::sys::socket::listen(&socket, Backlog::MAXCONN)?;
    Ok(socket.into())
}

/// connect(2) takes a minute to give up, but heeds the limit for sending.
fn sctp_stream(whom: SocketAddr) -> nix::Result<TcpStream> {
    let socket = sctp(whom)?;
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(3))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(whom))?;
    Ok(socket.into())
}

fn hear(mut stream: TcpStream) -> Result<(), Box<dyn std::error::Error>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    say(answer.trim_end())?;
    Ok(())
}

fn udp_listen(at: &str, text: &str) -> std::io::Result<()> {
    let socket = UdpSocket::bind(at)?;
    say("listening")?;
    loop {
        let (_, from) = socket.recv_from(&mut [0; 512])?;
        socket.send_to(format!("{text} to {}", from.ip()).as_bytes(), from)?;
    }
}

/// One socket that asks again and again; says each new answer, and at the end the longest silence in milliseconds.
fn udp_stream(whom: &str, count: u32, pause: u64) -> std::io::Result<()> {
    let socket = UdpSocket::bind(any_of_the_family_of(whom))?;
    socket.set_read_timeout(Some(Duration::from_millis(pause)))?;
    let (mut last, mut heard, mut longest) = (String::new(), Instant::now(), Duration::ZERO);
    for _ in 0..count {
        let asked = Instant::now();
        // Refused for a moment (ICMP) is a silence like any other.
        let _ = socket.send_to(b"?", whom);
        let mut buffer = [0; 512];
        if let Ok(n) = socket.recv(&mut buffer) {
            longest = longest.max(heard.elapsed());
            heard = Instant::now();
            let answer = String::from_utf8_lossy(&buffer[..n]).into_owned();
            if answer != last {
                say(&answer)?;
                last = answer;
            }
        }
        std::thread::sleep(Duration::from_millis(pause).saturating_sub(asked.elapsed()));
    }
    say(format!("longest silence {}", longest.max(heard.elapsed()).as_millis()))
}

fn any_of_the_family_of(whom: &str) -> &'static str {
    if whom.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }
}

fn udp_ask(whom: &str) -> std::io::Result<()> {
    let socket = UdpSocket::bind(any_of_the_family_of(whom))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(b"?", whom)?;
    let mut buffer = [0; 512];
    let n = socket.recv(&mut buffer)?;
    say(String::from_utf8_lossy(&buffer[..n]))
}

/// icmp(7), the datagram kind, which ping_group_range allows without any privilege.
fn ping(whom: IpAddr) -> nix::Result<&'static str> {
    let whom = match whom {
        IpAddr::V4(whom) => whom,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    let icmp = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)?;
    setsockopt(&icmp, sockopt::ReceiveTimeout, &TimeVal::seconds(3))?;
    // Type 8, code 0; the kernel fills in checksum and identifier.
    let echo = [8, 0, 0, 0, 0, 0, 0, 1, b'p', b'o', b'd', b's'];
    let [a, b, c, d] = whom.octets();
    sendto(icmp.as_raw_fd(), &echo, &SockaddrIn::new(a, b, c, d, 0), MsgFlags::empty())?;
    recv(icmp.as_raw_fd(), &mut [0; 64], MsgFlags::empty())?;
    Ok("pong")
}

/// A router advertisement (RFC 4861) of a default route and a prefix, to all nodes of the link.
fn advertise(interface: &str) -> nix::Result<()> {
    let icmp = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6)?;
    // What came over a router is not believed.
    setsockopt(&icmp, sockopt::Ipv6MulticastHops, &255)?;
    // Type 134, code 0, a checksum that the kernel fills in, hop limit, flags, half an hour, and two times for nobody;
    // then one option: a prefix of 64 bits, on this link and for addresses of one's own, for an hour.
    let header = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let option = [3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0];
    let prefix = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0).octets();
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let to = SocketAddrV6::new(all_nodes, 0, 0, nix::net::if_::if_nametoindex(interface)?);
    sendto(icmp.as_raw_fd(), &[header, option, prefix].concat(), &SockaddrIn6::from(to), MsgFlags::empty())?;
    Ok(())
}

/// unix(7) names that anybody in this network namespace can connect to.
fn abstract_sockets() -> std::io::Result<()> {
    for line in std::fs::read_to_string("/proc/self/net/unix")?.lines() {
        if let Some(at) = line.find('@') {
            say(&line[at..])?;
        }
    }
    Ok(())
}
