//! The server's side of the control socket: one thread reads all clients' requests at once and answers those that are
//! answered at once; one works on what takes long, so that statistics never wait; what waits for other processes, such as
//! taking a device down, has a thread of its own.
//!
//! No client delays another. At most [`MAX_CLIENTS`] may be sending a request, each for [`REQUEST`] as a whole; where one
//! more comes, the one that has been sending for the longest goes, since an honest one takes microseconds. What they have
//! sent may take [`MAX_HELD`] bytes of memory together. Whoever sends nonsense gets an error and disturbs nobody.

mod conversation;

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::protocol::{
    ControlError, Envelope, Job, MAX_FILES, MAX_LINE, Request, RequestProgress, Response,
    parse_request,
};
use crate::trust;
use conversation::{Conversation, Rest};

/// Requests that may wait while another one takes long.
const QUEUE: usize = 16;
/// Requests that may wait for other processes at a time.
const MAX_WAITING: usize = 16;
/// Clients that may be sending a request at a time.
const MAX_CLIENTS: usize = 64;
/// How long a client may take to send its request as a whole, and to take its answer.
const REQUEST: Duration = Duration::from_secs(5);
/// Bytes that clients which are still sending may have sent, together.
const MAX_HELD: usize = 4 * MAX_LINE;
/// How often clients hear that their requests go on.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long nobody is accepted where there is no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// What a server does with requests. Called from the control threads.
pub trait Handler: Send + Sync {
    /// Carries out a request. The answer is sent, then [`Handler::answered`] is called.
    fn handle(&self, request: Request) -> Result<Response, ControlError>;
    /// Carries out a request that came with files. `is_gone` tells whether the client waits no more: then it is cancelled.
    fn handle_with_files(
        &self,
        _request: Request,
        _files: Vec<OwnedFd>,
        _is_gone: &dyn Fn() -> bool,
    ) -> Result<Response, ControlError> {
        Err(ControlError {
            errno: 22,
            message: "nobody here writes to a file".into(),
        })
    }
    /// Carries out a request that takes long. `pace` is called now and then with the pages that were dealt with since, and ends it
    /// where the client has gone or somebody cancels it.
    fn handle_paced(
        &self,
        request: Request,
        _pace: &dyn Fn(u64) -> ControlFlow<()>,
    ) -> Result<Response, ControlError> {
        self.handle(request)
    }
    /// How many pages a request that takes long has to deal with; 0 where that is not known.
    fn total_pages(&self, _request: &Request) -> u64 {
        0
    }
    /// The device's identity: requests that mean another device are refused. Empty where none is known.
    fn identity(&self) -> &str {
        ""
    }
    /// The answer to that request was sent, or could not be.
    fn answered(&self, _request: &Request, _done: bool) {}
}

/// A control socket being served. Ends with the process.
pub struct ControlServer;

impl ControlServer {
    /// Listens at `socket` (made with mode 0600) and serves it from two threads of its own. A socket that a process
    /// before left there is replaced: who calls this has the device's directory for itself.
    pub fn start(socket: &Path, handler: Arc<dyn Handler>) -> io::Result<ControlServer> {
        let listener = trust::bind(socket)?;
        listener.set_nonblocking(true)?;
        let (jobs, inbox) = mpsc::sync_channel::<(Arc<Conversation>, Request)>(QUEUE);
        let worker = handler.clone();
        let work = move || {
            for (conversation, request) in inbox {
                conversation.answer(request, Vec::new(), &*worker);
            }
        };
        std::thread::Builder::new()
            .name("jobs".into())
            .spawn(work)?;
        let mut control = Control {
            listener,
            handler,
            jobs,
            clients: Vec::new(),
            readers: Vec::new(),
            working: Vec::new(),
            waiting: Arc::new(()),
            next_job: 1,
            next_heartbeat: Instant::now(),
            accept_again: Instant::now(),
        };
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || control.run())?;
        Ok(ControlServer)
    }
}

/// A client that sends its request.
struct Sending {
    stream: UnixStream,
    received: Vec<u8>,
    /// The files that came with it.
    files: Vec<OwnedFd>,
    deadline: Instant,
}

/// Receives what there is, and keeps the files that come with it. Too many are closed.
fn receive_with_files(client: &mut Sending, chunk: &mut [u8]) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let mut buffers = [IoSliceMut::new(chunk)];
    let received = rustix::net::recvmsg(&client.stream, &mut buffers, &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            let room = MAX_FILES - client.files.len();
            client.files.extend(files.take(room));
        }
    }
    Ok(received.bytes)
}

/// A client that is slow to read its answer.
struct Draining {
    conversation: Conversation,
    rest: Rest,
    deadline: Instant,
}

