//! A collection: sets of code lengths for literals and for tokens, and the tables that encoder and decoder make of them.
//!
//! Only code lengths are kept. Codes are canonical: shorter ones first, those of one length in the order of the symbols.
//! All tables together are the memory that workers share, and are never changed. Those of the built-in collection are made
//! by the compiler: they stand in the program's file, whose pages all processes share.

use std::ops::Deref;

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
        let mut literals = literals.chunks_exact(LITERAL_SET_BYTES).map(|set| {
            unpack_padded(set)
                .filter(|lengths: &LiteralLengths| complete(lengths, 1, LITERAL_LIMIT))
        });
        let mut lengths = Lengths {
            plain: literals.by_ref().take(plain).collect::<Option<_>>()?,
            sub: literals.collect::<Option<_>>()?,
            tokens: Vec::new(),
        };
        for set in rest.chunks_exact(TOKEN_SET_BYTES) {
            let set: TokenLengths = unpack_padded(set)?;
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

/// The code lengths of a set that begins at a byte.
const fn unpack<const COUNT: usize>(bytes: &[u8], begin: usize) -> [u8; COUNT] {
    let mut lengths = [0; COUNT];
    let mut place = 0;
    while place < COUNT {
        lengths[place] = bytes[begin + place / 2] >> (place % 2 * 4) & 15;
        place += 1;
    }
    lengths
}

/// The code lengths of a set; `None` where the padding is not 0.
fn unpack_padded<const COUNT: usize>(packed: &[u8]) -> Option<[u8; COUNT]> {
    let is_padded = COUNT.is_multiple_of(2) || packed.last()? >> 4 == 0;
    (is_padded && packed.len() == COUNT.div_ceil(2)).then(|| unpack(packed, 0))
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
    literal_tables: Tables<[LiteralTable]>,
    token_tables: Tables<[TokenTable]>,
    literal_codes: Tables<[LiteralCodes]>,
    token_codes: Tables<[TokenCodes]>,
    pub(super) literal_costs: Tables<[Costs; 256]>,
    /// As many as a mask keeps an index below.
    pub(super) token_costs: Tables<[Costs; 1 << ESCAPED_BITS]>,
    /// The first set of sub literals.
    plain_sets: usize,
}

/// Tables by where they are.
pub(super) enum Tables<T: ?Sized + 'static> {
    /// In the program's file.
    BuiltIn(&'static T),
    Made(Box<T>),
}

impl<T: ?Sized> Deref for Tables<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        match self {
            Tables::BuiltIn(tables) => tables,
            Tables::Made(tables) => tables,
        }
    }
}

impl<T: ?Sized> Tables<T> {
    /// Bytes of this process's memory, to which the program's file does not count.
    fn memory_bytes(&self) -> usize {
        match self {
            Tables::BuiltIn(_) => 0,
            Tables::Made(tables) => size_of_val(&**tables),
        }
    }
}

/// The collection that a device begins with: `cargo xtask collection` makes it.
const BUILTIN: &[u8] = include_bytes!("collection.bin");
const BUILTIN_PLAIN: usize = BUILTIN[5] as usize;
const BUILTIN_LITERALS: usize = BUILTIN_PLAIN + BUILTIN[6] as usize;
const BUILTIN_TOKENS: usize = BUILTIN[7] as usize;
const _: () = assert!(BUILTIN.len() == Lengths::bytes(BUILTIN_LITERALS, BUILTIN_TOKENS));

/// What a function makes of each built-in set of literals or tokens.
macro_rules! of_builtin {
    (literals: $table:ident) => {
        of_builtin!($table, BUILTIN_LITERALS, HEADER_BYTES, LITERAL_SET_BYTES)
    };
    (tokens: $table:ident) => {
        of_builtin!(
            $table,
            BUILTIN_TOKENS,
            Lengths::bytes(BUILTIN_LITERALS, 0),
            TOKEN_SET_BYTES
        )
    };
    ($table:ident, $sets:expr, $begin:expr, $bytes:expr) => {{
        let mut tables = [$table(&unpack(BUILTIN, $begin)); $sets];
        let mut set = 1;
        while set < $sets {
            tables[set] = $table(&unpack(BUILTIN, $begin + set * $bytes));
            set += 1;
        }
        tables
    }};
}

