//! What uzramd notes of its devices over time: every 10 s for an hour, every 5 minutes for a day, every 2 hours for a month.
//!
//! A point that grows older than its hour or day is merged with others of its 5 minutes or 2 hours, which keeps the peak of
//! memory. So a device has at most 1020 points of 64 bytes, whatever its age. They belong to its identity: another device of the
//! same name begins anew.
//!
//! They outlive a daemon that ends in order, or is upgraded, by a file in the run directory, which is also written every 5 minutes:
//! what is killed loses no more than that. A reboot loses all, as it does the devices.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uzram_control::stat::Stat;
use uzram_control::{RunDir, RunningDevice};
use uzram_runtime::client;

/// Seconds between two points, and so many of them.
const LEVELS: [(u64, usize); 3] = [(10, 360), (300, 288), (7200, 372)];
/// How often it is looked for new devices, which get a point at once.
const LOOK: Duration = Duration::from_secs(1);
/// How often the file is written.
const SAVE: Duration = Duration::from_secs(300);
/// Longest file that is read.
const MAX_FILE: u64 = 64 << 20;
/// The file's version.
const VERSION: u32 = 1;

/// A device's memory at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HistoryPoint {
    /// The moment, in seconds since 1970.
    pub at_seconds: u64,
    /// Bytes of all written pages, as `orig_data_size`.
    pub data_bytes: u64,
    /// Bytes of the stored objects, as `compr_data_size`.
    pub object_bytes: u64,
    /// All memory: pool, table and books.
    pub memory_bytes: u64,
    /// The most of that since the point before.
    pub memory_bytes_max: u64,
    /// Bytes of the objects on the backing.
    pub backed_bytes: u64,
    /// Bytes read since the server was started.
    pub read_bytes: u64,
    /// Bytes written since the server was started.
    pub written_bytes: u64,
}

/// What uzramd has noted of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HistoryAnswer {
    /// The device's name.
    pub name: String,
    /// Its identity: another device of that name has another history.
    pub identity: String,
    /// Seconds between two points, the least age first: every 10 s for the last hour, every 300 s for a day, every 7200 s for 31
    /// days. Where more time lies between two points the daemon was not there, or the device did not answer.
    pub intervals_seconds: Vec<u64>,
    /// The points, the oldest first.
    pub points: Vec<HistoryPoint>,
}

impl HistoryPoint {
    fn new(at_seconds: u64, stat: &Stat) -> HistoryPoint {
        let memory_bytes = stat.all_memory();
        HistoryPoint {
            at_seconds,
            data_bytes: stat.counters.orig_data_size_bytes,
            object_bytes: stat.counters.compr_data_size_bytes,
            memory_bytes,
            memory_bytes_max: memory_bytes,
            backed_bytes: stat.counters.backed_data_size_bytes,
            read_bytes: stat.counters.read_bytes,
            written_bytes: stat.counters.write_bytes,
        }
    }
}

/// The points of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Points {
    /// Those of each level, the oldest first.
    levels: [VecDeque<HistoryPoint>; LEVELS.len()],
}

impl Points {
    /// Takes in a point, and thins what grows old.
    fn add(&mut self, point: HistoryPoint) {
        // The clock was set back: what is later than now did not happen yet.
        for level in &mut self.levels {
            while level
                .back()
                .is_some_and(|last| last.at_seconds >= point.at_seconds)
            {
                level.pop_back();
            }
        }
        let mut overflow = Some(point);
        for (level, (interval, most)) in self.levels.iter_mut().zip(LEVELS) {
            let Some(point) = overflow.take() else {
                return;
            };
            match level.back_mut() {
                Some(last) if last.at_seconds / interval == point.at_seconds / interval => {
                    let peak = last.memory_bytes_max.max(point.memory_bytes_max);
                    *last = point;
                    last.memory_bytes_max = peak;
                }
                _ => level.push_back(point),
            }
            if level.len() > most {
                overflow = level.pop_front();
            }
        }
    }

    fn all(&self) -> Vec<HistoryPoint> {
        self.levels.iter().rev().flatten().copied().collect()
    }
}

/// The file: points by identity.
#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    devices: BTreeMap<String, Vec<HistoryPoint>>,
}

/// What is noted of all devices.
#[derive(Default)]
pub(crate) struct History {
    devices: Mutex<BTreeMap<String, Points>>,
    file: Option<PathBuf>,
    /// One writes the file at a time.
    saving: Mutex<()>,
}

