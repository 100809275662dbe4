//! Decodes an object in three passes: all tokens to an array; all literals; then the copies, which check the offsets.
//!
//! The first pass has no branch that depends on the data but for rare tokens, so the processor runs ahead; a pass that also
//! copied would lose that at every mispredicted length. A page is made in a window with slack on both sides and copied to
//! the caller's buffer: copies may write too much, and no address needs a check that a mask does not give.

use std::hint::select_unpredictable;

use super::super::search;
use super::collection::{Collection, LiteralTable, TokenTable};
use super::header::{self, ObjectForm, PartHeader, STREAMS};
use super::token::{
    ANY, BEFORE, EIGHTS, ESCAPE, ESCAPED_BITS, FIRST_OFFSETS, LAST, LAYOUTS, Layouts, MAX_TOKENS,
    MIN_SUB_DISTANCE, PAGE, RARE, SYMBOLS, SymbolFields, TURN, offset_bits,
};
use crate::Error;

/// Literals of a stream between two refills: 5 codes of 11 bits leave room for the bits of a started byte.
const LITERAL_TURN: usize = 5;
/// Bytes of one copy.
const COPY: usize = 16;
/// From so many bytes on, one copy by the library takes less time than a loop of short ones.
const LONG: usize = 96;
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
struct Step {
    /// Number of literals in the low half, length of the match in the high half.
    lengths: u32,
    offset: u32,
}

/// A damaged object.
struct Damaged;

/// One worker's scratch.
pub(super) struct Decode {
    input: Input,
    copies: [Step; MAX_TOKENS],
    literals: Literals,
    window: Window,
}

