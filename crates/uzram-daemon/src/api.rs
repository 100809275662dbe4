//! The API: one table of paths, and what each does.

mod asked;
mod streams;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Read;

use hyper::StatusCode;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uzram_control::zram::{
    ATTRIBUTES, Attribute, AttributeOwner, AttributePlace, Errno, ShownDevice, View,
};
use uzram_control::{ControlError, Request, Response, number};
use uzram_runtime::client::DescribedDevice;
use uzram_runtime::settings::{Allowed, Change, Setting};
use uzram_spec::{DeviceSpec, parse_json};

use crate::error::Body;
use crate::history::HistoryAnswer;
use crate::metrics::{Metrics, MetricsFormat};
use crate::openapi;
use crate::options::spec_from_options;

pub(crate) use asked::Asked;
pub(crate) use streams::{Brought, Streamed};
pub use streams::{ByteStream, SnapshotOptions};

/// Most bytes of `block_state` in one answer.
const MAX_BLOCK_STATE: usize = 1 << 20;

/// A device that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CreateAnswer {
    /// Its name.
    pub name: String,
    /// Its node or URI.
    pub path: String,
    /// What was said meanwhile, such as which frontend was chosen and why.
    pub notes: String,
    /// What tells it from any other device that ever had its name. Empty in the answer of an older daemon.
    #[serde(default)]
    pub identity: String,
}

/// A device with its record and its statistics, by their names in `uzram stat --json`, where it is initialised.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DeviceAnswer {
    /// What its record, its server and its users say.
    #[serde(flatten)]
    pub described: Option<DescribedDevice>,
    /// Its name.
    pub name: String,
    /// What is known of it in any case.
    #[serde(flatten)]
    pub shown: ShownDevice,
}

/// The program that answers.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct VersionAnswer {
    /// `uzramd`.
    program: &'static str,
    /// Its version.
    version: &'static str,
    /// The API's version: N of the paths that begin with `/vN`.
    api: u32,
}

/// An attribute of zram's interface.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AttributeAnswer {
    /// Its name.
    name: &'static str,
    /// Where it is.
    of: AttributeHolder,
    /// Its file's permissions, in octal.
    mode: String,
    /// The unit of its number, empty for none.
    unit: &'static str,
    /// The kernel's version that brought it.
    since: &'static str,
    /// When it can be written.
    allowed: &'static str,
    /// What it is, in one line.
    about: &'static str,
    /// What it takes and shows, when, and with which errors.
    docs: &'static str,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum AttributeHolder {
    Device,
    ZramControl,
}

impl From<&Attribute> for AttributeAnswer {
    fn from(attribute: &Attribute) -> AttributeAnswer {
        AttributeAnswer {
            name: attribute.name,
            of: match attribute.place {
                AttributePlace::Device => AttributeHolder::Device,
                AttributePlace::Control => AttributeHolder::ZramControl,
            },
            mode: format!("{:04o}", attribute.mode),
            unit: attribute.unit,
            since: attribute.since,
            allowed: attribute.allowed(),
            about: attribute.about,
            docs: attribute.docs,
        }
    }
}

/// Attributes by name, as the kernel shows them.
pub(crate) type Values = BTreeMap<String, String>;

/// The process that asked for a device and is to confirm that it knows of it. 0: it is in another PID namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker(pub u32);

/// What the API steers: the daemon's devices.
pub trait Devices: Send + Sync {
    /// zram's interface to them.
    fn view(&self) -> &dyn View;
    /// The name `zramN` of the device that has that name of its own; any other name as it is.
    fn resolve(&self, name: String) -> String {
        name
    }
    /// Makes a device. One that somebody is to confirm is taken down again if he ends before [`Devices::confirm`] comes,
    /// or takes too long.
    fn create(&self, spec: &DeviceSpec, asker: Option<Asker>)
    -> Result<CreateAnswer, ControlError>;
    /// Keeps a device that was to be confirmed. ENODEV where none of that identity is.
    fn confirm(&self, name: &str, identity: &str) -> Result<(), ControlError>;
    /// Takes a device down and forgets it; EBUSY while it is in use. With an identity, no other device of the name: ENODEV.
    fn remove(&self, name: &str, identity: Option<&str>) -> Result<(), ControlError>;
    /// Asks the server of a device.
    fn ask(&self, name: &str, request: &Request) -> Result<Response, ControlError>;
    /// All that is measured of devices and daemon.
    fn metrics(&self) -> Result<Metrics, ControlError>;
    /// A device with its record and statistics, or all of them.
    fn describe(&self, name: Option<&str>) -> Result<Vec<DeviceAnswer>, ControlError>;
    /// What the daemon has noted of a device over time.
    fn history(&self, name: &str) -> Result<HistoryAnswer, ControlError>;
    /// What a device holds at this moment, as a snapshot. Dropped, it is given up.
    fn snapshot(
        &self,
        name: &str,
        options: SnapshotOptions,
    ) -> Result<Box<dyn ByteStream>, ControlError>;
    /// Makes a device of a snapshot. `spec.from` says what counts beside the snapshot's own.
    fn restore(
        &self,
        spec: DeviceSpec,
        snapshot: Box<dyn Read + Send>,
    ) -> Result<CreateAnswer, ControlError>;
}

