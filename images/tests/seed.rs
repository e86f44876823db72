//! The corpus of seeds, the tables of `docs/seed.md`, the JSON schemas, and texts at random.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use slipway_images::seed::{
    Document, Fate, Finding, Parsed, Row, Seed, SeedError, SeedFiles, Severity, schema, shape,
};

/// Secrets of the corpus; none of them is ever shown.
const SECRETS: [&str; 6] = [
    "hunter2",
    "correct horse",
    "battery staple",
    "$6$",
    "0123456789abcdef",
    "no-hash-in-it",
];

fn corpus(kind: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/seed")
        .join(kind);
    let mut all: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    all.sort();
    assert!(all.len() > 4);
    all
}

fn read(dir: &Path) -> Result<Parsed, SeedError> {
    let text = |document: Document| fs::read_to_string(dir.join(document.name())).ok();
    let (network, meta) = (text(Document::NetworkConfig), text(Document::MetaData));
    Seed::read(SeedFiles {
        user_data: &text(Document::UserData).unwrap(),
        network_config: network.as_deref(),
        meta_data: meta.as_deref(),
    })
}

fn findings(dir: &Path, kind: &str) {
    let result = read(dir);
    let found: &[Finding] = match &result {
        Ok(parsed) => &parsed.warnings,
        Err(error) => error.findings(),
    };
    assert_eq!(
        result.is_ok(),
        kind == "good",
        "{}: {found:#?}",
        dir.display()
    );
    let mut text = String::new();
    for finding in found {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(text, "{severity} {finding}").unwrap();
        assert!(finding.place.line > 0, "{finding}");
    }
    let path = dir.join("findings");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{}", dir.display());
    let debug = format!("{result:?}");
    for secret in SECRETS {
        assert!(
            !text.contains(secret) && !debug.contains(secret),
            "{}: {secret}",
            dir.display()
        );
    }
}

#[test]
fn good_seeds_are_taken_with_these_warnings() {
    corpus("good").iter().for_each(|dir| findings(dir, "good"));
}

#[test]
fn others_are_refused_with_these_findings() {
    corpus("refused")
        .iter()
        .for_each(|dir| findings(dir, "refused"));
}

#[test]
fn good_seeds_survive_the_way_to_clusterd() {
    for dir in corpus("good") {
        let seed = read(&dir).unwrap().seed;
        assert_eq!(Seed::from_json(&seed.to_json().unwrap()).unwrap(), seed);
    }
}

