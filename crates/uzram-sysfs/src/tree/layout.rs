//! The layout of the tree: what a path leads to, as a function of the view and the real `/sys`.
//!
//! Paths are relative to the tree's root and have no leading slash; the root is `""`.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, readlinkat, statat};
use uzram_control::zram::{
    ATTRIBUTES, Attribute, AttributeOwner, AttributePlace, Errno, ShownDevice, View,
};

use super::block_attributes::{BLOCK_ATTRIBUTES, BlockAttribute, number, real_dir};

/// What a path leads to.
pub(crate) enum TreeEntry {
    Dir,
    Link(Vec<u8>),
    File { mode: u16, source: FileSource },
}

/// Where a file's contents come from and go to.
#[derive(Clone)]
pub(crate) enum FileSource {
    Attribute(AttributeOwner, &'static str),
    Block(u32, &'static BlockAttribute),
    BlockState(u32),
    Classes(u32),
}

/// A name in a directory.
pub(crate) struct Name {
    pub(crate) name: String,
    pub(crate) kind: fuser::FileType,
}

/// Directories that always exist.
const FIXED: &[&str] = &[
    "",
    "block",
    "class",
    "class/block",
    "class/zram-control",
    "dev",
    "dev/block",
    "kernel",
    "kernel/debug",
    "kernel/debug/zram",
    "kernel/debug/zsmalloc",
];

/// Directories of a device.
const DIRS: &[&str] = &["holders", "power", "queue", "slaves"];

pub(crate) struct TreeLayout {
    pub(crate) view: Arc<dyn View>,
    /// The real `/sys`, which ours hides in the shim's namespace.
    pub(crate) sys: OwnedFd,
    /// Whether the directories of block devices also show the real ones.
    pub(crate) merged: bool,
    /// Whether the files' modes are exactly the kernel's.
    pub(crate) strict: bool,
}

impl TreeLayout {
    pub(crate) fn entry(&self, path: &str) -> Result<TreeEntry, Errno> {
        if FIXED.contains(&path) {
            return Ok(TreeEntry::Dir);
        }
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            ["class", "zram-control", name] => {
                let attribute =
                    Attribute::find(AttributePlace::Control, name).ok_or(Errno::NOENT)?;
                let source = FileSource::Attribute(AttributeOwner::Control, attribute.name);
                Ok(file(attribute.mode_in(self.strict), source))
            }
            ["block", name] | ["class", "block", name] if is_zram(name) => {
                self.device(name)?;
                Ok(match parts.len() {
                    2 => TreeEntry::Dir,
                    _ => TreeEntry::Link(format!("../../block/{name}").into()),
                })
            }
            ["block", name, ref rest @ ..] if is_zram(name) => {
                self.of_device(&self.device(name)?, &rest.join("/"))
            }
            ["dev", "block", name] => match self.numbered(name)? {
                Some(shown) => Ok(TreeEntry::Link(
                    format!("../../block/zram{}", shown.id).into(),
                )),
                None => self.real_link(path),
            },
            ["block", _] | ["class", "block", _] => self.real_link(path),
            ["kernel", "debug", "zram" | "zsmalloc", name] => {
                self.device(name).map(|_| TreeEntry::Dir)
            }
            ["kernel", "debug", "zram", name, "block_state"] => {
                Ok(file(0o400, FileSource::BlockState(self.device(name)?.id)))
            }
            ["kernel", "debug", "zsmalloc", name, "classes"] => {
                Ok(file(0o444, FileSource::Classes(self.device(name)?.id)))
            }
            _ => Err(Errno::NOENT),
        }
    }

    fn of_device(&self, shown: &ShownDevice, path: &str) -> Result<TreeEntry, Errno> {
        if DIRS.contains(&path) {
            return Ok(TreeEntry::Dir);
        }
        if path == "subsystem" {
            return Ok(TreeEntry::Link("../../class/block".into()));
        }
        if let Some(attribute) = Attribute::find(AttributePlace::Device, path) {
            let source = FileSource::Attribute(AttributeOwner::Device(shown.id), attribute.name);
            return Ok(file(attribute.mode_in(self.strict), source));
        }
        if let Some(attribute) = BLOCK_ATTRIBUTES.iter().find(|one| one.path == path) {
            return Ok(file(attribute.mode, FileSource::Block(shown.id, attribute)));
        }
        if let ("holders" | "slaves", Some(real)) = (parent(path), real_dir(shown)) {
            return self.link_at(&format!("{real}/{path}"));
        }
        Err(Errno::NOENT)
    }

    /// Lists a directory, without `.` and `..`.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<Name>, Errno> {
        use fuser::FileType::{Directory, RegularFile, Symlink};
        let mut names = Vec::new();
        let mut add = |name: &str, kind| {
            names.push(Name {
                name: name.into(),
                kind,
            });
        };
        for fixed in FIXED.iter().filter(|fixed| !fixed.is_empty()) {
            if parent(fixed) == path {
                add(last(fixed), Directory);
            }
        }
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            ["class", "zram-control"] => {
                for attribute in attributes_in(AttributePlace::Control) {
                    add(attribute.name, RegularFile);
                }
            }
            ["block"] | ["class", "block"] | ["dev", "block"] => {
                let devices = self.beside_real()?;
                let numbers = path == "dev/block";
                let kind = if path == "block" { Directory } else { Symlink };
                let name = |shown: &ShownDevice| match numbers {
                    true => device_number_name(shown),
                    false => format!("zram{}", shown.id),
                };
                let ours: Vec<String> = devices.iter().map(name).collect();
                for name in self.real_names(path) {
                    if !ours.contains(&name) {
                        add(&name, Symlink);
                    }
                }
                for name in ours {
                    add(&name, kind);
                }
            }
            ["block", name] => {
                self.device(name)?;
                for dir in DIRS {
                    add(dir, Directory);
                }
                add("subsystem", Symlink);
                for attribute in attributes_in(AttributePlace::Device) {
                    add(attribute.name, RegularFile);
                }
                for path in block_attributes_in("") {
                    add(path, RegularFile);
                }
            }
            ["block", name, dir] => {
                let shown = self.device(name)?;
                for path in block_attributes_in(dir) {
                    add(last(path), RegularFile);
                }
                if let ("holders" | "slaves", Some(real)) = (dir, real_dir(&shown)) {
                    for name in links(&self.sys, &format!("{real}/{dir}")) {
                        add(&name, Symlink);
                    }
                }
            }
            ["kernel", "debug", "zram" | "zsmalloc"] => {
                for shown in self.view.devices()? {
                    add(&format!("zram{}", shown.id), Directory);
                }
            }
            ["kernel", "debug", "zram", name] => {
                self.device(name)?;
                add("block_state", RegularFile);
            }
            ["kernel", "debug", "zsmalloc", name] => {
                self.device(name)?;
                add("classes", RegularFile);
            }
            _ => {}
        }
        Ok(names)
    }

    /// Finds the device of that name.
    pub(crate) fn device(&self, name: &str) -> Result<ShownDevice, Errno> {
        let id = uzram_control::number(name).ok_or(Errno::NOENT)?;
        self.device_of(id)
    }

    pub(crate) fn device_of(&self, id: u32) -> Result<ShownDevice, Errno> {
        let devices = self.view.devices()?;
        let found = devices.into_iter().find(|shown| shown.id == id);
        found.ok_or(Errno::NOENT)
    }

    /// Lists the devices for a directory that may also show real ones. There an error of the view hides only ours.
    fn beside_real(&self) -> Result<Vec<ShownDevice>, Errno> {
        match self.view.devices() {
            Err(_) if self.merged => Ok(Vec::new()),
            devices => devices,
        }
    }

    fn numbered(&self, name: &str) -> Result<Option<ShownDevice>, Errno> {
        let devices = self.beside_real()?;
        Ok(devices
            .into_iter()
            .find(|shown| device_number_name(shown) == name))
    }

    /// Finds a real entry of a merged directory. The kernel's own zram does not count.
    fn real_link(&self, path: &str) -> Result<TreeEntry, Errno> {
        if !self.merged {
            return Err(Errno::NOENT);
        }
        match self.link_at(path)? {
            TreeEntry::Link(target) if leads_to_zram(&target) => Err(Errno::NOENT),
            entry => Ok(entry),
        }
    }

    fn link_at(&self, path: &str) -> Result<TreeEntry, Errno> {
        let is_link = |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode).is_symlink();
        if !is_link(statat(&self.sys, path, AtFlags::SYMLINK_NOFOLLOW)?) {
            return Err(Errno::NOENT);
        }
        let target = readlinkat(&self.sys, path, Vec::new())?;
        Ok(TreeEntry::Link(CString::into_bytes(target)))
    }

    fn real_names(&self, path: &str) -> Vec<String> {
        if !self.merged {
            return Vec::new();
        }
        let mut names = links(&self.sys, path);
        names.retain(|name| self.real_link(&format!("{path}/{name}")).is_ok());
        names
    }
}

