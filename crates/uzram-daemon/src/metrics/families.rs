//! The table of metrics: each family with its name, its kind, its unit, what it says, and where its samples come from.

use uzram::{
    BackingInfo, CodecStats, Counter, CounterKind, CutProgress, Latencies, Latency, Stats,
    StoreStats, Unit,
};
use uzram_control::stat::Stat;

use super::{MeasuredDaemon, MeasuredDevice, Metrics};

/// The value of a sample.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Whole(u64),
    Part(f64),
    Times(Latency),
}
use Value::{Part, Times, Whole};

/// What a family's samples are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Gauge,
    Total,
    Histogram,
}

impl From<CounterKind> for Kind {
    fn from(kind: CounterKind) -> Kind {
        match kind {
            CounterKind::Gauge => Kind::Gauge,
            CounterKind::Total => Kind::Total,
        }
    }
}

/// Names and values of labels.
pub(super) type Labels = Vec<(&'static str, String)>;
/// The samples of one family.
pub(super) type Samples = Vec<(Labels, Value)>;

/// A family of metrics with its samples.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Family {
    /// Its name without unit and `_total`.
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Empty for a plain number.
    pub(super) unit: &'static str,
    pub(super) doc: &'static str,
    pub(super) samples: Samples,
}

impl Family {
    /// Its name in a sample.
    pub(super) fn full_name(&self) -> String {
        let mut name = self.name.clone();
        if !self.unit.is_empty() {
            name += "_";
            name += self.unit;
        }
        if self.kind == Kind::Total {
            name += "_total";
        }
        name
    }
}

/// A row of a table: a family of which one `T` has samples.
struct Row<T> {
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    doc: &'static str,
    get: fn(&T) -> Samples,
}

const fn gauge<T>(
    name: &'static str,
    unit: &'static str,
    doc: &'static str,
    get: fn(&T) -> Samples,
) -> Row<T> {
    let kind = Kind::Gauge;
    Row {
        name,
        kind,
        unit,
        doc,
        get,
    }
}

const fn total<T>(
    name: &'static str,
    unit: &'static str,
    doc: &'static str,
    get: fn(&T) -> Samples,
) -> Row<T> {
    let kind = Kind::Total;
    Row {
        name,
        kind,
        unit,
        doc,
        get,
    }
}

/// Times of requests, in seconds.
const fn times(
    name: &'static str,
    doc: &'static str,
    get: fn(&MeasuredDevice) -> Samples,
) -> Row<MeasuredDevice> {
    let (kind, unit) = (Kind::Histogram, "seconds");
    Row {
        name,
        kind,
        unit,
        doc,
        get,
    }
}

impl<T> Row<T> {
    fn family(&self, samples: Samples) -> Family {
        Family {
            name: self.name.into(),
            kind: self.kind,
            unit: self.unit,
            doc: self.doc,
            samples,
        }
    }
}

fn one(value: Value) -> Samples {
    vec![(Labels::new(), value)]
}

fn whole<N: Into<u64>>(value: N) -> Samples {
    one(Whole(value.into()))
}

fn optional(value: Option<u64>) -> Samples {
    value.into_iter().flat_map(whole::<u64>).collect()
}

fn stat(device: &MeasuredDevice, get: fn(&Stat) -> u64) -> Samples {
    optional(device.stat.as_ref().map(get))
}

fn latency(device: &MeasuredDevice, get: fn(&Latencies) -> &Latency) -> Samples {
    let times = device.stat.iter().map(|stat| get(&stat.latency).clone());
    times.flat_map(|times| one(Times(times))).collect()
}

fn snapshot(device: &MeasuredDevice, get: fn(&CutProgress) -> u64) -> Samples {
    let cut = device.stat.as_ref().and_then(|stat| stat.snapshot.as_ref());
    optional(cut.map(get))
}

fn backing(device: &MeasuredDevice, get: fn(&BackingInfo) -> u64) -> Samples {
    let backing = device.stat.as_ref().and_then(|stat| stat.backing.as_ref());
    optional(backing.map(get))
}

fn store(device: &MeasuredDevice, get: fn(&StoreStats) -> u64) -> Samples {
    let backing = device.stat.as_ref().and_then(|stat| stat.backing.as_ref());
    optional(backing.and_then(|backing| backing.store.as_ref()).map(get))
}

