//! Reads this mount namespace's mount table, in which the kernel writes blank, tab, newline and backslash in octal.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount: the fields of a line of `/proc/self/mountinfo` that are used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// `major:minor` of what is mounted.
    pub device: String,
    /// The directory or file that it is mounted on.
    pub path: PathBuf,
}

/// Lists all mounts, the topmost of a path last. Returns none if the table cannot be read.
pub fn mounts() -> Vec<MountPoint> {
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    table
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .collect()
}

/// Whether anything is mounted at exactly this absolute path. Asks the mount table, so that a mount whose server died
/// cannot make the call fail.
pub fn is_mount_point(path: &Path) -> bool {
    mounts().iter().any(|mount| mount.path == path)
}

/// Parses the fields id, parent, major:minor, root, mount point.
fn parse(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    Some(MountPoint {
        device,
        path: unescape(fields.nth(1)?),
    })
}

/// Decodes octal escapes. Works on bytes, since paths need not be text.
pub(crate) fn unescape(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let digits = (text[at] == b'\\')
            .then(|| text.get(at + 1..at + 4))
            .flatten();
        let code = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        out.push(code.unwrap_or(text[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        for (text, path) in [
            ("/mnt/a\\040b\\134c", "/mnt/a b\\c"),
            ("/plain/\u{e4}", "/plain/\u{e4}"),
            ("/odd\\9", "/odd\\9"),
        ] {
            assert_eq!(unescape(text.as_bytes()), Path::new(path));
        }
        let mount =
            parse(b"36 35 98:0 /mnt1 /mnt/2 rw,noatime master:1 - ext3 /dev/root rw").unwrap();
        assert_eq!(
            (mount.device.as_str(), mount.path.as_path()),
            ("98:0", Path::new("/mnt/2"))
        );
        assert!(parse(b"").is_none());
    }
}
