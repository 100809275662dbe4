//! The kernel's own zram as a rival: devices of our own, made through `hot_add` and removed again; those that are
//! there already are left alone. Pages go in and out past the page cache.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use anyhow::{Context, Result};
use rustix::fs::OFlags;

use crate::corpus::PAGE;

const CONTROL: &str = "/sys/class/zram-control";

/// A page where direct I/O can take it from.
#[derive(Clone)]
#[repr(align(4096))]
pub(crate) struct Aligned(pub(crate) [u8; PAGE]);

/// A device, removed when dropped.
pub(crate) struct Zram {
    number: u32,
    file: Option<File>,
}

impl Zram {
    /// Makes a device; an error where the kernel has no zram, lacks the algorithm, or this is not root.
    pub(crate) fn new(algorithm: &str, pages: usize) -> Result<Zram> {
        let number = fs::read_to_string(format!("{CONTROL}/hot_add")).context("no kernel zram")?;
        let mut zram = Zram {
            number: number.trim().parse()?,
            file: None,
        };
        zram.set("comp_algorithm", algorithm)?;
        zram.set("disksize", &(pages * PAGE).to_string())?;
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .custom_flags(OFlags::DIRECT.bits() as i32);
        let path = format!("/dev/zram{}", zram.number);
        zram.file = Some(options.open(&path).context(path)?);
        Ok(zram)
    }

    fn set(&self, attribute: &str, value: &str) -> Result<()> {
        let path = format!("/sys/block/zram{}/{attribute}", self.number);
        fs::write(&path, value).with_context(|| format!("{path} = {value}"))
    }

    fn file(&self) -> Result<&File> {
        self.file.as_ref().context("not open")
    }

    pub(crate) fn write(&self, number: usize, page: &Aligned) -> Result<()> {
        self.write_at(&page.0, number)
    }

    pub(crate) fn read(&self, number: usize, page: &mut Aligned) -> Result<()> {
        self.read_at(&mut page.0, number)
    }

    /// Writes pages from that number on in one request. They lie at a multiple of a page.
    pub(crate) fn write_at(&self, pages: &[u8], first: usize) -> Result<()> {
        Ok(self.file()?.write_all_at(pages, (first * PAGE) as u64)?)
    }

    /// Reads pages from that number on in one request, to a multiple of a page.
    pub(crate) fn read_at(&self, pages: &mut [u8], first: usize) -> Result<()> {
        Ok(self.file()?.read_exact_at(pages, (first * PAGE) as u64)?)
    }

    /// Bytes of the pages' objects: the second figure of `mm_stat`.
    pub(crate) fn compressed_bytes(&self) -> Result<u64> {
        self.mm_stat(1)
    }

    /// Memory in use, without its table: the third figure of `mm_stat`.
    pub(crate) fn used_bytes(&self) -> Result<u64> {
        self.mm_stat(2)
    }

    fn mm_stat(&self, figure: usize) -> Result<u64> {
        let text = fs::read_to_string(format!("/sys/block/zram{}/mm_stat", self.number))?;
        let figure = text.split_whitespace().nth(figure);
        Ok(figure.context("mm_stat is short")?.parse()?)
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        self.file = None;
        let _ = self.set("reset", "1");
        // A probe of the new node by udev may hold it for a moment.
        for _ in 0..100 {
            if fs::write(format!("{CONTROL}/hot_remove"), self.number.to_string()).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        eprintln!("/dev/zram{} could not be removed", self.number);
    }
}
