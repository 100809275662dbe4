//! Writes the literals section: raw, or by a Huffman code: RFC 8878, chapter 3.1.1.3.1.
//!
//! Code lengths come from Huffman's algorithm with two queues, on counts that are sorted by buckets. Rounded logarithms
//! would need neither, but made 0.2 % more bytes in 2 % less time. RLE_Literals_Block is not used: a block that it would
//! suit has few literals.

use super::cost::{BIT, product};
use super::fse::{self, FseTable};
use super::out::{BitWriter, Out};
use super::search::MAX_BLOCK;

const _: () = assert!(MAX_BLOCK < 1 << 14);

/// The format's longest code in bits.
pub(super) const MAX_BITS: u32 = 11;
/// From so many literals on there are four streams, which a decoder reads side by side.
const FOUR_STREAMS: usize = 256;
/// Fewer literals are not worth a code of their own.
const MIN_HUFFMAN: usize = 64;
/// Fewer literals are not worth the dictionary's code, whose header takes two bytes more.
const MIN_TREELESS: usize = 8;
/// What a tree of their own takes for each symbol, and what it must save besides: it takes time to build and to read.
const TREE_SYMBOL: u32 = 4 * BIT;
const TREE: u32 = 100 * 8 * BIT;
/// Codes of at most 11 bits between two flushes.
const TURN: usize = 5;

/// More than any count, and a fourth of what fits.
const NEVER: u32 = 1 << 30;

/// Literals_Block_Type.
const RAW: u64 = 0;
const COMPRESSED: u64 = 2;
const TREELESS: u64 = 3;

/// By symbol: a code in the low 16 bits, its length above.
type Codes = [u32; 256];

/// A dictionary's Huffman code.
pub(super) struct Huffman {
    codes: Codes,
    /// The lengths alone, 0 for symbols without a code.
    lens: [u8; 256],
}

impl Huffman {
    /// From all symbols' lengths, which are those of a complete code, 0 to [`MAX_BITS`].
    pub(super) fn new(lens: [u8; 256]) -> Huffman {
        let mut ranks = [0; 16];
        for len in lens.iter().filter(|len| **len > 0) {
            ranks[usize::from(*len) % 16] += 1;
        }
        let mut codes = [0; 256];
        let with_code = lens.iter().enumerate().filter(|(_, len)| **len > 0);
        assign(
            &ranks,
            with_code.map(|(symbol, len)| (symbol as u8, *len)),
            &mut codes,
        );
        Huffman { codes, lens }
    }

    /// What literals cost that occur so often, in bits; `None` where one has no code.
    fn cost(&self, counts: &Counts) -> Option<u32> {
        let (mut bits, mut without) = (0, 0);
        for (count, len) in counts.iter().zip(&self.lens) {
            bits += u32::from(*count) * u32::from(*len);
            without |= if *len == 0 { *count } else { 0 };
        }
        (without == 0).then_some(bits)
    }
}

/// One worker's memory.
pub(super) struct LiteralsEncoder {
    weights: FseTable,
    codes: Codes,
}

impl LiteralsEncoder {
    pub(super) fn new() -> LiteralsEncoder {
        LiteralsEncoder {
            weights: FseTable::new(),
            codes: [0; 256],
        }
    }

    /// Writes the literals section; with the dictionary's code where that is smaller than one of their own.
    pub(super) fn encode(&mut self, literals: &[u8], huffman: Option<&Huffman>, out: &mut Out) {
        let written = match huffman {
            None => literals.len() >= MIN_HUFFMAN && self.own(literals, u32::MAX, out),
            Some(huffman) => literals.len() >= MIN_TREELESS && self.cheaper(literals, huffman, out),
        };
        if !written {
            write_raw_header(literals.len(), out);
            out.slice(literals);
        }
    }

