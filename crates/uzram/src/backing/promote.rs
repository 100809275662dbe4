//! Promotion: brings objects from the backing back into memory, unchanged.

use std::ops::{AddAssign, Range};
use std::sync::Arc;

use uzram_backing::{ReadBuffer, ReadError};
use uzram_pool::current_cpu;

use super::{Attached, location};
use crate::Error;
use crate::apis::ZramApi;
use crate::recompress::Pace;
use crate::word::{Backed, Content, POST};

/// Objects between two calls of the caller's pace.
const SLICE: u64 = 64;

/// What a promotion did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct PromoteReport {
    /// Pages that are in memory now.
    pub pages: u64,
    /// Bytes of their objects.
    pub bytes: u64,
    /// Pages that were written or discarded by a request meanwhile.
    pub changed: u64,
}

impl AddAssign for PromoteReport {
    fn add_assign(&mut self, other: PromoteReport) {
        self.pages += other.pages;
        self.bytes += other.bytes;
        self.changed += other.changed;
    }
}

impl<'a> ZramApi<'a> {
    /// Brings objects from the backing back into memory: those of the pages with these numbers, or all.
    ///
    /// [`Error::NoBacking`] if there is none; [`Error::NoSpace`] when memory is full, [`Error::BackingRead`] where a page
    /// cannot be read: what came back until then stays.
    pub fn promote(
        self,
        pages: Option<Range<u64>>,
        pace: Pace<'_>,
    ) -> Result<PromoteReport, Error> {
        self.promote_where(pages.unwrap_or(0..u64::MAX), |_| true, pace)
    }

    /// As [`ZramApi::promote`], for the pages that `wanted` chooses.
    pub(crate) fn promote_where(
        self,
        pages: Range<u64>,
        wanted: impl Fn(u64) -> bool,
        pace: Pace<'_>,
    ) -> Result<PromoteReport, Error> {
        let attached = self.0.attached()?;
        let pages = self.backed_pages(pages);
        let mut pages = pages.filter(|page| wanted(*page)).peekable();
        let mut report = PromoteReport::default();
        while pages.peek().is_some() {
            let before = report.pages;
            {
                let _alone = self.0.post_processing();
                if !Arc::ptr_eq(&attached, &self.0.attached()?) {
                    break;
                }
                let mut buffer = attached.readers.get(current_cpu());
                for page in pages.by_ref().take(SLICE as usize) {
                    report += self.promote_page(&attached, page, &mut buffer)?;
                }
            }
            if pace(report.pages - before).is_break() {
                break;
            }
        }
        Ok(report)
    }

    /// As [`ZramApi::promote`], by the holder of the `post` lock.
    pub(super) fn promote_alone(self, pages: Range<u64>) -> Result<PromoteReport, Error> {
        let attached = self.0.attached()?;
        let mut report = PromoteReport::default();
        let mut buffer = attached.readers.get(current_cpu());
        for page in self.backed_pages(pages) {
            report += self.promote_page(&attached, page, &mut buffer)?;
        }
        Ok(report)
    }

    pub(crate) fn backed_pages(self, range: Range<u64>) -> impl Iterator<Item = u64> + 'a {
        let backed = move |page: &u64| matches!(self.0.table.peek(*page), Content::Backed(_));
        self.0.table.touched(range.start, range.end).filter(backed)
    }

    fn promote_page(
        self,
        attached: &Attached,
        page: u64,
        buffer: &mut ReadBuffer,
    ) -> Result<PromoteReport, Error> {
        let mut report = PromoteReport::default();
        let is_backed = |content, _| matches!(content, Content::Backed(_));
        let Some(slot) = self.0.table.begin_post(page, is_backed) else {
            return Ok(report);
        };
        let content = slot.content();
        drop(slot);
        let Content::Backed(backed) = content else {
            return Ok(report);
        };
        let brought = self.store_backed(attached, page, backed, buffer);
        match brought {
            Ok(true) => {
                report.pages = 1;
                report.bytes = backed.len.into();
            }
            Ok(false) => report.changed = 1,
            Err(error) => {
                self.0.table.end_post(page, 0);
                return Err(error);
            }
        }
        Ok(report)
    }

    /// `false`: the page was written meanwhile.
    fn store_backed(
        self,
        attached: &Attached,
        page: u64,
        backed: Backed,
        buffer: &mut ReadBuffer,
    ) -> Result<bool, Error> {
        // While the mark is set, the slot names the same object.
        let still = || self.0.table.peek_flags(page).1 & POST != 0;
        let (location, len) = (location(backed, page)?, usize::from(backed.len));
        let read = attached
            .backing
            .read_while(location, len, page as u32, buffer, still);
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(ReadError::Moved) => return Ok(false),
            Err(source) => return Err(attached.read_error(page, source)),
        };
        let cpu = current_cpu();
        let handle = self.0.store(page, bytes, cpu)?;
        let new = if backed.is_huge() {
            Content::Huge { handle }
        } else {
            Content::Compressed {
                algorithm: backed.algorithm,
                handle,
                len: backed.len,
            }
        };
        let kept = self.0.keep_instead(page, new, cpu);
        if !kept {
            self.0.free(new);
        }
        Ok(kept)
    }
}
