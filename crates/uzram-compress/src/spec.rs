//! Parses and prints an algorithm with its parameters as one word: `zstd`, `zstd(level=1)`, `zstd(level=1,dict=PATH)`.
//! Only the syntax is checked here; a [`Registry`](crate::Registry) checks names and values.

use std::fmt;
use std::str::FromStr;

use crate::{Error, parse_params};

/// A name and parameters as they were written, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlgorithmSpec {
    /// The algorithm's or driver's name.
    pub name: String,
    /// The parameters in the order given.
    pub params: Vec<(String, String)>,
}

impl AlgorithmSpec {
    /// An algorithm with its default parameters.
    pub fn new(name: impl Into<String>) -> AlgorithmSpec {
        AlgorithmSpec {
            name: name.into(),
            params: Vec::new(),
        }
    }

    /// Removes every parameter of that key and returns the last one's value: for parameters that are not the algorithm's
    /// own, such as `dict`, a file that the caller reads.
    pub fn take(&mut self, key: &str) -> Option<String> {
        let mut value = None;
        self.params.retain(|(k, v)| {
            let other = k != key;
            if !other {
                value = Some(v.clone());
            }
            other
        });
        value
    }
}

impl FromStr for AlgorithmSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<AlgorithmSpec, Error> {
        let bad = || Error::BadSpec { given: text.into() };
        let text = text.trim();
        let (name, params) = match text.split_once('(') {
            None => (text, ""),
            Some((name, rest)) => (name, rest.strip_suffix(')').ok_or_else(bad)?),
        };
        let is_word = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || !name.chars().all(is_word) {
            return Err(bad());
        }
        Ok(AlgorithmSpec {
            name: name.into(),
            params: parse_params(params)?,
        })
    }
}

impl fmt::Display for AlgorithmSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.params.is_empty() {
            return Ok(());
        }
        let pairs: Vec<String> = self
            .params
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        write!(f, "({})", pairs.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_read_back_as_they_are_shown() {
        for text in [
            "zstd",
            "zstd(level=-1)",
            "zstd(level=1,dict=/a/b)",
            "lz4-flex",
        ] {
            assert_eq!(text.parse::<AlgorithmSpec>().unwrap().to_string(), text);
        }
        let mut spec: AlgorithmSpec = " zstd( dict=/a level=1,dict=/b ) ".trim().parse().unwrap();
        assert_eq!(spec.take("dict"), Some("/b".into()));
        assert_eq!(spec.to_string(), "zstd(level=1)");
        assert_eq!(spec.take("dict"), None);
    }

    #[test]
    fn what_is_no_spec_is_named() {
        for text in [
            "",
            "(level=1)",
            "zstd(level=1",
            "zstd level=1",
            "zstd)",
            "a/b",
            "zstd(level=1)x",
        ] {
            let error = text.parse::<AlgorithmSpec>().unwrap_err().to_string();
            assert!(error.contains("zstd(level=1)"), "{text}: {error}");
        }
        let error = "zstd(level)".parse::<AlgorithmSpec>().unwrap_err();
        assert!(error.to_string().contains("key=value"), "{error}");
    }
}
