//! The server's side of the control socket: a thread that reads requests one after the other and answers those that are
//! answered at once, and a thread for those that take long, so that statistics never wait. What takes a device down has a
//! thread of its own: it looks at who uses the device, and they may be waiting for statistics. Whoever connects and says
//! nothing is dropped after a few seconds; whoever sends nonsense gets an error; neither disturbs the device.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender, TrySendError};

use crate::protocol::{ControlError, Request, Response, read_request, write_line};

/// Requests that may wait while another one takes long.
const QUEUE: usize = 16;

/// What a server does with requests. Called from the control threads.
pub trait Handler: Send + Sync {
    /// Carries out a request. The answer is sent, then [`Handler::answered`] is called.
    fn handle(&self, request: Request) -> Result<Response, ControlError>;
    /// The answer to that request was sent, or could not be.
    fn answered(&self, _request: &Request, _done: bool) {}
}

/// A control socket being served. Ends with the process.
pub struct ControlServer;

impl ControlServer {
    /// Listens at `socket` (made with mode 0600) and serves it from two threads of its own. A socket that a process
    /// before left there is replaced: who calls this has the device's directory for itself.
    pub fn start(socket: &Path, handler: Arc<dyn Handler>) -> io::Result<ControlServer> {
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
        let (jobs, inbox) = mpsc::sync_channel::<(UnixStream, Request)>(QUEUE);
        let worker = handler.clone();
        let work = move || {
            for (stream, request) in inbox {
                answer(stream, Ok(request), &*worker);
            }
        };
        std::thread::Builder::new()
            .name("jobs".into())
            .spawn(work)?;
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || serve(&listener, &handler, &jobs))?;
        Ok(ControlServer)
    }
}

fn serve(
    listener: &UnixListener,
    handler: &Arc<dyn Handler>,
    jobs: &SyncSender<(UnixStream, Request)>,
) {
    for stream in listener.incoming() {
        let mut stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "control socket");
                // Out of descriptors, perhaps: do not spin.
                std::thread::sleep(std::time::Duration::from_millis(100));
                continue;
            }
        };
        match read_request(&mut stream) {
            Ok(request) if request.takes_long() => {
                if let Err(
                    TrySendError::Full((stream, _)) | TrySendError::Disconnected((stream, _)),
                ) = jobs.try_send((stream, request))
                {
                    let message = format!("{QUEUE} requests that take long are waiting already");
                    answer(stream, Err(ControlError { errno: 16, message }), &**handler);
                }
            }
            Ok(request) if request.waits_for_users() => {
                let handler = handler.clone();
                let work = move || answer(stream, Ok(request), &*handler);
                let thread = std::thread::Builder::new().name("ending".into());
                if let Err(error) = thread.spawn(work) {
                    tracing::error!(%error, "no thread for a request");
                }
            }
            request => answer(stream, request, &**handler),
        }
    }
}

fn answer(mut stream: UnixStream, request: Result<Request, ControlError>, handler: &dyn Handler) {
    let result = request.clone().and_then(|request| handler.handle(request));
    let done = result.is_ok();
    let answer = result.unwrap_or_else(|error| {
        tracing::info!(%error, "control request refused");
        Response::Error(error)
    });
    if let Err(error) = write_line(&mut stream, &answer) {
        tracing::debug!(%error, "the client did not wait for its answer");
    }
    drop(stream);
    if let Ok(request) = request {
        handler.answered(&request, done);
    }
}
