//! What is known of devices and of the daemon as metrics, for Prometheus and what reads its formats.
//!
//! A family of metrics is a row of a table. Those of a device's counters are made of [`Stats::COUNTERS`]: a counter that is
//! added there is a metric at once. What a device says beside its counters has rows in `families.rs`. The text is
//! written by the crate `prometheus-client`, of the table, when somebody asks: nothing is kept between two scrapes.
//!
//! Devices are asked all at once, and none is waited for longer than [`client::SURVEY`]. One that does not answer has
//! `uzram_device_up` 0 and no other figures.
//!
//! Names: `uzram_`, the counter's name without its unit, the unit, and `_total` where it only grows.

mod families;

use std::fmt;
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric, NoLabelSet, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use uzram::Latency;
use uzram_control::stat::Stat;
use uzram_control::{RunDir, RunningDevice};
use uzram_runtime::client;
use uzram_spec::Result;

use families::{Family, Kind, Value, families};

/// A text format of metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MetricsFormat {
    /// Prometheus' own, version 0.0.4: what its textfile collector and `promtool check metrics` read.
    #[default]
    Prometheus,
    /// OpenMetrics 1.0.0, with units.
    OpenMetrics,
}

impl MetricsFormat {
    /// What stands in `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            MetricsFormat::Prometheus => prometheus_text::CONTENT_TYPE,
            MetricsFormat::OpenMetrics => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8"
            }
        }
    }

    /// What whoever sends that `Accept` likes best: OpenMetrics where it is named, and the other format is not preferred.
    pub fn accepted(accept: &str) -> MetricsFormat {
        let mut open_metrics = 0.0f32;
        let mut other = 0.0f32;
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut version) = (1.0f32, None);
            for parameter in parts {
                match parameter.split_once('=') {
                    Some((key, value)) if key.trim().eq_ignore_ascii_case("q") => {
                        quality = value.trim().parse().unwrap_or(0.0);
                    }
                    Some((key, value)) if key.trim().eq_ignore_ascii_case("version") => {
                        version = Some(value.trim().trim_matches('"').to_owned());
                    }
                    _ => {}
                }
            }
            let is_ours = version.is_none_or(|version| ["1.0.0", "0.0.1"].contains(&&*version));
            match media.as_str() {
                "application/openmetrics-text" if is_ours => {
                    open_metrics = open_metrics.max(quality);
                }
                "text/plain" => other = other.max(quality),
                _ => {}
            }
        }
        match open_metrics > 0.0 && open_metrics >= other {
            true => MetricsFormat::OpenMetrics,
            false => MetricsFormat::Prometheus,
        }
    }
}

/// A device that was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredDevice {
    /// Its name.
    pub name: String,
    /// How it is served.
    pub frontend: String,
    /// Its node, or its URI.
    pub path: String,
    /// What its server said; `None`: nothing in time.
    pub stat: Option<Stat>,
}

/// The daemon that answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct MeasuredDaemon {
    /// When it was started, in seconds since 1970.
    pub(crate) start_seconds: f64,
    /// Its own memory.
    pub(crate) resident_bytes: u64,
}

/// All that is measured at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    /// The devices.
    pub devices: Vec<MeasuredDevice>,
    /// Devices whose records cannot be read.
    pub damaged: u64,
    /// How long the devices were waited for.
    pub asked: Duration,
    pub(crate) daemon: Option<MeasuredDaemon>,
}

impl Metrics {
    /// What is known of these devices.
    pub fn new(devices: Vec<MeasuredDevice>) -> Metrics {
        Metrics {
            devices,
            damaged: 0,
            asked: Duration::ZERO,
            daemon: None,
        }
    }

    /// Asks all devices of a run directory.
    pub fn of(run: &RunDir) -> Result<Metrics> {
        let entries = run.devices()?;
        let damaged = run.damaged()?.len() as u64;
        Ok(Metrics {
            damaged,
            ..Metrics::of_devices(&entries)
        })
    }

    /// Asks these devices.
    pub fn of_devices(entries: &[RunningDevice]) -> Metrics {
        let begin = Instant::now();
        let stats = client::survey(entries);
        let measured = |(entry, stat): (&RunningDevice, Result<Stat>)| MeasuredDevice {
            name: entry.record.name.clone(),
            frontend: entry.record.frontend.clone(),
            path: entry.record.path.clone(),
            stat: stat.ok(),
        };
        // One that is going just now is not one that does not answer.
        let there =
            |(entry, stat): &(&RunningDevice, Result<Stat>)| stat.is_ok() || !entry.is_gone();
        let devices = entries.iter().zip(stats).filter(there).map(measured);
        Metrics {
            asked: begin.elapsed(),
            ..Metrics::new(devices.collect())
        }
    }

