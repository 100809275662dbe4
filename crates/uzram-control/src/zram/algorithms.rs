//! Algorithms as zram names them.

use std::sync::{Arc, OnceLock};

use uzram::compress::{Algorithm, Error, Registry};

/// Names that no kernel has: of our own format, and of no compression.
const OURS_ALONE: &[&str] = &["wk64", "null"];

/// The algorithms, and why others that were built in are none.
static REGISTRY: OnceLock<(Registry, Vec<Error>)> = OnceLock::new();

fn checked() -> &'static (Registry, Vec<Error>) {
    REGISTRY.get_or_init(Registry::builtin_checked)
}

/// The algorithms that this program has: the built-in ones, unless it was [given](provide_algorithms) others.
pub fn registry() -> &'static Registry {
    &checked().0
}

/// Why built-in algorithms were left out. Nothing where the program was given its own.
pub fn left_out() -> &'static [Error] {
    &checked().1
}

/// Lets a program have other algorithms than the built-in ones. Whether it was in time: nobody has asked for one yet.
pub fn provide_algorithms(algorithms: Registry) -> bool {
    REGISTRY.set((algorithms, Vec::new())).is_ok()
}

/// The algorithm of that name; drivers' names are none.
pub(crate) fn find(name: &str) -> Option<&'static Arc<dyn Algorithm>> {
    let known = registry().names().contains(&name);
    registry().find(name).ok().filter(|_| known)
}

/// The names that there are, in the kernel's order; `strict`: only those that the kernel has, too.
pub fn names(strict: bool) -> Vec<&'static str> {
    let mut names = registry().names();
    names.retain(|name| !strict || !OURS_ALONE.contains(name));
    names
}

/// The algorithm that a new device has.
pub fn default_name() -> &'static str {
    names(true).first().copied().unwrap_or("null")
}

/// The names, that of `chosen` in brackets: what `comp_algorithm` reads as.
pub(crate) fn list(chosen: &str, strict: bool) -> String {
    let mut text = String::new();
    for name in names(strict) {
        if name == chosen {
            text += &format!("[{name}] ");
        } else {
            text += name;
            text.push(' ');
        }
    }
    text + "\n"
}
