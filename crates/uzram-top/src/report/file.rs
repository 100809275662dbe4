//! Where a page goes: a new file, or the place of a former report, whole or not at all. What else is there stays, unless whoever asks
//! insists: a name that was mistyped costs nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use uzram_spec::{Failure, Result};

use super::page::GENERATOR;

/// A former report says so within so many bytes.
const HEAD: u64 = 512;

/// Where a page is to go.
#[derive(Debug, PartialEq)]
pub(super) enum Target {
    Stdout,
    /// What takes bytes as they come: a pipe, a terminal.
    Stream(PathBuf),
    File(PathBuf),
}

impl Target {
    /// Refuses what cannot be written, or should not be.
    pub(super) fn check(path: &Path, force: bool) -> Result<Target> {
        let shown = path.display();
        if path == Path::new("-") {
            return Ok(Target::Stdout);
        }
        let path = match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                let message = format!("{shown} is a directory");
                return Err(Failure::usage(message).with_hint("name a file in it"));
            }
            Ok(found) if found.file_type().is_char_device() || found.file_type().is_fifo() => {
                return Ok(Target::Stream(path.into()));
            }
            Ok(found) if !found.is_file() => {
                return Err(Failure::usage(format!("{shown} is no regular file")));
            }
            Ok(_) => {
                if !force && !is_report(path) {
                    let message = format!("{shown} is there already, and is no report of uzram's");
                    return Err(Failure::usage(message).with_hint("--force replaces it"));
                }
                // Behind links, so that these stay.
                fs::canonicalize(path).map_err(|error| failed(path, &error))?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => path.into(),
            Err(error) => return Err(failed(path, &error)),
        };
        if path.file_name().is_none() {
            return Err(Failure::usage(format!("{shown} names no file")));
        }
        let dir = dir_of(&path);
        access(dir, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|error| failed(&path, &error.into()))?;
        Ok(Target::File(path))
    }

    pub(super) fn write(&self, page: &str) -> Result {
        match self {
            Target::Stdout => super::print(page),
            Target::Stream(path) => {
                let opened = OpenOptions::new().write(true).open(path);
                let written = opened.and_then(|mut file| file.write_all(page.as_bytes()));
                written.map_err(|error| failed(path, &error))
            }
            Target::File(path) => replace(path, page).map_err(|error| failed(path, &error)),
        }
    }
}

fn dir_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    let message = format!("{} cannot be written: {error}", path.display());
    Failure::new(uzram_spec::FailureKind::from_io(error), message)
}

/// Whether a file is a former report.
fn is_report(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    read.is_ok() && String::from_utf8_lossy(&head).contains(GENERATOR)
}

/// Writes beside the file, and then gives that its name.
fn replace(path: &Path, page: &str) -> std::io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let beside = dir_of(path).join(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&beside)?;
    let written = file
        .write_all(page.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&beside, path));
    written.inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_former_report_is_replaced_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.html");
        let target = Target::check(&path, false).unwrap();
        let page = format!("<!DOCTYPE html>{GENERATOR}one");
        target.write(&page).unwrap();
        Target::check(&path, false).unwrap().write(&page).unwrap();
        std::fs::write(&path, "something dear").unwrap();
        let refused = Target::check(&path, false).unwrap_err();
        assert_eq!(refused.kind.exit_code(), 2);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "something dear");
        // A link stays one, and what it leads to is replaced.
        let link = dir.path().join("link.html");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        Target::check(&link, true).unwrap().write(&page).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), page);
        assert!(link.is_symlink());
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 2, "nothing is left beside");
    }

    #[test]
    fn what_cannot_be_written_is_said_at_once() {
        let dir = tempfile::tempdir().unwrap();
        for bad in [
            dir.path().to_owned(),
            dir.path().join("none/a.html"),
            "..".into(),
        ] {
            assert!(Target::check(&bad, true).is_err(), "{bad:?}");
        }
        let null = Target::check(Path::new("/dev/null"), false).unwrap();
        assert_eq!(null, Target::Stream("/dev/null".into()));
        null.write("x").unwrap();
        assert_eq!(
            Target::check(Path::new("-"), false).unwrap(),
            Target::Stdout
        );
    }
}
