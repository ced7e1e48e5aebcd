//! The `podrun` command; and, under another name, the monitor that pause starts.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let argv: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let is_monitor = argv.first().is_some_and(|name| name == podrun::monitor::ARGV0);
    let code = if is_monitor { podrun::monitor::run(&argv) } else { podrun::cli::main(argv) };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
