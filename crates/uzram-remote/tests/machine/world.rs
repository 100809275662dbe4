//! Hosts with a bucket, and what must hold of them.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use uzram::SnapshotId;
use uzram_remote::{Checking, Collecting, Remote, RemoteConfig};
use uzram_snapshot::Digest;

use crate::clone::CloneOf;
use crate::cold::Cold;
use crate::host::{Host, NewDevice, text};
use crate::op::{Maker, choice};
use crate::random::Random;
use crate::seeds::{Totals, Wrong};
use crate::store::{Bucket, Client, Moods};
use crate::subject::{self, PAGE, Report};

/// Devices at a time.
const HOSTS: usize = 3;
/// Tags, and prefixes of backings. One name is both.
const TAGS: [&str; 4] = ["a", "b", "c", "both"];
const PREFIXES: [&str; 3] = ["x", "y", "both"];
/// For how long a lease holds that nobody renews, and that of a backing.
const LEASE_SECONDS: u64 = 900;
const BACKING_SECONDS: u64 = 7 * 24 * 3600;

/// What a snapshot holds.
pub(crate) type Contents = Rc<Vec<u8>>;

pub(crate) struct World {
    pub(crate) bucket: Arc<Bucket>,
    pub(crate) config: RemoteConfig,
    pub(crate) random: Random,
    pub(crate) hosts: Vec<Host>,
    named: u64,
    /// Snapshots by their names.
    pub(crate) known: HashMap<Digest, Contents>,
    /// What the tags name.
    pub(crate) tags: BTreeMap<String, Digest>,
    totals: Totals,
}

/// One seed: everything that comes of it.
pub(crate) fn one(seed: u64) -> Result<Totals, Wrong> {
    let mut world = World::new(seed)?;
    let count = world.random.within(40, 250);
    for at in 0..count {
        world
            .step()
            .map_err(|wrong| format!("step {at} of {count}: {wrong}"))?;
    }
    world
        .finish()
        .map_err(|wrong| format!("behind the last step: {wrong}"))
}

impl World {
    fn new(seed: u64) -> Result<World, Wrong> {
        let (bucket, config) = Bucket::new();
        let mut world = World {
            bucket,
            config,
            random: Random::new(seed),
            hosts: Vec::new(),
            named: 0,
            known: HashMap::new(),
            tags: BTreeMap::new(),
            totals: Totals::new(),
        };
        for _ in 0..HOSTS {
            let (new, name) = world.new_device(None, false);
            let bytes = vec![0; new.device.size_bytes() as usize];
            let mut host = Host::new(name, new, bytes);
            for _ in 0..world.random.below(60) {
                host.request(&mut world.random)?;
            }
            world.hosts.push(host);
        }
        Ok(world)
    }

    pub(crate) fn count(&mut self, what: &'static str, by: u64) {
        *self.totals.entry(what).or_default() += by;
    }

    /// A device with everything about it at random, of so many pages if that is said.
    pub(crate) fn new_device(&mut self, pages: Option<u64>, lazy: bool) -> (NewDevice, String) {
        self.named += 1;
        let pages = pages.unwrap_or_else(|| self.random.within(40, 500));
        let choice = choice(self.random.below(64));
        let new = NewDevice::make(&mut self.random, pages, choice, lazy);
        (new, format!("zram{}", self.named))
    }

    /// What a new process sees of the bucket.
    pub(crate) fn client(&mut self, moods: Moods) -> Arc<Client> {
        let random = Random::new(self.random.next());
        self.bucket.client(moods, random)
    }

    /// The same in a mood of any kind.
    pub(crate) fn moody(&mut self) -> Arc<Client> {
        let moods = Moods::random(&mut self.random);
        self.client(moods)
    }

    /// The remote as one sees it for whom everything goes well.
    pub(crate) fn clean(&mut self) -> Remote {
        let client = self.client(Moods::none());
        client.remote(&self.config)
    }

    pub(crate) fn tag(&mut self) -> String {
        (*self.random.pick(&TAGS)).into()
    }

    /// One of the tags that there are.
    pub(crate) fn any_tag(&mut self) -> Option<(String, Digest)> {
        let at = self.random.index(self.tags.len());
        let found = self.tags.iter().nth(at);
        found.map(|(tag, name)| (tag.clone(), *name))
    }

