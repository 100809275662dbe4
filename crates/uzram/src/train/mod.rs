//! Trains a dictionary on a device's pages, off the request path: samples pages, trains on one half, evaluates on the
//! other, adopts it if it pays.
//!
//! `sample` reads the pages, `compare` evaluates. No lock is held meanwhile, so requests only share the processor
//! with it. The number of samples bounds its memory.
//!
//! It has three steps, since the second takes nearly all of the time and needs no device, so that any thread can do it:
//! a [`Lesson`] is sampled, learnt from, and what was [`Learnt`] is adopted.

mod compare;
mod sample;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use uzram_compress::{DictionaryForm, DictionarySpec, dictionary};

use compare::Verdict;
pub use compare::{pays, pays_unasked};
pub(crate) use sample::sample_each;

use crate::apis::JobsApi;
use crate::codec::{Codec, Generation, PRIORITIES, Residence};
use crate::word::Content;
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
    /// What decides whether the dictionary is adopted. Default: [`pays`]; see [`JobsApi::training_for`].
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
    /// The number of the generation that was adopted; 0: none was.
    #[cfg_attr(feature = "serde", serde(default))]
    pub generation: u32,
}

/// Pages to learn from, and for which codec.
pub(crate) struct Lesson {
    current: Arc<Codec>,
    spec: DictionarySpec,
    dictionary_bytes: usize,
    pages: Vec<[u8; PAGE_SIZE]>,
}

/// A codec with a new dictionary, and how it compares with the one in use.
pub(crate) struct Learnt {
    current: Arc<Codec>,
    candidate: Codec,
    verdict: Verdict,
    pages_sampled: usize,
    pages_judged: usize,
}

impl Learnt {
    /// The part of the stored bytes that it saves.
    pub(crate) fn saving(&self) -> f64 {
        1.0 - self.verdict.bytes_after as f64 / self.verdict.bytes_before as f64
    }

    /// Speed of compression over that of the codec in use.
    pub(crate) fn speed_ratio(&self) -> f64 {
        self.verdict.speed_ratio
    }
}

