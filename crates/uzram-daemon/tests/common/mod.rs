//! An API over devices that live in the test's own process, and a client that sends bytes as they stand.

#![allow(dead_code, reason = "each test program uses a part")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use uzram_control::stat::Stat;
use uzram_control::zram::{AttributeOwner, Errno, Host, HostOptions, ShownDevice, View};
use uzram_control::{ControlError, Request, Response};
use uzram_daemon::{
    Asker, ByteStream, CreateAnswer, DeviceAnswer, Devices, HistoryAnswer, HistoryPoint, Limits,
    MeasuredDevice, Metrics, SnapshotOptions, bind, serve,
};
use uzram_spec::DeviceSpec;
use uzram_testkit::zram::InProcess;

/// The identity of each of them.
const IDENTITY: &str = "1d";

/// Devices without nodes.
pub(crate) struct Fake {
    host: Host,
    /// Whether a device that is to be made waits.
    pub(crate) gate: Mutex<bool>,
    pub(crate) opened: Condvar,
    /// Bytes that a device's description has beside the others.
    pub(crate) padding: AtomicUsize,
    /// What a snapshot answers.
    pub(crate) chunks: Mutex<Vec<Result<Vec<u8>, Errno>>>,
    /// How many streams of snapshots were begun.
    pub(crate) begun: AtomicUsize,
    /// How many of them were dropped; an answer may be whole before its stream is.
    pub(crate) dropped: Arc<AtomicUsize>,
    /// What the last restore read, and how that ended.
    pub(crate) restored: Mutex<(Vec<u8>, Option<std::io::ErrorKind>)>,
}

/// What a device's snapshot begins with here.
pub(crate) const MAGIC: &[u8] = b"snapshot";

/// A stream of chunks.
struct Chunks {
    left: std::vec::IntoIter<Result<Vec<u8>, Errno>>,
    dropped: Arc<AtomicUsize>,
}

impl ByteStream for Chunks {
    fn next(&mut self) -> Result<Option<Vec<u8>>, ControlError> {
        self.left.next().transpose().map_err(error)
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

fn error(errno: Errno) -> ControlError {
    ControlError {
        errno: errno.raw_os_error(),
        message: errno.to_string(),
    }
}

fn id(name: &str) -> Result<u32, ControlError> {
    uzram_control::number(name).ok_or_else(|| error(Errno::NODEV))
}

impl Fake {
    pub(crate) fn new() -> Arc<Fake> {
        let host = Host::new(Box::new(InProcess::new()), HostOptions { strict: true });
        Arc::new(Fake {
            host,
            gate: Mutex::new(false),
            opened: Condvar::new(),
            padding: AtomicUsize::new(0),
            chunks: Mutex::new(vec![Ok(MAGIC.to_vec())]),
            begun: AtomicUsize::new(0),
            dropped: Arc::default(),
            restored: Mutex::default(),
        })
    }

    pub(crate) fn close_gate(&self, closed: bool) {
        *self.gate.lock().unwrap() = closed;
        self.opened.notify_all();
    }
}

impl Devices for Fake {
    fn view(&self) -> &dyn View {
        &self.host
    }

    fn create(&self, spec: &DeviceSpec, _: Option<Asker>) -> Result<CreateAnswer, ControlError> {
        let closed = self.gate.lock().unwrap();
        drop(self.opened.wait_while(closed, |closed| *closed).unwrap());
        spec.check()?;
        let added = self
            .host
            .show(AttributeOwner::Control, "hot_add")
            .map_err(error)?;
        let name = format!("zram{}", String::from_utf8(added).unwrap().trim());
        let size = spec.size.map_or(1 << 20, |size| size.0).to_string();
        let owner = AttributeOwner::Device(id(&name)?);
        let made = self.host.store(owner, "disksize", size.as_bytes());
        made.map_err(|refusal| {
            let _ = self.remove(&name, None);
            error(refusal.errno)
        })?;
        Ok(CreateAnswer {
            name,
            path: String::new(),
            notes: String::new(),
            identity: IDENTITY.into(),
        })
    }

    fn confirm(&self, name: &str, identity: &str) -> Result<(), ControlError> {
        self.describe(Some(name))?;
        match identity {
            IDENTITY => Ok(()),
            _ => Err(error(Errno::NODEV)),
        }
    }

    fn remove(&self, name: &str, identity: Option<&str>) -> Result<(), ControlError> {
        if identity.is_some_and(|identity| identity != IDENTITY) {
            return Err(error(Errno::NODEV));
        }
        let id = id(name)?.to_string();
        let removed = self
            .host
            .store(AttributeOwner::Control, "hot_remove", id.as_bytes());
        removed.map_err(|refusal| error(refusal.errno))
    }

    fn ask(&self, name: &str, request: &Request) -> Result<Response, ControlError> {
        self.describe(Some(name))?;
        match request {
            Request::Ping => Ok(Response::Done),
            _ => Err(error(Errno::OPNOTSUPP)),
        }
    }

    fn snapshot(
        &self,
        name: &str,
        _: SnapshotOptions,
    ) -> Result<Box<dyn ByteStream>, ControlError> {
        self.describe(Some(name))?;
        self.begun.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Chunks {
            left: self.chunks.lock().unwrap().clone().into_iter(),
            dropped: self.dropped.clone(),
        }))
    }

