//! One kind of picture: lines or points over two axes, as SVG. Axes are drawn by plotters; series, markers and labels here,
//! in pixels.

mod labels;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use uzram_palette::{Look, Marker};

const SIZE: (u32, u32) = (1000, 460);
/// Width for the names of series, which stand beside the picture and hide nothing.
const NAMES_WIDTH: u32 = 280;
/// Height of a name.
const LINE: i32 = 20;
/// A line with more points than this has markers at some of them only.
const MOST_MARKERS: usize = 12;

/// Points of one contestant.
#[derive(Debug, Clone)]
pub struct Series {
    /// Whose.
    pub name: String,
    /// Unlike that of every other series of the chart.
    pub look: Look,
    /// Where.
    pub points: Vec<(f64, f64)>,
    /// A text at each point, empty for none; no texts at all where there are none.
    pub labels: Vec<String>,
}

impl Series {
    /// Points without texts.
    pub fn new(name: impl Into<String>, look: Look, points: Vec<(f64, f64)>) -> Series {
        Series {
            name: name.into(),
            look,
            points,
            labels: Vec::new(),
        }
    }
}

/// A picture.
#[derive(Debug, Clone, Default)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// How to read it, below the title; empty for nothing.
    pub note: String,
    /// The horizontal axis, with its unit.
    pub x: String,
    /// The vertical axis, with its unit.
    pub y: String,
    /// Names of x = 0, 1, 2 and so on, instead of numbers.
    pub x_names: Vec<String>,
    /// Whether x grows by factors.
    pub log_x: bool,
    /// Whether y grows by factors.
    pub log_y: bool,
    /// Whether points are joined.
    pub lines: bool,
    /// Points to ring: what is recommended.
    pub rings: Vec<(f64, f64)>,
    /// What is shown.
    pub series: Vec<Series>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

impl Chart {
    /// Whether there is nothing to see.
    pub fn is_empty(&self) -> bool {
        self.series.iter().all(|series| series.points.is_empty())
    }

    /// Two series that look the same, which no chart may have.
    #[cfg(test)]
    pub(super) fn alike(&self) -> Option<(&str, &str)> {
        for (at, one) in self.series.iter().enumerate() {
            let same = self.series[..at]
                .iter()
                .find(|other| other.look == one.look);
            if let Some(other) = same {
                return Some((&other.name, &one.name));
            }
        }
        None
    }

