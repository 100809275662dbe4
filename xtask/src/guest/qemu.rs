//! One QEMU process: how it is started, and that it ends with us.
//!
//! Channels: the kernel's log goes to the first serial port, the tests' output to QEMU's stdout by a virtio port, and
//! two more virtio ports carry what the guest says of the tests and the files that they saved.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::Parameters;
use super::boots::Said;
use super::debian::Debian;
use super::disk::HostDisk;
use super::health::End;
use super::spec::TestSpec;

/// Seconds from QEMU's start to the first test's; some five are usual.
const BOOT: u64 = 60;
/// The same for a Debian, which starts all that it has.
const BOOT_DEBIAN: u64 = 300;
/// Seconds from a test's limit, which the guest enforces, to the end of QEMU.
const GRACE: u64 = 20;
/// Seconds from a test's end to the next one's beginning: what it left is waited for, and what it saved is sent.
const BETWEEN: u64 = 40;
/// How often the guest's state is looked at.
const GLANCE: Duration = Duration::from_millis(50);
/// guest/init begins a line of the output with this where a test begins; the test's name follows.
const MARK: u8 = 0x1E;

/// What every guest starts from.
pub(crate) struct Machine {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    /// `uzram`, for disks that this machine serves.
    pub(crate) program: PathBuf,
    /// For tests that boot one.
    pub(crate) debian: Option<Debian>,
}

/// The files of one boot.
pub(crate) struct Logs {
    pub(crate) kernel: PathBuf,
    pub(crate) status: PathBuf,
    pub(crate) saved: PathBuf,
    /// Where each test has a directory.
    results: PathBuf,
}

impl Logs {
    /// An empty directory for a boot of these tests, and one for each of them.
    pub(crate) fn new(dir: &Path, results: &Path, tests: &[&TestSpec]) -> Result<Self> {
        let of_tests = tests.iter().map(|test| results.join(&test.name));
        for dir in of_tests.chain([dir.to_owned()]) {
            if dir.exists() {
                fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
            }
            fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        }
        Ok(Self {
            kernel: dir.join("kernel.log"),
            status: dir.join("status"),
            saved: dir.join("saved.tar"),
            results: results.to_owned(),
        })
    }
}

/// The process; killed when dropped.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine {
    fn command(&self, spec: &TestSpec, append: &str) -> Command {
        // setpriv becomes QEMU and makes it die with us, however we die.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot"]);
        command.args(["-machine", "q35", "-accel", "tcg,thread=multi"]);
        // Page tables of five levels cost time and test nothing of ours. Copies by "rep movsb", which these two features
        // ask for, are emulated byte by byte: lz4 took some 55 us for a page with them and 20 us without.
        command.args(["-cpu", "max,la57=off,erms=off,fsrm=off", "-display", "none"]);
        command.args(["-m", &spec.memory, "-smp", &spec.cpus.to_string()]);
        command.arg("-kernel").arg(&self.kernel);
        command.arg("-initrd").arg(&self.initrd);
        // Stalls are a matter of a busy host for longer than on real processors.
        command.args([
            "-append",
            &format!(
                "console=ttyS0 panic=-1 oops=panic rcupdate.rcu_cpu_stall_timeout=60 \
                 tsc=nowatchdog random.trust_cpu=on {append}"
            ),
        ]);
        command
    }

    /// Boots and runs tests, showing what they print: how it ended, and what the guest said of them. The tests find the
    /// parameters by lib.sh's `parameter`.
    pub(crate) fn run(
        &self,
        tests: &[&TestSpec],
        parameters: &Parameters,
        logs: &Logs,
    ) -> Result<(End, Vec<Said>)> {
        let first = tests.first().context("a boot for no test")?;
        let list: Vec<_> = tests
            .iter()
            .map(|test| format!("{}:{}", test.name, test.timeout))
            .collect();
        let append = format!(
            "ignore_loglevel uzram.tests={}{}",
            list.join(","),
            parameters.append()
        );
        ensure!(
            append.len() < 1800,
            "too much for a kernel's command line: {append}"
        );
        let mut command = self.command(first, &append);
        command.arg("-serial").arg(to_file("file:", &logs.kernel));
        command.args(["-device", "virtio-serial-pci"]);
        // Not the "stdio" backend: the end of its stdin would disconnect the port.
        port(&mut command, "output", "file,path=/dev/stdout".into());
        port(&mut command, "status", to_file("file,path=", &logs.status));
        port(&mut command, "saved", to_file("file,path=", &logs.saved));
        let disk = match first.has_host_disk {
            true => Some(HostDisk::new(&self.program)?),
            false => None,
        };
        if let Some(disk) = &disk {
            disk.add_to(&mut command, &first.memory);
        }
        if first.is_debian {
            let debian = self.debian.as_ref().context("no Debian was made")?;
            debian.add_to(&mut command);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut guest = Guest(command.spawn().context("cannot run qemu-system-x86_64")?);
        let output = guest.0.stdout.take().context("QEMU has no stdout")?;
        let show = {
            let results = logs.results.clone();
            let first = first.name.clone();
            thread::spawn(move || show(output, &results, first))
        };
        let runs = AtomicBool::new(true);
        let ended = thread::scope(|scope| {
            let disturbing = disk
                .as_ref()
                .map(|disk| scope.spawn(|| disk.disturb(&runs)));
            let ended = wait(&mut guest.0, tests, logs);
            runs.store(false, Ordering::Relaxed);
            if let (Some(disk), Some(disturbing)) = (&disk, disturbing) {
                let disturbed = disturbing
                    .join()
                    .unwrap_or_else(|_| Err(anyhow!("a panic")));
                disk.judge(disturbed, &logs.results.join(&first.name))?;
            }
            ended
        })?;
        drop(guest);
        // QEMU's end is the end of its output.
        let _ = show.join();
        Ok(ended)
    }

    /// An interactive shell on the serial console.
    pub(crate) fn shell(&self, spec: &TestSpec) -> Result<()> {
        let mut command = self.command(spec, "loglevel=4 uzram.shell");
        command.args(["-serial", "mon:stdio"]);
        let mut guest = Guest(command.spawn().context("cannot run qemu-system-x86_64")?);
        guest.0.wait()?;
        Ok(())
    }
}

