//! What is kept, what is made again, and what is refused.

use std::time::{Duration, UNIX_EPOCH};

use slipway_images::seed::{CaPair, CaSeed};
use std::path::PathBuf;

use super::*;
use crate::paths::Paths;

struct Place {
    _directory: tempfile::TempDir,
    config: Config,
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let mut config = crate::component::tests::config(false);
    config.paths = Paths::new(directory.path());
    config.paths.create().unwrap();
    Place {
        _directory: directory,
        config,
    }
}

impl Place {
    fn open(&self) -> Result<Identity, Error> {
        Identity::open(&self.config, now())
    }

    fn with_data(&self) {
        std::fs::write(self.config.paths.database(), "data").unwrap();
    }

    fn pki(&self, file: &str) -> PathBuf {
        self.config.paths.pki(file)
    }
}

#[test]
fn a_second_start_finds_everything_as_it_was() {
    let place = place();
    let first = place.open().unwrap();
    assert!(
        first
            .refresh(&place.config, now())
            .unwrap()
            .contains(&Name::ApiServer)
    );
    let admin = std::fs::read(place.config.paths.admin_kubeconfig()).unwrap();
    place.with_data();
    let second = place.open().unwrap();
    assert_eq!(second.cluster_ca(), first.cluster_ca());
    assert!(second.refresh(&place.config, now()).unwrap().is_empty());
    assert_eq!(
        std::fs::read(place.config.paths.admin_kubeconfig()).unwrap(),
        admin
    );
}

#[test]
fn every_secret_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let place = place();
    place.open().unwrap().refresh(&place.config, now()).unwrap();
    let mut directories = vec![place.config.paths.root().join("var/lib/clusterd")];
    let mut files = 0;
    while let Some(directory) = directories.pop() {
        let mode = std::fs::metadata(&directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", directory.display());
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files += 1;
                let mode = std::fs::metadata(&path).unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o600, "{}", path.display());
            }
        }
    }
    assert!(files > 30);
}

#[test]
fn before_there_are_data_half_done_cas_are_made_again() {
    let place = place();
    place.open().unwrap();
    std::fs::write(place.pki("etcd-ca.key"), "-----BEGIN PRIV").unwrap();
    std::fs::remove_file(place.pki("front-proxy-ca.crt")).unwrap();
    place.open().unwrap();
}

