//! `uzram snapshot`: what a device holds, in a file; and what such files hold.
//!
//! One file for each subcommand.

mod verify;

use clap::Subcommand;

use crate::exit::Result;

/// Check files that hold snapshots, and show what is in them
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    look: Look,
}

/// What looks at files.
#[derive(Subcommand)]
enum Look {
    Verify(verify::Args),
}

impl Args {
    pub(crate) fn run(self) -> Result {
        match self.look {
            Look::Verify(command) => command.run(),
        }
    }
}
