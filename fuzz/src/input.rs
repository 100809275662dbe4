//! Takes fields from the front of an input. An input that is too short has zeroes there, so that every input means something.

/// What is left of an input.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// Whether all was taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes up to `most` bytes.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(most.min(self.0.len()));
        self.0 = tail;
        head
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let found = self.bytes(N);
        out[..found.len()].copy_from_slice(found);
        out
    }

    /// Takes a byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Takes two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Takes four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_zero() {
        let mut input = Input(&[1, 2, 3, 4, 5]);
        assert_eq!(
            (input.byte(), input.u16(), input.u32()),
            (1, 0x0302, 0x0504)
        );
        assert!(input.is_empty());
        assert_eq!(input.byte(), 0);
        assert_eq!(input.bytes(9), b"");
    }
}
