//! Parameters: their schema, and a set of values checked against it. Checking happens once, here, so that a
//! backend's `prepare` reads values that are known to be in range.

use std::fmt;
use std::sync::Arc;

use crate::{Algorithm, Error};

/// The values that a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParamKind {
    /// A whole number.
    Int {
        /// Smallest value accepted.
        min: i64,
        /// Largest value accepted.
        max: i64,
        /// The value where none is given.
        default: i64,
    },
}

/// One parameter of an algorithm.
#[derive(Debug, Clone, Copy)]
pub struct ParamSpec {
    /// The key, such as `level`.
    pub name: &'static str,
    /// The values.
    pub kind: ParamKind,
    /// One line that says what it does.
    pub doc: &'static str,
}

impl ParamSpec {
    /// A whole number from `min` to `max`.
    pub const fn int(
        name: &'static str,
        (min, max): (i64, i64),
        default: i64,
        doc: &'static str,
    ) -> ParamSpec {
        let kind = ParamKind::Int { min, max, default };
        ParamSpec { name, kind, doc }
    }
}

impl std::fmt::Display for ParamKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ParamKind::Int { min, max, default } = self;
        write!(f, "a whole number from {min} to {max}, default {default}")
    }
}

/// Values for one algorithm's parameters, complete and in range, and its dictionary.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    block_size: usize,
    ints: Vec<(&'static str, i64)>,
    dictionary: Option<Arc<[u8]>>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dictionary_bytes = self.dictionary.as_ref().map(|bytes| bytes.len());
        f.debug_struct("Settings")
            .field("block_size", &self.block_size)
            .field("ints", &self.ints)
            .field("dictionary_bytes", &dictionary_bytes)
            .finish()
    }
}

impl Settings {
    /// Checks `given` against the algorithm's schema and fills in the defaults. A key given twice takes the last value;
    /// the algorithm's name and a dot may precede it (`deflate.winbits`). `block_size` is the largest input in bytes that
    /// a tfm will be given.
    pub fn new<K: AsRef<str>, V: AsRef<str>>(
        algorithm: &dyn Algorithm,
        block_size: usize,
        given: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Settings, Error> {
        let usual = |spec: &ParamSpec| {
            let ParamKind::Int { default, .. } = spec.kind;
            (spec.name, default)
        };
        let mut ints: Vec<_> = algorithm.params().iter().map(usual).collect();
        for (key, value) in given {
            let (key, value) = (plain_key(algorithm, key.as_ref()), value.as_ref());
            let index = algorithm.params().iter().position(|spec| spec.name == key);
            let index = index.ok_or_else(|| unknown_param(algorithm, key))?;
            let kind = algorithm.params()[index].kind;
            let ParamKind::Int { min, max, .. } = kind;
            ints[index].1 = match value.parse::<i64>() {
                Ok(n) if (min..=max).contains(&n) => n,
                _ => {
                    return Err(Error::BadParam {
                        algorithm: algorithm.name().into(),
                        param: key.into(),
                        given: value.into(),
                        accepted: kind.to_string(),
                    });
                }
            };
        }
        Ok(Settings {
            block_size,
            ints,
            dictionary: None,
        })
    }

    /// Adds a dictionary. [`Error::NoDictionary`] where the algorithm takes none, [`Error::DictionaryLength`] where it
    /// takes none of that length.
    pub fn with_dictionary(
        mut self,
        algorithm: &dyn Algorithm,
        dictionary: Arc<[u8]>,
    ) -> Result<Settings, Error> {
        let Some(accepted) = algorithm.dictionary() else {
            return Err(Error::NoDictionary {
                algorithm: algorithm.name().into(),
            });
        };
        if !accepted.accepts_len(dictionary.len()) {
            return Err(Error::DictionaryLength {
                algorithm: algorithm.name().into(),
                given_bytes: dictionary.len(),
                accepted,
            });
        }
        self.dictionary = Some(dictionary);
        Ok(self)
    }

    /// The dictionary, if there is one.
    pub fn dictionary(&self) -> Option<&Arc<[u8]>> {
        self.dictionary.as_ref()
    }

    /// The whole numbers that differ from their defaults, as `level=3` separated by commas: what
    /// [`parse_params`] reads. Empty for the defaults.
    pub fn params_text(&self, algorithm: &dyn Algorithm) -> String {
        let changed = |(name, value): &&(&'static str, i64)| {
            !algorithm.params().iter().any(|spec| {
                let ParamKind::Int { default, .. } = spec.kind;
                spec.name == *name && default == *value
            })
        };
        let changed = self.ints.iter().filter(changed);
        let pairs: Vec<String> = changed.map(|(name, n)| format!("{name}={n}")).collect();
        pairs.join(",")
    }

    /// The largest input in bytes that a tfm will be given.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// A parameter's value; `None` only for a name that the schema lacks.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.ints.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }

    /// [`Settings::int`] for backends that hand it to C: 0 where the schema lacks the name or allows more than
    /// an `int` holds.
    pub fn c_int(&self, name: &str) -> i32 {
        self.int(name)
            .and_then(|v| i32::try_from(v).ok())
            .unwrap_or_default()
    }
}

/// The kernel puts some algorithms' names before their keys: `deflate.winbits`.
fn plain_key<'a>(algorithm: &dyn Algorithm, key: &'a str) -> &'a str {
    let rest = key.strip_prefix(algorithm.name());
    rest.and_then(|rest| rest.strip_prefix('.')).unwrap_or(key)
}

/// What front ends call a dictionary's file among the parameters: they load it and hand over the bytes
/// ([`Settings::with_dictionary`]), so that no schema has it.
const DICTIONARY_KEY: &str = "dict";

fn unknown_param(algorithm: &dyn Algorithm, key: &str) -> Error {
    let mut names: Vec<_> = algorithm.params().iter().map(|spec| spec.name).collect();
    if algorithm.dictionary().is_some() && key != DICTIONARY_KEY {
        names.push(DICTIONARY_KEY);
    }
    Error::UnknownParam {
        algorithm: algorithm.name().into(),
        param: key.into(),
        known: if names.is_empty() {
            "no parameters".into()
        } else {
            names.join(", ")
        },
    }
}

/// Splits `key=value` pairs that are separated by commas or white space, as in `level=3,winbits=12`.
/// [`Error::NotAPair`] for a word without `=`.
pub fn parse_params(text: &str) -> Result<Vec<(String, String)>, Error> {
    text.split(|c: char| c == ',' || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .map(|word| match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Error::NotAPair { given: word.into() }),
        })
        .collect()
}
