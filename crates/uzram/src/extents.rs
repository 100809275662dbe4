//! Which ranges hold data: what `lseek(SEEK_HOLE)`, NBD's block status and an image copier ask.

use crate::device::Device;
use crate::table::SLOTS_PER_PAGE;
use crate::word::Content;
use crate::{Error, PAGE_SIZE};

/// What a run of bytes holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    /// Never written or discarded: reads as zeros, takes no memory.
    Hole,
    /// Written, and every byte is zero.
    Zero,
    /// Anything else.
    Data,
}

/// A run of bytes of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
    /// What they are.
    pub kind: ExtentKind,
}

impl From<Content> for ExtentKind {
    fn from(content: Content) -> ExtentKind {
        match content {
            Content::Empty => ExtentKind::Hole,
            Content::Same(0) => ExtentKind::Zero,
            _ => ExtentKind::Data,
        }
    }
}

impl Device {
    /// The runs of holes, zeros and data in the range: in order, adjoining, neighbours of different kinds.
    /// Takes no lock; each page is reported as it was at some moment during the call.
    pub fn extents(
        &self,
        offset: u64,
        len: u64,
    ) -> Result<impl Iterator<Item = Extent> + '_, Error> {
        self.check_range(offset, len)?;
        let end = offset + len;
        let mut at = offset;
        Ok(std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let page = PAGE_SIZE as u64;
            let (start, kind) = (at, self.table.peek(at / page).into());
            while at < end && kind == self.table.peek(at / page).into() {
                // Where nothing was ever written the whole stretch that one page of the table covers is skipped.
                let skipped = if self.table.is_touched(at / page) {
                    1
                } else {
                    SLOTS_PER_PAGE
                };
                at = (at / page / skipped + 1) * skipped * page;
            }
            at = at.min(end);
            Some(Extent {
                offset: start,
                len: at - start,
                kind,
            })
        }))
    }
}
