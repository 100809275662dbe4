//! `uzram remote`: where snapshots are kept by tags; and what other commands need to go there.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use serde_json::json;
use uzram_control::size::human;
use uzram_remote::{
    BackingOwner, BackingUser, Checking, ClientEnd, Collecting, Error, Opened, Remote,
    RemoteAddress, RemoteConfig, Remotes, StoreErrorKind,
};
use uzram_runtime::{
    OpenBacking, OpenRemote, OpenedRemote, RemoteOrder, TraceStore, process, read_remote,
    snapshot_files,
};
use uzram_seal::{KeyFiles, Keys};
use uzram_snapshot::{Digest, Kind as PartKind, Snapshot, Source, StoredManifest};
use uzram_spec::BackingSpec;

use super::{for_each, moment, print, print_json, snapshot};
use crate::exit::{self, Failure, Kind, Result};
use crate::seal_args;

/// Keep snapshots in a directory or an object store that hosts share, by tags
///
/// A remote is a directory, of this machine or of a file server, or a bucket of an object store that speaks S3, where snapshots
/// are kept by tags: "uzram snapshot zram0 NAME/TAG" writes one there, "uzram restore NAME/TAG" makes a device of it. What several
/// snapshots have in common is there once.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram remote add ci file:/srv/uzram
  uzram remote add fleet s3://warm/disks --endpoint https://s3.example.org
  uzram snapshot zram0 ci/warm
  uzram restore ci/warm
  uzram remote show ci
  uzram remote remove ci/warm
  uzram remote collect ci")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a directory or a bucket a remote, or use one that is one
    ///
    /// Credentials for a bucket are never given here, nor kept: each command has them from AWS_ACCESS_KEY_ID,
    /// AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or from a profile of ~/.aws/credentials or ~/.aws/config (AWS_PROFILE; else
    /// "default"), or from a container's or an EC2 machine's role. Whether the store honours conditions of writes is tried by a
    /// race of several writers.
    Add {
        /// What it is called here
        #[arg(value_name = "NAME")]
        name: String,
        /// Where it is: file:/DIRECTORY, or s3://BUCKET/PREFIX. Directory and bucket are there already
        #[arg(value_name = "URL")]
        url: String,
        /// Where the store answers: https://HOST[:PORT]; without it, Amazon's, by the region. With http:// whoever is on the way
        /// reads what disks held, and can hand a restore another tag than the store's; keys are not sent, but what was signed
        /// can be sent again for some minutes. So take http:// on loopback or a network of one's own alone
        #[arg(long, value_name = "URL")]
        endpoint: Option<String>,
        /// The store's region; without it, what AWS_REGION or the profile says, or us-east-1
        #[arg(long, value_name = "REGION")]
        region: Option<String>,
        /// The profile of ~/.aws that has the credentials; without it, the variables have them, or the profile that
        /// AWS_PROFILE names
        #[arg(long, value_name = "PROFILE")]
        profile: Option<String>,
        /// Write nothing there. Then nothing keeps a snapshot that is read from being collected meanwhile
        #[arg(long)]
        read_only: bool,
    },
    /// List the remotes
    List {
        /// Print JSON
        #[arg(long, short = 'J')]
        json: bool,
    },
    /// List the tags of a remote, or its backings
    Show {
        /// The remote
        #[arg(value_name = "NAME")]
        name: String,
        /// The backings: whose they are, how much is there, and for how long a lease keeps it that is not renewed
        #[arg(long)]
        backings: bool,
        /// Print JSON
        #[arg(long, short = 'J')]
        json: bool,
    },
    /// Forget a remote, whose contents stay; or remove a tag or a backing from it
    ///
    /// A device's backing goes with the device, and is removed here only where that is gone with its host. What it had there is
    /// lost then.
    Remove {
        /// The remote, NAME/TAG, or NAME/PREFIX of a backing
        #[arg(value_name = "NAME[/TAG]")]
        name: String,
        /// Remove a backing that a lease keeps. A device that lives would lose what it wrote back there
        #[arg(long)]
        force: bool,
    },
    /// Remove what no tag needs and nobody uses
    ///
    /// What is younger than the grace period stays: an upload may be about to need it. So does what a lease names, which every
    /// upload, every restore and every backing has; that of a backing holds for a week after its device was last heard of. A manifest that cannot be read stops it. No host's clock matters: the directory's or the store's does.
    Collect {
        /// The remote
        #[arg(value_name = "NAME")]
        name: String,
        /// How old something must be, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = uzram_remote::GRACE_SECONDS)]
        grace: u64,
        /// Remove nothing, only count
        #[arg(long, short = 'n')]
        dry_run: bool,
        /// Print JSON
        #[arg(long, short = 'J')]
        json: bool,
    },
    /// Check that all that tags need is there
    ///
    /// Reads manifests, indexes and the directories of segments. Exits with 1 if something is missing or damaged. Of sealed
    /// snapshots it looks whether all is there, and with --read whether its hashes are right; that needs no key.
    Check {
        /// The remote, or NAME/TAG
        #[arg(value_name = "NAME[/TAG]")]
        name: String,
        /// Read all bytes
        #[arg(long)]
        read: bool,
    },
}

