//! Writes the sequences section: literals lengths, match lengths and offsets, each as a code by finite state entropy and
//! extra bits: RFC 8878, chapter 3.1.1.3.2.

use super::cost::{self, BIT, log2};
use super::fse::{self, FseTable, SYMBOLS};
use super::out::{BitWriter, Out};
use super::search::{MAX_SEQUENCES, Sequence};

const _: () = assert!(MAX_SEQUENCES < 0x7F00);

/// What a table of the block's own takes for each symbol, and what it must save besides: it takes time to build and to
/// read.
const TABLE_SYMBOL: u32 = 5 * BIT;
const TABLE: u32 = 25 * 8 * BIT;
/// The format's shortest match.
const FORMAT_MIN_MATCH: u16 = 3;
/// Lengths below these have their codes in a table.
const LITERALS_BY_TABLE: usize = 64;
const LENGTHS_BY_TABLE: usize = 128;

/// The default distributions (Predefined_Mode).
const LITERALS_NORM: [i16; 36] = [
    4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1,
    -1, -1, -1, -1,
];
const LENGTHS_NORM: [i16; 53] = [
    1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
];
const OFFSETS_NORM: [i16; 29] = [
    1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1,
];

/// Codes of short lengths. Codes before the first one here stand for one value each; the others are (code, extra bits).
const LITERALS_CODES: [u8; LITERALS_BY_TABLE] = by_table(&[
    (16, 1),
    (17, 1),
    (18, 1),
    (19, 1),
    (20, 2),
    (21, 2),
    (22, 3),
    (23, 3),
    (24, 4),
]);
const LENGTHS_CODES: [u8; LENGTHS_BY_TABLE] = by_table(&[
    (32, 1),
    (33, 1),
    (34, 1),
    (35, 1),
    (36, 2),
    (37, 2),
    (38, 3),
    (39, 3),
    (40, 4),
    (41, 4),
    (42, 5),
]);
const LITERALS_BITS: [u8; SYMBOLS] = bits(&LITERALS_CODES, 25, 6);
const LENGTHS_BITS: [u8; SYMBOLS] = bits(&LENGTHS_CODES, 43, 7);

/// A table of codes by value: the first values are their own codes, the given codes have so many extra bits.
const fn by_table<const COUNT: usize>(given: &[(u8, u32)]) -> [u8; COUNT] {
    let mut table = [0; COUNT];
    let mut value = 0;
    while value < given[0].0 as usize {
        table[value] = value as u8;
        value += 1;
    }
    let mut at = 0;
    while at < given.len() {
        let end = value + (1 << given[at].1);
        while value < end {
            table[value] = given[at].0;
            value += 1;
        }
        at += 1;
    }
    table
}

/// Extra bits of each code: by its number of values in the table; from `first` on one more each.
const fn bits<const COUNT: usize>(codes: &[u8; COUNT], first: usize, count: u8) -> [u8; SYMBOLS] {
    let mut values = [0u32; SYMBOLS];
    let mut at = 0;
    while at < COUNT {
        values[codes[at] as usize] += 1;
        at += 1;
    }
    let mut bits = [0; SYMBOLS];
    let mut code = 0;
    while code < SYMBOLS {
        bits[code] = if code >= first {
            count + (code - first) as u8
        } else if values[code] > 0 {
            values[code].ilog2() as u8
        } else {
            0
        };
        code += 1;
    }
    bits
}

/// The three symbol types in the format's order.
pub(super) const KINDS: usize = 3;
pub(super) const LITERALS: usize = 0;
pub(super) const OFFSETS: usize = 1;
pub(super) const LENGTHS: usize = 2;

/// Symbol compression modes. A frame has one block: what Repeat_Mode repeats is the dictionary's.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Predefined = 0,
    Rle = 1,
    FseCompressed = 2,
    Repeat = 3,
}

/// A table that is there before the block, with the cost of its symbols.
pub(super) struct KnownTable {
    table: FseTable,
    /// In 256ths of a bit; 0 for symbols that it lacks.
    costs: [u16; SYMBOLS],
    /// What the states take.
    states: u32,
}

impl KnownTable {
    pub(super) fn new(norm: &[i16], log: u32) -> KnownTable {
        let mut known = KnownTable {
            table: FseTable::new(),
            costs: [0; _],
            states: log * BIT,
        };
        known.table.build(norm, log);
        for (symbol, part) in norm.iter().enumerate().filter(|(_, part)| **part != 0) {
            known.costs[symbol] = (log * BIT - log2(part.unsigned_abs().into())) as u16;
        }
        known
    }

