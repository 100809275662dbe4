//! Fills a device of the `uzram` library with a snapshot's pages, and writes what one holds. With the feature `device`.
//!
//! It is here, and not in `uzram`, so that a device does not need the format; and not in the programs, so that who embeds a
//! device can save and restore one, too. A snapshot of a device is written by [`SnapshotWriter::write_cut`].
//!
//! Objects go to the device as they are. What is left to the caller is which codec the device
//! compresses with: [`choice`] makes one of a snapshot's codecs that [`uzram::Builder`] takes.
//!
//! A device can also be a *clone*, whose pages are fetched when they are needed: [`RemotePages`].
//!
//! **Memory bound**: the reader's or the writer's, and the device's.
//!
//! [`SnapshotWriter::write_cut`]: crate::SnapshotWriter::write_cut

mod cut;

use std::io::{self, Read};

use uzram::compress::{AlgorithmSpec, Registry, parse_params};
use uzram::{Choice, Device, Install, RemoteError, RemoteSource, StoredPage};

use crate::format::{Kind, MAX_CODECS};
use crate::{
    DictionaryName, Error, FRAME_PAGES, Page, RemoteSnapshot, Snapshot, SnapshotCodec,
    SnapshotReader,
};

pub use cut::id_of;

/// A snapshot's codec as a device takes it: by its driver or, if these algorithms lack that, by another one of the algorithm.
///
/// [`Error::Algorithm`] where there is none.
pub fn choice(
    codec: &SnapshotCodec,
    dictionary: Option<&[u8]>,
    algorithms: &Registry,
) -> Result<Choice, Error> {
    let refused = |source: uzram::Error| Error::Algorithm {
        algorithm: codec.algorithm.clone(),
        number: codec.number,
        source: Box::new(source),
    };
    // A driver of another algorithm would read something else.
    let own = algorithms.find(&codec.driver).ok();
    let own = own.filter(|found| found.name() == codec.algorithm);
    let found = match own {
        Some(found) => Ok(found),
        None => algorithms.find(&codec.algorithm),
    };
    let found = found.map_err(|error| refused(error.into()))?;
    let params = parse_params(&codec.params).map_err(|error| refused(error.into()))?;
    let mut spec = AlgorithmSpec::new(found.driver_name());
    spec.params = params;
    let choice = Choice::from(spec);
    Ok(match dictionary {
        Some(bytes) => choice.dictionary(bytes),
        None => choice,
    })
}

/// Fills a device with the pages of a snapshot, or of several, of which each is the parent of the next.
///
/// ```
/// # use uzram_snapshot::{CodecSource, DiskSource, Page, SnapshotReader, SnapshotWriter};
/// # let disk = DiskSource { pages: 64, taken_at_seconds: 0, is_basis: false, codecs: &[], notes: b"" };
/// # let mut writer = SnapshotWriter::new(Vec::new(), &disk)?;
/// # writer.frame(0, &[Page::Same(7); 64])?;
/// # let file = writer.finish()?.0;
/// use uzram::{Device, compress::Registry};
/// use uzram_snapshot::device::Filler;
///
/// let reader = SnapshotReader::new(&file[..])?;
/// let mut device = Device::builder(reader.head().pages * 4096).build()?;
/// let mut filler = Filler::new(&mut device);
/// filler.add_codecs(reader.choices(&Registry::builtin())?)?;
/// reader.restore(|page, content| filler.page(page, content))?;
/// # drop(filler);
/// # let mut word = [0; 8];
/// # device.read_at(&mut word, 63 * 4096)?;
/// # assert_eq!(word, 7u64.to_ne_bytes());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Filler<'a> {
    install: Install<'a>,
    /// The device's index of each codec of the snapshot.
    codecs: [Option<u8>; MAX_CODECS],
}

