//! A backing whose file is not there any more, or is shorter than it was: a device serves all the same. What can still be read
//! is, every other page on it is an I/O error, and nothing is written. Slots, counters and space are kept as ever, so that such
//! pages can be discarded and overwritten, and so that whoever opens the file after it has come back finds the truth.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use uzram_backing::{Disk, DiskDone, DiskWrite, WriteQueue};

use crate::BackingError;

/// What stands in the place of the disk.
pub(super) struct LostDisk {
    /// What is left of it, if anything can be read.
    rest: Option<Arc<dyn Disk>>,
    why: BackingError,
}

impl LostDisk {
    pub(super) fn new(rest: Option<Arc<dyn Disk>>, why: BackingError) -> LostDisk {
        LostDisk { rest, why }
    }

    fn error(&self) -> io::Error {
        match self.why {
            BackingError::Gone => Errno::NOENT.into(),
            _ => Errno::IO.into(),
        }
    }
}

impl Disk for LostDisk {
    fn size_bytes(&self) -> io::Result<u64> {
        self.rest.as_ref().map_or(Ok(0), |rest| rest.size_bytes())
    }

    fn reserve(&self, _size_bytes: u64) -> io::Result<()> {
        Err(self.error())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match &self.rest {
            Some(rest) => rest.read_at(buffer, offset),
            None => Err(self.error()),
        }
    }

    fn queue(&self, _depth: usize) -> io::Result<Box<dyn WriteQueue>> {
        Ok(Box::new(Refusing::default()))
    }

    fn describe(&self) -> String {
        format!("not usable: {}", self.why)
    }
}

/// Writes that come back with an error.
#[derive(Default)]
struct Refusing {
    writes: Vec<DiskWrite>,
}

impl WriteQueue for Refusing {
    fn submit(&mut self, write: DiskWrite) {
        self.writes.push(write);
    }

    fn reap(&mut self, _timeout: Duration) -> Option<DiskDone> {
        let write = self.writes.pop()?;
        let result = Err(Errno::ROFS.into());
        Some(DiskDone { write, result })
    }
}
