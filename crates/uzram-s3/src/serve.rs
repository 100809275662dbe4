//! Reads what is asked, has it done, and writes the answers.
//!
//! One thread reads, one writes, the runtime's do. The first request opens the store. When the socket is closed, or something comes
//! that is no request, uploads in parts are given up, so that the store does not keep what nobody will complete.
//!
//! **Memory bound**: [`BODIES_KIB`] of bodies that came and were not answered, or are answers that were not read; who asks for more
//! waits.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use uzram_remote::wire::{self, Answer, Call, LISTED_AT_ONCE, Reply, Request, WIRE_VERSION};
use uzram_remote::{StoreError, StoreErrorKind};

use crate::store::S3;

/// Most KiB of bodies: four parts of snapshots, of the longest.
const BODIES_KIB: u32 = 256 << 10;
/// For how long uploads may be given up at the end.
const END: Duration = Duration::from_secs(5);

/// An answer on its way, with its share of the memory.
struct Sent {
    answer: Answer,
    body: Bytes,
    _memory: Option<OwnedSemaphorePermit>,
}

/// What all calls share.
#[derive(Clone)]
struct Shared {
    answers: Sender<Sent>,
    memory: Arc<Semaphore>,
}

/// Serves a socket until it is closed.
pub(crate) fn serve(socket: UnixStream) -> io::Result<()> {
    // What is sent is hashed and encrypted by these.
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.clamp(2, 4))
        .enable_all()
        .build()?;
    let (gone, is_gone) = watch::channel(false);
    let (answers, to_write) = mpsc::channel();
    let writer = {
        let socket = socket.try_clone()?;
        thread::spawn(move || write_all(&socket, &to_write))
    };
    let shared = Shared {
        answers,
        memory: Arc::new(Semaphore::new(BODIES_KIB as usize)),
    };
    // Each call has one: when all are dropped, none is left.
    let (alive, mut all_ended) = tokio::sync::mpsc::channel::<()>(1);
    let read = read_all(&socket, &runtime, &shared, is_gone, alive);
    let _ = gone.send(true);
    let _ = socket.shutdown(Shutdown::Both);
    runtime.block_on(async {
        let _ = tokio::time::timeout(END, all_ended.recv()).await;
    });
    runtime.shutdown_background();
    drop(shared);
    // What is answered from now on nobody reads.
    drop(writer);
    read
}

fn read_all(
    mut from: &UnixStream,
    runtime: &Runtime,
    shared: &Shared,
    is_gone: watch::Receiver<bool>,
    alive: tokio::sync::mpsc::Sender<()>,
) -> io::Result<()> {
    let mut store: Option<Arc<S3>> = None;
    loop {
        let Some(head) = wire::read_head::<Request>(&mut from)? else {
            return Ok(());
        };
        let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
        let may_have_body = matches!(head.header.call, Call::Put { .. });
        if head.body_bytes > 0 && !may_have_body {
            return Err(bad("a bad frame: nothing but an object has a body"));
        }
        let permit = runtime.block_on(take(shared, head.body_bytes.into()));
        let body = Bytes::from(wire::read_body(&mut from, &head)?);
        let Request { id, call } = head.header;
        match (call, &store) {
            (Call::Open { version, address }, None) => {
                let opened = match version {
                    WIRE_VERSION => runtime.block_on(S3::open(&address, is_gone.clone())),
                    other => {
                        let why = format!(
                            "uzram-s3 speaks version {WIRE_VERSION}, uzram version {other}: install both anew"
                        );
                        Err(StoreError::new(StoreErrorKind::Unsupported, "", why))
                    }
                };
                let result = opened.map(|opened| {
                    store = Some(Arc::new(opened));
                    Reply::Opened
                });
                send(shared, id, result, Bytes::new(), None);
            }
            (Call::Open { .. }, Some(_)) => return Err(bad("the store is open already")),
            (_, None) => return Err(bad("the first request must open the store")),
            (call, Some(store)) => {
                let (store, shared, alive) = (store.clone(), shared.clone(), alive.clone());
                runtime.spawn(async move {
                    carry_out(&store, &shared, id, call, body, permit).await;
                    drop(alive);
                });
            }
        }
    }
}

/// A share of the memory.
async fn take(shared: &Shared, bytes: u64) -> Option<OwnedSemaphorePermit> {
    let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(BODIES_KIB);
    let permits = shared
        .memory
        .clone()
        .acquire_many_owned(kib.min(BODIES_KIB));
    permits.await.ok()
}

async fn carry_out(
    store: &S3,
    shared: &Shared,
    id: u64,
    call: Call,
    body: Bytes,
    memory: Option<OwnedSemaphorePermit>,
) {
    let no_body = Bytes::new();
    match call {
        Call::Open { .. } => {}
        Call::Put { key, when } => {
            let put = store.put(&key, body, &when).await;
            drop(memory);
            let reply = put.map(|version| Reply::Put { version });
            send(shared, id, reply, no_body, None);
        }
        Call::Get { key, max } => {
            // What is read like this is small but for manifests: its length is known only when it comes.
            let (got, memory) = match store.get(&key, max).await {
                Ok((bytes, version)) => {
                    let memory = take(shared, bytes.len() as u64).await;
                    (Ok((bytes, Some(version))), memory)
                }
                Err(error) => (Err(error), None),
            };
            send_bytes(shared, id, got, memory);
        }
        Call::GetRange { key, begin, end } => {
            let memory = take(shared, end.saturating_sub(begin)).await;
            let got = store.get_range(&key, begin..end).await;
            send_bytes(shared, id, got.map(|bytes| (bytes, None)), memory);
        }
        Call::Head { key } => {
            let reply = store.head(&key).await.map(|meta| Reply::Head { meta });
            send(shared, id, reply, no_body, None);
        }
        Call::List { prefix } => match store.list(&prefix).await {
            Ok(metas) => {
                let mut chunks = metas.chunks(LISTED_AT_ONCE).peekable();
                if chunks.peek().is_none() {
                    let metas = Vec::new();
                    send(
                        shared,
                        id,
                        Ok(Reply::Listed { metas, more: false }),
                        no_body,
                        None,
                    );
                    return;
                }
                while let Some(chunk) = chunks.next() {
                    let reply = Reply::Listed {
                        metas: chunk.to_vec(),
                        more: chunks.peek().is_some(),
                    };
                    send(shared, id, Ok(reply), Bytes::new(), None);
                }
            }
            Err(error) => send(shared, id, Err(error), no_body, None),
        },
        Call::Delete { key } => {
            let reply = store.delete(&key).await.map(|()| Reply::Deleted);
            send(shared, id, reply, no_body, None);
        }
    }
}

fn send_bytes(
    shared: &Shared,
    id: u64,
    got: Result<(Bytes, Option<uzram_remote::Version>), StoreError>,
    memory: Option<OwnedSemaphorePermit>,
) {
    match got {
        Ok((bytes, version)) => send(shared, id, Ok(Reply::Got { version }), bytes, memory),
        Err(error) => send(shared, id, Err(error), Bytes::new(), None),
    }
}

fn send(
    shared: &Shared,
    id: u64,
    result: Result<Reply, StoreError>,
    body: Bytes,
    memory: Option<OwnedSemaphorePermit>,
) {
    // Nobody takes it where nobody reads any more.
    let _ = shared.answers.send(Sent {
        answer: Answer { id, result },
        body,
        _memory: memory,
    });
}

fn write_all(mut to: &UnixStream, answers: &Receiver<Sent>) {
    while let Ok(sent) = answers.recv() {
        if wire::write_frame(&mut to, &sent.answer, &sent.body).is_err() {
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
    }
}
