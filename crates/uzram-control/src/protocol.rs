//! The control protocol: the client connects, writes one line of JSON, reads one line of JSON.
//!
//! A request carries the protocol's version; a server answers one of another version with an error that names
//! both, so that an old client and a new server part in words.
//!
//! A request that asks for `progress` gets lines of [`RequestProgress`] before its answer: one when the server begins, one a
//! second while the request waits or is worked on. So a client tells a server that works from one that stands still.
//!
//! *What a client gives up is not carried out.* The client shuts its side of the connection, and then looks whether the
//! server has said that it begins. The server says that it begins, then looks whether the client has shut its side, and
//! only then begins. So either the client finds that the server may have begun, or the server finds that it must not. No
//! clock is compared.
//!
//! A request that takes long may be *detached*: the server answers [`Response::Detached`] when it has queued it, and goes on without
//! the client. A server of an older version knows nothing of that, and answers as if it had not been said.
//!
//! A client that does not ask for progress, such as one written by hand, gives up by closing.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use uzram::{
    ClassStats, CompactReport, HydrateReport, InspectReport, PageKind, PromoteReport,
    RecompressReport, TrainReport, WritebackReport,
};

use crate::policy::Policy;
use crate::stat::Stat;

/// Version of the protocol.
pub const PROTOCOL_VERSION: u32 = 1;
/// Longest line that either side accepts: room for a dictionary of 1 MiB in hexadecimal.
pub const MAX_LINE: usize = 3 << 20;
/// Most files that go with a request.
pub const MAX_FILES: usize = 64;

