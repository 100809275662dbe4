//! Raw memory: a range of address space whose pages appear when touched and can be given back. The one file of
//! this crate with unsafe code, so that every view of shared memory is made, and argued for, in one place.
//!
//! A region is only ever seen as atomics, or as bytes through [`Region::bytes`] and [`Region::bytes_mut`],
//! whose callers owe the proof that nobody writes the same bytes meanwhile. No region is part of a core dump.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::fs::{FallocateFlags, MemfdFlags, SeekFrom};
use rustix::mm::{MapFlags, ProtFlags};

use crate::PAGE;

/// Bytes in a line of the cache.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const LINE: usize = 64;

/// Reserved address space with a file of memory behind it (so that it can outlive the process), or private memory.
pub struct Region {
    base: *mut u8,
    len: usize,
    backing: RegionMemory,
}

enum RegionMemory {
    File(OwnedFd),
    Private,
    /// Where there is no mmap: under Miri.
    #[cfg(miri)]
    Heap(std::alloc::Layout),
}

// SAFETY: `base` is an address that this value owns until drop; all access is through atomics or through the
// two functions whose callers guarantee exclusion.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

/// Types that shared memory may be viewed as.
///
/// # Safety
/// Every bit pattern must be valid, all-zero must be the type's initial state, and every field must be atomic.
pub(crate) unsafe trait SharedView: Sync {}
// SAFETY: an atomic integer meets all of it.
unsafe impl SharedView for AtomicU32 {}
// SAFETY: as above.
unsafe impl SharedView for AtomicU64 {}
// SAFETY: a `repr(C)` struct of atomics only, zero when new.
unsafe impl SharedView for crate::span::SpanMeta {}

