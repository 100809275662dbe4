//! Whether a store honours conditions of writes: by a race, since some ignore them without a word.

use crate::error::Result;
use crate::id;
use crate::store::{Store, StoreError, StoreErrorKind, Version, When};

/// Who take part in a race.
const RACERS: u8 = 8;
/// Races of each kind.
const ROUNDS: usize = 3;

/// Whether of several writers who demand the same condition one wins, and what it wrote stays.
pub(crate) fn is_conditional(store: &dyn Store) -> Result<bool> {
    for _ in 0..ROUNDS {
        let key = format!("lease/probe-{}", id::random());
        let result = races(store, &key);
        store.delete(&key)?;
        if !result? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn races(store: &dyn Store, key: &str) -> Result<bool> {
    let Some(version) = race(store, key, b'a', &When::New)? else {
        return Ok(false);
    };
    Ok(race(store, key, b'A', &When::Unchanged(version))?.is_some())
}

/// The version that a race left, if the store decided it. What is written begins with `first`: no two writes are of the same, of which a version may be made.
fn race(store: &dyn Store, key: &str, first: u8, when: &When) -> Result<Option<Version>> {
    let results: Vec<(u8, Result<Version, StoreError>)> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..RACERS)
            .map(|racer| {
                (
                    racer,
                    scope.spawn(move || store.put(key, &[first + racer], when)),
                )
            })
            .collect();
        let ended = |(racer, thread): (u8, std::thread::ScopedJoinHandle<'_, _>)| {
            let lost = || {
                Err(StoreError::new(
                    StoreErrorKind::Failed,
                    key,
                    "a thread ended",
                ))
            };
            (racer, thread.join().unwrap_or_else(|_| lost()))
        };
        racers.into_iter().map(ended).collect()
    });
    let mut winners = Vec::new();
    for (racer, result) in results {
        use StoreErrorKind::{Changed, Exists, Unsupported};
        match result {
            Ok(_) => winners.push(racer),
            Err(error) if matches!(error.kind, Exists | Changed) => {}
            Err(error) if error.kind == Unsupported => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    let (found, version) = store.get(key, 16)?;
    let is_fair = winners.len() == 1 && found == [first + winners[0]];
    Ok(is_fair.then_some(version))
}
