//! From a method and a path to what is asked for: a row of the table, with what stands for the names in its path.

use std::borrow::Cow;
use std::cell::Cell;

use hyper::{StatusCode, Uri};
use percent_encoding::percent_decode_str;
use uzram_control::zram::Errno;

use super::{Asker, Brought, Call, Devices, Handled, ROUTES, Route};
use crate::error::Body;
use crate::limits::Limits;

/// A request for something that the API has.
pub(crate) struct Asked {
    route: &'static Route,
    is_head: bool,
    names: Vec<String>,
    query: Vec<(String, String)>,
    accept: String,
}

impl Asked {
    /// Looks up what is asked for. What looks and has no body may be asked for with `HEAD`, too.
    pub(crate) fn find(method: &str, uri: &Uri) -> Result<Asked, Body> {
        let path = uri.path();
        let segments = segments(path)?;
        let wanted = if method == "HEAD" { "GET" } else { method };
        let mut others = Vec::new();
        for route in ROUTES {
            let Some(names) = matches(route.path, &segments) else {
                continue;
            };
            if route.method != wanted {
                others.push(route.method);
                continue;
            }
            let query = uri.query().unwrap_or_default();
            let query = form_urlencoded::parse(query.as_bytes());
            return Ok(Asked {
                route,
                is_head: method == "HEAD",
                names,
                query: query.into_owned().collect(),
                accept: String::new(),
            });
        }
        if others.is_empty() {
            let message = format!("no path {path}: see /v1/openapi.json");
            return Err(Body::new(Errno::NOENT, message));
        }
        if others.contains(&"GET") {
            others.push("HEAD");
        }
        let message = format!("{path} knows {}, not {method}", others.join(" and "));
        Err(Body::new(Errno::OPNOTSUPP, message)
            .with_status(StatusCode::METHOD_NOT_ALLOWED)
            .allowing(others.join(", ")))
    }

    /// The same by whoever likes these formats, as in the header `Accept`.
    pub(crate) fn accepting(mut self, accept: String) -> Asked {
        self.accept = accept;
        self
    }

    /// Whether it changes anything, which may take long. The word that a device is known does not.
    pub(crate) fn changes(&self) -> bool {
        self.route.method != "GET" && !self.route.path.ends_with("/confirm")
    }

    /// Whether its body is read while the request is carried out.
    pub(crate) fn is_streamed(&self) -> bool {
        self.route.body == "stream"
    }

    /// Does what is asked for. May take long.
    pub(crate) fn answer(&self, devices: &dyn Devices, body: Brought, asker: Asker) -> Handled {
        let (body, streamed) = match body {
            Brought::Whole(body) => (body, None),
            Brought::Streamed(body) => (hyper::body::Bytes::new(), Some(body)),
        };
        // A write(2) of nothing stores nothing either.
        if !self.route.body.is_empty() && body.is_empty() && streamed.is_none() {
            return Err(Body::new(Errno::INVAL, "the request has no body"));
        }
        let mut names = self.names.clone();
        if let Some(name) = names.first_mut() {
            // The first in a path is a device's, and it may have been made with a name of its own.
            *name = devices.resolve(std::mem::take(name));
        }
        (self.route.handle)(&Call {
            devices,
            names: &names,
            query: &self.query,
            body: &body,
            streamed: Cell::new(streamed),
            is_head: self.is_head,
            asker,
            accept: &self.accept,
        })
    }

    /// The longest body that this request may have: one for a device's server may bring a dictionary.
    pub(crate) fn body_bytes(&self, limits: &Limits) -> usize {
        match self.route.body {
            "Request" => limits.request_bytes,
            _ => limits.body_bytes,
        }
    }
}

/// The parts of a path between its slashes, decoded one by one: a slash that is encoded separates nothing.
fn segments(path: &str) -> Result<Vec<Cow<'_, str>>, Body> {
    let bad = || {
        let message = format!("{path}: after % stand two hexadecimal digits, of UTF-8");
        Body::new(Errno::INVAL, message)
    };
    let path = path.strip_suffix('/').unwrap_or(path);
    path.split('/')
        .map(|part| {
            let mut after = part.split('%').skip(1).map(str::as_bytes);
            let whole =
                |code: &[u8]| code.len() >= 2 && code[..2].iter().all(u8::is_ascii_hexdigit);
            if !after.all(whole) {
                return Err(bad());
            }
            percent_decode_str(part).decode_utf8().map_err(|_| bad())
        })
        .collect()
}

/// What stands for the names in a route's path, if the path is that route's.
fn matches(pattern: &str, path: &[Cow<'_, str>]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut given = path.iter();
    for part in pattern.split('/') {
        let word = given.next()?;
        match part.starts_with('{') {
            true if word.is_empty() => return None,
            true => names.push(word.clone().into_owned()),
            false if part != word => return None,
            false => {}
        }
    }
    given.next().is_none().then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(method: &str, path: &str) -> Result<Asked, Body> {
        Asked::find(method, &path.parse().unwrap())
    }

    #[test]
    fn paths_match_as_a_whole_and_decoded() {
        for path in [
            "/v1/devices/zram0/attributes/disksize",
            "/v1/devices/zram0/attributes/disksize/",
            "/v1/%64evices/zram%30/attributes/disk%73ize?x=%20",
        ] {
            let found = find("GET", path).unwrap_or_else(|error| panic!("{path}: {error:?}"));
            assert_eq!(found.names, ["zram0", "disksize"]);
        }
        for (path, status) in [
            ("/v1/devices//attributes/x", 404),
            ("/v1/devices/a/attributes/b/c", 404),
            ("/v1/devices%2Fzram0", 404),
            ("/v1/devices/zram%3", 400),
            ("/v1/devices/zram%zz", 400),
            ("/v1/devices/%ff", 400),
        ] {
            let error = find("GET", path).err().unwrap_or_else(|| panic!("{path}"));
            assert_eq!(error.status().as_u16(), status, "{path}: {error:?}");
        }
        let found = find("GET", "/v1/devices/zram0/block_state?from=%31&max=2+").unwrap();
        assert_eq!(found.query[0], ("from".into(), "1".into()));
    }

    #[test]
    fn a_path_says_which_methods_it_knows() {
        let error = find("PATCH", "/v1/devices").err().unwrap();
        assert_eq!(error.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(error.allow.as_deref(), Some("GET, POST, HEAD"));
        assert_eq!(
            find("HEAD", "/v1/control/hot_add")
                .err()
                .unwrap()
                .allow
                .as_deref(),
            Some("POST")
        );
        assert!(find("HEAD", "/v1/devices").is_ok_and(|found| !found.changes()));
    }
}
