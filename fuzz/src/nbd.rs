//! An NBD server on a small device, and what may be expected of its answers.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use uzram::Device;
use uzram_nbd::{Export, RunningServer, Server};

use crate::peer::{ScratchDir, talk};

/// Small, so that an input full of long reads does not take seconds.
const SIZE_BYTES: u64 = 256 << 10;
const IHAVEOPT: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;
const CHUNK: u32 = 0x668e_33ef;
const EXTENDED_REQUEST: u32 = 0x21e4_1c71;
const EXTENDED_CHUNK: u32 = 0x6e8a_278c;
const READ: u16 = 0;
const WRITE: u16 = 1;
const PAYLOAD_LEN: u16 = 1 << 5;
/// The errors that the protocol allows.
const ERRORS: [u32; 9] = [0, 1, 5, 12, 22, 28, 75, 95, 108];

/// What a client and the server agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Headers {
    /// Compact requests, simple replies.
    Simple,
    /// Compact requests, structured replies, and the one metadata context.
    Structured,
    /// Extended requests and replies, and the one metadata context.
    Extended,
}

impl Headers {
    /// All of them.
    pub const ALL: [Headers; 3] = [Headers::Simple, Headers::Structured, Headers::Extended];

    /// The headers that a byte chooses.
    pub fn of(byte: u8) -> Headers {
        Headers::ALL[usize::from(byte) % 3]
    }
}

/// A server that lives as long as the process.
pub struct Nbd {
    socket: PathBuf,
    _place: ScratchDir,
    _server: RunningServer,
}

impl Default for Nbd {
    fn default() -> Nbd {
        Nbd::new()
    }
}

impl Nbd {
    /// Serves two exports of one device.
    #[expect(
        clippy::expect_used,
        reason = "a target without a server can do nothing"
    )]
    pub fn new() -> Nbd {
        let place = ScratchDir::new();
        let socket = place.path("nbd.sock");
        let device = Device::builder(SIZE_BYTES).build().expect("a device");
        let device = Arc::new(device);
        device.write_at(&[7; 4096], 4096).expect("a write");
        let listen = format!("unix:{}", socket.display());
        let server = Server::builder()
            .workers(2)
            .export(Export::new("zram0", device.clone()).description("one"))
            .export(Export::new("other", device).read_only(true))
            .bind(&listen.parse().expect("an address"))
            .and_then(Server::start)
            .expect("a server");
        Nbd {
            socket,
            _place: place,
            _server: server,
        }
    }

    /// Says this and hangs up; returns what was answered.
    pub fn talk(&self, said: &[u8]) -> Vec<u8> {
        talk(&self.socket, said, true)
    }

    /// Panics unless a decent client is served.
    pub fn check_alive(&self) {
        let mut said = handshake(Headers::Simple);
        said.extend(request(Headers::Simple, READ, 9, 0, 4096));
        let heard = self.talk(&said);
        let replies = &heard[heard.len().saturating_sub(16 + 4096)..];
        assert_eq!(replies[..4], SIMPLE_REPLY.to_be_bytes());
        assert_eq!(replies[4..16], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    }
}

fn option(kind: u32, data: &[u8]) -> Vec<u8> {
    let len = data.len() as u32;
    [
        &IHAVEOPT.to_be_bytes()[..],
        &kind.to_be_bytes(),
        &len.to_be_bytes(),
        data,
    ]
    .concat()
}

/// A handshake that ends in the transmission phase.
pub fn handshake(headers: Headers) -> Vec<u8> {
    let mut said = 3u32.to_be_bytes().to_vec();
    if headers != Headers::Simple {
        let kind = if headers == Headers::Extended { 11 } else { 8 };
        said.extend(option(kind, b""));
        let context = [
            &5u32.to_be_bytes()[..],
            b"zram0",
            &1u32.to_be_bytes(),
            &15u32.to_be_bytes(),
            b"base:allocation",
        ];
        said.extend(option(10, &context.concat()));
    }
    said.extend(option(7, b"\0\0\0\x05zram0\0\0"));
    said
}

