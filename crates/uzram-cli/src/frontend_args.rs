//! The frontends' options on the command line: made from what the frontends say of themselves, and read into a
//! [`FrontendSpec`].

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Command};
use uzram_frontend::{FrontendOption, OptionKind};
use uzram_runtime::frontends::{self, SharedOption};
use uzram_spec::{AUTO, FrontendSpec, OptionValue};

/// The frontend and its options, as they were given.
#[derive(Debug, Clone)]
pub(crate) struct FrontendArgs {
    pub(crate) spec: FrontendSpec,
}

/// What `--frontend` takes, in words.
fn help() -> String {
    let mut help =
        String::from("How the device is served:\n  auto        the best that works here\n");
    for frontend in frontends::all() {
        help.push_str(&format!("  {:11} {}\n", frontend.name(), frontend.about()));
    }
    help
}

/// Reads a frontend's name, or `auto`.
pub(crate) fn frontend_name(text: &str) -> Result<String, String> {
    frontends::check_name(text).map(|()| text.to_owned())
}

fn shared_arg(shared: &SharedOption) -> Arg {
    arg(shared.option).help_heading(heading(shared))
}

/// The argument of an option.
pub(crate) fn arg(option: &'static FrontendOption) -> Arg {
    let arg = Arg::new(option.name).long(option.name).help(option.help);
    match option.kind {
        OptionKind::Flag => arg.action(ArgAction::SetTrue),
        OptionKind::Choice(words) => arg
            .value_name(option.value_name)
            .value_parser(words.to_vec()),
        kind => arg
            .value_name(option.value_name)
            .action(match kind {
                OptionKind::List(_) => ArgAction::Append,
                _ => ArgAction::Set,
            })
            .allow_hyphen_values(true)
            .value_parser(move |text: &str| {
                let here = std::env::current_dir().map_err(|error| error.to_string())?;
                option.parse(text, &here)
            }),
    }
}

/// clap keeps headings for good.
fn heading(shared: &SharedOption) -> &'static str {
    Box::leak(shared.takers("and").into_boxed_str())
}

/// The value that was given for an option.
pub(crate) fn value(matches: &ArgMatches, option: &FrontendOption) -> Option<OptionValue> {
    match option.kind {
        OptionKind::Flag => matches
            .get_flag(option.name)
            .then_some(OptionValue::Flag(true)),
        OptionKind::Choice(_) => {
            let word = matches.get_one::<String>(option.name);
            word.map(|word| OptionValue::Text(word.clone()))
        }
        OptionKind::List(_) => {
            let all = matches.get_many::<OptionValue>(option.name)?;
            let texts = all.filter_map(|value| match value {
                OptionValue::Text(text) => Some(text.as_str()),
                _ => None,
            });
            Some(OptionValue::Text(texts.collect::<Vec<_>>().join(",")))
        }
        _ => matches.get_one::<OptionValue>(option.name).cloned(),
    }
}

impl clap::FromArgMatches for FrontendArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<FrontendArgs, clap::Error> {
        let kind = matches.get_one::<String>("frontend");
        let mut options = BTreeMap::new();
        for shared in frontends::options() {
            if let Some(value) = value(matches, shared.option) {
                options.insert(shared.option.name.to_owned(), value);
            }
        }
        let kind = kind.map_or(AUTO, String::as_str).to_owned();
        Ok(FrontendArgs {
            spec: FrontendSpec { kind, options },
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = FrontendArgs::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for FrontendArgs {
    fn augment_args(command: Command) -> Command {
        let frontend = Arg::new("frontend")
            .long("frontend")
            .short('f')
            .value_name("NAME")
            .default_value(AUTO)
            .value_parser(frontend_name)
            .help("How the device is served; see --help")
            .long_help(help());
        let options = frontends::options();
        command.arg(frontend).args(options.iter().map(shared_arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        FrontendArgs::augment_args(command)
    }
}
