//! A log file with a maximum: what is full becomes `NAME.old`, in the place of the one before.
//!
//! Server and keeper of a device write to the same file, and each may find it full. So each looks at every line whether
//! the name still belongs to the file that it has open, and a lock on the file lets only one of them rename it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};

/// A log file that this process appends lines to.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    max_bytes: u64,
}

impl Journal {
    /// Opens a log, or makes it. Neither it nor the older file beside it grows beyond `max_bytes`.
    pub fn open(path: &Path, max_bytes: u64) -> io::Result<Journal> {
        Ok(Journal {
            path: path.into(),
            file: open(path, true)?,
            max_bytes,
        })
    }

    /// Appends a line, which ends in a newline.
    pub(super) fn append(&mut self, line: &[u8]) -> io::Result<()> {
        self.follow()?;
        let size = self.file.metadata()?.len();
        if size > 0 && size + line.len() as u64 > self.max_bytes {
            self.turn_over()?;
        }
        self.file.write_all(line)
    }

    /// Opens what has the name now, if that is another file: somebody else has turned the log over. What has no name any
    /// more belongs to a device that was taken down, and stays so.
    fn follow(&mut self) -> io::Result<()> {
        if self.has_name()? == Some(false) {
            self.file = open(&self.path, false)?;
        }
        Ok(())
    }

    /// Whether the name is that of the open file; `None` where nothing has it.
    fn has_name(&self) -> io::Result<Option<bool>> {
        let named = match std::fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            named => named?,
        };
        let own = self.file.metadata()?;
        Ok(Some((named.dev(), named.ino()) == (own.dev(), own.ino())))
    }

    fn turn_over(&mut self) -> io::Result<()> {
        let full = self.file.try_clone()?;
        rustix::fs::flock(&full, FlockOperation::LockExclusive)?;
        let turned = self.turn_over_alone();
        // Whoever else has it open waits for this.
        rustix::fs::flock(&full, FlockOperation::Unlock)?;
        turned
    }

    fn turn_over_alone(&mut self) -> io::Result<()> {
        match self.has_name()? {
            Some(true) => {
                let mut old = self.path.clone().into_os_string();
                old.push(".old");
                std::fs::rename(&self.path, old)?;
                self.file = open(&self.path, true)?;
            }
            Some(false) => self.file = open(&self.path, false)?,
            // Its device is gone: no name, no bound but the process's life.
            None => {}
        }
        Ok(())
    }
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .create(create)
        .append(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_writers_stay_below_the_maximum_and_lose_nothing_of_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let max = 10_000;
        let mut journals = [
            Journal::open(&path, max).unwrap(),
            Journal::open(&path, max).unwrap(),
        ];
        for n in 0..2000 {
            let line = format!("{n:010} {}\n", "x".repeat(n % 60));
            journals[n % 2].append(line.as_bytes()).unwrap();
        }
        let sizes = ["log", "log.old"].map(|name| dir.path().join(name).metadata().unwrap().len());
        assert!(sizes.iter().all(|size| *size <= max), "{sizes:?}");
        assert!(sizes.iter().sum::<u64>() > max, "{sizes:?}");
        let old = std::fs::read_to_string(dir.path().join("log.old")).unwrap();
        let new = std::fs::read_to_string(&path).unwrap();
        let numbers: Vec<usize> = (old + &new)
            .lines()
            .map(|line| line[..10].parse().unwrap())
            .collect();
        assert_eq!(numbers.last(), Some(&1999));
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        // A device that was taken down gets no log again.
        std::fs::remove_file(&path).unwrap();
        for journal in &mut journals {
            let _ = journal.append(&[b'y'; 9000]);
            let _ = journal.append(&[b'y'; 9000]);
        }
        assert!(!path.exists());
    }
}
