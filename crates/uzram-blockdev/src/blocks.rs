//! The kernel's block devices and what lies on what, as sysfs tells it. Opens no node and asks no file system.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dev, FileType, StatxFlags, makedev, statx};

const SYS: &str = "/sys/dev/block";

/// The number of the block device at `path`, from attributes that the kernel has: a server might be asked otherwise that
/// waits for this process.
pub(crate) fn number_of(path: &Path) -> Option<Dev> {
    let flags = AtFlags::STATX_DONT_SYNC;
    let found = statx(CWD, path, flags, StatxFlags::TYPE).ok()?;
    let kind = FileType::from_raw_mode(found.stx_mode.into());
    (kind == FileType::BlockDevice).then(|| makedev(found.stx_rdev_major, found.stx_rdev_minor))
}

/// Whether a regular file is at `path`, asked as [`number_of`] asks.
pub(crate) fn is_regular(path: &Path) -> bool {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::SYMLINK_NOFOLLOW;
    let found = statx(CWD, path, flags, StatxFlags::TYPE);
    found.is_ok_and(|found| FileType::from_raw_mode(found.stx_mode.into()) == FileType::RegularFile)
}

/// One block device.
#[derive(Debug, Clone, Default)]
pub(crate) struct Block {
    /// Its name in sysfs, such as `loop0p1`.
    pub(crate) name: String,
    /// The disk that it is a partition of.
    pub(crate) disk: Option<Dev>,
    /// What device mapper, md or bcache stack it on.
    pub(crate) slaves: Vec<Dev>,
    /// The file behind a loop device.
    pub(crate) file: Option<PathBuf>,
}

/// All block devices.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    pub(crate) all: BTreeMap<Dev, Block>,
    by_name: HashMap<String, Dev>,
}

impl Blocks {
    /// Reads sysfs.
    pub(crate) fn read() -> Blocks {
        let mut blocks = Blocks::default();
        let mut slaves = Vec::new();
        let mut disks = Vec::new();
        for entry in fs::read_dir(SYS).into_iter().flatten().flatten() {
            let Some(number) = entry.file_name().to_str().and_then(parse_number) else {
                continue;
            };
            let Ok(target) = fs::read_link(entry.path()) else {
                continue;
            };
            let last = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
            let Some(name) = last(&target) else { continue };
            let dir = entry.path();
            if dir.join("partition").exists()
                && let Some(disk) = target.parent().and_then(last)
            {
                disks.push((number, disk));
            }
            slaves.push((number, names_in(&dir.join("slaves"))));
            if let Ok(dm) = fs::read_to_string(dir.join("dm/name")) {
                blocks
                    .by_name
                    .insert(format!("mapper!{}", dm.trim_end()), number);
            }
            let file = match name.starts_with("loop") {
                true => fs::read(dir.join("loop/backing_file")).ok(),
                false => None,
            };
            blocks.by_name.insert(name.clone(), number);
            let block = Block {
                name,
                file: file.map(|text| loop_file(&text)),
                ..Block::default()
            };
            blocks.all.insert(number, block);
        }
        for (number, disk) in disks {
            let disk = blocks.by_name.get(&disk).copied();
            if let Some(block) = blocks.all.get_mut(&number) {
                block.disk = disk;
            }
        }
        for (number, names) in slaves {
            let found = names.iter().filter_map(|name| blocks.by_name.get(name));
            let found: Vec<Dev> = found.copied().collect();
            if let Some(block) = blocks.all.get_mut(&number) {
                block.slaves = found;
            }
        }
        blocks
    }

    /// The number of the device of a name in sysfs.
    pub(crate) fn named(&self, name: &str) -> Option<Dev> {
        self.by_name.get(name).copied()
    }

    /// The number of the device that `/dev/...` means by the kernel's names.
    pub(crate) fn at_path(&self, path: &Path) -> Option<Dev> {
        let name = path.to_str()?.strip_prefix("/dev/")?.replace('/', "!");
        self.named(&name)
    }

    /// A device's name; its number where it has none.
    pub(crate) fn name(&self, number: Dev) -> String {
        match self.all.get(&number) {
            Some(block) => block.name.clone(),
            None => format!(
                "block/{}:{}",
                rustix::fs::major(number),
                rustix::fs::minor(number)
            ),
        }
    }
}

/// The names of the entries of a directory of sysfs.
pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Reads `major:minor`.
pub(crate) fn parse_number(text: &str) -> Option<Dev> {
    let (major, minor) = text.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// The path in `loop/backing_file`, where the kernel marks a file that was unlinked.
fn loop_file(text: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let text = text.strip_suffix(b" (deleted)").unwrap_or(text);
    PathBuf::from(std::ffi::OsStr::from_bytes(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_loop_files_are_read() {
        assert_eq!(parse_number("7:3"), Some(makedev(7, 3)));
        for text in ["", "7", "7:", "a:1"] {
            assert_eq!(parse_number(text), None, "{text}");
        }
        assert_eq!(loop_file(b"/a b\n"), Path::new("/a b"));
        assert_eq!(loop_file(b"/gone (deleted)\n"), Path::new("/gone"));
    }
}
