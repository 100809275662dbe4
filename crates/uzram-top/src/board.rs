//! What two samples and those before them make of each device: rates, percentiles, history; and the table's columns.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use uzram::Latency;
use uzram_control::Job;
use uzram_control::size::human;
use uzram_control::stat::Stat;
use uzram_spec::short_time;

use crate::sample::{DeviceSample, Sample};

/// So many moments of each device are kept.
const HISTORY: usize = 512;

/// Requests of one kind between two samples.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Flow {
    /// A second.
    pub(crate) requests: f64,
    /// A second.
    pub(crate) bytes: f64,
    /// Of those that were timed.
    pub(crate) latency: Latency,
}

/// A device at one moment, as its history has it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Point {
    pub(crate) memory: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
}

/// A line of the table.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) identity: String,
    pub(crate) frontend: String,
    pub(crate) path: String,
    /// Why there are no figures.
    pub(crate) silent: Option<String>,
    pub(crate) algorithm: String,
    pub(crate) policy: String,
    pub(crate) size: u64,
    pub(crate) data: u64,
    pub(crate) memory: u64,
    pub(crate) failed: u64,
    pub(crate) reads: Flow,
    pub(crate) writes: Flow,
    pub(crate) jobs: Vec<Job>,
    /// The newest last.
    pub(crate) history: VecDeque<Point>,
}

impl Row {
    /// Data over all memory, 0 while there is none.
    pub(crate) fn ratio(&self) -> f64 {
        match self.memory {
            0 => 0.0,
            memory => self.data as f64 / memory as f64,
        }
    }
}

/// A column of the table.
pub(crate) struct Column {
    pub(crate) head: &'static str,
    /// What `--sort` takes.
    pub(crate) name: &'static str,
    pub(crate) width: u16,
    /// What it is sorted by, the largest first; `None`: by name.
    pub(crate) key: Option<fn(&Row) -> f64>,
    pub(crate) text: fn(&Row) -> String,
}

/// 77 characters with the spaces between them.
pub(crate) const COLUMNS: [Column; 11] = [
    column("NAME", "name", 8, None, |row| row.name.clone()),
    column("SIZE", "size", 6, Some(|row| row.size as f64), |row| {
        size(row.size)
    }),
    column("DATA", "data", 6, Some(|row| row.data as f64), |row| {
        size(row.data)
    }),
    column(
        "MEMORY",
        "memory",
        6,
        Some(|row| row.memory as f64),
        |row| size(row.memory),
    ),
    column("RATIO", "ratio", 5, Some(Row::ratio), |row| {
        match row.data {
            0 => "-".into(),
            _ if row.ratio() < 99.995 => format!("{:.2}", row.ratio()),
            _ => count(row.ratio()),
        }
    }),
    column("RD/S", "reads", 6, Some(|row| row.reads.requests), |row| {
        count(row.reads.requests)
    }),
    column(
        "RDB/S",
        "read-bytes",
        6,
        Some(|row| row.reads.bytes),
        |row| size(row.reads.bytes as u64),
    ),
    column(
        "WR/S",
        "writes",
        6,
        Some(|row| row.writes.requests),
        |row| count(row.writes.requests),
    ),
    column(
        "WRB/S",
        "write-bytes",
        6,
        Some(|row| row.writes.bytes),
        |row| size(row.writes.bytes as u64),
    ),
    column(
        "RD99",
        "read-time",
        6,
        Some(|row| nanoseconds(&row.reads)),
        |row| percentile(&row.reads),
    ),
    column(
        "WR99",
        "write-time",
        6,
        Some(|row| nanoseconds(&row.writes)),
        |row| percentile(&row.writes),
    ),
];

const fn column(
    head: &'static str,
    name: &'static str,
    width: u16,
    key: Option<fn(&Row) -> f64>,
    text: fn(&Row) -> String,
) -> Column {
    Column {
        head,
        name,
        width,
        key,
        text,
    }
}

fn nanoseconds(flow: &Flow) -> f64 {
    flow.latency
        .quantile(0.99)
        .map_or(0.0, |time| time.as_nanos() as f64)
}

fn percentile(flow: &Flow) -> String {
    flow.latency.quantile(0.99).map_or("-".into(), short_time)
}

