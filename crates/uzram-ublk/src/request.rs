//! Executes one request: a descriptor and a buffer in, a result out. No I/O, so that tests need no kernel.

use rustix::io::Errno;
use uzram::{Device, Zeroes};

use crate::abi::{IoDescriptor, OP_FUA, op};

const SECTOR: u64 = 512;

/// An errno as a request's result.
pub(crate) const fn failed(errno: Errno) -> i32 {
    -errno.raw_os_error()
}

/// A decoded request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UblkRequest {
    pub(crate) op: u32,
    flags: u32,
    offset: u64,
    len: u64,
}

impl UblkRequest {
    pub(crate) fn new(descriptor: IoDescriptor) -> UblkRequest {
        UblkRequest {
            op: descriptor.op_flags & 0xFF,
            flags: descriptor.op_flags,
            offset: descriptor.start_sector.saturating_mul(SECTOR),
            len: u64::from(descriptor.sectors) * SECTOR,
        }
    }

    /// Bytes that the request carries in or out.
    pub(crate) fn data_len(&self) -> usize {
        match self.op {
            op::READ | op::WRITE => self.len as usize,
            _ => 0,
        }
    }

    /// Executes the request on a `buffer` of [`UblkRequest::data_len`] bytes. Returns the result for the driver: the bytes done,
    /// or a negative errno.
    pub(crate) fn serve(&self, device: &Device, buffer: &mut [u8]) -> i32 {
        debug_assert_eq!(buffer.len(), self.data_len());
        let result = match self.op {
            op::READ => device.read_at(buffer, self.offset),
            op::WRITE => device.write_at(buffer, self.offset).and_then(|()| {
                if self.flags & OP_FUA != 0 {
                    device.flush()
                } else {
                    Ok(())
                }
            }),
            op::FLUSH => device.flush(),
            op::DISCARD => device.discard(self.offset, self.len),
            // With NOUNMAP (`blkdiscard -z`), too: nothing is set aside for a page of zeros, and a hole costs no slot.
            op::WRITE_ZEROES => device.write_zeroes(self.offset, self.len, Zeroes::Deallocate),
            _ => return failed(Errno::OPNOTSUPP),
        };
        match result {
            Ok(()) => i32::try_from(self.data_len()).unwrap_or(failed(Errno::INVAL)),
            Err(error) => match error.errno() {
                0 => failed(Errno::IO),
                errno => -errno,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::OP_NOUNMAP;

    fn request(op_flags: u32, start_sector: u64, sectors: u32) -> UblkRequest {
        UblkRequest::new(IoDescriptor {
            op_flags,
            sectors,
            start_sector,
            addr: 0,
        })
    }

    #[test]
    fn every_operation_does_what_it_says() {
        let device = Device::builder(1 << 20).build().unwrap();
        let written = [7; 4096];
        let mut data = written;
        assert_eq!(
            request(op::WRITE | OP_FUA, 8, 8).serve(&device, &mut data),
            4096
        );
        let mut back = [0; 4096];
        assert_eq!(request(op::READ, 8, 8).serve(&device, &mut back), 4096);
        assert_eq!(back, written);
        assert_eq!(request(op::FLUSH, 0, 0).serve(&device, &mut []), 0);
        assert_eq!(
            request(op::WRITE_ZEROES | OP_NOUNMAP, 8, 8).serve(&device, &mut []),
            0
        );
        // `blkdiscard -z` of a terabyte is to take no slots.
        assert_eq!(device.stats().orig_data_size_bytes, 0);
        device.write_at(&written, 4096).unwrap();
        assert_eq!(request(op::WRITE_ZEROES, 8, 8).serve(&device, &mut []), 0);
        assert_eq!(device.stats().orig_data_size_bytes, 0);
        device.write_at(&written, 4096).unwrap();
        assert_eq!(request(op::DISCARD, 8, 8).serve(&device, &mut []), 0);
        assert_eq!(device.stats().orig_data_size_bytes, 0);
    }

    #[test]
    fn what_cannot_be_done_is_an_errno() {
        let device = Device::builder(1 << 20)
            .mem_limit_bytes(12288)
            .build()
            .unwrap();
        assert_eq!(
            request(op::READ, 1 << 40, 8).serve(&device, &mut [0; 4096]),
            failed(Errno::INVAL)
        );
        assert_eq!(
            request(op::READ, u64::MAX, 8).serve(&device, &mut [0; 4096]),
            failed(Errno::INVAL)
        );
        assert_eq!(
            request(13, 0, 8).serve(&device, &mut []),
            failed(Errno::OPNOTSUPP)
        );
        let full = (0..16).any(|page| {
            let mut data = uzram_testkit::data::noise(page);
            request(op::WRITE, page * 8, 8).serve(&device, &mut data) == failed(Errno::NOSPC)
        });
        assert!(full, "the limit was never hit");
    }
}