/// What a server can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "op", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Request {
    /// Are you there?
    Ping,
    /// The statistics.
    Stat,
    /// Drop all contents and statistics.
    Reset,
    /// Take the device down and end.
    Remove,
    /// The same although clients are connected or a dead node is in use; answers [`Response::Did`]. Refused like
    /// `Remove` while a file system is mounted on the device.
    RemoveByForce,
    /// Set the limit on pool memory, 0 for none.
    SetMemLimit {
        /// The limit.
        bytes: u64,
    },
    /// Set the limit on all memory of the device, 0 for none.
    SetTotalLimit {
        /// The limit.
        bytes: u64,
    },
    /// Erase what is freed from now on, or no more.
    SetErase {
        /// Whether.
        on_free: bool,
    },
    /// Let an algorithm that trains itself do so, or no more.
    SetSelfTraining {
        /// Whether.
        on: bool,
    },
    /// Compress with another algorithm from now on, or set the one for recompression.
    SetAlgorithm {
        /// 0 for the primary, 1 to 3 for a secondary.
        priority: usize,
        /// Name and parameters, such as `zstd(level=1)`; empty to remove a secondary.
        algorithm: String,
        /// The dictionary, in hexadecimal; empty for none.
        #[serde(default)]
        dictionary: String,
    },
    /// The dictionary in use at a priority.
    Dictionary {
        /// 0 for the primary algorithm, 1 to 3 for a secondary.
        priority: usize,
    },
    /// Train a dictionary, and compress with it from now on if it pays.
    Train {
        /// 0 for the primary algorithm, 1 to 3 for a secondary.
        #[serde(default)]
        priority: usize,
        /// The longest dictionary.
        dictionary_bytes: usize,
        /// Only find out.
        dry_run: bool,
    },
    /// Mark pages idle.
    MarkIdle {
        /// Those that were not used for that many seconds; `None`: all.
        age_seconds: Option<u64>,
    },
    /// How many pages are marked idle.
    CountIdle,
    /// Mark pages idle that were not used for that many seconds, and no others.
    MarkIdleExactly {
        /// Seconds.
        age_seconds: u64,
    },
    /// Keep the ages of pages' last accesses, or no more.
    TrackAges {
        /// Whether.
        on: bool,
    },
    /// Compress pages anew with a secondary algorithm.
    Recompress(RecompressRequest),
    /// Another size.
    Resize {
        /// The size.
        bytes: u64,
        /// Whether it may become smaller while somebody uses it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        force: bool,
    },
    /// Let identical pages share memory from now on, or no more.
    SetDedup {
        /// Whether.
        on: bool,
    },
    /// Take a file, a block device or a place in a remote as backing, or give it up. Where a store does not let go of all that
    /// is there, [`Response::Did`] says so.
    SetBacking {
        /// Its absolute path, or `NAME/PREFIX` of a remote; `None` to bring everything back and give it up.
        path: Option<std::path::PathBuf>,
        /// How large a file is to be made.
        size_bytes: Option<u64>,
        /// Whether what is written there is encrypted, with a key that is in the device's memory alone.
        #[serde(default)]
        seal: bool,
        /// Whether other users may own the file or write to it.
        #[serde(default)]
        allow_foreign: bool,
    },
    /// Set how many pages may still be written back.
    SetWritebackLimit {
        /// Pages; `None` for no limit.
        pages: Option<u64>,
    },
    /// Write pages back.
    Writeback(WritebackRequest),
    /// Bring pages back into memory.
    Promote {
        /// Those with these numbers, the last not included; `None`: all.
        pages: Option<(u64, u64)>,
    },
    /// Bring some of what is still remote: up to 32 MiB of the disk.
    Hydrate,
    /// Move objects together and give memory back.
    Compact {
        /// Most bytes to move. The server may set itself a lower limit.
        max_bytes: u64,
    },
    /// Let the maximum of memory used begin anew.
    ResetMemUsedMax,
    /// What slots hold, in the lines of zram's `block_state`.
    BlockState {
        /// The first slot.
        from: u64,
        /// Bytes of the lines at most, whole lines only; the server may set itself a lower limit.
        max_bytes: usize,
    },
    /// How the size classes of the pool are used.
    PoolClasses,
    /// Do other things in the background.
    SetPolicy {
        /// Which: see [`uzram::PolicySettings`].
        spec: String,
    },
    /// What takes long: what is worked on, and what waits.
    Jobs,
    /// End one of these. It keeps what it has done; one that waits is not begun.
    CancelJob {
        /// Its number.
        number: u64,
    },
    /// What is done in the background.
    Policy {
        /// Also say what would be done now.
        plan: bool,
    },
    /// What clients of the frontend are told of the device, for a process that negotiates with them in the server's place.
    ClientTerms,
    /// Serve a client with which such a process has negotiated. Its socket comes with the request.
    TakeClient {
        /// What was agreed on, in words that the frontend reads.
        agreed: String,
    },
    /// Count pages by age, and compress a sample of them anew, to say what other algorithms would save. Changes nothing; answers
    /// [`Response::Inspected`].
    Inspect {
        /// Pages to sample, at most 16384; 0: only count.
        sample_pages: usize,
        /// What to compress them with beside the secondaries, at most 8, such as `zstd(level=9)`.
        #[serde(default)]
        algorithms: Vec<String>,
    },
    /// Write what the device holds at this moment to the file whose descriptor comes with the request, the first of them. A
    /// client that goes cancels it.
    Snapshot {
        /// Most bytes that may be kept of what is overwritten meanwhile; `None`: 1/16 of the memory in use, and at least
        /// 64 MiB.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kept_max_bytes: Option<u64>,
        /// Track changes from then on.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        track: bool,
        /// Only what changed since the snapshot in the second file. The files of that one's parents follow.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        since: bool,
        /// First write all of the device while it changes, then what changed meanwhile, at one moment. The file is new, and can
        /// be read. Without this it is done where the snapshot would be given up for what it must keep.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        basis: bool,
        /// Of a device that is sent to another host: another one follows in the same stream, so whoever reads it must not stop
        /// behind this one.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        more: bool,
        /// Of a device that is sent, the last one: nothing changes from then on. When whoever reads it says that all is there, the
        /// device's contents are another host's; when he goes, all goes on.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        last: bool,
    },
    /// Hand the device over before it is copied. What it is and which pages hold something goes to the socket that comes with the
    /// request; nothing changes from then on. When whoever reads says by a byte that the other host has its device, this one's
    /// contents are that host's, for good: neither reads nor writes are carried out. When he goes before, all goes on.
    SendLazily {
        /// What this is known by on both sides.
        id: String,
        /// It was handed over before: only say again what it is.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
    },
    /// Answer by the socket that comes with the request what frames hold, of a device that is handed over in this way.
    ServeFrames {
        /// What that is known by.
        id: String,
    },
    /// Of a device that another host hands over in this way: fetch by the socket that comes with the request, in the place of any
    /// before.
    TakeFrames {
        /// What that is known by.
        id: String,
    },
    /// Go on with a device that was handed over, whose other side is lost with all that was written there.
    TakeBack,
    /// To a server: end without taking the device down; another process serves it from now on. Refused where the device would
    /// get another node and somebody uses this one; then the server goes on.
    HandOver,
    /// To a keeper: start the server if it does not run, and wait until it serves.
    Recover,
    /// To a keeper: replace yourself and the server by this program.
    Upgrade {
        /// Its path.
        program: std::path::PathBuf,
    },
}

