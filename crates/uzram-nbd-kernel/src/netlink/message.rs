//! Generic netlink messages: builds requests and parses replies. No I/O.
//!
//! Everything is in the machine's own byte order and aligned to 4 bytes. Parsing never panics, whatever a reply holds: what
//! does not fit counts as absent.

use rustix::io::Errno;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `struct genlmsghdr`.
const GENL_HEADER: usize = 4;
/// Bytes of `struct nlattr`.
const ATTR_HEADER: usize = 4;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// In an acknowledgement: the request's body is left out.
const NLM_F_CAPPED: u16 = 0x100;
/// In an acknowledgement: attributes follow.
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLA_F_NESTED: u16 = 1 << 15;
/// The type of an attribute without its two flags.
const NLA_TYPE_MASK: u16 = 0x3fff;

fn align(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// A request to a generic netlink family, being built.
pub(crate) struct NetlinkRequest(Vec<u8>);

impl NetlinkRequest {
    /// Begins a request that the kernel acknowledges.
    pub(crate) fn new(family: u16, command: u8, version: u8) -> NetlinkRequest {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&family.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        bytes.extend([command, version, 0, 0]);
        NetlinkRequest(bytes)
    }

    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.nest_as(kind, |request| request.0.extend(value));
    }

    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    pub(crate) fn u64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// Adds a string and the NUL that the kernel expects behind it.
    pub(crate) fn string(&mut self, kind: u16, value: &str) {
        self.nest_as(kind, |request| {
            request.0.extend(value.as_bytes());
            request.0.push(0);
        });
    }

    /// Adds an attribute whose content is what `fill` adds.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut NetlinkRequest)) {
        self.nest_as(kind | NLA_F_NESTED, fill);
    }

    fn nest_as(&mut self, kind: u16, fill: impl FnOnce(&mut NetlinkRequest)) {
        let start = self.0.len();
        self.0.extend([0; ATTR_HEADER]);
        fill(self);
        // Far below 64 KiB: the longest request carries a name and a socket for each CPU.
        let len = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.0.resize(align(self.0.len()), 0);
    }

    /// Finishes the message for sending.
    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// One message from the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NetlinkReply<'a> {
    /// The attributes of an answer.
    Answer(&'a [u8]),
    /// The end of the answers: success, or the errno and the kernel's words for it, if any.
    Ack(Result<(), (Errno, Option<String>)>),
}

/// Parses a datagram: yields each message with its sequence number, until one is malformed.
pub(crate) fn replies(mut datagram: &[u8]) -> impl Iterator<Item = (u32, NetlinkReply<'_>)> {
    std::iter::from_fn(move || {
        let len = u32_at(datagram, 0)? as usize;
        let (message, rest) = (datagram.get(HEADER..len)?, datagram.get(align(len)..));
        let (kind, flags) = (u16_at(datagram, 4)?, u16_at(datagram, 6)?);
        let sequence = u32_at(datagram, 8)?;
        datagram = rest.unwrap_or_default();
        let reply = if kind == NLMSG_ERROR {
            NetlinkReply::Ack(verdict(message, flags)?)
        } else {
            NetlinkReply::Answer(message.get(GENL_HEADER..)?)
        };
        Some((sequence, reply))
    })
}

/// Parses an acknowledgement; `None` if it is too short.
fn verdict(message: &[u8], flags: u16) -> Option<Result<(), (Errno, Option<String>)>> {
    let error = u32_at(message, 0)?.cast_signed();
    if error == 0 {
        return Some(Ok(()));
    }
    // The request's header follows the error, and the rest of the request unless that was capped.
    let request = match flags & NLM_F_CAPPED {
        0 => u32_at(message, 4)? as usize,
        _ => HEADER,
    };
    let tlvs = (flags & NLM_F_ACK_TLVS != 0)
        .then(|| message.get(align(request).checked_add(4)?..))
        .flatten();
    let words = attributes(tlvs.unwrap_or_default())
        .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
        .map(|(_, text)| string(text));
    // The kernel's numbers end at 4095; anything else is a bug that shows as EIO.
    let errno = match error.saturating_neg() {
        number @ 1..4096 => Errno::from_raw_os_error(number),
        _ => Errno::IO,
    };
    Some(Err((errno, words)))
}

