//! Whom a directory, a file or a socket belongs to, asked before it is used.
//!
//! On a machine of several users a path is only as good as whoever may change what it leads to: the owner of the file, of
//! each directory on the way, of each symbolic link. [`check_file`] asks that of files that a device is made of,
//! [`PrivateDir`] of the run directory, and [`connect`] of the process behind a socket. All three trust root and the user
//! who asks, and nobody else.
//!
//! What was asked stays true: no one else can rename, replace or write anything on such a way. So a path that was checked
//! may be used by its name, also by programs that know nothing of this (`mkfs`, `losetup`, `curl`).

mod dir;
mod owner;
mod socket;

pub use dir::{FileIdentity, PrivateDir};
pub use owner::{Distrust, check_file};
pub use socket::{bind, connect, credentials};
pub(crate) use socket::{check_peer, connect_at_once};
