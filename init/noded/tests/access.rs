//! Who is let in, and who isn't.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use common::{Node, Owner, Reply, connect, prepared, send};
use slipway_access::node_api::{Credential, Role};
use slipway_access::pki::Leaf;
use slipway_noded::routes::{Access, ROUTES};

/// What somebody gets, or that the connection was refused.
fn outcome(node: &Node, ca: &str, who: Option<&Credential>, method: &str, path: &str) -> u16 {
    let ask = || {
        let mut tls = connect(node.address, ca, who)?;
        send(&mut tls, method, path, "", "connection: close\r\n")?;
        Reply::read(&mut tls)
    };
    // With TLS 1.3 a refusal of the certificate comes with the first bytes read.
    ask().map_or(0, |reply| reply.status)
}

#[test]
fn without_a_certificate_there_is_healthz_and_nothing_else() {
    let owner = Owner::new();
    let node = Node::start(Some(&owner.checked_seed()));
    let ca = owner.ca.certificate_pem();
    for route in ROUTES {
        let path = route.path.replace("{name}", "kernel");
        let got = outcome(&node, ca, None, route.method.as_str(), &path);
        let expected = match route.access {
            Access::Anyone => 200,
            Access::Role(_) => 401,
        };
        assert_eq!(got, expected, "{} {path}", route.method);
    }
    assert_eq!(
        outcome(&node, ca, None, "GET", "/v1/secret"),
        401,
        "nor what there is"
    );
    assert_eq!(outcome(&node, ca, None, "POST", "/healthz"), 401);
}

#[test]
fn certificates_of_others_and_expired_ones_are_refused() {
    let owner = Owner::new();
    let node = Node::start(Some(&owner.checked_seed()));
    let ca = owner.ca.certificate_pem();
    let stranger = Owner::new();
    for path in ["/healthz", "/v1/status"] {
        assert_eq!(outcome(&node, ca, Some(&stranger.operator), "GET", path), 0);
    }
    let mut leaf = Leaf::client("old", Some(Role::Operator.organization()));
    leaf.lifetime = Duration::ZERO;
    let minute_ago = SystemTime::now() - Duration::from_secs(60);
    let expired = Credential {
        client: owner.ca.issue(&leaf, minute_ago).unwrap(),
        ca_pem: ca.to_owned(),
    };
    assert_eq!(outcome(&node, ca, Some(&expired), "GET", "/v1/status"), 0);
    // A node's own certificate is no client's.
    let node_api = owner.node_api();
    let text = format!(
        "{}{}{ca}",
        node_api["certificate"].as_str().unwrap(),
        node_api["key"].as_str().unwrap()
    );
    let serving = Credential::parse(&text).unwrap();
    assert_eq!(outcome(&node, ca, Some(&serving), "GET", "/v1/status"), 0);
    node.is_well(&owner.operator);
}

#[test]
fn a_reader_reads_and_who_has_no_role_gets_nothing() {
    let owner = Owner::new();
    let node = Node::start(Some(&owner.checked_seed()));
    let ca = owner.ca.certificate_pem();
    for route in ROUTES {
        let path = route.path.replace("{name}", "kernel");
        let method = route.method.as_str();
        let Access::Role(role) = route.access else {
            continue;
        };
        let got = outcome(&node, ca, Some(&owner.reader), method, &path);
        assert_eq!(got == 403, role > Role::Reader, "{method} {path}: {got}");
    }
    let leaf = Leaf::client("eve", Some("system:masters"));
    let nobody = Credential {
        client: owner.ca.issue(&leaf, SystemTime::now()).unwrap(),
        ca_pem: ca.to_owned(),
    };
    let reply = node.get(&nobody, "/v1/status");
    assert_eq!(reply.status, 403);
    assert!(
        reply.text().contains("`eve` lacks the role"),
        "{}",
        reply.text()
    );
    assert_eq!(node.get(&owner.reader, "/v1/none").status, 404);
    assert_eq!(
        node.ask(&owner.reader, "POST", "/v1/status", None).status,
        405
    );
}

#[test]
fn without_an_identity_the_node_makes_one_that_lets_nobody_in() {
    let node = Node::start(None);
    let own = node.at("var/lib/slipway/node-api/own.json");
    let text = fs::read_to_string(&own).unwrap();
    assert_eq!(
        fs::metadata(&own).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let stored: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ca = stored["ca"].as_str().unwrap();
    assert_eq!(outcome(&node, ca, None, "GET", "/healthz"), 200);
    assert_eq!(outcome(&node, ca, None, "GET", "/v1/status"), 401);
    let owner = Owner::new();
    assert_eq!(
        outcome(&node, ca, Some(&owner.operator), "GET", "/healthz"),
        0
    );
    // The same again after a restart: its fingerprint stays.
    let node = Node::start_in(node.stop(), &[]);
    assert_eq!(
        fs::read_to_string(node.at("var/lib/slipway/node-api/own.json")).unwrap(),
        text
    );
}

#[test]
fn a_later_seed_that_is_broken_does_not_lock_the_owner_out() {
    let owner = Owner::new();
    let node = Node::start(Some(&owner.checked_seed()));
    node.is_well(&owner.operator);
    let kept = node.at("var/lib/slipway/node-api/identity.json");
    assert_eq!(
        fs::metadata(&kept).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let root = node.stop();
    let seed = root.path().join("run/slipway/seed.json");
    let other = r#"{"node-api": {"ca": "x", "certificate": "y", "key": "z"}}"#;
    for broken in [None, Some("{"), Some("{}"), Some(other)] {
        match broken {
            None => fs::remove_file(&seed).unwrap(),
            Some(text) => fs::write(&seed, text).unwrap(),
        }
        let copy = prepared(broken);
        let there = copy.path().join("var/lib/slipway/node-api");
        fs::create_dir(&there).unwrap();
        fs::copy(
            root.path().join("var/lib/slipway/node-api/identity.json"),
            there.join("identity.json"),
        )
        .unwrap();
        let node = Node::start_in(copy, &[]);
        node.is_well(&owner.operator);
        assert!(
            node.log.lock().unwrap().contains("an earlier one"),
            "{broken:?}"
        );
    }
}

#[test]
fn a_clock_that_was_never_set_locks_nobody_out() {
    // To this node it is before the day its owner's CA was made.
    let owner = Owner::valid_from(SystemTime::now() + Duration::from_secs(40 * 86_400));
    let node = Node::start(Some(&owner.checked_seed()));
    // The client's clock is right, so it can't be this machine's: only the node's part is asked.
    let verdict = slipway_noded_accepts(&node, &owner);
    assert!(verdict, "{}", node.log.lock().unwrap());
}

/// Whether the node takes a client certificate, whatever the client thinks of the node's.
fn slipway_noded_accepts(node: &Node, owner: &Owner) -> bool {
    use common::Tls;
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
    use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
    use std::sync::Arc;

    #[derive(Debug)]
    struct Anyone;
    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }
    let who = &owner.operator.client;
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(who.certificate_pem.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(who.key_pem.as_bytes()).unwrap(),
            )
            .unwrap();
    let session =
        ClientConnection::new(Arc::new(config), ServerName::try_from("node1").unwrap()).unwrap();
    let stream = std::net::TcpStream::connect(node.address).unwrap();
    let mut tls: Tls = rustls::StreamOwned::new(session, stream);
    send(&mut tls, "GET", "/v1/status", "", "connection: close\r\n").unwrap();
    Reply::read(&mut tls).is_ok_and(|reply| reply.status == 200)
}
