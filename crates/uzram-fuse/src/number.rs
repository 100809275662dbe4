//! A loop device kept for somebody before there is anything behind it: its node can be opened, and has size 0.

use std::fs::File;
use std::path::Path;

use uzram_blockdev::open_rw;

use crate::{Error, loopdev};

/// Major number of loop devices.
const MAJOR: u32 = 7;

/// A loop device with an empty file behind it, so that nobody else is given it. It is free again when this value goes, or
/// the process.
#[derive(Debug)]
pub struct LoopNumber {
    number: u32,
    /// With the last descriptor the empty file goes.
    _device: File,
}

impl LoopNumber {
    /// The one of that number, if it is free, or another.
    pub fn reserve(wanted: Option<u32>) -> Result<LoopNumber, Error> {
        let file = rustix::fs::memfd_create("uzram-reserved", rustix::fs::MemfdFlags::CLOEXEC);
        let file = File::from(file.map_err(Error::at("making an empty file"))?);
        let bind = |wanted| loopdev::reserve(&file, wanted);
        let (number, device) = match wanted {
            Some(number) => bind(Some(number)).or_else(|_| bind(None))?,
            None => bind(None)?,
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

/// Whether nothing is behind the loop device of that number.
pub fn is_free(number: u32) -> bool {
    let node = format!("/dev/loop{number}");
    open_rw(Path::new(&node)).is_ok_and(|device| loopdev::is_free(&device))
}
