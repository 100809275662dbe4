//! What a snapshot keeps of its device beside the pages: the name, the block size, which codec had which priority, and where
//! its dictionary came from. A restore without options of its own makes a device that is the same in these.
//!
//! It is JSON in the notes of the snapshot's head. A reader ignores fields that it does not know, and does without notes
//! that it cannot read: the pages do not depend on them.

use serde::{Deserialize, Serialize};
use uzram::Generation;
use uzram_snapshot::{Digest, Head, SnapshotCodec};

/// The notes of a device's snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotNotes {
    /// The device's name.
    pub name: String,
    /// Its logical block size; 0: not known.
    pub block_size: u32,
    /// Its codecs.
    pub codecs: Vec<CodecNote>,
}

/// What is to be said of a codec. It is named by what it is: its number may be another one in the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CodecNote {
    /// Its algorithm.
    pub algorithm: String,
    /// Its driver.
    pub driver: String,
    /// The parameters that differ from the defaults, as `level=1`.
    pub params: String,
    /// The name of its dictionary ([`uzram_snapshot::DictionaryName::of`]), if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dictionary: Option<String>,
    /// 0 for the primary, 1 to 3 for recompression; none: kept for its objects.
    pub priorities: Vec<usize>,
    /// Where its dictionary was trained on the device's pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
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

    /// What they say of a codec.
    pub fn codec(&self, codec: &SnapshotCodec) -> Option<&CodecNote> {
        self.codecs.iter().find(|note| note.is(codec))
    }
}

impl CodecNote {
    /// Whether a codec of the snapshot is the one that is meant.
    fn is(&self, codec: &SnapshotCodec) -> bool {
        let name = codec.dictionary.map(|of| of.name);
        self.algorithm == codec.algorithm
            && self.driver == codec.driver
            && self.params == codec.params
            && self.dictionary.as_deref() == name.as_ref().map(Digest::to_string).as_deref()
    }
}