/// A virtio port of that name in the guest.
fn port(command: &mut Command, name: &str, backend: String) {
    let (kind, options) = backend.split_once(',').unwrap_or((&backend, ""));
    let chardev = format!("{kind},id={name},{options}");
    let device = format!("virtserialport,chardev={name},name={name}");
    command.args(["-chardev", &chardev, "-device", &device]);
}

/// A path as QEMU's option parser takes it.
fn to_file(prefix: &str, path: &Path) -> String {
    format!("{prefix}{}", path.display().to_string().replace(',', ",,"))
}

/// Copies each test's output to a file of its own and, with its name before each line, to our stdout.
fn show(output: ChildStdout, results: &Path, mut name: String) {
    let open = |name: &str| File::create(results.join(name).join("output.log"));
    let mut file = open(&name);
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        // The mark may follow a last line that has no end.
        let mark = line.iter().position(|byte| *byte == MARK);
        let (text, next) = line.split_at(mark.unwrap_or(line.len()));
        if !text.is_empty() {
            // Whoever does not want to see it still gets the verdict.
            if let Ok(file) = &mut file {
                let _ = file.write_all(text);
            }
            let text = String::from_utf8_lossy(text);
            let _ = writeln!(std::io::stdout(), "{name:>12} | {}", text.trim_end());
        }
        if let Some((_, next)) = next.split_first() {
            let next = String::from_utf8_lossy(next).trim_end().to_owned();
            if next != name {
                file = open(&next);
                name = next;
            }
        }
        line.clear();
    }
}

/// Waits for QEMU to end, as long as the guest may take; how it ended, and all that the guest said.
fn wait(child: &mut Child, tests: &[&TestSpec], logs: &Logs) -> Result<(End, Vec<Said>)> {
    let start = Instant::now();
    let mut said = Vec::new();
    loop {
        let ended = child.try_wait()?;
        // Not before: it may have said something more before it ended.
        listen(&logs.status, &mut said);
        if let Some(status) = ended {
            let itself = status.success();
            return Ok((
                if itself {
                    End::Itself
                } else {
                    End::Broken(status)
                },
                said,
            ));
        }
        let (since, limit) = match said.last() {
            None if tests.iter().any(|test| test.is_debian) => (start, BOOT_DEBIAN),
            None => (start, BOOT),
            Some(last) => {
                let test = last
                    .begun()
                    .and_then(|name| tests.iter().find(|t| t.name == name));
                (last.at, test.map_or(BETWEEN, |test| test.timeout + GRACE))
            }
        };
        if since.elapsed() > Duration::from_secs(limit) {
            let end = if said.is_empty() {
                End::NoBoot(limit)
            } else {
                End::Stuck(limit)
            };
            return Ok((end, said));
        }
        thread::sleep(GLANCE);
    }
}

/// Takes the whole lines that have come to the file.
fn listen(status: &Path, said: &mut Vec<Said>) {
    let text = fs::read_to_string(status).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let at = Instant::now();
    for line in whole.lines().skip(said.len()) {
        let line = line.trim_end().to_owned();
        said.push(Said { line, at });
    }
}
