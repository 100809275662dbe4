//! Reads and writes one page: same-filled test, compression, placing the object, publishing the word.
//!
//! The caller passes the stream or context, which it took once for the whole request.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use uzram_compress::Error as CodecError;
use uzram_pool::{Error as PoolError, HUGE_THRESHOLD};

use crate::codec::Contexts;
use crate::device::{Device, Zeroes};
use crate::snapshot::StreamCut;
use crate::stream::{Stream, StreamEncoder, Watch};
use crate::table::SlotGuard;
use crate::word::Content;
use crate::{Corruption, Error, PAGE_SIZE};

/// How long a write to a swap device waits for a refill of the stock, once for each time that it runs dry.
const STOCK_PATIENCE: Duration = Duration::from_millis(200);

/// Why a snapshot is given up that a write found in its way.
pub(crate) const LIMIT_MET: &str = "a write met the limit on the device's memory, and what was kept for the snapshot \
                                    was in its way. Raise the limit, or take it while less is written";

/// The 64-bit word that the whole page repeats, if it does.
fn same_filled(page: &[u8; PAGE_SIZE]) -> Option<u64> {
    let (words, _) = page.as_chunks::<8>();
    let first = words[0];
    // Most pages that are not same-filled differ at the end already.
    if words[words.len() - 1] != first {
        return None;
    }
    let (lines, _) = words.as_chunks::<8>();
    let pattern = u64::from_ne_bytes(first);
    let same = lines.iter().all(|line| {
        line.iter().fold(0, |differ, word| {
            differ | (u64::from_ne_bytes(*word) ^ pattern)
        }) == 0
    });
    same.then_some(pattern)
}

fn fill(page: &mut [u8; PAGE_SIZE], word: u64) {
    page.as_chunks_mut::<8>().0.fill(word.to_ne_bytes());
}

/// Fills in a page that its word describes in full; `false` if its contents are in an object.
fn fill_without_object(content: Content, out: &mut [u8; PAGE_SIZE]) -> bool {
    match content {
        Content::Empty => out.fill(0),
        Content::Same(word) => fill(out, word),
        _ => return false,
    }
    true
}

impl Device {
    /// Prefetches a page's object while another page is read. Only a hint: takes no lock, and the object may be gone
    /// by now.
    pub(crate) fn prefetch_read(&self, page: u64) {
        if let Some((handle, len)) = self.table.peek(page).object() {
            self.pool.prefetch(handle, len);
        }
    }

    /// Prefetches the pool metadata that freeing a page's object will touch, while another is allocated. Only a hint.
    fn prefetch_free(&self, page: u64) {
        if let Some((handle, _)) = self.table.peek(page).object() {
            self.pool.prefetch_free(handle);
        }
    }

    /// Reads a page.
    pub(crate) fn read_page(
        &self,
        page: u64,
        out: &mut [u8; PAGE_SIZE],
        contexts: &mut Contexts<'_>,
    ) -> Result<(), Error> {
        let peeked = self.table.peek(page);
        if fill_without_object(peeked, out) {
            return Ok(());
        }
        if let Some(now) = contexts.now {
            self.ages.note(page, now);
        }
        contexts.prepare(peeked);
        loop {
            let mut slot = self.table.lock(page);
            let content = slot.content();
            if contexts.suit(content) {
                if let Content::Backed(backed) = content {
                    drop(slot);
                    if self.read_backed(page, backed, out, contexts)? {
                        return Ok(());
                    }
                    continue;
                }
                if contexts.noticed {
                    slot.accessed();
                }
                return self.read_locked(page, &slot, out, contexts);
            }
            // It was rewritten with a codec that needs a context since the unlocked peek. With a reader's contexts
            // taken, every codec suits.
            drop(slot);
            contexts.prepare(content);
        }
    }

