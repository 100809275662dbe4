//! Notes for whoever makes a device: which frontend was chosen and why, what the system refuses.
//!
//! A process that makes a device for another one passes its notes on as reports; one in the foreground prints them. Once
//! the device serves, notes go to the log.

use std::sync::{Mutex, PoisonError};

/// Where notes go.
enum Sink {
    /// To stderr.
    Stderr,
    /// To whoever reads this process's reports.
    Reports,
    /// Only to the log.
    Log,
}

static SINK: Mutex<Sink> = Mutex::new(Sink::Stderr);

fn set(sink: Sink) {
    *SINK.lock().unwrap_or_else(PoisonError::into_inner) = sink;
}

/// Sends notes to whoever started this process, from now on.
pub(crate) fn to_reports() {
    set(Sink::Reports);
}

/// Sends notes to the log only, from now on.
pub(crate) fn to_log() {
    set(Sink::Log);
}

/// Tells a note.
pub(crate) fn tell(text: &str) {
    match *SINK.lock().unwrap_or_else(PoisonError::into_inner) {
        Sink::Stderr => eprintln!("uzram: {}", uzram_spec::printable(text)),
        // Who listened may be gone; the log has it all the same.
        Sink::Reports => drop(crate::report::StartReport::Note(text.into()).send()),
        Sink::Log => {}
    }
}
