//! Another size for a device that is in use. The slot table is reserved for the largest size from the first day, so
//! that growing is a matter of one word, and of the frontends, which have to tell their clients.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use crate::builder::refused_swap;
use crate::device::{Device, Zeroes};
use crate::layout::state;
use crate::word::Content;
use crate::{Error, PAGE_SIZE};

impl Device {
    /// The size that the device can be given, in bytes.
    pub fn max_size_bytes(&self) -> u64 {
        self.table.capacity() * PAGE_SIZE as u64
    }

    /// Gives the device another size, rounded up to whole pages. What is beyond the old end reads as zeros. A smaller
    /// size is given only if nothing is stored beyond it. The size is part of the image.
    ///
    /// [`Error::Invalid`] for 0 or more than [`Device::max_size_bytes`], [`Error::TailInUse`], [`Error::Reserve`] where
    /// the system refuses memory to a swap device; nothing is changed then.
    pub fn resize(&self, size_bytes: u64) -> Result<(), Error> {
        let _alone = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let (old, pages) = (self.table.pages(), size_bytes.div_ceil(PAGE_SIZE as u64));
        if pages == 0 || pages > self.table.capacity() {
            let most = self.max_size_bytes();
            return Err(Error::Invalid {
                what: "a size of",
                given: format!("{size_bytes} bytes"),
                accepted: format!("1 to {most} bytes; the maximum is chosen when a device is made"),
            });
        }
        if pages < old {
            self.shrink(old, pages)?;
        } else if pages > old {
            self.grow(old, pages)?;
        }
        self.state()[state::PAGES].store(pages, Relaxed);
        Ok(())
    }

    fn grow(&self, old: u64, pages: u64) -> Result<(), Error> {
        self.table.set_pages(pages);
        if self.pool.has_stock() {
            let populated = self.table.populate(old);
            populated.map_err(|error| {
                self.table.set_pages(old);
                refused_swap((pages - old) * 8)(error)
            })?;
        }
        Ok(())
    }

    /// Makes the device smaller first, so that no more writes begin beyond the end; undoes it if one was faster than that.
    fn shrink(&self, old: u64, pages: u64) -> Result<(), Error> {
        self.check_tail(pages, old)?;
        self.table.set_pages(pages);
        // A write holds its stream from before it looks at the size.
        self.streams.for_each(|_| {});
        self.check_tail(pages, old)
            .inspect_err(|_| self.table.set_pages(old))?;
        // Same-filled with zeros may have been left by a request that found the old size: nothing is lost with it.
        let page = PAGE_SIZE as u64;
        self.clear(pages * page, (old - pages) * page, Zeroes::Deallocate);
        Ok(())
    }

    /// Whether the slots from `first` to before `end` hold nothing but zeros.
    fn check_tail(&self, first: u64, end: u64) -> Result<(), Error> {
        let zero = |page: &u64| matches!(self.table.peek(*page), Content::Empty | Content::Same(0));
        let used = self.table.touched_in(first, end).filter(|page| !zero(page));
        used.last().map_or(Ok(()), |page| {
            Err(Error::TailInUse {
                size_bytes: (page + 1) * PAGE_SIZE as u64,
            })
        })
    }
}
