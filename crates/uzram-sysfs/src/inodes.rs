//! Inode numbers for what a file system shows.
//!
//! Numbers are never reused: the keys of a tree are few and recur (`block/zram0/size`), and a reused number would meet stale
//! entries in the kernel's cache.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::INodeNo;

/// Which key has which number. The first key is the root.
pub(crate) struct Inodes<K>(Mutex<Known<K>>);

struct Known<K> {
    numbers: HashMap<Arc<K>, u64>,
    /// Keys by number minus one.
    keys: Vec<Arc<K>>,
}

impl<K: Hash + Eq> Inodes<K> {
    pub(crate) fn new(root: K) -> Inodes<K> {
        let known = Known {
            numbers: HashMap::new(),
            keys: Vec::new(),
        };
        let this = Inodes(Mutex::new(known));
        this.number(root);
        this
    }

    pub(crate) fn number(&self, key: K) -> INodeNo {
        let mut known = lock(&self.0);
        if let Some(number) = known.numbers.get(&key) {
            return INodeNo(*number);
        }
        let key = Arc::new(key);
        known.keys.push(key.clone());
        let number = known.keys.len() as u64;
        known.numbers.insert(key, number);
        INodeNo(number)
    }

    pub(crate) fn key(&self, number: INodeNo) -> Option<Arc<K>> {
        let index = usize::try_from(number.0.checked_sub(1)?).ok()?;
        lock(&self.0).keys.get(index).cloned()
    }
}

/// Locks a mutex even if a holder panicked: no data here changes in two steps that depend on each other.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