impl<'a> Filler<'a> {
    /// Takes the device for itself.
    pub fn new(device: &'a mut Device) -> Filler<'a> {
        Filler {
            install: device.install(),
            codecs: [None; MAX_CODECS],
        }
    }

    /// Has codecs ready, each under its number in the snapshot.
    pub fn add_codecs(
        &mut self,
        codecs: impl IntoIterator<Item = (u8, Choice)>,
    ) -> Result<(), uzram::Error> {
        for (number, choice) in codecs {
            let index = self.install.codec(&choice)?;
            if let Some(slot) = self.codecs.get_mut(usize::from(number)) {
                *slot = Some(index);
            }
        }
        Ok(())
    }

    /// Stores a page. An error of the device is the source of the result's.
    pub fn page(&self, page: u64, content: Page<'_>) -> io::Result<()> {
        let stored = match content {
            Page::Object { codec, bytes } => {
                let index = self.codecs.get(usize::from(codec)).copied().flatten();
                let missing = || io::Error::other(format!("nobody told of codec {codec}"));
                let codec = index.ok_or_else(missing)?;
                StoredPage::Object { codec, bytes }
            }
            other => match stored(other) {
                Some(stored) => stored,
                None => return Ok(()),
            },
        };
        self.install.page(page, stored).map_err(io::Error::other)
    }

    /// Leaves these pages where the snapshot is: see [`RemotePages`].
    fn remote(&self, pages: std::ops::Range<u64>) -> Result<(), uzram::Error> {
        self.install.remote(pages)
    }
}

/// A page as a device takes it, its codec under the snapshot's number.
fn stored(page: Page<'_>) -> Option<StoredPage<'_>> {
    Some(match page {
        Page::Zero => StoredPage::Empty,
        Page::Same(word) => StoredPage::Same(word),
        Page::Raw(bytes) => StoredPage::Raw(bytes),
        Page::Object { codec, bytes } => StoredPage::Object { codec, bytes },
        Page::Unchanged => return None,
    })
}

/// A snapshot as the source of a clone's pages: each is fetched when it is needed, and checked by the hash that the index has
/// of it.
///
/// ```
/// # use uzram_snapshot::{DiskSource, Page, SnapshotWriter};
/// # let disk = DiskSource { pages: 64, taken_at_seconds: 0, is_basis: false, codecs: &[], notes: b"" };
/// # let mut writer = SnapshotWriter::new(Vec::new(), &disk)?;
/// # writer.frame(0, &[Page::Same(7); 64])?;
/// # let file = writer.finish()?.0;
/// use std::sync::Arc;
/// use uzram::{Device, Fetchers, RemoteOptions, compress::Registry};
/// use uzram_snapshot::{RemoteSnapshot, Snapshot, device::RemotePages};
///
/// let snapshot = Snapshot::open(file)?;
/// let name = snapshot.name();
/// let snapshot = RemoteSnapshot::open(Arc::new(snapshot), name)?;
/// let mut device = Device::builder(snapshot.head().pages * 4096).lazy(true).build()?;
/// let pages = RemotePages::new(snapshot, &Registry::builtin(), "a file".into())?;
/// pages.clone_to(&mut device)?;
/// device.set_source(Arc::new(pages), RemoteOptions::default());
/// let device = Arc::new(device);
/// let _fetchers = Fetchers::start(&device)?;
/// let mut word = [0; 8];
/// device.read_at(&mut word, 63 * 4096)?;
/// assert_eq!(word, 7u64.to_ne_bytes());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RemotePages {
    snapshot: RemoteSnapshot,
    choices: Vec<(u8, Choice)>,
    name: String,
}

impl RemotePages {
    /// Finds the codecs, and fetches their dictionaries. `name` is for messages.
    ///
    /// [`Error::Algorithm`] where these algorithms lack one.
    pub fn new(
        snapshot: RemoteSnapshot,
        algorithms: &Registry,
        name: String,
    ) -> Result<RemotePages, Error> {
        let one = |codec: &SnapshotCodec| {
            let dictionary = snapshot.dictionary(codec.number)?;
            let choice = choice(codec, dictionary.as_deref(), algorithms)?;
            Ok((codec.number, choice))
        };
        let codecs = snapshot.head().codecs.iter();
        Ok(RemotePages {
            choices: codecs.map(one).collect::<Result<_, Error>>()?,
            snapshot,
            name,
        })
    }

