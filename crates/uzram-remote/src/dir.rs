//! `file:`: a store in a directory, of this machine or a file server's.
//!
//! An object is written to `.tmp`, synced, and then gets its name by a link, which fails where the name is taken, or by a
//! rename. A version is the hash of the contents; whoever demands one holds a lock of the directory from the comparison to the
//! rename. Everything is for its owner alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rustix::fs::{FlockOperation, flock};

use crate::id;
use crate::store::{Meta, Store, StoreError, StoreErrorKind, Version, When};

/// Where objects are before they have a name.
const TMP: &str = ".tmp";
/// What is locked for a change that depends on a version.
const LOCK: &str = ".lock";

/// A store in a directory.
#[derive(Debug)]
pub struct DirStore {
    root: PathBuf,
}

impl DirStore {
    /// The store in a directory, which is there.
    pub fn open(root: impl Into<PathBuf>) -> Result<DirStore, StoreError> {
        let root = root.into();
        match fs::metadata(&root) {
            Ok(found) if found.is_dir() => Ok(DirStore { root }),
            Ok(_) => {
                let why = format!("{} is no directory", root.display());
                Err(StoreError::new(StoreErrorKind::NoBucket, "", why))
            }
            Err(error) => {
                let why = format!("{}: {error}", root.display());
                let kind = match error.kind() {
                    io::ErrorKind::NotFound => StoreErrorKind::NoBucket,
                    _ => StoreError::from_io("", &error).kind,
                };
                Err(StoreError::new(kind, "", why))
            }
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    fn lock(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(self.path(LOCK))?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    }

    fn write(&self, key: &str, bytes: &[u8], when: &When) -> io::Result<()> {
        let tmp = self.path(TMP);
        make_dir(&tmp)?;
        let path = self.path(key);
        let dir = path.parent().unwrap_or(&self.root);
        make_dir(dir)?;
        let unnamed = Unnamed(tmp.join(id::random()));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(&unnamed.0)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        match when {
            When::Always => fs::rename(&unnamed.0, &path)?,
            When::New => fs::hard_link(&unnamed.0, &path)?,
            When::Unchanged(version) => {
                let _lock = self.lock()?;
                let is_same = fs::read(&path).is_ok_and(|found| version_of(&found) == *version);
                if !is_same {
                    return Err(io::ErrorKind::ResourceBusy.into());
                }
                fs::rename(&unnamed.0, &path)?;
            }
        }
        File::open(dir)?.sync_all()
    }

    fn read_dir(&self, prefix: &str, found: &mut Vec<Meta>) -> io::Result<()> {
        let entries = match fs::read_dir(self.path(prefix)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') {
                continue;
            }
            let key = format!("{prefix}{name}");
            // It may have been removed since.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                self.read_dir(&format!("{key}/"), found)?;
            } else {
                found.push(describe(key, &meta));
            }
        }
        Ok(())
    }
}

/// Removes what got no name.
struct Unnamed(PathBuf);

impl Drop for Unnamed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn version_of(bytes: &[u8]) -> Version {
    Version(blake3::hash(bytes).to_hex().to_string())
}

fn describe(key: String, meta: &fs::Metadata) -> Meta {
    let modified = meta.modified().ok();
    let modified = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    Meta {
        key,
        bytes: meta.len(),
        modified_ms: modified.map_or(0, |at| at.as_millis() as u64),
    }
}

impl Store for DirStore {
    fn put(&self, key: &str, bytes: &[u8], when: &When) -> Result<Version, StoreError> {
        match self.write(key, bytes, when) {
            Ok(()) => Ok(version_of(bytes)),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                Err(StoreError::new(StoreErrorKind::Changed, key, error))
            }
            Err(error) => Err(StoreError::from_io(key, &error)),
        }
    }

    fn get(&self, key: &str, max: u64) -> Result<(Vec<u8>, Version), StoreError> {
        let failed = |error: io::Error| StoreError::from_io(key, &error);
        let file = File::open(self.path(key)).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(max + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > max {
            let why = format!("it has more than {max} bytes");
            return Err(StoreError::new(StoreErrorKind::Failed, key, why));
        }
        let version = version_of(&bytes);
        Ok((bytes, version))
    }

    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let failed = |error: io::Error| StoreError::from_io(key, &error);
        let file = File::open(self.path(key)).map_err(failed)?;
        let mut bytes = vec![0; range.end.saturating_sub(range.start) as usize];
        file.read_exact_at(&mut bytes, range.start)
            .map_err(failed)?;
        Ok(bytes)
    }

    fn head(&self, key: &str) -> Result<Meta, StoreError> {
        let meta =
            fs::metadata(self.path(key)).map_err(|error| StoreError::from_io(key, &error))?;
        Ok(describe(key.into(), &meta))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Meta>, StoreError> {
        let mut found = Vec::new();
        let read = self.read_dir(prefix, &mut found);
        read.map_err(|error| StoreError::from_io(prefix, &error))?;
        Ok(found)
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        let removed = self
            .lock()
            .and_then(|_lock| fs::remove_file(self.path(key)));
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::from_io(key, &error))
            }
            _ => Ok(()),
        }
    }

    fn is_near(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_who_write_on_a_condition_one_does() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::open(dir.path()).unwrap();
        let race = |first: u8, when: &When| {
            let wins = std::thread::scope(|scope| {
                let store = &store;
                let racers = first..first + 8;
                let racers: Vec<_> = racers
                    .map(|racer| {
                        scope.spawn(move || store.put("tag/x", &[racer], when).map(|_| racer))
                    })
                    .collect();
                let results = racers.into_iter().map(|racer| racer.join().unwrap());
                results.filter_map(Result::ok).collect::<Vec<_>>()
            });
            assert_eq!(wins.len(), 1, "{wins:?}");
            let (found, version) = store.get("tag/x", 10).unwrap();
            assert_eq!(found, wins);
            version
        };
        // The contents differ: who writes what is there changes nothing.
        let version = race(0, &When::New);
        race(8, &When::Unchanged(version));
        store.delete("tag/x").unwrap();
        store.delete("tag/x").unwrap();
        race(0, &When::New);
    }

    #[test]
    fn what_is_there_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::open(dir.path()).unwrap();
        store.put("seg/a", b"0123456789", &When::Always).unwrap();
        store.put("seg/b", b"", &When::Always).unwrap();
        assert_eq!(store.get_range("seg/a", 3..6).unwrap(), b"345");
        assert!(store.get_range("seg/a", 8..11).is_err());
        assert!(store.get("seg/a", 9).is_err());
        let mut keys: Vec<_> = store.list("seg/").unwrap();
        keys.sort_by(|a, b| a.key.cmp(&b.key));
        let keys: Vec<_> = keys.into_iter().map(|m| (m.key, m.bytes)).collect();
        assert_eq!(keys, [("seg/a".into(), 10), ("seg/b".into(), 0)]);
        assert_eq!(store.list("tag/").unwrap(), []);
        let left = fs::read_dir(dir.path().join(TMP)).unwrap().count();
        assert_eq!(left, 0, "nothing stays without a name");
        let error = store.head("seg/c").unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::NotFound);
    }
}