    pub(crate) fn read_locked(
        &self,
        page: u64,
        slot: &SlotGuard<'_>,
        out: &mut [u8; PAGE_SIZE],
        contexts: &mut Contexts<'_>,
    ) -> Result<(), Error> {
        let content = slot.content();
        let Some((handle, len)) = content.object() else {
            // It was discarded, or became same-filled, since the unlocked peek.
            return match fill_without_object(content, out) {
                true => Ok(()),
                false => Err(Error::Corrupt {
                    page,
                    source: Corruption::Remote,
                }),
            };
        };
        #[expect(unsafe_code, reason = "the slot's lock is the right to its object")]
        // SAFETY: the word names an object that was stored by `place`, which nobody writes any more. It is freed only by
        // who publishes another word under this slot's lock, which our caller holds; or, of those who share it, by the
        // last one who does so, and this slot has not yet.
        let bytes = unsafe { self.pool.shared_bytes(handle, len) };
        match content {
            _ if content.is_huge() => out.copy_from_slice(bytes),
            Content::SameObject { .. } => {
                fill(out, bytes.try_into().map_or(0, u64::from_ne_bytes));
            }
            _ => {
                let result = contexts.decompress(slot, bytes, out);
                return self.whole_page(page, result);
            }
        }
        Ok(())
    }

    pub(crate) fn whole_page(
        &self,
        page: u64,
        result: Result<usize, CodecError>,
    ) -> Result<(), Error> {
        let source = match result {
            Ok(PAGE_SIZE) => return Ok(()),
            Ok(len) => Corruption::Length(len),
            Err(error) => Corruption::Algorithm(error),
        };
        Err(Error::Corrupt { page, source })
    }

    /// Writes a whole page.
    pub(crate) fn write_page(
        &self,
        page: u64,
        data: &[u8; PAGE_SIZE],
        stream: &mut Stream,
        cpu: usize,
    ) -> Result<(), Error> {
        // Arrives while the page is compressed.
        self.table.prefetch(page);
        self.admit_slot(page)?;
        let word = self.place(page, data, &mut stream.encoder, cpu)?;
        match &stream.watch {
            None => {
                let old = self.table.replace(page, word);
                self.replaced(old, word, cpu);
            }
            Some(watch) => {
                self.replace_watched(watch, page, word, cpu);
            }
        }
        Ok(())
    }

