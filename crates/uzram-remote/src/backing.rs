//! Backings: where devices keep what they wrote back, each under a prefix of its own.
//!
//! | key | what |
//! | --- | --- |
//! | `cold/PREFIX/owner.json` | which device has the prefix, and where that runs |
//! | `cold/PREFIX/ID/NUMBER` | its objects; the id is random, of 32 hexadecimal digits, the number of 16 |
//! | `lease/cold-ID` | that the device needs them |
//!
//! What is in a device's objects is nowhere else. So its lease holds for a week, and a collection removes nothing of a backing
//! that a lease names, however old. An owner is told of others who want its prefix; that they get it all the same, where it
//! seems to be dead, does no harm: ids keep their objects apart, and the lease of the first one stays.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use uzram_backing::SegmentStore;

use crate::collect::Collected;
use crate::error::{Error, Result};
use crate::id;
use crate::lease::{self, Lease, seconds_left, store_now};
use crate::objects::{self, MARKER, MAX_JSON_BYTES, VERSION, is_tag};
use crate::remote::Remote;
use crate::store::{Meta, Store, StoreError, StoreErrorKind, Version, When};
use crate::upload::{LOOKERS, for_all};

/// What the keys of backings begin with.
pub(crate) const COLD: &str = "cold/";
const OWNER: &str = "owner.json";
/// How often a prefix is claimed while others do so, too.
const TRIES: usize = 8;
/// The pause after a deletion that failed.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a device's backing is deleted, at a time.
const RETIRE: Duration = Duration::from_secs(5);

/// Who wants to use a backing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackingUser {
    /// Which backing it is: random.
    pub id: [u8; 16],
    /// The device, for people.
    pub device: String,
    /// The device's identity.
    pub identity: String,
    /// The file that says which device of that name there is on its host: it has the identity in it.
    pub description: String,
}

/// Which device has a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackingOwner {
    uzram: String,
    version: u64,
    /// Which backing it is.
    pub id: String,
    /// The device.
    pub device: String,
    /// Its identity.
    pub identity: String,
    /// The file on its host that has it.
    pub description: String,
    /// Its host.
    pub host: String,
    /// Which start of that host.
    pub boot: String,
}

fn hex(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Which start of this machine it is.
fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim().into()
}

fn host() -> String {
    let holder = id::holder();
    holder.split_once(':').map_or("", |(host, _)| host).into()
}

impl BackingOwner {
    fn new(user: &BackingUser) -> BackingOwner {
        BackingOwner {
            uzram: "backing".into(),
            version: VERSION,
            id: hex(&user.id),
            device: user.device.clone(),
            identity: user.identity.clone(),
            description: user.description.clone(),
            host: host(),
            boot: boot(),
        }
    }

    /// Whether its memory is gone for sure, since its machine was started anew.
    fn is_of_former_boot(&self) -> bool {
        self.host == host() && !self.boot.is_empty() && self.boot != boot()
    }

    /// Whether it is gone, as far as can be seen from this machine.
    fn seems_gone(&self) -> bool {
        if self.is_of_former_boot() {
            return true;
        }
        if self.host != host() || self.description.is_empty() {
            return false;
        }
        let there = std::fs::read_to_string(&self.description).unwrap_or_default();
        !there.contains(&self.identity)
    }

    /// Which device it is, in words.
    pub fn words(&self) -> String {
        format!("{} on {}", self.device, self.host)
    }
}

fn lease_key(id: &str) -> String {
    format!("lease/cold-{id}")
}

/// What a lease calls a backing.
fn leased_name(prefix: &str, id: &str) -> String {
    format!("{prefix}/{id}")
}

/// The parts of the key of an object: prefix, id, number.
fn parse_key(key: &str) -> Option<(&str, &str, u64)> {
    let (prefix, rest) = key.strip_prefix(COLD)?.split_once('/')?;
    let (id, number) = rest.split_once('/')?;
    let is_hex = |text: &str, len| {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        text.len() == len && text.bytes().all(is_digit)
    };
    let is_object = is_hex(id, 32) && is_hex(number, 16);
    let number = u64::from_str_radix(number, 16).ok()?;
    is_object.then_some((prefix, id, number))
}

/// A device's place in a remote.
pub struct RemoteBacking {
    remote: Remote,
    prefix: String,
    id: String,
    lease: Mutex<Option<Lease>>,
}

