//! Decodes an object in three passes: all tokens to an array, which checks them; all literals; then the copies.
//!
//! The first pass has no branch that depends on the data but for escapes, so the processor runs ahead; a pass that also
//! copied would lose that at every mispredicted length. A page is made in a window with slack on both sides and copied to
//! the caller's buffer: copies may write too much, and no address needs a check that a mask does not give.

use std::hint::select_unpredictable;

use super::collection::{Collection, LiteralTable, TokenTable};
use super::header::{Form, Header, STREAMS};
use super::token::{
    ANY, BEFORE, EIGHTS, ESCAPE, ESCAPED_BITS, FIRST_OFFSETS, Fields, LAST, LAYOUTS, MAX_TOKENS,
    MIN_SUB_DISTANCE, OFFSET_BITS, PAGE, RARE, SYMBOLS,
};
use crate::Error;

/// Tokens and literals of a stream between two refills: 5 codes of 11 bits leave room for the bits of a started byte.
const TURN: usize = 5;
/// Bytes of one copy.
const COPY: usize = 16;
/// Zeros before the page.
const BEHIND: usize = 8;

const _: () = assert!(BEHIND == MIN_SUB_DISTANCE as usize);

/// An object, and what is read behind it.
type Input = [u8; PAGE + 8];

type Literals = [u8; PAGE + COPY];
/// The page, behind zeros, and what a copy may write behind it.
type Window = [u8; BEHIND + PAGE + COPY];

/// A token as the first pass leaves it to the third.
#[derive(Clone, Copy, Default)]
struct Copy {
    /// Number of literals in the low half, length of the match in the high half.
    lengths: u32,
    offset: u32,
}

/// A damaged object.
struct Damaged;

/// One worker's scratch.
pub(super) struct Decode {
    input: Input,
    copies: [Copy; MAX_TOKENS],
    literals: Literals,
    window: Window,
}

impl Decode {
    pub(super) fn new() -> Decode {
        Decode {
            input: [0; _],
            copies: [Copy::default(); _],
            literals: [0; _],
            window: [0; _],
        }
    }

    /// Decodes an object. The number of bytes that it is of.
    pub(super) fn decompress(
        &mut self,
        collection: &Collection,
        src: &[u8],
        dst: &mut [u8],
    ) -> Result<usize, Error> {
        match Form::read(src) {
            Some(Form::Parts(mut parts)) => {
                let mut done = 0;
                for part in &mut parts {
                    let part = match Form::read(part) {
                        Some(Form::Parts(_)) | None => return Err(corrupt()),
                        Some(part) => part,
                    };
                    done += self.part(collection, part, &mut dst[done..])?;
                }
                match parts.is_whole() {
                    true => Ok(done),
                    false => Err(corrupt()),
                }
            }
            Some(part) => self.part(collection, part, dst),
            None => Err(corrupt()),
        }
    }

    #[inline(always)]
    fn part(
        &mut self,
        collection: &Collection,
        part: Form<'_>,
        dst: &mut [u8],
    ) -> Result<usize, Error> {
        let got = dst.len();
        let (src, count) = match part {
            Form::Raw(bytes) => {
                let dst = dst.get_mut(..bytes.len());
                dst.ok_or(Error::OutputTooSmall { got })?
                    .copy_from_slice(bytes);
                return Ok(bytes.len());
            }
            Form::Coded { part, plain } => (part, plain),
            Form::Parts(_) => return Err(corrupt()),
        };
        let dst = dst.get_mut(..count).ok_or(Error::OutputTooSmall { got })?;
        match self.coded(collection, src, count) {
            Ok(()) => dst.copy_from_slice(&self.window[BEHIND..][..count]),
            Err(Damaged) => return Err(corrupt()),
        }
        Ok(count)
    }

