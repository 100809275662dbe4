//! `uzram send`: has another host take a device over, while it goes on being used.
//!
//! All of it is sent while it changes, then what has changed meanwhile, again and again, each round smaller than the one before.
//! In the last one nothing may change: writes wait. The other side has it all when it has made its device and says where that is.
//! Only then is this one given up, and removed; in any other case writes go on here.
//!
//! What travels is a chain of snapshots, each made since the one before. All but the last say that another one follows: a
//! connection that ends in between leaves nothing on the other side.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use uzram_control::size::{self, human};
use uzram_control::{Request, Response, RunningDevice, SnapshotReport};
use uzram_runtime::{client, frontends, process, sweep, users};
use uzram_snapshot::{Digest, Kind, NamedPart, PartsReader, StoredManifest};

use super::peer::{Duplex, DuplexEnd, Peer, PeerAddress};
use super::{print, remote, send_lazily, unexpected};
use crate::exit::{self, Failure, Result};

/// A round of so many bytes is short enough to be the last.
const SMALL_BYTES: u64 = 16 << 20;
/// Most bytes of what the other side says.
const MAX_ANSWER_BYTES: u64 = 4096;

/// Hand a device over to another host, while it is used
///
/// Runs a command that takes the device from its stdin, such as "uzram receive" by ssh, or connects to one that listens. All
/// contents are sent while requests go on, and what changed meanwhile in more rounds. Then writes wait until the rest is there and
/// the other side has made its device, whose path is printed. This one is removed then, and its clients are disconnected. Where
/// anything fails before, the device goes on as if nothing had been.
///
/// With --lazy nothing is copied before: the other side's device is there at once, and this one answers neither reads nor writes from
/// then on, but has what the other one still needs, until that has all of it. Only then is it removed. If the connection ends
/// before, the same command again goes on with what is missing.
///
/// What uses the device's node here, such as a mount, has to end before, and so has a virtual machine by vhost-user; NBD clients need
/// not.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram send zram0 -- ssh host uzram receive --frontend nbd --listen tcp:127.0.0.1:10809
  uzram send zram0 --to unix:/run/peer.sock        # where \"uzram receive --from unix:...\" waits
  uzram send zram0 --to tls:10.0.0.2:7000 --certificates /etc/pki/uzram
  uzram send zram0 --lazy -- ssh host uzram receive --frontend nbd --listen tcp:127.0.0.1:10809
  uzram send zram0 --take-back                     (the other side is lost, with what was written there)")]
