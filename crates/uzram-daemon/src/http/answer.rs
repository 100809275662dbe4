//! From a request to its answer: what HTTP itself demands, the body, the work on another thread, and the answer's form.

use std::rc::Rc;
use std::sync::Arc;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{
    ACCEPT, ALLOW, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, VARY,
};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use uzram_control::zram::Errno;

use super::phase::RequestPhase;
use super::recorded::RecordedHead;
use super::stream::{self, Sent};
use super::{Seat, Server};
use crate::api::{Answer, Asked, Asker, Brought};
use crate::error::Body;
use crate::limits::Limits;

/// The answer to a head that does not come to its end.
pub(super) const TOO_SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Answers one request.
pub(super) async fn answer(
    seat: &Rc<Seat>,
    head: &RecordedHead,
    asker: Asker,
    phase: &Rc<watch::Sender<RequestPhase>>,
    begin: Instant,
    request: Request<Incoming>,
) -> Response<Sent> {
    phase.send_replace(RequestPhase::Body);
    let server = &*seat.server;
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let answered = match accept(&server.limits, head, begin, request).await {
        Ok((asked, body)) => {
            phase.send_replace(RequestPhase::Work);
            seat.works(true);
            let worked = match body {
                Read::Whole(body) => work(server, asked, Brought::Whole(body), asker).await,
                Read::Not(body) => {
                    let (sent, received) = stream::body();
                    let brought = Brought::Streamed(Box::new(received));
                    let worked = work(server, asked, brought, asker);
                    // Ended with the request, which may not want all of it.
                    sent.beside(body, server.limits.sending, worked).await
                }
            };
            seat.works(false);
            worked
        }
        Err(error) => Err(error),
    };
    if !matches!(method, Method::GET | Method::HEAD) {
        match &answered {
            Ok(_) => tracing::info!(%method, path, "done"),
            Err(error) => tracing::info!(%method, path, error.name, error.message, "refused"),
        }
    }
    response(answered, seat, phase)
}

/// A request's body.
enum Read {
    Whole(Bytes),
    /// It is read while the request is carried out.
    Not(Incoming),
}

/// Reads a request, and refuses what is none of the API's.
async fn accept(
    limits: &Limits,
    head: &RecordedHead,
    begin: Instant,
    request: Request<Incoming>,
) -> Result<(Asked, Read), Body> {
    if !head.has_one_length(limits.headers) {
        let message = "a request says once how long its body is: one Content-Length, or Transfer-Encoding: chunked";
        return Err(Body::new(Errno::PROTO, message));
    }
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Err(Body::new(Errno::PROTO, "a request has one Host"));
    }
    let asked = Asked::find(request.method().as_str(), request.uri())?;
    let accept = request.headers().get_all(ACCEPT).iter();
    let accept: Vec<_> = accept.filter_map(|value| value.to_str().ok()).collect();
    let asked = asked.accepting(accept.join(","));
    if asked.is_streamed() {
        return Ok((asked, Read::Not(request.into_body())));
    }
    let longest = asked.body_bytes(limits);
    let body = read(limits, longest, begin, request.into_body()).await?;
    Ok((asked, Read::Whole(body)))
}

/// Reads the body whole.
async fn read(
    limits: &Limits,
    longest: usize,
    begin: Instant,
    body: Incoming,
) -> Result<Bytes, Body> {
    let too_large = || {
        let message = format!("the body of this request has at most {longest} bytes");
        Body::new(Errno::TOOBIG, message).with_status(StatusCode::PAYLOAD_TOO_LARGE)
    };
    if body.size_hint().lower() > longest as u64 {
        return Err(too_large());
    }
    let whole = Limited::new(body, longest).collect();
    match timeout_at(begin + limits.sending, whole).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Body::new(Errno::PROTO, format!("the body: {error}"))),
        Err(_) => {
            let message = format!(
                "the request did not come whole within {} s",
                limits.sending.as_secs()
            );
            Err(Body::new(Errno::TIMEDOUT, message).with_status(StatusCode::REQUEST_TIMEOUT))
        }
    }
}

/// Has the request carried out by another thread, once one is free.
async fn work(server: &Server, asked: Asked, body: Brought, asker: Asker) -> Result<Answer, Body> {
    let share: &Semaphore = match asked.changes() {
        true => &server.changes,
        false => &server.looks,
    };
    let devices = Arc::clone(&server.devices);
    let failed = || {
        Body::new(
            Errno::IO,
            "the request failed within the daemon: see its log",
        )
    };
    let Ok(_place) = share.acquire().await else {
        return Err(failed());
    };
    let worked = tokio::task::spawn_blocking(move || asked.answer(&*devices, body, asker)).await;
    worked.unwrap_or_else(|error| {
        tracing::error!(%error, "a request failed");
        Err(failed())
    })
}

fn response(
    answered: Result<Answer, Body>,
    seat: &Rc<Seat>,
    phase: &Rc<watch::Sender<RequestPhase>>,
) -> Response<Sent> {
    let mut headers = HeaderMap::new();
    let (status, bytes) = match answered {
        Ok(Answer::Streamed(streamed)) => {
            let mut response = Response::new(Sent::streamed(streamed, seat, phase));
            let bytes = HeaderValue::from_static("application/octet-stream");
            response.headers_mut().insert(CONTENT_TYPE, bytes);
            return response;
        }
        Ok(Answer::Done) => (StatusCode::NO_CONTENT, Vec::new()),
        Ok(Answer::Json(status, value)) => (status, json(&mut headers, &value)),
        Ok(Answer::Text(bytes)) => (StatusCode::OK, text(&mut headers, bytes)),
        Ok(Answer::Metrics(format, text)) => {
            let kind = HeaderValue::from_static(format.content_type());
            headers.insert(CONTENT_TYPE, kind);
            headers.insert(VARY, HeaderValue::from_static("Accept"));
            (StatusCode::OK, text.into_bytes())
        }
        Ok(Answer::Lines(bytes, next)) => {
            headers.insert(HeaderName::from_static("next-slot"), next.into());
            (StatusCode::OK, text(&mut headers, bytes))
        }
        Err(error) => {
            if let Some(methods) = &error.allow
                && let Ok(methods) = HeaderValue::from_str(methods)
            {
                headers.insert(ALLOW, methods);
            }
            let value = serde_json::to_value(&error).unwrap_or_default();
            (error.status(), json(&mut headers, &value))
        }
    };
    let mut response = Response::new(Sent::whole(bytes));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn json(headers: &mut HeaderMap, value: &serde_json::Value) -> Vec<u8> {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

fn text(headers: &mut HeaderMap, bytes: Vec<u8>) -> Vec<u8> {
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, plain);
    bytes
}

/// Tells a client for which there is no place to come again. Nothing waits for it.
pub(super) fn refuse(stream: &tokio::net::UnixStream, connections: usize) {
    let error = Body::new(
        Errno::AGAIN,
        format!("{connections} requests are at work: try again"),
    );
    let body = serde_json::to_string(&error).unwrap_or_default();
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\n{RETRY_AFTER}: 1\r\n{CONTENT_TYPE}: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.try_write(head.as_bytes());
}
