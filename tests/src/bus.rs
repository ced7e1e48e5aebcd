//! SASL as sd-bus's server speaks it (D-Bus Specification, "Authentication Protocol"), for tests that stand in for systemd.

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

/// Lets a caller in whom the kernel and he himself call the same; one who gives no name is whom the kernel calls him.
pub fn admit(stream: &mut UnixStream) -> io::Result<bool> {
    let uid = getsockopt(stream, PeerCredentials)?.uid().to_string();
    let name: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut is_known = false;
    loop {
        let line = line(stream)?;
        let words: Vec<&str> = line.trim_start_matches('\0').split_whitespace().collect();
        let answer = match words[..] {
            ["AUTH", "EXTERNAL"] => "DATA",
            ["AUTH", "EXTERNAL", named] | ["DATA", named] if named != name => "REJECTED",
            ["AUTH", "EXTERNAL", _] | ["DATA", ..] => {
                is_known = true;
                "OK 0123456789abcdef"
            }
            ["BEGIN"] => return Ok(is_known),
            _ => "ERROR",
        };
        stream.write_all(format!("{answer}\r\n").as_bytes())?;
    }
}

fn line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}
