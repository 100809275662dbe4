//! The process that reads a remote or a sealed file for a device, or keeps a device's backing there: `uzram read-remote`.
//!
//! A server has the rights and the memory of its device, and must not wait for a store's client, nor keep its credentials. So a
//! process beside it opens the remote, holds the lease, and answers what a [`Source`] is asked. The two speak over sockets that
//! nobody else has: one for life and death, and some for requests, one at a time each. So a demand never queues behind a
//! hydration. Of a sealed snapshot this process has the keys, and nobody else: neither keeper nor server.
//!
//! It ends with its sockets. Where the other side said goodbye it gives its lease back; else it leaves that to expire, so that who
//! takes the device over finds the snapshot.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use uzram::uzram_backing::SegmentStore;
use uzram_snapshot::{Digest, Kind, Source};
use uzram_spec::{Failure, Result, SnapshotSource};

use crate::process;

/// Requests at once: those of four threads that fetch for requests, and of those that hydrate; of a backing, those of five that
/// read, of two that write, and of one that deletes.
const CHANNELS: usize = 8;
/// Most bytes of an answer: more than any part has.
const MAX_ANSWER_BYTES: u64 = 128 << 20;
/// Most bytes of words.
const MAX_WORDS_BYTES: u64 = 64 << 10;
/// Says goodbye.
const BYE: u8 = b'.';
/// Bytes of a request: what is asked, the part's kind and name, and the range.
const REQUEST_BYTES: usize = 2 + 32 + 16;
/// Kinds of parts that are asked for, by their code.
const KINDS: [Kind; 4] = [Kind::Manifest, Kind::Index, Kind::Dictionary, Kind::Segment];
/// How long the process tries to delete a backing whose device is gone, and its pauses.
const RETIRE_PATIENCE: Duration = Duration::from_secs(600);
const RETIRE_PAUSE: Duration = Duration::from_secs(2);
/// How long the process may take to take its sockets.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the process is to open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteOrder {
    /// The remote and the tag, `NAME/TAG`.
    pub remote: String,
    /// The snapshot's name, where the tag may name another one by now.
    pub snapshot: Option<String>,
    /// Whether it will be read from its beginning to its end.
    pub in_order: bool,
    /// The trace that is read and written, if there is one.
    #[serde(default)]
    pub trace: Option<String>,
    /// Instead of a remote: a file, and those of its parents.
    #[serde(default)]
    pub files: Vec<PathBuf>,
    /// Files with identities, of a sealed snapshot.
    #[serde(default)]
    pub identities: Vec<PathBuf>,
    /// And one with its passphrase.
    #[serde(default)]
    pub passphrase_file: Option<PathBuf>,
    /// The device's backing there, where it is not a snapshot that is read.
    #[serde(default)]
    pub backing: Option<BackingOrder>,
    /// Whether the process has let go of what it inherited.
    #[serde(default)]
    bare: bool,
}

/// Which backing a process is to open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackingOrder {
    /// Which place it is: random.
    pub id: [u8; 16],
    /// The device.
    pub device: String,
    /// Its identity.
    pub identity: String,
    /// The file that has its identity, as long as it lives.
    pub description: PathBuf,
    /// Whether the prefix is not the device's yet.
    pub is_new: bool,
}

impl RemoteOrder {
    pub(crate) fn new(of: &SnapshotSource) -> RemoteOrder {
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        RemoteOrder {
            remote: of.remote.clone(),
            snapshot: given(&of.snapshot),
            in_order: !of.lazy,
            trace: given(&of.trace),
            files: match of.is_remote() {
                true => Vec::new(),
                false => std::iter::once(&of.file)
                    .chain(&of.parents)
                    .cloned()
                    .collect(),
            },
            identities: of.identities.clone(),
            passphrase_file: of.passphrase_file.clone(),
            backing: None,
            bare: false,
        }
    }