    /// Writes part of a page: reads, patches and writes it, with other writers kept out in between.
    pub(crate) fn write_part(
        &self,
        page: u64,
        offset: usize,
        data: &[u8],
        stream: &mut Stream,
        contexts: &mut Contexts<'_>,
        cpu: usize,
    ) -> Result<(), Error> {
        self.admit_slot(page)?;
        let writing = self.table.lock_to_write(page).keep_writing();
        let Stream {
            encoder,
            page: whole,
            watch,
        } = stream;
        self.read_page(page, whole, contexts)?;
        whole[offset..offset + data.len()].copy_from_slice(data);
        let word = self.place(page, whole, encoder, cpu)?;
        match watch {
            None => self.replaced(writing.publish(word), word, cpu),
            Some(watch) => {
                if let Some(dirty) = &watch.dirty {
                    dirty.note(page);
                }
                match &watch.cut {
                    None => self.replaced(writing.publish(word), word, cpu),
                    Some(cut) => {
                        self.publish_after_cut(cut, page, writing.into_slot(), word, cpu);
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes a page empty, or same-filled with zeros. Returns what it held, and the bytes of its object that came free.
    pub(crate) fn clear_page(
        &self,
        page: u64,
        how: Zeroes,
        stream: &Stream,
        cpu: usize,
    ) -> (Content, u64) {
        let word = match how {
            // A partial write in flight publishes after this, as if it had come later.
            Zeroes::Deallocate if self.table.peek(page) == Content::Empty => {
                return (Content::Empty, 0);
            }
            Zeroes::Deallocate => 0,
            Zeroes::Allocate => Content::Same(0).encode().unwrap_or_default(),
        };
        let (old, kept) = match &stream.watch {
            None => {
                let old = self.table.replace(page, word);
                self.replaced(old, word, cpu);
                (old, false)
            }
            Some(watch) => self.replace_watched(watch, page, word, cpu),
        };
        let object = old.object().filter(|_| !kept);
        (old, object.map_or(0, |(_, len)| len as u64))
    }

    /// Publishes new contents of a page as [`SlotTable::replace`](crate::table::SlotTable::replace) does, with what snapshots
    /// want. Returns what was there, and whether it is kept.
    #[inline(never)]
    fn replace_watched(&self, watch: &Watch, page: u64, word: u64, cpu: usize) -> (Content, bool) {
        // Before the word: see `snapshot/dirty.rs`.
        if let Some(dirty) = &watch.dirty {
            dirty.note(page);
        }
        match &watch.cut {
            None => {
                let old = self.table.replace(page, word);
                self.replaced(old, word, cpu);
                (old, false)
            }
            Some(cut) => {
                self.publish_after_cut(cut, page, self.table.lock_to_write(page), word, cpu)
            }
        }
    }

    /// Publishes new contents of a page, and keeps the old ones for the snapshot that is being taken, if it has not got
    /// them. Returns what they were, and whether they are kept.
    #[cold]
    fn publish_after_cut(
        &self,
        cut: &StreamCut,
        page: u64,
        slot: SlotGuard<'_>,
        word: u64,
        cpu: usize,
    ) -> (Content, bool) {
        let kept = cut.keep(page, &slot);
        let old = slot.publish(word);
        match kept {
            None => self.free(old),
            Some(0) => {}
            Some(grown) => self.cut_books_grew(grown),
        }
        let kept = kept.is_some();
        let new = Content::decode(word);
        self.counters.shard(cpu).replaced(old, new);
        (old, kept)
    }

    /// Compresses a page and stores its object. Returns the word to publish, which from now on stands for the
    /// right to the object.
    fn place(
        &self,
        page: u64,
        data: &[u8; PAGE_SIZE],
        encoder: &mut StreamEncoder,
        cpu: usize,
    ) -> Result<u64, Error> {
        let content = match same_filled(data) {
            Some(pattern) if Content::Same(pattern).encode().is_some() => Content::Same(pattern),
            Some(pattern) => Content::SameObject {
                handle: self.store(page, &pattern.to_ne_bytes(), cpu)?,
            },
            // An object that does not fit two pages is as incompressible as one that does not fit one.
            None => {
                let compressed = encoder.tfm.compress(data, &mut encoder.object[..]);
                self.prefetch_free(page);
                match compressed {
                    Ok(len) if len < HUGE_THRESHOLD => {
                        encoder.tally.add(len);
                        self.place_object(page, encoder.codec, &encoder.object[..len], cpu)?
                    }
                    _ => {
                        encoder.tally.add(PAGE_SIZE);
                        self.place_object(page, 0, data, cpu)?
                    }
                }
            }
        };
        Ok(content
            .encode()
            .expect("only a same-filled word may lack room, and that was asked"))
    }

    /// Stores an object and returns its handle; at the memory limit once more after giving back what was freed.
    /// The second try is unconditional: another writer may have trimmed meanwhile.
    pub(crate) fn store(&self, page: u64, bytes: &[u8], cpu: usize) -> Result<u64, Error> {
        // A device has at most 2^32 pages.
        let owner = page as u32;
        let result = self.pool.store(cpu, bytes, owner).or_else(|error| {
            // A request to a swap device makes no system call; it waits for a moment if that may help.
            if !self.pool.has_stock() {
                self.pool.trim();
                let again = self.pool.store(cpu, bytes, owner);
                if again.is_ok() || !self.give_up_cut(LIMIT_MET) {
                    return again;
                }
                self.pool.trim();
                return self.pool.store(cpu, bytes, owner);
            }
            let mut error = error;
            while self.pool.wait_for_stock(STOCK_PATIENCE) {
                match self.pool.store(cpu, bytes, owner) {
                    Err(again) => error = again,
                    object => return object,
                }
            }
            Err(error)
        });
        result
            .map(|object| object.handle())
            .map_err(|error| match error {
                PoolError::Limit {
                    limit_bytes,
                    used_bytes,
                } => Error::NoSpace {
                    page,
                    used_bytes,
                    limit_bytes,
                },
                PoolError::OutOfStock { used_bytes } => Error::NoSpace {
                    page,
                    used_bytes,
                    limit_bytes: self.pool.limit_bytes(),
                },
                _ => Error::ArenaFull { page },
            })
    }

    /// Frees the old object and counts the change, after a word was replaced. In this order: once the counter shows
    /// no page on the backing, nobody frees anything there any more.
    fn replaced(&self, old: Content, new: u64, cpu: usize) {
        self.free(old);
        self.counters.shard(cpu).replaced(old, Content::decode(new));
    }

    /// Frees what a word named that was replaced.
    pub(crate) fn free(&self, old: Content) {
        if let Content::Backed(backed) = old {
            self.free_backed(backed);
        }
        if let Content::Shared { .. } = old {
            self.part(old);
        } else if let Some((handle, len)) = old.object() {
            #[expect(unsafe_code, reason = "whoever replaced the word owns what it named")]
            // SAFETY: `publish` returned this content to us alone, and no word names the object any more.
            let object = unsafe { self.pool.object(handle, len) };
            self.pool.free(object);
        }
    }

    /// Copies a locked slot's object. Returns its length; `None` if it has none in the pool.
    pub(crate) fn copy_locked(&self, slot: &SlotGuard<'_>, out: &mut [u8]) -> Option<usize> {
        let (handle, len) = slot.content().object()?;
        #[expect(unsafe_code, reason = "the slot's lock is the right to its object")]
        // SAFETY: as in `read_locked`.
        out[..len].copy_from_slice(unsafe { self.pool.shared_bytes(handle, len) });
        Some(len)
    }

    /// Copies the object of a word that was replaced and kept, and frees it. Returns its length.
    pub(crate) fn copy_and_free(&self, kept: Content, out: &mut [u8]) -> Option<usize> {
        let (handle, len) = kept.object()?;
        #[expect(
            unsafe_code,
            reason = "whoever took out a kept word owns what it names"
        )]
        // SAFETY: `CutState::take_kept` gave this content to the caller alone. It was put there instead of being freed, so
        // its object, or the reference to a shared one, is there until `free` below. Nobody writes it: no word names it.
        out[..len].copy_from_slice(unsafe { self.pool.shared_bytes(handle, len) });
        self.free(kept);
        Some(len)
    }

    /// Starts post-processing (`SlotTable::begin_post`) of a slot whose content `suits` and is not shared, and copies
    /// its object. Returns the object's length; `None` if there is nothing to do.
    pub(crate) fn copy_object(
        &self,
        page: u64,
        bytes: &mut [u8; PAGE_SIZE],
        suits: impl Fn(Content, u64) -> bool,
    ) -> Option<usize> {
        let sole = |content, flags| suits(content, flags) && self.is_sole(content);
        let slot = self.table.begin_post(page, sole)?;
        self.copy_locked(&slot, bytes)
    }

    /// Publishes another form of a slot's content and ends post-processing (`SlotTable::begin_post`). Returns `false`
    /// if the page was written meanwhile: then `new` is still the caller's.
    pub(crate) fn keep_instead(&self, page: u64, new: Content, cpu: usize) -> bool {
        let (Some(word), Some(slot)) = (new.encode(), self.table.lock_post(page)) else {
            self.table.end_post(page, 0);
            return false;
        };
        let old = slot.publish(word);
        self.counters.shard(cpu).moved(old, new);
        self.free(old);
        true
    }

    pub(crate) fn count_failed_read(&self, cpu: usize) {
        self.counters.shard(cpu).failed_reads.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_failed_write(&self, cpu: usize) {
        self.counters.shard(cpu).failed_writes.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_filled_pages_are_found_and_no_others() {
        let mut page = [0u8; PAGE_SIZE];
        assert_eq!(same_filled(&page), Some(0));
        fill(&mut page, 0x0102_0304_0506_0708);
        assert_eq!(same_filled(&page), Some(0x0102_0304_0506_0708));
        for byte in [0, 7, 8, 63, 64, 2048, 4088, 4095] {
            page[byte] ^= 1;
            assert_eq!(same_filled(&page), None, "byte {byte}");
            page[byte] ^= 1;
        }
    }
}
