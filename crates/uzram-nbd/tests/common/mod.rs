//! A server in a temporary directory, and a raw NBD client that can also send what no real client would.
// Each test file uses its part of this, and only test files do.
#![allow(dead_code, unreachable_pub)]

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use uzram::Device;
use uzram_nbd::{Export, Listen, RunningServer, Server, ServerBuilder};
use uzram_testkit::Random;

pub const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
pub const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

pub mod opt {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

pub mod rep {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUP: u32 = 0x8000_0001;
    pub const ERR_POLICY: u32 = 0x8000_0002;
    pub const ERR_INVALID: u32 = 0x8000_0003;
    pub const ERR_TLS_REQD: u32 = 0x8000_0005;
    pub const ERR_UNKNOWN: u32 = 0x8000_0006;
    pub const ERR_TOO_BIG: u32 = 0x8000_0009;
    pub const ERR_EXT_HEADER_REQD: u32 = 0x8000_000a;
}

pub mod cmd {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

pub const FUA: u16 = 1;
pub const NO_HOLE: u16 = 2;
pub const DF: u16 = 4;
pub const REQ_ONE: u16 = 8;
pub const FAST_ZERO: u16 = 16;
pub const PAYLOAD_LEN: u16 = 32;

pub const EPERM: u32 = 1;
pub const EINVAL: u32 = 22;
pub const ENOSPC: u32 = 28;
pub const EOVERFLOW: u32 = 75;

pub const MIB: u64 = 1 << 20;

/// A device of `size_bytes`.
pub fn device(size_bytes: u64) -> Arc<Device> {
    Arc::new(Device::builder(size_bytes).build().unwrap())
}

/// A running server with the export "zram0" on a unix socket of its own.
pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub path: PathBuf,
    pub device: Arc<Device>,
    pub handle: Option<RunningServer>,
}

impl Fixture {
    pub fn new(size_bytes: u64) -> Self {
        Self::with(size_bytes, |builder| builder)
    }

    pub fn with(size_bytes: u64, settings: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let device = device(size_bytes);
        let export = Export::new("zram0", Arc::clone(&device)).description("a test");
        let builder = settings(Server::builder().export(export).workers(4));
        let handle = builder
            .bind(&Listen::Unix(path.clone()))
            .unwrap()
            .start()
            .unwrap();
        Fixture {
            dir,
            path,
            device,
            handle: Some(handle),
        }
    }

    pub fn uri(&self) -> String {
        self.handle.as_ref().unwrap().uri("zram0")
    }

    /// A client that has received the greeting and sent its flags.
    pub fn haggling(&self) -> Client {
        Client::greeted(UnixStream::connect(&self.path).unwrap().into(), 3)
    }

    /// A client in the transmission phase with simple replies.
    pub fn simple(&self) -> Client {
        let mut client = self.haggling();
        client.go("zram0");
        client
    }

    /// A client in the transmission phase with structured replies and base:allocation.
    pub fn structured(&self) -> Client {
        let mut client = self.haggling();
        client.negotiate_structured("zram0");
        client.go("zram0");
        client
    }

    /// A client in the transmission phase with extended headers and base:allocation.
    pub fn extended(&self) -> Client {
        let mut client = self.haggling();
        client.negotiate_extended("zram0");
        client.go("zram0");
        client
    }

    /// Stops the server, which must work.
    pub fn stop(mut self) {
        self.handle.take().unwrap().shutdown().unwrap();
    }
}

pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        // A server that does not answer fails the test instead of hanging it.
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Stream::Unix(stream)
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Stream::Tcp(stream)
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.read(buf),
            Stream::Tcp(s) => s.read(buf),
            Stream::Tls(s) => s.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.write(buf),
            Stream::Tcp(s) => s.write(buf),
            Stream::Tls(s) => s.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Tls(s) => s.flush(),
            _ => Ok(()),
        }
    }
}

/// One message of the server in the transmission phase.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    Simple {
        error: u32,
        cookie: u64,
    },
    Chunk {
        done: bool,
        kind: u16,
        cookie: u64,
        /// With extended headers, where the request begins.
        offset: Option<u64>,
        payload: Vec<u8>,
    },
}

/// The reply to one request, put together from its messages.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub cookie: u64,
    pub error: u32,
    pub message: String,
    /// READ: the bytes; holes are filled in.
    pub data: Vec<u8>,
    /// READ: number of content chunks that were data, and that were holes.
    pub chunks: (usize, usize),
    /// BLOCK_STATUS: length and flags.
    pub status: Vec<(u64, u64)>,
}

pub struct Client {
    pub stream: Stream,
    pub server_flags: u16,
    /// Whether extended headers were agreed on.
    pub extended: bool,
}

