//! Bodies without a limit: a snapshot that is answered while it is taken, and one that a device is made of while it comes.

use std::fmt;
use std::io::Read;

use hyper::StatusCode;
use serde_json::{Map, Value, json};
use uzram_control::zram::Errno;
use uzram_control::{ControlError, size};

use super::{Answer, Call, Handled, json_of};
use crate::error::Body;
use crate::options::spec_from_options;

/// Bytes that are answered as they come to be.
pub trait ByteStream: Send {
    /// The next of them, which may be waited for; `None` behind the last. After an error what came before is not whole.
    fn next(&mut self) -> Result<Option<Vec<u8>>, ControlError>;
}

/// How a snapshot is taken that is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// Most bytes that may be kept of what is overwritten meanwhile; `None` for the server's default.
    pub kept_max_bytes: Option<u64>,
    /// Whether changes are tracked from then on.
    pub track: bool,
}

/// What a request has behind its head.
pub(crate) enum Brought {
    Whole(hyper::body::Bytes),
    /// Bytes that are read as they come.
    Streamed(Box<dyn Read + Send>),
}

/// Bytes that come to be while they are sent.
pub(crate) struct Streamed {
    pub(crate) first: Vec<u8>,
    pub(crate) rest: Box<dyn ByteStream>,
}

impl fmt::Debug for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.first.len();
        f.debug_struct("Streamed")
            .field("first", &first)
            .finish_non_exhaustive()
    }
}

/// No bytes.
struct Nothing;

impl ByteStream for Nothing {
    fn next(&mut self) -> Result<Option<Vec<u8>>, ControlError> {
        Ok(None)
    }
}

pub(super) fn snapshot(call: &Call<'_>) -> Handled {
    let kept_max_bytes = call.asked("memory").map(|text| {
        let wrong = |error| Body::new(Errno::INVAL, format!("memory: {error}"));
        size::parse(text).map_err(wrong)
    });
    let options = SnapshotOptions {
        kept_max_bytes: kept_max_bytes.transpose()?,
        track: call.switch("track")?,
    };
    let name = call.device()?;
    if call.is_head {
        call.devices.describe(Some(name))?;
        let (first, rest) = (Vec::new(), Box::new(Nothing));
        return Ok(Answer::Streamed(Streamed { first, rest }));
    }
    let mut rest = call.devices.snapshot(name, options)?;
    // What is refused is refused before the answer begins.
    let first = rest.next()?.unwrap_or_default();
    Ok(Answer::Streamed(Streamed { first, rest }))
}

pub(super) fn restore(call: &Call<'_>) -> Handled {
    let mut options: Map<String, Value> = match call.asked("options") {
        None => Map::new(),
        Some(text) => json_of("options", text.as_bytes())?,
    };
    if options.contains_key("from") {
        let message = "options: from: the snapshot is the request's body";
        return Err(Body::new(Errno::INVAL, message));
    }
    // What stands in the place of a file's path until there is a pipe.
    options.insert("from".into(), "/proc/self/fd/0".into());
    let spec = spec_from_options(&options, &["directory"]).map_err(ControlError::from)?;
    let missing = || Body::new(Errno::INVAL, "the request has no body");
    let snapshot = call.streamed.take().ok_or_else(missing)?;
    let created = call.devices.restore(spec, snapshot)?;
    Ok(Answer::Json(StatusCode::CREATED, json!(created)))
}
