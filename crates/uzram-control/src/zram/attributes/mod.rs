//! The attributes, by theme: each a constant with all that there is to say of it, and below it the functions that read and
//! write it. [`super::ATTRIBUTES`] lists them.

pub(super) mod algorithms;
pub(super) mod idle;
pub(super) mod lifecycle;
pub(super) mod memory;
pub(super) mod statistics;
pub(super) mod writeback;
