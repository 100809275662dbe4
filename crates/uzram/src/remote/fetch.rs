//! Fetches frames and stores their pages, where nobody has written meanwhile. The threads that do so for requests.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use uzram_pool::current_cpu;

use super::flight::Flight;
use super::{RemoteError, RemoteSource, unreachable};
use crate::Error;
use crate::codec::{Changing, Codec};
use crate::device::Device;
use crate::error::errno;
use crate::install::StoredPage;
use crate::snapshot::FRAME_PAGES;
use crate::word::Content;

/// The pause before a fetch that failed is tried again: the first one, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often damage is fetched: it may have come about on the way.
const DAMAGED_TRIES: u32 = 3;

/// Threads that fetch what requests wait for, until this is dropped. A call into the source that is under way then ends by
/// itself.
///
/// ```
/// use std::sync::Arc;
/// use uzram::{Choice, Device, Fetchers, RemoteError, RemoteOptions, RemoteSource, StoredPage};
///
/// /// Where each page repeats its own number.
/// struct Numbers;
///
/// impl RemoteSource for Numbers {
///     fn fetch(
///         &self,
///         frames: &[u32],
///         page: &mut dyn FnMut(u64, StoredPage<'_>),
///     ) -> Result<(), RemoteError> {
///         for frame in frames {
///             let first = u64::from(*frame) * 64;
///             (first..first + 64).for_each(|number| page(number, StoredPage::Same(number)));
///         }
///         Ok(())
///     }
///
///     fn codec(&self, number: u8) -> Result<Choice, RemoteError> {
///         let message = format!("no page has codec {number}");
///         Err(RemoteError { message, passes: false })
///     }
///
///     fn name(&self) -> String {
///         "numbers".into()
///     }
/// }
///
/// let mut device = Device::builder(1 << 30).lazy(true).build()?;
/// device.install().remote(0..4096)?;
/// device.set_source(Arc::new(Numbers), RemoteOptions::default());
/// let device = Arc::new(device);
/// let fetchers = Fetchers::start(&device)?;
/// let mut word = [0; 8];
/// device.read_at(&mut word, 4095 * 4096)?;
/// assert_eq!(u64::from_le_bytes(word), 4095);
/// # Ok::<(), uzram::Error>(())
/// ```
#[derive(Debug)]
pub struct Fetchers {
    device: Arc<Device>,
    stop: Arc<AtomicBool>,
}

impl Fetchers {
    /// Starts them.
    ///
    /// [`Error::Thread`] where the system starts no thread.
    pub fn start(device: &Arc<Device>) -> Result<Fetchers, Error> {
        let fetchers = Fetchers {
            device: device.clone(),
            stop: Arc::default(),
        };
        for number in 0..device.remote_options().threads.max(1) {
            let (device, stop) = (device.clone(), fetchers.stop.clone());
            let thread = std::thread::Builder::new().name(format!("fetch{number}"));
            let run = move || {
                while let Some((frame, flight)) = device.remote.flights.next(|| stop.load(Relaxed))
                {
                    device.fetch_for_requests(frame, &flight, &stop);
                }
            };
            thread.spawn(run).map_err(|error| Error::Thread {
                source: errno(&error),
            })?;
        }
        Ok(fetchers)
    }
}

impl Drop for Fetchers {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.device.remote.flights.wake();
    }
}

/// Why frames did not come.
#[derive(Debug)]
pub(super) enum FetchError {
    /// The source did not give them.
    Source(RemoteError),
    /// They came, and the device could not take one of their pages.
    Device(Error),
}

