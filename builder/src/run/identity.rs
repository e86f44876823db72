//! Who the node will be: its seed with the cluster's CAs, and a kubeconfig that
//! is valid before the node has booted for the first time.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use serde_json::json;
use slipway_access::kubeconfig::Kubeconfig;
use slipway_access::node_api::{self, Credential, serving};
use slipway_access::pki::{self, Cas, CertificateAuthority, Leaf};
use slipway_images::seed::{Role, Seed, Token};
use slipway_qemu::machine::{FwCfg, Lan};
use slipway_qemu::state::write_private;
use slipway_qemu::{VmDir, VmName};

use crate::digest::to_hex;
use crate::error::{At as _, Error, Kind, Result};
use crate::formats::iso9660;
use crate::seed::iso::LABEL as VOLUME_LABEL;
use crate::seed::new::random;

/// The name under which the guest finds its seed.
pub const FW_CFG_NAME: &str = "opt/slipway/user-data";
/// The seed in the machine's directory.
pub const SEED_FILE: &str = "user-data";

/// The guest's addresses, for one that can't ask for them.
pub const NETWORK_FILE: &str = "network-config";

/// The same as a volume, for machines without fw_cfg.
pub const SEED_VOLUME: &str = "seed.iso";

/// The credential of the node's API in the machine's directory.
pub const CREDENTIAL_FILE: &str = "node.pem";

/// Makes the seed that is there into a volume.
///
/// # Errors
/// [`Kind::Io`].
pub fn provide_volume(dir: &VmDir) -> Result<()> {
    let path = dir.file(SEED_FILE);
    let seed = fs::read(&path).at("reading", &path)?;
    let meta = meta_data(dir);
    let mut files = vec![("meta-data", &meta[..]), (SEED_FILE, &seed)];
    let path = dir.file(NETWORK_FILE);
    let network = path.exists().then(|| fs::read(&path).at("reading", &path));
    let network = network.transpose()?;
    files.extend(network.as_deref().map(|bytes| (NETWORK_FILE, bytes)));
    let image = iso9660::image(VOLUME_LABEL, files)?;
    Ok(write_private(&dir.file(SEED_VOLUME), &image)?)
}

/// The files that a guest finds by fw_cfg.
pub fn fw_cfg(dir: &VmDir) -> Vec<FwCfg> {
    let files = [
        (FW_CFG_NAME, SEED_FILE),
        ("opt/slipway/network-config", NETWORK_FILE),
    ];
    let there = files
        .into_iter()
        .filter(|(_, file)| dir.file(file).exists());
    there
        .map(|(name, path)| FwCfg {
            name: name.into(),
            path: path.into(),
        })
        .collect()
}

/// What goes with the seed.
pub fn meta_data(dir: &VmDir) -> Vec<u8> {
    format!("instance-id: {}\n", dir.name()).into_bytes()
}

/// CAs are valid from this long before they were made: a node whose clock
/// is slow must not refuse them.
pub const BACKDATED: Duration = Duration::from_secs(2 * 24 * 60 * 60);

/// Makes the seed unless there is one, and a kubeconfig for `api_port` with a
/// fresh certificate. With a TPM the seed has data encrypted.
///
/// # Errors
/// [`Kind::Input`] if the seed that is there is broken.
pub fn provide(dir: &VmDir, api_port: u16, tpm: bool, lan: bool) -> Result<()> {
    let path = dir.file(SEED_FILE);
    if !path.exists() {
        let (seed, credential) = server_seed(dir.name(), tpm, lan)?;
        let beside = dir.file(CREDENTIAL_FILE);
        // First: a seed without its credential is a node that can't be reached.
        credential.write(&beside).at("writing", &beside)?;
        write_private(&path, seed.as_bytes())?;
    }
    let text = fs::read_to_string(&path).at("reading", &path)?;
    let config = kubeconfig(&text, dir.name(), api_port).map_err(|e| {
        e.within(path.display())
            .hint("`--fresh` makes a new one and starts the machine over, losing its disk")
    })?;
    let path = dir.kubeconfig();
    config.write(&path).at("writing", &path)
}

/// Makes the seed of an agent of the cluster that `hub` serves, unless there is one, and the
/// kubeconfig of that cluster, whose API is at `api_port`.
///
/// # Errors
/// [`Kind::Input`] if the hub's seed is broken or was made before machines could join.
pub fn provide_member(dir: &VmDir, hub: &VmDir, api_port: u16) -> Result<()> {
    let path = hub.file(SEED_FILE);
    let text = fs::read_to_string(&path).at("reading", &path)?;
    let config = kubeconfig(&text, hub.name(), api_port).map_err(|e| e.within(path.display()))?;
    let path = dir.file(SEED_FILE);
    if !path.exists() {
        let (seed, credential) = member_seed(dir.name(), &text)?;
        let beside = dir.file(CREDENTIAL_FILE);
        credential.write(&beside).at("writing", &beside)?;
        write_private(&path, seed.as_bytes())?;
    }
    let path = dir.kubeconfig();
    config.write(&path).at("writing", &path)
}

