//! What a device's processes start from, which start one another: the keeper its servers, and a server another keeper.

use std::path::PathBuf;
use std::process::{Child, Stdio};

use serde::{Deserialize, Serialize};
use uzram_spec::SnapshotSource;

use crate::logging::LogPipe;
use crate::process;

/// What a keeper of a device that is there already starts from: its only argument, as JSON. Programs of other versions
/// read it, too: a field is never renamed, and one that is unknown is ignored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeeperState {
    /// The device's directory.
    pub(crate) dir: PathBuf,
    /// Descriptor of its image.
    pub(crate) image: i32,
    /// Descriptor of a swap device's description.
    #[serde(default)]
    pub(crate) spec: Option<i32>,
    /// Its server's process number, if one runs.
    #[serde(default)]
    pub(crate) server: Option<u32>,
    /// Whether that server is to hand over to a new one.
    #[serde(default)]
    pub(crate) hand_over: bool,
    /// The program to go back to if the new server does not start.
    #[serde(default)]
    pub(crate) rollback: Option<PathBuf>,
    /// Descriptors of the pipe that a swap device's processes log to.
    #[serde(default)]
    pub(crate) log_pipe: Option<LogPipe>,
}

impl KeeperState {
    /// The arguments of a keeper that starts from here.
    pub(crate) fn arguments(&self) -> [String; 2] {
        // Paths of devices are the run directory's, which was a text.
        [
            "keep".into(),
            serde_json::to_string(self).unwrap_or_default(),
        ]
    }

    /// Starts a keeper that goes on from here.
    pub(crate) fn start(&self) -> std::io::Result<Child> {
        process::device_process()
            .args(self.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    }
}

/// What a server starts from: its only argument, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServerState {
    /// The device's directory.
    pub(crate) dir: PathBuf,
    /// Descriptor of the image.
    pub(crate) image: i32,
    /// Descriptor of a swap device's description.
    pub(crate) spec: Option<i32>,
    /// Process number of the keeper.
    pub(crate) keeper: u32,
    /// Whether the device is there already and is to be served again.
    pub(crate) resume: bool,
    /// Whether to wait to be needed.
    pub(crate) standby: bool,
    /// Descriptors of the pipe to log to.
    pub(crate) log_pipe: Option<LogPipe>,
    /// What a new device is to be filled with before it is served. Then stdin is closed by whoever waits for it when that is
    /// gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) contents: Option<SnapshotSource>,
}

impl ServerState {
    /// The arguments of a server that starts from here.
    pub(crate) fn arguments(&self) -> [String; 2] {
        [
            "serve".into(),
            serde_json::to_string(self).unwrap_or_default(),
        ]
    }
}
