//! What can be tested without a server; the rest is tested against a real one in `clusterd`.

use std::time::SystemTime;

use super::*;
use crate::pki::CertificateAuthority;

#[test]
fn documents_are_split_and_empty_ones_dropped() {
    let yaml = "---\n# only a comment\n---\nkind: A\nx: \"yes\"\n---\n---\nkind: B\nport: 53\n";
    let documents = parse_documents(yaml).unwrap();
    assert_eq!(documents.len(), 2);
    assert_eq!(documents[0]["x"], "yes");
    assert_eq!(documents[1]["port"], 53);
}

#[test]
fn a_broken_document_is_named_by_line() {
    let error = parse_documents("kind: A\n---\nkind: [\n")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("line 3") || error.contains("line 4"),
        "{error}"
    );
}

#[test]
fn nobody_listening_is_one_clear_line() {
    let ca = CertificateAuthority::generate("c", SystemTime::UNIX_EPOCH).unwrap();
    // A port that was just free: bound and closed again.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let client = Client::new(
        &format!("https://127.0.0.1:{port}/"),
        ca.certificate_pem(),
        None,
    )
    .unwrap();
    let error = client.get("/api/v1/nodes").unwrap_err();
    assert!(error.is_transient());
    let text = error.to_string();
    assert!(
        text.starts_with("GET /api/v1/nodes: https://127.0.0.1:"),
        "{text}"
    );
    let error = client
        .wait(
            "/api/v1/nodes/n",
            "the node",
            Duration::from_millis(10),
            |_| false,
        )
        .unwrap_err();
    assert!(matches!(error, ApiError::Deadline { .. }), "{error}");
}

#[test]
fn a_damaged_identity_is_refused_before_any_call() {
    let ca = CertificateAuthority::generate("c", SystemTime::UNIX_EPOCH).unwrap();
    let other = CertificateAuthority::generate("c", SystemTime::UNIX_EPOCH).unwrap();
    let mixed = KeyCertificate {
        certificate_pem: ca.certificate_pem().into(),
        key_pem: other.key_pem().into(),
    };
    let error = Client::new("https://127.0.0.1:1", ca.certificate_pem(), Some(&mixed)).unwrap_err();
    assert!(matches!(error, ApiError::Setup { .. }), "{error}");
}

#[test]
fn the_apis_own_words_are_in_the_error() {
    let text =
        r#"{"kind":"Status","message":"nodes \"x\" not found","reason":"NotFound","code":404}"#;
    let error = error::from_answer("GET /x", ureq::http::StatusCode::NOT_FOUND, text);
    assert!(error.is_not_found());
    assert_eq!(
        error.to_string(),
        "GET /x: nodes \"x\" not found (404 NotFound)"
    );
}
