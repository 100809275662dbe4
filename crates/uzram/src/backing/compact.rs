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
    /// [`Error::NoBacking`] if there is none, [`Error::Snapshot`] while a snapshot is taken.
    pub fn compact_backing(self, most: usize) -> Result<usize, Error> {
        let mut emptied = 0;
        while emptied < most {
            let _alone = self.0.post_processing();
            self.0.refuse_during_cut()?;
            let attached: Arc<Attached> = self.0.attached()?;
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
    let mut emptied = 0;
    for victim in victims.into_iter().filter(sparse) {
        emptied += usize::from(empty(device, &victim, &mut writers.moving, &mut buffer));
    }
    emptied
}

/// Moves the objects of a segment. Returns whether all could be moved.
fn empty(
    device: &Device,
    victim: &Victim,
    writer: &mut Writer,
    buffer: &mut SegmentBuffer,
) -> bool {
    let Ok(objects) = victim.objects(buffer) else {
        return false;
    };
    let mut moved = Moved { device, failed: 0 };
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
    writer.submit();
    moved.wait(writer);
    moved.failed == 0
}

struct Moved<'a> {
    device: &'a Device,
    failed: usize,
}

impl Moved<'_> {
    fn wait(&mut self, writer: &mut Writer) {
        if writer.wait(PATIENCE, |written| self.written(written)) > 0 {
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
