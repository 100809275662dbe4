//! What the report says: tables, charts and sentences made of what was gathered. Page and text are two forms of it.

use uzram::{AGE_GROUPS, AgeGroup, InspectReport, Plan};
use uzram_control::size::{human, thousands};
use uzram_control::stat::Stat;
use uzram_daemon::{HistoryAnswer, HistoryPoint};

use super::chart::{Bars, Chart, Line, Style};
use super::gather::Facts;

const PAGE: u64 = 4096;
/// Bytes of objects that stand in one column.
const CLASS_STEP: usize = 256;
/// Ages, in seconds, that the table of the past shows.
const PAST: [u64; 8] = [
    0,
    600,
    3600,
    6 * 3600,
    86_400,
    3 * 86_400,
    7 * 86_400,
    30 * 86_400,
];

/// All of it.
pub(super) struct Report {
    pub(super) title: String,
    /// Of when it is, and of what.
    pub(super) about: String,
    /// The figures that matter most: name and value.
    pub(super) tiles: Vec<(&'static str, String)>,
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) sections: Vec<Section>,
}

/// One subject.
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) notes: Vec<String>,
    pub(super) chart: Option<Chart>,
    pub(super) table: Option<Table>,
}

/// Cells. The first column is text.
pub(super) struct Table {
    pub(super) head: Vec<String>,
    /// Other columns that are text.
    texts: &'static [usize],
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    fn new(head: &[&str], texts: &'static [usize]) -> Table {
        Table {
            head: head.iter().map(|text| (*text).into()).collect(),
            texts,
            rows: Vec::new(),
        }
    }

    pub(super) fn is_text(&self, column: usize) -> bool {
        self.texts.contains(&column)
    }
}

impl Section {
    fn new(title: &'static str) -> Section {
        Section {
            title,
            notes: Vec::new(),
            chart: None,
            table: None,
        }
    }
}

impl Report {
    pub(super) fn new(facts: &Facts) -> Report {
        let stat = &facts.stat;
        let ratio = match stat.all_memory() {
            0 => "-".into(),
            memory => format!(
                "{:.2}",
                stat.counters.orig_data_size_bytes as f64 / memory as f64
            ),
        };
        Report {
            title: format!("{} on {}", facts.record.names(), facts.host),
            about: format!(
                "Report of {}, by uzram {}",
                facts.when,
                env!("CARGO_PKG_VERSION")
            ),
            tiles: vec![
                ("data", bytes(stat.counters.orig_data_size_bytes)),
                ("all memory", bytes(stat.all_memory())),
                ("data over memory", ratio),
                ("size of the device", bytes(stat.disksize)),
            ],
            facts: device(facts),
            sections: vec![
                past(facts),
                states(stat),
                algorithms(stat),
                classes(facts),
                ages(facts),
                gains(facts),
                planned(facts),
            ],
        }
    }
}

/// A size in words: `145.7 MiB`.
pub(super) fn bytes(count: u64) -> String {
    let text = human(count);
    match text.strip_suffix('B') {
        Some(number) => format!("{number} B"),
        None => {
            let (number, unit) = text.split_at(text.len() - 1);
            format!("{number} {unit}iB")
        }
    }
}

/// The unit that suits values of up to `most` bytes: its name, and its bytes.
fn unit(most: u64) -> (&'static str, f64) {
    match most {
        ..2048 => ("bytes", 1.0),
        2048..2_097_152 => ("KiB", 1024.0),
        2_097_152..2_147_483_648 => ("MiB", 1_048_576.0),
        _ => ("GiB", 1_073_741_824.0),
    }
}

fn part(of: u64, whole: u64) -> String {
    match whole {
        0 => "-".into(),
        _ => format!("{:.1} %", of as f64 * 100.0 / whole as f64),
    }
}

