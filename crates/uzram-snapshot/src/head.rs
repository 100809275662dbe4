//! The head of a snapshot: what the disk is, which codecs its objects are of, and which snapshot it was made since.

use crate::Error;
use crate::format::{
    Digest, FRAME_PAGES, Fields, MAX_CODECS, MAX_DICTIONARY_BYTES, MAX_NAME_BYTES, MAX_NOTES_BYTES,
    MAX_PAGES, MAX_PARAMS_BYTES, MAX_SEGMENTS, PAGE_BYTES,
};

/// A dictionary's name and length. The name is the hash of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DictionaryName {
    /// Its name.
    pub name: Digest,
    /// Its bytes.
    pub bytes: u32,
}

/// A codec as a snapshot describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotCodec {
    /// The number by which pages name it.
    pub number: u8,
    /// The algorithm, which decompression needs.
    pub algorithm: String,
    /// The driver that compressed. Another one of the same algorithm will do.
    pub driver: String,
    /// The parameters that differ from the algorithm's defaults, as the algorithm writes them.
    pub params: String,
    /// The dictionary, if there is one.
    pub dictionary: Option<DictionaryName>,
}

impl SnapshotCodec {
    /// Whether objects of one can be read as the other's.
    pub(crate) fn is_same(&self, other: &SnapshotCodec) -> bool {
        let number = self.number;
        SnapshotCodec {
            number,
            ..other.clone()
        } == *self
    }

    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let is_text = |text: &str, max| text.len() <= max && !text.chars().any(char::is_control);
        if usize::from(self.number) >= MAX_CODECS {
            return Err("numbers are less than 16");
        }
        if self.algorithm.is_empty() || !is_text(&self.algorithm, MAX_NAME_BYTES) {
            return Err("its algorithm has 1 to 32 bytes of text");
        }
        if !is_text(&self.driver, MAX_NAME_BYTES) {
            return Err("its driver has up to 32 bytes of text");
        }
        if !is_text(&self.params, MAX_PARAMS_BYTES) {
            return Err("its parameters have up to 1024 bytes of text");
        }
        match self.dictionary {
            Some(DictionaryName { name, bytes }) => {
                let is_good = (1..=MAX_DICTIONARY_BYTES as u32).contains(&bytes);
                (is_good && name != Digest::NONE).then_some(())
            }
            None => Some(()),
        }
        .ok_or("its dictionary has 1 to 4 MiB and a name")
    }
}

/// What a snapshot says of itself at its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Pages of the disk, of 4096 bytes.
    pub pages: u64,
    /// When it was taken, in seconds since 1970.
    pub taken_at_seconds: u64,
    /// Whether it is not of one moment: it is only the basis of the one that follows, in a file or on a pipe.
    pub is_basis: bool,
    /// The snapshot that it was made since.
    pub parent: Option<Digest>,
    /// Segments of the parent: its own are numbered from here on.
    pub(crate) segments_before: u32,
    /// The codecs, by ascending number.
    pub codecs: Vec<SnapshotCodec>,
    /// What the caller keeps with it, such as the description of the device.
    pub notes: Vec<u8>,
}

impl Head {
    /// Frames of the disk; the last may have fewer than 64 pages.
    pub fn frames(&self) -> u32 {
        self.pages.div_ceil(FRAME_PAGES as u64) as u32
    }

    /// Pages of a frame, as a mask.
    pub(crate) fn mask(&self, frame: u32) -> u64 {
        let begin = u64::from(frame) * FRAME_PAGES as u64;
        match self.pages.saturating_sub(begin) {
            0 => 0,
            pages @ 1..64 => (1 << pages) - 1,
            _ => u64::MAX,
        }
    }

