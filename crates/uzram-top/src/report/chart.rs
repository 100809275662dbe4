//! Charts as inline SVG: lines over time, bars and columns. Colours are classes of the page's style sheet, which knows light and
//! dark; text is the page's own. No script, no font, no address.
//!
//! A chart is drawn 440 units wide, so that its text is read on a telephone, and grows with its column.

use std::fmt::Write;

use uzram_palette::{Look, Marker};

use super::page::escape;

/// Width of a chart.
const WIDTH: f64 = 440.0;
/// Height of what has two axes.
const HEIGHT: f64 = 250.0;
/// Room for numbers at the left.
const LEFT: f64 = 52.0;
/// Room at the right, for half of the last number.
const RIGHT: f64 = 16.0;
/// Room for numbers and the axis's name below.
const BELOW: f64 = 44.0;
/// Height of a line of the legend.
const LEGEND: f64 = 20.0;
/// Room above, for the vertical axis's name.
const ABOVE: f64 = 22.0;
/// Characters of a label that have room above a bar.
const LABEL: usize = 52;
/// Widest column.
const WIDEST: f64 = 48.0;
/// A line has markers at so many of its points.
const MARKERS: usize = 7;

/// How a series looks: a group of the palette, and a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Style {
    pub(super) group: usize,
    pub(super) member: usize,
}

impl Style {
    pub(super) const fn new(group: usize, member: usize) -> Style {
        Style { group, member }
    }

    fn look(self) -> Look {
        Look::new(self.group, self.member)
    }
}

/// A line: pieces of (x, y), which are not joined.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) style: Style,
    pub(super) pieces: Vec<Vec<(f64, f64)>>,
}

/// A value for each label.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bars {
    pub(super) name: String,
    pub(super) style: Style,
    pub(super) values: Vec<f64>,
    /// By how much each may be wrong; empty where none may.
    pub(super) errors: Vec<f64>,
}

/// A chart. `x` and `y` name the axes, with their units.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Chart {
    /// Lines over an age, which grows to the left: now is at the right.
    Lines {
        title: String,
        x: String,
        y: String,
        lines: Vec<Line>,
    },
    /// Bars that lie, each group below its label.
    Bars {
        title: String,
        x: String,
        labels: Vec<String>,
        bars: Vec<Bars>,
    },
    /// Bars that stand, each group above its label.
    Columns {
        title: String,
        x: String,
        y: String,
        labels: Vec<String>,
        bars: Vec<Bars>,
    },
}

impl Chart {
    fn title(&self) -> &str {
        match self {
            Chart::Lines { title, .. }
            | Chart::Bars { title, .. }
            | Chart::Columns { title, .. } => title,
        }
    }

    /// The names of the series and their styles.
    fn series(&self) -> Vec<(&str, Style)> {
        match self {
            Chart::Lines { lines, .. } => {
                let series = lines.iter().map(|line| (line.name.as_str(), line.style));
                series.collect()
            }
            Chart::Bars { bars, .. } | Chart::Columns { bars, .. } => {
                let series = bars.iter().map(|bars| (bars.name.as_str(), bars.style));
                series.collect()
            }
        }
    }

    /// The styles that it uses.
    pub(super) fn styles(&self) -> Vec<Style> {
        self.series().into_iter().map(|(_, style)| style).collect()
    }

    /// The picture as an `<svg>` element.
    pub(super) fn svg(&self) -> String {
        let legend = self.legend();
        let top = match self.series().len() {
            ..2 => 0.0,
            series => LEGEND * series as f64 + 4.0,
        };
        let (body, height) = match self {
            Chart::Lines { x, y, lines, .. } => (lines_over_age(x, y, lines, top), top + HEIGHT),
            Chart::Columns {
                x, y, labels, bars, ..
            } => (columns(x, y, labels, bars, top), top + HEIGHT),
            Chart::Bars {
                x, labels, bars, ..
            } => lying(x, labels, bars, top),
        };
        let title = escape(self.title());
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{title}\">\n<title>{title}</title>\n{legend}{body}</svg>\n",
            round(height)
        )
    }

    /// A line of each series and its name; nothing where there is only one.
    fn legend(&self) -> String {
        let series = self.series();
        if series.len() < 2 {
            return String::new();
        }
        let mut out = String::new();
        for (at, (name, style)) in series.into_iter().enumerate() {
            let y = LEGEND * at as f64 + 10.0;
            let key = match self {
                Chart::Lines { .. } => {
                    path(&[(4.0, y), (38.0, y)], style) + &marker(style, (21.0, y))
                }
                _ => bar(style, 8.0, y - 6.0, 26.0, 12.0),
            };
            let name = escape(name);
            let _ = writeln!(out, "{key}<text x=\"46\" y=\"{}\">{name}</text>", y + 4.0);
        }
        out
    }
}

