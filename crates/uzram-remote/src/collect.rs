//! Collection: removes what no tag and no lease needs.
//!
//! It marks first, while others go on: what each manifest needs that a tag or a lease names. Then it takes the lease of who
//! sweeps, marks again what has come since, and removes the rest, if that is older than the grace period by the store's clock. A
//! manifest that cannot be read stops it, since nobody knows what that needs; so does a tag or a lease that cannot be read.
//!
//! **Memory bound**: 32 bytes for each part in the store, and a manifest.

use std::collections::HashSet;
use std::time::Duration;

use uzram_snapshot::{Digest, Kind};

use crate::backing;
use crate::error::{Error, Result};
use crate::lease::{self, Lease, seconds_left, store_now};
use crate::objects::{SWEEP, name_in, prefix_of};
use crate::remote::Remote;
use crate::store::Meta;
use crate::trace;
use crate::upload::{LOOKERS, for_all};

/// How old something must be to be removed, if nothing else is said: longer than any upload takes.
pub const GRACE_SECONDS: u64 = 24 * 3600;
/// Removals between two looks at the lease.
const BATCH: usize = 256;

/// A collection.
#[derive(Debug, Clone)]
pub struct Collecting {
    /// How old something must be to be removed.
    pub grace: Duration,
    /// Whether nothing is removed, only counted.
    pub dry_run: bool,
}

impl Default for Collecting {
    fn default() -> Collecting {
        Collecting {
            grace: Duration::from_secs(GRACE_SECONDS),
            dry_run: false,
        }
    }
}

/// What a collection found, and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Snapshots that tags name.
    pub tagged: usize,
    /// Others that leases name.
    pub leased: usize,
    /// Parts that are needed.
    pub kept: usize,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Parts that nothing needs and that are not old enough.
    pub young: usize,
    /// Their bytes.
    pub young_bytes: u64,
    /// Parts that were removed, or would be.
    pub removed: usize,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Leases that had expired.
    pub expired_leases: usize,
    /// Backings that leases name.
    pub backings: usize,
}

impl Collected {
    /// Counts an object, and says whether it is to be removed.
    pub(crate) fn is_garbage(
        &mut self,
        bytes: u64,
        is_needed: bool,
        is_old: impl FnOnce() -> bool,
    ) -> bool {
        let is_garbage = !is_needed && is_old();
        let (count, all_bytes) = match (is_needed, is_garbage) {
            (true, _) => (&mut self.kept, &mut self.kept_bytes),
            (false, false) => (&mut self.young, &mut self.young_bytes),
            (false, true) => (&mut self.removed, &mut self.removed_bytes),
        };
        *count += 1;
        *all_bytes += bytes;
        is_garbage
    }
}

/// What is needed.
#[derive(Default)]
struct Marked {
    manifests: HashSet<Digest>,
    backings: HashSet<String>,
    parts: HashSet<(Kind, Digest)>,
    tagged: usize,
    leased: usize,
}

