//! `uzram man`: the program's manual pages, from what its help is made of and from the registry of algorithms.
//!
//! A command of the program and not a file in the tree, so that a page cannot say what this build does not do. Hidden,
//! because packagers call it and nobody else.

use std::fs;
use std::path::PathBuf;

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use uzram::compress::{Algorithm, Registry};
use uzram_control::zram::{ATTRIBUTES, AttributePlace};

use super::print;
use crate::exit::{Failure, Kind, Result};

/// Write the manual pages
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory to write uzram.1 and a page for each command to; without it, uzram.1 is printed
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(self, program: clap::Command) -> Result {
        let mut program = program.disable_help_subcommand(true);
        program.build();
        let Some(dir) = self.dir else {
            return print(&page(&program, &program)?);
        };
        let failed = |path: &PathBuf, error| {
            Failure::new(Kind::Failed, format!("{}: {error}", path.display()))
        };
        fs::create_dir_all(&dir).map_err(|error| failed(&dir, error))?;
        for command in std::iter::once(&program).chain(commands(&program)) {
            let path = dir.join(name(command) + ".1");
            fs::write(&path, page(&program, command)?).map_err(|error| failed(&path, error))?;
        }
        let path = dir.join("uzram-attributes.7");
        fs::write(&path, attributes()?).map_err(|error| failed(&path, error))
    }
}

/// The page of zram's interface, from the registry of its attributes.
fn attributes() -> Result<String> {
    let mut roff = Roff::new();
    roff.control("TH", ["uzram-attributes", "7"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("uzram-attributes - zram's interface as uzram has it")]);
    for (place, title) in [
        (AttributePlace::Control, "/sys/class/zram-control"),
        (AttributePlace::Device, "/sys/block/zramN"),
    ] {
        roff.control("SH", [title]);
        for attribute in ATTRIBUTES.iter().filter(|a| a.place == place) {
            let rights = format!(" ({:04o}, Linux {})", attribute.mode, attribute.since);
            roff.control("TP", []);
            roff.text([bold(attribute.name), roman(rights)]);
            roff.text([roman(attribute.about)]);
            roff.control("br", []);
            roff.text([roman(format!("Written: {}.", attribute.allowed()))]);
            for paragraph in attribute.docs.split("\n\n") {
                roff.control("br", []);
                roff.text([roman(paragraph.replace('\n', " "))]);
            }
        }
    }
    let mut out = Vec::new();
    roff.to_writer(&mut out)?;
    String::from_utf8(out).map_err(|error| Failure::new(Kind::Failed, error))
}

/// The commands that users are told of, each before its own commands.
fn commands(program: &clap::Command) -> Vec<&clap::Command> {
    let shown = program.get_subcommands();
    let shown = shown.filter(|command| !command.is_hide_set());
    shown
        .flat_map(|command| std::iter::once(command).chain(commands(command)))
        .collect()
}

/// `uzram` or `uzram-COMMAND`.
fn name(command: &clap::Command) -> String {
    let display = command.get_display_name();
    display.unwrap_or_else(|| command.get_name()).into()
}

/// The page of the program or of one of its commands.
fn page(program: &clap::Command, command: &clap::Command) -> Result<String> {
    let whole = name(program) == name(command);
    let version = program.get_version().unwrap_or_default();
    let man = Man::new(command.clone()).source(format!("uzram {version}"));
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    let mut roff = Roff::new();
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    if whole {
        algorithms(&mut roff, uzram_control::zram::algorithms());
    }
    let after = command
        .get_after_long_help()
        .or_else(|| command.get_after_help());
    if let Some(text) = after {
        notes(&mut roff, &text.to_string());
    }
    see_also(&mut roff, program, command);
    roff.to_writer(&mut out)?;
    String::from_utf8(out).map_err(|error| Failure::new(Kind::Failed, error))
}

/// Every driver with what it takes.
fn algorithms(roff: &mut Roff, registry: &Registry) {
    roff.control("SH", ["ALGORITHMS"]);
    roff.text([roman(
        "A name selects its driver of highest priority, a driver's name exactly that one. This build has:",
    )]);
    for algorithm in registry.iter() {
        algorithm_entry(roff, &**algorithm);
    }
}

fn algorithm_entry(roff: &mut Roff, algorithm: &dyn Algorithm) {
    let driver = format!(
        " (driver {}, priority {})",
        algorithm.driver_name(),
        algorithm.priority()
    );
    roff.control("TP", []);
    roff.text([bold(algorithm.name()), roman(driver)]);
    roff.text([roman(algorithm.summary())]);
    for param in algorithm.params() {
        let text = format!(": {} ({})", param.doc, param.kind);
        roff.control("br", []);
        roff.text([bold(param.name), roman(text)]);
    }
}

/// What stands below the options in the help: blocks with a blank line between them, of which one that begins with a
/// line such as `Examples:` is a section of its own. Indented lines are kept as they are.
fn notes(roff: &mut Roff, text: &str) {
    for block in text.split("\n\n") {
        let mut lines = block.lines().peekable();
        let title = lines.next_if(|line| !line.starts_with(' ') && line.ends_with(':'));
        match title {
            Some(title) => {
                roff.control("SH", [title.trim_end_matches(':').to_uppercase().as_str()])
            }
            None if block.starts_with("Exit codes: ") => roff.control("SH", ["EXIT STATUS"]),
            None => roff.control("PP", []),
        };
        let mut filled = true;
        for line in lines {
            if filled == line.starts_with(' ') {
                filled = !filled;
                roff.control(if filled { "fi" } else { "nf" }, []);
            }
            roff.text([roman(line.trim_start_matches("Exit codes: "))]);
        }
        if !filled {
            roff.control("fi", []);
        }
    }
}

fn see_also(roff: &mut Roff, program: &clap::Command, command: &clap::Command) {
    roff.control("SH", ["SEE ALSO"]);
    let pages = std::iter::once(program).chain(commands(program));
    let mut others = pages
        .map(name)
        .filter(|other| *other != name(command))
        .peekable();
    while let Some(other) = others.next() {
        let end = if others.peek().is_some() {
            "(1),"
        } else {
            "(1)"
        };
        roff.text([bold(other), roman(end)]);
    }
}
