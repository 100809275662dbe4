//! The flag that ends a server.

use std::sync::atomic::{AtomicBool, Ordering};

/// Set when the server stops. Requests that have arrived by then are still served.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    flag: AtomicBool,
}

impl Stop {
    pub(crate) fn set(&self) {
        self.flag.store(true, Ordering::Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }
}
