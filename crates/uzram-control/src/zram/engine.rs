//! What zram's interface steers: where devices come from ([`Engine`]) and a device that is in use ([`Live`]).

use std::sync::Arc;

use super::{Config, Errno};
use crate::protocol::{ControlError, Request, Response};

/// Makes devices. One for each way that a device can be served: a process and a block device for each, or nothing but
/// memory ([`super::InProcess`]).
pub trait Engine: Send + Sync {
    /// Takes a number for a device that is not initialised yet. Major and minor number of the node that is kept for it,
    /// if there is one. EEXIST where somebody else has the number.
    fn reserve(&self, id: u32) -> Result<Option<(u32, u32)>, Errno>;

    /// Gives a number up.
    fn unreserve(&self, id: u32);

    /// Makes the device, of `config.disksize` bytes and with everything else that the configuration says. Its node, if
    /// there was one, stays the same.
    fn start(&self, id: u32, config: &Config) -> Result<Arc<dyn Live>, ControlError>;

    /// Numbers of devices that were made elsewhere.
    fn taken(&self) -> Vec<u32>;
}

/// An initialised device.
pub trait Live: Send + Sync {
    /// Has a request carried out. Jobs ([`Request::takes_long`]) may be asked for from several threads; others are to be
    /// answered meanwhile.
    fn ask(&self, request: Request) -> Result<Response, ControlError>;

    /// The path of its node, or its URI; empty where it has none.
    fn path(&self) -> String;

    /// Major and minor number of its node.
    fn rdev(&self) -> Option<(u32, u32)>;

    /// Takes the device down with all that is in it. EBUSY, and nothing happens, while somebody has it open.
    fn remove(&self) -> Result<(), ControlError>;
}
