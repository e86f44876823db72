//! How an agent joins: it takes the cluster's CA from a server that can prove to be the one its
//! token is for, gets its certificates, and learns what the cluster is like. What it has from
//! earlier starts is enough to start without any server.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, SystemTime};

use slipway_access::api::{self, Client};
use slipway_access::{durable, pki};
use slipway_images::info::ImageInfo;
use slipway_images::seed::Token;

use crate::balancer::Balancer;
use crate::datastore::Kubernetes;
use crate::error::{Context, Error, read_if_there};
use crate::identity::Identity;
use crate::joining::{ABOUT, About};
use crate::log::info;
use crate::network;
use crate::notify::Notify;
use crate::options::Config;
use crate::server::Event;

/// First and longest pause before joining is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// After the cluster refused. Each attempt leaves an object there for an hour.
const REFUSED: Duration = Duration::from_secs(60);
/// For each step of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Joins, and fills in what the cluster says; `None` when it is asked to stop before.
pub fn join(
    config: &mut Config,
    balancer: &Balancer,
    events: &Receiver<Event>,
) -> Result<Option<Identity>, Error> {
    let notify = Notify::from_environment();
    let mut pause = PAUSE.0;
    let mut said = String::new();
    loop {
        let wait = match attempt(config, balancer) {
            Ok(identity) => return Ok(Some(identity)),
            // For a person; trying again mends nothing.
            Err(error @ (Error::Seed(_) | Error::State { .. })) => return Err(error),
            Err(error) => {
                let text = format!("joining: {error}");
                if text != said {
                    info!("{text}; trying again");
                    notify.send(&format!("STATUS={}", text.replace(['\n', '\r'], " ")));
                    said = text;
                }
                if matches!(error, Error::Refused(_)) {
                    REFUSED
                } else {
                    pause
                }
            }
        };
        match events.recv_timeout(wait) {
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Ok(Event::Network) => {
                if let Some(address) = network::own_address(config.seed.cluster.node_address) {
                    config.node_address = address;
                }
                pause = PAUSE.0;
            }
            Err(RecvTimeoutError::Timeout) => pause = (pause * 2).min(PAUSE.1),
        }
    }
}

fn attempt(config: &mut Config, balancer: &Balancer) -> Result<Identity, Error> {
    let token = config.seed.cluster.token.clone();
    let token = token.ok_or_else(|| Error::Seed("an agent's seed has a `token`".to_owned()))?;
    let ca_pem = ca(config, balancer, &token)?;
    let identity = Identity::of_agent(ca_pem, token);
    identity.refresh(config, SystemTime::now())?;
    let about = about(config, &identity)?;
    let own = ImageInfo::read(&config.paths.image_info()).map(|image| image.kubernetes);
    if let Ok(own) = own
        && is_newer(&own, &about.kubernetes)
    {
        return Err(Error::Refused(format!(
            "this machine's Kubernetes {own} is newer than its cluster's {}: update the servers first",
            about.kubernetes
        )));
    }
    let cluster = &mut config.seed.cluster;
    cluster.name = about.name;
    cluster.pod_cidr = about.pod_cidr;
    cluster.service_cidr = about.service_cidr;
    cluster.cluster_domain = about.cluster_domain;
    Ok(identity)
}

/// The CA of an earlier start, or the one that a server shows.
fn ca(config: &Config, balancer: &Balancer, token: &Token) -> Result<String, Error> {
    let wanted = token.ca_sha256().ok_or_else(|| {
        Error::Seed("an agent's token carries the hash of the cluster's CA (S1...)".to_owned())
    })?;
    let path = config.paths.pki("cluster-ca.crt");
    if let Some(bytes) = read_if_there(&path)? {
        let text = String::from_utf8(bytes).unwrap_or_default();
        match pki::sha256(&text) {
            Ok(found) if found == wanted => return Ok(text),
            Ok(_) => {
                return Err(Error::State {
                    what: path.display().to_string(),
                    reason: "this machine is of another cluster than its token is for".to_owned(),
                    remedy: "reset the machine for it to join another (slipway node reset), or boot it with its cluster's seed",
                });
            }
            Err(error) => info!("{}: {error}; it is fetched anew", path.display()),
        }
    }
    let mut last = None;
    for address in balancer.candidates() {
        match api::ca_of(address, wanted, HANDSHAKE) {
            Ok(pem) => {
                durable::write(&path, pem.as_bytes(), 0o600)
                    .context(|| format!("write {}", path.display()))?;
                return Ok(pem);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(match last {
        Some(error) => Error::Ca(error),
        None => Error::Refused(format!(
            "none of the servers {} has an address now",
            config.seed.cluster.servers.join(", ")
        )),
    })
}

/// What the cluster is like: as it says, or as it said last.
fn about(config: &Config, identity: &Identity) -> Result<About, Error> {
    let path = config.paths.config("cluster.json");
    let corrupt = |error: serde_json::Error| {
        Error::Refused(format!("its description of itself can't be read: {error}"))
    };
    let own = identity.own(config)?;
    let asked = Client::new(&config.api_url(), identity.cluster_ca_pem(), Some(&own))
        .and_then(|client| client.get(ABOUT));
    match asked {
        Ok(map) => {
            let about: About = serde_json::from_value(map["data"].clone()).map_err(corrupt)?;
            let text = serde_json::to_vec(&about).map_err(corrupt)?;
            durable::write_if_changed(&path, &text, 0o600)
                .context(|| format!("write {}", path.display()))?;
            Ok(about)
        }
        Err(error) => {
            let known = read_if_there(&path)?.unwrap_or_default();
            serde_json::from_slice(&known).map_err(|_| error.into())
        }
    }
}

/// Whether a version's minor number, as in `v1.36.3`, is higher. Unknown ones aren't.
fn is_newer(own: &str, cluster: &str) -> bool {
    let version = |text: &str| Kubernetes::try_from(text.to_owned());
    match (version(own), version(cluster)) {
        (Ok(own), Ok(cluster)) => own.minor() > cluster.minor(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_newer;

    #[test]
    fn servers_are_updated_first() {
        assert!(is_newer("v1.37.0", "v1.36.9"));
        assert!(is_newer("v2.0.0", "v1.36.9"));
        assert!(!is_newer("v1.36.9", "v1.36.0"));
        assert!(!is_newer("v1.35.0", "v1.36.0"));
        assert!(!is_newer("v1.37.0", ""));
    }
}
