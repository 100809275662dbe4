//! A remote: a store with snapshots in it, by the names of tags.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use uzram_seal::{Keys, OpenedManifest, SealedManifest};
use uzram_snapshot::{Digest, Kind, NamedPart, Source, StoredManifest};

use crate::config::{RemoteAddress, RemoteConfig};
use crate::dir::DirStore;
use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::objects::{self, MARKER, MAX_JSON_BYTES, Marker, PREFIXES, Tag, key_of};
use crate::s3::S3Store;
use crate::store::{ClientEnd, Store, StoreError, StoreErrorKind, Version, When};

/// Most bytes of a manifest.
const MAX_MANIFEST_BYTES: u64 = 128 << 20;

/// A store with snapshots in it.
#[derive(Clone)]
pub struct Remote {
    pub(crate) name: String,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) config: RemoteConfig,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Remote");
        out.field("name", &self.name).field("config", &self.config);
        out.finish_non_exhaustive()
    }
}

/// A tag as it was found.
#[derive(Debug, Clone)]
pub struct FoundTag {
    /// Under which name.
    pub tag: String,
    /// What it says.
    pub body: Tag,
    pub(crate) key: String,
    pub(crate) version: Version,
}

impl Remote {
    /// Opens a remote. Asks the store whether it is uzram's.
    pub fn open(name: &str, config: &RemoteConfig) -> Result<Remote> {
        let remote = Remote::from_store(name, config.clone(), connect(config)?);
        match remote.marker()? {
            true => Ok(remote),
            false => Err(Error::Foreign {
                what: config.url.clone(),
                kind: "remote",
                why: format!("{MARKER} is not there: \"uzram remote add\" makes it"),
            }),
        }
    }

    /// What waits until the process that speaks to the store has ended: from then on all that is asked of this fails.
    pub fn client_end(&self) -> Option<ClientEnd> {
        self.store.client_end()
    }

    /// A remote of a store that is open.
    pub fn from_store(name: &str, config: RemoteConfig, store: Arc<dyn Store>) -> Remote {
        Remote {
            name: name.into(),
            store,
            config,
        }
    }

    /// Makes a store a remote, if it is none yet, and finds out what it can do. Refuses a place where something else is.
    /// Returns what is to be kept of it ([`crate::Remotes::add`]).
    pub fn prepare(name: &str, config: &RemoteConfig) -> Result<RemoteConfig> {
        let store = connect(config)?;
        Remote::prepare_store(name, config, store)
    }

    /// As [`Remote::prepare`], of a store that is open.
    pub fn prepare_store(
        name: &str,
        config: &RemoteConfig,
        store: Arc<dyn Store>,
    ) -> Result<RemoteConfig> {
        let mut remote = Remote::from_store(name, config.clone(), store);
        let is_marked = remote.marker()?;
        if remote.config.read_only {
            if !is_marked {
                return Err(Error::Foreign {
                    what: config.url.clone(),
                    kind: "remote",
                    why: format!("{MARKER} is not there, and with --read-only it is not made"),
                });
            }
            return Ok(remote.config);
        }
        remote.make(is_marked).map_err(|error| match error {
            Error::Store(StoreError { kind, key, why }) if kind == StoreErrorKind::Denied => {
                let why = format!("{why} (with --read-only nothing is written there)");
                StoreError { kind, key, why }.into()
            }
            other => other,
        })?;
        Ok(remote.config)
    }

    /// Makes what [`Remote::prepare`] makes.
    fn make(&mut self, is_marked: bool) -> Result<()> {
        if !is_marked {
            let all = self.store.list("")?;
            let is_own = |key: &str| PREFIXES.iter().any(|prefix| key.starts_with(prefix));
            if let Some(other) = all.iter().find(|meta| !is_own(&meta.key)) {
                let (place, key) = (self.config.url.clone(), other.key.clone());
                return Err(Error::InUse { place, key });
            }
            let marker = objects::to_json(&Marker::new());
            self.store.put(MARKER, &marker, &When::Always)?;
        }
        self.config.conditional = crate::probe::is_conditional(&*self.store)?;
        Ok(())
    }