/// A number with one digit behind the point at most.
fn round(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").unwrap_or(&text).into()
}

/// A number at an axis.
fn number(value: f64) -> String {
    let text = match value.abs() {
        ..0.1 => format!("{value:.3}"),
        ..10.0 => format!("{value:.2}"),
        _ => format!("{value:.1}"),
    };
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').into(),
        false => text,
    }
}

/// From 0 to at least `most`: some four steps of 1, 2 or 5 and zeros.
fn ticks(most: f64) -> Vec<f64> {
    let most = if most.is_finite() && most > 0.0 {
        most
    } else {
        1.0
    };
    let power = 10f64.powf((most / 4.0).log10().floor());
    let factors = [1.0, 2.0, 2.5, 5.0, 10.0];
    let step = factors
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| most / step <= 5.0)
        .unwrap_or(10.0 * power);
    let steps = (most / step - 1e-9).ceil().max(1.0) as usize;
    (0..=steps).map(|n| step * n as f64).collect()
}

/// A line through these points, with the gaps of its style.
fn path(points: &[(f64, f64)], style: Style) -> String {
    let mut d = String::new();
    for (at, (x, y)) in points.iter().enumerate() {
        let command = if at == 0 { 'M' } else { 'L' };
        let _ = write!(d, "{command}{} {}", round(*x), round(*y));
    }
    let dash = style.look().dash();
    let dash = dash.map_or_else(String::new, |(dash, gap)| {
        format!(" stroke-dasharray=\"{dash} {gap}\"")
    });
    format!("<path class=\"s{} l\" d=\"{d}\"{dash}/>\n", style.group)
}

/// What stands at a point.
fn marker(style: Style, (x, y): (f64, f64)) -> String {
    let look = style.look();
    let kind = match (look.is_filled(), look.marker()) {
        (_, Marker::Cross | Marker::Plus) => "k",
        (true, _) => "m",
        (false, _) => "h",
    };
    let corners: &[(f64, f64)] = match look.marker() {
        Marker::Circle => {
            let (x, y, group) = (round(x), round(y), style.group);
            return format!(
                "<circle class=\"s{group} {kind}\" cx=\"{x}\" cy=\"{y}\" r=\"3.5\"/>\n"
            );
        }
        Marker::Square => &[(-3.0, -3.0), (3.0, -3.0), (3.0, 3.0), (-3.0, 3.0)],
        Marker::Triangle => &[(0.0, -4.0), (4.0, 3.0), (-4.0, 3.0)],
        Marker::Wedge => &[(0.0, 4.0), (4.0, -3.0), (-4.0, -3.0)],
        Marker::Diamond => &[(0.0, -5.0), (5.0, 0.0), (0.0, 5.0), (-5.0, 0.0)],
        Marker::Cross => &[
            (-3.5, -3.5),
            (3.5, 3.5),
            (0.0, 0.0),
            (-3.5, 3.5),
            (3.5, -3.5),
        ],
        Marker::Plus => &[(-4.0, 0.0), (4.0, 0.0), (0.0, 0.0), (0.0, -4.0), (0.0, 4.0)],
    };
    let corner = |(right, down): &(f64, f64)| format!("{},{}", round(x + right), round(y + down));
    let corners: Vec<String> = corners.iter().map(corner).collect();
    let (tag, group) = (
        if kind == "k" { "polyline" } else { "polygon" },
        style.group,
    );
    format!(
        "<{tag} class=\"s{group} {kind}\" points=\"{}\"/>\n",
        corners.join(" ")
    )
}

/// A bar: filled, or hollow where its style's line is dashed.
fn bar(style: Style, x: f64, y: f64, width: f64, height: f64) -> String {
    let kind = if style.look().is_filled() { "b" } else { "o" };
    let [x, y, width, height] = [x, y, width.max(0.0), height.max(0.0)].map(round);
    let group = style.group;
    format!(
        "<rect class=\"s{group} {kind}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"/>\n"
    )
}

