//! The report as one page: no script, no font, nothing that is fetched. A policy in its head forbids the browser to ask the network
//! for anything, whatever may stand in a device's names.

use std::fmt::Write;

use uzram_palette::{Colour, Look};
use uzram_spec::printable;

use super::figures::{Report, Section, Table};

/// A table with more rows is folded below its chart.
const MOST_ROWS: usize = 10;

/// What a page is known by, so that a report may take the place of a former one.
pub(super) const GENERATOR: &str = "<meta name=\"generator\" content=\"uzram report\">";

/// Colours of text, ground and lines in light and dark stand first; those of series come from the palette.
const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1120px;padding:1em;background:var(--ground);color:var(--text)}\
h1{font-size:1.6em;margin:.3em 0}h2{font-size:1.15em;margin:0 0 .4em}p{margin:.4em 0}.about{color:var(--pale)}\
.tiles{display:flex;flex-wrap:wrap;gap:.8em;margin:1em 0}.tiles div{background:var(--card);border:1px solid var(--line);\
border-radius:6px;padding:.5em 1em;flex:1 1 7em}.tiles b{display:block;font-size:1.35em}.tiles span{color:var(--pale)}\
main{columns:2 30em;column-gap:1em}\
section{break-inside:avoid;margin:0 0 1em;background:var(--card);border:1px solid var(--line);border-radius:6px;padding:1em;min-width:0}\
.wide{column-span:all;margin-top:1em}summary{color:var(--pale);cursor:pointer}svg{display:block;width:100%;height:auto;max-width:560px;margin:.6em auto;font:12px system-ui,sans-serif}\
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.9em;width:100%}\
td,th{padding:.15em .6em;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}\
td:first-child,th:first-child{text-align:left;padding-left:0}td.t,th.t{text-align:left}th{color:var(--pale);font-weight:600}\
td{font-variant-numeric:tabular-nums}td:not(.t,:first-child){white-space:nowrap}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1em 1em;margin:.6em 0}dt{color:var(--pale)}\
dd{margin:0;overflow-wrap:anywhere}\
text{fill:var(--text)}.n,.a{fill:var(--pale)}.e{text-anchor:end}.c{text-anchor:middle}.g{stroke:var(--line);fill:none}\
.l{fill:none;stroke:var(--s);stroke-width:2;stroke-linejoin:round}.m,.b{fill:var(--s);stroke:var(--s)}\
.h,.o{fill:var(--card);stroke:var(--s);stroke-width:2}.k{fill:none;stroke:var(--s);stroke-width:2}\
.w{fill:none;stroke:var(--text);stroke-width:1.5}footer{color:var(--pale);margin:1em 0}";

const LIGHT: &str = "--ground:#f6f7f8;--card:#fff;--text:#1f2328;--pale:#59636e;--line:#d5dae0";
const DARK: &str = "--ground:#14171a;--card:#202328;--text:#e6e8eb;--pale:#a2abb5;--line:#3a4048";

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let title = escape(&report.title);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n{GENERATOR}\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>{}</style>\n</head>\n<body>\n\
         <h1>{title}</h1>\n<p class=\"about\">{}</p>\n<div class=\"tiles\">\n",
        style(report),
        escape(&report.about)
    );
    for (name, value) in &report.tiles {
        let (name, value) = (escape(name), escape(value));
        let _ = writeln!(page, "<div><b>{value}</b><span>{name}</span></div>");
    }
    page += "</div>\n<main>\n<section>\n<h2>Device</h2>\n<dl>\n";
    for (name, value) in &report.facts {
        let _ = writeln!(page, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
    }
    page += "</dl>\n</section>\n";
    for section in &report.sections {
        add(&mut page, section);
    }
    let _ = write!(
        page,
        "</main>\n<footer>uzram {}. K, M and G are powers of 1024; a page has 4096 bytes.</footer>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
    page
}

fn add(page: &mut String, section: &Section) {
    let wide = section
        .table
        .as_ref()
        .is_some_and(|table| table.head.len() > 6 || table.is_text(3));
    let class = if wide { " class=\"wide\"" } else { "" };
    let _ = writeln!(page, "<section{class}>\n<h2>{}</h2>", escape(section.title));
    for note in &section.notes {
        let _ = writeln!(page, "<p>{}</p>", escape(note));
    }
    if let Some(chart) = &section.chart {
        *page += &chart.svg();
    }
    match &section.table {
        Some(table) if table.rows.len() > MOST_ROWS && section.chart.is_some() => {
            *page += "<details><summary>Table</summary>\n";
            add_table(page, table);
            *page += "</details>\n";
        }
        Some(table) => add_table(page, table),
        None => {}
    }
    *page += "</section>\n";
}

fn add_table(page: &mut String, table: &Table) {
    *page += "<div class=\"scroll\"><table>\n";
    let line = |tag: &str, cells: &[String]| {
        let cell = |(at, text): (usize, &String)| {
            let class = if table.is_text(at) {
                " class=\"t\""
            } else {
                ""
            };
            format!("<{tag}{class}>{}</{tag}>", escape(text))
        };
        format!(
            "<tr>{}</tr>\n",
            cells.iter().enumerate().map(cell).collect::<String>()
        )
    };
    *page += &line("th", &table.head);
    for row in &table.rows {
        *page += &line("td", row);
    }
    *page += "</table></div>\n";
}

/// The style sheet, with the colours of the series that there are.
fn style(report: &Report) -> String {
    let charts = report
        .sections
        .iter()
        .filter_map(|section| section.chart.as_ref());
    let mut groups: Vec<usize> = charts
        .flat_map(|chart| chart.styles())
        .map(|style| style.group)
        .collect();
    groups.sort_unstable();
    groups.dedup();
    let colours = |of: fn(Look) -> Colour| {
        let rule = |group: &usize| {
            let [red, green, blue] = of(Look::new(*group, 0));
            format!(".s{group}{{--s:#{red:02x}{green:02x}{blue:02x}}}")
        };
        groups.iter().map(rule).collect::<String>()
    };
    format!(
        ":root{{{LIGHT}}}{}@media(prefers-color-scheme:dark){{:root{{{DARK}}}{}}}{STYLE}",
        colours(Look::colour),
        colours(Look::colour_on_dark)
    )
}

/// Text as HTML has it, with nothing in it that a terminal obeys either.
pub(super) fn escape(text: &str) -> String {
    let text = printable(text);
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let text = text.replace('>', "&gt;").replace('"', "&quot;");
    text.replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_markup() {
        assert_eq!(
            escape("<a href=\"x\" b='y'>&"),
            "&lt;a href=&quot;x&quot; b=&#39;y&#39;&gt;&amp;"
        );
        assert!(!escape("\x1b[2J").contains('\x1b'));
    }
}
