//! `bench rivals`, a small run on pages that are made up: everybody has a row in each table, with a speed, and those who
//! keep memory a ratio; who is missing is named.

use std::collections::BTreeSet;
use std::path::Path;

use uzram_bench::corpus::stored::{CorporaManifest, Kept, Source};
use uzram_bench::lab::{Amount, How};
use uzram_bench::rivals::run;
use uzram_testkit::{Random, peers};

/// Two corpora of pages that compress, but not too well: numbers and words.
fn keep(dir: &Path) {
    let mut manifest = CorporaManifest::default();
    let mut random = Random::new(7);
    for (name, source) in [("heap", Source::Process), ("files", Source::Files)] {
        let mut bytes = Vec::new();
        while bytes.len() < 2 << 20 {
            bytes.extend(format!("{:08x}, item", random.next() >> 32).bytes());
        }
        let pages = bytes.len() / 4096;
        bytes.truncate(pages * 4096);
        std::fs::write(dir.join(name), &bytes).unwrap();
        manifest.kept.push(Kept {
            name: name.into(),
            source,
            file: name.into(),
            pages,
            same_filled: 0,
        });
    }
    let json = serde_json::to_string(&manifest).unwrap();
    std::fs::write(dir.join("manifest.json"), json).unwrap();
}

#[test]
fn everybody_takes_part_or_is_named() {
    let dir = tempfile::tempdir().unwrap();
    keep(dir.path());
    let how = How {
        corpus: Some(dir.path().into()),
        ..How::default()
    };
    let amount = Amount {
        megabytes: 2,
        rounds: 1,
        batch: 64,
    };
    let rivals = run(&how, amount, 4 << 20, &mut |_| ()).unwrap();
    if rivals.left_out.iter().any(|who| who.starts_with("kernel")) {
        peers::skip(
            "the kernel's zram in bench rivals",
            rivals.left_out.join("; "),
        );
    } else {
        let goals = rivals.report.rows.iter().filter(|row| row.met.is_some());
        assert!(goals.count() > 20);
    }
    for name in ["raw lz4", "uzram lz4", "uzram zstd(level=1)"] {
        let rows: Vec<_> = rivals
            .figures
            .iter()
            .filter(|figure| figure.contestant == name)
            .collect();
        let tables: BTreeSet<_> = rows
            .iter()
            .map(|figure| (&figure.corpus, figure.request_bytes))
            .collect();
        let requests = if name.starts_with("raw") { 1 } else { 2 };
        assert_eq!((rows.len(), tables.len()), (2 * requests, 2 * requests));
        for figure in rows {
            assert!(figure.write_mb_s.is_some_and(|rate| rate > 0.0) && figure.read_mb_s > 0.0);
            assert!(
                figure
                    .ratio
                    .is_some_and(|ratio| (1.1..9.0).contains(&ratio))
            );
            assert_eq!(figure.memory_ratio.is_some(), name.starts_with("uzram"));
        }
    }
    // What depends on no size of requests is there once.
    let rows: Vec<_> = rivals.report.rows.iter().map(|row| &row.what).collect();
    let ratios = rows.iter().filter(|what| what.contains(" ratio over "));
    let sized = ratios.clone().filter(|what| what.contains("KiB"));
    assert_eq!(sized.count(), 0, "{rows:?}");
    // One of trueno's for each corpus (its zstd compresses nothing), and one of the kernel's.
    let kernel = !rivals.left_out.iter().any(|who| who.starts_with("kernel"));
    let each = usize::from(cfg!(feature = "rivals")) + usize::from(kernel);
    assert_eq!(ratios.count(), 2 * each, "{rows:?}");
    let trueno = rivals
        .figures
        .iter()
        .any(|figure| figure.contestant == "trueno lz4");
    assert_eq!(trueno, cfg!(feature = "rivals"));
    let named = rivals.left_out.iter().any(|who| who.starts_with("trueno"));
    assert_ne!(trueno, named);
    let json = serde_json::to_value(&rivals).unwrap();
    assert_eq!(json["benchmark"], "bench rivals");
    assert!(
        json["machine"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );
}
