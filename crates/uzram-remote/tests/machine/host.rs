//! A device, what it must hold, and the processes beside it that read and write a bucket for it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uzram::{Choice, Device, Error, Fetchers, PAGE_SIZE};
use uzram_testkit::algorithm::with_self_trained;

use crate::clone::CloneOf;
use crate::cold::Cold;
use crate::random::{Fill, Random};
use crate::seeds::Wrong;
use crate::store::Moods;
use crate::subject::{self, PAGE, attach_by, new_image, open_image};

/// How long a page that is there may take to come, on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A device and what belongs to it.
pub(crate) struct Host {
    /// As people call it.
    pub(crate) name: String,
    _image: OwnedFd,
    path: PathBuf,
    streams: usize,
    device: Option<Arc<Device>>,
    fetchers: Option<Fetchers>,
    /// What it must hold.
    pub(crate) bytes: Vec<u8>,
    /// Where its remote pages are.
    pub(crate) clone: Option<CloneOf>,
    /// Where it writes back to.
    pub(crate) cold: Option<Cold>,
}

pub(crate) fn text(error: impl std::fmt::Display) -> Wrong {
    error.to_string()
}

/// A new device in an image of its own.
pub(crate) struct NewDevice {
    pub(crate) image: OwnedFd,
    pub(crate) path: PathBuf,
    pub(crate) streams: usize,
    pub(crate) device: Device,
}

impl NewDevice {
    pub(crate) fn make(random: &mut Random, pages: u64, choice: Choice, lazy: bool) -> NewDevice {
        let (image, path) = new_image();
        let streams = random.within(1, 3) as usize;
        let device = Device::builder(pages * PAGE)
            .lazy(lazy)
            .dedup(random.percent(20))
            .erase_on_free(random.percent(20))
            .streams(streams)
            .registry(with_self_trained())
            .choose(choice)
            .build_in(open_image(&path))
            .expect("a device");
        NewDevice {
            image,
            path,
            streams,
            device,
        }
    }
}

impl Host {
    /// Takes a device over that holds these bytes. It has no remote pages.
    pub(crate) fn new(name: String, new: NewDevice, bytes: Vec<u8>) -> Host {
        Host {
            name,
            _image: new.image,
            path: new.path,
            streams: new.streams,
            device: Some(Arc::new(new.device)),
            fetchers: None,
            bytes,
            clone: None,
            cold: None,
        }
    }

    /// The same of a clone.
    pub(crate) fn of_clone(
        name: String,
        new: NewDevice,
        bytes: Vec<u8>,
        of: CloneOf,
    ) -> Result<Host, Wrong> {
        let mut host = Host::new(name, new, bytes);
        host.clone = Some(of);
        host.start_fetchers()?;
        Ok(host)
    }

    pub(crate) fn device(&self) -> &Arc<Device> {
        self.device.as_ref().expect("it is attached")
    }

    pub(crate) fn pages(&self) -> u64 {
        self.bytes.len() as u64 / PAGE
    }

    fn start_fetchers(&mut self) -> Result<(), Wrong> {
        if let Some(of) = &mut self.clone {
            let device = self.device.as_ref().expect("it is attached");
            of.heal()?;
            of.give_to(device)?;
            self.fetchers = Some(Fetchers::start(device).map_err(text)?);
        }
        Ok(())
    }

    /// A request, on a page or some. What fails changes nothing.
    pub(crate) fn request(&mut self, random: &mut Random) -> Result<(), Wrong> {
        let device = self.device().clone();
        scribble(&device, &mut self.bytes, random).map(drop)
    }

    /// Gives the lease back once nothing is remote any more.
    pub(crate) fn note_whether_remote(&mut self) {
        if self.clone.is_some() && self.device().remote_pages() == 0 {
            self.clone = None;
        }
    }

    /// The server ends, and with it the process that speaks to the store for its backing.
    fn close(&mut self) -> Result<(), Wrong> {
        if let Some(cold) = &self.cold {
            cold.kill();
        }
        let device = self.device.take().expect("it is attached");
        subject::close(device, self.fetchers.take())?;
        self.cold.as_ref().map_or(Ok(()), Cold::wait_for_threads)
    }