impl Args {
    pub(crate) fn run(self) -> Result {
        match self.command {
            Command::Add {
                name,
                url,
                endpoint,
                region,
                profile,
                read_only,
            } => {
                let mut config = RemoteConfig::new(&url);
                config.endpoint = endpoint;
                config.region = region;
                config.profile = profile;
                config.read_only = read_only;
                add(&name, &config)
            }
            Command::List { json } => list(json),
            Command::Show {
                name,
                backings: true,
                json,
            } => show_backings(&name, json),
            Command::Show { name, json, .. } => show(&name, json),
            Command::Remove { name, force } => match reference(Path::new(&name)) {
                Some((remote, tag)) => remove(&remote, &tag, force),
                None => Remotes::of_user().remove(&name).map_err(failure),
            },
            Command::Collect {
                name,
                grace,
                dry_run,
                json,
            } => collect(&name, Duration::from_secs(grace), dry_run, json),
            Command::Check { name, read } => check(&name, read, None),
        }
    }
}

fn add(name: &str, config: &RemoteConfig) -> Result {
    let remotes = Remotes::of_user();
    if remotes.has(name) {
        return Err(failure(Error::RemoteExists { name: name.into() }));
    }
    if let RemoteAddress::S3(address) = config.address().map_err(failure)?
        && address.is_exposed()
    {
        exit::tell(
            "with http:// whoever is on the way reads what is sent, and can answer in the store's place: https:// is safe",
        );
    }
    let config = Remote::prepare(name, config).map_err(failure)?;
    remotes.add(name, &config).map_err(failure)?;
    if !config.conditional && !config.read_only {
        exit::tell(format!(
            "{} does not honour conditions of writes: tags there get an id each and are not replaced, and one host should \
             write at a time",
            config.url
        ));
    }
    Ok(())
}

fn list(as_json: bool) -> Result {
    let remotes = Remotes::of_user();
    let names = remotes.names().map_err(failure)?;
    let found = |name: &String| Ok((name.clone(), remotes.find(name).map_err(failure)?));
    let all = names.iter().map(found).collect::<Result<Vec<_>>>()?;
    if as_json {
        let object = |(name, of): &(String, RemoteConfig)| {
            json!({
                "name": name, "url": of.url, "endpoint": of.endpoint, "region": of.region, "profile": of.profile,
                "conditional": of.conditional, "read_only": of.read_only,
            })
        };
        return print_json(&json!(all.iter().map(object).collect::<Vec<_>>()));
    }
    let line = |(name, of): &(String, RemoteConfig)| {
        let at = of.endpoint.as_ref().map(|at| format!("  at {at}"));
        let mode = if of.read_only { "  read-only" } else { "" };
        format!("{name:16}  {}{}{mode}\n", of.url, at.unwrap_or_default())
    };
    print(&all.iter().map(line).collect::<String>())
}