impl History {
    /// What a daemon before this one wrote to a file, if it can be read.
    pub(crate) fn read(file: PathBuf) -> History {
        let devices = read(&file).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, "{} is ignored", file.display());
            }
            BTreeMap::new()
        });
        History {
            devices: Mutex::new(devices),
            file: Some(file),
            saving: Mutex::default(),
        }
    }

    /// Notes the devices of a run directory from now on, by a thread of its own: one that does not answer is waited for.
    pub(crate) fn start(self: &Arc<History>, run: RunDir) -> io::Result<()> {
        let history = self.clone();
        let work = move || {
            let mut known = BTreeSet::new();
            let (mut noted, mut saved) = (None, Instant::now());
            loop {
                let entries = run.devices().unwrap_or_default();
                let now: BTreeSet<String> = entries.iter().map(identity).collect();
                let due = noted
                    .is_none_or(|at: Instant| at.elapsed() >= Duration::from_secs(LEVELS[0].0));
                if due || !now.is_subset(&known) {
                    history.note(&entries);
                    noted = Some(Instant::now());
                }
                history.forget_all_but(&now);
                known = now;
                if saved.elapsed() >= SAVE {
                    history.save();
                    saved = Instant::now();
                }
                std::thread::sleep(LOOK);
            }
        };
        let thread = std::thread::Builder::new().name("history".into());
        thread.spawn(work).map(drop)
    }

    fn devices(&self) -> MutexGuard<'_, BTreeMap<String, Points>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks all these devices at once.
    fn note(&self, entries: &[RunningDevice]) {
        let stats = client::survey(entries);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        let mut devices = self.devices();
        for (entry, stat) in entries.iter().zip(stats) {
            if let Ok(stat) = stat {
                let points = devices.entry(identity(entry)).or_default();
                points.add(HistoryPoint::new(now, &stat));
            }
        }
    }

    fn forget_all_but(&self, there: &BTreeSet<String>) {
        self.devices()
            .retain(|identity, _| there.contains(identity));
    }

    /// What is noted of a device.
    pub(crate) fn of(&self, entry: &RunningDevice) -> HistoryAnswer {
        let devices = self.devices();
        HistoryAnswer {
            name: entry.record.name.clone(),
            identity: entry.record.identity.clone(),
            intervals_seconds: LEVELS.iter().map(|(interval, _)| *interval).collect(),
            points: devices
                .get(&identity(entry))
                .map_or_else(Vec::new, Points::all),
        }
    }

    /// Writes it all down.
    pub(crate) fn save(&self) {
        let Some(file) = &self.file else {
            return;
        };
        let _alone = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let devices = self.devices();
        let points = devices
            .iter()
            .map(|(identity, points)| (identity.clone(), points.all()));
        let saved = Saved {
            version: VERSION,
            devices: points.collect(),
        };
        drop(devices);
        let write = || {
            let new = file.with_extension("json.new");
            std::fs::write(&new, serde_json::to_vec(&saved)?)?;
            std::fs::rename(&new, file)
        };
        let written: io::Result<()> = write();
        if let Err(error) = written {
            tracing::error!(%error, "{} cannot be written", file.display());
        }
    }
}

/// What no other device ever has; the name of one that an old program made without.
fn identity(entry: &RunningDevice) -> String {
    match entry.record.identity.as_str() {
        "" => entry.record.name.clone(),
        identity => identity.into(),
    }
}

/// What the file says, as thin as if all of it had been noted here.
fn read(file: &PathBuf) -> io::Result<BTreeMap<String, Points>> {
    let mut text = Vec::new();
    File::open(file)?.take(MAX_FILE).read_to_end(&mut text)?;
    let saved: Saved = serde_json::from_slice(&text)?;
    if saved.version != VERSION {
        let message = format!("it is of version {}", saved.version);
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let thinned = |saved: Vec<HistoryPoint>| {
        let mut points = Points::default();
        saved.into_iter().for_each(|point| points.add(point));
        points
    };
    let devices = saved.devices.into_iter();
    Ok(devices
        .map(|(name, points)| (name, thinned(points)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at_seconds: u64, memory: u64) -> HistoryPoint {
        HistoryPoint {
            at_seconds,
            memory_bytes: memory,
            memory_bytes_max: memory,
            ..HistoryPoint::default()
        }
    }

    /// Two months of points, with one peak.
    fn old(peak_at: u64) -> (Points, u64) {
        let mut points = Points::default();
        let end = 60 * 86_400;
        for at in (0..end).step_by(10) {
            points.add(point(at, if at == peak_at { 1000 } else { 1 }));
        }
        (points, end)
    }

    #[test]
    fn what_grows_old_is_thinned_and_keeps_its_peaks() {
        let peak = 50 * 86_400 + 330;
        let (points, end) = old(peak);
        let all = points.all();
        assert_eq!(all.len(), 360 + 288 + 372);
        assert!(all.is_sorted_by_key(|point| point.at_seconds));
        // An hour in tens of seconds, a day in 5 minutes, a month in 2 hours.
        let since = |age: u64| {
            all.iter()
                .filter(move |point| point.at_seconds >= end - age)
        };
        assert_eq!(since(3600).count(), 360);
        assert!((280..=290).contains(&(since(86_400 + 3600).count() - 360)));
        let first = all[0].at_seconds;
        assert!((31..34).contains(&((end - first) / 86_400)), "{first}");
        let peaks: Vec<_> = all.iter().filter(|p| p.memory_bytes_max == 1000).collect();
        assert_eq!(peaks.len(), 1);
        assert!(peaks[0].at_seconds.abs_diff(peak) < 7200);
        assert_eq!(peaks[0].memory_bytes, 1);
    }

    #[test]
    fn a_clock_that_is_set_back_leaves_no_point_of_the_future() {
        let mut points = Points::default();
        for at in [100, 110, 5000, 5010] {
            points.add(point(at, 1));
        }
        points.add(point(120, 2));
        let times: Vec<u64> = points.all().iter().map(|point| point.at_seconds).collect();
        assert_eq!(times, [100, 110, 120]);
    }

    #[test]
    fn it_reads_back_and_nonsense_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("history.json");
        let history = History::read(file.clone());
        assert!(history.devices().is_empty());
        let (points, _) = old(0);
        history.devices().insert("a".into(), points.clone());
        history.save();
        let back = History::read(file.clone());
        // The levels' borders may move: the points do not.
        assert_eq!(back.devices()["a"].all().len(), points.all().len());
        assert_eq!(back.devices()["a"].all().last(), points.all().last());
        back.forget_all_but(&BTreeSet::new());
        assert!(back.devices().is_empty());
        for text in ["", "{}", "[1]", r#"{"version":2,"devices":{}}"#] {
            std::fs::write(&file, text).unwrap();
            assert!(read(&file).is_err(), "{text}");
            assert!(History::read(file.clone()).devices().is_empty());
        }
    }
}