    /// The text that is scraped. Never fails: it is written to memory.
    pub fn text(&self, format: MetricsFormat) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut out = String::new();
        let written = match format {
            MetricsFormat::Prometheus => prometheus_text::encode(&mut out, &registry),
            MetricsFormat::OpenMetrics => text::encode(&mut out, &registry),
        };
        debug_assert!(written.is_ok(), "{written:?}");
        out
    }
}

/// The names of all metrics, as they stand in samples of either format, each with what it is.
pub fn metric_names() -> Vec<(String, &'static str)> {
    let all = families(&Metrics::new(Vec::new()));
    let names = |one: &Family| {
        let name = one.full_name();
        let suffixes: &[&str] = match one.kind {
            Kind::Histogram => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        let names: Vec<_> = suffixes
            .iter()
            .map(|s| (format!("{name}{s}"), one.doc))
            .collect();
        names
    };
    all.iter().flat_map(names).collect()
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let all = families(self);
        // A family without samples says nothing.
        all.iter()
            .filter(|family| !family.samples.is_empty())
            .try_for_each(|family| family.encode(&mut encoder))
    }
}

impl Family {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let unit = match self.unit {
            "" => None,
            "bytes" => Some(Unit::Bytes),
            "seconds" => Some(Unit::Seconds),
            other => Some(Unit::Other(other.into())),
        };
        let kind = match self.kind {
            Kind::Gauge => MetricType::Gauge,
            Kind::Total => MetricType::Counter,
            Kind::Histogram => MetricType::Histogram,
        };
        let mut family = encoder.encode_descriptor(&self.name, self.doc, unit.as_ref(), kind)?;
        for (labels, value) in &self.samples {
            let mut sample = family.encode_family(labels)?;
            match (self.kind, value) {
                (Kind::Total, Value::Whole(n)) => ConstCounter::new(*n).encode(sample)?,
                (Kind::Total, Value::Part(x)) => ConstCounter::new(*x).encode(sample)?,
                (_, Value::Whole(n)) => ConstGauge::new(*n).encode(sample)?,
                (_, Value::Part(x)) => ConstGauge::new(*x).encode(sample)?,
                (_, Value::Times(times)) => {
                    let seconds = times.nanoseconds as f64 / 1e9;
                    let buckets = metric_buckets(times);
                    sample.encode_histogram::<NoLabelSet>(seconds, times.timed, &buckets, None)?;
                }
            }
        }
        Ok(())
    }
}

/// The upper ends of the buckets of metrics, in powers of four from 256 ns to 17 s: a device's own are ten times as many.
const METRIC_BUCKETS: std::ops::RangeInclusive<u32> = 4..=17;

