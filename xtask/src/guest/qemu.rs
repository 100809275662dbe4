//! One QEMU process: how it is started, and that it ends with us.
//!
//! Channels: the kernel's log goes to the first serial port, the test's output to QEMU's stdout by a virtio port, and
//! two more virtio ports carry the run's status and the files that the test saved.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Parameters;
use super::health::End;
use super::spec::Spec;

/// Seconds from QEMU's start to the test's; some five are usual.
const BOOT: u64 = 60;
/// Seconds from the test's limit, which the guest enforces, to the end of QEMU.
const GRACE: u64 = 20;
/// How often the guest's state is looked at.
const GLANCE: Duration = Duration::from_millis(50);

/// What every guest starts from.
pub(crate) struct Machine {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
}

/// The files of one run, in the test's directory.
pub(crate) struct Logs {
    pub(crate) kernel: PathBuf,
    pub(crate) output: PathBuf,
    pub(crate) status: PathBuf,
    pub(crate) saved: PathBuf,
}

impl Logs {
    /// An empty directory for a run.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| dir.display().to_string())?;
        }
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        Ok(Self {
            kernel: dir.join("kernel.log"),
            output: dir.join("output.log"),
            status: dir.join("status"),
            saved: dir.join("saved.tar"),
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
    fn command(&self, spec: &Spec, append: &str) -> Command {
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

    /// Runs a test, showing what it prints. The test finds the parameters by lib.sh's `parameter`.
    pub(crate) fn run(&self, spec: &Spec, parameters: &Parameters, logs: &Logs) -> Result<End> {
        let append = format!(
            "ignore_loglevel uzram.test={} uzram.timeout={}{}",
            spec.name,
            spec.timeout,
            parameters.append()
        );
        let mut command = self.command(spec, &append);
        command.arg("-serial").arg(to_file("file:", &logs.kernel));
        command.args(["-device", "virtio-serial-pci"]);
        // Not the "stdio" backend: the end of its stdin would disconnect the port.
        port(&mut command, "output", "file,path=/dev/stdout".into());
        port(&mut command, "status", to_file("file,path=", &logs.status));
        port(&mut command, "saved", to_file("file,path=", &logs.saved));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut guest = Guest(command.spawn().context("cannot run qemu-system-x86_64")?);
        let output = guest.0.stdout.take().context("QEMU has no stdout")?;
        let show = {
            let file = File::create(&logs.output)?;
            let name = spec.name.clone();
            thread::spawn(move || show(output, file, &name))
        };
        let end = wait(&mut guest.0, spec, logs)?;
        drop(guest);
        // QEMU's end is the end of its output.
        let _ = show.join();
        Ok(end)
    }

    /// An interactive shell on the serial console.
    pub(crate) fn shell(&self, spec: &Spec) -> Result<()> {
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

/// Copies the test's output to a file and, with its name before each line, to our stdout.
fn show(output: ChildStdout, mut file: File, name: &str) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        // Whoever does not want to see it still gets the verdict.
        let _ = file.write_all(&line);
        let text = String::from_utf8_lossy(&line);
        let _ = writeln!(std::io::stdout(), "{name:>12} | {}", text.trim_end());
        line.clear();
    }
}

/// Waits for QEMU to end, as long as the guest may take.
fn wait(child: &mut Child, spec: &Spec, logs: &Logs) -> Result<End> {
    let start = Instant::now();
    let mut begun = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if status.success() {
                End::Itself
            } else {
                End::Broken(status)
            });
        }
        if begun.is_none() && fs::read_to_string(&logs.status).is_ok_and(|s| s.contains("begin")) {
            begun = Some(Instant::now());
        }
        let (since, limit) = match begun {
            None => (start, BOOT),
            Some(begun) => (begun, spec.timeout + GRACE),
        };
        if since.elapsed() > Duration::from_secs(limit) {
            return Ok(if begun.is_some() {
                End::Stuck(limit)
            } else {
                End::NoBoot(limit)
            });
        }
        thread::sleep(GLANCE);
    }
}
