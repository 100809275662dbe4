//! The API's client: what the program's commands, the sysfs view and the shim use where a daemon runs.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use uzram_control::ControlError;
use uzram_control::zram::{Errno, Owner, Shown, View};
use uzram_spec::{DeviceSpec, Failure, FailureKind};

use crate::api::Created;
use crate::error::Body;

/// How long a look may take. What changes something may take as long as it takes.
const PATIENCE: Duration = Duration::from_secs(30);

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
            error => Failure::new(FailureKind::Failed, error),
        }
    }
}

type Result<T> = std::result::Result<T, ClientError>;

/// A daemon to talk to. Each call is a connection.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

struct Reply {
    body: Vec<u8>,
    next_slot: Option<u64>,
}

impl Client {
    /// The daemon at that socket; `None` if none answers.
    pub fn find(socket: &Path) -> Option<Client> {
        let client = Client {
            socket: socket.into(),
        };
        client.call("GET", "/v1", &[]).is_ok().then_some(client)
    }

    /// Makes a device.
    pub fn create(&self, spec: &DeviceSpec) -> Result<Created> {
        parse(&self.call("POST", "/v1/devices", &spec.to_json())?.body)
    }

    /// The names of all devices, also of those that are not initialised.
    pub fn names(&self) -> Result<Vec<String>> {
        let reply = self.call("GET", "/v1/control/devices", &[])?;
        let shown: Vec<Shown> = parse(&reply.body)?;
        Ok(shown
            .iter()
            .map(|shown| format!("zram{}", shown.id))
            .collect())
    }

    /// Takes a device down.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.call("DELETE", &format!("/v1/devices/{name}"), &[])
            .map(drop)
    }

    fn call(&self, method: &str, path: &str, body: &[u8]) -> Result<Reply> {
        let mut stream = uzram_control::trust::connect(&self.socket)?;
        stream.set_read_timeout((method == "GET").then_some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: uzramd\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat())?;
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply)?;
        parse_reply(&reply)
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(ClientError::nonsense)
}

fn parse_reply(bytes: &[u8]) -> Result<Reply> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes).map_err(ClientError::nonsense)? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return Err(ClientError::nonsense("cut short")),
    };
    let header = |name: &str| {
        let found = response
            .headers
            .iter()
            .find(|h| h.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let rest = &bytes[head..];
    let body = match header("Content-Length").map(str::parse::<usize>) {
        Some(Ok(length)) if length == rest.len() => rest.to_vec(),
        Some(_) => return Err(ClientError::nonsense("cut short")),
        None => match header("Transfer-Encoding") {
            Some("chunked") => dechunk(rest)?,
            _ => rest.to_vec(),
        },
    };
    let next_slot = header("Next-Slot").and_then(|text| text.parse().ok());
    match response.code.unwrap_or(500) {
        200..=299 => Ok(Reply { body, next_slot }),
        _ => {
            let Body { errno, message, .. } = parse(&body)?;
            Err(ClientError::Refused(ControlError { errno, message }))
        }
    }
}

/// The bytes of a chunked body.
fn dechunk(mut bytes: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let size = httparse::parse_chunk_size(bytes);
        let Ok(httparse::Status::Complete((start, size))) = size else {
            return Err(ClientError::nonsense("a broken chunk"));
        };
        if size == 0 {
            return Ok(out);
        }
        let end = start.saturating_add(size as usize);
        let chunk = bytes
            .get(start..end)
            .zip(bytes.get(end.saturating_add(2)..));
        let (chunk, rest) = chunk.ok_or_else(|| ClientError::nonsense("cut short"))?;
        out.extend_from_slice(chunk);
        bytes = rest;
    }
}

fn device(id: u32) -> String {
    format!("/v1/devices/zram{id}")
}

fn attribute_path(owner: Owner, attribute: &str) -> String {
    match owner {
        Owner::Control => format!("/v1/control/{attribute}"),
        Owner::Device(id) => format!("{}/attributes/{attribute}", device(id)),
    }
}

impl View for Client {
    fn devices(&self) -> std::result::Result<Vec<Shown>, Errno> {
        let reply = self.call("GET", "/v1/control/devices", &[]);
        reply
            .and_then(|reply| parse(&reply.body))
            .map_err(|error| error.errno())
    }

    fn show(&self, owner: Owner, attribute: &str) -> std::result::Result<Vec<u8>, Errno> {
        // Reading this one changes something.
        let method = match owner {
            Owner::Control => "POST",
            Owner::Device(_) => "GET",
        };
        let reply = self.call(method, &attribute_path(owner, attribute), &[]);
        reply.map(|reply| reply.body).map_err(|error| error.errno())
    }

    fn store(&self, owner: Owner, attribute: &str, value: &[u8]) -> std::result::Result<(), Errno> {
        let reply = self.call("PUT", &attribute_path(owner, attribute), value);
        reply.map(drop).map_err(|error| error.errno())
    }

    fn block_state(
        &self,
        id: u32,
        from: u64,
        max_bytes: usize,
    ) -> std::result::Result<(Vec<u8>, u64), Errno> {
        let path = format!("{}/block_state?from={from}&max={max_bytes}", device(id));
        let reply = self
            .call("GET", &path, &[])
            .map_err(|error| error.errno())?;
        let next = reply.next_slot.ok_or(Errno::IO)?;
        Ok((reply.body, next))
    }

    fn classes(&self, id: u32) -> std::result::Result<Vec<u8>, Errno> {
        let reply = self.call("GET", &format!("{}/classes", device(id)), &[]);
        reply.map(|reply| reply.body).map_err(|error| error.errno())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_or_refused() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nNext-Slot: 7\r\n\r\nab";
        let reply = parse_reply(whole).unwrap();
        assert_eq!(
            (reply.body.as_slice(), reply.next_slot),
            (&b"ab"[..], Some(7))
        );
        assert!(parse_reply(&whole[..whole.len() - 1]).is_err());
        assert!(parse_reply(b"HTTP/1.1 200 OK\r\nCont").is_err());
        assert!(parse_reply(b"nonsense").is_err());
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        assert_eq!(parse_reply(chunked).unwrap().body, b"abc");
        let broken = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab";
        assert!(parse_reply(broken).is_err());
        let refused =
            b"HTTP/1.1 409 No\r\nContent-Length: 28\r\n\r\n{\"errno\":16,\"message\":\"used\"}";
        let refused = parse_reply(&refused[..]);
        assert!(refused.is_err());
    }
}
