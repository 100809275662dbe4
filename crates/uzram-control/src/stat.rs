//! A device's statistics as they travel: one serialisable value, and zram's own text formats of it.

use serde::{Deserialize, Serialize};
use uzram::Device;

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
    /// Bytes of all written pages.
    pub orig_data_size: u64,
    /// Bytes of the stored objects.
    pub compr_data_size: u64,
    /// Pool memory in use, in bytes.
    pub mem_used_total: u64,
    /// Limit on it in bytes, 0 for none.
    pub mem_limit: u64,
    /// The most it ever was.
    pub mem_used_max: u64,
    /// Same-filled pages.
    pub same_pages: u64,
    /// Pages freed by compaction.
    pub pages_compacted: u64,
    /// Pages stored uncompressed.
    pub huge_pages: u64,
    /// Huge pages stored since the device was made or reset.
    pub huge_pages_since: u64,
    /// Pages that could not be read.
    pub failed_reads: u64,
    /// Pages that could not be written.
    pub failed_writes: u64,
    /// Pages discarded.
    pub notify_free: u64,
    /// Memory of the slot table, in bytes.
    pub table_bytes: u64,
    /// Memory of the pool's books and the streams, in bytes.
    pub metadata_bytes: u64,
}

impl Stat {
    /// The device's statistics now.
    pub fn of(device: &Device) -> Stat {
        let stats = device.stats();
        Stat {
            disksize: device.size_bytes(),
            algorithm: device.algorithm().into(),
            driver: device.driver().into(),
            streams: device.streams() as u64,
            orig_data_size: stats.orig_data_size_bytes,
            compr_data_size: stats.compr_data_size_bytes,
            mem_used_total: stats.mem_used_total_bytes,
            mem_limit: stats.mem_limit_bytes,
            mem_used_max: stats.mem_used_max_bytes,
            same_pages: stats.same_pages,
            pages_compacted: stats.pages_compacted,
            huge_pages: stats.huge_pages,
            huge_pages_since: stats.huge_pages_since,
            failed_reads: stats.failed_reads,
            failed_writes: stats.failed_writes,
            notify_free: stats.notify_free,
            table_bytes: stats.table_bytes,
            metadata_bytes: stats.metadata_bytes,
        }
    }

    /// All memory that the device takes, in bytes.
    pub fn all_memory(&self) -> u64 {
        self.mem_used_total + self.table_bytes + self.metadata_bytes
    }

    /// Data over pool memory, as zramctl's COMP-RATIO; `None` while the device is empty.
    pub fn ratio(&self) -> Option<f64> {
        (self.mem_used_total > 0).then(|| self.orig_data_size as f64 / self.mem_used_total as f64)
    }

    /// The line of zram's `mm_stat`.
    pub fn mm_stat(&self) -> String {
        format!(
            "{:8} {:8} {:8} {:8} {:8} {:8} {:8} {:8} {:8}\n",
            self.orig_data_size,
            self.compr_data_size,
            self.mem_used_total,
            self.mem_limit,
            self.mem_used_max,
            self.same_pages,
            self.pages_compacted,
            self.huge_pages,
            self.huge_pages_since
        )
    }

    /// The line of zram's `io_stat`; the third field is always 0, as in the kernel.
    pub fn io_stat(&self) -> String {
        format!(
            "{:8} {:8} 0 {:8}\n",
            self.failed_reads, self.failed_writes, self.notify_free
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_kernels_format() {
        let stat = Stat {
            orig_data_size: 4096,
            mem_used_max: 123_456_789,
            ..Stat::default()
        };
        assert_eq!(
            stat.mm_stat(),
            "    4096        0        0        0 123456789        0        0        0        0\n"
        );
        assert_eq!(stat.io_stat(), "       0        0 0        0\n");
        assert_eq!(stat.ratio(), None);
    }
}
