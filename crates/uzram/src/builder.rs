//! Settings of a device to be made. All of them are checked before any memory is taken.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use rustix::fs::FlockOperation;
use uzram_compress::Registry;
use uzram_pool::{Pool, Region};
use zerocopy::IntoBytes;

use crate::agent::{AgentShared, PolicySettings};
use crate::backing::{BackingOptions, BackingSlot, DiskOpener};
use crate::codec::{
    Choice, Codec, Codecs, Loaded, PRIORITIES, Records, Residence, check_secondary,
};
use crate::counters::Counters;
use crate::dedup::Dedup;
use crate::device::Device;
use crate::error::errno;
use crate::idle::Ages;
use crate::layout::{Header, ImageGeometry, state};
use crate::remote::Remote;
use crate::snapshot::CutSlot;
use crate::stream::{PerCpu, Stream};
use crate::table::SlotTable;
use crate::{Error, PAGE_SIZE};

/// Largest device in bytes (16 TiB): slot indices have 32 bits.
pub const MAX_SIZE_BYTES: u64 = 1 << 44;
/// Smallest limit: a page's object may touch two pages of the arena, and its span's books another.
const MIN_LIMIT_BYTES: u64 = 3 * PAGE_SIZE as u64;
/// Disk bytes for which one more pool shard pays: a shard may leave a partial page in each size class.
const BYTES_PER_SHARD: u64 = 256 << 20;

/// What opens disks that are neither files nor block devices.
#[derive(Clone)]
pub(crate) struct Opener(pub(crate) Arc<dyn DiskOpener>);

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opener")
    }
}

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
    /// By priority.
    choices: [Option<Choice>; PRIORITIES],
    mem_limit_bytes: u64,
    total_limit_bytes: u64,
    erase_on_free: bool,
    logical_block_size: u32,
    streams: Option<usize>,
    max_size_bytes: Option<u64>,
    backing: Option<(PathBuf, BackingOptions)>,
    pub(crate) disk_opener: Option<Opener>,
    lazy: bool,
    reserve_bytes: Option<u64>,
    registry: Option<Registry>,
    dedup: bool,
    bad_priority: Option<usize>,
    policy: PolicySettings,
    self_training: bool,
}

impl Builder {
    pub(crate) fn new(size_bytes: u64) -> Builder {
        Builder {
            size_bytes,
            choices: [Some(Choice::new("lz4")), None, None, None],
            mem_limit_bytes: 0,
            total_limit_bytes: 0,
            erase_on_free: false,
            logical_block_size: PAGE_SIZE as u32,
            streams: None,
            max_size_bytes: None,
            backing: None,
            disk_opener: None,
            lazy: false,
            reserve_bytes: None,
            registry: None,
            dedup: false,
            bad_priority: None,
            policy: PolicySettings::default(),
            self_training: true,
        }
    }

    /// The compression algorithm, by name or driver name (default `lz4`, which needs the least time of a caller that waits
    /// for nothing else). Parameters that were given stay.
    pub fn algorithm(mut self, name: impl Into<String>) -> Builder {
        *self.primary().name_mut() = name.into();
        self
    }

    /// One parameter of the algorithm, such as `("level", "3")`.
    pub fn algorithm_param(mut self, key: impl Into<String>, value: impl Into<String>) -> Builder {
        let primary = self.primary().clone();
        self.choices[0] = Some(primary.param(key, value));
        self
    }

    /// The algorithm with parameters and dictionary; replaces what was set before.
    pub fn choose(mut self, choice: Choice) -> Builder {
        self.choices[0] = Some(choice);
        self
    }

    /// The secondary algorithm of a priority from 1 to 3: see [`Device::set_secondary`]. Priorities beyond are refused
    /// when the device is made.
    pub fn secondary(mut self, priority: usize, choice: Choice) -> Builder {
        match self.choices.get_mut(priority) {
            Some(slot) if priority > 0 => *slot = Some(choice),
            _ => self.bad_priority = Some(priority),
        }
        self
    }

    fn primary(&mut self) -> &mut Choice {
        self.choices[0].get_or_insert_with(|| Choice::new("lz4"))
    }

