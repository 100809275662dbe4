//! How the series of a picture are told apart: colour, dash pattern and marker. The one palette of the project.
//!
//! A picture is also read by those who see few colours and printed in grey, so no two series of a chart may differ by
//! colour alone where that can be avoided, and none may look the same: tests hold [`Look::new`] and every chart to it.

use plotters::style::RGBColor;

/// Colours that almost everybody tells apart (Okabe and Ito), dark enough on white.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(180, 130, 0),
    RGBColor(70, 160, 220),
    RGBColor(120, 94, 40),
    RGBColor(60, 60, 60),
];

/// Lengths of dash and gap, in pixels; none for a solid line.
const DASHES: [Option<(i32, i32)>; 4] = [None, Some((8, 4)), Some((2, 3)), Some((16, 3))];

/// What stands at each point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
    Cross,
    Plus,
    Wedge,
}

const MARKERS: [Marker; 7] = [
    Marker::Circle,
    Marker::Square,
    Marker::Triangle,
    Marker::Diamond,
    Marker::Cross,
    Marker::Plus,
    Marker::Wedge,
];

/// How one series looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Look {
    colour: usize,
    dash: usize,
    pub(super) marker: Marker,
}

impl Look {
    /// The look of a member of a group. Members of a group share its colour and marker and differ in dash pattern; groups
    /// differ in colour or marker, up to 56 groups.
    pub fn new(group: usize, member: usize) -> Look {
        Look {
            colour: group % COLOURS.len(),
            // Markers and colours have no common divisor, so a pair of them comes again only after all others.
            marker: MARKERS[group % MARKERS.len()],
            dash: member % DASHES.len(),
        }
    }

    pub(super) fn colour(self) -> RGBColor {
        COLOURS[self.colour]
    }

    pub(super) fn dash(self) -> Option<(i32, i32)> {
        DASHES[self.dash]
    }

    /// Whether markers are filled: where no line is drawn, this is what tells members of a group apart.
    pub(super) fn is_filled(self) -> bool {
        self.dash == 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_looks_are_the_same() {
        let groups = COLOURS.len() * MARKERS.len();
        let all = (0..groups).flat_map(|group| (0..DASHES.len()).map(move |m| Look::new(group, m)));
        let looks: BTreeSet<Look> = all.collect();
        assert_eq!(looks.len(), groups * DASHES.len());
        // Neighbours differ in both.
        for group in 1..groups {
            let (one, other) = (Look::new(group - 1, 0), Look::new(group, 0));
            assert!(one.colour != other.colour && one.marker != other.marker);
        }
    }
}