impl std::fmt::Debug for RemoteBacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("RemoteBacking");
        out.field("prefix", &self.prefix).field("id", &self.id);
        out.finish_non_exhaustive()
    }
}

/// A backing that is in a remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundBacking {
    /// Its prefix.
    pub prefix: String,
    /// Who has it, where that is known.
    pub owner: Option<BackingOwner>,
    /// Objects, those of former owners included.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// For how many seconds a lease keeps them; 0 if none does.
    pub leased_seconds: u64,
}

impl Remote {
    /// Takes a prefix for a device, or goes on with one (`is_new` false) that the device has. Takes the lease that keeps it.
    ///
    /// [`Error::BackingInUse`] where another device has the prefix, [`Error::BackingTag`] where a tag has that name.
    pub fn open_backing(
        &self,
        prefix: &str,
        user: &BackingUser,
        is_new: bool,
    ) -> Result<RemoteBacking> {
        self.to_write()?;
        if !is_tag(prefix) || prefix.contains('~') {
            return Err(Error::Usage(format!(
                "{prefix} is no prefix of a backing: it takes letters, digits and . _ + -, at most 128, and begins with a letter \
                 or a digit"
            )));
        }
        if is_new && self.find_tag(prefix)?.is_some() {
            return Err(Error::BackingTag {
                remote: self.name.clone(),
                prefix: prefix.into(),
            });
        }
        let owner = BackingOwner::new(user);
        let why = format!("backing {prefix} of {}", owner.device);
        let key = lease_key(&owner.id);
        let name = leased_name(prefix, &owner.id);
        // First: who collects sees it, or it sees who collects.
        let id = owner.id.clone();
        let lease = Lease::take_backing(&self.store, key, id, &why, name, is_new)?;
        if is_new {
            self.claim(prefix, &owner)?;
        }
        Ok(RemoteBacking {
            remote: self.clone(),
            prefix: prefix.into(),
            id: owner.id,
            lease: Mutex::new(Some(lease)),
        })
    }

    fn claim(&self, prefix: &str, owner: &BackingOwner) -> Result<()> {
        let key = format!("{COLD}{prefix}/{OWNER}");
        for _ in 0..TRIES {
            let when = match self.owner(prefix)? {
                None => When::New,
                Some((found, _)) if found.id == owner.id => return Ok(()),
                Some((found, version)) => {
                    if !found.seems_gone() && self.leased_seconds(&found.id)? > 0 {
                        return Err(Error::BackingInUse {
                            remote: self.name.clone(),
                            prefix: prefix.into(),
                            by: found.words(),
                        });
                    }
                    if found.is_of_former_boot() {
                        // Nobody knows any more what its objects are. The next collection removes them.
                        self.store.delete(&lease_key(&found.id))?;
                    }
                    When::Unchanged(version)
                }
            };
            let when = match self.config.conditional {
                true => when,
                false => When::Always,
            };
            match self.store.put(&key, &objects::to_json(owner), &when) {
                // Who it is now is read above.
                Err(error) if error.kind.is_settled_by_a_look() => {}
                written => return Ok(written.map(drop)?),
            }
        }
        Err(Error::BackingInUse {
            remote: self.name.clone(),
            prefix: prefix.into(),
            by: "several at once".into(),
        })
    }

    fn owner(&self, prefix: &str) -> Result<Option<(BackingOwner, Version)>> {
        let key = format!("{COLD}{prefix}/{OWNER}");
        match self.store.get(&key, MAX_JSON_BYTES) {
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
            found => {
                let (bytes, version) = found?;
                Ok(Some((objects::parse(&key, "backing", &bytes)?, version)))
            }
        }
    }

    /// Who has a prefix.
    pub fn backing_owner(&self, prefix: &str) -> Result<Option<BackingOwner>> {
        Ok(self.owner(prefix)?.map(|(owner, _)| owner))
    }

    fn leased_seconds(&self, id: &str) -> Result<u64> {
        Ok(match lease::read(&self.store, &lease_key(id))? {
            None => 0,
            Some((body, meta)) => seconds_left(&body, &meta, store_now(&self.store)?),
        })
    }

