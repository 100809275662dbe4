//! Finite state entropy, which codes the sequences and the weights of Huffman trees: RFC 8878, chapter 4.1.

use super::out::{BitWriter, Out};

/// The most symbols of any alphabet here (match length codes: 53).
pub(super) const SYMBOLS: usize = 64;
/// The greatest Accuracy_Log: the logarithm of a table's number of states.
pub(super) const MAX_LOG: u32 = 9;

/// Cells that are filled at once when symbols are spread.
const SPREAD: usize = 8;

/// Normalized counts: each symbol's probability in states of the table; -1 is "less than 1".
pub(super) type NormalizedCounts = [i16; SYMBOLS];

/// An encoding table: turns a symbol and a state into bits and the next state.
pub(super) struct FseTable {
    log: u32,
    /// For each symbol in turn its states in ascending order.
    states: [u16; 1 << MAX_LOG],
    transforms: [SymbolTransform; SYMBOLS],
    /// Scratch of [`FseTable::build`]: a symbol for each step of the spread.
    spread: [u8; (1 << MAX_LOG) + SPREAD],
}

#[derive(Clone, Copy, Default)]
struct SymbolTransform {
    /// The number of bits in the upper half, less the smallest state that takes as many.
    bits: u32,
    /// Where the symbol's states begin, less its normalized count: added to a state without its low bits, modulo 2^16.
    states_at: u16,
}

/// Chooses the Accuracy_Log for `total` symbols, of which the greatest is `last`.
pub(super) fn accuracy_log(most: u32, total: u32, last: usize) -> u32 {
    let enough = (total - 1).max(1).ilog2().saturating_sub(2);
    let least = (total.ilog2() + 1).min((last as u32).max(1).ilog2() + 2);
    enough.min(most).max(least).clamp(5, MAX_LOG)
}

/// Scales counts that add up to `total` to normalized counts that add up to 2^`log`. There must be at least two symbols
/// with a count, and no more than the table has states.
pub(super) fn normalize(counts: &[u32], total: u32, log: u32) -> NormalizedCounts {
    let size = 1i32 << log;
    // 24 bits of fraction: counts are below 2^16 and tables have at most 2^9 states.
    let scale = (u64::from(size as u32) << 32) / u64::from(total.max(1));
    let mut norm = [0; SYMBOLS];
    let mut left = size;
    let mut largest = 0;
    for (symbol, (count, norm)) in counts.iter().zip(&mut norm).enumerate() {
        let part = ((u64::from(*count) * scale + (1 << 31)) >> 32) as u32;
        let part = part.max(u32::from(*count > 0));
        *norm = part as i16;
        left -= part as i32;
        largest = largest.max(part << 8 | symbol as u32);
    }
    let (most, largest) = ((largest & 0xFF) as usize % SYMBOLS, largest >> 8);
    if left >= 0 || largest as i32 + left > largest as i32 / 2 {
        norm[most] = (largest as i32 + left) as i16;
        return norm;
    }
    // Too many rare symbols were rounded up to one: the others give a state each, the largest first.
    while left < 0 {
        let most = (0..counts.len().min(SYMBOLS))
            .max_by_key(|s| norm[*s])
            .unwrap_or(0);
        norm[most] -= 1;
        left += 1;
    }
    norm
}

/// Writes the table description (RFC 8878, chapter 4.1.1).
pub(super) fn write_description(norm: &[i16], log: u32, out: &mut Out) {
    let mut bits = BitWriter::default();
    bits.add(u64::from(log - 5), 4);
    let mut width = log + 1;
    let mut threshold = 1i32 << log;
    let mut remaining = threshold + 1;
    let mut symbol = 0;
    let mut zero = false;
    while remaining > 1 && symbol < norm.len() {
        if zero {
            let start = symbol;
            while symbol < norm.len() && norm[symbol] == 0 {
                symbol += 1;
            }
            let mut run = symbol - start;
            while run >= 3 {
                bits.add(3, 2);
                bits.flush(out);
                run -= 3;
            }
            bits.add(run as u64, 2);
            if symbol == norm.len() {
                break;
            }
        }
        let part = i32::from(norm[symbol]);
        symbol += 1;
        let most = 2 * threshold - 1 - remaining;
        remaining -= part.abs();
        let mut value = part + 1;
        if value >= threshold {
            value += most;
        }
        bits.add(value as u64, width - u32::from(value < most));
        bits.flush(out);
        zero = part == 0;
        width = remaining.max(1).ilog2() + 1;
        threshold = 1 << (width - 1);
    }
    bits.finish(out);
}

