//! Reading logs.
#![forbid(unsafe_code)]
