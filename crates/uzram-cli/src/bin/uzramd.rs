//! `uzramd`: `uzram daemon` by the name that an init system looks for. It becomes the `uzram` beside it, or the one on
//! the path, so that devices that the daemon makes are served by that program, as all others are.
#![forbid(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let beside = std::env::current_exe().map(|path| path.with_file_name("uzram"));
    let program = match beside {
        Ok(path) if path.exists() => path,
        _ => "uzram".into(),
    };
    let error = Command::new(&program)
        .arg("daemon")
        .args(std::env::args_os().skip(1))
        .exec();
    eprintln!("uzramd: cannot execute {}: {error}", program.display());
    ExitCode::FAILURE
}