    /// The backings that are there.
    pub fn backings(&self) -> Result<Vec<FoundBacking>> {
        let mut found: Vec<FoundBacking> = Vec::new();
        let mut all = self.store.list(COLD)?;
        all.sort_by(|a, b| a.key.cmp(&b.key));
        for meta in all {
            let rest = meta.key.strip_prefix(COLD).unwrap_or_default();
            let Some((prefix, _)) = rest.split_once('/') else {
                continue;
            };
            if found.last().is_none_or(|last| last.prefix != prefix) {
                let owner = self.backing_owner(prefix)?;
                let id = owner.as_ref().map(|owner| owner.id.as_str());
                let leased_seconds = id.map_or(Ok(0), |id| self.leased_seconds(id))?;
                found.push(FoundBacking {
                    prefix: prefix.into(),
                    owner,
                    objects: 0,
                    bytes: 0,
                    leased_seconds,
                });
            }
            if let (Some(last), Some(_)) = (found.last_mut(), parse_key(&meta.key)) {
                last.objects += 1;
                last.bytes += meta.bytes;
            }
        }
        Ok(found)
    }

    /// Removes all of a prefix. What a lease names only if it is forced: a device that lives loses what it wrote back then.
    /// Returns the number of objects.
    pub fn remove_backing(&self, prefix: &str, force: bool) -> Result<u64> {
        self.to_write()?;
        let all = self.store.list(&format!("{COLD}{prefix}/"))?;
        let mut ids: Vec<String> = Vec::new();
        ids.extend(
            all.iter()
                .filter_map(|meta| Some(parse_key(&meta.key)?.1.to_owned())),
        );
        let owner = self.owner(prefix)?;
        ids.extend(owner.as_ref().map(|(owner, _)| owner.id.clone()));
        ids.sort();
        ids.dedup();
        for id in ids.iter().filter(|_| !force) {
            if self.leased_seconds(id)? > 0 {
                let of = owner.as_ref().filter(|(owner, _)| owner.id == *id);
                let by = of.map_or_else(|| "a device".into(), |(owner, _)| owner.words());
                return Err(Error::BackingInUse {
                    remote: self.name.clone(),
                    prefix: prefix.into(),
                    by,
                });
            }
        }
        for_all(&all, LOOKERS, |meta| Ok(self.store.delete(&meta.key)?))?;
        for id in ids {
            self.store.delete(&lease_key(&id))?;
        }
        Ok(all
            .iter()
            .filter(|meta| parse_key(&meta.key).is_some())
            .count() as u64)
    }
}

impl RemoteBacking {
    fn key(&self, number: u64) -> String {
        format!("{COLD}{}/{}/{number:016x}", self.prefix, self.id)
    }

    fn store(&self) -> &Arc<dyn Store> {
        &self.remote.store
    }

    /// Fails where a directory is not the remote any more: what is written to a place where nothing is mounted is gone when
    /// something is, and what is deleted there stays.
    fn check_there(&self) -> Result<(), StoreError> {
        if !self.store().is_near() {
            return Ok(());
        }
        let marker = self.store().head(MARKER).map(drop);
        marker.map_err(|error| match error.kind {
            StoreErrorKind::NotFound => {
                let why = format!("{} is not there", self.remote.config.url);
                StoreError::new(StoreErrorKind::NoBucket, &error.key, why)
            }
            _ => error,
        })
    }

    /// Writes an object. An error where the store did not say that it has it.
    pub fn put(&self, number: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.check_there()?;
        // Nobody else ever writes that key.
        let put = self.store().put(&self.key(number), bytes, &When::Always);
        put.map(drop)
    }

    /// Reads a piece of an object. `Ok(None)`: the object is shorter than that.
    pub fn get(&self, number: u64, range: Range<u64>) -> Result<Option<Vec<u8>>, StoreError> {
        let key = self.key(number);
        let error = match self.store().get_range(&key, range.clone()) {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(error) => error,
        };
        self.check_there()?;
        // Stores have different words for that.
        match self.store().head(&key) {
            Ok(meta) if meta.bytes < range.end => Ok(None),
            _ => Err(error),
        }
    }

    /// Deletes an object.
    pub fn delete(&self, number: u64) -> Result<(), StoreError> {
        self.check_there()?;
        self.store().delete(&self.key(number))
    }

