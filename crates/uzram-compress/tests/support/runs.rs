//! Blocks for property tests.

use proptest::prelude::*;

/// A word of an alphabet, so often.
pub(crate) fn runs(letters: u8) -> impl Strategy<Value = Vec<u8>> {
    let run = (proptest::collection::vec(0..letters, 1..12), 1..60usize);
    proptest::collection::vec(run, 0..80).prop_map(|runs| {
        let bytes: Vec<u8> = runs
            .iter()
            .flat_map(|(word, count)| word.repeat(*count))
            .collect();
        bytes[..bytes.len().min(4096)].to_vec()
    })
}
