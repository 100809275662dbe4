//! The contestants of `bench codecs` and `bench rivals`. Each holds the same pages, serves requests of one page or more,
//! and reports its memory.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use uzram::compress::Tfm;
use uzram::{Choice, Device};

use crate::corpus::PAGE;
use crate::measure::all_memory;
use crate::policy;
use crate::zram::KernelZram;

/// The kernel stores what compresses to no less than this as a whole page (zsmalloc's classes of chains of 8).
const HUGE: usize = 3625;

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
    /// Bytes of the objects, where those that the kernel stores as pages count as pages.
    fn object_bytes_by_kernel(&self) -> Result<f64> {
        Ok(self.memory()?.0)
    }
    /// Whether it is written once, before the rounds.
    fn is_read_only(&self) -> bool {
        false
    }
    /// Is called once all pages are there.
    fn filled(&mut self) {}
    /// Bytes of a worker's context; `None` if unknown.
    fn context_bytes(&self) -> Option<usize> {
        None
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

    /// Holds `count` pages; the algorithm has trained itself on these, with which it is filled.
    pub(crate) fn trained(choice: &str, pages: &Pages, count: usize) -> Result<LibraryHolder> {
        let mut this = LibraryHolder::new(choice, count)?;
        this.write(0, pages.bytes())?;
        let jobs = this.device.jobs();
        jobs.train(&jobs.training_for(0))?;
        Ok(this)
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
        Ok((compressed, Some(all_memory(&self.device.stats()))))
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }
}

/// The kernel's zram.
pub(crate) struct KernelHolder {
    zram: KernelZram,
    /// What is written instead of what is given.
    instead: Option<Pages>,
}

impl KernelHolder {
    pub(crate) fn new(algorithm: &str, pages: usize) -> Result<KernelHolder> {
        let zram = KernelZram::new(algorithm, pages)?;
        let instead = None;
        Ok(KernelHolder { zram, instead })
    }

    /// The kernel's block layer alone: a device that finds every page same-filled and stores none. `largest` is the
    /// largest request in pages.
    pub(crate) fn block_layer(pages: usize, largest: usize) -> Result<KernelHolder> {
        let mut ones = Pages::new(largest);
        ones.bytes_mut().fill(1);
        let instead = Some(ones);
        let zram = KernelZram::new("lzo", pages)?;
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
    tfm: Box<dyn Tfm>,
    objects: Vec<u8>,
    lens: Vec<u16>,
    out: Box<[u8; 2 * PAGE]>,
    /// Whether what is compressed is stored as well.
    stores: bool,
    /// Whether that ends once all pages are there.
    only_compresses: bool,
}

/// Room for an object: no raw codec makes more of a page.
const ROOM: usize = PAGE + PAGE / 4;

impl Bare {
    /// With `only_compresses` it stores objects until all pages are there, and from then on compresses and stores nothing.
    pub(crate) fn new(tfm: Box<dyn Tfm>, pages: usize, only_compresses: bool) -> Bare {
        Bare {
            tfm,
            objects: vec![0; pages * ROOM],
            lens: vec![0; pages],
            out: Box::new([0; 2 * PAGE]),
            stores: true,
            only_compresses,
        }
    }

    /// Bytes of all objects, where those of `huge` bytes and more count as pages.
    fn object_bytes(&self, huge: usize) -> f64 {
        let bytes = |len: &u16| match usize::from(*len) {
            len if len >= huge => PAGE,
            len => len,
        };
        self.lens.iter().map(bytes).sum::<usize>() as f64
    }
}

impl Holder for Bare {
    fn write(&mut self, first: usize, pages: &[u8]) -> Result<()> {
        for (number, page) in (first..).zip(pages.as_chunks::<PAGE>().0) {
            let len = self.tfm.compress(page, &mut self.out[..])?;
            let object = black_box(&self.out[..len]);
            if self.stores {
                let place = self.objects[number * ROOM..][..ROOM].get_mut(..len);
                let place = place.context("an object is far larger than a page")?;
                place.copy_from_slice(object);
                self.lens[number] = len as u16;
            }
        }
        Ok(())
    }

    fn read(&mut self, first: usize, pages: &mut [u8]) -> Result<()> {
        for (number, page) in (first..).zip(pages.as_chunks_mut::<PAGE>().0) {
            let object = &self.objects[number * ROOM..][..self.lens[number].into()];
            let whole = self.tfm.decompress(object, page)? == PAGE;
            ensure!(whole, "its own object does not decompress");
        }
        Ok(())
    }

    fn memory(&self) -> Result<(f64, Option<f64>)> {
        // No object counts as more than a page.
        Ok((self.object_bytes(PAGE), None))
    }

    fn object_bytes_by_kernel(&self) -> Result<f64> {
        Ok(self.object_bytes(HUGE))
    }

    fn filled(&mut self) {
        self.stores = !self.only_compresses;
    }

    fn context_bytes(&self) -> Option<usize> {
        Some(self.tfm.memory_bytes()).filter(|bytes| *bytes > 0)
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
    use crate::rival::Raw;

    #[test]
    fn whoever_holds_pages_gives_them_back() {
        let mut pages = Pages::new(4);
        for (at, byte) in pages.bytes_mut().iter_mut().enumerate() {
            *byte = (at / 9 * 7 % 251) as u8;
        }
        assert!(pages.bytes().as_ptr().addr().is_multiple_of(PAGE));
        let mut holders: Vec<Box<dyn Holder>> = vec![
            Box::new(LibraryHolder::new("zstd(level=1)", 4).unwrap()),
            Box::new(Bare::new(Box::new(Raw::new("zstd-1").unwrap()), 4, false)),
            Box::new(Bare::new(Box::new(Raw::new("null").unwrap()), 4, false)),
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
