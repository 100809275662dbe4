//! Makes devices from their descriptions and keeps them: [`launch`], and the processes behind each device.
//!
//! A device has a *server*, which owns it, its frontend and its control socket ([`serve`]), and beside it a *keeper*,
//! which holds the memory and starts the server anew when it dies ([`keep`]). Both are the running program, started anew
//! with a state of their own as the only argument. What a device is, both read from its description in its directory; a
//! swap device's from a descriptor that they inherit.
//!
//! [`frontends`] is the table of frontends, [`zram`] the devices behind zram's interface, [`client`] what commands and
//! the daemon ask of a device that runs.
//!
//! This crate knows nothing about arguments, printing, or HTTP.
#![forbid(unsafe_code)]

mod backing;
pub mod choice;
pub mod client;
mod clone;
mod cold;
pub mod contents;
mod description;
pub mod files;
pub mod frontends;
pub mod handover;
mod keeper;
mod launch;
pub mod limits;
pub mod logging;
mod make;
pub mod nbd_exports;
pub mod note;
mod privileges;
pub mod process;
mod remote_process;
mod report;
mod requests;
mod server;
pub mod settings;
pub mod snapshot;
pub mod snapshot_files;
pub mod snapshot_notes;
mod snapshot_source;
mod standby;
mod state;
mod swap;
mod swap_watch;
pub mod sweep;
mod trace;
pub mod users;
mod watermark;
pub mod zram;

pub use description::check_program;
pub use keeper::{UPGRADE, UPGRADE_REFUSED, keep, restart_keeper};
pub use launch::{Created, launch, launch_announced};
pub use make::check;
pub use remote_process::{
    BackingOrder, OpenBacking, OpenRemote, OpenedRemote, RemoteOrder, TraceStore, read_remote,
};
pub use server::{run_in_foreground, serve};
pub use swap::swap_on;
pub use swap_watch::unsafe_swap;
