//! [`Survey`]: one look at the machine that answers "who uses this device?" and "what does this path lie on?" for any
//! number of devices.
//!
//! A device is known by its number, never by a path: one device has many nodes. The survey follows the stack, upwards for
//! users and downwards for what lies beneath, until nothing new comes.
//!
//! It must end even if the server of a file system has died or stands still, since the asker may be about to repair that.
//! So a path is resolved by the mount tables; `stat` is used only on what lies on a file system of the kernel's own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::Dev;

use crate::blocks::{Blocks, is_regular, names_in, number_of, parse_number};
use crate::mountinfo::{MountPoint, mounts, read, shown, shown_bytes, unescape};
use crate::open::is_held;
use crate::swaps::{SwapArea, fits, size_bytes, swap_areas, without_deleted};
use crate::{Busy, Users};

/// Kinds of file system that no process serves and no network is behind.
const LOCAL: &[&str] = &[
    "bcachefs", "btrfs", "devtmpfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "rootfs",
    "tmpfs", "xfs",
];

/// A process of another mount namespace, or one that has a block device open.
#[derive(Debug, Clone)]
struct Process {
    pid: u32,
    name: String,
}

impl Process {
    fn new(pid: u32) -> Process {
        let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        Process {
            pid,
            name: shown_bytes(name.strip_suffix(b"\n").unwrap_or(&name)),
        }
    }
}

/// A mount, and the block devices that its file system lies on.
#[derive(Debug)]
struct Mounted {
    mount: MountPoint,
    /// The index of its table in [`Survey::namespaces`].
    table: usize,
    devices: Vec<Dev>,
}

/// What a device is to the one beneath it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stacked {
    Partition,
    Holder,
    Loop,
}

/// A node of a block device, and the number that it had: that of a device which the kernel has dropped stays with those who
/// still use it, when the path is gone, or is another device's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its path.
    pub path: PathBuf,
    /// The device's number.
    pub number: Dev,
}

impl Node {
    /// The node at a path, if it is that of a block device.
    pub fn at(path: &Path) -> Option<Node> {
        let number = number_of(path)?;
        Some(Node {
            path: path.into(),
            number,
        })
    }
}

/// A block device or a file that a path lies on. See [`Survey::beneath`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The file, or the node of the block device by the kernel's name.
    pub path: PathBuf,
    /// The number of the block device; `None` for a file.
    pub device: Option<Dev>,
    /// The mount that a file lies on; none for a block device. Several where mount namespaces differ and the file may be of
    /// any.
    pub mounts: Vec<MountPoint>,
    /// The index of the layer that lies on this one; `None` for the first.
    above: Option<usize>,
}

/// What one look at `/proc` and `/sys` found.
#[derive(Debug)]
pub struct Survey {
    blocks: Blocks,
    /// Own namespace first.
    mounts: Vec<Mounted>,
    /// For each table, the indexes of the mounts at a path, the topmost last.
    at: Vec<HashMap<PathBuf, Vec<usize>>>,
    /// One for each table of `mounts`; `None` for this process's.
    namespaces: Vec<Option<Process>>,
    /// What lies directly on each block device.
    stacked: HashMap<Dev, Vec<(Dev, Stacked)>>,
    /// Device and kind of each file system that is active, whether or not a mount of it is to be seen.
    active: Vec<(Dev, String)>,
    /// The swap areas on each device, files of its file system included.
    swaps: BTreeMap<Dev, Vec<SwapArea>>,
    /// Those whose node cannot be told from here: its path is another namespace's, or gone.
    unseen_swaps: Vec<SwapArea>,
    /// Read when it is first asked for, as it takes longest.
    openers: OnceLock<HashMap<Dev, Vec<Process>>>,
}

impl Default for Survey {
    fn default() -> Survey {
        Survey::new()
    }
}

