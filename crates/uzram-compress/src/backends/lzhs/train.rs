//! Trains a collection: k-means in bits, for literals and for tokens apart.
//!
//! Each sample is divided by the encoder's own search. A set begins as the symbols of one sample, which the sets before it
//! serve badly. Then, in turns, each sample goes to the set that codes it in the fewest bits, and each set becomes the
//! symbols of its samples. Symbols of all samples are mixed into each set, so that it codes what it did not see.

use super::collection::{Lengths, LiteralLengths, MAX_SETS, TOKEN_LENGTHS, TokenLengths};
use super::search::TokenSearch;
use super::token::{ESCAPE, ESCAPED_BITS, LITERAL_LIMIT, PAGE, SYMBOLS, TOKEN_LIMIT};

/// The most pages of the samples that are looked at, evenly spread: training takes less than a second.
const MAX_PAGES: usize = 3000;
/// Turns of assigning and of summing.
const TURNS: usize = 10;
/// The samples that a set needs to be worth its bytes.
const PAGES_PER_SET: usize = 6;
/// How many of all literals and of all tokens are mixed into each set.
const LITERAL_SMOOTHING: f32 = 400.0;
const TOKEN_SMOOTHING: f32 = 200.0;
/// A sub set has to be so much cheaper, as in the encoder.
const SUB_PENALTY: f32 = 1.08;
/// Symbols rarer than one in so many tokens of a set are escaped.
const RARE: f32 = 8000.0;

/// The most bytes of a collection, and the fewest.
pub(super) const MAX_BYTES: usize = Lengths::bytes(MAX_SETS, MAX_SETS);
pub(super) const MIN_BYTES: usize = Lengths::bytes(2, 1);

/// How often each symbol occurs in a page: those that do.
type Histogram = Vec<(u16, f32)>;

/// Trains a collection of at most `max_bytes`. `None` where the samples have nothing to learn from.
pub(super) fn train(samples: &[&[u8]], max_bytes: usize) -> Option<Lengths> {
    let pages = histograms(samples);
    if pages.len() < PAGES_PER_SET {
        return None;
    }
    let most = (1..=MAX_SETS)
        .rev()
        .find(|sets| Lengths::bytes((*sets).max(2), *sets) <= max_bytes)?;
    let sets = most.min(pages.len() / PAGES_PER_SET).max(1);
    let literal_sets = sets.max(2);
    let sub = literal_sets / 2;
    let plain = literal_sets - sub;

    let literals = KMeans {
        views: vec![
            View::new(pages.iter().map(|page| &page.plain), 256, 1.0),
            View::new(pages.iter().map(|page| &page.sub), 256, SUB_PENALTY),
        ],
        sets: [vec![0; plain], vec![1; sub]].concat(),
        smoothing: LITERAL_SMOOTHING,
    };
    let tokens = KMeans {
        views: vec![View::new(
            pages.iter().map(|page| &page.tokens),
            SYMBOLS,
            1.0,
        )],
        sets: vec![0; sets],
        smoothing: TOKEN_SMOOTHING,
    };
    let mut literals = literals.run().into_iter().map(|set| literal_lengths(&set));
    Some(Lengths {
        plain: literals.by_ref().take(plain).collect(),
        sub: literals.collect(),
        tokens: tokens.run().iter().map(|set| token_lengths(set)).collect(),
    })
}

/// A page's symbols.
struct PageSymbols {
    plain: Histogram,
    sub: Histogram,
    tokens: Histogram,
}

/// The symbols of the samples' pages that the encoder would not store as they are.
fn histograms(samples: &[&[u8]]) -> Vec<PageSymbols> {
    let pages: Vec<&[u8]> = samples
        .iter()
        .flat_map(|sample| sample.chunks(PAGE))
        .collect();
    let mut search = TokenSearch::new();
    let mut counts = vec![0u16; SYMBOLS.max(256)];
    let mut all = Vec::new();
    for page in pages.iter().step_by(pages.len() / MAX_PAGES + 1) {
        search.run(page);
        let found = search.found();
        let mut of = |symbols: &mut dyn Iterator<Item = u16>| {
            symbols.for_each(|symbol| counts[usize::from(symbol)] += 1);
            let some = counts
                .iter_mut()
                .enumerate()
                .filter(|(_, count)| **count > 0);
            some.map(|(symbol, count)| (symbol as u16, f32::from(std::mem::take(count))))
                .collect::<Histogram>()
        };
        let symbols = PageSymbols {
            plain: of(&mut found.literals.iter().map(|byte| u16::from(*byte))),
            sub: of(&mut found.subs.iter().map(|byte| u16::from(*byte))),
            tokens: of(&mut found.tokens.iter().map(|token| token.symbol)),
        };
        let bits = own_bits(&symbols.plain).min(own_bits(&symbols.sub));
        if !found.tokens.is_empty() && bits < 7.8 * page.len() as f32 {
            all.push(symbols);
        }
    }
    all
}