fn attributes_in(place: AttributePlace) -> impl Iterator<Item = &'static Attribute> {
    ATTRIBUTES
        .iter()
        .filter(move |attribute| attribute.place == place)
}

fn block_attributes_in(dir: &str) -> impl Iterator<Item = &'static str> {
    let paths = BLOCK_ATTRIBUTES.iter().map(|attribute| attribute.path);
    paths.filter(move |path| parent(path) == dir)
}

fn file(mode: u16, source: FileSource) -> TreeEntry {
    TreeEntry::File { mode, source }
}

/// Lists the symlinks in a directory; none if it does not exist.
fn links(sys: &OwnedFd, path: &str) -> Vec<String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(sys, path, flags, Mode::empty()).and_then(Dir::new);
    let Ok(dir) = dir else { return Vec::new() };
    dir.flatten()
        .filter(|entry| entry.file_type().is_symlink())
        .filter_map(|entry| entry.file_name().to_str().ok().map(String::from))
        .collect()
}

fn device_number_name(shown: &ShownDevice) -> String {
    let (major, minor) = number(shown);
    format!("{major}:{minor}")
}

pub(crate) fn is_zram(name: &str) -> bool {
    uzram_control::number(name).is_some()
}

fn leads_to_zram(target: &[u8]) -> bool {
    std::str::from_utf8(target).is_ok_and(|target| is_zram(last(target)))
}

pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn last(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, last)| last)
}