    /// What symbols cost that occur so often; `None` where it lacks one.
    fn cost(&self, counts: &[u32; SYMBOLS]) -> Option<u32> {
        let (mut sum, mut lacking) = (self.states, 0);
        for (count, cost) in counts.iter().zip(&self.costs) {
            sum += count * u32::from(*cost);
            lacking |= if *cost == 0 { *count } else { 0 };
        }
        (lacking == 0).then_some(sum)
    }
}

/// One worker's memory.
pub(super) struct SequencesEncoder {
    codes: Box<[[u8; KINDS]; MAX_SEQUENCES]>,
    counts: [[u32; SYMBOLS]; KINDS],
    predefined: Box<[KnownTable; KINDS]>,
    own: Box<[FseTable; KINDS]>,
}

impl SequencesEncoder {
    pub(super) fn new() -> SequencesEncoder {
        let predefined = [
            KnownTable::new(&LITERALS_NORM, 6),
            KnownTable::new(&OFFSETS_NORM, 5),
            KnownTable::new(&LENGTHS_NORM, 6),
        ];
        SequencesEncoder {
            codes: Box::new([[0; KINDS]; _]),
            counts: [[0; SYMBOLS]; KINDS],
            predefined: Box::new(predefined),
            own: Box::new([(); KINDS].map(|()| FseTable::new())),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.codes) + size_of_val(&*self.predefined) + size_of_val(&*self.own)
    }

    /// Writes the sequences section; with the dictionary's tables where they are smaller than others.
    pub(super) fn encode(
        &mut self,
        sequences: &[Sequence],
        dictionary: Option<&[KnownTable; KINDS]>,
        out: &mut Out,
    ) {
        let count = sequences.len();
        match count {
            0 => return out.byte(0),
            1..128 => out.byte(count as u8),
            // The header of three bytes is for more sequences than a block has.
            _ => out.number(((count as u64 >> 8) + 0x80) | (count as u64 & 0xFF) << 8, 2),
        }
        let Some(last) = self.count(sequences) else {
            return;
        };
        let modes_at = out.len();
        out.byte(0);
        let mut modes = [Mode::Predefined; KINDS];
        for kind in 0..KINDS {
            let (total, last) = (count as u32, last[kind]);
            modes[kind] = match dictionary {
                None => self.table(kind, total, last, out),
                Some(known) => self.cheapest(kind, total, last, &known[kind], out),
            };
        }
        let byte = (modes[LITERALS] as u8) << 6
            | (modes[OFFSETS] as u8) << 4
            | (modes[LENGTHS] as u8) << 2;
        out.patch(modes_at, &[byte]);
        let of = |kind: usize| match modes[kind] {
            Mode::Predefined => &self.predefined[kind].table,
            Mode::Repeat => dictionary.map_or(&self.own[kind], |known| &known[kind].table),
            _ => &self.own[kind],
        };
        write_bitstream(
            sequences,
            &self.codes[..],
            [of(LITERALS), of(OFFSETS), of(LENGTHS)],
            out,
        );
    }

    /// Finds all codes and counts them. Returns the last sequence's.
    fn count(&mut self, sequences: &[Sequence]) -> Option<[u8; KINDS]> {
        self.counts = [[0; SYMBOLS]; KINDS];
        for (sequence, codes) in sequences.iter().zip(self.codes.iter_mut()) {
            let literals = usize::from(sequence.literals);
            let length = usize::from(sequence.length - FORMAT_MIN_MATCH);
            *codes = [
                match LITERALS_CODES.get(literals) {
                    Some(code) => *code,
                    None => (literals.ilog2() + 19) as u8,
                },
                sequence.offset.ilog2() as u8,
                match LENGTHS_CODES.get(length) {
                    Some(code) => *code,
                    None => (length.ilog2() + 36) as u8,
                },
            ];
            for (code, counts) in codes.iter().zip(&mut self.counts) {
                counts[usize::from(*code) % SYMBOLS] += 1;
            }
        }
        self.codes[..sequences.len()].last().copied()
    }