    pub(crate) fn backing(remote: &str, backing: BackingOrder) -> RemoteOrder {
        RemoteOrder {
            remote: remote.into(),
            snapshot: None,
            in_order: false,
            trace: None,
            files: Vec::new(),
            identities: Vec::new(),
            passphrase_file: None,
            backing: Some(backing),
            bare: false,
        }
    }

    /// Where the snapshot is, for messages.
    pub fn place(&self) -> String {
        match self.files.first() {
            Some(file) => file.display().to_string(),
            None => self.remote.clone(),
        }
    }

    fn arguments(&self) -> [String; 2] {
        let state = serde_json::to_string(self).unwrap_or_default();
        ["read-remote".into(), state]
    }
}

/// A place for one trace: frames of a snapshot that a workload needs.
pub trait TraceStore: Send + Sync {
    /// The frames; none where there is no trace yet.
    fn load(&self) -> io::Result<Vec<u32>>;

    /// Adds frames to those that are there.
    fn add(&self, frames: &[u32]) -> io::Result<()>;
}

/// What a process of this kind has opened.
#[derive(Debug)]
pub enum OpenedRemote {
    /// A snapshot, to be read.
    Snapshot(OpenRemote),
    /// A device's backing.
    Backing(OpenBacking),
}

/// A device's backing that a process serves.
pub struct OpenBacking(pub Arc<dyn SegmentStore>);

impl std::fmt::Debug for OpenBacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenBacking")
    }
}

/// A snapshot that a process serves.
pub struct OpenRemote {
    /// The snapshot's name.
    pub snapshot: Digest,
    /// What it is called where it is stored: another one for a sealed snapshot of a remote. A device's description has this.
    pub stored: Digest,
    /// Where its parts are.
    pub source: Arc<dyn Source>,
    /// Where its trace is.
    pub trace: Arc<dyn TraceStore>,
    /// Kept until goodbye is said.
    pub lease: Box<dyn std::any::Any + Send>,
}

impl std::fmt::Debug for OpenRemote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("OpenRemote");
        out.field("snapshot", &self.snapshot)
            .finish_non_exhaustive()
    }
}

/// The process, from the side of the device.
pub(crate) struct RemoteProcess {
    child: Option<Child>,
    life: UnixStream,
    channels: Mutex<Vec<UnixStream>>,
    freed: Condvar,
    /// The snapshot's name, and what it is called where it is stored; or why there is none.
    opened: OnceLock<Result<(Digest, Digest)>>,
    is_broken: AtomicBool,
    /// Whether it reads files.
    has_files: bool,
    remote: String,
}

impl RemoteProcess {
    /// Starts it. Whether it can open the remote is not waited for.
    pub(crate) fn start(order: &RemoteOrder) -> Result<RemoteProcess> {
        let failed = |error: io::Error| {
            Failure::failed(format!(
                "{}: the process that reads it cannot be started: {error}",
                order.place()
            ))
        };
        for path in order.identities.iter().chain(&order.passphrase_file) {
            // The process would wait for whoever writes to it, for ever, and nobody for the process.
            if path.metadata().is_ok_and(|found| !found.is_file()) {
                let message = format!("{}: it is no regular file", path.display());
                return Err(Failure::usage(message)
                    .with_hint("a process of the device reads it, also when it starts anew"));
            }
        }
        let pairs: io::Result<Vec<_>> = (0..CHANNELS).map(|_| UnixStream::pair()).collect();
        let (channels, others): (Vec<_>, Vec<_>) = pairs.map_err(failed)?.into_iter().unzip();
        let (life, stdin) = UnixStream::pair().map_err(failed)?;
        // They wait there until the process takes them.
        send_files(&life, &others).map_err(failed)?;
        let mut command = process::device_process();
        command.args(order.arguments()).stdin(OwnedFd::from(stdin));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        // An interrupt is for whoever waits for the device, who says goodbye.
        command.process_group(0);
        let child = {
            let _alone = process::alone_to_spawn();
            command.spawn().map_err(failed)?
        };
        Ok(RemoteProcess {
            child: Some(child),
            life,
            channels: Mutex::new(channels),
            freed: Condvar::new(),
            opened: OnceLock::new(),
            is_broken: AtomicBool::new(false),
            has_files: !order.files.is_empty(),
            remote: order.place(),
        })
    }

