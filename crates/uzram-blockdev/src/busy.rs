//! What keeps a block device in use, in words. The kernel only says EBUSY.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::{Survey, shown};

/// What keeps a block device in use. `{}` adds what to do about it, `{:#}` leaves that out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Busy {
    /// It is mounted at this path, itself or below an overlay.
    Mounted(PathBuf),
    /// It is mounted in another mount namespace.
    MountedElsewhere {
        /// The path, as a process of that namespace sees it.
        at: PathBuf,
        /// That process's number.
        pid: u32,
        /// That process's name.
        name: String,
    },
    /// A file system of this kind is active on it, and no mount table shows it: a lazy unmount, an overlay.
    Filesystem(String),
    /// It is a swap area.
    Swap,
    /// It is a swap area by a node that cannot be seen from here: of another mount namespace, or removed since. This one, by
    /// the kernel's name, ends it as well.
    SwapElsewhere(PathBuf),
    /// A file of its file system is a swap area.
    SwapFile(PathBuf),
    /// Another block device (device mapper, md, bcache) is stacked on it.
    Holder(String),
    /// A loop device lies on it.
    Loop {
        /// The loop device's name.
        name: String,
        /// The file behind the loop device.
        file: PathBuf,
    },
    /// A block device on it, such as a partition, is in use.
    Above {
        /// The name of that device.
        name: String,
        /// What keeps that one in use.
        by: Box<Busy>,
    },
    /// A process has it open.
    Open {
        /// The process's number.
        pid: u32,
        /// The process's name.
        name: String,
    },
    /// A node that a dead server left, and whose contents the device holds, is in use.
    Dead {
        /// The dead node.
        node: PathBuf,
        /// What keeps it in use.
        by: Box<Busy>,
    },
    /// That many clients of a socket are connected.
    Clients(u64),
    /// The kernel refuses it, and nothing that this process can see explains why.
    Elsewhere,
}

impl Busy {
    /// The mount point or `[SWAP]`, as zramctl shows it. With `plain`, only what `umount` takes in this mount namespace;
    /// without, what is peculiar about it stands behind it in parentheses.
    pub fn mount_point(&self, plain: bool) -> Option<String> {
        match self {
            // What umount takes, where it is text.
            Busy::Mounted(at) if plain => {
                Some(at.to_str().map_or_else(|| shown(at), str::to_owned))
            }
            Busy::Mounted(at) => Some(shown(at)),
            Busy::Swap | Busy::SwapElsewhere(_) => Some("[SWAP]".into()),
            Busy::SwapFile(_) if plain => Some("[SWAP]".into()),
            Busy::SwapFile(file) => Some(format!("[SWAP {}]", shown(file))),
            Busy::MountedElsewhere { at, pid, .. } if !plain => {
                Some(format!("{} (namespace of process {pid})", shown(at)))
            }
            Busy::Above { by, .. } => by.mount_point(plain),
            Busy::Dead { node, by } => {
                let at = by.mount_point(plain)?;
                match plain {
                    true => Some(at),
                    false => Some(format!("{at} (dead {})", shown(node))),
                }
            }
            _ => None,
        }
    }

    /// Whether it may be over in a moment.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Busy::Open { .. } | Busy::Elsewhere | Busy::SwapElsewhere(_) => true,
            Busy::Above { by, .. } | Busy::Dead { by, .. } => by.is_passing(),
            _ => false,
        }
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = f.alternate();
        let advice = |f: &mut fmt::Formatter<'_>, advice: &str| match plain {
            true => Ok(()),
            false => write!(f, " ({advice})"),
        };
        match self {
            Busy::Mounted(at) => {
                write!(f, "mounted at {}", shown(at))?;
                advice(f, "umount it first")
            }
            Busy::MountedElsewhere { at, pid, name } => {
                let at = shown(at);
                write!(
                    f,
                    "mounted at {at} in the mount namespace of process {pid} ({name})"
                )?;
                advice(
                    f,
                    &format!("nsenter --mount --target {pid} umount {at}, or end the process"),
                )
            }
            Busy::Filesystem(kind) => {
                write!(f, "held by its {kind} file system")?;
                advice(
                    f,
                    "no mount of it is to be seen: a lazy unmount or an overlay",
                )
            }
            Busy::Swap => {
                write!(f, "swapped on")?;
                advice(f, "swapoff it first")
            }
            Busy::SwapElsewhere(node) => {
                write!(f, "swapped on by a node that cannot be seen from here")?;
                advice(f, &format!("swapoff {} first", shown(node)))
            }
            Busy::SwapFile(file) => {
                write!(f, "swapped to, in the file {}", shown(file))?;
                advice(f, &format!("swapoff {} first", shown(file)))
            }
            Busy::Holder(name) => write!(f, "held by /dev/{name}"),
            Busy::Loop { name, file } => {
                write!(f, "below /dev/{name}, whose file is {}", shown(file))?;
                advice(f, &format!("losetup -d /dev/{name} first"))
            }
            Busy::Above { name, by } => match plain {
                true => write!(f, "below /dev/{name}, which is {by:#}"),
                false => write!(f, "below /dev/{name}, which is {by}"),
            },
            Busy::Open { pid, name } => write!(f, "open in process {pid} ({name})"),
            Busy::Dead { node, by } => {
                let node = shown(node);
                match plain {
                    true => write!(f, "behind {node}, a dead node that is {by:#}"),
                    false => write!(f, "behind {node}, a dead node that is {by}"),
                }
            }
            Busy::Clients(1) => write!(f, "1 client is connected"),
            Busy::Clients(n) => write!(f, "{n} clients are connected"),
            Busy::Elsewhere => write!(
                f,
                "held by the kernel, or by a process that cannot be seen from here"
            ),
        }
    }
}

