//! Encodes an object: the search, the choice of sets, then the streams.

use super::super::search;
use super::collection::{Collection, Costs, LiteralCodes, MAX_SETS, TokenCodes};
use super::header::{
    self, FOUR_STREAMS, Literals, MARK_BYTES, MAX_BYTES, PartHeader, SHORT_BYTES, STREAMS,
};
use super::search::{FoundTokens, TokenSearch};
use super::token::{ESCAPE, ESCAPED_BITS, LAYOUTS, Layouts, PAGE, TURN, Token};

/// Literals and tokens that are looked at to choose a set, about.
const SAMPLED_LITERALS: usize = 48;
const SAMPLED_TOKENS: usize = 48;
/// Costs of so many symbols are summed in bytes: none is above 20 bits.
const SUMMED: usize = 12;
/// A set of sub literals is taken where it costs less than so many hundredths of the best plain one's: it takes longer to
/// read.
const SUB_GAIN: u32 = 92;
/// A part is coded where that saves more than one in so many of its bytes.
const LEAST_SAVED: usize = 32;
/// From so many literals on, their bits are estimated well by the ones that are looked at.
const MANY_LITERALS: usize = 1024;
/// From so many literals on they are kept as bytes where codes gain nothing: those are read sooner.
const RAW_LITERALS: usize = 256;
/// Literals between two flushes.
const LITERAL_TURN: usize = 5;

/// Room for a part that is worth keeping, and for what one write puts behind it.
const ROOM: usize = PAGE;
const SLACK: usize = 8;
type Out = [u8; ROOM + SLACK];

/// One worker's state.
pub(super) struct Encode {
    search: TokenSearch,
    out: Box<Out>,
    extra: Box<Out>,
}

