//! Headers: the forms of an object, and how a coded part begins. Reads and writes them.

use super::token::PAGE;

/// Streams of many literals.
pub(super) const STREAMS: usize = 4;
/// From so many literals on there are four streams.
pub(super) const FOUR_STREAMS: usize = 48;
/// Bytes of the header of a part with one stream of literals, and with four.
const ONE_HEADER: usize = 4;
const FOUR_HEADER: usize = 8;
/// Bytes that short turns add to it.
pub(super) const SHORT_BYTES: usize = 2;
/// The upper half of a long header where the literals are bytes.
const RAW_LITERALS: u32 = 1 << 30;
/// The most that a field for a number of bytes holds.
pub(super) const MAX_BYTES: usize = 1023;

/// The number of tokens that marks a form.
const MARK: u32 = 1023;
/// Bytes of a mark.
pub(super) const MARK_BYTES: usize = 4;
const RAW: u32 = 0;
const CODED: u32 = 1;
const PARTS: u32 = 2;

/// What an object is.
pub(super) enum ObjectForm<'a> {
    /// The bytes as they are.
    Raw(&'a [u8]),
    /// A coded part of so many bytes.
    Coded { part: &'a [u8], plain: usize },
    /// Objects one after another.
    Parts(ObjectParts<'a>),
}

/// The objects that an object of more than a page consists of.
pub(super) struct ObjectParts<'a>(&'a [u8]);

impl<'a> Iterator for ObjectParts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk()?;
        let length = u16::from_le_bytes(*length);
        let (part, rest) = rest.split_at_checked(usize::from(length))?;
        self.0 = rest;
        Some(part)
    }
}

impl ObjectParts<'_> {
    /// Whether nothing is left, or a single 0, which keeps the object from being as long as a page.
    pub(super) fn is_whole(&self) -> bool {
        self.0.is_empty() || self.0 == [0]
    }
}

impl<'a> ObjectForm<'a> {
    /// Tells the form of an object. `None` where it has none.
    #[inline(always)]
    pub(super) fn read(src: &'a [u8]) -> Option<ObjectForm<'a>> {
        if src.is_empty() || src.len() == PAGE {
            return Some(ObjectForm::Raw(src));
        }
        let word = u32::from_le_bytes(*src.first_chunk()?);
        if word >> 12 & 1023 != MARK {
            let form = ObjectForm::Coded {
                part: src,
                plain: PAGE,
            };
            return (src.len() < PAGE).then_some(form);
        }
        let plain = (word & 0xFFF) as usize + 1;
        let part = &src[MARK_BYTES..];
        match word >> 22 {
            RAW if part.len() == plain => Some(ObjectForm::Raw(part)),
            CODED if part.len() < PAGE => Some(ObjectForm::Coded { part, plain }),
            PARTS if plain == 1 => Some(ObjectForm::Parts(ObjectParts(part))),
            _ => None,
        }
    }
}

fn mark(form: u32, plain: usize) -> [u8; MARK_BYTES] {
    let plain = plain.saturating_sub(1) as u32 & 0xFFF;
    (form << 22 | MARK << 12 | plain).to_le_bytes()
}

/// The mark before so many bytes as they are.
pub(super) fn raw_mark(plain: usize) -> [u8; MARK_BYTES] {
    mark(RAW, plain)
}

/// The mark before a part of fewer bytes than a page.
pub(super) fn coded_mark(plain: usize) -> [u8; MARK_BYTES] {
    mark(CODED, plain)
}

/// The mark before several objects.
pub(super) fn parts_mark() -> [u8; MARK_BYTES] {
    mark(PARTS, 1)
}

/// How a part's literals are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Literals {
    /// As codes in one stream.
    One,
    /// As codes in four streams, of which the first three have so many bytes.
    Four([usize; STREAMS - 1]),
    /// As bytes.
    Raw,
}

impl Literals {
    fn has_long_header(self) -> bool {
        self != Literals::One
    }
}

/// How a coded part begins.
pub(super) struct PartHeader {
    pub(super) literal_set: usize,
    pub(super) token_set: usize,
    /// Number of tokens.
    pub(super) tokens: usize,
    /// Bytes of the tokens' stream.
    pub(super) token_bytes: usize,
    /// Turns of tokens whose offsets' fields are two bits shorter, and those after them where they are one bit shorter.
    pub(super) short_turns: [usize; 2],
    /// How the literals are kept.
    pub(super) literals: Literals,
    /// The header's own bytes.
    pub(super) bytes: usize,
}

impl PartHeader {
    /// A header of 32 bits, from the lowest on: 5 and 5 for the sets of literals and of tokens; 1 for four streams; 1 for
    /// short turns; 10 and 10 for the number of tokens and the bytes of their stream. With four streams 32 more: 10 each
    /// for the bytes of the first three, 1 for raw literals, which have neither these nor a set, and 1 that is 0. With short turns 16 more: 8 for each number.
    #[inline(always)]
    pub(super) fn read(part: &[u8]) -> Option<PartHeader> {
        let low = u32::from_le_bytes(*part.first_chunk()?);
        let field = |word: u32, at: u32, bits: u32| (word >> at) as usize & ((1 << bits) - 1);
        let four = field(low, 10, 1) == 1;
        let (mut literals, mut bytes) = (Literals::One, ONE_HEADER);
        if four {
            let high = u32::from_le_bytes(*part.get(ONE_HEADER..)?.first_chunk()?);
            literals = match field(high, 30, 2) {
                0 => Literals::Four([0, 10, 20].map(|at| field(high, at, 10))),
                1 if high == RAW_LITERALS && field(low, 0, 5) == 0 => Literals::Raw,
                _ => return None,
            };
            bytes = FOUR_HEADER;
        }
        let mut short_turns = [0; 2];
        if field(low, 11, 1) == 1 {
            let turns: &[u8; SHORT_BYTES] = part.get(bytes..)?.first_chunk()?;
            short_turns = turns.map(usize::from);
            bytes += SHORT_BYTES;
        }
        Some(PartHeader {
            short_turns,
            literal_set: field(low, 0, 5),
            token_set: field(low, 5, 5),
            tokens: field(low, 12, 10),
            token_bytes: field(low, 22, 10),
            literals,
            bytes,
        })
    }

    /// Bytes of a header.
    pub(super) fn length(is_long: bool, short_turns: [usize; 2]) -> usize {
        let short = if short_turns == [0; 2] {
            0
        } else {
            SHORT_BYTES
        };
        short + if is_long { FOUR_HEADER } else { ONE_HEADER }
    }

    /// Writes the header's `bytes`.
    pub(super) fn write(&self, to: &mut [u8]) {
        let high = match self.literals {
            Literals::One => 0,
            Literals::Four(streams) => streams[0] | streams[1] << 10 | streams[2] << 20,
            Literals::Raw => RAW_LITERALS as usize,
        };
        let low = self.literal_set | self.token_set << 5;
        let low = low | usize::from(self.literals.has_long_header()) << 10;
        let low = low | self.tokens << 12 | self.token_bytes << 22;
        let short = self.short_turns != [0; 2];
        let word = (low | usize::from(short) << 11 | high << 32) as u64;
        let first = self.bytes - if short { SHORT_BYTES } else { 0 };
        to[..first].copy_from_slice(&word.to_le_bytes()[..first]);
        if short {
            to[first..self.bytes].copy_from_slice(&self.short_turns.map(|turns| turns as u8));
        }
    }
}
