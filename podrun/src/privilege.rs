//! user_namespaces(7): whose root this process is, and so what the kernel lets it do. Asked once, by whoever plans.

#![forbid(unsafe_code)]

use crate::sys::{cred, ns};
use std::sync::OnceLock;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// Root of the machine, as far as that is not withheld.
    Host,
    /// Root of a user namespace: of all that the namespace owns, and of nothing else.
    Namespace,
    /// A user: root of the namespaces that it makes.
    User,
}

impl Privilege {
    /// Remembered: a process of podrun that enters a user namespace has nothing to plan any more.
    pub fn own() -> Self {
        static OWN: OnceLock<Privilege> = OnceLock::new();
        *OWN.get_or_init(Self::probe)
    }

    fn probe() -> Self {
        match (cred::effective_uid(), ns::is_initial_user()) {
            (0, true) => Self::Host,
            (0, false) => Self::Namespace,
            _ => Self::User,
        }
    }
}
