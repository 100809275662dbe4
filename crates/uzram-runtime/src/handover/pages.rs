//! The side of the new device: its pages are at another host, and come by whatever connection `uzram receive` has there.
//!
//! A connection is given to the server ([`SentPages::attach`]) and may end and be replaced. While there is none, requests that
//! need a page from there wait, and then fail; nothing else does. What nobody waits for is fetched by threads of its own until
//! nothing is missing ([`SentPages::bring_all`]).
//!
//! **Memory bound**: an answer of at most 2 MiB of the disk for each thread that fetches.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use uzram::{Choice, Device, FRAME_PAGES, RemoteError, RemoteOptions, RemoteSource, StoredPage};
use uzram_snapshot::{MAX_CODECS, Snapshot};
use uzram_spec::{Failure, Result, SentSpec, SnapshotSource};

use super::wire::{decode, runs};
use super::{Message, MessageKind};
use crate::process;

/// How long an answer is waited for before the connection is taken for one that stands still.
const ANSWER: Duration = Duration::from_secs(60);
/// How long it may take before that is said.
const SILENCE: Duration = Duration::from_secs(5);
/// Threads that bring what nobody waits for: so many questions are on their way at once.
const AHEAD: usize = 3;
/// How long one of them may wait for an answer: where it takes longer it asks for less, so that what requests wait for is never
/// far behind.
const LONG: Duration = Duration::from_millis(100);
/// Most frames that one asks for.
const MOST_FRAMES: usize = 8;
/// How long they wait for a connection before they look whether there is still a device.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is said why nothing comes.
const SAY: Duration = Duration::from_secs(60);

/// What a device that is sent is made from: a description, and which pages hold something.
#[derive(Debug)]
pub(crate) struct OpenSent {
    pub(crate) description: File,
    pub(crate) slots: File,
}

impl OpenSent {
    /// Opens the files that `uzram receive` has.
    pub(crate) fn open(of: &SnapshotSource, sent: &SentSpec) -> Result<OpenSent> {
        let open = |path: &std::path::Path| {
            File::open(path).map_err(|error| {
                let message = format!("{}: what it is cannot be read: {error}", sent.by.display());
                Failure::failed(message).with_hint("\"uzram receive\" makes such a device")
            })
        };
        Ok(OpenSent {
            description: open(&of.file)?,
            slots: open(&sent.slots)?,
        })
    }
}

/// Where the pages are.
pub(crate) struct SentPages {
    id: String,
    /// The device and its host.
    by: String,
    timeout_seconds: Option<u32>,
    link: Mutex<Link>,
    /// A connection came.
    came: Condvar,
    /// The sender's codecs.
    choices: Mutex<Vec<(u8, Choice)>>,
    /// Frames that requests wait for.
    demanded: Mutex<HashSet<u32>>,
}

struct Link {
    to: Option<Arc<Mutex<UnixStream>>>,
    /// Counts connections: an end is that of the last one only.
    number: u64,
    next_question: u64,
    questions: HashMap<u64, Question>,
    /// Why there is none.
    said: &'static str,
    all_there: bool,
}

/// Who waits for an answer, and since when.
struct Question {
    since: Instant,
    tell: Sender<std::result::Result<Vec<u8>, String>>,
}

impl Link {
    /// Why nothing comes, if so.
    fn matter(&self) -> Option<&'static str> {
        let stands_still = |question: &Question| question.since.elapsed() > SILENCE;
        match &self.to {
            None => Some(self.said),
            Some(_) if self.questions.values().any(stands_still) => Some(SILENT),
            Some(_) => None,
        }
    }
}

/// What is to be brought next.
struct Ahead {
    page: u64,
    /// So many frames are asked for at once.
    frames: usize,
}

