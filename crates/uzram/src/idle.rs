//! Finds pages that nobody uses: the idle mark, and access ages.
//!
//! The mark is a bit of the slot's word. Marking is a walk; reading and writing clear it, which costs nothing, since
//! both store the word anyway.
//!
//! Ages are kept only on request ([`ZramApi::track_ages`]): the second of each page's last access, in separate memory
//! (4 bytes a page, for the parts of the table in use). A page that is read often stores its second once a second, so
//! that readers do not bounce cache lines. Ages do not outlive the process; attaching starts them anew.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use uzram_pool::Region;

use crate::Error;
use crate::apis::ZramApi;
use crate::device::Device;
use crate::layout::state;
use crate::word::Content;

/// Seconds of the last accesses.
pub(crate) struct Ages {
    on: AtomicBool,
    /// Seconds of the system's clock when this was made.
    epoch: i64,
    /// For each page the second of its last access since `epoch`, and 1; 0: none since tracking began.
    seconds: Region,
}

impl Ages {
    /// For that many pages; takes no memory yet.
    pub(crate) fn new(pages: u64) -> std::io::Result<Ages> {
        Ok(Ages {
            on: AtomicBool::new(false),
            epoch: coarse_seconds(),
            seconds: Region::private(pages.next_multiple_of(2) * 4)?,
        })
    }

    /// The present second, for [`Ages::note`]; `None` while ages are not kept.
    pub(crate) fn now(&self) -> Option<u32> {
        self.on.load(Relaxed).then(|| self.clock())
    }

    fn clock(&self) -> u32 {
        (coarse_seconds() - self.epoch).clamp(0, i64::from(u32::MAX) - 1) as u32 + 1
    }

    /// Notes that a page was used.
    pub(crate) fn note(&self, page: u64, now: u32) {
        let second = &self.seconds.halves(page * 4, 1)[0];
        if second.load(Relaxed) != now {
            second.store(now, Relaxed);
        }
    }

    /// Gives back the memory of the seconds of pages that hold nothing: `count` pages from `first` on.
    pub(crate) fn forget(&self, first: u64, count: u64) {
        let page = crate::PAGE_SIZE as u64;
        let begin = (first * 4).next_multiple_of(page);
        let end = ((first + count) * 4).min(self.seconds.len()) / page * page;
        if begin < end && self.on.load(Relaxed) {
            self.seconds.release(begin, end - begin);
        }
    }

    /// Memory of the seconds, while they are kept for a table of so many bytes in use.
    pub(crate) fn memory_bytes(&self, table_bytes: u64) -> u64 {
        if self.on.load(Relaxed) {
            table_bytes / 2
        } else {
            0
        }
    }

    /// Seconds since a page's last access, if there was one since tracking began.
    fn noted(&self, page: u64, now: u32) -> Option<u32> {
        let second = self.seconds.halves(page * 4, 1)[0].load(Relaxed);
        (second > 0).then(|| now.saturating_sub(second))
    }

    /// When a page was last used since tracking began, since the machine was started.
    pub(crate) fn accessed(&self, page: u64) -> Option<Duration> {
        let second = self.seconds.halves(page * 4, 1)[0].load(Relaxed);
        let since_epoch = i64::from(second.checked_sub(1)?);
        u64::try_from(self.epoch + since_epoch)
            .ok()
            .map(Duration::from_secs)
    }

    /// Seconds since a page's last access, or since tracking began.
    fn age(&self, page: u64, now: u32) -> u32 {
        now.saturating_sub(self.seconds.halves(page * 4, 1)[0].load(Relaxed).max(1))
    }
}

/// Seconds since the machine started. No system call: the clock is read from memory that the kernel shares.
fn coarse_seconds() -> i64 {
    clock_gettime(ClockId::MonotonicCoarse).tv_sec
}

impl<'a> ZramApi<'a> {
    /// Starts or stops tracking the age of each page's last access (zram's `CONFIG_ZRAM_TRACK_ENTRY_ACTIME`). Costs 4
    /// bytes a page for the parts of the table in use. Pages without an access since tracking began are as old as
    /// that.
    ///
    /// The setting is part of the image, the ages are not. A policy that goes by age tracks them while it is in
    /// force, too.
    ///
    /// [`Error::Reserve`] where the system refuses the memory that a swap device needs for it at once.
    pub fn track_ages(self, on: bool) -> Result<(), Error> {
        self.0.state()[state::AGES].store(on.into(), Relaxed);
        self.keep_ages(on)
    }

