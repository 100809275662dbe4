//! What goes between the two sides, over any connection: a magic, and then messages in both directions.
//!
//! A message is a head of 16 bytes (kind, three zeros, length, number) and what follows it. Frames have a hash, since not every
//! pipe has one.

use std::io::{self, ErrorKind, Read, Write};

use uzram::{CutFrame, CutPage, FRAME_PAGES, FrozenFrames, PAGE_SIZE, StoredPage};
use uzram_snapshot::{Digest, MAX_CODECS};

/// What the side that has the device begins with. A snapshot begins with something else.
pub const MAGIC: [u8; 8] = *b"uzrlazy\x01";
/// Bytes of a head.
const HEAD: usize = 16;
/// Most bytes that follow one: a description with 16 dictionaries fits.
const MAX_BYTES: u32 = 32 << 20;
/// Most frames that are asked for at once.
pub(crate) const MAX_FRAMES: usize = 64;
/// Bytes of a frame's and of a page's head.
const FRAME_HEAD: usize = 8;
const PAGE_HEAD: usize = 4;
/// Bytes of a hash.
const SUM: usize = 32;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum MessageKind {
    /// A [`super::Hello`], in JSON.
    Hello = 1,
    /// A snapshot without frames: what the device is.
    Description = 2,
    /// The first frame: whoever serves a device reads it before anybody asks.
    First = 3,
    /// Which pages hold something: numbers in pairs, of pages that do not and of pages that do, 7 bits a byte, the lowest first.
    Slots = 4,
    /// That was all.
    End = 5,
    /// The other side's device is there; its path.
    Ready = 6,
    /// It will not be there, or is gone; why.
    Refused = 7,
    /// The device is the other side's from now on.
    Commit = 8,
    /// Numbers of frames that requests wait for.
    Fetch = 9,
    /// Numbers of frames that nobody waits for.
    FetchAhead = 10,
    /// What frames hold.
    Frames = 11,
    /// Why they do not come.
    Failed = 12,
    /// Nothing is missing any more.
    AllThere = 13,
}

impl MessageKind {
    fn of(code: u8) -> Option<MessageKind> {
        use MessageKind::*;
        let all = [
            Hello,
            Description,
            First,
            Slots,
            End,
            Ready,
            Refused,
            Commit,
            Fetch,
            FetchAhead,
            Frames,
            Failed,
            AllThere,
        ];
        all.into_iter().find(|kind| *kind as u8 == code)
    }
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: MessageKind,
    /// Of a question, and of its answer.
    pub number: u64,
    /// What it says.
    pub bytes: Vec<u8>,
}

impl Message {
    /// A message that is no question.
    pub fn new(kind: MessageKind, bytes: impl Into<Vec<u8>>) -> Message {
        Message {
            kind,
            number: 0,
            bytes: bytes.into(),
        }
    }

    /// Its bytes as words for people, of which nobody knows who wrote them.
    pub fn words(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        uzram_spec::printable_line(&text).into_owned()
    }

    /// Reads the next one; `None` at the end. Takes memory as bytes arrive.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Message>> {
        let mut head = [0; HEAD];
        loop {
            match from.read(&mut head[..1]) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        from.read_exact(&mut head[1..])?;
        let wrong = |what: &str| io::Error::new(ErrorKind::InvalidData, what.to_owned());
        let kind = MessageKind::of(head[0]).filter(|_| head[1..4] == [0; 3]);
        let kind = kind.ok_or_else(|| wrong("what came is no message"))?;
        let (_, tail) = head.split_at(4);
        let count = tail.first_chunk().copied().map_or(0, u32::from_le_bytes);
        let number = tail[4..].first_chunk().copied();
        if count > MAX_BYTES {
            return Err(wrong("a message is longer than one can be"));
        }
        let mut bytes = Vec::new();
        from.take(count.into()).read_to_end(&mut bytes)?;
        if bytes.len() < count as usize {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(Message {
            kind,
            number: number.map_or(0, u64::from_le_bytes),
            bytes,
        }))
    }

    /// Writes it, and flushes.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let count = u32::try_from(self.bytes.len()).ok();
        let count = count.filter(|count| *count <= MAX_BYTES);
        let count = count.ok_or(ErrorKind::InvalidInput)?;
        let mut all = Vec::with_capacity(HEAD + self.bytes.len());
        all.extend_from_slice(&[self.kind as u8, 0, 0, 0]);
        all.extend_from_slice(&count.to_le_bytes());
        all.extend_from_slice(&self.number.to_le_bytes());
        all.extend_from_slice(&self.bytes);
        to.write_all(&all)?;
        to.flush()
    }

    /// The frames that it asks for.
    pub(crate) fn numbers(&self) -> Option<Vec<u32>> {
        let (numbers, rest) = self.bytes.as_chunks::<4>();
        let is_good = rest.is_empty() && (1..=MAX_FRAMES).contains(&numbers.len());
        is_good.then(|| numbers.iter().map(|n| u32::from_le_bytes(*n)).collect())
    }
}

