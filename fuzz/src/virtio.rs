//! A guest that fills its rings by an input, before a vhost-user-blk server on a small device.
//!
//! The server is the real one, on a socket. What the guest says by its memory is read by the queue's thread; a second queue,
//! which is never spoilt, shows that the device goes on.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uzram::Device;
use uzram_testkit::virtio::{Guest, QUEUE_SIZE, READ, WRITE};
use uzram_vhost_user::{RunningServer, Server};

use crate::input::Input;
use crate::peer::ScratchDir;

/// Small, so that an input full of long reads does not take seconds.
const SIZE_BYTES: u64 = 256 << 10;
/// The queue that inputs spoil, and the one that they leave alone.
const SPOILT: usize = 0;
const SOUND: usize = 1;
/// Answers for which the sound queue waits on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a ring that makes no sense is given, after which it has stopped.
const MOMENT: Duration = Duration::from_millis(3);
/// Unit of the addresses in an input.
const UNIT: u64 = 64;
const OK: u8 = 0;

/// A server and its guest, which live as long as the process.
pub struct Virtio {
    guest: Guest,
    inputs: u32,
    _server: RunningServer,
    _place: ScratchDir,
    _socket: PathBuf,
}

impl Default for Virtio {
    fn default() -> Virtio {
        Virtio::new()
    }
}