const NOT_YET: &str = "no connection was taken up yet";
const ENDED: &str = "the connection has ended";
const SILENT: &str = "it does not answer";

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SentPages {
    pub(crate) fn new(of: &SnapshotSource, sent: &SentSpec) -> Arc<SentPages> {
        Arc::new(SentPages {
            id: sent.id.clone(),
            by: sent.by.display().to_string(),
            timeout_seconds: of.remote_timeout_seconds,
            link: Mutex::new(Link {
                to: None,
                number: 0,
                next_question: 1,
                questions: HashMap::new(),
                said: NOT_YET,
                all_there: false,
            }),
            came: Condvar::new(),
            choices: Mutex::default(),
            demanded: Mutex::default(),
        })
    }

    /// Makes a new device of it: the first frame is there, all other pages that hold something are remote.
    pub(crate) fn install(
        self: &Arc<SentPages>,
        device: &mut Device,
        choices: Vec<(u8, Choice)>,
        mut slots: &File,
    ) -> Result {
        let failed = |why: &dyn std::fmt::Display| {
            Failure::failed(format!("{}: what it holds cannot be read: {why}", self.by))
        };
        let mut count = [0; 8];
        slots
            .read_exact(&mut count)
            .map_err(|error| failed(&error))?;
        let mut first = Vec::new();
        slots
            .take(u64::from_le_bytes(count))
            .read_to_end(&mut first)
            .map_err(|error| failed(&error))?;
        let mut install = device.install();
        let mut indices = [None; MAX_CODECS];
        for (number, choice) in &choices {
            let index = install.codec(choice)?;
            if let Some(slot) = indices.get_mut(usize::from(*number)) {
                *slot = Some(index);
            }
        }
        let installed = decode(&first, &[0], |page, stored| {
            let stored = match stored {
                StoredPage::Object { codec, bytes } => {
                    let index = indices.get(usize::from(codec)).copied().flatten();
                    let unknown =
                        || Failure::failed(format!("{}: it lacks codec {codec}", self.by));
                    let codec = index.ok_or_else(unknown)?;
                    StoredPage::Object { codec, bytes }
                }
                other => other,
            };
            install.page(page, stored).map_err(Failure::from)
        });
        installed.map_err(|why| failed(&why))??;
        for run in runs(slots) {
            let run = run.map_err(|error| failed(&error))?;
            let run = run.start.max(FRAME_PAGES as u64)..run.end;
            if run.start < run.end {
                install.remote(run)?;
            }
        }
        drop(install);
        *lock(&self.choices) = choices;
        device.set_source(self.clone(), self.options());
        Ok(())
    }

    /// How long requests wait.
    pub(crate) fn options(&self) -> RemoteOptions {
        let mut options = RemoteOptions::default();
        if let Some(seconds) = self.timeout_seconds {
            options.timeout = Duration::from_secs(seconds.into());
        }
        options
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Fetches by this socket from now on.
    pub(crate) fn attach(self: &Arc<SentPages>, socket: OwnedFd) -> io::Result<()> {
        let socket = UnixStream::from(socket);
        let mut from = socket.try_clone()?;
        let (number, before) = {
            let mut link = lock(&self.link);
            link.number += 1;
            // Who waits for the one before asks again.
            link.questions.clear();
            let before = link.to.replace(Arc::new(Mutex::new(socket)));
            (link.number, before)
        };
        if let Some(before) = before {
            let why = "another connection has taken its place";
            // It may be gone.
            let _ = Message::new(MessageKind::Refused, why).write(&mut *lock(&before));
        }
        self.came.notify_all();
        let own = self.clone();
        process::spawn("sent", move || {
            let ended = own.listen(&mut from);
            let mut link = lock(&own.link);
            if link.number != number {
                return;
            }
            (link.to, link.said) = (None, ENDED);
            link.questions.clear();
            if !link.all_there {
                let why = ended.map_or_else(|error| format!(": {error}"), |()| String::new());
                tracing::warn!("{}{why}", own.away(ENDED));
            }
        })?;
        self.say_all_there();
        Ok(())
    }

    fn listen(&self, from: &mut UnixStream) -> io::Result<()> {
        while let Some(message) = Message::read(from)? {
            let answer = match message.kind {
                MessageKind::Description => {
                    let choices = choices_of(&message.bytes).map_err(io::Error::other)?;
                    *lock(&self.choices) = choices;
                    continue;
                }
                MessageKind::Frames => Ok(message.bytes),
                MessageKind::Failed => Err(message.words()),
                _ => continue,
            };
            let question = lock(&self.link).questions.remove(&message.number);
            if let Some(question) = question {
                // Who asked may have given up.
                let _ = question.tell.send(answer);
            }
        }
        Ok(())
    }

    /// What is the matter, and what helps.
    fn away(&self, said: &str) -> String {
        format!(
            "{}, which has what is missing: {said}; \"uzram send --lazy\" there and \"uzram receive\" here once more go on with it",
            self.by
        )
    }

    fn ask(&self, kind: MessageKind, frames: &[u32]) -> std::result::Result<Vec<u8>, RemoteError> {
        let away = |said: &str| RemoteError {
            message: self.away(said),
            passes: true,
        };
        let (number, heard, to) = {
            let mut link = lock(&self.link);
            let Some(to) = link.to.clone() else {
                return Err(away(link.said));
            };
            let number = link.next_question;
            link.next_question += 1;
            let (tell, heard) = mpsc::channel();
            let since = Instant::now();
            link.questions.insert(number, Question { since, tell });
            (number, heard, to)
        };
        let bytes: Vec<u8> = frames.iter().flat_map(|n| n.to_le_bytes()).collect();
        let question = Message {
            kind,
            number,
            bytes,
        };
        let asked = question.write(&mut *lock(&to));
        let answer = match asked {
            Ok(()) => heard.recv_timeout(ANSWER),
            Err(_) => return Err(away(ENDED)),
        };
        match answer {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(words)) => Err(RemoteError {
                message: format!("{}: {words}", self.by),
                passes: true,
            }),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(away(ENDED)),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                lock(&self.link).questions.remove(&number);
                Err(away(SILENT))
            }
        }
    }

    /// Says that nothing is missing, if so, once to each connection.
    fn say_all_there(&self) {
        let to = {
            let link = lock(&self.link);
            link.to.clone().filter(|_| link.all_there)
        };
        if let Some(to) = to {
            // It may have ended. The next one is told, too.
            let _ = Message::new(MessageKind::AllThere, []).write(&mut *lock(&to));
        }
    }

    fn wait_for_link(&self) -> bool {
        let link = lock(&self.link);
        let waited = self
            .came
            .wait_timeout_while(link, LOOK, |link| link.to.is_none());
        let (link, _) = waited.unwrap_or_else(PoisonError::into_inner);
        link.to.is_some()
    }

    /// Brings all that is missing, behind what requests wait for, by threads that end then or with the device.
    pub(crate) fn bring_all(self: &Arc<SentPages>, device: &Arc<Device>) -> io::Result<()> {
        let next = Arc::new(Mutex::new(Ahead { page: 0, frames: 1 }));
        for _ in 0..AHEAD {
            let (pages, device, next) = (self.clone(), Arc::downgrade(device), next.clone());
            process::spawn("ahead", move || pages.bring(&device, &next))?;
        }
        Ok(())
    }

    fn bring(&self, device: &Weak<Device>, next: &Mutex<Ahead>) {
        let mut said: Option<Instant> = None;
        loop {
            let Some(device) = device.upgrade() else {
                return;
            };
            if device.remote_pages() == 0 {
                return self.brought(&device);
            }
            if !self.wait_for_link() {
                continue;
            }
            let frames = {
                let mut next = lock(next);
                let mut frames = device.jobs().remote_frames(next.page);
                frames.truncate(next.frames);
                let last = frames.last().copied();
                next.page = last.map_or(0, |last| (u64::from(last) + 1) * FRAME_PAGES as u64);
                frames
            };
            if frames.is_empty() {
                // The others are at what is left.
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            let begin = Instant::now();
            let go_on = &mut |_| ControlFlow::Continue(());
            if let Err(error) = device.jobs().fetch_ahead(&frames, go_on) {
                if said.is_none_or(|at| at.elapsed() > SAY) {
                    said = Some(Instant::now());
                    tracing::warn!("what is missing does not come: {error}");
                }
                std::thread::sleep(LOOK);
                continue;
            }
            let mut next = lock(next);
            next.frames = match begin.elapsed() {
                long if long > LONG => (next.frames / 2).max(1),
                short if short < LONG / 4 => (next.frames * 2).min(MOST_FRAMES),
                _ => next.frames,
            };
        }
    }

    fn brought(&self, device: &Device) {
        // What was left may have been discarded: then nobody has said so yet.
        let stop = &mut |_| ControlFlow::Break(());
        let _ = device.jobs().hydrate(stop);
        let was = std::mem::replace(&mut lock(&self.link).all_there, true);
        if !was {
            tracing::info!("all of it is here: {} is not needed any more", self.by);
            self.say_all_there();
        }
    }
}

