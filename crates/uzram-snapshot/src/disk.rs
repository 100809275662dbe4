//! The disk that a snapshot is taken of: its size, its codecs, and how these are numbered beside those of the parent.

use crate::Error;
use crate::format::{Kind, MAX_CODECS, MAX_DICTIONARY_BYTES, Record};
use crate::head::{DictionaryName, SnapshotCodec};

/// A codec of the disk that a snapshot is taken of.
#[derive(Debug, Clone)]
pub struct CodecSource<'a> {
    /// The number by which [`Page::Object`](crate::Page::Object) names it.
    pub number: u8,
    /// Its algorithm.
    pub algorithm: &'a str,
    /// Its driver.
    pub driver: &'a str,
    /// Its parameters.
    pub params: &'a str,
    /// Its dictionary.
    pub dictionary: Option<DictionarySource<'a>>,
}

/// A codec's dictionary.
#[derive(Debug, Clone, Copy)]
pub enum DictionarySource<'a> {
    /// Is written.
    Bytes(&'a [u8]),
    /// Is in the parent, or wherever the reader has it from.
    Named(DictionaryName),
}

impl DictionaryName {
    /// What a dictionary is called.
    pub fn of(dictionary: &[u8]) -> Result<DictionaryName, Error> {
        let bytes = dictionary.len();
        if !(1..=MAX_DICTIONARY_BYTES).contains(&bytes) {
            return Err(Error::Dictionary { bytes });
        }
        let name = Record::new(Kind::Dictionary, dictionary).name;
        let bytes = bytes as u32;
        Ok(DictionaryName { name, bytes })
    }
}

/// The disk that a snapshot is taken of.
#[derive(Debug, Clone)]
pub struct DiskSource<'a> {
    /// Its pages of 4096 bytes.
    pub pages: u64,
    /// When the snapshot is taken, in seconds since 1970.
    pub taken_at_seconds: u64,
    /// Whether it is not of one moment, since the disk is written meanwhile: only the basis of the one that follows.
    pub is_basis: bool,
    /// Its codecs.
    pub codecs: &'a [CodecSource<'a>],
    /// What is to be kept with the snapshot, such as a description of the device.
    pub notes: &'a [u8],
}

/// Adds the disk's codecs to those of the parent. Returns the number that each of the disk's got.
pub(crate) fn merge(
    into: &mut Vec<SnapshotCodec>,
    codecs: &[CodecSource<'_>],
) -> Result<[Option<u8>; MAX_CODECS], Error> {
    let mut numbers = [None; MAX_CODECS];
    for source in codecs {
        let number = source.number;
        let refuse = |why| Error::Codec { number, why };
        let mut codec = SnapshotCodec {
            number,
            algorithm: source.algorithm.into(),
            driver: source.driver.into(),
            params: source.params.into(),
            dictionary: match source.dictionary {
                Some(DictionarySource::Bytes(bytes)) => Some(DictionaryName::of(bytes)?),
                Some(DictionarySource::Named(name)) => Some(name),
                None => None,
            },
        };
        codec.check().map_err(refuse)?;
        let place = numbers.get_mut(usize::from(number));
        let place = place.ok_or_else(|| refuse("numbers are less than 16"))?;
        if place.is_some() {
            return Err(refuse("its number is another codec's, too"));
        }
        let is_taken = |number: u8| into.iter().any(|other| other.number == number);
        let found = into.iter().find(|other| codec.is_same(other));
        *place = Some(match found {
            Some(found) => found.number,
            None => {
                // Its own number, if that is free.
                let mut all = std::iter::once(number).chain(0..MAX_CODECS as u8);
                let free = all.find(|number| !is_taken(*number));
                codec.number = free.ok_or(Error::TooManyCodecs)?;
                let number = codec.number;
                into.push(codec);
                number
            }
        });
    }
    into.sort_by_key(|codec| codec.number);
    Ok(numbers)
}
