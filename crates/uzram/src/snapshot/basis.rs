//! A basis: the contents of a device that is written meanwhile, of no one moment, and then the moment.
//!
//! What is copied under a cut is kept from writers until the walk has passed it, which takes memory for as long as all of the
//! device takes to be written. A basis takes most of that time, and keeps nothing: [`Basis::cut`] has to copy only what was
//! written while it went on.

use super::walk::Cut;
use super::{CutCodec, CutFrame, CutOptions, CutWatch};
use crate::Error;

/// What a device holds while it changes: see [`Device::basis`](crate::Device::basis). Dropped, it ends.
#[derive(Debug)]
pub struct Basis<'d>(pub(super) Cut<'d>);

impl<'d> Basis<'d> {
    /// Pages of the device.
    pub fn page_count(&self) -> u64 {
        self.0.page_count()
    }

    /// The codecs that pages may name, by ascending index.
    pub fn codecs(&self) -> &[CutCodec] {
        self.0.codecs()
    }

    /// Tells whether it can still be finished, as of a cut.
    pub fn watch(&self) -> CutWatch {
        self.0.watch()
    }

    /// The next frame that is not all zeros; `None` behind the last. A page that was written since the basis began is zeros.
    ///
    /// [`Error::BackingRead`] where a page on the backing cannot be read.
    pub fn next_frame(&mut self) -> Result<Option<CutFrame<'_>>, Error> {
        self.0.next_frame()
    }

    /// Cuts. [`Cut::next_changed_frame`] yields what was written since the basis began; all else is in its frames, if it was
    /// walked through to its end.
    ///
    /// As [`Device::cut`](crate::Device::cut); [`Error::SnapshotGivenUp`] where the device was resized meanwhile, and
    /// [`Error::Invalid`] with [`CutOptions::since`].
    pub fn cut(mut self, options: &CutOptions) -> Result<Cut<'d>, Error> {
        self.0.cut_after_this(options)
    }
}
