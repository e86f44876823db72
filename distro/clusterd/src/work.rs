//! What goes on beside the components: whether the API answers, images, add-ons, agents'
//! certificates, and where an agent's servers are. Each is a thread.

use std::sync::Arc;
use std::time::Duration;

use slipway_access::api::{ApiError, Client};

use crate::access::Access;
use crate::balancer::Balancer;
use crate::board::{Board, Facts};
use crate::error::{Context, Error};
use crate::identity::Identity;
use crate::log::info;
use crate::options::Config;
use crate::{addons, images, signer};

/// First and longest pause before something that failed is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// Between two looks whether a server's API answers an agent.
const SERVERS_INTERVAL: Duration = Duration::from_secs(10);

/// Starts a thread with copies of what most of them need.
pub fn spawn(
    name: &str,
    config: &Config,
    board: &Arc<Board>,
    work: impl FnOnce(&Config, &Arc<Board>) + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, Error> {
    let (config, board) = (config.clone(), Arc::clone(board));
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || work(&config, &board))
        .context(|| format!("start the thread {name}"))
}

/// Begins what goes on beside a server's components: readiness, images, add-ons, agents' certificates.
pub fn begin_server_work(
    config: &Config,
    identity: &Identity,
    access: &Arc<Access>,
    board: &Arc<Board>,
) -> Result<(), Error> {
    let for_readiness = Arc::clone(access);
    spawn("readiness", config, board, move |_, board| {
        follow_readiness(&for_readiness, board)
    })?;
    let for_addons = Arc::clone(access);
    spawn("add-ons", config, board, move |config, board| {
        // They take the processor from the API server if they begin before it serves.
        if !board.wait(Facts::api_serves) {
            return;
        }
        // The images first: a pod whose image isn't there yet waits ten seconds and more
        // for its next attempt.
        if !config.control_plane_only {
            insist(board, "images", || images::import(config));
        }
        insist(board, "add-ons", || {
            let client = for_addons.client()?;
            addons::apply_own(config, &client)?;
            addons::apply(config, &client)
        });
        board.update(|facts| facts.addons_applied = true);
    })?;
    if let Some(ca) = identity.cluster_ca().cloned() {
        let for_agents = Arc::clone(access);
        spawn("signer", config, board, move |config, board| {
            // Agents have no rights before.
            if board.wait(|facts| facts.addons_applied) {
                signer::follow(config, &ca, &for_agents, board);
            }
        })?;
    }
    Ok(())
}

/// Begins what goes on beside an agent's components: readiness, images, where the servers are.
pub fn begin_agent_work(
    config: &Config,
    balancer: Arc<Balancer>,
    access: &Arc<Access>,
    board: &Arc<Board>,
) -> Result<(), Error> {
    let for_readiness = Arc::clone(access);
    spawn("readiness", config, board, move |_, board| {
        follow_servers(&for_readiness, board)
    })?;
    let for_balancer = Arc::clone(access);
    spawn("servers", config, board, move |config, board| {
        balancer.learn(config, &for_balancer, board)
    })?;
    if !config.control_plane_only {
        // Those of the add-ons, whose pods may come here.
        spawn("images", config, board, |config, board| {
            insist(board, "images", || images::import(config));
        })?;
    }
    Ok(())
}

/// Tries until it works or everything ends, and keeps the reason on the board meanwhile.
fn insist(board: &Board, what: &'static str, work: impl Fn() -> Result<usize, Error>) {
    let mut pause = PAUSE.0;
    let mut said = String::new();
    loop {
        let done = work();
        board.note(what, &done);
        match done {
            Ok(count) => {
                info!("{what}: {count} new");
                return;
            }
            Err(error) => {
                let text = error.to_string();
                if text != said {
                    info!("{what}: {text}; trying again");
                    said = text;
                }
            }
        }
        if !board.pause(pause) {
            return;
        }
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Follows how far the API has come: its roles, then `/readyz` with everything behind it.
fn follow_readiness(access: &Access, board: &Board) {
    // One connection for all questions: each new one costs both sides a handshake while
    // the API server is at its busiest.
    let mut kept = None;
    while board.wait(|facts| facts.api_serves() && !facts.api_ready) {
        let roles_in_force = board.facts().roles_in_force;
        let asked = match kept.take() {
            Some(client) => Ok(client),
            None => access.client(),
        }
        .and_then(|client| {
            let answer = if roles_in_force {
                client
                    .get_text("/readyz", Duration::from_secs(10))
                    .map(|_| true)
            } else {
                roles_hold(&client)
            };
            // After an error anew, since certificates may be others by then.
            kept = answer.is_ok().then_some(client);
            answer
        });
        match asked {
            Ok(true) if roles_in_force => board.update(|facts| facts.api_ready = true),
            Ok(true) => board.update(|facts| facts.roles_in_force = true),
            Ok(false) | Err(_) => {
                if !board.pause(Duration::from_millis(250)) {
                    return;
                }
            }
        }
    }
}

/// Follows whether a server's API answers this agent.
fn follow_servers(access: &Access, board: &Board) {
    let mut failures = 0;
    let mut kept = None;
    loop {
        let asked = match kept.take() {
            Some(client) => Ok(client),
            None => access.client(),
        }
        .and_then(|client| {
            client.get_text("/readyz", Duration::from_secs(10))?;
            Ok(client)
        });
        let pause = match asked {
            Ok(client) => {
                kept = Some(client);
                failures = 0;
                board.update(|facts| {
                    facts.trouble.remove("servers");
                    facts.api_reached = true;
                    facts.roles_in_force = true;
                    facts.api_ready = true;
                });
                SERVERS_INTERVAL
            }
            Err(error) => {
                failures += 1;
                board.update(|facts| {
                    facts.trouble.insert("servers", error.to_string());
                    // One lost answer is nothing yet.
                    if failures >= 3 {
                        facts.api_reached = false;
                    }
                });
                PAUSE.1.min(PAUSE.0 * failures * 4)
            }
        };
        if !board.pause(pause) {
            return;
        }
    }
}

/// Asks the API's authorizer about one of the last roles to be bound at a first start.
fn roles_hold(client: &Client) -> Result<bool, ApiError> {
    let review = serde_json::json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": "system:kube-scheduler",
            "groups": ["system:authenticated"],
            "resourceAttributes": {
                "verb": "list", "group": "storage.k8s.io", "resource": "volumeattachments",
            },
        }
    });
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let answer = client.create(path, &review)?;
    Ok(answer["status"]["allowed"] == true)
}
