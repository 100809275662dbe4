//! Reads many objects at once, from a disk that is slow to answer: what lies together comes by one request, and several
//! requests are under way at a time.

use crate::BLOCK;
use crate::backing::Backing;
use crate::buffer::{Buffer, ReadBuffer};
use crate::counters::count;
use crate::error::ReadError;
use crate::format::{ENTRY_HEADER, Location, ParsedEntry, entry_bytes, read_entry};

/// Bytes between two objects that are read along rather than asked for apart.
const GAP: u64 = 64 << 10;
/// Most bytes of a request.
const MOST: u64 = 1 << 20;
/// Requests at a time.
const AT_ONCE: usize = 4;

/// An object that is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedObject {
    /// Where it is.
    pub location: Location,
    /// Its bytes.
    pub len: usize,
    /// Its owner.
    pub owner: u32,
}

/// Objects that come by one request: their numbers in the caller's list.
struct Run {
    objects: Vec<usize>,
    start: u64,
    end: u64,
}

impl Backing {
    /// Reads and checks objects, of which each must have a [`Hold`](crate::Hold): in the order of the list, the bytes of each
    /// or why there are none.
    pub fn read_many(&self, wanted: &[WantedObject]) -> Vec<Result<Box<[u8]>, ReadError>> {
        let runs = self.runs(wanted);
        let next = std::sync::atomic::AtomicUsize::new(0);
        let read = || {
            let mut found = Vec::new();
            loop {
                let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(run) = runs.get(at) else {
                    return found;
                };
                self.read_run(wanted, run, &mut found);
            }
        };
        let found = match runs.len() {
            0 | 1 => read(),
            some => std::thread::scope(|scope| {
                let others = (1..some.min(AT_ONCE)).map(|_| {
                    let thread = std::thread::Builder::new().name("read-many".into());
                    thread.spawn_scoped(scope, read)
                });
                let others: Vec<_> = others.flatten().collect();
                let mut found = read();
                for other in others {
                    found.extend(other.join().unwrap_or_default());
                }
                found
            }),
        };
        let mut all: Vec<_> = wanted.iter().map(|_| Err(ReadError::Outside)).collect();
        for (number, result) in found {
            all[number] = result;
        }
        all
    }

    fn runs(&self, wanted: &[WantedObject]) -> Vec<Run> {
        let geometry = &self.shared.segments.geometry;
        let is_there = |number: &usize| {
            let WantedObject { location, len, .. } = wanted[*number];
            geometry.contains(location, len)
        };
        let mut order: Vec<usize> = (0..wanted.len()).filter(is_there).collect();
        order.sort_unstable_by_key(|number| wanted[*number].location);
        let mut runs: Vec<Run> = Vec::new();
        for number in order {
            let WantedObject { location, len, .. } = wanted[number];
            let start = location.offset();
            let end = start + entry_bytes(len) as u64;
            match runs.last_mut() {
                Some(run)
                    if geometry.segment_of(location)
                        == geometry.segment_of(wanted[run.objects[0]].location)
                        && start <= run.end + GAP
                        && end - run.start <= MOST =>
                {
                    run.objects.push(number);
                    run.end = run.end.max(end);
                }
                _ => runs.push(Run {
                    objects: vec![number],
                    start,
                    end,
                }),
            }
        }
        runs
    }

    fn read_run(
        &self,
        wanted: &[WantedObject],
        run: &Run,
        found: &mut Vec<(usize, Result<Box<[u8]>, ReadError>)>,
    ) {
        let block = BLOCK as u64;
        let first = run.start / block * block;
        let mut buffer = Buffer::new((run.end - first).div_ceil(block) as usize);
        let filled = self.shared.fill(buffer.bytes_mut(), first);
        for &number in &run.objects {
            let WantedObject {
                location,
                len,
                owner,
            } = wanted[number];
            if let Err(error) = filled {
                found.push((number, Err(error)));
                continue;
            }
            let at = (location.offset() - first) as usize;
            let entry = &buffer.bytes()[at..];
            let whole = ParsedEntry::Whole { owner, len };
            if read_entry(self.shared.seed, location, entry) == whole {
                count(&self.shared.counters.reads, 1);
                let bytes = &entry[ENTRY_HEADER..ENTRY_HEADER + len];
                found.push((number, Ok(bytes.into())));
                continue;
            }
            // Read, counted and logged as any other that is damaged.
            let mut again = ReadBuffer::new();
            let read = self.read(location, len, owner, &mut again);
            found.push((number, read.map(Into::into)));
        }
    }
}
