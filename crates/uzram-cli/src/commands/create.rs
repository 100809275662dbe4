//! `uzram create`: makes a device. Without `--foreground` the program starts itself anew as the server, waits
//! until that has printed the device's path, and leaves it alone.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use uzram::Device;
use uzram::compress::parse_params;
use uzram_control::{Request, RunDir, size};
use uzram_nbd::Listen;

use crate::exit::{Failure, Kind, Result};
use crate::frontend::Choice;
use crate::server::{self, Plan};
use crate::{logging, sweep};

/// Create a device and print its path
///
/// Prints the path of the device (or the URI of the NBD socket), nothing else, once it works. The server then
/// runs in the background and logs to the file "log" in the device's run directory.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram create --size 8G --algorithm zstd --algorithm-params level=1 --mem-limit 3G
  uzram create --size 1G --frontend nbd --listen unix:/tmp/disk.sock
  uzram create --size 512M --frontend nbd --listen tcp:127.0.0.1:10809 --foreground")]
pub(crate) struct Args {
    /// Size of the disk: a number of bytes, or with K, M, G, T. Rounded up to 4096. May exceed the machine's
    /// memory [default: half of the memory, at most 4G]
    #[arg(long, short, value_name = "SIZE", allow_hyphen_values = true, value_parser = size::parse)]
    size: Option<u64>,
    /// Compression algorithm, by name or driver name: see "uzram algorithms"
    #[arg(long, short, default_value = "lz4", value_name = "NAME")]
    algorithm: String,
    /// Parameters of the algorithm, as key=value separated by commas, such as level=3
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
    /// How the device is served
    #[arg(long, short, default_value = "auto", value_enum)]
    frontend: Choice,
    /// Logical block size: 512 or 4096 bytes
    #[arg(long, default_value_t = 4096, value_name = "BYTES")]
    block_size: u32,
    /// NBD: where to listen, unix:PATH or tcp:ADDRESS[:PORT] [default: a unix socket in the run directory]
    #[arg(long, value_name = "WHERE")]
    listen: Option<Listen>,
    /// NBD: allow --listen on an address that other machines reach. There is no encryption or authentication
    #[arg(long)]
    allow_remote: bool,
    /// Name of the device: zram and a number [default: the lowest that is free]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Serve from this process and log to stderr, until interrupted or removed
    #[arg(long)]
    foreground: bool,
    /// Set by the program itself when it starts its server
    #[arg(long, hide = true, conflicts_with = "foreground")]
    background: bool,
}

impl Args {
    pub(crate) fn run(self, log: &str) -> Result {
        logging::parse(log)?;
        if self.foreground || self.background {
            self.serve(log)
        } else {
            start_server()
        }
    }

    fn serve(self, log: &str) -> Result {
        if self.background {
            // A session of its own: what happens to the terminal is nothing to it.
            let _ = rustix::process::setsid();
        }
        let run = sweep::swept_run_dir()?;
        let (frontend, why) = self.frontend.resolve(self.listen.as_ref());
        if self.listen.is_some() && frontend != Choice::Nbd {
            let message = format!("--listen is for --frontend nbd, not {}", frontend.name());
            return Err(Failure::new(Kind::Usage, message));
        }
        let mut device = Device::builder(self.size.unwrap_or_else(default_size))
            .algorithm(&self.algorithm)
            .mem_limit_bytes(self.mem_limit)
            .logical_block_size(self.block_size);
        for (key, value) in parse_params(&self.algorithm_params).map_err(uzram::Error::from)? {
            device = device.algorithm_param(key, value);
        }
        let plan = Plan {
            name: self.name,
            device,
            frontend,
            why,
            listen: self.listen.map(absolute).transpose()?,
            allow_remote: self.allow_remote,
            background: self.background,
        };
        server::run(plan, &run, log)
    }
}

/// Half of the memory, at most 4 GiB: zram-generator's rule.
fn default_size() -> u64 {
    let info = rustix::system::sysinfo();
    let memory = info.totalram as u64 * u64::from(info.mem_unit);
    (memory / 2).clamp(1 << 20, 4 << 30)
}

/// A socket's path that does not depend on the working directory.
fn absolute(listen: Listen) -> Result<Listen> {
    Ok(match listen {
        Listen::Unix(path) => Listen::Unix(std::path::absolute(path)?),
        other => other,
    })
}

/// Starts this program again as the server and waits for the path that it prints.
fn start_server() -> Result {
    // The server lives long: it must not keep its starter's locks and pipes.
    close_fds::set_fds_cloexec(3, &[]);
    let mut server = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .arg("--background")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| Failure::new(Kind::Failed, format!("cannot start the server: {error}")))?;
    let mut path = String::new();
    if let Some(stdout) = server.stdout.take() {
        BufReader::new(stdout).read_line(&mut path)?;
    }
    if path.is_empty() {
        // It has said why.
        return Err(Failure::silent(
            server.wait()?.code().unwrap_or(Kind::Failed as i32),
        ));
    }
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = stdout
        .write_all(path.as_bytes())
        .and_then(|()| stdout.flush())
    {
        // A device whose path nobody learns is worth nothing.
        let entry = RunDir::of_user().find(path.trim_end())?;
        super::ask(&entry, &Request::Remove)?;
        return Err(Failure::new(
            Kind::Failed,
            format!("cannot print the path: {error}"),
        ));
    }
    Ok(())
}
