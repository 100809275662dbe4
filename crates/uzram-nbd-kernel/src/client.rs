//! The kernel's NBD client: the requests of the netlink family "nbd" (`linux/nbd-netlink.h`), and what a refusal means.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::netlink::{Family, NetlinkRefusal, NetlinkRequest, attribute, u32_at};
use crate::{Error, KernelNbdOptions, sysfs};

const NAME: &str = "nbd";
const VERSION: u8 = 1;

mod cmd {
    pub(super) const CONNECT: u8 = 1;
    pub(super) const DISCONNECT: u8 = 2;
    pub(super) const RECONFIGURE: u8 = 3;
}

mod attr {
    pub(super) const INDEX: u16 = 1;
    pub(super) const SIZE_BYTES: u16 = 2;
    pub(super) const BLOCK_SIZE_BYTES: u16 = 3;
    pub(super) const TIMEOUT: u16 = 4;
    pub(super) const SERVER_FLAGS: u16 = 5;
    pub(super) const SOCKETS: u16 = 7;
    pub(super) const DEAD_CONN_TIMEOUT: u16 = 8;
    pub(super) const BACKEND_IDENTIFIER: u16 = 10;
    pub(super) const SOCK_ITEM: u16 = 1;
    pub(super) const SOCK_FD: u16 = 1;
}

/// The shape of what is served, which the kernel is told, since it does not ask the server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) size_bytes: u64,
    pub(crate) block_size: u32,
    pub(crate) flags: u16,
}

/// The kernel's NBD client.
pub(crate) struct NbdClient(Family);

impl NbdClient {
    pub(crate) fn open() -> Result<NbdClient, Error> {
        let family = Family::open(NAME, VERSION)?;
        family.map(NbdClient).ok_or(Error::NoClient)
    }

    /// Whether the kernel remembers the name of what a device is connected to (5.13 and newer).
    pub(crate) fn keeps_identifiers(&self) -> bool {
        self.0.max_attribute >= attr::BACKEND_IDENTIFIER.into()
    }

    /// Connects a device to the servers at the other ends of `sockets`. Returns the device's index.
    pub(crate) fn connect(
        &mut self,
        geometry: &Geometry,
        options: &KernelNbdOptions,
        sockets: &[OwnedFd],
    ) -> Result<u32, Error> {
        let mut request = self.0.request(cmd::CONNECT);
        put_device(&mut request, geometry, options);
        put_connections(&mut request, options, &raw(sockets));
        self.put_identifier(&mut request, options);
        let answer = self.0.send(request).map_err(|refusal| {
            let path = options.index.map(sysfs::node);
            match path {
                Some(path) if refusal.errno == Errno::BUSY => Error::Taken { path },
                path => {
                    let device = path.unwrap_or_else(|| PathBuf::from("a free nbd device"));
                    refused("connecting", &device, refusal)
                }
            }
        })?;
        let told = attribute(&answer, attr::INDEX).and_then(|index| u32_at(index, 0));
        told.or(options.index).ok_or(Error::NoIndex)
    }

    /// Offers sockets in place of dead ones. The kernel takes as many as it needs and closes the others silently. Returns
    /// false if the device is not connected any more.
    pub(crate) fn reconfigure(
        &mut self,
        index: u32,
        options: &KernelNbdOptions,
        sockets: &[OwnedFd],
    ) -> Result<bool, Error> {
        let mut request = self.0.request(cmd::RECONFIGURE);
        request.u32(attr::INDEX, index);
        put_connections(&mut request, options, &raw(sockets));
        self.put_identifier(&mut request, options);
        match self.0.send(request) {
            Ok(_) => Ok(true),
            Err(NetlinkRefusal {
                errno: Errno::INVAL,
                ..
            }) => Ok(false),
            Err(refusal) => Err(refused("reconnecting", &sysfs::node(index), refusal)),
        }
    }

    /// Disconnects a device, whoever uses it.
    pub(crate) fn disconnect(&mut self, index: u32) -> Result<(), Error> {
        let mut request = self.0.request(cmd::DISCONNECT);
        request.u32(attr::INDEX, index);
        let sent = self.0.send(request).map(drop);
        sent.map_err(|refusal| refused("disconnecting", &sysfs::node(index), refusal))
    }

    fn put_identifier(&self, request: &mut NetlinkRequest, options: &KernelNbdOptions) {
        if self.keeps_identifiers() {
            request.string(attr::BACKEND_IDENTIFIER, &options.identifier());
        }
    }
}

fn raw(sockets: &[OwnedFd]) -> Vec<RawFd> {
    sockets.iter().map(AsRawFd::as_raw_fd).collect()
}