struct Control {
    listener: UnixListener,
    handler: Arc<dyn Handler>,
    jobs: SyncSender<(Arc<Conversation>, Request)>,
    /// In the order in which they came.
    clients: Vec<Sending>,
    readers: Vec<Draining>,
    /// Those whose requests wait or are worked on by other threads.
    working: Vec<Weak<Conversation>>,
    /// Held by each thread that waits for other processes.
    waiting: Arc<()>,
    /// The number of the next request that takes long.
    next_job: u64,
    next_heartbeat: Instant,
    /// Nobody is accepted before.
    accept_again: Instant,
}

impl Control {
    fn run(&mut self) {
        loop {
            let ready = self.wait();
            // From the last to the first, so that numbers stay true.
            for index in (0..self.clients.len()).rev() {
                if ready.get(index).copied().unwrap_or_default() {
                    self.receive(index);
                } else if self.clients[index].deadline <= Instant::now() {
                    let seconds = REQUEST.as_secs();
                    self.refuse(index, 110, format!("no request within {seconds} seconds"));
                }
            }
            let now = Instant::now();
            self.readers.retain_mut(|reader| {
                !reader.conversation.send(&mut reader.rest) && reader.deadline > now
            });
            if now >= self.accept_again {
                self.accept();
            }
            self.beat();
        }
    }

    /// Waits for something to do. Tells which clients have sent something.
    fn wait(&self) -> Vec<bool> {
        let now = Instant::now();
        let reading = self.readers.iter().map(|reader| reader.deadline);
        let sending = self.clients.iter().map(|client| client.deadline);
        let mut until = sending.chain(reading).min();
        let mut by = |at: Instant| until = Some(until.map_or(at, |until| until.min(at)));
        if !self.working.is_empty() {
            by(self.next_heartbeat);
        }
        let accepts = now >= self.accept_again;
        if !accepts {
            by(self.accept_again);
        }
        let left = until.map(|until| until.saturating_duration_since(now));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds: Vec<PollFd<'_>> = self
            .clients
            .iter()
            .map(|client| PollFd::new(&client.stream, PollFlags::IN))
            .collect();
        let room = |reader| PollFd::new(Conversation::stream(reader), PollFlags::OUT);
        fds.extend(self.readers.iter().map(|reader| room(&reader.conversation)));
        if accepts {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Ok(_) => fds.iter().map(|fd| !fd.revents().is_empty()).collect(),
            Err(Errno::INTR) => Vec::new(),
            Err(error) => {
                tracing::warn!(%error, "control socket");
                std::thread::sleep(PAUSE);
                Vec::new()
            }
        }
    }

