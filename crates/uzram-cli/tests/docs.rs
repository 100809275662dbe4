//! The `console` blocks of README.md and of `docs/howto` are run, on real devices, and what they show is compared.
//!
//! A page is one session of a shell, in namespaces of its own: mounts, processes, network, `/etc`, `/run` and `/mnt` are
//! private and end with the page. A line after `# ` or `$ ` is a command, continued by `\` or a here-document; `# exit code
//! N` at its end is the status that it must have, which otherwise is 0. Lines below it are its output, where any are shown.
//!
//! Numbers may differ, and so may the device: the first output that shows `/dev/ublkb0` where this machine has `/dev/loop3`
//! makes one of the other, in later commands as well. A line `...` stands for any lines, a word `...` for the rest of a line,
//! and the notes on a frontend are left out. A page must remove what it makes.
//!
//! A block that cannot run here is `console,guest` (a test in the guest does the same) or `console,no-run`, with the reason
//! in a comment `<!-- not run: … -->` above it.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::{have, sh};
use uzram_testkit::peers;

/// What the pages call.
const PROGRAMS: &[&str] = &[
    "age-keygen",
    "bash",
    "curl",
    "fio",
    "ip",
    "jq",
    "losetup",
    "mkfs.ext4",
    "nbdinfo",
    "promtool",
    "qemu-img",
    "unshare",
];

/// Blocks that may stay unrun, in all pages together.
const UNRUN: usize = 10;

/// Longest time of a command.
const PATIENCE: Duration = Duration::from_secs(180);

/// A command of a page.
#[derive(Debug, Default, PartialEq)]
struct Step {
    line: usize,
    command: String,
    shown: Vec<String>,
    exit: i32,
}

/// The steps of a page, and how many blocks are not run.
fn steps(text: &str) -> Result<(Vec<Step>, usize), String> {
    let (mut steps, mut unrun, mut above) = (Vec::new(), 0, "");
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(info) = line.strip_prefix("```console") {
            let block: Vec<(usize, &str)> = lines
                .by_ref()
                .take_while(|(_, line)| *line != "```")
                .collect();
            match info {
                "" => steps.extend(block_steps(&block)?),
                ",guest" | ",no-run" if above.starts_with("<!-- not run: ") => unrun += 1,
                _ => return Err(format!("line {}: a block of '{info}'", number + 1)),
            }
        } else if line.trim_start().starts_with("```console") {
            return Err(format!("line {}: an indented block", number + 1));
        }
        above = line;
    }
    Ok((steps, unrun))
}

fn block_steps(block: &[(usize, &str)]) -> Result<Vec<Step>, String> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = block.iter();
    while let Some((number, line)) = lines.next() {
        let prompt = line.strip_prefix("# ").or_else(|| line.strip_prefix("$ "));
        let Some(first) = prompt else {
            let step = steps.last_mut();
            let step = step.ok_or_else(|| format!("line {}: output of nothing", number + 1))?;
            step.shown.push((*line).to_owned());
            continue;
        };
        let mut command = first.to_owned();
        while command.ends_with('\\') {
            let more = lines.next().map_or("", |(_, line)| line);
            command += &format!("\n{more}");
        }
        if let Some((_, end)) = first.split_once("<<") {
            let end = end.trim_matches(|c: char| !c.is_alphanumeric());
            let end = end.split(['\'', ' ', '>']).next().unwrap_or(end);
            let more = lines.by_ref().map(|(_, line)| *line);
            for line in more {
                command += &format!("\n{line}");
                if line == end {
                    break;
                }
            }
        }
        let exit = match first.split_once("# exit code ") {
            Some((_, code)) => {
                let digits: String = code.chars().take_while(char::is_ascii_digit).collect();
                digits
                    .parse()
                    .map_err(|e| format!("line {}: {e}", number + 1))?
            }
            None => 0,
        };
        steps.push(Step {
            line: number + 1,
            command,
            shown: Vec::new(),
            exit,
        });
    }
    Ok(steps)
}