/// Writes the guest's addresses on a network with others; the first card has DHCP.
///
/// # Errors
/// [`Kind::Io`].
pub fn provide_network(dir: &VmDir, lan: &Lan) -> Result<()> {
    let card = |mac: String| json!({"match": {"macaddress": mac}});
    let mut first = card(dir.name().mac());
    first["dhcp4"] = json!(true);
    let mut second = card(dir.name().lan_mac());
    second["addresses"] = json!([format!("{}/24", lan.address())]);
    let network = json!({"version": 2, "ethernets": {"first": first, "lan": second}});
    let text = format!("{network:#}\n");
    Ok(write_private(&dir.file(NETWORK_FILE), text.as_bytes())?)
}

fn member_seed(name: &VmName, hub: &str) -> Result<(String, Credential)> {
    let broken = |why: String| Error::new(Kind::Input, format!("the server's seed: {why}"));
    let hub = Seed::parse(hub).map_err(|e| broken(e.to_string()))?.seed;
    let token = hub.cluster.agent_token.ok_or_else(|| {
        broken("it has no token for agents".into())
            .hint("it was made by an earlier version: start the server over with --fresh --lan")
    })?;
    let (api, credential) = own_api(name)?;
    let seed = json!({
        "hostname": name.as_str(),
        "slipway": {
            "node-api": api,
            "cluster": {
                "role": "agent",
                "token": token.reveal(),
                "servers": [Lan::HUB],
                "node-address": Lan::NETWORK,
            },
        },
    });
    Ok((format!("#cloud-config\n{seed:#}\n"), credential))
}

/// A CA for a node's own API, and an operator's credential for it.
fn own_api(name: &VmName) -> Result<(serde_json::Value, Credential)> {
    let now = SystemTime::now();
    let failed = |e| {
        Error::new(
            Kind::Bug,
            format!("making the node API's certificates: {e}"),
        )
    };
    let nodes = CertificateAuthority::generate("slipway-nodes", now - BACKDATED).map_err(failed)?;
    let node =
        serving(&nodes, name.as_str(), vec![Ipv4Addr::LOCALHOST.into()], now).map_err(failed)?;
    let operator = node_api::Role::Operator;
    let credential = Credential::issue(&nodes, "operator", operator, now).map_err(failed)?;
    let api = json!({
        "ca": nodes.certificate_pem(),
        "certificate": node.certificate_pem,
        "key": node.key_pem,
    });
    Ok((api, credential))
}

/// A seed for a single server of this name, with new CAs, and an operator's credential
/// for its node API. JSON is YAML, and quotes what needs it. With `tpm` the key of its data is
/// in the machine's TPM.
///
/// # Errors
/// [`Kind::Bug`] if no key can be made.
pub fn seed(name: &VmName, tpm: bool) -> Result<(String, Credential)> {
    server_seed(name, tpm, false)
}

/// The same for one whose node's address is on a network with others.
fn server_seed(name: &VmName, tpm: bool, lan: bool) -> Result<(String, Credential)> {
    let now = SystemTime::now();
    let cas = Cas::generate("slipway", now - BACKDATED)
        .map_err(|e| Error::new(Kind::Bug, format!("making the cluster's CAs: {e}")))?;
    let (api, credential) = own_api(name)?;
    let token = pki::sha256(cas.cluster.certificate_pem())
        .map_err(|e| Error::new(Kind::Bug, format!("making a token for agents: {e}")))?;
    let token = Token::new(token, Role::Agent, &to_hex(&random()?));
    let pair = |ca: &CertificateAuthority| json!({ "certificate": ca.certificate_pem(), "key": ca.key_pem() });
    let data = match tpm {
        true => json!({ "encrypt": "tpm2" }),
        false => json!({}),
    };
    let mut seed = json!({
        "hostname": name.as_str(),
        "slipway": {
            "data": data,
            "node-api": api,
            "cluster": {
                "name": name.as_str(),
                "role": "server",
                "agent-token": token.reveal(),
                "extra-sans": ["127.0.0.1", "localhost"],
                "ca": {
                    "cluster": pair(&cas.cluster),
                    "etcd": pair(&cas.etcd),
                    "front-proxy": pair(&cas.front_proxy),
                },
            },
        },
    });
    if lan {
        seed["slipway"]["cluster"]["node-address"] = json!(Lan::NETWORK);
    }
    Ok((format!("#cloud-config\n{seed:#}\n"), credential))
}

