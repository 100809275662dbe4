//! A uzram device, created and removed by running `uzram`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use uzram_control::RunDir;

use super::{Means, Probe, Target, TargetPath};

/// The device, in a run directory of this benchmark's own.
pub(super) struct Uzram {
    program: PathBuf,
    run: PathBuf,
    /// Path or URI; empty once it is removed.
    path: String,
    name: String,
    socket: PathBuf,
    note: String,
}

impl Uzram {
    pub(super) fn new(
        frontend: Option<&str>,
        options: &[(String, String)],
        algorithm: Option<&str>,
        means: &Means<'_>,
    ) -> Result<Uzram> {
        let mut uzram = Uzram {
            program: means.program.into(),
            run: means.dir.join("run"),
            path: String::new(),
            name: String::new(),
            socket: PathBuf::new(),
            note: String::new(),
        };
        let size = means.size_bytes.to_string();
        let mut words = vec!["create", "--private", "--size", &size];
        for (option, value) in [("--frontend", frontend), ("--algorithm", algorithm)] {
            words.extend(value.into_iter().flat_map(|value| [option, value]));
        }
        let options: Vec<_> = options
            .iter()
            .map(|(name, value)| format!("--{name}={value}"))
            .collect();
        words.extend(options.iter().map(String::as_str));
        uzram.path = uzram.say(&words)?.trim().to_owned();
        let entry = RunDir::new(&uzram.run).find(&uzram.path)?;
        uzram.socket = entry.socket();
        let record = entry.record;
        uzram.name = record.name;
        uzram.note = format!(
            "{}, {}",
            record.frontend,
            algorithm.unwrap_or("the default algorithm")
        );
        Ok(uzram)
    }

    /// Runs the program and returns its output.
    fn say(&self, words: &[&str]) -> Result<String> {
        let output = Command::new(&self.program)
            .args(["--log", "warn"])
            .args(words)
            .env("UZRAM_RUN_DIR", &self.run)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("uzram {}: {}", words.join(" "), why.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Target for Uzram {
    fn place(&self) -> TargetPath {
        match Path::new(&self.path).is_absolute() {
            true => TargetPath::File {
                path: self.path.clone().into(),
                direct: true,
            },
            false => TargetPath::Uri(self.path.clone()),
        }
    }

    fn probe(&self) -> Probe {
        Probe::Server(self.socket.clone())
    }

    fn note(&self) -> String {
        format!(
            "{}; memory is all of it: pool, table, books and streams",
            self.note
        )
    }

    fn close(&mut self) -> Result<()> {
        if std::mem::take(&mut self.path).is_empty() {
            return Ok(());
        }
        let remove = || self.say(&["remove", &self.name]).map(drop);
        // A look at the node by another process can hold it longer than the command waits.
        remove().or_else(|_| remove()).or_else(|error| {
            let gone = RunDir::new(&self.run).find(&self.name).is_err();
            if gone { Ok(()) } else { Err(error) }
        })
    }
}

impl Drop for Uzram {
    fn drop(&mut self) {
        let _ = self.close();
    }
}
