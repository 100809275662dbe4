//! File systems on new devices: which `mkfs` takes what, what can be checked beforehand, and making and mounting one.

use std::ffi::OsStr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{Group, User};
use uzram_spec::{Failure, FailureKind, Result};

/// A file system that is to be made on a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// Its type, as `mkfs.TYPE` has it.
    pub kind: String,
    /// Options of `mkfs`.
    pub mkfs_options: Vec<String>,
    /// Its label.
    pub label: Option<String>,
    /// Where it is mounted, and how.
    pub mount: Option<Mount>,
}

/// Where a file system is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// The directory, which is made if it is not there.
    pub at: PathBuf,
    /// Options of `mount`; empty for none.
    pub options: String,
    /// Whom its root belongs to: a user, or `user:group`.
    pub owner: Option<String>,
    /// The mode of its root.
    pub mode: Option<u32>,
}

/// What the `mkfs` of a type takes.
struct Mkfs {
    kind: &'static str,
    /// What keeps it from talking, if anything does.
    quiet: &'static [&'static str],
    /// What a label follows, if it takes one.
    label: Option<&'static str>,
}

const fn mkfs(kind: &'static str, quiet: &'static [&'static str], label: &'static str) -> Mkfs {
    let label = if label.is_empty() { None } else { Some(label) };
    Mkfs { kind, quiet, label }
}

/// Types whose options are known. That of any other is made with the options that it is given, and no others.
const KNOWN: &[Mkfs] = &[
    mkfs("bcachefs", &["-q"], "-L"),
    mkfs("btrfs", &["-q"], "-L"),
    mkfs("exfat", &[], "-L"),
    mkfs("ext2", &["-q"], "-L"),
    mkfs("ext3", &["-q"], "-L"),
    mkfs("ext4", &["-q"], "-L"),
    mkfs("f2fs", &["-q"], "-l"),
    mkfs("fat", &[], "-n"),
    mkfs("jfs", &["-q"], "-L"),
    mkfs("minix", &[], ""),
    mkfs("msdos", &[], "-n"),
    mkfs("nilfs2", &["-q"], "-L"),
    mkfs("ntfs", &["-q"], "-L"),
    mkfs("vfat", &[], "-n"),
    mkfs("xfs", &["-q"], "-L"),
];

impl FileSystem {
    /// Refuses what can be seen to be impossible. Runs nothing that changes anything.
    pub fn check(&self) -> Result {
        self.program()?;
        self.mkfs_arguments()?;
        let Some(mount) = &self.mount else {
            return Ok(());
        };
        if let Some(owner) = &mount.owner {
            owner_of(owner)?;
        }
        if mount.at.exists() && !mount.at.is_dir() {
            let message = format!("mount-point: {} is no directory", mount.at.display());
            return Err(Failure::usage(message));
        }
        Ok(())
    }

    /// Makes the file system on a device, and mounts it. A directory that was made for that goes again if it fails.
    pub fn make(&self, node: &str) -> Result {
        let mut make = Command::new(self.program()?);
        run(make.args(self.mkfs_arguments()?).arg(node))?;
        match &self.mount {
            Some(mount) => mount.mount(&self.kind, node),
            None => Ok(()),
        }
    }

    fn program(&self) -> Result<PathBuf> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if self.kind.is_empty() || !self.kind.chars().all(plain) || self.kind == "swap" {
            let message = format!(
                "fs-type: '{}' is no file system: it takes one that there is a mkfs of, such as ext4",
                self.kind
            );
            return Err(Failure::usage(message));
        }
        let program = format!("mkfs.{}", self.kind);
        find(&program).ok_or_else(|| {
            let message = format!("fs-type: no {program} on this machine");
            Failure::impossible(message)
        })
    }

    fn mkfs_arguments(&self) -> Result<Vec<String>> {
        let known = KNOWN.iter().find(|known| known.kind == self.kind);
        let quiet = known.map_or(&[][..], |known| known.quiet);
        let mut arguments: Vec<String> = quiet.iter().map(|&option| option.into()).collect();
        if let Some(label) = &self.label {
            let Some(option) = known.and_then(|known| known.label) else {
                let message = format!(
                    "label: it is not known how {} takes one: say it with mkfs-options",
                    self.kind
                );
                return Err(Failure::usage(message));
            };
            arguments.extend([option.into(), label.clone()]);
        }
        arguments.extend(self.mkfs_options.iter().cloned());
        Ok(arguments)
    }
}

impl FileSystem {
    /// Mounts what is there already, of whatever type: nothing is made on a device that has contents.
    pub fn mount_what_is_there(&self, node: &str) -> Result {
        match &self.mount {
            Some(mount) => mount.mount("auto", node),
            None => Ok(()),
        }
    }
}

