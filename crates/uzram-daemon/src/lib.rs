//! `uzramd`, which owns devices ([`Run`]): an API over HTTP on a unix socket ([`serve`]), its client ([`Client`]), the
//! configuration ([`DaemonConfig`]), metrics ([`Metrics`]), zram-generator's configuration ([`generator`]), what systemd is told ([`notify`]), and the
//! memory of every device, held so that not even the death of server and keeper at once loses it.
//!
//! Devices do not depend on it: each has its server and keeper, which go on when the daemon ends.
//!
//! The API's paths are one table ([`routes`]), which the OpenAPI document is made of, too. Attributes travel as the bytes
//! that the kernel would show, errors with the errno that it would give.
//!
//! This crate knows nothing about how a device is made and served: the runtime does that.
#![forbid(unsafe_code)]

mod api;
mod client;
mod config;
mod confirm;
mod devices;
mod error;
mod exports;
mod filesystem;
mod fronts;
pub mod generator;
mod history;
mod hold;
mod http;
mod limits;
mod metrics;
pub mod notify;
mod openapi;
mod options;
mod persist;
mod problem;
mod run;
mod save;
mod setup;

pub use api::{
    Asker, ByteStream, CreateAnswer, DeviceAnswer, Devices, Route, SnapshotOptions, routes,
};
pub use client::{Client, ClientError};
pub use config::{DaemonConfig, DaemonSettings, NewDevice};
pub use error::errno_name;
pub use exports::NewExports;
pub use filesystem::{FileSystem, Mount};
pub use history::{HistoryAnswer, HistoryPoint};
pub use http::{bind, converse, serve};
pub use limits::Limits;
pub use metrics::{MeasuredDevice, Metrics, MetricsFormat, metric_names};
pub use openapi::document;
pub use persist::Persist;
pub use problem::{Origin, Problem};
pub use run::{Run, Task};

/// File name of the daemon's socket in the run directory.
pub const SOCKET: &str = "uzramd.sock";
