//! Which frames are being fetched, and who waits for them: each frame once.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Error;

/// All fetches of a device.
#[derive(Default)]
pub(super) struct Flights {
    state: Mutex<FlightBoard>,
    /// Something was added to the queue, or the last of it is done.
    changed: Condvar,
}

#[derive(Default)]
struct FlightBoard {
    under_way: HashMap<u32, Arc<Flight>>,
    /// What requests wait for and nobody fetches yet, in their order.
    demand: VecDeque<u32>,
    /// Frames of the queue that are being fetched.
    demanded: usize,
}

/// A frame that is being fetched, or is to be.
#[derive(Default)]
pub(super) struct Flight {
    /// Requests that wait for it. Changed under the lock of the state.
    waiting: AtomicUsize,
    outcome: Mutex<FlightOutcome>,
    ended: Condvar,
}

#[derive(Default)]
struct FlightOutcome {
    done: Option<Result<(), Error>>,
    /// What the last try that failed said.
    said: Option<String>,
}

/// A request's share in a flight.
pub(super) struct FlightWait<'a> {
    flights: &'a Flights,
    flight: Arc<Flight>,
}

impl Flights {
    fn state(&self) -> MutexGuard<'_, FlightBoard> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a frame, unless somebody did.
    pub(super) fn join(&self, frame: u32) -> FlightWait<'_> {
        let mut state = self.state();
        let state = &mut *state;
        let flight = state.under_way.entry(frame).or_insert_with(|| {
            state.demand.push_back(frame);
            self.changed.notify_all();
            Arc::default()
        });
        flight.waiting.fetch_add(1, Relaxed);
        FlightWait {
            flights: self,
            flight: flight.clone(),
        }
    }

    /// The next frame that a request waits for, for who ends it. Waits for one; `None` once `stopped`.
    pub(super) fn next(&self, stopped: impl Fn() -> bool) -> Option<(u32, Arc<Flight>)> {
        let mut state = self.state();
        loop {
            if stopped() {
                return None;
            }
            if let Some(frame) = state.demand.pop_front()
                && let Some(flight) = state.under_way.get(&frame).cloned()
            {
                state.demanded += 1;
                return Some((frame, flight));
            }
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has who waits look again whether it is to stop.
    pub(super) fn wake(&self) {
        drop(self.state());
        self.changed.notify_all();
    }

    /// Waits until no request waits for a frame, at most so long.
    pub(super) fn stand_back(&self, patience: Duration) -> bool {
        let state = self.state();
        let busy = |state: &mut FlightBoard| state.demanded > 0 || !state.demand.is_empty();
        let waited = self.changed.wait_timeout_while(state, patience, busy);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.demanded == 0 && state.demand.is_empty()
    }

    /// Takes on those of the frames that nobody fetches.
    pub(super) fn claim(&self, frames: &[u32]) -> Vec<u32> {
        let mut state = self.state();
        let is_free = |frame: &u32| {
            let is_free = !state.under_way.contains_key(frame);
            if is_free {
                state.under_way.insert(*frame, Arc::default());
            }
            is_free
        };
        frames.iter().copied().filter(is_free).collect()
    }

    /// Ends what was claimed. What could not be fetched and requests wait for by now is for the others to fetch.
    pub(super) fn release(&self, frames: &[u32], outcome: &Result<(), String>) {
        let mut state = self.state();
        for frame in frames {
            let Some(flight) = state.under_way.get(frame).cloned() else {
                continue;
            };
            match outcome {
                Err(said) if flight.waiting.load(Relaxed) > 0 => {
                    flight.failed(said.clone());
                    state.demand.push_back(*frame);
                }
                _ => {
                    state.under_way.remove(frame);
                    flight.end(Ok(()));
                }
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Ends a fetch of [`Flights::next`].
    pub(super) fn end(&self, frame: u32, outcome: Result<(), Error>) {
        let flight = {
            let mut state = self.state();
            state.demanded -= 1;
            state.under_way.remove(&frame)
        };
        if let Some(flight) = flight {
            flight.end(outcome);
        }
        self.changed.notify_all();
    }

    /// Ends a fetch of [`Flights::next`] that failed, if nobody waits for it any more.
    pub(super) fn give_up(&self, frame: u32, flight: &Flight) -> bool {
        let mut state = self.state();
        let alone = flight.waiting.load(Relaxed) == 0;
        if alone {
            state.demanded -= 1;
            state.under_way.remove(&frame);
            drop(state);
            self.changed.notify_all();
        }
        alone
    }
}

impl Flight {
    fn outcome(&self) -> MutexGuard<'_, FlightOutcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, outcome: Result<(), Error>) {
        self.outcome().done = Some(outcome);
        self.ended.notify_all();
    }

    /// Notes why a try failed.
    pub(super) fn failed(&self, said: String) {
        self.outcome().said = Some(said);
    }
}

impl FlightWait<'_> {
    /// Waits for the frame. The error of the wait is what the last try said, if there was one.
    pub(super) fn until(&self, deadline: Instant) -> Result<Result<(), Error>, Option<String>> {
        let mut outcome = self.flight.outcome();
        loop {
            if let Some(done) = &outcome.done {
                return Ok(done.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(outcome.said.clone());
            }
            let waited = self.flight.ended.wait_timeout(outcome, left);
            outcome = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for FlightWait<'_> {
    fn drop(&mut self) {
        let _state = self.flights.state();
        self.flight.waiting.fetch_sub(1, Relaxed);
    }
}
