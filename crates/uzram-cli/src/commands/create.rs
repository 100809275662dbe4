//! `uzram create`: makes a device. Without `--foreground` the program starts itself anew as the device's keeper, which
//! starts the server, waits until that has printed the device's path, and leaves them alone.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use uzram::compress::{AlgorithmSpec, parse_params};
use uzram::{Device, PolicySettings};
use uzram_control::{Request, RunDir, number, size};
use uzram_daemon::{Client, Create, SOCKET};

use super::{choice, policy};
use crate::exit::{self, Failure, Result};
use crate::frontends::{Choice, Kind, Settings};
use crate::{logging, server, swap, sweep, watermark};

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
  uzram create --size 512M --frontend nbd --listen tcp:127.0.0.1:10809 --foreground")]
pub(crate) struct Args {
    /// Size of the disk: a number of bytes, or with K, M, G, T. Rounded up to 4096. May exceed the machine's
    /// memory [default: half of the memory, at most 4G]
    #[arg(long, short, value_name = "SIZE", allow_hyphen_values = true, value_parser = size::parse)]
    size: Option<u64>,
    /// Compression algorithm: a name or driver name, with parameters as in zstd(level=1,dict=FILE). See "uzram
    /// algorithms"
    #[arg(long, short, default_value = "lz4", value_name = "ALGORITHM")]
    algorithm: AlgorithmSpec,
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
    /// Limit on the memory for compressed data; writes beyond it fail. 0 is none
    #[arg(long, short, default_value = "0", value_name = "SIZE", allow_hyphen_values = true,
          value_parser = size::parse)]
    mem_limit: u64,
    /// What to do in the background, such as auto; see --help [default: none]
    #[arg(long, value_name = "POLICY", long_help = policy::HELP)]
    policy: Option<PolicySettings>,
    /// Backing for writeback: FILE,SIZE (a file is made if it is not there), FILE or a block device. See "uzram writeback"
    #[arg(long, value_name = "BACKING", value_parser = super::set::backing)]
    backing: Option<(std::path::PathBuf, Option<u64>)>,
    /// How large "uzram set NAME disksize=" may make the disk later [default: 4 times its size, for swap its size]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_size: Option<u64>,
    /// Let pages of the same contents share memory. Costs some 20 bytes a page. Not for those who do not trust each
    /// other: who writes to the device can find out, from time or memory, whether a page that he guesses is on it
    #[arg(long, conflicts_with = "swap")]
    dedup: bool,
    /// How the device is served; see --help
    #[arg(long, short, default_value = "auto", value_name = "NAME", long_help = Choice::help())]
    frontend: Choice,
    /// Logical block size: 512 or 4096 bytes
    #[arg(long, default_value_t = 4096, value_name = "BYTES")]
    block_size: u32,
    /// Name of the device: zram and a number [default: the lowest that is free]
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
    #[command(flatten)]
    pub(crate) settings: Settings,
}

impl Args {
    pub(crate) fn run(self, log: &str) -> Result {
        logging::parse(log)?;
        if self.foreground {
            let run = sweep::swept_run_dir()?;
            server::run_in_foreground(&self, &run, log)
        } else {
            if !self.private
                && let Some(daemon) = Client::find(&RunDir::of_user().file(SOCKET))
            {
                return create_by(&daemon);
            }
            if std::env::var_os(IN_SHIM).is_some() {
                let message = "in a shim devices are made through /sys/block and zramctl, or by uzramd, which does not run: \
                    a server that is started here would see nothing but the shim";
                return Err(Failure::new(exit::Kind::Impossible, message));
            }
            let priority = self.swap_priority.unwrap_or(swap::DEFAULT_PRIORITY);
            start_keeper(self.swap.then_some(priority))
        }
    }

    /// Refuses what can be seen to be impossible before anything is made.
    pub(crate) fn check(mut self) -> Result {
        if let Some(name) = self.name().filter(|name| number(name).is_none()) {
            let message = format!("'{name}' is not a device name: it takes 'zram' and a number");
            return Err(Failure::new(exit::Kind::Usage, message));
        }
        self.frontend()?;
        // Neither a backing nor a reserve is to be taken.
        (self.backing, self.swap) = (None, false);
        self.builder()?.build()?;
        Ok(())
    }

    /// The name that was asked for.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The frontend to use, and for `auto` why.
    pub(crate) fn frontend(&self) -> Result<(&'static Kind, Option<String>)> {
        let (kind, why) = self.frontend.resolve(&self.settings, self.swap)?;
        self.settings.check(kind)?;
        Ok((kind, why))
    }

    /// Whether the device is to serve as swap.
    pub(crate) fn is_swap(&self) -> bool {
        self.swap
    }

    /// Makes the machine fit for the swap device of that directory.
    pub(crate) fn prepare_machine(&self, dir: &Path) {
        if !self.keep_min_free {
            watermark::raise(dir);
        }
    }

    /// Refuses a swap device that the machine has no memory for.
    pub(crate) fn check_swap(&self) -> Result {
        let size = self.size.unwrap_or_else(default_size);
        swap::check_room(size, self.reserve_bytes(), self.mem_limit)
    }

    fn reserve_bytes(&self) -> u64 {
        self.reserve.unwrap_or(swap::DEFAULT_RESERVE)
    }

