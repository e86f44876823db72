use std::os::unix::fs::PermissionsExt;

use slipway_images::seed::Seed;

use super::*;

fn registries(body: &str) -> Registries {
    let text = format!("#cloud-config\nslipway:\n  registries:\n{body}");
    Seed::parse(&text).unwrap().seed.registries
}

const CA_PEM: &str = "-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----\\n";

#[test]
fn mirrors_credentials_and_cas_have_their_place() {
    let all = registries(&format!(
        "    docker.io: {{mirrors: ['https://mirror.lan:5000', 'https://harbor.lan/v2/hub', 'http://plain.lan/v2/']}}
    mirror.lan:5000: {{username: ann, password: 'pa:ss\"word', ca: \"{CA_PEM}\"}}
    reg.lan: {{mirrors: ['https://mirror.lan:5000/'], username: bob, password: secret, ca: \"{CA_PEM}\"}}
    '*': {{mirrors: ['https://cache.lan']}}
"
    ));
    assert_eq!(
        hosts("docker.io", &all["docker.io"], &all),
        r#"# By init, from `slipway.registries` of the seed.
[host."https://mirror.lan:5000"]
capabilities = ["pull", "resolve"]
ca = ["../mirror.lan:5000/ca.crt"]
[host."https://mirror.lan:5000".header]
Authorization = "Basic YW5uOnBhOnNzIndvcmQ="
[host."https://harbor.lan/v2/hub"]
capabilities = ["pull", "resolve"]
override_path = true
[host."http://plain.lan/v2/"]
capabilities = ["pull", "resolve"]
"#
    );
    assert_eq!(
        hosts("reg.lan", &all["reg.lan"], &all),
        r#"# By init, from `slipway.registries` of the seed.
server = "https://reg.lan"
ca = "ca.crt"
[header]
Authorization = "Basic Ym9iOnNlY3JldA=="
[host."https://mirror.lan:5000/"]
capabilities = ["pull", "resolve"]
ca = ["ca.crt", "../mirror.lan:5000/ca.crt"]
[host."https://mirror.lan:5000/".header]
Authorization = "Basic YW5uOnBhOnNzIndvcmQ="
"#
    );
    for text in all.iter().map(|(name, one)| hosts(name, one, &all)) {
        text.parse::<toml::Table>().unwrap();
    }
}

#[test]
fn files_are_private_and_go_with_their_registry() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(DIRECTORY).join(path);
    let first = registries(&format!(
        "    reg.lan:5000: {{username: bob, password: secret, ca: \"{CA_PEM}\"}}\n    '*': {{mirrors: ['https://cache.lan']}}\n    other.lan: {{mirrors: ['https://cache.lan']}}\n"
    ));
    write(root.path(), &Registries::new(), &first).unwrap();
    for file in [
        "reg.lan:5000/hosts.toml",
        "reg.lan:5000/ca.crt",
        "_default/hosts.toml",
    ] {
        let mode = fs::metadata(at(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    // Something of the owner's beside ours.
    fs::write(at("other.lan/client.cert"), "").unwrap();
    let second = registries("    reg.lan:5000: {mirrors: ['https://cache.lan']}\n");
    write(root.path(), &first, &second).unwrap();
    assert_eq!(files::names(&at("")), ["other.lan", "reg.lan:5000"]);
    assert_eq!(files::names(&at("reg.lan:5000")), ["hosts.toml"]);
    assert_eq!(files::names(&at("other.lan")), ["client.cert"]);
    let text = fs::read_to_string(at("reg.lan:5000/hosts.toml")).unwrap();
    assert!(!text.contains("Basic"), "{text}");
    // One that can't be written doesn't keep the others from it.
    fs::write(at("bad.lan"), "a file").unwrap();
    let third = registries(
        "    bad.lan: {mirrors: ['https://a.lan']}\n    good.lan: {mirrors: ['https://a.lan']}\n",
    );
    let failure = write(root.path(), &second, &third).unwrap_err();
    assert!(failure.0.starts_with("registry bad.lan: "), "{failure}");
    assert_eq!(files::names(&at("good.lan")), ["hosts.toml"]);
    assert!(!at("reg.lan:5000").exists());
}
