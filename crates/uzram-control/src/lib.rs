//! Which devices run on this machine, and how to talk to the servers behind them.
//!
//! Each device has a directory below the run directory ([`RunDir`]) with its record, its lock, its control socket
//! and its log. The lock is held by the server for its life, so that "is it alive" is asked of the kernel and
//! not guessed from a process number. What a dead server left is found by the next command ([`RunDir::sweep`]).
//!
//! The control protocol ([`Request`], [`Response`]) is a line of JSON each way. [`call()`] asks one server,
//! [`call_devices`] many at once; both give up one that stands still.
//!
//! This crate knows nothing about the protocols that the data goes through.
#![forbid(unsafe_code)]

mod call;
mod damaged;
mod dictionary;
mod execute;
mod failure;
mod hex;
pub mod policy;
mod protocol;
mod rundir;
mod server;
pub mod stat;
pub mod trust;
pub mod zram;

pub use call::{
    CALL_SILENCE, Deadline, call, call_detached, call_device, call_devices, call_with_files,
};
pub use damaged::DamagedDevice;
pub use dictionary::read_dictionary;
pub use execute::{default_recompression, execute, execute_paced, total_pages};
pub use hex::{from_hex, to_hex};
pub use protocol::{
    ControlError, Job, MAX_FILES, MAX_LINE, PROTOCOL_VERSION, RecompressRequest, Request, Response,
    SnapshotReport, WritebackRequest,
};
pub use rundir::{
    Claim, DeviceRecord, Error, KEEPER_SOCKET, MAX_RECORD, RunDir, RunningDevice, SERVER_SOCKET,
    SPEC, Swept,
};
pub use server::{ControlServer, Handler};
pub use uzram_spec::{check_name, number, size};
