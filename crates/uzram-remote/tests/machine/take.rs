//! Snapshots of devices that are written to meanwhile, by a stream to the process that uploads them; and what comes back.

use std::io::{self, Write};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};

use uzram::{CutOptions, Device};
use uzram_control::SnapshotReport;
use uzram_remote::{Collecting, Progress, Remote, Uploaded, Uploading};
use uzram_runtime::snapshot::{SnapshotError, Taking};
use uzram_snapshot::{Digest, Snapshot};
use uzram_testkit::algorithm::with_self_trained;

use crate::host::{scribble, text};
use crate::random::Random;
use crate::seeds::Wrong;
use crate::store::Client;
use crate::subject::PAGE;
use crate::world::World;

/// Requests that are made while a snapshot is taken.
const MEANWHILE: u64 = 30;

/// A stream that is kept as well.
struct Tee {
    to: io::PipeWriter,
    kept: Arc<Mutex<Vec<u8>>>,
}

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// What came of a snapshot.
struct Taken {
    taken: Result<SnapshotReport, SnapshotError>,
    uploaded: uzram_remote::Result<Uploaded>,
    /// All that was said of it.
    stream: Vec<u8>,
    /// What the device holds by now.
    bytes: Vec<u8>,
    wrong: Result<(), Wrong>,
}

/// Writes to a device once it is told to.
fn write_meanwhile(
    device: &Device,
    mut bytes: Vec<u8>,
    seed: u64,
    begin: &Receiver<()>,
) -> (Vec<u8>, Result<(), Wrong>) {
    let mut random = Random::new(seed);
    if begin.recv().is_err() {
        return (bytes, Ok(()));
    }
    for _ in 0..random.below(MEANWHILE) {
        if let Err(wrong) = scribble(device, &mut bytes, &mut random) {
            return (bytes, Err(wrong));
        }
    }
    (bytes, Ok(()))
}

