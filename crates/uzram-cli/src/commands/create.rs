//! `uzram create`: reads a device's description from the command line and has it made, by the daemon where one runs, else
//! by this process.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::Ordering;

use uzram::PolicySettings;
use uzram::compress::{AlgorithmSpec, parse_params};
use uzram_control::zram::without_training;
use uzram_control::{RunDir, size};
use uzram_runtime::contents::{self, Piped};
use uzram_runtime::{Created, launch_announced, logging, process, run_in_foreground, sweep};
use uzram_spec::{
    BackingSpec, Bytes, DEFAULT_ALGORITHM, DeviceSpec, Erase, MemLimit, SelfTraining, SentSpec,
    SnapshotSource, SwapSpec, printable_line,
};

use super::{find_daemon, policy, remote};
use crate::exit::{self, Failure, Result};
use crate::frontend_args::FrontendArgs;
use crate::seal_args::{OpenArgs, UnsealingPipe};

fn algorithm_help() -> String {
    format!(
        "Compression algorithm: a name or driver name, with parameters as in zstd(level=1,dict=FILE). See \"uzram \
         algorithms\" [default: {DEFAULT_ALGORITHM}; with a snapshot that of its device]"
    )
}

/// What "-" stands for.
const STDIN: &str = "/proc/self/fd/0";
/// In the environment of a shim's command whose devices are its own.
pub(crate) const IN_SHIM: &str = "UZRAM_IN_SHIM";

/// Create a device and print its path
///
/// Prints the path of the device (or the URI of the NBD socket), nothing else, once it works. A server then runs in
/// the background and logs to the file "log" in the device's run directory. A small process beside it, the keeper,
/// holds the memory: if the server dies, it starts another, which serves the same contents again.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram create --size 8G --algorithm 'zstd(level=1)' --mem-limit 3G
  uzram create --size 8G -a 'zstd(level=-1,dict=heap.dict)' --recomp-algorithm 'zstd(level=9)'
  uzram create --size 2G --algorithm zstd --swap
  uzram create --size 8G --mem-limit 2G --policy auto
  uzram create --size 1G --frontend nbd --listen unix:/tmp/disk.sock
  uzram create --from /var/backup/zram0.uzsnap
  uzram create --from /srv/warm-cache.uzsnap --lazy
  uzram create --from ci/warm --lazy --trace boot
  uzram create --size 64G --backing fleet/host7 --policy auto,writeback=3600
  uzram create --size 512M --frontend nbd --listen tcp:127.0.0.1:10809 --foreground")]
pub(crate) struct Args {
    /// Make the device of a snapshot: a file, NAME/TAG of a remote, or - for stdin. As "uzram restore", which says more
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Make a clone: the device is there at once, and what is read is fetched from the snapshot when it is needed. Its file or
    /// remote must stay until "uzram hydrate" has brought all of it. By all frontends but ublk; not for swap
    #[arg(long, requires = "from")]
    lazy: bool,
    /// How long a request waits for the snapshot of a clone, or for a backing in a remote, before it fails, in seconds [default:
    /// 30]
    #[arg(long, value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(1..=86400))]
    remote_timeout: Option<u32>,
    /// Fetch ahead what the trace of that name lists, which is kept beside the snapshot in its remote, and add what is read beside
    /// that. The first clone with a name makes the trace
    #[arg(
        long,
        value_name = "NAME",
        requires = "lazy",
        default_value = "",
        hide_default_value = true
    )]
    trace: String,
    /// Print the JSON schema of a device's description, which the API takes as well, and make nothing
    #[arg(long, exclusive = true)]
    schema: bool,
    #[command(flatten)]
    options: Options,
}

