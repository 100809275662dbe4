//! What a server gives up before it serves: every capability that its frontend does not need, and for good the right to gain
//! others by executing a program.
//!
//! Both are properties of a thread, so this happens while there is only one. The keeper stays as it is: it does next to
//! nothing, and starts servers and newer programs that need what a server has given up. Should a server have to start
//! another keeper, that one has what the server has, which is what it takes to serve the same device again.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
    set_no_new_privs,
};
use uzram_control::SERVER_SOCKET;
use uzram_frontend::Frontend;
use uzram_spec::DeviceSpec;

/// What the processes of a swap device need: locked memory, its place among those that are killed, real-time threads.
const SWAP: CapabilitySet = CapabilitySet::IPC_LOCK
    .union(CapabilitySet::SYS_RESOURCE)
    .union(CapabilitySet::SYS_NICE);

/// Gives up what the server of this device does not need. What the system refuses of that is logged: it serves all the same.
pub(crate) fn give_up(frontend: &dyn Frontend, spec: &DeviceSpec, dir: &Path) {
    let mut kept = frontend.capabilities(&spec.frontend);
    if spec.is_swap() {
        kept |= SWAP;
    }
    let given_up = keep(kept).and_then(|()| {
        if paths(frontend, spec, dir)
            .iter()
            .any(|(path, how)| is_closed(path, *how))
        {
            kept |= CapabilitySet::DAC_OVERRIDE;
        }
        keep_for_good(kept)
    });
    if let Err(error) = given_up {
        crate::swap::told(
            "capabilities cannot be given up",
            "the server keeps what it has",
            error.into(),
        );
    }
}

/// Makes no other capability effective. It can be taken back.
fn keep(kept: CapabilitySet) -> rustix::io::Result<()> {
    let now = capabilities(None)?;
    let effective = now.permitted & kept;
    set_capabilities(None, CapabilitySets { effective, ..now })
}

fn keep_for_good(kept: CapabilitySet) -> rustix::io::Result<()> {
    set_no_new_privs(true)?;
    // Refused by a kernel that knows none.
    let _ = clear_ambient_capability_set();
    let permitted = capabilities(None)?.permitted & kept;
    let sets = CapabilitySets {
        effective: permitted,
        permitted,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)
}

/// Files that the server of a device opens or makes, and how.
fn paths(frontend: &dyn Frontend, spec: &DeviceSpec, dir: &Path) -> Vec<(PathBuf, Access)> {
    let write = Access::READ_OK | Access::WRITE_OK;
    let algorithms = std::iter::once(&spec.algorithm).chain(&spec.recomp_algorithm);
    let params = algorithms.flat_map(|algorithm| &algorithm.params);
    let dictionaries = params
        .filter(|(key, _)| key == "dict")
        .map(|(_, path)| (PathBuf::from(path), Access::READ_OK));
    let backing = spec.backing.iter().filter(|b| !b.is_remote());
    let backing = backing.map(|b| (b.path.clone(), write));
    // A clone's are opened again where they were away.
    let source = spec.from.iter().flat_map(|from| from.paths());
    let source = source.map(|path| (path.to_owned(), Access::READ_OK));
    let own = frontend.opens(&spec.frontend);
    // Its directory may lie in one of somebody else's.
    let own = own.into_iter().chain([dir.join(SERVER_SOCKET)]);
    let own = own.map(|path| (path, write));
    dictionaries
        .chain(backing)
        .chain(source)
        .chain(own)
        .collect()
}

/// Whether this process may not do that with a file, or may not make it where there is none: it belongs to somebody else,
/// and to override that takes a capability.
pub(crate) fn is_closed(path: &Path, how: Access) -> bool {
    let refused = |path: &Path, how| accessat(CWD, path, how, AtFlags::EACCESS).err();
    match refused(path, how) {
        Some(Errno::NOENT) => {
            let make = Access::WRITE_OK | Access::EXEC_OK;
            let parent = path.parent();
            parent.is_some_and(|parent| refused(parent, make) == Some(Errno::ACCESS))
        }
        other => other == Some(Errno::ACCESS),
    }
}
