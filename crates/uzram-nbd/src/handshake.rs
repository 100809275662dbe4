//! Fixed newstyle negotiation: from the greeting to the transmission phase, or to the end of the connection.
//!
//! Runs on the connection's first thread. Holds one option of at most [`MAX_OPTION`] bytes in memory at a time. A deadline
//! for the whole keeps a silent or slow client from occupying a connection for long.
//!
//! Where the exports are those of other processes, the last option is not answered here: whoever takes the client does that.
//! What was received of the client is exactly what was looked at, so that nothing is missing there.
//!
//! A client that is refused negotiates, too, for as long as it takes to ask for an export: only the answer to that can tell
//! it why.

use crate::{
    agreement::{Agreement, Ending, ExportFacts, TlsTerms},
    catalog::{Catalog, Unavailable},
    close::Close,
    limits::AdmissionRefusal,
    proto::{self, Headers, allocation, handshake_flag, opt, rep, u16_at, u32_at, u64_at},
    socket::Socket,
    stop::Stop,
    tls::{Tls, TlsPolicy, TlsSession},
};
use rustix::net::sockopt::{self, Timeout};
use std::{
    io,
    time::{Duration, Instant},
};

/// Most bytes of data that one option may have: names have at most 4096.
const MAX_OPTION: u32 = 64 << 10;

/// How a handshake is led.
pub(crate) struct Terms<'a> {
    pub(crate) exports: &'a Catalog,
    pub(crate) tls: &'a TlsPolicy,
    pub(crate) limit: Duration,
    /// Why the client is not served.
    pub(crate) refusal: Option<AdmissionRefusal>,
}

/// Negotiates with the client until it asks for an export that `accept` has for it; `accept` gets its number and what was
/// agreed on. The option that ended the handshake is not answered yet: see [`conclude`].
pub(crate) fn negotiate<T>(
    socket: &Socket,
    terms: Terms<'_>,
    stop: &Stop,
    mut accept: impl FnMut(usize, &Agreement) -> Result<T, Unavailable>,
) -> Result<(Agreement, T), Close> {
    let Terms {
        exports,
        tls,
        limit,
        refusal,
    } = terms;
    let deadline = Instant::now() + limit;
    let mut handshake = Handshake {
        socket,
        exports,
        tls,
        stop,
        deadline,
        refusal,
        no_zeroes: false,
        headers: Headers::Simple,
        context: None,
        out: Vec::new(),
    };
    handshake.greet()?;
    loop {
        let Some((index, agreement)) = handshake.option()? else {
            continue;
        };
        match (accept(index, &agreement), &agreement.ending) {
            (Ok(accepted), _) => return Ok((agreement, accepted)),
            (Err(why @ Unavailable::Lost(_)), _) | (Err(why), Ending::ExportName { .. }) => {
                return Err(Close::Unavailable(why.reason().into()));
            }
            (Err(why), Ending::Go { .. }) => {
                handshake.unavailable(opt::GO, &why);
                handshake.send()?;
            }
        }
    }
}

/// Answers the option that ended the handshake, and begins the transmission phase.
pub(crate) fn conclude(
    socket: &Socket,
    agreement: &Agreement,
    facts: &ExportFacts,
    limit: Duration,
) -> Result<(), Close> {
    send_by(socket, &agreement.last_reply(facts), Instant::now() + limit)?;
    socket.negotiated().map_err(Close::Receive)
}

/// Sends all of it before the deadline.
fn send_by(socket: &Socket, bytes: &[u8], deadline: Instant) -> Result<(), Close> {
    let mut sent = 0;
    while sent < bytes.len() {
        set_timeout(socket, Timeout::Send, deadline)?;
        match socket.send_some(&bytes[sent..]) {
            Ok(n) => sent += n,
            Err(e) if is_timeout(&e) => return Err(Close::HandshakeTimeout),
            Err(e) => return Err(Close::send(e)),
        }
    }
    Ok(())
}

fn set_timeout(socket: &Socket, which: Timeout, deadline: Instant) -> Result<(), Close> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Close::HandshakeTimeout);
    }
    // Less than a microsecond would mean "no limit" to the system.
    let left = left.max(Duration::from_millis(1));
    sockopt::set_socket_timeout(&socket.fd, which, Some(left)).map_err(|e| Close::Receive(e.into()))
}

