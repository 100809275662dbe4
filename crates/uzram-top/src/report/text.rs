//! The report as text for a terminal: what the page says, without its pictures.

use super::figures::{Report, Table};

/// All of it. Its lines may be longer than a terminal's.
pub(super) fn text(report: &Report) -> String {
    let mut out = format!("{}\n{}\n\n", report.title, report.about);
    for (name, value) in report.tiles.iter().chain(&report.facts) {
        out += &line(&format!("{name:20} {value}"));
    }
    for section in &report.sections {
        out += &format!("\n{}\n", section.title);
        for note in &section.notes {
            for part in wrapped(note, 78) {
                out += &line(&format!("  {part}"));
            }
        }
        if let Some(table) = &section.table {
            out += &columns(table);
        }
    }
    out
}

fn line(text: &str) -> String {
    text.trim_end().to_owned() + "\n"
}

/// Words in lines of at most so many characters, where they have room.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        let longer = lines[last].chars().count() + 1 + word.chars().count();
        match (lines[last].is_empty(), longer > width) {
            (true, _) => lines[last] += word,
            (false, false) => lines[last] += &format!(" {word}"),
            (false, true) => lines.push(word.into()),
        }
    }
    lines
}

fn columns(table: &Table) -> String {
    let all = || std::iter::once(&table.head).chain(&table.rows);
    let width = |column: usize| {
        let cells = all().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..table.head.len()).map(width).collect();
    let row = |cells: &Vec<String>| {
        let cell = |(at, text): (usize, &String)| match at == 0 || table.is_text(at) {
            true => format!("{text:0$}", widths[at]),
            false => format!("{text:>0$}", widths[at]),
        };
        let cells: Vec<String> = cells.iter().enumerate().map(cell).collect();
        line(&format!("  {}", cells.join("  ")))
    };
    all().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kept_whole() {
        assert_eq!(wrapped("a bb ccc", 4), ["a bb", "ccc"]);
        assert_eq!(wrapped("abcdef", 3), ["abcdef"]);
        assert_eq!(wrapped("", 3), [""]);
    }
}
