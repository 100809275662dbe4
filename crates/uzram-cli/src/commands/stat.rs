//! `uzram stat`: everything known of one device.

use std::collections::BTreeMap;

use uzram::{CodecStats, Counter, CutProgress, Latencies, Stats, StoreStats, Unit};
use uzram_blockdev::{Busy, Survey, Users};
use uzram_control::size::human;
use uzram_control::stat::Stat;

use super::{list, print, print_json, to_value};
use crate::exit::Result;
use uzram_runtime::{client, sweep, users};
use uzram_spec::{OptionValue, printable_line, short_time};

/// Counters that a sentence or a line below shows already, `mm_stat` and `io_stat` among them. Any other has a line of
/// its own.
const SHOWN: &[&str] = &[
    "read_requests",
    "read_bytes",
    "write_requests",
    "write_bytes",
    "orig_data_size",
    "compr_data_size",
    "mem_used_total",
    "mem_limit",
    "mem_limit_total",
    "mem_used_max",
    "same_pages",
    "pages_compacted",
    "huge_pages",
    "huge_pages_since",
    "failed_reads",
    "failed_writes",
    "notify_free",
    "backed_pages",
    "backed_data_size",
    "backed_reads",
    "backed_writes",
    "failed_writebacks",
    "recompressed_pages",
    "dup_pages",
    "dup_data_size",
    "table_bytes",
    "metadata_bytes",
    "dictionary_bytes",
    "dedup_index_bytes",
    "snapshot_bytes",
    "remote_pages",
    "fetched_pages",
    "failed_fetches",
];

/// Show everything about one device
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram stat zram0
  uzram stat /dev/loop0 --json")]
