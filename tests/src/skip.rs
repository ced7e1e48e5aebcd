//! A test that cannot run here says so, on the real stderr, and is counted at the end.

use crate::sys;
use std::io::Write;
use std::sync::{Mutex, Once};

static SKIPPED: Mutex<Vec<String>> = Mutex::new(Vec::new());
static CLOSING: Once = Once::new();

/// What [`skip!`](crate::skip) calls.
pub fn note_skip(why: &str) {
    let name = std::thread::current().name().unwrap_or("main").to_owned();
    // Not eprintln!: libtest would keep it to itself, since a skipped test passes.
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {why}");
    SKIPPED.lock().expect("no holder panics").push(name);
    CLOSING.call_once(|| sys::at_exit(closing_line));
}

extern "C" fn closing_line() {
    if let Ok(skipped) = SKIPPED.lock() {
        let _ = writeln!(std::io::stderr(), "{} skipped: {}", skipped.len(), skipped.join(", "));
    }
}
