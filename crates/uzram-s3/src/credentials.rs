//! Credentials and the region, from where programs for S3 have them: variables, then the files of `~/.aws`.
//!
//! In the order of Amazon's own programs: the profile that the remote names; `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`; the
//! profile that `AWS_PROFILE` names, or `default`; a container's or a pod's role, by its variables; and, where the store is
//! Amazon's, the machine's own role. What a profile says that is not known here (a role to assume, single sign-on, a
//! program) is refused in words: to go on with other credentials would be a surprise.

use std::fmt;
use std::path::PathBuf;

use ini::{Ini, ParseOption, Properties};
use uzram_remote::{StoreError, StoreErrorKind};

/// Most bytes of a file.
const MAX_BYTES: u64 = 1 << 20;

/// What requests are signed with.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) token: Option<String>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// From where credentials come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// They are known.
    Keys(Keys),
    /// A service hands them out: variables of these names say which.
    Service(Vec<(&'static str, String)>),
    /// The machine has a role, if it is one of Amazon's.
    Machine,
}

/// What is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) credentials: Credentials,
    pub(crate) region: String,
}

/// The variables by which a container or a pod has a role.
const SERVICE: [&str; 6] = [
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];
/// What a profile may have instead of keys.
const UNKNOWN: [&str; 6] = [
    "credential_process",
    "credential_source",
    "role_arn",
    "source_profile",
    "sso_session",
    "sso_start_url",
];

/// Finds credentials and region.
///
/// `profile` and `region` are what the remote names, `variable` reads the environment.
pub(crate) fn find(
    profile: Option<&str>,
    region: Option<&str>,
    is_amazon: bool,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Found, StoreError> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let named = profile
        .map(str::to_owned)
        .or_else(|| variable("AWS_PROFILE"));
    let files = Files::read(&variable)?;
    let name = named.as_deref().unwrap_or("default");
    let keys = match profile {
        Some(_) => None,
        None => of_variables(&variable)?,
    };
    let keys = match keys {
        Some(keys) => Some(keys),
        None => files.keys(name)?,
    };
    let service = || {
        let found = SERVICE.map(|name| variable(name).map(|value| (name, value)));
        found.into_iter().flatten().collect::<Vec<_>>()
    };
    let credentials = match keys {
        Some(keys) => Credentials::Keys(keys),
        None if named.is_some() => {
            let why = format!(
                "neither ~/.aws/credentials nor ~/.aws/config has keys of the profile {name}"
            );
            return Err(none(why));
        }
        None if !service().is_empty() => Credentials::Service(service()),
        None if is_amazon => Credentials::Machine,
        None => {
            return Err(none(
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write them to ~/.aws/credentials",
            ));
        }
    };
    let region = region.map(str::to_owned);
    let region = region
        .or_else(|| variable("AWS_REGION"))
        .or_else(|| variable("AWS_DEFAULT_REGION"))
        .or_else(|| files.region(name));
    Ok(Found {
        credentials,
        region: region.unwrap_or_else(|| "us-east-1".into()),
    })
}

fn none(why: impl fmt::Display) -> StoreError {
    StoreError::new(StoreErrorKind::NoCredentials, "", why)
}

fn of_variables(variable: &impl Fn(&str) -> Option<String>) -> Result<Option<Keys>, StoreError> {
    let id = variable("AWS_ACCESS_KEY_ID");
    match (id, variable("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => Ok(Some(Keys {
            id,
            secret,
            token: variable("AWS_SESSION_TOKEN"),
        })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(none(
            "AWS_ACCESS_KEY_ID is set, AWS_SECRET_ACCESS_KEY is not",
        )),
        (None, Some(_)) => Err(none(
            "AWS_SECRET_ACCESS_KEY is set, AWS_ACCESS_KEY_ID is not",
        )),
    }
}

/// The files of `~/.aws`.
struct Files {
    credentials: Ini,
    config: Ini,
}

impl Files {
    fn read(variable: &impl Fn(&str) -> Option<String>) -> Result<Files, StoreError> {
        let place = |name: &str, file: &str| {
            let home = variable("HOME").map(|home| PathBuf::from(home).join(".aws").join(file));
            variable(name).map(PathBuf::from).or(home)
        };
        Ok(Files {
            credentials: read(place("AWS_SHARED_CREDENTIALS_FILE", "credentials"))?,
            config: read(place("AWS_CONFIG_FILE", "config"))?,
        })
    }

    /// The sections of a profile.
    fn sections(&self, name: &str) -> [Option<&Properties>; 2] {
        let config = self.config.section(Some(format!("profile {name}")));
        let config = config.or_else(|| {
            self.config
                .section(Some(name))
                .filter(|_| name == "default")
        });
        [self.credentials.section(Some(name)), config]
    }

    fn keys(&self, name: &str) -> Result<Option<Keys>, StoreError> {
        for section in self.sections(name).into_iter().flatten() {
            let get = |key: &str| {
                section
                    .get(key)
                    .map(str::to_owned)
                    .filter(|value| !value.is_empty())
            };
            match (get("aws_access_key_id"), get("aws_secret_access_key")) {
                (Some(id), Some(secret)) => {
                    return Ok(Some(Keys {
                        id,
                        secret,
                        token: get("aws_session_token"),
                    }));
                }
                (None, None) => {}
                _ => {
                    let why = format!(
                        "the profile {name} has one of aws_access_key_id and aws_secret_access_key without the other"
                    );
                    return Err(none(why));
                }
            }
        }
        for section in self.sections(name).into_iter().flatten() {
            if let Some(key) = UNKNOWN.iter().find(|key| section.contains_key(**key)) {
                let why = format!(
                    "the profile {name} has {key}, which uzram does not know: have the program that does set AWS_ACCESS_KEY_ID, \
                     AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"
                );
                return Err(none(why));
            }
        }
        Ok(None)
    }

