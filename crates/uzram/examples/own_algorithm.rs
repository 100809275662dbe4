//! An algorithm of one's own, with no edit of uzram: `cargo run -p uzram --example own_algorithm`.
//!
//! `words` keeps one bit for each 8 bytes and, of those, only the ones that differ from their neighbour before. The
//! conformance suite runs on it as on the built-in ones, and a device then uses it by name.

use std::sync::Arc;

use uzram::Device;
use uzram::compress::{
    Algorithm, Decompress, Error, KnownAnswer, Prepared, Registry, Settings, Tfm, conformance,
};

struct Words;

impl Algorithm for Words {
    fn name(&self) -> &'static str {
        "words"
    }
    fn driver_name(&self) -> &'static str {
        "words-example"
    }
    fn priority(&self) -> i32 {
        100
    }
    fn summary(&self) -> &'static str {
        "leaves out words that repeat the one before"
    }
    fn known_answers(&self) -> &'static [KnownAnswer] {
        // A map of two words, of which only the first differs from what was before, and a rest of one byte.
        &[KnownAnswer {
            plain: b"12345678123456789",
            compressed: b"\x11\0\x0112345678\x39",
        }]
    }
    fn prepare(&self, _settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        Ok(Arc::new(Words))
    }
}

impl Prepared for Words {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        Ok(Box::new(Words))
    }
    fn stateless(&self) -> Option<&dyn Decompress> {
        Some(self)
    }
}

/// Appends to `out[*len..]`.
fn put(out: &mut [u8], len: &mut usize, bytes: &[u8]) -> Result<(), Error> {
    let got = out.len();
    let to = out
        .get_mut(*len..*len + bytes.len())
        .ok_or(Error::OutputTooSmall { got })?;
    to.copy_from_slice(bytes);
    *len += bytes.len();
    Ok(())
}

/// Takes from the front of `rest`.
fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Error> {
    let corrupt = Error::Corrupt { algorithm: "words" };
    let (front, back) = rest.split_at_checked(count).ok_or(corrupt)?;
    *rest = back;
    Ok(front)
}

impl Tfm for Words {
    /// The length in 2 bytes, the map, the words that differ, and what is no whole word.
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let mut len = 0;
        let size =
            u16::try_from(src.len()).map_err(|_| Error::OutputTooSmall { got: dst.len() })?;
        put(dst, &mut len, &size.to_le_bytes())?;
        let (words, rest) = src.as_chunks::<8>();
        let map = len;
        for _ in words.chunks(8) {
            put(dst, &mut len, &[0])?;
        }
        let mut before = [0; 8];
        for (number, word) in words.iter().enumerate() {
            if *word != before {
                dst[map + number / 8] |= 1 << (number % 8);
                put(dst, &mut len, word)?;
                before = *word;
            }
        }
        put(dst, &mut len, rest)?;
        Ok(len)
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        Decompress::decompress(self, src, dst)
    }
}

impl Decompress for Words {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let mut src = src;
        let size = take(&mut src, 2)?;
        let size = usize::from(u16::from_le_bytes([size[0], size[1]]));
        let words = size / 8;
        let map = take(&mut src, words.div_ceil(8))?;
        let (mut len, mut before) = (0, &[0; 8][..]);
        for number in 0..words {
            if map[number / 8] >> (number % 8) & 1 == 1 {
                before = take(&mut src, 8)?;
            }
            put(dst, &mut len, before)?;
        }
        put(dst, &mut len, take(&mut src, size % 8)?)?;
        if src.is_empty() {
            Ok(len)
        } else {
            Err(Error::Corrupt { algorithm: "words" })
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    conformance::full(&Words)?;
    let counts = conformance::fuzz(&Words, 1, 1000)?;
    println!("conformance passed; {} mutants did no harm", counts.mutants);

    let mut registry = Registry::builtin();
    registry.register(Arc::new(Words))?;
    let device = Device::builder(1 << 20)
        .registry(registry)
        .algorithm("words")
        .build()?;
    let page: Vec<u8> = (0..4096u32).map(|i| (i / 256) as u8).collect();
    device.write_at(&page, 8192)?;
    let mut back = vec![0; page.len()];
    device.read_at(&mut back, 8192)?;
    assert_eq!(back, page);
    println!(
        "a page of 4096 bytes takes {}",
        device.stats().compr_data_size_bytes
    );
    Ok(())
}
