//! A thread that makes requests: to pages of its own, of which it knows everything, to its stripes of pages that all write,
//! and, reading, to everybody's.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use uzram::{PAGE_SIZE, Zeroes};

use super::{RUN, STRIPE, THREADS, VERSIONED, World};
use crate::random::{Fill, Random, is_discard, version, version_of};
use crate::seeds::Wrong;
use crate::subject::PAGE;

/// A thread that makes requests.
pub(super) struct Owner<'a> {
    world: &'a World<'a>,
    number: u64,
    random: Random,
    /// This thread's stripes of each run's seventh page, and each eighth page, where it is this thread's.
    stripes: Vec<Vec<u8>>,
    private: Vec<Vec<u8>>,
    requests: u64,
}

impl<'a> Owner<'a> {
    pub(super) fn new(world: &'a World<'a>, number: u64) -> Owner<'a> {
        Owner {
            world,
            number,
            random: Random::new(world.seed ^ (number + 1) << 48),
            stripes: Vec::new(),
            private: Vec::new(),
            requests: 0,
        }
    }

    pub(super) fn run(&mut self) -> Result<(), Wrong> {
        // Another process may have left something there: what it is is not known.
        for run in 0..self.world.runs {
            self.stripes
                .push(self.take(run * RUN + VERSIONED, self.number * STRIPE, STRIPE)?);
            self.private
                .push(self.take(run * RUN + VERSIONED + 1, 0, PAGE)?);
        }
        while !self.world.stop.load(SeqCst) {
            self.requests += 1;
            match self.random.below(100) {
                0..40 => self.write_versions()?,
                40..60 => self.read_versions()?,
                60..76 => self.read_others()?,
                76..90 => self.stripe()?,
                _ => self.private()?,
            }
        }
        self.world.count("requests", self.requests);
        while self.world.operators.load(SeqCst) > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.compare()
    }

    /// Everything that this thread wrote, when nothing fails any more.
    fn compare(&self) -> Result<(), Wrong> {
        let ledger = self.world.ledger;
        for run in 0..self.world.runs {
            let at = run * RUN;
            if run % THREADS == self.number {
                for page in at..at + VERSIONED {
                    if self.take(page, 0, PAGE)? != version(page, ledger.acknowledged(page)) {
                        return Err(format!(
                            "page {page} is not version {}",
                            ledger.acknowledged(page)
                        ));
                    }
                }
                if self.take(at + VERSIONED + 1, 0, PAGE)? != self.private[run as usize] {
                    return Err(format!(
                        "page {} is not what was written",
                        at + VERSIONED + 1
                    ));
                }
            }
            let stripe = self.take(at + VERSIONED, self.number * STRIPE, STRIPE)?;
            if stripe != self.stripes[run as usize] {
                return Err(format!(
                    "a stripe of page {} is not what was written",
                    at + VERSIONED
                ));
            }
        }
        Ok(())
    }

    fn take(&self, page: u64, at: u64, len: u64) -> Result<Vec<u8>, Wrong> {
        loop {
            let mut bytes = vec![0; len as usize];
            let read = || self.world.device.read_at(&mut bytes, page * PAGE + at);
            if self.world.request("the first read", read, |_| ())? {
                return Ok(bytes);
            }
        }
    }

    /// One of this thread's runs.
    fn own_run(&mut self) -> u64 {
        self.random.below(self.world.runs / THREADS) * THREADS + self.number
    }

    /// Some of the versioned pages of one of this thread's runs.
    fn own_pages(&mut self) -> std::ops::Range<u64> {
        let first = self.random.below(VERSIONED);
        let run = self.own_run() * RUN;
        run + first..run + self.random.within(first + 1, VERSIONED)
    }

    fn write_versions(&mut self) -> Result<(), Wrong> {
        let (device, ledger) = (self.world.device, self.world.ledger);
        let pages = self.own_pages();
        let (at, len) = (pages.start * PAGE, (pages.end - pages.start) * PAGE);
        let mut next: Vec<u32> = pages.clone().map(|page| ledger.begun(page) + 1).collect();
        if self.random.percent(15) {
            // The next versions that are discards.
            next.iter_mut()
                .for_each(|next| *next += (5 + 16 - *next % 16) % 16);
            pages
                .clone()
                .zip(&next)
                .for_each(|(page, next)| ledger.begin(page, *next));
            let how = self.random.below(3);
            let discard = || match how {
                0 => device.write_zeroes(at, len, Zeroes::Allocate),
                1 => device.write_zeroes(at, len, Zeroes::Deallocate),
                _ => device.discard(at, len),
            };
            self.world.request("a discard", discard, |_| ())?;
            pages
                .zip(&next)
                .for_each(|(page, next)| ledger.acknowledge(page, *next));
            return Ok(());
        }
        next.iter_mut()
            .filter(|next| is_discard(**next))
            .for_each(|next| *next += 1);
        let bytes: Vec<u8> = pages
            .clone()
            .zip(&next)
            .flat_map(|(page, next)| version(page, *next))
            .collect();
        pages
            .clone()
            .zip(&next)
            .for_each(|(page, next)| ledger.begin(page, *next));
        let mut written = pages.end;
        self.world.request(
            "a write",
            || device.write_at(&bytes, at),
            |page| written = page,
        )?;
        let whole = pages.zip(&next).filter(|(page, _)| *page < written);
        whole.for_each(|(page, next)| ledger.acknowledge(page, *next));
        Ok(())
    }

    fn read_versions(&mut self) -> Result<(), Wrong> {
        let pages = self.own_pages();
        let mut bytes = vec![0xEE; ((pages.end - pages.start) * PAGE) as usize];
        let read = || self.world.device.read_at(&mut bytes, pages.start * PAGE);
        if !self.world.request("a read", read, |_| ())? {
            return Ok(());
        }
        for (page, bytes) in pages.zip(bytes.as_chunks::<PAGE_SIZE>().0) {
            let expected = self.world.ledger.acknowledged(page);
            if *bytes != version(page, expected) {
                return Err(format!(
                    "page {page} is {:?}, its owner wrote version {expected}, and began {}",
                    version_of(page, bytes),
                    self.world.ledger.begun(page)
                ));
            }
        }
        Ok(())
    }

    fn read_others(&mut self) -> Result<(), Wrong> {
        let ledger = self.world.ledger;
        let page = self.random.below(self.world.runs) * RUN + self.random.below(VERSIONED);
        let before = ledger.acknowledged(page);
        let mut bytes = [0xEE; PAGE_SIZE];
        let read = || self.world.device.read_at(&mut bytes, page * PAGE);
        if !self
            .world
            .request("a read of another's page", read, |_| ())?
        {
            return Ok(());
        }
        let mut versions = before..=ledger.begun(page);
        let right = match version_of(page, &bytes) {
            Some(0) => versions.any(is_discard),
            Some(version) => versions.contains(&version),
            None => false,
        };
        if right {
            return Ok(());
        }
        Err(format!(
            "another reads of page {page} {:?}, not a version from {before} to {}",
            version_of(page, &bytes),
            ledger.begun(page)
        ))
    }

    /// Part of a page whose other parts others write.
    fn stripe(&mut self) -> Result<(), Wrong> {
        let run = self.random.below(self.world.runs);
        let base = (run * RUN + VERSIONED) * PAGE + self.number * STRIPE;
        let stripe = &mut self.stripes[run as usize];
        part(self.world, &mut self.random, stripe, base, "a stripe")
    }

    /// Any part of a page that nobody else touches; now and then a discard.
    fn private(&mut self) -> Result<(), Wrong> {
        let run = self.own_run();
        let base = (run * RUN + VERSIONED + 1) * PAGE;
        let page = &mut self.private[run as usize];
        if self.random.percent(10) {
            page.fill(0);
            let discard = || self.world.device.discard(base, PAGE);
            return self.world.request("a discard", discard, |_| ()).map(drop);
        }
        part(self.world, &mut self.random, page, base, "a part")
    }
}

/// Reads or writes a part of `known`, which lies at `base`.
fn part(
    world: &World<'_>,
    random: &mut Random,
    known: &mut [u8],
    base: u64,
    what: &str,
) -> Result<(), Wrong> {
    let at = random.below(known.len() as u64);
    let len = random.within(1, known.len() as u64 - at);
    let known = &mut known[at as usize..(at + len) as usize];
    if random.percent(50) {
        let bytes = Fill::random(random).bytes(known.len());
        if world.request(what, || world.device.write_at(&bytes, base + at), |_| ())? {
            known.copy_from_slice(&bytes);
        }
        return Ok(());
    }
    let mut bytes = vec![0xEE; known.len()];
    let read = || world.device.read_at(&mut bytes, base + at);
    if world.request(what, read, |_| ())? && bytes != known {
        return Err(format!(
            "{what} of page {} is not what was written",
            base / PAGE
        ));
    }
    Ok(())
}
