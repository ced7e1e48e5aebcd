//! `podrun oci`: containers that are in no pod, one at a time, as runc's command line has them. Whoever asks is their parent,
//! or the subreaper above; no process of podrun's stays. What is known of one is in two files of its directory.

#![forbid(unsafe_code)]

pub mod birth;
pub mod criu;
pub mod events;
pub mod exec;
pub mod foreground;
pub mod host;
mod ids;
pub mod program;
pub mod record;
pub mod verbs;
