//! The names and modes of zram's own attributes.

/// An attribute of a device or of the control directory.
pub(crate) struct Attribute {
    pub(crate) name: &'static str,
    pub(crate) mode: u16,
}

const fn attribute(name: &'static str, mode: u16) -> Attribute {
    Attribute { name, mode }
}

pub(crate) const CONTROL: &[Attribute] =
    &[attribute("hot_add", 0o400), attribute("hot_remove", 0o200)];

pub(crate) const DEVICE: &[Attribute] = &[
    attribute("disksize", 0o644),
    attribute("initstate", 0o444),
    attribute("reset", 0o200),
    attribute("comp_algorithm", 0o644),
    attribute("recomp_algorithm", 0o644),
    attribute("algorithm_params", 0o200),
    attribute("recompress", 0o200),
    attribute("mem_limit", 0o200),
    attribute("mem_used_max", 0o200),
    attribute("compact", 0o200),
    attribute("idle", 0o200),
    attribute("io_stat", 0o444),
    attribute("mm_stat", 0o444),
    attribute("debug_stat", 0o444),
    attribute("bd_stat", 0o444),
    attribute("backing_dev", 0o644),
    attribute("writeback", 0o200),
    attribute("writeback_limit", 0o644),
    attribute("writeback_limit_enable", 0o644),
    attribute("writeback_batch_size", 0o644),
    attribute("compressed_writeback", 0o644),
    attribute("max_comp_streams", 0o644),
];
