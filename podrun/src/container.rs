//! Containers: how one is planned, born, and entered again by exec.

pub mod birth;
pub mod init;
pub mod plan;
pub mod planning;
