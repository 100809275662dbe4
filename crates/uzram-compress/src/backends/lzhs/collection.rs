//! A collection: sets of code lengths for literals and for tokens, and the tables that encoder and decoder make of them.
//!
//! Only code lengths are kept. Codes are canonical: shorter ones first, those of one length in the order of the symbols.
//! All tables together are the memory that workers share, and are never changed.

use super::token::{ESCAPE, ESCAPED_BITS, LITERAL_LIMIT, SYMBOLS, TOKEN_LIMIT};

/// The most sets of each sort.
pub(super) const MAX_SETS: usize = 32;
/// Bytes in front of the code lengths.
pub(super) const HEADER_BYTES: usize = 12;
/// Bytes of a set of literals and of a set of tokens: two code lengths a byte.
pub(super) const LITERAL_SET_BYTES: usize = 128;
pub(super) const TOKEN_SET_BYTES: usize = TOKEN_LENGTHS.div_ceil(2);
/// Code lengths of a set of tokens.
pub(super) const TOKEN_LENGTHS: usize = SYMBOLS + 1;

/// How a collection begins: name and version.
pub(super) const MAGIC: [u8; 5] = *b"lzhs\x01";

/// Entries of a decoder's tables.
const LITERAL_ENTRIES: usize = 1 << LITERAL_LIMIT;
const TOKEN_ENTRIES: usize = 1 << TOKEN_LIMIT;

/// A set's code lengths of literals: all from 1 to 11.
pub(super) type LiteralLengths = [u8; 256];
/// A set's code lengths of tokens: 0 for a symbol that is escaped, which [`ESCAPE`] is not.
pub(super) type TokenLengths = [u8; TOKEN_LENGTHS];

/// A decoder's entry for each next bits: a literal, above the length of its code.
pub(super) type LiteralTable = [u16; LITERAL_ENTRIES];
/// Likewise, but a symbol above the 6 bits of the length of its code.
pub(super) type TokenTable = [u16; TOKEN_ENTRIES];
/// An encoder's codes: each the highest bits of its entry, whose lowest are its length.
pub(super) type LiteralCodes = [u64; 256];
/// Likewise; 0 for an escaped symbol. As many as a mask keeps an index below.
pub(super) type TokenCodes = [u16; 1 << ESCAPED_BITS];
/// What a symbol costs in bits, by set.
pub(super) type Costs = [u8; MAX_SETS];

/// The code lengths of all sets.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Lengths {
    /// Sets of literals as they are.
    pub(super) plain: Vec<LiteralLengths>,
    /// Sets of sub literals.
    pub(super) sub: Vec<LiteralLengths>,
    /// Sets of tokens.
    pub(super) tokens: Vec<TokenLengths>,
}

impl Lengths {
    /// Bytes of a collection of so many sets.
    pub(super) const fn bytes(literal_sets: usize, token_sets: usize) -> usize {
        HEADER_BYTES + literal_sets * LITERAL_SET_BYTES + token_sets * TOKEN_SET_BYTES
    }

    /// The collection's serialised form.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for sets in [self.plain.len(), self.sub.len(), self.tokens.len()] {
            bytes.push(sets as u8);
        }
        bytes.extend([0; 4]);
        let literals = self.plain.iter().chain(&self.sub).map(|set| &set[..]);
        let tokens = self.tokens.iter().map(|set| &set[..]);
        for set in literals.chain(tokens) {
            let pairs = set.chunks(2);
            bytes.extend(pairs.map(|pair| pair[0] | pair.get(1).copied().unwrap_or(0) << 4));
        }
        let sum = checksum(&bytes);
        bytes[8..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads a serialised form. `None` where it is damaged, or no collection at all.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Lengths> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let [plain, sub, tokens] = [header[5], header[6], header[7]].map(usize::from);
        let sum = u32::from_le_bytes(*header.last_chunk()?);
        let counts = plain >= 1 && plain + sub <= MAX_SETS && (1..=MAX_SETS).contains(&tokens);
        let whole = counts && bytes.len() == Lengths::bytes(plain + sub, tokens);
        if header[..5] != MAGIC || !whole || sum != checksum(bytes) {
            return None;
        }
        let (literals, rest) = bytes[HEADER_BYTES..].split_at((plain + sub) * LITERAL_SET_BYTES);
        let mut literals = literals
            .chunks_exact(LITERAL_SET_BYTES)
            .map(|set| unpack::<256>(set).filter(|lengths| complete(lengths, 1, LITERAL_LIMIT)));
        let mut lengths = Lengths {
            plain: literals.by_ref().take(plain).collect::<Option<_>>()?,
            sub: literals.collect::<Option<_>>()?,
            tokens: Vec::new(),
        };
        for set in rest.chunks_exact(TOKEN_SET_BYTES) {
            let set = unpack::<TOKEN_LENGTHS>(set)?;
            if !complete(&set, 0, TOKEN_LIMIT) || set[ESCAPE] == 0 {
                return None;
            }
            lengths.tokens.push(set);
        }
        Some(lengths)
    }
}

/// CRC-32 of all but the checksum.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..8]);
    hasher.update(&bytes[HEADER_BYTES..]);
    hasher.finalize()
}

/// The code lengths of a set; `None` where the padding is not 0.
fn unpack<const COUNT: usize>(packed: &[u8]) -> Option<[u8; COUNT]> {
    let at = |place: usize| {
        packed
            .get(place / 2)
            .map_or(0, |byte| byte >> (place % 2 * 4) & 15)
    };
    (at(COUNT) == 0 || COUNT.is_multiple_of(2)).then(|| std::array::from_fn(at))
}

