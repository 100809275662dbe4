//! What a keeper is asked through its socket, and what it asks of a program before it becomes that program.

use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use uzram_control::{ControlError, Handler, Request, Response};
use uzram_spec::Result;

use super::KeeperEvent;
use crate::check_program;

/// What is asked of a keeper through its socket.
pub(super) struct Requests {
    pub(super) events: Mutex<Sender<KeeperEvent>>,
    /// The device's directory.
    pub(super) dir: PathBuf,
    pub(super) image: i32,
    /// Descriptor of a swap device's description.
    pub(super) spec: Option<i32>,
    /// The device's identity.
    pub(super) identity: String,
    /// The file [`super::UPGRADE`].
    pub(super) upgrade: PathBuf,
}

impl Requests {
    fn send(&self, event: KeeperEvent) {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = events.send(event);
    }

    /// Sends an event and waits for what became of it.
    fn ask(
        &self,
        event: impl FnOnce(Sender<Result>) -> KeeperEvent,
    ) -> std::result::Result<Response, ControlError> {
        let error = |errno, message| Err(ControlError { errno, message });
        let (answer, inbox) = channel();
        self.send(event(answer));
        match inbox.recv() {
            Ok(Ok(())) => Ok(Response::Done),
            Ok(Err(failure)) if failure.is_busy() => error(16, failure.to_string()),
            Ok(Err(failure)) => error(5, failure.to_string()),
            Err(_) => error(5, "the keeper ends".into()),
        }
    }
}

impl Handler for Requests {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn handle(&self, request: Request) -> std::result::Result<Response, ControlError> {
        let error = |errno, message| Err(ControlError { errno, message });
        match request {
            Request::Ping => Ok(Response::Done),
            Request::Recover => self.ask(KeeperEvent::Recover),
            Request::Remove | Request::RemoveByForce => {
                let force = request == Request::RemoveByForce;
                self.ask(|answer| KeeperEvent::Remove { answer, force })
            }
            Request::Upgrade { program } => {
                match check_program(&program, &self.dir, self.image, self.spec) {
                    // It happens in `answered`, so that the answer comes before the change.
                    Ok(()) => match std::fs::write(&self.upgrade, b"") {
                        Ok(()) => Ok(Response::Done),
                        Err(e) => error(5, format!("writing {}: {e}", self.upgrade.display())),
                    },
                    Err(message) => error(22, message),
                }
            }
            other => error(22, format!("a keeper does not know {other:?}")),
        }
    }

    fn answered(&self, request: &Request, done: bool) {
        match request {
            Request::Upgrade { program } if done => {
                self.send(KeeperEvent::Upgrade(program.clone()))
            }
            Request::Remove | Request::RemoveByForce if done => self.send(KeeperEvent::Removed),
            _ => {}
        }
    }
}
