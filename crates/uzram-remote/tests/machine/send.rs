//! A device that is sent: rounds of snapshots while it is written to, the last one frozen, and a stream that may be cut, flipped,
//! or arrive without anybody being told.

use std::io;
use std::sync::mpsc::channel;

use uzram::{CutOptions, Error, PAGE_SIZE};
use uzram_runtime::snapshot::{SnapshotError, Taking};
use uzram_snapshot::device::{Filler, choice};
use uzram_snapshot::{Snapshot, SnapshotReader};
use uzram_testkit::algorithm::with_self_trained;

use crate::host::{Host, NewDevice, scribble, text};
use crate::op;
use crate::random::{Fill, Random};
use crate::seeds::Wrong;
use crate::subject::PAGE;
use crate::world::World;

/// Most rounds before the last one.
const ROUNDS: u64 = 3;

/// What becomes of a stream on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Arrives,
    /// It ends behind so many of a thousand parts.
    Cut(u64),
    /// A bit is another one.
    Flipped(u64),
    /// It arrives, and the answer does not.
    Unheard,
}

impl Way {
    fn random(random: &mut Random) -> Way {
        match random.below(8) {
            0 => Way::Cut(random.below(1000)),
            1 => Way::Flipped(random.next()),
            2 => Way::Unheard,
            _ => Way::Arrives,
        }
    }

    fn take(self, mut stream: Vec<u8>) -> Vec<u8> {
        match self {
            Way::Cut(part) => stream.truncate(stream.len() * part as usize / 1000),
            Way::Flipped(bit) => {
                let bit = bit as usize % (stream.len() * 8);
                stream[bit / 8] ^= 1 << (bit % 8);
            }
            Way::Arrives | Way::Unheard => {}
        }
        stream
    }
}

/// Makes a device of a stream of snapshots, each the parent of the next.
fn receive(stream: &[u8], mut random: Random) -> Result<NewDevice, Wrong> {
    let registry = with_self_trained();
    let mut from = stream;
    let mut reader = SnapshotReader::new(&mut from).map_err(text)?;
    let pages = reader.head().pages;
    // Of the size there is nothing but this word of a stream that anybody may have changed.
    ensure!(pages < 1 << 16, "{pages} pages");
    let primary = op::choice(random.below(64));
    let mut new = NewDevice::make(&mut random, pages, primary, false);
    let mut filler = Filler::new(&mut new.device);
    let mut known = Vec::new();
    loop {
        let codecs = reader.head().codecs.iter();
        let codecs: Vec<_> = codecs
            .filter(|of| !known.contains(&of.number))
            .cloned()
            .collect();
        for codec in codecs {
            let dictionary = reader.dictionary(codec.number);
            let made = choice(&codec, dictionary, &registry).map_err(text)?;
            filler.add_codecs([(codec.number, made)]).map_err(text)?;
            known.push(codec.number);
        }
        let restored = reader.restore(|page, content| filler.page(page, content));
        let restored = restored.map_err(text)?;
        if !restored.is_basis {
            ensure!(from.is_empty(), "something follows what is complete");
            drop(filler);
            return Ok(new);
        }
        reader = SnapshotReader::new(&mut from).map_err(text)?;
        ensure!(
            reader.head().parent == Some(restored.name) && reader.head().pages == pages,
            "what follows was not made since what it begins with"
        );
    }
}

