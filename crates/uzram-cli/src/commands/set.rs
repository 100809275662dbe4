//! `uzram set`: changes settings of a device that is in use.

use uzram_control::Response;
use uzram_control::zram::AttributeOwner;
use uzram_runtime::settings::{Allowed, Change, Setting};
use uzram_runtime::sweep;

use super::ask;
use super::remote::known_backing;
use super::view::{failed, id, view};
use crate::exit::{self, Result};

/// Change settings of a device that is in use
///
/// What is written from now on is compressed with the new algorithm; what is stored stays as it is until it is written
/// again. Settings outlive the server and upgrades.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram set zram0 algorithm='zstd(level=1)'
  uzram set zram0 'algorithm=zstd(level=-1,dict=heap.dict)' mem_limit=512M
  uzram set zram0 recomp_algorithm='zstd(level=9,priority=2)'
  uzram set zram0 recomp_algorithm=none
  uzram set zram0 backing=/var/tmp/zram0.store,4G writeback_limit=100000
  uzram set zram0 disksize=16G
  uzram set zram0 policy=auto,cpu=20")]
pub(crate) struct Args {
    /// The device: its name, its path or its URI
    name: String,
    /// KEY=VALUE: algorithm=ALGORITHM, as for "uzram create"; recomp_algorithm=ALGORITHM for recompression, with
    /// priority=1 (the default) to 3 among the parameters, "none" to remove it; mem_limit=SIZE or total:SIZE, 0 for none; disksize=SIZE, both also as 50% of the memory;
    /// backing=FILE[,SIZE] (a file is made if it is not there), backing=DEVICE (what is on it is lost) or backing=NAME/PREFIX[,SIZE]
    /// of a remote, "none" to bring all back and give it up;
    /// writeback_limit=PAGES, "none" for none; track_ages=on or off; policy=POLICY, train=auto or off, dedup=on or off
    /// and erase=on-free or off, as for "uzram create"
    #[arg(required = true, value_name = "SETTING", value_parser = setting)]
    settings: Vec<Setting>,
    /// Make the disk smaller although it is in use: whoever uses it loses what lies beyond the new end
    #[arg(long)]
    force: bool,
    /// Allow a backing or a dictionary that another user owns or may write to, who can then read or change what the device
    /// holds
    #[arg(long)]
    allow_foreign_files: bool,
}

/// KEY=VALUE.
fn setting(text: &str) -> std::result::Result<Setting, String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("give KEY=VALUE, such as mem_limit=512M")?;
    let here = std::env::current_dir().map_err(|error| error.to_string())?;
    Setting::parse(key, value, Some(&here))
}

impl Args {
    pub(crate) fn run(self) -> Result {
        // All files are read before anything is changed.
        let allowed = Allowed {
            force: self.force,
            foreign_files: self.allow_foreign_files,
        };
        let changes = self.settings.into_iter().map(|setting| match setting {
            Setting::Backing(Some(backing)) => {
                Setting::Backing(Some(known_backing(backing)?)).change(allowed)
            }
            other => other.change(allowed),
        });
        let changes: Result<Vec<Change>> = changes.collect();
        for (done, change) in changes?.iter().enumerate() {
            take(&self.name, change).map_err(|failure| match done {
                0 => failure,
                _ => failure.with_note("the settings before it were made"),
            })?;
        }
        Ok(())
    }
}

fn take(name: &str, change: &Change) -> Result {
    match change {
        Change::Request(request) => {
            let entry = sweep::swept_run_dir()?.find(name)?;
            if let Response::Did { what } = ask(&entry, request)? {
                what.iter().for_each(exit::tell);
            }
            Ok(())
        }
        Change::Attribute(attribute, value) => {
            let view = view()?;
            let id = id(&*view, name)?;
            let stored = view.store(AttributeOwner::Device(id), attribute, value.as_bytes());
            stored.map_err(|errno| failed(&format!("zram{id}: {attribute}"), errno))
        }
    }
}
