//! The server: HTTP/1.1 by hyper on a unix socket that only its owner may open.
//!
//! One thread reads and writes for all clients. What a request asks for is done by a bounded set of other threads, of
//! which changes can take no more than their share: a look at a device never waits for one that is being made.
//!
//! What one client may take of the rest is bounded too: see [`Limits`]. A connection carries one request. Of those that
//! are not at work the oldest gives its place to a new one, so that any number of stalled clients keeps nobody out.

mod answer;
mod connection;
mod phase;
mod recorded;
mod stream;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, LocalSet};

use uzram_control::trust;

use crate::api::Devices;
use crate::limits::Limits;

/// Makes the socket, with mode 0600. EADDRINUSE: another daemon listens there; what a dead one left is replaced.
pub fn bind(socket: &Path) -> io::Result<UnixListener> {
    if trust::connect(socket).is_ok() {
        let message = format!("another uzramd listens at {}", socket.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
    }
    trust::bind(socket)
}

/// Serves the API from threads of its own until the process ends.
pub fn serve(listener: UnixListener, devices: Arc<dyn Devices>, limits: Limits) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(limits.changes + limits.looks)
        .thread_name("api")
        .build()?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::UnixListener::from_std(listener)?
    };
    let run = move || run(&runtime, &listener, devices, limits);
    std::thread::Builder::new().name("http".into()).spawn(run)?;
    Ok(())
}

/// What the server answers to these bytes of one connection, with no socket that anybody else could see: for tests and
/// fuzzers of everything that a client can send.
pub fn converse(request: &[u8], devices: Arc<dyn Devices>, limits: Limits) -> io::Result<Vec<u8>> {
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let server = Server::new(devices, limits);
    LocalSet::new().block_on(&runtime, async {
        let (mut client, stream) = tokio::net::UnixStream::pair()?;
        server.admit(stream);
        let mut answered = Vec::new();
        // Who is refused before he has sent everything still reads why.
        let _ = client.write_all(request).await;
        let _ = client.shutdown().await;
        client.read_to_end(&mut answered).await?;
        Ok(answered)
    })
}

fn run(
    runtime: &Runtime,
    listener: &tokio::net::UnixListener,
    devices: Arc<dyn Devices>,
    limits: Limits,
) {
    let server = Server::new(devices, limits);
    LocalSet::new().block_on(runtime, async {
        let mut failing = false;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    failing = false;
                    server.admit(stream);
                }
                Err(error) => {
                    // Out of descriptors, most likely: said once, tried again.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, "no connection can be accepted");
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            // A crowd of new clients must not keep those that are there from being served.
            tokio::task::yield_now().await;
        }
    });
}

/// What all connections share. Only one thread has it.
struct Server {
    devices: Arc<dyn Devices>,
    limits: Limits,
    changes: Semaphore,
    looks: Semaphore,
    places: RefCell<Places>,
}

/// The connections, by number: the oldest first.
#[derive(Default)]
struct Places {
    next: u64,
    taken: BTreeMap<u64, ConnectionPlace>,
}

struct ConnectionPlace {
    /// Whether its request has come whole and is not answered yet. Such a one is never sent away.
    works: bool,
    /// Ends it.
    task: AbortHandle,
}

/// A connection's right to its place, which is free again when this is dropped.
struct Seat {
    server: Rc<Server>,
    number: u64,
}

impl Server {
    fn new(devices: Arc<dyn Devices>, limits: Limits) -> Rc<Server> {
        Rc::new(Server {
            changes: Semaphore::new(limits.changes),
            looks: Semaphore::new(limits.looks),
            devices,
            limits,
            places: RefCell::default(),
        })
    }

    fn admit(self: &Rc<Server>, stream: tokio::net::UnixStream) {
        let mut places = self.places.borrow_mut();
        if places.taken.len() >= self.limits.connections {
            let idle = places.taken.iter().find(|(_, place)| !place.works);
            let Some(oldest) = idle.map(|(number, _)| *number) else {
                tracing::warn!("all connections are at work: one more was refused");
                answer::refuse(&stream, self.limits.connections);
                return;
            };
            if let Some(place) = places.taken.remove(&oldest) {
                tracing::debug!("the oldest idle client gives its place to a new one");
                place.task.abort();
            }
        }
        let number = places.next;
        places.next += 1;
        let seat = Seat {
            server: self.clone(),
            number,
        };
        let task = tokio::task::spawn_local(connection::serve(seat, stream)).abort_handle();
        places
            .taken
            .insert(number, ConnectionPlace { works: false, task });
    }
}

impl Seat {
    fn works(&self, works: bool) {
        let mut places = self.server.places.borrow_mut();
        if let Some(place) = places.taken.get_mut(&self.number) {
            place.works = works;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.server.places.borrow_mut().taken.remove(&self.number);
    }
}
