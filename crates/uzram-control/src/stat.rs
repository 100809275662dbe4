//! A device's statistics as they travel: one serialisable value, and zram's own text formats of it.

use serde::{Deserialize, Serialize};
use uzram::{
    BackingStats, CodecStats, CompactReport, Device, Ended, RecompressReport, Stats, TrainReport,
    WritebackReport,
};

/// The statistics of one device at one moment. Names and meanings are those of zram's `mm_stat` and `io_stat`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// Size of the device.
    pub disksize: u64,
    /// Algorithm in use.
    pub algorithm: String,
    /// Its driver.
    pub driver: String,
    /// Number of compression streams.
    pub streams: u64,
    /// Every counter, each under its name.
    #[serde(flatten)]
    pub counters: Stats,
    /// What is done in the background.
    #[serde(default)]
    pub policy: String,
    /// What of it was done last, and why.
    #[serde(default)]
    pub policy_last: String,
    /// Pages that may still be written back; `None`: no limit.
    #[serde(default)]
    pub writeback_limit: Option<u64>,
    /// The backing, if there is one.
    #[serde(default)]
    pub backing: Option<Backing>,
    /// Whether the ages of pages' last accesses are kept.
    #[serde(default)]
    pub tracks_ages: bool,
    /// Whether pages that are written are looked up among what is stored.
    #[serde(default)]
    pub dedup: bool,
    /// The algorithms with a priority, and those that objects are left of.
    #[serde(default)]
    pub codecs: Vec<Codec>,
    /// Longest time that the server looks for a client's next request before it sleeps, 0 for never; `None` where the
    /// frontend has no such setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll_microseconds: Option<u64>,
}

/// An algorithm with its parameters and dictionary, and what is compressed with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Codec {
    /// The algorithm.
    pub algorithm: String,
    /// Its driver.
    pub driver: String,
    /// The parameters that differ from the defaults, as `level=1`.
    pub params: String,
    /// Length of its dictionary, 0 for none.
    pub dictionary_bytes: u64,
    /// Memory of dictionary and readers' contexts.
    pub memory_bytes: u64,
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub object_bytes: u64,
    /// Priorities: 0 for the primary, 1 to 3 for recompression; none: only there for its objects.
    pub priorities: Vec<usize>,
}

impl From<CodecStats> for Codec {
    fn from(stats: CodecStats) -> Codec {
        Codec {
            algorithm: stats.algorithm.into(),
            driver: stats.driver.into(),
            params: stats.params,
            dictionary_bytes: stats.dictionary_bytes,
            memory_bytes: stats.memory_bytes,
            objects: stats.objects,
            object_bytes: stats.object_bytes,
            priorities: stats.priorities,
        }
    }
}

/// As it is written on a command line, but for the dictionary, of which the length is told: `zstd(level=1,dict:16384)`.
impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dictionary = match self.dictionary_bytes {
            0 => String::new(),
            bytes => format!("dict:{bytes}"),
        };
        let words = [self.params.as_str(), dictionary.as_str()];
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        match words.is_empty() {
            true => f.write_str(&self.algorithm),
            false => write!(f, "{}({})", self.algorithm, words.join(",")),
        }
    }
}

/// What came of a training: see [`TrainReport`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Pages sampled; half of them were trained on.
    pub pages_sampled: usize,
    /// Pages judged, none of which was trained on.
    pub pages_judged: usize,
    /// Ratio of the judged pages as the device compressed so far.
    pub ratio_before: f64,
    /// Their ratio with the new dictionary.
    pub ratio_after: f64,
    /// Compression speed with it over the speed so far.
    pub speed_ratio: f64,
    /// Length of the dictionary.
    pub dictionary_bytes: usize,
    /// Memory that it costs.
    pub memory_cost_bytes: u64,
    /// Whether it is in use now.
    pub adopted: bool,
    /// Why, or why not.
    pub reason: String,
}

impl From<TrainReport> for Trained {
    fn from(report: TrainReport) -> Trained {
        Trained {
            pages_sampled: report.pages_sampled,
            pages_judged: report.pages_judged,
            ratio_before: report.ratio_before,
            ratio_after: report.ratio_after,
            speed_ratio: report.speed_ratio,
            dictionary_bytes: report.dictionary_bytes,
            memory_cost_bytes: report.memory_cost_bytes,
            adopted: report.adopted,
            reason: report.reason,
        }
    }
}

/// What came of a compaction, or of a slice of one: see [`CompactReport`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compacted {
    /// Objects that were moved.
    pub objects_moved: u64,
    /// Their bytes.
    pub bytes_moved: u64,
    /// Pages that went back to the system.
    pub pages_freed: u64,
    /// Whether nothing more is to be gained for now.
    pub finished: bool,
}

impl From<CompactReport> for Compacted {
    fn from(report: CompactReport) -> Compacted {
        Compacted {
            objects_moved: report.objects_moved,
            bytes_moved: report.bytes_moved,
            pages_freed: report.pages_freed,
            finished: report.finished,
        }
    }
}

/// What came of a recompression: see [`RecompressReport`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recompressed {
    /// Pages that it applied to.
    pub candidates: u64,
    /// Bytes of their objects, where only this was asked.
    pub candidate_bytes: u64,
    /// Pages that were tried.
    pub tried: u64,
    /// Pages that are smaller now.
    pub recompressed: u64,
    /// Pages that no algorithm makes smaller.
    pub incompressible: u64,
    /// Pages for which there was no memory.
    pub no_room: u64,
    /// Bytes of the smaller ones, before.
    pub bytes_before: u64,
    /// And after.
    pub bytes_after: u64,
}

