//! Reads an nbd device's state from sysfs. Opening the node of a device whose server is dead could wait for a long time.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

/// The node of this index.
pub(crate) fn node(index: u32) -> PathBuf {
    format!("/dev/nbd{index}").into()
}

/// The indexes of all nbd devices, connected or not.
pub(crate) fn indexes() -> Vec<u32> {
    let Ok(disks) = fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    let names = disks.flatten().map(|disk| disk.file_name());
    names.filter_map(|name| index_of(name.to_str()?)).collect()
}

fn index_of(name: &str) -> Option<u32> {
    name.strip_prefix("nbd")?.parse().ok()
}

/// An nbd device's directory, `/sys/block/nbdN`.
#[derive(Debug, Clone)]
pub(crate) struct SysfsDisk {
    dir: PathBuf,
}

impl SysfsDisk {
    pub(crate) fn new(index: u32) -> SysfsDisk {
        SysfsDisk {
            dir: format!("/sys/block/nbd{index}").into(),
        }
    }

    fn read(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.dir.join(name)).ok()?;
        Some(text.trim_end_matches('\n').to_owned())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.read(name)?.parse().ok()
    }

    /// Whether it is connected, or was connected and is still open somewhere.
    pub(crate) fn is_connected(&self) -> bool {
        self.dir.join("pid").exists()
    }

    /// The identifier of what it is connected to, if the kernel was told and keeps it.
    pub(crate) fn backend(&self) -> Option<String> {
        self.read("backend")
    }

    /// Whether it is connected to what has this identifier. Where the kernel keeps no identifiers, any connected device
    /// counts.
    pub(crate) fn is_connected_to(&self, identifier: &str, kernel_keeps_identifiers: bool) -> bool {
        self.is_connected()
            && match self.backend() {
                Some(backend) => backend == identifier,
                None => !kernel_keeps_identifiers,
            }
    }

    /// Bytes of the device; 0 if it is not connected.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.number("size").map_or(0, |sectors| sectors * 512)
    }

    /// Bytes of its logical blocks; 0 if they are unknown.
    pub(crate) fn block_size(&self) -> u64 {
        self.number("queue/logical_block_size").unwrap_or(0)
    }

    /// The number of its hardware queues, one for each connection.
    pub(crate) fn queues(&self) -> usize {
        fs::read_dir(self.dir.join("mq")).map_or(0, |queues| queues.flatten().count())
    }

    /// Whether `node` is this device's node.
    pub(crate) fn has_node(&self, node: &Path) -> bool {
        let Ok(meta) = fs::metadata(node) else {
            return false;
        };
        let (major, minor) = (major(meta.rdev()), minor(meta.rdev()));
        let is_block = meta.file_type().is_block_device();
        is_block && self.read("dev") == Some(format!("{major}:{minor}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_devices_have_an_index() {
        for (name, index) in [
            ("nbd0", Some(0)),
            ("nbd15", Some(15)),
            ("nbd0p1", None),
            ("nbd", None),
            ("sda", None),
        ] {
            assert_eq!(index_of(name), index, "{name}");
        }
    }

    #[test]
    fn a_device_is_described_by_its_files() {
        let dir = std::env::temp_dir().join(format!("uzram-nbd-sysfs-{}", std::process::id()));
        let disk = SysfsDisk { dir: dir.clone() };
        assert!(!disk.is_connected());
        assert_eq!((disk.size_bytes(), disk.queues()), (0, 0));
        assert_eq!(disk.backend(), None);
        for queue in ["mq/0", "mq/1", "queue"] {
            fs::create_dir_all(dir.join(queue)).unwrap();
        }
        for (name, text) in [
            ("pid", "17\n"),
            ("backend", "uzram:zram0\n"),
            ("size", "2048\n"),
            ("queue/logical_block_size", "4096\n"),
            ("dev", "1:3\n"),
        ] {
            fs::write(dir.join(name), text).unwrap();
        }
        assert!(disk.is_connected_to("uzram:zram0", true));
        assert!(!disk.is_connected_to("uzram:zram1", false));
        assert_eq!(disk.backend().as_deref(), Some("uzram:zram0"));
        assert_eq!((disk.size_bytes(), disk.block_size()), (1 << 20, 4096));
        assert_eq!(disk.queues(), 2);
        fs::remove_file(dir.join("backend")).unwrap();
        assert!(!disk.is_connected_to("uzram:zram0", true));
        assert!(disk.is_connected_to("uzram:zram0", false));
        // 1:3 is the number of /dev/null, which is no block device.
        assert!(!disk.has_node(Path::new("/dev/null")));
        assert!(!disk.has_node(Path::new("/nonexistent")));
        fs::remove_dir_all(dir).unwrap();
    }
}
