//! The codecs that words can name, shared by all requests, and the contexts that readers decompress with.
//!
//! # Why a look-up needs no lock
//!
//! A slot's word names its codec by index. An entry is filled before any word names it, and emptied only when no word
//! does and none can any more:
//!
//! 1. Only an encoder makes words that name a codec. It belongs to a stream, or to a recompression, which excludes
//!    changes of codecs. Changing the primary replaces the encoder of every stream under that stream's lock. After that
//!    every write that used the old codec has ended and been counted: that is the grace period, and it costs requests
//!    nothing.
//! 2. From then on the entry's count of objects only falls. An object is counted off after another word was published
//!    in its place, under the slot's lock. So when the count is 0, every reader of an object of this codec has released
//!    its slot, and that release happens before what follows here.
//! 3. So the holder of a slot's lock may use the entry that its word names until it releases the lock.
//!
//! A codec with a priority is kept without objects, too. Changes are serialised by `changing`, which no request waits
//! for.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicPtr, AtomicU16, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use uzram_compress::{Algorithm, Decoder, Error as CodecError};

use super::generation::last_generation;
use super::{CODECS, Codec, Generation, PRIORITIES, Records, Residence};
use crate::backing::Brought;
use crate::counters::Counters;
use crate::snapshot::CutCodec;
use crate::stream::PerCpu;
use crate::table::SlotGuard;
use crate::word::Content;
use crate::{Error, HeaderError};

/// One codec of a device and its statistics. See [`crate::Device::codecs`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CodecStats {
    /// Its index in the slots' words.
    #[cfg_attr(feature = "serde", serde(default))]
    pub index: usize,
    /// The algorithm's name.
    pub algorithm: String,
    /// The driver's name.
    pub driver: String,
    /// The parameters that differ from the defaults, as `level=1`; empty for none.
    pub params: String,
    /// Length of its dictionary, 0 for none.
    pub dictionary_bytes: u64,
    /// Memory of the dictionary, of digests of it, and of the readers' contexts.
    pub memory_bytes: u64,
    /// Objects that are compressed with it. One that pages share counts for each of them.
    pub objects: u64,
    /// Their bytes, likewise.
    pub object_bytes: u64,
    /// Its priorities: 0 for the primary, 1 to 3 for a secondary. Empty: kept only for its objects.
    pub priorities: Vec<usize>,
    /// Where its dictionary was trained on the device's pages.
    #[cfg_attr(feature = "serde", serde(default))]
    pub generation: Option<Generation>,
}

/// The command line's form, with only the length of the dictionary: `zstd(level=1,dict:16384)`.
impl std::fmt::Display for CodecStats {
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

/// Which codec has which priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Roles(pub(crate) [Option<u8>; PRIORITIES]);

impl Roles {
    /// Encodes for the image: a byte for each priority, the index and 1, or 0 for none.
    pub(crate) fn to_word(self) -> u64 {
        let byte = |(at, role): (usize, &Option<u8>)| {
            role.map_or(0, |index| (u64::from(index) + 1) << (8 * at))
        };
        self.0.iter().enumerate().map(byte).sum()
    }

    /// `None`: no version so far wrote such a word, or it has no primary.
    pub(crate) fn from_word(word: u64) -> Option<Roles> {
        let mut roles = Roles::default();
        for (role, byte) in roles.0.iter_mut().zip(word.to_le_bytes()) {
            *role = byte.checked_sub(1);
        }
        let known = roles
            .0
            .iter()
            .flatten()
            .all(|index| usize::from(*index) < CODECS);
        (known && word >> (8 * PRIORITIES) == 0 && roles.0[0].is_some()).then_some(roles)
    }

