//! A snapshot that is taken while everything else goes on: it holds what the array held when it was begun.

use std::collections::BTreeMap;

use uzram::{Cut, CutOptions, Device, Error, PAGE_SIZE, Stats};
use uzram_testkit::algorithm::with_self_trained;

use super::{Model, Wrong, text};
use crate::cut::{Decoders, walk, walk_basis, walk_changed};
use crate::op::{Memory, Op};
use crate::subject::PAGE;

impl Model {
    pub(super) fn snapshot(
        &mut self,
        basis: usize,
        steps: &[(usize, Op)],
        to_its_end: bool,
    ) -> Result<(), Wrong> {
        let device = self.subject.device().clone();
        let (before, steps) = steps.split_at(basis.min(steps.len()));
        let mut found = BTreeMap::new();
        let mut cut = match before.is_empty() {
            true => device.cut(&CutOptions::default()).map_err(text)?,
            false => match self.basis(&device, before, &mut found)? {
                Some(cut) => cut,
                None => return Ok(()),
            },
        };
        let (expected, pages) = (self.bytes.clone(), self.size_pages);
        ensure!(
            device.cut(&CutOptions::default()).err() == Some(Error::Snapshot),
            "a second one at once"
        );
        ensure!(cut.page_count() == pages, "{} pages", cut.page_count());
        self.memory_during_cut(&Memory::Attach { segments: 4 })?;
        let mut decoders = Decoders::of(&cut, &with_self_trained());
        let walk = if before.is_empty() {
            walk
        } else {
            walk_changed
        };
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
            self.during_cut(op)?;
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
        if !before.is_empty() {
            self.count("snapshots with a basis", 1);
        }
        Ok(())
    }

    /// Copies the device while it changes, and cuts. `None`: it had to be given up.
    fn basis<'d>(
        &mut self,
        device: &'d Device,
        steps: &[(usize, Op)],
        found: &mut BTreeMap<u64, Vec<u8>>,
    ) -> Result<Option<Cut<'d>>, Wrong> {
        let mut basis = device.basis().map_err(text)?;
        let mut decoders = Decoders::of_codecs(basis.codecs(), &with_self_trained());
        let rest = (usize::MAX, Op::Check);
        for (frames, op) in steps.iter().chain([&rest]) {
            if let Err(error) = walk_basis(&mut basis, &mut decoders, found, *frames) {
                self.check_error(&error)?;
                return Ok(None);
            }
            self.during_cut(op)?;
        }
        let is_resized = basis.page_count() != self.size_pages;
        match basis.cut(&CutOptions::default()) {
            Err(Error::SnapshotGivenUp { .. }) if is_resized => Ok(None),
            Ok(_) if is_resized => Err("a basis of another size".into()),
            cut => cut.map(Some).map_err(text),
        }
    }

    fn during_cut(&mut self, op: &Op) -> Result<(), Wrong> {
        match op {
            Op::Memory(memory) => self.memory_during_cut(memory),
            Op::Resize { pages } => self.resize(*pages),
            Op::Check => Ok(()),
            request => self.request(request),
        }
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