impl World {
    /// Sends a device to another one, which takes its place if it arrives.
    pub(crate) fn send(&mut self, at: usize) -> Result<(), Wrong> {
        let device = self.hosts[at].device().clone();
        let mut stream = Vec::new();
        for _ in 0..self.random.below(ROUNDS + 1) {
            if !self.round(at, &mut stream)? {
                return Ok(());
            }
        }
        let parent = before(&stream)?;
        let mut options = CutOptions::new(None);
        options.freeze = true;
        let taking = Taking {
            device: &device,
            name: "zram0",
            options,
            parent,
            more: false,
        };
        let (way, seed) = (Way::random(&mut self.random), self.random.next());
        let page = self.random.below(self.hosts[at].pages());
        let late = Fill::Text(seed).bytes(PAGE_SIZE);
        let (mut arrived, mut refused) = (None, Wrong::new());
        let (begin, begun) = channel();
        let (taken, written) = std::thread::scope(|scope| {
            // It comes while nothing changes: it is done where the device stays, and fails where it goes.
            let (device, late) = (&device, &late);
            let writer = scope.spawn(move || {
                begun.recv().ok()?;
                Some(device.write_at(late, page * PAGE))
            });
            let frozen = move |_| {
                let _ = begin.send(());
                Vec::new()
            };
            let taken = taking.write(frozen, |last| {
                let sent = way.take([stream, last].concat());
                let made = receive(&sent, Random::new(seed));
                match (made, way) {
                    (Ok(new), Way::Arrives) => {
                        arrived = Some(new);
                        Ok(())
                    }
                    // Whoever made one and is not heard removes it.
                    (Ok(_), _) => Err(io::Error::other("no answer")),
                    (Err(wrong), _) => {
                        refused = wrong;
                        Err(io::Error::other("it was refused"))
                    }
                }
            });
            (taken, writer.join().expect("whoever writes"))
        });
        match (taken, written, arrived) {
            (Ok(_), Some(Err(Error::HandedOver)), Some(new)) => {
                let after = device.write_at(&late, page * PAGE);
                ensure!(
                    matches!(after, Err(Error::HandedOver)),
                    "{after:?} behind the switch"
                );
                drop(device);
                let bytes = self.hosts[at].bytes.clone();
                let host = Host::new(format!("{}'", self.hosts[at].name), new, bytes);
                self.replace(at, host)?;
                self.hosts[at].check_all()?;
                self.count("sent", 1);
            }
            (Err(error), written, None) => {
                let may_be = matches!(error, SnapshotError::Device(Error::RemotePages { .. }))
                    || way != Way::Arrives
                    || may_give_up(&error);
                ensure!(may_be, "{error}: {refused}");
                match written {
                    None => {}
                    Some(Ok(())) => {
                        let place = (page * PAGE) as usize..((page + 1) * PAGE) as usize;
                        self.hosts[at].bytes[place].copy_from_slice(&late);
                        self.count("given up while sent", 1);
                    }
                    Some(Err(error)) => {
                        return Err(format!("it stays, and a write fails: {error}"));
                    }
                }
            }
            (taken, written, arrived) => {
                let arrived = arrived.is_some();
                return Err(format!(
                    "{taken:?}, {written:?}, arrived {arrived}: {way:?}"
                ));
            }
        }
        Ok(())
    }

    /// A round before the last one, while the device is written to. `false`: it could not be.
    fn round(&mut self, at: usize, stream: &mut Vec<u8>) -> Result<bool, Wrong> {
        let device = self.hosts[at].device().clone();
        let parent = before(stream)?;
        let mut options = CutOptions::new(None);
        options.track = true;
        let taking = Taking {
            device: &device,
            name: "zram0",
            options,
            parent,
            more: true,
        };
        let (begin, begun) = channel();
        let mut bytes = std::mem::take(&mut self.hosts[at].bytes);
        let random = &mut self.random;
        let (taken, wrong) = std::thread::scope(|scope| {
            let (device, bytes) = (&device, &mut bytes);
            let writer = scope.spawn(move || {
                if begun.recv().is_ok() {
                    for _ in 0..random.below(20) {
                        scribble(device, bytes, random)?;
                    }
                }
                Ok::<(), Wrong>(())
            });
            let cut = move |_| {
                let _ = begin.send(());
                Vec::new()
            };
            let taken = taking.write(cut, |round| {
                stream.extend_from_slice(&round);
                Ok(())
            });
            (taken, writer.join().expect("whoever writes"))
        });
        self.hosts[at].bytes = bytes;
        wrong?;
        match taken {
            Ok(_) => Ok(true),
            Err(error) if may_give_up(&error) => Ok(false),
            Err(error) => Err(format!("a round: {error}")),
        }
    }
}

/// Whether no snapshot of a device may be taken now.
fn may_give_up(error: &SnapshotError) -> bool {
    use Error::{BackingRead, RemotePages};
    matches!(
        error,
        SnapshotError::Device(RemotePages { .. } | BackingRead { .. })
    )
}

/// What the rounds before this one have sent; nothing in the first.
fn before(stream: &[u8]) -> Result<Option<Snapshot>, Wrong> {
    match stream.is_empty() {
        true => Ok(None),
        false => Ok(Some(Snapshot::open_basis(stream.to_vec()).map_err(text)?)),
    }
}
