//! What is told to the outside: `status.json`, and lines to the service manager.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use slipway_access::durable;

use crate::board::{Board, Facts, Line, State};
use crate::component::Name;
use crate::log::info;
use crate::notify::Notify;
use crate::options::Config;

/// `status.json`.
#[derive(Debug, Serialize)]
struct Status<'a> {
    /// `starting`, `ready`, `degraded` or `stopping`.
    phase: Phase,
    message: String,
    node: &'a str,
    api_ready: bool,
    /// Always false for a control plane without a node.
    node_ready: bool,
    addons_applied: bool,
    components: &'a std::collections::BTreeMap<Name, Line>,
}

/// The whole in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Phase {
    Starting,
    Ready,
    Degraded,
    Stopping,
}

/// Tells every change, on a thread of its own, until every component is stopped.
pub fn tell(config: &Config, board: Arc<Board>, notify: Notify) {
    let path = config.paths.status();
    let mut last: Option<Facts> = None;
    let mut message = String::new();
    let mut was_ready = false;
    loop {
        let facts = board.facts();
        let (phase, text) = summary(config, &facts, was_ready);
        if text != message {
            info!("{text}");
            notify.send(&format!("STATUS={text}"));
            message = text;
        }
        if phase == Phase::Ready && !was_ready {
            notify.send("READY=1");
            was_ready = true;
        }
        let status = Status {
            phase,
            message: message.clone(),
            node: &config.node_name,
            api_ready: facts.api_ready,
            node_ready: facts.node_ready,
            addons_applied: facts.addons_applied,
            components: &facts.components,
        };
        let written = serde_json::to_vec_pretty(&status)
            .map_err(std::io::Error::from)
            .and_then(|json| durable::write(&path, &json, 0o644));
        if let Err(error) = written {
            info!("can't write {}: {error}", path.display());
        }
        let stopped = |line: &Line| line.state == State::Stopped;
        if facts.stopping && facts.components.values().all(stopped) {
            return;
        }
        last.replace(facts);
        while !board.wait_for(Duration::from_secs(3600), |facts| {
            Some(facts) != last.as_ref()
        }) {}
    }
}

/// The phase, and the line for the console.
fn summary(config: &Config, facts: &Facts, was_ready: bool) -> (Phase, String) {
    if facts.stopping {
        return (Phase::Stopping, "stopping".to_owned());
    }
    let trouble = facts
        .trouble
        .iter()
        .next()
        .map(|(what, why)| format!("{what}: {why}"));
    let restarting = facts.components.iter().find_map(|(name, line)| {
        let reason = line.last_exit.as_ref()?;
        (line.state != State::Up).then(|| format!("{name} ended: {reason}"))
    });
    let waiting = if !facts.api_ready {
        Some("api")
    } else if !config.control_plane_only && !facts.node_ready {
        Some("node")
    } else {
        None
    };
    let (phase, mut text) = match waiting {
        Some(what) if was_ready => (Phase::Degraded, format!("degraded: {what} not ready")),
        Some("api") if facts.node_ready => {
            (Phase::Starting, "starting: api, node Ready".to_owned())
        }
        Some(what) => (Phase::Starting, format!("starting: {what}")),
        None => {
            let phase = if restarting.is_some() {
                Phase::Degraded
            } else {
                Phase::Ready
            };
            let text = if config.control_plane_only {
                "ready: api".to_owned()
            } else {
                format!("ready: node {}, {} pods", config.node_name, facts.pods)
            };
            (phase, text)
        }
    };
    if let Some(why) = restarting.or(trouble) {
        text.push_str(" (");
        text.push_str(&why);
        text.push(')');
    }
    // One line, whatever a component said.
    (phase, text.replace(['\n', '\r'], " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::tests::config;

    #[test]
    fn the_line_on_the_console() {
        let config = config(false);
        let board = Board::new(Name::of(&config));
        let text = |was_ready| summary(&config, &board.facts(), was_ready).1;
        assert_eq!(text(false), "starting: api");
        board.set(Name::ApiServer, |line| line.state = State::Up);
        board.update(|facts| facts.api_ready = true);
        assert_eq!(text(false), "starting: node");
        board.update(|facts| {
            facts.node_ready = true;
            facts.pods = 2;
        });
        assert_eq!(text(false), "ready: node node1, 2 pods");
        board.set(Name::Scheduler, |line| {
            line.state = State::Waiting;
            line.last_exit = Some("exit status 1:\nE bad".into());
        });
        assert_eq!(
            text(true),
            "ready: node node1, 2 pods (kube-scheduler ended: exit status 1: E bad)"
        );
        board.set(Name::ApiServer, |line| line.state = State::Waiting);
        assert!(
            text(true).starts_with("degraded: api not ready"),
            "{}",
            text(true)
        );
        board.update(|facts| facts.stopping = true);
        assert_eq!(text(true), "stopping");
    }
}
