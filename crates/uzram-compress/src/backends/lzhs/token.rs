//! Tokens: what one code of the token stream stands for. A *token* is a run of literals, then a match; its *symbol* joins
//! the class of the run's length, the class of the match's length and the kind of the offset. Encoder, decoder and trainer
//! take every number of this file from here.

use std::hint::select_unpredictable;

/// Bytes of a page, the longest part that is coded as one.
pub(super) const PAGE: usize = 4096;
/// The most tokens of a part: the header's greatest number marks another form.
pub(super) const MAX_TOKENS: usize = 1022;
/// The offsets that a part begins with: the last one, and the one before.
pub(super) const FIRST_OFFSETS: [u16; 2] = [1, 4];
/// The least distance of the byte that a *sub* literal is the difference to.
pub(super) const MIN_SUB_DISTANCE: u16 = 8;

/// Literals' classes: the least length of each, and its extra bits.
pub(super) const LITERAL_CLASSES: [(u16, u32); 10] = [
    (0, 0),
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 1),
    (9, 3),
    (17, 12),
];
/// Matches' classes, likewise.
pub(super) const MATCH_CLASSES: [(u16, u32); 16] = [
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 0),
    (12, 0),
    (13, 0),
    (14, 0),
    (15, 1),
    (17, 3),
    (25, 4),
    (41, 6),
    (105, 12),
];
/// The last offset, and the one before.
pub(super) const LAST: u16 = 0;
pub(super) const BEFORE: u16 = 1;
/// A new offset that is a multiple of 8, and any other.
pub(super) const EIGHTS: u16 = 2;
pub(super) const ANY: u16 = 3;
pub(super) const KINDS: usize = 4;
/// Bits of the offset's field, by kind: the offset less 1, for [`EIGHTS`] in units of 8.
pub(super) const OFFSET_BITS: [u32; KINDS] = [0, 0, 9, 12];

/// How far the offset less 1 is shifted down to its field.
const OFFSET_SHIFTS: [u8; KINDS] = [16, 16, 3, 0];

/// Tokens between two refills of a decoder: 5 codes of 10 bits leave room for the bits of a started byte.
pub(super) const TURN: usize = 5;
/// By how many bits the fields of offsets are shorter in a part's first turns, at most: these refer to what is near.
pub(super) const MAX_FEWER: usize = 2;

/// Symbols that stand for tokens.
pub(super) const SYMBOLS: usize = LITERAL_CLASSES.len() * MATCH_CLASSES.len() * KINDS;
/// The symbol of a token whose own symbol has no code: that follows as a number of [`ESCAPED_BITS`] bits.
pub(super) const ESCAPE: usize = SYMBOLS;
pub(super) const ESCAPED_BITS: u32 = 10;
/// The longest codes in bits.
pub(super) const TOKEN_LIMIT: u32 = 10;
pub(super) const LITERAL_LIMIT: u32 = 11;

const _: () = assert!(SYMBOLS < 1 << ESCAPED_BITS);

/// What a run's length adds to the symbol, by length: its class above the other parts.
static LITERAL_PART: [u16; PAGE] = parts(&LITERAL_CLASSES, (MATCH_CLASSES.len() * KINDS) as u16);
/// What a match's length adds.
static MATCH_PART: [u16; PAGE] = parts(&MATCH_CLASSES, KINDS as u16);

/// The class of each length, times `unit`.
const fn parts(classes: &[(u16, u32)], unit: u16) -> [u16; PAGE] {
    let mut table = [0; PAGE];
    let (mut class, mut length) = (0, 0);
    while length < PAGE {
        while class + 1 < classes.len() && classes[class + 1].0 as usize <= length {
            class += 1;
        }
        table[length] = class as u16 * unit;
        length += 1;
    }
    table
}

/// What a symbol stands for: a field for each number that encoder and decoder need, since to load one costs less than to
/// extract it.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// The least length of the run in the low half, that of the match in the high half.
    pub(super) least: u32,
    /// Bits of the lengths' extra field.
    pub(super) bits: u8,
    /// By how much it is shifted before it is added: 0 or 16.
    pub(super) shift: u8,
    /// Bits of the whole extra field, with the offset's.
    pub(super) all_bits: u8,
    /// The offset's kind; [`RARE`] where the symbol needs more than this.
    pub(super) kind: u8,
}

/// Marks symbols whose run and match both have extra bits, and the escape.
pub(super) const RARE: u8 = 4;

/// By symbol, and of whatever 10 bits say: those that are no symbol are as [`ESCAPE`].
pub(super) type Layouts = [Layout; 1 << ESCAPED_BITS];

