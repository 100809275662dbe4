//! Bodies of any length: an answer that comes to be while it is sent, and a request that is carried out while it comes.
//!
//! Threads outside of the server make and take the bytes, since both may wait for a device. What lies between is a few
//! chunks. A client has a deadline for each chunk, and none while it is the device that is waited for.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::Seat;
use super::phase::RequestPhase;
use crate::api::Streamed;

/// Chunks that wait for the other side.
const CHUNKS: usize = 4;

/// The body of an answer.
pub(super) enum Sent {
    Whole(Full<Bytes>),
    Streamed(Streaming),
}

/// One whose bytes another thread brings.
pub(super) struct Streaming {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    seat: Rc<Seat>,
    phase: Rc<watch::Sender<RequestPhase>>,
}

impl Sent {
    pub(super) fn whole(bytes: Vec<u8>) -> Sent {
        Sent::Whole(Full::new(bytes.into()))
    }

    /// Has a thread of its own bring the bytes. The client keeps its place as long as it takes them.
    pub(super) fn streamed(
        streamed: Streamed,
        seat: &Rc<Seat>,
        phase: &Rc<watch::Sender<RequestPhase>>,
    ) -> Sent {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let broken = sender.clone();
        let bring = move || {
            let Streamed { first, mut rest } = streamed;
            let mut chunk = Ok(Some(first));
            loop {
                let next = match chunk {
                    Ok(Some(bytes)) => Ok(bytes.into()),
                    Ok(None) => return,
                    Err(error) => {
                        tracing::warn!(%error, "an answer was cut");
                        Err(io::Error::other(error))
                    }
                };
                let failed = next.is_err();
                // Nobody takes it any more: what makes it ends with this.
                if sender.blocking_send(next).is_err() || failed {
                    return;
                }
                chunk = rest.next();
            }
        };
        let thread = std::thread::Builder::new().name("answer".into());
        if let Err(error) = thread.spawn(bring) {
            let _ = broken.try_send(Err(error));
        }
        seat.works(true);
        Sent::Streamed(Streaming {
            chunks,
            seat: seat.clone(),
            phase: phase.clone(),
        })
    }
}

impl Streaming {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            let polled = self.chunks.poll_recv(context);
            let phase = match polled {
                // It is the device that is waited for.
                Poll::Pending => RequestPhase::Work,
                Poll::Ready(_) => RequestPhase::Answered(Instant::now()),
            };
            // Whoever watches it polls this again.
            self.phase
                .send_if_modified(|now| std::mem::replace(now, phase) != phase);
            match polled {
                // An empty chunk would say that this is the end.
                Poll::Ready(Some(Ok(bytes))) if bytes.is_empty() => {}
                polled => return polled.map(|chunk| chunk.map(|chunk| chunk.map(Frame::data))),
            }
        }
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.seat.works(false);
    }
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Sent::Whole(whole) => {
                let polled = Pin::new(whole).poll_frame(context);
                polled.map(|frame| frame.map(|frame| frame.map_err(|never| match never {})))
            }
            Sent::Streamed(streaming) => streaming.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Sent::Whole(whole) => whole.is_end_stream(),
            Sent::Streamed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Sent::Whole(whole) => whole.size_hint(),
            Sent::Streamed(_) => SizeHint::default(),
        }
    }
}

/// Both ends of a request's body.
pub(super) fn body() -> (Passed, Received) {
    let (sender, chunks) = mpsc::channel(CHUNKS);
    let received = Received {
        chunks,
        rest: Bytes::new(),
    };
    (Passed(sender), received)
}

/// The end at which it comes from the client.
pub(super) struct Passed(mpsc::Sender<io::Result<Bytes>>);

/// The end at which another thread reads it.
pub(super) struct Received {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

impl Passed {
    /// Passes a body on while something else is done with it, and no longer than that. A client that is silent for too long,
    /// or that ends before the body does, is an error to whoever reads.
    pub(super) async fn beside<T>(
        self,
        body: Incoming,
        patience: Duration,
        work: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(work);
        tokio::select! {
            worked = &mut work => worked,
            () = self.pass(body, patience) => work.await,
        }
    }

    async fn pass(self, mut body: Incoming, patience: Duration) {
        loop {
            let chunk = match timeout(patience, body.frame()).await {
                Ok(None) => return,
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => Ok(bytes),
                    Err(_trailers) => continue,
                },
                Ok(Some(Err(error))) => Err(io::Error::other(error)),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            let failed = chunk.is_err();
            if self.0.send(chunk).await.is_err() || failed {
                return;
            }
        }
    }
}

impl io::Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.chunks.blocking_recv() {
                None => return Ok(0),
                Some(chunk) => self.rest = chunk?,
            }
        }
        let count = buffer.len().min(self.rest.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}