#[test]
fn with_data_a_lost_or_damaged_ca_is_an_error_and_stays_untouched() {
    for (file, content) in [
        ("cluster-ca.crt", Some("-----BEGIN CERT")),
        ("cluster-ca.key", Some("")),
        ("etcd-ca.key", None),
        ("front-proxy-ca.crt", None),
        ("service-account.key", Some("half")),
        ("service-account.key", None),
    ] {
        let place = place();
        place.open().unwrap();
        place.with_data();
        let path = place.pki(file);
        match content {
            Some(content) => std::fs::write(&path, content).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let error = place.open().unwrap_err();
        assert!(matches!(error, Error::State { .. }), "{file}: {error}");
        assert_eq!(error.exit_status(), 4);
        let text = error.to_string();
        let stem = file.split('.').next().unwrap();
        assert!(
            text.contains(stem) && text.contains("backup"),
            "{file}: {text}"
        );
        assert_eq!(
            std::fs::read_to_string(&path).ok().as_deref(),
            content,
            "{file}"
        );
    }
}

#[test]
fn with_data_both_files_of_a_ca_lost_is_an_error_too() {
    let place = place();
    place.open().unwrap();
    place.with_data();
    std::fs::remove_file(place.pki("cluster-ca.crt")).unwrap();
    std::fs::remove_file(place.pki("cluster-ca.key")).unwrap();
    let text = place.open().unwrap_err().to_string();
    assert!(
        text.contains("cluster-ca: the cluster has data but this CA is missing"),
        "{text}"
    );
}

#[test]
fn with_data_a_lost_encryption_key_is_an_error() {
    let place = place();
    place.open().unwrap();
    place.with_data();
    let path = place.config.paths.config("encryption.json");
    for content in ["", "{}", "{\"resources\": [{}]}"] {
        std::fs::write(&path, content).unwrap();
        let text = place.open().unwrap_err().to_string();
        assert!(text.contains("encryption.json"), "{text}");
    }
}

#[test]
fn damaged_certificates_are_made_again_and_their_users_told() {
    let place = place();
    let identity = place.open().unwrap();
    identity.refresh(&place.config, now()).unwrap();
    for (file, user) in [
        ("apiserver.crt", Name::ApiServer),
        ("kubelet.key", Name::Kubelet),
        ("scheduler-server.crt", Name::Scheduler),
    ] {
        let path = place.pki(file);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let affected = identity.refresh(&place.config, now()).unwrap();
        assert_eq!(affected, Affected::from([user]), "{file}");
        assert!(
            identity.refresh(&place.config, now()).unwrap().is_empty(),
            "{file}"
        );
    }
    std::fs::remove_file(place.config.paths.kubeconfig("kube-proxy")).unwrap();
    let affected = identity.refresh(&place.config, now()).unwrap();
    assert_eq!(affected, Affected::from([Name::KubeProxy]));
}

#[test]
fn certificates_are_renewed_at_two_thirds_of_their_life() {
    let place = place();
    let identity = place.open().unwrap();
    identity.refresh(&place.config, now()).unwrap();
    let life = place.config.tuning.certificate_lifetime;
    let before = now() + life * 2 / 3 - Duration::from_secs(60);
    assert!(identity.refresh(&place.config, before).unwrap().is_empty());
    let after = now() + life * 2 / 3 + Duration::from_secs(60);
    assert!(
        identity
            .refresh(&place.config, after)
            .unwrap()
            .contains(&Name::Kubelet)
    );
    // Long off, all expired; and a clock that was wrong and fell back.
    let late = now() + life * 3;
    assert!(
        identity
            .refresh(&place.config, late)
            .unwrap()
            .contains(&Name::Kubelet)
    );
    assert!(identity.refresh(&place.config, now()).unwrap().is_empty());
}

#[test]
fn the_certificates_follow_the_nodes_address() {
    let mut place = place();
    let identity = place.open().unwrap();
    identity.refresh(&place.config, now()).unwrap();
    place.config.node_address = "192.0.2.99".parse().unwrap();
    let affected = identity.refresh(&place.config, now()).unwrap();
    assert_eq!(affected, Affected::from([Name::ApiServer, Name::Kubelet]));
    let text = std::fs::read_to_string(place.pki("apiserver.crt")).unwrap();
    let info = pki::inspect(&text).unwrap();
    assert!(info.addresses.contains(&place.config.node_address));
    assert!(info.addresses.contains(&"10.43.0.1".parse().unwrap()));
    assert!(
        info.dns_names
            .contains(&"kubernetes.default.svc.cluster.local".to_owned())
    );
}

fn seed_of(cas: &Cas) -> CaSeed {
    let pair = |ca: &CertificateAuthority| CaPair {
        certificate: ca.certificate_pem().into(),
        key: slipway_images::seed::Secret::new(ca.key_pem()),
    };
    CaSeed {
        cluster: pair(&cas.cluster),
        etcd: pair(&cas.etcd),
        front_proxy: pair(&cas.front_proxy),
    }
}

#[test]
fn the_seeds_cas_are_taken_but_never_over_a_clusters_own() {
    let mut place = place();
    place.open().unwrap();
    let seeded = Cas::generate("demo", now()).unwrap();
    place.config.seed.cluster.ca = Some(seed_of(&seeded));
    assert_eq!(place.open().unwrap().cluster_ca(), Some(&seeded.cluster));
    place.with_data();
    assert_eq!(place.open().unwrap().cluster_ca(), Some(&seeded.cluster));
    // Lost on disk, but the owner has them.
    std::fs::remove_file(place.pki("etcd-ca.crt")).unwrap();
    assert_eq!(place.open().unwrap().cluster_ca(), Some(&seeded.cluster));
    // The seed without them is fine later; other ones are not.
    place.config.seed.cluster.ca = None;
    assert_eq!(place.open().unwrap().cluster_ca(), Some(&seeded.cluster));
    place.config.seed.cluster.ca = Some(seed_of(&Cas::generate("other", now()).unwrap()));
    let text = place.open().unwrap_err().to_string();
    assert!(
        text.contains("not those of the cluster on this disk"),
        "{text}"
    );
}

#[test]
fn a_seed_with_mixed_up_cas_is_the_seeds_fault() {
    let mut place = place();
    let cas = Cas::generate("demo", now()).unwrap();
    let mut seed = seed_of(&cas);
    seed.cluster.key = slipway_images::seed::Secret::new(cas.etcd.key_pem());
    place.config.seed.cluster.ca = Some(seed);
    let error = place.open().unwrap_err();
    assert_eq!(error.exit_status(), 3, "{error}");
}

#[test]
fn cas_begin_before_the_image_was_made_when_the_clock_is_later() {
    let place = place();
    let info = place.open().unwrap().cluster_ca().unwrap().info().unwrap();
    assert_eq!(info.not_before, now() - cas::MARGIN);
}
