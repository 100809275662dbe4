//! Swap areas: which there are, whether one lies on a device, and when that changes.
//!
//! The kernel's table names an area by the path that `swapon` was given, as the mount namespace of that moment shows it. So a
//! name alone tells little: nodes are compared by device number. An area in a namespace that is out of sight, such as a
//! shim's, is known by its size, and by the kernel's refusal to give the device to anybody else.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Dev, major, minor};

use crate::blocks::{number_of, parse_number};
use crate::mountinfo::unescape;
use crate::open::is_held;

/// Major number of the kernel's NBD client.
const NBD: u32 = 43;
const TABLE: &str = "/proc/swaps";
/// What `mkswap` writes at the end of the first page.
const SIGNATURE: &[u8] = b"SWAPSPACE2";

/// A line of `/proc/swaps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapArea {
    /// The path, as `swapon` was given it.
    pub path: PathBuf,
    /// Whether it is a block device, and no file.
    pub is_device: bool,
    /// Bytes that can be swapped out: the first page holds none.
    pub size_bytes: u64,
    /// Bytes that are swapped out.
    pub used_bytes: u64,
}

/// Lists the swap areas. Returns none if the table cannot be read.
pub fn swap_areas() -> Vec<SwapArea> {
    parse(&fs::read(TABLE).unwrap_or_default())
}

fn parse(table: &[u8]) -> Vec<SwapArea> {
    let lines = table.split(|byte| *byte == b'\n').skip(1);
    lines.filter_map(parse_line).collect()
}

/// Parses path, type, size and used, in KiB.
fn parse_line(line: &[u8]) -> Option<SwapArea> {
    let words = line.split(|byte| byte.is_ascii_whitespace());
    let mut words = words.filter(|word| !word.is_empty());
    let (path, kind) = (unescape(words.next()?), words.next()?);
    let mut bytes = || {
        Some(
            std::str::from_utf8(words.next()?)
                .ok()?
                .parse::<u64>()
                .ok()?
                << 10,
        )
    };
    Some(SwapArea {
        path,
        is_device: kind == b"partition",
        size_bytes: bytes()?,
        used_bytes: bytes()?,
    })
}

/// Finds the swap area on the block device at `node`, or on a partition of it.
pub fn swap_on(node: &Path) -> Option<SwapArea> {
    let areas = swap_areas();
    if areas.is_empty() {
        return None;
    }
    let disk = fs::metadata(node).ok()?.rdev();
    areas.into_iter().find(|area| lies_on(area, disk, node))
}

/// Finds a swap area that takes a whole device of this size on an NBD client of this machine. Whose server it is the table
/// does not say: whoever asks compares contents, [`is_swap_area`].
pub fn swap_on_nbd_client(device_bytes: u64) -> Option<SwapArea> {
    let is_client = |area: &SwapArea| {
        let number = area.is_device.then(|| number_of(&area.path)).flatten();
        number.is_some_and(|number| major(number) == NBD) && fits(area, device_bytes)
    };
    swap_areas().into_iter().find(is_client)
}

fn lies_on(area: &SwapArea, disk: Dev, node: &Path) -> bool {
    let named = area.is_device.then(|| number_of(&area.path)).flatten();
    match named {
        Some(number) if number == disk || disk_of(number) == Some(disk) => true,
        // Another device that may well be the one that the table means.
        Some(number) if size_bytes(number).is_some_and(|size| fits(area, size)) => false,
        _ => {
            area.is_device && size_bytes(disk).is_some_and(|size| fits(area, size)) && is_held(node)
        }
    }
}

/// The path without the kernel's mark of one that was removed; `None` where it has none.
pub(crate) fn without_deleted(path: &Path) -> Option<PathBuf> {
    let bytes = path.as_os_str().as_bytes();
    let bytes = bytes.strip_suffix(b" (deleted)")?;
    Some(PathBuf::from(OsStr::from_bytes(bytes)))
}

