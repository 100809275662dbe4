//! The OpenAPI document, made of the table of paths, the registry of attributes and the types that are sent.

use serde_json::{Value, json};
use uzram_control::Request;
use uzram_control::zram::{ATTRIBUTES, AttributePlace, ShownDevice};
use uzram_runtime::frontends;
use uzram_runtime::settings::SETTINGS;
use uzram_spec::{answer_schema_of, options_schema, schema_of};

use crate::api::{
    self, AttributeAnswer, CreateAnswer, DeviceAnswer, Route, Values, VersionAnswer, routes,
};
use crate::error::{Body, ERRNOS};
use crate::history::HistoryAnswer;
use crate::limits::Limits;

/// What every request can be answered: it is malformed, too slow, too large, or the daemon is at its limits.
const ANY: &[u16] = &[400, 408, 413, 414, 431, 500, 503];
/// What a request that concerns a device can be answered, too.
const OF_DEVICES: &[u16] = &[403, 404, 409, 501, 504, 507];

/// What a status says, where an error has it.
const STATUSES: &[(u16, &str)] = &[
    (
        400,
        "Malformed: not HTTP, not JSON, or a value that cannot be",
    ),
    (
        403,
        "Not allowed: an attribute that cannot be read, or written",
    ),
    (404, "No such path, device or attribute"),
    (
        405,
        "The path does not know the method: Allow lists those that it knows",
    ),
    (408, "The request did not come whole in time"),
    (
        409,
        "The device, its name or its node is in use, or there already",
    ),
    (413, "The body is too long"),
    (414, "The path is too long"),
    (431, "The head is too long, or has too many headers"),
    (500, "Something failed that should not"),
    (
        501,
        "This machine or this user cannot: a driver or a permission is missing",
    ),
    (
        503,
        "The daemon or the device has too much to do: try again",
    ),
    (504, "The device's server does not answer"),
    (507, "No memory or no space is left for it"),
];

/// The document.
pub fn document() -> Value {
    let mut paths = serde_json::Map::new();
    for route in routes() {
        let mut responses = serde_json::Map::new();
        let status = success(route.method, route.answer);
        responses.insert(status.into(), response(route));
        for status in errors(route) {
            let reference = format!("#/components/responses/{status}");
            responses.insert(status.to_string(), json!({"$ref": reference}));
        }
        let mut operation = json!({
            "summary": route.about,
            "parameters": parameters(route),
            "responses": responses,
        });
        if !route.body.is_empty() {
            operation["requestBody"] = json!({"required": true, "content": content(route.body)});
        }
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_lowercase()] = operation;
    }
    let limits = Limits::default();
    let description = format!(
        "Compressed RAM disks in the manner of zram. The server listens on a unix socket: \
         curl --unix-socket /run/uzram/uzramd.sock http://localhost/v1/devices\n\n\
         A connection carries one request, whose head has at most {} bytes and {} headers, and whose body at most {}, or \
         {} where it asks a device's server, and may bring a dictionary. It comes whole within {} s. A snapshot, to be \
         answered or restored, has any length, and goes on as long as each part of it is taken, or sent, within that time. \
         {} connections are served at once. HEAD is answered wherever GET is. What is not \
         HTTP is answered with 400, 414 or 431, or 408 where it does not come to an end, and no body.",
        limits.head_bytes,
        limits.headers,
        limits.body_bytes,
        limits.request_bytes,
        limits.sending.as_secs(),
        limits.connections,
    );
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "uzramd",
            "version": env!("CARGO_PKG_VERSION"),
            "description": description,
        },
        "paths": paths,
        "components": { "schemas": schemas(), "responses": responses() },
    })
}

/// The statuses of errors that a path can answer.
fn errors(route: &Route) -> Vec<u16> {
    let of_devices = ["/devices", "/control/", "/restore"]
        .iter()
        .any(|part| route.path.contains(part));
    let more = if of_devices { OF_DEVICES } else { &[] };
    let mut all = [ANY, more].concat();
    all.sort_unstable();
    all
}

fn responses() -> Value {
    let response = |(status, about): &(u16, &str)| {
        let mut response = json!({"description": about, "content": content("Error")});
        if *status == 405 {
            response["headers"] =
                json!({"Allow": {"required": true, "schema": {"type": "string"}}});
        }
        (status.to_string(), response)
    };
    STATUSES
        .iter()
        .map(response)
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn success(method: &str, answer: &str) -> &'static str {
    match (method, answer) {
        (_, "") => "204",
        ("POST", "Created") => "201",
        _ => "200",
    }
}

fn response(route: &Route) -> Value {
    let mut response = json!({"description": "done"});
    if !route.answer.is_empty() {
        response["content"] = content(route.answer);
    }
    if route.path.ends_with("/block_state") {
        response["headers"] = json!({"Next-Slot": {
            "required": true,
            "description": "the slot to go on from",
            "schema": {"type": "integer"},
        }});
    }
    response
}

