//! The processes that offer devices together, one for each `[[nbd]]` of the configuration: started, started again when they end,
//! and ended.
//!
//! They are processes of their own, since no page of a device passes through the daemon. Each has a pipe of the daemon's as its
//! stdin and ends when that does, so that none outlives the daemon, however that ends. What is not encrypted they have given away
//! by then: it stays.
//!
//! All of it happens on the daemon's first thread.

use std::io::{BufRead, BufReader};
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use uzram_runtime::process::{pidfd, spawn, wait_for_end_within};

use crate::exports::NewExports;
use crate::setup::Wanted;

/// How long one that has ended is left alone, at first, ...
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// ... at most, where each is twice the one before, ...
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// ... and how long it has to last until the first pause is the next one again.
const STEADY: Duration = Duration::from_secs(60);
/// How long a new one may take until clients can connect.
const BEGIN: Duration = Duration::from_secs(5);
/// How long one may take to end: it answers what encrypted clients have asked.
const END: Duration = Duration::from_secs(15);

/// All of them.
pub(crate) struct Fronts {
    log: String,
    all: Vec<Front>,
}

/// One of them, whether or not it runs now.
struct Front {
    wanted: NewExports,
    state: FrontState,
    /// How long it is left alone if it ends soon.
    pause: Duration,
}

enum FrontState {
    Runs { process: Child, since: Instant },
    Rests { until: Instant },
}

impl Fronts {
    /// None, which log what the daemon logs.
    pub(crate) fn new(log: &str) -> Fronts {
        Fronts {
            log: log.into(),
            all: Vec::new(),
        }
    }

    /// Makes them what the configuration asks for. One stays as it is where its section is wrong now, or where it is not there and
    /// something in the file cannot be read, which might be it.
    pub(crate) fn apply(&mut self, wanted: &Wanted) {
        let is_same = |front: &Front| {
            wanted
                .exports
                .iter()
                .any(|new| new.spec == front.wanted.spec)
        };
        let is_replaced = |front: &Front| {
            let mut all = wanted.exports.iter();
            all.any(|new| new.spec.listen() == front.wanted.spec.listen())
        };
        let is_unclear = |front: &Front| {
            let is_named = wanted.addresses.contains(front.wanted.spec.listen());
            let stays = !is_replaced(front) && (is_named || !wanted.is_whole);
            if stays {
                let origin = &front.wanted.origin;
                tracing::warn!(
                    "{origin}: it stays as it was, since the configuration has problems"
                );
            }
            stays
        };
        let all = std::mem::take(&mut self.all);
        let (stay, go): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|front| is_same(front) || is_unclear(front));
        // First, so that their addresses are free.
        end(go);
        self.all = stay;
        let mut begun = Vec::new();
        for new in &wanted.exports {
            if self.all.iter().any(|front| front.wanted.spec == new.spec) {
                continue;
            }
            let mut front = Front {
                wanted: new.clone(),
                state: FrontState::Rests {
                    until: Instant::now(),
                },
                pause: FIRST_PAUSE,
            };
            begun.extend(front.start(&self.log));
            self.all.push(front);
        }
        // Whoever waits for the daemon finds them. One that ends has said why.
        let begin = Instant::now();
        for clients_can_connect in begun {
            let _ = clients_can_connect.recv_timeout(BEGIN.saturating_sub(begin.elapsed()));
        }
    }

    /// Starts again what has ended, once it is due.
    pub(crate) fn look(&mut self) {
        for front in &mut self.all {
            front.look(&self.log);
        }
    }

    /// Ends them.
    pub(crate) fn end(self) {
        end(self.all);
    }
}

impl Front {
    /// Starts it. What is returned is told of each export that clients can ask for, and ends with the process.
    fn start(&mut self, log: &str) -> Option<Receiver<()>> {
        let origin = self.wanted.origin.clone();
        let mut process = match self.wanted.spec.process(log).spawn() {
            Ok(process) => process,
            Err(error) => {
                self.rest(&format!("it cannot be started: {error}"));
                return None;
            }
        };
        let (tell, told) = channel();
        if let Some(stdout) = process.stdout.take() {
            let read = move || {
                for uri in BufReader::new(stdout).lines().map_while(Result::ok) {
                    tracing::info!("{origin}: offers {uri}");
                    let _ = tell.send(());
                }
            };
            if let Err(error) = spawn("nbd", read) {
                tracing::warn!(%error, "nobody reads what a process prints");
            }
        }
        let since = Instant::now();
        self.state = FrontState::Runs { process, since };
        Some(told)
    }

    fn look(&mut self, log: &str) {
        match &mut self.state {
            FrontState::Rests { until } if *until <= Instant::now() => {
                self.start(log);
            }
            FrontState::Rests { .. } => {}
            FrontState::Runs { process, since } => {
                let Ok(Some(status)) = process.try_wait() else {
                    return;
                };
                if since.elapsed() >= STEADY {
                    self.pause = FIRST_PAUSE;
                }
                self.rest(&format!("its process has ended: {}", how(status)));
            }
        }
    }

    /// Leaves it alone for a while.
    fn rest(&mut self, why: &str) {
        let (origin, pause) = (&self.wanted.origin, self.pause);
        tracing::error!(
            "{origin}: {why}; it is started again in {} s",
            pause.as_secs()
        );
        let until = Instant::now() + pause;
        self.state = FrontState::Rests { until };
        self.pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

/// How a process has ended, in words.
fn how(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit code {code}"),
        None => status.to_string(),
    }
}

/// Ends these, all at once.
fn end(fronts: Vec<Front>) {
    let mut processes = Vec::new();
    for front in fronts {
        tracing::info!("{}: ends", front.wanted.origin);
        if let FrontState::Runs { mut process, .. } = front.state {
            // It ends when this does.
            drop(process.stdin.take());
            processes.push(process);
        }
    }
    let begin = Instant::now();
    for mut process in processes {
        let left = END.saturating_sub(begin.elapsed());
        if pidfd(process.id()).is_some_and(|ended| !wait_for_end_within(&ended, left)) {
            tracing::warn!(pid = process.id(), "a process does not end: it is killed");
            let _ = process.kill();
        }
        let _ = process.wait();
    }
}
