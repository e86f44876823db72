//! `docs/node-api.json` (OpenAPI 3.1) and the table in `docs/node-api.md` are made from the
//! routes and the types; this test makes them again and compares. `SLIPWAY_BLESS=1` writes them.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

use std::path::{Path, PathBuf};

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use slipway_access::node_api::Role;
use slipway_images::node::{Event, PORT, api, update};
use slipway_images::seed::Documents;
use slipway_noded::routes::{Access, Gives, ROUTES, Route};

fn docs(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(file)
}

fn schemas() -> Map<String, Value> {
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.definitions_path = "/components/schemas".into();
        s.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    // The reference puts each, with all it is made of, among the definitions.
    generator.subschema_for::<api::Status>();
    generator.subschema_for::<api::Logs>();
    generator.subschema_for::<api::SeedInForce>();
    generator.subschema_for::<api::SeedDiff>();
    generator.subschema_for::<api::Firmware>();
    generator.subschema_for::<api::ResetOrder>();
    generator.subschema_for::<api::Problem>();
    generator.subschema_for::<update::Update>();
    generator.subschema_for::<update::UpdateOrder>();
    generator.subschema_for::<Event>();
    generator.subschema_for::<Documents>();
    generator.take_definitions(true)
}

fn reference(name: &str, schemas: &Map<String, Value>) -> Value {
    assert!(schemas.contains_key(name), "no schema of {name}");
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn operation(route: &Route, schemas: &Map<String, Value>) -> Value {
    let parameters: Vec<Value> = route
        .parameters
        .iter()
        .map(|p| {
            let in_path = route.path.contains(&format!("{{{}}}", p.name));
            json!({
                "name": p.name,
                "in": if in_path { "path" } else { "query" },
                "required": in_path,
                "description": p.about,
                "schema": {"type": p.kind},
            })
        })
        .collect();
    let ok = match route.gives {
        Gives::Json(name) => json!({"description": "done", "content": {
            "application/json": {"schema": reference(name, schemas)}}}),
        Gives::Lines(name) => json!({"description": "one JSON object a line", "content": {
            "application/jsonl": {"schema": reference(name, schemas)}}}),
        Gives::Bytes(kind) => json!({"description": "done", "content": {kind: {}}}),
        Gives::Nothing => json!({"description": "done", "content": {
            "application/json": {"schema": {"type": "object"}}}}),
        Gives::Upgrade(protocol) => json!({"description": format!("now {protocol}")}),
    };
    let status = match route.gives {
        Gives::Upgrade(_) => "101",
        _ => "200",
    };
    let problem = json!({"description": "refused or failed", "content": {
        "application/json": {"schema": reference("Problem", schemas)}}});
    let mut operation = json!({
        "summary": route.about,
        "parameters": parameters,
        "responses": {status: ok, "default": problem},
        "security": match route.access {
            Access::Anyone => json!([]),
            Access::Role(role) => json!([{"certificate": [role.organization()]}]),
        },
    });
    if let Some(name) = route.takes {
        operation["requestBody"] = json!({"required": true, "content": {
            "application/json": {"schema": reference(name, schemas)}}});
    }
    operation
}

fn document() -> String {
    let schemas = schemas();
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let methods = paths.entry(route.path).or_insert_with(|| json!({}));
        let method = route.method.as_str().to_lowercase();
        methods[method] = operation(route, &schemas);
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Slipway node API",
            "version": "v1",
            "description": "HTTPS with mutual TLS; the role is the client certificate's organisation. See node-api.md.",
        },
        "servers": [{"url": format!("https://{{node}}:{PORT}"), "variables": {"node": {"default": "localhost"}}}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"certificate": {"type": "mutualTLS"}},
        },
    });
    format!("{document:#}\n")
}

fn table() -> String {
    let mut table = String::from("| request | role | |\n|---|---|---|\n");
    for route in ROUTES {
        let role = match route.access {
            Access::Anyone => "none",
            Access::Role(Role::Reader) => "reader",
            Access::Role(Role::Operator) => "operator",
        };
        let query: Vec<&str> = route
            .parameters
            .iter()
            .map(|p| p.name)
            .filter(|name| !route.path.contains(&format!("{{{name}}}")))
            .collect();
        let query = match query.as_slice() {
            [] => String::new(),
            some => format!("?{}", some.join("&")),
        };
        table.push_str(&format!(
            "| `{} {}{query}` | {role} | {} |\n",
            route.method, route.path, route.about
        ));
    }
    table
}

fn compare(file: &str, made: &str) {
    let path = docs(file);
    if std::env::var_os("SLIPWAY_BLESS").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == made,
        "docs/{file} is not what the routes say; SLIPWAY_BLESS=1 cargo test -p slipway-noded --test openapi writes it"
    );
}

#[test]
fn the_document_is_what_the_routes_and_types_say() {
    compare("node-api.json", &document());
}

#[test]
fn the_table_is_what_the_routes_say() {
    let (from, to) = ("<!-- routes -->\n", "<!-- /routes -->");
    let text = std::fs::read_to_string(docs("node-api.md")).unwrap();
    let (head, rest) = text.split_once(from).unwrap();
    let (_, tail) = rest.split_once(to).unwrap();
    compare("node-api.md", &format!("{head}{from}{}{to}{tail}", table()));
}
