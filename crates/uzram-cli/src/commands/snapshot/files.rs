//! What the commands that look at snapshots have in common: opening their files, and what is said of one snapshot.

use std::path::{Path, PathBuf};

use uzram_runtime::snapshot_files;
use uzram_runtime::snapshot_notes::SnapshotNotes;
use uzram_seal::{Keys, SealedFile};
use uzram_snapshot::{Head, PAGE_BYTES, ReadAt, Snapshot, SnapshotCodec};
use uzram_spec::printable_line;

use super::super::remote;
use crate::exit::{Failure, Result};
use crate::seal_args;

/// Opens a file with its parents, all of them sealed if there are keys.
pub(crate) fn open(path: &Path, parents: &[PathBuf], keys: Option<&Keys>) -> Result<Snapshot> {
    if let Some(found) = remote::reference(path) {
        let opened = remote::open_tag(found, keys, "look")?;
        return opened.snapshot().map_err(remote::failure);
    }
    let open = |path: &Path| -> Result<Box<dyn ReadAt>> {
        let file = regular(path)?;
        Ok(match keys {
            None => Box::new(file),
            Some(keys) => {
                let opened = SealedFile::open(file, keys);
                Box::new(opened.map_err(|error| seal_args::failure_of(path, error))?)
            }
        })
    };
    let parents = parents.iter();
    let parents = parents.map(|path| Ok((path.clone(), open(path)?)));
    let parents = parents.collect::<Result<_>>()?;
    snapshot_files::open_chain(path, open(path)?, parents)
}

fn regular(path: &Path) -> Result<std::fs::File> {
    match snapshot_files::open(path)? {
        (file, true) => Ok(file),
        (_, false) => {
            let message = format!("{} is a pipe: this needs a file", path.display());
            Err(Failure::usage(message))
        }
    }
}

/// The snapshots of a file, the first one first; not those of its parents' files.
pub(super) fn all(last: &Snapshot) -> Vec<&Snapshot> {
    let mut all = vec![last];
    let mut of = last;
    while of.has_one_before()
        && let Some(before) = of.parent()
    {
        all.push(before);
        of = before;
    }
    all.reverse();
    all
}

/// What can be said of a snapshot by its head.
pub(super) fn head_json(head: &Head) -> serde_json::Value {
    let notes = SnapshotNotes::of(head);
    serde_json::json!({
        "device": notes.name,
        "taken_at_seconds": head.taken_at_seconds,
        "size_bytes": head.pages * PAGE_BYTES as u64,
        "block_size": notes.block_size,
        "parent": head.parent.map(|parent| parent.to_string()),
        "is_basis": head.is_basis,
    })
}

/// A codec as `uzram stat` writes it: `zstd(level=1,dict:16384)`.
pub(super) fn codec_words(codec: &SnapshotCodec) -> String {
    let dictionary = codec.dictionary.map(|of| format!("dict:{}", of.bytes));
    let words = [codec.params.clone(), dictionary.unwrap_or_default()];
    let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let text = match words.is_empty() {
        true => codec.algorithm.clone(),
        false => format!("{}({})", codec.algorithm, words.join(",")),
    };
    printable_line(&text).into_owned()
}
