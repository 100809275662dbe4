//! Writes cpio archives of the "newc" kind, which the kernel unpacks as its first file system. Written here and not
//! by cpio(1), because that archives what lies on a disk: root's files would need root, and each a copy.
//!
//! Archives can be concatenated. Parents of what is added are made on the way.

use std::collections::BTreeSet;
use std::io::{self, Write};

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;

pub(crate) struct Archive<W> {
    out: W,
    written: usize,
    entries: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        let directories = BTreeSet::new();
        Self {
            out,
            written: 0,
            entries: 0,
            directories,
        }
    }

    /// A file that anyone may read and execute.
    pub(crate) fn file(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, FILE | 0o755, bytes)
    }

    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, SYMLINK | 0o777, target.as_bytes())
    }

    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        if path.is_empty() || !self.directories.insert(path.to_owned()) {
            return Ok(());
        }
        self.parents(path)?;
        self.entry(path, DIRECTORY | 0o755, &[])
    }

    /// Ends the archive and pads it to whole blocks, so that another can follow.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.pad(512)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn parents(&mut self, path: &str) -> io::Result<()> {
        match path.trim_matches('/').rsplit_once('/') {
            Some((parent, _)) => self.directory(parent),
            None => Ok(()),
        }
    }

    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        let path = path.trim_matches('/');
        let size = u32::try_from(bytes.len())
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, path.to_owned()))?;
        self.entries += 1;
        let name_size = path.len() as u32 + 1;
        // inode, mode, user, group, links, time, size, device, special device, name, checksum
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name_size,
            0,
        ];
        let mut header = "070701".to_owned();
        for field in fields {
            header += &format!("{field:08x}");
        }
        self.write(header.as_bytes())?;
        self.write(path.as_bytes())?;
        self.write(&[0])?;
        self.pad(4)?;
        self.write(bytes)?;
        self.pad(4)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len();
        self.out.write_all(bytes)
    }

    fn pad(&mut self, to: usize) -> io::Result<()> {
        let more = self.written.next_multiple_of(to) - self.written;
        self.write(&vec![0; more])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_laid_out_as_the_kernel_expects() {
        let mut archive = Archive::new(Vec::new());
        archive.file("/usr/bin/x", b"hello").unwrap();
        archive.symlink("usr/bin/y", "x").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 512, 0);
        // Parents come first, once.
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[14..22], b"000041ed");
        assert_eq!(&bytes[110..114], b"usr\0");
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("usr/bin\0").count(), 1);
        assert!(text.contains("usr/bin/x\0"));
        assert!(text.contains("TRAILER!!!\0"));
        assert_eq!(text.find("hello").unwrap() % 4, 0);
    }
}