/// Lists the tags of a remote.
pub(crate) fn show(name: &str, as_json: bool) -> Result {
    let (tags, wrong) = open(name)?.tags().map_err(failure)?;
    wrong.iter().for_each(exit::tell);
    if as_json {
        let tags = tags.iter().map(|found| {
            let of = &found.body;
            json!({
                "tag": found.tag, "name": of.manifest, "device": of.device, "parent": of.parent,
                "taken_at_seconds": of.taken_at_seconds, "size_bytes": of.size_bytes,
                "object_bytes": of.object_bytes, "sealed": of.sealed, "by": of.by,
            })
        });
        return print_json(&json!(tags.collect::<Vec<_>>()));
    }
    let mut text = format!(
        "{:24}  {:20}  {:8} {:>7} {:>7}  {:16}\n",
        "TAG", "TAKEN", "DEVICE", "SIZE", "STORED", "NAME"
    );
    for found in &tags {
        let of = &found.body;
        let taken = moment::time(of.taken_at_seconds);
        let short = of.manifest.get(..16).unwrap_or_default();
        text += &format!(
            "{:24}  {taken:20}  {:8} {:>7} {:>7}  {short}\n",
            format!("{name}/{}", found.tag),
            if of.sealed { "(sealed)" } else { &of.device },
            human(of.size_bytes),
            human(of.object_bytes),
        );
    }
    print(&text)
}

/// Removes a tag, or a backing.
fn remove(remote: &str, name: &str, force: bool) -> Result {
    let remote = open(remote)?;
    let is_tag = remote.find_tag(name).map_err(failure)?.is_some();
    let is_backing = || {
        let all = remote.backings().map_err(failure)?;
        Ok::<_, Failure>(all.iter().any(|of| of.prefix == name))
    };
    if is_tag || !is_backing()? {
        return remote.remove_tag(name).map_err(failure);
    }
    remote
        .remove_backing(name, force)
        .map(drop)
        .map_err(failure)
}

fn show_backings(name: &str, as_json: bool) -> Result {
    let all = open(name)?.backings().map_err(failure)?;
    if as_json {
        let all = all.iter().map(|of| {
            let owner = of.owner.as_ref();
            json!({
                "prefix": of.prefix, "device": owner.map(|owner| &owner.device), "host": owner.map(|owner| &owner.host),
                "id": owner.map(|owner| &owner.id), "objects": of.objects, "bytes": of.bytes,
                "leased_seconds": of.leased_seconds,
            })
        });
        return print_json(&json!(all.collect::<Vec<_>>()));
    }
    let mut text = format!(
        "{:24}  {:24}  {:>7} {:>7}  {}\n",
        "BACKING", "DEVICE", "OBJECTS", "STORED", "KEPT FOR"
    );
    for of in &all {
        let owner = of.owner.as_ref().map(BackingOwner::words);
        let kept = match of.leased_seconds {
            0 => "no lease".into(),
            seconds => format!("{} h", seconds.div_ceil(3600)),
        };
        text += &format!(
            "{:24}  {:24}  {:>7} {:>7}  {kept}\n",
            format!("{name}/{}", of.prefix),
            owner.unwrap_or_else(|| "nobody's".into()),
            of.objects,
            human(of.bytes),
        );
    }
    print(&text)
}

fn collect(name: &str, grace: Duration, dry_run: bool, as_json: bool) -> Result {
    let collecting = Collecting { grace, dry_run };
    let done = collecting.run(&open(name)?).map_err(failure)?;
    if as_json {
        return print_json(&json!({
            "tagged": done.tagged, "leased": done.leased, "kept": done.kept, "kept_bytes": done.kept_bytes,
            "young": done.young, "young_bytes": done.young_bytes, "removed": done.removed,
            "removed_bytes": done.removed_bytes, "expired_leases": done.expired_leases, "backings": done.backings,
        }));
    }
    let verb = if dry_run { "would be" } else { "were" };
    print(&format!(
        "{name}: {} tags and {} leases need {}; {} of {} {verb} removed, {} are too young\n",
        done.tagged,
        done.leased + done.backings,
        human(done.kept_bytes),
        human(done.removed_bytes),
        human(done.removed_bytes + done.kept_bytes + done.young_bytes),
        human(done.young_bytes),
    ))
}

/// Checks a tag or all of a remote.
pub(crate) fn check(name: &str, read: bool, keys: Option<&Keys>) -> Result {
    let (remote, tags) = match reference(Path::new(name)) {
        Some((remote, tag)) => {
            let remote = open(&remote)?;
            let tag = remote.tag(&tag).map_err(failure)?;
            (remote, vec![tag])
        }
        None => {
            let remote = open(name)?;
            let (tags, wrong) = remote.tags().map_err(failure)?;
            if let Some(error) = wrong.into_iter().next() {
                return Err(failure(error));
            }
            (remote, tags)
        }
    };
    for_each(tags, |tag| {
        let checked = Checking { read }
            .run(&remote, &tag, keys)
            .map_err(failure)?;
        let (parts, size) = (checked.parts, human(checked.bytes));
        print(&format!(
            "{}/{}: good, {size} in {parts} parts\n",
            remote.name(),
            tag.tag
        ))
    })
}

