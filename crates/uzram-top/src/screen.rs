//! What is drawn: the table of devices, and the chosen one's past, latency and jobs. Fits 80 columns and 24 lines.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Block, Borders, Cell, Clear, Paragraph, RenderDirection, Row as TableRow, Sparkline, Table,
    TableState,
};
use uzram_control::size::human;
use uzram_spec::{printable_line, short_time};

use crate::board::{Board, COLUMNS, Flow, Point, Row, count};

/// The table alone needs them all below this; the chosen device has its lines only above.
const DETAILS_FROM: u16 = 18;
const DETAILS: u16 = 10;
/// A column with each device's memory over time, where there is room for it.
const TREND_FROM: u16 = 92;

/// What is shown, and how.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) board: Board,
    /// Which of [`COLUMNS`] orders the table.
    pub(crate) sort: usize,
    pub(crate) reverse: bool,
    /// The identity of the chosen device.
    pub(crate) chosen: Option<String>,
    /// How the figures are made: the interval, and whether they stand still.
    pub(crate) about: String,
    /// What was done last, or could not be.
    pub(crate) message: String,
    pub(crate) help: bool,
}

impl View {
    /// The rows in the order in which they are shown.
    pub(crate) fn rows(&self) -> Vec<&Row> {
        let order = self.board.order(&COLUMNS[self.sort], self.reverse);
        order
            .into_iter()
            .map(|index| &self.board.rows[index])
            .collect()
    }

    /// Where the chosen row is, or the first one if that is gone.
    pub(crate) fn at(&self) -> usize {
        let chosen = |row: &&Row| Some(&row.identity) == self.chosen.as_ref();
        self.rows().iter().position(chosen).unwrap_or(0)
    }

    /// The chosen row, if there is any.
    pub(crate) fn row(&self) -> Option<&Row> {
        self.rows().get(self.at()).copied()
    }

    /// Chooses the row that stands so many lines further down.
    pub(crate) fn step(&mut self, lines: isize) {
        let to = self.at().saturating_add_signed(lines);
        let rows = self.rows();
        let row = rows.get(to.min(rows.len().saturating_sub(1)));
        self.chosen = row.map(|row| row.identity.clone());
    }

    /// Draws it all.
    pub(crate) fn draw(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let details = match area.height >= DETAILS_FROM && !self.board.rows.is_empty() {
            true => DETAILS,
            false => 0,
        };
        let parts = Layout::vertical([
            Constraint::Length(2),
            Constraint::Min(1),
            Constraint::Length(details),
            Constraint::Length(1),
        ]);
        let [head, table, chosen, foot] = parts.areas(area);
        frame.render_widget(Paragraph::new(self.head()), head);
        match self.board.rows.is_empty() {
            true => {
                frame.render_widget(Paragraph::new("no devices: uzram create makes one"), table)
            }
            false => self.table(frame, table),
        }
        if details > 0
            && let Some(row) = self.row()
        {
            details_of(row, frame, chosen);
        }
        frame.render_widget(Paragraph::new(self.foot()), foot);
        if self.help {
            help(frame, area);
        }
    }