pub(crate) struct Args {
    /// The device: its name, its path or its URI
    #[arg(value_name = "NAME")]
    device: String,
    /// Where the other side listens: unix:PATH, or tls:HOST:PORT
    #[arg(
        long,
        value_name = "ADDRESS",
        value_parser = PeerAddress::parse,
        conflicts_with = "command",
        required_unless_present_any = ["command", "take_back"]
    )]
    to: Option<PeerAddress>,
    /// Have the other side's device begin at once, and fetch what it lacks from here; or go on with that, where the
    /// connection ended before it had all
    #[arg(long, conflicts_with_all = ["rounds", "memory"])]
    lazy: bool,
    /// Go on here with a device that was handed over with --lazy. Only where the other side's is lost for good: what was
    /// written there is, too
    #[arg(long, conflicts_with_all = ["to", "lazy", "command", "rounds", "memory", "patience"])]
    take_back: bool,
    /// For tls:HOST:PORT: a directory with client-cert.pem, client-key.pem and ca-cert.pem, whose authority must have signed the
    /// other side's certificate
    #[arg(long, value_name = "DIR", requires = "to")]
    certificates: Option<PathBuf>,
    /// Most rounds before the last one, while each is shorter than the one before
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long writes may wait in the last round for the other side, in seconds; then all goes on here
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86400))]
    patience: u32,
    /// Most memory that may be kept of what is overwritten while a round is sent; the default is 1/16 of the memory in use,
    /// and at least 64M
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<u64>,
    /// The command that takes the device from its stdin, and prints the path of the new one
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let entry = sweep::swept_run_dir()?.find(&self.device)?;
        let name = &entry.record.name;
        if self.take_back {
            client::ask(&entry, &Request::TakeBack)?;
            exit::tell(format!("{name} goes on here"));
            return Ok(());
        }
        let handed_over = client::stat(&entry)?.handed_over;
        match &handed_over {
            None => check_users(&entry)?,
            Some(_) if self.lazy => {}
            Some(_) => {
                let message = format!("{name} was handed over with --lazy");
                let hint = "with --lazy it goes on with what the other side lacks; --take-back is for one that is lost";
                return Err(Failure::busy(message).with_hint(hint));
            }
        }
        let other = match &self.to {
            Some(address) => {
                OtherSide::connect(Peer::connect(address, self.certificates.as_deref())?)
            }
            None => OtherSide::run(&self.command)?,
        };
        if self.lazy {
            let patience = Duration::from_secs(self.patience.into());
            return send_lazily::run(entry, handed_over, other, patience);
        }
        let mut sending = Sending {
            entry: &entry,
            memory: self.memory,
            other,
            blocks: HashMap::new(),
            last: None,
            is_cut_off: false,
        };
        let begin = Instant::now();
        let (mut before, mut bytes) = (u64::MAX, 0);
        for round in 1..=self.rounds {
            let (report, _) = sending.round(None)?;
            bytes += report.bytes;
            let seconds = begin.elapsed().as_secs_f64();
            exit::tell(format!(
                "round {round}: {} after {seconds:.1} s",
                human(report.bytes)
            ));
            if report.bytes <= SMALL_BYTES || report.bytes > before / 2 {
                break;
            }
            before = report.bytes;
        }
        let frozen = Instant::now();
        let patience = Duration::from_secs(self.patience.into());
        let (report, path) = sending.round(Some(patience))?;
        bytes += report.bytes;
        exit::tell(format!(
            "{} is handed over: {} in all, writes waited {:.0} ms",
            entry.record.name,
            human(bytes),
            frozen.elapsed().as_secs_f64() * 1000.0
        ));
        print(&format!("{path}\n"))?;
        for what in client::remove_by_force(&entry)? {
            exit::tell(format!("{}: {what}", entry.record.name));
        }
        Ok(())
    }
}

/// Refuses a device whose users cannot go on at the other host: those of its node, and a virtual machine that shares its memory.
fn check_users(entry: &RunningDevice) -> Result {
    match frontends::by_name(&entry.record.frontend) {
        Some(frontend) if frontend.clients_follow() => Ok(()),
        Some(frontend) if !frontend.has_node() => match client::stat(entry)?.clients {
            None | Some(0) => Ok(()),
            Some(_) => Err(Failure::busy(format!(
                "{} is in use: it cannot be handed over, as its client cannot follow to another host",
                entry.record.path
            ))),
        },
        _ => users::check_unused(entry, "it cannot be handed over"),
    }
}

/// Whoever takes the device.
pub(super) struct OtherSide {
    to: Option<Box<dyn Write + Send>>,
    from: Option<Box<dyn Read + Send>>,
    /// The connection, which has to be told that nothing more comes.
    peer: Option<Peer>,
    child: Option<Child>,
}

impl OtherSide {
    fn connect(peer: Peer) -> OtherSide {
        OtherSide {
            to: Some(Box::new(peer.clone())),
            from: Some(Box::new(peer.clone())),
            peer: Some(peer),
            child: None,
        }
    }

