//! The OpenAPI document, made of the table of paths, the registry of attributes and the schema of descriptions.

use serde_json::{Value, json};
use uzram_control::zram::{ATTRIBUTES, AttributePlace};
use uzram_runtime::frontends;
use uzram_spec::options_schema;

use crate::api::routes;

/// The document.
pub fn document() -> Value {
    let mut paths = serde_json::Map::new();
    for route in routes() {
        let mut operation = json!({
            "summary": route.about,
            "parameters": parameters(route.path),
            "responses": {
                success(route.method, route.answer): response(route.answer),
                "default": { "description": "refused", "content": content("Error") },
            },
        });
        if !route.body.is_empty() {
            operation["requestBody"] = json!({"required": true, "content": content(route.body)});
        }
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "uzramd",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Compressed RAM disks in the manner of zram. The server listens on a unix socket: \
                curl --unix-socket /run/uzram/uzramd.sock http://localhost/v1/devices",
        },
        "paths": paths,
        "components": { "schemas": schemas() },
    })
}

/// All attributes with their documentation.
pub(crate) fn attributes() -> Value {
    let all = ATTRIBUTES.iter().map(|attribute| {
        json!({
            "name": attribute.name,
            "of": if attribute.place == AttributePlace::Device { "device" } else { "zram-control" },
            "mode": format!("{:04o}", attribute.mode),
            "unit": attribute.unit,
            "since": attribute.since,
            "allowed": attribute.allowed(),
            "about": attribute.about,
            "docs": attribute.docs,
        })
    });
    all.collect()
}

fn success(method: &str, answer: &str) -> &'static str {
    match (method, answer) {
        (_, "") => "204",
        ("POST", "Created") => "201",
        _ => "200",
    }
}

fn response(answer: &str) -> Value {
    match answer {
        "" => json!({"description": "done"}),
        answer => json!({"description": "done", "content": content(answer)}),
    }
}

fn content(schema: &str) -> Value {
    match schema {
        "text" => json!({"text/plain": {"schema": {"type": "string"}}}),
        "array" | "object" => json!({"application/json": {"schema": {"type": schema}}}),
        name => {
            let reference = format!("#/components/schemas/{name}");
            json!({"application/json": {"schema": {"$ref": reference}}})
        }
    }
}

fn parameters(path: &str) -> Value {
    let names = path
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
            _ => json!({"type": "string", "pattern": "^zram[0-9]+$"}),
        };
        json!({"name": name, "in": "path", "required": true, "schema": schema})
    };
    let mut all: Vec<Value> = names.map(parameter).collect();
    if path.ends_with("/block_state") {
        for name in ["from", "max"] {
            all.push(
                json!({"name": name, "in": "query", "schema": {"type": "integer", "minimum": 0}}),
            );
        }
    }
    all.into()
}

fn schemas() -> Value {
    let mut create = options_schema(frontends::option_schemas());
    create["description"] =
        "A device: the options of `uzram create` by name, with dashes or underscores".into();
    create["properties"]["directory"] =
        json!({"type": "string", "description": "what relative paths are relative to"});
    json!({
        "Create": create,
        "Created": {
            "type": "object",
            "required": ["name", "path", "notes"],
            "properties": {
                "name": {"type": "string"},
                "path": {"type": "string", "description": "node or URI"},
                "notes": {"type": "string"},
            },
        },
        "Version": {
            "type": "object",
            "properties": {
                "program": {"type": "string"},
                "version": {"type": "string"},
                "api": {"type": "integer"},
            },
        },
        "Request": {
            "type": "object",
            "required": ["op"],
            "properties": {"op": {"type": "string"}},
            "additionalProperties": true,
        },
        "Error": {
            "type": "object",
            "required": ["errno", "name", "message"],
            "properties": {
                "errno": {"type": "integer"},
                "name": {"type": "string", "examples": ["EBUSY"]},
                "message": {"type": "string"},
            },
        },
    })
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
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap_or_default();
            assert!(
                document["components"]["schemas"][name].is_object(),
                "{name}"
            );
        }
    }
}
