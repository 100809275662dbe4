//! The API: one table of paths, and what each does.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uzram_control::zram::{ATTRIBUTES, AttributePlace, Errno, Owner, View};
use uzram_control::{ControlError, Request, Response, number};
use uzram_spec::DeviceSpec;

use crate::config::spec_from_options;
use crate::error::Body;
use crate::openapi;

/// Most bytes of `block_state` in one answer.
const MAX_BLOCK_STATE: usize = 1 << 20;

/// A device that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// Its name.
    pub name: String,
    /// Its node or URI.
    pub path: String,
    /// What was said meanwhile, such as which frontend was chosen and why.
    pub notes: String,
}

/// What the API steers: the daemon's devices.
pub trait Devices: Send + Sync {
    /// zram's interface to them.
    fn view(&self) -> &dyn View;
    /// Makes a device.
    fn create(&self, spec: &DeviceSpec) -> Result<Created, ControlError>;
    /// Takes a device down and forgets it; EBUSY while it is in use.
    fn remove(&self, name: &str) -> Result<(), ControlError>;
    /// Asks the server of a device.
    fn ask(&self, name: &str, request: &Request) -> Result<Response, ControlError>;
    /// A device with its record and statistics, or all of them.
    fn describe(&self, name: Option<&str>) -> Result<Vec<Value>, ControlError>;
}

/// What a request brings.
pub(crate) struct Call<'a> {
    devices: &'a dyn Devices,
    /// What stands for `{name}` and `{attribute}` in the path, in this order.
    names: Vec<&'a str>,
    query: &'a str,
    body: &'a [u8],
}

/// What is answered.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    Json(u16, Value),
    /// Bytes as the kernel shows them.
    Text(Vec<u8>),
    /// Lines of `block_state` and the slot to go on from.
    Lines(Vec<u8>, u64),
    Done,
}

type Handled = Result<Answer, Body>;

/// A path of the API.
pub struct Route {
    /// The HTTP method.
    pub method: &'static str,
    /// The path, with `{name}` and `{attribute}` for what varies.
    pub path: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// The schema of the request's body in the OpenAPI document, `text` for bytes, empty for none.
    pub body: &'static str,
    /// The schema of the answer, likewise.
    pub answer: &'static str,
    handle: fn(&Call<'_>) -> Handled,
}

/// All paths of version 1.
pub fn routes() -> &'static [Route] {
    ROUTES
}