    /// The picture as an `<svg>` element.
    pub fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        let x = self.bounds(|point| point.0);
        let y = self.bounds(|point| point.1);
        let plain = |(_, most): (f64, f64), room: f64| 0.0..(most * room).max(f64::MIN_POSITIVE);
        let factors = |(least, most): (f64, f64)| {
            let from = (least * 0.8).max(1e-3);
            (from..(most * 1.5).max(from * 10.0)).log_scale()
        };
        let x_plain = match self.lines || self.has_labels() {
            // Around the points.
            true => {
                let margin = ((x.1 - x.0) * 0.06).max(0.05);
                x.0 - margin..x.1 + margin
            }
            false => plain(x, 1.15),
        };
        let drawn = match (self.log_x, self.log_y) {
            (true, true) => self.draw(&mut svg, factors(x), factors(y)),
            (true, false) => self.draw(&mut svg, factors(x), plain(y, 1.12)),
            (false, true) => self.draw(&mut svg, x_plain, factors(y)),
            (false, false) => self.draw(&mut svg, x_plain, plain(y, 1.12)),
        };
        // The errors of the backend cannot be sent on: words can.
        drawn.map_err(|error| anyhow!("drawing {}: {error}", self.title))?;
        Ok(svg)
    }

    /// Pictures below each other, as one `<svg>` element; one alone as [`Chart::svg`].
    pub fn stacked(charts: &[&Chart]) -> Result<String> {
        if let [chart] = charts {
            return chart.svg();
        }
        let (wide, high) = (SIZE.0, SIZE.1 * charts.len() as u32);
        let mut all = format!(
            "<svg width=\"{wide}\" height=\"{high}\" viewBox=\"0 0 {wide} {high}\" xmlns=\"http://www.w3.org/2000/svg\">\n"
        );
        for (panel, chart) in charts.iter().enumerate() {
            let y = SIZE.1 * panel as u32;
            let svg = chart.svg()?;
            all += &svg.replacen("<svg ", &format!("<svg x=\"0\" y=\"{y}\" "), 1);
        }
        Ok(all + "</svg>\n")
    }

    fn has_labels(&self) -> bool {
        self.series.iter().any(|series| !series.labels.is_empty())
    }

    fn bounds(&self, of: fn(&(f64, f64)) -> f64) -> (f64, f64) {
        let all = || self.series.iter().flat_map(|s| s.points.iter().map(of));
        let least = all().fold(f64::INFINITY, f64::min);
        (least.min(f64::MAX), all().fold(0.0, f64::max))
    }

    fn draw<X, Y>(&self, svg: &mut String, x: X, y: Y) -> Drawn
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
    {
        let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (picture, names) = match self.series.iter().all(|series| series.name.is_empty()) {
            true => (area.clone(), None),
            false => {
                let (picture, names) = area.split_horizontally(SIZE.0 - NAMES_WIDTH);
                (picture, Some(names))
            }
        };
        let mut chart = ChartBuilder::on(&picture)
            .margin(14)
            .margin_top(if self.note.is_empty() { 42 } else { 62 })
            .x_label_area_size(48)
            .y_label_area_size(70)
            .build_cartesian_2d(x, y)?;
        let name_of = |x: &f64| match self.x_names.is_empty() {
            true if self.log_x => tick(*x),
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
            .label_style(("sans-serif", 13))
            .x_desc(&self.x)
            .y_desc(&self.y)
            .x_label_formatter(&name_of)
            .y_label_formatter(&|y| if self.log_y { tick(*y) } else { axis(*y) })
            .light_line_style(WHITE)
            .bold_line_style(RGBColor(225, 225, 225))
            .draw()?;
        self.heading(&picture)?;
        let pixels = |series: &Series| -> Vec<(i32, i32)> {
            let places = series.points.iter().map(|at| chart.backend_coord(at));
            places.collect()
        };
        let places: Vec<Vec<(i32, i32)>> = self.series.iter().map(pixels).collect();
        for (series, places) in self.series.iter().zip(&places) {
            self.series(&picture, series, places)?;
        }
        for ring in &self.rings {
            let ring = Circle::new(chart.backend_coord(ring), 10, BLACK.stroke_width(2));
            picture.draw(&ring)?;
        }
        let (across, down) = chart.plotting_area().get_pixel_range();
        for (at, text, look) in labels::place(&self.series, &places, self.lines, across, down) {
            let style = ("sans-serif", labels::SIZE)
                .into_font()
                .color(&colour(look));
            picture.draw(&Text::new(text, at, style))?;
        }
        if let Some(names) = names {
            self.names(&names)?;
        }
        area.present()
    }

    /// The title and, below it, the note.
    fn heading(&self, picture: &Area<'_>) -> Drawn {
        let middle = picture.dim_in_pixel().0 as i32 / 2;
        let place = Pos::new(HPos::Center, VPos::Top);
        for (text, size, y) in [(&self.title, 18, 14), (&self.note, 13, 40)] {
            let style = TextStyle::from(("sans-serif", size).into_font()).pos(place);
            if !text.is_empty() {
                picture.draw(&Text::new(text.as_str(), (middle, y), style))?;
            }
        }
        Ok(())
    }

    /// A series in pixels: its line, and markers at some of the points.
    fn series(&self, picture: &Area<'_>, series: &Series, places: &[(i32, i32)]) -> Drawn {
        if self.lines {
            line(picture, series.look, places)?;
        }
        let every = places.len().div_ceil(MOST_MARKERS).max(1);
        for (number, at) in places.iter().enumerate() {
            // Where only one point has a text, the others are its variants.
            let main = series
                .labels
                .get(number)
                .is_none_or(|text| !text.is_empty());
            if !self.lines || number % every == 0 {
                let size = match main {
                    true if every == 1 => 5,
                    true => 4,
                    false => 3,
                };
                marker(picture, series.look, *at, size)?;
            }
        }
        Ok(())
    }

    /// The names of the series, each behind a piece of its line.
    fn names(&self, area: &Area<'_>) -> Drawn {
        let named = self.series.iter().filter(|series| !series.name.is_empty());
        for (index, series) in named.enumerate() {
            let y = 50 + LINE * index as i32;
            if self.lines {
                line(area, series.look, &[(0, y), (32, y)])?;
            }
            marker(area, series.look, (16, y), 5)?;
            let style = ("sans-serif", 13).into_font();
            area.draw(&Text::new(series.name.clone(), (40, y - 6), style))?;
        }
        Ok(())
    }
}

/// A look's colour, as plotters has it. Pictures stand on white.
fn colour(look: Look) -> RGBColor {
    let [red, green, blue] = look.colour();
    RGBColor(red, green, blue)
}

/// Draws a line with the gaps of its look.
fn line(area: &Area<'_>, look: Look, places: &[(i32, i32)]) -> Drawn {
    let style = colour(look).stroke_width(2);
    let places = places.to_vec();
    match look.dash() {
        None => area.draw(&PathElement::new(places, style)),
        Some((dash, gap)) => area.draw(&DashedPathElement::new(places, dash, gap, style)),
    }
}

