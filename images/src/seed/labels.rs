//! Labels and taints of nodes, by Kubernetes' rules (k8s.io/apimachinery `validation`).

use std::collections::BTreeMap;

use super::cluster::{Effect, Taint};
use super::read::{Cx, Map, Word};
use super::shape::Text;
use super::words::{Words, is_label, text};

impl Word for Taint {
    const TEXT: Text = text("KEY=VALUE:EFFECT or KEY:EFFECT");
    fn parse(text: &str) -> Result<Self, String> {
        let form = "is no taint of the form KEY=VALUE:EFFECT or KEY:EFFECT";
        let (pair, effect) = text.rsplit_once(':').ok_or(form)?;
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let effect = match effect {
            "NoSchedule" => Effect::NoSchedule,
            "PreferNoSchedule" => Effect::PreferNoSchedule,
            "NoExecute" => Effect::NoExecute,
            _ => {
                return Err(
                    "has an effect other than NoSchedule, PreferNoSchedule, NoExecute".into(),
                );
            }
        };
        if !is_label_key(key) || !is_label_value(value) {
            return Err(form.into());
        }
        Ok(Self {
            key: key.into(),
            value: value.into(),
            effect,
        })
    }
}

/// Labels that a node may give itself.
pub fn labels(entries: Map<Words>, cx: &mut Cx) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (key, value) in entries {
        if !is_label_key(&key) {
            cx.error(
                &key.spot,
                "is no label's key: [DOMAIN/]NAME, NAME of at most 63 letters, digits, -, _ and .",
            );
        } else if let Some(why) = reserved_label(&key) {
            cx.error(&key.spot, why);
        } else if !is_label_value(&value.value.0) {
            cx.error(
                &value.spot,
                "is no label's value: at most 63 letters, digits, -, _ and .",
            );
        }
        labels.insert(key.value, value.value.0);
    }
    labels
}

/// Why the kubelet may not set a label on its own node (`IsKubeletLabel` of k8s.io/kubelet).
fn reserved_label(key: &str) -> Option<&'static str> {
    const OWN: [&str; 9] = [
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "node.kubernetes.io/instance-type",
        "beta.kubernetes.io/instance-type",
    ];
    let (domain, _) = key.split_once('/')?;
    let within = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    let kubelets = within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    if OWN.contains(&key) || kubelets || !(within("kubernetes.io") || within("k8s.io")) {
        return None;
    }
    Some(
        "Kubernetes doesn't let a node give itself this label; set it with `kubectl label node` once it has joined",
    )
}

fn is_label_key(key: &str) -> bool {
    let (domain, name) = match key.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, key),
    };
    !name.is_empty()
        && is_label_value(name)
        && domain.is_none_or(|domain| domain.len() <= 253 && domain.split('.').all(is_label))
}

fn is_label_value(value: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    value.is_empty()
        || (value.len() <= 63
            && value.bytes().all(plain)
            && value.starts_with(edge)
            && value.ends_with(edge))
}
