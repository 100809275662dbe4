//! The wire format: NBD's numbers under NBD's names, and the fixed-size messages of the transmission phase.
//!
//! Everything on the wire is big-endian. Nothing here does I/O or allocates. Lengths from the client are checked where they
//! are used, not here.

/// First eight bytes of a connection, "NBDMAGIC".
pub(crate) const INIT_PASSWD: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT": marks newstyle negotiation and each option.
pub(crate) const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// Starts each reply to an option.
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Starts each request.
pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Starts each simple reply.
pub(crate) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Starts each chunk of a structured reply.
pub(crate) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Starts each request with an extended header.
pub(crate) const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Starts each chunk of a reply with an extended header.
pub(crate) const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Longest string (name, description, error message) in bytes.
pub(crate) const MAX_STRING: usize = 4096;
/// Largest payload of one READ or WRITE in bytes, announced as the maximum block size.
pub(crate) const MAX_PAYLOAD: u32 = 32 << 20;
/// Bytes of a request without payload.
pub(crate) const REQUEST_LEN: usize = 28;
/// Bytes of a request with an extended header, without payload.
pub(crate) const EXTENDED_REQUEST_LEN: usize = 32;
/// Bytes of a simple reply without payload.
pub(crate) const SIMPLE_REPLY_LEN: usize = 16;
/// Bytes of a structured reply chunk without payload.
pub(crate) const CHUNK_LEN: usize = 20;
/// Bytes of a chunk with an extended header, without payload. No chunk's header is longer.
pub(crate) const EXTENDED_CHUNK_LEN: usize = 32;

/// The headers that client and server agreed on: which requests come, and which replies go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Headers {
    /// Compact requests, simple replies.
    Simple,
    /// Compact requests, replies in chunks where they have a payload or an error.
    Structured,
    /// Extended requests with lengths of 64 bits, replies in chunks only.
    Extended,
}

impl Headers {
    /// Bytes of a request without payload.
    pub(crate) fn request_len(self) -> usize {
        match self {
            Headers::Simple | Headers::Structured => REQUEST_LEN,
            Headers::Extended => EXTENDED_REQUEST_LEN,
        }
    }

    /// Bytes of a chunk without payload.
    pub(crate) fn chunk_len(self) -> usize {
        match self {
            Headers::Simple | Headers::Structured => CHUNK_LEN,
            Headers::Extended => EXTENDED_CHUNK_LEN,
        }
    }
}

/// Handshake flags, the same bits from the server and from the client.
pub(crate) mod handshake_flag {
    pub(crate) const FIXED_NEWSTYLE: u16 = 1 << 0;
    pub(crate) const NO_ZEROES: u16 = 1 << 1;
}

/// Options that the server knows. Any other gets `NBD_REP_ERR_UNSUP`.
pub(crate) mod opt {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const STARTTLS: u32 = 5;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
    pub(crate) const LIST_META_CONTEXT: u32 = 9;
    pub(crate) const SET_META_CONTEXT: u32 = 10;
    pub(crate) const EXTENDED_HEADERS: u32 = 11;
}

/// Types of option replies.
pub(crate) mod rep {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const META_CONTEXT: u32 = 4;
    pub(crate) const ERR_UNSUP: u32 = (1 << 31) + 1;
    pub(crate) const ERR_POLICY: u32 = (1 << 31) + 2;
    pub(crate) const ERR_INVALID: u32 = (1 << 31) + 3;
    pub(crate) const ERR_TLS_REQD: u32 = (1 << 31) + 5;
    pub(crate) const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    pub(crate) const ERR_SHUTDOWN: u32 = (1 << 31) + 7;
    pub(crate) const ERR_TOO_BIG: u32 = (1 << 31) + 9;
    pub(crate) const ERR_EXT_HEADER_REQD: u32 = (1 << 31) + 10;
}

