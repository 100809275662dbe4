//! The codecs in an image: one page of 16 records, an area of 1 MiB for each one's dictionary, and a word with the
//! codec of each priority.
//!
//! A record's state word alone tells whether it is in use. Adopting a codec writes the dictionary first, then the
//! record, and the state word last; dropping one clears the state word first. So at any death each record in use is
//! whole. No slot's word names a record that is not: words name a codec only after its record is in use, and it is
//! dropped only when none does any more. The area of a record not in use is garbage and gets punched. Areas are
//! address space of a sparse file; untouched they cost nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::fence;

use uzram_compress::{Registry, Settings, parse_params};
use uzram_pool::Region;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{CODECS, Codec, Generation};
use crate::layout::ImageGeometry;
use crate::{Error, HeaderError, PAGE_SIZE};

/// Bytes of all records.
pub(crate) const RECORDS_BYTES: u64 = PAGE_SIZE as u64;
/// Bytes of a dictionary's area, which is also the longest dictionary.
pub(crate) const AREA_BYTES: u64 = 1 << 20;
/// The state word of a record in use.
const IN_USE: u64 = 1;

/// One codec in an image. Text is padded with zeros.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct CodecRecord {
    /// 1: in use. 0: not, whatever the other fields are.
    state: U64,
    /// CRC-32 of all that follows this field.
    checksum: U32,
    /// CRC-32 of the dictionary.
    dictionary_checksum: U32,
    /// Length of the dictionary in bytes, 0 for none.
    dictionary_bytes: U64,
    /// Where it lies in the image: in the area of this record's index.
    dictionary_offset: U64,
    /// The algorithm, which decompression needs.
    name: [u8; 32],
    /// The driver that compressed. Another one of the same algorithm will do.
    driver: [u8; 32],
    /// The parameters that differ from the algorithm's defaults, as `key=value` separated by commas.
    params: [u8; 128],
    /// The number of the dictionary's generation; 0, and the next five fields 0, for one that was not trained by the
    /// device. Images of before these fields have zeros here, and older programs do not look: the layout's version stays.
    generation: U32,
    /// Pages that it was trained on.
    pages_trained: U32,
    /// When it was adopted, in seconds since 1970.
    trained_at_seconds: U64,
    /// Pages that it was judged by, and bytes of their objects with the codec before and with this one.
    pages_judged: U32,
    bytes_before: U32,
    bytes_after: U32,
    /// Zero.
    reserved: [u8; 4],
}

const RECORD_WORDS: usize = size_of::<CodecRecord>() / 8;
/// What the checksum covers.
const CHECKED: usize = 12;

const _: () = {
    assert!(size_of::<CodecRecord>() * CODECS == RECORDS_BYTES as usize);
    assert!(std::mem::offset_of!(CodecRecord, dictionary_checksum) == CHECKED);
    assert!(std::mem::offset_of!(CodecRecord, name) == 32);
    assert!(std::mem::offset_of!(CodecRecord, generation) == 224);
};

impl CodecRecord {
    fn new(codec: &Codec, offset: u64) -> Result<CodecRecord, Error> {
        let dictionary = codec.dictionary();
        let generation = codec.generation.unwrap_or_default();
        let mut record = CodecRecord {
            state: 0.into(),
            checksum: 0.into(),
            dictionary_checksum: crc32fast::hash(dictionary).into(),
            dictionary_bytes: (dictionary.len() as u64).into(),
            dictionary_offset: if dictionary.is_empty() { 0 } else { offset }.into(),
            name: padded("algorithm name", codec.algorithm.name())?,
            driver: padded("driver name", codec.algorithm.driver_name())?,
            params: padded("set of parameters", &codec.params_text())?,
            generation: generation.number.into(),
            pages_trained: generation.pages_trained.into(),
            trained_at_seconds: generation.at_seconds.into(),
            pages_judged: generation.pages_judged.into(),
            bytes_before: generation.bytes_before.into(),
            bytes_after: generation.bytes_after.into(),
            reserved: [0; 4],
        };
        if dictionary.len() as u64 > AREA_BYTES {
            return Err(Error::Invalid {
                what: "dictionary",
                given: format!("of {} bytes", dictionary.len()),
                accepted: format!("at most {AREA_BYTES} bytes"),
            });
        }
        record.checksum = crc32fast::hash(&record.as_bytes()[CHECKED..]).into();
        Ok(record)
    }

    /// The algorithm's name.
    pub(crate) fn name(&self) -> &str {
        text(&self.name)
    }

    /// Where the dictionary lies, and its length.
    pub(crate) fn dictionary(&self) -> (u64, usize) {
        (
            self.dictionary_offset.get(),
            self.dictionary_bytes.get() as usize,
        )
    }

    /// Whether these are the dictionary's bytes.
    pub(crate) fn is_dictionary(&self, bytes: &[u8]) -> bool {
        crc32fast::hash(bytes) == self.dictionary_checksum.get()
    }

    /// Prepares the codec by its own driver or, if this build lacks it, by another one of the algorithm.
    pub(crate) fn codec(&self, registry: &Registry, dictionary: Vec<u8>) -> Result<Codec, Error> {
        let found = registry
            .find(text(&self.driver))
            .or_else(|_| registry.find(self.name()));
        let algorithm = found?.clone();
        let params = parse_params(text(&self.params))?;
        let pairs = params.iter().map(|(k, v)| (k, v));
        let mut settings = Settings::new(&*algorithm, PAGE_SIZE, pairs)?;
        if !dictionary.is_empty() {
            settings = settings.with_dictionary(&*algorithm, Arc::from(dictionary))?;
        }
        let mut codec = Codec::from_settings(algorithm, settings)?;
        codec.generation = self.generation();
        Ok(codec)
    }

