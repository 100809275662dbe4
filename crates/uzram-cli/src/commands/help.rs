//! `uzram help`: a command's help, or an attribute's.

use uzram_control::zram::{ATTRIBUTES, Attribute, AttributePlace};

use super::{companion, print};
use crate::exit::{Failure, Result};

/// Explain a command, or an attribute of zram's interface
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram help create
  uzram help recompress            the command
  uzram help attribute recompress  the attribute
  uzram help attributes            all of them")]
pub(crate) struct Args {
    /// A command; an attribute; "attributes"
    #[arg(value_name = "TOPIC")]
    topic: Vec<String>,
}

impl Args {
    pub(crate) fn run(self, mut program: clap::Command) -> Result {
        let topic: Vec<&str> = self.topic.iter().map(String::as_str).collect();
        match topic.as_slice() {
            [] => print(&program.render_long_help().to_string()),
            ["attributes"] => print(&table()),
            ["attribute", name] => attribute(name),
            [name] if companion::serves(name) => companion::help(name),
            [name] => {
                program.build();
                match program.find_subcommand_mut(name) {
                    Some(command) => {
                        let mut text = command.render_long_help().to_string();
                        if ATTRIBUTES.iter().any(|attribute| attribute.name == *name) {
                            text += &format!(
                                "\n\"uzram help attribute {name}\" explains the attribute of zram's interface.\n"
                            );
                        }
                        print(&text)
                    }
                    None => attribute(name),
                }
            }
            words => Err(unknown(&words.join(" "))),
        }
    }
}

/// What stands in debugfs and is no attribute.
const DEBUG: &[(&str, &str)] = &[
    (
        "block_state",
        "/sys/kernel/debug/zram/zramN/block_state\n\nA line for each page that holds anything: its number, when it was last used (seconds since the start of the\nmachine; 0 where ages are not kept), and flags: s same-filled, w written back, h huge, i idle, r recompressed,\nn incompressible. EINVAL while the device is not initialised.",
    ),
    (
        "classes",
        "/sys/kernel/debug/zsmalloc/zramN/classes\n\nThe size classes of the device's pool in zsmalloc's columns; pages_per_zspage are those of a span of 1 MiB.",
    ),
];

fn attribute(name: &str) -> Result {
    if let Some((_, text)) = DEBUG.iter().find(|(view, _)| *view == name) {
        return print(&format!("{text}\n"));
    }
    let found = ATTRIBUTES.iter().filter(|attribute| attribute.name == name);
    let found: Vec<String> = found.map(describe).collect();
    match found.is_empty() {
        true => Err(unknown(name)),
        false => print(&found.join("\n")),
    }
}

fn unknown(name: &str) -> Failure {
    let message = format!(
        "no command and no attribute '{name}' (see \"uzram --help\" and \"uzram help attributes\")"
    );
    Failure::usage(message)
}

fn describe(attribute: &Attribute) -> String {
    let unit = match attribute.unit {
        "" => String::new(),
        unit => format!("In {unit}. "),
    };
    let place = match attribute.place {
        AttributePlace::Control => "/sys/class/zram-control",
        AttributePlace::Device => "/sys/block/zramN",
    };
    let Attribute {
        name,
        mode,
        since,
        about,
        docs,
        ..
    } = attribute;
    let (allowed, docs) = (attribute.allowed(), docs.trim_end());
    format!(
        "{place}/{name}  mode {mode:04o}, Linux {since}\n{about}\n\n{unit}Written: {allowed}.\n\n{docs}\n"
    )
}

fn table() -> String {
    let line = |a: &Attribute| format!("{:24} {:04o}  {}\n", a.name, a.mode, a.about);
    ATTRIBUTES.iter().map(line).collect()
}
