//! What must hold between two operations, and at the end of all.

use uzram::{ExtentKind, PAGE_SIZE, Writeback};

use super::{Model, Wrong, text};
use crate::op::Memory;
use crate::subject::PAGE;

/// Pages of an image before its table, and those that a dictionary may take besides its bytes.
const HEAD_PAGES: u64 = 3;
const SLACK_PAGES: u64 = 16;

impl Model {
    /// What the counters say of an idle device.
    pub(super) fn check_stats(&mut self) -> Result<(), Wrong> {
        let device = self.subject.device().clone();
        let (codecs, stats) = (device.codecs(), device.stats());
        let stored = self.stored.iter().filter(|stored| **stored).count() as u64;
        ensure!(
            stats.orig_data_size_bytes == stored * PAGE,
            "{stored} pages: {stats:?}"
        );
        ensure!(
            (stats.failed_reads, stats.failed_writes) == self.failed,
            "{:?}: {stats:?}",
            self.failed
        );
        let bytes: u64 = codecs.iter().map(|codec| codec.object_bytes).sum();
        // A codec counts a shared object for each page that has it.
        let all = bytes + stats.huge_pages * PAGE;
        ensure!(
            all == stats.compr_data_size_bytes + stats.dup_data_size_bytes,
            "{codecs:?}, {stats:?}"
        );
        self.count("pages shared", stats.dup_pages);
        let objects: u64 = codecs.iter().map(|codec| codec.objects).sum();
        // What is left are pages that lie on the backing as they are.
        let left = stored.checked_sub(objects + stats.same_pages + stats.huge_pages);
        ensure!(
            left.is_some_and(|left| left <= stats.backed_pages),
            "{codecs:?}, {stats:?}"
        );
        let primaries = codecs
            .iter()
            .filter(|codec| codec.priorities.contains(&0))
            .count();
        let needless = codecs
            .iter()
            .any(|codec| codec.objects == 0 && codec.priorities.is_empty());
        ensure!(primaries == 1 && !needless, "{codecs:?}");
        ensure!(
            stats.mem_used_total_bytes >= stats.compr_data_size_bytes,
            "{stats:?}"
        );
        ensure!(device.size_bytes() == self.size_pages * PAGE, "the size");
        let live = device
            .zram()
            .backing()
            .map_or(0, |backing| backing.stats.live_objects);
        ensure!(
            live == stats.backed_pages,
            "{live} objects on the backing: {stats:?}"
        );
        Ok(())
    }

    /// What a device keeps of which nothing is left.
    pub(super) fn check_empty(&self) -> Result<(), Wrong> {
        let stats = self.stats();
        let resident = self.subject.resident_bytes() - stats.dictionary_bytes.div_ceil(PAGE) * PAGE;
        ensure!(
            (stats.mem_used_total_bytes, stats.table_bytes) == (0, HEAD_PAGES * PAGE)
                && resident <= (HEAD_PAGES + SLACK_PAGES) * PAGE,
            "nothing is stored, and {resident} bytes of the image are in memory: {stats:?}"
        );
        Ok(())
    }

    /// Compares every byte.
    pub(super) fn check_all(&mut self) -> Result<(), Wrong> {
        let end = self.size_pages.min(self.stored.len() as u64);
        for at in 0..end {
            // By the page: one that cannot be read does not hide the others.
            let _ = self.read(at * PAGE, PAGE)?;
        }
        self.check_extents()?;
        let same = |page: &usize| {
            let page = &self.bytes[page * PAGE_SIZE..][..PAGE_SIZE];
            page.chunks_exact(8).all(|word| word == &page[..8])
        };
        let same = (0..self.stored.len())
            .filter(|page| self.stored[*page])
            .filter(same)
            .count() as u64;
        let stats = self.stats();
        ensure!(
            stats.same_pages == same,
            "{same} same-filled pages: {stats:?}"
        );
        self.count("checks", 1);
        Ok(())
    }

    fn check_extents(&self) -> Result<(), Wrong> {
        let end = self.size_pages.min(self.stored.len() as u64);
        let extents = self.subject.device().extents(0, end * PAGE).map_err(text)?;
        let mut at = 0;
        for extent in extents {
            ensure!(extent.offset == at, "{extent:?} does not begin at {at}");
            at += extent.len;
            for page in (extent.offset / PAGE) as usize..(at / PAGE) as usize {
                let zeros = self.bytes[page * PAGE_SIZE..][..PAGE_SIZE]
                    .iter()
                    .all(|byte| *byte == 0);
                let kind = match (self.stored[page], zeros) {
                    (false, _) => ExtentKind::Hole,
                    (true, true) => ExtentKind::Zero,
                    (true, false) => ExtentKind::Data,
                };
                ensure!(
                    extent.kind == kind,
                    "{extent:?}, but page {page} is {kind:?}"
                );
            }
        }
        ensure!(at == end * PAGE, "the extents end at {at}");
        Ok(())
    }

    /// Without faults and limits everything is there; nothing is marked for ever; and nothing is left when all is discarded.
    pub(crate) fn finish(&mut self) -> Result<(), Wrong> {
        self.heal();
        self.memory(&Memory::Limit(0))?;
        self.memory(&Memory::WritebackLimit(None))?;
        self.check_all()?;
        if self.lied {
            // What the backing lost can be written anew.
            let device = self.subject.device().clone();
            let end = self.size_pages.min(self.stored.len() as u64) * PAGE;
            device
                .write_at(&self.bytes[..end as usize], 0)
                .map_err(text)?;
            self.stored[..(end / PAGE) as usize].fill(true);
            self.lied = false;
            self.check_all()?;
        }
        if self.subject.device().zram().backing().is_some() {
            self.memory(&Memory::Detach)?;
        }
        // Room for all.
        self.memory(&Memory::Attach { segments: 100 })?;
        let everything = Memory::Writeback {
            what: Writeback::default(),
            slices: u32::MAX,
        };
        self.memory(&everything)?;
        let stats = self.stats();
        // What several pages share stays.
        let stored = stats.orig_data_size_bytes / PAGE;
        let left = stored - stats.same_pages - stats.backed_pages;
        ensure!(
            left <= 2 * stats.dup_pages,
            "something is never written back: {stats:?}"
        );
        self.check_all()?;
        self.memory(&Memory::Detach)?;
        self.memory(&Memory::Compact(u64::MAX))?;
        self.check_all()?;
        self.memory(&Memory::Attach { segments: 100 })?;
        self.memory(&Memory::Writeback {
            what: Writeback {
                max_pages: 20,
                ..Writeback::default()
            },
            slices: 1,
        })?;
        self.nothing_is_left()
    }

    fn nothing_is_left(&mut self) -> Result<(), Wrong> {
        let device = self.subject.device().clone();
        device.discard(0, device.size_bytes()).map_err(text)?;
        self.clear(0, self.size_pages * PAGE, false);
        self.check_stats()?;
        let stats = device.stats();
        let left = (
            stats.compr_data_size_bytes,
            stats.same_pages,
            stats.huge_pages,
            stats.backed_pages,
        );
        ensure!(
            left == (0, 0, 0, 0) && stats.backed_data_size_bytes == 0,
            "{stats:?}"
        );
        let store = device.zram().backing().map(|backing| backing.stats);
        ensure!(store.is_none_or(|store| store.live_bytes == 0), "{store:?}");
        self.check_empty()?;
        device.reset();
        let used = device.stats().mem_used_total_bytes;
        ensure!(used == 0, "{used} bytes are in use and nothing is stored");
        Ok(())
    }
}