/// A request without flags and without payload.
pub fn request(headers: Headers, kind: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let extended = headers == Headers::Extended;
    let magic = if extended { EXTENDED_REQUEST } else { REQUEST };
    // 64 bits of length in place of 32.
    let high: &[u8] = if extended { &[0; 4] } else { &[] };
    [
        &magic.to_be_bytes()[..],
        &[0, 0],
        &kind.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        high,
        &len.to_be_bytes(),
    ]
    .concat()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Checks the server's part of a handshake: greeting, then replies to options, each whole but perhaps the last. Returns what
/// comes after them.
pub fn after_handshake(heard: &[u8]) -> &[u8] {
    if heard.len() < 18 {
        return b"";
    }
    assert!(heard.starts_with(b"NBDMAGICIHAVEOPT"), "no greeting");
    let mut rest = &heard[18..];
    while u64_at(rest, 0) == Some(OPTION_REPLY) {
        let Some(len) = u32_at(rest, 16) else {
            return b"";
        };
        rest = rest.get(20 + len as usize..).unwrap_or_default();
    }
    rest
}

/// What a server reads of a request.
#[derive(Debug, Clone, Copy)]
struct Asked {
    kind: u16,
    offset: u64,
    len: u64,
}

/// The requests that a server reads from what a client says, by cookie. `None` for a cookie that two have.
fn requests(headers: Headers, mut said: &[u8]) -> HashMap<u64, Option<Asked>> {
    let extended = headers == Headers::Extended;
    let magic = if extended { EXTENDED_REQUEST } else { REQUEST };
    let mut found = HashMap::new();
    while u32_at(said, 0) == Some(magic)
        && let (Some(flags), Some(kind)) = (u16_at(said, 4), u16_at(said, 6))
        && let (Some(cookie), Some(offset)) = (u64_at(said, 8), u64_at(said, 16))
        && let Some(len) = match extended {
            true => u64_at(said, 24),
            false => u32_at(said, 24).map(u64::from),
        }
    {
        let known = found.contains_key(&cookie);
        found.insert(cookie, (!known).then_some(Asked { kind, offset, len }));
        let has_payload = match extended {
            true => flags & PAYLOAD_LEN != 0,
            false => kind == WRITE,
        };
        let header = if extended { 32 } else { 28 };
        let payload = if has_payload { len } else { 0 };
        let whole = usize::try_from(payload).unwrap_or(usize::MAX);
        said = said.get(header..).unwrap_or_default();
        said = said.get(whole..).unwrap_or_default();
    }
    found
}

/// Checks replies in the transmission phase: each answers a request that was made, with an error that the protocol has, and
/// in the form that was agreed on. Returns how many requests were answered with success.
pub fn check_replies(headers: Headers, said: &[u8], mut heard: &[u8]) -> usize {
    let requests = requests(headers, said);
    let mut succeeded = 0;
    while let Some(magic) = u32_at(heard, 0) {
        let in_form = match headers {
            Headers::Simple => magic == SIMPLE_REPLY,
            Headers::Structured => magic == SIMPLE_REPLY || magic == CHUNK,
            Headers::Extended => magic == EXTENDED_CHUNK,
        };
        assert!(in_form, "a reply begins with {magic:#x}");
        let Some(cookie) = u64_at(heard, 8) else {
            break;
        };
        let asked = requests.get(&cookie);
        assert!(asked.is_some(), "nobody asked for {cookie:#x}");
        let Some(Some(asked)) = asked else {
            break;
        };
        if magic == SIMPLE_REPLY {
            let error = u32_at(heard, 4).unwrap_or_default();
            assert!(ERRORS.contains(&error), "error {error}");
            succeeded += usize::from(error == 0);
            let has_data = asked.kind == READ && error == 0;
            let data = if has_data { asked.len as usize } else { 0 };
            heard = heard.get(16 + data..).unwrap_or_default();
            continue;
        }
        let (header, len) = match headers {
            Headers::Extended => (32, u64_at(heard, 24)),
            _ => (20, u32_at(heard, 16).map(u64::from)),
        };
        let (Some(kind), Some(len)) = (u16_at(heard, 6), len) else {
            break;
        };
        if headers == Headers::Extended {
            assert_eq!(u64_at(heard, 16), Some(asked.offset), "another request's");
            assert_ne!(kind, 5, "a status of 32 bits");
        }
        succeeded += usize::from(kind & 0x8000 == 0);
        let payload = heard.get(header..).unwrap_or_default();
        if kind == 6
            && let Some(count) = u32_at(payload, 4)
        {
            assert_eq!(len, 8 + 16 * u64::from(count));
        }
        heard = payload.get(len as usize..).unwrap_or_default();
    }
    succeeded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decent_client_is_served_and_its_replies_are_counted() {
        let server = Nbd::new();
        server.check_alive();
        for headers in Headers::ALL {
            let said = [
                request(headers, READ, 1, 4096, 8192),
                request(headers, 9, 2, 0, 0),
            ]
            .concat();
            let heard = server.talk(&[handshake(headers), said.clone()].concat());
            let replies = after_handshake(&heard);
            assert!(check_replies(headers, &said, replies) >= 1, "{headers:?}");
        }
    }

    #[test]
    #[should_panic(expected = "nobody asked")]
    fn a_reply_to_nothing_is_noticed() {
        let mut reply = SIMPLE_REPLY.to_be_bytes().to_vec();
        reply.extend([0; 12]);
        let headers = Headers::Simple;
        check_replies(headers, &request(headers, READ, 1, 0, 512), &reply);
    }
}