/// The codecs of a description.
fn choices_of(description: &[u8]) -> std::result::Result<Vec<(u8, Choice)>, uzram_snapshot::Error> {
    Snapshot::open(description.to_vec())?.choices(uzram_control::zram::algorithms())
}

impl RemoteSource for SentPages {
    fn fetch(
        &self,
        frames: &[u32],
        page: &mut dyn FnMut(u64, StoredPage<'_>),
    ) -> std::result::Result<(), RemoteError> {
        let is_awaited = {
            let demanded = lock(&self.demanded);
            frames.iter().any(|frame| demanded.contains(frame))
        };
        let kind = match is_awaited {
            true => MessageKind::Fetch,
            false => MessageKind::FetchAhead,
        };
        let bytes = self.ask(kind, frames)?;
        let decoded = decode(&bytes, frames, |number, stored| {
            page(number, stored);
            Ok::<(), Infallible>(())
        });
        decoded.map(drop).map_err(|why| RemoteError {
            message: format!("{}: what came is damaged: {why}", self.by),
            passes: false,
        })?;
        let mut demanded = lock(&self.demanded);
        demanded.retain(|frame| !frames.contains(frame));
        Ok(())
    }

    fn codec(&self, number: u8) -> std::result::Result<Choice, RemoteError> {
        let choices = lock(&self.choices);
        let found = choices.iter().find(|(other, _)| *other == number);
        found
            .map(|(_, choice)| choice.clone())
            .ok_or_else(|| RemoteError {
                message: format!("{}: it lists no codec {number}", self.by),
                passes: true,
            })
    }

    fn name(&self) -> String {
        let matter = lock(&self.link).matter();
        matter.map_or_else(|| self.by.clone(), |said| self.away(said))
    }

    fn demanded(&self, frame: u32) {
        lock(&self.demanded).insert(frame);
    }
}
