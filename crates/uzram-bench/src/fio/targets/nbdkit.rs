//! nbdkit's memory plugin on a unix socket: the RAM disk that packages have, and with its zstd allocator a compressed one.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Means, Probe, Target, TargetPath};

/// The server.
pub(super) struct Nbdkit {
    child: Child,
    socket: PathBuf,
}

impl Nbdkit {
    pub(super) fn new(allocator: Option<&str>, means: &Means<'_>) -> Result<Nbdkit> {
        let socket = means.dir.join("nbdkit.sock");
        let errors = means.dir.join("nbdkit.err");
        let _ = std::fs::remove_file(&socket);
        let allocator = format!("allocator={}", allocator.unwrap_or("sparse"));
        let child = Command::new("nbdkit")
            .args(["-f", "-U"])
            .arg(&socket)
            .args(["memory", &means.size_bytes.to_string(), &allocator])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&errors)?)
            .spawn()
            .context("cannot run nbdkit (Debian's package nbdkit)")?;
        let mut nbdkit = Nbdkit { child, socket };
        let begin = Instant::now();
        while !nbdkit.socket.exists() {
            let ended = nbdkit.child.try_wait()?;
            if ended.is_some() || begin.elapsed() > Duration::from_secs(10) {
                let why = std::fs::read_to_string(&errors).unwrap_or_default();
                bail!("nbdkit does not serve: {}", why.trim());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(nbdkit)
    }
}

impl Target for Nbdkit {
    fn place(&self) -> TargetPath {
        TargetPath::Uri(format!("nbd+unix:///?socket={}", self.socket.display()))
    }

    fn probe(&self) -> Probe {
        Probe::Resident(self.child.id())
    }

    fn note(&self) -> String {
        "memory is resident memory of the server".into()
    }

    fn close(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            // It holds nothing that would have to be written anywhere.
            self.child.kill()?;
            self.child.wait()?;
        }
        let _ = std::fs::remove_file(&self.socket);
        Ok(())
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        let _ = self.close();
    }
}