    /// The numbers of the objects that are there.
    pub fn list(&self) -> Result<Vec<u64>, StoreError> {
        let all = self.objects()?;
        let numbers = all.iter().filter_map(|meta| parse_key(&meta.key));
        Ok(numbers.map(|(_, _, number)| number).collect())
    }

    fn objects(&self) -> Result<Vec<Meta>, StoreError> {
        self.check_there()?;
        self.store()
            .list(&format!("{COLD}{}/{}/", self.prefix, self.id))
    }

    /// Deletes everything, and gives prefix and lease back: tries until `patience` is over. What stays a collection removes,
    /// once the lease has expired.
    pub fn retire(&self, patience: Duration) -> Result<()> {
        let begin = Instant::now();
        loop {
            match self.delete_all() {
                Err(_) if begin.elapsed() < patience => std::thread::sleep(PAUSE),
                done => return done,
            }
        }
    }

    fn delete_all(&self) -> Result<()> {
        for_all(&self.objects()?, LOOKERS, |meta| {
            Ok(self.store().delete(&meta.key)?)
        })?;
        if let Some((owner, _)) = self.remote.owner(&self.prefix)?
            && owner.id == self.id
        {
            let key = format!("{COLD}{}/{OWNER}", self.prefix);
            self.store().delete(&key)?;
        }
        // Nothing renews it from here on.
        drop(self.take_lease());
        Ok(self.store().delete(&lease_key(&self.id))?)
    }

    fn take_lease(&self) -> Option<Lease> {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        lease.take()
    }

    /// Leaves the lease to expire, for whoever goes on with the backing.
    pub fn leave(&self) {
        if let Some(lease) = self.take_lease() {
            lease.leave();
        }
    }
}

/// The place as the disk of a device sees it.
impl SegmentStore for RemoteBacking {
    fn put(&self, number: u64, bytes: &[u8]) -> io::Result<()> {
        Ok(RemoteBacking::put(self, number, bytes)?)
    }

    fn get(&self, number: u64, range: Range<u64>) -> io::Result<Vec<u8>> {
        let found = RemoteBacking::get(self, number, range)?;
        found.ok_or_else(|| {
            let what = format!("object {number} is shorter than it was written");
            io::Error::new(io::ErrorKind::UnexpectedEof, what)
        })
    }

    fn delete(&self, number: u64) -> io::Result<()> {
        Ok(RemoteBacking::delete(self, number)?)
    }

    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(RemoteBacking::list(self)?)
    }

    fn retire(&self) -> Option<String> {
        let retired = RemoteBacking::retire(self, RETIRE);
        retired.err().map(|error| error.to_string())
    }

    fn describe(&self) -> String {
        "a remote".into()
    }
}

/// What of the backings nobody needs and is old enough; counts all of them. `leased` has the names that leases say.
pub(crate) fn garbage(
    remote: &Remote,
    leased: &std::collections::HashSet<String>,
    is_old: impl Fn(&Meta) -> bool,
    collected: &mut Collected,
) -> Result<Vec<Meta>> {
    let mut garbage = Vec::new();
    for meta in remote.store.list(COLD)? {
        let rest = meta.key.strip_prefix(COLD).unwrap_or_default();
        let is_needed = match (parse_key(&meta.key), rest.split_once('/')) {
            (Some((prefix, id, _)), _) => leased.contains(&leased_name(prefix, id)),
            (None, Some((prefix, OWNER))) => match remote.owner(prefix)? {
                Some((owner, _)) => leased.contains(&leased_name(prefix, &owner.id)),
                None => continue,
            },
            // Nobody knows what it is.
            _ => true,
        };
        if collected.is_garbage(meta.bytes, is_needed, || is_old(&meta)) {
            garbage.push(meta);
        }
    }
    Ok(garbage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back_and_others_are_nobodys() {
        let id = hex(&[0xA5; 16]);
        let key = format!("cold/host-7/{id}/00000000000000ff");
        assert_eq!(parse_key(&key), Some(("host-7", &*id, 255)));
        for wrong in [
            "cold/host-7/owner.json",
            "cold/host-7/a5/00000000000000ff",
            &format!("cold/host-7/{id}/ff"),
            &format!("cold/host-7/{id}/00000000000000FF"),
            &format!("seg/host-7/{id}/00000000000000ff"),
        ] {
            assert_eq!(parse_key(wrong), None, "{wrong}");
        }
    }
}