impl Args {
    pub(crate) fn run(self, log: &str) -> Result {
        if self.schema {
            return super::print_json(&uzram_spec::spec_schema());
        }
        if self.from.is_none() && !self.options.parent.is_empty() {
            return Err(Failure::usage(
                "--parent is for a snapshot, which --from names",
            ));
        }
        if self.from.is_none() && self.options.has_keys() {
            return Err(Failure::usage(
                "keys are for a sealed snapshot, which --from names",
            ));
        }
        let clone = CloneOptions {
            lazy: self.lazy,
            remote_timeout_seconds: self.remote_timeout,
            trace: self.trace,
        };
        self.options.make(self.from, clone, log)
    }
}

/// What is said of a clone.
#[derive(Default)]
pub(crate) struct CloneOptions {
    lazy: bool,
    remote_timeout_seconds: Option<u32>,
    trace: String,
}

/// What a device can be, wherever its contents come from.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A file with the snapshot that another one was made since; may be given several times
    #[arg(long, value_name = "FILE")]
    parent: Vec<PathBuf>,
    #[command(flatten)]
    keys: OpenArgs,
    /// Size of the disk: a number of bytes, or with K, M, G, T (1.5G; 500MB is 500 times 10^6), or a part of the machine's memory
    /// (50%). Rounded up to 4096. May exceed the memory [default: half of it, at most 4G; of a snapshot its own]
    #[arg(long, short, value_name = "SIZE", allow_hyphen_values = true, value_parser = size::parse_share)]
    size: Option<u64>,
    #[arg(long, short, value_name = "ALGORITHM", help = algorithm_help())]
    algorithm: Option<AlgorithmSpec>,
    /// Algorithm for recompression, in the same form; may be given three times. Takes priorities from 1 on, or the one
    /// that is said, as in zstd(level=9,priority=2)
    #[arg(long, value_name = "ALGORITHM")]
    recomp_algorithm: Vec<AlgorithmSpec>,
    /// More parameters of the algorithm, as key=value separated by commas, such as level=3
    #[arg(
        long,
        short = 'p',
        default_value = "",
        value_name = "PARAMS",
        hide_default_value = true
    )]
    algorithm_params: String,
    /// Limit on the memory for compressed data, as the kernel's zram has it, or as total:SIZE on all memory of the
    /// device: that, the slot table (0.2 % of what was written), books, streams and dictionaries. Writes beyond it fail
    /// with ENOSPC, and what is stored stays. 25% is a part of the machine's memory, 0 is none
    #[arg(
        long,
        short,
        default_value = "0",
        value_name = "[total:]SIZE",
        allow_hyphen_values = true
    )]
    mem_limit: MemLimit,
    /// Overwrite in memory what is overwritten, discarded or moved: on-free, or off. Costs up to a tenth of the speed of
    /// writing; a backing and the buffers of the server are not erased
    #[arg(long, default_value = "off", value_name = "WHEN")]
    erase: Erase,
    /// What to do in the background, such as auto or none; see --help [default: compact=on]
    #[arg(long, value_name = "POLICY", long_help = policy::HELP)]
    policy: Option<PolicySettings>,
    /// Whether an algorithm that trains itself does so, on the first pages that are written and again when what is written
    /// has drifted: auto, or off. Others are trained by "uzram train" [default: auto]
    #[arg(long, value_name = "WHEN")]
    train: Option<SelfTraining>,
    /// Backing for writeback: FILE,SIZE (a file is made if it is not there), FILE, a block device, or NAME/PREFIX[,SIZE] of a
    /// remote: then pages leave this host. With ",seal" at its end what is written there is encrypted, with a key that only
    /// the device's memory has. A file whose path reads like a remote's is meant by ./DIRECTORY/FILE. See "uzram writeback"
    #[arg(long, value_name = "BACKING", value_parser = BackingSpec::parse)]
    backing: Option<BackingSpec>,
    /// Allow a backing, a dictionary or a socket's directory that another user owns or may write to. Whoever that is can
    /// read and change what the device holds, or answer in its place
    #[arg(long)]
    allow_foreign_files: bool,
    /// How large "uzram set NAME disksize=" may make the disk later [default: 4 times its size, for swap its size]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_share)]
    max_size: Option<u64>,
    /// Let pages of the same contents share memory. Costs some 20 bytes a page. Not for those who do not trust each
    /// other: who writes to the device can find out, from time or memory, whether a page that he guesses is on it
    #[arg(long, conflicts_with = "swap")]
    dedup: bool,
    /// Logical block size: 512 or 4096 bytes [default: 4096; with a snapshot that of its device]
    #[arg(long, value_name = "BYTES")]
    block_size: Option<u32>,
    /// Name of the device: zram and a number, or a name of its own, of up to 32 letters, digits, - and _, beside the lowest number that
    /// is free: every command knows it by both [default: that number alone]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Serve from this process, with no keeper, and log to stderr, until interrupted or removed
    #[arg(long)]
    foreground: bool,
    /// Make it without uzramd, also where that runs
    #[arg(long)]
    private: bool,
    /// Use the device as swap: makes it fit for that and switches it on with mkswap and swapon --discard
    #[arg(long, conflicts_with = "foreground")]
    swap: bool,
    /// Memory that a swap device keeps free for bursts; what it has no memory for it fails at once [default: 32M]
    #[arg(long, value_name = "SIZE", requires = "swap", value_parser = size::parse)]
    reserve: Option<u64>,
    /// Priority of the swap area, -1 to 32767: the kernel fills the highest first [default: 100]
    #[arg(long, value_name = "N", requires = "swap", allow_hyphen_values = true,
          value_parser = clap::value_parser!(i32).range(-1..=32767))]
    swap_priority: Option<i32>,
    /// Leave vm.min_free_kbytes as it is. A swap device raises it to a 16th of the memory, 32 to 64 MiB, while it lives
    #[arg(long, requires = "swap")]
    keep_min_free: bool,
    /// The most that the log of its processes takes, and again the older log beside it. Lines that come again are counted
    #[arg(long, default_value = "1M", value_name = "SIZE", value_parser = size::parse)]
    log_max: u64,
    /// Say nothing if somebody uses the device as swap though its frontend is not safe for that: only ublk is
    #[arg(long, conflicts_with = "swap")]
    allow_unsafe_swap: bool,
    #[command(flatten)]
    frontend: FrontendArgs,
}

