//! The contestants of `bench rivals`. Each holds the same pages, serves requests of one page or more, and reports its
//! memory.

use std::sync::Arc;

use anyhow::{Context, Result};
use uzram::{Choice, Device};

use crate::corpus::PAGE;
use crate::policy;
use crate::rival::Raw;
use crate::zram::Zram;

/// Page-aligned pages, as direct I/O needs them.
pub(crate) struct Pages {
    bytes: Vec<u8>,
    from: usize,
    len: usize,
}

impl Pages {
    /// `pages` pages of zeros.
    pub(crate) fn new(pages: usize) -> Pages {
        let bytes = vec![0; (pages + 1) * PAGE];
        let from = bytes.as_ptr().align_offset(PAGE);
        let len = pages * PAGE;
        Pages { bytes, from, len }
    }

    pub(crate) fn from_pages(pages: &[[u8; PAGE]]) -> Pages {
        let mut copy = Pages::new(pages.len());
        copy.bytes_mut().copy_from_slice(pages.as_flattened());
        copy
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.from..self.from + self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..self.from + self.len]
    }

    pub(crate) fn pages(&self) -> &[[u8; PAGE]] {
        self.bytes().as_chunks().0
    }
}

/// A store of pages. Requests are within its size.
pub(crate) trait Holder {
    /// Stores pages from number `first` on.
    fn write(&mut self, first: usize, pages: &[u8]) -> Result<()>;
    /// Fetches pages from number `first` on.
    fn read(&mut self, first: usize, pages: &mut [u8]) -> Result<()>;
    /// Bytes of the objects, and of all memory; `None` for a store without memory of its own.
    fn memory(&self) -> Result<(f64, Option<f64>)>;
    /// Whether it is written once, before the rounds.
    fn is_read_only(&self) -> bool {
        false
    }
}

/// The library.
pub(crate) struct LibraryHolder {
    device: Arc<Device>,
    read_only: bool,
}

impl LibraryHolder {
    pub(crate) fn new(choice: &str, pages: usize) -> Result<LibraryHolder> {
        let choice: Choice = choice.parse()?;
        let device = Device::builder((pages * PAGE) as u64).choose(choice);
        Ok(LibraryHolder {
            device: Arc::new(device.build()?),
            read_only: false,
        })
    }

    /// With the default algorithm, after an agent recompressed all objects of at least `least` bytes.
    pub(crate) fn settled(pages: &[&[u8; PAGE]], least: u16) -> Result<LibraryHolder> {
        Ok(LibraryHolder {
            device: policy::settle(pages, least)?.device,
            read_only: true,
        })
    }
}

impl Holder for LibraryHolder {
    fn write(&mut self, first: usize, pages: &[u8]) -> Result<()> {
        Ok(self.device.write_at(pages, (first * PAGE) as u64)?)
    }

    fn read(&mut self, first: usize, pages: &mut [u8]) -> Result<()> {
        Ok(self.device.read_at(pages, (first * PAGE) as u64)?)
    }

    fn memory(&self) -> Result<(f64, Option<f64>)> {
        let compressed = self.device.stats().compr_data_size_bytes as f64;
        Ok((compressed, Some(policy::memory(&self.device))))
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }
}

/// The kernel's zram.
pub(crate) struct KernelHolder {
    zram: Zram,
    /// What is written instead of what is given.
    instead: Option<Pages>,
}

impl KernelHolder {
    pub(crate) fn new(algorithm: &str, pages: usize) -> Result<KernelHolder> {
        let zram = Zram::new(algorithm, pages)?;
        let instead = None;
        Ok(KernelHolder { zram, instead })
    }

    /// The kernel's block layer alone: a device that finds every page same-filled and stores none. `largest` is the
    /// largest request in pages.
    pub(crate) fn block_layer(pages: usize, largest: usize) -> Result<KernelHolder> {
        let mut ones = Pages::new(largest);
        ones.bytes_mut().fill(1);
        let instead = Some(ones);
        let zram = Zram::new("lzo", pages)?;
        Ok(KernelHolder { zram, instead })
    }
}

impl Holder for KernelHolder {
    fn write(&mut self, first: usize, pages: &[u8]) -> Result<()> {
        let instead = self
            .instead
            .as_ref()
            .map(|ones| &ones.bytes()[..pages.len()]);
        self.zram.write_at(instead.unwrap_or(pages), first)
    }

    fn read(&mut self, first: usize, pages: &mut [u8]) -> Result<()> {
        self.zram.read_at(pages, first)
    }

    fn memory(&self) -> Result<(f64, Option<f64>)> {
        if self.instead.is_some() {
            return Ok((0.0, None));
        }
        let used = self.zram.used_bytes()? as f64;
        Ok((self.zram.compressed_bytes()? as f64, Some(used)))
    }
}

