//! What a seed's author is told, and what never leaks.

use proptest::prelude::*;

use super::*;

const PEM: &str = "|\n          -----BEGIN X-----\n          c2VjcmV0\n          -----END X-----\n";

fn parse(body: &str) -> Result<Parsed, SeedError> {
    Seed::parse(&format!("#cloud-config\n{body}"))
}

fn refusal(body: &str) -> String {
    parse(body).unwrap_err().to_string()
}

fn ca(label: &str) -> String {
    format!(
        "      {label}:\n        certificate: {}        key: {}",
        PEM.replace('X', "CERTIFICATE"),
        PEM.replace('X', "PRIVATE KEY")
    )
}

#[test]
fn an_empty_seed_is_the_defaults() {
    assert_eq!(parse("").unwrap().seed, Seed::default());
    assert_eq!(parse("{}\n").unwrap().seed, Seed::default());
    assert_eq!(
        parse("slipway:\n  cluster:\n").unwrap().seed,
        Seed::default()
    );
    let seed = Seed::default();
    assert_eq!(seed.cluster.pod_cidr.to_string(), "10.42.0.0/16");
    assert_eq!(seed.cluster.service_cidr.to_string(), "10.43.0.0/16");
}

#[test]
fn everything_at_once() {
    let body = format!(
        "hostname: Node1\nssh_authorized_keys:\n- ssh-ed25519 AAAA me@here\nslipway:\n  cluster:\n    \
         name: demo\n    role: server\n    extra-sans: [127.0.0.1, Api.Example.org, '::1']\n    \
         token: s3cr3t\n    pod-cidr: 10.1.0.0/16\n    service-cidr: 10.2.0.0/16\n    \
         cluster-domain: k8s.home\n    ca:\n{}{}{}",
        ca("cluster"),
        ca("etcd"),
        ca("front-proxy")
    );
    let parsed = parse(&body).unwrap();
    assert_eq!(parsed.warnings, []);
    let seed = parsed.seed;
    assert_eq!(seed.hostname.as_deref(), Some("node1"));
    assert_eq!(seed.cluster.name, "demo");
    assert_eq!(
        seed.cluster.extra_sans,
        [
            San::Address("127.0.0.1".parse().unwrap()),
            San::Dns("api.example.org".into()),
            San::Address("::1".parse().unwrap())
        ]
    );
    assert_eq!(seed.cluster.token.as_ref().unwrap().reveal(), "s3cr3t");
    assert!(
        seed.cluster
            .ca
            .as_ref()
            .unwrap()
            .etcd
            .key
            .reveal()
            .contains("c2VjcmV0")
    );
    // As JSON and back.
    assert_eq!(Seed::from_json(&seed.to_json().unwrap()).unwrap(), seed);
    // And nothing of it in debug output.
    let debug = format!("{seed:?}");
    assert!(
        !debug.contains("s3cr3t") && !debug.contains("PRIVATE KEY"),
        "{debug}"
    );
}

#[test]
fn the_header_is_needed() {
    let error = Seed::parse("hostname: a\n").unwrap_err().to_string();
    assert_eq!(error, "user-data:1:1: the first line must be #cloud-config");
    assert!(Seed::parse("").is_err());
    assert!(Seed::parse("#cloud-config\r\nhostname: a\r\n").is_ok());
}

#[test]
fn unknown_keys_are_warned_of_with_line_and_near_miss() {
    let parsed = parse(
        "packages: [vim]\nhostnam: a\nslipway:\n  cluster:\n    pod_cidr: 10.1.0.0/16\n    name: x\n",
    )
    .unwrap();
    let texts: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
    let [packages, hostname, cidr] = texts.as_slice() else {
        panic!("{texts:?}");
    };
    assert!(
        packages.starts_with(
            "user-data:2:1: packages: has no effect here, because the root is read-only"
        )
    );
    assert!(hostname.starts_with("user-data:3:1: hostnam: unknown key, it has no effect; did you mean `hostname`? (The machine's name"));
    assert!(cidr.starts_with("user-data:6:5: slipway.cluster.pod_cidr: unknown key, it has no effect; did you mean `pod-cidr`?"));
    assert_eq!(parsed.seed.cluster.name, "x");
}

