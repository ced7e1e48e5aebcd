//! The pump as its monitor sees it, and the logs as their readers see them: real processes, real pipes, real files.

mod basics;
mod disk;
mod follow;
mod storm;
mod world;

#[test]
#[ignore = "the pump process of the other tests"]
fn be_a_pump() {
    world::be_a_pump();
}
