//! Writes instructions.
//!
//! Separate from the search: only this file knows the instructions' layout. No processor predicts which of them comes
//! next, so the frequent ones have no branch: both forms are computed in registers, and stored with a fixed width that
//! the next instruction overwrites. The rare ones are functions of their own.

use std::hint::select_unpredictable;

use super::{
    END, FAR_LEN, FIRST, MIDDLE, MIDDLE_LEN, NEAR, NEAR_LEN, RUN, RUN_DISTANCE, RUN_MIN,
    VERSION_RLE, VERSIONED,
};

/// The longest first run of literals whose length fits its instruction byte.
const FIRST_MAX: usize = 255 - FIRST;
/// The longest other run of literals whose length fits its instruction byte.
const BYTE_MAX: usize = 18;
/// Runs of literals up to this length are one copy.
pub(super) const SHORT: usize = 16;

/// The output of a stream. Each instruction consumes it and returns a new one, so that it stays in registers.
pub(super) struct LzoOut<'a, const RLE: bool> {
    /// The free space, and before it the last [`LzoOut::BEFORE`] bytes of output (none before the first instruction).
    window: &'a mut [u8],
    /// Distance from the free space back to the byte with the last instruction's state; 0 before the first instruction.
    state_back: usize,
}

impl<'a, const RLE: bool> LzoOut<'a, RLE> {
    /// Bytes before the first instruction.
    const HEAD: usize = if RLE { 2 } else { 0 };
    /// The greatest `state_back`; no more than `HEAD` and a first instruction of one literal.
    const BEFORE: usize = if RLE { 3 } else { 2 };

    pub(super) fn begin(dst: &'a mut [u8]) -> Option<Self> {
        if RLE {
            put(dst, &[VERSIONED, VERSION_RLE])?;
        }
        Some(LzoOut {
            window: dst,
            state_back: 0,
        })
    }

    /// Ends the stream. Returns its length, given the length of the whole destination.
    pub(super) fn end(self, room: usize) -> Option<usize> {
        let before = if self.state_back == 0 {
            Self::HEAD
        } else {
            Self::BEFORE
        };
        let end = put(self.window.get_mut(before..)?, &END)?;
        Some(room - self.window.len() + before + end)
    }

    #[inline(always)]
    fn advance(self, count: usize, state_back: usize) -> Option<Self> {
        let window = self.window.get_mut(count..)?;
        // A constant for `lzo`, which has but one distance.
        let state_back = if RLE { state_back } else { 2 };
        Some(LzoOut { window, state_back })
    }

    /// Writes a run of literals of any length. The stream's first run is not empty.
    pub(super) fn literals(self, bytes: &[u8]) -> Option<Self> {
        if self.state_back == 0 {
            let len = first_literals(self.window.get_mut(Self::HEAD..)?, bytes)?;
            return self.advance(Self::HEAD + len - Self::BEFORE, 2);
        }
        let len = literals(self.window, Self::BEFORE, self.state_back, bytes)?;
        let state_back = self.state_back;
        self.advance(len, state_back)
    }

    /// Writes a run of up to [`SHORT`] literals, but not the stream's first.
    #[inline(always)]
    pub(super) fn short_literals(self, bytes: &[u8; SHORT], count: usize) -> Option<Self> {
        if count <= SHORT
            && let Some(target) = self.window.first_chunk_mut::<{ 3 + 1 + SHORT }>()
        {
            // Up to 3 are the last instruction's state; more have an instruction of their own.
            let own = usize::from(count > 3);
            let state_back = if RLE { self.state_back & 3 } else { 2 };
            target[Self::BEFORE - state_back] |= select_unpredictable(count > 3, 0, count as u8);
            target[Self::BEFORE] = count.wrapping_sub(3) as u8;
            let begin = Self::BEFORE + own;
            target[begin..begin + SHORT].copy_from_slice(bytes);
            let state_back = self.state_back;
            return self.advance(own + count, state_back);
        }
        self.literals(bytes.get(..count)?)
    }

