//! A netlink socket that talks to one generic netlink family.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, netlink, sockopt};

use uzram_blockdev::StepError;

use super::message::{NetlinkReply, NetlinkRequest, attribute, replies, u16_at, u32_at};
use crate::Error;
use crate::sys;

/// The family that looks up the others, and its numbers.
mod control {
    pub(super) const FAMILY: u16 = 0x10;
    pub(super) const VERSION: u8 = 1;
    pub(super) const GETFAMILY: u8 = 3;
    pub(super) const ATTR_FAMILY_ID: u16 = 1;
    pub(super) const ATTR_FAMILY_NAME: u16 = 2;
    pub(super) const ATTR_MAXATTR: u16 = 5;
}

/// Bytes of the longest reply, which lists a family's commands.
const REPLY: usize = 32 << 10;
/// How long to wait for the kernel, which answers before the request's system call returns. Guards against a bug only.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A generic netlink family and the socket that reaches it.
pub(crate) struct Family {
    socket: OwnedFd,
    id: u16,
    version: u8,
    /// The highest attribute that this kernel knows.
    pub(crate) max_attribute: u32,
    sequence: u32,
}

/// The kernel's refusal of a request.
pub(crate) struct NetlinkRefusal {
    pub(crate) errno: Errno,
    /// The kernel's own explanation, where it gave one.
    pub(crate) words: Option<String>,
}

impl From<Errno> for NetlinkRefusal {
    fn from(errno: Errno) -> NetlinkRefusal {
        NetlinkRefusal { errno, words: None }
    }
}

impl Family {
    /// Looks the family up. `None` if the kernel does not have it now.
    pub(crate) fn open(name: &str, version: u8) -> Result<Option<Family>, Error> {
        let socket = connect().map_err(StepError::at("opening a netlink socket"))?;
        let mut family = Family {
            socket,
            id: control::FAMILY,
            version: control::VERSION,
            max_attribute: 0,
            sequence: 0,
        };
        let mut request = family.request(control::GETFAMILY);
        request.string(control::ATTR_FAMILY_NAME, name);
        let answer = match family.send(request) {
            Ok(answer) => answer,
            Err(NetlinkRefusal {
                errno: Errno::NOENT,
                ..
            }) => return Ok(None),
            Err(refusal) => {
                let step = format!("looking up the netlink family {name:?}");
                return Err(StepError::at(step)(refusal.errno).into());
            }
        };
        let id = attribute(&answer, control::ATTR_FAMILY_ID).and_then(|id| u16_at(id, 0));
        let Some(id) = id else { return Ok(None) };
        family.id = id;
        let max = attribute(&answer, control::ATTR_MAXATTR).and_then(|max| u32_at(max, 0));
        family.max_attribute = max.unwrap_or(0);
        family.version = version;
        Ok(Some(family))
    }

    /// Begins a request to the family.
    pub(crate) fn request(&self, command: u8) -> NetlinkRequest {
        NetlinkRequest::new(self.id, command, self.version)
    }

    /// Sends a request and waits for the kernel's verdict. Returns the attributes of its answer, none if there was none.
    pub(crate) fn send(&mut self, request: NetlinkRequest) -> Result<Vec<u8>, NetlinkRefusal> {
        self.sequence += 1;
        let request = request.finish(self.sequence);
        retry(|| net::send(&self.socket, &request, net::SendFlags::empty()))?;
        let mut answer = Vec::new();
        let mut buffer = vec![0; REPLY];
        loop {
            let received = || net::recv(&self.socket, &mut buffer[..], net::RecvFlags::empty());
            let (_, len) = retry(received)?;
            for (sequence, reply) in replies(&buffer[..len.min(REPLY)]) {
                match reply {
                    _ if sequence != self.sequence => {}
                    NetlinkReply::Answer(attributes) => answer = attributes.to_vec(),
                    NetlinkReply::Ack(Ok(())) => return Ok(answer),
                    NetlinkReply::Ack(Err((errno, words))) => {
                        return Err(NetlinkRefusal { errno, words });
                    }
                }
            }
        }
    }
}

fn connect() -> io::Result<OwnedFd> {
    let socket = net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::GENERIC),
    )?;
    net::connect(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_LIMIT))?;
    // Kernels before 4.12 only give numbers.
    if let Err(error) = sys::want_reasons(socket.as_fd()) {
        tracing::debug!(%error, "netlink without extended acknowledgements");
    }
    Ok(socket)
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_family_finds_itself_and_no_other() {
        let family = Family::open("nlctrl", 2).unwrap().unwrap();
        assert_eq!(family.id, control::FAMILY);
        assert!(Family::open("no-such-family", 1).unwrap().is_none());
    }

    #[test]
    fn refusals_are_errors_with_the_kernels_words() {
        let mut family = Family::open("nlctrl", 2).unwrap().unwrap();
        let request = family.request(200);
        let refusal = family.send(request).err().unwrap();
        assert_eq!(refusal.errno, Errno::OPNOTSUPP);
        // A name that is longer than the policy allows: older kernels say ERANGE.
        let mut request = family.request(control::GETFAMILY);
        request.string(control::ATTR_FAMILY_NAME, &"x".repeat(100));
        let refusal = family.send(request).err().unwrap();
        let errno = refusal.errno;
        assert!(matches!(errno, Errno::RANGE | Errno::INVAL), "{errno:?}");
        assert!(refusal.words.is_some_and(|words| !words.is_empty()));
        // The socket still works.
        let mut request = family.request(control::GETFAMILY);
        request.string(control::ATTR_FAMILY_NAME, "nlctrl");
        assert!(family.send(request).is_ok_and(|answer| !answer.is_empty()));
    }
}
