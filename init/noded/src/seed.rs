//! The seed: shown, compared, applied.

use std::sync::Arc;

use hyper::StatusCode;
use slipway_access::durable;
use slipway_images::node::api::{SeedDiff, SeedInForce};
use slipway_images::seed::{Applied, Documents, Seed, diff as differences, effect_of, outside};

use crate::answer::{Outcome, Refusal, json};
use crate::identity::{Identity, read_seed};
use crate::paths::{Paths, make_private};
use crate::routes::Call;
use crate::server::App;
use crate::{audit, tls};

/// `GET /v1/seed`
pub async fn show(call: Call) -> Outcome {
    let paths = &call.app.paths;
    let seed = read_seed(paths)
        .map(|seed| seed.to_redacted_json())
        .transpose()
        .map_err(|error| Refusal::failed(error.to_string()))?;
    json(&SeedInForce {
        seed,
        applied: applied(paths)?.is_some(),
    })
}

/// `POST /v1/seed/diff`
pub async fn diff(mut call: Call) -> Outcome {
    let files: Documents = call.json().await?;
    json(&compare(&call.app.paths, &files)?.0)
}

/// `PUT /v1/seed`
pub async fn apply(mut call: Call) -> Outcome {
    let files: Documents = call.json().await?;
    let (diff, seed) = compare(&call.app.paths, &files)?;
    // Checked before anything is stored: whoever applies a seed wants to come back.
    let identity = match &seed.node_api {
        Some(api) => Some(usable(api)?),
        None => None,
    };
    let app = Arc::clone(&call.app);
    let stored = move || store(&app, files, identity.as_ref());
    call.app.blocking(stored).await??;
    let keys: Vec<&str> = diff.changes.iter().map(|c| c.key.as_str()).collect();
    audit::note(&call, &format!("applied a seed ({})", keys.join(", ")));
    json(&diff)
}

/// `DELETE /v1/seed`
pub async fn forget(call: Call) -> Outcome {
    match std::fs::remove_file(call.app.paths.applied()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Refusal::failed(format!(
                "forgetting the applied seed: {error}"
            )));
        }
        _ => {}
    }
    audit::note(&call, "forgot the applied seed");
    json(&serde_json::json!({}))
}

/// Checks a seed and compares it with the one in force.
fn compare(paths: &Paths, files: &Documents) -> Result<(SeedDiff, Seed), Refusal> {
    let refused = |error: &dyn std::fmt::Display| {
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
    };
    let parsed = files.check().map_err(|error| refused(&error))?;
    let before = read_seed(paths).unwrap_or_default();
    let changes = differences(&before, &parsed.seed);
    let diff = SeedDiff {
        effect: effect_of(&changes),
        changes,
        warnings: parsed.warnings.iter().map(ToString::to_string).collect(),
    };
    Ok((diff, parsed.seed))
}

/// The identity, if connections can be made with it.
fn usable(api: &slipway_images::seed::NodeApi) -> Result<Identity, Refusal> {
    let refused = |why: String| {
        Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("slipway.node-api can't be used: {why}"),
        )
    };
    let identity = Identity::of(api).map_err(|error| refused(error.to_string()))?;
    tls::config(&identity, identity.valid_from).map_err(|error| refused(error.to_string()))?;
    Ok(identity)
}

fn applied(paths: &Paths) -> Result<Option<Applied>, Refusal> {
    let outside = outside(paths.root()).map_err(Refusal::failed)?;
    Applied::over(paths.root(), &outside).map_err(Refusal::failed)
}

fn store(app: &App, files: Documents, identity: Option<&Identity>) -> Result<(), Refusal> {
    let path = app.paths.applied();
    let failed = |error: std::io::Error| {
        Refusal::failed(format!("storing the seed: {error}; nothing has changed"))
    };
    let applied = Applied {
        over: outside(app.paths.root()).map_err(Refusal::failed)?,
        files,
    };
    if let Some(directory) = path.parent() {
        make_private(directory).map_err(failed)?;
    }
    let text = serde_json::to_vec(&applied).map_err(|error| failed(error.into()))?;
    durable::write(&path, &text, 0o600).map_err(failed)?;
    if let Some(identity) = identity {
        identity.keep(&app.paths);
        app.take_identity(identity)
            .map_err(|error| Refusal::failed(error.to_string()))?;
    }
    Ok(())
}
