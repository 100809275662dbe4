//! What a device's pages are, by age, and what other codecs would make of them: a walk over the table, and a sample of pages
//! that is compressed anew and thrown away. For whoever decides on a policy.
//!
//! Nothing changes. Memory is a page and a context for each codec; no lock is held but a slot's while its page is read.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uzram_compress::Tfm;
use uzram_pool::{HUGE_THRESHOLD, class_size};

use crate::apis::JobsApi;
use crate::codec::{Choice, Codec, PRIORITIES, Residence};
use crate::cpu_time::cpu_time;
use crate::device::Device;
use crate::recompress::Pace;
use crate::train::sample_each;
use crate::word::{Content, INCOMPRESSIBLE};
use crate::{Error, PAGE_SIZE};

/// Least ages of the groups, in seconds: a minute, 5 minutes, half an hour, 2 hours, 8 hours, a day, a week.
pub const AGE_GROUPS: [u64; 8] = [0, 60, 300, 1800, 7200, 28_800, 86_400, 604_800];
/// Most pages that are sampled.
const MAX_PAGES: usize = 16 << 10;
/// Most codecs that are tried.
const MAX_CODECS: usize = 8;
/// Pages of the walk between two calls of the caller's pace.
const WALK: usize = 1 << 16;

/// What to look at.
#[derive(Debug, Clone)]
pub struct Inspect {
    /// Pages to sample, at most 16384; 0: none. Default: 4096.
    pub sample_pages: usize,
    /// How long sampling may take; it goes on with what it has then. Default: 10 s.
    pub patience: Duration,
    /// What to compress the sample with, at most 8, beside the secondaries.
    pub choices: Vec<Choice>,
}

impl Default for Inspect {
    fn default() -> Inspect {
        Inspect {
            sample_pages: 4096,
            patience: Duration::from_secs(10),
            choices: Vec::new(),
        }
    }
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct InspectReport {
    /// For how many seconds ages are kept, so that no page can be older; `None`: they are not, and all pages are in the first
    /// group.
    pub ages_seconds: Option<u64>,
    /// The pages that have an object in memory, by the time since their last access: a group for each of [`AGE_GROUPS`].
    pub groups: Vec<AgeGroup>,
    /// Those marked incompressible among them: no secondary made them smaller.
    pub incompressible_pages: u64,
    /// Pages that share their object with others: these are never recompressed, and are not sampled.
    pub shared_pages: u64,
    /// Pages that were sampled.
    pub sampled_pages: u64,
    /// What the sample was compressed with: the secondaries by their priorities, then the others.
    pub codecs: Vec<InspectedCodec>,
}

/// Pages of an age.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct AgeGroup {
    /// The least age in seconds.
    pub least_seconds: u64,
    /// Pages that have an object of their own in memory.
    pub pages: u64,
    /// Memory of these objects, each counted as its size class.
    pub object_bytes: u64,
    /// Of these pages, those that were sampled.
    pub sampled_pages: u64,
    /// The memory of their objects.
    pub sampled_bytes: u64,
    /// What each codec saves of that, in the order of [`InspectReport::codecs`].
    pub saved: Vec<Saved>,
}

/// What a codec saves on the sampled pages of a group. A page that it makes no smaller saves nothing, as recompression leaves it
/// alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Saved {
    /// Pages that become smaller.
    pub pages: u64,
    /// Bytes, by size classes.
    pub bytes: u64,
    /// The sum of the squares of each page's bytes, from which follows how exact the sample is.
    pub squares: u64,
}

/// A codec that the sample was compressed with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct InspectedCodec {
    /// Algorithm and parameters, as on a command line; a dictionary is left out.
    pub algorithm: String,
    /// Its priority, 1 to 3, 0 where the device has it not.
    pub priority: usize,
    /// Processor time to compress a page, in nanoseconds.
    pub compress_ns: u64,
    /// Processor time to decompress what became smaller, in nanoseconds a page; 0 where nothing did.
    pub decompress_ns: u64,
}

