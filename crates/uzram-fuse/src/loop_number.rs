//! A loop device reserved before there is anything behind it: its node can be opened and has size 0.

use std::fs::File;
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};
use uzram_blockdev::{StepError, open_rw};

use crate::loopdev::{self, MAJOR};
use crate::{Error, sys};

/// A loop device with an empty file behind it, so that nobody else is given it. It is free again when this value is dropped
/// or the process ends.
#[derive(Debug)]
pub struct LoopNumber {
    number: u32,
    /// The kernel detaches the empty file with the last descriptor.
    _device: File,
}

impl LoopNumber {
    /// Reserves the loop device of that number, or another one if that is not free.
    pub fn reserve(wanted: Option<u32>) -> Result<LoopNumber, Error> {
        let file = memfd_create("uzram-reserved", MemfdFlags::CLOEXEC);
        let file = File::from(file.map_err(StepError::at("making an empty file"))?);
        let reserve = |wanted| loopdev::reserve(&file, wanted);
        let (number, device) = match wanted {
            Some(_) => reserve(wanted).or_else(|_| reserve(None))?,
            None => reserve(None)?,
        };
        Ok(LoopNumber {
            number,
            _device: device,
        })
    }

    /// N of `/dev/loopN`.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Major and minor number.
    pub fn rdev(&self) -> (u32, u32) {
        (MAJOR, self.number)
    }
}

/// Whether no file is attached to the loop device of that number.
pub fn is_free(number: u32) -> bool {
    let node = format!("/dev/loop{number}");
    open_rw(Path::new(&node)).is_ok_and(|device| sys::is_free(&device))
}
