//! The `podrun` command.
fn main() {}
