//! The compression algorithms under the names that zram gives them.

use std::sync::{Arc, OnceLock};

use uzram::PRIORITIES;
use uzram::compress::{Algorithm, Error, Registry};

use crate::stat::Stat;

/// Names that no kernel has: our own formats, and no compression.
const OURS_ALONE: &[&str] = &["wk64", "lzhs", "null"];

/// The algorithms, and why built-in ones were left out.
static REGISTRY: OnceLock<(Registry, Vec<Error>)> = OnceLock::new();

fn checked() -> &'static (Registry, Vec<Error>) {
    REGISTRY.get_or_init(Registry::builtin_checked)
}

/// The algorithms of this program: the built-in ones, unless [`provide_algorithms`] set others.
pub fn registry() -> &'static Registry {
    &checked().0
}

/// Why built-in algorithms were left out. Empty where the program set its own.
pub fn left_out() -> &'static [Error] {
    &checked().1
}

/// Replaces the built-in algorithms. Returns false if it is too late: some algorithm has been looked up already.
pub fn provide_algorithms(algorithms: Registry) -> bool {
    REGISTRY.set((algorithms, Vec::new())).is_ok()
}

/// Finds the algorithm of that name. Drivers' names do not count.
pub(crate) fn find(name: &str) -> Option<&'static Arc<dyn Algorithm>> {
    let known = registry().names().contains(&name);
    registry().find(name).ok().filter(|_| known)
}

/// All names in the kernel's order; with `strict` only those that the kernel has, too.
pub fn names(strict: bool) -> Vec<&'static str> {
    let mut names = registry().names();
    names.retain(|name| !strict || !OURS_ALONE.contains(name));
    names
}

/// The algorithm of a new device.
pub fn default_name() -> &'static str {
    names(true).first().copied().unwrap_or("null")
}

/// Where an algorithm does not train itself: that to allow or forbid it has no effect, in words.
pub fn without_training(name: &str) -> Option<String> {
    let algorithm = registry().find(name).ok()?;
    let what = || {
        format!(
            "train has no effect now: {} does not train itself",
            algorithm.name()
        )
    };
    (!algorithm.trains_itself()).then(what)
}

/// The names as `comp_algorithm` shows them, `chosen` in brackets: that one also where the kernel lacks it.
pub(crate) fn list(chosen: &str, strict: bool) -> String {
    let shown = names(strict);
    let mut text = String::new();
    for name in names(false) {
        if name == chosen {
            text += &format!("[{name}] ");
        } else if shown.contains(&name) {
            text += name;
            text.push(' ');
        }
    }
    text + "\n"
}

/// The algorithms of an initialised device by priority.
pub(super) fn from_stat(stat: &Stat) -> [Option<String>; PRIORITIES] {
    let mut all = [const { None }; PRIORITIES];
    for codec in &stat.codecs {
        for priority in &codec.priorities {
            if let Some(place) = all.get_mut(*priority) {
                *place = Some(codec.algorithm.clone());
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_one_is_shown_where_no_kernel_has_it() {
        let of_kernel = "lzo-rle lzo lz4 lz4hc zstd deflate 842 ";
        assert_eq!(list("lzhs", true), format!("{of_kernel}[lzhs] \n"));
        assert_eq!(list("null", true), format!("{of_kernel}[null] \n"));
        assert_eq!(list("", true), format!("{of_kernel}\n"));
        assert_eq!(
            list("wk64", false),
            format!("{of_kernel}[wk64] lzhs null \n")
        );
    }
}
