//! Finds and disconnects a device by the name that the kernel keeps with it, also after its server has died.

use uzram_blockdev::{Busy, Error as NodeError, Survey};

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
        freed => freed.map(|()| vec![format!("nbd device {}", path.display())]),
    }
}
