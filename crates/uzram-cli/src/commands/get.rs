//! `uzram get`: attributes as the kernel's zram shows them.

use uzram_control::zram::{ATTRIBUTES, Attribute, AttributeOwner, AttributePlace};

use super::view::{failed, id, view};
use super::{print, print_json};
use crate::exit::{Failure, Result};

/// Print attributes of a device as the kernel's zram shows them
///
/// To the byte as in /sys/block/zramN; all of them with their names. "uzram help ATTRIBUTE" says what each means.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram get zram0
  uzram get zram0 mm_stat
  uzram get zram0 --json")]
pub(crate) struct Args {
    /// The device: its name, its path or its URI
    name: String,
    /// The attributes [default: all that can be read, with their names]
    #[arg(value_name = "ATTRIBUTE")]
    attributes: Vec<String>,
    /// Print one JSON object
    #[arg(long, short = 'J')]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let view = view()?;
        let id = id(&*view, &self.name)?;
        let all = self.attributes.is_empty();
        let names: Vec<String> = match all {
            true => readable().map(|a| a.name.to_owned()).collect(),
            false => self.attributes,
        };
        let mut shown = serde_json::Map::new();
        let mut text = String::new();
        for name in names {
            if Attribute::find(AttributePlace::Device, &name).is_none() {
                let known: Vec<_> = readable().map(|a| a.name).collect();
                let message = format!("no attribute '{name}' (there are: {})", known.join(", "));
                return Err(Failure::usage(message));
            }
            let value = view.show(AttributeOwner::Device(id), &name);
            let value = value.map_err(|errno| failed(&format!("zram{id}: {name}"), errno))?;
            let value = String::from_utf8_lossy(&value).into_owned();
            if all {
                // Values of several lines stand below their name.
                let lines = value.trim_end_matches('\n').replace('\n', "\n    ");
                text += &format!("{name}: {lines}\n");
            } else {
                text += &value;
            }
            shown.insert(name, value.into());
        }
        match self.json {
            true => print_json(&shown.into()),
            false => print(&text),
        }
    }
}

fn readable() -> impl Iterator<Item = &'static Attribute> {
    ATTRIBUTES
        .iter()
        .filter(|a| a.place == AttributePlace::Device && a.mode & 0o400 != 0)
}