/// What frames hold, as it goes over a connection: each frame's number and count of pages, for each page what it is, its codec
/// and its length, then the pages' bytes; a hash at the end.
pub(crate) fn encode(
    frames: &mut FrozenFrames<'_>,
    numbers: &[u32],
) -> Result<Vec<u8>, uzram::Error> {
    let mut out = Vec::new();
    for number in numbers {
        add_frame(&mut out, &frames.frame(*number)?);
    }
    let sum = Digest::of(&out);
    out.extend_from_slice(&sum.0);
    Ok(out)
}

fn add_frame(out: &mut Vec<u8>, frame: &CutFrame<'_>) {
    let pages = frame.pages();
    out.extend_from_slice(&frame.number().to_le_bytes());
    out.extend_from_slice(&(pages.len() as u32).to_le_bytes());
    for page in pages {
        let (code, codec, len) = match page {
            CutPage::Zero | CutPage::Unchanged => (0, 0, 0),
            CutPage::Same(_) => (1, 0, 8),
            CutPage::Raw(_) => (2, 0, PAGE_SIZE as u16),
            CutPage::Object { codec, bytes } => (3, codec, bytes.len() as u16),
        };
        out.extend_from_slice(&[code, codec]);
        out.extend_from_slice(&len.to_le_bytes());
    }
    for page in frame.pages() {
        match page {
            CutPage::Zero | CutPage::Unchanged => {}
            CutPage::Same(word) => out.extend_from_slice(&word.to_le_bytes()),
            CutPage::Raw(bytes) | CutPage::Object { bytes, .. } => out.extend_from_slice(bytes),
        }
    }
}

/// Checks what came, and hands each page over, its codec under the sender's number.
pub(crate) fn decode<'b, E>(
    bytes: &'b [u8],
    numbers: &[u32],
    mut page: impl FnMut(u64, StoredPage<'b>) -> Result<(), E>,
) -> Result<Result<(), E>, &'static str> {
    let end = bytes.len().checked_sub(SUM).ok_or("it is cut")?;
    let (mut rest, sum) = bytes.split_at(end);
    if Digest::of(rest).0 != *sum {
        return Err("its checksum is wrong");
    }
    // Nothing is handed over before all of it was looked at.
    let mut found = Vec::with_capacity(numbers.len() * FRAME_PAGES);
    for number in numbers {
        let head = take(&mut rest, FRAME_HEAD)?;
        let (own, count) = (u32_at(head, 0), u32_at(head, 4) as usize);
        if own != *number || !(1..=FRAME_PAGES).contains(&count) {
            return Err("it is of another frame");
        }
        let heads = take(&mut rest, count * PAGE_HEAD)?;
        for (at, head) in heads.as_chunks::<PAGE_HEAD>().0.iter().enumerate() {
            let (codec, len) = (head[1], u16::from_le_bytes([head[2], head[3]]));
            let bytes = take(&mut rest, len.into())?;
            let stored = match (head[0], len) {
                (0, 0) => StoredPage::Empty,
                (1, 8) => {
                    let word = bytes.first_chunk().copied().unwrap_or_default();
                    StoredPage::Same(u64::from_le_bytes(word))
                }
                (2, 4096) => StoredPage::Raw(bytes),
                (3, 1..4096) if usize::from(codec) < MAX_CODECS => {
                    StoredPage::Object { codec, bytes }
                }
                _ => return Err("a page is nothing that it can be"),
            };
            let first = u64::from(*number) * FRAME_PAGES as u64;
            found.push((first + at as u64, stored));
        }
    }
    if !rest.is_empty() {
        return Err("something follows its end");
    }
    Ok(found
        .into_iter()
        .try_for_each(|(number, stored)| page(number, stored)))
}

fn take<'b>(rest: &mut &'b [u8], count: usize) -> Result<&'b [u8], &'static str> {
    let (taken, left) = rest.split_at_checked(count).ok_or("it is cut")?;
    *rest = left;
    Ok(taken)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    bytes.copied().map_or(0, u32::from_le_bytes)
}

