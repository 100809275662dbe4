//! TLS: what a server needs for it, and what a connection keeps of it.
//!
//! The handshake begins where the client asks for it (`NBD_OPT_STARTTLS`). From then on a connection's [`Socket`] hands what
//! it receives and sends to its [`TlsSession`], so that nothing above it knows the difference.
//!
//! Bytes are encrypted in the order in which they are sent, since both happen under the socket's send lock. rustls has one
//! state for both directions, behind a lock of the connection's own: it is held while a piece is encrypted or decrypted, and
//! never while the system is waited for. rustls allocates for each record.
//!
//! [`Socket`]: crate::socket::Socket

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use rustls::{
    RootCertStore, ServerConfig, ServerConnection,
    crypto::ring,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
};

use crate::{Error, lock::lock};

/// The files of a directory of certificates, named as those of nbdkit, QEMU and libvirt.
const CERTIFICATE: &str = "server-cert.pem";
const KEY: &str = "server-key.pem";
const AUTHORITY: &str = "ca-cert.pem";
const REVOKED: &str = "ca-crl.pem";

/// Most bytes of one of them.
const MAX_FILE: u64 = 1 << 20;
/// What a key that takes a passphrase has in its text.
const ENCRYPTED: &[u8] = b"ENCRYPTED";

/// Bytes that are encrypted at once.
const PIECE: usize = 64 << 10;
/// Bytes of what was received and is not decrypted yet.
const INCOMING: usize = 64 << 10;

/// Certificate, key and, to check clients, authorities of a server, as files: PEM, in a directory, with the names that nbdkit
/// and QEMU use. They are read anew for the next client when they have changed.
#[derive(Debug, Clone)]
pub struct Tls(Arc<Files>);

#[derive(Debug)]
struct Files {
    directory: PathBuf,
    verify_clients: bool,
    read: Mutex<Option<(Stamps, Arc<ServerConfig>)>>,
}

/// What tells a file from the one before: inode, size, time of its last change.
type Stamps = BTreeMap<&'static str, Option<(u64, u64, SystemTime)>>;

impl Tls {
    /// Reads `server-cert.pem`, with the chain that follows it, and `server-key.pem`. With `verify_clients` each client needs a
    /// certificate of an authority in `ca-cert.pem` that `ca-crl.pem`, if there is one, does not revoke.
    /// [`Error::Tls`] names the file that is missing or wrong.
    pub fn from_directory(directory: &Path, verify_clients: bool) -> Result<Tls, Error> {
        let tls = Tls::from_directory_unread(directory, verify_clients);
        tls.config()?;
        Ok(tls)
    }

    /// The same, of files that are read for the first client. One that cannot be read refuses clients until it can.
    pub fn from_directory_unread(directory: &Path, verify_clients: bool) -> Tls {
        Tls(Arc::new(Files {
            directory: directory.into(),
            verify_clients,
            read: Mutex::default(),
        }))
    }