/// Whether all lengths are in range and every sequence of bits is a code: Kraft's sum is 1.
fn complete(lengths: &[u8], least: u8, most: u32) -> bool {
    let range = u32::from(least)..=most;
    let in_range = lengths
        .iter()
        .all(|length| range.contains(&u32::from(*length)));
    let of = |length: &u8| match length {
        0 => 0,
        length => 1u64 << most >> length,
    };
    in_range && lengths.iter().map(of).sum::<u64>() == 1 << most
}

/// All tables of a collection.
pub(super) struct Collection {
    literal_tables: Box<[LiteralTable]>,
    token_tables: Box<[TokenTable]>,
    literal_codes: Box<[LiteralCodes]>,
    token_codes: Box<[TokenCodes]>,
    pub(super) literal_costs: Box<[Costs; 256]>,
    /// As many as a mask keeps an index below.
    pub(super) token_costs: Box<[Costs; 1 << ESCAPED_BITS]>,
    /// The first set of sub literals.
    plain_sets: usize,
}

impl Collection {
    /// Builds the tables. The lengths are those of [`Lengths::from_bytes`] or of the trainer.
    pub(super) fn new(lengths: &Lengths) -> Collection {
        let literals = || lengths.plain.iter().chain(&lengths.sub);
        let mut literal_costs = Box::new([[u8::MAX; MAX_SETS]; 256]);
        for (set, lengths) in literals().enumerate() {
            for (costs, length) in literal_costs.iter_mut().zip(lengths) {
                costs[set % MAX_SETS] = *length;
            }
        }
        let mut token_costs = Box::new([[u8::MAX; MAX_SETS]; 1 << ESCAPED_BITS]);
        for (set, lengths) in lengths.tokens.iter().enumerate() {
            let escaped = lengths[ESCAPE] + ESCAPED_BITS as u8;
            for (costs, length) in token_costs.iter_mut().zip(lengths) {
                costs[set % MAX_SETS] = if *length > 0 { *length } else { escaped };
            }
        }
        Collection {
            literal_tables: literals().map(literal_table).collect(),
            token_tables: lengths.tokens.iter().map(token_table).collect(),
            literal_codes: literals().map(literal_codes).collect(),
            token_codes: lengths.tokens.iter().map(token_codes).collect(),
            literal_costs,
            token_costs,
            plain_sets: lengths.plain.len(),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(self)
            + size_of_val(&*self.literal_tables)
            + size_of_val(&*self.token_tables)
            + size_of_val(&*self.literal_codes)
            + size_of_val(&*self.token_codes)
            + size_of_val(&*self.literal_costs)
            + size_of_val(&*self.token_costs)
    }

    /// Number of sets of literals, of which the plain ones come first, and of tokens.
    pub(super) fn sets(&self) -> (usize, usize) {
        (self.literal_codes.len(), self.token_codes.len())
    }

    /// Number of sets of plain literals.
    pub(super) fn plain_sets(&self) -> usize {
        self.plain_sets
    }

    /// A decoder's table of a set of literals, and whether they are sub.
    #[inline(always)]
    pub(super) fn literal_table(&self, set: usize) -> Option<(&LiteralTable, bool)> {
        Some((self.literal_tables.get(set)?, set >= self.plain_sets))
    }

    #[inline(always)]
    pub(super) fn token_table(&self, set: usize) -> Option<&TokenTable> {
        self.token_tables.get(set)
    }

    #[inline(always)]
    pub(super) fn literal_codes(&self, set: usize) -> Option<&LiteralCodes> {
        self.literal_codes.get(set)
    }

    #[inline(always)]
    pub(super) fn token_codes(&self, set: usize) -> Option<&TokenCodes> {
        self.token_codes.get(set)
    }
}

/// Canonical codes in the order of their values: symbol, length, and code with its first bit lowest, as streams hold it.
fn canonical(lengths: &[u8]) -> impl Iterator<Item = (usize, u32, usize)> {
    let mut order: Vec<usize> = (0..lengths.len()).filter(|s| lengths[*s] > 0).collect();
    order.sort_by_key(|symbol| lengths[*symbol]);
    // The next code, its first bit highest, as a fraction of 2^16.
    let mut next = 0u32;
    order.into_iter().map(move |symbol| {
        let length = u32::from(lengths[symbol]);
        let code = next.reverse_bits() >> 16;
        next += 1 << 16 >> length;
        (symbol, length, code as usize)
    })
}

fn literal_table(lengths: &LiteralLengths) -> LiteralTable {
    let mut table = [0; LITERAL_ENTRIES];
    for (symbol, length, code) in canonical(lengths) {
        for entry in table[code..].iter_mut().step_by(1 << length) {
            *entry = (symbol as u16) << 8 | length as u16;
        }
    }
    table
}

fn token_table(lengths: &TokenLengths) -> TokenTable {
    let mut table = [0; TOKEN_ENTRIES];
    for (symbol, length, code) in canonical(lengths) {
        for entry in table[code..].iter_mut().step_by(1 << length) {
            *entry = (symbol as u16) << 6 | length as u16;
        }
    }
    table
}

fn literal_codes(lengths: &LiteralLengths) -> LiteralCodes {
    let mut codes = [0; 256];
    for (symbol, length, code) in canonical(lengths) {
        codes[symbol] = (code as u64) << (64 - length) | u64::from(length);
    }
    codes
}

fn token_codes(lengths: &TokenLengths) -> TokenCodes {
    let mut codes = [0; 1 << ESCAPED_BITS];
    for (symbol, length, code) in canonical(lengths) {
        codes[symbol] = (code as u16) << (16 - length) | length as u16;
    }
    codes
}
