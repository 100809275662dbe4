//! zram in user space, as a library. (Interim body: the public interface is final, the engine is being written.)

mod error;
pub use error::Error;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Bytes in a page, the unit of compression.
pub const PAGE_SIZE: usize = 4096;

/// Largest device: the slot index has 32 bits.
pub const MAX_SIZE_BYTES: u64 = 1 << 44;

/// What a run of bytes holds, as [`Device::extents`] reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    /// Never written or discarded: reads as zeros, takes no memory.
    Hole,
    /// Written, and every byte is zero.
    Zero,
    /// Anything else.
    Data,
}

/// A run of bytes of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
    /// What they are.
    pub kind: ExtentKind,
}

/// What [`Device::write_zeroes`] leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeroes {
    /// Whole pages become holes, as kernel zram does it.
    Deallocate,
    /// Whole pages become same-filled: they still take no pool memory but count as written.
    Allocate,
}

/// The device's counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Bytes of all written pages (mm_stat 1).
    pub orig_data_size_bytes: u64,
    /// Bytes of the stored objects (mm_stat 2).
    pub compr_data_size_bytes: u64,
    /// Pool memory in use (mm_stat 3).
    pub mem_used_total_bytes: u64,
    /// The limit on it, 0 for none (mm_stat 4).
    pub mem_limit_bytes: u64,
    /// The most it ever was (mm_stat 5).
    pub mem_used_max_bytes: u64,
    /// Pages that hold one repeated word (mm_stat 6).
    pub same_pages: u64,
    /// Pages freed by compaction (mm_stat 7).
    pub pages_compacted: u64,
    /// Pages stored uncompressed (mm_stat 8).
    pub huge_pages: u64,
    /// Huge pages stored since the device was made or reset (mm_stat 9).
    pub huge_pages_since: u64,
    /// Reads that failed (io_stat 1).
    pub failed_reads: u64,
    /// Writes that failed (io_stat 2).
    pub failed_writes: u64,
    /// Pages discarded (io_stat 4).
    pub notify_free: u64,
    /// Memory of the slot table that is in use.
    pub table_bytes: u64,
    /// Memory of everything else the device keeps (pool metadata, streams).
    pub metadata_bytes: u64,
}

/// Settings of a device to be made.
#[derive(Debug, Clone)]
pub struct Builder {
    size: u64,
    algorithm: String,
    params: Vec<(String, String)>,
    mem_limit: u64,
    lbs: u32,
}

impl Builder {
    /// The compression algorithm, by name or driver name (default `lz4`).
    pub fn algorithm(mut self, name: impl Into<String>) -> Self {
        self.algorithm = name.into();
        self
    }
    /// One parameter of the algorithm, such as `("level", "3")`.
    pub fn algorithm_param(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.params.push((key.into(), value.into()));
        self
    }
    /// Limit on pool memory in bytes, 0 (the default) for none.
    pub fn mem_limit_bytes(mut self, bytes: u64) -> Self {
        self.mem_limit = bytes;
        self
    }
    /// 512 or 4096 (the default).
    pub fn logical_block_size(mut self, bytes: u32) -> Self {
        self.lbs = bytes;
        self
    }
    /// Makes the device.
    pub fn build(self) -> Result<Device, Error> {
        let _ = (&self.algorithm, &self.params);
        Ok(Device { size: self.size.div_ceil(4096) * 4096, lbs: self.lbs, pages: Mutex::default() })
    }
}

/// A compressed RAM block device. Shared between threads as `Arc<Device>`.
pub struct Device {
    size: u64,
    lbs: u32,
    pages: Mutex<BTreeMap<u64, Box<[u8; 4096]>>>,
}

impl Device {
    /// Starts the settings of a device of `size_bytes`, rounded up to whole pages.
    pub fn builder(size_bytes: u64) -> Builder {
        Builder { size: size_bytes, algorithm: "lz4".into(), params: vec![], mem_limit: 0, lbs: 4096 }
    }
    /// The device's size.
    pub fn size_bytes(&self) -> u64 {
        self.size
    }
    /// 512 or 4096.
    pub fn logical_block_size(&self) -> u32 {
        self.lbs
    }
    /// Name of the compression algorithm in use.
    pub fn algorithm(&self) -> &str {
        "lz4"
    }
    fn check(&self, offset: u64, len: u64) -> Result<(), Error> {
        if offset.checked_add(len).is_none_or(|e| e > self.size) {
            return Err(Error::OutOfRange { offset, len, size_bytes: self.size });
        }
        Ok(())
    }
    /// Fills `buf` from byte `offset`. Any alignment.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.check(offset, buf.len() as u64)?;
        let pages = self.pages.lock().unwrap();
        for (i, b) in buf.iter_mut().enumerate() {
            let o = offset + i as u64;
            *b = pages.get(&(o / 4096)).map_or(0, |p| p[(o % 4096) as usize]);
        }
        Ok(())
    }
    /// Stores `buf` at byte `offset`. Any alignment.
    pub fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), Error> {
        self.check(offset, buf.len() as u64)?;
        let mut pages = self.pages.lock().unwrap();
        for (i, b) in buf.iter().enumerate() {
            let o = offset + i as u64;
            pages.entry(o / 4096).or_insert_with(|| Box::new([0; 4096]))[(o % 4096) as usize] = *b;
        }
        Ok(())
    }
    /// Frees every page that lies wholly in the range; a partial page at either end stays as it is.
    pub fn discard(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.check(offset, len)?;
        let mut pages = self.pages.lock().unwrap();
        for p in offset.div_ceil(4096)..(offset + len) / 4096 {
            pages.remove(&p);
        }
        Ok(())
    }
    /// Makes the range read as zeros, partial pages included.
    pub fn write_zeroes(&self, offset: u64, len: u64, _how: Zeroes) -> Result<(), Error> {
        self.check(offset, len)?;
        let mut pages = self.pages.lock().unwrap();
        for o in offset..offset + len {
            if let Some(p) = pages.get_mut(&(o / 4096)) {
                p[(o % 4096) as usize] = 0;
            }
        }
        Ok(())
    }
    /// Makes everything acknowledged durable as far as the device can: nothing to do in RAM.
    pub fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
    /// The runs of holes, zeros and data in the range, in order, adjoining, without gaps.
    pub fn extents(&self, offset: u64, len: u64) -> Result<impl Iterator<Item = Extent> + '_, Error> {
        self.check(offset, len)?;
        let mut at = offset;
        Ok(std::iter::from_fn(move || {
            let end = offset + len;
            if at >= end {
                return None;
            }
            let pages = self.pages.lock().unwrap();
            let kind = |o: u64| match pages.get(&(o / 4096)) {
                None => ExtentKind::Hole,
                Some(p) if p.iter().all(|b| *b == 0) => ExtentKind::Zero,
                Some(_) => ExtentKind::Data,
            };
            let start = at;
            let k = kind(start);
            while at < end && kind(at) == k {
                at = (at / 4096 + 1) * 4096;
            }
            at = at.min(end);
            Some(Extent { offset: start, len: at - start, kind: k })
        }))
    }
    /// The counters now. Never waits for I/O.
    pub fn stats(&self) -> Stats {
        Stats { orig_data_size_bytes: self.pages.lock().unwrap().len() as u64 * 4096, ..Stats::default() }
    }
    /// Sets the limit on pool memory in bytes, 0 for none.
    pub fn set_mem_limit_bytes(&self, _bytes: u64) {}
    /// Drops all contents and statistics and gives the memory back. The size and the algorithm stay.
    pub fn reset(&self) {
        self.pages.lock().unwrap().clear();
    }
}
