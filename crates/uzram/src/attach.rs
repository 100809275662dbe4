//! Attaching to an image that another process left: the header is checked, the table is read once, in parallel, and
//! all that can be derived from it (the pool's books, the counters, the touched pages) is made anew.
//!
//! The last process may have died between any two instructions. Then the image has objects that no slot names, which
//! are dropped; slots whose control bits are set, which are cleared; and never a slot whose object is not complete.

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use uzram_pool::{Pool, Region, Restore};

use crate::builder::{
    Builder, cpus, refused, refused_books, refused_swap, refused_table, shards, take,
};
use crate::counters::Counters;
use crate::device::Device;
use crate::layout::{Header, state};
use crate::table::Table;
use crate::word::Content;
use crate::{Error, HeaderError, PAGE_SIZE};

/// Slots that a thread takes at a time: 256 MiB of disk.
const CHUNK: u64 = 1 << 16;

/// Reads the header of the image in `file`, and checks it.
pub fn read_header(file: &OwnedFd) -> Result<Header, Error> {
    let mut bytes = [0; PAGE_SIZE];
    let got = rustix::io::pread(file, &mut bytes, 0)
        .map_err(|error| refused("reading the image", PAGE_SIZE as u64)(error.into()))?;
    let header = Header::parse(&bytes[..got])?;
    let len = rustix::fs::fstat(file).map_or(0, |stat| stat.st_size as u64);
    if len < header.image_bytes() {
        return Err(HeaderError::Inconsistent {
            what: "the file is shorter than the image",
        }
        .into());
    }
    Ok(header)
}

impl Builder {
    /// Makes the device of an image that another process left in `file`. Size, block size, algorithm and limit are the
    /// image's; of this builder the algorithm's parameters, the streams and the registry are used.
    ///
    /// [`Error::Image`] where the file holds no image of this version, [`Error::InUse`] while another process has it,
    /// [`Error::Damaged`] where table and arena contradict each other (nothing was changed then but control bits and
    /// books), [`Error::Compress`] where this build lacks the algorithm.
    pub fn attach(self, file: OwnedFd) -> Result<Device, Error> {
        take(&file)?;
        let header = read_header(&file)?;
        let geometry = header.geometry();
        let name = header.algorithm(0).ok_or(HeaderError::Inconsistent {
            what: "no algorithm is named",
        })?;
        let codec = self.codec(name)?;
        let image = geometry.image_bytes();
        let region = Region::file(file, image).map_err(refused("table and arena", image))?;
        let region = Arc::new(region);
        let table = Table::new(region.clone(), &geometry).map_err(refused_table(&geometry))?;
        let (base, len) = (geometry.arena_offset, geometry.arena_bytes);
        let shards = shards(geometry.pages * PAGE_SIZE as u64);
        let mut restore =
            Pool::restore(region.clone(), base, len, shards).map_err(refused_books(&geometry))?;
        let counters = Counters::new(codec.streams.count());
        scan(&table, &restore, &counters, &header)?;
        if let Some(bytes) = self.reserve() {
            restore.keep_stock(bytes);
        }
        let pool = restore.finish();
        counters.reset_totals();
        let mut device = Device::assemble(codec, header.logical_block_size(), region, table, pool);
        device.counters = counters;
        device.set_mem_limit_bytes(device.state()[state::MEM_LIMIT].load(Relaxed));
        // The stock may be short: whoever maintains it fills it, and requests need not wait for that.
        if let Some(bytes) = self.reserve() {
            device.populate().map_err(refused_swap(bytes))?;
        }
        device.state()[state::ATTACHED].fetch_add(1, Relaxed);
        Ok(device)
    }
}

/// Reads the whole table from several threads. The first damage that is found ends it.
fn scan(
    table: &Table,
    restore: &Restore,
    counters: &Counters,
    header: &Header,
) -> Result<(), Error> {
    let chunks: Vec<(u64, u64)> = table
        .resident()
        .flat_map(|(first, count)| {
            let end = first + count;
            (first..end)
                .step_by(CHUNK as usize)
                .map(move |at| (at, end.min(at + CHUNK)))
        })
        .collect();
    let next = AtomicU64::new(0);
    let damage = Mutex::new(None);
    let work = |number: usize| {
        while let Some((first, end)) = chunks.get(next.fetch_add(1, Relaxed) as usize) {
            for page in *first..*end {
                if let Err(reason) = take_over(page, table, restore, counters, header, number) {
                    next.store(chunks.len() as u64, Relaxed);
                    let mut damage = damage.lock().unwrap_or_else(PoisonError::into_inner);
                    *damage = Some(Error::Damaged { page, reason });
                    return;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for number in 1..cpus().min(chunks.len()) {
            scope.spawn(move || work(number));
        }
        work(0);
    });
    let damage = damage.into_inner().unwrap_or_else(PoisonError::into_inner);
    damage.map_or(Ok(()), Err)
}

fn take_over(
    page: u64,
    table: &Table,
    restore: &Restore,
    counters: &Counters,
    header: &Header,
    thread: usize,
) -> Result<(), String> {
    let word = table.take_over(page);
    if word == 0 {
        return Ok(());
    }
    let unknown = || format!("its word is {word:#x}");
    let content = Content::try_decode(word).ok_or_else(unknown)?;
    if content.encode() != Some(word) {
        return Err(unknown());
    }
    if let Content::Compressed { algorithm, .. } = content
        && header.algorithm(algorithm.into()).is_none()
    {
        return Err(format!("its algorithm {algorithm} is not in the header"));
    }
    if let Some((handle, len)) = content.object() {
        let added = restore.add(handle, len);
        added.map_err(|damage| damage.to_string())?;
    }
    counters.shard(thread).replaced(Content::Empty, content);
    Ok(())
}