    /// Whether the store says that it is uzram's. One that says that it is newer is refused.
    fn marker(&self) -> Result<bool> {
        match self.store.get(MARKER, MAX_JSON_BYTES) {
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(false),
            found => objects::parse::<Marker>(MARKER, "remote", &found?.0).map(|_| true),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is, and what is known of it.
    pub fn config(&self) -> &RemoteConfig {
        &self.config
    }

    /// Refuses a remote that was added to be read.
    pub(crate) fn to_write(&self) -> Result<()> {
        match self.config.read_only {
            true => Err(Error::ReadOnly {
                name: self.name.clone(),
            }),
            false => Ok(()),
        }
    }

    /// All tags by name. What is no tag is in the second list, with what is wrong.
    pub fn tags(&self) -> Result<(Vec<FoundTag>, Vec<Error>)> {
        let (mut tags, mut wrong) = (Vec::new(), Vec::new());
        for meta in self.store.list("tag/")? {
            match self.read_tag(&meta.key) {
                Ok(Some(tag)) => tags.push(tag),
                // Removed meanwhile.
                Ok(None) => {}
                Err(Error::Store(error)) => return Err(error.into()),
                Err(error) => wrong.push(error),
            }
        }
        tags.sort_by(|a, b| a.tag.cmp(&b.tag));
        Ok((tags, wrong))
    }

    fn read_tag(&self, key: &str) -> Result<Option<FoundTag>> {
        let (bytes, version) = match self.store.get(key, MAX_JSON_BYTES) {
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        let body: Tag = objects::parse(key, "tag", &bytes)?;
        body.name()?;
        Ok(Some(FoundTag {
            tag: key.strip_prefix("tag/").unwrap_or(key).into(),
            body,
            key: key.into(),
            version,
        }))
    }

    /// A tag, or `None`. Where tags have ids, one without an id must be the only one of its name.
    pub fn find_tag(&self, tag: &str) -> Result<Option<FoundTag>> {
        if !objects::is_tag(tag) {
            return Err(Error::Usage(format!(
                "{tag} is no tag: it takes letters, digits and . _ + -, at most 128, and begins with a letter or a digit"
            )));
        }
        if let Some(found) = self.read_tag(&format!("tag/{tag}"))? {
            return Ok(Some(found));
        }
        if self.config.conditional || tag.contains('~') {
            return Ok(None);
        }
        let begin = format!("tag/{tag}~");
        let mut keys = self.store.list("tag/")?;
        keys.retain(|meta| meta.key.starts_with(&begin));
        let mut found = Vec::new();
        for meta in keys {
            found.extend(self.read_tag(&meta.key)?);
        }
        if found.len() > 1 {
            let by = found
                .iter()
                .map(|of| format!("{} ({})", of.body.by, of.tag));
            return Err(Error::TagAmbiguous {
                remote: self.name.clone(),
                tag: tag.into(),
                by: by.collect::<Vec<_>>().join(", "),
            });
        }
        Ok(found.pop())
    }

    /// A tag that must be there.
    pub fn tag(&self, tag: &str) -> Result<FoundTag> {
        self.find_tag(tag)?.ok_or_else(|| Error::NoTag {
            remote: self.name.clone(),
            tag: tag.into(),
        })
    }

    /// Removes a tag. What only it needs is removed by the next collection.
    pub fn remove_tag(&self, tag: &str) -> Result<()> {
        self.to_write()?;
        let found = self.tag(tag)?;
        Ok(self.store.delete(&found.key)?)
    }

    /// Reads a manifest, as far as it can be read without a key.
    pub fn manifest(&self, name: Digest) -> Result<FoundManifest> {
        let (bytes, _) = self
            .store
            .get(&key_of(Kind::Manifest, name), MAX_MANIFEST_BYTES)?;
        Ok(match SealedManifest::is_one(&bytes) {
            true => FoundManifest::Sealed(SealedManifest::parse(name, &bytes)?),
            false => FoundManifest::Plain(StoredManifest::parse(name, &bytes)?),
        })
    }

    /// Keeps a snapshot from being collected while it is used. `why` is for people. Fails where it is gone already. `None`
    /// where nothing may be written: then nothing keeps it.
    pub fn lease(&self, name: Digest, why: &str) -> Result<Option<Lease>> {
        if self.config.read_only {
            return Ok(None);
        }
        let lease = Lease::take(&self.store, why, vec![name.to_string()])?;
        self.store.head(&key_of(Kind::Manifest, name))?;
        Ok(Some(lease))
    }
}

fn connect(config: &RemoteConfig) -> Result<Arc<dyn Store>> {
    Ok(match config.address()? {
        RemoteAddress::Directory(path) => Arc::new(DirStore::open(path)?),
        RemoteAddress::S3(address) => Arc::new(S3Store::open(&address)?),
    })
}

/// A manifest as it lies in a store.
#[derive(Debug, Clone)]
pub enum FoundManifest {
    /// Of a snapshot that everybody can read.
    Plain(StoredManifest),
    /// Of a sealed one.
    Sealed(SealedManifest),
}

/// A manifest that can be read.
#[derive(Debug)]
pub enum ReadableManifest {
    /// Everybody can.
    Plain(StoredManifest),
    /// A key has opened it.
    Opened(OpenedManifest),
}

impl FoundManifest {
    /// What the snapshot needs, but for the manifest, by the names that the store has.
    pub fn parts(&self) -> Vec<NamedPart> {
        match self {
            FoundManifest::Plain(manifest) => manifest.parts(),
            FoundManifest::Sealed(manifest) => manifest.parts().to_vec(),
        }
    }

    /// Opens it with these keys. A sealed one needs some; with keys, one that is not sealed is refused, since whoever put it there
    /// did not need any. `of`: what it is, for messages.
    pub fn open(&self, keys: Option<&Keys>, of: &str) -> Result<ReadableManifest> {
        let refused = |source| Error::Seal {
            of: Some(of.into()),
            source,
        };
        match (self, keys) {
            (FoundManifest::Plain(manifest), None) => Ok(ReadableManifest::Plain(manifest.clone())),
            (FoundManifest::Plain(_), Some(_)) => Err(refused(uzram_seal::Error::NotSealed)),
            (FoundManifest::Sealed(_), None) => Err(refused(uzram_snapshot::Error::Sealed.into())),
            (FoundManifest::Sealed(manifest), Some(keys)) => manifest
                .open(keys)
                .map(ReadableManifest::Opened)
                .map_err(refused),
        }
    }
}

impl ReadableManifest {
    /// The snapshot's own manifest.
    pub fn manifest(&self) -> &StoredManifest {
        match self {
            ReadableManifest::Plain(manifest) => manifest,
            ReadableManifest::Opened(opened) => opened.manifest(),
        }
    }

    /// The manifest behind a seal.
    pub fn opened(&self) -> Option<&OpenedManifest> {
        match self {
            ReadableManifest::Plain(_) => None,
            ReadableManifest::Opened(opened) => Some(opened),
        }
    }
}

impl Source for Remote {
    fn size_bytes(&self, kind: Kind, name: Digest) -> io::Result<u64> {
        Ok(self.store.head(&key_of(kind, name))?.bytes)
    }

    fn get_range(&self, kind: Kind, name: Digest, range: Range<u64>) -> io::Result<Vec<u8>> {
        Ok(self.store.get_range(&key_of(kind, name), range)?)
    }
}
