//! Pages of real process memory: interpreters are started on different kinds of work, and the resident private pages of
//! their heaps are read through `/proc`. Only processes started here are read, with an environment that holds no secrets.
//! Only [`stored`] writes pages to files.

pub mod stored;
mod works;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::measure::Random;

/// Bytes in a page.
pub const PAGE: usize = 4096;

/// Whole pages, one after another.
pub struct Corpus {
    /// The kind of pages.
    pub name: String,
    bytes: Vec<u8>,
}

impl Corpus {
    /// A corpus of the whole pages in `bytes`.
    pub(crate) fn new(name: &str, mut bytes: Vec<u8>) -> Corpus {
        bytes.truncate(bytes.len() / PAGE * PAGE);
        let name = name.into();
        Corpus { name, bytes }
    }

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

    /// The pages that are not same-filled, which are those that an algorithm compresses.
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

/// The work that fills the heaps: a name, and the program with its arguments. Each program fills its memory, says `ready`
/// and waits for its input to end.
const WORK: [(&str, [&str; 3]); 4] = [
    (
        "python3 syntax trees",
        [
            "python3",
            "-c",
            include_str!("corpus/programs/syntax_trees.py"),
        ],
    ),
    (
        "python3 JSON",
        ["python3", "-c", include_str!("corpus/programs/json.py")],
    ),
    (
        "SQLite",
        ["python3", "-c", include_str!("corpus/programs/sqlite.py")],
    ),
    (
        "perl hashes",
        ["perl", "-e", include_str!("corpus/programs/hashes.pl")],
    ),
];

/// Collects about `megabytes` of resident heap pages from processes of several kinds.
pub fn process_memory(megabytes: usize) -> Result<Corpus> {
    let heaps = heaps(megabytes / WORK.len())?;
    let bytes: Vec<&[u8]> = heaps.iter().map(|heap| &heap.bytes[..]).collect();
    let name = "process memory (python3: syntax trees, JSON, SQLite; perl: hashes)";
    Ok(Corpus::new(name, bytes.concat()))
}

/// Collects about `megabytes` of heap of each kind of work, a corpus each.
pub(crate) fn heaps(megabytes: usize) -> Result<Vec<Corpus>> {
    let numbers = 0..WORK.len();
    numbers.map(|number| heap(number, megabytes)).collect()
}

/// Collects about `megabytes` of heap of one kind of work.
fn heap(number: usize, megabytes: usize) -> Result<Corpus> {
    let (name, [program, args @ ..]) = &WORK[number];
    from_process(name, program, args, megabytes)
}

/// Collects about `megabytes` of the resident heap of one process. It must do what `WORK` describes; `LIMIT` in its
/// arguments becomes a number of bytes.
pub(crate) fn from_process(
    name: &str,
    program: &str,
    args: &[&str],
    megabytes: usize,
) -> Result<Corpus> {
    from_fed(name, program, args, "", megabytes)
}

/// Writes `input` to the process's stdin, which stays open until its memory is read.
fn from_fed(
    kind: &str,
    name: &str,
    args: &[&str],
    input: &str,
    megabytes: usize,
) -> Result<Corpus> {
    let mut bytes = Vec::with_capacity(megabytes << 20);
    let limit = (megabytes << 20).to_string();
    let mut child = program(name)
        .args(args.iter().map(|arg| arg.replace("LIMIT", &limit)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let fed = match &mut child.stdin {
        Some(stdin) => stdin.write_all(input.as_bytes()).map_err(Into::into),
        None => Ok(()),
    };
    let result = fed
        .and_then(|()| wait_ready(&mut child))
        .and_then(|()| read_heap(child.id(), &mut bytes));
    drop(child.stdin.take());
    child.wait()?;
    result.with_context(|| format!("reading the memory of {name}"))?;
    Ok(Corpus::new(kind, bytes))
}

/// A program whose memory is to be read. Its environment would be read as well, so it gets only what it needs to start.
fn program(name: &str) -> Command {
    const KEPT: [&str; 6] = [
        "PATH",
        "HOME",
        "PYENV_ROOT",
        "PYENV_VERSION",
        "JAVA_HOME",
        "LD_LIBRARY_PATH",
    ];
    let mut command = Command::new(name);
    let kept = KEPT
        .into_iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.env_clear().envs(kept);
    command
}

/// Collects about `megabytes` of the heap of gcc's cc1, stopped while it compiles a generated program.
pub(crate) fn compiler_heap(megabytes: usize) -> Result<Corpus> {
    let output = Command::new("gcc").arg("-print-prog-name=cc1").output();
    let cc1 = String::from_utf8(output.context("cannot run gcc")?.stdout)?;
    let mut child = program(cc1.trim())
        .args(["-quiet", "-O2", "-o", "/dev/null", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start gcc's cc1")?;
    let mut input = child.stdin.take().context("no pipe")?;
    // The compiler reads all before it ends, and may be killed while this still writes.
    let writer = std::thread::spawn(move || input.write_all(c_source().as_bytes()));
    let mut bytes = Vec::new();
    let result = stop_at(&mut child, megabytes << 20)
        .and_then(|()| read_heap(child.id(), &mut bytes))
        .context("reading the memory of gcc's cc1");
    child.kill()?;
    child.wait()?;
    let _ = writer.join();
    result?;
    bytes.truncate(megabytes << 20);
    Ok(Corpus::new("gcc heap", bytes))
}

/// C source that keeps a compiler busy.
fn c_source() -> String {
    let mut text = String::from("struct item { long key; struct item *next; char name[24]; };\n");
    for i in 0..20_000u32 {
        let (a, b) = (i.wrapping_mul(2_654_435_761) >> 20, i % 97);
        text += &format!(
            "long step_{i}(struct item *at, long sum) {{ while (at && at->key < {a}) {{ \
             sum += at->key * {b} + at->name[{}]; at = at->next; }} return sum; }}\n",
            i % 24
        );
    }
    text
}

/// Sends SIGSTOP to a process once it has `bytes` of resident memory.
fn stop_at(child: &mut Child, bytes: usize) -> Result<()> {
    let begin = Instant::now();
    loop {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", child.id()))?;
        let resident = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
        if resident.unwrap_or(0) * PAGE >= bytes {
            let id = rustix::process::Pid::from_child(child);
            return Ok(rustix::process::kill_process(
                id,
                rustix::process::Signal::STOP,
            )?);
        }
        if child.try_wait()?.is_some() || begin.elapsed() > Duration::from_secs(60) {
            bail!("it did not reach {bytes} bytes");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Reads up to `megabytes` of files below `folder` that `wanted` accepts, in the order of their names. Each file begins
/// at a page boundary, as in the page cache.
pub(crate) fn files(
    name: &str,
    folder: &Path,
    megabytes: usize,
    wanted: &dyn Fn(&Path) -> bool,
) -> Result<Corpus> {
    let mut bytes = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        let mut paths: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        paths.sort();
        for path in paths {
            if bytes.len() >= megabytes << 20 {
                break;
            }
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if wanted(&path) {
                bytes.extend(std::fs::read(&path)?);
                bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
            }
        }
    }
    if bytes.is_empty() {
        bail!("no files for {name} below {}", folder.display());
    }
    bytes.truncate(megabytes << 20);
    Ok(Corpus::new(name, bytes))
}

/// Reads about `megabytes` of this machine's shared libraries, and as much source text.
pub(crate) fn libraries_and_text(megabytes: usize) -> Result<[Corpus; 2]> {
    Ok([works::libraries(megabytes)?, works::text(megabytes)?])
}

/// Generates alternating runs of zeros and noise: the best and the worst case of every codec.
pub(crate) fn zeros_and_noise(megabytes: usize) -> Corpus {
    let mut random = Random::new(0x9E37_79B9_7F4A_7C15);
    let mut next = || random.next();
    let mut bytes = Vec::with_capacity(megabytes << 20);
    while bytes.len() < megabytes << 20 {
        let zeros = next() % 700;
        bytes.resize(bytes.len() + zeros as usize, 0);
        for _ in 0..next() % 300 {
            bytes.push(next() as u8);
        }
    }
    Corpus::new("zeros and noise", bytes)
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
    let maps = std::fs::read(format!("/proc/{pid}/maps"))?;
    for line in String::from_utf8_lossy(&maps).lines() {
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
