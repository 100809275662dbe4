//! Reads mount tables, in which the kernel writes blank, tab, newline and backslash in octal.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One mount: the fields of a line of `mountinfo` that are used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// `major:minor` of what is mounted; major 0 for a file system with a number of its own (btrfs, overlay, tmpfs).
    pub device: String,
    /// The directory or file that it is mounted on.
    pub path: PathBuf,
    /// The mount's own options, such as `rw,nodev`.
    pub options: String,
    /// The kind of file system, such as `ext4` or `fuse.sshfs`.
    pub kind: String,
    /// What is mounted, as whoever mounted it called it.
    pub source: PathBuf,
    /// The file system's options, still escaped.
    pub file_system_options: String,
}

/// Lists all mounts of this mount namespace, the topmost of a path last. Returns none if the table cannot be read.
pub fn mounts() -> Vec<MountPoint> {
    read(Path::new("/proc/self/mountinfo"))
}

/// Lists the mounts of a table.
pub(crate) fn read(table: &Path) -> Vec<MountPoint> {
    let table = std::fs::read(table).unwrap_or_default();
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

/// Parses the fields id, parent, major:minor, root, mount point, options; any number of others up to `-`; kind, source,
/// options of the file system.
fn parse(line: &[u8]) -> Option<MountPoint> {
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let mut fields = line.split(|byte| *byte == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let path = unescape(fields.nth(1)?);
    let options = text(fields.next()?);
    fields.find(|field| *field == b"-")?;
    Some(MountPoint {
        device,
        path,
        options,
        kind: text(fields.next()?),
        source: unescape(fields.next()?),
        file_system_options: text(fields.next().unwrap_or_default()),
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

/// A name that others gave, as it may be shown in one line: what a terminal obeys, and what is no text, stands in octal as in
/// `/proc/mounts`.
pub fn shown(path: &Path) -> String {
    shown_bytes(path.as_os_str().as_bytes())
}

pub(crate) fn shown_bytes(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            // Marks that change the direction of what follows, too.
            let is_obeyed = c.is_control()
                || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            match is_obeyed {
                true => push_octal(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
                false => out.push(c),
            }
        }
        push_octal(&mut out, chunk.invalid());
    }
    out
}

fn push_octal(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        out.push_str(&format!("\\{byte:03o}"));
    }
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
        for tags in ["", " master:1", " shared:2 master:1"] {
            let line = format!("36 35 98:0 /mnt1 /mnt/2 rw,noatime{tags} - ext3 /dev/a\\040b rw");
            let mount = parse(line.as_bytes()).unwrap();
            assert_eq!(mount.device, "98:0");
            assert_eq!(mount.path, Path::new("/mnt/2"));
            assert_eq!(mount.options, "rw,noatime");
            assert_eq!(mount.kind, "ext3");
            assert_eq!(mount.source, Path::new("/dev/a b"));
            assert_eq!(mount.file_system_options, "rw");
        }
        assert!(parse(b"").is_none());
    }

    #[test]
    fn names_of_others_end_no_line() {
        for (name, text) in [
            (&b"/mnt/a b"[..], "/mnt/a b"),
            (b"/mnt/a\nb\x1b[2J\t", "/mnt/a\\012b\\033[2J\\011"),
            (b"/mnt/caf\xe9", "/mnt/caf\\351"),
            ("/gr\u{fc}n\u{202e}".as_bytes(), "/gr\u{fc}n\\342\\200\\256"),
        ] {
            assert_eq!(shown_bytes(name), text);
        }
    }
}
