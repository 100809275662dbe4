//! Nodes that dead servers left and somebody still uses: who that is, what is refused meanwhile, and what is said where they
//! are given up.

use std::path::Path;
use std::time::Duration;

use uzram_blockdev::{Busy, Error, Node, Survey, Users, shown};
use uzram_spec::{Failure, Result};

use crate::kind_of_node;

/// Finds who uses dead nodes, which `nodes` picks. Whoever looks at one in passing, as udev does at each that was
/// unmounted, is given half a second.
pub fn users_of_dead(nodes: impl Fn(&Survey) -> Vec<Node>) -> Users {
    let mut users = Users::default();
    for _ in 0..50 {
        let survey = Survey::new();
        users = survey.users_of_dead(&nodes(&survey));
        if !users.is_passing() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    users
}

/// Refuses while a dead node is in use: its user has not moved to the new node, and the contents are his.
pub fn check_dead(node: &Path, by: Users) -> Result {
    if by.is_empty() {
        return Ok(());
    }
    let path = node.into();
    let error = Error::Busy { path, by };
    Err(Failure::new(kind_of_node(&error), error))
}

/// Says of each dead node what becomes of it where the device goes.
pub fn words_of_dead(users: &Users) -> Vec<String> {
    let word = |by: &Busy| match by {
        Busy::Dead { node, by } => {
            let node = shown(node);
            format!("{node}, which is dead, stays {by:#}, and goes with its last user")
        }
        other => format!("{other:#}"),
    };
    users.0.iter().map(word).collect()
}