    pub(crate) fn priorities_of(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        let is = move |role: &Option<u8>| role.is_some_and(|role| usize::from(role) == index);
        (0..PRIORITIES).filter(move |priority| is(&self.0[*priority]))
    }
}

/// One reader's contexts: one for each codec that needs one to decompress.
pub(crate) struct ReaderContexts([Option<Box<dyn Decoder>>; CODECS]);

struct RosterEntry {
    codec: Arc<Codec>,
    /// Memory of all readers' contexts.
    reader_bytes: u64,
}

/// The entries, for listing and changing; requests use `shared`.
#[derive(Default)]
struct Roster {
    entries: [Option<RosterEntry>; CODECS],
    roles: Roles,
}

pub(crate) struct Codecs {
    /// The entries again, for requests: null, or what the roster's Arc keeps alive.
    shared: [AtomicPtr<Codec>; CODECS],
    /// Entries that need a context to decompress, a bit for each.
    with_context: AtomicU16,
    /// Entries without a priority.
    leaving: AtomicU16,
    /// Entries that stay without objects, since remote pages may be in them.
    kept: AtomicU16,
    readers: PerCpu<ReaderContexts>,
    roster: Mutex<Roster>,
    changing: Mutex<()>,
    records: Records,
    residence: Residence,
}

/// Codecs prepared from an image's records, by index, and their priorities.
#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) codecs: [Option<Codec>; CODECS],
    pub(crate) roles: Roles,
}

/// The right to change the table, one at a time.
pub(crate) struct Changing<'a> {
    codecs: &'a Codecs,
    _lock: MutexGuard<'a, ()>,
}

impl Codecs {
    /// An empty table with readers for `count` CPUs.
    pub(crate) fn new(
        records: Records,
        count: usize,
        residence: Residence,
    ) -> Result<Codecs, CodecError> {
        Ok(Codecs {
            residence,
            shared: [const { AtomicPtr::new(std::ptr::null_mut()) }; CODECS],
            with_context: AtomicU16::new(0),
            leaving: AtomicU16::new(0),
            kept: AtomicU16::new(0),
            readers: PerCpu::new(count, || Ok(ReaderContexts([const { None }; CODECS])))?,
            roster: Mutex::default(),
            changing: Mutex::new(()),
            records,
        })
    }

