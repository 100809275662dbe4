//! What a snapshot keeps of its device beside the pages: the name, the block size, and which codec had which priority. A
//! restore without options of its own makes a device that is the same in these.
//!
//! It is JSON in the notes of the snapshot's head. A reader ignores fields that it does not know, and does without notes
//! that it cannot read: the pages do not depend on them.

use serde::{Deserialize, Serialize};
use uzram_snapshot::{Digest, Head, SnapshotCodec};

/// The notes of a device's snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotNotes {
    /// The device's name.
    pub name: String,
    /// Its logical block size; 0: not known.
    pub block_size: u32,
    /// Its codecs with a priority.
    pub roles: Vec<CodecRole>,
}

/// The codec of a priority. Named by what it is: its number may be another one in the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CodecRole {
    /// 0 for the primary, 1 to 3 for recompression.
    pub priority: usize,
    /// Its algorithm.
    pub algorithm: String,
    /// Its driver.
    pub driver: String,
    /// The parameters that differ from the defaults, as `level=1`.
    pub params: String,
    /// The name of its dictionary ([`uzram_snapshot::DictionaryName::of`]), if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dictionary: Option<String>,
}

impl SnapshotNotes {
    /// The notes as they are stored.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and numbers: this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a snapshot's notes; those of other writers say nothing.
    pub fn of(head: &Head) -> SnapshotNotes {
        serde_json::from_slice(&head.notes).unwrap_or_default()
    }
}

impl CodecRole {
    /// Whether a codec of the snapshot is the one that is meant.
    pub fn is(&self, codec: &SnapshotCodec) -> bool {
        let name = codec.dictionary.map(|of| of.name);
        self.algorithm == codec.algorithm
            && self.driver == codec.driver
            && self.params == codec.params
            && self.dictionary.as_deref() == name.as_ref().map(Digest::to_string).as_deref()
    }
}
