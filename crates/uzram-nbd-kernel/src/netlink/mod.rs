//! Generic netlink: its messages, and a socket that talks to one family.

mod family;
mod message;

pub(crate) use family::{Family, NetlinkRefusal};
pub(crate) use message::{NetlinkRequest, attribute, u32_at};
