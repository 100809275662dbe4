//! `uzram bench`: small runs of each benchmark, whose figures nobody looks at, but whose files are whole; what fails is
//! said, and what cannot be measured left out.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use common::{Bench, have};
use serde_json::Value;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Lines of a CSV without quotes, as many cells in each.
fn csv(path: &Path) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(path).unwrap();
    let line = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<_> = text.lines().map(line).collect();
    assert!(lines.len() > 1, "{text}");
    assert!(
        lines.iter().all(|cells| cells.len() == lines[0].len()),
        "{text}"
    );
    lines
}

/// A whole page: every element that begins ends, in the right order, and nothing is fetched. Gives the pictures' number.
fn html(path: &Path) -> usize {
    let text = std::fs::read_to_string(path).unwrap();
    let body = text
        .strip_prefix("<!DOCTYPE html>")
        .expect("the kind of document");
    let mut open = Vec::new();
    for tag in body.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("tags end");
        let name = tag.trim_end_matches('/').split_whitespace().next().unwrap();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{tag}"),
            None if tag.ends_with('/') => {}
            None => open.push(name),
        }
    }
    assert_eq!(open, Vec::<&str>::new());
    for word in ["<script", "<link", "<img", "src=", "href="] {
        assert!(!text.contains(word), "{word}");
    }
    text.matches("<svg").count()
}

#[test]
fn api_measures_every_codec_three_ways() {
    if !have("api_measures_every_codec_three_ways", &["python3", "perl"]) {
        return;
    }
    let bench = Bench::new();
    let [record, table, page] = ["a.json", "a.csv", "a.html"].map(|name| bench.path(name));
    let files = [&record, &table, &page].map(|path| path.to_str().unwrap());
    let text = bench.uzram(&[
        "bench", "api", "--quick", "--json", files[0], "--csv", files[1], "--html", files[2],
    ]);
    assert!(text.contains("registry by name"), "{text}");
    let record = json(&record);
    assert_eq!(record["benchmark"], "bench api");
    for key in ["machine", "kernel", "commit", "compiler"] {
        assert!(
            record[key].as_str().is_some_and(|text| !text.is_empty()),
            "{key}"
        );
    }
    let figures = record["figures"].as_array().unwrap();
    // liblzo2 may be missing, which is said.
    let left_out = record["left_out"].as_array().unwrap().len();
    assert_eq!(figures.len(), (4 - left_out) * 2 * 4);
    for codec in ["lz4", "zstd", "null"] {
        let same = |f: &&serde_json::Value| codec != "zstd" || f["way"] != "shipped driver";
        let its = figures.iter().filter(|f| f["codec"] == codec);
        let its = its.filter(same);
        // Same code, same pages, same objects: the ratio is the same every way.
        let ratios: Vec<f64> = its.map(|f| f["ratio"].as_f64().unwrap()).collect();
        assert!(
            ratios.iter().all(|ratio| *ratio == ratios[0]),
            "{codec}: {ratios:?}"
        );
    }
    assert!(figures.iter().all(|f| f["ns"].as_f64().unwrap() > 0.0));
    assert_eq!(csv(&table).len(), figures.len() + 1);
    assert_eq!(html(&page), 2);
}

