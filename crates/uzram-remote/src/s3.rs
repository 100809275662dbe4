//! `s3:`: a store that speaks S3, by way of a process of its own.
//!
//! The program `uzram-s3` has the client, its runtime, TLS, and the credentials; this side has a socket. So nothing of these is linked
//! into what serves devices, and a client that goes wrong takes nothing with it. The program lies beside this one or on
//! `PATH`. It ends when this side closes the socket or dies; if it dies, whatever it was asked fails in words.
//!
//! **Memory bound**: what is being asked and answered; the other process has the same once more.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::{ClientEnd, Meta, Store, StoreError, StoreErrorKind, Version, When};
use crate::wire::{self, Answer, Call, Reply, Request};

/// The program.
const PROGRAM: &str = "uzram-s3";
/// For how long it is waited for at the end: it gives up what it has begun.
const END: Duration = Duration::from_secs(7);

/// Where a store that speaks S3 is. Has no credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Address {
    /// The bucket.
    pub bucket: String,
    /// What the keys begin with; no `/` at its end. May be empty.
    pub prefix: String,
    /// `http://` or `https://`, host and port. `None`: Amazon's, by the region.
    pub endpoint: Option<String>,
    /// The region. `None`: as the environment and the profile say.
    pub region: Option<String>,
    /// The profile of `~/.aws` that has the credentials. `None`: as the environment says.
    pub profile: Option<String>,
}

impl S3Address {
    /// Reads `s3://bucket/prefix`. What no such address can be is refused in words.
    pub fn parse(url: &str) -> Result<S3Address> {
        // What is written before a @ may be a key: it is not repeated.
        if url.contains('@') {
            let message = "an address has no credentials in it: they come from AWS_ACCESS_KEY_ID and \
                AWS_SECRET_ACCESS_KEY, or from ~/.aws/credentials";
            return Err(Error::Usage(message.into()));
        }
        let wrong = |why: &str| Error::Usage(format!("{url} is no s3://BUCKET/PREFIX: {why}"));
        let rest = url.strip_prefix("s3://");
        let rest = rest.ok_or_else(|| wrong("it does not begin with s3://"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_bucket = (3..=63).contains(&bucket.len())
            && bucket
                .bytes()
                .all(|byte| is_letter(byte) || b".-".contains(&byte))
            && bucket.bytes().next().is_some_and(is_letter)
            && bucket.bytes().next_back().is_some_and(is_letter);
        if !is_bucket {
            return Err(wrong(
                "a bucket has 3 to 63 lower-case letters, digits, dots and hyphens",
            ));
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let is_part = |part: &str| {
            let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
            !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_good)
        };
        if prefix.len() > 512 || !prefix.is_empty() && !prefix.split('/').all(is_part) {
            return Err(wrong(
                "a prefix has letters, digits and . _ + - between its slashes, and no part that begins with a dot",
            ));
        }
        Ok(S3Address {
            bucket: bucket.into(),
            prefix: prefix.into(),
            ..S3Address::default()
        })
    }

    /// Reads the address of an endpoint: `https://` or `http://`, host and port.
    pub fn with_endpoint(self, endpoint: &str) -> Result<S3Address> {
        if endpoint.contains('@') {
            let message = "an endpoint has no credentials in it: they come from AWS_ACCESS_KEY_ID and \
                AWS_SECRET_ACCESS_KEY, or from ~/.aws/credentials";
            return Err(Error::Usage(message.into()));
        }
        let endpoint = endpoint.strip_suffix('/').unwrap_or(endpoint);
        let host = endpoint
            .strip_prefix("https://")
            .or_else(|| endpoint.strip_prefix("http://"));
        let is_host = |host: &str| {
            let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
            !host.is_empty() && host.bytes().all(is_good)
        };
        if !host.is_some_and(is_host) {
            return Err(Error::Usage(format!(
                "{endpoint} is no endpoint: it takes https://HOST[:PORT], or http://HOST[:PORT], and nothing after it"
            )));
        }
        Ok(S3Address {
            endpoint: Some(endpoint.into()),
            ..self
        })
    }

    /// Whether what is sent there can be read by whoever is on the way.
    pub fn is_exposed(&self) -> bool {
        let host = self
            .endpoint
            .as_deref()
            .and_then(|at| at.strip_prefix("http://"));
        let is_loopback = |host: &str| {
            let name = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
            let name = match name {
                Some((name, _)) => name,
                None => host.rsplit_once(':').map_or(host, |(name, _)| name),
            };
            let address = name.parse::<std::net::IpAddr>();
            name == "localhost" || address.is_ok_and(|address| address.is_loopback())
        };
        host.is_some_and(|host| !is_loopback(host))
    }
}

/// A store that another process speaks to.
pub struct S3Store {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

struct Shared {
    socket: UnixStream,
    /// One frame at a time.
    writer: Mutex<UnixStream>,
    waiting: Mutex<Waiting>,
    over: Condvar,
    child: Mutex<Child>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    calls: HashMap<u64, Sender<Outcome>>,
    /// Why nothing more is answered.
    over: Option<String>,
}

type Outcome = Result<(Reply, Vec<u8>), StoreError>;

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store").finish_non_exhaustive()
    }
}

impl S3Store {
    /// Starts the process, and has it ask the store whether it answers.
    pub fn open(address: &S3Address) -> Result<S3Store, StoreError> {
        let own = std::env::current_exe().unwrap_or_default();
        S3Store::start(&find(&own).unwrap_or_else(|| PROGRAM.into()), address)
    }

