//! How an agent gets a certificate: it makes a key, asks for a certificate for it
//! ([`crate::signer`] answers), and waits.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use slipway_access::api::Client;
use slipway_access::pki::{self, KeyCertificate, Usage};
use slipway_images::hex::hex;
use slipway_images::seed::Token;

use super::leaves::{Leaf, OWN};
use super::{read_pair, write};
use crate::error::{Error, read_if_there};
use crate::joining;
use crate::options::Config;
use crate::random::random;
use crate::signer::{REQUESTS, SIGNER};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks for a certificate, as the agent that this machine is already, or with the token.
pub fn issue(
    config: &Config,
    ca_pem: &str,
    token: &Token,
    leaf: &Leaf,
    now: SystemTime,
) -> Result<KeyCertificate, Error> {
    let key_pem = if leaf.name == OWN {
        own_key(config)?
    } else {
        pki::generate_key()?
    };
    let client = client(config, ca_pem, token, now)?;
    let name = format!(
        "slipway-{}-{}-{}",
        config.node_name,
        leaf.name,
        hex(&random::<8>()?)
    );
    let usage = match leaf.request.usage {
        Usage::Server => "server auth",
        Usage::Client | Usage::Both => "client auth",
    };
    let request = pki::request(&leaf.request, &key_pem)?;
    client.create(
        REQUESTS,
        &json!({
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": name},
            "spec": {
                "signerName": SIGNER,
                "request": STANDARD.encode(request),
                "usages": ["digital signature", usage],
            },
        }),
    )?;
    let what = format!("the cluster to answer the request {name}");
    let answered = client.wait(&format!("{REQUESTS}/{name}"), &what, PATIENCE, |request| {
        request.is_none_or(|request| answer(request).is_some())
    })?;
    let certificate_pem = match answered.as_ref().and_then(answer) {
        Some(answer) => answer.map_err(Error::Refused)?,
        None => return Err(Error::Refused(format!("its request {name} was deleted"))),
    };
    let pair = KeyCertificate {
        certificate_pem,
        key_pem,
    };
    pair.check_by(ca_pem, now)?;
    Ok(pair)
}

/// The certificate, or why there is none; `None` while there is no answer.
fn answer(request: &Value) -> Option<Result<String, String>> {
    let status = &request["status"];
    if let Some(certificate) = status["certificate"].as_str() {
        let pem = STANDARD.decode(certificate).ok();
        let pem = pem.and_then(|pem| String::from_utf8(pem).ok());
        return Some(pem.ok_or_else(|| "the certificate that it gave isn't PEM".to_owned()));
    }
    let conditions = status["conditions"].as_array();
    let denied = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Denied" || condition["type"] == "Failed")?;
    let reason = denied["message"].as_str().unwrap_or("no reason is given");
    Some(Err(reason.to_owned()))
}

/// The key by which the cluster knows this machine again; kept for as long as its state is. On
/// the disk before it is asked with: what the cluster has written down must not get lost here.
fn own_key(config: &Config) -> Result<String, Error> {
    let path = config.paths.pki(OWN).with_extension("key");
    if let Some(bytes) = read_if_there(&path)?
        && let Ok(text) = String::from_utf8(bytes)
        && pki::public_key(&text).is_ok()
    {
        return Ok(text);
    }
    let key = pki::generate_key()?;
    write(&path, &key)?;
    Ok(key)
}

fn client(config: &Config, ca_pem: &str, token: &Token, now: SystemTime) -> Result<Client, Error> {
    let path = config.paths.pki(OWN);
    let own = read_pair(&path.with_extension("crt"), &path.with_extension("key"))?;
    let own = own.filter(|pair| pair.check_by(ca_pem, now).is_ok());
    Ok(match own {
        Some(pair) => Client::new(&config.api_url(), ca_pem, Some(&pair))?,
        None => Client::with_token(&config.api_url(), ca_pem, &joining::bearer(token))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_certificate_or_a_reason() {
        assert_eq!(
            answer(&json!({"status": {"conditions": [{"type": "Approved"}]}})),
            None
        );
        let denied = json!({"status": {"conditions": [{"type": "Denied", "message": "no"}]}});
        assert_eq!(answer(&denied), Some(Err("no".to_owned())));
        let given = json!({"status": {"certificate": STANDARD.encode("pem")}});
        assert_eq!(answer(&given), Some(Ok("pem".to_owned())));
        assert!(answer(&json!({"status": {"certificate": "%"}})).is_some_and(|a| a.is_err()));
    }
}
