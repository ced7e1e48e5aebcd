//! The picture: how pods are wired, from the host's links to the containers.
//!
//! [`model`] says what there is and who belongs together, [`gather`] reads it from records and asks the kernel once for the
//! host's links; [`text`], [`svg`] and [`dot`] are functions from the one to a text. Nothing here changes anything.

#![forbid(unsafe_code)]

pub mod dot;
mod gather;
pub mod model;
pub mod svg;
pub mod text;
pub mod watch;

pub use gather::{Seen, look};