impl Decode {
    pub(super) fn new() -> Decode {
        Decode {
            input: [0; _],
            copies: [Step::default(); _],
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
        match ObjectForm::read(src) {
            Some(ObjectForm::Parts(mut parts)) => {
                let mut done = 0;
                for part in &mut parts {
                    let part = match ObjectForm::read(part) {
                        Some(ObjectForm::Parts(_)) | None => return Err(corrupt()),
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
        part: ObjectForm<'_>,
        dst: &mut [u8],
    ) -> Result<usize, Error> {
        let got = dst.len();
        let (src, count) = match part {
            ObjectForm::Raw(bytes) => {
                let dst = dst.get_mut(..bytes.len());
                search::copy(bytes, dst.ok_or(Error::OutputTooSmall { got })?);
                return Ok(bytes.len());
            }
            ObjectForm::Coded { part, plain } => (part, plain),
            ObjectForm::Parts(_) => return Err(corrupt()),
        };
        let dst = dst.get_mut(..count).ok_or(Error::OutputTooSmall { got })?;
        match self.coded(collection, src, count) {
            Ok(()) => search::copy(&self.window[BEHIND..][..count], dst),
            Err(Damaged) => return Err(corrupt()),
        }
        Ok(count)
    }

    /// Decodes a coded part of `plain` bytes, at most [`PAGE`], to the window.
    fn coded(&mut self, collection: &Collection, src: &[u8], plain: usize) -> Result<(), Damaged> {
        let header = PartHeader::read(src).ok_or(Damaged)?;
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
        let read = read_tokens(
            &self.input,
            tokens,
            copies,
            header.short_turns,
            (begin, src.len()),
        );
        let (extra_at, literal_count) = (read.extra_at, read.literals);
        // More fields than there are bytes wrap around.
        if read.codes.end() > 8 * end || extra_at > 8 * src.len() {
            return Err(Damaged);
        }
        let rest = plain.checked_sub(read.literals + read.lengths);
        let rest = rest.ok_or(Damaged)?;
        let count = literal_count + rest;
        let ends = match header.literals {
            header::Literals::Four(bytes) => {
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
            header::Literals::One => {
                read_one(&self.input, literals, &mut self.literals, count, end)
            }
            header::Literals::Raw => {
                let bytes = self.input.get(end..end + count).ok_or(Damaged)?;
                let literals = self.literals.get_mut(..count).ok_or(Damaged)?;
                literals.copy_from_slice(bytes);
                8 * (end + count)
            }
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

/// A stream of codes, read upwards: a word of its next bits, which a refill tops up. Where it loads from is known long
/// before, so that nothing waits for the load.
#[derive(Clone, Copy)]
struct Codes {
    word: u64,
    /// Bits of the word that are valid; above are others of the stream, which a refill repeats.
    count: u32,
    /// The byte that is loaded next.
    next: usize,
}

impl Codes {
    #[inline(always)]
    fn new(begin: usize) -> Codes {
        Codes {
            word: 0,
            count: 0,
            next: begin,
        }
    }

    /// Makes 56 bits or more valid.
    #[inline(always)]
    fn refill(&mut self, input: &Input) {
        let at = self.next % PAGE;
        let loaded = u64::from_le_bytes(*input[at..at + 8].first_chunk().unwrap_or(&[0; 8]));
        self.word |= loaded << (self.count & 63);
        self.next += ((63 - self.count) / 8) as usize;
        self.count |= 56;
    }

    /// The bit behind the last code.
    fn end(&self) -> usize {
        8 * self.next - self.count as usize
    }
}

/// The low bits of a word, by number.
static MASKS: [u64; 256] = masks();

const fn masks() -> [u64; 256] {
    let mut masks = [u64::MAX; 256];
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
    word & MASKS[usize::from(bits)]
}

/// Where tokens are read: their codes upwards, their extra fields downwards. It is kept in registers, and so never
/// referred to.
#[derive(Clone, Copy)]
struct TokenState {
    codes: Codes,
    /// The first bit of the last extra field.
    extra_at: usize,
    /// The last offset, and the one before.
    last: u32,
    before: u32,
    /// Number of literals so far, and bytes of matches.
    literals: usize,
    lengths: usize,
}

/// Reads all tokens: codes from byte `begin` on, extra fields down from byte `end`.
#[inline(never)]
fn read_tokens(
    input: &Input,
    table: &TokenTable,
    copies: &mut [Step],
    short_turns: [usize; 2],
    (begin, end): (usize, usize),
) -> TokenState {
    let mut state = TokenState {
        codes: Codes::new(begin),
        extra_at: 8 * end,
        last: FIRST_OFFSETS[0].into(),
        before: FIRST_OFFSETS[1].into(),
        literals: 0,
        lengths: 0,
    };
    let (first, rest) = copies.split_at_mut((short_turns[0] * TURN).min(copies.len()));
    let (second, third) = rest.split_at_mut((short_turns[1] * TURN).min(rest.len()));
    for (fewer, steps) in [(2, first), (1, second), (0, third)] {
        let layouts = &LAYOUTS[fewer];
        let (turns, rest) = steps.as_chunks_mut::<TURN>();
        for [a, b, c, d, e] in turns {
            let mut turn = Turn::default();
            state.codes.refill(input);
            (state, turn, *a) = read_token(input, table, layouts, fewer, state, turn);
            (state, turn, *b) = read_token(input, table, layouts, fewer, state, turn);
            (state, turn, *c) = read_token(input, table, layouts, fewer, state, turn);
            (state, turn, *d) = read_token(input, table, layouts, fewer, state, turn);
            (state, turn, *e) = read_token(input, table, layouts, fewer, state, turn);
            state = turn.end(state);
        }
        let mut turn = Turn::default();
        state.codes.refill(input);
        for step in rest {
            (state, turn, *step) = read_token(input, table, layouts, fewer, state, turn);
        }
        state = turn.end(state);
    }
    state
}

/// Sums of up to [`TURN`] tokens. They fit into parts of a word: 5 codes of 10 bits, 5 lengths below 2^13.
#[derive(Clone, Copy, Default)]
struct Turn {
    entries: u32,
    lengths: u32,
}

impl Turn {
    #[inline(always)]
    fn end(self, mut state: TokenState) -> TokenState {
        state.codes.count -= self.entries & 63;
        state.literals += (self.lengths & 0xFFFF) as usize;
        state.lengths += (self.lengths >> 16) as usize;
        state
    }
}

#[inline(always)]
fn read_token(
    input: &Input,
    table: &TokenTable,
    layouts: &Layouts,
    fewer: usize,
    mut state: TokenState,
    mut turn: Turn,
) -> (TokenState, Turn, Step) {
    let entry = table[state.codes.word as usize % table.len()];
    state.codes.word >>= entry & 63;
    turn.entries += u32::from(entry);
    let layout = &layouts[usize::from(entry >> 6)];
    let (lengths, mut offset, kind);
    if layout.kind >= RARE {
        let token = rare(input, entry >> 6, fewer as u32, state.extra_at);
        (state.extra_at, kind) = (token.extra_at, token.kind);
        (lengths, offset) = (token.lengths, token.offset);
    } else {
        state.extra_at = state.extra_at.wrapping_sub(layout.all_bits.into());
        let field = low(bits(input, state.extra_at), layout.all_bits);
        lengths = layout.least + ((low(field, layout.bits) as u32) << (layout.shift & 31));
        offset = (field >> (layout.bits & 63)) as u32 + 1;
        kind = layout.kind;
    }
    let (last, before) = (state.last, state.before);
    let kind = u16::from(kind);
    offset = select_unpredictable(kind == EIGHTS, offset * 8, offset);
    offset = select_unpredictable(kind == BEFORE, before, offset);
    offset = select_unpredictable(kind == LAST, last, offset);
    state.before = select_unpredictable(kind == LAST, before, last);
    state.last = offset;
    turn.lengths += lengths;
    (state, turn, Step { lengths, offset })
}

/// A token that is escaped, or whose lengths both have extra bits.
struct RareToken {
    extra_at: usize,
    lengths: u32,
    /// The offset's field plus 1.
    offset: u32,
    kind: u8,
}

/// Reads the extra fields of a rare token. An escape of an escape is a token of no bytes, and an error by its offset.
#[cold]
#[inline(never)]
fn rare(input: &Input, symbol: u16, fewer: u32, mut extra_at: usize) -> RareToken {
    let mut field = |bits: u32| {
        extra_at = extra_at.wrapping_sub(bits as usize);
        low(self::bits(input, extra_at), bits as u8) as u32
    };
    let symbol = match usize::from(symbol) {
        ESCAPE.. => field(ESCAPED_BITS) as usize,
        symbol => symbol,
    };
    let SymbolFields {
        literals,
        length,
        kind,
    } = SymbolFields::of(symbol);
    let offset = field(offset_bits(kind, fewer)) + 1;
    let run = u32::from(literals.0) + field(literals.1);
    let length = u32::from(length.0) + field(length.1);
    let (lengths, offset, kind) = match symbol {
        0..SYMBOLS => (run | length << 16, offset, kind as u8),
        _ => (0, u32::from(u16::MAX), ANY as u8),
    };
    RareToken {
        extra_at,
        lengths,
        offset,
        kind,
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
    let mut codes = Codes::new(begin);
    for turn in literals[..count.min(PAGE)].chunks_mut(LITERAL_TURN) {
        codes.refill(input);
        let mut sum = 0;
        for literal in turn {
            *literal = read_literal(table, &mut codes.word, &mut sum);
        }
        codes.count -= sum & 63;
    }
    codes.end()
}

/// Reads a literal. The sum of entries has the bits that were read in its lowest 6.
#[inline(always)]
fn read_literal(table: &LiteralTable, word: &mut u64, sum: &mut u32) -> u8 {
    let entry = table[*word as usize % table.len()];
    *word >>= entry & 63;
    *sum += u32::from(entry);
    (entry >> 8) as u8
}

/// Reads `count` literals from four streams in turn. The bits behind them.
#[inline(never)]
fn read_four(
    input: &Input,
    table: &LiteralTable,
    literals: &mut Literals,
    count: usize,
    begins: [usize; STREAMS],
) -> [usize; STREAMS] {
    let mut codes = begins.map(Codes::new);
    let (turns, rest) = literals[..count.min(PAGE)].as_chunks_mut::<{ STREAMS * LITERAL_TURN }>();
    for turn in turns {
        four_turn(input, table, turn, &mut codes);
    }
    four_turn(input, table, rest, &mut codes);
    codes.map(|codes| codes.end())
}

/// Reads up to [`LITERAL_TURN`] literals of each stream.
#[inline(always)]
fn four_turn(
    input: &Input,
    table: &LiteralTable,
    literals: &mut [u8],
    codes: &mut [Codes; STREAMS],
) {
    let mut sums = [0; STREAMS];
    for codes in &mut *codes {
        codes.refill(input);
    }
    let (fours, rest) = literals.as_chunks_mut::<STREAMS>();
    for four in fours {
        four[0] = read_literal(table, &mut codes[0].word, &mut sums[0]);
        four[1] = read_literal(table, &mut codes[1].word, &mut sums[1]);
        four[2] = read_literal(table, &mut codes[2].word, &mut sums[2]);
        four[3] = read_literal(table, &mut codes[3].word, &mut sums[3]);
    }
    for ((literal, codes), sum) in rest.iter_mut().zip(&mut *codes).zip(&mut sums) {
        *literal = read_literal(table, &mut codes.word, sum);
    }
    for (codes, sum) in codes.iter_mut().zip(sums) {
        codes.count -= sum & 63;
    }
}

/// Makes the page of tokens that come to its length, with `rest` literals behind the last one.
#[inline(never)]
fn copy<const SUB: bool>(
    copies: &[Step],
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
            if offset >= COPY {
                let chunk = self::chunk(window, at + COPY - offset);
                store(window, at + COPY, chunk);
                if length > 2 * COPY {
                    far(window, at, offset, length);
                }
            } else {
                overlapping(window, at, offset, length);
            }
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
    put_some::<SUB>(window, literals, (at, from), distance);
    if SUB {
        // The second eight may need the first.
        if run > SUB_STEP {
            put_some::<SUB>(window, literals, (at + SUB_STEP, from + SUB_STEP), distance);
        }
    }
    if run > COPY {
        put_rest::<SUB>(window, literals, (at, from), run, distance);
    }
}

/// Puts what a run has beyond [`COPY`] literals.
#[inline(never)]
fn put_rest<const SUB: bool>(
    window: &mut Window,
    literals: &Literals,
    (at, from): (usize, usize),
    run: usize,
    distance: usize,
) {
    if !SUB && run >= LONG {
        let from = literals.get(from..from + run);
        let to = window.get_mut(BEHIND + at..BEHIND + at + run);
        if let (Some(from), Some(to)) = (from, to) {
            to.copy_from_slice(from);
        }
        return;
    }
    let step = if SUB { SUB_STEP } else { COPY };
    let mut done = COPY;
    while done < run {
        put_some::<SUB>(window, literals, (at + done, from + done), distance);
        done += step;
    }
}

/// Literals of one step where they are sub: no more than their distance.
const SUB_STEP: usize = MIN_SUB_DISTANCE as usize;

/// Puts one step of a run.
#[inline(always)]
fn put_some<const SUB: bool>(
    window: &mut Window,
    literals: &Literals,
    (at, from): (usize, usize),
    distance: usize,
) {
    let from = from % PAGE;
    if SUB {
        let before = (BEHIND + at - distance) % PAGE;
        let sum = add_bytes(eight(literals, from), eight(window, before));
        let to = BEHIND + at % PAGE;
        window[to..to + SUB_STEP].copy_from_slice(&sum.to_le_bytes());
    } else {
        let some = *literals[from..from + COPY]
            .first_chunk()
            .unwrap_or(&[0; COPY]);
        store(window, at, some);
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

/// Copies what a match has beyond twice [`COPY`] bytes; its offset is no less than one.
#[inline(never)]
fn far(window: &mut Window, at: usize, offset: usize, length: usize) {
    if length >= LONG && offset >= length {
        let begin = BEHIND + at;
        if begin + length <= window.len() {
            window.copy_within(begin - offset..begin - offset + length, begin);
        }
        return;
    }
    let mut done = 2 * COPY;
    while done < length {
        let some = chunk(window, at + done - offset);
        store(window, at + done, some);
        done += COPY;
    }
}

/// Copies a match that is longer than its offset, which is less than [`COPY`]. `first` is the bytes before it.
#[inline(never)]
fn overlapping(window: &mut Window, at: usize, offset: usize, length: usize) {
    // What was copied already.
    let first = chunk(window, at);
    if offset == 1 && length >= LONG {
        if let Some(to) = window.get_mut(BEHIND + at..BEHIND + at + length) {
            to.fill(first[0]);
        }
        return;
    }
    // A pattern of whole repetitions of the offset's bytes, and as many bytes of it as one store advances by.
    let (mut pattern, mut step) = (first, offset);
    if offset <= 8 {
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
        let word = low(word, 8 * offset as u8);
        let word = word.wrapping_mul(REPEAT[offset % 9]).to_le_bytes();
        pattern[..8].copy_from_slice(&word);
        pattern[8..].copy_from_slice(&word);
        step = [0, COPY, COPY, 6, COPY, 5, 6, 7, COPY][offset % 9];
    }
    let mut done = 0;
    while done < length {
        store(window, at + done, pattern);
        done += step.max(1);
    }
}