fn content(schema: &str) -> Value {
    match schema {
        "text" => json!({"text/plain": {"schema": {"type": "string"}}}),
        "stream" => json!({"application/octet-stream": {}}),
        "metrics" => json!({
            "text/plain": {"schema": {"type": "string"}},
            "application/openmetrics-text": {"schema": {"type": "string"}},
        }),
        "object" => json!({"application/json": {"schema": {"type": "object"}}}),
        name if name.ends_with("[]") => {
            let reference = format!("#/components/schemas/{}", name.trim_end_matches("[]"));
            let items = json!({"$ref": reference});
            json!({"application/json": {"schema": {"type": "array", "items": items}}})
        }
        name => {
            let reference = format!("#/components/schemas/{name}");
            json!({"application/json": {"schema": {"$ref": reference}}})
        }
    }
}

fn parameters(route: &Route) -> Value {
    let names = route
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let parameter = |name: &str| {
        let values: Vec<&str> = ATTRIBUTES
            .iter()
            .filter(|a| a.place == AttributePlace::Device)
            .map(|a| a.name)
            .collect();
        let schema = match name {
            "attribute" => json!({"type": "string", "enum": values}),
            _ => {
                json!({
                    "type": "string",
                    "pattern": "^[A-Za-z][A-Za-z0-9_-]*$",
                    "description": "zram and a number, or the name of its own that the device was made with",
                    "examples": ["zram0", "build-cache"],
                })
            }
        };
        json!({"name": name, "in": "path", "required": true, "schema": schema})
    };
    let mut all: Vec<Value> = names.map(parameter).collect();
    for (name, schema, required) in route.query {
        let schema: Value = serde_json::from_str(schema).unwrap_or_default();
        let mut parameter = json!({"name": name, "in": "query", "required": required});
        match schema.get("$ref") {
            Some(_) => parameter["content"] = json!({"application/json": {"schema": schema}}),
            None => parameter["schema"] = schema,
        }
        all.push(parameter);
    }
    all.into()
}

/// The schemas of what is asked and answered: those of the types that are sent.
fn schemas() -> Value {
    let mut create = options_schema(frontends::option_schemas());
    create["description"] =
        "A device: the options of `uzram create` by name, with dashes or underscores".into();
    create["properties"]["directory"] = json!({"type": "string", "description": "what relative paths are relative to; without it they are refused"});
    let mut error = answer_schema_of::<Body>();
    let names: Vec<&str> = ERRNOS.iter().map(|(_, name, _)| *name).collect();
    error["properties"]["name"]["enum"] = names.into();
    let mut values = answer_schema_of::<Values>();
    values["description"] = "Attributes by name, as the kernel shows them".into();
    json!({
        "Attribute": answer_schema_of::<AttributeAnswer>(),
        "Create": create,
        "Created": answer_schema_of::<CreateAnswer>(),
        "Device": answer_schema_of::<DeviceAnswer>(),
        "Error": error,
        "History": answer_schema_of::<HistoryAnswer>(),
        "Request": request(),
        "Settings": settings(),
        "Shown": answer_schema_of::<ShownDevice>(),
        "Values": values,
        "Version": answer_schema_of::<VersionAnswer>(),
    })
}

/// Settings of a device, each as `uzram set` takes it.
fn settings() -> Value {
    let value = json!(["string", "number", "boolean", "null"]);
    let mut properties = serde_json::Map::new();
    for (name, takes) in SETTINGS {
        let takes = format!("{takes}. true and false stand for on and off, null for none");
        properties.insert((*name).into(), json!({"type": value, "description": takes}));
    }
    json!({
        "type": "object",
        "description": "The settings of `uzram set` by name, and attributes of zram's interface that can be written. They are made in \
            the order of their names. Paths are from the root on",
        "properties": properties,
        "additionalProperties": {"type": value},
    })
}

/// What a device's server can be asked here: all but what is an affair of its keeper, or of other paths.
fn request() -> Value {
    let mut schema = schema_of::<Request>();
    if let Some(forms) = schema["oneOf"].as_array_mut() {
        forms.retain(|form| {
            let op = form["properties"]["op"]["const"].as_str();
            !op.is_some_and(|op| api::OF_OTHERS.contains(&op))
        });
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_every_path_and_every_schema_that_it_names() {
        let document = document();
        for route in routes() {
            let operation = &document["paths"][route.path][route.method.to_lowercase()];
            assert_eq!(operation["summary"], route.about, "{}", route.path);
        }
        let text = document.to_string();
        for reference in text.split("#/components/").skip(1) {
            let place = reference.split('"').next().unwrap_or_default();
            let found = document.pointer(&format!("/components/{place}"));
            assert!(found.is_some_and(Value::is_object), "{place}");
        }
    }

    #[test]
    fn every_error_and_every_request_is_in_it() {
        for (_, name, status) in ERRNOS {
            assert!(
                [ANY, OF_DEVICES].concat().contains(status),
                "{name}: {status}"
            );
        }
        let listed: Vec<u16> = STATUSES.iter().map(|(status, _)| *status).collect();
        for status in [ANY, OF_DEVICES, &[405]].concat() {
            assert!(listed.contains(&status), "{status}");
        }
        let requests = request();
        let forms = requests["oneOf"].as_array().unwrap();
        let known: Vec<_> = forms
            .iter()
            .filter_map(|form| form["properties"]["op"]["const"].as_str())
            .collect();
        for op in ["stat", "compact", "writeback", "set_policy"] {
            assert!(known.contains(&op), "{known:?}");
        }
        assert_eq!(known.len(), forms.len());
        for op in api::OF_OTHERS {
            assert!(!known.contains(op), "{op}");
        }
    }
}