    /// Waits for the right to change the table.
    pub(crate) fn change(&self) -> Changing<'_> {
        let lock = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        Changing {
            codecs: self,
            _lock: lock,
        }
    }

    /// The right to change the table, if it is free.
    pub(crate) fn try_change(&self) -> Option<Changing<'_>> {
        let lock = match self.changing.try_lock() {
            Ok(lock) => lock,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Changing {
            codecs: self,
            _lock: lock,
        })
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the memory of contexts is taken.
    pub(crate) fn residence(&self) -> Residence {
        self.residence
    }

    /// The codec of a priority, and its index.
    pub(crate) fn by_priority(&self, priority: usize) -> Option<(u8, Arc<Codec>)> {
        let roster = self.roster();
        let index = roster.roles.0[priority]?;
        let entry = roster.entries[usize::from(index)].as_ref()?;
        Some((index, entry.codec.clone()))
    }

    /// The codec that a locked slot's word names; `None` if it names none.
    pub(crate) fn by_slot<'a>(&'a self, slot: &'a SlotGuard<'_>) -> Option<&'a Codec> {
        let algorithm = slot.content().codec()?;
        let codec = self.shared[usize::from(algorithm)].load(Acquire);
        #[expect(
            unsafe_code,
            reason = "a slot's lock keeps the codec that its word names"
        )]
        // SAFETY: null, or the inside of an Arc that the roster held when it was stored. `Changing::retire` drops
        // that Arc only when no word names the entry, and this slot's does for as long as it is locked, which is
        // as long as the reference lives. See the head of this file.
        unsafe {
            codec.as_ref()
        }
    }

    /// Whether a page of this content needs a reader's context to be read.
    pub(crate) fn needs_context(&self, content: Content) -> bool {
        let with_context = self.with_context.load(Relaxed);
        content
            .codec()
            .is_some_and(|index| with_context >> index & 1 == 1)
    }

    /// Whether some entries are kept only for their objects.
    pub(crate) fn has_leaving(&self) -> bool {
        self.leaving.load(Relaxed) & !self.kept.load(Relaxed) != 0
    }

    /// Has these entries (a bit for each), and no others, stay without objects.
    pub(crate) fn keep(&self, entries: u16) {
        self.kept.store(entries, Relaxed);
    }

    /// Memory of dictionaries and readers' contexts, and of the dictionaries in the image.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.roster()
            .entries
            .iter()
            .flatten()
            .map(RosterEntry::memory_bytes)
            .sum()
    }

    /// Dictionaries' bytes in the image.
    pub(crate) fn dictionary_bytes(&self) -> u64 {
        let of = |entry: &RosterEntry| entry.codec.dictionary().len() as u64;
        self.roster().entries.iter().flatten().map(of).sum()
    }

    /// How many generations of an algorithm there are, the one without a trained dictionary among them, and whether there
    /// is an entry for another.
    pub(crate) fn generations(&self, algorithm: &dyn Algorithm) -> (usize, bool) {
        let roster = self.roster();
        let entries = roster.entries.iter().flatten();
        let same = entries.filter(|entry| entry.codec.algorithm.name() == algorithm.name());
        let free = roster.entries.iter().any(Option::is_none);
        (same.count(), free)
    }

    /// The codecs that have objects or a priority, for who holds all streams: no object is made or counted meanwhile.
    pub(crate) fn at_cut(&self, counters: &Counters) -> Vec<CutCodec> {
        let roster = self.roster();
        let entries = roster.entries.iter().enumerate();
        let of = |(index, entry): (usize, &Option<RosterEntry>)| {
            let codec = &*entry.as_ref()?.codec;
            let priorities: Vec<usize> = roster.roles.priorities_of(index).collect();
            let is_used = !priorities.is_empty() || counters.codec_totals(index).0 > 0;
            is_used.then(|| CutCodec {
                index: index as u8,
                algorithm: codec.algorithm.name().into(),
                driver: codec.algorithm.driver_name().into(),
                params: codec.params_text(),
                dictionary: codec.settings.dictionary().cloned(),
                priorities,
            })
        };
        entries.filter_map(of).collect()
    }

    pub(crate) fn stats(&self, counters: &Counters) -> Vec<CodecStats> {
        let roster = self.roster();
        let entries = roster.entries.iter().enumerate();
        entries
            .filter_map(|(index, entry)| {
                let entry = entry.as_ref()?;
                let (objects, object_bytes) = counters.codec_totals(index);
                Some(CodecStats {
                    index,
                    algorithm: entry.codec.algorithm.name().into(),
                    driver: entry.codec.algorithm.driver_name().into(),
                    params: entry.codec.params_text(),
                    dictionary_bytes: entry.codec.dictionary().len() as u64,
                    memory_bytes: entry.memory_bytes(),
                    objects,
                    object_bytes,
                    priorities: roster.roles.priorities_of(index).collect(),
                    generation: entry.codec.generation,
                })
            })
            .collect()
    }
}

impl RosterEntry {
    fn memory_bytes(&self) -> u64 {
        // The image's copy takes whole pages.
        let stored = self
            .codec
            .dictionary()
            .len()
            .next_multiple_of(crate::PAGE_SIZE);
        (self.codec.prepared.memory_bytes() + stored) as u64 + self.reader_bytes
    }
}