    /// The snapshot's name, once the process has opened the remote.
    pub(crate) fn snapshot(&self) -> Result<Digest> {
        let opened = self.opened.get_or_init(|| self.hear());
        opened.clone().map(|(snapshot, _)| snapshot)
    }

    /// What it is called where it is stored.
    pub(crate) fn stored(&self) -> Result<Digest> {
        let opened = self.opened.get_or_init(|| self.hear());
        opened.clone().map(|(_, stored)| stored)
    }

    fn hear(&self) -> Result<(Digest, Digest)> {
        let heard = read_words(&mut &self.life);
        let heard = heard.inspect_err(|_| self.is_broken.store(true, Relaxed));
        let words = heard.map_err(|error| self.ended(&error))?;
        let said: Result<[String; 2]> = serde_json::from_slice(&words)
            .map_err(|error| Failure::failed(format!("{}: {error}", self.remote)))?;
        let [snapshot, stored] = said.inspect_err(|_| self.is_broken.store(true, Relaxed))?;
        let name = |text: String| {
            text.parse()
                .map_err(|error| Failure::failed(format!("{}: its name: {error}", self.remote)))
        };
        Ok((name(snapshot)?, name(stored)?))
    }

    fn ended(&self, error: &io::Error) -> Failure {
        Failure::failed(format!(
            "{}: the process that reads it has ended ({error})",
            self.remote
        ))
    }

    /// Whether another one may find what this one did not: a file may have been replaced.
    pub(crate) fn may_be_stale(&self) -> bool {
        self.has_files || self.is_broken()
    }

    /// Waits until it has opened the remote.
    pub(crate) fn opened(&self) -> Result {
        self.snapshot().map(drop)
    }

