//! A netlink socket that talks to one generic netlink family.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, netlink, sockopt};

use crate::Error;
use crate::message::{Reply, Request, attribute, replies, system_error, u16_at, u32_at};
use crate::sys;

/// The family that knows the others, and its numbers.
mod control {
    pub(super) const FAMILY: u16 = 0x10;
    pub(super) const VERSION: u8 = 1;
    pub(super) const GETFAMILY: u8 = 3;
    pub(super) const ATTR_FAMILY_ID: u16 = 1;
    pub(super) const ATTR_FAMILY_NAME: u16 = 2;
    pub(super) const ATTR_MAXATTR: u16 = 5;
}

/// Room for any reply: the longest lists a family's commands.
const REPLY: usize = 32 << 10;
/// The kernel answers before the request's system call returns; this only keeps a bug from hanging us.
const PATIENCE: Duration = Duration::from_secs(10);

/// A family, with the socket to reach it.
pub(crate) struct Family {
    socket: OwnedFd,
    id: u16,
    version: u8,
    /// The highest attribute that this kernel knows.
    pub(crate) max_attribute: u32,
    sequence: u32,
}

/// Why the kernel did not do what a request asked for.
pub(crate) struct Refusal {
    pub(crate) source: io::Error,
    /// The kernel's own words, where it had any.
    pub(crate) words: Option<String>,
}

impl From<io::Error> for Refusal {
    fn from(source: io::Error) -> Refusal {
        Refusal {
            source,
            words: None,
        }
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Refusal {
        io::Error::from(errno).into()
    }
}

impl Family {
    /// Looks the family up; [`Error::NoFamily`] if the kernel does not have it now.
    pub(crate) fn open(name: &str, version: u8) -> Result<Family, Error> {
        let socket = connect().map_err(Error::at("opening a netlink socket"))?;
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
            Err(Refusal { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoFamily);
            }
            other => other.map_err(|refusal| Error::System {
                step: format!("looking up the netlink family {name:?}"),
                source: refusal.source,
            })?,
        };
        let id = attribute(&answer, control::ATTR_FAMILY_ID).and_then(|id| u16_at(id, 0));
        family.id = id.ok_or(Error::NoFamily)?;
        let max = attribute(&answer, control::ATTR_MAXATTR).and_then(|max| u32_at(max, 0));
        family.max_attribute = max.unwrap_or(0);
        family.version = version;
        Ok(family)
    }

    /// Begins a request to the family.
    pub(crate) fn request(&self, command: u8) -> Request {
        Request::new(self.id, command, self.version)
    }

    /// Sends a request and waits for the kernel's verdict; the attributes of its answer, if there was one.
    pub(crate) fn send(&mut self, request: Request) -> Result<Vec<u8>, Refusal> {
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
                    Reply::Answer(attributes) => answer = attributes.to_vec(),
                    Reply::Ack(Ok(())) => return Ok(answer),
                    Reply::Ack(Err((errno, words))) => {
                        let source = system_error(errno);
                        return Err(Refusal { source, words });
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
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    // Kernels before 4.12 do not have it, and errors are numbers there.
    if let Err(error) = sys::want_reasons(socket.as_fd()) {
        tracing::debug!("netlink without extended acknowledgements: {error}");
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
        let family = Family::open("nlctrl", 2).unwrap();
        assert_eq!(family.id, control::FAMILY);
        let missing = Family::open("no-such-family", 1).err().unwrap();
        assert!(matches!(missing, Error::NoFamily), "{missing}");
    }

    #[test]
    fn refusals_are_errors_with_the_kernels_words() {
        let mut family = Family::open("nlctrl", 2).unwrap();
        let request = family.request(200);
        let refusal = family.send(request).err().unwrap();
        assert_eq!(refusal.source.raw_os_error(), Some(libc::EOPNOTSUPP));
        // A name that is longer than the policy allows: older kernels say ERANGE.
        let mut request = family.request(control::GETFAMILY);
        request.string(control::ATTR_FAMILY_NAME, &"x".repeat(100));
        let refusal = family.send(request).err().unwrap();
        let errno = refusal.source.raw_os_error();
        assert!(
            matches!(errno, Some(libc::ERANGE | libc::EINVAL)),
            "{errno:?}"
        );
        assert!(refusal.words.is_some_and(|words| !words.is_empty()));
        // The socket still works.
        let mut request = family.request(control::GETFAMILY);
        request.string(control::ATTR_FAMILY_NAME, "nlctrl");
        assert!(family.send(request).is_ok_and(|answer| !answer.is_empty()));
    }
}