impl AgeGroup {
    /// Bytes of memory that a codec would save on all pages of the group, and by how much that may be wrong, since it is reckoned
    /// from a sample: two standard errors. `None` where none of them was sampled.
    pub fn savings(&self, codec: usize) -> Option<(u64, u64)> {
        let saved = self.saved.get(codec)?;
        if self.sampled_pages == 0 {
            return (self.pages == 0).then_some((0, 0));
        }
        let (sampled, pages) = (self.sampled_pages as f64, self.pages as f64);
        let mean = saved.bytes as f64 / sampled;
        let variance = (saved.squares as f64 / sampled - mean * mean).max(0.0);
        // All pages, nothing is guessed.
        let unseen = ((pages - sampled) / pages).max(0.0);
        let error = 2.0 * pages * (variance / sampled * unseen).sqrt();
        Some(((mean * pages) as u64, error as u64))
    }
}

/// A codec at work.
struct Trial {
    priority: usize,
    codec: Arc<Codec>,
    tfm: Box<dyn Tfm>,
    compress: Duration,
    decompress: Duration,
    compressed: u64,
    decompressed: u64,
}

impl Trial {
    fn new(priority: usize, codec: Arc<Codec>) -> Result<Trial, Error> {
        Ok(Trial {
            priority,
            tfm: codec.context(Residence::Ready)?,
            codec,
            compress: Duration::ZERO,
            decompress: Duration::ZERO,
            compressed: 0,
            decompressed: 0,
        })
    }

    /// Bytes that it saves on a page whose object takes `now`; `None` where it makes it no smaller.
    fn saving(&mut self, page: &[u8; PAGE_SIZE], now: usize) -> Option<u64> {
        let (mut object, mut back) = ([0; 2 * PAGE_SIZE], [0; PAGE_SIZE]);
        let begin = cpu_time();
        let len = self.tfm.compress(&page[..], &mut object);
        let between = cpu_time();
        self.compress += between.saturating_sub(begin);
        self.compressed += 1;
        let len = len.ok().filter(|len| *len < HUGE_THRESHOLD)?;
        let less = now.checked_sub(class_size(len)).filter(|less| *less > 0)? as u64;
        let between = cpu_time();
        let read = self.tfm.decompress(&object[..len], &mut back);
        // What does not read back saves nothing.
        read.ok().filter(|_| back == *page)?;
        self.decompress += cpu_time().saturating_sub(between);
        self.decompressed += 1;
        Some(less)
    }

    fn report(&self) -> InspectedCodec {
        let (name, params) = (self.codec.algorithm.name(), self.codec.params_text());
        let each = |time: Duration, count: u64| (time.as_nanos() / u128::from(count.max(1))) as u64;
        InspectedCodec {
            algorithm: match params.is_empty() {
                true => name.into(),
                false => format!("{name}({params})"),
            },
            priority: self.priority,
            compress_ns: each(self.compress, self.compressed),
            decompress_ns: each(self.decompress, self.decompressed),
        }
    }
}

/// Tells a page's group.
struct Grouping<'a> {
    device: &'a Device,
    now: Option<u32>,
}

impl Grouping<'_> {
    fn group(&self, page: u64) -> usize {
        let age = self
            .now
            .map_or(0, |now| u64::from(self.device.zram().age(page, now)));
        AGE_GROUPS
            .iter()
            .rposition(|least| *least <= age)
            .unwrap_or(0)
    }
}

