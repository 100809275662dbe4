//! The manual has what the program has: every command with every option, every algorithm with every parameter.

mod common;

use common::Bench;
use uzram::compress::Registry;

/// A page without what roff needs, its lines joined.
fn plain(page: &str) -> String {
    let fonts = ["\\fB", "\\fI", "\\fR", "\\&"];
    let text = fonts
        .iter()
        .fold(page.to_owned(), |text, font| text.replace(font, ""));
    text.replace("\\*(Aq", "'").replace('\\', "")
}

/// The first words of the lines below `heading`, up to a blank line.
fn listed(help: &str, heading: &str) -> Vec<String> {
    let (_, below) = help.split_once(heading).expect(heading);
    let lines = below
        .trim_start_matches('\n')
        .lines()
        .take_while(|line| !line.is_empty());
    // Further in are the rest of what did not fit on a line.
    lines
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .map(Into::into)
        .collect()
}

#[test]
fn manual_has_every_algorithm_and_parameter() {
    let page = plain(&Bench::new().uzram(&["man"]));
    let (_, section) = page.split_once(".SH ALGORITHMS\n").unwrap();
    let (section, _) = section.split_once("\n.SH ").unwrap();
    let entries: Vec<_> = section.split(".TP\n").skip(1).collect();
    let registry = Registry::builtin();
    assert_eq!(entries.len(), registry.iter().count(), "{section}");
    for (algorithm, entry) in registry.iter().zip(entries) {
        let (name, driver) = (algorithm.name(), algorithm.driver_name());
        let priority = algorithm.priority();
        let head = format!("{name} (driver {driver}, priority {priority})\n");
        assert!(entry.starts_with(&head), "{entry} instead of {head}");
        assert!(entry.contains(algorithm.summary()), "{entry}");
        for param in algorithm.params() {
            let line = format!("{}: {} ({})\n", param.name, param.doc, param.kind);
            assert!(entry.contains(&line), "{entry} lacks {line}");
        }
    }
}

#[test]
fn manual_has_a_page_for_every_command_with_every_option() {
    let bench = Bench::new();
    let dir = bench.path("man");
    bench.uzram(&["man", dir.to_str().unwrap()]);
    let help = bench.uzram(&["--help"]);
    let mut commands = listed(&help, "\nCommands:");
    if !bench.path("bin/uzram-top").exists() {
        commands.retain(|command| command != "top" && command != "report");
    }
    assert!(commands.len() > 5, "{help}");
    let whole = plain(&std::fs::read_to_string(dir.join("uzram.1")).unwrap());
    for command in &commands {
        assert!(whole.contains(&format!("uzram-{command}(1)")), "{command}");
        let path = dir.join(format!("uzram-{command}.1"));
        let page = plain(&std::fs::read_to_string(&path).unwrap());
        assert!(page.contains(&format!("uzram-{command} - ")), "{page}");
        assert!(page.contains("uzram 0."), "a version: {page}");
        let help = bench.uzram(&[command, "--help"]);
        let (_, options) = help.split_once("\nOptions:\n").unwrap();
        let words = options.split(|c: char| c.is_whitespace() || "=,.[]".contains(c));
        for option in words.filter(|word| word.starts_with("--")) {
            assert!(page.contains(option), "{command}: {option}");
        }
        for example in help.lines().filter(|line| line.starts_with("  uzram ")) {
            assert!(page.contains(example), "{command}: {example}");
        }
    }
    // Commands of commands have pages of their own.
    let mut nested = 0;
    for command in &commands {
        let help = bench.uzram(&[command, "--help"]);
        if !help.contains("\nCommands:") {
            continue;
        }
        for part in listed(&help, "\nCommands:")
            .iter()
            .filter(|part| *part != "help")
        {
            nested += 1;
            let path = dir.join(format!("uzram-{command}-{part}.1"));
            let page = plain(&std::fs::read_to_string(&path).unwrap());
            let help = bench.uzram(&[command, part, "--help"]);
            for example in help.lines().filter(|line| line.starts_with("  uzram ")) {
                assert!(page.contains(example), "{command} {part}: {example}");
            }
        }
    }
    assert!(nested >= 5, "those of bench");
    // Beside those of commands: uzram.1 and uzram-attributes.7.
    let pages = std::fs::read_dir(&dir).unwrap().count();
    assert_eq!(
        pages,
        commands.len() + nested + 2,
        "hidden commands have no page"
    );
    let page = plain(&std::fs::read_to_string(dir.join("uzram-attributes.7")).unwrap());
    for attribute in uzram_control::zram::ATTRIBUTES {
        assert!(
            page.contains(attribute.name) && page.contains(attribute.about),
            "{attribute:?}"
        );
    }
}