    /// Takes in those who wait outside, but not so many that others wait for it.
    fn accept(&mut self) {
        for _ in 0..MAX_CLIENTS {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if let Err(uid) = trust::check_peer(&stream) {
                        let message = format!("user {uid} may not ask this device's processes");
                        let error = ControlError { errno: 1, message };
                        Conversation::new(stream, false).refuse(error);
                        continue;
                    }
                    if self.clients.len() == MAX_CLIENTS {
                        self.evict();
                    }
                    self.clients.push(Sending {
                        stream,
                        received: Vec::new(),
                        files: Vec::new(),
                        deadline: Instant::now() + REQUEST,
                    });
                    // Most have sent theirs by now.
                    self.receive(self.clients.len() - 1);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(%error, clients = self.clients.len(), "control socket");
                    // Out of descriptors, perhaps: whoever says nothing makes room for who does.
                    match self.clients.is_empty() {
                        true => self.accept_again = Instant::now() + PAUSE,
                        false => self.evict(),
                    }
                    return;
                }
            }
        }
    }

    /// Lets the client go that has been sending for the longest.
    fn evict(&mut self) {
        let message = "others wait, and this request is not complete";
        self.refuse(0, 11, message.into());
    }

    /// Reads what a client has sent, and deals with its request if that is whole.
    fn receive(&mut self, index: usize) {
        let mut chunk = [0; 16 << 10];
        loop {
            let client = &mut self.clients[index];
            match receive_with_files(client, &mut chunk) {
                Ok(0) => return self.refuse(index, 71, "no request: line cut short".into()),
                Ok(n) => {
                    let new = &chunk[..n];
                    let end = new.iter().position(|byte| *byte == b'\n');
                    client.received.extend_from_slice(&new[..end.unwrap_or(n)]);
                    if end.is_some() {
                        let client = self.clients.remove(index);
                        return self.deal_with(client);
                    }
                    if client.received.len() > MAX_LINE {
                        let message = format!("no request: its line is longer than {MAX_LINE}");
                        return self.refuse(index, 71, message);
                    }
                    let held: usize = self.clients.iter().map(|c| c.received.len()).sum();
                    if held > MAX_HELD {
                        let message = "others send large requests at this moment: try again";
                        return self.refuse(index, 11, message.into());
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.clients.remove(index);
                    return;
                }
            }
        }
    }

    /// Lets a client go that has sent no request.
    fn refuse(&mut self, index: usize, errno: i32, message: String) {
        let client = self.clients.remove(index);
        Conversation::new(client.stream, false).refuse(ControlError { errno, message });
    }

    fn deal_with(&mut self, client: Sending) {
        let parsed = parse_request(&client.received)
            .and_then(|meant| meant.check_device(self.handler.identity()).map(|()| meant));
        let Envelope {
            progress,
            detached,
            request,
            ..
        } = match parsed {
            Ok(envelope) => envelope,
            Err(error) => return Conversation::new(client.stream, false).refuse(error),
        };
        let request = match request {
            // Known here, and to no handler.
            Request::Jobs => {
                let jobs = self.jobs();
                return Conversation::new(client.stream, false).tell(&Response::Jobs { jobs });
            }
            Request::CancelJob { number } => {
                let answer = self.cancel(number);
                return Conversation::new(client.stream, false).tell(&answer);
            }
            request => request,
        };
        let conversation = Conversation::new(client.stream, progress);
        // Those of a request that takes none are closed.
        let files = match request.has_files() {
            true => client.files,
            false => Vec::new(),
        };
        if !request.takes_long() && !request.waits_for_others() {
            if let Some(rest) = conversation.answer_at_once(request, files, &*self.handler) {
                if self.readers.len() == MAX_CLIENTS {
                    self.readers.remove(0);
                }
                self.readers.push(Draining {
                    conversation,
                    rest,
                    deadline: Instant::now() + REQUEST,
                });
            }
            return;
        }
        let detached = detached && request.takes_long();
        let conversation = conversation.of_job(self.next_job, request.name(), detached);
        let conversation = Arc::new(conversation);
        self.next_job += 1;
        if request.takes_long() {
            self.works(&conversation);
            if let Err(
                TrySendError::Full((conversation, _))
                | TrySendError::Disconnected((conversation, _)),
            ) = self.jobs.try_send((conversation.clone(), request))
            {
                let message = format!("{QUEUE} requests that take long are waiting already");
                conversation.refuse(ControlError { errno: 16, message });
            } else if detached {
                conversation.let_go();
            }
        } else {
            if Arc::strong_count(&self.waiting) > MAX_WAITING {
                let message = format!(
                    "{MAX_WAITING} requests that wait for other processes are waiting already"
                );
                return conversation.refuse(ControlError { errno: 16, message });
            }
            self.works(&conversation);
            let (handler, waits) = (self.handler.clone(), self.waiting.clone());
            let asked = conversation.clone();
            let work = move || {
                asked.answer(request, files, &*handler);
                drop(waits);
            };
            let thread = std::thread::Builder::new().name("ending".into());
            if let Err(error) = thread.spawn(work) {
                let message = format!("no thread for this request: {error}");
                conversation.refuse(ControlError { errno: 11, message });
            }
        }
    }

    /// What takes long, and is not answered yet.
    fn jobs(&self) -> Vec<Job> {
        let working = self.working.iter().filter_map(Weak::upgrade);
        working
            .filter_map(|conversation| conversation.job())
            .collect()
    }

    /// Ends one of these.
    fn cancel(&self, number: u64) -> Response {
        let mut working = self.working.iter().filter_map(Weak::upgrade);
        match working.find(|conversation| conversation.cancel(number)) {
            Some(_) => Response::Done,
            None => Response::Error(ControlError {
                errno: 3,
                message: format!("no job {number} is there, or it has ended"),
            }),
        }
    }

    /// A client whose request others work on hears of it from now on.
    fn works(&mut self, conversation: &Arc<Conversation>) {
        if self.working.is_empty() {
            self.next_heartbeat = Instant::now() + HEARTBEAT;
        }
        conversation.say(RequestProgress::Waiting);
        self.working.push(Arc::downgrade(conversation));
    }

    /// Says to all who wait that their requests go on.
    fn beat(&mut self) {
        if self.working.is_empty() || Instant::now() < self.next_heartbeat {
            return;
        }
        self.next_heartbeat = Instant::now() + HEARTBEAT;
        self.working.retain(|conversation| {
            let conversation = conversation.upgrade();
            conversation.is_some_and(|conversation| conversation.beat())
        });
    }
}