impl JobsApi<'_> {
    /// Counts the pages in memory by age, and compresses a sample of them with the secondaries and other codecs, to say what
    /// each would save. Changes nothing. `pace` is called with the pages that were sampled since; when it breaks, what was found by
    /// then is returned.
    ///
    /// [`Error::Invalid`] for more than 8 choices, [`Error::Compress`] for one that is not possible.
    pub fn inspect(self, what: &Inspect, pace: Pace<'_>) -> Result<InspectReport, Error> {
        let mut trials = self.trials(what)?;
        let grouping = Grouping {
            device: self.0,
            now: self.0.ages.now(),
        };
        let mut report = InspectReport {
            ages_seconds: grouping.now.map(|_| self.0.zram().greatest_age()),
            groups: AGE_GROUPS
                .iter()
                .map(|&least_seconds| AgeGroup {
                    least_seconds,
                    saved: vec![Saved::default(); trials.len()],
                    ..AgeGroup::default()
                })
                .collect(),
            ..InspectReport::default()
        };
        for (walked, page) in self.0.table.touched(0, u64::MAX).enumerate() {
            let (content, flags) = self.0.table.peek_flags(page);
            if matches!(content, Content::Shared { .. }) {
                report.shared_pages += 1;
            } else if let Some(bytes) = memory(content) {
                let group = &mut report.groups[grouping.group(page)];
                group.pages += 1;
                group.object_bytes += bytes as u64;
                report.incompressible_pages += u64::from(flags & INCOMPRESSIBLE != 0);
            }
            if walked % WALK == WALK - 1 && pace(0).is_break() {
                return Ok(report);
            }
        }
        let deadline = Instant::now() + what.patience;
        let wanted = what.sample_pages.min(MAX_PAGES);
        let suits = |content| memory(content).is_some();
        if wanted > 0 {
            sample_each(self.0, wanted, deadline, suits, |page, content, bytes| {
                let Some(now) = memory(content) else {
                    return ControlFlow::Continue(());
                };
                let group = &mut report.groups[grouping.group(page)];
                group.sampled_pages += 1;
                group.sampled_bytes += now as u64;
                report.sampled_pages += 1;
                for (trial, saved) in trials.iter_mut().zip(&mut group.saved) {
                    if let Some(bytes_saved) = trial.saving(bytes, now) {
                        saved.pages += 1;
                        saved.bytes += bytes_saved;
                        saved.squares += bytes_saved * bytes_saved;
                    }
                }
                pace(1)
            });
        }
        report.codecs = trials.iter().map(Trial::report).collect();
        Ok(report)
    }

    fn trials(self, what: &Inspect) -> Result<Vec<Trial>, Error> {
        if what.choices.len() > MAX_CODECS {
            return Err(Error::Invalid {
                what: "the number of algorithms to try",
                given: what.choices.len().to_string(),
                accepted: format!("at most {MAX_CODECS}"),
            });
        }
        let mut trials: Vec<Trial> = Vec::new();
        for priority in 1..PRIORITIES {
            if let Some((_, codec)) = self.0.codecs.by_priority(priority) {
                trials.push(Trial::new(priority, codec)?);
            }
        }
        for choice in &what.choices {
            let codec = Codec::new(&self.0.registry, choice)?;
            if !trials.iter().any(|trial| trial.codec.is_same_as(&codec)) {
                trials.push(Trial::new(0, Arc::new(codec))?);
            }
        }
        Ok(trials)
    }
}

/// Memory of a page's own object, which is its size class; `None` where it has none in memory, or shares it.
fn memory(content: Content) -> Option<usize> {
    match content {
        Content::Compressed { len, .. } => Some(class_size(len.into())),
        Content::Huge { .. } => Some(class_size(PAGE_SIZE)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_sample_is_exact_and_a_part_says_how_exact() {
        let saved = Saved {
            pages: 2,
            bytes: 300,
            squares: 100 * 100 + 200 * 200,
        };
        let mut group = AgeGroup {
            pages: 2,
            sampled_pages: 2,
            saved: vec![saved],
            ..AgeGroup::default()
        };
        assert_eq!(group.savings(0), Some((300, 0)));
        assert_eq!(group.savings(1), None);
        group.pages = 200;
        let (bytes, error) = group.savings(0).unwrap();
        assert_eq!(bytes, 30_000);
        // The deviation is 50, the standard error 35, of all pages 7036.
        assert!((14_000..14_143).contains(&error), "{error}");
        group.sampled_pages = 0;
        assert_eq!(group.savings(0), None);
        group.pages = 0;
        assert_eq!(group.savings(0), Some((0, 0)));
    }
}
