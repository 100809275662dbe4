//! What the clap definitions that help comes from are rendered as: manual pages of a program and its commands, and what is
//! said of wrong arguments; and which program is behind one that serves some of its commands.
//!
//! A crate of its own because several programs write pages of one manual: `uzram`, and `uzram-bench` and `uzram-top` for the
//! commands that they serve. It knows nothing about what the commands do.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_mangen::Man;
pub use clap_mangen::roff;
use clap_mangen::roff::{Roff, bold, roman};

/// The visible commands of a program, each followed by its own commands.
pub fn commands(program: &Command) -> Vec<&Command> {
    let shown = program.get_subcommands();
    let shown = shown.filter(|command| !command.is_hide_set());
    shown
        .flat_map(|command| std::iter::once(command).chain(commands(command)))
        .collect()
}

/// What is wrong with the arguments, for the program to say as it says every failure; `None` where help or the version was
/// asked for, or is shown for want of arguments.
pub fn complaint(error: &clap::Error) -> Option<String> {
    use clap::error::ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion,
    };
    let help = [
        DisplayHelp,
        DisplayHelpOnMissingArgumentOrSubcommand,
        DisplayVersion,
    ];
    if help.contains(&error.kind()) {
        return None;
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    Some(text.trim_end().into())
}

/// The program some of whose commands this one serves, by whose name it ends in `suffix`: the one that started this
/// (`UZRAM_PROGRAM`), or the one beside it, or `uzram` on `PATH`.
pub fn served_program(suffix: &str) -> PathBuf {
    if let Some(program) = std::env::var_os("UZRAM_PROGRAM").filter(|program| !program.is_empty()) {
        return program.into();
    }
    let beside = std::env::current_exe().ok().and_then(|own| {
        let name = own.file_name()?.to_str()?.strip_suffix(suffix)?;
        Some(own.with_file_name(name)).filter(|path| path.is_file())
    });
    beside.unwrap_or_else(|| "uzram".into())
}

/// The page's name: `uzram`, or `uzram-COMMAND`.
pub fn name(command: &Command) -> String {
    let display = command.get_display_name();
    display.unwrap_or_else(|| command.get_name()).into()
}

/// Writes the page of a command to `DIR/NAME.1`.
pub fn write(dir: &Path, program: &Command, command: &Command) -> io::Result<()> {
    let path = dir.join(name(command) + ".1");
    std::fs::write(&path, page(program, command, |_| ())?)
}

/// The page of `program` itself or of one of its commands. `more` adds sections below the options. The program has been
/// built ([`Command::build`]).
pub fn page(
    program: &Command,
    command: &Command,
    more: impl FnOnce(&mut Roff),
) -> io::Result<String> {
    let version = program.get_version().unwrap_or_default();
    let man = Man::new(command.clone()).source(format!("uzram {version}"));
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    let mut roff = Roff::new();
    more(&mut roff);
    let after = command
        .get_after_long_help()
        .or_else(|| command.get_after_help());
    if let Some(text) = after {
        notes(&mut roff, &text.to_string());
    }
    see_also(&mut roff, program, command);
    roff.to_writer(&mut out)?;
    String::from_utf8(out).map_err(io::Error::other)
}

/// Adds the text that help prints below the options. A block that begins with a line such as `Examples:` becomes a
/// section; indented lines keep their breaks.
fn notes(roff: &mut Roff, text: &str) {
    for block in text.split("\n\n") {
        let mut lines = block.lines().peekable();
        let title = lines.next_if(|line| !line.starts_with(' ') && line.ends_with(':'));
        match title {
            Some(title) => {
                roff.control("SH", [title.trim_end_matches(':').to_uppercase().as_str()])
            }
            None if block.starts_with("Exit codes: ") => roff.control("SH", ["EXIT STATUS"]),
            None => roff.control("PP", []),
        };
        let mut filled = true;
        for line in lines {
            if filled == line.starts_with(' ') {
                filled = !filled;
                roff.control(if filled { "fi" } else { "nf" }, []);
            }
            roff.text([roman(line.trim_start_matches("Exit codes: "))]);
        }
        if !filled {
            roff.control("fi", []);
        }
    }
}

fn see_also(roff: &mut Roff, program: &Command, command: &Command) {
    roff.control("SH", ["SEE ALSO"]);
    let pages = std::iter::once(program).chain(commands(program));
    let others: Vec<String> = pages
        .map(name)
        .filter(|other| *other != name(command))
        .collect();
    for (at, other) in others.iter().enumerate() {
        let end = if at + 1 < others.len() { "(1)," } else { "(1)" };
        roff.text([bold(other), roman(end)]);
    }
}
