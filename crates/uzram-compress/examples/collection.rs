//! Trains the collection that lzhs has built in: `cargo xtask collection`, which runs this as `collection OUT FOLDER`. The
//! folder holds files of pages, as `uzram bench corpus` makes them. Each file has the same weight.

use std::path::{Path, PathBuf};

use uzram_compress::{DictionaryForm, DictionarySpec, dictionary};

const PAGE: usize = 4096;
/// Pages of each file, evenly spread. The trainer looks at some 3000 in all.
const PAGES_EACH: usize = 270;
/// What no device is full of: these pages teach nothing.
const LEFT_OUT: [&str; 3] = ["random", "zeros", "zeros-and-noise"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [out, folder] = &args[..] else {
        return Err("usage: collection OUT FOLDER".into());
    };
    let mut pages = Vec::new();
    for path in files(Path::new(folder))? {
        let bytes = std::fs::read(&path)?;
        let all: Vec<&[u8; PAGE]> = bytes.as_chunks().0.iter().filter(|p| !same(p)).collect();
        let step = (all.len() / PAGES_EACH).max(1);
        let some = all.iter().step_by(step).take(PAGES_EACH);
        pages.extend(some.map(|page| page.to_vec()));
        println!("{}: {} pages", path.display(), all.len());
    }
    let samples: Vec<&[u8]> = pages.iter().map(Vec::as_slice).collect();
    // As many sets as there can be.
    let spec = DictionarySpec {
        form: DictionaryForm::Collection,
        max_bytes: 1 << 20,
    };
    let collection = dictionary::train(spec, 0, &samples, spec.max_bytes)?;
    println!("{out}: {} bytes", collection.len());
    std::fs::write(out, collection)?;
    Ok(())
}

/// The folder's files of pages, in the order of their names.
fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let wanted = path.extension().is_some_and(|e| e == "pages");
        if wanted && !LEFT_OUT.contains(&&*stem) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a page repeats one word: no codec sees those.
fn same(page: &[u8; PAGE]) -> bool {
    let words = page.as_chunks::<8>().0;
    words.iter().all(|word| *word == words[0])
}