    fn restore(
        &self,
        spec: DeviceSpec,
        mut snapshot: Box<dyn Read + Send>,
    ) -> Result<CreateAnswer, ControlError> {
        let mut read = vec![0; MAGIC.len()];
        let begins = snapshot.read_exact(&mut read).is_ok() && read == MAGIC;
        if !begins {
            return Err(error(Errno::INVAL));
        }
        let ended = snapshot.read_to_end(&mut read);
        let failed = ended.as_ref().err().map(std::io::Error::kind);
        *self.restored.lock().unwrap() = (read, failed);
        ended.map_err(|_| error(Errno::IO))?;
        self.create(&spec, None)
    }

    fn history(&self, name: &str) -> Result<HistoryAnswer, ControlError> {
        self.describe(Some(name))?;
        Ok(HistoryAnswer {
            name: name.into(),
            identity: IDENTITY.into(),
            intervals_seconds: vec![10],
            points: vec![HistoryPoint {
                at_seconds: 1,
                memory_bytes: 4096,
                ..HistoryPoint::default()
            }],
        })
    }

    fn metrics(&self) -> Result<Metrics, ControlError> {
        let shown = self.host.devices().map_err(error)?;
        let device = |shown: &ShownDevice| MeasuredDevice {
            name: shown.name(),
            frontend: "none".into(),
            path: shown.path.clone(),
            stat: Some(Stat::default()),
        };
        Ok(Metrics::new(shown.iter().map(device).collect()))
    }

    fn describe(&self, name: Option<&str>) -> Result<Vec<DeviceAnswer>, ControlError> {
        let shown = self.host.devices().map_err(error)?;
        let padding = self.padding.load(Ordering::Relaxed);
        let all = shown.iter().map(|shown| {
            let mut shown = shown.clone();
            shown.path += &"x".repeat(padding);
            DeviceAnswer {
                described: None,
                name: shown.name(),
                shown,
            }
        });
        let found: Vec<DeviceAnswer> = all
            .filter(|device| name.is_none_or(|name| device.name == name))
            .collect();
        match name {
            Some(_) if found.is_empty() => Err(error(Errno::NODEV)),
            _ => Ok(found),
        }
    }
}

/// A server on a socket of its own.
pub(crate) struct Api {
    _dir: tempfile::TempDir,
    pub(crate) socket: PathBuf,
    pub(crate) devices: Arc<Fake>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answered {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut found = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value)
    }

    pub(crate) fn parse(text: &str) -> Answered {
        let (head, body) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        Answered {
            status: status.unwrap_or_else(|| panic!("no status: {text:?}")),
            head: head.into(),
            body: body.into(),
        }
    }
}

impl Api {
    pub(crate) fn new(limits: Limits) -> Api {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let devices = Fake::new();
        serve(bind(&socket).unwrap(), devices.clone(), limits).unwrap();
        Api {
            _dir: dir,
            socket,
            devices,
        }
    }

    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        let patience = Some(Duration::from_secs(60));
        stream.set_read_timeout(patience).unwrap();
        stream.set_write_timeout(patience).unwrap();
        stream
    }

    /// Sends these bytes on a connection of their own; gives the whole answer.
    pub(crate) fn send(&self, bytes: &[u8]) -> Answered {
        let mut stream = self.connect();
        // Who is refused early may not be read to the end.
        let _ = stream.write_all(bytes);
        finish(stream)
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Answered {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.send(request.as_bytes())
    }

    pub(crate) fn get(&self, path: &str) -> Answered {
        self.ask("GET", path, "")
    }
}

/// Reads the answer.
pub(crate) fn finish(mut stream: UnixStream) -> Answered {
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    if text.is_empty() {
        panic!("no answer: {ended:?}");
    }
    Answered::parse(&text)
}
