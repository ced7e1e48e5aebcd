//! The words that both dialects share: one value for one file, and who asked for it.

#![forbid(unsafe_code)]

use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One write into one file of a leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    pub file: String,
    pub value: String,
    /// Where config.json asks for it, for the error message.
    pub asked: String,
    pub absent: Absent,
}

/// What it means when the kernel has no such file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Absent {
    /// The limit cannot be set.
    Fails,
    /// What was asked holds without the file: no limit, or a limit on something this kernel does not have.
    Holds,
    /// Another file says the same, on kernels or schedulers without the first.
    Otherwise { file: String, value: String },
}

impl Setting {
    pub(super) fn new(file: impl Into<String>, value: impl fmt::Display, asked: impl Into<String>) -> Self {
        Self { file: file.into(), value: value.to_string(), asked: asked.into(), absent: Absent::Fails }
    }

    #[must_use]
    pub(super) fn absent(mut self, absent: Absent) -> Self {
        self.absent = absent;
        self
    }

    /// The file may be missing when the value asks for nothing that the host does not do anyway.
    #[must_use]
    pub(super) fn harmless_if(self, harmless: bool) -> Self {
        match harmless {
            true => self.absent(Absent::Holds),
            false => self,
        }
    }
}

/// What a live cgroup has now; the order of writes that change it depends on that. None for a new one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Current {
    /// Bytes in use.
    pub memory_usage: Option<u64>,
    /// v1 `memory.memsw.limit_in_bytes`; None is no limit.
    pub memory_and_swap: Option<u64>,
    /// v2: the limit that `memory.swap.max` is the rest of; None is no limit.
    pub memory_limit: Option<u64>,
    /// v2: the first half of `cpu.max`; None is no limit.
    pub cpu_quota: Option<u64>,
}

/// A number of config.json where -1 stands for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Amount {
    Unlimited,
    Exactly(u64),
}

impl Amount {
    /// 0 means "not set": runc and containerd have read it so for years, and Docker writes it so.
    pub(super) fn read(value: Option<i64>, asked: &str) -> Result<Option<Self>> {
        match value {
            None | Some(0) => Ok(None),
            Some(-1) => Ok(Some(Self::Unlimited)),
            Some(value) => match u64::try_from(value) {
                Ok(value) => Ok(Some(Self::Exactly(value))),
                Err(_) => Err(invalid(asked, format!("{value} is neither a size nor -1"))),
            },
        }
    }

    pub(super) fn v1(self) -> String {
        match self {
            Self::Unlimited => "-1".to_owned(),
            Self::Exactly(value) => value.to_string(),
        }
    }

    pub(super) fn v2(self) -> String {
        match self {
            Self::Unlimited => "max".to_owned(),
            Self::Exactly(value) => value.to_string(),
        }
    }

    pub(super) fn is_above(self, limit: Option<u64>) -> bool {
        match (self, limit) {
            (_, None) => false,
            (Self::Unlimited, Some(_)) => true,
            (Self::Exactly(value), Some(limit)) => value > limit,
        }
    }
}

pub(super) fn invalid(asked: &str, cause: impl fmt::Display) -> Error {
    Error::new(Kind::Invalid, format!("honour {asked}"), cause)
}

pub(super) fn unsupported(asked: &str, cause: impl fmt::Display) -> Error {
    Error::new(Kind::Unsupported, format!("honour {asked}"), cause)
}

/// The JSON path of a resource.
pub(super) fn asked(name: &str) -> String {
    format!("linux.resources.{name}")
}

/// hugetlb's own spelling of a page size: `2MB`, `1GB`.
pub(super) fn page_size<'a>(text: &'a str, asked: &str) -> Result<&'a str> {
    let digits = text.trim_end_matches("KB").trim_end_matches("MB").trim_end_matches("GB");
    let right = digits.len() + 2 == text.len()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && !digits.is_empty()
        && !digits.starts_with('0');
    match right {
        true => Ok(text),
        false => Err(invalid(asked, format!("{text:?} is no page size such as 2MB or 1GB"))),
    }
}

/// A device number from config.json.
pub(super) fn device(major: i64, minor: i64, asked: &str) -> Result<String> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) => Ok(format!("{major}:{minor}")),
        _ => Err(invalid(asked, format!("{major}:{minor} is no device number"))),
    }
}

/// A block I/O weight as the specification has it; 0 is "not set".
pub(super) fn weight(value: Option<u16>, asked: &str) -> Result<Option<u16>> {
    match value {
        None | Some(0) => Ok(None),
        Some(value @ 10..=1000) => Ok(Some(value)),
        Some(value) => Err(invalid(asked, format!("{value} is not between 10 and 1000"))),
    }
}

/// Keeps a list of CPUs or memory nodes from being anything else: it goes into a file as it is.
pub(super) fn list<'a>(text: Option<&'a String>, asked: &str) -> Result<Option<&'a str>> {
    match text.map(String::as_str) {
        None | Some("") => Ok(None),
        Some(text) if text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b',' | b'-' | b':' | b'/')) => {
            Ok(Some(text))
        }
        Some(text) => Err(invalid(asked, format!("{text:?} is no list such as 0-3,6"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_a_size_or_minus_one() {
        let read = |value| Amount::read(value, "linux.resources.memory.limit");
        assert_eq!(read(None).unwrap(), None);
        assert_eq!(read(Some(0)).unwrap(), None);
        assert_eq!(read(Some(-1)).unwrap(), Some(Amount::Unlimited));
        assert_eq!(read(Some(i64::MAX)).unwrap(), Some(Amount::Exactly(9_223_372_036_854_775_807)));
        let err = read(Some(-2)).unwrap_err();
        assert_eq!(err.kind, Kind::Invalid);
        assert!(err.to_string().starts_with("honour linux.resources.memory.limit: -2 is"), "{err}");
    }

    #[test]
    fn page_sizes_cpu_lists_and_device_numbers_are_what_they_say() {
        for good in ["2MB", "1GB", "64KB"] {
            assert_eq!(page_size(good, "x").unwrap(), good);
        }
        for bad in ["", "MB", "2", "2M", "02MB", "2MBMB", "../2MB", "2mb", "-2MB"] {
            assert!(page_size(bad, "x").is_err(), "{bad:?}");
        }
        assert_eq!(list(Some(&"0-3,6".to_owned()), "x").unwrap(), Some("0-3,6"));
        assert!(list(Some(&"0 1\n".to_owned()), "x").is_err());
        assert!(device(-1, 0, "x").is_err());
        assert!(weight(Some(9), "x").is_err() && weight(Some(1001), "x").is_err());
    }
}
