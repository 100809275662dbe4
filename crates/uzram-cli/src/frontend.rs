//! The frontends that this program knows: choosing one, starting it, taking it down.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use clap::ValueEnum;
use uzram::Device;
use uzram_control::Claim;
use uzram_fuse::FuseLoop;
use uzram_nbd::{Export, Handle, Listen, Server};

use crate::exit::{Failure, Kind, Result};

/// How the device is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Choice {
    /// The best that this machine has
    Auto,
    /// An NBD socket, for qemu, libnbd, nbd-client, fio
    Nbd,
    /// /dev/loopN, on a file on a private FUSE mount
    FuseLoop,
}

impl Choice {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Choice::Auto => "auto",
            Choice::Nbd => "nbd",
            Choice::FuseLoop => "fuse-loop",
        }
    }

    /// What `auto` means here, and why.
    pub(crate) fn resolve(self, listen: Option<&Listen>) -> (Choice, Option<String>) {
        if self != Choice::Auto {
            return (self, None);
        }
        if listen.is_some() {
            return (Choice::Nbd, Some("--listen was given".into()));
        }
        match uzram_fuse::probe() {
            Ok(()) => {
                let why = "FUSE and loop devices work here, which gives a block device".into();
                (Choice::FuseLoop, Some(why))
            }
            Err(reason) => (
                Choice::Nbd,
                Some(format!("no loop device on FUSE: {reason}")),
            ),
        }
    }
}

/// A frontend that serves a device.
pub(crate) enum Frontend {
    Nbd { handle: Option<Handle>, uri: String },
    FuseLoop(Box<FuseLoop>),
}

impl Frontend {
    /// Starts it; when this returns the device can be used.
    pub(crate) fn start(
        choice: Choice,
        device: &Arc<Device>,
        claim: &Claim,
        listen: Option<Listen>,
        allow_remote: bool,
    ) -> Result<Frontend> {
        if choice == Choice::FuseLoop {
            uzram_fuse::probe().map_err(|reason| {
                Failure::new(Kind::Impossible, format!("no loop device: {reason}"))
            })?;
            let front = FuseLoop::create(device.clone(), &claim.name, &mount_dir(&claim.dir))?;
            return Ok(Frontend::FuseLoop(Box::new(front)));
        }
        let listen = listen.unwrap_or_else(|| Listen::Unix(claim.file("nbd.sock")));
        let export = Export::new(claim.name.as_str(), device.clone());
        let server = Server::builder()
            .export(export)
            .allow_remote(allow_remote)
            .bind(&listen)?;
        let uri = server.uri(&claim.name);
        Ok(Frontend::Nbd {
            handle: Some(server.start()?),
            uri,
        })
    }

    /// Where the device is: its node, or a URI.
    pub(crate) fn path(&self) -> String {
        match self {
            Frontend::Nbd { uri, .. } => uri.clone(),
            Frontend::FuseLoop(front) => front.node().display().to_string(),
        }
    }

    /// Refuses with the name of who uses the device, if anybody does. A block device is held for this process
    /// alone as long as the result lives.
    pub(crate) fn hold_idle(&self) -> Result<Option<File>> {
        match self {
            Frontend::FuseLoop(front) => Ok(front.exclusive()?),
            Frontend::Nbd { handle, uri } => match handle.as_ref().map_or(0, Handle::connections) {
                0 => Ok(None),
                n => {
                    let clients = if n == 1 {
                        "1 NBD client is"
                    } else {
                        &format!("{n} NBD clients are")
                    };
                    Err(Failure::new(
                        Kind::Busy,
                        format!("{uri} is in use: {clients} connected"),
                    ))
                }
            },
        }
    }

    /// Takes it down, unless it is in use.
    pub(crate) fn remove(&mut self) -> Result {
        if let Frontend::Nbd { .. } = self {
            self.hold_idle()?;
        }
        match self {
            // Holds the node itself while it detaches it.
            Frontend::FuseLoop(front) => front.remove()?,
            Frontend::Nbd { handle, .. } => {
                if let Some(handle) = handle.take() {
                    handle.shutdown()?;
                }
            }
        }
        Ok(())
    }
}

/// Where a device's FUSE mount is, in its directory.
pub(crate) fn mount_dir(dir: &Path) -> std::path::PathBuf {
    dir.join("mnt")
}
