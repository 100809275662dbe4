//! `uzram snapshot verify`: reads snapshots as a restore would, and keeps nothing.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;
use uzram_control::size::human;
use uzram_runtime::snapshot_files;
use uzram_seal::Keys;
use uzram_snapshot::{Error, Restored, SnapshotReader};

use super::super::{for_each, print, print_json, remote};
use super::files;
use crate::exit::{Failure, Result};
use crate::seal_args::{self, OpenArgs};

/// Read all of a snapshot and compare every checksum
///
/// Each byte of the files is read and checked, and that what belongs together does. Of a snapshot since another one the
/// pages that it shares with that are checked, too, where its file is given with --parent. Exits with 1 if one is damaged or
/// cut off.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Files that hold snapshots, NAME/TAG of a remote, or - for stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A file with the snapshot that another one was made since; may be given several times
    #[arg(long, value_name = "FILE")]
    parent: Vec<PathBuf>,
    #[command(flatten)]
    keys: OpenArgs,
    /// Print JSON: one object a file
    #[arg(long, short = 'J')]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let keys = self.keys.keys()?;
        let keys = keys.as_ref();
        for_each(self.files, |path| {
            if let Some(found) = remote::reference(&path) {
                return remote::check(&format!("{}/{}", found.0, found.1), true, keys);
            }
            let found = match path == Path::new("-") {
                true => unsealed(&path, std::io::stdin().lock(), keys),
                false => match snapshot_files::open(&path)? {
                    (_, true) => in_file(&path, &self.parent, keys),
                    (pipe, false) => unsealed(&path, pipe, keys),
                },
            }?;
            let words = match &found["parent"] {
                serde_json::Value::String(parent) if found["is_complete"] == false => {
                    format!("; what it shares with {parent} was not read: --parent FILE")
                }
                _ => String::new(),
            };
            let (bytes, frames) = (&found["bytes"], &found["frames"]);
            let size = human(bytes.as_u64().unwrap_or_default());
            match self.json {
                true => print_json(&found),
                false => print(&format!(
                    "{}: good, {size} in {frames} frames{words}\n",
                    path.display()
                )),
            }
        })
    }
}

fn in_file(path: &Path, parents: &[PathBuf], keys: Option<&Keys>) -> Result<serde_json::Value> {
    let mut snapshot = files::open(path, parents, keys)?;
    let verified = snapshot.verify();
    let verified = verified.map_err(|error| snapshot_files::refused(path, &error))?;
    Ok(json!({
        "file": path,
        "name": snapshot.name().to_string(),
        "parent": snapshot.missing_parent().map(|parent| parent.to_string()),
        "bytes": verified.bytes,
        "frames": verified.frames,
        "carried_frames": verified.carried_frames,
        "is_complete": verified.is_complete,
    }))
}

/// Reads a stream forward, what is in its seal if there are keys.
fn unsealed(path: &Path, from: impl io::Read, keys: Option<&Keys>) -> Result<serde_json::Value> {
    match keys {
        None => through(path, from),
        Some(keys) => {
            let from = uzram_seal::unseal(from, keys);
            through(
                path,
                from.map_err(|error| seal_args::failure_of(path, error))?,
            )
        }
    }
}

/// Reads forward to the end, each snapshot that is there.
fn through(path: &Path, mut from: impl std::io::Read) -> Result<serde_json::Value> {
    let refused = |error: Error| snapshot_files::refused(path, &error);
    let (mut bytes, mut frames, mut parent) = (0, 0, None);
    let mut last: Option<Restored> = None;
    loop {
        let mut first = [0];
        let begun = match (std::io::Read::read(&mut from, &mut first)?, last) {
            (0, Some(last)) if last.is_basis => return Err(refused(Error::Cut { at: bytes })),
            (0, Some(last)) => {
                return Ok(json!({
                    "file": path,
                    "name": last.name.to_string(),
                    "parent": parent,
                    "bytes": bytes,
                    "frames": frames,
                    "carried_frames": 0,
                    "is_complete": parent.is_none(),
                }));
            }
            (0, None) => return Err(refused(Error::Cut { at: 0 })),
            _ => std::io::Read::chain(&first[..], &mut from),
        };
        let reader = SnapshotReader::new(begun).map_err(refused)?;
        let head = reader.head();
        match last {
            None => parent = head.parent.map(|parent| parent.to_string()),
            Some(last) if head.parent != Some(last.name) => {
                let message = format!(
                    "{}: what follows the first {bytes} bytes was not made since those",
                    path.display()
                );
                return Err(Failure::failed(message));
            }
            Some(_) => {}
        }
        let read = reader.restore(|_, _| Ok(())).map_err(refused)?;
        (bytes, frames) = (bytes + read.bytes, frames + read.frames);
        last = Some(read);
    }
}
