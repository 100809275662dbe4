//! What a request does to a device. Whoever serves one asks here for all that concerns only the device; what concerns how
//! it is served (is it open, who is to be told of a new size, may that path be a backing) is the server's.

use std::ops::ControlFlow;
use std::time::Duration;

use uzram::{
    BackingOptions, Choice, CodecStats, Device, Error, Inspect, PolicySettings, RecompressReport,
    Training, WritebackReport,
};

use crate::hex::{from_hex, to_hex};
use crate::policy::Policy;
use crate::protocol::{ControlError, RecompressRequest, Request, Response, WritebackRequest};
use crate::stat::Stat;
use crate::zram;

/// Most bytes that one request moves: some hundredths of a second. Whoever asks next does not wait for long.
const COMPACTION_SLICE: u64 = 32 << 20;
/// Most pages that one request brings: 32 MiB.
const HYDRATE_SLICE: u64 = 8192;
/// What recompresses where nobody chose anything.
const RECOMPRESSION: &str = "lzhs";

/// The algorithm for recompression where nobody chose one. A device whose primary it is gets none: its pages would be
/// compressed once more for nothing.
pub fn default_recompression(primary: &str) -> Option<Choice> {
    (primary != RECOMPRESSION).then(|| Choice::new(RECOMPRESSION))
}

/// Carries a request out. EINVAL for one that is not about a device alone.
pub fn execute(device: &Device, request: &Request) -> Result<Response, ControlError> {
    execute_paced(device, request, &|_| ControlFlow::Continue(()))
}

/// The same. `pace` is told how many pages what goes by pages has dealt with since it was last called, and may end it: what was
/// done by then stays, and is answered.
pub fn execute_paced(
    device: &Device,
    request: &Request,
    pace: &dyn Fn(u64) -> ControlFlow<()>,
) -> Result<Response, ControlError> {
    set(device, request, pace).map_err(|error| ControlError {
        errno: error.errno(),
        message: error.to_string(),
    })
}

/// How many pages a request has to deal with, as far as a look over the table can say; 0 where it does not go by pages, or cannot be
/// carried out.
pub fn total_pages(device: &Device, request: &Request) -> u64 {
    let most = |pages: u64, max_pages: u64| match max_pages {
        0 => pages,
        max => pages.min(max),
    };
    let zram = device.zram();
    match request {
        Request::Recompress(asked) if !asked.dry_run => {
            let found = zram.recompressible(&recompress_of(asked));
            most(found.map_or(0, |found| found.candidates), asked.max_pages)
        }
        Request::Writeback(asked) if !asked.dry_run => {
            let found = zram.writable_back(&writeback_of(asked));
            most(found.candidates, asked.max_pages)
        }
        Request::Promote { pages: None } => device.stats().backed_pages,
        Request::Promote {
            pages: Some((first, end)),
        } => device.stats().backed_pages.min(end.saturating_sub(*first)),
        Request::Inspect { sample_pages, .. } => *sample_pages as u64,
        Request::Hydrate => device.stats().remote_pages,
        _ => 0,
    }
}

/// Requests that set something; others go on to [`answer`].
fn set(
    device: &Device,
    request: &Request,
    pace: &dyn Fn(u64) -> ControlFlow<()>,
) -> Result<Response, Error> {
    let zram = device.zram();
    match request {
        Request::Ping => {}
        Request::Reset => device.reset(),
        Request::SetMemLimit { bytes } => device.set_mem_limit_bytes(*bytes),
        Request::SetTotalLimit { bytes } => device.set_total_limit_bytes(*bytes)?,
        Request::SetErase { on_free } => device.set_erase_on_free(*on_free),
        Request::SetSelfTraining { on } => {
            device.jobs().set_self_training(*on);
            if let Some(what) = zram::without_training(device.algorithm()) {
                return Ok(Response::Did { what: vec![what] });
            }
        }
        Request::ResetMemUsedMax => zram.reset_mem_used_max(),
        Request::SetDedup { on } => device.set_dedup(*on)?,
        Request::TrackAges { on } => zram.track_ages(*on)?,
        Request::SetAlgorithm {
            priority,
            algorithm,
            dictionary,
        } => set_algorithm(device, *priority, algorithm, dictionary)?,
        Request::Resize { bytes, .. } => device.resize(*bytes)?,
        Request::SetBacking {
            path: Some(path),
            size_bytes,
            seal,
            ..
        } => {
            let options = BackingOptions {
                size_bytes: *size_bytes,
                seal: *seal,
            };
            zram.attach_backing(path, options)?;
        }
        Request::SetBacking { path: None, .. } => {
            let left = zram.detach_backing()?.left;
            if !left.is_empty() {
                return Ok(Response::Did { what: vec![left] });
            }
        }
        Request::SetWritebackLimit { pages } => zram.set_writeback_limit(*pages),
        Request::SetPolicy { spec } => set_policy(device, spec)?,
        _ => return answer(device, request, pace),
    }
    Ok(Response::Done)
}