    /// Writes the literals by the dictionary's code or by their own. Returns false, and writes nothing, where both gain too
    /// little.
    fn cheaper(&mut self, literals: &[u8], huffman: &Huffman, out: &mut Out) -> bool {
        let counts = count(literals);
        let total = literals.len() as u32;
        // More would gain too little.
        let most = 8 * (total - (total >> 6)).saturating_sub(2);
        let treeless = huffman.cost(&counts).unwrap_or(u32::MAX);
        let enough = literals.len() >= MIN_HUFFMAN;
        if enough && least_own(&counts, total) < treeless.min(most) {
            let mut alphabet = Alphabet::new(&counts);
            if self.huffman(literals, &mut alphabet, treeless, out) {
                return true;
            }
        }
        treeless < most && write_streams(TREELESS, literals, &huffman.codes, out.len(), out)
    }

    /// As [`LiteralsEncoder::huffman`], for literals that are not spread too evenly.
    fn own(&mut self, literals: &[u8], limit: u32, out: &mut Out) -> bool {
        let mut alphabet = Alphabet::new(&count(literals));
        // An almost uniform distribution: no code would gain anything.
        let uneven = usize::from(alphabet.largest()) > (literals.len() >> 7) + 4;
        uneven && self.huffman(literals, &mut alphabet, limit, out)
    }

    /// Writes a Compressed_Literals_Block. Returns false, and writes nothing, where that gains too little, or tree and codes
    /// take `limit` bits or more.
    fn huffman(
        &mut self,
        literals: &[u8],
        alphabet: &mut Alphabet,
        limit: u32,
        out: &mut Out,
    ) -> bool {
        if alphabet.count < 2 {
            return false;
        }
        let begin = out.len();
        alphabet.compute_lens(literals.len());
        out.number(0, header_len(literals.len()));
        let tree = out.len();
        let described = self.write_tree(alphabet, out);
        let dear = || (out.len() - tree) as u32 * 8 + alphabet.bits() >= limit;
        if !described || (limit < u32::MAX && dear()) {
            out.truncate(begin);
            return false;
        }
        let all = alphabet.symbols().iter().zip(&alphabet.lens);
        let all = all.map(|(symbol, len)| (*symbol, *len));
        assign(&alphabet.ranks, all, &mut self.codes);
        write_streams(COMPRESSED, literals, &self.codes, begin, out)
    }

    /// Writes the Huffman tree description: weights of all symbols but the last, which the others imply. Returns false
    /// where the format has no description for them.
    fn write_tree(&mut self, alphabet: &Alphabet, out: &mut Out) -> bool {
        let last = usize::from(alphabet.symbols().last().copied().unwrap_or(0));
        let most = alphabet
            .ranks
            .iter()
            .rposition(|rank| *rank > 0)
            .unwrap_or(0);
        let mut weights = [0u8; 256];
        let all = alphabet.symbols().iter().zip(&alphabet.lens);
        for (symbol, len) in all.clone() {
            weights[usize::from(*symbol)] = (most + 1) as u8 - len;
        }
        let mut counts = [0u32; MAX_BITS as usize + 1];
        counts[0] = (last + 1 - alphabet.count) as u32;
        for len in 1..=most {
            counts[most + 1 - len] = u32::from(alphabet.ranks[len]);
        }
        // The last symbol's weight is not written.
        counts[usize::from(weights[last]) % counts.len()] -= 1;
        let weights = &weights[..last];
        let begin = out.len();
        out.byte(0);
        if self.write_weights(weights, &counts, out) {
            let len = out.len() - begin - 1;
            if len < 128 && (last > 128 || len < last.div_ceil(2)) {
                out.patch(begin, &[len as u8]);
                return true;
            }
        }
        out.truncate(begin);
        if last > 128 {
            return false;
        }
        out.byte(127 + last as u8);
        for pair in weights.chunks(2) {
            out.byte(pair[0] << 4 | pair.get(1).copied().unwrap_or(0));
        }
        true
    }