    /// Limit on pool memory in bytes, 0 (the default) for none. Replaces a limit on all memory.
    pub fn mem_limit_bytes(mut self, bytes: u64) -> Builder {
        (self.mem_limit_bytes, self.total_limit_bytes) = (bytes, 0);
        self
    }

    /// Limit on all memory in bytes: see [`Device::set_total_limit_bytes`]. Replaces a limit on pool memory.
    pub fn total_limit_bytes(mut self, bytes: u64) -> Builder {
        (self.mem_limit_bytes, self.total_limit_bytes) = (0, bytes);
        self
    }

    /// Erases objects as they are freed: see [`Device::set_erase_on_free`]. Off by default.
    pub fn erase_on_free(mut self, on: bool) -> Builder {
        self.erase_on_free = on;
        self
    }

    /// 512 or 4096 (the default). What frontends announce; the device itself takes any byte range.
    pub fn logical_block_size(mut self, bytes: u32) -> Builder {
        self.logical_block_size = bytes;
        self
    }

    /// How large the device may be made later ([`Device::resize`]), rounded up to whole pages. Default: 4 times its size,
    /// or its size with a reserve. Costs address space (4 times as much, at most 4 TiB), not memory.
    pub fn max_size_bytes(mut self, bytes: u64) -> Builder {
        self.max_size_bytes = Some(bytes);
        self
    }

    /// What opens the disk of a backing that is neither a file nor a block device: for [`Builder::attach`].
    pub fn disk_opener(mut self, opener: Arc<dyn DiskOpener>) -> Builder {
        self.disk_opener = Some(Opener(opener));
        self
    }

    /// A file or block device for writeback: see [`crate::ZramApi::attach_backing`].
    pub fn backing(
        mut self,
        path: impl Into<PathBuf>,
        options: impl Into<BackingOptions>,
    ) -> Builder {
        self.backing = Some((path.into(), options.into()));
        self
    }

    /// Whether pages may be remote ([`crate::Install::remote`]). Programs that know nothing of that do not attach to its image.
    /// Not with a reserve: swap must not wait for a source.
    pub fn lazy(mut self, on: bool) -> Builder {
        self.lazy = on;
        self
    }

    /// Number of compression streams (default: one for each CPU that this process may use).
    pub fn streams(mut self, count: usize) -> Builder {
        self.streams = Some(count);
        self
    }

    /// Makes a device that can serve as swap: a request never asks the system for memory, but takes it from a stock
    /// or fails at once with [`Error::NoSpace`]. `bytes` of the stock are a reserve for bursts. A thread that no
    /// request waits for must call [`crate::SwapApi::maintain`] all the time. Slot table (0.2 % of the size) and
    /// metadata are made resident at once; keeping them so (`mlockall`) is the caller's task.
    pub fn reserve_bytes(mut self, bytes: u64) -> Builder {
        self.reserve_bytes = Some(bytes);
        self
    }

    /// Policies for an [`crate::Agent`] (default: none).
    pub fn policy(mut self, settings: PolicySettings) -> Builder {
        self.policy = settings;
        self
    }

    /// Whether an [`crate::Agent`] trains an algorithm that trains itself: see [`crate::JobsApi::set_self_training`]. On by
    /// default.
    pub fn self_training(mut self, on: bool) -> Builder {
        self.self_training = on;
        self
    }