impl Client {
    pub fn greeted(mut stream: Stream, client_flags: u32) -> Self {
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting[..8], NBDMAGIC.to_be_bytes());
        assert_eq!(greeting[8..16], IHAVEOPT.to_be_bytes());
        let server_flags = u16::from_be_bytes([greeting[16], greeting[17]]);
        stream.write_all(&client_flags.to_be_bytes()).unwrap();
        Client {
            stream,
            server_flags,
            extended: false,
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn receive<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.receive())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.receive())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.receive())
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Sends an option without waiting for a reply.
    pub fn send_option(&mut self, option: u32, data: &[u8]) {
        let mut message = IHAVEOPT.to_be_bytes().to_vec();
        message.extend(option.to_be_bytes());
        message.extend((data.len() as u32).to_be_bytes());
        message.extend(data);
        self.send(&message);
    }

    /// Sends an option and returns its replies, the last being ACK or an error.
    pub fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send_option(option, data);
        let mut replies = Vec::new();
        loop {
            assert_eq!(self.u64(), REPLY_MAGIC);
            assert_eq!(self.u32(), option);
            let kind = self.u32();
            let len = self.u32() as usize;
            replies.push((kind, self.bytes(len)));
            if kind == rep::ACK || kind >= 1 << 31 {
                return replies;
            }
        }
    }

    /// The type of the last reply to an option.
    pub fn verdict(&mut self, option: u32, data: &[u8]) -> u32 {
        self.option(option, data).last().unwrap().0
    }

    pub fn go(&mut self, name: &str) {
        assert_eq!(self.verdict(opt::GO, &info_request(name, &[])), rep::ACK);
    }

    pub fn negotiate_structured(&mut self, name: &str) {
        assert_eq!(self.verdict(opt::STRUCTURED_REPLY, &[]), rep::ACK);
        let query = context_request(name, &["base:allocation"]);
        let replies = self.option(opt::SET_META_CONTEXT, &query);
        assert_eq!(replies[0].0, rep::META_CONTEXT, "{replies:?}");
    }

    pub fn negotiate_extended(&mut self, name: &str) {
        assert_eq!(self.verdict(opt::EXTENDED_HEADERS, &[]), rep::ACK);
        self.extended = true;
        let query = context_request(name, &["base:allocation"]);
        let replies = self.option(opt::SET_META_CONTEXT, &query);
        assert_eq!(replies[0].0, rep::META_CONTEXT, "{replies:?}");
    }

    /// A request without payload, with the headers that were agreed on.
    pub fn header(&self, flags: u16, kind: u16, cookie: u64, offset: u64, len: u64) -> Vec<u8> {
        match self.extended {
            true if kind == cmd::WRITE => {
                extended_request(flags | PAYLOAD_LEN, kind, cookie, offset, len)
            }
            true => extended_request(flags, kind, cookie, offset, len),
            false => request(flags, kind, cookie, offset, len.try_into().unwrap()),
        }
    }

    pub fn request(&mut self, flags: u16, kind: u16, cookie: u64, offset: u64, len: u32) {
        self.send(&self.header(flags, kind, cookie, offset, len.into()));
    }

    /// Receives one message; `payload` tells the length of the data behind a successful simple reply.
    pub fn message(&mut self) -> Message {
        match self.u32() {
            0x6744_6698 if !self.extended => Message::Simple {
                error: self.u32(),
                cookie: self.u64(),
            },
            magic @ (0x668e_33ef | 0x6e8a_278c) if (magic == 0x6e8a_278c) == self.extended => {
                let (flags, kind, cookie) = (self.u16(), self.u16(), self.u64());
                assert!(flags <= 1, "unknown chunk flags {flags:#x}");
                let offset = self.extended.then(|| self.u64());
                let len = match self.extended {
                    true => self.u64() as usize,
                    false => self.u32() as usize,
                };
                Message::Chunk {
                    done: flags == 1,
                    kind,
                    cookie,
                    offset,
                    payload: self.bytes(len),
                }
            }
            other => panic!("{other:#x} is no reply magic"),
        }
    }

    /// Receives the whole reply to the one request in flight, a READ of `len` bytes at `offset` if it is one.
    pub fn answer(&mut self, offset: u64, len: u32) -> Answer {
        let mut answer = Answer::default();
        let mut covered = 0;
        loop {
            match self.message() {
                Message::Simple { error, cookie } => {
                    (answer.error, answer.cookie) = (error, cookie);
                    if error == 0 && len > 0 {
                        answer.data = self.bytes(len as usize);
                    }
                    return answer;
                }
                Message::Chunk {
                    done,
                    kind,
                    cookie,
                    offset: told,
                    payload,
                } => {
                    answer.cookie = cookie;
                    assert!(
                        told.is_none_or(|told| told == offset),
                        "{told:?}, not {offset}"
                    );
                    let at = |i: usize| u32::from_be_bytes(payload[i..i + 4].try_into().unwrap());
                    let place = |p: &[u8]| {
                        (u64::from_be_bytes(p[..8].try_into().unwrap()) - offset) as usize
                    };
                    answer.data.resize(len as usize, 0);
                    match kind {
                        0 => assert!(done && payload.is_empty()),
                        1 => {
                            let (start, data) = (place(&payload), &payload[8..]);
                            assert!(!data.is_empty());
                            answer.data[start..start + data.len()].copy_from_slice(data);
                            covered += data.len();
                            answer.chunks.0 += 1;
                        }
                        2 => {
                            let (start, hole) = (place(&payload), at(8) as usize);
                            assert!(payload.len() == 12 && hole > 0);
                            answer.data[start..start + hole].fill(0);
                            covered += hole;
                            answer.chunks.1 += 1;
                        }
                        5 if !self.extended => {
                            assert_eq!(at(0), 1, "the id of base:allocation");
                            let fields = payload[4..].chunks_exact(8);
                            assert!(fields.remainder().is_empty() && fields.len() > 0);
                            answer.status = (4..payload.len())
                                .step_by(8)
                                .map(|i| (at(i).into(), at(i + 4).into()))
                                .collect();
                        }
                        6 if self.extended => {
                            assert_eq!(at(0), 1, "the id of base:allocation");
                            let (count, fields) = (at(4) as usize, payload[8..].chunks_exact(16));
                            assert!(fields.remainder().is_empty() && fields.len() > 0);
                            assert_eq!(fields.len(), count);
                            let long = |p: &[u8]| u64::from_be_bytes(p.try_into().unwrap());
                            answer.status =
                                fields.map(|f| (long(&f[..8]), long(&f[8..]))).collect();
                        }
                        0x8001 => {
                            answer.error = at(0);
                            let message = &payload[6..];
                            assert_eq!(
                                message.len(),
                                usize::from(u16::from_be_bytes([payload[4], payload[5]]))
                            );
                            answer.message = String::from_utf8(message.to_vec()).unwrap();
                        }
                        other => panic!("unknown chunk type {other}"),
                    }
                    if done {
                        assert!(
                            answer.error != 0 || covered == len as usize,
                            "the chunks cover the read"
                        );
                        return answer;
                    }
                }
            }
        }
    }

    pub fn read(&mut self, offset: u64, len: u32) -> Answer {
        self.read_with(0, offset, len)
    }

    pub fn read_with(&mut self, flags: u16, offset: u64, len: u32) -> Answer {
        self.request(flags, cmd::READ, 77, offset, len);
        let answer = self.answer(offset, len);
        assert_eq!(answer.cookie, 77);
        answer
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> Answer {
        self.write_with(0, offset, data)
    }

    pub fn write_with(&mut self, flags: u16, offset: u64, data: &[u8]) -> Answer {
        let mut message = self.header(flags, cmd::WRITE, 78, offset, data.len() as u64);
        message.extend(data);
        self.send(&message);
        let answer = self.answer(offset, 0);
        assert_eq!(answer.cookie, 78);
        answer
    }

    /// A command without payload in either direction, or BLOCK_STATUS.
    pub fn command(&mut self, flags: u16, kind: u16, offset: u64, len: u32) -> Answer {
        self.long_command(flags, kind, offset, len.into())
    }

    /// The same, of a length that may need extended headers.
    pub fn long_command(&mut self, flags: u16, kind: u16, offset: u64, len: u64) -> Answer {
        self.send(&self.header(flags, kind, 79, offset, len));
        let answer = self.answer(offset, 0);
        assert_eq!(answer.cookie, 79);
        answer
    }

    /// Whether the server closes the connection without another byte.
    pub fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0]) {
            Ok(0) => true,
            Err(e) => e.kind() == io::ErrorKind::ConnectionReset,
            Ok(_) => false,
        }
    }
}

