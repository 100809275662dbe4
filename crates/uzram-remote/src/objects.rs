//! What uzram keeps in a store beside the parts of snapshots, and under which keys.
//!
//! | key | what |
//! | --- | --- |
//! | `uzram.json` | says that the prefix is uzram's, in which version |
//! | `seg/NAME`, `idx/NAME`, `dict/NAME`, `man/NAME` | parts of snapshots, named by hashes |
//! | `trace/NAME~TRACE` | which frames of a manifest a workload reads |
//! | `tag/TAG`, or `tag/TAG~ID` where conditional writes are not honoured | which manifest a tag is |
//! | `lease/ID`, `lease/cold-ID` | which manifests or which backing are in use, and until when |
//! | `cold/PREFIX/...` | a device's backing: see `backing.rs` |
//! | `lease/sweep` | that a collection removes things |
//!
//! The JSON objects say what they are (`uzram`) and their version; fields that are not known are ignored, a newer version is
//! refused.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uzram_snapshot::{Digest, Kind, NamedPart};

use crate::error::{Error, Result};

/// Version of the JSON objects.
pub(crate) const VERSION: u64 = 1;
/// Most bytes of a JSON object.
pub(crate) const MAX_JSON_BYTES: u64 = 256 << 10;
/// The key of what says that a prefix is uzram's.
pub(crate) const MARKER: &str = "uzram.json";
/// The key of the lease of who collects.
pub(crate) const SWEEP: &str = "lease/sweep";
/// What the keys of everything begin with.
pub(crate) const PREFIXES: [&str; 8] = [
    "seg/", "idx/", "dict/", "man/", "tag/", "lease/", "trace/", "cold/",
];
/// What the keys of a kind of parts begin with.
pub(crate) fn prefix_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Segment => "seg/",
        Kind::Index => "idx/",
        Kind::Dictionary => "dict/",
        _ => "man/",
    }
}

/// The key of a part.
pub fn key_of(kind: Kind, name: Digest) -> String {
    format!("{}{name}", prefix_of(kind))
}

pub(crate) fn key_of_part(part: &NamedPart) -> String {
    key_of(part.kind, part.name)
}

/// The name in a part's key.
pub(crate) fn name_in(key: &str) -> Option<Digest> {
    key.split_once('/')?.1.parse().ok()
}

/// Whether a text is a tag: letters, digits and `. _ + -`, not with a dot or a hyphen at its beginning; with `~` an id.
pub fn is_tag(text: &str) -> bool {
    let is_part = |part: &str| {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
        !part.is_empty() && part.bytes().all(is_good) && !part.starts_with(['.', '-'])
    };
    text.len() <= 128 && text.splitn(2, '~').all(is_part)
}

/// Says that a prefix is uzram's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    pub(crate) uzram: String,
    pub(crate) version: u64,
}

impl Marker {
    pub(crate) fn new() -> Marker {
        Marker {
            uzram: "remote".into(),
            version: VERSION,
        }
    }
}

/// What a tag says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    uzram: String,
    version: u64,
    /// Nobody else's: tells whether a write whose answer was lost was this one.
    pub id: String,
    /// The snapshot's name.
    pub manifest: String,
    /// The device that it is of.
    pub device: String,
    /// When it was taken, in seconds since 1970, by the clock of the device's host.
    pub taken_at_seconds: u64,
    /// Bytes of the disk.
    pub size_bytes: u64,
    /// Bytes of objects.
    pub object_bytes: u64,
    /// The snapshot that it was made since.
    #[serde(default)]
    pub parent: Option<String>,
    /// Whether the snapshot is sealed. Then the device is not named.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sealed: bool,
    /// Who wrote it: host and process.
    pub by: String,
}

impl Tag {
    pub(crate) fn new(id: String, manifest: Digest, by: String) -> Tag {
        Tag {
            uzram: "tag".into(),
            version: VERSION,
            id,
            manifest: manifest.to_string(),
            device: String::new(),
            taken_at_seconds: 0,
            size_bytes: 0,
            object_bytes: 0,
            parent: None,
            sealed: false,
            by,
        }
    }

    /// The snapshot's name.
    pub fn name(&self) -> Result<Digest> {
        self.manifest.parse().map_err(|_| Error::Foreign {
            what: format!("a tag of {}", self.by),
            kind: "tag",
            why: "its manifest has no name".into(),
        })
    }
}

/// What a lease says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaseBody {
    pub(crate) uzram: String,
    pub(crate) version: u64,
    pub(crate) id: String,
    /// Who has it.
    pub(crate) by: String,
    /// What for.
    pub(crate) why: String,
    /// For how long after it was written, by the store's clock.
    pub(crate) seconds: u64,
    /// The manifests that are in use.
    pub(crate) manifests: Vec<String>,
    /// The backings that are in use: prefix and id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) backings: Vec<String>,
}

/// Reads one of the JSON objects.
pub(crate) fn parse<T: DeserializeOwned>(key: &str, kind: &'static str, bytes: &[u8]) -> Result<T> {
    let foreign = |why: String| Error::Foreign {
        what: key.into(),
        kind,
        why,
    };
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| foreign(error.to_string()))?;
    if value["uzram"] != kind {
        return Err(foreign("it does not say that it is one".into()));
    }
    match value["version"].as_u64() {
        Some(found) if found > VERSION => {
            let (what, known) = (key.into(), VERSION);
            Err(Error::Newer { what, found, known })
        }
        Some(VERSION) => serde_json::from_value(value).map_err(|error| foreign(error.to_string())),
        _ => Err(foreign("it has no version".into())),
    }
}

/// The bytes of one.
pub(crate) fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_words() {
        for good in ["warm", "v1.2-rc+3", "a_b", "7", "warm~0123abcd"] {
            assert!(is_tag(good), "{good}");
        }
        for wrong in [
            "", ".", "..", "-x", "a/b", "a b", "a~", "~a", "a~b~c", "é", "a\n",
        ] {
            assert!(!is_tag(wrong), "{wrong}");
        }
        assert!(!is_tag(&"x".repeat(129)));
    }

    #[test]
    fn objects_say_what_they_are() {
        let parse = |text: &str| parse::<Marker>("uzram.json", "remote", text.as_bytes());
        let own = String::from_utf8(to_json(&Marker::new())).unwrap();
        assert_eq!(parse(&own).unwrap(), Marker::new());
        assert!(parse(r#"{"uzram":"remote","version":1,"more":[]}"#).is_ok());
        assert!(matches!(
            parse(r#"{"uzram":"remote","version":2}"#),
            Err(Error::Newer { found: 2, .. })
        ));
        for wrong in [
            "",
            "{}",
            "[]",
            r#"{"uzram":"tag","version":1}"#,
            r#"{"uzram":"remote"}"#,
            &own[..9],
        ] {
            assert!(
                matches!(parse(wrong), Err(Error::Foreign { .. })),
                "{wrong}"
            );
        }
    }
}