/// A codec that is called directly, with room for each page's object.
pub(crate) struct Bare {
    raw: Raw,
    objects: Vec<u8>,
    lens: Vec<u16>,
    out: Box<[u8; 2 * PAGE]>,
}

/// Room for an object: no raw codec makes more of a page.
const ROOM: usize = PAGE + PAGE / 4;

impl Bare {
    /// `None` where the codec is missing.
    pub(crate) fn new(codec: &str, pages: usize) -> Option<Bare> {
        Some(Bare {
            raw: Raw::new(codec)?,
            objects: vec![0; pages * ROOM],
            lens: vec![0; pages],
            out: Box::new([0; 2 * PAGE]),
        })
    }
}

impl Holder for Bare {
    fn write(&mut self, first: usize, pages: &[u8]) -> Result<()> {
        for (number, page) in pages.as_chunks::<PAGE>().0.iter().enumerate() {
            let len = self.raw.compress(page, &mut self.out[..]);
            let at = (first + number) * ROOM;
            let object = self.out.get(..len).filter(|object| !object.is_empty());
            let object = object.context("it does not compress a page")?;
            let place = self.objects[at..at + ROOM].get_mut(..len);
            place
                .context("an object is far larger than a page")?
                .copy_from_slice(object);
            self.lens[first + number] = len as u16;
        }
        Ok(())
    }

    fn read(&mut self, first: usize, pages: &mut [u8]) -> Result<()> {
        for (number, page) in pages.as_chunks_mut::<PAGE>().0.iter_mut().enumerate() {
            let at = (first + number) * ROOM;
            let len = usize::from(self.lens[first + number]);
            let whole = self.raw.decompress(&self.objects[at..at + len], page);
            anyhow::ensure!(whole, "its own object does not decompress");
        }
        Ok(())
    }

    fn memory(&self) -> Result<(f64, Option<f64>)> {
        // No object counts as more than a page.
        let bytes = |len: &u16| f64::from(*len).min(PAGE as f64);
        Ok((self.lens.iter().map(bytes).sum(), None))
    }
}

/// trueno-zram-core, which has no store of its own: its compressed pages, as it returns them, in a vector.
#[cfg(feature = "rivals")]
pub(crate) struct Trueno {
    compressor: Box<dyn trueno_zram_core::PageCompressor>,
    pages: Vec<Option<trueno_zram_core::CompressedPage>>,
}

#[cfg(feature = "rivals")]
impl Trueno {
    pub(crate) fn new(algorithm: trueno_zram_core::Algorithm, pages: usize) -> Result<Trueno> {
        let builder = trueno_zram_core::CompressorBuilder::new().algorithm(algorithm);
        Ok(Trueno {
            compressor: builder.build()?,
            pages: vec![None; pages],
        })
    }
}

#[cfg(feature = "rivals")]
impl Holder for Trueno {
    fn write(&mut self, first: usize, pages: &[u8]) -> Result<()> {
        for (number, page) in pages.as_chunks::<PAGE>().0.iter().enumerate() {
            self.pages[first + number] = Some(self.compressor.compress(page)?);
        }
        Ok(())
    }

    fn read(&mut self, first: usize, pages: &mut [u8]) -> Result<()> {
        for (number, page) in pages.as_chunks_mut::<PAGE>().0.iter_mut().enumerate() {
            let object = self.pages[first + number].as_ref();
            *page = self
                .compressor
                .decompress(object.context("never written")?)?;
        }
        Ok(())
    }

    fn memory(&self) -> Result<(f64, Option<f64>)> {
        let objects = self.pages.iter().flatten();
        let (mut bytes, mut memory) = (0, self.pages.len() * size_of_val(&self.pages[0]));
        for object in objects {
            bytes += object.data.len();
            memory += object.data.capacity();
        }
        Ok((bytes as f64, Some(memory as f64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_holds_pages_gives_them_back() {
        let mut pages = Pages::new(4);
        for (at, byte) in pages.bytes_mut().iter_mut().enumerate() {
            *byte = (at / 9 * 7 % 251) as u8;
        }
        assert!(pages.bytes().as_ptr().addr().is_multiple_of(PAGE));
        let mut holders: Vec<Box<dyn Holder>> = vec![
            Box::new(LibraryHolder::new("zstd(level=1)", 4).unwrap()),
            Box::new(Bare::new("zstd-1", 4).unwrap()),
            Box::new(Bare::new("null", 4).unwrap()),
        ];
        for holder in &mut holders {
            holder.write(1, &pages.bytes()[PAGE..]).unwrap();
            holder.write(0, &pages.bytes()[..PAGE]).unwrap();
            let mut back = Pages::new(4);
            holder.read(0, back.bytes_mut()).unwrap();
            assert!(back.bytes() == pages.bytes());
            assert!(holder.memory().unwrap().0 > 0.0);
        }
    }
}