impl Changing<'_> {
    /// Returns the index of an equal codec, or adds this one: numbers its generation, writes its record and makes contexts
    /// for all readers. No effect where this fails.
    pub(crate) fn admit(&self, mut codec: Codec) -> Result<u8, Error> {
        if let Some(generation) = &mut codec.generation {
            let entries = &self.codecs.roster().entries;
            let others = entries.iter().flatten().map(|entry| &*entry.codec);
            generation.number = last_generation(&*codec.algorithm, others) + 1;
        }
        self.admit_as_numbered(codec)
    }

    /// The same, with the number that its generation has.
    pub(crate) fn admit_as_numbered(&self, codec: Codec) -> Result<u8, Error> {
        let table = self.codecs;
        let (same, free) = {
            let entries = &table.roster().entries;
            let same = |entry: &Option<RosterEntry>| {
                entry
                    .as_ref()
                    .is_some_and(|entry| entry.codec.is_same_as(&codec))
            };
            (
                entries.iter().position(same),
                entries.iter().position(Option::is_none),
            )
        };
        if let Some(index) = same {
            return Ok(index as u8);
        }
        let index = free.ok_or(Error::CodecsFull)?;
        let readers = table.readers.count();
        let contexts = codec.decoders(readers, table.residence)?;
        table.records.put(index, &codec)?;
        self.install(index, codec, contexts);
        Ok(index as u8)
    }

    /// The codec of an index.
    pub(crate) fn codec(&self, index: u8) -> Option<Arc<Codec>> {
        let roster = self.codecs.roster();
        let entry = roster.entries.get(usize::from(index))?.as_ref()?;
        Some(entry.codec.clone())
    }

    /// Whether an index is still this codec's.
    pub(crate) fn has(&self, index: u8, codec: &Arc<Codec>) -> bool {
        self.codec(index)
            .is_some_and(|now| Arc::ptr_eq(&now, codec))
    }

    /// Loads an image's codecs, before the device is in use.
    pub(crate) fn load(&self, loaded: Loaded) -> Result<(), Error> {
        let readers = self.codecs.readers.count();
        for (index, codec) in loaded.codecs.into_iter().enumerate() {
            match codec {
                Some(codec) => {
                    let contexts = codec.decoders(readers, self.codecs.residence)?;
                    self.install(index, codec, contexts);
                }
                // The last process may have died between writing a dictionary and its record.
                None => self.codecs.records.punch(index),
            }
        }
        self.set_roles(loaded.roles);
        Ok(())
    }

    fn install(&self, index: usize, codec: Codec, mut contexts: Vec<Box<dyn Decoder>>) {
        let table = self.codecs;
        let reader_bytes = contexts
            .iter()
            .map(|decoder| decoder.memory_bytes() as u64)
            .sum();
        if codec.needs_context() {
            table.with_context.fetch_or(1 << index, Relaxed);
            table
                .readers
                .for_each(|reader| reader.0[index] = contexts.pop());
        }
        let codec = Arc::new(codec);
        table.shared[index].store(Arc::as_ptr(&codec).cast_mut(), Release);
        let mut roster = table.roster();
        roster.entries[index] = Some(RosterEntry {
            codec,
            reader_bytes,
        });
        table.note_leaving(&roster);
    }

    pub(crate) fn roles(&self) -> Roles {
        self.codecs.roster().roles
    }

    pub(crate) fn set_roles(&self, roles: Roles) {
        let mut roster = self.codecs.roster();
        roster.roles = roles;
        self.codecs.note_leaving(&roster);
    }

    /// Drops every codec that has neither a priority nor objects, with its dictionary and contexts. Only while every
    /// stream's encoder is of a codec with a priority.
    pub(crate) fn retire_unused(&self, counters: &Counters) {
        for index in 0..CODECS {
            let leaving = self.codecs.leaving.load(Relaxed) & !self.codecs.kept.load(Relaxed);
            let leaving = leaving >> index & 1 == 1;
            if leaving && counters.codec_totals(index).0 == 0 {
                self.retire(index);
            }
        }
    }

    fn retire(&self, index: usize) {
        let table = self.codecs;
        // The image first: a death from here on loses nothing that is needed.
        table.records.remove(index);
        table.shared[index].store(std::ptr::null_mut(), Release);
        table.with_context.fetch_and(!(1 << index), Relaxed);
        table
            .readers
            .take_from_each(|reader| reader.0[index].take());
        let mut roster = table.roster();
        let entry = roster.entries[index].take();
        table.note_leaving(&roster);
        drop(roster);
        drop(entry);
    }
}

