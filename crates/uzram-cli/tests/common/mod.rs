//! Runs the real program with a run directory of its own, and takes down whatever a test leaves.

#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "each test program uses a part"
)]

pub(crate) mod nbd;

use std::ops::Deref;
use std::time::{Duration, Instant};

pub(crate) use uzram_testkit::program::{Stopped, kill_together, sh};
use uzram_testkit::{peers, program};

/// A run directory; dropped, it unmounts and removes every device in it.
pub(crate) struct Bench(program::Bench);

impl Bench {
    pub(crate) fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        Bench(program::Bench::new(env!("CARGO_BIN_EXE_uzram"), dir))
    }
}

impl Deref for Bench {
    type Target = program::Bench;

    fn deref(&self) -> &program::Bench {
        &self.0
    }
}

/// Ends the test unless these programs are there, and a loop device on FUSE if one is wanted: see [`have`].
macro_rules! needs {
    ($programs:expr) => {
        if !$crate::common::have(uzram_testkit::test_name!(), $programs, false) {
            return;
        }
    };
    ($programs:expr, fuse_loop) => {
        if !$crate::common::have(uzram_testkit::test_name!(), $programs, true) {
            return;
        }
    };
}
pub(crate) use needs;

/// Whether the programs are there, and a loop device on FUSE if one is wanted. What is missing is a reported
/// skip, or a failure where `UZRAM_REQUIRE_PEERS` is set.
pub(crate) fn have(test: &str, programs: &[&str], fuse_loop: bool) -> bool {
    let fuse_loop_works = || {
        let frontend = uzram_runtime::frontends::by_name("fuse-loop");
        frontend.map_or(Ok(()), |f| f.probe().map_err(|need| need.missing))
    };
    peers::have(test, programs) && (!fuse_loop || peers::possible(test, fuse_loop_works()))
}

/// Pages of text, no two alike, whose compressed sizes differ.
pub(crate) fn text(pages: usize) -> Vec<u8> {
    uzram_testkit::data::records(7, pages * 4096)
}

/// Waits until it is so; `what` is the failure's message when that takes longer than any machine needs.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "not so: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
