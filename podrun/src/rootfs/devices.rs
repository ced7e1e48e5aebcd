//! The devices and links that every container has (runtime-spec, config-linux.md "Default Devices"), and those that a
//! bundle adds.

#![forbid(unsafe_code)]

use super::{Component, Device, Follow, Link, Mount, Place, PointKind, Source};
use crate::error::{Error, Kind, Result};
use crate::text::Text;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

/// Name, major, minor: all character devices, for everybody.
const DEFAULT: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// /dev/fd and its kin; the specification asks for them after mounts are made.
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// The default devices, and after them what the bundle lists; one that it lists under a default's path replaces it.
pub fn plan(asked: &[LinuxDevice]) -> Result<Vec<Device>> {
    let mut devices = Vec::with_capacity(DEFAULT.len() + asked.len());
    for (name, major, minor) in DEFAULT {
        let path = format!("/dev/{name}");
        if !asked.iter().any(|device| *device.path() == *path) {
            devices.push(device(&path, libc::S_IFCHR | 0o666, (major, minor), (0, 0))?);
        }
    }
    for (index, one) in asked.iter().enumerate() {
        devices.push(from_oci(index, one)?);
    }
    Ok(devices)
}

/// The default links; /dev/ptmx only where the container has a devpts.
pub fn links(has_devpts: bool) -> Result<Vec<Link>> {
    let ptmx = has_devpts.then_some(("ptmx", "pts/ptmx"));
    LINKS
        .into_iter()
        .chain(ptmx)
        .map(|(name, target)| {
            let at = Component { parent: Text::new("a link", "/dev")?, name: Text::new("a link", name)? };
            Ok(Link { at, target: Text::new("a link", target)? })
        })
        .collect()
}

fn from_oci(index: usize, one: &LinuxDevice) -> Result<Device> {
    let path = one.path().to_string_lossy();
    let fail =
        |field: &str, cause: &str| Error::new(Kind::Invalid, format!("read linux.devices[{index}].{field}"), cause);
    let kind = match one.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => return Err(fail("type", "expected \"c\", \"b\", \"u\" or \"p\"")),
    };
    let number = |field, value: i64| u32::try_from(value).map_err(|_| fail(field, "not a device number"));
    let numbers = match kind {
        libc::S_IFIFO => (0, 0),
        _ => (number("major", one.major())?, number("minor", one.minor())?),
    };
    let mode = one.file_mode().unwrap_or(0o666) & 0o7777;
    device(&path, kind | mode, numbers, (one.uid().unwrap_or(0), one.gid().unwrap_or(0)))
}

/// The host's own device at the same path, for whom the kernel lets make none.
pub fn bound(device: Device) -> Result<Mount> {
    let path = match device.at.path.lossy() {
        dir if dir == "/" => format!("/{}", device.name.name.lossy()),
        dir => format!("{dir}/{}", device.name.name.lossy()),
    };
    Ok(Mount {
        source: Source::Bind { path: Text::new("a device", path.as_str())?, recursive: false },
        at: Place::new("a device", &path, PointKind::File)?,
        set: 0,
        clear: 0,
        set_below: 0,
        clear_below: 0,
        propagation: 0,
        follow: Follow::NoLinks,
        idmap: None,
    })
}

fn device(path: &str, mode: u32, (major, minor): (u32, u32), (uid, gid): (u32, u32)) -> Result<Device> {
    let place = Place::new("a device", path, PointKind::File)?;
    let Some(name) = place.last().cloned() else {
        return Err(Error::new(Kind::Invalid, format!("read the device path {path:?}"), "it names no file"));
    };
    let at = Place::new("a device", &name.parent.lossy(), PointKind::Directory)?;
    Ok(Device { at, name, mode, device: libc::makedev(major, minor), uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(json: &str) -> Vec<LinuxDevice> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_defaults_are_there_and_a_bundle_may_replace_one() {
        let devices =
            plan(&asked(r#"[{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 384, "uid": 7}]"#))
                .unwrap();
        assert_eq!(devices.len(), 6);
        let null = devices.iter().find(|device| device.name.name.lossy() == "null").unwrap();
        assert_eq!((null.mode, null.device, null.uid), (libc::S_IFCHR | 0o600, libc::makedev(1, 3), 7));
        let tty = devices.iter().find(|device| device.name.name.lossy() == "tty").unwrap();
        assert_eq!((tty.mode, tty.device, tty.uid, tty.gid), (0o20666, libc::makedev(5, 0), 0, 0));
    }

    #[test]
    fn a_device_is_as_asked_for_and_has_dockers_mode_without_one() {
        let devices = plan(&asked(
            r#"[{"path": "/dev/p", "type": "p"}, {"path": "/dev/q", "type": "p", "major": -1, "minor": 1},
                {"path": "/dev/x/sda", "type": "b", "major": 8, "minor": 1, "fileMode": 504, "uid": 7, "gid": 8},
                {"path": "/dev/u", "type": "u", "major": 10, "minor": 200}]"#,
        ))
        .unwrap();
        let of = |name: &str| {
            let found = devices.iter().find(|device| device.name.name.lossy() == name).unwrap();
            (found.mode, found.device, found.uid, found.gid, found.at.path.lossy().into_owned())
        };
        assert_eq!(of("p"), (libc::S_IFIFO | 0o666, 0, 0, 0, "/dev".into()));
        assert_eq!(of("q").1, 0, "a FIFO has no number, whatever is written (runtime-spec, config-linux.md)");
        assert_eq!(of("sda"), (libc::S_IFBLK | 0o770, libc::makedev(8, 1), 7, 8, "/dev/x".into()));
        assert_eq!(of("u"), (libc::S_IFCHR | 0o666, libc::makedev(10, 200), 0, 0, "/dev".into()));
    }

    #[test]
    fn a_device_without_numbers_or_with_a_wild_type_is_refused() {
        for bad in [
            r#"[{"path": "/dev/x", "type": "a", "major": 1, "minor": 1}]"#,
            r#"[{"path": "/dev/x", "type": "c", "major": -1, "minor": 1}]"#,
            r#"[{"path": "/", "type": "c", "major": 1, "minor": 1}]"#,
            r#"[{"path": "/dev/../x", "type": "c", "major": 1, "minor": 1}]"#,
        ] {
            assert!(plan(&asked(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn ptmx_comes_with_devpts() {
        assert_eq!(links(false).unwrap().len(), 4);
        assert!(links(true).unwrap().iter().any(|link| link.target.lossy() == "pts/ptmx"));
    }
}