pub fn request(flags: u16, kind: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut message = 0x2560_9513_u32.to_be_bytes().to_vec();
    message.extend(flags.to_be_bytes());
    message.extend(kind.to_be_bytes());
    message.extend(cookie.to_be_bytes());
    message.extend(offset.to_be_bytes());
    message.extend(len.to_be_bytes());
    message
}

/// A request with an extended header and the flags as they are given.
pub fn extended_request(flags: u16, kind: u16, cookie: u64, offset: u64, len: u64) -> Vec<u8> {
    let mut message = 0x21e4_1c71_u32.to_be_bytes().to_vec();
    message.extend(flags.to_be_bytes());
    message.extend(kind.to_be_bytes());
    message.extend(cookie.to_be_bytes());
    message.extend(offset.to_be_bytes());
    message.extend(len.to_be_bytes());
    message
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// The data of INFO and GO.
pub fn info_request(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut data = string(name);
    data.extend((wanted.len() as u16).to_be_bytes());
    data.extend(wanted.iter().flat_map(|w| w.to_be_bytes()));
    data
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub fn context_request(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = string(name);
    data.extend((queries.len() as u32).to_be_bytes());
    data.extend(queries.iter().flat_map(|q| string(q)));
    data
}

/// Bytes that compress to about half and are different for each seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = vec![seed as u8; len];
    for noisy in bytes.chunks_mut(64) {
        let count = noisy.len().min(32);
        random.fill(&mut noisy[..count]);
    }
    bytes
}
