//! Hydration: brings all that is still remote, beside requests.

use std::ops::AddAssign;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::fetch::FetchError;
use super::{frame_of, unreachable};
use crate::Error;
use crate::apis::JobsApi;
use crate::recompress::Pace;
use crate::snapshot::FRAME_PAGES;
use crate::word::Content;

/// Frames that are fetched together: 2 MiB of the disk.
const TOGETHER: usize = 8;
/// How long at most it stands back for requests before it looks whether it is to go on.
const PATIENCE: Duration = Duration::from_millis(100);
/// The pause after the source did not answer.
const PAUSE: Duration = Duration::from_millis(200);

/// What a hydration did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct HydrateReport {
    /// Pages that are here now, those that requests had fetched meanwhile among them.
    pub pages: u64,
    /// Pages that are still remote.
    pub left: u64,
}

impl AddAssign for HydrateReport {
    fn add_assign(&mut self, other: HydrateReport) {
        self.pages += other.pages;
        self.left = other.left;
    }
}

impl JobsApi<'_> {
    /// Brings all that is still remote. Stands back while a request waits for a fetch; `pace` is told of pages after each 2 MiB
    /// of the disk, and may end it.
    ///
    /// [`Error::Remote`] where the source does not give a frame within the time that requests wait for it, and as for writes.
    /// What came stays.
    pub fn hydrate(self, pace: Pace<'_>) -> Result<HydrateReport, Error> {
        let device = self.0;
        let before = device.remote_pages();
        let report = |device: &crate::Device| HydrateReport {
            pages: before.saturating_sub(device.remote_pages()),
            left: device.remote_pages(),
        };
        let mut next = device.remote.none_below.load(Relaxed);
        let mut all_came = true;
        loop {
            let frames = self.remote_frames(next);
            let first = frames
                .first()
                .map(|frame| u64::from(*frame) * FRAME_PAGES as u64);
            if all_came {
                // No page becomes remote again.
                device
                    .remote
                    .none_below
                    .fetch_max(first.unwrap_or(next), Relaxed);
            }
            let Some(last) = frames.last() else { break };
            let end = (u64::from(*last) + 1) * FRAME_PAGES as u64;
            let was = device.remote_pages();
            if !device.remote.flights.stand_back(PATIENCE) {
                if pace(0).is_break() {
                    return Ok(report(device));
                }
                continue;
            }
            self.fetch_together(&frames, pace)?;
            let came = was.saturating_sub(device.remote_pages());
            all_came &= frames.iter().all(|frame| !device.has_remote(*frame));
            if pace(came).is_break() {
                return Ok(report(device));
            }
            next = end;
        }
        device.note_whether_remote();
        Ok(report(device))
    }

    /// Brings these frames, of 64 pages each, in their order and up to 2 MiB of the disk at once, as far as they are still remote:
    /// what a workload is known to need. As [`JobsApi::hydrate`]; several may go on at once, each with frames of its own.
    pub fn fetch_ahead(self, frames: &[u32], pace: Pace<'_>) -> Result<HydrateReport, Error> {
        let device = self.0;
        let mut pages = 0;
        let mut rest = frames;
        while let Some(first) = rest.first().copied() {
            let is_near =
                |frame: &u32| (first..first.saturating_add(TOGETHER as u32)).contains(frame);
            let count = rest
                .iter()
                .take(TOGETHER)
                .take_while(|frame| is_near(frame))
                .count();
            let (now, later) = rest.split_at(count);
            let was = device.remote_pages();
            if device.remote.flights.stand_back(PATIENCE) {
                self.fetch_together(now, pace)?;
                rest = later;
            }
            let came = was.saturating_sub(device.remote_pages());
            pages += came;
            if pace(came).is_break() || was == 0 {
                break;
            }
        }
        let left = device.remote_pages();
        Ok(HydrateReport { pages, left })
    }

    /// The next frames with a remote page, from a page on: up to 8 that lie within 2 MiB of the disk. For
    /// [`JobsApi::fetch_ahead`].
    pub fn remote_frames(self, from: u64) -> Vec<u32> {
        let mut frames: Vec<u32> = Vec::with_capacity(TOGETHER);
        let table = &self.0.table;
        for page in table.touched(from, u64::MAX) {
            let frame = frame_of(page);
            if frames.last() == Some(&frame) || table.peek(page) != Content::Remote {
                continue;
            }
            let is_near = |first: &u32| frame < first + TOGETHER as u32;
            if !frames.first().is_none_or(is_near) {
                break;
            }
            frames.push(frame);
        }
        frames
    }

    /// Fetches those of the frames that nobody else fetches, and waits for the others.
    fn fetch_together(self, frames: &[u32], pace: Pace<'_>) -> Result<(), Error> {
        let device = self.0;
        let timeout = device.remote_options().timeout;
        let deadline = Instant::now() + timeout;
        loop {
            let own = device.remote.flights.claim(frames);
            let fetched = match own.is_empty() {
                true => Ok(()),
                false => device.fetch_frames(&own),
            };
            let said = match &fetched {
                Ok(()) | Err(FetchError::Device(_)) => Ok(()),
                Err(FetchError::Source(error)) => Err(error.message.clone()),
            };
            device.remote.flights.release(&own, &said);
            match fetched {
                Err(FetchError::Device(error)) => return Err(error),
                Err(FetchError::Source(error)) => {
                    if Instant::now() >= deadline {
                        let first = own.first().copied().unwrap_or_default();
                        let page = u64::from(first) * FRAME_PAGES as u64;
                        return Err(unreachable(page, error.message));
                    }
                }
                Ok(()) => {
                    let none_left = !frames.iter().any(|frame| device.has_remote(*frame));
                    if none_left || own.len() == frames.len() || Instant::now() >= deadline {
                        return Ok(());
                    }
                    // Somebody else is at the others.
                }
            }
            if pace(0).is_break() {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
    }
}
