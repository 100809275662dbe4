//! A thread that does to the memory what can be done to it, causes faults and limits for a while, and changes the size.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use uzram::{Corruption, Cut, CutOptions, Error, PAGE_SIZE, Writeback};
use uzram_testkit::algorithm::with_self_trained;
use uzram_testkit::disk::{Fault, FaultRule, FaultyDisk};

use super::{RUN, VERSIONED, World};
use crate::cut::{Decoders, walk, walk_basis, walk_changed};
use crate::model::page_of;
use crate::op::{Maker, Memory};
use crate::random::{Random, is_discard, version, version_of};
use crate::seeds::Wrong;
use crate::subject::{self, PAGE, Report};

/// A thread that does what is done to memory.
pub(super) struct Operator<'a> {
    world: &'a World<'a>,
    number: u64,
    maker: Maker,
}

impl<'a> Operator<'a> {
    pub(super) fn new(world: &'a World<'a>, number: u64) -> Operator<'a> {
        let random = Random::new(world.seed ^ (number + 101) << 48);
        let maker = Maker {
            random,
            pages: world.ledger.pages(),
            lying: false,
        };
        Operator {
            world,
            number,
            maker,
        }
    }

    pub(super) fn run(&mut self) -> Result<(), Wrong> {
        let device = self.world.device;
        if self.number == 0 {
            // A process that was killed may have left something beyond everybody's pages.
            let end = self.world.runs * RUN * PAGE;
            let left = device.discard(end, device.size_bytes() - end);
            left.map_err(|error| error.to_string())?;
        }
        while !self.world.stop.load(SeqCst) {
            match self.maker.random.below(40) {
                0 => self.faults()?,
                1 => self.hang(),
                2 => self.limit()?,
                3 if self.number == 0 => self.resize()?,
                4 => self.look(),
                5 => self.snapshot()?,
                6..20 if self.number == 1 => self.race()?,
                _ => {
                    let memory = self.maker.memory();
                    self.memory(&memory)?;
                }
            }
        }
        Ok(())
    }

    /// What has most to do with pages that are written meanwhile.
    fn race(&mut self) -> Result<(), Wrong> {
        let all = u32::MAX;
        let memory = [
            Memory::Compact(100_000),
            Memory::Writeback {
                what: Writeback::default(),
                slices: all,
            },
            Memory::Promote {
                pages: None,
                slices: all,
            },
            Memory::Compact(10_000),
            Memory::Recompress {
                what: Default::default(),
                slices: all,
            },
        ];
        memory.iter().try_for_each(|memory| self.memory(memory))
    }

    fn memory(&mut self, memory: &Memory) -> Result<(), Wrong> {
        let world = self.world;
        let (limit, failing) = (world.limit.watch(), world.failing.watch());
        let result = match memory {
            Memory::Limit(_) | Memory::TotalLimit(_) => return Ok(()),
            Memory::Attach { segments } => {
                let mut faults = world.faults.lock().unwrap_or_else(PoisonError::into_inner);
                let attached = subject::attach_backing(world.device, world.store, *segments);
                attached
                    .map(|storage| *faults = Some(storage))
                    .map(|()| Report::Nothing)
            }
            other => subject::run(world.device, other),
        };
        match result {
            Ok(Report::Promoted(report)) if report.failed > 0 && !limit() && !failing() => {
                return Err(format!("nothing makes it fail: {report:?}"));
            }
            Ok(report) => self.count(&report),
            Err(
                Error::Invalid { .. }
                | Error::HasBacking { .. }
                | Error::NoAges
                | Error::NoDictionary { .. }
                | Error::CodecsFull
                | Error::NoBacking
                | Error::NoSecondary { .. }
                | Error::Snapshot,
            ) => {}
            Err(Error::Compress(_)) if matches!(memory, Memory::Train { .. }) => {}
            Err(Error::PagesLeft { .. }) if limit() || failing() => {}
            Err(Error::BackingHeld { .. }) if failing() => {}
            Err(error) => return Err(format!("{memory:?}: {error}")),
        }
        Ok(())
    }

    fn count(&self, report: &Report) {
        let (what, by) = match report {
            Report::Recompressed(r) => ("recompressed", r.recompressed),
            Report::WrittenBack(r) => {
                self.world.count("changed under writeback", r.changed);
                self.world.count("failed writebacks", r.failed);
                ("written back", r.written)
            }
            Report::Promoted(r) => {
                self.world.count("changed under promotion", r.changed);
                ("promoted", r.pages)
            }
            Report::Emptied(segments) => ("segments emptied", *segments as u64),
            Report::Compacted(r) => ("objects moved", r.objects_moved),
            Report::Marked(marked) => ("marked", *marked),
            Report::Trained(report) => ("trained", u64::from(report.adopted)),
            Report::Nothing => ("other", 1),
        };
        self.world.count(what, by);
    }

    fn storage(&self) -> Option<FaultyDisk> {
        self.world
            .faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The backing fails for a moment, while this thread goes on.
    fn faults(&mut self) -> Result<(), Wrong> {
        let Some(storage) = self.storage() else {
            return Ok(());
        };
        let world = self.world;
        world.failing.during(|| {
            let before = storage.fired();
            for _ in 0..2 {
                let kind = self.maker.fault();
                let rule = if kind.writes {
                    FaultRule::writes(kind.fault)
                } else {
                    FaultRule::reads(kind.fault)
                };
                storage.add(rule.after(kind.skip, kind.times));
            }
            let result = (0..3).try_for_each(|_| {
                let memory = self.maker.memory();
                self.memory(&memory)
            });
            storage.clear();
            world.count("faults", storage.fired() - before);
            result
        })
    }

    /// The backing does not answer for a moment: for longer than the patience of a writeback.
    fn hang(&mut self) {
        let Some(storage) = self.storage() else {
            return;
        };
        let what = Writeback {
            patience: Duration::from_millis(3),
            ..self.maker.writeback()
        };
        storage.add(FaultRule::writes(Fault::Hang).after(0, 3));
        std::thread::scope(|scope| {
            let job = scope.spawn(|| {
                let result = self
                    .world
                    .device
                    .zram()
                    .writeback(&what, &mut |_| std::ops::ControlFlow::Continue(()));
                self.world.count(
                    "hung writebacks",
                    result.map_or(0, |report| u64::from(report.failed > 0)),
                );
            });
            std::thread::sleep(Duration::from_millis(6));
            storage.clear();
            storage.release();
            let _ = job.join();
        });
    }

    fn limit(&mut self) -> Result<(), Wrong> {
        let world = self.world;
        world.limit.during(|| {
            let percent = self.maker.random.within(60, 110);
            let used = world.device.stats().mem_used_total_bytes;
            world
                .device
                .set_mem_limit_bytes((used * percent / 100).max(3 * PAGE));
            let result = (0..2).try_for_each(|_| {
                let memory = self.maker.memory();
                self.memory(&memory)
            });
            world.device.set_mem_limit_bytes(0);
            result
        })
    }

    /// The device becomes larger, and smaller again, beyond everybody's pages. Nobody else writes there.
    fn resize(&mut self) -> Result<(), Wrong> {
        let device = self.world.device;
        let pages = self.world.runs * RUN;
        let more = pages + self.maker.random.within(1, 64);
        let failed = |error: Error| format!("resize: {error}");
        let size = device.size_bytes();
        device.resize(more * PAGE).map_err(failed)?;
        let last = (more - 1) * PAGE;
        let mut bytes = [0xEE; PAGE_SIZE];
        let (limit, failing) = (self.world.limit.watch(), self.world.failing.watch());
        let written = device.read_at(&mut bytes, last).and_then(|()| {
            if bytes != [0; PAGE_SIZE] {
                return Err(Error::Corrupt {
                    page: more - 1,
                    source: Corruption::Length(0),
                });
            }
            device.write_at(&version(more - 1, 1), last)
        });
        match written {
            Ok(()) => {
                let refused = device.resize(pages * PAGE);
                if refused
                    != Err(Error::TailInUse {
                        size_bytes: more * PAGE,
                    })
                {
                    return Err(format!("a tail in use: {refused:?}"));
                }
            }
            Err(error)
                if (limit() || failing()) && page_of(&error).is_some() && error.errno() != 5 => {}
            Err(error) => return Err(format!("the new tail: {error}")),
        }
        device.discard(last, PAGE).map_err(failed)?;
        self.world.count("resizes", 1);
        device.resize(size).map_err(failed)
    }

    /// A snapshot: each page is a version that it may have had when that was begun.
    fn snapshot(&mut self) -> Result<(), Wrong> {
        let world = self.world;
        let (limit, failing) = (world.limit.watch(), world.failing.watch());
        let ledger = world.ledger;
        let mut options = CutOptions::new(None);
        // Who finds the image after a death knows what changed since.
        options.track = world.told.is_some();
        let has_basis = self.maker.random.percent(30);
        let mut found = BTreeMap::new();
        let (mut cut, before) = match self.cut(&options, has_basis, &mut found) {
            Ok(begun) => begun,
            Err(Error::Snapshot) => return Ok(()),
            // The other operator has changed the size.
            Err(Error::SnapshotGivenUp { .. }) if has_basis => return Ok(()),
            Err(Error::BackingRead { .. }) if has_basis && failing() => return Ok(()),
            Err(error) => return Err(format!("snapshot: {error}")),
        };
        let after: Vec<u32> = (0..ledger.pages()).map(|page| ledger.begun(page)).collect();
        let mut decoders = Decoders::of(&cut, &with_self_trained());
        let walk = if has_basis { walk_changed } else { walk };
        // Some are given up in the middle.
        let given_up = self.maker.random.percent(20);
        loop {
            match walk(&mut cut, &mut decoders, &mut found, 1) {
                Ok(true) if given_up && self.maker.random.percent(30) => return Ok(()),
                Ok(true) => {}
                Ok(false) => break,
                Err(Error::SnapshotGivenUp { .. }) if limit() => return Ok(()),
                Err(Error::BackingRead { .. }) if failing() => return Ok(()),
                Err(error) => return Err(format!("snapshot: {error}")),
            }
        }
        let zeros = [0; PAGE_SIZE];
        let mut versions_found = BTreeMap::new();
        for page in (0..ledger.pages()).filter(|page| page % RUN < VERSIONED) {
            let bytes = found.get(&page).map_or(&zeros[..], |bytes| bytes);
            let bytes = bytes.first_chunk().ok_or("a short page")?;
            let (before, after) = (before[page as usize], after[page as usize]);
            let mut versions = before..=after;
            let right = match version_of(page, bytes) {
                Some(0) => versions.any(is_discard),
                Some(version) => versions.contains(&version),
                None => false,
            };
            if !right {
                let version = version_of(page, bytes);
                return Err(format!(
                    "the snapshot has of page {page} {version:?}, not a version from {before} to {after}"
                ));
            }
            versions_found.insert(page, version_of(page, bytes));
        }
        if options.track {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&(self.maker.random.next() | 1).to_le_bytes());
            let directory = world.store.parent().ok_or("a directory")?;
            crate::crash::save_basis(directory, &id, &versions_found)?;
            cut.record(&id);
        }
        world.count("snapshots", 1);
        world.count("snapshots with a basis", has_basis.into());
        Ok(())
    }

    /// Cuts, with a basis after a copy into `found` of what changes meanwhile. Returns also which versions were acknowledged
    /// before.
    fn cut(
        &self,
        options: &CutOptions,
        has_basis: bool,
        found: &mut BTreeMap<u64, Vec<u8>>,
    ) -> Result<(Cut<'a>, Vec<u32>), Error> {
        let (device, ledger) = (self.world.device, self.world.ledger);
        let pages = 0..ledger.pages();
        let acknowledged = || pages.map(|page| ledger.acknowledged(page)).collect();
        if !has_basis {
            let before = acknowledged();
            return Ok((device.cut(options)?, before));
        }
        let mut basis = device.basis()?;
        let mut decoders = Decoders::of_codecs(basis.codecs(), &with_self_trained());
        while walk_basis(&mut basis, &mut decoders, found, 1)? {}
        let before = acknowledged();
        Ok((basis.cut(options)?, before))
    }

    /// Everything that only looks.
    fn look(&self) {
        let device = self.world.device;
        let stats = device.stats();
        assert!(
            stats.backed_pages <= stats.orig_data_size_bytes / PAGE + self.world.ledger.pages()
        );
        let extents = device
            .extents(0, self.world.runs * RUN * PAGE)
            .map(Iterator::count);
        assert!(extents.is_ok());
        let _ = (
            device.codecs(),
            device.zram().backing(),
            device.jobs().compaction_gain_bytes(),
        );
        let _ = device.zram().writable_back(&Writeback::default());
    }
}
