//! What is put to the test: a device in a memfd, with everything about it chosen by a seed, and its backing, a real file
//! behind a storage that fails as it is told.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SeekFrom};
use uzram::{
    BackingOptions, Builder, CompactReport, Device, Error, Fetchers, PAGE_SIZE, PromoteReport,
    RecompressReport, TrainReport, Training, WritebackReport,
};
use uzram_backing::{FileDisk, FileOptions};
use uzram_testkit::algorithm::with_self_trained;
use uzram_testkit::disk::FaultyDisk;

use crate::op::{Memory, choice};
use crate::random::{Random, version_of};
use crate::seeds::Wrong;

pub(crate) const PAGE: u64 = PAGE_SIZE as u64;
/// Bytes of a store's segment.
const SEGMENT: u64 = 256 << 10;

/// How the device is made.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// Pages that requests are made to; they may go beyond, up to [`Setup::window`].
    pub(crate) pages: u64,
    pub(crate) size_pages: u64,
    pub(crate) streams: usize,
    pub(crate) algorithm: u64,
    pub(crate) secondaries: [Option<u64>; 3],
    /// Segments of the backing, if there is one from the start.
    pub(crate) segments: Option<u64>,
    pub(crate) limit_bytes: u64,
    pub(crate) erase: bool,
}

impl Setup {
    pub(crate) fn random(random: &mut Random) -> Setup {
        let most = if random.percent(30) { 2000 } else { 300 };
        let pages = random.within(16, most);
        Setup {
            pages,
            // From 256 MiB on the pool has more than one shard.
            size_pages: if random.percent(30) { 150_000 } else { pages },
            streams: random.within(1, 3) as usize,
            algorithm: random.below(64),
            secondaries: [60, 50, 20].map(|p| random.percent(p).then(|| random.below(64))),
            segments: random.percent(70).then(|| random.within(4, 40)),
            limit_bytes: if random.percent(20) {
                random.within(20, 400) * PAGE
            } else {
                0
            },
            erase: random.percent(30),
        }
    }

    /// Pages that a request may touch.
    pub(crate) fn window(&self) -> u64 {
        self.pages * 2 + 64
    }
}

/// The device and what belongs to it.
pub(crate) struct Subject {
    device: Option<Arc<Device>>,
    image: OwnedFd,
    path: PathBuf,
    streams: usize,
    directory: tempfile::TempDir,
    /// The storage that the device has now, if it was attached by this process.
    faults: Mutex<Option<FaultyDisk>>,
}

/// What an operation said it has done.
#[derive(Debug)]
pub(crate) enum Report {
    Nothing,
    Recompressed(RecompressReport),
    Marked(u64),
    WrittenBack(WritebackReport),
    Promoted(PromoteReport),
    Emptied(usize),
    Compacted(CompactReport),
    Trained(TrainReport),
}