impl Collecting {
    /// Collects.
    pub fn run(&self, remote: &Remote) -> Result<Collected> {
        remote.to_write()?;
        let mut marked = Marked::default();
        let mut dead = Vec::new();
        // Most is read before anybody has to wait for it.
        mark(remote, &mut marked, store_now(&remote.store)?, &mut dead)?;
        let sweep = Lease::take_sweep(&remote.store)?;
        let now = store_now(&remote.store)?;
        dead.clear();
        mark(remote, &mut marked, now, &mut dead)?;
        let mut collected = Collected {
            tagged: marked.tagged,
            leased: marked.leased,
            expired_leases: dead.len(),
            backings: marked.backings.len(),
            ..Collected::default()
        };
        let is_old = |meta: &Meta| {
            let age_ms = now.saturating_sub(meta.modified_ms);
            meta.modified_ms <= now && Duration::from_millis(age_ms) >= self.grace
        };
        let mut traces = remote.store.list(trace::PREFIX)?;
        traces.retain(|meta| {
            let of = trace::manifest_in(&meta.key);
            let is_needed = of.is_some_and(|name| marked.manifests.contains(&name));
            !is_needed && is_old(meta)
        });
        if !self.dry_run {
            remove(remote, &traces, &sweep)?;
        }
        // Segments last: what names them goes before them.
        for kind in [Kind::Manifest, Kind::Index, Kind::Dictionary, Kind::Segment] {
            let mut garbage = Vec::new();
            for meta in remote.store.list(prefix_of(kind))? {
                let name = name_in(&meta.key);
                let is_needed = name.is_some_and(|name| marked.parts.contains(&(kind, name)));
                if collected.is_garbage(meta.bytes, is_needed, || is_old(&meta)) {
                    garbage.push(meta);
                }
            }
            if !self.dry_run {
                remove(remote, &garbage, &sweep)?;
            }
        }
        let cold = backing::garbage(remote, &marked.backings, is_old, &mut collected)?;
        if !self.dry_run {
            remove(remote, &cold, &sweep)?;
            remove(remote, &dead, &sweep)?;
        }
        Ok(collected)
    }
}

/// Removes these, as long as the lease holds.
fn remove(remote: &Remote, garbage: &[Meta], sweep: &Lease) -> Result<()> {
    for batch in garbage.chunks(BATCH) {
        for_all(batch, LOOKERS, |meta| {
            // Not only once a batch: each call may have been tried for long.
            sweep.check()?;
            Ok(remote.store.delete(&meta.key)?)
        })?;
    }
    Ok(())
}

/// Marks what is needed by the tags and the leases that there are now.
fn mark(remote: &Remote, marked: &mut Marked, now: u64, dead: &mut Vec<Meta>) -> Result<()> {
    let mut named: Vec<(Digest, String)> = Vec::new();
    // Leases first. Whoever gives one back has written its tag before.
    let mut leased = Vec::new();
    for meta in remote.store.list("lease/")? {
        if meta.key == SWEEP {
            continue;
        }
        let is_ours = |prefix: &str| meta.key.starts_with(prefix);
        if is_ours("lease/probe-") || is_ours("lease/clock-") {
            // What an interrupted probe left.
            if now.saturating_sub(meta.modified_ms) > lease::LEASE_SECONDS * 1000 {
                dead.push(meta);
            }
            continue;
        }
        let Some((body, found)) = lease::read(&remote.store, &meta.key)? else {
            continue;
        };
        if seconds_left(&body, &found, now) == 0 {
            dead.push(found);
            continue;
        }
        marked.backings.extend(body.backings);
        for name in &body.manifests {
            let name: Digest = name.parse().map_err(|_| Error::Foreign {
                what: meta.key.clone(),
                kind: "lease",
                why: format!("{name} is no name of a manifest"),
            })?;
            leased.push((name, format!("the lease of {}", body.by)));
        }
    }
    let (tags, wrong) = remote.tags()?;
    if let Some(error) = wrong.into_iter().next() {
        return Err(error);
    }
    marked.tagged = tags.len();
    for tag in tags {
        named.push((tag.body.name()?, format!("{}/{}", remote.name, tag.tag)));
    }
    let is_tagged = |name: &Digest| named.iter().any(|(other, _)| other == name);
    leased.retain(|(name, _)| !is_tagged(name));
    marked.leased = leased.len();
    named.extend(leased);
    for (name, of) in named {
        if !marked.manifests.insert(name) {
            continue;
        }
        let manifest = remote.manifest(name);
        let manifest = manifest.map_err(|error| Error::Unreadable {
            name,
            of,
            why: error.to_string(),
        })?;
        marked.parts.insert((Kind::Manifest, name));
        let parts = manifest.parts();
        marked
            .parts
            .extend(parts.iter().map(|part| (part.kind, part.name)));
    }
    Ok(())
}
