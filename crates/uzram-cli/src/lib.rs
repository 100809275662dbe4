//! The `uzram` program: creates compressed RAM disks, lists them, shows their statistics, takes them down.
//!
//! Arguments and printing: one file for each command in `commands`. Devices are made and kept by `uzram-runtime`; `exit`
//! says how the program ends.
#![forbid(unsafe_code)]

mod commands;
mod exit;
mod frontend_args;
mod seal_args;

use std::process::ExitCode;

use clap::{Args as _, CommandFactory, FromArgMatches, Parser, Subcommand};
use uzram::compress::Registry;
use uzram_runtime::{limits, logging};

/// Compressed RAM disks in user space, in the manner of zram.
#[derive(Parser)]
#[command(
    name = "uzram",
    version,
    after_help = "\
Examples:
  uzram create --size 1G                          a 1 GiB disk; prints its path
  mkfs.ext4 -q /dev/loop0 && mount /dev/loop0 /mnt
  uzram list                                      what it holds and what that takes
  umount /mnt && uzram remove zram0

A device's contents live in memory that its keeper process holds. They outlive its server, which is started anew if it \
dies; they are gone when the device is removed or the machine stops.

A server or keeper that gives no sign of life for 10 seconds, to \"list\" for 1 second, is given up, and does not carry \
out later what it was asked. Of its own clients at most 64 may be sending a request, each for 5 seconds and 3 MiB at \
most.

Exit codes: 0 done; 1 failed; 2 usage or a value that is not possible; 3 the device is in use; 4 no such device; 5 this \
machine or user cannot do it (missing driver or permission).",
    arg_required_else_help = true,
    disable_help_subcommand = true
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
    Create(Box<commands::create::Args>),
    #[command(visible_alias = "ls")]
    List(commands::list::Args),
    Stat(commands::stat::Args),
    /// Watch what devices do
    #[command(disable_help_flag = true)]
    Top(commands::companion::Words),
    /// Say what a device holds, and what a policy would gain
    #[command(disable_help_flag = true)]
    Report(commands::companion::Words),
    Metrics(commands::metrics::Args),
    Get(commands::get::Args),
    Set(commands::set::Args),
    Train(commands::train::Args),
    Compact(commands::compact::Args),
    Policy(commands::policy::Args),
    Promote(commands::promote::Args),
    Hydrate(commands::hydrate::Args),
    Writeback(commands::writeback::Args),
    Idle(commands::idle::Args),
    Recompress(commands::recompress::Args),
    Snapshot(Box<commands::snapshot::Args>),
    Restore(Box<commands::restore::Args>),
    Send(commands::send::Args),
    Receive(Box<commands::receive::Args>),
    Remote(commands::remote::Args),
    Jobs(commands::jobs::Args),
    Nbd(commands::nbd::Args),
    Reset(commands::reset::Args),
    #[command(visible_alias = "rm")]
    Remove(commands::remove::Args),
    Recover(commands::recover::Args),
    Upgrade(commands::upgrade::Args),
    Algorithms(commands::algorithms::Args),
    /// Say which algorithms fit given memory, and why
    #[command(disable_help_flag = true)]
    Advise(commands::companion::Words),
    /// Measure devices beside others, the compress API, the library
    #[command(disable_help_flag = true)]
    Bench(commands::companion::Words),
    Sysfs(commands::sysfs::Args),
    Shim(commands::shim::Args),
    Daemon(commands::daemon::Args),
    #[command(hide = true)]
    CheckImage(commands::check_image::Args),
    #[command(hide = true)]
    CheckDevice(commands::check_device::Args),
    #[command(hide = true)]
    UblkOwner(commands::ublk_owner::Args),
    Completions(commands::completions::Args),
    Man(commands::man::Args),
    Help(commands::help::Args),
}

/// The processes of a device. They have a parser of their own: the other one's tree of commands and help would stay in the
/// heap of each, which a device that serves as swap locks.
#[derive(Debug, Parser)]
#[command(name = "uzram")]
enum DeviceProcess {
    /// Keep a device's memory and its server. Not for users
    Keep {
        /// What to go on from; without it a device is ordered on stdin
        state: Option<String>,
    },
    /// Serve a device whose memory a keeper holds. Not for users
    Serve {
        /// What to start from
        state: String,
    },
    /// Read a remote for a server. Not for users
    ReadRemote {
        /// What to open
        state: String,
    },
    /// Unseal a pipe. Not for users
    Unseal {
        /// By which keys
        state: String,
    },
}

impl DeviceProcess {
    /// Whether this process's arguments are those of one.
    fn is_meant() -> bool {
        let all = ["keep", "serve", "read-remote", "unseal"];
        let command = std::env::args_os().nth(1);
        command.is_some_and(|command| all.iter().any(|own| command == *own))
    }

