//! The one schedule of all measurements. Contestants take turns on the same work, round after round, and what counts is the
//! median over the rounds of the ratio within a round: noise that lasts longer than a round hits all of them alike.

use std::ops::Range;
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use uzram::{Device, PAGE_SIZE, Stats};

/// The contestants of a round, in the order of their turns.
///
/// Every second round has the order of the one before reversed, and every second round begins with another contestant:
/// nobody is always first, and nobody always follows the same other.
pub fn order(round: usize, contestants: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..contestants).collect();
    order.rotate_left(round / 2 % contestants.max(1));
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// Seconds of each contestant in each round.
pub struct Rounds {
    seconds: Vec<Vec<f64>>,
}

impl Rounds {
    /// Runs every contestant once a round.
    pub fn run(count: usize, contestants: &mut [&mut dyn FnMut(usize)]) -> Rounds {
        Rounds::of(count, contestants, |contestant, round| contestant(round))
    }

    /// The same of contestants that have their turns in common.
    pub fn of<T>(count: usize, contestants: &mut [T], turn: impl FnMut(&mut T, usize)) -> Rounds {
        Rounds::after(0, count, contestants, turn)
    }

    /// Runs each turn twice and counts the second time: for contestants that are over so soon, and so alike, that the first
    /// of a round would pay for what caches and branch predictors learn for the others.
    pub fn run_warmed(count: usize, contestants: &mut [&mut dyn FnMut(usize)]) -> Rounds {
        Rounds::after(1, count, contestants, |contestant, round| contestant(round))
    }

    fn after<T>(
        warmings: usize,
        count: usize,
        contestants: &mut [T],
        mut turn: impl FnMut(&mut T, usize),
    ) -> Rounds {
        let mut seconds = vec![Vec::with_capacity(count); contestants.len()];
        for round in 0..count {
            for who in order(round, contestants.len()) {
                for _ in 0..warmings {
                    turn(&mut contestants[who], round);
                }
                let start = Instant::now();
                turn(&mut contestants[who], round);
                seconds[who].push(start.elapsed().as_secs_f64());
            }
        }
        Rounds { seconds }
    }

    /// Median of `who`'s time over `base`'s in the same round.
    pub fn ratio(&self, who: usize, base: usize) -> f64 {
        self.median(|at, round| at(who, round) / at(base, round))
    }

    /// Median over the rounds of what `of` makes of the contestants' seconds: of those of a contestant in a round.
    pub fn median(&self, of: impl Fn(&dyn Fn(usize, usize) -> f64, usize) -> f64) -> f64 {
        let at = |who: usize, round: usize| self.seconds[who][round];
        let count = self.seconds.first().map_or(0, Vec::len);
        median((0..count).map(|round| of(&at, round)).collect())
    }

    /// Median throughput in megabytes a second, where a turn is of so many bytes.
    pub fn mb_s(&self, who: usize, bytes: usize) -> f64 {
        bytes as f64 / self.seconds(who) / 1e6
    }

    /// Median seconds of a round.
    pub fn seconds(&self, who: usize) -> f64 {
        median(self.seconds[who].clone())
    }
}

/// The items of a turn: `batch` of `count`, or all if there are fewer, from another place in each round. A `stride` above 1
/// keeps rounds that follow each other apart.
pub(crate) fn turn(round: usize, stride: usize, batch: usize, count: usize) -> Range<usize> {
    let at = round * stride % (count / batch).max(1) * batch;
    at..(at + batch).min(count)
}

/// Writes pages to a device from its beginning on.
pub(crate) fn fill<'a>(
    device: &Device,
    pages: impl IntoIterator<Item = &'a [u8; PAGE_SIZE]>,
) -> Result<(), uzram::Error> {
    let mut pages = (0..).step_by(PAGE_SIZE).zip(pages);
    pages.try_for_each(|(at, page)| device.write_at(page, at))
}

/// What a clock says, in seconds.
pub(crate) fn clock_seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// All memory that a device takes, in bytes: pool, table, books and streams.
pub(crate) fn all_memory(stats: &Stats) -> f64 {
    (stats.mem_used_total_bytes + stats.table_bytes + stats.metadata_bytes) as f64
}

/// Numbers that are scattered and the same in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// One of 31 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        self.0 >> 33
    }

    /// One below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }
}

/// Shuffles in a way that is the same in every run.
pub fn shuffle<T>(items: &mut [T]) {
    let mut random = Random::new(0x9E37_79B9_7F4A_7C15);
    for at in (1..items.len()).rev() {
        items.swap(at, random.below(at + 1));
    }
}

/// Numbers from 0 on, shuffled.
pub fn shuffled(count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    shuffle(&mut order);
    order
}

/// The middle value; of an even number the mean of the two. 0 for none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => 0.0,
        _ if n % 2 == 1 => values[n / 2],
        _ => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn every_contestant_runs_once_a_round() {
        let (mut a, mut b) = (0, 0);
        let rounds = Rounds::run(5, &mut [&mut |_| a += 1, &mut |_| b += 1]);
        assert!(rounds.ratio(0, 0) == 1.0 && rounds.seconds(1) >= 0.0);
        assert_eq!((a, b), (5, 5));
        let mut turns = 0;
        let rounds = Rounds::run_warmed(5, &mut [&mut |_| turns += 1]);
        assert_eq!((rounds.seconds[0].len(), turns), (5, 10));
    }

    #[test]
    fn everybody_is_first_and_last_equally_often() {
        for contestants in 1..7 {
            let (mut first, mut last) = (vec![0; contestants], vec![0; contestants]);
            for round in 0..2 * contestants {
                let order = order(round, contestants);
                let mut sorted = order.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..contestants).collect::<Vec<_>>());
                first[order[0]] += 1;
                last[order[contestants - 1]] += 1;
            }
            assert_eq!(first, vec![2; contestants]);
            assert_eq!(last, vec![2; contestants]);
        }
        assert!(order(3, 0).is_empty());
    }
}
