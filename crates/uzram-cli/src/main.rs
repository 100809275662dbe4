//! The `uzram` program: creates compressed RAM disks, lists them, shows their statistics, takes them down.
//!
//! One file for each command in `commands`; `server` is the process behind a device; `exit` says which failure
//! ends with which exit code.
#![forbid(unsafe_code)]

mod commands;
mod exit;
mod frontend;
mod logging;
mod server;
mod sweep;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Compressed RAM disks in user space, in the manner of zram.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  uzram create --size 1G                          a 1 GiB disk; prints its path
  mkfs.ext4 -q /dev/loop0 && mount /dev/loop0 /mnt
  uzram list                                      what it holds and what that takes
  umount /mnt && uzram remove zram0

A device's contents live in the memory of its server process: they are gone when the device is
removed, the server dies or the machine stops.

Exit codes: 0 done; 1 failed; 2 usage or a value that is not possible; 3 the device is in use;
4 no such device; 5 this machine or user cannot do it (missing driver or permission).",
    arg_required_else_help = true
)]
struct Args {
    /// What to log: error, warn, info, debug, trace, or a filter such as uzram_nbd=debug
    #[arg(
        long,
        global = true,
        env = "UZRAM_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Create(commands::create::Args),
    List(commands::list::Args),
    Stat(commands::stat::Args),
    Reset(commands::reset::Args),
    Remove(commands::remove::Args),
    Algorithms(commands::algorithms::Args),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.command {
        Command::Create(command) => command.run(&args.log),
        Command::List(command) => command.run(),
        Command::Stat(command) => command.run(),
        Command::Reset(command) => command.run(),
        Command::Remove(command) => command.run(),
        Command::Algorithms(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
