//! Promotion: brings objects from the backing back into memory, unchanged.
//!
//! A page that cannot come back (it cannot be read, or memory is full) is counted and left where it is, and the others
//! come back all the same.

use std::ops::{AddAssign, Range};
use std::sync::Arc;

use uzram_backing::{ReadBuffer, ReadError};
use uzram_pool::current_cpu;

use super::{Attached, Brought, location};
use crate::Error;
use crate::apis::ZramApi;
use crate::recompress::Pace;
use crate::word::{Backed, Content, POST};

/// Objects between two calls of the caller's pace.
const SLICE: usize = 64;
/// The same where they come from afar.
const FAR_SLICE: usize = 1024;
/// How many failures a report names.
const NAMED: usize = 8;
/// So many pages in a row that found no memory: there is none for the others.
const NO_MEMORY: u32 = 64;

/// What a promotion did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct PromoteReport {
    /// Pages that are in memory now.
    pub pages: u64,
    /// Bytes of their objects.
    pub bytes: u64,
    /// Pages that were written or discarded by a request meanwhile.
    pub changed: u64,
    /// Pages that could not come back, and are still on the backing.
    pub failed: u64,
    /// The first of these, at most 8.
    pub failures: Vec<PageFailure>,
    /// Where the backing was given up: what of it is still in a store, in words; else empty.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "String::is_empty"))]
    pub left: String,
}

/// A page that could not be brought back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct PageFailure {
    /// Its number.
    pub page: u64,
    /// Why, in a sentence that names the page.
    pub why: String,
}

impl PromoteReport {
    fn fail(&mut self, page: u64, error: &Error) {
        self.failed += 1;
        if self.failures.len() < NAMED {
            let why = error.to_string();
            self.failures.push(PageFailure { page, why });
        }
    }
}

/// A promotion under way.
#[derive(Default)]
struct Promotion {
    report: PromoteReport,
    /// Pages in a row that found no memory.
    no_memory: u32,
    /// Why none of the others can come: there is no memory, or a store is away.
    hopeless: Option<Error>,
    /// What was brought for the present slice.
    brought: Brought,
}

impl AddAssign for PromoteReport {
    fn add_assign(&mut self, other: PromoteReport) {
        self.pages += other.pages;
        self.bytes += other.bytes;
        self.changed += other.changed;
        self.failed += other.failed;
        let room = NAMED.saturating_sub(self.failures.len());
        self.failures.extend(other.failures.into_iter().take(room));
        self.left.push_str(&other.left);
    }
}

impl<'a> ZramApi<'a> {
    /// Brings objects from the backing back into memory: those of the pages with these numbers, or all.
    ///
    /// A page that cannot be read, or for which there is no memory, stays on the backing, and the others come back: the
    /// report counts and names such pages. [`Error::NoBacking`] if there is none, [`Error::Snapshot`] while a snapshot is
    /// taken.
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
        let mut promotion = Promotion::default();
        while pages.peek().is_some() {
            let before = promotion.report.pages;
            {
                let _alone = self.0.post_processing();
                self.0.refuse_during_cut()?;
                if !Arc::ptr_eq(&attached, &self.0.attached()?) {
                    break;
                }
                self.promote_slice(&attached, &mut pages, &mut promotion);
            }
            if pace(promotion.report.pages - before).is_break() {
                break;
            }
        }
        Ok(promotion.report)
    }

    /// As [`ZramApi::promote`], by the holder of the `post` lock.
    pub(super) fn promote_alone(self, pages: Range<u64>) -> Result<PromoteReport, Error> {
        let attached = self.0.attached()?;
        let mut promotion = Promotion::default();
        let mut pages = self.backed_pages(pages).peekable();
        while pages.peek().is_some() {
            self.promote_slice(&attached, &mut pages, &mut promotion);
        }
        Ok(promotion.report)
    }

    fn promote_slice(
        self,
        attached: &Attached,
        pages: &mut impl Iterator<Item = u64>,
        promotion: &mut Promotion,
    ) {
        let mut buffer = attached.readers.get(current_cpu());
        if !attached.is_far() {
            for page in pages.take(SLICE) {
                self.promote_page(attached, page, &mut buffer, promotion);
            }
            return;
        }
        let slice: Vec<u64> = pages.take(FAR_SLICE).collect();
        if promotion.hopeless.is_none() {
            let brought = promotion
                .brought
                .bring(self.0, attached, slice.iter().copied());
            // Each of them would wait as long.
            if let Err((page, source @ ReadError::Io(_))) = brought {
                promotion.hopeless = Some(attached.read_error(page, source));
            }
        }
        for page in slice {
            self.promote_page(attached, page, &mut buffer, promotion);
        }
        promotion.brought = Brought::default();
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
        promotion: &mut Promotion,
    ) {
        if let Some(error) = &promotion.hopeless {
            promotion.report.fail(page, error);
            return;
        }
        let is_backed = |content, _| matches!(content, Content::Backed(_));
        let Some(slot) = self.0.table.begin_post(page, is_backed) else {
            return;
        };
        let content = slot.content();
        drop(slot);
        let Content::Backed(backed) = content else {
            return;
        };
        let report = &mut promotion.report;
        let brought = promotion.brought.find(page, backed);
        match self.store_backed(attached, page, backed, brought, buffer) {
            Ok(true) => {
                report.pages += 1;
                report.bytes += u64::from(backed.len);
                promotion.no_memory = 0;
            }
            Ok(false) => report.changed += 1,
            Err(error) => {
                self.0.table.end_post(page, 0);
                report.fail(page, &error);
                if matches!(error, Error::NoSpace { .. } | Error::ArenaFull { .. }) {
                    promotion.no_memory += 1;
                    promotion.hopeless = (promotion.no_memory >= NO_MEMORY).then_some(error);
                }
            }
        }
    }

    /// `false`: the page was written meanwhile.
    fn store_backed(
        self,
        attached: &Attached,
        page: u64,
        backed: Backed,
        brought: Option<&[u8]>,
        buffer: &mut ReadBuffer,
    ) -> Result<bool, Error> {
        // While the mark is set, the slot names the same object.
        let still = || self.0.table.peek_flags(page).1 & POST != 0;
        let (location, len) = (location(backed, page)?, usize::from(backed.len));
        let backing = &attached.backing;
        let read = match brought {
            Some(bytes) => Ok(bytes),
            None => backing.read_while(location, len, page as u32, buffer, still),
        };
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