impl Device {
    /// Fetches a frame again and again, as long as a request waits for it and that may help.
    fn fetch_for_requests(&self, frame: u32, flight: &Flight, stop: &AtomicBool) {
        if let Some(source) = self.remote.source() {
            source.demanded(frame);
        }
        let (mut pause, mut damaged) = (FIRST_PAUSE, 0);
        let outcome = loop {
            let error = match self.fetch_frames(&[frame]) {
                Ok(()) => break Ok(()),
                Err(FetchError::Device(error)) => break Err(error),
                Err(FetchError::Source(error)) => error,
            };
            damaged += u32::from(!error.passes);
            if damaged >= DAMAGED_TRIES || stop.load(Relaxed) {
                let page = u64::from(frame) * FRAME_PAGES as u64;
                break Err(unreachable(page, error.message));
            }
            flight.failed(error.message);
            if self.remote.flights.give_up(frame, flight) {
                return;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        };
        self.remote.flights.end(frame, outcome);
    }

    /// Whether any page of a frame is remote.
    pub(super) fn has_remote(&self, frame: u32) -> bool {
        let first = u64::from(frame) * FRAME_PAGES as u64;
        let end = (first + FRAME_PAGES as u64).min(self.table.capacity());
        (first..end).any(|page| self.table.peek(page) == Content::Remote)
    }

    /// Fetches frames and stores those of their pages that are still remote.
    pub(super) fn fetch_frames(&self, frames: &[u32]) -> Result<(), FetchError> {
        // Who asked may have looked at the page before the last fetch of it ended.
        let frames = frames.iter().copied();
        let frames: Vec<u32> = frames.filter(|frame| self.has_remote(*frame)).collect();
        if frames.is_empty() {
            return Ok(());
        }
        let missing = || RemoteError {
            message: "nobody has said yet where it is".into(),
            passes: true,
        };
        let source = self.remote.source();
        let source = source.ok_or_else(missing).map_err(FetchError::Source)?;
        let mut failed = None;
        let fetched = source.fetch(&frames, &mut |page, stored| {
            if let Err(error) = self.arrived(&*source, page, stored) {
                failed.get_or_insert(error);
            }
        });
        let cpu = current_cpu();
        if let Err(error) = fetched {
            let shard = self.counters.shard(cpu);
            let pages = (frames.len() * FRAME_PAGES) as i64;
            shard.failed_fetches.fetch_add(pages, Relaxed);
            return Err(FetchError::Source(error));
        }
        self.note_whether_remote();
        match failed {
            Some(error) => Err(FetchError::Device(error)),
            None => Ok(()),
        }
    }

    /// Stores a page that came, if it is still remote.
    fn arrived(
        &self,
        source: &dyn RemoteSource,
        page: u64,
        stored: StoredPage<'_>,
    ) -> Result<(), Error> {
        if page >= self.table.capacity() || self.table.peek(page) != Content::Remote {
            return Ok(());
        }
        let cpu = current_cpu();
        let StoredPage::Object { codec, bytes } = stored else {
            let new = self.content_of(page, stored, cpu)?;
            self.publish_arrived(page, new, cpu);
            return Ok(());
        };
        // Keeps the codec until the page's word names it.
        let changing = self.codecs.change();
        let codec = self.index_of(source, codec, &changing, page)?;
        let new = self.content_of(page, StoredPage::Object { codec, bytes }, cpu)?;
        self.publish_arrived(page, new, cpu);
        Ok(())
    }

    /// The device's index of a codec of the source, which is admitted if need be.
    fn index_of(
        &self,
        source: &dyn RemoteSource,
        number: u8,
        changing: &Changing<'_>,
        page: u64,
    ) -> Result<u8, Error> {
        let mut known = self
            .remote
            .codecs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let slot = known.get_mut(usize::from(number));
        let slot = slot.ok_or_else(|| unreachable(page, format!("it names codec {number}")))?;
        if let Some((index, codec)) = slot
            && changing.has(*index, codec)
        {
            return Ok(*index);
        }
        let choice = source.codec(number);
        let choice = choice.map_err(|error| unreachable(page, error.message))?;
        let codec = Codec::new(&self.registry, &choice)?;
        changing.retire_unused(&self.counters);
        let index = changing.admit_as_numbered(codec)?;
        *slot = changing.codec(index).map(|codec| (index, codec));
        Ok(index)
    }

    /// Notes that nothing is remote any more, if so: requests do not ask again, and the source is let go of.
    pub(crate) fn note_whether_remote(&self) {
        // Of one that was handed over the flag has reads refused.
        if self.is_lazy.load(Relaxed) && self.counters.remote_pages() == 0 && !self.is_handed_over()
        {
            self.is_lazy.store(false, Relaxed);
            self.codecs.keep(0);
            let source = self.remote.set().source.take();
            // It may have something to do when it ends, which nobody is to wait for.
            drop(source);
        }
    }

    fn publish_arrived(&self, page: u64, new: Content, cpu: usize) {
        let slot = self.table.lock(page);
        if slot.content() != Content::Remote {
            // Somebody has written or discarded it: that is newer.
            drop(slot);
            self.free(new);
            return;
        }
        let old = slot.publish(new.encode().unwrap_or_default());
        let shard = self.counters.shard(cpu);
        shard.moved(old, new);
        shard.fetched_pages.fetch_add(1, Relaxed);
    }
}