impl World {
    /// Takes a snapshot, with or without a collection at the same time.
    fn take(
        &mut self,
        at: usize,
        uploading: &Uploading<'_>,
        client: &Arc<Client>,
    ) -> Option<Taken> {
        let remote = client.remote(&self.config);
        let host = &self.hosts[at];
        let device = host.device().clone();
        let mut options = CutOptions::new(None);
        options.track = self.random.percent(80);
        let parent = match self.parent(&device, &remote) {
            Ok(parent) => parent,
            Err(_) => {
                self.count("parents refused", 1);
                return None;
            }
        };
        let (seed, before) = (self.random.next(), self.hosts[at].bytes.clone());
        let (from, to) = io::pipe().expect("a pipe");
        let kept: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (begin, begun) = channel();
        let (told, hear) = channel();
        let taking = Taking {
            device: &device,
            name: "zram0",
            options,
            parent,
            more: false,
        };
        let tee = Tee {
            to,
            kept: kept.clone(),
        };
        let (taken, uploaded, (bytes, wrong)) = std::thread::scope(|scope| {
            let of = &device;
            let writer = scope.spawn(move || write_meanwhile(of, before, seed, &begun));
            let uploader = scope.spawn(|| {
                let uploaded = uploading.upload(&remote, from, &Progress::default());
                let _ = told.send(uploaded.is_ok());
                uploaded
            });
            let begin_now = move |_| {
                let _ = begin.send(());
                tee
            };
            let taken = taking.write(begin_now, |tee| {
                // The end of the stream: the process commits, and only then it counts.
                drop(tee);
                match hear.recv() {
                    Ok(true) => Ok(()),
                    _ => Err(io::Error::other("it is not there")),
                }
            });
            let written = writer.join().expect("whoever writes");
            (taken, uploader.join().expect("whoever uploads"), written)
        });
        let stream = std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner));
        Some(Taken {
            taken,
            uploaded,
            stream,
            bytes,
            wrong,
        })
    }

    /// The snapshot that changes are tracked since, as the next one needs it, if that is wanted.
    fn parent(&mut self, device: &Device, remote: &Remote) -> Result<Option<Snapshot>, Wrong> {
        let since = device.tracked_since().and_then(|id| self.tag_of(&id));
        let Some(tag) = since.filter(|_| self.random.percent(70)) else {
            return Ok(None);
        };
        let opened = remote.open_tag(&tag, None, "since").map_err(text)?;
        let mut index = Vec::new();
        opened.write_index(&mut index).map_err(text)?;
        Snapshot::open(index).map(Some).map_err(text)
    }

    pub(crate) fn snapshot(&mut self, at: usize) -> Result<(), Wrong> {
        let client = self.moody();
        let tag = self.tag();
        let uploading = Uploading {
            tag: &tag,
            force: self.random.percent(70),
            device: "zram0",
        };
        let before = Rc::new(self.hosts[at].bytes.clone());
        match self.take(at, &uploading, &client) {
            Some(taken) => self.taken(at, &tag, before, taken, &client),
            None => Ok(()),
        }
    }

    /// The same while a collection goes on that spares nothing that is young.
    pub(crate) fn snapshot_and_collect(&mut self, at: usize) -> Result<(), Wrong> {
        let (client, collector) = (self.client(Default::default()), self.moody());
        let remote = collector.remote(&self.config);
        let tag = self.tag();
        let uploading = Uploading {
            tag: &tag,
            force: true,
            device: "zram0",
        };
        let before = Rc::new(self.hosts[at].bytes.clone());
        let pause = std::time::Duration::from_micros(self.random.below(6000));
        let process = collector.clone();
        let collect = std::thread::spawn(move || {
            std::thread::sleep(pause);
            let grace = std::time::Duration::ZERO;
            let dry_run = false;
            let collected = Collecting { grace, dry_run }.run(&remote);
            process.die();
            collected
        });
        let taken = self.take(at, &uploading, &client);
        let collected = collect.join().map_err(|_| "the collection panicked")?;
        if let Some(taken) = taken {
            self.taken(at, &tag, before, taken, &client)?;
        }
        self.count("at once with a collection", 1);
        self.collected(collected, &collector)
    }

    /// Compares what a snapshot said with what there is now.
    fn taken(
        &mut self,
        at: usize,
        tag: &str,
        before: Rc<Vec<u8>>,
        taken: Taken,
        client: &Arc<Client>,
    ) -> Result<(), Wrong> {
        self.hosts[at].bytes = taken.bytes;
        taken.wrong?;
        self.count("faults", client.faults());
        client.die();
        let old = self.tags.get(tag).copied();
        let found = self.clean().find_tag(tag).map_err(text)?;
        let now = found.map(|found| found.body.name());
        let now = now.transpose().map_err(text)?;
        match (&taken.taken, &taken.uploaded) {
            (Ok(report), Ok(uploaded)) => {
                let name: Digest = report.name.parse().map_err(text)?;
                ensure!(
                    now == Some(name) && uploaded.name == name,
                    "{tag} is {now:?}, not {name}"
                );
                self.count("snapshots", 1);
                let is_incremental = !report.parent.is_empty();
                self.count("incremental snapshots", is_incremental.into());
                self.count("tags replaced", old.is_some().into());
                self.known.insert(name, before);
                self.tags.insert(tag.into(), name);
            }
            (Err(_), Ok(uploaded)) => return Err(format!("{uploaded:?} was not recorded")),
            (Ok(report), Err(error)) => return Err(format!("{report:?} was recorded: {error}")),
            (Err(_), Err(_)) => {
                self.count("snapshots that failed", 1);
                if now != old {
                    // It was carried out, and nobody was told.
                    let written = Snapshot::open(taken.stream).map_err(text)?;
                    ensure!(
                        now == Some(written.name()),
                        "{tag} was {old:?}, and became {now:?}"
                    );
                    self.count("tags of lost answers", 1);
                    self.known.insert(written.name(), before);
                    self.tags.insert(tag.into(), written.name());
                }
            }
        }
        self.check_bucket()
    }

    /// Fills a device with what a tag names, by a store in a mood: what comes is right, or nothing does.
    pub(crate) fn restore(&mut self) -> Result<(), Wrong> {
        let Some((tag, name)) = self.any_tag() else {
            return Ok(());
        };
        let client = self.moody();
        let remote = client.remote(&self.config);
        let restored = self.restored(&remote, &tag);
        self.count("faults", client.faults());
        match restored {
            Ok((of, found)) => {
                ensure!(of == name, "{tag} is {of}, not {name}");
                ensure!(found == *self.known[&name], "{tag} is not what it was");
                self.count("restored", 1);
            }
            Err(_) => self.count("restores that failed", 1),
        }
        Ok(())
    }

    /// The same where everything goes well.
    pub(crate) fn check_tag(&mut self, remote: &Remote, tag: &str) -> Result<(), Wrong> {
        let (name, found) = self
            .restored(remote, tag)
            .map_err(|error| format!("{tag}: {error}"))?;
        ensure!(
            found == *self.known[&name],
            "the tag {tag} is not what it was"
        );
        Ok(())
    }

    fn restored(&self, remote: &Remote, tag: &str) -> Result<(Digest, Vec<u8>), Wrong> {
        let opened = remote.open_tag(tag, None, "restore").map_err(text)?;
        let mut snapshot = opened.snapshot().map_err(text)?;
        let pages = snapshot.head().pages;
        let device = Device::builder(pages * PAGE).registry(with_self_trained());
        let mut device = device.build().map_err(text)?;
        let restored = snapshot.restore_to(&mut device, &with_self_trained());
        restored.map_err(text)?;
        let mut bytes = vec![0xEE; (pages * PAGE) as usize];
        device.read_at(&mut bytes, 0).map_err(text)?;
        Ok((snapshot.name(), bytes))
    }
}