    /// The snapshot that a device's changes are tracked since, if a tag names it.
    pub(crate) fn tag_of(&self, id: &SnapshotId) -> Option<String> {
        let mut tags = self.tags.iter();
        let found = tags.find(|(_, name)| name.0.starts_with(id));
        found.map(|(tag, _)| tag.clone())
    }

    fn step(&mut self) -> Result<(), Wrong> {
        let at = self.random.index(self.hosts.len());
        match self.random.below(100) {
            0..35 => {
                for _ in 0..self.random.within(1, 12) {
                    self.hosts[at].request(&mut self.random)?;
                    self.count("requests", 1);
                }
                self.hosts[at].note_whether_remote();
            }
            35..47 => self.memory(at)?,
            47..59 => self.snapshot(at)?,
            59..63 => self.restore()?,
            63..69 => self.clone(at)?,
            69..72 => self.hydrate(at)?,
            72..75 => self.kill_readers(at)?,
            75..79 => self.reopen(at)?,
            79..83 => self.attach(at)?,
            83 => self.detach(at)?,
            84..89 => self.send(at)?,
            89..93 => self.collect()?,
            93 => self.snapshot_and_collect(at)?,
            94 => self.remove_tag()?,
            95..97 => self.pass()?,
            97 => self.moods(at)?,
            _ => self.check(at)?,
        }
        Ok(())
    }

    /// Something is done to a device's memory. What may be refused is the business of the device's own machine.
    fn memory(&mut self, at: usize) -> Result<(), Wrong> {
        let pages = self.hosts[at].pages();
        let mut maker = Maker {
            random: self.random.clone(),
            pages,
            lying: false,
        };
        let memory = maker.memory_unlimited();
        self.random = maker.random;
        let (what, count) = match subject::run(self.hosts[at].device(), &memory) {
            Ok(Report::WrittenBack(report)) if self.hosts[at].cold.is_some() => {
                ("pages written back", report.written)
            }
            Ok(Report::Promoted(report)) => ("pages promoted", report.pages),
            _ => ("other work", 1),
        };
        self.count(what, count);
        Ok(())
    }

    /// A device is a clone of a snapshot from now on, or that is refused.
    fn clone(&mut self, at: usize) -> Result<(), Wrong> {
        let Some((tag, name)) = self.any_tag() else {
            return Ok(());
        };
        let client = self.moody();
        let opened = client.remote(&self.config).tag(&tag).map_err(text);
        let opened = opened.and_then(|found| found.body.name().map_err(text));
        let opened = opened.and_then(|found| {
            // A flipped bit of a name is that of no snapshot.
            ensure!(found == name, "another name");
            CloneOf::open(client.clone(), &self.config, found).map_err(text)
        });
        let opened = opened.and_then(|of| Ok((of.pages()?, of)));
        let Ok((pages, of)) = opened else {
            self.count("clones refused", 1);
            return Ok(());
        };
        let bytes = self.known[&name].clone();
        let (mut new, host) = self.new_device(Some(bytes.len() as u64 / PAGE), true);
        let cloned = pages.clone_to(&mut new.device);
        drop(pages);
        match cloned {
            Ok(()) => {}
            Err(uzram::Error::CodecsFull) => return Ok(()),
            Err(error) => return Err(format!("{tag}: {error}")),
        }
        let mut host = Host::of_clone(host, new, bytes.to_vec(), of)?;
        host.unheal(&mut self.random)?;
        self.replace(at, host)?;
        self.count("clones", 1);
        Ok(())
    }

    /// One device goes, another one comes.
    pub(crate) fn replace(&mut self, at: usize, host: Host) -> Result<(), Wrong> {
        let before = std::mem::replace(&mut self.hosts[at], host);
        let left = before.remove()?;
        self.count("backings left behind", left.into());
        Ok(())
    }

    fn hydrate(&mut self, at: usize) -> Result<(), Wrong> {
        let host = &mut self.hosts[at];
        let left = host.device().remote_pages();
        let go_on = &mut |_| std::ops::ControlFlow::Continue(());
        let hydrated = match host.device().jobs().hydrate(go_on) {
            Ok(report) => report.left == 0 && left > 0,
            Err(uzram::Error::Remote { .. }) => false,
            Err(error) => return Err(format!("hydrate: {error}")),
        };
        let fetched = left - host.device().remote_pages();
        host.note_whether_remote();
        self.count("pages fetched", fetched);
        self.count("hydrated", hydrated.into());
        Ok(())
    }

