//! An export: a device that the server offers under a name.

use crate::{
    Error,
    agreement::ExportFacts,
    proto::{self, Headers},
};
use std::sync::Arc;
use uzram::Device;

/// A device under the name by which clients ask for it.
#[derive(Clone)]
pub struct Export {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) device: Arc<Device>,
    pub(crate) read_only: bool,
    pub(crate) no_hole: bool,
}

impl Export {
    /// A writable export without description.
    pub fn new(name: impl Into<String>, device: Arc<Device>) -> Self {
        Export {
            name: name.into(),
            description: String::new(),
            device,
            read_only: false,
            no_hole: true,
        }
    }

    /// Sets a text for people, which clients show when they list exports.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }

    /// Makes every command fail that would change the contents (EPERM).
    pub fn read_only(mut self, yes: bool) -> Self {
        self.read_only = yes;
        self
    }

    /// Whether `WRITE_ZEROES` with `NO_HOLE` leaves pages that count as written (the default), or holes. A kernel's client
    /// sets the flag for `blkdiscard -z`, and nobody sees its block status.
    pub fn honour_no_hole(mut self, yes: bool) -> Self {
        self.no_hole = yes;
        self
    }

    /// Bytes of the device.
    pub fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    /// Bytes of the device's logical blocks. NBD clients may read and write any range nevertheless.
    pub fn block_size(&self) -> u32 {
        self.device.logical_block_size()
    }

    /// The transmission flags (`NBD_FLAG_...`) for a client without structured replies.
    pub fn transmission_flags(&self) -> u16 {
        transmission_flags(self.read_only, Headers::Simple, false)
    }

    /// What clients are told.
    pub(crate) fn facts(&self) -> ExportFacts {
        ExportFacts {
            name: self.name.clone(),
            description: self.description.clone(),
            size_bytes: self.size_bytes(),
            read_only: self.read_only,
            tls: None,
        }
    }

    /// Checks the protocol's rules for strings.
    pub(crate) fn check(&self) -> Result<(), Error> {
        check_name(&self.name)?;
        if !is_legal(&self.description) {
            let name = self.name.clone();
            return Err(Error::Description { name });
        }
        Ok(())
    }
}

/// Whether the protocol allows a string.
fn is_legal(text: &str) -> bool {
    text.len() <= proto::MAX_STRING && !text.contains('\0')
}

/// Refuses names of exports of which one is not possible or is there twice, and none at all.
pub fn check_names(names: &[impl AsRef<str>]) -> Result<(), Error> {
    if names.is_empty() {
        return Err(Error::NoExport);
    }
    for (index, name) in names.iter().enumerate() {
        let name = name.as_ref();
        check_name(name)?;
        if names[..index].iter().any(|other| other.as_ref() == name) {
            return Err(Error::DuplicateExport { name: name.into() });
        }
    }
    Ok(())
}

/// Refuses a name that no export can have.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    match name.is_empty() || !is_legal(name) {
        true => Err(Error::ExportName { name: name.into() }),
        false => Ok(()),
    }
}

/// The transmission flags. Some may be set only once what they need is negotiated; `with_status` tells whether the client may
/// narrow what BLOCK_STATUS reports.
pub(crate) fn transmission_flags(read_only: bool, headers: Headers, with_status: bool) -> u16 {
    use proto::flag;
    // CAN_MULTI_CONN: all connections see the same device, and none has a cache.
    let mut flags = flag::HAS_FLAGS
        | flag::SEND_FLUSH
        | flag::SEND_FUA
        | flag::SEND_TRIM
        | flag::SEND_WRITE_ZEROES
        | flag::CAN_MULTI_CONN
        | flag::SEND_CACHE
        | flag::SEND_FAST_ZERO;
    if headers != Headers::Simple {
        flags |= flag::SEND_DF;
    }
    if headers == Headers::Extended && with_status {
        flags |= flag::BLOCK_STATUS_PAYLOAD;
    }
    if read_only {
        flags |= flag::READ_ONLY;
    }
    flags
}
