//! Samples a device: random pages among those that compression matters to, read as any reader would, but without
//! counting.

use std::ops::ControlFlow;
use std::time::{Instant, SystemTime};

use uzram_pool::{current_cpu, undumped_vec};

use crate::PAGE_SIZE;
use crate::codec::Contexts;
use crate::device::Device;
use crate::word::Content;

/// Tables up to this many slots are gone through in a random order; in larger ones slots are drawn.
const SHUFFLED: u64 = 1 << 20;
/// Draws per wanted page after which a table counts as almost empty.
const DRAWS: u64 = 2000;
/// Slots visited between looks at the clock.
const LOOKS: u64 = 256;

/// xorshift64*.
struct SampleRandom(u64);

impl SampleRandom {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % end
    }
}

/// Up to `wanted` different pages that are compressed or huge and that `suits`, in a random order; fewer if there are no
/// more or the deadline comes.
pub(super) fn sample(
    device: &Device,
    wanted: usize,
    deadline: Instant,
    suits: impl Fn(Content) -> bool,
) -> Vec<[u8; PAGE_SIZE]> {
    let total: u64 = device.table.resident().map(|(_, count)| count).sum();
    // In one piece, which goes back to the system as a whole.
    let mut pages = undumped_vec(wanted.min(total as usize));
    // No more than there is room for, whatever comes meanwhile: what grows is copied, and dumped.
    let room = pages.capacity().min(wanted);
    sample_each(device, room, deadline, suits, |_, _, bytes| {
        pages.push(*bytes);
        ControlFlow::Continue(())
    });
    pages
}

/// The same without keeping them: `visit` is given each page's number, what it was found to be, and its bytes, and may end it.
pub(crate) fn sample_each(
    device: &Device,
    wanted: usize,
    deadline: Instant,
    suits: impl Fn(Content) -> bool,
    mut visit: impl FnMut(u64, Content, &[u8; PAGE_SIZE]) -> ControlFlow<()>,
) {
    let runs: Vec<(u64, u64)> = device.table.resident().collect();
    let total: u64 = runs.iter().map(|(_, count)| count).sum();
    if total == 0 {
        return;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let mut random = SampleRandom(now.map_or(1, |t| t.as_nanos() as u64) | 1);
    let mut seen = std::collections::HashSet::new();
    let mut visited = 0;
    for (looks, number) in order(total, wanted as u64, &mut random).enumerate() {
        if visited == wanted || (looks as u64).is_multiple_of(LOOKS) && Instant::now() >= deadline {
            break;
        }
        let Some(page) = slot_at(&runs, number).filter(|page| *page < device.table.pages()) else {
            continue;
        };
        let content = device.table.peek(page);
        if !content.is_in_pool() || !suits(content) || !seen.insert(page) {
            continue;
        }
        let mut bytes = [0; PAGE_SIZE];
        // Taken anew for each page: requests need the readers' contexts, too. Dropped before anything touches new memory:
        // on a swap device that may wait for requests.
        let mut contexts = Contexts::unnoticed(&device.codecs, current_cpu());
        let read = device.read_page(page, &mut bytes, &mut contexts);
        drop(contexts);
        if read.is_ok() {
            visited += 1;
            if visit(page, content, &bytes).is_break() {
                return;
            }
        }
    }
}

/// Numbers below `total` in a random order.
fn order(total: u64, wanted: u64, random: &mut SampleRandom) -> Box<dyn Iterator<Item = u64> + '_> {
    if total > SHUFFLED {
        return Box::new((0..wanted * DRAWS).map(move |_| random.below(total)));
    }
    let mut numbers: Vec<u64> = (0..total).collect();
    for at in (1..numbers.len()).rev() {
        numbers.swap(at, random.below(at as u64 + 1) as usize);
    }
    Box::new(numbers.into_iter())
}

/// The slot with that number among all slots of the runs.
fn slot_at(runs: &[(u64, u64)], mut number: u64) -> Option<u64> {
    for (first, count) in runs {
        if number < *count {
            return Some(first + number);
        }
        number -= count;
    }
    None
}
