//! A snapshot that is taken while everything else goes on: it holds what the array held when it was begun.

use std::collections::BTreeMap;

use uzram::{CutOptions, Error, PAGE_SIZE, Stats};
use uzram_testkit::algorithm::with_self_trained;

use super::{Model, Wrong, text};
use crate::cut::{Decoders, walk};
use crate::op::{Memory, Op};
use crate::subject::PAGE;

impl Model {
    pub(super) fn snapshot(
        &mut self,
        steps: &[(usize, Op)],
        to_its_end: bool,
    ) -> Result<(), Wrong> {
        let device = self.subject.device().clone();
        let (expected, pages) = (self.bytes.clone(), self.size_pages);
        let mut cut = device.cut(&CutOptions::default()).map_err(text)?;
        ensure!(
            device.cut(&CutOptions::default()).err() == Some(Error::Snapshot),
            "a second one at once"
        );
        ensure!(cut.page_count() == pages, "{} pages", cut.page_count());
        self.memory_during_cut(&Memory::Attach { segments: 4 })?;
        let mut decoders = Decoders::of(&cut, &with_self_trained());
        let mut found = BTreeMap::new();
        let rest = (usize::MAX, Op::Check);
        for (frames, op) in steps.iter().chain(to_its_end.then_some(&rest)) {
            let had_limit = self.limit;
            match walk(&mut cut, &mut decoders, &mut found, *frames) {
                Ok(_) => {}
                Err(Error::SnapshotGivenUp { .. }) if had_limit => {
                    self.count("snapshots given up", 1);
                    return Ok(());
                }
                Err(error) => {
                    self.check_error(&error)?;
                    return Ok(());
                }
            }
            match op {
                Op::Memory(memory) => self.memory_during_cut(memory)?,
                Op::Resize { pages } => self.resize(*pages)?,
                Op::Check => {}
                request => self.request(request)?,
            }
        }
        if !to_its_end {
            return Ok(());
        }
        drop(cut);
        let zeros = [0; PAGE_SIZE];
        let held = (0..pages).zip(expected.chunks(PAGE_SIZE));
        for (page, bytes) in held {
            let got = found.remove(&page);
            ensure!(
                got.as_deref().unwrap_or(&zeros) == bytes,
                "the snapshot's page {page} is not what it was"
            );
        }
        let mut beyond = found.into_iter();
        let extra = beyond.find(|(page, bytes)| *page * PAGE >= pages * PAGE || *bytes != zeros);
        ensure!(extra.is_none(), "the snapshot has {:?}", extra.map(|e| e.0));
        self.count("snapshots", 1);
        Ok(())
    }

    /// What would change what words mean is refused, and has changed nothing.
    fn memory_during_cut(&mut self, memory: &Memory) -> Result<(), Wrong> {
        let is_refused = matches!(
            memory,
            Memory::Recompress { .. }
                | Memory::Writeback { .. }
                | Memory::Promote { .. }
                | Memory::Tidy(_)
                | Memory::Attach { .. }
                | Memory::Detach
        );
        if !is_refused {
            return self.memory(memory);
        }
        // Memory may go back to the system, but no page is kept otherwise.
        let how = |stats: Stats| {
            let sizes = (stats.compr_data_size_bytes, stats.backed_data_size_bytes);
            (sizes, stats.huge_pages, stats.recompressed_pages)
        };
        let before = how(self.stats());
        let result = self.subject.run(memory);
        ensure!(how(self.stats()) == before, "{memory:?} has done something");
        match result {
            Err(Error::Snapshot) => self.count("refused by snapshots", 1),
            // There was nothing to do, or another reason to refuse it.
            Ok(_) if !matches!(memory, Memory::Attach { .. } | Memory::Detach) => {}
            Err(Error::Invalid { .. } | Error::NoBacking | Error::NoAges) => {}
            Err(Error::NoSecondary { .. }) => {}
            other => return Err(format!("{memory:?} during a snapshot: {other:?}")),
        }
        Ok(())
    }
}