    /// Lets pages of the same contents share memory: see [`Device::set_dedup`]. Off by default.
    pub fn dedup(mut self, on: bool) -> Builder {
        self.dedup = on;
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
    /// this process: see [`Builder::attach`]. The caller makes sure that a tmpfs is large enough for what the device
    /// may hold; a memfd has no such limit.
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

    /// Bytes of address space, and of a sparse file of memory, that the device's image takes. It costs memory only where it
    /// is touched.
    pub fn image_bytes(&self) -> Result<u64, Error> {
        Ok(self.geometry(check_size(self.size_bytes)?)?.image_bytes())
    }

    fn geometry(&self, pages: u64) -> Result<ImageGeometry, Error> {
        let shards = shards(self.size_bytes);
        Ok(ImageGeometry {
            has_remote: self.lazy,
            ..ImageGeometry::new(self.capacity(pages)?, shards)
        })
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
        self.policy.check()?;
        if self.dedup && self.reserve_bytes.is_some() {
            return Err(Error::DedupWithReserve);
        }
        if self.lazy && self.reserve_bytes.is_some() {
            return Err(Error::RemoteWithReserve);
        }
        let capacity = self.capacity(pages)?;
        let loaded = self.codecs()?;
        let shards = shards(self.size_bytes);
        let geometry = self.geometry(pages)?;
        let image = geometry.image_bytes();
        let region = Arc::new(reserve(image).map_err(refused("table and arena", image))?);
        let header = Header::new(&geometry, self.logical_block_size);
        let table = SlotTable::new(region.clone(), &geometry).map_err(refused_table(&geometry))?;
        let (base, len) = (geometry.arena_offset, geometry.arena_bytes);
        let mut pool =
            Pool::new(region.clone(), base, len, shards).map_err(refused_books(&geometry))?;
        if let Some(bytes) = self.reserve_bytes {
            pool.keep_stock(bytes);
        }
        let records = Records::new(region.clone(), geometry);
        for (index, codec) in loaded.codecs.iter().enumerate() {
            if let Some(codec) = codec {
                records.put(index, codec)?;
            }
        }
        table.set_pages(pages);
        let state = region.words(state::OFFSET, state::WORDS);
        state[state::ROLES].store(loaded.roles.to_word(), Relaxed);
        state[state::PAGES].store(pages, Relaxed);
        state[state::DEDUP].store(self.dedup.into(), Relaxed);
        let parts = DeviceParts {
            logical_block_size: self.logical_block_size,
            region,
            geometry,
            table,
            pool,
            records,
            counters: self.counters(),
            dedup: Dedup::new(capacity, self.dedup).map_err(refused_index)?,
        };
        let device = self.assemble(loaded, parts)?;
        device.set_erase_on_free(self.erase_on_free);
        device.set_mem_limit_bytes(self.mem_limit_bytes);
        if self.total_limit_bytes > 0 {
            device.set_total_limit_bytes(self.total_limit_bytes)?;
        }
        device.jobs().set_policy(self.policy)?;
        device.jobs().set_self_training(self.self_training);
        self.fill_stock(&device)?;
        if let Some((path, options)) = &self.backing {
            device.zram().attach_backing(path, *options)?;
        }
        // Last: an image with a header is whole.
        write_header(device.region(), &header);
        Ok(device)
    }

    /// The most pages that the device may ever have.
    fn capacity(&self, pages: u64) -> Result<u64, Error> {
        let Some(bytes) = self.max_size_bytes else {
            let times = if self.reserve_bytes.is_some() { 1 } else { 4 };
            return Ok((pages * times).min(MAX_SIZE_BYTES / PAGE_SIZE as u64));
        };
        let capacity = check_size(bytes)?;
        if capacity < pages {
            return Err(Error::Invalid {
                what: "a maximum size of",
                given: format!("{bytes} bytes"),
                accepted: format!("at least the size, {}", self.size_bytes),
            });
        }
        Ok(capacity)
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
        Err(Error::StockShort { bytes })
    }

    /// The codecs that were chosen, checked, each once, from index 0.
    fn codecs(&self) -> Result<Loaded, Error> {
        self.bad_priority.map_or(Ok(()), check_secondary)?;
        let registry = self.algorithms();
        let mut loaded = Loaded::default();
        for (priority, choice) in self.choices.iter().enumerate() {
            let Some(choice) = choice else { continue };
            let codec = Codec::new(&registry, choice)?;
            let same = |other: &Option<Codec>| other.as_ref().is_none_or(|o| o.is_same_as(&codec));
            // There are more entries than priorities.
            let index = loaded.codecs.iter().position(same).unwrap_or_default();
            loaded.codecs[index] = Some(codec);
            loaded.roles.0[priority] = Some(index as u8);
        }
        Ok(loaded)
    }

    pub(crate) fn algorithms(&self) -> Registry {
        self.registry.clone().unwrap_or_else(Registry::builtin)
    }

    fn stream_count(&self) -> usize {
        self.streams.unwrap_or_else(cpus).max(1)
    }

    /// Counters with a shard for each stream.
    pub(crate) fn counters(&self) -> Counters {
        Counters::new(self.stream_count())
    }

    /// Assembles a device whose image is complete.
    pub(crate) fn assemble(&self, loaded: Loaded, parts: DeviceParts) -> Result<Device, Error> {
        let count = self.stream_count();
        let residence = match self.reserve() {
            Some(_) => Residence::Ready,
            None => Residence::AsUsed,
        };
        let codecs = Codecs::new(parts.records, count, residence)?;
        codecs.change().load(loaded)?;
        let (index, primary) = codecs
            .by_priority(0)
            .ok_or(crate::HeaderError::Inconsistent {
                what: "no algorithm is the primary",
            })?;
        let streams = PerCpu::new(count, || {
            Ok(Stream::new(index, primary.context(residence)?, residence))
        })?;
        let capacity = parts.table.capacity();
        let ages = Ages::new(capacity).map_err(refused("the pages' ages", capacity * 4))?;
        let encoder_bytes = streams.get(0).encoder.tfm.memory_bytes() * count;
        let mut tallies = Vec::with_capacity(count);
        streams.for_each(|stream| tallies.push(stream.encoder.tally.clone()));
        Ok(Device {
            table: parts.table,
            pool: parts.pool,
            streams,
            tallies,
            codecs,
            counters: parts.counters,
            discarded_bytes: 0.into(),
            emptied_slots: 0.into(),
            encoder_bytes: (encoder_bytes as u64).into(),
            registry: self.algorithms(),
            logical_block_size: parts.logical_block_size,
            limits_all: false.into(),
            is_lazy: false.into(),
            region: parts.region,
            geometry: parts.geometry,
            backing: BackingSlot::default(),
            dedup: parts.dedup,
            ages,
            ages_since: 0.into(),
            post: Mutex::default(),
            resizing: Mutex::default(),
            policy: AgentShared::default(),
            cut: CutSlot::default(),
            remote: Remote::default(),
        })
    }
}

/// Parts of a device, besides its codecs.
pub(crate) struct DeviceParts {
    pub(crate) logical_block_size: u32,
    pub(crate) region: Arc<Region>,
    pub(crate) geometry: ImageGeometry,
    pub(crate) table: SlotTable,
    pub(crate) pool: Pool,
    pub(crate) records: Records,
    pub(crate) counters: Counters,
    pub(crate) dedup: Dedup,
}

pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Pool shards for a device of that size.
pub(crate) fn shards(size_bytes: u64) -> usize {
    cpus().min(1 + (size_bytes / BYTES_PER_SHARD) as usize)
}

/// Locks a file of memory for this process, for as long as it has it open. The lock goes with the last thread of a
/// process that dies, so its next holder knows that nobody writes any more.
pub(crate) fn take(file: &OwnedFd) -> Result<(), Error> {
    let lock = rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive);
    lock.map_err(|error| match error {
        rustix::io::Errno::WOULDBLOCK => Error::InUse,
        source => Error::Access {
            what: "lock",
            source,
        },
    })
}

pub(crate) fn refused(what: &'static str, bytes: u64) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::Reserve {
        what,
        bytes,
        source: errno(&error),
    }
}

pub(crate) fn refused_swap(bytes: u64) -> impl FnOnce(std::io::Error) -> Error {
    refused("the table and books of a swap device", bytes)
}

pub(crate) fn refused_table(geometry: &ImageGeometry) -> impl FnOnce(std::io::Error) -> Error {
    refused("the table's bitmap", geometry.table_bytes / 32768)
}

pub(crate) fn refused_books(geometry: &ImageGeometry) -> impl FnOnce(std::io::Error) -> Error {
    refused("the pool's books", geometry.arena_bytes / 16384)
}

pub(crate) fn refused_index(error: std::io::Error) -> Error {
    refused("the dedup index", 0)(error)
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
        slot.store(u64::from_ne_bytes(*word), Relaxed);
    }
}
