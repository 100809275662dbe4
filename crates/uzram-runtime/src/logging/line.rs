//! What a line of a log may be: fields cut, no control characters, one line for each event.
//!
//! Names and payloads come from clients. None of them makes a line long, and none writes a line of its own or speaks to the
//! terminal on which somebody reads the log.

use std::fmt::{self, Write};

use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

/// Most characters of a message.
const MESSAGE: usize = 1024;
/// Most characters of any other field.
const FIELD: usize = 256;
/// Most bytes of a line.
pub(super) const LINE: usize = 4096;

/// Formats the fields of events and spans as usual, but cut.
pub(super) fn fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    debug_fn(|writer: &mut Writer<'_>, field, value| match field.name() {
        "message" => cut(writer, MESSAGE, format_args!("{value:?}")),
        name => {
            write!(writer, "{name}=")?;
            cut(writer, FIELD, format_args!("{value:?}"))
        }
    })
    .delimited(" ")
}

/// Writes no more than that many characters, and how many there were besides.
pub(super) fn cut(to: &mut dyn Write, limit: usize, what: fmt::Arguments<'_>) -> fmt::Result {
    let mut cut = Cut {
        to,
        left: limit,
        dropped: 0,
    };
    cut.write_fmt(what)?;
    let dropped = cut.dropped;
    match dropped {
        0 => Ok(()),
        n => write!(to, "... ({n} more)"),
    }
}

struct Cut<'a> {
    to: &'a mut dyn Write,
    left: usize,
    dropped: usize,
}

impl Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (at, c) in text.char_indices() {
            if self.left == 0 {
                self.dropped += text[at..].chars().count();
                return Ok(());
            }
            self.left -= 1;
            match is_safe(c) {
                true => self.to.write_char(c)?,
                false => write!(self.to, "{}", c.escape_default())?,
            }
        }
        Ok(())
    }
}

/// Whether a character does nothing but to be seen: no control character, and none that turns the direction of others.
fn is_safe(c: char) -> bool {
    let turns = [
        '\u{200e}'..='\u{200f}',
        '\u{202a}'..='\u{202e}',
        '\u{2066}'..='\u{2069}',
    ];
    !c.is_control() && !turns.iter().any(|range| range.contains(&c))
}

/// A line as it is written, of what arrived as one.
pub(super) fn clean(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut clean = String::with_capacity(text.len().min(LINE));
    let _ = cut(&mut clean, LINE, format_args!("{}", text.trim_end()));
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_cut_and_what_is_no_letter_is_spelled_out() {
        let mut line = String::new();
        let name = "x".repeat(4096);
        cut(&mut line, 8, format_args!("{name}")).unwrap();
        assert_eq!(line, "xxxxxxxx... (4088 more)");
        let evil = "a\nb\x1b[2J\u{202e}\u{e9}";
        assert_eq!(clean(evil.as_bytes()), "a\\nb\\u{1b}[2J\\u{202e}\u{e9}");
        assert_eq!(clean(b"\xff!\n"), "\u{fffd}!");
        assert!(clean(&vec![b'y'; 1 << 20]).len() < LINE + 40);
    }
}
