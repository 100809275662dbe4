//! This mount namespace's mounts. The kernel writes blank, tab, newline and backslash of a path in octal.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A line of `/proc/self/mountinfo`, as far as it is needed.
pub struct MountPoint {
    /// `major:minor` of what is mounted.
    pub device: String,
    /// Where.
    pub at: PathBuf,
}

/// All mounts; none if the table cannot be read.
pub fn mounts() -> Vec<MountPoint> {
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    table
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .collect()
}

/// Fields: id, parent, major:minor, root, mount point.
fn parse(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    Some(MountPoint {
        device,
        at: unescape(fields.nth(1)?),
    })
}

/// Paths are bytes, not text: so is the result.
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
    use std::path::Path;

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
            (mount.device.as_str(), mount.at.as_path()),
            ("98:0", Path::new("/mnt/2"))
        );
        assert!(parse(b"").is_none());
    }
}
