//! The API's client: what the program's commands, the sysfs view and the shim use where a daemon runs.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;
use uzram_control::ControlError;
use uzram_control::zram::{AttributeOwner, Errno, Refusal, ShownDevice, View};
use uzram_spec::{DeviceSpec, Failure};

use crate::api::CreateAnswer;
use crate::error::Body;
use crate::history::HistoryAnswer;

/// How long a look may take. What changes something may take as long as it takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a daemon may take to say that it is there.
const PRESENCE: Duration = Duration::from_secs(5);
/// Longest answer.
const MAX_ANSWER: usize = 16 << 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The daemon could not be talked to.
    #[error("the daemon does not answer: {0}")]
    Io(#[from] io::Error),
    /// It refused.
    #[error("{0}")]
    Refused(ControlError),
}

impl ClientError {
    fn nonsense(what: impl std::fmt::Display) -> ClientError {
        let message = format!("not an answer of the API: {what}");
        io::Error::new(io::ErrorKind::InvalidData, message).into()
    }

    /// The errno that says it best.
    pub fn errno(&self) -> Errno {
        match self {
            ClientError::Refused(error) => Errno::from_raw_os_error(error.errno),
            ClientError::Io(_) => Errno::IO,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::Refused(error) => error.into(),
            error => Failure::failed(error),
        }
    }
}

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Refusal {
        match error {
            ClientError::Refused(error) => error.into(),
            ClientError::Io(error) => Refusal {
                errno: Errno::IO,
                why: Some(error.to_string()),
            },
        }
    }
}

impl From<ClientError> for Errno {
    fn from(error: ClientError) -> Errno {
        error.errno()
    }
}

type Result<T, E = ClientError> = std::result::Result<T, E>;

/// A daemon to talk to. Each call is a connection.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

struct Reply {
    body: Bytes,
    next_slot: Option<u64>,
}

impl Client {
    /// The daemon at that socket; `None` if none answers. `warn` is told of one that is there and says nothing: what is done without
    /// it, it does not know.
    pub fn find(socket: &Path, warn: impl FnOnce(String)) -> Option<Client> {
        let client = Client {
            socket: socket.into(),
        };
        match client.call_within(Some(PRESENCE), "GET", "/v1", &[]) {
            Ok(_) => return Some(client),
            Err(ClientError::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
                let socket = socket.display();
                warn(format!(
                    "warning: uzramd is at {socket}, but {error} (stopped?): this is done without it, and it holds no device that is made now"
                ));
            }
            Err(_) => {}
        }
        None
    }

    /// Makes a device. The daemon takes it down again unless [`Client::confirm`] follows.
    pub fn create(&self, spec: &DeviceSpec) -> Result<CreateAnswer> {
        let path = "/v1/devices?confirm=true";
        parse(&self.call("POST", path, &spec.to_json())?.body)
    }

    /// Says that a device is known that was made for this process.
    pub fn confirm(&self, created: &CreateAnswer) -> Result<()> {
        let CreateAnswer { name, identity, .. } = created;
        // An older daemon waits for nothing.
        if identity.is_empty() {
            return Ok(());
        }
        let path = format!("/v1/devices/{name}/confirm?identity={identity}");
        self.call("POST", &path, &[]).map(drop)
    }

    /// Takes a device back that was made for this process.
    pub fn take_back(&self, created: &CreateAnswer) -> Result<()> {
        let CreateAnswer { name, identity, .. } = created;
        match identity.is_empty() {
            true => self.remove(name),
            false => {
                let path = format!("/v1/devices/{name}?identity={identity}");
                self.call("DELETE", &path, &[]).map(drop)
            }
        }
    }

    fn shown(&self) -> Result<Vec<ShownDevice>> {
        parse(&self.call("GET", "/v1/control/devices", &[])?.body)
    }

    /// The names of all devices, also of those that are not initialised.
    pub fn names(&self) -> Result<Vec<String>> {
        let names = |shown: &ShownDevice| format!("zram{}", shown.id);
        Ok(self.shown()?.iter().map(names).collect())
    }

    /// What the daemon has noted of a device over time. `None`: it is of a version that notes nothing.
    pub fn history(&self, name: &str) -> Result<Option<HistoryAnswer>> {
        match self.call("GET", &format!("/v1/devices/{name}/history"), &[]) {
            // An older daemon has no such path.
            Err(ClientError::Refused(error)) if error.errno == Errno::NOENT.raw_os_error() => {
                Ok(None)
            }
            reply => parse(&reply?.body).map(Some),
        }
    }

