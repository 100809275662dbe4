//! Options that seal and unseal snapshots, the same for all commands, and what goes wrong with seals in the program's words.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde::{Deserialize, Serialize};
use uzram_runtime::process;
use uzram_seal::{KeyFiles, Keys};
use uzram_spec::SnapshotSource;

use crate::exit::{Failure, Kind, Result};

/// What opens sealed snapshots.
#[derive(clap::Args, Debug, Default, Clone)]
pub(crate) struct OpenArgs {
    /// A file with an age identity that opens a sealed snapshot, as age-keygen makes it; may be given several times. What is
    /// not sealed is refused then
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Vec<PathBuf>,
    /// A file whose first line is the passphrase that a snapshot is sealed by
    #[arg(long, value_name = "FILE")]
    pub(crate) seal_passphrase_file: Option<PathBuf>,
}

impl OpenArgs {
    fn files(&self) -> KeyFiles {
        KeyFiles {
            identities: self.identity.clone(),
            passphrase: self.seal_passphrase_file.clone(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.files().is_empty()
    }

    /// The keys, if any were named. From here on this process leaves no core dump.
    pub(crate) fn keys(&self) -> Result<Option<Keys>> {
        if !self.is_empty() {
            process::hide_keys();
        }
        self.files().read().map_err(failure)
    }

    /// Names the files of keys in a description. Whoever makes the device reads them.
    pub(crate) fn describe(self, from: SnapshotSource) -> SnapshotSource {
        SnapshotSource {
            identities: self.identity,
            passphrase_file: self.seal_passphrase_file,
            ..from
        }
    }
}

/// A failure of a seal in the words and with the exit code of the program.
pub(crate) fn failure(error: uzram_seal::Error) -> Failure {
    let kind = match &error {
        uzram_seal::Error::Io { source, .. } => Kind::from_io(source),
        uzram_seal::Error::Newer | uzram_seal::Error::TooMuchWork { .. } => Kind::Impossible,
        error if error.is_about_keys() => Kind::Usage,
        uzram_seal::Error::Snapshot(uzram_snapshot::Error::Sealed) => Kind::Usage,
        _ => Kind::Failed,
    };
    let failure = Failure::new(kind, error.to_string());
    match &error {
        uzram_seal::Error::Snapshot(uzram_snapshot::Error::Sealed) => {
            failure.with_hint("--identity FILE or --seal-passphrase-file FILE names what opens it")
        }
        _ => failure,
    }
}

/// The same of a snapshot's file.
pub(crate) fn failure_of(path: &Path, error: uzram_seal::Error) -> Failure {
    let failure = failure(error);
    let message = format!("the snapshot {}: {}", path.display(), failure.message);
    Failure { message, ..failure }
}

/// What a process that unseals a pipe starts from.
#[derive(Debug, Serialize, Deserialize)]
struct UnsealOrder {
    identities: Vec<PathBuf>,
    passphrase_file: Option<PathBuf>,
}

/// A pipe that another process unseals. It has the key, so that this one can hand its own pipes to a server.
pub(crate) struct UnsealingPipe {
    child: Child,
    from: ChildStdout,
}

impl UnsealingPipe {
    /// Starts the process on `from`, with the keys that a source names.
    pub(crate) fn start(source: &SnapshotSource, from: Stdio) -> Result<UnsealingPipe> {
        let order = UnsealOrder {
            identities: source.identities.clone(),
            passphrase_file: source.passphrase_file.clone(),
        };
        let state = serde_json::to_string(&order).map_err(Failure::failed)?;
        let mut command = Command::new("/proc/self/exe");
        command.args(["unseal", &state]).stdin(from);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let from = child
            .stdout
            .take()
            .ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(UnsealingPipe { child, from })
    }
}

impl Read for UnsealingPipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        if count > 0 || buffer.is_empty() {
            return Ok(count);
        }
        if self.child.wait()?.success() {
            return Ok(0);
        }
        let mut words = String::new();
        if let Some(errors) = &mut self.child.stderr {
            errors.take(4096).read_to_string(&mut words)?;
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, words))
    }
}

impl Drop for UnsealingPipe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the process of an [`UnsealingPipe`].
pub(crate) fn unseal_pipe(state: &str) -> u8 {
    let unsealed = || -> uzram_seal::Result {
        let refused = |source| uzram_seal::Error::Io {
            what: "read",
            source,
        };
        let order: UnsealOrder =
            serde_json::from_str(state).map_err(|error| refused(io::Error::other(error)))?;
        process::hide_keys();
        let files = KeyFiles {
            identities: order.identities,
            passphrase: order.passphrase_file,
        };
        let keys = files.read()?;
        let keys = keys.ok_or(uzram_seal::Error::Usage("no key was named"))?;
        let mut from = uzram_seal::unseal(io::stdin().lock(), &keys)?;
        let mut to = io::stdout().lock();
        io::copy(&mut from, &mut to)
            .and_then(|_| to.flush())
            .map_err(|error| match error.downcast::<uzram_seal::Error>() {
                Ok(own) => own,
                Err(error) => refused(error),
            })
    };
    match unsealed() {
        Ok(()) => 0,
        Err(error) => {
            let _ = write!(io::stderr(), "{error}");
            1
        }
    }
}
