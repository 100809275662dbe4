//! Certificates, keys and authorities as files in a directory, with the names that nbdkit, QEMU and libvirt give them: what a
//! server needs for TLS, and what a client shows.
//!
//! Files are checked before they are believed: kind, length, form, and whether key and certificate belong together. What is wrong
//! is said of the file by name.
//!
//! This crate knows nothing about what is sent.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, WebPkiServerVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
};

/// A file of certificates that is missing or wrong.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}", path = path.display())]
pub struct Error {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// The files of a directory of certificates, named as those of nbdkit, QEMU and libvirt.
const AUTHORITY: &str = "ca-cert.pem";
const REVOKED: &str = "ca-crl.pem";

/// Certificate and key of one side.
#[derive(Debug, Clone, Copy)]
struct Own {
    certificate: &'static str,
    key: &'static str,
}

const SERVER: Own = Own {
    certificate: "server-cert.pem",
    key: "server-key.pem",
};
const CLIENT: Own = Own {
    certificate: "client-cert.pem",
    key: "client-key.pem",
};

/// Most bytes of one of them.
const MAX_FILE: u64 = 1 << 20;
/// What a key that takes a passphrase has in its text.
const ENCRYPTED: &[u8] = b"ENCRYPTED";

/// Certificate, key and, to check clients, authorities of a server, as files: PEM, in a directory, with the names that nbdkit
/// and QEMU use. They are read anew for the next client when they have changed.
#[derive(Debug, Clone)]
pub struct Tls(Arc<ServerFiles>);

#[derive(Debug)]
struct ServerFiles {
    files: Files,
    verify_clients: bool,
    read: Mutex<Option<(Stamps, LoadedTls)>>,
}

/// What the files say.
#[derive(Debug, Clone)]
struct LoadedTls {
    config: Arc<ServerConfig>,
    /// See [`Tls::client_authorities`].
    client_authorities: Option<String>,
}

/// What tells a file from the one before: inode, size, time of its last change.
type Stamps = BTreeMap<&'static str, Option<(u64, u64, SystemTime)>>;

impl Tls {
    /// Reads `server-cert.pem`, with the chain that follows it, and `server-key.pem`. With `verify_clients` each client needs a
    /// certificate of an authority in `ca-cert.pem` that `ca-crl.pem`, if there is one, does not revoke.
    /// The error names the file that is missing or wrong.
    pub fn from_directory(directory: &Path, verify_clients: bool) -> Result<Tls, Error> {
        let tls = Tls::from_directory_unread(directory, verify_clients);
        tls.config()?;
        Ok(tls)
    }

    /// The same, of files that are read for the first client. One that cannot be read refuses clients until it can.
    pub fn from_directory_unread(directory: &Path, verify_clients: bool) -> Tls {
        Tls(Arc::new(ServerFiles {
            files: Files(directory.into()),
            verify_clients,
            read: Mutex::default(),
        }))
    }

    /// The files that it reads.
    pub fn files(&self) -> Vec<PathBuf> {
        let names = match self.0.verify_clients {
            true => &[SERVER.certificate, SERVER.key, AUTHORITY][..],
            false => &[SERVER.certificate, SERVER.key],
        };
        names.iter().map(|name| self.0.files.path(name)).collect()
    }

    /// What a new connection is given. Where changed files are no good, the former ones are used.
    ///
    /// Errors: they are no good, and there were none before.
    pub fn config(&self) -> Result<Arc<ServerConfig>, Error> {
        self.loaded().map(|loaded| loaded.config)
    }

    /// By what clients' certificates are checked: two servers for which this is the same let the same clients in. It is a digest of
    /// the authorities and of the lists of what they have revoked; `None` where clients need no certificate.
    ///
    /// Errors: those of [`Tls::config`].
    pub fn client_authorities(&self) -> Result<Option<String>, Error> {
        self.loaded().map(|loaded| loaded.client_authorities)
    }

