//! What went wrong with a store, in a kind and in words. No credentials are in them.
//!
//! A store's answer may repeat the key's id or what was signed. So of an answer only its code and its message are
//! told, and whatever is known to be a credential is struck out of these.

use std::error::Error as _;

use object_store::Error;
use object_store::client::HttpError;
use uzram_remote::{StoreError, StoreErrorKind};

/// What must not be told.
#[derive(Clone, Default)]
pub(crate) struct Secrets(pub(crate) Vec<String>);

impl Secrets {
    fn strike_out(&self, text: String) -> String {
        let all = self.0.iter().filter(|secret| !secret.is_empty());
        all.fold(text, |text, secret| {
            text.replace(secret.as_str(), "(struck out)")
        })
    }

    /// A failure of the client in the words of a store.
    pub(crate) fn told(&self, key: &str, error: &Error) -> StoreError {
        let text = all_of(error);
        let code = element(&text, "Code").unwrap_or_default();
        let kind = kind_of(error, &text, code);
        let why = match (code, element(&text, "Message")) {
            ("", _) => plain(error, &text),
            (code, Some(message)) if !message.is_empty() => format!("{code}: {message}"),
            (code, _) => code.to_owned(),
        };
        // On one line, and not without end.
        let why: String = why.split_whitespace().collect::<Vec<_>>().join(" ");
        let why: String = why.chars().take(500).collect();
        StoreError::new(kind, key, self.strike_out(why))
    }
}

/// Whether nobody knows if a write was done: no answer came.
pub(crate) fn is_unsettled(error: &Error) -> bool {
    let no_answer = http_error(error).is_some();
    no_answer || status(&all_of(error)).is_some_and(|status| status >= 500)
}

fn kind_of(error: &Error, text: &str, code: &str) -> StoreErrorKind {
    use StoreErrorKind::{
        Changed, Denied, Exists, Failed, Full, NoBucket, NoCredentials, NotFound, Unreachable,
        Unsupported,
    };
    match (error, code) {
        (_, "NoSuchBucket") => NoBucket,
        (
            _,
            "QuotaExceeded"
            | "QuotaExceededException"
            | "XMinioStorageFull"
            | "InsufficientCapacity",
        ) => Full,
        (Error::NotFound { .. }, _) => NotFound,
        (Error::AlreadyExists { .. }, _) => Exists,
        (Error::Precondition { .. } | Error::NotModified { .. }, _) => Changed,
        (Error::PermissionDenied { .. } | Error::Unauthenticated { .. }, _) => Denied,
        (Error::NotImplemented { .. } | Error::NotSupported { .. }, _) => Unsupported,
        // The service that hands credentials to machines and containers.
        _ if text.contains("169.254.") => NoCredentials,
        _ => match status(text) {
            Some(507) => Full,
            Some(405 | 501) => Unsupported,
            Some(_) => Failed,
            None if http_error(error).is_some() => Unreachable,
            None => Failed,
        },
    }
}

/// An error with all that it comes of.
fn all_of(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(of) = source {
        text += "\n";
        text += &of.to_string();
        source = of.source();
    }
    text
}

/// What stands at the bottom of an error that is no answer of the store.
fn plain(error: &Error, text: &str) -> String {
    if let Some(status) = status(text) {
        return format!("its answer is {status}");
    }
    if text.contains("without LOCATION") {
        return "the bucket is in another region: name it with --region".into();
    }
    let mut deepest = error.to_string();
    let mut source = error.source();
    while let Some(of) = source {
        deepest = of.to_string();
        source = of.source();
    }
    deepest
}

fn http_error(error: &Error) -> Option<&HttpError> {
    let mut source = error.source();
    while let Some(of) = source {
        if let Some(found) = of.downcast_ref::<HttpError>() {
            return Some(found);
        }
        source = of.source();
    }
    None
}

/// The status of an answer.
fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// The text of an element of XML.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> Error {
        Error::Generic {
            store: "S3",
            source: text.to_owned().into(),
        }
    }

    #[test]
    fn nothing_that_was_signed_is_told() {
        let secrets = Secrets(vec!["AKIAX".into(), "hush".into()]);
        let body = "Server returned non-2xx status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code>\
            <Message>The signature of AKIAX does not match</Message><AWSAccessKeyId>AKIAX</AWSAccessKeyId>\
            <StringToSign>AWS4-HMAC 2026</StringToSign></Error>";
        let error = Error::PermissionDenied {
            path: "tag/x".into(),
            source: body.to_owned().into(),
        };
        let told = secrets.told("tag/x", &error);
        assert_eq!(told.kind, StoreErrorKind::Denied);
        assert_eq!(
            told.why,
            "SignatureDoesNotMatch: The signature of (struck out) does not match"
        );
        let told = secrets.told("", &generic("something with hush\nin it"));
        assert_eq!(told.why, "something with (struck out) in it");
    }

    #[test]
    fn kinds_are_told_from_codes_and_statuses() {
        use StoreErrorKind::{Failed, Full, NoBucket, NotFound, Unsupported};
        let secrets = Secrets::default();
        let not_found = |body: &str| Error::NotFound {
            path: "x".into(),
            source: body.to_owned().into(),
        };
        for (error, kind) in [
            (not_found("<Code>NoSuchBucket</Code>"), NoBucket),
            (not_found("<Code>NoSuchKey</Code>"), NotFound),
            (not_found(""), NotFound),
            (
                generic("non-2xx status code: 507 Insufficient Storage: "),
                Full,
            ),
            (
                generic("non-2xx status code: 501 Not Implemented: "),
                Unsupported,
            ),
            (
                generic("non-2xx status code: 500 Internal Server Error: "),
                Failed,
            ),
            (generic("<Code>XMinioStorageFull</Code>"), Full),
        ] {
            assert_eq!(secrets.told("x", &error).kind, kind, "{error}");
        }
        assert!(is_unsettled(&generic("status code: 503 x")));
        assert!(!is_unsettled(&generic("status code: 400 x")));
    }
}