/// Each bucket's upper end in seconds, and what is in it; the last has no end.
fn metric_buckets(times: &Latency) -> Vec<(f64, u64)> {
    let mut before = 0;
    let mut buckets: Vec<(f64, u64)> = METRIC_BUCKETS
        .map(|power| {
            let end = Duration::from_nanos(4u64.pow(power));
            let below = times.below(end);
            let inside = below - std::mem::replace(&mut before, below);
            (end.as_secs_f64(), inside)
        })
        .collect();
    buckets.push((f64::MAX, times.timed - before));
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use uzram::{BackingInfo, CodecStats, CutProgress, Stats};

    /// A device of which everything is known, and one that says nothing.
    fn all() -> Metrics {
        let mut stat = Stat {
            backing: Some(BackingInfo {
                path: "/x".into(),
                io: "io_uring".into(),
                stats: serde_json::from_str("{}").unwrap(),
                store: Some(serde_json::from_str("{}").unwrap()),
            }),
            codecs: vec![
                CodecStats::default(),
                CodecStats {
                    index: 1,
                    ..CodecStats::default()
                },
            ],
            snapshot: Some(CutProgress::default()),
            writeback_limit: Some(u64::MAX),
            clients: Some(3),
            ..Stat::default()
        };
        // Each counter has a value of its own.
        let mut json = serde_json::to_value(&stat).unwrap();
        for (number, counter) in Stats::COUNTERS.iter().enumerate() {
            json[counter.name] = (number + 1).into();
        }
        stat = serde_json::from_value(json).unwrap();
        stat.agent.cpu_seconds = 0.5;
        let device = |name: &str, stat| MeasuredDevice {
            name: name.into(),
            frontend: "nbd".into(),
            path: "nbd+unix:///?socket=\"a\\b\n\"".into(),
            stat,
        };
        let mut metrics = Metrics::new(vec![device("zram0", Some(stat)), device("zram1", None)]);
        metrics.daemon = Some(MeasuredDaemon {
            start_seconds: 1.5,
            resident_bytes: 7,
        });
        metrics
    }

    #[test]
    fn every_counter_is_a_metric_of_its_own() {
        let names: Vec<String> = metric_names().into_iter().map(|(name, _)| name).collect();
        let unique: BTreeSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), names.len(), "{names:?}");
        // OpenMetrics: families differ in more than the `_total` of their samples.
        let families: BTreeSet<&str> = names.iter().map(|n| n.trim_end_matches("_total")).collect();
        assert_eq!(families.len(), names.len(), "{names:?}");
        for (name, doc) in metric_names() {
            let plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(
                name.starts_with("uzram") && name.chars().all(plain),
                "{name}"
            );
            assert!(!name.contains("__") && doc.len() > 10, "{name}: {doc}");
        }
        for format in [MetricsFormat::Prometheus, MetricsFormat::OpenMetrics] {
            let text = all().text(format);
            for (number, counter) in Stats::COUNTERS.iter().enumerate() {
                let value = format!("{{name=\"zram0\"}} {}\n", number + 1);
                let is_its = |(name, doc): &(String, &str)| {
                    *doc == counter.doc && text.contains(&format!("\n{name}{value}"))
                };
                let found = metric_names().into_iter().filter(is_its).count();
                assert_eq!(found, 1, "{counter:?} in {text}");
            }
            // All that has rows.
            for name in &names {
                assert!(
                    text.contains(&format!("\n{name}")),
                    "{name} is not in {text}"
                );
            }
        }
    }

    #[test]
    fn the_formats_are_what_they_say() {
        let text = all().text(MetricsFormat::OpenMetrics);
        assert!(text.ends_with("\n# EOF\n"), "{text}");
        for line in [
            "# TYPE uzram_read_bytes counter\n# UNIT uzram_read_bytes bytes\nuzram_read_bytes_total{name=\"zram0\"} ",
            "# TYPE uzram_same_pages gauge\n# UNIT uzram_same_pages pages\nuzram_same_pages{name=\"zram0\"} ",
            "uzram_writeback_limit_pages{name=\"zram0\"} 18446744073709551615\n",
            "uzram_device_up{name=\"zram0\"} 1\nuzram_device_up{name=\"zram1\"} 0\n",
            "path=\"nbd+unix:///?socket=\\\"a\\\\b\\n\\\"\"",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        let text = all().text(MetricsFormat::Prometheus);
        assert!(
            !text.contains("# EOF") && !text.contains("# UNIT"),
            "{text}"
        );
        let line = "# TYPE uzram_read_bytes_total counter\nuzram_read_bytes_total{name=\"zram0\"} ";
        assert!(text.contains(line), "{text}");
        // Who says nothing has no figures.
        let of_silent = text.lines().filter(|line| line.contains("name=\"zram1\""));
        assert_eq!(of_silent.count(), 2, "{text}");
        let none = Metrics::new(Vec::new()).text(MetricsFormat::Prometheus);
        assert!(
            none.contains("uzram_devices 0\n") && !none.contains("uzramd_"),
            "{none}"
        );
    }

    #[test]
    fn a_client_gets_what_it_likes_best() {
        use MetricsFormat::{OpenMetrics, Prometheus};
        for (accept, format) in [
            ("", Prometheus),
            ("*/*", Prometheus),
            ("text/plain", Prometheus),
            ("application/json", Prometheus),
            ("application/openmetrics-text", OpenMetrics),
            (
                "Application/OpenMetrics-Text; Version=1.0.0; charset=utf-8",
                OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=\"1.0.0\"",
                OpenMetrics,
            ),
            // As Prometheus sends it.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=2.0.0,text/plain",
                Prometheus,
            ),
            (
                "application/openmetrics-text;q=0.4,text/plain;q=0.5",
                Prometheus,
            ),
            ("application/openmetrics-text;q=0,text/html", Prometheus),
            ("application/openmetrics-text;q=nonsense,*/*", Prometheus),
            (";;;,,q=1;=", Prometheus),
        ] {
            assert_eq!(MetricsFormat::accepted(accept), format, "{accept}");
        }
    }

    /// promtool parses and lints what is answered.
    #[test]
    fn interop_promtool_finds_the_metrics_right() {
        if !uzram_testkit::peers::have(uzram_testkit::test_name!(), &["promtool"]) {
            return;
        }
        let mut promtool = std::process::Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let text = all().text(MetricsFormat::Prometheus);
        let mut stdin = promtool.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, text.as_bytes()).unwrap();
        drop(stdin);
        let output = promtool.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
}
