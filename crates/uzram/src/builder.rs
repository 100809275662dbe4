//! Settings of a device to be made, and their checks. What can be wrong is found before any memory is taken.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::FlockOperation;
use uzram_compress::{Algorithm, Prepared, Registry, Tfm};
use uzram_pool::{Pool, Region};
use zerocopy::IntoBytes;

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
    reserve_bytes: Option<u64>,
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
            reserve_bytes: None,
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

    /// Makes a device that can serve as swap: a request never asks the system for memory, but takes it from a stock or
    /// fails at once with [`Error::NoSpace`]. `bytes` of the stock are a reserve for bursts. Somebody has to call
    /// [`Device::maintain`] all the time, from a thread that no request waits for. The slot table, 0.2 % of the size,
    /// and the books are brought into memory at once; to keep all of it there (`mlockall`) is the caller's affair.
    pub fn reserve_bytes(mut self, bytes: u64) -> Builder {
        self.reserve_bytes = Some(bytes);
        self
    }

    /// The algorithms to choose from (default: all that are built in).
    pub fn registry(mut self, registry: Registry) -> Builder {
        self.registry = Some(registry);
        self
    }

    /// Makes the device in memory of its own. The memory is reserved, none of it is taken yet.
    ///
    /// [`Error::Invalid`] names the setting that is impossible, [`Error::Compress`] the algorithm or parameter,
    /// [`Error::Reserve`] what the system refused.
    pub fn build(self) -> Result<Device, Error> {
        self.make(|image| Region::memfd("uzram", image))
    }

    /// As [`Builder::build`], in an empty file of memory (a memfd, or a file on tmpfs or hugetlbfs) that may outlive
    /// this process: see [`Builder::attach`]. On tmpfs it is the caller's to see that the file system is large enough
    /// for what the device may hold; a memfd has no such limit.
    ///
    /// [`Error::NotEmpty`], [`Error::InUse`], and those of `build`.
    pub fn build_in(self, file: OwnedFd) -> Result<Device, Error> {
        take(&file)?;
        let len = rustix::fs::fstat(&file).map_or(0, |stat| stat.st_size as u64);
        if len > 0 {
            return Err(Error::NotEmpty { len });
        }
        self.make(|image| Region::file(file, image))
    }

    fn make(self, reserve: impl FnOnce(u64) -> std::io::Result<Region>) -> Result<Device, Error> {
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
        let codec = self.codec(&self.algorithm)?;
        let shards = shards(self.size_bytes);
        let geometry = Geometry::new(pages, shards);
        let image = geometry.image_bytes();
        let region = Arc::new(reserve(image).map_err(refused("table and arena", image))?);
        let header = Header::new(&geometry, self.logical_block_size, codec.algorithm.name());
        let table = Table::new(region.clone(), &geometry).map_err(refused_table(&geometry))?;
        let (base, len) = (geometry.arena_offset, geometry.arena_bytes);
        let mut pool =
            Pool::new(region.clone(), base, len, shards).map_err(refused_books(&geometry))?;
        if let Some(bytes) = self.reserve_bytes {
            pool.keep_stock(bytes);
        }
        let device = Device::assemble(codec, self.logical_block_size, region, table, pool);
        device.set_mem_limit_bytes(self.mem_limit_bytes);
        self.fill_stock(&device)?;
        // Last: an image with a header is whole.
        write_header(device.region(), &header);
        Ok(device)
    }

    pub(crate) fn reserve(&self) -> Option<u64> {
        self.reserve_bytes
    }

    fn fill_stock(&self, device: &Device) -> Result<(), Error> {
        let Some(bytes) = self.reserve_bytes else {
            return Ok(());
        };
        device.populate().map_err(refused_swap(bytes))?;
        if device.pool.restock(&|| true).whole {
            return Ok(());
        }
        let reason = "the system or mem_limit has no room for it".to_owned();
        Err(Error::Reserve {
            what: "the reserve",
            bytes,
            reason,
        })
    }

    /// The algorithm of that name with this builder's parameters, and its contexts.
    pub(crate) fn codec(&self, name: &str) -> Result<Codec, Error> {
        let registry = self.registry.clone().unwrap_or_else(Registry::builtin);
        let algorithm = registry.find(name)?.clone();
        let params = self.params.iter().map(|(k, v)| (k, v));
        let prepared = registry.prepare(algorithm.driver_name(), PAGE_SIZE, params)?;
        let count = self.streams.unwrap_or_else(cpus).max(1);
        let streams = PerCpu::new(count, || Stream::new(&*prepared))?;
        let readers = match prepared.stateless() {
            Some(_) => None,
            None => Some(PerCpu::new(count, || prepared.tfm())?),
        };
        Ok(Codec {
            algorithm,
            prepared,
            streams,
            readers,
        })
    }
}

/// An algorithm, ready for work.
pub(crate) struct Codec {
    pub(crate) algorithm: Arc<dyn Algorithm>,
    pub(crate) prepared: Arc<dyn Prepared>,
    pub(crate) streams: PerCpu<Stream>,
    pub(crate) readers: Option<PerCpu<Box<dyn Tfm>>>,
}

pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Pool shards for a device of that size.
pub(crate) fn shards(size_bytes: u64) -> usize {
    cpus().min(1 + (size_bytes / BYTES_PER_SHARD) as usize)
}

/// Takes a file of memory for this process alone, for as long as it has it open. The lock goes with the last thread of
/// a process that dies, so that whoever gets it knows that nobody writes any more.
pub(crate) fn take(file: &OwnedFd) -> Result<(), Error> {
    let lock = rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive);
    lock.map_err(|error| match error {
        rustix::io::Errno::WOULDBLOCK => Error::InUse,
        other => refused("a lock on the image", 0)(other.into()),
    })
}

pub(crate) fn refused(what: &'static str, bytes: u64) -> impl FnOnce(std::io::Error) -> Error {
    move |e: std::io::Error| Error::Reserve {
        what,
        bytes,
        reason: e.to_string(),
    }
}

pub(crate) fn refused_swap(bytes: u64) -> impl FnOnce(std::io::Error) -> Error {
    refused("the table and books of a swap device", bytes)
}

pub(crate) fn refused_table(geometry: &Geometry) -> impl FnOnce(std::io::Error) -> Error {
    refused("the table's bitmap", geometry.table_bytes / 32768)
}

pub(crate) fn refused_books(geometry: &Geometry) -> impl FnOnce(std::io::Error) -> Error {
    refused("the pool's books", geometry.arena_bytes / 16384)
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
