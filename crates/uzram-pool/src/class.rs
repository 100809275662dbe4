//! Size classes and the geometry of a span: constants, computed when the crate is compiled.
//!
//! The step between classes is 8 bytes up to 1.5 KiB and then about half a percent of the size, so that an
//! object wastes a quarter to half a percent on average. Fine steps are affordable because spans are large
//! (the tail that no object fits is at most 4 KiB of 1 MiB, and untouched) and memory is accounted by the
//! page (a class's partial span costs a page, not a span).

/// Bytes in a span.
pub const SPAN_BYTES: usize = 1 << 20;
/// Largest object in bytes.
pub const MAX_OBJECT: usize = 4096;
/// Smallest class in bytes.
const MIN_CLASS: usize = 16;
/// An object of this many bytes or more takes the class of whole pages: it may as well be stored raw.
pub const HUGE_THRESHOLD: usize = CLASSES[CLASS_COUNT - 2].size as usize + 1;

/// Bytes of the head that every span begins with: see [`crate::span`].
pub(crate) const HEAD_BYTES: usize = 8;

/// What a span of a class looks like. Offsets are from the span's start, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Class {
    /// Bytes reserved for each object, a multiple of 8.
    pub(crate) size: u32,
    /// Objects in a span.
    pub(crate) objects: u32,
    /// Where the owners, 4 bytes each, begin; the head and the bitmap of used objects come before them.
    pub(crate) owners: u32,
    /// Where the first object begins.
    pub(crate) first: u32,
}

impl Class {
    /// Words in the bitmap.
    pub(crate) const fn bitmap_words(&self) -> usize {
        (self.objects as usize).div_ceil(64)
    }

    /// The fewest pages that `objects` objects can lie in: full spans and a partial one.
    pub(crate) fn least_pages(&self, objects: u64) -> u64 {
        let each = u64::from(self.objects);
        let rest = self.pages_of_first((objects % each) as u32);
        objects / each * self.pages_of_first(self.objects) + rest
    }

    /// The pages of a span of which the first `objects` objects are in use.
    fn pages_of_first(&self, objects: u32) -> u64 {
        if objects == 0 {
            return 0;
        }
        let page = crate::PAGE as u32;
        let table = (self.owners + objects * 4).div_ceil(page);
        let begin = (self.first / page).max(table);
        let end = (self.first + objects * self.size).div_ceil(page);
        u64::from(table + end.saturating_sub(begin))
    }
}

const fn step(size: usize) -> usize {
    let step = 8 * (size / 768);
    if step < 8 { 8 } else { step }
}

const fn count() -> usize {
    let (mut n, mut size) = (1, MIN_CLASS);
    while size < MAX_OBJECT {
        n += 1;
        size += step(size);
    }
    n
}

/// Number of size classes.
pub const CLASS_COUNT: usize = count();

const fn geometry(size: usize) -> Class {
    let mut objects = SPAN_BYTES / size;
    loop {
        let owners = HEAD_BYTES + objects.div_ceil(64) * 8;
        let tables = owners + objects * 4;
        // Whole pages are kept page-aligned.
        let first = tables.next_multiple_of(if size == MAX_OBJECT { crate::PAGE } else { 8 });
        if first + objects * size <= SPAN_BYTES {
            let (objects, owners, first) = (objects as u32, owners as u32, first as u32);
            return Class {
                size: size as u32,
                objects,
                owners,
                first,
            };
        }
        objects -= 1;
    }
}

const fn classes() -> [Class; CLASS_COUNT] {
    let mut all = [geometry(MAX_OBJECT); CLASS_COUNT];
    let (mut n, mut size) = (0, MIN_CLASS);
    while size < MAX_OBJECT {
        all[n] = geometry(size);
        n += 1;
        size += step(size);
    }
    all
}

pub(crate) static CLASSES: [Class; CLASS_COUNT] = classes();

/// Class of each size, by size / 8 rounded up.
static CLASS_OF: [u16; MAX_OBJECT / 8 + 1] = {
    let mut table = [0; MAX_OBJECT / 8 + 1];
    let (mut units, mut class) = (0, 0);
    while units < table.len() {
        while (CLASSES[class].size as usize) < units * 8 {
            class += 1;
        }
        table[units] = class as u16;
        units += 1;
    }
    table
};

/// The class of objects of `len` bytes, 1 to [`MAX_OBJECT`].
pub(crate) fn class_of(len: usize) -> usize {
    usize::from(CLASS_OF[len.div_ceil(8)])
}

/// Bytes that an object of `len` bytes, 1 to [`MAX_OBJECT`], takes.
pub fn class_size(len: usize) -> usize {
    CLASSES[class_of(len)].size as usize
}

const _: () = {
    assert!(CLASSES[CLASS_COUNT - 1].size as usize == MAX_OBJECT);
    assert!(CLASSES[CLASS_COUNT - 1].first as usize == crate::PAGE);
    assert!(CLASSES[CLASS_COUNT - 1].objects == 255);
    assert!(CLASS_COUNT < 512);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_the_smallest_class_that_holds_it() {
        for len in 1..=MAX_OBJECT {
            let class = class_of(len);
            assert!(CLASSES[class].size as usize >= len);
            assert!(
                class == 0 || (CLASSES[class - 1].size as usize) < len,
                "{len}"
            );
        }
    }

    #[test]
    fn spans_are_full_but_for_one_object_and_their_tables() {
        for class in &CLASSES {
            let end = class.first as usize + (class.objects * class.size) as usize;
            assert!(
                end <= SPAN_BYTES && SPAN_BYTES - end < class.size as usize + 16,
                "{class:?}"
            );
        }
    }

    /// Counted page by page, as the pool does it.
    #[test]
    fn least_pages_are_those_that_the_first_objects_touch() {
        for (class, objects) in CLASSES
            .iter()
            .flat_map(|c| [1, 2, 7, c.objects].map(|n| (c, n)))
        {
            let mut pages = std::collections::BTreeSet::new();
            let mut touch = |at: u32, len: u32| pages.extend(at / 4096..=(at + len - 1) / 4096);
            touch(0, class.owners);
            touch(class.owners, objects * 4);
            (0..objects).for_each(|n| touch(class.first + n * class.size, class.size));
            let least = pages.len() as u64;
            assert_eq!(
                class.least_pages(objects.into()),
                least,
                "{class:?} {objects}"
            );
            let all = class.pages_of_first(class.objects);
            let more = 3 * u64::from(class.objects) + u64::from(objects % class.objects);
            let rest = if objects == class.objects { 0 } else { least };
            assert_eq!(class.least_pages(more), 3 * all + rest);
        }
        assert_eq!(CLASSES[0].least_pages(0), 0);
    }

    #[test]
    fn rounding_costs_at_most_one_percent_of_a_typical_object() {
        for len in 1000..=MAX_OBJECT {
            assert!(
                (class_size(len) - len) * 100 <= len + 99,
                "{len}: {}",
                class_size(len)
            );
        }
    }
}