impl Virtio {
    /// Serves a device, and connects to it.
    #[expect(
        clippy::expect_used,
        reason = "a target without a server can do nothing"
    )]
    pub fn new() -> Virtio {
        let place = ScratchDir::new();
        let socket = place.path("vhost.sock");
        let device = Arc::new(Device::builder(SIZE_BYTES).build().expect("a device"));
        let server = Server::builder("zram0", device)
            .bind(&socket)
            .and_then(|server| server.start())
            .expect("a server");
        let mut guest = Guest::new(2);
        guest.wants_record = false;
        guest.connect(&socket).expect("a connection");
        Virtio {
            guest,
            inputs: 0,
            _server: server,
            _place: place,
            _socket: socket,
        }
    }

    /// Does with the guest's memory what the input says, kicks the device, and looks at the answers. Returns how many
    /// requests succeeded.
    ///
    /// # Panics
    ///
    /// Where an answer is none to what was offered, or the device does not go on.
    pub fn talk(&mut self, said: &[u8]) -> usize {
        let mut input = Input(said);
        let mut offered = HashMap::new();
        let mut statuses = Vec::new();
        let mut lies = false;
        while !input.is_empty() {
            self.step(&mut input, &mut offered, &mut statuses, &mut lies);
        }
        self.guest.kick(SPOILT);
        let wanted: u32 = offered.values().sum();
        let answered = self.answers(&mut offered, wanted, lies);
        assert!(lies || answered <= wanted, "{answered} answers to {wanted}");
        statuses.sort_unstable();
        statuses.dedup();
        let succeeded = statuses
            .iter()
            .filter(|at| self.guest.read(**at, 1) == [OK])
            .count();
        let restarted = self.guest.restart(SPOILT);
        assert!(
            restarted.is_ok(),
            "a queue does not start anew: {restarted:?}"
        );
        self.inputs = self.inputs.wrapping_add(1);
        if self.inputs.is_multiple_of(64) {
            self.check_alive();
        }
        succeeded
    }

    /// One thing that a guest does.
    fn step(
        &mut self,
        input: &mut Input<'_>,
        offered: &mut HashMap<u16, u32>,
        statuses: &mut Vec<u64>,
        lies: &mut bool,
    ) {
        let guest = &mut self.guest;
        let first = guest.slot(SPOILT, 0);
        let (own, end) = (guest.slot(SOUND, 0) - first, guest.len_bytes());
        // Not in the rings, since a guest may well spoil its own by a read. Some reach over the end of memory, and the last
        // is as far away as can be.
        let address = |units: u16| match units {
            u16::MAX => u64::MAX - 8,
            0xFFFE => end - 8,
            units => first + u64::from(units) * UNIT % own,
        };
        match input.byte() % 6 {
            0 => {
                let number = u16::from(input.byte()) % QUEUE_SIZE;
                let (at, len) = (address(input.u16()), length(input.u16()));
                let (flags, next) = (input.byte().into(), input.byte().into());
                guest.describe(SPOILT, number, at, len, flags, next);
            }
            1 => {
                let (table, number) = (input.u16(), input.byte().into());
                let (at, len) = (address(input.u16()), length(input.u16()));
                let (flags, next) = (input.byte().into(), input.byte().into());
                let table = first + u64::from(table) * UNIT % (64 << 10);
                guest.describe_at(table, number, at, len, flags, next);
            }
            2 => {
                let at = first + u64::from(input.u16()) % (64 << 10);
                let len = usize::from(input.byte() % 64);
                guest.write(at, input.bytes(len));
            }
            // More than the ring holds would take the place of what was not looked at.
            3 | 5 if offered.values().sum::<u32>() == u32::from(QUEUE_SIZE) => {}
            3 => {
                let head = input.byte().into();
                *offered.entry(head).or_default() += 1;
                guest.offer(SPOILT, head);
            }
            4 => {
                // Whatever is in the ring by chance may be answered.
                *lies = true;
                guest.set_available(SPOILT, input.u16());
            }
            _ => {
                // A whole request, of which the rest of the input may change a part before it is looked at.
                let slot = u16::from(input.byte() % 8);
                let kind = u32::from(input.byte());
                let sector = input.u16().into();
                let len = usize::from(input.byte()) * 64;
                let (data, room) = match kind & 1 == 1 || kind > 8 {
                    true => (vec![input.byte(); len], 0),
                    false => (Vec::new(), len as u32),
                };
                *offered.entry(slot * 4).or_default() += 1;
                statuses.push(guest.slot(SPOILT, slot) + 64);
                guest.prepare(SPOILT, slot, kind, sector, &data, room);
            }
        }
    }

    /// Takes answers until there are as many as requests, or the ring has had its time.
    fn answers(&mut self, offered: &mut HashMap<u16, u32>, wanted: u32, lies: bool) -> u32 {
        // What is in the ring's bounds is answered, whatever it is. Else the ring may have stopped before.
        let is_sound = !lies && offered.keys().all(|head| *head < QUEUE_SIZE);
        let limit = if is_sound { PATIENCE } else { MOMENT };
        let begin = Instant::now();
        let mut answered = 0;
        while answered < wanted && begin.elapsed() < limit {
            let Some((head, _)) = self.guest.answer(SPOILT) else {
                std::hint::spin_loop();
                continue;
            };
            answered += 1;
            if lies {
                continue;
            }
            let head = u16::try_from(head).ok();
            let left = head.and_then(|head| offered.get_mut(&head));
            assert!(left.is_some(), "nobody offered {head:?}");
            if let Some(left) = left {
                assert!(*left > 0, "{head:?} was answered once too often");
                *left -= 1;
            }
        }
        assert!(
            !is_sound || answered == wanted,
            "{answered} of {wanted} were answered"
        );
        answered
    }

    /// Panics unless the other queue is served.
    pub fn check_alive(&mut self) {
        let page = [self.inputs as u8; 512];
        let guest = &mut self.guest;
        for (kind, data, room) in [(WRITE, &page[..], 0), (READ, &[], 512)] {
            guest.submit(SOUND, 0, kind, 1, data, room);
            let answer = guest.wait(SOUND, PATIENCE);
            assert!(answer.is_some(), "the device does not go on");
            assert_eq!(guest.status(SOUND, 0), OK);
        }
        assert_eq!(guest.data(SOUND, 0, 512), page);
    }
}

/// Lengths of a few bytes, and of up to 128 MiB.
fn length(said: u16) -> u32 {
    let len = u32::from(said & 0x7FFF);
    if said & 0x8000 == 0 { len } else { len << 12 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decent_guest_is_served_and_a_bad_one_ends_its_ring() {
        let mut disk = Virtio::new();
        // A write of 512 bytes and a read of them.
        let decent = [5, 0, 1, 8, 0, 8, 7, 5, 1, 0, 8, 0, 8];
        assert_eq!(disk.talk(&decent), 2);
        assert_eq!(disk.guest.data(SPOILT, 1, 512), [7; 512]);
        // More than the ring holds is said to be available.
        disk.talk(&[4, 0xFF, 0x7F]);
        // A descriptor that follows itself, and one far away.
        disk.talk(&[
            0, 3, 0, 1, 16, 0, 1, 3, 3, 3, 0, 4, 0xFF, 0xFF, 16, 0, 0, 0, 3, 4,
        ]);
        disk.check_alive();
        assert_eq!(disk.talk(&decent), 2);
    }
}
