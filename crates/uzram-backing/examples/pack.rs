//! A backing in a temporary file: filled, thinned out, compacted. `cargo run -p uzram-backing --example pack`.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use uzram_backing::{
    Backing, FileDisk, FileOptions, Location, Purpose, PushError, ReadBuffer, SegmentBuffer,
    Writer, Written,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// Where each number's object is.
type Table = HashMap<u32, (Location, usize)>;

/// Appends an object, waiting for a buffer where all are in flight.
fn push(
    writer: &mut Writer,
    number: u32,
    bytes: &[u8],
    table: &mut Table,
) -> Result<(), PushError> {
    let mut publish = |written: Written| {
        if written.result.is_ok() {
            table.insert(written.owner, (written.location, written.len));
        }
    };
    loop {
        match writer.push(number, bytes) {
            Ok(_) => break,
            Err(PushError::Busy { .. }) => {
                writer.wait_one(PATIENCE, &mut publish);
            }
            Err(error) => return Err(error),
        }
    }
    writer.completed(publish);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::temp_dir().join(format!("uzram-pack-{}", std::process::id()));
    let disk = Arc::new(FileDisk::open(&path, FileOptions::default())?);
    std::fs::remove_file(&path)?;
    let backing = Backing::create(disk, 16 << 20, *b"16 random bytes.")?;
    let mut table = Table::new();

    let mut writer = backing.writer(4, Purpose::Objects)?;
    for number in 0..5000 {
        push(&mut writer, number, &[number as u8; 1000], &mut table)?;
    }
    writer.submit();
    writer.wait(PATIENCE, |written| {
        table.insert(written.owner, (written.location, written.len));
    });
    for number in (0..5000).filter(|number| number % 4 != 0) {
        if let Some((location, len)) = table.remove(&number) {
            backing.free(location, len);
        }
    }
    println!("{}: {:?}", backing.describe(), backing.stats());

    let mut mover = backing.writer(4, Purpose::Compaction)?;
    let mut buffer = SegmentBuffer::new();
    for victim in backing.victims(8) {
        let live = |number: &u32, location| table.get(number).is_some_and(|at| at.0 == location);
        let mut old = HashMap::new();
        for object in victim.objects(&mut buffer)? {
            if live(&object.owner, object.location) {
                mover.push(object.owner, object.bytes)?;
                old.insert(object.owner, (object.location, object.bytes.len()));
            }
        }
        mover.submit();
        mover.wait(PATIENCE, |written| {
            table.insert(written.owner, (written.location, written.len));
            if let Some((location, len)) = old.remove(&written.owner) {
                backing.free(location, len);
            }
        });
    }
    println!("compacted: {:?}", backing.stats());

    let mut read = ReadBuffer::new();
    for (number, (location, len)) in &table {
        let bytes = backing.read(*location, *len, *number, &mut read)?;
        assert!(bytes.iter().all(|byte| *byte == *number as u8));
    }
    println!("{} objects read back", table.len());
    Ok(())
}
