//! Algorithms as a command line has them: `zstd(level=1,dict=FILE,priority=2)`. What is not the algorithm's own is taken
//! out here: the dictionary is read, by whoever was given its name, and travels as bytes from then on.

use uzram::Choice;
use uzram::compress::AlgorithmSpec;

use crate::exit::{Failure, Kind, Result};

/// Takes the priority out, if one is said.
pub(crate) fn take_priority(spec: &mut AlgorithmSpec) -> Result<Option<usize>> {
    let Some(text) = spec.take("priority") else {
        return Ok(None);
    };
    match text.parse() {
        Ok(priority @ 1..uzram::PRIORITIES) => Ok(Some(priority)),
        _ => {
            let message = format!("priority={text} is not possible: it takes 1 to 3");
            Err(Failure::new(Kind::Usage, message))
        }
    }
}

/// Takes the dictionary's file out and reads it. Empty where none is said.
pub(crate) fn take_dictionary(spec: &mut AlgorithmSpec) -> Result<Vec<u8>> {
    let Some(path) = spec.take("dict") else {
        return Ok(Vec::new());
    };
    let refused = |why: String| Failure::new(Kind::Usage, format!("the dictionary {path}: {why}"));
    let bytes = std::fs::read(&path).map_err(|error| refused(error.to_string()))?;
    match bytes.is_empty() {
        true => Err(refused("it is empty".into())),
        false => Ok(bytes),
    }
}

/// The algorithm with parameters and dictionary.
pub(crate) fn read(mut spec: AlgorithmSpec) -> Result<Choice> {
    let dictionary = take_dictionary(&mut spec)?;
    let choice = Choice::from(spec);
    Ok(match dictionary.is_empty() {
        true => choice,
        false => choice.dictionary(dictionary),
    })
}