    fn head(&self) -> Vec<Line<'_>> {
        let board = &self.board;
        let mut first = format!("uzram top - {}; {}", self.about, devices(board.rows.len()));
        for (number, what) in [(board.silent(), "silent"), (board.damaged, "damaged")] {
            if number > 0 {
                first += &format!(", {number} {what}");
            }
        }
        let sum = board.sum();
        let mut second = format!(
            "{} of data in {} of memory ({:.2}); reads {}/s {}/s, writes {}/s {}/s",
            human(sum.data),
            human(sum.memory),
            sum.ratio(),
            count(sum.reads.requests),
            human(sum.reads.bytes as u64),
            count(sum.writes.requests),
            human(sum.writes.bytes as u64)
        );
        if sum.failed > 0 {
            second += &format!("; {} failed", sum.failed);
        }
        let loud = Style::new().add_modifier(Modifier::BOLD);
        vec![Line::styled(first, loud), Line::raw(second)]
    }

    fn table(&self, frame: &mut Frame<'_>, area: Rect) {
        let heads = COLUMNS.iter().enumerate().map(|(n, column)| {
            let style = match n == self.sort {
                true => Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED),
                false => Style::new().add_modifier(Modifier::BOLD),
            };
            Cell::new(aligned(n, column.head.into())).style(style)
        });
        let wide = area.width >= TREND_FROM;
        let trend = usize::from(area.width.saturating_sub(78));
        let heads = heads.chain(wide.then(|| Cell::new("MEMORY OVER TIME")));
        let rows = self.rows();
        let lines = rows.iter().map(|row| match &row.silent {
            Some(_) => TableRow::new([name(row), "?".into()]).style(Color::Red),
            None => {
                let cells = COLUMNS.iter().enumerate();
                let cells = cells.map(|(n, column)| match n {
                    0 => Cell::new(name(row)),
                    _ => Cell::new(aligned(n, (column.text)(row))),
                });
                let over_time = wide.then(|| Cell::new(trend_of(row, trend)));
                TableRow::new(cells.chain(over_time))
            }
        });
        let widths = COLUMNS
            .iter()
            .map(|column| Constraint::Length(column.width));
        let widths = widths.chain(wide.then_some(Constraint::Min(1)));
        let table = Table::new(lines, widths)
            .header(TableRow::new(heads))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let mut state = TableState::new().with_selected(Some(self.at()));
        frame.render_stateful_widget(table, area, &mut state);
    }

    fn foot(&self) -> Line<'_> {
        match self.message.is_empty() {
            false => Line::styled(self.message.as_str(), Color::Yellow),
            true => Line::raw(
                "q quit  ? help  up/down choose  </> sort  r reverse  c compact  x cancel",
            ),
        }
    }
}

fn devices(number: usize) -> String {
    match number {
        1 => "1 device".into(),
        n => format!("{n} devices"),
    }
}

fn name(row: &Row) -> String {
    printable_line(&row.name).into_owned()
}

/// Figures stand at the right of their column.
fn aligned(column: usize, text: String) -> String {
    match column {
        0 => text,
        _ => format!("{text:>width$}", width = usize::from(COLUMNS[column].width)),
    }
}

/// The memory of the last moments, from nothing to the most of them, a character each.
fn trend_of(row: &Row, width: usize) -> String {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let from = row.history.len().saturating_sub(width);
    let points = || row.history.iter().skip(from).map(|point| point.memory);
    let most = points().max().unwrap_or(0).max(1);
    let step = |memory: u64| STEPS[(memory as usize * 7).div_ceil(most as usize).min(7)];
    points().map(step).collect()
}

/// The chosen device.
fn details_of(row: &Row, frame: &mut Frame<'_>, area: Rect) {
    let title = format!(
        " {} {} {} ",
        name(row),
        printable_line(&row.frontend),
        printable_line(&row.path)
    );
    let block = Block::new().borders(Borders::TOP).title(title);
    let inside = block.inner(area);
    frame.render_widget(block, area);
    if let Some(why) = &row.silent {
        frame.render_widget(Paragraph::new(printable_line(why).into_owned()), inside);
        return;
    }
    let heights = [2, 2, 2, 1, 1, 1].map(Constraint::Length);
    let [memory, reads, writes, how, times, jobs] = Layout::vertical(heights).areas(inside);
    let past = |pick: fn(&Point) -> u64| row.history.iter().rev().map(pick).collect::<Vec<u64>>();
    let per_second = |bytes: f64| format!("{}/s", human(bytes as u64));
    graph(
        frame,
        memory,
        "memory",
        &human(row.memory),
        &past(|point| point.memory),
    );
    graph(
        frame,
        reads,
        "reads",
        &per_second(row.reads.bytes),
        &past(|point| point.read_bytes),
    );
    graph(
        frame,
        writes,
        "writes",
        &per_second(row.writes.bytes),
        &past(|point| point.written_bytes),
    );
    let made = format!(
        "{}; policy {}; {} failed",
        row.algorithm, row.policy, row.failed
    );
    frame.render_widget(Paragraph::new(printable_line(&made).into_owned()), how);
    let line = Line::raw(format!(
        "reads {}; writes {}",
        percentiles(&row.reads),
        percentiles(&row.writes)
    ));
    frame.render_widget(Paragraph::new(line), times);
    frame.render_widget(Paragraph::new(jobs_of(row)), jobs);
}