    fn run(command: &[String]) -> Result<OtherSide> {
        let (program, args) = command
            .split_first()
            .ok_or_else(|| Failure::usage("name a command, or --to unix:PATH or tls:HOST:PORT"))?;
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| Failure::usage(format!("cannot run {program}: {error}")))?;
        let to = child
            .stdin
            .take()
            .map(|to| Box::new(to) as Box<dyn Write + Send>);
        let from = child
            .stdout
            .take()
            .map(|from| Box::new(from) as Box<dyn Read + Send>);
        Ok(OtherSide {
            to,
            from,
            peer: None,
            child: Some(child),
        })
    }

    /// Both directions at once.
    pub(super) fn duplex(&mut self) -> Result<Duplex> {
        if let Some(peer) = self.peer.take() {
            (self.to, self.from) = (None, None);
            return Ok(peer.duplex()?);
        }
        let gone = || Failure::failed("the other side was told that nothing more comes");
        Ok(Duplex {
            from: self.from.take().ok_or_else(gone)?,
            to: self.to.take().ok_or_else(gone)?,
            end: DuplexEnd::of_pipes(),
        })
    }

    /// Says that nothing more comes, and waits for the path of the new device.
    fn answer(&mut self, patience: Duration) -> Result<String> {
        drop(self.to.take());
        if let Some(peer) = &self.peer {
            peer.finish()?;
        }
        let (said, heard) = mpsc::channel();
        if let Some(from) = self.from.take() {
            process::spawn("answer", move || {
                let lines = BufReader::new(from.take(MAX_ANSWER_BYTES)).lines();
                let mut lines = lines.map_while(io::Result::ok);
                let _ = said.send(lines.find(|line| !line.trim().is_empty()));
            })?;
        }
        match heard.recv_timeout(patience) {
            Ok(Some(path)) => Ok(path.trim().to_owned()),
            Ok(None) => Err(Failure::failed(
                "the other side has made no device, and says above why; nothing has changed here",
            )),
            Err(_) => Err(Failure::failed(format!(
                "the other side has said nothing for {} s: nothing has changed here. See that it has made no device",
                patience.as_secs()
            ))),
        }
    }
}

impl Drop for OtherSide {
    fn drop(&mut self) {
        // It sees the end of its input, and leaves nothing.
        drop(self.to.take());
        drop(self.from.take());
        if let Some(mut child) = self.child.take() {
            let _ = process::spawn("child", move || drop(child.wait()));
        }
    }
}

/// A device that is being sent.
struct Sending<'a> {
    entry: &'a RunningDevice,
    memory: Option<u64>,
    other: OtherSide,
    /// Index blocks of all rounds, by their names: what the next one is made since.
    blocks: HashMap<Digest, Vec<u8>>,
    last: Option<StoredManifest>,
    /// Whether the server ended a round before its end.
    is_cut_off: bool,
}