    fn run(self) -> ExitCode {
        ExitCode::from(match self {
            DeviceProcess::Keep { state } => uzram_runtime::keep(state.as_deref()),
            DeviceProcess::Serve { state } => uzram_runtime::serve(&state),
            DeviceProcess::ReadRemote { state } => commands::remote::read_for_device(&state),
            DeviceProcess::Unseal { state } => seal_args::unseal_pipe(&state),
        })
    }
}

/// Runs the program with this process's arguments and other algorithms than the built-in ones: a program of one's own
/// is a `main` of a few lines, and its devices are served, taken over and upgraded as those of `uzram` are.
///
/// ```no_run
/// use uzram::compress::Registry;
/// let mut algorithms = Registry::builtin();
/// // algorithms.register(std::sync::Arc::new(MyAlgorithm))?;
/// uzram_cli::main_with(algorithms);
/// ```
///
/// # Panics
///
/// Where an algorithm was looked up before.
pub fn main_with(algorithms: Registry) -> ExitCode {
    let first = uzram_control::zram::provide_algorithms(algorithms);
    assert!(first, "algorithms are provided before anything else");
    begun(|| run(commands::daemon::Args::run))
}

/// Runs the program with this process's arguments. Its daemon is another program ([`daemon_main`]).
pub fn main() -> ExitCode {
    begun(|| run(commands::daemon::Args::exec))
}

/// Runs `uzramd` with this process's arguments.
pub fn daemon_main() -> ExitCode {
    begun(daemon)
}

/// Runs a program within the limits of its shell or unit, and writes the last lines of its log.
fn begun(program: impl FnOnce() -> ExitCode) -> ExitCode {
    if let Err(failure) = limits::begin() {
        return exit::report(&failure);
    }
    let code = program();
    logging::flush();
    code
}

fn daemon() -> ExitCode {
    use commands::daemon::Args as Daemon;
    let name = clap::Command::new("uzramd").version(env!("CARGO_PKG_VERSION"));
    let all = Args::command();
    let log = all
        .get_arguments()
        .find(|argument| argument.get_id() == "log");
    let matches = exit::parsed(Daemon::augment_args(name).args(log).try_get_matches());
    let log = matches
        .get_one::<String>("log")
        .map_or("info", String::as_str);
    let daemon = exit::parsed(Daemon::from_arg_matches(&matches));
    ended(daemon.run_alone(log))
}

fn run(daemon: fn(commands::daemon::Args, &str) -> exit::Result) -> ExitCode {
    if DeviceProcess::is_meant() {
        return exit::parsed(DeviceProcess::try_parse()).run();
    }
    commands::completions::answer(Args::command);
    let args = exit::parsed(Args::try_parse());
    let result = match args.command {
        Command::Create(command) => command.run(&args.log),
        Command::List(command) => command.run(),
        Command::Stat(command) => command.run(),
        Command::Top(words) => words.run("top"),
        Command::Report(words) => words.run("report"),
        Command::Metrics(command) => command.run(),
        Command::Get(command) => command.run(),
        Command::Set(command) => command.run(),
        Command::Help(command) => command.run(Args::command()),
        Command::Train(command) => command.run(),
        Command::Compact(command) => command.run(),
        Command::Policy(command) => command.run(),
        Command::Promote(command) => command.run(),
        Command::Hydrate(command) => command.run(),
        Command::Writeback(command) => command.run(),
        Command::Idle(command) => command.run(),
        Command::Recompress(command) => command.run(),
        Command::Snapshot(command) => command.run(),
        Command::Restore(command) => command.run(&args.log),
        Command::Send(command) => command.run(),
        Command::Receive(command) => command.run(&args.log),
        Command::Remote(command) => command.run(),
        Command::Jobs(command) => command.run(),
        Command::Nbd(command) => command.run(&args.log),
        Command::Reset(command) => command.run(),
        Command::Remove(command) => command.run(),
        Command::Recover(command) => command.run(),
        Command::Upgrade(command) => command.run(),
        Command::Algorithms(command) => command.run(),
        Command::Advise(words) => words.run("advise"),
        Command::Bench(words) => words.run("bench"),
        Command::Sysfs(command) => command.run(),
        Command::Shim(command) => command.run(),
        Command::Daemon(command) => daemon(command, &args.log),
        Command::CheckImage(command) => command.run(),
        Command::CheckDevice(command) => command.run(),
        Command::UblkOwner(command) => command.run(),
        Command::Completions(command) => command.run(),
        Command::Man(command) => command.run(Args::command()),
    };
    ended(result)
}

fn ended(result: exit::Result) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => exit::report(&failure),
    }
}