#[test]
fn fio_measures_an_nbd_device_and_tmpfs() {
    if !have("fio_measures_an_nbd_device_and_tmpfs", &["fio"]) {
        return;
    }
    let bench = Bench::new();
    let [record, table, page] = ["f.json", "f.csv", "f.html"].map(|name| bench.path(name));
    let files = [&record, &table, &page].map(|path| path.to_str().unwrap());
    let targets = ["uzram:nbd:zstd(level=1)", "tmpfs"];
    let list = targets.join(",");
    let text = bench.uzram(&[
        "bench",
        "fio",
        "--quick",
        "--size",
        "4M",
        "--targets",
        &list,
        "--json",
        files[0],
        "--csv",
        files[1],
        "--html",
        files[2],
    ]);
    for cell in [
        "seq-write",
        "rand-write",
        "seq-read",
        "rand-read",
        "mixed-rand read",
        "mixed-seq write",
    ] {
        assert!(text.contains(cell), "{cell}: {text}");
    }
    let kept = json(&record);
    assert_eq!(kept["benchmark"], "bench fio");
    assert_eq!(kept["failed"], serde_json::json!([]));
    // Two buffers, six cells.
    let figures = kept["figures"].as_array().unwrap();
    assert_eq!(figures.len(), 2 * 6 * targets.len());
    for figure in figures {
        let mixed = figure["cell"].as_str().unwrap().starts_with("mixed");
        let sides = ["read", "write"].map(|side| !figure[side].is_null());
        assert_eq!(
            sides.iter().filter(|there| **there).count(),
            1 + usize::from(mixed),
            "{figure}"
        );
        let engine = if figure["target"] == "tmpfs" {
            "sync"
        } else {
            "nbd"
        };
        assert_eq!(figure["engine"], engine);
    }
    // tmpfs takes what is written; the static buffer is a word a page in a device of ours.
    for taken in kept["memory"].as_array().unwrap() {
        let ratio = taken["ratio"].as_f64().unwrap();
        match (
            taken["target"].as_str().unwrap(),
            taken["buffer"].as_str().unwrap(),
        ) {
            ("tmpfs", _) => assert!((0.9..1.1).contains(&ratio), "{taken}"),
            (_, "static") => assert!(ratio > 4.0, "{taken}"),
            _ => assert_eq!(taken["data_bytes"], 4 << 20, "{taken}"),
        }
    }
    assert_eq!(kept["memory"].as_array().unwrap().len(), 4);
    // Mixed cells have two lines.
    assert_eq!(csv(&table).len(), 1 + 2 * 8 * targets.len());
    // Throughput, latency and memory for each buffer, and the ratio.
    assert_eq!(html(&page), 2 * 3 + 1);
    let compared = bench.uzram(&["bench", "compare", files[0], files[0], "--target", "tmpfs"]);
    assert_eq!(compared.matches("#jobs1").count(), 2, "{compared}");
    assert_eq!(compared.matches("WRITE:").count(), 2 * 4, "{compared}");
    assert_eq!(compared.matches("seconds elapsed").count(), 2, "{compared}");
    bench.assert_clean();
}

#[test]
fn a_target_that_fails_is_said_and_the_others_go_on() {
    if !have("a_target_that_fails_is_said_and_the_others_go_on", &["fio"]) {
        return;
    }
    let bench = Bench::new();
    let mine = bench.path("mine");
    std::fs::write(&mine, vec![7; 4 << 20]).unwrap();
    // There is no folder to make the last one in.
    let nowhere = bench.path("nowhere/file");
    let list = format!("{},tmpfs,{}", mine.display(), nowhere.display());
    let args = [
        "bench",
        "fio",
        "--quick",
        "--size",
        "4M",
        "--only",
        "rand-read",
        "--targets",
        &list,
    ];
    let output = bench.output(&args);
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(1), "{out}{err}");
    assert!(
        out.contains("rand-read") && out.contains("FAILED: "),
        "{out}"
    );
    assert!(err.contains("--overwrite"), "{err}");
    assert!(err.contains("nowhere/file"), "{err}");
    assert_eq!(
        std::fs::read(&mine).unwrap(),
        vec![7; 4 << 20],
        "it was not asked for"
    );
    // With the word for it, it is.
    bench.uzram(&[
        "bench",
        "fio",
        "--quick",
        "--size",
        "4M",
        "--bs",
        "4K,128K",
        "--iodepth",
        "1,4",
        "--engine",
        "io_uring",
        "--seconds",
        "0.05",
        "--buffers",
        "50%",
        "--only",
        "rand-write",
        "--overwrite",
        "--targets",
        mine.to_str().unwrap(),
    ]);
    assert!(std::fs::read(&mine).unwrap() != vec![7; 4 << 20]);
    bench.assert_clean();
}

