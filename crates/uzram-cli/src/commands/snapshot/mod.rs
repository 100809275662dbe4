//! `uzram snapshot`: what a device holds, in a file; and what such files hold.
//!
//! One file for each subcommand.

pub(crate) mod files;
mod list;
mod show;
mod take;
mod verify;

use clap::Subcommand;

use crate::exit::{Failure, Result};

/// Write what a device holds at this moment to a file, or check such files
///
/// The device serves as always meanwhile: what requests overwrite is kept until it is written. Pages are written as they
/// are stored; nothing is compressed anew. The file gets its name when it is whole.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  uzram snapshot zram0 zram0.uzsnap
  uzram snapshot zram0 - | ssh other 'cat > zram0.uzsnap'
  uzram snapshot zram0 sunday.uzsnap --track
  uzram snapshot zram0 monday.uzsnap --since sunday.uzsnap
  uzram snapshot zram0 tuesday.uzsnap --since monday.uzsnap --parent sunday.uzsnap
  uzram snapshot zram0 ci/warm        to a remote: see \"uzram remote\"
  uzram snapshot zram0 zram0.uzsnap --seal-file recipients
  uzram snapshot verify zram0.uzsnap"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    look: Option<Look>,
    #[command(flatten)]
    take: Option<take::Take>,
}

/// What looks at files.
#[derive(Subcommand)]
enum Look {
    Verify(verify::Args),
    List(list::Args),
    Show(show::Args),
}

impl Args {
    pub(crate) fn run(self) -> Result {
        match (self.look, self.take) {
            (Some(Look::Verify(command)), _) => command.run(),
            (Some(Look::List(command)), _) => command.run(),
            (Some(Look::Show(command)), _) => command.run(),
            (None, Some(take)) => take.run(),
            (None, None) => Err(Failure::usage("name a device and a file")),
        }
    }
}