impl Encode {
    pub(super) fn new() -> Encode {
        Encode {
            search: TokenSearch::new(),
            out: Box::new([0; _]),
            extra: Box::new([0; _]),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(self)
            + self.search.memory_bytes()
            + size_of_val(&*self.out)
            + size_of_val(&*self.extra)
    }

    /// Encodes a block. `None` where the object does not fit.
    pub(super) fn compress(
        &mut self,
        collection: &Collection,
        src: &[u8],
        dst: &mut [u8],
    ) -> Option<usize> {
        if src.len() <= PAGE {
            return self.object(collection, src, dst);
        }
        let mut length = MARK_BYTES;
        dst.get_mut(..length)?
            .copy_from_slice(&header::parts_mark());
        for part in src.chunks(PAGE) {
            let (own, rest) = dst.get_mut(length..)?.split_first_chunk_mut()?;
            let count = self.object(collection, part, rest)?;
            *own = (count as u16).to_le_bytes();
            length += own.len() + count;
        }
        if length == PAGE {
            *dst.get_mut(length)? = 0;
            length += 1;
        }
        Some(length)
    }

    /// Encodes at most a page.
    fn object(&mut self, collection: &Collection, src: &[u8], dst: &mut [u8]) -> Option<usize> {
        let mark = match src.len() {
            0 => return Some(0),
            PAGE => [0; MARK_BYTES],
            plain => header::coded_mark(plain),
        };
        let mark = if src.len() == PAGE { &mark[..0] } else { &mark };
        let (mark, bytes) = match self.part(collection, src) {
            Some(length) => (mark, &self.out[..length]),
            None if src.len() == PAGE => (mark, src),
            None => (&header::raw_mark(src.len())[..], src),
        };
        let (first, rest) = dst
            .get_mut(..mark.len() + bytes.len())?
            .split_at_mut(mark.len());
        first.copy_from_slice(mark);
        search::copy(bytes, rest);
        Some(mark.len() + bytes.len())
    }

    /// Encodes a part to `out`. `None` where that gains nothing.
    fn part(&mut self, collection: &Collection, src: &[u8]) -> Option<usize> {
        self.search.run(src);
        let found = self.search.found();
        let token_set = token_set(collection, found.tokens);
        let (literal_set, literals, literal_bits) = literal_set(collection, &found);
        // What saves less would take as long to read as any other page.
        let most = src.len() - src.len() / LEAST_SAVED;
        if literals.len() >= MANY_LITERALS && literal_bits >= 8 * most {
            return None;
        }
        let short_turns = short_turns(found.tokens);
        let raw = literals.len() >= RAW_LITERALS
            && literal_bits >= 8 * (literals.len() - literals.len() / LEAST_SAVED);
        let four = literals.len() >= FOUR_STREAMS;
        let begin = PartHeader::length(raw || four, short_turns);

        let codes = collection.token_codes(token_set)?;
        let mut writer = TokenWriter {
            codes,
            bits: BitWriter::new(begin),
            fields: DownWriter::new(),
        };
        let (first, rest) = split(found.tokens, short_turns[0]);
        let (second, third) = split(rest, short_turns[1]);
        for (fewer, tokens) in [(2, first), (1, second), (0, third)] {
            writer.write(tokens, fewer, &mut self.out, &mut self.extra);
        }
        let mut end = writer.bits.finish(&mut self.out);
        let extra_begin = writer.fields.finish(&mut self.extra);
        let token_bytes = end - begin;
        let codes = collection.literal_codes(literal_set)?;
        let mut streams = [0; STREAMS];
        let (mut literal_set, mut kept) = (literal_set, Literals::One);
        if raw {
            (literal_set, kept) = (0, Literals::Raw);
            let begin = end;
            end += found.literals.len();
            self.out
                .get_mut(begin..end)?
                .copy_from_slice(found.literals);
        } else if four {
            for (stream, bytes) in streams.iter_mut().enumerate() {
                let before = end;
                end = write_literals::<STREAMS>(literals, stream, codes, &mut self.out, end);
                *bytes = end - before;
            }
            kept = Literals::Four([streams[0], streams[1], streams[2]]);
        } else {
            end = write_literals::<1>(literals, 0, codes, &mut self.out, end);
        }
        let extra = &self.extra[extra_begin..ROOM];
        let length = end + extra.len();
        let [first, second, third, _] = streams;
        let fits = [token_bytes, first, second, third]
            .iter()
            .all(|bytes| *bytes <= MAX_BYTES);
        if !fits || extra_begin < SLACK || length >= most {
            return None;
        }
        self.out[end..length].copy_from_slice(extra);
        let header = PartHeader {
            short_turns,
            literal_set,
            token_set,
            tokens: found.tokens.len(),
            token_bytes,
            literals: kept,
            bytes: begin,
        };
        header.write(&mut self.out[..]);
        Some(length)
    }
}

/// Sums of costs by set.
#[derive(Default)]
struct Sums {
    sums: [u16; MAX_SETS],
}

impl Sums {
    /// Sums the costs of some symbols.
    #[inline(always)]
    fn of<'a>(costs: impl Iterator<Item = &'a Costs>) -> Sums {
        let mut all = Sums::default();
        let mut costs = costs.fuse();
        while let Some(first) = costs.next() {
            let mut some = *first;
            for costs in costs.by_ref().take(SUMMED - 1) {
                for (sum, cost) in some.iter_mut().zip(costs) {
                    *sum = sum.wrapping_add(*cost);
                }
            }
            for (sum, some) in all.sums.iter_mut().zip(&some) {
                *sum += u16::from(*some);
            }
        }
        all
    }

    /// The cheapest set of a range, and its cost.
    #[inline(always)]
    fn cheapest(&self, sets: std::ops::Range<usize>) -> Option<(u32, usize)> {
        // A comparison for each would be mispredicted.
        let keys = self.sums.get(sets.clone())?.iter().zip(sets);
        let keys = keys.map(|(cost, set)| u32::from(*cost) << 8 | set as u32);
        let least = keys.min()?;
        Some((least >> 8, (least & 0xFF) as usize))
    }
}

/// Every how many of `count` are looked at for about `sampled` of them.
fn step(count: usize, sampled: usize) -> usize {
    count / sampled + 1
}

/// Chooses a set of tokens.
#[inline(always)]
fn token_set(collection: &Collection, tokens: &[Token]) -> usize {
    let costs = &collection.token_costs;
    let sampled = tokens.iter().step_by(step(tokens.len(), SAMPLED_TOKENS));
    let sums = Sums::of(sampled.map(|token| &costs[usize::from(token.symbol) % costs.len()]));
    let (_, sets) = collection.sets();
    sums.cheapest(0..sets).map_or(0, |(_, set)| set)
}

