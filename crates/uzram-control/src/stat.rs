//! A device's statistics as they travel: one serialisable value, and zram's own text formats of it.

use std::collections::BTreeMap;

use crate::hex::to_hex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uzram::{AgentStats, BackingInfo, CodecStats, CutProgress, Device, Latencies, Stats};
use uzram_spec::{OptionValue, SelfTraining};

/// The statistics of one device at one moment. Names and meanings are those of zram's `mm_stat` and `io_stat`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// How long requests take in the device.
    #[serde(default)]
    pub latency: Latencies,
    /// What is done in the background.
    #[serde(default)]
    pub policy: String,
    /// What of it was done last, and why.
    #[serde(default)]
    pub policy_last: String,
    /// All that was done in the background since the server was started.
    #[serde(default)]
    pub agent: AgentStats,
    /// Whether an algorithm that trains itself may.
    #[serde(default)]
    pub train: SelfTraining,
    /// What its training waits for; empty where the algorithm does not train itself.
    #[serde(default)]
    pub train_waits_for: String,
    /// Why its last training took nothing; empty where it took something, and where the server has not trained yet.
    #[serde(default)]
    pub train_refused: String,
    /// Pages that may still be written back; `None`: no limit.
    #[serde(default)]
    pub writeback_limit: Option<u64>,
    /// The backing, if there is one.
    #[serde(default)]
    pub backing: Option<BackingInfo>,
    /// Whether the ages of pages' last accesses are kept.
    #[serde(default)]
    pub tracks_ages: bool,
    /// Whether pages that are written are looked up among what is stored.
    #[serde(default)]
    pub dedup: bool,
    /// Whether what is freed is erased.
    #[serde(default)]
    pub erase_on_free: bool,
    /// The algorithms with a priority, and those that objects are left of.
    #[serde(default)]
    pub codecs: Vec<CodecStats>,
    /// Longest time that the server looks for a client's next request before it sleeps, 0 for never; `None` where the
    /// frontend has no such setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll_microseconds: Option<u64>,
    /// The frontend's options that were given when the device was made, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub frontend_options: BTreeMap<String, OptionValue>,
    /// How requests reach the server, `io_uring` or `/dev/fuse`; `None` where the frontend has only one way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// How far a snapshot has come that is being taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<CutProgress>,
    /// What the device is a clone of, as long as some of it is still there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone_of: Option<String>,
    /// Of a device that was handed over before all of it was copied, and that the other host still needs: what that is known by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handed_over: Option<String>,
    /// Where changes are tracked: how the name of the snapshot begins that they are since; empty where a complete one has to
    /// come first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracked_since: Option<String>,
    /// Clients that are connected; `None` where the device is a node of the kernel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<u64>,
}

impl Stat {
    /// The device's statistics now.
    pub fn new(device: &Device) -> Stat {
        let agent = device.jobs().agent_stats();
        Stat {
            disksize: device.size_bytes(),
            algorithm: device.algorithm().into(),
            driver: device.driver().into(),
            streams: device.streams() as u64,
            counters: device.stats(),
            latency: device.latencies(),
            policy: device.jobs().policy().to_string(),
            policy_last: agent.last.clone(),
            agent,
            train: match device.jobs().self_training() {
                true => SelfTraining::Auto,
                false => SelfTraining::Off,
            },
            train_waits_for: device.jobs().self_training_waits_for(),
            train_refused: device.jobs().self_training_refused(),
            writeback_limit: device.zram().writeback_limit(),
            backing: device.zram().backing(),
            tracks_ages: device.zram().tracks_ages(),
            dedup: device.dedup(),
            erase_on_free: device.erase_on_free(),
            codecs: device.codecs(),
            snapshot: device.cut_progress(),
            clone_of: device.source_name().filter(|_| device.remote_pages() > 0),
            tracked_since: device.tracked_since().map(|id| match id == [0; 16] {
                true => String::new(),
                false => to_hex(&id),
            }),
            // Whoever serves the device knows.
            handed_over: None,
            poll_microseconds: None,
            frontend_options: BTreeMap::new(),
            transport: None,
            clients: None,
        }
    }

    /// All memory that the device takes, in bytes.
    pub fn all_memory(&self) -> u64 {
        self.counters.all_memory_bytes()
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