struct Handshake<'a> {
    socket: &'a Socket,
    exports: &'a Catalog,
    tls: &'a TlsPolicy,
    stop: &'a Stop,
    deadline: Instant,
    refusal: Option<AdmissionRefusal>,
    no_zeroes: bool,
    headers: Headers,
    /// The export (by index) for which `base:allocation` was selected last.
    context: Option<usize>,
    /// Replies to the current option, sent together.
    out: Vec<u8>,
}

impl Handshake<'_> {
    fn greet(&mut self) -> Result<(), Close> {
        let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
        self.out.extend(proto::INIT_PASSWD.to_be_bytes());
        self.out.extend(proto::IHAVEOPT.to_be_bytes());
        self.out.extend(flags.to_be_bytes());
        self.send()?;
        let mut client = [0; 4];
        self.receive(&mut client, true)?;
        let client = u32_at(&client, 0);
        if client & !u32::from(flags) != 0 {
            return Err(Close::ClientFlags(client));
        }
        self.no_zeroes = client & u32::from(handshake_flag::NO_ZEROES) != 0;
        Ok(())
    }

    /// Handles one option. Returns the export's number and what was agreed on if it ends the negotiation.
    fn option(&mut self) -> Result<Option<(usize, Agreement)>, Close> {
        let mut header = [0; 16];
        self.receive(&mut header, true)?;
        if u64_at(&header, 0) != proto::IHAVEOPT {
            return Err(Close::OptionMagic(u64_at(&header, 0)));
        }
        let (option, len) = (u32_at(&header, 8), u32_at(&header, 12));
        if len > MAX_OPTION {
            self.refuse(option, rep::ERR_TOO_BIG, "the option's data is too long");
            self.send()?;
            return Err(Close::OptionTooBig { option, len });
        }
        let mut data = vec![0; len as usize];
        self.receive(&mut data, false)?;
        tracing::debug!(option, len, "option");
        let mut end = None;
        let has_to = self.tls.is_required() && self.socket.tls().is_none();
        match option {
            // It has no way to say no.
            opt::EXPORT_NAME if let Some(refusal) = self.refusal => {
                return Err(Close::Refused(refusal));
            }
            opt::EXPORT_NAME if has_to => return Err(Close::TlsRequired),
            // Nor here.
            opt::EXPORT_NAME if self.headers == Headers::Extended => {
                return Err(Close::ExportNameExtended);
            }
            opt::EXPORT_NAME => end = Some(self.export_name(&data)?),
            opt::ABORT => {
                self.reply(option, rep::ACK, &[]);
                // Some clients close without waiting for this.
                let _ = self.send();
                return Err(Close::Aborted);
            }
            _ if self.stop.is_set() => {
                self.refuse(option, rep::ERR_SHUTDOWN, "the server is stopping");
            }
            opt::LIST | opt::INFO | opt::GO if let Some(refusal) = self.refusal => {
                // The client closes, as some do only after an option to say so.
                self.refuse(option, rep::ERR_POLICY, &format!("refused: {refusal}"));
            }
            opt::LIST | opt::STRUCTURED_REPLY | opt::EXTENDED_HEADERS | opt::STARTTLS
                if !data.is_empty() =>
            {
                self.refuse(option, rep::ERR_INVALID, "this option has no data");
            }
            opt::STARTTLS => return self.start_tls().map(|()| None),
            _ if has_to => self.refuse(
                option,
                rep::ERR_TLS_REQD,
                "this server requires TLS, so that NBD_OPT_STARTTLS comes first",
            ),
            opt::LIST => self.list(),
            opt::STRUCTURED_REPLY if self.headers == Headers::Extended => self.refuse(
                option,
                rep::ERR_EXT_HEADER_REQD,
                "extended headers were agreed on, and take precedence",
            ),
            opt::STRUCTURED_REPLY => {
                self.headers = Headers::Structured;
                self.reply(option, rep::ACK, &[]);
            }
            opt::EXTENDED_HEADERS => {
                self.headers = Headers::Extended;
                self.reply(option, rep::ACK, &[]);
            }
            opt::INFO | opt::GO => end = self.info(option, &data),
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => self.meta_context(option, &data),
            _ => self.refuse(option, rep::ERR_UNSUP, "unknown option"),
        }
        self.send()?;
        Ok(end)
    }

    /// Answers a client that asks for TLS, and goes on with it encrypted.
    fn start_tls(&mut self) -> Result<(), Close> {
        let config = match self.tls {
            TlsPolicy::Off => {
                self.refuse(opt::STARTTLS, rep::ERR_UNSUP, "this server has no TLS");
                return self.send();
            }
            _ if self.socket.tls().is_some() => {
                self.refuse(opt::STARTTLS, rep::ERR_INVALID, "TLS has begun already");
                return self.send();
            }
            TlsPolicy::On(tls) | TlsPolicy::Require(tls) => Tls::config(tls),
        };
        let config = match config {
            Ok(config) => config,
            Err(error) => {
                tracing::warn!("a client that asks for TLS is refused: {error}");
                let message = "this server's certificates cannot be read";
                self.refuse(opt::STARTTLS, rep::ERR_POLICY, message);
                return self.send();
            }
        };
        self.reply(opt::STARTTLS, rep::ACK, &[]);
        self.send()?;
        self.socket
            .begin_tls(TlsSession::new(config).map_err(Close::Tls)?);
        // What was agreed in the open does not count.
        (self.headers, self.context) = (Headers::Simple, None);
        while let Some(tls) = self.socket.tls()
            && (tls.is_handshaking() || tls.has_answer())
        {
            if tls.has_answer() {
                self.set_timeout(Timeout::Send)?;
                match self.socket.send_some(&[]) {
                    Err(e) if is_timeout(&e) => return Err(Close::HandshakeTimeout),
                    sent => sent.map_err(Close::send)?,
                };
                continue;
            }
            self.set_timeout(Timeout::Recv)?;
            match self.socket.recv_once(&mut []) {
                Ok(Some(0)) if self.stop.is_set() => return Err(self.stop.close()),
                Ok(Some(0)) => return Err(Close::Truncated),
                Ok(_) => {}
                Err(e) if is_timeout(&e) => return Err(Close::HandshakeTimeout),
                Err(e) if e.kind() == io::ErrorKind::InvalidData => return Err(Close::Tls(e)),
                Err(e) => return Err(Close::receive(e)),
            }
        }
        Ok(())
    }

    fn export_name(&mut self, name: &[u8]) -> Result<(usize, Agreement), Close> {
        let Some(index) = self.exports.find(name) else {
            return Err(Close::unknown_export(name));
        };
        let zeroes = !self.no_zeroes;
        Ok((index, self.agreement(index, Ending::ExportName { zeroes })))
    }

    fn list(&mut self) {
        for export in self.exports.list(self.shown().as_ref()) {
            let mut data = (export.name.len() as u32).to_be_bytes().to_vec();
            data.extend(export.name.as_bytes());
            data.extend(export.description.as_bytes());
            self.reply(opt::LIST, rep::SERVER, &data);
        }
        self.reply(opt::LIST, rep::ACK, &[]);
    }

    fn info(&mut self, option: u32, data: &[u8]) -> Option<(usize, Agreement)> {
        let mut fields = Fields(data);
        let parsed = (|| {
            let name = fields.string()?;
            let count = fields.u16()?;
            (fields.0.len() == 2 * usize::from(count)).then_some(name)
        })();
        let Some(name) = parsed else {
            self.refuse(option, rep::ERR_INVALID, "the request is malformed");
            return None;
        };
        let Some(index) = self.exports.find(name) else {
            self.refuse(option, rep::ERR_UNKNOWN, "no export has this name");
            return None;
        };
        let wanted: Vec<u16> = std::iter::from_fn(|| fields.u16()).collect();
        if option == opt::GO {
            return Some((index, self.agreement(index, Ending::Go { wanted })));
        }
        match self.exports.facts(index, self.shown().as_ref()) {
            Ok(facts) => {
                let replies = facts.replies(option, &wanted, self.headers, true);
                self.out.extend(replies);
            }
            Err(why) => self.unavailable(option, &why),
        }
        None
    }

    fn meta_context(&mut self, option: u32, data: &[u8]) {
        let set = option == opt::SET_META_CONTEXT;
        if set {
            // A new selection drops the old one even if it fails.
            self.context = None;
        }
        if self.headers == Headers::Simple {
            let message = "structured replies or extended headers come first";
            return self.refuse(option, rep::ERR_INVALID, message);
        }
        let mut fields = Fields(data);
        let parsed = (|| {
            let name = fields.string()?;
            let count = fields.u32()?;
            let mut selected = count == 0 && !set;
            for _ in 0..count {
                let query = fields.string()?;
                selected |= query == allocation::NAME.as_bytes();
                selected |= !set && query == allocation::NAMESPACE.as_bytes();
            }
            fields.0.is_empty().then_some((name, selected))
        })();
        let Some((name, selected)) = parsed else {
            return self.refuse(option, rep::ERR_INVALID, "the request is malformed");
        };
        let Some(index) = self.exports.find(name) else {
            return self.refuse(option, rep::ERR_UNKNOWN, "no export has this name");
        };
        if selected {
            let id = if set { allocation::ID } else { 0 };
            let mut reply = id.to_be_bytes().to_vec();
            reply.extend(allocation::NAME.as_bytes());
            self.reply(option, rep::META_CONTEXT, &reply);
            if set {
                self.context = Some(index);
            }
        }
        self.reply(option, rep::ACK, &[]);
    }

    fn agreement(&self, index: usize, ending: Ending) -> Agreement {
        Agreement {
            headers: self.headers,
            allocation: self.context == Some(index),
            read_only: false,
            tls: self.shown(),
            name: self.exports.name(index).into(),
            ending,
        }
    }

    /// What TLS has shown of the client, as those are told who serve exports elsewhere.
    fn shown(&self) -> Option<TlsTerms> {
        // Where certificates cannot be read any more nothing is known of it.
        self.socket.tls().and_then(|_| self.tls.shown().ok()?)
    }

    fn unavailable(&mut self, option: u32, why: &Unavailable) {
        let kind = match why {
            Unavailable::Gone(_) => rep::ERR_UNKNOWN,
            Unavailable::Refused(_) | Unavailable::Lost(_) => rep::ERR_POLICY,
        };
        self.refuse(option, kind, why.reason());
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) {
        self.out
            .extend(proto::option_reply(option, kind, data.len() as u32));
        self.out.extend(data);
    }

    fn refuse(&mut self, option: u32, error: u32, message: &str) {
        self.reply(option, error, message.as_bytes());
    }

    fn send(&mut self) -> Result<(), Close> {
        send_by(self.socket, &std::mem::take(&mut self.out), self.deadline)
    }

    /// Fills `buf`. At the `start` of a message the stream may end cleanly.
    fn receive(&mut self, buf: &mut [u8], start: bool) -> Result<(), Close> {
        let mut filled = 0;
        while filled < buf.len() {
            self.set_timeout(Timeout::Recv)?;
            // Each wait has what is left of the time, whatever trickles in.
            match self.socket.recv_once(&mut buf[filled..]) {
                Ok(None) => {}
                Ok(Some(0)) if self.stop.is_set() => return Err(self.stop.close()),
                Ok(Some(0)) if start && filled == 0 => return Err(Close::Disconnected),
                Ok(Some(0)) => return Err(Close::Truncated),
                Ok(Some(n)) => filled += n,
                Err(e) if is_timeout(&e) => return Err(Close::HandshakeTimeout),
                Err(e) => return Err(Close::receive(e)),
            }
        }
        Ok(())
    }

    fn set_timeout(&self, which: Timeout) -> Result<(), Close> {
        set_timeout(self.socket, which, self.deadline)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Takes the fields of an option's data one by one; `None` where the data is too short.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.bytes(2).map(|bytes| u16_at(bytes, 0))
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes(4).map(|bytes| u32_at(bytes, 0))
    }

    /// Takes a string and the 32-bit length before it.
    fn string(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.bytes(len as usize)
    }
}