impl Region {
    /// Reserves `len` bytes, rounded up to pages, backed by a memfd of that name. Costs no memory until
    /// touched. Errors are the system's: ENOMEM for lack of address space, EMFILE, EFBIG.
    #[cfg(not(miri))]
    pub fn memfd(name: &str, len: u64) -> io::Result<Region> {
        let len = round_up(len)?;
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL)
            // NOEXEC_SEAL is newer (6.3) than memfd itself.
            .or_else(|_| rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC))?;
        Region::file(fd, len as u64)
    }

    /// Maps the first `len` bytes, rounded up to pages, of a file of memory (a memfd, a file on tmpfs), keeping its
    /// contents. A shorter file is made longer.
    #[cfg(not(miri))]
    pub fn file(fd: OwnedFd, len: u64) -> io::Result<Region> {
        let len = round_up(len)?;
        if (rustix::fs::fstat(&fd)?.st_size as u64) < len as u64 {
            rustix::fs::ftruncate(&fd, len as u64)?;
        }
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::NORESERVE);
        // SAFETY: a new mapping at an address of the kernel's choice; it aliases nothing in this process.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                prot,
                flags | MapFlags::SHARED,
                &fd,
                0,
            )?
        };
        keep_out_of_core_dumps(base, len);
        Ok(Region {
            base: base.cast(),
            len,
            backing: RegionMemory::File(fd),
        })
    }

    /// Reserves `len` bytes of private memory, for what can be rebuilt.
    #[cfg(not(miri))]
    pub fn private(len: u64) -> io::Result<Region> {
        let len = round_up(len)?;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::NORESERVE);
        // SAFETY: as in `memfd`.
        let base = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, prot, flags | MapFlags::PRIVATE)?
        };
        keep_out_of_core_dumps(base, len);
        Ok(Region {
            base: base.cast(),
            len,
            backing: RegionMemory::Private,
        })
    }

    /// As above, from the heap: Miri has no mmap.
    #[cfg(miri)]
    pub fn memfd(_name: &str, len: u64) -> io::Result<Region> {
        Region::private(len)
    }

    /// As above, from the heap: Miri has no mmap.
    #[cfg(miri)]
    pub fn private(len: u64) -> io::Result<Region> {
        let layout = std::alloc::Layout::from_size_align(round_up(len)?, PAGE)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        // SAFETY: the layout's size is not zero, `round_up` saw to it.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        Ok(Region {
            base,
            len: layout.size(),
            backing: RegionMemory::Heap(layout),
        })
    }

    /// Bytes reserved, a whole number of pages.
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// Whether the region is empty: never, a region has at least one page.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The memory in use, by the system's account: 0 where it keeps none (private memory).
    pub fn resident_bytes(&self) -> u64 {
        match &self.backing {
            RegionMemory::File(fd) => {
                rustix::fs::fstat(fd.as_fd()).map_or(0, |stat| stat.st_blocks as u64 * 512)
            }
            _ => 0,
        }
    }

    /// The runs of `offset..end` for which there is memory, as (offset, length). Everything where the system does not
    /// tell.
    pub fn data_ranges(&self, offset: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut at = offset;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (first, last) = match &self.backing {
                RegionMemory::File(fd) => {
                    let first = rustix::fs::seek(fd, SeekFrom::Data(at)).ok()?;
                    let hole = rustix::fs::seek(fd, SeekFrom::Hole(first)).unwrap_or(end);
                    (first, hole.min(end))
                }
                _ => (at, end),
            };
            at = last;
            (first < end).then(|| (first, last - first))
        })
    }

    /// Gives `len` bytes at `offset`, both multiples of a page, back to the system; they read as zeros
    /// afterwards. Best effort: where the system refuses, the memory is zeroed and stays.
    ///
    /// # Panics
    /// If the range is not inside the region or not of whole pages.
    pub fn release(&self, offset: u64, len: u64) {
        assert!(
            offset.is_multiple_of(PAGE as u64) && len.is_multiple_of(PAGE as u64),
            "whole pages"
        );
        let start = self.start(offset, len as usize);
        let released = match &self.backing {
            RegionMemory::File(fd) => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(fd, flags, offset, len).is_ok()
            }
            RegionMemory::Private => {
                // SAFETY: the range was checked to be ours; nothing refers to its contents, see below.
                unsafe {
                    rustix::mm::madvise(
                        start.cast(),
                        len as usize,
                        rustix::mm::Advice::LinuxDontNeed,
                    )
                }
                .is_ok()
            }
            #[cfg(miri)]
            RegionMemory::Heap(_) => false,
        };
        if !released {
            // SAFETY: in bounds; releasing is the owner's act, so no object lives here any more.
            unsafe { std::ptr::write_bytes(start, 0, len as usize) };
        }
    }

    /// Makes the pages of a range (multiples of a page) resident without changing their contents. The error is the
    /// system's: ENOMEM where there is no memory. May block on reclaim.
    ///
    /// # Panics
    /// If the range is not inside the region or not of whole pages.
    pub fn populate(&self, offset: u64, len: u64) -> io::Result<()> {
        assert!(
            offset.is_multiple_of(PAGE as u64) && len.is_multiple_of(PAGE as u64),
            "whole pages"
        );
        let start = self.start(offset, len as usize);
        #[cfg(not(miri))]
        {
            let advice = rustix::mm::Advice::LinuxPopulateWrite;
            // SAFETY: the range was checked to be ours; its contents stay.
            match unsafe { rustix::mm::madvise(start.cast(), len as usize, advice) } {
                // Older than Linux 5.14.
                Err(rustix::io::Errno::INVAL) => {}
                other => return Ok(other?),
            }
        }
        let _ = start;
        for at in (offset..offset + len).step_by(PAGE) {
            // A write that changes nothing, whoever else writes there.
            self.view::<AtomicU64>(at, 1)[0].fetch_or(0, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(())
    }

    /// Clears bytes that nobody else reads or writes meanwhile.
    pub(crate) fn clear(&self, offset: u64, len: usize) {
        let start = self.start(offset, len);
        // SAFETY: in bounds (`start`). The callers are in this crate: `erase.rs` clears what belongs to no live object, or
        // to one whose owner is freeing it, under the lock of the bin that could give it to another.
        unsafe { std::ptr::write_bytes(start, 0, len) };
    }

    /// A view of `count` 64-bit words from `offset`, a multiple of 8.
    ///
    /// # Panics
    /// If the range is not inside the region, or misaligned.
    pub fn words(&self, offset: u64, count: usize) -> &[AtomicU64] {
        self.view(offset, count)
    }

    /// A view of `count` 32-bit words from `offset`, a multiple of 4.
    ///
    /// # Panics
    /// As [`Region::words`].
    pub fn halves(&self, offset: u64, count: usize) -> &[AtomicU32] {
        self.view(offset, count)
    }

    /// A view of shared memory as atomics (or structs of them).
    pub(crate) fn view<T: SharedView>(&self, offset: u64, count: usize) -> &[T] {
        let bytes = count
            .checked_mul(size_of::<T>())
            .expect("view fits the address space");
        let start = self.start(offset, bytes);
        assert!(
            start.addr().is_multiple_of(align_of::<T>()),
            "misaligned view"
        );
        // SAFETY: in bounds (`start`), aligned, initialised (pages appear as zeros) and valid for any bits
        // (`SharedView`); atomics may be shared.
        unsafe { std::slice::from_raw_parts(start.cast(), count) }
    }

    /// The bytes of a range.
    ///
    /// # Safety
    /// Nobody writes them while the slice lives.
    ///
    /// # Panics
    /// If the range is not inside the region.
    pub unsafe fn bytes(&self, offset: u64, len: usize) -> &[u8] {
        // SAFETY: in bounds and initialised; the caller excludes writers.
        unsafe { std::slice::from_raw_parts(self.start(offset, len), len) }
    }

    /// The bytes of a range, for writing.
    ///
    /// # Safety
    /// Nobody else reads or writes them while the slice lives.
    ///
    /// # Panics
    /// If the range is not inside the region.
    #[expect(
        clippy::mut_from_ref,
        reason = "interior mutability: the caller owes the exclusion"
    )]
    pub unsafe fn bytes_mut(&self, offset: u64, len: usize) -> &mut [u8] {
        // SAFETY: in bounds and initialised; the caller excludes everyone else.
        unsafe { std::slice::from_raw_parts_mut(self.start(offset, len), len) }
    }

    /// Prefetches bytes that will be read soon. It never depends on their contents, so they may be anybody's; it
    /// allocates no memory, and ignores a range outside of the region.
    #[inline]
    pub fn prefetch(&self, offset: u64, len: usize) {
        let inside = offset
            .checked_add(len as u64)
            .is_some_and(|end| end <= self.len as u64);
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if inside {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let (first, end) = (offset as usize / LINE * LINE, offset as usize + len);
            for line in (first..end).step_by(LINE) {
                // SAFETY: a hint, which faults at no address; this one is inside, too.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(self.base.add(line).cast()) };
            }
        }
        let _ = inside;
    }

    fn start(&self, offset: u64, len: usize) -> *mut u8 {
        let inside = (offset as usize)
            .checked_add(len)
            .is_some_and(|end| end <= self.len);
        assert!(
            inside,
            "bytes {offset}+{len} are outside a region of {}",
            self.len
        );
        // SAFETY: just checked to be inside the one allocation.
        unsafe { self.base.add(offset as usize) }
    }
}

