//! Memory for requests' bytes, which a driver or the kernel reaches by address: ublk's and FUSE's rings name it in their
//! commands. With `resident.rs` all unsafe code of this crate.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, MlockFlags, ProtFlags};

/// Private memory at a fixed, page-aligned address: zero at first, resident on first use, unmapped on drop.
pub struct RequestBuffers {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: memory is not bound to a thread, and nothing here reads or writes it but `part`, which takes `&mut self`.
unsafe impl Send for RequestBuffers {}
// SAFETY: as above: through `&self` there are only addresses.
unsafe impl Sync for RequestBuffers {}

impl Drop for RequestBuffers {
    fn drop(&mut self) {
        // SAFETY: mapped with this length; borrows of it do not outlive it.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

impl RequestBuffers {
    /// Reserves `len` bytes.
    pub fn new(len: usize) -> io::Result<RequestBuffers> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, prot, flags)? };
        // What is on its way to or from a disk is in no core dump, as what is on it.
        // SAFETY: the mapping was just made, and this changes no contents.
        let _ = unsafe { rustix::mm::madvise(address, len, rustix::mm::Advice::LinuxDontDump) };
        Ok(RequestBuffers {
            base: NonNull::new(address.cast()).expect("mmap does not map at 0"),
            len,
        })
    }

    /// Keeps what becomes resident from being swapped out. An error leaves it as it was.
    pub fn lock_on_fault(&self) -> io::Result<()> {
        // SAFETY: the range is mapped. Locking changes no contents.
        unsafe {
            rustix::mm::mlock_with(self.base.as_ptr().cast(), self.len, MlockFlags::ONFAULT)?;
        }
        Ok(())
    }

    /// Where `len` bytes at `offset` are. What is there is initialised: pages appear as zeros. Whoever reads or writes there
    /// must know that nobody else does meanwhile.
    ///
    /// # Panics
    /// If they are not inside.
    pub fn address(&self, offset: usize, len: usize) -> NonNull<u8> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(inside, "{len} bytes at {offset} of {}", self.len);
        // SAFETY: in bounds of the mapping.
        unsafe { self.base.add(offset) }
    }

    /// `len` bytes at `offset`. The caller must not ask for bytes while the driver may write them: it asks only for those of a
    /// request that the driver has given.
    ///
    /// # Panics
    /// If they are not inside.
    pub fn part(&mut self, offset: usize, len: usize) -> &mut [u8] {
        let address = self.address(offset, len);
        // SAFETY: in bounds and initialised; `&mut self` excludes everybody in this process, and the driver writes only what it
        // was given, as above.
        unsafe { std::slice::from_raw_parts_mut(address.as_ptr(), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_where_their_addresses_say() {
        let mut buffers = RequestBuffers::new(8192).unwrap();
        assert_eq!(buffers.part(0, 8192), [0; 8192]);
        buffers.part(4096, 10).fill(7);
        let address = buffers.address(4096, 1);
        assert_eq!(
            address,
            buffers
                .address(0, 1)
                .map_addr(|at| at.checked_add(4096).unwrap())
        );
        assert!(address.addr().get().is_multiple_of(4096));
        assert_eq!(
            buffers.part(4090, 17)[5..],
            [0, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0]
        );
    }

    #[test]
    #[should_panic(expected = "2 bytes at 4095 of 4096")]
    fn nothing_outside_is_given() {
        RequestBuffers::new(4096).unwrap().part(4095, 2);
    }
}
