//! Who uses a device: the one answer that every command gives and asks for, made of what the machine shows and what the
//! device's frontend knows of its nodes.
//!
//! One [`Survey`] answers for any number of devices.

use std::path::{Path, PathBuf};

use uzram_blockdev::{Node, Survey, Users, shown};
use uzram_control::RunningDevice;
use uzram_spec::{Failure, Result};

use crate::{client, frontends};

/// The nodes of a device: the one that is served, and those that dead servers left.
pub(crate) struct Nodes {
    /// `None` where there is none, or what the record names is another's by now.
    pub(crate) living: Option<PathBuf>,
    /// Dead ones.
    pub(crate) dead: Vec<Node>,
}

impl Nodes {
    /// Those of a device.
    pub(crate) fn of(survey: &Survey, entry: &RunningDevice) -> Nodes {
        let path = PathBuf::from(&entry.record.path);
        let frontend = frontends::by_name(&entry.record.frontend);
        match frontend.and_then(|frontend| frontend.nodes(&entry.dir, survey)) {
            Some(nodes) => {
                let (living, dead): (Vec<_>, _) =
                    nodes.into_iter().partition(|node| node.path == path);
                Nodes {
                    living: living.into_iter().next().map(|node| node.path),
                    dead,
                }
            }
            None => Nodes {
                living: Some(path),
                dead: frontend.map_or(Vec::new(), |f| f.dead_nodes(&entry.dir, survey)),
            },
        }
    }
}

/// Finds who uses a device: its node, what lies on that, and nodes that dead servers left. Where nobody is found the kernel
/// is asked, who refuses a device to a second one who wants it for himself.
pub fn users(survey: &Survey, entry: &RunningDevice) -> Users {
    let Nodes { living, dead } = Nodes::of(survey, entry);
    let mut users = Users::default();
    if let Some(node) = living {
        users = survey.users(&node);
        ask_kernel(survey, &node, &mut users);
    }
    users.0.extend(survey.users_of_dead(&dead).0);
    users
}

fn ask_kernel(survey: &Survey, node: &Path, users: &mut Users) {
    if users.is_empty() || users.is_passing() {
        users.0.extend(survey.held(node));
    }
}

/// Finds where a device is mounted, swapped on or stacked on: like [`users`], without processes that have it open, which
/// take longest to find. The kernel is asked where a swap area may be the device's and its node cannot be told.
pub fn mounts(survey: &Survey, entry: &RunningDevice) -> Users {
    let Nodes { living, dead } = Nodes::of(survey, entry);
    let mut users = Users::default();
    if let Some(node) = living {
        users = survey.users_but_openers(&node);
        if survey.may_be_swap(&node) {
            ask_kernel(survey, &node, &mut users);
        }
    }
    users.0.extend(survey.users_of_dead_but_openers(&dead).0);
    users
}

/// Refuses if anybody uses a device, or nobody can serve it any more; `but` is said after who it is.
pub fn check_unused(entry: &RunningDevice, but: &str) -> Result {
    if let Some(death) = client::death(entry) {
        return Err(death);
    }
    let by = users(&Survey::new(), entry);
    if by.is_empty() {
        return Ok(());
    }
    let path = shown(Path::new(&entry.record.path));
    let message = format!("{path} is in use: {by}{but}");
    Err(Failure::busy(message))
}

/// Whether the block device that `entry` is, or was while a server lived, has this number.
pub(crate) fn has_number(survey: &Survey, entry: &RunningDevice, number: u64) -> bool {
    use std::os::linux::fs::MetadataExt;
    use std::os::unix::fs::FileTypeExt;
    let Nodes { living, dead } = Nodes::of(survey, entry);
    let is_it = |node: &Path| {
        std::fs::metadata(node)
            .is_ok_and(|node| node.file_type().is_block_device() && node.st_rdev() == number)
    };
    living.iter().any(|node| is_it(node)) || dead.iter().any(|node| node.number == number)
}
