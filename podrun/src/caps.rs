//! capabilities(7) of config.json as the masks that the kernel takes.

#![forbid(unsafe_code)]

use crate::error::{Error, Kind, Result};
use oci_spec::runtime::{Capabilities, LinuxCapabilities};
use serde::{Deserialize, Serialize};

/// The five sets of capabilities(7), as masks of capability numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CapabilitySets {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

impl CapabilitySets {
    /// The same with more. None is inheritable that was not (CVE-2022-29162), and ambient only what is.
    pub fn and(self, more: u64) -> Self {
        Self {
            bounding: self.bounding | more,
            effective: self.effective | more,
            permitted: self.permitted | more,
            ambient: self.ambient | (more & self.inheritable),
            ..self
        }
    }
}

/// Docker's default: what a container needs to behave like a small machine, and no more. NET_RAW is left out: ping works
/// by ping_group_range, and a rogue router advertisement does not (CVE-2020-10749).
pub const DEFAULT: [caps::Capability; 13] = {
    use caps::Capability::*;
    [
        CAP_CHOWN,
        CAP_DAC_OVERRIDE,
        CAP_FSETID,
        CAP_FOWNER,
        CAP_MKNOD,
        CAP_SETGID,
        CAP_SETUID,
        CAP_SETFCAP,
        CAP_SETPCAP,
        CAP_NET_BIND_SERVICE,
        CAP_SYS_CHROOT,
        CAP_KILL,
        CAP_AUDIT_WRITE,
    ]
};

/// The mask of a list of capabilities.
pub fn mask(list: impl IntoIterator<Item = caps::Capability>) -> u64 {
    list.into_iter().fold(0, |mask, one| mask | one.bitmask())
}

/// The names in a mask, for the seccomp profile and for people.
pub fn names(mask: u64) -> Vec<caps::Capability> {
    let mut all: Vec<_> = caps::all().into_iter().filter(|one| mask & one.bitmask() != 0).collect();
    all.sort_by_key(|one| one.index());
    all
}

/// Reads `CAP_NET_ADMIN`, `NET_ADMIN` or `ALL`, as docker's --cap-add has them.
pub fn parse(text: &str) -> Result<u64> {
    let upper = text.to_ascii_uppercase();
    if upper == "ALL" {
        return Ok(mask(caps::all()));
    }
    let name = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    name.parse::<caps::Capability>()
        .map(|one| one.bitmask())
        .map_err(|_| Error::new(Kind::Usage, format!("read the capability {text:?}"), "there is none of this name"))
}

/// The sets that a process of the default profile has; a user other than root has them only bounding, as execve(2) would
/// leave them.
pub fn sets(mask: u64, uid: u32) -> CapabilitySets {
    let own = if uid == 0 { mask } else { 0 };
    CapabilitySets { bounding: mask, effective: own, permitted: own, inheritable: 0, ambient: 0 }
}

/// The sets of config.json, checked against what this host lets podrun give (`available`, its own permitted set).
pub fn from_oci(asked: Option<&LinuxCapabilities>, available: u64) -> Result<CapabilitySets> {
    let Some(asked) = asked else { return Ok(CapabilitySets::default()) };
    let read = |name: &str, set: &Option<Capabilities>| {
        let mask = set.iter().flatten().fold(0, |mask, one| mask | bit(*one));
        check(name, mask, available)
    };
    let permitted = read("permitted", asked.permitted())?;
    let inheritable = read("inheritable", asked.inheritable())?;
    Ok(CapabilitySets {
        bounding: read("bounding", asked.bounding())?,
        effective: read("effective", asked.effective())?,
        permitted,
        inheritable,
        // capabilities(7): none is ambient that is not both; buildah asks for such, and runc passes over them.
        ambient: read("ambient", asked.ambient())? & permitted & inheritable,
    })
}

fn check(set: &str, mask: u64, available: u64) -> Result<u64> {
    let withheld = names(mask & !available);
    match withheld.first() {
        None => Ok(mask),
        Some(first) => {
            let doing = format!("read process.capabilities.{set}");
            Err(Error::new(Kind::Unsupported, doing, format!("{first} is withheld from podrun on this host")))
        }
    }
}

