//! Algorithms as a command line has them: `zstd(level=1,dict=FILE,priority=2)`. What is not the algorithm's own is taken
//! out here: the dictionary is read, by whoever was given its name, and travels as bytes from then on.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use uzram::Choice;
use uzram::compress::AlgorithmSpec;

use uzram_spec::{Failure, Result};

/// The longest dictionary that any algorithm takes.
const MAX_DICTIONARY: usize = 1 << 20;

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
    let refused = |why: String| Failure::usage(format!("the dictionary {path}: {why}"));
    let bytes = read_file(&path).map_err(|error| refused(error.to_string()))?;
    match bytes.len() {
        0 => Err(refused("it is empty".into())),
        1..=MAX_DICTIONARY => Ok(bytes),
        _ => Err(refused(format!(
            "it has more than {MAX_DICTIONARY} bytes, the most that any algorithm takes"
        ))),
    }
}

/// A regular file (a pipe or device may never end), as far as it can be a dictionary and a byte more.
fn read_file(path: &str) -> std::io::Result<Vec<u8>> {
    let mut options = File::options();
    let no_waiting = OFlags::NONBLOCK | OFlags::NOCTTY;
    options.read(true).custom_flags(no_waiting.bits() as i32);
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_DICTIONARY as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
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
