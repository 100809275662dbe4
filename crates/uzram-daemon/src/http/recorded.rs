//! A stream that remembers the head of what was read from it.
//!
//! hyper drops a `Content-Length` that stands beside a `Transfer-Encoding`, and merges lengths that repeat. A request with
//! two claims about its length is refused here, so the head has to be seen as it was sent.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// What was read first, up to the longest head.
#[derive(Clone)]
pub(super) struct RecordedHead {
    bytes: Rc<RefCell<Vec<u8>>>,
    longest: usize,
}

impl RecordedHead {
    pub(super) fn new(longest: usize) -> RecordedHead {
        RecordedHead {
            bytes: Rc::default(),
            longest,
        }
    }

    /// Whether the client has sent anything.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.borrow().is_empty()
    }

    /// Whether the request says once, or not at all, how long its body is.
    pub(super) fn has_one_length(&self, headers: usize) -> bool {
        has_one_length(&self.bytes.borrow(), headers)
    }

    fn record(&self, read: &[u8]) {
        let mut bytes = self.bytes.borrow_mut();
        let room = self.longest.saturating_sub(bytes.len());
        bytes.extend_from_slice(&read[..room.min(read.len())]);
    }
}

/// Whether at most one header of a request says how long its body is. False for what is no head.
pub(super) fn has_one_length(head: &[u8], headers: usize) -> bool {
    let mut headers = vec![httparse::EMPTY_HEADER; headers];
    let mut request = httparse::Request::new(&mut headers);
    if !request.parse(head).is_ok_and(|status| status.is_complete()) {
        return false;
    }
    let says = |name: &str| {
        ["content-length", "transfer-encoding"]
            .iter()
            .any(|length| name.eq_ignore_ascii_case(length))
    };
    let lengths = request.headers.iter().filter(|header| says(header.name));
    lengths.count() <= 1
}

pub(super) struct Recorded {
    pub(super) stream: UnixStream,
    pub(super) head: RecordedHead,
}

impl AsyncRead for Recorded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.head.record(&buffer.filled()[before..]);
        read
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_claim_about_the_length_is_seen() {
        let one = |headers: &str| {
            let head = format!("POST / HTTP/1.1\r\nHost: x\r\n{headers}\r\nbody");
            has_one_length(head.as_bytes(), 64)
        };
        assert!(one(""));
        assert!(one("Content-Length: 4\r\n"));
        assert!(one("Transfer-Encoding: chunked\r\n"));
        assert!(!one("Content-Length: 4\r\nContent-Length: 5\r\n"));
        assert!(!one("Content-Length: 4\r\ncontent-length: 4\r\n"));
        assert!(!one("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"));
        assert!(!one("transfer-encoding: chunked\r\nContent-Length: 4\r\n"));
        assert!(!has_one_length(b"POST / HTTP/1.1\r\nHost", 64));
    }
}