    /// Decodes a coded part of `plain` bytes, at most [`PAGE`], to the window.
    fn coded(&mut self, collection: &Collection, src: &[u8], plain: usize) -> Result<(), Damaged> {
        let header = Header::read(src).ok_or(Damaged)?;
        let tokens = collection.token_table(header.token_set).ok_or(Damaged)?;
        let (literals, is_sub) = collection
            .literal_table(header.literal_set)
            .ok_or(Damaged)?;
        self.input
            .get_mut(..src.len())
            .ok_or(Damaged)?
            .copy_from_slice(src);
        let copies = self.copies.get_mut(..header.tokens).ok_or(Damaged)?;
        let begin = header.bytes;
        let end = begin + header.token_bytes;
        let mut read = TokenReader {
            input: &self.input,
            table: tokens,
            token_at: 8 * begin,
            extra_at: 8 * src.len(),
            last: FIRST_OFFSETS[0].into(),
            before: FIRST_OFFSETS[1].into(),
            literals: 0,
            lengths: 0,
        };
        read.read(copies);
        let (extra_at, literal_count) = (read.extra_at, read.literals);
        // More fields than there are bytes wrap around.
        if read.token_at > 8 * end || extra_at > 8 * src.len() {
            return Err(Damaged);
        }
        let rest = plain.checked_sub(read.literals + read.lengths);
        let rest = rest.ok_or(Damaged)?;
        let count = literal_count + rest;
        let ends = match header.streams {
            Some(bytes) => {
                let mut begins = [end; STREAMS];
                for stream in 1..STREAMS {
                    begins[stream] = begins[stream - 1] + bytes[stream - 1];
                }
                let ends = read_four(&self.input, literals, &mut self.literals, count, begins);
                let within = |stream: usize| ends[stream] <= 8 * begins[stream + 1];
                if !(within(0) && within(1) && within(2)) {
                    return Err(Damaged);
                }
                ends[3]
            }
            None => read_one(&self.input, literals, &mut self.literals, count, end),
        };
        if ends > extra_at {
            return Err(Damaged);
        }
        let copies = &self.copies[..header.tokens];
        match is_sub {
            false => copy::<false>(copies, &self.literals, &mut self.window, rest),
            true => copy::<true>(copies, &self.literals, &mut self.window, rest),
        }
    }
}

fn corrupt() -> Error {
    Error::Corrupt {
        algorithm: super::NAME,
    }
}

/// The bits from a position on: 57 or more.
#[inline(always)]
fn bits(input: &Input, position: usize) -> u64 {
    let at = position / 8 % PAGE;
    let word = *input[at..at + 8].first_chunk().unwrap_or(&[0; 8]);
    u64::from_le_bytes(word) >> (position % 8)
}

/// The low bits of a word, by number.
static MASKS: [u64; 64] = masks();

const fn masks() -> [u64; 64] {
    let mut masks = [0; 64];
    let mut bits = 0;
    while bits < 64 {
        masks[bits] = (1 << bits) - 1;
        bits += 1;
    }
    masks
}

/// The low bits of a word.
#[inline(always)]
fn low(word: u64, bits: u8) -> u64 {
    word & MASKS[usize::from(bits) % MASKS.len()]
}

/// Reads tokens: their codes upwards, their extra fields downwards.
struct TokenReader<'a> {
    input: &'a Input,
    table: &'a TokenTable,
    /// The next bit of the codes.
    token_at: usize,
    /// The first bit of the last extra field.
    extra_at: usize,
    /// The last offset, and the one before.
    last: u32,
    before: u32,
    /// Number of literals so far, and bytes of matches.
    literals: usize,
    lengths: usize,
}

