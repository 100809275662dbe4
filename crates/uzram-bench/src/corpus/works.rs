//! The kinds of corpora that `uzram bench corpus` stores: those of [`super::WORK`], more programs, files and generated pages.

use std::path::Path;

use anyhow::{Context, Result};

use super::{
    Corpus, PAGE, WORK, compiler_heap, files, from_fed, from_process, heap, program,
    zeros_and_noise,
};

/// Where the pages of a corpus come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Memory of a process that was started for the purpose.
    Process,
    /// Files of this machine.
    Files,
    /// Generated.
    Made,
}

/// A kind of corpus: its name, its source, and the function that collects about so many megabytes.
pub(super) type CorpusKind = (&'static str, Source, fn(usize) -> Result<Corpus>);

/// All kinds, in the order of the manifest.
pub(super) const KINDS: [CorpusKind; 16] = [
    (WORK[0].0, Source::Process, |megabytes| heap(0, megabytes)),
    (WORK[1].0, Source::Process, |megabytes| heap(1, megabytes)),
    (WORK[2].0, Source::Process, |megabytes| heap(2, megabytes)),
    (WORK[3].0, Source::Process, |megabytes| heap(3, megabytes)),
    ("Node.js objects", Source::Process, node),
    ("Java collections", Source::Process, java),
    ("gcc heap", Source::Process, gcc),
    ("sqlite3 in memory", Source::Process, sqlite),
    ("shared libraries", Source::Files, libraries),
    ("programs", Source::Files, programs),
    ("source text", Source::Files, text),
    ("documentation", Source::Files, documentation),
    ("SQLite file", Source::Files, sqlite_file),
    ("random", Source::Made, random),
    ("zeros", Source::Made, zeros),
    ("zeros and noise", Source::Made, |n| Ok(zeros_and_noise(n))),
];

pub(super) fn libraries(megabytes: usize) -> Result<Corpus> {
    let library = |path: &Path| path.to_string_lossy().contains(".so");
    // Debian's folder first, then that of other distributions.
    let of = |dir: &str| files("shared libraries", Path::new(dir), megabytes, &library);
    of("/usr/lib/x86_64-linux-gnu").or_else(|_| of("/usr/lib64"))
}

pub(super) fn text(megabytes: usize) -> Result<Corpus> {
    let text = |path: &Path| path.extension().is_some_and(|e| e == "py" || e == "h");
    let of = |dir: &str| files("source text", Path::new(dir), megabytes, &text);
    of("/usr/lib/python3").or_else(|_| of("/usr/include"))
}

fn programs(megabytes: usize) -> Result<Corpus> {
    files("programs", Path::new("/usr/bin"), megabytes, &|_| true)
}

fn documentation(megabytes: usize) -> Result<Corpus> {
    // Most of what has another extension is compressed.
    let text = |path: &Path| match path.extension() {
        Some(extension) => ["txt", "html", "md", "rst", "xml"]
            .iter()
            .any(|e| extension == *e),
        None => true,
    };
    files(
        "documentation",
        Path::new("/usr/share/doc"),
        megabytes,
        &text,
    )
}

fn node(megabytes: usize) -> Result<Corpus> {
    // The program itself has some tens of megabytes before it does anything.
    from_process(
        "Node.js objects",
        "node",
        &["-e", include_str!("programs/objects.js")],
        megabytes + 48,
    )
}

fn gcc(megabytes: usize) -> Result<Corpus> {
    // Of what is resident, the compiler's own code is no heap.
    compiler_heap(megabytes + 24)
}

fn java(megabytes: usize) -> Result<Corpus> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("Heap.java");
    std::fs::write(&path, include_str!("programs/Heap.java"))?;
    let most = format!("-Xmx{}m", 2 * megabytes + 128);
    let path = path.display().to_string();
    // No file of counters that others could read.
    let args = [&most, "-XX:-UsePerfData", &path, "LIMIT"];
    from_process("Java collections", "java", &args, megabytes)
}

/// SQL that fills a table with about so many megabytes.
fn sql(megabytes: usize) -> String {
    let rows = (megabytes << 20) / 90;
    format!(
        "create table t(a integer primary key, b text, c real, d blob);
         insert into t(b, c, d) with recursive n(i) as (select 1 union all select i + 1 from n where i < {rows})
         select printf('customer %d street %d', abs(random() % 1000000), abs(random() % 900)), random() / 1e18,
         randomblob(abs(random() % 40)) from n;
         create index i on t(b);\n"
    )
}

fn sqlite(megabytes: usize) -> Result<Corpus> {
    // By a shell: what it prints itself waits in a buffer.
    let input = sql(megabytes) + ".shell echo ready\n";
    let args = [":memory:"];
    from_fed("sqlite3 in memory", "sqlite3", &args, &input, megabytes)
}

fn sqlite_file(megabytes: usize) -> Result<Corpus> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("db");
    let status = program("sqlite3").arg(&path).arg(sql(megabytes)).status();
    let status = status.context("cannot start sqlite3")?;
    anyhow::ensure!(status.success(), "sqlite3: {status}");
    Ok(Corpus::new("SQLite file", std::fs::read(&path)?))
}

fn zeros(megabytes: usize) -> Result<Corpus> {
    Ok(Corpus::new("zeros", vec![0; megabytes << 20]))
}

/// Random pages, which nothing compresses.
fn random(megabytes: usize) -> Result<Corpus> {
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    let mut bytes = Vec::with_capacity(megabytes << 20);
    for _ in 0..(megabytes << 20) / PAGE {
        for _ in 0..PAGE / 8 {
            // xorshift64*: every bit of its product passes for noise.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            bytes.extend(state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
        }
    }
    Ok(Corpus::new("random", bytes))
}
