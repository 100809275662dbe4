//! What can go wrong for whoever runs the server, and what ends a queue.

use std::io;

use thiserror::Error;
use uzram_frontend::SocketError;

/// Why a server could not be made or started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no socket to listen on.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The system would not start a thread.
    #[error("cannot start a thread: {source}")]
    Thread {
        /// The system's answer.
        source: io::Error,
    },
}

/// Why a queue serves no more: its ring makes no sense. A driver's reset makes it anew.
#[derive(Debug, Error)]
pub(crate) enum RingError {
    #[error("the ring is not in the guest's memory")]
    Memory,
    #[error("an available request has the number {head} of {size} descriptors")]
    Head { head: u16, size: u16 },
    #[error("more requests are available than the queue has descriptors")]
    AvailableIndex,
    #[error("the record of requests in flight is not in its memory")]
    Inflight,
    #[error("the record of requests in flight has version {0}, and 1 is known")]
    InflightVersion(u16),
    #[error("its descriptor for kicks or calls is no eventfd")]
    NotAnEvent,
    #[error("the system does not let it wait: {0}")]
    Wait(io::Error),
}

impl From<vm_memory::GuestMemoryError> for RingError {
    fn from(_: vm_memory::GuestMemoryError) -> RingError {
        RingError::Memory
    }
}

impl From<virtio_queue::Error> for RingError {
    fn from(error: virtio_queue::Error) -> RingError {
        match error {
            virtio_queue::Error::InvalidAvailRingIndex => RingError::AvailableIndex,
            _ => RingError::Memory,
        }
    }
}

impl From<vm_memory::VolatileMemoryError> for RingError {
    fn from(_: vm_memory::VolatileMemoryError) -> RingError {
        RingError::Inflight
    }
}
