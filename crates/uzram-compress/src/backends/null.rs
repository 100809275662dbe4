//! `null`: stores its input. The benchmark floor (the cost of everything but the codec), and the shortest example of a
//! backend.

use std::sync::Arc;

use crate::{Algorithm, Decompress, Error, KnownAnswer, Prepared, Settings, Tfm};

pub(crate) struct Backend;
struct Null;

impl Algorithm for Backend {
    about! {
        name: "null",
        driver_name: "null-copy",
        priority: 0,
        summary: "no compression: stores every page as it is",
        known_answers: &[KnownAnswer {
            plain: b"uzram",
            compressed: b"uzram",
        }],
    }
    fn prepare(&self, _settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        Ok(Arc::new(Null))
    }
}

impl Prepared for Null {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        Ok(Box::new(Null))
    }
    fn stateless(&self) -> Option<&dyn Decompress> {
        Some(self)
    }
}

impl Decompress for Null {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let got = dst.len();
        dst.get_mut(..src.len())
            .ok_or(Error::OutputTooSmall { got })?
            .copy_from_slice(src);
        Ok(src.len())
    }
}

impl Tfm for Null {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        Decompress::decompress(self, src, dst)
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        Decompress::decompress(self, src, dst)
    }
}
