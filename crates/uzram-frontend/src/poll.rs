//! Polls for the next request before a thread sleeps until it comes.
//!
//! Waking a thread on another CPU costs more than a small request, in a virtual machine several times as much. A client that
//! sends one request at a time sends the next one soon after the reply, so polling for some microseconds saves the wake-up.
//! How long to poll is the [`PollWindow`], which is learned. It grows while requests come soon. It is zero, and nothing is
//! polled, while they do not. Who has no requests sleeps.
//!
//! Between two polls the thread yields its CPU: a client that was waiting for this very CPU gets it at once. Where somebody
//! took it for longer than a wake-up would have cost, polling pauses for a while. A server polls on at most half of the CPUs
//! ([`PollPermits`]), and never on a machine with one CPU.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// The first length of a window that was zero.
const FIRST: Duration = Duration::from_micros(16);
/// A poll and a yield take a microsecond or two. After this long, a thread with work of its own had the CPU.
const DISTURBED: Duration = Duration::from_micros(200);
/// For how many waits polling pauses after that: the first time, and at most.
const REST: std::ops::RangeInclusive<u32> = 64..=16384;
/// After this many waits without a disturbance the next pause is half as long.
const CALM: u32 = 256;

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It came while this thread polled.
    Found,
    /// It came after this long in all, and had to wake this thread.
    Slept(Duration),
    /// Another thread had the CPU meanwhile.
    Disturbed,
}

/// How long to poll for the next request.
#[derive(Debug)]
struct PollWindow {
    most: Duration,
    now: Duration,
    /// How many waits are still left of a pause in polling.
    rest: u32,
    /// The length of the next pause.
    next_rest: u32,
    /// Waits since the last disturbance, or since the last change of `next_rest`.
    calm: u32,
}

impl PollWindow {
    fn new(most: Duration) -> Self {
        PollWindow {
            most,
            now: Duration::ZERO,
            rest: 0,
            next_rest: *REST.start(),
            calm: 0,
        }
    }

    fn learn(&mut self, outcome: Outcome) {
        if outcome == Outcome::Disturbed {
            self.now = Duration::ZERO;
            self.rest = self.next_rest;
            self.next_rest = (self.next_rest * 4).min(*REST.end());
            self.calm = 0;
            return;
        }
        if self.rest > 0 {
            self.rest -= 1;
            return;
        }
        self.calm += 1;
        if self.calm == CALM {
            self.next_rest = (self.next_rest / 2).max(*REST.start());
            self.calm = 0;
        }
        match outcome {
            Outcome::Slept(time) if time <= self.most => {
                self.now = (self.now * 2).max(FIRST).min(self.most);
            }
            Outcome::Slept(_) => self.now = Duration::ZERO,
            Outcome::Found | Outcome::Disturbed => {}
        }
    }
}

/// How many more threads of a server may poll now.
#[derive(Debug, Default)]
pub struct PollPermits {
    free: AtomicUsize,
}

impl PollPermits {
    /// Permits for that many at a time.
    pub fn new(count: usize) -> Self {
        PollPermits {
            free: AtomicUsize::new(count),
        }
    }

    fn take(&self) -> Option<Permit<'_>> {
        let taken = self
            .free
            .fetch_update(Relaxed, Relaxed, |free| free.checked_sub(1));
        taken.is_ok().then_some(Permit(self))
    }
}

/// The right to poll, until it is dropped.
struct Permit<'a>(&'a PollPermits);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Relaxed);
    }
}

/// What is waited for.
pub trait PollSource {
    /// What comes.
    type Item;

    /// Takes what is there. Never sleeps.
    fn take(&mut self) -> io::Result<Option<Self::Item>>;

    /// Sleeps until there is something, and takes it.
    fn sleep(&mut self) -> io::Result<Self::Item>;
}

/// Waits for one thread, polling before it sleeps.
pub struct Poller {
    window: PollWindow,
    permits: Arc<PollPermits>,
    /// Polls that found nothing, for the tests.
    #[cfg(test)]
    misses: u64,
}

impl Poller {
    /// Polls for at most `most`; zero never polls.
    pub fn new(most: Duration, permits: Arc<PollPermits>) -> Self {
        Poller {
            window: PollWindow::new(most),
            permits,
            #[cfg(test)]
            misses: 0,
        }
    }

    /// Takes what is there, or waits for it.
    pub fn wait<S: PollSource>(&mut self, source: &mut S) -> io::Result<S::Item> {
        if self.window.most.is_zero() {
            return source.sleep();
        }
        let begin = Instant::now();
        if !self.window.now.is_zero()
            && let Some(item) = self.poll(source, begin)?
        {
            return Ok(item);
        }
        let item = source.sleep()?;
        self.window.learn(Outcome::Slept(begin.elapsed()));
        Ok(item)
    }

