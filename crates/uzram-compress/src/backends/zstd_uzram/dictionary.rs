//! A dictionary as the encoder needs it: its entropy tables for encoding, its repeat offsets, its content ready for the
//! search. Made once, shared by all workers.
//!
//! One in zstd's format (RFC 8878, chapter 5) begins with a magic number and an ID, which magicless frames do not
//! name. A Huffman tree, three tables by finite state entropy and three repeat offsets follow. The rest is content. All
//! other bytes are content alone.

use std::ops::Range;
use std::sync::Arc;

use super::fse::{self, NormalizedCounts, SYMBOLS};
use super::literals::{Huffman, MAX_BITS};
use super::search::{Before, FIRST_REPEAT};
use super::sequences::{KINDS, KnownTable, LITERALS, OFFSETS};
use crate::backends::search::Primed;

/// What a dictionary in zstd's format begins with, before its ID.
const MAGIC: [u8; 4] = 0xEC30_A437u32.to_le_bytes();
const ID: usize = 4;
/// The longest code of a literal that libzstd's decoder takes: one bit more than the format has.
const MOST_BITS: u32 = 12;

/// The parts of a dictionary.
pub(super) struct DictionaryParts<'a> {
    /// `None` where there is content alone.
    pub(super) entropy: Option<Entropy>,
    /// Offsets of at least 1, at most the content's length.
    pub(super) repeat: [u32; 3],
    pub(super) content: &'a [u8],
}

/// The entropy tables of a dictionary.
pub(super) struct Entropy {
    /// `None` where it has longer codes than the format allows. Then literals take a code of their own.
    pub(super) huffman: Option<Huffman>,
    pub(super) tables: Box<[KnownTable; KINDS]>,
}

/// A dictionary for blocks whose search has `TABLE` slots.
pub(super) struct Dictionary<const TABLE: usize> {
    pub(super) entropy: Option<Entropy>,
    pub(super) before: Before<TABLE>,
    bytes: Arc<[u8]>,
    content: Range<usize>,
}

/// Divides a dictionary into its parts, or says what is wrong with it.
pub(super) fn parse(bytes: &[u8]) -> Result<DictionaryParts<'_>, &'static str> {
    let Some(rest) = bytes.strip_prefix(&MAGIC) else {
        return Ok(DictionaryParts {
            entropy: None,
            repeat: FIRST_REPEAT,
            content: bytes,
        });
    };
    let mut rest = rest.get(ID..).ok_or("it ends in its ID")?;
    let huffman = huffman(&mut rest).ok_or("its Huffman tree for literals is not valid")?;
    let mut table = |symbols, most| table(&mut rest, symbols, most);
    let offsets = table(32, 8).ok_or("its table of offsets is not valid")?;
    let lengths = table(53, 9).ok_or("its table of match lengths is not valid")?;
    let literals = table(36, 9).ok_or("its table of literals lengths is not valid")?;
    let (numbers, content) = rest
        .split_first_chunk::<12>()
        .ok_or("it ends before its repeat offsets do")?;
    let (numbers, _) = numbers.as_chunks::<4>();
    let repeat: [u32; 3] = std::array::from_fn(|at| u32::from_le_bytes(numbers[at]));
    if repeat.contains(&0) {
        return Err("one of its repeat offsets is 0");
    }
    if repeat.iter().any(|offset| *offset as usize > content.len()) {
        return Err("one of its repeat offsets exceeds its content");
    }
    let tables = std::array::from_fn(|kind| {
        let (norm, log) = match kind {
            LITERALS => &literals,
            OFFSETS => &offsets,
            _ => &lengths,
        };
        KnownTable::new(norm, *log)
    });
    Ok(DictionaryParts {
        entropy: Some(Entropy {
            huffman,
            tables: Box::new(tables),
        }),
        repeat,
        content,
    })
}

/// Takes a table of at most so many symbols, with a logarithm of at most `most`.
fn table(bytes: &mut &[u8], symbols: usize, most: u32) -> Option<(NormalizedCounts, u32)> {
    let (norm, log, len) = fse::read_description(bytes, symbols, most)?;
    *bytes = bytes.get(len..)?;
    Some((norm, log))
}

/// Takes a tree description. Within: `None` for codes that are too long.
fn huffman(bytes: &mut &[u8]) -> Option<Option<Huffman>> {
    let (head, rest) = bytes.split_first()?;
    // All weights but the last, which they imply.
    let mut weights = [0u8; 256];
    let count = if *head >= 128 {
        let count = usize::from(*head) - 127;
        let (nibbles, rest) = rest.split_at_checked(count.div_ceil(2))?;
        for (at, weight) in weights[..count].iter_mut().enumerate() {
            *weight = nibbles[at / 2] >> (4 * (1 - at % 2)) & 15;
        }
        *bytes = rest;
        count
    } else {
        let (coded, rest) = rest.split_at_checked(usize::from(*head))?;
        let (norm, log, len) = fse::read_description(coded, SYMBOLS, 6)?;
        *bytes = rest;
        fse::decode_interleaved(&norm, log, &coded[len..], &mut weights[..255])?
    };
    let mut ranks = [0u32; MOST_BITS as usize + 1];
    let mut sum = 0u32;
    for weight in &weights[..count] {
        *ranks.get_mut(usize::from(*weight))? += 1;
        sum += (1 << weight) >> 1;
    }
    // The last weight makes the sum a power of two.
    let log = sum.checked_ilog2()? + 1;
    let last = (1 << log) - sum;
    if log > MOST_BITS || !last.is_power_of_two() {
        return None;
    }
    weights[count] = last.ilog2() as u8 + 1;
    ranks[usize::from(weights[count])] += 1;
    // The longest codes are two or more, in pairs.
    if ranks[1] < 2 || ranks[1] % 2 == 1 {
        return None;
    }
    if log > MAX_BITS {
        return Some(None);
    }
    let lens = weights.map(|weight| match weight {
        0 => 0,
        weight => (log + 1) as u8 - weight,
    });
    Some(Some(Huffman::new(lens)))
}

impl<const TABLE: usize> Dictionary<TABLE> {
    /// `most` is the content that the search has room for: of more, the end.
    pub(super) fn new(bytes: &Arc<[u8]>, most: usize) -> Result<Dictionary<TABLE>, &'static str> {
        let DictionaryParts {
            entropy,
            repeat,
            content,
        } = parse(bytes)?;
        let content = &content[content.len().saturating_sub(most)..];
        let [last, before, _] = repeat.map(|offset| offset as usize);
        Ok(Dictionary {
            entropy,
            before: Before {
                primed: Primed::new(content, [last, before]),
                repeat,
            },
            content: bytes.len() - content.len()..bytes.len(),
            bytes: bytes.clone(),
        })
    }

    /// As much of the content as matches reach.
    pub(super) fn content(&self) -> &[u8] {
        &self.bytes[self.content.clone()]
    }

    /// Without the bytes, which the decoder holds as well.
    pub(super) fn memory_bytes(&self) -> usize {
        let entropy = self.entropy.as_ref();
        size_of_val(self)
            + entropy.map_or(0, |entropy| size_of_val(&*entropy.tables))
            + self.before.primed.memory_bytes()
    }
}