/// The bits that a histogram's symbols take by their own probabilities.
fn own_bits(histogram: &Histogram) -> f32 {
    let total: f32 = histogram.iter().map(|(_, count)| count).sum();
    histogram
        .iter()
        .map(|(_, count)| count * (total / count).log2())
        .sum()
}

/// What the samples look like to some of the sets.
struct View<'a> {
    pages: Vec<&'a Histogram>,
    /// Symbols of all pages, and their number.
    all: Vec<f32>,
    total: f32,
    /// What costs are multiplied by before sets are compared.
    penalty: f32,
}

impl<'a> View<'a> {
    fn new(pages: impl Iterator<Item = &'a Histogram>, symbols: usize, penalty: f32) -> View<'a> {
        let pages: Vec<_> = pages.collect();
        // Nothing is impossible.
        let mut all = vec![0.01; symbols];
        for (symbol, count) in pages.iter().copied().flatten() {
            all[usize::from(*symbol)] += count;
        }
        let total = all.iter().sum();
        View {
            pages,
            all,
            total,
            penalty,
        }
    }
}

struct KMeans<'a> {
    views: Vec<View<'a>>,
    /// Each set's view.
    sets: Vec<usize>,
    smoothing: f32,
}

/// Bits of a symbol by set.
type CostRow = [f32; MAX_SETS];

impl KMeans<'_> {
    /// Each set's symbols, smoothed.
    fn run(&self) -> Vec<Vec<f32>> {
        let count = self.views[0].pages.len();
        let mut sets = self.seeds();
        let mut costs: Vec<Vec<CostRow>> = self
            .views
            .iter()
            .map(|view| vec![[0.0; MAX_SETS]; view.all.len()])
            .collect();
        for _ in 0..TURNS {
            for (set, symbols) in sets.iter().enumerate() {
                for (row, bits) in costs[self.sets[set]].iter_mut().zip(bits(symbols)) {
                    row[set] = bits;
                }
            }
            let mut next: Vec<Vec<f32>> = sets.iter().map(|set| vec![0.0; set.len()]).collect();
            let mut used = vec![false; sets.len()];
            let mut worst = (0.0, 0);
            for page in 0..count {
                let (set, cost) = self.cheapest(&costs, page);
                let histogram = self.views[self.sets[set]].pages[page];
                for (symbol, count) in histogram {
                    next[set][usize::from(*symbol)] += count;
                }
                used[set] = true;
                let excess = cost - own_bits(histogram);
                if excess > worst.0 {
                    worst = (excess, page);
                }
            }
            // A set that nobody takes serves the worst page of all; one at a time.
            if let Some(set) = used.iter().position(|used| !used) {
                next[set] = self.of_page(set, worst.1);
            }
            for (set, symbols) in next.iter_mut().enumerate() {
                self.smooth(set, symbols);
            }
            sets = next;
        }
        sets
    }

    /// The set that codes a page in the fewest bits, and their number.
    fn cheapest(&self, costs: &[Vec<CostRow>], page: usize) -> (usize, f32) {
        let mut best = (0, f32::INFINITY);
        for (number, view) in self.views.iter().enumerate() {
            let mut sums = [0.0; MAX_SETS];
            for (symbol, count) in view.pages[page] {
                let row = &costs[number][usize::from(*symbol)];
                for (sum, cost) in sums.iter_mut().zip(row) {
                    *sum += count * cost;
                }
            }
            for (set, _) in self.sets.iter().enumerate().filter(|(_, v)| **v == number) {
                let cost = sums[set] * view.penalty;
                if cost < best.1 {
                    best = (set, cost);
                }
            }
        }
        best
    }

    /// Mixes the symbols of all pages into a set.
    fn smooth(&self, set: usize, symbols: &mut [f32]) {
        let view = &self.views[self.sets[set]];
        let part = self.smoothing / view.total;
        for (symbol, all) in symbols.iter_mut().zip(&view.all) {
            *symbol += all * part;
        }
    }

    fn of_page(&self, set: usize, page: usize) -> Vec<f32> {
        let view = &self.views[self.sets[set]];
        let mut symbols = vec![0.0; view.all.len()];
        for (symbol, count) in view.pages[page] {
            symbols[usize::from(*symbol)] += count;
        }
        symbols
    }

    /// The first sets: all symbols, then pages at random, the more often the worse the sets before serve them.
    fn seeds(&self) -> Vec<Vec<f32>> {
        let mut random = 0x9E37_79B9_7F4A_7C15u64;
        let mut sets: Vec<Vec<f32>> = Vec::new();
        // By page, the fewest bits so far, and those of its own.
        let count = self.views[0].pages.len();
        let mut least = vec![f32::INFINITY; count];
        let own = |page: usize| {
            let all = self.views.iter().map(|view| own_bits(view.pages[page]));
            all.fold(f32::INFINITY, f32::min)
        };
        let own: Vec<f32> = (0..count).map(own).collect();
        for (set, view) in self.sets.iter().enumerate() {
            let view = &self.views[*view];
            let first = set == 0 || self.sets[set - 1] != self.sets[set];
            let mut symbols = view.all.clone();
            if !first {
                let excess = |page: usize| f64::from((least[page] - own[page]).max(0.0));
                let total: f64 = (0..count).map(excess).sum();
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let mut left = total * ((random >> 11) as f64 / (1u64 << 53) as f64);
                let page = (0..count).find(|page| {
                    left -= excess(*page);
                    left <= 0.0
                });
                symbols = self.of_page(set, page.unwrap_or(count - 1));
                self.smooth(set, &mut symbols);
            }
            let bits: Vec<f32> = bits(&symbols).collect();
            for (page, least) in view.pages.iter().zip(&mut least) {
                let cost = page
                    .iter()
                    .map(|(symbol, count)| count * bits[usize::from(*symbol)])
                    .sum::<f32>();
                *least = least.min(cost * view.penalty);
            }
            sets.push(symbols);
        }
        sets
    }
}

