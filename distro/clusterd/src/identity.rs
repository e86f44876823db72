//! The cluster's secrets on disk: CAs, certificates, kubeconfigs, and the two keys of the API server.
//!
//! Two kinds of files on a server. What the cluster's data depend on (CAs, the key of the
//! secrets in the datastore, the key of service-account tokens) is made once,
//! before there are data; afterwards a missing or damaged one is an error for
//! a person, never replaced. What is derived from a CA (certificates,
//! kubeconfigs) is made again whenever it is damaged, misfits or ages. An agent has
//! the latter only, and asks a server for it.

mod asking;
mod cas;
mod leaves;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::SystemTime;

use slipway_access::durable;
use slipway_access::kubeconfig::Kubeconfig;
use slipway_access::pki::{self, Cas, CertificateAuthority, KeyCertificate};
use slipway_images::seed::Token;

use crate::component::Name;
use crate::error::{Context, Error, read_if_there};
use crate::log::info;
use crate::options::Config;

pub use leaves::{Leaf, agent_leaves, api_server_leaf, leaves};

/// Whom certificates are from.
#[derive(Debug, Clone)]
pub struct Identity {
    authority: Authority,
}

#[derive(Debug, Clone)]
enum Authority {
    /// A server's own CAs.
    Own(Box<Cas>),
    /// A server's, which an agent asks.
    Asked {
        /// The cluster's CA, PEM.
        ca_pem: String,
        /// What lets an agent in that has no certificate.
        token: Token,
    },
}

/// What a component's certificates and files were changed for it to need a restart.
pub type Affected = BTreeSet<Name>;

impl Identity {
    /// A server's: loads or makes what must outlive everything else.
    pub fn open(config: &Config, now: SystemTime) -> Result<Self, Error> {
        let has_data = config.paths.database().exists();
        let cas = cas::open_cas(config, has_data, now)?;
        cas::open_token_key(config, has_data)?;
        cas::open_secrets_key(config, has_data)?;
        Ok(Self {
            authority: Authority::Own(Box::new(cas)),
        })
    }

    /// An agent's, of the cluster of this CA.
    pub fn of_agent(ca_pem: String, token: Token) -> Self {
        Self {
            authority: Authority::Asked { ca_pem, token },
        }
    }

    /// The CA that signs the API server and its clients, where it is this machine's.
    pub fn cluster_ca(&self) -> Option<&CertificateAuthority> {
        match &self.authority {
            Authority::Own(cas) => Some(&cas.cluster),
            Authority::Asked { .. } => None,
        }
    }

    /// Its certificate, PEM.
    pub fn cluster_ca_pem(&self) -> &str {
        match &self.authority {
            Authority::Own(cas) => cas.cluster.certificate_pem(),
            Authority::Asked { ca_pem, .. } => ca_pem,
        }
    }

    /// Makes every certificate and kubeconfig that is missing, damaged, old or misfits, and
    /// says which components have to be restarted for it.
    pub fn refresh(&self, config: &Config, now: SystemTime) -> Result<Affected, Error> {
        let mut affected = Affected::new();
        for leaf in leaves(config) {
            let pair = match self.fitting(config, &leaf, now)? {
                Some(pair) => pair,
                None => {
                    affected.extend(leaf.users.iter().copied());
                    self.issue(config, &leaf, now)?
                }
            };
            if let Some(path) = &leaf.kubeconfig {
                let kubeconfig = Kubeconfig {
                    cluster: config.seed.cluster.name.clone(),
                    user: leaf.request.common_name.clone(),
                    server: config.api_url(),
                    ca_pem: self.cluster_ca_pem().to_owned(),
                    client: pair,
                };
                let written =
                    durable::write_if_changed(path, kubeconfig.to_yaml().as_bytes(), 0o600)
                        .context(|| format!("write {}", path.display()))?;
                if written {
                    affected.extend(leaf.users.iter().copied());
                }
            }
        }
        Ok(affected)
    }

    /// What clusterd itself is at the API.
    pub fn own(&self, config: &Config) -> Result<KeyCertificate, Error> {
        pair_on_disk(config, leaves::OWN)
    }

    /// What the kubelet is at the API.
    pub fn kubelet(&self, config: &Config) -> Result<KeyCertificate, Error> {
        pair_on_disk(config, "kubelet")
    }

