//! An image that another process left, edited at will, is refused or attached to. What was attached to is a device: it reads
//! the same twice, and takes what is written.
//!
//! Checksums are made right again after the edits, but for one region: they are no defence against whoever can write an image.
#![no_main]

use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, SeekFrom, ftruncate, memfd_create, seek};
use rustix::io::{pread, pwrite};
use uzram::{Choice, Device, PAGE_SIZE, check_image, read_header};
use uzram_fuzz::edits::edits;
use uzram_fuzz::input::Input;
use uzram_fuzz::{deep, registry};

const PAGES: u64 = 96;
/// Bytes of a codec's record, and where its checksum is and what it covers begins.
const RECORD: usize = 256;
const RECORD_SUM: usize = 8;
const HEADER_SUM: usize = 12;

/// A valid image: those of its bytes that are there, and its length.
struct ImageTemplate {
    /// Offsets and bytes. The first begins with header, state and codecs.
    parts: Vec<(u64, Vec<u8>)>,
    len: u64,
}

static TEMPLATE: LazyLock<ImageTemplate> =
    LazyLock::new(|| ImageTemplate::new().expect("a template"));

fn memfd() -> rustix::io::Result<OwnedFd> {
    memfd_create("uzram-fuzz", MemfdFlags::CLOEXEC)
}

impl ImageTemplate {
    /// Of a device with objects of two codecs, shared ones, same-filled and incompressible pages, and a dictionary.
    fn new() -> Result<ImageTemplate, Box<dyn std::error::Error>> {
        let file = memfd()?;
        let copy = file.try_clone()?;
        let dictionary: Vec<u8> = (0..512u32).map(|at| (at * 7 / 3) as u8).collect();
        let device = Device::builder(PAGES * PAGE_SIZE as u64)
            .algorithm("lz4")
            .secondary(1, Choice::new("zstd").dictionary(dictionary))
            .dedup(true)
            .build_in(file)?;
        let mut noise = 1u32;
        for page in 0..PAGES / 2 {
            let mut bytes = [0u8; PAGE_SIZE];
            for (at, byte) in bytes.iter_mut().enumerate() {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = match page % 4 {
                    0 => (at / 16 + page as usize) as u8,
                    1 => (noise >> 24) as u8,
                    2 => page as u8,
                    _ => (at / 64) as u8,
                };
            }
            device.write_at(&bytes, page * PAGE_SIZE as u64)?;
        }
        let what = uzram::Recompress {
            max_pages: 8,
            ..uzram::Recompress::default()
        };
        let go_on = &mut |_| std::ops::ControlFlow::Continue(());
        device.zram().recompress(&what, go_on)?;
        drop(device);
        let len = rustix::fs::fstat(&copy)?.st_size as u64;
        let (mut parts, mut at) = (Vec::new(), 0);
        while let Ok(begin) = seek(&copy, SeekFrom::Data(at)) {
            let end = seek(&copy, SeekFrom::Hole(begin))?;
            let mut bytes = vec![0; (end - begin) as usize];
            pread(&copy, &mut bytes, begin)?;
            parts.push((begin, bytes));
            at = end;
        }
        Ok(ImageTemplate { parts, len })
    }
}

/// Makes the header's and the codecs' checksums right.
fn seal(head: &mut [u8]) {
    let (header, rest) = head.split_at_mut(PAGE_SIZE);
    header[HEADER_SUM..HEADER_SUM + 4].fill(0);
    let sum = crc32fast::hash(header);
    header[HEADER_SUM..HEADER_SUM + 4].copy_from_slice(&sum.to_le_bytes());
    for record in rest[PAGE_SIZE..2 * PAGE_SIZE].chunks_mut(RECORD) {
        let sum = crc32fast::hash(&record[RECORD_SUM + 4..]);
        record[RECORD_SUM..RECORD_SUM + 4].copy_from_slice(&sum.to_le_bytes());
    }
}

/// The image with the input's edits.
fn image(data: &[u8]) -> rustix::io::Result<OwnedFd> {
    let mut parts = TEMPLATE.parts.clone();
    let mut len = TEMPLATE.len;
    let edits = edits(&mut Input(data));
    for edit in &edits {
        let head = &mut parts[0].1;
        match edit.region % 8 {
            0 => edit.apply(&mut head[..200]),
            1 => edit.apply(&mut head[PAGE_SIZE..PAGE_SIZE + 256]),
            2 => edit.apply(&mut head[2 * PAGE_SIZE..2 * PAGE_SIZE + 3 * RECORD]),
            3 | 4 => edit.apply(&mut head[3 * PAGE_SIZE..]),
            5 => len = len.min(u64::from(edit.at) << 12),
            _ => {
                let count = parts.len();
                let part = usize::from(edit.region / 8) % count;
                edit.apply(&mut parts[part].1);
            }
        }
    }
    seal(&mut parts[0].1);
    for edit in edits.iter().filter(|edit| edit.region == 0xFF) {
        edit.apply(&mut parts[0].1);
    }
    let file = memfd()?;
    for (at, bytes) in &parts {
        pwrite(&file, bytes, *at)?;
    }
    ftruncate(&file, len)?;
    Ok(file)
}

fuzz_target!(|data: &[u8]| {
    let file = image(data).expect("memory for an image");
    let _ = read_header(&file).map(|header| (header.page_capacity(), header.image_bytes()));
    let _ = check_image(&file, &registry());
    let Ok(device) = Device::builder(0).registry(registry()).attach(file) else {
        return;
    };
    let (mut first, mut again) = ([0u8; PAGE_SIZE], [0xFFu8; PAGE_SIZE]);
    let pages = (device.size_bytes() / PAGE_SIZE as u64).min(2 * PAGES);
    let mut whole = true;
    for page in 0..pages {
        let at = page * PAGE_SIZE as u64;
        let read = device.read_at(&mut first, at);
        assert_eq!(read.is_ok(), device.read_at(&mut again, at).is_ok());
        assert!(read.is_err() || first == again, "page {page} reads as two");
        whole &= read.is_ok();
    }
    let _ = device.jobs().compact(1 << 20);
    if device.write_at(&[5; PAGE_SIZE], 0).is_ok() && device.read_at(&mut first, 0).is_ok() {
        assert!(first == [5; PAGE_SIZE], "a write is lost");
    }
    let _ = device.discard(0, device.size_bytes());
    device.reset();
    if whole && !data.is_empty() {
        deep("an edited image is served");
    }
});
