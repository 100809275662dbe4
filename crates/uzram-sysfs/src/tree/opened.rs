//! An open file: what `show` gave it, and how far it was read.

use std::sync::{Arc, Mutex};

use uzram_control::zram::{Errno, Owner};

use super::model::{Model, Source};
use crate::inodes::lock;

/// What one `write` may hand to `store`, as in the kernel.
pub(crate) const PAGE_SIZE: usize = 4096;
/// What is asked for at a time when a read of `block_state` is not at the end of the last one.
const STEP: usize = 1 << 16;

pub(crate) struct Opened {
    model: Arc<Model>,
    source: Source,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What `show` gave; of `block_state` what was not read yet.
    text: Option<Vec<u8>>,
    /// `block_state`: the offset at which `text` begins.
    offset: u64,
    /// `block_state`: the slot at which to go on after `text`.
    slot: u64,
}

impl Opened {
    pub(crate) fn new(model: Arc<Model>, source: Source) -> Opened {
        Opened {
            model,
            source,
            state: Mutex::default(),
        }
    }

    /// Whether reading it is more than looking something up.
    pub(crate) fn is_slow_to_read(&self) -> bool {
        matches!(self.source, Source::Attribute(Owner::Control, _))
    }

    /// What one `read` returns.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let mut state = lock(&self.state);
        if let Source::BlockState(id) = self.source {
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
            Source::Attribute(owner, name) => self.model.view.show(*owner, name),
            Source::Generic(id, generic) => {
                generic.show(&self.model.sys, &self.model.device_of(*id)?)
            }
            Source::Classes(id) => self.model.view.classes(*id),
            // Read in pieces.
            Source::BlockState(_) => Err(Errno::INVAL),
        }
    }

    fn read_block_state(
        &self,
        state: &mut State,
        id: u32,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>, Errno> {
        if offset == 0 || offset < state.offset {
            *state = State::default();
        }
        loop {
            let rest = state.text.get_or_insert_default();
            // Up to here it was read, or is to be skipped.
            let skip = (offset - state.offset).min(rest.len() as u64);
            rest.drain(..skip as usize);
            state.offset += skip;
            if state.offset == offset && !rest.is_empty() {
                let take = rest.len().min(len);
                state.offset += take as u64;
                return Ok(rest.drain(..take).collect());
            }
            let (lines, slot) =
                self.model
                    .view
                    .block_state(id, state.slot, len.clamp(PAGE_SIZE, STEP))?;
            if lines.is_empty() {
                return Ok(lines);
            }
            state.text = Some(lines);
            state.slot = slot;
        }
    }

    /// One `write`; the result is what it returns.
    pub(crate) fn write(&self, value: &[u8]) -> Result<usize, Errno> {
        let value = &value[..value.len().min(PAGE_SIZE)];
        match &self.source {
            Source::Attribute(owner, name) => self.model.view.store(*owner, name, value)?,
            Source::Generic(id, generic) => {
                generic.store(&self.model.sys, &self.model.device_of(*id)?, value)?;
            }
            Source::BlockState(_) | Source::Classes(_) => return Err(Errno::INVAL),
        }
        Ok(value.len())
    }
}