/// The words for kinds of pages.
fn page_kinds(_: &mut SchemaGenerator) -> Schema {
    use PageKind::{All, Huge, HugeIdle, Idle, Incompressible};
    json_schema!({"enum": [All, Idle, Huge, HugeIdle, Incompressible]})
}

/// Which pages to compress anew, and with what: the fields of zram's `recompress`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecompressRequest {
    /// Any but `incompressible`.
    #[schemars(schema_with = "page_kinds")]
    pub kind: PageKind,
    /// Only with the secondary of this priority.
    pub priority: Option<usize>,
    /// Only objects of at least that many bytes.
    pub threshold: usize,
    /// That many pages at most; 0: all.
    pub max_pages: u64,
    /// Only say how many there are.
    pub dry_run: bool,
}

/// Which pages to write back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WritebackRequest {
    /// By what they are.
    #[schemars(schema_with = "page_kinds")]
    pub kind: PageKind,
    /// Only those with numbers in one of these ranges, the last not included; empty: all.
    pub pages: Vec<(u64, u64)>,
    /// That many pages at most; 0: all.
    pub max_pages: u64,
    /// Only say how many there are.
    pub dry_run: bool,
}

impl Request {
    /// Whether it waits for other processes, such as those who use the device or read a pipe: then nothing else may wait
    /// for it.
    pub(crate) fn waits_for_others(&self) -> bool {
        matches!(
            self,
            Request::Reset
                | Request::Remove
                | Request::RemoveByForce
                | Request::HandOver
                | Request::Recover
                | Request::Upgrade { .. }
                | Request::Snapshot { .. }
                | Request::SendLazily { .. }
        )
    }

    /// Whether files may come with it.
    pub(crate) fn has_files(&self) -> bool {
        matches!(
            self,
            Request::Snapshot { .. }
                | Request::TakeClient { .. }
                | Request::SendLazily { .. }
                | Request::ServeFrames { .. }
                | Request::TakeFrames { .. }
        )
    }

    /// Its name, as it stands in the line.
    pub(crate) fn name(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        value["op"].as_str().unwrap_or_default().to_owned()
    }

    /// Whether it may take more than a moment: then it is worked on beside others, one after the other, and whoever asks
    /// waits as long as the server says that it goes on.
    pub fn takes_long(&self) -> bool {
        matches!(
            self,
            Request::Train { .. }
                | Request::MarkIdle { .. }
                | Request::CountIdle
                | Request::MarkIdleExactly { .. }
                | Request::Recompress(_)
                | Request::Compact { .. }
                | Request::Resize { .. }
                | Request::SetBacking { .. }
                | Request::SetErase { .. }
                | Request::Writeback(_)
                | Request::Promote { .. }
                | Request::Hydrate
                | Request::Policy { .. }
                | Request::Inspect { .. }
        )
    }
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Response {
    /// Done.
    Done,
    /// The statistics.
    Stat(Box<Stat>),
    /// What came of a training.
    Trained(TrainReport),
    /// A dictionary.
    Dictionary {
        /// It, in hexadecimal; empty for none.
        bytes: String,
    },
    /// How many pages are marked idle.
    Marked {
        /// Pages.
        pages: u64,
    },
    /// What came of a recompression.
    Recompressed(RecompressReport),
    /// What came of a writeback.
    WrittenBack(WritebackReport),
    /// What came back into memory.
    Promoted(PromoteReport),
    /// What was brought, and what is left.
    Hydrated(HydrateReport),
    /// What came of a compaction.
    Compacted(CompactReport),
    /// What slots hold.
    BlockState {
        /// The lines.
        lines: String,
        /// The slot to go on from.
        next: u64,
    },
    /// How the size classes of the pool are used.
    PoolClasses {
        /// Those that are.
        classes: Vec<ClassStats>,
    },
    /// A snapshot was written.
    Snapshot(SnapshotReport),
    /// It is queued, and goes on without whoever asked.
    Detached {
        /// Its number among the jobs.
        number: u64,
    },
    /// What takes long.
    Jobs {
        /// What is worked on and what waits, in the order in which it came.
        jobs: Vec<Job>,
    },
    /// The policies.
    Policy(Box<Policy>),
    /// What clients of the frontend are told.
    ClientTerms {
        /// In words that the frontend reads.
        terms: String,
    },
    /// Pages by age, and what other algorithms would save.
    Inspected(InspectReport),
    /// Done, and this was done to others.
    Did {
        /// In words.
        what: Vec<String>,
    },
    /// Not done.
    Error(ControlError),
}

/// A request that takes long, while it waits or is worked on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Job {
    /// Its number, which no other request to this server has.
    pub number: u64,
    /// What was asked, by the name of its request.
    pub op: String,
    /// Whether it is worked on, else it waits for those before it.
    pub begun: bool,
    /// Seconds since it came.
    pub seconds: u64,
    /// Pages that it has dealt with, where it goes by pages.
    pub pages: u64,
    /// Pages that there were to deal with when it began; 0 where that is not known.
    pub total_pages: u64,
    /// Whether it goes on without whoever asked.
    pub detached: bool,
    /// The process that asked; 0 where that is not known.
    pub pid: u32,
    /// Whether it is being ended.
    pub cancelled: bool,
}

