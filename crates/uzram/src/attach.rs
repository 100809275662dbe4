//! Attaches to an image that another process left: checks the header, reads the table once, in parallel, and derives
//! the rest from it (the pool's lists, the counters, the touched pages).
//!
//! The last process may have died between any two instructions. Then objects that no slot names are dropped, and
//! control bits that are set are cleared. A slot whose object is incomplete cannot occur.

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use uzram_pool::{Pool, PoolRestore, Region};

use uzram_compress::Registry;

use crate::agent::{AgentShared, PolicySettings};
use crate::backing::{BackingRecord, Reopened};
use crate::builder::{
    Builder, DeviceParts, cpus, refused, refused_books, refused_index, refused_swap, refused_table,
    shards, take,
};
use crate::codec::{CODECS, CodecRecord, Loaded, Records, load_roles};
use crate::counters::Counters;
use crate::dedup::Dedup;
use crate::device::Device;
use crate::layout::{Header, state};
use crate::table::SlotTable;
use crate::word::{Content, FLAGS};
use crate::{Error, HeaderError, PAGE_SIZE};

/// Slots that a thread takes at a time: 256 MiB of disk.
const CHUNK: u64 = 1 << 16;

/// Reads the header of the image in `file`, and checks it.
pub fn read_header(file: &OwnedFd) -> Result<Header, Error> {
    let mut bytes = [0; PAGE_SIZE];
    let got = rustix::io::pread(file, &mut bytes, 0).map_err(cannot_read)?;
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

fn cannot_read(source: rustix::io::Errno) -> Error {
    Error::Access {
        what: "read",
        source,
    }
}

/// Whether this build could serve the image in `file`, which may be in use: its header and each of its codecs. Returns
/// the name of the algorithm that it is written with.
///
/// [`Error::Image`] where the file holds no image of this version or a damaged one, [`Error::Compress`] where an
/// algorithm is missing.
pub fn check_image(file: &OwnedFd, registry: &Registry) -> Result<String, Error> {
    let geometry = read_header(file)?.geometry();
    let read = |at: u64, bytes: &mut [u8]| {
        let got = rustix::io::pread(file, &mut *bytes, at).map_err(cannot_read)?;
        let what = "the file is shorter than the image";
        if got < bytes.len() {
            return Err(Error::from(HeaderError::Inconsistent { what }));
        }
        Ok(())
    };
    let mut page = [0; PAGE_SIZE];
    read(state::OFFSET, &mut page)?;
    let word = *page.as_chunks::<8>().0.get(state::ROLES).unwrap_or(&[0; 8]);
    let roles = load_roles(&AtomicU64::new(u64::from_ne_bytes(word)))?;
    read(geometry.codecs_offset(), &mut page)?;
    let records = CodecRecord::parse_all(&page, &geometry)?;
    for (index, record) in records.iter().enumerate() {
        let Some(record) = record else { continue };
        let (offset, len) = record.dictionary();
        let mut dictionary = vec![0; len];
        read(offset, &mut dictionary)?;
        if !record.is_dictionary(&dictionary) {
            let what = "a codec's dictionary is damaged";
            return Err(HeaderError::Codec { index, what }.into());
        }
        record.codec(registry, dictionary)?;
    }
    let primary = roles.0[0].and_then(|index| records[usize::from(index)].as_ref());
    let what = "the primary codec is missing";
    Ok(primary
        .ok_or(HeaderError::Inconsistent { what })?
        .name()
        .into())
}

/// The codecs that an image names, prepared. One that this build lacks is an error only if it has a priority or, as
/// the table will show, objects.
struct Found {
    loaded: Loaded,
    missing: [Option<Error>; CODECS],
}

impl Found {
    fn load(records: &Records, roles: &AtomicU64, registry: &Registry) -> Result<Found, Error> {
        let mut found = Found {
            loaded: Loaded {
                roles: load_roles(roles)?,
                ..Loaded::default()
            },
            missing: [const { None }; CODECS],
        };
        for (index, record) in records.read_all()?.into_iter().enumerate() {
            let Some((record, dictionary)) = record else {
                continue;
            };
            match record.codec(registry, dictionary) {
                Ok(codec) => found.loaded.codecs[index] = Some(codec),
                Err(error) => found.missing[index] = Some(error),
            }
        }
        for index in found.loaded.roles.0.into_iter().flatten().map(usize::from) {
            if let Some(error) = found.missing[index].take() {
                return Err(error);
            }
            if found.loaded.codecs[index].is_none() {
                let what = "a codec with a priority is missing";
                return Err(HeaderError::Codec { index, what }.into());
            }
        }
        Ok(found)
    }

    /// A bit for each codec that words may name.
    fn known(&self) -> u16 {
        let known = |index: usize| {
            let known = self.loaded.codecs[index].is_some() || self.missing[index].is_some();
            u16::from(known) << index
        };
        (0..CODECS).map(known).sum()
    }

    /// Drops the codecs that have neither a priority nor, as the counters now tell, objects.
    fn keep_needed(mut self, counters: &Counters, records: &Records) -> Result<Loaded, Error> {
        for index in 0..CODECS {
            if self.loaded.roles.priorities_of(index).next().is_some() {
                continue;
            }
            if counters.codec_totals(index).0 == 0 {
                // Remote pages may be in it.
                if counters.remote_pages() > 0 && self.loaded.codecs[index].is_some() {
                    continue;
                }
                self.loaded.codecs[index] = None;
                records.remove(index);
            } else if let Some(error) = self.missing[index].take() {
                return Err(error);
            }
        }
        Ok(self.loaded)
    }
}

impl Builder {
    /// Makes the device of an image that another process left in `file`. Size, block size, algorithms with parameters
    /// and dictionaries, and limit are the image's; of this builder the streams, the reserve and the registry are used.
    ///
    /// [`Error::Image`] where the file holds no image of this version or a damaged one, [`Error::InUse`] while another
    /// process has it, [`Error::Damaged`] where table and arena contradict each other (nothing was changed then but
    /// control bits and books), [`Error::Compress`] where this build lacks an algorithm.
    pub fn attach(self, file: OwnedFd) -> Result<Device, Error> {
        take(&file)?;
        let header = read_header(&file)?;
        let geometry = header.geometry();
        let image = geometry.image_bytes();
        let region = Region::file(file, image).map_err(refused("table and arena", image))?;
        let region = Arc::new(region);
        let records = Records::new(region.clone(), geometry);
        let state = region.words(state::OFFSET, state::WORDS);
        let found = Found::load(&records, &state[state::ROLES], &self.algorithms())?;
        let table = SlotTable::new(region.clone(), &geometry).map_err(refused_table(&geometry))?;
        let pages = state[state::PAGES].load(Relaxed);
        if pages == 0 || pages > geometry.pages {
            let what = "the device is larger than its table";
            return Err(HeaderError::Inconsistent { what }.into());
        }
        table.set_pages(pages);
        let policy = std::array::from_fn(|at| state[state::POLICY + at].load(Relaxed));
        let what = "no version knows its policy";
        let policy =
            PolicySettings::from_words(policy).ok_or(HeaderError::Inconsistent { what })?;
        let self_training = match state[state::NO_SELF_TRAINING].load(Relaxed) {
            off @ (0 | 1) => off == 0,
            _ => {
                let what = "whether it trains itself";
                return Err(HeaderError::Inconsistent { what }.into());
            }
        };
        let (base, len) = (geometry.arena_offset, geometry.arena_bytes);
        let shards = shards(pages * PAGE_SIZE as u64);
        let mut restore =
            Pool::restore(region.clone(), base, len, shards).map_err(refused_books(&geometry))?;
        let counters = self.counters();
        let backing = BackingRecord::read(&region)?;
        let opener = self.disk_opener.as_ref().map(|opener| &*opener.0);
        let backing = backing.map(|record| Reopened::open(record, opener));
        let on = match state[state::DEDUP].load(Relaxed) {
            on @ (0 | 1) => on == 1,
            _ => {
                return Err(HeaderError::Inconsistent {
                    what: "whether dedup is on",
                }
                .into());
            }
        };
        // The index of a device with a reserve must not grow.
        let dedup =
            Dedup::new(geometry.pages, on && self.reserve().is_none()).map_err(refused_index)?;
        let scan = Scan {
            dedup: &dedup,
            table: &table,
            restore: &restore,
            backing: backing.as_ref(),
            counters: &counters,
            codecs: found.known(),
            may_be_remote: geometry.has_remote,
        };
        scan.run()?;
        let backed = counters.backed_pages();
        let backing = backing
            .map(|backing| backing.finish(backed > 0))
            .transpose()?;
        let loaded = found.keep_needed(&counters, &records)?;
        if let Some(bytes) = self.reserve() {
            restore.keep_stock(bytes);
        }
        counters.reset_totals();
        let parts = DeviceParts {
            logical_block_size: header.logical_block_size(),
            region,
            geometry,
            table,
            pool: restore.finish(),
            records,
            counters,
            dedup,
        };
        let mut device = self.assemble(loaded, parts)?;
        if device.remote_pages() > 0 {
            device.is_lazy.store(true, Relaxed);
            device.codecs.keep(u16::MAX);
        }
        device.policy = AgentShared::new(policy, self_training);
        device.backing.set(backing.flatten());
        device.set_limit_word(device.state()[state::MEM_LIMIT].load(Relaxed));
        if device.state()[state::ERASE].load(Relaxed) == 1 {
            device.pool.set_erase(true);
            device.erase_leftovers();
        }
        // The stock may be short; `maintain` refills it, and requests need not wait for that.
        if let Some(bytes) = self.reserve() {
            device.populate().map_err(refused_swap(bytes))?;
        }
        // The last process may have died before it gave them back.
        device.release_table();
        device.zram().keep_ages(false)?;
        device.resume_tracking();
        Ok(device)
    }
}

/// One pass over the table of an image.
struct Scan<'a> {
    dedup: &'a Dedup,
    table: &'a SlotTable,
    restore: &'a PoolRestore,
    backing: Option<&'a Reopened>,
    counters: &'a Counters,
    /// A bit for each codec that words may name.
    codecs: u16,
    may_be_remote: bool,
}

