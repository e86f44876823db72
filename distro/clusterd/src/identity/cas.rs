//! What must outlive everything else: the CAs, and the two keys of the API server.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use slipway_access::durable;
use slipway_access::pki::{Cas, CertificateAuthority, KeyCertificate};
use slipway_images::info::ImageInfo;
use slipway_images::seed::{CaPair, CaSeed};

use super::{read_pair, write, write_pair};
use crate::error::{Context, Error, read_if_there};
use crate::options::Config;
use crate::random::random;

/// What to do about lost keys.
const REMEDY: &str = "restore /var/lib/clusterd from a backup, or remove it to begin a new cluster";
/// How far before its making a CA begins, for clocks of other machines.
pub const MARGIN: Duration = Duration::from_secs(24 * 60 * 60);

/// The seed's or the disk's CAs, or new ones.
pub fn open_cas(config: &Config, has_data: bool, now: SystemTime) -> Result<Cas, Error> {
    let seeded = config
        .seed
        .cluster
        .ca
        .as_ref()
        .map(seeded_cas)
        .transpose()?;
    let found = ["cluster-ca", "etcd-ca", "front-proxy-ca"].map(|name| load_ca(config, name));
    let [cluster, etcd, front_proxy] = found;
    match (cluster, etcd, front_proxy) {
        (Ok(Some(cluster)), Ok(Some(etcd)), Ok(Some(front_proxy))) => {
            let found = Cas {
                cluster,
                etcd,
                front_proxy,
            };
            match seeded {
                Some(seeded) if seeded != found && has_data => Err(Error::State {
                    what: "the seed's CAs".to_owned(),
                    reason: "they are not those of the cluster on this disk".to_owned(),
                    remedy: "boot with the seed this cluster was made with, or without CAs in it",
                }),
                Some(seeded) if seeded != found => store_cas(config, seeded),
                _ => Ok(found),
            }
        }
        // Without data nothing depends on what a first start left half-done; and the
        // owner's own copy is as good as the one that was lost.
        _ if seeded.is_some() || !has_data => {
            let cas = match seeded {
                Some(seeded) => seeded,
                None => Cas::generate(&config.seed.cluster.name, begin(config, now))?,
            };
            store_cas(config, cas)
        }
        (cluster, etcd, front_proxy) => {
            for (name, result) in [
                ("cluster-ca", cluster),
                ("etcd-ca", etcd),
                ("front-proxy-ca", front_proxy),
            ] {
                if result?.is_none() {
                    return Err(Error::State {
                        what: config.paths.pki(name).display().to_string(),
                        reason: "the cluster has data but this CA is missing".to_owned(),
                        remedy: REMEDY,
                    });
                }
            }
            Err(Error::State {
                what: "the CAs".to_owned(),
                reason: "they changed while they were read".to_owned(),
                remedy: "start clusterd again",
            })
        }
    }
}

/// When validity begins: never later than the image was made, which a clock that was
/// never set comes after, too.
fn begin(config: &Config, now: SystemTime) -> SystemTime {
    let path = config.paths.image_info();
    let built = std::fs::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<ImageInfo>(&bytes).ok())
        .and_then(|info| u64::try_from(info.built).ok())
        .map_or(now, |seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    let begin = built.min(now);
    begin.checked_sub(MARGIN).unwrap_or(UNIX_EPOCH)
}

fn seeded_cas(seed: &CaSeed) -> Result<Cas, Error> {
    let authority = |pair: &CaPair, name: &str| {
        CertificateAuthority::from_pem(&pair.certificate, pair.key.reveal())
            .map_err(|error| Error::Seed(format!("the seed's CA {name}: {error}")))
    };
    Ok(Cas {
        cluster: authority(&seed.cluster, "cluster")?,
        etcd: authority(&seed.etcd, "etcd")?,
        front_proxy: authority(&seed.front_proxy, "front-proxy")?,
    })
}