    /// As [`S3Store::open`], by a program of one's own choice.
    pub fn start(program: &Path, address: &S3Address) -> Result<S3Store, StoreError> {
        let failed = |error: io::Error| {
            let why = format!("cannot execute {}: {error}", program.display());
            StoreError::new(StoreErrorKind::Failed, "", why)
        };
        let (own, theirs) = UnixStream::pair().map_err(failed)?;
        let mut command = Command::new(program);
        command.stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)));
        command.stdout(Stdio::null());
        // An interrupt of the terminal is for this process, which then ends the other: that one first gives up what it has
        // begun in the store.
        command.process_group(0);
        let child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => missing(),
            _ => failed(error),
        })?;
        // Else this process would keep the other end open.
        drop(command);
        let shared = Arc::new(Shared {
            writer: Mutex::new(own.try_clone().map_err(failed)?),
            socket: own,
            waiting: Mutex::default(),
            over: Condvar::new(),
            child: Mutex::new(child),
        });
        let own = shared.clone();
        let thread = std::thread::Builder::new().name("s3".into());
        let reader = thread.spawn(move || own.read_all()).map_err(failed)?;
        let store = S3Store {
            shared,
            reader: Some(reader),
        };
        let open = Call::Open {
            version: wire::WIRE_VERSION,
            address: address.clone(),
        };
        match store.ask("", open, b"").map_err(|error| read("", error))? {
            (Reply::Opened, _) => Ok(store),
            _ => Err(unexpected("")),
        }
    }

    /// The number of the process.
    pub fn process(&self) -> u32 {
        lock(&self.shared.child).id()
    }

    fn ask(&self, key: &str, call: Call, body: &[u8]) -> Outcome {
        let answers = self.shared.send(key, call, body)?;
        answers.recv().unwrap_or_else(|_| Err(unexpected(key)))
    }
}

