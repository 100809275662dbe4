//! What a connection is doing now, for those who decide about its place: the limits, the idle timeout, the stop.
//!
//! The data path only leaves marks here, and only where it is about to sleep anyway: before the leader waits for a request,
//! and where a client does not take its replies. Marks are plain stores into memory of the connection's own.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// For how long a client that takes no replies, or does not go on with the negotiation, still counts as busy.
pub(crate) const STALLED: Duration = Duration::from_secs(1);

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionPhase {
    /// It has been negotiating for so long.
    Negotiating(Duration),
    /// It holds no request, and nothing has come for so long.
    Idle(Duration),
    /// Its client has taken nothing of a reply for so long, which is longer than [`STALLED`].
    Stalled(Duration),
    /// It carries out requests.
    Busy,
}

impl ConnectionPhase {
    /// Whether waiting for this connection to end by itself may take for ever.
    pub(crate) fn is_stuck(&self) -> bool {
        match self {
            ConnectionPhase::Negotiating(time) => *time > STALLED,
            ConnectionPhase::Stalled(_) => true,
            ConnectionPhase::Idle(_) | ConnectionPhase::Busy => false,
        }
    }
}

/// The marks of one connection.
#[derive(Debug)]
pub(crate) struct Activity {
    begun: Instant,
    negotiating: AtomicBool,
    receives: Since,
    sends: Since,
    /// The connection's workers that live.
    pub(crate) workers: AtomicUsize,
    /// Those of them that wait for the leadership: also a hint for sharing work.
    pub(crate) waiting: AtomicUsize,
}

/// When a wait began: milliseconds after the connection did, plus one; 0 while there is no wait.
#[derive(Debug, Default)]
struct Since(AtomicU64);

impl Since {
    fn get(&self, begun: Instant) -> Option<Duration> {
        let since = Duration::from_millis(self.0.load(Relaxed).checked_sub(1)?);
        Some(begun.elapsed().saturating_sub(since))
    }
}

impl Activity {
    pub(crate) fn new(negotiating: bool) -> Self {
        Activity {
            begun: Instant::now(),
            negotiating: AtomicBool::new(negotiating),
            receives: Since::default(),
            sends: Since::default(),
            workers: AtomicUsize::new(1),
            waiting: AtomicUsize::new(0),
        }
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64 + 1
    }

    pub(crate) fn negotiated(&self) {
        self.negotiating.store(false, Relaxed);
    }

    /// The leader begins to wait for bytes.
    pub(crate) fn begin_receive(&self) {
        self.receives.0.store(self.now(), Relaxed);
    }

    pub(crate) fn end_receive(&self) {
        self.receives.0.store(0, Relaxed);
    }

    /// The client does not take what is sent. A mark that is there already stays.
    pub(crate) fn send_blocks(&self) {
        if self.sends.0.load(Relaxed) == 0 {
            self.sends.0.store(self.now(), Relaxed);
        }
    }

    /// The client took something.
    pub(crate) fn send_progresses(&self) {
        self.sends.0.store(0, Relaxed);
    }

    /// For how long the client has not taken what is sent.
    pub(crate) fn blocked(&self) -> Option<Duration> {
        self.sends.get(self.begun)
    }

    /// What the connection does now.
    pub(crate) fn phase(&self) -> ConnectionPhase {
        if self.negotiating.load(Relaxed) {
            return ConnectionPhase::Negotiating(self.begun.elapsed());
        }
        if let Some(time) = self.blocked().filter(|time| *time > STALLED) {
            return ConnectionPhase::Stalled(time);
        }
        // The leader that waits for bytes holds the leadership: every other worker that does not wait for it has a share.
        let others_wait = self.workers.load(Relaxed) <= self.waiting.load(Relaxed) + 1;
        match self.receives.get(self.begun) {
            Some(time) if others_wait => ConnectionPhase::Idle(time),
            _ => ConnectionPhase::Busy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_idle_only_while_no_worker_has_a_share() {
        let activity = Activity::new(true);
        assert!(matches!(activity.phase(), ConnectionPhase::Negotiating(_)));
        activity.negotiated();
        assert_eq!(activity.phase(), ConnectionPhase::Busy);
        activity.begin_receive();
        assert!(matches!(activity.phase(), ConnectionPhase::Idle(_)));
        activity.workers.store(2, Relaxed);
        assert_eq!(
            activity.phase(),
            ConnectionPhase::Busy,
            "the other executes"
        );
        activity.waiting.store(1, Relaxed);
        assert!(matches!(activity.phase(), ConnectionPhase::Idle(_)));
        activity.end_receive();
        assert_eq!(activity.phase(), ConnectionPhase::Busy);
    }

    #[test]
    fn a_client_stalls_once_it_has_taken_nothing_for_a_while() {
        let activity = Activity::new(false);
        activity.send_blocks();
        assert_eq!(activity.phase(), ConnectionPhase::Busy, "not yet");
        let earlier = Activity {
            begun: Instant::now() - 2 * STALLED,
            ..activity
        };
        assert!(earlier.phase().is_stuck());
        earlier.send_progresses();
        assert_eq!(earlier.phase(), ConnectionPhase::Busy);
    }
}
