//! Places texts beside points so that they hide neither points nor each other, as far as there is room.

use std::ops::Range;

use super::Series;
use uzram_palette::Look;

/// Height of a text in pixels.
pub(super) const SIZE: i32 = 13;
/// Width of a character, on average; SVG viewers choose the font.
const CHARACTER: f64 = 6.8;
/// Distance of a text from its point.
const GAP: i32 = 9;

/// Left, top, right, bottom.
type Box = [i32; 4];

/// Top left corner, text and look of each label.
pub(super) fn place<'a>(
    series: &'a [Series],
    places: &[Vec<(i32, i32)>],
    lines: bool,
    across: Range<i32>,
    down: Range<i32>,
) -> Vec<((i32, i32), &'a str, Look)> {
    let point = |(x, y): &(i32, i32)| [x - 6, y - 6, x + 6, y + 6];
    let mut taken: Vec<Box> = places.iter().flatten().map(point).collect();
    if lines {
        let pieces = places.iter().flat_map(|places| places.windows(2));
        taken.extend(pieces.flat_map(|ends| along(ends[0], ends[1])));
    }
    let mut placed = Vec::new();
    for (series, places) in series.iter().zip(places) {
        for (text, at) in series.labels.iter().zip(places) {
            if text.is_empty() {
                continue;
            }
            let wide = (text.chars().count() as f64 * CHARACTER) as i32;
            let outside = |area: &Box| {
                (across.start - area[0]).max(0)
                    + (area[2] - across.end).max(0)
                    + (down.start - area[1]).max(0)
                    + (area[3] - down.end).max(0)
            };
            let cost = |area: &Box| {
                let hidden: i32 = taken.iter().map(|other| overlap(area, other)).sum();
                hidden + 1000 * outside(area)
            };
            let best = around(*at, wide).into_iter().min_by_key(cost).unwrap_or([
                at.0,
                at.1,
                at.0 + wide,
                at.1 + SIZE,
            ]);
            taken.push(best);
            placed.push(((best[0], best[1]), text.as_str(), series.look));
        }
    }
    placed
}

/// Boxes along a line.
fn along(from: (i32, i32), to: (i32, i32)) -> Vec<Box> {
    let steps = ((to.0 - from.0).abs().max((to.1 - from.1).abs()) / 6).max(1);
    let at = |step: i32| {
        let x = from.0 + (to.0 - from.0) * step / steps;
        let y = from.1 + (to.1 - from.1) * step / steps;
        [x - 3, y - 3, x + 3, y + 3]
    };
    (0..=steps).map(at).collect()
}

/// Where a text may stand, the best place first.
fn around((x, y): (i32, i32), wide: i32) -> Vec<Box> {
    let half = SIZE / 2;
    let [right, left, middle] = [x + GAP, x - GAP - wide, x - wide / 2];
    let [above, beside, below] = [y - GAP - SIZE, y - half, y + GAP];
    let mut corners = vec![
        (right, beside),
        (left, beside),
        (middle, above),
        (middle, below),
        (right - 4, above + 4),
        (right - 4, below - 4),
        (left + 4, above + 4),
        (left + 4, below - 4),
    ];
    for step in 1..4 {
        let far = step * (SIZE + 3);
        corners.extend([(middle, above - far), (middle, below + far)]);
    }
    let area = |(left, top)| [left, top, left + wide, top + SIZE];
    corners.into_iter().map(area).collect()
}

/// Pixels that two have in common.
fn overlap(one: &Box, other: &Box) -> i32 {
    let wide = one[2].min(other[2]) - one[0].max(other[0]);
    let high = one[3].min(other[3]) - one[1].max(other[1]);
    wide.max(0) * high.max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_close_points_stand_apart() {
        let series: Vec<Series> = (0..6)
            .map(|number| Series {
                labels: vec![format!("label {number}")],
                ..Series::new("", Look::new(number, 0), vec![(0.0, 0.0)])
            })
            .collect();
        let places: Vec<Vec<(i32, i32)>> = (0..6).map(|n| vec![(200 + 3 * n, 200)]).collect();
        let placed = place(&series, &places, false, 0..400, 0..400);
        assert_eq!(placed.len(), 6);
        for (at, ((x, y), ..)) in placed.iter().enumerate() {
            for ((left, top), ..) in &placed[..at] {
                assert!(
                    (x - left).abs() >= 47 || (y - top).abs() >= SIZE,
                    "{placed:?}"
                );
            }
        }
    }

    #[test]
    fn a_text_stands_beside_a_line() {
        let series = [Series {
            labels: vec!["label".into()],
            ..Series::new("", Look::new(0, 0), vec![(0.0, 0.0); 2])
        }];
        let places = vec![vec![(100, 100), (300, 100)]];
        let placed = place(&series, &places, true, 0..400, 0..400);
        let (x, y) = placed[0].0;
        assert!(x + 30 < 100 || y > 103 || y + SIZE < 97, "{placed:?}");
    }
}