static LITERAL_TABLES: [LiteralTable; BUILTIN_LITERALS] = of_builtin!(literals: literal_table);
static LITERAL_CODES: [LiteralCodes; BUILTIN_LITERALS] = of_builtin!(literals: literal_codes);
static LITERAL_COSTS: [Costs; 256] = by_symbol(&of_builtin!(literals: literal_costs));
static TOKEN_TABLES: [TokenTable; BUILTIN_TOKENS] = of_builtin!(tokens: token_table);
static TOKEN_CODES: [TokenCodes; BUILTIN_TOKENS] = of_builtin!(tokens: token_codes);
static TOKEN_COSTS: [Costs; 1 << ESCAPED_BITS] = by_symbol(&of_builtin!(tokens: token_costs));

impl Collection {
    /// The built-in collection. Its tables are the compiler's: all processes that run the program share them.
    pub(super) fn builtin() -> Collection {
        Collection {
            literal_tables: Tables::BuiltIn(&LITERAL_TABLES),
            token_tables: Tables::BuiltIn(&TOKEN_TABLES),
            literal_codes: Tables::BuiltIn(&LITERAL_CODES),
            token_codes: Tables::BuiltIn(&TOKEN_CODES),
            literal_costs: Tables::BuiltIn(&LITERAL_COSTS),
            token_costs: Tables::BuiltIn(&TOKEN_COSTS),
            plain_sets: BUILTIN_PLAIN,
        }
    }