/// Draws a marker.
fn marker(area: &Area<'_>, look: Look, (x, y): (i32, i32), size: i32) -> Drawn {
    let colour = colour(look);
    let corners: &[(i32, i32)] = match look.marker() {
        Marker::Circle => {
            // White beneath, so that a line does not run through a hollow one.
            area.draw(&Circle::new((x, y), size, WHITE.filled()))?;
            let style = match look.is_filled() {
                true => colour.filled(),
                false => colour.stroke_width(2),
            };
            return area.draw(&Circle::new((x, y), size, style));
        }
        Marker::Cross | Marker::Plus => {
            let style = colour.stroke_width(if look.is_filled() { 3 } else { 1 });
            let ends = match look.marker() {
                Marker::Cross => [(size, size), (size, -size)],
                _ => [(size + 1, 0), (0, size + 1)],
            };
            for end in ends {
                let path = vec![(x - end.0, y - end.1), (x + end.0, y + end.1)];
                area.draw(&PathElement::new(path, style))?;
            }
            return Ok(());
        }
        Marker::Square => &[(-1, -1), (1, -1), (1, 1), (-1, 1)],
        Marker::Triangle => &[(0, -1), (1, 1), (-1, 1)],
        Marker::Diamond => &[(0, -1), (1, 0), (0, 1), (-1, 0)],
        Marker::Wedge => &[(0, 1), (1, -1), (-1, -1)],
    };
    let size = match look.marker() {
        Marker::Diamond => size + 2,
        _ => size,
    };
    let corner = |(right, down): &(i32, i32)| (x + right * size, y + down * size);
    let mut corners: Vec<(i32, i32)> = corners.iter().map(corner).collect();
    let fill = if look.is_filled() { colour } else { WHITE };
    area.draw(&Polygon::new(corners.clone(), fill.filled()))?;
    corners.push(corners[0]);
    area.draw(&PathElement::new(corners, colour.stroke_width(2)))
}

/// A number at an axis that grows by factors: 1, 2 and 5 of each power of ten have room.
fn tick(value: f64) -> String {
    let leading = value / 10f64.powf(value.log10().floor());
    let near = |digit: f64| (leading / digit - 1.0).abs() < 0.01;
    match near(1.0) || near(2.0) || near(5.0) || near(10.0) {
        true => axis(value),
        false => String::new(),
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
        let texts = [0.01, 0.2, 3.0, 50.0, 900.0, 1000.0].map(tick);
        assert_eq!(texts, ["0.01", "0.2", "", "50", "", "1000"]);
    }

    #[test]
    fn one_point_is_a_picture_too() {
        let points = vec![(3.0, 0.0)];
        for number in 0..8 {
            let series = vec![Series {
                labels: vec!["a <b>".into()],
                ..Series::new("c <d>", Look::new(number, 0), points.clone())
            }];
            let chart = Chart {
                lines: number & 1 > 0,
                log_x: number & 2 > 0,
                log_y: number & 4 > 0,
                series,
                ..Chart::default()
            };
            let svg = chart.svg().unwrap();
            for text in ["a &lt;b&gt;", "c &lt;d&gt;"] {
                assert!(svg.contains(text) && svg.ends_with("</svg>\n"), "{svg}");
            }
        }
    }

    #[test]
    fn panels_are_below_each_other() {
        let chart = |title: &str| Chart {
            title: title.into(),
            series: vec![Series::new("", Look::new(0, 0), vec![(1.0, 1.0)])],
            ..Chart::default()
        };
        let (first, second) = (chart("first"), chart("second"));
        assert_eq!(Chart::stacked(&[&first]).unwrap(), first.svg().unwrap());
        let both = Chart::stacked(&[&first, &second]).unwrap();
        assert_eq!(
            (both.matches("<svg").count(), both.matches("</svg>").count()),
            (3, 3)
        );
        assert!(both.contains("height=\"920\""), "{both}");
        let (upper, lower) = both.split_once("y=\"460\" width").unwrap();
        assert!(
            upper.contains("first") && !upper.contains("second"),
            "{upper}"
        );
        assert!(
            lower.contains("second") && !lower.contains("first"),
            "{lower}"
        );
    }

    #[test]
    fn a_dashed_line_has_gaps_and_a_solid_one_none() {
        let strokes = |member| {
            let points = vec![(0.0, 0.0), (10.0, 10.0)];
            let chart = Chart {
                lines: true,
                series: vec![Series::new("a", Look::new(0, member), points)],
                ..Chart::default()
            };
            chart.svg().unwrap().matches("stroke-width=\"2\"").count()
        };
        assert!(strokes(1) > strokes(0) + 10);
    }

    #[test]
    fn series_that_look_the_same_are_found() {
        let series = |name: &str, group| Series::new(name, Look::new(group, 0), Vec::new());
        let mut chart = Chart {
            series: vec![series("a", 0), series("b", 1), series("c", 56)],
            ..Chart::default()
        };
        assert_eq!(chart.alike(), Some(("a", "c")));
        chart.series.pop();
        assert_eq!(chart.alike(), None);
    }
}
