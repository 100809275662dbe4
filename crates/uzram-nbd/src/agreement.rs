//! What a client and a server agreed on in a handshake, which may be told to another process: the one that serves the client
//! from then on.
//!
//! Both processes may be of different versions. So each text has a version, and another one is refused in words.

use crate::proto::{Headers, MAX_PAYLOAD, info, opt, option_reply, rep};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The version of these texts.
const VERSION: u32 = 1;

/// What a client asked for, and how it is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Agreement {
    /// The headers of requests and replies.
    pub(crate) headers: Headers,
    /// Whether `base:allocation` was selected for this export.
    pub(crate) allocation: bool,
    /// Whether the client may only read, also where the export is writable.
    pub(crate) read_only: bool,
    /// What TLS has shown of the client; `None`: it came without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<TlsTerms>,
    /// The name of the export, as the client is told if it asks.
    pub(crate) name: String,
    /// How the handshake ends.
    pub(crate) ending: Ending,
}

/// The option that ends a handshake. It is answered by whoever serves the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ending {
    /// `NBD_OPT_EXPORT_NAME`, whose answer is followed by zeroes or not.
    ExportName { zeroes: bool },
    /// `NBD_OPT_GO`, with what the client wants to know.
    Go { wanted: Vec<u16> },
}

/// What a client is told of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExportFacts {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) size_bytes: u64,
    pub(crate) read_only: bool,
    /// What TLS has to show of a client with which another process negotiates; `None`: it may come without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<TlsTerms>,
}

/// What TLS shows of a client, or has to show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TlsTerms {
    /// By what the client's certificate was checked ([`Tls::client_authorities`](crate::Tls::client_authorities)); `None`: it has
    /// none, or need not have one.
    pub(crate) authorities: Option<String>,
}

impl TlsTerms {
    /// Why a client of which this was shown is not served where that is demanded; `None`: it is.
    pub(crate) fn lacking(demanded: Option<&Self>, shown: Option<&Self>) -> Option<&'static str> {
        match (demanded, shown) {
            (None, _) => None,
            (Some(_), None) => Some("it serves only clients with TLS"),
            (Some(demanded), Some(shown)) => {
                let is_enough = demanded.authorities.is_none() || demanded == shown;
                let why = "it serves only clients whose certificates were checked by the same ca-cert.pem and ca-crl.pem as its own";
                (!is_enough).then_some(why)
            }
        }
    }
}

/// A text with its version.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    it: T,
}

/// Only the version, which every version can read.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// Writes it for another process.
pub(crate) fn to_text(it: &impl Serialize) -> String {
    let version = VERSION;
    // Nothing in these types can fail.
    serde_json::to_string(&Versioned { version, it }).unwrap_or_default()
}

/// Reads what another process wrote. The error says what is wrong with it.
pub(crate) fn from_text<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let wrong =
        |error: serde_json::Error| format!("what another process says is not understood: {error}");
    let VersionOnly { version } = serde_json::from_str(text).map_err(wrong)?;
    if version != VERSION {
        return Err(format!(
            "the other process speaks version {version} of what NBD servers of uzram tell each other, and this one {VERSION}"
        ));
    }
    let versioned: Versioned<T> = serde_json::from_str(text).map_err(wrong)?;
    Ok(versioned.it)
}

impl Agreement {
    /// What is sent to the client before the transmission phase.
    pub(crate) fn last_reply(&self, facts: &ExportFacts) -> Vec<u8> {
        match &self.ending {
            Ending::ExportName { zeroes } => {
                let mut reply = facts.size_bytes.to_be_bytes().to_vec();
                reply.extend(facts.flags(self.headers, false).to_be_bytes());
                reply.extend(if *zeroes { &[0; 124][..] } else { &[] });
                reply
            }
            // What nobody can use is not offered.
            Ending::Go { wanted } => facts.replies(opt::GO, wanted, self.headers, self.allocation),
        }
    }
}