/// Seconds in the largest unit that divides them: `5 min`.
fn age(seconds: u64) -> String {
    match seconds {
        0 => "any".into(),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Processor time in words.
fn cpu(nanoseconds: u128) -> String {
    match nanoseconds {
        ..1_000_000_000 => format!("{} ms", nanoseconds / 1_000_000),
        1_000_000_000..600_000_000_000 => format!("{:.1} s", nanoseconds as f64 / 1e9),
        _ => format!("{:.0} min", nanoseconds as f64 / 60e9),
    }
}

fn device(facts: &Facts) -> Vec<(&'static str, String)> {
    let (record, stat) = (&facts.record, &facts.stat);
    let or_none = |bytes_: u64| match bytes_ {
        0 => "none".into(),
        limit => bytes(limit),
    };
    let codecs = stat.codecs.iter();
    let secondaries: Vec<String> = codecs
        .filter(|codec| codec.priorities.iter().any(|priority| *priority > 0))
        .map(ToString::to_string)
        .collect();
    let mut all = vec![
        ("path", record.path.clone()),
        ("frontend", record.frontend.clone()),
        ("algorithm", stat.algorithm.clone()),
        (
            "for recompression",
            match secondaries.is_empty() {
                true => "none".into(),
                false => secondaries.join(", "),
            },
        ),
        ("streams", stat.streams.to_string()),
        (
            "limit on all memory",
            or_none(stat.counters.total_limit_bytes),
        ),
        ("limit on the pool", or_none(stat.counters.mem_limit_bytes)),
        ("most pool memory", bytes(stat.counters.mem_used_max_bytes)),
        ("slot table", bytes(stat.counters.table_bytes)),
        ("books and contexts", bytes(stat.counters.metadata_bytes)),
        (
            "backing",
            stat.backing
                .as_ref()
                .map_or("none".into(), |backing| backing.path.display().to_string()),
        ),
        ("policy", stat.policy.clone()),
    ];
    if let Some(source) = &stat.clone_of {
        all.push(("clone of", source.clone()));
    }
    all
}

fn past(facts: &Facts) -> Section {
    let mut section = Section::new("Memory over time");
    let history = match &facts.history {
        Ok(Some(history)) => history,
        Ok(None) => {
            section.notes = vec![
                "Nothing is known of the past: uzramd, which notes it, does not run here, or is of an older version.".into(),
            ];
            return section;
        }
        Err(why) => {
            section.notes = vec![format!("Nothing is known of the past: {why}")];
            return section;
        }
    };
    if history.points.is_empty() {
        section.notes = vec!["uzramd has noted nothing of this device yet.".into()];
        return section;
    }
    // One moment is no past.
    let moments = history.points.len();
    section.chart = (moments > 1).then(|| memory_chart(history, &facts.stat, facts.at_seconds));
    section.table = Some(memory_table(history, facts.at_seconds));
    section.notes.push(
        "Memory is the most since the point before: peaks stay when older points are thinned. A gap: uzramd was not there, or \
         the device did not answer."
            .into(),
    );
    section
}

/// The unit of times of up to that many seconds: its name, and its seconds.
fn time_unit(most: u64) -> (&'static str, f64) {
    match most {
        ..300 => ("seconds", 1.0),
        300..18_000 => ("minutes", 60.0),
        18_000..259_200 => ("hours", 3600.0),
        _ => ("days", 86_400.0),
    }
}

fn memory_chart(history: &HistoryAnswer, stat: &Stat, now: u64) -> Chart {
    let points = &history.points;
    let most = points
        .iter()
        .map(|point| point.data_bytes.max(point.memory_bytes_max))
        .max();
    let (unit, divisor) = unit(most.unwrap_or(0));
    let oldest = points
        .first()
        .map_or(0, |point| now.saturating_sub(point.at_seconds));
    let (time, seconds) = time_unit(oldest);
    let line = |name: &str, style, of: fn(&HistoryPoint) -> u64| {
        let at = |point: &HistoryPoint| {
            let age = now.saturating_sub(point.at_seconds) as f64 / seconds;
            (age, of(point) as f64 / divisor)
        };
        let pieces = points.chunk_by(|one, next| !is_gap(history, one, next, now));
        Line {
            name: name.into(),
            style,
            pieces: pieces.map(|piece| piece.iter().map(at).collect()).collect(),
        }
    };
    let mut lines = vec![
        line("all memory", Style::new(0, 0), |point| {
            point.memory_bytes_max
        }),
        line("data", Style::new(1, 1), |point| point.data_bytes),
    ];
    if points.iter().any(|point| point.backed_bytes > 0) {
        lines.push(line("objects on the backing", Style::new(2, 3), |point| {
            point.backed_bytes
        }));
    }
    let limit = stat.counters.total_limit_bytes;
    // One that is far above all else would flatten it.
    if limit > 0 && limit <= most.unwrap_or(0).saturating_mul(2) {
        let limit = limit as f64 / divisor;
        lines.push(Line {
            name: "limit on all memory, as it is now".into(),
            style: Style::new(3, 2),
            pieces: vec![vec![(oldest as f64 / seconds, limit), (0.0, limit)]],
        });
    }
    Chart::Lines {
        title: "Memory and data over time".into(),
        x: format!("{time} before this report"),
        y: unit.into(),
        lines,
    }
}

/// Whether more time lies between two points than the daemon leaves.
fn is_gap(history: &HistoryAnswer, one: &HistoryPoint, next: &HistoryPoint, now: u64) -> bool {
    // Points of a level are there for an hour, a day, a month: the next coarser interval counts at the borders.
    let intervals = &history.intervals_seconds;
    let interval = match now.saturating_sub(one.at_seconds) {
        ..3600 => intervals.first(),
        3600..86_400 => intervals.get(1),
        _ => intervals.get(2),
    };
    let most = interval.copied().unwrap_or(7200).max(10) * 3;
    next.at_seconds.saturating_sub(one.at_seconds) > most
}

fn memory_table(history: &HistoryAnswer, now: u64) -> Table {
    let mut table = Table::new(
        &[
            "before",
            "data",
            "objects",
            "all memory",
            "data over memory",
        ],
        &[],
    );
    let mut last = None;
    for past in PAST {
        let near = |point: &&HistoryPoint| now.saturating_sub(point.at_seconds).abs_diff(past);
        let Some(point) = history.points.iter().min_by_key(near) else {
            continue;
        };
        let is_far = near(&point) > (past / 5).max(60);
        if is_far || last == Some(point.at_seconds) {
            continue;
        }
        last = Some(point.at_seconds);
        let ratio = match point.memory_bytes {
            0 => "-".into(),
            memory => format!("{:.2}", point.data_bytes as f64 / memory as f64),
        };
        table.rows.push(vec![
            if past == 0 { "now".into() } else { age(past) },
            bytes(point.data_bytes),
            bytes(point.object_bytes),
            bytes(point.memory_bytes),
            ratio,
        ]);
    }
    table
}

fn states(stat: &Stat) -> Section {
    let mut section = Section::new("Pages by state");
    let counters = &stat.counters;
    let written = counters.orig_data_size_bytes / PAGE;
    let special = counters.huge_pages + counters.same_pages + counters.backed_pages;
    let all = [
        ("compressed", written.saturating_sub(special)),
        ("stored as they are (huge)", counters.huge_pages),
        ("one repeated word (same-filled)", counters.same_pages),
        ("on the backing", counters.backed_pages),
        ("still in the clone's source", counters.remote_pages),
    ];
    let held: u64 = all.iter().map(|(_, pages)| pages).sum();
    let mut table = Table::new(&["state", "pages", "data", "of all"], &[]);
    let mut row = |state: &str, pages: u64, part: String| {
        table.rows.push(vec![
            state.into(),
            thousands(pages),
            bytes(pages * PAGE),
            part,
        ]);
    };
    let there: Vec<_> = all.into_iter().filter(|(_, pages)| *pages > 0).collect();
    for (state, pages) in &there {
        row(state, *pages, part(*pages, held));
    }
    row(
        "empty",
        (stat.disksize / PAGE).saturating_sub(held),
        String::new(),
    );
    if counters.dup_pages > 0 {
        section.notes.push(format!(
            "{} pages share another page's object (dedup), which would have {} of their own.",
            thousands(counters.dup_pages),
            bytes(counters.dup_data_size_bytes)
        ));
    }
    section.table = Some(table);
    if held == 0 {
        section.notes.push("The device is empty.".into());
        return section;
    }
    let (unit, divisor) = unit(held * PAGE);
    section.chart = Some(Chart::Bars {
        title: "Data by the state of its pages".into(),
        x: format!("{unit} of data"),
        labels: there.iter().map(|(state, _)| (*state).into()).collect(),
        bars: vec![Bars {
            name: "data".into(),
            style: Style::new(0, 0),
            values: there
                .iter()
                .map(|(_, pages)| (pages * PAGE) as f64 / divisor)
                .collect(),
            errors: Vec::new(),
        }],
    });
    section
}

fn algorithms(stat: &Stat) -> Section {
    let mut section = Section::new("Pages by algorithm");
    let mut table = Table::new(
        &["algorithm", "is", "pages", "data", "objects", "ratio"],
        &[1],
    );
    for codec in &stat.codecs {
        let roles = codec.priorities.iter().map(|priority| match priority {
            0 => "what writes".to_owned(),
            priority => format!("secondary {priority}"),
        });
        let roles: Vec<String> = roles.collect();
        table.rows.push(vec![
            codec.to_string(),
            match roles.is_empty() {
                true => "former".into(),
                false => roles.join(", "),
            },
            thousands(codec.objects),
            bytes(codec.objects * PAGE),
            bytes(codec.object_bytes),
            match codec.object_bytes {
                0 => "-".into(),
                stored => format!("{:.2}", (codec.objects * PAGE) as f64 / stored as f64),
            },
        ]);
    }
    let used: Vec<_> = stat
        .codecs
        .iter()
        .filter(|codec| codec.objects > 0)
        .collect();
    if !used.is_empty() {
        let most = used.iter().map(|codec| codec.objects * PAGE).max();
        let (unit, divisor) = unit(most.unwrap_or(0));
        let bars = |name: &str, style, of: &dyn Fn(usize) -> u64| Bars {
            name: name.into(),
            style,
            values: (0..used.len()).map(|at| of(at) as f64 / divisor).collect(),
            errors: Vec::new(),
        };
        section.chart = Some(Chart::Bars {
            title: "Data and objects by algorithm".into(),
            x: unit.into(),
            labels: used.iter().map(ToString::to_string).collect(),
            bars: vec![
                bars("data", Style::new(1, 1), &|at| used[at].objects * PAGE),
                bars("their objects", Style::new(0, 0), &|at| {
                    used[at].object_bytes
                }),
            ],
        });
    }
    section.table = Some(table);
    section
}

fn classes(facts: &Facts) -> Section {
    let mut section = Section::new("Memory by size class");
    let classes = match &facts.classes {
        Ok(classes) => classes,
        Err(why) => {
            section.notes = vec![format!("Not known: {why}")];
            return section;
        }
    };
    let groups = PAGE as usize / CLASS_STEP;
    // Objects, their bytes, memory.
    let mut sums = vec![(0u64, 0u64, 0u64); groups];
    for class in classes {
        let group = (class.size_bytes.max(1) - 1) / CLASS_STEP;
        let (objects, used, memory) = &mut sums[group.min(groups - 1)];
        *objects += class.objects_used;
        *used += class.objects_used * class.size_bytes as u64;
        *memory += class.pages_used * PAGE;
    }
    let range =
        |group: usize| format!("{} to {}", group * CLASS_STEP + 1, (group + 1) * CLASS_STEP);
    let mut table = Table::new(
        &[
            "bytes of an object",
            "objects",
            "in objects",
            "memory",
            "unused",
        ],
        &[],
    );
    for (group, (objects, used, memory)) in sums.iter().enumerate() {
        if *memory > 0 {
            let unused = memory.saturating_sub(*used);
            let cells = [
                thousands(*objects),
                bytes(*used),
                bytes(*memory),
                bytes(unused),
            ];
            table.rows.push([vec![range(group)], cells.into()].concat());
        }
    }
    let most = sums
        .iter()
        .map(|(_, used, memory)| *memory.max(used))
        .max()
        .unwrap_or(0);
    if most == 0 {
        section.notes.push("There are no objects in memory.".into());
        return section;
    }
    let freeable: u64 = classes
        .iter()
        .map(|class| class.pages_freeable * PAGE)
        .sum();
    if freeable > 0 {
        section.notes.push(format!(
            "{} would be free if the objects lay one after the other: uzram compact gives that back.",
            bytes(freeable)
        ));
    }
    let (unit, divisor) = unit(most);
    let bars = |name: &str, style, of: &dyn Fn(&(u64, u64, u64)) -> u64| Bars {
        name: name.into(),
        style,
        values: sums.iter().map(|sum| of(sum) as f64 / divisor).collect(),
        errors: Vec::new(),
    };
    section.chart = Some(Chart::Columns {
        title: "Memory by the size of objects".into(),
        x: "bytes of an object, up to".into(),
        y: unit.into(),
        labels: (1..=groups)
            .map(|group| (group * CLASS_STEP).to_string())
            .collect(),
        bars: vec![
            bars("in objects", Style::new(0, 0), &|sum| sum.1),
            bars("memory", Style::new(1, 1), &|sum| sum.2),
        ],
    });
    section.table = Some(table);
    section
}

/// From one least age to the next.
fn span(group: usize) -> String {
    let from = AGE_GROUPS[group];
    match (from, AGE_GROUPS.get(group + 1)) {
        (0, Some(to)) => format!("below {}", age(*to)),
        (from, Some(to)) => format!("{} to {}", age(from), age(*to)),
        (from, None) => format!("{} and more", age(from)),
    }
}

fn ages(facts: &Facts) -> Section {
    let mut section = Section::new("Memory by age");
    let found = match &facts.inspected {
        Ok(found) => found,
        Err(why) => {
            section.notes = vec![format!("Not known: {why}")];
            return section;
        }
    };
    let Some(known) = found.ages_seconds else {
        section.notes = vec![format!(
            "The device keeps no ages. It does with a policy that goes by age, or with uzram set {} track_ages=on, from then on.",
            facts.record.name
        )];
        return section;
    };
    section.notes.push(format!(
        "By the time since the last read or write. Ages are kept for {}: no page can be older.",
        duration(known)
    ));
    let pages: u64 = found.groups.iter().map(|group| group.pages).sum();
    let memory: u64 = found.groups.iter().map(|group| group.object_bytes).sum();
    let mut table = Table::new(&["age", "pages", "memory of objects", "of all"], &[]);
    let groups = || found.groups.iter().enumerate().take(AGE_GROUPS.len());
    for (number, group) in groups().filter(|(_, group)| group.pages > 0) {
        let of_all = part(group.object_bytes, memory);
        let cells = [
            span(number),
            thousands(group.pages),
            bytes(group.object_bytes),
            of_all,
        ];
        table.rows.push(cells.into());
    }
    if pages > 0 {
        let most = groups().map(|(_, group)| group.object_bytes).max();
        let (unit, divisor) = unit(most.unwrap_or(0));
        section.chart = Some(Chart::Columns {
            title: "Memory of objects by the age of their pages".into(),
            x: "time since the last access, from".into(),
            y: unit.into(),
            labels: AGE_GROUPS
                .iter()
                .map(|seconds| short_age(*seconds))
                .collect(),
            bars: vec![Bars {
                name: "objects".into(),
                style: Style::new(0, 0),
                values: groups()
                    .map(|(_, group)| group.object_bytes as f64 / divisor)
                    .collect(),
                errors: Vec::new(),
            }],
        });
    }
    section.table = Some(table);
    section
}

/// An age as the policy's settings write it.
fn short_age(seconds: u64) -> String {
    match seconds {
        0 => "0".into(),
        1..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Any number of seconds, in two units.
fn duration(seconds: u64) -> String {
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// What all groups from one on have, with what a codec saves of it and by how much that may be wrong. `None` where a group that has
/// pages was not sampled.
fn saving(groups: &[AgeGroup], codec: usize) -> Option<(u64, u64)> {
    let mut sum = (0, 0.0);
    for group in groups {
        let (saved, error) = group.savings(codec)?;
        sum = (sum.0 + saved, sum.1 + (error as f64).powi(2));
    }
    Some((sum.0, sum.1.sqrt() as u64))
}

/// The groups from which on the pages differ from those of the next: those that have pages.
fn thresholds(found: &InspectReport) -> Vec<usize> {
    let groups = found.groups.iter().take(AGE_GROUPS.len()).enumerate();
    let there = groups.filter(|(_, group)| group.pages > 0);
    there.map(|(from, _)| from).collect()
}

fn gains(facts: &Facts) -> Section {
    let mut section = Section::new("What recompression and writeback would gain");
    let found = match &facts.inspected {
        Ok(found) => found,
        Err(why) => {
            section.notes = vec![format!("Not known: {why}")];
            return section;
        }
    };
    let pages: u64 = found.groups.iter().map(|group| group.pages).sum();
    if pages == 0 {
        section
            .notes
            .push("There are no objects in memory that could become smaller.".into());
        return section;
    }
    section.notes.push(format!(
        "Measured just now on {} of the device's {} pages with an object, which were compressed anew and thrown away. What a \
         codec makes no smaller stays as it is. \u{b1} is two standard errors of the sample.",
        thousands(found.sampled_pages),
        thousands(pages)
    ));
    if found.shared_pages > 0 {
        section.notes.push(format!(
            "{} pages that share their objects are left alone by both, and do not count here.",
            thousands(found.shared_pages)
        ));
    }
    let thresholds = thresholds(found);
    let mut table = Table::new(
        &[
            "not used for",
            "with",
            "pages",
            "memory now",
            "saves",
            "of all memory",
            "processor time, once",
            "to read a page",
        ],
        &[1],
    );
    let all = facts.stat.all_memory();
    for &from in &thresholds {
        let groups = &found.groups[from..];
        let pages: u64 = groups.iter().map(|group| group.pages).sum();
        let memory: u64 = groups.iter().map(|group| group.object_bytes).sum();
        let first = [age(AGE_GROUPS[from])];
        for (number, codec) in found.codecs.iter().enumerate() {
            let (saves, of_all) = match saving(groups, number) {
                Some((saved, error)) => (
                    format!("{} \u{b1} {}", bytes(saved), bytes(error)),
                    part(saved, all),
                ),
                None => ("too few to say".into(), "-".into()),
            };
            let read = match codec.decompress_ns {
                0 => "-".into(),
                ns => format!("{:.1} \u{b5}s", ns as f64 / 1000.0),
            };
            let cells = [
                codec.algorithm.clone(),
                thousands(pages),
                bytes(memory),
                saves,
                of_all,
                cpu(u128::from(pages) * u128::from(codec.compress_ns)),
                read,
            ];
            table.rows.push([&first[..], &cells[..]].concat());
        }
        let backing = match facts.stat.backing {
            Some(_) => "writeback",
            None => "writeback (no backing)",
        };
        let cells = [
            backing.into(),
            thousands(pages),
            bytes(memory),
            bytes(memory),
            part(memory, all),
            "-".into(),
            "-".into(),
        ];
        table.rows.push([&first[..], &cells[..]].concat());
    }
    if found.codecs.is_empty() {
        section.notes.push(
            "No codec was tried: the device compresses with the densest that policies take by themselves. --try names others."
                .into(),
        );
    } else {
        section.chart = Some(gain_chart(found, &thresholds));
    }
    section.table = Some(table);
    section
}

fn gain_chart(found: &InspectReport, thresholds: &[usize]) -> Chart {
    let of = |codec: usize| {
        let saved = thresholds
            .iter()
            .map(move |&from| saving(&found.groups[from..], codec));
        saved.map(Option::unwrap_or_default).collect::<Vec<_>>()
    };
    let savings: Vec<Vec<(u64, u64)>> = (0..found.codecs.len()).map(of).collect();
    let most = savings
        .iter()
        .flatten()
        .map(|(saved, error)| saved + error)
        .max();
    let (unit, divisor) = unit(most.unwrap_or(0));
    let bars = |(number, saved): (usize, &Vec<(u64, u64)>)| Bars {
        name: found.codecs[number].algorithm.clone(),
        style: Style::new(number, number),
        values: saved
            .iter()
            .map(|(saved, _)| *saved as f64 / divisor)
            .collect(),
        errors: saved
            .iter()
            .map(|(_, error)| *error as f64 / divisor)
            .collect(),
    };
    Chart::Columns {
        title: "What recompression would save, by the age from which on".into(),
        x: "recompress=AGE: pages not used for".into(),
        y: format!("{unit} saved"),
        labels: thresholds
            .iter()
            .map(|from| short_age(AGE_GROUPS[*from]))
            .collect(),
        bars: savings.iter().enumerate().map(bars).collect(),
    }
}

fn planned(facts: &Facts) -> Section {
    let mut section = Section::new("What the policy in force would do now");
    let policy = match &facts.policy {
        Ok(policy) => policy,
        Err(why) => {
            section.notes = vec![format!("Not known: {why}")];
            return section;
        }
    };
    section.notes.push(format!("Policy: {}.", policy.settings));
    if let Some(Plan {
        pressure, steps, ..
    }) = &policy.plan
    {
        section.notes.push(format!("Memory: {pressure}."));
        let mut table = Table::new(&["step", "pages", "bytes", "why, or why not"], &[3]);
        for step in steps {
            let (pages, size) = match step.due {
                true => (thousands(step.pages), bytes(step.bytes)),
                false => ("-".into(), "-".into()),
            };
            table
                .rows
                .push(vec![step.policy.clone(), pages, size, step.why.clone()]);
        }
        section.table = Some(table);
    }
    section.notes.push(format!(
        "Other settings: uzram set {} policy=auto, or what of it. A dictionary is judged by uzram train {} --dry-run.",
        facts.record.name, facts.record.name
    ));
    section
}
