//! Encodes a frame of one block, with a dictionary or without.

use std::sync::Arc;

use super::dictionary::{Dictionary, Entropy};
use super::literals::LiteralsEncoder;
use super::out::Out;
use super::search::SequenceSearch;
use super::sequences::SequencesEncoder;

pub(super) use super::search::MAX_BLOCK;

/// Last_Block.
const LAST: u64 = 1;
/// Block_Type.
const RAW: u64 = 0;
const COMPRESSED: u64 = 2 << 1;
/// A magicless frame header without content size, checksum and dictionary id: descriptor and window descriptor.
const FRAME_HEADER: usize = 2;
const BLOCK_HEADER: usize = 3;

/// One worker's state. The numbers are those of the [`SequenceSearch`].
pub(super) struct Encoder<const SPACE: usize, const ROOM: usize, const TABLE: usize> {
    window_descriptor: u8,
    dictionary: Option<Arc<Dictionary<TABLE>>>,
    search: SequenceSearch<SPACE, ROOM, TABLE>,
    literals: LiteralsEncoder,
    sequences: SequencesEncoder,
    out: Out,
}

impl<const SPACE: usize, const ROOM: usize, const TABLE: usize> Encoder<SPACE, ROOM, TABLE> {
    pub(super) fn new(window_log: u32, dictionary: Option<Arc<Dictionary<TABLE>>>) -> Self {
        Encoder {
            // Exponent above 1 KiB, no mantissa.
            window_descriptor: (window_log.saturating_sub(10) as u8) << 3,
            search: SequenceSearch::new(dictionary.as_ref().map_or(&[], |d| d.content())),
            dictionary,
            literals: LiteralsEncoder::new(),
            sequences: SequencesEncoder::new(),
            out: Out::new(),
        }
    }
}

impl<const SPACE: usize, const ROOM: usize, const TABLE: usize> super::super::zstd::FrameEncoder
    for Encoder<SPACE, ROOM, TABLE>
{
    /// `None` also where `src` is longer than [`MAX_BLOCK`].
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Option<usize> {
        let dictionary = self.dictionary.as_deref();
        let content = dictionary.map_or(0, |dictionary| dictionary.content().len());
        if src.len() > MAX_BLOCK.min(SPACE - content) {
            return None;
        }
        self.search.run(dictionary.map(|d| &d.before), src);
        let (literals, sequences) = self.search.found();
        let out = &mut self.out;
        out.truncate(0);
        out.number(u64::from(self.window_descriptor) << 8, FRAME_HEADER);
        out.number(0, BLOCK_HEADER);
        let entropy = dictionary.and_then(|dictionary| dictionary.entropy.as_ref());
        let huffman = entropy.and_then(|entropy| entropy.huffman.as_ref());
        let tables = entropy.map(|entropy: &Entropy| &*entropy.tables);
        self.literals.encode(literals, huffman, out);
        self.sequences.encode(sequences, tables, out);
        let mut len = out.len() - FRAME_HEADER - BLOCK_HEADER;
        let mut block_type = COMPRESSED;
        if out.is_full() || len >= src.len() {
            out.truncate(FRAME_HEADER + BLOCK_HEADER);
            out.slice(src);
            len = src.len();
            block_type = RAW;
        }
        let header = LAST | block_type | (len as u64) << 3;
        out.patch(FRAME_HEADER, &header.to_le_bytes()[..BLOCK_HEADER]);
        let bytes = out.bytes();
        dst.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(bytes.len())
    }

    fn memory_bytes(&self) -> usize {
        size_of_val(self)
            + self.search.memory_bytes()
            + self.sequences.memory_bytes()
            + self.out.memory_bytes()
    }
}