    /// Another server takes the device over.
    pub(crate) fn reopen(&mut self) -> Result<(), Wrong> {
        let left = self.device().remote_pages();
        self.close()?;
        let opener = self.cold.as_mut().map(Cold::opener).transpose()?;
        let device = attach_by(&self.path, || {
            let builder = Device::builder(0).streams(self.streams);
            match &opener {
                Some(opener) => builder.disk_opener(opener.clone()),
                None => builder,
            }
        });
        let device = device.map_err(text)?;
        // A fetch that nobody waited for any more may have ended since.
        ensure!(
            device.remote_pages() <= left,
            "{left} remote pages, and {} once attached to",
            device.remote_pages()
        );
        ensure!(
            device.zram().backing_lost().is_none(),
            "the backing is lost"
        );
        self.device = Some(Arc::new(device));
        self.start_fetchers()
    }

    /// The device goes, and nobody needs what it has in a store. Returns whether something had to be left there.
    pub(crate) fn remove(mut self) -> Result<bool, Wrong> {
        let left = self.device().zram().retire_backing();
        self.close()?;
        Ok(left.is_some())
    }

    /// Everything goes well from now on.
    pub(crate) fn heal(&mut self) -> Result<(), Wrong> {
        if let Some(cold) = &mut self.cold {
            cold.heal()?;
        }
        if let Some(of) = &mut self.clone {
            of.heal()?;
        }
        // Its pages, by what the process has that is there now.
        self.clone
            .as_ref()
            .map_or(Ok(()), |of| of.give_to(self.device()))
    }

    /// What becomes of the store from now on, as its devices see it.
    pub(crate) fn unheal(&mut self, random: &mut Random) -> Result<(), Wrong> {
        if let Some(cold) = &self.cold {
            cold.set(Moods::random(random));
        }
        let device = self.device.as_ref().expect("it is attached");
        match &mut self.clone {
            Some(of) => of.unheal(device, Moods::random(random)),
            None => Ok(()),
        }
    }

    /// Compares every byte. What does not come although everything goes well is lost.
    pub(crate) fn check_all(&mut self) -> Result<(), Wrong> {
        self.heal()?;
        let until = Instant::now() + PATIENCE;
        for (page, expected) in (0..).zip(self.bytes.chunks(PAGE_SIZE)) {
            let mut found = [0xEE; PAGE_SIZE];
            loop {
                match self.device().read_at(&mut found, page * PAGE) {
                    Ok(()) => break,
                    // What was asked before may fail now.
                    Err(error) if may_fail(&error) && Instant::now() < until => {}
                    Err(error) => return Err(format!("{}: page {page}: {error}", self.name)),
                }
            }
            ensure!(
                found == expected,
                "{}: page {page} is not what was written",
                self.name
            );
        }
        Ok(())
    }
}

/// Whether a request may fail so, where a store is in a mood.
fn may_fail(error: &Error) -> bool {
    matches!(error, Error::Remote { .. } | Error::BackingRead { .. })
}

/// A request to a device, and to what it must hold. Whether it was done.
pub(crate) fn scribble(
    device: &Device,
    bytes: &mut [u8],
    random: &mut Random,
) -> Result<bool, Wrong> {
    let pages = bytes.len() as u64 / PAGE;
    let page = random.below(pages);
    let kind = random.below(20);
    let count = match kind {
        0..9 => random.within(1, 12).min(pages - page),
        _ => 1,
    };
    let whole = (page * PAGE) as usize..((page + count) * PAGE) as usize;
    let result = match kind {
        0..8 => {
            let new = Fill::random(random).bytes(whole.len());
            let written = device.write_at(&new, page * PAGE);
            // Nothing of it is needed.
            if let Err(error) = &written
                && may_fail(error)
            {
                return Err(format!("whole pages from {page} on: {error}"));
            }
            if written.is_ok() {
                bytes[whole].copy_from_slice(&new);
            }
            written
        }
        8 => {
            let discarded = device.discard(page * PAGE, count * PAGE);
            if discarded.is_ok() {
                bytes[whole].fill(0);
            }
            discarded
        }
        9..14 => {
            let at = random.below(PAGE - 1) as usize;
            let len = random.within(1, PAGE - at as u64) as usize;
            let new = Fill::random(random).bytes(len);
            let written = device.write_at(&new, page * PAGE + at as u64);
            if written.is_ok() {
                bytes[whole.start + at..][..len].copy_from_slice(&new);
            }
            written
        }
        _ => {
            let mut found = [0xEE; PAGE_SIZE];
            let read = device.read_at(&mut found, page * PAGE);
            ensure!(
                read.is_err() || found == bytes[whole],
                "page {page} is not what was written"
            );
            read
        }
    };
    match result {
        Ok(()) => Ok(true),
        Err(error) if may_fail(&error) => Ok(false),
        Err(error) => Err(format!("page {page}: {error}")),
    }
}
