//! Waiting for what the kernel and udev do in their own time and announce to nobody.

use std::thread;
use std::time::{Duration, Instant};

/// Calls `done` until it answers yes or `limit` has passed, and returns its last answer. The pauses between two calls grow
/// from one millisecond to `longest_pause`. An error of `done` ends the wait.
pub fn wait_until<E>(
    limit: Duration,
    longest_pause: Duration,
    mut done: impl FnMut() -> Result<bool, E>,
) -> Result<bool, E> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if done()? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(longest_pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(2);

    #[test]
    fn the_wait_ends_with_a_yes_an_error_or_the_limit() {
        let mut calls = 0;
        let mut third = || {
            calls += 1;
            Ok::<_, ()>(calls == 3)
        };
        assert_eq!(
            wait_until(Duration::from_secs(60), PAUSE, &mut third),
            Ok(true)
        );
        assert_eq!(calls, 3);
        let begin = Instant::now();
        let limit = Duration::from_millis(20);
        assert_eq!(wait_until(limit, PAUSE, || Ok::<_, ()>(false)), Ok(false));
        assert!(begin.elapsed() >= limit);
        assert_eq!(wait_until(limit, PAUSE, || Err("broken")), Err("broken"));
    }
}