/// Reads a table description: the normalized counts, their logarithm and the bytes that it takes. `None` where it is not
/// valid: cut short, more than `symbols` symbols, or a logarithm above `most`.
pub(super) fn read_description(
    bytes: &[u8],
    symbols: usize,
    most: u32,
) -> Option<(NormalizedCounts, u32, usize)> {
    let mut at = 0;
    let mut read = |count: u32| {
        let value = low_bits(bytes, at as isize, count);
        at += count as usize;
        (value as i32, at)
    };
    let log = read(4).0 as u32 + 5;
    if log > most {
        return None;
    }
    let mut norm = [0; SYMBOLS];
    let mut remaining = (1i32 << log) + 1;
    let mut symbol = 0;
    let mut end = 0;
    let mut zero = false;
    while remaining > 1 {
        if zero {
            loop {
                let (run, _) = read(2);
                symbol += run as usize;
                if run < 3 || symbol >= symbols {
                    break;
                }
            }
        }
        if symbol >= symbols.min(SYMBOLS) {
            return None;
        }
        let width = remaining.ilog2();
        let threshold = 1i32 << width;
        let fewer = 2 * threshold - 1 - remaining;
        // One bit less for the values that leave no doubt.
        let (low, _) = read(width);
        let value = if low < fewer {
            low
        } else {
            let (high, _) = read(1);
            let value = low | high << width;
            value - if high == 1 { fewer } else { 0 }
        };
        (_, end) = read(0);
        let part = value - 1;
        norm[symbol] = part as i16;
        symbol += 1;
        remaining -= part.abs();
        zero = part == 0;
    }
    let len = end.div_ceil(8);
    (remaining == 1 && len <= bytes.len()).then_some((norm, log, len))
}

/// Decodes a bitstream of two interleaved states, which ends where its bits do: the weights of a Huffman tree. `None` where
/// it is not valid, or there are more symbols than `out` holds.
pub(super) fn decode_interleaved(
    norm: &NormalizedCounts,
    log: u32,
    bytes: &[u8],
    out: &mut [u8],
) -> Option<usize> {
    let table = DecodingTable::new(norm, log);
    let last = bytes.last().filter(|last| **last != 0)?;
    // The highest bit marks the end.
    let mut at = bytes.len() as isize * 8 - 1 - last.leading_zeros() as isize;
    let mut read = |count: u32| {
        at -= count as isize;
        (low_bits(bytes, at, count) as usize, at)
    };
    let mut states = [read(log).0, read(log).0];
    if read(0).1 < 0 {
        return None;
    }
    let mut count = 0;
    loop {
        let current = count % 2;
        let [symbol, bits, base] = table.cells[states[current] % table.cells.len()];
        *out.get_mut(count)? = symbol as u8;
        let (value, left) = read(bits.into());
        states[current] = usize::from(base) + value;
        count += 1;
        if left < 0 {
            let [symbol, ..] = table.cells[states[1 - current] % table.cells.len()];
            *out.get_mut(count)? = symbol as u8;
            return Some(count + 1);
        }
    }
}

/// `count` bits from bit `at` on, the lowest first; those outside of the bytes are 0.
fn low_bits(bytes: &[u8], at: isize, count: u32) -> u32 {
    let bit = |at: isize| {
        let byte = usize::try_from(at >> 3).ok().and_then(|at| bytes.get(at));
        u32::from(byte.copied().unwrap_or(0)) >> (at & 7) & 1
    };
    (0..count)
        .map(|place| bit(at + place as isize) << place)
        .sum()
}

/// A decoding table of up to 2^[`MAX_LOG`] states.
struct DecodingTable {
    /// By state its symbol, the number of bits to read, and what is added to them for the next state.
    cells: [[u16; 3]; 1 << MAX_LOG],
}

impl DecodingTable {
    fn new(norm: &NormalizedCounts, log: u32) -> DecodingTable {
        let mut cells = [[0; 3]; 1 << MAX_LOG];
        // The states of an encoding table are the same, by symbol.
        let mut table = FseTable::new();
        table.build(norm, log);
        let mut rank = 0;
        for (symbol, part) in norm.iter().enumerate() {
            let count = part.unsigned_abs();
            for next in count..2 * count {
                let state = table.states[rank % (1 << MAX_LOG)];
                let bits = log - u32::from(next).ilog2();
                let base = (u32::from(next) << bits) - (1 << log);
                cells[usize::from(state) % (1 << log)] = [symbol as u16, bits as u16, base as u16];
                rank += 1;
            }
        }
        DecodingTable { cells }
    }
}