    /// Whether another one must be started.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken.load(Relaxed)
    }

    fn ask(&self, request: &Request, payload: &[u8]) -> io::Result<Vec<u8>> {
        self.snapshot().map_err(io::Error::other)?;
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let mut channel = loop {
            match channels.pop() {
                Some(channel) => break channel,
                None if self.is_broken() => {
                    return Err(io::Error::other(self.ended(&ErrorKind::BrokenPipe.into())));
                }
                None => {
                    channels = self
                        .freed
                        .wait(channels)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        drop(channels);
        let answered = channel
            .write_all(&request.bytes())
            .and_then(|()| channel.write_all(payload))
            .and_then(|()| read_answer(&mut channel));
        match answered {
            Ok(answer) => {
                let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
                channels.push(channel);
                self.freed.notify_one();
                answer
            }
            Err(error) => {
                self.is_broken.store(true, Relaxed);
                self.freed.notify_all();
                Err(io::Error::other(self.ended(&error)))
            }
        }
    }
}

impl Source for RemoteProcess {
    fn size_bytes(&self, kind: Kind, name: Digest) -> io::Result<u64> {
        let answer = self.ask(&Request::Size(kind, name), &[])?;
        let bytes = <[u8; 8]>::try_from(&answer[..]);
        bytes
            .map(u64::from_le_bytes)
            .map_err(|_| ErrorKind::InvalidData.into())
    }

    fn get_range(&self, kind: Kind, name: Digest, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.ask(&Request::Range(kind, name, range), &[])
    }
}

impl TraceStore for RemoteProcess {
    fn load(&self) -> io::Result<Vec<u32>> {
        Ok(to_frames(&self.ask(&Request::LoadTrace, &[])?))
    }

    fn add(&self, frames: &[u32]) -> io::Result<()> {
        let payload = to_bytes(frames);
        let request = Request::AddToTrace(payload.len() as u64);
        self.ask(&request, &payload).map(drop)
    }
}

/// Of a backing.
impl RemoteProcess {
    pub(crate) fn put_object(&self, number: u64, bytes: &[u8]) -> io::Result<()> {
        let request = Request::PutObject(number, bytes.len() as u64);
        self.ask(&request, bytes).map(drop)
    }

    pub(crate) fn get_object(&self, number: u64, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.ask(&Request::GetObject(number, range), &[])
    }

    pub(crate) fn delete_object(&self, number: u64) -> io::Result<()> {
        self.ask(&Request::DeleteObject(number), &[]).map(drop)
    }

    pub(crate) fn list_objects(&self) -> io::Result<Vec<u64>> {
        let answer = self.ask(&Request::ListObjects, &[])?;
        let numbers = answer.as_chunks::<8>().0.iter();
        Ok(numbers.map(|number| u64::from_le_bytes(*number)).collect())
    }

    /// Has everything deleted. Returns what is left, in words.
    pub(crate) fn retire(&self) -> io::Result<Option<String>> {
        let words = self.ask(&Request::Retire, &[])?;
        let words = String::from_utf8_lossy(&words).into_owned();
        Ok((!words.is_empty()).then_some(words))
    }
}

impl RemoteProcess {
    /// Tells it that nobody will need it any more.
    pub(crate) fn say_goodbye(&self) {
        let _ = (&self.life).write_all(&[BYE]);
        let _ = self.life.shutdown(std::net::Shutdown::Write);
    }
}

impl Drop for RemoteProcess {
    fn drop(&mut self) {
        self.say_goodbye();
        if let Some(child) = self.child.take() {
            process::reap_later(child);
        }
    }
}

/// What is asked of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Request {
    Size(Kind, Digest),
    Range(Kind, Digest, Range<u64>),
    LoadTrace,
    /// So many bytes follow.
    AddToTrace(u64),
    /// So many bytes follow, of the object with that number.
    PutObject(u64, u64),
    GetObject(u64, Range<u64>),
    DeleteObject(u64),
    ListObjects,
    Retire,
}

impl Request {
    fn bytes(&self) -> [u8; REQUEST_BYTES] {
        let none = (0, Kind::Manifest, Digest([0; 32]), 0..0);
        let (what, kind, name, range) = match self {
            Request::Size(kind, name) => (1, *kind, *name, 0..0),
            Request::Range(kind, name, range) => (2, *kind, *name, range.clone()),
            Request::LoadTrace => (3, none.1, none.2, none.3),
            Request::AddToTrace(bytes) => (4, none.1, none.2, 0..*bytes),
            Request::PutObject(number, bytes) => (5, none.1, of_number(*number), 0..*bytes),
            Request::GetObject(number, range) => (6, none.1, of_number(*number), range.clone()),
            Request::DeleteObject(number) => (7, none.1, of_number(*number), none.3),
            Request::ListObjects => (8, none.1, none.2, none.3),
            Request::Retire => (9, none.1, none.2, none.3),
        };
        let mut bytes = [0; REQUEST_BYTES];
        bytes[0] = what;
        let code = KINDS.iter().position(|other| *other == kind);
        bytes[1] = code.map_or(u8::MAX, |code| code as u8);
        bytes[2..34].copy_from_slice(&name.0);
        bytes[34..42].copy_from_slice(&range.start.to_le_bytes());
        bytes[42..].copy_from_slice(&range.end.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8; REQUEST_BYTES]) -> Option<Request> {
        let number = |at: usize| {
            let bytes = bytes[at..].first_chunk();
            bytes.copied().map(u64::from_le_bytes)
        };
        let range = number(34)?..number(42)?;
        let is_range = range.start <= range.end && range.end - range.start <= MAX_ANSWER_BYTES;
        is_range.then_some(())?;
        let kind = *KINDS.get(usize::from(bytes[1]))?;
        let name = Digest(*bytes[2..].first_chunk()?);
        Some(match bytes[0] {
            1 => Request::Size(kind, name),
            2 => Request::Range(kind, name, range),
            3 => Request::LoadTrace,
            4 => Request::AddToTrace(range.end),
            5 => Request::PutObject(number(2)?, range.end),
            6 => Request::GetObject(number(2)?, range),
            7 => Request::DeleteObject(number(2)?),
            8 => Request::ListObjects,
            9 => Request::Retire,
            _ => return None,
        })
    }

    /// Answers it. What is wrong with the connection is the outer error.
    fn answer(&self, opened: &Answering, from: &mut impl Read) -> io::Result<io::Result<Vec<u8>>> {
        match opened {
            Answering::Snapshot(opened) => self.answer_of_snapshot(opened, from),
            Answering::Backing(store) => self.answer_of_backing(&**store, from),
        }
    }

    fn answer_of_backing(
        &self,
        store: &dyn SegmentStore,
        from: &mut impl Read,
    ) -> io::Result<io::Result<Vec<u8>>> {
        Ok(match self {
            Request::PutObject(number, bytes) => {
                let mut object = vec![0; *bytes as usize];
                from.read_exact(&mut object)?;
                store.put(*number, &object).map(|()| Vec::new())
            }
            Request::GetObject(number, range) => store.get(*number, range.clone()),
            Request::DeleteObject(number) => store.delete(*number).map(|()| Vec::new()),
            Request::ListObjects => store.list().map(|numbers| {
                let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
                bytes.collect()
            }),
            Request::Retire => Ok(store.retire().unwrap_or_default().into_bytes()),
            _ => return Err(ErrorKind::InvalidInput.into()),
        })
    }

    fn answer_of_snapshot(
        &self,
        opened: &AnsweringSnapshot,
        from: &mut impl Read,
    ) -> io::Result<io::Result<Vec<u8>>> {
        Ok(match self {
            Request::Size(kind, name) => {
                let size = opened.source.size_bytes(*kind, *name);
                size.map(|size| size.to_le_bytes().into())
            }
            Request::Range(kind, name, range) => {
                opened.source.get_range(*kind, *name, range.clone())
            }
            Request::LoadTrace => opened.trace.load().map(|frames| to_bytes(&frames)),
            Request::AddToTrace(bytes) => {
                let mut frames = vec![0; *bytes as usize];
                from.read_exact(&mut frames)?;
                opened.trace.add(&to_frames(&frames)).map(|()| Vec::new())
            }
            _ => return Err(ErrorKind::InvalidInput.into()),
        })
    }
}

/// What answers come from.
#[derive(Clone)]
enum Answering {
    Snapshot(AnsweringSnapshot),
    Backing(Arc<dyn SegmentStore>),
}

#[derive(Clone)]
struct AnsweringSnapshot {
    source: Arc<dyn Source>,
    trace: Arc<dyn TraceStore>,
}

/// A number where the name of a part stands.
fn of_number(number: u64) -> Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Digest(bytes)
}