/// The vertical axis with its name and its numbers, from 0 to `most` at least. Returns where a value lies.
fn vertical(out: &mut String, name: &str, most: f64, top: f64) -> impl Fn(f64) -> f64 + use<> {
    let ticks = ticks(most);
    let end = ticks.last().copied().unwrap_or(1.0);
    let (upper, lower) = (top + ABOVE, top + HEIGHT - BELOW);
    let at = move |value: f64| lower - value.clamp(0.0, end) / end * (lower - upper);
    let _ = writeln!(
        out,
        "<text class=\"a\" x=\"0\" y=\"{}\">{}</text>",
        round(top + 11.0),
        escape(name)
    );
    for tick in ticks {
        let y = at(tick);
        let (right, text) = (WIDTH - RIGHT, number(tick));
        let _ = write!(
            out,
            "<path class=\"g\" d=\"M{LEFT} {0}H{right}\"/>",
            round(y)
        );
        let _ = writeln!(
            out,
            "<text class=\"n e\" x=\"{}\" y=\"{}\">{text}</text>",
            LEFT - 6.0,
            round(y + 4.0)
        );
    }
    at
}

/// The name of the horizontal axis.
fn below(out: &mut String, name: &str, bottom: f64) {
    let (middle, y) = (LEFT + (WIDTH - LEFT - RIGHT) / 2.0, round(bottom - 6.0));
    let name = escape(name);
    let _ = writeln!(
        out,
        "<text class=\"a c\" x=\"{middle}\" y=\"{y}\">{name}</text>"
    );
}

fn lines_over_age(x_name: &str, y_name: &str, lines: &[Line], top: f64) -> String {
    let points = || lines.iter().flat_map(|line| line.pieces.iter().flatten());
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max);
    let mut out = String::new();
    let y_at = vertical(&mut out, y_name, most(|point| point.1), top);
    let oldest = most(|point| point.0).max(f64::MIN_POSITIVE);
    let x_at = |age: f64| WIDTH - RIGHT - age / oldest * (WIDTH - LEFT - RIGHT);
    let bottom = top + HEIGHT;
    for tick in ticks(oldest)
        .into_iter()
        .filter(|tick| *tick <= oldest * 1.001)
    {
        let (x, y) = (round(x_at(tick)), bottom - BELOW);
        let _ = write!(out, "<path class=\"g\" d=\"M{x} {}v5\"/>", round(y));
        let text = number(tick);
        let _ = writeln!(
            out,
            "<text class=\"n c\" x=\"{x}\" y=\"{}\">{text}</text>",
            round(y + 18.0)
        );
    }
    below(&mut out, x_name, bottom);
    for line in lines {
        let total: usize = line.pieces.iter().map(Vec::len).sum();
        let (every, mut number) = (total.div_ceil(MARKERS).max(1), 0);
        for piece in &line.pieces {
            let places: Vec<_> = piece.iter().map(|(x, y)| (x_at(*x), y_at(*y))).collect();
            out += &path(&places, line.style);
            for place in &places {
                if number % every == every / 2 || places.len() == 1 {
                    out += &marker(line.style, *place);
                }
                number += 1;
            }
        }
    }
    out
}

/// The largest value with its error.
fn most_of(bars: &[Bars]) -> f64 {
    let with_error = |bars: &Bars| -> f64 {
        let errors = bars.errors.iter().copied().chain(std::iter::repeat(0.0));
        let tops = bars
            .values
            .iter()
            .zip(errors)
            .map(|(value, error)| value + error);
        tops.fold(0.0, f64::max)
    };
    bars.iter().map(with_error).fold(0.0, f64::max)
}

fn columns(x: &str, y: &str, labels: &[String], bars: &[Bars], top: f64) -> String {
    let mut out = String::new();
    let at = vertical(&mut out, y, most_of(bars), top);
    let room = (WIDTH - LEFT - RIGHT) / labels.len().max(1) as f64;
    let width = (room * 0.8 / bars.len().max(1) as f64).min(WIDEST);
    let margin = (room - width * bars.len() as f64) / 2.0;
    let bottom = top + HEIGHT;
    // As many labels as have room.
    let longest = labels.iter().map(|label| label.chars().count()).max();
    let every = ((longest.unwrap_or(0) as f64 * 7.5) / room).ceil().max(1.0) as usize;
    for (number, label) in labels.iter().enumerate() {
        let begin = LEFT + room * number as f64;
        for (which, bars) in bars.iter().enumerate() {
            let value = bars.values.get(number).copied().unwrap_or(0.0);
            let x = begin + margin + width * which as f64;
            out += &bar(bars.style, x, at(value), width, at(0.0) - at(value));
            let error = bars.errors.get(number).copied().unwrap_or(0.0);
            if error > 0.0 {
                let (low, high) = (at((value - error).max(0.0)), at(value + error));
                let middle = x + width / 2.0;
                let _ = writeln!(
                    out,
                    "<path class=\"w\" d=\"M{0} {1}V{2}M{3} {1}h6M{3} {2}h6\"/>",
                    round(middle),
                    round(low),
                    round(high),
                    round(middle - 3.0)
                );
            }
        }
        if number % every == 0 {
            let (x, y) = (round(begin + room / 2.0), round(bottom - BELOW + 18.0));
            let label = escape(label);
            let _ = writeln!(
                out,
                "<text class=\"n c\" x=\"{x}\" y=\"{y}\">{label}</text>"
            );
        }
    }
    below(&mut out, x, bottom);
    out
}