fn load_ca(config: &Config, name: &str) -> Result<Option<CertificateAuthority>, Error> {
    let path = config.paths.pki(name);
    let (certificate, key) = (path.with_extension("crt"), path.with_extension("key"));
    let present = [certificate.exists(), key.exists()];
    let Some(pair) = read_pair(&certificate, &key)? else {
        if present.contains(&true) {
            return Err(Error::State {
                what: path.display().to_string(),
                reason: "of certificate and key one is missing".to_owned(),
                remedy: REMEDY,
            });
        }
        return Ok(None);
    };
    CertificateAuthority::from_pem(&pair.certificate_pem, &pair.key_pem)
        .map(Some)
        .map_err(|error| Error::State {
            what: path.display().to_string(),
            reason: error.to_string(),
            remedy: REMEDY,
        })
}

fn store_cas(config: &Config, cas: Cas) -> Result<Cas, Error> {
    let all = [
        ("cluster-ca", &cas.cluster),
        ("etcd-ca", &cas.etcd),
        ("front-proxy-ca", &cas.front_proxy),
    ];
    for (name, ca) in all {
        let path = config.paths.pki(name);
        let pair = KeyCertificate {
            certificate_pem: ca.certificate_pem().to_owned(),
            key_pem: ca.key_pem().to_owned(),
        };
        write_pair(
            &path.with_extension("crt"),
            &path.with_extension("key"),
            &pair,
        )?;
    }
    Ok(cas)
}

/// The key that signs service-account tokens, and its public half beside it.
pub fn open_token_key(config: &Config, has_data: bool) -> Result<(), Error> {
    let path = config.paths.pki("service-account.key");
    let public_path = path.with_extension("pub");
    let kept = keep(&path, has_data, |text| {
        slipway_access::pki::public_key(text)
            .map(|_| ())
            .map_err(|error| error.to_string())
    })?;
    let private = match kept {
        Some(private) => private,
        None => {
            let (private, _) = slipway_access::pki::generate_signing_key()?;
            write(&path, &private)?;
            private
        }
    };
    let public = slipway_access::pki::public_key(&private)?;
    durable::write_if_changed(&public_path, public.as_bytes(), 0o600)
        .context(|| format!("write {}", public_path.display()))?;
    Ok(())
}

/// The configuration of encryption at rest: secrets are sealed with XSalsa20 and Poly1305
/// (`secretbox`), whose random nonces never run out, unlike AES-GCM's. There is no plain
/// text to be read from earlier, so `identity` isn't in it.
pub fn open_secrets_key(config: &Config, has_data: bool) -> Result<(), Error> {
    let path = config.paths.config("encryption.json");
    let whole = |text: &str| {
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|_| "it is damaged".to_owned())?;
        let key = value.pointer("/resources/0/providers/0/secretbox/keys/0/secret");
        match key.and_then(serde_json::Value::as_str) {
            Some(key) if key.len() == 44 => Ok(()),
            _ => Err("it holds no key".to_owned()),
        }
    };
    if keep(&path, has_data, whole)?.is_some() {
        return Ok(());
    }
    let key = random::<32>()?;
    let content = serde_json::json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{
            "resources": ["secrets"],
            "providers": [{
                "secretbox": {"keys": [{
                    "name": "key1",
                    "secret": base64::engine::general_purpose::STANDARD.encode(key),
                }]}
            }]
        }]
    });
    write(&path, &content.to_string())
}

/// The text of a file that must be there and whole once there are data; `None` asks for it
/// to be made.
fn keep(
    path: &Path,
    has_data: bool,
    whole: impl Fn(&str) -> Result<(), String>,
) -> Result<Option<String>, Error> {
    let text = read_if_there(path)?.map(|bytes| String::from_utf8(bytes).unwrap_or_default());
    let state = match &text {
        Some(text) => whole(text),
        None => Err("it is missing".to_owned()),
    };
    match state {
        Ok(()) => Ok(text),
        Err(_) if !has_data => Ok(None),
        Err(reason) => Err(Error::State {
            what: path.display().to_string(),
            reason,
            remedy: REMEDY,
        }),
    }
}