impl ExportFacts {
    fn flags(&self, headers: Headers, with_status: bool) -> u16 {
        crate::export::transmission_flags(self.read_only, headers, with_status)
    }

    /// The replies to INFO or GO with success.
    pub(crate) fn replies(
        &self,
        option: u32,
        wanted: &[u16],
        headers: Headers,
        with_status: bool,
    ) -> Vec<u8> {
        let mut out = Vec::new();
        let mut tell = |kind: u32, data: &[u8]| {
            out.extend(option_reply(option, kind, data.len() as u32));
            out.extend(data);
        };
        let mut reply = info::EXPORT.to_be_bytes().to_vec();
        reply.extend(self.size_bytes.to_be_bytes());
        reply.extend(self.flags(headers, with_status).to_be_bytes());
        tell(rep::INFO, &reply);
        for wanted in wanted {
            let mut reply = wanted.to_be_bytes().to_vec();
            match *wanted {
                info::NAME => reply.extend(self.name.as_bytes()),
                info::DESCRIPTION if !self.description.is_empty() => {
                    reply.extend(self.description.as_bytes());
                }
                info::BLOCK_SIZE => {
                    // Minimum, preferred and maximum: any range works, and whole pages need no read-modify-write.
                    for size in [1, uzram::PAGE_SIZE as u32, MAX_PAYLOAD] {
                        reply.extend(size.to_be_bytes());
                    }
                }
                _ => continue,
            }
            tell(rep::INFO, &reply);
        }
        tell(rep::ACK, &[]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreement() -> Agreement {
        Agreement {
            headers: Headers::Extended,
            allocation: true,
            read_only: false,
            tls: None,
            name: "a \"b\"".into(),
            ending: Ending::Go { wanted: vec![1, 3] },
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let text = to_text(&agreement());
        assert_eq!(from_text::<Agreement>(&text).unwrap(), agreement());
        let facts = ExportFacts {
            name: "x".into(),
            description: String::new(),
            size_bytes: u64::MAX,
            read_only: true,
            tls: Some(TlsTerms { authorities: None }),
        };
        assert_eq!(from_text::<ExportFacts>(&to_text(&facts)).unwrap(), facts);
    }

    /// Also by a process that knows nothing of TLS here, and says nothing.
    #[test]
    fn what_is_demanded_of_a_client_has_to_be_shown() {
        let terms = |authorities: Option<&str>| TlsTerms {
            authorities: authorities.map(str::to_owned),
        };
        let lacks = |demanded: &TlsTerms, shown: Option<&TlsTerms>| {
            TlsTerms::lacking(Some(demanded), shown).is_some()
        };
        let (plain, ours, theirs) = (terms(None), terms(Some("a")), terms(Some("b")));
        assert!(lacks(&plain, None) && lacks(&ours, None));
        assert!(!lacks(&plain, Some(&plain)) && !lacks(&plain, Some(&ours)));
        assert!(!lacks(&ours, Some(&ours)));
        assert!(lacks(&ours, Some(&theirs)) && lacks(&ours, Some(&plain)));
        assert_eq!(TlsTerms::lacking(None, None), None);
        assert!(!to_text(&agreement()).contains("tls"));
    }

    /// A newer process may have agreed on what this one does not know.
    #[test]
    fn another_version_and_nonsense_are_refused() {
        let newer = to_text(&agreement()).replace(r#""version":1"#, r#""version":2,"more":[]"#);
        let said = from_text::<Agreement>(&newer).unwrap_err();
        assert!(said.contains("version 2"), "{said}");
        let unknown = to_text(&agreement()).replace("Extended", "Wider");
        for text in ["", "{}", "[]", r#"{"version":1}"#, &unknown] {
            let said = from_text::<Agreement>(text).unwrap_err();
            assert!(said.contains("not understood"), "{text}: {said}");
        }
    }
}