    /// As [`SequencesEncoder::table`], by the costs, where there is a dictionary's table.
    fn cheapest(
        &mut self,
        kind: usize,
        total: u32,
        last: u8,
        known: &KnownTable,
        out: &mut Out,
    ) -> Mode {
        let counts = &self.counts[kind];
        let repeat = known.cost(counts).unwrap_or(u32::MAX);
        let predefined = self.predefined[kind].cost(counts).unwrap_or(u32::MAX);
        let symbols: u32 = counts.iter().map(|count| u32::from(*count > 0)).sum();
        let own = match symbols {
            1 => 8 * BIT,
            _ => cost::entropy(counts, total) + symbols * TABLE_SYMBOL + TABLE,
        };
        if own < repeat.min(predefined) {
            return self.own(kind, total, last, out);
        }
        if repeat <= predefined {
            Mode::Repeat
        } else {
            Mode::Predefined
        }
    }

    /// Chooses a mode, and builds and writes its table.
    fn table(&mut self, kind: usize, total: u32, last: u8, out: &mut Out) -> Mode {
        let most = self.counts[kind].iter().max().copied().unwrap_or(0);
        if most == total {
            if total <= 2 {
                return Mode::Predefined;
            }
            return self.own(kind, total, last, out);
        }
        // As libzstd does for its fast strategies: too few symbols, or too evenly spread.
        let predefined_log = if kind == OFFSETS { 5 } else { 6 };
        if total < 1 << predefined_log || most < total >> (predefined_log - 1) {
            return Mode::Predefined;
        }
        self.own(kind, total, last, out)
    }

    /// Builds and writes a table of the block's own.
    fn own(&mut self, kind: usize, total: u32, last: u8, out: &mut Out) -> Mode {
        let counts = &mut self.counts[kind];
        if counts[usize::from(last) % SYMBOLS] == total {
            self.own[kind].build_rle();
            out.byte(last);
            return Mode::Rle;
        }
        // The last sequence's code initialises the state and costs nothing.
        let mut total = total;
        if counts[usize::from(last) % SYMBOLS] > 1 {
            counts[usize::from(last) % SYMBOLS] -= 1;
            total -= 1;
        }
        let greatest = counts.iter().rposition(|count| *count > 0).unwrap_or(0);
        let log = fse::accuracy_log(if kind == OFFSETS { 8 } else { 9 }, total, greatest);
        let norm = fse::normalize(&counts[..=greatest], total, log);
        fse::write_description(&norm[..=greatest], log, out);
        self.own[kind].build(&norm[..=greatest], log);
        Mode::FseCompressed
    }
}

/// Writes the bitstream, the last sequence first.
fn write_bitstream(
    sequences: &[Sequence],
    codes: &[[u8; KINDS]],
    tables: [&FseTable; KINDS],
    out: &mut Out,
) {
    let mut bits = BitWriter::default();
    let mut states = [0; KINDS];
    let mut both = sequences.iter().zip(codes).rev();
    if let Some((sequence, codes)) = both.next() {
        for kind in 0..KINDS {
            states[kind] = tables[kind].begin(codes[kind]);
        }
        write_extra_bits(sequence, codes, &mut bits);
        bits.flush(out);
    }
    for (sequence, codes) in both {
        for kind in [OFFSETS, LENGTHS, LITERALS] {
            states[kind] = tables[kind].encode(states[kind], codes[kind], &mut bits);
        }
        // Three states have at most 26 bits, and 7 may be left.
        if extra_bits(codes) > 30 {
            bits.flush(out);
        }
        write_extra_bits(sequence, codes, &mut bits);
        bits.flush(out);
    }
    for kind in [LENGTHS, OFFSETS, LITERALS] {
        tables[kind].end(states[kind], &mut bits);
    }
    bits.flush(out);
    bits.close(out);
}

/// The number of extra bits of a sequence.
#[inline(always)]
fn extra_bits(codes: &[u8; KINDS]) -> u32 {
    let [literals, offset, length] = codes.map(|code| usize::from(code) % SYMBOLS);
    u32::from(LITERALS_BITS[literals]) + u32::from(LENGTHS_BITS[length]) + offset as u32
}

/// Writes the extra bits of a sequence.
#[inline(always)]
fn write_extra_bits(sequence: &Sequence, codes: &[u8; KINDS], bits: &mut BitWriter) {
    let [literals, offset, length] = codes.map(|code| usize::from(code) % SYMBOLS);
    let mut add = |value: u32, count: u32| bits.add(u64::from(value) & ((1 << count) - 1), count);
    add(sequence.literals.into(), u32::from(LITERALS_BITS[literals]));
    add(
        u32::from(sequence.length - FORMAT_MIN_MATCH),
        u32::from(LENGTHS_BITS[length]),
    );
    add(sequence.offset, offset as u32);
}