    /// Starts or stops tracking for a policy; the caller's own setting stays in force.
    pub(crate) fn keep_ages(self, on: bool) -> Result<(), Error> {
        let on = on || self.0.state()[state::AGES].load(Relaxed) == 1;
        if on && self.0.pool.has_stock() {
            let bytes = self.0.table.pages() * 4;
            let populated = self
                .0
                .ages
                .seconds
                .populate(0, bytes.next_multiple_of(4096));
            populated.map_err(crate::builder::refused("the pages' ages", bytes))?;
        }
        if self.0.ages.on.swap(on, Relaxed) != on {
            let seconds = &self.0.ages.seconds;
            // What was recorded before a pause says nothing about the pause.
            seconds.release(0, seconds.len());
            self.0.ages_since.store(self.0.ages.clock(), Relaxed);
        }
        Ok(())
    }

    /// Whether ages are kept.
    pub fn tracks_ages(self) -> bool {
        self.0.ages.on.load(Relaxed)
    }

    /// Marks the pages idle that were not used for `older_than`, all for `None`: those that have an object in memory.
    /// The mark goes when the page is read or written. Returns how many are marked.
    ///
    /// [`Error::NoAges`] for an age while ages are not kept.
    pub fn mark_idle(self, older_than: Option<Duration>) -> Result<u64, Error> {
        let age = self.min_age(older_than)?;
        Ok(self.mark_where(|page| age.admits(page)))
    }

    /// As [`ZramApi::mark_idle`], but also clears the mark of younger pages, as zram's `idle` does with an age.
    pub fn mark_idle_exactly(self, older_than: Duration) -> Result<u64, Error> {
        let age = self.min_age(Some(older_than))?;
        Ok(self.mark_where(|page| {
            let admitted = age.admits(page);
            if !admitted {
                self.0.table.unmark_idle(page);
            }
            admitted
        }))
    }

    /// A filter for pages that were not used for that long; all for `None`.
    ///
    /// [`Error::NoAges`] for an age while ages are not kept.
    pub(crate) fn min_age(self, older_than: Option<Duration>) -> Result<MinAge<'a>, Error> {
        let least = match (older_than, self.0.ages.now()) {
            (None, _) => None,
            (Some(age), Some(now)) => Some((age.as_secs(), now)),
            (Some(_), None) => return Err(Error::NoAges),
        };
        Ok(MinAge {
            device: self.0,
            least,
        })
    }

    /// A filter for pages with a recorded access within `age`; none while ages are not kept.
    pub(crate) fn used_within(self, age: Duration) -> impl Fn(u64) -> bool + 'a {
        let now = self.0.ages.now();
        move |page| {
            let noted = now.and_then(|now| self.0.ages.noted(page, now));
            noted.is_some_and(|seconds| u64::from(seconds) <= age.as_secs())
        }
    }

    /// The greatest age in seconds that a page can have: since ages are kept; 0 while they are not.
    pub(crate) fn greatest_age(self) -> u64 {
        let since = self.0.ages_since.load(Relaxed);
        self.0
            .ages
            .now()
            .map_or(0, |now| now.saturating_sub(since).into())
    }

    fn mark_where(self, old_enough: impl Fn(u64) -> bool) -> u64 {
        let pages = self.0.table.touched(0, u64::MAX);
        pages
            .filter(|page| old_enough(*page) && self.0.table.mark_idle(*page, Content::is_in_pool))
            .count() as u64
    }

    /// Seconds since the last access to a page, or since ages are kept.
    pub(crate) fn age(self, page: u64, now: u32) -> u32 {
        let since = now.saturating_sub(self.0.ages_since.load(Relaxed));
        self.0.ages.age(page, now).min(since)
    }
}

/// Which pages are old enough for a job, by the clock when the job began.
pub(crate) struct MinAge<'a> {
    device: &'a Device,
    /// The least age in seconds, and the second that is now; `None`: every page will do.
    least: Option<(u64, u32)>,
}

impl MinAge<'_> {
    pub(crate) fn admits(&self, page: u64) -> bool {
        self.least
            .is_none_or(|(seconds, now)| u64::from(self.device.zram().age(page, now)) >= seconds)
    }
}
