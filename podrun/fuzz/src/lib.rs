//! What the fuzz targets do, one module per target; each takes bytes and panics when podrun does what it must not.

#![forbid(unsafe_code)]

pub mod seccomp;