#[test]
fn goals_are_given_to_the_rows_that_fit_and_others_are_an_error() {
    if !have(
        "goals_are_given_to_the_rows_that_fit_and_others_are_an_error",
        &["fio"],
    ) {
        return;
    }
    let bench = Bench::new();
    let [record, page] = ["g.json", "g.html"].map(|name| bench.path(name));
    let run = [
        "bench",
        "fio",
        "--quick",
        "--size",
        "4M",
        "--seconds",
        "0.05",
        "--buffers",
        "50%",
        "--only",
        "rand-read,rand-write",
        "--targets",
        "tmpfs,uzram:nbd:null,uzram:nbd:lz4",
        "--beside",
        "uzram:nbd:null",
        "--record",
        record.to_str().unwrap(),
        "--html",
        page.to_str().unwrap(),
    ];
    bench.uzram(&run);
    let bare = json(&record);
    // Three targets, of which two are bases: three pairs, with two cells and two moments of memory.
    let rows = bare["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3 * 4, "{rows:?}");
    for row in rows {
        assert!(row["goal"].is_null() && row["met"].is_null(), "{row}");
        assert_eq!(row.as_object().unwrap().len(), 2, "{row}");
    }
    let half = "uzram:nbd:lz4 over uzram:nbd:null, memory after the fill";
    let goals = [
        &format!("{half} <= 0.75")[..],
        "rand-read, buffer 50%, 4 KiB, depth 1, jobs 1: uzram:nbd:lz4 over tmpfs, throughput >= 1000000",
        "no such row >= 1",
    ];
    let goals: Vec<_> = goals.iter().flat_map(|goal| ["--goal", *goal]).collect();
    let output = bench.output(&[&run[..], &goals].concat());
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(1), "{out}{err}");
    assert!(err.contains("goal 'no such row >= 1': no row"), "{err}");
    let line = |part: &str| out.lines().find(|line| line.contains(part)).unwrap();
    assert!(line(half).ends_with("<= 0.75    met"), "{out}");
    assert!(line("lz4 over tmpfs, thr").ends_with("MISSED"), "{out}");
    // The record is there, with what was missed.
    let kept = json(&record);
    let rows = kept["rows"].as_array().unwrap();
    let met: Vec<_> = rows.iter().filter_map(|row| row["met"].as_bool()).collect();
    assert_eq!(met.iter().filter(|met| **met).count(), 1, "{rows:?}");
    assert_eq!(met.len(), 2, "{rows:?}");
    let page = std::fs::read_to_string(&page).unwrap();
    assert!(page.contains("<td>&lt;= 0.75</td><td>met</td>"), "{page}");
    bench.assert_clean();
}