    fn region(&self, name: &str) -> Option<String> {
        let mut sections = self.sections(name).into_iter().flatten();
        sections.find_map(|section| section.get("region").map(str::to_owned))
    }
}

fn read(path: Option<PathBuf>) -> Result<Ini, StoreError> {
    let Some(path) = path else {
        return Ok(Ini::new());
    };
    let failed = |why: String| none(format!("{}: {why}", path.display()));
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Ini::new()),
        Err(error) => return Err(failed(error.to_string())),
        Ok(found) if found.len() > MAX_BYTES => return Err(failed("it is too long".into())),
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(&path).map_err(|error| failed(error.kind().to_string()))?;
    // Values are as they are written: nothing in a key is an escape.
    let options = ParseOption {
        enabled_escape: false,
        enabled_quote: false,
        ..ParseOption::default()
    };
    // An error has a place, and nothing of what stands there.
    Ini::load_from_str_opt(&text, options)
        .map_err(|error| failed(format!("line {} cannot be read", error.line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [(&str, &str); 2] = [
        (
            "credentials",
            "[default]\naws_access_key_id = D\naws_secret_access_key = a\\b/c+d=\"e\n\n[ci]\naws_access_key_id=C\n\
             aws_secret_access_key=cs\naws_session_token=ct\n[half]\naws_access_key_id=H\n",
        ),
        (
            "config",
            "[default]\nregion = eu-north-1\n[profile ci]\nregion = eu-west-3\n[profile role]\nrole_arn = arn:x\n\
             [profile own]\naws_access_key_id=O\naws_secret_access_key=os\n",
        ),
    ];

    fn found(
        profile: Option<&str>,
        is_amazon: bool,
        with_files: bool,
        variables: &[(&str, &str)],
    ) -> Result<(String, String), String> {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        for (name, text) in FILES.iter().filter(|_| with_files) {
            std::fs::write(home.path().join(".aws").join(name), text).unwrap();
        }
        let variable = |name: &str| match name {
            "HOME" => Some(home.path().to_str().unwrap().to_owned()),
            _ => {
                let found = variables.iter().find(|(other, _)| *other == name);
                found.map(|(_, value)| (*value).to_owned())
            }
        };
        let found = find(profile, None, is_amazon, variable).map_err(|error| error.to_string())?;
        let credentials = match found.credentials {
            Credentials::Keys(keys) => format!(
                "{} {} {}",
                keys.id,
                keys.secret,
                keys.token.unwrap_or_default()
            ),
            Credentials::Service(of) => format!("service {of:?}"),
            Credentials::Machine => "machine".into(),
        };
        Ok((credentials, found.region))
    }

    #[test]
    fn the_order_is_that_of_amazons_programs() {
        let env = [
            ("AWS_ACCESS_KEY_ID", "E"),
            ("AWS_SECRET_ACCESS_KEY", "es"),
            ("AWS_REGION", "xx-1"),
        ];
        let is = |keys: &str, region: &str| Ok((keys.to_owned(), region.to_owned()));
        assert_eq!(found(None, false, true, &env), is("E es ", "xx-1"));
        assert_eq!(found(Some("ci"), false, true, &env), is("C cs ct", "xx-1"));
        // Nothing in a secret is an escape or a quote.
        assert_eq!(
            found(None, false, true, &[]),
            is("D a\\b/c+d=\"e ", "eu-north-1")
        );
        assert_eq!(
            found(None, false, true, &[("AWS_PROFILE", "ci")]),
            is("C cs ct", "eu-west-3")
        );
        assert_eq!(
            found(Some("own"), false, true, &[]),
            is("O os ", "us-east-1")
        );
        assert_eq!(found(None, true, false, &[]), is("machine", "us-east-1"));
        let role = [("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/x")];
        let (service, _) = found(None, false, false, &role).unwrap();
        assert!(service.starts_with("service"), "{service}");
    }

    #[test]
    fn what_is_missing_or_not_known_is_told_without_a_secret() {
        let only = [("AWS_SECRET_ACCESS_KEY", "hush")];
        for (profile, files, variables, said) in [
            (None, false, &only[..0], "set AWS_ACCESS_KEY_ID"),
            (None, true, &only[..], "AWS_ACCESS_KEY_ID is not"),
            (Some("nobody"), true, &only[..0], "the profile nobody"),
            (Some("half"), true, &only[..0], "without the other"),
            (Some("role"), true, &only[..0], "role_arn"),
        ] {
            let error = found(profile, false, files, variables).unwrap_err();
            assert!(error.contains(said) && !error.contains("hush"), "{error}");
        }
        let broken = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(broken.path(), "[default]\naws_secret_access_key hush\n").unwrap();
        let path = broken.path().to_str().unwrap().to_owned();
        let variable = |name: &str| (name == "AWS_SHARED_CREDENTIALS_FILE").then(|| path.clone());
        let error = find(None, None, false, variable).unwrap_err().to_string();
        assert!(error.contains("line") && !error.contains("hush"), "{error}");
        let keys = Keys {
            id: "A".into(),
            secret: "hush".into(),
            token: None,
        };
        assert!(!format!("{keys:?}").contains("hush"));
    }
}
