//! What every command does first: find devices whose server died, clear what they left, and say so.

use uzram_control::RunDir;

use crate::exit::Result;
use crate::frontend::mount_dir;

/// The run directory, with the dead swept out of it.
pub(crate) fn swept_run_dir() -> Result<RunDir> {
    let run = RunDir::of_user();
    let clear = |dir: &std::path::Path| {
        uzram_fuse::clear_stale(&mount_dir(dir)).map_err(|error| error.to_string())
    };
    for swept in run.sweep(clear)? {
        let name = swept.name;
        match swept.outcome {
            Ok(cleared) if cleared.is_empty() => {
                eprintln!("uzram: the server of {name} had died; cleared its directory");
            }
            Ok(cleared) => {
                eprintln!(
                    "uzram: the server of {name} had died; cleared {}",
                    cleared.join(", ")
                );
            }
            Err(error) => {
                eprintln!("uzram: the server of {name} died and its data is lost, but {error}");
            }
        }
    }
    Ok(run)
}