pub(crate) struct Args {
    /// The device: its name, its path or its URI
    name: String,
    /// Print JSON, sizes in bytes
    #[arg(long, short = 'J')]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let entry = sweep::swept_run_dir()?.find(&self.name)?;
        let stat = client::stat(&entry)?;
        let survey = Survey::new();
        if self.json {
            let device = client::describe(&survey, &entry, &Ok(stat));
            return print_json(&to_value(&device)?);
        }
        let users = users::users(&survey, &entry);
        let record = &entry.record;
        let limit = if stat.counters.mem_limit_bytes == 0 {
            "none".into()
        } else {
            human(stat.counters.mem_limit_bytes)
        };
        let over = if stat.counters.compr_data_size_bytes == 0 {
            String::new()
        } else {
            let ratio = stat.all_memory() as f64 / stat.counters.compr_data_size_bytes as f64;
            format!(", {ratio:.3} x the compressed data")
        };
        let mut rows = vec![
            ("name", printable_line(&record.names()).into_owned()),
            ("path", printable_line(&record.path).into_owned()),
            (
                "frontend",
                format!(
                    "{}, server process {}",
                    printable_line(&record.frontend),
                    record.pid
                ),
            ),
            (
                "mounted at",
                match users.mount_points(false) {
                    none if none.is_empty() => "nowhere".into(),
                    mounts => mounts.join(", "),
                },
            ),
            ("used by", used_by(users, stat.clients)),
            (
                "algorithm",
                format!(
                    "{} ({}), {} streams",
                    stat.algorithm, stat.driver, stat.streams
                ),
            ),
            ("codecs", codecs(&stat)),
            ("disk size", human(stat.disksize)),
            ("data", human(stat.counters.orig_data_size_bytes)),
            ("compressed", human(stat.counters.compr_data_size_bytes)),
            (
                "pool memory",
                format!(
                    "{} (limit {limit}, most so far {})",
                    human(stat.counters.mem_used_total_bytes),
                    human(stat.counters.mem_used_max_bytes)
                ),
            ),
            (
                "all memory",
                format!(
                    "{}{}: pool, table {}, books, streams and dictionaries {}{over}",
                    human(stat.all_memory()),
                    total_limit(&stat),
                    human(stat.counters.table_bytes),
                    human(stat.counters.metadata_bytes)
                ),
            ),
            (
                "ratio",
                if stat.ratio().is_some() {
                    list::ratio(&stat)
                } else {
                    "nothing stored".into()
                },
            ),
            (
                "pages",
                format!(
                    "{} same-filled, {} huge ({} since the start)",
                    stat.counters.same_pages,
                    stat.counters.huge_pages,
                    stat.counters.huge_pages_since
                ),
            ),
            ("dedup", dedup(&stat)),
            (
                "erase",
                if stat.erase_on_free { "on-free" } else { "off" }.into(),
            ),
            ("requests", requests(&stat.counters)),
            ("latency", latency(&stat.latency)),
            (
                "failed",
                format!(
                    "{} reads, {} writes",
                    stat.counters.failed_reads, stat.counters.failed_writes
                ),
            ),
            ("policy", policy(&stat)),
            ("discarded", format!("{} pages", stat.counters.notify_free)),
            (
                "recompressed",
                format!("{} pages", stat.counters.recompressed_pages),
            ),
            ("backing", backing(&stat)),
        ];
        rows.extend(others(&stat.counters));
        rows.extend([
            ("mm_stat", stat.mm_stat().trim_end().into()),
            ("io_stat", stat.io_stat().trim_end().into()),
            ("log", entry.dir.join("log").display().to_string()),
        ]);
        if let Some(training) = training(&stat, now_seconds()) {
            let after_policy = rows.iter().position(|(name, _)| *name == "policy");
            rows.insert(after_policy.map_or(0, |at| at + 1), ("training", training));
        }
        if let Some(since) = &stat.tracked_since {
            let after_policy = rows.iter().position(|(name, _)| *name == "policy");
            let since = match since.as_str() {
                "" => "tracked; a complete snapshot with --track has to come first".into(),
                since => format!("tracked since snapshot {since}..."),
            };
            rows.insert(after_policy.unwrap_or(0), ("changes", since));
        }
        if let Some(of) = &stat.clone_of {
            let after_size = rows.iter().position(|(name, _)| *name == "disk size");
            rows.insert(after_size.unwrap_or(0), ("clone of", clone_of(of, &stat)));
        }
        if stat.handed_over.is_some() {
            let after_size = rows.iter().position(|(name, _)| *name == "disk size");
            rows.insert(after_size.unwrap_or(0), ("handed over", HANDED_OVER.into()));
        }
        if let Some(cut) = stat.snapshot {
            let after_policy = rows.iter().position(|(name, _)| *name == "policy");
            let books = stat.counters.snapshot_bytes;
            rows.insert(
                after_policy.unwrap_or(0),
                ("snapshot", snapshot(cut, books)),
            );
        }
        let transport = stat.transport.map(|transport| ("transport", transport));
        let given = Some(options(&stat.frontend_options)).filter(|given| !given.is_empty());
        let poll = stat.poll_microseconds.map(|long| ("poll", poll(long)));
        let after_frontend = rows.iter().position(|(name, _)| *name == "frontend");
        let after_frontend = after_frontend.map_or(0, |at| at + 1);
        rows.splice(
            after_frontend..after_frontend,
            transport
                .into_iter()
                .chain(given.map(|given| ("options", given)))
                .chain(poll),
        );
        let rows = rows
            .iter()
            .map(|(name, value)| format!("{name:12} {value}\n"));
        print(&rows.collect::<String>())
    }
}

