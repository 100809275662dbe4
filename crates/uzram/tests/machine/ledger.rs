//! Which version of each page was begun and which was acknowledged, in memory that outlives a process that is killed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

/// Two numbers for each page. A page's numbers are changed by its owner only.
pub(crate) struct Ledger {
    /// Begun, then acknowledged, for one page after the other.
    numbers: Vec<AtomicU32>,
    /// Where they are written to as they change.
    file: Option<File>,
}

impl Ledger {
    /// Of pages that were never written.
    pub(crate) fn new(pages: u64) -> Ledger {
        Ledger {
            numbers: (0..pages * 2).map(|_| AtomicU32::new(0)).collect(),
            file: None,
        }
    }

    /// Makes a file of it, for another process, or for after it.
    pub(crate) fn save(&self, path: &Path) -> std::io::Result<()> {
        let bytes: Vec<u8> = self
            .numbers
            .iter()
            .flat_map(|n| n.load(SeqCst).to_ne_bytes())
            .collect();
        std::fs::write(path, bytes)
    }

    /// What is in a file; with `follow` changes are written to it.
    pub(crate) fn load(path: &Path, follow: bool) -> std::io::Result<Ledger> {
        let bytes = std::fs::read(path)?;
        let numbers = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|n| AtomicU32::new(u32::from_ne_bytes(*n)));
        let file = follow
            .then(|| File::options().write(true).open(path))
            .transpose()?;
        Ok(Ledger {
            numbers: numbers.collect(),
            file,
        })
    }

    pub(crate) fn pages(&self) -> u64 {
        self.numbers.len() as u64 / 2
    }

    fn set(&self, at: usize, version: u32) {
        self.numbers[at].store(version, SeqCst);
        if let Some(file) = &self.file {
            // One small write into the page cache: it is there whatever becomes of this process.
            file.write_all_at(&version.to_ne_bytes(), at as u64 * 4)
                .expect("the ledger");
        }
    }

    /// Said before a write.
    pub(crate) fn begin(&self, page: u64, version: u32) {
        self.set(page as usize * 2, version);
    }

    /// Said after it.
    pub(crate) fn acknowledge(&self, page: u64, version: u32) {
        self.set(page as usize * 2 + 1, version);
    }

    pub(crate) fn begun(&self, page: u64) -> u32 {
        self.numbers[page as usize * 2].load(SeqCst)
    }

    pub(crate) fn acknowledged(&self, page: u64) -> u32 {
        self.numbers[page as usize * 2 + 1].load(SeqCst)
    }
}
