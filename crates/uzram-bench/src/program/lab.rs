//! `uzram-bench lab`: the experiments by name, with the settings that each takes, and the recipes of records.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args as _, Command, FromArgMatches, value_parser};

use super::recipes::RECIPES;
use super::{check_files, hand_out, print, watched};
use crate::failure::{Failure, Result};
use crate::lab::{EXPERIMENTS, Experiment, How};
use crate::output::Files;

/// Repeat this project's own experiments
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(super) struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

impl Args {
    pub(super) fn run(self) -> Result {
        let Some((name, rest)) = self.words.split_first() else {
            return Err(Failure::usage(format!("which experiment?\n{}", list())));
        };
        let name = name.to_string_lossy();
        if ["--help", "-h", "help"].contains(&&*name) {
            return print(&format!("{}\n", list()));
        }
        if let Some(experiment) = EXPERIMENTS.iter().find(|one| one.name == name) {
            let matches = command(experiment).get_matches_from(&self.words);
            let files = Files::from_arg_matches(&matches).map_err(Failure::usage)?;
            return measure(experiment, &how(&matches), &files);
        }
        match RECIPES.iter().find(|recipe| recipe.name == name) {
            Some(recipe) => recipe.run(rest),
            None => {
                let message = format!("there is no experiment '{name}'\n{}", list());
                Err(Failure::usage(message))
            }
        }
    }
}

/// Runs an experiment, writes its files and prints the outcome.
pub(super) fn measure(experiment: &Experiment, how: &How, files: &Files) -> Result {
    check_files(files)?;
    let outcome = watched(|progress| (experiment.run)(how, progress))?;
    hand_out(&*outcome, files)
}

/// The list of all experiments and recipes.
fn list() -> String {
    let mut list = String::from("Usage: uzram-bench lab NAME [OPTIONS]\n\n");
    let recipes = RECIPES.iter().map(|recipe| (recipe.name, recipe.about));
    let experiments = EXPERIMENTS.iter().map(|one| (one.name, one.about));
    for (name, about) in experiments.chain(recipes) {
        list += &format!("  {name:10}  {about}\n");
    }
    list + "\nAll take --quick, --record FILE and, but for churn, --rounds N; NAME --help has the rest."
}

/// The command line of an experiment.
fn command(experiment: &Experiment) -> Command {
    let name = experiment.name;
    let quick = Arg::new("quick")
        .long("quick")
        .action(ArgAction::SetTrue)
        .help("A tenth of the work: a smoke test, its figures mean little");
    let rounds = Arg::new("rounds")
        .long("rounds")
        .value_name("N")
        .value_parser(value_parser!(u32).range(1..))
        .help("How often each contestant takes its turn [default: as often as it takes]");
    let only = Arg::new("only")
        .long("only")
        .value_name("NAME")
        .help("Only contestants whose name contains this: lzo, raw, level=1");
    let corpus = Arg::new("corpus")
        .long("corpus")
        .value_name("DIR")
        .value_parser(value_parser!(PathBuf))
        .help("Pages that \"uzram bench corpus\" keeps in this folder, instead of others made now");
    let command = Command::new(name)
        .bin_name(format!("uzram-bench lab {name}"))
        .about(experiment.about)
        .arg(quick)
        .args(experiment.rounds.then_some(rounds))
        .args(experiment.only.then_some(only))
        .args(experiment.corpus.then_some(corpus));
    Files::augment_args(command)
}

fn how(matches: &ArgMatches) -> How {
    How {
        quick: matches.get_flag("quick"),
        rounds: given::<u32>(matches, "rounds").map(|n| n as usize),
        only: given(matches, "only").unwrap_or_default(),
        corpus: given(matches, "corpus"),
    }
}

/// The value of an option, if the experiment takes it and it was given.
fn given<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, name: &str) -> Option<T> {
    matches.try_get_one::<T>(name).ok().flatten().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_sound_and_all_names_differ() {
        let mut names: Vec<&str> = RECIPES.iter().map(|recipe| recipe.name).collect();
        for experiment in EXPERIMENTS {
            command(experiment).debug_assert();
            names.push(experiment.name);
        }
        let all = list();
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{name}");
            assert!(all.contains(&format!("\n  {name}")), "{name}: {all}");
        }
    }
}