/// A frontend's options as they were given.
fn options(given: &BTreeMap<String, OptionValue>) -> String {
    let words = given.iter().map(|(name, value)| match value {
        OptionValue::Flag(true) => name.clone(),
        OptionValue::Flag(false) => format!("{name}=false"),
        OptionValue::Integer(number) => format!("{name}={number}"),
        OptionValue::Text(text) => format!("{name}={text}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// The counters that nothing else shows.
fn others(counters: &Stats) -> impl Iterator<Item = (&'static str, String)> {
    let other = |counter: &&Counter| !SHOWN.contains(&counter.name);
    let row = |counter: &Counter| {
        let value = (counter.get)(counters);
        let value = match counter.unit {
            Unit::Bytes => human(value),
            Unit::Pages => format!("{value} pages"),
            Unit::Requests => format!("{value} requests"),
        };
        (counter.name, value)
    };
    Stats::COUNTERS.iter().filter(other).map(row)
}

fn requests(counters: &Stats) -> String {
    format!(
        "{} reads of {}, {} writes of {}",
        counters.read_requests,
        human(counters.read_bytes),
        counters.write_requests,
        human(counters.write_bytes)
    )
}

/// Percentiles of the times of reads and writes, a line for each.
fn latency(of: &Latencies) -> String {
    let lines = [("reads", &of.read), ("writes", &of.write)].map(|(name, times)| {
        let at = |part| times.quantile(part).map(short_time);
        match (at(0.5), at(0.99), at(0.999), at(1.0)) {
            (Some(half), Some(two), Some(three), Some(all)) => Some(format!(
                "{name} p50 {half}, p99 {two}, p99.9 {three}, longest {all} (of {} that were timed)",
                times.timed
            )),
            _ => None,
        }
    });
    let lines: Vec<String> = lines.into_iter().flatten().collect();
    match lines.is_empty() {
        true => "nothing timed".into(),
        false => lines.join(&format!("\n{:13}", "")),
    }
}

/// A line for each user, of whatever kind.
fn used_by(users: Users, clients: Option<u64>) -> String {
    let connected = clients.filter(|n| *n > 0).map(Busy::Clients);
    let all = users.0.into_iter().chain(connected);
    let lines: Vec<String> = all.map(|by| format!("{by:#}")).collect();
    match lines.is_empty() {
        true => "nobody".into(),
        false => lines.join(&format!("\n{:13}", "")),
    }
}

fn total_limit(stat: &Stat) -> String {
    match stat.counters.total_limit_bytes {
        0 => String::new(),
        bytes => format!(" (limit {})", human(bytes)),
    }
}

fn poll(microseconds: u64) -> String {
    match microseconds {
        0 => "off: the server sleeps at once".into(),
        n => format!("looks up to {n} microseconds for the next request"),
    }
}

fn policy(stat: &Stat) -> String {
    match stat.policy_last.as_str() {
        "" => stat.policy.clone(),
        last => format!("{}; last: {last}", stat.policy),
    }
}

fn snapshot(cut: CutProgress, books: u64) -> String {
    if cut.is_basis {
        let (done, pages, books) = (cut.done_pages, cut.pages, human(books));
        return format!("is being taken: {done} of {pages} pages of the basis, books {books}");
    }
    format!(
        "is being taken: {} of {} pages, {} of at most {} kept of what is overwritten, books {}",
        cut.done_pages,
        cut.pages,
        human(cut.kept_bytes),
        human(cut.kept_max_bytes),
        human(books)
    )
}

/// What a clone is of, and how much of it is still there.
fn clone_of(of: &str, stat: &Stat) -> String {
    format!(
        "{}, up to {} still remote\n{:12} {} pages fetched, {} tried in vain",
        printable_line(of),
        human(stat.counters.remote_pages * uzram::PAGE_SIZE as u64),
        "",
        stat.counters.fetched_pages,
        stat.counters.failed_fetches
    )
}

/// What a device is whose contents are another host's.
const HANDED_OVER: &str = "the contents are another host's, which has not all of them yet: neither reads nor writes are carried out here";

fn now_seconds() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// What the primary was trained on, and what the next training waits for; `None` where it neither was trained nor trains
/// itself.
fn training(stat: &Stat, now_seconds: u64) -> Option<String> {
    let is_primary = |codec: &&CodecStats| codec.priorities.contains(&0);
    let primary = stat.codecs.iter().find(is_primary);
    let generation = primary.and_then(|codec| codec.generation);
    let was = match generation {
        Some(g) => format!(
            "generation {}, trained {} ago on {} pages; ratio {:.3} before, {:.3} after",
            g.number,
            span(now_seconds.saturating_sub(g.at_seconds)),
            g.pages_trained,
            g.ratio_before(),
            g.ratio_after()
        ),
        None => "none".into(),
    };
    let was = match stat.train_refused.as_str() {
        "" => was,
        why => format!("{was}; the last one was refused: {why}"),
    };
    match stat.train_waits_for.as_str() {
        "" => generation.map(|_| was),
        next => Some(format!("{was}\n{:12} {}; next: {next}", "", stat.train)),
    }
}

/// Seconds in the largest unit that leaves two of it.
fn span(seconds: u64) -> String {
    let (unit, times) = match seconds {
        0..120 => ("s", 1),
        120..7200 => ("min", 60),
        7200..172_800 => ("h", 3600),
        _ => ("days", 86_400),
    };
    format!("{} {unit}", seconds / times)
}

fn dedup(stat: &Stat) -> String {
    let on = if stat.dedup { "on" } else { "off" };
    if !stat.dedup && stat.counters.dup_pages == 0 {
        return on.into();
    }
    format!(
        "{on}, {} pages share, {} saved, index {}",
        stat.counters.dup_pages,
        human(stat.counters.dup_data_size_bytes),
        human(stat.counters.dedup_index_bytes)
    )
}

/// Where pages are written back to, and how many are there.
fn backing(stat: &Stat) -> String {
    let Some(backing) = &stat.backing else {
        return "none".into();
    };
    let limit = stat.writeback_limit.map_or(String::new(), |pages| {
        format!("; {pages} more may be written")
    });
    format!(
        "{} ({}), {} of {} in use\n{:12} {} pages, {} compressed; {} read, {} written, {} failed{limit}",
        backing.path.display(),
        backing.io,
        human(backing.stats.live_bytes),
        human(backing.stats.size_bytes),
        "",
        stat.counters.backed_pages,
        human(stat.counters.backed_data_size_bytes),
        stat.counters.backed_reads,
        stat.counters.backed_writes,
        stat.counters.failed_writebacks
    ) + &backing.store.as_ref().map_or_else(String::new, store)
}

/// What a backing has in a remote, and what the store last refused.
fn store(of: &StoreStats) -> String {
    let mut text = format!(
        "\n{:12} {} objects of {} in the store; {} sent, {} fetched, {} failed",
        "",
        of.objects,
        human(of.object_bytes),
        human(of.put_bytes),
        human(of.get_bytes),
        of.failed_puts + of.failed_gets + of.failed_deletes
    );
    if of.garbage_objects > 0 {
        text += &format!("; {} to be deleted", of.garbage_objects);
    }
    if of.waiting > 0 {
        text += &format!("; {} reads wait", of.waiting);
    }
    if !of.failure.is_empty() {
        text += &format!("\n{:12} the store: {}", "", of.failure);
    }
    text
}

/// A line for each algorithm that is in use: its role, what it has compressed, what it costs.
fn codecs(stat: &Stat) -> String {
    let line = |codec: &CodecStats| {
        let role = |priority: &usize| match priority {
            0 => "primary".to_owned(),
            n => format!("recompression, priority {n}"),
        };
        let mut roles: Vec<String> = codec.priorities.iter().map(role).collect();
        if roles.is_empty() {
            roles.push("until its objects are gone".into());
        }
        // Two that read the same are of two drivers.
        let alike = |other: &&CodecStats| other.to_string() == codec.to_string();
        let driver = match stat.codecs.iter().filter(alike).count() {
            0 | 1 => String::new(),
            _ => format!(" ({})", codec.driver),
        };
        let (bytes, memory) = (human(codec.object_bytes), human(codec.memory_bytes));
        let objects = codec.objects;
        let generation = match codec.generation {
            Some(generation) => format!(", generation {}", generation.number),
            None => String::new(),
        };
        format!(
            "{codec}{driver}{generation}: {}; {objects} objects of {bytes}, costs {memory}",
            roles.join(", ")
        )
    };
    let lines: Vec<String> = stat.codecs.iter().map(line).collect();
    lines.join(&format!("\n{:13}", ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trainings_are_told_with_their_gain_and_what_comes_next() {
        let mut stat = Stat {
            train_waits_for: "8388608 bytes of 4096 objects (now 0 of 0)".into(),
            codecs: vec![CodecStats {
                priorities: vec![0],
                ..CodecStats::default()
            }],
            ..Stat::default()
        };
        let next = format!("none\n{:12} auto; next: 8388608 bytes of 4096 objects", "");
        assert!(training(&stat, 100).unwrap().starts_with(&next));
        let generation = r#"{"number":2,"at_seconds":1000,"pages_trained":2048,"pages_judged":1000,
            "bytes_before":2048000,"bytes_after":1024000}"#;
        stat.train_refused = "1.6 % smaller".into();
        let refused = training(&stat, 100).unwrap();
        assert!(
            refused.starts_with("none; the last one was refused: 1.6 % smaller\n"),
            "{refused}"
        );
        stat.train_refused = String::new();
        stat.codecs[0].generation = serde_json::from_str(generation).unwrap();
        stat.train_waits_for = String::new();
        assert_eq!(
            training(&stat, 1000 + 600).unwrap(),
            "generation 2, trained 10 min ago on 2048 pages; ratio 2.000 before, 4.000 after"
        );
        assert_eq!(training(&Stat::default(), 100), None);
        assert_eq!(span(119), "119 s");
        assert_eq!(span(400_000), "4 days");
    }

    /// A counter that was renamed is shown twice, one that is gone nowhere: the list has none but those of the table.
    #[test]
    fn what_is_shown_are_counters() {
        for name in SHOWN {
            assert!(Stats::COUNTERS.iter().any(|c| c.name == *name), "{name}");
        }
    }
}
