//! `lz4` by lz4_flex: pure Rust, the driver for builds without a C compiler. It uses the safe decoder: the unchecked one
//! trades memory safety on damaged input for speed.

use std::sync::Arc;

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into};

use crate::{Algorithm, Decompress, Error, Prepared, Settings, Tfm};

pub(crate) struct Backend;
struct Flex {
    block_size: usize,
}
struct FlexTfm {
    table: CompressTable,
}

impl Algorithm for Backend {
    about! {
        name: "lz4",
        driver_name: "lz4-flex",
        priority: 100,
        summary: "pure Rust lz4; lz4_flex",
        known_answers: super::LZ4_KNOWN,
    }
    fn prepare(&self, settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        Ok(Arc::new(Flex {
            block_size: settings.block_size(),
        }))
    }
}

impl Prepared for Flex {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        let small = self.block_size < usize::from(u16::MAX);
        let table = if small {
            CompressTable::small()
        } else {
            CompressTable::large()
        };
        Ok(Box::new(FlexTfm { table }))
    }
    fn stateless(&self) -> Option<&dyn Decompress> {
        Some(self)
    }
}

fn decompress(src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
    decompress_into(src, dst).map_err(|_| Error::Corrupt { algorithm: "lz4" })
}

impl Decompress for Flex {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        decompress(src, dst)
    }
}

impl Tfm for FlexTfm {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        compress_into_with_table(src, dst, &mut self.table)
            .map_err(|_| Error::OutputTooSmall { got: dst.len() })
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        decompress(src, dst)
    }
}