/// Information types of `NBD_OPT_INFO` and `NBD_OPT_GO`.
pub(crate) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const DESCRIPTION: u16 = 2;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags.
pub(crate) mod flag {
    pub(crate) const HAS_FLAGS: u16 = 1 << 0;
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const SEND_FLUSH: u16 = 1 << 2;
    pub(crate) const SEND_FUA: u16 = 1 << 3;
    pub(crate) const SEND_TRIM: u16 = 1 << 5;
    pub(crate) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(crate) const SEND_DF: u16 = 1 << 7;
    pub(crate) const CAN_MULTI_CONN: u16 = 1 << 8;
    pub(crate) const SEND_CACHE: u16 = 1 << 10;
    pub(crate) const SEND_FAST_ZERO: u16 = 1 << 11;
    pub(crate) const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Request types.
pub(crate) mod cmd {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISC: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const CACHE: u16 = 5;
    pub(crate) const WRITE_ZEROES: u16 = 6;
    pub(crate) const BLOCK_STATUS: u16 = 7;
}

/// Command flags.
pub(crate) mod cmd_flag {
    pub(crate) const FUA: u16 = 1 << 0;
    pub(crate) const NO_HOLE: u16 = 1 << 1;
    pub(crate) const DF: u16 = 1 << 2;
    pub(crate) const REQ_ONE: u16 = 1 << 3;
    pub(crate) const FAST_ZERO: u16 = 1 << 4;
    pub(crate) const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Types of structured reply chunks, and the one flag they have.
pub(crate) mod chunk {
    pub(crate) const NONE: u16 = 0;
    pub(crate) const OFFSET_DATA: u16 = 1;
    pub(crate) const OFFSET_HOLE: u16 = 2;
    pub(crate) const BLOCK_STATUS: u16 = 5;
    pub(crate) const BLOCK_STATUS_EXT: u16 = 6;
    pub(crate) const ERROR: u16 = (1 << 15) + 1;
    pub(crate) const FLAG_DONE: u16 = 1 << 0;
}

/// The one metadata context, its id on the wire, and its status flags.
pub(crate) mod allocation {
    pub(crate) const NAME: &str = "base:allocation";
    pub(crate) const NAMESPACE: &str = "base:";
    pub(crate) const ID: u32 = 1;
    pub(crate) const STATE_HOLE: u32 = 1 << 0;
    pub(crate) const STATE_ZERO: u32 = 1 << 1;
}

/// The error values that NBD allows on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum WireErrno {
    Perm = 1,
    Io = 5,
    NoMem = 12,
    Inval = 22,
    NoSpc = 28,
    Overflow = 75,
    NotSup = 95,
    Shutdown = 108,
}

impl WireErrno {
    /// The legal value nearest to a system errno.
    pub(crate) fn from_system(errno: i32) -> Self {
        const EROFS: i32 = 30;
        const EFBIG: i32 = 27;
        const EDQUOT: i32 = 122;
        match errno {
            1 | EROFS => WireErrno::Perm,
            12 => WireErrno::NoMem,
            22 => WireErrno::Inval,
            28 | EFBIG | EDQUOT => WireErrno::NoSpc,
            75 => WireErrno::Overflow,
            95 => WireErrno::NotSup,
            108 => WireErrno::Shutdown,
            // The client cannot act upon any other.
            _ => WireErrno::Io,
        }
    }
}

/// A request, without the payload that may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestHeader {
    pub(crate) flags: u16,
    pub(crate) kind: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    /// What the request covers of the export. Where there is a payload: its bytes, which a WRITE covers, too.
    pub(crate) len: u64,
    /// Whether `len` bytes follow.
    pub(crate) has_payload: bool,
}

impl RequestHeader {
    /// Parses the beginning of `bytes`, if there is enough of it. The error is the number that stood in the magic's place.
    pub(crate) fn parse(headers: Headers, bytes: &[u8]) -> Option<Result<Self, u32>> {
        let bytes = bytes.get(..headers.request_len())?;
        let magic = u32_at(bytes, 0);
        let expected = match headers {
            Headers::Simple | Headers::Structured => REQUEST_MAGIC,
            Headers::Extended => EXTENDED_REQUEST_MAGIC,
        };
        if magic != expected {
            return Some(Err(magic));
        }
        let (flags, kind) = (u16_at(bytes, 4), u16_at(bytes, 6));
        let (len, has_payload) = match headers {
            Headers::Simple | Headers::Structured => (u32_at(bytes, 24).into(), kind == cmd::WRITE),
            Headers::Extended => (u64_at(bytes, 24), flags & cmd_flag::PAYLOAD_LEN != 0),
        };
        Some(Ok(RequestHeader {
            flags,
            kind,
            cookie: u64_at(bytes, 8),
            offset: u64_at(bytes, 16),
            len,
            has_payload,
        }))
    }

