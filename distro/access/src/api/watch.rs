//! Waiting for a condition by watching, with a deadline.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::http::Method;

use super::apply::condition;
use super::{ApiError, Client, error};

/// Pause before the next attempt when the server isn't there: there is nothing to wait on then.
const RETRY: Duration = Duration::from_millis(100);
/// Largest single event of a watch, in bytes.
const EVENT_LIMIT: u64 = 16 << 20;

impl Client {
    /// Waits until `holds` for the object at `path` (`None`: there is no such object), and
    /// returns what was seen then. Failures that may pass (no server yet, starting,
    /// overloaded) are waited out; `what` names the condition in the error.
    ///
    /// # Errors
    /// [`ApiError::Deadline`], or at once any error that waiting can't mend.
    pub fn wait(
        &self,
        path: &str,
        what: &str,
        within: Duration,
        mut holds: impl FnMut(Option<&Value>) -> bool,
    ) -> Result<Option<Value>, ApiError> {
        let started = Instant::now();
        let (collection, name) = path.rsplit_once('/').ok_or_else(|| ApiError::Setup {
            reason: format!("{path} is no object's path"),
        })?;
        let mut last;
        loop {
            match self.find(path) {
                Ok(object) => {
                    if holds(object.as_ref()) {
                        return Ok(object);
                    }
                    last = summary(object.as_ref());
                    let version = object
                        .as_ref()
                        .and_then(|object| object["metadata"]["resourceVersion"].as_str());
                    let left = within.saturating_sub(started.elapsed());
                    if !left.is_zero() {
                        let seconds = left.as_secs().max(1);
                        let mut watch = format!(
                            "{collection}?watch=1&fieldSelector=metadata.name%3D{name}\
                             &timeoutSeconds={seconds}"
                        );
                        if let Some(version) = version {
                            watch.push_str("&resourceVersion=");
                            watch.push_str(version);
                        }
                        match self.watch(&watch, left, &mut |object| {
                            last = summary(object);
                            holds(object)
                        }) {
                            Ok(Some(seen)) => return Ok(seen),
                            Ok(None) => {}
                            Err(error) if error.is_transient() || error.code() == Some(410) => {
                                last = error.to_string();
                            }
                            Err(error) => return Err(error),
                        }
                    }
                }
                Err(error) if error.is_transient() => last = error.to_string(),
                Err(error) => return Err(error),
            }
            if started.elapsed() >= within {
                return Err(ApiError::Deadline {
                    what: what.to_owned(),
                    waited: within,
                    last,
                });
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Waits for a status condition such as `Ready` or `Available` to be `True`.
    ///
    /// # Errors
    /// As [`Client::wait`].
    pub fn wait_condition(
        &self,
        path: &str,
        kind: &str,
        within: Duration,
    ) -> Result<Value, ApiError> {
        let what = format!("{path} {kind}");
        let seen = self.wait(path, &what, within, |object| {
            object.is_some_and(|object| condition(object, kind))
        })?;
        Ok(seen.unwrap_or_default())
    }

    /// Reads events until one satisfies `holds` (`Some`) or the watch ends (`None`).
    #[expect(
        clippy::option_option,
        reason = "ended, object gone, object: three different things"
    )]
    fn watch(
        &self,
        path: &str,
        left: Duration,
        holds: &mut dyn FnMut(Option<&Value>) -> bool,
    ) -> Result<Option<Option<Value>>, ApiError> {
        let (response, call) = self.send(&Method::GET, path, None, left)?;
        let status = response.status();
        if !status.is_success() {
            return super::read_text(response, &call).map(|_| None);
        }
        let mut events = BufReader::new(response.into_body().into_reader());
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = std::io::Read::take(&mut events, EVENT_LIMIT).read_until(b'\n', &mut line);
            match read {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                // The deadline, or the server went away: the caller looks again and decides.
                Err(_) => return Ok(None),
            }
            let mut event: Value =
                serde_json::from_slice(&line).map_err(|error| ApiError::Corrupt {
                    call: call.clone(),
                    reason: error.to_string(),
                })?;
            let object = event["object"].take();
            match event["type"].as_str() {
                Some("ADDED" | "MODIFIED") if holds(Some(&object)) => {
                    return Ok(Some(Some(object)));
                }
                Some("DELETED") if holds(None) => return Ok(Some(None)),
                Some("ERROR") => {
                    let code = object["code"]
                        .as_u64()
                        .and_then(|code| u16::try_from(code).ok());
                    let code = code.and_then(|code| ureq::http::StatusCode::from_u16(code).ok());
                    let code = code.unwrap_or(ureq::http::StatusCode::GONE);
                    return Err(error::from_answer(&call, code, &object.to_string()));
                }
                _ => {}
            }
        }
    }
}

/// An object's state in one line, for the error of a wait that didn't end well.
fn summary(object: Option<&Value>) -> String {
    let Some(object) = object else {
        return "no such object".to_owned();
    };
    if let Some(conditions) = object["status"]["conditions"].as_array() {
        let text: Vec<String> = conditions
            .iter()
            .map(|condition| {
                let field = |name: &str| condition[name].as_str().unwrap_or("?").to_owned();
                format!("{}={} {}", field("type"), field("status"), field("reason"))
            })
            .collect();
        return text.join(", ");
    }
    match object["status"]["phase"].as_str() {
        Some(phase) => phase.to_owned(),
        None => "present".to_owned(),
    }
}
