//! How the series of a picture are told apart: colour, dash pattern and marker. The one palette of the project.
//!
//! A picture is also read by those who see few colours and printed in grey, so no two series of a chart may differ by
//! colour alone where that can be avoided, and none may look the same: tests hold [`Look::new`] and every chart to it.
//!
//! A crate of its own since two programs draw, one with a library and one without. It knows nothing about how that is done.
#![forbid(unsafe_code)]

/// Red, green and blue.
pub type Colour = [u8; 3];

/// Colours that almost everybody tells apart (Okabe and Ito): dark enough on white, and lighter ones of the same hues for a
/// dark ground.
const COLOURS: [(Colour, Colour); 8] = [
    ([0, 114, 178], [86, 170, 235]),
    ([213, 94, 0], [255, 150, 80]),
    ([0, 158, 115], [50, 205, 155]),
    ([204, 121, 167], [232, 160, 205]),
    ([180, 130, 0], [232, 185, 60]),
    ([70, 160, 220], [150, 210, 255]),
    ([120, 94, 40], [190, 162, 105]),
    ([60, 60, 60], [205, 205, 205]),
];

/// Lengths of dash and gap, in pixels; none for a solid line.
const DASHES: [Option<(i32, i32)>; 4] = [None, Some((8, 4)), Some((2, 3)), Some((16, 3))];

/// What stands at each point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Marker {
    /// A circle.
    Circle,
    /// A square.
    Square,
    /// A triangle that stands on its base.
    Triangle,
    /// A square on its corner.
    Diamond,
    /// Two diagonal strokes.
    Cross,
    /// An upright and a level stroke.
    Plus,
    /// A triangle that stands on its point.
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
    marker: Marker,
}

impl Look {
    /// The look of a member of a group. Members of a group share its colour and marker and differ in dash pattern; groups
    /// differ in colour or marker, up to 56 groups.
    pub const fn new(group: usize, member: usize) -> Look {
        Look {
            colour: group % COLOURS.len(),
            // Markers and colours have no common divisor, so a pair of them comes again only after all others.
            marker: MARKERS[group % MARKERS.len()],
            dash: member % DASHES.len(),
        }
    }

    /// Its colour on white.
    pub fn colour(self) -> Colour {
        COLOURS[self.colour].0
    }

    /// Its colour on a dark ground.
    pub fn colour_on_dark(self) -> Colour {
        COLOURS[self.colour].1
    }

    /// Lengths of dash and gap of its line, in pixels; `None`: it is solid.
    pub fn dash(self) -> Option<(i32, i32)> {
        DASHES[self.dash]
    }

    /// What stands at its points.
    pub fn marker(self) -> Marker {
        self.marker
    }

    /// Whether markers are filled: where no line is drawn, this is what tells members of a group apart.
    pub fn is_filled(self) -> bool {
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

    /// Relative luminance, as WCAG 2 has it.
    fn luminance(colour: Colour) -> f64 {
        let linear = |value: u8| match f64::from(value) / 255.0 {
            low if low <= 0.04045 => low / 12.92,
            high => ((high + 0.055) / 1.055).powf(2.4),
        };
        let [red, green, blue] = colour.map(linear);
        0.2126 * red + 0.7152 * green + 0.0722 * blue
    }

    #[test]
    fn colours_stand_out_from_their_ground() {
        let dark_ground = luminance([32, 35, 40]);
        for (on_white, on_dark) in COLOURS {
            let contrast = 1.05 / (luminance(on_white) + 0.05);
            assert!(contrast > 2.7, "{on_white:?}: {contrast}");
            let contrast = (luminance(on_dark) + 0.05) / (dark_ground + 0.05);
            assert!(contrast > 5.0, "{on_dark:?}: {contrast}");
        }
    }
}
