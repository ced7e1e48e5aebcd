//! What the fuzz targets do, one module per target; each takes bytes and panics when podrun does what it must not.
//!
//! podrun's own tests (`tests/fuzz.rs`) include this file and throw dice at the same functions for a moment.

#![forbid(unsafe_code)]

pub mod config;
pub mod dns;
pub mod log;
pub mod names;
pub mod seccomp;
