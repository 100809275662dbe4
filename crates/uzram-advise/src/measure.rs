//! What each algorithm makes of the sampled pages: stored bytes and speed, at several levels, with and without a
//! dictionary.
//!
//! The candidates take turns, a round after another, so that whatever else the machine does hits all of them alike; the
//! median of a candidate's rounds counts. One thread.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use uzram_compress::{Algorithm, ParamKind, Prepared, Registry, Settings, Tfm, dictionary};
use uzram_pool::{HUGE_THRESHOLD, class_size};

use crate::sample::Sample;
use crate::{Error, PAGE};

/// Rounds unless the caller says otherwise.
pub const ROUNDS: usize = 5;
/// Levels that are measured besides the default, by algorithm: those at which size or speed changes noticeably. An
/// algorithm that is not named here is measured at its default.
const LEVELS: &[(&str, &[i64])] = &[
    ("lz4", &[4]),
    ("lz4hc", &[4]),
    ("zstd", &[-5, -1, 1, 6, 9]),
    ("deflate", &[1, 9]),
];
/// A device's word for a page, in bytes.
const WORD: f64 = 8.0;

/// What was measured of one algorithm with one set of parameters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// Name of the algorithm.
    pub algorithm: String,
    /// Name of the driver.
    pub driver: String,
    /// Parameters other than the defaults, as `level=3`.
    pub params: String,
    /// Length of the dictionary, 0 for none.
    pub dictionary_bytes: usize,
    /// Plain bytes over compressed bytes, of pages that are not same-filled.
    pub ratio: f64,
    /// Bytes that fit each byte of memory, same-filled pages, size classes and table included.
    pub capacity: f64,
    /// Part of the pages that is stored as it is.
    pub huge_share: f64,
    /// Compression of plain bytes, in MiB a second.
    pub write_mib_s: f64,
    /// Decompression to plain bytes, in MiB a second.
    pub read_mib_s: f64,
    /// By which part two rounds of the same work differed in speed: the median of rounds that followed each other, of both
    /// directions. `None` of a single round.
    pub noise: Option<f64>,
    /// Memory that a worker's context takes, as far as its library tells.
    pub context_bytes: usize,
}

impl Measured {
    /// As `--algorithm` takes it, `zstd(level=1)`, the dictionary aside.
    pub fn spec(&self) -> String {
        match self.params.as_str() {
            "" => self.algorithm.clone(),
            params => format!("{}({params})", self.algorithm),
        }
    }
}

/// How to measure.
#[derive(Debug, Clone)]
pub struct MeasureOptions {
    /// Rounds, at least 1.
    pub rounds: usize,
    /// Longest dictionary in bytes, 0 for none.
    pub dictionary_bytes: usize,
    /// Only the default levels.
    pub quick: bool,
}

impl Default for MeasureOptions {
    fn default() -> MeasureOptions {
        MeasureOptions {
            rounds: ROUNDS,
            dictionary_bytes: dictionary::DEFAULT_BYTES,
            quick: false,
        }
    }
}

/// A candidate at work.
struct Runner {
    algorithm: Arc<dyn Algorithm>,
    settings: Settings,
    prepared: Arc<dyn Prepared>,
    tfm: Box<dyn Tfm>,
    writes: Vec<f64>,
    reads: Vec<f64>,
}

/// Compressed pages, one after another: a length for each, 0 for one that is stored as it is.
#[derive(Default)]
struct Objects {
    bytes: Vec<u8>,
    lengths: Vec<usize>,
}

