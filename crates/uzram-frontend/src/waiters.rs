//! Threads for requests that wait for a clone's source, so that a frontend's own threads serve the others meanwhile.
//!
//! They are started when they are needed, and end when they were not for a while. A device without remote pages has none.
//!
//! **Memory bound**: [`MOST`] threads with small stacks; what waits beyond that is queued.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most threads.
const MOST: usize = 256;
/// How long a thread waits for more to do.
const IDLE: Duration = Duration::from_secs(5);
/// A request decompresses on it.
const STACK_BYTES: usize = 256 << 10;

type WaiterWork = Box<dyn FnOnce() + Send>;

/// Runs what may wait.
#[derive(Clone, Default)]
pub struct Waiters(Arc<WaiterPool>);

#[derive(Default)]
struct WaiterPool {
    state: Mutex<WaiterQueue>,
    changed: Condvar,
}

#[derive(Default)]
struct WaiterQueue {
    queue: VecDeque<WaiterWork>,
    threads: usize,
    idle: usize,
}

impl std::fmt::Debug for Waiters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Waiters");
        out.field("threads", &self.0.state().threads).finish()
    }
}

impl WaiterPool {
    fn state(&self) -> MutexGuard<'_, WaiterQueue> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.state();
        loop {
            if let Some(work) = state.queue.pop_front() {
                drop(state);
                // A panic ends that request alone.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                state = self.state();
                continue;
            }
            state.idle += 1;
            let waited = self
                .changed
                .wait_timeout_while(state, IDLE, |s| s.queue.is_empty());
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.idle -= 1;
            if state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

impl Waiters {
    /// Has `work` done by another thread; by this one where the system starts none.
    pub fn run(&self, work: impl FnOnce() + Send + 'static) {
        let mut state = self.0.state();
        state.queue.push_back(Box::new(work));
        if state.idle >= state.queue.len() {
            self.0.changed.notify_one();
            return;
        }
        if state.threads < MOST {
            let shared = self.0.clone();
            let thread = std::thread::Builder::new().name("fetch-wait".into());
            let started = thread.stack_size(STACK_BYTES).spawn(move || shared.work());
            if started.is_ok() {
                state.threads += 1;
                return;
            }
        }
        if state.threads == 0
            && let Some(work) = state.queue.pop_back()
        {
            drop(state);
            work();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn what_waits_holds_up_nothing_else() {
        let waiters = Waiters::default();
        let (done, inbox) = channel();
        let mut gates = Vec::new();
        for number in 0..40 {
            let (gate, opened) = channel::<()>();
            let done = done.clone();
            waiters.run(move || {
                let _ = opened.recv();
                let _ = done.send(number);
            });
            gates.push(gate);
        }
        // The last one first.
        for number in (0..40).rev() {
            drop(gates.pop());
            let patience = Duration::from_secs(20);
            assert_eq!(inbox.recv_timeout(patience), Ok(number));
        }
        waiters.run(|| panic!("a bug in a request"));
        waiters.run(move || {
            let _ = done.send(99);
        });
        assert_eq!(inbox.recv_timeout(Duration::from_secs(20)), Ok(99));
    }

    #[test]
    fn more_than_there_are_threads_are_queued() {
        let waiters = Waiters::default();
        let (gate, opened) = channel::<()>();
        let opened = Arc::new(Mutex::new(opened));
        let (done, inbox) = channel();
        for _ in 0..MOST + 20 {
            let (opened, done) = (opened.clone(), done.clone());
            waiters.run(move || {
                let _ = opened.lock().map(|opened| opened.recv());
                let _ = done.send(());
            });
        }
        assert!(inbox.try_recv().is_err());
        drop(gate);
        for _ in 0..MOST + 20 {
            assert!(inbox.recv_timeout(Duration::from_secs(20)).is_ok());
        }
    }
}