/// What each symbol takes by its probability.
fn bits(symbols: &[f32]) -> impl Iterator<Item = f32> {
    let total: f32 = symbols.iter().sum();
    let most = total.log2();
    symbols.iter().map(move |count| most - count.log2())
}

/// The lengths of a code for all literals.
fn literal_lengths(symbols: &[f32]) -> LiteralLengths {
    let mut lengths = [0; 256];
    let weights: Vec<(usize, f32)> = symbols.iter().copied().enumerate().collect();
    package_merge(weights, LITERAL_LIMIT, &mut lengths);
    lengths
}

/// The lengths of a code for the tokens that are not rare, and the escape.
fn token_lengths(symbols: &[f32]) -> TokenLengths {
    let mut lengths = [0; TOKEN_LENGTHS];
    let total: f32 = symbols.iter().sum();
    let least = total / RARE;
    let (often, rare): (Vec<_>, Vec<_>) = symbols
        .iter()
        .copied()
        .enumerate()
        .partition(|(_, count)| *count >= least);
    let escaped: f32 = rare.iter().map(|(_, count)| count).sum();
    let mut weights = often;
    weights.push((ESCAPE, escaped.max(least / ESCAPED_BITS as f32)));
    package_merge(weights, TOKEN_LIMIT, &mut lengths);
    lengths
}

/// The best lengths of at most `limit` bits: the package-merge algorithm of Larmore and Hirschberg.
fn package_merge(mut weights: Vec<(usize, f32)>, limit: u32, lengths: &mut [u8]) {
    weights.sort_by(|a, b| a.1.total_cmp(&b.1));
    if let [(only, _)] = weights[..] {
        // A code of no bits is none.
        let other = if only == 0 { 1 } else { 0 };
        (lengths[only], lengths[other]) = (1, 1);
        return;
    }
    // Of each level, in ascending order, whether an item is a symbol or a package of two of the level before.
    let mut levels: Vec<Vec<bool>> = Vec::new();
    let mut items: Vec<f32> = Vec::new();
    for _ in 0..limit {
        let mut packages = items
            .chunks_exact(2)
            .map(|pair| pair[0] + pair[1])
            .peekable();
        let mut symbols = weights.iter().map(|(_, weight)| *weight).peekable();
        let (mut level, mut next) = (Vec::new(), Vec::new());
        loop {
            let symbol = match (symbols.peek(), packages.peek()) {
                (Some(symbol), Some(package)) => symbol <= package,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            next.extend(if symbol {
                symbols.next()
            } else {
                packages.next()
            });
            level.push(symbol);
        }
        levels.push(level);
        items = next;
    }
    let mut taken = 2 * weights.len() - 2;
    for level in levels.iter().rev() {
        let symbols = level[..taken].iter().filter(|symbol| **symbol).count();
        for (symbol, _) in &weights[..symbols] {
            lengths[*symbol] += 1;
        }
        taken = 2 * (taken - symbols);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits of all symbols by a code of these lengths.
    fn cost(weights: &[f32], lengths: &[u8]) -> f32 {
        let each = weights.iter().zip(lengths);
        each.map(|(weight, length)| weight * f32::from(*length))
            .sum()
    }

    #[test]
    fn lengths_are_the_best_that_the_limit_allows() {
        let weights = [1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0];
        let lengths = |limit| {
            let mut lengths = [0; 8];
            package_merge(
                weights.into_iter().enumerate().collect(),
                limit,
                &mut lengths,
            );
            lengths
        };
        // Huffman's own, then shorter ones.
        assert_eq!(lengths(10), [7, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(lengths(3), [3; 8]);
        let short = lengths(4);
        let kraft: u32 = short.iter().map(|length| 1 << 4 >> length).sum();
        assert_eq!(kraft, 1 << 4);
        assert_eq!(cost(&weights, &short), 135.0);
    }

    #[test]
    fn a_lone_symbol_has_a_code() {
        let mut lengths = [0; 3];
        package_merge(vec![(2, 1.0)], 10, &mut lengths);
        assert_eq!(lengths, [1, 0, 1]);
    }
}
