//! zram's own interface: what the kernel shows below `/sys/block/zramN` and `/sys/class/zram-control`, exact to the byte and
//! to the errno.
//!
//! A [`Host`] is the model: the devices of one process and what they remember. A [`View`] is what others see of it: the sysfs
//! tree, the command line and the daemon's API need no more. It is the host itself, or a client of the host's process.
//!
//! An [`Engine`] makes the devices of a host. Each attribute is one constant in `attributes/`, listed in [`ATTRIBUTES`].

mod algorithms;
mod attribute;
mod attributes;
mod backing;
mod block_state;
mod classes;
mod config;
mod device;
mod engine;
mod host;
pub mod parse;
mod refusal;
mod view;

pub use rustix::io::Errno;

pub use algorithms::{
    default_name as default_algorithm, left_out as algorithms_left_out, names as algorithm_names,
    provide_algorithms, registry as algorithms, without_training,
};
pub use attribute::{Attribute, AttributePlace, Show, Store, Subject, WritableWhen};
pub use attributes::ATTRIBUTES;
pub(crate) use block_state::lines as block_state_lines;
pub use config::{AlgorithmParams, BackingConfig, Chosen, ZramConfig};
pub use device::Zram;
pub use engine::{Engine, Live};
pub use host::{Host, HostOptions, Saved, SavedDevice};
pub use refusal::Refusal;
pub use view::{AttributeOwner, ShownDevice, View};