/// Requests about what is stored, and those that have an answer.
fn answer(
    device: &Device,
    request: &Request,
    pace: &dyn Fn(u64) -> ControlFlow<()>,
) -> Result<Response, Error> {
    let zram = device.zram();
    Ok(match request {
        Request::Stat => Response::Stat(Box::new(Stat::new(device))),
        Request::Train {
            priority,
            dictionary_bytes,
            dry_run,
        } => Response::Trained(device.jobs().train(&Training {
            dictionary_bytes: *dictionary_bytes,
            dry_run: *dry_run,
            ..device.jobs().training_for(*priority)
        })?),
        Request::Dictionary { priority } => {
            let bytes = device.jobs().dictionary(*priority).unwrap_or_default();
            Response::Dictionary {
                bytes: to_hex(&bytes),
            }
        }
        Request::CountIdle => {
            let idle = zram.slots(0).filter(|slot| slot.idle).count();
            Response::Marked { pages: idle as u64 }
        }
        Request::MarkIdle { age_seconds } => {
            let pages = zram.mark_idle(age_seconds.map(Duration::from_secs))?;
            Response::Marked { pages }
        }
        Request::MarkIdleExactly { age_seconds } => {
            let pages = zram.mark_idle_exactly(Duration::from_secs(*age_seconds))?;
            Response::Marked { pages }
        }
        Request::Recompress(what) => Response::Recompressed(recompress(device, what, pace)?),
        Request::Compact { max_bytes } => {
            let most = (*max_bytes).min(COMPACTION_SLICE);
            let done = device.jobs().compact(most);
            if done.finished
                && zram
                    .backing()
                    .is_some_and(|backing| backing.store.is_some())
            {
                // What lies in a store costs. What is in the way is in the statistics; the memory was compacted.
                let _ = zram.compact_backing(usize::MAX);
            }
            Response::Compacted(done)
        }
        Request::Writeback(what) => Response::WrittenBack(writeback(device, what, pace)?),
        Request::Promote { pages } => {
            let pages = pages.map(|(first, end)| first..end);
            Response::Promoted(zram.promote(pages, &mut |done| pace(done))?)
        }
        Request::Hydrate => {
            let mut left = HYDRATE_SLICE;
            Response::Hydrated(device.jobs().hydrate(&mut |pages| {
                left = left.saturating_sub(pages);
                if pace(pages).is_break() {
                    return ControlFlow::Break(());
                }
                match left {
                    0 => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                }
            })?)
        }
        Request::BlockState { from, max_bytes } => {
            let (lines, next) = zram::block_state_lines(device, *from, *max_bytes);
            Response::BlockState { lines, next }
        }
        Request::PoolClasses => Response::PoolClasses {
            classes: zram.pool_classes(),
        },
        Request::Inspect {
            sample_pages,
            algorithms,
        } => {
            let choices = algorithms.iter().map(|text| text.parse());
            let what = Inspect {
                sample_pages: *sample_pages,
                choices: choices.collect::<Result<_, Error>>()?,
                ..Inspect::default()
            };
            Response::Inspected(device.jobs().inspect(&what, &mut |done| pace(done))?)
        }
        Request::Policy { plan } => Response::Policy(Box::new(Policy::new(device, *plan))),
        _ => {
            return Err(Error::Invalid {
                what: "the request",
                given: format!("{request:?}"),
                accepted: "what this server knows".into(),
            });
        }
    })
}

fn set_algorithm(
    device: &Device,
    priority: usize,
    algorithm: &str,
    dictionary: &str,
) -> Result<(), Error> {
    if algorithm.is_empty() {
        return device.set_secondary(priority, None);
    }
    let mut choice: Choice = algorithm.parse()?;
    let bytes = from_hex(dictionary).ok_or_else(|| Error::Invalid {
        what: "dictionary",
        given: "in this request".into(),
        accepted: "hexadecimal digits".into(),
    })?;
    if !bytes.is_empty() {
        choice = choice.dictionary(bytes);
    }
    match priority {
        0 => device.set_algorithm(&choice),
        _ => device.set_secondary(priority, Some(&choice)),
    }
}

/// Sets what is done in the background, and what that needs.
fn set_policy(device: &Device, spec: &str) -> Result<(), Error> {
    let settings: PolicySettings = spec.parse()?;
    let codecs = device.codecs();
    let is_secondary = |codec: &CodecStats| codec.priorities.iter().any(|p| *p > 0);
    let primary = codecs.iter().find(|codec| codec.priorities.contains(&0));
    if settings.recompress_seconds.is_some()
        && !codecs.iter().any(is_secondary)
        && let Some(choice) = primary.and_then(|codec| default_recompression(&codec.algorithm))
    {
        device.set_secondary(1, Some(&choice))?;
    }
    device.jobs().set_policy(settings)
}

fn recompress_of(asked: &RecompressRequest) -> uzram::Recompress {
    uzram::Recompress {
        kind: asked.kind,
        priority: asked.priority,
        threshold: asked.threshold,
        max_pages: asked.max_pages,
        ..uzram::Recompress::default()
    }
}

fn writeback_of(asked: &WritebackRequest) -> uzram::Writeback {
    let pages = asked.pages.iter().map(|(first, end)| *first..*end);
    uzram::Writeback {
        kind: asked.kind,
        pages: pages.collect(),
        max_pages: asked.max_pages,
        ..uzram::Writeback::default()
    }
}

fn recompress(
    device: &Device,
    asked: &RecompressRequest,
    pace: &dyn Fn(u64) -> ControlFlow<()>,
) -> Result<RecompressReport, Error> {
    let what = recompress_of(asked);
    if asked.dry_run {
        return device.zram().recompressible(&what);
    }
    device.zram().recompress(&what, &mut |done| pace(done))
}

fn writeback(
    device: &Device,
    asked: &WritebackRequest,
    pace: &dyn Fn(u64) -> ControlFlow<()>,
) -> Result<WritebackReport, Error> {
    let what = writeback_of(asked);
    if asked.dry_run {
        return Ok(device.zram().writable_back(&what));
    }
    device.zram().writeback(&what, &mut |done| pace(done))
}
