//! An open file of the tree: the text that `show` returned, and how far it was read.

use std::sync::{Arc, Mutex};

use uzram_control::zram::{AttributeOwner, Errno};

use super::layout::{FileSource, TreeLayout};
use crate::inodes::lock;

/// Most bytes that one `write` passes to `store`, as in the kernel.
pub(crate) const PAGE_SIZE: usize = 4096;
/// Most bytes of `block_state` that are asked for at a time.
const STEP: usize = 1 << 16;

pub(crate) struct OpenFile {
    layout: Arc<TreeLayout>,
    source: FileSource,
    state: Mutex<ReadState>,
}

#[derive(Default)]
struct ReadState {
    /// The text that `show` returned; of `block_state` the part that was not read yet.
    text: Option<Vec<u8>>,
    /// `block_state`: the offset at which `text` begins.
    offset: u64,
    /// `block_state`: the slot to continue from after `text`.
    slot: u64,
}

impl OpenFile {
    pub(crate) fn new(layout: Arc<TreeLayout>, source: FileSource) -> OpenFile {
        OpenFile {
            layout,
            source,
            state: Mutex::default(),
        }
    }

    /// Whether reading it may take long: reading `hot_add` makes a device.
    pub(crate) fn is_slow_to_read(&self) -> bool {
        matches!(
            self.source,
            FileSource::Attribute(AttributeOwner::Control, _)
        )
    }

    /// Returns the result of one `read`.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let mut state = lock(&self.state);
        if let FileSource::BlockState(id) = self.source {
            return self.read_block_state(&mut state, id, offset, len);
        }
        if offset == 0 {
            state.text = None;
        }
        let text = match &mut state.text {
            Some(text) => text,
            none => none.insert(self.show()?),
        };
        let from = usize::try_from(offset).map_or(text.len(), |from| from.min(text.len()));
        Ok(text[from..].iter().take(len).copied().collect())
    }

    fn show(&self) -> Result<Vec<u8>, Errno> {
        match &self.source {
            FileSource::Attribute(owner, name) => self.layout.view.show(*owner, name),
            FileSource::Block(id, attribute) => {
                attribute.show(&self.layout.sys, &self.layout.device_of(*id)?)
            }
            FileSource::Classes(id) => self.layout.view.classes(*id),
            // `read_block_state` reads it in pieces.
            FileSource::BlockState(_) => Err(Errno::INVAL),
        }
    }

    fn read_block_state(
        &self,
        state: &mut ReadState,
        id: u32,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>, Errno> {
        if offset == 0 || offset < state.offset {
            *state = ReadState::default();
        }
        loop {
            let rest = state.text.get_or_insert_default();
            // The bytes before `offset` were read already or are skipped.
            let skip = (offset - state.offset).min(rest.len() as u64);
            rest.drain(..skip as usize);
            state.offset += skip;
            if state.offset == offset && !rest.is_empty() {
                let take = rest.len().min(len);
                state.offset += take as u64;
                return Ok(rest.drain(..take).collect());
            }
            let (lines, slot) =
                self.layout
                    .view
                    .block_state(id, state.slot, len.clamp(PAGE_SIZE, STEP))?;
            if lines.is_empty() {
                return Ok(lines);
            }
            state.text = Some(lines);
            state.slot = slot;
        }
    }

    /// Executes one `write` and returns its result.
    pub(crate) fn write(&self, value: &[u8]) -> Result<usize, Errno> {
        let value = &value[..value.len().min(PAGE_SIZE)];
        match &self.source {
            FileSource::Attribute(owner, name) => {
                let stored = self.layout.view.store(*owner, name, value);
                stored.inspect_err(|refusal| {
                    // The writer gets the number alone.
                    if let Some(why) = &refusal.why {
                        tracing::info!("{name} is not written: {why}");
                    }
                })?;
            }
            FileSource::Block(id, attribute) => {
                attribute.store(&self.layout.sys, &self.layout.device_of(*id)?, value)?;
            }
            FileSource::BlockState(_) | FileSource::Classes(_) => return Err(Errno::INVAL),
        }
        Ok(value.len())
    }
}