/// A snapshot that was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SnapshotReport {
    /// Its name: a hash of what it holds.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes of its index among them.
    pub index_bytes: u64,
    /// Size of the device.
    pub disk_bytes: u64,
    /// Pages that have an object.
    pub object_pages: u64,
    /// Bytes of their objects.
    pub object_bytes: u64,
    /// Pages that repeat a word other than zero.
    pub same_pages: u64,
    /// The snapshot that it was made since; empty for none.
    pub parent: String,
    /// How long requests waited for the moment that it is of.
    pub pause_microseconds: u64,
    /// Bytes that were written while the device changed, where it has a basis; 0 for none.
    pub basis_bytes: u64,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// The errno that says it best: EIO 5, EBUSY 16, EINVAL 22, EPROTO 71.
    pub errno: i32,
    /// In words.
    pub message: String,
}

/// What a server says of a request before its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "progress", rename_all = "snake_case")]
pub(crate) enum RequestProgress {
    /// It waits for others.
    Waiting,
    /// The server begins with it, or works on it.
    Begun,
}

/// A request with its version, as it stands in the line.
#[derive(Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) version: u32,
    /// The identity of the device that is meant; empty for whichever is there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) identity: String,
    /// Whether the client wants to hear how it goes.
    #[serde(default)]
    pub(crate) progress: bool,
    /// Whether it goes on without the client.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) detached: bool,
    #[serde(flatten)]
    pub(crate) request: Request,
}

impl Envelope {
    /// Refuses a request that means another device than the one of that identity.
    pub(crate) fn check_device(&self, identity: &str) -> Result<(), ControlError> {
        // A device that 0.1 made has none, and some ask whichever is there.
        if self.identity.is_empty() || identity.is_empty() || self.identity == identity {
            return Ok(());
        }
        Err(ControlError {
            errno: 19,
            message: "the device that was meant is gone, and another one has its name now".into(),
        })
    }
}

/// Parses a line of a client; what is no request becomes the answer to give.
pub(crate) fn parse_request(line: &[u8]) -> Result<Envelope, ControlError> {
    let error = |errno: i32, message: String| ControlError { errno, message };
    let line =
        std::str::from_utf8(line).map_err(|e| error(71, format!("no request: it is {e}")))?;
    // The version first: another one may have other requests.
    let value = uzram_spec::parse_json(line.as_bytes())
        .map_err(|e| error(71, format!("the request is not JSON: {e}")))?;
    let version = value.get("version").and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(PROTOCOL_VERSION)) {
        return Err(error(71, other_version(version)));
    }
    serde_json::from_value(value).map_err(|e| error(22, format!("unknown request: {e}")))
}

/// What is said to a client of another version.
fn other_version(version: Option<u64>) -> String {
    let program = env!("CARGO_PKG_VERSION");
    let client = match version {
        Some(version) => format!("this client speaks version {version} of the control protocol"),
        None => "this client names no version of the control protocol".into(),
    };
    format!(
        "{client}, and the server of the device, which is of uzram {program}, speaks version {PROTOCOL_VERSION}: use the \
         uzram {program} that serves it, or upgrade the device first"
    )
}

/// A value as a line of the protocol.
pub(crate) fn to_line(value: &impl Serialize) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}