#[test]
fn wrong_types_are_refused_with_their_line() {
    for (body, line) in [
        ("hostname: [a]\n", 2),
        ("slipway: 5\n", 2),
        ("slipway:\n  cluster:\n    extra-sans: nonsense\n", 4),
        ("slipway:\n  cluster:\n    ca:\n      cluster: x\n", 5),
        ("- a\n- b\n", 2),
        ("hostname: a\nhostname: b\n", 3),
        ("hostname: 'a\n", 2),
    ] {
        let error = parse(body).unwrap_err();
        let found = error.findings().first().unwrap().place.line;
        // A scalar left open is noticed at the end.
        assert!(found == line || found == line + 1, "{body:?}: {error}");
    }
}

#[test]
fn wrong_values_are_refused_with_their_line() {
    let cluster = |line: &str| refusal(&format!("slipway:\n  cluster:\n    {line}\n"));
    assert_eq!(
        refusal("hostname: a_b\n"),
        "user-data:2:11: hostname: \"a_b\" is no valid name (RFC 1123): it has an underscore"
    );
    assert!(
        cluster("role: boss")
            .contains("user-data:4:11: slipway.cluster.role: \"boss\" is none of server, agent")
    );
    assert!(cluster("pod-cidr: 10.42.1.0/16").contains("the network is 10.42.0.0/16"));
    assert!(cluster("pod-cidr: 10.42.0.0/28").contains("too small"));
    assert!(cluster("service-cidr: 10.0.0.0/8").contains("too large"));
    assert!(cluster("service-cidr: 10.42.0.0/24").contains("overlap"));
    assert!(cluster("extra-sans: ['a b']").contains("extra-sans[0]: \"a b\""));
    assert!(cluster("token: ''").contains("token: the value is empty"));
    assert!(refusal("ssh_authorized_keys: [hello]\n").contains("no OpenSSH public key"));
    let one = format!("slipway:\n  cluster:\n    ca:\n{}", ca("cluster"));
    assert!(refusal(&one).contains("ca: lacks `etcd`"));
}

#[test]
fn encryption_is_a_choice_of_two() {
    let encrypt = |wish: &str| parse(&format!("slipway:\n  data:\n    encrypt: {wish}\n"));
    for (wish, meant) in [
        ("tpm2", Encrypt::Tpm2),
        ("passphrase-file", Encrypt::PassphraseFile),
    ] {
        let parsed = encrypt(wish).unwrap();
        assert_eq!(
            (parsed.seed.data.encrypt, parsed.warnings),
            (Some(meant), vec![])
        );
    }
    let text = encrypt("yes").unwrap_err().to_string();
    assert!(
        text.contains(":4:14") && text.contains("passphrase-file"),
        "{text}"
    );
}