/// A number in at most six characters.
pub(crate) fn count(number: f64) -> String {
    let mut number = number;
    for unit in ["", "k", "M", "G"] {
        if number < 999.5 || unit == "G" {
            return match number {
                ..9.95 if !unit.is_empty() => format!("{number:.1}{unit}"),
                _ => format!("{number:.0}{unit}"),
            };
        }
        number /= 1000.0;
    }
    String::new()
}

/// A size in at most six characters.
pub(crate) fn size(bytes: u64) -> String {
    let text = human(bytes);
    match (text.len(), text.split_once('.')) {
        (7.., Some((whole, rest))) => format!(
            "{whole}{}",
            rest.trim_start_matches(|c: char| c.is_ascii_digit())
        ),
        _ => text,
    }
}

/// What was there at the last sample, and what became of it.
#[derive(Debug, Default)]
pub(crate) struct Board {
    /// In the order of the devices' numbers.
    pub(crate) rows: Vec<Row>,
    pub(crate) damaged: usize,
    /// The last statistics of each identity, and when they were taken.
    before: HashMap<String, (Instant, Box<Stat>)>,
}

impl Board {
    /// Takes in what is known now.
    pub(crate) fn update(&mut self, sample: Sample) {
        let mut histories: HashMap<String, VecDeque<Point>> = self
            .rows
            .drain(..)
            .map(|row| (row.identity, row.history))
            .collect();
        let mut seen = HashMap::new();
        for device in sample.devices {
            let history = histories.remove(&device.identity).unwrap_or_default();
            let before = self.before.remove(&device.identity);
            let row = row(&device, sample.at, before.as_ref(), history);
            if let Ok(stat) = device.stat {
                seen.insert(device.identity, (sample.at, stat));
            }
            self.rows.push(row);
        }
        self.before = seen;
        self.damaged = sample.damaged;
    }

    /// Indices of the rows, in the order of a column; the largest comes first, names from the smallest number on.
    pub(crate) fn order(&self, column: &Column, reverse: bool) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        if let Some(key) = column.key {
            order.sort_by(|a, b| key(&self.rows[*b]).total_cmp(&key(&self.rows[*a])));
        }
        if reverse {
            order.reverse();
        }
        order
    }

    /// All devices' sums, as a row.
    pub(crate) fn sum(&self) -> Row {
        let mut sum = Row::default();
        for row in &self.rows {
            sum.size += row.size;
            sum.data += row.data;
            sum.memory += row.memory;
            sum.failed += row.failed;
            for (sum, flow) in [(&mut sum.reads, &row.reads), (&mut sum.writes, &row.writes)] {
                sum.requests += flow.requests;
                sum.bytes += flow.bytes;
            }
        }
        sum
    }

    /// How many do not answer.
    pub(crate) fn silent(&self) -> usize {
        self.rows.iter().filter(|row| row.silent.is_some()).count()
    }
}

