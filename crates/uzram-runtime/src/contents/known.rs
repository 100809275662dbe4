//! What is known of a snapshot by its head: what it leaves a new device's description to be, and its codecs.

use std::io::Read;

use uzram::compress::AlgorithmSpec;
use uzram::{Builder, Choice, Device};
use uzram_snapshot::device::Filler;
use uzram_snapshot::{Digest, Error, Head, PAGE_BYTES, Snapshot, SnapshotCodec, SnapshotReader};
use uzram_spec::{Bytes, DeviceSpec, Failure, Result, SnapshotSource, size};

use crate::snapshot_notes::SnapshotNotes;

/// What its head says, and its codecs.
pub(crate) struct Known {
    pub(super) source: SnapshotSource,
    /// What the snapshot is called where it is stored, unless it comes by a pipe.
    pub(super) name: Option<Digest>,
    pub(super) head: Head,
    pub(super) notes: SnapshotNotes,
    pub(super) choices: Vec<(u8, Choice)>,
}

impl Known {
    /// `name` is that of a snapshot that does not come by a pipe.
    pub(super) fn new(
        source: SnapshotSource,
        name: Option<Digest>,
        head: Head,
        choices: Vec<(u8, Choice)>,
    ) -> Known {
        Known {
            source,
            name,
            notes: SnapshotNotes::of(&head),
            head,
            choices,
        }
    }

    /// Fills in what the description leaves to the snapshot. Refuses a device that is too small.
    pub(crate) fn fill_in(&self, spec: &mut DeviceSpec) -> Result {
        let bytes = self.head.pages * PAGE_BYTES as u64;
        match spec.size {
            Some(Bytes(given)) if given < bytes => {
                let message = format!(
                    "size {given} is too little: the snapshot is of a disk of {bytes} bytes ({})",
                    size::human(bytes)
                );
                return Err(Failure::usage(message));
            }
            Some(_) => {}
            None => spec.size = Some(Bytes(bytes)),
        }
        // The tag may name another one by the time its server opens it.
        if (self.source.lazy || self.source.is_remote())
            && let (Some(from), Some(name)) = (&mut spec.from, self.name)
        {
            from.snapshot = name.to_string();
        }
        if !self.source.own_block_size && matches!(self.notes.block_size, 512 | 4096) {
            spec.block_size = self.notes.block_size;
        }
        let text = |number: u8| {
            let codec = self.head.codec(number)?;
            let algorithms = uzram_control::zram::algorithms();
            // By its driver only where that is not the one that the name stands for.
            let usual = algorithms.find(&codec.algorithm);
            let is_usual = usual.is_ok_and(|found| found.driver_name() == codec.driver);
            let name = match algorithms.find(&codec.driver) {
                Ok(found) if !is_usual && found.name() == codec.algorithm => &codec.driver,
                _ => &codec.algorithm,
            };
            let mut text = AlgorithmSpec::new(name.clone());
            text.params = uzram::compress::parse_params(&codec.params).ok()?;
            Some(text)
        };
        if let Some(primary) = self.by_priority(0).and_then(text) {
            spec.algorithm = primary;
        }
        for priority in 1..uzram::PRIORITIES {
            if let Some(mut secondary) = self.by_priority(priority).and_then(text) {
                let priority = ("priority".into(), priority.to_string());
                secondary.params.push(priority);
                spec.recomp_algorithm.push(secondary);
            }
        }
        Ok(())
    }

    /// The number of the codec that had a priority, if the new device is to have the same.
    fn by_priority(&self, priority: usize) -> Option<u8> {
        let is_own = match priority {
            0 => self.source.own_algorithm,
            _ => self.source.own_recomp_algorithm,
        };
        if is_own {
            return None;
        }
        let has = |codec: &&SnapshotCodec| {
            let note = self.notes.codec(codec);
            note.is_some_and(|note| note.priorities.contains(&priority))
        };
        let mut codecs = self.head.codecs.iter();
        let found = codecs.find(has).map(|codec| codec.number);
        match (found, &self.head.codecs[..]) {
            // Whoever wrote it left no word, and there is no doubt.
            (None, [only]) if priority == 0 => Some(only.number),
            _ => found,
        }
    }

    fn choice(&self, number: u8) -> Option<Choice> {
        let (_, choice) = self.choices.iter().find(|(other, _)| *other == number)?;
        let note = self
            .head
            .codec(number)
            .and_then(|codec| self.notes.codec(codec));
        Some(match note.and_then(|note| note.generation) {
            Some(generation) => choice.clone().generation(generation),
            None => choice.clone(),
        })
    }

    /// Has the device go on with the algorithms and the dictionaries of the one that the snapshot is of.
    pub(crate) fn choose(&self, mut device: Builder) -> Builder {
        if let Some(choice) = self.by_priority(0).and_then(|number| self.choice(number)) {
            device = device.choose(choice);
        }
        for priority in 1..uzram::PRIORITIES {
            let number = self.by_priority(priority);
            if let Some(choice) = number.and_then(|number| self.choice(number)) {
                device = device.secondary(priority, choice);
            }
        }
        device
    }

    pub(super) fn all_choices(&self) -> impl Iterator<Item = (u8, Choice)> + '_ {
        let numbers = self.choices.iter().map(|(number, _)| *number);
        numbers.filter_map(|number| Some((number, self.choice(number)?)))
    }

    /// Refuses codecs that a device cannot have, on one that is thrown away.
    pub(crate) fn try_out(&self, device: &mut Device) -> Result {
        let mut filler = Filler::new(device);
        Ok(filler.add_codecs(self.all_choices())?)
    }
}

/// The codecs of a snapshot that is read forward: those of its parent, and its own.
pub(super) fn choices<R: Read>(
    reader: &SnapshotReader<R>,
    parent: Option<&Snapshot>,
) -> std::result::Result<Vec<(u8, Choice)>, Error> {
    let of_parent = parent.map(|parent| parent.choices(uzram_control::zram::algorithms()));
    let mut choices = of_parent.transpose()?.unwrap_or_default();
    choices.extend(own_choices(reader, &choices)?);
    Ok(choices)
}

/// The codecs of a pipe's snapshot but for those that are known: a parent's dictionaries need not come again.
pub(super) fn own_choices<R: Read>(
    reader: &SnapshotReader<R>,
    known: &[(u8, Choice)],
) -> std::result::Result<Vec<(u8, Choice)>, Error> {
    let codecs = reader.head().codecs.iter();
    let new = codecs.filter(|codec| known.iter().all(|(number, _)| *number != codec.number));
    let one = |codec: &SnapshotCodec| {
        let choice = reader.choice(codec, uzram_control::zram::algorithms())?;
        Ok((codec.number, choice))
    };
    new.map(one).collect()
}
