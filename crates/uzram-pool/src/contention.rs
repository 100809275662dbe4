//! Counts how often a lock is found taken, in a build with the feature `contention`. In any other build nothing is
//! counted and nothing is paid.
//!
//! Threads count for themselves and add their counts up when they end: a counter that all share would be the contention
//! that it looks for.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a request may have to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// The free lists of a size class and shard.
    Bin,
    /// A slot of the table.
    Slot,
    /// The stream of a CPU: tfm and buffers.
    Stream,
}

impl Lock {
    /// All of them.
    pub const ALL: [Lock; 3] = [Lock::Bin, Lock::Slot, Lock::Stream];
}

/// How often a lock was taken, and how often it was somebody else's at that moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LockContention {
    /// Times that the lock was asked for.
    pub asked: u64,
    /// Times that it was found taken.
    pub taken: u64,
}

/// Locks a mutex, and notes whether it was taken.
pub(crate) fn lock<T>(mutex: &Mutex<T>, kind: Lock) -> MutexGuard<'_, T> {
    #[cfg(feature = "contention")]
    if let Ok(guard) = mutex.try_lock() {
        note(kind, false);
        return guard;
    }
    note(kind, true);
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes that a lock was asked for.
#[inline(always)]
pub fn note(lock: Lock, taken: bool) {
    #[cfg(feature = "contention")]
    counted::note(lock, taken);
    #[cfg(not(feature = "contention"))]
    let _ = (lock, taken);
}

#[cfg(feature = "contention")]
pub use counted::{settle, take};

#[cfg(feature = "contention")]
mod counted {
    use std::cell::Cell;
    use std::sync::{Mutex, PoisonError};

    use super::{Lock, LockContention};

    type Counts = [LockContention; Lock::ALL.len()];

    static ALL: Mutex<Counts> =
        Mutex::new([LockContention { asked: 0, taken: 0 }; Lock::ALL.len()]);

    thread_local! {
        static OWN: Cell<Counts> = const { Cell::new([LockContention { asked: 0, taken: 0 }; Lock::ALL.len()]) };
    }

    pub(super) fn note(lock: Lock, taken: bool) {
        let mut own = OWN.get();
        let found = &mut own[lock as usize];
        found.asked += 1;
        found.taken += u64::from(taken);
        OWN.set(own);
    }

    /// Adds the calling thread's counts to those of all: to be called before it ends.
    pub fn settle() {
        let own = OWN.take();
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        for (sum, found) in all.iter_mut().zip(own) {
            sum.asked += found.asked;
            sum.taken += found.taken;
        }
    }

    /// What was settled since the last call, in the order of [`Lock::ALL`].
    pub fn take() -> Counts {
        std::mem::take(&mut *ALL.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