impl TokenReader<'_> {
    /// Reads all tokens.
    #[inline(never)]
    fn read(&mut self, copies: &mut [Copy]) {
        let (turns, rest) = copies.as_chunks_mut::<TURN>();
        for turn in turns {
            self.turn(turn);
        }
        self.turn(rest);
    }

    /// Reads up to [`TURN`] tokens. Their sums fit into parts of a word: 5 codes of 10 bits, 5 lengths below 2^13.
    #[inline(always)]
    fn turn(&mut self, copies: &mut [Copy]) {
        let mut word = bits(self.input, self.token_at);
        let (mut entries, mut lengths) = (0u32, 0u32);
        for copy in copies {
            let entry = self.table[word as usize % self.table.len()];
            word >>= entry & 63;
            entries += u32::from(entry);
            *copy = self.token(usize::from(entry >> 6));
            lengths += copy.lengths;
        }
        self.token_at += (entries & 63) as usize;
        self.literals += (lengths & 0xFFFF) as usize;
        self.lengths += (lengths >> 16) as usize;
    }

    #[inline(always)]
    fn token(&mut self, symbol: usize) -> Copy {
        let layout = &LAYOUTS[symbol.min(ESCAPE)];
        let (mut lengths, mut offset, mut kind) = (layout.least, 0, layout.kind);
        if kind >= RARE {
            (lengths, offset, kind) = self.rare(symbol);
        } else {
            self.extra_at = self.extra_at.wrapping_sub(layout.all_bits.into());
            let field = low(bits(self.input, self.extra_at), layout.all_bits);
            lengths += (low(field, layout.bits) as u32) << (layout.shift & 31);
            offset = (field >> (layout.bits & 63)) as u32 + 1;
        }
        let (last, before) = (self.last, self.before);
        let kind = u16::from(kind);
        offset = select_unpredictable(kind == EIGHTS, offset * 8, offset);
        offset = select_unpredictable(kind == BEFORE, before, offset);
        offset = select_unpredictable(kind == LAST, last, offset);
        self.before = select_unpredictable(kind == LAST, before, last);
        self.last = offset;
        Copy { lengths, offset }
    }

    /// Both lengths, the offset's field plus 1, and its kind, of a token that is escaped or has two extra lengths. An escape
    /// of an escape is a token of no bytes, and an error by its position.
    #[cold]
    fn rare(&mut self, symbol: usize) -> (u32, u32, u8) {
        let mut field = |bits: u32| {
            self.extra_at = self.extra_at.wrapping_sub(bits as usize);
            low(self::bits(self.input, self.extra_at), bits as u8) as u32
        };
        let symbol = match symbol {
            ESCAPE.. => field(ESCAPED_BITS) as usize,
            symbol => symbol,
        };
        if symbol >= SYMBOLS {
            return (0, u32::from(u16::MAX), ANY as u8);
        }
        let Fields {
            literals,
            length,
            kind,
        } = Fields::of(symbol);
        let offset = field(OFFSET_BITS[kind]) + 1;
        let run = u32::from(literals.0) + field(literals.1);
        let length = u32::from(length.0) + field(length.1);
        (run | length << 16, offset, kind as u8)
    }
}

/// Reads `count` literals from a single stream. The bit behind them.
fn read_one(
    input: &Input,
    table: &LiteralTable,
    literals: &mut Literals,
    count: usize,
    begin: usize,
) -> usize {
    let mut at = 8 * begin;
    for turn in literals[..count.min(PAGE)].chunks_mut(TURN) {
        let mut word = bits(input, at);
        for literal in turn {
            let entry = table[(word % table.len() as u64) as usize];
            word >>= entry & 15;
            at += usize::from(entry & 15);
            *literal = (entry >> 8) as u8;
        }
    }
    at
}

/// Reads `count` literals from four streams in turn. The bits behind them.
fn read_four(
    input: &Input,
    table: &LiteralTable,
    literals: &mut Literals,
    count: usize,
    begins: [usize; STREAMS],
) -> [usize; STREAMS] {
    let mut at = begins.map(|begin| 8 * begin);
    let (turns, rest) = literals[..count.min(PAGE)].as_chunks_mut::<{ STREAMS * TURN }>();
    for turn in turns {
        four_turn(input, table, turn, &mut at);
    }
    four_turn(input, table, rest, &mut at);
    at
}

/// Reads up to [`TURN`] literals of each stream. The lengths of their codes sum up in the entries' low bytes.
#[inline(always)]
fn four_turn(input: &Input, table: &LiteralTable, literals: &mut [u8], at: &mut [usize; STREAMS]) {
    let mut words = at.map(|at| bits(input, at));
    let mut entries = [0u32; STREAMS];
    let mut next = |stream: usize| {
        let entry = table[words[stream] as usize % table.len()];
        words[stream] >>= entry & 63;
        entries[stream] += u32::from(entry);
        (entry >> 8) as u8
    };
    let (fours, rest) = literals.as_chunks_mut::<STREAMS>();
    for four in fours {
        *four = [next(0), next(1), next(2), next(3)];
    }
    for (stream, literal) in rest.iter_mut().enumerate() {
        *literal = next(stream);
    }
    for (at, entries) in at.iter_mut().zip(entries) {
        *at += (entries & 0xFF) as usize;
    }
}

