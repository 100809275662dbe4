//! Whether a JSON value is what a JSON schema says: enough of the language for the schemas that are made of types, and
//! strict, so that document and answers cannot part.

use serde_json::Value;

/// Checks that a value fits a schema. An object may have no other properties than the schema names, unless that says which.
///
/// # Errors
///
/// Says where it does not fit, and why.
pub fn fits(schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(forms) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        let mut why = Vec::new();
        for form in forms {
            match fits(form, value) {
                Ok(()) => return Ok(()),
                Err(error) => why.push(error),
            }
        }
        return Err(format!("fits none of: {}", why.join("; ")));
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|kind| is(kind, value)) {
        return Err(format!("{value} is no {}", types.join(" or ")));
    }
    if let Some(values) = schema["enum"].as_array()
        && !values.contains(value)
    {
        return Err(format!("{value} is none of {values:?}"));
    }
    if !schema["const"].is_null() && schema["const"] != *value {
        return Err(format!("{value} is not {}", schema["const"]));
    }
    if let Some(items) = value.as_array() {
        for (at, item) in items.iter().enumerate() {
            let of_place = schema["prefixItems"].get(at);
            let of_item = of_place.unwrap_or(&schema["items"]);
            fits(of_item, item).map_err(|why| format!("[{at}]: {why}"))?;
        }
    }
    let Some(object) = value.as_object() else {
        return Ok(());
    };
    for name in schema["required"].as_array().into_iter().flatten() {
        let name = name.as_str().unwrap_or_default();
        if !object.contains_key(name) {
            return Err(format!("{name} is missing"));
        }
    }
    for (name, value) in object {
        let property = schema["properties"].get(name);
        let of_others = Some(&schema["additionalProperties"]).filter(|other| other.is_object());
        let Some(schema) = property.or(of_others) else {
            return Err(format!("{name} is not in the schema"));
        };
        fits(schema, value).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_fits_fits_and_nothing_else() {
        let schema = json!({
            "type": "object",
            "required": ["a"],
            "properties": {
                "a": {"type": ["integer", "null"]},
                "b": {"anyOf": [{"enum": ["x"]}, {"type": "array", "items": {"type": "boolean"}}]},
                "c": {"type": "object", "additionalProperties": {"type": "string"}},
                "d": {"type": "array", "prefixItems": [{"const": 1}, {"type": "string"}]},
            },
        });
        let good = json!({"a": null, "b": [true], "c": {"any": "text"}, "d": [1, "y"]});
        assert_eq!(fits(&schema, &good), Ok(()));
        assert_eq!(fits(&schema, &json!({"a": 1, "b": "x"})), Ok(()));
        for bad in [
            json!(1),
            json!({}),
            json!({"a": 1.5}),
            json!({"a": 1, "b": "y"}),
            json!({"a": 1, "b": [1]}),
            json!({"a": 1, "c": {"any": 1}}),
            json!({"a": 1, "d": [2]}),
            json!({"a": 1, "e": 1}),
        ] {
            assert!(fits(&schema, &bad).is_err(), "{bad}");
        }
    }
}
