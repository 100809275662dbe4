//! Finite state entropy, the coder of the format's sequences and of its Huffman tables: RFC 8878, chapter 4.1.

use super::out::{Bits, Out};

/// The most symbols of any alphabet here (lengths of matches have 53).
pub(super) const SYMBOLS: usize = 64;
/// The greatest logarithm of a table's size.
pub(super) const MOST_LOG: u32 = 9;

/// Places that are filled at once.
const STEP: usize = 8;

/// How probable each symbol is, in parts of the table's size; -1 is less than one.
pub(super) type Norm = [i16; SYMBOLS];

/// What turns a symbol and a state into bits and another state.
pub(super) struct Table {
    log: u32,
    next: [u16; 1 << MOST_LOG],
    symbols: [Step; SYMBOLS],
    /// Of the table that is being built.
    row: [u8; (1 << MOST_LOG) + STEP],
}

#[derive(Clone, Copy, Default)]
struct Step {
    /// The number of bits, in the upper half, less what decides whether it is one less.
    bits: u32,
    /// To be added to the state without its low bits, modulo 2^16.
    find: u16,
}

/// The logarithm of the size of a table for `total` symbols, of which the greatest is `last`.
pub(super) fn log(most: u32, total: u32, last: usize) -> u32 {
    let enough = (total - 1).max(1).ilog2().saturating_sub(2);
    let least = (total.ilog2() + 1).min((last as u32).max(1).ilog2() + 2);
    enough.min(most).max(least).clamp(5, MOST_LOG)
}

/// Probabilities that add up to 2^`log`, of counts that add up to `total`. At least two symbols have to be there, and no
/// more than the table has places.
pub(super) fn normalize(counts: &[u32], total: u32, log: u32) -> Norm {
    let size = 1i32 << log;
    // 24 bits of fraction: counts are below 2^16 and tables have at most 2^9 places.
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
    // Too many rare symbols were counted as one: the others give a part each, the largest first.
    while left < 0 {
        let most = (0..counts.len().min(SYMBOLS))
            .max_by_key(|s| norm[*s])
            .unwrap_or(0);
        norm[most] -= 1;
        left += 1;
    }
    norm
}

/// Outputs what a decoder makes the same table of.
pub(super) fn describe(norm: &[i16], log: u32, out: &mut Out) {
    let mut bits = Bits::default();
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

impl Table {
    pub(super) fn new() -> Table {
        Table {
            log: 0,
            next: [0; _],
            symbols: [Step::default(); _],
            row: [0; _],
        }
    }

    /// For an only symbol, which takes no bits.
    pub(super) fn only(&mut self) {
        self.log = 0;
        self.next[0] = 0;
        self.symbols = [Step::default(); _];
    }

    /// For the probabilities of the first symbols; they add up to 2^`log`.
    pub(super) fn build(&mut self, norm: &[i16], log: u32) {
        const MASK: usize = (1 << MOST_LOG) - 1;
        let size = 1usize << log;
        // Each symbol as often as it has places, in the order in which they get them.
        let row = &mut self.row;
        let mut begin = [0u16; SYMBOLS];
        let (mut high, mut filled, mut sum) = (size, 0, 0u16);
        let all = norm.iter().zip(&mut self.symbols).zip(&mut begin);
        for (symbol, ((part, step), begin)) in all.enumerate() {
            let count = part.unsigned_abs();
            *begin = sum;
            // Nobody asks for those that are not there.
            let bits = log - (count.saturating_sub(1) | 1).ilog2();
            *step = Step {
                bits: (bits << 16).wrapping_sub(u32::from(count) << bits),
                find: sum.wrapping_sub(count),
            };
            sum += count;
            high -= usize::from(*part < 0);
            let end = filled + usize::from(part.max(&0).unsigned_abs());
            while filled < end {
                let at = filled & MASK;
                row[at..at + STEP].copy_from_slice(&[symbol as u8; STEP]);
                filled += STEP;
            }
            filled = end;
        }
        let step = (size >> 1) + (size >> 3) + 3;
        if high < size {
            // Those of less than one have the last places: others go past them.
            let rare = |place: usize| {
                norm.iter()
                    .enumerate()
                    .filter(|(_, part)| **part < 0)
                    .nth(size - 1 - place)
            };
            for turn in 0..size {
                let place = (turn * step) & (size - 1);
                if let Some((symbol, _)) = rare(place) {
                    row.copy_within(turn..size - 1, turn + 1);
                    row[turn] = symbol as u8;
                }
            }
        }
        // The number of the turn that gets a place, by the inverse of the step: 3 bits of it are right, then 6, then 12.
        let inverse = step.wrapping_mul(2usize.wrapping_sub(step.wrapping_mul(step)));
        let inverse = inverse.wrapping_mul(2usize.wrapping_sub(step.wrapping_mul(inverse)));
        let mut turn = 0usize;
        for place in size..2 * size {
            let rank = &mut begin[usize::from(row[turn & (size - 1) & MASK]) % SYMBOLS];
            self.next[usize::from(*rank) & MASK] = place as u16;
            *rank += 1;
            turn = turn.wrapping_add(inverse);
        }
        self.log = log;
    }

    /// The state that begins with a symbol, which takes no bits.
    #[inline(always)]
    pub(super) fn begin(&self, symbol: u8) -> u32 {
        let step = self.symbols[usize::from(symbol) % SYMBOLS];
        let bits = step.bits.wrapping_add(1 << 15) >> 16;
        let state = (bits << 16).wrapping_sub(step.bits);
        self.find(step, state >> bits)
    }

    /// Outputs the bits of a symbol; the state after it.
    #[inline(always)]
    pub(super) fn encode(&self, state: u32, symbol: u8, bits: &mut Bits) -> u32 {
        let step = self.symbols[usize::from(symbol) % SYMBOLS];
        let count = state.wrapping_add(step.bits) >> 16;
        bits.add(u64::from(state) & !(!0 << (count & 63)), count);
        self.find(step, state >> (count & 31))
    }

    #[inline(always)]
    fn find(&self, step: Step, state: u32) -> u32 {
        let at = step.find.wrapping_add(state as u16);
        u32::from(self.next[usize::from(at) % (1 << MOST_LOG)])
    }

    /// Outputs the last state, which a decoder begins with.
    #[inline(always)]
    pub(super) fn end(&self, state: u32, bits: &mut Bits) {
        bits.add(u64::from(state) & ((1 << self.log) - 1), self.log);
    }
}
