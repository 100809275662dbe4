//! Taking turns: contestants run on the same batch of pages one after the other, round after round, and what
//! counts is the median over the rounds of the ratio within a round. Noise that lasts longer than a round
//! hits all of them alike.

use std::time::Instant;

/// Seconds of each contestant in each round.
pub struct Rounds {
    seconds: Vec<Vec<f64>>,
}

impl Rounds {
    /// Runs every contestant once a round; the order alternates from round to round.
    pub fn run(count: usize, contestants: &mut [&mut dyn FnMut(usize)]) -> Rounds {
        Rounds::run_after(0, count, contestants)
    }

    /// The same, but each does its turn twice and the second time counts: for contestants that are over so soon, and so
    /// alike, that the first of a round would pay for what caches and branch predictors learn for the others.
    pub fn run_warmed(count: usize, contestants: &mut [&mut dyn FnMut(usize)]) -> Rounds {
        Rounds::run_after(1, count, contestants)
    }

    fn run_after(
        warmings: usize,
        count: usize,
        contestants: &mut [&mut dyn FnMut(usize)],
    ) -> Rounds {
        let mut seconds = vec![Vec::with_capacity(count); contestants.len()];
        for round in 0..count {
            let mut order: Vec<usize> = (0..contestants.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for who in order {
                for _ in 0..warmings {
                    contestants[who](round);
                }
                let start = Instant::now();
                contestants[who](round);
                seconds[who].push(start.elapsed().as_secs_f64());
            }
        }
        Rounds { seconds }
    }

    /// Median of `who`'s time over `base`'s in the same round.
    pub fn ratio(&self, who: usize, base: usize) -> f64 {
        median(
            self.seconds[who]
                .iter()
                .zip(&self.seconds[base])
                .map(|(a, b)| a / b)
                .collect(),
        )
    }

    /// How many rounds there were.
    pub fn count(&self) -> usize {
        self.seconds.first().map_or(0, Vec::len)
    }

    /// Seconds of `who` in a round.
    pub fn at(&self, who: usize, round: usize) -> f64 {
        self.seconds[who][round]
    }

    /// Median seconds of a round.
    pub fn seconds(&self, who: usize) -> f64 {
        median(self.seconds[who].clone())
    }
}

/// Numbers from 0 on in a random order that is the same in every run.
pub fn shuffled(count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    for i in (1..count).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        order.swap(i, (state >> 33) as usize % (i + 1));
    }
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
        assert_eq!((rounds.count(), turns), (5, 10));
    }
}
