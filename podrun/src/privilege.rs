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

/// One line of uid_map: so many ids, from which inside and which outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

impl Extent {
    /// Lines as the kernel has them; what is none is passed over.
    pub fn read(text: &str) -> Vec<Self> {
        let numbers = |line: &str| line.split_whitespace().map(str::parse).collect::<Result<Vec<_>, _>>().ok();
        let extent = |line: &str| match numbers(line)?[..] {
            [inside, outside, count] => Some(Self { inside, outside, count }),
            _ => None,
        };
        text.lines().filter_map(extent).collect()
    }

    /// What an id inside is outside.
    pub fn outside_of(&self, id: u32) -> Option<u32> {
        let offset = id.checked_sub(self.inside).filter(|offset| *offset < self.count)?;
        self.outside.checked_add(offset)
    }
}

/// What whoever made our user namespace knows us as.
pub fn outer_uid() -> u32 {
    let own = cred::effective_uid();
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    Extent::read(&map).iter().find_map(|extent| extent.outside_of(own)).unwrap_or(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_map_are_read_and_what_is_none_is_passed_over() {
        let found = Extent::read("         0       1000          1\n1 100000 65536\n\n1 2\nx 1 2\n1 2 3 4\n");
        let extent = |inside, outside, count| Extent { inside, outside, count };
        assert_eq!(found, [extent(0, 1000, 1), extent(1, 100_000, 65536)]);
    }

    #[test]
    fn an_id_inside_is_another_one_outside() {
        let map = Extent::read("0 1000 1\n1 100000 65536\n");
        let outside = |id| map.iter().find_map(|extent| extent.outside_of(id));
        assert_eq!(
            [outside(0), outside(1), outside(65536), outside(65537)],
            [Some(1000), Some(100_000), Some(165_535), None]
        );
    }
}