/// Makes the page of tokens that come to its length, with `rest` literals behind the last one.
#[inline(never)]
fn copy<const SUB: bool>(
    copies: &[Copy],
    literals: &Literals,
    window: &mut Window,
    rest: usize,
) -> Result<(), Damaged> {
    // Both stay below the page's end while anything is left.
    let (mut at, mut from) = (0usize, 0usize);
    let mut distance = u32::from(FIRST_OFFSETS[0].max(MIN_SUB_DISTANCE));
    for copy in copies {
        let (run, length) = (
            (copy.lengths & 0xFFFF) as usize,
            (copy.lengths >> 16) as usize,
        );
        put::<SUB>(window, literals, (at, from), run, distance as usize);
        at = (at + run) % PAGE;
        from = (from + run) % PAGE;
        let offset = copy.offset as usize;
        if offset > at {
            return Err(Damaged);
        }
        let chunk = chunk(window, at - offset);
        store(window, at, chunk);
        if length > COPY.min(offset) {
            long(window, at, offset, length, chunk);
        }
        at = (at + length) % PAGE;
        distance = copy.offset.max(MIN_SUB_DISTANCE.into());
    }
    if rest > 0 {
        put::<SUB>(window, literals, (at, from), rest, distance as usize);
    }
    Ok(())
}

/// Puts a run of literals.
#[inline(always)]
fn put<const SUB: bool>(
    window: &mut Window,
    literals: &Literals,
    (at, from): (usize, usize),
    run: usize,
    distance: usize,
) {
    let step = if SUB { MIN_SUB_DISTANCE as usize } else { COPY };
    let mut done = 0;
    loop {
        if SUB {
            let sub = eight(literals, (from + done) % PAGE);
            let place = (BEHIND + at + done - distance) % PAGE;
            let sum = add_bytes(sub, eight(window, place));
            let to = BEHIND + (at + done) % PAGE;
            window[to..to + 8].copy_from_slice(&sum.to_le_bytes());
        } else {
            let from = (from + done) % PAGE;
            let some = *literals[from..from + COPY]
                .first_chunk()
                .unwrap_or(&[0; COPY]);
            store(window, at + done, some);
        }
        done += step;
        if done >= run {
            break;
        }
    }
}

/// Adds eight bytes to eight, each modulo 256.
#[inline(always)]
fn add_bytes(a: u64, b: u64) -> u64 {
    const LOW: u64 = 0x7F7F_7F7F_7F7F_7F7F;
    ((a & LOW) + (b & LOW)) ^ ((a ^ b) & !LOW)
}

#[inline(always)]
fn eight(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..at + 8].first_chunk().unwrap_or(&[0; 8]))
}

/// The bytes at a position.
#[inline(always)]
fn chunk(window: &Window, at: usize) -> [u8; COPY] {
    let at = BEHIND + at % PAGE;
    *window[at..at + COPY].first_chunk().unwrap_or(&[0; COPY])
}

#[inline(always)]
fn store(window: &mut Window, at: usize, bytes: [u8; COPY]) {
    let at = BEHIND + at % PAGE;
    window[at..at + COPY].copy_from_slice(&bytes);
}

/// Copies a match whose first [`COPY`] bytes, or as many as its offset, are there.
#[inline(always)]
fn long(window: &mut Window, at: usize, offset: usize, length: usize, first: [u8; COPY]) {
    if offset >= COPY {
        let mut done = COPY;
        while done < length {
            let some = chunk(window, at + done - offset);
            store(window, at + done, some);
            done += COPY;
        }
    } else if offset >= 8 && offset != 8 {
        let mut done = offset;
        while done < length {
            store(window, at + done, first);
            done += offset;
        }
    } else {
        // The pattern repeated to 8 bytes, and the whole repetitions that one store advances by.
        const REPEAT: [u64; 9] = [
            0,
            0x0101_0101_0101_0101,
            0x0001_0001_0001_0001,
            0x0001_0000_0100_0001,
            0x0000_0001_0000_0001,
            0x0000_0100_0000_0001,
            0x0001_0000_0000_0001,
            0x0100_0000_0000_0001,
            1,
        ];
        let word = u64::from_le_bytes(*first.first_chunk().unwrap_or(&[0; 8]));
        let word = word & (!0 >> (64 - 8 * offset.max(1)));
        let word = word.wrapping_mul(REPEAT[offset % 9]).to_le_bytes();
        let mut pattern = [0; COPY];
        pattern[..8].copy_from_slice(&word);
        pattern[8..].copy_from_slice(&word);
        let step = if offset.is_power_of_two() {
            COPY
        } else {
            8 / offset.max(1) * offset
        };
        let mut done = 0;
        while done < length {
            store(window, at + done, pattern);
            done += step;
        }
    }
}