/// A row of bars with the newest at the right, and what it shows at its left.
fn graph(frame: &mut Frame<'_>, area: Rect, what: &str, now: &str, newest_first: &[u64]) {
    let [left, right] =
        Layout::horizontal([Constraint::Length(16), Constraint::Min(1)]).areas(area);
    let seen = &newest_first[..newest_first.len().min(usize::from(right.width))];
    let most = seen.iter().copied().max().unwrap_or(0);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let label = vec![
        Line::from(vec![
            Span::raw(format!("{what:7}")),
            Span::styled(now.to_owned(), bold),
        ]),
        Line::styled(
            format!("  most {}", human(most)),
            Style::new().add_modifier(Modifier::DIM),
        ),
    ];
    frame.render_widget(Paragraph::new(label), left);
    let bars = Sparkline::default().data(seen).max(most.max(1));
    let bars = bars
        .direction(RenderDirection::RightToLeft)
        .style(Color::Cyan);
    frame.render_widget(bars, right);
}

fn percentiles(flow: &Flow) -> String {
    let at = |part| flow.latency.quantile(part).map(short_time);
    match (at(0.5), at(0.99), at(0.999)) {
        (Some(half), Some(two), Some(three)) => format!("p50 {half} p99 {two} p99.9 {three}"),
        _ => "none timed".into(),
    }
}

fn jobs_of(row: &Row) -> String {
    let one = |job: &uzram_control::Job| {
        let state = match (job.cancelled, job.begun) {
            (true, _) => "ends",
            (false, true) => "runs",
            (false, false) => "waits",
        };
        let pages = match (job.pages, job.total_pages) {
            (0, _) => String::new(),
            (pages, 0) => format!(", {pages} pages"),
            (pages, all) => format!(", {pages} of {} pages", all.max(pages)),
        };
        format!(
            "{} {state} {} s{pages}",
            printable_line(&job.op),
            job.seconds
        )
    };
    match row.jobs.is_empty() {
        true => "no jobs".into(),
        false => format!(
            "jobs: {}",
            row.jobs.iter().map(one).collect::<Vec<_>>().join("; ")
        ),
    }
}

const HELP: &str = "\
up down j k   choose a device        home end  the first, the last
< >           sort by another column r         turn the order round
space         stand still, go on     + -       longer, shorter intervals

c  compact: give back memory between objects
R  recompress by the secondary algorithms
w  write everything back to the backing
p  bring everything back from the backing
x  end the chosen device's first job

RD99 and WR99 are the times that 99 of 100 reads and writes stayed
below, of those since the last line (one of 32 is timed).
MEMORY is all of it: pool, table, books, streams and dictionaries.

q  quit; what was begun by a key goes on";

