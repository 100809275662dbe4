//! `uzram snapshot verify`: reads snapshots as a restore would, and keeps nothing.

use std::fs::File;
use std::path::{Path, PathBuf};

use uzram_control::size::human;
use uzram_snapshot::{Snapshot, Verified};

use super::super::{for_each, print};
use crate::exit::{Failure, Result};

/// Read all of a snapshot and compare every checksum
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Files that hold snapshots
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        for_each(self.files, |path| {
            let verified = verify(&path)
                .map_err(|why| Failure::failed(format!("{}: {why}", path.display())))?;
            let bytes = human(verified.bytes);
            print(&format!("{}: good, {bytes}\n", path.display()))
        })
    }
}

fn verify(path: &Path) -> std::result::Result<Verified, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let snapshot = Snapshot::open(file).and_then(|mut snapshot| snapshot.verify());
    snapshot.map_err(|error| error.to_string())
}
