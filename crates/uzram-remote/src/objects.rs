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
//! refused. `sum` is the beginning of the BLAKE3 hash of all of the object's bytes with zeros in the place of these 32 digits: one
//! that was damaged on its way is refused, and not taken for another lease or tag. Objects of programs before it have none.

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

/// What stands in the place of a sum while it is made.
const NO_SUM: &str = "00000000000000000000000000000000";

/// The sum of an object that has [`NO_SUM`].
fn sum_of(bytes: &[u8]) -> String {
    let mut hex = blake3::hash(bytes).to_hex().to_string();
    hex.truncate(NO_SUM.len());
    hex
}

/// Whether an object's bytes are those that were written, as far as it says.
fn is_as_written(bytes: &[u8], sum: &serde_json::Value) -> bool {
    let sum = match sum {
        serde_json::Value::Null => return true,
        sum => sum.as_str().unwrap_or_default(),
    };
    if sum.len() != NO_SUM.len() {
        return false;
    }
    let mut places = bytes.windows(NO_SUM.len());
    let Some(at) = places.position(|found| found == sum.as_bytes()) else {
        return false;
    };
    let mut without = bytes.to_vec();
    without[at..at + NO_SUM.len()].copy_from_slice(NO_SUM.as_bytes());
    sum_of(&without) == sum
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
    if !is_as_written(bytes, &value["sum"]) {
        return Err(foreign("its bytes are not those that were written".into()));
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

/// The bytes of one, with its sum.
pub(crate) fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    if text.starts_with("{\n") {
        text.insert_str(1, &format!("\n  \"sum\": \"{NO_SUM}\","));
        let sum = sum_of(text.as_bytes());
        text = text.replacen(NO_SUM, &sum, 1);
    }
    text.into_bytes()
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
    fn no_bit_of_an_object_is_another_one_unseen() {
        let name = "ab".repeat(32);
        let body = LeaseBody {
            uzram: "lease".into(),
            version: VERSION,
            id: "0123456789abcdef".into(),
            by: "host:7".into(),
            why: "a device".into(),
            seconds: 900,
            manifests: vec![name],
            backings: vec!["cold/0123".into()],
        };
        let good = to_json(&body);
        let parse = |bytes: &[u8]| parse::<LeaseBody>("lease/x", "lease", bytes);
        assert_eq!(parse(&good).unwrap(), body);
        for at in 0..good.len() * 8 {
            let mut flipped = good.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            // In the word "sum" it hides the sum, and nothing else.
            assert!(parse(&flipped).is_ok_and(|found| found == body) || parse(&flipped).is_err());
        }
        for end in 0..good.len() - 1 {
            assert!(parse(&good[..end]).is_err(), "{end}");
        }
        // As it was written before there were sums.
        let old = serde_json::to_vec(&body).unwrap();
        assert_eq!(parse(&old).unwrap(), body);
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
            r#"{"uzram":"remote","version":1,"sum":"00000000000000000000000000000000"}"#,
            r#"{"uzram":"remote","version":1,"sum":7}"#,
            &own[..9],
        ] {
            assert!(
                matches!(parse(wrong), Err(Error::Foreign { .. })),
                "{wrong}"
            );
        }
    }
}
