//! Names, parsed once at the door. After it nobody validates again, and every name is safe as a file name.

#![forbid(unsafe_code)]

use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// RFC 1123 label: 1 to 63 of a-z, 0-9 and '-', with no '-' at either end.
fn label(what: &str, text: &str) -> Result<String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let right =
        (1..=63).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('-') && !text.ends_with('-');
    if right {
        return Ok(text.to_owned());
    }
    Err(Error::new(Kind::Usage, format!("read the {what} {text:?}"), "not an RFC 1123 label")
        .hint("use 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both ends"))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            pub fn parse(text: &str) -> Result<Self> {
                label($what, text).map(Self)
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::parse(&text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::parse(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A pod's name, unique within its namespace.
    PodName,
    "pod name"
);
name!(
    /// A container's name, unique within its pod.
    ContainerName,
    "container name"
);
name!(
    /// Kubernetes' kind of namespace: a prefix that keeps names of different owners apart.
    NamespaceName,
    "namespace"
);
name!(
    /// The name of a volume that belongs to a pod.
    VolumeName,
    "volume name"
);

name!(
    /// The name of a network that somebody made.
    NetworkName,
    "network name"
);

name!(
    /// The name of a service, unique within its namespace.
    ServiceName,
    "service name"
);

name!(
    /// One more name of a pod on a network, or what another pod calls it.
    Alias,
    "alias"
);

impl Default for NamespaceName {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

/// A pod's id: 32 hexadecimal digits, made once, never used again. Everything that podrun puts on the host for this
/// pod can be found from it (invariant 5).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct PodId(String);

impl PodId {
    /// 128 bits of the kernel's randomness, in hexadecimal.
    pub fn random(bytes: [u8; 16]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    pub fn parse(text: &str) -> Result<Self> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 32 && text.bytes().all(hex) {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(Kind::Invalid, format!("read the pod id {text:?}"), "not 32 hexadecimal digits"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }

    /// The host end of this pod's n-th network interface: IFNAMSIZ leaves 15 bytes.
    pub fn veth(&self, n: usize) -> String {
        match n {
            0 => format!("veth{}", &self.0[..11]),
            n => format!("vet{:x}{}", n % 16, &self.0[..11]),
        }
    }

    /// Whether some pod's interface could have this name on the host.
    pub fn could_be_veth(name: &str) -> bool {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let digits = name.strip_prefix("veth").or_else(|| name.strip_prefix("vet").and_then(|rest| rest.get(1..)));
        digits.is_some_and(|digits| digits.len() == 11 && digits.bytes().all(hex))
    }
}

impl TryFrom<String> for PodId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_rfc_1123_labels() {
        for good in ["a", "web-1", "0", &"x".repeat(63)] {
            assert!(PodName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "..", "a\n", "ä", &"x".repeat(64)] {
            let err = PodName::parse(bad).unwrap_err();
            assert_eq!(err.kind, Kind::Usage, "{bad:?}");
        }
    }

    #[test]
    fn a_record_cannot_smuggle_a_bad_name_in() {
        assert!(serde_json::from_str::<PodName>(r#""../x""#).is_err());
        assert!(serde_json::from_str::<PodId>(r#""00""#).is_err());
    }

    #[test]
    fn an_id_is_32_hexadecimal_digits_and_nothing_else() {
        let text = "0123456789abcdef".repeat(2);
        let id = PodId::parse(&text).unwrap();
        assert_eq!((id.as_str(), id.short(), id.to_string()), (text.as_str(), "0123456789ab", text.clone()));
        for bad in
            [&text[1..], &format!("{text}0"), &text.replace('a', "A"), &text.replace('a', "g"), &text.replace('0', "/")]
        {
            assert!(PodId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_veth_fits_ifnamsiz() {
        let id = PodId::random([0xab; 16]);
        assert_eq!((id.veth(0).as_str(), id.veth(15).as_str()), ("vethabababababa", "vetfabababababa"));
        assert!(PodId::could_be_veth(&id.veth(0)) && PodId::could_be_veth(&id.veth(3)));
        assert!(!PodId::could_be_veth("veth0") && !PodId::could_be_veth("vethABABABABABA"));
    }
}
