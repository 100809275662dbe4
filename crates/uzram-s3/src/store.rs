//! The store: what [`uzram_remote::Store`] promises, over S3.
//!
//! **Retries**: what may be repeated is repeated for [`PATIENCE`]; a store that lost its master answers after half a minute. Only
//! the first call gives up sooner, so that a wrong address is told at once.
//!
//! **Conditional writes** are settled by a look, whatever the answer was: none, since it was lost; or that the condition does not
//! hold, since an earlier try of this very write was carried out, or though nothing was (409). What is written on a condition
//! has an id in it that nobody else has, so one's own bytes are one's own write.
//!
//! **Large objects** go in parts, some at a time. Whoever dies in between leaves no object; parts that are left are removed
//! here where the other process went away, and else by what the bucket's owner has set for such.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload, RetryConfig, UpdateVersion,
};
use tokio::sync::watch;
use uzram_remote::{Meta, S3Address, StoreError, StoreErrorKind, Version, When};

use crate::credentials::{self, Credentials};
use crate::words::{Secrets, is_unsettled};

/// For how long a request is repeated.
const PATIENCE: Duration = Duration::from_secs(120);
/// For how long the first one is.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);
/// For how long one try may take: longer than a store takes that lost its master.
const TRY: Duration = Duration::from_secs(90);
/// For how long a removal may be on its way. Whoever collects relies on it: its lease holds for twice this.
const REMOVAL: Duration = Duration::from_secs(45);
/// For how long a write on a condition is settled.
const SETTLING: Duration = Duration::from_secs(90);
/// Between two tries to settle it.
const PAUSE: Duration = Duration::from_millis(300);
/// Objects from this length on go in parts.
const IN_PARTS_FROM: usize = 16 << 20;
/// Bytes of such a part. S3 demands 5 MiB.
const PART: usize = 8 << 20;
/// Parts of an object that are on their way at a time.
const PARTS_AT_ONCE: usize = 3;
/// What is read to see whether the store answers. It need not be there.
const FIRST_KEY: &str = "uzram.json";

/// A store that speaks S3.
pub(crate) struct S3 {
    client: AmazonS3,
    prefix: String,
    secrets: Secrets,
    is_gone: watch::Receiver<bool>,
}

