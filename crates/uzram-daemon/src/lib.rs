//! What makes `uzramd` a daemon: an API over HTTP on a unix socket ([`serve`]), its client ([`Client`]), the configuration
//! ([`Config`]), zram-generator's configuration ([`generator`]), and what systemd is told ([`notify`]).
//!
//! The API's paths are one table ([`routes`]), which the OpenAPI document is made of, too. Attributes travel as the bytes
//! that the kernel would show, errors with the errno that it would give.
//!
//! This crate knows nothing about how a device is made and served: whoever starts the server says so ([`Devices`]).
#![forbid(unsafe_code)]

mod api;
mod client;
mod config;
mod error;
pub mod generator;
pub mod notify;
mod openapi;
mod server;

pub use api::{Create, Created, Devices, Route, routes};
pub use client::{Client, ClientError};
pub use config::{Config, ConfigError, DaemonSettings, NewDevice};
pub use error::errno_name;
pub use openapi::document;
pub use server::{bind, serve};

/// File name of the daemon's socket in the run directory.
pub const SOCKET: &str = "uzramd.sock";
