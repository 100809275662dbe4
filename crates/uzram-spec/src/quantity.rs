//! Bytes in a description: a number when written, and a number or a text such as `4G` when read.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};

use crate::size;

/// What a size as a text looks like, for schemas.
pub(crate) const SIZE_PATTERN: &str = "[0-9]+(([.][0-9]+)?[KMGTPEkmgtpe]([iI]?[Bb])?|[Bb]?)";

/// The same of a device, which may be a part of the memory.
pub(crate) const SHARE_PATTERN: &str =
    "([0-9]+(([.][0-9]+)?[KMGTPEkmgtpe]([iI]?[Bb])?|[Bb]?)|[0-9]+([.][0-9]+)?%)";

/// A number of bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

pub(crate) struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes, or a text such as 512M")
    }

    fn visit_u64<E>(self, bytes: u64) -> Result<Bytes, E> {
        Ok(Bytes(bytes))
    }

    fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<Bytes, E> {
        u64::try_from(bytes)
            .map(Bytes)
            .map_err(|_| E::custom(format!("{bytes} is not a size: it is negative")))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Bytes, E> {
        size::parse(text).map(Bytes).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        deserializer.deserialize_any(BytesVisitor)
    }
}

impl JsonSchema for Bytes {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": format!("^{SIZE_PATTERN}$")},
            ],
        })
    }
}

/// The size of a device as it is given: [`Bytes`], or a part of the memory.
pub(crate) struct DeviceSize(Bytes);

struct DeviceSizeVisitor;

impl Visitor<'_> for DeviceSizeVisitor {
    type Value = DeviceSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes, or a text such as 512M or 50%")
    }

    fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<DeviceSize, E> {
        BytesVisitor.visit_u64(bytes).map(DeviceSize)
    }

    fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<DeviceSize, E> {
        BytesVisitor.visit_i64(bytes).map(DeviceSize)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<DeviceSize, E> {
        let bytes = size::parse_share(text).map_err(E::custom)?;
        Ok(DeviceSize(Bytes(bytes)))
    }
}

impl<'de> Deserialize<'de> for DeviceSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DeviceSize, D::Error> {
        deserializer.deserialize_any(DeviceSizeVisitor)
    }
}

impl JsonSchema for DeviceSize {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "DeviceSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": format!("^{SHARE_PATTERN}$")},
            ],
        })
    }
}

/// Reads the size of a device.
pub(crate) fn device_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Bytes>, D::Error> {
    let given = Option::<DeviceSize>::deserialize(from)?;
    Ok(given.map(|size| size.0))
}