/// Appends a number, 7 bits a byte.
pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads numbers in pairs: how many pages hold nothing, and how many then hold something.
pub(crate) fn runs(from: impl Read) -> impl Iterator<Item = io::Result<std::ops::Range<u64>>> {
    let mut bytes = io::BufReader::new(from).bytes();
    let mut at = 0u64;
    std::iter::from_fn(move || {
        let wrong = || io::Error::new(ErrorKind::InvalidData, "runs of pages that cannot be");
        let mut number = |is_first: bool| -> io::Result<Option<u64>> {
            let (mut number, mut shift) = (0u64, 0);
            loop {
                let byte = match bytes.next().transpose()? {
                    Some(byte) => byte,
                    None if is_first && shift == 0 => return Ok(None),
                    None => return Err(ErrorKind::UnexpectedEof.into()),
                };
                if shift > 56 {
                    return Err(wrong());
                }
                number |= u64::from(byte & 0x7F) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    return Ok(Some(number));
                }
            }
        };
        let mut next = || -> io::Result<Option<std::ops::Range<u64>>> {
            let Some(gap) = number(true)? else {
                return Ok(None);
            };
            let count = number(false)?.unwrap_or_default();
            let first = at.checked_add(gap).ok_or_else(wrong)?;
            at = first.checked_add(count).ok_or_else(wrong)?;
            Ok(Some(first..at))
        };
        next().transpose()
    })
}

#[cfg(test)]
mod tests {
    use uzram::{CutOptions, Device};

    use super::*;

    #[test]
    fn messages_are_read_back_and_nonsense_is_not() {
        let message = Message {
            kind: MessageKind::Frames,
            number: u64::MAX - 1,
            bytes: vec![7; 300],
        };
        let mut bytes = Vec::new();
        message.write(&mut bytes).unwrap();
        assert_eq!(Message::read(&mut &bytes[..]).unwrap(), Some(message));
        assert_eq!(Message::read(&mut &[][..]).unwrap(), None);
        for cut in 1..bytes.len() {
            assert!(Message::read(&mut &bytes[..cut]).is_err(), "{cut}");
        }
        for (at, value) in [(0, 0), (0, 14), (1, 1), (7, 0xFF)] {
            let mut wrong = bytes.clone();
            wrong[at] = value;
            assert!(Message::read(&mut &wrong[..]).is_err(), "{at}");
        }
        for wrong in [&[][..], &[1, 2, 3], &[0; 4 * (MAX_FRAMES + 1)]] {
            assert_eq!(Message::new(MessageKind::Fetch, wrong).numbers(), None);
        }
    }

    #[test]
    fn frames_are_read_back_and_no_flipped_bit_is_believed() {
        let device = Device::builder(100 * 4096)
            .algorithm("lz4")
            .build()
            .unwrap();
        device.write_at(&[7; 4096], 4096).unwrap();
        let text: Vec<u8> = (0..4096u32).map(|at| (at / 9) as u8).collect();
        device.write_at(&text, 99 * 4096).unwrap();
        let noise: Vec<u8> = (0..4096u32)
            .map(|at| (at.wrapping_mul(2654435761) >> 13) as u8)
            .collect();
        device.write_at(&noise, 70 * 4096).unwrap();
        assert!(device.frozen_frames().is_err());
        let mut options = CutOptions::default();
        options.freeze = true;
        let cut = device.cut(&options).unwrap();
        let held: Vec<_> = cut.held_pages().collect();
        assert_eq!(held, [1..2, 70..71, 99..100]);
        let mut frames = device.frozen_frames().unwrap();
        let bytes = encode(&mut frames, &[0, 1]).unwrap();
        let found = |bytes: &[u8], numbers: &[u32]| {
            let mut found = Vec::new();
            let decoded = decode(bytes, numbers, |page, stored| {
                found.push((page, format!("{stored:?}")));
                Ok::<(), ()>(())
            });
            decoded.map(|_| found)
        };
        let whole = found(&bytes, &[0, 1]).unwrap();
        assert_eq!(whole.len(), 100);
        assert!(whole[1].1.starts_with("Same") && whole[99].1.starts_with("Object"));
        assert!(encode(&mut frames, &[2]).is_err());
        assert!(found(&bytes, &[0]).is_err());
        assert!(found(&bytes, &[1, 0]).is_err());
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1 << (at % 8);
            assert!(found(&wrong, &[0, 1]).is_err(), "{at}");
            if at % 97 == 0 {
                assert!(found(&bytes[..at], &[0, 1]).is_err(), "{at}");
            }
        }
    }

    #[test]
    fn runs_are_read_back_and_nonsense_ends_them() {
        let mut bytes = Vec::new();
        for number in [0, 1, 128, 70_000, 5, 1 << 40] {
            put_number(&mut bytes, number);
        }
        let found: io::Result<Vec<_>> = runs(&bytes[..]).collect();
        let end = 70_134 + (1u64 << 40);
        assert_eq!(found.unwrap(), [0..1, 129..70_129, 70_134..end]);
        let cut: io::Result<Vec<_>> = runs(&bytes[..bytes.len() - 1]).collect();
        assert!(cut.is_err());
        let endless: io::Result<Vec<_>> = runs(&[0xFF; 12][..]).collect();
        assert!(endless.is_err());
    }
}
