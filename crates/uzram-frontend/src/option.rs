//! An option of a frontend, described once: the command line, its help, the API's schema and the check of what was given
//! are made of this.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use uzram_spec::{Failure, FrontendSpec, OptionValue, Result, size};

/// An option of a frontend.
pub struct FrontendOption {
    /// Its name, with dashes, as `--NAME` takes it.
    pub name: &'static str,
    /// What its value is called in help; empty for a flag.
    pub value_name: &'static str,
    /// Its values.
    pub kind: OptionKind,
    /// What it does, in a paragraph of help.
    pub help: &'static str,
    /// Whether `--frontend auto` takes this frontend where the option is given.
    pub chooses: bool,
}

/// The values of an option.
#[derive(Clone, Copy)]
pub enum OptionKind {
    /// Given or not.
    Flag,
    /// A whole number in this range, both ends included.
    Integer(u64, u64),
    /// A size in bytes, as a number or a text such as `512K`. Its range is the frontend's affair.
    Size,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A text, with a function that makes paths in it relative to nothing, given the directory that they are relative to, or
    /// says what is wrong with it.
    Text(fn(&str, &Path) -> std::result::Result<String, String>),
    /// One or more texts: the option is given again, or its values are separated by commas, as they are stored. The function
    /// brings one of them into the form in which it is stored, or says what is wrong with it.
    List(fn(&str) -> std::result::Result<String, String>),
}

/// The number of a device's node, for frontends that have numbered nodes.
pub const NUMBER: FrontendOption = FrontendOption {
    name: "number",
    value_name: "N",
    kind: OptionKind::Integer(0, u32::MAX as u64),
    help: "N of /dev/ublkbN, /dev/nbdN or /dev/loopN [default: the lowest that is free]",
    chooses: false,
};

/// Whether the kernel reads the partition table, for frontends whose kernel side can.
pub const PARTSCAN: FrontendOption = FrontendOption {
    name: "partscan",
    value_name: "",
    kind: OptionKind::Flag,
    help: "Have the kernel read the disk's partition table and make nodes such as /dev/loop0p1, whenever a tool like sfdisk tells it to and after the server was replaced. nbd-kernel always does; ublk can for root",
    chooses: false,
};

/// Whether clients may write, for frontends whose protocol can say that they may not.
pub const READ_ONLY: FrontendOption = FrontendOption {
    name: "read-only",
    value_name: "",
    kind: OptionKind::Flag,
    help: "Let clients read and not write. What is to be read comes with --from",
    chooses: false,
};

/// How many requests a queue has in flight, for frontends with a queue for each CPU.
pub const QUEUE_DEPTH: FrontendOption = FrontendOption {
    name: "queue-depth",
    value_name: "N",
    kind: OptionKind::Integer(1, 4096),
    help: "Requests in flight of one queue, 1 to 4096 [default: 128, for swap 32, by FUSE over io_uring 32]",
    chooses: false,
};

/// The default of [`POLL`].
pub const DEFAULT_POLL: Duration = Duration::from_micros(100);

/// How long the server polls for the next request: for frontends that can poll.
pub const POLL: FrontendOption = FrontendOption {
    name: "poll",
    value_name: "MICROSECONDS",
    kind: OptionKind::Integer(0, 1000),
    help: "Longest time to poll for a client's next request before the server sleeps, 0 to 1000 microseconds. It polls \
        only while requests come that soon, and takes most of a CPU meanwhile. 0 never polls [default: 100, for fuse-loop 0]",
    chooses: false,
};

/// The value of [`POLL`].
pub fn poll_time(spec: &FrontendSpec) -> Duration {
    let given = spec.integer(POLL.name).map(Duration::from_micros);
    given.unwrap_or(DEFAULT_POLL)
}

