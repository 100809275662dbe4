//! Writes what a device holds at one moment: [`Cut`]s and [`Basis`], in the words of [`SnapshotWriter`].

use std::io::Write;

use uzram::{Basis, Cut, CutCodec, CutFrame, CutPage, SnapshotId};

use crate::{CodecSource, DictionarySource, Digest, Error, FRAME_PAGES, Page, SnapshotWriter};

/// By what a device knows a snapshot that changes are tracked since: the beginning of its name.
pub fn id_of(name: Digest) -> SnapshotId {
    name.0.first_chunk().copied().unwrap_or_default()
}

impl<'a> From<&'a CutCodec> for CodecSource<'a> {
    fn from(codec: &'a CutCodec) -> CodecSource<'a> {
        CodecSource {
            number: codec.index,
            algorithm: &codec.algorithm,
            driver: &codec.driver,
            params: &codec.params,
            dictionary: codec.dictionary.as_deref().map(DictionarySource::Bytes),
        }
    }
}

impl<'a> From<CutPage<'a>> for Page<'a> {
    fn from(page: CutPage<'a>) -> Page<'a> {
        match page {
            CutPage::Zero => Page::Zero,
            CutPage::Same(word) => Page::Same(word),
            CutPage::Raw(bytes) => Page::Raw(bytes),
            CutPage::Object { codec, bytes } => Page::Object { codec, bytes },
            CutPage::Unchanged => Page::Unchanged,
        }
    }
}

impl<W: Write> SnapshotWriter<W> {
    /// Writes all frames of a cut: those that hold something or, [since](SnapshotWriter::since) a parent, those that changed.
    ///
    /// ```
    /// use uzram::{CutOptions, Device};
    /// use uzram_snapshot::{CodecSource, DiskSource, Snapshot, SnapshotWriter};
    ///
    /// let device = Device::builder(1 << 20).build()?;
    /// device.write_at(&[7; 4096], 8192)?;
    /// let mut cut = device.cut(&CutOptions::default())?;
    /// let listed = cut.codecs().to_vec();
    /// let codecs: Vec<CodecSource<'_>> = listed.iter().map(CodecSource::from).collect();
    /// let disk = DiskSource {
    ///     pages: cut.page_count(),
    ///     taken_at_seconds: 0,
    ///     is_basis: false,
    ///     codecs: &codecs,
    ///     notes: b"",
    /// };
    /// let mut writer = SnapshotWriter::new(Vec::new(), &disk)?;
    /// writer.write_cut::<Box<dyn std::error::Error>>(&mut cut)?;
    /// let (file, _) = writer.finish()?;
    /// assert_eq!(Snapshot::open(file)?.totals().same_pages, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write_cut<E>(&mut self, cut: &mut Cut<'_>) -> Result<(), E>
    where
        E: From<Error> + From<uzram::Error>,
    {
        if self.head().parent.is_none() {
            while let Some(frame) = cut.next_frame()? {
                self.write_frame(&frame)?;
            }
            return Ok(());
        }
        while let Some(frame) =
            cut.next_changed_frame(|frame, changed| self.needs(frame, changed).map_err(E::from))?
        {
            self.write_frame(&frame)?;
        }
        Ok(())
    }

    /// Writes all frames of a basis.
    pub fn write_basis<E>(&mut self, basis: &mut Basis<'_>) -> Result<(), E>
    where
        E: From<Error> + From<uzram::Error>,
    {
        while let Some(frame) = basis.next_frame()? {
            self.write_frame(&frame)?;
        }
        Ok(())
    }

    fn write_frame(&mut self, frame: &CutFrame<'_>) -> Result<(), Error> {
        let mut pages = [Page::Zero; FRAME_PAGES];
        let found = frame.pages();
        let count = found.len();
        for (page, found) in pages.iter_mut().zip(found) {
            *page = found.into();
        }
        self.frame(frame.number(), &pages[..count])
    }
}
