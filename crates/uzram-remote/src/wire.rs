//! How `uzram` and the process `uzram-s3` speak, by a pair of sockets: frames of a small JSON header and the bytes of an object.
//!
//! `"uzs3" · length of the header · length of the body · header · body`, both lengths as 32 bits, the low byte first. `uzram` sends
//! [`Request`]s with numbers of its own choice, and gets an [`Answer`] with the same number for each, in any order; to
//! [`Call::List`] several. The first request is [`Call::Open`], whose version must be known to the other side. A frame that is too
//! long, that is cut, or that is no such JSON is refused, and whoever reads it closes the socket: nothing after it can be
//! believed.
//!
//! Credentials never go this way: `uzram-s3` finds them itself.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::s3::S3Address;
use crate::store::{Meta, StoreError, Version, When};

/// Version of what is spoken.
pub const WIRE_VERSION: u32 = 1;
/// What each frame begins with.
const MAGIC: [u8; 4] = *b"uzs3";
/// Most bytes of a header.
const MAX_HEADER_BYTES: u32 = 4 << 20;
/// Most bytes of a body: a part of a snapshot has at most 64 MiB, and something around it.
pub const MAX_BODY_BYTES: u32 = 80 << 20;
/// Most objects in one answer of a listing.
pub const LISTED_AT_ONCE: usize = 1000;

/// What `uzram` wants done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Call {
    /// Opens the store. Comes first and once.
    Open {
        /// [`WIRE_VERSION`] of who asks.
        version: u32,
        /// Where the store is.
        address: S3Address,
    },
    /// Writes an object: the body of the frame.
    Put {
        /// Its key.
        key: String,
        /// On which condition.
        when: When,
    },
    /// Reads an object.
    Get {
        /// Its key.
        key: String,
        /// Its most bytes.
        max: u64,
    },
    /// Reads a part of an object.
    GetRange {
        /// Its key.
        key: String,
        /// The first byte.
        begin: u64,
        /// The first byte that is not read.
        end: u64,
    },
    /// Looks at an object.
    Head {
        /// Its key.
        key: String,
    },
    /// Lists objects.
    List {
        /// What their keys begin with.
        prefix: String,
    },
    /// Removes an object.
    Delete {
        /// Its key.
        key: String,
    },
}

/// A call with its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Comes back with the answer.
    pub id: u64,
    /// What is wanted.
    pub call: Call,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// The store answers.
    Opened,
    /// The object is written.
    Put {
        /// In this version.
        version: Version,
    },
    /// The object's bytes are the body of the frame.
    Got {
        /// Its version, where all of it was read.
        version: Option<Version>,
    },
    /// The object is there.
    Head {
        /// What the store says of it.
        meta: Meta,
    },
    /// Some of the objects, at most [`LISTED_AT_ONCE`].
    Listed {
        /// What the store says of them.
        metas: Vec<Meta>,
        /// Whether another answer follows.
        more: bool,
    },
    /// The object is not there any more.
    Deleted,
}

/// What came of the call with this number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// That of the request.
    pub id: u64,
    /// What came of it.
    pub result: Result<Reply, StoreError>,
}

/// Writes a frame.
pub fn write_frame(to: &mut impl Write, header: &impl Serialize, body: &[u8]) -> io::Result<()> {
    let header = serde_json::to_vec(header).map_err(io::Error::other)?;
    let too_long = || io::Error::other("a frame would be too long");
    let lengths = [header.len(), body.len()].map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
    if lengths[0] > MAX_HEADER_BYTES || lengths[1] > MAX_BODY_BYTES {
        return Err(too_long());
    }
    let mut begin = Vec::with_capacity(12 + header.len());
    begin.extend_from_slice(&MAGIC);
    begin.extend(lengths.iter().flat_map(|length| length.to_le_bytes()));
    begin.extend_from_slice(&header);
    to.write_all(&begin)?;
    to.write_all(body)?;
    to.flush()
}

/// A frame whose body is still to be read.
#[derive(Debug)]
pub struct FrameHead<T> {
    /// Its header.
    pub header: T,
    /// Bytes of the body, at most [`MAX_BODY_BYTES`].
    pub body_bytes: u32,
}

