//! The settings that every connection of a server shares.

use crate::{Error, catalog::Catalog, tls::TlsPolicy};
use ipnet::IpNet;
use std::{net::IpAddr, time::Duration};
use uzram_frontend::{may_connect, other_users};

/// How long a connection polls for the next request unless [`ServerBuilder::poll`](crate::ServerBuilder::poll) says
/// otherwise.
pub const DEFAULT_POLL: Duration = uzram_frontend::DEFAULT_POLL;

/// Most connections at a time unless [`ServerBuilder::max_connections`](crate::ServerBuilder::max_connections) says otherwise.
pub(crate) const DEFAULT_MAX_CONNECTIONS: usize = 64;
/// How long a client may take to negotiate.
pub(crate) const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take nothing of its replies.
pub(crate) const DEFAULT_SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// What [`ServerBuilder`](crate::ServerBuilder) sets; its methods say what each field means.
#[derive(Clone)]
pub(crate) struct ServerSettings {
    pub(crate) exports: Catalog,
    pub(crate) workers: usize,
    pub(crate) max_connections: usize,
    pub(crate) allowed_uids: Vec<u32>,
    /// None: all.
    pub(crate) allowed_networks: Vec<IpNet>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) send_timeout: Duration,
    pub(crate) poll: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) tls: TlsPolicy,
}

impl ServerSettings {
    /// Whether a user may connect to a unix socket: root and this process's own user always may, since they can read and
    /// change this process's memory as well.
    pub(crate) fn allows(&self, uid: u32) -> bool {
        may_connect(uid, &self.allowed_uids)
    }

    /// Whether a TCP client of this address may connect.
    pub(crate) fn allows_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let networks = &self.allowed_networks;
        networks.is_empty() || networks.iter().any(|network| network.contains(&address))
    }

    /// The allowed users for whom the mode 0600 of a socket is too strict.
    pub(crate) fn other_uids(&self) -> Vec<u32> {
        other_users(&self.allowed_uids)
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        self.exports.check()
    }
}
