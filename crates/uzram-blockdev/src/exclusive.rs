//! Taking a block device for this process alone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::busy::{Busy, busy};

/// How long a passing look at the device by another process is waited for.
const MOMENT: Duration = Duration::from_millis(500);

/// Why a block device could not be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody uses it.
    #[error("{} is in use: {by}", path.display())]
    Busy {
        /// The node.
        path: PathBuf,
        /// Who.
        by: Busy,
    },
    /// The node cannot be opened.
    #[error("opening {}: {source}", path.display())]
    Open {
        /// The node.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Opens a node for reading and writing.
pub fn open_rw(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.map_err(|source| Error::Open {
        path: path.into(),
        source,
    })
}

/// Takes a block device for this process alone: nobody can mount it, swap on it or take it while the file lives.
/// The kernel judges, so that a mount in another namespace counts; [`busy`] is asked only for the name.
///
/// `is_ours` is asked before and after: a node may have become another's by now. `None` if it says no.
pub fn exclusive(node: &Path, is_ours: impl Fn() -> bool) -> Result<Option<File>, Error> {
    let begin = Instant::now();
    loop {
        if !is_ours() {
            return Ok(None);
        }
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_EXCL)
            .open(node);
        let by = match opened {
            Ok(device) => match busy(node) {
                None if is_ours() => return Ok(Some(device)),
                None => return Ok(None),
                Some(by) => by,
            },
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                busy(node).unwrap_or(Busy::Elsewhere)
            }
            Err(source) => {
                return Err(Error::Open {
                    path: node.into(),
                    source,
                });
            }
        };
        // udev looks at a device for a moment after each unmount or write: that is worth a wait.
        let momentary = matches!(by, Busy::Open { .. } | Busy::Elsewhere);
        if !momentary || begin.elapsed() > MOMENT {
            return Err(Error::Busy {
                path: node.into(),
                by,
            });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
