//! `uzram` with a run directory of its own, whose devices end with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::program::uzram;

/// A host of devices, for as long as this value lives.
pub(crate) struct Host {
    program: PathBuf,
    dir: tempfile::TempDir,
    /// Where its remotes are; the user's if `None`.
    remotes: Option<PathBuf>,
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = self.say(&["remove", "--all"]) {
            eprintln!("devices stay: {error:#}");
        }
    }
}

impl Host {
    pub(crate) fn new() -> Result<Host> {
        Ok(Host {
            program: uzram(),
            dir: tempfile::tempdir()?,
            remotes: None,
        })
    }

    /// Forgets the user's remotes.
    pub(crate) fn with_own_remotes(mut self) -> Host {
        self.remotes = Some(self.dir().join("remotes"));
        self
    }

    /// A directory that goes with it.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs `uzram` with these words; what it printed.
    pub(crate) fn say(&self, words: &[&str]) -> Result<String> {
        let remotes = self.remotes.iter().map(|path| ("UZRAM_REMOTES", path));
        let output = Command::new(&self.program)
            .args(["--log", "error"])
            .args(words)
            .env("UZRAM_RUN_DIR", self.dir().join("run"))
            .envs(remotes)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        let why = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "uzram {words:?}: {}", why.trim());
        Ok(String::from_utf8(output.stdout)?)
    }
}
