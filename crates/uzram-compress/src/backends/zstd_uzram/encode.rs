//! A frame of one block.

use super::literals;
use super::out::Out;
use super::search::Search;
use super::sequences;

pub(super) use super::search::MOST;

const LAST: u64 = 1;
const RAW: u64 = 0;
const COMPRESSED: u64 = 2 << 1;
/// A frame without content size, checksum and dictionary, and its window.
const FRAME_HEADER: usize = 2;
const BLOCK_HEADER: usize = 3;

/// One worker's state.
pub(super) struct Encoder {
    /// The window's size, in the format's terms.
    window: u8,
    search: Search,
    literals: literals::Coder,
    sequences: sequences::Coder,
    out: Out,
}

impl Encoder {
    pub(super) fn new(window_log: u32) -> Encoder {
        Encoder {
            window: (window_log.saturating_sub(10) as u8) << 3,
            search: Search::new(),
            literals: literals::Coder::new(),
            sequences: sequences::Coder::new(),
            out: Out::new(),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(self)
            + self.search.memory_bytes()
            + self.sequences.memory_bytes()
            + self.out.memory_bytes()
    }

    /// Compresses `src`; `None` where it is longer than [`MOST`] or does not fit.
    pub(super) fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Option<usize> {
        if src.len() > MOST {
            return None;
        }
        self.search.run(src);
        let (literals, sequences) = self.search.found();
        let out = &mut self.out;
        out.truncate(0);
        out.number(u64::from(self.window) << 8, FRAME_HEADER);
        out.number(0, BLOCK_HEADER);
        self.literals.encode(literals, out);
        self.sequences.encode(sequences, out);
        let mut len = out.len() - FRAME_HEADER - BLOCK_HEADER;
        let mut kind = COMPRESSED;
        if out.is_full() || len >= src.len() {
            out.truncate(FRAME_HEADER + BLOCK_HEADER);
            out.slice(src);
            len = src.len();
            kind = RAW;
        }
        let header = LAST | kind | (len as u64) << 3;
        out.patch(FRAME_HEADER, &header.to_le_bytes()[..BLOCK_HEADER]);
        let bytes = out.bytes();
        dst.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(bytes.len())
    }
}
