//! What podrun does to pods: the verbs, each from a wish to a result or an error. Prints nothing of its own.

#![forbid(unsafe_code)]

pub mod client;
pub mod create;
pub mod delete;
pub mod exec;
pub mod find;
pub mod foreground;
pub mod forward;
pub mod heal;
pub mod launch;
pub mod map;
pub mod network;
pub mod oci;
pub mod processes;
pub mod prune;
mod relay;
pub mod service;
pub mod terminal;
pub mod update;
pub mod upgrade;
pub mod view;
mod without_cgroup;