/// What a request brings.
pub(crate) struct Call<'a> {
    devices: &'a dyn Devices,
    /// What stands for `{name}` and `{attribute}` in the path, in this order.
    names: &'a [String],
    query: &'a [(String, String)],
    body: &'a [u8],
    /// Of a route whose body is streamed.
    streamed: Cell<Option<Box<dyn Read + Send>>>,
    /// Whether only the head of the answer is asked for.
    is_head: bool,
    asker: Asker,
    /// The formats that whoever asks likes.
    accept: &'a str,
}

impl Call<'_> {
    /// The value of a key of the query.
    fn asked(&self, key: &str) -> Option<&str> {
        let found = self.query.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }
}

/// What is answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Json(StatusCode, Value),
    /// Bytes as the kernel shows them.
    Text(Vec<u8>),
    /// Lines of `block_state` and the slot to go on from.
    Lines(Vec<u8>, u64),
    Streamed(Streamed),
    /// Metrics, in the format that was asked for.
    Metrics(MetricsFormat, String),
    Done,
}

/// What a device's server or keeper is not asked through the API.
pub(crate) const OF_OTHERS: &[&str] = &["remove", "hand_over", "recover", "upgrade", "snapshot"];

type Handled = Result<Answer, Body>;
type Handle = fn(&Call<'_>) -> Handled;

/// A name in a query, its JSON schema, and whether it must be there.
pub(crate) type Parameter = (&'static str, &'static str, bool);

/// A path of the API.
pub struct Route {
    /// The HTTP method.
    pub method: &'static str,
    /// The path, with `{name}` and `{attribute}` for what varies.
    pub path: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// The schema of the request's body in the OpenAPI document, `text` for bytes, `stream` for bytes without a limit, `metrics`
    /// for text in a format that `Accept` chooses, empty for none.
    pub body: &'static str,
    /// The schema of the answer, likewise.
    pub answer: &'static str,
    /// What may stand in the query.
    pub(crate) query: &'static [Parameter],
    handle: Handle,
}

/// All paths of version 1.
pub fn routes() -> &'static [Route] {
    ROUTES
}

/// Slots and bytes in a query.
const COUNT: &str = r#"{"type": "integer", "minimum": 0}"#;
/// A device's identity there.
const IDENTITY: &str = r#"{"type": "string"}"#;
/// Yes or no there.
const SWITCH: &str = r#"{"type": "boolean"}"#;
/// A size there.
const SIZE: &str = r#"{"type": "string", "examples": ["64M"]}"#;
/// A description in JSON there: by a schema's name, it is a JSON text.
const CREATE: &str = r##"{"$ref": "#/components/schemas/Create"}"##;

