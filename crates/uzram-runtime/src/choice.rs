//! Algorithms as a command line has them: `zstd(level=1,dict=FILE,priority=2)`. What is not the algorithm's own is taken
//! out here: the dictionary is read, by whoever was given its name, and travels as bytes from then on.

use std::path::Path;

use uzram::Choice;
use uzram::compress::AlgorithmSpec;
use uzram_control::read_dictionary;
use uzram_spec::{Failure, Result};

/// Takes the priority out, if one is said.
pub fn take_priority(spec: &mut AlgorithmSpec) -> Result<Option<usize>> {
    let Some(text) = spec.take("priority") else {
        return Ok(None);
    };
    match text.parse() {
        Ok(priority @ 1..uzram::PRIORITIES) => Ok(Some(priority)),
        _ => {
            let message = format!("priority={text} is not possible: it takes 1 to 3");
            Err(Failure::usage(message))
        }
    }
}

/// Takes the dictionary's file out and reads it. Empty where none is said.
pub fn take_dictionary(spec: &mut AlgorithmSpec) -> Result<Vec<u8>> {
    let Some(path) = spec.take("dict") else {
        return Ok(Vec::new());
    };
    read_dictionary(Path::new(&path))
        .map_err(|why| Failure::usage(format!("the dictionary {path}: {why}")))
}

/// The algorithm with parameters and dictionary.
pub fn read(mut spec: AlgorithmSpec) -> Result<Choice> {
    let dictionary = take_dictionary(&mut spec)?;
    Ok(with(spec, &dictionary))
}

/// The algorithm with parameters and a dictionary that was read, empty for none.
pub fn with(spec: AlgorithmSpec, dictionary: &[u8]) -> Choice {
    let choice = Choice::from(spec);
    match dictionary.is_empty() {
        true => choice,
        false => choice.dictionary(dictionary.to_vec()),
    }
}