/// The end of a path of a block device at the start of the text: `/dev/ublkb0`.
fn device_end(text: &str) -> Option<usize> {
    let kind = ["/dev/ublkb", "/dev/loop", "/dev/nbd"]
        .into_iter()
        .find(|kind| text.starts_with(kind))?;
    let digits = text[kind.len()..]
        .bytes()
        .take_while(u8::is_ascii_digit)
        .count();
    (digits > 0).then_some(kind.len() + digits)
}

/// The first path of a block device in a text.
fn device(text: &str) -> Option<&str> {
    let (at, _) = text
        .match_indices("/dev/")
        .find(|(at, _)| device_end(&text[*at..]).is_some())?;
    Some(&text[at..at + device_end(&text[at..])?])
}

/// A word with what may differ made equal: devices, numbers with their unit, the user's run directory.
fn plain(word: &str) -> String {
    let word = word.replace("/run/user/1000/uzram", "/run/uzram");
    let (mut out, mut rest) = (String::new(), word.as_str());
    while let Some(first) = rest.chars().next() {
        if let Some(end) = device_end(rest) {
            out += "DEVICE";
            rest = &rest[end..];
        } else if first.is_ascii_digit() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
            rest = &rest[end.unwrap_or(rest.len())..];
            if rest.starts_with(['B', 'K', 'M', 'G', 'T']) {
                rest = &rest[1..];
            }
            out.push('#');
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// Whether a shown line stands for a printed one.
fn line_matches(shown: &str, printed: &str) -> bool {
    let mut printed = printed.split_whitespace();
    for word in shown.split_whitespace() {
        if word == "..." {
            return true;
        }
        if printed.next().map(plain) != Some(plain(word)) {
            return false;
        }
    }
    printed.next().is_none()
}

/// Whether what is shown stands for what was printed.
fn matches(shown: &[&str], printed: &[&str]) -> bool {
    match (shown, printed) {
        ([], _) => printed.is_empty(),
        (["..."], _) => true,
        (["...", rest @ ..], _) => (0..=printed.len()).any(|n| matches(rest, &printed[n..])),
        (_, []) => false,
        ([first, shown @ ..], [line, printed @ ..]) => {
            line_matches(first, line) && matches(shown, printed)
        }
    }
}

/// The lines that are compared.
fn compared<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    lines
        .filter(|line| !line.starts_with("uzram: frontend ") && !line.trim().is_empty())
        .collect()
}

/// The private places that a page works in, and then a shell. The run directory is a link: a loop device is known again by the
/// path of its file, which must be another one in each session.
const SESSION: &str = r#"
set -eu
for dir in /run /mnt /var/tmp; do mount -t tmpfs tmpfs $dir; done
mkdir "$SCRATCH/etc"
cp -a /etc/. "$SCRATCH/etc"
mount --bind "$SCRATCH/etc" /etc
mkdir --mode=700 "$SCRATCH/uzram"
ln -s "$SCRATCH/uzram" /run/uzram
ip link set lo up
unset SCRATCH UZRAM_RUN_DIR UZRAM_LOG
export LC_ALL=C
set +eu
"#;

/// A shell in namespaces of its own. Dropped, it ends with all that it started.
struct Session {
    shell: Child,
    stdin: ChildStdin,
    done: Receiver<String>,
    scratch: tempfile::TempDir,
    steps: usize,
    /// Devices: as the page has them, and as they are.
    devices: Vec<(String, String)>,
}

impl Session {
    fn new(programs: &Path, cwd: &Path) -> Session {
        let scratch = tempfile::tempdir().unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["--net", "bash", "--norc", "-s"])
            .env(
                "PATH",
                format!("{}:{path}:/usr/sbin:/sbin", programs.display()),
            )
            .env("SCRATCH", scratch.path())
            .current_dir(cwd)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = shell.stdin.take().unwrap();
        stdin.write_all(SESSION.as_bytes()).unwrap();
        let (sender, done) = channel();
        let stdout = BufReader::new(shell.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Session {
            shell,
            stdin,
            done,
            scratch,
            steps: 0,
            devices: Vec::new(),
        }
    }

    /// Runs a command; its status and all that it printed.
    fn run(&mut self, command: &str) -> Result<(i32, String), String> {
        self.steps += 1;
        let at = |end: &str| {
            self.scratch
                .path()
                .join(format!("{}.{end}", self.steps))
                .into_os_string()
        };
        let (script, output) = (at("sh"), at("out"));
        std::fs::write(&script, format!("{command}\n")).unwrap();
        let line = format!(
            ". {} >{} 2>&1 </dev/null; echo $?\n",
            script.display(),
            output.display()
        );
        let _ = self.stdin.write_all(line.as_bytes());
        let status = self
            .done
            .recv_timeout(PATIENCE)
            .map_err(|e| format!("no end of it: {e}"))?;
        let printed = std::fs::read(&output).unwrap_or_default();
        let status = status.parse().map_err(|e| format!("{status}: {e}"))?;
        let run_dir = self.scratch.path().join("uzram");
        let printed = String::from_utf8_lossy(&printed);
        let printed = printed.replace(&*run_dir.to_string_lossy(), "/run/uzram");
        Ok((status, printed))
    }

    /// Does a step of a page and compares.
    fn step(&mut self, step: &Step) -> Result<(), String> {
        let mut command = step.command.clone();
        for (paged, real) in &self.devices {
            command = with_device(&command, paged, real);
        }
        let (status, printed) = self.run(&command)?;
        let said = |what: &str| format!("line {}: {command}\n{what}\n{printed}", step.line);
        if status != step.exit {
            return Err(said(&format!(
                "exit code {status}, not {}; printed:",
                step.exit
            )));
        }
        let shown = compared(step.shown.iter().map(String::as_str));
        let lines = compared(printed.lines());
        if !shown.is_empty() && !matches(&shown, &lines) {
            return Err(said(&format!(
                "the page shows:\n{}\nprinted:",
                shown.join("\n")
            )));
        }
        for (shown, line) in shown.iter().zip(&lines) {
            if let (Some(paged), Some(real)) = (device(shown), device(line)) {
                self.devices.retain(|(known, _)| known != paged);
                self.devices.push((paged.into(), real.into()));
            }
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let tidy = "umount -R /mnt; swapoff -a; uzram remove --all";
        let _ = self.run(tidy);
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// A command with a device of the page replaced by the one that is there.
fn with_device(command: &str, paged: &str, real: &str) -> String {
    let mut out = String::new();
    let mut rest = command;
    while let Some(at) = rest.find("/dev/") {
        out += &rest[..at];
        rest = &rest[at..];
        let end = device_end(rest).unwrap_or("/dev/".len());
        let found = &rest[..end];
        out += if found == paged { real } else { found };
        rest = &rest[end..];
    }
    out + rest
}

/// The folder with `uzram` and `uzramd`.
fn programs() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_uzram")).parent().unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs a page to its first failure, and demands that it leaves nothing.
fn run_page(text: &str) -> Result<usize, String> {
    let (steps, _) = steps(text)?;
    if steps.is_empty() {
        return Ok(0);
    }
    let mut session = Session::new(programs(), &root());
    for step in &steps {
        session.step(step)?;
    }
    let (_, left) = session.run("uzram list --noheadings")?;
    match left.trim() {
        "" => Ok(steps.len()),
        left => Err(format!("the page leaves devices:\n{left}")),
    }
}

/// Every page with console blocks.
fn pages() -> Vec<(String, String)> {
    let howto = root().join("docs/howto");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&howto)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect();
    paths.sort();
    paths.insert(0, root().join("README.md"));
    let named = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        (name.into_owned(), std::fs::read_to_string(&path).unwrap())
    };
    paths.into_iter().map(named).collect()
}

/// Whether a page can run: `uzram bench` and `uzram advise` are a program of another package.
fn has_its_programs(name: &str, text: &str) -> bool {
    let wanted = ["uzram advise", "uzram bench"];
    let mut runs = steps(text).into_iter().flat_map(|(steps, _)| steps);
    let path = std::env::var("PATH").unwrap_or_default();
    let mut places = path.split(':').map(Path::new).chain([programs()]);
    if !runs.any(|step| wanted.iter().any(|words| step.command.contains(words)))
        || places.any(|place| place.join("uzram-bench").exists())
    {
        return true;
    }
    peers::skip(name, "no uzram-bench: cargo build --package uzram-bench");
    false
}

/// Whether this machine can run pages.
fn able(test: &str) -> bool {
    if sh("id -u").trim() != "0" {
        peers::skip(test, "not root");
        return false;
    }
    have(test, PROGRAMS, true)
}

#[test]
fn pages_do_what_they_show() {
    if !able("pages_do_what_they_show") {
        return;
    }
    let only = std::env::var("UZRAM_PAGE").unwrap_or_default();
    let pages = pages();
    let pages: Vec<_> = pages
        .iter()
        .filter(|(name, _)| name.contains(&only))
        .collect();
    // Two at a time: a command waits for devices more than it computes.
    let (left, right) = pages.split_at(pages.len() / 2);
    let run = |pages: &[&(String, String)]| -> Vec<String> {
        let mut failures = Vec::new();
        for (name, text) in pages {
            if !has_its_programs(name, text) {
                continue;
            }
            match run_page(text) {
                Ok(steps) => eprintln!("{name}: {steps} commands"),
                Err(error) => failures.push(format!("{name}, {error}")),
            }
        }
        failures
    };
    let mut failures = std::thread::scope(|scope| {
        let other = scope.spawn(|| run(right));
        let mut failures = run(left);
        failures.extend(other.join().unwrap());
        failures
    });
    failures.sort();
    assert!(failures.is_empty(), "\n{}", failures.join("\n\n"));
}

#[test]
fn few_blocks_are_not_run_and_each_says_why() {
    let mut unrun = 0;
    for (name, text) in pages() {
        let (_, more) = steps(&text).unwrap_or_else(|error| panic!("{name}, {error}"));
        unrun += more;
    }
    assert!(unrun <= UNRUN, "{unrun} blocks are not run, {UNRUN} may be");
}

#[test]
fn a_broken_page_is_noticed() {
    if !able("a_broken_page_is_noticed") {
        return;
    }
    let page = |block: &str| run_page(&format!("```console\n{block}\n```\n"));
    let good = "# uzram create --size 64M --name zram3\n/dev/ublkb0\n# blockdev --getsize64 /dev/ublkb0\n1\n\
                # uzram remove zram4   # exit code 4\n# uzram remove zram3";
    assert_eq!(page(good), Ok(4));
    for (bad, why) in [
        ("# uzram create --sizes 64M", "exit code 2"),
        ("# uzram remove zram4   # exit code 3", "exit code 4"),
        ("# uzram algorithms | head -n 1\nNAME DRIVERS ...", "shows"),
        ("# uzram create --size 64M\n/dev/vda", "shows"),
        ("# uzram create --size 64M --frontend nbd", "leaves"),
        ("# cat <<'END'\nx\nEND\nx\ny", "shows"),
    ] {
        let error = page(bad).expect_err(bad);
        assert!(error.contains(why), "{bad}: {error}");
    }
}

#[test]
fn numbers_and_devices_may_differ_and_words_may_not() {
    assert!(line_matches(
        "zram0 /dev/ublkb0 zstd 4G 318.5M /mnt",
        "zram0  /dev/loop11 zstd 512K 0B  /mnt"
    ));
    assert!(line_matches(
        "dedup  on, 5 pages ...",
        "dedup on, 7 pages share"
    ));
    assert!(!line_matches("zram0 zstd", "zram0 lz4"));
    assert!(!line_matches("zram0", "zram0 lz4"));
    assert!(matches(&["a", "...", "c"], &["a", "b", "b", "c"]));
    assert!(!matches(&["a", "..."], &["b"]));
    let text = "mkfs /dev/ublkb0 /dev/ublkb01 /dev/null";
    let wanted = "mkfs /dev/loop7 /dev/ublkb01 /dev/null";
    assert_eq!(with_device(text, "/dev/ublkb0", "/dev/loop7"), wanted);
}
