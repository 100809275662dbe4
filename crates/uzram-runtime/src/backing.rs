//! What may be a device's backing, as far as the machine is concerned: nothing that a uzram device is behind, since two
//! could come to wait for each other (and one for itself), and no disk that holds something.

use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::Command;

use uzram_control::RunDir;

/// Why a file or a block device cannot be the backing of a device; `dir` is that device's directory, if it has one.
pub(crate) fn check(path: &Path, dir: Option<&Path>) -> Result<(), String> {
    let run = dir.and_then(Path::parent);
    let run = run.map_or_else(RunDir::of_user, RunDir::new);
    // A file that is to be made lies where its directory does.
    let found = path.metadata().ok();
    let place = found.clone().or_else(|| path.parent()?.metadata().ok());
    let Some(place) = place else {
        return Ok(());
    };
    let is_disk = place.file_type().is_block_device();
    let disk = if is_disk {
        place.st_rdev()
    } else {
        place.st_dev()
    };
    let path = path.canonicalize().unwrap_or_else(|_| path.into());
    for entry in run.devices().unwrap_or_default() {
        let node = std::fs::metadata(&entry.record.path).ok();
        let node = node.filter(|node| node.file_type().is_block_device());
        let behind = node.is_some_and(|node| node.st_rdev() == disk);
        if behind || path.starts_with(&entry.dir) {
            let (path, name) = (path.display(), &entry.record.name);
            return Err(format!(
                "{path} lies on {name}: a uzram device cannot be a backing, as it could come to wait for itself"
            ));
        }
    }
    match holds(&path).filter(|_| is_disk) {
        Some(what) => {
            let path = path.display();
            Err(format!(
                "{path} holds {what}, which would be lost: wipefs -a {path} if it is not needed any more"
            ))
        }
        None => Ok(()),
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