fn to_bytes(frames: &[u32]) -> Vec<u8> {
    frames
        .iter()
        .flat_map(|frame| frame.to_le_bytes())
        .collect()
}

fn to_frames(bytes: &[u8]) -> Vec<u32> {
    let numbers = bytes.as_chunks::<4>().0.iter();
    numbers.map(|number| u32::from_le_bytes(*number)).collect()
}

/// How a failure is told: what a [`Source`] tells apart.
const TOLD: [ErrorKind; 4] = [
    ErrorKind::Other,
    ErrorKind::NotFound,
    ErrorKind::UnexpectedEof,
    // A seal is broken.
    ErrorKind::InvalidData,
];

/// An answer is a byte that says what it is, its length, and its bytes: those of a part, or words.
fn write_answer(to: &mut impl Write, answer: io::Result<Vec<u8>>) -> io::Result<()> {
    let (code, bytes) = match answer {
        Ok(bytes) => (0, bytes),
        Err(error) => {
            let told = TOLD.iter().position(|kind| *kind == error.kind());
            (1 + told.unwrap_or(0) as u8, error.to_string().into_bytes())
        }
    };
    let mut head = [code; 9];
    head[1..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    to.write_all(&head)?;
    to.write_all(&bytes)
}

fn read_answer(from: &mut impl Read) -> io::Result<io::Result<Vec<u8>>> {
    let mut code = [0];
    from.read_exact(&mut code)?;
    let most = if code[0] == 0 {
        MAX_ANSWER_BYTES
    } else {
        MAX_WORDS_BYTES
    };
    let bytes = read_counted(from, most)?;
    Ok(match code[0].checked_sub(1) {
        None => Ok(bytes),
        Some(told) => {
            let kind = TOLD.get(usize::from(told)).copied();
            let kind = kind.ok_or(ErrorKind::InvalidData)?;
            Err(io::Error::new(kind, String::from_utf8_lossy(&bytes)))
        }
    })
}

fn write_words(to: &mut impl Write, words: &[u8]) -> io::Result<()> {
    to.write_all(&(words.len() as u64).to_le_bytes())?;
    to.write_all(words)
}

fn read_words(from: &mut impl Read) -> io::Result<Vec<u8>> {
    read_counted(from, MAX_WORDS_BYTES)
}

fn read_counted(from: &mut impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut count = [0; 8];
    from.read_exact(&mut count)?;
    let count = u64::from_le_bytes(count);
    if count > most {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; count as usize];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn send_files(life: &UnixStream, files: &[UnixStream]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(CHANNELS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(ErrorKind::InvalidInput.into());
    }
    let bytes = [IoSlice::new(b"c")];
    rustix::net::sendmsg(life, &bytes, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_files(life: &UnixStream) -> io::Result<Vec<UnixStream>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(CHANNELS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(life, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            files.extend(received.map(UnixStream::from));
        }
    }
    Ok(files)
}

/// Runs `uzram read-remote`: opens the remote and answers until its sockets are closed. `open` is told what.
pub fn read_remote(state: &str, open: impl FnOnce(&RemoteOrder) -> Result<OpenedRemote>) -> Result {
    let mut order: RemoteOrder = process::state("reader", state)?;
    if !order.bare {
        // What a device's processes inherit from each other, its lock and its memory, is not to outlive them here.
        close_fds::set_fds_cloexec(3, &[]);
        order.bare = true;
        let mut again = process::device_process();
        return Err(again.args(order.arguments()).exec().into());
    }
    let stdin = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3);
    let life = UnixStream::from(stdin.map_err(io::Error::from)?);
    process::leave_terminal()?;
    life.set_read_timeout(Some(PATIENCE))?;
    let channels = receive_files(&life)?;
    life.set_read_timeout(None)?;
    if !order.identities.is_empty() || order.passphrase_file.is_some() {
        process::hide_keys();
    }
    let opened = open(&order);
    let said = opened.as_ref().map(|opened| match opened {
        OpenedRemote::Snapshot(opened) => {
            [opened.snapshot, opened.stored].map(|name| name.to_string())
        }
        // It has none.
        OpenedRemote::Backing(_) => [Digest([0; 32]), Digest([0; 32])].map(|name| name.to_string()),
    });
    let words = serde_json::to_vec(&said).map_err(Failure::failed)?;
    write_words(&mut &life, &words)?;
    let (answering, lease) = match opened? {
        OpenedRemote::Snapshot(opened) => {
            let answering = AnsweringSnapshot {
                source: opened.source,
                trace: opened.trace,
            };
            (Answering::Snapshot(answering), Some(opened.lease))
        }
        OpenedRemote::Backing(OpenBacking(store)) => (Answering::Backing(store), None),
    };
    let is_retired = Arc::new(AtomicBool::new(false));
    for mut channel in channels {
        let (answering, is_retired) = (answering.clone(), is_retired.clone());
        process::spawn("channel", move || {
            let mut request = [0; REQUEST_BYTES];
            while channel.read_exact(&mut request).is_ok() {
                // Nonsense ends the connection: nobody knows where the next request begins.
                let Some(request) = Request::parse(&request) else {
                    return;
                };
                is_retired.fetch_or(request == Request::Retire, Relaxed);
                let answered = request.answer(&answering, &mut channel);
                let answered = answered.and_then(|answer| write_answer(&mut channel, answer));
                if answered.is_err() {
                    return;
                }
            }
        })?;
    }
    let mut bye = [0];
    let is_bye = matches!((&life).read(&mut bye), Ok(1)) && bye[0] == BYE;
    match answering {
        // It expires.
        Answering::Snapshot(_) if !is_bye => std::mem::forget(lease),
        Answering::Snapshot(_) => drop(lease),
        Answering::Backing(store) => {
            if is_retired.load(Relaxed) {
                retire(&*store);
            }
            // Whoever goes on with the device needs the lease.
            std::mem::forget(store);
        }
    }
    Ok(())
}

/// Deletes what is left of a backing, as long as there is hope.
fn retire(store: &dyn SegmentStore) {
    let begin = Instant::now();
    while store.retire().is_some() && begin.elapsed() < RETIRE_PATIENCE {
        std::thread::sleep(RETIRE_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_back_and_nonsense_is_not() {
        let name = Digest([7; 32]);
        for request in [
            Request::Size(Kind::Manifest, name),
            Request::Range(Kind::Segment, name, 5..1 << 20),
            Request::Range(Kind::Index, name, 9..9),
            Request::LoadTrace,
            Request::AddToTrace(400),
            Request::PutObject(u64::MAX, 4 << 20),
            Request::GetObject(7, 64..4164),
            Request::DeleteObject(9),
            Request::ListObjects,
            Request::Retire,
        ] {
            assert_eq!(Request::parse(&request.bytes()), Some(request));
        }
        for (start, end) in [(5, 4), (0, MAX_ANSWER_BYTES + 1), (0, u64::MAX)] {
            let wrong = Range { start, end };
            let bytes = Request::Range(Kind::Segment, name, wrong).bytes();
            assert!(Request::parse(&bytes).is_none());
        }
        assert!(Request::parse(&[0xFF; REQUEST_BYTES]).is_none());
        assert!(Request::parse(&[0; REQUEST_BYTES]).is_none());
        assert_eq!(to_frames(&to_bytes(&[0, 7, u32::MAX])), [0, 7, u32::MAX]);
    }

    #[test]
    fn answers_tell_what_a_source_tells() {
        let back = |answer| {
            let mut bytes = Vec::new();
            write_answer(&mut bytes, answer).unwrap();
            read_answer(&mut &bytes[..]).unwrap()
        };
        assert_eq!(back(Ok(vec![1, 2, 3])).unwrap(), [1, 2, 3]);
        for (kind, told) in [
            (ErrorKind::NotFound, ErrorKind::NotFound),
            (ErrorKind::UnexpectedEof, ErrorKind::UnexpectedEof),
            (ErrorKind::InvalidData, ErrorKind::InvalidData),
            (ErrorKind::TimedOut, ErrorKind::Other),
        ] {
            let error = back(Err(io::Error::new(kind, "words"))).unwrap_err();
            assert_eq!((error.kind(), error.to_string()), (told, "words".into()));
        }
        // Cut, too long, of no kind.
        for wrong in [
            &[0][..],
            &[0, 9, 0, 0, 0, 0, 0, 0, 0, 1],
            &[0xFF; 9],
            &[9, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert!(read_answer(&mut &wrong[..]).is_err(), "{wrong:?}");
        }
    }
}