    /// Writes a match of `len` bytes, at least 4, at `distance`, which is less than 32768.
    #[inline(always)]
    pub(super) fn copy(self, distance: usize, len: usize) -> Option<Self> {
        if len <= MIDDLE_LEN
            && distance <= MIDDLE
            && let Some(target) = self.window.first_chunk_mut::<{ 3 + 4 }>()
        {
            let near = (distance <= NEAR) & (len <= NEAR_LEN);
            let word = select_unpredictable(near, two_bytes(distance, len), {
                (32 + (len - 2) + ((distance - 1) << 10)) as u32
            });
            target[Self::BEFORE..Self::BEFORE + 4].copy_from_slice(&word.to_le_bytes());
            return self.advance(3 - usize::from(near), 2);
        }
        let len = any_match(self.window.get_mut(Self::BEFORE..)?, distance, len)?;
        self.advance(len, 2)
    }

    /// Writes a run of `count` zeros: version 1 only, and not as the first instruction.
    #[inline(always)]
    pub(super) fn run(self, count: usize) -> Option<Self> {
        let len = run(self.window.get_mut(Self::BEFORE..)?, count - RUN_MIN)?;
        self.advance(len, 3)
    }
}

/// The match instruction of 2 bytes.
#[inline(always)]
fn two_bytes(distance: usize, len: usize) -> u32 {
    let back = (distance - 1) as u32;
    ((back & 7) << 2 | (back & 0x7F8) << 5) + ((len as u32) << 5) - 32
}

/// Writes the stream's first run of literals. Returns the number of bytes.
#[cold]
fn first_literals(dst: &mut [u8], bytes: &[u8]) -> Option<usize> {
    let count = bytes.len();
    let head = if count <= FIRST_MAX {
        put(dst, &[(FIRST + count) as u8])?
    } else {
        long(dst, 0, count - BYTE_MAX)?
    };
    Some(head + put(dst.get_mut(head..)?, bytes)?)
}

/// Writes any other run of literals, `before` bytes into the window. Returns the number of bytes.
#[inline(never)]
fn literals(window: &mut [u8], before: usize, state_back: usize, bytes: &[u8]) -> Option<usize> {
    let (output, dst) = window.split_at_mut_checked(before)?;
    let head = match bytes.len() {
        count @ 0..=3 => {
            *output.get_mut(before - state_back)? |= count as u8;
            0
        }
        count @ 4..=BYTE_MAX => put(dst, &[(count - 3) as u8])?,
        count => long(dst, 0, count - BYTE_MAX)?,
    };
    Some(head + put(dst.get_mut(head..)?, bytes)?)
}

/// Writes a match of any length. Returns the number of bytes.
#[inline(never)]
fn any_match(dst: &mut [u8], distance: usize, len: usize) -> Option<usize> {
    if distance <= NEAR && len <= NEAR_LEN {
        let [first, second, ..] = two_bytes(distance, len).to_le_bytes();
        return put(dst, &[first, second]);
    }
    let (instruction, most, low) = if distance <= MIDDLE {
        (32, MIDDLE_LEN, distance - 1)
    } else {
        (16, FAR_LEN, distance - MIDDLE)
    };
    let head = if len <= most {
        put(dst, &[instruction | (len - 2) as u8])?
    } else {
        long(dst, instruction, len - most)?
    };
    let rest = dst.get_mut(head..)?;
    Some(head + put(rest, &((low << 2) as u16).to_le_bytes())?)
}

/// Writes a run of `RUN_MIN + more` zeros. Returns the number of bytes.
#[inline(never)]
fn run(dst: &mut [u8], more: usize) -> Option<usize> {
    let [low, high] = RUN_DISTANCE.to_le_bytes();
    put(dst, &[RUN | (more & 7) as u8, low, high, (more >> 3) as u8])
}

/// Writes an instruction whose length exceeds what its bits hold by `more`. Returns the number of bytes.
fn long(dst: &mut [u8], instruction: u8, more: usize) -> Option<usize> {
    let zeros = (more - 1) / 255;
    put(dst, &[instruction])?;
    dst.get_mut(1..1 + zeros)?.fill(0);
    put(dst.get_mut(1 + zeros..)?, &[(more - zeros * 255) as u8])?;
    Some(zeros + 2)
}

/// Writes bytes. Returns their number.
#[inline(always)]
fn put(dst: &mut [u8], bytes: &[u8]) -> Option<usize> {
    dst.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(bytes.len())
}
