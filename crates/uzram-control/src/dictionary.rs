//! The file of a dictionary, read once by whoever was given its name.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// The longest dictionary that any algorithm takes, in bytes.
const MAX_DICTIONARY: u64 = 1 << 20;

/// Reads the file of a dictionary, of 1 byte to 1 MiB.
///
/// # Errors
///
/// It cannot be opened or read, is no regular file, is empty, or is longer.
pub fn read_dictionary(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe has perhaps no writer, and a file of /proc perhaps nothing yet.
    let no_waiting = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = File::options();
    options.read(true).custom_flags(no_waiting.bits() as i32);
    let file = options.open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    // Files of /proc say that they are. Some give what another reader then lacks.
    if found.len() == 0 {
        return Err(io::Error::other("it is empty"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_DICTIONARY + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 {
        0 => Err(io::Error::other("it is empty")),
        1..=MAX_DICTIONARY => Ok(bytes),
        _ => Err(io::Error::other(format!(
            "it has more than {MAX_DICTIONARY} bytes, the most that any algorithm takes"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn nothing_is_waited_for_and_each_refusal_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let of_len = |name: &str, len: u64| {
            let file = File::create(at(name)).unwrap();
            file.set_len(len).unwrap();
            at(name)
        };
        assert_eq!(
            read_dictionary(&of_len("all", 1 << 20)).unwrap().len(),
            1 << 20
        );
        let pipe = at("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        let refused = [
            (of_len("more", (1 << 20) + 1), "more than 1048576 bytes"),
            (of_len("none", 0), "empty"),
            // Blocks its reader, or takes lines of the kernel's log away from others.
            ("/proc/kmsg".into(), "empty"),
            (pipe, "no regular file"),
            (dir.path().into(), "no regular file"),
            (at("nowhere"), "No such file"),
        ];
        for (path, why) in refused {
            let (sender, answer) = std::sync::mpsc::channel();
            let of = path.clone();
            std::thread::spawn(move || sender.send(read_dictionary(&of)));
            let answer = answer.recv_timeout(Duration::from_secs(10));
            let error = answer.expect("it waits").unwrap_err();
            let denied = error.kind() == io::ErrorKind::PermissionDenied;
            assert!(
                denied || error.to_string().contains(why),
                "{path:?}: {error}"
            );
        }
    }
}
