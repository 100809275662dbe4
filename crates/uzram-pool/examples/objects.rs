//! Objects in a pool: stored, freed at random, moved together. `cargo run -p uzram-pool --example objects`.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use uzram_pool::{Destination, Mover, Object, Pool, Region, SPAN_BYTES};

/// The owners' table: the object of each number.
struct Table<'a> {
    pool: &'a Pool,
    objects: Mutex<HashMap<u32, Object>>,
}

impl Mover for Table<'_> {
    fn relocate(&self, owner: u32, from: u64, to: Destination) -> Result<Object, Destination> {
        let mut objects = self.objects.lock().expect("nobody panics under the lock");
        match objects.remove(&owner) {
            Some(old) if old.handle() == from => match to.into_object(old.len()) {
                Ok(mut copy) => {
                    let bytes = self.pool.bytes(&old);
                    self.pool.bytes_mut(&mut copy).copy_from_slice(bytes);
                    objects.insert(owner, copy);
                    Ok(old)
                }
                Err(to) => {
                    objects.insert(owner, old);
                    Err(to)
                }
            },
            Some(other) => {
                objects.insert(owner, other);
                Err(to)
            }
            None => Err(to),
        }
    }
}

fn main() -> io::Result<()> {
    let len = 1024 * SPAN_BYTES as u64;
    let region = Arc::new(Region::memfd("objects", len)?);
    let pool = Pool::new(region, 0, len, 1)?;
    let table = Table {
        pool: &pool,
        objects: Mutex::default(),
    };
    for number in 0..20_000 {
        let bytes = vec![number as u8; 500 + number as usize * 7 % 1500];
        let object = pool.store(0, &bytes, number).map_err(io::Error::other)?;
        let mut objects = table.objects.lock().expect("nobody panics under the lock");
        objects.insert(number, object);
    }
    let mut objects = table.objects.lock().expect("nobody panics under the lock");
    for number in (0..20_000).filter(|number| number % 3 != 0) {
        if let Some(object) = objects.remove(&number) {
            pool.free(object);
        }
    }
    drop(objects);
    pool.trim();
    let before = pool.used_bytes();
    let done = pool.compact(u64::MAX, &table);
    println!(
        "two thirds freed: {before} bytes in use; {} objects moved: {} bytes in use",
        done.objects,
        pool.used_bytes()
    );
    Ok(())
}
