//! What a test is told on its way: words `NAME=VALUE` beside the test's name, which become words of the kernel's command
//! line and which the test asks for by name (`parameter` in guest/lib.sh).

use std::fmt::Write;

use anyhow::{Result, bail};

/// Names and values, as given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Takes the parameters out of a command line's words; what is left are names of tests.
    pub(crate) fn split<'a>(words: &[&'a str]) -> Result<(Vec<&'a str>, Self)> {
        let (mut names, mut parameters) = (Vec::new(), Self::default());
        for word in words {
            match word.split_once('=') {
                Some((name, value)) => parameters = parameters.with(name, value)?,
                None => names.push(*word),
            }
        }
        Ok((names, parameters))
    }

    /// These and one more. It must be one word for the kernel and for a shell.
    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Result<Self> {
        let value = value.to_string();
        let lower = |b: u8| b.is_ascii_lowercase() || b == b'_';
        if name.is_empty() || !name.bytes().all(lower) {
            bail!("'{name}={value}': a parameter's name is of lower case letters and _");
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.,:-".contains(&b);
        if !value.bytes().all(plain) {
            bail!("'{name}={value}': a parameter's value is of letters, digits and _ . , : -");
        }
        self.0.push((name.to_owned(), value));
        Ok(self)
    }

    /// The end of the kernel's command line.
    pub(crate) fn append(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.0 {
            let _ = write!(text, " uzram.parameter.{name}={value}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_apart() {
        let (names, parameters) = Parameters::split(&["x", "rounds=3", "y", "cells=a,b"]).unwrap();
        assert_eq!(names, ["x", "y"]);
        let line = " uzram.parameter.rounds=3 uzram.parameter.cells=a,b";
        assert_eq!(parameters.append(), line);
        assert_eq!(Parameters::default().append(), "");
    }

    #[test]
    fn what_is_not_one_word_is_refused() {
        for word in ["=1", "a b=1", "a=b c", "a=$(x)", "a=\"", "A=1"] {
            assert!(Parameters::split(&[word]).is_err(), "{word}");
        }
    }
}