    /// Builds the tables. The lengths are those of [`Lengths::from_bytes`] or of the trainer.
    pub(super) fn new(lengths: &Lengths) -> Collection {
        let literals = || lengths.plain.iter().chain(&lengths.sub);
        let tokens = || lengths.tokens.iter();
        let costs_of_literals: Vec<_> = literals().map(literal_costs).collect();
        let costs_of_tokens: Vec<_> = tokens().map(token_costs).collect();
        Collection {
            literal_tables: Tables::Made(literals().map(literal_table).collect()),
            token_tables: Tables::Made(tokens().map(token_table).collect()),
            literal_codes: Tables::Made(literals().map(literal_codes).collect()),
            token_codes: Tables::Made(tokens().map(token_codes).collect()),
            literal_costs: Tables::Made(Box::new(by_symbol(&costs_of_literals))),
            token_costs: Tables::Made(Box::new(by_symbol(&costs_of_tokens))),
            plain_sets: lengths.plain.len(),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(self)
            + self.literal_tables.memory_bytes()
            + self.token_tables.memory_bytes()
            + self.literal_codes.memory_bytes()
            + self.token_codes.memory_bytes()
            + self.literal_costs.memory_bytes()
            + self.token_costs.memory_bytes()
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

/// What each literal costs in bits.
const fn literal_costs(lengths: &LiteralLengths) -> LiteralLengths {
    *lengths
}

/// What each token's symbol costs in bits.
const fn token_costs(lengths: &TokenLengths) -> [u8; 1 << ESCAPED_BITS] {
    let mut costs = [u8::MAX; 1 << ESCAPED_BITS];
    let mut symbol = 0;
    while symbol < TOKEN_LENGTHS {
        costs[symbol] = match lengths[symbol] {
            0 => lengths[ESCAPE] + ESCAPED_BITS as u8,
            length => length,
        };
        symbol += 1;
    }
    costs
}

/// The costs of all sets, by symbol.
const fn by_symbol<const SYMBOLS: usize>(sets: &[[u8; SYMBOLS]]) -> [Costs; SYMBOLS] {
    let mut costs = [[u8::MAX; MAX_SETS]; SYMBOLS];
    let mut set = 0;
    while set < sets.len() && set < MAX_SETS {
        let mut symbol = 0;
        while symbol < SYMBOLS {
            costs[symbol][set] = sets[set][symbol];
            symbol += 1;
        }
        set += 1;
    }
    costs
}

/// Canonical codes in the order of their values. A loop, since the compiler runs it, too.
struct Canonical<'a> {
    lengths: &'a [u8],
    length: u32,
    symbol: usize,
    /// The next code, its first bit highest, as a fraction of 2^16.
    next: u32,
}

/// A symbol, its code's length, and the code with its first bit lowest, as streams hold it.
struct Code {
    symbol: usize,
    length: u32,
    code: usize,
}

impl<'a> Canonical<'a> {
    const fn new(lengths: &'a [u8]) -> Canonical<'a> {
        Canonical {
            lengths,
            length: 1,
            symbol: 0,
            next: 0,
        }
    }

    const fn next(&mut self) -> Option<Code> {
        while self.length < 16 {
            while self.symbol < self.lengths.len() {
                let symbol = self.symbol;
                self.symbol += 1;
                if self.lengths[symbol] as u32 == self.length {
                    let code = self.next.reverse_bits() >> 16;
                    self.next += 1 << 16 >> self.length;
                    return Some(Code {
                        symbol,
                        length: self.length,
                        code: code as usize,
                    });
                }
            }
            self.symbol = 0;
            self.length += 1;
        }
        None
    }
}

const fn literal_table(lengths: &LiteralLengths) -> LiteralTable {
    decoding_table::<LITERAL_ENTRIES>(lengths, 8)
}

const fn token_table(lengths: &TokenLengths) -> TokenTable {
    decoding_table::<TOKEN_ENTRIES>(lengths, 6)
}

/// For each next bits the symbol whose code they begin with, above the length of that in so many bits.
const fn decoding_table<const ENTRIES: usize>(lengths: &[u8], length_bits: u32) -> [u16; ENTRIES] {
    let mut table = [0; ENTRIES];
    let mut codes = Canonical::new(lengths);
    while let Some(Code {
        symbol,
        length,
        code,
    }) = codes.next()
    {
        let mut at = code;
        while at < ENTRIES {
            table[at] = (symbol as u16) << length_bits | length as u16;
            at += 1 << length;
        }
    }
    table
}

const fn literal_codes(lengths: &LiteralLengths) -> LiteralCodes {
    let mut table = [0; 256];
    let mut codes = Canonical::new(lengths);
    while let Some(Code {
        symbol,
        length,
        code,
    }) = codes.next()
    {
        table[symbol] = (code as u64) << (64 - length) | length as u64;
    }
    table
}

const fn token_codes(lengths: &TokenLengths) -> TokenCodes {
    let mut table = [0; 1 << ESCAPED_BITS];
    let mut codes = Canonical::new(lengths);
    while let Some(Code {
        symbol,
        length,
        code,
    }) = codes.next()
    {
        table[symbol] = (code as u16) << (16 - length) | length as u16;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The compiler reads no checksum and checks no code.
    #[test]
    fn what_is_built_in_is_as_it_would_be_made() {
        let made = Collection::new(&Lengths::from_bytes(BUILTIN).unwrap());
        let builtin = Collection::builtin();
        assert!(*made.literal_tables == *builtin.literal_tables);
        assert!(*made.token_tables == *builtin.token_tables);
        assert!(*made.literal_codes == *builtin.literal_codes);
        assert!(*made.token_codes == *builtin.token_codes);
        assert!(*made.literal_costs == *builtin.literal_costs);
        assert!(*made.token_costs == *builtin.token_costs);
        assert_eq!(made.plain_sets, builtin.plain_sets);
        assert_eq!(builtin.memory_bytes(), size_of::<Collection>());
    }
}
