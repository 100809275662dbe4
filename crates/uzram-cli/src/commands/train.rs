//! `uzram train`: makes a dictionary of what a device holds, and takes it into use if it pays.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use uzram::TrainReport;
use uzram::compress::dictionary::DEFAULT_BYTES;
use uzram_control::size::{self, human};
use uzram_control::{Request, Response, from_hex};
use uzram_spec::{Failure, FailureKind};

use super::{job, jobs, print_outcome};
use crate::exit::Result;

/// Train a dictionary on what a device holds
///
/// Samples pages, makes a dictionary of half of them for the algorithm in use (lzhs, zstd, lz4 or lz4hc), and compares on the other
/// half. If it makes pages 3 % smaller at about the same speed, or compression 1.15 times as fast at the same size,
/// what is written from now on is compressed with it. What is stored stays as it is until it is written again. Takes
/// some seconds, in which the device serves as always.
///
/// An algorithm that trains itself needs no command for it: see "uzram create --train" and the line "training" of "uzram
/// stat". For that one it takes 2 % smaller at the same speed.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram train zram0
  uzram train zram0 --priority 1
  uzram train zram0 --detach && uzram jobs zram0
  uzram train zram0 --dictionary-size 32K --dry-run
  uzram train zram0 --save heap.dict && uzram create --algorithm 'lzhs(dict=heap.dict)'")]
pub(crate) struct Args {
    /// The device: its name, its path or its URI
    name: String,
    /// Longest dictionary [default: 16K]; lzhs takes 14 KiB, whatever is allowed beyond that, and it is said
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    dictionary_size: Option<u64>,
    /// Train for the algorithm of this priority: 0 compresses what is written, 1 to 3 are for recompression
    #[arg(long, value_name = "N", default_value_t = 0)]
    priority: usize,
    /// Only find out whether it pays
    #[arg(long)]
    dry_run: bool,
    /// Write the dictionary that is in use then to a new file, for "dict=FILE". It has parts of pages, but for that of lzhs
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    save: Option<PathBuf>,
    /// Return at once, and let the device go on by itself, to the end: "uzram jobs" shows it, and the device's log says what came of
    /// it
    #[arg(long, conflicts_with_all = ["dry_run", "save"])]
    detach: bool,
    /// Print JSON
    #[arg(long, short = 'J')]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        if self.detach {
            return jobs::detach(&self.name, &self.request(), self.json);
        }
        // A file that cannot be is said before the work.
        let file = self.save.as_deref().map(create).transpose()?;
        let done = self.train(file);
        if let (Err(_), Some(path)) = (&done, &self.save) {
            let _ = std::fs::remove_file(path);
        }
        let (trained, saved) = done?;
        let text = show(&trained, self.dictionary_size, saved);
        print_outcome(self.json, &trained, text)
    }

    fn request(&self) -> Request {
        Request::Train {
            priority: self.priority,
            dictionary_bytes: self.dictionary_size.map_or(DEFAULT_BYTES, |asked| {
                usize::try_from(asked).unwrap_or(usize::MAX)
            }),
            dry_run: self.dry_run,
        }
    }

    /// Trains, and writes the dictionary in use to a file if there is one, with its length.
    fn train(&self, file: Option<(&Path, File)>) -> Result<(TrainReport, Option<(PathBuf, u64)>)> {
        let request = self.request();
        let trained = job!(&self.name, &request, Response::Trained(trained) => trained);
        let Some((path, mut file)) = file else {
            return Ok((trained, None));
        };
        let request = Request::Dictionary {
            priority: self.priority,
        };
        let bytes = job!(&self.name, &request, Response::Dictionary { bytes } => bytes);
        let bytes = from_hex(&bytes).unwrap_or_default();
        if bytes.is_empty() {
            let path = path.display();
            return Err(Failure::failed(format!(
                "{path}: not written, since no dictionary is in use: none paid on these pages"
            )));
        }
        file.write_all(&bytes)
            .and_then(|()| file.sync_all())
            .map_err(|error| in_file(path, error))?;
        Ok((trained, Some((path.to_owned(), bytes.len() as u64))))
    }
}

/// A new file for its owner alone: it has parts of pages.
fn create(path: &Path) -> Result<(&Path, File)> {
    let mut options = File::options();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    Ok((path, file.map_err(|error| in_file(path, error))?))
}

fn in_file(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(
        FailureKind::from_io(&error),
        format!("{}: {error}", path.display()),
    )
}

/// The dictionary's length, and that a longer one was asked for in vain.
fn length(bytes: u64, asked: Option<u64>) -> String {
    // Trainers fill what they are given but for some bytes.
    match asked.filter(|asked| *asked > bytes + bytes / 8) {
        Some(asked) => format!(
            "{}, though {} were allowed: no more has a use here",
            human(bytes),
            human(asked)
        ),
        None => human(bytes),
    }
}

fn show(trained: &TrainReport, asked: Option<u64>, saved: Option<(PathBuf, u64)>) -> String {
    let verdict = match trained.adopted {
        true => format!("in use now as generation {}", trained.generation),
        false => "not taken into use".into(),
    };
    let (sampled, judged) = (trained.pages_sampled, trained.pages_judged);
    let (before, after) = (trained.ratio_before, trained.ratio_after);
    let ratio = format!("{before:.3} before, {after:.3} with the dictionary");
    let cost = human(trained.memory_cost_bytes);
    let rows = [
        (
            "sampled",
            format!("{sampled} pages, {judged} of them to judge by"),
        ),
        ("ratio", ratio),
        ("speed", format!("{:.2} x", trained.speed_ratio)),
        ("dictionary", length(trained.dictionary_bytes as u64, asked)),
        ("costs", format!("{cost} of memory")),
        ("verdict", format!("{verdict}: {}", trained.reason)),
    ];
    let saved =
        saved.map(|(path, bytes)| ("saved", format!("{} ({})", path.display(), human(bytes))));
    rows.into_iter()
        .chain(saved)
        .map(|(name, value)| format!("{name:12} {value}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_allowed_in_vain_is_said() {
        assert_eq!(length(14_380, None), "14K");
        assert_eq!(length(16_000, Some(16 << 10)), "15.6K");
        let said = length(14_380, Some(32 << 10));
        assert_eq!(said, "14K, though 32K were allowed: no more has a use here");
    }
}