/// Reads all of a frame but its body. `None`: the other side has closed the socket between two frames.
pub fn read_head<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<FrameHead<T>>> {
    let mut begin = [0u8; 12];
    let mut filled = 0;
    while filled < begin.len() {
        match from.read(&mut begin[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(bad("it is cut")),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if begin[..4] != MAGIC {
        return Err(bad("it does not begin as one"));
    }
    let number = |at: usize| {
        let bytes = [begin[at], begin[at + 1], begin[at + 2], begin[at + 3]];
        u32::from_le_bytes(bytes)
    };
    let (header_bytes, body_bytes) = (number(4), number(8));
    if header_bytes > MAX_HEADER_BYTES || body_bytes > MAX_BODY_BYTES {
        return Err(bad("it is too long"));
    }
    let header = read_exact(from, header_bytes)?;
    let header = serde_json::from_slice(&header).map_err(|_| bad("its header cannot be read"))?;
    Ok(Some(FrameHead { header, body_bytes }))
}

/// Reads the body that belongs to a head.
pub fn read_body<T>(from: &mut impl Read, head: &FrameHead<T>) -> io::Result<Vec<u8>> {
    read_exact(from, head.body_bytes)
}

fn read_exact(from: &mut impl Read, bytes: u32) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::new();
    // Memory comes with the bytes, not with the promise of them.
    from.take(bytes.into()).read_to_end(&mut buffer)?;
    match buffer.len() == bytes as usize {
        true => Ok(buffer),
        false => Err(bad("it is cut")),
    }
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a bad frame: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreErrorKind;

    fn frame() -> Vec<u8> {
        let call = Call::Put {
            key: "tag/x".into(),
            when: When::Unchanged(Version("\"abc\"".into())),
        };
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &Request { id: 7, call }, b"body").unwrap();
        bytes
    }

    fn read(mut bytes: &[u8]) -> io::Result<Option<(Request, Vec<u8>)>> {
        let Some(head) = read_head(&mut bytes)? else {
            return Ok(None);
        };
        let body = read_body(&mut bytes, &head)?;
        Ok(Some((head.header, body)))
    }

    #[test]
    fn a_frame_comes_back_and_a_cut_one_does_not() {
        let bytes = frame();
        let (request, body) = read(&bytes).unwrap().unwrap();
        assert_eq!((request.id, &body[..]), (7, &b"body"[..]));
        assert!(read(&[]).unwrap().is_none());
        for cut in 1..bytes.len() {
            assert!(read(&bytes[..cut]).is_err(), "{cut}");
        }
        let answer = Answer {
            id: 1,
            result: Err(StoreError::new(StoreErrorKind::Full, "seg/a", "no room")),
        };
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &answer, b"").unwrap();
        let head: FrameHead<Answer> = read_head(&mut &bytes[..]).unwrap().unwrap();
        assert_eq!(head.header, answer);
    }

    #[test]
    fn nonsense_is_refused() {
        let good = frame();
        for at in 0..4 {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            assert!(read(&bytes).is_err(), "byte {at}");
        }
        // Lengths beyond what a frame may have are refused before anything is read.
        for at in [7, 11] {
            let mut bytes = good.clone();
            bytes[at] = 0xff;
            let error = read(&bytes).unwrap_err();
            assert!(error.to_string().contains("too long"), "{error}");
        }
        for header in [
            "",
            "{}",
            "[]",
            r#"{"id":1,"call":"nothing"}"#,
            r#"{"id":-1,"call":{"head":{"key":"a"}}}"#,
            r#"{"id":1,"call":{"head":{"key":"a","more":1}}}"#,
        ] {
            let mut bytes = MAGIC.to_vec();
            bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&0u32.to_le_bytes());
            bytes.extend_from_slice(header.as_bytes());
            assert!(read(&bytes).is_err(), "{header}");
        }
        let too_much = vec![0; MAX_BODY_BYTES as usize + 1];
        assert!(write_frame(&mut io::sink(), &"x", &too_much).is_err());
    }
}