    /// The files that it reads.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let names = match self.0.verify_clients {
            true => &[CERTIFICATE, KEY, AUTHORITY][..],
            false => &[CERTIFICATE, KEY],
        };
        names.iter().map(|name| self.0.path(name)).collect()
    }

    /// What a new connection is given. Where changed files are no good, the former ones are used.
    pub(crate) fn config(&self) -> Result<Arc<ServerConfig>, Error> {
        let mut read = self.0.read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = self.0.stamps();
        if let Some((of, config)) = &*read
            && *of == stamps
        {
            return Ok(config.clone());
        }
        match (self.0.load(), &mut *read) {
            (Ok(config), _) => {
                let config = Arc::new(config);
                *read = Some((stamps, config.clone()));
                Ok(config)
            }
            (Err(error), Some((of, config))) => {
                tracing::warn!("{error}; the former ones are used");
                // It is told once.
                *of = stamps;
                Ok(config.clone())
            }
            (Err(error), None) => Err(error),
        }
    }
}

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn stamps(&self) -> Stamps {
        let stamp = |name| {
            let meta = fs::metadata(self.path(name)).ok()?;
            Some((meta.ino(), meta.len(), meta.modified().ok()?))
        };
        let names = [CERTIFICATE, KEY, AUTHORITY, REVOKED];
        names.map(|name| (name, stamp(name))).into()
    }

    fn wrong(&self, name: &str, why: impl ToString) -> Error {
        Error::Tls {
            path: self.path(name),
            reason: why.to_string(),
        }
    }

    /// Reads a file, which somebody may have put there who is not who wrote the others: one that has no end, or that has to be
    /// waited for, is refused.
    fn bytes(&self, name: &str) -> Result<Vec<u8>, Error> {
        let wrong = |error: io::Error| self.wrong(name, error);
        let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let file = fs::File::options()
            .read(true)
            .custom_flags(flags)
            .open(self.path(name))
            .map_err(wrong)?;
        if !file.metadata().map_err(wrong)?.is_file() {
            return Err(self.wrong(name, "it is no regular file"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(wrong)?;
        match bytes.len() as u64 {
            0..=MAX_FILE => Ok(bytes),
            _ => Err(self.wrong(name, format!("it has more than {MAX_FILE} bytes"))),
        }
    }

    /// The items of a kind in a file, at least one.
    fn items<T: PemObject>(&self, name: &str, what: &str) -> Result<Vec<T>, Error> {
        let bytes = self.bytes(name)?;
        let items: Result<Vec<T>, _> = T::pem_slice_iter(&bytes).collect();
        match items {
            Ok(items) if items.is_empty() => {
                Err(self.wrong(name, format!("it holds no {what} in PEM")))
            }
            Ok(items) => Ok(items),
            Err(error) => Err(self.wrong(name, in_words(error, what))),
        }
    }

    fn load(&self) -> Result<ServerConfig, Error> {
        let provider = Arc::new(ring::default_provider());
        let chain = self.items::<CertificateDer<'_>>(CERTIFICATE, "certificate")?;
        let bytes = self.bytes(KEY)?;
        if bytes.windows(ENCRYPTED.len()).any(|word| word == ENCRYPTED) {
            let help = "it is encrypted, and nobody is there to be asked: openssl pkey decrypts it";
            return Err(self.wrong(KEY, help));
        }
        let key = PrivateKeyDer::from_pem_slice(&bytes)
            .map_err(|error| self.wrong(KEY, in_words(error, "private key")))?;
        let known = provider.key_provider.load_private_key(key.clone_key());
        known.map_err(|error| self.wrong(KEY, error))?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| self.wrong(CERTIFICATE, error))?;
        let builder = match self.verify_clients {
            false => builder.with_no_client_auth(),
            true => {
                let mut roots = RootCertStore::empty();
                for authority in self.items(AUTHORITY, "certificate")? {
                    roots
                        .add(authority)
                        .map_err(|error| self.wrong(AUTHORITY, error))?;
                }
                let mut verifier =
                    WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                if self.path(REVOKED).exists() {
                    let lists =
                        self.items::<CertificateRevocationListDer<'_>>(REVOKED, "revocation list")?;
                    verifier = verifier.with_crls(lists);
                }
                let verifier = verifier.build().map_err(|error| match error {
                    VerifierBuilderError::InvalidCrl(_) => self.wrong(
                        REVOKED,
                        format!("{error}; it is to be of version 2, which has a number (crlnumber of openssl ca)"),
                    ),
                    error => self.wrong(AUTHORITY, error),
                })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => self.wrong(
                    CERTIFICATE,
                    format!("its first certificate is not that of {KEY}"),
                ),
                error => self.wrong(CERTIFICATE, error),
            })?;
        // Whoever comes back is checked again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

fn in_words(error: pem::Error, what: &str) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => format!("it holds no {what} in PEM"),
        error => error.to_string(),
    }
}

/// Which clients have to use TLS.
#[derive(Debug, Clone)]
pub(crate) enum TlsPolicy {
    /// It cannot be had.
    Off,
    /// Whoever asks for it.
    On(Tls),
    /// All: whoever has not asked for it is told to, and gets nothing else.
    Require(Tls),
}

impl TlsPolicy {
    pub(crate) fn is_required(&self) -> bool {
        matches!(self, TlsPolicy::Require(_))
    }
}

/// Where plain bytes, encrypted ones and the connection's state meet.
pub(crate) struct TlsSession {
    connection: Mutex<ServerConnection>,
    /// Whoever receives has it.
    incoming: Mutex<Incoming>,
    /// Whoever sends has it, under the socket's send lock.
    outgoing: Mutex<Outgoing>,
}

impl std::fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsSession")
    }
}

/// What was received and is not decrypted yet.
struct Incoming {
    buf: Box<[u8]>,
    begin: usize,
    end: usize,
}

/// What is encrypted and was not sent yet.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    /// How many plain bytes it is made of.
    plain: usize,
}

