//! Corpora in a folder: a file of pages for each kind, and a manifest. The folder is readable by its owner alone and stays
//! outside of git. Pages come from processes started here, from files of the distribution, and from generators.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

pub use super::works::Source;
use super::{Corpus, PAGE, works};

const MANIFEST: &str = "manifest.json";

/// One corpus of the folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kept {
    /// What it is of.
    pub name: String,
    /// Where it comes from.
    pub source: Source,
    /// Its file in the folder.
    pub file: String,
    /// Number of pages.
    pub pages: usize,
    /// Of them same-filled.
    pub same_filled: usize,
}

/// What the folder holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CorporaManifest {
    /// The corpora.
    pub kept: Vec<Kept>,
    /// What could not be had, and why.
    pub skipped: Vec<String>,
}

/// Collects all corpora anew, about `megabytes` of each. Calls `progress` with the name of each.
pub fn make(
    dir: &Path,
    megabytes: usize,
    progress: &mut dyn FnMut(&str),
) -> Result<CorporaManifest> {
    ensure!(megabytes > 0, "a corpus of no megabytes is none");
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.with_context(|| format!("making {}", dir.display()))?;
    let mut manifest = CorporaManifest::default();
    for (name, source, pages) in works::KINDS {
        progress(name);
        let mut corpus = match pages(megabytes) {
            Ok(corpus) if !corpus.is_empty() => corpus,
            Ok(_) => {
                manifest.skipped.push(format!("{name}: no pages"));
                continue;
            }
            Err(error) => {
                manifest.skipped.push(format!("{name}: {error:#}"));
                continue;
            }
        };
        corpus.bytes.truncate(megabytes << 20);
        let file = name.to_lowercase().replace([' ', '.'], "-") + ".pages";
        write(&dir.join(&file), &corpus.bytes)?;
        manifest.kept.push(Kept {
            name: name.into(),
            source,
            file,
            pages: corpus.len(),
            same_filled: corpus.len() - corpus.without_same_filled().len(),
        });
    }
    let json = serde_json::to_string_pretty(&manifest)? + "\n";
    write(&dir.join(MANIFEST), json.as_bytes())?;
    Ok(manifest)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(bytes));
    written.with_context(|| format!("writing {}", path.display()))
}

/// Reads the folder's manifest.
pub fn manifest(dir: &Path) -> Result<CorporaManifest> {
    let path = dir.join(MANIFEST);
    let text = fs::read(&path)
        .with_context(|| format!("{} (uzram bench corpus makes it)", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no manifest", path.display()))
}

/// Loads about `megabytes` of process memory, an equal share of each kind.
pub fn load(dir: &Path, megabytes: usize) -> Result<Corpus> {
    load_of(dir, Source::Process, megabytes)
}

/// Loads about `megabytes` of one source, an equal share of each kind.
pub(crate) fn load_of(dir: &Path, source: Source, megabytes: usize) -> Result<Corpus> {
    let manifest = manifest(dir)?;
    let of_source = |kept: &&Kept| kept.source == source;
    let kept: Vec<&Kept> = manifest.kept.iter().filter(of_source).collect();
    let what = match source {
        Source::Process => "process memory",
        Source::Files => "files",
        Source::Made => "made-up pages",
    };
    ensure!(!kept.is_empty(), "{} holds no {what}", dir.display());
    let each = ((megabytes << 20) / kept.len()).next_multiple_of(PAGE);
    let mut bytes = Vec::new();
    for one in &kept {
        let path = dir.join(&one.file);
        let pages = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        ensure!(
            one.pages.checked_mul(PAGE) == Some(pages.len()),
            "{} has {} bytes, but {MANIFEST} says {} pages of {PAGE}: the corpus is damaged (uzram bench corpus makes it anew)",
            path.display(),
            pages.len(),
            one.pages
        );
        // From the middle: the first pages are the program's own data.
        let from = (pages.len().saturating_sub(each) / 2) / PAGE * PAGE;
        bytes.extend_from_slice(&pages[from..(from + each).min(pages.len())]);
    }
    let names: Vec<_> = kept.iter().map(|one| one.name.as_str()).collect();
    Ok(Corpus::new(
        &format!("{what} ({})", names.join(", ")),
        bytes,
    ))
}

impl std::fmt::Display for CorporaManifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:24} {:>8} {:>12}  FILE",
            "CORPUS", "PAGES", "SAME-FILLED"
        )?;
        for Kept {
            name,
            file,
            pages,
            same_filled,
            ..
        } in &self.kept
        {
            writeln!(f, "{name:24} {pages:>8} {same_filled:>12}  {file}")?;
        }
        for skipped in &self.skipped {
            writeln!(f, "left out: {skipped}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_loaded_and_nobody_else_can_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let pages = |n: u8| [[n; PAGE], [n + 1; PAGE], [n + 2; PAGE], [n + 3; PAGE]].concat();
        let mut manifest = CorporaManifest::default();
        for (name, source) in [
            ("a", Source::Process),
            ("b", Source::Made),
            ("c", Source::Process),
        ] {
            write(&dir.path().join(name), &pages(name.as_bytes()[0])).unwrap();
            manifest.kept.push(Kept {
                name: name.into(),
                source,
                file: name.into(),
                pages: 4,
                same_filled: 4,
            });
        }
        let json = serde_json::to_string(&manifest).unwrap();
        write(&dir.path().join(MANIFEST), json.as_bytes()).unwrap();
        let corpus = load(dir.path(), 1).unwrap();
        assert_eq!((corpus.len(), corpus.pages()[4][0]), (8, b'c'));
        let mode = fs::metadata(dir.path().join("a"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = super::manifest(Path::new("/nowhere")).unwrap_err();
        assert!(format!("{error:#}").contains("uzram bench corpus"));
        // Cut, by a page or by a byte, or longer: not what the manifest is of.
        for len in [3 * PAGE, 4 * PAGE - 1, 5 * PAGE] {
            fs::write(dir.path().join("c"), vec![7; len]).unwrap();
            let error = load(dir.path(), 1).err().unwrap().to_string();
            for part in [&len.to_string(), "4 pages", "/c ", "uzram bench corpus"] {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
    }
}