impl Drop for S3Store {
    fn drop(&mut self) {
        let _ = self.shared.socket.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let mut child = lock(&self.shared.child);
        if !has_ended(&mut child, END) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Shared {
    fn send(&self, key: &str, call: Call, body: &[u8]) -> Result<Receiver<Outcome>, StoreError> {
        let (to, answers) = channel();
        let id = {
            let mut waiting = lock(&self.waiting);
            if let Some(why) = &waiting.over {
                return Err(StoreError::new(StoreErrorKind::Failed, key, why));
            }
            waiting.next += 1;
            let id = waiting.next;
            waiting.calls.insert(id, to);
            id
        };
        let mut writer = lock(&self.writer);
        if wire::write_frame(&mut *writer, &Request { id, call }, body).is_err() {
            // The other side is gone, or half a frame is: whoever reads says why.
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        Ok(answers)
    }

    /// Hands out answers until there are no more.
    fn read_all(&self) {
        let mut from = &self.socket;
        let why = loop {
            let head = match wire::read_head::<Answer>(&mut from) {
                Ok(Some(head)) => head,
                Ok(None) => break None,
                Err(error) => break Some(error),
            };
            let body = match wire::read_body(&mut from, &head) {
                Ok(body) => body,
                Err(error) => break Some(error),
            };
            let Answer { id, result } = head.header;
            let is_last = !matches!(&result, Ok(Reply::Listed { more: true, .. }));
            let mut waiting = lock(&self.waiting);
            let to = match is_last {
                true => waiting.calls.remove(&id),
                false => waiting.calls.get(&id).cloned(),
            };
            let Some(to) = to else {
                let why = "an answer to what was not asked";
                break Some(io::Error::new(io::ErrorKind::InvalidData, why));
            };
            // Whoever asked may be gone.
            let _ = to.send(result.map(|reply| (reply, body)));
        };
        let _ = self.socket.shutdown(Shutdown::Both);
        let why = match why {
            Some(error) if error.kind() == io::ErrorKind::InvalidData => {
                format!("{PROGRAM}, which speaks to the store, sent what is no answer: {error}")
            }
            _ => self.end(),
        };
        let mut waiting = lock(&self.waiting);
        for (_, to) in waiting.calls.drain() {
            let _ = to.send(Err(StoreError::new(StoreErrorKind::Unsettled, "", &why)));
        }
        waiting.over = Some(why);
        self.over.notify_all();
    }

    /// How the process ended.
    fn end(&self) -> String {
        let mut child = lock(&self.child);
        let how = match has_ended(&mut child, END) {
            true => match child.try_wait() {
                Ok(Some(status)) => format!(" ({status})"),
                _ => String::new(),
            },
            false => String::new(),
        };
        format!("the process {PROGRAM}, which speaks to the store, has ended{how}")
    }
}

impl Store for S3Store {
    fn client_end(&self) -> Option<ClientEnd> {
        let shared = self.shared.clone();
        Some(Box::new(move || {
            let waiting = lock(&shared.waiting);
            drop(
                shared
                    .over
                    .wait_while(waiting, |waiting| waiting.over.is_none()),
            );
        }))
    }

    fn put(&self, key: &str, bytes: &[u8], when: &When) -> Result<Version, StoreError> {
        let call = Call::Put {
            key: key.into(),
            when: when.clone(),
        };
        match self.ask(key, call, bytes).map_err(|error| of(key, error))? {
            (Reply::Put { version }, _) => Ok(version),
            _ => Err(unexpected(key)),
        }
    }

    fn get(&self, key: &str, max: u64) -> Result<(Vec<u8>, Version), StoreError> {
        let call = Call::Get {
            key: key.into(),
            max: max.min(wire::MAX_BODY_BYTES.into()),
        };
        match self.ask(key, call, b"").map_err(|error| read(key, error))? {
            (
                Reply::Got {
                    version: Some(version),
                },
                bytes,
            ) => Ok((bytes, version)),
            _ => Err(unexpected(key)),
        }
    }

    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let bytes = range.end.saturating_sub(range.start);
        if bytes > wire::MAX_BODY_BYTES.into() {
            let why = "more bytes than are read at once";
            return Err(StoreError::new(StoreErrorKind::Unsupported, key, why));
        }
        let call = Call::GetRange {
            key: key.into(),
            begin: range.start,
            end: range.start + bytes,
        };
        match self.ask(key, call, b"").map_err(|error| read(key, error))? {
            (Reply::Got { .. }, found) if found.len() as u64 == bytes => Ok(found),
            (Reply::Got { .. }, _) => {
                let why = "it has fewer bytes";
                Err(StoreError::new(StoreErrorKind::Failed, key, why))
            }
            _ => Err(unexpected(key)),
        }
    }

    fn head(&self, key: &str) -> Result<Meta, StoreError> {
        let call = Call::Head { key: key.into() };
        match self.ask(key, call, b"").map_err(|error| read(key, error))? {
            (Reply::Head { meta }, _) => Ok(meta),
            _ => Err(unexpected(key)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Meta>, StoreError> {
        let call = Call::List {
            prefix: prefix.into(),
        };
        let answers = self.shared.send(prefix, call, b"")?;
        let mut all = Vec::new();
        loop {
            let answer = answers.recv().unwrap_or_else(|_| Err(unexpected(prefix)));
            match answer.map_err(|error| read(prefix, error))? {
                (Reply::Listed { metas, more }, _) => {
                    all.extend(metas);
                    if !more {
                        return Ok(all);
                    }
                }
                _ => return Err(unexpected(prefix)),
            }
        }
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        let call = Call::Delete { key: key.into() };
        match self.ask(key, call, b"").map_err(|error| of(key, error))? {
            (Reply::Deleted, _) => Ok(()),
            _ => Err(unexpected(key)),
        }
    }

    fn is_near(&self) -> bool {
        false
    }
}

/// The failure of a call that the end of the process cut short gets the key of what was asked for.
fn of(key: &str, error: StoreError) -> StoreError {
    match error.key.is_empty() && error.kind == StoreErrorKind::Unsettled {
        true => StoreError {
            key: key.into(),
            ..error
        },
        false => error,
    }
}

/// The same, of a call that changes nothing, and which it therefore does not matter whether it was carried out.
fn read(key: &str, error: StoreError) -> StoreError {
    let error = of(key, error);
    match error.kind {
        StoreErrorKind::Unsettled => StoreError {
            kind: StoreErrorKind::Failed,
            ..error
        },
        _ => error,
    }
}

fn unexpected(key: &str) -> StoreError {
    let why = format!("{PROGRAM} gave an answer to something else");
    StoreError::new(StoreErrorKind::Failed, key, why)
}

fn missing() -> StoreError {
    let why = format!(
        "remotes on s3: need the program {PROGRAM}, which is neither beside uzram nor on PATH: in uzram's sources, cargo build \
         --release makes both in target/release, and cargo install --path crates/uzram-s3 installs it"
    );
    StoreError::new(StoreErrorKind::NoProgram, "", why)
}

/// The program beside this one. A program of one's own, `NAME`, prefers `NAME-s3`.
fn find(own: &Path) -> Option<PathBuf> {
    let mut name = own.file_name()?.to_owned();
    name.push("-s3");
    let beside = [name, PROGRAM.into()].map(|name| own.with_file_name(name));
    beside.into_iter().find(|path| path.is_file())
}

/// Whether a process ends within some time.
fn has_ended(child: &mut Child, within: Duration) -> bool {
    let begin = Instant::now();
    loop {
        match child.try_wait() {
            Ok(None) if begin.elapsed() < within => {
                std::thread::sleep(Duration::from_millis(10));
            }
            ended => return matches!(ended, Ok(Some(_))),
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_nonsense_is_not() {
        let parse = |url: &str| S3Address::parse(url).map(|at| (at.bucket, at.prefix));
        let is = |bucket: &str, prefix: &str| Some((bucket.to_owned(), prefix.to_owned()));
        assert_eq!(parse("s3://warm").ok(), is("warm", ""));
        assert_eq!(parse("s3://warm.disks-1/").ok(), is("warm.disks-1", ""));
        assert_eq!(parse("s3://warm/a/B_1/").ok(), is("warm", "a/B_1"));
        for wrong in [
            "",
            "s3:",
            "s3://",
            "s3://ab",
            "s3://Warm",
            "s3://-warm",
            "s3://warm/a//b",
            "s3://warm/../x",
            "s3://warm/a b",
            "s3://warm/?x",
            "s3://warm/a#b",
            "http://warm/x",
            "s3://warm~x/",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_error_repeats_what_may_be_a_key() {
        let url = S3Address::parse("s3://AKIA123:hush@warm/x").unwrap_err();
        let endpoint = S3Address::default()
            .with_endpoint("https://AKIA123:hush@host")
            .unwrap_err();
        for error in [url, endpoint] {
            let words = error.to_string();
            assert!(
                !words.contains("hush") && !words.contains("AKIA"),
                "{words}"
            );
            assert!(words.contains("AWS_SECRET_ACCESS_KEY"), "{words}");
        }
    }

    #[test]
    fn endpoints_are_hosts() {
        let at = |endpoint: &str| S3Address::default().with_endpoint(endpoint);
        for (good, is_exposed) in [
            ("https://s3.example.org", false),
            ("http://127.0.0.1:8333/", false),
            ("http://[::1]:8333", false),
            ("http://localhost", false),
            ("http://s3.example.org", true),
            ("http://10.0.0.1:8333", true),
            ("http://localhost.example.org", true),
        ] {
            assert_eq!(at(good).unwrap().is_exposed(), is_exposed, "{good}");
        }
        for wrong in [
            "",
            "host",
            "ftp://host",
            "http://",
            "https://host/path",
            "https://host?x",
            "https://h x",
        ] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }

    fn start(script: &str) -> Result<S3Store, StoreError> {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("uzram-s3");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        S3Store::start(&program, &S3Address::default())
    }

    #[test]
    fn a_process_that_is_none_ends_or_answers_nonsense_is_an_error_in_words() {
        let none = S3Store::start(Path::new("/no/such/uzram-s3"), &S3Address::default());
        let none = none.unwrap_err();
        assert_eq!(none.kind, StoreErrorKind::NoProgram, "{none}");
        for (script, said) in [
            ("exit 3", "exit status: 3"),
            ("kill -9 $$", "SIGKILL"),
            // Its stdin is the socket.
            (
                "echo nonsense that is long enough >&0; read end",
                "no answer: a bad frame",
            ),
            (
                "printf 'uzs3\\377\\377\\377\\377\\0\\0\\0\\0' >&0; read end",
                "too long",
            ),
            (
                r#"printf 'uzs3\41\0\0\0\0\0\0\0{"id":9,"result":{"Ok":"opened"}}' >&0; read end"#,
                "what was not asked",
            ),
        ] {
            let error = start(script).unwrap_err().to_string();
            assert!(error.contains(said), "{script}: {error}");
        }
    }
}