impl Options {
    /// Whether keys were named.
    pub(crate) fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Makes a device, of a snapshot if there is one, and prints its path.
    pub(crate) fn make(self, from: Option<PathBuf>, clone: CloneOptions, log: &str) -> Result {
        logging::parse(log)?;
        let foreground = self.foreground;
        let mut private = self.private;
        let is_stdin = from.as_deref() == Some(Path::new("-"));
        let of_remote = from.as_deref().and_then(remote::reference);
        if of_remote.is_some() && !self.parent.is_empty() {
            let message = "a snapshot of a remote needs no --parent: all of it is there";
            return Err(Failure::usage(message));
        }
        let from = from.map(|file| match &of_remote {
            _ if is_stdin => SnapshotSource::file(STDIN),
            None => SnapshotSource::file(file),
            Some((name, tag)) => SnapshotSource::tag(name, tag),
        });
        let train_is_given = self.train.is_some();
        let mut spec = self.spec(from, clone, log)?;
        // Another algorithm may be a snapshot's.
        let is_own = |from: &SnapshotSource| from.own_algorithm;
        if train_is_given
            && spec.from.as_ref().is_none_or(is_own)
            && let Some(note) = without_training(&spec.algorithm.name)
        {
            tell(&note);
        }
        // Until the device is there.
        let piped = match of_remote {
            Some(_) => None,
            None => pass_on_pipe(&mut spec, is_stdin)?,
        };
        // The daemon does not have this process's pipes.
        private |= piped.is_some();
        if foreground {
            let run = sweep::swept_run_dir()?;
            return run_in_foreground(&spec, &run, |path| {
                let mut stdout = std::io::stdout().lock();
                writeln!(stdout, "{}", printable_line(path)).and_then(|()| stdout.flush())
            });
        }
        let run = RunDir::of_user();
        if !private && let Some(daemon) = find_daemon(&run)? {
            // An interrupt waits for the daemon's answer. Should this process end before it confirms, the daemon takes
            // the device down.
            let interrupted = process::hold_interrupts()?;
            let created = daemon.create(&spec)?;
            created.notes.lines().for_each(tell);
            if interrupted.load(Ordering::Relaxed) {
                daemon.take_back(&created)?;
                let message = format!("interrupted: {} was removed", created.name);
                return Err(Failure::failed(message));
            }
            announce(&created.path)?;
            return daemon.confirm(&created).map_err(|error| {
                let message = format!("{} was printed, but not confirmed: {error}", created.path);
                let hint = "uzram list says whether it is still there";
                Failure::failed(message).with_hint(hint)
            });
        }
        if std::env::var_os(IN_SHIM).is_some() {
            let message = "in a shim devices are made through /sys/block and zramctl, or by uzramd, which does not run: \
                a server that is started here would see nothing but the shim";
            return Err(Failure::impossible(message));
        }
        let created = launch_announced(&spec, &run, &mut tell, |created| announce(&created.path));
        created.map(drop)
    }

