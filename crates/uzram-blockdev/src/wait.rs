//! Waiting for what the kernel and udev do in their own time and announce to nobody.

use std::convert::Infallible;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;

/// Longest pause between two looks at a node that is to come or go.
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

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

fn wait_plainly(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let Ok(done) = wait_until::<Infallible>(limit, LONGEST_PAUSE, || Ok(done()));
    done
}

/// Waits until the node of a new device has `appeared`; [`Error::Absent`] after `limit`.
pub fn wait_until_present(
    node: &Path,
    limit: Duration,
    appeared: impl FnMut() -> bool,
) -> Result<(), Error> {
    if wait_plainly(limit, appeared) {
        return Ok(());
    }
    Err(Error::Absent {
        path: node.into(),
        seconds: limit.as_secs(),
    })
}

/// Waits until a device that was told to go is `gone`; [`Error::Lingers`] after `limit`.
pub fn wait_until_gone(
    node: &Path,
    limit: Duration,
    gone: impl FnMut() -> bool,
) -> Result<(), Error> {
    if wait_plainly(limit, gone) {
        return Ok(());
    }
    Err(Error::Lingers {
        path: node.into(),
        seconds: limit.as_secs(),
    })
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

    #[test]
    fn a_node_that_does_not_come_or_go_is_named() {
        let (node, limit) = (Path::new("/dev/example"), Duration::ZERO);
        assert!(wait_until_present(node, limit, || true).is_ok());
        assert!(wait_until_gone(node, limit, || true).is_ok());
        let absent = wait_until_present(node, limit, || false).unwrap_err();
        let lingers = wait_until_gone(node, limit, || false).unwrap_err();
        assert!(matches!(absent, Error::Absent { .. }), "{absent}");
        assert!(matches!(lingers, Error::Lingers { .. }), "{lingers}");
        assert!(lingers.to_string().starts_with("/dev/example did not go"));
    }
}
