//! The laboratory: every experiment that this project repeats, in one table. `uzram-bench lab`, `cargo xtask bench`, the
//! list that both print, and the renderer of kept records all read it.
//!
//! An experiment is one file and one line in [`EXPERIMENTS`].

use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value;

use crate::output::Outcome;
use crate::report::Report;
use crate::{api, attach, churn, codecs, core, dedup, dictionary, policy, rivals};

/// All of them, in the order of the list.
pub const EXPERIMENTS: &[&dyn Experiment] = &[
    &core::Core,
    &api::Api,
    &codecs::Codecs,
    &rivals::Rivals,
    &attach::Attach,
    &churn::Churn,
    &dictionary::Dictionary,
    &policy::Policy,
    &dedup::Dedup,
];

/// A measurement that can be made again.
pub trait Experiment: Sync {
    /// Its name, what it measures, and which settings it takes.
    fn card(&self) -> Card;

    /// Measures; `progress` is told what is under way.
    fn run(&self, how: &How, progress: &mut dyn FnMut(&str)) -> Result<Box<dyn Outcome>>;

    /// Reads a record of its own.
    fn read(&self, record: Value) -> Result<Box<dyn Outcome>> {
        read_rows(record)
    }
}

/// Reads the rows of any record.
pub(crate) fn read_rows(record: Value) -> Result<Box<dyn Outcome>> {
    Ok(Box::new(serde_json::from_value::<Report>(record)?))
}

/// What the list and the command line say of an experiment.
#[derive(Debug, Clone, Copy)]
pub struct Card {
    /// The name on a command line; records are of `bench NAME`.
    pub name: &'static str,
    /// What it measures, in a line.
    pub about: &'static str,
    /// Whether it takes a number of rounds,
    pub rounds: bool,
    /// a part of contestants' names,
    pub only: bool,
    /// a folder of pages.
    pub corpus: bool,
}

impl Card {
    /// An experiment that takes rounds and nothing else.
    pub(crate) fn new(name: &'static str, about: &'static str) -> Card {
        Card {
            name,
            about,
            rounds: true,
            only: false,
            corpus: false,
        }
    }
}

/// How to run an experiment.
#[derive(Debug, Clone, Default)]
pub struct How {
    /// A smoke test: a tenth of the work or less. Its figures mean little.
    pub quick: bool,
    /// How many rounds, where not as many as it takes.
    pub rounds: Option<usize>,
    /// Only contestants whose name contains this.
    pub only: String,
    /// Take pages from this folder ([`crate::corpus::stored`]) and do not make them now.
    pub corpus: Option<PathBuf>,
}

impl How {
    /// One of two sizes.
    pub(crate) fn size<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// The rounds that are wanted, or one of two.
    pub(crate) fn rounds(&self, full: usize, quick: usize) -> usize {
        self.rounds.unwrap_or(self.size(full, quick))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_experiment_has_a_name_of_its_own() {
        let cards: Vec<Card> = EXPERIMENTS.iter().map(|one| one.card()).collect();
        for (at, card) in cards.iter().enumerate() {
            assert!(!card.about.is_empty());
            let mut others = cards[..at].iter();
            assert!(others.all(|other| other.name != card.name));
        }
    }

    #[test]
    fn what_is_wanted_counts_before_what_is_usual() {
        let mut how = How::default();
        assert_eq!((how.size(7, 1), how.rounds(9, 3)), (7, 9));
        how.quick = true;
        assert_eq!((how.size(7, 1), how.rounds(9, 3)), (1, 3));
        how.rounds = Some(5);
        assert_eq!(how.rounds(9, 3), 5);
    }
}
