//! Traces: which frames of a snapshot a workload reads, under a name, so that they can be fetched ahead.
//!
//! A trace lies under `trace/MANIFEST~NAME` and is collected with its manifest. Hosts add to it: what one adds while another does
//! may be lost where the store honours no conditions, which costs a fetch.

use serde::{Deserialize, Serialize};
use uzram_snapshot::Digest;

use crate::error::{Error, Result};
use crate::objects::{self, MAX_JSON_BYTES, VERSION};
use crate::remote::Remote;
use crate::store::{StoreErrorKind, When};

/// What the keys of traces begin with.
pub(crate) const PREFIX: &str = "trace/";
/// Runs of frames that a trace may have: its object stays below the most bytes of one.
const MAX_RUNS: usize = 12_000;
/// How often an addition is tried while others add, too.
const TRIES: usize = 8;

/// What a trace says.
#[derive(Debug, Serialize, Deserialize)]
struct TraceBody {
    uzram: String,
    version: u64,
    /// First frame and count of each run, in ascending order.
    frames: Vec<(u32, u32)>,
}

/// Runs of ascending numbers.
fn to_runs(frames: &[u32]) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for frame in frames {
        match runs.last_mut() {
            Some((first, count)) if first.checked_add(*count) == Some(*frame) => *count += 1,
            _ => runs.push((*frame, 1)),
        }
    }
    runs
}

/// The manifest in a trace's key.
pub(crate) fn manifest_in(key: &str) -> Option<Digest> {
    let (manifest, _) = key.strip_prefix(PREFIX)?.split_once('~')?;
    manifest.parse().ok()
}

fn key(manifest: Digest, name: &str) -> String {
    format!("{PREFIX}{manifest}~{name}")
}

impl Remote {
    /// The frames of a trace, ascending; none where there is no such trace.
    pub fn trace(&self, manifest: Digest, name: &str) -> Result<Vec<u32>> {
        Ok(self.read_trace(&key(manifest, name))?.0)
    }

    fn read_trace(&self, key: &str) -> Result<(Vec<u32>, When)> {
        let (bytes, version) = match self.store.get(key, MAX_JSON_BYTES) {
            Err(error) if error.kind == StoreErrorKind::NotFound => {
                return Ok((Vec::new(), When::New));
            }
            found => found?,
        };
        let body: TraceBody = objects::parse(key, "trace", &bytes)?;
        let foreign = || Error::Foreign {
            what: key.into(),
            kind: "trace",
            why: "its frames are in no order".into(),
        };
        let mut frames: Vec<u32> = Vec::new();
        for (first, count) in body.frames {
            let is_next = frames.last().is_none_or(|last| *last < first);
            let end = first.checked_add(count).filter(|_| is_next && count > 0);
            // No disk has more: what says so is no trace.
            let end = end.filter(|end| *end < 1 << 28).ok_or_else(foreign)?;
            frames.extend(first..end);
        }
        Ok((frames, When::Unchanged(version)))
    }

    /// Adds frames to a trace, or begins it. `true` where it grew.
    pub fn add_to_trace(&self, manifest: Digest, name: &str, frames: &[u32]) -> Result<bool> {
        self.to_write()?;
        let key = key(manifest, name);
        for _ in 0..TRIES {
            let (before, when) = self.read_trace(&key)?;
            let mut all = [&before[..], frames].concat();
            all.sort_unstable();
            all.dedup();
            if all == before {
                return Ok(false);
            }
            let runs = to_runs(&all);
            if runs.len() > MAX_RUNS {
                return Err(Error::Usage(format!(
                    "the trace {name} has too many pieces: {}, and {MAX_RUNS} is the most",
                    runs.len()
                )));
            }
            let body = TraceBody {
                uzram: "trace".into(),
                version: VERSION,
                frames: runs,
            };
            let when = match self.config.conditional {
                true => when,
                false => When::Always,
            };
            let bytes = serde_json::to_vec(&body).unwrap_or_default();
            match self.store.put(&key, &bytes, &when) {
                Err(error) if error.kind.is_settled_by_a_look() => {}
                written => return Ok(written.map(|_| true)?),
            }
        }
        // Others add without end; what they found serves as well.
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_kept_in_runs() {
        assert_eq!(to_runs(&[]), []);
        assert_eq!(to_runs(&[3, 4, 5, 9, 11]), [(3, 3), (9, 1), (11, 1)]);
        assert_eq!(to_runs(&[u32::MAX]), [(u32::MAX, 1)]);
        let name = Digest([3; 32]);
        assert_eq!(manifest_in(&key(name, "boot")), Some(name));
        assert_eq!(manifest_in("trace/x~boot"), None);
    }

    /// The longest body is read back.
    #[test]
    fn the_most_runs_fit() {
        let frames = (0..MAX_RUNS as u32).map(|run| (200_000_000 + run * 2, 1));
        let body = TraceBody {
            uzram: "trace".into(),
            version: VERSION,
            frames: frames.collect(),
        };
        let bytes = serde_json::to_vec(&body).unwrap();
        assert!(bytes.len() < MAX_JSON_BYTES as usize, "{}", bytes.len());
    }
}
