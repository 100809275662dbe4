//! Divides a page into tokens and literals, by the [search](super::super::search) that zstd-uzram has as well.
//!
//! Literals are kept twice: as they are, and less the byte at the last offset, or 8 bytes before where that is nearer
//! (*sub* literals). Which of the two is coded is decided afterwards.

use super::super::matches::BACK;
use super::super::search::{self, FoundSequence, PaddedBlock, Sink, room};
use super::token::{MAX_TOKENS, MIN_SUB_DISTANCE, PAGE, Token};

/// Up to so many literals are kept with one copy of as many bytes.
const SHORT_LITERALS: usize = 16;

/// Literals, and what one copy may write behind them.
type Literals = [u8; PAGE + SHORT_LITERALS];
const ROOM: usize = room(PAGE);
type Block = PaddedBlock<PAGE, ROOM>;

const _: () = assert!(MIN_SUB_DISTANCE as usize == BACK);

pub(super) struct TokenSearch {
    search: Box<search::Search<PAGE, ROOM>>,
    lists: Box<Lists>,
    tokens: usize,
    literals: usize,
}

/// Tokens and literals of a page: one allocation, so that a register refers to all of it.
struct Lists {
    /// As many as a mask keeps an index below.
    tokens: [Token; MAX_TOKENS.next_power_of_two()],
    literals: Literals,
    subs: Literals,
}

/// What a page was divided into.
pub(super) struct FoundTokens<'a> {
    pub(super) tokens: &'a [Token],
    pub(super) literals: &'a [u8],
    /// The same literals as differences.
    pub(super) subs: &'a [u8],
}

impl TokenSearch {
    pub(super) fn new() -> TokenSearch {
        TokenSearch {
            search: search::Search::new(),
            lists: Box::new(Lists {
                tokens: [Token::default(); _],
                literals: [0; _],
                subs: [0; _],
            }),
            tokens: 0,
            literals: 0,
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.search) + size_of_val(&*self.lists)
    }

    /// All tokens and literals of the last page.
    pub(super) fn found(&self) -> FoundTokens<'_> {
        let count = self.literals.min(PAGE);
        FoundTokens {
            tokens: &self.lists.tokens[..self.tokens.min(MAX_TOKENS)],
            literals: &self.lists.literals[..count],
            subs: &self.lists.subs[..count],
        }
    }

    /// Divides `src`, of at most [`PAGE`] bytes, into literals and matches.
    pub(super) fn run(&mut self, src: &[u8]) {
        let keeper = Keeper {
            lists: &mut self.lists,
            tokens: 0,
            literals: 0,
        };
        let Keeper {
            tokens, literals, ..
        } = self.search.run(None, src, keeper);
        (self.tokens, self.literals) = (tokens, literals);
    }
}

/// Keeps tokens and literals.
struct Keeper<'a> {
    lists: &'a mut Lists,
    tokens: usize,
    literals: usize,
}

impl Sink<PAGE, ROOM> for Keeper<'_> {
    // It would be denser by 0.2 % and slower by 2 %.
    const LOOKS_AHEAD: bool = false;
    const SKIP_BITS: u32 = 5;

    #[inline(always)]
    fn take(&mut self, block: &Block, sequence: FoundSequence) -> bool {
        let FoundSequence {
            at,
            literals,
            offset,
            length,
            recent,
        } = sequence;
        self.keep(block, at, literals, recent[0]);
        let tokens = &mut self.lists.tokens;
        tokens[self.tokens % tokens.len()] = Token::new(recent, literals, offset, length);
        self.tokens += 1;
        self.tokens < MAX_TOKENS
    }

    #[inline(always)]
    fn end(&mut self, block: &Block, at: usize, literals: usize, offset: usize) {
        self.keep(block, at, literals, offset);
    }
}

impl Keeper<'_> {
    /// Keeps `count` literals from position `at` on; the last offset is `offset`.
    #[inline(always)]
    fn keep(&mut self, block: &Block, at: usize, count: usize, offset: usize) {
        // Position 0 has the padding before it.
        let before = BACK + at - offset.max(MIN_SUB_DISTANCE.into());
        self.keep_some(block, at, before, 0);
        if count > SHORT_LITERALS {
            for done in (SHORT_LITERALS..count).step_by(SHORT_LITERALS) {
                self.keep_some(block, at + done, before + done, done);
            }
        }
        self.literals += count;
    }

    /// Keeps [`SHORT_LITERALS`] literals behind `done` others; `before` is a place in the padded block.
    #[inline(always)]
    fn keep_some(&mut self, block: &Block, at: usize, before: usize, done: usize) {
        let from: [u8; SHORT_LITERALS] = block.bytes::<BACK, SHORT_LITERALS>(at);
        let before: [u8; SHORT_LITERALS] = block.bytes::<0, SHORT_LITERALS>(before);
        let subs: [u8; SHORT_LITERALS] =
            std::array::from_fn(|place| from[place].wrapping_sub(before[place]));
        let to = (self.literals + done) % PAGE;
        self.lists.literals[to..to + SHORT_LITERALS].copy_from_slice(&from);
        self.lists.subs[to..to + SHORT_LITERALS].copy_from_slice(&subs);
    }
}
