//! `meta-data`: which instance of its owner's the machine is. YAML, or JSON, which is YAML.

use super::finding::Document;
use super::read::{Cx, Read, Word, mapping};
use super::shape::{Shape, Text};
use super::words::{DnsName, text};
use super::{Seed, yaml};

mapping! {
    /// The whole of meta-data.
    struct MetaDataKeys {
        "instance-id" => instance_id: InstanceId, "Any word; a new one makes the machine do the first-boot parts of its seed once more";
        "local-hostname" => local_hostname: DnsName, "The machine's name, where user-data has none";
    }
    others {
        Ignored "the node looks for its seed in one order, network or not" => ["dsmode", "seedfrom"];
        Ignored "interfaces are set up by the file network-config" => ["network-interfaces", "network"];
        Ignored "keys stand in user-data: `ssh_authorized_keys`" => ["public-keys", "public_keys"];
        Ignored "it is called `local-hostname` here" => ["hostname"];
        Ignored "it is called `instance-id` here" => ["instance_id"];
        Ignored "no use is made of where the machine is" => ["availability-zone", "availability_zone", "cloud-name", "cloud_name", "platform", "region", "instance-type", "local-ipv4", "public-hostname"];
    }
}

/// A word of printable characters.
pub(super) struct InstanceId(String);

impl Word for InstanceId {
    const TEXT: Text = text("word of at most 128 characters");
    fn parse(text: &str) -> Result<Self, String> {
        if !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(text.to_owned()))
        } else {
            Err("is no word of at most 128 letters, digits and signs".into())
        }
    }
}

/// The form of the document.
pub const SHAPE: &Shape = <MetaDataKeys as Read>::SHAPE;

/// Reads the document into the seed; user-data has been read before.
pub fn read(text: &str, seed: &mut Seed, cx: &mut Cx) {
    let node = match yaml::parse(text, Document::MetaData) {
        Ok(node) => node,
        Err(fault) => return cx.push(fault),
    };
    let spot = cx.spot(&node);
    let Some(keys) = MetaDataKeys::read(&node, cx) else {
        return;
    };
    if keys.instance_id.is_none() && !cx.is_reported(&spot, "instance-id") {
        cx.warn(
            &spot,
            "has no `instance-id`: the first-boot parts of the seed are done once for all",
        );
    }
    seed.instance_id = keys.instance_id.map(|id| id.value.0);
    if seed.hostname.is_none() {
        seed.hostname = keys.local_hostname.map(|name| name.value.0);
    }
}
