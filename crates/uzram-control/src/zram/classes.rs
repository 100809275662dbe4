//! Formats the table of size classes, in the columns of zsmalloc's `classes` in debugfs.
//!
//! What a column means for our spans:
//! - `10%` to `100%` count spans of 1 MiB by the share of their objects in use.
//! - `obj_allocated` is how many objects the memory in use could hold, `obj_used` how many it does.
//! - `pages_used` counts pages in use: a span may use only some of its pages.
//! - `pages_per_zspage` is the number of pages of a full span.
//! - `freeable` is the number of pages that compaction could give back at most.

use std::fmt::Write;

use uzram::ClassStats;

const GROUPS: [&str; 11] = [
    "10%", "20%", "30%", "40%", "50%", "60%", "70%", "80%", "90%", "99%", "100%",
];

/// The table, a line of sums at its end.
pub(crate) fn table(classes: &[ClassStats]) -> String {
    let mut text = format!(" {:>5} {:>5} ", "class", "size");
    for group in GROUPS {
        let _ = write!(text, "{group:>9} ");
    }
    let columns = [
        "obj_allocated",
        "obj_used",
        "pages_used",
        "pages_per_zspage",
        "freeable",
    ];
    let _ = writeln!(
        text,
        "{:>13} {:>10} {:>10} {:>16} {:>8}",
        columns[0], columns[1], columns[2], columns[3], columns[4]
    );
    for class in classes {
        let names = format!(" {:5} {:5} ", class.class, class.size_bytes);
        let rest = class.pages_per_span.to_string();
        row(&mut text, &names, &[class], &rest);
    }
    text.push('\n');
    let all: Vec<&ClassStats> = classes.iter().collect();
    row(&mut text, &format!(" {:>5} {:>5} ", "Total", ""), &all, "");
    text
}

fn row(text: &mut String, names: &str, classes: &[&ClassStats], per_span: &str) {
    let sum = |pick: &dyn Fn(&ClassStats) -> u64| classes.iter().map(|c| pick(c)).sum::<u64>();
    text.push_str(names);
    for group in 0..GROUPS.len() {
        let spans = sum(&|class| class.spans.get(group).copied().unwrap_or_default());
        let _ = write!(text, "{spans:9} ");
    }
    let _ = writeln!(
        text,
        "{:13} {:10} {:10} {per_span:>16} {:8}",
        sum(&|class| class.objects_allocated),
        sum(&|class| class.objects_used),
        sum(&|class| class.pages_used),
        sum(&|class| class.pages_freeable),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_zsmallocs_columns() {
        let class = |class, size_bytes, spans_full| ClassStats {
            class,
            size_bytes,
            spans: [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, spans_full],
            objects_allocated: 300,
            objects_used: 256,
            pages_used: 75,
            pages_per_span: 256,
            pages_freeable: 9,
        };
        let text = table(&[class(3, 40, 0), class(301, 4096, 2)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0].split_whitespace().collect::<Vec<_>>().join(" "),
            "class size 10% 20% 30% 40% 50% 60% 70% 80% 90% 99% 100% obj_allocated obj_used pages_used \
             pages_per_zspage freeable"
        );
        assert!(
            lines[1].ends_with("          300        256         75              256        9")
        );
        let total: Vec<&str> = lines[4].split_whitespace().collect();
        assert_eq!(
            total,
            "Total 2 0 0 0 0 0 0 0 0 0 2 600 512 150 18"
                .split(' ')
                .collect::<Vec<_>>()
        );
        // Every line is as wide as the head: columns stand below their names.
        assert!(
            lines
                .iter()
                .filter(|line| !line.is_empty())
                .all(|line| line.len() == lines[0].len())
        );
    }
}
