//! Trains a dictionary on a device's pages, off the request path: samples pages, trains on one half, evaluates on the
//! other, adopts it if it pays.
//!
//! `sample` reads the pages, `compare` evaluates. No lock is held meanwhile, so requests only share the processor
//! with it. The number of samples bounds its memory.

mod compare;
mod sample;

use std::sync::Arc;
use std::time::{Duration, Instant};

use uzram_compress::dictionary;

pub use compare::pays;

use crate::apis::JobsApi;
use crate::codec::{Codec, PRIORITIES};
use crate::{Error, PAGE_SIZE};

/// Most pages that are sampled, 64 MiB.
const MAX_PAGES: usize = 16 << 10;

/// Decides whether a change of codec pays, from the ratio of stored bytes and that of compression speed. Says why, or
/// why not.
pub type Rule = fn(f64, f64) -> Result<String, String>;

/// How to train.
#[derive(Debug, Clone)]
pub struct Training {
    /// The priority of the algorithm to train for: 0, the primary (the default), or that of a secondary.
    pub priority: usize,
    /// The longest dictionary in bytes. Default: 16 KiB.
    pub dictionary_bytes: usize,
    /// Pages to sample, at most 16384; half of them are trained on. Default: 4096.
    pub sample_pages: usize,
    /// How long sampling may take; it goes on with what it has then. Training and judging take about as long as
    /// compressing the samples ten times. Default: 5 s.
    pub patience: Duration,
    /// What decides whether the dictionary is adopted. Default: [`pays`].
    pub rule: Rule,
    /// Only find out whether it would pay.
    pub dry_run: bool,
}

impl Default for Training {
    fn default() -> Training {
        Training {
            priority: 0,
            dictionary_bytes: dictionary::DEFAULT_BYTES,
            sample_pages: 4096,
            patience: Duration::from_secs(5),
            rule: pays,
            dry_run: false,
        }
    }
}

/// What came of a training. Ratios are plain bytes over stored bytes of the pages that were judged, none of which was
/// trained on.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TrainReport {
    /// Pages sampled.
    pub pages_sampled: usize,
    /// Of these, pages judged.
    pub pages_judged: usize,
    /// Ratio with the codec in use.
    pub ratio_before: f64,
    /// Ratio with the new dictionary.
    pub ratio_after: f64,
    /// Compression speed with the new dictionary over that of the codec in use, taking turns.
    pub speed_ratio: f64,
    /// Length of the dictionary.
    pub dictionary_bytes: usize,
    /// Its cost in memory: dictionary, digests of it, contexts of readers.
    pub memory_cost_bytes: u64,
    /// Whether the device compresses with it now.
    pub adopted: bool,
    /// Why, or why not.
    pub reason: String,
}

impl JobsApi<'_> {
    /// Trains a dictionary for the primary or a secondary on pages of the device, and adopts it if it pays
    /// ([`Training::rule`]). Objects keep their codec until they are rewritten. A dictionary in use already is
    /// compared in the same way, and replaced. Takes some seconds; belongs in a thread that no request waits for.
    ///
    /// [`Error::Invalid`] where there is no algorithm of that priority, [`Error::NoDictionary`] where it takes none.
    /// [`Error::Compress`] where the pages are too few or have nothing in common, or the length is out of range. Else
    /// as [`Device::set_algorithm`](crate::Device::set_algorithm).
    pub fn train(self, training: &Training) -> Result<TrainReport, Error> {
        let current = self.codec_to_train(training.priority)?;
        let spec = current
            .algorithm
            .dictionary()
            .ok_or_else(|| self.no_dictionary(&current))?;
        let deadline = Instant::now() + training.patience;
        let pages = sample::sample(self.0, training.sample_pages.min(MAX_PAGES), deadline);
        let level = current.settings.c_int("level");
        let (samples, judged): (Vec<&[u8]>, Vec<_>) = pages
            .chunks_exact(2)
            .map(|pair| (&pair[0][..], &pair[1]))
            .unzip();
        let bytes = dictionary::train(spec, level, &samples, training.dictionary_bytes)?;
        let dictionary_bytes = bytes.len();
        let candidate = current.with_dictionary(Arc::from(bytes))?;
        let verdict = compare::compare(&current, &candidate, &judged)?;
        let memory_cost_bytes = self.cost(&candidate)?;
        let plain = (judged.len() * PAGE_SIZE) as f64;
        let mut report = TrainReport {
            pages_sampled: pages.len(),
            pages_judged: judged.len(),
            ratio_before: plain / verdict.bytes_before as f64,
            ratio_after: plain / verdict.bytes_after as f64,
            speed_ratio: verdict.speed_ratio,
            dictionary_bytes,
            memory_cost_bytes,
            adopted: false,
            reason: String::new(),
        };
        let size_ratio = verdict.bytes_after as f64 / verdict.bytes_before as f64;
        report.reason = match (training.rule)(size_ratio, verdict.speed_ratio) {
            Err(reason) => reason,
            Ok(reason) if training.dry_run => format!("{reason}; only tried"),
            Ok(reason)
                if self
                    .0
                    .set_codec(training.priority, candidate, Some(&current))? =>
            {
                report.adopted = true;
                reason
            }
            Ok(_) => "the algorithm was changed meanwhile".into(),
        };
        Ok(report)
    }

    fn codec_to_train(self, priority: usize) -> Result<Arc<Codec>, Error> {
        let codec = (priority < PRIORITIES).then(|| self.0.codecs.by_priority(priority));
        let missing = || Error::Invalid {
            what: "training for priority",
            given: priority.to_string(),
            accepted: "0 for the primary algorithm, or the priority of a secondary that is set"
                .into(),
        };
        Ok(codec.flatten().ok_or_else(missing)?.1)
    }

    fn no_dictionary(self, codec: &Codec) -> Error {
        let takers = self.0.registry.iter().filter(|a| a.dictionary().is_some());
        let names: Vec<_> = takers.map(|a| a.driver_name()).collect();
        Error::NoDictionary {
            driver: codec.algorithm.driver_name(),
            takers: names.join(", "),
        }
    }

    /// Memory that a codec with a dictionary takes beyond the encoders of the one before.
    fn cost(self, candidate: &Codec) -> Result<u64, Error> {
        let one: usize = candidate
            .decoders(1)?
            .iter()
            .map(|decoder| decoder.memory_bytes())
            .sum();
        let contexts = one * self.0.streams.count();
        let stored = candidate.dictionary().len().next_multiple_of(PAGE_SIZE);
        Ok((candidate.prepared.memory_bytes() + stored + contexts) as u64)
    }
}
