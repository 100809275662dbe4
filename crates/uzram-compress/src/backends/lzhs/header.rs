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
pub(super) enum Form<'a> {
    /// The bytes as they are.
    Raw(&'a [u8]),
    /// A coded part of so many bytes.
    Coded { part: &'a [u8], plain: usize },
    /// Objects one after another.
    Parts(Parts<'a>),
}

/// The objects that an object of more than a page consists of.
pub(super) struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk()?;
        let length = u16::from_le_bytes(*length);
        let (part, rest) = rest.split_at_checked(usize::from(length))?;
        self.0 = rest;
        Some(part)
    }
}

impl Parts<'_> {
    /// Whether nothing is left, or a single 0, which keeps the object from being as long as a page.
    pub(super) fn is_whole(&self) -> bool {
        self.0.is_empty() || self.0 == [0]
    }
}

impl<'a> Form<'a> {
    /// Tells the form of an object. `None` where it has none.
    #[inline(always)]
    pub(super) fn read(src: &'a [u8]) -> Option<Form<'a>> {
        if src.is_empty() || src.len() == PAGE {
            return Some(Form::Raw(src));
        }
        let word = u32::from_le_bytes(*src.first_chunk()?);
        if word >> 12 & 1023 != MARK {
            let form = Form::Coded {
                part: src,
                plain: PAGE,
            };
            return (src.len() < PAGE).then_some(form);
        }
        let plain = (word & 0xFFF) as usize + 1;
        let part = &src[MARK_BYTES..];
        match word >> 22 {
            RAW if part.len() == plain => Some(Form::Raw(part)),
            CODED if part.len() < PAGE => Some(Form::Coded { part, plain }),
            PARTS if plain == 1 => Some(Form::Parts(Parts(part))),
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

/// How a coded part begins.
pub(super) struct Header {
    pub(super) literal_set: usize,
    pub(super) token_set: usize,
    /// Number of tokens.
    pub(super) tokens: usize,
    /// Bytes of the tokens' stream.
    pub(super) token_bytes: usize,
    /// Turns of tokens whose offsets' fields are two bits shorter, and those after them where they are one bit shorter.
    pub(super) short_turns: [usize; 2],
    /// Bytes of the first three streams of literals, where there are four.
    pub(super) streams: Option<[usize; STREAMS - 1]>,
    /// The header's own bytes.
    pub(super) bytes: usize,
}

impl Header {
    /// A header of 32 bits, from the lowest on: 5 and 5 for the sets of literals and of tokens; 1 for four streams; 1 for
    /// short turns; 10 and 10 for the number of tokens and the bytes of their stream. With four streams 32 more: 10 each
    /// for the bytes of the first three, and 2 that are 0. With short turns 16 more: 8 for each number.
    #[inline(always)]
    pub(super) fn read(part: &[u8]) -> Option<Header> {
        let low = u32::from_le_bytes(*part.first_chunk()?);
        let field = |word: u32, at: u32, bits: u32| (word >> at) as usize & ((1 << bits) - 1);
        let four = field(low, 10, 1) == 1;
        let (mut streams, mut bytes) = (None, ONE_HEADER);
        if four {
            let high = u32::from_le_bytes(*part.get(ONE_HEADER..)?.first_chunk()?);
            if field(high, 30, 2) != 0 {
                return None;
            }
            streams = Some([0, 10, 20].map(|at| field(high, at, 10)));
            bytes = FOUR_HEADER;
        }
        let mut short_turns = [0; 2];
        if field(low, 11, 1) == 1 {
            let turns: &[u8; SHORT_BYTES] = part.get(bytes..)?.first_chunk()?;
            short_turns = turns.map(usize::from);
            bytes += SHORT_BYTES;
        }
        Some(Header {
            short_turns,
            literal_set: field(low, 0, 5),
            token_set: field(low, 5, 5),
            tokens: field(low, 12, 10),
            token_bytes: field(low, 22, 10),
            streams,
            bytes,
        })
    }

    /// Bytes of a header.
    pub(super) fn length(four: bool, short_turns: [usize; 2]) -> usize {
        let short = if short_turns == [0; 2] {
            0
        } else {
            SHORT_BYTES
        };
        short + if four { FOUR_HEADER } else { ONE_HEADER }
    }

    /// Writes the header's `bytes`.
    pub(super) fn write(&self, to: &mut [u8]) {
        let streams = self.streams.unwrap_or_default();
        let high = streams[0] | streams[1] << 10 | streams[2] << 20;
        let low = self.literal_set | self.token_set << 5;
        let low = low | usize::from(self.streams.is_some()) << 10;
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