/// By how many bits offsets' fields are shorter.
pub(super) static LAYOUTS: [Layouts; MAX_FEWER + 1] = [layouts(0), layouts(1), layouts(2)];

const fn layouts(fewer: u32) -> Layouts {
    let rare = Layout {
        least: 0,
        bits: 0,
        shift: 0,
        all_bits: 0,
        kind: RARE,
    };
    let mut all = [rare; 1 << ESCAPED_BITS];
    let mut symbol = 0;
    while symbol < SYMBOLS {
        let SymbolFields {
            literals,
            length,
            kind,
        } = SymbolFields::of(symbol);
        if literals.1 == 0 || length.1 == 0 {
            let bits = literals.1 + length.1;
            all[symbol] = Layout {
                least: literals.0 as u32 | (length.0 as u32) << 16,
                bits: bits as u8,
                shift: if length.1 > 0 { 16 } else { 0 },
                all_bits: (bits + offset_bits(kind, fewer)) as u8,
                kind: kind as u8,
            };
        }
        symbol += 1;
    }
    all
}

/// Bits of an offset's field where those are shorter by `fewer`.
pub(super) const fn offset_bits(kind: usize, fewer: u32) -> u32 {
    OFFSET_BITS[kind].saturating_sub(fewer)
}

/// A symbol's parts: both classes, and the kind of the offset.
pub(super) struct SymbolFields {
    pub(super) literals: (u16, u32),
    pub(super) length: (u16, u32),
    pub(super) kind: usize,
}

impl SymbolFields {
    pub(super) const fn of(symbol: usize) -> SymbolFields {
        let class = symbol / KINDS;
        SymbolFields {
            literals: LITERAL_CLASSES[class / MATCH_CLASSES.len() % LITERAL_CLASSES.len()],
            length: MATCH_CLASSES[class % MATCH_CLASSES.len()],
            kind: symbol % KINDS,
        }
    }
}

/// A token as the search finds it.
#[derive(Clone, Copy, Default)]
pub(super) struct Token {
    /// Number of literals in the low half, length of the match in the high half.
    pub(super) lengths: u32,
    /// The offset less 1.
    pub(super) offset: u16,
    /// The token's symbol.
    pub(super) symbol: u16,
}

impl Token {
    /// Makes a token; `recent` is the last offset and the one before.
    #[inline(always)]
    pub(super) fn new(
        [last, before]: [usize; 2],
        literals: usize,
        offset: usize,
        length: usize,
    ) -> Token {
        let eights = offset.is_multiple_of(8);
        let kind = select_unpredictable(eights, EIGHTS, ANY);
        let kind = select_unpredictable(offset == before, BEFORE, kind);
        let kind = select_unpredictable(offset == last, LAST, kind);
        Token {
            lengths: literals as u32 | (length as u32) << 16,
            offset: (offset - 1) as u16,
            symbol: LITERAL_PART[literals % PAGE] + MATCH_PART[length % PAGE] + kind,
        }
    }

    /// The number of fields of offsets: 1 or 0.
    #[inline(always)]
    pub(super) fn fields(&self) -> usize {
        usize::from(self.symbol / EIGHTS % 2)
    }

    /// The extra field and its number of bits: from the lowest on those of the match's length, of the run's length, of
    /// the offset. `None` where the symbol is [`RARE`].
    #[inline(always)]
    pub(super) fn extra(&self, layouts: &Layouts) -> Option<(u64, u32)> {
        let layout = &layouts[usize::from(self.symbol) % layouts.len()];
        if layout.kind == RARE {
            return None;
        }
        let more = self.lengths.wrapping_sub(layout.least) >> (layout.shift & 31);
        let offset =
            u64::from(u32::from(self.offset) >> OFFSET_SHIFTS[usize::from(layout.kind) % KINDS]);
        let field = offset << (layout.bits & 63) | u64::from(more);
        Some((field, layout.all_bits.into()))
    }

    /// The same of any symbol, where the offset's field is shorter by `fewer` bits.
    pub(super) fn rare_extra(&self, fewer: u32) -> (u64, u32) {
        let SymbolFields {
            literals,
            length,
            kind,
        } = SymbolFields::of(self.symbol.into());
        let (run, matched) = (self.lengths & 0xFFFF, self.lengths >> 16);
        let field = u64::from(u32::from(self.offset) >> OFFSET_SHIFTS[kind]) << literals.1;
        let field = field | u64::from(run - u32::from(literals.0));
        let field = field << length.1 | u64::from(matched - u32::from(length.0));
        (field, offset_bits(kind, fewer) + literals.1 + length.1)
    }
}
