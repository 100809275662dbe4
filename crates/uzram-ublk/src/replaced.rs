//! The nodes that a device had: where the driver gives a device up it is put behind another node, and whoever had mounted the
//! old one still has it. The kernel knows that one by its number alone, so each is noted when it is made.
//!
//! A number is given to no other device while somebody uses it. One that the kernel has again is not dead.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{major, makedev, minor};
use uzram_blockdev::{Node, Survey};

/// What the names of the notes begin with: `node-MAJOR:MINOR`, a file with the node's path.
const PREFIX: &str = "node-";

/// Notes the node of the device at `dir`.
pub(crate) fn note(dir: &Path, node: &Path) -> io::Result<()> {
    let Some(node) = Node::at(node) else {
        return Ok(());
    };
    let (major, minor) = (major(node.number), minor(node.number));
    let file = dir.join(format!("{PREFIX}{major}:{minor}"));
    fs::write(file, node.path.as_os_str().as_encoded_bytes())
}

/// The nodes that the device at `dir` had and that are not there any more.
pub(crate) fn dead_nodes(dir: &Path, survey: &Survey) -> Vec<Node> {
    let mut dead = noted(dir);
    dead.retain(|node| !survey.has(node.number));
    dead
}

fn noted(dir: &Path) -> Vec<Node> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let node = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let (major, minor) = name.to_str()?.strip_prefix(PREFIX)?.split_once(':')?;
        Some(Node {
            path: PathBuf::from(fs::read_to_string(entry.path()).ok()?),
            number: makedev(major.parse().ok()?, minor.parse().ok()?),
        })
    };
    entries.filter_map(node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_and_not_there_is_dead() {
        let dir = std::env::temp_dir().join(format!("uzram-ublk-nodes-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for name in ["node-259:1048000", "node-x:1", "node-", "nodes"] {
            fs::write(dir.join(name), "/dev/ublkb7").unwrap();
        }
        // No block device.
        note(&dir, Path::new("/dev/null")).unwrap();
        let dead = dead_nodes(&dir, &Survey::new());
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(
            dead,
            [Node {
                path: "/dev/ublkb7".into(),
                number: makedev(259, 1_048_000),
            }]
        );
    }
}