/// A sample for each codec. Two may have the same text, with dictionaries of one length, but never the same index.
fn codecs(device: &MeasuredDevice, get: fn(&CodecStats) -> u64) -> Samples {
    let codecs = device.stat.iter().flat_map(|stat| &stat.codecs);
    let sample = |codec: &CodecStats| {
        let labels = vec![
            ("codec", codec.to_string()),
            ("index", codec.index.to_string()),
        ];
        (labels, Whole(get(codec)))
    };
    codecs.map(sample).collect()
}

/// Of the machine, whoever answers.
const MACHINE: &[Row<Metrics>] = &[
    gauge("uzram_devices", "", "Devices that run.", |m| {
        whole(m.devices.len() as u64)
    }),
    gauge(
        "uzram_damaged_devices",
        "",
        "Devices whose record in the run directory is damaged.",
        |m| whole(m.damaged),
    ),
    gauge(
        "uzram_asking",
        "seconds",
        "How long the devices' servers took to answer, at most 1.",
        |m| one(Part(m.asked.as_secs_f64())),
    ),
];

/// Of the daemon, where it answers.
const DAEMON: &[Row<MeasuredDaemon>] = &[
    gauge("uzramd_info", "", "The daemon's version; always 1.", |_| {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        vec![(vec![("version", version)], Whole(1))]
    }),
    gauge(
        "uzramd_start_time",
        "seconds",
        "When the daemon was started, since 1970.",
        |daemon| one(Part(daemon.start_seconds)),
    ),
    gauge(
        "uzramd_resident_memory",
        "bytes",
        "Memory of the daemon itself.",
        |daemon| whole(daemon.resident_bytes),
    ),
];

