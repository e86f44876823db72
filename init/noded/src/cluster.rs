//! What the cluster's owner needs: its kubeconfig, and the token that agents join with.

use std::io::ErrorKind;
use std::path::Path;

use hyper::StatusCode;

use crate::answer::{Outcome, Refusal, whole};
use crate::audit;
use crate::routes::Call;

/// `GET /v1/kubeconfig`
pub async fn kubeconfig(call: Call) -> Outcome {
    let path = call.app.paths.kubeconfig();
    secret(
        &call,
        &path,
        "application/yaml",
        "the administrator's kubeconfig",
    )
}

/// `GET /v1/agent-token`
pub async fn agent_token(call: Call) -> Outcome {
    let path = call.app.paths.agent_token();
    secret(&call, &path, "text/plain", "the agents' token")
}

/// A file of a server's, and a line about it in the log.
fn secret(call: &Call, path: &Path, kind: &'static str, what: &str) -> Outcome {
    match std::fs::read(path) {
        Ok(text) => {
            audit::note(call, &format!("took {what}"));
            Ok(whole(StatusCode::OK, kind, text))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            format!("{what} isn't on this node: its cluster has not started, or it is an agent"),
        )),
        Err(error) => Err(Refusal::failed(format!("{}: {error}", path.display()))),
    }
}