impl Codecs {
    fn note_leaving(&self, roster: &Roster) {
        let bit = |index: usize| {
            let leaving =
                roster.entries[index].is_some() && roster.roles.priorities_of(index).count() == 0;
            u16::from(leaving) << index
        };
        self.leaving.store((0..CODECS).map(bit).sum(), Relaxed);
    }
}

/// What a request decompresses with: the readers' contexts of this CPU, taken when the first page needs one and kept
/// for the rest of the request; and for a writer the encoder of its stream.
pub(crate) struct Contexts<'a> {
    codecs: &'a Codecs,
    cpu: usize,
    reader: Option<MutexGuard<'a, ReaderContexts>>,
    /// Whether reads count as accesses; and the present second where ages are kept.
    pub(crate) noticed: bool,
    pub(crate) now: Option<u32>,
    /// Objects that were read from a backing that is far away, before anything was taken.
    pub(crate) brought: Option<&'a Brought>,
}

impl<'a> Contexts<'a> {
    /// For a request, at that second.
    pub(crate) fn new(codecs: &'a Codecs, cpu: usize, now: Option<u32>) -> Contexts<'a> {
        Contexts {
            noticed: true,
            now,
            ..Contexts::unnoticed(codecs, cpu)
        }
    }

    /// For reads that are no requests: idle pages stay idle.
    pub(crate) fn unnoticed(codecs: &'a Codecs, cpu: usize) -> Contexts<'a> {
        Contexts {
            codecs,
            cpu,
            reader: None,
            noticed: false,
            now: None,
            brought: None,
        }
    }

    /// Makes sure that a page of this content can be read. Not while a slot is locked: may wait for a reader.
    pub(crate) fn prepare(&mut self, content: Content) {
        if self.reader.is_none() && self.codecs.needs_context(content) {
            self.reader = Some(self.codecs.readers.get(self.cpu));
        }
    }

    /// Whether a page of this content can be read now.
    pub(crate) fn suit(&self, content: Content) -> bool {
        self.reader.is_some() || !self.codecs.needs_context(content)
    }

    /// Decompresses the object of a locked slot.
    pub(crate) fn decompress(
        &mut self,
        slot: &SlotGuard<'_>,
        object: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CodecError> {
        let (Some(algorithm), Some(codec)) = (slot.content().codec(), self.codecs.by_slot(slot))
        else {
            // Only words of known codecs are published or attached to.
            return Err(CodecError::Corrupt {
                algorithm: "unknown",
            });
        };
        if let Some(stateless) = codec.prepared.stateless() {
            return stateless.decompress(object, out);
        }
        let context = self
            .reader
            .as_mut()
            .and_then(|r| r.0[usize::from(algorithm)].as_mut());
        let corrupt = CodecError::Corrupt {
            algorithm: codec.algorithm.name(),
        };
        context.ok_or(corrupt)?.decompress(object, out)
    }
}

/// The state word of the roles.
pub(crate) fn load_roles(word: &AtomicU64) -> Result<Roles, HeaderError> {
    let what = "the codecs' priorities";
    Roles::from_word(word.load(Acquire)).ok_or(HeaderError::Inconsistent { what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_read_back_and_nonsense_does_not() {
        for roles in [
            Roles([Some(0), None, None, None]),
            Roles([Some(15), Some(0), None, Some(15)]),
        ] {
            assert_eq!(Roles::from_word(roles.to_word()), Some(roles));
        }
        assert_eq!(Roles([Some(2), None, Some(0), None]).to_word(), 0x0001_0003);
        for word in [0, 0x100, 17, 1 | 1 << 40, u64::MAX] {
            assert_eq!(Roles::from_word(word), None, "{word:#x}");
        }
    }
}