/// Stops a job after that many slices.
fn pace(slices: u32) -> impl FnMut(u64) -> ControlFlow<()> {
    let mut left = slices;
    move |_| {
        left -= 1;
        if left == 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// Tries for a while what another test's child may be in the way of: between fork and exec it has all our files.
fn patiently<T>(mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        match attempt() {
            Err(error)
                if Instant::now() < until
                    && (error == Error::InUse || error.to_string().contains("another process")) =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

impl Subject {
    pub(crate) fn new(setup: &Setup) -> Result<Subject, Error> {
        let (image, path) = new_image();
        let mut subject = Subject {
            device: None,
            image,
            path,
            streams: setup.streams,
            directory: tempfile::tempdir().expect("a directory"),
            faults: Mutex::default(),
        };
        let mut builder = Device::builder(setup.size_pages * PAGE)
            .erase_on_free(setup.erase)
            .max_size_bytes(setup.size_pages.max(setup.window()) * PAGE)
            .streams(setup.streams)
            .registry(with_self_trained())
            .choose(choice(setup.algorithm))
            .mem_limit_bytes(setup.limit_bytes);
        for (at, number) in setup.secondaries.iter().enumerate() {
            if let Some(number) = number {
                builder = builder.secondary(at + 1, choice(*number));
            }
        }
        subject.device = Some(Arc::new(builder.build_in(open_image(&subject.path))?));
        if let Some(segments) = setup.segments {
            subject.attach_backing(segments)?;
        }
        Ok(subject)
    }

    /// A path by which any process of this user finds the image, for as long as this process lives.
    pub(crate) fn image_path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.path().into()
    }

    pub(crate) fn device(&self) -> &Arc<Device> {
        self.device.as_ref().expect("it is attached")
    }

    /// Memory of the image, by the system's account.
    pub(crate) fn resident_bytes(&self) -> u64 {
        rustix::fs::fstat(&self.image).map_or(0, |stat| stat.st_blocks as u64 * 512)
    }

    /// Whether every page that lies uncompressed in the image is what the device holds: erased ones are not there. Only
    /// while nobody makes requests.
    pub(crate) fn check_erased(&self) -> Result<(), String> {
        let mut at = 0;
        while let Ok(first) = rustix::fs::seek(&self.image, SeekFrom::Data(at)) {
            let end =
                rustix::fs::seek(&self.image, SeekFrom::Hole(first)).map_err(|e| e.to_string())?;
            for at in (first..end).step_by(PAGE_SIZE) {
                let mut bytes = [0; PAGE_SIZE];
                rustix::io::pread(&self.image, &mut bytes, at).map_err(|e| e.to_string())?;
                let stamp = bytes
                    .first_chunk()
                    .map_or(0, |word| u64::from_ne_bytes(*word));
                let (page, version) = (stamp >> 32, stamp as u32);
                if version_of(page, &bytes) != Some(version) || version == 0 {
                    continue;
                }
                let mut now = [0; PAGE_SIZE];
                let read = self.device().read_at(&mut now, page * PAGE);
                if read.is_err() || now != bytes {
                    return Err(format!(
                        "version {version} of page {page} is still in memory"
                    ));
                }
            }
            at = end;
        }
        Ok(())
    }

    /// The faults of the backing, if it can have any now.
    pub(crate) fn faults(&self) -> Option<FaultyDisk> {
        self.faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn attach_backing(&self, segments: u64) -> Result<(), Error> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        *faults = Some(attach_backing(
            self.device(),
            &self.directory.path().join("store"),
            segments,
        )?);
        Ok(())
    }

    /// Gives the device up, if nobody else has it.
    pub(crate) fn close(&mut self) {
        if let Some(faults) = self.faults() {
            faults.clear();
            faults.release();
        }
        let device = self.device.take().and_then(Arc::into_inner);
        drop(device.expect("nobody else has the device"));
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Attaches to the image that [`Subject::close`], or a dead process, left. Its backing does not fail from now on.
    pub(crate) fn open(&mut self) -> Result<(), Error> {
        self.device = Some(Arc::new(attach(&self.path, self.streams)?));
        Ok(())
    }

    pub(crate) fn run(&self, memory: &Memory) -> Result<Report, Error> {
        match memory {
            Memory::Attach { segments } => self.attach_backing(*segments).map(|()| Report::Nothing),
            other => run(self.device(), other),
        }
    }
}

/// Attaches to an image.
pub(crate) fn attach(image: &Path, streams: usize) -> Result<Device, Error> {
    attach_by(image, || Device::builder(0).streams(streams))
}

/// The same, with more that a builder is told.
pub(crate) fn attach_by(
    image: &Path,
    mut builder: impl FnMut() -> Builder,
) -> Result<Device, Error> {
    patiently(|| {
        let builder = builder().registry(with_self_trained());
        builder.attach(open_image(image))
    })
}

/// Another open file description of an image, as another process would have.
pub(crate) fn open_image(image: &Path) -> OwnedFd {
    let file = std::fs::File::options().read(true).write(true).open(image);
    file.expect("the image").into()
}

/// An image, and a path by which any process of this user finds it, for as long as this process lives.
pub(crate) fn new_image() -> (OwnedFd, PathBuf) {
    let image = rustix::fs::memfd_create("uzram-machine", MemfdFlags::CLOEXEC);
    let image = image.expect("a memfd");
    let fd = image.as_fd().as_raw_fd();
    let path = format!("/proc/{}/fd/{fd}", std::process::id()).into();
    (image, path)
}

/// Gives a device up, once nobody else has it: threads that fetched.
pub(crate) fn close(device: Arc<Device>, fetchers: Option<Fetchers>) -> Result<(), Wrong> {
    drop(fetchers);
    let mut held = Some(device);
    let until = Instant::now() + Duration::from_secs(20);
    while let Some(device) = held.take() {
        held = Arc::try_unwrap(device).err();
        ensure!(Instant::now() < until, "a thread that fetches does not end");
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Gives a device a backing that can fail.
pub(crate) fn attach_backing(
    device: &Device,
    path: &Path,
    segments: u64,
) -> Result<FaultyDisk, Error> {
    let file = FileDisk::open(path, FileOptions::default()).expect("the backing file");
    let storage = FaultyDisk::new(Arc::new(file));
    device.zram().attach_disk(
        path,
        Arc::new(storage.clone()),
        BackingOptions {
            size_bytes: Some(segments * SEGMENT),
            // Faults are those of what is encrypted.
            seal: segments % 2 == 1,
        },
    )?;
    Ok(storage)
}

/// Does all but attach a backing.
pub(crate) fn run(device: &Device, memory: &Memory) -> Result<Report, Error> {
    Ok(match memory {
        Memory::Recompress { what, slices } => {
            Report::Recompressed(device.zram().recompress(what, &mut pace(*slices))?)
        }
        Memory::MarkIdle(age) => Report::Marked(device.zram().mark_idle(*age)?),
        Memory::Dedup(on) => {
            device.set_dedup(*on)?;
            Report::Nothing
        }
        Memory::TrackAges(on) => {
            device.zram().track_ages(*on)?;
            Report::Nothing
        }
        Memory::Writeback { what, slices } => {
            Report::WrittenBack(device.zram().writeback(what, &mut pace(*slices))?)
        }
        Memory::Promote { pages, slices } => {
            Report::Promoted(device.zram().promote(pages.clone(), &mut pace(*slices))?)
        }
        Memory::Tidy(most) => Report::Emptied(device.zram().compact_backing(*most)?),
        Memory::Attach { .. } => Report::Nothing,
        Memory::Detach => Report::Promoted(device.zram().detach_backing()?),
        Memory::Compact(bytes) => Report::Compacted(device.jobs().compact(*bytes)),
        Memory::Train { priority } => {
            let training = Training {
                priority: *priority,
                dictionary_bytes: 2048,
                sample_pages: 64,
                rule: |_, _| Ok("always".into()),
                ..Training::default()
            };
            Report::Trained(device.jobs().train(&training)?)
        }
        Memory::SelfTraining(on) => {
            device.jobs().set_self_training(*on);
            Report::Nothing
        }
        Memory::SetAlgorithm(number) => {
            device.set_algorithm(&choice(*number))?;
            Report::Nothing
        }
        Memory::SetSecondary {
            priority,
            choice: number,
        } => {
            device.set_secondary(*priority, number.map(choice).as_ref())?;
            Report::Nothing
        }
        Memory::Limit(percent) => {
            let used = device.stats().mem_used_total_bytes;
            device.set_mem_limit_bytes(if *percent == 0 {
                0
            } else {
                (used * percent / 100).max(3 * PAGE)
            });
            Report::Nothing
        }
        Memory::TotalLimit(percent) => {
            let all = device.stats().all_memory_bytes();
            // What an empty device needs may be more than that: refused, and the former limit stays.
            match device.set_total_limit_bytes(all * percent / 100) {
                Ok(()) | Err(Error::Invalid { .. }) => {}
                Err(error) => return Err(error),
            }
            Report::Nothing
        }
        Memory::Erase(on) => {
            device.set_erase_on_free(*on);
            Report::Nothing
        }
        Memory::WritebackLimit(pages) => {
            device.zram().set_writeback_limit(*pages);
            Report::Nothing
        }
    })
}
