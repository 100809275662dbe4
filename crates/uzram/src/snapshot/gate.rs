//! A gate for what changes contents: closed while the last of a device is copied to another host, and for good when that has it.
//!
//! It closes with the cut, under all streams, and is asked under one: so a change is in the cut, or waits behind the gate.
//! Whoever waits holds no stream.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::Error;

/// Whether contents may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GateState {
    Closed,
    Open,
    /// The device is another host's.
    HandedOver,
}

#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

impl Gate {
    /// A closed one.
    pub(super) fn closed() -> Gate {
        Gate {
            state: Mutex::new(GateState::Closed),
            changed: Condvar::new(),
        }
    }

    /// Waits until contents may change.
    pub(crate) fn pass(&self) -> Result<(), Error> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_closed = |state: &mut GateState| *state == GateState::Closed;
        let state = self.changed.wait_while(state, is_closed);
        match *state.unwrap_or_else(PoisonError::into_inner) {
            GateState::HandedOver => Err(Error::HandedOver),
            GateState::Open | GateState::Closed => Ok(()),
        }
    }

    fn set(&self, to: GateState) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Until it is taken back.
        if *state != GateState::HandedOver {
            *state = to;
        }
        drop(state);
        self.changed.notify_all();
    }

    pub(super) fn open(&self) {
        self.set(GateState::Open);
    }

    pub(super) fn hand_over(&self) {
        self.set(GateState::HandedOver);
    }

    pub(super) fn is_open(&self) -> bool {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) == GateState::Open
    }

    pub(super) fn is_handed_over(&self) -> bool {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) == GateState::HandedOver
    }

    /// Opens one that was closed for good.
    pub(super) fn take_back(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = GateState::Open;
        drop(state);
        self.changed.notify_all();
    }
}
