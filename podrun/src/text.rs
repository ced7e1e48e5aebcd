//! Text that the kernel will read: a C string, made before the clone, since a child may not allocate.

#![forbid(unsafe_code)]

use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::ffi::{CStr, CString};

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Text(CString);

impl Text {
    /// `what` names it in the error that a NUL byte gets.
    pub fn new(what: &str, text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        Self::try_from(text.clone())
            .map_err(|_| Error::new(Kind::Invalid, format!("read {what} {text:?}"), "it holds a NUL byte"))
    }

    pub fn c(&self) -> &CStr {
        &self.0
    }

    /// Of a path what comes after `dir`, which it begins with: absolute from there. A way up may lead anywhere.
    pub fn below(&self, dir: &Self) -> Option<&CStr> {
        let bytes = self.0.as_bytes_with_nul();
        let rest = bytes.strip_prefix(dir.0.as_bytes())?;
        match rest {
            [0] => Some(c"/"),
            [b'/', ..] if !bytes.windows(3).any(|part| part == b"/..") => CStr::from_bytes_with_nul(rest).ok(),
            _ => None,
        }
    }

    pub fn lossy(&self) -> Cow<'_, str> {
        self.0.to_string_lossy()
    }
}

impl TryFrom<String> for Text {
    type Error = std::ffi::NulError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        CString::new(text).map(Self)
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.lossy().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_below_a_directory_or_it_is_not() {
        let text = |path: &str| Text::new("a path", path).unwrap();
        for (path, dir, rest) in [
            ("/proc/sys/net", "/proc", Some(c"/sys/net")),
            ("/proc", "/proc", Some(c"/")),
            ("/process", "/proc", None),
            ("/sys", "/proc", None),
            ("/proc/../etc", "/proc", None),
            ("/", "/proc", None),
        ] {
            assert_eq!(text(path).below(&text(dir)), rest, "{path} {dir}");
        }
    }

    /// A plan is kept as JSON between two runs.
    #[test]
    fn what_was_kept_is_what_was_meant() {
        let text = Text::new("a word", "a b").unwrap();
        let kept = serde_json::to_string(&text).unwrap();
        assert_eq!((kept.as_str(), serde_json::from_str::<Text>(&kept).unwrap()), (r#""a b""#, text));
        assert!(serde_json::from_str::<Text>(r#""a\u0000b""#).is_err());
        assert!(Text::new("a word", "a\0b").unwrap_err().to_string().contains("NUL"));
    }
}