/// python3-jsonschema, which Debian's cloud-init depends on, is the oracle.
#[test]
fn good_seeds_fit_the_schema_and_some_others_do_not() {
    let dir = tempfile::tempdir().unwrap();
    for document in Document::ALL {
        let text = serde_json::to_string(&schema(document)).unwrap();
        fs::write(dir.path().join(document.name()), text).unwrap();
    }
    let script = "
import json, sys, os, yaml, jsonschema
def leaves(errors):
    for error in errors:
        yield from leaves(error.context) if error.context else [error]
schemas, bad = sys.argv[1], 0
# JSON has no bytes: base64 stays a text.
yaml.SafeLoader.add_constructor('tag:yaml.org,2002:binary', lambda loader, node: node.value)
for path in sys.argv[2:]:
    name = os.path.basename(path)
    schema = json.load(open(os.path.join(schemas, name)))
    jsonschema.Draft7Validator.check_schema(schema)
    text = open(path).read()
    for error in leaves(jsonschema.Draft7Validator(schema).iter_errors(yaml.safe_load(text))):
        bad += 1
        known = error.validator == 'additionalProperties'
        print(name, list(error.absolute_path), error.message if known else error.validator)
sys.exit(1 if bad else 0)
";
    let run = |seeds: &[PathBuf]| {
        let files = seeds
            .iter()
            .flat_map(|seed| Document::ALL.map(|d| seed.join(d.name())));
        Command::new("/usr/bin/python3")
            .args(["-c", script])
            .arg(dir.path())
            .args(files.filter(|file| file.exists()))
            .output()
            .expect("python3 is needed (ci/setup installs cloud-init, which needs it)")
    };
    let out = run(&corpus("good"));
    assert!(
        out.status.success(),
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    let wrong = corpus("refused")
        .into_iter()
        .filter(|dir| dir.ends_with("everything-wrong") || dir.ends_with("network-wrong"));
    let out = run(&wrong.collect::<Vec<_>>());
    let said = String::from_utf8_lossy(&out.stdout);
    for key in [
        "'enabled'",
        "'role'",
        "'mtu'",
        "'ssh_pwauth'",
        "'node-labels'",
    ] {
        // 'ssh_pwauth: true' is of the right type; only the reader refuses it.
        assert_eq!(said.contains(key), key != "'ssh_pwauth'", "{key}: {said}");
    }
}

/// A key of the table that the schema lacks, or the other way round, cannot be: both
/// walk the same table. What can go wrong is the walk.
#[test]
fn the_schema_has_the_keys_of_the_table_and_no_others() {
    fn walk(schema: &serde_json::Value, path: &str, found: &mut Vec<String>) {
        for form in schema["anyOf"].as_array().into_iter().flatten() {
            walk(form, path, found);
        }
        if schema["items"].is_object() && !path.ends_with("[]") {
            walk(&schema["items"], &format!("{path}[]"), found);
        }
        if schema["additionalProperties"].is_object() {
            walk(
                &schema["additionalProperties"],
                &format!("{path}.<>"),
                found,
            );
        }
        for (name, below) in schema["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            walk(below, &path, found);
            found.push(path);
        }
    }
    for document in Document::ALL {
        let mut in_schema = Vec::new();
        walk(&schema(document), "", &mut in_schema);
        // A list or one entry of it: the entry's keys appear under both.
        let plain = |path: &str| path.replace("[]", "");
        let mut in_schema: Vec<_> = in_schema.iter().map(|path| plain(path)).collect();
        let rows = shape(document)
            .rows()
            .into_iter()
            .filter(|row| row.fate != Some(Fate::Refused));
        let mut in_table: Vec<_> = rows
            .map(|row| {
                let parts: Vec<_> = row
                    .path
                    .split('.')
                    .map(|p| if p.starts_with('<') { "<>" } else { p })
                    .collect();
                plain(&parts.join("."))
            })
            .collect();
        in_schema.sort();
        in_schema.dedup();
        in_table.sort();
        let all = in_table.len();
        in_table.dedup();
        assert_eq!(in_table.len(), all, "a key stands in a table twice");
        assert_eq!(in_schema, in_table);
    }
}

/// Each key of the tables is known to the reader where the table says it is.
#[test]
fn every_key_of_the_table_is_read() {
    for document in Document::ALL {
        for row in shape(document).rows() {
            let text = nested(&row.path);
            let user_data = format!("#cloud-config\n{text}\n");
            let (user, network, meta) = match document {
                Document::UserData => (user_data.as_str(), None, None),
                Document::NetworkConfig => ("#cloud-config\n", Some(text.as_str()), None),
                Document::MetaData => ("#cloud-config\n", None, Some(text.as_str())),
            };
            let found = match Seed::read(SeedFiles {
                user_data: user,
                network_config: network,
                meta_data: meta,
            }) {
                Ok(parsed) => parsed.warnings,
                Err(error) => error.findings().to_vec(),
            };
            let unknown = found.iter().find(|f| f.message.starts_with("unknown key"));
            assert_eq!(unknown, None, "{}\n{text}", row.path);
            if row.fate == Some(Fate::Ignored) {
                assert!(
                    found.iter().any(|f| f.message.contains(row.meaning)),
                    "{}: {found:?}",
                    row.path
                );
            }
        }
    }
}

/// A flow mapping that has the path, with a number at its end.
fn nested(path: &str) -> String {
    let mut text = "5".to_owned();
    for part in path.split('.').rev() {
        let (name, lists) = (part.trim_end_matches("[]"), part.matches("[]").count());
        for _ in 0..lists {
            text = format!("[{text}]");
        }
        let name = if name.starts_with('<') { "eth0" } else { name };
        text = format!("{{{name}: {text}}}");
    }
    text
}

#[test]
fn the_tables_of_the_docs_are_these() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/seed.md");
    let mut text = fs::read_to_string(&docs).unwrap();
    for document in Document::ALL {
        let begin = format!(
            "<!-- keys of {document}: written by `BLESS=1 cargo test -p slipway-images --test seed` -->\n"
        );
        let end = format!("<!-- end of {document} -->\n");
        let (before, rest) = text.split_once(&begin).expect("the beginning of a table");
        let (_, after) = rest.split_once(&end).expect("the end of a table");
        text = format!(
            "{before}{begin}{}{end}{after}",
            tables(&shape(document).rows())
        );
    }
    if std::env::var_os("BLESS").is_some() {
        fs::write(&docs, &text).unwrap();
    }
    assert!(
        fs::read_to_string(&docs).unwrap() == text,
        "docs/seed.md is not up to date: BLESS=1 writes it"
    );
}

