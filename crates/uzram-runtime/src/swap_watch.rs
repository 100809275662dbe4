//! Warns where a device becomes a swap area whose frontend cannot serve one: a thread that sleeps until the kernel's table of
//! swap areas changes.
//!
//! `uzram create --swap` refuses such frontends. `swapon` is not ours to refuse.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use uzram::Device;
use uzram_blockdev::{Survey, SwapWatch, is_swap_area, shown, swap_on_nbd_client};
use uzram_frontend::Frontend;

use crate::{frontends, process};

/// What is wrong with it, and what to do. `zram0` and `/dev/loop0` are device and node, a partition or a file on it.
pub fn unsafe_swap(name: &str, node: &str, frontend: &str) -> String {
    let fit = frontends::all().iter().filter(|f| f.can_swap());
    let fit: Vec<_> = fit.map(|f| f.name()).collect();
    format!(
        "WARNING: {name} ({node}) is used as swap, and the frontend {frontend} is not safe for that: to write a page out \
         the kernel may need memory which only that write makes free, and then this machine hangs. Do now: swapoff {node}. \
         Use instead: uzram create --swap, which takes the frontend {}. Nor can this machine hibernate to {name}. \
         --allow-unsafe-swap silences this",
        fit.join(" or ")
    )
}

/// Where a device may be swapped to.
enum SwapPlace {
    Node(PathBuf),
    /// On any NBD client of this machine that shows these contents.
    Client(Arc<Device>),
}

impl SwapPlace {
    /// The node or file to call `swapoff` with, if the device is swap.
    fn swap(&self) -> Option<PathBuf> {
        match self {
            SwapPlace::Node(node) => Survey::new().swap_over(node),
            SwapPlace::Client(device) => {
                let area = swap_on_nbd_client(device.size_bytes())?;
                let is_it = is_swap_area(|bytes, at| device.read_at(bytes, at).is_ok());
                is_it.then_some(area.path)
            }
        }
    }
}

/// Watches the device `name` as long as this process lives. Does nothing where the frontend may serve swap.
pub(crate) fn start(name: &str, path: &str, frontend: &dyn Frontend, device: &Arc<Device>) {
    if frontend.can_swap() {
        return;
    }
    let place = match Path::new(path).is_absolute() {
        true => SwapPlace::Node(path.into()),
        false => SwapPlace::Client(device.clone()),
    };
    let (name, frontend) = (name.to_owned(), frontend.name());
    let work = move || watch(&name, &place, frontend);
    if let Err(error) = process::spawn("swap-watch", work) {
        tracing::warn!(%error, "nobody will say if this device is used as swap");
    }
}

fn watch(name: &str, place: &SwapPlace, frontend: &str) {
    let mut table = match SwapWatch::open() {
        Ok(table) => table,
        // A kernel without swap.
        Err(error) => return tracing::debug!(%error, "swap areas"),
    };
    let mut known = false;
    loop {
        let swap = place.swap();
        match &swap {
            Some(node) if !known => {
                let node = shown(node);
                tracing::warn!("{}", unsafe_swap(name, &node, frontend));
            }
            None if known => tracing::info!(name, "is not used as swap any more"),
            _ => {}
        }
        known = swap.is_some();
        if let Err(error) = table.wait(None) {
            return tracing::warn!(%error, "nobody will say if this device is used as swap");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warning_names_node_and_remedy() {
        let text = unsafe_swap("zram0", "/dev/loop7", "fuse-loop");
        for words in [
            "WARNING: zram0 (/dev/loop7)",
            "swapoff /dev/loop7.",
            "takes the frontend ublk",
            "hibernate",
            "--allow-unsafe-swap",
        ] {
            assert!(text.contains(words), "{text}");
        }
    }
}
