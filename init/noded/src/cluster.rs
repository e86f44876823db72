//! The cluster's kubeconfig.

use std::io::ErrorKind;

use hyper::StatusCode;

use crate::answer::{Outcome, Refusal, whole};
use crate::audit;
use crate::routes::Call;

/// `GET /v1/kubeconfig`
pub async fn kubeconfig(call: Call) -> Outcome {
    let path = call.app.paths.kubeconfig();
    match std::fs::read(&path) {
        Ok(text) => {
            audit::note(&call, "took the administrator's kubeconfig");
            Ok(whole(StatusCode::OK, "application/yaml", text))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "there is no kubeconfig on this node: its cluster has not started, or it is an agent",
        )),
        Err(error) => Err(Refusal::failed(format!("{}: {error}", path.display()))),
    }
}