fn row(
    device: &DeviceSample,
    at: Instant,
    before: Option<&(Instant, Box<Stat>)>,
    mut history: VecDeque<Point>,
) -> Row {
    let mut row = Row {
        name: device.name.clone(),
        identity: device.identity.clone(),
        frontend: device.frontend.clone(),
        path: device.path.clone(),
        jobs: device.jobs.clone(),
        ..Row::default()
    };
    match &device.stat {
        Err(why) => row.silent = Some(why.clone()),
        Ok(stat) => {
            let counters = &stat.counters;
            row.algorithm = stat.algorithm.clone();
            row.policy = stat.policy.clone();
            row.size = stat.disksize;
            row.data = counters.orig_data_size_bytes;
            row.memory = stat.all_memory();
            row.failed = counters.failed_reads + counters.failed_writes;
            if let Some((then, earlier)) = before {
                let seconds = (at - *then).as_secs_f64().max(1e-3);
                // A reset, or another server, begins anew.
                let rate =
                    |now: u64, then: u64| now.checked_sub(then).unwrap_or(now) as f64 / seconds;
                let old = &earlier.counters;
                row.reads = Flow {
                    requests: rate(counters.read_requests, old.read_requests),
                    bytes: rate(counters.read_bytes, old.read_bytes),
                    latency: stat.latency.read.since(&earlier.latency.read),
                };
                row.writes = Flow {
                    requests: rate(counters.write_requests, old.write_requests),
                    bytes: rate(counters.write_bytes, old.write_bytes),
                    latency: stat.latency.write.since(&earlier.latency.write),
                };
            }
            history.push_back(Point {
                memory: row.memory,
                read_bytes: row.reads.bytes as u64,
                written_bytes: row.writes.bytes as u64,
            });
            if history.len() > HISTORY {
                history.pop_front();
            }
        }
    }
    row.history = history;
    row
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    /// A device that has so much data, in half of it memory, and read that much so far.
    pub(crate) fn device(name: &str, data: u64, read: u64) -> DeviceSample {
        let stat = json!({
            "disksize": 4 * data, "algorithm": "lzhs", "driver": "lzhs-uzram", "streams": 2,
            "orig_data_size": data, "mem_used_total": data / 2,
            "read_requests": read / 4096, "read_bytes": read,
            "latency": { "read": { "timed": read / 4096, "nanoseconds": read, "buckets": [{ "below": 2048, "count": read / 4096 }] } },
        });
        DeviceSample {
            name: name.into(),
            identity: format!("id-{name}"),
            frontend: "ublk".into(),
            path: format!("/dev/{name}"),
            stat: Ok(Box::new(serde_json::from_value(stat).unwrap())),
            jobs: Vec::new(),
        }
    }

    pub(crate) fn sample(at: Instant, devices: Vec<DeviceSample>) -> Sample {
        Sample {
            at,
            devices,
            damaged: 0,
        }
    }

    #[test]
    fn rates_are_of_the_time_between_two_samples() {
        let begin = Instant::now();
        let mut board = Board::default();
        board.update(sample(begin, vec![device("zram0", 1 << 30, 1 << 20)]));
        assert_eq!(board.rows[0].reads.requests, 0.0);
        let later = begin + Duration::from_secs(2);
        board.update(sample(later, vec![device("zram0", 1 << 30, 9 << 20)]));
        let row = &board.rows[0];
        assert_eq!(
            (row.reads.requests, row.reads.bytes),
            (1024.0, f64::from(4 << 20))
        );
        assert_eq!(row.reads.latency.timed, 2048);
        assert_eq!((row.ratio(), row.history.len()), (2.0, 2));
        // A reset in between.
        board.update(sample(
            later + Duration::from_secs(1),
            vec![device("zram0", 4096, 4096)],
        ));
        assert_eq!(board.rows[0].reads.requests, 1.0);
        // One that is silent keeps its past.
        let mut silent = device("zram0", 0, 0);
        silent.stat = Err("stopped?".into());
        board.update(sample(later + Duration::from_secs(2), vec![silent]));
        let row = &board.rows[0];
        assert_eq!(
            (row.silent.as_deref(), row.history.len()),
            (Some("stopped?"), 3)
        );
        assert_eq!(board.silent(), 1);
    }

    #[test]
    fn rows_are_sorted_by_any_column() {
        let begin = Instant::now();
        let mut board = Board::default();
        board.update(sample(
            begin,
            vec![
                device("zram0", 1 << 20, 0),
                device("zram1", 1 << 30, 0),
                device("zram2", 4096, 0),
            ],
        ));
        let by = |name: &str, reverse| {
            let column = COLUMNS.iter().find(|column| column.name == name).unwrap();
            board.order(column, reverse)
        };
        assert_eq!(by("name", false), [0, 1, 2]);
        assert_eq!(by("name", true), [2, 1, 0]);
        assert_eq!(by("data", false), [1, 0, 2]);
        assert_eq!(by("memory", true), [2, 0, 1]);
        assert_eq!(board.sum().data, (1 << 30) + (1 << 20) + 4096);
    }

    #[test]
    fn figures_fit_their_columns() {
        for (number, text) in [
            (0.0, "0"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (9949.0, "9.9k"),
            (12_345.0, "12k"),
            (999_600.0, "1.0M"),
            (7e12, "7000G"),
        ] {
            assert_eq!(count(number), text);
        }
        assert_eq!(
            COLUMNS.iter().map(|column| column.width + 1).sum::<u16>() - 1,
            77
        );
        let mut row = Row {
            size: 1023 << 30,
            data: 1023 << 30,
            memory: 1 << 30,
            ..Row::default()
        };
        row.name = "zram1234".into();
        row.reads.requests = 1_234_567.0;
        row.reads.bytes = 1023.4 * 1024.0;
        for column in &COLUMNS {
            let text = (column.text)(&row);
            assert!(
                text.len() <= usize::from(column.width),
                "{}: {text}",
                column.name
            );
        }
    }
}
