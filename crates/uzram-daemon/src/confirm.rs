//! Devices whose asker has not confirmed yet that it knows of them. A process that is killed between the answer and what it
//! does with that would leave a device that nobody knows.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uzram_runtime::process::{pidfd, wait_for_end_within};
use uzram_spec::{Failure, FailureKind, Result};

use crate::api::{Asker, CreateAnswer};

/// How long a device is kept for an asker that lives and says nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at an asker.
const LOOK: Duration = Duration::from_millis(50);

/// What is sent where a device is confirmed: where to say that it is kept.
type Word = SyncSender<()>;

/// The devices that wait, by identity.
#[derive(Default)]
pub(crate) struct Unconfirmed {
    waiting: Mutex<HashMap<String, SyncSender<Word>>>,
}

/// One device that waits.
pub(crate) struct Waiting {
    all: Arc<Unconfirmed>,
    name: String,
    identity: String,
    asker: Asker,
    /// `None`: there is no such process, or it is not known.
    process: Option<OwnedFd>,
    inbox: Receiver<Word>,
}

/// A device that was confirmed, by somebody who waits for the answer.
pub(crate) struct Confirmed(Word);

impl Confirmed {
    /// Says that the device is kept.
    pub(crate) fn answer(self) {
        let _ = self.0.send(());
    }
}

impl Unconfirmed {
    fn waiting(&self) -> MutexGuard<'_, HashMap<String, SyncSender<Word>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a device wait.
    pub(crate) fn wait_for(self: &Arc<Self>, created: &CreateAnswer, asker: Asker) -> Waiting {
        let (sender, inbox) = sync_channel(1);
        self.waiting().insert(created.identity.clone(), sender);
        Waiting {
            all: self.clone(),
            name: created.name.clone(),
            identity: created.identity.clone(),
            asker,
            process: pidfd(asker.0),
            inbox,
        }
    }

    /// Confirms the device of an identity, and returns when it is kept. False where none waits, or it is not kept.
    pub(crate) fn confirm(&self, identity: &str) -> bool {
        let Some(device) = self.waiting().remove(identity) else {
            return false;
        };
        let (word, kept) = sync_channel(1);
        device.send(word).is_ok() && kept.recv().is_ok()
    }
}

impl Waiting {
    /// Returns once the device is confirmed. Fails if its asker has ended, or the time is over.
    pub(crate) fn until_confirmed(self) -> Result<Confirmed> {
        let begin = Instant::now();
        loop {
            let ended = match &self.process {
                Some(process) => wait_for_end_within(process, Duration::ZERO),
                None => self.asker.0 != 0,
            };
            let over = ended || begin.elapsed() > PATIENCE;
            // A word that came before the end counts.
            let patience = if over { Duration::ZERO } else { LOOK };
            match self.inbox.recv_timeout(patience) {
                Ok(word) => return Ok(Confirmed(word)),
                Err(RecvTimeoutError::Timeout) if !over => {}
                Err(_) => {
                    let (name, pid) = (&self.name, self.asker.0);
                    let message = match ended {
                        true => {
                            format!("process {pid} ended before it confirmed {name}, which goes")
                        }
                        false => format!("process {pid} did not confirm {name}, which goes"),
                    };
                    return Err(Failure::new(FailureKind::Failed, message));
                }
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.all.waiting().remove(&self.identity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(identity: &str) -> CreateAnswer {
        CreateAnswer {
            name: "zram0".into(),
            path: String::new(),
            notes: String::new(),
            identity: identity.into(),
        }
    }

    #[test]
    fn a_device_is_kept_once_it_is_confirmed() {
        let all = Arc::new(Unconfirmed::default());
        let waiting = all.wait_for(&device("a"), Asker(std::process::id()));
        let theirs = all.clone();
        let confirming = std::thread::spawn(move || theirs.confirm("a"));
        let confirmed = waiting.until_confirmed().unwrap();
        confirmed.answer();
        assert!(confirming.join().unwrap());
        assert!(!all.confirm("a"));
    }

    #[test]
    fn a_device_whose_asker_is_gone_is_not_kept() {
        let all = Arc::new(Unconfirmed::default());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let waiting = all.wait_for(&device("b"), Asker(child.id()));
        child.wait().unwrap();
        let failure = waiting.until_confirmed().err().unwrap();
        assert!(failure.to_string().contains("ended before"), "{failure}");
        assert!(!all.confirm("b"));
        // A word without an answer: the device went after all.
        let waiting = all.wait_for(&device("c"), Asker(std::process::id()));
        let theirs = all.clone();
        let confirming = std::thread::spawn(move || theirs.confirm("c"));
        drop(waiting.until_confirmed().unwrap());
        assert!(!confirming.join().unwrap());
    }
}