/// Of a device, beside its counters.
const DEVICE: &[Row<MeasuredDevice>] = &[
    gauge(
        "uzram_device_up",
        "",
        "Whether the device's server answers: 0 or 1.",
        |d| whole(d.stat.is_some()),
    ),
    gauge(
        "uzram_device_info",
        "",
        "How the device is served and what it compresses with; always 1.",
        |d| {
            let algorithm = |pick: fn(&Stat) -> &String| {
                let known = d.stat.as_ref().map(pick);
                known.cloned().unwrap_or_default()
            };
            let labels = vec![
                ("frontend", d.frontend.clone()),
                ("path", d.path.clone()),
                ("algorithm", algorithm(|stat| &stat.algorithm)),
                ("driver", algorithm(|stat| &stat.driver)),
            ];
            vec![(labels, Whole(1))]
        },
    ),
    gauge("uzram_disk_size", "bytes", "Size of the device.", |d| {
        stat(d, |s| s.disksize)
    }),
    gauge(
        "uzram_all_memory",
        "bytes",
        "All memory of the device: pool, slot table, books, streams and dictionaries.",
        |d| stat(d, Stat::all_memory),
    ),
    times(
        "uzram_read_latency",
        "Times of reads in the device; one of 32 is timed.",
        |d| latency(d, |l| &l.read),
    ),
    times(
        "uzram_write_latency",
        "Times of writes in the device; one of 32 is timed.",
        |d| latency(d, |l| &l.write),
    ),
    gauge("uzram_streams", "", "Compression streams.", |d| {
        stat(d, |s| s.streams)
    }),
    gauge(
        "uzram_nbd_clients",
        "",
        "NBD clients that are connected.",
        |d| optional(d.stat.as_ref().and_then(|stat| stat.clients)),
    ),
    gauge(
        "uzram_writeback_limit",
        "pages",
        "Pages that may still be written back, where that is limited.",
        |d| optional(d.stat.as_ref().and_then(|stat| stat.writeback_limit)),
    ),
    gauge(
        "uzram_codec_objects",
        "",
        "Objects of a codec; one that pages share counts for each of them.",
        |d| codecs(d, |codec| codec.objects),
    ),
    gauge(
        "uzram_codec_object",
        "bytes",
        "Bytes of a codec's objects in memory, likewise.",
        |d| codecs(d, |codec| codec.object_bytes),
    ),
    gauge(
        "uzram_codec_memory",
        "bytes",
        "Memory of a codec's dictionary and contexts.",
        |d| codecs(d, |codec| codec.memory_bytes),
    ),
    gauge(
        "uzram_snapshot_done",
        "pages",
        "Pages of a snapshot that is being taken which are captured.",
        |d| snapshot(d, |cut| cut.done_pages),
    ),
    gauge(
        "uzram_snapshot",
        "pages",
        "Pages of a snapshot that is being taken.",
        |d| snapshot(d, |cut| cut.pages),
    ),
    gauge(
        "uzram_snapshot_kept",
        "bytes",
        "What a snapshot that is being taken keeps of what is overwritten.",
        |d| snapshot(d, |cut| cut.kept_bytes),
    ),
    gauge(
        "uzram_snapshot_kept_max",
        "bytes",
        "Most that it may keep: past that it is given up.",
        |d| snapshot(d, |cut| cut.kept_max_bytes),
    ),
    gauge(
        "uzram_agent_running",
        "",
        "Whether the device's agent runs: 0 or 1.",
        |d| stat(d, |s| s.agent.running.into()),
    ),
    total(
        "uzram_agent_runs",
        "",
        "Passes of the agent over the whole device.",
        |d| stat(d, |s| s.agent.runs),
    ),
    total(
        "uzram_agent_reliefs",
        "",
        "How often memory was short, so that age did not matter.",
        |d| stat(d, |s| s.agent.reliefs),
    ),
    total(
        "uzram_agent_recompressed",
        "pages",
        "Pages that the agent made smaller.",
        |d| stat(d, |s| s.agent.pages_recompressed),
    ),
    total(
        "uzram_agent_saved",
        "bytes",
        "Bytes by which these became smaller.",
        |d| stat(d, |s| s.agent.bytes_saved),
    ),
    total(
        "uzram_agent_written_back",
        "pages",
        "Pages that the agent wrote to the backing.",
        |d| stat(d, |s| s.agent.pages_written_back),
    ),
    total(
        "uzram_agent_written_back",
        "bytes",
        "Bytes of their objects.",
        |d| stat(d, |s| s.agent.bytes_written_back),
    ),
    total(
        "uzram_agent_promoted",
        "pages",
        "Pages that the agent brought back from the backing.",
        |d| stat(d, |s| s.agent.pages_promoted),
    ),
    total(
        "uzram_agent_compacted",
        "pages",
        "Pages that the agent's compaction freed.",
        |d| stat(d, |s| s.agent.pages_compacted),
    ),
    total(
        "uzram_agent_trainings",
        "",
        "Dictionaries that were trained.",
        |d| stat(d, |s| s.agent.trainings),
    ),
    total(
        "uzram_agent_dictionaries",
        "",
        "Of these, dictionaries that were taken into use.",
        |d| stat(d, |s| s.agent.dictionaries),
    ),
    total(
        "uzram_agent_cpu",
        "seconds",
        "Processor time that the agent took.",
        |d| {
            let seconds = d.stat.iter().map(|stat| stat.agent.cpu_seconds);
            seconds.flat_map(|seconds| one(Part(seconds))).collect()
        },
    ),
    gauge("uzram_backing_size", "bytes", "Size of the backing.", |d| {
        backing(d, |b| b.stats.size_bytes)
    }),
    gauge(
        "uzram_backing_live",
        "bytes",
        "Bytes of the backing's objects, headers included.",
        |d| backing(d, |b| b.stats.live_bytes),
    ),
    gauge(
        "uzram_backing_free",
        "bytes",
        "Bytes of the segments that may be written.",
        |d| backing(d, |b| b.stats.free_bytes),
    ),
    gauge(
        "uzram_backing_live_objects",
        "",
        "Objects on the backing.",
        |d| backing(d, |b| b.stats.live_objects),
    ),
    gauge(
        "uzram_backing_quarantined_segments",
        "",
        "Empty segments to which the last write failed.",
        |d| backing(d, |b| b.stats.quarantined_segments),
    ),
    total(
        "uzram_backing_reads",
        "",
        "Objects read from the backing.",
        |d| backing(d, |b| b.stats.reads),
    ),
    total(
        "uzram_backing_read",
        "bytes",
        "Bytes read from the backing, by whole blocks.",
        |d| backing(d, |b| b.stats.bytes_read),
    ),
    total(
        "uzram_backing_failed_reads",
        "",
        "Reads that the backing refused or that met its end.",
        |d| backing(d, |b| b.stats.read_errors),
    ),
    total(
        "uzram_backing_corrupt",
        "",
        "Reads whose object was not as it was written.",
        |d| backing(d, |b| b.stats.corrupt),
    ),
    total(
        "uzram_backing_writes",
        "",
        "Write requests to the backing, failed ones included.",
        |d| backing(d, |b| b.stats.writes),
    ),
    total(
        "uzram_backing_written",
        "bytes",
        "Bytes written to the backing, by whole blocks.",
        |d| backing(d, |b| b.stats.bytes_written),
    ),
    total(
        "uzram_backing_failed_writes",
        "",
        "Write requests to the backing that failed.",
        |d| backing(d, |b| b.stats.write_errors),
    ),
    total(
        "uzram_backing_hung",
        "",
        "Write requests to the backing that were abandoned.",
        |d| backing(d, |b| b.stats.hung),
    ),
    gauge(
        "uzram_store_failing",
        "",
        "Whether the remote of a backing failed when it was last asked: 0 or 1.",
        |d| store(d, |s| u64::from(!s.failure.is_empty())),
    ),
    gauge(
        "uzram_store_objects",
        "",
        "Objects of a backing in a remote.",
        |d| store(d, |s| s.objects),
    ),
    gauge("uzram_store_object", "bytes", "Bytes of these.", |d| {
        store(d, |s| s.object_bytes)
    }),
    gauge(
        "uzram_store_garbage_objects",
        "",
        "Objects in a remote that are to be deleted.",
        |d| store(d, |s| s.garbage_objects),
    ),
    gauge(
        "uzram_store_waiting_reads",
        "",
        "Reads that wait for a remote now.",
        |d| store(d, |s| s.waiting),
    ),
    total(
        "uzram_store_puts",
        "",
        "Objects written to a remote.",
        |d| store(d, |s| s.puts),
    ),
    total("uzram_store_put", "bytes", "Bytes of these.", |d| {
        store(d, |s| s.put_bytes)
    }),
    total(
        "uzram_store_failed_puts",
        "",
        "Objects that could not be written, as far as is known.",
        |d| store(d, |s| s.failed_puts),
    ),
    total(
        "uzram_store_gets",
        "",
        "Pieces of objects read from a remote.",
        |d| store(d, |s| s.gets),
    ),
    total("uzram_store_get", "bytes", "Bytes of these.", |d| {
        store(d, |s| s.get_bytes)
    }),
    total(
        "uzram_store_failed_gets",
        "",
        "Tries to read from a remote that failed, or gave what was not written.",
        |d| store(d, |s| s.failed_gets),
    ),
    total(
        "uzram_store_deletes",
        "",
        "Objects deleted in a remote.",
        |d| store(d, |s| s.deletes),
    ),
    total(
        "uzram_store_failed_deletes",
        "",
        "Tries to delete that failed.",
        |d| store(d, |s| s.failed_deletes),
    ),
];

