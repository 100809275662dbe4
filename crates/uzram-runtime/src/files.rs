//! Whose the files are that a device is made of. Who owns a backing or may write to it can change what the device holds;
//! who owns the directory of a socket can put his own in its place. So files of other users are refused unless the
//! description allows them.

use std::path::Path;

use rustix::io::Errno;
use uzram_control::trust::{self, Distrust};
use uzram_spec::{DeviceSpec, Failure, FailureKind, Result};

use crate::frontends;

/// The option that allows such files.
const OPTION: &str = "--allow-foreign-files";

/// Refuses a description that names files which other users own or may write, or could replace.
pub(crate) fn check(spec: &DeviceSpec) -> Result {
    for (what, path) in spec.paths() {
        check_one(what, &path, spec.allow_foreign_files)?;
    }
    for path in frontends::files(&spec.frontend) {
        check_one("file", &path, spec.allow_foreign_files)?;
    }
    Ok(())
}

/// The same for one absolute path; `what` says what it is for. What cannot be reached at all is refused in any case.
pub fn check_one(what: &str, path: &Path, allow_foreign: bool) -> Result {
    match trust::check_file(path) {
        Ok(()) => Ok(()),
        Err(Distrust::System { path: at, source }) => {
            let nowhere = [Errno::NOENT, Errno::NOTDIR, Errno::NAMETOOLONG, Errno::LOOP];
            let kind = match Errno::from_io_error(&source) {
                Some(errno) if nowhere.contains(&errno) => FailureKind::Usage,
                _ => FailureKind::from_io(&source),
            };
            let message = format!("{what} {}: {}: {source}", path.display(), at.display());
            Err(Failure::new(kind, message))
        }
        Err(_) if allow_foreign => Ok(()),
        Err(why) => {
            let message = format!(
                "{what} {}: {why}, and could change what the device holds",
                path.display()
            );
            Err(Failure::usage(message).with_hint(format!("with {OPTION} that is allowed")))
        }
    }
}