impl FrontendOption {
    /// Reads a value. Paths in it are relative to `directory`.
    pub fn parse(&self, text: &str, directory: &Path) -> std::result::Result<OptionValue, String> {
        match self.kind {
            OptionKind::Flag => Err("it takes no value".into()),
            OptionKind::Integer(least, most) => {
                let number = text.parse().ok();
                let number = number.filter(|number| (least..=most).contains(number));
                let number = number.ok_or_else(|| format!("a whole number from {least} to {most}"));
                number.map(OptionValue::Integer)
            }
            OptionKind::Size => {
                let bytes = size::parse(text).map_err(|error| error.to_string());
                bytes.map(OptionValue::Integer)
            }
            OptionKind::Choice(words) => match words.contains(&text) {
                true => Ok(OptionValue::Text(text.into())),
                false => Err(format!("one of: {}", words.join(", "))),
            },
            OptionKind::Text(read) => read(text, directory).map(OptionValue::Text),
            OptionKind::List(read) => {
                let mut all = Vec::new();
                for item in text.split(',') {
                    let item = read(item.trim())?;
                    if !all.contains(&item) {
                        all.push(item);
                    }
                }
                Ok(OptionValue::Text(all.join(",")))
            }
        }
    }

    /// Checks a value of a description, and brings it into the form in which it is stored. Paths in it are relative to
    /// `directory`.
    pub fn check(&self, value: &OptionValue, directory: &Path) -> Result<OptionValue> {
        let checked = match (value, self.kind) {
            (OptionValue::Flag(true), OptionKind::Flag) => Ok(value.clone()),
            (OptionValue::Flag(_), OptionKind::Flag) => Err("true, or nothing".into()),
            (OptionValue::Flag(_), _) => Err("it takes a value".into()),
            (OptionValue::Integer(number), _) => self.parse(&number.to_string(), directory),
            (OptionValue::Text(text), _) => self.parse(text, directory),
        };
        checked.map_err(|accepted| {
            let given = match value {
                OptionValue::Flag(flag) => flag.to_string(),
                OptionValue::Integer(number) => number.to_string(),
                OptionValue::Text(text) => text.clone(),
            };
            let message = format!("--{} {given} is not possible: {accepted}", self.name);
            Failure::usage(message)
        })
    }

    /// Its JSON schema.
    pub fn schema(&self) -> Value {
        let mut schema = match self.kind {
            OptionKind::Flag => json!({"type": "boolean"}),
            OptionKind::Integer(least, most) => {
                json!({"type": "integer", "minimum": least, "maximum": most})
            }
            OptionKind::Size | OptionKind::List(_) => json!({"type": ["integer", "string"]}),
            OptionKind::Choice(words) => json!({"type": "string", "enum": words}),
            OptionKind::Text(_) => json!({"type": "string"}),
        };
        schema["description"] = self.help.into();
        schema
    }
}

#[cfg(test)]
mod tests {
    use uzram_spec::FailureKind;

    use super::*;

    #[test]
    fn values_are_checked_wherever_they_come_from() {
        let words = FrontendOption {
            name: "buffers",
            value_name: "",
            kind: OptionKind::Choice(&["mapped", "user-copy"]),
            help: "",
            chooses: false,
        };
        let list = FrontendOption {
            kind: OptionKind::List(|item| match item {
                "" => Err("a word".into()),
                _ => Ok(item.to_uppercase()),
            }),
            ..words
        };
        let root = Path::new("/");
        assert_eq!(list.parse("a, b,7,B", root), Ok("A,B,7".into()));
        assert_eq!(list.check(&7_u32.into(), root), Ok("7".into()));
        assert!(list.parse("a,", root).is_err());
        assert_eq!(NUMBER.parse("7", root), Ok(OptionValue::Integer(7)));
        assert!(NUMBER.parse("-1", root).is_err());
        assert_eq!(NUMBER.check(&"7".into(), root), Ok(OptionValue::Integer(7)));
        assert_eq!(words.check(&"mapped".into(), root), Ok("mapped".into()));
        for (option, value) in [
            (&NUMBER, OptionValue::Flag(true)),
            (&NUMBER, OptionValue::Integer(1 << 32)),
            (&words, OptionValue::Text("sideways".into())),
        ] {
            let failure = option.check(&value, root).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Usage);
            assert!(failure.message.contains(option.name), "{failure}");
        }
    }
}