fn tables(rows: &[Row]) -> String {
    const INTERFACES: [&str; 5] = ["ethernets", "wifis", "vlans", "bonds", "bridges"];
    let cell = |text: &str| text.replace('|', "\\|");
    // Interfaces of all kinds share most keys, and netplan's outer key repeats all.
    let rows: Vec<&Row> = rows
        .iter()
        .filter(|row| !row.path.starts_with("network."))
        .collect();
    let shared = |row: &Row| {
        let (kind, tail) = row
            .path
            .split_once('.')
            .filter(|(kind, _)| INTERFACES.contains(kind))?;
        let same = |of: &&&str| {
            rows.iter()
                .any(|r| r.path == format!("{of}.{tail}") && r.meaning == row.meaning)
        };
        let kinds: Vec<&str> = INTERFACES.iter().filter(same).copied().collect();
        Some((kinds.first() == Some(&kind), kinds, tail.to_owned()))
    };
    let shown = |row: &Row| match shared(row) {
        None => Some(format!("`{}`", row.path)),
        Some((false, ..)) => None,
        Some((true, kinds, tail)) if kinds.len() == INTERFACES.len() => Some(format!("`*.{tail}`")),
        Some((true, kinds, tail)) => {
            let all: Vec<_> = kinds
                .iter()
                .map(|kind| format!("`{kind}.{tail}`"))
                .collect();
            Some(all.join(", "))
        }
    };
    let mut text = "\n| key | value | meaning |\n|---|---|---|\n".to_owned();
    for row in rows.iter().filter(|row| row.fate.is_none()) {
        if let Some(path) = shown(row) {
            writeln!(
                text,
                "| {path} | {} | {} |",
                cell(&row.form),
                cell(row.meaning)
            )
            .unwrap();
        }
    }
    let mut others: Vec<(&str, Fate, Vec<String>)> = Vec::new();
    for row in &rows {
        let (Some(fate), Some(path)) = (row.fate, shown(row)) else {
            continue;
        };
        match others
            .iter_mut()
            .find(|(why, f, _)| *why == row.meaning && *f == fate)
        {
            Some((_, _, paths)) => paths.push(path),
            None => others.push((row.meaning, fate, vec![path])),
        }
    }
    text.push_str("\n| key | here | because |\n|---|---|---|\n");
    for (why, fate, paths) in others {
        let fate = match fate {
            Fate::Granted => "accepted",
            Fate::Ignored => "ignored, with a warning",
            Fate::Refused => "refused",
        };
        writeln!(text, "| {} | {fate} | {} |", paths.join(", "), cell(why)).unwrap();
    }
    text.push('\n');
    text
}

/// Texts that unfold to gigabytes, nest without end or hold a lot are answered at once.
#[test]
fn hostile_texts_are_refused() {
    let mut bomb = "#cloud-config\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let one = format!("*a{}", i - 1);
        writeln!(bomb, "a{i}: &a{i} [{}]", vec![one; 10].join(", ")).unwrap();
    }
    let deep = format!("#cloud-config\na: {}", "[".repeat(100_000));
    let deep_map = (0..200).fold("#cloud-config\n".to_owned(), |text, i| {
        text + &" ".repeat(i) + "a:\n"
    });
    let many = (0..60_000).fold("#cloud-config\n".to_owned(), |text, i| {
        text + &format!("k{i}:\n")
    });
    let long = format!("#cloud-config\na: {}", "x".repeat(2 << 20));
    let own = "#cloud-config\na: &a [*a]\n".to_owned();
    for text in [bomb, deep, deep_map, many, long, own] {
        let error = Seed::parse(&text).unwrap_err().to_string();
        assert!(error.len() < 300, "{error}");
    }
    // A small text that would be a large file.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut gzip, &vec![0; 64 << 20]).unwrap();
    let content = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        gzip.finish().unwrap(),
    );
    let text = format!(
        "#cloud-config\nwrite_files: [{{path: /etc/a, encoding: gz+b64, content: {content}}}]\n"
    );
    assert!(
        Seed::parse(&text)
            .unwrap_err()
            .to_string()
            .contains("decodes to more than")
    );
}

proptest! {
    #[test]
    fn any_bytes_are_answered_without_panic(
        user in prop::collection::vec(any::<u8>(), 0..300),
        other in "(?s).{0,200}",
    ) {
        let user = format!("#cloud-config\n{}", String::from_utf8_lossy(&user));
        drop(Seed::read(SeedFiles { user_data: &user, network_config: Some(&other), meta_data: Some(&other) }));
        drop(Seed::parse(&other));
    }

    /// A good seed with a piece cut out, doubled or replaced.
    #[test]
    fn damaged_seeds_are_answered_without_panic_and_keep_their_secrets(
        which in any::<prop::sample::Index>(),
        from in any::<prop::sample::Index>(),
        length in 0usize..40,
        put in "[ \\n:\\-\\[\\]{}&*!|>'\"#a-z0-9/]{0,6}",
    ) {
        let all: Vec<PathBuf> = corpus("good").into_iter().chain(corpus("refused")).collect();
        let dir = which.get(&all);
        let damage = |document: Document| {
            let text = fs::read_to_string(dir.join(document.name())).ok()?;
            let chars: Vec<char> = text.chars().collect();
            let at = from.index(chars.len() + 1);
            let to = (at + length).min(chars.len());
            let kept = |range: &[char]| range.iter().collect::<String>();
            Some(format!("{}{put}{}", kept(&chars[..at]), kept(&chars[to..])))
        };
        let user = damage(Document::UserData).unwrap_or_default();
        let (network, meta) = (damage(Document::NetworkConfig), damage(Document::MetaData));
        let result = Seed::read(SeedFiles {
            user_data: &user,
            network_config: network.as_deref(),
            meta_data: meta.as_deref(),
        });
        let shown = match &result {
            Ok(parsed) => format!("{parsed:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        // Where the damage moved a secret under a key that isn't one, it is not a secret any more:
        // what must hold is that a token which still stands under its key isn't shown.
        if user.contains("    token: no-hash-in-it\n") && user.contains("\nslipway:\n  cluster:\n") {
            prop_assert!(!shown.contains("no-hash-in-it"), "{}", shown);
        }
    }
}
