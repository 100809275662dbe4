//! Compaction of the backing: moves the objects of its sparsest segments to others, so that whole segments become
//! free.

use std::sync::Arc;
use std::time::Duration;

use uzram_backing::{PushError, SegmentBuffer, Victim, Writer, Written};
use uzram_pool::current_cpu;

use super::{Attached, Writers};
use crate::Error;
use crate::apis::ZramApi;
use crate::device::Device;
use crate::word::{Backed, Content};

/// How long to wait for the disk.
const PATIENCE: Duration = Duration::from_secs(30);
/// Segments with more live bytes than this are left alone, in eighths.
const DENSE_EIGHTHS: u64 = 6;
/// Segments at a time.
const VICTIMS: usize = 4;

impl ZramApi<'_> {
    /// Moves the objects of sparse segments together, up to `most` segments; returns how many were emptied. Pages
    /// that cannot be read stay where they are.
    ///
    /// [`Error::NoBacking`] if there is none, [`Error::BackingLost`] where its file is not there, [`Error::Snapshot`] while a snapshot is taken.
    pub fn compact_backing(self, most: usize) -> Result<usize, Error> {
        let mut emptied = 0;
        while emptied < most {
            let _alone = self.0.post_processing();
            self.0.refuse_during_cut()?;
            let attached: Arc<Attached> = self.0.attached()?;
            attached.refuse_lost()?;
            let mut writers = attached.writers();
            match round(
                self.0,
                &attached,
                &mut writers,
                (most - emptied).min(VICTIMS),
            ) {
                0 => break,
                some => emptied += some,
            }
        }
        Ok(emptied)
    }
}

/// Empties some segments when the backing is full. Returns whether there is room now.
pub(super) fn make_room(device: &Device, attached: &Attached, writers: &mut Writers) -> bool {
    round(device, attached, writers, VICTIMS) > 0
}

/// Returns how many segments were emptied.
fn round(device: &Device, attached: &Attached, writers: &mut Writers, most: usize) -> usize {
    let victims = attached.backing.victims(most);
    let mut buffer = SegmentBuffer::new();
    let sparse =
        |victim: &Victim| victim.live_bytes() * 8 <= victim.capacity_bytes() * DENSE_EIGHTHS;
    let mut victims: Vec<Victim> = victims.into_iter().filter(sparse).collect();
    let patience = attached.backing.layout().patience.unwrap_or(PATIENCE);
    if attached.is_far() {
        return merge(device, &mut victims, writers, &mut buffer, patience);
    }
    let mut emptied = 0;
    for victim in victims {
        let writer = &mut writers.moving;
        emptied += usize::from(empty(device, &victim, writer, &mut buffer, patience));
    }
    emptied
}

/// As many of these segments as fit fewer, since each is an object that is written anew. Returns how many were emptied, none if
/// that gains nothing.
fn merge(
    device: &Device,
    victims: &mut Vec<Victim>,
    writers: &mut Writers,
    buffer: &mut SegmentBuffer,
    patience: Duration,
) -> usize {
    // The emptiest come first.
    let needed = |victims: &[Victim]| {
        let live: u64 = victims.iter().map(Victim::live_bytes).sum();
        let capacity = victims.first().map_or(1, Victim::capacity_bytes);
        live.div_ceil(capacity)
    };
    while !victims.is_empty() && needed(victims) >= victims.len() as u64 {
        victims.pop();
    }
    let mut moved = Moved {
        device,
        patience,
        failed: 0,
    };
    let mut read = 0;
    for victim in &*victims {
        // They are packed together: only the last buffer is sent before it is full.
        if !move_objects(&mut moved, victim, &mut writers.moving, buffer) {
            break;
        }
        read += 1;
    }
    writers.moving.submit();
    moved.wait(&mut writers.moving);
    match moved.failed {
        0 => read,
        _ => 0,
    }
}

/// Moves the objects of a segment. Returns whether all could be moved.
fn empty(
    device: &Device,
    victim: &Victim,
    writer: &mut Writer,
    buffer: &mut SegmentBuffer,
    patience: Duration,
) -> bool {
    let mut moved = Moved {
        device,
        patience,
        failed: 0,
    };
    if !move_objects(&mut moved, victim, writer, buffer) {
        return false;
    }
    writer.submit();
    moved.wait(writer);
    moved.failed == 0
}

/// Gives the objects of a segment to the writer. `false`: it cannot be read.
fn move_objects(
    moved: &mut Moved<'_>,
    victim: &Victim,
    writer: &mut Writer,
    buffer: &mut SegmentBuffer,
) -> bool {
    let device = moved.device;
    let Ok(objects) = victim.objects(buffer) else {
        return false;
    };
    for object in objects {
        let (page, len) = (u64::from(object.owner), object.bytes.len());
        let here = |content: Content, _| {
            let Content::Backed(Backed {
                location, len: l, ..
            }) = content
            else {
                return false;
            };
            location == object.location.raw() && usize::from(l) == len
        };
        // Remains of the segment's earlier use may name pages that the device does not have.
        if page >= device.table.capacity()
            || !here(device.table.peek(page), 0)
            || device.table.begin_post(page, here).is_none()
        {
            continue;
        }
        let mut pushed = writer.push(object.owner, object.bytes);
        if let Err(PushError::Busy { .. }) = pushed {
            moved.wait(writer);
            pushed = writer.push(object.owner, object.bytes);
        }
        if pushed.is_err() {
            device.table.end_post(page, 0);
            moved.failed += 1;
        }
    }
    true
}

struct Moved<'a> {
    device: &'a Device,
    patience: Duration,
    failed: usize,
}

impl Moved<'_> {
    fn wait(&mut self, writer: &mut Writer) {
        if writer.wait(self.patience, |written| self.written(written)) > 0 {
            writer.abandon(|written| self.written(written));
        }
    }

    fn written(&mut self, written: Written) {
        if written.result.is_err() {
            self.device.table.end_post(written.owner.into(), 0);
            self.failed += 1;
        } else {
            self.device.keep_backed(written, current_cpu());
        }
    }
}
