//! A file on tmpfs, and any given path: a block device or a file.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{OFlags, SeekFrom, fstatfs, seek};
use uzram_control::size;

use super::{Means, Probe, Target, TargetPath};

pub(in super::super) const TMPFS: &str = "/dev/shm";
/// `TMPFS_MAGIC`.
pub(in super::super) const MAGIC: u64 = 0x0102_1994;

/// A file on tmpfs: RAM without compression.
pub(super) fn on_tmpfs(means: &Means<'_>) -> Result<Given> {
    let path = Path::new(TMPFS).join(format!("uzram-bench-{}", std::process::id()));
    let given = Given::new(&path, means)?;
    ensure!(given.in_memory, "{TMPFS} is no tmpfs here");
    Ok(given)
}

fn takes_direct(path: &Path) -> bool {
    let mut options = OpenOptions::new();
    let direct = OFlags::DIRECT.bits() as i32;
    options.read(true).custom_flags(direct).open(path).is_ok()
}

/// Bytes that a file occupies.
pub(super) fn blocks(path: &Path) -> std::io::Result<u64> {
    Ok(fs::metadata(path)?.blocks() * 512)
}

/// A given path. A missing file is created, and removed afterwards.
pub(super) struct Given {
    path: PathBuf,
    direct: bool,
    made: bool,
    /// Whether the file is on tmpfs.
    in_memory: bool,
}

impl Given {
    pub(super) fn new(path: &Path, means: &Means<'_>) -> Result<Given> {
        let shown = path.display();
        let made = !path.exists();
        let file = if made {
            ensure!(
                !path.starts_with("/dev") || path.starts_with(TMPFS),
                "{shown} is not there"
            );
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path);
            let file = file.with_context(|| format!("making {shown}"))?;
            file.set_len(means.size_bytes)?;
            file
        } else {
            let what = fs::metadata(path).with_context(|| path.display().to_string())?;
            if what.file_type().is_block_device() {
                if let Some(by) = uzram_blockdev::busy(path) {
                    bail!("{shown} is in use: {by}");
                }
            } else if !what.is_file() {
                bail!("{shown} is neither a block device nor a file");
            }
            ensure!(
                means.overwrite,
                "{shown} is there already, and what it holds would be lost: say --overwrite if it may be"
            );
            let file = File::options().read(true).write(true).open(path);
            file.with_context(|| format!("opening {shown}"))?
        };
        let given = Given {
            path: path.into(),
            direct: takes_direct(path),
            made,
            in_memory: fstatfs(&file)?.f_type as u64 == MAGIC && fs::metadata(path)?.is_file(),
        };
        let bytes = seek(&file, SeekFrom::End(0))?;
        ensure!(
            bytes >= means.size_bytes,
            "{shown} has {}, less than the {} of --size",
            size::human(bytes),
            size::human(means.size_bytes)
        );
        Ok(given)
    }
}

impl Target for Given {
    fn place(&self) -> TargetPath {
        TargetPath::File {
            path: self.path.clone(),
            direct: self.direct,
        }
    }

    fn probe(&self) -> Probe {
        match self.in_memory {
            true => Probe::Blocks(self.path.clone()),
            false => Probe::Unknown,
        }
    }

    fn note(&self) -> String {
        match self.direct {
            true => String::new(),
            false => "without direct I/O, which it does not take".into(),
        }
    }

    fn close(&mut self) -> Result<()> {
        if std::mem::take(&mut self.made) {
            fs::remove_file(&self.path)?;
        }
        Ok(())
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        let _ = self.close();
    }
}
