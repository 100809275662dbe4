//! Who a snapshot is sealed for, and what opens it: recipients, identities and passphrases of age, from files.
//!
//! A recipient is public and may stand on a command line. An identity and a passphrase are in files that are named there.

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use age::secrecy::SecretString;
use age::{DecryptError, Decryptor, EncryptError, Encryptor, IdentityFile, scrypt, x25519};
use zeroize::Zeroizing;

use crate::{Error, Result};

/// Most bytes of a file with recipients, a passphrase or identities.
const MAX_FILE_BYTES: u64 = 64 << 10;
/// Most recipients: each costs a hundred bytes in every manifest.
const MAX_RECIPIENTS: usize = 64;
/// Most work for a passphrase, as a power of two: some four seconds of a slow machine, 1 GiB of memory. What age asks for by
/// itself is about one second.
const MAX_WORK: u8 = 20;

/// Who something is sealed for.
pub struct Recipients(To);

enum To {
    Keys(Vec<x25519::Recipient>),
    Passphrase(SecretString),
}

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            To::Keys(keys) => write!(f, "Recipients({})", keys.len()),
            To::Passphrase(_) => f.write_str("Recipients(a passphrase)"),
        }
    }
}

impl Recipients {
    /// Recipients as texts and in files of one a line, as `age -r` and `-R` take them; or a passphrase in a file, which stands
    /// alone. `None` if nothing was given.
    pub fn read(
        keys: &[String],
        files: &[PathBuf],
        passphrase: Option<&Path>,
    ) -> Result<Option<Recipients>> {
        let has_keys = !keys.is_empty() || !files.is_empty();
        if let Some(path) = passphrase {
            if has_keys {
                return Err(Error::Usage(
                    "a snapshot is sealed for recipients or by a passphrase, not both",
                ));
            }
            return Ok(Some(Recipients(To::Passphrase(read_passphrase(path)?))));
        }
        if !has_keys {
            return Ok(None);
        }
        let mut all = Vec::new();
        for key in keys {
            all.push(recipient(key, || "what --seal was given".into())?);
        }
        for path in files {
            let text = read_text(path)?;
            for (number, line) in text.lines().enumerate() {
                let line = line.trim();
                if !line.is_empty() && !line.starts_with('#') {
                    let what = || format!("{}, line {}", path.display(), number + 1);
                    all.push(recipient(line, what)?);
                }
            }
        }
        match all.len() {
            0 => Err(Error::Usage("the files of --seal-file name no recipient")),
            1..=MAX_RECIPIENTS => Ok(Some(Recipients(To::Keys(all)))),
            _ => Err(Error::Usage(
                "a snapshot is sealed for at most 64 recipients",
            )),
        }
    }

    /// Begins an age file for them.
    pub(crate) fn wrap<W: Write>(&self, to: W) -> Result<age::stream::StreamWriter<W>> {
        let encryptor = match &self.0 {
            To::Keys(keys) => {
                Encryptor::with_recipients(keys.iter().map(|key| key as &dyn age::Recipient))
            }
            To::Passphrase(passphrase) => {
                let one = scrypt::Recipient::new(passphrase.clone());
                Encryptor::with_recipients(std::iter::once(&one as &dyn age::Recipient))
            }
        };
        let refused = |error: EncryptError| Error::Io {
            what: "seal",
            source: io::Error::other(error.to_string()),
        };
        encryptor
            .map_err(refused)?
            .wrap_output(to)
            .map_err(Error::io("write"))
    }
}

fn recipient(text: &str, what: impl FnOnce() -> String) -> Result<x25519::Recipient> {
    text.parse().map_err(|_| Error::Recipient { what: what() })
}

/// Which files hold the keys that open something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyFiles {
    /// Files with identities of age, as age-keygen writes them.
    pub identities: Vec<PathBuf>,
    /// A file whose first line is a passphrase.
    pub passphrase: Option<PathBuf>,
}

impl KeyFiles {
    /// Whether none was named.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.passphrase.is_none()
    }

    /// Reads them. `None` if none was named.
    pub fn read(&self) -> Result<Option<Keys>> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut all: Vec<Box<dyn age::Identity + Send + Sync>> = Vec::new();
        for path in &self.identities {
            let text = read_text(path)?;
            let failed = |why: String| Error::KeyFile {
                path: path.clone(),
                why,
            };
            // Its words name a line, and not what is in it.
            let file = IdentityFile::from_buffer(BufReader::new(text.as_bytes()));
            let found = file.map_err(|error| failed(error.to_string()))?;
            let found = found.into_identities();
            let found = found.map_err(|error| failed(error.to_string()))?;
            if found.is_empty() {
                return Err(failed("it has no identity: age-keygen makes one".into()));
            }
            all.extend(found);
        }
        if let Some(path) = &self.passphrase {
            let mut identity = scrypt::Identity::new(read_passphrase(path)?);
            identity.set_max_work_factor(MAX_WORK);
            all.push(Box::new(identity));
        }
        Ok(Some(Keys(all)))
    }
}

/// What opens something.
pub struct Keys(Vec<Box<dyn age::Identity + Send + Sync>>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

impl Keys {
    /// Opens an age file.
    pub(crate) fn open<R: Read>(&self, from: R) -> Result<age::stream::StreamReader<R>> {
        let refused = |error: DecryptError| match error {
            DecryptError::NoMatchingKeys => Error::WrongKey,
            DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => {
                Error::WrongPassphrase
            }
            DecryptError::ExcessiveWork { required, .. } => Error::TooMuchWork {
                required,
                accepted: MAX_WORK,
            },
            DecryptError::Io(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
                Error::Broken("it is cut off")
            }
            DecryptError::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
                Error::Broken("its header is damaged")
            }
            DecryptError::Io(source) => Error::Io {
                what: "read",
                source,
            },
            DecryptError::UnknownFormat => {
                Error::Broken("what is behind the header is no age file")
            }
            _ => Error::Broken("its header is damaged"),
        };
        let decryptor = Decryptor::new(from).map_err(refused)?;
        let identities = self.0.iter().map(|one| &**one as &dyn age::Identity);
        decryptor.decrypt(identities).map_err(refused)
    }
}

/// The first line of a file.
fn read_passphrase(path: &Path) -> Result<SecretString> {
    let text = read_text(path)?;
    match text.lines().next().filter(|line| !line.is_empty()) {
        Some(line) => Ok(SecretString::from(line.to_owned())),
        None => Err(Error::KeyFile {
            path: path.into(),
            why: "its first line, which is the passphrase, is empty".into(),
        }),
    }
}

fn read_text(path: &Path) -> Result<Zeroizing<String>> {
    let failed = |why: String| Error::KeyFile {
        path: path.into(),
        why,
    };
    let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    // As much as there may be, at once: a text that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES as usize + 1));
    let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(failed("it is longer than a file with keys can be".into()));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(failed("it is no text".into())),
    }
}
