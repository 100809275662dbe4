//! A store that another process talks to: `uzram-s3`. What is asynchronous, and what knows HTTP and credentials, is there and
//! not here. Each call has a socket of its own while it lasts, so that no call waits for another.
//!
//! The process ends when this end of its stdin is closed, also where this process is killed.

use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::error::{Error, Result};
use crate::store::{Meta, Store, StoreError, StoreErrorKind, Version, When};
use crate::wire::{self, Answer, Call, Place};

/// A store by a process.
#[derive(Debug)]
pub struct ClientStore {
    control: Mutex<UnixStream>,
    idle: Mutex<Vec<UnixStream>>,
    child: Mutex<Child>,
}

impl ClientStore {
    /// Starts the process, and tells it where the store is. It looks for credentials; it asks the store nothing.
    pub fn start(program: &Path, place: &Place) -> Result<ClientStore> {
        let (own, theirs) = UnixStream::pair().map_err(Error::io("a socket pair"))?;
        let mut command = Command::new(program);
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        command.stdout(Stdio::null());
        let child = command.spawn().map_err(|error| {
            Error::Client(format!(
                "s3: needs the program {}, which cannot be started: {error}",
                program.display()
            ))
        })?;
        drop(command);
        let store = ClientStore {
            control: Mutex::new(own),
            idle: Mutex::new(Vec::new()),
            child: Mutex::new(child),
        };
        let answer = {
            let mut control = store.control.lock().unwrap_or_else(PoisonError::into_inner);
            wire::write(&mut *control, place, &[])
                .and_then(|()| wire::read_head::<Answer>(&mut *control))
        };
        match answer {
            Ok((Answer::Done, _)) => Ok(store),
            Ok((Answer::Failed(error), _)) => Err(error.into()),
            Ok(_) => Err(Error::Client(format!("{} is another program", program.display()))),
            Err(error) => Err(Error::Client(format!("{} ended: {error}", program.display()))),
        }
    }

    fn socket(&self) -> io::Result<UnixStream> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(socket) = idle {
            return Ok(socket);
        }
        let (own, theirs) = UnixStream::pair()?;
        let fds = [theirs.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let data = [IoSlice::new(b"+")];
        sendmsg(&*control, &data, &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(own)
    }

    /// Calls. Hands what follows the answer to `take`, with the answer.
    fn call<T>(
        &self,
        key: &str,
        call: &Call,
        body: &[u8],
        take: impl FnOnce(Answer, u64, &mut UnixStream) -> io::Result<Option<T>>,
    ) -> Result<T, StoreError> {
        let lost = |error: io::Error| {
            let why = format!("the process that talks to it ended: {error}");
            let kind = match call {
                Call::Put { .. } => StoreErrorKind::Unsettled,
                _ => StoreErrorKind::Failed,
            };
            StoreError::new(kind, key, why)
        };
        let mut socket = self.socket().map_err(lost)?;
        // Where the process answers before it has read everything, its answer says why.
        let written = wire::write(&mut socket, call, body);
        let read = wire::read_head::<Answer>(&mut socket);
        let (answer, follows) = match (written, read) {
            (_, Ok(answer)) => answer,
            (Err(error), _) | (Ok(()), Err(error)) => return Err(lost(error)),
        };
        if let Answer::Failed(error) = answer {
            self.done(socket);
            return Err(error);
        }
        let taken = take(answer, follows, &mut socket).map_err(lost)?;
        self.done(socket);
        taken.ok_or_else(|| StoreError::new(StoreErrorKind::Failed, key, "an answer to another call"))
    }

    fn done(&self, socket: UnixStream) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(socket);
    }
}

impl Drop for ClientStore {
    fn drop(&mut self) {
        let idle = self.idle.get_mut().unwrap_or_else(PoisonError::into_inner);
        idle.clear();
        let control = self.control.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = control.shutdown(std::net::Shutdown::Both);
        let _ = self.child.get_mut().unwrap_or_else(PoisonError::into_inner).wait();
    }
}

fn follow(socket: &mut UnixStream, bytes: u64) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let count = socket.take(bytes).read_to_end(&mut body)?;
    match count as u64 == bytes {
        true => Ok(body),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

impl Store for ClientStore {
    fn put(&self, key: &str, bytes: &[u8], when: &When) -> Result<Version, StoreError> {
        let call = Call::Put {
            key: key.into(),
            when: when.clone(),
        };
        self.call(key, &call, bytes, |answer, _, _| {
            Ok(match answer {
                Answer::Version(version) => Some(version),
                _ => None,
            })
        })
    }

    fn get(&self, key: &str, max: u64) -> Result<(Vec<u8>, Version), StoreError> {
        let key = key.to_owned();
        let call = Call::Get {
            key: key.clone(),
            max,
        };
        self.call(&key, &call, &[], |answer, follows, socket| {
            Ok(match answer {
                Answer::Version(version) => Some((follow(socket, follows)?, version)),
                _ => None,
            })
        })
    }

    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let call = Call::GetRange {
            key: key.into(),
            start: range.start,
            end: range.end,
        };
        self.call(key, &call, &[], |answer, follows, socket| {
            let is_whole = answer == Answer::Done;
            let bytes = follow(socket, follows)?;
            Ok(is_whole.then_some(bytes))
        })
    }

    fn head(&self, key: &str) -> Result<Meta, StoreError> {
        let call = Call::Head { key: key.into() };
        self.call(key, &call, &[], |answer, _, _| {
            Ok(match answer {
                Answer::Meta(meta) => Some(meta),
                _ => None,
            })
        })
    }

    fn list(&self, prefix: &str) -> Result<Vec<Meta>, StoreError> {
        let call = Call::List {
            prefix: prefix.into(),
        };
        self.call(prefix, &call, &[], |mut answer, _, socket| {
            let mut all = Vec::new();
            loop {
                match answer {
                    Answer::Listed { found, more } => {
                        all.extend(found);
                        if !more {
                            return Ok(Some(all));
                        }
                    }
                    Answer::Failed(error) => return Err(io::Error::other(error)),
                    _ => return Ok(None),
                }
                answer = wire::read_head(socket)?.0;
            }
        })
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        let call = Call::Delete { key: key.into() };
        self.call(key, &call, &[], |answer, _, _| {
            Ok((answer == Answer::Done).then_some(()))
        })
    }

    fn is_near(&self) -> bool {
        false
    }
}