fn put_device(request: &mut NetlinkRequest, geometry: &Geometry, options: &KernelNbdOptions) {
    if let Some(index) = options.index {
        request.u32(attr::INDEX, index);
    }
    request.u64(attr::SIZE_BYTES, geometry.size_bytes);
    request.u64(attr::BLOCK_SIZE_BYTES, geometry.block_size.into());
    request.u64(attr::SERVER_FLAGS, geometry.flags.into());
}

fn put_connections(request: &mut NetlinkRequest, options: &KernelNbdOptions, sockets: &[RawFd]) {
    let timeout = seconds(options.dead_conn_timeout);
    request.u64(attr::DEAD_CONN_TIMEOUT, timeout.into());
    if let Some(limit) = options.request_timeout {
        request.u64(attr::TIMEOUT, seconds(limit).into());
    }
    request.nest(attr::SOCKETS, |list| {
        for socket in sockets {
            list.nest(attr::SOCK_ITEM, |item| {
                item.u32(attr::SOCK_FD, socket.cast_unsigned());
            });
        }
    });
}

/// Whole seconds, rounded up and limited to what the kernel can count in ticks.
fn seconds(time: std::time::Duration) -> u32 {
    const MOST: u64 = 1_000_000;
    let whole = time
        .as_secs()
        .saturating_add(u64::from(time.subsec_nanos() > 0));
    whole.min(MOST) as u32
}

fn refused(step: &str, device: &Path, refusal: NetlinkRefusal) -> Error {
    let hint = match refusal.errno {
        Errno::PERM => Some("it takes CAP_SYS_ADMIN, outside of containers"),
        Errno::NODEV | Errno::OPNOTSUPP => Some("the nbd module is being unloaded"),
        Errno::INVAL => Some("the kernel's log has the reason"),
        _ => None,
    };
    Error::Refused {
        step: format!("{step} {}", device.display()),
        reason: refusal.words.or(hint.map(str::to_owned)),
        source: refusal.errno,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_whole_seconds_and_never_less_than_asked_for() {
        for (time, expected) in [
            (Duration::ZERO, 0),
            (Duration::from_millis(1), 1),
            (Duration::from_secs(30), 30),
            (Duration::from_millis(30_001), 31),
            (Duration::MAX, 1_000_000),
        ] {
            assert_eq!(seconds(time), expected, "{time:?}");
        }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_device_and_its_connections_are_put_as_the_kernel_reads_them() {
        let mut options = KernelNbdOptions::new("z");
        options.index = Some(3);
        options.dead_conn_timeout = Duration::from_millis(59_001);
        options.request_timeout = Some(Duration::from_secs(7));
        let geometry = Geometry {
            size_bytes: 1 << 33,
            block_size: 512,
            flags: 0x0d6d,
        };
        let mut request = NetlinkRequest::new(0x1c, cmd::CONNECT, VERSION);
        put_device(&mut request, &geometry, &options);
        put_connections(&mut request, &options, &[9, 300]);
        let expected: &[&[u8]] = &[
            &[116, 0, 0, 0, 0x1c, 0, 5, 0, 2, 0, 0, 0, 0, 0, 0, 0],
            &[1, 1, 0, 0],
            &[8, 0, 1, 0, 3, 0, 0, 0],
            &[12, 0, 2, 0, 0, 0, 0, 0, 2, 0, 0, 0],
            &[12, 0, 3, 0, 0, 2, 0, 0, 0, 0, 0, 0],
            &[12, 0, 5, 0, 0x6d, 0x0d, 0, 0, 0, 0, 0, 0],
            &[12, 0, 8, 0, 60, 0, 0, 0, 0, 0, 0, 0],
            &[12, 0, 4, 0, 7, 0, 0, 0, 0, 0, 0, 0],
            &[28, 0, 7, 0x80],
            &[12, 0, 1, 0x80, 8, 0, 1, 0, 9, 0, 0, 0],
            &[12, 0, 1, 0x80, 8, 0, 1, 0, 44, 1, 0, 0],
        ];
        assert_eq!(request.finish(2), expected.concat());
    }

    #[test]
    fn refusals_say_why() {
        let why = |errno, words: Option<&str>| {
            let refusal = NetlinkRefusal {
                errno,
                words: words.map(str::to_owned),
            };
            refused("connecting", &sysfs::node(3), refusal).to_string()
        };
        let text = why(Errno::PERM, None);
        assert!(text.starts_with("connecting /dev/nbd3: "), "{text}");
        assert!(text.ends_with("(it takes CAP_SYS_ADMIN, outside of containers)"));
        let text = why(Errno::INVAL, Some("bad attribute"));
        assert!(text.ends_with("(bad attribute)"), "{text}");
    }
}