impl Sending<'_> {
    /// Sends what has changed since the round before, all at first. With patience it is the last one: nothing changes from then
    /// on, and the other side says which device it has made.
    fn round(&mut self, last: Option<Duration>) -> Result<(SnapshotReport, String)> {
        let since = match &self.last {
            None => None,
            Some(manifest) => Some(index(manifest, &self.blocks)?),
        };
        let request = Request::Snapshot {
            kept_max_bytes: self.memory,
            track: last.is_none(),
            since: since.is_some(),
            basis: false,
            more: last.is_none(),
            last: last.is_some(),
        };
        let (own, theirs) = UnixStream::pair()?;
        let entry = self.entry;
        self.is_cut_off = false;
        let (taken, passed) = std::thread::scope(|scope| {
            let pass = scope.spawn(|| {
                let passed = self.pass_round(&own, last);
                if passed.is_err() {
                    // The server waits for a word, or for room.
                    let _ = own.shutdown(std::net::Shutdown::Both);
                }
                passed
            });
            let files: Vec<BorrowedFd<'_>> = std::iter::once(theirs.as_fd())
                .chain(since.iter().map(File::as_fd))
                .collect();
            let taken = client::ask_with_files(entry, &request, &files);
            drop(files);
            // The server has its own. Where it refused, nothing comes any more.
            drop(theirs);
            let passed = pass.join();
            (taken, passed)
        });
        let passed =
            passed.unwrap_or_else(|_| Err(Failure::failed("the thread that sends has died")));
        match (taken, passed) {
            (Ok(Response::Snapshot(report)), Ok(path)) => Ok((report, path)),
            // It has ended what it sent, and says why.
            (Err(failure), Err(_)) if self.is_cut_off => Err(failure),
            // The server learns no more than that nobody reads.
            (_, Err(failure)) => Err(failure),
            (Err(failure), Ok(path)) if last.is_some() => {
                let message = format!(
                    "the other side has made {path}, and the server of {} did not say that it has stopped: {}",
                    entry.record.name, failure.message
                );
                let hint = format!("remove {} before it is used again", entry.record.name);
                Err(Failure::failed(message).with_hint(hint))
            }
            (Err(failure), Ok(_)) => Err(failure),
            (Ok(other), Ok(_)) => Err(unexpected(entry, &other)),
        }
    }

    /// Passes a round on, and tells the server when the other side has it.
    fn pass_round(&mut self, mut own: &UnixStream, last: Option<Duration>) -> Result<String> {
        self.pass_on(own)?;
        let path = match last {
            Some(patience) => self.other.answer(patience)?,
            None => String::new(),
        };
        own.write_all(b"k")?;
        Ok(path)
    }

    /// Passes a snapshot on as it comes, and keeps its index.
    fn pass_on(&mut self, from: &UnixStream) -> Result {
        let to = self.other.to.as_mut();
        let to =
            to.ok_or_else(|| Failure::failed("the other side was told that nothing more comes"))?;
        let mut failed = None;
        let tee = Tee {
            from,
            to,
            failed: &mut failed,
        };
        let parsed = (|| -> std::result::Result<_, uzram_snapshot::Error> {
            let mut parts = PartsReader::new(tee)?;
            let mut manifest = None;
            while let Some(part) = parts.next_part()? {
                match part.kind {
                    Kind::Index => drop(self.blocks.insert(part.name, part.bytes)),
                    Kind::Manifest => {
                        manifest = Some(StoredManifest::parse(part.name, &part.bytes)?)
                    }
                    _ => {}
                }
            }
            Ok(manifest)
        })();
        if let Some(error) = failed {
            return Err(Failure::failed(format!(
                "the other side takes nothing more: {error}"
            )));
        }
        self.is_cut_off = parsed.is_err();
        self.last =
            parsed.map_err(|error| Failure::failed(format!("what the server sends: {error}")))?;
        // What no later round refers to need not be kept.
        if let Some(manifest) = &self.last {
            let needed: Vec<NamedPart> = manifest.parts();
            self.blocks
                .retain(|name, _| needed.iter().any(|part| part.name == *name));
        }
        Ok(())
    }
}

/// A file that has the index of a round, for the next one to be made since it.
fn index(manifest: &StoredManifest, blocks: &HashMap<Digest, Vec<u8>>) -> Result<File> {
    let block = |part: &NamedPart| {
        let (kind, name) = (part.kind, part.name);
        let missing = uzram_snapshot::Error::Missing { kind, name };
        blocks.get(&name).cloned().ok_or(missing)
    };
    remote::in_memory(|file| {
        let written = manifest.write_index(file, block);
        written.map_err(|error| Failure::failed(format!("the index of a round: {error}")))
    })
}

/// Reads, and passes on what was read. What the other side refuses is kept apart from what is wrong with what is read.
struct Tee<'a> {
    from: &'a UnixStream,
    to: &'a mut Box<dyn Write + Send>,
    failed: &'a mut Option<io::Error>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        if let Err(error) = self
            .to
            .write_all(&buffer[..count])
            .and_then(|()| self.to.flush())
        {
            let told = io::Error::new(error.kind(), error.to_string());
            *self.failed = Some(error);
            return Err(told);
        }
        Ok(count)
    }
}
