//! A loop device kept for somebody before there is anything behind it: its node can be opened, and has size 0.

use std::path::Path;

use uzram_blockdev::open_rw;

use crate::{Error, loopdev, sys};

/// Major number of loop devices.
const MAJOR: u32 = 7;
/// Numbers beyond which none is looked for.
const MAX: u32 = 1 << 16;

/// The number of a loop device that this process keeps. Others may take the device all the same: nothing in the kernel
/// forbids it. A device that had to be made for it goes with this value, unless it is in use.
#[derive(Debug)]
pub struct LoopNumber {
    number: u32,
    made: bool,
}

impl LoopNumber {
    /// One that is free and not among `taken`.
    pub fn reserve(taken: &[u32]) -> Result<LoopNumber, Error> {
        let control = open_rw(Path::new("/dev/loop-control"))?;
        let free = sys::get_free(&control).map_err(Error::at("asking for a free loop device"))?;
        if !taken.contains(&free) {
            loopdev::node(free)?;
            let made = false;
            return Ok(LoopNumber { number: free, made });
        }
        for number in (0..MAX).filter(|number| !taken.contains(number)) {
            let made = match sys::add(&control, number) {
                Ok(()) => true,
                // It is there: free, too?
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => false,
                Err(error) => return Err(Error::at("making a loop device")(error)),
            };
            let node = loopdev::node(number)?;
            if made || loopdev::is_free(&node) {
                return Ok(LoopNumber { number, made });
            }
        }
        let busy = std::io::Error::from_raw_os_error(libc::EBUSY);
        Err(Error::at("all loop devices are in use")(busy))
    }

    /// N of `/dev/loopN`.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether nobody else has put anything behind it.
    pub fn is_free(&self) -> bool {
        loopdev::node(self.number).is_ok_and(|node| loopdev::is_free(&node))
    }

    /// Major and minor number.
    pub fn rdev(&self) -> (u32, u32) {
        (MAJOR, self.number)
    }
}

impl Drop for LoopNumber {
    fn drop(&mut self) {
        if self.made
            && let Ok(control) = open_rw(Path::new("/dev/loop-control"))
        {
            // In use it stays.
            let _ = sys::remove(&control, self.number);
        }
    }
}
