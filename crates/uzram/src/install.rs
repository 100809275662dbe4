//! Fills a new device with pages as another one had stored them: objects as they are, nothing is compressed anew.
//!
//! It takes the device for itself (`&mut`), so that no request, no job and no snapshot of it is on its way. Pages may come from
//! several threads, in any order, and one page several times: the last one counts.
//!
//! An object is taken as it is. One that its codec did not make is found when the page is read ([`Error::Corrupt`]).

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use uzram_pool::current_cpu;

use crate::codec::{CODECS, Changing, Choice, Codec};
use crate::device::Device;
use crate::table::SLOTS_PER_PAGE;
use crate::word::Content;
use crate::{Error, PAGE_SIZE};

/// What a page is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredPage<'a> {
    /// Nothing: it reads as zeros.
    Empty,
    /// This word, repeated.
    Same(u64),
    /// These 4096 bytes, not compressed.
    Raw(&'a [u8]),
    /// What a codec made of it.
    Object {
        /// The codec's index, of [`Install::codec`].
        codec: u8,
        /// 1 to 4095 bytes.
        bytes: &'a [u8],
    },
}

/// The right to fill a device. See [`Device::install`].
pub struct Install<'a> {
    device: &'a Device,
    /// Keeps the codecs that have no object yet.
    changing: Changing<'a>,
    /// A bit for each codec that pages may name.
    codecs: u16,
}

impl std::fmt::Debug for Install<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Install").finish_non_exhaustive()
    }
}

impl Device {
    /// Fills the device with stored pages, such as those of a snapshot.
    ///
    /// ```
    /// use uzram::{Choice, Device, StoredPage};
    /// let mut device = Device::builder(1 << 20).build()?;
    /// let mut install = device.install();
    /// let codec = install.codec(&Choice::new("lz4"))?;
    /// install.page(2, StoredPage::Object { codec, bytes: b"what lz4 made" })?;
    /// install.page(3, StoredPage::Same(7))?;
    /// drop(install);
    /// let mut word = [0; 8];
    /// device.read_at(&mut word, 3 * 4096)?;
    /// assert_eq!(word, 7u64.to_ne_bytes());
    /// # Ok::<(), uzram::Error>(())
    /// ```
    pub fn install(&mut self) -> Install<'_> {
        let device = &*self;
        Install {
            device,
            changing: device.codecs.change(),
            codecs: 0,
        }
    }
}

impl Install<'_> {
    /// Has a codec ready for the objects that it made, and returns its index. One that the device has already, such as its
    /// primary, is that one.
    ///
    /// [`Error::Compress`] where there is no such algorithm or it refuses parameters or dictionary, [`Error::CodecsFull`]
    /// where the device has 16 others.
    pub fn codec(&mut self, choice: &Choice) -> Result<u8, Error> {
        let codec = Codec::new(&self.device.registry, choice)?;
        let index = self.changing.admit_as_numbered(codec)?;
        self.codecs |= 1 << index;
        Ok(index)
    }

    /// Stores a page.
    ///
    /// [`Error::OutOfRange`] beyond the device's end, [`Error::Invalid`] for an object of an impossible length or of another
    /// codec than those of [`Install::codec`]; else as [`Device::write_at`]. The page is as it was then.
    pub fn page(&self, page: u64, stored: StoredPage<'_>) -> Result<(), Error> {
        let device = self.device;
        device.check_range(page.saturating_mul(PAGE_SIZE as u64), PAGE_SIZE as u64)?;
        let cpu = current_cpu();
        if stored == StoredPage::Empty && !device.table.is_touched(page) {
            return Ok(());
        }
        device.admit_slot(page)?;
        if let StoredPage::Object { codec, .. } = stored
            && !self.has(codec)
        {
            return Err(Error::Invalid {
                what: "an object of codec",
                given: codec.to_string(),
                accepted: "those that were announced".into(),
            });
        }
        let content = device.content_of(page, stored, cpu)?;
        let word = content.encode().unwrap_or_default();
        let old = device.table.replace(page, word);
        device.free(old);
        device.counters.shard(cpu).replaced(old, content);
        Ok(())
    }

    /// Leaves the empty ones of these pages where the device is cloned from, until they are needed: see
    /// [`Device::set_source`](crate::Device::set_source). Takes 8 bytes of memory for each.
    ///
    /// [`Error::NotLazy`] where the device was not built for that ([`crate::Builder::lazy`]), [`Error::OutOfRange`],
    /// [`Error::NoSpace`] where the limit is on all memory, and too little for the table.
    pub fn remote(&self, pages: Range<u64>) -> Result<(), Error> {
        let device = self.device;
        if !device.geometry.has_remote {
            return Err(Error::NotLazy);
        }
        let (page, count) = (PAGE_SIZE as u64, pages.end.saturating_sub(pages.start));
        device.check_range(pages.start.saturating_mul(page), count.saturating_mul(page))?;
        let mut at = pages.start;
        while at < pages.end {
            device.admit_slot(at)?;
            let end = pages.end.min((at / SLOTS_PER_PAGE + 1) * SLOTS_PER_PAGE);
            let made = device.table.make_remote(at, end);
            device.counters.became_remote(made);
            at = end;
        }
        device.is_lazy.store(true, Relaxed);
        Ok(())
    }

    fn has(&self, codec: u8) -> bool {
        usize::from(codec) < CODECS && self.codecs >> codec & 1 == 1
    }
}

impl Device {
    /// Stores what a page is to hold. The result's object is the caller's until it is published.
    pub(crate) fn content_of(
        &self,
        page: u64,
        stored: StoredPage<'_>,
        cpu: usize,
    ) -> Result<Content, Error> {
        Ok(match stored {
            StoredPage::Empty => Content::Empty,
            StoredPage::Same(word) if Content::Same(word).encode().is_some() => Content::Same(word),
            StoredPage::Same(word) => Content::SameObject {
                handle: self.store(page, &word.to_ne_bytes(), cpu)?,
            },
            StoredPage::Raw(bytes) if bytes.len() == PAGE_SIZE => {
                self.place_object(page, 0, bytes, cpu)?
            }
            StoredPage::Object { codec, bytes } if (1..PAGE_SIZE).contains(&bytes.len()) => {
                self.place_object(page, codec, bytes, cpu)?
            }
            StoredPage::Raw(bytes) => return Err(refused("a page as it is", bytes)),
            StoredPage::Object { bytes, .. } => return Err(refused("an object", bytes)),
        })
    }
}

fn refused(what: &'static str, bytes: &[u8]) -> Error {
    Error::Invalid {
        what,
        given: format!("of {} bytes", bytes.len()),
        accepted: "4096 as it is, 1 to 4095 compressed".into(),
    }
}

impl Drop for Install<'_> {
    /// Drops codecs of which no page came, unless remote pages may be in them.
    fn drop(&mut self) {
        if self.device.is_lazy.load(Relaxed) {
            self.device.codecs.keep(self.codecs);
        }
        self.changing.retire_unused(&self.device.counters);
    }
}
