//! Looking for the next request before sleeping.
//!
//! To wake a thread on another CPU costs more than a small request does, in a virtual machine several times as much. A
//! client that sends one request at a time sends the next one soon after its reply, so a leader that looks
//! again for some microseconds saves that. How long it looks is its [`Window`], which is learned: it grows while
//! requests come soon and is zero, which is not to look at all, while they do not. A connection without
//! requests sleeps.
//!
//! Between two looks the CPU is offered to others: a client that was waiting for this very CPU gets it at once. Where
//! somebody else took it, for longer than a wake-up would have cost, looking is left alone for a while. A server looks
//! on at most half of the CPUs ([`Seats`]), and on a machine with one CPU never.

use crate::reply::Socket;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// What a window that was zero begins with.
const FIRST: Duration = Duration::from_micros(16);
/// A look and an offer take a microsecond or two; after this long, somebody with work of his own had the CPU.
const DISTURBED: Duration = Duration::from_micros(200);
/// How many waits are not looked into after that: the first time, and at most.
const REST: std::ops::RangeInclusive<u32> = 64..=16384;
/// After so many waits without a disturbance the next rest is half as long.
const CALM: u32 = 256;

/// What came of waiting for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// They came while they were looked for.
    Found,
    /// They came after so long in all, and had to wake this thread.
    Slept(Duration),
    /// Somebody else had the CPU meanwhile.
    Disturbed,
}

/// How long to look for what comes next.
#[derive(Debug)]
struct Window {
    most: Duration,
    now: Duration,
    /// Waits still to be passed over.
    rest: u32,
    /// The length of the next rest.
    next_rest: u32,
    /// Waits since the last disturbance, or since the last change of `next_rest`.
    calm: u32,
}

impl Window {
    fn new(most: Duration) -> Self {
        Window {
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

/// How many connections of a server may look at the same time.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    free: AtomicUsize,
}

impl Seats {
    pub(crate) fn new(count: usize) -> Self {
        Seats {
            free: AtomicUsize::new(count),
        }
    }

    fn take(&self) -> Option<Seat<'_>> {
        let taken = self
            .free
            .fetch_update(Relaxed, Relaxed, |free| free.checked_sub(1));
        taken.is_ok().then_some(Seat(self))
    }
}

/// The right to look, while it lives.
struct Seat<'a>(&'a Seats);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Relaxed);
    }
}

/// Receives, for one connection.
pub(crate) struct Looker {
    window: Window,
    seats: Arc<Seats>,
    /// Looks that found nothing, for the tests.
    #[cfg(test)]
    pub(crate) misses: u64,
}

impl Looker {
    /// Looks for at most `most`; zero is never to look.
    pub(crate) fn new(most: Duration, seats: Arc<Seats>) -> Self {
        Looker {
            window: Window::new(most),
            seats,
            #[cfg(test)]
            misses: 0,
        }
    }

    /// Receives what is there, waiting for at least one byte; 0 at the end of the stream.
    pub(crate) fn recv(&mut self, socket: &Socket, buf: &mut [u8]) -> io::Result<usize> {
        if self.window.most.is_zero() {
            return socket.recv(buf);
        }
        let begin = Instant::now();
        if !self.window.now.is_zero()
            && let Some(n) = self.look(socket, buf, begin)?
        {
            return Ok(n);
        }
        let n = socket.recv(buf)?;
        self.window.learn(Outcome::Slept(begin.elapsed()));
        Ok(n)
    }

    fn look(
        &mut self,
        socket: &Socket,
        buf: &mut [u8],
        begin: Instant,
    ) -> io::Result<Option<usize>> {
        let Some(_seat) = self.seats.take() else {
            return Ok(None);
        };
        let mut away = Duration::ZERO;
        loop {
            // What is found may be long: receiving it disturbs nobody.
            let found = socket.try_recv(buf)?;
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
    use std::{io::Write, os::unix::net::UnixStream};

    const MOST: Duration = Duration::from_micros(100);
    const SOON: Outcome = Outcome::Slept(Duration::from_micros(40));
    const LATE: Outcome = Outcome::Slept(Duration::from_micros(101));

    fn after(outcomes: &[Outcome]) -> Window {
        let mut window = Window::new(MOST);
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

    fn looker(most: Duration, seats: usize) -> (UnixStream, Socket, Looker) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut looker = Looker::new(most, Arc::new(Seats::new(seats)));
        // As if requests had come soon.
        looker.window.now = most;
        (theirs, Socket::new(ours.into()), looker)
    }

    /// An hour's window: only what is asserted can end the look.
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_comes_is_found_without_sleeping_and_an_end_is_an_end() {
        let (mut client, socket, mut looker) = looker(HOUR, 1);
        let mut buf = [0; 8];
        client.write_all(b"abc").unwrap();
        assert_eq!(looker.recv(&socket, &mut buf).unwrap(), 3);
        assert_eq!((looker.misses, looker.seats.free.load(Relaxed)), (0, 1));
        drop(client);
        assert_eq!(looker.recv(&socket, &mut buf).unwrap(), 0);
    }

    /// A client that sends nothing costs the looks of one window, and none once that is closed.
    #[test]
    fn a_look_ends_and_a_closed_window_is_not_looked_through() {
        let (mut client, socket, mut looker) = looker(MOST, 1);
        let mut buf = [0; 8];
        let found = looker.look(&socket, &mut buf, Instant::now()).unwrap();
        assert_eq!((found, looker.seats.free.load(Relaxed)), (None, 1));
        looker.window.learn(LATE);
        looker.misses = 0;
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(20));
                client.write_all(b"x").unwrap();
            });
            assert_eq!(looker.recv(&socket, &mut buf).unwrap(), 1);
        });
        assert_eq!(looker.misses, 0);
    }

    #[test]
    fn nobody_looks_without_a_seat_or_with_no_window() {
        for (most, seats) in [(HOUR, 0), (Duration::ZERO, 1)] {
            let (mut client, socket, mut looker) = looker(most, seats);
            thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(Duration::from_millis(20));
                    client.write_all(b"x").unwrap();
                });
                assert_eq!(looker.recv(&socket, &mut [0; 8]).unwrap(), 1);
            });
            assert_eq!(looker.misses, 0);
        }
        let seats = Seats::new(1);
        let seat = seats.take();
        assert!(seat.is_some() && seats.take().is_none());
        drop(seat);
        assert!(seats.take().is_some());
    }
}