    /// The codec of a number.
    pub fn codec(&self, number: u8) -> Option<&SnapshotCodec> {
        self.codecs.iter().find(|codec| codec.number == number)
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if !(1..=MAX_PAGES).contains(&self.pages) {
            return Err(Error::Size { pages: self.pages });
        }
        if self.notes.len() > MAX_NOTES_BYTES {
            let bytes = self.notes.len();
            return Err(Error::Notes { bytes });
        }
        for codec in &self.codecs {
            let number = codec.number;
            codec.check().map_err(|why| Error::Codec { number, why })?;
        }
        Ok(())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&(PAGE_BYTES as u32).to_le_bytes());
        out.extend_from_slice(&(FRAME_PAGES as u32).to_le_bytes());
        out.extend_from_slice(&self.pages.to_le_bytes());
        out.extend_from_slice(&self.taken_at_seconds.to_le_bytes());
        out.extend_from_slice(&u32::from(self.is_basis).to_le_bytes());
        out.extend_from_slice(&self.parent.unwrap_or(Digest::NONE).0);
        out.extend_from_slice(&self.segments_before.to_le_bytes());
        out.extend_from_slice(&(self.codecs.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.notes.len() as u32).to_le_bytes());
        for codec in &self.codecs {
            let texts = [&codec.algorithm, &codec.driver, &codec.params];
            let dictionary = codec.dictionary;
            out.extend([codec.number, texts[0].len() as u8, texts[1].len() as u8, 0]);
            out.extend_from_slice(&(texts[2].len() as u32).to_le_bytes());
            out.extend_from_slice(&dictionary.map_or(0, |of| of.bytes).to_le_bytes());
            out.extend_from_slice(&dictionary.map_or(Digest::NONE, |of| of.name).0);
            texts
                .iter()
                .for_each(|text| out.extend_from_slice(text.as_bytes()));
        }
        out.extend_from_slice(&self.notes);
        out
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Head, &'static str> {
        let mut fields = Fields(body);
        if fields.u32()? != PAGE_BYTES as u32 || fields.u32()? != FRAME_PAGES as u32 {
            return Err("its pages or frames have another size");
        }
        let (pages, taken_at_seconds) = (fields.u64()?, fields.u64()?);
        let is_basis = match fields.u32()? {
            0 => false,
            1 => true,
            _ => return Err("it has flags that no version so far has"),
        };
        let parent = fields.digest()?;
        let segments_before = fields.u32()?;
        let (codecs, notes) = (fields.u32()? as usize, fields.u32()? as usize);
        if !(1..=MAX_PAGES).contains(&pages) {
            return Err("the disk has another size than one can have");
        }
        if codecs > MAX_CODECS || notes > MAX_NOTES_BYTES {
            return Err("it has more codecs or notes than one can have");
        }
        let parent = (parent != Digest::NONE).then_some(parent);
        if segments_before as usize > MAX_SEGMENTS || parent.is_none() && segments_before != 0 {
            return Err("it has more segments before it than there can be");
        }
        let mut list: Vec<SnapshotCodec> = Vec::new();
        for _ in 0..codecs {
            let codec = codec(&mut fields)?;
            codec.check()?;
            if list.last().is_some_and(|last| last.number >= codec.number) {
                return Err("its codecs are out of order");
            }
            list.push(codec);
        }
        let notes = fields.take(notes)?.to_vec();
        fields.end()?;
        Ok(Head {
            pages,
            taken_at_seconds,
            is_basis,
            parent,
            segments_before,
            codecs: list,
            notes,
        })
    }
}

fn codec(fields: &mut Fields<'_>) -> Result<SnapshotCodec, &'static str> {
    let [number, algorithm, driver, zero] = fields.array()?;
    let (params, bytes, name) = (fields.u32()?, fields.u32()?, fields.digest()?);
    if zero != 0 || params as usize > MAX_PARAMS_BYTES {
        return Err("a codec of it is wrong");
    }
    if bytes == 0 && name != Digest::NONE {
        return Err("a codec of it has a dictionary of no bytes");
    }
    let mut text = |len: usize| {
        let text = std::str::from_utf8(fields.take(len)?);
        Ok(text.map_err(|_| "a codec of it is no text")?.to_owned())
    };
    Ok(SnapshotCodec {
        number,
        algorithm: text(algorithm.into())?,
        driver: text(driver.into())?,
        params: text(params as usize)?,
        dictionary: (bytes != 0).then_some(DictionaryName { name, bytes }),
    })
}
