//! The kinds of corpora that `uzram bench corpus` stores: those of [`super::WORK`], more programs, files and generated pages.

use std::path::Path;

use anyhow::{Context, Result};

use super::{
    Corpus, PAGE, WORK, collect, collect_fed, compiler_heap, files, program, zeros_and_noise,
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
pub(super) type Kind = (&'static str, Source, Box<dyn Fn(usize) -> Result<Corpus>>);

/// All kinds, in the order of the manifest.
pub(super) fn kinds() -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    for (name, program, flag, text) in WORK {
        kinds.push((
            name,
            Source::Process,
            Box::new(move |megabytes| {
                let mut bytes = Vec::new();
                collect(program, &[flag, text], megabytes, &mut bytes)?;
                Ok(Corpus::new(name, bytes))
            }),
        ));
    }
    kinds.push(("Node.js objects", Source::Process, Box::new(node)));
    kinds.push(("Java collections", Source::Process, Box::new(java)));
    kinds.push(("gcc heap", Source::Process, Box::new(gcc)));
    kinds.push(("sqlite3 in memory", Source::Process, Box::new(sqlite)));
    kinds.push(("shared libraries", Source::Files, Box::new(libraries)));
    kinds.push(("source text", Source::Files, Box::new(text)));
    kinds.push(("SQLite file", Source::Files, Box::new(sqlite_file)));
    kinds.push((
        "random",
        Source::Made,
        Box::new(|megabytes| Ok(Corpus::new("random", random(megabytes)))),
    ));
    kinds.push((
        "zeros",
        Source::Made,
        Box::new(|megabytes| Ok(Corpus::new("zeros", vec![0; megabytes << 20]))),
    ));
    kinds.push((
        "zeros and noise",
        Source::Made,
        Box::new(|megabytes| Ok(zeros_and_noise(megabytes))),
    ));
    kinds
}

fn libraries(megabytes: usize) -> Result<Corpus> {
    let library = |path: &Path| path.to_string_lossy().contains(".so");
    // Debian's folder first, then that of other distributions.
    let of = |dir: &str| files("shared libraries", Path::new(dir), megabytes, &library);
    of("/usr/lib/x86_64-linux-gnu").or_else(|_| of("/usr/lib64"))
}

fn text(megabytes: usize) -> Result<Corpus> {
    let text = |path: &Path| path.extension().is_some_and(|e| e == "py" || e == "h");
    let of = |dir: &str| files("source text", Path::new(dir), megabytes, &text);
    of("/usr/lib/python3").or_else(|_| of("/usr/include"))
}

const NODE: &str = "const keep = new Map(); let i = 0, seed = 7;
const next = n => (seed = (seed * 1103515245 + 12345) % 2147483648) % n;
while (i % 1000 || process.memoryUsage().rss < LIMIT) {
  const doc = { id: i++, name: 'user' + next(1e6), score: next(1e6) / 1e6, tags: ['red', 'green', 'blue'].slice(next(3)),
    text: Array.from({ length: 12 }, () => ['lorem', 'ipsum', 'dolor', 'sit', 'amet'][next(5)]).join(' ') };
  keep.set(doc.name, JSON.parse(JSON.stringify(doc))); keep.set(i, JSON.stringify(doc));
}
console.log('ready'); process.stdin.resume();";

fn node(megabytes: usize) -> Result<Corpus> {
    let mut bytes = Vec::new();
    // The program itself has some tens of megabytes before it does anything.
    collect("node", &["-e", NODE], megabytes + 48, &mut bytes)?;
    Ok(Corpus::new("Node.js objects", bytes))
}

fn gcc(megabytes: usize) -> Result<Corpus> {
    // Of what is resident, the compiler's own code is no heap.
    compiler_heap(megabytes + 24)
}

const JAVA: &str = "import java.util.*;
class Heap {
  record Item(long id, String name, double score, List<String> tags) {}
  public static void main(String[] a) throws Exception {
    long limit = Long.parseLong(a[0]); var random = new Random(7); var keep = new HashMap<String, Item>();
    var own = Runtime.getRuntime(); String[] tags = {\"red\", \"green\", \"blue\", \"old\", \"new\"};
    for (int i = 0; i % 1000 != 0 || own.totalMemory() - own.freeMemory() < limit; i++) {
      var some = new ArrayList<String>();
      for (int n = random.nextInt(6); n > 0; n--) some.add(tags[random.nextInt(5)] + n);
      keep.put(\"/srv/data/\" + i + \".log\", new Item(i, \"user\" + random.nextInt(1000000), random.nextDouble(), some));
    }
    System.out.println(\"ready\"); System.in.read(); if (keep.size() < 1) System.exit(1);
  }
}
";

fn java(megabytes: usize) -> Result<Corpus> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("Heap.java");
    std::fs::write(&path, JAVA)?;
    let most = format!("-Xmx{}m", 2 * megabytes + 128);
    let path = path.display().to_string();
    let mut bytes = Vec::new();
    // No file of counters that others could read.
    collect(
        "java",
        &[&most, "-XX:-UsePerfData", &path, "LIMIT"],
        megabytes,
        &mut bytes,
    )?;
    Ok(Corpus::new("Java collections", bytes))
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
    let mut bytes = Vec::new();
    // By a shell: what it prints itself waits in a buffer.
    let input = sql(megabytes) + ".shell echo ready\n";
    collect_fed("sqlite3", &[":memory:"], &input, megabytes, &mut bytes)?;
    Ok(Corpus::new("sqlite3 in memory", bytes))
}

fn sqlite_file(megabytes: usize) -> Result<Corpus> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("db");
    let status = program("sqlite3").arg(&path).arg(sql(megabytes)).status();
    let status = status.context("cannot start sqlite3")?;
    anyhow::ensure!(status.success(), "sqlite3: {status}");
    Ok(Corpus::new("SQLite file", std::fs::read(&path)?))
}

/// Random pages, which nothing compresses.
fn random(megabytes: usize) -> Vec<u8> {
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
    bytes
}