    /// Writes the weights by finite state entropy, with two interleaved states.
    fn write_weights(&mut self, weights: &[u8], counts: &[u32], out: &mut Out) -> bool {
        let last = counts.iter().rposition(|count| *count > 0).unwrap_or(0);
        let counts = &counts[..=last];
        if weights.len() < 3 || counts.iter().any(|count| *count as usize == weights.len()) {
            return false;
        }
        let log = fse::accuracy_log(6, weights.len() as u32, last);
        let norm = fse::normalize(counts, weights.len() as u32, log);
        fse::write_description(&norm[..=last], log, out);
        self.weights.build(&norm[..=last], log);
        let mut bits = BitWriter::default();
        // Weights at even positions take the first state, at odd ones the second.
        let mut states = [0; 2];
        let end = weights.len();
        for at in [end - 1, end - 2] {
            states[at % 2] = self.weights.begin(weights[at]);
        }
        let [mut even, mut odd] = states;
        let rest = &weights[..end - 2];
        let (rest, first) = if rest.len() % 2 == 1 {
            (&rest[..rest.len() - 1], rest.last())
        } else {
            (rest, None)
        };
        if let Some(first) = first {
            even = self.weights.encode(even, *first, &mut bits);
        }
        let mut fours = rest.rchunks_exact(4);
        for four in &mut fours {
            odd = self.weights.encode(odd, four[3], &mut bits);
            even = self.weights.encode(even, four[2], &mut bits);
            odd = self.weights.encode(odd, four[1], &mut bits);
            even = self.weights.encode(even, four[0], &mut bits);
            bits.flush(out);
        }
        if let [first, second] = fours.remainder() {
            odd = self.weights.encode(odd, *second, &mut bits);
            even = self.weights.encode(even, *first, &mut bits);
        }
        self.weights.end(odd, &mut bits);
        self.weights.end(even, &mut bits);
        bits.flush(out);
        bits.close(out);
        true
    }
}

/// Assigns the codes: those of one length are consecutive, in the order of the symbols, longer ones first.
fn assign(ranks: &[u16; 16], lens: impl Iterator<Item = (u8, u8)>, codes: &mut Codes) {
    let mut next = [0u16; 16];
    let mut code = 0;
    for len in (1..=MAX_BITS as usize).rev() {
        next[len] = code;
        code = (code + ranks[len]) >> 1;
    }
    for (symbol, len) in lens {
        let next = &mut next[usize::from(len) % 16];
        codes[usize::from(symbol)] = u32::from(*next) | u32::from(len) << 16;
        *next += 1;
    }
}

/// Bytes of the header of coded literals.
fn header_len(count: usize) -> usize {
    3 + usize::from(count >= 1 << 10)
}

/// Writes the streams of a block that begins at `begin` with its header and, if it has one, its tree, or nothing yet; and
/// the header. Returns false, and takes all of the block back, where that gains too little.
fn write_streams(
    block_type: u64,
    literals: &[u8],
    codes: &Codes,
    begin: usize,
    out: &mut Out,
) -> bool {
    let count = literals.len();
    let four = count >= FOUR_STREAMS;
    let header = header_len(count);
    if out.len() == begin {
        out.number(0, header);
    }
    if four {
        let jump_table = out.len();
        out.number(0, 6);
        let mut ends = [0u16; 4];
        for (piece, end) in literals.chunks(count.div_ceil(4)).zip(&mut ends) {
            let before = out.len();
            write_stream(piece, codes, out);
            *end = (out.len() - before) as u16;
        }
        for (number, end) in ends.iter().take(3).enumerate() {
            out.patch(jump_table + 2 * number, &end.to_le_bytes());
        }
    } else {
        write_stream(literals, codes, out);
    }
    let compressed = out.len() - begin - header;
    if out.is_full() || compressed + (count >> 6) + 2 >= count {
        out.truncate(begin);
        return false;
    }
    let (count, compressed) = (count as u64, compressed as u64);
    let number = match header {
        3 => block_type | u64::from(four) << 2 | count << 4 | compressed << 14,
        // Size_Format 3 is for more literals than a block has.
        _ => block_type | 2 << 2 | count << 4 | compressed << 18,
    };
    out.patch(begin, &number.to_le_bytes()[..header]);
    true
}