fn help(frame: &mut Frame<'_>, area: Rect) {
    let height = (HELP.lines().count() as u16 + 2).min(area.height);
    let width = 74.min(area.width);
    let at = Rect::new(
        (area.width - width) / 2,
        (area.height - height) / 2,
        width,
        height,
    );
    frame.render_widget(Clear, at);
    frame.render_widget(
        Paragraph::new(HELP).block(Block::bordered().title(" uzram top ")),
        at,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::{device, sample};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::time::{Duration, Instant};

    fn view() -> View {
        let mut view = View {
            about: "every 2s".into(),
            ..View::default()
        };
        let begin = Instant::now();
        for second in 0..30 {
            let mut devices: Vec<_> = (0..3)
                .map(|n| device(&format!("zram{n}"), (n + 1) << 28, (second * (n + 1)) << 20))
                .collect();
            let mut silent = device("zram3", 0, 0);
            silent.stat = Err("the server of zram3 does not answer (stopped?)\x1b[2J".into());
            devices.push(silent);
            view.board
                .update(sample(begin + Duration::from_secs(second), devices));
        }
        view
    }

    fn drawn(view: &View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| {
            (0..width)
                .map(|x| buffer[(x, y)].symbol())
                .collect::<String>()
        };
        (0..height).map(line).collect()
    }

    #[test]
    fn all_of_it_fits_80_columns_and_24_lines() {
        let mut view = view();
        view.step(2);
        let lines = drawn(&view, 80, 24);
        let text = lines.join("\n");
        assert!(
            lines[0].starts_with("uzram top - every 2s; 4 devices, 1 silent"),
            "{text}"
        );
        assert!(
            lines[2].starts_with("NAME       SIZE   DATA MEMORY RATIO   RD/S"),
            "{text}"
        );
        assert!(
            lines[5].starts_with("zram2        3G   768M   384M  2.00    768     3M"),
            "{text}"
        );
        assert!(lines[6].starts_with("zram3    ?"), "{text}");
        assert!(
            lines
                .iter()
                .any(|line| line.contains(" zram2 ublk /dev/zram2 ")),
            "{text}"
        );
        assert!(text.contains("memory 384M") && text.contains("█"), "{text}");
        assert!(
            text.contains("reads p50 2.0us p99 2.0us p99.9 2.0us; writes none timed"),
            "{text}"
        );
        assert!(lines[23].starts_with("q quit"), "{text}");
    }

    #[test]
    fn a_silent_device_says_why_and_nothing_reaches_the_terminal() {
        let mut view = view();
        view.step(9);
        let text = drawn(&view, 80, 24).join("\n");
        assert!(
            text.contains("does not answer (stopped?)") && !text.contains('\x1b'),
            "{text}"
        );
    }

    #[test]
    fn small_and_wide_terminals_are_used_as_they_are() {
        let view = view();
        for (width, height) in [(1, 1), (10, 3), (40, 10), (79, 17), (200, 60)] {
            let _ = drawn(&view, width, height);
        }
        assert!(!drawn(&view, 80, 12).join("\n").contains("p99.9"));
        let wide = drawn(&view, 120, 24).join("\n");
        assert!(wide.contains("MEMORY OVER TIME"), "{wide}");
        let empty = View::default();
        assert!(drawn(&empty, 80, 24).join("\n").contains("no devices"));
    }

    #[test]
    fn the_chosen_device_stays_chosen() {
        let mut view = view();
        view.step(1);
        assert_eq!(view.row().unwrap().name, "zram1");
        view.sort = COLUMNS
            .iter()
            .position(|column| column.name == "data")
            .unwrap();
        assert_eq!((view.row().unwrap().name.as_str(), view.at()), ("zram1", 1));
        view.reverse = true;
        assert_eq!(view.row().unwrap().name, "zram1");
        view.step(-99);
        assert_eq!(view.at(), 0);
        // It goes.
        let rest = vec![device("zram7", 1 << 20, 0)];
        view.board
            .update(sample(Instant::now() + Duration::from_secs(99), rest));
        assert_eq!(view.row().unwrap().name, "zram7");
    }

    #[test]
    fn help_is_shown_whole() {
        let mut view = view();
        view.help = true;
        let text = drawn(&view, 80, 24).join("\n");
        for line in HELP.lines() {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