#[test]
fn errors_show_no_secret() {
    let half = ca("cluster").replace("-----END PRIVATE KEY-----", "");
    // Everything that was found, not the first error alone.
    let error = parse(&format!("slipway:\n  cluster:\n    ca:\n{half}")).unwrap_err();
    let text = format!("{error:?}");
    assert!(
        text.contains("PRIVATE KEY") && !text.contains("c2VjcmV0"),
        "{text}"
    );
    let text = refusal("slipway:\n  cluster:\n    token: s3cr3t\n    token: s3cr3t\n");
    assert!(!text.contains("s3cr3t"), "{text}");
    let text = refusal("slipway:\n  cluster:\n    token: s3cr3t\n   x\n");
    assert!(!text.contains("s3cr3t"), "{text}");
    let text = Seed::from_json(r#"{"cluster": {"role": "s3cr3t"}}"#)
        .unwrap_err()
        .to_string();
    assert!(!text.contains("s3cr3t"), "{text}");
}

#[test]
fn tokens_carry_the_hash_of_a_ca_or_say_that_they_are_damaged() {
    let token = Token::new([0xab; 32], Role::Agent, "s3cr3t");
    let text = token.reveal().to_owned();
    let again = Token::parse(&format!(" {text}\n")).unwrap();
    assert_eq!(again.ca_sha256(), Some([0xab; 32]));
    assert_eq!(
        (again.role(), again.secret()),
        (Some(Role::Agent), "s3cr3t")
    );
    assert_eq!(format!("{again:?}"), "(token)");
    for damaged in [
        text.replace("S1a", "S1"),
        text.replace(".agent.", ".boss."),
        text.replace("s3cr3t", ""),
        text.replace("abab", "abxb"),
    ] {
        assert!(Token::parse(&damaged).is_err(), "{damaged}");
    }
    // Any other text is a secret without a hash.
    let plain = Token::parse("S1.plain").unwrap();
    assert_eq!(
        (plain.ca_sha256(), plain.role(), plain.secret()),
        (None, None, "S1.plain")
    );
}

#[test]
fn an_endpoint_is_in_the_certificate_without_its_port() {
    let seed = parse("slipway: {cluster: {endpoint: ['a.lan:7443', '[::1]:6443', 192.0.2.1], extra-sans: [b.lan]}}\n").unwrap().seed;
    assert_eq!(
        seed.cluster.sans(),
        [
            San::Dns("a.lan".into()),
            San::Address("::1".parse().unwrap()),
            San::Address("192.0.2.1".parse().unwrap()),
            San::Dns("b.lan".into()),
        ]
    );
}

proptest! {
    #[test]
    fn any_text_is_answered_without_panic(text in "(?s).{0,400}") {
        drop(parse(&text));
        drop(Seed::from_json(&text));
    }

    #[test]
    fn any_yaml_like_text_is_answered_without_panic(
        lines in prop::collection::vec(
            "( {0,6})(hostname|slipway|cluster|ca|key|token|pod-cidr|role|- |x)(: ?| )(.{0,12})",
            0..12,
        )
    ) {
        drop(parse(&lines.join("\n")));
    }

    #[test]
    fn networks_print_as_they_are_read(address: [u8; 4], prefix in 0u8..=32) {
        let cidr = Cidr::v4(address, prefix);
        prop_assert_eq!(cidr.to_string().parse::<Cidr>().unwrap(), cidr);
        prop_assert!(cidr.contains(address.into()));
    }
}

#[test]
fn the_node_api_comes_whole_or_not_at_all() {
    let pem = |label| format!("{}\n", PEM.replace('X', label).trim_end());
    let whole = format!(
        "slipway:\n  node-api:\n    ca: {0}    certificate: {0}    key: {1}",
        pem("CERTIFICATE"),
        pem("PRIVATE KEY")
    );
    let seed = parse(&whole).unwrap().seed;
    assert!(seed.node_api.is_some());
    assert!(!format!("{seed:?}").contains("PRIVATE"), "{seed:?}");
    let (part, _) = whole.split_once("    key:").unwrap();
    assert!(
        refusal(part).contains("slipway.node-api: lacks `key`"),
        "{}",
        refusal(part)
    );
    let swapped = whole.replacen("CERTIFICATE", "PUBLIC KEY", 2);
    assert!(
        refusal(&swapped).contains("node-api.ca"),
        "{}",
        refusal(&swapped)
    );
}

#[test]
fn redacted_means_every_secret() {
    let body = format!(
        "hostname: a\nslipway:\n  cluster:\n    token: s3cr3t\n    ca:\n{}{}{}",
        ca("cluster"),
        ca("etcd"),
        ca("front-proxy")
    );
    let seed = parse(&body).unwrap().seed;
    let shown = seed.to_redacted_json().unwrap().to_string();
    assert!(
        !shown.contains("s3cr3t") && !shown.contains("PRIVATE KEY"),
        "{shown}"
    );
    assert!(
        shown.contains("BEGIN CERTIFICATE") && shown.contains("\"a\""),
        "{shown}"
    );
    let secrets = seed.secrets().unwrap();
    assert_eq!(secrets.len(), 4);
    assert!(secrets.contains(&"s3cr3t".to_owned()));
    // And the next to serialise gets everything again.
    assert_eq!(Seed::from_json(&seed.to_json().unwrap()).unwrap(), seed);
}
