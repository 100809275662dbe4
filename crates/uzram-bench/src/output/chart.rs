//! One kind of picture: lines or points over two axes, as SVG.

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

const SIZE: (u32, u32) = (1000, 460);
/// Where the names of the series begin: beside the picture, so that they hide nothing.
const NAMES_AT: u32 = 720;
/// Height of a name.
const LINE: i32 = 20;
/// Colours that are told apart by all, one for each series in turn (Okabe and Ito).
const COLOURS: &[RGBColor] = &[
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 94, 40),
    RGBColor(60, 60, 60),
];

/// Points of one contestant.
#[derive(Debug, Clone)]
pub struct Series {
    /// Whose.
    pub name: String,
    /// Where.
    pub points: Vec<(f64, f64)>,
}

/// A picture.
#[derive(Debug, Clone, Default)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// The horizontal axis, with its unit.
    pub x: String,
    /// The vertical axis, with its unit.
    pub y: String,
    /// Names of x = 0, 1, 2 and so on, instead of numbers.
    pub x_names: Vec<String>,
    /// Whether y grows by factors.
    pub log_y: bool,
    /// Whether points are joined.
    pub lines: bool,
    /// What is shown.
    pub series: Vec<Series>,
}

impl Chart {
    /// Whether there is nothing to see.
    pub fn is_empty(&self) -> bool {
        self.series.iter().all(|series| series.points.is_empty())
    }

    /// The picture as an `<svg>` element.
    pub(super) fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        let (least_y, most_y) = self.bounds(|point| point.1);
        if self.log_y {
            let from = (least_y * 0.8).max(1e-3);
            self.draw(
                &mut svg,
                (from..(most_y * 1.5).max(from * 10.0)).log_scale(),
            )?;
        } else {
            self.draw(&mut svg, 0.0..(most_y * 1.12).max(f64::MIN_POSITIVE))?;
        }
        Ok(svg)
    }

    fn bounds(&self, of: fn(&(f64, f64)) -> f64) -> (f64, f64) {
        let all = || self.series.iter().flat_map(|s| s.points.iter().map(of));
        let least = all().fold(f64::INFINITY, f64::min);
        (least.min(f64::MAX), all().fold(0.0, f64::max))
    }

    fn draw<Y>(&self, svg: &mut String, y: Y) -> Result<()>
    where
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
    {
        // The errors of the backend cannot be sent on: words can.
        let say = |error: &dyn std::fmt::Display| anyhow!("drawing {}: {error}", self.title);
        let (least_x, most_x) = self.bounds(|point| point.0);
        let x = match self.lines {
            true => {
                let margin = ((most_x - least_x) * 0.03).max(0.2);
                least_x - margin..most_x + margin
            }
            false => 0.0..(most_x * 1.15).max(f64::MIN_POSITIVE),
        };
        let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(|e| say(&e))?;
        let (picture, names) = area.split_horizontally(NAMES_AT);
        let mut chart = ChartBuilder::on(&picture)
            .caption(&self.title, ("sans-serif", 18))
            .margin(14)
            .x_label_area_size(42)
            .y_label_area_size(64)
            .build_cartesian_2d(x, y)
            .map_err(|e| say(&e))?;
        let name_of = |x: &f64| match self.x_names.is_empty() {
            true => axis(*x),
            false => {
                let near = x.round();
                let name = self
                    .x_names
                    .get(near as usize)
                    .filter(|_| (x - near).abs() < 0.01);
                name.cloned().unwrap_or_default()
            }
        };
        let labels = match self.x_names.len() {
            0 => 8,
            names => names,
        };
        chart
            .configure_mesh()
            .x_labels(labels)
            .x_desc(&self.x)
            .y_desc(&self.y)
            .x_label_formatter(&name_of)
            .y_label_formatter(&|y| axis(*y))
            .light_line_style(WHITE)
            .draw()
            .map_err(|e| say(&e))?;
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            if self.lines {
                let line = LineSeries::new(series.points.iter().copied(), colour.stroke_width(2));
                chart.draw_series(line).map_err(|e| say(&e))?;
            }
            // A long curve is told by its line.
            let radius = if series.points.len() > 12 { 2 } else { 4 };
            let dots = series.points.iter();
            chart
                .draw_series(dots.map(|at| Circle::new(*at, radius, colour.filled())))
                .map_err(|e| say(&e))?;
            let y = 50 + LINE * index as i32;
            let name = Text::new(series.name.clone(), (16, y - 6), ("sans-serif", 13));
            names.draw(&name).map_err(|e| say(&e))?;
            let dot = Circle::new((6, y), 4, colour.filled());
            names.draw(&dot).map_err(|e| say(&e))?;
        }
        area.present().map_err(|e| say(&e))
    }
}

/// A number at an axis, without zeros that say nothing.
fn axis(value: f64) -> String {
    let digits = if value.abs() >= 100.0 { 0 } else { 3 };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').into(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_plain_numbers() {
        let texts = [0.0, 0.5, 1.0, 12.5, 1000.0].map(axis);
        assert_eq!(texts, ["0", "0.5", "1", "12.5", "1000"]);
    }

    #[test]
    fn one_point_is_a_picture_too() {
        let points = vec![(3.0, 0.0)];
        for (lines, log_y) in [(true, true), (true, false), (false, true), (false, false)] {
            let name = "a <b>".into();
            let series = vec![Series {
                name,
                points: points.clone(),
            }];
            let chart = Chart {
                lines,
                log_y,
                series,
                ..Chart::default()
            };
            let svg = chart.svg().unwrap();
            assert!(
                svg.contains("a &lt;b&gt;") && svg.ends_with("</svg>\n"),
                "{svg}"
            );
        }
    }
}