    /// Makes a device of what another host sends, and has its path announced.
    pub(crate) fn take_over(
        self,
        from: impl Read + Send + 'static,
        log: &str,
        mut announce: impl FnMut(&str) -> std::io::Result<()>,
    ) -> Result {
        logging::parse(log)?;
        if self.foreground {
            let message = "what another host hands over is not served in the foreground: no keeper would have it";
            return Err(Failure::usage(message));
        }
        let source = SnapshotSource::file(STDIN);
        let mut spec = self.spec(Some(source), CloneOptions::default(), log)?;
        // Until the device is there.
        let _piped = contents::pass_on(from, &mut spec)?;
        let created = launch_announced(&spec, &RunDir::of_user(), &mut tell, |created| {
            let announced = announce(&printable_line(&created.path));
            announced.map_err(|error| Failure::failed(format!("the other side is gone: {error}")))
        });
        created.map(drop)
    }

    /// Makes a device of which another host has all but the first frame. `announce` is told of it before it is kept.
    pub(crate) fn take_over_lazily(
        self,
        description: PathBuf,
        sent: SentSpec,
        remote_timeout_seconds: Option<u32>,
        log: &str,
        announce: impl FnOnce(&Created) -> Result,
    ) -> Result {
        logging::parse(log)?;
        if self.foreground {
            let message = "what another host hands over is not served in the foreground: no keeper would have it";
            return Err(Failure::usage(message));
        }
        if self.swap {
            let message =
                "what is sent with --lazy is no swap: swap must not wait for another host";
            return Err(Failure::usage(message));
        }
        let clone = CloneOptions {
            lazy: true,
            remote_timeout_seconds,
            trace: String::new(),
        };
        let mut spec = self.spec(Some(SnapshotSource::file(description)), clone, log)?;
        if let Some(from) = &mut spec.from {
            from.sent = Some(sent);
        }
        launch_announced(&spec, &RunDir::of_user(), &mut tell, announce).map(drop)
    }