const ROUTES: &[Route] = &[
    Route::get(
        "/v1",
        "The program, its version, and that of the API",
        "Version",
        |_| {
            ok(VersionAnswer {
                program: "uzramd",
                version: env!("CARGO_PKG_VERSION"),
                api: 1,
            })
        },
    ),
    Route::get(
        "/v1/openapi.json",
        "This API as an OpenAPI document",
        "object",
        |_| ok(openapi::document()),
    ),
    Route::get(
        "/v1/attributes",
        "Every attribute of zram's interface, with its documentation",
        "Attribute[]",
        |_| ok(ATTRIBUTES.iter().map(AttributeAnswer::from).collect::<Vec<_>>()),
    ),
    Route::get(
        "/v1/metrics",
        "What is measured of daemon and devices, for Prometheus. `Accept: application/openmetrics-text` has units, too",
        "metrics",
        |call| {
            let format = MetricsFormat::accepted(call.accept);
            let text = call.devices.metrics()?.text(format);
            Ok(Answer::Metrics(format, text))
        },
    ),
    Route::get(
        "/v1/devices",
        "The devices with their statistics, also those that are not initialised",
        "Device[]",
        |call| ok(call.devices.describe(None)?),
    ),
    Route::of(
        "POST",
        "/v1/devices",
        "Make a device. With ?confirm=true it is taken down again if the process that asked ends, or 60 s pass, before \
            .../confirm",
        "Create",
        "Created",
        create,
    )
    .asked(&[("confirm", SWITCH, false)]),
    Route::of(
        "POST",
        "/v1/devices/{name}/confirm",
        "Keep a device that was made with ?confirm=true: whoever asked knows of it now",
        "",
        "",
        confirm,
    )
    .asked(&[("identity", IDENTITY, true)]),
    Route::get(
        "/v1/devices/{name}",
        "A device with its statistics",
        "Device",
        |call| ok(call.devices.describe(Some(call.device()?))?.pop()),
    ),
    Route::get(
        "/v1/devices/{name}/history",
        "The device's memory over time, as the daemon has noted it: at most 1020 points, thinner the older they are. They outlive \
            the daemon's restart, not the machine's",
        "History",
        |call| ok(call.devices.history(call.device()?)?),
    ),
    Route::of(
        "PATCH",
        "/v1/devices/{name}",
        "Change settings, as `uzram set` does. What cannot be is refused before anything changes; answers the device",
        "Settings",
        "Device",
        set,
    )
    .asked(&[("force", SWITCH, false), ("allow_foreign_files", SWITCH, false)]),
    Route::of(
        "DELETE",
        "/v1/devices/{name}",
        "Take a device down; EBUSY while it is in use. With ?identity= no other device that has the name by now",
        "",
        "",
        remove,
    )
    .asked(&[("identity", IDENTITY, false)]),
    Route::of(
        "POST",
        "/v1/devices/{name}/requests",
        "Ask the device's server: the control protocol, such as {\"op\":\"compact\",\"max_bytes\":1000000}",
        "Request",
        "object",
        ask,
    ),
    Route::get(
        "/v1/devices/{name}/attributes",
        "All attributes that can be read, as one object of texts",
        "Values",
        all_attributes,
    ),
    Route::get(
        "/v1/devices/{name}/attributes/{attribute}",
        "An attribute, to the byte as the kernel shows it",
        "text",
        |call| call.show(AttributeOwner::Device(call.id()?), &call.names[1]),
    ),
    Route::put(
        "/v1/devices/{name}/attributes/{attribute}",
        "Write an attribute: the body is what one write(2) would be given",
        |call| call.store(AttributeOwner::Device(call.id()?), &call.names[1]),
    ),
    Route::get(
        "/v1/devices/{name}/block_state",
        "Lines of block_state: ?from=SLOT&max=BYTES; the header Next-Slot says where to go on",
        "text",
        block_state,
    )
    .asked(&[("from", COUNT, false), ("max", COUNT, false)]),
    Route::get(
        "/v1/devices/{name}/classes",
        "The size classes of the device's pool, as zsmalloc shows its own in debugfs",
        "text",
        |call| Ok(Answer::Text(call.view().classes(call.id()?)?)),
    ),
    Route::get(
        "/v1/devices/{name}/snapshot",
        "What the device holds at this moment, as a file of `uzram snapshot`. ?memory=SIZE bounds what is kept of what is \
            overwritten meanwhile; ?track=true tracks changes from then on. If it fails in the middle the answer is cut: the \
            last chunk and the snapshot's end mark are missing",
        "stream",
        streams::snapshot,
    )
    .asked(&[("memory", SIZE, false), ("track", SWITCH, false)]),
    Route::of(
        "POST",
        "/v1/restore",
        "Make a device of the snapshot that is the body. ?options= has the options of `uzram create` as JSON, as the body of \
            POST /v1/devices. The device is there whole, or not at all",
        "stream",
        "Created",
        streams::restore,
    )
    .asked(&[("options", CREATE, false)]),
    Route::get(
        "/v1/control/devices",
        "The devices' numbers, sizes and nodes, and nothing that their servers would have to be asked",
        "Shown[]",
        |call| ok(call.view().devices()?),
    ),
    Route::of(
        "POST",
        "/v1/control/hot_add",
        "Add a device that is not initialised; answers its number",
        "",
        "text",
        |call| call.show(AttributeOwner::Control, "hot_add"),
    ),
    Route::put(
        "/v1/control/hot_remove",
        "Remove the device whose number is the body",
        |call| call.store(AttributeOwner::Control, "hot_remove"),
    ),
];