/// Measures every algorithm of the registry. `progress` is told after each turn how many there were, and of how many.
///
/// Where a dictionary cannot be trained (pages that have nothing in common, a build without a trainer), there are no
/// candidates with one.
pub fn measure(
    sample: &Sample,
    registry: &Registry,
    options: &MeasureOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Measured>, Error> {
    let mut runners = Vec::new();
    for name in registry.names() {
        let algorithm = registry.find(name)?;
        for level in levels(&**algorithm, options.quick) {
            let settings =
                Settings::new(&**algorithm, PAGE, level.map(|n| ("level", n.to_string())))?;
            if let Some(with) = with_dictionary(&**algorithm, &settings, sample, options)? {
                runners.push(Runner::new(algorithm, with)?);
            }
            runners.push(Runner::new(algorithm, settings)?);
        }
    }
    let rounds = options.rounds.max(1);
    let turns = rounds * runners.len();
    let mut objects = Objects::default();
    let mut measured = Vec::with_capacity(runners.len());
    let mut done = 0;
    for round in 0..rounds {
        for runner in &mut runners {
            runner.take_turn(sample, &mut objects)?;
            if round + 1 == rounds {
                measured.push(runner.result(sample, &objects));
            }
            done += 1;
            progress(done, turns);
        }
    }
    Ok(measured)
}

fn levels(algorithm: &dyn Algorithm, quick: bool) -> Vec<Option<i64>> {
    let mut levels = vec![None];
    let spec = algorithm.params().iter().find(|spec| spec.name == "level");
    let more = LEVELS.iter().find(|(name, _)| *name == algorithm.name());
    if let (Some(spec), Some((_, more)), false) = (spec, more, quick) {
        let ParamKind::Int { min, max, .. } = spec.kind else {
            return levels;
        };
        let possible = more.iter().filter(|level| (min..=max).contains(level));
        levels.extend(possible.map(|level| Some(*level)));
    }
    levels
}

fn with_dictionary(
    algorithm: &dyn Algorithm,
    settings: &Settings,
    sample: &Sample,
    options: &MeasureOptions,
) -> Result<Option<Settings>, Error> {
    let Some(spec) = algorithm
        .dictionary()
        .filter(|_| options.dictionary_bytes > 0)
    else {
        return Ok(None);
    };
    let samples: Vec<&[u8]> = sample.training().iter().map(|page| &page[..]).collect();
    let bytes = options.dictionary_bytes.min(spec.max_bytes);
    match dictionary::train(spec, settings.c_int("level"), &samples, bytes) {
        Ok(dictionary) => {
            let with = settings
                .clone()
                .with_dictionary(algorithm, Arc::from(dictionary))?;
            Ok(Some(with))
        }
        Err(uzram_compress::Error::Training { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Runner {
    fn new(algorithm: &Arc<dyn Algorithm>, settings: Settings) -> Result<Runner, Error> {
        let prepared = algorithm.prepare(&settings)?;
        Ok(Runner {
            algorithm: algorithm.clone(),
            tfm: prepared.tfm()?,
            settings,
            prepared,
            writes: Vec::new(),
            reads: Vec::new(),
        })
    }

    /// Compresses all pages, then decompresses all objects.
    fn take_turn(&mut self, sample: &Sample, objects: &mut Objects) -> Result<(), Error> {
        let pages = sample.measured();
        let mib = (pages.len() * PAGE) as f64 / f64::from(1 << 20);
        // What a device gives an encoder: two pages.
        objects.bytes.resize((pages.len() + 2) * PAGE, 0);
        objects.lengths.clear();
        let begin = Instant::now();
        let mut end = 0;
        for page in pages {
            let room = &mut objects.bytes[end..end + 2 * PAGE];
            let len = self.tfm.compress(page, room).unwrap_or(PAGE);
            let len = if len < HUGE_THRESHOLD { len } else { 0 };
            objects.lengths.push(len);
            end += len;
        }
        self.writes
            .push(mib / begin.elapsed().as_secs_f64().max(1e-9));
        let mut back = [0; PAGE];
        let begin = Instant::now();
        let mut at = 0;
        for (len, page) in objects.lengths.iter().zip(pages) {
            match *len {
                0 => back.copy_from_slice(page),
                len => {
                    let object = &objects.bytes[at..at + len];
                    match self.prepared.stateless() {
                        Some(stateless) => stateless.decompress(object, &mut back)?,
                        None => self.tfm.decompress(object, &mut back)?,
                    };
                }
            }
            std::hint::black_box(&back);
            at += len;
        }
        self.reads
            .push(mib / begin.elapsed().as_secs_f64().max(1e-9));
        Ok(())
    }

    fn result(&mut self, sample: &Sample, objects: &Objects) -> Measured {
        let pages = objects.lengths.len() as f64;
        let stored = |len: &usize| if *len == 0 { PAGE } else { *len };
        let compressed = objects.lengths.iter().map(stored).sum::<usize>() as f64;
        let classes = |len: &usize| class_size(stored(len));
        let memory = objects.lengths.iter().map(classes).sum::<usize>() as f64;
        // Of all pages the same-filled ones take nothing but their words.
        let all = pages / (1.0 - sample.same_filled_share());
        let huge = objects.lengths.iter().filter(|len| **len == 0).count() as f64;
        let dictionary = self.settings.dictionary();
        Measured {
            algorithm: self.algorithm.name().into(),
            driver: self.algorithm.driver_name().into(),
            params: self.settings.params_text(&*self.algorithm),
            dictionary_bytes: dictionary.map_or(0, |bytes| bytes.len()),
            ratio: pages * PAGE as f64 / compressed,
            capacity: all * PAGE as f64 / (memory + all * WORD),
            huge_share: huge / pages,
            noise: noise(&[&self.writes, &self.reads]),
            write_mib_s: median(&mut self.writes),
            read_mib_s: median(&mut self.reads),
            context_bytes: self.tfm.memory_bytes(),
        }
    }
}

/// The median part by which speeds that follow each other differ; `None` where none does.
fn noise(of: &[&[f64]]) -> Option<f64> {
    let pairs = of.iter().flat_map(|speeds| speeds.windows(2));
    let mut parts: Vec<f64> = pairs
        .map(|pair| pair[0].max(pair[1]) / pair[0].min(pair[1]) - 1.0)
        .collect();
    (!parts.is_empty()).then(|| median(&mut parts))
}

/// By which part two rounds of the same work differed in speed: the median of all candidates. Smaller differences between
/// two of them say nothing. `None` of a single round.
pub fn noise_of_all(measured: &[Measured]) -> Option<f64> {
    let mut parts: Vec<f64> = measured.iter().filter_map(|one| one.noise).collect();
    (!parts.is_empty()).then(|| median(&mut parts))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_what_rounds_of_the_same_work_differ_by() {
        assert_eq!(noise(&[&[100.0], &[50.0]]), None, "a single round");
        let of = noise(&[&[100.0, 110.0, 99.0], &[50.0, 50.0, 60.0]]).unwrap();
        // Parts of 0.1, 0.111, 0 and 0.2.
        assert!((0.1..0.12).contains(&of), "{of}");
        assert_eq!(noise_of_all(&[]), None);
    }
}
