//! The promises of [`super`], checked through an independent reader where there is one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

const BUILT: u64 = 1_760_000_000;

fn ca() -> CertificateAuthority {
    CertificateAuthority::generate("demo", at(BUILT)).unwrap()
}

#[test]
fn a_ca_begins_when_told_and_lasts_ten_years() {
    let info = ca().info().unwrap();
    assert_eq!(info.common_name, "demo");
    assert!(info.is_ca);
    assert_eq!(info.not_before, at(BUILT));
    assert_eq!(info.not_after, at(BUILT) + CA_LIFETIME);
}

#[test]
fn a_client_certificate_names_user_and_group_and_checks_against_its_ca() {
    let ca = ca();
    let now = at(BUILT + 1000);
    let pair = ca
        .issue(&Leaf::client("system:node:n1", Some("system:nodes")), now)
        .unwrap();
    let info = pair.check(&ca, now).unwrap();
    assert_eq!(info.common_name, "system:node:n1");
    assert_eq!(info.organizations, ["system:nodes"]);
    assert_eq!(
        info.not_before,
        at(BUILT),
        "valid as early as its CA, whatever the clock said"
    );
    assert_eq!(info.not_after, now + LEAF_LIFETIME);
    assert!(!info.is_ca);
}

#[test]
fn a_server_certificate_carries_its_names() {
    let ca = ca();
    let now = at(BUILT + 1000);
    let leaf = Leaf::server(
        "kube-apiserver",
        vec!["kubernetes".into(), "a.b".into()],
        vec!["10.43.0.1".parse().unwrap(), "::1".parse().unwrap()],
    );
    let info = ca.issue(&leaf, now).unwrap().check(&ca, now).unwrap();
    assert_eq!(info.dns_names, ["a.b", "kubernetes"]);
    assert_eq!(
        info.addresses,
        [
            "10.43.0.1".parse::<IpAddr>().unwrap(),
            "::1".parse::<IpAddr>().unwrap()
        ]
    );
}

#[test]
fn a_certificate_never_outlives_its_ca() {
    let ca = ca();
    let late = at(BUILT) + CA_LIFETIME - Duration::from_secs(3600);
    let info = ca
        .issue(&Leaf::client("u", None), late)
        .unwrap()
        .check(&ca, late)
        .unwrap();
    assert_eq!(info.not_after, at(BUILT) + CA_LIFETIME);
}

#[test]
fn check_refuses_expired_early_foreign_and_mixed_up() {
    let ca = ca();
    let now = at(BUILT + 1000);
    let mut leaf = Leaf::client("u", None);
    leaf.lifetime = Duration::from_secs(60);
    let pair = ca.issue(&leaf, now).unwrap();
    let reason = |result: Result<CertificateInfo, PkiError>| result.unwrap_err().to_string();
    assert!(reason(pair.check(&ca, now + Duration::from_secs(61))).contains("expired"));
    assert!(reason(pair.check(&ca, at(BUILT - 1))).contains("not valid yet"));
    let other = CertificateAuthority::generate("demo", at(BUILT)).unwrap();
    assert!(
        reason(pair.check(&other, now)).contains("another CA"),
        "same name, other key"
    );
    let second = ca.issue(&leaf, now).unwrap();
    let mixed = KeyCertificate {
        key_pem: second.key_pem,
        ..pair
    };
    assert!(reason(mixed.check(&ca, now)).contains("another certificate"));
}

#[test]
fn a_ca_from_pem_must_be_one_and_have_its_own_key() {
    let ca = ca();
    assert_eq!(
        CertificateAuthority::from_pem(ca.certificate_pem(), ca.key_pem()).unwrap(),
        ca
    );
    let other = self::ca();
    let error = CertificateAuthority::from_pem(ca.certificate_pem(), other.key_pem()).unwrap_err();
    assert!(matches!(error, PkiError::Unsuitable { .. }), "{error}");
    let leaf = ca.issue(&Leaf::client("u", None), at(BUILT)).unwrap();
    let error = CertificateAuthority::from_pem(&leaf.certificate_pem, &leaf.key_pem).unwrap_err();
    assert!(error.to_string().contains("CA"), "{error}");
}

#[test]
fn half_a_file_is_corrupt_at_every_length() {
    let ca = ca();
    for length in 0..ca.certificate_pem().trim_end().len() {
        let cut = &ca.certificate_pem()[..length];
        let error = CertificateAuthority::from_pem(cut, ca.key_pem()).unwrap_err();
        assert!(
            matches!(error, PkiError::Corrupt { .. }),
            "{length}: {error}"
        );
    }
    for length in 0..ca.key_pem().trim_end().len() {
        let cut = &ca.key_pem()[..length];
        let error = CertificateAuthority::from_pem(ca.certificate_pem(), cut).unwrap_err();
        assert!(
            matches!(error, PkiError::Corrupt { .. }),
            "{length}: {error}"
        );
    }
}

#[test]
fn debug_output_and_errors_show_no_key() {
    let ca = ca();
    let body = ca.key_pem().lines().nth(1).unwrap().to_owned();
    assert!(!format!("{ca:?}").contains(&body));
    let cas = Cas::generate("demo", at(BUILT)).unwrap();
    assert!(!format!("{cas:?}").contains(cas.etcd.key_pem().lines().nth(1).unwrap()));
}

#[test]
fn the_public_key_of_a_signing_key_can_be_derived_again() {
    let (private, public) = generate_signing_key().unwrap();
    assert_eq!(public_key(&private).unwrap(), public);
    assert!(public_key("-----BEGIN PRIVATE KEY-----").is_err());
}

/// OpenSSL agrees about chain and purpose, where rustls and Go are not asked.
#[test]
fn openssl_verifies_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    // OpenSSL goes by the host's clock.
    let ca = CertificateAuthority::generate("demo", at(BUILT - 400 * 86400)).unwrap();
    let now = SystemTime::now();
    let leaf = Leaf::server("s", vec!["localhost".into()], Vec::new());
    let pair = ca.issue(&leaf, now).unwrap();
    let ca_path = dir.path().join("ca.crt");
    let path = dir.path().join("s.crt");
    std::fs::write(&ca_path, ca.certificate_pem()).unwrap();
    std::fs::write(&path, &pair.certificate_pem).unwrap();
    let output = std::process::Command::new("openssl")
        .args(["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile"])
        .args([&ca_path, &path])
        .output()
        .expect("openssl is needed for this test (Debian package openssl)");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