/// Yields the attributes in `bytes`, each as type without flags and value, until one is malformed.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & NLA_TYPE_MASK;
        let value = bytes.get(ATTR_HEADER..len)?;
        bytes = bytes.get(align(len)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the attribute of that type.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// A string up to its NUL.
fn string(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Golden bytes are written for a little-endian machine; the layout is the same on any other.
    #[cfg(target_endian = "little")]
    #[test]
    fn a_request_has_the_kernels_layout() {
        let mut request = NetlinkRequest::new(0x1c, 1, 1);
        request.u32(1, 7);
        request.u64(2, 1 << 32);
        request.nest(7, |sockets| {
            sockets.nest(1, |item| item.u32(1, 5));
        });
        request.string(10, "uzram:z");
        let expected: &[&[u8]] = &[
            &[68, 0, 0, 0, 0x1c, 0, 5, 0, 9, 0, 0, 0, 0, 0, 0, 0],
            &[1, 1, 0, 0],
            &[8, 0, 1, 0, 7, 0, 0, 0],
            &[12, 0, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0],
            &[16, 0, 7, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 5, 0, 0, 0],
            &[12, 0, 10, 0],
            b"uzram:z\0",
        ];
        assert_eq!(request.finish(9), expected.concat());
    }

    #[test]
    fn values_are_padded_and_lengths_are_not() {
        let mut request = NetlinkRequest::new(1, 2, 3);
        request.string(2, "nbd!");
        let bytes = request.finish(1);
        assert_eq!(bytes.len(), 32);
        assert_eq!(u32_at(&bytes, 0), Some(32));
        let found: Vec<_> = attributes(&bytes[20..]).collect();
        assert_eq!(found, [(2, &b"nbd!\0"[..])]);
        assert_eq!(attribute(&bytes[20..], 3), None);
    }

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes.resize(align(bytes.len()), 0);
        bytes
    }

    /// An acknowledgement with the request in full and the kernel's words.
    fn refusal(capped: bool) -> Vec<u8> {
        let request = NetlinkRequest::new(0x1c, 1, 1).finish(4);
        let mut body = (-22_i32).to_ne_bytes().to_vec();
        body.extend(if capped { &request[..HEADER] } else { &request });
        let mut words = NetlinkRequest::new(0, 0, 0);
        words.u32(2, 99);
        words.string(NLMSGERR_ATTR_MSG, "no sockets");
        body.extend(&words.finish(0)[HEADER + GENL_HEADER..]);
        let flags = NLM_F_ACK_TLVS | if capped { NLM_F_CAPPED } else { 0 };
        message(NLMSG_ERROR, flags, 4, &body)
    }

    #[test]
    fn answers_and_acknowledgements_are_told_apart() {
        let mut datagram = message(0x1c, 0, 3, &[1, 1, 0, 0, 8, 0, 1, 0, 7, 0, 0, 0]);
        datagram.extend(message(NLMSG_ERROR, 0, 3, &[0; 20]));
        let found: Vec<_> = replies(&datagram).collect();
        let answer = NetlinkReply::Answer(&[8, 0, 1, 0, 7, 0, 0, 0]);
        assert_eq!(found, [(3, answer), (3, NetlinkReply::Ack(Ok(())))]);
        for capped in [false, true] {
            let datagram = refusal(capped);
            let words = Some("no sockets".to_owned());
            let expected = (4, NetlinkReply::Ack(Err((Errno::INVAL, words))));
            assert_eq!(replies(&datagram).collect::<Vec<_>>(), [expected]);
        }
    }

    #[test]
    fn nothing_in_a_reply_makes_a_panic() {
        let mut datagram = message(0x1c, 0, 3, &[1, 1, 0, 0, 8, 0, 1, 0, 7, 0, 0, 0]);
        datagram.extend(refusal(false));
        let read = |bytes: &[u8]| {
            for (_, reply) in replies(bytes) {
                if let NetlinkReply::Answer(body) = reply {
                    attributes(body).for_each(|_| {});
                }
            }
        };
        for cut in 0..datagram.len() {
            read(&datagram[..cut]);
        }
        for at in 0..datagram.len() {
            for value in [0, 1, 3, 15, 16, 17, 0x7f, 0x80, 0xff] {
                let mut bad = datagram.clone();
                bad[at] = value;
                read(&bad);
            }
        }
        let worst = message(NLMSG_ERROR, NLM_F_ACK_TLVS, 0, &[0xff; 8]);
        read(&worst);
        let least = message(NLMSG_ERROR, 0, 0, &i32::MIN.to_ne_bytes());
        read(&least);
    }
}