/// What receiving has come to.
pub(crate) enum Received {
    /// So many plain bytes; 0 at the end of the stream.
    Bytes(usize),
    /// What has come so far is no whole record.
    Nothing,
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("TLS: {error}"))
}

impl TlsSession {
    pub(crate) fn new(config: Arc<ServerConfig>) -> io::Result<TlsSession> {
        let mut connection = ServerConnection::new(config).map_err(invalid)?;
        // What is sent comes in pieces anyway, and is sent whole.
        connection.set_buffer_limit(None);
        Ok(TlsSession {
            connection: Mutex::new(connection),
            incoming: Mutex::new(Incoming {
                buf: vec![0; INCOMING].into_boxed_slice(),
                begin: 0,
                end: 0,
            }),
            outgoing: Mutex::default(),
        })
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        lock(&self.connection).is_handshaking()
    }

    /// Receives once, by `recv`, what is needed, and decrypts into `buf`. With an empty `buf` it only takes part in the
    /// handshake. Where TLS itself has to answer, [`TlsSession::answer`] has the bytes afterwards, also after an error.
    pub(crate) fn receive(
        &self,
        buf: &mut [u8],
        recv: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<Received> {
        let incoming = &mut *lock(&self.incoming);
        match self.decrypt(incoming, buf)? {
            Received::Nothing => {}
            some => return Ok(some),
        }
        if incoming.begin == incoming.end {
            (incoming.begin, incoming.end) = (0, 0);
        } else if incoming.end == incoming.buf.len() {
            incoming.buf.copy_within(incoming.begin.., 0);
            incoming.end -= incoming.begin;
            incoming.begin = 0;
        }
        match recv(&mut incoming.buf[incoming.end..])? {
            // With or without a last word: the messages above have lengths.
            0 => return Ok(Received::Bytes(0)),
            received => incoming.end += received,
        }
        self.decrypt(incoming, buf)
    }

    /// Decrypts as much as there is and `buf` has room for.
    fn decrypt(&self, incoming: &mut Incoming, buf: &mut [u8]) -> io::Result<Received> {
        let connection = &mut *lock(&self.connection);
        let mut filled = 0;
        loop {
            while filled < buf.len() {
                match connection.reader().read(&mut buf[filled..]) {
                    // The client's last word.
                    Ok(0) => return Ok(Received::Bytes(filled)),
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            let full = filled == buf.len() && !connection.is_handshaking();
            if full || incoming.begin == incoming.end {
                break;
            }
            let mut rest = &incoming.buf[incoming.begin..incoming.end];
            incoming.begin += connection.read_tls(&mut rest)?;
            connection.process_new_packets().map_err(invalid)?;
        }
        Ok(match filled {
            0 => Received::Nothing,
            filled => Received::Bytes(filled),
        })
    }

    /// Whether TLS has something to send by itself: its part of the handshake, an alert, new keys.
    pub(crate) fn has_answer(&self) -> bool {
        lock(&self.connection).wants_write()
    }

    /// Sends plain bytes, a piece at most, by `send`, under the socket's send lock. Returns how many of them are sent whole; 0
    /// where some of their record is still to be sent: then the same bytes come again. Without bytes it sends what TLS has to
    /// say by itself.
    pub(crate) fn send(
        &self,
        bytes: &[u8],
        send: impl Fn(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let outgoing = &mut *lock(&self.outgoing);
        if outgoing.sent == outgoing.bytes.len() {
            outgoing.bytes.clear();
            outgoing.sent = 0;
            let connection = &mut *lock(&self.connection);
            let piece = &bytes[..bytes.len().min(PIECE)];
            connection.writer().write_all(piece)?;
            outgoing.plain = piece.len();
            while connection.wants_write() {
                connection.write_tls(&mut outgoing.bytes)?;
            }
        }
        let before = outgoing.sent;
        while outgoing.sent < outgoing.bytes.len() {
            match send(&outgoing.bytes[outgoing.sent..]) {
                Ok(sent) => outgoing.sent += sent,
                // The client takes something, if slowly.
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && outgoing.sent > before =>
                {
                    return Ok(0);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(std::mem::take(&mut outgoing.plain))
    }

    /// Has TLS say, with what is sent next, that nothing will follow.
    pub(crate) fn close(&self) {
        lock(&self.connection).send_close_notify();
    }

    /// At most so many plain bytes have been received that nobody has taken.
    pub(crate) fn untaken(&self) -> u64 {
        let incoming = lock(&self.incoming);
        (incoming.end - incoming.begin) as u64 + PIECE as u64
    }
}
