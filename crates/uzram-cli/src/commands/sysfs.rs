//! `uzram sysfs`: zram's interface as files.

use std::path::PathBuf;
use std::sync::mpsc::channel;

use uzram_runtime::process::when_told_to_end;

use super::view::view;
use crate::exit::Result;

/// Show zram's interface as files, in a directory
///
/// The files are those of /sys/block/zramN and /sys/class/zram-control, with the kernel's semantics: block, class,
/// dev and kernel/debug in the directory stand for those below /sys. Until interrupted. For a program that wants them in
/// /sys itself see "uzram shim".
///
/// Devices that are added through it and not initialised are gone with it, unless uzramd runs.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram sysfs /run/uzram/sys &
  cat /run/uzram/sys/class/zram-control/hot_add
  echo 1G > /run/uzram/sys/block/zram0/disksize
  cat /run/uzram/sys/kernel/debug/zram/zram0/block_state")]
pub(crate) struct Args {
    /// An empty directory; made if it is not there
    #[arg(value_name = "DIR")]
    at: PathBuf,
    /// Let files that the kernel makes write-only be read where uzram knows what to show
    #[arg(long)]
    more: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let mounted = uzram_sysfs::mount_at(&self.at, view()?, !self.more)?;
        let (events, inbox) = channel();
        when_told_to_end(move || {
            let _ = events.send(());
        })?;
        let _ = inbox.recv();
        Ok(mounted.unmount()?)
    }
}