    /// The snapshot.
    pub fn snapshot(&self) -> &RemoteSnapshot {
        &self.snapshot
    }

    /// Makes a new device a clone, of at least the snapshot's size: all its pages that may hold anything are remote. Fetches
    /// nothing.
    pub fn clone_to(&self, device: &mut Device) -> Result<(), uzram::Error> {
        let mut filler = Filler::new(device);
        filler.add_codecs(self.choices.iter().cloned())?;
        for frames in self.snapshot.frame_ranges() {
            let page = |frame: u32| u64::from(frame) * FRAME_PAGES as u64;
            let end = page(frames.end).min(self.snapshot.head().pages);
            filler.remote(page(frames.start)..end)?;
        }
        Ok(())
    }
}

impl RemoteSource for RemotePages {
    fn fetch(
        &self,
        frames: &[u32],
        page: &mut dyn FnMut(u64, StoredPage<'_>),
    ) -> Result<(), RemoteError> {
        let fetched = self.snapshot.frames(frames);
        let fetched = fetched.map_err(|error| RemoteError {
            // A store may be away, or be asked before it has everything. A broken seal stays broken.
            passes: match &error {
                Error::Io { source, .. } => source.kind() != io::ErrorKind::InvalidData,
                error => matches!(error, Error::Missing { .. }),
            },
            message: format!("{}: {error}", self.name),
        })?;
        for contents in &fetched {
            for (number, content) in (contents.first_page()..).zip(contents.pages()) {
                if let Some(stored) = stored(content) {
                    page(number, stored);
                }
            }
        }
        Ok(())
    }

    fn codec(&self, number: u8) -> Result<Choice, RemoteError> {
        let mut choices = self.choices.iter();
        let found = choices.find(|(other, _)| *other == number);
        let found = found.map(|(_, choice)| choice.clone());
        found.ok_or_else(|| RemoteError {
            message: format!("{}: it lists no codec {number}", self.name),
            passes: false,
        })
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl<R: Read> SnapshotReader<R> {
    /// The codecs by number, as a device takes them.
    ///
    /// [`Error::Algorithm`] where these algorithms lack one, [`Error::Missing`] where a dictionary is in the parent's file.
    pub fn choices(&self, algorithms: &Registry) -> Result<Vec<(u8, Choice)>, Error> {
        let codecs = self.head().codecs.iter();
        codecs
            .map(|codec| Ok((codec.number, self.choice(codec, algorithms)?)))
            .collect()
    }

    /// The same of one codec.
    pub fn choice(&self, codec: &SnapshotCodec, algorithms: &Registry) -> Result<Choice, Error> {
        let dictionary = self.dictionary(codec.number);
        if let (Some(DictionaryName { name, .. }), None) = (codec.dictionary, dictionary) {
            let kind = Kind::Dictionary;
            return Err(Error::Missing { kind, name });
        }
        choice(codec, dictionary, algorithms)
    }
}

impl Snapshot {
    /// The codecs by number, as a device takes them. Their dictionaries are in this file or a parent's.
    ///
    /// [`Error::Algorithm`] where these algorithms lack one; and as [`Snapshot::dictionary`].
    pub fn choices(&self, algorithms: &Registry) -> Result<Vec<(u8, Choice)>, Error> {
        let one = |codec: &SnapshotCodec| {
            let dictionary = self.dictionary(codec.number)?;
            Ok((
                codec.number,
                choice(codec, dictionary.as_deref(), algorithms)?,
            ))
        };
        self.head().codecs.iter().map(one).collect()
    }

    /// Fills a new device, whichever files the pages are in. Its size must be that of the snapshot or larger.
    pub fn restore_to(&mut self, device: &mut Device, algorithms: &Registry) -> Result<(), Error> {
        let choices = self.choices(algorithms)?;
        let mut filler = Filler::new(device);
        let added = filler.add_codecs(choices);
        added.map_err(|source| Error::Target {
            page: 0,
            source: io::Error::other(source),
        })?;
        self.restore(|page, content| filler.page(page, content))
    }
}
