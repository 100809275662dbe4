//! Settings of a device to be made, and their checks. What can be wrong is found before any memory is taken.

use std::sync::Arc;

use uzram_compress::Registry;
use uzram_pool::{Pool, Region};
use zerocopy::IntoBytes;

use crate::counters::Counters;
use crate::device::Device;
use crate::layout::{Geometry, Header};
use crate::stream::{PerCpu, Stream};
use crate::table::Table;
use crate::{Error, PAGE_SIZE};

/// Largest device in bytes (16 TiB): slot indices have 32 bits.
pub const MAX_SIZE_BYTES: u64 = 1 << 44;
/// Smallest limit: a page's object may touch two pages of the arena, and its span's books another.
const MIN_LIMIT_BYTES: u64 = 3 * PAGE_SIZE as u64;
/// Disk bytes for which one more pool shard pays: a shard may leave a partial page in each size class.
const BYTES_PER_SHARD: u64 = 256 << 20;

/// Settings of a device to be made.
///
/// ```
/// let device = uzram::Device::builder(1 << 30)
///     .algorithm("lz4")
///     .mem_limit_bytes(256 << 20)
///     .logical_block_size(512)
///     .build()?;
/// assert_eq!(device.size_bytes(), 1 << 30);
/// # Ok::<(), uzram::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    size_bytes: u64,
    algorithm: String,
    params: Vec<(String, String)>,
    mem_limit_bytes: u64,
    logical_block_size: u32,
    streams: Option<usize>,
    registry: Option<Registry>,
}

impl Builder {
    pub(crate) fn new(size_bytes: u64) -> Builder {
        Builder {
            size_bytes,
            algorithm: "lz4".into(),
            params: Vec::new(),
            mem_limit_bytes: 0,
            logical_block_size: PAGE_SIZE as u32,
            streams: None,
            registry: None,
        }
    }

    /// The compression algorithm, by name or driver name (default `lz4`).
    pub fn algorithm(mut self, name: impl Into<String>) -> Builder {
        self.algorithm = name.into();
        self
    }

    /// One parameter of the algorithm, such as `("level", "3")`.
    pub fn algorithm_param(mut self, key: impl Into<String>, value: impl Into<String>) -> Builder {
        self.params.push((key.into(), value.into()));
        self
    }

    /// Limit on pool memory in bytes, 0 (the default) for none.
    pub fn mem_limit_bytes(mut self, bytes: u64) -> Builder {
        self.mem_limit_bytes = bytes;
        self
    }

    /// 512 or 4096 (the default). What frontends announce; the device itself takes any byte range.
    pub fn logical_block_size(mut self, bytes: u32) -> Builder {
        self.logical_block_size = bytes;
        self
    }

    /// Number of compression streams (default: one for each CPU that this process may use).
    pub fn streams(mut self, count: usize) -> Builder {
        self.streams = Some(count);
        self
    }

    /// The algorithms to choose from (default: all that are built in).
    pub fn registry(mut self, registry: Registry) -> Builder {
        self.registry = Some(registry);
        self
    }

    /// Makes the device. Its memory is reserved, none of it is taken yet.
    ///
    /// [`Error::Invalid`] names the setting that is impossible, [`Error::Compress`] the algorithm or parameter,
    /// [`Error::Reserve`] what the system refused.
    pub fn build(self) -> Result<Device, Error> {
        let pages = check_size(self.size_bytes)?;
        if !matches!(self.logical_block_size, 512 | 4096) {
            return Err(Error::Invalid {
                what: "logical block size",
                given: self.logical_block_size.to_string(),
                accepted: "512 or 4096".into(),
            });
        }
        if (1..MIN_LIMIT_BYTES).contains(&self.mem_limit_bytes) {
            return Err(Error::Invalid {
                what: "mem_limit",
                given: format!("{} bytes", self.mem_limit_bytes),
                accepted: format!(
                    "0 for none, or at least {MIN_LIMIT_BYTES}, what one page may need"
                ),
            });
        }
        let registry = self.registry.unwrap_or_else(Registry::builtin);
        let algorithm = registry.find(&self.algorithm)?.clone();
        let params = self.params.iter().map(|(k, v)| (k, v));
        let prepared = registry.prepare(algorithm.driver_name(), PAGE_SIZE, params)?;

        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let count = self.streams.unwrap_or(cpus).max(1);
        let streams = PerCpu::new(count, || Stream::new(&*prepared))?;
        let readers = match prepared.stateless() {
            Some(_) => None,
            None => Some(PerCpu::new(count, || prepared.tfm())?),
        };
        let stream_bytes = streams.get(0).memory_bytes()
            + readers
                .as_ref()
                .map_or(0, |readers| readers.get(0).memory_bytes());

        let shards = cpus.min(1 + (self.size_bytes / BYTES_PER_SHARD) as usize);
        let geometry = Geometry::new(pages, shards);
        let refused = |what, bytes| {
            move |e: std::io::Error| Error::Reserve {
                what,
                bytes,
                reason: e.to_string(),
            }
        };
        let image = geometry.image_bytes();
        let region = Region::memfd("uzram", image).map_err(refused("table and arena", image))?;
        let region = Arc::new(region);
        let header = Header::new(&geometry, self.logical_block_size, algorithm.name());
        write_header(&region, &header);
        let table = Table::new(region.clone(), &geometry)
            .map_err(refused("the table's bitmap", geometry.table_bytes / 32768))?;
        let (base, len) = (geometry.arena_offset, geometry.arena_bytes);
        let pool = Pool::new(region.clone(), base, len, shards)
            .map_err(refused("the pool's books", len / 16384))?;
        pool.set_limit_bytes(self.mem_limit_bytes);
        Ok(Device {
            table,
            pool,
            prepared,
            streams,
            readers,
            counters: Counters::new(count),
            discarded_bytes: 0.into(),
            stream_bytes: (stream_bytes * count) as u64,
            algorithm,
            logical_block_size: self.logical_block_size,
        })
    }
}

/// Pages of a device of that size, rounded up.
fn check_size(size_bytes: u64) -> Result<u64, Error> {
    if size_bytes == 0 || size_bytes > MAX_SIZE_BYTES {
        return Err(Error::Invalid {
            what: "size",
            given: format!("{size_bytes} bytes"),
            accepted: format!("1 to {MAX_SIZE_BYTES} bytes (16 TiB)"),
        });
    }
    Ok(size_bytes.div_ceil(PAGE_SIZE as u64))
}

fn write_header(region: &Region, header: &Header) {
    let (words, _) = header.as_bytes().as_chunks::<8>();
    for (slot, word) in region.words(0, words.len()).iter().zip(words) {
        slot.store(
            u64::from_ne_bytes(*word),
            std::sync::atomic::Ordering::Relaxed,
        );
    }
}
