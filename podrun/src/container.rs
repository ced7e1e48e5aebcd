//! Containers: how one is planned, born, and entered again by exec.

#![forbid(unsafe_code)]

pub mod alone;
pub mod birth;
pub mod hooks;
pub mod init;
pub mod plan;
pub mod planning;