const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/v1",
        about: "The program, its version, and that of the API",
        body: "",
        answer: "Version",
        handle: |_| {
            let version =
                json!({"program": "uzramd", "version": env!("CARGO_PKG_VERSION"), "api": 1});
            Ok(Answer::Json(200, version))
        },
    },
    Route {
        method: "GET",
        path: "/v1/openapi.json",
        about: "This API as an OpenAPI document",
        body: "",
        answer: "object",
        handle: |_| Ok(Answer::Json(200, openapi::document())),
    },
    Route {
        method: "GET",
        path: "/v1/attributes",
        about: "Every attribute of zram's interface, with its documentation",
        body: "",
        answer: "array",
        handle: |_| Ok(Answer::Json(200, openapi::attributes())),
    },
    Route {
        method: "GET",
        path: "/v1/devices",
        about: "The devices with their statistics, also those that are not initialised",
        body: "",
        answer: "array",
        handle: |call| Ok(Answer::Json(200, call.devices.describe(None)?.into())),
    },
    Route {
        method: "POST",
        path: "/v1/devices",
        about: "Make a device",
        body: "Create",
        answer: "Created",
        handle: create,
    },
    Route {
        method: "GET",
        path: "/v1/devices/{name}",
        about: "A device with its statistics",
        body: "",
        answer: "object",
        handle: |call| {
            let mut found = call.devices.describe(Some(call.names[0]))?;
            Ok(Answer::Json(200, found.pop().unwrap_or_default()))
        },
    },
    Route {
        method: "DELETE",
        path: "/v1/devices/{name}",
        about: "Take a device down; EBUSY while it is in use",
        body: "",
        answer: "",
        handle: |call| {
            call.devices.remove(call.names[0])?;
            Ok(Answer::Done)
        },
    },
    Route {
        method: "POST",
        path: "/v1/devices/{name}/requests",
        about: "Ask the device's server: the control protocol, such as {\"op\":\"compact\",\"max_bytes\":1000000}",
        body: "Request",
        answer: "object",
        handle: ask,
    },
    Route {
        method: "GET",
        path: "/v1/devices/{name}/attributes",
        about: "All attributes that can be read, as one object of texts",
        body: "",
        answer: "object",
        handle: all_attributes,
    },
    Route {
        method: "GET",
        path: "/v1/devices/{name}/attributes/{attribute}",
        about: "An attribute, to the byte as the kernel shows it",
        body: "",
        answer: "text",
        handle: |call| {
            let owner = owner(call)?;
            let shown = call.devices.view().show(owner, call.names[1]);
            shown.map(Answer::Text).map_err(Body::of)
        },
    },
    Route {
        method: "PUT",
        path: "/v1/devices/{name}/attributes/{attribute}",
        about: "Write an attribute: the body is what one write(2) would be given",
        body: "text",
        answer: "",
        handle: |call| {
            let owner = owner(call)?;
            let stored = call.devices.view().store(owner, call.names[1], call.body);
            stored.map(|()| Answer::Done).map_err(Body::of)
        },
    },
    Route {
        method: "GET",
        path: "/v1/devices/{name}/block_state",
        about: "Lines of block_state: ?from=SLOT&max=BYTES; the header Next-Slot says where to go on",
        body: "",
        answer: "text",
        handle: block_state,
    },
    Route {
        method: "GET",
        path: "/v1/devices/{name}/classes",
        about: "The size classes of the device's pool, as zsmalloc shows its own in debugfs",
        body: "",
        answer: "text",
        handle: |call| {
            let id = id(call.names[0])?;
            call.devices
                .view()
                .classes(id)
                .map(Answer::Text)
                .map_err(Body::of)
        },
    },
    Route {
        method: "GET",
        path: "/v1/control/devices",
        about: "The devices' numbers, sizes and nodes, and nothing that their servers would have to be asked",
        body: "",
        answer: "array",
        handle: |call| {
            let shown = call.devices.view().devices().map_err(Body::of)?;
            Ok(Answer::Json(200, json!(shown)))
        },
    },
    Route {
        method: "POST",
        path: "/v1/control/hot_add",
        about: "Add a device that is not initialised; answers its number",
        body: "",
        answer: "text",
        handle: |call| {
            let shown = call.devices.view().show(Owner::Control, "hot_add");
            shown.map(Answer::Text).map_err(Body::of)
        },
    },
    Route {
        method: "PUT",
        path: "/v1/control/hot_remove",
        about: "Remove the device whose number is the body",
        body: "text",
        answer: "",
        handle: |call| {
            let stored = call
                .devices
                .view()
                .store(Owner::Control, "hot_remove", call.body);
            stored.map(|()| Answer::Done).map_err(Body::of)
        },
    },
];

/// Answers one request.
pub(crate) fn handle(devices: &dyn Devices, method: &str, url: &str, body: &[u8]) -> Handled {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let path = path.strip_suffix('/').unwrap_or(path);
    let mut others = Vec::new();
    for route in ROUTES {
        let Some(names) = matches(route.path, path) else {
            continue;
        };
        if route.method != method {
            others.push(route.method);
            continue;
        }
        let call = Call {
            devices,
            names,
            query,
            body,
        };
        return (route.handle)(&call);
    }
    Err(match others.as_slice() {
        [] => Body::new(
            Errno::NOENT,
            format!("no path {path}: see /v1/openapi.json"),
        ),
        others => Body::new(
            Errno::OPNOTSUPP,
            format!("{path} knows {}, not {method}", others.join(" and ")),
        ),
    })
}

