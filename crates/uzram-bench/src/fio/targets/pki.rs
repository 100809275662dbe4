//! Certificates for servers on unix sockets that are measured with TLS.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A directory with a certificate of this run's own, for a server and for clients that trust it.
pub(super) fn certificates(dir: &Path) -> Result<PathBuf> {
    let dir = dir.join("pki");
    if dir.exists() {
        return Ok(dir);
    }
    std::fs::create_dir(&dir)?;
    let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
                 -keyout server-key.pem -out server-cert.pem";
    let output = Command::new("openssl")
        .args(words.split_whitespace())
        .current_dir(&dir)
        .output()
        .context("cannot run openssl (Debian's package openssl)")?;
    if !output.status.success() {
        bail!(
            "openssl: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    std::fs::copy(dir.join("server-cert.pem"), dir.join("ca-cert.pem"))?;
    Ok(dir)
}

/// The URI of a unix socket for a client of libnbd that uses TLS.
pub(super) fn encrypted(uri: &str, certificates: &Path) -> String {
    let uri = uri.replacen("nbd+unix:", "nbds+unix:", 1);
    format!("{uri}&tls-certificates={}", certificates.display())
}
