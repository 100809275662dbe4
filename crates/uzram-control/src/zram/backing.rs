//! Holding a block device as the backing of a device that is not initialised yet.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, SeekFrom, seek};

use super::Errno;
use super::device::Zram;

const PAGE: u64 = uzram::PAGE_SIZE as u64;

pub(super) fn is_block_device(path: &Path) -> bool {
    let found = path.metadata();
    found.is_ok_and(|found| found.file_type().is_block_device())
}

/// Opens a block device for this process alone, as the kernel does. Returns its canonical path, too.
pub(super) fn take(path: &Path) -> Result<(File, PathBuf), Errno> {
    // To the kernel an empty path is the current directory. A relative one is refused, since this process has another
    // directory than the writer.
    if path.as_os_str().is_empty() {
        return Err(Errno::ISDIR);
    }
    if !path.is_absolute() {
        return Err(Errno::NOENT);
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags(OFlags::EXCL.bits() as i32 | OFlags::NONBLOCK.bits() as i32);
    let refused = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let file = options.open(path).map_err(refused)?;
    let kind = file.metadata().map_err(refused)?.file_type();
    if !kind.is_block_device() {
        return Err(Errno::NOTBLK);
    }
    if seek(&file, SeekFrom::End(0))? < PAGE {
        return Err(Errno::INVAL);
    }
    let path = path.canonicalize().map_err(refused)?;
    Ok((file, path))
}

/// Opens the backing of an uninitialised device again. If another process took it meanwhile, setting `disksize` fails.
pub(super) fn hold_again(zram: &Zram) {
    let backing = zram.state().config.backing.clone();
    if let Some(backing) = backing.filter(|backing| is_block_device(&backing.path)) {
        zram.state_mut().held = take(&backing.path).ok().map(|(file, _)| file);
    }
}