impl Route {
    /// One that is asked for without a body.
    const fn get(
        path: &'static str,
        about: &'static str,
        answer: &'static str,
        handle: Handle,
    ) -> Route {
        Route::of("GET", path, about, "", answer, handle)
    }

    /// One that takes bytes and answers none.
    const fn put(path: &'static str, about: &'static str, handle: Handle) -> Route {
        Route::of("PUT", path, about, "text", "", handle)
    }

    const fn of(
        method: &'static str,
        path: &'static str,
        about: &'static str,
        body: &'static str,
        answer: &'static str,
        handle: Handle,
    ) -> Route {
        Route {
            method,
            path,
            about,
            body,
            answer,
            query: &[],
            handle,
        }
    }

    /// The same, with what may stand in the query.
    const fn asked(mut self, query: &'static [Parameter]) -> Route {
        self.query = query;
        self
    }
}

impl<'a> Call<'a> {
    fn view(&self) -> &'a dyn View {
        self.devices.view()
    }

    /// The name of the device that is meant, which is nothing but `zram` and a number.
    fn device(&self) -> Result<&'a str, Body> {
        self.id().map(|_| self.names[0].as_str())
    }

    /// Its number.
    fn id(&self) -> Result<u32, Body> {
        id(&self.names[0])
    }

    /// Whether a key of the query says yes.
    fn switch(&self, key: &str) -> Result<bool, Body> {
        match self.asked(key) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => {
                let message = format!("{key}: '{other}' is neither true nor false");
                Err(Body::new(Errno::INVAL, message))
            }
        }
    }

    fn show(&self, owner: AttributeOwner, attribute: &str) -> Handled {
        Ok(Answer::Text(self.view().show(owner, attribute)?))
    }

    fn store(&self, owner: AttributeOwner, attribute: &str) -> Handled {
        self.view().store(owner, attribute, self.body)?;
        Ok(Answer::Done)
    }
}

fn confirm(call: &Call<'_>) -> Handled {
    let missing = || {
        let message = "?identity= is missing: that of the answer to POST /v1/devices";
        Body::new(Errno::INVAL, message)
    };
    let identity = call.asked("identity").ok_or_else(missing)?;
    call.devices.confirm(call.device()?, identity)?;
    Ok(Answer::Done)
}

fn remove(call: &Call<'_>) -> Handled {
    call.devices
        .remove(call.device()?, call.asked("identity"))?;
    Ok(Answer::Done)
}

fn ok(answer: impl Serialize) -> Handled {
    Ok(Answer::Json(StatusCode::OK, json!(answer)))
}

/// N of `zramN`.
fn id(name: &str) -> Result<u32, Body> {
    number(name).ok_or_else(|| Body::new(Errno::NODEV, format!("no device '{name}'")))
}

/// What is written in JSON as `what` of a request.
fn json_of<T: DeserializeOwned>(what: &str, text: &[u8]) -> Result<T, Body> {
    parse_json(text)
        .and_then(serde_json::from_value)
        .map_err(|error| Body::new(Errno::INVAL, format!("{what}: {error}")))
}

/// Options of `uzram create` by name, or a description.
fn create(call: &Call<'_>) -> Handled {
    let options: Map<String, Value> = json_of("the body", call.body)?;
    if options.contains_key("args") {
        let message = "args: a command line, as uzram 0.1 sends it, is not understood: send options by name, \
            or use the uzram of this daemon's version";
        return Err(Body::new(Errno::INVAL, message));
    }
    let spec = spec_from_options(&options, &["directory"]).map_err(ControlError::from)?;
    let asker = call.switch("confirm")?.then_some(call.asker);
    let created = call.devices.create(&spec, asker)?;
    Ok(Answer::Json(StatusCode::CREATED, json!(created)))
}