impl Survey {
    /// Looks at the machine as it is now. What this process may not read is left out.
    pub fn new() -> Survey {
        let blocks = Blocks::read();
        let (tables, namespaces) = tables();
        let sets = btrfs_sets(&blocks);
        let mut survey = Survey {
            active: active(&blocks, &sets),
            blocks,
            mounts: Vec::new(),
            at: Vec::new(),
            namespaces,
            stacked: HashMap::new(),
            swaps: BTreeMap::new(),
            unseen_swaps: Vec::new(),
            openers: OnceLock::new(),
        };
        for (table, mounts) in tables.into_iter().enumerate() {
            survey.add_table(table, mounts, &sets);
        }
        survey.read_swaps();
        survey.stacked = survey.find_stacked();
        survey
    }

    fn add_table(&mut self, table: usize, mounts: Vec<MountPoint>, sets: &[Vec<Dev>]) {
        let first = self.mounts.len();
        self.at.push(HashMap::new());
        for mount in mounts {
            let devices = self.devices_of(&mount, table, sets);
            let here = self.at[table].entry(mount.path.clone()).or_default();
            here.push(self.mounts.len());
            self.mounts.push(Mounted {
                mount,
                table,
                devices,
            });
        }
        // An overlay lies on what its layers lie on, which may be another overlay.
        let overlay = |mounted: &Mounted| mounted.mount.kind == "overlay";
        loop {
            let mut changed = false;
            for index in first..self.mounts.len() {
                if !overlay(&self.mounts[index]) {
                    continue;
                }
                let layers = layers(&self.mounts[index].mount.file_system_options);
                let found: BTreeSet<Dev> = layers
                    .iter()
                    .filter_map(|path| self.mount_of(path, table, Some(index)))
                    .flat_map(|at| self.mounts[at].devices.clone())
                    .collect();
                let found: Vec<Dev> = found.into_iter().collect();
                if found != self.mounts[index].devices {
                    self.mounts[index].devices = found;
                    changed = true;
                }
            }
            if !changed {
                return;
            }
        }
    }

    /// The block devices of a mount that is no overlay.
    fn devices_of(&self, mount: &MountPoint, table: usize, sets: &[Vec<Dev>]) -> Vec<Dev> {
        let number = parse_number(&mount.device).unwrap_or_default();
        if rustix::fs::major(number) != 0 {
            return vec![number];
        }
        // bcachefs lists its devices with colons.
        let sources = mount.source.to_str().unwrap_or_default().split(':');
        let mut devices = Vec::new();
        for source in sources {
            let source = Path::new(source);
            if !source.starts_with("/dev") && !["btrfs", "bcachefs"].contains(&&*mount.kind) {
                continue;
            }
            let Some(number) = self.resolve_source(source, table) else {
                continue;
            };
            match sets.iter().find(|set| set.contains(&number)) {
                Some(set) => devices.extend(set),
                None => devices.push(number),
            }
        }
        devices
    }

    /// The block device that the source of a mount means. In another namespace a path under `/dev` may be another node, or
    /// a node of a process that stands still: the kernel's name goes first there.
    fn resolve_source(&self, source: &Path, table: usize) -> Option<Dev> {
        if !source.is_absolute() {
            return None;
        }
        match self.namespaces[table] {
            None => number_of(source).or_else(|| self.blocks.at_path(source)),
            Some(_) => self.blocks.at_path(source).or_else(|| number_of(source)),
        }
    }

    /// The mount of a table that a path lies on: the one with the longest path, the topmost of several. `except` is left out.
    fn mount_of(&self, path: &Path, table: usize, except: Option<usize>) -> Option<usize> {
        path.ancestors().find_map(|at| {
            let mut here = self.at[table].get(at)?.iter().rev().copied();
            here.find(|index| Some(*index) != except)
        })
    }

    /// The mounts that a path lies on: that of this process's table, and with `anywhere` of all others.
    fn mounts_of(&self, path: &Path, anywhere: bool) -> impl Iterator<Item = usize> {
        let tables = if anywhere { self.namespaces.len() } else { 1 };
        (0..tables).filter_map(move |table| self.mount_of(path, table, None))
    }

    /// The number of the block device at a path, unless to look could take long.
    fn number_here(&self, path: &Path) -> Option<Dev> {
        if let Some(number) = self.blocks.at_path(path) {
            return Some(number);
        }
        self.may_hold_nodes(path).then(|| number_of(path)).flatten()
    }

