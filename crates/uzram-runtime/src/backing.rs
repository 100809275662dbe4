//! What may be a device's backing, as far as the machine is concerned: nothing that a uzram device is behind, since two
//! could come to wait for each other (and one for itself), and no disk that holds something.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use uzram_blockdev::{MountPoint, Survey, chain};
use uzram_control::RunDir;
use uzram_spec::BackingSpec;

use crate::users;

/// Whether a mount is a device's private FUSE mount, of whatever run directory: see `uzram-fuse`.
fn is_uzrams(mount: &MountPoint) -> bool {
    let source = mount.source.to_str().unwrap_or_default();
    mount.kind.starts_with("fuse") && source.starts_with("uzram:")
}

/// Why a file or a block device cannot be the backing of a device; `dir` is that device's directory, if it has one.
pub(crate) fn check(path: &Path, dir: Option<&Path>) -> Result<(), String> {
    let run = dir.and_then(Path::parent);
    let run = run.map_or_else(RunDir::of_user, RunDir::new);
    check_beneath(path, &run)?;
    let path = path.canonicalize().unwrap_or_else(|_| path.into());
    let found = path.metadata();
    let is_disk = found.is_ok_and(|found| found.file_type().is_block_device());
    match is_disk.then(|| holds(&path)).flatten() {
        Some(what) => {
            let path = path.display();
            Err(format!(
                "{path} holds {what}, which would be lost: wipefs -a {path} if it is not needed any more"
            ))
        }
        None => Ok(()),
    }
}

/// Refuses what lies on a uzram device, however deep.
pub(crate) fn check_beneath(path: &Path, run: &RunDir) -> Result<(), String> {
    let entries = run.devices().unwrap_or_default();
    let survey = Survey::new();
    let layers = survey.beneath(&real(path));
    for (index, layer) in layers.iter().enumerate() {
        let own = entries.iter().find(|entry| match layer.device {
            Some(number) => users::has_number(&survey, entry, number),
            None => layer.path.starts_with(&entry.dir),
        });
        let name = match own {
            Some(entry) => entry.record.name.clone(),
            None if layer.mounts.iter().any(is_uzrams) => "another uzram device".into(),
            None => continue,
        };
        let path = path.display();
        let way = match index {
            0 => String::new(),
            _ => format!(" ({})", chain(&layers, index)),
        };
        return Err(format!(
            "{path} lies on {name}{way}: a uzram device cannot be a backing, as it could come to wait for itself"
        ));
    }
    Ok(())
}

/// A path without links; a file that is to be made lies where its directory does.
fn real(path: &Path) -> PathBuf {
    let to_be_made = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    let found = path.canonicalize().ok();
    found.or_else(to_be_made).unwrap_or_else(|| path.into())
}

/// Refuses a file or device that is not there and cannot be made.
pub(crate) fn check_there(given: &BackingSpec) -> Result<(), String> {
    let shown = given.path.display();
    match (given.path.metadata(), given.size) {
        (Ok(meta), _) if meta.is_file() || meta.file_type().is_block_device() => Ok(()),
        (Ok(_), _) => Err(format!(
            "backing: {shown} is neither a file nor a block device"
        )),
        (Err(error), None) => Err(format!(
            "backing: {shown}: {error}; a file is made where it has a size, as in {shown},8G"
        )),
        (Err(_), Some(_)) => match given.path.parent() {
            Some(directory) if !directory.is_dir() => Err(format!(
                "backing: {}: no such directory",
                directory.display()
            )),
            _ => Ok(()),
        },
    }
}

/// The file system or partition table on a disk, as blkid finds it. Without blkid none is found.
fn holds(path: &Path) -> Option<String> {
    let mut probe = Command::new("blkid");
    probe.args(["-p", "-o", "export"]).arg(path);
    let found = String::from_utf8(probe.output().ok()?.stdout).ok()?;
    let value = |key: &str| {
        found
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .map(str::to_owned)
    };
    let table = || value("PTTYPE=").map(|table| format!("a {table} partition table"));
    value("TYPE=").or_else(table)
}