/// Writes one stream, the last literal first: a decoder reads it backwards.
fn write_stream(literals: &[u8], codes: &Codes, out: &mut Out) {
    let mut bits = BitWriter::default();
    let mut turns = literals.rchunks_exact(TURN);
    for turn in &mut turns {
        for literal in turn.iter().rev() {
            let code = codes[usize::from(*literal)];
            bits.add(u64::from(code & 0xFFFF), code >> 16);
        }
        bits.flush(out);
    }
    for literal in turns.remainder().iter().rev() {
        let code = codes[usize::from(*literal)];
        bits.add(u64::from(code & 0xFFFF), code >> 16);
    }
    bits.flush(out);
    bits.close(out);
}

/// Writes the header of a Raw_Literals_Block.
fn write_raw_header(count: usize, out: &mut Out) {
    let count = count as u64;
    match count {
        0..32 => out.number(RAW | count << 3, 1),
        32..4096 => out.number(RAW | 1 << 2 | count << 4, 2),
        _ => out.number(RAW | 3 << 2 | count << 4, 3),
    }
}

/// The symbols that occur, their counts and code lengths.
struct Alphabet {
    /// In ascending order.
    symbols: [u8; 256],
    count: usize,
    /// The number of times that each symbol occurs, by its index in `symbols`.
    times: [u16; 256],
    /// The length of each symbol's code, by its index in `symbols`.
    lens: [u8; 256],
    /// Number of codes of each length.
    ranks: [u16; 16],
}

/// By symbol, how often it occurs.
type Counts = [u16; 256];

/// Counts literals, fewer than 2^16. Four tables: equal bytes in a row do not wait for each other.
fn count(literals: &[u8]) -> Counts {
    let mut counts = [[0u16; 256]; 4];
    let mut fours = literals.chunks_exact(4);
    for four in &mut fours {
        for (byte, counts) in four.iter().zip(&mut counts) {
            counts[usize::from(*byte)] += 1;
        }
    }
    for byte in fours.remainder() {
        counts[0][usize::from(*byte)] += 1;
    }
    let [a, b, c, d] = &counts;
    std::array::from_fn(|at| a[at] + b[at] + c[at] + d[at])
}

/// The bits that `total` literals take by a code of their own, and what that must save besides.
fn least_own(counts: &Counts, total: u32) -> u32 {
    let (mut own, mut symbols) = (0, 0);
    for count in counts {
        let count = u32::from(*count);
        own += product(count);
        symbols += u32::from(count > 0);
    }
    product(total)
        .saturating_sub(own)
        .saturating_add(symbols * TREE_SYMBOL + TREE)
        / BIT
}

impl Alphabet {
    fn new(counts: &Counts) -> Alphabet {
        let mut alphabet = Alphabet {
            symbols: [0; _],
            count: 0,
            times: [0; _],
            lens: [0; _],
            ranks: [0; _],
        };
        for (symbol, times) in counts.iter().enumerate() {
            let at = alphabet.count % 256;
            alphabet.symbols[at] = symbol as u8;
            alphabet.times[at] = *times;
            alphabet.count += usize::from(*times > 0);
        }
        alphabet
    }

    fn symbols(&self) -> &[u8] {
        &self.symbols[..self.count.min(256)]
    }

    fn times(&self) -> &[u16] {
        &self.times[..self.count.min(256)]
    }

    /// What the literals take, in bits.
    fn bits(&self) -> u32 {
        let all = self.times().iter().zip(&self.lens);
        all.map(|(times, len)| u32::from(*times) * u32::from(*len))
            .sum()
    }

    fn largest(&self) -> u16 {
        self.times().iter().max().copied().unwrap_or(0)
    }

    /// Computes the code lengths for `total` literals of at least two symbols.
    fn compute_lens(&mut self, total: usize) {
        let (order, leaves) = self.sorted();
        let count = self.count.min(256);
        let enough = (total as u32 - 1).ilog2().saturating_sub(1);
        let least = (count as u32 - 1).max(1).ilog2() + 2;
        let limit = enough.max(least).min(MAX_BITS);
        self.ranks = ranks(&leaves, count, limit as usize);
        limit_ranks(&mut self.ranks, limit);
        // The rarest symbols get the longest codes.
        let mut places = order[..count].iter();
        for len in (1..=limit).rev() {
            for place in places.by_ref().take(usize::from(self.ranks[len as usize])) {
                self.lens[usize::from(*place)] = len as u8;
            }
        }
    }

