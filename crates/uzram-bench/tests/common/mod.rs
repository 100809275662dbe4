//! Runs `uzram` and the `uzram-bench` that it starts, as they are installed: beside each other.

#![allow(dead_code, reason = "each test program uses a part")]

use std::ops::Deref;
use std::path::Path;

#[allow(unused_imports, reason = "each test program uses a part")]
pub(crate) use uzram_testkit::{peers::have, program::sh};

/// A folder with both programs, and a run directory; dropped, it removes every device that is left.
pub(crate) struct Bench(uzram_testkit::program::Bench);

impl Bench {
    pub(crate) fn new() -> Bench {
        let bench = Bench::without_benchmarks();
        link(program(), &bench.path("bin/uzram-bench"));
        // Another package's, which the whole workspace's tests have.
        let top = program().with_file_name("uzram-top");
        if top.exists() {
            link(&top, &bench.path("bin/uzram-top"));
        }
        bench
    }

    /// `uzram` alone.
    pub(crate) fn without_benchmarks() -> Bench {
        // On the file system of the programs, which are linked to.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (bin, built) = (dir.path().join("bin"), program().with_file_name("examples"));
        std::fs::create_dir(&bin).unwrap();
        let built = built.join("uzram");
        assert!(
            built.exists(),
            "cargo test builds {}, an example of this crate, unless it is told to build one test alone",
            built.display()
        );
        link(&built, &bin.join("uzram"));
        Bench(uzram_testkit::program::Bench::new(bin.join("uzram"), dir))
    }
}

impl Deref for Bench {
    type Target = uzram_testkit::program::Bench;

    fn deref(&self) -> &uzram_testkit::program::Bench {
        &self.0
    }
}

/// The program `uzram-bench` as cargo built it.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_uzram-bench"))
}

/// A hard link: by a symbolic one the program would look beside its target.
fn link(from: &Path, to: &Path) {
    std::fs::hard_link(from, to).unwrap();
}