/// Remote and tag, where a text is `NAME/TAG` and there is a remote of that name. A file is meant by `./NAME/TAG`.
pub(crate) fn reference(path: &Path) -> Option<(String, String)> {
    let (name, tag) = path.to_str()?.split_once('/')?;
    let is_one = Remotes::of_user().has(name) && !tag.is_empty();
    is_one.then(|| (name.into(), tag.into()))
}

/// A backing as it is meant: in a remote only where there is one of that name, as for a snapshot.
pub(crate) fn known_backing(of: BackingSpec) -> Result<BackingSpec> {
    match of.is_remote() && reference(Path::new(&of.remote)).is_none() {
        true => Ok(of.as_file(&std::env::current_dir()?)),
        false => Ok(of),
    }
}

/// Opens a remote.
pub(crate) fn open(name: &str) -> Result<Remote> {
    let config = Remotes::of_user().find(name).map_err(failure)?;
    Remote::open(name, &config).map_err(failure)
}

/// Opens the snapshot of a tag, which is sealed if there are keys.
pub(crate) fn open_tag(
    (remote, tag): (String, String),
    keys: Option<&Keys>,
    why: &str,
) -> Result<Opened> {
    open(&remote)?.open_tag(&tag, keys, why).map_err(failure)
}

/// Reads a remote for a device, as a process of its own. Its failures are told to the device.
pub(crate) fn read_for_device(state: &str) -> u8 {
    u8::from(read_remote(state, open_for_device).is_err())
}

/// The trace of a device.
struct RemoteTrace {
    remote: Remote,
    snapshot: Digest,
    name: String,
}

impl TraceStore for RemoteTrace {
    fn load(&self) -> io::Result<Vec<u32>> {
        let frames = self.remote.trace(self.snapshot, &self.name);
        frames.map_err(io::Error::other)
    }

    fn add(&self, frames: &[u32]) -> io::Result<()> {
        // Who may only read uses what others have noted.
        if self.remote.config().read_only {
            return Ok(());
        }
        let added = self.remote.add_to_trace(self.snapshot, &self.name, frames);
        added.map(drop).map_err(io::Error::other)
    }
}

/// A file has no traces.
struct NoTrace;

impl TraceStore for NoTrace {
    fn load(&self) -> io::Result<Vec<u32>> {
        Ok(Vec::new())
    }

    fn add(&self, _: &[u32]) -> io::Result<()> {
        Ok(())
    }
}

/// Has this process end with the one that speaks to the store: the server starts another one of this, and so of that.
fn end_with(client: Option<ClientEnd>) -> Result {
    let Some(ended) = client else {
        return Ok(());
    };
    process::spawn("client-end", move || {
        ended();
        std::process::exit(1);
    })?;
    Ok(())
}

