//! The seed: shown, compared, applied.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::StatusCode;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use slipway_access::durable;
use slipway_images::node::api::{SeedDiff, SeedInForce};
use slipway_images::seed::{Applied, Documents, Seed, diff as differences, effect_of, outside};
use slipway_init::phase::{Context as _, Failure};
use slipway_init::pid1::SEED_CHANGED;
use slipway_init::{instance, registries, ssh};

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
    let stored = move || {
        store(&app, files, identity.as_ref())?;
        follow(&app, &seed).map_err(|why| {
            Refusal::failed(format!(
                "the seed is stored and counts from the next boot on, but not all that is live was followed: {why}"
            ))
        })
    };
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

/// Follows what a running node can follow: the seed in force takes it over, and `init` opens
/// or closes ssh by it and sets the clock.
fn follow(app: &App, seed: &Seed) -> Result<(), String> {
    // One after the other: each takes away what the last one brought.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let paths = &app.paths;
    let before = read_seed(paths).unwrap_or_default();
    let mut now = before.clone();
    now.take_live(seed);
    if now == before {
        return Ok(());
    }
    let in_force = now.to_json().map_err(|error| error.to_string())?;
    // All of it is tried: a registry's fault must not keep a key in force.
    let done = [
        durable::write(paths.seed(), in_force.as_bytes(), 0o600).map_err(Failure::from),
        registries::write(paths.root(), &before.registries, &now.registries),
        // Before their keys, which lie in their homes.
        instance::follow(paths.root(), &before, &now),
        ssh::write_keys(paths.root(), &now),
        kill(Pid::from_raw(app.tuning.init), SEED_CHANGED).context("asking init"),
    ];
    Failure::all(done.into_iter().filter_map(Result::err)).map_err(|all| all.0)
}
