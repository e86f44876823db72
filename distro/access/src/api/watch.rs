//! Waiting for a condition by watching, with a deadline.

use std::collections::BTreeMap;
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

    /// Follows the objects of a collection, by name: `seen` gets all of them at first and after
    /// each change, and says whether to go on. Returns when it doesn't, when the server ends the
    /// watch, or after `within`; what the caller does next is to call it again.
    ///
    /// `query` selects, as `fieldSelector=...`; it may be empty.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn follow(
        &self,
        collection: &str,
        query: &str,
        within: Duration,
        mut seen: impl FnMut(&BTreeMap<String, Value>) -> bool,
    ) -> Result<(), ApiError> {
        let list = self.get(&format!("{collection}?{query}"))?;
        let name = |object: &Value| object["metadata"]["name"].as_str().map(str::to_owned);
        let items = list["items"].as_array().into_iter().flatten();
        let mut objects: BTreeMap<String, Value> = items
            .filter_map(|object| Some((name(object)?, object.clone())))
            .collect();
        if !seen(&objects) {
            return Ok(());
        }
        let version = list["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default();
        let seconds = within.as_secs().max(1);
        let watch = format!(
            "{collection}?{query}&watch=1&resourceVersion={version}&timeoutSeconds={seconds}"
        );
        let ended = self.events(&watch, within, &mut |event| {
            let Some(name) = name(event.object) else {
                return false;
            };
            if event.deleted {
                objects.remove(&name);
            } else {
                objects.insert(name, event.object.clone());
            }
            !seen(&objects)
        });
        match ended {
            // Too old to go on from: the next list is as good.
            Err(error) if error.code() == Some(410) => Ok(()),
            other => other.map(drop),
        }
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
        let mut last = None;
        let ended = self.events(path, left, &mut |event| {
            let object = (!event.deleted).then_some(event.object);
            let found = holds(object);
            if found {
                last = Some(object.cloned());
            }
            found
        })?;
        Ok(last.filter(|_| ended))
    }

    /// Reads the events of a watch until one is `enough`; whether there was one.
    fn events(
        &self,
        path: &str,
        left: Duration,
        enough: &mut dyn FnMut(&Event<'_>) -> bool,
    ) -> Result<bool, ApiError> {
        let (response, call) = self.send(&Method::GET, path, None, left)?;
        let status = response.status();
        if !status.is_success() {
            return super::read_text(response, &call).map(|_| false);
        }
        let mut events = BufReader::new(response.into_body().into_reader());
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = std::io::Read::take(&mut events, EVENT_LIMIT).read_until(b'\n', &mut line);
            match read {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                // The deadline, or the server went away: the caller looks again and decides.
                Err(_) => return Ok(false),
            }
            let event: Value =
                serde_json::from_slice(&line).map_err(|error| ApiError::Corrupt {
                    call: call.clone(),
                    reason: error.to_string(),
                })?;
            let object = &event["object"];
            let kind = event["type"].as_str();
            let deleted = kind == Some("DELETED");
            match kind {
                Some("ADDED" | "MODIFIED" | "DELETED") if enough(&Event { deleted, object }) => {
                    return Ok(true);
                }
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

/// What a watch tells of one object.
struct Event<'a> {
    /// It is gone; [`Event::object`] is its last state.
    deleted: bool,
    object: &'a Value,
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