fn open_for_device(order: &RemoteOrder) -> Result<OpenedRemote> {
    let files = KeyFiles {
        identities: order.identities.clone(),
        passphrase: order.passphrase_file.clone(),
    };
    let keys = files.read().map_err(seal_args::failure)?;
    if let Some((file, parents)) = order.files.split_first() {
        let snapshot = snapshot::files::open(file, parents, keys.as_ref())?;
        if let Some(parent) = snapshot.missing_parent() {
            let error = uzram_snapshot::Error::MissingParent { parent };
            return Err(snapshot_files::refused(file, &error));
        }
        let name = snapshot.name();
        return Ok(OpenedRemote::Snapshot(OpenRemote {
            snapshot: name,
            stored: name,
            source: Arc::new(snapshot),
            trace: Arc::new(NoTrace),
            lease: Box::new(()),
        }));
    }
    let (remote, tag) = order.remote.split_once('/').unwrap_or((&order.remote, ""));
    let remote = open(remote)?;
    let ended = remote.client_end();
    if let Some(backing) = &order.backing {
        let user = BackingUser {
            id: backing.id,
            device: backing.device.clone(),
            identity: backing.identity.clone(),
            description: backing.description.display().to_string(),
        };
        let opened = remote.open_backing(tag, &user, backing.is_new);
        let backing = opened.map_err(failure)?;
        end_with(ended)?;
        return Ok(OpenedRemote::Backing(OpenBacking(Arc::new(backing))));
    }
    let known = order.snapshot.as_deref().map(str::parse::<Digest>);
    let snapshot = match known.transpose() {
        Ok(Some(snapshot)) => snapshot,
        Ok(None) => remote
            .tag(tag)
            .and_then(|found| found.body.name())
            .map_err(failure)?,
        Err(error) => return Err(Failure::failed(error)),
    };
    let lease = remote.lease(snapshot, "a device").map_err(failure)?;
    let found = remote.manifest(snapshot).map_err(failure)?;
    let readable = found.open(keys.as_ref(), &order.remote).map_err(failure)?;
    let source = remote.parts(&found, &readable, order.in_order);
    let source = source.map_err(failure)?;
    let stored = snapshot;
    let snapshot = readable.manifest().name();
    let trace = RemoteTrace {
        remote,
        snapshot: stored,
        name: order.trace.clone().unwrap_or_default(),
    };
    end_with(ended)?;
    Ok(OpenedRemote::Snapshot(OpenRemote {
        snapshot,
        stored,
        source,
        trace: Arc::new(trace),
        lease: Box::new(lease),
    }))
}

/// A file without a name that has the index of a snapshot, for the next one to be made since it.
pub(crate) fn index(opened: &Opened) -> Result<File> {
    in_memory(|file| opened.write_index(file).map_err(failure))
}

/// The same of a snapshot in files, which a server could not open itself.
pub(crate) fn index_of(snapshot: &Snapshot, of: &Path) -> Result<File> {
    let name = snapshot.name();
    let refused = |error: uzram_snapshot::Error| snapshot_files::refused(of, &error);
    let fetch = |kind: PartKind, name: Digest| {
        let bytes = snapshot.size_bytes(kind, name);
        let bytes = bytes.and_then(|bytes| snapshot.get_range(kind, name, 0..bytes));
        bytes.map_err(|source| uzram_snapshot::Error::Io {
            what: "read",
            source,
        })
    };
    let record = fetch(PartKind::Manifest, name).map_err(refused)?;
    let manifest = StoredManifest::parse(name, &record).map_err(refused)?;
    in_memory(|file| {
        let written = manifest.write_index(file, |part| fetch(part.kind, part.name));
        written.map_err(refused)
    })
}

/// A file of memory with what is written to it.
pub(crate) fn in_memory(write: impl FnOnce(&mut File) -> Result) -> Result<File> {
    let memory = rustix::fs::memfd_create("uzram-index", rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = File::from(memory.map_err(io::Error::from)?);
    write(&mut file)?;
    file.flush()?;
    Ok(file)
}

/// A failure in the words and with the exit code of the program.
pub(crate) fn failure(error: Error) -> Failure {
    let kind = match &error {
        Error::NoRemote { .. }
        | Error::RemoteExists { .. }
        | Error::Usage(_)
        | Error::NoTag { .. }
        | Error::TagExists { .. }
        | Error::TagAmbiguous { .. }
        | Error::BackingTag { .. }
        | Error::TagBacking { .. }
        | Error::InUse { .. } => Kind::Usage,
        Error::Newer { .. } | Error::ReadOnly { .. } => Kind::Impossible,
        Error::Store(error) => match error.kind {
            StoreErrorKind::NoBucket => Kind::Usage,
            StoreErrorKind::Denied
            | StoreErrorKind::ReadOnly
            | StoreErrorKind::NoCredentials
            | StoreErrorKind::NoProgram => Kind::Impossible,
            _ => Kind::Failed,
        },
        Error::Io { source, .. } => Kind::from_io(source),
        Error::Seal { source, .. } if source.is_about_keys() => Kind::Usage,
        Error::Seal {
            source: uzram_seal::Error::Snapshot(uzram_snapshot::Error::Sealed),
            ..
        } => {
            let hint = "--identity FILE or --seal-passphrase-file FILE names what opens it";
            return Failure::usage(error.to_string()).with_hint(hint);
        }
        Error::Sweeping { .. } | Error::BackingInUse { .. } => Kind::Busy,
        _ => Kind::Failed,
    };
    Failure::new(kind, error.to_string())
}
