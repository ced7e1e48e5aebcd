//! The `podrun` command; and, under other names, the monitor that pause starts, a network's name server, and an OCI runtime.

#![forbid(unsafe_code)]

use podrun::cli::oci;
use std::process::ExitCode;

fn main() -> ExitCode {
    let argv: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    podrun::net::names::this_program_serves();
    let code = match argv.first().map(String::as_str) {
        Some(podrun::monitor::ARGV0) => podrun::monitor::run(&argv),
        Some(podrun::net::names::ARGV0) => podrun::names::run(&argv),
        Some(name) if oci::NAMES.contains(&base(name)) => oci::main(argv.into_iter().skip(1).collect()),
        _ => podrun::cli::main(argv),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn base(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or_default()
}