/// Whether an area takes a whole device of this size.
pub(crate) fn fits(area: &SwapArea, device_bytes: u64) -> bool {
    device_bytes.checked_sub(area.size_bytes) == Some(rustix::param::page_size() as u64)
}

/// Whether `mkswap` was the last to format a device. `read` reads its bytes at an offset.
pub fn is_swap_area(read: impl FnOnce(&mut [u8], u64) -> bool) -> bool {
    let mut found = [0; SIGNATURE.len()];
    let at = rustix::param::page_size() - SIGNATURE.len();
    read(&mut found, at as u64) && found == SIGNATURE
}

/// The disk that a device is a partition of.
fn disk_of(number: Dev) -> Option<Dev> {
    let dir = sys(number);
    if !dir.join("partition").exists() {
        return None;
    }
    parse_number(fs::read_to_string(dir.join("../dev")).ok()?.trim())
}

pub(crate) fn size_bytes(number: Dev) -> Option<u64> {
    let text = fs::read_to_string(sys(number).join("size")).ok()?;
    Some(text.trim().parse::<u64>().ok()? * 512)
}

fn sys(number: Dev) -> PathBuf {
    format!("/sys/dev/block/{}:{}", major(number), minor(number)).into()
}

/// Waits for changes of the table. The kernel tells them: nothing is polled for.
#[derive(Debug)]
pub struct SwapWatch {
    table: File,
}

impl SwapWatch {
    /// Begins to watch: a change from now on ends the next [`SwapWatch::wait`].
    pub fn open() -> io::Result<SwapWatch> {
        let table = File::open(TABLE)?;
        Ok(SwapWatch { table })
    }

    /// Waits until an area comes or goes, at most for `patience`; `None` waits for ever. Returns whether one did.
    pub fn wait(&mut self, patience: Option<Duration>) -> io::Result<bool> {
        let patience = patience.map(|p| Timespec {
            tv_sec: p.as_secs() as i64,
            tv_nsec: p.subsec_nanos().into(),
        });
        let mut fds = [PollFd::new(&self.table, PollFlags::PRI)];
        match poll(&mut fds, patience.as_ref()) {
            Ok(_) => Ok(fds[0].revents().contains(PollFlags::PRI)),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &[u8] = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
        /dev/loop3                              partition\t65532\t\t0\t\t-2\n\
        /var/a\\040b                             file\t\t1024\t\t512\t\t5\n";

    #[test]
    fn the_table_is_read() {
        let areas = parse(LINES);
        let expected = [
            SwapArea {
                path: "/dev/loop3".into(),
                is_device: true,
                size_bytes: 65532 << 10,
                used_bytes: 0,
            },
            SwapArea {
                path: "/var/a b".into(),
                is_device: false,
                size_bytes: 1 << 20,
                used_bytes: 512 << 10,
            },
        ];
        assert_eq!(areas, expected);
        assert_eq!(parse(b"Filename\n"), []);
        assert_eq!(parse(b"Filename\nx y z\n\n"), []);
    }

    #[test]
    fn an_area_takes_its_device_but_for_a_page() {
        let page = rustix::param::page_size() as u64;
        let area = &parse(LINES)[0];
        assert!(fits(area, area.size_bytes + page));
        assert!(!fits(area, area.size_bytes) && !fits(area, 0));
    }

    #[test]
    fn a_node_that_is_not_there_is_no_swap() {
        assert_eq!(swap_on(Path::new("/dev/no-such-device")), None);
        let deleted = Path::new("/tmp/a (deleted)");
        assert_eq!(without_deleted(deleted), Some("/tmp/a".into()));
        assert_eq!(without_deleted(Path::new("/tmp/a")), None);
    }

    #[test]
    fn a_quiet_table_is_waited_for_and_no_longer_than_asked() {
        let Ok(mut watch) = SwapWatch::open() else {
            return;
        };
        // Another process may change it.
        let _ = watch.wait(Some(Duration::from_millis(10))).unwrap();
    }
}
