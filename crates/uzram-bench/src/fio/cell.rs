//! The cells of zram-perf-test's table, and the settings that they are measured in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A cell, in the order of the series' own table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cell {
    /// Each block once, in order.
    SeqWrite,
    /// Each block once, at random.
    RandWrite,
    /// Each block once, in order.
    SeqRead,
    /// Each block once, at random.
    RandRead,
    /// Half reads, half writes, at random.
    MixedRand,
    /// The same, in order.
    MixedSeq,
}

/// All cells, in the series' order.
pub const CELLS: [Cell; 6] = [
    Cell::SeqWrite,
    Cell::RandWrite,
    Cell::SeqRead,
    Cell::RandRead,
    Cell::MixedRand,
    Cell::MixedSeq,
];

impl Cell {
    /// The cell's name, also that of fio's job.
    pub fn name(self) -> &'static str {
        match self {
            Cell::SeqWrite => "seq-write",
            Cell::RandWrite => "rand-write",
            Cell::SeqRead => "seq-read",
            Cell::RandRead => "rand-read",
            Cell::MixedRand => "mixed-rand",
            Cell::MixedSeq => "mixed-seq",
        }
    }

    /// fio's `rw=`.
    pub(super) fn rw(self) -> &'static str {
        match self {
            Cell::SeqWrite => "write",
            Cell::RandWrite => "randwrite",
            Cell::SeqRead => "read",
            Cell::RandRead => "randread",
            Cell::MixedRand => "randrw",
            Cell::MixedSeq => "rw",
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Cell {
    type Err = String;

    fn from_str(text: &str) -> Result<Cell, String> {
        CELLS
            .into_iter()
            .find(|cell| cell.name() == text)
            .ok_or_else(|| {
                let names = CELLS.map(Cell::name).join(", ");
                format!("'{text}' is no cell; there are {names}")
            })
    }
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum BufferContents {
    /// The series' static buffer: one word over and over, which zram keeps as a same-filled page.
    Static,
    /// That many percent of each block are zeros, the rest noise. The series' own has 11.
    Compressible(u8),
}

impl BufferContents {
    /// fio's options for it.
    pub(super) fn options(self) -> Vec<String> {
        let pattern = match self {
            BufferContents::Static => "--buffer_pattern=0xbadc0ffee".into(),
            BufferContents::Compressible(percent) => {
                format!("--buffer_compress_percentage={percent}")
            }
        };
        vec![pattern, "--scramble_buffers=0".into()]
    }
}

impl fmt::Display for BufferContents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BufferContents::Static => f.write_str("static"),
            BufferContents::Compressible(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for BufferContents {
    type Err = String;

    fn from_str(text: &str) -> Result<BufferContents, String> {
        if text == "static" {
            return Ok(BufferContents::Static);
        }
        let percent = text.strip_suffix('%').and_then(|n| n.parse().ok());
        match percent {
            Some(percent @ 0..=100) => Ok(BufferContents::Compressible(percent)),
            _ => Err(format!(
                "'{text}' is no kind of buffer; it takes static, or how much of it compresses, as in 11%"
            )),
        }
    }
}

impl From<BufferContents> for String {
    fn from(buffer: BufferContents) -> String {
        buffer.to_string()
    }
}

impl TryFrom<String> for BufferContents {
    type Error = String;

    fn try_from(text: String) -> Result<BufferContents, String> {
        text.parse()
    }
}

/// Size of a request, and how many a job has under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Bytes of a request.
    pub block_bytes: u64,
    /// Requests under way.
    pub depth: u32,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { block_bytes, depth } = self;
        match block_bytes % 1024 {
            0 => write!(f, "{} KiB, depth {depth}", block_bytes / 1024),
            _ => write!(f, "{block_bytes} B, depth {depth}"),
        }
    }
}

/// What a run of all cells has in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// What is written.
    pub buffer: BufferContents,
    /// Size and depth of the requests.
    #[serde(flatten)]
    pub shape: Shape,
    /// The number of jobs.
    pub jobs: u32,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting {
            buffer,
            shape,
            jobs,
        } = self;
        write!(f, "buffer {buffer}, {shape}, jobs {jobs}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_shown() {
        for cell in CELLS {
            assert_eq!(cell.name().parse(), Ok(cell));
            let json = serde_json::to_value(cell).unwrap();
            assert_eq!(json, cell.name());
        }
        for buffer in [BufferContents::Static, BufferContents::Compressible(11)] {
            assert_eq!(buffer.to_string().parse(), Ok(buffer));
        }
        assert!(
            "seqwrite"
                .parse::<Cell>()
                .unwrap_err()
                .contains("seq-write")
        );
        for text in ["11", "101%", "-1%", "random"] {
            assert!(
                text.parse::<BufferContents>().unwrap_err().contains("11%"),
                "{text}"
            );
        }
    }
}
