//! Decodes an object in three passes: all tokens to an array, which checks them; all literals; then the copies.
//!
//! The first pass has no branch that depends on the data but for escapes, so the processor runs ahead; a pass that also
//! copied would lose that at every mispredicted length. A page is made in a window with slack on both sides and copied to
//! the caller's buffer: copies may write too much, and no address needs a check that a mask does not give.

use std::hint::select_unpredictable;

use super::collection::{Collection, LiteralTable, TokenTable};
use super::header::{Form, Header, STREAMS};
use super::token::{
    BEFORE, EIGHTS, ESCAPED_BITS, FIRST_OFFSETS, LAST, LAYOUTS, Layout, MAX_TOKENS,
    MIN_SUB_DISTANCE, PAGE, SYMBOLS,
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
    literals: u16,
    length: u16,
    offset: u16,
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
            extra_at: 8 * src.len() as isize,
            last: FIRST_OFFSETS[0].into(),
            before: FIRST_OFFSETS[1].into(),
            literals: 0,
            position: 0,
            bad: false,
        };
        read.read(copies);
        let position = read.position as usize;
        if read.bad || read.token_at > 8 * end || position > plain {
            return Err(Damaged);
        }
        let rest = plain - position;
        let count = read.literals as usize + rest;
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
        if read.extra_at < 0 || ends > read.extra_at as usize {
            return Err(Damaged);
        }
        let copies = &self.copies[..header.tokens];
        match is_sub {
            false => copy::<false>(copies, &self.literals, &mut self.window, rest),
            true => copy::<true>(copies, &self.literals, &mut self.window, rest),
        }
        Ok(())
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

/// Reads tokens: their codes upwards, their extra fields downwards.
struct TokenReader<'a> {
    input: &'a Input,
    table: &'a TokenTable,
    /// The next bit of the codes.
    token_at: usize,
    /// The first bit of the last extra field.
    extra_at: isize,
    /// The last offset, and the one before.
    last: u32,
    before: u32,
    /// Number of literals so far, and bytes up to the last match's end.
    literals: u32,
    position: u32,
    /// Whether an offset reached back too far.
    bad: bool,
}

impl TokenReader<'_> {
    /// Reads all tokens.
    #[inline(always)]
    fn read(&mut self, copies: &mut [Copy]) {
        let (turns, rest) = copies.as_chunks_mut::<TURN>();
        for turn in turns {
            let mut word = bits(self.input, self.token_at);
            for copy in turn {
                *copy = self.next(&mut word);
            }
        }
        let mut word = bits(self.input, self.token_at);
        for copy in rest {
            *copy = self.next(&mut word);
        }
    }

    #[inline(always)]
    fn next(&mut self, word: &mut u64) -> Copy {
        let mut layout = self.table[(*word % self.table.len() as u64) as usize];
        *word >>= layout.code_bits();
        self.token_at += layout.code_bits() as usize;
        if layout.is_escape() {
            self.extra_at -= ESCAPED_BITS as isize;
            layout = escaped(self.input, self.extra_at);
        }
        let (run_bits, length_bits) = (layout.literal_bits(), layout.length_bits());
        let extra_bits = run_bits + length_bits + layout.offset_bits();
        self.extra_at -= extra_bits as isize;
        let mut field = bits(self.input, self.extra_at as usize);
        let low = |field: u64, bits: u32| field as u32 & !(!0 << bits);
        let length = layout.length() + low(field, length_bits);
        field >>= length_bits;
        let run = layout.literals() + low(field, run_bits);
        field >>= run_bits;
        let kind = layout.kind();
        let unit = select_unpredictable(kind == EIGHTS.into(), 3, 0);
        let offset = (low(field, layout.offset_bits()) + 1) << unit;
        let offset = select_unpredictable(kind == BEFORE.into(), self.before, offset);
        let offset = select_unpredictable(kind == LAST.into(), self.last, offset);
        self.before = select_unpredictable(kind == LAST.into(), self.before, self.last);
        self.last = offset;
        self.literals += run;
        self.position += run;
        self.bad |= offset > self.position;
        self.position += length;
        Copy {
            literals: run as u16,
            length: length as u16,
            offset: offset as u16,
        }
    }
}

/// The layout of a symbol that has no code. One that there is not is taken for an escape, whose length of 0 does no harm.
#[cold]
fn escaped(input: &Input, position: isize) -> Layout {
    let symbol = bits(input, position as usize) as usize & ((1 << ESCAPED_BITS) - 1);
    LAYOUTS[symbol.min(SYMBOLS)]
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
    let mut turns = literals[..count.min(PAGE)].chunks_exact_mut(STREAMS * TURN);
    let next = |word: &mut u64, at: &mut usize| {
        let entry = table[(*word % table.len() as u64) as usize];
        *word >>= entry & 15;
        *at += usize::from(entry & 15);
        (entry >> 8) as u8
    };
    for turn in &mut turns {
        let mut words = at.map(|at| bits(input, at));
        for four in turn.as_chunks_mut::<STREAMS>().0 {
            for stream in 0..STREAMS {
                four[stream] = next(&mut words[stream], &mut at[stream]);
            }
        }
    }
    let mut words = at.map(|at| bits(input, at));
    for (place, literal) in turns.into_remainder().iter_mut().enumerate() {
        let stream = place % STREAMS;
        *literal = next(&mut words[stream], &mut at[stream]);
    }
    at
}

/// Makes the page of checked tokens, and of `rest` literals behind the last one.
#[inline(always)]
fn copy<const SUB: bool>(copies: &[Copy], literals: &Literals, window: &mut Window, rest: usize) {
    let (mut at, mut from) = (0usize, 0usize);
    let mut distance = usize::from(FIRST_OFFSETS[0].max(MIN_SUB_DISTANCE));
    for copy in copies {
        let (run, length) = (usize::from(copy.literals), usize::from(copy.length));
        put::<SUB>(window, literals, (at, from), run, distance);
        at += run;
        from += run;
        let offset = usize::from(copy.offset);
        let chunk = chunk(window, at - offset);
        store(window, at, chunk);
        if length > COPY.min(offset) {
            long(window, at, offset, length, chunk);
        }
        at += length;
        distance = usize::from(copy.offset.max(MIN_SUB_DISTANCE));
    }
    if rest > 0 {
        put::<SUB>(window, literals, (at, from), rest, distance);
    }
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