    /// The processes that read and write the bucket for a device are killed; requests go on; and others are started, or not yet.
    fn kill_readers(&mut self, at: usize) -> Result<(), Wrong> {
        let host = &mut self.hosts[at];
        let (is_clone, is_cold) = (host.clone.is_some(), host.cold.is_some());
        if let Some(of) = &mut host.clone {
            of.kill();
        }
        if let Some(cold) = &host.cold {
            cold.kill();
        }
        if is_clone || is_cold {
            for _ in 0..self.random.below(3) {
                host.request(&mut self.random)?;
            }
        }
        if self.random.percent(50) {
            // Whatever took them away is not over when the next ones begin.
            let worse = Moods {
                percent: 30,
                dies_at: None,
            };
            host.clone.iter().for_each(|of| of.set(worse));
            host.cold.iter().for_each(|cold| cold.set(worse));
        }
        let started = host.clone.as_mut().map_or(Ok(()), CloneOf::restart);
        let opened = host.cold.as_ref().map_or(Ok(()), Cold::restart);
        self.count("readers killed", is_clone.into());
        self.count("backings' processes killed", is_cold.into());
        let failed = u64::from(started.is_err()) + u64::from(opened.is_err());
        self.count("starts that failed", failed);
        match failed {
            0 => Ok(()),
            // What the device has is needed, although nobody speaks for it now.
            _ => self.collect(),
        }
    }

    fn reopen(&mut self, at: usize) -> Result<(), Wrong> {
        self.hosts[at].reopen()?;
        self.hosts[at].unheal(&mut self.random)?;
        self.count("reopened", 1);
        Ok(())
    }

    /// A device gets a backing in the bucket, if the store and whoever has the name let it.
    fn attach(&mut self, at: usize) -> Result<(), Wrong> {
        if self.hosts[at].cold.is_some() || self.hosts[at].device().zram().backing().is_some() {
            return Ok(());
        }
        let client = self.moody();
        let prefix = *self.random.pick(&PREFIXES);
        let host = &mut self.hosts[at];
        let names = (&*host.name, prefix);
        host.cold = Cold::attach(host.device(), names, client, &self.config, &mut self.random)?;
        let is_there = self.hosts[at].cold.is_some();
        self.count("backings", is_there.into());
        self.count("backings refused", (!is_there).into());
        Ok(())
    }

    /// All that is on the backing comes back, or stays there.
    fn detach(&mut self, at: usize) -> Result<(), Wrong> {
        let host = &mut self.hosts[at];
        if host.cold.is_none() {
            return Ok(());
        }
        match host.device().zram().detach_backing() {
            Ok(report) => {
                let cold = host.cold.take();
                let pages = report.pages;
                cold.map_or(Ok(()), |cold| {
                    cold.kill();
                    cold.wait_for_threads()
                })?;
                self.count("pages promoted", pages);
                self.count("detached", 1);
            }
            Err(uzram::Error::PagesLeft { .. }) => self.count("stayed attached", 1),
            Err(error) => return Err(format!("detach: {error}")),
        }
        Ok(())
    }

    fn collect(&mut self) -> Result<(), Wrong> {
        let client = self.moody();
        let collecting = Collecting {
            grace: *self
                .random
                .pick(&[Duration::ZERO, Duration::ZERO, Duration::from_secs(600)]),
            dry_run: self.random.percent(5),
        };
        let collected = collecting.run(&client.remote(&self.config));
        self.collected(collected, &client)
    }

    /// What came of a collection.
    pub(crate) fn collected(
        &mut self,
        collected: uzram_remote::Result<uzram_remote::Collected>,
        client: &Client,
    ) -> Result<(), Wrong> {
        self.count("faults", client.faults());
        client.die();
        match collected {
            Ok(found) => {
                self.count("collections", 1);
                self.count("parts collected", found.removed as u64);
            }
            Err(_) => self.count("collections that failed", 1),
        }
        self.check_bucket()
    }