/// The unit's word in a name.
fn word(unit: Unit) -> &'static str {
    match unit {
        Unit::Bytes => "bytes",
        Unit::Pages => "pages",
        Unit::Requests => "requests",
    }
}

/// A counter's name as a metric's: without the word of its unit, which is put at the end.
fn of_counter(counter: &Counter) -> String {
    let unit = word(counter.unit);
    let words = counter.name.split('_').filter(|word| *word != unit);
    let words: Vec<&str> = words.collect();
    format!("uzram_{}", words.join("_"))
}

/// The samples of all devices, each under its device's name.
fn of_devices(devices: &[MeasuredDevice], get: impl Fn(&MeasuredDevice) -> Samples) -> Samples {
    let mut all = Samples::new();
    for device in devices {
        for (labels, value) in get(device) {
            let name = [("name", device.name.clone())];
            all.push((name.into_iter().chain(labels).collect(), value));
        }
    }
    all
}

/// All families, also those without samples.
pub(super) fn families(metrics: &Metrics) -> Vec<Family> {
    let machine = MACHINE.iter().map(|row| row.family((row.get)(metrics)));
    let daemon = DAEMON.iter().map(|row| {
        let samples = metrics.daemon.as_ref().map(row.get);
        row.family(samples.unwrap_or_default())
    });
    let devices = &metrics.devices;
    let device = DEVICE
        .iter()
        .map(|row| row.family(of_devices(devices, row.get)));
    let counters = Stats::COUNTERS.iter().map(|counter| {
        let value = |device: &MeasuredDevice| {
            let counted = device
                .stat
                .as_ref()
                .map(|stat| (counter.get)(&stat.counters));
            optional(counted)
        };
        Family {
            name: of_counter(counter),
            kind: counter.kind.into(),
            unit: word(counter.unit),
            doc: counter.doc,
            samples: of_devices(devices, value),
        }
    });
    machine
        .chain(daemon)
        .chain(device)
        .chain(counters)
        .collect()
}