    /// The settings of a device to be made. Reads the files of dictionaries.
    pub(crate) fn builder(&self) -> Result<uzram::Builder> {
        let mut primary = self.algorithm.clone();
        let more = parse_params(&self.algorithm_params).map_err(uzram::Error::from)?;
        primary.params.extend(more);
        let mut device = self
            .attacher(Device::builder(self.size.unwrap_or_else(default_size)))
            .choose(choice::read(primary)?)
            .mem_limit_bytes(self.mem_limit)
            .dedup(self.dedup)
            .logical_block_size(self.block_size);
        let settings = self.policy.unwrap_or_default();
        device = device.policy(settings);
        if settings.recompress_seconds.is_some() && self.recomp_algorithm.is_empty() {
            device = device.secondary(1, choice::for_recompression());
        }
        if let Some(bytes) = self.max_size {
            device = device.max_size_bytes(bytes);
        }
        if let Some((path, size_bytes)) = &self.backing {
            let usage = |message| Failure::new(exit::Kind::Usage, message);
            crate::backing::check(path).map_err(usage)?;
            device = device.backing(path, *size_bytes);
        }
        let mut taken = Vec::new();
        for spec in &self.recomp_algorithm {
            let mut spec = spec.clone();
            let free = (1..).find(|priority| !taken.contains(priority));
            let priority = choice::take_priority(&mut spec)?
                .or(free)
                .unwrap_or_default();
            if taken.contains(&priority) {
                let message = format!("two algorithms for recompression have priority {priority}");
                return Err(Failure::new(exit::Kind::Usage, message));
            }
            taken.push(priority);
            device = device.secondary(priority, choice::read(spec)?);
        }
        Ok(device)
    }

    /// What is to be said of a device that an image describes: nothing that the image says itself.
    pub(crate) fn resumer(&self) -> uzram::Builder {
        self.attacher(Device::builder(0))
    }

    fn attacher(&self, device: uzram::Builder) -> uzram::Builder {
        let device = device.registry(uzram_control::zram::algorithms().clone());
        match self.swap {
            true => device.reserve_bytes(self.reserve_bytes()),
            false => device,
        }
    }
}

/// Lets the daemon make it, from the same command line.
fn create_by(daemon: &Client) -> Result {
    let mut words = Vec::new();
    for word in std::env::args_os() {
        let word = word.into_string();
        words.push(word.map_err(|word| {
            let message = format!("{}: not UTF-8", word.display());
            Failure::new(exit::Kind::Usage, message)
        })?);
    }
    let own = words.iter().position(|word| word == "create");
    let directory = std::env::current_dir()?;
    let created = daemon.create(&Create {
        args: words.split_off(own.map_or(1, |at| at + 1)),
        directory: Some(directory.display().to_string()),
    })?;
    if !created.notes.is_empty() {
        eprintln!("{}", created.notes);
    }
    super::print(&format!("{}\n", created.path))
}

/// The options as a JSON schema, for the daemon's API.
pub(crate) fn schema() -> serde_json::Value {
    use clap::{ArgAction, Args as _};
    let command = Args::augment_args(clap::Command::new("create"));
    let mut properties = serde_json::Map::new();
    for arg in command.get_arguments() {
        let Some(name) = arg.get_long() else { continue };
        if ["foreground", "private"].contains(&name) {
            continue;
        }
        let help = arg.get_help().map(ToString::to_string);
        let mut property = match arg.get_action() {
            ArgAction::SetTrue => serde_json::json!({"type": "boolean"}),
            ArgAction::Append => {
                serde_json::json!({"type": "array", "items": {"type": "string"}})
            }
            _ => serde_json::json!({"type": ["string", "number"]}),
        };
        property["description"] = help.unwrap_or_default().into();
        properties.insert(name.into(), property);
    }
    serde_json::json!({"type": "object", "properties": properties, "additionalProperties": false})
}

/// Half of the memory, at most 4 GiB: zram-generator's rule.
fn default_size() -> u64 {
    let info = rustix::system::sysinfo();
    let memory = info.totalram as u64 * u64::from(info.mem_unit);
    (memory / 2).clamp(1 << 20, 4 << 30)
}

/// Starts this program again as the device's keeper and waits for the path that its server prints.
fn start_keeper(swap: Option<i32>) -> Result {
    // The keeper lives long: it must not keep its starter's locks and pipes.
    close_fds::set_fds_cloexec(3, &[]);
    let mut server = Command::new(std::env::current_exe()?)
        .args(["keep", "--"])
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| {
            Failure::new(
                exit::Kind::Failed,
                format!("cannot start the server: {error}"),
            )
        })?;
    let mut path = String::new();
    if let Some(stdout) = server.stdout.take() {
        BufReader::new(stdout).read_line(&mut path)?;
    }
    if path.is_empty() {
        let status = server.wait()?;
        return Err(match status.code() {
            // It has said why.
            Some(code) => Failure::silent(code),
            None => {
                let message = format!("the keeper ended before the device was there: {status}");
                Failure::new(exit::Kind::Failed, message)
            }
        });
    }
    let ready = || {
        if let Some(priority) = swap {
            swap::swap_on(path.trim_end(), priority)?;
        }
        let mut stdout = std::io::stdout().lock();
        let printed = stdout
            .write_all(path.as_bytes())
            .and_then(|()| stdout.flush());
        printed.map_err(|error| {
            Failure::new(
                exit::Kind::Failed,
                format!("cannot print the path: {error}"),
            )
        })
    };
    ready().or_else(|failure| {
        // A device whose path nobody learns, or that is no swap, is worth nothing.
        let entry = RunDir::of_user().find(path.trim_end())?;
        super::ask(&entry, &Request::Remove)?;
        Err(failure)
    })
}