impl Scan<'_> {
    /// Reads the whole table from several threads. The first damage that is found ends it.
    fn run(&self) -> Result<(), Error> {
        let chunks: Vec<(u64, u64)> = self
            .table
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
                    if let Err(reason) = self.take_over(page, number) {
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

    fn take_over(&self, page: u64, thread: usize) -> Result<(), String> {
        let word = self.table.take_over(page);
        if word == 0 {
            return Ok(());
        }
        let unknown = || format!("its word is {word:#x}");
        let content = Content::decode(word);
        let has_object = content.object().is_some();
        if content.encode() != Some(word & !FLAGS) || !has_object && word & FLAGS != 0 {
            return Err(unknown());
        }
        if let Some(algorithm) = content.codec()
            && self.codecs >> algorithm & 1 == 0
        {
            return Err(format!(
                "the image has no codec {algorithm}, which its word names"
            ));
        }
        if let Content::Shared { len, .. } = content {
            if self.dedup.take_over(content, self.restore)? {
                self.counters.shard(thread).shared(1, len.into());
            }
        } else if let Some((handle, len)) = content.object() {
            let added = self.restore.add(handle, len);
            added.map_err(|damage| damage.to_string())?;
        }
        if content == Content::Remote && !self.may_be_remote {
            return Err("it is remote, and the image says that no page is".into());
        }
        if let Content::Backed(backed) = content {
            let backing = self
                .backing
                .ok_or("it is on a backing, and the image names none")?;
            backing.add(backed)?;
        }
        self.counters
            .shard(thread)
            .replaced(Content::Empty, content);
        Ok(())
    }
}
