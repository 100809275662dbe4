//! Encodes an object: the search, the choice of sets, then the streams.

use super::collection::{Collection, Costs, LiteralCodes, MAX_SETS, TokenCodes};
use super::header::{self, FOUR_STREAMS, Header, MARK_BYTES, MAX_BYTES, SHORT_BYTES, STREAMS};
use super::search::{Found, Search};
use super::token::{ESCAPE, ESCAPED_BITS, LAYOUTS, PAGE, TURN, Token};

/// Literals and tokens that are looked at to choose a set, about.
const SAMPLED_LITERALS: usize = 96;
const SAMPLED_TOKENS: usize = 96;
/// Costs of so many symbols are summed in bytes: none is above 20 bits.
const SUMMED: usize = 12;
/// A set of sub literals is taken where it costs less than so many hundredths of the best plain one's: it takes longer to
/// read.
const SUB_GAIN: u32 = 96;
/// Literals between two flushes.
const LITERAL_TURN: usize = 5;

/// Room for a part that is worth keeping, and for what one write puts behind it.
const ROOM: usize = PAGE;
const SLACK: usize = 8;
type Out = [u8; ROOM + SLACK];

/// One worker's state.
pub(super) struct Encode {
    search: Search,
    out: Box<Out>,
    extra: Box<Out>,
}

impl Encode {
    pub(super) fn new() -> Encode {
        Encode {
            search: Search::new(),
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
        rest.copy_from_slice(bytes);
        Some(mark.len() + bytes.len())
    }

    /// Encodes a part to `out`. `None` where that gains nothing.
    fn part(&mut self, collection: &Collection, src: &[u8]) -> Option<usize> {
        self.search.run(src);
        let found = self.search.found();
        let token_set = token_set(collection, found.tokens);
        let (literal_set, literals) = literal_set(collection, &found);
        let four = literals.len() >= FOUR_STREAMS;
        let short_turns = short_turns(found.tokens);
        let begin = Header::length(four, short_turns);

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
        if four {
            for (stream, bytes) in streams.iter_mut().enumerate() {
                let before = end;
                end = write_literals::<STREAMS>(literals, stream, codes, &mut self.out, end);
                *bytes = end - before;
            }
        } else {
            end = write_literals::<1>(literals, 0, codes, &mut self.out, end);
        }
        let extra = &self.extra[extra_begin..ROOM];
        let length = end + extra.len();
        let [first, second, third, _] = streams;
        let fits = [token_bytes, first, second, third]
            .iter()
            .all(|bytes| *bytes <= MAX_BYTES);
        if !fits || extra_begin < SLACK || length >= src.len() {
            return None;
        }
        self.out[end..length].copy_from_slice(extra);
        let header = Header {
            short_turns,
            literal_set,
            token_set,
            tokens: found.tokens.len(),
            token_bytes,
            streams: four.then_some([first, second, third]),
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

/// Chooses a set of literals, and so which of both sorts is coded.
#[inline(always)]
fn literal_set<'a>(collection: &Collection, found: &Found<'a>) -> (usize, &'a [u8]) {
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
    match sums(found.subs).cheapest(collection.plain_sets()..sets) {
        Some((sub_cost, sub)) if sub_cost * 100 < cost * SUB_GAIN => (sub, found.subs),
        _ => (set, found.literals),
    }
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
        for token in turn {
            reach |= token.reach();
            fields += usize::from(token.has_field());
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
        let (mut bits, mut fields) = (self.bits, self.fields);
        for turn in tokens.chunks(TURN) {
            for token in turn {
                let mut code = self.codes[usize::from(token.symbol) % self.codes.len()];
                if code == 0 {
                    code = self.codes[ESCAPE];
                    fields.add(token.symbol.into(), ESCAPED_BITS);
                }
                bits.add(u64::from(code >> 4), u32::from(code & 15));
                let (field, count) = token.extra(layouts, fewer);
                fields.add(field, count);
                fields.flush(extra);
            }
            bits.flush(out);
        }
        (self.bits, self.fields) = (bits, fields);
    }
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
    let add = |bits: &mut BitWriter, literal: u8| {
        let code = codes[usize::from(literal)];
        bits.add(u64::from(code >> 4), u32::from(code & 15));
    };
    let mut turns = literals.chunks_exact(EVERY * LITERAL_TURN);
    for turn in &mut turns {
        for row in turn.as_chunks::<EVERY>().0 {
            add(&mut bits, row[stream % EVERY]);
        }
        bits.flush(out);
    }
    for literal in turns.remainder().iter().skip(stream).step_by(EVERY) {
        add(&mut bits, *literal);
    }
    bits.finish(out)
}

/// Writes bits upwards, lowest first.
#[derive(Clone, Copy)]
struct BitWriter {
    bits: u64,
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

    /// Adds the low `count` bits of `bits`, which has no others. A flush is due after at most 56.
    #[inline(always)]
    fn add(&mut self, bits: u64, count: u32) {
        self.bits |= bits << (self.count & 63);
        self.count += count;
    }

    /// Writes the whole bytes. What does not fit is dropped, and noticed by the part's length.
    #[inline(always)]
    fn flush(&mut self, out: &mut Out) {
        let at = self.at.min(ROOM);
        out[at..at + SLACK].copy_from_slice(&self.bits.to_le_bytes());
        self.at = at + (self.count / 8) as usize;
        self.bits >>= (self.count & !7) & 63;
        self.count &= 7;
    }

    #[inline(always)]
    fn finish(mut self, out: &mut Out) -> usize {
        self.count += 7;
        self.flush(out);
        self.at.min(ROOM)
    }
}

/// Writes fields downwards from the end: each one below the one before.
#[derive(Clone, Copy)]
struct DownWriter {
    /// The bits that do not fill a byte yet, from the highest down.
    bits: u64,
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
        self.count += count;
        self.bits |= field << (64u32.wrapping_sub(self.count) & 63);
    }

    #[inline(always)]
    fn flush(&mut self, out: &mut Out) {
        let at = self.at.max(SLACK);
        out[at - SLACK..at].copy_from_slice(&self.bits.to_le_bytes());
        self.at = at - (self.count / 8) as usize;
        self.bits <<= (self.count & !7) & 63;
        self.count &= 7;
    }

    /// Ends with zeros down to a whole byte.
    #[inline(always)]
    fn finish(mut self, out: &mut Out) -> usize {
        self.count += 7;
        self.flush(out);
        self.at
    }
}
