//! `uzram snapshot list`: the snapshots in a file, in their order.

use std::path::PathBuf;

use serde_json::json;
use uzram_control::size::human;
use uzram_remote::Remotes;
use uzram_runtime::snapshot_notes::SnapshotNotes;
use uzram_snapshot::{PAGE_BYTES, Snapshot};
use uzram_spec::printable_line;

use super::super::{moment, print, print_json, remote};
use super::files;
use crate::exit::Result;
use crate::seal_args::OpenArgs;

/// List the snapshots in a file
///
/// A file may have several, each made since the one before; the last one is what the file is restored to. A basis is what
/// one begins with that was taken of a device under load: it is good only together with the next.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// File that holds snapshots, a remote, or NAME/TAG of one
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    keys: OpenArgs,
    /// Print JSON, with names of full length
    #[arg(long, short = 'J')]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        if let Some(name) = self.file.to_str()
            && Remotes::of_user().has(name)
        {
            return remote::show(name, self.json);
        }
        let last = files::open(&self.file, &[], self.keys.keys()?.as_ref())?;
        let all = files::all(&last);
        if self.json {
            let all: Vec<_> = all.into_iter().map(object).collect();
            return print_json(&json!(all));
        }
        let mut text = format!(
            "{:16}  {:20}  {:8} {:>7} {:>7}  {:16}  KIND\n",
            "NAME", "TAKEN", "DEVICE", "SIZE", "BYTES", "PARENT"
        );
        for snapshot in all {
            text += &line(snapshot);
        }
        print(&text)
    }
}

fn object(snapshot: &Snapshot) -> serde_json::Value {
    let mut object = files::head_json(snapshot.head());
    object["name"] = snapshot.name().to_string().into();
    object["bytes"] = snapshot.bytes().into();
    object
}

fn line(snapshot: &Snapshot) -> String {
    let head = snapshot.head();
    let short = |name: uzram_snapshot::Digest| name.to_string()[..16].to_owned();
    let kind = match (head.is_basis, head.parent) {
        (true, _) => "basis",
        (false, Some(_)) => "since parent",
        (false, None) => "complete",
    };
    let (taken, size) = (
        moment::time(head.taken_at_seconds),
        human(head.pages * PAGE_BYTES as u64),
    );
    let notes = SnapshotNotes::of(head);
    let device = printable_line(&notes.name);
    let parent = head.parent.map_or("-".into(), short);
    let (name, bytes) = (short(snapshot.name()), human(snapshot.bytes()));
    format!("{name:16}  {taken:20}  {device:8} {size:>7} {bytes:>7}  {parent:16}  {kind}\n")
}
