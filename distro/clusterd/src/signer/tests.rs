use super::*;
use slipway_access::pki;

fn asked(leaf: &Leaf) -> Asked {
    Asked::parse(&pki::request(leaf, &pki::generate_key().unwrap()).unwrap()).unwrap()
}

fn agent(node: &str) -> Leaf {
    agent_leaves(node, &[]).remove(0)
}

fn kubelet_server(node: &str, address: &str) -> Leaf {
    let all = agent_leaves(node, &[address.parse().unwrap()]);
    all.into_iter()
        .find(|leaf| leaf.usage == Usage::Server)
        .unwrap()
}

fn ask(asker: &Asker, leaf: &Leaf, known: &Known) -> Result<Leaf, String> {
    let node = node_of(asker, leaf)?;
    decide(asker, &node, &asked(leaf), known)
}

fn two() -> Asker {
    Asker::Agent("two".to_owned())
}

#[test]
fn who_asks_is_what_the_api_server_says() {
    let of = |user: &str, groups: &[&str]| {
        Asker::of(&json!({"spec": {"username": user, "groups": groups}}))
    };
    assert_eq!(of("slipway:agent:two", &[AGENTS]), Ok(two()));
    assert_eq!(of(JOINING, &[JOINING]), Ok(Asker::Joining));
    assert!(of("slipway:agent:two", &["system:authenticated"]).is_err());
    assert!(of("system:node:two", &["system:nodes"]).is_err());
    assert!(of("admin", &["system:masters"]).is_err());
}

#[test]
fn an_agent_gets_what_its_node_has_and_nothing_else() {
    let known = Known::default();
    for leaf in agent_leaves("two", &[]) {
        if leaf.usage == Usage::Client {
            assert!(ask(&two(), &leaf, &known).is_ok(), "{}", leaf.common_name);
        }
    }
    for other in [
        agent("three"),
        Leaf::client("system:node:three", Some("system:nodes")),
        Leaf::client("system:node:two", Some("system:masters")),
        Leaf::client("system:node:two", None),
        Leaf::client("admin", Some("system:masters")),
        Leaf::client("slipway:clusterd", Some("system:masters")),
        Leaf::client("system:kube-controller-manager", None),
        Leaf::server("kube-apiserver", vec!["kubernetes".to_owned()], Vec::new()),
        Leaf::server("system:kube-proxy", Vec::new(), Vec::new()),
        Leaf {
            dns_names: vec!["kubernetes".to_owned()],
            ..kubelet_server("two", "192.0.2.2")
        },
    ] {
        assert!(ask(&two(), &other, &known).is_err(), "{other:?}");
    }
}

#[test]
fn the_token_alone_is_for_an_agents_certificate() {
    let known = Known::default();
    assert!(ask(&Asker::Joining, &agent("two"), &known).is_ok());
    for leaf in agent_leaves("two", &["192.0.2.2".parse().unwrap()]).drain(1..) {
        assert!(ask(&Asker::Joining, &leaf, &known).is_err(), "{leaf:?}");
    }
    assert!(ask(&Asker::Joining, &agent("../x"), &known).is_err());
    assert!(ask(&Asker::Joining, &agent(""), &known).is_err());
}

#[test]
fn a_kubelet_serves_on_its_own_addresses() {
    let known = Known {
        taken: vec!["192.0.2.1".parse().unwrap()],
        ..Known::default()
    };
    let serve = |address| ask(&two(), &kubelet_server("two", address), &known);
    assert!(serve("192.0.2.2").is_ok());
    for address in ["192.0.2.1", "127.0.0.1", "0.0.0.0", "224.0.0.1", "::1"] {
        assert!(serve(address).is_err(), "{address}");
    }
    let none = Leaf {
        addresses: Vec::new(),
        ..kubelet_server("two", "192.0.2.2")
    };
    assert!(ask(&two(), &none, &known).is_err());
}

#[test]
fn a_name_belongs_to_the_first_key_until_its_node_is_deleted() {
    let asked = asked(&agent("two"));
    let mine = hex(&asked.key_sha256());
    let since = 1_000_000;
    let hour = 3600;
    let ask = |record: Option<&str>, registered, now| {
        let known = Known {
            record: record.map(|key| Record {
                key: key.to_owned(),
                since,
            }),
            registered,
            now,
            ..Known::default()
        };
        decide(&Asker::Joining, "two", &asked, &known).map(drop)
    };
    assert_eq!(ask(None, false, since), Ok(()));
    // The same machine, as after a power cut.
    assert_eq!(ask(Some(&mine), false, since), Ok(()));
    assert_eq!(ask(Some(&mine), true, since + hour), Ok(()));
    // A server, which never asked.
    assert!(ask(None, true, since).unwrap_err().contains("hostname"));
    assert!(ask(Some("other"), true, since + hour).is_err());
    assert!(
        ask(Some("other"), false, since + 60)
            .unwrap_err()
            .contains("just joining")
    );
    assert_eq!(ask(Some("other"), false, since + hour), Ok(()));
    // A clock that was set back doesn't shut anybody out for years.
    assert_eq!(ask(Some("other"), false, since - 1), Ok(()));
}

#[test]
fn what_is_answered_isnt_answered_again() {
    assert!(is_open(&json!({})));
    assert!(is_open(
        &json!({"status": {"conditions": [{"type": "Approved"}]}})
    ));
    assert!(!is_open(
        &json!({"status": {"conditions": [{"type": "Denied"}]}})
    ));
    assert!(!is_open(&json!({"status": {"certificate": "eA=="}})));
}
