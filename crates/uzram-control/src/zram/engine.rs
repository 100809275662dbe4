//! What makes and serves the devices behind zram's interface: an [`Engine`] makes them, a [`Live`] is one of them.

use std::path::Path;
use std::sync::Arc;

use super::{Errno, ZramConfig};
use crate::protocol::{ControlError, Request, Response};

/// Makes devices. There is an engine for each way to serve them: as a process with a block device each, or, for tests, in
/// memory only.
pub trait Engine: Send + Sync {
    /// Reserves a number for a device that is not initialised yet. Returns major and minor number of the node reserved with
    /// it, if there is one. EEXIST if the number is taken.
    fn reserve(&self, id: u32) -> Result<Option<(u32, u32)>, Errno>;

    /// Releases a number.
    fn unreserve(&self, id: u32);

    /// Makes the device by its configuration, `config.disksize` bytes large. A reserved node becomes its node.
    fn start(&self, id: u32, config: &ZramConfig) -> Result<Arc<dyn Live>, ControlError>;

    /// Refuses what no device of this engine can have as its backing. EINVAL: it lies on such a device.
    fn check_backing(&self, _path: &Path) -> Result<(), Errno> {
        Ok(())
    }

    /// Lists the numbers of devices that were made elsewhere.
    fn taken(&self) -> Vec<u32>;
}

/// An initialised device.
pub trait Live: Send + Sync {
    /// Executes a request. Several threads may call this: other requests are answered while a job
    /// ([`Request::takes_long`]) runs.
    fn ask(&self, request: Request) -> Result<Response, ControlError>;

    /// The path of its node, or its URI; empty if it has neither.
    fn path(&self) -> String;

    /// Major and minor number of its node.
    fn rdev(&self) -> Option<(u32, u32)>;

    /// Takes the device down and drops its contents. EBUSY, and no change, while somebody has it open.
    fn remove(&self) -> Result<(), ControlError>;
}