    /// Takes a device down.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.call("DELETE", &format!("/v1/devices/{name}"), &[])
            .map(drop)
    }

    fn call(&self, method: &str, path: &str, body: &[u8]) -> Result<Reply> {
        let patience = (method == "GET").then_some(PATIENCE);
        self.call_within(patience, method, path, body)
    }

    /// One request on a connection of its own. The caller's thread does all of it.
    fn call_within(
        &self,
        patience: Option<Duration>,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<Reply> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "uzramd")
            .body(Full::new(Bytes::copy_from_slice(body)))
            .map_err(ClientError::nonsense)?;
        runtime.block_on(async {
            let call = self.exchange(request);
            match patience {
                None => call.await,
                Some(patience) => timeout(patience, call).await.unwrap_or_else(|_| {
                    let message = format!("it does not answer within {} s", patience.as_secs());
                    Err(io::Error::new(io::ErrorKind::TimedOut, message).into())
                }),
            }
        })
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Reply> {
        let stream = uzram_control::trust::connect(&self.socket)?;
        stream.set_nonblocking(true)?;
        let stream = TokioIo::new(UnixStream::from_std(stream)?);
        let broken = |error: hyper::Error| ClientError::from(io::Error::other(error));
        let (mut sender, connection) = http1::handshake(stream).await.map_err(broken)?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(broken)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(ClientError::nonsense)?.to_bytes();
        connection.abort();
        if !head.status.is_success() {
            let Body { errno, message, .. } = parse(&body)?;
            return Err(ClientError::Refused(ControlError { errno, message }));
        }
        let next_slot = head.headers.get("next-slot");
        Ok(Reply {
            body,
            next_slot: next_slot.and_then(|text| text.to_str().ok()?.parse().ok()),
        })
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(ClientError::nonsense)
}

fn device(id: u32) -> String {
    format!("/v1/devices/zram{id}")
}

fn attribute_path(owner: AttributeOwner, attribute: &str) -> String {
    match owner {
        AttributeOwner::Control => format!("/v1/control/{attribute}"),
        AttributeOwner::Device(id) => format!("{}/attributes/{attribute}", device(id)),
    }
}

impl View for Client {
    fn devices(&self) -> Result<Vec<ShownDevice>, Errno> {
        Ok(self.shown()?)
    }

    fn show(&self, owner: AttributeOwner, attribute: &str) -> Result<Vec<u8>, Errno> {
        // Reading this one changes something.
        let method = match owner {
            AttributeOwner::Control => "POST",
            AttributeOwner::Device(_) => "GET",
        };
        let reply = self.call(method, &attribute_path(owner, attribute), &[])?;
        Ok(reply.body.into())
    }

    fn store(&self, owner: AttributeOwner, attribute: &str, value: &[u8]) -> Result<(), Refusal> {
        self.call("PUT", &attribute_path(owner, attribute), value)?;
        Ok(())
    }

    fn block_state(&self, id: u32, from: u64, max: usize) -> Result<(Vec<u8>, u64), Errno> {
        let path = format!("{}/block_state?from={from}&max={max}", device(id));
        let reply = self.call("GET", &path, &[])?;
        let next = reply.next_slot.ok_or(Errno::IO)?;
        Ok((reply.body.into(), next))
    }

    fn classes(&self, id: u32) -> Result<Vec<u8>, Errno> {
        let reply = self.call("GET", &format!("{}/classes", device(id)), &[])?;
        Ok(reply.body.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// What the client makes of an answer that a server gives byte by byte as it stands here.
    fn read(answer: &[u8]) -> Result<Reply> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let answer = answer.to_vec();
        let server = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(&answer).unwrap();
        });
        let reply = Client { socket }.call("GET", "/v1", &[]);
        server.join().unwrap();
        reply
    }

    #[test]
    fn answers_are_read_whole_or_refused() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nNext-Slot: 7\r\n\r\nab";
        let reply = read(whole).unwrap();
        assert_eq!((&reply.body[..], reply.next_slot), (&b"ab"[..], Some(7)));
        assert!(read(&whole[..whole.len() - 1]).is_err());
        assert!(read(b"HTTP/1.1 200 OK\r\nCont").is_err());
        assert!(read(b"nonsense").is_err());
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        assert_eq!(&read(chunked).unwrap().body[..], b"abc");
        let broken = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab";
        assert!(read(broken).is_err());
        let refused =
            b"HTTP/1.1 409 No\r\nContent-Length: 29\r\n\r\n{\"errno\":16,\"message\":\"used\"}";
        let refused = read(refused).err().unwrap();
        assert_eq!(refused.errno(), Errno::BUSY, "{refused}");
    }
}
