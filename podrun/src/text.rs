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
