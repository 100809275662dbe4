//! Pages, chosen at random, each as likely as any other.

mod command;
mod file;
mod process;

use crate::{Error, PAGE};

pub use command::from_command;
pub use file::from_file;
pub use process::from_processes;

/// Fewest pages that say anything, same-filled ones not counted: half of them train dictionaries.
pub const LEAST_PAGES: usize = 64;
/// Most pages that can be sampled, 1 GiB.
pub const MOST_PAGES: usize = 1 << 18;

/// Sampled pages. They are overwritten when this is dropped.
pub struct Sample {
    /// What they are of.
    pub what: String,
    /// Pages that there were to choose from.
    pub population: u64,
    /// Pages sampled.
    pub sampled: usize,
    /// Of these, pages that repeat one word: no algorithm gets to see them.
    pub same_filled: usize,
    /// The others, in random order.
    pages: Vec<[u8; PAGE]>,
}

impl Sample {
    fn new(what: String, population: u64) -> Sample {
        Sample {
            what,
            population,
            sampled: 0,
            same_filled: 0,
            pages: Vec::new(),
        }
    }

    fn add(&mut self, page: &[u8; PAGE]) {
        self.sampled += 1;
        let words = page.as_chunks::<8>().0;
        if words.iter().all(|word| *word == words[0]) {
            self.same_filled += 1;
        } else {
            self.pages.push(*page);
        }
    }

    /// Shuffles the pages, so that neighbours, which are alike, come to both halves by chance.
    fn finish(mut self) -> Result<Sample, Error> {
        let mut random = Random::new();
        for end in (1..self.pages.len()).rev() {
            let other = random.below(end as u64 + 1) as usize;
            self.pages.swap(end, other);
        }
        if self.pages.len() < LEAST_PAGES {
            return Err(Error::TooFew {
                what: self.what.clone(),
                pages: self.pages.len(),
                least: LEAST_PAGES,
            });
        }
        Ok(self)
    }

    /// The half that dictionaries are trained on.
    pub fn training(&self) -> &[[u8; PAGE]] {
        &self.pages[..self.pages.len() / 2]
    }

    /// The half that everything is measured on.
    pub fn measured(&self) -> &[[u8; PAGE]] {
        &self.pages[self.pages.len() / 2..]
    }

    /// Part of the sampled pages that is same-filled.
    pub fn same_filled_share(&self) -> f64 {
        self.same_filled as f64 / self.sampled.max(1) as f64
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        self.pages.as_flattened_mut().fill(0);
        // Else the compiler would see that nobody reads them.
        std::hint::black_box(self.pages.as_flattened());
    }
}

impl std::fmt::Debug for Sample {
    /// Without the pages.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sample")
            .field("what", &self.what)
            .field("sampled", &self.sampled)
            .finish_non_exhaustive()
    }
}

fn check_count(count: usize) -> Result<(), Error> {
    if (2 * LEAST_PAGES..=MOST_PAGES).contains(&count) {
        return Ok(());
    }
    Err(Error::Invalid {
        what: "samples",
        given: count as u64,
        accepted: format!("{} to {MOST_PAGES} pages", 2 * LEAST_PAGES),
    })
}

/// Of a stream of any length, `count` items, each as likely as any other.
struct Reservoir<T> {
    count: usize,
    seen: u64,
    kept: Vec<T>,
    random: Random,
}

impl<T> Reservoir<T> {
    fn new(count: usize) -> Reservoir<T> {
        Reservoir {
            count,
            seen: 0,
            kept: Vec::new(),
            random: Random::new(),
        }
    }

    fn offer(&mut self, item: T) {
        self.seen += 1;
        if self.kept.len() < self.count {
            self.kept.push(item);
            return;
        }
        let place = self.random.below(self.seen);
        if let Some(old) = self.kept.get_mut(place as usize) {
            *old = item;
        }
    }
}

/// xorshift64*: what is chosen need not be secret, only scattered.
struct Random(u64);

impl Random {
    fn new() -> Random {
        Random(0x9E37_79B9_7F4A_7C15)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservoir_keeps_each_item_about_as_often_as_any_other() {
        let mut kept = [0u32; 100];
        for round in 0..2000 {
            let mut reservoir = Reservoir::new(10);
            reservoir.random.0 ^= round << 8;
            (0..100usize).for_each(|item| reservoir.offer(item));
            reservoir.kept.iter().for_each(|item| kept[*item] += 1);
        }
        // 200 expected each.
        assert!(kept.iter().all(|n| (120..290).contains(n)), "{kept:?}");
    }

    #[test]
    fn same_filled_pages_are_counted_and_not_kept() {
        let mut sample = Sample::new("test".into(), 100);
        for n in 0..100u8 {
            let mut page = [n; PAGE];
            page[7] = n.wrapping_add(n % 4 % 2);
            sample.add(&page);
        }
        let sample = sample.finish();
        assert!(matches!(sample, Err(Error::TooFew { pages: 50, .. })));
    }
}
