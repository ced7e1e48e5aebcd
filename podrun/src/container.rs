//! Containers: how one is planned, born, and entered again by exec.

#![forbid(unsafe_code)]

pub mod alone;
pub mod attributes;
pub mod birth;
mod copy_up;
pub mod hooks;
pub mod init;
pub mod labels;
pub mod listener;
pub mod plan;
pub mod planning;
pub mod resctrl;
