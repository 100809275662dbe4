//! `uzram snapshot show`: what a snapshot is of, how it is compressed, and what it consists of.

use std::path::PathBuf;

use serde_json::json;
use uzram_control::size::{self, human};
use uzram_runtime::snapshot_notes::SnapshotNotes;
use uzram_snapshot::{PAGE_BYTES, Snapshot, SnapshotCodec};
use uzram_spec::printable_line;

use super::super::{moment, print, print_json};
use super::files;
use crate::exit::Result;
use crate::seal_args::OpenArgs;

/// Show what a snapshot is of and what it consists of
///
/// Reads the index, not the pages: "uzram snapshot verify" says whether they are good.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// File that holds the snapshot, or NAME/TAG of a remote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A file with the snapshot that it was made since; may be given several times
    #[arg(long, value_name = "FILE")]
    parent: Vec<PathBuf>,
    #[command(flatten)]
    keys: OpenArgs,
    /// Print JSON, with each segment
    #[arg(long, short = 'J')]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let snapshot = files::open(&self.file, &self.parent, self.keys.keys()?.as_ref())?;
        match self.json {
            true => print_json(&object(&snapshot)),
            false => print(&words(&snapshot)),
        }
    }
}

fn object(snapshot: &Snapshot) -> serde_json::Value {
    let head = snapshot.head();
    let mut object = files::head_json(head);
    let totals = snapshot.totals();
    let codecs = head.codecs.iter().map(|codec| {
        json!({
            "number": codec.number,
            "algorithm": codec.algorithm,
            "driver": codec.driver,
            "params": codec.params,
            "dictionary": codec.dictionary.map(|of| of.name.to_string()),
            "dictionary_bytes": codec.dictionary.map_or(0, |of| of.bytes),
            "priorities": priorities(snapshot, codec),
        })
    });
    let segments = snapshot.segments().iter().map(|segment| {
        json!({
            "name": segment.name.to_string(),
            "bytes": segment.bytes,
            "live_bytes": segment.live_bytes,
        })
    });
    object["name"] = snapshot.name().to_string().into();
    object["bytes"] = snapshot.bytes().into();
    object["snapshots_in_file"] = files::all(snapshot).len().into();
    object["missing_parent"] = json!(snapshot.missing_parent().map(|parent| parent.to_string()));
    object["object_pages"] = totals.object_pages.into();
    object["same_pages"] = totals.same_pages.into();
    object["object_bytes"] = totals.object_bytes.into();
    object["codecs"] = codecs.collect();
    object["segments"] = segments.collect();
    object
}

fn priorities(snapshot: &Snapshot, codec: &SnapshotCodec) -> Vec<usize> {
    let notes = SnapshotNotes::of(snapshot.head());
    let note = notes.codec(codec);
    note.map_or(Vec::new(), |note| note.priorities.clone())
}

fn words(snapshot: &Snapshot) -> String {
    let head = snapshot.head();
    let notes = SnapshotNotes::of(head);
    let totals = snapshot.totals();
    let bytes = head.pages * PAGE_BYTES as u64;
    let pages = |count: u64| format!("{} pages", size::thousands(count));
    let mut rows: Vec<(&str, String)> = vec![
        ("name", snapshot.name().to_string()),
        ("taken", moment::time(head.taken_at_seconds)),
    ];
    if !notes.name.is_empty() {
        rows.push(("device", printable_line(&notes.name).into_owned()));
    }
    rows.push(("size", format!("{}, {}", human(bytes), pages(head.pages))));
    if notes.block_size > 0 {
        rows.push(("block size", notes.block_size.to_string()));
    }
    match head.parent {
        Some(parent) => rows.push(("parent", parent.to_string())),
        None => rows.push(("parent", "none: it is complete".into())),
    }
    if let Some(missing) = snapshot.missing_parent()
        && Some(missing) != head.parent
    {
        rows.push(("needs", missing.to_string()));
    }
    for codec in &head.codecs {
        let priorities = priorities(snapshot, codec);
        let role = |priority: &usize| match priority {
            0 => "primary".to_owned(),
            other => format!("recompression {other}"),
        };
        let roles: Vec<String> = priorities.iter().map(role).collect();
        let roles = match roles.is_empty() {
            true => String::new(),
            false => format!(", {}", roles.join(", ")),
        };
        let driver = printable_line(&codec.driver);
        let words = files::codec_words(codec);
        rows.push((
            "codec",
            format!("{}: {words} by {driver}{roles}", codec.number),
        ));
    }
    let stored = human(totals.object_bytes);
    rows.push((
        "compressed",
        format!("{}, {stored}", pages(totals.object_pages)),
    ));
    rows.push(("same-filled", pages(totals.same_pages)));
    let segments = snapshot.segments();
    let sum = |of: fn(&uzram_snapshot::SegmentSummary) -> u64| segments.iter().map(of).sum::<u64>();
    rows.push((
        "segments",
        format!(
            "{}, {}, of which {} are used",
            segments.len(),
            human(sum(|of| of.bytes)),
            human(sum(|of| of.live_bytes))
        ),
    ));
    let count = files::all(snapshot).len();
    let before = match count {
        1 => String::new(),
        _ => format!(", the last of {count} in the file"),
    };
    rows.push(("bytes", human(snapshot.bytes()) + &before));
    rows.into_iter()
        .map(|(name, value)| format!("{name:12} {value}\n"))
        .collect()
}
