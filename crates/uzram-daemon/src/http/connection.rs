//! One connection: one request, with a deadline for each part of the way.

use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use uzram_control::trust;

use super::Seat;
use super::answer::{TOO_SLOW, answer};
use super::phase::RequestPhase;
use super::recorded::{Recorded, RecordedHead};
use crate::api::Asker;

/// How long a client that was answered may go on sending. Closed at once, a unix socket would take the answer from a
/// client that still writes.
const LINGER: Duration = Duration::from_secs(2);

pub(super) async fn serve(seat: Seat, stream: UnixStream) {
    let begin = Instant::now();
    let limits = seat.server.limits.clone();
    let head = RecordedHead::new(limits.head_bytes);
    let asker = asker(&stream);
    let recorded = Recorded {
        stream,
        head: head.clone(),
    };
    let (phase, mut phases) = watch::channel(RequestPhase::Head);
    let phase = Rc::new(phase);
    let seat = Rc::new(seat);
    let service = service_fn(|request| {
        let (seat, head, phase) = (seat.clone(), head.clone(), phase.clone());
        Box::pin(async move {
            let answered = answer(&seat, &head, asker, &phase, begin, request).await;
            phase.send_replace(RequestPhase::Answered(Instant::now()));
            Ok::<_, Infallible>(answered)
        })
    });
    let mut connection = http1::Builder::new()
        .keep_alive(false)
        // A client may end its side once it has asked.
        .half_close(true)
        .max_headers(limits.headers)
        .max_buf_size(limits.head_bytes)
        .serve_connection(TokioIo::new(recorded), service);
    let in_time = loop {
        let deadline = match *phases.borrow_and_update() {
            RequestPhase::Head => Some(begin + limits.sending),
            RequestPhase::Body | RequestPhase::Work => None,
            RequestPhase::Answered(at) => Some(at + limits.reading),
        };
        tokio::select! {
            ended = poll_fn(|context| connection.poll_without_shutdown(context)) => {
                // hyper has answered what is no request.
                if let Err(error) = ended {
                    tracing::debug!(%error, "a client was not understood, or did not wait for its answer");
                }
                break true;
            }
            _ = phases.changed() => {}
            () = passed(deadline) => break false,
        }
    };
    let mut stream = connection.into_parts().io.into_inner().stream;
    let late = !in_time && *phase.borrow() == RequestPhase::Head;
    if late && !head.is_empty() {
        let _ = timeout(limits.reading, stream.write_all(TOO_SLOW)).await;
    }
    if in_time || late {
        let _ = timeout(LINGER, read_to_the_end(&mut stream)).await;
    }
}

/// The process at the other end.
fn asker(stream: &UnixStream) -> Asker {
    let pid = trust::credentials(stream).map_or(0, |peer| peer.pid());
    Asker(u32::try_from(pid).unwrap_or(0))
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Ends this side, and drops what the other one still sends.
async fn read_to_the_end(stream: &mut UnixStream) {
    let _ = stream.shutdown().await;
    let mut dropped = [0; 4096];
    while stream.read(&mut dropped).await.is_ok_and(|read| read > 0) {}
}