    /// Whether a path lies on a file system of the kernel's own that block devices can have nodes on.
    fn may_hold_nodes(&self, path: &Path) -> bool {
        self.mounts_of(path, false).any(|at| {
            let mount = &self.mounts[at].mount;
            let nodev = mount.options.split(',').any(|option| option == "nodev");
            LOCAL.contains(&mount.kind.as_str()) && !nodev
        })
    }

    fn read_swaps(&mut self) {
        for area in swap_areas() {
            if !area.is_device {
                for device in self.devices_of_swap_file(&area.path) {
                    self.swaps.entry(device).or_default().push(area.clone());
                }
                continue;
            }
            let number = self.number_here(&area.path);
            // A path of another namespace may mean another device here.
            if !number
                .and_then(size_bytes)
                .is_some_and(|size| fits(&area, size))
            {
                self.unseen_swaps.push(area.clone());
            }
            if let Some(number) = number {
                self.swaps.entry(number).or_default().push(area);
            }
        }
    }

    /// The block devices of the file system that a swap file is on. Its path is that of the namespace where it was switched
    /// on: the first that has the file. Where it was removed since, by the mount tables alone.
    fn devices_of_swap_file(&self, path: &Path) -> Vec<Dev> {
        let gone = without_deleted(path);
        if gone.is_none() {
            for (table, process) in self.namespaces.iter().enumerate() {
                let Some(at) = self.mount_of(path, table, None) else {
                    continue;
                };
                let Mounted { mount, devices, .. } = &self.mounts[at];
                let seen = match process {
                    None => path.to_owned(),
                    Some(Process { pid, .. }) => Path::new(&format!("/proc/{pid}/root"))
                        .join(path.strip_prefix("/").unwrap_or(path)),
                };
                if LOCAL.contains(&mount.kind.as_str()) && is_regular(&seen) {
                    return devices.clone();
                }
            }
        }
        let mounts = self.mounts_of(gone.as_deref().unwrap_or(path), true);
        let devices = mounts.flat_map(|at| self.mounts[at].devices.clone());
        devices.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Whether the block device at `node` is a swap area that nothing is swapped out to.
    pub fn unused_swap(&self, node: &Path) -> bool {
        let Some(number) = number_of(node) else {
            return false;
        };
        let known = self.swaps.get(&number).into_iter().flatten();
        let mut areas: Vec<_> = known.filter(|area| area.is_device).collect();
        if areas.is_empty()
            && let Some((device, area)) = self.unseen_swap(number)
            && device == number
            && is_held(node)
        {
            areas.push(area);
        }
        !areas.is_empty() && areas.iter().all(|area| area.used_bytes == 0)
    }

    /// A swap area that may lie on a device or a partition of it, by its size, and which of them.
    fn unseen_swap(&self, device: Dev) -> Option<(Dev, &SwapArea)> {
        let stacked = self.stacked.get(&device).into_iter().flatten();
        let partitions = stacked.filter(|(_, how)| *how == Stacked::Partition);
        let all = std::iter::once(device).chain(partitions.map(|(number, _)| *number));
        all.into_iter().find_map(|number| {
            let size = size_bytes(number)?;
            let area = self.unseen_swaps.iter().find(|area| fits(area, size))?;
            Some((number, area))
        })
    }

    /// Whether the block device at `node` may be a swap area that was switched on by a node which cannot be seen from here.
    /// [`Survey::held`] knows.
    pub fn may_be_swap(&self, node: &Path) -> bool {
        number_of(node).is_some_and(|number| self.unseen_swap(number).is_some())
    }

    /// Asks the kernel whether somebody has the block device at `node` for himself, and says who that may be. To be asked
    /// where nobody is found otherwise: for that moment nobody else can mount the device.
    pub fn held(&self, node: &Path) -> Option<Busy> {
        let number = number_of(node)?;
        is_held(node).then(|| self.unexplained(number))
    }

    /// What holds a device that the kernel refuses, and of which nobody is known who does.
    fn unexplained(&self, device: Dev) -> Busy {
        match self.unseen_swap(device) {
            Some((number, _)) => Busy::SwapElsewhere(self.node_of(number)),
            None => Busy::Elsewhere,
        }
    }

    /// Who uses the block device at `node`, which the kernel refuses: never empty.
    pub fn users_of_held(&self, node: &Path) -> Users {
        match self.users(node) {
            none if none.is_empty() => {
                let by = number_of(node).map(|number| self.unexplained(number));
                by.unwrap_or(Busy::Elsewhere).into()
            }
            by => by,
        }
    }

    /// A node by the kernel's name.
    fn node_of(&self, number: Dev) -> PathBuf {
        Path::new("/dev").join(self.blocks.name(number).replace('!', "/"))
    }

    /// What to give to `swapoff`, if the block device at `node` is swapped to: itself, a partition, a file of its file system
    /// or what is stacked on it.
    pub fn swap_over(&self, node: &Path) -> Option<PathBuf> {
        let device = number_of(node)?;
        let found = self.swap_on(device, &mut BTreeSet::from([device]));
        found.or_else(|| {
            let (number, _) = self.unseen_swap(device)?;
            // Who mounts it, or lies on it, has it for himself as well.
            let known = self.collect(device, &mut BTreeSet::from([device]), false);
            let is_unexplained = known.iter().all(Busy::is_passing);
            (is_unexplained && is_held(node)).then(|| self.node_of(number))
        })
    }

    fn swap_on(&self, device: Dev, seen: &mut BTreeSet<Dev>) -> Option<PathBuf> {
        let areas = self.swaps.get(&device).into_iter().flatten();
        if let Some(area) = areas.into_iter().next() {
            return Some(area.path.clone());
        }
        let stacked = self.stacked.get(&device).into_iter().flatten();
        stacked
            .into_iter()
            .find_map(|(number, _)| seen.insert(*number).then(|| self.swap_on(*number, seen))?)
    }

    /// Finds all who use the block device at `node`: mounts, swap areas, devices that are stacked on it and in turn their
    /// users, processes. Empty where there is no such node.
    pub fn users(&self, node: &Path) -> Users {
        number_of(node).map_or_else(Users::default, |device| self.users_of(device))
    }

    /// Finds all who use the block device of a number.
    pub fn users_of(&self, device: Dev) -> Users {
        Users(self.collect(device, &mut BTreeSet::from([device]), true))
    }

    /// Like [`Survey::users`], without processes that have it open: for these all processes must be looked at.
    pub fn users_but_openers(&self, node: &Path) -> Users {
        let found = number_of(node)
            .map(|device| self.collect(device, &mut BTreeSet::from([device]), false));
        Users(found.unwrap_or_default())
    }

    /// Whether the kernel has a block device of a number.
    pub fn has(&self, number: Dev) -> bool {
        self.blocks.all.contains_key(&number)
    }

    /// Finds who uses nodes that dead servers left: each user as [`Busy::Dead`].
    pub fn users_of_dead(&self, nodes: &[Node]) -> Users {
        self.dead(nodes, true)
    }

    /// Like [`Survey::users_of_dead`], without processes that have one open.
    pub fn users_of_dead_but_openers(&self, nodes: &[Node]) -> Users {
        self.dead(nodes, false)
    }

    fn dead(&self, nodes: &[Node], with_openers: bool) -> Users {
        let of = |node: &Node| {
            let number = node.number;
            let mut users = self.collect(number, &mut BTreeSet::from([number]), with_openers);
            if !self.has(number) {
                users.extend(self.mounts_from(&node.path));
                // The kernel has dropped the node, and its path is said to be deleted.
                let is_it = |area: &&SwapArea| {
                    without_deleted(&area.path).is_some_and(|path| path == node.path)
                };
                users.extend(self.unseen_swaps.iter().find(is_it).map(|_| Busy::Swap));
            } else if users.iter().all(Busy::is_passing)
                && number_of(&node.path) == Some(number)
                && (with_openers || self.unseen_swap(number).is_some())
            {
                users.extend(self.held(&node.path));
            }
            let path = node.path.clone();
            users.into_iter().map(move |by| Busy::Dead {
                node: path.clone(),
                by: Box::new(by),
            })
        };
        Users(nodes.iter().flat_map(of).collect())
    }

    /// The mounts whose source is a path that means no device any more, such as those of a btrfs, which has no number of
    /// its device.
    fn mounts_from(&self, source: &Path) -> Vec<Busy> {
        let is_from =
            |mounted: &&Mounted| mounted.devices.is_empty() && mounted.mount.source == source;
        let mut paths = BTreeSet::new();
        let found = self.mounts.iter().filter(is_from);
        found
            .filter(|mounted| paths.insert(&mounted.mount.path))
            .map(|mounted| self.mounted(mounted))
            .collect()
    }

    fn collect(&self, device: Dev, seen: &mut BTreeSet<Dev>, with_openers: bool) -> Vec<Busy> {
        let mut users = self.mounts_on(device);
        for area in self.swaps.get(&device).into_iter().flatten() {
            users.push(match area.is_device {
                true => Busy::Swap,
                false => Busy::SwapFile(area.path.clone()),
            });
        }
        for (number, stacked) in self.stacked.get(&device).into_iter().flatten() {
            let number = *number;
            if !seen.insert(number) {
                continue;
            }
            let name = self.blocks.name(number);
            let theirs = self.collect(number, seen, with_openers);
            match stacked {
                Stacked::Holder if theirs.is_empty() => users.push(Busy::Holder(name.clone())),
                Stacked::Loop if theirs.is_empty() => users.push(Busy::Loop {
                    name: name.clone(),
                    file: self
                        .loop_file(number)
                        .map_or_else(PathBuf::new, PathBuf::from),
                }),
                _ => {}
            }
            users.extend(theirs.into_iter().map(|by| Busy::Above {
                name: name.clone(),
                by: Box::new(by),
            }));
        }
        if with_openers {
            let openers = self.openers.get_or_init(|| self.read_openers());
            for Process { pid, name } in openers.get(&device).into_iter().flatten() {
                users.push(Busy::Open {
                    pid: *pid,
                    name: name.clone(),
                });
            }
        }
        users
    }

    fn mounts_on(&self, device: Dev) -> Vec<Busy> {
        let mut users = Vec::new();
        let mut paths = BTreeSet::new();
        for mounted in &self.mounts {
            let at = &mounted.mount.path;
            // A copy of this namespace's mount in another one needs no word of its own.
            if !mounted.devices.contains(&device) || !paths.insert(at) {
                continue;
            }
            users.push(self.mounted(mounted));
        }
        if users.is_empty()
            && let Some((_, kind)) = self.active.iter().find(|(number, _)| *number == device)
        {
            users.push(Busy::Filesystem(kind.clone()));
        }
        users
    }

    fn mounted(&self, mounted: &Mounted) -> Busy {
        let at = mounted.mount.path.clone();
        match &self.namespaces[mounted.table] {
            None => Busy::Mounted(at),
            Some(Process { pid, name }) => Busy::MountedElsewhere {
                at,
                pid: *pid,
                name: name.clone(),
            },
        }
    }

    fn find_stacked(&self) -> HashMap<Dev, Vec<(Dev, Stacked)>> {
        let mut stacked: HashMap<Dev, Vec<(Dev, Stacked)>> = HashMap::new();
        let mut add = |beneath: Dev, number: Dev, how| {
            let known = stacked.entry(beneath).or_default();
            if !known.contains(&(number, how)) {
                known.push((number, how));
            }
        };
        for (number, block) in &self.blocks.all {
            if let Some(disk) = block.disk {
                add(disk, *number, Stacked::Partition);
            }
            for slave in &block.slaves {
                add(*slave, *number, Stacked::Holder);
            }
            let file = block.file.as_deref();
            for beneath in file
                .map(|file| self.beneath_file(file, true))
                .unwrap_or_default()
            {
                add(beneath, *number, Stacked::Loop);
            }
        }
        stacked
    }

    fn loop_file(&self, number: Dev) -> Option<&Path> {
        self.blocks.all.get(&number)?.file.as_deref()
    }

    /// The node of each loop device with a file, and that file's path as the kernel tells it.
    pub fn loops(&self) -> impl Iterator<Item = (Node, &Path)> {
        let node = |number: Dev, name: &str| Node {
            path: Path::new("/dev").join(name),
            number,
        };
        let blocks = self.blocks.all.iter();
        blocks.filter_map(move |(number, block)| {
            Some((node(*number, &block.name), block.file.as_deref()?))
        })
    }

    /// The block devices directly beneath a file: itself if it is a node, else those of the file system. `anywhere`: the
    /// path may be of any namespace, as that of a loop device's file, which the kernel names as its opener saw it.
    fn beneath_file(&self, file: &Path, anywhere: bool) -> Vec<Dev> {
        if let Some(number) = self.number_here(file) {
            return vec![number];
        }
        let mounts = self.mounts_of(file, anywhere);
        mounts
            .flat_map(|at| self.mounts[at].devices.clone())
            .collect()
    }

    /// Lists what an absolute path without links lies on, however deep: the file, the devices of its file system, disks of
    /// partitions, devices beneath a stacked one, files behind loop devices. The path itself is the first.
    pub fn beneath(&self, path: &Path) -> Vec<Layer> {
        let mut layers = Vec::new();
        match self.number_here(path) {
            Some(device) => layers.push(self.device_layer(device, None)),
            None => layers.push(self.file_layer(path, None)),
        }
        let mut at = 0;
        while at < layers.len() {
            let next: Vec<Layer> = match layers[at].device {
                None => self
                    .beneath_file(&layers[at].path, at > 0)
                    .into_iter()
                    .map(|device| self.device_layer(device, Some(at)))
                    .collect(),
                Some(device) => {
                    let block = self.blocks.all.get(&device);
                    let numbers = block
                        .into_iter()
                        .flat_map(|b| b.disk.iter().chain(&b.slaves));
                    let below = numbers.map(|number| self.device_layer(*number, Some(at)));
                    let file = block.and_then(|b| b.file.as_deref());
                    let file = file.map(|file| match self.number_here(file) {
                        Some(number) => self.device_layer(number, Some(at)),
                        None => self.file_layer(file, Some(at)),
                    });
                    below.chain(file).collect()
                }
            };
            for layer in next {
                let known = |other: &Layer| match layer.device {
                    Some(_) => other.device == layer.device,
                    None => other.path == layer.path,
                };
                if !layers.iter().any(known) {
                    layers.push(layer);
                }
            }
            at += 1;
        }
        layers
    }

    fn device_layer(&self, device: Dev, above: Option<usize>) -> Layer {
        Layer {
            path: self.node_of(device),
            device: Some(device),
            mounts: Vec::new(),
            above,
        }
    }

    fn file_layer(&self, file: &Path, above: Option<usize>) -> Layer {
        // The first layer is a path of this process, others are loop devices' files.
        let found = self.mounts_of(file, above.is_some());
        Layer {
            path: file.into(),
            device: None,
            mounts: found.map(|at| self.mounts[at].mount.clone()).collect(),
            above,
        }
    }

    /// Reads who has block devices open, or keeps them without a descriptor: mapped, or registered with io_uring. A link of
    /// `/proc/PID/fd` leads to the open file itself, and only what lies where a node can lie is looked at, by attributes that
    /// the kernel has.
    fn read_openers(&self) -> HashMap<Dev, Vec<Process>> {
        let mut openers: HashMap<Dev, Vec<Process>> = HashMap::new();
        let own = std::process::id();
        // What most processes map are the same libraries.
        let mut files = HashMap::new();
        for pid in processes().filter(|pid| *pid != own) {
            let mut devices = BTreeSet::new();
            for table in descriptor_tables(pid) {
                let fds = fs::read_dir(&table).into_iter().flatten().flatten();
                for fd in fds {
                    self.add_open(&table, &fd.file_name(), &mut devices);
                }
            }
            self.add_mapped(pid, &mut files, &mut devices);
            for device in devices {
                let known = openers.entry(device).or_default();
                if known.last().is_none_or(|last| last.pid != pid) {
                    known.push(Process::new(pid));
                }
            }
        }
        openers
    }

    /// Adds the block devices that a process has mapped. `files` holds what is known of a file by its file system and inode.
    fn add_mapped(
        &self,
        pid: u32,
        files: &mut HashMap<(Vec<u8>, Vec<u8>), Option<Dev>>,
        devices: &mut BTreeSet<Dev>,
    ) {
        let maps = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
        for line in maps.split(|byte| *byte == b'\n') {
            // Range, rights, offset, file system, inode, path.
            let mut fields = line.split(|byte| *byte == b' ');
            let mut field = || fields.next().unwrap_or_default();
            let (range, _, _, file_system, inode) = (field(), field(), field(), field(), field());
            if inode == b"0" || inode.is_empty() {
                continue;
            }
            let key = (file_system.to_vec(), inode.to_vec());
            let device = *files.entry(key).or_insert_with(|| {
                let range = String::from_utf8_lossy(range);
                let (begin, end) = range.split_once('-')?;
                let (begin, end) = (begin.trim_start_matches('0'), end.trim_start_matches('0'));
                let link = PathBuf::from(format!("/proc/{pid}/map_files/{begin}-{end}"));
                let to = fs::read_link(&link).ok()?;
                self.device_at(&link, &to)
            });
            devices.extend(device);
        }
    }

    /// Adds what a descriptor keeps open: a block device, or those that are registered with an instance of io_uring, which
    /// need no descriptor of their own.
    fn add_open(&self, table: &Path, fd: &OsStr, devices: &mut BTreeSet<Dev>) {
        let link = table.join(fd);
        let Ok(to) = fs::read_link(&link) else {
            return;
        };
        if to.as_os_str() == "anon_inode:[io_uring]" {
            let info = fs::read(table.with_file_name("fdinfo").join(fd)).unwrap_or_default();
            let root = table.with_file_name("root");
            let files = registered_files(&info)
                .filter_map(|file| self.device_at(&root.join(file.strip_prefix("/").ok()?), &file));
            devices.extend(files);
        } else {
            devices.extend(self.device_at(&link, &to));
        }
    }

    /// The block device that a link of /proc leads to. `to` is what the link says.
    fn device_at(&self, link: &Path, to: &Path) -> Option<Dev> {
        // Not a socket, a pipe, or a memfd.
        if !to.is_absolute() || to.starts_with("/memfd:") {
            return None;
        }
        if to.starts_with("/dev") {
            return number_of(link);
        }
        self.may_hold_nodes(to).then(|| number_of(link)).flatten()
    }
}

/// Where the open files of a process are listed. A process whose first thread has ended has none of its own there, while
/// others go on.
fn descriptor_tables(pid: u32) -> Vec<PathBuf> {
    let of_process = PathBuf::from(format!("/proc/{pid}"));
    let has_some =
        |of: &Path| fs::read_dir(of.join("fd")).is_ok_and(|mut fds| fds.next().is_some());
    if has_some(&of_process) {
        return vec![of_process.join("fd")];
    }
    let tasks = fs::read_dir(of_process.join("task"));
    let tasks = tasks
        .into_iter()
        .flatten()
        .flatten()
        .map(|task| task.path());
    let living = tasks.into_iter().find(|task| has_some(task));
    living.map(|task| task.join("fd")).into_iter().collect()
}

/// The paths of the files that are registered with an instance of io_uring, from its `fdinfo`.
fn registered_files(info: &[u8]) -> impl Iterator<Item = PathBuf> {
    let lines = info.split(|byte| *byte == b'\n');
    let lines = lines
        .skip_while(|line| !line.starts_with(b"UserFiles:"))
        .skip(1);
    // "    0: /dev/loop0", until another heading comes.
    lines.map_while(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (number, path) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        let is_file = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
        is_file.then(|| unescape(path))
    })
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The mount table of this process, then one for each other mount namespace and root directory that a process has.
fn tables() -> (Vec<Vec<MountPoint>>, Vec<Option<Process>>) {
    let view = |pid: &str| {
        let namespace = fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()?;
        let root = fs::read_link(format!("/proc/{pid}/root")).ok()?;
        Some((namespace, root))
    };
    let own = view("self");
    let mut others = BTreeMap::new();
    for pid in processes() {
        match view(&pid.to_string()) {
            Some(theirs) if Some(&theirs) != own.as_ref() => {
                others.entry(theirs).or_insert(pid);
            }
            _ => {}
        }
    }
    let (mut tables, mut namespaces) = (vec![mounts()], vec![None]);
    for pid in others.into_values() {
        tables.push(read(Path::new(&format!("/proc/{pid}/mountinfo"))));
        namespaces.push(Some(Process::new(pid)));
    }
    (tables, namespaces)
}

/// The devices of each btrfs that is mounted: the mount table names only one.
fn btrfs_sets(blocks: &Blocks) -> Vec<Vec<Dev>> {
    let root = Path::new("/sys/fs/btrfs");
    let sets = names_in(root).into_iter().map(|id| {
        let names = names_in(&root.join(id).join("devices"));
        names.iter().filter_map(|name| blocks.named(name)).collect()
    });
    sets.filter(|set: &Vec<Dev>| !set.is_empty()).collect()
}

/// The file systems that the kernel lists by their device in `/sys/fs/KIND/NAME`.
fn active(blocks: &Blocks, btrfs: &[Vec<Dev>]) -> Vec<(Dev, String)> {
    let root = Path::new("/sys/fs");
    let mut active = Vec::new();
    for kind in names_in(root) {
        for name in names_in(&root.join(&kind)) {
            active.extend(blocks.named(&name).map(|device| (device, kind.clone())));
        }
    }
    let devices = btrfs.iter().flatten();
    active.extend(devices.map(|device| (*device, "btrfs".to_owned())));
    active
}

/// The directories that an overlay lies on, from its options.
fn layers(options: &str) -> Vec<PathBuf> {
    let mut layers = Vec::new();
    for option in options.split(',') {
        let Some((key, value)) = option.split_once('=') else {
            continue;
        };
        match key {
            "upperdir" | "workdir" | "lowerdir+" | "datadir+" => {
                layers.push(unescape(value.as_bytes()));
            }
            "lowerdir" => {
                // A colon within a path stands behind a backslash, which mountinfo writes in octal.
                let value = unescape(value.as_bytes());
                let text = value.to_string_lossy().replace("\\:", "\0");
                let paths = text.split(':').filter(|path| !path.is_empty());
                layers.extend(paths.map(|path| PathBuf::from(path.replace('\0', ":"))));
            }
            _ => {}
        }
    }
    layers.retain(|path| path.is_absolute());
    layers
}

/// Shows how the first of [`Survey::beneath`]'s layers lies on the one of an index: `/mnt/b, on /dev/loop3, on /mnt/img`.
pub fn chain(layers: &[Layer], index: usize) -> String {
    let mut at = Some(index);
    let mut paths = Vec::new();
    while let Some(layer) = at.and_then(|at| layers.get(at)) {
        paths.push(shown(&layer.path));
        at = layer.above;
    }
    paths.reverse();
    paths.join(", on ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_io_uring_are_read_from_its_fdinfo() {
        let info = b"pos:\t0\nSqThread:\t-1\nUserFiles:\t3\n    0: /dev/loop0\n    2: /dev/a\\040b\nUserBufs:\t1\n    0: 0x7f/4096\n";
        let files: Vec<_> = registered_files(info).collect();
        assert_eq!(files, [Path::new("/dev/loop0"), Path::new("/dev/a b")]);
        assert_eq!(registered_files(b"UserBufs:\t0\n").count(), 0);
    }

    #[test]
    fn an_overlays_layers_are_read_from_its_options() {
        let options = "rw,lowerdir=/a\\134:b:/c::/d,upperdir=/u\\054v,workdir=/w,lowerdir+=/e,x";
        let found = layers(options);
        let want = ["/a:b", "/c", "/d", "/u,v", "/w", "/e"].map(PathBuf::from);
        assert_eq!(found, want);
        assert_eq!(layers("rw,lowerdir=l/ABC"), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_survey_of_this_machine_ends_and_the_root_lies_on_something() {
        let survey = Survey::new();
        assert!(survey.mount_of(Path::new("/"), 0, None).is_some());
        let layers = survey.beneath(Path::new("/"));
        assert_eq!(layers[0].path, Path::new("/"));
        assert_eq!(chain(&layers, 0), "/");
        assert!(survey.users(Path::new("/dev/null")).is_empty());
    }
}
