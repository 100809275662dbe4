//! For the guest's tests: serves a new device as `/dev/nbdN`, prints the node and serves until it is killed. Meanwhile
//! it obeys lines on standard input and answers each with one line, `ok` or `error: ...`:
//!
//! - `drop SECONDS`: drops all connections with what is in flight, waits, takes the device over again
//! - `attach INDEX`: tries to connect another device there
//! - `remove`: disconnects the device and ends the program

use std::fs::OpenOptions;
use std::io::{self, BufRead, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use uzram::Device;
use uzram_nbd::{Adopter, Export, Server};
use uzram_nbd_kernel::{Error, KernelNbd, KernelNbdOptions, clear_stale, find, probe};

#[derive(Parser)]
struct Args {
    /// File on tmpfs that holds the device, so that it outlives this process; with --reattach it must exist
    #[arg(long)]
    image: Option<PathBuf>,
    /// Size in MiB
    #[arg(long, default_value_t = 64)]
    size_mib: u64,
    /// Bytes of a logical block: 512 or 4096
    #[arg(long, default_value_t = 4096)]
    block_size: u32,
    /// Name that tells the device from others
    #[arg(long, default_value = "example")]
    name: String,
    /// N of /dev/nbdN [default: a free one]
    #[arg(long)]
    index: Option<u32>,
    /// Connections to the kernel
    #[arg(long)]
    connections: Option<usize>,
    /// Seconds that requests wait for a server
    #[arg(long, default_value_t = 60)]
    dead_conn_timeout: u64,
    /// Seconds without a reply after which the kernel gives up a connection
    #[arg(long)]
    request_timeout: Option<u64>,
    /// Takes over this device, whose server is dead, instead of connecting one
    #[arg(long, conflicts_with = "index")]
    reattach: Option<u32>,
    /// Prints the index of the device that has the name, and does nothing else
    #[arg(long)]
    find: bool,
    /// Disconnects this device, whose server is dead, and does nothing else
    #[arg(long)]
    clear_stale: Option<u32>,
    /// Says whether this machine can have a device, and does nothing else
    #[arg(long)]
    probe: bool,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    if args.probe {
        return Ok(probe()?);
    }
    if args.find {
        println!("{:?}", find(&args.name));
        return Ok(());
    }
    if let Some(index) = args.clear_stale {
        for what in clear_stale(index, &args.name)? {
            println!("cleared {what}");
        }
        return Ok(());
    }
    let mut options = KernelNbdOptions::new(&args.name);
    options.index = args.index;
    options.connections = args.connections.unwrap_or(options.connections);
    options.dead_conn_timeout = Duration::from_secs(args.dead_conn_timeout);
    options.request_timeout = args.request_timeout.map(Duration::from_secs);
    let builder = Device::builder(args.size_mib << 20).logical_block_size(args.block_size);
    let device = Arc::new(match &args.image {
        Some(path) if args.reattach.is_some() => builder.attach(image(path, false)?)?,
        Some(path) => builder.build_in(image(path, true)?)?,
        None => builder.build()?,
    });
    let server = || server(&args.name, &device);
    let mut disk = match args.reattach {
        Some(index) => KernelNbd::reattach(server()?, index, &options)?,
        None => KernelNbd::attach(server()?, &options)?,
    };
    println!("{}", disk.node().display());
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let done: Result<bool, Error> = match words[..] {
            ["drop", seconds] => {
                let (index, pause) = (disk.index(), seconds.parse()?);
                drop(disk);
                std::thread::sleep(Duration::from_secs(pause));
                disk = KernelNbd::reattach(server()?, index, &options)?;
                Ok(false)
            }
            ["attach", index] => {
                let mut options = options.clone();
                options.index = Some(index.parse()?);
                KernelNbd::attach(server()?, &options).and_then(|mut other| {
                    other.remove()?;
                    Ok(false)
                })
            }
            ["remove"] => disk.remove().map(|()| true),
            _ => return Err(format!("unknown line: {line}").into()),
        };
        let mut out = io::stdout();
        match &done {
            Ok(_) => writeln!(out, "ok")?,
            Err(error) => writeln!(out, "error: {error}")?,
        }
        out.flush()?;
        if matches!(done, Ok(true)) {
            return Ok(());
        }
    }
    // No more lines will come: serve until killed.
    loop {
        std::thread::park();
    }
}

fn image(path: &Path, create: bool) -> io::Result<OwnedFd> {
    let mut open = OpenOptions::new();
    open.read(true).write(true).create_new(create);
    Ok(open.open(path)?.into())
}

/// A server that ends its connections at once when it is dropped, as a killed process would.
fn server(name: &str, device: &Arc<Device>) -> Result<Adopter, uzram_nbd::Error> {
    let export = Export::new(name, Arc::clone(device));
    let server = Server::builder().shutdown_timeout(Duration::ZERO);
    server.export(export).adopter()
}
