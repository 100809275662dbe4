//! `uzram metrics`: what uzramd answers to `GET /v1/metrics`, without uzramd: as text, as a file for a collector, or as the answer
//! to one request of HTTP, for a socket unit of systemd's.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, Timespec};
use uzram_control::RunDir;
use uzram_daemon::{Metrics, MetricsFormat};
use uzram_spec::{Failure, FailureKind};

use super::print;
use crate::exit::Result;

/// Print the devices' metrics, for Prometheus
///
/// All devices are asked at once. One whose server does not answer within a second has uzram_device_up 0 and no other figures.
/// uzramd answers the same to GET /v1/metrics, and says a few things of itself.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram metrics
  uzram metrics zram0 --format openmetrics
  uzram metrics --output /var/lib/prometheus/node-exporter/uzram.prom
  systemd-socket-activate --listen 127.0.0.1:9798 --accept --inetd uzram metrics --inetd")]
pub(crate) struct Args {
    /// The devices: names, paths or URIs [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// In which format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Write to this file, which has the old figures or the new ones at any moment: for the textfile collector of Prometheus'
    /// node exporter. Its mode is 0644
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Answer one request of HTTP, GET /metrics, that comes on standard input: for a socket that systemd listens at. The request
    /// says in which format
    #[arg(long, conflicts_with_all = ["output", "format"])]
    inetd: bool,
}

/// How long a client may take to send its request.
const REQUEST: Duration = Duration::from_secs(5);
/// Longest head of a request.
const HEAD: usize = 16 << 10;

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Format {
    /// Prometheus' own text, version 0.0.4
    #[default]
    Prometheus,
    /// OpenMetrics 1.0.0, with units
    Openmetrics,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        if self.inetd {
            // Asked before the devices are: nonsense costs them nothing.
            let answer = match requested() {
                Ok(format) => {
                    let text = self.measured()?.text(format);
                    answer("200 OK", format.content_type(), &text)
                }
                Err(status) => answer(status, "text/plain; charset=utf-8", &format!("{status}\n")),
            };
            // Whoever asked may be gone.
            return match io::stdout().lock().write_all(answer.as_bytes()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
                _ => Ok(()),
            };
        }
        let text = self.measured()?.text(match self.format {
            Format::Prometheus => MetricsFormat::Prometheus,
            Format::Openmetrics => MetricsFormat::OpenMetrics,
        });
        match &self.output {
            None => print(&text),
            Some(path) => write(path, &text).map_err(|error| {
                let message = format!("{}: {error}", path.display());
                Failure::new(FailureKind::from_io(&error), message)
            }),
        }
    }

    fn measured(&self) -> Result<Metrics> {
        // What dead devices left is not cleared: this only looks, and may be all that it is allowed to do.
        let run = RunDir::of_user();
        if self.names.is_empty() {
            return Metrics::of(&run);
        }
        let found = super::all_or(&run, false, &self.names)?;
        let mut entries = found.into_iter().collect::<Result<Vec<_>>>()?;
        // A device that is named twice is measured once: no sample may be there twice.
        entries.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        entries.dedup_by(|a, b| a.record.name == b.record.name);
        Ok(Metrics::of_devices(&entries))
    }
}

/// Reads a request from standard input. The format that it asks for, or the status that refuses it.
fn requested() -> std::result::Result<MetricsFormat, &'static str> {
    let head = read_head().ok_or("408 Request Timeout")?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    if !version.is_some_and(|version| version.starts_with("HTTP/1.")) {
        return Err("400 Bad Request");
    }
    let path = target.unwrap_or_default().split('?').next();
    if path != Some("/metrics") {
        return Err("404 Not Found");
    }
    if method != Some("GET") {
        return Err("405 Method Not Allowed");
    }
    let headers = lines.filter_map(|line| line.split_once(':'));
    let accept = headers.filter(|(name, _)| name.eq_ignore_ascii_case("accept"));
    let accept: Vec<&str> = accept.map(|(_, value)| value.trim()).collect();
    Ok(MetricsFormat::accepted(&accept.join(",")))
}

/// The head of a request, without its last line; `None` where it does not come whole.
fn read_head() -> Option<String> {
    let begin = Instant::now();
    let mut stdin = io::stdin().lock();
    let (mut head, mut chunk) = (Vec::new(), [0; 1024]);
    loop {
        let left = REQUEST.checked_sub(begin.elapsed())?;
        let left = Timespec::try_from(left).ok()?;
        let input = rustix::stdio::stdin();
        let ready = rustix::event::poll(&mut [PollFd::new(&input, PollFlags::IN)], Some(&left));
        if ready.is_ok_and(|ready| ready == 0) {
            return None;
        }
        match stdin.read(&mut chunk) {
            Ok(n @ 1..) if head.len() + n <= HEAD => head.extend_from_slice(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return None,
        }
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            head.truncate(end);
            return String::from_utf8(head).ok();
        }
    }
}

fn answer(status: &str, content_type: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nVary: Accept\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Writes to what a path names. A file is replaced as a whole; a link stays, and so does a pipe, a terminal or `/dev/null`.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let Ok(found) = std::fs::metadata(path) else {
        return replace(path, text);
    };
    let kind = found.file_type();
    if kind.is_fifo() || kind.is_char_device() {
        let mut stream = File::options().write(true).open(path)?;
        return stream.write_all(text.as_bytes());
    }
    if !kind.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a file that metrics may replace",
        ));
    }
    // Where a link leads.
    replace(&std::fs::canonicalize(path)?, text)
}

/// Writes a file beside the one that is meant, and gives it that name once it is whole.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    // The collector reads what ends in .prom: not this one.
    let part = format!("{}.{}", name.display(), std::process::id());
    let part = path.with_file_name(part);
    let new = File::options()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&part);
    let written = new.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        // Whatever the umask is: the collector has a user of its own.
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        std::fs::rename(&part, path)
    });
    if written
        .as_ref()
        .is_err_and(|error| error.kind() != io::ErrorKind::AlreadyExists)
    {
        let _ = std::fs::remove_file(&part);
    }
    written
}