impl S3 {
    /// Opens a store: finds credentials, and asks whether it answers, knows who asks, and has the bucket.
    pub(crate) async fn open(
        address: &S3Address,
        is_gone: watch::Receiver<bool>,
    ) -> Result<S3, StoreError> {
        // One provider is compiled in. That another thread has installed it is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let is_amazon = address.endpoint.is_none();
        let (profile, region) = (address.profile.as_deref(), address.region.as_deref());
        let found = credentials::find(profile, region, is_amazon, |name| std::env::var(name).ok())?;
        let secrets = match &found.credentials {
            Credentials::Keys(keys) => {
                let all = [Some(&keys.id), Some(&keys.secret), keys.token.as_ref()];
                Secrets(all.into_iter().flatten().cloned().collect())
            }
            _ => Secrets::default(),
        };
        let client = |patience: Duration, tried_for: Duration| {
            let mut builder = AmazonS3Builder::new()
                .with_bucket_name(&address.bucket)
                .with_region(&found.region)
                .with_retry(RetryConfig {
                    backoff: BackoffConfig {
                        init_backoff: Duration::from_millis(100),
                        max_backoff: Duration::from_secs(3),
                        base: 2.0,
                    },
                    max_retries: 1000,
                    retry_timeout: patience,
                })
                .with_disable_bulk_delete(true);
            // Not every server knows names of buckets in names of hosts, as Amazon's do.
            builder = match &address.endpoint {
                Some(endpoint) => builder.with_endpoint(endpoint),
                None => builder.with_virtual_hosted_style_request(true),
            };
            let is_http = |endpoint: &String| endpoint.starts_with("http://");
            let options = ClientOptions::new()
                .with_timeout(tried_for)
                .with_connect_timeout(Duration::from_secs(5))
                .with_allow_http(address.endpoint.as_ref().is_some_and(is_http));
            builder = builder.with_client_options(options);
            builder = match &found.credentials {
                Credentials::Keys(keys) => {
                    let builder = builder
                        .with_access_key_id(&keys.id)
                        .with_secret_access_key(&keys.secret);
                    match &keys.token {
                        Some(token) => builder.with_token(token),
                        None => builder,
                    }
                }
                Credentials::Service(variables) => {
                    variables.iter().fold(builder, |builder, (name, value)| {
                        match name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
                            Ok(key) => builder.with_config(key, value),
                            Err(_) => builder,
                        }
                    })
                }
                Credentials::Machine => builder,
            };
            builder.build().map_err(|error| secrets.told("", &error))
        };
        let first = client(FIRST_PATIENCE, FIRST_PATIENCE)?;
        let store = S3 {
            client: client(PATIENCE, TRY)?,
            prefix: address.prefix.clone(),
            is_gone,
            secrets: secrets.clone(),
        };
        let answer = match first.get(&store.path(FIRST_KEY)?).await {
            Ok(found) => found.bytes().await.map(drop),
            Err(error) => Err(error),
        };
        match answer.map_err(|error| secrets.told(FIRST_KEY, &error)) {
            Err(error) if error.kind == StoreErrorKind::Unreachable => {
                let at = address.endpoint.as_deref().unwrap_or("Amazon's endpoint");
                let why = format!("{at}: {}", error.why);
                Err(StoreError::new(error.kind, "", why))
            }
            Err(error) if error.kind == StoreErrorKind::NoBucket => {
                let why = format!("{}: {}", address.bucket, error.why);
                Err(StoreError::new(error.kind, "", why))
            }
            Err(error) if error.kind != StoreErrorKind::NotFound => Err(error),
            _ => Ok(store),
        }
    }

    /// Where a key is in the bucket.
    fn path(&self, key: &str) -> Result<Path, StoreError> {
        let full = match self.prefix.as_str() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        };
        Path::parse(full).map_err(|error| StoreError::new(StoreErrorKind::Failed, key, error))
    }

    fn told(&self, key: &str) -> impl FnOnce(Error) -> StoreError {
        move |error| self.secrets.told(key, &error)
    }

    /// Writes an object.
    pub(crate) async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        when: &When,
    ) -> Result<Version, StoreError> {
        let path = self.path(key)?;
        match when {
            When::Always if bytes.len() >= IN_PARTS_FROM => {
                self.put_in_parts(key, &path, bytes).await
            }
            When::Always => {
                let put = self.client.put(&path, PutPayload::from(bytes)).await;
                let put = put.map_err(self.told(key))?;
                Ok(Version(put.e_tag.unwrap_or_default()))
            }
            When::New | When::Unchanged(_) => self.put_if(key, &path, bytes, when).await,
        }
    }

    async fn put_if(
        &self,
        key: &str,
        path: &Path,
        bytes: Bytes,
        when: &When,
    ) -> Result<Version, StoreError> {
        let begin = Instant::now();
        loop {
            let mode = match when {
                When::Unchanged(version) => PutMode::Update(UpdateVersion {
                    e_tag: Some(version.0.clone()),
                    version: None,
                }),
                _ => PutMode::Create,
            };
            let payload = PutPayload::from(bytes.clone());
            let options = PutOptions::from(mode);
            let error = match self.client.put_opts(path, payload, options).await {
                Ok(put) => return Ok(Version(put.e_tag.unwrap_or_default())),
                Err(error) => error,
            };
            let told = self.secrets.told(key, &error);
            let is_refused = matches!(told.kind, StoreErrorKind::Exists | StoreErrorKind::Changed);
            if !is_refused && !is_unsettled(&error) {
                return Err(told);
            }
            let found = match self.get(key, bytes.len() as u64 + 1).await {
                Ok(found) => Some(found),
                Err(error) if error.kind == StoreErrorKind::NotFound => None,
                // Longer, so another.
                Err(error) if error.kind == StoreErrorKind::Unsupported => {
                    return Err(lost(key, when));
                }
                Err(error) => {
                    let why = format!("{}; {}", told.why, error.why);
                    return Err(StoreError::new(StoreErrorKind::Unsettled, key, why));
                }
            };
            let may_be_tried_again = match (found, when) {
                (Some((found, version)), _) if found == bytes => return Ok(version),
                (Some((_, found)), When::Unchanged(version)) => found == *version,
                (found, When::New) => found.is_none(),
                _ => false,
            };
            if !may_be_tried_again {
                return Err(lost(key, when));
            }
            if begin.elapsed() > SETTLING || *self.is_gone.borrow() {
                return Err(StoreError::new(StoreErrorKind::Unsettled, key, told.why));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn put_in_parts(
        &self,
        key: &str,
        path: &Path,
        bytes: Bytes,
    ) -> Result<Version, StoreError> {
        let length = bytes.len() as u64;
        let upload = self.client.put_multipart(path).await;
        let mut upload = upload.map_err(self.told(key))?;
        let mut is_gone = self.is_gone.clone();
        let sent = {
            let send = async {
                let mut rest = bytes;
                let mut on_their_way = FuturesUnordered::new();
                while !rest.is_empty() {
                    let part = rest.split_to(rest.len().min(PART));
                    on_their_way.push(upload.put_part(PutPayload::from(part)));
                    if on_their_way.len() >= PARTS_AT_ONCE {
                        on_their_way.try_next().await?;
                    }
                }
                while on_their_way.try_next().await?.is_some() {}
                upload.complete().await
            };
            tokio::select! {
                sent = send => Some(sent),
                _ = is_gone.wait_for(|gone| *gone) => None,
            }
        };
        let error = match sent {
            Some(Ok(put)) => return Ok(Version(put.e_tag.unwrap_or_default())),
            Some(Err(error)) => self.secrets.told(key, &error),
            None => StoreError::new(StoreErrorKind::Failed, key, "nobody wants it any more"),
        };
        let _ = upload.abort().await;
        if *self.is_gone.borrow() {
            return Err(error);
        }
        // The answer to its end may be lost, and the next try is then told that there is no such upload. All that have this
        // name are the same.
        match self.client.head(path).await {
            Ok(found) if found.size == length => Ok(Version(found.e_tag.unwrap_or_default())),
            _ if error.kind == StoreErrorKind::NotFound => {
                Err(StoreError::new(StoreErrorKind::Unsettled, key, error.why))
            }
            _ => Err(error),
        }
    }

    /// Reads an object that has at most `max` bytes; [`StoreErrorKind::Unsupported`] for a longer one.
    pub(crate) async fn get(&self, key: &str, max: u64) -> Result<(Bytes, Version), StoreError> {
        let path = self.path(key)?;
        let found = self.client.get(&path).await.map_err(self.told(key))?;
        let size = found.meta.size;
        if size > max {
            let why = format!("it has {size} bytes, more than {max}");
            return Err(StoreError::new(StoreErrorKind::Unsupported, key, why));
        }
        let version = Version(found.meta.e_tag.clone().unwrap_or_default());
        let bytes = found.bytes().await.map_err(self.told(key))?;
        match bytes.len() as u64 == size {
            true => Ok((bytes, version)),
            false => Err(StoreError::new(StoreErrorKind::Failed, key, "it came cut")),
        }
    }

    /// Reads a part of an object.
    pub(crate) async fn get_range(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> Result<Bytes, StoreError> {
        let path = self.path(key)?;
        let wanted = range.end.saturating_sub(range.start);
        if wanted == 0 {
            return Ok(Bytes::new());
        }
        let bytes = self.client.get_range(&path, range).await;
        let bytes = bytes.map_err(self.told(key))?;
        match bytes.len() as u64 == wanted {
            true => Ok(bytes),
            false => Err(StoreError::new(
                StoreErrorKind::Failed,
                key,
                "it has fewer bytes",
            )),
        }
    }

    /// Looks at an object.
    pub(crate) async fn head(&self, key: &str) -> Result<Meta, StoreError> {
        let path = self.path(key)?;
        let meta = self.client.head(&path).await.map_err(self.told(key))?;
        Ok(describe(key.into(), &meta))
    }

    /// Lists objects.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<Meta>, StoreError> {
        let path = self.path(prefix)?;
        let begin = match self.prefix.as_str() {
            "" => String::new(),
            own => format!("{own}/"),
        };
        let listed = self.client.list(Some(&path)).filter_map(|found| {
            let meta = found.map(|meta| {
                let key = meta.location.as_ref().strip_prefix(&begin)?.to_owned();
                Some(describe(key, &meta))
            });
            std::future::ready(meta.transpose())
        });
        listed.try_collect().await.map_err(self.told(prefix))
    }

    /// Removes an object.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        match tokio::time::timeout(REMOVAL, self.client.delete(&path)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => match self.secrets.told(key, &error) {
                error if error.kind == StoreErrorKind::NotFound => Ok(()),
                error => Err(error),
            },
            Err(_) => {
                let why = format!("no answer within {} s", REMOVAL.as_secs());
                Err(StoreError::new(StoreErrorKind::Unsettled, key, why))
            }
        }
    }
}

/// The condition did not hold.
fn lost(key: &str, when: &When) -> StoreError {
    let kind = match when {
        When::New => StoreErrorKind::Exists,
        _ => StoreErrorKind::Changed,
    };
    StoreError::new(kind, key, "somebody else wrote it")
}

/// What the store says of an object. Its time is of whole seconds, as a look at one object has it: a listing of the same must
/// not be later.
fn describe(key: String, meta: &ObjectMeta) -> Meta {
    let seconds = u64::try_from(meta.last_modified.timestamp()).unwrap_or(0);
    Meta {
        key,
        bytes: meta.size,
        modified_ms: seconds * 1000,
    }
}