impl FseTable {
    pub(super) fn new() -> FseTable {
        FseTable {
            log: 0,
            states: [0; _],
            transforms: [SymbolTransform::default(); _],
            spread: [0; _],
        }
    }

    /// Builds the table of a single symbol, which takes no bits (RLE_Mode).
    pub(super) fn build_rle(&mut self) {
        self.log = 0;
        self.states[0] = 0;
        self.transforms = [SymbolTransform::default(); _];
    }

    /// Builds the table of normalized counts that add up to 2^`log`.
    pub(super) fn build(&mut self, norm: &[i16], log: u32) {
        const MASK: usize = (1 << MAX_LOG) - 1;
        let size = 1usize << log;
        // Each symbol as often as it has states, in the order in which the spread hands them out.
        let spread = &mut self.spread;
        let mut begin = [0u16; SYMBOLS];
        let (mut high, mut filled, mut sum) = (size, 0, 0u16);
        let all = norm.iter().zip(&mut self.transforms).zip(&mut begin);
        for (symbol, ((part, transform), begin)) in all.enumerate() {
            let count = part.unsigned_abs();
            *begin = sum;
            // A symbol without states is never encoded.
            let bits = log - (count.saturating_sub(1) | 1).ilog2();
            *transform = SymbolTransform {
                bits: (bits << 16).wrapping_sub(u32::from(count) << bits),
                states_at: sum.wrapping_sub(count),
            };
            sum += count;
            high -= usize::from(*part < 0);
            let end = filled + usize::from(part.max(&0).unsigned_abs());
            while filled < end {
                let at = filled & MASK;
                spread[at..at + SPREAD].copy_from_slice(&[symbol as u8; SPREAD]);
                filled += SPREAD;
            }
            filled = end;
        }
        let step = (size >> 1) + (size >> 3) + 3;
        if high < size {
            // Symbols of "less than 1" have the last states: the spread skips those.
            let rare = |place: usize| {
                norm.iter()
                    .enumerate()
                    .filter(|(_, part)| **part < 0)
                    .nth(size - 1 - place)
            };
            for turn in 0..size {
                let place = (turn * step) & (size - 1);
                if let Some((symbol, _)) = rare(place) {
                    spread.copy_within(turn..size - 1, turn + 1);
                    spread[turn] = symbol as u8;
                }
            }
        }
        // The turn that reaches a state, by the inverse of the step: 3 bits of it are right, then 6, then 12.
        let inverse = step.wrapping_mul(2usize.wrapping_sub(step.wrapping_mul(step)));
        let inverse = inverse.wrapping_mul(2usize.wrapping_sub(step.wrapping_mul(inverse)));
        let mut turn = 0usize;
        for place in size..2 * size {
            let rank = &mut begin[usize::from(spread[turn & (size - 1) & MASK]) % SYMBOLS];
            self.states[usize::from(*rank) & MASK] = place as u16;
            *rank += 1;
            turn = turn.wrapping_add(inverse);
        }
        self.log = log;
    }

    /// The first state, by the symbol that is encoded first; it takes no bits.
    #[inline(always)]
    pub(super) fn begin(&self, symbol: u8) -> u32 {
        let transform = self.transforms[usize::from(symbol) % SYMBOLS];
        let bits = transform.bits.wrapping_add(1 << 15) >> 16;
        let state = (bits << 16).wrapping_sub(transform.bits);
        self.next_state(transform, state >> bits)
    }

    /// Encodes a symbol. Returns the next state.
    #[inline(always)]
    pub(super) fn encode(&self, state: u32, symbol: u8, bits: &mut BitWriter) -> u32 {
        let transform = self.transforms[usize::from(symbol) % SYMBOLS];
        let count = state.wrapping_add(transform.bits) >> 16;
        bits.add(u64::from(state) & !(!0 << (count & 63)), count);
        self.next_state(transform, state >> (count & 31))
    }

    #[inline(always)]
    fn next_state(&self, transform: SymbolTransform, state: u32) -> u32 {
        let at = transform.states_at.wrapping_add(state as u16);
        u32::from(self.states[usize::from(at) % (1 << MAX_LOG)])
    }

    /// Writes the last state, which the decoder begins with.
    #[inline(always)]
    pub(super) fn end(&self, state: u32, bits: &mut BitWriter) {
        bits.add(u64::from(state) & ((1 << self.log) - 1), self.log);
    }
}