    fn poll<S: PollSource>(
        &mut self,
        source: &mut S,
        begin: Instant,
    ) -> io::Result<Option<S::Item>> {
        let Some(_permit) = self.permits.take() else {
            return Ok(None);
        };
        let mut away = Duration::ZERO;
        loop {
            // Taking may take long, so it does not count as a disturbance.
            let found = source.take()?;
            let disturbed = away > DISTURBED;
            if disturbed || found.is_some() {
                self.window.learn(if disturbed {
                    Outcome::Disturbed
                } else {
                    Outcome::Found
                });
                return Ok(found);
            }
            let now = Instant::now();
            #[cfg(test)]
            {
                self.misses += 1;
            }
            if now - begin >= self.window.now {
                return Ok(None);
            }
            thread::yield_now();
            away = now.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

    /// Something that comes from another thread.
    struct Inbox(Receiver<u8>);

    impl PollSource for Inbox {
        type Item = u8;

        fn take(&mut self) -> io::Result<Option<u8>> {
            match self.0.try_recv() {
                Ok(item) => Ok(Some(item)),
                Err(TryRecvError::Empty) => Ok(None),
                Err(TryRecvError::Disconnected) => Err(io::ErrorKind::BrokenPipe.into()),
            }
        }

        fn sleep(&mut self) -> io::Result<u8> {
            self.0.recv().map_err(io::Error::other)
        }
    }

    const MOST: Duration = Duration::from_micros(100);
    const SOON: Outcome = Outcome::Slept(Duration::from_micros(40));
    const LATE: Outcome = Outcome::Slept(Duration::from_micros(101));

    fn after(outcomes: &[Outcome]) -> PollWindow {
        let mut window = PollWindow::new(MOST);
        outcomes.iter().for_each(|&outcome| window.learn(outcome));
        window
    }

    #[test]
    fn the_window_grows_while_requests_come_soon_and_goes_when_they_do_not() {
        assert_eq!(after(&[]).now, Duration::ZERO);
        assert_eq!(after(&[SOON]).now, FIRST);
        assert_eq!(after(&[SOON, Outcome::Found, SOON]).now, FIRST * 2);
        assert_eq!(after(&[SOON; 20]).now, MOST);
        assert_eq!(after(&[SOON, SOON, SOON, LATE]).now, Duration::ZERO);
    }

    #[test]
    fn a_disturbed_window_rests_longer_each_time_and_recovers() {
        let mut window = after(&[SOON, SOON, Outcome::Disturbed]);
        let mut passed_over = || {
            let mut count = 0;
            while window.now.is_zero() {
                window.learn(SOON);
                count += 1;
            }
            window.learn(Outcome::Disturbed);
            count - 1
        };
        let rests: Vec<u32> = (0..6).map(|_| passed_over()).collect();
        assert_eq!(rests, [64, 256, 1024, 4096, 16384, 16384]);
        for _ in 0..16384 + 8 * CALM {
            window.learn(SOON);
        }
        assert_eq!((window.now, window.next_rest), (MOST, *REST.start()));
    }

    fn poller(most: Duration, permits: usize) -> (Sender<u8>, Inbox, Poller) {
        let (sender, inbox) = channel();
        let mut poller = Poller::new(most, Arc::new(PollPermits::new(permits)));
        // As if requests had come soon.
        poller.window.now = most;
        (sender, Inbox(inbox), poller)
    }

    /// Sends after a while, from another thread.
    fn later(sender: Sender<u8>) {
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            sender.send(7).unwrap();
        });
    }

    /// A window so long that only what is asserted can end the polling.
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_comes_is_found_without_sleeping_and_an_error_is_an_error() {
        let (sender, mut inbox, mut poller) = poller(HOUR, 1);
        sender.send(3).unwrap();
        assert_eq!(poller.wait(&mut inbox).unwrap(), 3);
        assert_eq!((poller.misses, poller.permits.free.load(Relaxed)), (0, 1));
        drop(sender);
        assert!(poller.wait(&mut inbox).is_err());
    }

    /// Where nothing comes, one window is polled, and nothing once that is closed.
    #[test]
    fn polling_ends_with_the_window_and_a_closed_window_is_not_polled() {
        let (sender, mut inbox, mut poller) = poller(MOST, 1);
        let found = poller.poll(&mut inbox, Instant::now()).unwrap();
        assert_eq!((found, poller.permits.free.load(Relaxed)), (None, 1));
        poller.window.learn(LATE);
        poller.misses = 0;
        later(sender);
        assert_eq!(poller.wait(&mut inbox).unwrap(), 7);
        assert_eq!(poller.misses, 0);
    }

    #[test]
    fn nobody_polls_without_a_permit_or_a_window() {
        for (most, permits) in [(HOUR, 0), (Duration::ZERO, 1)] {
            let (sender, mut inbox, mut poller) = poller(most, permits);
            later(sender);
            assert_eq!(poller.wait(&mut inbox).unwrap(), 7);
            assert_eq!(poller.misses, 0);
        }
        let permits = PollPermits::new(1);
        let permit = permits.take();
        assert!(permit.is_some() && permits.take().is_none());
        drop(permit);
        assert!(permits.take().is_some());
    }
}
