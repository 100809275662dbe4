//! Pages of real process memory, made on the spot: interpreters are started on work of different kinds, and
//! the resident private pages of their heaps are read through `/proc`. Only processes started here are read,
//! and nothing is written to disk.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

/// Bytes in a page.
pub const PAGE: usize = 4096;

/// Whole pages, one after another.
pub struct Corpus {
    /// What they are of.
    pub name: String,
    bytes: Vec<u8>,
}

impl Corpus {
    /// Number of pages.
    pub fn len(&self) -> usize {
        self.bytes.len() / PAGE
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The pages.
    pub fn pages(&self) -> &[[u8; PAGE]] {
        self.bytes.as_chunks().0
    }

    /// The pages that hold more than one repeated word: those that an algorithm gets to see.
    pub fn without_same_filled(&self) -> Corpus {
        let same = |page: &[u8; PAGE]| {
            let words = page.as_chunks::<8>().0;
            words.iter().all(|word| *word == words[0])
        };
        let bytes = self
            .pages()
            .iter()
            .filter(|page| !same(page))
            .flatten()
            .copied()
            .collect();
        Corpus {
            name: format!("{}, same-filled left out", self.name),
            bytes,
        }
    }
}

/// The work that fills the heaps. Each program fills its memory, says `ready` and waits for its input to end.
const WORK: &[(&str, &str, &str)] = &[
    (
        "python3",
        "-c",
        "import ast, glob, os, sys
keep, used = [], lambda: int(open('/proc/self/statm').read().split()[1]) * 4096
files = sorted(glob.glob(os.path.dirname(os.__file__) + '/**/*.py', recursive=True))
while used() < LIMIT:
    for f in files:
        try: keep.append(ast.parse(open(f, encoding='utf8').read()))
        except Exception: pass
        if used() >= LIMIT: break
print('ready', flush=True); sys.stdin.read()",
    ),
    (
        "python3",
        "-c",
        "import json, sys, random
r, keep, used = random.Random(7), {}, lambda: int(open('/proc/self/statm').read().split()[1]) * 4096
i = 0
while i % 1000 or used() < LIMIT:
    i += 1
    doc = {'id': i, 'name': 'user%d' % r.randrange(10**6), 'score': r.random(),
           'tags': [r.choice(['red', 'green', 'blue', 'old', 'new']) for _ in range(r.randrange(6))],
           'text': ' '.join(r.choice(['lorem', 'ipsum', 'dolor', 'sit', 'amet']) for _ in range(20))}
    keep[doc['name']] = json.loads(json.dumps(doc)); keep[i] = json.dumps(doc)
print('ready', flush=True); sys.stdin.read()",
    ),
    (
        "python3",
        "-c",
        "import sqlite3, sys, random
r = random.Random(9); db = sqlite3.connect(':memory:')
db.execute('create table t(a integer primary key, b text, c real, d blob)')
used = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096
while used() < LIMIT:
    db.executemany('insert into t(b, c, d) values(?, ?, ?)',
        [('customer %d street %d' % (r.randrange(10**6), r.randrange(900)), r.gauss(0, 1),
          bytes(r.randrange(256) for _ in range(r.randrange(40)))) for _ in range(5000)])
    db.execute('create index if not exists i on t(b)')
print('ready', flush=True); sys.stdin.read()",
    ),
    (
        "perl",
        "-e",
        "$| = 1; srand(5); my %h;
sub used { open my $f, '<', '/proc/self/statm'; return (split ' ', <$f>)[1] * 4096 }
my $i = 0;
while ($i % 1000 || used() < LIMIT) {
    $i++; my $k = sprintf('/srv/data/%x/%d.log', int rand 65536, $i);
    $h{$k} = { size => int rand 1e6, mode => 33188, lines => [map { 'word' . int rand 500 } 1..8] };
}
print qq(ready\n); my @rest = <STDIN>;",
    ),
];

/// Collects about `megabytes` of resident heap pages from processes of several kinds.
pub fn process_memory(megabytes: usize) -> Result<Corpus> {
    let each = megabytes / WORK.len();
    let mut bytes = Vec::with_capacity(megabytes << 20);
    for (program, flag, text) in WORK {
        collect(program, &[flag, text], each, &mut bytes)?;
    }
    let name = "process memory (python3: syntax trees, JSON, SQLite; perl: hashes)".into();
    Ok(Corpus { name, bytes })
}

/// The resident heap pages of one process that does such work as [`WORK`] describes: `LIMIT` in its arguments becomes a
/// number of bytes.
pub fn of_process(name: &str, program: &str, args: &[&str], megabytes: usize) -> Result<Corpus> {
    let mut bytes = Vec::with_capacity(megabytes << 20);
    collect(program, args, megabytes, &mut bytes)?;
    let name = name.into();
    Ok(Corpus { name, bytes })
}

/// The work of `process_memory`'s processes by its number, as arguments of [`of_process`].
pub fn work(number: usize) -> (&'static str, [&'static str; 2]) {
    let (program, flag, text) = WORK[number];
    (program, [flag, text])
}

fn collect(program: &str, args: &[&str], megabytes: usize, bytes: &mut Vec<u8>) -> Result<()> {
    let limit = (megabytes << 20).to_string();
    let mut child = Command::new(program)
        .args(args.iter().map(|arg| arg.replace("LIMIT", &limit)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let result = wait_ready(&mut child).and_then(|()| read_heap(child.id(), bytes));
    drop(child.stdin.take());
    child.wait()?;
    result.with_context(|| format!("reading the memory of {program}"))
}

fn wait_ready(child: &mut Child) -> Result<()> {
    let mut line = String::new();
    let out = child.stdout.take().context("no output")?;
    BufReader::new(out).read_line(&mut line)?;
    if line.trim() != "ready" {
        bail!("it ended early");
    }
    Ok(())
}

/// Appends the resident pages of a process's private writable mappings.
fn read_heap(pid: u32, bytes: &mut Vec<u8>) -> Result<()> {
    let (mem, pagemap) = (
        File::open(format!("/proc/{pid}/mem"))?,
        File::open(format!("/proc/{pid}/pagemap"))?,
    );
    let mut maps = String::new();
    File::open(format!("/proc/{pid}/maps"))?.read_to_string(&mut maps)?;
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (Some(range), Some("rw-p")) = (fields.next(), fields.next()) else {
            continue;
        };
        let Some((start, end)) = range.split_once('-') else {
            continue;
        };
        let (start, end) = (
            u64::from_str_radix(start, 16)?,
            u64::from_str_radix(end, 16)?,
        );
        for address in (start..end).step_by(PAGE) {
            let mut entry = [0; 8];
            pagemap.read_exact_at(&mut entry, address / PAGE as u64 * 8)?;
            // Bit 63: present. Reading an absent page would invent one of zeros.
            if u64::from_le_bytes(entry) >> 63 == 1 {
                let at = bytes.len();
                bytes.resize(at + PAGE, 0);
                if mem.read_exact_at(&mut bytes[at..], address).is_err() {
                    bytes.truncate(at);
                }
            }
        }
    }
    Ok(())
}