/// Chooses a set of literals, and so which of both sorts is coded. Estimates the bits that they take.
#[inline(always)]
fn literal_set<'a>(collection: &Collection, found: &FoundTokens<'a>) -> (usize, &'a [u8], usize) {
    let costs = &collection.literal_costs;
    let step = step(found.literals.len(), SAMPLED_LITERALS);
    let sums = |literals: &[u8]| {
        Sums::of(
            literals
                .iter()
                .step_by(step)
                .map(|literal| &costs[usize::from(*literal)]),
        )
    };
    let (sets, _) = collection.sets();
    let plain = sums(found.literals).cheapest(0..collection.plain_sets());
    let (cost, set) = plain.unwrap_or_default();
    let (bits, set, literals) = match sums(found.subs).cheapest(collection.plain_sets()..sets) {
        Some((sub_cost, sub)) if sub_cost * 100 < cost * SUB_GAIN => (sub_cost, sub, found.subs),
        _ => (cost, set, found.literals),
    };
    (set, literals, bits as usize * step)
}

/// The first turns, of [`TURN`] tokens each, and the rest.
fn split(tokens: &[Token], turns: usize) -> (&[Token], &[Token]) {
    tokens.split_at((turns * TURN).min(tokens.len()))
}

/// The number of turns whose offsets are below 2^10, and of those after them below 2^11. None where that gains nothing.
#[inline(always)]
fn short_turns(tokens: &[Token]) -> [usize; 2] {
    let (mut turns, mut gain) = ([0; 2], 0);
    for turn in tokens.chunks(TURN) {
        let (mut reach, mut fields) = (0, 0);
        // A recent offset is no farther than what it was new at.
        for token in turn {
            reach |= token.offset;
            fields += token.fields();
        }
        if reach < 1 << 10 && turns[1] == 0 {
            turns[0] += 1;
            gain += 2 * fields;
        } else if reach < 1 << 11 {
            turns[1] += 1;
            gain += fields;
        } else {
            break;
        }
    }
    if gain <= 8 * SHORT_BYTES {
        return [0; 2];
    }
    turns
}

/// Writes tokens: their codes upwards, their extra fields downwards.
struct TokenWriter<'a> {
    codes: &'a TokenCodes,
    bits: BitWriter,
    fields: DownWriter,
}

impl TokenWriter<'_> {
    /// Writes tokens whose offsets' fields are shorter by `fewer` bits. All but the last are whole turns.
    #[inline(always)]
    fn write(&mut self, tokens: &[Token], fewer: usize, out: &mut Out, extra: &mut Out) {
        let layouts = &LAYOUTS[fewer % LAYOUTS.len()];
        let (turns, rest) = tokens.as_chunks::<TURN>();
        for [a, b, c, d, e] in turns {
            self.add(a, layouts, fewer, extra);
            self.add(b, layouts, fewer, extra);
            self.fields.flush(extra);
            self.add(c, layouts, fewer, extra);
            self.add(d, layouts, fewer, extra);
            self.fields.flush(extra);
            self.add(e, layouts, fewer, extra);
            self.fields.flush(extra);
            self.bits.flush(out);
        }
        for token in rest {
            self.add(token, layouts, fewer, extra);
            self.fields.flush(extra);
        }
        self.bits.flush(out);
    }

    /// Adds a token: up to 10 bits, and up to 24 bits of fields. More are flushed.
    #[inline(always)]
    fn add(&mut self, token: &Token, layouts: &Layouts, fewer: usize, extra: &mut Out) {
        let code = self.codes[usize::from(token.symbol) % self.codes.len()];
        match token.extra(layouts) {
            Some((field, count)) if code != 0 => {
                self.bits.add(u64::from(code & !15) << 48, code.into());
                self.fields.add(field, count);
            }
            _ => {
                let bits = &mut self.bits;
                (*bits, self.fields) = rare(self.codes, *bits, self.fields, token, fewer, extra);
            }
        }
    }
}

/// Adds a token that is escaped, or whose lengths both have extra bits.
#[cold]
#[inline(never)]
fn rare(
    codes: &TokenCodes,
    mut bits: BitWriter,
    mut fields: DownWriter,
    token: &Token,
    fewer: usize,
    extra: &mut Out,
) -> (BitWriter, DownWriter) {
    fields.flush(extra);
    let mut code = codes[usize::from(token.symbol) % codes.len()];
    if code == 0 {
        code = codes[ESCAPE];
        fields.add(token.symbol.into(), ESCAPED_BITS);
    }
    bits.add(u64::from(code & !15) << 48, code.into());
    let (field, count) = token.rare_extra(fewer as u32);
    fields.add(field, count);
    fields.flush(extra);
    (bits, fields)
}