    /// The description of the device that was asked for.
    fn spec(
        self,
        from: Option<SnapshotSource>,
        clone: CloneOptions,
        log: &str,
    ) -> Result<DeviceSpec> {
        let standard = DeviceSpec::default();
        let from = from.map(|from| self.keys.describe(from));
        let from = from.map(|from| SnapshotSource {
            parents: self.parent,
            own_algorithm: self.algorithm.is_some() || !self.algorithm_params.is_empty(),
            own_recomp_algorithm: !self.recomp_algorithm.is_empty(),
            own_block_size: self.block_size.is_some(),
            lazy: clone.lazy,
            remote_timeout_seconds: clone.remote_timeout_seconds.filter(|_| clone.lazy),
            trace: clone.trace.clone(),
            ..from
        });
        let mut algorithm = self.algorithm.unwrap_or(standard.algorithm);
        let more = parse_params(&self.algorithm_params).map_err(uzram::Error::from)?;
        algorithm.params.extend(more);
        let swap = self.swap.then(|| {
            let default = SwapSpec::default();
            SwapSpec {
                reserve: self.reserve.map_or(default.reserve, Bytes),
                priority: self.swap_priority.unwrap_or(default.priority),
                keep_min_free: self.keep_min_free,
            }
        });
        let mut backing = self.backing.map(remote::known_backing).transpose()?;
        let cold = backing.as_mut().filter(|backing| backing.is_remote());
        if clone.remote_timeout_seconds.is_some() && !clone.lazy && cold.is_none() {
            let message = "--remote-timeout is for --lazy, and for --backing NAME/PREFIX";
            return Err(Failure::usage(message));
        }
        if let Some(backing) = cold {
            backing.remote_timeout_seconds = clone.remote_timeout_seconds;
        }
        let mut spec = DeviceSpec {
            name: self.name,
            size: self.size.map(Bytes),
            max_size: self.max_size.map(Bytes),
            block_size: self.block_size.unwrap_or(standard.block_size),
            algorithm,
            recomp_algorithm: self.recomp_algorithm,
            mem_limit: self.mem_limit,
            erase: self.erase,
            policy: self.policy.unwrap_or_else(PolicySettings::standard),
            train: self.train.unwrap_or_default(),
            dedup: self.dedup,
            backing,
            from,
            allow_foreign_files: self.allow_foreign_files,
            swap,
            allow_unsafe_swap: self.allow_unsafe_swap,
            frontend: self.frontend.spec,
            log: log.into(),
            log_max: Bytes(self.log_max),
            ..DeviceSpec::default()
        };
        spec.resolve_paths(&std::env::current_dir()?)?;
        Ok(spec)
    }
}

/// Reads a snapshot that comes by a pipe, this process's stdin or a named one, on behalf of the device's server.
fn pass_on_pipe(spec: &mut DeviceSpec, is_stdin: bool) -> Result<Option<Piped>> {
    let Some(source) = &spec.from else {
        return Ok(None);
    };
    if is_stdin {
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            let message = "stdin is a terminal: give a file, or have a snapshot piped in";
            return Err(Failure::usage(message));
        }
        return match source.is_sealed() {
            false => contents::pass_on(stdin, spec).map(Some),
            true => pass_on_unsealed(Stdio::inherit(), spec).map(Some),
        };
    }
    let is_pipe = source
        .file
        .metadata()
        .is_ok_and(|of| of.file_type().is_fifo());
    if !is_pipe {
        return Ok(None);
    }
    // Waits for whoever writes to it.
    let pipe = File::open(&source.file)?;
    match source.is_sealed() {
        false => contents::pass_on(pipe, spec).map(Some),
        true => pass_on_unsealed(pipe.into(), spec).map(Some),
    }
}

/// Passes on what is in the seal of a pipe. The server gets no key, and what it reads is not sealed.
fn pass_on_unsealed(from: Stdio, spec: &mut DeviceSpec) -> Result<Piped> {
    let Some(source) = &mut spec.from else {
        return Err(Failure::usage("no snapshot was asked for"));
    };
    if !source.parents.is_empty() {
        let message = "a sealed snapshot from a pipe must be complete: restore one with parents from its file";
        return Err(Failure::usage(message));
    }
    let pipe = UnsealingPipe::start(source, from)?;
    (source.identities, source.passphrase_file) = (Vec::new(), None);
    contents::pass_on(pipe, spec)
}

/// Prints a path. A device whose path nobody learns is worth nothing: fails also where nobody reads.
fn announce(path: &str) -> Result {
    let mut stdout = std::io::stdout().lock();
    let printed = writeln!(stdout, "{}", printable_line(path)).and_then(|()| stdout.flush());
    printed.map_err(|e| Failure::failed(format!("cannot print the path: {e}")))
}

fn tell(note: &str) {
    exit::tell(note);
}
