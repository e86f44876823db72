//! JSON schemas (draft 7) of the three documents, made of the tables that they are
//! read by; editors complete and check with them.

use serde_json::{Map, Value, json};

use super::finding::Document;
use super::shape::{Fate, Key, Other, Shape, Text};
use super::{meta, netplan, user};

/// The form of a document.
#[must_use]
pub const fn shape(document: Document) -> &'static Shape {
    match document {
        Document::UserData => user::SHAPE,
        Document::NetworkConfig => netplan::SHAPE,
        Document::MetaData => meta::SHAPE,
    }
}

/// The JSON schema of a document.
#[must_use]
pub fn schema(document: Document) -> Value {
    let mut schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": format!("{document} of a Slipway seed"),
    });
    // An empty document is one that says nothing.
    let form = json!({ "anyOf": [of(shape(document)), { "type": "null" }] });
    if let (Value::Object(all), Value::Object(form)) = (&mut schema, form) {
        all.extend(form);
    }
    schema
}

fn of(shape: &Shape) -> Value {
    match shape {
        Shape::Text(text) => of_text(text),
        Shape::Bool => json!({ "type": "boolean" }),
        Shape::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Shape::List(entry) => json!({ "type": "array", "items": of(entry) }),
        Shape::OneOrMany(entry) => {
            let entry = of(entry);
            json!({ "anyOf": [entry, { "type": "array", "items": entry }] })
        }
        Shape::MapOf { value, .. } => {
            json!({ "type": "object", "additionalProperties": of(value) })
        }
        Shape::Mapping { keys, others } => of_mapping(keys, others),
        Shape::Either(forms) => {
            json!({ "anyOf": forms.iter().map(|form| of(form)).collect::<Vec<_>>() })
        }
        Shape::Any => json!({}),
    }
}

/// YAML makes numbers and truths of texts without quotes; they are taken as texts.
fn of_text(text: &Text) -> Value {
    let scalar = ["string", "number", "boolean"];
    if text.choices.is_empty() {
        json!({ "type": scalar, "$comment": text.what })
    } else {
        let mut words: Vec<Value> = text.choices.iter().map(|word| json!(word)).collect();
        if text.choices.contains(&"true") {
            words.extend([json!(true), json!(false)]);
        }
        json!({ "enum": words })
    }
}

fn of_mapping(keys: &[Key], others: &[Other]) -> Value {
    let mut properties = Map::new();
    for other in others.iter().filter(|other| other.fate != Fate::Refused) {
        let description = match other.fate {
            Fate::Granted => format!("Accepted: {}", other.why),
            _ => format!("Has no effect here, because {}", other.why),
        };
        let deprecated = other.fate == Fate::Ignored;
        let property = json!({ "description": description, "deprecated": deprecated });
        properties.insert(other.name.to_owned(), property);
    }
    for key in keys {
        // A key without a value is as good as none.
        let nullable = json!({
            "description": key.meaning,
            "anyOf": [of(key.shape), { "type": "null" }],
        });
        properties.insert(key.name.to_owned(), nullable);
    }
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}
