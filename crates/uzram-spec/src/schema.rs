//! JSON schemas: of the stored description, and of the options of `uzram create` by name.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::{DeviceSpec, SwapSpec};

/// The schema of a type, all in one piece, so that it can stand anywhere in another document.
pub fn schema_of<T: JsonSchema>() -> Value {
    in_one_piece::<T>(SchemaSettings::draft2020_12())
}

/// The same of a type that is only sent: what is always there is required, and there are no defaults.
pub fn answer_schema_of<T: JsonSchema>() -> Value {
    let mut schema = in_one_piece::<T>(SchemaSettings::draft2020_12().for_serialize());
    without_defaults(&mut schema);
    schema
}

fn in_one_piece<T: JsonSchema>(settings: SchemaSettings) -> Value {
    let settings = settings.with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    settings
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

fn without_defaults(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    object.remove("default");
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(without_defaults);
    }
    if let Some(items) = object.get_mut("items") {
        without_defaults(items);
    }
    for several in ["anyOf", "oneOf"] {
        if let Some(Value::Array(forms)) = object.get_mut(several) {
            forms.iter_mut().for_each(without_defaults);
        }
    }
}

/// The schema of a stored description.
pub fn spec_schema() -> Value {
    schema_of::<DeviceSpec>()
}

/// The schema of what [`DeviceSpec::from_options`] reads: a description whose swap and frontend may also be told by
/// options side by side. `of_frontends` are the schemas of the frontends' own options.
pub fn options_schema(of_frontends: Map<String, Value>) -> Value {
    let mut schema = spec_schema();
    let swap = schema_of::<SwapSpec>();
    let Some(properties) = schema["properties"].as_object_mut() else {
        return schema;
    };
    for (name, simple) in [
        ("swap", "boolean"),
        ("frontend", "string"),
        ("backing", "string"),
        ("from", "string"),
    ] {
        let object = properties[name].take();
        let mut either = json!({"anyOf": [{"type": simple}, object]});
        if let Some(description) = object.get("description") {
            either["description"] = description.clone();
        }
        properties.insert(name.into(), either);
    }
    for (name, field) in [
        ("reserve", "reserve"),
        ("swap_priority", "priority"),
        ("keep_min_free", "keep_min_free"),
    ] {
        properties.insert(name.into(), swap["properties"][field].clone());
    }
    let params = "More parameters of the algorithm, as key=value separated by commas";
    properties.insert(
        "algorithm_params".into(),
        json!({"type": "string", "description": params}),
    );
    properties.extend(of_frontends);
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_or_texts_and_flags_are_flags() {
        let schema = options_schema(Map::new());
        assert_eq!(schema["properties"]["dedup"]["type"], "boolean");
        assert_eq!(schema["properties"]["block_size"]["type"], "integer");
        assert!(
            schema["properties"]["mem_limit"]["anyOf"].is_array(),
            "{schema:#}"
        );
        assert_eq!(schema["properties"]["swap_priority"]["minimum"], -1);
        assert_eq!(schema["additionalProperties"], false);
        assert!(!schema.to_string().contains("$ref"), "{schema:#}");
    }
}
