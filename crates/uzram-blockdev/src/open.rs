//! Opening a block device: plainly, for this process alone, or to see whether it works.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::{Error, Survey};

/// How long to wait for another process that opens the device in passing, as udev does after each unmount or write.
const PASSING: Duration = Duration::from_millis(500);
/// Alignment and length of a direct read that any block size allows.
const BLOCK: usize = 4096;

fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags(flags.bits() as i32).open(path)
}

/// Opens a node for reading and writing.
pub fn open_rw(path: &Path) -> Result<File, Error> {
    open(path, OFlags::empty()).map_err(|source| Error::Open {
        path: path.into(),
        source,
    })
}

/// Opens a block device for this process alone: while the file lives, nobody can mount the device, swap on it or open it
/// this way. The kernel decides, so users that nobody sees count; a [`Survey`] names those that it finds for [`Error::Busy`],
/// and finds some that the kernel lets pass.
///
/// `is_ours` is called before and after the open, since the node may belong to another device by now. `None`: it does.
pub fn open_exclusive(node: &Path, is_ours: impl Fn() -> bool) -> Result<Option<File>, Error> {
    let begin = Instant::now();
    loop {
        if !is_ours() {
            return Ok(None);
        }
        let by = match open(node, OFlags::EXCL) {
            // Looked at while it is held: from now on nobody new can claim it.
            Ok(device) => match Survey::new().users(node) {
                none if none.is_empty() => return Ok(is_ours().then_some(device)),
                by => by,
            },
            Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => {
                Survey::new().users_of_held(node)
            }
            Err(source) => {
                return Err(Error::Open {
                    path: node.into(),
                    source,
                });
            }
        };
        if !by.is_passing() || begin.elapsed() > PASSING {
            return Err(Error::Busy {
                path: node.into(),
                by,
            });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How long a holder is waited for that may be one in passing, such as `mkfs`, where only a question is asked.
const GLIMPSE: Duration = Duration::from_millis(30);

/// Whether somebody has a block device for himself: the kernel then refuses another who wants that. False where that cannot
/// be told.
pub(crate) fn is_held(node: &Path) -> bool {
    let begin = Instant::now();
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlags::EXCL.bits() as i32);
    loop {
        let opened = options.open(node);
        match opened.map_err(|error| Errno::from_io_error(&error)) {
            Err(Some(Errno::BUSY)) if begin.elapsed() > GLIMPSE => return true,
            Err(Some(Errno::BUSY)) => std::thread::sleep(Duration::from_millis(5)),
            _ => return false,
        }
    }
}

/// Reads the first 4096 bytes of a block device past the page cache: proof that its server answers.
pub fn read_first_block(node: &Path) -> Result<(), Error> {
    let read = || {
        let mut options = OpenOptions::new();
        options.read(true);
        let mut device = options
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(node)?;
        // Direct I/O needs an aligned buffer: one block out of two.
        let mut buffer = vec![0u8; 2 * BLOCK];
        let at = buffer.as_ptr().align_offset(BLOCK);
        device.read_exact(&mut buffer[at..at + BLOCK])
    };
    read().map_err(|source| Error::Read {
        path: node.into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_not_there_is_an_error_with_its_path() {
        let missing = Path::new("/dev/no-such-device");
        for error in [
            open_rw(missing).unwrap_err(),
            open_exclusive(missing, || true).unwrap_err(),
        ] {
            assert!(matches!(error, Error::Open { .. }), "{error}");
            assert!(error.to_string().contains("/dev/no-such-device"));
        }
        assert!(matches!(open_exclusive(missing, || false), Ok(None)));
        let error = read_first_block(missing).unwrap_err();
        assert!(matches!(error, Error::Read { .. }), "{error}");
    }
}