    /// Sorts by count: the indices of the symbols, and their counts, in ascending order.
    fn sorted(&self) -> ([u8; 256], [u32; 256 + 2]) {
        const BUCKETS: usize = 128;
        let mut ends = [0u16; BUCKETS];
        let bucket = |times: u16| usize::from(times).min(BUCKETS - 1);
        for times in self.times() {
            ends[bucket(*times)] += 1;
        }
        let mut sum = 0;
        for end in &mut ends {
            sum += *end;
            *end = sum - *end;
        }
        // The last bucket holds all frequent symbols: only that one is sorted.
        let often = usize::from(ends[BUCKETS - 1]);
        let (mut order, mut counts) = ([0u8; 256], [NEVER; 256 + 2]);
        for (place, times) in self.times().iter().enumerate() {
            let end = &mut ends[bucket(*times)];
            let at = usize::from(*end) % 256;
            order[at] = place as u8;
            counts[at] = u32::from(*times);
            *end += 1;
        }
        for begin in often + 1..self.count.min(256) {
            let mut at = begin;
            while at > often && counts[at] < counts[at - 1] {
                counts.swap(at, at - 1);
                order.swap(at, at - 1);
                at -= 1;
            }
        }
        (order, counts)
    }
}

/// Repairs the lengths that were cut at the limit until the code is complete again.
fn limit_ranks(ranks: &mut [u16; 16], limit: u32) {
    let limit = limit as usize;
    let mut sum: u32 = (1..=limit)
        .map(|len| u32::from(ranks[len]) << (limit - len))
        .sum();
    while sum > 1 << limit {
        ranks[limit] -= 1;
        for len in (1..limit).rev() {
            if ranks[len] > 0 {
                ranks[len] -= 1;
                ranks[len + 1] += 2;
                break;
            }
        }
        sum -= 1;
    }
}

/// Number of codes of each length in a Huffman code for counts in ascending order, which [`NEVER`] follows. Codes longer
/// than `limit` are counted at `limit`.
///
/// Huffman's algorithm with two queues, without a branch that depends on the counts: of the first two of each queue, the
/// two least are taken.
fn ranks(leaves: &[u32; 256 + 2], count: usize, limit: usize) -> [u16; 16] {
    let mut inner = [NEVER; 256 + 1];
    let mut parents = [0u8; 256 + 1];
    let (mut leaf, mut root) = (0, 0);
    let last = count.clamp(2, 256) - 2;
    for next in 0..=last {
        // `leaf` may be behind the last of 256 leaves.
        let first = leaf.min(256);
        let [l0, l1] = [leaves[first], leaves[first + 1]];
        let [r0, r1] = [inner[root % 256], inner[root % 256 + 1]];
        inner[next] = (l0 + l1).min(l0 + r0).min(r0 + r1);
        // Overwritten later for the nodes that are not taken now.
        parents[root % 256] = next as u8;
        parents[root % 256 + 1] = next as u8;
        let roots = usize::from(r0 < l1) + usize::from(r1 < l0);
        root += roots;
        leaf += 2 - roots;
    }
    let mut depths = [0u8; 256];
    let mut nodes = [0u16; 16];
    nodes[0] = 1;
    for node in (0..last).rev() {
        let depth = (depths[usize::from(parents[node])] + 1).min(15);
        depths[node] = depth;
        nodes[usize::from(depth) % 16] += 1;
    }
    // Children that are not inner nodes are leaves.
    let mut ranks = [0; 16];
    let mut rest = count as u16;
    for len in 1..limit {
        ranks[len] = 2 * nodes[len - 1] - nodes[len];
        rest -= ranks[len];
    }
    ranks[limit] = rest;
    ranks
}