/// The same capability in the words of config.json.
pub fn to_oci(one: caps::Capability) -> Option<oci_spec::runtime::Capability> {
    one.to_string().trim_start_matches("CAP_").parse().ok()
}

/// The bit of a capability in config.json's words.
pub fn from_name(one: oci_spec::runtime::Capability) -> u64 {
    bit(one)
}

fn bit(one: oci_spec::runtime::Capability) -> u64 {
    let name = one.to_string();
    let name = if name.starts_with("CAP_") { name } else { format!("CAP_{name}") };
    name.parse::<caps::Capability>().map_or(0, |one| one.bitmask())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_of_config_json_has_its_bit() {
        let list = |name: &str| serde_json::from_value::<Capabilities>(serde_json::json!([name])).unwrap();
        for one in caps::all() {
            let read: Capabilities = list(&one.to_string());
            assert_eq!(read.into_iter().fold(0, |mask, one| mask | from_name(one)), one.bitmask(), "{one}");
        }
    }

    #[test]
    fn a_mask_is_its_list_however_often_one_is_in_it() {
        use caps::Capability::{CAP_CHOWN, CAP_KILL, CAP_SYS_ADMIN};
        assert_eq!(mask([CAP_CHOWN, CAP_KILL, CAP_CHOWN]), 1 | 1 << 5);
        assert_eq!(names(1 << 21 | 1 << 5 | 1), [CAP_CHOWN, CAP_KILL, CAP_SYS_ADMIN]);
        assert_eq!(mask(names(u64::MAX)), parse("ALL").unwrap());
        assert_eq!(mask([]), 0);
    }

    #[test]
    fn a_user_other_than_root_has_them_only_bounding() {
        let none = CapabilitySets::default();
        assert_eq!(sets(7, 1), CapabilitySets { bounding: 7, ..none });
        assert_eq!(sets(7, 0), CapabilitySets { bounding: 7, effective: 7, permitted: 7, ..none });
    }

    #[test]
    fn each_set_of_config_json_is_its_own() {
        let asked: LinuxCapabilities = serde_json::from_str(
            r#"{"bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_SETUID"],
                "inheritable": ["CAP_SETGID", "CAP_SETUID"], "ambient": ["CAP_FOWNER", "CAP_SETUID", "CAP_SETGID"]}"#,
        )
        .unwrap();
        let found = from_oci(Some(&asked), u64::MAX).unwrap();
        assert_eq!(
            found,
            CapabilitySets {
                bounding: 1 | 1 << 5,
                effective: 1 << 5,
                permitted: 1 << 7,
                inheritable: 1 << 6 | 1 << 7,
                ambient: 1 << 7
            }
        );
        assert_eq!(from_oci(None, 0).unwrap(), CapabilitySets::default());
    }

    /// As runc exec --cap.
    #[test]
    fn what_is_added_is_not_inheritable_and_ambient_only_where_it_was() {
        let before = CapabilitySets { bounding: 3, effective: 1, permitted: 1, inheritable: 5, ambient: 1 };
        let after = CapabilitySets { bounding: 15, effective: 13, permitted: 13, inheritable: 5, ambient: 5 };
        assert_eq!(before.and(12), after);
        assert_eq!(before.and(0), before);
    }

    #[test]
    fn what_the_host_withholds_is_named() {
        let asked: LinuxCapabilities =
            serde_json::from_str(r#"{"permitted": ["CAP_CHOWN", "CAP_SYS_RESOURCE"]}"#).unwrap();
        let err = from_oci(Some(&asked), 1).unwrap_err();
        assert_eq!(
            err.to_string(),
            "read process.capabilities.permitted: CAP_SYS_RESOURCE is withheld from podrun on this host"
        );
    }

    #[test]
    fn names_are_read_as_docker_does() {
        assert_eq!(parse("net_admin").unwrap(), caps::Capability::CAP_NET_ADMIN.bitmask());
        assert_eq!(parse("CAP_NET_ADMIN").unwrap(), caps::Capability::CAP_NET_ADMIN.bitmask());
        assert!(parse("MOON").is_err());
        assert!(caps::all().into_iter().all(|one| to_oci(one).is_some_and(|back| bit(back) == one.bitmask())));
    }
}