/// Excludes memory from core dumps: a dump would hold all contents in plain bytes, and writing it would touch,
/// and so allocate, the whole arena. Where the kernel refuses, `coredump_filter` still can exclude it.
#[cfg(not(miri))]
fn keep_out_of_core_dumps(base: *mut std::ffi::c_void, len: usize) {
    // SAFETY: this changes no contents, and what is not mapped is an error.
    let _ = unsafe { rustix::mm::madvise(base, len, rustix::mm::Advice::LinuxDontDump) };
}

/// An empty vector with room for so many values, which core dumps leave out with what else is in its first and its last page: for
/// contents outside of a region.
pub fn undumped_vec<T>(capacity: usize) -> Vec<T> {
    let values = Vec::<T>::with_capacity(capacity);
    #[cfg(not(miri))]
    {
        let begin = values.as_ptr().cast::<u8>();
        let past = begin.addr() % PAGE;
        let len = past + values.capacity() * size_of::<T>();
        let page = begin.wrapping_sub(past).cast_mut();
        keep_out_of_core_dumps(page.cast(), len.next_multiple_of(PAGE));
    }
    values
}

fn round_up(len: u64) -> io::Result<usize> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let len = len
        .max(1)
        .checked_next_multiple_of(PAGE as u64)
        .ok_or_else(invalid)?;
    usize::try_from(len)
        .ok()
        .filter(|l| *l <= isize::MAX as usize)
        .ok_or_else(invalid)
}

impl Drop for Region {
    fn drop(&mut self) {
        match &self.backing {
            #[cfg(miri)]
            // SAFETY: allocated with this layout in `private`.
            RegionMemory::Heap(layout) => unsafe { std::alloc::dealloc(self.base, *layout) },
            // SAFETY: mapped by `memfd` or `private` with this length; no borrow outlives `self`.
            _ => unsafe {
                let _ = rustix::mm::munmap(self.base.cast(), self.len);
            },
        }
    }
}

/// The CPU that the caller runs on now; 0 where the system does not say. No system call on glibc 2.35 and
/// newer (it reads the thread's rseq area).
#[inline]
pub fn current_cpu() -> usize {
    #[cfg(miri)]
    return 0;
    #[cfg(not(miri))]
    {
        // SAFETY: no arguments, no effects.
        let cpu = unsafe { libc::sched_getcpu() };
        usize::try_from(cpu).unwrap_or(0)
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_to_be_dumped_is_marked() {
        // Once in a mapping of its own, once in the heap between other values.
        for capacity in [1 << 20, 10] {
            let mut values: Vec<[u8; PAGE]> = undumped_vec(capacity);
            values.push([7; PAGE]);
            let address = values.as_ptr().addr();
            let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let range = |line: &str| {
                let (begin, end) = line.split_whitespace().next()?.split_once('-')?;
                let number = |text: &str| usize::from_str_radix(text, 16).ok();
                Some(number(begin)?..number(end)?)
            };
            let mut lines = maps.lines();
            lines
                .find(|line| range(line).is_some_and(|range| range.contains(&address)))
                .unwrap();
            let flags = lines
                .find_map(|line| line.strip_prefix("VmFlags:"))
                .unwrap();
            assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
            assert_eq!(values, [[7; PAGE]]);
        }
    }
}
