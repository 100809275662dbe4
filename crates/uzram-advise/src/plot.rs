//! The measurements as a picture: how much fits each byte of memory against how fast it is written.

use std::path::Path;

use plotters::prelude::*;

use crate::measure::Measured;
use crate::recommend::Advice;
use crate::{Error, Sample};

const SIZE: (u32, u32) = (960, 640);
/// Colours that are told apart by all, one for each algorithm in turn (Okabe and Ito).
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

/// Writes an SVG: a point for each candidate, filled without a dictionary and hollow with one, joined for each
/// algorithm; recommended ones are ringed.
pub fn plot(
    path: &Path,
    sample: &Sample,
    measured: &[Measured],
    advice: Option<&Advice>,
) -> Result<(), Error> {
    let mut svg = String::new();
    draw(&mut svg, sample, measured, advice).map_err(|reason| failed(path, reason))?;
    std::fs::write(path, svg).map_err(|error| failed(path, error.to_string()))
}

fn failed(path: &Path, reason: String) -> Error {
    Error::Plot {
        path: path.display().to_string(),
        reason,
    }
}

fn draw(
    svg: &mut String,
    sample: &Sample,
    measured: &[Measured],
    advice: Option<&Advice>,
) -> Result<(), String> {
    // It compresses nothing and would take half of the picture.
    let measured: Vec<_> = measured
        .iter()
        .filter(|one| one.algorithm != "null")
        .collect();
    let say = |error: &dyn std::fmt::Display| error.to_string();
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(|e| say(&e))?;
    let bound = |value: fn(&Measured) -> f64, pick: fn(f64, f64) -> f64, start: f64| {
        measured.iter().copied().map(value).fold(start, pick)
    };
    let slowest = bound(|m| m.write_mib_s, f64::min, f64::INFINITY).max(0.1) * 0.8;
    let fastest = bound(|m| m.write_mib_s, f64::max, 1.0) * 1.6;
    let densest = bound(|m| m.capacity, f64::max, 1.0) * 1.1;
    let least = bound(|m| m.capacity, f64::min, 1.0) * 0.9;
    let mut chart = ChartBuilder::on(&area)
        .caption(caption(sample), ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d((slowest..fastest).log_scale(), least..densest)
        .map_err(|e| say(&e))?;
    chart
        .configure_mesh()
        .x_desc("written, MiB/s on one thread")
        .y_desc("bytes held for each byte of memory")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.1}"))
        .light_line_style(WHITE)
        .draw()
        .map_err(|e| say(&e))?;
    let mut names: Vec<&str> = Vec::new();
    for one in &measured {
        if !names.contains(&one.algorithm.as_str()) {
            names.push(&one.algorithm);
        }
    }
    for (index, name) in names.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        for with in [false, true] {
            let mut points: Vec<_> = measured
                .iter()
                .copied()
                .filter(|one| one.algorithm == *name && (one.dictionary_bytes > 0) == with)
                .collect();
            points.sort_by(|a, b| a.write_mib_s.total_cmp(&b.write_mib_s));
            let place = |one: &Measured| (one.write_mib_s, one.capacity);
            let line = points.iter().map(|one| place(one));
            chart
                .draw_series(LineSeries::new(line, colour.mix(0.4)))
                .map_err(|e| say(&e))?;
            let style = if with {
                colour.stroke_width(2)
            } else {
                colour.filled()
            };
            let dots = chart
                .draw_series(points.iter().map(|one| Circle::new(place(one), 5, style)))
                .map_err(|e| say(&e))?;
            if !points.is_empty() {
                let label = if with {
                    format!("{name} with a dictionary")
                } else {
                    (*name).to_owned()
                };
                dots.label(label)
                    .legend(move |(x, y)| Circle::new((x + 10, y), 5, style));
            }
            let labels = points
                .iter()
                .filter(|one| !one.params.is_empty())
                .map(|one| {
                    let level = one.params.trim_start_matches("level=").to_owned();
                    let style = ("sans-serif", 12).into_font().color(&colour);
                    EmptyElement::at(place(one)) + Text::new(level, (7, -12), style)
                });
            chart.draw_series(labels).map_err(|e| say(&e))?;
        }
    }
    let advised = advice.into_iter().flat_map(|advice| {
        [Some(&advice.writes), advice.idle.as_ref()]
            .into_iter()
            .flatten()
    });
    let rings = advised.map(|choice| {
        let place = (choice.what.write_mib_s, choice.what.capacity);
        Circle::new(place, 10, BLACK.stroke_width(2))
    });
    chart
        .draw_series(rings)
        .map_err(|e| say(&e))?
        .label("recommended")
        .legend(|(x, y)| Circle::new((x + 10, y), 6, BLACK.stroke_width(2)));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 13))
        .draw()
        .map_err(|e| say(&e))?;
    area.present().map_err(|e| say(&e))
}

fn caption(sample: &Sample) -> String {
    format!(
        "{}: {} pages, {:.1} % same-filled",
        sample.what,
        sample.sampled,
        sample.same_filled_share() * 100.0
    )
}
