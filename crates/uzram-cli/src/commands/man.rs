//! `uzram man`: the program's manual pages, from what its help is made of and from the registry of algorithms.
//!
//! A command of the program and not a file in the tree, so that a page cannot say what this build does not do. Packagers
//! call it. Commands that another program serves have their pages from that one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use uzram::compress::{Algorithm, Registry};
use uzram_control::zram::{ATTRIBUTES, AttributePlace};
use uzram_manual::roff::{Roff, bold, roman};

use super::{companion, print};
use crate::exit::{Failure, Result};

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
        let own = uzram_manual::page(&program, &program, |roff| {
            algorithms(roff, uzram_control::zram::algorithms());
        })?;
        let Some(dir) = self.dir else {
            return print(&own);
        };
        write(&dir, &program, &own)
            .map_err(|error| Failure::failed(format!("{}: {error}", dir.display())))?;
        companion::man(&dir)
    }
}

fn write(dir: &Path, program: &clap::Command, own: &str) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join("uzram.1"), own)?;
    for command in uzram_manual::commands(program) {
        if !companion::serves(command.get_name()) {
            uzram_manual::write(dir, program, command)?;
        }
    }
    fs::write(dir.join("uzram-attributes.7"), attributes()?)
}

/// The page of zram's interface, from the registry of its attributes.
fn attributes() -> io::Result<String> {
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
    String::from_utf8(out).map_err(io::Error::other)
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