impl Mount {
    /// Reads an absolute path that does not climb. `/./` and doubled slashes mean nothing.
    pub fn point(text: &str) -> Result<PathBuf> {
        let path = Path::new(text);
        if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
            let message = format!("mount-point: '{text}': an absolute path without '..'");
            return Err(Failure::usage(message));
        }
        Ok(path.components().collect())
    }

    /// Reads a mount point that hides nothing which the system needs.
    pub fn place(text: &str) -> Result<PathBuf> {
        let path = Mount::point(text)?;
        let mut kernels = ["/proc", "/sys", "/dev"].into_iter();
        match kernels.find(|at| path.starts_with(at)) {
            _ if path == Path::new("/") => Err(Failure::usage(
                "mount-point: '/': whatever is below it would be hidden",
            )),
            Some(kernel) if path != Path::new("/dev/shm") => Err(Failure::usage(format!(
                "mount-point: '{text}': {kernel} is the kernel's"
            ))),
            _ => Ok(path),
        }
    }

    /// Reads a mode in octal.
    pub fn mode(text: &str) -> Result<u32> {
        let mode = u32::from_str_radix(text, 8).ok();
        mode.filter(|mode| *mode <= 0o7777 && !text.starts_with('+'))
            .ok_or_else(|| {
                let message =
                    format!("mount-mode: '{text}' is no mode: it takes one in octal, such as 1777");
                Failure::usage(message)
            })
    }

    fn mount(&self, kind: &str, node: &str) -> Result {
        let new = !self.at.exists();
        let failed = |error: std::io::Error| {
            let message = format!("mount-point: making {}: {error}", self.at.display());
            Failure::new(FailureKind::from_io(&error), message)
        };
        std::fs::create_dir_all(&self.at).map_err(failed)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", kind]);
        if !self.options.is_empty() {
            mount.args(["-o", &self.options]);
        }
        let mounted = run(mount.arg(node).arg(&self.at)).and_then(|()| {
            self.hand_over().inspect_err(|_| {
                let _ = run(Command::new("umount").arg(&self.at));
            })
        });
        mounted.inspect_err(|_| {
            if new {
                let _ = std::fs::remove_dir(&self.at);
            }
        })
    }

    /// Gives the root to whom it is to belong, with the mode that it is to have.
    fn hand_over(&self) -> Result {
        if let Some(owner) = &self.owner {
            let (user, group) = owner_of(owner)?;
            chown(&self.at, Some(user), group).map_err(|error| {
                let message = format!("mount-owner: {}: {error}", self.at.display());
                Failure::new(FailureKind::from_io(&error), message)
            })?;
        }
        if let Some(mode) = self.mode {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&self.at, permissions).map_err(|error| {
                let message = format!("mount-mode: {}: {error}", self.at.display());
                Failure::new(FailureKind::from_io(&error), message)
            })?;
        }
        Ok(())
    }
}

/// The numbers of a user, and of a group if there is one, each by name or number. A number need not be known.
fn owner_of(owner: &str) -> Result<(u32, Option<u32>)> {
    let (user, group) = match owner.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (owner, None),
    };
    let number = |text: &str| text.parse::<u32>().ok().filter(|_| !text.starts_with('+'));
    let user = number(user).or_else(|| {
        let known = User::from_name(user).ok().flatten();
        known.map(|user| user.uid.as_raw())
    });
    let group = group.map(|group| {
        number(group).or_else(|| {
            let known = Group::from_name(group).ok().flatten();
            known.map(|group| group.gid.as_raw())
        })
    });
    match (user, group) {
        (Some(user), None) => Ok((user, None)),
        (Some(user), Some(Some(group))) => Ok((user, Some(group))),
        _ => Err(Failure::usage(format!(
            "mount-owner: '{owner}': it takes a user of this machine, or user:group, by name or number"
        ))),
    }
}

/// A program on the path, or where administrators' programs are.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

pub(crate) fn run(command: &mut Command) -> Result {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(OsStr::new(""))
        .to_string_lossy()
        .into_owned();
    let failed = |what: String| Failure::failed(format!("{program}: {what}"));
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    Err(failed(match said.as_slice() {
        [] => output.status.to_string(),
        said => said.join("; "),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(kind: &str, label: Option<&str>) -> Result<String> {
        let filesystem = FileSystem {
            kind: kind.into(),
            label: label.map(str::to_owned),
            mkfs_options: vec!["-x".into()],
            mount: None,
        };
        Ok(filesystem.mkfs_arguments()?.join(" "))
    }

    #[test]
    fn each_mkfs_gets_what_it_knows() {
        assert_eq!(arguments("ext4", Some("l")).unwrap(), "-q -L l -x");
        assert_eq!(arguments("vfat", Some("l")).unwrap(), "-n l -x");
        assert_eq!(arguments("minix", None).unwrap(), "-x");
        assert_eq!(arguments("other", None).unwrap(), "-x");
        assert!(arguments("minix", Some("l")).is_err());
        assert!(arguments("other", Some("l")).is_err());
    }

    #[test]
    fn nonsense_is_seen_before_anything_is_made() {
        for kind in ["", "swap", "../x", "e xt4", "no-such-fs"] {
            let filesystem = FileSystem {
                kind: kind.into(),
                ..FileSystem::default()
            };
            assert!(filesystem.check().is_err(), "{kind}");
        }
        for owner in [
            "no-such-user",
            "root:no-such-group",
            "",
            ":",
            "root:",
            "0:x y",
            "+1",
        ] {
            assert!(owner_of(owner).is_err(), "{owner}");
        }
        for owner in ["root", "0", "0:0", "root:root", "12345"] {
            owner_of(owner).unwrap();
        }
        assert_eq!(Mount::mode("1777"), Ok(0o1777));
        for mode in ["", "8", "0x7", "-1", "+7", "17777", "rwx"] {
            assert!(Mount::mode(mode).is_err(), "{mode}");
        }
        assert_eq!(Mount::point("/a/.//b/"), Ok("/a/b".into()));
        for point in ["a", "", "/a/../b", "./a"] {
            assert!(Mount::point(point).is_err(), "{point}");
        }
    }
}