    fn generation(&self) -> Option<Generation> {
        let generation = Generation {
            number: self.generation.get(),
            at_seconds: self.trained_at_seconds.get(),
            pages_trained: self.pages_trained.get(),
            pages_judged: self.pages_judged.get(),
            bytes_before: self.bytes_before.get(),
            bytes_after: self.bytes_after.get(),
        };
        (generation.number > 0).then_some(generation)
    }

    fn check(&self, area: u64) -> Result<(), &'static str> {
        let rule = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(what) };
        rule(
            self.state.get() == IN_USE,
            "a codec's state is neither 0 nor 1",
        )?;
        let sum = crc32fast::hash(&self.as_bytes()[CHECKED..]);
        rule(self.checksum.get() == sum, "a codec's record is damaged")?;
        let (offset, len) = self.dictionary();
        rule(
            if len == 0 {
                offset == 0
            } else {
                offset == area
            } && len as u64 <= AREA_BYTES,
            "a codec's dictionary is not in its area",
        )?;
        rule(!self.name().is_empty(), "a codec has no name")
    }

    /// Parses a page of records: `None` for those not in use.
    pub(crate) fn parse_all(
        page: &[u8; PAGE_SIZE],
        geometry: &ImageGeometry,
    ) -> Result<[Option<CodecRecord>; CODECS], HeaderError> {
        let mut records = [const { None }; CODECS];
        let chunks = page.chunks_exact(size_of::<CodecRecord>());
        for (index, (slot, bytes)) in records.iter_mut().zip(chunks).enumerate() {
            // As long as a record, hence the default is never taken.
            let Ok(record) = CodecRecord::read_from_bytes(bytes) else {
                continue;
            };
            if record.state.get() == 0 {
                continue;
            }
            let area = geometry.dictionary_offset(index);
            record
                .check(area)
                .map_err(|what| HeaderError::Codec { index, what })?;
            *slot = Some(record);
        }
        Ok(records)
    }
}

/// Text in its field; the image has room for no more.
fn padded<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], Error> {
    let mut field = [0; N];
    let room = field.get_mut(..text.len()).ok_or_else(|| Error::Invalid {
        what,
        given: text.into(),
        accepted: format!("at most {N} bytes"),
    })?;
    room.copy_from_slice(text.as_bytes());
    Ok(field)
}

/// The text of a field; empty where it is none.
fn text(field: &[u8]) -> &str {
    let len = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    std::str::from_utf8(&field[..len]).unwrap_or_default()
}

/// The records and dictionaries of a mapped image. Changing them takes the codec table's lock for changes.
pub(crate) struct Records {
    region: Arc<Region>,
    geometry: ImageGeometry,
}

impl Records {
    pub(crate) fn new(region: Arc<Region>, geometry: ImageGeometry) -> Records {
        Records { region, geometry }
    }

    fn words(&self, index: usize) -> &[std::sync::atomic::AtomicU64] {
        let at = self.geometry.codecs_offset() + (index * size_of::<CodecRecord>()) as u64;
        self.region.words(at, RECORD_WORDS)
    }

    /// Writes a codec under an index that is not in use. No effect where this fails.
    pub(crate) fn put(&self, index: usize, codec: &Codec) -> Result<(), Error> {
        let area = self.geometry.dictionary_offset(index);
        let record = CodecRecord::new(codec, area)?;
        self.write(area, codec.dictionary());
        let words = self.words(index);
        let bytes = record.as_bytes().as_chunks::<8>().0;
        for (slot, word) in words.iter().zip(bytes).skip(1) {
            slot.store(u64::from_ne_bytes(*word), Relaxed);
        }
        // The state word comes last. Only this process's death can come between the two, and stores to shared memory
        // before it persist in order.
        fence(Release);
        words[0].store(u64::from_ne_bytes(U64::new(IN_USE).to_bytes()), Release);
        Ok(())
    }

    /// Removes a codec and gives its dictionary's memory back.
    pub(crate) fn remove(&self, index: usize) {
        self.words(index)[0].store(0, Release);
        self.punch(index);
    }

    /// Gives back the memory of an area.
    pub(crate) fn punch(&self, index: usize) {
        self.region
            .release(self.geometry.dictionary_offset(index), AREA_BYTES);
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        let words = self.region.words(offset, bytes.len().div_ceil(8));
        for (slot, chunk) in words.iter().zip(bytes.chunks(8)) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            slot.store(u64::from_ne_bytes(word), Relaxed);
        }
    }

    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let words = self.region.words(offset, len.div_ceil(8));
        let mut bytes: Vec<u8> = words
            .iter()
            .flat_map(|w| w.load(Acquire).to_ne_bytes())
            .collect();
        bytes.truncate(len);
        bytes
    }

    /// All records in use, checked, with their dictionaries.
    pub(crate) fn read_all(&self) -> Result<[Option<(CodecRecord, Vec<u8>)>; CODECS], HeaderError> {
        let mut page = [0; PAGE_SIZE];
        page.copy_from_slice(&self.read(self.geometry.codecs_offset(), PAGE_SIZE));
        let mut all = [const { None }; CODECS];
        for (index, record) in CodecRecord::parse_all(&page, &self.geometry)?
            .into_iter()
            .enumerate()
        {
            let Some(record) = record else { continue };
            let (offset, len) = record.dictionary();
            let dictionary = self.read(offset, len);
            if !record.is_dictionary(&dictionary) {
                let what = "a codec's dictionary is damaged";
                return Err(HeaderError::Codec { index, what });
            }
            all[index] = Some((record, dictionary));
        }
        Ok(all)
    }
}
