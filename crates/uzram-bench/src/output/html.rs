//! The page: facts about the machine, pictures, tables. No script, no font, nothing that is fetched.

use std::fmt::Write;

use anyhow::Result;

use super::{Outcome, Table};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1000px;padding:0 1em;color:#222}\
    table{border-collapse:collapse;margin:0 0 2em}td,th{padding:.15em .8em;text-align:right;border-bottom:1px solid #ddd}\
    td:first-child,th:first-child{text-align:left}th{background:#f4f4f4}svg{max-width:100%;height:auto}\
    figure{margin:1em 0}dt{float:left;clear:left;width:9em;color:#666}dd{margin-left:9em}";

pub(super) fn page(outcome: &dyn Outcome) -> Result<String> {
    let report = outcome.report();
    let title = escape(&report.benchmark);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<title>uzram {title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>uzram {title}</h1>\n<dl>\n"
    );
    let facts = [
        ("measured on", &report.corpus),
        ("machine", &report.machine),
        ("kernel", &report.kernel),
        ("commit", &report.commit),
        ("compiler", &report.compiler),
    ];
    let facts = facts.map(|(name, value)| (name, value.clone()));
    for (name, value) in facts.into_iter().chain(outcome.facts()) {
        writeln!(page, "<dt>{name}</dt><dd>{}</dd>", escape(&value))?;
    }
    page += "</dl>\n";
    for note in outcome.notes() {
        writeln!(page, "<p>{}</p>", escape(&note))?;
    }
    for chart in outcome.charts().iter().filter(|chart| !chart.is_empty()) {
        writeln!(page, "<figure>\n{}</figure>", chart.svg()?)?;
    }
    let tables = outcome.tables().into_iter().chain([report.table()]);
    for table in tables.filter(|table| !table.rows.is_empty()) {
        add(&mut page, &table)?;
    }
    page += "</body>\n</html>\n";
    Ok(page)
}

fn add(page: &mut String, table: &Table) -> Result<()> {
    writeln!(page, "<h2>{}</h2>\n<table>", escape(&table.caption))?;
    let line = |tag: &str, cells: &[String]| {
        let cells = cells
            .iter()
            .map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)));
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    *page += &line("th", &table.head);
    for row in &table.rows {
        *page += &line("td", row);
    }
    *page += "</table>\n";
    Ok(())
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}
