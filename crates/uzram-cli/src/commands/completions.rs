//! `uzram completions`: what a shell needs to complete this program's words.
//!
//! The script that is printed asks the program itself, by a variable in its environment, so that options are those of the
//! program that is installed, and devices those that are there. `uzram list` is not run for it: names stand in the run
//! directory, and no server is asked.

use std::ffi::OsStr;

use clap::builder::PossibleValuesParser;
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::Shells;
use uzram_control::RunDir;

use super::print;
use crate::exit::{Failure, Result};

/// The variable that says which shell asks.
const VARIABLE: &str = "UZRAM_COMPLETE";
/// The shells whose scripts are tested or at least looked at.
const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];
/// Positional arguments that are devices.
const DEVICES: [&str; 4] = ["name", "names", "device", "devices"];

/// Print what makes a shell complete commands, options and device names
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  source <(uzram completions bash)                                        in ~/.bashrc
  uzram completions bash > /usr/share/bash-completion/completions/uzram
  uzram completions zsh > /usr/share/zsh/vendor-completions/_uzram
  uzram completions fish > ~/.config/fish/completions/uzram.fish

The script calls the uzram that is first on the path; print it anew after an upgrade.")]
pub(crate) struct Args {
    /// The shell
    #[arg(value_name = "SHELL", value_parser = PossibleValuesParser::new(SHELLS))]
    shell: String,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let shells = Shells::builtins();
        let shell = shells.completer(&self.shell);
        let shell = shell.ok_or_else(|| Failure::usage(format!("no shell '{}'", self.shell)))?;
        let mut script = Vec::new();
        shell.write_registration(VARIABLE, "uzram", "uzram", "uzram", &mut script)?;
        print(&String::from_utf8_lossy(&script))
    }
}

/// Answers a shell that asks for completions, and ends the process. Returns where none does.
pub(crate) fn answer(program: fn() -> clap::Command) {
    if std::env::var_os(VARIABLE).is_none_or(|shell| !SHELLS.iter().any(|known| *known == shell)) {
        return;
    }
    CompleteEnv::with_factory(|| with_devices(program()))
        .var(VARIABLE)
        .bin("uzram")
        .complete();
}

/// The program whose commands know devices.
fn with_devices(program: clap::Command) -> clap::Command {
    program.mut_subcommands(|command| match command.get_name() {
        // Its names are of remotes.
        "remote" => command,
        // Another program knows their options: what they take is a device.
        "report" | "top" => {
            command.mut_arg("words", |words| words.add(ArgValueCandidates::new(devices)))
        }
        _ => command.mut_args(|argument| {
            let is_device =
                argument.is_positional() && DEVICES.iter().any(|name| argument.get_id() == name);
            match is_device {
                true => argument.add(ArgValueCandidates::new(devices)),
                false => argument,
            }
        }),
    })
}

/// The devices that run; none where they cannot be known. Nothing is said: the user is in the middle of a line.
fn devices() -> Vec<CompletionCandidate> {
    let devices = RunDir::of_user().devices().unwrap_or_default();
    let candidates = |device: uzram_control::RunningDevice| {
        let record = device.record;
        let path = record.path;
        let names = [record.name, record.alias].into_iter();
        let names = names.filter(|name| !name.is_empty());
        names.map(move |name| {
            CompletionCandidate::new(OsStr::new(&name).to_owned()).help(Some(path.clone().into()))
        })
    };
    devices.into_iter().flat_map(candidates).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// The first positional argument of each of these is a device, by whichever name.
    #[test]
    fn commands_for_devices_complete_them() {
        let program = with_devices(crate::Args::command());
        for name in [
            "list",
            "stat",
            "metrics",
            "get",
            "set",
            "train",
            "compact",
            "policy",
            "promote",
            "hydrate",
            "writeback",
            "idle",
            "recompress",
            "send",
            "reset",
            "remove",
            "recover",
            "upgrade",
            "jobs",
            "report",
            "top",
        ] {
            let command = program.find_subcommand(name).unwrap();
            let first = command.get_positionals().next().unwrap();
            assert!(first.get::<ArgValueCandidates>().is_some(), "{name}");
        }
        let create = program.find_subcommand("create").unwrap();
        let named = create
            .get_arguments()
            .find(|a| a.get_id() == "name")
            .unwrap();
        assert!(named.get::<ArgValueCandidates>().is_none());
    }
}