impl Lesson {
    /// Trains on every second page and judges by the others. Takes processor time and memory, and no lock.
    pub(crate) fn learn(self) -> Result<Learnt, Error> {
        let level = self.current.settings.c_int("level");
        let (samples, judged): (Vec<&[u8]>, Vec<_>) = self
            .pages
            .chunks_exact(2)
            .map(|pair| (&pair[0][..], &pair[1]))
            .unzip();
        let bytes = dictionary::train(self.spec, level, &samples, self.dictionary_bytes)?;
        let candidate = self.current.with_dictionary(Arc::from(bytes))?;
        let verdict = compare::compare(&self.current, &candidate, &judged)?;
        Ok(Learnt {
            verdict,
            candidate,
            pages_sampled: self.pages.len(),
            pages_judged: judged.len(),
            current: self.current,
        })
    }
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
        let lesson = self.lesson(training, false)?;
        self.adopt(lesson.learn()?, training)
    }

    /// The defaults for the algorithm of a priority: one that trains itself has another rule ([`pays_unasked`]).
    pub fn training_for(self, priority: usize) -> Training {
        let codec = (priority < PRIORITIES).then(|| self.0.codecs.by_priority(priority));
        let trains_itself = codec
            .flatten()
            .is_some_and(|(_, codec)| codec.algorithm.trains_itself());
        Training {
            priority,
            rule: if trains_itself { pays_unasked } else { pays },
            ..Training::default()
        }
    }

    /// The dictionary in use at a priority, as its algorithm takes it; `None` where there is none.
    pub fn dictionary(self, priority: usize) -> Option<Vec<u8>> {
        let codec = (priority < PRIORITIES).then(|| self.0.codecs.by_priority(priority));
        let (_, codec) = codec.flatten()?;
        let bytes = codec.dictionary();
        (!bytes.is_empty()).then(|| bytes.to_vec())
    }

    /// Samples pages. With `latest` those that the present codec compressed, as long as they are enough, since they are the
    /// best guess at what will be written.
    pub(crate) fn lesson(self, training: &Training, latest: bool) -> Result<Lesson, Error> {
        let (index, current) = self.codec_to_train(training.priority)?;
        let spec = current
            .algorithm
            .dictionary()
            .ok_or_else(|| self.no_dictionary(&current))?;
        let deadline = Instant::now() + training.patience;
        let wanted = training.sample_pages.min(MAX_PAGES);
        let enough = self.0.counters.codec_totals(index.into()).0 >= wanted as u64;
        let suits = |content: Content| {
            !(latest && enough) || content.is_huge() || content.codec() == Some(index)
        };
        // A collection has its own size, and is no worse for being allowed more.
        let most = match spec.form {
            DictionaryForm::Collection => spec.max_bytes,
            _ => usize::MAX,
        };
        Ok(Lesson {
            pages: sample::sample(self.0, wanted, deadline, suits),
            current,
            spec,
            dictionary_bytes: training.dictionary_bytes.min(most),
        })
    }

    /// Compresses with what was learnt from now on, if it pays.
    pub(crate) fn adopt(self, learnt: Learnt, training: &Training) -> Result<TrainReport, Error> {
        let Learnt {
            current,
            mut candidate,
            verdict,
            pages_sampled,
            pages_judged,
            ..
        } = learnt;
        let memory_cost_bytes = self.cost(&candidate)?;
        let plain = (pages_judged * PAGE_SIZE) as f64;
        let mut report = TrainReport {
            pages_sampled,
            pages_judged,
            ratio_before: plain / verdict.bytes_before as f64,
            ratio_after: plain / verdict.bytes_after as f64,
            speed_ratio: verdict.speed_ratio,
            dictionary_bytes: candidate.dictionary().len(),
            memory_cost_bytes,
            adopted: false,
            reason: String::new(),
            generation: 0,
        };
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        candidate.generation = Some(Generation {
            // Numbered when it is admitted.
            number: 0,
            at_seconds: since_1970.map_or(0, |since| since.as_secs()),
            pages_trained: (pages_sampled - pages_judged) as u32,
            pages_judged: pages_judged as u32,
            bytes_before: verdict.bytes_before as u32,
            bytes_after: verdict.bytes_after as u32,
        });
        let size_ratio = verdict.bytes_after as f64 / verdict.bytes_before as f64;
        report.reason = match (training.rule)(size_ratio, verdict.speed_ratio) {
            Err(reason) => reason,
            Ok(reason) if training.dry_run => format!("{reason}; only tried"),
            Ok(reason) => {
                match self
                    .0
                    .set_codec(training.priority, candidate, Some(&current))?
                {
                    Some(number) => {
                        (report.adopted, report.generation) = (true, number);
                        reason
                    }
                    None => "the algorithm was changed meanwhile".into(),
                }
            }
        };
        Ok(report)
    }

    fn codec_to_train(self, priority: usize) -> Result<(u8, Arc<Codec>), Error> {
        let codec = (priority < PRIORITIES).then(|| self.0.codecs.by_priority(priority));
        let missing = || Error::Invalid {
            what: "training for priority",
            given: priority.to_string(),
            accepted: "0 for the primary algorithm, or the priority of a secondary that is set"
                .into(),
        };
        codec.flatten().ok_or_else(missing)
    }

    fn no_dictionary(self, codec: &Codec) -> Error {
        let takers = self.0.registry.iter().filter(|a| a.dictionary().is_some());
        let names: Vec<_> = takers.map(|a| a.driver_name()).collect();
        Error::NoDictionary {
            driver: codec.algorithm.driver_name(),
            takers: names.join(", "),
        }
    }

    /// What adopting it would cost in memory, for whoever has not asked for it.
    pub(crate) fn cost_of(self, learnt: &Learnt) -> Result<u64, Error> {
        self.cost(&learnt.candidate)
    }

    /// Memory that a codec with a dictionary takes beyond the encoders of the one before.
    fn cost(self, candidate: &Codec) -> Result<u64, Error> {
        let one: usize = candidate
            .decoders(1, Residence::AsUsed)?
            .iter()
            .map(|decoder| decoder.memory_bytes())
            .sum();
        let contexts = one * self.0.streams.count();
        let stored = candidate.dictionary().len().next_multiple_of(PAGE_SIZE);
        Ok((candidate.prepared.memory_bytes() + stored + contexts) as u64)
    }
}
