//! What the server offers: a device under a name.

use crate::{Error, proto};
use std::sync::Arc;
use uzram::Device;

/// A device under the name by which clients ask for it.
#[derive(Clone)]
pub struct Export {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) device: Arc<Device>,
    pub(crate) read_only: bool,
}

impl Export {
    /// A writable export without description.
    pub fn new(name: impl Into<String>, device: Arc<Device>) -> Self {
        Export {
            name: name.into(),
            description: String::new(),
            device,
            read_only: false,
        }
    }

    /// A text for people, shown by clients that list exports.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }

    /// Refuses every command that would change the contents (EPERM).
    pub fn read_only(mut self, yes: bool) -> Self {
        self.read_only = yes;
        self
    }

    /// Bytes of the device.
    pub fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    /// Bytes of the device's logical blocks. NBD clients may read and write any range all the same.
    pub fn block_size(&self) -> u32 {
        self.device.logical_block_size()
    }

    /// The transmission flags (`NBD_FLAG_...`) that a client without structured replies is told.
    pub fn transmission_flags(&self) -> u16 {
        self.flags(false)
    }

    /// The transmission flags; `NBD_FLAG_SEND_DF` may be set only once structured replies are negotiated.
    pub(crate) fn flags(&self, structured: bool) -> u16 {
        use proto::flag;
        // Every connection sees the same device without a cache of its own, hence CAN_MULTI_CONN.
        let mut flags = flag::HAS_FLAGS
            | flag::SEND_FLUSH
            | flag::SEND_FUA
            | flag::SEND_TRIM
            | flag::SEND_WRITE_ZEROES
            | flag::CAN_MULTI_CONN
            | flag::SEND_CACHE
            | flag::SEND_FAST_ZERO;
        if structured {
            flags |= flag::SEND_DF;
        }
        if self.read_only {
            flags |= flag::READ_ONLY;
        }
        flags
    }

    /// The protocol's rules for strings, which names and descriptions must keep.
    pub(crate) fn check(&self, others: &[Export]) -> Result<(), Error> {
        let reason = if self.name.is_empty() {
            "the empty name stands for the first export"
        } else if self.name.len() > proto::MAX_STRING || self.description.len() > proto::MAX_STRING
        {
            "a name or description has at most 4096 bytes"
        } else if self.name.contains('\0') || self.description.contains('\0') {
            "a name or description has no NUL character"
        } else if others.iter().any(|other| other.name == self.name) {
            "another export has it"
        } else {
            return Ok(());
        };
        Err(Error::ExportName {
            name: self.name.clone(),
            reason,
        })
    }
}