    /// Bytes of payload that follow the request.
    pub(crate) fn payload_len(&self) -> u64 {
        if self.has_payload { self.len } else { 0 }
    }

    /// Estimates how long the request takes: the number of bytes that take as long to compress.
    pub(crate) fn cost(&self) -> usize {
        // What is longer is refused or costs nothing. The costs of all pending requests can be added up.
        let len = self.len.min(u32::MAX.into()) as usize;
        match self.kind {
            cmd::WRITE => len,
            // Decompression is several times faster than compression.
            cmd::READ => len / 4,
            // Dropping a page or looking it up costs next to nothing.
            _ => 512 + len / 64,
        }
    }
}

/// The header of a simple reply; no error means success.
pub(crate) fn simple_reply(cookie: u64, error: Option<WireErrno>) -> [u8; SIMPLE_REPLY_LEN] {
    let mut out = [0; SIMPLE_REPLY_LEN];
    out[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    out[4..8].copy_from_slice(&error.map_or(0, |e| e as u32).to_be_bytes());
    out[8..].copy_from_slice(&cookie.to_be_bytes());
    out
}

/// Writes the header of one chunk, with `len` bytes of payload, to the beginning of `out`, and returns what comes after it.
/// Panics if there is no room: the caller has made it.
pub(crate) fn put_chunk_header<'a>(
    out: &'a mut [u8],
    headers: Headers,
    request: &RequestHeader,
    kind: u16,
    done: bool,
    len: u32,
) -> &'a mut [u8] {
    let magic = match headers {
        Headers::Simple | Headers::Structured => STRUCTURED_REPLY_MAGIC,
        Headers::Extended => EXTENDED_REPLY_MAGIC,
    };
    let (header, rest) = out.split_at_mut(headers.chunk_len());
    header[..4].copy_from_slice(&magic.to_be_bytes());
    header[4..6].copy_from_slice(&(if done { chunk::FLAG_DONE } else { 0 }).to_be_bytes());
    header[6..8].copy_from_slice(&kind.to_be_bytes());
    header[8..16].copy_from_slice(&request.cookie.to_be_bytes());
    match headers {
        Headers::Simple | Headers::Structured => header[16..].copy_from_slice(&len.to_be_bytes()),
        Headers::Extended => {
            header[16..24].copy_from_slice(&request.offset.to_be_bytes());
            header[24..].copy_from_slice(&u64::from(len).to_be_bytes());
        }
    }
    rest
}

