//! How a device is served, as its description says it: the frontend's name and the options that are its own.
//!
//! Which options there are is the frontends' affair: here they are names and plain values, which the frontend checks.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The name that stands for the best frontend that works here.
pub const AUTO: &str = "auto";

/// How a device is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FrontendSpec {
    /// The frontend's name, or `auto` for the best that works here.
    pub kind: String,
    /// Its own options, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, OptionValue>,
}

impl Default for FrontendSpec {
    fn default() -> FrontendSpec {
        FrontendSpec::new(AUTO)
    }
}

impl FrontendSpec {
    /// That frontend with none of its options set.
    pub fn new(kind: impl Into<String>) -> FrontendSpec {
        FrontendSpec {
            kind: kind.into(),
            options: BTreeMap::new(),
        }
    }

    /// Sets an option.
    pub fn option(mut self, name: &str, value: impl Into<OptionValue>) -> FrontendSpec {
        self.options.insert(name.into(), value.into());
        self
    }

    /// Whether a flag is set.
    pub fn flag(&self, name: &str) -> bool {
        self.options.get(name) == Some(&OptionValue::Flag(true))
    }

    /// A number, if the option is given and is one.
    pub fn integer(&self, name: &str) -> Option<u64> {
        match self.options.get(name)? {
            OptionValue::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// The same, for what is known to fit: options are checked against their range before a frontend sees them.
    pub fn small<T: TryFrom<u64>>(&self, name: &str) -> Option<T> {
        T::try_from(self.integer(name)?).ok()
    }

    /// A text, if the option is given and is one.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.options.get(name)? {
            OptionValue::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// The value of a frontend's option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OptionValue {
    /// A switch.
    Flag(bool),
    /// A number; sizes are in bytes.
    Integer(u64),
    /// Anything else.
    Text(String),
}

impl From<bool> for OptionValue {
    fn from(flag: bool) -> OptionValue {
        OptionValue::Flag(flag)
    }
}

impl From<u64> for OptionValue {
    fn from(number: u64) -> OptionValue {
        OptionValue::Integer(number)
    }
}

impl From<u32> for OptionValue {
    fn from(number: u32) -> OptionValue {
        OptionValue::Integer(number.into())
    }
}

impl From<String> for OptionValue {
    fn from(text: String) -> OptionValue {
        OptionValue::Text(text)
    }
}

impl From<&str> for OptionValue {
    fn from(text: &str) -> OptionValue {
        OptionValue::Text(text.into())
    }
}