/// Bars that lie, and the chart's height.
fn lying(x: &str, labels: &[String], bars: &[Bars], top: f64) -> (String, f64) {
    /// Height of a bar.
    const BAR: f64 = 12.0;
    /// Height of a label, and of the space below a group.
    const TEXT: f64 = 22.0;
    let mut out = String::new();
    let group = TEXT + BAR * bars.len() as f64 + 4.0;
    let bottom = top + group * labels.len() as f64 + 6.0;
    let ticks = ticks(most_of(bars));
    let end = ticks.last().copied().unwrap_or(1.0);
    let left = 8.0;
    let at = |value: f64| left + value.clamp(0.0, end) / end * (WIDTH - left - RIGHT);
    for tick in ticks {
        let (x, text) = (round(at(tick)), number(tick));
        let _ = write!(
            out,
            "<path class=\"g\" d=\"M{x} {}V{}\"/>",
            round(top),
            round(bottom)
        );
        let y = round(bottom + 15.0);
        let _ = writeln!(out, "<text class=\"n c\" x=\"{x}\" y=\"{y}\">{text}</text>");
    }
    for (number, label) in labels.iter().enumerate() {
        let begin = top + group * number as f64;
        let short: String = match label.chars().count() > LABEL {
            true => label.chars().take(LABEL - 1).chain(['\u{2026}']).collect(),
            false => label.clone(),
        };
        let (x, y, short) = (left, round(begin + 16.0), escape(&short));
        let _ = writeln!(out, "<text class=\"t\" x=\"{x}\" y=\"{y}\">{short}</text>");
        for (which, bars) in bars.iter().enumerate() {
            let value = bars.values.get(number).copied().unwrap_or(0.0);
            let y = begin + TEXT + BAR * which as f64;
            out += &bar(bars.style, left, y, at(value) - left, BAR - 2.0);
        }
    }
    let height = bottom + BELOW;
    below(&mut out, x, height);
    (out, height)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_most() {
        assert_eq!(ticks(10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(12.0), [0.0, 2.5, 5.0, 7.5, 10.0, 12.5]);
        assert_eq!(ticks(f64::NAN), ticks(1.0));
        for most in [0.001, 0.37, 1.0, 7.3, 99.0, 1023.0, 5e9] {
            let ticks = ticks(most);
            assert!((3..=6).contains(&ticks.len()), "{most}: {ticks:?}");
            assert!(
                ticks.last().is_some_and(|last| *last >= most * 0.999),
                "{most}: {ticks:?}"
            );
        }
    }

    #[test]
    fn numbers_have_no_zeros_that_say_nothing() {
        let texts = [0.0, 0.05, 0.25, 2.0, 12.5, 1000.0].map(number);
        assert_eq!(texts, ["0", "0.05", "0.25", "2", "12.5", "1000"]);
    }

    #[test]
    fn what_is_drawn_is_finite_and_escaped() {
        let bars = |values: &[f64]| Bars {
            name: "a<b>".into(),
            style: Style::new(0, 0),
            values: values.into(),
            errors: vec![0.5],
        };
        let labels: Vec<String> = vec!["<i>".into(), "x".repeat(100)];
        for values in [&[0.0, 0.0][..], &[1.0], &[3.0, 1e15], &[]] {
            let (title, x, y) = ("<t>".to_owned(), "\"x\"".to_owned(), "&y".to_owned());
            let (labels, bars) = (labels.clone(), vec![bars(values), bars(values)]);
            let line = Line {
                name: "<n>".into(),
                style: Style::new(1, 1),
                pieces: vec![values.iter().map(|value| (*value, *value)).collect()],
            };
            for chart in [
                Chart::Lines {
                    title: title.clone(),
                    x: x.clone(),
                    y: y.clone(),
                    lines: vec![line],
                },
                Chart::Bars {
                    title: title.clone(),
                    x: x.clone(),
                    labels: labels.clone(),
                    bars: bars.clone(),
                },
                Chart::Columns {
                    title,
                    x,
                    y,
                    labels,
                    bars,
                },
            ] {
                let svg = chart.svg();
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
                for raw in ["<t>", "<n>", "a<b>", "<i>", "&y"] {
                    assert!(!svg.contains(raw), "{raw}: {svg}");
                }
            }
        }
    }
}
