//! doctor for users: filled below.

#![forbid(unsafe_code)]
