//! Allocation: which bin, which span, and whether the memory limit has room for the pages.
//!
//! Takes the fullest span of the own bin, else one of another shard's whose lock is free, else a new span. At the
//! limit it takes any object that fits into pages in use.

use std::sync::atomic::Ordering::Relaxed;

use crate::bin::Bin;
use crate::class::{CLASS_COUNT, MAX_OBJECT, class_of};
use crate::object::{Error, Object};
use crate::pool::Pool;
use crate::span::PageSet;

/// An object that is to be allocated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Want {
    pub(crate) class: usize,
    pub(crate) len: usize,
    pub(crate) owner: u32,
    /// Whether it may take memory past the limit.
    pub(crate) past_limit: bool,
}

impl Want {
    fn new(len: usize, owner: u32) -> Want {
        assert!(
            (1..=MAX_OBJECT).contains(&len),
            "an object has 1 to 4096 bytes, not {len}"
        );
        Want {
            class: class_of(len),
            len,
            owner,
            past_limit: false,
        }
    }
}

impl Pool {
    /// Stores a copy of `bytes` (1 to 4096). `shard` is any number, best the caller's CPU. `owner` is kept with the
    /// object for whoever moves it.
    ///
    /// # Panics
    /// If `bytes` is empty or longer than 4096.
    pub fn store(&self, shard: usize, bytes: &[u8], owner: u32) -> Result<Object, Error> {
        let mut object = self.alloc(shard, bytes.len(), owner)?;
        self.bytes_mut(&mut object).copy_from_slice(bytes);
        Ok(object)
    }

    /// As [`Pool::store`], but past the memory limit: for an object that replaces a larger one, which is freed next.
    ///
    /// # Panics
    /// As [`Pool::store`].
    pub fn store_past_limit(
        &self,
        shard: usize,
        bytes: &[u8],
        owner: u32,
    ) -> Result<Object, Error> {
        let mut want = Want::new(bytes.len(), owner);
        want.past_limit = true;
        let mut object = self.alloc_wanted(shard, want)?;
        self.bytes_mut(&mut object).copy_from_slice(bytes);
        Ok(object)
    }

    /// Allocates an object of `len` bytes, of any content.
    ///
    /// # Panics
    /// If `len` is 0 or over 4096.
    pub fn alloc(&self, shard: usize, len: usize, owner: u32) -> Result<Object, Error> {
        self.alloc_wanted(shard, Want::new(len, owner))
    }

    fn alloc_wanted(&self, shard: usize, want: Want) -> Result<Object, Error> {
        let own = shard % self.shards * CLASS_COUNT + want.class;
        if let Some(stock) = &self.stock {
            return self.alloc_from_stock(stock, own, want);
        }
        self.alloc_at(own, want).or_else(|error| match error {
            Error::Limit { .. } => self.alloc_in_used_pages(own, want).ok_or(error),
            _ => Err(error),
        })
    }

    fn alloc_at(&self, own: usize, want: Want) -> Result<Object, Error> {
        let mut bin = self.lock(own);
        let span = match bin.fullest() {
            Some(span) => span,
            None => {
                drop(bin);
                // Room that another shard has and does not use at this moment is better than a new span.
                if let Some(result) = self.alloc_elsewhere(own, want) {
                    return result;
                }
                bin = self.lock(own);
                match bin.draining() {
                    Some(span) => span,
                    None => {
                        drop(bin);
                        let span = self.take_span()?;
                        bin = self.lock(own);
                        self.adopt(&mut bin, own, span, want.past_limit)?;
                        span
                    }
                }
            }
        };
        self.alloc_in(&mut bin, span, want)
    }

    /// Tries the same class in the other shards' bins, as far as they are free this instant.
    fn alloc_elsewhere(&self, own: usize, want: Want) -> Option<Result<Object, Error>> {
        (1..self.shards).find_map(|distance| {
            let other = (own + distance * CLASS_COUNT) % self.bins.len();
            let mut bin = self.bins[other].try_lock().ok()?;
            let span = bin.fullest()?;
            Some(self.alloc_in(&mut bin, span, want))
        })
    }

    /// At the limit: any free object of the class that lies wholly in pages that are in use already. Looks at
    /// all spans of the class that have room.
    fn alloc_in_used_pages(&self, own: usize, want: Want) -> Option<Object> {
        (0..self.shards).find_map(|distance| {
            let mut bin = self.lock((own + distance * CLASS_COUNT) % self.bins.len());
            let (number, object) = bin.spans(self.metas()).find_map(|number| {
                Some((
                    number,
                    self.span(number, want.class).find_free_in_used_pages()?,
                ))
            })?;
            let span = self.span(number, want.class);
            Some(self.take_object(&mut bin, &span, number, object, want.len, want.owner))
        })
    }

    /// Allocates in a span of the locked bin that has room.
    fn alloc_in(&self, bin: &mut Bin, number: u32, want: Want) -> Result<Object, Error> {
        let span = self.span(number, want.class);
        let object = span.find_free();
        let mut pages = PageSet::default();
        span.add_pages_of(&mut pages, object);
        if let Err(error) = self.account(&span, pages, want.past_limit) {
            if span.meta.used.load(Relaxed) == 0 {
                self.retire(bin, number, &span, 0);
            }
            return Err(error);
        }
        Ok(self.take_object(bin, &span, number, object, want.len, want.owner))
    }
}
