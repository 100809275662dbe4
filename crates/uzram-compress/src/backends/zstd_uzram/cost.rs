//! What symbols cost, in 256ths of a bit: to choose between the dictionary's tables and others before any is built.

use super::fse::SYMBOLS;

/// Units of a bit.
pub(super) const BIT: u32 = 256;

/// Logarithms of 0 (which is none) to 255.
const LOG2: [u16; 256] = {
    let mut table = [0; 256];
    let mut number = 1u64;
    while number < 256 {
        // A number from 1 to 2 in 32 bits of fraction: each square doubles its logarithm.
        let whole = number.ilog2();
        let mut rest = number << (32 - whole);
        let mut log = whole as u16;
        let mut bit = 0;
        while bit < BIT.ilog2() {
            rest = ((rest >> 8) * (rest >> 8)) >> 16;
            log <<= 1;
            if rest >= 2 << 32 {
                log |= 1;
                rest >>= 1;
            }
            bit += 1;
        }
        table[number as usize] = log;
        number += 1;
    }
    table
};

/// The logarithm of a number from 1 on, less up to a 90th of a bit.
#[inline(always)]
pub(super) fn log2(number: u32) -> u32 {
    let shift = number.max(1).ilog2().saturating_sub(7);
    u32::from(LOG2[(number >> shift) as usize % 256]) + shift * BIT
}

/// Numbers below 256 by their logarithms.
const PRODUCTS: [u32; 256] = {
    let mut table = [0; 256];
    let mut number = 0;
    while number < 256 {
        table[number] = number as u32 * LOG2[number] as u32;
        number += 1;
    }
    table
};

/// A number by its logarithm. Most are small, and 0 is one.
#[inline(always)]
pub(super) fn product(number: u32) -> u32 {
    match PRODUCTS.get(number as usize) {
        Some(product) => *product,
        None => number * log2(number),
    }
}

/// What symbols cost that occur so often, with a code that is made for them: Shannon's bound.
pub(super) fn entropy(counts: &[u32; SYMBOLS], total: u32) -> u32 {
    let own: u32 = counts.iter().map(|count| product(*count)).sum();
    product(total).saturating_sub(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_hardly_less_than_they_are() {
        for number in 1..20_000u32 {
            let exact = f64::from(number).log2() * f64::from(BIT);
            let less = exact - f64::from(log2(number));
            assert!((-0.01..3.9).contains(&less), "{number}: {less}");
        }
    }

    #[test]
    fn entropy_of_two_and_of_one() {
        let mut counts = [0; SYMBOLS];
        counts[3] = 500;
        assert_eq!(entropy(&counts, 500), 0);
        counts[60] = 500;
        assert_eq!(entropy(&counts, 1000) / BIT, 1000);
    }
}
