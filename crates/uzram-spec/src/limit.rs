//! A limit on memory: `2G` is on what is stored, as zram's `mem_limit`; `total:2G` on all that the device takes; `25%` is a part of the
//! machine's memory.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::quantity::{BytesVisitor, SHARE_PATTERN};
use crate::size::SizeError;
use crate::{Bytes, size};

/// What a limit on all memory begins with.
const TOTAL: &str = "total:";

/// A limit on memory; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemLimit {
    /// On the memory for compressed data, as the kernel's.
    Pool(Bytes),
    /// On all of the device's memory: that, the slot table, books, streams and dictionaries.
    Total(Bytes),
}

impl MemLimit {
    /// The bytes, whatever they limit.
    pub fn bytes(self) -> u64 {
        match self {
            MemLimit::Pool(bytes) | MemLimit::Total(bytes) => bytes.0,
        }
    }
}

impl Default for MemLimit {
    fn default() -> MemLimit {
        MemLimit::Pool(Bytes(0))
    }
}

impl From<Bytes> for MemLimit {
    fn from(bytes: Bytes) -> MemLimit {
        MemLimit::Pool(bytes)
    }
}

/// A number of bytes is a limit as the kernel's.
impl PartialEq<Bytes> for MemLimit {
    fn eq(&self, bytes: &Bytes) -> bool {
        *self == MemLimit::Pool(*bytes)
    }
}

impl FromStr for MemLimit {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<MemLimit, SizeError> {
        match text.trim().strip_prefix(TOTAL) {
            Some(rest) => size::parse_share(rest).map(|bytes| MemLimit::Total(Bytes(bytes))),
            None => size::parse_share(text).map(|bytes| MemLimit::Pool(Bytes(bytes))),
        }
    }
}

impl fmt::Display for MemLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemLimit::Pool(bytes) => f.write_str(&size::human(bytes.0)),
            MemLimit::Total(bytes) => write!(f, "{TOTAL}{}", size::human(bytes.0)),
        }
    }
}

/// A number where older programs know the limit, else a text.
impl Serialize for MemLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            MemLimit::Pool(bytes) => bytes.serialize(serializer),
            MemLimit::Total(bytes) => serializer.collect_str(&format_args!("{TOTAL}{}", bytes.0)),
        }
    }
}

struct LimitVisitor;

impl Visitor<'_> for LimitVisitor {
    type Value = MemLimit;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes, or a text such as 512M, 25% or total:512M")
    }

    fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<MemLimit, E> {
        BytesVisitor.visit_u64(bytes).map(MemLimit::Pool)
    }

    fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<MemLimit, E> {
        BytesVisitor.visit_i64(bytes).map(MemLimit::Pool)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MemLimit, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for MemLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MemLimit, D::Error> {
        deserializer.deserialize_any(LimitVisitor)
    }
}

impl JsonSchema for MemLimit {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "MemLimit".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": format!("^(total:)?{SHARE_PATTERN}$")},
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_of_the_pool_or_of_all() {
        for (text, limit, json) in [
            ("2G", MemLimit::Pool(Bytes(2 << 30)), "2147483648"),
            ("0", MemLimit::default(), "0"),
            (
                "total:512M",
                MemLimit::Total(Bytes(512 << 20)),
                "\"total:536870912\"",
            ),
        ] {
            assert_eq!(text.parse(), Ok(limit));
            assert_eq!(serde_json::to_string(&limit).unwrap(), json);
            assert_eq!(serde_json::from_str::<MemLimit>(json).unwrap(), limit);
        }
        let shown = |text: &str| text.parse::<MemLimit>().unwrap().to_string();
        assert_eq!(
            (shown("1536"), shown("total: 4096")),
            ("1.5K".into(), "total:4K".into())
        );
        let half = |text: &str| text.parse::<MemLimit>().unwrap().bytes();
        assert!(half("50%") > 0 && half("total: 50%") == half("50%"));
        for text in [
            "", "total:", "%", "total:%", "total:x", "all:1G", "-1", "total:-1",
        ] {
            assert!(text.parse::<MemLimit>().is_err(), "{text}");
        }
    }
}