/// The header of one reply to an option with `len` bytes of data.
pub(crate) fn option_reply(option: u32, kind: u32, len: u32) -> [u8; 20] {
    let mut out = [0; 20];
    out[..8].copy_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out[8..12].copy_from_slice(&option.to_be_bytes());
    out[12..16].copy_from_slice(&kind.to_be_bytes());
    out[16..].copy_from_slice(&len.to_be_bytes());
    out
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// Reads the big-endian number at `at`. Panics beyond the end: the caller has checked the length.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

/// Reads the big-endian number at `at`. Panics beyond the end: the caller has checked the length.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

/// Reads the big-endian number at `at`. Panics beyond the end: the caller has checked the length.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magics_spell_what_the_protocol_says() {
        assert_eq!(&INIT_PASSWD.to_be_bytes(), b"NBDMAGIC");
        assert_eq!(&IHAVEOPT.to_be_bytes(), b"IHAVEOPT");
    }

    #[test]
    fn request_fields_stand_where_the_protocol_puts_them() {
        let bytes: [u8; REQUEST_LEN] = [
            0x25, 0x60, 0x95, 0x13, 0x00, 0x03, 0x00, 0x01, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0,
            1, 0, 0, 0, 0, 0x10, 0,
        ];
        let parse = |bytes: &[u8]| RequestHeader::parse(Headers::Simple, bytes);
        let request = parse(&bytes).unwrap().unwrap();
        let expected = RequestHeader {
            flags: cmd_flag::FUA | cmd_flag::NO_HOLE,
            kind: cmd::WRITE,
            cookie: 0x0102_0304_0506_0708,
            offset: 65536,
            len: 4096,
            has_payload: true,
        };
        assert_eq!(request, expected);
        assert_eq!(request.payload_len(), 4096);
        assert_eq!(parse(&bytes[..27]), None);
        let mut read = bytes;
        read[7] = 0;
        assert_eq!(parse(&read).unwrap().unwrap().payload_len(), 0);
        let mut bad = bytes;
        bad[0] = 0;
        assert_eq!(parse(&bad), Some(Err(0x0060_9513)));
        assert_eq!(
            RequestHeader::parse(Headers::Extended, &[&bytes[..], &[0; 4]].concat()),
            Some(Err(REQUEST_MAGIC))
        );
    }

    #[test]
    fn extended_request_fields_stand_where_the_protocol_puts_them() {
        let mut bytes: [u8; EXTENDED_REQUEST_LEN] = [
            0x21, 0xe4, 0x1c, 0x71, 0x00, 0x21, 0x00, 0x07, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0,
            1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12,
        ];
        let parse = |bytes: &[u8]| RequestHeader::parse(Headers::Extended, bytes);
        let request = parse(&bytes).unwrap().unwrap();
        let expected = RequestHeader {
            flags: cmd_flag::FUA | cmd_flag::PAYLOAD_LEN,
            kind: cmd::BLOCK_STATUS,
            cookie: 0x0102_0304_0506_0708,
            offset: 65536,
            len: 12,
            has_payload: true,
        };
        assert_eq!(request, expected);
        assert_eq!(parse(&bytes[..31]), None);
        // A WRITE without the flag has no payload. The length has 64 bits.
        (bytes[5], bytes[7], bytes[24]) = (0, 1, 0x80);
        let write = parse(&bytes).unwrap().unwrap();
        assert_eq!((write.len, write.payload_len()), ((1 << 63) + 12, 0));
    }

    #[test]
    fn reply_headers_stand_where_the_protocol_puts_them() {
        let cookie = 0x1122_3344_5566_7788;
        assert_eq!(
            simple_reply(cookie, Some(WireErrno::NoSpc)),
            [
                0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88
            ]
        );
        let request = RequestHeader {
            flags: 0,
            kind: cmd::READ,
            cookie,
            offset: 0x99 << 56 | 0xaa,
            len: 1,
            has_payload: false,
        };
        let mut out = [0; 40];
        let rest = put_chunk_header(
            &mut out,
            Headers::Structured,
            &request,
            chunk::ERROR,
            true,
            6,
        );
        assert_eq!(rest.len(), 20);
        assert_eq!(
            out[..20],
            [
                0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
                0x88, 0, 0, 0, 6
            ]
        );
        let (headers, kind) = (Headers::Extended, chunk::BLOCK_STATUS_EXT);
        let rest = put_chunk_header(&mut out, headers, &request, kind, false, 24);
        assert_eq!(rest.len(), 8);
        assert_eq!(
            out[..32],
            [
                0x6e, 0x8a, 0x27, 0x8c, 0, 0, 0, 6, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88,
                0x99, 0, 0, 0, 0, 0, 0, 0xaa, 0, 0, 0, 0, 0, 0, 0, 24
            ]
        );
        assert_eq!(
            option_reply(opt::GO, rep::ERR_UNKNOWN, 0),
            [
                0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 7, 0x80, 0, 0, 6, 0, 0, 0, 0
            ]
        );
    }

    #[test]
    fn every_system_errno_becomes_a_legal_one() {
        for (system, wire) in [
            (30, 1),
            (5, 5),
            (12, 12),
            (22, 22),
            (28, 28),
            (122, 28),
            (110, 5),
        ] {
            assert_eq!(
                WireErrno::from_system(system) as u32,
                wire,
                "errno {system}"
            );
        }
    }
}
