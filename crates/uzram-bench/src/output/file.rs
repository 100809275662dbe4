//! Atomic replacement of a file: the new one is written beside the old one and renamed over it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::NamedTempFile;

/// Checks that a file can be written, before hours of measuring are lost to a mistyped folder. Leaves nothing behind.
pub fn check(path: &Path) -> Result<()> {
    let place = Destination::from_path(path).with_context(|| unwritable(path))?;
    let tried = match &place {
        Destination::Other => OpenOptions::new().append(true).open(path).map(drop),
        Destination::File(place) => beside(place).map(drop),
    };
    tried.with_context(|| unwritable(path))
}

/// Replaces a file, or writes to what is no file.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let put = || -> Result<()> {
        match Destination::from_path(path)? {
            Destination::Other => {
                let mut file = OpenOptions::new().write(true).open(path)?;
                file.write_all(text.as_bytes())?;
            }
            Destination::File(place) => {
                let mut file = beside(&place)?;
                file.write_all(text.as_bytes())?;
                file.as_file().sync_all()?;
                file.persist(&place)?;
            }
        }
        Ok(())
    };
    put().with_context(|| unwritable(path))
}

fn unwritable(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// What a path names.
enum Destination {
    /// A file, existing or not; links are followed.
    File(PathBuf),
    /// A terminal, a pipe, `/dev/null`: written to, never replaced.
    Other,
}

impl Destination {
    fn from_path(path: &Path) -> Result<Destination> {
        let Ok(known) = fs::metadata(path) else {
            return Ok(Destination::File(path.into()));
        };
        ensure!(!known.is_dir(), "it is a folder");
        if !known.is_file() {
            return Ok(Destination::Other);
        }
        // Who may not write to it shall not replace it.
        File::options().append(true).open(path)?;
        Ok(Destination::File(fs::canonicalize(path)?))
    }
}

/// Creates a file in the same folder, with the permissions of the one that it will replace.
fn beside(place: &Path) -> std::io::Result<NamedTempFile> {
    let folder = place
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let known = fs::metadata(place).map(|known| known.permissions());
    let file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o666))
        .prefix(".uzram-bench")
        .tempfile_in(folder.unwrap_or(Path::new(".")))?;
    if let Ok(known) = known {
        file.as_file().set_permissions(known)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn what_is_checked_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new.json");
        check(&path).unwrap();
        assert!(names(dir.path()).is_empty(), "nothing is left behind");
        fs::write(&path, "old").unwrap();
        check(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(dir.path()), [path]);
    }

    #[test]
    fn a_file_is_replaced_where_a_link_leads_and_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("a"), dir.path().join("b"));
        write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(&link, "new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(names(dir.path()).len(), 2);
    }

    #[test]
    fn what_is_no_file_is_written_to_and_stays() {
        write(Path::new("/dev/null"), "text").unwrap();
        check(Path::new("/dev/null")).unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().join("no/folder.json"), dir.path().into()] {
            let error = format!("{:#}", check(&path).unwrap_err());
            assert!(error.contains(&path.display().to_string()), "{error}");
            assert!(write(&path, "text").is_err());
        }
    }
}
