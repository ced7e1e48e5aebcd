//! Labels of security modules: the AppArmor profile and the SELinux context that a program is executed under.
//!
//! They are written where execve(2) looks for them, /proc/self/attr, while /proc is still the host's own: one of the
//! container's might be anything (CVE-2019-16884, CVE-2025-52881). A host without the module refuses when the plan is made.

#![forbid(unsafe_code)]

use super::init::{Failure, Step, at, write_file};
use crate::error::{Error, Kind, Result};
use crate::text::Text;
use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a plan writes, as the module reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Labels {
    pub apparmor: Option<Text>,
    pub selinux: Option<Text>,
}

/// A security module that has labels to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    AppArmor,
    Selinux,
}

impl Module {
    /// Whether this host's kernel runs it.
    pub fn is_here(self) -> bool {
        match self {
            Self::AppArmor => {
                std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.first() == Some(&b'Y'))
            }
            Self::Selinux => Path::new("/sys/fs/selinux/enforce").exists(),
        }
    }

    /// A label of a document: the one that is asked for, if it may be.
    pub fn label(self, path: &str, asked: Option<&str>, is_here: &dyn Fn(Self) -> bool) -> Result<Option<String>> {
        let Some(label) = asked.filter(|label| !label.is_empty()) else { return Ok(None) };
        let doing = || format!("read {path} {label:?}");
        if label.chars().any(char::is_control) {
            return Err(Error::new(Kind::Invalid, doing(), "it holds a control character"));
        }
        match is_here(self) {
            true => Ok(Some(label.to_owned())),
            false => Err(Error::new(Kind::Unsupported, doing(), format!("this host has no {self}"))),
        }
    }
}

impl std::fmt::Display for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AppArmor => "AppArmor",
            Self::Selinux => "SELinux",
        })
    }
}

pub fn plan(process: &Process, is_here: &dyn Fn(Module) -> bool) -> Result<Labels> {
    Labels::named(process.apparmor_profile().as_deref(), process.selinux_label().as_deref(), is_here)
}

impl Labels {
    pub fn named(apparmor: Option<&str>, selinux: Option<&str>, is_here: &dyn Fn(Module) -> bool) -> Result<Self> {
        let path = "process.apparmorProfile";
        let profile = Module::AppArmor.label(path, apparmor, is_here)?;
        let context = Module::Selinux.label("process.selinuxLabel", selinux, is_here)?;
        Ok(Self {
            // aa_change_onexec(2)'s word.
            apparmor: profile.map(|profile| Text::new(path, format!("exec {profile}"))).transpose()?,
            selinux: context.map(|context| Text::new("process.selinuxLabel", context)).transpose()?,
        })
    }

    /// For the next execve, and for the keyring that is made before it.
    pub(super) fn take_on(&self) -> Result<(), Failure> {
        if let Some(profile) = &self.apparmor {
            let profile = profile.c().to_bytes();
            // Its own directory came with Linux 5.8.
            match write_file(c"/proc/self/attr/apparmor/exec", profile) {
                Err(err) if err.raw_os_error() == Some(libc::ENOENT) => write_file(c"/proc/self/attr/exec", profile),
                other => other,
            }
            .map_err(at(Step::AppArmor))?;
        }
        if let Some(context) = &self.selinux {
            let context = context.c().to_bytes();
            write_file(c"/proc/self/attr/keycreate", context).map_err(at(Step::Selinux))?;
            write_file(c"/proc/self/attr/exec", context).map_err(at(Step::Selinux))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(process: &str, here: &[Module]) -> Result<Labels> {
        let process = format!(r#"{{"cwd": "/", "user": {{"uid": 0, "gid": 0}}, {process}}}"#);
        plan(&serde_json::from_str(&process).unwrap(), &|module| here.contains(&module))
    }

    #[test]
    fn a_label_is_for_the_module_that_the_host_has() {
        let text = |text: &str| Some(Text::new("", text).unwrap());
        let (profile, label) = (r#""apparmorProfile": "a b""#, r#""selinuxLabel": "u:r:t:s0""#);
        let found = planned(profile, &[Module::AppArmor]).unwrap();
        assert_eq!(found, Labels { apparmor: text("exec a b"), selinux: None });
        let found = planned(label, &[Module::Selinux]).unwrap();
        assert_eq!(found, Labels { apparmor: None, selinux: text("u:r:t:s0") });
        let refused = |process: &str, here: Module| planned(process, &[here]).unwrap_err().to_string();
        let words = r#"read process.apparmorProfile "a b": this host has no AppArmor"#;
        assert_eq!(refused(profile, Module::Selinux), words);
        assert_eq!(
            refused(label, Module::AppArmor),
            r#"read process.selinuxLabel "u:r:t:s0": this host has no SELinux"#
        );
        assert_eq!(planned(r#""apparmorProfile": "", "selinuxLabel": """#, &[]).unwrap(), Labels::default());
        let two = refused(r#""apparmorProfile": "a\nexec b""#, Module::AppArmor);
        assert!(two.contains("it holds a control character"), "{two}");
    }

    #[test]
    fn a_plan_of_an_earlier_build_has_none() {
        assert_eq!(serde_json::from_str::<Labels>("{}").unwrap(), Labels::default());
    }
}
