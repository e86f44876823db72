//! `GET /v1/events`.

use serde::Deserialize;

use crate::answer::Outcome;
use crate::logs::{flow, wish};
use crate::routes::Call;

/// `GET /v1/events`
pub async fn read(call: Call) -> Outcome {
    let wish = wish(&call)?;
    let path = call.app.paths.events();
    flow(&call, path, stamp, "application/jsonl", wish)
}

/// When an event happened, in seconds since 1970.
fn stamp(line: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Time {
        time: u64,
    }
    let event: Time = serde_json::from_slice(line).ok()?;
    Some(event.time / 1000)
}
