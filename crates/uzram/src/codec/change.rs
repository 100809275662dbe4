//! Changes the codecs of a device in use. New writes use the new primary; objects keep their codec until they are
//! rewritten; a codec with neither objects nor a priority is dropped.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};

use super::{Changing, Choice, Codec, CodecStats, PRIORITIES};
use crate::device::Device;
use crate::layout::state;
use crate::{Error, PAGE_SIZE};

impl Device {
    /// Makes `choice` the primary: compresses new writes with another algorithm, other parameters or another
    /// dictionary. Stored objects stay. Waits for writes in flight; no request waits for it.
    ///
    /// [`Error::Compress`] where there is no such algorithm or it refuses parameters or dictionary,
    /// [`Error::CodecsFull`] where 16 codecs have objects or priorities. Nothing is changed then.
    pub fn set_algorithm(&self, choice: &Choice) -> Result<(), Error> {
        let codec = Codec::new(&self.registry, choice)?;
        self.set_codec(0, codec, None).map(drop)
    }

    /// Sets the secondary algorithm of a priority from 1 to 3, or removes it. Secondaries serve recompression.
    ///
    /// As [`Device::set_algorithm`]; [`Error::Invalid`] for another priority.
    pub fn set_secondary(&self, priority: usize, choice: Option<&Choice>) -> Result<(), Error> {
        check_secondary(priority)?;
        let codec = choice
            .map(|choice| Codec::new(&self.registry, choice))
            .transpose()?;
        let changing = self.codecs.change();
        changing.retire_unused(&self.counters);
        let index = codec.map(|codec| changing.admit(codec)).transpose()?;
        self.set_role(&changing, priority, index);
        Ok(())
    }

    fn set_role(&self, changing: &Changing<'_>, priority: usize, index: Option<u8>) {
        let mut roles = changing.roles();
        roles.0[priority] = index;
        self.state()[state::ROLES].store(roles.to_word(), Release);
        changing.set_roles(roles);
        changing.retire_unused(&self.counters);
    }

    /// Gives a codec a priority, if `instead_of` has it or is `None`. Returns the number of its generation, 0 where its
    /// dictionary was not trained; `None`: another codec has the priority.
    pub(crate) fn set_codec(
        &self,
        priority: usize,
        codec: Codec,
        instead_of: Option<&Arc<Codec>>,
    ) -> Result<Option<u32>, Error> {
        let changing = self.codecs.change();
        let current = self.codecs.by_priority(priority);
        let is_current =
            |expected| (current.as_ref()).is_some_and(|(_, now)| Arc::ptr_eq(now, expected));
        if !instead_of.is_none_or(is_current) {
            return Ok(None);
        }
        let generation = || {
            let codec = self.codecs.by_priority(priority);
            let generation = codec.and_then(|(_, codec)| codec.generation);
            generation.map_or(0, |generation| generation.number)
        };
        if priority > 0 {
            changing.retire_unused(&self.counters);
            let index = changing.admit(codec)?;
            self.set_role(&changing, priority, Some(index));
            return Ok(Some(generation()));
        }
        // Dropping unused codecs makes room.
        changing.retire_unused(&self.counters);
        let mut encoders = Vec::new();
        for _ in 0..self.streams.count() {
            encoders.push(codec.context(self.codecs.residence())?);
        }
        let encoder_bytes: usize = encoders.iter().map(|tfm| tfm.memory_bytes()).sum();
        let set_anew = instead_of.is_none();
        let trains_itself = codec.algorithm.trains_itself();
        let index = changing.admit(codec)?;
        // The grace period: each stream's lock is taken once, so every write with an old encoder is over.
        self.streams.take_from_each(|stream| {
            let tfm = encoders.pop()?;
            stream.encoder.codec = index;
            stream.encoder.tally.reset();
            Some(std::mem::replace(&mut stream.encoder.tfm, tfm))
        });
        self.encoder_bytes.store(encoder_bytes as u64, Relaxed);
        self.set_role(&changing, 0, Some(index));
        if set_anew {
            // What was said is of another primary.
            self.policy.status.forget_training();
            if trains_itself {
                self.policy.wake();
            }
        }
        Ok(Some(generation()))
    }

    /// The device's codecs, by index: those with a priority, and those with objects left.
    pub fn codecs(&self) -> Vec<CodecStats> {
        self.drop_unused_codecs();
        self.codecs.stats(&self.counters)
    }

    /// Drops unused codecs, unless a change is in progress.
    pub(crate) fn drop_unused_codecs(&self) {
        if self.codecs.has_leaving()
            && let Some(changing) = self.codecs.try_change()
        {
            changing.retire_unused(&self.counters);
        }
    }

    /// Memory of all codecs: streams, readers' contexts, dictionaries.
    pub(crate) fn codec_bytes(&self) -> u64 {
        let buffers = (self.streams.count() * 3 * PAGE_SIZE) as u64;
        self.encoder_bytes.load(Relaxed) + buffers + self.codecs.memory_bytes()
    }
}

pub(crate) fn check_secondary(priority: usize) -> Result<(), Error> {
    if (1..PRIORITIES).contains(&priority) {
        return Ok(());
    }
    Err(Error::Invalid {
        what: "priority",
        given: priority.to_string(),
        accepted: "1 to 3 for a secondary algorithm; 0 is the primary".into(),
    })
}