/// All that keeps a block device in use, the nearest first. Shown as one sentence; `{:#}` leaves out what to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Users(pub Vec<Busy>);

/// How many users a sentence names.
const NAMED: usize = 4;

impl Users {
    /// Whether nobody uses it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all of them may be gone in a moment: udev opens each device after a write or an unmount.
    pub fn is_passing(&self) -> bool {
        !self.is_empty() && self.0.iter().all(Busy::is_passing)
    }

    /// Where it is mounted, each once: see [`Busy::mount_point`].
    pub fn mount_points(&self, plain: bool) -> Vec<String> {
        let mut all = Vec::new();
        for at in self.0.iter().filter_map(|by| by.mount_point(plain)) {
            if !all.contains(&at) {
                all.push(at);
            }
        }
        all
    }
}

impl From<Busy> for Users {
    fn from(by: Busy) -> Users {
        Users(vec![by])
    }
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, by) in self.0.iter().take(NAMED).enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            by.fmt(f)?;
        }
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// Finds who uses the block device at `node`, if anybody does: the first that a [`Survey`] finds. Who asks about several
/// devices takes one survey for all.
pub fn busy(node: &Path) -> Option<Busy> {
    Survey::new().users(node).0.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_given_where_it_helps() {
        let mounted = Busy::Mounted("/mnt".into());
        assert_eq!(mounted.to_string(), "mounted at /mnt (umount it first)");
        assert_eq!(format!("{mounted:#}"), "mounted at /mnt");
        assert_eq!(format!("{:#}", Busy::Swap), "swapped on");
        let partition = Busy::Above {
            name: "loop0p1".into(),
            by: mounted.into(),
        };
        assert_eq!(
            partition.to_string(),
            "below /dev/loop0p1, which is mounted at /mnt (umount it first)"
        );
        assert_eq!(
            format!("{partition:#}"),
            "below /dev/loop0p1, which is mounted at /mnt"
        );
    }

    #[test]
    fn mount_points_say_what_is_peculiar_about_them() {
        let mounted = Busy::Mounted("/mnt".into());
        let dead = Busy::Dead {
            node: "/dev/loop0".into(),
            by: mounted.clone().into(),
        };
        let elsewhere = Busy::MountedElsewhere {
            at: "/box".into(),
            pid: 7,
            name: "sh".into(),
        };
        let users = Users(vec![mounted, dead, elsewhere, Busy::Elsewhere]);
        assert_eq!(users.mount_points(true), ["/mnt"]);
        assert_eq!(
            users.mount_points(false),
            [
                "/mnt",
                "/mnt (dead /dev/loop0)",
                "/box (namespace of process 7)"
            ]
        );
    }

    #[test]
    fn a_sentence_names_some_users_and_counts_the_others() {
        let open = |pid| Busy::Open {
            pid,
            name: "dd".into(),
        };
        let users = Users((1..=6).map(open).collect());
        assert!(
            users
                .to_string()
                .ends_with("open in process 4 (dd); and 2 more")
        );
        assert_eq!(Users::from(open(9)).to_string(), "open in process 9 (dd)");
    }

    #[test]
    fn a_node_that_is_not_there_is_not_busy() {
        assert_eq!(busy(Path::new("/dev/no-such-device")), None);
    }
}
