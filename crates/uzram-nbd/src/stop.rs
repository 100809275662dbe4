//! The flags that end connections: one of the server, and one of each connection.

use crate::close::Close;
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Set when a connection is to end. Requests that have arrived by then are still served.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    server: Arc<AtomicBool>,
    own: OnceLock<Dismissal>,
}

/// Why the server ends one connection and not the others.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Dismissal {
    /// It held no request for this long, the limit.
    Idle(Duration),
    /// Its place was beyond its owner's share, and another wanted one.
    Replaced,
}

impl Stop {
    /// A stop that is set with this one, and can be set alone.
    pub(crate) fn of_connection(&self) -> Stop {
        Stop {
            server: Arc::clone(&self.server),
            own: OnceLock::new(),
        }
    }

    /// Ends every connection of the server.
    pub(crate) fn set(&self) {
        self.server.store(true, Ordering::Release);
    }

    /// Ends this connection.
    pub(crate) fn dismiss(&self, why: Dismissal) {
        // The first reason is the one to report.
        let _ = self.own.set(why);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.server.load(Ordering::Acquire) || self.own.get().is_some()
    }

    /// The reason to report for a connection that ends by this.
    pub(crate) fn close(&self) -> Close {
        match self.own.get() {
            Some(Dismissal::Idle(limit)) => Close::Idle(*limit),
            Some(Dismissal::Replaced) => Close::Replaced,
            None => Close::Stopping,
        }
    }
}
