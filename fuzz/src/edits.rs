//! Edits of something valid: a fuzzer that had to invent a whole image or disk would never get past its first checksum.

use crate::input::Input;

/// One edit: bytes to put somewhere in one of the target's regions.
#[derive(Debug)]
pub struct Edit<'a> {
    /// Which region: the target takes it modulo how many it has.
    pub region: u8,
    /// Where in it, likewise.
    pub at: u16,
    /// What to put there.
    pub bytes: &'a [u8],
}

impl Edit<'_> {
    /// Puts the bytes into `region`, as far as they fit.
    pub fn apply(&self, region: &mut [u8]) {
        if region.is_empty() {
            return;
        }
        let at = usize::from(self.at) % region.len();
        let len = self.bytes.len().min(region.len() - at);
        region[at..at + len].copy_from_slice(&self.bytes[..len]);
    }
}

/// Most edits of one input.
const MOST: usize = 32;

/// Parses edits: region, place, length and bytes of each.
pub fn edits<'a>(input: &mut Input<'a>) -> Vec<Edit<'a>> {
    let mut found = Vec::new();
    while !input.is_empty() && found.len() < MOST {
        let (region, at) = (input.byte(), input.u16());
        let len = 1 + usize::from(input.byte() % 32);
        let bytes = input.bytes(len);
        found.push(Edit { region, at, bytes });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_stay_inside() {
        let mut region = [0; 4];
        let found = edits(&mut Input(&[7, 6, 0, 3, 1, 2, 3, 4, 1, 0, 0]));
        assert_eq!(found.len(), 2);
        found.iter().for_each(|edit| edit.apply(&mut region));
        assert_eq!(region, [0, 0, 1, 2]);
        found.iter().for_each(|edit| edit.apply(&mut []));
    }
}