#[test]
fn interop_nbdkit_is_measured_and_gone_afterwards() {
    if !have(
        "interop_nbdkit_is_measured_and_gone_afterwards",
        &["fio", "nbdkit"],
    ) {
        return;
    }
    let bench = Bench::new();
    let temporary = bench.path("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let record = bench.path("n.json");
    let target = "nbdkit-memory:allocator=malloc";
    let mut command = bench.command(&[
        "bench",
        "fio",
        "--quick",
        "--size",
        "8M",
        "--jobs",
        "2",
        "--iodepth",
        "4",
        "--buffers",
        "50%",
        "--only",
        "rand-read,rand-write",
        "--targets",
        target,
        "--series",
        "--json",
        record.to_str().unwrap(),
    ]);
    let output = command.env("TMPDIR", &temporary).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    for line in [
        "Processing nbdkit-memory:allocator=malloc",
        "#jobs2",
        "WRITE:",
        "READ:",
        "seconds elapsed",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let kept = json(&record);
    // In the series' order, whatever was asked for first; it does not compress.
    let cells: Vec<_> = kept["figures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["cell"].clone())
        .collect();
    assert_eq!(cells, ["rand-write", "rand-read"]);
    assert!(
        kept["memory"][0]["used_bytes"].as_u64().unwrap() > 8 << 20,
        "{kept}"
    );
    assert!(kept["curves"][0]["points"].as_array().unwrap().len() > 1);
    // Its socket was there.
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    if !have("an_interrupted_run_leaves_nothing", &["fio", "kill"]) {
        return;
    }
    let bench = Bench::new();
    let temporary = bench.path("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let record = bench.path("old.json");
    std::fs::write(&record, "old").unwrap();
    let args = [
        "bench",
        "fio",
        "--size",
        "4M",
        "--seconds",
        "60",
        "--targets",
        "uzram:nbd",
        "--record",
        record.to_str().unwrap(),
    ];
    let mut child = bench
        .command(&args)
        .env("TMPDIR", &temporary)
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("seq-write"), "{line}");
    // Now there are a device and a fio.
    assert_ne!(std::fs::read_dir(&temporary).unwrap().count(), 0);
    common::sh(&format!("kill -INT {}", child.id()));
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(rest.contains("interrupted"), "{rest}");
    assert_eq!(std::fs::read_to_string(&record).unwrap(), "old");
    // The directory stays where something in it could not be removed.
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0, "{rest}");
}

#[test]
fn what_is_not_understood_is_refused_with_what_is() {
    let bench = Bench::new();
    for (args, says) in [
        (&["--targets", "zram"][..], "kernel-zram[:ALGORITHM]"),
        (&["--only", "seqwrite"], "seq-write"),
        (&["--jobs", "4-1"], "1,2,4 or 1-4"),
        (&["--buffers", "random"], "static"),
        (&["--size", "1000"], "multiple of 4096"),
        (&["--bs", "100"], "multiples of 512"),
        (&["--engine", "sync"], "libaio"),
        (&["--json", "/nowhere/a.json"], "/nowhere"),
        (&["--record", "/nowhere/a.json"], "/nowhere"),
        (
            &["--json", "/tmp/uzram-a", "--csv", "/tmp/uzram-a"],
            "two outputs",
        ),
        (&["--goal", "rand-read"], ">= or <="),
        (&["--targets", "tmpfs", "--beside", "uzram"], "tmpfs"),
        // What is known, of each part of a target.
        (&["--targets", "tmpfs,uzram:ndb"], "fuse-loop"),
        (&["--targets", "tmpfs,uzram:ndb"], "'ndb'"),
        (&["--targets", "uzram:nbd:nonsense"], "lz4, lz4hc"),
        (&["--targets", "uzram::zstd(level=99)"], "level"),
        (&["--targets", "uzram::lz4(dict=/nowhere)"], "/nowhere"),
        (
            &["--targets", "nbdkit-memory:allocator=x"],
            "allocator=zstd",
        ),
        // No machine has an exbibyte.
        (&["--size", "1E", "--targets", "tmpfs"], "tmpfs takes 1E"),
        (
            &["--size", "1E", "--targets", "uzram:nbd"],
            "it takes up to",
        ),
    ] {
        // Without fio, so that nothing begins where what should be refused is not: the size of an exbibyte least of all.
        let mut command = bench.command(&[&["bench", "fio"], args].concat());
        let output = command.env("PATH", "/nowhere").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(says), "{args:?}: {stderr}");
    }
    let stderr = bench.fails(2, &["bench", "compare", "/nowhere.json"]);
    assert!(stderr.contains("/nowhere.json"), "{stderr}");
}

#[test]
fn corpora_are_made_of_what_is_there_and_taken_from() {
    if !have(
        "corpora_are_made_of_what_is_there_and_taken_from",
        &["python3", "perl"],
    ) {
        return;
    }
    let bench = Bench::new();
    let dir = bench.path("corpus");
    let folder = dir.to_str().unwrap();
    let mut command = bench.command(&["bench", "corpus", "--dir", folder, "--megabytes", "16"]);
    // What a process is started with is in its memory.
    let output = command
        .env("UZRAM_TEST_SECRET", "do-not-keep-me-4711")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let manifest = json(&dir.join("manifest.json"));
    let kept = manifest["kept"].as_array().unwrap();
    for name in [
        "python3 JSON",
        "perl hashes",
        "shared libraries",
        "random",
        "zeros",
    ] {
        assert!(kept.iter().any(|one| one["name"] == name), "{name}: {text}");
    }
    for (name, program) in [
        ("Node.js objects", "node"),
        ("Java collections", "java"),
        ("sqlite3 in memory", "sqlite3"),
    ] {
        if have(format!("corpus of {name}"), &[program]) {
            assert!(kept.iter().any(|one| one["name"] == name), "{name}: {text}");
        }
    }
    for one in kept {
        let bytes = std::fs::read(dir.join(one["file"].as_str().unwrap())).unwrap();
        assert_eq!(
            bytes.len() as u64,
            one["pages"].as_u64().unwrap() * 4096,
            "{one}"
        );
        let secret = b"do-not-keep-me-4711";
        assert!(
            !bytes.windows(secret.len()).any(|window| window == secret),
            "{one}"
        );
    }
    let api = bench.uzram(&["bench", "api", "--quick", "--corpus", folder]);
    assert!(api.contains("python3 JSON"), "{api}");
    // One that was cut is refused, with the way to another.
    let file = dir.join("python3-json.pages");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let error = bench.fails(1, &["bench", "api", "--quick", "--corpus", folder]);
    for part in ["python3-json.pages", "manifest.json", "uzram bench corpus"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn core_is_a_command_of_the_program() {
    if !have("core_is_a_command_of_the_program", &["python3", "perl"]) {
        return;
    }
    let bench = Bench::new();
    let [record, table, page] = ["c.json", "c.csv", "c.html"].map(|name| bench.path(name));
    let files = [&record, &table, &page].map(|path| path.to_str().unwrap());
    let text = bench.uzram(&[
        "bench", "core", "--quick", "--rounds", "1", "--json", files[0], "--csv", files[1],
        "--html", files[2],
    ]);
    assert!(text.contains("lz4 write, device time over floor"), "{text}");
    assert_eq!(json(&record)["benchmark"], "bench core");
    // Labels have commas: quoted, which the simple reader here would split.
    let text = std::fs::read_to_string(&table).unwrap();
    assert!(
        text.starts_with("what,value,goal,met\n") && text.contains("\"lz4 write, floor, MB/s\","),
        "{text}"
    );
    html(&page);
}
