//! The laboratory: every experiment that this project repeats, in one table. `uzram-bench lab`, `cargo xtask bench`, the
//! list that both print, and the renderer of kept records all read it.
//!
//! An experiment is one file and one line in [`EXPERIMENTS`].

use std::path::PathBuf;

use anyhow::Result;
use serde::de::DeserializeOwned;
use serde_json::Value;

#[cfg(feature = "contention")]
use crate::contention;
use crate::output::Outcome;
use crate::report::Report;
#[cfg(feature = "rivals")]
use crate::vhost_user;
use crate::{
    api, attach, churn, clone, codecs, core, devices, policy, rivals, scale, snapshot, training,
};

/// All of them, in the order of the list.
pub const EXPERIMENTS: &[Experiment] = &[
    core::EXPERIMENT,
    api::EXPERIMENT,
    codecs::EXPERIMENT,
    rivals::EXPERIMENT,
    attach::EXPERIMENT,
    churn::EXPERIMENT,
    policy::EXPERIMENT,
    training::EXPERIMENT,
    scale::EXPERIMENT,
    devices::EXPERIMENT,
    snapshot::EXPERIMENT,
    clone::EXPERIMENT,
    #[cfg(feature = "rivals")]
    vhost_user::EXPERIMENT,
    #[cfg(feature = "contention")]
    contention::EXPERIMENT,
];

/// Is told what is under way.
pub type Progress<'a> = &'a mut dyn FnMut(&str);

/// What an experiment or a reader of records hands out.
pub type LabResult = Result<Box<dyn Outcome>>;

/// A measurement that can be made again.
#[derive(Debug, Clone, Copy)]
pub struct Experiment {
    /// The name on a command line; records are of `bench NAME`.
    pub name: &'static str,
    /// What it measures, in a line.
    pub about: &'static str,
    /// Measures.
    pub run: fn(&How, Progress<'_>) -> LabResult,
    /// Reads a record of its own.
    pub read: fn(Value) -> LabResult,
    /// Whether it takes a number of rounds,
    pub rounds: bool,
    /// a part of contestants' names,
    pub only: bool,
    /// a folder of pages.
    pub corpus: bool,
}

impl Experiment {
    /// An experiment that takes rounds and nothing else, and whose record is a report.
    pub(crate) const fn new(
        name: &'static str,
        about: &'static str,
        run: fn(&How, Progress<'_>) -> LabResult,
    ) -> Experiment {
        Experiment {
            name,
            about,
            run,
            read: read::<Report>,
            rounds: true,
            only: false,
            corpus: false,
        }
    }
}

/// Reads a record of that kind; as a [`Report`], the rows of any.
pub(crate) fn read<T: Outcome + DeserializeOwned + 'static>(record: Value) -> LabResult {
    Ok(Box::new(serde_json::from_value::<T>(record)?))
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

/// How much an experiment does.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// Megabytes of each kind of pages.
    pub megabytes: usize,
    /// Rounds of each measurement.
    pub rounds: usize,
    /// Pages or requests in a contestant's turn.
    pub batch: usize,
}

impl How {
    /// One of two sizes.
    pub(crate) fn size<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Megabytes, rounds and batch: those of a full or of a quick run, and the rounds that are wanted.
    pub(crate) fn amount(&self, full: [usize; 3], quick: [usize; 3]) -> Amount {
        let [megabytes, rounds, batch] = self.size(full, quick);
        Amount {
            megabytes,
            rounds: self.rounds.unwrap_or(rounds),
            batch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_experiment_has_a_name_of_its_own() {
        for (at, one) in EXPERIMENTS.iter().enumerate() {
            assert!(!one.about.is_empty());
            let mut others = EXPERIMENTS[..at].iter();
            assert!(others.all(|other| other.name != one.name));
        }
    }

    #[test]
    fn what_is_wanted_counts_before_what_is_usual() {
        let mut how = How::default();
        let rounds = |how: &How| how.amount([1, 9, 1], [1, 3, 1]).rounds;
        assert_eq!((how.size(7, 1), rounds(&how)), (7, 9));
        how.quick = true;
        assert_eq!((how.size(7, 1), rounds(&how)), (1, 3));
        how.rounds = Some(5);
        assert_eq!(rounds(&how), 5);
    }
}