/// Settings of `uzram set` by name.
fn set(call: &Call<'_>) -> Handled {
    let invalid = |message: String| Body::new(Errno::INVAL, message);
    let settings: Map<String, Value> = json_of("the body", call.body)?;
    let allowed = Allowed {
        force: call.switch("force")?,
        foreign_files: call.switch("allow_foreign_files")?,
    };
    let (name, owner) = (call.device()?, AttributeOwner::Device(call.id()?));
    let mut changes = Vec::new();
    for (key, value) in &settings {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(true) => "on".into(),
            Value::Bool(false) => "off".into(),
            Value::Null => "none".into(),
            Value::Array(_) | Value::Object(_) => {
                return Err(invalid(format!(
                    "{key}: a text, a number, true, false or null"
                )));
            }
        };
        let setting = Setting::parse(key, &text, None);
        let setting = setting.map_err(|why| match why.contains(key.as_str()) {
            true => invalid(why),
            false => invalid(format!("{key}: {why}")),
        })?;
        let change = setting.change(allowed).map_err(ControlError::from)?;
        changes.push((key, change));
    }
    // Who is not there is said as everywhere.
    call.devices.describe(Some(name))?;
    for (done, (key, change)) in changes.iter().enumerate() {
        let made: Result<(), Body> = match change {
            Change::Request(request) => match call.devices.ask(name, request) {
                Ok(Response::Error(error)) | Err(error) => Err(error.into()),
                Ok(Response::Did { what }) => {
                    what.iter()
                        .for_each(|text| tracing::warn!("{name}: {text}"));
                    Ok(())
                }
                Ok(_) => Ok(()),
            },
            Change::Attribute(attribute, value) => {
                let stored = call.view().store(owner, attribute, value.as_bytes());
                stored.map_err(Body::from)
            }
        };
        made.map_err(|mut body| {
            body.message = format!("{key}: {}", body.message);
            if done > 0 {
                let before = changes[..done].iter().map(|(key, _)| key.as_str());
                let before = before.collect::<Vec<_>>().join(", ");
                body.message += &format!(" (made before it: {before})");
            }
            body
        })?;
    }
    ok(call.devices.describe(Some(name))?.pop())
}

fn ask(call: &Call<'_>) -> Handled {
    let request: Request = json_of("the body", call.body)?;
    match request {
        Request::Remove
        | Request::RemoveByForce
        | Request::HandOver
        | Request::Recover
        | Request::Snapshot { .. }
        | Request::ClientTerms
        | Request::TakeClient { .. }
        | Request::SendLazily { .. }
        | Request::ServeFrames { .. }
        | Request::TakeFrames { .. }
        | Request::TakeBack
        | Request::Upgrade { .. } => {
            let message = "not a request for the server of a device here: DELETE takes one down, and GET .../snapshot takes a \
                snapshot";
            Err(Body::new(Errno::INVAL, message))
        }
        request => match call.devices.ask(call.device()?, &request)? {
            Response::Error(error) => Err(error.into()),
            response => ok(response),
        },
    }
}

fn all_attributes(call: &Call<'_>) -> Handled {
    let owner = AttributeOwner::Device(call.id()?);
    let mut all = Values::new();
    for attribute in ATTRIBUTES {
        if attribute.place == AttributePlace::Device && attribute.mode & 0o400 != 0 {
            let shown = call.view().show(owner, attribute.name)?;
            let text = String::from_utf8_lossy(&shown).into_owned();
            all.insert(attribute.name.into(), text);
        }
    }
    ok(all)
}

fn block_state(call: &Call<'_>) -> Handled {
    let id = call.id()?;
    let number = |key: &str, default: u64| {
        call.asked(key).map_or(Ok(default), |value| {
            let wrong = || Body::new(Errno::INVAL, format!("{key}: '{value}' is no number"));
            value.parse().map_err(|_| wrong())
        })
    };
    let from = number("from", 0)?;
    let max = number("max", MAX_BLOCK_STATE as u64)?.min(MAX_BLOCK_STATE as u64);
    let (lines, next) = call.view().block_state(id, from, max as usize)?;
    Ok(Answer::Lines(lines, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_are_read_and_nonsense_is_not() {
        assert_eq!(id("zram12"), Ok(12));
        for name in ["zram", "zram01", "sda", "zram-1"] {
            assert!(id(name).is_err(), "{name}");
        }
    }
}
