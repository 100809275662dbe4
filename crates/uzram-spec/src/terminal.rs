//! Texts of others made fit for a terminal. A name, a failure or a URI may come from another process, from a file or from
//! the name of a program: whatever prints one escapes it here, so that it is seen and not obeyed.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a terminal obeys a character, or shows what follows in another order or place.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}'
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(
    text: &str,
    is_kept: fn(char) -> bool,
    write: fn(&mut String, char) -> std::fmt::Result,
) -> Cow<'_, str> {
    let is_harmful = |c: char| is_obeyed(c) && !is_kept(c);
    if !text.contains(is_harmful) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_harmful(c) {
            // Writing to a string cannot fail.
            let _ = write(&mut out, c);
        } else {
            out.push(c);
        }
    }
    out.into()
}

/// A text of several lines: tabs and ends of lines stay, any other control character becomes `\u{1b}` and its like.
pub fn printable(text: &str) -> Cow<'_, str> {
    let write = |out: &mut String, c: char| write!(out, "{}", c.escape_default());
    escaped(text, |c| c == '\n' || c == '\t', write)
}

/// A text that stands in a line of its own or in a column: it ends no line.
pub fn printable_line(text: &str) -> Cow<'_, str> {
    let write = |out: &mut String, c: char| write!(out, "{}", c.escape_default());
    escaped(text, |_| false, write)
}

/// JSON, in which such characters are written as JSON has them: `\u001b`. Between its values lines end as they do.
pub fn printable_json(text: &str) -> Cow<'_, str> {
    let write = |out: &mut String, c: char| write!(out, "\\u{:04x}", u32::from(c));
    escaped(text, |c| c == '\n' || c == '\t', write)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_shown_instead() {
        let evil = "zram0\u{1b}[2J\u{9b}31m\u{7}\u{202e}\r\nok\tend";
        assert_eq!(
            printable(evil),
            "zram0\\u{1b}[2J\\u{9b}31m\\u{7}\\u{202e}\\r\nok\tend"
        );
        assert!(printable_line(evil).ends_with("\\r\\nok\\tend"));
        let json = serde_json::to_string(evil).unwrap();
        let safe = printable_json(&json);
        assert!(safe.is_ascii(), "{safe}");
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), evil);
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        for text in ["", "/dev/loop0", "naïve Größe 日本 \u{1f4be}"] {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text));
            assert_eq!(printable_line(text), text);
        }
    }
}