/// The administrator of the cluster that `seed` describes, at `api_port` of
/// loopback, with a certificate made now.
///
/// # Errors
/// [`Kind::Input`] if the seed is broken or has no CAs.
pub fn kubeconfig(seed: &str, name: &VmName, api_port: u16) -> Result<Kubeconfig> {
    let broken = |why: String| Error::new(Kind::Input, why);
    let ca = Seed::parse(seed)
        .map_err(|e| broken(e.to_string()))?
        .seed
        .cluster
        .ca
        .ok_or_else(|| broken("the seed has no CAs".into()))?
        .cluster;
    let ca = CertificateAuthority::from_pem(&ca.certificate, ca.key.reveal())
        .map_err(|e| broken(e.to_string()))?;
    let admin = Leaf::client("slipway-admin", Some("system:masters"));
    let client = ca.issue(&admin, SystemTime::now()).map_err(|e| {
        Error::new(
            Kind::Bug,
            format!("making the administrator's certificate: {e}"),
        )
    })?;
    Ok(Kubeconfig {
        cluster: name.to_string(),
        user: "admin".into(),
        server: format!("https://127.0.0.1:{api_port}"),
        ca_pem: ca.certificate_pem().to_owned(),
        client,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use slipway_access::pki;
    use slipway_qemu::StateDir;

    use super::*;

    #[test]
    fn the_kubeconfig_is_signed_by_what_the_node_gets() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = StateDir::new(tmp.path()).vm(&"node1".parse().unwrap());
        dir.create().unwrap();
        provide(&dir, 6443, false, false).unwrap();

        let text = fs::read_to_string(dir.file(SEED_FILE)).unwrap();
        let parsed = Seed::parse(&text).unwrap();
        assert!(parsed.warnings.is_empty(), "{:?}", parsed.warnings);
        assert_eq!(parsed.seed.hostname.as_deref(), Some("node1"));
        assert_eq!(parsed.seed.cluster.extra_sans.len(), 2);
        let cas = parsed.seed.cluster.ca.unwrap();
        let ca = CertificateAuthority::from_pem(&cas.cluster.certificate, cas.cluster.key.reveal())
            .unwrap();
        assert!(ca.info().unwrap().not_before < SystemTime::now() - Duration::from_secs(24 * 3600));
        CertificateAuthority::from_pem(&cas.etcd.certificate, cas.etcd.key.reveal()).unwrap();
        CertificateAuthority::from_pem(&cas.front_proxy.certificate, cas.front_proxy.key.reveal())
            .unwrap();

        let config = Kubeconfig::read(&dir.kubeconfig()).unwrap();
        assert_eq!(config.server, "https://127.0.0.1:6443");
        let who = config.client.check(&ca, SystemTime::now()).unwrap();
        assert_eq!(who.organizations, ["system:masters"]);
        assert!(pki::inspect(&config.ca_pem).unwrap().is_ca);

        let api = parsed.seed.node_api.unwrap();
        let credential = Credential::read(&dir.file(CREDENTIAL_FILE)).unwrap();
        let nodes = credential.client.matching().unwrap();
        assert_eq!(
            node_api::Role::of(&nodes.organizations),
            Some(node_api::Role::Operator)
        );
        assert_eq!(api.ca.trim(), credential.ca_pem.trim());

        for file in [
            dir.file(SEED_FILE),
            dir.kubeconfig(),
            dir.file(CREDENTIAL_FILE),
        ] {
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
        }

        // Another start on another port: the same CAs.
        provide(&dir, 7000, false, false).unwrap();
        let again = Kubeconfig::read(&dir.kubeconfig()).unwrap();
        assert_eq!(again.server, "https://127.0.0.1:7000");
        assert_eq!(again.ca_pem, config.ca_pem);
    }

    #[test]
    fn a_broken_seed_is_named_and_never_shown() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = StateDir::new(tmp.path()).vm(&"node1".parse().unwrap());
        dir.create().unwrap();
        for text in [
            "#cloud-config\nhostname: x\n",
            "no seed",
            "#cloud-config\nslipway: 5\n",
        ] {
            fs::write(dir.file(SEED_FILE), text).unwrap();
            let error = provide(&dir, 6443, false, false).unwrap_err();
            assert_eq!(error.kind, Kind::Input);
            assert!(error.message().contains("user-data"), "{error}");
            assert!(error.advice().unwrap().contains("--fresh"));
        }
    }
}