impl From<RecompressReport> for Recompressed {
    fn from(report: RecompressReport) -> Recompressed {
        Recompressed {
            candidates: report.candidates,
            candidate_bytes: 0,
            tried: report.tried,
            recompressed: report.recompressed,
            incompressible: report.incompressible,
            no_room: report.no_room,
            bytes_before: report.bytes_before,
            bytes_after: report.bytes_after,
        }
    }
}

/// What came of a writeback: see [`WritebackReport`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenBack {
    /// Pages that it applied to.
    pub candidates: u64,
    /// Bytes of their objects, where only this was asked.
    pub candidate_bytes: u64,
    /// Pages that are on the backing now.
    pub written: u64,
    /// Bytes of their objects.
    pub bytes: u64,
    /// Pages that could not be written and stayed in memory.
    pub failed: u64,
    /// Pages that were written or discarded meanwhile.
    pub changed: u64,
    /// Why it ended early: `full`, `limit` or `failing`; empty if it did not.
    pub ended: String,
}

impl From<WritebackReport> for WrittenBack {
    fn from(report: WritebackReport) -> WrittenBack {
        let ended = match report.ended {
            None => "",
            Some(Ended::Full) => "full",
            Some(Ended::Limit) => "limit",
            Some(_) => "failing",
        };
        WrittenBack {
            candidates: report.candidates,
            candidate_bytes: 0,
            written: report.written,
            bytes: report.bytes,
            failed: report.failed,
            changed: report.changed,
            ended: ended.into(),
        }
    }
}

/// A device's backing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backing {
    /// The file or block device.
    pub path: String,
    /// How it is read and written.
    pub io: String,
    /// Bytes of the store.
    pub size_bytes: u64,
    /// Bytes of the objects on it, with their headers.
    pub live_bytes: u64,
    /// Bytes of segments that may be written.
    pub free_bytes: u64,
    /// Reads that failed.
    pub read_errors: u64,
    /// Writes that failed.
    pub write_errors: u64,
    /// Objects that were not as they were written.
    pub corrupt: u64,
}

impl From<BackingStats> for Backing {
    fn from(stats: BackingStats) -> Backing {
        let store = stats.store;
        Backing {
            path: stats.path.display().to_string(),
            io: stats.io,
            size_bytes: store.size_bytes,
            live_bytes: store.live_bytes,
            free_bytes: store.free_segments * store.segment_bytes,
            read_errors: store.read_errors,
            write_errors: store.write_errors,
            corrupt: store.corrupt,
        }
    }
}

impl Stat {
    /// The device's statistics now.
    pub fn new(device: &Device) -> Stat {
        Stat {
            disksize: device.size_bytes(),
            algorithm: device.algorithm().into(),
            driver: device.driver().into(),
            streams: device.streams() as u64,
            counters: device.stats(),
            policy: device.policy().to_string(),
            policy_last: device.agent_stats().last,
            writeback_limit: device.writeback_limit(),
            backing: device.backing().map(Backing::from),
            tracks_ages: device.tracks_ages(),
            dedup: device.dedup(),
            codecs: device.codecs().into_iter().map(Codec::from).collect(),
            // Whoever serves the device knows.
            poll_microseconds: None,
        }
    }

    /// All memory that the device takes, in bytes.
    pub fn all_memory(&self) -> u64 {
        let counters = &self.counters;
        counters.mem_used_total_bytes + counters.table_bytes + counters.metadata_bytes
    }

    /// Data over pool memory, as zramctl's COMP-RATIO; `None` while the device is empty.
    pub fn ratio(&self) -> Option<f64> {
        let (data, used) = (
            self.counters.orig_data_size_bytes,
            self.counters.mem_used_total_bytes,
        );
        (used > 0).then(|| data as f64 / used as f64)
    }

    /// The line of zram's `mm_stat`.
    pub fn mm_stat(&self) -> String {
        format!(
            "{:8} {:8} {:8} {:8} {:8} {:8} {:8} {:8} {:8}\n",
            self.counters.orig_data_size_bytes,
            self.counters.compr_data_size_bytes,
            self.counters.mem_used_total_bytes,
            self.counters.mem_limit_bytes,
            self.counters.mem_used_max_bytes,
            self.counters.same_pages,
            self.counters.pages_compacted,
            self.counters.huge_pages,
            self.counters.huge_pages_since
        )
    }

    /// The line of zram's `io_stat`; the third field is always 0, as in the kernel.
    pub fn io_stat(&self) -> String {
        format!(
            "{:8} {:8} 0 {:8}\n",
            self.counters.failed_reads, self.counters.failed_writes, self.counters.notify_free
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_kernels_format() {
        let mut stat = Stat::default();
        stat.counters.orig_data_size_bytes = 4096;
        stat.counters.mem_used_max_bytes = 123_456_789;
        assert_eq!(
            stat.mm_stat(),
            "    4096        0        0        0 123456789        0        0        0        0\n"
        );
        assert_eq!(stat.io_stat(), "       0        0 0        0\n");
        assert_eq!(stat.ratio(), None);
    }

    /// What a script reads: each counter at the top, by its name, and those that a process of another version lacks are 0.
    #[test]
    fn counters_stand_beside_the_rest_in_json() {
        let mut stat = Stat::default();
        stat.counters.dup_data_size_bytes = 17;
        let mut json = serde_json::to_value(&stat).unwrap();
        let object = json.as_object_mut().unwrap();
        for counter in Stats::COUNTERS {
            let value = object.get(counter.name).and_then(|value| value.as_u64());
            assert_eq!(value, Some((counter.get)(&stat.counters)), "{counter:?}");
        }
        object.remove("failed_reads");
        assert_eq!(serde_json::from_value::<Stat>(json).unwrap(), stat);
    }
}
