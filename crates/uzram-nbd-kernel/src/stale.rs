//! Finds and disconnects a device by the name that the kernel keeps with it, also after its server has died.

use std::path::Path;

use uzram_blockdev::{Busy, Error as NodeError, Survey, delete_partitions, open_rw};

use crate::client::NbdClient;
use crate::kernel_nbd::wait_until_free;
use crate::sysfs::{SysfsDisk, indexes, node};
use crate::{Error, KernelNbdOptions};

/// Finds the index of the device of this name, whether or not its server lives. Serves after a process died before it could
/// note which device it made. Kernels before 5.13 keep no names, so none is found there.
pub fn find(name: &str) -> Option<u32> {
    let identifier = KernelNbdOptions::new(name).identifier();
    let found = |index: &u32| SysfsDisk::new(*index).is_connected_to(&identifier, true);
    indexes().into_iter().filter(found).min()
}

/// Deletes the partitions of a device that nobody is connected to: the driver leaves them where they are, and they would
/// reach into what the node is next. Before, an open would have waited for a server.
fn drop_partitions(path: &Path) {
    match open_rw(path) {
        Ok(disk) => {
            let left = delete_partitions(&disk, path);
            if left > 0 {
                tracing::warn!(path = %path.display(), left, "partitions stay until they are let go");
            }
        }
        Err(error) => tracing::warn!("the partitions of a dead device stay: {error}"),
    }
}

/// Disconnects `/dev/nbdN` if it is the device of this name, whose server has died for good. Requests that wait for a reply
/// then fail now and not after [`KernelNbdOptions::dead_conn_timeout`]. Returns in words what was cleared; nothing if the
/// device is another.
///
/// [`Error::Node`] where something still has the node open, such as a mounted file system. Its data is lost, but unmounting
/// it is up to its user, and the device is free after that.
///
/// A kernel before 5.13 keeps no names: there any connected device counts as that device.
pub fn clear_stale(index: u32, name: &str) -> Result<Vec<String>, Error> {
    let disk = SysfsDisk::new(index);
    if !disk.is_connected() {
        return Ok(Vec::new());
    }
    let mut client = NbdClient::open()?;
    let identifier = KernelNbdOptions::new(name).identifier();
    if !disk.is_connected_to(&identifier, client.keeps_identifiers()) {
        return Ok(Vec::new());
    }
    client.disconnect(index)?;
    let path = node(index);
    match wait_until_free(&disk, &path) {
        Err(Error::Node(NodeError::Lingers { .. })) => {
            let mut by = Survey::new().users(&path);
            if by.is_empty() {
                by = Busy::Elsewhere.into();
            }
            Err(NodeError::Busy { path, by }.into())
        }
        freed => {
            freed?;
            drop_partitions(&path);
            Ok(vec![format!("nbd device {}", path.display())])
        }
    }
}
