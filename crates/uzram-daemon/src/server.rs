//! The server: HTTP on a unix socket that only its owner may open.
//!
//! Each request has a thread of its own, so that one that takes long keeps nobody waiting.

use std::io::{self, Read};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tiny_http::{Header, Response};
use uzram_control::trust;
use uzram_control::zram::Errno;

use crate::api::{Answer, Devices, handle};
use crate::error::Body;

/// Longest body: a dictionary of 1 MiB in hexadecimal, and then some.
const MAX_BODY: u64 = 4 << 20;
/// Requests at work at once.
const MAX_AT_WORK: usize = 128;

/// Makes the socket, with mode 0600. EADDRINUSE: another daemon listens there; what a dead one left is replaced.
pub fn bind(socket: &Path) -> io::Result<UnixListener> {
    if trust::connect(socket).is_ok() {
        let message = format!("another uzramd listens at {}", socket.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
    }
    trust::bind(socket)
}

/// Serves the API from threads of its own until the process ends.
pub fn serve(listener: UnixListener, devices: Arc<dyn Devices>) -> io::Result<()> {
    let server = tiny_http::Server::from_listener(listener, None)
        .map_err(|error| io::Error::other(error.to_string()))?;
    let at_work = Arc::new(AtomicUsize::new(0));
    let accept = move || {
        while let Ok(request) = server.recv() {
            let devices = devices.clone();
            let counter = at_work.clone();
            if counter.fetch_add(1, Ordering::Relaxed) >= MAX_AT_WORK {
                counter.fetch_sub(1, Ordering::Relaxed);
                let error = Body::new(Errno::AGAIN, format!("{MAX_AT_WORK} requests are at work"));
                respond(request, Err(error));
                continue;
            }
            let work = move || {
                answer(request, &*devices);
                counter.fetch_sub(1, Ordering::Relaxed);
            };
            let thread = std::thread::Builder::new().name("api".into());
            if let Err(error) = thread.spawn(work) {
                tracing::error!(%error, "no thread for a request");
                at_work.fetch_sub(1, Ordering::Relaxed);
            }
        }
    };
    std::thread::Builder::new()
        .name("http".into())
        .spawn(accept)?;
    Ok(())
}

fn answer(mut request: tiny_http::Request, devices: &dyn Devices) {
    let method = request.method().to_string();
    let url = request.url().to_owned();
    let mut body = Vec::new();
    let read = request
        .as_reader()
        .take(MAX_BODY + 1)
        .read_to_end(&mut body);
    let answer = match read {
        Err(error) => Err(Body::new(Errno::IO, format!("reading the body: {error}"))),
        Ok(_) if body.len() as u64 > MAX_BODY => {
            let message = format!("the body is longer than {MAX_BODY} bytes");
            Err(Body::new(Errno::TOOBIG, message))
        }
        Ok(_) => handle(devices, &method, &url, &body),
    };
    if method != "GET" {
        match &answer {
            Ok(_) => tracing::info!(method, url, "done"),
            Err(error) => tracing::info!(method, url, error.name, error.message, "refused"),
        }
    }
    respond(request, answer);
}

fn respond(request: tiny_http::Request, answer: Result<Answer, Body>) {
    let json = |status: u16, value: &serde_json::Value| {
        let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
        text.push(b'\n');
        with(
            Response::from_data(text).with_status_code(status),
            "Content-Type",
            "application/json",
        )
    };
    let text = |bytes: Vec<u8>| {
        with(
            Response::from_data(bytes),
            "Content-Type",
            "text/plain; charset=utf-8",
        )
    };
    let sent = match answer {
        Ok(Answer::Json(status, value)) => request.respond(json(status, &value)),
        Ok(Answer::Text(bytes)) => request.respond(text(bytes)),
        Ok(Answer::Lines(bytes, next)) => {
            request.respond(with(text(bytes), "Next-Slot", &next.to_string()))
        }
        Ok(Answer::Done) => request.respond(Response::empty(204)),
        Err(error) => {
            let value = serde_json::to_value(&error).unwrap_or_default();
            request.respond(json(error.status(), &value))
        }
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "a client did not wait for its answer");
    }
}

fn with<R: Read>(response: Response<R>, name: &str, value: &str) -> Response<R> {
    match Header::from_bytes(name, value) {
        Ok(header) => response.with_header(header),
        Err(()) => response,
    }
}