    fn remove_tag(&mut self) -> Result<(), Wrong> {
        let Some((tag, name)) = self.any_tag() else {
            return Ok(());
        };
        let client = self.moody();
        let removed = client.remote(&self.config).remove_tag(&tag);
        let found = self.clean().find_tag(&tag).map_err(text)?;
        ensure!(
            found.is_none() || removed.is_err(),
            "{tag} was removed, and is there"
        );
        match found {
            None => {
                self.tags.remove(&tag);
                self.count("tags removed", 1);
            }
            Some(found) => ensure!(
                found.body.name().ok() == Some(name),
                "{tag} is another one than before"
            ),
        }
        self.check_bucket()
    }

    /// Whoever was killed is there again: what nobody renews for long enough is nobody's.
    fn restart_all(&mut self) -> Result<(), Wrong> {
        for host in &mut self.hosts {
            host.heal()?;
        }
        Ok(())
    }

    /// Time passes, for the leases of the dead.
    fn pass(&mut self) -> Result<(), Wrong> {
        self.restart_all()?;
        let longest = [LEASE_SECONDS, 20 * LEASE_SECONDS, 2 * BACKING_SECONDS];
        let seconds = *self.random.pick(&longest);
        self.bucket.pass(1 + self.random.below(seconds));
        for host in &mut self.hosts {
            host.unheal(&mut self.random)?;
        }
        self.count("time passed", 1);
        Ok(())
    }

    fn moods(&mut self, at: usize) -> Result<(), Wrong> {
        self.hosts[at].heal()?;
        self.hosts[at].unheal(&mut self.random)
    }

    /// A device's every byte, and what each tag holds.
    fn check(&mut self, at: usize) -> Result<(), Wrong> {
        self.hosts[at].check_all()?;
        self.hosts[at].unheal(&mut self.random)?;
        self.check_bucket()?;
        let remote = self.clean();
        for (tag, _) in self.tags.clone() {
            self.check_tag(&remote, &tag)?;
        }
        self.count("checks", 1);
        Ok(())
    }

    /// All that tags name and that living leases name is there.
    pub(crate) fn check_bucket(&mut self) -> Result<(), Wrong> {
        let remote = self.clean();
        let (found, wrong) = remote.tags().map_err(text)?;
        ensure!(wrong.is_empty(), "{wrong:?}");
        let mut names = BTreeMap::new();
        for tag in &found {
            names.insert(tag.tag.clone(), tag.body.name().map_err(text)?);
            let whole = Checking::default().run(&remote, tag, None);
            whole.map_err(|error| format!("tag {}: {error}", tag.tag))?;
        }
        ensure!(
            names == self.tags,
            "the tags are {names:?}, not {:?}",
            self.tags
        );
        let keys = self.bucket.keys();
        for host in &self.hosts {
            let Some(of) = &host.clone else { continue };
            for key in of
                .keys(&remote)
                .map_err(|error| format!("the clone {}: {error}", host.name))?
            {
                ensure!(
                    keys.contains(&key),
                    "the clone {} needs {key}, which is gone",
                    host.name
                );
            }
        }
        Ok(())
    }

    /// Everything is there; and once nobody needs anything, nothing is.
    fn finish(mut self) -> Result<Totals, Wrong> {
        for at in 0..self.hosts.len() {
            self.hosts[at].check_all()?;
            let fetched = self.hosts[at].device().stats().fetched_pages;
            self.count("pages fetched", fetched);
        }
        self.check_bucket()?;
        let remote = self.clean();
        for tag in self.tags.clone().into_keys() {
            self.check_tag(&remote, &tag)?;
        }
        let mut left = false;
        for host in std::mem::take(&mut self.hosts) {
            left |= host.remove()?;
        }
        ensure!(!left, "a backing was left behind though all went well");
        self.bucket.pass(BACKING_SECONDS + 1);
        let all = Collecting {
            grace: Duration::ZERO,
            dry_run: false,
        };
        all.run(&remote).map_err(text)?;
        self.check_bucket()?;
        for tag in self.tags.clone().into_keys() {
            self.check_tag(&remote, &tag)?;
            remote.remove_tag(&tag).map_err(text)?;
        }
        all.run(&remote).map_err(text)?;
        let left = self.bucket.keys();
        ensure!(left == ["uzram.json"], "nobody needs {left:?}");
        Ok(self.totals)
    }
}