    /// PEM of the CA that a certificate is from.
    fn authority(&self, leaf: &Leaf) -> &str {
        match &self.authority {
            Authority::Own(cas) if leaf.front_proxy => cas.front_proxy.certificate_pem(),
            _ => self.cluster_ca_pem(),
        }
    }

    /// The pair on disk, if it is what would be issued and is young enough.
    fn fitting(
        &self,
        config: &Config,
        leaf: &Leaf,
        now: SystemTime,
    ) -> Result<Option<KeyCertificate>, Error> {
        let path = config.paths.pki(leaf.name);
        let pair = read_pair(&path.with_extension("crt"), &path.with_extension("key"))?;
        let Some(pair) = pair else { return Ok(None) };
        let info = match pair.check_by(self.authority(leaf), now) {
            Ok(info) => info,
            Err(error) => {
                info!("certificate {} is made anew: {error}", leaf.name);
                return Ok(None);
            }
        };
        let mut dns_names = leaf.request.dns_names.clone();
        dns_names.sort();
        let mut addresses = leaf.request.addresses.clone();
        addresses.sort();
        let same = info.common_name == leaf.request.common_name
            && info.organizations == Vec::from_iter(leaf.request.organization.clone())
            && info.dns_names == dns_names
            && info.addresses == addresses;
        if !same {
            info!("certificate {} is made anew: its names changed", leaf.name);
            return Ok(None);
        }
        if leaf.shows_ca && !pair.certificate_pem.ends_with(self.authority(leaf)) {
            info!("certificate {} is made anew, with the CA's", leaf.name);
            return Ok(None);
        }
        // A third of the life is left for machines that were off when the time came. Where
        // the CA ends earlier than a whole life, renewing again and again would gain nothing.
        let left = info.not_after.duration_since(now).unwrap_or_default();
        let ca_end = pki::inspect(self.authority(leaf))?.not_after;
        if left < leaf.request.lifetime / 3 && info.not_after < ca_end {
            info!(
                "certificate {} is renewed, {} s before its end",
                leaf.name,
                left.as_secs()
            );
            return Ok(None);
        }
        Ok(Some(pair))
    }

    fn issue(
        &self,
        config: &Config,
        leaf: &Leaf,
        now: SystemTime,
    ) -> Result<KeyCertificate, Error> {
        let mut pair = match &self.authority {
            Authority::Own(cas) => {
                let ca = if leaf.front_proxy {
                    &cas.front_proxy
                } else {
                    &cas.cluster
                };
                ca.issue(&leaf.request, now)?
            }
            Authority::Asked { ca_pem, token } => asking::issue(config, ca_pem, token, leaf, now)?,
        };
        if leaf.shows_ca {
            pair.certificate_pem.push_str(self.authority(leaf));
        }
        let path = config.paths.pki(leaf.name);
        write_pair(
            &path.with_extension("crt"),
            &path.with_extension("key"),
            &pair,
        )?;
        Ok(pair)
    }
}

fn pair_on_disk(config: &Config, name: &str) -> Result<KeyCertificate, Error> {
    let path = config.paths.pki(name);
    read_pair(&path.with_extension("crt"), &path.with_extension("key"))?.ok_or_else(|| {
        Error::State {
            what: path.display().to_string(),
            reason: "it vanished".to_owned(),
            remedy: "restart clusterd",
        }
    })
}

fn read_pair(certificate: &Path, key: &Path) -> Result<Option<KeyCertificate>, Error> {
    let (Some(certificate), Some(key)) = (read_if_there(certificate)?, read_if_there(key)?) else {
        return Ok(None);
    };
    // What isn't text isn't PEM either; the parser says so.
    let text = |bytes| String::from_utf8(bytes).unwrap_or_default();
    Ok(Some(KeyCertificate {
        certificate_pem: text(certificate),
        key_pem: text(key),
    }))
}

fn write_pair(certificate: &Path, key: &Path, pair: &KeyCertificate) -> Result<(), Error> {
    write(key, &pair.key_pem)?;
    write(certificate, &pair.certificate_pem)
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    durable::write(path, text.as_bytes(), 0o600).context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests;