    fn loaded(&self) -> Result<LoadedTls, Error> {
        let mut read = self.0.read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = self.0.files.stamps();
        if let Some((of, loaded)) = &*read
            && *of == stamps
        {
            return Ok(loaded.clone());
        }
        match (self.0.load(), &mut *read) {
            (Ok(loaded), _) => {
                *read = Some((stamps, loaded.clone()));
                Ok(loaded)
            }
            (Err(error), Some((of, loaded))) => {
                tracing::warn!("{error}; the former ones are used");
                // It is told once.
                *of = stamps;
                Ok(loaded.clone())
            }
            (Err(error), None) => Err(error),
        }
    }
}

impl ServerFiles {
    fn load(&self) -> Result<LoadedTls, Error> {
        let files = &self.files;
        let mut client_authorities = None;
        let provider = Arc::new(ring::default_provider());
        let (chain, key) = files.own(SERVER, &provider)?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| files.wrong(SERVER.certificate, error))?;
        let builder = match self.verify_clients {
            false => builder.with_no_client_auth(),
            true => {
                let (authorities, revoked) = (files.authorities()?, files.revoked()?);
                client_authorities = Some(digest(&authorities, &revoked));
                let roots = files.roots(authorities)?;
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .with_crls(revoked)
                    .build();
                let verifier = verifier.map_err(|error| files.of_verifier(error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| files.of_pair(SERVER, error))?;
        // Whoever comes back is checked again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(LoadedTls {
            config: Arc::new(config),
            client_authorities,
        })
    }
}

/// The same for the same certificates and lists, in whichever order their files have them.
fn digest(
    authorities: &[CertificateDer<'_>],
    revoked: &[CertificateRevocationListDer<'_>],
) -> String {
    let of_each = |bytes: &[u8]| *blake3::hash(bytes).as_bytes();
    let mut whole = blake3::Hasher::new();
    let authorities: BTreeSet<_> = authorities.iter().map(|one| of_each(one)).collect();
    let revoked: BTreeSet<_> = revoked.iter().map(|one| of_each(one)).collect();
    for (kind, hashes) in [(b"a", authorities), (b"r", revoked)] {
        for hash in hashes {
            whole.update(kind).update(&hash);
        }
    }
    whole.finalize().to_hex().to_string()
}

/// What a client is given: it shows the certificate in `client-cert.pem`, whose key is in `client-key.pem`, and believes a
/// server whose certificate is of an authority in `ca-cert.pem`, and not revoked by `ca-crl.pem`, if there is one.
///
/// The error names the file that is missing or wrong.
pub fn client_config(directory: &Path) -> Result<ClientConfig, Error> {
    let files = Files(directory.into());
    let provider = Arc::new(ring::default_provider());
    let (chain, key) = files.own(CLIENT, &provider)?;
    let verifier = WebPkiServerVerifier::builder_with_provider(
        files.roots(files.authorities()?)?,
        provider.clone(),
    )
    .with_crls(files.revoked()?)
    .build();
    let verifier = verifier.map_err(|error| files.of_verifier(error))?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| files.wrong(CLIENT.certificate, error))?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(chain, key)
        .map_err(|error| files.of_pair(CLIENT, error))?;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// A directory of certificates.
#[derive(Debug)]
struct Files(PathBuf);

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn stamps(&self) -> Stamps {
        let stamp = |name| {
            let meta = fs::metadata(self.path(name)).ok()?;
            Some((meta.ino(), meta.len(), meta.modified().ok()?))
        };
        let names = [SERVER.certificate, SERVER.key, AUTHORITY, REVOKED];
        names.map(|name| (name, stamp(name))).into()
    }

    fn wrong(&self, name: &str, why: impl ToString) -> Error {
        Error {
            path: self.path(name),
            reason: why.to_string(),
        }
    }

    /// Where certificate and key are one another's or not, and are what they should be.
    fn of_pair(&self, own: Own, error: rustls::Error) -> Error {
        match error {
            rustls::Error::InconsistentKeys(_) => {
                let why = format!("its first certificate is not that of {}", own.key);
                self.wrong(own.certificate, why)
            }
            error => self.wrong(own.certificate, error),
        }
    }

    fn of_verifier(&self, error: VerifierBuilderError) -> Error {
        match error {
            VerifierBuilderError::InvalidCrl(_) => {
                let why = format!(
                    "{error}; it is to be of version 2, which has a number (crlnumber of openssl ca)"
                );
                self.wrong(REVOKED, why)
            }
            error => self.wrong(AUTHORITY, error),
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

    /// The certificate with its chain, and its key.
    fn own(
        &self,
        own: Own,
        provider: &CryptoProvider,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
        let chain = self.items(own.certificate, "certificate")?;
        let bytes = self.bytes(own.key)?;
        if bytes.windows(ENCRYPTED.len()).any(|word| word == ENCRYPTED) {
            let help = "it is encrypted, and nobody is there to be asked: openssl pkey decrypts it";
            return Err(self.wrong(own.key, help));
        }
        let key = PrivateKeyDer::from_pem_slice(&bytes)
            .map_err(|error| self.wrong(own.key, in_words(error, "private key")))?;
        let known = provider.key_provider.load_private_key(key.clone_key());
        known.map_err(|error| self.wrong(own.key, error))?;
        Ok((chain, key))
    }

    fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        self.items(AUTHORITY, "certificate")
    }

    fn roots(
        &self,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<Arc<RootCertStore>, Error> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots
                .add(authority)
                .map_err(|error| self.wrong(AUTHORITY, error))?;
        }
        Ok(roots.into())
    }

    /// Lists of what is revoked; none where there is no such file.
    fn revoked(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, Error> {
        match self.path(REVOKED).exists() {
            true => self.items(REVOKED, "revocation list"),
            false => Ok(Vec::new()),
        }
    }
}

fn in_words(error: pem::Error, what: &str) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => format!("it holds no {what} in PEM"),
        error => error.to_string(),
    }
}

/// The README's example is one that compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_the_same_in_any_order_and_lists_are_no_certificates() {
        let certificate = |byte: u8| CertificateDer::from(vec![byte; 3]);
        let list = |byte: u8| CertificateRevocationListDer::from(vec![byte; 3]);
        let both = digest(&[certificate(1), certificate(2)], &[]);
        assert_eq!(digest(&[certificate(2), certificate(1)], &[]), both);
        for other in [
            digest(&[certificate(1)], &[]),
            digest(&[certificate(1)], &[list(2)]),
            digest(&[certificate(1), certificate(2)], &[list(3)]),
        ] {
            assert_ne!(other, both);
        }
    }

    #[test]
    fn the_file_that_is_missing_or_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let client = || client_config(dir.path()).unwrap_err().to_string();
        assert!(client().contains("client-cert.pem: No such file"));
        fs::write(dir.path().join("client-cert.pem"), "nothing").unwrap();
        assert!(client().contains("client-cert.pem: it holds no certificate in PEM"));
        let server = Tls::from_directory(dir.path(), true).unwrap_err();
        assert_eq!(server.path, dir.path().join("server-cert.pem"));
        let names = |verify| Tls::from_directory_unread(dir.path(), verify).files().len();
        assert_eq!((names(true), names(false)), (3, 2));
    }
}
