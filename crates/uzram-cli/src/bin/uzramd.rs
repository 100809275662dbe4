//! `uzramd`: a program of its own, so that `uzram`, which keeps and serves devices and may be locked in memory for swap, has
//! no server of HTTP and no parsers of configurations in it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    uzram_cli::daemon_main()
}