/// Writes the literals of a stream, every one of so many, from `at` on. Its end.
#[inline(always)]
fn write_literals<const EVERY: usize>(
    literals: &[u8],
    stream: usize,
    codes: &LiteralCodes,
    out: &mut Out,
    at: usize,
) -> usize {
    let mut bits = BitWriter::new(at);
    let add = |bits: &mut BitWriter, literal: u8, mask: u64| {
        let code = codes[usize::from(literal)];
        bits.add(code & mask, code as u32);
    };
    let mut turns = literals.chunks_exact(EVERY * LITERAL_TURN);
    for turn in &mut turns {
        for (row, literals) in turn.as_chunks::<EVERY>().0.iter().enumerate() {
            // The length in an entry's lowest bits is below what is written, but for the last one's.
            let mask = if row + 1 < LITERAL_TURN {
                u64::MAX
            } else {
                !15
            };
            add(&mut bits, literals[stream % EVERY], mask);
        }
        bits.flush(out);
    }
    for literal in turns.remainder().iter().skip(stream).step_by(EVERY) {
        add(&mut bits, *literal, !15);
    }
    bits.finish(out)
}

/// Writes bits upwards, lowest first.
#[derive(Clone, Copy)]
struct BitWriter {
    /// The last bits are the highest. Those below the ones that count mean nothing.
    bits: u64,
    /// How many are not written yet, in its lowest 6 bits.
    count: u32,
    at: usize,
}

impl BitWriter {
    fn new(at: usize) -> BitWriter {
        BitWriter {
            bits: 0,
            count: 0,
            at,
        }
    }

    /// Adds the high bits of `bits`, as many as the lowest 6 bits of `count` say. A flush is due before there are 64.
    #[inline(always)]
    fn add(&mut self, bits: u64, count: u32) {
        self.bits = self.bits >> (count & 63) | bits;
        self.count = self.count.wrapping_add(count);
    }

    /// Writes the whole bytes. What does not fit is dropped, and noticed by the part's length.
    #[inline(always)]
    fn flush(&mut self, out: &mut Out) {
        let at = self.at.min(ROOM);
        // Without bits, what is written does not count.
        let bits = self.bits >> (self.count.wrapping_neg() & 63);
        out[at..at + SLACK].copy_from_slice(&bits.to_le_bytes());
        self.count &= 63;
        self.at = at + (self.count / 8) as usize;
        self.count &= 7;
    }

    /// Ends with zeros up to a whole byte.
    #[inline(always)]
    fn finish(mut self, out: &mut Out) -> usize {
        self.flush(out);
        self.add(0, self.count.wrapping_neg() & 7);
        self.flush(out);
        self.at.min(ROOM)
    }
}

/// Writes fields downwards from the end: each one below the one before.
#[derive(Clone, Copy)]
struct DownWriter {
    /// The last bits are the lowest.
    bits: u64,
    /// How many are not written yet.
    count: u32,
    at: usize,
}

impl DownWriter {
    fn new() -> DownWriter {
        DownWriter {
            bits: 0,
            count: 0,
            at: ROOM,
        }
    }

    /// Adds a field of `count` bits, which has no others. A flush is due after at most 56.
    #[inline(always)]
    fn add(&mut self, field: u64, count: u32) {
        self.bits = self.bits << (count & 63) | field;
        self.count += count;
    }

    #[inline(always)]
    fn flush(&mut self, out: &mut Out) {
        let at = self.at.max(SLACK);
        let bits = self.bits << (self.count.wrapping_neg() & 63);
        out[at - SLACK..at].copy_from_slice(&bits.to_le_bytes());
        self.at = at - (self.count / 8) as usize;
        self.count &= 7;
    }

    /// Ends with zeros down to a whole byte.
    #[inline(always)]
    fn finish(mut self, out: &mut Out) -> usize {
        self.flush(out);
        self.add(0, self.count.wrapping_neg() & 7);
        self.flush(out);
        self.at
    }
}