/// What stands for the names in a route's path, if the path is that route's.
fn matches<'a>(pattern: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let mut names = Vec::new();
    let mut given = path.split('/');
    for part in pattern.split('/') {
        let word = given.next()?;
        match part.starts_with('{') {
            true if word.is_empty() => return None,
            true => names.push(word),
            false if part != word => return None,
            false => {}
        }
    }
    given.next().is_none().then_some(names)
}

/// N of `zramN`.
fn id(name: &str) -> Result<u32, Body> {
    number(name).ok_or_else(|| Body::new(Errno::NODEV, format!("no device '{name}'")))
}

fn owner(call: &Call<'_>) -> Result<Owner, Body> {
    id(call.names[0]).map(Owner::Device)
}

fn json_of<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Body> {
    serde_json::from_slice(body)
        .map_err(|error| Body::new(Errno::INVAL, format!("the body: {error}")))
}

/// Options of `uzram create` by name, or a description.
fn create(call: &Call<'_>) -> Handled {
    let options: Map<String, Value> = json_of(call.body)?;
    if options.contains_key("args") {
        let message = "args: a command line, as uzram 0.1 sends it, is not understood: send options by name, \
            or use the uzram of this daemon's version";
        return Err(Body::new(Errno::INVAL, message));
    }
    let spec = spec_from_options(&options, &["directory"]).map_err(ControlError::from)?;
    let created = call.devices.create(&spec)?;
    Ok(Answer::Json(201, json!(created)))
}

fn ask(call: &Call<'_>) -> Handled {
    let request: Request = json_of(call.body)?;
    match request {
        Request::Remove
        | Request::RemoveByForce
        | Request::HandOver
        | Request::Recover
        | Request::Upgrade { .. } => {
            let message = "not a request for the server of a device here; DELETE takes one down";
            Err(Body::new(Errno::INVAL, message))
        }
        request => {
            let response = call.devices.ask(call.names[0], &request)?;
            if let Response::Error(error) = response {
                return Err(error.into());
            }
            Ok(Answer::Json(200, json!(response)))
        }
    }
}

fn all_attributes(call: &Call<'_>) -> Handled {
    let owner = owner(call)?;
    let view = call.devices.view();
    let mut all = serde_json::Map::new();
    for attribute in ATTRIBUTES {
        if attribute.place == AttributePlace::Device && attribute.mode & 0o400 != 0 {
            let shown = view.show(owner, attribute.name).map_err(Body::of)?;
            let text = String::from_utf8_lossy(&shown).into_owned();
            all.insert(attribute.name.into(), text.into());
        }
    }
    Ok(Answer::Json(200, all.into()))
}

fn block_state(call: &Call<'_>) -> Handled {
    let id = id(call.names[0])?;
    let number = |key: &str, default: u64| {
        let pairs = call
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        let value = pairs
            .filter(|(name, _)| *name == key)
            .map(|(_, v)| v)
            .next();
        value.map_or(Ok(default), |value| {
            value
                .parse()
                .map_err(|_| Body::new(Errno::INVAL, format!("{key}: '{value}' is no number")))
        })
    };
    let from = number("from", 0)?;
    let max = number("max", MAX_BLOCK_STATE as u64)?.min(MAX_BLOCK_STATE as u64);
    let (lines, next) = call
        .devices
        .view()
        .block_state(id, from, max as usize)
        .map_err(Body::of)?;
    Ok(Answer::Lines(lines, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_match_as_a_whole() {
        let pattern = "/v1/devices/{name}/attributes/{attribute}";
        let found = matches(pattern, "/v1/devices/zram0/attributes/disksize");
        assert_eq!(found, Some(vec!["zram0", "disksize"]));
        for path in [
            "/v1/devices/zram0",
            "/v1/devices//attributes/x",
            "/v1/devices/a/attributes/b/c",
        ] {
            assert_eq!(matches(pattern, path), None, "{path}");
        }
    }

    #[test]
    fn device_names_are_read_and_nonsense_is_not() {
        assert_eq!(id("zram12"), Ok(12));
        for name in ["zram", "zram01", "sda", "zram-1"] {
            assert!(id(name).is_err(), "{name}");
        }
    }
}
