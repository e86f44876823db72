//! Watching the own node: when it is Ready, what its role is, and how many pods it runs.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use slipway_access::api::{ApiError, Client};
use slipway_images::seed::Cidr;

use crate::access::Access;
use crate::board::{Board, Facts};
use crate::error::{Context, Error};
use crate::files;
use crate::log::info;
use crate::options::Config;

/// Between two counts of the pods, when nothing else happens.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);
/// `kubectl get nodes` shows it as the role. A kubelet may not give it to itself.
const ROLE: &str = "node-role.kubernetes.io/control-plane";

/// Follows the node until everything ends.
pub fn follow(config: &Config, access: &Access, board: &Arc<Board>) {
    let boot = match boot_id() {
        Ok(boot) => boot,
        Err(error) => {
            info!("{error}; the node's readiness can't be told");
            return;
        }
    };
    while board.wait(Facts::api_serves) {
        if let Err(error) = follow_once(config, access, board, &boot) {
            board.update(|facts| {
                facts.node_ready = false;
                facts.trouble.insert("node", error.to_string());
            });
        }
        if !board.pause(Duration::from_millis(500)) {
            return;
        }
    }
}

fn follow_once(config: &Config, access: &Access, board: &Board, boot: &str) -> Result<(), Error> {
    let client = access.client()?;
    let path = format!("/api/v1/nodes/{}", config.node_name);
    loop {
        // The stored status says Ready long after a power cut; only what the kubelet of this
        // boot reported counts.
        let ready = |node: Option<&Value>| node.is_some_and(|node| is_ready(node, boot));
        // Without a network for its pods a node isn't Ready.
        let networked = |node: Option<&Value>| {
            if let Some(Err(error)) = node.map(|node| give_network(config, node)) {
                info!("{error}");
            }
        };
        let node = match client.wait(&path, "the node to be Ready", COUNT_INTERVAL, |node| {
            networked(node);
            board.facts().stopping || ready(node)
        }) {
            Ok(Some(node)) if ready(Some(&node)) => node,
            Ok(_) => return Ok(()),
            Err(ApiError::Deadline { last, .. }) => {
                board.update(|facts| {
                    facts.node_ready = false;
                    facts.trouble.insert("node", last);
                });
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if config.is_server() && node["metadata"]["labels"].get(ROLE).is_none() {
            client.merge_patch(&path, &json!({"metadata": {"labels": {(ROLE): ""}}}))?;
        }
        board.update(|facts| {
            facts.trouble.remove("node");
            facts.node_ready = true;
        });
        loop {
            let pods = running_pods(&client, &config.node_name)?;
            board.update(|facts| facts.pods = pods);
            match client.wait(&path, "the node to change", COUNT_INTERVAL, |node| {
                networked(node);
                board.facts().stopping || !ready(node)
            }) {
                Ok(_) => break,
                Err(ApiError::Deadline { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if board.facts().stopping {
            return Ok(());
        }
        board.update(|facts| facts.node_ready = false);
    }
}

fn is_ready(node: &Value, boot: &str) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    let ready = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    ready && node["status"]["nodeInfo"]["bootID"] == boot
}

/// Gives the pods' network the range that the cluster gave the node.
fn give_network(config: &Config, node: &Value) -> Result<(), Error> {
    let given = node["spec"]["podCIDR"]
        .as_str()
        .and_then(|range| range.parse::<Cidr>().ok());
    if let Some(range) = given
        && files::write_pod_network(config, range)?
    {
        info!("the pods' network is {range}");
    }
    Ok(())
}

fn running_pods(client: &Client, node: &str) -> Result<usize, Error> {
    let selector = format!("spec.nodeName%3D{node}%2Cstatus.phase%3DRunning");
    Ok(client
        .list(&format!(
            "/api/v1/pods?resourceVersion=0&fieldSelector={selector}"
        ))?
        .len())
}

fn boot_id() -> Result<String, Error> {
    let path = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .context(|| format!("read {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_boots_word_counts() {
        let node = |status: &str, boot: &str| {
            json!({"status": {
                "conditions": [{"type": "Ready", "status": status}],
                "nodeInfo": {"bootID": boot},
            }})
        };
        assert!(is_ready(&node("True", "b1"), "b1"));
        assert!(!is_ready(&node("True", "b0"), "b1"));
        assert!(!is_ready(&node("Unknown", "b1"), "b1"));
        assert!(!is_ready(&json!({}), "b1"));
    }
}
